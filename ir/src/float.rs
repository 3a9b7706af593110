//! Float formats: rounding a wide value to an element type, and the bits of its elements.
//!
//! The interpreter computes in f64 and rounds once, so the rounding here is exact: to nearest, ties to even, from all 53 bits.

use crate::types::DType;
use half::{bf16, f16};

/// A narrow binary format.
struct Format {
    /// Explicit mantissa bits.
    mantissa: i32,
    /// Exponent of the smallest normal number.
    low: i32,
    /// Largest finite number.
    most: f64,
    /// Whether what is larger becomes infinite instead of NaN.
    infinite: bool,
}

fn format(dtype: DType) -> Option<Format> {
    Some(match dtype {
        DType::BF16 => Format { mantissa: 7, low: -126, most: 3.389_531_389_251_535_5e38, infinite: true },
        DType::F16 => Format { mantissa: 10, low: -14, most: 65504.0, infinite: true },
        DType::F8E4M3FN => Format { mantissa: 3, low: -6, most: 448.0, infinite: false },
        DType::F8E5M2 => Format { mantissa: 2, low: -14, most: 57344.0, infinite: true },
        _ => return None,
    })
}

/// 2ⁿ for a normal result.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// ⌊log₂|v|⌋ of a normal number; −1023 of zero and subnormal numbers.
fn exponent(v: f64) -> i32 {
    (v.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

/// Rounds a wide float to an element type (to nearest, ties to even).
pub fn round_float(dtype: DType, v: f64) -> f64 {
    if dtype == DType::F32 {
        return v as f32 as f64;
    }
    let Some(f) = format(dtype) else { return v };
    if !v.is_finite() {
        return if f.infinite { v } else { f64::NAN.copysign(v) };
    }
    // The distance of neighboring numbers is a power of two, so scaling by it is exact.
    let step = exponent(v).max(f.low) - f.mantissa;
    let r = (v * power_of_two(-step)).round_ties_even() * power_of_two(step);
    match (r.abs() > f.most, f.infinite) {
        (false, _) => r.copysign(v),
        (true, true) => f64::INFINITY.copysign(v),
        (true, false) => f64::NAN.copysign(v),
    }
}

/// Converts an integer to a float type, rounding once; `unsigned` says that `v` is a u64 by its bit pattern.
pub fn int_to_float(dtype: DType, v: i64, unsigned: bool) -> f64 {
    let negative = v < 0 && !unsigned;
    let m = if negative { v.unsigned_abs() } else { v as u64 };
    if dtype == DType::F64 {
        return if negative { -(m as f64) } else { m as f64 };
    }
    // What does not fit into f64 is cut off, but remembered in the last bit ("round to odd"): every narrower type then rounds right.
    let extra = (64 - m.leading_zeros()).saturating_sub(53);
    let sticky = u64::from(extra > 0 && m & ((1 << extra) - 1) != 0);
    let wide = (((m >> extra) | sticky) << extra) as f64;
    round_float(dtype, if negative { -wide } else { wide })
}

/// The bits of an element, in the low bits. `v` is a number of the type.
pub fn to_bits(dtype: DType, v: f64) -> u64 {
    match dtype {
        DType::F32 => u64::from((v as f32).to_bits()),
        DType::BF16 => u64::from(bf16::from_f64(v).to_bits()),
        DType::F16 => u64::from(f16::from_f64(v).to_bits()),
        DType::F8E5M2 => u64::from(f16::from_f64(round_float(dtype, v)).to_bits() >> 8),
        DType::F8E4M3FN => u64::from(e4m3_bits(round_float(dtype, v))),
        _ => v.to_bits(),
    }
}

/// The element of those bits.
pub fn from_bits(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::BF16 => bf16::from_bits(bits as u16).to_f64(),
        DType::F16 => f16::from_bits(bits as u16).to_f64(),
        DType::F8E5M2 => f16::from_bits((bits as u16) << 8).to_f64(),
        DType::F8E4M3FN => f64::from(e4m3_value(bits as u8)),
        _ => f64::from_bits(bits),
    }
}

/// The value of an `E4M3FN` element.
pub fn e4m3_value(bits: u8) -> f32 {
    let (e, m) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let v = match (e, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => m / 512.0,
        _ => f32::from_bits(((e + 120) as u32) << 23) * (1.0 + m / 8.0),
    };
    if bits & 0x80 != 0 { -v } else { v }
}

fn e4m3_bits(v: f64) -> u8 {
    let sign = if v.is_sign_negative() { 0x80 } else { 0 };
    let a = v.abs();
    if a.is_nan() {
        return sign | 0x7f;
    }
    let e = exponent(a);
    if e < -6 {
        return sign | (a * 512.0) as u8;
    }
    sign | ((e + 7) as u8) << 3 | ((a * power_of_two(-e) - 1.0) * 8.0) as u8
}

/// The neighbor of `a` in its type in the direction of `b`.
pub fn next_after(dtype: DType, a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    if a == b {
        return b;
    }
    if a == 0.0 {
        return from_bits(dtype, 1).copysign(b);
    }
    let bits = to_bits(dtype, a);
    from_bits(dtype, if (b > a) == (a > 0.0) { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: [DType; 4] = [DType::BF16, DType::F16, DType::F8E4M3FN, DType::F8E5M2];

    #[test]
    fn every_bit_pattern_survives_and_every_middle_goes_to_even() {
        for dtype in NARROW {
            let count = 1u64 << (8 * dtype.size());
            for bits in 0..count {
                let v = from_bits(dtype, bits);
                if v.is_nan() {
                    assert!(from_bits(dtype, to_bits(dtype, v)).is_nan());
                    continue;
                }
                assert_eq!((to_bits(dtype, v), round_float(dtype, v).to_bits()), (bits, v.to_bits()), "{dtype} {bits:#x}");
                let next = from_bits(dtype, bits + 1);
                if bits & (count / 2) != 0 || !next.is_finite() {
                    continue;
                }
                let middle = (v + next) / 2.0;
                assert_eq!(to_bits(dtype, round_float(dtype, middle)), bits + (bits & 1), "{dtype} {middle}");
                let below = f64::from_bits(middle.to_bits() - 1);
                let above = f64::from_bits(middle.to_bits() + 1);
                assert_eq!((round_float(dtype, below), round_float(dtype, above)), (v, next), "{dtype} {middle}");
                assert_eq!((next_after(dtype, v, 1e300), next_after(dtype, next, -1.0)), (next, v), "{dtype} {bits:#x}");
            }
        }
    }

    #[test]
    fn too_large_is_infinite_or_nan_by_the_format() {
        assert_eq!(round_float(DType::F8E4M3FN, 464.0), 448.0);
        assert!(round_float(DType::F8E4M3FN, 464.1).is_nan() && round_float(DType::F8E4M3FN, f64::NEG_INFINITY).is_nan());
        assert_eq!(round_float(DType::F8E5M2, 61439.9), 57344.0);
        assert_eq!(round_float(DType::F8E5M2, -61440.0), f64::NEG_INFINITY);
        assert_eq!(round_float(DType::F16, 65520.0), f64::INFINITY);
        assert_eq!(round_float(DType::BF16, 3.4e38), f64::INFINITY);
    }

    #[test]
    fn integers_are_rounded_once() {
        // Half-way in f32 but for a bit that f64 cannot hold.
        let v = (1 << 62) + (1 << 38) + 1;
        assert_eq!(int_to_float(DType::F32, v, false), (v as f32) as f64);
        assert_eq!(int_to_float(DType::F32, -v, false), -((v as f32) as f64));
        assert_eq!(int_to_float(DType::F32, -1, true), u64::MAX as f32 as f64);
        assert_eq!(int_to_float(DType::F64, -1, true), u64::MAX as f64);
        assert_eq!(int_to_float(DType::F16, 70000, false), f64::INFINITY);
        for v in [i64::MIN, i64::MAX, 0, -1, 3 << 40, (1 << 53) + 1] {
            assert_eq!((int_to_float(DType::F32, v, false), int_to_float(DType::F64, v, false)), (v as f32 as f64, v as f64));
        }
    }
}
