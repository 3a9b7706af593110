//! A map from byte ranges to facts: the shadow memory of the checker.
//!
//! Neighboring ranges with equal facts are joined, so the map stays as small as the memory is simple.

use std::collections::BTreeMap;
use std::ops::Range;

/// Facts by byte range; bytes without one are not in the map.
#[derive(Clone, Debug)]
pub struct IntervalMap<T> {
    pieces: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for IntervalMap<T> {
    fn default() -> Self {
        IntervalMap { pieces: BTreeMap::new() }
    }
}

impl<T: Copy + PartialEq> IntervalMap<T> {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Whether nothing is known of any byte.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Sets the fact of every byte of `range`.
    pub fn set(&mut self, range: Range<u64>, fact: T) {
        if range.start >= range.end {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // The common case first: the range is a piece of its own already.
        if let Some(piece) = self.pieces.get_mut(&start)
            && piece.0 == end
            && piece.1 == fact
        {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let inside: Vec<u64> = self.pieces.range(range).map(|(s, _)| *s).collect();
        for s in inside {
            self.pieces.remove(&s);
        }
        if let Some((s, (e, f))) = self.pieces.range(..start).next_back().map(|(s, p)| (*s, *p))
            && e == start
            && f == fact
        {
            self.pieces.remove(&s);
            start = s;
        }
        if let Some((e, f)) = self.pieces.get(&end).copied()
            && f == fact
        {
            self.pieces.remove(&end);
            end = e;
        }
        self.pieces.insert(start, (end, fact));
    }

    /// Forgets every byte of `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let inside: Vec<u64> = self.pieces.range(range).map(|(s, _)| *s).collect();
        for s in inside {
            self.pieces.remove(&s);
        }
    }

    /// Changes the fact of every byte of `range`, starting from `absent` where there is none.
    pub fn update(&mut self, range: Range<u64>, absent: T, change: impl Fn(&mut T)) {
        if range.start >= range.end {
            return;
        }
        let mut parts: Vec<(Range<u64>, T)> = Vec::new();
        self.each(range, |r, fact| {
            let mut fact = fact.unwrap_or(absent);
            change(&mut fact);
            parts.push((r, fact));
            true
        });
        for (r, fact) in parts {
            self.set(r, fact);
        }
    }

    /// Walks `range` piece by piece, gaps included, while `visit` says true; returns whether it always did.
    pub fn each(&self, range: Range<u64>, mut visit: impl FnMut(Range<u64>, Option<T>) -> bool) -> bool {
        let mut at = range.start;
        let first = self.pieces.range(..=at).next_back().filter(|(_, (e, _))| *e > at).map_or(at, |(s, _)| *s);
        for (s, (e, fact)) in self.pieces.range(first..range.end) {
            if *s > at {
                if !visit(at..*s, None) {
                    return false;
                }
                at = *s;
            }
            let end = (*e).min(range.end);
            if !visit(at..end, Some(*fact)) {
                return false;
            }
            at = end;
        }
        at >= range.end || visit(at..range.end, None)
    }

    /// Makes `at` a border between pieces.
    fn cut(&mut self, at: u64) {
        if let Some((s, (e, fact))) = self.pieces.range(..at).next_back().map(|(s, p)| (*s, *p))
            && e > at
        {
            self.pieces.insert(s, (at, fact));
            self.pieces.insert(at, (e, fact));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_one_fact_a_byte() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let (mut map, mut bytes) = (IntervalMap::default(), vec![None::<u64>; 64]);
        for _ in 0..2000 {
            let a = next(64);
            let b = a + next(64 - a) + 1;
            if next(5) == 0 {
                map.remove(a..b);
                bytes[a as usize..b as usize].fill(None);
            } else if next(3) == 0 {
                map.update(a..b, 100, |f| *f += 1);
                bytes[a as usize..b as usize].iter_mut().for_each(|f| *f = Some(f.unwrap_or(100) + 1));
            } else {
                let fact = next(4);
                map.set(a..b, fact);
                bytes[a as usize..b as usize].fill(Some(fact));
            }
            let mut seen = Vec::new();
            assert!(map.each(0..64, |r, f| {
                seen.extend(r.map(|_| f));
                true
            }));
            assert_eq!(seen, bytes);
        }
    }

    #[test]
    fn equal_neighbors_join() {
        let mut map = IntervalMap::default();
        map.set(0..4, 1);
        map.set(8..12, 1);
        map.set(4..8, 1);
        assert_eq!(map.len(), 1);
        map.set(2..3, 2);
        assert_eq!(map.len(), 3);
        assert!(!map.each(0..12, |_, f| f == Some(1)));
    }
}
