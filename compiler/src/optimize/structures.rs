//! Structures that stay groups of ops: attention, dropout and Adam's update are recognized and counted, not made composite.
//!
//! As one op, attention would hide the products that the partitioner splits by batch and head (on one die, where nothing is split, `fuse` makes it
//! one), and the other two would hide elementwise
//! arithmetic that fusion joins to its surroundings. So the report says how many there are, and the graph keeps its parts.

use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::Op;
use girih_ir::scalar::{BinaryFn, UnaryFn};
use std::collections::BTreeSet;

/// Most ops that a walk steps over; the structures are a few ops deep.
const REACH: usize = 64;

/// How often a graph has each structure; those that it does not have are left out.
pub(super) fn count(graph: &Graph) -> Vec<(&'static str, usize)> {
    let live = graph.live();
    let (mut attention, mut dropout, mut adam) = (BTreeSet::new(), BTreeSet::new(), 0);
    for v in graph.values().filter(|v| live[v.index()]) {
        let node = graph.node(v);
        match &node.op {
            Op::DotGeneral(d) => {
                attention.extend(weights(graph, node.operands[0], &d.lhs_contract));
                attention.extend(weights(graph, node.operands[1], &d.rhs_contract));
            }
            Op::Select(_) => dropout.extend(mask(graph, node.operands[0])),
            Op::Convert(_) => dropout.extend(mask(graph, node.operands[0])),
            _ => adam += usize::from(is_adam(graph, node)),
        }
    }
    let all = [("adam", adam), ("attention", attention.len()), ("dropout", dropout.len())];
    all.into_iter().filter(|(_, n)| *n > 0).collect()
}

fn binary(node: &Node) -> Option<BinaryFn> {
    match &node.op {
        Op::Binary(b) => Some(b.0),
        _ => None,
    }
}

/// What is reached from a value through ops that `through` says to step over, the value itself included.
fn reached(graph: &Graph, from: ValueId, through: impl Fn(&Node) -> bool) -> Vec<ValueId> {
    let mut seen = vec![from];
    let mut next = 0;
    while next < seen.len() && seen.len() < REACH {
        let node = graph.node(seen[next]);
        next += 1;
        if through(node) {
            for o in &node.operands {
                if !seen.contains(o) {
                    seen.push(*o);
                }
            }
        }
    }
    seen
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Broadcast(_) | Op::Transpose(_) | Op::Convert(_))
}

/// The softmax of scores that a product contracts along its rows: scores are a product, perhaps scaled, masked and biased, and
/// between softmax and product there may be a mask.
fn weights(graph: &Graph, operand: ValueId, contracted: &[usize]) -> Option<ValueId> {
    let mut todo = vec![(operand, contracted.to_vec())];
    while let Some((v, dims)) = todo.pop() {
        let node = graph.node(v);
        match &node.op {
            Op::Softmax(s) if dims.contains(&s.dim) => {
                let through = |n: &Node| is_view(&n.op) || matches!(&n.op, Op::Select(_) | Op::Binary(_));
                let scores = reached(graph, node.operands[0], through);
                return scores.iter().any(|v| matches!(graph.node(*v).op, Op::DotGeneral(_))).then_some(v);
            }
            Op::Transpose(t) => todo.push((node.operands[0], dims.iter().map(|d| t.permutation[*d]).collect())),
            Op::Convert(_) => todo.push((node.operands[0], dims)),
            Op::Select(_) => todo.extend(node.operands[1..].iter().map(|o| (*o, dims.clone()))),
            Op::Binary(b) if matches!(b.0, BinaryFn::Mul | BinaryFn::Div) => todo.extend(node.operands.iter().map(|o| (*o, dims.clone()))),
            _ => {}
        }
    }
    None
}

/// The comparison with random numbers that a condition is.
fn mask(graph: &Graph, condition: ValueId) -> Option<ValueId> {
    let views = reached(graph, condition, |n| is_view(&n.op));
    let compared = views.into_iter().find(|v| matches!(graph.node(*v).op, Op::Compare(_)))?;
    let through = |n: &Node| is_view(&n.op) || matches!(&n.op, Op::Binary(_) | Op::Compare(_));
    let random = |v: &ValueId| matches!(graph.node(*v).op, Op::Random(_) | Op::BitcastConvert(_));
    reached(graph, compared, through).iter().any(random).then_some(compared)
}

/// Whether a node is m / (√v + ε) with running means m and v of the same gradient, each with a state of its own.
fn is_adam(graph: &Graph, node: &Node) -> bool {
    let root = |v: &ValueId| matches!(&graph.node(*v).op, Op::Unary(u) if u.0 == UnaryFn::Sqrt).then(|| graph.node(*v).operands[0]);
    if binary(node) != Some(BinaryFn::Div) {
        return false;
    }
    let below = graph.node(node.operands[1]);
    let second = match binary(below) {
        Some(BinaryFn::Add) => below.operands.iter().find_map(root),
        _ => root(&node.operands[1]),
    };
    let means = |n: &Node| {
        is_view(&n.op) || matches!(binary(n), Some(BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Div | BinaryFn::Max))
    };
    let alike =
        |from: ValueId| -> Vec<ValueId> { reached(graph, from, means).into_iter().filter(|v| graph.node(*v).ty == node.ty).collect() };
    let state = |v: &&ValueId| matches!(graph.node(**v).op, Op::Input(_) | Op::Carry(_));
    second.is_some_and(|second| {
        let (m, v) = (alike(node.operands[0]), alike(second));
        let gradient = m.iter().any(|x| v.contains(x) && !state(&x));
        let own = |a: &[ValueId], b: &[ValueId]| a.iter().filter(state).any(|x| !b.contains(x));
        gradient && own(&m, &v) && own(&v, &m)
    })
}
