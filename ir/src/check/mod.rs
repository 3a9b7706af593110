//! The independent checker: proves that a program is safe to run and computes its reference step.
//!
//! It reads the program and the target only, and shares no code with the passes that made them. A program may come from a stranger:
//! everything that the runtime takes for granted is checked here, and [`Verified`] has no other constructor.
//! Phases run in order, and later ones rely on what earlier ones established: structure, bounds and shapes, capacity, routes,
//! channels, definition before use, races, deadlock, replicas, provenance.

pub mod bounds;
pub mod capacity;
pub mod channels;
pub mod content;
pub mod deadlock;
pub mod defined;
pub mod field;
pub mod footprint;
pub mod implements;
mod listing;
pub mod mutate;
pub mod provenance;
pub mod races;
pub mod replicas;
pub mod report;
pub mod routes;
pub mod runs;
pub mod shadow;
pub mod shapes;
pub mod trace;

pub use report::{CheckReport, CheckStats, Fault, Finding};

use crate::program::{Instr, Program};
use report::{Findings, Place};
use std::ops::Deref;
use trace::Trace;

/// A value that the checker accepted.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    value: T,
    stats: CheckStats,
}

impl<T> Verified<T> {
    /// What was checked.
    pub fn stats(&self) -> CheckStats {
        self.stats
    }
    /// The value; to run it again it has to be checked again.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Checks a program.
pub fn check(program: Program) -> Result<Verified<Program>, CheckReport> {
    let mut stats = CheckStats::default();
    let mut findings = Findings::new(&program);
    run(&program, &mut findings, &mut stats);
    if findings.is_clean() {
        return Ok(Verified { value: program, stats });
    }
    let (list, total) = (findings.list, findings.total);
    Err(CheckReport { findings: list, total, stats })
}

fn run(program: &Program, findings: &mut Findings<'_>, stats: &mut CheckStats) {
    if let Err(e) = program.validate() {
        findings.add(Fault::Structure, Place::program(), e.to_string());
        return;
    }
    bounds::check(program, findings);
    capacity::check(program, findings);
    routes::check(program, findings);
    if !findings.is_clean() {
        return;
    }
    count(program, stats);
    let trace = Trace::new(program);
    channels::check(program, &trace, findings);
    let accesses = || {
        let mut findings = Findings::new(program);
        defined::check(program, &mut findings);
        races::check(program, &trace, &mut findings);
        findings
    };
    let meaning = || {
        let mut findings = Findings::new(program);
        let order = deadlock::check(program, &trace, &mut findings);
        replicas::check(program, &mut findings);
        let mut reads = 0;
        if findings.is_clean() {
            reads = provenance::check(program, &trace, &order, &mut findings);
        }
        (findings, reads)
    };
    if !findings.is_clean() {
        findings.append(accesses());
        return;
    }
    // Side by side; what the second half finds in a program that the first refuses may be its consequence, and is not told.
    let (first, (second, reads)) = rayon::join(accesses, meaning);
    if first.is_clean() {
        findings.append(second);
        stats.traced_reads = reads;
    } else {
        findings.append(first);
    }
}

fn count(program: &Program, stats: &mut CheckStats) {
    stats.dies = program.dies.len();
    for code in &program.dies {
        stats.peak_sram = stats.peak_sram.max(code.sram_used);
        let mut runs = vec![1u64];
        for instr in &program.streams[code.stream.index()] {
            stats.instructions += 1;
            let times = runs.last().copied().unwrap_or(1);
            let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes.saturating_mul(times));
            let touched: u64 = instr.reads().iter().chain(&instr.writes()).map(|r| r.bytes()).sum();
            match instr {
                Instr::Send { region, .. } => {
                    stats.messages = stats.messages.saturating_add(times as usize);
                    add(&mut stats.message_bytes, region.bytes());
                }
                Instr::Load { out: region, .. } | Instr::Store { region, .. } => add(&mut stats.host_bytes, region.bytes()),
                Instr::Loop { trips, .. } => runs.push(times.saturating_mul(trips.unwrap_or(1))),
                Instr::EndLoop => runs.truncate(runs.len() - 1),
                _ => {}
            }
            if !instr.is_fence() {
                add(&mut stats.sram_bytes, touched);
            }
        }
    }
}

#[cfg(test)]
mod tests;
