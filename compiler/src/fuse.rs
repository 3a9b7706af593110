//! Fusion: groups of elementwise ops become one `map`, groups around reductions of rows one `rows`, each holding a small SSA program.
//!
//! A fused group reads each operand once and keeps what is in between in registers. Composite ops are expanded first, each on its own, so that
//! their parts are grouped like everything else; what forward and backward would share of those parts is computed again instead of kept.
//! Views (broadcasts, transposes, extents of 1, splats, iota) cost nothing inside a group: they become the dimension map of an operand.
//! A group lies within one loop, and the nodes of a loop come out next to each other, right before its end.
//! Reductions over leading or all dimensions stay `reduce` ops, because those must be splittable over dies.

mod attention;
mod emit;
mod flat;
mod group;
mod items;
mod one_hot;
mod parts;
mod sums;
mod traffic;
mod turns;

use girih_ir::graph::Graph;
use girih_ir::graph::loops::LoopNest;
use girih_ir::ops::InferError;
use std::fmt;

/// Most instructions of a program.
pub const MAX_INSTRUCTIONS: usize = 64;
/// Most operands of a program.
pub const MAX_OPERANDS: usize = 12;
/// Most results of a program.
pub const MAX_RESULTS: usize = 8;
/// Most elements of a row.
pub const MAX_ROW: usize = 65_536;
/// Elements of a line that is worth reading by itself.
const LINE: usize = 16;

/// What fusion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FuseReport {
    /// Live nodes of the input.
    pub nodes_before: usize,
    /// Live nodes of the result.
    pub nodes_after: usize,
    /// `map` ops.
    pub maps: usize,
    /// `rows` ops.
    pub rows: usize,
    /// Primitive ops inside them.
    pub fused: usize,
    /// Instructions of the longest program.
    pub longest: usize,
}

impl fmt::Display for FuseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FuseReport { nodes_before, nodes_after, maps, rows, fused, longest } = self;
        write!(f, "{nodes_before} nodes -> {nodes_after}: {fused} ops in {maps} map and {rows} rows, the longest of {longest} instructions")
    }
}

impl FuseReport {
    /// Counts the fused ops of a graph anew.
    fn count(&mut self, graph: &Graph) {
        let live = graph.live();
        let nodes = || graph.values().filter(|v| live[v.index()]).map(|v| graph.node(v));
        let fused = || nodes().filter_map(|n| if let girih_ir::ops::Op::Fused(f) = &n.op { Some(f) } else { None });
        self.nodes_after = nodes().count();
        self.maps = fused().filter(|f| f.cols == 0).count();
        self.rows = fused().filter(|f| f.cols > 0).count();
        self.longest = fused().map(|f| f.program.body.len()).max().unwrap_or(0);
    }
}

/// Fuses a graph for one die: less is kept in memory and more computed again, sums over leading dimensions are fused with what they sum, and
/// transposes and slices move to where they cost least.
/// On a mesh those would be in the way of the partitioning.
pub fn fuse_for_one_die(graph: &Graph) -> (Graph, FuseReport) {
    match try_fuse(graph, true) {
        Ok(done) => done,
        Err(e) => unreachable!("fusion made an op that does not type: {e}"),
    }
}

/// Fuses a graph. The result holds `map`, `rows`, ops that are not elementwise, and views that had to be materialized.
pub fn fuse(graph: &Graph) -> (Graph, FuseReport) {
    match try_fuse(graph, false) {
        Ok(done) => done,
        Err(e) => unreachable!("fusion made an op that does not type: {e}"),
    }
}

fn try_fuse(graph: &Graph, one_die: bool) -> Result<(Graph, FuseReport), InferError> {
    let compared = one_hot::expand(graph);
    let graph = compared.as_ref().unwrap_or(graph);
    let unturned = if one_die { turns::undo(graph) } else { None };
    let graph = unturned.as_ref().unwrap_or(graph);
    let in_parts = if one_die { parts::apart(graph) } else { None };
    let graph = in_parts.as_ref().unwrap_or(graph);
    let flat = flat::flatten(graph);
    let groups = group::groups(&flat);
    let (mut fused, mut report) = emit::emit(graph, &flat, &groups)?;
    if one_die {
        let mut items = items::Items::of(&fused);
        sums::collect(&mut items);
        traffic::recompute(&mut items);
        attention::collect(&mut items);
        fused = items.into_graph(&fused)?;
        report.count(&fused);
    }
    match LoopNest::of(&fused) {
        Ok(nest) if !nest.is_empty() => Ok((fused.with_contiguous_loops(&nest), report)),
        _ => Ok((fused, report)),
    }
}

#[cfg(test)]
mod tests;
