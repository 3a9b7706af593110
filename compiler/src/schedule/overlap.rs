//! The order of the nodes of a split step: other work is done while what the next node needs travels.
//!
//! All dies do the same nodes in the same order, so one clock tells when a node could begin: when the one before it is done, and when what it
//! reads has come. Among the nodes that could begin now, the one comes first behind which the longest chain waits; the gradients of
//! weights, on which little depends, fill the gaps of the chain through the layers. No node moves far, so that little is kept longer.

use super::order::rebuilt;
use crate::partition::Times;
use crate::sharded::{ShardedGraph, Stages, Strategy};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;
use std::collections::BTreeSet;

/// The step in an order that hides transfers behind work, and the picoseconds that it takes so. No node comes more than `window` nodes
/// earlier than in the graph; with a window of 1 the order stays. Steps with loops stay as they are, for a loop's nodes stay together, and so
/// do steps in stages, where the dies do different nodes.
pub fn overlap(sharded: &ShardedGraph, times: &Times, window: usize) -> (ShardedGraph, u64) {
    let graph = &sharded.step.graph;
    let staged = !sharded.stages.regions.is_empty();
    if sharded.mesh.count() == 1 || staged || graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_) | Op::While(_))) {
        return (sharded.clone(), sharded.cost);
    }
    let (order, time) = Overlap::new(sharded, times).run(window.max(1));
    let Some((graph, map)) = rebuilt(graph, order) else { return (sharded.clone(), sharded.cost) };
    let mut strategies = vec![Strategy::new(); graph.nodes().len()];
    for (old, new) in map.iter().enumerate() {
        if let Some(new) = new {
            strategies[new.index()].clone_from(&sharded.strategies[old]);
        }
    }
    let step = TrainStep { graph, ..sharded.step.clone() };
    let streamed = sharded.streamed.clone();
    (ShardedGraph { step, strategies, remat: Vec::new(), streamed, stages: Stages::default(), ..*sharded }, time)
}

struct Overlap<'a> {
    times: &'a Times,
    /// Live nodes in the order of the graph.
    nodes: Vec<ValueId>,
    users: Vec<Vec<ValueId>>,
    missing: Vec<usize>,
    /// The longest chain from the begin of a node to the end.
    rank: Vec<u64>,
    /// When what a node reads has come.
    start: Vec<u64>,
}

impl<'a> Overlap<'a> {
    fn new(sharded: &ShardedGraph, times: &'a Times) -> Self {
        let graph = &sharded.step.graph;
        let (live, count) = (graph.live(), graph.nodes().len());
        let nodes: Vec<ValueId> = graph.values().filter(|v| live[v.index()]).collect();
        let mut o =
            Overlap { times, users: vec![Vec::new(); count], missing: vec![0; count], rank: vec![0; count], start: vec![0; count], nodes };
        for v in &o.nodes {
            let mut operands: Vec<ValueId> = graph.node(*v).operands.to_vec();
            operands.sort_unstable();
            operands.dedup();
            operands.iter().for_each(|x| o.users[x.index()].push(*v));
            o.missing[v.index()] = operands.len();
        }
        for v in o.nodes.iter().rev() {
            let behind = o.users[v.index()].iter().map(|u| o.times.delay(*v, *u) + o.rank[u.index()]).max().unwrap_or(0);
            o.rank[v.index()] = o.times.work[v.index()] + behind;
        }
        o
    }

    fn run(mut self, window: usize) -> (Vec<ValueId>, u64) {
        let mut place = vec![usize::MAX; self.missing.len()];
        self.nodes.iter().enumerate().for_each(|(i, v)| place[v.index()] = i);
        // Positions of the nodes whose operands are done.
        let mut ready: BTreeSet<usize> = (0..self.nodes.len()).filter(|i| self.missing[self.nodes[*i].index()] == 0).collect();
        let mut done = vec![false; self.nodes.len()];
        let (mut first, mut clock) = (0usize, 0u64);
        let mut order = Vec::with_capacity(self.nodes.len());
        while order.len() < self.nodes.len() {
            while done[first] {
                first += 1;
            }
            // What could begin now, the longest chain first; else what can begin soonest.
            let near = ready.range(..first + window).copied();
            let key = |i: &usize| {
                let v = self.nodes[*i].index();
                (self.start[v].max(clock), std::cmp::Reverse(self.rank[v]), *i)
            };
            let at = near.min_by_key(key).unwrap_or(first);
            let v = self.nodes[at];
            ready.remove(&at);
            done[at] = true;
            order.push(v);
            clock = clock.max(self.start[v.index()]) + self.times.work[v.index()];
            for u in std::mem::take(&mut self.users[v.index()]) {
                let i = u.index();
                self.start[i] = self.start[i].max(clock + self.times.delay(v, u));
                self.missing[i] -= 1;
                if self.missing[i] == 0 {
                    ready.insert(place[i]);
                }
            }
        }
        (order, clock)
    }
}
