//! AVX2 with FMA: transposition, and the grouped microkernel.

use super::LaneTile;
use std::arch::x86_64::{
    __m256, __m256i, _mm256_castpd_ps, _mm256_castps_pd, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps,
    _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_storeu_ps, _mm256_unpackhi_pd,
    _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

const LANES: usize = 8;

#[target_feature(enable = "avx2,fma")]
fn mask(lanes: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes.min(LANES) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
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
