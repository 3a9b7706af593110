//! Products too small, or with too few rows, to repay packing: the microkernel runs on the operands where they lie.

use super::{Gemm, KC};
use crate::arch::{self, MR, Tile};
use crate::isa::Isa;

/// Positions of element (0, 0) of one matrix of the batch in `a`, `b` and `out`.
pub(super) type Bases = [usize; 3];

/// Whether one matrix of the batch is better computed in place: neighbors along n in `b` and `out`, and little reuse to gain by packing.
pub(super) fn suits(isa: Isa, g: &Gemm) -> bool {
    let rank = g.out.dims.len();
    let (m, n, k) = g.extents();
    let step = g.b.strides[rank - 2].unsigned_abs();
    let lines = n == 1 || (g.b.strides[rank - 1] == 1 && g.out.strides[rank - 1] == 1);
    let near = k <= KC && n <= 2 * arch::panel_width(isa) && step.saturating_mul(k) <= 8192;
    lines && k > 0 && (n >= 16 || n >= m) && (m <= 2 * MR || near)
}

/// Computes one matrix of the batch.
pub(super) fn run(isa: Isa, g: &Gemm, [a_base, b_base, out_base]: Bases, a: &[f32], b: &[f32], out: &mut [f32]) {
    let rank = g.out.dims.len();
    let (m, n, k) = g.extents();
    let (a_row, a_step, b_step, out_row) = (g.a.strides[rank - 2], g.a.strides[rank - 1], g.b.strides[rank - 2], g.out.strides[rank - 2]);
    let along =
        |base: usize, index: usize, stride: isize| if index == 0 { base } else { (base as isize + index as isize * stride) as usize };
    let width = arch::panel_width(isa);
    for j in (0..n).step_by(width) {
        for i in (0..m).step_by(MR) {
            let height = MR.min(m - i);
            let mut starts = [0; MR];
            for (row, start) in starts.iter_mut().enumerate().take(height) {
                *start = along(out_base, i + row, out_row) + j;
            }
            for q in (0..k).step_by(KC) {
                let tile = Tile {
                    k: KC.min(k - q),
                    a,
                    a_base: along(along(a_base, i, a_row), q, a_step),
                    a_row,
                    a_step,
                    b,
                    b_base: along(b_base, q, b_step) + j,
                    b_step,
                    cols: width.min(n - j),
                    alpha: g.alpha,
                    accumulate: g.accumulate || q > 0,
                };
                arch::tile(isa, &tile, out, &starts[..height]);
            }
        }
    }
}
