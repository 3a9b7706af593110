//! Regions as sets of bytes and as walks over bytes.
//!
//! Two questions are asked of a strided region: which bytes it touches ([`runs`], exact), and in which order it visits them
//! ([`walk`], a normal form: two regions visit the same addresses in the same order if and only if their walks are equal).

use super::footprint::Footprint;
use crate::program::Region;
use smallvec::SmallVec;
use std::ops::Range;

/// More separate runs than this in one region are refused: no layout of a compiler looks like that, and checking it would take
/// forever.
pub const MAX_RUNS: u64 = 1 << 22;

/// Extent and byte stride of the dimensions that move, outermost first.
pub type Walk = SmallVec<[(u64, i64); 6]>;

/// The normal form of a nest of (extent, byte stride): dimensions of one iteration are dropped, and dimensions that continue each
/// other are joined. Repetition (stride 0) is kept unless `drop_repeats`.
pub fn walk(dims: impl DoubleEndedIterator<Item = (usize, i64)>, drop_repeats: bool) -> Walk {
    let mut out: Walk = Walk::new();
    for (extent, stride) in dims.rev() {
        if extent == 1 || (drop_repeats && stride == 0) {
            continue;
        }
        match out.last_mut() {
            Some((n, s)) if s.wrapping_mul(*n as i64) == stride => *n *= extent as u64,
            _ => out.push((extent as u64, stride)),
        }
    }
    out.reverse();
    out
}

/// The walk of a region.
pub fn region_walk(region: &Region, drop_repeats: bool) -> Walk {
    let size = region.dtype.size() as i64;
    walk(region.dims.iter().zip(&region.strides).map(|(d, s)| (*d, s * size)), drop_repeats)
}

/// Extents and byte strides, both positive.
pub type Nest = SmallVec<[(u64, u64); 6]>;

/// Lowest byte, bytes of a contiguous run, and the remaining dimensions by descending stride.
pub(super) fn normal(region: &Region) -> Option<(u64, u64, Nest)> {
    let range = region.extent()?;
    let size = region.dtype.size() as u64;
    let mut dims: Nest = region
        .dims
        .iter()
        .zip(&region.strides)
        .filter(|(d, s)| **d > 1 && **s != 0)
        .map(|(d, s)| (*d as u64, s.unsigned_abs() * size))
        .collect();
    dims.sort_unstable_by_key(|(_, s)| *s);
    let (mut run, mut used) = (size, 0);
    for (d, s) in &dims {
        if *s > run {
            break;
        }
        run += (d - 1) * s;
        used += 1;
    }
    let rest = dims[used..].iter().rev().copied().collect();
    Some((range.start, run, rest))
}

/// Whether distinct elements lie at distinct bytes, by the rule that each dimension steps over all that is inside it.
pub fn is_injective(region: &Region) -> bool {
    let size = region.dtype.size() as u64;
    let dims = region.dims.iter().zip(&region.strides).map(|(d, s)| (*d as u64, s.unsigned_abs() * size));
    nested(dims.collect(), size)
}

/// Whether a nest of (extent, byte stride) over elements of `size` bytes is nested: each stride is at least what lies inside.
pub fn nested(mut dims: Nest, size: u64) -> bool {
    dims.retain(|(d, _)| *d > 1);
    dims.sort_unstable_by_key(|(_, s)| *s);
    let mut inside = size;
    dims.iter().all(|(d, s)| {
        let fits = *s >= inside;
        inside = inside.saturating_add((d - 1).saturating_mul(*s));
        fits
    })
}

/// Whether the separate runs of a region are few enough to be listed.
pub fn is_compact(region: &Region) -> bool {
    let few = |rest: &Nest| rest.iter().try_fold(1u64, |n, (d, _)| n.checked_mul(*d)).is_some_and(|n| n <= MAX_RUNS);
    region.dims.contains(&0) || normal(region).is_some_and(|(_, _, rest)| few(&rest))
}

/// The bytes that a region touches: ascending, separate, non-empty runs. `None` when it is out of the address space or too scattered.
pub fn runs(region: &Region) -> Option<SmallVec<[Range<u64>; 2]>> {
    if region.dims.contains(&0) {
        return Some(SmallVec::new());
    }
    let (low, run, rest) = normal(region)?;
    if rest.is_empty() {
        return Some(smallvec::smallvec![low..low + run]);
    }
    let count = rest.iter().try_fold(1u64, |n, (d, _)| n.checked_mul(*d)).filter(|n| *n <= MAX_RUNS)?;
    let mut out: SmallVec<[Range<u64>; 2]> = SmallVec::with_capacity(count as usize);
    let mut index: SmallVec<[u64; 6]> = SmallVec::from_elem(0, rest.len());
    let mut at = low;
    'all: loop {
        out.push(at..at + run);
        let mut d = rest.len();
        loop {
            if d == 0 {
                break 'all;
            }
            d -= 1;
            let (extent, stride) = rest[d];
            index[d] += 1;
            if index[d] < extent {
                at += stride;
                break;
            }
            at -= stride * (extent - 1);
            index[d] = 0;
        }
    }
    if out.windows(2).any(|w| w[1].start <= w[0].end) {
        out.sort_unstable_by_key(|r| r.start);
        let mut merged: SmallVec<[Range<u64>; 2]> = SmallVec::new();
        for r in out {
            match merged.last_mut() {
                Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
                _ => merged.push(r),
            }
        }
        return Some(merged);
    }
    Some(out)
}

/// Whether two regions share a byte. Regions too scattered to tell are taken to.
pub fn overlap(a: &Region, b: &Region) -> bool {
    let (Some(x), Some(y)) = (a.extent(), b.extent()) else { return true };
    if x.start.max(y.start) >= x.end.min(y.end) {
        return false;
    }
    if !is_compact(a) || !is_compact(b) {
        return true;
    }
    let other = Footprint::of(b);
    Footprint::of(a).iter().any(|f| other.iter().any(|g| f.meets(g)))
}

/// Strides that show a strided view as one of other extents with the same elements in the same order; `None` when no strides do.
pub fn view_as(dims: &[usize], strides: &[i64], to: &[usize]) -> Option<SmallVec<[i64; 6]>> {
    if crate::types::element_count(dims) != crate::types::element_count(to) {
        return None;
    }
    if dims == to {
        return Some(SmallVec::from_slice(strides));
    }
    let steps = walk(dims.iter().copied().zip(strides.iter().copied()), false);
    let mut out: SmallVec<[i64; 6]> = SmallVec::from_elem(0, to.len());
    // From the inside out, each target extent has to divide what is left of the current step.
    let mut steps = steps.into_iter().rev();
    let mut step = steps.next().unwrap_or((1, 1));
    for (d, extent) in to.iter().enumerate().rev() {
        let extent = *extent as u64;
        if extent <= 1 {
            out[d] = step.1;
            continue;
        }
        if step.0 == 1 {
            step = steps.next()?;
        }
        if step.0 % extent != 0 {
            return None;
        }
        out[d] = step.1;
        step = (step.0 / extent, step.1.wrapping_mul(extent as i64));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DType, Dims};
    use std::collections::BTreeSet;

    fn region(offset: u64, dims: &[usize], strides: &[i64]) -> Region {
        Region { offset, dtype: DType::F16, dims: Dims::from_slice(dims), strides: SmallVec::from_slice(strides) }
    }

    fn bytes(r: &Region) -> Vec<u64> {
        crate::tensor::indices(&r.dims)
            .flat_map(|i| {
                let shift: i64 = i.iter().zip(&r.strides).map(|(i, s)| *i as i64 * s * 2).sum();
                let at = r.offset.wrapping_add_signed(shift);
                [at, at + 1]
            })
            .collect()
    }

    #[test]
    fn runs_are_the_bytes() {
        let mut seed = 3u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..3000 {
            let rank = next(4) as usize;
            let dims: Vec<usize> = (0..rank).map(|_| next(4) as usize + 1).collect();
            let strides: Vec<i64> = (0..rank).map(|_| next(15) as i64 - 7).collect();
            let r = region(400, &dims, &strides);
            let listed: BTreeSet<u64> = bytes(&r).into_iter().collect();
            let run: Vec<u64> = runs(&r).unwrap().into_iter().flatten().collect();
            assert_eq!(run, listed.iter().copied().collect::<Vec<_>>(), "{r:?}");
            if is_injective(&r) {
                assert_eq!(listed.len() as u64, r.bytes(), "{r:?}");
            }
            let other = region(400 + next(20), &[next(5) as usize + 1], &[next(5) as i64]);
            let common = bytes(&other).iter().any(|b| listed.contains(b));
            assert_eq!(overlap(&r, &other), common);
            // Equal walks are equal visits.
            assert_eq!(region_walk(&r, false) == region_walk(&other, false) && r.offset == other.offset, bytes(&r) == bytes(&other));
        }
    }

    #[test]
    fn views() {
        assert_eq!(view_as(&[6, 4], &[8, 1], &[2, 3, 4]).unwrap().as_slice(), [24, 8, 1]);
        assert_eq!(view_as(&[6, 4], &[4, 1], &[24]).unwrap().as_slice(), [1]);
        assert_eq!(view_as(&[6, 4], &[8, 1], &[24]), None);
        assert_eq!(view_as(&[1, 4], &[8, 1], &[4, 1]).map(|s| s[0]), Some(1));
        assert_eq!(view_as(&[], &[], &[1, 1]).map(|s| s.len()), Some(2));
    }
}
