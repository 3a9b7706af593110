//! AVX2 with FMA: up to 6 × 16 accumulators in 12 registers, mask vectors on the column edge.

use super::{LaneTile, Tile};
use std::arch::x86_64::{
    __m256, __m256i, _mm256_castpd_ps, _mm256_castps_pd, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps,
    _mm256_maskstore_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

const LANES: usize = 8;

#[target_feature(enable = "avx2,fma")]
fn mask(lanes: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes.min(LANES) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Dispatches on the tile's extents.
///
/// # Safety
/// The processor has AVX2 and FMA, and `Tile::check` holds.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile(t: &Tile<'_>, c: &mut [f32], c_rows: &[usize]) {
    macro_rules! by_rows {
        ($vectors:literal) => {
            // SAFETY: the caller's promise, passed on.
            unsafe {
                match c_rows.len() {
                    1 => run::<1, $vectors>(t, c, c_rows),
                    2 => run::<2, $vectors>(t, c, c_rows),
                    3 => run::<3, $vectors>(t, c, c_rows),
                    4 => run::<4, $vectors>(t, c, c_rows),
                    5 => run::<5, $vectors>(t, c, c_rows),
                    _ => run::<6, $vectors>(t, c, c_rows),
                }
            }
        };
    }
    if t.cols <= LANES { by_rows!(1) } else { by_rows!(2) }
}

/// # Safety
/// The processor has AVX2 and FMA; `Tile::check` holds; `c_rows` has `ROWS` entries and `t.cols` fills `VECTORS` vectors, the last perhaps partly.
#[target_feature(enable = "avx2,fma")]
unsafe fn run<const ROWS: usize, const VECTORS: usize>(t: &Tile<'_>, c: &mut [f32], c_rows: &[usize]) {
    let mut lanes = [mask(LANES); VECTORS];
    lanes[VECTORS - 1] = mask(t.cols - (VECTORS - 1) * LANES);
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let (row, step, b_step) = (t.a_row, t.a_step, t.b_step);
    let mut a = t.a.as_ptr().wrapping_add(t.a_base);
    let mut b = t.b.as_ptr().wrapping_add(t.b_base);
    for _ in 0..t.k {
        let mut line = [_mm256_setzero_ps(); VECTORS];
        // SAFETY: `check` proved that (i, p) and (p, j) are inside their slices for every i < ROWS, p < k, j < cols; the mask hides the rest.
        unsafe {
            for (v, x) in line.iter_mut().enumerate() {
                *x = _mm256_maskload_ps(b.wrapping_add(v * LANES), lanes[v]);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.offset(i as isize * row));
                for (sum, y) in sums.iter_mut().zip(&line) {
                    *sum = _mm256_fmadd_ps(x, *y, *sum);
                }
            }
        }
        a = a.wrapping_offset(step);
        b = b.wrapping_offset(b_step);
    }
    let alpha = _mm256_set1_ps(t.alpha);
    for (sums, at) in sums.iter().zip(c_rows) {
        let out = c.as_mut_ptr().wrapping_add(*at);
        for (v, sum) in sums.iter().enumerate() {
            let place = out.wrapping_add(v * LANES);
            // SAFETY: `check` proved that `cols` elements from each entry of `c_rows` are inside the output; the mask hides the rest.
            unsafe {
                let value = if t.accumulate {
                    _mm256_fmadd_ps(alpha, *sum, _mm256_maskload_ps(place, lanes[v]))
                } else {
                    _mm256_mul_ps(alpha, *sum)
                };
                _mm256_maskstore_ps(place, lanes[v], value);
            }
        }
    }
}

/// # Safety
/// The processor has AVX2; `rows` ≤ 16 rows of `k` elements can be read, `k` lines of 16 elements, `ld` apart, can be written.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn transpose16(src: *const f32, row: isize, rows: usize, k: usize, dst: *mut f32, ld: usize) {
    for half in 0..2 {
        for p in (0..k).step_by(LANES) {
            let lanes = mask(k - p);
            let mut block = [_mm256_setzero_ps(); LANES];
            for (i, line) in block.iter_mut().enumerate() {
                let i = half * LANES + i;
                if i < rows {
                    // SAFETY: row i is readable from 0 to k; the mask hides what lies past k.
                    *line = unsafe { _mm256_maskload_ps(src.wrapping_offset(i as isize * row).wrapping_add(p), lanes) };
                }
            }
            let block = transpose(block);
            for (i, line) in block.iter().enumerate().take(k - p) {
                // SAFETY: line p + i < k is writable over 16 elements.
                unsafe { _mm256_storeu_ps(dst.add((p + i) * ld + half * LANES), *line) };
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn transpose(x: [__m256; 8]) -> [__m256; 8] {
    let mut y = x;
    for i in (0..8).step_by(2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    let mut z = y;
    for i in (0..8).step_by(4) {
        for h in 0..2 {
            let (p, q) = (_mm256_castps_pd(y[i + h]), _mm256_castps_pd(y[i + h + 2]));
            z[i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(p, q));
            z[i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(p, q));
        }
    }
    let mut out = z;
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(z[c], z[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(z[c], z[4 + c]);
    }
    out
}

/// # Safety
/// The processor has AVX2 and FMA, and the assertions of `super::lanes` hold.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn lanes(t: &LaneTile<'_>, terms: &[[u32; 2]], sums: &mut [f32]) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match t.at.len() {
            1 => run_lanes::<1>(t, terms, sums),
            2 => run_lanes::<2>(t, terms, sums),
            3 => run_lanes::<3>(t, terms, sums),
            4 => run_lanes::<4>(t, terms, sums),
            5 => run_lanes::<5>(t, terms, sums),
            6 => run_lanes::<6>(t, terms, sums),
            7 => run_lanes::<7>(t, terms, sums),
            8 => run_lanes::<8>(t, terms, sums),
            9 => run_lanes::<9>(t, terms, sums),
            10 => run_lanes::<10>(t, terms, sums),
            11 => run_lanes::<11>(t, terms, sums),
            _ => run_lanes::<12>(t, terms, sums),
        }
    }
}

/// # Safety
/// As [`lanes`]; `t.at` has `OUTPUTS` entries.
#[target_feature(enable = "avx2,fma")]
unsafe fn run_lanes<const OUTPUTS: usize>(t: &LaneTile<'_>, terms: &[[u32; 2]], sums: &mut [f32]) {
    for half in [0, LANES] {
        let mut acc = [_mm256_setzero_ps(); OUTPUTS];
        let mut lines = [t.x.as_ptr(); OUTPUTS];
        let y = t.y.as_ptr().wrapping_add(t.y_base + half);
        // SAFETY: `sums` has 16 elements for each of the `OUTPUTS` outputs; every line `at[i] + x` and `y` of a term is inside its plane.
        unsafe {
            for i in 0..OUTPUTS {
                acc[i] = _mm256_loadu_ps(sums.as_ptr().add(i * 2 * LANES + half));
                lines[i] = t.x.as_ptr().add(t.at[i] as usize + half);
            }
            for [dx, dy] in terms {
                let factor = _mm256_loadu_ps(y.add(*dy as usize));
                for i in 0..OUTPUTS {
                    acc[i] = _mm256_fmadd_ps(_mm256_loadu_ps(lines[i].add(*dx as usize)), factor, acc[i]);
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                _mm256_storeu_ps(sums.as_mut_ptr().add(i * 2 * LANES + half), *acc);
            }
        }
    }
}
