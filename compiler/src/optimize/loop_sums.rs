//! Sums that a loop carries become one product, or one reduction, behind it.
//!
//! The gradient of a recurrent weight is Σᵢ aᵢᵀ·bᵢ over the iterations of the loop backwards, each term a product of few terms that is
//! added to the whole matrix in every iteration. But the aᵢ are slabs of a tensor that lies outside the loop and the bᵢ are put together
//! by it, so the sum is a product of the stacked tensors that contracts the iterations too: as much arithmetic in one long product, and no
//! pass over the matrix an iteration. Where an operand is not stacked yet it becomes so, if that does not take too much memory.
//!
//! Only the order of the sum changes, so this runs from the class of reassociating rules on.

use crate::canonicalize::loops::{end_parts, result_of};
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::carry::Carry;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::elementwise::Binary;
use girih_ir::ops::loop_index::LoopIndex;
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::repeat::Repeat;
use girih_ir::scalar::{BinaryFn, Monoid};
use girih_ir::tensor::{Tensor, wrap_int};
use girih_ir::types::TensorType;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// New stacks take at most so many times the bytes of the sum that they serve.
const MOST_STACKED: usize = 8;
/// Iterations that are looked at one by one, at most.
const MOST_TRIPS: usize = 1 << 16;
/// Nested sums and index expressions that are looked through.
const MAX_DEPTH: usize = 8;

/// Where the values of all iterations lie next to each other.
#[derive(Clone, PartialEq, Debug)]
struct Stack {
    from: From,
    /// The dimension of the iterations.
    dim: usize,
    /// The scalar that says where an iteration's value is.
    index: ValueId,
}

#[derive(Clone, PartialEq, Debug)]
enum From {
    /// A value from before the loop.
    Outside(ValueId),
    /// What a slot holds at last.
    Slot(usize),
    /// A slot to be made for this value, as its new slot of that number.
    New(ValueId, usize),
}

/// What makes a term.
#[derive(Debug)]
enum Kind {
    Product(DotGeneral),
    /// A sum over these dimensions.
    Sum(Vec<usize>),
}

/// One term of a carried sum.
#[derive(Debug)]
struct Term {
    kind: Kind,
    /// The product or reduction.
    op: ValueId,
    /// Transpositions and reshapes of it, innermost first.
    moves: Vec<ValueId>,
    stacks: Vec<Stack>,
}

/// A slot whose sum is taken behind the loop.
#[derive(Debug)]
struct Sum {
    slot: usize,
    terms: Vec<Term>,
}

/// What becomes of a loop.
#[derive(Debug)]
struct Plan {
    end: Repeat,
    sums: Vec<Sum>,
    /// Values to be stacked along a new first dimension, and the scalars that say where.
    new: Vec<(ValueId, ValueId)>,
}

/// The graph with the sums of its counted loops taken behind them; `None` when there is nothing to do.
pub(super) fn hoist(graph: &Graph) -> Option<Graph> {
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_))) {
        return None;
    }
    let nest = LoopNest::of(graph).ok()?;
    let uses = live_uses(graph);
    let plans: FxHashMap<ValueId, Plan> = (0..nest.loops.len())
        .filter_map(|l| {
            let plan = Search { graph, nest: &nest, l, uses: &uses }.plan()?;
            Some((nest.loops[l].end, plan))
        })
        .collect();
    (!plans.is_empty()).then(|| rebuilt(graph, &plans))
}

/// How many live nodes and outputs read each value.
fn live_uses(graph: &Graph) -> Vec<u32> {
    let live = graph.live();
    let mut uses = vec![0; graph.nodes().len()];
    let nodes = graph.values().filter(|v| live[v.index()]);
    nodes.flat_map(|v| &graph.node(v).operands).for_each(|o| uses[o.index()] += 1);
    graph.outputs.iter().for_each(|o| uses[o.value.index()] += 1);
    uses
}

/// The look at one loop.
struct Search<'a> {
    graph: &'a Graph,
    nest: &'a LoopNest,
    l: usize,
    uses: &'a [u32],
}

impl Search<'_> {
    fn plan(&self) -> Option<Plan> {
        let this = &self.nest.loops[self.l];
        let trips = this.trips.filter(|t| (2..=MOST_TRIPS).contains(t))?;
        let end = Repeat { loop_id: this.id, trips };
        let mut plan = Plan { end, sums: Vec::new(), new: Vec::new() };
        for slot in 0..this.carries.len() {
            let Some(sum) = self.sum(slot, trips, &mut plan.new) else { continue };
            plan.sums.push(sum);
        }
        (!plan.sums.is_empty()).then_some(plan)
    }

    /// The sum in a slot, if it is nothing but that.
    fn sum(&self, slot: usize, trips: usize, new: &mut Vec<(ValueId, ValueId)>) -> Option<Sum> {
        let this = &self.nest.loops[self.l];
        let (carry, next) = (this.carries[slot], this.next[slot]);
        let ty = self.graph.tensor_ty(carry);
        // The end of the loop and the sum read it.
        if !ty.dtype.is_float() || self.uses[carry.index()] != 2 {
            return None;
        }
        let mut leaves = Vec::new();
        self.leaves(next, &mut leaves, 0)?;
        let at = leaves.iter().position(|v| *v == carry)?;
        leaves.remove(at);
        let mut made = new.clone();
        let terms = leaves.iter().map(|v| self.term(*v, trips, &mut made)).collect::<Option<Vec<Term>>>()?;
        let bytes: usize = made[new.len()..].iter().map(|(v, _)| trips.saturating_mul(self.graph.tensor_ty(*v).bytes())).sum();
        if terms.is_empty() || bytes > MOST_STACKED * ty.bytes() {
            return None;
        }
        *new = made;
        Some(Sum { slot, terms })
    }

    fn leaves(&self, v: ValueId, leaves: &mut Vec<ValueId>, depth: usize) -> Option<()> {
        let node = self.graph.node(v);
        let inside = self.nest.innermost(v) == Some(self.l) && depth < MAX_DEPTH;
        match (&node.op, node.operands.as_slice()) {
            (Op::Binary(Binary(BinaryFn::Add)), [a, b]) if inside && self.uses[v.index()] == 1 => {
                self.leaves(*a, leaves, depth + 1)?;
                self.leaves(*b, leaves, depth + 1)
            }
            _ => {
                leaves.push(v);
                Some(())
            }
        }
    }

    /// A term that can be taken behind the loop.
    fn term(&self, v: ValueId, trips: usize, new: &mut Vec<(ValueId, ValueId)>) -> Option<Term> {
        let (mut op, mut moves) = (v, Vec::new());
        while self.nest.innermost(op) == Some(self.l) && self.uses[op.index()] == 1 {
            let node = self.graph.node(op);
            match &node.op {
                Op::Transpose(_) | Op::Reshape(_) => {
                    moves.push(op);
                    op = node.operands[0];
                }
                Op::DotGeneral(dot) => {
                    moves.reverse();
                    let stacks = self.pair(node.operands[0], node.operands[1], trips, new)?;
                    return Some(Term { kind: Kind::Product(dot.clone()), op, moves, stacks });
                }
                Op::Reduce(Reduce { monoid: Monoid::Sum, dims }) => {
                    moves.reverse();
                    let stacks = vec![self.stacks(node.operands[0], trips).into_iter().next()?];
                    return Some(Term { kind: Kind::Sum(dims.clone()), op, moves, stacks });
                }
                _ => return None,
            }
        }
        None
    }

    /// Stacks of two values with the iterations in the same order.
    fn pair(&self, a: ValueId, b: ValueId, trips: usize, new: &mut Vec<(ValueId, ValueId)>) -> Option<Vec<Stack>> {
        let (of_a, of_b) = (self.stacks(a, trips), self.stacks(b, trips));
        let both = of_a.iter().find_map(|x| of_b.iter().find(|y| y.index == x.index).map(|y| vec![x.clone(), y.clone()]));
        if both.is_some() {
            return both;
        }
        let mut make = |v: ValueId, index: ValueId| {
            let at = new.iter().position(|n| *n == (v, index)).unwrap_or_else(|| {
                new.push((v, index));
                new.len() - 1
            });
            Stack { from: From::New(v, at), dim: 0, index }
        };
        // The larger one is stacked already, if any is.
        if let Some(x) = of_a.first() {
            return Some(vec![x.clone(), make(b, x.index)]);
        }
        if let Some(y) = of_b.first() {
            return Some(vec![make(a, y.index), y.clone()]);
        }
        let index = self.nest.loops[self.l].index.filter(|i| self.uses[i.index()] > 0)?;
        let inside = |v: ValueId| self.nest.innermost(v) == Some(self.l);
        (inside(a) && inside(b)).then(|| vec![make(a, index), make(b, index)])
    }

    /// The stacks of a value's iterations that there are.
    fn stacks(&self, v: ValueId, trips: usize) -> Vec<Stack> {
        let this = &self.nest.loops[self.l];
        let mut found = Vec::new();
        let inner = |v: ValueId| match &self.graph.node(v).op {
            Op::Reshape(_) => self.graph.node(v).operands[0],
            _ => v,
        };
        let node = self.graph.node(inner(v));
        if let Op::DynamicSlice(_) = &node.op
            && !self.nest.is_inside(self.nest.innermost(node.operands[0]), self.l)
        {
            found.extend(self.stack(From::Outside(node.operands[0]), node.operands[0], inner(v), v, &node.operands[1..], trips));
        }
        for (slot, next) in this.next.iter().enumerate() {
            let node = self.graph.node(*next);
            if let Op::DynamicUpdateSlice(_) = &node.op
                && node.operands[0] == this.carries[slot]
                && inner(node.operands[1]) == inner(v)
            {
                found.extend(self.stack(From::Slot(slot), node.operands[0], node.operands[1], v, &node.operands[2..], trips));
            }
        }
        found
    }

    /// The stack `whole`, of which `slab` is an iteration's part at these starts, for a value that is the slab without the stacked dimension.
    fn stack(&self, from: From, whole: ValueId, slab: ValueId, v: ValueId, starts: &[ValueId], trips: usize) -> Option<Stack> {
        let (shape, part) = (self.graph.shape(whole), self.graph.shape(slab));
        let mut cut = (0..shape.len()).filter(|d| shape[*d] != part[*d]);
        let (dim, None) = (cut.next()?, cut.next()) else { return None };
        let without: SmallVec<[usize; 6]> = (0..part.len()).filter(|d| *d != dim).map(|d| part[d]).collect();
        if shape[dim] != trips || part[dim] != 1 || self.graph.shape(v) != without.as_slice() {
            return None;
        }
        let index = *starts.get(dim)?;
        counts_through(self.graph, self.nest, self.l, index, trips).then_some(Stack { from, dim, index })
    }
}

/// Whether an integer scalar of a loop takes every value below `trips` in so many iterations.
pub(super) fn counts_through(graph: &Graph, nest: &LoopNest, l: usize, index: ValueId, trips: usize) -> bool {
    let mut seen = vec![false; trips.min(MOST_TRIPS)];
    let mut fresh = |i: usize| {
        let at = usize::try_from(number(graph, nest.loops[l].id, index, i as i64, 0)?).ok()?;
        (!std::mem::replace(seen.get_mut(at)?, true)).then_some(())
    };
    trips <= MOST_TRIPS && (0..trips).all(|i| fresh(i).is_some())
}

/// An integer scalar of a loop in iteration `i`.
fn number(graph: &Graph, id: usize, v: ValueId, i: i64, depth: usize) -> Option<i64> {
    let (node, dtype) = (graph.node(v), graph.tensor_ty(v).dtype);
    if depth > MAX_DEPTH || !dtype.is_int() {
        return None;
    }
    let get = |k: usize| number(graph, id, node.operands[k], i, depth + 1);
    let value = match &node.op {
        Op::LoopIndex(LoopIndex { loop_id }) if *loop_id == id => i,
        Op::Constant(c) if c.value.ty().rank() == 0 => *Tensor::from_literal(&c.value).ints().first()?,
        Op::Convert(_) => get(0)?,
        Op::Binary(Binary(BinaryFn::Add)) => get(0)?.wrapping_add(get(1)?),
        Op::Binary(Binary(BinaryFn::Sub)) => get(0)?.wrapping_sub(get(1)?),
        Op::Binary(Binary(BinaryFn::Mul)) => get(0)?.wrapping_mul(get(1)?),
        _ => return None,
    };
    Some(wrap_int(dtype, value))
}

/// The copy of a graph with the plans of its loops carried out.
fn rebuilt(old: &Graph, plans: &FxHashMap<ValueId, Plan>) -> Graph {
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
        out.set_origin(old.origin(v));
        let taken = result_of(old, v).and_then(|(end, slot)| {
            let plan = plans.get(&end)?;
            Some((end, plan.sums.iter().find(|s| s.slot == slot)?))
        });
        let new = match (taken, plans.get(&v)) {
            (Some((end, sum)), _) => behind(old, &mut out, &map, end, sum),
            (None, Some(plan)) => ended(old, &mut out, &map, v, plan),
            (None, None) => {
                let operands: SmallVec<[ValueId; 4]> = old.node(v).operands.iter().map(|o| get(&map, *o)).collect();
                out.emit(old.node(v).op.clone(), &operands)
            }
        };
        map[v.index()] = Some(new);
    }
    for o in &old.outputs {
        out.output(o.name.clone(), get(&map, o.value));
    }
    out.clear_origin();
    out
}

fn get(map: &[Option<ValueId>], v: ValueId) -> ValueId {
    map[v.index()].expect("operands come before their users")
}

/// The end of a loop with its new slots.
fn ended(old: &Graph, out: &mut Graph, map: &[Option<ValueId>], end: ValueId, plan: &Plan) -> ValueId {
    let parts = end_parts(old, end).expect("plans are made for ends of loops");
    let repeat = &plan.end;
    let (mut carries, mut next): (Vec<ValueId>, Vec<ValueId>) =
        (parts.carries.iter().map(|c| get(map, *c)).collect(), parts.next.iter().map(|n| get(map, *n)).collect());
    for (v, index) in &plan.new {
        let ty = old.tensor_ty(*v);
        let shape: Vec<usize> = std::iter::once(repeat.trips).chain(ty.shape.iter().copied()).collect();
        let slab: Vec<usize> = std::iter::once(1).chain(ty.shape.iter().copied()).collect();
        let init = out.splat(&TensorType::new(ty.dtype, shape.as_slice()), 0.0);
        let carry = out.emit(Carry { loop_id: repeat.loop_id, slot: carries.len() }, &[init]);
        let (value, index) = (out.reshape(get(map, *v), &slab), get(map, *index));
        let zero = out.constant(&Tensor::scalar_int(out.tensor_ty(index).dtype, 0));
        let operands: Vec<ValueId> = [carry, value, index].into_iter().chain(ty.shape.iter().map(|_| zero)).collect();
        carries.push(carry);
        next.push(out.emit(DynamicUpdateSlice {}, &operands));
    }
    carries.append(&mut next);
    out.emit(repeat.clone(), &carries)
}

/// What a slot that is summed behind its loop holds at last.
fn behind(old: &Graph, out: &mut Graph, map: &[Option<ValueId>], end: ValueId, sum: &Sum) -> ValueId {
    let parts = end_parts(old, end).expect("plans are made for ends of loops");
    let slots = parts.carries.len();
    let mut total = get(map, old.node(parts.carries[sum.slot]).operands[0]);
    for term in &sum.terms {
        let stacks: Vec<ValueId> = term
            .stacks
            .iter()
            .map(|s| match s.from {
                From::Outside(v) => get(map, v),
                From::Slot(slot) => out.proj(get(map, end), slot),
                From::New(_, at) => out.proj(get(map, end), slots + at),
            })
            .collect();
        out.set_origin(old.origin(term.op));
        let dims = |list: &[usize], k: usize| list.iter().map(|d| d + usize::from(*d >= term.stacks[k].dim)).collect::<Vec<_>>();
        let all = |list: &[usize], k: usize| std::iter::once(term.stacks[k].dim).chain(dims(list, k)).collect::<Vec<_>>();
        let mut value = match &term.kind {
            Kind::Product(d) => {
                let dot = DotGeneral {
                    lhs_batch: dims(&d.lhs_batch, 0),
                    rhs_batch: dims(&d.rhs_batch, 1),
                    lhs_contract: all(&d.lhs_contract, 0),
                    rhs_contract: all(&d.rhs_contract, 1),
                };
                out.emit(dot, &stacks)
            }
            Kind::Sum(list) => {
                let mut dims = all(list, 0);
                dims.sort_unstable();
                out.sum(stacks[0], &dims)
            }
        };
        for m in &term.moves {
            value = out.emit(old.node(*m).op.clone(), &[value]);
        }
        total = out.plus(total, value);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::random::{random_inputs, random_loops};
    use girih_ir::interp::eval;
    use girih_ir::text::parse_graph;
    use girih_ir::types::DType;
    use girih_ir::verify::verify;

    /// The graph in canonical form after the pass, which keeps its results but for rounding.
    fn check(g: &Graph, seed: u64) -> Option<Graph> {
        let new = hoist(g)?;
        assert_eq!(verify(&new), Ok(()), "{g}\n{new}");
        let inputs = random_inputs(g, seed);
        let (want, got) = (eval(g, &inputs).unwrap(), eval(&new, &inputs).unwrap());
        for (w, n) in want.iter().zip(&got) {
            assert_eq!(w.ty(), n.ty());
            for (x, y) in w.floats().iter().zip(n.floats()) {
                assert!((x - y).abs() <= 1e-9 * (1.0 + x.abs()) || *x == y || (x.is_nan() && y.is_nan()), "{x} became {y}\n{g}\n{new}");
            }
        }
        Some(crate::canonicalize::canonicalize(&new).0)
    }

    /// Matrices of so many rows.
    fn graph_of(rows: usize, body: &str) -> Graph {
        let text = format!(
            "graph (%as: f64[9,5,3], %bs: f64[5,9,4], %w: f64[4,4], %s0: f64[3,4], %zs: f64[9,5,4]) {{
               %z = constant {{value = dense<i64[] 0>}} %eight = constant {{value = dense<i64[] 8>}} %i = loop_index {{loop_id = 0}}
               %back = sub %eight, %i %s = carry %s0 {{loop_id = 0, slot = 0}} {body} }}"
        );
        parse_graph(&text.replace('5', &rows.to_string())).unwrap_or_else(|e| panic!("{e}"))
    }

    fn graph(body: &str) -> Graph {
        graph_of(5, body)
    }

    const A: &str = "%a1 = dynamic_slice %as, %back, %z, %z {sizes = [1, 5, 3]} %a = reshape %a1 {shape = [5, 3]}";
    const B: &str = "%b1 = dynamic_slice %bs, %z, %back, %z {sizes = [5, 1, 4]} %b = reshape %b1 {shape = [5, 4]}";
    const DOT: &str = "{lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}";

    fn count(g: &Graph, name: &str) -> usize {
        g.nodes().iter().filter(|n| n.op.name() == name).count()
    }

    #[test]
    fn a_product_of_slabs_needs_no_loop() {
        let g = graph(&format!(
            "{A} {B} %p = dot_general %a, %b {DOT} %n = add %s, %p %l = repeat %s, %n {{loop_id = 0, trips = 9}} %r = proj %l {{index = 0}} return %r"
        ));
        let new = check(&g, 3).unwrap();
        assert_eq!((count(&new, "repeat"), count(&new, "dot_general")), (0, 1), "{new}");
    }

    #[test]
    fn what_the_loop_makes_is_stacked_or_already_is() {
        let other = "%h0 = constant {value = dense<f64[] 0.5>} %h1 = broadcast %h0 {shape = [5, 4], dims = []} %h = carry %h1 {loop_id = 0, slot = 1}
            %d0 = dot_general %h, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [1]} %d = add %d0, %b";
        let made = format!(
            "{A} {B} {other} %p = dot_general %d, %a {DOT} %t = transpose %p {{permutation = [1, 0]}} %n = add %t, %s
             %l = repeat %s, %h, %n, %d {{loop_id = 0, trips = 9}} %r = proj %l {{index = 0}} %q = proj %l {{index = 1}} return %r, %q"
        );
        assert!(hoist(&graph(&made)).is_none(), "it would take too much memory");
        let new = check(&graph_of(1, &made), 4).unwrap();
        assert_eq!((count(&new, "repeat"), count(&new, "dynamic_update_slice")), (1, 1), "{new}");
        let g = graph(&format!(
            "{A} {B} {other} %c = carry %zs {{loop_id = 0, slot = 2}} %d1 = reshape %d {{shape = [1, 5, 4]}} %u = dynamic_update_slice %c, %d1, %back, %z, %z
             %p = dot_general %a, %d {DOT} %n = add %s, %p
             %l = repeat %s, %h, %c, %n, %d, %u {{loop_id = 0, trips = 9}} %r = proj %l {{index = 0}} %q = proj %l {{index = 2}} return %r, %q"
        ));
        let new = check(&g, 5).unwrap();
        assert_eq!((count(&new, "dynamic_update_slice"), count(&new, "dot_general")), (1, 2), "{new}");
    }

    #[test]
    fn sums_that_are_looked_at_stay() {
        let g = graph(&format!(
            "{A} {B} %p = dot_general %a, %b {DOT} %e = exp %s %n = add %s, %p %m = carry %s0 {{loop_id = 0, slot = 1}} %k = mul %m, %e
             %l = repeat %s, %m, %n, %k {{loop_id = 0, trips = 9}} %r = proj %l {{index = 0}} %q = proj %l {{index = 1}} return %r, %q"
        ));
        assert!(hoist(&g).is_none());
        let g = graph(&format!(
            "{A} {B} %p = dot_general %a, %b {DOT} %n = add %s, %p %l = repeat %s, %n {{loop_id = 0, trips = 8}} %r = proj %l {{index = 0}} return %r"
        ));
        assert!(hoist(&g).is_none_or(|new| count(&new, "dynamic_update_slice") == 2), "not all slabs are seen");
    }

    #[test]
    fn random_loops_keep_their_results() {
        for seed in 0..300 {
            let g = random_loops(seed, 14, DType::F64, true);
            let g = crate::canonicalize::canonicalize(&g).0;
            check(&g, seed);
        }
    }
}
