//! `top_k`: the `k` largest or smallest elements along the last dimension, and where they were: a tuple of values and indices.
//!
//! Best first; of equal elements the one with the lower index comes first. Floats are in total order: −NaN, −∞, …, −0, 0, …, ∞, NaN.
//! (C1) one operand of rank ≥ 1; (C2) `k` is at most its last extent; (C3) `dtype` is `i32` or `i64`.

use super::elementwise::{tensor, wides};
use super::scatter::{Combiner, Scatter};
use super::sort::key_order;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::graph::ValueId;
use crate::scalar::Wide;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};
use std::cmp::Ordering;

crate::op_attrs! {
    /// See the module.
    TopK {
        /// How many elements of a row are taken.
        k: usize,
        /// Whether the largest are taken; else the smallest.
        largest: bool,
        /// Element type of the indices.
        dtype: DType,
    }
}

/// The order of elements; NaNs of one sign are equal.
fn total_order(dtype: DType, a: Wide, b: Wide) -> Ordering {
    let (Wide::F(x), Wide::F(y)) = (a, b) else { return key_order(dtype, a, b) };
    let side = |v: f64| if v.is_nan() { if v.is_sign_negative() { -1 } else { 1 } } else { 0 };
    let numbers = || x.partial_cmp(&y).unwrap_or(Ordering::Equal);
    side(x).cmp(&side(y)).then_with(numbers).then_with(|| y.is_sign_negative().cmp(&x.is_sign_negative()))
}

impl OpDef for TopK {
    const NAMES: &'static [&'static str] = &["top_k"];
    fn name(&self) -> &'static str {
        "top_k"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("top_k", "(C1) takes one operand")) };
        let mut shape = a.shape.clone();
        let Some(last) = shape.last_mut() else { return Err(InferError::new("top_k", "(C1) a scalar has no rows")) };
        if self.k > *last {
            return Err(InferError::new("top_k", format!("(C2) a row of {a} has no {} elements", self.k)));
        }
        if !matches!(self.dtype, DType::I32 | DType::I64) {
            return Err(InferError::new("top_k", format!("(C3) indices must be i32 or i64, not {}", self.dtype)));
        }
        *last = self.k;
        let values = TensorType { dtype: a.dtype, shape };
        Ok(Type::Tuple(vec![values.clone(), values.with_dtype(self.dtype)]))
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let row = ins[0].rank() - 1;
        let mut axes = Axes::elementwise(&out.components()[0].shape, 1, ins[0].shape[row] as u64);
        axes.loops[row].kind = LoopKind::Whole;
        axes.operands[0][row] = DimUse::Whole;
        axes.results.push(axes.results[0].clone());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, x) = (ins[0], wides(ins[0]));
        let n = a.shape().last().copied().unwrap_or(1).max(1);
        let (mut values, mut places) = (Vec::new(), Vec::new());
        for row in x.chunks(n) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|i, j| {
                let o = total_order(a.dtype(), row[*i], row[*j]);
                if self.largest { o.reverse() } else { o }
            });
            values.extend(order[..self.k].iter().map(|i| row[*i]));
            places.extend(order[..self.k].iter().map(|i| *i as i64));
        }
        vec![tensor(&out.components()[0], values), Tensor::new_int(out.components()[1].clone(), places)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let row = cx.graph.shape(cx.operands[0]).len() - 1;
        let places = cx.graph.proj(cx.result, 1);
        let zeros = cx.graph.splat_like(cx.operands[0], 0.0);
        let batch: Vec<usize> = (0..row).collect();
        let op = Scatter {
            update_window_dims: Vec::new(),
            inserted_window_dims: vec![row],
            input_batching_dims: batch.clone(),
            scatter_indices_batching_dims: batch,
            scatter_dims_to_operand_dims: vec![row],
            index_vector_dim: row + 1,
            combiner: Combiner::Sum,
        };
        Ok(vec![Some(cx.graph.emit(op, &[zeros, places, g]))])
    }
}
