//! Liveness slot by slot: a loop reads all its next values, but what nobody needs of them is dead all the same.

use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use rustc_hash::FxHashMap;

/// The operands of a loop's end, by what they are.
pub(crate) struct End<'a> {
    /// The predicate of a `while`.
    pub predicate: Option<ValueId>,
    /// The carry of each slot.
    pub carries: &'a [ValueId],
    /// The next value of each slot.
    pub next: &'a [ValueId],
}

/// The parts of a loop's end; `None` for other ops.
pub(crate) fn end_parts(graph: &Graph, v: ValueId) -> Option<End<'_>> {
    let node = graph.node(v);
    let first = match &node.op {
        Op::Repeat(_) => 0,
        Op::While(_) => 1,
        _ => return None,
    };
    let (carries, next) = node.operands[first..].split_at((node.operands.len() - first) / 2);
    Some(End { predicate: (first == 1).then(|| node.operands[0]), carries, next })
}

/// The slot of a loop that a value takes out of it: the loop's end and the slot.
pub(crate) fn result_of(graph: &Graph, v: ValueId) -> Option<(ValueId, usize)> {
    let node = graph.node(v);
    match &node.op {
        Op::Proj(p) if matches!(graph.node(node.operands[0]).op, Op::Repeat(_) | Op::While(_)) => Some((node.operands[0], p.index)),
        _ => None,
    }
}

/// Which values these roots need. A slot is needed when its result or its carry is; a loop that has no end yet is no loop.
pub(crate) fn live_slots(graph: &Graph, roots: impl IntoIterator<Item = ValueId>) -> Vec<bool> {
    let mut ends: FxHashMap<usize, ValueId> = FxHashMap::default();
    for v in graph.values() {
        if let Op::Repeat(_) | Op::While(_) = &graph.node(v).op {
            ends.insert(girih_ir::graph::loops::loop_of(&graph.node(v).op), v);
        }
    }
    let mut live = vec![false; graph.nodes().len()];
    let mut open: Vec<ValueId> = roots.into_iter().collect();
    while let Some(v) = open.pop() {
        if std::mem::replace(&mut live[v.index()], true) {
            continue;
        }
        if let Some((end, slot)) = result_of(graph, v) {
            live[end.index()] = true;
            let parts = end_parts(graph, end).into_iter();
            parts.for_each(|p| open.extend([p.carries[slot], p.next[slot]].into_iter().chain(p.predicate)));
            continue;
        }
        match &graph.node(v).op {
            Op::Carry(c) => {
                let parts = ends.get(&c.loop_id).and_then(|end| end_parts(graph, *end));
                parts.into_iter().for_each(|p| open.extend(p.next.get(c.slot).copied().into_iter().chain(p.predicate)));
            }
            Op::LoopIndex(i) => {
                let parts = ends.get(&i.loop_id).and_then(|end| end_parts(graph, *end));
                open.extend(parts.and_then(|p| p.predicate));
            }
            _ => {}
        }
        open.extend(&graph.node(v).operands);
    }
    live
}
