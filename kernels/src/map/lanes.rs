//! Sums of columns that are not neighbors, for many neighboring rows side by side.
//!
//! The order is that of every reduction: column `c` goes into lane `c mod 64`, ascending, then the lanes are combined by halving. The first
//! halving is done on the way, in registers, so that half of the lanes need memory, and that stays in the first-level cache.

use super::loops::LANES;
use crate::arch::fetch;
use crate::arch::tier::Work;
use crate::lane::Lane;

/// Rows of a strip at most.
const WIDEST: usize = 1024;
/// Elements of working memory.
pub(crate) const WORK: usize = 8192;

/// Rows of a strip of this many columns: as many as working memory allows, so that every column is a long run of memory.
pub(crate) fn widest(columns: usize) -> usize {
    let halves = columns.min(LANES).next_power_of_two().div_ceil(2);
    (WORK / halves).min(WIDEST)
}

/// Combines columns that start at `places`, `width` rows each, at most [`widest`]. The results are the first `width` of `lanes`.
pub(crate) struct Lanes<'a, L: Lane, F> {
    pub(crate) from: &'a [L],
    pub(crate) places: &'a [isize],
    pub(crate) lanes: &'a mut [L::Value],
    pub(crate) width: usize,
    pub(crate) identity: L::Value,
    pub(crate) f: F,
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Lanes<'_, L, F> {
    /// `W` rows from row `row` on of lane `l`, and of lane `l + half` if there is one.
    #[inline(always)]
    fn pair<const W: usize>(&mut self, l: usize, half: usize, row: usize) {
        let mut sums = [[self.identity; W]; 2];
        for (sums, lane) in sums.iter_mut().zip([l, l + half]) {
            for place in self.places.iter().skip(lane).step_by(LANES) {
                let at = *place as usize + row;
                for (s, x) in sums.iter_mut().zip(&self.from[at..at + W]) {
                    *s = (self.f)(*s, x.widen());
                }
            }
        }
        // Columns are short runs far apart, which nothing but this fetches in time.
        for next in [l + 1, l + 1 + half].into_iter().filter_map(|lane| self.places.get(lane)) {
            (0..W).step_by(64 / size_of::<L>()).for_each(|i| fetch(self.from, *next as usize + row + i));
        }
        let [mut low, high] = sums;
        if l + half < self.places.len() {
            for (a, b) in low.iter_mut().zip(&high) {
                *a = (self.f)(*a, *b);
            }
        }
        self.lanes[l * self.width + row..][..W].copy_from_slice(&low);
    }
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Work for Lanes<'_, L, F> {
    type Out = ();
    #[inline(always)]
    fn run(mut self) {
        let mut half = self.places.len().min(LANES).next_power_of_two() / 2;
        for l in 0..half.max(1) {
            let mut row = 0;
            while row + 64 <= self.width {
                self.pair::<64>(l, half.max(1), row);
                row += 64;
            }
            while row + 8 <= self.width {
                self.pair::<8>(l, half.max(1), row);
                row += 8;
            }
            while row < self.width {
                self.pair::<1>(l, half.max(1), row);
                row += 1;
            }
        }
        half /= 2;
        while half > 0 {
            let (low, high) = self.lanes[..2 * half * self.width].split_at_mut(half * self.width);
            for (a, b) in low.iter_mut().zip(high) {
                *a = (self.f)(*a, *b);
            }
            half /= 2;
        }
    }
}
