//! `rms_norm`: rows over their root mean square, scaled: x/√(mean x² + eps)·γ, from (x, γ).
//!
//! (C1) two operands; (C2) rows are the last `trailing` ≥ 1 dimensions of `x`, a float tensor; (C3) γ has the rows' type.

use super::composite::{check_rows, eval_wide, row_axes};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::attr::Real;
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::UnaryFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    RmsNorm {
        /// How many trailing dimensions make a row.
        trailing: usize,
        /// Added to the mean square before the root.
        eps: Real,
    }
}

impl OpDef for RmsNorm {
    const NAMES: &'static [&'static str] = &["rms_norm"];
    fn name(&self) -> &'static str {
        "rms_norm"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        if ins.len() != 2 {
            return Err(InferError::new("rms_norm", format!("(C1) takes 2 operands, not {}", ins.len())));
        }
        let x = ins[0];
        check_rows("rms_norm", x, self.trailing, &ins[1..2])?;
        Ok(x.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let shape = &out.components()[0].shape;
        row_axes(shape, shape.len() - self.trailing..shape.len(), 1, 1, 5)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (x, gamma, g) = (cx.operands[0], cx.operands[1], cx.cotangent());
        let dx = cx.wanted[0].then(|| {
            let op = super::rms_norm_grad::RmsNormGrad { trailing: self.trailing, eps: self.eps };
            cx.graph.emit(op, &[x, gamma, g])
        });
        let dgamma = cx.wanted[1].then(|| {
            let r = inverse_rms(cx.graph, x, self.trailing, self.eps.get());
            let normal = cx.graph.times(x, r);
            let gn = cx.graph.times(g, normal);
            cx.graph.sum_leading(gn, self.trailing)
        });
        Ok(vec![dx, dgamma])
    }
}

impl Composite for RmsNorm {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let r = inverse_rms(graph, operands[0], self.trailing, self.eps.get());
        let normal = graph.times(operands[0], r);
        let gamma = graph.spread_row(operands[1], normal);
        vec![graph.times(normal, gamma)]
    }
}

/// Emits 1/√(mean x² + eps) over rows, with the type of `x`.
pub fn inverse_rms(graph: &mut Graph, x: ValueId, trailing: usize, eps: f64) -> ValueId {
    let shape = crate::types::Dims::from_slice(graph.shape(x));
    let lead = shape.len() - trailing;
    let (kept, rows): (Vec<usize>, Vec<usize>) = ((0..lead).collect(), (lead..shape.len()).collect());
    let squares = graph.times(x, x);
    let sum = graph.sum(squares, &rows);
    let mean = graph.scaled(sum, 1.0 / shape[lead..].iter().product::<usize>().max(1) as f64);
    let shifted = graph.shifted(mean, eps);
    let r = graph.unary(UnaryFn::Rsqrt, shifted);
    graph.broadcast(r, &shape, &kept)
}
