//! `layer_norm`: rows with mean 0 and variance 1, scaled and shifted: (x − µ)/√(σ² + eps)·γ + β, from (x, γ, β).
//!
//! (C1) three operands; (C2) rows are the last `trailing` ≥ 1 dimensions of `x`, a float tensor; (C3) γ and β have the rows' type.

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
    LayerNorm {
        /// How many trailing dimensions make a row.
        trailing: usize,
        /// Added to the variance before the root.
        eps: Real,
    }
}

impl OpDef for LayerNorm {
    const NAMES: &'static [&'static str] = &["layer_norm"];
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        if ins.len() != 3 {
            return Err(InferError::new("layer_norm", format!("(C1) takes 3 operands, not {}", ins.len())));
        }
        let x = ins[0];
        check_rows("layer_norm", x, self.trailing, &ins[1..3])?;
        Ok(x.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let shape = &out.components()[0].shape;
        row_axes(shape, shape.len() - self.trailing..shape.len(), 1, 2, 8)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (x, gamma, g) = (cx.operands[0], cx.operands[1], cx.cotangent());
        let dx = cx.wanted[0].then(|| {
            let op = super::layer_norm_grad::LayerNormGrad { trailing: self.trailing, eps: self.eps };
            cx.graph.emit(op, &[x, gamma, g])
        });
        let dgamma = cx.wanted[1].then(|| {
            let (normal, _) = normalized(cx.graph, x, self.trailing, self.eps.get());
            let gn = cx.graph.times(g, normal);
            cx.graph.sum_leading(gn, self.trailing)
        });
        let dbeta = cx.wanted[2].then(|| cx.graph.sum_leading(g, self.trailing));
        Ok(vec![dx, dgamma, dbeta])
    }
}

impl Composite for LayerNorm {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (normal, _) = normalized(graph, operands[0], self.trailing, self.eps.get());
        let gamma = graph.spread_row(operands[1], normal);
        let beta = graph.spread_row(operands[2], normal);
        let scaled = graph.times(normal, gamma);
        vec![graph.plus(scaled, beta)]
    }
}

/// Emits (x − µ)/√(σ² + eps) and 1/√(σ² + eps), both of the type of `x`.
pub fn normalized(graph: &mut Graph, x: ValueId, trailing: usize, eps: f64) -> (ValueId, ValueId) {
    let shape = crate::types::Dims::from_slice(graph.shape(x));
    let (lead, rank) = (shape.len() - trailing, shape.len());
    let (kept, rows): (Vec<usize>, Vec<usize>) = ((0..lead).collect(), (lead..rank).collect());
    let inverse_count = 1.0 / shape[lead..].iter().product::<usize>().max(1) as f64;
    let mean = graph.mean_spread(x, &rows);
    let centered = graph.minus(x, mean);
    let squares = graph.times(centered, centered);
    let sum = graph.sum(squares, &rows);
    let variance = graph.scaled(sum, inverse_count);
    let shifted = graph.shifted(variance, eps);
    let r = graph.unary(UnaryFn::Rsqrt, shifted);
    let r = graph.broadcast(r, &shape, &kept);
    (graph.times(centered, r), r)
}
