//! `concat`: tensors one after the other along a dimension (StableHLO `concatenate`).
//!
//! (C1) at least one operand, all of one element type and rank, with `dim` below the rank; (C2) extents agree but along `dim`.

use super::slice::Slice;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::scalar::Wide;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Concat {
        /// The dimension along which operands follow each other.
        dim: usize,
    }
}

impl OpDef for Concat {
    const NAMES: &'static [&'static str] = &["concat"];
    fn name(&self) -> &'static str {
        "concat"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let Some(first) = ins.first() else { return Err(InferError::new("concat", "(C1) takes at least one operand")) };
        if let Some(t) = ins.iter().find(|t| t.dtype != first.dtype || t.rank() != first.rank() || self.dim >= t.rank()) {
            return Err(InferError::new("concat", format!("(C1) {first} and {t} do not follow each other along dimension {}", self.dim)));
        }
        if let Some(t) = ins.iter().find(|t| (0..t.rank()).any(|d| d != self.dim && t.shape[d] != first.shape[d])) {
            return Err(InferError::new("concat", format!("(C2) {first} and {t} differ in a dimension other than {}", self.dim)));
        }
        let mut shape = first.shape.clone();
        shape[self.dim] = ins.iter().fold(0, |n: usize, t| n.saturating_add(t.shape[self.dim]));
        Ok(TensorType { dtype: first.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 0);
        let mut offset = 0;
        for t in ins {
            let window = DimUse::Window { loop_dim: self.dim, stride: 1, offset, size: 1, dilation: 1 };
            let along = if ins.len() == 1 { DimUse::Loop(self.dim) } else { window };
            axes.operands.push((0..t.rank()).map(|d| if d == self.dim { along.clone() } else { DimUse::Loop(d) }).collect());
            offset -= t.shape[self.dim] as i64;
        }
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let ty = &out.components()[0];
        let parts: Vec<Vec<Wide>> = ins.iter().map(|t| super::elementwise::wides(t)).collect();
        let mut owner = Vec::with_capacity(ty.shape[self.dim]);
        for (k, t) in ins.iter().enumerate() {
            owner.extend((0..t.shape()[self.dim]).map(|i| (k, i)));
        }
        let values = indices(&ty.shape).map(|mut i: Dims| {
            let (k, along) = owner[i[self.dim]];
            i[self.dim] = along;
            parts[k][position(ins[k].shape(), &i)]
        });
        vec![super::elementwise::tensor(ty, values.collect())]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let g = cx.cotangent();
        let mut start = Dims::from_elem(0, cx.graph.shape(g).len());
        let mut grads = Vec::with_capacity(cx.operands.len());
        for (k, v) in cx.operands.iter().enumerate() {
            let shape = Dims::from_slice(cx.graph.shape(*v));
            let limit: Dims = start.iter().zip(&shape).map(|(s, e)| s + e).collect();
            let stride = Dims::from_elem(1, shape.len());
            grads.push(cx.wanted[k].then(|| cx.graph.emit(Slice { start: start.clone(), limit: limit.clone(), stride }, &[g])));
            start[self.dim] = limit[self.dim];
        }
        Ok(grads)
    }
}
