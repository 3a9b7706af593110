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
    writes: bool,
}

#[derive(Default)]
pub(super) struct DieEmitter {
    stream: Vec<Instr>,
    claims: Vec<ClaimId>,
    out_ports: IndexSet<ChannelId>,
    in_ports: IndexSet<ChannelId>,
    issued: BTreeMap<Queue, u32>,
    /// The bytes of each entry of `in_flight`, apart from it, since they are looked at for every instruction.
    flying: Vec<Range<u64>>,
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
            self.flying.clear();
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
            for (at, span) in self.flying.iter().enumerate() {
                if span.start >= bytes.end || bytes.start >= span.end {
                    continue;
                }
                // Entries of one queue complete in order; two plain receives of it never conflict.
                let f = &self.in_flight[at];
                let ordered = queue == Some(f.queue) && !combining;
                if (*writes || f.writes) && !ordered && f.overlaps(view) {
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
            let stays = |f: &InFlight| f.queue != queue || f.index > count;
            let mut at = self.in_flight.iter();
            self.flying.retain(|_| at.next().is_none_or(stays));
            self.in_flight.retain(stays);
        }
        self.stream.push(instr);
        self.claims.push(claim);
        if let Some(queue) = queue {
            let index = self.issued.entry(queue).or_default();
            *index += 1;
            let index = *index;
            for (view, writes, bytes) in touched {
                self.flying.push(bytes);
                self.in_flight.push(InFlight { queue, index, buffer: view.buffer, part: view.part.clone(), writes });
            }
        }
    }
}

impl InFlight {
    /// Whether a view that lies over the same bytes shares elements with it.
    fn overlaps(&self, view: &View) -> bool {
        self.buffer != view.buffer || box_intersect(&self.part, &view.part).is_some() || self.part.is_empty()
    }
}

fn extent(plan: &MemoryPlan, view: &View) -> Range<u64> {
    super::region(plan, view).extent().unwrap_or(0..0)
}
