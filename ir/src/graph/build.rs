//! Short names for the ops that compiler passes and VJPs emit. Each panics only on a bug of its caller: the operands must fit.

use super::{Graph, ValueId};
use crate::ops::Op;
use crate::ops::elementwise::{Binary, Compare, Convert, Select, Unary};
use crate::ops::{broadcast::Broadcast, constant::Constant, proj::Proj, reduce::Reduce, reshape::Reshape, transpose::Transpose};
use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType};

impl Graph {
    /// Adds an op whose operands are known to fit.
    pub fn emit(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
        let op = op.into();
        let name = op.name();
        match self.add(op, operands) {
            Ok(v) => v,
            Err(e) => unreachable!("an internal {name} does not type: {e}"),
        }
    }
    /// A function of one value.
    pub fn unary(&mut self, f: UnaryFn, a: ValueId) -> ValueId {
        self.emit(Unary(f), &[a])
    }
    /// A function of two values of one type.
    pub fn binary(&mut self, f: BinaryFn, a: ValueId, b: ValueId) -> ValueId {
        self.emit(Binary(f), &[a, b])
    }
    /// a + b
    pub fn plus(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFn::Add, a, b)
    }
    /// a − b
    pub fn minus(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFn::Sub, a, b)
    }
    /// a · b, elementwise
    pub fn times(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFn::Mul, a, b)
    }
    /// a / b, elementwise
    pub fn over(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFn::Div, a, b)
    }
    /// A comparison.
    pub fn compare(&mut self, f: CompareFn, a: ValueId, b: ValueId) -> ValueId {
        self.emit(Compare(f), &[a, b])
    }
    /// a where c, else b.
    pub fn select(&mut self, c: ValueId, a: ValueId, b: ValueId) -> ValueId {
        self.emit(Select {}, &[c, a, b])
    }
    /// A conversion; nothing when the type is already that.
    pub fn convert(&mut self, a: ValueId, to: DType) -> ValueId {
        if self.tensor_ty(a).dtype == to { a } else { self.emit(Convert { to }, &[a]) }
    }
    /// A constant tensor.
    pub fn constant(&mut self, t: &Tensor) -> ValueId {
        self.emit(Constant { value: t.to_literal() }, &[])
    }
    /// A tensor of one repeated number (truncated for integer types).
    pub fn splat(&mut self, ty: &TensorType, v: f64) -> ValueId {
        let scalar = if ty.dtype.is_float() { Tensor::scalar_float(ty.dtype, v) } else { Tensor::scalar_int(ty.dtype, v as i64) };
        let c = self.constant(&scalar);
        self.broadcast(c, &ty.shape, &[])
    }
    /// A tensor of one repeated number with the type of another value.
    pub fn splat_like(&mut self, like: ValueId, v: f64) -> ValueId {
        let ty = self.tensor_ty(like).clone();
        self.splat(&ty, v)
    }
    /// Operand dimension `i` becomes result dimension `dims[i]`; the rest repeats. Nothing when that changes nothing.
    pub fn broadcast(&mut self, a: ValueId, shape: &[usize], dims: &[usize]) -> ValueId {
        if self.shape(a) == shape && dims.iter().enumerate().all(|(i, d)| i == *d) {
            return a;
        }
        self.emit(Broadcast { shape: Dims::from_slice(shape), dims: dims.to_vec() }, &[a])
    }
    /// Combines over dimensions, which disappear. Nothing when there are none.
    pub fn reduce(&mut self, monoid: Monoid, a: ValueId, dims: &[usize]) -> ValueId {
        if dims.is_empty() { a } else { self.emit(Reduce { monoid, dims: dims.to_vec() }, &[a]) }
    }
    /// Sums over dimensions, which disappear.
    pub fn sum(&mut self, a: ValueId, dims: &[usize]) -> ValueId {
        self.reduce(Monoid::Sum, a, dims)
    }
    /// The same elements in another shape.
    pub fn reshape(&mut self, a: ValueId, shape: &[usize]) -> ValueId {
        if self.shape(a) == shape { a } else { self.emit(Reshape { shape: Dims::from_slice(shape) }, &[a]) }
    }
    /// Result dimension `i` is operand dimension `permutation[i]`.
    pub fn transpose(&mut self, a: ValueId, permutation: &[usize]) -> ValueId {
        if permutation.iter().enumerate().all(|(i, p)| i == *p) {
            return a;
        }
        self.emit(Transpose { permutation: permutation.to_vec() }, &[a])
    }
    /// Component `index` of a tuple.
    pub fn proj(&mut self, tuple: ValueId, index: usize) -> ValueId {
        self.emit(Proj { index }, &[tuple])
    }
}
