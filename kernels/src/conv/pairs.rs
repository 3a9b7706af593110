//! Convolutions of bf16 with channels innermost, straight from the image: two terms an instruction, sums in f32, one rounding.
//!
//! As in `direct`, output positions that meet the same taps form rectangles, and a row of one is a product whose broadcast operand lies in the
//! image. Pairs of terms are neighboring input channels; the kernel is packed in pairs, 32 output channels side by side. Images with an odd
//! number of channels are copied with a channel of zeros more, a few at a time.
//!
//! **Order of the sums.** Kernel positions row-major, input channels innermost, in pairs of channels (0, 1), (2, 3), … of a position, a last one
//! without a partner alone; every pair as in [`gemm_bf16`](crate::gemm::gemm_bf16), from +0, with no blocks between.

use super::direct::{Span, spans};
use super::lower::Phase;
use crate::arch::pair_rows::{PairRows, WIDTH, pair_rows};
use crate::arch::rows::Run;
use crate::gemm::Side;
use crate::isa::Isa;
use crate::scratch::Scratch;
use ::half::bf16;
use smallvec::SmallVec;

/// Bytes of the images of a group: what stays in the second-level cache while panels go by.
const GROUP: usize = 256 << 10;
/// Bytes of a packed kernel that is swept for every group of images; a larger one is swept once, panel by panel.
const SWEPT: usize = 512 << 10;
/// Rows of a tile at most.
const HEIGHT: usize = 14;

/// The image of a phase as pairs are read from it.
#[derive(Clone, Copy)]
struct Image<'a> {
    data: &'a [u16],
    /// Position of output 0 and kernel position 0 of image 0.
    base: isize,
    /// Elements between images, rows and columns.
    steps: [isize; 3],
    /// Channels, an even number.
    channels: usize,
}

/// Runs a phase that `direct` suits.
pub(super) fn run(isa: Isa, phase: &Phase, lhs: &[bf16], rhs: &[bf16], out: &mut [bf16], scratch: &mut Scratch) {
    let lhs: &[u16] = bytemuck::cast_slice(lhs);
    let [y, x] = [phase.dims[0], phase.dims[1]];
    let (rows, cols) = (spans(&y), spans(&x));
    let lines = y.taps * x.taps * phase.inputs.div_ceil(2);
    let panels = phase.outputs.div_ceil(WIDTH);
    let Scratch { a, b, stage, .. } = scratch;
    let packed = b.take(panels * lines * WIDTH);
    for (panel, packed) in packed.chunks_exact_mut(lines * WIDTH).enumerate() {
        let columns = WIDTH.min(phase.outputs - panel * WIDTH);
        for (tap, lines) in packed.chunks_exact_mut(phase.inputs.div_ceil(2) * WIDTH).enumerate() {
            let (ty, tx) = ((tap / x.taps) as isize, (tap % x.taps) as isize);
            let base = phase.rhs.0 + ty * y.rhs + tx * x.rhs + (panel * WIDTH) as isize * phase.rhs.2;
            Side::new(rhs, base as usize, phase.rhs.2, phase.rhs.3).pack_pairs(isa, columns, phase.inputs, WIDTH, stage, lines);
        }
    }
    let sweep = panels * lines * WIDTH * 4 <= SWEPT;
    let each = images_at_once(phase, sweep);
    let groups = phase.batch.div_ceil(each);
    // Few rows in a line of positions are multiplied with two panels at a time.
    let longest = |list: &[Span]| list.iter().map(|s| s.outs[1] - s.outs[0]).max().unwrap_or(0);
    let wide = if longest(&rows).max(longest(&cols)).max(each) <= 6 { 2 } else { 1 };
    let columns = panels.div_ceil(wide);
    for index in 0..columns * groups {
        let (panel, group) = if sweep { (index % columns, index / columns) } else { (index / groups, index % groups) };
        let images = [group * each, phase.batch.min((group + 1) * each)];
        let image = if phase.inputs.is_multiple_of(2) {
            Image { data: lhs, base: phase.lhs.0, steps: [phase.lhs.2, y.lhs, x.lhs], channels: phase.inputs }
        } else {
            evened(phase, images, lhs, a, panel == 0 || !sweep)
        };
        let first = panel * wide;
        let block = Block {
            phase,
            image,
            images,
            columns: [first * WIDTH, phase.outputs.min((first + wide) * WIDTH)],
            panels: &packed[first * lines * WIDTH..],
            panel: lines * WIDTH,
        };
        for row in &rows {
            for col in &cols {
                block.rectangle(isa, row, col, out);
            }
        }
    }
}

/// Images whose results are computed together.
fn images_at_once(phase: &Phase, sweep: bool) -> usize {
    let bytes = 2 * phase.dims.iter().map(|d| d.extent).product::<usize>() * phase.inputs;
    let odd = !phase.inputs.is_multiple_of(2);
    if sweep || odd { (GROUP / bytes.max(1)).clamp(1, phase.batch.max(1)) } else { phase.batch.max(1) }
}

/// A copy of some images with a channel of zeros more; `fresh` when the buffer does not hold it yet.
fn evened<'a>(phase: &Phase, images: [usize; 2], lhs: &[u16], to: &'a mut crate::scratch::Buffer, fresh: bool) -> Image<'a> {
    let [y, x] = [phase.dims[0], phase.dims[1]];
    let channels = phase.inputs + 1;
    let (row, size) = (x.extent * channels, y.extent * x.extent * channels);
    let cells: &mut [u16] = bytemuck::cast_slice_mut(to.take(((images[1] - images[0]) * size).div_ceil(2)));
    let from = phase.lhs.0 - y.origin * y.lhs - x.origin * x.lhs;
    for (n, cells) in (images[0]..images[1]).zip(cells.chunks_exact_mut(size)).filter(|_| fresh) {
        for (i, cells) in cells.chunks_exact_mut(row).enumerate() {
            let line = from + n as isize * phase.lhs.2 + i as isize * y.lhs;
            if phase.inputs == 3 && x.lhs == 3 {
                let pixels = lhs[line as usize..][..3 * x.extent].as_chunks::<3>().0;
                cells.as_chunks_mut::<4>().0.iter_mut().zip(pixels).for_each(|(cell, [r, g, b])| *cell = [*r, *g, *b, 0]);
                continue;
            }
            for (j, cell) in cells.chunks_exact_mut(channels).enumerate() {
                let at = (line + j as isize * x.lhs) as usize;
                for (c, value) in cell[..phase.inputs].iter_mut().zip(&lhs[at..at + phase.inputs]) {
                    *c = *value;
                }
                cell[phase.inputs] = 0;
            }
        }
    }
    let steps = [size as isize, row as isize, channels as isize];
    Image { data: cells, base: y.origin * steps[1] + x.origin * steps[2] - images[0] as isize * steps[0], steps, channels }
}

/// One dimension of a rectangle of positions: how many, elements between positions in the image and in the result.
type Axis = (usize, isize, isize);

/// A group of images and some panels of output channels.
struct Block<'a> {
    phase: &'a Phase,
    image: Image<'a>,
    images: [usize; 2],
    columns: [usize; 2],
    panels: &'a [f32],
    panel: usize,
}

impl Block<'_> {
    /// Computes a rectangle of positions.
    fn rectangle(&self, isa: Isa, row: &Span, col: &Span, out: &mut [bf16]) {
        let phase = self.phase;
        let [y, x] = [phase.dims[0], phase.dims[1]];
        let runs = self.runs(row, col);
        if runs.is_empty() && phase.accumulate {
            return;
        }
        let [by_image, by_row, by_col] = self.image.steps;
        let mut base = self.image.base;
        let mut to = phase.out.0 + self.columns[0] as isize;
        // Positions as counts with steps; dimensions that follow each other without a gap are one.
        let mut axes: SmallVec<[Axis; 3]> = SmallVec::new();
        let all = [(self.images, by_image, phase.out.2), (row.outs, y.stride * by_row, y.out), (col.outs, x.stride * by_col, x.out)];
        for ([from, end], step, step_out) in all {
            let count = end - from;
            (base, to) = (base + from as isize * step, to + from as isize * step_out);
            match axes.last_mut() {
                _ if count == 1 => {}
                Some((have, s, o)) if *s == count as isize * step && *o == count as isize * step_out => {
                    (*have, *s, *o) = (*have * count, step, step_out);
                }
                _ => axes.push((count, step, step_out)),
            }
        }
        // The longest tiles.
        let along = (0..axes.len()).max_by_key(|d| axes[*d].0 * 1000 / axes[*d].0.div_ceil(HEIGHT));
        let (rows, step, step_out) = along.map_or((1, 0, 0), |d| axes.remove(d));
        let outer: usize = axes.iter().map(|a| a.0).product();
        for flat in 0..outer {
            let (mut rest, mut at, mut place) = (flat, base, to);
            for (count, s, o) in axes.iter().rev() {
                let i = (rest % count) as isize;
                (rest, at, place) = (rest / count, at + i * s, place + i * o);
            }
            let line = PairRows {
                a: self.image.data,
                base: at,
                row: step,
                step: 2,
                runs: &runs,
                b: self.panels,
                panel: self.panel,
                cols: self.columns[1] - self.columns[0],
                rows,
                out: place,
                out_row: step_out,
                accumulate: phase.accumulate,
                sums: None,
                ahead: None,
                fresh: false,
            };
            pair_rows(isa, line, out);
        }
    }

    /// The runs of pairs that positions of a rectangle meet.
    fn runs(&self, row: &Span, col: &Span) -> SmallVec<[Run; 16]> {
        let [y, x] = [self.phase.dims[0], self.phase.dims[1]];
        let [_, by_row, by_col] = self.image.steps;
        let units = self.image.channels / 2;
        let joined = x.dilation * by_col == self.image.channels as isize;
        let mut runs: SmallVec<[Run; 16]> = SmallVec::new();
        for ty in row.taps[0]..row.taps[1] {
            let mut tx = col.taps[0];
            while tx < col.taps[1] {
                let taps = if joined { col.taps[1] - tx } else { 1 };
                let offset = ty as isize * y.dilation * by_row + tx as isize * x.dilation * by_col;
                runs.push(Run { offset, line: (ty * x.taps + tx) * units, len: taps * units });
                tx += taps;
            }
        }
        runs
    }
}
