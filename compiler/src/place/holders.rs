//! Who holds which part of a value, found by the part that is wanted: most holders of a value that is cut over thousands of dies have
//! nothing of it.

use super::dies::BufferId;
use girih_ir::axes::{Box, box_intersect};
use std::ops::Range;

/// Values with fewer holders are searched as they are.
const FEW: usize = 8;

/// A complete part of a value on a die.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) die: u32,
    pub(super) buffer: BufferId,
    pub(super) part: Box,
}

/// The holders of a value, with an index over the dimension that tells most of them apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// In the order in which they became known.
    pub(super) list: Vec<Holding>,
    dim: usize,
    /// Positions in the list, by where their part begins in that dimension.
    order: Vec<u32>,
    /// The longest part in that dimension.
    longest: usize,
}

impl Holders {
    pub(super) fn push(&mut self, holding: Holding) {
        self.list.push(holding);
    }

    /// The holders of something of `part`, in the order of the list.
    pub(super) fn overlapping(&mut self, part: &Box) -> Vec<Holding> {
        let meets = |h: &&Holding| part.is_empty() || box_intersect(&h.part, part).is_some();
        if self.list.len() <= FEW || part.is_empty() {
            return self.list.iter().filter(meets).cloned().collect();
        }
        if self.order.len() != self.list.len() {
            self.index();
        }
        let (dim, list) = (self.dim, &self.list);
        let Range { start, end } = part[dim];
        let first = self.order.partition_point(|i| list[*i as usize].part[dim].start + self.longest <= start);
        let behind = self.order.partition_point(|i| list[*i as usize].part[dim].start < end);
        let mut found: Vec<u32> = self.order[first.min(behind)..behind].iter().copied().filter(|i| meets(&&list[*i as usize])).collect();
        found.sort_unstable();
        found.into_iter().map(|i| list[i as usize].clone()).collect()
    }

    fn index(&mut self) {
        let distinct = |d: usize| {
            let mut starts: Vec<usize> = self.list.iter().map(|h| h.part[d].start).collect();
            starts.sort_unstable();
            starts.dedup();
            starts.len()
        };
        let rank = self.list[0].part.len();
        self.dim = (0..rank).rev().max_by_key(|d| distinct(*d)).unwrap_or(0);
        let (dim, list) = (self.dim, &self.list);
        self.longest = list.iter().map(|h| h.part[dim].len()).max().unwrap_or(0);
        self.order = (0..list.len() as u32).collect();
        self.order.sort_by_key(|i| (list[*i as usize].part[dim].start, *i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn finds_the_same_as_a_search_of_all() {
        let mut holders = Holders::default();
        for (i, y) in (0..10usize).flat_map(|i| (0..6usize).map(move |y| (i, y))) {
            let part: Box = smallvec![i * 7..(i + 1) * 7, y * 3..(y + 1) * 3];
            holders.push(Holding { die: (i * 6 + y) as u32, buffer: BufferId((i * 6 + y) as u32), part });
        }
        for want in [smallvec![0..70, 0..18], smallvec![13..15, 2..4], smallvec![69..70, 17..18], smallvec![7..14, 0..18]] as [Box; 4] {
            let all: Vec<u32> = holders.list.iter().filter(|h| box_intersect(&h.part, &want).is_some()).map(|h| h.die).collect();
            let found: Vec<u32> = holders.overlapping(&want).iter().map(|h| h.die).collect();
            assert_eq!(found, all);
        }
    }
}
