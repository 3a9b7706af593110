//! The dynamic forms of ops, whose shapes and starts are operands: supported where those are known at import.

use super::super::module::Operation;
use super::{Converter, Frame, Parts, Res, attrs, malformed, one, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::iota::Iota;
use girih_ir::types::{Dims, element_count};

impl<'a> Converter<'a> {
    /// The extents that operand `index` holds, or those that the file declares for the result.
    fn wanted_shape(&mut self, frame: &Frame<'a>, op: &Operation, index: usize) -> Res<Dims> {
        if let Ok(ty) = self.result(frame, op, 0) {
            return Ok(ty.shape);
        }
        let v = self.operand(frame, op, index)?;
        let shape = extents(self.known_ints(v, "shape")?)?;
        if element_count(&shape) > self.options.limits.elements || shape.len() > self.options.limits.rank {
            return malformed(format!("a tensor of shape {shape:?} exceeds the limits"));
        }
        Ok(shape)
    }

    /// `dynamic_reshape`
    pub fn dynamic_reshape_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let shape = self.wanted_shape(frame, op, 1)?;
        self.on_parts(frame, op, |cx, v| cx.reshape_to(v, &shape))
    }

    /// `dynamic_broadcast_in_dim`
    pub fn dynamic_broadcast_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let shape = self.wanted_shape(frame, op, 1)?;
        let dims = attrs::dims(&op.attrs, "broadcast_dimensions")?;
        self.on_parts(frame, op, |cx, v| cx.broadcast_to(v, &shape, &dims))
    }

    /// `dynamic_iota`
    pub fn dynamic_iota_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let Ok(ty) = self.result(frame, op, 0) else { return unsupported("a result whose element type is not known") };
        let dim = attrs::need_size(&op.attrs, "iota_dimension")?;
        Ok(one(self.add(Iota { dtype: ty.dtype, shape: ty.shape, dim }, &[])?))
    }

    /// `dynamic_pad`
    pub fn dynamic_pad_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [x, fill, low, high, interior] = self.exactly(frame, op)?;
        let low = self.known_ints(low, "padding")?;
        let high = self.known_ints(high, "padding")?;
        let interior = extents(self.known_ints(interior, "padding")?)?;
        Ok(one(self.pad(x, fill, &low, &high, &interior)?))
    }

    /// `real_dynamic_slice`
    pub fn real_dynamic_slice_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [x, start, limit, stride] = self.exactly(frame, op)?;
        let mut list = |v: ValueId| self.known_ints(v, "slice").and_then(extents);
        let (start, limit, stride) = (list(start)?, list(limit)?, list(stride)?);
        Ok(one(self.slice_of(x, &start, &limit, &stride)?))
    }

    /// `dynamic_gather`
    pub fn dynamic_gather_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let sizes = self.operand(frame, op, 2)?;
        let sizes = extents(self.known_ints(sizes, "slice size")?)?;
        self.gather_with(frame, op, sizes)
    }

    /// `dynamic_conv`
    pub fn dynamic_conv_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let padding = self.operand(frame, op, 2)?;
        let padding = self.known_ints(padding, "padding")?;
        let low = padding.iter().step_by(2).copied().collect();
        let high = padding.iter().skip(1).step_by(2).copied().collect();
        self.convolution_with(frame, op, low, high)
    }

    /// `set_dimension_size` where it changes nothing.
    pub fn set_dimension_size_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let dim = attrs::need_size(&op.attrs, "dimension")?;
        let size = self.operand(frame, op, 1)?;
        let size = self.known_ints(size, "extent")?;
        self.on_parts(frame, op, |cx, v| match cx.graph.shape(v).get(dim) {
            Some(e) if size == [*e as i64] => Ok(v),
            _ => unsupported("extents that change at run time"),
        })
    }
}

/// Integers as extents.
fn extents(list: Vec<i64>) -> Res<Dims> {
    let dims: Result<Dims, _> = list.into_iter().map(usize::try_from).collect();
    dims.or_else(|_| malformed("a negative extent"))
}
