//! `gelu`: x·Φ(x) with the normal distribution function Φ, exact (by erf) or in the tanh approximation.
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
    Gelu {
        /// Whether the tanh approximation is meant instead of the exact form.
        tanh: bool,
    }
}

impl OpDef for Gelu {
    const NAMES: &'static [&'static str] = &["gelu"];
    fn name(&self) -> &'static str {
        "gelu"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        Ok(alike_floats("gelu", ins, 1)?.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 10)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (x, g) = (cx.operands[0], cx.cotangent());
        Ok(vec![Some(cx.graph.emit(super::gelu_grad::GeluGrad { tanh: self.tanh }, &[x, g]))])
    }
}

impl Composite for Gelu {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let x = operands[0];
        let inner = if self.tanh {
            let u = tanh_argument(graph, x);
            graph.unary(UnaryFn::Tanh, u)
        } else {
            let u = graph.scaled(x, std::f64::consts::FRAC_1_SQRT_2);
            graph.unary(UnaryFn::Erf, u)
        };
        let one = graph.shifted(inner, 1.0);
        let half = graph.scaled(x, 0.5);
        vec![graph.times(half, one)]
    }
}

/// √(2/π): the slope of the tanh approximation at 0.
pub const TANH_SLOPE: f64 = 0.797_884_560_802_865_4;
/// The cubic coefficient of the tanh approximation (Hendrycks and Gimpel, 2016).
pub const TANH_CUBIC: f64 = 0.044_715;

/// Emits √(2/π)·(x + 0.044715·x³).
fn tanh_argument(graph: &mut Graph, x: ValueId) -> ValueId {
    let xx = graph.times(x, x);
    let xxx = graph.times(xx, x);
    let cubic = graph.scaled(xxx, TANH_CUBIC);
    let u = graph.plus(x, cubic);
    graph.scaled(u, TANH_SLOPE)
}
