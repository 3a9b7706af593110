//! Elements that vector loops read as 16 lanes of f32 and round as they write: f32 and bf16.

use crate::lane::Lane;
use half::bf16;

/// An element type that has vector loops.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Stored: Lane<Value = f32> + Wide {}
/// An element type that has vector loops.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Stored: Lane<Value = f32> {}

impl Stored for f32 {}
impl Stored for bf16 {}

#[cfg(target_arch = "x86_64")]
pub(crate) use wide::Wide;

#[cfg(target_arch = "x86_64")]
mod wide {
    use half::bf16;
    use std::arch::x86_64::{
        __m256bh, __m256i, __m512, __m512bh, __m512i, _CMP_UNORD_Q, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16,
        _mm256_storeu_si256, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
        _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_mask_mov_epi32,
        _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_slli_epi32, _mm512_srli_epi32,
        _mm512_storeu_ps, _mm512_storeu_si512,
    };

    /// 16 elements as f32, in a register.
    pub(crate) trait Wide: Copy {
        /// # Safety
        /// The processor has AVX-512 F, BW, DQ and VL; the elements of the mask can be read.
        unsafe fn load(mask: u16, at: *const Self) -> __m512;
        /// Rounds to nearest, ties to even.
        ///
        /// # Safety
        /// As above, for writing.
        unsafe fn store(at: *mut Self, mask: u16, line: __m512);
        /// The same for whole vectors of sums of pairs, which are never denormal.
        ///
        /// # Safety
        /// As above, and the processor has AVX-512 BF16.
        unsafe fn store_sums<const VECTORS: usize>(at: *mut Self, lines: &[__m512; VECTORS]);
    }

    impl Wide for f32 {
        #[inline(always)]
        unsafe fn load(mask: u16, at: *const f32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_maskz_loadu_ps(mask, at) }
        }
        #[inline(always)]
        unsafe fn store(at: *mut f32, mask: u16, line: __m512) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_mask_storeu_ps(at, mask, line) }
        }
        #[inline(always)]
        unsafe fn store_sums<const VECTORS: usize>(at: *mut f32, lines: &[__m512; VECTORS]) {
            // SAFETY: the caller's promise.
            lines.iter().enumerate().for_each(|(v, line)| unsafe { _mm512_storeu_ps(at.wrapping_add(16 * v), *line) });
        }
    }

    impl Wide for bf16 {
        #[inline(always)]
        unsafe fn load(mask: u16, at: *const bf16) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at.cast())))) }
        }
        #[inline(always)]
        unsafe fn store(at: *mut bf16, mask: u16, line: __m512) {
            // SAFETY: the caller's promise.
            unsafe {
                let bits = _mm512_castps_si512(line);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))));
                let quiet = _mm512_or_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(0x40));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(line, line);
                _mm256_mask_storeu_epi16(at.cast(), mask, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
            }
        }
        #[inline(always)]
        unsafe fn store_sums<const VECTORS: usize>(at: *mut bf16, lines: &[__m512; VECTORS]) {
            let mut pairs = lines.chunks_exact(2);
            // SAFETY: the caller's promise; the instruction takes denormal numbers for 0, and there are none.
            unsafe {
                for (v, pair) in (&mut pairs).enumerate() {
                    let bits = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(pair[1], pair[0]));
                    _mm512_storeu_si512(at.wrapping_add(32 * v).cast(), bits);
                }
                if let [line] = pairs.remainder() {
                    let bits = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(*line));
                    _mm256_storeu_si256(at.wrapping_add(16 * (VECTORS - 1)).cast(), bits);
                }
            }
        }
    }
}
