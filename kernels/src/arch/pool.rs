//! Pooling of f32 and bf16 over channels that are neighbors: a strip of windows at a time, with AVX-512.
//!
//! bf16 is widened as it is loaded, combined in f32 and rounded as it is stored.
//! The functions give up (`false`) without AVX-512; the portable loops of [`crate::window`] are their twins, with the same bits.

use super::stored::Stored;
use crate::isa::Isa;
use girih_ir::scalar::Monoid;

/// How the elements of a window are combined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Combine {
    Sum,
    Max,
    Min,
}

impl Combine {
    /// The combiner, if it is one of these.
    pub(crate) fn of(monoid: Monoid) -> Option<Combine> {
        match monoid {
            Monoid::Sum => Some(Combine::Sum),
            Monoid::Max => Some(Combine::Max),
            Monoid::Min => Some(Combine::Min),
            _ => None,
        }
    }
}

/// Windows side by side.
pub(crate) struct Strip<'a> {
    /// How many.
    pub(crate) count: usize,
    /// Channels of each element.
    pub(crate) channels: usize,
    /// Where the elements of a window are, relative to its first.
    pub(crate) taps: &'a [isize],
}

/// Position of the first window and the way to the next.
type Walk = (isize, isize);

impl Strip<'_> {
    /// Whether channels at `taps` (or at 0) of every window are inside a slice of `len`.
    fn inside(&self, (base, step): Walk, taps: &[isize], len: usize) -> bool {
        let last = base + (self.count as isize - 1) * step;
        let (low, high) = (base.min(last), base.max(last) + self.channels as isize);
        let tap = |f: fn(isize, isize) -> isize| taps.iter().copied().reduce(f).unwrap_or(0);
        low + tap(isize::min) >= 0 && high + tap(isize::max) <= len as isize
    }
}

/// `to[window] = combine of its elements in from`.
pub(crate) fn combine<E: Stored>(isa: Isa, s: &Strip<'_>, how: Combine, from: &[E], x: Walk, to: &mut [E], y: Walk) -> bool {
    if s.count == 0 || s.channels == 0 || s.taps.is_empty() {
        return true;
    }
    assert!(s.inside(x, s.taps, from.len()) && s.inside(y, &[], to.len()), "pooling reaches outside its operands");
    match isa.usable() {
        // SAFETY: `usable` says that the processor has AVX-512; the assertion proves that all channels of every tap and result are inside their slices.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe {
            match how {
                Combine::Sum => wide::combine::<E, 0>(s, from.as_ptr(), x, to.as_mut_ptr(), y),
                Combine::Max => wide::combine::<E, 1>(s, from.as_ptr(), x, to.as_mut_ptr(), y),
                Combine::Min => wide::combine::<E, 2>(s, from.as_ptr(), x, to.as_mut_ptr(), y),
            }
            true
        },
        _ => false,
    }
}

/// The gradient of the largest (or smallest): `to[elements of window] = source[window]` where it was selected, else 0. `to` has the steps of
/// `from`, from `to_base` on.
pub(crate) fn select<E: Stored>(
    isa: Isa,
    s: &Strip<'_>,
    max: bool,
    from: &[E],
    x: Walk,
    source: &[E],
    y: Walk,
    to: &mut [E],
    to_base: isize,
) -> bool {
    if s.count == 0 || s.channels == 0 || s.taps.is_empty() {
        return true;
    }
    let inside = s.inside(x, s.taps, from.len()) && s.inside((to_base, x.1), s.taps, to.len()) && s.inside(y, &[], source.len());
    assert!(inside, "the gradient of pooling reaches outside its operands");
    match isa.usable() {
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe {
            let (from, source, to) = (from.as_ptr(), source.as_ptr(), to.as_mut_ptr());
            if max {
                wide::select::<E, true>(s, from, x, source, y, to, to_base)
            } else {
                wide::select::<E, false>(s, from, x, source, y, to, to_base)
            }
            true
        },
        _ => false,
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Strip, Walk};
    use crate::arch::stored::Wide;
    use std::arch::x86_64::{
        _CMP_GE_OQ, _CMP_LE_OQ, _CMP_UNORD_Q, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cmpeq_epi32_mask, _mm512_mask_mov_epi32,
        _mm512_mask_mov_ps, _mm512_maskz_mov_ps, _mm512_range_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512,
    };

    /// Lanes from channel `c` on.
    #[inline(always)]
    fn lanes(channels: usize, c: usize) -> u16 {
        if channels - c >= 16 { u16::MAX } else { (1 << (channels - c)) - 1 }
    }

    /// Sum (0), largest (1) or smallest (2); NaN wins, and −0 is below +0.
    ///
    /// # Safety
    /// All channels of every tap of every window, and of every result, are inside the slices.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn combine<E: Wide, const HOW: u8>(s: &Strip<'_>, from: *const E, x: Walk, to: *mut E, y: Walk) {
        let (&first, rest) = s.taps.split_first().unwrap_or((&0, &[]));
        for i in 0..s.count as isize {
            let (x, y) = (x.0 + i * x.1, y.0 + i * y.1);
            for c in (0..s.channels).step_by(16) {
                let mask = lanes(s.channels, c);
                // SAFETY: the caller promises that these lanes are inside.
                unsafe {
                    let at = |tap: isize| E::load(mask, from.offset(x + tap + c as isize));
                    let mut acc = at(first);
                    if HOW == 0 {
                        acc = _mm512_add_ps(_mm512_setzero_ps(), acc);
                    }
                    for tap in rest {
                        let v = at(*tap);
                        if HOW == 0 {
                            acc = _mm512_add_ps(acc, v);
                            continue;
                        }
                        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(acc, v);
                        let best = if HOW == 1 { _mm512_range_ps::<5>(acc, v) } else { _mm512_range_ps::<4>(acc, v) };
                        acc = _mm512_mask_mov_ps(best, nan, _mm512_set1_ps(f32::NAN));
                    }
                    E::store(to.offset(y + c as isize), mask, acc);
                }
            }
        }
    }

    /// See [`super::select`].
    ///
    /// # Safety
    /// As for [`combine`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn select<E: Wide, const MAX: bool>(
        s: &Strip<'_>,
        from: *const E,
        x: Walk,
        source: *const E,
        y: Walk,
        to: *mut E,
        to_base: isize,
    ) {
        for i in 0..s.count as isize {
            let (here, y, there) = (x.0 + i * x.1, y.0 + i * y.1, to_base + i * x.1);
            for c in (0..s.channels).step_by(16) {
                let mask = lanes(s.channels, c);
                // SAFETY: the caller promises that these lanes are inside.
                unsafe {
                    let at = |tap: isize| E::load(mask, from.offset(here + tap + c as isize));
                    let (mut best, mut which) = (at(s.taps[0]), _mm512_setzero_si512());
                    for (k, tap) in s.taps.iter().enumerate().skip(1) {
                        let v = at(*tap);
                        let keep = if MAX { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(best, v) } else { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(best, v) };
                        which = _mm512_mask_mov_epi32(_mm512_set1_epi32(k as i32), keep, which);
                        best = _mm512_mask_mov_ps(v, keep, best);
                    }
                    let g = E::load(mask, source.offset(y + c as isize));
                    let g = _mm512_add_ps(_mm512_setzero_ps(), g);
                    for (k, tap) in s.taps.iter().enumerate() {
                        let own = _mm512_cmpeq_epi32_mask(which, _mm512_set1_epi32(k as i32));
                        E::store(to.offset(there + tap + c as isize), mask, _mm512_maskz_mov_ps(own, g));
                    }
                }
            }
        }
    }
}
