//! `girih profile`: where the time of a step goes on this machine.

use super::bench::{Ready, Subject};
use super::output::{Outcome, Output, table, time};
use clap::Args;
use girih::{Error, Span, files};
use girih_ir::program::{Instr, Program, Region};
use girih_runtime::machine::Place;
use girih_runtime::simulate::node_of;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Show where the time of a step goes on this machine
#[derive(Args, Debug)]
#[command(
    after_help = "The time of an instruction is that of the thread that worked longest on it; the waiting is a thread's mean. The trace opens in Perfetto (ui.perfetto.dev) and chrome://tracing."
)]
pub struct Profile {
    /// Profiled steps; times are means over them
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Instructions that are listed
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Write the last step as Chrome trace events
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    subject: Subject,
}

/// What an instruction, or all of one kind, took in one step.
#[derive(Clone, Copy, Default)]
struct Cost {
    count: u64,
    /// Nanoseconds of all threads.
    busy: f64,
    /// Nanoseconds of the thread that worked longest.
    longest: f64,
    /// Threads that took part; for a kind the most.
    threads: usize,
    flops: f64,
    bytes: f64,
}

impl Profile {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let (steps, top) = (f64::from(self.steps), self.top);
        let mut ready = self.subject.prepare(out)?;
        let (mut busy, mut wall, mut last) = (BTreeMap::<Spot, Vec<(f64, f64)>>::new(), 0.0, Vec::new());
        for _ in 0..self.steps {
            let batch = ready.batch();
            let profile = ready.session.profile(&batch)?;
            wall += profile.wall as f64 / steps;
            for span in &profile.spans {
                let entry = busy.entry((span.die, span.instruction)).or_default();
                entry.resize(entry.len().max(span.thread as usize + 1), (0.0, 0.0));
                let (ns, runs) = &mut entry[span.thread as usize];
                (*ns, *runs) = (*ns + (span.end - span.start) as f64 / steps, *runs + 1.0 / steps);
            }
            last = profile.spans;
        }
        let program = ready.session.program();
        if let Some(path) = &self.trace {
            let trace =
                serde_json::to_vec(&trace(program, &last)).map_err(|e| Error::Malformed { path: path.clone(), why: e.to_string() })?;
            files::write(path, &trace)?;
            out.progress(&format!("trace written to {}", path.display()));
        }
        let team = ready.session.threads();
        let costs: Vec<(Spot, Cost)> = busy.iter().map(|(i, threads)| (*i, cost(program, *i, threads, team))).collect();
        report(out, &ready, &costs, wall, top)
    }
}

/// A die and a place in its stream.
type Spot = (u32, u32);

fn instruction(program: &Program, (die, index): Spot) -> Option<&Instr> {
    let code = program.dies.get(die as usize)?;
    program.streams.get(code.stream.index())?.get(index as usize)
}

/// `threads`: nanoseconds and runs of each thread in one step; in a loop it runs once an iteration.
fn cost(program: &Program, spot: Spot, threads: &[(f64, f64)], team: usize) -> Cost {
    let Some(instr) = instruction(program, spot) else { return Cost::default() };
    let bytes: f64 = instr.reads().into_iter().chain(instr.writes()).map(moved).sum();
    let most = |f: fn(&(f64, f64)) -> f64| threads.iter().map(f).fold(0.0, f64::max);
    let busy = threads.iter().map(|t| t.0).sum::<f64>();
    // Dies take turns on the threads, so of a mesh the share of a thread counts.
    let longest = if program.dies.len() > 1 { busy / team as f64 } else { most(|t| t.0) };
    let runs = most(|t| t.1);
    let count = threads.iter().filter(|t| t.1 > 0.0).count();
    Cost { count: 1, busy, longest, threads: count, flops: flops(program, instr) * runs, bytes: bytes * runs }
}

/// Bytes of a region that are apart in memory.
fn moved(r: &Region) -> f64 {
    let elements: usize = r.dims.iter().zip(&r.strides).filter(|(_, s)| **s != 0).map(|(d, _)| *d).product();
    (elements * r.dtype.size()) as f64
}

/// Operations of one run of an instruction.
fn flops(program: &Program, instr: &Instr) -> f64 {
    match instr {
        Instr::Gemm { out, a, contract, .. } => {
            let k: usize = a.dims[a.dims.len().saturating_sub(*contract as usize)..].iter().product();
            2.0 * out.elements() as f64 * k as f64
        }
        Instr::Attention { ins, scores, .. } => {
            let products = girih_runtime::simulate::cost::attention_products(ins, scores.is_some());
            products.iter().map(|p| 2.0 * (p.batch * p.m * p.n) as f64 * p.k as f64).sum()
        }
        Instr::Conv { out, rhs, .. } => 2.0 * out.elements() as f64 * rhs.dims.iter().skip(1).product::<usize>() as f64,
        Instr::Map { program: id, loops, .. } => {
            let body = program.fused.get(id.index()).map_or(0, |f| f.body.len().saturating_sub(f.inputs.len()));
            loops.iter().product::<usize>() as f64 * body as f64
        }
        _ => 0.0,
    }
}

fn report(out: &Output, ready: &Ready, costs: &[(Spot, Cost)], wall: f64, top: usize) -> Outcome {
    let (program, threads) = (ready.session.program(), ready.session.threads() as f64);
    let mut kinds = BTreeMap::<&str, Cost>::new();
    for (spot, c) in costs {
        let kind = kinds.entry(instruction(program, *spot).map_or("", Instr::name)).or_default();
        *kind = Cost {
            count: kind.count + c.count,
            busy: kind.busy + c.busy,
            longest: kind.longest + c.longest,
            threads: kind.threads.max(c.threads),
            flops: kind.flops + c.flops,
            bytes: kind.bytes + c.bytes,
        };
    }
    let mut kinds: Vec<(&str, Cost)> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.longest.total_cmp(&a.1.longest));
    let mut hottest = costs.to_vec();
    hottest.sort_by(|a, b| b.1.longest.total_cmp(&a.1.longest));
    hottest.truncate(top);
    let all = wall * threads;
    let busy: f64 = kinds.iter().map(|k| k.1.busy).sum();
    let rate = |n: f64, c: &Cost| if c.longest > 0.0 { n / c.longest } else { 0.0 };
    let text = || {
        let row = |label: String, c: &Cost, rest: String| {
            let share = format!("{:.1} %", 100.0 * c.longest / wall);
            let (g, b) = (format!("{:.1}", rate(c.flops, c)), format!("{:.1}", rate(c.bytes, c)));
            vec![label, c.count.to_string(), c.threads.to_string(), time(c.longest / 1e9), share, g, b, rest]
        };
        let head = |first: &str| {
            ["", "n", "threads", "time", "share", "GFLOP/s", "GB/s", ""].map(|h| if h.is_empty() { first } else { h }.to_string()).to_vec()
        };
        let mut rows = vec![head("kind")];
        rows[0][7].clear();
        rows.extend(kinds.iter().map(|(name, c)| row((*name).to_string(), c, String::new())));
        let idle = Cost { longest: (all - busy).max(0.0) / threads, ..Cost::default() };
        rows.push(row("waiting".into(), &idle, String::new()));
        let mut listed = vec![head("instruction")];
        listed[0][7].clear();
        listed.extend(hottest.iter().map(|(spot, c)| row(name(program, *spot), c, about(program, *spot))));
        format!("step {} on {} threads\n\n{}\n{}", time(wall / 1e9), threads, table(&rows, false), table(&listed, false))
    };
    let document = || {
        let entry = |c: &Cost| json!({ "count": c.count, "threads": c.threads, "thread_ms": c.busy / 1e6, "longest_ms": c.longest / 1e6, "gflops": rate(c.flops, c), "gbytes_per_second": rate(c.bytes, c) });
        let with = |mut v: Value, key: &str, value: Value| {
            v[key] = value;
            v
        };
        json!({
            "wall_ms": wall / 1e6, "threads": threads, "waiting_thread_ms": (all - busy).max(0.0) / 1e6,
            "kinds": kinds.iter().map(|(n, c)| with(entry(c), "kind", json!(n))).collect::<Vec<_>>(),
            "instructions": hottest.iter().map(|(spot, c)| {
                let placed = with(with(entry(c), "die", json!(spot.0)), "instruction", json!(spot.1));
                with(with(placed, "name", json!(name(program, *spot))), "source", json!(about(program, *spot)))
            }).collect::<Vec<_>>(),
        })
    };
    out.result(text, document)
}

/// The mnemonic with the extents of the result, and for products those of the sum.
fn label(instr: &Instr) -> String {
    let dims = |d: &[usize]| d.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let first = instr.writes().first().map(|r| format!("{}[{}]", r.dtype.name(), dims(&r.dims))).unwrap_or_default();
    match instr {
        Instr::Send { region, .. } => format!("send {}[{}]", region.dtype.name(), dims(&region.dims)),
        Instr::Gemm { a, contract, .. } => {
            format!("gemm {first} k={}", dims(&a.dims[a.dims.len().saturating_sub(*contract as usize)..]))
        }
        Instr::Conv { rhs, .. } => format!("conv {first} filter={}", dims(&rhs.dims)),
        Instr::Map { program, cols, .. } => format!("{} {first} {program}", if *cols > 0 { "rows" } else { "map" }),
        other => format!("{} {first}", other.name()),
    }
}

/// The place of an instruction and its label; of a mesh with the die.
fn name(program: &Program, spot: Spot) -> String {
    let place = Place::new(program, spot.0 as usize, spot.1 as usize);
    let text = instruction(program, spot).map(label).unwrap_or_default();
    if program.dies.len() > 1 { format!("{} {:03} {text}", place.die, spot.1) } else { format!("{:03} {text}", spot.1) }
}

/// The node and where it came from.
fn about(program: &Program, spot: Spot) -> String {
    let (node, origin) = node_of(program, spot.0 as usize, spot.1 as usize).unwrap_or_default();
    if origin.is_empty() { node } else { format!("{node} · {origin}") }
}

fn trace(program: &Program, spans: &[Span]) -> Value {
    let event = |s: &Span| {
        let spot = (s.die, s.instruction);
        let args = json!({ "die": s.die, "instruction": s.instruction, "source": about(program, spot) });
        let (start, length) = (s.start as f64 / 1e3, (s.end - s.start) as f64 / 1e3);
        json!({ "ph": "X", "name": name(program, spot), "pid": 0, "tid": s.thread, "ts": start, "dur": length, "args": args })
    };
    json!({ "displayTimeUnit": "ns", "traceEvents": spans.iter().map(event).collect::<Vec<_>>() })
}
