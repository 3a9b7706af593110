//! `silu_grad`: the cotangent of [`silu`](super::silu)'s operand, ȳ·σ·(1 + x·(1 − σ)), from (x, ȳ).
//!
//! (C1) two operands; (C2) of one type; (C3) of a float type.

use super::composite::{alike_floats, eval_wide, vjp_through};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::UnaryFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    SiluGrad {}
}

impl OpDef for SiluGrad {
    const NAMES: &'static [&'static str] = &["silu_grad"];
    fn name(&self) -> &'static str {
        "silu_grad"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        Ok(alike_floats("silu_grad", ins, 2)?.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 2, 9)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        vjp_through(self, cx)
    }
}

impl Composite for SiluGrad {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (x, dy) = (operands[0], operands[1]);
        let s = graph.unary(UnaryFn::Logistic, x);
        let one = graph.splat_like(x, 1.0);
        let rest = graph.minus(one, s);
        let xr = graph.times(x, rest);
        let plus = graph.plus(one, xr);
        let gs = graph.times(dy, s);
        vec![graph.times(gs, plus)]
    }
}
