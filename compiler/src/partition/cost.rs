//! What a choice costs, in integer picoseconds: work on the busiest die, and the bytes that must move between two choices.

use super::PartitionOptions;
use super::groups::{Choice, Edge, Groups};
use crate::sharded::MeshShape;
use girih_ir::axes::{Axes, DimUse, LoopKind, box_dims};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::target::Target;
use girih_ir::types::element_count;

/// When the mesh is given, moving data is weighed this much less than computing, so that work is really spread.
const SPREAD_DISCOUNT: f64 = 1.0 / 256.0;

/// Iterations that a `while` is taken to run.
const WHILE_RUNS: usize = 8;

/// Costs on one logical mesh.
pub(super) struct CostModel<'a> {
    target: &'a Target,
    mesh: MeshShape,
    lambda: f64,
    move_weight: f64,
}

/// How a tensor lies along one mesh axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Along {
    /// Every die of the line has all of it.
    Replicated,
    /// Split along this dimension.
    Dim(usize),
    /// Every die has a partial sum.
    Partial,
}

impl<'a> CostModel<'a> {
    pub fn new(target: &'a Target, mesh: MeshShape, options: &PartitionOptions) -> Self {
        let move_weight = if options.dies.is_some() { SPREAD_DISCOUNT } else { 1.0 };
        CostModel { target, mesh, lambda: options.lambda, move_weight }
    }

    /// Work of all members of a group on the busiest die, and the price of state that lives there.
    pub fn group(&self, groups: &Groups<'_>, g: usize, choice: &Choice) -> u64 {
        let group = &groups.list[g];
        let mut seconds = 0.0;
        for member in &group.members {
            let Some(axes) = &groups.axes[member.node.index()] else { continue };
            let ranges: Vec<_> = axes
                .loops
                .iter()
                .zip(&member.dim_of_loop)
                .map(|(l, d)| 0..l.extent.div_ceil(groups.parts(choice, *d)).min(l.extent))
                .collect();
            seconds += self.node(groups, member.node, axes, &ranges) * groups.nest.runs(member.node, WHILE_RUNS) as f64;
        }
        (seconds * 1e12) as u64
    }

    fn node(&self, groups: &Groups<'_>, node: ValueId, axes: &Axes, ranges: &[std::ops::Range<usize>]) -> f64 {
        let graph = &groups.step.graph;
        let n = graph.node(node);
        let mut bytes = 0usize;
        // What is updated in place is touched where the update goes, what is sliced where the slice is.
        let (skipped, updated) = match n.op {
            Op::DynamicSlice(_) => (Some(0), None),
            Op::DynamicUpdateSlice(_) => (Some(0), Some(1)),
            _ => (None, None),
        };
        let mut written = None;
        for (k, o) in n.operands.iter().enumerate().filter(|(k, _)| Some(*k) != skipped) {
            let ty = graph.tensor_ty(*o);
            let operand = element_count(&box_dims(&axes.operand_box(k, &ty.shape, ranges))) * ty.dtype.size();
            bytes += operand;
            written = written.or((Some(k) == updated).then_some(operand));
        }
        let mut result_bytes = 0usize;
        for (c, ty) in n.ty.components().iter().enumerate() {
            result_bytes += element_count(&box_dims(&axes.result_box(c, &ty.shape, ranges))) * ty.dtype.size();
        }
        bytes += written.unwrap_or(result_bytes);
        if matches!(n.op, Op::DynamicSlice(_)) {
            bytes += result_bytes;
        }
        let memory = bytes as f64 / self.target.sram_bandwidth();
        let dtype = graph.tensor_ty(node).dtype;
        let flops = axes.ops(ranges) as f64;
        let compute = match n.op {
            Op::DotGeneral(_) | Op::Convolution(_) => {
                let split = |want: bool| -> usize {
                    let picked = axes.loops.iter().zip(ranges).filter(|(l, _)| matches!(l.kind, LoopKind::Reduce(_)) == want);
                    picked.map(|(_, r)| (r.end - r.start).max(1)).product()
                };
                let (outer, depth) = (split(false), split(true));
                let columns = ranges.iter().rev().find(|r| r.end - r.start > 1).map_or(1, |r| r.end - r.start).min(outer).max(1);
                self.target.gemm_seconds(dtype, (outer / columns).max(1), columns, depth)
            }
            _ => flops / self.target.vector_flops(),
        };
        self.lambda * 1e-12 * result_bytes as f64 + compute.max(memory) + self.target.launch_overhead()
    }

    /// Moving the value of an edge from how it is made to how it is read.
    pub fn edge(&self, groups: &Groups<'_>, e: &Edge, made: &Choice, read: &Choice) -> u64 {
        let graph = &groups.step.graph;
        let (Some(from), Some(to)) = (&groups.axes[e.from.node.index()], &groups.axes[e.to.node.index()]) else { return 0 };
        let ty = &graph.ty(e.from.node).components()[e.component];
        let mut need = ty.bytes() as f64;
        let (mut local, mut combined, mut pieces) = (1.0, 0.0, 0usize);
        let sides = [(made.y, read.y, self.mesh.rows), (made.x, read.x, self.mesh.cols)];
        for (made, read, size) in sides {
            if size <= 1 {
                continue;
            }
            let source = along_result(from, e.component, &e.from.dim_of_loop, made);
            let wanted = along_operand(to, e.operand, &e.to.dim_of_loop, read);
            if let Along::Dim(_) = wanted {
                need /= size as f64;
            }
            match (source, wanted) {
                (Along::Replicated, _) => {}
                (Along::Dim(a), Along::Dim(b)) if a == b => {}
                (Along::Partial, wanted) => {
                    combined += ty.bytes() as f64 * (size as f64 - 1.0) / size as f64;
                    pieces += size - 1;
                    if wanted == Along::Replicated {
                        local /= size as f64;
                        pieces += size - 1;
                    }
                }
                _ => {
                    local /= size as f64;
                    pieces += size - 1;
                }
            }
        }
        let bytes = need * (1.0 - local) + combined;
        if bytes <= 0.0 {
            return 0;
        }
        let latency =
            pieces as f64 * self.target.message_overhead() + self.target.hop_latency() * (self.mesh.rows + self.mesh.cols) as f64 / 2.0;
        let seconds = bytes / self.target.link_bandwidth() + latency + 2.0 * pieces as f64 * self.target.launch_overhead() * 0.25;
        // What does not change in a loop is moved before it.
        let runs = groups.nest.runs(e.from.node, WHILE_RUNS) as f64;
        (seconds * runs * self.move_weight * 1e12) as u64
    }
}

/// How a result lies along a mesh axis that is given to a dimension of its group.
fn along_result(axes: &Axes, component: usize, dim_of_loop: &[usize], dim: Option<usize>) -> Along {
    let Some(l) = dim.and_then(|d| dim_of_loop.iter().position(|x| *x == d)) else { return Along::Replicated };
    if matches!(axes.loops[l].kind, LoopKind::Reduce(_)) {
        return Along::Partial;
    }
    let found = axes.results[component].iter().position(|u| *u == DimUse::Loop(l));
    found.map_or(Along::Replicated, Along::Dim)
}

/// How an operand is wanted along a mesh axis that is given to a dimension of the reader's group.
fn along_operand(axes: &Axes, operand: usize, dim_of_loop: &[usize], dim: Option<usize>) -> Along {
    let Some(l) = dim.and_then(|d| dim_of_loop.iter().position(|x| *x == d)) else { return Along::Replicated };
    let moves = |u: &DimUse| match u {
        DimUse::Loop(x) => *x == l,
        DimUse::Window { loop_dim, .. } => *loop_dim == l,
        DimUse::Linear { terms, .. } => terms.first().is_some_and(|t| t.0 == l),
        DimUse::Whole => false,
    };
    axes.operands[operand].iter().position(moves).map_or(Along::Replicated, Along::Dim)
}
