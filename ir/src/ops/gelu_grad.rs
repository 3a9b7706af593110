//! `gelu_grad`: the cotangent of [`gelu`](super::gelu)'s operand, from (x, ȳ).
//!
//! Exact form: ȳ·(Φ(x) + x·φ(x)). (C1) two operands; (C2) of one type; (C3) of a float type.

use super::composite::{alike_floats, eval_wide, vjp_through};
use super::gelu::{TANH_CUBIC, TANH_SLOPE};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::UnaryFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    GeluGrad {
        /// Whether the tanh approximation is meant instead of the exact form.
        tanh: bool,
    }
}

impl OpDef for GeluGrad {
    const NAMES: &'static [&'static str] = &["gelu_grad"];
    fn name(&self) -> &'static str {
        "gelu_grad"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        Ok(alike_floats("gelu_grad", ins, 2)?.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 2, 16)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        vjp_through(self, cx)
    }
}

impl Composite for GeluGrad {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (x, dy) = (operands[0], operands[1]);
        let xx = graph.times(x, x);
        let slope = if self.tanh {
            // ½(1 + t) + ½·x·(1 − t²)·u′ with t = tanh u, u = s·(x + c·x³) and u′ = s·(1 + 3c·x²).
            let cubic = graph.scaled(xx, TANH_SLOPE * TANH_CUBIC);
            let per_x = graph.shifted(cubic, TANH_SLOPE);
            let u = graph.times(x, per_x);
            let t = graph.unary(UnaryFn::Tanh, u);
            let plus = graph.shifted(t, 1.0);
            let cdf = graph.scaled(plus, 0.5);
            let tt = graph.times(t, t);
            let one = graph.splat_like(x, 1.0);
            let rest = graph.minus(one, tt);
            let du = graph.scaled(xx, 1.5 * TANH_SLOPE * TANH_CUBIC);
            let du = graph.shifted(du, 0.5 * TANH_SLOPE);
            let du = graph.times(x, du);
            let density = graph.times(rest, du);
            graph.plus(cdf, density)
        } else {
            let u = graph.scaled(x, std::f64::consts::FRAC_1_SQRT_2);
            let e = graph.unary(UnaryFn::Erf, u);
            let plus = graph.shifted(e, 1.0);
            let cdf = graph.scaled(plus, 0.5);
            let exponent = graph.scaled(xx, -0.5);
            let bell = graph.unary(UnaryFn::Exp, exponent);
            let density = graph.scaled(bell, 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
            let density = graph.times(x, density);
            graph.plus(cdf, density)
        };
        vec![graph.times(dy, slope)]
    }
}
