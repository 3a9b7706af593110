//! The numbers of a simulation.
//!
//! Definitions: *makespan* is when the last die and the last queue are done. *Compute* is engine time, launch overheads included; *wait* is
//! stream time spent in waits; *idle* is the rest up to the makespan; *busy* is compute / makespan. *Model FLOPs* are those of the matrix
//! products and convolutions of the reference graph, each counted once, or once an iteration of its loops, however many dies do it; *MFU* is the time that they would take at
//! the peak of all dies with code, over the makespan. Energy is operations, SRAM bytes, link bytes (each link that a byte crosses) and host bytes
//! by the target's figures, plus the idle power of every live die of the mesh for the whole makespan; *power* is energy / makespan.

use super::cost;
use super::engine::Outcome;
use super::model::Resource;
use super::path;
use super::power;
use girih_ir::graph::loops::LoopNest;
use girih_ir::ops::Op;
use girih_ir::program::{Instr, Program};
use girih_ir::types::{DType, Type};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One die.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DieReport {
    /// Where it is.
    pub die: String,
    /// Instructions of its stream.
    pub instructions: u64,
    /// Seconds of the engine.
    pub compute: f64,
    /// Seconds that the stream waited.
    pub wait: f64,
    /// Seconds after the stream and all queues were done, and between.
    pub idle: f64,
    /// Compute over makespan.
    pub busy: f64,
    /// Operations.
    pub flops: u64,
    /// Bytes of SRAM that the plan uses.
    pub sram: u64,
}

/// A link, a port, or the host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkReport {
    /// `(0,0):E`, `port in (0,0)`, `host out`.
    pub name: String,
    /// Bytes carried.
    pub bytes: u64,
    /// Messages carried.
    pub messages: u64,
    /// Reserved time over makespan.
    pub busy: f64,
}

/// Joules by part.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Energy {
    /// Operations.
    pub compute: f64,
    /// SRAM.
    pub sram: f64,
    /// Links.
    pub links: f64,
    /// Host memory.
    pub host: f64,
    /// Idle power.
    pub idle: f64,
    /// All of it.
    pub total: f64,
}

/// Loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoopReport {
    /// Iterations of all dies.
    pub iterations: u64,
    /// Those of them that are like simulated ones and were only counted.
    pub extrapolated: u64,
    /// How often loops were assumed to run whose end the data decide; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed: Option<u64>,
}

/// One step of the critical path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PathStep {
    /// The die.
    pub die: String,
    /// Position in its stream.
    pub instruction: u32,
    /// Mnemonic.
    pub name: String,
    /// The node that it computes or moves; empty when it does not say.
    pub node: String,
    /// Where the node came from.
    pub origin: String,
    /// Whether it is a queue's time, not the engine's.
    pub transfer: bool,
    /// Seconds.
    pub start: f64,
    /// Seconds; where the next step begins.
    pub end: f64,
    /// Extrapolated iterations that the step stands for; 0 when it is an activity.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub iterations: u64,
}

fn one() -> u64 {
    1
}

fn is_one(count: &u64) -> bool {
    *count == 1
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Time on the critical path by instruction and node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Contributor {
    /// Mnemonic.
    pub name: String,
    /// The node.
    pub node: String,
    /// Where the node came from, of the first step.
    #[serde(default)]
    pub origin: String,
    /// Seconds on the path.
    pub seconds: f64,
    /// Of the makespan.
    pub share: f64,
    /// Steps of the path.
    pub count: u64,
}

/// What a simulation says about one step of a program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The program.
    pub program: String,
    /// The target.
    pub target: String,
    /// Replicas of the step; the dies and links below are those of one of them, the sums are of all.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u64,
    /// Seconds of the step.
    pub makespan: f64,
    /// Instructions of all dies.
    pub instructions: u64,
    /// Events that were simulated: things that happen at a moment, of one replica, without those of extrapolated loops.
    #[serde(default)]
    pub events: u64,
    /// Operations that the dies do, replicated work included.
    pub flops: u64,
    /// Matrix operations of the reference graph.
    pub model_flops: u64,
    /// Model FLOPs utilization, 0 to 1.
    pub mfu: f64,
    /// Bytes that messages carry, each message once.
    pub message_bytes: u64,
    /// Bytes over links: each message once a link.
    pub link_bytes: u64,
    /// Bytes from and to the host.
    pub host_bytes: u64,
    /// Largest SRAM use of a die, in bytes.
    pub sram_peak: u64,
    /// SRAM of a die, in bytes.
    pub sram_size: u64,
    /// Joules.
    pub energy: Energy,
    /// Average watts.
    pub power: f64,
    /// Average watts of the package that draws most, and what a package may draw.
    pub package_power: f64,
    /// See `package_power`.
    pub package_limit: f64,
    /// Most watts of all dies together in a 256th of the step.
    #[serde(default)]
    pub peak_power: f64,
    /// The same of the package that draws most.
    #[serde(default)]
    pub package_peak: f64,
    /// Loops, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loops: Option<LoopReport>,
    /// One entry a die with code.
    pub dies: Vec<DieReport>,
    /// Every link and port that carried something, busiest first.
    pub links: Vec<LinkReport>,
    /// Where the critical path spends its time, longest first.
    pub contributors: Vec<Contributor>,
    /// The critical path, in time order.
    pub critical_path: Vec<PathStep>,
}

impl Report {
    /// Whether no package draws more than it may, on average over the step.
    pub fn power_fits(&self) -> bool {
        self.package_power <= self.package_limit
    }

    /// Average engine time over makespan.
    pub fn busy(&self) -> f64 {
        self.dies.iter().map(|d| d.busy).sum::<f64>() / self.dies.len().max(1) as f64
    }
}

/// The type of most matrix operations of the reference graph.
pub(super) fn main_dtype(program: &Program) -> DType {
    model_flops(program, 1).into_iter().max_by_key(|(_, flops)| *flops).map_or(DType::F32, |(dtype, _)| dtype)
}

/// Matrix operations of the reference graph by input type, as often as their loops run.
fn model_flops(program: &Program, while_iterations: u64) -> BTreeMap<DType, u64> {
    let graph = &program.step.graph;
    let nodes = graph.nodes();
    let nest = LoopNest::of(graph).ok();
    let mut sums = BTreeMap::new();
    for (v, node) in graph.values().zip(nodes).filter(|(_, n)| matches!(n.op, Op::DotGeneral(_) | Op::Convolution(_))) {
        let runs = nest.as_ref().map_or(1, |nest| nest.runs(v, usize::try_from(while_iterations).unwrap_or(usize::MAX)) as u64);
        let types: Option<Vec<&Type>> = node.operands.iter().map(|o| nodes.get(o.index()).map(|n| &n.ty)).collect();
        let Some(types) = types else { continue };
        let Ok(ty) = node.op.infer(&types) else { continue };
        if let Some(first) = types.first().and_then(|t| t.as_tensor()) {
            let axes = node.op.axes(&types, &ty);
            let sum = sums.entry(first.dtype).or_insert(0u64);
            *sum = sum.saturating_add(axes.ops(&axes.full_ranges()).saturating_mul(runs));
        }
    }
    sums
}

/// What each stream does, and its energy: dies that share a stream share this.
#[derive(Clone, Copy, Default)]
struct StreamWork {
    flops: u64,
    compute_joules: f64,
    sram_bytes: u64,
}

fn stream_work(program: &Program, runs: &[Vec<u64>]) -> Vec<StreamWork> {
    let target = &program.target;
    let one = |(stream, runs): (&Vec<_>, &Vec<u64>)| {
        let mut w = StreamWork::default();
        for (instr, runs) in stream.iter().zip(runs) {
            let c = cost::cost(instr, program, target);
            let flops = c.flops().saturating_mul(*runs);
            w.flops = w.flops.saturating_add(flops);
            w.sram_bytes = w.sram_bytes.saturating_add(c.sram_bytes.saturating_mul(*runs));
            w.compute_joules += c.dtype.map_or(0.0, |d| target.energy_per_flop(d)) * flops as f64;
        }
        w
    };
    program.streams.iter().zip(runs).map(one).collect()
}

fn loops(program: &Program, outcome: &Outcome) -> Option<LoopReport> {
    let all = || program.streams.iter().flatten();
    let open = all().any(|i| matches!(i, Instr::Loop { trips: None, .. }));
    let assumed = open.then_some(outcome.while_iterations);
    let report = LoopReport { iterations: outcome.iterations, extrapolated: outcome.extrapolated, assumed };
    all().any(|i| matches!(i, Instr::Loop { .. })).then_some(report)
}

/// Puts the report together.
pub(super) fn build(program: &Program, outcome: &Outcome) -> Report {
    let target = &program.target;
    let makespan = outcome.makespan;
    let over = |part: f64| if makespan > 0.0 { part / makespan } else { 0.0 };
    let work = stream_work(program, &outcome.runs);
    let work_of = |d: usize| work.get(program.dies[d].stream.index()).copied().unwrap_or_default();
    let dies: Vec<DieReport> = (program.dies.iter().zip(&outcome.dies).enumerate())
        .map(|(d, (code, times))| DieReport {
            die: target.coord(code.die).to_string(),
            instructions: program.streams.get(code.stream.index()).map_or(0, |s| s.len() as u64),
            compute: times.compute,
            wait: times.wait,
            idle: (makespan - times.compute - times.wait).max(0.0),
            busy: over(times.compute),
            flops: work_of(d).flops,
            sram: code.sram_used,
        })
        .collect();
    let model = model_flops(program, outcome.while_iterations);
    let peak_seconds = model.iter().fold(0.0, |sum, (d, f)| sum + cost::seconds(*f as f64, target.peak_flops(*d)));
    let (energy, package_power) = energies(program, outcome, &work);
    let (peak_power, package_peak) = power::peaks(program, outcome, energy.total - energy.idle);
    let (critical_path, contributors) = path::critical(program, outcome, 12);
    let mut links: Vec<LinkReport> = outcome.servers.iter().filter(|s| s.messages > 0).map(|s| link(program, s, over(s.busy))).collect();
    links.sort_by(|a, b| b.busy.total_cmp(&a.busy).then_with(|| a.name.cmp(&b.name)));
    let is_link = |s: &&super::model::Server| matches!(s.resource, Resource::Link(_));
    let replicas = program.replica_count() as u64;
    let all = |one: u64| one.saturating_mul(replicas);
    let between: f64 = outcome.servers.iter().map(|s| chain_bytes(program, s)).sum();
    let energy = energy.times(replicas as f64);
    Report {
        program: program.name.clone(),
        target: program.replicas.as_ref().map_or(&target.name, |r| &r.machine.name).clone(),
        replicas,
        makespan,
        instructions: all(outcome.instructions),
        events: outcome.events,
        flops: all(dies.iter().fold(0u64, |n, d| n.saturating_add(d.flops))),
        model_flops: all(model.values().fold(0u64, |n, f| n.saturating_add(*f))),
        mfu: over(peak_seconds / program.dies.len().max(1) as f64),
        message_bytes: all(outcome.sent),
        link_bytes: all(outcome.servers.iter().filter(is_link).map(|s| s.bytes).sum::<u64>() + between as u64),
        host_bytes: all(outcome.host_bytes),
        sram_peak: program.dies.iter().map(|d| d.sram_used).max().unwrap_or(0),
        sram_size: target.sram_bytes(),
        power: over(energy.total),
        energy,
        package_power,
        package_limit: target.package_power_limit(),
        peak_power: peak_power * replicas as f64,
        package_peak,
        loops: loops(program, outcome),
        dies,
        links,
        contributors,
        critical_path,
    }
}

fn link(program: &Program, server: &super::model::Server, busy: f64) -> LinkReport {
    let t = &program.target;
    let name = match server.resource {
        Resource::Link(l) => t.mesh.link_name(l).to_string(),
        Resource::RampOut(d) => format!("{} ramp out", t.coord(d)),
        Resource::RampIn(d) => format!("{} ramp in", t.coord(d)),
        Resource::PortIn(d) => format!("port in {}", t.coord(d)),
        Resource::PortOut(d) => format!("port out {}", t.coord(d)),
        Resource::HostIn => "host in".into(),
        Resource::HostOut => "host out".into(),
        Resource::Replicas(d) => format!("{} replicas", t.coord(d)),
    };
    LinkReport { name, bytes: server.bytes, messages: server.messages, busy }
}

/// Bytes over the links of one replica's share of a chain through all of them: each link that a byte crosses.
fn chain_bytes(program: &Program, server: &super::model::Server) -> f64 {
    match (server.resource, &program.replicas) {
        (Resource::Replicas(_), Some(r)) => server.bytes as f64 * program.target.all_reduce_time(r.rows as usize, r.cols as usize, 1).links,
        _ => 0.0,
    }
}

impl Energy {
    /// So many times as much.
    fn times(self, n: f64) -> Energy {
        let Energy { compute, sram, links, host, idle, total } = self;
        Energy { compute: compute * n, sram: sram * n, links: links * n, host: host * n, idle: idle * n, total: total * n }
    }
}

/// Joules by part, and the average power of the package that draws most. Link energy belongs to the die that a link leaves, host energy to
/// the port's die.
fn energies(program: &Program, outcome: &Outcome, work: &[StreamWork]) -> (Energy, f64) {
    let t = &program.target;
    let mut e = Energy::default();
    let mut packages: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    let mut add = |die, joules: f64| {
        let package = t.package_of(die);
        *packages.entry((package.row, package.col)).or_default() += joules;
    };
    for code in &program.dies {
        let w = work.get(code.stream.index()).copied().unwrap_or_default();
        let sram = w.sram_bytes as f64 * t.energy_per_sram_byte();
        e.compute += w.compute_joules;
        e.sram += sram;
        add(code.die, w.compute_joules + sram);
    }
    for s in &outcome.servers {
        let bytes = s.bytes as f64;
        match s.resource {
            Resource::Link(l) => {
                let joules = bytes * t.energy_per_link_byte();
                e.links += joules;
                add(t.mesh.link_start(l).0, joules);
            }
            Resource::PortIn(d) | Resource::PortOut(d) => add(d, bytes * t.energy_per_host_byte()),
            // The energy of a ramp is in that of SRAM.
            Resource::RampIn(_) | Resource::RampOut(_) => {}
            Resource::HostIn | Resource::HostOut => e.host += bytes * t.energy_per_host_byte(),
            Resource::Replicas(d) => {
                let joules = chain_bytes(program, s) * t.energy_per_link_byte();
                e.links += joules;
                add(d, joules);
            }
        }
    }
    let idle = t.idle_watts() * outcome.makespan;
    for die in t.live_dies() {
        e.idle += idle;
        add(die, idle);
    }
    e.total = e.compute + e.sram + e.links + e.host + e.idle;
    let most = packages.values().copied().fold(0.0, f64::max);
    (e, if outcome.makespan > 0.0 { most / outcome.makespan } else { 0.0 })
}

/// `1.23 µs`.
pub fn time(seconds: f64) -> String {
    // Below a picosecond there is only rounding.
    scaled(if seconds.abs() < 1e-12 { 0.0 } else { seconds }, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])
}

fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let (scale, unit) = units.iter().find(|(s, _)| value.abs() >= *s).or(units.last()).copied().unwrap_or((1.0, ""));
    let v = value / scale;
    let digits = if v == 0.0 || v.abs() >= 100.0 {
        0
    } else if v.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{v:.digits$} {unit}")
}

/// `1.23 MiB`.
pub fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    scaled(count as f64, &[(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")])
}

fn big(count: f64, unit: &str) -> String {
    format!("{}{unit}", scaled(count, &[(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |v: f64| format!("{:.1} %", v * 100.0);
        writeln!(f, "{} on {}: one step in {} (simulated)", self.program, self.target, time(self.makespan))?;
        let rate = if self.makespan > 0.0 { self.model_flops as f64 / self.makespan } else { 0.0 };
        let alike = if self.replicas > 1 { format!(" ({} in each of {} replicas)", self.dies.len(), self.replicas) } else { String::new() };
        let rows = [
            ("dies", format!("{} with code{}, {} busy on average", self.dies.len() as u64 * self.replicas, alike, percent(self.busy()))),
            ("work", format!("{}, {}, MFU {}", big(self.model_flops as f64, "FLOP"), big(rate, "FLOP/s"), percent(self.mfu))),
            ("SRAM", format!("{} of {} at the fullest die", bytes(self.sram_peak), bytes(self.sram_size))),
            ("links", format!("{} in messages, {} over links", bytes(self.message_bytes), bytes(self.link_bytes))),
            ("host", bytes(self.host_bytes)),
            ("energy", scaled(self.energy.total, &[(1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")])),
            (
                "power",
                format!(
                    "{} on average, {} at the peak; {} of {} in the hottest package, {} at its peak{}",
                    big(self.power, "W"),
                    big(self.peak_power, "W"),
                    big(self.package_power, "W"),
                    big(self.package_limit, "W"),
                    big(self.package_peak, "W"),
                    if self.power_fits() { "" } else { ": MORE THAN IT MAY DRAW" },
                ),
            ),
        ];
        for (name, text) in rows {
            writeln!(f, "  {name:<8}{text}")?;
        }
        if let Some(l) = &self.loops {
            write!(f, "  {:<8}{} iterations of all dies", "loops", l.iterations)?;
            if l.extrapolated > 0 {
                write!(f, ", {} of them like simulated ones", l.extrapolated)?;
            }
            if let Some(n) = l.assumed {
                write!(f, "; assumed: a loop whose end the data decide runs {n} times")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\n  {:<10}{:>12}{:>12}{:>12}{:>9}{:>12}", "die", "compute", "wait", "idle", "busy", "SRAM")?;
        for d in self.dies.iter().take(32) {
            let (compute, wait, idle) = (time(d.compute), time(d.wait), time(d.idle));
            writeln!(f, "  {:<10}{compute:>12}{wait:>12}{idle:>12}{:>9}{:>12}", d.die, percent(d.busy), bytes(d.sram))?;
        }
        if self.dies.len() > 32 {
            writeln!(f, "  … and {} more", self.dies.len() - 32)?;
        }
        if !self.links.is_empty() {
            writeln!(f, "\n  {:<16}{:>12}{:>10}{:>9}", "busiest links", "bytes", "messages", "busy")?;
        }
        for l in self.links.iter().take(8) {
            writeln!(f, "  {:<16}{:>12}{:>10}{:>9}", l.name, bytes(l.bytes), l.messages, percent(l.busy))?;
        }
        if !self.contributors.is_empty() {
            writeln!(f, "\n  {:<14}{:<24}{:>8}{:>12}{:>9}  from", "critical path", "node", "count", "time", "share")?;
        }
        for c in &self.contributors {
            let line = format!("  {:<14}{:<24}{:>8}{:>12}{:>9}  {}", c.name, c.node, c.count, time(c.seconds), percent(c.share), c.origin);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
