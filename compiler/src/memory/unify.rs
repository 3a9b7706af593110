//! Unification: buffers that may share bytes.
//!
//! New state is made right in its home when no reader of the old value comes later, and an elementwise map overwrites an operand
//! of equal size that dies with it. Both are aliases of one buffer; hazards with transfers in flight are `lower`'s business.

use super::{spans, streams};
use crate::place::{BufferId, PlacedGraph, Storage, Task, TaskKind, View};
use crate::schedule::Schedule;
use girih_ir::ops::Op;
use std::ops::Range;

/// First and last positions of a root buffer's accesses in its die's stream, counted from 1.
#[derive(Clone, Copy, Debug)]
struct Uses {
    first_write: u32,
    last_read: u32,
    last_access: u32,
}

const UNUSED: Uses = Uses { first_write: u32::MAX, last_read: 0, last_access: 0 };

/// What unification knows.
struct Unifier {
    order: Vec<Vec<u32>>,
    /// The loops of each die's stream, inner ones first, in positions counted from 1.
    spans: Vec<Vec<Range<u32>>>,
    position: Vec<u32>,
    uses: Vec<Uses>,
    /// Positions at which carried buffers are read, ascending.
    reads: Vec<Vec<u32>>,
}

pub(super) fn unify(schedule: &mut Schedule) {
    let mut u = Unifier::new(schedule);
    let placed = &mut schedule.placed;
    let mut dropped = vec![false; placed.tasks.len()];
    for t in (0..placed.tasks.len()).rev() {
        if u.state_in_place(placed, t) || u.carry_in_place(placed, t) {
            dropped[t] = true;
        }
    }
    for stream in std::mem::take(&mut u.order) {
        for t in stream.iter().filter(|t| !dropped[**t as usize]) {
            let at = u.position[*t as usize];
            map_in_place(placed, *t as usize, at, &mut u.uses);
        }
    }
    schedule.order.retain(|t| !dropped[*t as usize]);
}

impl Unifier {
    fn new(schedule: &Schedule) -> Self {
        let placed = &schedule.placed;
        let order = streams(schedule);
        let one_based = |r: Range<u32>| r.start + 1..r.end + 1;
        let spans: Vec<Vec<Range<u32>>> = order.iter().map(|s| spans(schedule, s).into_iter().map(one_based).collect()).collect();
        let mut position = vec![0u32; placed.tasks.len()];
        let mut uses = vec![UNUSED; placed.buffers.len()];
        let mut reads = vec![Vec::new(); placed.buffers.len()];
        for stream in &order {
            for (at, t) in stream.iter().enumerate() {
                let at = at as u32 + 1;
                position[*t as usize] = at;
                let task = &placed.tasks[*t as usize];
                for v in task.reads.iter().filter(|v| v.buffer.0 != u32::MAX) {
                    let root = placed.root(v.buffer).index();
                    let u = &mut uses[root];
                    (u.last_read, u.last_access) = (u.last_read.max(at), u.last_access.max(at));
                    if placed.buffers[root].storage == Storage::Carry {
                        reads[root].push(at);
                    }
                }
                for v in &task.writes {
                    let u = &mut uses[placed.root(v.buffer).index()];
                    (u.first_write, u.last_access) = (u.first_write.min(at), u.last_access.max(at));
                }
            }
        }
        for (buffer, u) in placed.buffers.iter().zip(&mut uses).filter(|(_, u)| u.last_access > 0) {
            let first = if matches!(buffer.storage, Storage::State(_)) { 0 } else { u.first_write };
            for span in &spans[buffer.die as usize] {
                // What was there before a loop and is used in it is needed again in the next iteration.
                if first <= span.start && (span.start + 1..span.end).contains(&u.last_access) {
                    (u.last_read, u.last_access) = (span.end, span.end);
                }
            }
        }
        Unifier { order, spans, position, uses, reads }
    }

    /// The last read of a carried buffer within a loop, at `end` of which its next value is copied into it.
    fn last_read_within(&self, die: usize, home: BufferId, span: &Range<u32>) -> u32 {
        let within = self.reads[home.index()].iter().copied().filter(|at| (span.start + 1..span.end).contains(at));
        let inner = |at: u32| {
            let around = self.spans[die].iter().filter(|s| span.start < s.start && s.end < span.end && s.contains(&at));
            around.map(|s| s.end).max().unwrap_or(at)
        };
        within.map(inner).max().unwrap_or(0)
    }

    /// The copy of task `t` into a slot at the end of an iteration is needless when the next value can be made there.
    fn carry_in_place(&mut self, placed: &mut PlacedGraph, t: usize) -> bool {
        let task = &placed.tasks[t];
        let (TaskKind::Copy, [from], [to]) = (&task.kind, &task.reads[..], &task.writes[..]) else { return false };
        let (home, die, at) = (to.buffer, task.die as usize, self.position[t]);
        if placed.buffers[home.index()].storage != Storage::Carry || !is_whole(placed, from) || !is_whole(placed, to) {
            return false;
        }
        let (made, new) = (placed.root(from.buffer), self.uses[placed.root(from.buffer).index()]);
        let buffer = &placed.buffers[made.index()];
        let fits = buffer.storage == Storage::Own && buffer.bytes() == placed.buffers[home.index()].bytes();
        // The innermost loop around the copy is the slot's; a copy before the loop fills it for the first time.
        let node = placed.buffers[home.index()].value;
        let Some(span) = self.spans[die].iter().find(|s| s.contains(&at)).cloned() else { return false };
        let begins = self.order[die].get(span.start as usize - 1).map(|b| &placed.tasks[*b as usize]);
        // A `while` that ends here and now leaves its slots as they are, so they may be written behind its exit only.
        let end = begins.map(|b| b.kind.clone());
        let exit =
            self.order[die][span.start as usize..span.end as usize].iter().position(|e| match (&placed.tasks[*e as usize].kind, &end) {
                (TaskKind::LoopExit(e), Some(TaskKind::LoopBegin(b))) => e == b,
                _ => false,
            });
        let earliest = span.start + exit.map_or(0, |e| e as u32 + 1);
        let own = begins.is_some_and(|b| b.reads.iter().any(|v| placed.buffers[v.buffer.index()].value == node));
        if !fits || !own || new.first_write <= earliest || new.last_read > at {
            return false;
        }
        let last_read = self.last_read_within(die, home, &span);
        let maker = self.order[die].get((new.first_write as usize).wrapping_sub(1)).map(|i| &placed.tasks[*i as usize]);
        let by_map = last_read == new.first_write && maker.is_some_and(|p| overwrites(placed, p, made, home));
        if !(last_read < new.first_write || by_map) {
            return false;
        }
        placed.buffers[made.index()].storage = Storage::Alias(home);
        self.reads[home.index()].push(new.last_read);
        true
    }

    /// The copy of task `t` into a state home is needless when the new value can be made there.
    fn state_in_place(&mut self, placed: &mut PlacedGraph, t: usize) -> bool {
        let task = &placed.tasks[t];
        let (TaskKind::Copy, [from], [to]) = (&task.kind, &task.reads[..], &task.writes[..]) else { return false };
        let home = to.buffer;
        if !matches!(placed.buffers[home.index()].storage, Storage::State(_)) || !is_whole(placed, from) || !is_whole(placed, to) {
            return false;
        }
        let made = placed.root(from.buffer);
        let own = placed.buffers[made.index()].storage == Storage::Own
            && placed.buffers[made.index()].bytes() == placed.buffers[home.index()].bytes();
        if !own || made == home {
            return false;
        }
        let (new, old) = (self.uses[made.index()], self.uses[home.index()]);
        // The last access of the home is this copy itself, so its readers are what counts.
        let after_readers = old.last_read < new.first_write;
        let maker = self.order[task.die as usize].get((new.first_write as usize).wrapping_sub(1)).map(|i| &placed.tasks[*i as usize]);
        let by_map = old.last_read == new.first_write && maker.is_some_and(|p| overwrites(placed, p, made, home));
        if !(after_readers || by_map) || new.last_read > self.position[t] {
            return false;
        }
        placed.buffers[made.index()].storage = Storage::Alias(home);
        self.uses[home.index()].last_read = new.last_read.max(old.last_read);
        true
    }
}

/// Whether a view shows its whole buffer.
fn is_whole(placed: &PlacedGraph, view: &View) -> bool {
    view.buffer.0 != u32::MAX && placed.buffers[view.buffer.index()].part == view.part
}

/// Whether `task` may write `out` over `input`: an elementwise map or a combination over replicas that writes all of one from all of the
/// other point by point, or an update of a part of `input`.
fn overwrites(placed: &PlacedGraph, task: &Task, out: BufferId, input: BufferId) -> bool {
    let TaskKind::Compute { node, .. } = &task.kind else { return false };
    if !task.writes.iter().any(|w| placed.root(w.buffer) == out && is_whole(placed, w)) {
        return false;
    }
    let mut reads = task.reads.iter().enumerate().filter(|(_, r)| r.buffer.0 != u32::MAX && placed.root(r.buffer) == input);
    let alike = |r: &View| is_whole(placed, r) && r.part.iter().zip(&task.writes[0].part).all(|(a, b)| a.len() == b.len());
    match &placed.sharded.step.graph.node(*node).op {
        Op::Fused(f) => f.cols == 0 && reads.all(|(k, r)| alike(r) && f.operands[k].iter().copied().eq(0..f.loops.len())),
        Op::AllReduce(_) => reads.all(|(_, r)| alike(r)),
        Op::DynamicUpdateSlice(_) | Op::Scatter(_) => reads.all(|(k, r)| k == 0 && alike(r)),
        _ => false,
    }
}

/// Lets the results of a map take over operands that die with it.
fn map_in_place(placed: &mut PlacedGraph, t: usize, at: u32, uses: &mut [Uses]) {
    if !matches!(placed.tasks[t].kind, TaskKind::Compute { .. }) {
        return;
    }
    let mut taken: Vec<BufferId> = Vec::new();
    for w in 0..placed.tasks[t].writes.len() {
        let task = &placed.tasks[t];
        let out = task.writes[w].buffer;
        if placed.buffers[out.index()].storage != Storage::Own {
            continue;
        }
        let candidate = task.reads.iter().filter(|r| r.buffer.0 != u32::MAX).map(|r| placed.root(r.buffer)).find(|input| {
            let buffer = &placed.buffers[input.index()];
            buffer.storage == Storage::Own
                && !taken.contains(input)
                && *input != out
                && uses[input.index()].last_access == at
                && buffer.bytes() == placed.buffers[out.index()].bytes()
                && buffer.dtype == placed.buffers[out.index()].dtype
                && uses[out.index()].first_write == at
                && overwrites(placed, task, out, *input)
        });
        if let Some(input) = candidate {
            taken.push(input);
            let merged = uses[out.index()];
            uses[input.index()].last_read = merged.last_read.max(at);
            uses[input.index()].last_access = merged.last_access.max(at);
            placed.buffers[out.index()].storage = Storage::Alias(input);
        }
    }
}
