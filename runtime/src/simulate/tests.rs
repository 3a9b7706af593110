//! Closed forms, conservation, and bad programs.

use super::{LoopReport, Report, SimError, SimOptions, Simulation, simulate, simulate_with};
use crate::loop_programs::{collatz, counted, nested, swap};
use crate::testing::{Builder, alone, at, deadlocked, gemm, halo, partial_sums, wait};
use girih_ir::program::instr::{Queue, WindowDims};
use girih_ir::program::{ChannelId, Instr, PortId, Program};
use girih_ir::target::{Direction, Product};
use girih_ir::types::DType;

fn run(program: &Program) -> Simulation<'_> {
    simulate(program).unwrap()
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-12 + 1e-9 * want.abs(), "{got:e} against {want:e}");
}

#[test]
fn one_gemm_takes_what_the_target_says() {
    let mut b = Builder::new(1, 1);
    let (m, n, k) = (512, 256, 1024);
    let die = b.die_id(0, 0);
    b.die(die, 1 << 24, &[], &[], vec![gemm(at(0, &[m, n]), at(1 << 21, &[m, k]), at(1 << 23, &[n, k])), Instr::End]);
    let t = &b.program.target;
    let memory = 4.0 * (m * n + m * k + n * k) as f64 / t.sram_bandwidth();
    let want = t.gemm_seconds(DType::F32, girih_ir::target::Product::one(m, n, k)).max(memory) + t.launch_overhead();
    let report = run(&b.program).report;
    close(report.makespan, want);
    close(report.dies[0].compute, want);
    assert_eq!(report.flops, 2 * (m * n * k) as u64);
    assert_eq!(report.dies[0].busy, 1.0);
}

/// A row of dies where the first sends `count` numbers to the last.
fn transfer(hops: u32, count: usize) -> Program {
    let mut b = Builder::new(1, hops + 1);
    let (from, to) = (b.die_id(0, 0), b.die_id(0, hops));
    let ch = b.channel(from, to, 1);
    let out = PortId(0);
    b.die(from, 1 << 22, &[ch], &[], vec![Instr::Send { port: out, region: at(0, &[count]) }, Instr::End]);
    let recv = Instr::Recv { port: out, out: at(0, &[count]) };
    b.die(to, 1 << 22, &[], &[ch], vec![recv, wait(Queue::In(Direction::West), 1), Instr::End]);
    b.program
}

#[test]
fn a_transfer_pays_overhead_hops_and_bandwidth_once() {
    for (hops, count) in [(1, 1), (1, 100_000), (4, 1), (4, 100_000)] {
        let program = transfer(hops, count);
        let t = &program.target;
        let wire = 4.0 * count as f64 / t.link_bandwidth();
        let want = t.issue_overhead() + t.message_overhead() + f64::from(hops) * t.hop_latency() + wire;
        let report = run(&program).report;
        close(report.makespan, want);
        assert_eq!(report.link_bytes, 4 * count as u64 * u64::from(hops));
        assert_eq!(report.message_bytes, 4 * count as u64);
        close(report.dies[1].wait, want - t.issue_overhead());
    }
}

/// Dies 0 and 1 both send to die 2, over one common link.
fn contention(count: usize) -> Program {
    let mut b = Builder::new(1, 3);
    let dies = [0, 1, 2].map(|c| b.die_id(0, c));
    let ch: Vec<ChannelId> = (0..2).map(|d| b.channel(dies[d], dies[2], 1)).collect();
    for d in 0..2 {
        b.die(dies[d], 1 << 22, &ch[d..=d], &[], vec![Instr::Send { port: PortId(0), region: at(0, &[count]) }, Instr::End]);
    }
    let recv = |p: u32| Instr::Recv { port: PortId(p), out: at(u64::from(p) << 21, &[count]) };
    b.die(dies[2], 1 << 22, &[], &ch, vec![recv(0), recv(1), wait(Queue::In(Direction::West), 2), Instr::End]);
    b.program
}

#[test]
fn two_messages_share_a_link_one_after_the_other() {
    let program = contention(100_000);
    let t = &program.target;
    let wire = 4e5 / t.link_bandwidth();
    assert!(wire > t.hop_latency(), "the second message has to meet the first");
    let report = run(&program).report;
    close(report.makespan, t.issue_overhead() + t.message_overhead() + 2.0 * wire + t.hop_latency());
    let shared = report.links.iter().find(|l| l.name == "(0,1):E").unwrap();
    assert_eq!((shared.bytes, shared.messages), (800_000, 2));
    assert_eq!(report.links[0].name, "(0,1):E", "the busiest comes first");
}

#[test]
fn credits_hold_a_sender_back() {
    let mut b = Builder::new(1, 2);
    let (from, to) = (b.die_id(0, 0), b.die_id(0, 1));
    let ch = b.channel(from, to, 1);
    let send = || Instr::Send { port: PortId(0), region: at(0, &[1]) };
    let recv = || Instr::Recv { port: PortId(0), out: at(0, &[1]) };
    b.die(from, 64, &[ch], &[], vec![send(), send(), wait(Queue::Out(Direction::East), 2), Instr::End]);
    let (m, k) = (2048, 2048);
    let busy = gemm(at(1 << 26, &[m, m]), at(0, &[m, k]), at(1 << 25, &[m, k]));
    b.die(to, 1 << 27, &[], &[ch], vec![busy, recv(), recv(), wait(Queue::In(Direction::West), 2), Instr::End]);
    let report = run(&b.program).report;
    assert!(report.dies[0].wait > report.dies[1].compute / 2.0, "the sender waits for the receiver's product: {report}");
}

#[test]
fn bytes_are_conserved_and_the_critical_path_is_whole() {
    for program in [alone(64, 48, 32), partial_sums(64, 48, 32), halo(), contention(1000), transfer(3, 10)] {
        let report = run(&program).report;
        let moved = |f: fn(&Instr) -> bool| -> u64 {
            let streams = program.dies.iter().flat_map(|d| &program.streams[d.stream.index()]);
            streams.filter(|i| f(i)).map(|i| i.reads().iter().chain(&i.writes()).next().map_or(0, |r| r.bytes())).sum()
        };
        assert_eq!(report.message_bytes, moved(|i| matches!(i, Instr::Send { .. })));
        assert_eq!(report.host_bytes, moved(|i| matches!(i, Instr::Load { .. } | Instr::Store { .. })));
        let longest = report.dies.iter().map(|d| d.compute).fold(0.0, f64::max);
        assert!(report.makespan >= longest && report.makespan > 0.0);
        let path = &report.critical_path;
        assert_eq!(path[0].start, if path[0].transfer { path[0].start } else { 0.0 });
        assert!(path[0].start <= program.target.launch_overhead() * 4.0);
        assert_eq!(path.last().unwrap().end, report.makespan);
        assert!(path.windows(2).all(|w| w[0].end == w[1].start), "{path:?}");
        for d in &report.dies {
            close(d.compute + d.wait + d.idle, report.makespan);
        }
        let e = report.energy;
        close(e.total, e.compute + e.sram + e.links + e.host + e.idle);
        close(report.power * report.makespan, e.total);
    }
}

#[test]
fn simulations_repeat_exactly() {
    let program = partial_sums(64, 48, 32);
    let text = |s: Simulation<'_>| {
        let mut trace = Vec::new();
        s.write_trace(&mut trace).unwrap();
        (serde_json::to_string(&s.report).unwrap(), trace)
    };
    assert!(text(run(&program)) == text(run(&program)));
}

#[test]
fn the_trace_is_json_with_a_track_for_every_queue() {
    let program = partial_sums(64, 48, 32);
    let mut trace = Vec::new();
    run(&program).write_trace(&mut trace).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = value["traceEvents"].as_array().unwrap();
    let named = |name: &str| events.iter().filter(|e| e["args"]["name"] == name).count();
    assert_eq!((named("die (0,0)"), named("compute"), named("load"), named("in E"), named("out W")), (1, 2, 2, 1, 1));
    let spans = events.iter().filter(|e| e["ph"] == "X");
    assert_eq!(spans.clone().count(), 7, "two loads, two products, a send, a receive, a store");
    assert!(spans.clone().all(|e| e["dur"].as_f64().unwrap() >= 0.0 && e["ts"].as_f64().unwrap() >= 0.0));
}

#[test]
fn bad_programs_are_errors() {
    assert!(matches!(simulate(&deadlocked()), Err(SimError::Deadlock(d)) if d.cycle && d.blocked.len() == 2));
    let bad = |change: fn(&mut Program)| {
        let mut program = partial_sums(8, 8, 8);
        change(&mut program);
        simulate(&program).map(|_| ()).unwrap_err().to_string()[..5].to_string()
    };
    assert_eq!(bad(|p| p.dies[0].in_ports.clear()), "E0750");
    assert_eq!(bad(|p| p.channels[0].route.clear()), "E0750");
    assert_eq!(bad(|p| p.channels[0].route[0].0 = 999), "E0750");
    assert_eq!(bad(|p| p.dies[1].stream.0 = 9), "E0750");
    assert_eq!(bad(|p| p.dies[1].die.0 = 9), "E0750");
    assert_eq!(bad(|p| p.streams[1].truncate(2)), "E0751");
}

#[test]
fn a_summary_is_readable() {
    let report = run(&partial_sums(64, 48, 32)).report;
    insta::assert_snapshot!(report.to_string());
}

fn every(program: &Program) -> Report {
    simulate_with(program, SimOptions { real: u64::MAX, ..SimOptions::default() }).unwrap().report
}

/// All numbers of two reports agree but for rounding.
fn alike(a: &Report, b: &Report) {
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-9 * a.abs().max(b.abs()) + 1e-15, "{a:e} against {b:e}");
    near(a.makespan, b.makespan);
    assert_eq!((a.instructions, a.flops, a.message_bytes, a.link_bytes), (b.instructions, b.flops, b.message_bytes, b.link_bytes));
    assert_eq!(a.host_bytes, b.host_bytes);
    near(a.energy.total, b.energy.total);
    assert_eq!(a.loops.map(|l| l.iterations), b.loops.map(|l| l.iterations));
    for (a, b) in a.dies.iter().zip(&b.dies) {
        near(a.compute, b.compute);
        near(a.wait, b.wait);
    }
    for (a, b) in a.links.iter().zip(&b.links) {
        assert_eq!((&a.name, a.bytes, a.messages), (&b.name, b.bytes, b.messages));
        near(a.busy, b.busy);
    }
}

#[test]
fn a_counted_loop_costs_its_iterations() {
    let body = |trips| run(&counted(1000, trips)).report;
    let (none, one, ten) = (body(0), body(1), body(10));
    close(ten.makespan - none.makespan, 10.0 * (one.makespan - none.makespan));
    assert_eq!(ten.flops, 10 * one.flops);
    assert_eq!((none.flops, none.instructions), (0, 2));
    assert_eq!(ten.instructions, 2 + 10 * 3);
    close(ten.energy.sram, 10.0 * one.energy.sram);
    assert_eq!(ten.loops, Some(LoopReport { iterations: 10, extrapolated: 0, assumed: None }));
}

#[test]
fn extrapolation_gives_what_every_iteration_gives() {
    let mut cases = vec![counted(100, 65), counted(100, 5000), nested(100, 3, 400), nested(100, 70, 50), nested(64, 300, 0)];
    for (n, trips, extra) in [(4, 64, 0), (4, 65, 0), (100_000, 500, 0), (16, 3000, 1), (30_000, 700, 3)] {
        cases.push(swap(n, trips, extra));
    }
    for program in &cases {
        let (short, long) = (run(program).report, every(program));
        alike(&short, &long);
        assert_eq!(long.loops.unwrap().extrapolated, 0);
        let loops = short.loops.unwrap();
        if loops.iterations > 1000 {
            assert!(loops.extrapolated * 10 > loops.iterations * 8, "{loops:?}");
        }
        let path = &short.critical_path;
        assert_eq!(path.last().unwrap().end, short.makespan);
        assert!(path.windows(2).all(|w| w[0].end == w[1].start));
        assert!(path.len() < 2000, "{}", path.len());
        // What takes most of the path is the same, and takes as much.
        let (a, b) = (&short.contributors[0], &long.contributors[0]);
        assert_eq!(a.name, b.name);
        assert!((a.seconds - b.seconds).abs() < 0.05 * long.makespan, "{a:?} {b:?}");
        let sum: f64 = short.contributors.iter().map(|c| c.share).sum();
        assert!(sum > 0.9 && sum < 1.0 + 1e-6, "{sum}");
    }
}

#[test]
fn a_long_loop_is_simulated_at_once() {
    let report = run(&swap(1000, 10_000_000_000, 2)).report;
    let one = every(&swap(1000, 2, 2)).makespan - every(&swap(1000, 1, 2)).makespan;
    assert!((report.makespan / (one * 1e10) - 1.0).abs() < 1e-3, "{} {one}", report.makespan);
    assert_eq!(report.message_bytes, 2 * 4000 * 10_000_000_000);
    assert!(report.loops.unwrap().extrapolated > 19_000_000_000);
}

#[test]
fn loops_that_the_data_end_run_as_often_as_assumed() {
    let program = collatz(1000, 27);
    let with = |while_iterations| simulate_with(&program, SimOptions { while_iterations, ..SimOptions::default() }).unwrap().report;
    let (none, one, many) = (with(0), with(1), with(500));
    // The predicate is computed once more than the rest.
    assert_eq!((none.instructions, one.instructions, many.instructions), (5, 12, 5 + 7 * 500));
    close(many.makespan - none.makespan, 500.0 * (one.makespan - none.makespan));
    assert_eq!(many.flops - none.flops, 500 * (one.flops - none.flops));
    assert_eq!(run(&program).report, one);
    assert!(many.to_string().contains("assumed: a loop whose end the data decide runs 500 times"), "{many}");
}

#[test]
fn loops_that_disagree_are_a_deadlock() {
    let mut program = swap(4, 300, 0);
    if let Instr::Loop { trips, .. } = &mut program.streams[1][0] {
        *trips = Some(200);
    }
    assert!(matches!(simulate(&program), Err(SimError::Deadlock(_))));
    program.streams[1].remove(0);
    assert_eq!(simulate(&program).map(|_| ()).unwrap_err().to_string()[..5], *"E0750");
}

#[test]
fn updates_in_place_cost_what_they_touch() {
    let mut b = Builder::new(1, 1);
    let start = || crate::loop_programs::scalar(1 << 21, DType::I32);
    let (table, row) = (at(0, &[1000, 100]), at(1 << 20, &[1, 100]));
    let update = |out| Instr::DynamicUpdateSlice { out, operand: table.clone(), update: row.clone(), starts: vec![start(), start()] };
    let cost = |i: Instr, b: &Builder| super::cost::cost(&i, &b.program, &b.program.target).sram_bytes;
    assert_eq!(cost(update(table.clone()), &b), 2 * 400 + 8);
    assert_eq!(cost(update(at(1 << 19, &[1000, 100])), &b), 2 * 400_000 + 2 * 400 + 8);
    let slice = Instr::DynamicSlice { out: row.clone(), operand: table.clone(), starts: vec![start(), start()] };
    assert_eq!(cost(slice, &b), 2 * 400 + 8);
    let die = b.die_id(0, 0);
    b.die(die, 1 << 22, &[], &[], vec![update(table.clone()), Instr::End]);
    assert!(run(&b.program).report.energy.sram > 0.0);
}

/// The lanes show what the trace does on the compute track, die by die.
#[test]
fn lanes_add_up_to_the_times_of_the_dies() {
    let program = partial_sums(64, 48, 32);
    let simulation = simulate(&program).unwrap();
    let (report, slices) = (&simulation.report, 50);
    let lanes = simulation.lanes(slices);
    assert_eq!(lanes.len(), report.dies.len());
    let mut trace = Vec::new();
    simulation.write_trace(&mut trace).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for (d, (lane, die)) in lanes.iter().zip(&report.dies).enumerate() {
        assert_eq!(lane.die, die.die);
        assert_eq!([lane.compute.len(), lane.transfer.len(), lane.repeated.len()], [slices; 3]);
        let busy = lane.compute.iter().sum::<f64>() / slices as f64;
        let computes = |e: &&serde_json::Value| e["ph"] == "X" && e["pid"] == d && e["tid"] == 0;
        let traced: f64 = events.iter().filter(computes).map(|e| e["dur"].as_f64().unwrap() * 1e-6).sum();
        assert!(busy > 0.0);
        close(busy * report.makespan, traced);
        assert!(lane.transfer.iter().any(|x| *x > 0.0) && lane.repeated.iter().all(|x| *x == 0.0));
    }
}

/// Products and convolutions of a die of nodes say their node plans, whose cycles are the time that was taken.
#[test]
fn convolutions_are_derived_from_node_plans() {
    let window = |rank| WindowDims {
        size: vec![3; rank],
        stride: vec![1; rank],
        pad_low: vec![1; rank],
        pad_high: vec![1; rank],
        base_dilation: vec![1; rank],
        window_dilation: vec![1; rank],
        reverse: vec![false; rank],
    };
    for groups in [1, 4] {
        let mut b = Builder::new(1, 1);
        let die = b.die_id(0, 0);
        let (out, lhs, rhs) = (at(0, &[8, 64, 28, 28]), at(1 << 23, &[8, 64, 28, 28]), at(1 << 24, &[64, 64 / groups as usize, 3, 3]));
        let conv = Instr::Conv { out, lhs, rhs, window: window(2), feature_groups: groups, batch_groups: 1 };
        b.die(die, 1 << 25, &[], &[], vec![conv, Instr::End]);
        let simulation = run(&b.program);
        let derivation = simulation.derive();
        let number = derivation.numbers.iter().find(|n| n.name.starts_with("conv")).unwrap();
        let g = groups as usize;
        let plan = b.program.target.node_plan(DType::F32, Product::one(8 * 28 * 28, 64 / g, 9 * 64 / g)).unwrap();
        let each = if g > 1 { format!("{g} groups × ") } else { String::new() };
        let text = format!("max({each}{:.0} cycles at", plan.cycles);
        assert!(number.formula.starts_with(&text) && !number.formula.contains("tiles and depth"), "{}", number.formula);
        close(number.value, g as f64 * plan.cycles / b.program.target.clock_hz() + b.program.target.launch_overhead());
        assert!(derivation.figures.iter().any(|f| f.path == "die.node_engine.panels"));
    }
}
