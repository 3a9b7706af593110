//! Everything that is written once per instruction set: the microkernels and packing.
//!
//! The functions here are safe: each checks its slices before it hands pointers to an intrinsic, and falls back to a narrower
//! instruction set when the processor lacks the one asked for.
//! Each has a scalar twin with the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_block;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_block;
#[cfg(target_arch = "x86_64")]
mod avx512_pack;
pub(crate) mod block;
pub(crate) mod line;
pub(crate) mod machine;
pub(crate) mod pack;
pub(crate) mod pair_rows;
pub(crate) mod pool;
pub(crate) mod rows;
mod scalar;
pub(crate) mod stored;
pub(crate) mod tier;
pub(crate) mod winograd;

use crate::isa::Isa;

/// Whether every position `base + Σ i·stride` lies inside a slice of `len` elements.
fn inside(len: usize, base: isize, axes: [(usize, isize); 2]) -> bool {
    let (mut low, mut high) = (base as i128, base as i128);
    for (count, stride) in axes {
        if count == 0 {
            return true;
        }
        let reach = (count as i128 - 1) * stride as i128;
        low += reach.min(0);
        high += reach.max(0);
    }
    low >= 0 && high < len as i128
}

/// Transposes `rows` ≤ 16 rows of `k` elements, row `i` at `src[base + i·row ..]`, into `dst[p·ld + i]`.
///
/// Lanes from `rows` to 15 of `dst` may be overwritten with anything.
pub(crate) fn transpose16(isa: Isa, src: &[f32], base: usize, row: isize, rows: usize, k: usize, dst: &mut [f32], ld: usize) {
    if rows == 0 || k == 0 {
        return;
    }
    assert!(rows <= 16 && ld >= 16, "a transposed panel has 16 lanes");
    assert!(inside(src.len(), base as isize, [(rows, row), (k, 1)]), "transposition reads outside its source");
    assert!(inside(dst.len(), 0, [(16, 1), (k, ld as isize)]), "transposition writes outside its panel");
    match isa.usable() {
        // SAFETY: `usable` says that the processor has the features; the assertions prove that every row and every panel line is inside its slice.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::transpose16(src.as_ptr().add(base), row, rows, k, dst.as_mut_ptr(), ld) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::transpose16(src.as_ptr().add(base), row, rows, k, dst.as_mut_ptr(), ld) },
        _ => scalar::transpose16(src, base, row, rows, k, dst, ld),
    }
}

/// Hints that what lies at `at` will be read soon; there may be nothing.
#[inline(always)]
pub(crate) fn fetch<T>(from: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, at);
}

/// Copies a short run of equal length; the library's copy costs more than runs of a few dozen elements do.
#[inline]
pub(crate) fn copy(isa: Isa, src: &[f32], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len(), "a copy keeps its length");
    match isa {
        // SAFETY: both slices have `dst.len()` elements; the packing functions are called with a usable instruction set, checked here again.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if Isa::detect() == Isa::Avx512 => unsafe { avx512::copy(src.as_ptr(), dst.as_mut_ptr(), dst.len()) },
        _ => dst.copy_from_slice(src),
    }
}

/// Copies every second element of a short run: `dst[i] = src[2·i]`.
#[inline]
pub(crate) fn copy_even(isa: Isa, src: &[f32], dst: &mut [f32]) {
    assert!(src.len() + 1 >= 2 * dst.len(), "a copy of every second element needs twice as many");
    match isa {
        // SAFETY: `src` has the elements up to 2·(len − 1); the instruction set is checked here.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if Isa::detect() == Isa::Avx512 => unsafe { avx512::copy_even(src.as_ptr(), dst.as_mut_ptr(), dst.len()) },
        _ => dst.iter_mut().zip(src.iter().step_by(2)).for_each(|(d, s)| *d = *s),
    }
}

/// Lanes of [`lanes`]: groups that are computed side by side.
pub(crate) const LANES: usize = 16;
/// Outputs of one [`lanes`] call.
pub(crate) const LANE_OUTPUTS: usize = 12;

/// The terms of a sum over two planes of 16-lane lines: for each, an offset in either plane.
#[derive(Default)]
pub(crate) struct Terms {
    list: Vec<[u32; 2]>,
    reach: [usize; 2],
}

impl Terms {
    /// Forgets all terms.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.reach = [0; 2];
    }

    /// Appends a term.
    pub(crate) fn push(&mut self, term: [u32; 2]) {
        self.list.push(term);
        self.reach = [self.reach[0].max(term[0] as usize), self.reach[1].max(term[1] as usize)];
    }

    /// Number of terms.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.list.capacity() * size_of::<[u32; 2]>()
    }
}

/// One call of the grouped microkernel: `sums[i][l] += Σ_t x[at[i] + t.0 + l] · y[y_base + t.1 + l]` over `terms[start..end]`, in order,
/// one fused multiply-add a term.
pub(crate) struct LaneTile<'a> {
    /// First plane.
    pub x: &'a [f32],
    /// Where each output starts in it.
    pub at: &'a [u32],
    /// Second plane.
    pub y: &'a [f32],
    /// Where it starts.
    pub y_base: usize,
    /// The terms.
    pub terms: &'a Terms,
    /// First term.
    pub start: usize,
    /// One past the last term.
    pub end: usize,
}

/// Runs one grouped tile; `sums` has 16 lanes for each entry of `at`.
pub(crate) fn lanes(isa: Isa, t: &LaneTile<'_>, sums: &mut [f32]) {
    let furthest = t.at.iter().copied().max().unwrap_or(0) as usize;
    assert!((1..=LANE_OUTPUTS).contains(&t.at.len()) && sums.len() == t.at.len() * LANES, "grouped tile extents exceed the microkernel");
    assert!(furthest + t.terms.reach[0] + LANES <= t.x.len(), "grouped tile reads outside its first plane");
    assert!(t.y_base + t.terms.reach[1] + LANES <= t.y.len(), "grouped tile reads outside its second plane");
    let terms = &t.terms.list[t.start..t.end];
    match isa.usable() {
        // SAFETY: `usable` says that the processor has the features; the assertions bound every line that a term of the list can reach.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::lanes(t, terms, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::lanes(t, terms, sums) },
        _ => scalar::lanes(t, terms, sums),
    }
}

/// Runs `rounds` times a few dozen independent multiply-adds on registers; returns how many floating-point operations those were.
pub(crate) fn spin(isa: Isa, bf16: bool, rounds: usize) -> u64 {
    match isa.usable() {
        // SAFETY: the processor has the features, by the test in the guard.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if bf16 && Isa::has_bf16_pairs() => unsafe { avx512_block::spin_pair(rounds) },
        // SAFETY: `usable` says that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512_block::spin_single(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2_block::spin(rounds) },
        _ => {
            let mut sums = [0.0f32; 16];
            for _ in 0..rounds {
                sums.iter_mut().for_each(|s| *s = *s * 0.5 + 1e-3);
                std::hint::black_box(&sums);
            }
            (rounds * 2 * sums.len()) as u64
        }
    }
}
