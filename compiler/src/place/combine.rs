//! Combining partial results: which die adds up which piece, and the tasks that bring the pieces there.

use super::PlaceError;
use super::assemble::{Key, LASTING, Placer};
use super::dies::{BufferId, Storage, Task, TaskKind, View};
use crate::sharded::{AxisSet, PIECE_BYTES, axes_of};
use girih_ir::axes::{Axes, Box, box_dims, box_intersect, box_is_empty};
use girih_ir::graph::ValueId;
use girih_ir::types::element_count;
use std::collections::BTreeMap;
use std::ops::Range;

impl Placer<'_> {
    /// Combines partial results along the mesh axes that cut the reducing loops. Every group of dies on such a line combines for
    /// itself, in ascending die order, each member one piece: the order, and so the bits, are fixed by the program.
    pub(super) fn combine(&mut self, value: ValueId, axes: &Axes, partials: Vec<(u32, Vec<View>)>) -> Result<(), PlaceError> {
        let (cut, monoid) = self.sharded().combination(value, axes);
        let rest = AxisSet(3 & !cut.0);
        let mut groups: BTreeMap<usize, Vec<(u32, Vec<View>)>> = BTreeMap::new();
        for (die, views) in partials {
            groups.entry(self.sharded().part(value, rest, die).unwrap_or_default()).or_default().push((die, views));
        }
        for members in groups.into_values() {
            for c in 0..members[0].1.len() {
                let part = members[0].1[c].part.clone();
                let dies: Vec<u32> = members.iter().map(|m| m.0).collect();
                let key = (value, c as u32);
                let pieces = self.pieces(key, &part, &dies);
                let homes: Vec<BufferId> =
                    pieces.iter().map(|(owner, piece)| self.home_of_piece(dies[*owner], key, members[*owner].1[c].buffer, piece)).collect();
                // All leave before the first is waited for.
                let mut messages = Vec::with_capacity(pieces.len() * dies.len());
                for (i, (_, views)) in members.iter().enumerate() {
                    for (k, (owner, piece)) in pieces.iter().enumerate().filter(|(_, p)| p.0 != i) {
                        messages.push((k, self.send(View { buffer: views[c].buffer, part: piece.clone() }, dies[*owner])?));
                    }
                }
                for (k, message) in messages {
                    let (owner, piece) = &pieces[k];
                    let writes = vec![View { buffer: homes[k], part: piece.clone() }];
                    self.push(Task { die: dies[*owner], kind: TaskKind::Recv(message, Some(monoid)), reads: vec![], writes });
                }
                for ((owner, piece), home) in pieces.into_iter().zip(homes) {
                    let home = self.rounded(dies[owner], key, home, &piece);
                    self.hold(dies[owner], key, home, piece, true);
                }
            }
        }
        Ok(())
    }

    /// Which of these dies combines which piece of a part: the one that reads it, if they read one piece each.
    pub(super) fn pieces(&self, key: Key, part: &Box, dies: &[u32]) -> Vec<(usize, Box)> {
        let equal = pieces(part, dies.len(), self.dtype(key).size(), key.0.index());
        let readers = self.readers.get(&key).map_or(&[][..], Vec::as_slice);
        let read = readers.iter().find_map(|(reader, operand)| self.pieces_of(*reader, *operand, part, dies));
        // Few bytes are not worth a message a die.
        read.filter(|read| equal.len() > 1 || read.len() == 1).unwrap_or(equal)
    }

    /// The pieces that a reader wants of a part on these dies, when each part of it is wanted on one of them.
    fn pieces_of(&self, reader: ValueId, operand: usize, part: &Box, dies: &[u32]) -> Option<Vec<(usize, Box)>> {
        let axes = axes_of(self.graph(), reader);
        let shape = self.shape(self.resolve(self.graph().node(reader).operands[operand]));
        let wanted = |(i, die): (usize, &u32)| {
            let shard = self.sharded().shard(reader, &axes, *die as usize)?;
            let piece = box_intersect(&axes.operand_box(operand, shape, &shard.ranges), part)?;
            (!box_is_empty(&piece)).then_some((i, piece))
        };
        let found: Vec<(usize, Box)> = dies.iter().enumerate().filter_map(wanted).collect();
        let count = |b: &Box| element_count(&box_dims(b));
        let apart = found.iter().enumerate().all(|(i, a)| found[i + 1..].iter().all(|b| box_intersect(&a.1, &b.1).is_none()));
        (apart && found.iter().map(|(_, b)| count(b)).sum::<usize>() == count(part)).then_some(found)
    }

    /// Where a piece of a partial result is combined: in place, or in a buffer of its own when it is kept for long and the rest is not.
    pub(super) fn home_of_piece(&mut self, die: u32, key: Key, partial: BufferId, piece: &Box) -> BufferId {
        if self.last_use[key.0.index()].saturating_sub(key.0.0) <= LASTING || self.buffers[partial.index()].part == *piece {
            return partial;
        }
        let home = self.buffer(die, key, piece.clone(), Storage::Own);
        self.buffers[home.index()].dtype = self.buffers[partial.index()].dtype;
        self.copy_piece(die, (partial, home), piece);
        home
    }

    /// Where a piece is that was combined at `home`: there, unless it was carried in another type.
    pub(super) fn rounded(&mut self, die: u32, key: Key, home: BufferId, piece: &Box) -> BufferId {
        if self.buffers[home.index()].dtype == self.dtype(key) {
            return home;
        }
        let own = self.buffer(die, key, piece.clone(), Storage::Own);
        self.copy_piece(die, (home, own), piece);
        own
    }

    fn copy_piece(&mut self, die: u32, (from, to): (BufferId, BufferId), piece: &Box) {
        let view = |buffer| View { buffer, part: piece.clone() };
        self.push(Task { die, kind: TaskKind::Copy, reads: vec![view(from)], writes: vec![view(to)] });
    }
}

/// Which group member combines which piece of a part, of at least [`PIECE_BYTES`] each; fewer bytes are combined by one, which differs from one
/// value to the next.
fn pieces(part: &[Range<usize>], members: usize, element: usize, value: usize) -> Vec<(usize, Box)> {
    let dims = box_dims(part);
    let whole: Box = part.iter().cloned().collect();
    let bytes = element_count(&dims) * element;
    let longest = (0..dims.len()).rev().max_by_key(|d| dims[*d]);
    match longest {
        Some(d) if bytes >= PIECE_BYTES * members && members > 1 => {
            let at = |i: usize| part[d].start + i * dims[d] / members;
            let cut = |i: usize| {
                let mut b = whole.clone();
                b[d] = at(i)..at(i + 1);
                b
            };
            (0..members).map(|i| (i, cut(i))).filter(|(_, b)| !box_is_empty(b)).collect()
        }
        _ => vec![(value % members, whole)],
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::product;
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn partial_results_are_combined_where_they_are_read() {
        let plain = |order: AxisSet| {
            // Rows over the columns of the mesh, terms over its rows; the reader has rows over both.
            let (dot, placed) = product([100, 60, 256], (2, 3), [AxisSet::X, AxisSet::NONE, AxisSet::Y], [order, AxisSet::NONE]);
            let of_product = |t: &&Task| t.writes.iter().any(|v| placed.buffers[v.buffer.index()].value == dot);
            let plain = placed.tasks.iter().filter(|t| matches!(t.kind, TaskKind::Recv(_, None))).filter(of_product).count();
            let added = placed.tasks.iter().filter(|t| matches!(t.kind, TaskKind::Recv(_, Some(_)))).filter(of_product).count();
            assert_eq!(added, 6);
            for die in 0..6 {
                let own = || placed.tasks.iter().enumerate().filter(|(_, t)| t.die == die);
                let sent = own().filter(|(_, t)| matches!(t.kind, TaskKind::Send(_))).map(|(i, _)| i).nth(added / 6 - 1);
                let received = own().find(|(_, t)| matches!(t.kind, TaskKind::Recv(_, Some(_)))).map(|(i, _)| i);
                assert!(sent < received, "die {die} waits for a piece before all of its own have left");
            }
            plain
        };
        assert_eq!(plain(AxisSet::XY), 0, "the pieces are the reader's");
        assert!(plain(AxisSet::YX) > 0, "the reader's parts are not of one column");
    }

    #[test]
    fn pieces_cover_a_part() {
        let part: Box = smallvec![0..3, 10..1034];
        let cut = pieces(&part, 5, 4, 7);
        assert_eq!(cut.len(), 5);
        assert_eq!(cut.iter().map(|(_, b)| element_count(&box_dims(b))).sum::<usize>(), 3 * 1024);
        assert_eq!(pieces(&part[..1], 5, 4, 7), vec![(2, smallvec![0..3])]);
    }
}
