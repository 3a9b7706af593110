//! The blocked driver under GEMM and convolution.
//!
//! Computes `out[i, j] (+)= alpha · Σ_p a[i, p] · b[j, p]` for two [`Operand`]s over the same terms.
//! Operand `b` is the vector operand: its rows are the columns of the tiles, packed into panels; operand `a` is broadcast and read
//! in place or packed, whichever its layout makes cheaper.
//! None of these choices, nor the block sizes other than [`KC`], reaches the result.

use super::operand::{Axes, Axis, Operand, PLAIN, Span};
use super::plan::Tiles;
use crate::arch;
use crate::arch::block::{Block, Panels, Step, Strips};
use crate::isa::Isa;
use crate::scratch::Scratch;
use smallvec::SmallVec;

/// Terms that are summed from +0 before the partial sum joins the output: part of the numerical contract.
pub const KC: usize = 256;
/// Rows of a block of the broadcast operand, about.
const MC: usize = 240;
/// Bytes of packed panels that are kept for a whole sweep over the rows.
const PANEL_BYTES: usize = 8 << 20;
/// Widest block of columns when the panels of all terms do not fit.
const NC: usize = 2048;

/// Base, row stride and term stride of an operand that is read in place.
type InPlace = Option<(usize, isize, isize)>;

/// Output strides, parallel to an operand's row axes.
pub(crate) type OutStrides = SmallVec<[isize; 6]>;

/// One contraction.
#[derive(Clone, Debug)]
pub(crate) struct Contract<'a> {
    /// First operand.
    pub a: Operand<'a>,
    /// Second operand; its term axes are parallel to those of `a`.
    pub b: Operand<'a>,
    /// Position of output (0, 0).
    pub out_base: usize,
    /// Output strides of the row axes of `a`.
    pub out_a: OutStrides,
    /// Output strides of the row axes of `b`.
    pub out_b: OutStrides,
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether to add to the output.
    pub accumulate: bool,
}

fn count(axes: &Axes) -> usize {
    axes.iter().map(|a| a.size).product()
}

impl Contract<'_> {
    /// Runs the contraction on validated layouts.
    pub(crate) fn run(mut self, isa: Isa, out: &mut [f32], scratch: &mut Scratch) {
        let (rows, cols, terms) = (count(&self.a.rows), count(&self.b.rows), count(&self.a.terms));
        if rows == 0 || cols == 0 {
            return;
        }
        self.normalize();
        if terms == 0 {
            self.clear(out, scratch);
            return;
        }
        if self.vector_score(true) > self.vector_score(false) {
            std::mem::swap(&mut self.a, &mut self.b);
            std::mem::swap(&mut self.out_a, &mut self.out_b);
        }
        merge_pair(&mut self.a.rows, &mut self.out_a);
        merge_pair(&mut self.b.rows, &mut self.out_b);
        self.blocks(isa, out, scratch);
    }

    /// Drops idle windows and unit axes, puts row axes in memory order and merges term axes.
    fn normalize(&mut self) {
        self.a.drop_idle_window();
        self.b.drop_idle_window();
        for (operand, out) in [(&mut self.a, &mut self.out_a), (&mut self.b, &mut self.out_b)] {
            let mut pairs: SmallVec<[(Axis, isize); 6]> =
                operand.rows.iter().copied().zip(out.iter().copied()).filter(|(a, _)| a.size != 1).collect();
            pairs.sort_by_key(|(_, stride)| std::cmp::Reverse(stride.unsigned_abs()));
            if pairs.is_empty() {
                pairs.push((Axis::plain(1, 1), 1));
            }
            operand.rows = pairs.iter().map(|p| p.0).collect();
            *out = pairs.iter().map(|p| p.1).collect();
        }
        let mut terms: SmallVec<[(Axis, Axis); 6]> = SmallVec::new();
        for (a, b) in self.a.terms.iter().zip(&self.b.terms).filter(|(a, _)| a.size != 1) {
            match terms.last_mut() {
                Some((x, y)) if continues(x, a) && continues(y, b) => {
                    *x = Axis { size: x.size * a.size, ..*a };
                    *y = Axis { size: y.size * b.size, ..*b };
                }
                _ => terms.push((*a, *b)),
            }
        }
        if terms.is_empty() {
            terms.push((Axis::plain(1, 1), Axis::plain(1, 1)));
        }
        self.a.terms = terms.iter().map(|t| t.0).collect();
        self.b.terms = terms.iter().map(|t| t.1).collect();
    }

    /// The result of no terms.
    fn clear(&self, out: &mut [f32], scratch: &mut Scratch) {
        if self.accumulate {
            return;
        }
        offsets(&self.a.rows, &self.out_a, Span { start: 0, len: count(&self.a.rows) }, &mut scratch.out_rows);
        offsets(&self.b.rows, &self.out_b, Span { start: 0, len: count(&self.b.rows) }, &mut scratch.out_cols);
        let by_rows = self.out_a.last().map_or(0, |s| s.unsigned_abs()) >= self.out_b.last().map_or(0, |s| s.unsigned_abs());
        let (outer, inner) = if by_rows { (&scratch.out_rows, &scratch.out_cols) } else { (&scratch.out_cols, &scratch.out_rows) };
        for r in outer {
            for c in inner {
                out[(self.out_base as isize + r + c) as usize] = 0.0;
            }
        }
    }

    /// How well an operand's rows fill vectors that the output can store whole.
    fn vector_score(&self, of_a: bool) -> f64 {
        let (operand, out) = if of_a { (&self.a, &self.out_a) } else { (&self.b, &self.out_b) };
        let rows = count(&operand.rows);
        let terms = count(&operand.terms).min(KC) as f64;
        let filled = rows as f64 / (rows.next_multiple_of(16)) as f64;
        let mut run = 1;
        for (axis, stride) in operand.rows.iter().zip(out).rev() {
            if *stride != run as isize {
                break;
            }
            run *= axis.size;
        }
        let stores = match run {
            _ if run >= 16 || run == rows => 1.0,
            4.. => terms / (terms + 24.0),
            _ => terms / (terms + 64.0),
        };
        filled * stores
    }

    fn blocks(&self, isa: Isa, out: &mut [f32], scratch: &mut Scratch) {
        let (rows, cols, terms) = (count(&self.a.rows), count(&self.b.rows), count(&self.a.terms));
        let tiles = Tiles::choose(isa, rows, cols, terms);
        let tiles = Tiles { width: tiles.width.max(16), ..tiles };
        let (width, mc) = (tiles.width, (MC / tiles.height).max(1) * tiles.height);
        let direct_b = self.direct_b(rows, terms, tiles);
        let direct_a = self.a.plain().filter(|_| cols <= 2 * width || rows <= 2 * tiles.height);
        let fit = PANEL_BYTES / 4 / terms.next_multiple_of(16);
        // Either the panels of all terms stay packed while the rows go by, or (few rows, or too many terms) one block of terms does.
        let (nc, chunk) = if fit >= cols.min(4 * width) { ((fit / width * width).max(width), terms) } else { (NC / width * width, KC) };
        for j in (0..cols).step_by(nc) {
            let col_span = Span { start: j, len: nc.min(cols - j) };
            offsets(&self.b.rows, &self.out_b, col_span, &mut scratch.out_cols);
            for p in (0..terms).step_by(chunk) {
                let term_span = Span { start: p, len: chunk.min(terms - p) };
                if direct_b.is_none() {
                    self.pack_b(isa, col_span, term_span, width, scratch);
                }
                for i in (0..rows).step_by(mc) {
                    let row_span = Span { start: i, len: mc.min(rows - i) };
                    offsets(&self.a.rows, &self.out_a, row_span, &mut scratch.out_rows);
                    for q in (p..p + term_span.len).step_by(KC) {
                        let block = Span { start: q, len: KC.min(terms - q) };
                        self.row_block(isa, tiles, row_span, col_span, block, q - p, (direct_a, direct_b), out, scratch);
                    }
                }
            }
        }
    }

    /// The vector operand can be read in place when its columns are neighbors and it is too small, or used too rarely, to repay packing.
    fn direct_b(&self, rows: usize, terms: usize, tiles: Tiles) -> InPlace {
        let (base, row, term) = self.b.plain()?;
        let near = term.unsigned_abs().saturating_mul(terms.min(KC)) <= 8192;
        (row == 1 && (rows <= tiles.height || (near && terms <= KC))).then_some((base, row, term))
    }

    /// Packs the columns' panels: for each block of KC terms, panels of `width` columns, term by term.
    fn pack_b(&self, isa: Isa, cols: Span, terms: Span, width: usize, scratch: &mut Scratch) {
        let panels = cols.len.div_ceil(width);
        let dst = scratch.b.take(panels * width * terms.len);
        let along_rows = self.b.runs_along_rows(true);
        for q in (0..terms.len).step_by(KC) {
            let kc = KC.min(terms.len - q);
            let block = Span { start: terms.start + q, len: kc };
            let dst = &mut dst[q * panels * width..][..kc * panels * width];
            let [row_runs, term_runs, joined] = &mut scratch.segments;
            self.b.cut(false, block, term_runs);
            for (panel, dst) in dst.chunks_mut(kc * width).enumerate() {
                let at = cols.start + panel * width;
                let span = Span { start: at, len: width.min(cols.start + cols.len - at) };
                if along_rows {
                    self.b.cut(true, span, row_runs);
                    self.b.pack(isa, (row_runs, term_runs), true, dst, width, joined);
                    continue;
                }
                for lane in (0..span.len).step_by(16) {
                    let group = Span { start: at + lane, len: 16.min(span.len - lane) };
                    match self.b.plain() {
                        Some((base, row, 1)) => {
                            let from = base as isize + group.start as isize * row + block.start as isize;
                            arch::transpose16(isa, self.b.data, from as usize, row, group.len, kc, &mut dst[lane..], width);
                        }
                        _ => {
                            let stage = scratch.stage.take(16 * KC);
                            self.b.cut(true, group, row_runs);
                            self.b.pack(isa, (row_runs, term_runs), false, stage, kc, joined);
                            arch::transpose16(isa, stage, 0, kc as isize, group.len, kc, &mut dst[lane..], width);
                        }
                    }
                }
            }
        }
    }

    /// One block of rows against all columns of a block, over at most [`KC`] terms.
    fn row_block(
        &self,
        isa: Isa,
        tiles: Tiles,
        rows: Span,
        cols: Span,
        terms: Span,
        packed_from: usize,
        (direct_a, direct_b): (InPlace, InPlace),
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Tiles { height, width } = tiles;
        let (a_base, a_row, a_step) = match direct_a {
            Some((base, row, step)) => (base as isize + rows.start as isize * row + terms.start as isize * step, row, step),
            None => self.pack_a(isa, rows, terms, scratch),
        };
        let Scratch { a, b, tile: dense, out_rows, out_cols, .. } = scratch;
        let panels = cols.len.div_ceil(width);
        let data = if direct_a.is_some() { self.a.data } else { a.held() };
        let strips = |from: usize| {
            let base = (a_base + from as isize * a_row) as usize;
            Strips { data, base, height, strides: Some((a_row, a_step)) }
        };
        for panel in 0..panels {
            let at = panel * width;
            let len = width.min(cols.len - at);
            let b = match direct_b {
                Some((base, _, step)) => {
                    let base = base as isize + (cols.start + at) as isize + terms.start as isize * step;
                    Panels { data: self.b.data, base: base as usize, width, step: Some(step) }
                }
                None => Panels { data: b.held(), base: packed_from * panels * width + panel * terms.len * width, width, step: None },
            };
            let places = &out_cols[at..at + len];
            let mut one = Block {
                k: terms.len,
                chain: KC,
                term: Step::Single,
                a: strips(0),
                b,
                cols: len,
                rows: out_rows,
                base: self.out_base as isize + places[0],
                alpha: self.alpha,
                accumulate: self.accumulate || terms.start > 0,
                ahead: None,
                room: None,
                by_rows: false,
                fresh: false,
            };
            if places.windows(2).all(|w| w[1] - w[0] == 1) {
                arch::block::block(isa, &one, out);
                continue;
            }
            for i in (0..rows.len).step_by(height) {
                one.a = strips(i);
                scattered(isa, &one, places, &out_rows[i..rows.len.min(i + height)], out, dense.take(height * width));
            }
        }
    }

    /// Packs a block of the broadcast operand; returns where it starts and its row and term strides in the scratch buffer.
    fn pack_a(&self, isa: Isa, rows: Span, terms: Span, scratch: &mut Scratch) -> (isize, isize, isize) {
        let along_rows = self.a.runs_along_rows(false);
        let [row_runs, term_runs, joined] = &mut scratch.segments;
        self.a.cut(true, rows, row_runs);
        self.a.cut(false, terms, term_runs);
        // The odd line length keeps lines of one tile out of the same cache set.
        let (ld, lines) = if along_rows { (MC + 16, terms.len) } else { (terms.len + 16, rows.len) };
        self.a.pack(isa, (row_runs, term_runs), along_rows, scratch.a.take(ld * lines), ld, joined);
        if along_rows { (0, 1, ld as isize) } else { (0, ld as isize, 1) }
    }
}

/// Runs one tile whose columns are not neighbors in the output, through a dense copy.
fn scattered(isa: Isa, one: &Block<'_>, places: &[isize], starts: &[isize], out: &mut [f32], dense: &mut [f32]) {
    let width = one.b.width;
    let local: SmallVec<[isize; 16]> = (0..starts.len()).map(|i| (i * width) as isize).collect();
    if one.accumulate {
        each_run(places, |at, len, offset| {
            for (row, start) in starts.iter().enumerate() {
                let from = (one.base + start + offset) as usize;
                let (to, from) = (&mut dense[row * width + at..][..len], &out[from..from + len]);
                to.iter_mut().zip(from).for_each(|(d, s)| *d = *s);
            }
        });
    }
    arch::block::block(isa, &Block { rows: &local, base: 0, a: one.a, b: one.b, ..*one }, dense);
    each_run(places, |at, len, offset| {
        for (row, start) in starts.iter().enumerate() {
            let to = (one.base + start + offset) as usize;
            let (to, from) = (&mut out[to..to + len], &dense[row * width + at..][..len]);
            to.iter_mut().zip(from).for_each(|(d, s)| *d = *s);
        }
    });
}

/// Calls `run` on every maximal run of neighbors: where it starts in the tile, its length, its distance from the first column.
fn each_run(places: &[isize], mut run: impl FnMut(usize, usize, isize)) {
    let mut at = 0;
    while at < places.len() {
        let len = 1 + places[at..].windows(2).take_while(|w| w[1] - w[0] == 1).count();
        run(at, len, places[at] - places[0]);
        at += len;
    }
}

/// Whether `inner` continues `outer`, so that both are one axis.
fn continues(outer: &Axis, inner: &Axis) -> bool {
    outer.spatial == PLAIN && inner.spatial == PLAIN && outer.stride == inner.stride.wrapping_mul(inner.size as isize)
}

/// Merges row axes that are contiguous in the operand and in the output.
fn merge_pair(axes: &mut Axes, out: &mut OutStrides) {
    let mut merged: SmallVec<[(Axis, isize); 6]> = SmallVec::new();
    for (axis, stride) in axes.iter().zip(out.iter()) {
        match merged.last_mut() {
            Some((a, s)) if continues(a, axis) && *s == stride.wrapping_mul(axis.size as isize) => {
                *a = Axis { size: a.size * axis.size, ..*axis };
                *s = *stride;
            }
            _ => merged.push((*axis, *stride)),
        }
    }
    *axes = merged.iter().map(|m| m.0).collect();
    *out = merged.iter().map(|m| m.1).collect();
}

/// Output offsets of the rows of a block.
fn offsets(axes: &Axes, strides: &[isize], span: Span, out: &mut Vec<isize>) {
    out.clear();
    let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, axes.len());
    let mut rest = span.start;
    let mut offset = 0;
    for (i, axis) in axes.iter().enumerate().rev() {
        index[i] = rest % axis.size;
        rest /= axis.size;
        offset += index[i] as isize * strides[i];
    }
    while out.len() < span.len {
        out.push(offset);
        for i in (0..axes.len()).rev() {
            index[i] += 1;
            offset += strides[i];
            if index[i] < axes[i].size {
                break;
            }
            offset -= strides[i] * axes[i].size as isize;
            index[i] = 0;
        }
    }
}
