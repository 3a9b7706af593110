//! Simulates programs: the same streams, the same queues, credits and waits as the runtime, on the target's figures instead of on data.
//!
//! A discrete-event simulation. Each die runs its stream in order; what it computes costs what [`cost`](mod@cost) says. Queues work beside it, each one
//! entry at a time in order. A message starts when its queue is free and its channel has a credit, no sooner than the message overhead after it was issued, and then
//! crosses its links one after the other, cut-through: it reserves each link for `bytes / bandwidth` from the moment its head is there and the
//! link is free (first come, first served), and its head is at the next link a hop latency later. A blocked message holds no earlier
//! link. A send completes when its last byte has left; a receive when the last byte is there, and a combining one after the combination. Loads and
//! stores also reserve the nearest port and the host's total bandwidth, and pay the host's latency. Credits return at once. Engines and queues
//! do not slow each other down in SRAM.
//!
//! Some targets say more about their network. With a *ramp*, all messages of a die share the way between its SRAM and its router, one after the
//! other. With *streaming*, a combining receive works word by word as a message comes, and the send of what a receive makes (when nothing between
//! them uses it) leaves a word's time behind it. Where transfers run *on the engine*, the next computation is longer by the time of those that are on
//! their way.
//!
//! Of a program with replicas one is simulated, for all of them do the same at the same time. An `all_reduce` goes through the chain of its die
//! position over all packages ([`Target::all_reduce_time`](girih_ir::target::Target::all_reduce_time)): one after the other enters it, and its result is there when
//! the chain has carried it up and back.
//!
//! Loops are simulated iteration by iteration: a `loop`, `exit_unless` or `end_loop` waits for the queues of its die and then costs the launch
//! overhead. How often a loop without a number of trips runs is an option, and said in the report. A loop whose body runs more than 64 times is
//! extrapolated once the machine repeats itself: when everything that is in motion is where it was one period before, all of it is moved on by
//! as many periods as no loop ends in ([`period`]). The result is that of simulating every iteration, up to rounding.
//!
//! Times are deterministic: events of one moment happen in the order in which they were made.

pub mod cost;
pub mod derive;
mod engine;
mod model;
mod path;
mod period;
mod power;
pub mod report;
mod timeline;
pub mod trace;

pub use derive::{Derivation, Derived};
pub use path::node_of;
pub use report::{Contributor, DieReport, Energy, LinkReport, LoopReport, PathStep, Report};
pub use timeline::Lane;

use crate::machine::Deadlock;
use engine::Act;
use girih_ir::program::Program;
use std::collections::BTreeSet;
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
    /// The activities that stand for extrapolated iterations.
    skips: BTreeSet<u32>,
    finish: Vec<f64>,
}

/// What the simulator cannot know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimOptions {
    /// How often a loop runs that has no number of trips.
    pub while_iterations: u64,
    /// Runs of a loop's body, those by loops around it included, up to which all of them are simulated.
    pub real: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions { while_iterations: 1, real: 64 }
    }
}

/// Simulates one step of the program on its target. The program need not have passed the checker.
pub fn simulate(program: &Program) -> Result<Simulation<'_>, SimError> {
    simulate_with(program, SimOptions::default())
}

/// [`simulate`] with other assumptions.
pub fn simulate_with(program: &Program, options: SimOptions) -> Result<Simulation<'_>, SimError> {
    let outcome = engine::run(program, options)?;
    let report = report::build(program, &outcome);
    let finish = outcome.dies.iter().map(|d| d.finish).collect();
    let skips = outcome.skips.into_keys().collect();
    Ok(Simulation { report, program, acts: outcome.acts, skips, finish })
}

impl Simulation<'_> {
    /// How the numbers of the report come about.
    pub fn derive(&self) -> Derivation {
        derive::derive(self.program, &self.report)
    }

    /// When each die with code was done, in seconds, in their order.
    pub fn finish_times(&self) -> &[f64] {
        &self.finish
    }

    /// The step cut into equal slices: how busy every die with code is in each of them.
    pub fn lanes(&self, slices: usize) -> Vec<Lane> {
        timeline::lanes(self.program, &self.acts, &self.skips, self.report.makespan, slices)
    }

    /// Writes the timeline as Chrome trace events, which Perfetto and `chrome://tracing` open.
    pub fn write_trace(&self, to: &mut dyn io::Write) -> io::Result<()> {
        trace::write(self.program, &self.acts, to)
    }
}

#[cfg(test)]
mod tests;
