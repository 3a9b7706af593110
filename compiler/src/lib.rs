//! girih's verbs: from a model file to one instruction stream per die.
//!
//! **Invariant:** a pass reads its level and returns the next one; only `pipeline` knows the order. Nothing here executes a program.
#![forbid(unsafe_code)]

pub mod autodiff;
pub mod canonicalize;
pub mod collectives;
pub mod fuse;
pub mod import;
pub mod levels;
pub mod lower;
pub mod memory;
pub mod optimize;
pub mod partition;
pub mod pipeline;
pub mod place;
pub mod precision;
pub mod schedule;
pub mod sharded;
pub mod slices;
pub mod stages;
pub mod train;
