//! Packing of plain matrices: strips or panels, term after term, from lines or from columns of the source.

use super::block::Ahead;
use super::inside;
use crate::isa::Isa;

/// A matrix in a slice: element (index, term) at `base + index·stride + term·step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plane<'a> {
    /// The elements; for pairs of bf16, 32 bits each.
    pub data: &'a [f32],
    /// Position of (0, 0).
    pub base: usize,
    /// Distance between indices: rows of the broadcast operand, columns of the vector operand.
    pub stride: isize,
    /// Distance between terms.
    pub step: isize,
}

impl<'a> Plane<'a> {
    /// The matrix from an index and a term on.
    pub(crate) fn at(self, index: usize, term: usize) -> Plane<'a> {
        Plane { base: (self.base as isize + index as isize * self.stride + term as isize * self.step) as usize, ..self }
    }
}

impl Plane<'_> {
    /// Where `k` terms of `count` indices lie, for fetching by blocks with chains of `chain` terms, when the terms are neighbors.
    pub(crate) fn lines_ahead(&self, count: usize, k: usize, chain: usize) -> Option<Ahead> {
        let start = self.data.as_ptr().wrapping_add(self.base);
        if self.step != 1 || self.stride == k as isize {
            // One index goes on where the one before it ends.
            return (self.step == 1).then(|| Ahead::packed(start, count, k));
        }
        // An index a chain.
        let (chains, step) = (k.div_ceil(chain), k.div_ceil(chain).min(16) as isize);
        let jump = self.stride - step * chain as isize;
        Some(Ahead { start, step, jump, strips: count.div_ceil(chains), next: self.stride * chains as isize })
    }

    /// Where the terms of `count` indices lie, for fetching, when the indices are neighbors.
    pub(crate) fn ahead(&self, count: usize) -> Option<Ahead> {
        let start = self.data.as_ptr().wrapping_add(self.base);
        (self.stride == 1).then_some(Ahead { start, step: self.step, jump: 0, strips: count.div_ceil(16), next: 16 })
    }
}

/// Terms between what is turned and what is fetched for it.
const SOON: isize = 64;

/// Packs `count` indices × `k` terms: `dst[g·width·k + p·w + i]` is (g·width + i, p), with `w` indices in group `g`.
///
/// The last group may have fewer than `width`: its lines have their own length when `tight`, else they are `width` long and what
/// lies past the last index is unspecified.
pub(crate) fn pack(isa: Isa, src: &Plane<'_>, count: usize, k: usize, width: usize, tight: bool, dst: &mut [f32]) {
    if count == 0 || k == 0 {
        return;
    }
    assert!(inside(src.data.len(), src.base as isize, [(count, src.stride), (k, src.step)]), "packing reads outside its source");
    let room = if tight { count } else { count.div_ceil(width) * width };
    assert!(width > 0 && dst.len() >= room * k, "packing writes outside its buffer");
    match isa.usable() {
        // SAFETY: `usable` says that the processor has the features; the assertions prove that every element is inside its slice.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if src.stride == 1 => unsafe {
            super::avx512_pack::lines(src.data.as_ptr().add(src.base), src.step, count, k, width, tight, dst.as_mut_ptr());
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if src.step == 1 => unsafe {
            super::avx512_pack::turned(src.data.as_ptr().add(src.base), src.stride, count, k, width, tight, dst.as_mut_ptr(), SOON);
        },
        isa => portable(isa, src, count, k, width, tight, dst),
    }
}

fn portable(isa: Isa, src: &Plane<'_>, count: usize, k: usize, width: usize, tight: bool, dst: &mut [f32]) {
    for first in (0..count).step_by(width) {
        let group = width.min(count - first);
        let line = if tight { group } else { width };
        let dst = &mut dst[first * k..][..line * k];
        let at = src.at(first, 0);
        if src.step == 1 && line == 16 {
            super::transpose16(isa, src.data, at.base, src.stride, group, k, dst, 16);
            continue;
        }
        for (p, line) in dst.chunks_exact_mut(line).enumerate() {
            let from = at.base as isize + p as isize * src.step;
            if src.stride == 1 {
                line[..group].copy_from_slice(&src.data[from as usize..from as usize + group]);
                continue;
            }
            for (i, x) in line[..group].iter_mut().enumerate() {
                *x = src.data[(from + i as isize * src.stride) as usize];
            }
        }
    }
}

/// Two lines of 16-bit elements as one of pairs: `dst[i]` has `low[i]` in its low half and `high[i]` in the high one, 0 where there is no `high`.
pub(crate) fn interleave(isa: Isa, low: &[u16], high: Option<&[u16]>, dst: &mut [f32]) {
    assert!(low.len() >= dst.len() && high.is_none_or(|h| h.len() >= dst.len()), "pairs need two lines");
    match (isa.usable(), high) {
        // SAFETY: `usable` says that the processor has the features; both lines are as long as the result.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Some(high)) => unsafe {
            super::avx512_pack::interleave(low.as_ptr(), high.as_ptr(), dst.as_mut_ptr(), dst.len());
        },
        (_, high) => {
            for (i, x) in dst.iter_mut().enumerate() {
                let high = high.map_or(0, |h| u32::from(h[i]));
                *x = f32::from_bits(high << 16 | u32::from(low[i]));
            }
        }
    }
}

/// Lines of 16-bit elements in pairs: line `t` is the `count` elements from `base + t·step` on, and `dst[p·ld + i]` has element `i` of line `2·p`
/// in its low half and of the next line in the high one, 0 where there is none.
pub(crate) fn pair_lines(isa: Isa, src: &[u16], base: usize, step: isize, count: usize, terms: usize, dst: &mut [f32], ld: usize) {
    if count == 0 || terms == 0 {
        return;
    }
    assert!(inside(src.len(), base as isize, [(count, 1), (terms, step)]), "pairing reads outside its source");
    assert!(ld >= count && inside(dst.len(), 0, [(count, 1), (terms.div_ceil(2), ld as isize)]), "pairing writes outside its buffer");
    match isa.usable() {
        // SAFETY: `usable` says that the processor has the features; the assertions prove every line and every place.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { super::avx512_pack::pair_lines(src.as_ptr().add(base), step, count, terms, dst.as_mut_ptr(), ld) },
        isa => {
            for (p, line) in dst.chunks_mut(ld).enumerate().take(terms.div_ceil(2)) {
                let of = |term: usize| &src[(base as isize + term as isize * step) as usize..][..count];
                interleave(isa, of(2 * p), (2 * p + 1 < terms).then(|| of(2 * p + 1)), &mut line[..count]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::{Rng, bits};

    #[test]
    fn lines_are_paired_alike() {
        let mut rng = Rng(81);
        for (count, terms) in [(1usize, 1usize), (5, 2), (16, 7), (31, 4), (32, 3), (77, 9), (128, 6)] {
            for step in [count as isize + 3, -(count as isize) - 1] {
                let src: Vec<u16> = (0..(terms + 1) * (count + 4)).map(|_| rng.next() as u16).collect();
                let base = if step < 0 { terms * (count + 1) } else { 2 };
                let all: Vec<Vec<u32>> = Isa::available()
                    .map(|isa| {
                        let mut dst = vec![0.5f32; terms.div_ceil(2) * (count + 2)];
                        pair_lines(isa, &src, base, step, count, terms, &mut dst, count + 2);
                        bits(&dst)
                    })
                    .collect();
                let at = |term: usize, i: usize| {
                    if term < terms { u32::from(src[(base as isize + term as isize * step) as usize + i]) } else { 0 }
                };
                for (p, i) in (0..terms.div_ceil(2)).flat_map(|p| (0..count).map(move |i| (p, i))) {
                    assert_eq!(all[0][p * (count + 2) + i], at(2 * p + 1, i) << 16 | at(2 * p, i));
                }
                assert!(all.iter().all(|x| *x == all[0]), "{terms} lines of {count}");
            }
        }
    }
}
