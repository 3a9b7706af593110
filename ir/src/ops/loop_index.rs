//! `loop_index`: the number of the current iteration of a loop, from 0.
//!
//! (C1) no operands; (C2) the loop has an end: a `repeat` or a `while`. The result is an i64 scalar.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    LoopIndex {
        /// Which loop.
        loop_id: usize,
    }
}

impl OpDef for LoopIndex {
    const NAMES: &'static [&'static str] = &["loop_index"];
    fn name(&self) -> &'static str {
        "loop_index"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        match ins {
            [] => Ok(TensorType::new(DType::I64, []).into()),
            _ => Err(InferError::new("loop_index", "(C1) takes no operands")),
        }
    }
    fn axes(&self, _: &[&TensorType], _: &Type) -> Axes {
        Axes::elementwise(&[], 0, 0)
    }
    /// The index of the first iteration; the interpreter supplies the others.
    fn eval(&self, _: &[&Tensor], _: &Type) -> Vec<Tensor> {
        vec![Tensor::scalar_int(DType::I64, 0)]
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(Vec::new())
    }
}
