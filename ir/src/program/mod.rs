//! Programs: the lowered result, one instruction stream per die, and everything that a stranger needs to check and run it.
//!
//! A die has one in-order compute stream and asynchronous queues: one for each link direction and way, two for host memory, and one for
//! combinations over replicas. `send`, `recv`, `load`, `store` and `all_reduce` are put into their queue when the stream reaches them and complete later, in queue order; a
//! queue's monotone counter tells how many have completed since the step began or since the last fence, and `wait` blocks the stream until a
//! count is reached. `loop`, `exit_unless` and `end_loop` are fences: they wait until all queues of the die have drained.
//! A region that a queue still uses may not be touched in a conflicting way before the `wait` that covers it. Channels are one-way,
//! ordered, and have credits: a send completes only while fewer than `depth` messages are on the way.

pub mod codec;
mod form;
pub mod instr;
pub mod parse;
pub mod replicas;
pub mod text;
pub mod valid;
mod wire;

pub use instr::{Instr, Queue, Regions, RegionsMut};
pub use parse::parse_program;
pub use replicas::Replicas;

use crate::axes::Box;
use crate::fused::FusedProgram;
use crate::graph::Graph;
use crate::graph::ValueId;
use crate::literal::Literal;
use crate::newtype_id;
use crate::step::TrainStep;
use crate::target::{DieId, LinkId, Target};
use crate::types::{DType, Dims, Layout, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

newtype_id! {
    /// A channel of the program.
    ChannelId, "ch"
}
newtype_id! {
    /// A port of one die: an index into its `out_ports` or `in_ports`. Ports keep streams of alike dies identical.
    PortId, "c"
}
newtype_id! {
    /// A tensor in host memory.
    HostId, "h"
}
newtype_id! {
    /// A fused program of the program.
    FusedId, "f"
}
newtype_id! {
    /// A constant of the program.
    LiteralId, "k"
}
newtype_id! {
    /// A stream, shared by the dies that run it.
    StreamId, "s"
}
newtype_id! {
    /// What an instruction claims to compute or move.
    ClaimId, "claim"
}

/// A strided view of one die's SRAM.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Region {
    /// Byte address of element (0, 0, …).
    pub offset: u64,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub dims: Dims,
    /// Distance between neighbors in elements, one a dimension; 0 repeats (reads only), negative reverses.
    pub strides: SmallVec<[i64; 6]>,
}

impl Region {
    /// The dense row-major region of a tensor type.
    pub fn dense(offset: u64, ty: &TensorType) -> Self {
        let strides = crate::types::row_major_strides(&ty.shape).into_iter().map(|s| s as i64).collect();
        Region { offset, dtype: ty.dtype, dims: ty.shape.clone(), strides }
    }

    /// The part of the region at `starts` with extents `dims`.
    pub fn sub(&self, starts: &[usize], dims: &[usize]) -> Self {
        let shift: i64 = starts.iter().zip(&self.strides).map(|(i, s)| *i as i64 * s).sum();
        let offset = self.offset.wrapping_add_signed(shift * self.dtype.size() as i64);
        Region { offset, dtype: self.dtype, dims: Dims::from_slice(dims), strides: self.strides.clone() }
    }

    /// Number of elements that the view shows.
    pub fn elements(&self) -> usize {
        crate::types::element_count(&self.dims)
    }

    /// Payload bytes (elements times element size).
    pub fn bytes(&self) -> u64 {
        self.elements() as u64 * self.dtype.size() as u64
    }

    /// The half-open byte range that the view touches; `None` when it would be negative or overflow.
    pub fn extent(&self) -> Option<Range<u64>> {
        if self.elements() == 0 {
            return Some(self.offset..self.offset);
        }
        let (mut low, mut high) = (self.offset as i128, self.offset as i128);
        for (d, s) in self.dims.iter().zip(&self.strides) {
            let reach = (*d as i128 - 1) * i128::from(*s) * self.dtype.size() as i128;
            if reach < 0 { low += reach } else { high += reach }
        }
        let high = high + self.dtype.size() as i128;
        (low >= 0 && high <= i64::MAX as i128).then_some(low as u64..high as u64)
    }

    /// The layout relative to a slice of elements that begins at byte `start`, which must be aligned to the element.
    pub fn layout(&self, start: u64) -> Layout {
        Layout {
            base: ((self.offset - start) / self.dtype.size() as u64) as usize,
            dims: self.dims.clone(),
            strides: self.strides.iter().map(|s| *s as isize).collect(),
        }
    }
}

/// A one-way ordered connection between two dies, with a fixed route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Channel {
    /// Sending die.
    pub source: DieId,
    /// Receiving die.
    pub dest: DieId,
    /// The links that every message takes, in order.
    pub route: Vec<LinkId>,
    /// Credits: messages that may be on the way at once; at least 1.
    pub depth: u32,
}

/// What a host tensor is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HostUse {
    /// Input number `0` of the step's graph, given before the step.
    Input(u32),
    /// Output number `0` of the step's graph, read after the step.
    Output(u32),
    /// State pair number `0` of the step: it stays here between the steps and has no shards in SRAM. Loads read the value that it had before
    /// the step, at any time; stores make the value that it has behind the step, all of it or nothing.
    State(u32),
}

/// A tensor in host memory, dense.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostTensor {
    /// Its name in the model.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
    /// What it is for.
    pub usage: HostUse,
}

/// Where a part of a state tensor lives between steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StateShard {
    /// Index into [`Program::dies`].
    pub die: u32,
    /// The part of the tensor.
    pub part: Box,
    /// Where it lies, before the first instruction and after the last.
    pub region: Region,
}

/// What an instruction says it does, in terms of the reference step. The checker holds it to that.
/// The container numbers the variants, so new ones come last.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Claim {
    /// It computes the node over these ranges of the node's loop nest (`Op::axes`). Ranges of reducing loops that are not full
    /// make a partial result.
    Compute {
        /// The node of the reference graph.
        node: ValueId,
        /// One range a loop.
        ranges: Vec<Range<usize>>,
    },
    /// It moves this part of a value as it is.
    Move {
        /// The value.
        value: ValueId,
        /// The component, for a tuple.
        component: u32,
        /// The part.
        part: Box,
    },
    /// It touches no tensor (`wait`, `end`).
    Control,
    /// It begins or ends the loop that ends at this node, of which the die carries these parts (a slot and a box for each region of the
    /// `loop` instruction); for `exit_unless`, it leaves it. Both ends of one loop have the same claim.
    Loop {
        /// The `repeat` or `while` node.
        end: ValueId,
        /// Slot and part of each carried region.
        parts: Vec<(u32, Box)>,
    },
}

/// The code of one die.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DieCode {
    /// The physical die.
    pub die: DieId,
    /// Its stream.
    pub stream: StreamId,
    /// One claim an instruction of the stream.
    pub claims: Vec<ClaimId>,
    /// The channels behind the stream's outgoing ports.
    pub out_ports: Vec<ChannelId>,
    /// The channels behind the stream's incoming ports.
    pub in_ports: Vec<ChannelId>,
    /// Bytes of SRAM that the plan uses: every region lies below.
    pub sram_used: u64,
}

impl Program {
    /// Streams alone are still to come: no graph behind them, one claim that says nothing.
    pub fn bare(name: impl Into<String>, target: Target) -> Program {
        let name = name.into();
        Program {
            step: TrainStep { graph: Graph::new(name.clone()), state: Vec::new(), loss: None, seed: 0 },
            name,
            target,
            dies: Vec::new(),
            streams: Vec::new(),
            channels: Vec::new(),
            host: Vec::new(),
            state: Vec::new(),
            fused: Vec::new(),
            literals: Vec::new(),
            claims: vec![Claim::Control],
            replicas: None,
        }
    }

    /// The host tensor in which a state pair stays between steps; `None` when its shards are in SRAM.
    pub fn streamed(&self, pair: usize) -> Option<HostId> {
        self.host.iter().position(|h| h.usage == HostUse::State(pair as u32)).map(HostId::new)
    }

    /// For each host tensor, whether the step stores anything into it.
    pub fn stored(&self) -> Vec<bool> {
        let mut stored = vec![false; self.host.len()];
        for instr in self.streams.iter().flatten() {
            if let Instr::Store { host, .. } = instr
                && let Some(slot) = stored.get_mut(host.index())
            {
                *slot = true;
            }
        }
        stored
    }
}

/// A lowered training step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Name of the model.
    pub name: String,
    /// The machine, whole, so that the program can be checked and simulated alone.
    pub target: Target,
    /// The reference step that the streams compute: after optimization and fusion, before sharding.
    pub step: TrainStep,
    /// The dies that have code, by ascending die.
    pub dies: Vec<DieCode>,
    /// The distinct streams.
    pub streams: Vec<Vec<Instr>>,
    /// Channels.
    pub channels: Vec<Channel>,
    /// Tensors in host memory.
    pub host: Vec<HostTensor>,
    /// For each state pair of the step, where it lives. Shards cover the tensor; equal parts may be on several dies. A pair that stays in
    /// host memory has none.
    pub state: Vec<Vec<StateShard>>,
    /// Fused programs that `map` and `rows` instructions run.
    pub fused: Vec<Arc<FusedProgram>>,
    /// Constants that `constant` instructions write.
    pub literals: Vec<Literal>,
    /// What the instructions claim.
    pub claims: Vec<Claim>,
    /// The replicas of the step that run side by side, when there are more than one: then `target`, `step` and `dies` are those of one of
    /// them, and all run the same streams.
    pub replicas: Option<std::boxed::Box<Replicas>>,
}
