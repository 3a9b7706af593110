//! `input`: the `index`-th input of the graph. Made by [`Graph::input`](crate::graph::Graph::input), which also gives its type.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Input {
        /// Position among the graph's inputs.
        index: usize,
    }
}

impl OpDef for Input {
    const NAMES: &'static [&'static str] = &["input"];
    fn name(&self) -> &'static str {
        "input"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Type, InferError> {
        Err(InferError::new("input", "(C1) an input is declared in the graph's header, with its type"))
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 0, 0)
    }
    fn eval(&self, _: &[&Tensor], _: &Type) -> Vec<Tensor> {
        Vec::new()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(Vec::new())
    }
}
