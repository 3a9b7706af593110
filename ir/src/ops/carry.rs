//! `carry`: what a loop hands from iteration to iteration in one slot, as the current iteration finds it.
//!
//! The operand is the value before the first iteration. (C1) one operand; (C2) the loop has an end, a `repeat` or a `while`, whose
//! operands name this value as the carry of that slot.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Carry {
        /// Which loop.
        loop_id: usize,
        /// Which of its slots.
        slot: usize,
    }
}

impl OpDef for Carry {
    const NAMES: &'static [&'static str] = &["carry"];
    fn name(&self) -> &'static str {
        "carry"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        match ins {
            [init] => Ok((*init).clone().into()),
            _ => Err(InferError::new("carry", "(C1) takes the value before the first iteration")),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 0)
    }
    /// The value before the first iteration; the interpreter supplies the others.
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        ins.iter().take(1).map(|t| (*t).clone()).collect()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: "carry", why: "the reverse sweep differentiates a loop as a whole, at its end" })
    }
}
