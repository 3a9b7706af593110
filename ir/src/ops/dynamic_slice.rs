//! `dynamic_slice`: a box of a tensor whose start is computed (StableHLO `dynamic_slice`).
//!
//! Starts are clamped so that the box fits.
//! (C1) a tensor and one integer scalar a dimension of it, all of one type; (C2) `sizes` has one entry a dimension, none above the extent.

use super::dynamic_update_slice::DynamicUpdateSlice;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    DynamicSlice {
        /// Extents of the result.
        sizes: Dims,
    }
}

/// Whether `starts` are integer scalars of one type, one a dimension of rank `rank`.
pub(super) fn starts_fit(rank: usize, starts: &[&TensorType]) -> bool {
    starts.len() == rank && starts.iter().all(|s| s.rank() == 0 && s.dtype.is_int() && s.dtype == starts[0].dtype)
}

/// The starts, clamped so that a box of extents `sizes` fits into `shape`.
pub(super) fn clamped_starts(shape: &[usize], sizes: &[usize], starts: &[&Tensor]) -> Dims {
    let clamp = |(d, s): (usize, &&Tensor)| {
        let v = s.ints()[0];
        let v = if s.dtype() == DType::U64 && v < 0 { i64::MAX } else { v };
        v.clamp(0, (shape[d] - sizes[d]) as i64) as usize
    };
    starts.iter().enumerate().map(clamp).collect()
}

impl OpDef for DynamicSlice {
    const NAMES: &'static [&'static str] = &["dynamic_slice"];
    fn name(&self) -> &'static str {
        "dynamic_slice"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a, starts @ ..] = ins else { return Err(InferError::new("dynamic_slice", "(C1) takes a tensor and its starts")) };
        if !starts_fit(a.rank(), starts) {
            return Err(InferError::new("dynamic_slice", format!("(C1) {starts:?} are not {} integer scalars", a.rank())));
        }
        if self.sizes.len() != a.rank() || self.sizes.iter().zip(&a.shape).any(|(s, e)| s > e) {
            return Err(InferError::new("dynamic_slice", format!("(C2) a box of {:?} does not fit {a}", self.sizes)));
        }
        Ok(TensorType::new(a.dtype, &self.sizes).into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 0);
        // Where the slice may move, a part of the result is no slice of its own: the starts address the whole.
        for (l, _) in axes.loops.iter_mut().zip(&ins[0].shape).filter(|(l, e)| l.extent != **e) {
            l.kind = LoopKind::Whole;
        }
        let along = self.sizes.iter().zip(&ins[0].shape).enumerate();
        axes.operands.push(along.map(|(d, (s, e))| if s == e { DimUse::Loop(d) } else { DimUse::Whole }).collect());
        axes.operands.resize(ins.len(), Vec::new());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, ty) = (ins[0], &out.components()[0]);
        let start = clamped_starts(a.shape(), &self.sizes, &ins[1..]);
        let pick = indices(&ty.shape).map(|i| {
            let at: Dims = i.iter().zip(&start).map(|(i, s)| i + s).collect();
            Some(position(a.shape(), &at))
        });
        vec![Tensor::pick(ty.clone(), a, pick, None)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let zeros = cx.graph.splat_like(cx.operands[0], 0.0);
        let operands: Vec<ValueId> = [zeros, cx.cotangent()].into_iter().chain(cx.operands[1..].iter().copied()).collect();
        let mut grads = vec![None; cx.operands.len()];
        grads[0] = Some(cx.graph.emit(DynamicUpdateSlice {}, &operands));
        Ok(grads)
    }
}
