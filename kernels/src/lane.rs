//! Element types of the generic kernels: how each is stored, and the type that it is computed in.
//!
//! 8- and 16-bit floats are stored narrow and computed in f32; every other type is computed as itself.

use bytemuck::{Pod, Zeroable};
use girih_ir::float::{e4m3_value, to_bits};
use girih_ir::scalar::{Monoid, Wide};
use girih_ir::types::DType;
use half::{bf16, f16};

/// A `bool` element: one byte, 0 or 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Truth(pub u8);

/// An 8-bit float with 4 exponent bits.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

/// An 8-bit float with 5 exponent bits.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E5M2(pub u8);

impl PartialEq for F8E4M3 {
    fn eq(&self, other: &Self) -> bool {
        self.widen() == other.widen()
    }
}

impl PartialEq for F8E5M2 {
    fn eq(&self, other: &Self) -> bool {
        self.widen() == other.widen()
    }
}

/// A type that is computed with.
pub trait Value: Lane<Value = Self> + PartialOrd {
    /// `f(a, b)` of a combiner. Max and min let NaN win and order −0 below +0.
    fn combine(monoid: Monoid, a: Self, b: Self) -> Self;
    /// The neutral element of a combiner.
    fn identity(monoid: Monoid) -> Self;
    /// From a wide value.
    fn from_wide(v: Wide) -> Self;
    /// From an index or another integer; wraps.
    fn from_i64(v: i64) -> Self;
    /// As f64.
    fn to_f64(self) -> f64;
    /// As an integer; floats truncate and saturate, u64 by its bit pattern.
    fn to_i64(self) -> i64;
    /// Whether it is NaN.
    fn is_nan(self) -> bool;
}

/// A type that is stored.
pub trait Lane: Pod + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// Its element type.
    const DTYPE: DType;
    /// Whether this is f32, whose loops are compiled for every instruction set; the others make do with two.
    const HOT: bool = false;
    /// What it is computed in.
    type Value: Value;
    /// Reads.
    fn widen(self) -> Self::Value;
    /// Writes; rounds to nearest, ties to even.
    fn narrow(v: Self::Value) -> Self;
}

macro_rules! float_value {
    ($t:ident, $dtype:ident, $hot:literal) => {
        impl Lane for $t {
            const DTYPE: DType = DType::$dtype;
            const HOT: bool = $hot;
            type Value = $t;
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(v: $t) -> $t {
                v
            }
        }
        impl Value for $t {
            #[inline(always)]
            fn combine(monoid: Monoid, a: $t, b: $t) -> $t {
                match monoid {
                    Monoid::Sum => a + b,
                    Monoid::Prod => a * b,
                    Monoid::Max => {
                        let tie = <$t>::from_bits(a.to_bits() & b.to_bits());
                        let other = if a == b { tie } else { <$t>::NAN };
                        let other = if b > a { b } else { other };
                        if a > b { a } else { other }
                    }
                    Monoid::Min => {
                        let tie = <$t>::from_bits(a.to_bits() | b.to_bits());
                        let other = if a == b { tie } else { <$t>::NAN };
                        let other = if b < a { b } else { other };
                        if a < b { a } else { other }
                    }
                    Monoid::And | Monoid::Or | Monoid::Xor => <$t>::NAN,
                }
            }
            fn identity(monoid: Monoid) -> $t {
                monoid.identity(DType::$dtype).float() as $t
            }
            fn from_wide(v: Wide) -> $t {
                v.float() as $t
            }
            #[inline(always)]
            fn from_i64(v: i64) -> $t {
                v as f64 as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as i64
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
        }
    };
}

float_value!(f32, F32, true);
float_value!(f64, F64, false);

macro_rules! int_value {
    ($($t:ident $dtype:ident;)*) => {$(
        impl Lane for $t {
            const DTYPE: DType = DType::$dtype;
            type Value = $t;
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(v: $t) -> $t {
                v
            }
        }
        impl Value for $t {
            #[inline(always)]
            fn combine(monoid: Monoid, a: $t, b: $t) -> $t {
                match monoid {
                    Monoid::Sum => a.wrapping_add(b),
                    Monoid::Prod => a.wrapping_mul(b),
                    Monoid::Max => a.max(b),
                    Monoid::Min => a.min(b),
                    Monoid::And => a & b,
                    Monoid::Or => a | b,
                    Monoid::Xor => a ^ b,
                }
            }
            fn identity(monoid: Monoid) -> $t {
                monoid.identity(DType::$dtype).int() as $t
            }
            fn from_wide(v: Wide) -> $t {
                v.int() as $t
            }
            #[inline(always)]
            fn from_i64(v: i64) -> $t {
                v as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as i64
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                false
            }
        }
    )*};
}

int_value! { i8 I8; u8 U8; i16 I16; u16 U16; i32 I32; u32 U32; i64 I64; u64 U64; }

impl Lane for Truth {
    const DTYPE: DType = DType::Bool;
    type Value = Truth;
    #[inline(always)]
    fn widen(self) -> Truth {
        self
    }
    #[inline(always)]
    fn narrow(v: Truth) -> Truth {
        v
    }
}

impl Value for Truth {
    #[inline(always)]
    fn combine(monoid: Monoid, a: Truth, b: Truth) -> Truth {
        Truth(match monoid {
            Monoid::Sum | Monoid::Or | Monoid::Max => a.0 | b.0,
            Monoid::Prod | Monoid::And | Monoid::Min => a.0 & b.0,
            Monoid::Xor => a.0 ^ b.0,
        })
    }
    fn identity(monoid: Monoid) -> Truth {
        Truth(monoid.identity(DType::Bool).int() as u8)
    }
    fn from_wide(v: Wide) -> Truth {
        Truth(u8::from(v.int() != 0))
    }
    #[inline(always)]
    fn from_i64(v: i64) -> Truth {
        Truth(u8::from(v != 0))
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self.0)
    }
    #[inline(always)]
    fn to_i64(self) -> i64 {
        i64::from(self.0)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        false
    }
}

impl Lane for bf16 {
    const DTYPE: DType = DType::BF16;
    type Value = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(v: f32) -> bf16 {
        bf16::from_bits((round_bf16(v).to_bits() >> 16) as u16)
    }
}

impl Lane for f16 {
    const DTYPE: DType = DType::F16;
    type Value = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(v: f32) -> f16 {
        f16::from_f32(v)
    }
}

impl Lane for F8E4M3 {
    const DTYPE: DType = DType::F8E4M3FN;
    type Value = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        e4m3_value(self.0)
    }
    #[inline(always)]
    fn narrow(v: f32) -> F8E4M3 {
        F8E4M3(to_bits(DType::F8E4M3FN, f64::from(v)) as u8)
    }
}

impl Lane for F8E5M2 {
    const DTYPE: DType = DType::F8E5M2;
    type Value = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        f16::from_bits(u16::from(self.0) << 8).to_f32()
    }
    #[inline(always)]
    fn narrow(v: f32) -> F8E5M2 {
        F8E5M2(to_bits(DType::F8E5M2, f64::from(v)) as u8)
    }
}

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_bf16(v: f32) -> f32 {
    let b = v.to_bits();
    let rounded = b.wrapping_add(0x7fff + ((b >> 16) & 1)) & 0xffff_0000;
    let quiet = (b | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if v.is_nan() { quiet } else { rounded })
}

/// Rounds to the nearest binary16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_f16(v: f32) -> f32 {
    let b = v.to_bits();
    let (sign, a) = (b & 0x8000_0000, f32::from_bits(b & 0x7fff_ffff));
    let normal = f32::from_bits(a.to_bits().wrapping_add(0xfff + ((b >> 13) & 1)) & !0x1fff);
    // Below 2⁻¹⁴ the spacing is 2⁻²⁴, that of f32 in [0.5, 1).
    let small = (a + 0.5) - 0.5;
    let r = if a < 6.103_515_6e-5 { small } else { normal };
    let r = if r >= 65536.0 { f32::INFINITY } else { r };
    let r = if v.is_nan() { f32::NAN } else { r };
    f32::from_bits(r.to_bits() | sign)
}

/// Runs `$body` with `$t` bound to the storage type of a `DType`.
macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {{
        use girih_ir::types::DType as D;
        match $dtype {
            D::F32 => {
                type $t = f32;
                $body
            }
            D::BF16 => {
                type $t = half::bf16;
                $body
            }
            D::F16 => {
                type $t = half::f16;
                $body
            }
            D::F64 => {
                type $t = f64;
                $body
            }
            D::I8 => {
                type $t = i8;
                $body
            }
            D::U8 => {
                type $t = u8;
                $body
            }
            D::I16 => {
                type $t = i16;
                $body
            }
            D::U16 => {
                type $t = u16;
                $body
            }
            D::I32 => {
                type $t = i32;
                $body
            }
            D::U32 => {
                type $t = u32;
                $body
            }
            D::I64 => {
                type $t = i64;
                $body
            }
            D::U64 => {
                type $t = u64;
                $body
            }
            D::Bool => {
                type $t = crate::lane::Truth;
                $body
            }
            D::F8E4M3FN => {
                type $t = crate::lane::F8E4M3;
                $body
            }
            D::F8E5M2 => {
                type $t = crate::lane::F8E5M2;
                $body
            }
        }
    }};
}

/// Runs `$body` with `$t` bound to the type that a `DType` is computed in.
macro_rules! by_value {
    ($dtype:expr, $t:ident => $body:expr) => {{
        use girih_ir::types::DType as D;
        match $dtype {
            D::F32 | D::BF16 | D::F16 | D::F8E4M3FN | D::F8E5M2 => {
                type $t = f32;
                $body
            }
            D::F64 => {
                type $t = f64;
                $body
            }
            D::I8 => {
                type $t = i8;
                $body
            }
            D::U8 => {
                type $t = u8;
                $body
            }
            D::I16 => {
                type $t = i16;
                $body
            }
            D::U16 => {
                type $t = u16;
                $body
            }
            D::I32 => {
                type $t = i32;
                $body
            }
            D::U32 => {
                type $t = u32;
                $body
            }
            D::I64 => {
                type $t = i64;
                $body
            }
            D::U64 => {
                type $t = u64;
                $body
            }
            D::Bool => {
                type $t = crate::lane::Truth;
                $body
            }
        }
    }};
}

pub(crate) use by_dtype;
pub(crate) use by_value;

/// Runs `$body` with `$f` bound to the combiner of a monoid as its own closure, so that each loop is compiled for one combiner.
macro_rules! by_monoid {
    ($monoid:expr, $v:ty, $f:ident => $body:expr) => {{
        use girih_ir::scalar::Monoid as M;
        match $monoid {
            M::Sum => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::Sum, a, b);
                $body
            }
            M::Prod => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::Prod, a, b);
                $body
            }
            M::Max => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::Max, a, b);
                $body
            }
            M::Min => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::Min, a, b);
                $body
            }
            M::And => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::And, a, b);
                $body
            }
            M::Or => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::Or, a, b);
                $body
            }
            M::Xor => {
                let $f = |a: $v, b: $v| <$v as crate::lane::Value>::combine(M::Xor, a, b);
                $body
            }
        }
    }};
}

pub(crate) use by_monoid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bit_rounding_is_that_of_the_conversion() {
        let mut bits = 0u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for v in [f32::from_bits(bits), (bits as f32 / 4e9 - 0.5) * 2e-4, (bits as f32 / 4e9) * 70_000.0] {
                let (b, h) = (round_bf16(v), round_f16(v));
                if v.is_nan() {
                    assert!(b.is_nan() && h.is_nan());
                } else {
                    assert_eq!(b.to_bits(), bf16::from_f32(v).to_f32().to_bits(), "{v:e}");
                    assert_eq!(h.to_bits(), f16::from_f32(v).to_f32().to_bits(), "{v:e}");
                    assert_eq!(<bf16 as Lane>::narrow(v).to_bits(), bf16::from_f32(v).to_bits());
                }
            }
        }
    }
}
