//! `silu`: x·σ(x) with the logistic function σ (also called swish).
//!
//! (C1) one operand; (C3) of a float type.

use super::composite::{alike_floats, eval_wide};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::UnaryFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Silu {}
}

impl OpDef for Silu {
    const NAMES: &'static [&'static str] = &["silu"];
    fn name(&self) -> &'static str {
        "silu"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        Ok(alike_floats("silu", ins, 1)?.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 5)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (x, g) = (cx.operands[0], cx.cotangent());
        Ok(vec![Some(cx.graph.emit(super::silu_grad::SiluGrad {}, &[x, g]))])
    }
}

impl Composite for Silu {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let s = graph.unary(UnaryFn::Logistic, operands[0]);
        vec![graph.times(operands[0], s)]
    }
}
