//! Short forms of the nodes that expansions are made of, and arithmetic on [`Number`]s.

use super::Number;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::concat::Concat;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::pad::Pad;
use girih_ir::ops::reverse::Reverse;
use girih_ir::ops::slice::Slice;
use girih_ir::scalar::UnaryFn;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims};

/// The elements `start..limit` along a dimension.
pub(super) fn slice(b: &mut Graph, x: ValueId, dim: usize, start: usize, limit: usize) -> ValueId {
    let shape = Dims::from_slice(b.shape(x));
    if start == 0 && limit == shape[dim] {
        return x;
    }
    let (mut from, mut to) = (Dims::from_elem(0, shape.len()), shape.clone());
    (from[dim], to[dim]) = (start, limit);
    b.emit(Slice { start: from, limit: to, stride: Dims::from_elem(1, shape.len()) }, &[x])
}

/// Tensors one after the other.
pub(super) fn concat(b: &mut Graph, parts: &[ValueId], dim: usize) -> ValueId {
    if let [one] = parts { *one } else { b.emit(Concat { dim }, parts) }
}

/// The order of a dimension reversed.
pub(super) fn reverse(b: &mut Graph, x: ValueId, dims: &[usize]) -> ValueId {
    b.emit(Reverse { dims: dims.to_vec() }, &[x])
}

/// Zeros before and after the elements along a dimension; negative numbers crop.
pub(super) fn pad(b: &mut Graph, x: ValueId, dim: usize, low: i64, high: i64) -> ValueId {
    let ty = b.tensor_ty(x).clone();
    let (mut lows, mut highs) = (vec![0; ty.rank()], vec![0; ty.rank()]);
    (lows[dim], highs[dim]) = (low, high);
    let zero = number(b, ty.dtype, 0);
    b.emit(Pad::edges(lows, highs), &[x, zero])
}

/// Every element is its index along a dimension.
pub(super) fn iota(b: &mut Graph, dtype: DType, shape: &[usize], dim: usize) -> ValueId {
    b.emit(Iota { dtype, shape: Dims::from_slice(shape), dim }, &[])
}

/// A scalar by its integer value; u64 by its bits.
pub(super) fn number(b: &mut Graph, dtype: DType, v: u64) -> ValueId {
    let t = if dtype.is_float() { Tensor::scalar_float(dtype, v as f64) } else { Tensor::scalar_int(dtype, v as i64) };
    b.constant(&t)
}

/// An integer in every element of a tensor like `like`.
pub(super) fn integer_like(b: &mut Graph, like: ValueId, v: u64) -> ValueId {
    let ty = b.tensor_ty(like).clone();
    let c = number(b, ty.dtype, v);
    b.broadcast(c, &ty.shape, &[])
}

/// The last two dimensions swapped.
pub(super) fn swap(b: &mut Graph, x: ValueId) -> ValueId {
    let rank = b.shape(x).len();
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(rank - 1, rank - 2);
    b.transpose(x, &order)
}

/// The product of matrices in the last two dimensions; all others are batch.
pub(super) fn matmul(b: &mut Graph, x: ValueId, y: ValueId) -> ValueId {
    let rank = b.shape(x).len();
    b.emit(DotGeneral::matmul(rank, rank - 2, rank - 2), &[x, y])
}

/// Applies the same rearrangement to both parts.
pub(super) fn each(b: &mut Graph, x: Number, mut f: impl FnMut(&mut Graph, ValueId) -> ValueId) -> Number {
    Number { re: f(b, x.re), im: x.im.map(|im| f(b, im)) }
}

/// Applies the same joining to the parts of several numbers, which are all real or all complex.
pub(super) fn join(b: &mut Graph, parts: &[Number], mut f: impl FnMut(&mut Graph, &[ValueId]) -> ValueId) -> Number {
    let re: Vec<ValueId> = parts.iter().map(|p| p.re).collect();
    let im: Option<Vec<ValueId>> = parts.iter().map(|p| p.im).collect();
    Number { re: f(b, &re), im: im.map(|im| f(b, &im)) }
}

/// A binary operation that distributes over the parts: a sum or difference.
pub(super) fn plus(b: &mut Graph, x: Number, y: Number) -> Number {
    let im = match (x.im, y.im) {
        (Some(p), Some(q)) => Some(b.plus(p, q)),
        (p, q) => p.or(q),
    };
    Number { re: b.plus(x.re, y.re), im }
}

/// x − y
pub(super) fn minus(b: &mut Graph, x: Number, y: Number) -> Number {
    let im = match (x.im, y.im) {
        (Some(p), Some(q)) => Some(b.minus(p, q)),
        (p, None) => p,
        (None, Some(q)) => Some(b.unary(UnaryFn::Neg, q)),
    };
    Number { re: b.minus(x.re, y.re), im }
}

/// A product of any kind that is linear in both arguments.
pub(super) fn product(b: &mut Graph, x: Number, y: Number, mut f: impl FnMut(&mut Graph, ValueId, ValueId) -> ValueId) -> Number {
    let rr = f(b, x.re, y.re);
    match (x.im, y.im) {
        (None, None) => Number::real(rr),
        (Some(p), None) => Number::complex(rr, f(b, p, y.re)),
        (None, Some(q)) => Number::complex(rr, f(b, x.re, q)),
        (Some(p), Some(q)) => {
            let (ii, ri, ir) = (f(b, p, q), f(b, x.re, q), f(b, p, y.re));
            Number::complex(b.minus(rr, ii), b.plus(ri, ir))
        }
    }
}

/// x · y, elementwise.
pub(super) fn times(b: &mut Graph, x: Number, y: Number) -> Number {
    product(b, x, y, |b, x, y| b.times(x, y))
}

/// The complex conjugate.
pub(super) fn conj(b: &mut Graph, x: Number) -> Number {
    Number { re: x.re, im: x.im.map(|im| b.unary(UnaryFn::Neg, im)) }
}
