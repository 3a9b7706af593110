//! Runs programs: sessions with state, checkpoints, batches, and the simulator that predicts time and energy.
//!
//! **Invariant:** this crate knows no compiler pass. What it runs has passed `ir::check`, and no choice of threads or instruction set
//! changes a result.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod data;
pub mod error;
#[cfg(test)]
mod loop_programs;
pub mod machine;
pub mod session;
pub mod simulate;
pub mod tensors;
#[cfg(test)]
mod testing;

pub use checkpoint::{Checkpoint, Store, load_latest};
pub use data::{Batches, Cursor, DataOptions, Dataset, Remainder};
pub use error::RuntimeError;
pub use girih_kernels::{Isa, jit, peak, timed};
pub use machine::Span;
pub use session::{CancelToken, Inputs, Outputs, Profile, Progress, RuntimeOptions, Session};
pub use simulate::{Report, SimError, SimOptions, Simulation, simulate, simulate_with};
