//! One operand of a contraction, and how a block of it is packed.
//!
//! An operand is a matrix of rows × terms whose index spaces may each have several axes: a plain matrix has one of each, the image of a
//! convolution has (batch, output positions) × (taps, channels).
//! The address is linear in all of them, so one packing routine serves transposed matrices and im2col alike; the only extra is the window,
//! which turns positions in the padding into zeros.

use crate::arch;
use crate::gemm::KC;
use crate::isa::Isa;
use smallvec::SmallVec;

/// Not a spatial axis.
pub(crate) const PLAIN: usize = usize::MAX;

/// One axis of an index space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Axis {
    /// Extent.
    pub size: usize,
    /// Distance in elements between neighbors.
    pub stride: isize,
    /// Which image coordinate it moves, or [`PLAIN`].
    pub spatial: usize,
    /// By how much it moves that coordinate; positive.
    pub step: isize,
}

impl Axis {
    /// An axis that moves no image coordinate.
    pub(crate) fn plain(size: usize, stride: isize) -> Self {
        Axis { size, stride, spatial: PLAIN, step: 0 }
    }
}

/// The axes of an index space, outermost first.
pub(crate) type Axes = SmallVec<[Axis; 6]>;

/// One operand: element (row, term) is at `base + Σ index·stride`, or is 0 when an image coordinate leaves `extent`.
#[derive(Clone, Debug)]
pub(crate) struct Operand<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Position of (row 0, term 0); may lie outside the slice when that is in the padding.
    pub base: isize,
    /// Row axes.
    pub rows: Axes,
    /// Term axes: the summation order.
    pub terms: Axes,
    /// Image coordinates of (row 0, term 0).
    pub origin: [isize; 3],
    /// Extents of the image.
    pub extent: [isize; 3],
}

/// A run along the innermost axis of an index space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Where it starts in the block.
    start: usize,
    /// Elements.
    len: usize,
    /// Offset of its first element.
    offset: isize,
    /// Image coordinates of its first element.
    coord: [isize; 3],
}

/// Cuts `[start, end)` of an index space into runs along its innermost axis.
fn segments(axes: &[Axis], start: usize, end: usize, out: &mut Vec<Segment>) {
    out.clear();
    let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, axes.len());
    let (mut rest, mut offset, mut coord) = (start, 0, [0; 3]);
    let mut shift = |offset: &mut isize, axis: &Axis, by: isize| {
        *offset += by * axis.stride;
        if axis.spatial != PLAIN {
            coord[axis.spatial] += by * axis.step;
        }
        coord
    };
    let mut at_coord = [0; 3];
    for (i, axis) in axes.iter().enumerate().rev() {
        index[i] = rest % axis.size;
        rest /= axis.size;
        at_coord = shift(&mut offset, axis, index[i] as isize);
    }
    let Some(inner) = axes.len().checked_sub(1) else { return };
    let mut at = start;
    while at < end {
        let len = (axes[inner].size - index[inner]).min(end - at);
        out.push(Segment { start: at - start, len, offset, coord: at_coord });
        at += len;
        index[inner] += len;
        at_coord = shift(&mut offset, &axes[inner], len as isize);
        for i in (1..axes.len()).rev() {
            if index[i] < axes[i].size {
                break;
            }
            index[i] = 0;
            shift(&mut offset, &axes[i], -(axes[i].size as isize));
            index[i - 1] += 1;
            at_coord = shift(&mut offset, &axes[i - 1], 1);
        }
    }
}

/// Joins runs that continue each other in memory, whatever their coordinates: valid where no position is in the padding.
fn join(segments: &[Segment], stride: isize, out: &mut Vec<Segment>) {
    out.clear();
    for s in segments {
        match out.last_mut() {
            Some(last) if last.offset + last.len as isize * stride == s.offset => last.len += s.len,
            _ => out.push(*s),
        }
    }
}

/// Lowest and highest coordinates of some runs.
fn bounds(segments: &[Segment], axis: Axis) -> ([isize; 3], [isize; 3]) {
    let (mut low, mut high) = ([isize::MAX; 3], [isize::MIN; 3]);
    for s in segments {
        for d in 0..3 {
            let reach = if axis.spatial == d { (s.len as isize - 1) * axis.step } else { 0 };
            low[d] = low[d].min(s.coord[d]);
            high[d] = high[d].max(s.coord[d] + reach);
        }
    }
    (low, high)
}

/// The extents of one index space of a block: where it starts and how many indices it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// First index.
    pub start: usize,
    /// Number of indices.
    pub len: usize,
}

impl<'a> Operand<'a> {
    /// A plain matrix.
    pub(crate) fn matrix(data: &'a [f32], base: usize, rows: Axes, terms: Axes) -> Self {
        Operand { data, base: base as isize, rows, terms, origin: [0; 3], extent: [1; 3] }
    }

    /// Forgets the window when no position can leave the image, so that axes may merge.
    pub(crate) fn drop_idle_window(&mut self) {
        let mut reach = [0; 3];
        for axis in self.rows.iter().chain(&self.terms).filter(|a| a.spatial != PLAIN) {
            reach[axis.spatial] += (axis.size as isize - 1) * axis.step;
        }
        if (0..3).all(|d| self.origin[d] >= 0 && self.origin[d] + reach[d] < self.extent[d]) {
            for axis in self.rows.iter_mut().chain(&mut self.terms) {
                *axis = Axis::plain(axis.size, axis.stride);
            }
            self.origin = [0; 3];
            self.extent = [1; 3];
        }
    }

    /// Base, row stride and term stride, when the operand is a plain matrix with one axis each.
    pub(crate) fn plain(&self) -> Option<(usize, isize, isize)> {
        let whole = self.origin == [0; 3] && self.extent == [1; 3];
        match (self.rows.as_slice(), self.terms.as_slice()) {
            ([row], [term]) if row.spatial == PLAIN && term.spatial == PLAIN && whole => {
                Some((self.base as usize, row.stride, term.stride))
            }
            _ => None,
        }
    }

    /// Whether a block is packed faster by runs along the rows than by runs along the terms; the latter are transposed for a vector operand.
    pub(crate) fn runs_along_rows(&self, vector: bool) -> bool {
        // Cycles an element, roughly: starting a run, and copying along it.
        let cost = |axes: &Axes, most: usize| {
            axes.last().map_or(0.0, |a| {
                10.0 / a.size.min(most) as f64
                    + if a.stride == 1 {
                        0.1
                    } else if a.stride == 2 {
                        0.25
                    } else {
                        1.0
                    }
            })
        };
        let (rows, terms) =
            if vector { (cost(&self.rows, 64), cost(&self.terms, KC) + 0.4) } else { (cost(&self.rows, KC), cost(&self.terms, KC)) };
        rows < terms || (rows == terms && vector)
    }

    /// Cuts a span of the rows, or of the terms, into runs for [`pack`](Self::pack).
    pub(crate) fn cut(&self, of_rows: bool, span: Span, out: &mut Vec<Segment>) {
        segments(if of_rows { &self.rows } else { &self.terms }, span.start, span.start + span.len, out);
    }

    /// Packs a block: `dst[row·ld + term]`, or `dst[term·ld + row]` when `along_rows` (the copied runs then follow the rows).
    ///
    /// `rows` and `terms` come from [`cut`](Self::cut); `joined` is working memory.
    pub(crate) fn pack(
        &self,
        isa: Isa,
        (rows, terms): (&[Segment], &[Segment]),
        along_rows: bool,
        dst: &mut [f32],
        ld: usize,
        joined: &mut Vec<Segment>,
    ) {
        let (outer, outer_runs, inner, inner_runs) =
            if along_rows { (&self.terms, terms, &self.rows, rows) } else { (&self.rows, rows, &self.terms, terms) };
        let (Some(outer), Some(inner)) = (outer.last(), inner.last()) else { return };
        let line_len = inner_runs.last().map_or(0, |s| s.start + s.len);
        join(inner_runs, inner.stride, joined);
        let (low, high) = bounds(inner_runs, *inner);
        for run in outer_runs.iter() {
            for i in 0..run.len {
                let offset = self.base + run.offset + i as isize * outer.stride;
                let mut coord = self.origin;
                for (d, at) in coord.iter_mut().enumerate() {
                    *at += run.coord[d] + if outer.spatial == d { i as isize * outer.step } else { 0 };
                }
                let line = &mut dst[(run.start + i) * ld..][..line_len];
                let whole = (0..3).all(|d| coord[d] + low[d] >= 0 && coord[d] + high[d] < self.extent[d]);
                if whole {
                    for s in joined.iter() {
                        copy(isa, self.data, offset + s.offset, inner.stride, &mut line[s.start..s.start + s.len]);
                    }
                } else {
                    for s in inner_runs.iter() {
                        self.copy_clipped(isa, offset, coord, s, *inner, &mut line[s.start..s.start + s.len]);
                    }
                }
            }
        }
    }

    /// Copies the part of a run that lies in the image, and zeros for the rest.
    #[inline]
    fn copy_clipped(&self, isa: Isa, offset: isize, coord: [isize; 3], s: &Segment, inner: Axis, dst: &mut [f32]) {
        let (mut from, mut to) = (0, s.len as isize);
        for (d, extent) in self.extent.iter().enumerate() {
            let at = coord[d] + s.coord[d];
            if inner.spatial != d {
                if at < 0 || at >= *extent {
                    to = 0;
                }
            } else if inner.step == 1 {
                from = from.max(-at);
                to = to.min(extent - at);
            } else {
                from = from.max((-at + inner.step - 1).div_euclid(inner.step));
                to = to.min((extent - 1 - at).div_euclid(inner.step) + 1);
            }
        }
        let to = to.max(0) as usize;
        let from = (from as usize).min(to);
        for x in &mut dst[..from] {
            *x = 0.0;
        }
        for x in &mut dst[to..] {
            *x = 0.0;
        }
        if from < to {
            copy(isa, self.data, offset + s.offset + from as isize * inner.stride, inner.stride, &mut dst[from..to]);
        }
    }
}

/// Copies a strided run.
#[inline]
fn copy(isa: Isa, src: &[f32], at: isize, stride: isize, dst: &mut [f32]) {
    if stride == 1 {
        arch::copy(isa, &src[at as usize..at as usize + dst.len()], dst);
    } else if stride == 2 {
        arch::copy_even(isa, &src[at as usize..at as usize + 2 * dst.len() - 1], dst);
    } else {
        let mut at = at;
        for d in dst {
            *d = src[at as usize];
            at = at.wrapping_add(stride);
        }
    }
}
