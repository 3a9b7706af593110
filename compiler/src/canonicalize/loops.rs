//! Loops in canonical form: no slot that is dead, invariant or a counter, a `repeat` where the trip count is known, and no loop at all where it
//! is so small that its iterations are better written one after another.
//!
//! The other rules see one node at a time and look through the borders of loops; what needs a whole loop is here. A counter becomes an
//! expression of `loop_index`, so that equal counters are one value and comparisons of them with constants are known.

mod count;
mod live;
mod rebuild;

pub(crate) use live::{end_parts, live_slots, result_of};

use super::CanonicalizeStats;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use rustc_hash::{FxHashMap, FxHashSet};

/// Iterations of a loop that is unrolled, at most.
const MAX_TRIPS: usize = 8;
/// Nodes of all iterations of a loop that is unrolled, at most. A loop of one iteration has no limit.
const MAX_NODES: usize = 512;

/// What becomes of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    /// It stays.
    Keep,
    /// Nobody needs it.
    Dead,
    /// It always holds what it held at first.
    Invariant,
    /// An integer that grows by this in each iteration.
    Counter(i128),
}

/// What becomes of a loop.
struct Plan {
    trips: Option<usize>,
    unroll: bool,
    slots: Vec<Slot>,
    /// Slots whose last value is computed outside of the loop.
    settled: Vec<bool>,
}

/// The most that is unrolled.
#[derive(Clone, Copy)]
pub(super) struct Unrolling {
    trips: usize,
    nodes: usize,
}

impl Unrolling {
    /// Short loops.
    pub(super) const SHORT: Unrolling = Unrolling { trips: MAX_TRIPS, nodes: MAX_NODES };
    /// Nothing that runs more than once.
    pub(super) const NONE: Unrolling = Unrolling { trips: 1, nodes: MAX_NODES };
}

/// The graph with simpler loops; `None` when they are canonical.
pub(super) fn simplify(graph: &Graph, stats: &mut CanonicalizeStats, limit: Unrolling) -> Option<Graph> {
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_) | Op::While(_))) {
        return None;
    }
    let nest = LoopNest::of(graph).ok()?;
    let live = live_slots(graph, graph.outputs.iter().map(|o| o.value));
    let taken: FxHashSet<(ValueId, usize)> = graph.values().filter(|v| live[v.index()]).filter_map(|v| result_of(graph, v)).collect();
    let bodies = bodies(&nest);
    let mut changes = 0;
    let plans: Vec<Plan> = (0..nest.loops.len())
        .map(|l| {
            let (plan, n) = plan(graph, &nest, l, &live, &taken, (bodies[l], limit));
            changes += if live[nest.loops[l].end.index()] { n } else { 0 };
            plan
        })
        .collect();
    let ids: FxHashMap<usize, usize> = nest.loops.iter().enumerate().map(|(l, this)| (this.id, l)).collect();
    let trips = |id: usize| ids.get(&id).and_then(|l| plans[*l].trips);
    let members = graph.values().filter(|v| live[v.index()] && nest.innermost(*v).is_some());
    let known: FxHashMap<ValueId, bool> = members.filter_map(|v| Some((v, count::known_compare(graph, v, &trips)?))).collect();
    changes += known.len();
    stats.simplified += changes;
    (changes > 0).then(|| rebuild::Rebuild::run(graph, &nest, &plans, &live, &known))
}

/// The nodes of an iteration of each loop, with those of the loops inside.
fn bodies(nest: &LoopNest) -> Vec<usize> {
    let mut sizes = vec![0; nest.loops.len()];
    for (l, this) in nest.loops.iter().enumerate() {
        sizes[l] += this.members.len();
        if let Some(p) = this.parent {
            sizes[p] += sizes[l];
        }
    }
    sizes
}

/// What to do with a loop, and how many changes that is.
fn plan(
    g: &Graph,
    nest: &LoopNest,
    l: usize,
    live: &[bool],
    taken: &FxHashSet<(ValueId, usize)>,
    (body, limit): (usize, Unrolling),
) -> (Plan, usize) {
    let this = &nest.loops[l];
    let trips = count::trips(g, this);
    let unroll = trips.is_some_and(|n| n <= 1 || (n <= limit.trips && n.saturating_mul(body) <= limit.nodes));
    let slot = |k: usize| {
        let (carry, next) = (this.carries[k], this.next[k]);
        let scalar = g.shape(carry).is_empty();
        match trips.filter(|_| scalar).and_then(|_| count::offset_from(g, next, carry)) {
            _ if !live[carry.index()] => Slot::Dead,
            _ if next == carry || next == g.node(carry).operands[0] => Slot::Invariant,
            Some(step) => Slot::Counter(step),
            None => Slot::Keep,
        }
    };
    let slots: Vec<Slot> = (0..this.carries.len()).map(slot).collect();
    let outside = |k: usize| trips.is_some() && slots[k] == Slot::Keep && !nest.is_inside(nest.innermost(this.next[k]), l);
    let settled: Vec<bool> = (0..slots.len()).map(|k| outside(k) && taken.contains(&(this.end, k))).collect();
    let changes = usize::from(unroll)
        + usize::from(trips.is_some() && this.trips.is_none())
        + slots.iter().filter(|s| **s != Slot::Keep).count()
        + settled.iter().filter(|s| **s).count();
    (Plan { trips, unroll, slots, settled }, changes)
}

/// The graph with all loops of known trip count unrolled, whatever their size.
#[cfg(test)]
pub(crate) fn unrolled(graph: &Graph) -> Graph {
    let mut current = super::canonicalize(graph).0;
    while let Some(next) = simplify(&current, &mut CanonicalizeStats::default(), Unrolling { trips: usize::MAX, nodes: usize::MAX }) {
        current = super::canonicalize(&next).0;
    }
    current
}

#[cfg(test)]
mod tests;
