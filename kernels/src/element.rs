//! Element types that the portable kernels know, with the type each accumulates in.

use crate::lane::{F8E4M3, F8E5M2, Lane};
use half::{bf16, f16};

/// An element of a portable kernel. Integers wrap; 8- and 16-bit floats accumulate in f32.
pub trait Element: Copy + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// What sums are kept in.
    type Sum: Copy + Send + Sync;
    /// The sum of no terms.
    const ZERO: Self::Sum;
    /// `sum + a · b`, fused for floats.
    fn mul_add(a: Self, b: Self, sum: Self::Sum) -> Self::Sum;
    /// Sum of two sums.
    fn add(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    /// `alpha · sum`; integers take `alpha` rounded toward zero.
    fn scale(alpha: f32, sum: Self::Sum) -> Self::Sum;
    /// Reads an element back into a sum.
    fn widen(self) -> Self::Sum;
    /// Rounds a sum to an element.
    fn round(sum: Self::Sum) -> Self;
}

macro_rules! float {
    ($($t:ty, $sum:ty, $widen:expr, $round:expr;)*) => {$(
        impl Element for $t {
            type Sum = $sum;
            const ZERO: $sum = 0.0;
            fn mul_add(a: Self, b: Self, sum: $sum) -> $sum {
                let widen: fn($t) -> $sum = $widen;
                widen(a).mul_add(widen(b), sum)
            }
            fn add(a: $sum, b: $sum) -> $sum {
                a + b
            }
            fn scale(alpha: f32, sum: $sum) -> $sum {
                <$sum>::from(alpha) * sum
            }
            fn widen(self) -> $sum {
                let widen: fn($t) -> $sum = $widen;
                widen(self)
            }
            fn round(sum: $sum) -> Self {
                let round: fn($sum) -> $t = $round;
                round(sum)
            }
        }
    )*};
}

float! {
    f32, f32, |x| x, |x| x;
    f64, f64, |x| x, |x| x;
    bf16, f32, bf16::to_f32, bf16::from_f32;
    f16, f32, f16::to_f32, f16::from_f32;
    F8E4M3, f32, Lane::widen, Lane::narrow;
    F8E5M2, f32, Lane::widen, Lane::narrow;
}

macro_rules! integer {
    ($($t:ty)*) => {$(
        impl Element for $t {
            type Sum = $t;
            const ZERO: $t = 0;
            fn mul_add(a: Self, b: Self, sum: $t) -> $t {
                sum.wrapping_add(a.wrapping_mul(b))
            }
            fn add(a: $t, b: $t) -> $t {
                a.wrapping_add(b)
            }
            fn scale(alpha: f32, sum: $t) -> $t {
                sum.wrapping_mul(alpha as $t)
            }
            fn widen(self) -> $t {
                self
            }
            fn round(sum: $t) -> Self {
                sum
            }
        }
    )*};
}

integer! { i8 u8 i16 u16 i32 u32 i64 u64 }
