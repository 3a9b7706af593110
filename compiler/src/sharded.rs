//! Sharded graphs: a training step whose every node says which of its loops are split over which axes of a logical mesh.
//!
//! How each value lies over the dies follows from the node that makes it; what each consumer needs follows from the consumer.
//! Where the two differ, `place` moves data. **Invariant:** nothing here knows a physical die.

use girih_ir::axes::{Axes, Box, LoopKind, box_dims, box_is_empty};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::scalar::Monoid;
use girih_ir::step::TrainStep;
use girih_ir::types::{DType, Type, element_count};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;
use std::ops::Range;

/// A set of axes of the logical mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct AxisSet(pub u8);

impl AxisSet {
    /// No axis: not split.
    pub const NONE: AxisSet = AxisSet(0);
    /// Rows of the mesh (the `y` axis).
    pub const Y: AxisSet = AxisSet(1);
    /// Columns of the mesh (the `x` axis).
    pub const X: AxisSet = AxisSet(2);
    /// Both axes, rows outermost.
    pub const YX: AxisSet = AxisSet(3);
    /// Both axes, columns outermost: what the dies of a column have lies together.
    pub const XY: AxisSet = AxisSet(7);

    /// Whether it holds all axes of `other`.
    pub fn has(self, other: AxisSet) -> bool {
        self.0 & other.0 == other.0
    }
    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "-",
            1 => "y",
            2 => "x",
            3 => "yx",
            _ => "xy",
        }
    }
    /// The set of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::NONE, Self::Y, Self::X, Self::YX, Self::XY].into_iter().find(|a| a.name() == name)
    }
}

impl fmt::Display for AxisSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The extents of the logical mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeshShape {
    /// Rows: the `y` axis.
    pub rows: usize,
    /// Columns: the `x` axis.
    pub cols: usize,
}

impl MeshShape {
    /// Number of logical dies.
    pub fn count(self) -> usize {
        self.rows * self.cols
    }
    /// How many parts a loop on these axes is cut into.
    pub fn parts(self, axes: AxisSet) -> usize {
        (if axes.has(AxisSet::Y) { self.rows } else { 1 }) * (if axes.has(AxisSet::X) { self.cols } else { 1 })
    }
    /// Which of those parts a logical die (row-major) has.
    pub fn part(self, axes: AxisSet, die: usize) -> usize {
        let (row, col) = (die / self.cols, die % self.cols);
        match (axes.has(AxisSet::Y), axes.has(AxisSet::X)) {
            (true, true) if axes == AxisSet::XY => col * self.rows + row,
            (true, true) => die,
            (true, false) => row,
            (false, true) => col,
            (false, false) => 0,
        }
    }
}

/// A rectangle of the logical mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Region {
    /// Its first row.
    pub row: usize,
    /// Its first column.
    pub col: usize,
    /// Its extents.
    pub shape: MeshShape,
}

impl Region {
    /// All of a mesh.
    pub fn whole(mesh: MeshShape) -> Self {
        Region { row: 0, col: 0, shape: mesh }
    }

    /// Its last die in the mesh: the one with the largest shares.
    pub fn last(self, mesh: MeshShape) -> usize {
        (self.row + self.shape.rows - 1) * mesh.cols + self.col + self.shape.cols - 1
    }

    /// Which die of the rectangle (row-major) a die of the mesh is; `None` outside.
    pub fn local(self, mesh: MeshShape, die: usize) -> Option<usize> {
        let (row, col) = ((die / mesh.cols).checked_sub(self.row)?, (die % mesh.cols).checked_sub(self.col)?);
        (row < self.shape.rows && col < self.shape.cols).then_some(row * self.shape.cols + col)
    }
}

/// The rectangle of the mesh on which each node is computed, where not all of them are computed on all dies: the stages of a pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stages {
    /// The rectangles, in the order in which a slice of the batch goes through them; empty: every node has the whole mesh.
    pub regions: Vec<Region>,
    /// The stage of each node.
    pub of: Vec<u16>,
}

impl Stages {
    /// The stage of a node, when there are stages.
    pub fn stage(&self, value: ValueId) -> Option<usize> {
        self.of.get(value.index()).map(|s| usize::from(*s))
    }

    /// The rectangle of a node.
    pub fn region(&self, value: ValueId, mesh: MeshShape) -> Region {
        self.stage(value).map_or(Region::whole(mesh), |s| self.regions[s])
    }
}

/// How one loop is split.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LoopSplit {
    /// Over mesh axes; over none, every die has all of it.
    Over(AxisSet),
    /// All of it is on one logical die of the node's rectangle, and the others have nothing.
    On(u32),
}

impl LoopSplit {
    /// Not split.
    pub const WHOLE: LoopSplit = LoopSplit::Over(AxisSet::NONE);

    /// The mesh axes that cut it.
    pub fn axes(self) -> AxisSet {
        match self {
            LoopSplit::Over(axes) => axes,
            LoopSplit::On(_) => AxisSet::NONE,
        }
    }

    /// The range of a die. Parts differ by at most one; some are empty when there are more of them than iterations.
    pub fn range(self, extent: usize, mesh: MeshShape, die: usize) -> Range<usize> {
        match self {
            LoopSplit::On(owner) => 0..if owner as usize == die { extent } else { 0 },
            LoopSplit::Over(axes) => {
                let (parts, i) = (mesh.parts(axes), mesh.part(axes, die));
                i * extent / parts..(i + 1) * extent / parts
            }
        }
    }
}

impl fmt::Display for LoopSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoopSplit::Over(axes) => axes.fmt(f),
            LoopSplit::On(die) => write!(f, "@{die}"),
        }
    }
}

/// Fewer bytes are not worth a part of their own on a die.
pub(crate) const PIECE_BYTES: usize = 1024;

/// Parts of a combination travel in messages of at most so many bytes in the type in which nothing is rounded, for what a message of that size
/// takes is hardly the time of its bytes; larger ones travel in the value's own type.
const CARRIED_BYTES: usize = 32 << 10;

/// How a node's loop nest is split: one entry a loop of its [`Axes`].
pub type Strategy = SmallVec<[LoopSplit; 4]>;

/// A training step with a strategy a node.
#[derive(Clone, PartialEq, Debug)]
pub struct ShardedGraph {
    /// The step; its graph is fused.
    pub step: TrainStep,
    /// The logical mesh.
    pub mesh: MeshShape,
    /// One strategy a node; empty for dead nodes.
    pub strategies: Vec<Strategy>,
    /// Estimated picoseconds of the step.
    pub cost: u64,
    /// A copy of a value that came from other dies is used again within so many nodes, and then brought anew; `None` keeps it for the step.
    pub reuse: Option<u32>,
    /// Values that are made again: right before the second node, the first one is computed once more and what it made before is
    /// forgotten. Ascending by second, then by first node.
    pub remat: Vec<(ValueId, ValueId)>,
    /// State pairs that stay in host memory: each die loads its part before it is used, and stores the new value behind the update. Ascending.
    pub streamed: Vec<u32>,
    /// Which nodes have which part of the mesh.
    pub stages: Stages,
}

/// The loop nest of a node.
pub fn axes_of(graph: &Graph, value: ValueId) -> Axes {
    let node = graph.node(value);
    let types: SmallVec<[&Type; 4]> = node.operands.iter().map(|o| graph.ty(*o)).collect();
    node.op.axes(&types, &node.ty)
}

/// For each node of a graph with loops: whether it is one constant everywhere. Every die of a mesh fills in the part that it reads, where it
/// reads it: a loop would keep it through all of its iterations.
pub fn splats(graph: &Graph) -> Vec<bool> {
    constants(graph, graph.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_) | Op::While(_))))
}

/// For each node: whether it is one constant everywhere that is `filled` in where it is read.
fn constants(graph: &Graph, filled: bool) -> Vec<bool> {
    graph.values().map(|v| filled && matches!(graph.node(v).op, Op::Broadcast(_)) && graph.splat_of(v).is_some()).collect()
}

/// What one die does of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// One range a loop.
    pub ranges: Vec<Range<usize>>,
    /// The part of each result component that is made.
    pub results: SmallVec<[Box; 1]>,
    /// Whether reducing loops are cut, so that the result waits to be combined.
    pub partial: bool,
}

impl ShardedGraph {
    /// The mesh axes that cut reducing loops of a node with these axes, and how the parts combine.
    pub fn combination(&self, value: ValueId, axes: &Axes) -> (AxisSet, Monoid) {
        let (mut cut, mut monoid) = (0u8, Monoid::Sum);
        for (split, l) in self.strategies[value.index()].iter().zip(&axes.loops) {
            if let (LoopKind::Reduce(m), true) = (l.kind, split.axes().0 != 0) {
                cut |= split.axes().0;
                monoid = m;
            }
        }
        (AxisSet(cut), monoid)
    }

    /// The element type of a part of a combination of `value` that is as large as `part`; its own is `own`.
    pub fn carried_in(&self, value: ValueId, (cut, monoid): (AxisSet, Monoid), own: DType, part: &Box) -> DType {
        let wide = monoid.carried_in(own);
        let message = element_count(&box_dims(part)) * wide.size() / self.region(value).shape.parts(cut);
        if message <= CARRIED_BYTES { wide } else { own }
    }

    /// The constants that every die fills in where it reads them: those of steps with loops, see [`splats`], and of unrolled ones.
    pub fn splats(&self) -> Vec<bool> {
        if self.stages.regions.is_empty() { splats(&self.step.graph) } else { constants(&self.step.graph, true) }
    }

    /// The rectangle of the mesh that a node has.
    pub fn region(&self, value: ValueId) -> Region {
        self.stages.region(value, self.mesh)
    }

    /// Which part of a loop of a node on these axes a logical die of its rectangle has.
    pub fn part(&self, value: ValueId, axes: AxisSet, die: u32) -> Option<usize> {
        let region = self.region(value);
        region.local(self.mesh, die as usize).map(|d| region.shape.part(axes, d))
    }

    /// What a logical die does of a node with these axes; `None` when its share is empty.
    pub fn shard(&self, value: ValueId, axes: &Axes, die: usize) -> Option<Shard> {
        let strategy = &self.strategies[value.index()];
        let region = self.region(value);
        let die = region.local(self.mesh, die)?;
        let split = |i: usize| strategy.get(i).copied().unwrap_or(LoopSplit::WHOLE);
        let ranges: Vec<Range<usize>> = axes.loops.iter().enumerate().map(|(i, l)| split(i).range(l.extent, region.shape, die)).collect();
        let components = self.step.graph.ty(value).components();
        let results: SmallVec<[Box; 1]> = components.iter().enumerate().map(|(k, t)| axes.result_box(k, &t.shape, &ranges)).collect();
        let partial = axes.loops.iter().zip(&ranges).any(|(l, r)| matches!(l.kind, LoopKind::Reduce(_)) && (r.end - r.start) < l.extent);
        // A share without results is no work, also when the whole value has no elements.
        let idle = axes.loops.iter().zip(&ranges).any(|(l, r)| r.is_empty() && l.extent > 0) || results.iter().all(|b| box_is_empty(b));
        (!idle).then_some(Shard { ranges, results, partial })
    }
}
