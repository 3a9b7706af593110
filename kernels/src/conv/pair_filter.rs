//! Gradients of bf16 kernels with channels innermost: two positions an instruction, sums in f32, one rounding.
//!
//! As in `filter`, the "kernel" is the output's gradient and the sum runs over positions and images. Pairs of terms are neighboring positions
//! of a row, so both operands are packed in pairs: the gradient once for a block of rows, the image once for every tap, 14 input channels ×
//! 32 output channels at a time. With few input channels, those of all taps of a row of the kernel are the rows of one product.
//!
//! **Order of the sums.** Images outermost, then rows of positions, then pairs of positions (0, 1), (2, 3), … of a row, a last one without a
//! partner alone; blocks of as many whole rows as [`PAIRS`] holds, each summed from +0 and added to the result in f32, which is rounded once.

use super::lower::{Phase, PhaseDim};
use crate::arch::line::convert;
use crate::arch::pack::{interleave, pair_lines};
use crate::arch::pair_rows::{PairRows, WIDTH, pair_rows};
use crate::arch::rows::Run;
use crate::gemm::Side;
use crate::isa::Isa;
use crate::scratch::Scratch;
use ::half::bf16;
use smallvec::SmallVec;
use std::ops::Range;

/// Pairs of positions that one product sums: part of the numerical contract.
const PAIRS: usize = 256;
/// Channels of all taps of a row at most, where they are the rows of one product.
const NARROW: usize = 64;
/// What stands in for positions outside an image.
static ZEROS: [u16; 2048] = [0; 2048];

/// Runs a phase that `filter` suits.
pub(super) fn run(isa: Isa, phase: &Phase, lhs: &[bf16], rhs: &[bf16], out: &mut [bf16], scratch: &mut Scratch) {
    let lhs: &[u16] = bytemuck::cast_slice(lhs);
    let [y, x] = [phase.dims[0], phase.dims[1]];
    let units = x.taps.div_ceil(2);
    let all = phase.inputs * y.taps;
    let at_once = (PAIRS / units).max(1).min(all);
    let few = phase.batch < 8 && x.outs * phase.batch <= NARROW && x.stride == 1 && x.lhs == phase.batch as isize;
    let taps = if few && x.out == phase.out.2 * phase.batch as isize { x.outs } else { 1 };
    let rows = taps * phase.batch;
    // Lines of an odd number of cache lines do not fall into the same sets.
    let ld = if rows < 64 { rows } else { rows.next_multiple_of(16) | 16 };
    let (lines, panels) = (at_once * units, phase.outputs.div_ceil(WIDTH));
    let once = at_once == all;
    let total = phase.outputs.next_multiple_of(16);
    let Scratch { a, b, stage, tile, .. } = scratch;
    let grads = b.take(panels * lines * WIDTH);
    let totals = tile.take(if once { 0 } else { y.outs * x.outs * phase.batch * total });
    for start in (0..all).step_by(at_once) {
        let block = start..all.min(start + at_once);
        for panel in 0..panels {
            let columns = WIDTH.min(phase.outputs - panel * WIDTH);
            let cells = grads[panel * lines * WIDTH..].chunks_exact_mut(units * WIDTH);
            for (line, cells) in block.clone().zip(cells) {
                let at = phase.rhs.0 + (line / y.taps) as isize * phase.rhs.3 + (line % y.taps) as isize * y.rhs;
                let side = Side::new(rhs, at as usize + panel * WIDTH, 1, x.rhs);
                side.pack_pairs(isa, columns, x.taps, WIDTH, stage, cells);
            }
        }
        let segments = segments(&y, block.clone());
        let slots = segments.last().map_or(0, |s| s.slot + s.count(&y));
        let image = a.take(slots * units * ld);
        for tap in (0..x.outs).step_by(taps).flat_map(|tx| (0..y.outs).map(move |ty| ty * x.outs + tx)) {
            let (ty, tx) = (tap / x.outs, tap % x.outs);
            if ty == 0 {
                for segment in &segments {
                    let lines = image[segment.slot * units * ld..].chunks_exact_mut(units * ld);
                    for (row, cells) in segment.rows(&y).zip(lines).filter(|(row, _)| row.needed) {
                        Line { phase, image: segment.image, row: row.from_origin, tap: tx, taps }.pack(isa, lhs, ld, cells);
                    }
                }
            }
            let mut runs: SmallVec<[Run; 16]> = SmallVec::new();
            for segment in &segments {
                for at in segment.first..segment.end {
                    let row = at as isize * y.dilation + ty as isize * y.stride;
                    if !(0..y.extent as isize).contains(&(y.origin + row)) {
                        continue;
                    }
                    let slot = segment.slot + (row - segment.first as isize * y.dilation) as usize;
                    let (offset, line) = ((2 * slot * units * ld) as isize, (segment.line + at - segment.first) * units);
                    match runs.last_mut() {
                        Some(run) if run.line + run.len == line && run.offset + (2 * run.len * ld) as isize == offset => run.len += units,
                        _ => runs.push(Run { offset, line, len: units }),
                    }
                }
            }
            let add = if once { phase.accumulate } else { start > 0 };
            if runs.is_empty() && add {
                continue;
            }
            let a: &[u16] = bytemuck::cast_slice(image);
            let job = PairRows {
                a,
                base: 0,
                row: 2,
                step: 2 * ld as isize,
                runs: &runs,
                b: grads,
                panel: lines * WIDTH,
                cols: phase.outputs,
                rows,
                out: 0,
                out_row: total as isize,
                accumulate: add,
                sums: None,
                ahead: None,
                fresh: false,
            };
            if once {
                let place = phase.out.0 + ty as isize * y.out + tx as isize * x.out;
                pair_rows(isa, PairRows { out: place, out_row: phase.out.2, ..job }, out);
            } else {
                pair_rows(isa, job, &mut totals[tap * phase.batch * total..]);
            }
        }
    }
    if !once {
        finish(isa, phase, totals, total, out);
    }
}

/// Neighboring rows of positions of one image in a block, and the rows of the image that they meet.
struct Segment {
    image: usize,
    /// Rows of positions: from, to.
    first: usize,
    end: usize,
    /// Where the first lies in the block.
    line: usize,
    /// Where the packed rows of the image start.
    slot: usize,
}

/// A row of an image.
struct Row {
    /// From the row of output 0 and kernel position 0.
    from_origin: isize,
    /// Whether it exists and some tap meets it.
    needed: bool,
}

impl Segment {
    /// Rows of the image from the first that is met to the last.
    fn count(&self, y: &PhaseDim) -> usize {
        (self.end - 1 - self.first) * y.dilation as usize + (y.outs - 1) * y.stride as usize + 1
    }

    fn rows(&self, y: &PhaseDim) -> impl Iterator<Item = Row> {
        let (y, first, lines) = (*y, self.first as isize * y.dilation, (self.end - self.first) as isize);
        (0..self.count(&y) as isize).map(move |r| {
            let met = |ty: isize| {
                let from = r - ty * y.stride;
                from >= 0 && from % y.dilation == 0 && from / y.dilation < lines
            };
            let exists = (0..y.extent as isize).contains(&(y.origin + first + r));
            Row { from_origin: first + r, needed: exists && (0..y.outs as isize).any(met) }
        })
    }
}

/// The segments of a block of rows, counted through all images.
fn segments(y: &PhaseDim, block: Range<usize>) -> SmallVec<[Segment; 16]> {
    let mut list: SmallVec<[Segment; 16]> = SmallVec::new();
    let (mut at, mut slot) = (block.start, 0);
    while at < block.end {
        let image = at / y.taps;
        let end = block.end.min((image + 1) * y.taps);
        let segment = Segment { image, first: at % y.taps, end: at % y.taps + end - at, line: at - block.start, slot };
        slot += segment.count(y);
        list.push(segment);
        at = end;
    }
    list
}

/// Rounds the totals.
fn finish(isa: Isa, phase: &Phase, totals: &mut [f32], ld: usize, out: &mut [bf16]) {
    let [y, x] = [phase.dims[0], phase.dims[1]];
    for (i, line) in totals.chunks_exact_mut(ld).enumerate() {
        let (tap, channel) = (i / phase.batch, i % phase.batch);
        let at = phase.out.0 + (tap / x.outs) as isize * y.out + (tap % x.outs) as isize * x.out + channel as isize * phase.out.2;
        let to = &mut out[at as usize..][..phase.outputs];
        let line = &mut line[..phase.outputs];
        if phase.accumulate {
            line.iter_mut().zip(&*to).for_each(|(sum, old)| *sum += old.to_f32());
        }
        convert(isa, line, to);
    }
}

/// A row of an image against a row of positions of the gradient, for some taps side by side.
struct Line<'a> {
    phase: &'a Phase,
    image: usize,
    /// Rows from the one of output 0 and kernel position 0.
    row: isize,
    tap: usize,
    taps: usize,
}

impl Line<'_> {
    /// Packs pairs of positions: the channels of position `2·q` in the low halves of line `q`, those of the next in the high ones.
    fn pack(&self, isa: Isa, lhs: &[u16], ld: usize, cells: &mut [f32]) {
        let phase = self.phase;
        let x = phase.dims[1];
        let width = self.taps * phase.batch;
        let line = phase.lhs.0 + self.image as isize * phase.lhs.3 + self.row * phase.dims[0].lhs;
        // Pairs whose positions all exist; the others are made one by one.
        let first = x.origin + self.tap as isize * x.stride;
        let from = ((-first).max(0) as usize).div_ceil(x.dilation as usize);
        let last = x.extent as isize - self.taps as isize - first;
        let to = if last < 0 { 0 } else { (last / x.dilation + 1) as usize }.min(x.taps);
        let (from, to) = (from.div_ceil(2), to / 2);
        if from < to {
            let start = line + (self.tap as isize * x.stride + 2 * from as isize * x.dilation) * x.lhs;
            pair_lines(isa, lhs, start as usize, x.dilation * x.lhs, width, 2 * (to - from), &mut cells[from * ld..], ld);
        }
        let mut edges = [[0u16; NARROW]; 2];
        for (q, cells) in cells.chunks_exact_mut(ld).enumerate().filter(|(q, _)| !(from..to).contains(q)) {
            let [mut low, mut high] = [None; 2];
            for (h, (half, edge)) in [&mut low, &mut high].into_iter().zip(&mut edges).enumerate() {
                let t = 2 * q + h;
                let first = self.tap as isize * x.stride + t as isize * x.dilation;
                // Positions that exist: from, to.
                let from = (-(x.origin + first)).clamp(0, self.taps as isize);
                let to = (x.extent as isize - (x.origin + first)).clamp(from, self.taps as isize);
                if t >= x.taps || from == to {
                    continue;
                }
                let start = line + first * x.lhs;
                if to - from == self.taps as isize {
                    *half = Some(&lhs[start as usize..start as usize + width]);
                    continue;
                }
                let channels = phase.batch;
                let part = (start + from * x.lhs) as usize;
                edge.fill(0);
                edge[from as usize * channels..to as usize * channels].copy_from_slice(&lhs[part..part + (to - from) as usize * channels]);
                *half = Some(&edge[..width]);
            }
            pair(isa, low, high, &mut cells[..width]);
        }
    }
}

/// Two lines as one of pairs; a line that is not there is zeros.
fn pair(isa: Isa, low: Option<&[u16]>, high: Option<&[u16]>, cells: &mut [f32]) {
    match (low, high) {
        (None, None) => cells.fill(0.0),
        (Some(low), high) => interleave(isa, low, high, cells),
        (None, Some(high)) => {
            for (cells, high) in cells.chunks_mut(ZEROS.len()).zip(high.chunks(ZEROS.len())) {
                interleave(isa, &ZEROS, Some(high), cells);
            }
        }
    }
}
