//! `pad`: puts a fill value before, after and between the elements of a tensor (StableHLO `pad`).
//!
//! Operand index `i` is result index `low + i·(interior + 1)`; negative `low` and `high` crop after the interior is filled.
//! (C1) two operands, a tensor and a scalar of its element type; (C2) one entry of `low`, `high` and `interior` a dimension;
//! (C3) no result extent is negative.

use super::slice::Slice;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Pad {
        /// Elements before the first, one a dimension; negative crops.
        low: Vec<i64>,
        /// Elements after the last, one a dimension; negative crops.
        high: Vec<i64>,
        /// Elements between neighbors, one a dimension.
        interior: Dims,
    }
}

impl Pad {
    /// Edge padding only.
    pub fn edges(low: Vec<i64>, high: Vec<i64>) -> Self {
        let interior = Dims::from_elem(0, low.len());
        Pad { low, high, interior }
    }

    /// The operand index behind a result index; `None` is the fill.
    fn source(&self, from: &[usize], to: &[usize]) -> Option<Dims> {
        let mut at = Dims::new();
        for d in 0..from.len() {
            let (p, step) = (to[d] as i64 - self.low[d], self.interior[d] as i64 + 1);
            if p < 0 || p % step != 0 || p / step >= from[d] as i64 {
                return None;
            }
            at.push((p / step) as usize);
        }
        Some(at)
    }
}

impl OpDef for Pad {
    const NAMES: &'static [&'static str] = &["pad"];
    fn name(&self) -> &'static str {
        "pad"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a, fill] = ins else { return Err(InferError::new("pad", "(C1) takes two operands")) };
        if fill.rank() != 0 || fill.dtype != a.dtype {
            return Err(InferError::new("pad", format!("(C1) the fill of {a} must be {}[], not {fill}", a.dtype)));
        }
        if self.low.len() != a.rank() || self.high.len() != a.rank() || self.interior.len() != a.rank() {
            return Err(InferError::new("pad", format!("(C2) low, high and interior need {} entries, as {a} has dimensions", a.rank())));
        }
        let mut shape = Dims::new();
        for d in 0..a.rank() {
            let between = a.shape[d].saturating_sub(1) as i128 * self.interior[d] as i128;
            let extent = a.shape[d] as i128 + between + self.low[d] as i128 + self.high[d] as i128;
            let far = [self.low[d].unsigned_abs(), self.high[d].unsigned_abs(), self.interior[d] as u64].iter().any(|v| *v > 1 << 40);
            if far || !(0..=1 << 40).contains(&extent) {
                let why = format!("(C3) dimension {d} of {a} would have {extent} elements");
                return Err(InferError::new("pad", why));
            }
            shape.push(extent as usize);
        }
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 0);
        let uses = (0..self.low.len()).map(|d| match (self.low[d], self.high[d], self.interior[d]) {
            (0, 0, 0) => DimUse::Loop(d),
            (low, _, interior) => DimUse::Window { loop_dim: d, stride: 1, offset: -low, size: 1, dilation: interior as i64 + 1 },
        });
        axes.operands = vec![uses.collect(), Vec::new()];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (from, ty) = (ins[0].shape(), &out.components()[0]);
        let pick = indices(&ty.shape).map(|i| self.source(from, &i).map(|at| position(from, &at)));
        vec![Tensor::pick(ty.clone(), ins[0], pick, Some(ins[1]))]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let from = cx.graph.tensor_ty(cx.operands[0]).clone();
        let scalar = TensorType::scalar(from.dtype);
        let g = cx.cotangent();
        let fill = cx.wanted[1].then(|| {
            let (zeros, one) = (cx.graph.splat(&from, 0.0), cx.graph.splat(&scalar, 1.0));
            let mask = cx.graph.emit(self.clone(), &[zeros, one]);
            let filled = cx.graph.times(g, mask);
            let all: Vec<usize> = (0..from.rank()).collect();
            cx.graph.sum(filled, &all)
        });
        if !cx.wanted[0] {
            return Ok(vec![None, fill]);
        }
        // What was cropped has no cotangent: pad zeros back, then take the operand's places out.
        let mut g = g;
        if self.low.iter().chain(&self.high).any(|v| *v < 0) {
            let back = |v: &Vec<i64>| v.iter().map(|x| (-x).max(0)).collect();
            let zero = cx.graph.splat(&scalar, 0.0);
            g = cx.graph.emit(Pad::edges(back(&self.low), back(&self.high)), &[g, zero]);
        }
        let start: Dims = self.low.iter().map(|v| (*v).max(0) as usize).collect();
        let stride: Dims = self.interior.iter().map(|v| v + 1).collect();
        let reach = |d: usize| if from.shape[d] == 0 { 0 } else { (from.shape[d] - 1) * stride[d] + 1 };
        let limit: Dims = (0..from.rank()).map(|d| start[d] + reach(d)).collect();
        Ok(vec![Some(cx.graph.emit(Slice { start, limit, stride }, &[g])), fill])
    }
}
