//! `cumulative`: running combinations along a dimension.
//!
//! Result `i` combines elements `0..=i`; without element `i` itself when `exclusive` (the first is then the neutral element); from the
//! other end when `reverse`.
//! (C1) one operand; (C2) `dim` is a dimension of it; (C3) the monoid is defined on the element type.
//! Floats are accumulated in at least f32 and each result is rounded once.

use super::elementwise::{tensor, wides};
use super::pad::Pad;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, LoopKind};
use crate::graph::{Graph, ValueId};
use crate::scalar::{CompareFn, Monoid};
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
        match self.monoid {
            Monoid::Sum => {
                let back = Cumulative { reverse: !self.reverse, ..self.clone() };
                Ok(vec![Some(cx.graph.emit(back, &[g]))])
            }
            Monoid::Prod => {
                // What comes before an element, times the sum of what comes after it in each result: no quotient, so zeros are no matter.
                let g = if self.exclusive { self.later(cx.graph, g, 1) } else { g };
                let next = self.later(cx.graph, x, 1);
                let sum = self.recurrence(cx.graph, next, g);
                let before = cx.graph.emit(Cumulative { exclusive: true, ..self.clone() }, &[x]);
                Ok(vec![Some(cx.graph.times(before, sum))])
            }
            Monoid::Max | Monoid::Min if self.exclusive => {
                Err(NoVjp { op: "cumulative", why: "the first of exclusive running extremes is infinite" })
            }
            Monoid::Max | Monoid::Min => {
                // An extreme that was reached again belongs to the last element that reached it.
                let hit = cx.graph.compare(CompareFn::Eq, x, y);
                let dtype = cx.graph.tensor_ty(x).dtype;
                let hit = cx.graph.convert(hit, dtype);
                let one = cx.graph.splat_like(hit, 1.0);
                let miss = cx.graph.minus(one, hit);
                let next = self.later(cx.graph, miss, 1);
                let sum = self.recurrence(cx.graph, next, g);
                Ok(vec![Some(cx.graph.times(hit, sum))])
            }
            Monoid::And | Monoid::Or | Monoid::Xor => Err(NoVjp { op: "cumulative", why: "bitwise combiners are not differentiable" }),
        }
    }
}

impl Cumulative {
    /// Each element is the one that the running combination meets `by` later; zero where there is none.
    fn later(&self, graph: &mut Graph, v: ValueId, by: usize) -> ValueId {
        let (rank, by) = (graph.shape(v).len(), by as i64);
        let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
        (low[self.dim], high[self.dim]) = if self.reverse { (by, -by) } else { (-by, by) };
        let zero = graph.tensor_ty(v).dtype;
        let zero = graph.splat(&TensorType::scalar(zero), 0.0);
        graph.emit(Pad::edges(low, high), &[v, zero])
    }

    /// The s with s = b + a · (s of the next element), by doubling.
    fn recurrence(&self, graph: &mut Graph, mut a: ValueId, mut b: ValueId) -> ValueId {
        let n = graph.shape(b)[self.dim];
        let mut by = 1;
        while by < n {
            let next = self.later(graph, b, by);
            let next = graph.times(a, next);
            b = graph.plus(b, next);
            by *= 2;
            if by < n {
                let next = self.later(graph, a, by / 2);
                a = graph.times(a, next);
            }
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Role;
    use crate::interp;

    fn gradient(op: Cumulative, x: &[f64], g: &[f64]) -> Vec<f64> {
        let mut graph = Graph::new("running");
        let t = |v: &[f64]| Tensor::new_float(TensorType::new(DType::F64, [v.len()]), v.to_vec());
        let v = graph.input("x", t(x).ty().clone(), Role::Data);
        let w = graph.input("g", t(g).ty().clone(), Role::Data);
        let y = graph.emit(op.clone(), &[v]);
        let mut cx = Vjp { graph: &mut graph, operands: &[v], result: y, cotangents: &[Some(w)], wanted: &[true] };
        let dx = op.vjp(&mut cx).unwrap()[0].unwrap();
        graph.output("dx", dx);
        interp::eval(&graph, &[t(x), t(g)]).unwrap()[0].floats()
    }

    #[test]
    fn products_with_zeros_and_repeated_extremes_have_derivatives() {
        let op = |monoid, exclusive, reverse| Cumulative { monoid, dim: 0, exclusive, reverse };
        // 2, 2·0, 2·0·3, 2·0·3·0: the factor 0 sees 2(1 + 3) but for the last.
        assert_eq!(gradient(op(Monoid::Prod, false, false), &[2.0, 0.0, 3.0, 0.0], &[1.0; 4]), [1.0, 8.0, 0.0, 0.0]);
        assert_eq!(gradient(op(Monoid::Prod, true, true), &[5.0, 2.0, 0.0], &[1.0, 1.0, 7.0]), [0.0, 0.0, 3.0]);
        assert_eq!(
            gradient(op(Monoid::Max, false, false), &[1.0, 3.0, 2.0, 3.0, 0.0], &[1.0, 2.0, 4.0, 8.0, 16.0]),
            [1.0, 6.0, 0.0, 24.0, 0.0]
        );
        assert_eq!(gradient(op(Monoid::Min, false, true), &[1.0, 3.0, 2.0], &[1.0, 2.0, 4.0]), [1.0, 0.0, 6.0]);
    }
}
