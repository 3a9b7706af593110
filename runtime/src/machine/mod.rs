//! Executes programs.
//!
//! A program of one die without channels runs in host mode, where a team of threads shares every instruction ([`team`]); every other program
//! runs in mesh mode, where threads share out dies ([`mesh`]). Both prepare each instruction once ([`task`]) and run it by the same
//! kernel calls ([`execute`]), so one die gives the same bits in either mode.

mod barrier;
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

pub use clock::{Clock, Span};
pub use deadlock::{Blocked, Cause, Deadlock};
pub use place::Place;

pub(crate) use hosts::Hosts;
pub(crate) use mesh::MeshMachine;
pub(crate) use sram::Sram;
pub(crate) use strided::{copy, part_of};
pub(crate) use team::{HostMachine, Team};

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
