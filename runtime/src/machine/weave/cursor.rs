//! Where the die stands in its stream, and what is in its queues.

use super::lives::Lives;
use super::regions::{moved, moves};
use crate::machine::loops::Loops;
use crate::machine::queues::{self, QUEUES};
use crate::machine::sram::overlap;
use crate::machine::task;
use girih_ir::program::{Instr, Program, Region};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// An entry of a queue.
#[derive(Clone, Debug)]
pub struct Pending {
    pub index: usize,
    pub channel: Option<usize>,
    /// Receives of other queues that write the same bytes and come first: queue and count.
    after: SmallVec<[(usize, u32); 2]>,
}

#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub entries: VecDeque<Pending>,
    issued: u32,
    completed: u32,
}

/// What never changes about a die.
pub struct Code<'p> {
    pub stream: &'p [Instr],
    pub base: u64,
    pub loops: Loops,
    pub lives: Lives,
    pub entries: Vec<Option<queues::Entry>>,
    /// The place of each instruction in the common order of the nodes, never less than that of the one before it.
    pub ranks: Vec<u32>,
}

impl Code<'_> {
    /// An instruction with its regions in the common memory.
    pub fn instr(&self, index: usize) -> Instr {
        moved(&self.stream[index], self.base)
    }

    pub fn region(&self, region: &Region) -> Region {
        Region { offset: region.offset + self.base, ..region.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Cursor {
    pub pc: usize,
    pub queues: [Queue; QUEUES],
}

/// What a die does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing until a queue moves.
    Waits,
    /// The instruction at the program counter only names bytes anew, or moves them as they are.
    Copies,
    Computes,
    /// A `loop`, `exit_unless` or `end_loop`, with all queues empty.
    Fence,
    Finished,
}

impl Cursor {
    pub fn new() -> Self {
        Cursor { pc: 0, queues: Default::default() }
    }

    /// Goes on to what it does next, putting transfers into their queues.
    pub fn advance(&mut self, code: &Code<'_>) -> Option<Next> {
        let quiet = |c: &Cursor| c.queues.iter().all(|q| q.entries.is_empty());
        while let Some(instr) = code.stream.get(self.pc) {
            match instr {
                Instr::Wait { queue, count } if self.queues[queues::slot(*queue)].completed < *count => return Some(Next::Waits),
                Instr::Wait { .. } | Instr::End => self.pc += 1,
                Instr::AllReduce { .. } => return None,
                _ if instr.is_fence() => return Some(if quiet(self) { Next::Fence } else { Next::Waits }),
                _ if moves(instr).is_some() => return Some(Next::Copies),
                _ if instr.is_async() => {
                    self.issue(code)?;
                    self.pc += 1;
                }
                _ => return Some(Next::Computes),
            }
        }
        Some(if quiet(self) { Next::Finished } else { Next::Waits })
    }

    fn issue(&mut self, code: &Code<'_>) -> Option<()> {
        let entry = code.entries[self.pc]?;
        let mut after = SmallVec::new();
        if (4..8).contains(&entry.queue) {
            let bytes = |i: usize| code.stream[i].writes().first().and_then(|r| task::extent(r).ok());
            let own = bytes(self.pc)?;
            for (q, queue) in self.queues.iter().enumerate().take(8).skip(4).filter(|(q, _)| *q != entry.queue) {
                for (i, old) in queue.entries.iter().enumerate() {
                    if bytes(old.index).is_none_or(|b| overlap(&b, &own)) {
                        after.push((q, queue.completed + i as u32 + 1));
                    }
                }
            }
        }
        let queue = &mut self.queues[entry.queue];
        queue.issued += 1;
        queue.entries.push_back(Pending { index: self.pc, channel: entry.channel, after });
        Some(())
    }

    /// The head of a queue, unless it comes after one of another queue.
    pub fn head(&self, q: usize) -> Option<(usize, Option<usize>)> {
        let head = self.queues[q].entries.front()?;
        let early = head.after.iter().any(|(q, count)| self.queues[*q].completed < *count);
        (!early).then_some((head.index, head.channel))
    }

    /// The queue whose head receives from this channel, and the receive.
    pub fn receiver(&self, channel: usize) -> Option<(usize, usize)> {
        (4..8).find_map(|q| self.head(q).filter(|h| h.1 == Some(channel)).map(|h| (q, h.0)))
    }

    /// The head of a queue is done.
    pub fn complete(&mut self, q: usize) {
        self.queues[q].entries.pop_front();
        self.queues[q].completed += 1;
    }

    /// Behind a fence the queues count anew.
    pub fn pass_fence(&mut self) {
        self.queues = Default::default();
        self.pc += 1;
    }
}

/// A common order of the nodes that the streams work on, as a rank for each instruction of each die.
pub fn ranks(program: &Program) -> Vec<Vec<u32>> {
    use girih_ir::graph::ValueId;
    use girih_ir::program::Claim;
    use std::collections::BTreeMap;
    let node = |die: usize, i: usize| -> Option<ValueId> {
        let claim = program.dies[die].claims.get(i)?;
        match program.claims.get(claim.index())? {
            Claim::Compute { node, .. } => Some(*node),
            Claim::Move { value, .. } => Some(*value),
            Claim::Loop { end, .. } => Some(*end),
            Claim::Control => None,
        }
    };
    let stream = |die: usize| program.streams.get(program.dies[die].stream.index()).map_or(&[][..], Vec::as_slice);
    let works = |instr: &Instr| !instr.is_async() && !instr.is_fence() && !matches!(instr, Instr::Wait { .. } | Instr::End);
    let mut order: Vec<ValueId> = Vec::new();
    let mut known: BTreeMap<ValueId, ()> = BTreeMap::new();
    for die in 0..program.dies.len() {
        let mut behind: Vec<(Option<ValueId>, ValueId)> = Vec::new();
        let mut last = None;
        for (i, instr) in stream(die).iter().enumerate() {
            let Some(n) = node(die, i).filter(|_| works(instr)) else { continue };
            if known.insert(n, ()).is_none() {
                behind.push((last, n));
            }
            last = Some(n);
        }
        for (before, n) in behind {
            let at = before.and_then(|b| order.iter().rposition(|o| *o == b)).map_or(0, |p| p + 1);
            order.insert(at, n);
        }
    }
    let rank: BTreeMap<ValueId, u32> = order.into_iter().zip(1..).collect();
    let of_die = |die: usize| {
        let mut most = 0;
        let list = stream(die).iter().enumerate().map(|(i, instr)| {
            let own = node(die, i).filter(|_| works(instr)).and_then(|n| rank.get(&n).copied());
            most = most.max(own.unwrap_or(0));
            most
        });
        list.collect()
    };
    (0..program.dies.len()).map(of_die).collect()
}
