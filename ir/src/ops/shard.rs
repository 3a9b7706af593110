//! `shard`: the operand as it is, with the wish of the model's author how it should lie over a mesh.
//!
//! The partitioner takes the wish as given: dimension `y` is split over the rows of the logical mesh, dimension `x` over its columns,
//! and −1 splits nothing along that axis. On a single die it means nothing and is dropped.
//! (C1) one operand; (C2) `y` and `x` are −1 or a dimension of it.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    Shard {
        /// The dimension over the rows of the mesh, or −1.
        y: i64,
        /// The dimension over the columns of the mesh, or −1.
        x: i64,
    }
}

impl OpDef for Shard {
    const NAMES: &'static [&'static str] = &["shard"];
    fn name(&self) -> &'static str {
        "shard"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("shard", "(C1) takes one operand")) };
        match [self.y, self.x].into_iter().find(|d| *d < -1 || *d >= a.rank() as i64) {
            Some(d) => Err(InferError::new("shard", format!("(C2) there is no dimension {d} of {a}"))),
            None => Ok((*a).clone().into()),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 0)
    }
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        ins.iter().take(1).map(|t| (*t).clone()).collect()
    }
    /// The cotangent lies as the value does.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let g = cx.cotangent();
        Ok(vec![Some(cx.graph.emit(self.clone(), &[g]))])
    }
}
