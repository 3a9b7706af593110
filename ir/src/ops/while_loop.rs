//! `while`: the end of a loop that runs as long as a predicate holds.
//!
//! Operands are the predicate, which is computed from the carries at the start of an iteration, then carries and next values as in
//! [`repeat`](mod@super::repeat). When the predicate is false the loop is over and its results are the carries as they are.
//! (C1) as many carries as next values, at least one; (C2) each next value has the type of its carry; (C3) operand `k + 1` is the node
//! `carry {loop_id, slot = k}`; (C4) the predicate is a `bool` scalar.

use super::repeat::{end_axes, infer_end};
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    While {
        /// Which loop.
        loop_id: usize,
    }
}

impl OpDef for While {
    const NAMES: &'static [&'static str] = &["while"];
    fn name(&self) -> &'static str {
        "while"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        match ins {
            [p, rest @ ..] if p.dtype == DType::Bool && p.rank() == 0 => infer_end("while", rest),
            _ => Err(InferError::new("while", "(C4) the first operand is a bool scalar")),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        end_axes(1, out)
    }
    /// One iteration; the interpreter runs the loop.
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        ins[1 + ins.len() / 2..].iter().map(|t| (*t).clone()).collect()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: "while", why: "how often it runs is known only when it has run; give the loop a fixed number of iterations" })
    }
}
