//! Floating-point formats of eight bits and fewer, written from decimal numbers.
//!
//! Constants of these types appear in texts as decimals, one byte an element once decoded.

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
}

/// A format with a sign.
#[derive(Clone, Copy, Debug)]
pub(super) struct MiniFloat {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    top: Top,
}

/// The format of that name.
pub(super) fn format(name: &str) -> Option<MiniFloat> {
    let (exponent, mantissa, bias, top) = match name.to_ascii_lowercase().as_str() {
        "f8e5m2" => (5, 2, 15, Top::Ieee),
        "f8e4m3" => (4, 3, 7, Top::Ieee),
        "f8e3m4" => (3, 4, 3, Top::Ieee),
        "f8e4m3fn" => (4, 3, 7, Top::Finite),
        "f8e5m2fnuz" => (5, 2, 16, Top::NegativeZero),
        "f8e4m3fnuz" => (4, 3, 8, Top::NegativeZero),
        "f8e4m3b11fnuz" => (4, 3, 11, Top::NegativeZero),
        "f6e3m2fn" => (3, 2, 3, Top::Numbers),
        "f6e2m3fn" => (2, 3, 1, Top::Numbers),
        "f4e2m1fn" => (2, 1, 1, Top::Numbers),
        // Eight bits of exponent and nothing else; the sign bit is absent, which `encode` sees by the width.
        "f8e8m0fnu" => (8, 0, 127, Top::Finite),
        _ => return None,
    };
    Some(MiniFloat { exponent, mantissa, bias, top })
}

impl MiniFloat {
    /// Bits of an element.
    pub fn bits(self) -> u32 {
        if self.exponent == 8 { 8 } else { 1 + self.exponent + self.mantissa }
    }

    /// The nearest element, ties to even; too large becomes infinity, NaN or the largest number, as the format has them.
    pub fn encode(self, value: f64) -> u8 {
        let sign = if value.is_sign_negative() { 1_u32 << (self.exponent + self.mantissa) } else { 0 };
        if self.exponent == 8 {
            return Self::power_of_two(value);
        }
        let all = (1_u32 << (self.exponent + self.mantissa)) - 1;
        let one_top = all & !((1 << self.mantissa) - 1);
        let (largest, over) = match self.top {
            Top::Ieee => (one_top - 1, one_top),
            Top::Finite => (all - 1, all),
            Top::NegativeZero => (all, 1 << (self.exponent + self.mantissa)),
            Top::Numbers => (all, all),
        };
        let unsigned_over = self.top == Top::NegativeZero;
        let signed = |bits: u32, sign: u32| u8::try_from((bits | sign) & 0xFF).unwrap_or(0);
        if value.is_nan() {
            let nan = if self.top == Top::Ieee { one_top | 1 << (self.mantissa - 1) } else { over };
            return signed(nan, if unsigned_over { 0 } else { sign });
        }
        let bits = self.magnitude(value.abs(), largest);
        match bits {
            None => signed(over, if unsigned_over { 0 } else { sign }),
            Some(0) if unsigned_over => 0,
            Some(bits) => signed(bits, sign),
        }
    }

    /// The pattern of a magnitude; nothing when it is beyond the largest number.
    fn magnitude(self, value: f64, largest: u32) -> Option<u32> {
        if value == 0.0 {
            return Some(0);
        }
        if value.is_infinite() {
            return None;
        }
        let raw = i32::try_from(value.to_bits() >> 52 & 0x7FF).unwrap_or(0) - 1023;
        let exponent = raw.max(1 - self.bias);
        let mantissa = i32::try_from(self.mantissa).unwrap_or(0);
        // In units of the last place; a scale by a power of two is exact here.
        let scaled = value * 2.0_f64.powi(mantissa - exponent);
        let units = scaled.round_ties_even();
        let step = f64::from(1_u32 << self.mantissa);
        let biased = if units < step { 0.0 } else { f64::from(exponent + self.bias - 1) };
        let pattern = if units < step { units } else { biased * step + units };
        if pattern <= f64::from(largest) { Some(pattern as u32) } else { None }
    }

    /// The pattern of the power of two nearest to a value; 255 is NaN.
    fn power_of_two(value: f64) -> u8 {
        if !value.is_finite() || value <= 0.0 {
            return 255;
        }
        let exponent = value.log2().round_ties_even().clamp(-127.0, 128.0) + 127.0;
        exponent as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(name: &str, value: f64) -> u8 {
        format(name).unwrap().encode(value)
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
            ("f8E5M2FNUZ", 1.0, 0x40),
            ("f8E4M3B11FNUZ", 1.0, 0x58),
            ("f4E2M1FN", 6.0, 0x07),
            ("f4E2M1FN", -0.5, 0x09),
            ("f6E2M3FN", 1.0, 0x08),
            ("f6E3M2FN", 28.0, 0x1F),
            ("f8E8M0FNU", 1.0, 127),
            ("f8E8M0FNU", 4.0, 129),
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
}
