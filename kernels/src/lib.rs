//! Arithmetic on slices: the kernels that every die and the host run.
//!
//! A kernel takes element slices plus [`Layout`](girih_ir::types::Layout)s that say how to walk them, and an [`Isa`] that says which
//! instruction set to use.
//! The layouts are validated once, at the entry; after that nothing can go out of bounds.
//! Results do not depend on the instruction set, on how a call is cut into smaller calls, or on the number of threads: the order in
//! which the terms of every output element are summed is fixed, and it is written down at [`gemm`](mod@gemm).
//! Intrinsics live in `arch` alone, behind safe functions on slices, each with a scalar twin that gives the same bits.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod arch;
pub mod attention;
pub mod buffer;
pub mod conv;
pub mod copy;
pub mod element;
pub mod error;
pub mod gather;
pub mod gemm;
pub mod isa;
pub mod jit;
pub mod lane;
pub mod map;
pub mod peak;
pub mod random;
pub mod reduce;
pub mod scan;
pub mod scratch;
pub mod sort;
pub mod timed;
pub mod window;

pub use buffer::{Buf, BufMut, View, ViewMut};
pub use error::KernelError;
pub use isa::Isa;
pub use scratch::Scratch;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
