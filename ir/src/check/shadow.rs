//! The shadow memory of the checker: what is known of each byte of a die, as the writes that are still to be seen.
//!
//! Writes are kept whole, the newest first, for each range between the borders of contiguous writes. A read takes from each what is not covered
//! by a newer one, so a strided write costs one entry, however many runs of bytes it has.

use super::footprint::{Footprint, Split};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Stacks of more writes than this are searched for writes that cannot be seen any more.
const CROWDED: usize = 32;

#[derive(Clone, Debug)]
struct Write<T> {
    footprint: Footprint,
    /// `None`: nothing is known from here on.
    fact: Option<T>,
}

/// Writes that may be seen in a range, oldest first, as positions in the log.
type Stack = SmallVec<[u32; 4]>;

/// Facts by byte; of bytes without one nothing is known.
#[derive(Clone, Debug)]
pub struct Shadow<T> {
    log: Vec<Write<T>>,
    /// By the start of a range: its end, and the writes in it.
    ranges: BTreeMap<u64, (u64, Stack)>,
}

impl<T> Default for Shadow<T> {
    fn default() -> Self {
        Shadow { log: Vec::new(), ranges: BTreeMap::new() }
    }
}

impl<T: Copy + PartialEq> Shadow<T> {
    /// Sets what is known of all bytes of a footprint; `None` forgets them.
    pub fn set(&mut self, footprint: &Footprint, fact: Option<T>) {
        let id = self.log.len() as u32;
        let (start, end) = (footprint.start(), footprint.end());
        self.log.push(Write { footprint: footprint.clone(), fact });
        if footprint.is_range() {
            self.cut(start);
            self.cut(end);
            let covered: SmallVec<[u64; 8]> = self.ranges.range(start..end).map(|(s, _)| *s).collect();
            covered.iter().for_each(|s| {
                self.ranges.remove(s);
            });
            self.ranges.insert(start, (end, smallvec::smallvec![id]));
            return;
        }
        let mut at = self.first_in(start);
        let mut touched: SmallVec<[u64; 8]> = SmallVec::new();
        let mut gaps: SmallVec<[(u64, u64); 8]> = SmallVec::new();
        let mut reached = start;
        for (s, (e, _)) in self.ranges.range(at..end) {
            if *s > reached {
                gaps.push((reached, *s));
            }
            touched.push(*s);
            reached = *e;
        }
        if reached < end {
            gaps.push((reached, end));
        }
        for s in touched {
            at = s;
            let log = &self.log;
            let Some((e, stack)) = self.ranges.get_mut(&at) else { continue };
            stack.retain(|w| log[*w as usize].footprint != *footprint);
            stack.push(id);
            if stack.len() > CROWDED && stack.len().is_power_of_two() {
                let visible = visible(log, Footprint::range(at..*e), stack);
                *stack = visible;
            }
        }
        if fact.is_some() {
            for (s, e) in gaps {
                self.ranges.insert(s, (e, smallvec::smallvec![id]));
            }
        }
    }

    /// Visits the facts of a footprint, one a write, each with the bytes that it holds for, and returns a byte of which nothing is known,
    /// if there is one.
    pub fn each(&self, footprint: &Footprint, mut visit: impl FnMut(&Footprint, T)) -> Option<u64> {
        let (start, end) = (footprint.start(), footprint.end());
        let mut writes: SmallVec<[u32; 16]> = SmallVec::new();
        for (_, stack) in self.ranges.range(self.first_in(start)..end).map(|(_, r)| r) {
            writes.extend_from_slice(stack);
        }
        writes.sort_unstable_by(|a, b| b.cmp(a));
        writes.dedup();
        let mut rest = vec![footprint.clone()];
        let mut hole: Option<u64> = None;
        let mut split = Split::default();
        for w in writes {
            let write = &self.log[w as usize];
            for piece in &rest {
                piece.split(&write.footprint, &mut split);
            }
            match write.fact {
                Some(fact) => split.inside.drain(..).for_each(|f| visit(&f, fact)),
                None => hole = split.inside.drain(..).map(|f| f.start()).chain(hole).min(),
            }
            std::mem::swap(&mut rest, &mut split.outside);
            split.outside.clear();
            if rest.is_empty() {
                return hole;
            }
        }
        rest.iter().map(Footprint::start).chain(hole).min()
    }

    /// The start of the first range that reaches beyond `at`.
    fn first_in(&self, at: u64) -> u64 {
        self.ranges.range(..=at).next_back().filter(|(_, (e, _))| *e > at).map_or(at, |(s, _)| *s)
    }

    /// Makes `at` a border between ranges.
    fn cut(&mut self, at: u64) {
        if let Some((_, (e, stack))) = self.ranges.range_mut(..at).next_back()
            && *e > at
        {
            let (end, stack) = (*e, stack.clone());
            *e = at;
            self.ranges.insert(at, (end, stack));
        }
    }
}

/// The writes of a stack of which something can be seen in a range.
fn visible<T>(log: &[Write<T>], range: Footprint, stack: &Stack) -> Stack {
    let (mut rest, mut split) = (vec![range], Split::default());
    let mut out = Stack::new();
    for w in stack.iter().rev() {
        for piece in &rest {
            piece.split(&log[*w as usize].footprint, &mut split);
        }
        if !split.inside.is_empty() {
            out.push(*w);
        }
        split.inside.clear();
        std::mem::swap(&mut rest, &mut split.outside);
        split.outside.clear();
        if rest.is_empty() {
            break;
        }
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Region;
    use crate::types::{DType, Dims};

    #[test]
    fn agrees_with_one_fact_a_byte() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let (mut map, mut bytes) = (Shadow::default(), vec![None::<u64>; 128]);
        for round in 0..20000u64 {
            let dims: Dims = (0..2).map(|_| next(3) as usize + 1).collect();
            let inner = 1 + next(3) as i64;
            let strides = [inner * (dims[1] as i64 + next(2) as i64), inner];
            let region = Region { offset: next(40), dtype: DType::U8, dims, strides: SmallVec::from_slice(&strides) };
            let fact = (next(4) > 0).then_some(round);
            for f in Footprint::of(&region) {
                map.set(&f, fact);
                (f.start()..f.end()).filter(|b| f.meets(&Footprint::range(*b..*b + 1))).for_each(|b| bytes[b as usize] = fact);
            }
            if round % 7 == 0 {
                let (a, b) = (next(60), 1 + next(4));
                let mut seen = vec![None; 128];
                let hole = map.each(&Footprint::range(a..a + b), |f, fact| {
                    let held = (f.start()..f.end()).filter(|b| f.meets(&Footprint::range(*b..*b + 1)));
                    held.for_each(|b| seen[b as usize] = Some(fact));
                });
                let (a, b) = (a as usize, (a + b) as usize);
                assert_eq!(seen[a..b], bytes[a..b]);
                assert_eq!(hole.is_some(), bytes[a..b].contains(&None));
            }
        }
    }
}
