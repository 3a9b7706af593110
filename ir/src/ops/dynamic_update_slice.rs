//! `dynamic_update_slice`: a tensor with a box of it replaced, whose start is computed (StableHLO `dynamic_update_slice`).
//!
//! Starts are clamped so that the box fits.
//! (C1) a tensor, an update of its element type and rank, and one integer scalar a dimension, all of one type;
//! (C2) no extent of the update is above the tensor's.

use super::dynamic_slice::{DynamicSlice, clamped_starts, starts_fit};
use super::elementwise::{tensor, wides};
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    DynamicUpdateSlice {}
}

impl OpDef for DynamicUpdateSlice {
    const NAMES: &'static [&'static str] = &["dynamic_update_slice"];
    fn name(&self) -> &'static str {
        "dynamic_update_slice"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let err = |why: String| Err(InferError::new("dynamic_update_slice", why));
        let [a, update, starts @ ..] = ins else { return err("(C1) takes a tensor, an update and starts".into()) };
        if a.dtype != update.dtype || a.rank() != update.rank() || !starts_fit(a.rank(), starts) {
            return err(format!("(C1) {update} at {starts:?} is not an update of {a}"));
        }
        if update.shape.iter().zip(&a.shape).any(|(u, e)| u > e) {
            return err(format!("(C2) {update} does not fit {a}"));
        }
        Ok((*a).clone().into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let (a, update) = (ins[0], ins[1]);
        let mut axes = Axes::elementwise(&out.components()[0].shape, 1, 0);
        let mut uses = vec![DimUse::Whole; a.rank()];
        for (d, along) in uses.iter_mut().enumerate() {
            if update.shape[d] == a.shape[d] {
                *along = DimUse::Loop(d);
            } else {
                axes.loops[d].kind = LoopKind::Whole;
            }
        }
        axes.operands.push(uses);
        axes.operands.resize(ins.len(), Vec::new());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, update) = (ins[0], ins[1]);
        let start = clamped_starts(a.shape(), update.shape(), &ins[2..]);
        let mut values = wides(a);
        for (i, v) in indices(update.shape()).zip(wides(update)) {
            let at: Dims = i.iter().zip(&start).map(|(i, s)| i + s).collect();
            values[position(a.shape(), &at)] = v;
        }
        vec![tensor(&out.components()[0], values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let g = cx.cotangent();
        let with = |first: &[ValueId]| -> Vec<ValueId> { first.iter().chain(&cx.operands[2..]).copied().collect() };
        let mut grads = vec![None; cx.operands.len()];
        if cx.wanted[0] {
            let zeros = cx.graph.splat_like(cx.operands[1], 0.0);
            grads[0] = Some(cx.graph.emit(DynamicUpdateSlice {}, &with(&[g, zeros])));
        }
        if cx.wanted[1] {
            let sizes = Dims::from_slice(cx.graph.shape(cx.operands[1]));
            grads[1] = Some(cx.graph.emit(DynamicSlice { sizes }, &with(&[g])));
        }
        Ok(grads)
    }
}
