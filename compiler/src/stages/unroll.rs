//! The slices one by one, in the order in which the stages begin them.

use super::way::{Phase, Way};
use crate::partition::Solved;
use crate::sharded::{ShardedGraph, Stages, Strategy};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::slice::Slice;
use girih_ir::step::TrainStep;
use girih_ir::tensor::Tensor;
use girih_ir::types::Dims;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// How much farther a stage may go forward than there are stages behind it: what hides the way of the slices between the stages.
const AHEAD: usize = 1;

/// How many slices may be between their way forward and their way back in a stage.
pub(super) fn ahead(stage: usize, stages: usize) -> usize {
    stages - stage + AHEAD
}

/// What a stage does for a slice in one go.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Chunk {
    stage: usize,
    slice: usize,
    backward: bool,
    /// When it begins, in picoseconds.
    start: u64,
}

/// When the stages begin what, in that order, and when the last one is done: each goes backward as soon as it can.
/// `takes`: how long each stage takes forward and backward for a slice.
fn clock(takes: &[[u64; 2]], slices: usize) -> (Vec<Chunk>, u64) {
    let count = takes.len();
    // For each stage: slices that went forward and backward, and when it is free.
    let (mut done, mut free) = (vec![[0usize; 2]; count], vec![0u64; count]);
    let mut ends = vec![[vec![0u64; slices], vec![0u64; slices]]; count];
    let mut chunks = Vec::with_capacity(2 * count * slices);
    while chunks.len() < 2 * count * slices {
        let possible = (0..count).flat_map(|s| {
            let [forward, backward] = done[s];
            let came = match s {
                0 => Some(0),
                _ => (done[s - 1][0] > forward).then(|| ends[s - 1][0][forward]),
            };
            let room = forward < slices && forward - backward < ahead(s, count);
            let on = came.filter(|_| room).map(|t| (t.max(free[s]), true, s));
            let back = match s + 1 {
                _ if backward == forward => None,
                next if next == count => Some(ends[s][0][backward]),
                next => (done[next][1] > backward).then(|| ends[next][1][backward]),
            };
            on.into_iter().chain(back.map(|t| (t.max(free[s]), false, s)))
        });
        let Some((start, forward, stage)) = possible.min() else { break };
        let way = usize::from(!forward);
        let slice = done[stage][way];
        done[stage][way] += 1;
        free[stage] = start + takes[stage][way];
        ends[stage][way][slice] = free[stage];
        chunks.push(Chunk { stage, slice, backward: !forward, start });
    }
    (chunks, free.into_iter().max().unwrap_or(0))
}

/// The plan of a loop over slices, with the slices written one by one.
pub(super) fn unrolled(step: &TrainStep, way: &Way<'_>, solved: &Solved, again: &[ValueId]) -> ShardedGraph {
    let slices = way.slices.trips.unwrap_or(1);
    let stages = &solved.sharded.stages;
    let stage = |v: ValueId| stages.stage(v).unwrap_or(0);
    let of_slice: Vec<ValueId> = step.graph.values().filter(|v| way.of_slice(*v)).collect();
    let time = |v: ValueId| solved.times.work[v.index()] / slices as u64;
    let backward = |v: ValueId| way.phase[v.index()] == Some(Phase::Backward);
    let mut takes = vec![[0u64; 2]; stages.regions.len()];
    again.iter().for_each(|v| takes[stage(*v)][1] += time(*v));
    // When each node begins after its chunk.
    let mut after = vec![0u64; step.graph.nodes().len()];
    for v in &of_slice {
        let taken = &mut takes[stage(*v)][usize::from(backward(*v))];
        after[v.index()] = *taken;
        *taken += time(*v);
    }
    let (chunks, end) = clock(&takes, slices);
    let number = |stage: usize, slice: usize, backward: bool| (stage * slices + slice) * 2 + usize::from(backward);
    let mut begins = vec![(0u64, 0usize); chunks.len()];
    chunks.iter().enumerate().for_each(|(i, c)| begins[number(c.stage, c.slice, c.backward)] = (c.start, i));
    let mut order: Vec<(u64, usize, ValueId, usize)> = Vec::with_capacity(of_slice.len() * slices);
    for slice in 0..slices {
        order.extend(of_slice.iter().map(|v| {
            let (start, sequence) = begins[number(stage(*v), slice, backward(*v))];
            (start + after[v.index()], sequence, *v, slice)
        }));
    }
    order.sort_unstable();
    let mut writer = Writer::new(step, way, solved);
    writer.once(Phase::Before);
    order.into_iter().for_each(|(_, _, v, slice)| writer.node(v, Some(slice)));
    writer.once(Phase::After);
    // Before and behind the slices every stage has its own work.
    let mut alone = vec![0u64; stages.regions.len()];
    for v in step.graph.values().filter(|v| matches!(way.phase[v.index()], Some(Phase::Before | Phase::After))) {
        alone[stage(v)] += solved.times.work[v.index()];
    }
    let remat = (0..slices).flat_map(|slice| writer.again(again, slice)).collect();
    writer.finish(end + alone.into_iter().max().unwrap_or(0), remat)
}

/// A new graph with the slices one by one.
struct Writer<'a> {
    step: &'a TrainStep,
    way: &'a Way<'a>,
    solved: &'a Solved,
    out: Graph,
    /// What stands for a node that is computed once.
    whole: Vec<Option<ValueId>>,
    /// What stands for a node of each slice.
    part: FxHashMap<(ValueId, usize), ValueId>,
    strategies: Vec<Strategy>,
    of: Vec<u16>,
    /// New scalars whose values are known: where a slice begins.
    known: FxHashMap<ValueId, Tensor>,
}

impl<'a> Writer<'a> {
    fn new(step: &'a TrainStep, way: &'a Way<'a>, solved: &'a Solved) -> Self {
        let graph = &step.graph;
        let (mut out, mut whole) = (Graph::new(graph.name.clone()), vec![None; graph.nodes().len()]);
        for i in &graph.inputs {
            whole[i.value.index()] = Some(out.input(i.name.clone(), graph.tensor_ty(i.value).clone(), i.role));
        }
        let (strategies, of, known) = (Vec::new(), Vec::new(), FxHashMap::default());
        let mut writer = Writer { step, way, solved, out, whole, part: FxHashMap::default(), strategies, of, known };
        for i in &graph.inputs {
            writer.lies_as(i.value);
        }
        writer
    }

    /// The last new node is split as a node of the loop.
    fn lies_as(&mut self, v: ValueId) {
        let count = self.out.nodes().len();
        self.strategies.resize(count, Strategy::new());
        self.of.resize(count, self.solved.sharded.stages.stage(v).unwrap_or(0) as u16);
        self.strategies[count - 1].clone_from(&self.solved.sharded.strategies[v.index()]);
    }

    /// The nodes that are computed once.
    fn once(&mut self, phase: Phase) {
        let slices = &self.way.slices;
        for v in self.step.graph.values().filter(|v| self.way.phase[v.index()] == Some(phase) && *v != slices.end) {
            match &self.step.graph.node(v).op {
                Op::Input(_) => {}
                Op::Proj(p) if self.step.graph.node(v).operands[0] == slices.end => {
                    self.whole[v.index()] = Some(self.carried(p.index, slices.trips.unwrap_or(1)));
                }
                _ => self.node(v, None),
            }
        }
    }

    /// What a slot holds before a slice.
    fn carried(&self, slot: usize, slice: usize) -> ValueId {
        let slices = &self.way.slices;
        match slice {
            0 => self.value(self.step.graph.node(slices.carries[slot]).operands[0], None),
            _ => self.value(slices.next[slot], Some(slice - 1)),
        }
    }

    /// What stands for a value where a slice reads it.
    fn value(&self, v: ValueId, slice: Option<usize>) -> ValueId {
        let made = match (&self.step.graph.node(v).op, slice) {
            (Op::Carry(c), Some(slice)) if self.way.slices.carries.get(c.slot) == Some(&v) => return self.carried(c.slot, slice),
            (_, Some(slice)) => self.part.get(&(v, slice)).copied().or(self.whole[v.index()]),
            (_, None) => self.whole[v.index()],
        };
        made.expect("nodes come in the order of what they read")
    }

    /// Writes a node, for a slice or once.
    fn node(&mut self, v: ValueId, slice: Option<usize>) {
        let node = self.step.graph.node(v);
        let index = self.way.slices.index;
        if let (Some(index), Some(number)) = (index.filter(|i| node.operands.contains(i)), slice) {
            let ty = self.step.graph.tensor_ty(index);
            if !self.part.contains_key(&(index, number)) {
                let made = self.constant(&Tensor::scalar_int(ty.dtype, number as i64));
                self.part.insert((index, number), made);
            }
        }
        let operands: Vec<ValueId> = node.operands.iter().map(|o| self.value(*o, slice)).collect();
        self.out.set_origin(self.step.graph.origin(v));
        let made = self.folded(v, &operands).unwrap_or_else(|| {
            let op = self.fixed(&node.op, &operands);
            let read = if matches!(op, Op::Slice(_)) { &operands[..1] } else { &operands[..] };
            let made = self.out.emit(op, read);
            self.lies_as(v);
            made
        });
        match slice {
            Some(slice) => {
                self.part.insert((v, slice), made);
            }
            None => self.whole[v.index()] = Some(made),
        }
    }

    /// A scalar whose value is known.
    fn constant(&mut self, tensor: &Tensor) -> ValueId {
        let made = self.out.constant(tensor);
        self.known.insert(made, tensor.clone());
        self.strategies.resize(self.out.nodes().len(), Strategy::new());
        self.of.resize(self.out.nodes().len(), 0);
        made
    }

    /// A node whose value follows from known scalars.
    fn folded(&mut self, v: ValueId, operands: &[ValueId]) -> Option<ValueId> {
        let node = self.step.graph.node(v);
        let ty = node.ty.as_tensor().filter(|t| t.rank() == 0)?;
        if let Op::Constant(c) = &node.op {
            let tensor = Tensor::from_literal(&c.value);
            return Some(self.constant(&tensor));
        }
        if !ty.dtype.is_int() || operands.is_empty() {
            return None;
        }
        let inputs: Vec<&Tensor> = operands.iter().map(|o| self.known.get(o)).collect::<Option<_>>()?;
        let tensor = node.op.eval(&inputs, &node.ty).pop()?;
        Some(self.constant(&tensor))
    }

    /// A slice whose begin is known is no dynamic one.
    fn fixed(&self, op: &Op, operands: &[ValueId]) -> Op {
        let Op::DynamicSlice(d) = op else { return op.clone() };
        let shape = self.out.shape(operands[0]);
        let start = |(dim, o): (usize, &ValueId)| {
            let room = (shape[dim] - d.sizes[dim]) as i64;
            self.known.get(o).map(|t| t.ints()[0].clamp(0, room) as usize)
        };
        let Some(start) = operands[1..].iter().enumerate().map(start).collect::<Option<Dims>>() else { return op.clone() };
        let limit = start.iter().zip(&d.sizes).map(|(a, n)| a + n).collect();
        Slice { limit, stride: start.iter().map(|_| 1).collect(), start }.into()
    }

    /// What a slice makes again, each before what needs it first on the way back. In the order of [`ShardedGraph::remat`].
    fn again(&self, again: &[ValueId], slice: usize) -> Vec<(ValueId, ValueId)> {
        let mut before: FxHashMap<ValueId, ValueId> = FxHashMap::default();
        let mut list = Vec::with_capacity(again.len());
        let wanted: BTreeSet<ValueId> = again.iter().copied().collect();
        for v in self.step.graph.values().rev().filter(|v| self.way.of_slice(*v)) {
            let at = match self.way.phase[v.index()] {
                Some(Phase::Backward) => self.part[&(v, slice)],
                _ => match before.get(&v).filter(|_| wanted.contains(&v)) {
                    Some(at) => *at,
                    None => continue,
                },
            };
            if wanted.contains(&v) {
                list.push((self.part[&(v, slice)], at));
            }
            for o in &self.step.graph.node(v).operands {
                let first = before.entry(*o).or_insert(at);
                *first = at.min(*first);
            }
        }
        list
    }

    fn finish(mut self, cost: u64, mut remat: Vec<(ValueId, ValueId)>) -> ShardedGraph {
        remat.sort_unstable_by_key(|(v, before)| (*before, *v));
        let graph = &self.step.graph;
        for o in &graph.outputs {
            let value = self.value(o.value, None);
            self.out.output(o.name.clone(), value);
        }
        self.out.clear_origin();
        let stages = Stages { regions: self.solved.sharded.stages.regions.clone(), of: self.of };
        let step = TrainStep { graph: self.out, ..self.step.clone() };
        let (strategies, sharded) = (self.strategies, &self.solved.sharded);
        ShardedGraph { step, mesh: sharded.mesh, strategies, cost, reuse: None, remat, streamed: Vec::new(), stages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_and_backward() {
        let (stages, slices) = (3, 6);
        let (chunks, end) = clock(&vec![[10, 20]; stages], slices);
        assert_eq!(chunks.len(), 2 * stages * slices);
        // The least that such a pipeline can take: all slices of one stage, and the others filled and emptied once.
        assert_eq!(end, 30 * (slices + stages - 1) as u64);
        let at = |stage, slice, backward| chunks.iter().position(|c| (c.stage, c.slice, c.backward) == (stage, slice, backward)).unwrap();
        for slice in 0..slices {
            assert!((1..stages).all(|s| at(s - 1, slice, false) < at(s, slice, false) && at(s, slice, true) < at(s - 1, slice, true)));
        }
        let waiting = chunks.iter().scan(0i32, |n, c| {
            *n += if c.stage > 0 {
                0
            } else if c.backward {
                -1
            } else {
                1
            };
            Some(*n)
        });
        assert_eq!(waiting.max(), Some((stages + AHEAD) as i32), "slices on their way");
    }
}
