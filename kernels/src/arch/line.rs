//! Loops over lines of 16 lanes, written once for all instruction sets.
//!
//! A line is one AVX-512 register or a portable array. The same function over either gives the same bits.

use super::tier::{Tier, Work};
use crate::isa::Isa;
use half::bf16;

/// Lanes of a line.
pub(super) const LANES: usize = 16;

/// 16 lanes of f32.
pub(crate) trait Line: Copy {
    /// Rows and lines of the accumulators of a product.
    const WIDE: bool;
    /// # Safety
    /// `lanes` elements can be read.
    unsafe fn load(at: *const f32, lanes: usize) -> Self;
    /// # Safety
    /// `lanes` elements can be written.
    unsafe fn store(self, at: *mut f32, lanes: usize);
    /// # Safety
    /// `lanes` elements can be read.
    unsafe fn load_half(at: *const bf16, lanes: usize) -> Self;
    /// Rounds to nearest, ties to even.
    ///
    /// # Safety
    /// `lanes` elements can be written.
    unsafe fn store_half(self, at: *mut bf16, lanes: usize);
    /// All lanes alike.
    fn splat(x: f32) -> Self;
    /// `self · x + y`, fused.
    fn fma(self, x: Self, y: Self) -> Self;
    /// Sum.
    fn add(self, x: Self) -> Self;
    /// Difference.
    fn sub(self, x: Self) -> Self;
    /// Product.
    fn mul(self, x: Self) -> Self;
}

/// An element that lines are read from and written to; sums are f32 in any case.
pub(crate) trait Cell: Copy {
    /// # Safety
    /// `lanes` elements can be read.
    unsafe fn read<L: Line>(at: *const Self, lanes: usize) -> L;
    /// # Safety
    /// `lanes` elements can be written.
    unsafe fn write<L: Line>(line: L, at: *mut Self, lanes: usize);
    /// The elements as f32, when they are.
    fn plain(cells: &[Self]) -> Option<&[f32]>;
}

impl Cell for f32 {
    #[inline(always)]
    unsafe fn read<L: Line>(at: *const f32, lanes: usize) -> L {
        // SAFETY: passed on.
        unsafe { L::load(at, lanes) }
    }
    #[inline(always)]
    unsafe fn write<L: Line>(line: L, at: *mut f32, lanes: usize) {
        // SAFETY: passed on.
        unsafe { line.store(at, lanes) }
    }
    fn plain(cells: &[f32]) -> Option<&[f32]> {
        Some(cells)
    }
}

impl Cell for bf16 {
    #[inline(always)]
    unsafe fn read<L: Line>(at: *const bf16, lanes: usize) -> L {
        // SAFETY: passed on.
        unsafe { L::load_half(at, lanes) }
    }
    #[inline(always)]
    unsafe fn write<L: Line>(line: L, at: *mut bf16, lanes: usize) {
        // SAFETY: passed on.
        unsafe { line.store_half(at, lanes) }
    }
    fn plain(_: &[bf16]) -> Option<&[f32]> {
        None
    }
}

/// bf16 from f32, to nearest, ties to even; a NaN stays one.
#[inline(always)]
fn narrow(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    bf16::from_bits(if x.is_nan() { (bits >> 16) | 0x40 } else { rounded } as u16)
}

#[derive(Clone, Copy)]
struct Portable([f32; LANES]);

impl Line for Portable {
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn load(at: *const f32, lanes: usize) -> Self {
        let mut line = [0.0; LANES];
        // SAFETY: the caller's promise; `lanes` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(at, line.as_mut_ptr(), lanes.min(LANES)) };
        Portable(line)
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, lanes: usize) {
        // SAFETY: the caller's promise; `lanes` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), at, lanes.min(LANES)) };
    }
    #[inline(always)]
    unsafe fn load_half(at: *const bf16, lanes: usize) -> Self {
        let mut line = [bf16::ZERO; LANES];
        // SAFETY: the caller's promise; `lanes` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(at, line.as_mut_ptr(), lanes.min(LANES)) };
        Portable(line.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16)))
    }
    #[inline(always)]
    unsafe fn store_half(self, at: *mut bf16, lanes: usize) {
        let line = self.0.map(narrow);
        // SAFETY: the caller's promise; `lanes` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), at, lanes.min(LANES)) };
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }
    #[inline(always)]
    fn fma(self, x: Self, y: Self) -> Self {
        let mut out = y.0;
        for (o, (a, b)) in out.iter_mut().zip(self.0.iter().zip(&x.0)) {
            *o = a.mul_add(*b, *o);
        }
        Portable(out)
    }
    #[inline(always)]
    fn add(self, x: Self) -> Self {
        let mut out = self.0;
        out.iter_mut().zip(&x.0).for_each(|(o, x)| *o += x);
        Portable(out)
    }
    #[inline(always)]
    fn sub(self, x: Self) -> Self {
        let mut out = self.0;
        out.iter_mut().zip(&x.0).for_each(|(o, x)| *o -= x);
        Portable(out)
    }
    #[inline(always)]
    fn mul(self, x: Self) -> Self {
        let mut out = self.0;
        out.iter_mut().zip(&x.0).for_each(|(o, x)| *o *= x);
        Portable(out)
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::super::stored::Wide;
    use super::{LANES, Line};
    use half::bf16;
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
        _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    /// The first `lanes` lanes.
    #[inline(always)]
    fn mask(lanes: usize) -> u16 {
        if lanes >= LANES { !0 } else { (1 << lanes) - 1 }
    }

    /// Exists only inside functions that enable AVX-512: that is the SAFETY argument of every block here.
    #[derive(Clone, Copy)]
    pub(super) struct Zmm(__m512);

    impl Line for Zmm {
        const WIDE: bool = true;
        #[inline(always)]
        unsafe fn load(at: *const f32, lanes: usize) -> Self {
            // SAFETY: the caller's promise; the mask hides what lies past `lanes`.
            unsafe { Zmm(if lanes >= LANES { _mm512_loadu_ps(at) } else { _mm512_maskz_loadu_ps((1 << lanes) - 1, at) }) }
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut f32, lanes: usize) {
            // SAFETY: as above.
            unsafe { if lanes >= LANES { _mm512_storeu_ps(at, self.0) } else { _mm512_mask_storeu_ps(at, (1 << lanes) - 1, self.0) } }
        }
        #[inline(always)]
        unsafe fn load_half(at: *const bf16, lanes: usize) -> Self {
            // SAFETY: as above.
            Zmm(unsafe { Wide::load(mask(lanes), at) })
        }
        #[inline(always)]
        unsafe fn store_half(self, at: *mut bf16, lanes: usize) {
            // SAFETY: as above.
            unsafe { Wide::store(at, mask(lanes), self.0) }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see the type.
            Zmm(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        fn fma(self, x: Self, y: Self) -> Self {
            // SAFETY: see the type.
            Zmm(unsafe { _mm512_fmadd_ps(self.0, x.0, y.0) })
        }
        #[inline(always)]
        fn add(self, x: Self) -> Self {
            // SAFETY: see the type.
            Zmm(unsafe { _mm512_add_ps(self.0, x.0) })
        }
        #[inline(always)]
        fn sub(self, x: Self) -> Self {
            // SAFETY: see the type.
            Zmm(unsafe { _mm512_sub_ps(self.0, x.0) })
        }
        #[inline(always)]
        fn mul(self, x: Self) -> Self {
            // SAFETY: see the type.
            Zmm(unsafe { _mm512_mul_ps(self.0, x.0) })
        }
    }
}

/// A loop over lines.
pub(super) trait Op {
    /// # Safety
    /// The operands were checked, and the functions of `L` may be called on this processor.
    unsafe fn run<L: Line>(self);
}

struct Plain<O>(O);

impl<O: Op> Work for Plain<O> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        // SAFETY: `dispatch` is called with checked operands; portable lines need no instruction set.
        unsafe { self.0.run::<Portable>() }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn run_wide<O: Op>(op: O) {
    // SAFETY: the caller's promise; this function enables what `Zmm` needs.
    unsafe { op.run::<wide::Zmm>() }
}

/// Runs a checked loop.
#[inline]
pub(super) fn dispatch<O: Op>(isa: Isa, op: O) {
    match isa.usable() {
        // SAFETY: `usable` says that the processor has the features; the callers check the operands.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { run_wide(op) },
        _ => Tier::new(isa).run(Plain(op)),
    }
}

struct Convert<'a, E, F> {
    src: &'a [E],
    dst: &'a mut [F],
}

impl<E: Cell, F: Cell> Op for Convert<'_, E, F> {
    #[inline(always)]
    unsafe fn run<L: Line>(self) {
        let len = self.dst.len();
        for at in (0..len).step_by(LANES) {
            let lanes = LANES.min(len - at);
            // SAFETY: `convert` checked that the slices have one length.
            unsafe { F::write(E::read::<L>(self.src.as_ptr().add(at), lanes), self.dst.as_mut_ptr().add(at), lanes) };
        }
    }
}

/// Copies elements from one type to another.
pub(crate) fn convert<E: Cell, F: Cell>(isa: Isa, src: &[E], dst: &mut [F]) {
    assert_eq!(src.len(), dst.len(), "a conversion keeps its length");
    dispatch(isa, Convert { src, dst });
}
