//! `broadcast`: repeats a tensor along new or extent-1 dimensions (StableHLO `broadcast_in_dim`).
//!
//! Operand dimension `i` becomes result dimension `dims[i]`.
//! (C1) one operand, one entry of `dims` a dimension of it, all different and below the result's rank;
//! (C2) each operand extent is 1 or equals the result extent it maps to.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Broadcast {
        /// Extents of the result.
        shape: Dims,
        /// Result dimension of each operand dimension.
        dims: Vec<usize>,
    }
}

impl OpDef for Broadcast {
    const NAMES: &'static [&'static str] = &["broadcast"];
    fn name(&self) -> &'static str {
        "broadcast"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("broadcast", "(C1) takes one operand")) };
        let distinct = self.dims.iter().enumerate().all(|(i, d)| *d < self.shape.len() && !self.dims[..i].contains(d));
        if a.rank() != self.dims.len() || !distinct {
            return Err(InferError::new("broadcast", format!("(C1) dims {:?} do not map {a} into rank {}", self.dims, self.shape.len())));
        }
        if a.shape.iter().zip(&self.dims).any(|(e, d)| *e != 1 && *e != self.shape[*d]) {
            return Err(InferError::new("broadcast", format!("(C2) {a} does not fit into {:?} by {:?}", self.shape, self.dims)));
        }
        Ok(TensorType::new(a.dtype, &self.shape).into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 0);
        let uses = ins[0].shape.iter().zip(&self.dims).map(|(e, d)| if *e == self.shape[*d] { DimUse::Loop(*d) } else { DimUse::Whole });
        axes.operands.push(uses.collect());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (from, ty) = (ins[0].shape(), &out.components()[0]);
        let pick = indices(&ty.shape).map(|i| {
            let at: Dims = from.iter().zip(&self.dims).map(|(e, d)| if *e == 1 { 0 } else { i[*d] }).collect();
            Some(position(from, &at))
        });
        vec![Tensor::pick(ty.clone(), ins[0], pick, None)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let from = Dims::from_slice(cx.graph.shape(cx.operands[0]));
        let repeated = |d: &usize| self.dims.iter().position(|x| x == d).is_none_or(|i| from[i] != self.shape[*d]);
        let summed: Vec<usize> = (0..self.shape.len()).filter(repeated).collect();
        let g = cx.graph.sum(cx.cotangent(), &summed);
        // What is left lies in result order; bring it to operand order, then give extent-1 dimensions back.
        let kept: Vec<usize> = (0..self.shape.len()).filter(|d| !summed.contains(d)).collect();
        let order: Vec<usize> = self.dims.iter().filter_map(|d| kept.iter().position(|k| k == d)).collect();
        let g = cx.graph.transpose(g, &order);
        Ok(vec![Some(cx.graph.reshape(g, &from))])
    }
}
