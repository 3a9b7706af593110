//! Placement of a single die: its own tasks and buffers, with what the others do left out.
//!
//! What a die holds when is decided by its own shares, and the dies' shares differ by one grain at most, so the die with the largest shares
//! tells how much memory a split needs at a small part of the work. A transfer has both its ends on the die: what is sent to others leaves when
//! they ask for it, which is when the die itself asks.

use super::assemble::{Key, Placer};
use super::dies::{Message, Storage, Task, TaskKind, View};
use crate::sharded::AxisSet;
use girih_ir::axes::{Axes, Box, box_intersect};
use girih_ir::graph::ValueId;
use girih_ir::scalar::Monoid;

impl Placer<'_> {
    /// A part that is brought from others: what the die has of it is copied, and sent to those that want it as well.
    pub(super) fn gather_alone(&mut self, die: u32, key: Key, part: Box) -> View {
        let target = self.buffer(die, key, part.clone(), Storage::Own);
        let to = View { buffer: target, part: part.clone() };
        let held: Vec<View> = self.local(die, key).iter().map(|l| View { buffer: l.buffer, part: l.part.clone() }).collect();
        for from in held {
            if let Some(piece) = box_intersect(&from.part, &part) {
                let reads = vec![View { buffer: from.buffer, part: piece.clone() }];
                self.push(Task { die, kind: TaskKind::Copy, reads, writes: vec![View { buffer: target, part: piece }] });
            }
        }
        // The first panel leaves first.
        let sent = self.offered(key).first().map(|h| View { buffer: h.buffer, part: h.part.clone() });
        self.exchange(die, sent, to.clone(), None);
        self.hold(die, key, target, part, false);
        to
    }

    /// The die's part in combining partial results.
    pub(super) fn combine_alone(&mut self, value: ValueId, axes: &Axes, die: u32, views: Vec<View>) {
        let sharded = self.sharded();
        let (cut, monoid) = sharded.combination(value, axes);
        let rest = AxisSet(3 & !cut.0);
        let line = sharded.part(value, rest, die);
        let in_line = |d: &u32| sharded.part(value, rest, *d) == line && sharded.shard(value, axes, *d as usize).is_some();
        let members: Vec<u32> = (0..self.dies()).filter(in_line).collect();
        for (c, view) in views.into_iter().enumerate() {
            for (owner, piece) in self.pieces((value, c as u32), &view.part, &members) {
                let part = View { buffer: view.buffer, part: piece.clone() };
                if members[owner] == die {
                    let home = self.home_of_piece(die, (value, c as u32), view.buffer, &piece);
                    self.exchange(die, None, View { buffer: home, part: piece.clone() }, Some(monoid));
                    let home = self.rounded(die, (value, c as u32), home, &piece);
                    self.hold(die, (value, c as u32), home, piece, true);
                } else {
                    let message = self.message(Message { from: die, to: die, route: Vec::new(), bytes: 0 });
                    self.push(Task { die, kind: TaskKind::Send(message), reads: vec![part], writes: vec![] });
                }
            }
        }
    }

    /// Sends something, if there is something, and receives something.
    fn exchange(&mut self, die: u32, from: Option<View>, to: View, combine: Option<Monoid>) {
        let message = self.message(Message { from: die, to: die, route: Vec::new(), bytes: 0 });
        self.push(Task { die, kind: TaskKind::Send(message), reads: from.into_iter().collect(), writes: vec![] });
        self.push(Task { die, kind: TaskKind::Recv(message, combine), reads: vec![], writes: vec![to] });
    }
}
