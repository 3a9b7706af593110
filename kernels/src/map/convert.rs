//! Conversion between the types that the engine computes in.

use super::compile::{raw, unraw, value_type};
use super::loops::{each, each_narrow};
use crate::arch::tier::Tier;
use crate::lane::{Lane, Truth, Value, by_dtype, by_value, round_bf16, round_f16};
use girih_ir::float::{int_to_float, round_float};
use girih_ir::types::DType;

/// Conversion by StableHLO's rules: float to int truncates and saturates, int to int wraps, anything to bool is `≠ 0`.
pub(super) trait Cast<U> {
    fn cast(self) -> U;
}

macro_rules! casts {
    ($($from:ident: $($to:ident)*;)*) => {$($(
        impl Cast<$to> for $from {
            #[inline(always)]
            fn cast(self) -> $to {
                self as $to
            }
        }
    )*)*};
}

casts! {
    f32: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    f64: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    i8: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    u8: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    i16: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    u16: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    i32: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    u32: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    i64: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
    u64: f32 f64 i8 u8 i16 u16 i32 u32 i64 u64;
}

macro_rules! truths {
    ($($t:ident $zero:literal;)*) => {$(
        impl Cast<Truth> for $t {
            #[inline(always)]
            fn cast(self) -> Truth {
                Truth(u8::from(self != $zero))
            }
        }
        impl Cast<$t> for Truth {
            #[inline(always)]
            fn cast(self) -> $t {
                self.0 as $t
            }
        }
    )*};
}

truths! { f32 0.0; f64 0.0; i8 0; u8 0; i16 0; u16 0; i32 0; u32 0; i64 0; u64 0; }

impl Cast<Truth> for Truth {
    #[inline(always)]
    fn cast(self) -> Truth {
        self
    }
}

/// Converts a block of type `from` to type `to`; `dst` holds elements of the type that `to` is computed in.
pub(super) fn convert(tier: Tier, to: DType, dst: &mut [u8], a: ConvertFrom<'_>) {
    by_value!(a.dtype, T => {
        let a: &[T] = a.elements();
        if value_type(to) != to && size_of::<T>() >= 4 && T::DTYPE != DType::F32 {
            // From wider types a detour over f32 would round twice.
            let dst: &mut [f32] = bytemuck::cast_slice_mut(&mut *dst);
            return dst.iter_mut().zip(a).for_each(|(d, a)| *d = wide(to, *a) as f32);
        }
        by_value!(to, U => {
            let dst: &mut [U] = bytemuck::cast_slice_mut(&mut *dst);
            if <T as Lane>::HOT || <U as Lane>::HOT { each(tier, dst, a, Cast::<U>::cast) } else { each_narrow(tier, dst, a, Cast::<U>::cast) }
        })
    });
    round_block(tier, to, dst);
}

/// Rounds once to a narrow float type.
fn wide<T: Value>(to: DType, a: T) -> f64 {
    if T::DTYPE.is_float() { round_float(to, a.to_f64()) } else { int_to_float(to, a.to_i64(), T::DTYPE == DType::U64) }
}

/// Gives the bits of a block another type of the same size. `dst` holds elements of the type that `to` is computed in.
pub(super) fn bitcast(to: DType, dst: &mut [u8], a: ConvertFrom<'_>, from: DType) {
    if value_type(to) == to && value_type(from) == from {
        return dst.copy_from_slice(a.bytes);
    }
    let mut bits = [0u64; 64];
    let (from_size, to_size) = (value_type(from).size(), value_type(to).size());
    for (dst, a) in dst.chunks_mut(to_size * bits.len()).zip(a.bytes.chunks(from_size * bits.len())) {
        by_dtype!(from, L => {
            let values = a.chunks_exact(from_size).map(bytemuck::pod_read_unaligned::<<L as Lane>::Value>);
            bits.iter_mut().zip(values).for_each(|(b, v)| *b = raw(L::narrow(v)));
        });
        by_dtype!(to, L => {
            let values = dst.chunks_exact_mut(to_size).zip(&bits);
            values.for_each(|(d, b)| d.copy_from_slice(bytemuck::bytes_of(&unraw::<L>(*b).widen())));
        });
    }
}

/// A block of elements of a type that is known at run time only.
#[derive(Clone, Copy)]
pub(super) struct ConvertFrom<'a> {
    pub(super) dtype: DType,
    pub(super) bytes: &'a [u8],
}

impl<'a> ConvertFrom<'a> {
    fn elements<T: bytemuck::Pod>(&self) -> &'a [T] {
        bytemuck::cast_slice(self.bytes)
    }
}

/// Rounds a block of f32 to the narrow float type it stands for; does nothing for other types.
pub(super) fn round_block(tier: Tier, dtype: DType, dst: &mut [u8]) {
    use crate::arch::tier::Work;
    struct Round<'a, F>(&'a mut [f32], F);
    impl<F: Fn(f32) -> f32> Work for Round<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run(self) {
            self.0.iter_mut().for_each(|x| *x = (self.1)(*x));
        }
    }
    match dtype {
        DType::BF16 => tier.run(Round(bytemuck::cast_slice_mut(dst), round_bf16)),
        DType::F16 => tier.run(Round(bytemuck::cast_slice_mut(dst), round_f16)),
        DType::F8E4M3FN | DType::F8E5M2 => Round(bytemuck::cast_slice_mut(dst), |v| round_float(dtype, f64::from(v)) as f32).run(),
        _ => {}
    }
}
