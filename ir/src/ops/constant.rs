//! `constant`: a dense tensor known when the graph is built.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::literal::Literal;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Constant {
        /// The elements.
        value: Literal,
    }
}

impl OpDef for Constant {
    const NAMES: &'static [&'static str] = &["constant"];
    fn name(&self) -> &'static str {
        "constant"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        if !ins.is_empty() {
            return Err(InferError::new("constant", "(C1) takes no operands"));
        }
        Ok(self.value.ty().clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 0, 0)
    }
    fn eval(&self, _: &[&Tensor], _: &Type) -> Vec<Tensor> {
        vec![Tensor::from_literal(&self.value)]
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(Vec::new())
    }
}
