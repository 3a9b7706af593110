//! Byte slices with an element type: how untyped memory enters the kernels.
//!
//! A die's SRAM is bytes. A kernel wants typed elements, so a buffer checks once that the bytes are aligned and whole, and gives typed
//! slices after that.

use crate::error::{KernelError, check_bounds, check_output};
use crate::lane::{Lane, Value, by_dtype};
use girih_ir::types::{DType, Layout};

fn check(operand: &'static str, dtype: DType, bytes: &[u8]) -> Result<(), KernelError> {
    let size = dtype.size();
    if !(bytes.as_ptr() as usize).is_multiple_of(size) || !bytes.len().is_multiple_of(size) {
        return Err(KernelError::Misaligned { operand, dtype });
    }
    Ok(())
}

/// A read-only view of elements.
#[derive(Clone, Copy, Debug)]
pub struct Buf<'a> {
    dtype: DType,
    bytes: &'a [u8],
}

/// A writable view of elements.
#[derive(Debug)]
pub struct BufMut<'a> {
    dtype: DType,
    bytes: &'a mut [u8],
}

impl<'a> Buf<'a> {
    /// Bytes as elements of a type. The bytes must start at a multiple of the element size and hold whole elements.
    pub fn new(dtype: DType, bytes: &'a [u8]) -> Result<Self, KernelError> {
        check("input", dtype, bytes)?;
        Ok(Buf { dtype, bytes })
    }

    /// The view of a typed slice. `bool` has no such slice: use [`Buf::new`].
    pub fn of<T: Lane>(elements: &'a [T]) -> Self {
        Buf { dtype: T::DTYPE, bytes: bytemuck::cast_slice(elements) }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements, when `T` has the size of the element type; empty otherwise.
    pub(crate) fn elements<T: bytemuck::Pod>(&self) -> &'a [T] {
        debug_assert_eq!(size_of::<T>(), self.dtype.size());
        bytemuck::try_cast_slice(self.bytes).unwrap_or(&[])
    }
}

impl<'a> BufMut<'a> {
    /// Bytes as elements of a type. The bytes must start at a multiple of the element size and hold whole elements.
    pub fn new(dtype: DType, bytes: &'a mut [u8]) -> Result<Self, KernelError> {
        check("out", dtype, bytes)?;
        Ok(BufMut { dtype, bytes })
    }

    /// The view of a typed slice.
    pub fn of<T: Lane>(elements: &'a mut [T]) -> Self {
        BufMut { dtype: T::DTYPE, bytes: bytemuck::cast_slice_mut(elements) }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// The same elements for a shorter time.
    pub fn reborrow(&mut self) -> BufMut<'_> {
        BufMut { dtype: self.dtype, bytes: self.bytes }
    }
    /// The same elements, for reading.
    pub fn as_buf(&self) -> Buf<'_> {
        Buf { dtype: self.dtype, bytes: self.bytes }
    }
    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The elements, when `T` has the size of the element type; empty otherwise.
    pub(crate) fn elements_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        debug_assert_eq!(size_of::<T>(), self.dtype.size());
        bytemuck::try_cast_slice_mut(self.bytes).unwrap_or(&mut [])
    }

    /// Takes the bytes out; an empty view stays behind until [`put`](Self::put).
    pub(crate) fn take(&mut self) -> BufMut<'a> {
        BufMut { dtype: self.dtype, bytes: std::mem::take(&mut self.bytes) }
    }
    /// Puts back what [`take`](Self::take) took.
    pub(crate) fn put(&mut self, taken: BufMut<'a>) {
        *self = taken;
    }
}

/// Elements to read, in a layout that was checked against them.
#[derive(Clone, Debug)]
pub struct View<'a> {
    buf: Buf<'a>,
    layout: Layout,
}

impl<'a> View<'a> {
    /// The elements of `buf` that `layout` shows; every one must be inside.
    pub fn new(buf: Buf<'a>, layout: Layout) -> Result<Self, KernelError> {
        check_bounds("input", &layout, buf.len())?;
        Ok(View { buf, layout })
    }
    /// All elements of a dense tensor.
    pub fn dense(buf: Buf<'a>, dims: &[usize]) -> Result<Self, KernelError> {
        View::new(buf, Layout::dense(dims))
    }
    /// The element type.
    pub fn dtype(&self) -> DType {
        self.buf.dtype
    }
    /// The elements.
    pub fn buf(&self) -> Buf<'a> {
        self.buf
    }
    /// Where they are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.layout.dims
    }

    /// The integer that a view of one element holds (a `bool` is 0 or 1, u64 keeps its bits, a float is truncated).
    pub fn scalar(&self) -> Result<i64, KernelError> {
        if self.layout.elements() != 1 {
            let have = self.layout.dims.to_vec();
            return Err(KernelError::Shape { what: "a scalar has one element", operand: "scalar", have, want: Vec::new() });
        }
        Ok(by_dtype!(self.dtype(), L => self.buf.elements::<L>()[self.layout.base].widen().to_i64()))
    }
}

/// Elements to write, in a layout that was checked against them: no two indices are one element by a stride of 0.
#[derive(Debug)]
pub struct ViewMut<'a> {
    buf: BufMut<'a>,
    layout: Layout,
}

impl<'a> ViewMut<'a> {
    /// The elements of `buf` that `layout` shows; every one must be inside, and no stride 0.
    pub fn new(buf: BufMut<'a>, layout: Layout) -> Result<Self, KernelError> {
        check_output(&layout, buf.len())?;
        Ok(ViewMut { buf, layout })
    }
    /// All elements of a dense tensor.
    pub fn dense(buf: BufMut<'a>, dims: &[usize]) -> Result<Self, KernelError> {
        ViewMut::new(buf, Layout::dense(dims))
    }
    /// The element type.
    pub fn dtype(&self) -> DType {
        self.buf.dtype
    }
    /// The elements.
    pub fn buf(&mut self) -> &mut BufMut<'a> {
        &mut self.buf
    }
    /// The same elements, for reading.
    pub fn as_buf(&self) -> Buf<'_> {
        self.buf.as_buf()
    }
    /// Where they are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.layout.dims
    }
    /// The typed elements and the layout.
    pub(crate) fn parts<T: bytemuck::Pod>(&mut self) -> (&mut [T], &Layout) {
        (self.buf.elements_mut(), &self.layout)
    }
}

/// Checks that an operand holds a type.
pub(crate) fn check_type(operand: &'static str, have: DType, want: DType) -> Result<(), KernelError> {
    if have == want { Ok(()) } else { Err(KernelError::ElementType { operand, have, want }) }
}

/// Checks extents.
pub(crate) fn check_shape(what: &'static str, operand: &'static str, have: &[usize], want: &[usize]) -> Result<(), KernelError> {
    if have == want { Ok(()) } else { Err(KernelError::Shape { what, operand, have: have.to_vec(), want: want.to_vec() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_and_ragged_bytes_are_refused() {
        let data = [0.0f32; 4];
        let bytes: &[u8] = bytemuck::cast_slice(&data);
        assert_eq!(Buf::new(DType::F32, bytes).unwrap().len(), 4);
        assert!(matches!(Buf::new(DType::F32, &bytes[1..5]), Err(KernelError::Misaligned { .. })));
        assert!(matches!(Buf::new(DType::F32, &bytes[..6]), Err(KernelError::Misaligned { .. })));
        assert_eq!(Buf::new(DType::Bool, &bytes[1..4]).unwrap().len(), 3);
    }
}
