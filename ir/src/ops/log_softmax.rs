//! `log_softmax`: the logarithm of [`softmax`](super::softmax), computed without the quotient.
//!
//! (C1) one operand; (C3) of a float type; (C4) `dim` is a dimension of it.

use super::composite::{alike_floats, eval_wide, row_axes};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::{Monoid, UnaryFn};
use crate::tensor::Tensor;
use crate::types::Dims;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    LogSoftmax {
        /// The dimension of a row.
        dim: usize,
    }
}

impl OpDef for LogSoftmax {
    const NAMES: &'static [&'static str] = &["log_softmax"];
    fn name(&self) -> &'static str {
        "log_softmax"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let x = alike_floats("log_softmax", ins, 1)?;
        if self.dim >= x.rank() {
            return Err(InferError::new("log_softmax", format!("(C4) there is no dimension {} of {x}", self.dim)));
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
        Ok(vec![Some(cx.graph.emit(super::log_softmax_grad::LogSoftmaxGrad { dim: self.dim }, &[y, g]))])
    }
}

impl Composite for LogSoftmax {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let x = operands[0];
        let shape = Dims::from_slice(graph.shape(x));
        let kept: Vec<usize> = (0..shape.len()).filter(|d| *d != self.dim).collect();
        let m = graph.reduce_spread(Monoid::Max, x, &[self.dim]);
        let centered = graph.minus(x, m);
        let e = graph.unary(UnaryFn::Exp, centered);
        let s = graph.sum(e, &[self.dim]);
        let l = graph.unary(UnaryFn::Log, s);
        let l = graph.broadcast(l, &shape, &kept);
        vec![graph.minus(centered, l)]
    }
}
