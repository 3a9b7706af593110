//! `reverse`: turns the order of the elements around along some dimensions (StableHLO `reverse`).
//!
//! (C1) one operand; (C2) `dims` are different dimensions of it.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Reverse {
        /// The dimensions that are turned around.
        dims: Vec<usize>,
    }
}

impl OpDef for Reverse {
    const NAMES: &'static [&'static str] = &["reverse"];
    fn name(&self) -> &'static str {
        "reverse"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("reverse", "(C1) takes one operand")) };
        if self.dims.iter().enumerate().any(|(i, d)| *d >= a.rank() || self.dims[..i].contains(d)) {
            return Err(InferError::new("reverse", format!("(C2) {:?} are not different dimensions of {a}", self.dims)));
        }
        Ok((*a).clone().into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 1, 0);
        for d in &self.dims {
            let last = ins[0].shape[*d] as i64 - 1;
            axes.operands[0][*d] = DimUse::Window { loop_dim: *d, stride: -1, offset: last, size: 1, dilation: 1 };
        }
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let ty = &out.components()[0];
        let pick = indices(&ty.shape).map(|i| {
            let at: Dims = (0..i.len()).map(|d| if self.dims.contains(&d) { ty.shape[d] - 1 - i[d] } else { i[d] }).collect();
            Some(position(&ty.shape, &at))
        });
        vec![Tensor::pick(ty.clone(), ins[0], pick, None)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let g = cx.cotangent();
        Ok(vec![Some(cx.graph.emit(self.clone(), &[g]))])
    }
}
