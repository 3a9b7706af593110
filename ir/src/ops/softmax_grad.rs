//! `softmax_grad`: the cotangent of [`softmax`](super::softmax)'s operand, y·(ȳ − Σ y·ȳ), from (y, ȳ).
//!
//! (C1) two operands; (C2) of one type; (C3) of a float type; (C4) `dim` is a dimension of them.

use super::composite::{alike_floats, eval_wide, row_axes, vjp_through};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::Monoid;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    SoftmaxGrad {
        /// The dimension of a row.
        dim: usize,
    }
}

impl OpDef for SoftmaxGrad {
    const NAMES: &'static [&'static str] = &["softmax_grad"];
    fn name(&self) -> &'static str {
        "softmax_grad"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let x = alike_floats("softmax_grad", ins, 2)?;
        if self.dim >= x.rank() {
            return Err(InferError::new("softmax_grad", format!("(C4) there is no dimension {} of {x}", self.dim)));
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

impl Composite for SoftmaxGrad {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (y, g) = (operands[0], operands[1]);
        let yg = graph.times(g, y);
        let s = graph.reduce_spread(Monoid::Sum, yg, &[self.dim]);
        let d = graph.minus(g, s);
        vec![graph.times(y, d)]
    }
}
