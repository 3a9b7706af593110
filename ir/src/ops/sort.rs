//! `sort`: sorts along a dimension by the first operand, the keys, and carries the other operands along. The result is a tuple, one component
//! an operand.
//!
//! NaN is above every number, −0 equals 0. `descending` reverses the comparison, not the order of equals. With `stable`, equal keys keep
//! their order; the reference always does.
//! (C1) at least one operand, all of one shape; (C2) `dim` is a dimension of them.

use super::elementwise::{tensor, wides};
use super::iota::Iota;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, LoopKind};
use crate::graph::ValueId;
use crate::scalar::Wide;
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, NumberKind, TensorType, Type};
use std::cmp::Ordering;

crate::op_attrs! {
    /// See the module.
    Sort {
        /// The dimension along which elements move.
        dim: usize,
        /// Whether the largest key comes first.
        descending: bool,
        /// Whether equal keys must keep their order.
        stable: bool,
    }
}

/// The order of keys: numbers, then NaN; −0 equals 0.
pub(super) fn key_order(dtype: DType, a: Wide, b: Wide) -> Ordering {
    match (a, b) {
        (Wide::F(a), Wide::F(b)) => a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
        (a, b) if dtype.kind() == NumberKind::Unsigned => (a.int() as u64).cmp(&(b.int() as u64)),
        (a, b) => a.int().cmp(&b.int()),
    }
}

impl OpDef for Sort {
    const NAMES: &'static [&'static str] = &["sort"];
    fn name(&self) -> &'static str {
        "sort"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let Some(keys) = ins.first() else { return Err(InferError::new("sort", "(C1) takes at least one operand")) };
        if let Some(t) = ins.iter().find(|t| t.shape != keys.shape) {
            return Err(InferError::new("sort", format!("(C1) {t} cannot be carried along with {keys}")));
        }
        if self.dim >= keys.rank() {
            return Err(InferError::new("sort", format!("(C2) {keys} has no dimension {}", self.dim)));
        }
        Ok(Type::Tuple(ins.iter().map(|t| (*t).clone()).collect()))
    }
    fn axes(&self, ins: &[&TensorType], _: &Type) -> Axes {
        let rounds = ins[0].shape[self.dim].max(2).ilog2() as u64;
        let mut axes = Axes::elementwise(&ins[0].shape, ins.len(), rounds);
        axes.loops[self.dim].kind = LoopKind::Whole;
        axes.results = axes.operands.clone();
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (keys, shape) = (wides(ins[0]), ins[0].shape());
        let n = shape[self.dim];
        let mut from = vec![0; keys.len()];
        let mut lines = Dims::from_slice(shape);
        lines[self.dim] = n.min(1);
        for line in indices(&lines) {
            let place = |k: usize| {
                let mut at = line.clone();
                at[self.dim] = k;
                position(shape, &at)
            };
            let mut order: Vec<usize> = (0..n).map(place).collect();
            order.sort_by(|a, b| {
                let o = key_order(ins[0].dtype(), keys[*a], keys[*b]);
                if self.descending { o.reverse() } else { o }
            });
            order.into_iter().enumerate().for_each(|(k, p)| from[place(k)] = p);
        }
        let carry = |(t, ty): (&&Tensor, &TensorType)| {
            let x = wides(t);
            tensor(ty, from.iter().map(|p| x[*p]).collect())
        };
        ins.iter().zip(out.components()).map(carry).collect()
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        // Sorting the positions along with the keys gives the permutation; sorting the cotangents by it brings them home.
        let keys = cx.operands[0];
        let shape = Dims::from_slice(cx.graph.shape(keys));
        let positions = cx.graph.emit(Iota { dtype: DType::I64, shape, dim: self.dim }, &[]);
        let sorted = cx.graph.emit(Sort { stable: true, ..self.clone() }, &[keys, positions]);
        let permutation = cx.graph.proj(sorted, 1);
        let flows = |k: &usize| cx.cotangents[*k].is_some() && cx.graph.tensor_ty(cx.operands[*k]).dtype.is_float();
        let carried: Vec<usize> = (0..cx.operands.len()).filter(flows).collect();
        let operands: Vec<ValueId> = [permutation].into_iter().chain(carried.iter().filter_map(|k| cx.cotangents[*k])).collect();
        let home = cx.graph.emit(Sort { descending: false, stable: true, dim: self.dim }, &operands);
        let mut grads = vec![None; cx.operands.len()];
        for (i, k) in carried.into_iter().enumerate() {
            grads[k] = Some(cx.graph.proj(home, i + 1));
        }
        Ok(grads)
    }
}
