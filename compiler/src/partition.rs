//! partition: which loops of which node are split over which axes of which logical mesh.
//!
//! Elementwise chains share one decision (a *group*). The cost of a step is a sum of one term a group (its work on the busiest
//! die, and λ times its resident bytes) and one term an edge (moving a value from how it is made to how it is read), so variable
//! elimination over the groups finds the exact minimum of that sum. When tables would grow beyond a limit, the busiest neighbor is fixed
//! first, and the report says so.

mod apart;
mod cost;
mod eliminate;
mod explain;
mod groups;
mod pins;
mod remat;
mod rows;
mod strategies;
mod stream;

use crate::sharded::{MeshShape, ShardedGraph, Stages, Strategy, axes_of};
use cost::{CostModel, Share};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;
use girih_ir::target::{LogicalMesh, Target, error::TargetError};
use groups::{Edge, Groups};
use rayon::prelude::*;
use std::collections::BTreeMap;

pub use eliminate::{Elimination, Factor, solve};
pub use explain::{Alternative, Explanation, explain};
pub use pins::{Pin, PinError, Pinning, Wish};
pub use remat::{Remat, rematerialize};
pub use rows::InParts;
pub use strategies::Baseline;
pub use stream::{Streamable, edge_time, relieved, streamable};

/// Entries of the tables from which the gap is bounded: fewer take less time and say less.
const BOUND_TABLES: usize = 1 << 16;

/// Every node has the whole mesh.
static NO_STAGES: Stages = Stages { regions: Vec::new(), of: Vec::new() };

/// Half as many dies, or fewer, may cost one part in so many more: idle dies take no power, and somebody else can use them.
const SPARING: u64 = 25;

/// What the partitioner is asked to do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PartitionOptions {
    /// Spread over exactly this many dies; `None` leaves the choice to the planner.
    pub dies: Option<usize>,
    /// What SRAM costs.
    pub price: Price,
    /// Splits that are not up for choice.
    pub pins: Pinning,
}

/// Why a step cannot be partitioned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The target cannot give the dies that were asked for.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A pin means nothing.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// What SRAM costs, where memory is short.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Price {
    /// Picoseconds that a live byte costs.
    pub lambda: f64,
    /// For each node, whether memory is short there; empty: everywhere.
    pub pressure: Vec<bool>,
}

/// How the choice was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionReport {
    /// Decision groups.
    pub groups: usize,
    /// Pairwise terms.
    pub edges: usize,
    /// Largest number of neighbors at an elimination.
    pub width: usize,
    /// Groups that were fixed greedily to keep tables small; 0 means the optimum of the cost model is exact.
    pub fixed: usize,
    /// Every logical mesh that was tried: rows, columns, estimated picoseconds.
    pub tried: Vec<(usize, usize, u64)>,
}

/// Chooses a logical mesh and a strategy for every node.
pub fn partition(
    step: &TrainStep,
    target: &Target,
    options: &PartitionOptions,
) -> Result<(ShardedGraph, LogicalMesh, PartitionReport), PartitionError> {
    let whole = Space::new(step, target, options.dies, &options.pins)?;
    let parts = whole.in_parts(target, options.dies, &options.pins)?;
    let space = parts.as_ref().map_or(Ok(whole), |p| p.space(target, options.dies))?;
    let solved = space.solve(&options.price);
    Ok((solved.sharded, space.meshes[solved.mesh].mesh.clone(), solved.report))
}

/// Everything that can be chosen for a step, with what it takes and holds: made once, solved for every price of SRAM.
pub struct Space<'a> {
    step: &'a TrainStep,
    /// The largest first; the others are kept when their work alone does not rule them out.
    meshes: Vec<Candidate<'a>>,
}

/// A logical mesh with the terms of the cost on it.
struct Candidate<'a> {
    mesh: LogicalMesh,
    terms: Terms<'a>,
    /// The best choice while memory costs nothing.
    free: Option<Chosen>,
}

/// The best choice on a mesh.
#[derive(Clone)]
struct Chosen {
    sharded: ShardedGraph,
    report: PartitionReport,
    /// An option a group.
    choice: Vec<usize>,
    /// Picoseconds with the price of memory.
    priced: u64,
}

/// The best choice at a price.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The step with a strategy a node; its cost is the time, without the price of memory.
    pub sharded: ShardedGraph,
    /// Which mesh of the space.
    pub mesh: usize,
    /// How it was found.
    pub report: PartitionReport,
    /// What its nodes and transfers take.
    pub times: Times,
}

/// What the nodes of a split step take on the busiest die, and what must travel between them, in picoseconds.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// One a node.
    pub work: Vec<u64>,
    /// For each node, until its partial results are combined.
    combining: Vec<u64>,
    delays: BTreeMap<(ValueId, ValueId), u64>,
}

impl Times {
    fn new(nodes: usize) -> Self {
        Times { work: vec![0; nodes], combining: vec![0; nodes], delays: BTreeMap::new() }
    }

    /// How long what `from` made travels until `to` can read it.
    pub fn delay(&self, from: ValueId, to: ValueId) -> u64 {
        self.delays.get(&(from, to)).copied().unwrap_or(0).saturating_add(self.combining[from.index()])
    }
}

impl std::fmt::Debug for Space<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("meshes", &self.meshes.len()).finish_non_exhaustive()
    }
}

impl<'a> Space<'a> {
    /// The space of a step on a target, over exactly `dies` dies if that is given.
    pub fn new(step: &'a TrainStep, target: &Target, dies: Option<usize>, pins: &Pinning) -> Result<Self, PartitionError> {
        Self::pinned(step, target, dies, &pins.of(step)?)
    }

    /// The same with the pin of each node.
    fn pinned(step: &'a TrainStep, target: &Target, dies: Option<usize>, pins: &[Option<Pin>]) -> Result<Self, PartitionError> {
        let mut meshes = candidates(target, dies)?;
        if meshes.is_empty() {
            meshes.push(target.logical_mesh(1, 1)?);
        }
        let mut space = Space { step, meshes: Vec::new() };
        let mut best = u64::MAX;
        for mesh in meshes.into_iter().rev() {
            let shape = MeshShape { rows: mesh.rows(), cols: mesh.cols() };
            let limit = best.saturating_add(best / SPARING);
            let model = CostModel::new(step, target, dies.is_some());
            let Some(terms) = Terms::of(step, shape, &NO_STAGES, pins, &model, limit) else { continue };
            let mut candidate = Candidate { mesh, terms, free: None };
            let free = candidate.solve(step, &Price::default());
            best = best.min(free.sharded.cost);
            candidate.free = Some(free);
            space.meshes.push(candidate);
        }
        Ok(space)
    }

    /// The space of a step whose nodes have the parts of a mesh that `stages` says.
    pub fn staged(
        step: &'a TrainStep,
        target: &Target,
        mesh: &LogicalMesh,
        stages: &'a Stages,
        pins: &Pinning,
    ) -> Result<Self, PartitionError> {
        let shape = MeshShape { rows: mesh.rows(), cols: mesh.cols() };
        let model = CostModel::new(step, target, false);
        let terms = Terms::of(step, shape, stages, &pins.of(step)?, &model, u64::MAX).expect("no limit is above the highest cost");
        Ok(Space { step, meshes: vec![Candidate { mesh: mesh.clone(), terms, free: None }] })
    }

    /// The step.
    pub fn step(&self) -> &TrainStep {
        self.step
    }

    /// A logical mesh of the space, as [`Solved::mesh`] numbers them.
    pub fn mesh(&self, mesh: usize) -> &LogicalMesh {
        &self.meshes[mesh].mesh
    }

    /// How far the cost of a choice on a mesh, made while memory cost nothing, may be above the least one there, as a part of that.
    pub fn gap(&self, mesh: usize, cost: u64) -> f64 {
        let terms = &self.meshes[mesh].terms;
        let (factors, constant) = terms.factors(&Price::default());
        let least = eliminate::bound(&terms.sizes(), &factors, BOUND_TABLES).saturating_add(constant);
        (cost as f64 / least.max(1) as f64 - 1.0).max(0.0)
    }

    /// The best choice at a price.
    pub fn solve(&self, price: &Price) -> Solved {
        let mut tried = Vec::new();
        let mut best: Option<(usize, Chosen)> = None;
        // The lowest cost so far, and the dies that it takes.
        let mut least: Option<(u64, usize)> = None;
        for (mesh, candidate) in self.meshes.iter().enumerate() {
            let free = candidate.free.as_ref().filter(|_| price.lambda <= 0.0);
            let chosen = free.cloned().unwrap_or_else(|| candidate.solve(self.step, price));
            tried.push((chosen.sharded.mesh.rows, chosen.sharded.mesh.cols, chosen.sharded.cost));
            let (dies, priced) = (chosen.sharded.mesh.count(), chosen.priced);
            let lowest = least.is_none_or(|(cost, _)| priced <= cost);
            let sparing = least.is_some_and(|(cost, most)| dies * 2 <= most && priced <= cost.saturating_add(cost / SPARING));
            // Among the sparing ones, the fewest dies, and of those the cheapest.
            let fewer = best.as_ref().is_none_or(|(_, b)| dies < b.sharded.mesh.count() || priced <= b.priced);
            if lowest {
                least = Some((priced, dies));
            }
            if lowest || sparing && fewer {
                best = Some((mesh, chosen));
            }
        }
        let (mesh, chosen) = best.expect("the first mesh is kept without a limit");
        tried.reverse();
        let times = self.meshes[mesh].terms.times(&chosen.choice);
        Solved { sharded: chosen.sharded, mesh, report: PartitionReport { tried, ..chosen.report }, times }
    }
}

/// The logical mesh of all dies, or of so many.
pub(crate) fn largest_mesh(target: &Target, dies: Option<usize>) -> Result<LogicalMesh, TargetError> {
    let meshes = candidates(target, dies)?;
    let found = if dies.is_some() { meshes.into_iter().next() } else { meshes.into_iter().last() };
    found.map_or_else(|| target.logical_mesh(1, 1), Ok)
}

/// Seconds of a whole node on one die.
pub(crate) fn work_of(target: &Target, graph: &Graph, node: ValueId) -> f64 {
    if matches!(graph.node(node).op, Op::Proj(_)) || graph.node(node).operands.is_empty() {
        return 0.0;
    }
    let axes = axes_of(graph, node);
    cost::work(target, graph, node, &axes, &axes.full_ranges())
}

/// Logical meshes worth trying: all of the wanted size, or one die, lines and rectangles up to everything that lives.
fn candidates(target: &Target, dies: Option<usize>) -> Result<Vec<LogicalMesh>, TargetError> {
    let mut meshes = target.logical_meshes(dies)?;
    // Costs differ little between neighboring sizes; a spread of sizes is enough, the smallest and the largest among them.
    meshes.sort_by_key(|m| (m.count(), m.rows().abs_diff(m.cols()), m.rows()));
    meshes.dedup_by_key(|m| (m.rows(), m.cols()));
    if dies.is_none() {
        let all = meshes.last().map_or(1, LogicalMesh::count);
        let mut kept: Vec<LogicalMesh> = Vec::new();
        for m in meshes {
            let (n, last) = (m.count(), kept.last().map_or(0, LogicalMesh::count));
            if n == 1 || n == all && last < all || n * 2 >= last * 3 && last > 0 {
                kept.push(m);
            }
        }
        return Ok(kept);
    }
    meshes.truncate(4);
    Ok(meshes)
}

/// The terms of the cost on a mesh.
struct Terms<'a> {
    groups: Groups<'a>,
    /// What each option of each group takes, in picoseconds.
    work: Vec<Vec<u64>>,
    /// What each member of each group takes, and the bytes of its results, option by option.
    members: Vec<Vec<Share>>,
    edges: Vec<EdgeTerm>,
}

/// What an edge costs for every pair of choices of its ends, row-major.
struct EdgeTerm {
    producer: usize,
    consumer: usize,
    /// The node that makes the value, and the one that reads it.
    from: ValueId,
    to: ValueId,
    time: Vec<u64>,
    bytes: Vec<u64>,
}

impl<'a> Terms<'a> {
    /// The terms; `None` when the work alone costs more than `limit`.
    fn of(
        step: &'a TrainStep,
        mesh: MeshShape,
        stages: &'a Stages,
        pins: &[Option<Pin>],
        model: &CostModel<'_>,
        limit: u64,
    ) -> Option<Self> {
        let mut groups = Groups::of(step, mesh, stages, pins, model.spread());
        let rank_of = |g: usize| -> Vec<u64> { groups.list[g].options.iter().map(|o| model.rank(&groups, g, o)).collect() };
        let ranks: Vec<Vec<u64>> = (0..groups.list.len()).into_par_iter().map(rank_of).collect();
        ranks.iter().enumerate().for_each(|(g, ranks)| groups.keep_best(g, ranks, model.options()));
        let of_group = |g: usize| {
            let (mut work, mut members) = (Vec::new(), Vec::new());
            for option in &groups.list[g].options {
                let shares = model.group(&groups, g, option);
                work.push(shares.iter().map(Share::total).fold(0, u64::saturating_add));
                members.extend(shares);
            }
            (work, members)
        };
        let (work, members): (Vec<Vec<u64>>, Vec<Vec<Share>>) = (0..groups.list.len()).into_par_iter().map(of_group).unzip();
        let least = work.iter().map(|w| w.iter().min().copied().unwrap_or(0)).fold(0u64, u64::saturating_add);
        if least > limit {
            return None;
        }
        let between: Vec<Edge> = groups.edges().into_iter().filter(|e| e.producer != e.consumer).collect();
        let edges = between.par_iter().map(|e| EdgeTerm::of(model, &groups, e)).collect();
        Some(Terms { groups, work, members, edges })
    }

    fn sizes(&self) -> Vec<usize> {
        self.groups.list.iter().map(|g| g.options.len()).collect()
    }

    /// The terms at a price: one a group, then one an edge whose cost depends on a choice; and what every choice costs.
    fn factors(&self, price: &Price) -> (Vec<Factor>, u64) {
        let graph = &self.groups.step.graph;
        let short: Vec<bool> =
            (0..graph.nodes().len()).map(|n| price.pressure.get(n).copied().unwrap_or(price.pressure.is_empty())).collect();
        let held = if price.lambda > 0.0 { cost::held(graph, &short) } else { Vec::new() };
        let paid = |bytes: u64| (price.lambda * bytes as f64) as u64;
        let mut factors: Vec<Factor> = Vec::with_capacity(self.work.len() + self.edges.len());
        for (g, group) in self.groups.list.iter().enumerate() {
            let mut table = self.work[g].clone();
            if price.lambda > 0.0 {
                for (cost, shares) in table.iter_mut().zip(self.members[g].chunks_exact(group.members.len())) {
                    *cost += paid(group.members.iter().zip(shares).filter(|(m, _)| held[m.node.index()]).map(|(_, s)| s.bytes).sum());
                }
            }
            factors.push(Factor { vars: vec![g], table });
        }
        let mut constant = 0;
        for e in &self.edges {
            let priced = price.lambda > 0.0 && short[e.to.index()];
            let table: Vec<u64> = if priced { e.time.iter().zip(&e.bytes).map(|(t, b)| t + paid(*b)).collect() } else { e.time.clone() };
            if table.iter().all(|c| *c == table[0]) {
                constant += table[0];
                continue;
            }
            factors.push(Factor { vars: vec![e.producer, e.consumer], table });
        }
        (factors, constant)
    }

    /// What the nodes take, and what travels between them.
    fn times(&self, choice: &[usize]) -> Times {
        let mut times = Times::new(self.groups.step.graph.nodes().len());
        for (g, group) in self.groups.list.iter().enumerate() {
            let count = group.members.len();
            let shares = &self.members[g][choice[g] * count..][..count];
            for (m, s) in group.members.iter().zip(shares) {
                times.work[m.node.index()] = s.picoseconds;
                times.combining[m.node.index()] = s.combining;
            }
        }
        for e in self.edges.iter().filter(|e| e.from < e.to) {
            let time = e.time[choice[e.producer] * self.groups.list[e.consumer].options.len() + choice[e.consumer]];
            let delay = times.delays.entry((e.from, e.to)).or_default();
            *delay = (*delay).max(time);
        }
        times
    }

    /// What a choice takes, in picoseconds, without the price of memory.
    fn time(&self, choice: &[usize]) -> u64 {
        let work = self.work.iter().zip(choice).map(|(w, c)| w[*c]).fold(0u64, u64::saturating_add);
        let size = |g: usize| self.groups.list[g].options.len();
        self.edges.iter().map(|e| e.time[choice[e.producer] * size(e.consumer) + choice[e.consumer]]).fold(work, u64::saturating_add)
    }
}

impl EdgeTerm {
    fn of(model: &CostModel<'_>, groups: &Groups<'_>, edge: &Edge) -> Self {
        let (oa, ob) = (&groups.list[edge.producer].options, &groups.list[edge.consumer].options);
        let moves: Vec<cost::Move> = oa.iter().flat_map(|x| ob.iter().map(|y| model.edge(groups, edge, x, y))).collect();
        EdgeTerm {
            producer: edge.producer,
            consumer: edge.consumer,
            from: edge.from.node,
            to: edge.to.node,
            time: moves.iter().map(|m| m.picoseconds).collect(),
            bytes: moves.iter().map(|m| m.bytes).collect(),
        }
    }
}

impl Candidate<'_> {
    /// The best strategies on this mesh.
    fn solve(&self, step: &TrainStep, price: &Price) -> Chosen {
        let (sizes, (factors, constant)) = (self.terms.sizes(), self.terms.factors(price));
        let edges = factors.len() - sizes.len();
        let found = solve(&sizes, factors);
        let groups = &self.terms.groups;
        let mut strategies: Vec<Strategy> = vec![Strategy::new(); step.graph.nodes().len()];
        for (g, group) in groups.list.iter().enumerate() {
            let choice = &group.options[found.choice[g]];
            for member in &group.members {
                strategies[member.node.index()] = groups.member_strategy(member, choice);
            }
        }
        // The end of a loop leaves every slot as it is carried.
        for l in &groups.nest.loops {
            strategies[l.end.index()] = l.carries.iter().flat_map(|c| strategies[c.index()].clone()).collect();
        }
        let report = PartitionReport { groups: sizes.len(), edges, width: found.width, fixed: found.fixed, tried: Vec::new() };
        let cost = self.terms.time(&found.choice);
        let (mesh, step, stages) = (groups.mesh, step.clone(), groups.stages.clone());
        let sharded = ShardedGraph { step, mesh, strategies, cost, reuse: None, remat: Vec::new(), streamed: Vec::new(), stages };
        Chosen { sharded, report, choice: found.choice, priced: found.cost.saturating_add(constant) }
    }
}
