//! Which row-wise ops are worth being in [parts](super::apart), so that their rows are cut over dies: the keys of an attention when there are
//! few heads and queries for the dies, the words of a large vocabulary.
//!
//! Parts cost more than the op (what they share is computed again, and their reductions are combined over dies), so they are planned only where
//! whole rows leave something to gain, kept only where the plan cuts their rows, and only when the step then takes less time.

use super::apart::{self, Apart, separable};
use super::pins::{Pin, Pinning};
use super::{PartitionError, Price, Space};
use crate::sharded::{ShardedGraph, axes_of};
use girih_ir::axes::LoopKind;
use girih_ir::graph::ValueId;
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use rustc_hash::FxHashSet;
use std::collections::BTreeSet;

/// Shorter rows stay whole.
const LONG: usize = 1024;
/// Parts are planned when so many percent of the step could be saved at best. Most of that travels while others compute, and planning once
/// more takes as long as planning.
const GAIN: u64 = 15;
/// They are kept when the step takes one part in so many less.
const BETTER: u64 = 100;

/// A step with row-wise ops in parts.
#[derive(Clone, Debug)]
pub struct InParts {
    /// The step.
    pub step: TrainStep,
    /// How many ops are in parts.
    pub count: usize,
    pins: Vec<Option<Pin>>,
    map: Vec<Option<ValueId>>,
    reductions: Vec<Vec<ValueId>>,
}

impl InParts {
    /// The step with these ops in parts; pins of an op hold for its parts.
    fn new(step: &TrainStep, ops: &[ValueId], pins: &[Option<Pin>]) -> Self {
        let set: FxHashSet<ValueId> = ops.iter().copied().collect();
        let Apart { graph, map, parts } = match apart::apart(&step.graph, &set) {
            Ok(apart) => apart,
            Err(e) => unreachable!("an op in parts does not type: {e}"),
        };
        let mut moved = vec![None; graph.nodes().len()];
        for (v, pin) in step.graph.values().zip(pins).filter(|(_, p)| p.is_some()) {
            match parts.get(&v) {
                Some(p) => p.reductions.iter().chain(&p.points).for_each(|n| moved[n.index()] = *pin),
                None => map[v.index()].into_iter().for_each(|n| moved[n.index()] = *pin),
            }
        }
        let reductions = ops.iter().map(|v| parts.get(v).map(|p| p.reductions.clone()).unwrap_or_default()).collect();
        InParts { step: TrainStep { graph, ..step.clone() }, count: ops.len(), pins: moved, map, reductions }
    }

    /// What can be chosen for it.
    pub fn space(&self, target: &Target, dies: Option<usize>) -> Result<Space<'_>, PartitionError> {
        Space::pinned(&self.step, target, dies, &self.pins)
    }

    /// What stands for a live value of the step before.
    pub fn value(&self, before: ValueId) -> Option<ValueId> {
        self.map.get(before.index()).copied().flatten()
    }

    /// For each op: whether a plan cuts its rows.
    fn cut(&self, plan: &ShardedGraph) -> Vec<bool> {
        let cuts = |v: &ValueId| {
            let axes = axes_of(&plan.step.graph, *v);
            let mut loops = axes.loops.iter().zip(&plan.strategies[v.index()]);
            loops.any(|(l, s)| matches!(l.kind, LoopKind::Reduce(_)) && plan.mesh.parts(s.axes()) > 1)
        };
        self.reductions.iter().map(|r| r.iter().any(cuts)).collect()
    }
}

impl Space<'_> {
    /// The step with those row-wise ops in parts whose rows are better cut, or are pinned so; `None` when there are none.
    pub fn in_parts(&self, target: &Target, dies: Option<usize>, pinning: &Pinning) -> Result<Option<InParts>, PartitionError> {
        if matches!(pinning, Pinning::Strategy(_)) || self.meshes.iter().all(|m| m.mesh.count() == 1) {
            return Ok(None);
        }
        let pins = pinning.of(self.step)?;
        let graph = &self.step.graph;
        let live = graph.live();
        let ops: Vec<ValueId> = graph.values().filter(|v| live[v.index()] && separable(&graph.node(*v).op).is_some()).collect();
        let rows = |v: &ValueId| separable(&graph.node(*v).op).map_or(0, |f| f.rows());
        let forced = |v: &ValueId| pins[v.index()].is_some_and(|p| [p.y, p.x].into_iter().flatten().any(|l| l >= rows(v)));
        let pinned: Vec<ValueId> = ops.iter().copied().filter(forced).collect();
        if !pinned.is_empty() {
            return Ok(Some(InParts::new(self.step, &pinned, &pins)));
        }
        let long = |v: &ValueId| separable(&graph.node(*v).op).is_some_and(|f| f.loops[f.rows()..].iter().product::<usize>() >= LONG);
        let ops: Vec<ValueId> = ops.into_iter().filter(|v| long(v) && pins[v.index()].is_none()).collect();
        let whole = self.solve(&Price::default());
        let cost = whole.sharded.cost;
        if ops.is_empty() || self.could_save(&ops, whole.mesh) < cost / 100 * GAIN {
            return Ok(None);
        }
        let mut found = InParts::new(self.step, &ops, &pins);
        let mut plan = found.space(target, dies)?.solve(&Price::default()).sharded;
        let kept: Vec<ValueId> = ops.iter().zip(found.cut(&plan)).filter(|(_, cut)| *cut).map(|(v, _)| *v).collect();
        // A few among many gain less than the estimate may be wrong by, and planning once more takes time.
        if kept.is_empty() || kept.len() * 2 < ops.len() {
            return Ok(None);
        }
        if kept.len() < ops.len() {
            found = InParts::new(self.step, &kept, &pins);
            plan = found.space(target, dies)?.solve(&Price::default()).sharded;
        }
        Ok(Some(found).filter(|_| plan.cost < cost - cost / BETTER))
    }

    /// What the step could save at best, in picoseconds, if these ops and their neighbors moved nothing and kept all dies of the mesh busy.
    fn could_save(&self, ops: &[ValueId], mesh: usize) -> u64 {
        let candidate = &self.meshes[mesh];
        let (terms, Some(chosen)) = (&candidate.terms, &candidate.free) else { return 0 };
        let (list, choice) = (&terms.groups.list, &chosen.choice);
        let own: BTreeSet<usize> = ops.iter().filter_map(|v| terms.groups.place[v.index()]).map(|(g, _)| g).collect();
        let mut near = own.clone();
        for e in terms.edges.iter().filter(|e| own.contains(&e.producer) || own.contains(&e.consumer)) {
            near.extend([e.producer, e.consumer]);
        }
        let touching = terms.edges.iter().filter(|e| near.contains(&e.producer) || near.contains(&e.consumer));
        let moves = touching.map(|e| e.time[choice[e.producer] * list[e.consumer].options.len() + choice[e.consumer]]);
        let waits = near.iter().map(|g| {
            let (count, at) = (list[*g].members.len(), choice[*g]);
            let combining = terms.members[*g][at * count..][..count].iter().map(|s| s.combining).fold(0, u64::saturating_add);
            let busiest = terms.groups.largest_share(*g, &list[*g].options[at]) as f64 * candidate.mesh.count() as f64;
            let busy = list[*g].extents.iter().map(|e| *e as f64).product::<f64>() / busiest.max(1.0);
            let work = terms.work[*g][at].saturating_sub(combining);
            combining.saturating_add((work as f64 * (1.0 - busy).max(0.0)) as u64)
        });
        moves.chain(waits).fold(0, u64::saturating_add)
    }
}
