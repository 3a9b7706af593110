//! Ops that make and move elements: constants, iota, broadcasts, reshapes, slices, padding, and the tuple ops.

use super::super::module::{Element, ModuleAttr, ModuleType, Operation};
use super::{Converter, Frame, Parts, Res, attrs, malformed, one, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::{
    broadcast::Broadcast, concat::Concat, constant::Constant, iota::Iota, pad::Pad, reshape::Reshape, reverse::Reverse, slice::Slice,
    transpose::Transpose,
};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};
use smallvec::smallvec;

impl<'a> Converter<'a> {
    /// `constant`; a splat is a scalar that is repeated.
    pub fn constant_op(&mut self, op: &Operation) -> Res<Vec<Parts>> {
        let Some(ModuleAttr::Dense(d)) = op.attrs.get("value") else {
            return malformed("a constant needs a dense attribute `value`");
        };
        let literals = match &d.element {
            Element::Complex(part) => attrs::complex_literals(d, *part)?.to_vec(),
            other => match attrs::dense_literal(d)? {
                Some(literal) => vec![literal],
                None => return unsupported(format!("the element type {other}")),
            },
        };
        let mut parts = Parts::new();
        for value in literals {
            let ty = value.ty().clone();
            let same = |l: &girih_ir::literal::Literal| {
                let size = ty.dtype.size();
                l.bytes().len() > size && l.bytes().chunks_exact(size).all(|c| c == &l.bytes()[..size])
            };
            // A tensor of equal elements is a splat, however the file writes it.
            let value = match !d.splat && ty.elements() <= 1 << 20 && same(&value) {
                true => match girih_ir::literal::Literal::new(TensorType::scalar(ty.dtype), value.bytes()[..ty.dtype.size()].to_vec()) {
                    Ok(scalar) => scalar,
                    Err(_) => value,
                },
                false => value,
            };
            let scalar = value.ty().rank() == 0;
            let v = self.add(Constant { value }, &[])?;
            parts.push(if scalar { self.graph.broadcast(v, &d.shape, &[]) } else { v });
        }
        Ok(vec![parts])
    }

    /// `iota`
    pub fn iota_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let want = self.result_leaves(frame, op, 0)?;
        let dim = attrs::need_size(&op.attrs, "iota_dimension")?;
        let Some(ty) = want.first() else { return malformed("iota makes a tensor") };
        let re = self.add(Iota { dtype: ty.dtype, shape: ty.shape.clone(), dim }, &[])?;
        if want.len() == 1 {
            return Ok(one(re));
        }
        let im = self.graph.splat_like(re, 0.0);
        Ok(vec![smallvec![re, im]])
    }

    /// `broadcast_in_dim`
    pub fn broadcast_in_dim_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let shape = self.result(frame, op, 0)?.shape;
        let dims = attrs::dims(&op.attrs, "broadcast_dimensions")?;
        if shape.is_empty() && dims.is_empty() {
            return Ok(vec![self.operand_parts(frame, op, 0)?]);
        }
        self.on_parts(frame, op, |cx, v| cx.broadcast_to(v, &shape, &dims))
    }

    /// Operand dimension `i` becomes dimension `dims[i]` of this shape.
    pub fn broadcast_to(&mut self, v: ValueId, shape: &[usize], dims: &[usize]) -> Res<ValueId> {
        if self.graph.shape(v) == shape && dims.iter().enumerate().all(|(i, d)| i == *d) {
            return Ok(v);
        }
        self.add(Broadcast { shape: Dims::from_slice(shape), dims: dims.to_vec() }, &[v])
    }

    /// `broadcast`: new leading dimensions.
    pub fn broadcast_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let sizes = attrs::need_dims(&op.attrs, "broadcast_sizes")?;
        self.on_parts(frame, op, |cx, v| {
            let own = cx.dims(v);
            let shape: Dims = sizes.iter().chain(&own).copied().collect();
            let dims: Vec<usize> = (sizes.len()..shape.len()).collect();
            cx.broadcast_to(v, &shape, &dims)
        })
    }

    /// `reshape`
    pub fn reshape_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let shape = self.result(frame, op, 0)?.shape;
        if shape.is_empty() && op.operands.first().is_some_and(|v| self.is_lifted(frame, *v)) {
            return Ok(vec![self.operand_parts(frame, op, 0)?]);
        }
        self.on_parts(frame, op, |cx, v| cx.reshape_to(v, &shape))
    }

    /// The same elements in this shape.
    pub fn reshape_to(&mut self, v: ValueId, shape: &[usize]) -> Res<ValueId> {
        if self.graph.shape(v) == shape { Ok(v) } else { self.add(Reshape { shape: Dims::from_slice(shape) }, &[v]) }
    }

    /// `transpose`
    pub fn transpose_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let permutation = attrs::dims(&op.attrs, "permutation")?;
        self.on_parts(frame, op, |cx, v| {
            let same = permutation.len() == cx.graph.shape(v).len() && permutation.iter().enumerate().all(|(i, p)| i == *p);
            if same { Ok(v) } else { cx.add(Transpose { permutation: permutation.clone() }, &[v]) }
        })
    }

    /// `slice`
    pub fn slice_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let start = attrs::dims(&op.attrs, "start_indices")?;
        let limit = attrs::dims(&op.attrs, "limit_indices")?;
        let stride = attrs::ones(&op.attrs, "strides", start.len())?;
        self.on_parts(frame, op, |cx, v| cx.slice_of(v, &start, &limit, &stride))
    }

    /// Every `stride`-th element from `start` to before `limit`.
    pub fn slice_of(&mut self, v: ValueId, start: &[usize], limit: &[usize], stride: &[usize]) -> Res<ValueId> {
        if start.iter().all(|s| *s == 0) && self.graph.shape(v) == limit && stride.iter().all(|s| *s == 1) {
            return Ok(v);
        }
        let all = |l: &[usize]| Dims::from_slice(l);
        self.add(Slice { start: all(start), limit: all(limit), stride: all(stride) }, &[v])
    }

    /// `concatenate`
    pub fn concatenate_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let dim = attrs::need_size(&op.attrs, "dimension")?;
        let all: Res<Vec<Parts>> = (0..op.operands.len()).map(|i| self.operand_parts(frame, op, i)).collect();
        let all = all?;
        let count = all.first().map_or(0, |p| p.len());
        if all.iter().any(|p| p.len() != count) {
            return malformed("operands of one concatenation have different types");
        }
        let joined: Res<Parts> = (0..count)
            .map(|k| {
                let values: Vec<ValueId> = all.iter().map(|p| p[k]).collect();
                self.concat(&values, dim)
            })
            .collect();
        Ok(vec![joined?])
    }

    /// Tensors one after the other.
    pub fn concat(&mut self, values: &[ValueId], dim: usize) -> Res<ValueId> {
        match values {
            [v] => Ok(*v),
            _ => self.add(Concat { dim }, values),
        }
    }

    /// `pad`
    pub fn pad_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let low = attrs::ints(&op.attrs, "edge_padding_low")?.unwrap_or_default();
        let high = attrs::ints(&op.attrs, "edge_padding_high")?.unwrap_or_default();
        let interior = match op.attrs.contains_key("interior_padding") {
            true => attrs::dims(&op.attrs, "interior_padding")?,
            false => vec![0; low.len()],
        };
        let fills = self.operand_parts(frame, op, 1)?;
        let values = self.operand_parts(frame, op, 0)?;
        if fills.len() != values.len() {
            return malformed("the fill of a padding must have the element type of the tensor");
        }
        let padded: Res<Parts> = values.iter().zip(&fills).map(|(v, f)| self.pad(*v, *f, &low, &high, &interior)).collect();
        Ok(vec![padded?])
    }

    /// A tensor with fill around and between its elements.
    pub fn pad(&mut self, v: ValueId, fill: ValueId, low: &[i64], high: &[i64], interior: &[usize]) -> Res<ValueId> {
        if low.iter().chain(high).all(|p| *p == 0) && interior.iter().all(|p| *p == 0) && low.len() == self.graph.shape(v).len() {
            return Ok(v);
        }
        self.add(Pad { low: low.to_vec(), high: high.to_vec(), interior: Dims::from_slice(interior) }, &[v, fill])
    }

    /// `reverse`
    pub fn reverse_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let dims = attrs::dims(&op.attrs, "dimensions")?;
        self.on_parts(frame, op, |cx, v| if dims.is_empty() { Ok(v) } else { cx.add(Reverse { dims: dims.clone() }, &[v]) })
    }

    /// `get_dimension_size`
    pub fn dimension_size_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let dim = attrs::need_size(&op.attrs, "dimension")?;
        let parts = self.operand_parts(frame, op, 0)?;
        let extent = parts.first().and_then(|v| self.graph.shape(*v).get(dim).copied());
        match extent {
            Some(e) => Ok(one(self.graph.constant(&Tensor::scalar_int(DType::I32, e as i64)))),
            None => malformed(format!("the operand has no dimension {dim}")),
        }
    }

    /// `tuple`
    pub fn tuple_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let mut all = Parts::new();
        for i in 0..op.operands.len() {
            all.extend(self.operand_parts(frame, op, i)?);
        }
        Ok(vec![all])
    }

    /// `get_tuple_element`
    pub fn tuple_element_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let index = attrs::need_size(&op.attrs, "index")?;
        let parts = self.operand_parts(frame, op, 0)?;
        let Some(ModuleType::Tuple(members)) = op.operands.first().and_then(|v| frame.function.types.get(v.index())) else {
            return malformed("get_tuple_element takes a tuple");
        };
        if index >= members.len() {
            return malformed(format!("the tuple has no member {index}"));
        }
        let mut at = 0;
        for m in &members[..index] {
            at += super::leaves(m)?.len();
        }
        let count = super::leaves(&members[index])?.len();
        match parts.get(at..at + count) {
            Some(own) => Ok(vec![Parts::from_slice(own)]),
            None => malformed("the tuple has fewer members than its type"),
        }
    }

    /// A scalar of a type that is known to be a number type.
    pub fn scalar(&mut self, dtype: DType, v: i64) -> ValueId {
        let t = if dtype.is_float() { Tensor::scalar_float(dtype, v as f64) } else { Tensor::scalar_int(dtype, v) };
        self.graph.constant(&t)
    }
}
