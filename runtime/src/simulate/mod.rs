//! Simulates programs: the same streams, the same queues, credits and waits as the runtime, on the target's figures instead of on data.
//!
//! A discrete-event simulation. Each die runs its stream in order; what it computes costs what [`cost`](mod@cost) says. Queues work beside it, each one
//! entry at a time in order. A message starts when its queue is free and its channel has a credit, pays the message overhead, and then
//! crosses its links one after the other, cut-through: it reserves each link for `bytes / bandwidth` from the moment its head is there and the
//! link is free (first come, first served), and its head is at the next link a hop latency later. A blocked message holds no earlier
//! link. A send completes when its last byte has left; a receive when the last byte is there, and a combining one after the combination. Loads and
//! stores also reserve the nearest port and the host's total bandwidth, and pay the host's latency. Credits return at once. Engines and queues
//! do not slow each other down in SRAM.
//!
//! Times are deterministic: events of one moment happen in the order in which they were made.

pub mod cost;
mod engine;
mod model;
mod path;
pub mod report;
pub mod trace;

pub use report::{Contributor, DieReport, Energy, LinkReport, PathStep, Report};

use crate::machine::Deadlock;
use engine::Act;
use girih_ir::program::Program;
use std::io;

/// Why a program cannot be simulated.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The program names something that does not exist.
    #[error("E0750: {place}: {why}; run `girih check` on the program")]
    Program {
        /// Die and instruction, or the channel.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// No die can go on.
    #[error("E0751: deadlock: no die can go on\n{0}")]
    Deadlock(Deadlock),
}

/// A finished simulation: the report, and what happened when.
#[derive(Clone, Debug)]
pub struct Simulation<'p> {
    /// The numbers.
    pub report: Report,
    program: &'p Program,
    acts: Vec<Act>,
}

/// Simulates one step of the program on its target. The program need not have passed the checker.
pub fn simulate(program: &Program) -> Result<Simulation<'_>, SimError> {
    let outcome = engine::run(program)?;
    let report = report::build(program, &outcome);
    Ok(Simulation { report, program, acts: outcome.acts })
}

impl Simulation<'_> {
    /// Writes the timeline as Chrome trace events, which Perfetto and `chrome://tracing` open.
    pub fn write_trace(&self, to: &mut dyn io::Write) -> io::Result<()> {
        trace::write(self.program, &self.acts, to)
    }
}

#[cfg(test)]
mod tests;
