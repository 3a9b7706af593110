//! Floating-point formats of eight bits and fewer, of which most are no element types of the IR.
//!
//! Every number of such a format is a number of f32 as well, so that a tensor of them can be carried in f32 and rounded where a result may
//! leave the format. Layouts and special values are those of the formats' names in StableHLO: `E` exponent and `M` mantissa bits; `FN` has
//! no infinity, `FNUZ` has one NaN in the place of negative zero besides, `B11` is a bias, and `f8E8M0FNU` holds powers of two.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a format does with exponents that are all ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Top {
    /// Infinity and NaN as in IEEE 754.
    Ieee,
    /// Only the pattern of all ones is NaN; no infinity.
    Finite,
    /// NaN is the pattern of negative zero; no infinity.
    NegativeZero,
    /// Numbers only.
    Numbers,
    /// Powers of two only, and NaN as all ones: no sign, no zero, no infinity.
    Powers,
}

/// What becomes of a value that is beyond the largest number of a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// Infinity.
    Infinite,
    /// NaN.
    Nan,
    /// The largest number. NaN, which such a format has not either, becomes −0.
    Largest,
}

struct Layout {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    top: Top,
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $exponent:literal, $mantissa:literal, $bias:literal, $top:ident;)*) => {
        /// A format of at most eight bits.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum SmallFloat { $($(#[$doc])* $name),* }

        impl SmallFloat {
            /// All formats.
            pub const ALL: &'static [SmallFloat] = &[$(SmallFloat::$name),*];

            /// The name in StableHLO.
            pub fn name(self) -> &'static str {
                match self { $(SmallFloat::$name => $text),* }
            }

            fn layout(self) -> Layout {
                match self {
                    $(SmallFloat::$name => Layout { exponent: $exponent, mantissa: $mantissa, bias: $bias, top: Top::$top }),*
                }
            }
        }
    };
}

formats! {
    /// 0, 0.5, 1, 1.5, 2, 3, 4 and 6.
    F4E2M1FN = "f4E2M1FN", 2, 1, 1, Numbers;
    /// Up to 7.5.
    F6E2M3FN = "f6E2M3FN", 2, 3, 1, Numbers;
    /// Up to 28.
    F6E3M2FN = "f6E3M2FN", 3, 2, 3, Numbers;
    /// As IEEE 754 would have it.
    F8E3M4 = "f8E3M4", 3, 4, 3, Ieee;
    /// As IEEE 754 would have it.
    F8E4M3 = "f8E4M3", 4, 3, 7, Ieee;
    /// Up to 448.
    F8E4M3FN = "f8E4M3FN", 4, 3, 7, Finite;
    /// Up to 240.
    F8E4M3FNUZ = "f8E4M3FNUZ", 4, 3, 8, NegativeZero;
    /// Up to 30.
    F8E4M3B11FNUZ = "f8E4M3B11FNUZ", 4, 3, 11, NegativeZero;
    /// As IEEE 754 would have it.
    F8E5M2 = "f8E5M2", 5, 2, 15, Ieee;
    /// Up to 57344.
    F8E5M2FNUZ = "f8E5M2FNUZ", 5, 2, 16, NegativeZero;
    /// Powers of two: scales of blocks.
    F8E8M0FNU = "f8E8M0FNU", 8, 0, 127, Powers;
}

impl SmallFloat {
    /// The format of that name; the case of its letters does not matter.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name))
    }

    /// Bits of an element.
    pub fn bits(self) -> u32 {
        let l = self.layout();
        u32::from(self.is_signed()) + l.exponent + l.mantissa
    }

    /// Explicit mantissa bits.
    pub fn mantissa(self) -> u32 {
        self.layout().mantissa
    }

    /// The exponent from which on a step down halves the distance of neighbors: below its power of two they are evenly spaced.
    pub fn low_exponent(self) -> i32 {
        let l = self.layout();
        // The powers of two begin one lower, but this one is a normal number of f32.
        1 - l.bias
    }

    /// Whether there are negative numbers.
    pub fn is_signed(self) -> bool {
        self.layout().top != Top::Powers
    }

    /// Whether −0 is another number than 0.
    pub fn has_negative_zero(self) -> bool {
        !matches!(self.layout().top, Top::NegativeZero | Top::Powers)
    }

    /// What becomes of a value that is beyond the largest number.
    pub fn overflow(self) -> Overflow {
        match self.layout().top {
            Top::Ieee => Overflow::Infinite,
            Top::Finite | Top::NegativeZero | Top::Powers => Overflow::Nan,
            Top::Numbers => Overflow::Largest,
        }
    }

    /// The largest number.
    pub fn largest(self) -> f64 {
        self.decode(self.largest_pattern())
    }

    /// The smallest positive number.
    pub fn smallest(self) -> f64 {
        if self.is_signed() { self.decode(1) } else { self.decode(0) }
    }

    fn largest_pattern(self) -> u8 {
        let l = self.layout();
        let all = (1u32 << (l.exponent + l.mantissa)) - 1;
        let pattern = match l.top {
            Top::Ieee => (all >> l.mantissa << l.mantissa) - 1,
            Top::Finite | Top::Powers => all - 1,
            Top::NegativeZero | Top::Numbers => all,
        };
        pattern as u8
    }

    /// The nearest number, ties to an even mantissa. What is too large becomes as [`overflow`](Self::overflow) says.
    /// NaN becomes −0 where there is none. In `f8E8M0FNU` zero and negative values become NaN.
    pub fn round(self, value: f64) -> f64 {
        self.decode(self.encode(value))
    }

    /// The bits of the nearest number, in the low bits; see [`round`](Self::round).
    pub fn encode(self, value: f64) -> u8 {
        let l = self.layout();
        if l.top == Top::Powers {
            return power_of_two(value);
        }
        let sign = 1u32 << (l.exponent + l.mantissa);
        let all = sign - 1;
        let top = all >> l.mantissa << l.mantissa;
        let own = if value.is_sign_negative() { sign } else { 0 };
        let over = match l.top {
            Top::Ieee => top | own,
            Top::NegativeZero => sign,
            _ => all | own,
        };
        let bits = match magnitude(&l, value.abs(), u32::from(self.largest_pattern())) {
            _ if value.is_nan() && l.top == Top::Numbers => sign,
            _ if value.is_nan() && l.top == Top::Ieee => top | 1 << (l.mantissa - 1) | own,
            None => over,
            Some(0) if l.top == Top::NegativeZero => 0,
            Some(bits) => bits | own,
        };
        bits as u8
    }

    /// The number of these bits; those above the element do not count.
    pub fn decode(self, bits: u8) -> f64 {
        let l = self.layout();
        let power = |e: i32| f64::from_bits(((e + 1023) as u64) << 52);
        if l.top == Top::Powers {
            return if bits == 255 { f64::NAN } else { power(i32::from(bits) - l.bias) };
        }
        let sign = 1u32 << (l.exponent + l.mantissa);
        let bits = u32::from(bits) & (2 * sign - 1);
        let (negative, pattern) = (bits & sign != 0, bits & (sign - 1));
        let (e, m) = (pattern >> l.mantissa, pattern & ((1 << l.mantissa) - 1));
        let ones = e == (1 << l.exponent) - 1;
        let v = match l.top {
            Top::Ieee if ones && m == 0 => f64::INFINITY,
            Top::Ieee if ones => f64::NAN,
            Top::Finite if pattern == sign - 1 => f64::NAN,
            Top::NegativeZero if bits == sign => f64::NAN,
            _ => {
                let units = if e == 0 { m } else { m + (1 << l.mantissa) };
                f64::from(units) * power(e.max(1) as i32 - l.bias - l.mantissa as i32)
            }
        };
        if negative { -v } else { v }
    }
}

/// The pattern of a magnitude; nothing when it is NaN or beyond the largest number.
fn magnitude(l: &Layout, value: f64, largest: u32) -> Option<u32> {
    if value == 0.0 {
        return Some(0);
    }
    if !value.is_finite() {
        return None;
    }
    let own = (value.to_bits() >> 52 & 0x7FF) as i32 - 1023;
    let exponent = own.max(1 - l.bias);
    // In units of the last place; a scale by a power of two is exact here.
    let units = (value * 2f64.powi(l.mantissa as i32 - exponent)).round_ties_even();
    let step = f64::from(1u32 << l.mantissa);
    let biased = if units < step { 0.0 } else { f64::from(exponent + l.bias - 1) };
    let pattern = biased * step + units;
    (pattern <= f64::from(largest)).then_some(pattern as u32)
}

/// The pattern of the power of two nearest to a value; 255 is NaN. The middle of two goes up, since one is odd and two is even.
fn power_of_two(value: f64) -> u8 {
    if !value.is_finite() || value <= 0.0 {
        return 255;
    }
    let (exponent, half) = ((value.to_bits() >> 52 & 0x7FF) as i32 - 1023, value.to_bits() >> 51 & 1);
    (exponent + half as i32 + 127).clamp(0, 255) as u8
}

impl fmt::Display for SmallFloat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::{from_bits, round_float};
    use crate::types::DType;

    fn encode(name: &str, value: f64) -> u8 {
        SmallFloat::from_name(name).unwrap().encode(value)
    }

    #[test]
    fn known_patterns() {
        for (name, value, bits) in [
            ("f8E4M3FN", 1.0, 0x38),
            ("f8E4M3FN", -448.0, 0xFE),
            ("f8E4M3FN", 0.001953125, 0x01),
            ("f8E4M3FN", f64::NAN, 0x7F),
            ("f8E5M2", 1.0, 0x3C),
            ("f8E5M2", f64::INFINITY, 0x7C),
            ("f8E5M2", 57344.0, 0x7B),
            ("f8E5M2", 1e9, 0x7C),
            ("f8E3M4", 1.0, 0x30),
            ("f8E4M3FNUZ", 1.0, 0x40),
            ("f8E4M3FNUZ", -0.0, 0x00),
            ("f8E4M3FNUZ", f64::NAN, 0x80),
            ("f8E4M3FNUZ", -1e9, 0x80),
            ("f8E5M2FNUZ", 1.0, 0x40),
            ("f8E4M3B11FNUZ", 1.0, 0x58),
            ("f4E2M1FN", 6.0, 0x07),
            ("f4E2M1FN", -0.5, 0x09),
            ("f4E2M1FN", -1e9, 0x0F),
            ("f6E2M3FN", 1.0, 0x08),
            ("f6E3M2FN", 28.0, 0x1F),
            ("f8E8M0FNU", 1.0, 127),
            ("f8E8M0FNU", 4.0, 129),
            ("f8E8M0FNU", 2.9, 128),
            ("f8E8M0FNU", 3.0, 129),
            ("f8E8M0FNU", 0.0, 255),
            ("f8E8M0FNU", 1e-45, 0),
            ("f4E2M1FN", f64::NAN, 0x08),
            ("f8E8M0FNU", -1.0, 255),
            ("f8E8M0FNU", 3e38, 255),
        ] {
            assert_eq!(encode(name, value), bits, "{name} {value}");
        }
    }

    #[test]
    fn ties_go_to_even() {
        assert_eq!(encode("f8E4M3FN", 1.0625), 0x38);
        assert_eq!(encode("f8E4M3FN", 1.1875), 0x3A);
        assert_eq!(encode("f8E4M3FN", 1.9999), 0x40);
    }

    #[test]
    fn every_number_survives_and_is_a_number_of_f32() {
        for f in SmallFloat::ALL {
            for bits in 0..(1u32 << f.bits()) {
                let v = f.decode(bits as u8);
                if v.is_nan() {
                    assert!(f.round(v).is_nan(), "{f}");
                    continue;
                }
                assert_eq!(u32::from(f.encode(v)), bits, "{f} {v}");
                assert_eq!(f64::from(v as f32), v, "{f} {v}");
                assert!(v.is_infinite() || v.abs() <= f.largest(), "{f} {v}");
            }
        }
    }

    #[test]
    fn element_types_of_the_ir_are_rounded_alike() {
        for (f, dtype) in [(SmallFloat::F8E4M3FN, DType::F8E4M3FN), (SmallFloat::F8E5M2, DType::F8E5M2)] {
            for bits in 0..=255u8 {
                let (v, w) = (f.decode(bits), from_bits(dtype, u64::from(bits)));
                assert!(v.to_bits() == w.to_bits() || v.is_nan() && w.is_nan(), "{dtype} {bits:#x}");
                for x in [v * 1.03, v * 0.97, v * 1.0625] {
                    let (v, w) = (f.round(x), round_float(dtype, x));
                    assert!(v == w || v.is_nan() && w.is_nan(), "{dtype} {x}");
                }
            }
        }
    }
}
