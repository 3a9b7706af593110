//! AVX-512 packing: lines are copied, columns are turned in blocks of 16 × 16.

use super::avx512::{mask, transpose};
use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_maskz_loadu_epi16, _mm512_cvtepu16_epi32, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_permutex2var_epi16, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
};

const LANES: usize = 16;
/// Terms after which the copying of lines goes on to the next groups of indices: a few pages of source stay in the translation cache.
const TERMS: usize = 8;
/// The same for strips, whose lines are short and whose starts may share a set of the first-level cache.
const STRIP_TERMS: usize = 32;

/// Groups whose indices are neighbors in the source; term `p` starts at `src + p·step`.
///
/// # Safety
/// The processor has AVX-512 F; `count` elements can be read from each of `k` terms, and `super::pack`'s groups written.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn lines(src: *const f32, step: isize, count: usize, k: usize, width: usize, tight: bool, dst: *mut f32) {
    let terms = if tight { STRIP_TERMS } else { TERMS };
    for p0 in (0..k).step_by(terms) {
        let soon = if p0 + terms < k { terms as isize * step } else { 0 };
        for first in (0..count).step_by(width) {
            let group = width.min(count - first);
            let ld = if tight { group } else { width };
            for p in p0..k.min(p0 + terms) {
                let from = src.wrapping_offset(p as isize * step).wrapping_add(first);
                let to = dst.wrapping_add(first * k + p * ld);
                let mut at = 0;
                // SAFETY: the group's elements are readable and its line is writable; the mask hides what lies past the group. Prefetching
                // reads nothing.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_offset(soon).cast());
                    while at + LANES <= group {
                        _mm512_storeu_ps(to.add(at), _mm512_loadu_ps(from.add(at)));
                        at += LANES;
                    }
                    if at < group {
                        let rest = mask(group - at);
                        _mm512_mask_storeu_ps(to.add(at), rest, _mm512_maskz_loadu_ps(rest, from.add(at)));
                    }
                }
            }
        }
    }
}

/// Groups whose terms are neighbors in the source; index `i` starts at `src + i·stride`. What lies `soon` elements on is fetched.
///
/// # Safety
/// The processor has AVX-512 F; `k` elements can be read from each of `count` indices, and `super::pack`'s groups written.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turned(src: *const f32, stride: isize, count: usize, k: usize, width: usize, tight: bool, dst: *mut f32, soon: isize) {
    for first in (0..count).step_by(width) {
        let group = width.min(count - first);
        let ld = if tight { group } else { width };
        for lane in (0..group).step_by(LANES) {
            let rows = LANES.min(group - lane);
            let lanes = mask(rows);
            let from = src.wrapping_offset((first + lane) as isize * stride);
            let to = dst.wrapping_add(first * k + lane);
            for p in (0..k).step_by(LANES) {
                let terms = mask(k - p);
                let mut block = [_mm512_setzero_ps(); LANES];
                for (i, line) in block.iter_mut().enumerate() {
                    if i < rows {
                        let place = from.wrapping_offset(i as isize * stride).wrapping_add(p);
                        // SAFETY: index i is readable from 0 to k; the mask hides what lies past k. Prefetching reads nothing.
                        unsafe {
                            *line = _mm512_maskz_loadu_ps(terms, place);
                            _mm_prefetch::<_MM_HINT_T0>(place.wrapping_offset(soon).cast());
                        }
                    }
                }
                let block = transpose(block);
                // SAFETY: line p + i < k of the group is writable over its lanes.
                unsafe {
                    if k - p >= LANES && rows == LANES {
                        for (i, line) in block.iter().enumerate() {
                            _mm512_storeu_ps(to.add((p + i) * ld), *line);
                        }
                    } else if k - p >= LANES {
                        for (i, line) in block.iter().enumerate() {
                            _mm512_mask_storeu_ps(to.add((p + i) * ld), lanes, *line);
                        }
                    } else {
                        for (i, line) in block.iter().enumerate().take(k - p) {
                            _mm512_mask_storeu_ps(to.add((p + i) * ld), lanes, *line);
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512 F, BW and VL; `len` elements can be read from both lines and written to `dst`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn interleave(low: *const u16, high: *const u16, dst: *mut f32, len: usize) {
    let mut at = 0;
    while at < len {
        let lanes = mask(len - at);
        // SAFETY: the mask hides what lies past `len`.
        unsafe {
            let widened = |line: *const u16| -> __m512i { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, line.cast())) };
            let pairs = _mm512_or_si512(widened(low.add(at)), _mm512_slli_epi32::<16>(widened(high.add(at))));
            _mm512_mask_storeu_epi32(dst.add(at).cast(), lanes, pairs);
        }
        at += LANES;
    }
}

/// Where the elements of two lines of 32 go: `low[first + i]` and `high[first + i]` side by side.
const fn side_by_side(first: u16) -> [u16; 32] {
    let (mut places, mut i) = ([0; 32], 0);
    while i < 16 {
        places[2 * i] = first + i as u16;
        places[2 * i + 1] = 32 + first + i as u16;
        i += 1;
    }
    places
}

/// Pairs of lines: line `t` starts at `src + t·step`, pair `p` goes to `dst + p·ld`; a last line without a partner is paired with zeros.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL; `count` elements can be read from each of `terms` lines and written to each pair's place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pair_lines(src: *const u16, step: isize, count: usize, terms: usize, dst: *mut f32, ld: usize) {
    const FRONT: [u16; 32] = side_by_side(0);
    const BACK: [u16; 32] = side_by_side(16);
    // SAFETY: the tables are a vector long; lines and places are those of the caller's promise, the mask hides what lies past `count`.
    unsafe {
        let (front, back) = (_mm512_loadu_si512(FRONT.as_ptr().cast()), _mm512_loadu_si512(BACK.as_ptr().cast()));
        for p in 0..terms / 2 {
            let low = src.wrapping_offset(2 * p as isize * step);
            let (high, to) = (low.wrapping_offset(step), dst.add(p * ld));
            let mut at = 0;
            while at + 2 * LANES <= count {
                let (x, y) = (_mm512_loadu_si512(low.add(at).cast()), _mm512_loadu_si512(high.add(at).cast()));
                _mm512_storeu_si512(to.add(at).cast(), _mm512_permutex2var_epi16(x, front, y));
                _mm512_storeu_si512(to.add(at + LANES).cast(), _mm512_permutex2var_epi16(x, back, y));
                at += 2 * LANES;
            }
            if at < count {
                interleave(low.add(at), high.add(at), to.add(at), count - at);
            }
        }
        if !terms.is_multiple_of(2) {
            let (line, to) = (src.wrapping_offset((terms - 1) as isize * step), dst.add(terms / 2 * ld));
            for at in (0..count).step_by(LANES) {
                let lanes = mask(count - at);
                let halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, line.add(at).cast()));
                _mm512_mask_storeu_epi32(to.add(at).cast(), lanes, halves);
            }
        }
    }
}
