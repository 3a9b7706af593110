//! The order of the nodes of a step: what frees memory comes as soon as it can.
//!
//! A training graph often lists the gradients of all weights behind the whole backward pass, so that everything they are made of would
//! have to be kept. Here a node whose last needed operands hold at least as many bytes as it makes moves up to where it becomes possible.

use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;

/// The step with its nodes in an order that needs less memory. Steps with loops stay as they are: a loop's nodes stay together.
pub fn reorder(step: TrainStep) -> TrainStep {
    let graph = &step.graph;
    if graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_) | Op::While(_))) {
        return step;
    }
    let order = Orderer::new(&step).run();
    match rebuilt(graph, order) {
        Some((graph, _)) => TrainStep { graph, ..step },
        None => step,
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

struct Orderer<'a> {
    graph: &'a Graph,
    live: Vec<bool>,
    /// The value whose bytes each value shows.
    root: Vec<usize>,
    /// Bytes that become free behind the last use.
    bytes: Vec<u64>,
    /// Nodes that are still to read each root.
    readers: Vec<Vec<ValueId>>,
    left: Vec<usize>,
    users: Vec<Vec<ValueId>>,
    /// Operands of each node that are not there yet.
    missing: Vec<usize>,
    done: Vec<bool>,
    order: Vec<ValueId>,
}

fn is_name(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Shard(_) | Op::Proj(_))
}

impl<'a> Orderer<'a> {
    fn new(step: &'a TrainStep) -> Self {
        let graph = &step.graph;
        let count = graph.nodes().len();
        let mut o = Orderer {
            graph,
            live: graph.live(),
            root: (0..count).collect(),
            bytes: vec![0; count],
            readers: vec![Vec::new(); count],
            left: vec![0; count],
            users: vec![Vec::new(); count],
            missing: vec![0; count],
            done: vec![false; count],
            order: Vec::new(),
        };
        for v in graph.values().filter(|v| o.live[v.index()]) {
            let (i, node) = (v.index(), graph.node(v));
            o.missing[i] = node.operands.len();
            node.operands.iter().for_each(|x| o.users[x.index()].push(v));
            match &node.op {
                Op::Reshape(_) | Op::Shard(_) => o.root[i] = o.root[node.operands[0].index()],
                Op::Input(_) | Op::Constant(_) | Op::Iota(_) => {}
                _ if graph.ty(v).components().len() == 1 => o.bytes[i] = graph.tensor_ty(v).bytes() as u64,
                _ => {}
            }
            if !is_name(&node.op) {
                for x in &node.operands {
                    let root = o.root[x.index()];
                    if o.readers[root].last() != Some(&v) {
                        o.readers[root].push(v);
                        o.left[root] += 1;
                    }
                }
            }
        }
        // Outputs stay; new state takes the place of the old.
        for (k, output) in graph.outputs.iter().enumerate() {
            let root = o.root[output.value.index()];
            o.left[root] += 1;
            if step.state.iter().any(|s| s.output == Some(k)) {
                o.bytes[root] = 0;
            }
        }
        o
    }

    fn run(mut self) -> Vec<ValueId> {
        for v in self.graph.values() {
            if self.live[v.index()] {
                self.emit(v);
            }
        }
        self.order
    }

    /// Emits a node whose operands are there, and whatever frees memory then.
    fn emit(&mut self, first: ValueId) {
        let mut next = vec![first];
        while let Some(v) = next.pop() {
            if self.done[v.index()] || v != first && !self.pays(v) {
                continue;
            }
            self.done[v.index()] = true;
            self.order.push(v);
            let node = self.graph.node(v);
            let mut candidates: Vec<ValueId> = Vec::new();
            for u in self.users[v.index()].clone() {
                self.missing[u.index()] -= 1;
                candidates.push(u);
            }
            if !is_name(&node.op) {
                let mut roots: Vec<usize> = node.operands.iter().map(|x| self.root[x.index()]).collect();
                roots.sort_unstable();
                roots.dedup();
                for root in roots {
                    self.left[root] -= 1;
                    if self.left[root] == 1 {
                        candidates.extend(self.readers[root].iter().copied().filter(|r| !self.done[r.index()]));
                    }
                }
            }
            candidates.sort_unstable_by(|a, b| b.cmp(a));
            candidates.dedup();
            next.extend(candidates.into_iter().filter(|c| !self.done[c.index()] && self.missing[c.index()] == 0));
        }
    }

    /// Whether a node can be emitted and frees at least what it makes.
    fn pays(&self, v: ValueId) -> bool {
        let node = self.graph.node(v);
        if self.missing[v.index()] > 0 {
            return false;
        }
        if is_name(&node.op) {
            return true;
        }
        let mut roots: Vec<usize> = node.operands.iter().map(|x| self.root[x.index()]).collect();
        roots.sort_unstable();
        roots.dedup();
        let freed: u64 = roots.into_iter().filter(|r| self.left[*r] == 1).map(|r| self.bytes[r]).sum();
        let made: u64 = match self.graph.ty(v).components().len() {
            1 => self.bytes[v.index()],
            _ => self.users[v.index()].iter().map(|p| self.bytes[p.index()]).sum(),
        };
        freed > 0 && freed >= made
    }
}
