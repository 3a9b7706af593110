//! `iota`: every element is its own index along a dimension (StableHLO `iota`).
//!
//! (C1) no operands; (C2) `dim` is below the rank of `shape`; (C3) `dtype` is a number type.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices};
use crate::types::{DType, Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Iota {
        /// Element type.
        dtype: DType,
        /// Extents of the result.
        shape: Dims,
        /// The dimension whose index it is.
        dim: usize,
    }
}

impl OpDef for Iota {
    const NAMES: &'static [&'static str] = &["iota"];
    fn name(&self) -> &'static str {
        "iota"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        if !ins.is_empty() {
            return Err(InferError::new("iota", "(C1) takes no operands"));
        }
        if self.dim >= self.shape.len() {
            return Err(InferError::new("iota", format!("(C2) {:?} has no dimension {}", self.shape, self.dim)));
        }
        if self.dtype == DType::Bool {
            return Err(InferError::new("iota", "(C3) is not defined on bool"));
        }
        Ok(TensorType::new(self.dtype, &self.shape).into())
    }
    fn axes(&self, _: &[&TensorType], _: &Type) -> Axes {
        Axes::elementwise(&self.shape, 0, 0)
    }
    fn eval(&self, _: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let ty = out.components()[0].clone();
        let along = indices(&self.shape).map(|i| i[self.dim]);
        vec![if self.dtype.is_float() {
            Tensor::new_float(ty, along.map(|i| i as f64).collect())
        } else {
            Tensor::new_int(ty, along.map(|i| i as i64).collect())
        }]
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(Vec::new())
    }
}
