//! partition: which loops of which node are split over which axes of which logical mesh.
//!
//! Elementwise chains share one decision (a *group*). The cost of a step is a sum of one term a group (its work on the busiest
//! die, and λ times its resident bytes) and one term an edge (moving a value from how it is made to how it is read), so variable
//! elimination over the groups finds the exact minimum of that sum. When tables would grow beyond a limit, the busiest neighbor is fixed
//! first, and the report says so.

mod cost;
mod eliminate;
mod groups;

use crate::sharded::{MeshShape, ShardedGraph, Strategy};
use cost::CostModel;
use girih_ir::step::TrainStep;
use girih_ir::target::{LogicalMesh, Target, error::TargetError};
use groups::Groups;

pub use eliminate::{Elimination, Factor, solve};

/// What the partitioner is asked to do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PartitionOptions {
    /// Spread over exactly this many dies; `None` leaves the choice to the planner.
    pub dies: Option<usize>,
    /// Picoseconds a byte of resident state costs: the price of SRAM.
    pub lambda: f64,
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
    for mesh in candidates(target, options.dies)? {
        let shape = MeshShape { rows: mesh.rows(), cols: mesh.cols() };
        let model = CostModel::new(target, shape, options);
        let (sharded, found) = solve_mesh(step, shape, &model);
        report.tried.push((shape.rows, shape.cols, sharded.cost));
        if best.as_ref().is_none_or(|(b, _)| sharded.cost < b.cost) {
            (report.groups, report.edges, report.width, report.fixed) = (found.groups, found.edges, found.width, found.fixed);
            best = Some((sharded, mesh));
        }
    }
    let (sharded, mesh) = match best {
        Some(found) => found,
        None => {
            let mesh = target.logical_mesh(1, 1)?;
            let shape = MeshShape { rows: 1, cols: 1 };
            (solve_mesh(step, shape, &CostModel::new(target, shape, options)).0, mesh)
        }
    };
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
            if n == 1 || n == all && last < all || n >= last * 2 && last > 0 {
                kept.push(m);
            }
        }
        return Ok(kept);
    }
    meshes.truncate(4);
    Ok(meshes)
}

fn solve_mesh(step: &TrainStep, mesh: MeshShape, model: &CostModel<'_>) -> (ShardedGraph, PartitionReport) {
    let groups = Groups::of(step, mesh);
    let mut factors: Vec<Factor> = Vec::new();
    let mut constant = 0u64;
    for (g, group) in groups.list.iter().enumerate() {
        let table: Vec<u64> = group.options.iter().map(|o| model.group(&groups, g, o)).collect();
        factors.push(Factor { vars: vec![g], table });
    }
    let mut edges = 0;
    for edge in groups.edges() {
        let (a, b) = (edge.producer, edge.consumer);
        if a == b {
            continue;
        }
        let (oa, ob) = (&groups.list[a].options, &groups.list[b].options);
        let mut table = Vec::with_capacity(oa.len() * ob.len());
        for x in oa {
            table.extend(ob.iter().map(|y| model.edge(&groups, &edge, x, y)));
        }
        if table.iter().all(|c| *c == table[0]) {
            constant += table[0];
            continue;
        }
        edges += 1;
        factors.push(Factor { vars: vec![a, b], table });
    }
    let sizes: Vec<usize> = groups.list.iter().map(|g| g.options.len()).collect();
    let found = solve(&sizes, factors);
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
    let cost = found.cost.saturating_add(constant);
    let report = PartitionReport { groups: sizes.len(), edges, width: found.width, fixed: found.fixed, tried: Vec::new() };
    (ShardedGraph { step: step.clone(), mesh, strategies, cost }, report)
}
