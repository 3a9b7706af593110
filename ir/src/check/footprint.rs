//! Footprints: sets of bytes that regions touch, and what two of them have in common.
//!
//! A footprint is a run of bytes that repeats along dimensions, each of which steps over all that is inside it. Two footprints whose strides
//! divide one another are boxes in one mixed-radix numbering of the bytes, so that intersection and difference are those of boxes and cost
//! nothing a run. Only where the strides do not fit together, single runs are compared.

use super::runs;
use crate::program::Region;
use smallvec::SmallVec;
use std::ops::Range;

/// Digits of an address: a range of each, outermost first; the last one counts bytes.
type Digits = SmallVec<[(u64, u64); 5]>;
/// Strides, descending, each dividing the one before.
type Chain = SmallVec<[u64; 6]>;

/// A set of bytes: `run` of them from `low` on, repeated along each dimension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footprint {
    low: u64,
    run: u64,
    /// (extent above 1, stride), by descending stride. A stride is at least what lies inside, and no two dimensions continue each other.
    dims: SmallVec<[(u64, u64); 3]>,
}

/// What one footprint has in common with another, and what not.
#[derive(Debug, Default)]
pub struct Split {
    /// In both.
    pub inside: Vec<Footprint>,
    /// In the first only.
    pub outside: Vec<Footprint>,
}

impl Footprint {
    /// All bytes of a range that is not empty.
    pub fn range(range: Range<u64>) -> Footprint {
        Footprint { low: range.start, run: range.end - range.start, dims: SmallVec::new() }
    }

    /// The bytes that a region touches, as disjoint footprints: mostly one. Nothing of a region that leaves the address space.
    pub fn of(region: &Region) -> SmallVec<[Footprint; 1]> {
        if region.dims.contains(&0) {
            return SmallVec::new();
        }
        let Some((low, run, rest)) = runs::normal(region) else { return SmallVec::new() };
        let mut inside = run;
        let mut nested = true;
        for (d, s) in rest.iter().rev() {
            nested &= *s >= inside;
            inside = inside.saturating_add((d - 1).saturating_mul(*s));
        }
        if nested {
            return smallvec::smallvec![Footprint::tidy(low, run, rest.iter().copied())];
        }
        runs::runs(region).unwrap_or_default().into_iter().map(Footprint::range).collect()
    }

    /// From dimensions by descending stride; joins what continues.
    fn tidy(low: u64, mut run: u64, dims: impl DoubleEndedIterator<Item = (u64, u64)>) -> Footprint {
        let mut out: SmallVec<[(u64, u64); 3]> = SmallVec::new();
        for (d, s) in dims.rev().filter(|(d, _)| *d > 1) {
            match out.last_mut() {
                None if s == run => run *= d,
                Some((n, t)) if *n * *t == s => *n *= d,
                _ => out.push((d, s)),
            }
        }
        out.reverse();
        Footprint { low, run, dims: out }
    }

    /// The first byte.
    pub fn start(&self) -> u64 {
        self.low
    }

    /// Behind the last byte.
    pub fn end(&self) -> u64 {
        self.low + self.run + self.dims.iter().map(|(d, s)| (d - 1) * s).sum::<u64>()
    }

    /// Whether there is no gap in it.
    pub fn is_range(&self) -> bool {
        self.dims.is_empty()
    }

    /// Whether no byte of one lies between the first and the last byte of the other.
    fn is_apart(&self, other: &Footprint) -> bool {
        self.low >= other.end() || other.low >= self.end()
    }

    /// Whether the two share a byte.
    pub fn meets(&self, other: &Footprint) -> bool {
        if self.is_apart(other) {
            return false;
        }
        if self.is_range() && other.is_range() {
            return true;
        }
        let origin = self.low.min(other.low);
        let Some(chain) = chain(self, other) else { return self.meets_by_runs(other) };
        let (a, b) = (self.boxes(origin, &chain), other.boxes(origin, &chain));
        a.iter().any(|x| b.iter().any(|y| x.iter().zip(y).all(|(p, q)| p.0.max(q.0) < p.1.min(q.1))))
    }

    /// Splits this footprint by another one.
    pub fn split(&self, by: &Footprint, out: &mut Split) {
        if self.is_apart(by) {
            out.outside.push(self.clone());
            return;
        }
        if self == by || by.is_range() && by.low <= self.low && self.end() <= by.end() {
            out.inside.push(self.clone());
            return;
        }
        let origin = self.low.min(by.low);
        let Some(chain) = chain(self, by) else { return self.split_by_runs(by, out) };
        let cuts = by.boxes(origin, &chain);
        let mut rest = self.boxes(origin, &chain);
        for cut in &cuts {
            let mut next: Vec<Digits> = Vec::with_capacity(rest.len());
            for mut piece in rest {
                if piece.iter().zip(cut).any(|(p, q)| p.0.max(q.0) >= p.1.min(q.1)) {
                    next.push(piece);
                    continue;
                }
                for d in 0..piece.len() {
                    let (p, q) = (piece[d], cut[d]);
                    for side in [(p.0, q.0), (q.1, p.1)] {
                        if side.0 < side.1 {
                            let mut left = piece.clone();
                            left[d] = side;
                            next.push(left);
                        }
                    }
                    piece[d] = (p.0.max(q.0), p.1.min(q.1));
                }
                out.inside.push(Footprint::of_box(origin, &chain, &piece));
            }
            rest = next;
        }
        out.outside.extend(rest.iter().map(|b| Footprint::of_box(origin, &chain, b)));
    }

    /// The bytes as boxes in the numbering of a chain.
    fn boxes(&self, origin: u64, chain: &[u64]) -> Vec<Digits> {
        let mut out = Vec::new();
        expand(&self.dims, self.run, self.low - origin, chain, &mut out);
        out
    }

    fn of_box(origin: u64, chain: &[u64], digits: &Digits) -> Footprint {
        let (first, last) = (digits.iter().zip(chain.iter().chain([&1])), digits[digits.len() - 1]);
        let low = first.map(|(d, s)| d.0 * s).sum::<u64>() + origin;
        Footprint::tidy(low, last.1 - last.0, digits.iter().zip(chain).map(|(d, s)| (d.1 - d.0, *s)))
    }

    fn runs(&self) -> Vec<Range<u64>> {
        let mut at = vec![self.low];
        for (d, s) in &self.dims {
            at = at.iter().flat_map(|low| (0..*d).map(move |i| low + i * s)).collect();
        }
        at.into_iter().map(|low| low..low + self.run).collect()
    }

    fn meets_by_runs(&self, other: &Footprint) -> bool {
        let (a, b) = (self.runs(), other.runs());
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            if a[i].start.max(b[j].start) < a[i].end.min(b[j].end) {
                return true;
            }
            if a[i].end <= b[j].end { i += 1 } else { j += 1 }
        }
        false
    }

    fn split_by_runs(&self, by: &Footprint, out: &mut Split) {
        let cuts = by.runs();
        let mut j = 0;
        for mut run in self.runs() {
            while j < cuts.len() && cuts[j].end <= run.start {
                j += 1;
            }
            let mut k = j;
            while k < cuts.len() && cuts[k].start < run.end {
                let common = run.start.max(cuts[k].start)..run.end.min(cuts[k].end);
                if run.start < common.start {
                    out.outside.push(Footprint::range(run.start..common.start));
                }
                run.start = common.end;
                out.inside.push(Footprint::range(common));
                k += 1;
            }
            if run.start < run.end {
                out.outside.push(Footprint::range(run));
            }
        }
    }
}

/// The strides of both, when each divides the one before.
fn chain(a: &Footprint, b: &Footprint) -> Option<Chain> {
    let mut chain: Chain = a.dims.iter().chain(&b.dims).map(|(_, s)| *s).collect();
    chain.sort_unstable_by(|x, y| y.cmp(x));
    chain.dedup();
    chain.windows(2).all(|w| w[0] % w[1] == 0).then_some(chain)
}

/// Appends the boxes of a nest at an offset; the first digit counts from the origin on and has no upper limit.
fn expand(dims: &[(u64, u64)], run: u64, offset: u64, chain: &[u64], out: &mut Vec<Digits>) {
    let Some((&stride, deeper)) = chain.split_first() else {
        out.push(smallvec::smallvec![(offset, offset + run)]);
        return;
    };
    let (times, inner) = match dims.split_first() {
        Some((&(n, s), inner)) if s == stride => (n, inner),
        _ => (1, dims),
    };
    let mut below = Vec::new();
    expand(inner, run, offset % stride, deeper, &mut below);
    // So many of the next digit make one of this.
    let radix = stride / deeper.first().copied().unwrap_or(1);
    let first = offset / stride;
    for b in below {
        let (low, high) = b[0];
        let mut push = |rows: (u64, u64), digit: (u64, u64)| {
            let mut d: Digits = SmallVec::with_capacity(b.len() + 1);
            d.push((first + rows.0, first + rows.1 + times - 1));
            d.push(digit);
            d.extend_from_slice(&b[1..]);
            out.push(d);
        };
        let (top, bottom) = (low / radix, (high - 1) / radix);
        if top == bottom {
            push((top, top + 1), (low % radix, (high - 1) % radix + 1));
            continue;
        }
        // A range that goes over the end of a row: the rest of the first row, whole rows, the beginning of the last.
        let (mut from, mut to) = (top, bottom + 1);
        if low % radix > 0 {
            push((top, top + 1), (low % radix, radix));
            from += 1;
        }
        if high % radix > 0 {
            push((bottom, bottom + 1), (0, high % radix));
            to -= 1;
        }
        if from < to {
            push((from, to), (0, radix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DType, Dims};
    use std::collections::BTreeSet;

    fn bytes(f: &Footprint) -> BTreeSet<u64> {
        f.runs().into_iter().flatten().collect()
    }

    fn random(next: &mut impl FnMut(u64) -> u64) -> Footprint {
        let rank = next(4) as usize;
        let dims: Dims = (0..rank).map(|_| next(4) as usize + 1).collect();
        let (mut strides, mut stride): (Vec<i64>, i64) = (vec![0; rank], 1 + next(2) as i64);
        for d in (0..rank).rev() {
            strides[d] = stride;
            stride *= dims[d] as i64 + next(3) as i64;
        }
        let region = Region { offset: 4 * next(20), dtype: DType::F16, dims, strides: SmallVec::from_slice(&strides) };
        Footprint::of(&region).swap_remove(0)
    }

    #[test]
    fn splits_are_set_operations() {
        let mut seed = 11u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let mut chained = 0;
        for _ in 0..20000 {
            let (a, b) = (random(&mut next), random(&mut next));
            chained += usize::from(chain(&a, &b).is_some_and(|c| c.len() > 1));
            let (x, y) = (bytes(&a), bytes(&b));
            assert_eq!(a.meets(&b), !x.is_disjoint(&y), "{a:?} {b:?}");
            let mut split = Split::default();
            a.split(&b, &mut split);
            let parts = |list: &[Footprint]| list.iter().flat_map(|f| f.runs().into_iter().flatten()).collect::<Vec<u64>>();
            let (mut inside, mut outside) = (parts(&split.inside), parts(&split.outside));
            inside.sort_unstable();
            outside.sort_unstable();
            assert_eq!(inside, x.intersection(&y).copied().collect::<Vec<_>>(), "{a:?} {b:?}");
            assert_eq!(outside, x.difference(&y).copied().collect::<Vec<_>>(), "{a:?} {b:?}");
        }
        assert!(chained > 1000, "{chained} of the pairs have strides that divide one another");
    }
}
