//! What a choice costs, in integer picoseconds: work on the busiest die, and the bytes that must move between two choices.

use super::groups::{Choice, Edge, Groups};
use crate::sharded::MeshShape;
use girih_ir::axes::{Axes, DimUse, LoopKind, box_dims};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::target::Target;
use girih_ir::types::{TensorType, element_count};
use std::ops::Range;

/// When the mesh is given, moving data is weighed this much less than computing, so that work is really spread.
const SPREAD_DISCOUNT: f64 = 1.0 / 256.0;

/// Direct exchange along a line loads its middle links so much more than the ends of one die.
const CONTENTION: f64 = 1.3;

/// Iterations that a `while` is taken to run.
const WHILE_RUNS: usize = 8;

/// Costs on one logical mesh.
pub(super) struct CostModel<'a> {
    target: &'a Target,
    mesh: MeshShape,
    move_weight: f64,
}

/// What moving a value takes, and the bytes of the copy that it leaves on a die.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Move {
    pub picoseconds: u64,
    pub bytes: u64,
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
    /// Costs on a mesh; `given` when the mesh is not up for choice.
    pub fn new(target: &'a Target, mesh: MeshShape, given: bool) -> Self {
        CostModel { target, mesh, move_weight: if given { SPREAD_DISCOUNT } else { 1.0 } }
    }

    /// Picoseconds of all members of a group on the busiest die, and the bytes of the results of each member there.
    pub fn group(&self, groups: &Groups<'_>, g: usize, choice: &Choice) -> (u64, Vec<u64>) {
        let group = &groups.list[g];
        let (mut seconds, mut bytes) = (0.0, Vec::with_capacity(group.members.len()));
        for member in &group.members {
            let Some(axes) = &groups.axes[member.node.index()] else {
                bytes.push(0);
                continue;
            };
            let ranges: Vec<_> = axes
                .loops
                .iter()
                .zip(&member.dim_of_loop)
                .map(|(l, d)| 0..l.extent.div_ceil(groups.parts(choice, *d)).min(l.extent))
                .collect();
            bytes.push(result_bytes(&groups.step.graph, member.node, axes, &ranges) as u64);
            let once = work(self.target, &groups.step.graph, member.node, axes, &ranges);
            seconds += once * groups.nest.runs(member.node, WHILE_RUNS) as f64;
        }
        ((seconds * 1e12) as u64, bytes)
    }

    /// Moving the value of an edge from how it is made to how it is read.
    pub fn edge(&self, groups: &Groups<'_>, e: &Edge, made: &Choice, read: &Choice) -> Move {
        let graph = &groups.step.graph;
        let (Some(from), Some(to)) = (&groups.axes[e.from.node.index()], &groups.axes[e.to.node.index()]) else {
            return Move::default();
        };
        let ty = &graph.ty(e.from.node).components()[e.component];
        let mut need = ty.bytes() as f64;
        // What is combined is cut into pieces along all axes at once, and so is what is gathered.
        let (mut local, mut combined) = (1.0, 0.0);
        let (mut senders, mut adders) = (1usize, 1usize);
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
                    adders *= size;
                    if wanted == Along::Replicated {
                        local /= size as f64;
                        senders *= size;
                    }
                }
                _ => {
                    local /= size as f64;
                    senders *= size;
                }
            }
        }
        // A die of a line that combines has only its part along the other axis, if the value is split there.
        if combined > 0.0 {
            let whole = |made: Option<usize>| !matches!(along_result(from, e.component, &e.from.dim_of_loop, made), Along::Dim(_));
            combined /= (if whole(made.y) { 1 } else { self.mesh.rows } * if whole(made.x) { 1 } else { self.mesh.cols }) as f64;
        }
        let bytes = need * (1.0 - local) + combined;
        if bytes <= 0.0 {
            return Move::default();
        }
        // Each message occupies the engines of both ends while it is issued; all that arrives for a die is issued by others.
        let pieces = (senders + adders - 2) as f64;
        let issue = 2.0 * self.target.launch_overhead() + self.target.message_overhead();
        let latency = self.target.hop_latency() * (self.mesh.rows + self.mesh.cols) as f64 / 2.0;
        let seconds = CONTENTION * bytes / self.target.link_bandwidth() + pieces * issue + latency;
        // What does not change in a loop is moved before it.
        let runs = groups.nest.runs(e.from.node, WHILE_RUNS) as f64;
        Move { picoseconds: (seconds * runs * self.move_weight * 1e12) as u64, bytes: (need * (1.0 - local)) as u64 }
    }
}

/// For each node, whether memory is short somewhere between it and the last use of its results.
pub(super) fn held(graph: &Graph, short: &[bool]) -> Vec<bool> {
    let mut last: Vec<usize> = (0..short.len()).collect();
    for v in graph.values().rev() {
        let node = graph.node(v);
        // A renaming is used where what it names is used.
        let used = if matches!(node.op, Op::Proj(_) | Op::Reshape(_) | Op::Shard(_)) { last[v.index()] } else { v.index() };
        node.operands.iter().for_each(|o| last[o.index()] = last[o.index()].max(used));
    }
    let mut before = vec![0usize; short.len() + 1];
    short.iter().enumerate().for_each(|(n, s)| before[n + 1] = before[n] + usize::from(*s));
    (0..short.len()).map(|n| before[last[n] + 1] > before[n]).collect()
}

/// Bytes of the results of a share.
fn result_bytes(graph: &Graph, node: ValueId, axes: &Axes, ranges: &[Range<usize>]) -> usize {
    let part = |(c, ty): (usize, &TensorType)| element_count(&box_dims(&axes.result_box(c, &ty.shape, ranges))) * ty.dtype.size();
    graph.ty(node).components().iter().enumerate().map(part).sum()
}

/// Seconds of a share of a node on its die.
pub(super) fn work(target: &Target, graph: &Graph, node: ValueId, axes: &Axes, ranges: &[Range<usize>]) -> f64 {
    let n = graph.node(node);
    let mut bytes = 0usize;
    // What is updated in place is touched where the update goes, what is sliced where the slice is.
    let (skipped, updated) = match n.op {
        // Another name for the same bytes, when they lie as they should.
        Op::Reshape(_) | Op::Shard(_) => return 0.0,
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
    let results = result_bytes(graph, node, axes, ranges);
    bytes += written.unwrap_or(results);
    if matches!(n.op, Op::DynamicSlice(_)) {
        bytes += results;
    }
    let memory = bytes as f64 / target.sram_bandwidth();
    let compute = match &n.op {
        // The links to the next packages are busy, whatever the engine does meanwhile.
        Op::AllReduce(a) => target.all_reduce_time(a.rows, a.cols, results as u64).busy,
        Op::DotGeneral(d) => {
            let extent = |r: Range<usize>| ranges.get(r).unwrap_or_default().iter().map(|r| r.len().max(1)).product::<usize>();
            let (left, rank) = (graph.tensor_ty(n.operands[0]).rank(), graph.tensor_ty(node).rank());
            let rows = left - d.lhs_contract.len();
            target.gemm_seconds(graph.tensor_ty(n.operands[0]).dtype, extent(0..rows), extent(rows..rank), extent(rank..ranges.len()))
        }
        Op::Convolution(_) => {
            let split = |want: bool| -> usize {
                let picked = axes.loops.iter().zip(ranges).filter(|(l, _)| matches!(l.kind, LoopKind::Reduce(_)) == want);
                picked.map(|(_, r)| r.len().max(1)).product()
            };
            let (outer, depth) = (split(false), split(true));
            let columns = ranges.get(1).map_or(1, |r| r.len()).clamp(1, outer.max(1));
            target.gemm_seconds(graph.tensor_ty(node).dtype, (outer / columns).max(1), columns, depth)
        }
        _ => axes.ops(ranges) as f64 / target.vector_flops(),
    };
    compute.max(memory) + target.launch_overhead()
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
