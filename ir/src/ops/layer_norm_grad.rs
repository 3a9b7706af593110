//! `layer_norm_grad`: the cotangent of [`layer_norm`](super::layer_norm)'s first operand, from (x, γ, ȳ).
//!
//! With x̂ the normalized rows, r = 1/√(σ² + eps) and g = ȳ·γ: r·(g − mean g − x̂·mean(g·x̂)).
//! (C1) three operands, the first and the last of one type; (C2) rows are the last `trailing` ≥ 1 dimensions of `x`, a float tensor;
//! (C3) γ has the rows' type.

use super::composite::{check_rows, eval_wide, row_axes, vjp_through};
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::attr::Real;
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

crate::op_attrs! {
    /// See the module.
    LayerNormGrad {
        /// How many trailing dimensions make a row.
        trailing: usize,
        /// Added to the variance before the root.
        eps: Real,
    }
}

impl OpDef for LayerNormGrad {
    const NAMES: &'static [&'static str] = &["layer_norm_grad"];
    fn name(&self) -> &'static str {
        "layer_norm_grad"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        if ins.len() != 3 {
            return Err(InferError::new("layer_norm_grad", format!("(C1) takes 3 operands, not {}", ins.len())));
        }
        let x = ins[0];
        if ins[2] != x {
            return Err(InferError::new("layer_norm_grad", format!("(C1) operands are {x} and {}", ins[2])));
        }
        check_rows("layer_norm_grad", x, self.trailing, &ins[1..2])?;
        Ok(x.clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let shape = &out.components()[0].shape;
        let mut axes = row_axes(shape, shape.len() - self.trailing..shape.len(), 1, 1, 14);
        axes.operands.push(axes.operands[0].clone());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_wide(self, ins, out)
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        vjp_through(self, cx)
    }
}

impl Composite for LayerNormGrad {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (x, gamma, dy) = (operands[0], operands[1], operands[2]);
        let rank = graph.shape(x).len();
        let rows: Vec<usize> = (rank - self.trailing..rank).collect();
        let (normal, r) = super::layer_norm::normalized(graph, x, self.trailing, self.eps.get());
        let gamma = graph.spread_row(gamma, x);
        let g = graph.times(dy, gamma);
        let mean = graph.mean_spread(g, &rows);
        let gn = graph.times(g, normal);
        let along = graph.mean_spread(gn, &rows);
        let along = graph.times(normal, along);
        let d = graph.minus(g, mean);
        let d = graph.minus(d, along);
        vec![graph.times(r, d)]
    }
}
