//! `transpose`: result dimension `i` is operand dimension `permutation[i]`.
//!
//! (C1) one operand; (C2) `permutation` is a permutation of its dimensions.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::tensor::{Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Transpose {
        /// Operand dimension of each result dimension.
        permutation: Vec<usize>,
    }
}

impl Transpose {
    /// The permutation that undoes this one.
    pub fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.permutation.len()];
        self.permutation.iter().enumerate().for_each(|(i, p)| inverse[*p] = i);
        inverse
    }
}

impl OpDef for Transpose {
    const NAMES: &'static [&'static str] = &["transpose"];
    fn name(&self) -> &'static str {
        "transpose"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("transpose", "(C1) takes one operand")) };
        let mut sorted = self.permutation.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..a.rank()) {
            return Err(InferError::new("transpose", format!("(C2) {:?} is no permutation of the dimensions of {a}", self.permutation)));
        }
        let shape: Dims = self.permutation.iter().map(|p| a.shape[*p]).collect();
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 0);
        axes.operands.push(self.inverse().into_iter().map(DimUse::Loop).collect());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (from, ty, inverse) = (ins[0].shape(), &out.components()[0], self.inverse());
        let pick = indices(&ty.shape).map(|i| {
            let at: Dims = inverse.iter().map(|d| i[*d]).collect();
            Some(position(from, &at))
        });
        vec![Tensor::pick(ty.clone(), ins[0], pick, None)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(vec![Some(cx.graph.transpose(cx.cotangent(), &self.inverse()))])
    }
}
