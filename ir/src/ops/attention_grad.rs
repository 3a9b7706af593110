//! `attention_grad`: the cotangents of q, k and v of [`attention`](super::attention), from q, k, v and the cotangent g of its result. The
//! weights are computed again, so that neither they nor the scores are kept from the forward pass.
//!
//! `weights` is the forward program; its first result is what multiplied v, and it may have more (the same in a wider type). `scores` makes
//! the cotangent of the scores from those results, g·vᵀ, and masks of its own. With W and S what they make: dq = S·k, dk = Sᵀ·q, dv = Wᵀ·g.
//! `layouts` are those of q, k, v, g, dq, dk, dv; `masks` those of `weights`, then those of `scores`.
//! (C1) operands are q, k, v, g and the masks; (C2) to (C6) as for attention, for both programs; (C7) g has the shape of a result.

use super::attention::{extents, laid_out, mask_uses, nest, ordered, product, products, program, rows, work};
use super::composite::eval_parts;
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, LoopKind};
use crate::fused::FusedProgram;
use crate::graph::{Graph, ValueId};
use crate::ops::attention::Extents;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};
use std::sync::Arc;

crate::op_attrs! {
    /// See the module.
    AttentionGrad {
        /// From scores and masks to weights.
        weights: Arc<FusedProgram>,
        /// From weights, their cotangents and masks to the cotangents of the scores.
        scores: Arc<FusedProgram>,
        /// Where batch, rows and width are in q, k, v, g, dq, dk and dv.
        layouts: Vec<Vec<usize>>,
        /// Loop of each dimension of each mask.
        masks: Vec<Vec<usize>>,
    }
}

const NAME: &str = "attention_grad";

impl AttentionGrad {
    /// How many masks the weights read.
    pub fn weight_masks(&self) -> usize {
        self.weights.inputs.len().saturating_sub(1).min(self.masks.len())
    }

    /// The extents for these operand types, checked.
    pub fn extents(&self, ins: &[&TensorType]) -> Result<Extents, InferError> {
        let err = |why: String| Err(InferError::new(NAME, why));
        let e = extents(NAME, ins, &self.layouts, 7)?;
        let (dtype, loops) = (ins[0].dtype, e.loops());
        let Some(g) = ins.get(3).filter(|_| ins.len() == 4 + self.masks.len()) else {
            return err(format!("(C1) takes q, k, v, g and {} masks, not {} operands", self.masks.len(), ins.len()));
        };
        let want = e.rows(dtype, &self.layouts[3], true, false);
        if **g != want {
            return err(format!("(C7) g is {g}, not {want}"));
        }
        let (first, second) = self.masks.split_at(self.weight_masks());
        let (ours, theirs) = ins[4..].split_at(first.len());
        let mut given = program(NAME, &self.weights, &[dtype], ours, first, &loops)?;
        if given[0] != dtype {
            return err(format!("(C5) weights are {}, not {dtype}", given[0]));
        }
        given.push(dtype);
        let made = program(NAME, &self.scores, &given, theirs, second, &loops)?;
        if made != [dtype] {
            return err(format!("(C5) cotangents of scores are {made:?}, not one {dtype}"));
        }
        Ok(e)
    }
}

impl OpDef for AttentionGrad {
    const NAMES: &'static [&'static str] = &[NAME];
    fn name(&self) -> &'static str {
        NAME
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let e = self.extents(ins)?;
        let made = |i: usize, queries, keyed| e.rows(ins[0].dtype, &self.layouts[i], queries, keyed);
        Ok(Type::Tuple(vec![made(4, true, true), made(5, false, true), made(6, false, false)]))
    }
    fn axes(&self, ins: &[&TensorType], _: &Type) -> Axes {
        let Ok(e) = self.extents(ins) else { return Axes::whole(&[], &[]) };
        let ops = products(3, 2, &e).saturating_add(work(&self.weights) + work(&self.scores));
        let mut axes = nest(&e, LoopKind::Whole, ops);
        let uses = |i: usize| e.uses(&self.layouts[i], matches!(i, 0 | 3 | 4));
        axes.operands = (0..4).map(uses).chain(mask_uses(&self.masks)).collect();
        axes.results = (4..7).map(uses).collect();
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_parts(self, ins, out)
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: NAME, why: "fusion comes after differentiation; differentiate the graph before it is fused" })
    }
}

impl Composite for AttentionGrad {
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let [q, k, v, g] = [0, 1, 2, 3].map(|i| ordered(graph, operands[i], &self.layouts[i]));
        let (first, second) = self.masks.split_at(self.weight_masks());
        let (ours, theirs) = operands[4..].split_at(first.len());
        let scores = product(graph, q, k, [1, 1]);
        let weights = rows(graph, &self.weights, &[scores], ours, first);
        let toward = product(graph, g, v, [1, 1]);
        let given: Vec<ValueId> = weights.iter().copied().chain([toward]).collect();
        let ds = rows(graph, &self.scores, &given, theirs, second)[0];
        let made = [product(graph, ds, k, [1, 0]), product(graph, ds, q, [0, 0]), product(graph, weights[0], g, [0, 0])];
        made.into_iter().zip(&self.layouts[4..]).map(|(d, layout)| laid_out(graph, d, layout)).collect()
    }
}
