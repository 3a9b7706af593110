//! The way of a slice through the model: a position for every node of a step in slices.

use super::StageError;
use girih_ir::graph::loops::Loop;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;

/// When a node is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Once, before all slices; inputs too.
    Before,
    /// For each slice, on the way to the loss.
    Forward,
    /// For each slice, from what the way forward left.
    Backward,
    /// Once, behind all slices.
    After,
}

/// The positions of the nodes of a step that is a loop over slices.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub graph: &'a Graph,
    /// The loop over the slices.
    pub slices: Loop,
    /// The phase of each node; `None` when nothing needs it.
    pub phase: Vec<Option<Phase>>,
    /// The position of each node on the way forward.
    pub at: Vec<usize>,
    /// How many positions there are.
    pub length: usize,
}

impl<'a> Way<'a> {
    pub fn of(step: &'a TrainStep, slices: Loop) -> Result<Self, StageError> {
        let graph = &step.graph;
        let phase = phases(step, &slices)?;
        let mut users: Vec<Vec<ValueId>> = vec![Vec::new(); graph.nodes().len()];
        for v in graph.values().filter(|v| phase[v.index()].is_some()) {
            graph.node(v).operands.iter().for_each(|o| users[o.index()].push(v));
        }
        let mut finder = Finder { graph, slices: &slices, phase: &phase, users, at: vec![None; graph.nodes().len()] };
        let length = finder.forward();
        finder.before(|p| p != Phase::Backward);
        finder.backward(length);
        finder.before(|_| true);
        finder.after();
        let at = finder.at.iter().map(|at| at.unwrap_or(0)).collect();
        Ok(Way { graph, slices, phase, at, length })
    }

    /// Whether a node is computed for each slice.
    pub fn of_slice(&self, v: ValueId) -> bool {
        let computed = !matches!(self.graph.node(v).op, Op::Carry(_) | Op::LoopIndex(_));
        computed && matches!(self.phase[v.index()], Some(Phase::Forward | Phase::Backward))
    }
}

/// The phase of every live node.
fn phases(step: &TrainStep, slices: &Loop) -> Result<Vec<Option<Phase>>, StageError> {
    let graph = &step.graph;
    let mut phase: Vec<Option<Phase>> = graph.live().into_iter().map(|live| live.then_some(Phase::Before)).collect();
    for m in &slices.members {
        phase[m.index()] = phase[m.index()].and(Some(Phase::Backward));
    }
    for v in graph.values() {
        let behind = v == slices.end || graph.node(v).operands.iter().any(|o| phase[o.index()] == Some(Phase::After));
        if behind && phase[v.index()] == Some(Phase::Before) {
            phase[v.index()] = Some(Phase::After);
        }
    }
    // What the loss of a slice is made of; where none is named, what the least of the outputs is made of.
    let outputs: Vec<usize> = match step.loss {
        Some(loss) => vec![loss],
        None => (0..graph.outputs.len()).filter(|o| step.state.iter().all(|s| s.output != Some(*o))).collect(),
    };
    let found = outputs.iter().map(|o| made_of(graph, slices, &phase, graph.outputs[*o].value)).filter(|f| !f.is_empty());
    for v in found.min_by_key(Vec::len).ok_or(StageError::NoLoss)? {
        phase[v.index()] = Some(Phase::Forward);
    }
    Ok(phase)
}

/// The nodes of the body that a value behind the loop follows from.
fn made_of(graph: &Graph, slices: &Loop, phase: &[Option<Phase>], output: ValueId) -> Vec<ValueId> {
    let (mut open, mut seen, mut found) = (vec![output], vec![false; graph.nodes().len()], Vec::new());
    while let Some(v) = open.pop() {
        if std::mem::replace(&mut seen[v.index()], true) {
            continue;
        }
        match (&graph.node(v).op, phase[v.index()]) {
            (Op::Proj(p), _) if graph.node(v).operands[0] == slices.end => open.push(slices.next[p.index]),
            (Op::Carry(_) | Op::LoopIndex(_), _) => {}
            (_, Some(Phase::After)) => open.extend(&graph.node(v).operands),
            (_, Some(Phase::Backward)) => {
                found.push(v);
                open.extend(&graph.node(v).operands);
            }
            _ => {}
        }
    }
    found
}

struct Finder<'a> {
    graph: &'a Graph,
    slices: &'a Loop,
    phase: &'a [Option<Phase>],
    users: Vec<Vec<ValueId>>,
    at: Vec<Option<usize>>,
}

impl Finder<'_> {
    fn nodes(&self, phase: Phase) -> impl DoubleEndedIterator<Item = ValueId> + use<'_> {
        self.graph.values().filter(move |v| self.phase[v.index()] == Some(phase))
    }

    /// The least position of the users of a value in some phases.
    fn first_user(&self, v: ValueId, counts: impl Fn(Phase) -> bool) -> Option<usize> {
        let users = self.users[v.index()].iter().filter(|u| self.phase[u.index()].is_some_and(&counts));
        users.filter_map(|u| self.at[u.index()]).min()
    }

    /// Positions forward are those in the graph. What follows from the batch alone, such as labels, comes where it is first needed.
    fn forward(&mut self) -> usize {
        let forward: Vec<ValueId> = self.nodes(Phase::Forward).collect();
        let mut learned = vec![false; self.at.len()];
        for v in self.graph.values() {
            let state = |input: usize| self.graph.inputs[input].role != girih_ir::graph::Role::Data;
            learned[v.index()] = match &self.graph.node(v).op {
                Op::Input(i) => state(i.index),
                _ => self.graph.node(v).operands.iter().any(|o| learned[o.index()]),
            };
        }
        forward.iter().enumerate().for_each(|(i, v)| self.at[v.index()] = Some(i));
        for v in forward.iter().rev().filter(|v| !learned[v.index()]) {
            self.at[v.index()] = self.first_user(*v, |p| p == Phase::Forward).or(self.at[v.index()]);
        }
        forward.len()
    }

    /// What is computed once, and inputs, are where they are first needed in some phases.
    fn before(&mut self, counts: impl Fn(Phase) -> bool + Copy) {
        let open: Vec<ValueId> = self.nodes(Phase::Before).rev().filter(|v| self.at[v.index()].is_none()).collect();
        for v in open {
            self.at[v.index()] = self.first_user(v, |p| p != Phase::After && counts(p));
        }
    }

    /// For each value, the last position on the way forward that reads it, or what is made of it once.
    fn last_readers(&self) -> Vec<Option<usize>> {
        let mut last: Vec<Option<usize>> = vec![None; self.at.len()];
        for v in self.graph.values().rev() {
            let read = |u: &ValueId| match self.phase[u.index()] {
                Some(Phase::Forward) => self.at[u.index()],
                Some(Phase::Before) => last[u.index()],
                _ => None,
            };
            last[v.index()] = self.users[v.index()].iter().filter_map(read).max().or(self.at[v.index()]);
        }
        last
    }

    /// A gradient is where what it is made of was last read on the way forward, and not behind the gradients that it is made of.
    fn backward(&mut self, length: usize) {
        let last = self.last_readers();
        let backward: Vec<ValueId> = self.nodes(Phase::Backward).collect();
        let own = |v: &ValueId| !matches!(self.graph.node(*v).op, Op::Carry(_) | Op::LoopIndex(_));
        for v in backward.iter().copied().filter(own) {
            let (mut bound, mut wish) = (None, None);
            for o in &self.graph.node(v).operands {
                match self.phase[o.index()] {
                    Some(Phase::Backward) => bound = self.at[o.index()].into_iter().chain(bound).min(),
                    _ => wish = wish.max(last[o.index()]),
                }
            }
            self.at[v.index()] = Some(bound.into_iter().chain(wish).min().unwrap_or(length - 1));
        }
        for (carry, next) in self.slices.carries.iter().zip(&self.slices.next) {
            self.at[carry.index()] = self.at[next.index()];
        }
    }

    /// What is computed at last is where the largest part of it was made.
    fn after(&mut self) {
        for v in self.nodes(Phase::After).collect::<Vec<_>>() {
            let node = self.graph.node(v);
            let elements = |o: &ValueId| self.graph.ty(*o).as_tensor().map_or(0, |t| t.elements());
            self.at[v.index()] = match &node.op {
                Op::Proj(p) if node.operands[0] == self.slices.end => self.at[self.slices.carries[p.index].index()],
                _ => {
                    let known = node.operands.iter().filter(|o| self.at[o.index()].is_some());
                    known.max_by_key(|o| (elements(o), std::cmp::Reverse(**o))).and_then(|o| self.at[o.index()])
                }
            };
        }
    }
}
