//! Rematerialization: which values are made again later instead of being kept.
//!
//! The profile of a plan that did not fit says how many bytes are live at each node. While the highest point is above the goal, the node is
//! dropped there that frees the most bytes a second of computing it again; the operands that this takes must be live then, or are made
//! again as well. What is made again is placed a second time by `place`, so the graph stays as it is.

use super::cost::work;
use crate::sharded::{AxisSet, ShardedGraph, axes_of, splats};
use girih_ir::axes::{Axes, LoopKind, box_dims};
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::target::Target;
use girih_ir::types::element_count;
use std::collections::BTreeSet;

/// At most this many nodes are computed to get one back.
const CHAIN: usize = 8;

/// Nodes to place again, and what that costs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Remat {
    /// What to make again and before which node, as [`ShardedGraph::remat`].
    pub list: Vec<(ValueId, ValueId)>,
    /// Seconds of computing on the busiest die.
    pub seconds: f64,
    /// The highest point that is left.
    pub peak: u64,
}

/// The uses of a node's results, its own renamings included, and when it is live.
#[derive(Clone, Debug, Default)]
struct Life {
    /// Bytes on a die.
    bytes: u64,
    /// Nodes that read it, ascending; more may come.
    uses: BTreeSet<u32>,
    /// From where it is made to its last use.
    spans: Vec<(u32, u32)>,
    /// Reshapes of it.
    names: Vec<u32>,
    /// Whether it may be made again.
    movable: bool,
}

struct Planner<'a> {
    graph: &'a Graph,
    nest: LoopNest,
    lives: Vec<Life>,
    /// The node whose bytes each node shows.
    root: Vec<u32>,
    seconds: Vec<f64>,
    /// Bytes that a die has to bring to compute each node.
    moved: Vec<u64>,
    /// The last node that reads each one, renamings among them.
    last: Vec<u32>,
    load: Vec<i64>,
    done: BTreeSet<(u32, u32)>,
}

/// Chooses what to make again so that the profile stays at or below `goal`; `None` when nothing helps.
pub fn rematerialize(sharded: &ShardedGraph, target: &Target, profile: &[u64], goal: u64) -> Option<Remat> {
    let mut p = Planner::new(sharded, target, profile);
    let mut seconds = 0.0;
    for _ in 0..profile.len() * 2 {
        let (at, peak) = p.load.iter().copied().enumerate().max_by_key(|(i, l)| (*l, std::cmp::Reverse(*i)))?;
        if peak <= goal as i64 {
            break;
        }
        match p.best(at as u32) {
            Some((node, chain, before)) => seconds += p.apply(node, &chain, before, at as u32),
            None if p.done.is_empty() => return None,
            None => break,
        }
    }
    let mut list: Vec<(ValueId, ValueId)> = p.done.iter().map(|(before, v)| (ValueId(*v), ValueId(*before))).collect();
    list.extend(sharded.remat.iter().copied());
    list.sort_unstable_by_key(|(v, before)| (*before, *v));
    list.dedup();
    Some(Remat { list, seconds, peak: p.load.iter().copied().max().unwrap_or(0).max(0) as u64 })
}

impl<'a> Planner<'a> {
    fn new(sharded: &'a ShardedGraph, target: &Target, profile: &[u64]) -> Self {
        let graph = &sharded.step.graph;
        let (live, splats) = (graph.live(), splats(graph));
        let count = graph.nodes().len();
        let mut p = Planner {
            graph,
            nest: LoopNest::of(graph).unwrap_or_default(),
            lives: vec![Life::default(); count],
            root: (0..count as u32).collect(),
            seconds: vec![0.0; count],
            moved: vec![0; count],
            last: vec![0; count],
            load: profile.iter().map(|b| *b as i64).collect(),
            done: BTreeSet::new(),
        };
        let state: BTreeSet<u32> = sharded.step.state.iter().filter_map(|s| s.output).map(|o| graph.outputs[o].value.0).collect();
        for v in graph.values().filter(|v| live[v.index()]) {
            let i = v.index();
            let node = graph.node(v);
            node.operands.iter().for_each(|o| p.last[o.index()] = v.0);
            let renames = matches!(node.op, Op::Proj(_) | Op::Reshape(_) | Op::Shard(_));
            if renames {
                p.root[i] = p.root[node.operands[0].index()];
                let root = p.root[i] as usize;
                if !matches!(node.op, Op::Proj(_)) {
                    p.lives[root].names.push(v.0);
                }
                if state.contains(&v.0) {
                    p.lives[root].movable = false;
                }
                continue;
            }
            for o in &node.operands {
                p.lives[p.root[o.index()] as usize].uses.insert(v.0);
            }
            let given = matches!(
                node.op,
                Op::Input(_)
                    | Op::Constant(_)
                    | Op::Iota(_)
                    | Op::AllReduce(_)
                    | Op::Carry(_)
                    | Op::LoopIndex(_)
                    | Op::Repeat(_)
                    | Op::While(_)
            );
            if given || splats[i] {
                continue;
            }
            let axes = axes_of(graph, v);
            let (bytes, seconds, moved) = share(sharded, target, v, &axes);
            (p.lives[i].bytes, p.seconds[i], p.moved[i], p.lives[i].movable) = (bytes, seconds, moved, !state.contains(&v.0));
        }
        for o in &graph.outputs {
            let root = p.root[o.value.index()] as usize;
            p.lives[root].uses.insert(count as u32);
            p.lives[root].movable = false;
        }
        for (i, l) in p.lives.iter_mut().enumerate() {
            l.spans = l.uses.last().map(|last| (i as u32, *last)).into_iter().collect();
        }
        // What is made again already leaves a gap behind its last use before.
        for (v, before) in &sharded.remat {
            let life = &mut p.lives[v.index()];
            life.movable = false;
            let last = life.uses.range(..before.0).next_back().copied().unwrap_or(v.0);
            if let Some(span) = life.spans.iter_mut().find(|(s, e)| *s < before.0 && before.0 <= *e) {
                let end = std::mem::replace(&mut span.1, last).max(before.0);
                life.spans.push((before.0, end));
            }
        }
        p
    }

    /// The node to drop at a point: frees most a second. With the nodes that have to be computed to get it back, and before which node.
    fn best(&self, at: u32) -> Option<(u32, Vec<u32>, u32)> {
        let mut best: Option<(f64, u32, Vec<u32>, u32)> = None;
        for (i, life) in self.lives.iter().enumerate() {
            if !life.movable || life.bytes == 0 || life.uses.contains(&at) {
                continue;
            }
            let Some((_, end)) = life.spans.iter().find(|(s, e)| *s < at && at < *e) else { continue };
            let Some(before) = life.uses.range(at + 1..=*end).next().copied() else { continue };
            if before as usize >= self.lives.len() || !self.same_loop(i as u32, before) {
                continue;
            }
            let mut chain = vec![i as u32];
            if !self.chain(i as u32, at, before, &mut chain) {
                continue;
            }
            // What is made again there, with what has to be brought for it, must not be a new peak.
            let brought = chain.iter().map(|n| self.moved[*n as usize] + self.lives[*n as usize].bytes).max().unwrap_or(0);
            if (self.load[before as usize] + brought as i64) as f64 > self.load[at as usize] as f64 * 0.95 {
                continue;
            }
            let cost: f64 = chain.iter().map(|n| self.seconds[*n as usize]).sum();
            let score = life.bytes as f64 / (cost + 1e-9);
            if best.as_ref().is_none_or(|b| score > b.0) {
                best = Some((score, i as u32, chain, before));
            }
        }
        best.map(|(_, node, chain, before)| (node, chain, before))
    }

    fn same_loop(&self, a: u32, b: u32) -> bool {
        self.nest.innermost(ValueId(a)) == self.nest.innermost(ValueId(b))
    }

    /// Adds what has to be computed before a node so that `v` can be; `false` when that is too much.
    fn chain(&self, v: u32, at: u32, before: u32, chain: &mut Vec<u32>) -> bool {
        for o in &self.graph.node(ValueId(v)).operands {
            let root = self.root[o.index()];
            let life = &self.lives[root as usize];
            if life.bytes == 0 || chain.contains(&root) || life.spans.iter().any(|(s, e)| *s < before && before <= *e) {
                continue;
            }
            // Kept longer, it must not make a new peak.
            if let Some((_, end)) = life.spans.iter().find(|(s, e)| *s <= at && at <= *e) {
                let highest = self.load[*end as usize..(before as usize).min(self.load.len())].iter().max().copied().unwrap_or(0);
                if highest + life.bytes as i64 <= self.load[at as usize] {
                    continue;
                }
                return false;
            }
            if !life.movable || chain.len() >= CHAIN || !self.same_loop(root, before) {
                return false;
            }
            chain.push(root);
            if !self.chain(root, at, before, chain) {
                return false;
            }
        }
        true
    }

    /// Drops a node at a point and makes it again; returns the seconds.
    fn apply(&mut self, node: u32, chain: &[u32], before: u32, at: u32) -> f64 {
        for v in chain {
            for o in self.graph.node(ValueId(*v)).operands.clone() {
                let root = self.root[o.index()] as usize;
                if !chain.contains(&(root as u32)) {
                    self.keep(root, before);
                }
            }
            self.done.insert((before, *v));
            let names = self.lives[*v as usize].names.clone();
            let last = &self.last;
            self.done.extend(names.into_iter().filter(|n| *n < before && last[*n as usize] >= before).map(|n| (before, n)));
            if *v != node {
                self.lives[*v as usize].spans.push((before, before));
                self.change(before, before, self.lives[*v as usize].bytes as i64);
            }
        }
        let life = &mut self.lives[node as usize];
        let bytes = life.bytes as i64;
        let Some(i) = life.spans.iter().position(|(s, e)| *s < at && at < *e) else { return 0.0 };
        let (start, end) = life.spans[i];
        let last = life.uses.range(start..at).next_back().copied().unwrap_or(start);
        life.spans[i] = (start, last);
        life.spans.push((before, end));
        if last + 1 < before {
            self.change(last + 1, before - 1, -bytes);
        }
        chain.iter().map(|v| self.seconds[*v as usize]).sum()
    }

    /// Keeps a node's results until another node.
    fn keep(&mut self, root: usize, until: u32) {
        let life = &mut self.lives[root];
        life.uses.insert(until);
        let bytes = life.bytes as i64;
        let Some(last) = life.spans.iter_mut().filter(|(s, _)| *s < until).max_by_key(|(s, _)| *s) else { return };
        let from = last.1;
        last.1 = last.1.max(until);
        if from < until {
            self.change(from + 1, until, bytes);
        }
    }

    fn change(&mut self, from: u32, to: u32, bytes: i64) {
        let end = (to as usize + 1).min(self.load.len());
        if let Some(part) = self.load.get_mut(from as usize..end) {
            part.iter_mut().for_each(|l| *l += bytes);
        }
    }
}

/// Bytes of a node's results on the die with the largest share, and the seconds that computing them again takes there, with what has to be
/// brought for it.
fn share(sharded: &ShardedGraph, target: &Target, v: ValueId, axes: &Axes) -> (u64, f64, u64) {
    let graph = &sharded.step.graph;
    let strategy = &sharded.strategies[v.index()];
    let split = |i: usize| strategy.get(i).map_or(AxisSet::NONE, |s| s.axes());
    let range = |(i, extent): (usize, usize)| 0..extent.div_ceil(sharded.mesh.parts(split(i))).min(extent);
    let ranges: Vec<_> = axes.loops.iter().map(|l| l.extent).enumerate().map(range).collect();
    let size = |dims: &[std::ops::Range<usize>], element: usize| (element_count(&box_dims(dims)) * element) as u64;
    let parts = graph.ty(v).components().iter().enumerate().map(|(c, t)| size(&axes.result_box(c, &t.shape, &ranges), t.dtype.size()));
    let bytes: u64 = parts.sum();
    let mut seconds = work(target, graph, v, axes, &ranges);
    let dies = sharded.mesh.count() as u64;
    let mut moved = 0u64;
    for (k, o) in graph.node(v).operands.iter().enumerate() {
        let ty = graph.tensor_ty(*o);
        let need = size(&axes.operand_box(k, &ty.shape, &ranges), ty.dtype.size());
        moved += need.saturating_sub(2 * ty.bytes() as u64 / dies.max(1));
    }
    let reducing = axes.loops.iter().enumerate().filter(|(_, l)| matches!(l.kind, LoopKind::Reduce(_)));
    let pieces: usize = reducing.map(|(i, _)| sharded.mesh.parts(split(i))).product();
    moved += if pieces > 1 { bytes } else { 0 };
    if moved > 0 {
        seconds += moved as f64 / target.link_bandwidth() + 2.0 * target.launch_overhead() * dies.min(16) as f64;
    }
    // Of a partial result only the piece is kept that the die combines.
    (bytes / pieces.max(1) as u64, seconds, moved)
}
