//! Putting loops that stack in the place of the loops that they extend, so that nothing is computed twice.

use crate::canonicalize::loops::result_of;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// The graph with the results of each pair's first loop taken from the second, and where each value is now. Of the first `originals` values
/// all are kept but those inside the loops that were replaced; of the others, what the roots need.
pub(super) fn replace(
    graph: &Graph,
    nest: &LoopNest,
    originals: usize,
    roots: &[ValueId],
    pairs: &[(ValueId, ValueId)],
) -> (Graph, Vec<Option<ValueId>>) {
    let ends: FxHashMap<ValueId, ValueId> = pairs.iter().copied().collect();
    let gone: Vec<usize> = nest.loops.iter().enumerate().filter(|(_, l)| ends.contains_key(&l.end)).map(|(l, _)| l).collect();
    let operands = |v: ValueId| -> SmallVec<[ValueId; 4]> {
        let redirected = result_of(graph, v).and_then(|(end, _)| ends.get(&end));
        redirected.map_or_else(|| graph.node(v).operands.clone(), |end| SmallVec::from_slice(&[*end]))
    };
    let stays = |v: &ValueId| !ends.contains_key(v) && !gone.iter().any(|l| nest.is_inside(nest.innermost(*v), *l));
    let mut needed = vec![false; graph.nodes().len()];
    let mut open: Vec<ValueId> = (0..originals).map(ValueId::new).filter(stays).chain(roots.iter().copied()).collect();
    while let Some(v) = open.pop() {
        if !std::mem::replace(&mut needed[v.index()], true) {
            open.extend(operands(v));
        }
    }
    let mut out = Graph::new(graph.name.clone());
    let mut map: Vec<Option<ValueId>> = vec![None; graph.nodes().len()];
    for i in &graph.inputs {
        map[i.value.index()] = Some(out.input(i.name.clone(), graph.tensor_ty(i.value).clone(), i.role));
    }
    // In the order in which they are, but for the loops that take the place of earlier ones.
    for v in graph.values().filter(|v| needed[v.index()]) {
        let mut open = vec![v];
        while let Some(v) = open.last().copied() {
            let before = open.len();
            let from = operands(v);
            if map[v.index()].is_none() {
                open.extend(from.iter().copied().filter(|o| map[o.index()].is_none()));
            }
            if open.len() > before {
                continue;
            }
            open.pop();
            if map[v.index()].is_some() {
                continue;
            }
            let new: SmallVec<[ValueId; 4]> = from.iter().filter_map(|o| map[o.index()]).collect();
            let op: Op = graph.node(v).op.clone();
            out.set_origin(graph.origin(v));
            map[v.index()] = Some(out.emit(op, &new));
        }
    }
    out.clear_origin();
    for o in &graph.outputs {
        if let Some(v) = map[o.value.index()] {
            out.output(o.name.clone(), v);
        }
    }
    (out, map)
}
