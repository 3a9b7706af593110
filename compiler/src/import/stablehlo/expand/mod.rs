//! What the IR has no op for, in terms of the ops that it has: CHLO's functions, complex numbers, Fourier transforms, linear algebra, and
//! the random number generators.
//!
//! A tensor of complex numbers is two real tensors, a [`Number`]. The functions add nodes to a graph; `None` says that the operation is
//! not known here, or not for these types.

pub mod bits;
mod build;
pub mod chlo;
pub mod complex;
pub mod fft;
pub mod linalg;
pub mod ragged;
pub mod random;
#[cfg(test)]
mod tests;

use girih_ir::graph::ValueId;

/// A real or complex tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    /// The real part.
    pub re: ValueId,
    /// The imaginary part, of the same type; `None` for a real tensor.
    pub im: Option<ValueId>,
}

impl Number {
    /// A real tensor.
    pub fn real(re: ValueId) -> Self {
        Number { re, im: None }
    }
    /// A complex tensor.
    pub fn complex(re: ValueId, im: ValueId) -> Self {
        Number { re, im: Some(im) }
    }
}

impl From<ValueId> for Number {
    fn from(re: ValueId) -> Self {
        Number::real(re)
    }
}
