//! Streaming: which state stays in host memory between its uses.
//!
//! Every use of streamed state costs a trip through the edge of the mesh, and between its uses it takes no SRAM. What frees most bytes for what
//! it moves goes first: the moments of an optimizer are used once a step, weights at least three times. The choice is made on the profile of a
//! plan that did not fit, before anything is planned again.

use crate::place::{STREAM_WINDOW, participants};
use crate::sharded::{ShardedGraph, axes_of, splats};
use girih_ir::axes::box_dims;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::target::Target;
use girih_ir::types::element_count;

/// A state pair that could be streamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Streamable {
    /// The pair.
    pub pair: u32,
    /// Bytes that it takes on the die with the largest part.
    pub bytes: u64,
    /// Bytes that go through the edge of the mesh in a step.
    pub moved: u64,
    /// Nodes between which a loaded copy is on the dies.
    pub held: Vec<(u32, u32)>,
}

impl Streamable {
    /// Bytes that move for each byte that is freed, times a thousand.
    fn price(&self) -> u64 {
        self.moved.saturating_mul(1000) / self.bytes.max(1)
    }
}

/// What could be streamed, cheapest first.
///
/// A pair whose new value other pairs have as well stays in SRAM. What a loop reads is loaded in every
/// iteration, if all dies run that loop, so that those which load it do.
pub fn streamable(sharded: &ShardedGraph) -> Vec<Streamable> {
    let step = &sharded.step;
    let graph = &step.graph;
    let nest = LoopNest::of(graph).unwrap_or_default();
    let users = users(graph);
    let everywhere: Vec<bool> = (0..nest.loops.len()).map(|l| participants(sharded, &nest, l).len() == sharded.mesh.count()).collect();
    let alone = |v: &u32| nest.innermost(ValueId(*v)).is_some_and(|l| !everywhere[l]);
    let window = sharded.reuse.unwrap_or(STREAM_WINDOW);
    let mut found = Vec::new();
    for (p, pair) in step.state.iter().enumerate() {
        let shared = pair.output.is_some() && step.state.iter().filter(|s| s.output == pair.output).count() > 1;
        let input = graph.inputs[pair.input].value;
        let mut uses: Vec<u32> = users[input.index()].clone();
        let output = pair.output.map(|o| graph.outputs[o].value).filter(|v| *v != input);
        let ty = step.state_type(pair);
        if shared || ty.bytes() == 0 || uses.iter().any(alone) {
            continue;
        }
        let total = ty.bytes() as u64;
        let bytes = output.map_or(total, |v| largest(sharded, v).unwrap_or(total));
        // Made again, a node reads its operands once more.
        uses.extend(sharded.remat.iter().filter(|(v, _)| users[input.index()].contains(&v.0)).map(|(_, before)| before.0));
        uses.sort_unstable();
        let mut held: Vec<(u32, u32)> = Vec::new();
        let mut moved = if output.is_some() { total } else { 0 };
        let around = |v: u32| nest.innermost(ValueId(v));
        for at in uses {
            match held.last_mut() {
                Some(last) if at - last.1 <= window && around(at) == around(last.1) => last.1 = at,
                _ => {
                    moved = moved.saturating_add(total.saturating_mul(nest.runs(ValueId(at), 1) as u64));
                    held.push((at, at));
                }
            }
        }
        held.iter_mut().for_each(|h| h.0 = h.0.saturating_sub(STREAM_WINDOW));
        found.push(Streamable { pair: p as u32, bytes, moved, held });
    }
    found.sort_by_key(|s| (s.price(), std::cmp::Reverse(s.bytes), s.pair));
    found
}

/// The nodes that read each value, also under other names, ascending.
fn users(graph: &Graph) -> Vec<Vec<u32>> {
    let live = graph.live();
    let mut root: Vec<usize> = (0..graph.nodes().len()).collect();
    let mut users = vec![Vec::new(); root.len()];
    for v in graph.values().filter(|v| live[v.index()]) {
        let node = graph.node(v);
        if matches!(node.op, Op::Reshape(_) | Op::Shard(_)) {
            root[v.index()] = root[node.operands[0].index()];
        }
        for o in &node.operands {
            users[root[o.index()]].push(v.0);
        }
    }
    users
}

/// Bytes of a value on the die with the largest part of it; `None` when one die has all of it.
fn largest(sharded: &ShardedGraph, v: ValueId) -> Option<u64> {
    let graph = &sharded.step.graph;
    let node = graph.node(v);
    let (maker, component) = match &node.op {
        Op::Proj(p) => (node.operands[0], p.index),
        Op::Input(_) | Op::Constant(_) | Op::Iota(_) => return None,
        _ if splats(graph)[v.index()] => return None,
        _ => (v, 0),
    };
    let axes = axes_of(graph, maker);
    let size = graph.ty(maker).components().get(component)?.dtype.size();
    let mut most = None;
    for die in 0..sharded.mesh.count() {
        let Some(shard) = sharded.shard(maker, &axes, die) else { continue };
        if shard.partial {
            return None;
        }
        most = most.max(shard.results.get(component).map(|b| (element_count(&box_dims(b)) * size) as u64));
    }
    most
}

/// The profile when the first `count` of the list are streamed: for each node, the bytes that are still live.
pub fn relieved(profile: &[u64], list: &[Streamable], count: usize) -> Vec<u64> {
    let mut change = vec![0i64; profile.len() + 1];
    for s in &list[..count.min(list.len())] {
        change[0] -= s.bytes as i64;
        for (from, to) in &s.held {
            change[(*from as usize).min(profile.len())] += s.bytes as i64;
            change[(*to as usize + 1).min(profile.len())] -= s.bytes as i64;
        }
    }
    let mut sum = 0;
    let add = |(p, c): (&u64, &i64)| {
        sum += c;
        p.saturating_add_signed(sum)
    };
    profile.iter().zip(&change).map(add).collect()
}

/// Picoseconds that the streamed state spends at the edge of the mesh.
pub fn edge_time(sharded: &ShardedGraph, target: &Target) -> u64 {
    let moved: u64 = streamable(sharded).iter().filter(|s| sharded.streamed.contains(&s.pair)).map(|s| s.moved).sum();
    (moved as f64 / target.host_bandwidth().max(1.0) * 1e12) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{PartitionOptions, partition};
    use girih_ir::step::parse_step;

    const STEP: &str = "step {
  param \"w\" input 1 -> output 1
  state \"m\" input 2 -> output 2
  param \"c\" input 3 -> unchanged
  loss output 0
  seed 0
}
graph @s(%0: f32[64,64] input \"x\", %1: f32[64,64] param \"w\", %2: f32[64,64] state \"m\", %3: f32[64] param \"c\") {
  %4 = dot_general %0, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]} : f32[64,64]
  %5 = broadcast %3 {shape = [64, 64], dims = [1]} : f32[64,64]
  %6 = mul %4, %5 : f32[64,64]
  %7 = reduce %6 {monoid = sum, dims = [0, 1]} : f32[]
  %8 = dot_general %0, %5 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]} : f32[64,64]
  %9 = add %2, %8 : f32[64,64]
  %10 = sub %1, %9 : f32[64,64]
  return %7 \"loss\", %10 \"w\", %9 \"m\"
}";

    #[test]
    fn what_is_used_least_goes_first() {
        let target = Target::builtin("dojo-tile").unwrap();
        let options = PartitionOptions { dies: Some(1), ..PartitionOptions::default() };
        let (mut sharded, _, _) = partition(&parse_step(STEP).unwrap(), &target, &options).unwrap();
        sharded.reuse = Some(2);
        let list = streamable(&sharded);
        assert_eq!(list.iter().map(|s| s.pair).collect::<Vec<_>>(), [2, 1, 0]);
        let size = 64 * 64 * 4;
        assert_eq!((list[0].bytes, list[0].moved), (64 * 4, 64 * 4), "it is loaded once and never changes");
        assert_eq!((list[1].bytes, list[1].moved), (size, 2 * size), "it is loaded once and stored");
        assert_eq!((list[2].bytes, list[2].moved), (size, 3 * size), "it is loaded for the product and for the update");
        let after = relieved(&[size * 3; 11], &list, 2);
        assert_eq!(after[10], size * 3 - size - 64 * 4);
        assert_eq!(after[9], size * 3 - 64 * 4, "the moments are there for the update");
        sharded.streamed = vec![1];
        assert_eq!(edge_time(&sharded, &target), (2.0 * size as f64 / target.host_bandwidth() * 1e12) as u64);
    }
}
