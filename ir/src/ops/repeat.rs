//! `repeat`: the end of a loop that runs a known number of times.
//!
//! Operands are the carries of all slots, then the value that each slot has after the iteration; the result is the tuple of what the
//! slots hold at last. The body of the loop is not an attribute: it is every node that depends on a `carry` or the `loop_index` of the
//! loop and on which this node depends (see [`LoopNest`](crate::graph::loops::LoopNest)). What does not depend on them is invariant
//! and computed once, outside.
//! (C1) as many carries as next values, at least one; (C2) each next value has the type of its carry; (C3) operand `k` is the node
//! `carry {loop_id, slot = k}`.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Repeat {
        /// Which loop.
        loop_id: usize,
        /// How often it runs.
        trips: usize,
    }
}

/// The result type of a loop end with these carries and next values.
pub(super) fn infer_end(name: &'static str, ins: &[&TensorType]) -> Result<Type, InferError> {
    let (carries, next) = ins.split_at(ins.len() / 2);
    if carries.is_empty() || carries.len() != next.len() {
        return Err(InferError::new(name, format!("(C1) {} operands are not carries and as many next values", ins.len())));
    }
    if let Some(slot) = (0..carries.len()).find(|k| carries[*k] != next[*k]) {
        let why = format!("(C2) slot {slot} carries {}, but its next value is {}", carries[slot], next[slot]);
        return Err(InferError::new(name, why));
    }
    Ok(Type::Tuple(carries.iter().map(|t| (*t).clone()).collect()))
}

/// A nest in which each slot has loops of its own: carry, next value and result of a slot lie alike.
pub(super) fn end_axes(before: usize, out: &Type) -> Axes {
    let mut loops = Vec::new();
    let mut slots: Vec<Vec<DimUse>> = Vec::new();
    for t in out.components() {
        slots.push((0..t.rank()).map(|d| DimUse::Loop(loops.len() + d)).collect());
        loops.extend(t.shape.iter().map(|d| LoopDim { extent: *d, kind: LoopKind::Parallel }));
    }
    let operands = std::iter::repeat_n(Vec::new(), before).chain(slots.iter().cloned()).chain(slots.iter().cloned()).collect();
    Axes { loops, operands, results: slots, ops_per_point: 0 }
}

impl OpDef for Repeat {
    const NAMES: &'static [&'static str] = &["repeat"];
    fn name(&self) -> &'static str {
        "repeat"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        infer_end("repeat", ins)
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        end_axes(0, out)
    }
    /// One iteration; the interpreter runs the loop.
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        ins[ins.len() / 2..].iter().map(|t| (*t).clone()).collect()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: "repeat", why: "the reverse sweep differentiates a loop as a whole" })
    }
}
