//! Transposes that nobody needs as such: products and slabs that read the transposed value read the value itself.
//!
//! A framework that steps through a sequence turns `[batch, time, …]` into `[time, batch, …]` before the loop and back behind it, and every turn
//! is a copy of all states of all steps. A loop takes its slabs from the value as it was (rows that are not neighbors are as good for what
//! reads them), and a product sums over two dimensions in either order, or hands the turn on to its result when that is smaller.
//! A turn goes only when all its readers can do without, which is why no rule of `optimize` finds it: each reader alone gains nothing.

use super::LINE;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::dynamic_slice::DynamicSlice;
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::transpose::Transpose;
use girih_ir::types::{Dims, element_count};
use rustc_hash::FxHashSet;
use std::convert::Infallible;

/// The graph without such transposes; `None` when it has none.
pub(super) fn undo(graph: &Graph) -> Option<Graph> {
    let needless = needless(graph);
    if needless.is_empty() {
        return None;
    }
    let rewrite = |out: &mut Graph, node: &Node, operands: &[ValueId]| {
        let turned = |k: usize| node.operands.get(k).is_some_and(|o| needless.contains(o));
        let made = match &node.op {
            Op::DotGeneral(dot) if turned(0) || turned(1) => product(out, dot, operands, [turned(0), turned(1)]),
            Op::DynamicSlice(slab) if turned(0) => Some(taken(out, slab, operands)),
            Op::Reduce(reduce) if turned(0) => reduced(out, reduce, operands[0]),
            _ => None,
        };
        Ok::<ValueId, Infallible>(made.unwrap_or_else(|| out.emit(node.op.clone(), operands)))
    };
    match graph.rewritten(rewrite) {
        Ok((out, _)) => Some(out),
        Err(never) => match never {},
    }
}

/// The value under a transpose, and the permutation.
fn under(graph: &Graph, v: ValueId) -> Option<(ValueId, &[usize])> {
    match &graph.node(v).op {
        Op::Transpose(Transpose { permutation }) => Some((graph.node(v).operands[0], permutation)),
        _ => None,
    }
}

/// The transposes whose readers cost less without them.
fn needless(graph: &Graph) -> FxHashSet<ValueId> {
    let live = graph.live();
    let mut readers: Vec<Vec<ValueId>> = vec![Vec::new(); graph.nodes().len()];
    for v in graph.values().filter(|v| live[v.index()]) {
        graph.node(v).operands.iter().for_each(|o| readers[o.index()].push(v));
    }
    let nest = LoopNest::of(graph).unwrap_or_default();
    let is_output = |v: ValueId| graph.outputs.iter().any(|o| o.value == v);
    let gains = |t: &ValueId| {
        let Some((x, permutation)) = under(graph, *t) else { return false };
        let order: Vec<usize> = permutation.iter().copied().filter(|d| graph.shape(x)[*d] > 1).collect();
        if order.is_sorted() || is_output(*t) {
            return false;
        }
        // What would be copied in every iteration of a loop is turned before it.
        let costs = readers[t.index()].iter().map(|r| {
            let cost = cost(graph, *t, permutation, *r)?;
            (cost.is_none_or(|n| n == 0) || nest.innermost(*r) == nest.innermost(*t)).then_some(cost)
        });
        let all = costs.collect::<Option<Vec<_>>>();
        let gained = element_count(graph.shape(x));
        all.is_some_and(|costs| costs.iter().any(Option::is_some) && costs.iter().flatten().sum::<usize>() < gained)
    };
    graph.values().filter(|v| live[v.index()] && gains(v)).collect()
}

/// The elements that are copied for a reader once it reads what is under the transpose; `Some(None)` for readers that go through any
/// transpose anyway, `None` for those that need it.
fn cost(graph: &Graph, t: ValueId, permutation: &[usize], reader: ValueId) -> Option<Option<usize>> {
    let node = graph.node(reader);
    let shape = graph.shape(t);
    match &node.op {
        Op::Reduce(reduce) => {
            // Sums over leading dimensions are read once, in order; others go through any transpose.
            let leads = reduce.dims.iter().all(|d| (*d).max(permutation[*d]) < reduce.dims.len());
            reduced_in_order(permutation, &reduce.dims).then_some(leads.then_some(0))
        }
        op if op.is_elementwise() || op.is_composite() => Some(None),
        Op::DynamicSlice(_) if node.operands.iter().filter(|o| **o == t).count() == 1 && node.operands[0] == t => {
            // Whole lines are read where they lie; single elements would be gathered.
            let last = shape.len().checked_sub(1)?;
            (permutation[last] == last && shape[last] >= LINE).then_some(Some(0))
        }
        Op::DotGeneral(dot) if dot.lhs_batch.is_empty() => {
            let side = node.operands.iter().position(|o| *o == t)?;
            let other = node.operands[1 - side];
            if other == t {
                return None;
            }
            let (own, others) = if side == 0 { (&dot.lhs_contract, &dot.rhs_contract) } else { (&dot.rhs_contract, &dot.lhs_contract) };
            let turned: Vec<usize> = own.iter().map(|d| permutation[*d]).collect();
            let (ours, theirs) = (element_count(shape), element_count(graph.shape(other)));
            let mut copied = if regular(&turned, others) { 0 } else { ours.min(theirs) };
            let free = if side == 0 { dot.lhs_free(shape.len()) } else { dot.rhs_free(shape.len()) };
            if !free.iter().map(|d| permutation[*d]).is_sorted() {
                copied += element_count(graph.shape(reader));
            }
            Some(Some(copied))
        }
        _ => None,
    }
}

/// Whether some order of the pairs is ascending on both sides, so that both operands are walked by one stride if their dimensions are.
fn regular(a: &[usize], b: &[usize]) -> bool {
    let mut pairs: Vec<(usize, usize)> = a.iter().copied().zip(b.iter().copied()).collect();
    pairs.sort_unstable();
    pairs.is_sorted_by_key(|p| p.1)
}

/// The product of what is under the transposes, turned back if need be.
fn product(out: &mut Graph, dot: &DotGeneral, operands: &[ValueId], turned: [bool; 2]) -> Option<ValueId> {
    let mut values = [operands[0], operands[1]];
    let mut contract = [dot.lhs_contract.clone(), dot.rhs_contract.clone()];
    // Where each free dimension of the result is found, in the order of the caller.
    let mut free = [dot.lhs_free(out.shape(values[0]).len()), dot.rhs_free(out.shape(values[1]).len())];
    for side in (0..2).filter(|side| turned[*side]) {
        let (x, permutation) = under(out, values[side])?;
        for d in contract[side].iter_mut().chain(&mut free[side]) {
            *d = permutation[*d];
        }
        values[side] = x;
    }
    // The larger operand is walked in its own order; the other is copied when its own is another one.
    let larger = usize::from(element_count(out.shape(values[1])) > element_count(out.shape(values[0])));
    let mut pairs: Vec<(usize, usize)> = contract[larger].iter().copied().zip(contract[1 - larger].iter().copied()).collect();
    pairs.sort_unstable();
    contract[larger] = pairs.iter().map(|p| p.0).collect();
    let smaller = 1 - larger;
    let wanted: Vec<usize> = pairs.iter().map(|p| p.1).collect();
    contract[smaller] = wanted.clone();
    contract[smaller].sort_unstable();
    // The summed dimensions change places among themselves, so that free ones stay where they are.
    let mut places: Vec<usize> = (0..out.shape(values[smaller]).len()).collect();
    contract[smaller].iter().zip(&wanted).for_each(|(place, d)| places[*place] = *d);
    values[smaller] = out.transpose(values[smaller], &places);
    let mut sorted = free.clone();
    sorted.iter_mut().for_each(|list| list.sort_unstable());
    let [lhs_contract, rhs_contract] = contract;
    let made = out.emit(DotGeneral { lhs_batch: Vec::new(), rhs_batch: Vec::new(), lhs_contract, rhs_contract }, &values);
    let place = |side: usize, d: &usize| sorted[side].iter().position(|s| s == d).expect("free dimensions are sorted, not changed");
    let left = free[0].iter().map(|d| place(0, d));
    let permutation: Vec<usize> = left.chain(free[1].iter().map(|d| free[0].len() + place(1, d))).collect();
    Some(out.transpose(made, &permutation))
}

/// Whether a reduction under a transpose leaves its dimensions in the order of one of the transposed value.
fn reduced_in_order(permutation: &[usize], dims: &[usize]) -> bool {
    (0..permutation.len()).filter(|d| !dims.contains(d)).map(|d| permutation[d]).is_sorted()
}

/// The reduction of what is under a transpose.
fn reduced(out: &mut Graph, reduce: &Reduce, operand: ValueId) -> Option<ValueId> {
    let (x, permutation) = under(out, operand)?;
    if !reduced_in_order(permutation, &reduce.dims) {
        return None;
    }
    let mut dims: Vec<usize> = reduce.dims.iter().map(|d| permutation[*d]).collect();
    dims.sort_unstable();
    Some(out.reduce(reduce.monoid, x, &dims))
}

/// A slab of what is under a transpose, turned.
fn taken(out: &mut Graph, slab: &DynamicSlice, operands: &[ValueId]) -> ValueId {
    let Some((x, permutation)) = under(out, operands[0]).map(|(x, p)| (x, p.to_vec())) else {
        return out.emit(slab.clone(), operands);
    };
    let inverse = Transpose { permutation: permutation.clone() }.inverse();
    let sizes: Dims = inverse.iter().map(|d| slab.sizes[*d]).collect();
    let mut from = vec![x];
    from.extend(inverse.iter().map(|d| operands[1 + d]));
    let units_only = permutation.iter().filter(|d| sizes[**d] > 1).is_sorted();
    let part = out.emit(DynamicSlice { sizes }, &from);
    if units_only { out.reshape(part, &slab.sizes) } else { out.transpose(part, &permutation) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::random::random_inputs;
    use girih_ir::interp::eval;
    use girih_ir::text::parse_graph;
    use girih_ir::verify::verify;

    /// The transposes that are left, or `None` when nothing changes; values stay as near as sums in another order do.
    fn turns_left(text: &str) -> Option<usize> {
        let g = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
        let new = undo(&g)?;
        assert_eq!(verify(&new), Ok(()), "{new}");
        let inputs = random_inputs(&g, 7);
        let (want, got) = (eval(&g, &inputs).unwrap(), eval(&new, &inputs).unwrap());
        for (x, y) in want.iter().flat_map(|t| t.floats()).zip(got.iter().flat_map(|t| t.floats())) {
            assert!((x - y).abs() <= 1e-4 * x.abs().max(1.0), "{x} became {y}\n{new}");
        }
        let live = new.live();
        Some(new.values().filter(|v| live[v.index()] && matches!(new.node(*v).op, Op::Transpose(_))).count())
    }

    #[test]
    fn loops_take_their_slabs_from_what_is_not_turned() {
        let left = turns_left(
            "graph (%x: f32[4,6,16], %h0: f32[4,16]) {
               %z = constant {value = dense<i64[] 0>} %t = transpose %x {permutation = [1, 0, 2]}
               %i = loop_index {loop_id = 0} %h = carry %h0 {loop_id = 0, slot = 0}
               %s = dynamic_slice %t, %i, %z, %z {sizes = [1, 4, 16]} %r = reshape %s {shape = [4, 16]} %n = add %h, %r
               %l = repeat %h, %n {loop_id = 0, trips = 6} %q = proj %l {index = 0} return %q }",
        );
        assert_eq!(left, Some(0));
        let narrow = turns_left(
            "graph (%x: f32[4,6,3], %i: i64[]) { %t = transpose %x {permutation = [1, 0, 2]}
               %s = dynamic_slice %t, %i, %i, %i {sizes = [1, 4, 3]} return %s }",
        );
        assert_eq!(narrow, None, "a line of three elements");
    }

    #[test]
    fn products_hand_the_turn_on() {
        // The gradient of a sequence's weights and inputs, and of its bias.
        let text = "graph (%g: f32[6,4,40], %e: f32[4,6,8], %w: f32[8,40]) {
               %t = transpose %g {permutation = [1, 0, 2]}
               %dw = dot_general %e, %t {lhs_batch = [], rhs_batch = [], lhs_contract = [0, 1], rhs_contract = [0, 1]}
               %dx = dot_general %t, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [2], rhs_contract = [1]}
               %db = reduce %t {monoid = sum, dims = [0, 1]} return %dw, %dx, %db }";
        assert_eq!(turns_left(text), Some(2), "those of the small operand and of the small result");
    }

    #[test]
    fn sums_over_leading_dimensions_take_them_in_any_order() {
        let text =
            "graph (%g: f32[6,4,8]) { %t = transpose %g {permutation = [1, 0, 2]} %s = reduce %t {monoid = sum, dims = [0, 1]} return %s }";
        assert_eq!(turns_left(text), Some(0));
    }

    #[test]
    fn needed_turns_stay() {
        let output = "graph (%g: f32[6,4,40], %w: f32[8,40]) { %t = transpose %g {permutation = [1, 0, 2]}
               %dx = dot_general %t, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [2], rhs_contract = [1]} return %dx, %t }";
        assert_eq!(turns_left(output), None);
        let larger = "graph (%g: f32[6,4,8], %w: f32[40,8]) { %t = transpose %g {permutation = [1, 0, 2]}
               %dx = dot_general %t, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [2], rhs_contract = [1]} return %dx }";
        assert_eq!(turns_left(larger), None, "its result would have to be turned");
        let reads_through = "graph (%g: f32[6,4,8]) { %t = transpose %g {permutation = [1, 0, 2]} %n = neg %t return %n }";
        assert_eq!(turns_left(reads_through), None);
    }
}
