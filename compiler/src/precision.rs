//! precision: products and convolutions of f32 on the engines for bf16.
//!
//! The operands of every f32 product and convolution are rounded to bf16, sums are made in f32, and the result is rounded once; everything else
//! stays f32, master weights and the optimizer's state among it. Rounding is pushed up and widening down through what only moves elements, so that
//! what flows between products alone is never widened, and what is used by several products is rounded once a step. It comes behind `optimize`, so
//! both precisions are rewritten alike, and before `fuse`, which makes most conversions part of what computes the value anyway.

use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::InferError;
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::Convert;
use girih_ir::types::DType;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The type in which products and convolutions of f32 values take their operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// As the model says.
    #[default]
    F32,
    /// Rounded to bf16, summed in f32.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// The name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Precision::ALL.into_iter().find(|p| p.name() == text);
        found.ok_or_else(|| format!("there is no precision `{text}`: it is f32 or bf16"))
    }
}

/// The graph with its f32 products and convolutions on bf16 operands, and how many those are.
pub fn narrow(graph: &Graph) -> (Graph, usize) {
    let mut narrowed = Narrowed { twins: BTreeMap::new(), products: 0 };
    let made = graph.rewritten(|out, node, operands| narrowed.node(out, node, operands));
    made.map_or_else(|_| (graph.clone(), 0), |(out, _)| (out, narrowed.products))
}

struct Narrowed {
    /// The bf16 form of an f32 value.
    twins: BTreeMap<ValueId, ValueId>,
    products: usize,
}

impl Narrowed {
    fn node(&mut self, out: &mut Graph, node: &Node, operands: &[ValueId]) -> Result<ValueId, InferError> {
        if moves(&node.op) && !operands.is_empty() && operands.iter().all(|o| self.widened(out, *o)) {
            let narrow: Vec<ValueId> = operands.iter().map(|o| self.twins[o]).collect();
            let made = out.add(node.op.clone(), &narrow)?;
            return self.widen(out, made);
        }
        let product = matches!(node.op, Op::DotGeneral(_) | Op::Convolution(_));
        if !product || operands.iter().any(|o| out.tensor_ty(*o).dtype != DType::F32) {
            return out.add(node.op.clone(), operands);
        }
        let narrow: Vec<ValueId> = operands.iter().map(|o| self.twin(out, *o)).collect::<Result<_, _>>()?;
        let made = out.add(node.op.clone(), &narrow)?;
        self.products += 1;
        self.widen(out, made)
    }

    /// A bf16 value in f32.
    fn widen(&mut self, out: &mut Graph, made: ValueId) -> Result<ValueId, InferError> {
        let wide = out.add(Op::Convert(Convert { to: DType::F32 }), &[made])?;
        self.twins.insert(wide, made);
        Ok(wide)
    }

    /// Whether an f32 value is its bf16 form, widened.
    fn widened(&self, out: &Graph, value: ValueId) -> bool {
        matches!(out.node(value).op, Op::Convert(_)) && self.twins.get(&value) == out.node(value).operands.first()
    }

    /// The value in bf16, rounded as early as it can be.
    fn twin(&mut self, out: &mut Graph, value: ValueId) -> Result<ValueId, InferError> {
        if let Some(twin) = self.twins.get(&value) {
            return Ok(*twin);
        }
        let node = out.node(value).clone();
        let twin = if moves(&node.op) {
            let operands: Vec<ValueId> = node.operands.iter().map(|o| self.twin(out, *o)).collect::<Result<_, _>>()?;
            out.add(node.op, &operands)?
        } else {
            out.add(Op::Convert(Convert { to: DType::BF16 }), &[value])?
        };
        self.twins.insert(value, twin);
        Ok(twin)
    }
}

/// Whether an op only moves the elements of its operands.
fn moves(op: &Op) -> bool {
    matches!(op, Op::Transpose(_) | Op::Reshape(_) | Op::Broadcast(_) | Op::Slice(_) | Op::Reverse(_) | Op::Shard(_) | Op::Concat(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::Role;
    use girih_ir::ops::concat::Concat;
    use girih_ir::ops::dot_general::DotGeneral;
    use girih_ir::ops::transpose::Transpose;
    use girih_ir::types::TensorType;

    fn count(graph: &Graph, of: impl Fn(&Node) -> bool) -> usize {
        let live = graph.live();
        graph.values().filter(|v| live[v.index()] && of(graph.node(*v))).count()
    }

    #[test]
    fn what_flows_between_products_is_never_widened() {
        let mut g = Graph::new("chain");
        let ty = || TensorType::new(DType::F32, [8usize, 8]);
        let (x, w) = (g.input("x", ty(), Role::Data), g.input("w", ty(), Role::Param));
        let dot = |g: &mut Graph, a, b| g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[a, b]).unwrap();
        let a = dot(&mut g, x, w);
        let turned = g.add(Op::Transpose(Transpose { permutation: vec![1, 0] }), &[a]).unwrap();
        let b = dot(&mut g, turned, w);
        g.output("y", b);
        let (narrow, products) = narrow(&g);
        assert_eq!(products, 2);
        let converts_to = |to: DType| count(&narrow, |n| matches!(&n.op, Op::Convert(c) if c.to == to));
        // Both inputs once, however often they are used, and the result.
        assert_eq!((converts_to(DType::BF16), converts_to(DType::F32)), (2, 1));
        assert_eq!(narrow.tensor_ty(narrow.outputs[0].value).dtype, DType::F32);
        assert_eq!(count(&narrow, |n| matches!(n.op, Op::Transpose(_))), 1);
    }

    #[test]
    fn what_is_moved_is_widened_behind() {
        let mut g = Graph::new("heads");
        let ty = || TensorType::new(DType::F32, [8usize, 8]);
        let (x, w) = (g.input("x", ty(), Role::Data), g.input("w", ty(), Role::Param));
        let dot = |g: &mut Graph, a, b| g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[a, b]).unwrap();
        let (a, b) = (dot(&mut g, x, w), dot(&mut g, w, x));
        let both = g.add(Op::Concat(Concat { dim: 0 }), &[a, b]).unwrap();
        let product = dot(&mut g, both, w);
        g.output("y", product);
        g.output("both", both);
        let (narrow, _) = narrow(&g);
        let concat = |n: &Node| matches!(n.op, Op::Concat(_)) && narrow.tensor_ty(n.operands[0]).dtype == DType::BF16;
        assert_eq!((count(&narrow, concat), count(&narrow, |n| matches!(n.op, Op::Concat(_)))), (1, 1));
        assert_eq!(narrow.tensor_ty(narrow.outputs[1].value).dtype, DType::F32);
    }

    #[test]
    fn other_types_stay() {
        let mut g = Graph::new("wide");
        let ty = TensorType::new(DType::F64, [4usize, 4]);
        let x = g.input("x", ty, Role::Data);
        let y = g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[x, x]).unwrap();
        g.output("y", y);
        assert_eq!(narrow(&g), (g, 0));
    }

    #[test]
    fn names_round_trip() {
        for p in Precision::ALL {
            assert_eq!(p.to_string().parse(), Ok(p));
        }
        assert!("fp8".parse::<Precision>().is_err());
    }
}
