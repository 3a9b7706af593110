//! Unification: buffers that may share bytes.
//!
//! New state is made right in its home when no reader of the old value comes later, and an elementwise map overwrites an operand
//! of equal size that dies with it. Both are aliases of one buffer; hazards with transfers in flight are `lower`'s business.

use super::streams;
use crate::place::{BufferId, PlacedGraph, Storage, Task, TaskKind, View};
use crate::schedule::Schedule;
use girih_ir::ops::Op;

/// First and last positions of a root buffer's accesses in its die's stream.
#[derive(Clone, Copy, Debug)]
struct Uses {
    first_write: u32,
    last_read: u32,
    last_access: u32,
}

const UNUSED: Uses = Uses { first_write: u32::MAX, last_read: 0, last_access: 0 };

pub(super) fn unify(schedule: &mut Schedule) {
    let order = streams(schedule);
    let placed = &mut schedule.placed;
    let mut position = vec![0u32; placed.tasks.len()];
    let mut uses = vec![UNUSED; placed.buffers.len()];
    for stream in &order {
        for (at, t) in stream.iter().enumerate() {
            let at = at as u32 + 1;
            position[*t as usize] = at;
            let task = &placed.tasks[*t as usize];
            for v in task.reads.iter().filter(|v| v.buffer.0 != u32::MAX) {
                let u = &mut uses[placed.root(v.buffer).index()];
                (u.last_read, u.last_access) = (u.last_read.max(at), u.last_access.max(at));
            }
            for v in &task.writes {
                let u = &mut uses[placed.root(v.buffer).index()];
                (u.first_write, u.last_access) = (u.first_write.min(at), u.last_access.max(at));
            }
        }
    }
    let mut dropped = vec![false; placed.tasks.len()];
    for t in (0..placed.tasks.len()).rev() {
        if state_in_place(placed, t, &order, &position, &mut uses) {
            dropped[t] = true;
        }
    }
    for stream in &order {
        for t in stream.iter().filter(|t| !dropped[**t as usize]) {
            map_in_place(placed, *t as usize, position[*t as usize], &mut uses);
        }
    }
    schedule.order.retain(|t| !dropped[*t as usize]);
}

/// Whether a view shows its whole buffer.
fn is_whole(placed: &PlacedGraph, view: &View) -> bool {
    view.buffer.0 != u32::MAX && placed.buffers[view.buffer.index()].part == view.part
}

/// The copy of task `t` into a state home is needless when the new value can be made there.
fn state_in_place(placed: &mut PlacedGraph, t: usize, order: &[Vec<u32>], position: &[u32], uses: &mut [Uses]) -> bool {
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
    let (new, old) = (uses[made.index()], uses[home.index()]);
    // The last access of the home is this copy itself, so its readers are what counts.
    let after_readers = old.last_read < new.first_write;
    let maker = order[task.die as usize].get((new.first_write as usize).wrapping_sub(1)).map(|i| &placed.tasks[*i as usize]);
    let by_map = old.last_read == new.first_write && maker.is_some_and(|p| overwrites(placed, p, made, home));
    if !(after_readers || by_map) || new.last_read > position[t] {
        return false;
    }
    placed.buffers[made.index()].storage = Storage::Alias(home);
    uses[home.index()].last_read = new.last_read.max(old.last_read);
    true
}

/// Whether `task` is an elementwise map that writes all of `out` from all of `input` point by point.
fn overwrites(placed: &PlacedGraph, task: &Task, out: BufferId, input: BufferId) -> bool {
    let TaskKind::Compute { node, .. } = &task.kind else { return false };
    let Op::Fused(f) = &placed.sharded.step.graph.node(*node).op else { return false };
    if f.cols != 0 || !task.writes.iter().any(|w| placed.root(w.buffer) == out && is_whole(placed, w)) {
        return false;
    }
    task.reads.iter().enumerate().filter(|(_, r)| r.buffer.0 != u32::MAX && placed.root(r.buffer) == input).all(|(k, r)| {
        is_whole(placed, r)
            && f.operands[k].iter().copied().eq(0..f.loops.len())
            && r.part.iter().zip(&task.writes[0].part).all(|(a, b)| a.end - a.start == b.end - b.start)
    })
}

/// Lets the results of a map take over operands that die with it.
fn map_in_place(placed: &mut PlacedGraph, t: usize, at: u32, uses: &mut [Uses]) {
    let task = placed.tasks[t].clone();
    if !matches!(task.kind, TaskKind::Compute { .. }) {
        return;
    }
    let mut taken: Vec<BufferId> = Vec::new();
    for write in &task.writes {
        let out = write.buffer;
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
                && overwrites(placed, &task, out, *input)
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
