//! `slice`: a box of a tensor, every `stride`-th element (StableHLO `slice`).
//!
//! Result index `i` is operand index `start + i·stride`.
//! (C1) one operand, one entry of `start`, `limit` and `stride` a dimension of it; (C2) `start ≤ limit ≤ extent` and `stride ≥ 1`.

use super::pad::Pad;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Slice {
        /// First index, one a dimension.
        start: Dims,
        /// One past the last index, one a dimension.
        limit: Dims,
        /// Step, one a dimension.
        stride: Dims,
    }
}

impl OpDef for Slice {
    const NAMES: &'static [&'static str] = &["slice"];
    fn name(&self) -> &'static str {
        "slice"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("slice", "(C1) takes one operand")) };
        if [&self.start, &self.limit, &self.stride].iter().any(|l| l.len() != a.rank()) {
            return Err(InferError::new("slice", format!("(C1) start, limit and stride need {} entries, as {a} has dimensions", a.rank())));
        }
        if let Some(d) = (0..a.rank()).find(|d| self.start[*d] > self.limit[*d] || self.limit[*d] > a.shape[*d] || self.stride[*d] == 0) {
            let (s, l, step) = (self.start[d], self.limit[d], self.stride[d]);
            return Err(InferError::new("slice", format!("(C2) {s}:{l}:{step} is not inside dimension {d} of {a}")));
        }
        let shape: Dims = (0..a.rank()).map(|d| (self.limit[d] - self.start[d]).div_ceil(self.stride[d])).collect();
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let shape = &out.components()[0].shape;
        let mut axes = Axes::elementwise(shape, 0, 0);
        let uses = (0..shape.len()).map(|d| match shape[d] == ins[0].shape[d] {
            true => DimUse::Loop(d),
            false => DimUse::Window { loop_dim: d, stride: self.stride[d] as i64, offset: self.start[d] as i64, size: 1, dilation: 1 },
        });
        axes.operands.push(uses.collect());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (from, ty) = (ins[0].shape(), &out.components()[0]);
        let pick = indices(&ty.shape).map(|i| {
            let at: Dims = i.iter().enumerate().map(|(d, i)| self.start[d] + i * self.stride[d]).collect();
            Some(position(from, &at))
        });
        vec![Tensor::pick(ty.clone(), ins[0], pick, None)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let from = cx.graph.tensor_ty(cx.operands[0]).clone();
        let g = cx.cotangent();
        let taken = Dims::from_slice(cx.graph.shape(g));
        let reach = |d: usize| if taken[d] == 0 { 0 } else { (taken[d] - 1) * self.stride[d] + 1 };
        let zero = cx.graph.splat(&TensorType::scalar(from.dtype), 0.0);
        let pad = Pad {
            low: self.start.iter().map(|s| *s as i64).collect(),
            high: (0..from.rank()).map(|d| (from.shape[d] - self.start[d] - reach(d)) as i64).collect(),
            interior: self.stride.iter().map(|s| s - 1).collect(),
        };
        Ok(vec![Some(cx.graph.emit(pad, &[g, zero]))])
    }
}
