//! The instruction set. One instruction does one op's work on one die's shard of it; regions carry all shapes.

use super::{FusedId, HostId, LiteralId, PortId, Region};
use crate::axes::Box;
use crate::scalar::Monoid;
use crate::target::Direction;
use crate::types::Dims;
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

/// The regions that an instruction reads or writes.
pub type Regions<'i> = SmallVec<[&'i Region; 4]>;

/// The same, to be changed.
pub type RegionsMut<'i> = SmallVec<[&'i mut Region; 4]>;

/// The regions that an instruction reads, but what `recv_add` adds to.
macro_rules! read_only {
    ($instr:expr, $iter:ident) => {
        match $instr {
            Instr::Gemm { a, b, .. } => smallvec![a, b],
            Instr::Conv { lhs, rhs, .. } => smallvec![lhs, rhs],
            Instr::Map { ins, .. }
            | Instr::Sort { ins, .. }
            | Instr::Random { ins, .. }
            | Instr::Concat { ins, .. }
            | Instr::Attention { ins, .. } => ins.$iter().collect(),
            Instr::Reduce { input, .. }
            | Instr::ArgReduce { input, .. }
            | Instr::ReduceWindow { input, .. }
            | Instr::Scan { input, .. }
            | Instr::TopK { input, .. }
            | Instr::AllReduce { input, .. }
            | Instr::Copy { input, .. } => smallvec![input],
            Instr::SelectScatter { input, source, .. } => smallvec![input, source],
            Instr::Gather { operand, indices, .. } => smallvec![operand, indices],
            Instr::Scatter { operand, indices, updates, .. } => smallvec![operand, indices, updates],
            Instr::DynamicSlice { operand, starts, .. } => std::iter::once(operand).chain(starts).collect(),
            Instr::DynamicUpdateSlice { operand, update, starts, .. } => [operand, update].into_iter().chain(starts).collect(),
            Instr::Pad { input, fill, .. } => smallvec![input, fill],
            Instr::Send { region, .. } | Instr::Store { region, .. } => smallvec![region],
            Instr::Loop { carries, .. } => carries.$iter().collect(),
            Instr::ExitUnless { predicate } => smallvec![predicate],
            Instr::Fill { .. }
            | Instr::Constant { .. }
            | Instr::Iota { .. }
            | Instr::Recv { .. }
            | Instr::RecvAdd { .. }
            | Instr::Load { .. }
            | Instr::Wait { .. }
            | Instr::EndLoop
            | Instr::End => smallvec![],
        }
    };
}

/// The regions that an instruction writes.
macro_rules! written {
    ($instr:expr, $iter:ident) => {
        match $instr {
            Instr::Map { outs, .. } | Instr::Sort { outs, .. } | Instr::Attention { outs, .. } => outs.$iter().collect(),
            Instr::TopK { values, positions, .. } => smallvec![values, positions],
            Instr::Gemm { out, .. }
            | Instr::Conv { out, .. }
            | Instr::Reduce { out, .. }
            | Instr::ArgReduce { out, .. }
            | Instr::ReduceWindow { out, .. }
            | Instr::SelectScatter { out, .. }
            | Instr::Gather { out, .. }
            | Instr::Scatter { out, .. }
            | Instr::DynamicSlice { out, .. }
            | Instr::DynamicUpdateSlice { out, .. }
            | Instr::Scan { out, .. }
            | Instr::Random { out, .. }
            | Instr::Copy { out, .. }
            | Instr::Pad { out, .. }
            | Instr::Concat { out, .. }
            | Instr::Fill { out, .. }
            | Instr::Constant { out, .. }
            | Instr::Iota { out, .. }
            | Instr::Recv { out, .. }
            | Instr::RecvAdd { out, .. }
            | Instr::AllReduce { out, .. }
            | Instr::Load { out, .. } => smallvec![out],
            Instr::Loop { index, .. } => index.$iter().collect(),
            Instr::Send { .. } | Instr::Store { .. } | Instr::Wait { .. } | Instr::ExitUnless { .. } | Instr::EndLoop | Instr::End => {
                smallvec![]
            }
        }
    };
}

/// An asynchronous queue of a die.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Queue {
    /// Messages that leave over the link in this direction (the first link of the channel's route).
    Out(Direction),
    /// Messages that arrive over the link in this direction (the side of this die where the last link of the route ends).
    In(Direction),
    /// Loads from host memory.
    Load,
    /// Stores to host memory.
    Store,
    /// Combinations over all replicas.
    Collective,
}

/// Window parameters of a convolution or pooling, one entry a spatial dimension.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct WindowDims {
    /// Window extents (pooling only; a convolution's are those of its filter).
    pub size: Vec<usize>,
    /// Step between windows.
    pub stride: Vec<usize>,
    /// Padding before the first element; negative crops.
    pub pad_low: Vec<i64>,
    /// Padding after the last element; negative crops.
    pub pad_high: Vec<i64>,
    /// Dilation of the operand.
    pub base_dilation: Vec<usize>,
    /// Dilation of the window.
    pub window_dilation: Vec<usize>,
    /// Whether the window is reversed (convolution only).
    pub reverse: Vec<bool>,
}

/// One instruction. Regions are read unless their field is named `out` or `outs`.
///
/// An input region may equal an output region exactly (in place) only in `map`, as the running operand of `scatter` and
/// `dynamic_update_slice`, in `all_reduce`, and in a `copy` that visits its bytes in the same order, where it gives them another name;
/// otherwise they do not overlap. The container numbers the variants, so new ones come last.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Instr {
    /// `out[b…, m…, n…] = Σ_k a[b…, m…, k…] · b[b…, n…, k…]`: `batch`, then free, then contracting dimensions.
    Gemm {
        /// Batch, m and n dimensions.
        out: Region,
        /// Batch, m and k dimensions.
        a: Region,
        /// Batch, n and k dimensions.
        b: Region,
        /// Number of batch dimensions.
        batch: u32,
        /// Number of contracting dimensions, the trailing ones of `a` and `b`.
        contract: u32,
    },
    /// General convolution: `out` [n, c_out, spatial…], `lhs` [n, c_in, spatial…], `rhs` [c_out, c_in / groups, spatial…].
    Conv {
        /// Result.
        out: Region,
        /// Input.
        lhs: Region,
        /// Filter.
        rhs: Region,
        /// Window.
        window: WindowDims,
        /// Groups of features.
        feature_groups: u32,
        /// Groups of the batch.
        batch_groups: u32,
    },
    /// Runs a fused program at every point of the iteration space; `rows` when `cols > 0`.
    Map {
        /// The program.
        program: FusedId,
        /// Extents of the iteration space.
        loops: Dims,
        /// Trailing loop dimensions that are columns.
        cols: u32,
        /// Global index of the space's first point, for `Index`.
        origin: Dims,
        /// One region an operand, with one dimension a loop (stride 0 where the operand does not move).
        ins: Vec<Region>,
        /// One region a result: loop dimensions, or only the row ones for per-row results.
        outs: Vec<Region>,
    },
    /// `out[kept…] = combine(input[kept…, reduced…])`.
    Reduce {
        /// Combiner.
        monoid: Monoid,
        /// Kept dimensions.
        out: Region,
        /// Kept, then reduced dimensions.
        input: Region,
    },
    /// Index (along the last dimension of `input`) of the extreme.
    ArgReduce {
        /// Largest or smallest.
        max: bool,
        /// The last one wins a tie instead of the first.
        last: bool,
        /// Kept dimensions, an integer type.
        out: Region,
        /// Kept dimensions, then the searched one.
        input: Region,
        /// Global index of the first element searched.
        origin: u64,
    },
    /// Pooling: combines each window. Window lists have one entry a dimension.
    ReduceWindow {
        /// Combiner.
        monoid: Monoid,
        /// Result.
        out: Region,
        /// Operand.
        input: Region,
        /// Window.
        window: WindowDims,
    },
    /// Gradient of max (or min) pooling: adds each source element where its window's first extreme is; `out` is set to zero first.
    SelectScatter {
        /// Largest or smallest wins.
        max: bool,
        /// Shape of the operand.
        out: Region,
        /// Operand.
        input: Region,
        /// One element a window.
        source: Region,
        /// Window.
        window: WindowDims,
    },
    /// StableHLO `gather` on local regions. `start` is subtracted from every index before clamping (a shard's first row).
    Gather {
        /// Result.
        out: Region,
        /// Table.
        operand: Region,
        /// Indices, an integer type.
        indices: Region,
        /// Dimension numbers.
        dims: crate::ops::gather::Gather,
        /// Per operand dimension: global index of its first local element, and the global extent (clamping is against that).
        origin: Vec<(u64, u64)>,
    },
    /// StableHLO `scatter`: `out` is `operand` with the updates combined in.
    Scatter {
        /// Result.
        out: Region,
        /// Initial values; may equal `out`.
        operand: Region,
        /// Indices, an integer type.
        indices: Region,
        /// Updates.
        updates: Region,
        /// Dimension numbers and combiner.
        dims: crate::ops::scatter::Scatter,
    },
    /// StableHLO `dynamic_slice`: `starts` are scalars of one integer type.
    DynamicSlice {
        /// Result.
        out: Region,
        /// Operand.
        operand: Region,
        /// Scalar starts.
        starts: Vec<Region>,
    },
    /// StableHLO `dynamic_update_slice`: `out` is `operand` with the update written in.
    DynamicUpdateSlice {
        /// Result.
        out: Region,
        /// Operand; may equal `out`.
        operand: Region,
        /// The update.
        update: Region,
        /// Scalar starts.
        starts: Vec<Region>,
    },
    /// Running combination along a dimension.
    Scan {
        /// Combiner.
        monoid: Monoid,
        /// The dimension.
        dim: u32,
        /// Leaves the current element out.
        exclusive: bool,
        /// From the end.
        reverse: bool,
        /// Result.
        out: Region,
        /// Operand.
        input: Region,
    },
    /// Stable sort along a dimension by the first operand; the others are carried along.
    Sort {
        /// The dimension.
        dim: u32,
        /// Largest first.
        descending: bool,
        /// Results.
        outs: Vec<Region>,
        /// Operands.
        ins: Vec<Region>,
    },
    /// The k extremes of the last dimension, in order, and their positions.
    TopK {
        /// Largest or smallest.
        largest: bool,
        /// Values.
        values: Region,
        /// Positions.
        positions: Region,
        /// Operand.
        input: Region,
    },
    /// Counter-based random numbers keyed by global element index.
    Random {
        /// Result.
        out: Region,
        /// Distribution and key.
        random: crate::ops::random::Random,
        /// Scalar operands of the op (key, counter).
        ins: Vec<Region>,
        /// Global index of the first element, and the global extents.
        origin: Vec<(u64, u64)>,
    },
    /// Copies elements; the regions have equal extents. Slices, transpositions, broadcasts, reversals and reshapes are copies.
    Copy {
        /// To.
        out: Region,
        /// From.
        input: Region,
    },
    /// Pads: `out[i] = input[(i − low) / (interior + 1)]` where that is an element, else the scalar `fill`.
    Pad {
        /// To.
        out: Region,
        /// From.
        input: Region,
        /// Scalar.
        fill: Region,
        /// Position of the first operand element in `out`, per dimension; may be negative.
        low: Vec<i64>,
        /// Gap between operand elements, per dimension.
        interior: Vec<usize>,
    },
    /// Joins along a dimension; parts that are not needed here are absent.
    Concat {
        /// To.
        out: Region,
        /// The dimension.
        dim: u32,
        /// From, in order; their extents along `dim` add up to that of `out`.
        ins: Vec<Region>,
    },
    /// Sets every element to one value, given by the bytes of one element in the low bytes.
    Fill {
        /// To.
        out: Region,
        /// The element's bytes.
        bits: u64,
    },
    /// Writes the part of a constant that begins at `starts`.
    Constant {
        /// To.
        out: Region,
        /// The constant.
        literal: LiteralId,
        /// First index in the constant.
        starts: Dims,
    },
    /// The global index along a dimension, converted to the element type.
    Iota {
        /// To.
        out: Region,
        /// The dimension.
        dim: u32,
        /// Index of the first element.
        start: u64,
    },
    /// Puts a message of the region's elements (row-major) into a channel.
    Send {
        /// Outgoing port.
        port: PortId,
        /// From.
        region: Region,
    },
    /// Takes the next message of a channel.
    Recv {
        /// Incoming port.
        port: PortId,
        /// To.
        out: Region,
    },
    /// Takes the next message of a channel and combines it into the region: `out = monoid(out, message)`.
    RecvAdd {
        /// Incoming port.
        port: PortId,
        /// To.
        out: Region,
        /// Combiner.
        monoid: Monoid,
    },
    /// Reads a box of a host tensor.
    Load {
        /// From.
        host: HostId,
        /// Which part.
        part: Box,
        /// To.
        out: Region,
    },
    /// Writes a box of a host tensor.
    Store {
        /// To.
        host: HostId,
        /// Which part.
        part: Box,
        /// From.
        region: Region,
    },
    /// Blocks until the queue has completed `count` entries since the step began, or since the last `loop`, `exit_unless` or `end_loop`.
    Wait {
        /// The queue.
        queue: Queue,
        /// Entries.
        count: u32,
    },
    /// The step is over when every queue has drained.
    End,
    /// Begins a loop; its iterations are the instructions up to the matching `end_loop`. `loop`, `exit_unless` and `end_loop` wait until
    /// every queue of the die has drained, and `wait` counts the entries since the last of them.
    Loop {
        /// How often it runs; without, until an `exit_unless`.
        trips: Option<u64>,
        /// An i64 scalar that holds the number of the iteration, from 0, at the start of each.
        index: Option<Region>,
        /// What the loop hands from iteration to iteration, in place: at the start the values before the loop, at `end_loop` those of the
        /// next iteration.
        carries: Vec<Region>,
    },
    /// Leaves the innermost loop when the `bool` scalar is false.
    ExitUnless {
        /// The scalar.
        predicate: Region,
    },
    /// The end of an iteration of the innermost loop, and of the loop when it has run its trips.
    EndLoop,
    /// Combines the region with those of the dies of the same position in all replicas, which issue the same instruction: see
    /// [`all_reduce`](crate::ops::all_reduce) for the order. It goes into the queue `collective`.
    AllReduce {
        /// Combiner.
        monoid: Monoid,
        /// Result.
        out: Region,
        /// Operand.
        input: Region,
    },
    /// Products with row programs between them, without their results in memory: see [`attention`](crate::ops::attention) and
    /// [`attention_grad`](crate::ops::attention_grad). Regions list batch, rows and width; masks one dimension a loop (batch, queries, keys),
    /// stride 0 where they do not move.
    Attention {
        /// From scores and masks to weights.
        weights: FusedId,
        /// From weights and their cotangents to the cotangents of the scores; with it, the instruction is the gradient.
        scores: Option<FusedId>,
        /// Global index of the first batch, query and key, for `Index`.
        origin: Dims,
        /// q, k, v, of the gradient also g; then the masks.
        ins: Vec<Region>,
        /// The result, or dq, dk and dv.
        outs: Vec<Region>,
    },
}

impl Instr {
    /// The mnemonic in the text form.
    pub fn name(&self) -> &'static str {
        match self {
            Instr::Gemm { .. } => "gemm",
            Instr::Conv { .. } => "conv",
            Instr::Map { cols: 0, .. } => "map",
            Instr::Map { .. } => "rows",
            Instr::Reduce { .. } => "reduce",
            Instr::ArgReduce { .. } => "arg_reduce",
            Instr::ReduceWindow { .. } => "reduce_window",
            Instr::SelectScatter { .. } => "select_scatter",
            Instr::Gather { .. } => "gather",
            Instr::Scatter { .. } => "scatter",
            Instr::DynamicSlice { .. } => "dynamic_slice",
            Instr::DynamicUpdateSlice { .. } => "dynamic_update_slice",
            Instr::Scan { .. } => "scan",
            Instr::Sort { .. } => "sort",
            Instr::TopK { .. } => "top_k",
            Instr::Random { .. } => "random",
            Instr::Copy { .. } => "copy",
            Instr::Pad { .. } => "pad",
            Instr::Concat { .. } => "concat",
            Instr::Fill { .. } => "fill",
            Instr::Constant { .. } => "constant",
            Instr::Iota { .. } => "iota",
            Instr::Send { .. } => "send",
            Instr::Recv { .. } => "recv",
            Instr::RecvAdd { .. } => "recv_add",
            Instr::Load { .. } => "load",
            Instr::Store { .. } => "store",
            Instr::Wait { .. } => "wait",
            Instr::Loop { .. } => "loop",
            Instr::ExitUnless { .. } => "exit_unless",
            Instr::EndLoop => "end_loop",
            Instr::AllReduce { .. } => "all_reduce",
            Instr::End => "end",
            Instr::Attention { scores: None, .. } => "attention",
            Instr::Attention { .. } => "attention_grad",
        }
    }

    /// The regions that the instruction reads.
    pub fn reads(&self) -> Regions<'_> {
        match self {
            Instr::RecvAdd { out, .. } => smallvec![out],
            _ => read_only!(self, iter),
        }
    }

    /// The regions that the instruction reads, in the order of [`reads`](Self::reads), to be changed. What `recv_add` adds to is among
    /// those that it [writes](Self::writes_mut).
    pub fn reads_mut(&mut self) -> RegionsMut<'_> {
        read_only!(self, iter_mut)
    }

    /// The regions that the instruction writes.
    pub fn writes(&self) -> Regions<'_> {
        written!(self, iter)
    }

    /// The regions that the instruction writes, in the order of [`writes`](Self::writes), to be changed.
    pub fn writes_mut(&mut self) -> RegionsMut<'_> {
        written!(self, iter_mut)
    }

    /// Whether the instruction waits for all queues of its die and lets `wait` count anew.
    pub fn is_fence(&self) -> bool {
        matches!(self, Instr::Loop { .. } | Instr::ExitUnless { .. } | Instr::EndLoop)
    }

    /// Whether the instruction goes into a queue instead of running on the compute engine.
    pub fn is_async(&self) -> bool {
        matches!(
            self,
            Instr::Send { .. }
                | Instr::Recv { .. }
                | Instr::RecvAdd { .. }
                | Instr::Load { .. }
                | Instr::Store { .. }
                | Instr::AllReduce { .. }
        )
    }
}
