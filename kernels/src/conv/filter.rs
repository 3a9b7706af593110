//! Gradients of kernels with channels innermost, straight from the image and the output's gradient.
//!
//! Here the "kernel" is the output's gradient, as large as an image, and the sum runs over positions and images. For every tap of the result,
//! 6 input channels × 64 output channels are summed over a block of rows of positions: the input channels lie side by side in the image, the
//! block of the gradient is packed once for all taps, and positions that meet padding are left out.
//!
//! **Order of the sums.** Images outermost, then positions row-major; blocks of as many whole rows of positions as [`KC`] holds, each summed from
//! +0 and added to the result.

use super::Conv;
use super::direct::{Span, spans};
use super::lower::Phase;
use crate::arch::copy;
use crate::arch::rows::{Rows, Run, rows};
use crate::arch::winograd::PANEL;
use crate::gemm::KC;
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};
use smallvec::SmallVec;

/// Whether the layouts are those of this path. Strides alone decide, also those of dimensions of extent 1: cuts keep them.
pub(super) fn fits(c: &Conv) -> bool {
    c.lhs.strides[0] == 1 && c.lhs.strides[1] != 1 && c.rhs.strides[0] == 1 && c.out.strides[1] == 1
}

/// Whether this path computes a phase of a convolution that [`fits`].
pub(super) fn suits(phase: &Phase) -> bool {
    let [y, x] = phase.dims.as_slice() else { return false };
    phase.groups == 1
        && y.dilation >= 1
        && x.dilation >= 1
        && y.stride >= 1
        && x.stride >= 1
        && phase.inputs * y.taps > 0
        && (1..=KC).contains(&x.taps)
}

/// Runs a phase that [`suits`].
pub(super) fn run(isa: Isa, phase: &Phase, lhs: &[f32], rhs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    let [y, x] = [phase.dims[0], phase.dims[1]];
    let (rows_of, cols_of) = (spans(&y), spans(&x));
    let lines = phase.inputs * y.taps;
    let at_once = (KC / x.taps).max(1).min(lines);
    let packed = scratch.b.take(at_once * x.taps * PANEL);
    // With few channels, the taps of a row and the channels together are the rows of one product.
    let narrow = phase.batch < 8 && x.lhs == phase.batch as isize && x.stride == 1 && x.out == x.lhs * phase.out.2;
    // A gradient without gaps can be read where it lies.
    let dense = x.rhs > 0 && y.rhs == x.taps as isize * x.rhs && phase.rhs.3 == y.taps as isize * y.rhs;
    for panel in (0..phase.outputs).step_by(PANEL) {
        let columns = PANEL.min(phase.outputs - panel);
        for start in (0..lines).step_by(at_once) {
            let block = Block { phase, lines: [start, lines.min(start + at_once)], panel, columns };
            if narrow && dense && columns.is_multiple_of(16) {
                let from = phase.rhs.0 + start as isize * y.rhs + panel as isize;
                block.all_columns(isa, lhs, (&rhs[from as usize..], x.rhs as usize), &mut scratch.a, out);
                continue;
            }
            block.pack(isa, rhs, packed);
            if narrow {
                block.all_columns(isa, lhs, (packed, PANEL), &mut scratch.a, out);
                continue;
            }
            for row in &rows_of {
                for col in &cols_of {
                    block.taps(isa, row, col, lhs, packed, out);
                }
            }
        }
    }
}

/// A block of lines of positions, counted through all images, and a panel of output channels.
struct Block<'a> {
    phase: &'a Phase,
    lines: [usize; 2],
    panel: usize,
    columns: usize,
}

impl Block<'_> {
    /// Copies the block of the output's gradient: a line of 64 channels for every position.
    fn pack(&self, isa: Isa, rhs: &[f32], packed: &mut [f32]) {
        let phase = self.phase;
        let [y, x] = [phase.dims[0], phase.dims[1]];
        let width = x.taps * PANEL;
        for (line, cells) in (self.lines[0]..self.lines[1]).zip(packed.chunks_exact_mut(width)) {
            let (image, row) = (line / y.taps, line % y.taps);
            let base = phase.rhs.0 + image as isize * phase.rhs.3 + row as isize * y.rhs + self.panel as isize;
            for (col, cell) in cells.chunks_exact_mut(PANEL).enumerate() {
                let at = (base + col as isize * x.rhs) as usize;
                let (cell, rest) = cell.split_at_mut(self.columns);
                copy(isa, &rhs[at..at + self.columns], cell);
                // Whole lines of 16 are multiplied, the others are not read.
                let edge = (self.columns.next_multiple_of(16) - self.columns).min(rest.len());
                rest[..edge].fill(0.0);
            }
        }
    }

    /// Adds the block to all taps, from a copy of the image's rows with their padding.
    fn all_columns(&self, isa: Isa, lhs: &[f32], (grad, b_step): (&[f32], usize), image: &mut Buffer, out: &mut [f32]) {
        let phase = self.phase;
        let [y, x] = [phase.dims[0], phase.dims[1]];
        let channels = phase.batch;
        let positions = x.outs + (x.taps - 1) * x.dilation as usize;
        // Positions of a row that exist: from, to.
        let from = (-x.origin).clamp(0, positions as isize) as usize;
        let to = (x.extent as isize - x.origin).clamp(from as isize, positions as isize) as usize;
        let width = positions * channels;
        let count = self.lines[1] - self.lines[0];
        let cells = image.take(count * width);
        let runs: SmallVec<[Run; 64]> = (0..count).map(|i| Run { offset: (i * width) as isize, line: i * x.taps, len: x.taps }).collect();
        for ty in 0..y.outs as isize {
            for (line, cells) in (self.lines[0]..self.lines[1]).zip(cells.chunks_exact_mut(width)) {
                let (image, at) = ((line / y.taps) as isize, (line % y.taps) as isize);
                let row = y.origin + ty * y.stride + at * y.dilation;
                if row < 0 || row >= y.extent as isize || from == to {
                    cells.fill(0.0);
                    continue;
                }
                cells[..from * channels].fill(0.0);
                cells[to * channels..].fill(0.0);
                let base = phase.lhs.0 + image * phase.lhs.3 + (ty * y.stride + at * y.dilation) * y.lhs + from as isize * x.lhs;
                copy(isa, &lhs[base as usize..][..(to - from) * channels], &mut cells[from * channels..to * channels]);
            }
            let job = Rows {
                a: cells,
                base: 0,
                row: 1,
                step: x.dilation * channels as isize,
                runs: &runs,
                b: grad,
                b_step,
                cols: self.columns,
                rows: x.outs * channels,
                out: phase.out.0 + ty * y.out + self.panel as isize,
                out_row: phase.out.2,
                accumulate: phase.accumulate || self.lines[0] > 0,
            };
            rows(isa, job, out);
        }
    }

    /// Adds the block to the taps of a rectangle, all of which meet the same positions.
    fn taps(&self, isa: Isa, row: &Span, col: &Span, lhs: &[f32], packed: &[f32], out: &mut [f32]) {
        let phase = self.phase;
        let [y, x] = [phase.dims[0], phase.dims[1]];
        let mut runs: SmallVec<[Run; 64]> = SmallVec::new();
        let len = col.taps[1] - col.taps[0];
        for line in self.lines[0]..self.lines[1] {
            let (image, at) = (line / y.taps, line % y.taps);
            if at >= row.taps[0] && at < row.taps[1] && len > 0 {
                let first = (line - self.lines[0]) * x.taps + col.taps[0];
                let offset = image as isize * phase.lhs.3 + at as isize * y.dilation * y.lhs + col.taps[0] as isize * x.dilation * x.lhs;
                runs.push(Run { offset, line: first, len });
            }
        }
        let first = self.lines[0] == 0;
        if runs.is_empty() && (!first || phase.accumulate) {
            return;
        }
        for ty in row.outs[0]..row.outs[1] {
            for tx in col.outs[0]..col.outs[1] {
                let (ty, tx) = (ty as isize, tx as isize);
                let job = Rows {
                    a: lhs,
                    base: phase.lhs.0 + ty * y.stride * y.lhs + tx * x.stride * x.lhs,
                    row: 1,
                    step: x.dilation * x.lhs,
                    runs: &runs,
                    b: packed,
                    b_step: PANEL,
                    cols: self.columns,
                    rows: phase.batch,
                    out: phase.out.0 + ty * y.out + tx * x.out + self.panel as isize,
                    out_row: phase.out.2,
                    accumulate: phase.accumulate || !first,
                };
                rows(isa, job, out);
            }
        }
    }
}
