//! AVX-512: transposition, short copies, and the grouped microkernel.

use super::LaneTile;
use std::arch::x86_64::{
    __m512, __mmask16, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_permutex2var_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

const LANES: usize = 16;

#[inline]
pub(super) fn mask(lanes: usize) -> __mmask16 {
    if lanes >= LANES { !0 } else { (1 << lanes) - 1 }
}

/// # Safety
/// The processor has AVX-512 F; `rows` ≤ 16 rows of `k` elements can be read, `k` lines of 16 elements, `ld` apart, can be written.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose16(src: *const f32, row: isize, rows: usize, k: usize, dst: *mut f32, ld: usize) {
    for p in (0..k).step_by(LANES) {
        let lanes = mask(k - p);
        let mut block = [_mm512_setzero_ps(); LANES];
        for (i, line) in block.iter_mut().enumerate().take(rows) {
            // SAFETY: row i is readable from 0 to k; the mask hides what lies past k.
            *line = unsafe { _mm512_maskz_loadu_ps(lanes, src.wrapping_offset(i as isize * row).wrapping_add(p)) };
        }
        let block = transpose(block);
        for (i, line) in block.iter().enumerate().take(k - p) {
            // SAFETY: line p + i < k is writable over 16 elements.
            unsafe { _mm512_storeu_ps(dst.add((p + i) * ld), *line) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(x: [__m512; 16]) -> [__m512; 16] {
    let mut y = x;
    for i in (0..16).step_by(2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    let mut z = y;
    for i in (0..16).step_by(4) {
        for h in 0..2 {
            let (p, q) = (_mm512_castps_pd(y[i + h]), _mm512_castps_pd(y[i + h + 2]));
            z[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, q));
            z[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, q));
        }
    }
    // z[4g + c] holds, in 128-bit lane l, column 4l + c of rows 4g … 4g + 3.
    let mut out = z;
    for c in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(z[c], z[4 + c]);
        let high = _mm512_shuffle_f32x4::<0xdd>(z[c], z[4 + c]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(z[8 + c], z[12 + c]);
        let high2 = _mm512_shuffle_f32x4::<0xdd>(z[8 + c], z[12 + c]);
        out[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        out[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
        out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
    }
    out
}

/// # Safety
/// The processor has AVX-512 F, and the assertions of `super::lanes` hold.
#[target_feature(enable = "avx512f")]
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
#[target_feature(enable = "avx512f")]
unsafe fn run_lanes<const OUTPUTS: usize>(t: &LaneTile<'_>, terms: &[[u32; 2]], sums: &mut [f32]) {
    let mut acc = [_mm512_setzero_ps(); OUTPUTS];
    let mut lines = [t.x.as_ptr(); OUTPUTS];
    let y = t.y.as_ptr().wrapping_add(t.y_base);
    // SAFETY: `sums` has 16 elements for each of the `OUTPUTS` outputs; every line `at[i] + x` and `y` of a term is inside its plane.
    unsafe {
        for i in 0..OUTPUTS {
            acc[i] = _mm512_loadu_ps(sums.as_ptr().add(i * LANES));
            lines[i] = t.x.as_ptr().add(t.at[i] as usize);
        }
        for [dx, dy] in terms {
            let factor = _mm512_loadu_ps(y.add(*dy as usize));
            for i in 0..OUTPUTS {
                acc[i] = _mm512_fmadd_ps(_mm512_loadu_ps(lines[i].add(*dx as usize)), factor, acc[i]);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(sums.as_mut_ptr().add(i * LANES), *acc);
        }
    }
}

/// # Safety
/// The processor has AVX-512 F; `len` elements can be read from `src` and written to `dst`, which do not overlap.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn copy(src: *const f32, dst: *mut f32, len: usize) {
    let mut at = 0;
    // SAFETY: whole vectors end at or before `len`; the mask hides what lies past it.
    unsafe {
        while at + LANES <= len {
            _mm512_storeu_ps(dst.add(at), _mm512_loadu_ps(src.add(at)));
            at += LANES;
        }
        if at < len {
            let rest = mask(len - at);
            _mm512_mask_storeu_ps(dst.add(at), rest, _mm512_maskz_loadu_ps(rest, src.add(at)));
        }
    }
}

/// # Safety
/// The processor has AVX-512 F; elements 0 to 2·(`len` − 1) can be read from `src`, `len` written to `dst`; they do not overlap.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn copy_even(src: *const f32, dst: *mut f32, len: usize) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let mut at = 0;
    while at < len {
        let lanes = (len - at).min(LANES);
        let (low, high) = (mask(2 * lanes.min(8) - 1), mask((2 * lanes).saturating_sub(LANES + 1)));
        // SAFETY: the masks show the elements up to 2·(lanes − 1) of this part only, and the first `lanes` of the result.
        unsafe {
            let from = src.add(2 * at);
            let both =
                _mm512_permutex2var_ps(_mm512_maskz_loadu_ps(low, from), even, _mm512_maskz_loadu_ps(high, from.wrapping_add(LANES)));
            _mm512_mask_storeu_ps(dst.add(at), mask(lanes), both);
        }
        at += LANES;
    }
}
