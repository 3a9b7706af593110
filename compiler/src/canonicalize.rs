//! Canonicalization: constants folded, no-ops gone, one form for what can be written in several ways, dead nodes dropped.
//!
//! It runs before autodiff, so that fewer ops are differentiated, and again after it. It is idempotent and keeps every result bit, with one
//! exception: the sign of a zero may change (`x + 0` is `x`). Equal nodes are merged by the graph itself.

mod elementwise;
mod fold;
pub(crate) mod loops;
mod shape;

use girih_ir::attr::Attr;
use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::{Binary, Compare};
use girih_ir::tensor::Tensor;
use girih_ir::types::TensorType;
use loops::Unrolling;
use std::convert::Infallible;
use std::sync::Arc;

/// What canonicalization did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CanonicalizeStats {
    /// Nodes of the graph that came in.
    pub nodes_before: usize,
    /// Nodes of the graph that went out.
    pub nodes_after: usize,
    /// Ops evaluated because all their operands are constant.
    pub folded: usize,
    /// Ops replaced by something simpler.
    pub simplified: usize,
    /// Passes over the graph, the last of which changed nothing.
    pub rounds: usize,
}

/// Passes at most; real models settle in two or three.
const MAX_ROUNDS: usize = 16;
/// Rules that may fire on what another rule just made.
const MAX_DEPTH: usize = 16;

/// Brings a well-typed graph into its canonical form.
pub fn canonicalize(graph: &Graph) -> (Graph, CanonicalizeStats) {
    canonical(graph, Unrolling::SHORT)
}

/// The same, with loops that run more than once kept as loops, however short they are.
pub fn canonicalize_rolled(graph: &Graph) -> (Graph, CanonicalizeStats) {
    canonical(graph, Unrolling::NONE)
}

fn canonical(graph: &Graph, unrolling: Unrolling) -> (Graph, CanonicalizeStats) {
    let mut stats = CanonicalizeStats { nodes_before: graph.nodes().len(), ..CanonicalizeStats::default() };
    let (mut current, mut changes) = pass(graph, &mut stats, unrolling);
    while stats.rounds < MAX_ROUNDS && changes > 0 {
        (current, changes) = pass(&current, &mut stats, unrolling);
    }
    stats.nodes_after = current.nodes().len();
    (current, stats)
}

/// One pass in topological order, in which every op sees canonical operands, and one over the loops. Returns the number of changes.
fn pass(graph: &Graph, stats: &mut CanonicalizeStats, unrolling: Unrolling) -> (Graph, usize) {
    stats.rounds += 1;
    let before = (stats.folded, stats.simplified);
    let rewritten = graph.rewritten(|out, node: &Node, operands| {
        let op = canonical_regions(&node.op);
        Ok::<ValueId, Infallible>(Rewriter { out, stats: &mut *stats, depth: 0 }.build(op, operands))
    });
    let mut out = match rewritten {
        Ok((out, _)) => out,
        Err(never) => match never {},
    };
    if let Some(simpler) = loops::simplify(&out, stats, unrolling) {
        out = simpler;
    }
    let fired = stats.folded - before.0 + (stats.simplified - before.1);
    let shrunk = graph.nodes().len() - out.nodes().len().min(graph.nodes().len());
    (out, fired + shrunk)
}

/// The op with its regions canonicalized.
fn canonical_regions(op: &Op) -> Op {
    let attrs = op.attrs();
    if !attrs.iter().any(|(_, a)| matches!(a, Attr::Region(_))) {
        return op.clone();
    }
    let attrs: Vec<(String, Attr)> = attrs
        .into_iter()
        .map(|(name, attr)| match attr {
            Attr::Region(body) => (name.to_string(), Attr::Region(Arc::new(canonicalize(&body).0))),
            other => (name.to_string(), other),
        })
        .collect();
    match Op::parse(op.name(), &attrs) {
        Some(Ok(new)) => new,
        _ => op.clone(),
    }
}

/// The graph being built and the rules that act on it.
struct Rewriter<'a> {
    out: &'a mut Graph,
    stats: &'a mut CanonicalizeStats,
    depth: usize,
}

impl Rewriter<'_> {
    /// Adds an op in canonical form: a rule's result, or the op itself.
    fn build(&mut self, op: Op, operands: &[ValueId]) -> ValueId {
        let (op, operands) = self.ordered(op, operands);
        if self.depth < MAX_DEPTH {
            self.depth += 1;
            let simpler = self.rules(&op, &operands);
            self.depth -= 1;
            if let Some(v) = simpler {
                return v;
            }
        }
        self.out.emit(op, &operands)
    }

    /// Every rule that may apply; `None` when the op is canonical.
    fn rules(&mut self, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
        let simpler = elementwise::simplify(self, op, operands).or_else(|| shape::simplify(self, op, operands));
        if simpler.is_some() {
            self.stats.simplified += 1;
            return simpler;
        }
        let folded = fold::fold(self, op, operands);
        self.stats.folded += usize::from(folded.is_some());
        folded
    }

    /// Operands of commutative functions in value order, constants last.
    fn ordered(&self, op: Op, operands: &[ValueId]) -> (Op, Vec<ValueId>) {
        let key = |v: &ValueId| (is_known(self.out, *v), *v);
        let mut operands = operands.to_vec();
        match &op {
            Op::Binary(Binary(f)) if f.is_commutative() => operands.sort_by_key(key),
            Op::Compare(Compare(f)) if operands.len() == 2 && key(&operands[0]) > key(&operands[1]) => {
                operands.swap(0, 1);
                return (Compare(f.swapped()).into(), operands);
            }
            _ => {}
        }
        (op, operands)
    }

    /// A tensor of one repeated scalar.
    fn splat(&mut self, scalar: &Tensor, shape: &[usize]) -> ValueId {
        let c = self.out.constant(scalar);
        self.out.broadcast(c, shape, &[])
    }

    /// A tensor of one repeated number.
    fn number(&mut self, ty: &TensorType, v: f64) -> ValueId {
        self.out.splat(ty, v)
    }
}

/// The op that makes a value.
fn op_of(g: &Graph, v: ValueId) -> &Op {
    &g.node(v).op
}

/// The repeated element of a value, as a scalar: a scalar constant or its broadcast.
fn splat_of(g: &Graph, v: ValueId) -> Option<Tensor> {
    g.splat_of(v).map(Tensor::from_literal)
}

/// Whether a value is a constant or repeats one.
fn is_known(g: &Graph, v: ValueId) -> bool {
    matches!(op_of(g, v), Op::Constant(_)) || splat_of(g, v).is_some()
}

#[cfg(test)]
mod tests;
