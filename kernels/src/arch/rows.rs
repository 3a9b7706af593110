//! The microkernel of convolutions with channels innermost: rows of pixels against 64 output channels, over runs of terms that lie in the image.

use super::inside;
use super::line::{LANES, Line, Op, dispatch};
use super::winograd::PANEL;
use crate::isa::Isa;

/// Neighboring terms of a sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Where they start in the image, from the pixel's position.
    pub offset: isize,
    /// Their first line in the vector operand.
    pub line: usize,
    /// Number of terms.
    pub len: usize,
}

/// `c[i][j] (+)= Σ over runs, Σ_p a[base + i·row + offset + p·step] · b[(line + p)·b_step + j]`, in order from +0, one fused multiply-add a term.
pub(crate) struct Rows<'a> {
    /// The image.
    pub a: &'a [f32],
    /// Position of the first pixel.
    pub base: isize,
    /// Elements between pixels.
    pub row: isize,
    /// Elements between terms.
    pub step: isize,
    /// The terms.
    pub runs: &'a [Run],
    /// The vector operand: lines of columns, whole up to a multiple of 16.
    pub b: &'a [f32],
    /// Elements between its lines.
    pub b_step: usize,
    /// Columns, at most 64.
    pub cols: usize,
    /// Pixels.
    pub rows: usize,
    /// Where the result of the first pixel starts.
    pub out: isize,
    /// Elements between results.
    pub out_row: isize,
    /// Add to the result.
    pub accumulate: bool,
}

struct Job<'a> {
    r: Rows<'a>,
    c: &'a mut [f32],
}

impl Job<'_> {
    /// # Safety
    /// `rows` checked the operands; `row + ROWS` ≤ rows, and line `line + LINES − 1` has a column.
    #[inline(always)]
    unsafe fn tile<L: Line, const ROWS: usize, const LINES: usize>(&mut self, row: usize, line: usize) {
        let mut sums = [[L::splat(0.0); LINES]; ROWS];
        let (step, next) = (self.r.row, self.r.step);
        let pixel = self.r.a.as_ptr().wrapping_offset(self.r.base + row as isize * step);
        for run in self.r.runs {
            let mut a = pixel.wrapping_offset(run.offset);
            let mut b = self.r.b.as_ptr().wrapping_add(run.line * self.r.b_step + line * LANES);
            for _ in 0..run.len {
                // SAFETY: `rows` checked the reach of every run over all pixels, and that the panel has its lines.
                unsafe {
                    let mut cells = [L::splat(0.0); LINES];
                    for (v, cell) in cells.iter_mut().enumerate() {
                        *cell = L::load(b.wrapping_add(v * LANES), LANES);
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = L::splat(*a.wrapping_offset(i as isize * step));
                        for (sum, y) in sums.iter_mut().zip(&cells) {
                            *sum = x.fma(*y, *sum);
                        }
                    }
                }
                a = a.wrapping_offset(next);
                b = b.wrapping_add(self.r.b_step);
            }
        }
        let c = self.c.as_mut_ptr().wrapping_offset(self.r.out + row as isize * self.r.out_row).wrapping_add(line * LANES);
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let to = c.wrapping_offset(i as isize * self.r.out_row).wrapping_add(v * LANES);
                let lanes = LANES.min(self.r.cols - (line + v) * LANES);
                // SAFETY: `rows` checked that `cols` elements follow the start of every result.
                unsafe {
                    let sum = if self.r.accumulate { L::load(to, lanes).add(*sum) } else { *sum };
                    sum.store(to, lanes);
                }
            }
        }
    }

    /// # Safety
    /// As [`tile`](Self::tile), for all rows.
    #[inline(always)]
    unsafe fn all<L: Line, const LINES: usize>(&mut self) {
        let mut row = 0;
        // SAFETY: passed on; each tile ends at or before the last row.
        unsafe {
            while row + 6 <= self.r.rows {
                self.tile::<L, 6, LINES>(row, 0);
                row += 6;
            }
            match self.r.rows - row {
                1 => self.tile::<L, 1, LINES>(row, 0),
                2 => self.tile::<L, 2, LINES>(row, 0),
                3 => self.tile::<L, 3, LINES>(row, 0),
                4 => self.tile::<L, 4, LINES>(row, 0),
                5 => self.tile::<L, 5, LINES>(row, 0),
                _ => {}
            }
        }
    }
}

impl Op for Job<'_> {
    #[inline(always)]
    unsafe fn run<L: Line>(mut self) {
        let lines = self.r.cols.div_ceil(LANES);
        // SAFETY: passed on.
        unsafe {
            if L::WIDE {
                match lines {
                    1 => self.all::<L, 1>(),
                    2 => self.all::<L, 2>(),
                    3 => self.all::<L, 3>(),
                    _ => self.all::<L, 4>(),
                }
                return;
            }
            for line in 0..lines {
                for row in (0..self.r.rows / 2 * 2).step_by(2) {
                    self.tile::<L, 2, 1>(row, line);
                }
                if self.r.rows % 2 == 1 {
                    self.tile::<L, 1, 1>(self.r.rows - 1, line);
                }
            }
        }
    }
}

/// Runs the rows.
pub(crate) fn rows(isa: Isa, r: Rows<'_>, c: &mut [f32]) {
    if r.rows == 0 || r.cols == 0 {
        return;
    }
    assert!(r.cols <= PANEL, "rows are wider than a panel");
    assert!(inside(c.len(), r.out, [(r.rows, r.out_row), (r.cols, 1)]), "rows write outside the output");
    for run in r.runs.iter().filter(|run| run.len > 0) {
        assert!(inside(r.a.len(), r.base + run.offset, [(r.rows, r.row), (run.len, r.step)]), "rows read outside the image");
        let last = (run.line + run.len - 1) * r.b_step + r.cols.next_multiple_of(LANES);
        assert!(last <= r.b.len(), "rows read outside the kernel");
    }
    dispatch(isa, Job { r, c });
}
