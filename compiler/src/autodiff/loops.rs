//! Differentiating loops: the reverse of a counted loop is a counted loop.
//!
//! The backward loop goes through the iterations from the last to the first. Its slots are the cotangents of the float slots and, for each
//! value from outside that the body reads, the gradient summed so far. It computes the body anew from what the slots held at the start of the
//! iteration; the forward loop stacks that, but only those slots that the backward loop really reads: an accumulator into which every iteration
//! writes its result costs nothing. Loops inside are differentiated in the same way, in their copy inside the backward loop.

use super::{AutodiffError, Entry, Tape};
use crate::canonicalize::loops::{end_parts, live_slots, result_of};
use girih_ir::graph::loops::{LoopNest, with_loop};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::carry::Carry;
use girih_ir::ops::dynamic_slice::DynamicSlice;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::loop_index::LoopIndex;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeSet;

/// What stands for each value of the original graph in a copy of a loop's body.
type Env = FxHashMap<ValueId, ValueId>;

/// What a sweep knows of the original graph.
pub(super) struct Loops {
    /// Its loops.
    pub nest: LoopNest,
    /// Float values that are computed from what the gradient is asked for.
    pub wanted: Vec<bool>,
}

impl Loops {
    /// The loops on which the loss depends, and what is computed from `wrt`.
    pub(super) fn of(graph: &Graph, loss: ValueId, wrt: &[ValueId]) -> Result<Loops, AutodiffError> {
        let looped = graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_) | Op::While(_)));
        let nest = if looped {
            let mut alone = graph.clone();
            alone.outputs.clear();
            alone.output("loss", loss);
            LoopNest::of(&alone)?
        } else {
            LoopNest::default()
        };
        if let Some(value) = wrt.iter().copied().find(|v| nest.innermost(*v).is_some()) {
            return Err(AutodiffError::InLoop { value });
        }
        let mut wanted = vec![false; graph.nodes().len()];
        wrt.iter().for_each(|v| wanted[v.index()] = true);
        let next: FxHashMap<ValueId, ValueId> =
            nest.loops.iter().flat_map(|l| l.carries.iter().copied().zip(l.next.iter().copied())).collect();
        // Wants flow from next values to carries, so passes are repeated until nothing is new.
        loop {
            let mut new = false;
            for v in graph.values().filter(|v| graph.ty(*v).components().iter().any(|t| t.dtype.is_float())) {
                let node = graph.node(v);
                let from: SmallVec<[ValueId; 4]> = match (result_of(graph, v), next.get(&v)) {
                    (Some((end, slot)), _) => {
                        let parts = end_parts(graph, end);
                        parts.map(|p| smallvec![p.carries[slot], p.next[slot]]).unwrap_or_default()
                    }
                    (None, Some(next)) => smallvec![node.operands[0], *next],
                    (None, None) => node.operands.clone(),
                };
                if !wanted[v.index()] && from.iter().any(|o| wanted[o.index()]) {
                    wanted[v.index()] = true;
                    new = true;
                }
            }
            if !new || nest.is_empty() {
                return Ok(Loops { nest, wanted });
            }
        }
    }

    fn is_inside(&self, v: ValueId, l: usize) -> bool {
        self.nest.is_inside(self.nest.innermost(v), l)
    }

    /// The nodes of an iteration with those of the loops inside.
    fn inside(&self, l: usize) -> Vec<ValueId> {
        let inner = (0..self.nest.loops.len()).filter(|c| self.nest.loops[*c].parent == Some(l));
        self.nest.loops[l].members.iter().copied().chain(inner.flat_map(|c| self.inside(c))).collect()
    }

    /// What a loop reads from outside, initial values included.
    pub(super) fn reads(&self, graph: &Graph, l: usize) -> BTreeSet<ValueId> {
        let inside = self.inside(l);
        let operands = inside.iter().flat_map(|v| &graph.node(*v).operands).chain(&self.nest.loops[l].next);
        operands.copied().filter(|o| !self.is_inside(*o, l)).collect()
    }
}

/// A sweep's surroundings.
pub(super) struct Sweep<'a> {
    /// The graph that is being extended; the original nodes are in it.
    pub graph: &'a mut Graph,
    /// What is known of the original.
    pub loops: &'a Loops,
    /// Ends of loops, each with the end of the loop that computes the same and stacks what its slots held.
    pub replaced: &'a mut Vec<(ValueId, ValueId)>,
}

/// The differentiation of one loop.
struct Backward<'a> {
    l: usize,
    trips: usize,
    /// Its end, or the copy of it that is on the tape.
    end: ValueId,
    /// What stands for the values from outside.
    env: &'a Env,
    cotangents: &'a [Option<ValueId>],
    /// Slots whose cotangent may be other than zero.
    slots: BTreeSet<usize>,
    /// Values from outside that get a gradient.
    outside: BTreeSet<ValueId>,
}

/// The gradients that a loop hands to values outside of it, initial values among them, named as in the original graph.
pub(super) fn pull_back(
    sweep: &mut Sweep<'_>,
    l: usize,
    end: ValueId,
    env: &Env,
    cotangents: &[Option<ValueId>],
) -> Result<Vec<(ValueId, ValueId)>, AutodiffError> {
    let this = &sweep.loops.nest.loops[l];
    let trips = this.trips.expect("a `while` is refused before");
    let inits: Vec<ValueId> = this.carries.iter().map(|c| sweep.graph.node(*c).operands[0]).collect();
    if trips == 0 {
        return Ok(inits.into_iter().zip(cotangents).filter_map(|(v, g)| g.map(|g| (v, g))).collect());
    }
    let (slots, outside) = reach(sweep.graph, sweep.loops, l, cotangents);
    let backward = Backward { l, trips, end, env, cotangents, slots, outside };
    let needed = backward.needed(sweep, &inits)?;
    let stacks: Vec<Option<ValueId>> = backward.stacked(sweep, &needed);
    backward.run(sweep, &mut |graph, index| {
        let restore = |(k, stack): (usize, &Option<ValueId>)| match stack {
            Some(stack) => row(graph, *stack, index),
            None => env[&inits[k]], // nobody reads it
        };
        stacks.iter().enumerate().map(restore).collect()
    })
}

/// Slots and values from outside to which the cotangents flow.
fn reach(graph: &Graph, loops: &Loops, l: usize, cotangents: &[Option<ValueId>]) -> (BTreeSet<usize>, BTreeSet<ValueId>) {
    let this = &loops.nest.loops[l];
    let next: FxHashMap<ValueId, ValueId> =
        loops.nest.loops.iter().flat_map(|l| l.carries.iter().copied().zip(l.next.iter().copied())).collect();
    let given = |k: &usize| cotangents[*k].is_some() && loops.wanted[this.carries[*k].index()];
    let mut slots: BTreeSet<usize> = (0..this.carries.len()).filter(given).collect();
    let mut outside = BTreeSet::new();
    let mut seen: FxHashSet<ValueId> = FxHashSet::default();
    let mut open: Vec<ValueId> = slots.iter().map(|k| this.next[*k]).collect();
    while let Some(v) = open.pop() {
        if !loops.wanted[v.index()] || !seen.insert(v) {
            continue;
        }
        if !loops.is_inside(v, l) {
            outside.insert(v);
            continue;
        }
        if let Some((end, slot)) = result_of(graph, v) {
            end_parts(graph, end).into_iter().for_each(|p| open.extend([p.carries[slot], p.next[slot]]));
        } else if let Some(slot) = this.carries.iter().position(|c| *c == v) {
            slots.insert(slot);
            open.push(this.next[slot]);
        } else {
            open.extend(&graph.node(v).operands);
            open.extend(next.get(&v));
        }
    }
    (slots, outside)
}

impl Backward<'_> {
    /// The slots whose values the backward loop reads: found by making it for nothing in a copy of the graph.
    fn needed(&self, sweep: &Sweep<'_>, inits: &[ValueId]) -> Result<Vec<usize>, AutodiffError> {
        let mut graph = sweep.graph.clone();
        let mut dry = Sweep { graph: &mut graph, loops: sweep.loops, replaced: &mut Vec::new() };
        let loop_id = dry.graph.fresh_loop();
        let marks: Vec<ValueId> = (0..inits.len()).map(|slot| dry.graph.emit(Carry { loop_id, slot }, &[self.env[&inits[slot]]])).collect();
        let made = self.run(&mut dry, &mut |_, _| marks.clone())?;
        let live = live_slots(&graph, made.iter().map(|(_, g)| *g));
        Ok((0..marks.len()).filter(|k| live[marks[*k].index()]).collect())
    }

    /// The values of these slots at the start of every iteration, one stack a needed slot.
    fn stacked(&self, sweep: &mut Sweep<'_>, needed: &[usize]) -> Vec<Option<ValueId>> {
        let this = &sweep.loops.nest.loops[self.l];
        let mut stacks = vec![None; this.carries.len()];
        if needed.is_empty() {
            return stacks;
        }
        let end = copy(sweep.graph, &sweep.loops.nest, self.l, self.env, needed);
        sweep.replaced.push((self.end, end));
        for (at, k) in needed.iter().enumerate() {
            stacks[*k] = Some(sweep.graph.proj(end, stacks.len() + at));
        }
        stacks
    }

    /// The backward loop. `restore` makes the values of all slots at the start of the iteration of that number.
    fn run(
        &self,
        sweep: &mut Sweep<'_>,
        restore: &mut dyn FnMut(&mut Graph, ValueId) -> Vec<ValueId>,
    ) -> Result<Vec<(ValueId, ValueId)>, AutodiffError> {
        let this = &sweep.loops.nest.loops[self.l];
        let graph = &mut *sweep.graph;
        let mut init = Vec::with_capacity(self.slots.len() + self.outside.len());
        for k in &self.slots {
            init.push(self.cotangents[*k].unwrap_or_else(|| graph.splat_like(this.carries[*k], 0.0)));
        }
        for v in &self.outside {
            init.push(graph.splat_like(*v, 0.0));
        }
        if init.is_empty() {
            return Ok(Vec::new());
        }
        let open = graph.begin_loop(&init);
        let back = graph.loop_index(&open);
        let last = graph.constant(&Tensor::scalar_int(DType::I64, self.trips as i64 - 1));
        let index = graph.minus(last, back);
        let saved = restore(graph, index);
        let mut tape = self.tape(graph, sweep.loops, &saved, index);
        let (cotangents, sums) = open.carries.split_at(self.slots.len());
        for (v, sum) in self.outside.iter().zip(sums) {
            let at = tape.place(*v);
            tape.cotangents[at][0] = Some(*sum);
        }
        for (k, g) in self.slots.iter().zip(cotangents) {
            if sweep.loops.wanted[this.next[*k].index()] {
                tape.add(sweep.graph, tape.place(this.next[*k]), 0, *g)?;
            }
        }
        tape.sweep(sweep)?;
        let ends = self.slots.iter().map(|k| this.carries[*k]).chain(self.outside.iter().copied());
        let graph = &mut *sweep.graph;
        let next: Vec<ValueId> = ends.map(|v| tape.cotangents[tape.place(v)][0].unwrap_or_else(|| graph.splat_like(v, 0.0))).collect();
        let results = graph.end_repeat(&open, self.trips, &next);
        let inits = self.slots.iter().map(|k| graph.node(this.carries[*k]).operands[0]);
        let of = inits.chain(self.outside.iter().copied()).zip(results);
        Ok(of.filter(|(v, _)| sweep.loops.wanted[v.index()]).collect())
    }

    /// The body computed anew, as a tape: values from outside, then the members.
    fn tape(&self, graph: &mut Graph, loops: &Loops, saved: &[ValueId], index: ValueId) -> Tape {
        let this = &loops.nest.loops[self.l];
        let mut local: Env = self.env.clone();
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: FxHashMap<ValueId, usize> = FxHashMap::default();
        let mut wanted = Vec::new();
        for v in loops.reads(graph, self.l).into_iter().chain(this.members.iter().copied()) {
            let node = graph.node(v);
            let (op, origin) = (node.op.clone(), graph.origin(v).to_string());
            let own = this.carries.iter().position(|c| *c == v);
            let mut operands = SmallVec::new();
            let value = if !loops.is_inside(v, self.l) {
                self.env[&v]
            } else if let Some(slot) = own {
                saved[slot]
            } else if this.index == Some(v) {
                index
            } else if let Some(inner) = loops.nest.ending_at(v) {
                graph.set_origin(&origin);
                copy(graph, &loops.nest, inner, &local, &[])
            } else {
                operands = node.operands.iter().map(|o| places[o]).collect();
                let args: SmallVec<[ValueId; 4]> = node.operands.iter().map(|o| local[o]).collect();
                graph.set_origin(&origin);
                graph.emit(op.clone(), &args)
            };
            local.insert(v, value);
            places.insert(v, entries.len());
            entries.push(Entry { op, operands, value });
            wanted.push(loops.wanted[v.index()]);
        }
        Tape::new(graph, entries, wanted, Some(places))
    }
}

/// Row `at` of a stack.
fn row(graph: &mut Graph, stack: ValueId, at: ValueId) -> ValueId {
    let shape = Dims::from_slice(graph.shape(stack));
    let zero = graph.constant(&Tensor::scalar_int(DType::I64, 0));
    let mut sizes = shape.clone();
    sizes[0] = 1;
    let operands: Vec<ValueId> = [stack, at].into_iter().chain(std::iter::repeat_n(zero, shape.len() - 1)).collect();
    let row = graph.emit(DynamicSlice { sizes }, &operands);
    graph.reshape(row, &shape[1..])
}

/// Emits a loop once more with what `env` says in place of values from outside. `stack` names slots whose values at the start of every
/// iteration become results too, after the loop's own. Returns the end.
fn copy(graph: &mut Graph, nest: &LoopNest, l: usize, env: &Env, stack: &[usize]) -> ValueId {
    let this = &nest.loops[l];
    let trips = this.trips.unwrap_or_default();
    let mut local = env.clone();
    let mut init: Vec<ValueId> = this.carries.iter().map(|c| env[&graph.node(*c).operands[0]]).collect();
    for k in stack {
        let ty = graph.tensor_ty(this.carries[*k]).clone();
        let shape: Dims = std::iter::once(trips).chain(ty.shape.iter().copied()).collect();
        init.push(graph.splat(&TensorType { dtype: ty.dtype, shape }, 0.0));
    }
    let open = graph.begin_loop(&init);
    local.extend(this.carries.iter().copied().zip(open.carries.iter().copied()));
    if this.index.is_some() || !stack.is_empty() {
        let index = graph.emit(LoopIndex { loop_id: open.id }, &[]);
        local.extend(this.index.map(|i| (i, index)));
    }
    for m in this.members.iter().filter(|m| !this.carries.contains(m) && this.index != Some(**m)) {
        let origin = graph.origin(*m).to_string();
        graph.set_origin(&origin);
        let value = match nest.ending_at(*m) {
            Some(inner) => copy(graph, nest, inner, &local, &[]),
            None => {
                let node = graph.node(*m);
                let (op, operands): (Op, SmallVec<[ValueId; 4]>) = (node.op.clone(), node.operands.iter().map(|o| local[o]).collect());
                graph.emit(op, &operands)
            }
        };
        local.insert(*m, value);
    }
    let predicate = this.predicate.map(|p| local[&p]);
    let mut next: Vec<ValueId> = this.next.iter().map(|v| local[v]).collect();
    for (k, stack) in stack.iter().zip(&open.carries[this.carries.len()..]) {
        let index = graph.emit(LoopIndex { loop_id: open.id }, &[]);
        next.push(pushed(graph, *stack, open.carries[*k], index));
    }
    let end = with_loop(&graph.node(this.end).op, open.id);
    let operands: Vec<ValueId> = predicate.into_iter().chain(open.carries).chain(next).collect();
    graph.emit(end, &operands)
}

/// A stack with row `at` replaced.
fn pushed(graph: &mut Graph, stack: ValueId, value: ValueId, at: ValueId) -> ValueId {
    let shape: Dims = std::iter::once(1).chain(graph.shape(value).iter().copied()).collect();
    let value = graph.reshape(value, &shape);
    let zero = graph.constant(&Tensor::scalar_int(DType::I64, 0));
    let operands: Vec<ValueId> = [stack, value, at].into_iter().chain(std::iter::repeat_n(zero, shape.len() - 1)).collect();
    graph.emit(DynamicUpdateSlice {}, &operands)
}
