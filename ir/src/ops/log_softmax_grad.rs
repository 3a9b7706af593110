//! `log_softmax_grad`: the cotangent of [`log_softmax`](super::log_softmax)'s operand, ȳ − eʸ·Σ ȳ, from (y, ȳ).
//!
//! (C1) two operands; (C2) of one type; (C3) of a float type; (C4) `dim` is a dimension of them.

use super::composite::{alike_floats, eval_wide, row_axes, vjp_through};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::{Monoid, UnaryFn};
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    LogSoftmaxGrad {
        /// The dimension of a row.
        dim: usize,
    }
}

impl OpDef for LogSoftmaxGrad {
    const NAMES: &'static [&'static str] = &["log_softmax_grad"];
    fn name(&self) -> &'static str {
        "log_softmax_grad"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let x = alike_floats("log_softmax_grad", ins, 2)?;
        if self.dim >= x.rank() {
            return Err(InferError::new("log_softmax_grad", format!("(C4) there is no dimension {} of {x}", self.dim)));
        }
        Ok(x.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        row_axes(&out.components()[0].shape, self.dim..self.dim + 1, 2, 0, 4)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        vjp_through(self, cx)
    }
}

impl Composite for LogSoftmaxGrad {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (y, g) = (operands[0], operands[1]);
        let s = graph.reduce_spread(Monoid::Sum, g, &[self.dim]);
        let e = graph.unary(UnaryFn::Exp, y);
        let es = graph.times(e, s);
        vec![graph.minus(g, es)]
    }
}
