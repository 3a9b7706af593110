//! What bytes hold, in terms of the reference step: which element of which value, and how much of its sum.
//!
//! A piece of memory has a content: one or more forms (a value, the part of it, and the affine map from index to address; a reshape
//! in place adds a form), a coverage (complete, or the parts of the reducing loops that are summed so far), and the type of its elements:
//! that of the value, or the one in which its sums are carried until they are rounded.

use crate::axes::{Box, box_contains, box_dims};
use crate::program::Region;
use crate::scalar::Monoid;
use crate::types::{DType, element_count};
use smallvec::SmallVec;
use std::ops::Range;

use super::runs::{nested, view_as};

/// A value component, behind `proj` and ops that change nothing.
pub type Key = (u32, u32);

/// Bytes seen as a part of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Form {
    /// The value.
    pub key: Key,
    /// The part of it.
    pub part: Box,
    /// Address of index (0, 0, …), which may lie outside the memory.
    pub base: i64,
    /// Bytes from one index to the next, one a dimension. Of a dimension of one index it says nothing.
    pub strides: SmallVec<[i64; 6]>,
}

impl Form {
    /// A region that holds a part: the region's elements in order are the part's in order. `None` when no strides say so.
    pub fn of(key: Key, part: &[Range<usize>], region: &Region) -> Option<Form> {
        let strides = view_as(&region.dims, &region.strides, &box_dims(part))?;
        let size = region.dtype.size() as i64;
        let strides: SmallVec<[i64; 6]> = strides.into_iter().map(|s| s * size).collect();
        Some(Form { key, part: Box::from(part), base: base_of(region.offset as i64, part, &strides), strides })
    }

    /// Address of the part's first index.
    pub fn corner(&self) -> i64 {
        address(self.base, &self.strides, self.part.iter().map(|r| r.start))
    }

    /// Whether this form lies where the map of `base` and `strides` puts it, and no other index of `part` could lie there.
    pub fn agrees(&self, part: &[Range<usize>], base: i64, strides: &[i64], size: u64) -> bool {
        if address(base, strides, self.part.iter().map(|r| r.start)) != self.corner() {
            return false;
        }
        if self.part.iter().zip(&self.strides).zip(strides).any(|((r, a), b)| r.len() > 1 && a != b) {
            return false;
        }
        if box_contains(&self.part, part) {
            return true;
        }
        let hull = self.part.iter().zip(part).zip(strides).map(|((a, b), s)| {
            let extent = a.end.max(b.end) - a.start.min(b.start);
            (extent as u64, s.unsigned_abs())
        });
        nested(hull.collect(), size)
    }
}

/// `base + Σ index·stride`.
pub fn address(base: i64, strides: &[i64], index: impl Iterator<Item = usize>) -> i64 {
    index.zip(strides).fold(base, |at, (i, s)| at.wrapping_add((i as i64).wrapping_mul(*s)))
}

/// The base of a map that puts the first index of `part` at `corner`.
pub fn base_of(corner: i64, part: &[Range<usize>], strides: &[i64]) -> i64 {
    part.iter().zip(strides).fold(corner, |at, (r, s)| at.wrapping_sub((r.start as i64).wrapping_mul(*s)))
}

/// The content of a piece of memory.
#[derive(Clone, Debug)]
pub struct Content {
    /// What it can be read as.
    pub forms: SmallVec<[Form; 1]>,
    /// How much of it is summed.
    pub coverage: CoverageId,
    /// What its elements are.
    pub dtype: DType,
}

/// Index of a [`Coverage`]; [`COMPLETE`] is the one of whole values.
pub type CoverageId = u32;

/// The coverage of a whole value.
pub const COMPLETE: CoverageId = 0;

/// The parts of the reducing loops that a partial result has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// How parts combine.
    pub monoid: Monoid,
    /// Extents of the reducing loops.
    pub extents: SmallVec<[usize; 4]>,
    /// Disjoint boxes of them, sorted.
    pub boxes: Vec<Box>,
}

/// All coverages.
#[derive(Debug)]
pub struct Coverages {
    list: Vec<Coverage>,
    known: rustc_hash::FxHashMap<(Monoid, Vec<Box>), CoverageId>,
}

impl Default for Coverages {
    fn default() -> Self {
        let complete = Coverage { monoid: Monoid::Sum, extents: SmallVec::new(), boxes: Vec::new() };
        Coverages { list: vec![complete], known: rustc_hash::FxHashMap::default() }
    }
}

impl Coverages {
    /// The coverage of these ranges of reducing loops.
    pub fn part(&mut self, monoid: Monoid, extents: &[usize], ranges: Box) -> CoverageId {
        if ranges.iter().zip(extents).all(|(r, e)| r.start == 0 && r.end == *e) {
            return COMPLETE;
        }
        self.intern(Coverage { monoid, extents: SmallVec::from_slice(extents), boxes: vec![ranges] })
    }

    fn intern(&mut self, coverage: Coverage) -> CoverageId {
        let key = (coverage.monoid, coverage.boxes.clone());
        let next = self.list.len() as CoverageId;
        let id = *self.known.entry(key).or_insert(next);
        if id == next {
            self.list.push(coverage);
        } else if self.list[id as usize].extents != coverage.extents {
            // Equal boxes of loops of other extents belong to another node.
            self.list.push(coverage);
            return next;
        }
        id
    }

    /// The combiner of a partial coverage.
    pub fn monoid(&self, id: CoverageId) -> Option<Monoid> {
        (id != COMPLETE).then(|| self.list[id as usize].monoid)
    }

    /// Both together; `Err` says why they may not be combined.
    pub fn merge(&mut self, a: CoverageId, b: CoverageId, monoid: Monoid) -> Result<CoverageId, String> {
        if a == COMPLETE || b == COMPLETE {
            return Err("one of the two is complete already, so nothing may be added to it".to_string());
        }
        let (x, y) = (&self.list[a as usize], &self.list[b as usize]);
        if x.monoid != monoid || y.monoid != monoid {
            return Err(format!("they are combined with {}, but the value needs {}", monoid.name(), x.monoid.name()));
        }
        if x.extents != y.extents {
            return Err("they are partial over different loops".to_string());
        }
        for p in &x.boxes {
            if let Some(q) = y.boxes.iter().find(|q| p.is_empty() || crate::axes::box_intersect(p, q).is_some()) {
                let (p, q) = (super::report::show_box(p), super::report::show_box(q));
                return Err(format!("both hold part of the reducing loops: {p} and {q}"));
            }
        }
        let extents = x.extents.clone();
        let mut boxes: Vec<Box> = x.boxes.iter().chain(&y.boxes).cloned().collect();
        join(&mut boxes);
        let have: usize = boxes.iter().map(|b| element_count(&box_dims(b))).sum();
        if have == element_count(&extents) {
            return Ok(COMPLETE);
        }
        Ok(self.intern(Coverage { monoid, extents, boxes }))
    }

    /// What a partial coverage has, in words.
    pub fn describe(&self, id: CoverageId) -> String {
        let c = &self.list[id as usize];
        let boxes: Vec<String> = c.boxes.iter().take(4).map(|b| super::report::show_box(b)).collect();
        let more = if c.boxes.len() > 4 { " and more" } else { "" };
        format!("only {}{more} of the reducing loops of extents {:?}", boxes.join(" "), c.extents)
    }
}

/// Joins boxes that continue each other along one dimension, until none do.
fn join(boxes: &mut Vec<Box>) {
    boxes.sort_unstable_by(|a, b| a.iter().map(|r| (r.start, r.end)).cmp(b.iter().map(|r| (r.start, r.end))));
    let rank = boxes.first().map_or(0, |b| b.len());
    for d in (0..rank).rev() {
        let mut out: Vec<Box> = Vec::with_capacity(boxes.len());
        for b in boxes.drain(..) {
            match out.last_mut() {
                Some(last) if last[d].end == b[d].start && (0..rank).all(|e| e == d || last[e] == b[e]) => last[d].end = b[d].end,
                _ => out.push(b),
            }
        }
        *boxes = out;
    }
}

/// A part of `whole` that no box covers.
pub fn uncovered(whole: Box, boxes: &[Box]) -> Option<Box> {
    let mut rest: Vec<Box> = if crate::axes::box_is_empty(&whole) { Vec::new() } else { vec![whole] };
    for b in boxes {
        let mut next = Vec::with_capacity(rest.len());
        for r in rest {
            let Some(common) = crate::axes::box_intersect(&r, b) else {
                // A scalar has no dimensions: any box is all of it.
                if !r.is_empty() {
                    next.push(r);
                }
                continue;
            };
            let mut left = r;
            for d in 0..left.len() {
                if left[d].start < common[d].start {
                    let mut low = left.clone();
                    low[d].end = common[d].start;
                    next.push(low);
                }
                if common[d].end < left[d].end {
                    let mut high = left.clone();
                    high[d].start = common[d].end;
                    next.push(high);
                }
                left[d] = common[d].clone();
            }
        }
        rest = next;
        if rest.is_empty() {
            return None;
        }
    }
    rest.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(r: &[Range<usize>]) -> Box {
        Box::from(r)
    }

    #[test]
    fn parts_add_up_to_the_whole_once() {
        let mut c = Coverages::default();
        let mut part = |r: Range<usize>, s: Range<usize>| c.part(Monoid::Sum, &[4, 6], b(&[r, s]));
        let (x, y, z) = (part(0..2, 0..6), part(2..4, 0..3), part(2..4, 3..6));
        assert_eq!(part(0..4, 0..6), COMPLETE);
        let xy = c.merge(x, y, Monoid::Sum).unwrap();
        assert!(c.merge(xy, y, Monoid::Sum).unwrap_err().contains("both hold"));
        assert!(c.merge(xy, z, Monoid::Max).is_err());
        assert_eq!(c.merge(xy, z, Monoid::Sum), Ok(COMPLETE));
        let yz = c.merge(y, z, Monoid::Sum).unwrap();
        assert_eq!(c.merge(yz, x, Monoid::Sum), Ok(COMPLETE));
    }

    #[test]
    fn uncovered_parts() {
        let whole = b(&[0..4, 0..4]);
        assert_eq!(uncovered(whole.clone(), &[b(&[0..4, 0..2]), b(&[0..2, 2..4]), b(&[1..4, 2..4])]), None);
        assert_eq!(uncovered(whole.clone(), &[b(&[0..4, 0..2]), b(&[0..2, 2..4]), b(&[3..4, 2..4])]), Some(b(&[2..3, 2..4])));
        assert_eq!(uncovered(b(&[]), &[]), Some(b(&[])));
        assert_eq!(uncovered(b(&[]), &[b(&[])]), None);
        assert_eq!(uncovered(b(&[0..0, 0..3]), &[]), None);
    }
}
