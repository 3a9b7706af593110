//! `all_reduce`: a value combined over all replicas of the step.
//!
//! A step may run in `rows × cols` replicas side by side, each on its rows of the batch. The operand is a replica's own value; the result,
//! equal in all of them, combines those of all replicas in a fixed order: along each row of the grid of replicas from west to east, then
//! over the rows from north to south. Floats narrower than f32 are combined in f32 and rounded once.
//! (C1) one operand; (C2) the grid has at least one replica; (C3) the monoid is defined on the element type.
//!
//! The interpreter runs one replica alone: for it the others hold the monoid's neutral element.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::scalar::Monoid;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    AllReduce {
        /// The combiner.
        monoid: Monoid,
        /// Rows of the grid of replicas.
        rows: usize,
        /// Columns of the grid of replicas.
        cols: usize,
    }
}

impl OpDef for AllReduce {
    const NAMES: &'static [&'static str] = &["all_reduce"];
    fn name(&self) -> &'static str {
        "all_reduce"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("all_reduce", "(C1) takes one operand")) };
        if self.rows == 0 || self.cols == 0 {
            return Err(InferError::new("all_reduce", format!("(C2) a grid of {}×{} holds no replica", self.rows, self.cols)));
        }
        if self.monoid.function().result(a.dtype).is_none() {
            return Err(InferError::new("all_reduce", format!("(C3) {} is not defined on {}", self.monoid.name(), a.dtype)));
        }
        Ok((*a).clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 0)
    }
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        ins.iter().take(1).map(|t| (*t).clone()).collect()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: "all_reduce", why: "steps are differentiated before they are cut into replicas" })
    }
}
