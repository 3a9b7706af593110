//! Axes: the loop nest of an op, and how each operand and result dimension moves with it.
//!
//! Splitting an op over dies, the partial sums that a split leaves behind, halos, the exact operand box that an output box
//! needs, and FLOP counts are all read off this one description.

use crate::scalar::Monoid;
use crate::types::Dims;
use smallvec::SmallVec;
use std::ops::Range;

/// A box: one half-open index range a dimension.
pub type Box = SmallVec<[Range<usize>; 6]>;

/// The box that covers a whole shape.
pub fn full_box(shape: &[usize]) -> Box {
    shape.iter().map(|d| 0..*d).collect()
}

/// Extents of a box.
pub fn box_dims(b: &[Range<usize>]) -> Dims {
    b.iter().map(|r| r.end.saturating_sub(r.start)).collect()
}

/// Whether a box holds no element.
pub fn box_is_empty(b: &[Range<usize>]) -> bool {
    b.iter().any(|r| r.start >= r.end)
}

/// The common part of two boxes of one rank; `None` when there is none.
pub fn box_intersect(a: &[Range<usize>], b: &[Range<usize>]) -> Option<Box> {
    let both: Box = a.iter().zip(b).map(|(x, y)| x.start.max(y.start)..x.end.min(y.end)).collect();
    (!box_is_empty(&both)).then_some(both)
}

/// Whether `outer` holds all of `inner`.
pub fn box_contains(outer: &[Range<usize>], inner: &[Range<usize>]) -> bool {
    box_is_empty(inner) || outer.iter().zip(inner).all(|(o, i)| o.start <= i.start && i.end <= o.end)
}

/// One loop of the nest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoopDim {
    /// Trip count.
    pub extent: usize,
    /// What splitting it means.
    pub kind: LoopKind,
}

/// What splitting a loop over dies means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoopKind {
    /// Each die makes its own part of the results.
    Parallel,
    /// Each die makes a partial result of full size; combining them with the monoid gives the result.
    Reduce(Monoid),
    /// May not be split: iterations depend on each other (a scan, a sort, a row).
    Whole,
}

/// How one dimension of an operand or result moves with the loops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DimUse {
    /// The index is the loop variable.
    Loop(usize),
    /// Every index may be touched at any iteration (gathered dimensions, tables).
    Whole,
    /// Window access: touches `(loop·stride + offset + t) / dilation` for `t` in `0..size` (exact multiples only), clipped to the
    /// extent. Slices, pads, concatenation, reversal (negative stride), pooling and convolution are all of this form.
    Window {
        /// The loop.
        loop_dim: usize,
        /// Step per iteration; negative for a reversal.
        stride: i64,
        /// Position of the window's first element at iteration 0 (minus the low padding).
        offset: i64,
        /// Extent of the window, dilation of the window included.
        size: i64,
        /// Dilation of this dimension itself (interior padding); at least 1.
        dilation: i64,
    },
    /// Reshape: the index is `(Σ loopᵢ·strideᵢ / divide) mod extent`; ranges are rounded outward to the smallest box.
    Linear {
        /// Loops and their weights in the flat index, outermost first.
        terms: SmallVec<[(usize, usize); 4]>,
        /// Product of the extents inside this dimension.
        divide: usize,
        /// Extent of this dimension.
        extent: usize,
    },
}

/// The loop nest of an op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Axes {
    /// Loops; results first.
    pub loops: Vec<LoopDim>,
    /// One list a tensor operand: one use a dimension.
    pub operands: Vec<Vec<DimUse>>,
    /// One list a result component: one use a dimension. Results only use `Loop` and `Whole`.
    pub results: Vec<Vec<DimUse>>,
    /// Floating-point (or integer) operations per iteration of the whole nest, for FLOP counts.
    pub ops_per_point: u64,
}

impl Axes {
    /// The nest where every loop is one dimension of `shape`, all operands and the result lie alike: elementwise.
    pub fn elementwise(shape: &[usize], operands: usize, ops_per_point: u64) -> Self {
        let dims: Vec<DimUse> = (0..shape.len()).map(DimUse::Loop).collect();
        Axes {
            loops: shape.iter().map(|d| LoopDim { extent: *d, kind: LoopKind::Parallel }).collect(),
            operands: vec![dims.clone(); operands],
            results: vec![dims],
            ops_per_point,
        }
    }

    /// An op that can only run whole: every operand and result dimension is `Whole`.
    pub fn whole(operand_ranks: &[usize], result_ranks: &[usize]) -> Self {
        Axes {
            loops: Vec::new(),
            operands: operand_ranks.iter().map(|r| vec![DimUse::Whole; *r]).collect(),
            results: result_ranks.iter().map(|r| vec![DimUse::Whole; *r]).collect(),
            ops_per_point: 1,
        }
    }

    /// The full range of every loop.
    pub fn full_ranges(&self) -> Vec<Range<usize>> {
        self.loops.iter().map(|l| 0..l.extent).collect()
    }

    /// The smallest box of operand `k` (extents `shape`) that the given loop ranges touch.
    pub fn operand_box(&self, k: usize, shape: &[usize], ranges: &[Range<usize>]) -> Box {
        self.operands[k].iter().zip(shape).map(|(u, extent)| u.touched(*extent, ranges)).collect()
    }

    /// The box of result `k` (extents `shape`) that the given loop ranges make.
    pub fn result_box(&self, k: usize, shape: &[usize], ranges: &[Range<usize>]) -> Box {
        self.results[k].iter().zip(shape).map(|(u, extent)| u.touched(*extent, ranges)).collect()
    }

    /// Iterations of the nest over the given ranges, times the operations of each.
    pub fn ops(&self, ranges: &[Range<usize>]) -> u64 {
        ranges.iter().fold(self.ops_per_point, |n, r| n.saturating_mul((r.end - r.start) as u64))
    }
}

impl DimUse {
    /// The indices touched by loop ranges, clipped to the extent.
    pub fn touched(&self, extent: usize, ranges: &[Range<usize>]) -> Range<usize> {
        match self {
            DimUse::Whole => 0..extent,
            DimUse::Loop(l) => ranges[*l].clone(),
            DimUse::Window { loop_dim, stride, offset, size, dilation } => {
                let r = &ranges[*loop_dim];
                if r.start >= r.end || *size <= 0 {
                    return 0..0;
                }
                let (first, last) = (r.start as i64 * stride + offset, (r.end as i64 - 1) * stride + offset);
                let (low, high) = (first.min(last), first.max(last) + size - 1);
                let low = low.max(0).div_euclid(*dilation) + i64::from(low > 0 && low % dilation != 0);
                let high = if high < 0 { -1 } else { high.div_euclid(*dilation) };
                let high = (high + 1).clamp(0, extent as i64) as usize;
                let low = (low as usize).min(extent);
                low.min(high)..high
            }
            DimUse::Linear { terms, divide, extent: d } => {
                if terms.iter().any(|(l, _)| ranges[*l].start >= ranges[*l].end) {
                    return 0..0;
                }
                let low: usize = terms.iter().map(|(l, s)| ranges[*l].start * s).sum();
                let high: usize = terms.iter().map(|(l, s)| (ranges[*l].end - 1) * s).sum();
                let (low, high) = (low / divide, high / divide);
                if *d == 0 {
                    0..0
                } else if low / d == high / d {
                    low % d..high % d + 1
                } else {
                    0..*d
                }
            }
        }
    }
}
