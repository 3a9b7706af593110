//! Loops on dies: every die that has a share of a loop's body runs the loop, and keeps its shards of the slots in place.
//!
//! Before the loop the first values are copied into the carried buffers; at the end of an iteration the next values are. `memory` lets
//! most of those copies vanish. What is invariant is brought to a die before the loop, not in each iteration: `schedule` sees to that.

use super::PlaceError;
use super::assemble::Placer;
use super::dies::{BufferId, Storage, Task, TaskKind, View};
use crate::sharded::{ShardedGraph, axes_of};
use girih_ir::axes::{Box, box_is_empty};
use girih_ir::graph::ValueId;
use girih_ir::graph::loops::LoopNest;
use girih_ir::ops::Op;

/// A loop that is open while its members are placed.
#[derive(Debug)]
pub(super) struct OpenLoop {
    /// Dies that run it.
    dies: Vec<u32>,
    /// For each slot, the carried buffer of each die that has a share of it.
    carried: Vec<Vec<(u32, BufferId, Box)>>,
}

/// The dies that have a share of a member of a loop or of the loops inside it.
pub(crate) fn participants(sharded: &ShardedGraph, nest: &LoopNest, l: usize) -> Vec<u32> {
    let graph = &sharded.step.graph;
    let mut runs = vec![false; sharded.mesh.count()];
    let mut open = vec![l];
    while let Some(l) = open.pop() {
        for m in &nest.loops[l].members {
            match nest.ending_at(*m) {
                Some(inner) => open.push(inner),
                None if matches!(graph.node(*m).op, Op::LoopIndex(_) | Op::Proj(_)) => {}
                None => {
                    let axes = axes_of(graph, *m);
                    for (die, runs) in runs.iter_mut().enumerate().filter(|(_, r)| !**r) {
                        *runs = sharded.shard(*m, &axes, die).is_some();
                    }
                }
            }
        }
    }
    (0..runs.len() as u32).filter(|d| runs[*d as usize]).collect()
}

impl Placer<'_> {
    /// Fills the slots and begins the loop on its dies.
    pub(super) fn begin_loop(&mut self, nest: &LoopNest, l: usize) -> Result<OpenLoop, PlaceError> {
        let this = &nest.loops[l];
        let dies: Vec<u32> = participants(self.sharded(), nest, l).into_iter().filter(|d| self.works(*d)).collect();
        let mut carried: Vec<Vec<(u32, BufferId, Box)>> = vec![Vec::new(); this.carries.len()];
        for (slot, carry) in this.carries.iter().enumerate() {
            let axes = axes_of(self.graph(), *carry);
            let init = self.resolve(self.graph().node(*carry).operands[0]);
            for die in &dies {
                let Some(mut shard) = self.sharded().shard(*carry, &axes, *die as usize) else { continue };
                let part = shard.results.swap_remove(0);
                let view = self.demand(*die, init, part.clone())?;
                let buffer = self.buffer(*die, (*carry, 0), part.clone(), Storage::Carry);
                self.push(Task { die: *die, kind: TaskKind::Copy, reads: vec![view], writes: vec![View { buffer, part: part.clone() }] });
                self.hold(*die, (*carry, 0), buffer, part.clone(), true);
                carried[slot].push((*die, buffer, part));
            }
        }
        let open = OpenLoop { dies, carried };
        for die in &open.dies {
            let mut writes = Vec::new();
            if let Some(index) = this.index {
                let buffer = self.buffer(*die, (index, 0), Box::new(), Storage::Own);
                self.hold(*die, (index, 0), buffer, Box::new(), true);
                writes.push(View { buffer, part: Box::new() });
            }
            self.push(Task { die: *die, kind: TaskKind::LoopBegin(this.end), reads: open.views(*die), writes });
        }
        Ok(open)
    }

    /// Leaves the loop unless its predicate holds, on all its dies alike.
    pub(super) fn exit_loop(&mut self, nest: &LoopNest, l: usize, open: &OpenLoop) -> Result<(), PlaceError> {
        let Some(predicate) = nest.loops[l].predicate else { return Ok(()) };
        let key = self.resolve(predicate);
        for die in &open.dies {
            let view = self.demand(*die, key, Box::new())?;
            self.push(Task { die: *die, kind: TaskKind::LoopExit(nest.loops[l].end), reads: vec![view], writes: vec![] });
        }
        Ok(())
    }

    /// Puts the next values into the slots and ends the iteration; what the slots hold then is the loop's result.
    pub(super) fn end_loop(&mut self, nest: &LoopNest, l: usize, open: &OpenLoop) -> Result<(), PlaceError> {
        let this = &nest.loops[l];
        let mut copies = Vec::new();
        for (next, shards) in this.next.iter().zip(&open.carried) {
            let key = self.resolve(*next);
            for (die, home, part) in shards {
                let mut view = self.demand(*die, key, part.clone())?;
                if view.buffer == *home {
                    continue;
                }
                // A slot that gets the value of another slot must not lose it to that slot's own next value.
                if self.is_carried(view.buffer, this.carries.as_slice()) {
                    let kept = self.buffer(*die, key, part.clone(), Storage::Own);
                    let kept = View { buffer: kept, part: part.clone() };
                    self.push(Task { die: *die, kind: TaskKind::Copy, reads: vec![view], writes: vec![kept.clone()] });
                    view = kept;
                }
                let to = View { buffer: *home, part: part.clone() };
                copies.push(Task { die: *die, kind: TaskKind::Copy, reads: vec![view], writes: vec![to] });
            }
        }
        copies.into_iter().for_each(|t| self.push(t));
        for die in &open.dies {
            self.push(Task { die: *die, kind: TaskKind::LoopEnd(this.end), reads: open.views(*die), writes: vec![] });
        }
        for (slot, shards) in open.carried.iter().enumerate() {
            let key = (this.end, slot as u32);
            for (die, home, part) in shards {
                let result = self.buffer(*die, key, part.clone(), Storage::Alias(*home));
                self.hold(*die, key, result, part.clone(), true);
            }
        }
        Ok(())
    }

    /// Whether a buffer is a slot of the loop with these carries, or another name of one.
    fn is_carried(&self, buffer: BufferId, carries: &[ValueId]) -> bool {
        let root = self.root(buffer);
        root.storage == Storage::Carry && carries.contains(&root.value)
    }
}

impl OpenLoop {
    /// The carried views of a die in slot order.
    fn views(&self, die: u32) -> Vec<View> {
        let own = self.carried.iter().flatten().filter(|(d, ..)| *d == die);
        own.filter(|(_, _, part)| !box_is_empty(part)).map(|(_, buffer, part)| View { buffer: *buffer, part: part.clone() }).collect()
    }
}
