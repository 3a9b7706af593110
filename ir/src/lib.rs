//! girih's nouns: types, ops, the tensor graph, targets, programs, and the independent checker of programs.
//!
//! **Invariant:** this crate knows no pass, no kernel and no thread; everything else depends on it.
#![forbid(unsafe_code)]

pub mod attr;
pub mod axes;
pub mod check;
pub mod float;
pub mod fused;
pub mod graph;
pub mod ids;
pub mod interp;
pub mod literal;
pub mod ops;
pub mod program;
pub mod scalar;
pub mod small_float;
pub mod special;
pub mod step;
pub mod target;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;
