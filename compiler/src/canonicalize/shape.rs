//! Rules on ops that only move elements: identities, compositions, and repeated constants that stay repeated constants.

use super::{Rewriter, op_of, splat_of};
use girih_ir::graph::ValueId;
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::ops::broadcast::Broadcast;
use girih_ir::ops::concat::Concat;
use girih_ir::ops::constant::Constant;
use girih_ir::ops::convolution::Convolution;
use girih_ir::ops::pad::Pad;
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::reshape::Reshape;
use girih_ir::ops::reverse::Reverse;
use girih_ir::ops::slice::Slice;
use girih_ir::ops::transpose::Transpose;
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, TensorType, element_count};

/// The simpler value, when a rule applies.
pub(super) fn simplify(rw: &mut Rewriter<'_>, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    let a = *operands.first()?;
    match op {
        Op::Broadcast(b) => broadcast(rw, b, a),
        Op::Reshape(r) => same_splat(rw, a, &r.shape).or_else(|| reshape(rw, &r.shape, a)),
        Op::Transpose(t) => {
            let shape: Dims = t.permutation.iter().map(|p| rw.out.shape(a)[*p]).collect();
            same_splat(rw, a, &shape).or_else(|| transpose(rw, t, a))
        }
        Op::Slice(s) => {
            let shape: Dims = (0..s.start.len()).map(|d| (s.limit[d] - s.start[d]).div_ceil(s.stride[d])).collect();
            same_splat(rw, a, &shape).or_else(|| slice(rw, s, a, &shape))
        }
        Op::Reverse(r) => {
            let shape = Dims::from_slice(rw.out.shape(a));
            same_splat(rw, a, &shape).or_else(|| reverse(rw, r, a))
        }
        Op::Reduce(r) => reduce(rw, r, a),
        Op::Pad(p) => pad(p, a),
        Op::Concat(c) => concat(rw, c, operands),
        Op::DynamicSlice(d) => dynamic_slice(rw, &d.sizes, operands),
        Op::DynamicUpdateSlice(_) => dynamic_update_slice(rw, operands),
        Op::Convolution(c) => convolution(rw, c, operands),
        _ => None,
    }
}

/// A kernel that is reversed along spatial dimensions only: the convolution reads it backwards.
fn convolution(rw: &mut Rewriter<'_>, c: &Convolution, operands: &[ValueId]) -> Option<ValueId> {
    let Op::Reverse(r) = op_of(rw.out, operands[1]) else { return None };
    let mut turned = c.clone();
    for d in &r.dims {
        let at = c.rhs_dims[2..].iter().position(|s| s == d)?;
        turned.reverse[at] = !turned.reverse[at];
    }
    let kernel = rw.out.node(operands[1]).operands[0];
    Some(rw.build(turned.into(), &[operands[0], kernel]))
}

/// A repeated element stays one under another shape.
fn same_splat(rw: &mut Rewriter<'_>, a: ValueId, shape: &[usize]) -> Option<ValueId> {
    let s = splat_of(rw.out, a)?;
    Some(rw.splat(&s, shape))
}

fn is_identity(permutation: &[usize]) -> bool {
    permutation.iter().enumerate().all(|(i, p)| i == *p)
}

/// Dimensions of extent other than 1.
fn solid(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).filter(|d| shape[*d] != 1).collect()
}

fn broadcast(rw: &mut Rewriter<'_>, b: &Broadcast, a: ValueId) -> Option<ValueId> {
    let from = Dims::from_slice(rw.out.shape(a));
    if from == b.shape && is_identity(&b.dims) {
        return Some(a);
    }
    if let Some(s) = splat_of(rw.out, a) {
        // A scalar constant is canonical below its one broadcast.
        return (!matches!(op_of(rw.out, a), Op::Constant(_))).then(|| rw.splat(&s, &b.shape));
    }
    if b.dims.is_sorted() && from.iter().zip(&b.dims).all(|(e, d)| *e == b.shape[*d]) && element_count(&from) == element_count(&b.shape) {
        return Some(rw.build(Reshape { shape: b.shape.clone() }.into(), &[a]));
    }
    let inner = rw.out.node(a).operands.first().copied();
    match (op_of(rw.out, a).clone(), inner) {
        (Op::Broadcast(first), Some(x)) => {
            let dims = first.dims.iter().map(|d| b.dims[*d]).collect();
            Some(rw.build(Broadcast { shape: b.shape.clone(), dims }.into(), &[x]))
        }
        (Op::Reshape(_), Some(x)) => {
            // A reshape that only adds dimensions of extent 1 can be a part of the broadcast.
            let before = Dims::from_slice(rw.out.shape(x));
            let kept = solid(&from);
            let only_adds = !before.contains(&1) && kept.iter().map(|d| from[*d]).eq(before.iter().copied());
            let dims: Vec<usize> = kept.iter().map(|d| b.dims[*d]).collect();
            only_adds.then(|| rw.build(Broadcast { shape: b.shape.clone(), dims }.into(), &[x]))
        }
        _ => None,
    }
}

fn reshape(rw: &mut Rewriter<'_>, shape: &Dims, a: ValueId) -> Option<ValueId> {
    if rw.out.shape(a) == shape.as_slice() {
        return Some(a);
    }
    match op_of(rw.out, a) {
        Op::Reshape(_) => {
            let x = rw.out.node(a).operands[0];
            Some(rw.build(Reshape { shape: shape.clone() }.into(), &[x]))
        }
        Op::Constant(c) => {
            let ty = TensorType { dtype: c.value.ty().dtype, shape: shape.clone() };
            let value = Literal::new(ty, c.value.shared()).ok()?;
            Some(rw.build(Constant { value }.into(), &[]))
        }
        _ => None,
    }
}

fn transpose(rw: &mut Rewriter<'_>, t: &Transpose, a: ValueId) -> Option<ValueId> {
    if is_identity(&t.permutation) {
        return Some(a);
    }
    if let Op::Transpose(first) = op_of(rw.out, a) {
        let permutation = t.permutation.iter().map(|p| first.permutation[*p]).collect();
        let x = rw.out.node(a).operands[0];
        return Some(rw.build(Transpose { permutation }.into(), &[x]));
    }
    // Moving dimensions of extent 1 moves no element.
    let from = rw.out.shape(a);
    let order: Vec<usize> = t.permutation.iter().copied().filter(|p| from[*p] != 1).collect();
    let shape: Dims = t.permutation.iter().map(|p| from[*p]).collect();
    order.is_sorted().then(|| rw.build(Reshape { shape }.into(), &[a]))
}

fn slice(rw: &mut Rewriter<'_>, s: &Slice, a: ValueId, shape: &[usize]) -> Option<ValueId> {
    let from = rw.out.shape(a);
    if from == shape {
        return Some(a); // as many elements as there are: stride 1 from 0, or a single element
    }
    let Op::Slice(first) = op_of(rw.out, a) else { return None };
    if shape.contains(&0) {
        return None;
    }
    let start: Dims = (0..shape.len()).map(|d| first.start[d] + s.start[d] * first.stride[d]).collect();
    let stride: Dims = (0..shape.len()).map(|d| if shape[d] == 1 { 1 } else { first.stride[d] * s.stride[d] }).collect();
    let limit = (0..shape.len()).map(|d| start[d] + (shape[d] - 1) * stride[d] + 1).collect();
    let x = rw.out.node(a).operands[0];
    Some(rw.build(Slice { start, limit, stride }.into(), &[x]))
}

fn reverse(rw: &mut Rewriter<'_>, r: &Reverse, a: ValueId) -> Option<ValueId> {
    let shape = rw.out.shape(a);
    let mut moving: Vec<usize> = r.dims.iter().copied().filter(|d| shape[*d] > 1).collect();
    moving.sort_unstable();
    if moving.is_empty() {
        return Some(a);
    }
    if moving != r.dims {
        return Some(rw.build(Reverse { dims: moving }.into(), &[a]));
    }
    let Op::Reverse(first) = op_of(rw.out, a) else { return None };
    let once: Vec<usize> = (0..shape.len()).filter(|d| moving.contains(d) != first.dims.contains(d)).collect();
    let x = rw.out.node(a).operands[0];
    Some(if once.is_empty() { x } else { rw.build(Reverse { dims: once }.into(), &[x]) })
}

fn reduce(rw: &mut Rewriter<'_>, r: &Reduce, a: ValueId) -> Option<ValueId> {
    let shape = Dims::from_slice(rw.out.shape(a));
    let kept: Dims = r.kept(shape.len()).into_iter().map(|d| shape[d]).collect();
    if r.dims.iter().all(|d| shape[*d] == 1) {
        return Some(rw.build(Reshape { shape: kept }.into(), &[a]));
    }
    let idempotent = matches!(r.monoid, Monoid::Max | Monoid::Min | Monoid::And | Monoid::Or);
    let some = r.dims.iter().all(|d| shape[*d] > 0);
    if idempotent && some { same_splat(rw, a, &kept) } else { None }
}

fn pad(p: &Pad, a: ValueId) -> Option<ValueId> {
    let none = p.low.iter().chain(&p.high).all(|n| *n == 0) && p.interior.iter().all(|n| *n == 0);
    none.then_some(a)
}

/// A box that is the whole, that has just been written, or whose place is known.
fn dynamic_slice(rw: &mut Rewriter<'_>, sizes: &Dims, operands: &[ValueId]) -> Option<ValueId> {
    let (a, starts) = operands.split_first()?;
    let shape = Dims::from_slice(rw.out.shape(*a));
    if shape == *sizes {
        return Some(*a);
    }
    if let (Op::DynamicUpdateSlice(_), [_, update, at @ ..]) = (op_of(rw.out, *a), rw.out.node(*a).operands.as_slice())
        && at == starts
        && rw.out.shape(*update) == sizes.as_slice()
    {
        return Some(*update);
    }
    if let Some(same) = same_splat(rw, *a, sizes) {
        return Some(same);
    }
    let mut start = Dims::new();
    for (d, v) in starts.iter().enumerate() {
        let at = *splat_of(rw.out, *v)?.ints().first()?;
        let unsigned = rw.out.tensor_ty(*v).dtype == DType::U64 && at < 0;
        start.push(if unsigned { shape[d] - sizes[d] } else { at.clamp(0, (shape[d] - sizes[d]) as i64) as usize });
    }
    let limit = start.iter().zip(sizes).map(|(s, n)| s + n).collect();
    Some(rw.build(Slice { start, limit, stride: Dims::from_elem(1, sizes.len()) }.into(), &[*a]))
}

/// An update of everything, of nothing, or with what is there.
fn dynamic_update_slice(rw: &mut Rewriter<'_>, operands: &[ValueId]) -> Option<ValueId> {
    let [a, update, starts @ ..] = operands else { return None };
    let extents = rw.out.shape(*update);
    if rw.out.shape(*a) == extents {
        return Some(*update);
    }
    let read = rw.out.node(*update).operands.as_slice().split_first();
    let same = matches!(op_of(rw.out, *update), Op::DynamicSlice(_)) && read == Some((a, starts));
    (same || extents.contains(&0)).then_some(*a)
}

fn concat(rw: &mut Rewriter<'_>, c: &Concat, operands: &[ValueId]) -> Option<ValueId> {
    if let [a] = operands {
        return Some(*a);
    }
    let filled: Vec<ValueId> = operands.iter().copied().filter(|v| rw.out.shape(*v)[c.dim] > 0).collect();
    if filled.len() < operands.len() && !filled.is_empty() {
        return Some(rw.build(c.clone().into(), &filled));
    }
    let first = splat_of(rw.out, operands[0])?;
    let bits = first.to_literal();
    let same = operands[1..].iter().all(|v| splat_of(rw.out, *v).is_some_and(|s| s.to_literal() == bits));
    let mut shape = Dims::from_slice(rw.out.shape(operands[0]));
    shape[c.dim] = operands.iter().map(|v| rw.out.shape(*v)[c.dim]).sum();
    same.then(|| rw.splat(&first, &shape))
}
