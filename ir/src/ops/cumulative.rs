//! `cumulative`: running combinations along a dimension.
//!
//! Result `i` combines elements `0..=i`; without element `i` itself when `exclusive` (the first is then the neutral element); from the
//! other end when `reverse`.
//! (C1) one operand; (C2) `dim` is a dimension of it; (C3) the monoid is defined on the element type.
//! Floats are accumulated in at least f32 and each result is rounded once.

use super::elementwise::{tensor, wides};
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, LoopKind};
use crate::graph::ValueId;
use crate::scalar::Monoid;
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Cumulative {
        /// The combiner.
        monoid: Monoid,
        /// The dimension along which it runs.
        dim: usize,
        /// Whether an element is left out of its own result.
        exclusive: bool,
        /// Whether it runs from the last element to the first.
        reverse: bool,
    }
}

impl OpDef for Cumulative {
    const NAMES: &'static [&'static str] = &["cumulative"];
    fn name(&self) -> &'static str {
        "cumulative"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("cumulative", "(C1) takes one operand")) };
        if self.dim >= a.rank() {
            return Err(InferError::new("cumulative", format!("(C2) {a} has no dimension {}", self.dim)));
        }
        if self.monoid.function().result(a.dtype).is_none() {
            return Err(InferError::new("cumulative", format!("(C3) {} is not defined on {}", self.monoid.name(), a.dtype)));
        }
        Ok((*a).clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 1, 1);
        axes.loops[self.dim].kind = LoopKind::Whole;
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (x, ty) = (wides(ins[0]), &out.components()[0]);
        let wide = if ty.dtype.is_float() { DType::F64 } else { ty.dtype };
        let (f, n) = (self.monoid.function(), ty.shape[self.dim]);
        let mut values = x.clone();
        let mut lines = ty.shape.clone();
        lines[self.dim] = n.min(1);
        for line in indices(&lines) {
            let mut acc = self.monoid.identity(wide);
            for step in 0..n {
                let mut at: Dims = line.clone();
                at[self.dim] = if self.reverse { n - 1 - step } else { step };
                let p = position(&ty.shape, &at);
                let with = f.eval(wide, acc, x[p]);
                values[p] = if self.exclusive { acc } else { with };
                acc = with;
            }
        }
        vec![tensor(ty, values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (x, y, g) = (cx.operands[0], cx.result, cx.cotangent());
        let back = Cumulative { monoid: Monoid::Sum, reverse: !self.reverse, ..self.clone() };
        match self.monoid {
            Monoid::Sum => Ok(vec![Some(cx.graph.emit(back, &[g]))]),
            Monoid::Prod => {
                let gy = cx.graph.times(g, y);
                let later = cx.graph.emit(back, &[gy]);
                Ok(vec![Some(cx.graph.over(later, x))])
            }
            _ => Err(NoVjp { op: "cumulative", why: "only running sums and products are differentiable" }),
        }
    }
}
