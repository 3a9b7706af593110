//! Elementwise values of a loop of which only parts are read are computed part by part, where the parts are read.
//!
//! The gates of a recurrent cell are made side by side, by one product and one sum, and then sliced apart. The sum by itself would be written
//! and read once more in every iteration; said of each part it becomes a piece of the program that reads the parts. In a loop a slice of what
//! is in memory costs nothing: its reader reads it in place.

use super::LINE;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::slice::Slice;
use girih_ir::types::element_count;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use std::convert::Infallible;

/// The graph with such values in parts; `None` when it has none.
pub(super) fn apart(graph: &Graph) -> Option<Graph> {
    let whole = sliced_apart(graph)?;
    let rewrite = |out: &mut Graph, node: &Node, operands: &[ValueId]| {
        let made = match &node.op {
            Op::Slice(slice) if whole.contains(&node.operands[0]) => part(out, operands[0], slice),
            op => out.emit(op.clone(), operands),
        };
        Ok::<ValueId, Infallible>(made)
    };
    match graph.rewritten(rewrite) {
        Ok((out, _)) => Some(out),
        Err(never) => match never {},
    }
}

/// The elementwise values in loops that are only read in parts, no element twice; `None` when there are none.
fn sliced_apart(graph: &Graph) -> Option<FxHashSet<ValueId>> {
    let nest = LoopNest::of(graph).ok().filter(|nest| !nest.is_empty())?;
    let live = graph.live();
    let mut parts = vec![Some(0usize); graph.nodes().len()];
    for v in graph.values().filter(|v| live[v.index()]) {
        let node = graph.node(v);
        let lines = |s: &Slice| s.stride.iter().all(|n| *n == 1) && graph.shape(v).last().is_some_and(|n| *n >= LINE);
        let elements = match &node.op {
            Op::Slice(s) if lines(s) => Some(element_count(graph.shape(v))),
            _ => None,
        };
        for o in &node.operands {
            parts[o.index()] = parts[o.index()].zip(elements).map(|(a, b)| a + b);
        }
    }
    graph.outputs.iter().for_each(|o| parts[o.value.index()] = None);
    let fits = |v: &ValueId| {
        let counted = nest.innermost(*v).is_some_and(|l| nest.loops[l].trips.is_some());
        let in_parts = || parts[v.index()].is_some_and(|n| (1..=element_count(graph.shape(*v))).contains(&n));
        live[v.index()] && counted && graph.node(*v).op.is_elementwise() && in_parts()
    };
    let found: FxHashSet<ValueId> = graph.values().filter(fits).collect();
    (!found.is_empty()).then_some(found)
}

/// A part of an elementwise value, from the parts of its operands; of a broadcast, a smaller broadcast.
fn part(out: &mut Graph, v: ValueId, slice: &Slice) -> ValueId {
    let node = out.node(v).clone();
    if node.op.is_elementwise() {
        let operands: SmallVec<[ValueId; 4]> = node.operands.iter().map(|o| operand(out, *o, slice)).collect();
        return out.emit(node.op, &operands);
    }
    out.emit(slice.clone(), &[v])
}

fn operand(out: &mut Graph, v: ValueId, slice: &Slice) -> ValueId {
    let node = out.node(v).clone();
    let Op::Broadcast(b) = &node.op else { return out.emit(slice.clone(), &[v]) };
    let from = node.operands[0];
    let source = out.shape(from).to_vec();
    // A dimension that repeats one element has that element in every part.
    let kept = |d: usize| source[d] == 1;
    let cut = Slice {
        start: (0..source.len()).map(|d| if kept(d) { 0 } else { slice.start[b.dims[d]] }).collect(),
        limit: (0..source.len()).map(|d| if kept(d) { 1 } else { slice.limit[b.dims[d]] }).collect(),
        stride: source.iter().map(|_| 1).collect(),
    };
    let all = (0..source.len()).all(|d| cut.start[d] == 0 && cut.limit[d] == source[d]);
    let small = if all { from } else { out.emit(cut, &[from]) };
    let shape: Vec<usize> = slice.start.iter().zip(&slice.limit).map(|(s, l)| l - s).collect();
    out.broadcast(small, &shape, &b.dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::random::{random_inputs, random_loops};
    use girih_ir::interp::eval;
    use girih_ir::text::parse_graph;
    use girih_ir::types::DType;
    use girih_ir::verify::verify;

    fn check(g: &Graph, seed: u64) -> Option<Graph> {
        let new = apart(g)?;
        assert_eq!(verify(&new), Ok(()), "{g}\n{new}");
        let inputs = random_inputs(g, seed);
        assert_eq!(eval(g, &inputs).unwrap(), eval(&new, &inputs).unwrap(), "{g}\n{new}");
        Some(new)
    }

    /// A loop that adds to its state and slices the sum apart.
    fn cell(read: &str) -> Graph {
        let text = format!(
            "graph (%x: f32[3,32], %b: f32[32], %h0: f32[3,16]) {{
               %h = carry %h0 {{loop_id = 0, slot = 0}} %two = concat %h, %h {{dim = 1}}
               %bias = broadcast %b {{shape = [3, 32], dims = [1]}} %y = add %x, %bias %s = mul %two, %y
               %l = slice %s {{start = [0, 0], limit = [3, 16], stride = [1, 1]}}
               %r = slice %s {{start = [0, 16], limit = [3, 32], stride = [1, 1]}}
               %t = tanh %l {read}
               %e = repeat %h, %n {{loop_id = 0, trips = 4}} %q = proj %e {{index = 0}} return %q }}"
        );
        parse_graph(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn gates_are_made_where_they_are_read() {
        let new = check(&cell("%n = mul %t, %r"), 1).expect("the product is read in parts");
        let live = new.live();
        let whole = |v: &ValueId| live[v.index()] && new.node(*v).op.name() == "mul" && new.shape(*v) == [3, 32];
        assert_eq!(new.values().filter(whole).count(), 0);
    }

    #[test]
    fn what_is_read_whole_too_stays() {
        let g = cell(
            "%m = mul %t, %r %whole = reduce %s {monoid = sum, dims = [0, 1]} %w = broadcast %whole {shape = [3, 16], dims = []} %n = add %m, %w",
        );
        assert!(apart(&g).is_none());
        let twice = cell("%a = slice %s {start = [0, 8], limit = [3, 24], stride = [1, 1]} %m = mul %t, %r %n = add %m, %a");
        assert!(apart(&twice).is_none(), "elements would be computed twice");
    }

    #[test]
    fn random_loops_keep_their_results() {
        for seed in 0..200 {
            check(&random_loops(seed, 16, DType::F32, true), seed);
        }
    }
}
