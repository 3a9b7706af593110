//! Placed graphs: the tasks of every die in one global topological order, and the buffers that they touch.

use crate::sharded::ShardedGraph;
use girih_ir::axes::Box;
use girih_ir::graph::ValueId;
use girih_ir::newtype_id;
use girih_ir::scalar::Monoid;
use girih_ir::target::{DieId, LinkId};
use girih_ir::types::{DType, TensorType};
use std::ops::Range;

newtype_id! {
    /// A buffer of one die.
    BufferId, "b"
}

/// Where a buffer's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// Its own, planned by `memory`.
    Own,
    /// The bytes of another buffer of the die, row by row: a reshape of it.
    Alias(BufferId),
    /// Resident between steps: a shard of this state pair.
    State(u32),
    /// Kept from iteration to iteration: a shard of a slot of a loop. The value is the slot's `carry`.
    Carry,
}

/// A dense row-major part of a value in one die's SRAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Logical die.
    pub die: u32,
    /// The value.
    pub value: ValueId,
    /// Its component.
    pub component: u32,
    /// Which part.
    pub part: Box,
    /// Element type: the value's, or that in which its sums are carried.
    pub dtype: DType,
    /// Where the bytes are.
    pub storage: Storage,
}

impl Buffer {
    /// The type of the dense part.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, girih_ir::axes::box_dims(&self.part))
    }
    /// Bytes of the dense part.
    pub fn bytes(&self) -> u64 {
        self.ty().bytes() as u64
    }
}

/// A part of a buffer, in coordinates of the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// The part; inside the buffer's.
    pub part: Box,
}

/// What a task does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskKind {
    /// One die's share of a node.
    Compute {
        /// The node.
        node: ValueId,
        /// One range a loop.
        ranges: Vec<Range<usize>>,
    },
    /// Copies within the die; a sum that was carried in another type is rounded to the value's.
    Copy,
    /// Reads a part of input number `0` from host memory.
    Load(u32),
    /// Writes a part of output number `0` to host memory.
    Store(u32),
    /// Sends message number `0`.
    Send(u32),
    /// Begins the loop that ends at this node. Reads the carried shards of the die in slot order, and writes the number of the iteration
    /// where it is used.
    LoopBegin(ValueId),
    /// Leaves the loop that ends at this node unless its predicate, which it reads, holds.
    LoopExit(ValueId),
    /// Ends an iteration of the loop that ends at this node. Reads the carried shards.
    LoopEnd(ValueId),
    /// Receives message number `0`, combining it when a monoid is given.
    Recv(u32, Option<Monoid>),
}

/// Work of one die.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Logical die.
    pub die: u32,
    /// What.
    pub kind: TaskKind,
    /// Read, one an operand for `Compute`.
    pub reads: Vec<View>,
    /// Written (also read by a combining `Recv`).
    pub writes: Vec<View>,
}

/// A transfer between two dies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Sending logical die.
    pub from: u32,
    /// Receiving logical die.
    pub to: u32,
    /// The route.
    pub route: Vec<LinkId>,
    /// Bytes.
    pub bytes: u64,
}

/// A sharded graph with every die's work.
#[derive(Clone, PartialEq, Debug)]
pub struct PlacedGraph {
    /// What is computed.
    pub sharded: ShardedGraph,
    /// The physical die of each logical one.
    pub dies: Vec<DieId>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// Tasks in a global topological order.
    pub tasks: Vec<Task>,
    /// Transfers.
    pub messages: Vec<Message>,
}

impl PlacedGraph {
    /// The buffer whose bytes a buffer uses, and is itself when it has its own.
    pub fn root(&self, mut id: BufferId) -> BufferId {
        while let Storage::Alias(of) = self.buffers[id.index()].storage {
            id = of;
        }
        id
    }
}
