//! `reshape`: the same elements in row-major order under another shape.
//!
//! (C1) one operand; (C2) the element counts are equal.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse};
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{Dims, TensorType, Type, element_count};

crate::op_attrs! {
    /// See the module.
    Reshape {
        /// Extents of the result.
        shape: Dims,
    }
}

/// A maximal run of operand dimensions that becomes a run of result dimensions of the same element count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReshapeGroup {
    /// Operand dimensions.
    pub from: std::ops::Range<usize>,
    /// Result dimensions.
    pub to: std::ops::Range<usize>,
}

/// Splits a reshape into its smallest independent groups. Only for shapes without zero extents.
pub fn reshape_groups(from: &[usize], to: &[usize]) -> Vec<ReshapeGroup> {
    let (mut groups, mut i, mut j) = (Vec::new(), 0, 0);
    while i < from.len() || j < to.len() {
        let (i0, j0) = (i, j);
        let (mut a, mut b) = (1usize, 1usize);
        if i < from.len() {
            a = from[i];
            i += 1;
        }
        if j < to.len() {
            b = to[j];
            j += 1;
        }
        while a != b {
            if a < b && i < from.len() {
                a *= from[i];
                i += 1;
            } else if j < to.len() {
                b *= to[j];
                j += 1;
            } else {
                break;
            }
        }
        groups.push(ReshapeGroup { from: i0..i, to: j0..j });
    }
    groups
}

impl OpDef for Reshape {
    const NAMES: &'static [&'static str] = &["reshape"];
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("reshape", "(C1) takes one operand")) };
        if a.elements() != element_count(&self.shape) {
            return Err(InferError::new("reshape", format!("(C2) {a} has {} elements, {:?} has not", a.elements(), self.shape)));
        }
        Ok(TensorType::new(a.dtype, &self.shape).into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let (from, to) = (&ins[0].shape, &out.components()[0].shape);
        let mut axes = Axes::elementwise(to, 0, 0);
        if ins[0].elements() == 0 {
            axes.operands.push(vec![DimUse::Whole; from.len()]);
            return axes;
        }
        let mut uses = vec![DimUse::Whole; from.len()];
        for g in reshape_groups(from, to) {
            if g.from.len() == 1 && g.to.len() == 1 {
                uses[g.from.start] = DimUse::Loop(g.to.start);
                continue;
            }
            let mut weight = 1;
            let mut terms: smallvec::SmallVec<[(usize, usize); 4]> = smallvec::SmallVec::new();
            for d in g.to.clone().rev() {
                terms.insert(0, (d, weight));
                weight *= to[d];
            }
            let mut divide = 1;
            for d in g.from.clone().rev() {
                uses[d] = DimUse::Linear { terms: terms.clone(), divide, extent: from[d] };
                divide *= from[d];
            }
        }
        axes.operands.push(uses);
        axes
    }
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        vec![ins[0].reshaped(&self.shape)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let from = Dims::from_slice(cx.graph.shape(cx.operands[0]));
        Ok(vec![Some(cx.graph.reshape(cx.cotangent(), &from))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_minimal() {
        let g = |a: &[usize], b: &[usize]| reshape_groups(a, b).into_iter().map(|g| (g.from, g.to)).collect::<Vec<_>>();
        assert_eq!(g(&[4, 6, 8], &[24, 8]), [(0..2, 0..1), (2..3, 1..2)]);
        assert_eq!(g(&[4, 12], &[4, 3, 4]), [(0..1, 0..1), (1..2, 1..3)]);
        assert_eq!(g(&[1, 5], &[5]), [(0..2, 0..1)]);
    }
}
