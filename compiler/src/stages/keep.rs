//! What a stage makes again on the way back instead of keeping it for every slice that is on its way.
//!
//! A stage keeps what its gradients read for as many slices as may be ahead of it. Where that is too much, the values are dropped first that
//! free the most bytes a second of computing them again; what that takes must be kept, or is made again as well.

use super::way::{Phase, Way};
use crate::partition::Solved;
use crate::sharded::axes_of;
use girih_ir::axes::box_dims;
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::types::element_count;

/// At most this many nodes are computed to get one back.
const CHAIN: usize = 8;

/// The values of one stage that its gradients read.
pub(super) struct Keep<'a> {
    way: &'a Way<'a>,
    solved: &'a Solved,
    stage: usize,
    /// Bytes of each value of the stage's way forward on its last die; renamings have none.
    bytes: Vec<u64>,
    /// The value whose bytes each one shows.
    root: Vec<ValueId>,
    /// Whether a gradient reads it, or a renaming of it.
    read: Vec<bool>,
    /// What is made again.
    again: Vec<bool>,
}

impl<'a> Keep<'a> {
    pub fn new(way: &'a Way<'a>, solved: &'a Solved, stage: usize) -> Self {
        let (graph, sharded) = (way.graph, &solved.sharded);
        let count = graph.nodes().len();
        let die = sharded.stages.regions[stage].last(sharded.mesh);
        let mut keep =
            Keep { way, solved, stage, bytes: vec![0; count], root: Vec::new(), read: vec![false; count], again: vec![false; count] };
        for v in graph.values() {
            let node = graph.node(v);
            let renames = matches!(node.op, Op::Reshape(_) | Op::Shard(_) | Op::Proj(_)) && keep.own(v);
            keep.root.push(if renames { keep.root[node.operands[0].index()] } else { v });
            if !renames && keep.own(v) {
                let shard = sharded.shard(v, &axes_of(graph, v), die);
                let parts = shard.iter().flat_map(|s| s.results.iter().zip(graph.ty(v).components()));
                keep.bytes[v.index()] = parts.map(|(b, t)| (element_count(&box_dims(b)) * t.dtype.size()) as u64).sum();
            }
            if way.phase[v.index()] == Some(Phase::Backward) {
                node.operands.iter().for_each(|o| keep.read[keep.root[o.index()].index()] = true);
            }
        }
        keep
    }

    /// Whether a node is on the stage's way forward.
    fn own(&self, v: ValueId) -> bool {
        let forward = self.way.phase[v.index()] == Some(Phase::Forward) && self.way.of_slice(v);
        forward && self.solved.sharded.stages.stage(v) == Some(self.stage)
    }

    /// The values that a node is made of, and that are made for each slice.
    fn made_of(&self, v: ValueId) -> impl Iterator<Item = ValueId> + use<'_> {
        let operands = self.way.graph.node(v).operands.iter().map(|o| self.root[o.index()]);
        operands.filter(|o| self.way.of_slice(*o) && self.way.phase[o.index()] == Some(Phase::Forward))
    }

    /// What is computed to get a value back, in no order; `None` when that is too much, or another stage had to keep something for it.
    fn chain(&self, v: ValueId) -> Option<Vec<ValueId>> {
        let mut chain = vec![v];
        let mut next = 0;
        while let Some(v) = chain.get(next).copied() {
            next += 1;
            for o in self.made_of(v) {
                let there = self.again[o.index()] || self.read[o.index()];
                if there || chain.contains(&o) {
                    continue;
                }
                if !self.own(o) || chain.len() >= CHAIN {
                    return None;
                }
                chain.push(o);
            }
        }
        Some(chain)
    }

    /// Chooses values to make again that free so many bytes a slice, or as many as can be.
    pub fn save(&mut self, bytes: u64) {
        let mut saved = 0;
        while saved < bytes {
            let seconds = |v: &ValueId| self.solved.times.work[v.index()] as f64;
            let kept = |v: &ValueId| self.bytes[v.index()] > 0 && self.read[v.index()] && !self.again[v.index()];
            let score = |v: ValueId| {
                let chain = self.chain(v)?;
                Some((self.bytes[v.index()] as f64 / (chain.iter().map(seconds).sum::<f64>() + 1.0), v, chain))
            };
            let best = self.way.graph.values().filter(kept).filter_map(score).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((_, v, chain)) = best else { break };
            saved += self.bytes[v.index()];
            chain.iter().for_each(|v| self.again[v.index()] = true);
        }
    }

    /// The nodes to compute again, renamings among them.
    pub fn nodes(&self) -> Vec<ValueId> {
        let again =
            |v: &ValueId| self.own(*v) && self.again[self.root[v.index()].index()] && !matches!(self.way.graph.node(*v).op, Op::Proj(_));
        self.way.graph.values().filter(again).collect()
    }
}
