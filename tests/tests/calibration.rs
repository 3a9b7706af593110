//! The clock against published measurements: each row of each table is written as a program, simulated on the target's figures, and compared.
//!
//! No figure is chosen for a row. The error of every row is printed (`--nocapture` shows it); the bounds are those that the timing model promises. Tables of
//! the same names under `../shared/calibration` are run as well, so that further rows can be tried without a change here.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::collectives::bucket::{self, Collective};
use girih_compiler::collectives::{self, exchange, line, trees};
use girih_ir::program::{Instr, Program, Queue};
use girih_ir::target::{Coord, Target};
use girih_runtime::simulate::simulate;
use girih_tests::calibration::{self, convolution, grid_gemm, mesh_gemm, pooling};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

type Row = BTreeMap<String, f64>;

/// The rows of a table here and beside the repository, each once.
fn table(name: &str) -> Vec<Row> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/calibration").join(name);
    let mut rows = calibration::rows(&std::fs::read_to_string(&here).unwrap());
    assert!(!rows.is_empty(), "{name} has no rows");
    if let Some(more) = girih_tests::shared("calibration").and_then(|d| std::fs::read_to_string(d.join(name)).ok()) {
        rows.extend(calibration::rows(&more).into_iter().filter(|r| !rows.contains(r)).collect::<Vec<_>>());
    }
    rows
}

fn cycles(program: &Program) -> f64 {
    simulate(program).unwrap().report.makespan * program.target.clock_hz()
}

/// Prints a row and returns its relative error.
fn compare(what: &str, row: &Row, measured: f64, simulated: f64) -> f64 {
    let error = simulated / measured - 1.0;
    let inputs: Vec<String> = row.iter().map(|(k, v)| format!("{k}={v}")).collect();
    println!("{what:<12} measured {measured:>12.0}  simulated {simulated:>12.0}  {:>+6.1} %   {}", 100.0 * error, inputs.join(" "));
    error.abs()
}

/// Prints and returns the median and the largest error.
fn summary(what: &str, mut errors: Vec<f64>) -> (f64, f64) {
    errors.sort_by(f64::total_cmp);
    let (median, most) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!("{what}: {} rows, median {:.2} %, largest {:.2} %", errors.len(), 100.0 * median, 100.0 * most);
    (median, most)
}

#[test]
fn wse2_reductions_are_within_three_percent() {
    let wafer = Target::builtin("wse2").unwrap();
    let mut errors = Vec::new();
    for row in table("wse2_reduce_512pe_4096w.csv") {
        let (group, measured) = (row["step"] as usize, row["cycles"]);
        let words = row.get("words").map_or(4096, |w| *w as usize);
        let program = line::reduce(&wafer, 512, words, group).unwrap();
        assert_eq!(collectives::dependency_cycle(program.channels.iter().map(|c| c.route.as_slice())), None);
        let simulated = cycles(&program);
        errors.push(compare("wse2 reduce", &row, measured, simulated));
        // The closed form that the selector uses sees the same.
        let closed = line::seconds(&wafer, 512, words, group).unwrap() * wafer.clock_hz();
        assert!((closed / simulated - 1.0).abs() < 0.03, "step {group}: closed form {closed}, simulated {simulated}");
    }
    assert!(summary("wse2 reduce", errors).1 <= 0.03);
}

#[test]
fn wse3_mesh_gemm_is_within_ten_percent() {
    let wafer = Target::builtin("wse3").unwrap();
    let mut errors = Vec::new();
    for row in table("wse3_meshgemm_cycles.csv") {
        let get = |name: &str| row[name] as usize;
        let program = mesh_gemm(&wafer, get("P"), (get("M"), get("K"), get("N")), get("L_compute_loops"), get("C_comm_loops"));
        let simulation = simulate(&program).unwrap();
        // The table has the mean over the cores.
        let times = simulation.finish_times();
        let mean = times.iter().sum::<f64>() / times.len() as f64 * wafer.clock_hz();
        errors.push(compare("wse3 gemm", &row, row["mean_cycle"], mean));
    }
    assert!(summary("wse3 gemm", errors).1 <= 0.10);
}

#[test]
fn ipu_convolutions_and_pooling_are_within_ten_percent_at_the_median() {
    let ipu = Target::builtin("ipu-mk2").unwrap();
    let (mut convolutions, mut poolings) = (Vec::new(), Vec::new());
    for row in table("ipu_mk2_conv_cycles.csv") {
        let get = |name: &str| row[name] as usize;
        let simulated = cycles(&convolution(&ipu, get("B"), get("Cin"), get("Cout"), get("HW"), get("KhKw")));
        convolutions.push(compare("ipu conv", &row, row["cycles"], simulated));
    }
    for row in table("ipu_mk2_pool_cycles.csv") {
        let simulated = cycles(&pooling(&ipu, row["C"] as usize, row["HW"] as usize, row["KhKw"] as usize));
        poolings.push(compare("ipu pool", &row, row["cycles"], simulated));
    }
    assert!(summary("ipu conv", convolutions).0 <= 0.10);
    assert!(summary("ipu pool", poolings).0 <= 0.10);
}

#[test]
fn n150_products_are_within_fifteen_percent_at_the_median() {
    let n150 = Target::builtin("wormhole-n150").unwrap();
    let mut errors = Vec::new();
    for row in table("tenstorrent_gemm_n150_hifi4.csv") {
        let shape = (row["m"] as usize, row["k"] as usize, row["n"] as usize);
        // From the report: up to 3072 the left matrix and the result stay in the cores.
        let large = shape.0.max(shape.1).max(shape.2) > 3072;
        let simulated = cycles(&grid_gemm(&n150, shape, large)) / n150.clock_hz() * 1e9;
        errors.push(compare("n150 gemm", &row, row["ns"], simulated));
    }
    assert!(summary("n150 gemm", errors).0 <= 0.15);
}

/// A die of [`sums_everything`]: what its parts of the vector contain, by offset, its place in the stream, and its queues.
#[derive(Default)]
struct Follower {
    held: BTreeMap<u64, u64>,
    at: usize,
    queues: BTreeMap<Queue, (VecDeque<usize>, u32)>,
}

/// Follows the streams and their queues with sets of dies instead of numbers: every die must end with the contribution of every die, each exactly once.
fn sums_everything(program: &Program) {
    let all = (1u64 << program.dies.len()) - 1;
    for (d, held) in follow(program, |d, _| 1 << d).into_iter().enumerate() {
        assert!(held.values().all(|set| *set == all), "die {d} lacks a contribution");
    }
}

/// Follows the streams from what `begin` says of a die and an offset, and returns what each die holds at the end, by offset. No contribution may be
/// added twice.
fn follow(program: &Program, begin: impl Fn(usize, u64) -> u64) -> Vec<BTreeMap<u64, u64>> {
    let mut dies: Vec<Follower> = program.dies.iter().map(|_| Follower::default()).collect();
    let mut flying: BTreeMap<usize, VecDeque<(u64, u64)>> = BTreeMap::new();
    let side = |link| program.target.mesh.link_start(link).1;
    loop {
        let mut moved = false;
        for (d, die) in dies.iter_mut().enumerate() {
            let code = &program.dies[d];
            let stream = &program.streams[code.stream.index()];
            // The stream goes on until it waits; what it issues goes into the queues.
            while let Some(instr) = stream.get(die.at) {
                match instr {
                    Instr::Wait { queue, count } if die.queues.get(queue).is_none_or(|q| q.1 < *count) => break,
                    Instr::Send { port, .. } => {
                        let first = program.channels[code.out_ports[port.index()].index()].route[0];
                        die.queues.entry(Queue::Out(side(first))).or_default().0.push_back(die.at);
                    }
                    Instr::Recv { port, .. } | Instr::RecvAdd { port, .. } => {
                        let last = *program.channels[code.in_ports[port.index()].index()].route.last().unwrap();
                        die.queues.entry(Queue::In(side(last).opposite())).or_default().0.push_back(die.at);
                    }
                    _ => {}
                }
                (die.at, moved) = (die.at + 1, true);
            }
            for (entries, done) in die.queues.values_mut() {
                while let Some(entry) = entries.front() {
                    match &stream[*entry] {
                        Instr::Send { port, region } => {
                            let channel = code.out_ports[port.index()].index();
                            let queue = flying.entry(channel).or_default();
                            if queue.len() as u32 >= program.channels[channel].depth {
                                break;
                            }
                            queue.push_back((region.offset, *die.held.entry(region.offset).or_insert_with(|| begin(d, region.offset))));
                        }
                        Instr::Recv { port, out } | Instr::RecvAdd { port, out, .. } => {
                            let Some((offset, set)) = flying.entry(code.in_ports[port.index()].index()).or_default().pop_front() else {
                                break;
                            };
                            assert_eq!(offset, out.offset, "messages of a channel come in order");
                            let own = die.held.entry(offset).or_insert_with(|| begin(d, offset));
                            if matches!(stream[*entry], Instr::Recv { .. }) {
                                *own = set;
                            } else {
                                assert_eq!(*own & set, 0, "a contribution is added twice");
                                *own |= set;
                            }
                        }
                        other => panic!("{other:?} is in no queue"),
                    }
                    entries.pop_front();
                    (*done, moved) = (*done + 1, true);
                }
            }
        }
        if !moved {
            break;
        }
    }
    for (d, die) in dies.iter().enumerate() {
        assert_eq!(die.at, program.streams[program.dies[d].stream.index()].len(), "the stream of die {d} is stuck");
        assert!(die.queues.values().all(|q| q.0.is_empty()), "a queue of die {d} is stuck");
    }
    assert!(flying.values().all(VecDeque::is_empty), "a message is left over");
    dies.into_iter().map(|d| d.held).collect()
}

/// Simulated over the lower bound.
fn all_reduce(target: &Target, bytes: usize) -> f64 {
    let forests = trees::packings(target, 8);
    let (program, chosen) = exchange::program(target, &forests, bytes / 4).unwrap();
    let forest = &forests[chosen];
    sums_everything(&program);
    assert_eq!(collectives::dependency_cycle(program.channels.iter().map(|c| c.route.as_slice())), None);
    let report = simulate(&program).unwrap().report;
    let ratio = report.makespan / collectives::lower_bound(target, bytes as f64);
    let (trees, dies) = (forest.trees.len(), forest.dies.len());
    println!("all-reduce of {bytes} bytes, {dies} dies, {trees} trees: {:.2} µs, {ratio:.3} of the bound", report.makespan * 1e6);
    assert!(ratio >= 1.0, "nothing beats the bound");
    ratio
}

#[test]
fn all_reduce_comes_near_the_lower_bound() {
    let tile = Target::builtin("dojo-tile").unwrap();
    assert!(all_reduce(&tile, 256_000_000) <= 1.05);
    for dead in [Coord::new(2, 2), Coord::new(1, 3), Coord::new(0, 2), Coord::new(0, 0)] {
        assert!(all_reduce(&tile.clone().with_dead([dead]).unwrap(), 256_000_000) <= 1.10, "{dead}");
    }
}

/// Simulated seconds of a bucket over a vector of so many bytes, after its streams were followed.
fn bucket(target: &Target, collective: Collective, bytes: usize) -> f64 {
    let program = bucket::program(target, collective, bytes / 4).unwrap();
    let all = (1u64 << program.dies.len()) - 1;
    // What a reduce-scatter leaves complete is where an all-gather begins: each part on exactly one die.
    let scattered = follow(&bucket::program(target, Collective::ReduceScatter, bytes / 4).unwrap(), |d, _| 1 << d);
    let mut owners: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (d, held) in scattered.iter().enumerate() {
        held.iter().filter(|(_, set)| **set == all).for_each(|(offset, _)| owners.entry(*offset).or_default().push(d));
    }
    assert!(owners.values().all(|dies| dies.len() == 1) && owners.len() == 4 * program.dies.len());
    match collective {
        Collective::ReduceScatter => {}
        Collective::AllReduce => sums_everything(&program),
        Collective::AllGather => {
            let ends = follow(&program, |d, offset| if owners[&offset] == [d] { all } else { 0 });
            assert!(ends.iter().all(|held| held.len() == owners.len() && held.values().all(|set| *set == all)));
        }
    }
    assert_eq!(collectives::dependency_cycle(program.channels.iter().map(|c| c.route.as_slice())), None);
    let seconds = simulate(&program).unwrap().report.makespan;
    println!("{collective:?} of {bytes} bytes on {} dies: {:.2} µs", program.dies.len(), seconds * 1e6);
    seconds
}

#[test]
fn buckets_come_near_their_lower_bound() {
    let tile = Target::builtin("dojo-tile").unwrap();
    for target in [&tile, &tile.clone().with_mesh(3, 4).unwrap(), &tile.clone().with_mesh(2, 5).unwrap()] {
        let bytes = 256_000_000;
        let both = [Collective::ReduceScatter, Collective::AllGather].map(|c| bucket(target, c, bytes));
        let bound = bucket::lower_bound(target, bytes as f64);
        for seconds in both {
            println!("  {:.3} of the bound", seconds / bound);
            assert!(seconds >= bound && (target.mesh.shape != tile.mesh.shape || seconds <= 1.05 * bound));
        }
        // The closed form by which the selector compares it with trees sees the same.
        let (simulated, closed) =
            (bucket(target, Collective::AllReduce, bytes), collectives::bucket_seconds(target, bytes as f64).unwrap());
        assert!((simulated / closed - 1.0).abs() < 0.1, "{simulated} and {closed}");
    }
}
