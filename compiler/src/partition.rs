//! partition: which loops of which node are split over which axes of which logical mesh.
//!
//! Elementwise chains share one decision (a *group*). The cost of a step is a sum of one term a group (its work on the busiest
//! die, and λ times its resident bytes) and one term an edge (moving a value from how it is made to how it is read), so variable
//! elimination over the groups finds the exact minimum of that sum. When tables would grow beyond a limit, the busiest neighbor is fixed
//! first, and the report says so.

mod cost;
mod eliminate;
mod explain;
mod groups;
mod remat;

use crate::sharded::{MeshShape, ShardedGraph, Strategy};
use cost::CostModel;
use girih_ir::step::TrainStep;
use girih_ir::target::{LogicalMesh, Target, error::TargetError};
use groups::Groups;

pub use eliminate::{Elimination, Factor, solve};
pub use explain::{Alternative, Explanation, explain};
pub use remat::{Remat, rematerialize};

/// What the partitioner is asked to do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PartitionOptions {
    /// Spread over exactly this many dies; `None` leaves the choice to the planner.
    pub dies: Option<usize>,
    /// Picoseconds that a byte costs which is live where memory is short: the price of SRAM.
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
) -> Result<(ShardedGraph, LogicalMesh, PartitionReport), TargetError> {
    let mut report = PartitionReport::default();
    let mut best: Option<(ShardedGraph, LogicalMesh)> = None;
    // The largest first; the others are solved when they could be better.
    let mut meshes = candidates(target, options.dies)?;
    if meshes.is_empty() {
        meshes.push(target.logical_mesh(1, 1)?);
    }
    for mesh in meshes.into_iter().rev() {
        let shape = MeshShape { rows: mesh.rows(), cols: mesh.cols() };
        let model = CostModel::new(step, target, shape, options);
        let limit = best.as_ref().map_or(u64::MAX, |(b, _)| b.cost);
        let Some((sharded, found)) = solve_mesh(step, shape, &model, limit) else { continue };
        report.tried.push((shape.rows, shape.cols, sharded.cost));
        if best.as_ref().is_none_or(|(b, _)| sharded.cost <= b.cost) {
            (report.groups, report.edges, report.width, report.fixed) = (found.groups, found.edges, found.width, found.fixed);
            best = Some((sharded, mesh));
        }
    }
    report.tried.reverse();
    let (sharded, mesh) = best.expect("the first mesh is solved without a limit");
    Ok((sharded, mesh, report))
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
    factors: Vec<Factor>,
    edges: usize,
    /// What every choice costs.
    constant: u64,
    /// What the work alone costs at least.
    least: u64,
}

impl<'a> Terms<'a> {
    /// The terms; `None` when the work alone costs more than `limit`.
    fn of(step: &'a TrainStep, mesh: MeshShape, model: &CostModel<'_>, limit: u64) -> Option<Self> {
        let groups = Groups::of(step, mesh);
        let mut terms = Terms { groups, factors: Vec::new(), edges: 0, constant: 0, least: 0 };
        for (g, group) in terms.groups.list.iter().enumerate() {
            let table: Vec<u64> = group.options.iter().map(|o| model.group(&terms.groups, g, o)).collect();
            terms.least = terms.least.saturating_add(table.iter().min().copied().unwrap_or(0));
            terms.factors.push(Factor { vars: vec![g], table });
        }
        if terms.least > limit {
            return None;
        }
        for edge in terms.groups.edges() {
            let (a, b) = (edge.producer, edge.consumer);
            if a == b {
                continue;
            }
            let table = edge_table(model, &terms.groups, &edge);
            if table.iter().all(|c| *c == table[0]) {
                terms.constant += table[0];
                continue;
            }
            terms.edges += 1;
            terms.factors.push(Factor { vars: vec![a, b], table });
        }
        Some(terms)
    }

    fn sizes(&self) -> Vec<usize> {
        self.groups.list.iter().map(|g| g.options.len()).collect()
    }
}

/// What an edge costs for every pair of choices of its ends, row-major.
fn edge_table(model: &CostModel<'_>, groups: &Groups<'_>, edge: &groups::Edge) -> Vec<u64> {
    let (oa, ob) = (&groups.list[edge.producer].options, &groups.list[edge.consumer].options);
    oa.iter().flat_map(|x| ob.iter().map(|y| model.edge(groups, edge, x, y))).collect()
}

/// The best strategies on a mesh; `None` when the work alone costs more than `limit`.
fn solve_mesh(step: &TrainStep, mesh: MeshShape, model: &CostModel<'_>, limit: u64) -> Option<(ShardedGraph, PartitionReport)> {
    let mut terms = Terms::of(step, mesh, model, limit)?;
    let sizes = terms.sizes();
    let found = solve(&sizes, std::mem::take(&mut terms.factors));
    let groups = &terms.groups;
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
    let cost = found.cost.saturating_add(terms.constant);
    let report = PartitionReport { groups: sizes.len(), edges: terms.edges, width: found.width, fixed: found.fixed, tried: Vec::new() };
    Some((ShardedGraph { step: step.clone(), mesh, strategies, cost, reuse: None, remat: Vec::new() }, report))
}
