//! `softmax`: eˣ over its sum along one dimension, from the row's maximum down.
//!
//! (C1) one operand; (C3) of a float type; (C4) `dim` is a dimension of it.

use super::composite::{alike_floats, eval_wide, row_axes};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::{Monoid, UnaryFn};
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Softmax {
        /// The dimension of a row.
        dim: usize,
    }
}

impl OpDef for Softmax {
    const NAMES: &'static [&'static str] = &["softmax"];
    fn name(&self) -> &'static str {
        "softmax"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let x = alike_floats("softmax", ins, 1)?;
        if self.dim >= x.rank() {
            return Err(InferError::new("softmax", format!("(C4) there is no dimension {} of {x}", self.dim)));
        }
        Ok(x.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        row_axes(&out.components()[0].shape, self.dim..self.dim + 1, 1, 0, 5)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (y, g) = (cx.result, cx.cotangent());
        Ok(vec![Some(cx.graph.emit(super::softmax_grad::SoftmaxGrad { dim: self.dim }, &[y, g]))])
    }
}

impl Composite for Softmax {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let x = operands[0];
        let m = graph.reduce_spread(Monoid::Max, x, &[self.dim]);
        let centered = graph.minus(x, m);
        let e = graph.unary(UnaryFn::Exp, centered);
        let s = graph.reduce_spread(Monoid::Sum, e, &[self.dim]);
        vec![graph.over(e, s)]
    }
}
