//! The portable twins: what the vector versions must equal to the bit.

use super::{LANES, LaneTile, MR, Tile};

const WIDTH: usize = 16;

pub(super) fn tile(t: &Tile<'_>, c: &mut [f32], c_rows: &[usize]) {
    let mut sums = [[0.0f32; WIDTH]; MR];
    for p in 0..t.k as isize {
        let b_at = (t.b_base as isize + p * t.b_step) as usize;
        let b = &t.b[b_at..b_at + t.cols];
        for (i, row) in sums.iter_mut().enumerate().take(c_rows.len()) {
            let a = t.a[(t.a_base as isize + i as isize * t.a_row + p * t.a_step) as usize];
            for (sum, b) in row.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    for (row, at) in sums.iter().zip(c_rows) {
        store(&mut c[*at..*at + t.cols], row, t.alpha, t.accumulate);
    }
}

/// The one way in which a partial sum reaches the output.
pub(super) fn store(c: &mut [f32], sums: &[f32], alpha: f32, accumulate: bool) {
    for (c, sum) in c.iter_mut().zip(sums) {
        *c = if accumulate { alpha.mul_add(*sum, *c) } else { alpha * *sum };
    }
}

pub(super) fn transpose16(src: &[f32], base: usize, row: isize, rows: usize, k: usize, dst: &mut [f32], ld: usize) {
    for i in 0..rows {
        let at = (base as isize + i as isize * row) as usize;
        for (p, x) in src[at..at + k].iter().enumerate() {
            dst[p * ld + i] = *x;
        }
    }
}

pub(super) fn lanes(t: &LaneTile<'_>, terms: &[[u32; 2]], sums: &mut [f32]) {
    for [x, y] in terms {
        let y = &t.y[t.y_base + *y as usize..][..LANES];
        for (sums, at) in sums.chunks_mut(LANES).zip(t.at) {
            let x = &t.x[(at + x) as usize..][..LANES];
            for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
                *sum = x.mul_add(*y, *sum);
            }
        }
    }
}
