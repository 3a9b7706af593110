//! One die's stream while it is being emitted: ports, queue counters, and what is still in flight.

use crate::memory::MemoryPlan;
use crate::place::{BufferId, Message, Task, TaskKind, View};
use girih_ir::axes::{Box, box_intersect, box_is_empty};
use girih_ir::program::{ChannelId, ClaimId, Instr, PortId, Queue};
use girih_ir::target::{Direction, LinkId};
use indexmap::IndexSet;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Range;

/// At most this many queue entries stay unwaited, so that the search for hazards stays short.
const WINDOW: usize = 96;

/// A queue entry that the stream has not waited for.
struct InFlight {
    queue: Queue,
    index: u32,
    buffer: BufferId,
    part: Box,
    bytes: Range<u64>,
    writes: bool,
}

#[derive(Default)]
pub(super) struct DieEmitter {
    stream: Vec<Instr>,
    claims: Vec<ClaimId>,
    out_ports: IndexSet<ChannelId>,
    in_ports: IndexSet<ChannelId>,
    issued: BTreeMap<Queue, u32>,
    in_flight: Vec<InFlight>,
}

/// The side of the die on which a link leaves.
fn side(link: LinkId) -> Direction {
    Direction::ALL[link.index() % 4]
}

/// The queue of a task, if it is a queued one.
pub(super) fn queue_of(kind: &TaskKind, messages: &[Message]) -> Option<Queue> {
    match kind {
        TaskKind::Send(m) => messages[*m as usize].route.first().map(|l| Queue::Out(side(*l))),
        TaskKind::Recv(m, _) => messages[*m as usize].route.last().map(|l| Queue::In(side(*l).opposite())),
        TaskKind::Load(_) => Some(Queue::Load),
        TaskKind::Store(_) => Some(Queue::Store),
        TaskKind::Compute { .. } | TaskKind::Copy | TaskKind::LoopBegin(_) | TaskKind::LoopExit(_) | TaskKind::LoopEnd(_) => None,
    }
}

impl DieEmitter {
    pub(super) fn out_port(&mut self, channel: ChannelId) -> PortId {
        PortId::new(self.out_ports.insert_full(channel).0)
    }

    pub(super) fn in_port(&mut self, channel: ChannelId) -> PortId {
        PortId::new(self.in_ports.insert_full(channel).0)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stream.is_empty()
    }

    pub(super) fn into_parts(self) -> (Vec<Instr>, Vec<ClaimId>, Vec<ChannelId>, Vec<ChannelId>) {
        (self.stream, self.claims, self.out_ports.into_iter().collect(), self.in_ports.into_iter().collect())
    }

    /// Appends an instruction, behind the waits that its bytes need.
    pub(super) fn emit(&mut self, instr: Instr, claim: ClaimId, queue: Option<Queue>, task: &Task, plan: &MemoryPlan, control: ClaimId) {
        if instr.is_fence() {
            // It waits for everything, and counting starts again.
            self.in_flight.clear();
            self.issued.clear();
            self.stream.push(instr);
            self.claims.push(claim);
            return;
        }
        let combining = matches!(instr, Instr::RecvAdd { .. });
        let touched: SmallVec<[(&View, bool, Range<u64>); 6]> = (task.reads.iter().map(|v| (v, false)))
            .chain(task.writes.iter().map(|v| (v, true)))
            .filter(|(v, _)| !box_is_empty(&v.part))
            .map(|(v, writes)| (v, writes, extent(plan, v)))
            .collect();
        let mut needed: BTreeMap<Queue, u32> = BTreeMap::new();
        for (view, writes, bytes) in &touched {
            for f in &self.in_flight {
                // Entries of one queue complete in order; two plain receives of it never conflict.
                let ordered = queue == Some(f.queue) && !combining;
                if (*writes || f.writes) && !ordered && f.overlaps(view, bytes) {
                    let count = needed.entry(f.queue).or_default();
                    *count = (*count).max(f.index);
                }
            }
        }
        if let (Some(_), true) = (queue, self.in_flight.len() >= WINDOW) {
            let oldest = &self.in_flight[0];
            let count = needed.entry(oldest.queue).or_default();
            *count = (*count).max(oldest.index);
        }
        for (queue, count) in needed {
            self.stream.push(Instr::Wait { queue, count });
            self.claims.push(control);
            self.in_flight.retain(|f| f.queue != queue || f.index > count);
        }
        self.stream.push(instr);
        self.claims.push(claim);
        if let Some(queue) = queue {
            let index = self.issued.entry(queue).or_default();
            *index += 1;
            let index = *index;
            for (view, writes, bytes) in touched {
                self.in_flight.push(InFlight { queue, index, buffer: view.buffer, part: view.part.clone(), bytes, writes });
            }
        }
    }
}

impl InFlight {
    fn overlaps(&self, view: &View, bytes: &Range<u64>) -> bool {
        if self.bytes.start >= bytes.end || bytes.start >= self.bytes.end {
            return false;
        }
        self.buffer != view.buffer || box_intersect(&self.part, &view.part).is_some() || self.part.is_empty()
    }
}

fn extent(plan: &MemoryPlan, view: &View) -> Range<u64> {
    super::region(plan, view).extent().unwrap_or(0..0)
}
