//! `proj`: one component of a tuple. The only op that reads a tuple.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Proj {
        /// Which component.
        index: usize,
    }
}

impl Proj {
    /// The component's type: (C1) one operand, a tuple; (C2) `index` is inside it.
    pub fn component(&self, ins: &[&Type]) -> Result<Type, InferError> {
        match ins {
            [Type::Tuple(ts)] => match ts.get(self.index) {
                Some(t) => Ok(t.clone().into()),
                None => Err(InferError::new("proj", format!("(C2) there is no component {} of {} results", self.index, ts.len()))),
            },
            _ => Err(InferError::new("proj", "(C1) takes one operand, a tuple")),
        }
    }
}

impl OpDef for Proj {
    const NAMES: &'static [&'static str] = &["proj"];
    fn name(&self) -> &'static str {
        "proj"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Type, InferError> {
        Err(InferError::new("proj", "(C1) takes one operand, a tuple"))
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 0)
    }
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        ins.get(self.index).map(|t| (*t).clone()).into_iter().collect()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: "proj", why: "the reverse sweep hands cotangents of components to the tuple's op itself" })
    }
}
