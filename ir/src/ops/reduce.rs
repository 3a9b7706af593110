//! `reduce`: combines over dimensions with a monoid, starting from its neutral element; the dimensions disappear.
//!
//! (C1) one operand; (C2) `dims` are ascending dimensions of it; (C3) the monoid is defined on the element type.
//! Floats are accumulated in f64 by the reference and in f32 or wider by kernels, then rounded once.

use super::cumulative::Cumulative;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::graph::ValueId;
use crate::scalar::{CompareFn, Monoid, Wide};
use crate::tensor::{Data, Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Reduce {
        /// The combiner.
        monoid: Monoid,
        /// Dimensions that disappear, ascending.
        dims: Vec<usize>,
    }
}

impl Reduce {
    /// The dimensions that stay, ascending.
    pub fn kept(&self, rank: usize) -> Vec<usize> {
        (0..rank).filter(|d| !self.dims.contains(d)).collect()
    }
}

impl OpDef for Reduce {
    const NAMES: &'static [&'static str] = &["reduce"];
    fn name(&self) -> &'static str {
        "reduce"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("reduce", "(C1) takes one operand")) };
        if self.dims.windows(2).any(|w| w[0] >= w[1]) || self.dims.iter().any(|d| *d >= a.rank()) {
            return Err(InferError::new("reduce", format!("(C2) {:?} are not ascending dimensions of {a}", self.dims)));
        }
        if self.monoid.function().result(a.dtype).is_none() {
            return Err(InferError::new("reduce", format!("(C3) {} is not defined on {}", self.monoid.name(), a.dtype)));
        }
        let shape: Dims = self.kept(a.rank()).into_iter().map(|d| a.shape[d]).collect();
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let a = ins[0];
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 1);
        let mut uses = vec![DimUse::Whole; a.rank()];
        self.kept(a.rank()).into_iter().enumerate().for_each(|(l, d)| uses[d] = DimUse::Loop(l));
        for d in &self.dims {
            uses[*d] = DimUse::Loop(axes.loops.len());
            axes.loops.push(LoopDim { extent: a.shape[*d], kind: LoopKind::Reduce(self.monoid) });
        }
        axes.operands.push(uses);
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, ty) = (ins[0], &out.components()[0]);
        let kept = self.kept(a.shape().len());
        let wide = if ty.dtype.is_float() { DType::F64 } else { ty.dtype };
        let mut acc = vec![self.monoid.identity(wide); ty.elements()];
        let f = self.monoid.function();
        for (p, i) in indices(a.shape()).enumerate() {
            let at: Dims = kept.iter().map(|d| i[*d]).collect();
            let slot = &mut acc[position(&ty.shape, &at)];
            let x = match a.data() {
                Data::Float(v) => Wide::F(v[p]),
                Data::Int(v) => Wide::I(v[p]),
            };
            *slot = f.eval(wide, *slot, x);
        }
        vec![if ty.dtype.is_float() {
            Tensor::new_float(ty.clone(), acc.into_iter().map(Wide::float).collect())
        } else {
            Tensor::new_int(ty.clone(), acc.into_iter().map(Wide::int).collect())
        }]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let x = cx.operands[0];
        let shape = Dims::from_slice(cx.graph.shape(x));
        let kept = self.kept(shape.len());
        let g = cx.cotangent();
        let spread = |graph: &mut crate::graph::Graph, v| graph.broadcast(v, &shape, &kept);
        match self.monoid {
            Monoid::Sum => Ok(vec![Some(spread(cx.graph, g))]),
            Monoid::Max | Monoid::Min => {
                // Equal extremes share the cotangent evenly.
                let y = spread(cx.graph, cx.result);
                let hit = cx.graph.compare(CompareFn::Eq, x, y);
                let dtype = cx.graph.tensor_ty(x).dtype;
                let hit = cx.graph.convert(hit, dtype);
                let count = cx.graph.sum(hit, &self.dims);
                let share = cx.graph.over(g, count);
                let share = spread(cx.graph, share);
                Ok(vec![Some(cx.graph.times(share, hit))])
            }
            Monoid::Prod => {
                // The product of all the others is what comes before times what comes after: no quotient, so zeros are no matter.
                let order: Vec<usize> = kept.iter().chain(&self.dims).copied().collect();
                let moved: Dims = order.iter().map(|d| shape[*d]).collect();
                let mut flat = Dims::from_slice(&moved[..kept.len()]);
                flat.push(self.dims.iter().map(|d| shape[*d]).product());
                let graph = &mut *cx.graph;
                let v = graph.transpose(x, &order);
                let v = graph.reshape(v, &flat);
                let run = |reverse| Cumulative { monoid: Monoid::Prod, dim: kept.len(), exclusive: true, reverse };
                let (before, after) = (graph.emit(run(false), &[v]), graph.emit(run(true), &[v]));
                let others = graph.times(before, after);
                let lead: Vec<usize> = (0..kept.len()).collect();
                let g = graph.broadcast(g, &flat, &lead);
                let v = graph.times(g, others);
                let v = graph.reshape(v, &moved);
                let back: Vec<usize> = (0..order.len()).map(|d| order.iter().position(|o| *o == d).unwrap_or(d)).collect();
                Ok(vec![Some(graph.transpose(v, &back))])
            }
            Monoid::And | Monoid::Or | Monoid::Xor => Err(NoVjp { op: "reduce", why: "bitwise combiners are not differentiable" }),
        }
    }
}
