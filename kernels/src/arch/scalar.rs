//! The portable twins: what the vector versions must equal to the bit.

use super::{LANES, LaneTile};

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
