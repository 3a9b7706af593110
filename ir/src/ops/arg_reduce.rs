//! `arg_reduce`: the index of the largest or smallest element along a dimension, which disappears.
//!
//! Of equal elements the first is taken, or the last with `select_last`. NaN counts as the extreme.
//! (C1) one operand; (C2) `dim` is a dimension of it with at least one element, or the result is empty; (C3) `kind` is `max` or `min`;
//! (C4) `dtype` is an integer type.

use super::elementwise::wides;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::graph::ValueId;
use crate::scalar::{CompareFn, Monoid, Wide};
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    ArgReduce {
        /// The dimension that disappears.
        dim: usize,
        /// `max` or `min`.
        kind: Monoid,
        /// Whether the last of equal elements is taken.
        select_last: bool,
        /// Element type of the index.
        dtype: DType,
    }
}

fn is_nan(v: Wide) -> bool {
    matches!(v, Wide::F(x) if x.is_nan())
}

impl ArgReduce {
    /// Whether `x` is taken over an earlier `best`.
    fn beats(&self, dtype: DType, x: Wide, best: Wide) -> bool {
        let f = if self.kind == Monoid::Max { CompareFn::Gt } else { CompareFn::Lt };
        let equal = (is_nan(x) && is_nan(best)) || CompareFn::Eq.eval(dtype, x, best);
        if equal { self.select_last } else { !is_nan(best) && (is_nan(x) || f.eval(dtype, x, best)) }
    }
}

impl OpDef for ArgReduce {
    const NAMES: &'static [&'static str] = &["arg_reduce"];
    fn name(&self) -> &'static str {
        "arg_reduce"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("arg_reduce", "(C1) takes one operand")) };
        if self.dim >= a.rank() {
            return Err(InferError::new("arg_reduce", format!("(C2) {a} has no dimension {}", self.dim)));
        }
        let mut shape = a.shape.clone();
        if shape.remove(self.dim) == 0 && !shape.contains(&0) {
            return Err(InferError::new("arg_reduce", format!("(C2) dimension {} of {a} is empty", self.dim)));
        }
        if !matches!(self.kind, Monoid::Max | Monoid::Min) {
            return Err(InferError::new("arg_reduce", format!("(C3) kind must be max or min, not {}", self.kind.name())));
        }
        if !self.dtype.is_int() {
            return Err(InferError::new("arg_reduce", format!("(C4) an index cannot be {}", self.dtype)));
        }
        Ok(TensorType { dtype: self.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 1);
        let row = axes.loops.len();
        axes.loops.push(LoopDim { extent: ins[0].shape[self.dim], kind: LoopKind::Whole });
        let mut uses: Vec<DimUse> = (0..row).map(DimUse::Loop).collect();
        uses.insert(self.dim, DimUse::Loop(row));
        axes.operands.push(uses);
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, x, ty) = (ins[0], wides(ins[0]), &out.components()[0]);
        let place = |i: &crate::types::Dims, k: usize| {
            let mut at = i.clone();
            at.insert(self.dim, k);
            x[position(a.shape(), &at)]
        };
        let best = |i: crate::types::Dims| {
            (1..a.shape()[self.dim]).fold(0, |best, k| if self.beats(a.dtype(), place(&i, k), place(&i, best)) { k } else { best })
        };
        vec![Tensor::new_int(ty.clone(), indices(&ty.shape).map(|i| best(i) as i64).collect())]
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(vec![None])
    }
}
