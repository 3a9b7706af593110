//! Executes programs.
//!
//! A program of one die without channels runs in host mode, where a team of threads shares every instruction ([`team`]). The streams of several
//! dies are woven into one such program where that is possible ([`mod@weave`]); where it is not, they run in mesh mode, where threads share
//! out dies ([`mesh`]). Both modes prepare each instruction once ([`task`]) and run it by the same kernel calls ([`execute`]), so the bits are the
//! same in either.

mod barrier;
mod beside;
mod clock;
mod collective;
mod deadlock;
mod execute;
mod hosts;
pub(crate) mod loops;
mod mesh;
mod place;
pub(crate) mod queues;
mod split;
mod sram;
mod strided;
mod task;
mod team;
mod views;
mod weave;

pub use clock::{Clock, Span};
pub use deadlock::{Blocked, Cause, Deadlock};
pub use place::Place;

pub(crate) use hosts::Hosts;
pub(crate) use mesh::MeshMachine;
pub(crate) use sram::Sram;
pub(crate) use strided::{copy, part_of};
pub(crate) use team::{HostMachine, Team};
pub(crate) use weave::weave;

/// The text of a panic.
fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
#[cfg(test)]
mod instructions;
#[cfg(test)]
mod loop_tests;
#[cfg(test)]
mod tests;
