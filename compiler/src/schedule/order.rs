//! The order of the nodes of a step: what frees memory comes as soon as it can.
//!
//! A training graph often lists the gradients of all weights behind the whole backward pass, so that everything they are made of would
//! have to be kept. Here a node whose last needed operands hold at least as many bytes as it makes moves up to where it becomes possible.
//! In the body of a loop, where the gradients of a slice are added to those of the slices before, what makes more than it reads also moves
//! down to its first use.

use crate::sharded::splats;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;

/// The step with its nodes in an order that needs less memory. The nodes of a loop stay together; those of a `while`, whose predicate must
/// come first, stay as they are.
pub fn reorder(step: TrainStep) -> TrainStep {
    let graph = &step.graph;
    let Ok(nest) = LoopNest::of(graph) else { return step };
    let mut order = Vec::with_capacity(graph.nodes().len());
    flatten(&step, &nest, None, &mut order);
    match rebuilt(graph, order) {
        Some((graph, _)) => TrainStep { graph, ..step },
        None => step,
    }
}

/// Appends the nodes of a region (a loop's body, or what is outside of all loops) in their order, each loop right before its end.
fn flatten(step: &TrainStep, nest: &LoopNest, region: Option<usize>, order: &mut Vec<ValueId>) {
    for v in Orderer::new(step, nest, region).run() {
        if let Some(l) = nest.ending_at(v) {
            flatten(step, nest, Some(l), order);
        }
        order.push(v);
    }
}

/// The graph with its live nodes in another order, and where each node went.
pub(super) fn rebuilt(graph: &Graph, order: Vec<ValueId>) -> Option<(Graph, Vec<Option<ValueId>>)> {
    let mut out = Graph::new(graph.name.clone());
    let mut map: Vec<Option<ValueId>> = vec![None; graph.nodes().len()];
    for i in &graph.inputs {
        map[i.value.index()] = Some(out.input(i.name.clone(), graph.tensor_ty(i.value).clone(), i.role));
    }
    for v in order {
        if map[v.index()].is_some() {
            continue;
        }
        let node = graph.node(v);
        let operands: Option<Vec<ValueId>> = node.operands.iter().map(|o| map[o.index()]).collect();
        out.set_origin(graph.origin(v));
        map[v.index()] = Some(out.add(node.op.clone(), &operands?).ok()?);
    }
    for o in &graph.outputs {
        out.output(o.name.clone(), map[o.value.index()]?);
    }
    out.clear_origin();
    Some((out, map))
}

/// The order of one region. A loop inside it is one item, named by its end, that reads what all of its members read.
struct Orderer<'a> {
    graph: &'a Graph,
    /// The nodes of the region in the order of the graph.
    items: Vec<ValueId>,
    /// Whether the region is a loop's body.
    body: bool,
    /// Whether the order stays.
    fixed: bool,
    /// The value whose bytes each value shows.
    root: Vec<usize>,
    /// Bytes of a root that become free behind its last use; what other regions make, and what stays, frees none.
    bytes: Vec<u64>,
    /// Nodes that are still to read each root.
    readers: Vec<Vec<ValueId>>,
    left: Vec<usize>,
    /// What each node of the region reads of the region.
    reads: Vec<Vec<ValueId>>,
    users: Vec<Vec<ValueId>>,
    /// Operands of each node that are not there yet.
    missing: Vec<usize>,
    done: Vec<bool>,
    order: Vec<ValueId>,
}

/// How many nodes that use each other up are looked at together.
const CHAIN: usize = 4;
/// What makes so many times less than it reads is done at once.
const TINY: u64 = 16;

fn is_name(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Shard(_) | Op::Proj(_))
}

fn is_slot(op: &Op) -> bool {
    matches!(op, Op::Carry(_) | Op::LoopIndex(_))
}

impl<'a> Orderer<'a> {
    fn new(step: &'a TrainStep, nest: &LoopNest, region: Option<usize>) -> Self {
        let graph = &step.graph;
        let (live, splats, count) = (graph.live(), splats(graph), graph.nodes().len());
        let inside = |v: &ValueId| live[v.index()] && nest.innermost(*v) == region;
        let items: Vec<ValueId> = match region {
            Some(l) => nest.loops[l].members.clone(),
            None => graph.values().filter(inside).collect(),
        };
        let mut o = Orderer {
            graph,
            items,
            body: region.is_some(),
            fixed: region.is_some_and(|l| nest.loops[l].predicate.is_some()),
            root: (0..count).collect(),
            bytes: vec![0; count],
            readers: vec![Vec::new(); count],
            left: vec![0; count],
            reads: vec![Vec::new(); count],
            users: vec![Vec::new(); count],
            missing: vec![0; count],
            done: vec![false; count],
            order: Vec::new(),
        };
        for v in o.items.clone() {
            let (i, node) = (v.index(), graph.node(v));
            o.reads[i] = match nest.ending_at(v) {
                Some(l) => loop_reads(graph, nest, l),
                None => node.operands.to_vec(),
            };
            o.reads[i].retain(inside);
            o.missing[i] = o.reads[i].len();
            for x in &o.reads[i] {
                o.users[x.index()].push(v);
            }
            match &node.op {
                Op::Reshape(_) | Op::Shard(_) => o.root[i] = o.root[node.operands[0].index()],
                Op::Input(_) | Op::Constant(_) | Op::Iota(_) | Op::Carry(_) => {}
                _ if splats[i] => {}
                _ if graph.ty(v).components().len() == 1 => o.bytes[i] = graph.tensor_ty(v).bytes() as u64,
                _ => {}
            }
            if !is_name(&node.op) {
                for root in o.roots(v) {
                    o.readers[root].push(v);
                    o.left[root] += 1;
                }
            }
        }
        o.keep(step, nest, region);
        o
    }

    /// Outputs stay, and so does what a loop leaves; new state takes the place of the old, and so does the next value of a slot.
    fn keep(&mut self, step: &TrainStep, nest: &LoopNest, region: Option<usize>) {
        for (k, output) in self.graph.outputs.iter().enumerate().filter(|_| region.is_none()) {
            let root = self.root[output.value.index()];
            self.left[root] += 1;
            if step.state.iter().any(|s| s.output == Some(k)) {
                self.bytes[root] = 0;
            }
        }
        for next in region.iter().flat_map(|l| &nest.loops[*l].next) {
            let root = self.root[next.index()];
            self.left[root] += 1;
            self.bytes[root] = 0;
        }
    }

    /// The roots that a node reads, each once.
    fn roots(&self, v: ValueId) -> Vec<usize> {
        let mut roots: Vec<usize> = self.reads[v.index()].iter().map(|x| self.root[x.index()]).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    fn run(mut self) -> Vec<ValueId> {
        let items = self.items.clone();
        if self.fixed {
            return items;
        }
        for v in items.iter().filter(|v| is_slot(&self.graph.node(**v).op)) {
            self.emit(*v, false);
        }
        let later = self.later();
        for v in items.iter().filter(|v| !later[v.index()]) {
            self.need(*v);
        }
        for v in items {
            self.need(v);
        }
        self.order
    }

    /// The nodes of a body that make more than they hold back when they come late: they wait for what needs them.
    fn later(&self) -> Vec<bool> {
        let mut later = vec![false; self.done.len()];
        // Bytes that have to be kept for a node until it is done.
        let mut held = self.bytes.clone();
        for v in self.items.iter().filter(|_| self.body) {
            let (i, op) = (v.index(), &self.graph.node(*v).op);
            if is_name(op) {
                later[i] = self.reads[i].iter().any(|x| later[x.index()]);
                continue;
            }
            let (made, kept) = (self.made(*v), self.roots(*v).into_iter().map(|r| held[r]).sum::<u64>());
            later[i] = made > kept && !is_slot(op) && !self.users[i].is_empty();
            if later[i] {
                held[i] = kept;
                self.users[i].iter().filter(|u| matches!(self.graph.node(**u).op, Op::Proj(_))).for_each(|u| held[u.index()] = 0);
            }
        }
        later
    }

    /// Emits a node, and before it what it still waits for.
    fn need(&mut self, v: ValueId) {
        let mut open = vec![v];
        while let Some(v) = open.last().copied() {
            let before = open.len();
            let missing = self.reads[v.index()].iter().copied().filter(|x| !self.done[x.index()]);
            open.extend(missing.collect::<Vec<_>>().into_iter().rev());
            if open.len() == before {
                open.pop();
                self.emit(v, true);
            }
        }
    }

    /// Emits a node whose operands are there, and whatever frees memory then.
    fn emit(&mut self, first: ValueId, more: bool) {
        let mut next = vec![first];
        while let Some(v) = next.pop() {
            if self.done[v.index()] || v != first && !self.pays(v) {
                continue;
            }
            self.done[v.index()] = true;
            self.order.push(v);
            let mut candidates: Vec<ValueId> = Vec::new();
            for u in self.users[v.index()].clone() {
                self.missing[u.index()] -= 1;
                candidates.push(u);
            }
            if !is_name(&self.graph.node(v).op) {
                for root in self.roots(v) {
                    self.left[root] -= 1;
                    if self.left[root] == 1 {
                        candidates.extend(self.readers[root].iter().copied().filter(|r| !self.done[r.index()]));
                    }
                }
            }
            candidates.sort_unstable_by(|a, b| b.cmp(a));
            candidates.dedup();
            let ready = candidates.into_iter().filter(|c| !self.done[c.index()] && self.missing[c.index()] == 0);
            next.extend(ready.filter(|_| more));
        }
    }

    /// Bytes of a node's results.
    fn made(&self, v: ValueId) -> u64 {
        match self.graph.ty(v).components().len() {
            1 => self.bytes[v.index()],
            _ => self.users[v.index()].iter().map(|p| self.bytes[p.index()]).sum(),
        }
    }

    /// Whether a node can be emitted and frees at least what it makes, by itself or with the nodes that use it up.
    fn pays(&self, v: ValueId) -> bool {
        if self.missing[v.index()] > 0 {
            return false;
        }
        if is_name(&self.graph.node(v).op) {
            return true;
        }
        let roots = self.roots(v);
        let mut freed: u64 = roots.iter().filter(|r| self.left[**r] == 1).map(|r| self.bytes[*r]).sum();
        let mut made = self.made(v);
        if freed > 0 && freed >= made {
            return true;
        }
        if !self.body {
            return false;
        }
        let read: u64 = roots.iter().map(|r| self.bytes[*r]).sum();
        if made > 0 && made.saturating_mul(TINY) <= read {
            return true;
        }
        let mut last = v;
        for _ in 0..CHAIN {
            let [user] = self.users[last.index()][..] else { return false };
            let waits = self.reads[user.index()].iter().any(|x| *x != last && !self.done[x.index()]);
            if waits || freed == 0 || self.graph.ty(user).components().len() != 1 {
                return false;
            }
            if !is_name(&self.graph.node(user).op) {
                let used = self.root[last.index()];
                let others = self.roots(user).into_iter().filter(|r| *r != used && self.left[*r] == 1 && !roots.contains(r));
                freed += others.map(|r| self.bytes[r]).sum::<u64>();
                made = self.bytes[user.index()];
                if freed >= made {
                    return true;
                }
            }
            last = user;
        }
        false
    }
}

/// What the members of a loop read, those of the loops inside it included.
fn loop_reads(graph: &Graph, nest: &LoopNest, l: usize) -> Vec<ValueId> {
    let mut reads: Vec<ValueId> = Vec::new();
    let (mut open, mut ends) = (vec![l], vec![nest.loops[l].end]);
    while let Some(l) = open.pop() {
        for m in &nest.loops[l].members {
            reads.extend(&graph.node(*m).operands);
            if let Some(inner) = nest.ending_at(*m) {
                open.push(inner);
                ends.push(*m);
            }
        }
    }
    reads.extend(ends.iter().flat_map(|e| graph.node(*e).operands.iter().copied()));
    reads.sort_unstable();
    reads.dedup();
    reads
}
