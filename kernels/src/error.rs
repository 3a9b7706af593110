//! What a kernel refuses, before it touches any element.

use girih_ir::types::{DType, Layout};

/// Why a kernel did not run. Nothing has been written when one of these is returned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A layout reaches outside its slice.
    #[error(
        "E0741: the layout of operand `{operand}` reaches outside its slice of {len} elements: {layout:?}; check its base, extents and strides"
    )]
    OutOfBounds {
        /// Which operand.
        operand: &'static str,
        /// Elements in the slice.
        len: usize,
        /// The offending layout.
        layout: Box<Layout>,
    },
    /// Extents that do not fit together.
    #[error("E0742: {what}: operand `{operand}` has {have:?}, the others call for {want:?}")]
    Shape {
        /// The rule that is broken.
        what: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Its extents.
        have: Vec<usize>,
        /// The extents that would fit.
        want: Vec<usize>,
    },
    /// An output layout that writes one element twice.
    #[error("E0743: the output layout has stride 0 on dimension {dim} of extent {extent}; an output needs distinct elements")]
    Aliased {
        /// The dimension.
        dim: usize,
        /// Its extent.
        extent: usize,
    },
    /// Elements of a type that the operation does not take there.
    #[error("E0745: operand `{operand}` holds {have}, not {want}")]
    ElementType {
        /// Which operand.
        operand: &'static str,
        /// Its element type.
        have: DType,
        /// The element type that would fit.
        want: DType,
    },
    /// A byte slice that cannot be read as elements.
    #[error("E0746: the bytes of operand `{operand}` do not start at a multiple of the size of {dtype}, or hold a broken element")]
    Misaligned {
        /// Which operand.
        operand: &'static str,
        /// The element type.
        dtype: DType,
    },
    /// A fused program that cannot run.
    #[error("E0747: instruction {slot} of the fused program: {why}")]
    Program {
        /// The instruction.
        slot: usize,
        /// Why.
        why: &'static str,
    },
    /// An attribute outside its range.
    #[error("E0744: attribute `{name}` is {value}: {rule}")]
    Attribute {
        /// The attribute.
        name: &'static str,
        /// Its value.
        value: i64,
        /// What it has to be.
        rule: &'static str,
    },
}

/// Checks that `layout` stays inside a slice of `len` elements, and that its strides are as many as its extents.
pub(crate) fn check_bounds(operand: &'static str, layout: &Layout, len: usize) -> Result<(), KernelError> {
    let inside = layout.strides.len() == layout.dims.len() && layout.extent().is_some_and(|r| r.end <= len || r.is_empty());
    if inside { Ok(()) } else { Err(KernelError::OutOfBounds { operand, len, layout: Box::new(layout.clone()) }) }
}

/// Checks that `layout` can be written: inside the slice, and no stride 0.
pub(crate) fn check_output(layout: &Layout, len: usize) -> Result<(), KernelError> {
    check_bounds("out", layout, len)?;
    match layout.dims.iter().zip(&layout.strides).position(|(d, s)| *d > 1 && *s == 0) {
        Some(dim) => Err(KernelError::Aliased { dim, extent: layout.dims[dim] }),
        None => Ok(()),
    }
}
