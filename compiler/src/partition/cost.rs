//! What a choice costs, in integer picoseconds: work on the busiest die, and the bytes that must move between two choices.

use super::groups::{Choice, Edge, Groups, Member};
use crate::sharded::MeshShape;
use girih_ir::axes::{Axes, DimUse, LoopKind, box_dims};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::convolution::Convolution;
use girih_ir::step::TrainStep;
use girih_ir::target::engines::inside;
use girih_ir::target::{Product, Target, WindowShape};
use girih_ir::types::{TensorType, element_count};
use std::ops::Range;

/// When the mesh is given, moving data is weighed this much less than computing, so that work is really spread.
const SPREAD_DISCOUNT: f64 = 1.0 / 256.0;

/// Direct exchange along a line loads its middle links so much more than the ends of one die.
const CONTENTION: f64 = 1.3;

/// The same in a step of images: what spatial cuts move goes next door, and everything else crosses its way.
const CONTENTION_OF_IMAGES: f64 = 3.0;

/// Iterations that a `while` is taken to run.
const WHILE_RUNS: usize = 8;

/// Options a group keeps; the rest are dominated or nearly so.
const OPTIONS: usize = 16;
/// The same in a step of images.
const OPTIONS_OF_IMAGES: usize = 17;

/// Costs on one logical mesh.
pub(super) struct CostModel<'a> {
    target: &'a Target,
    move_weight: f64,
    /// Whether the step has convolutions with windows that overlap.
    images: bool,
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

/// What a node takes on the busiest die, and the bytes of its results there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Share {
    pub picoseconds: u64,
    /// Until partial results are combined.
    pub combining: u64,
    pub bytes: u64,
}

impl Share {
    /// Work and what follows from it.
    pub fn total(&self) -> u64 {
        self.picoseconds.saturating_add(self.combining)
    }
}

impl<'a> CostModel<'a> {
    /// Costs on a target; `given` when the mesh is not up for choice.
    pub fn new(step: &TrainStep, target: &'a Target, given: bool) -> Self {
        let images = step.graph.values().any(|v| overlaps(&step.graph, v));
        CostModel { target, move_weight: if given { SPREAD_DISCOUNT } else { 1.0 }, images }
    }

    /// The share of each member of a group on the busiest die.
    pub fn group(&self, groups: &Groups<'_>, g: usize, choice: &Choice) -> Vec<Share> {
        let of_member = |member: &Member| {
            let Some(axes) = &groups.axes[member.node.index()] else { return Share::default() };
            let ranges = groups.largest_ranges(member, axes, choice);
            let runs = groups.nest.runs(member.node, WHILE_RUNS) as f64;
            let bytes = result_bytes(&groups.step.graph, member.node, axes, &ranges) as u64;
            let seconds = work(self.target, &groups.step.graph, member.node, axes, &ranges);
            let combining = self.combining(groups.mesh_of(member.node), member, axes, choice, bytes as f64) * self.move_weight;
            Share { picoseconds: (seconds * runs * 1e12) as u64, combining: (combining * runs * 1e12) as u64, bytes }
        };
        groups.list[g].members.iter().map(of_member).collect()
    }

    /// Whether work is really to be spread.
    pub fn spread(&self) -> bool {
        self.move_weight < 1.0
    }

    fn contention(&self) -> f64 {
        if self.images { CONTENTION_OF_IMAGES } else { CONTENTION }
    }

    /// By what the options of a group are ranked, when it has too many: what they cost at least in a step of images, where they differ
    /// most in what they move; the largest share of a die otherwise.
    pub fn rank(&self, groups: &Groups<'_>, g: usize, choice: &Choice) -> u64 {
        if self.images {
            let work = self.group(groups, g, choice).iter().map(Share::total).fold(0, u64::saturating_add);
            return work.saturating_add(self.least_moves(groups, g, choice));
        }
        groups.largest_share(g, choice)
    }

    /// Options that a group keeps.
    pub fn options(&self) -> usize {
        if self.images { OPTIONS_OF_IMAGES } else { OPTIONS }
    }

    /// What a choice moves at least: the operands' parts that are not a die's own when every value lies somewhere once, and its partial sums.
    fn least_moves(&self, groups: &Groups<'_>, g: usize, choice: &Choice) -> u64 {
        let (graph, mesh) = (&groups.step.graph, groups.mesh_of_group(g));
        let dies = mesh.count() as f64;
        let mut bytes = 0.0;
        for member in &groups.list[g].members {
            let Some(axes) = &groups.axes[member.node.index()] else { continue };
            let ranges = groups.largest_ranges(member, axes, choice);
            let runs = groups.nest.runs(member.node, WHILE_RUNS) as f64;
            for (k, o) in graph.node(member.node).operands.iter().enumerate() {
                if groups.place[groups.resolve(*o).0.index()].is_some_and(|p| p.0 == g) {
                    continue;
                }
                let ty = graph.tensor_ty(*o);
                let need = element_count(&box_dims(&axes.operand_box(k, &ty.shape, &ranges))) * ty.dtype.size();
                bytes += runs * (need as f64 - ty.bytes() as f64 / dies).max(0.0);
            }
            for (dim, size) in [(choice.y, mesh.rows), (choice.x, mesh.cols)] {
                if along_result(axes, 0, &member.dim_of_loop, dim) == Along::Partial {
                    bytes += runs * result_bytes(graph, member.node, axes, &ranges) as f64 * (size as f64 - 1.0) / size as f64;
                }
            }
        }
        (self.contention() * bytes / self.target.link_bandwidth() * self.move_weight * 1e12) as u64
    }

    /// Moving the value of an edge from how it is made to how it is read.
    pub fn edge(&self, groups: &Groups<'_>, e: &Edge, made: &Choice, read: &Choice) -> Move {
        let graph = &groups.step.graph;
        let (Some(from), Some(to)) = (&groups.axes[e.from.node.index()], &groups.axes[e.to.node.index()]) else {
            return Move::default();
        };
        let ty = &graph.ty(e.from.node).components()[e.component];
        let mut need = ty.bytes() as f64;
        let (mesh, apart) = (groups.mesh_of(e.to.node), groups.stages.stage(e.from.node) != groups.stages.stage(e.to.node));
        if made.on.is_some() || read.on.is_some() {
            // One die sends or receives, and others do so meanwhile.
            let messages = usize::from(apart || made.on != read.on);
            let seconds = messages as f64 * self.moving(mesh, need, 1, self.awaited(), false);
            return Move { picoseconds: (seconds * self.move_weight * 1e12) as u64, bytes: need as u64 * messages as u64 };
        }
        // What is gathered is cut into pieces along all axes at once; what was combined lies in pieces where it is read first.
        let (mut local, mut senders) = (1.0, 1usize);
        let (mut halo, mut neighbors) = (0.0, 0usize);
        let sides = [(made.y, read.y, mesh.rows, false), (made.x, read.x, mesh.cols, true)];
        for (m, r, size, along_x) in sides {
            if size <= 1 {
                continue;
            }
            let source = along_result(from, e.component, &e.from.dim_of_loop, m);
            let wanted = along_operand(to, e.operand, &e.to.dim_of_loop, r);
            if let Along::Dim(_) = wanted {
                need /= size as f64;
            }
            let other = if along_x { made.y } else { made.x };
            let stays = match (source, wanted) {
                (Along::Replicated, _) => true,
                (Along::Dim(a), Along::Dim(b)) if a == b && aligned(made, read, along_x) => {
                    // Both axes may split the dimension: it is cut once then.
                    let both = made.both() && read.both();
                    if !(both && along_x)
                        && let Some(share) = self.halo(groups, e, a, both, size)
                    {
                        halo += share;
                        neighbors += 2;
                    }
                    true
                }
                // Pieces lie as they are read, unless parts along the other axis come between.
                (Along::Partial, Along::Dim(_)) => {
                    read.outer(!along_x) || !matches!(along_result(from, e.component, &e.from.dim_of_loop, other), Along::Dim(_))
                }
                _ => false,
            };
            if !stays {
                local /= size as f64;
                senders *= size;
            }
        }
        if apart {
            // All of it comes from the dies of another stage.
            (local, halo, senders) = (0.0, 0.0, senders + 1);
        }
        let bytes = need * (1.0 - local) + need * local * halo;
        if bytes <= 0.0 {
            return Move::default();
        }
        // What does not change in a loop is moved before it.
        let runs = groups.nest.runs(e.from.node, WHILE_RUNS) as f64;
        let seconds = self.moving(mesh, bytes, senders - 1 + neighbors, self.awaited(), senders == 1);
        Move { picoseconds: (seconds * runs * self.move_weight * 1e12) as u64, bytes: bytes as u64 }
    }

    /// Seconds until a die has bytes that come in messages that take so long each, from next door or from half a mesh away.
    fn moving(&self, mesh: MeshShape, bytes: f64, messages: usize, each: f64, next_door: bool) -> f64 {
        let hops = if next_door { 1.0 } else { (mesh.rows + mesh.cols) as f64 / 2.0 };
        let latency = self.target.hop_latency() * hops;
        self.contention() * bytes / self.target.link_bandwidth() + messages as f64 * each + latency
    }

    /// Seconds that a message takes in the queues of both ends.
    fn queued(&self) -> f64 {
        2.0 * (self.target.issue_overhead() + self.target.message_overhead())
    }

    /// Seconds that a message takes which is waited for: beside the queues, the engines copy the die's own part and start anew.
    fn awaited(&self) -> f64 {
        3.0 * self.target.launch_overhead() + self.target.issue_overhead() + self.target.message_overhead()
    }

    /// Seconds to combine the partial results that a choice leaves of a member, each die a piece. They come and are added in the queues.
    fn combining(&self, mesh: MeshShape, member: &Member, axes: &Axes, choice: &Choice, bytes: f64) -> f64 {
        let partial = |dim: Option<usize>| along_result(axes, 0, &member.dim_of_loop, dim) == Along::Partial;
        let lines = [(choice.y, mesh.rows), (choice.x, mesh.cols)];
        let dies: usize = lines.into_iter().filter(|(dim, _)| partial(*dim)).map(|(_, size)| size).product();
        if dies <= 1 {
            return 0.0;
        }
        let moved = bytes * (dies - 1) as f64 / dies as f64;
        self.moving(mesh, moved, dies - 1, self.queued(), false)
    }
}

impl CostModel<'_> {
    /// The largest part of what a die reads along dimension `dim`, split alike where it is made and where it is read, that its
    /// neighbors along a mesh axis (or all of them) made: the halo of a window, and what uneven cuts shift. `None` when there is none;
    /// slices and pads, whose windows are single elements, count as local.
    fn halo(&self, groups: &Groups<'_>, e: &Edge, dim: usize, both: bool, parts: usize) -> Option<f64> {
        let (from, to) = (groups.axes[e.from.node.index()].as_ref()?, groups.axes[e.to.node.index()].as_ref()?);
        let used = &to.operands[e.operand][dim];
        let (DimUse::Window { loop_dim, size: 2.., .. }, DimUse::Loop(made)) = (used, &from.results[e.component][dim]) else { return None };
        let parts = if both { groups.mesh_of(e.to.node).count() } else { parts };
        let (extent, reads) = (from.loops[*made].extent, to.loops[*loop_dim].extent);
        let mut ranges: Vec<Range<usize>> = to.full_ranges();
        let missing = |p: usize| {
            ranges[*loop_dim] = p * reads / parts..(p + 1) * reads / parts;
            let (need, have) = (used.touched(extent, &ranges), p * extent / parts..(p + 1) * extent / parts);
            let own = need.end.min(have.end).saturating_sub(need.start.max(have.start));
            if need.is_empty() { 0.0 } else { (need.len() - own) as f64 / need.len() as f64 }
        };
        let most = (0..parts).map(missing).fold(0.0, f64::max);
        (most > 0.0).then_some(most)
    }
}

/// Whether a node is a convolution whose windows overlap, so that cutting positions leaves halos.
fn overlaps(graph: &Graph, v: ValueId) -> bool {
    let node = graph.node(v);
    let Op::Convolution(c) = &node.op else { return false };
    let windows = c.windows(graph.shape(node.operands[0]), graph.shape(node.operands[1]));
    windows.iter().any(|w| w.window > w.stride && w.window < w.extent)
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
            let (batch, rows) = (d.lhs_batch.len(), left - d.lhs_contract.len());
            let [batch, m, n_, k] = [0..batch, batch..rows, rows..rank, rank..ranges.len()].map(extent);
            let product = Product { batch, m, n: n_, k, column_major: false };
            target.gemm_seconds(graph.tensor_ty(n.operands[0]).dtype, product)
        }
        Op::Convolution(c) => target.conv_seconds(graph.tensor_ty(n.operands[0]).dtype, &conv_share(c, graph, node, axes, ranges)),
        _ => axes.ops(ranges) as f64 / target.vector_flops(),
    };
    compute.max(memory) + target.launch_overhead()
}

/// A share of a convolution as the target's model sees it.
fn conv_share(c: &Convolution, graph: &Graph, node: ValueId, axes: &Axes, ranges: &[Range<usize>]) -> WindowShape {
    let operands = &graph.node(node).operands;
    let (lhs, rhs) = (graph.tensor_ty(operands[0]), graph.tensor_ty(operands[1]));
    let len = |l: usize| ranges.get(l).map_or(1, |r| r.len().max(1));
    let (rank, feature) = (c.out_dims.len(), c.out_dims[1]);
    let all = c.feature_groups.max(c.batch_groups).max(1);
    // A share has whole groups, or all of its outputs are of one.
    let each = (axes.loops[feature].extent / all).max(1);
    let groups = (len(feature) / each).clamp(1, all);
    let windows = c.windows(&lhs.shape, &rhs.shape);
    let positions: Vec<usize> = c.out_dims[2..].iter().map(|d| len(*d)).collect();
    let taps = windows.iter().zip(&c.out_dims[2..]).map(|(w, d)| {
        let extent = if w.extent == 0 { 0 } else { (w.extent - 1) * w.base_dilation + 1 };
        inside(axes.loops[*d].extent, w.window, w.stride, w.window_dilation, w.pad_low, extent)
    });
    WindowShape {
        batch: len(c.out_dims[0]),
        groups,
        inputs: len(rank),
        outputs: (len(feature) / groups).max(1),
        inside: taps.collect(),
        positions,
        window: (0..windows.len()).map(|s| len(rank + 1 + s)).collect(),
    }
}

/// Whether parts of a dimension that is on this axis both where it is made and where it is read are the same parts.
fn aligned(made: &Choice, read: &Choice, along_x: bool) -> bool {
    if made.both() && read.both() { made.x_outer == read.x_outer } else { made.outer(along_x) && read.outer(along_x) }
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
