//! Which value lies where: bytes of memory as pieces of values.
//!
//! A value is what one instruction makes, or what lies in memory before the first one; its image is its bytes in the order of their addresses
//! where it was made. A map says of every byte which value it belongs to and where in the image it stands, so two places hold the same
//! bytes when they hold the same pieces.

use girih_ir::program::Region;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most runs of one region that are told apart.
const MOST_RUNS: u64 = 1 << 15;

/// The bytes of a region in the order of their addresses: runs of equal length, level by level, innermost first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs {
    pub start: u64,
    pub len: u64,
    /// Count and distance.
    levels: SmallVec<[(u64, u64); 3]>,
}

impl Runs {
    /// One run.
    pub fn one(range: Range<u64>) -> Runs {
        Runs { start: range.start, len: range.end - range.start, levels: SmallVec::new() }
    }

    /// Runs of some bytes at some distances: counts and distances, innermost first.
    pub fn walk(start: u64, len: u64, levels: impl Iterator<Item = (u64, u64)>) -> Runs {
        Runs { start, len, levels: levels.collect() }
    }

    /// The runs of a region; `None` when they overlap or are too many.
    pub fn of(region: &Region) -> Option<Runs> {
        let size = region.dtype.size() as u64;
        let extent = region.extent()?;
        if extent.is_empty() {
            return Some(Runs::one(extent));
        }
        let walk = region.dims.iter().zip(&region.strides).filter(|(n, s)| **n > 1 && **s != 0);
        let mut dims: SmallVec<[(u64, u64); 6]> = walk.map(|(n, s)| (s.unsigned_abs() * size, *n as u64)).collect();
        dims.sort_unstable();
        let mut runs = Runs { start: extent.start, len: size, levels: SmallVec::new() };
        let mut span = size;
        for (step, count) in dims {
            if step < span {
                return None;
            }
            match runs.levels.last_mut() {
                None if step == runs.len => runs.len *= count,
                Some((n, inner)) if step == *n * *inner => *n *= count,
                _ => runs.levels.push((count, step)),
            }
            span += step * (count - 1);
        }
        (runs.count() <= MOST_RUNS).then_some(runs)
    }

    /// The runs of a region, or all of its extent.
    pub fn around(region: &Region) -> Option<Runs> {
        Runs::of(region).or_else(|| region.extent().map(Runs::one))
    }

    pub fn count(&self) -> u64 {
        self.levels.iter().map(|l| l.0).product()
    }

    pub fn bytes(&self) -> u64 {
        self.count() * self.len
    }

    /// From the first byte to behind the last.
    pub fn span(&self) -> Range<u64> {
        let reach: u64 = self.levels.iter().map(|(n, step)| (n - 1) * step).sum();
        self.start..self.start + reach + self.len
    }

    /// Where run `i` starts.
    pub fn at(&self, mut i: u64) -> u64 {
        let mut at = self.start;
        for (n, step) in &self.levels {
            at += i % n * step;
            i /= n;
        }
        at
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        (0..if self.len == 0 { 0 } else { self.count() }).map(|i| {
            let at = self.at(i);
            at..at + self.len
        })
    }

    /// The same at the beginning of the memory.
    pub fn shape(&self) -> Runs {
        Runs { start: 0, ..self.clone() }
    }

    /// The same elsewhere.
    pub fn shifted(&self, by: i64) -> Option<Runs> {
        Some(Runs { start: self.start.checked_add_signed(by)?, ..self.clone() })
    }
}

/// Number of a value; 0 is what lay in a byte that nothing is known of, with its address as its place in the image.
pub type Val = u32;

/// Bytes of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Piece {
    pub val: Val,
    pub off: u64,
    pub len: u64,
}

/// Pieces one after the other; none continues the one before it.
pub type Content = SmallVec<[Piece; 2]>;

fn append(content: &mut Content, piece: Piece) {
    match content.last_mut() {
        Some(last) if last.val == piece.val && last.off + last.len == piece.off => last.len += piece.len,
        _ => content.push(piece),
    }
}

#[derive(Clone, Copy, Debug)]
struct Seg {
    end: u64,
    val: Val,
    off: u64,
}

/// What lies in a memory.
#[derive(Clone, Debug, Default)]
pub struct Map(BTreeMap<u64, Seg>);

impl Map {
    fn cut(&mut self, at: u64) {
        let Some((start, seg)) = self.0.range_mut(..at).next_back() else { return };
        if seg.end > at {
            let rest = Seg { off: seg.off + (at - start), ..*seg };
            seg.end = at;
            self.0.insert(at, rest);
        }
    }

    /// Puts the bytes of a value from `off` on into a range.
    pub fn set(&mut self, range: Range<u64>, val: Val, off: u64) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let seg = Seg { end: range.end, val, off };
        let mut old = self.0.range_mut(range.clone());
        if let Some((start, first)) = old.next()
            && *start == range.start
        {
            let mut rest = first.end;
            *first = seg;
            while rest < range.end {
                let Some(next) = self.0.range(range.start + 1..range.end).next().map(|(k, _)| *k) else { break };
                rest = self.0.remove(&next).map_or(range.end, |s| s.end);
            }
            return;
        }
        drop(old);
        while let Some(next) = self.0.range(range.clone()).next().map(|(k, _)| *k) {
            self.0.remove(&next);
        }
        self.0.insert(range.start, seg);
    }

    /// Shows all pieces of a range with where they are.
    pub fn each(&self, range: Range<u64>, mut f: impl FnMut(u64, Piece)) {
        if range.is_empty() {
            return;
        }
        let mut at = range.start;
        let before = self.0.range(..=range.start).next_back().filter(|(_, s)| s.end > range.start);
        let rest = self.0.range((std::ops::Bound::Excluded(range.start), std::ops::Bound::Excluded(range.end)));
        for (start, seg) in before.into_iter().chain(rest) {
            let (from, to) = ((*start).max(range.start), seg.end.min(range.end));
            if from > at {
                f(at, Piece { val: 0, off: at, len: from - at });
            }
            f(from, Piece { val: seg.val, off: seg.off + (from - start), len: to - from });
            at = to;
        }
        if at < range.end {
            f(at, Piece { val: 0, off: at, len: range.end - at });
        }
    }

    /// What lies in some runs.
    pub fn content(&self, runs: &Runs) -> Content {
        let mut content = Content::new();
        for run in runs.iter() {
            self.each(run, |_, piece| append(&mut content, piece));
        }
        content
    }

    /// Whether just this lies in some runs.
    pub fn holds(&self, runs: &Runs, content: &Content) -> bool {
        let (mut k, mut used) = (0, 0u64);
        for run in runs.iter() {
            let mut same = true;
            self.each(run, |_, piece| {
                let want = content.get(k);
                let fits = |w: &Piece| w.val == piece.val && w.off + used == piece.off && used + piece.len <= w.len;
                same &= want.is_some_and(fits);
                used += piece.len;
                if want.is_some_and(|w| w.len == used) {
                    (k, used) = (k + 1, 0);
                }
            });
            if !same {
                return false;
            }
        }
        k == content.len()
    }

    /// How many bytes of this piece lie at an address.
    pub fn held(&self, at: u64, piece: Piece) -> u64 {
        let (mut found, mut open) = (0, true);
        self.each(at..at + piece.len, |_, p| {
            open &= p.val == piece.val && p.off == piece.off + found;
            if open {
                found += p.len;
            }
        });
        found
    }

    /// Whether all of a range is known.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut all = true;
        self.each(range, |_, p| all &= p.val != 0);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::types::{DType, Dims};

    #[test]
    fn regions_are_runs() {
        let region = |dims: &[usize], strides: &[i64]| Region {
            offset: 64,
            dtype: DType::F32,
            dims: Dims::from_slice(dims),
            strides: strides.iter().copied().collect(),
        };
        let list = |r: &Region| Runs::of(r).map(|r| r.iter().collect::<Vec<_>>());
        assert_eq!(list(&region(&[2, 3, 4], &[12, 4, 1])), Some(vec![64..160]));
        assert_eq!(list(&region(&[3, 2], &[1, 3])), Some(vec![64..88]), "a transposed region fills its bytes");
        assert_eq!(list(&region(&[2, 3], &[8, 1])), Some(vec![64..76, 96..108]));
        assert_eq!(list(&region(&[2, 2, 2], &[100, 4, 1])), Some(vec![64..72, 80..88, 464..472, 480..488]));
        assert_eq!(list(&region(&[5, 3], &[0, 1])), Some(vec![64..76]), "what is repeated is there once");
        assert_eq!(list(&region(&[3, 3], &[1, 1])), None);
    }

    #[test]
    fn maps_keep_what_was_put_last() {
        let mut map = Map::default();
        map.set(0..100, 1, 0);
        map.set(40..60, 2, 10);
        map.set(50..55, 3, 0);
        let piece = |val, off, len| Piece { val, off, len };
        let all = Runs::one(0..110);
        let want: Content =
            [piece(1, 0, 40), piece(2, 10, 10), piece(3, 0, 5), piece(2, 25, 5), piece(1, 60, 40), piece(0, 100, 10)].into_iter().collect();
        assert_eq!(map.content(&all), want);
        assert!(map.holds(&all, &want) && !map.holds(&Runs::one(0..100), &want));
        assert_eq!((map.held(30, piece(1, 30, 20)), map.held(30, piece(1, 31, 20)), map.held(105, piece(0, 105, 5))), (10, 0, 5));
        map.set(45..70, 4, 0);
        assert_eq!(map.content(&Runs::one(40..80)).as_slice(), [piece(2, 10, 5), piece(4, 0, 25), piece(1, 70, 10)]);
        map.set(0..100, 5, 0);
        assert_eq!(map.content(&Runs::one(0..100)).as_slice(), [piece(5, 0, 100)]);
        assert!(map.covers(0..100) && !map.covers(0..101));
        assert!(map.covers(300..300) && map.content(&Runs::one(40..40)).is_empty(), "there is nothing in no bytes");
    }
}
