//! Constant folding with the reference evaluation, and the one form of repeated constants: a scalar and a broadcast.

use super::{Rewriter, op_of, splat_of};
use girih_ir::attr::Attr;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::tensor::{Data, Tensor};
use girih_ir::types::{TensorType, Type};

/// Constants up to this size may be made by folding; larger ones only when they take less room than what they replace.
const MAX_BYTES: usize = 1 << 20;
/// Operations that one folding may take; the reference evaluation is slow.
const MAX_WORK: u64 = 1 << 22;

/// The constant that an op with constant operands makes.
pub(super) fn fold(rw: &mut Rewriter<'_>, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    match op {
        Op::Constant(c) if c.value.ty().rank() > 0 => {
            let ty = c.value.ty();
            let size = ty.dtype.size();
            let repeated = ty.elements() > 0 && c.value.bytes().chunks_exact(size).all(|e| e == &c.value.bytes()[..size]);
            repeated.then(|| first(&Tensor::from_literal(&c.value))).map(|s| rw.splat(&s, &ty.shape))
        }
        Op::Constant(_) | Op::Input(_) | Op::Proj(_) => None,
        // Constant before the first iteration says nothing about the next.
        Op::Carry(_) | Op::LoopIndex(_) | Op::Repeat(_) | Op::While(_) => None,
        // What one replica evaluates is not what all of them have.
        Op::AllReduce(_) => None,
        Op::Broadcast(_) if splat_of(rw.out, operands[0]).is_some() => None,
        op if op.is_elementwise() => splats(rw, op, operands).or_else(|| dense(rw, op, operands)),
        _ => dense(rw, op, operands),
    }
}

/// An elementwise op on repeated elements: one scalar evaluation.
fn splats(rw: &mut Rewriter<'_>, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    let scalars: Vec<Tensor> = operands.iter().map(|v| splat_of(rw.out, *v)).collect::<Option<_>>()?;
    let types: Vec<Type> = scalars.iter().map(|t| t.ty().clone().into()).collect();
    let out = op.infer(&types.iter().collect::<Vec<_>>()).ok()?;
    let result = op.eval(&scalars.iter().collect::<Vec<_>>(), &out).into_iter().next()?;
    let shape = rw.out.shape(operands[0]).to_vec();
    Some(rw.splat(&result, &shape))
}

/// An op whose operands are all constant and whose result is worth storing.
fn dense(rw: &mut Rewriter<'_>, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    if operands.is_empty() || op.attrs().iter().any(|(_, a)| matches!(a, Attr::Region(_))) {
        return None;
    }
    let stored: Vec<usize> = operands.iter().map(|v| stored_bytes(rw.out, *v)).collect::<Option<_>>()?;
    let types: Vec<&Type> = operands.iter().map(|v| rw.out.ty(*v)).collect();
    let ty = op.infer(&types).ok()?;
    let out = ty.as_tensor()?.clone();
    let small = |t: &TensorType| t.bytes() <= MAX_BYTES;
    let replaced: usize = stored.iter().sum();
    let axes = op.axes(&types, &ty);
    let repeats = operands.iter().zip(&stored).any(|(v, s)| rw.out.tensor_ty(*v).bytes() > *s && !small(rw.out.tensor_ty(*v)));
    if repeats || (!small(&out) && out.bytes() >= replaced) || axes.ops(&axes.full_ranges()).max(out.elements() as u64) > MAX_WORK {
        return None;
    }
    let tensors: Vec<Tensor> = operands.iter().map(|v| materialize(rw.out, *v)).collect::<Option<_>>()?;
    let result = op.eval(&tensors.iter().collect::<Vec<_>>(), &ty).into_iter().next()?;
    Some(constant(rw, &result))
}

/// Bytes that a constant takes in the graph: a repeated one takes one element.
fn stored_bytes(g: &Graph, v: ValueId) -> Option<usize> {
    match op_of(g, v) {
        Op::Constant(c) => Some(c.value.bytes().len()),
        _ => splat_of(g, v).map(|s| s.ty().bytes()),
    }
}

/// The tensor of a constant or a repeated one.
fn materialize(g: &Graph, v: ValueId) -> Option<Tensor> {
    if let Op::Constant(c) = op_of(g, v) {
        return Some(Tensor::from_literal(&c.value));
    }
    let scalar = splat_of(g, v)?;
    let ty = g.tensor_ty(v);
    let fill = std::iter::repeat_n(Some(0), ty.elements());
    Some(Tensor::pick(ty.clone(), &scalar, fill, None))
}

/// A constant in canonical form.
fn constant(rw: &mut Rewriter<'_>, t: &Tensor) -> ValueId {
    let same = match t.data() {
        Data::Float(v) => v.iter().all(|x| x.to_bits() == v[0].to_bits()),
        Data::Int(v) => v.iter().all(|x| *x == v[0]),
    };
    if t.ty().elements() > 0 && same { rw.splat(&first(t), t.shape()) } else { rw.out.constant(t) }
}

/// The first element as a scalar.
fn first(t: &Tensor) -> Tensor {
    Tensor::pick(TensorType::scalar(t.dtype()), t, std::iter::once(Some(0)), None)
}
