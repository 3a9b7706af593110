//! Convolutions with channels innermost, straight from the image: no im2col, and no products with padding.
//!
//! Output positions that meet the same taps form rectangles (the interior, borders, corners); inside one, a row of pixels is a product
//! whose broadcast operand lies in the image, run by run: the taps of a row of the kernel are neighbors in memory.
//! The order of the sums is that of every other path; terms in the padding, which would add zeros, are left out.

use super::Conv;
use super::lower::{Phase, PhaseDim};
use crate::arch::rows::{Rows, Run, rows};
use crate::arch::winograd::PANEL;
use crate::arch::{copy, transpose16};
use crate::gemm::KC;
use crate::isa::Isa;
use crate::scratch::Scratch;
use smallvec::SmallVec;

/// Output positions of a group of images, at least: a block of the result that stays in the cache while blocks of terms go by.
const POSITIONS: usize = 160;
/// Bytes of a packed kernel that is swept for every group of images; a larger one is swept once, panel by panel.
const SWEPT: usize = 512 << 10;

/// Neighboring output positions that meet the same taps, along one dimension.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Output positions: from, to.
    pub outs: [usize; 2],
    /// Taps: from, to.
    pub taps: [usize; 2],
}

/// Spans that cover a dimension.
pub(super) fn spans(d: &PhaseDim) -> SmallVec<[Span; 8]> {
    let mut list: SmallVec<[Span; 8]> = SmallVec::new();
    for o in 0..d.outs {
        let at = d.origin + o as isize * d.stride;
        let first = (0..d.taps).find(|t| at + *t as isize * d.dilation >= 0).unwrap_or(d.taps);
        let last = (first..d.taps).rev().find(|t| at + *t as isize * d.dilation < d.extent as isize).map_or(first, |t| t + 1);
        match list.last_mut() {
            Some(s) if s.taps == [first, last] => s.outs[1] = o + 1,
            _ => list.push(Span { outs: [o, o + 1], taps: [first, last] }),
        }
    }
    list
}

/// Whether the layouts are those of this path. Strides alone decide, also those of dimensions of extent 1: cuts keep them.
pub(super) fn fits(c: &Conv) -> bool {
    c.lhs.strides[1] == 1 && c.out.strides[1] == 1
}

/// Whether this path computes a phase of a convolution that [`fits`]. It gives the bits of the contraction, but for NaN from padding times infinity and signs of zeros.
pub(super) fn suits(phase: &Phase) -> bool {
    let forward = |d: &PhaseDim| d.dilation >= 1 && d.stride >= 1;
    phase.dims.len() == 2
        && phase.groups == 1
        && !phase.channels_first
        && phase.dims.iter().all(forward)
        && phase.inputs > 0
        && phase.dims[0].taps * phase.dims[1].taps > 0
}

/// Whether a phase has no terms and its result is made of runs: those of [`clear`].
pub(super) fn is_clear(phase: &Phase) -> bool {
    let terms = phase.inputs * phase.dims.iter().map(|d| d.taps).product::<usize>();
    terms == 0 && phase.dims.len() == 2 && phase.groups == 1
}

/// Writes the result of a phase without terms.
pub(super) fn clear<T: Copy + Default>(phase: &Phase, out: &mut [T]) {
    if phase.accumulate {
        return;
    }
    let [y, x] = [phase.dims[0], phase.dims[1]];
    for n in 0..phase.batch as isize {
        for row in 0..y.outs as isize {
            for col in 0..x.outs as isize {
                let at = (phase.out.0 + n * phase.out.2 + row * y.out + col * x.out) as usize;
                out[at..at + phase.outputs].fill(T::default());
            }
        }
    }
}

/// Runs a phase that [`suits`].
pub(super) fn run(isa: Isa, phase: &Phase, lhs: &[f32], rhs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    let [y, x] = [phase.dims[0], phase.dims[1]];
    let (rows, cols) = (spans(&y), spans(&x));
    let terms = y.taps * x.taps * phase.inputs;
    let panels = phase.outputs.div_ceil(PANEL);
    let packed = scratch.b.take(panels * terms * PANEL);
    for (panel, packed) in packed.chunks_exact_mut(terms * PANEL).enumerate() {
        pack(isa, phase, rhs, panel * PANEL, packed);
    }
    let each = images_at_once(phase);
    let groups = phase.batch.div_ceil(each);
    let sweep = packed.len() * 4 <= SWEPT;
    for index in 0..panels * groups {
        let (panel, group) = if sweep { (index % panels, index / panels) } else { (index / groups, index % groups) };
        let images = [group * each, phase.batch.min((group + 1) * each)];
        let block = Block {
            phase,
            images,
            columns: [panel * PANEL, phase.outputs.min((panel + 1) * PANEL)],
            panel: &packed[panel * terms * PANEL..][..terms * PANEL],
        };
        for start in (0..terms).step_by(KC) {
            for row in &rows {
                for col in &cols {
                    block.rectangle(isa, row, col, [start, terms.min(start + KC)], lhs, out);
                }
            }
        }
    }
}

/// Images whose results are computed together.
fn images_at_once(phase: &Phase) -> usize {
    let positions = (phase.dims[0].outs * phase.dims[1].outs).max(1);
    let each = POSITIONS.div_ceil(positions);
    (if each > 1 { each.next_multiple_of(6) } else { 1 }).min(phase.batch.max(1))
}

/// Thousandths of the microkernel's time that rows of this length spend on tiles too short for it: below 3 rows it takes as long as for 3.
fn waste(len: usize) -> usize {
    let (whole, rest) = (len / 6 * 6, len % 6);
    let spent = whole + if rest == 0 { 0 } else { rest.max(3) };
    (spent - len) * 1000 / len.max(1)
}

/// Packs a panel: a line of 64 output channels for every term, kernel positions row-major, input channels innermost.
fn pack(isa: Isa, phase: &Phase, rhs: &[f32], first: usize, panel: &mut [f32]) {
    let columns = PANEL.min(phase.outputs - first);
    let (_, _, by_output, by_input) = phase.rhs;
    let [y, x] = [phase.dims[0], phase.dims[1]];
    for (tap, lines) in panel.chunks_exact_mut(phase.inputs * PANEL).enumerate() {
        let (ty, tx) = ((tap / x.taps) as isize, (tap % x.taps) as isize);
        let base = phase.rhs.0 + ty * y.rhs + tx * x.rhs + first as isize * by_output;
        if by_input == 1 && by_output != 1 {
            for lane in (0..columns).step_by(16) {
                let at = (base + lane as isize * by_output) as usize;
                transpose16(isa, rhs, at, by_output, 16.min(columns - lane), phase.inputs, &mut lines[lane..], PANEL);
            }
            continue;
        }
        for (k, line) in lines.chunks_exact_mut(PANEL).enumerate() {
            let at = base + k as isize * by_input;
            let (line, rest) = line.split_at_mut(columns);
            rest.fill(0.0);
            if by_output == 1 {
                copy(isa, &rhs[at as usize..at as usize + columns], line);
            } else {
                line.iter_mut().enumerate().for_each(|(j, cell)| *cell = rhs[(at + j as isize * by_output) as usize]);
            }
        }
    }
}

/// A group of images and a panel of output channels.
struct Block<'a> {
    phase: &'a Phase,
    images: [usize; 2],
    columns: [usize; 2],
    panel: &'a [f32],
}

impl Block<'_> {
    /// Adds the terms from `start` to `end` to a rectangle of positions.
    fn rectangle(&self, isa: Isa, row: &Span, col: &Span, [start, end]: [usize; 2], lhs: &[f32], out: &mut [f32]) {
        let phase = self.phase;
        let [y, x] = [phase.dims[0], phase.dims[1]];
        let runs = self.runs(row, col, [start, end]);
        // The first block of terms replaces the result, also when all of its terms are padding.
        if runs.is_empty() && (start > 0 || phase.accumulate) {
            return;
        }
        // Extents and steps of images, rows and columns, in the image and in the result.
        let axes = [(self.images, phase.lhs.2, phase.out.2), (row.outs, y.stride * y.lhs, y.out), (col.outs, x.stride * x.lhs, x.out)];
        let size = |axis: usize| axes[axis].0[1] - axes[axis].0[0];
        let along = [2, 1, 0].into_iter().min_by_key(|a| waste(size(*a))).unwrap_or(2);
        let [outer, inner] = match along {
            0 => [1, 2],
            1 => [0, 2],
            _ => [0, 1],
        };
        let base = phase.lhs.0;
        let to = phase.out.0 + self.columns[0] as isize;
        for i in axes[outer].0[0]..axes[outer].0[1] {
            for j in axes[inner].0[0]..axes[inner].0[1] {
                let place = |step: fn(&([usize; 2], isize, isize)) -> isize| {
                    i as isize * step(&axes[outer]) + j as isize * step(&axes[inner]) + axes[along].0[0] as isize * step(&axes[along])
                };
                let line = Rows {
                    a: lhs,
                    base: base + place(|a| a.1),
                    row: axes[along].1,
                    step: 1,
                    runs: &runs,
                    b: self.panel,
                    b_step: PANEL,
                    cols: self.columns[1] - self.columns[0],
                    rows: size(along),
                    out: to + place(|a| a.2),
                    out_row: axes[along].2,
                    accumulate: phase.accumulate || start > 0,
                };
                rows(isa, line, out);
            }
        }
    }

    /// The runs of terms from `start` to `end` that positions of a rectangle meet.
    fn runs(&self, row: &Span, col: &Span, [start, end]: [usize; 2]) -> SmallVec<[Run; 16]> {
        let phase = self.phase;
        let [y, x] = [phase.dims[0], phase.dims[1]];
        let joined = x.dilation * x.lhs == phase.inputs as isize;
        let mut runs: SmallVec<[Run; 16]> = SmallVec::new();
        for ty in row.taps[0]..row.taps[1] {
            let mut tx = col.taps[0];
            while tx < col.taps[1] {
                let taps = if joined { col.taps[1] - tx } else { 1 };
                let line = (ty * x.taps + tx) * phase.inputs;
                let offset = ty as isize * y.dilation * y.lhs + tx as isize * x.dilation * x.lhs;
                let (from, to) = (line.max(start), (line + taps * phase.inputs).min(end));
                if from < to {
                    runs.push(Run { offset: offset + (from - line) as isize, line: from, len: to - from });
                }
                tx += taps;
            }
        }
        runs
    }
}
