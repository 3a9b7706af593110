//! Stacks that follow from other stacks of their loop are not kept.
//!
//! A loop forward stacks what the loop backward will take slabs of: gates, but often also `1 − gate` and `gate · (1 − gate)`, which cost more to
//! write, keep and read again than to compute again from the gate. Where a slab is taken of such a stack, the slabs of those that it follows
//! from are taken and the few cheap ops are done there; they mostly fuse with what reads them. No bit changes.

use crate::canonicalize::loops::{end_parts, result_of};
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::{Binary, Unary};
use girih_ir::scalar::{BinaryFn, UnaryFn};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// Ops that are done again for one stack, at most.
const MOST_OPS: usize = 4;

/// What a loop stacks, slot by slot: the value of an iteration and the operands of the update that puts it into the stack, but for stack and value.
struct Stacks<'a> {
    graph: &'a Graph,
    nest: &'a LoopNest,
    l: usize,
    values: Vec<Option<(ValueId, &'a [ValueId])>>,
}

/// The graph without the stacks that follow from others; `None` when there are none.
pub(super) fn drop_derived(graph: &Graph) -> Option<Graph> {
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_))) {
        return None;
    }
    let nest = LoopNest::of(graph).ok()?;
    let taken = taken_by_slabs(graph);
    let mut derived: FxHashMap<(ValueId, usize), ValueId> = FxHashMap::default();
    let mut leaves: FxHashMap<(ValueId, ValueId), usize> = FxHashMap::default();
    for (l, this) in nest.loops.iter().enumerate().filter(|(_, this)| this.trips.is_some()) {
        let stacks = Stacks::of(graph, &nest, l);
        let mut kept: Vec<bool> = stacks.values.iter().map(Option::is_some).collect();
        let mut pinned = vec![false; kept.len()];
        for slot in 0..kept.len() {
            let Some((value, starts)) = stacks.values[slot].filter(|_| !pinned[slot] && taken.contains(&(this.end, slot))) else {
                continue;
            };
            kept[slot] = false;
            let mut used = Vec::new();
            let ops = stacks.ops_of(value, starts, &kept, &mut used);
            if ops.is_none_or(|n| n > MOST_OPS) || used.is_empty() {
                kept[slot] = true;
                continue;
            }
            for (v, leaf) in used {
                pinned[leaf] = true;
                leaves.insert((this.end, v), leaf);
            }
            derived.insert((this.end, slot), value);
        }
    }
    (!derived.is_empty()).then(|| rebuilt(graph, &derived, &leaves))
}

/// Results of loops that are only read a slab at a time, in a slot that the loop itself does not read.
fn taken_by_slabs(graph: &Graph) -> FxHashSet<(ValueId, usize)> {
    let live = graph.live();
    let (mut slabs, mut whole) = (FxHashSet::default(), FxHashSet::default());
    let mut uses: Vec<u32> = vec![0; graph.nodes().len()];
    for v in graph.values().filter(|v| live[v.index()]) {
        let node = graph.node(v);
        node.operands.iter().for_each(|o| uses[o.index()] += 1);
        for (k, result) in node.operands.iter().enumerate().filter_map(|(k, o)| Some((k, result_of(graph, *o)?))) {
            if k == 0 && matches!(node.op, Op::DynamicSlice(_)) {
                slabs.insert(result)
            } else {
                whole.insert(result)
            };
        }
    }
    whole.extend(graph.outputs.iter().filter_map(|o| result_of(graph, o.value)));
    let alone = |(end, slot): &(ValueId, usize)| end_parts(graph, *end).is_some_and(|p| uses[p.carries[*slot].index()] == 2);
    slabs.into_iter().filter(|r| !whole.contains(r) && alone(r)).collect()
}

impl<'a> Stacks<'a> {
    fn of(graph: &'a Graph, nest: &'a LoopNest, l: usize) -> Self {
        let this = &nest.loops[l];
        let trips = this.trips.unwrap_or(0);
        let stacked = |(carry, next): (&ValueId, &ValueId)| {
            let node = graph.node(*next);
            let Op::DynamicUpdateSlice(_) = &node.op else { return None };
            let (slab, shape) = (graph.shape(node.operands[1]), graph.shape(*carry));
            // One slab an iteration, and the starts count through all of them.
            let cut: SmallVec<[usize; 6]> = (0..shape.len()).filter(|d| shape[*d] != slab[*d]).collect();
            let value = match &graph.node(node.operands[1]).op {
                Op::Reshape(_) => graph.node(node.operands[1]).operands[0],
                _ => node.operands[1],
            };
            let &[dim] = cut.as_slice() else { return None };
            let without = || slab.iter().enumerate().filter(|(d, _)| *d != dim).map(|(_, e)| e);
            let regular = node.operands[0] == *carry && slab[dim] == 1 && shape[dim] == trips && graph.shape(value).iter().eq(without());
            let counts = || super::loop_sums::counts_through(graph, nest, l, node.operands[2 + dim], trips);
            (regular && counts()).then(|| (value, &node.operands[2..]))
        };
        Stacks { graph, nest, l, values: this.carries.iter().zip(&this.next).map(stacked).collect() }
    }

    /// The ops that make a value from the stacks that are kept, or `None` when they do not; with the values that are stacked and their slots.
    fn ops_of(&self, v: ValueId, starts: &[ValueId], kept: &[bool], used: &mut Vec<(ValueId, usize)>) -> Option<usize> {
        let same = |k: &usize| kept[*k] && self.values[*k].is_some_and(|(value, at)| value == v && at == starts);
        if let Some(slot) = (0..kept.len()).find(same) {
            used.push((v, slot));
            return Some(0);
        }
        if matches!(self.graph.node(v).op, Op::Broadcast(_)) && self.graph.splat_of(v).is_some() {
            return Some(0);
        }
        let node = self.graph.node(v);
        if self.nest.innermost(v) != Some(self.l) || used.len() > MOST_OPS || !cheap(&node.op) {
            return None;
        }
        node.operands.iter().try_fold(1, |n, o| Some(n + self.ops_of(*o, starts, kept, used)?))
    }
}

/// Ops that take a cycle or so an element.
fn cheap(op: &Op) -> bool {
    match op {
        Op::Binary(Binary(f)) => matches!(f, BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Max | BinaryFn::Min),
        Op::Unary(Unary(f)) => matches!(f, UnaryFn::Neg | UnaryFn::Abs),
        _ => false,
    }
}

/// The copy of a graph in which slabs of derived stacks are made from slabs of others.
fn rebuilt(old: &Graph, derived: &FxHashMap<(ValueId, usize), ValueId>, leaves: &FxHashMap<(ValueId, ValueId), usize>) -> Graph {
    let live = old.live();
    let mut out = Graph::new(old.name.clone());
    let mut map: Vec<Option<ValueId>> = vec![None; old.nodes().len()];
    for i in &old.inputs {
        map[i.value.index()] = Some(out.input(i.name.clone(), old.tensor_ty(i.value).clone(), i.role));
    }
    for v in old.values().filter(|v| live[v.index()]) {
        if map[v.index()].is_some() {
            continue;
        }
        let node = old.node(v);
        out.set_origin(old.origin(v));
        let operands: SmallVec<[ValueId; 4]> =
            node.operands.iter().map(|o| map[o.index()].expect("operands come before their users")).collect();
        let stack = node.operands.first().and_then(|o| result_of(old, *o)).filter(|_| matches!(node.op, Op::DynamicSlice(_)));
        let new = match stack.and_then(|(end, slot)| Some((end, *derived.get(&(end, slot))?))) {
            Some((end, value)) => {
                let take = Taking {
                    old,
                    leaves,
                    end,
                    new_end: map[end.index()].expect("loops come before their results"),
                    node: &node.op,
                    starts: &operands[1..],
                };
                // In the shape of the value, so that it fuses with what reads the slab.
                let made = take.value(&mut out, value);
                let slab = old.shape(v).to_vec();
                out.reshape(made, &slab)
            }
            None => out.emit(node.op.clone(), &operands),
        };
        map[v.index()] = Some(new);
    }
    for o in &old.outputs {
        out.output(o.name.clone(), map[o.value.index()].expect("outputs are live"));
    }
    out.clear_origin();
    out
}

/// A slab being made.
struct Taking<'a> {
    old: &'a Graph,
    leaves: &'a FxHashMap<(ValueId, ValueId), usize>,
    end: ValueId,
    new_end: ValueId,
    /// The `dynamic_slice` that took it, and its starts.
    node: &'a Op,
    starts: &'a [ValueId],
}

impl Taking<'_> {
    fn value(&self, out: &mut Graph, v: ValueId) -> ValueId {
        if let Some(slot) = self.leaves.get(&(self.end, v)) {
            let stack = out.proj(self.new_end, *slot);
            let operands: SmallVec<[ValueId; 4]> = std::iter::once(stack).chain(self.starts.iter().copied()).collect();
            let slab = out.emit(self.node.clone(), &operands);
            return out.reshape(slab, self.old.shape(v));
        }
        // Constants and their broadcasts have no operands that are made in the loop.
        let node = self.old.node(v);
        let operands: SmallVec<[ValueId; 4]> = node.operands.iter().map(|o| self.value(out, *o)).collect();
        out.emit(node.op.clone(), &operands)
    }
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
        let new = drop_derived(g)?;
        assert_eq!(verify(&new), Ok(()), "{g}\n{new}");
        let inputs = random_inputs(g, seed);
        assert_eq!(eval(g, &inputs).unwrap(), eval(&new, &inputs).unwrap(), "{g}\n{new}");
        Some(crate::canonicalize::canonicalize(&new).0)
    }

    /// A loop over six rows that stacks `gate`, what `more` makes of it as `%d`, and its state; then one that takes their slabs backwards.
    fn there_and_back(more: &str, result: &str) -> Graph {
        let text = format!(
            "graph (%x: f32[9,5], %h0: f32[5], %zs: f32[9,5]) {{
               %z = constant {{value = dense<i64[] 0>}} %eight = constant {{value = dense<i64[] 8>}}
               %c = constant {{value = dense<f32[] 1>}} %one = broadcast %c {{shape = [5], dims = []}}
               %i = loop_index {{loop_id = 0}} %h = carry %h0 {{loop_id = 0, slot = 0}} %a = carry %zs {{loop_id = 0, slot = 1}}
               %b = carry %zs {{loop_id = 0, slot = 2}}
               %r1 = dynamic_slice %x, %i, %z {{sizes = [1, 5]}} %r = reshape %r1 {{shape = [5]}} %p = mul %r, %h %gate = tanh %p {more}
               %g1 = reshape %gate {{shape = [1, 5]}} %d1 = reshape %d {{shape = [1, 5]}} %a2 = dynamic_update_slice %a, %d1, %i, %z
               %b2 = dynamic_update_slice %b, %g1, %i, %z %n = add %h, %gate
               %l = repeat %h, %a, %b, %n, %a2, %b2 {{loop_id = 0, trips = 9}} %da = proj %l {{index = 1}} %ga = proj %l {{index = 2}}
               %j = loop_index {{loop_id = 1}} %back = sub %eight, %j %s = carry %h0 {{loop_id = 1, slot = 0}}
               %u1 = dynamic_slice %da, %back, %z {{sizes = [1, 5]}} %v1 = dynamic_slice %ga, %back, %z {{sizes = [1, 5]}}
               %u = reshape %u1 {{shape = [5]}} %v = reshape %v1 {{shape = [5]}} %w = mul %s, %u %s2 = sub %w, %v
               %m = repeat %s, %s2 {{loop_id = 1, trips = 9}} %q = proj %m {{index = 0}} {result} }}"
        );
        parse_graph(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn stacks(g: &Graph) -> usize {
        g.nodes().iter().filter(|n| n.op.name() == "dynamic_update_slice").count()
    }

    #[test]
    fn cheap_functions_of_a_stack_are_computed_again() {
        let g = there_and_back("%e = sub %one, %gate %d = mul %e, %gate", "return %q");
        assert_eq!((stacks(&g), check(&g, 1).map(|new| stacks(&new))), (2, Some(1)));
        let g = there_and_back("%d = neg %gate", "return %q");
        assert_eq!(check(&g, 2).map(|new| stacks(&new)), Some(1));
    }

    #[test]
    fn others_stay() {
        let dear = there_and_back("%d = exp %gate", "return %q");
        assert!(drop_derived(&dear).is_none());
        let state = there_and_back("%d = mul %h, %gate", "return %q");
        assert!(drop_derived(&state).is_none(), "the state is not stacked");
        let output = there_and_back("%d = neg %gate", "return %q, %da");
        assert!(drop_derived(&output).is_none(), "somebody wants all of it");
    }

    #[test]
    fn random_loops_keep_their_results() {
        for seed in 0..300 {
            let g = crate::canonicalize::canonicalize(&random_loops(seed, 16, DType::F32, true)).0;
            check(&g, seed);
        }
    }
}
