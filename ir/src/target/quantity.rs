//! Numbers with a unit, a source and a confidence.
//!
//! A simulated time is worth no more than the figures behind it, so no figure enters a target without saying where it is from.
//! The dimension is part of the Rust type: a bandwidth cannot be read where a latency is meant, and a file that writes `"GB"`
//! for a rate is refused with the units that would do.

use super::error::TargetError;
use crate::types::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// How far a figure can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// From the vendor's documents, or measured and published with data.
    High,
    /// From the press or from other people's notes of a primary source.
    Medium,
    /// Remembered or indirect; check before quoting.
    Low,
    /// Computed from other figures; the source gives the formula.
    Derived,
    /// Nobody published it: a plausible value, to be swept.
    Assumed,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Confidence::High => "high",
            Confidence::Medium => "medium",
            Confidence::Low => "low",
            Confidence::Derived => "derived",
            Confidence::Assumed => "assumed",
        })
    }
}

/// What a [`Quantity`] measures, and the units it may be written in.
pub trait Dimension: Copy + PartialEq + fmt::Debug + 'static {
    /// With its article, for messages: "a size".
    const NAME: &'static str;
    /// Unit symbols with their factor to the SI unit; the first is the SI unit.
    const UNITS: &'static [(&'static str, f64)];
}

macro_rules! dimensions {
    ($($(#[$meta:meta])* $name:ident, $what:literal, [$(($unit:literal, $factor:literal)),+ $(,)?];)+) => {
        $($(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub struct $name;

        impl Dimension for $name {
            const NAME: &'static str = $what;
            const UNITS: &'static [(&'static str, f64)] = &[$(($unit, $factor)),+];
        })+
    };
}

#[rustfmt::skip]
dimensions! {
    /// Sizes in bytes; decimal and binary multiples.
    Bytes, "a size", [
        ("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15),
        ("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("TiB", 1099511627776.0),
    ];
    /// Bytes per second.
    BytesPerSecond, "a data rate", [
        ("B/s", 1.0), ("KB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12), ("PB/s", 1e15),
        ("MiB/s", 1048576.0), ("GiB/s", 1073741824.0), ("TiB/s", 1099511627776.0),
        ("Mbit/s", 1.25e5), ("Gbit/s", 1.25e8), ("Tbit/s", 1.25e11),
    ];
    /// Cycles per second.
    Frequency, "a frequency", [("Hz", 1.0), ("kHz", 1e3), ("MHz", 1e6), ("GHz", 1e9)];
    /// Seconds.
    Time, "a time", [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("ps", 1e-12)];
    /// Watts.
    Power, "a power", [("W", 1.0), ("mW", 1e-3), ("uW", 1e-6), ("kW", 1e3), ("MW", 1e6)];
    /// Floating-point operations per second; a multiply-add counts as two.
    FlopsPerSecond, "a compute rate", [
        ("FLOP/s", 1.0), ("MFLOP/s", 1e6), ("GFLOP/s", 1e9), ("TFLOP/s", 1e12), ("PFLOP/s", 1e15),
    ];
    /// Joules per floating-point operation.
    EnergyPerFlop, "an energy per operation", [("J/FLOP", 1.0), ("nJ/FLOP", 1e-9), ("pJ/FLOP", 1e-12), ("fJ/FLOP", 1e-15)];
    /// Joules per byte.
    EnergyPerByte, "an energy per byte", [("J/B", 1.0), ("nJ/B", 1e-9), ("pJ/B", 1e-12), ("pJ/bit", 8e-12)];
    /// A pure number: matrix rows, columns.
    Count, "a count", [("elements", 1.0)];
    /// Cycles of the die's clock.
    Cycles, "a number of cycles", [("cycles", 1.0)];
}

/// A number, the unit that it is written in, where it is from and how sure it is.
///
/// What was written is kept, so that a target prints as its author wrote it; [`si`](Self::si) is what programs use.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written", bound = "D: Dimension")]
pub struct Quantity<D: Dimension> {
    written: Written,
    dimension: PhantomData<D>,
}

/// The TOML form of a [`Quantity`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    value: f64,
    unit: String,
    source: String,
    confidence: Confidence,
}

impl<D: Dimension> TryFrom<Written> for Quantity<D> {
    type Error = TargetError;
    fn try_from(written: Written) -> Result<Self, TargetError> {
        factor::<D>(&written.unit).ok_or_else(|| unit_error::<D>(&written.unit))?;
        Ok(Quantity { written, dimension: PhantomData })
    }
}

impl<D: Dimension> From<Quantity<D>> for Written {
    fn from(quantity: Quantity<D>) -> Written {
        quantity.written
    }
}

impl<D: Dimension> Quantity<D> {
    /// A quantity from its parts; the unit has to be one of [`Dimension::UNITS`].
    pub fn new(value: f64, unit: &str, source: &str, confidence: Confidence) -> Result<Self, TargetError> {
        Written { value, unit: unit.to_string(), source: source.to_string(), confidence }.try_into()
    }

    /// The value in the SI unit.
    pub fn si(&self) -> f64 {
        let factor = factor::<D>(&self.written.unit).expect("the unit was checked when the quantity was made");
        // Dividing by a whole number rounds once: 100 ns is 1e-7 and not 1.0000000000000001e-7.
        if factor < 1.0 { self.written.value / (1.0 / factor).round() } else { self.written.value * factor }
    }

    /// The value in the SI unit, to the nearest whole number.
    pub fn whole(&self) -> u64 {
        self.si().round() as u64
    }
}

impl<D: Dimension> fmt::Display for Quantity<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.written.value, self.written.unit))
    }
}

/// A [`Quantity`] of any dimension, for tables and overrides.
pub trait Figure: fmt::Display {
    /// The value in the SI unit of its dimension.
    fn si(&self) -> f64;
    /// Where it is from.
    fn source(&self) -> &str;
    /// How sure it is.
    fn confidence(&self) -> Confidence;
    /// Replaces it by a number with a unit such as `200MiB`, remembering what it was.
    fn assign(&mut self, text: &str) -> Result<(), TargetError>;
}

impl<D: Dimension> Figure for Quantity<D> {
    fn si(&self) -> f64 {
        Quantity::si(self)
    }
    fn source(&self) -> &str {
        &self.written.source
    }
    fn confidence(&self) -> Confidence {
        self.written.confidence
    }
    fn assign(&mut self, text: &str) -> Result<(), TargetError> {
        let at = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | '_'))).unwrap_or(text.len());
        // An exponent is part of the number: `1e9B` splits before the `B`.
        let at = match text[at..].strip_prefix(['e', 'E']) {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') => {
                let digits = rest[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - 1);
                at + 2 + digits
            }
            _ => at,
        };
        let (number, unit) = text.split_at(at);
        let (value, unit) = match (number.replace('_', "").parse::<f64>(), unit.trim()) {
            (Ok(value), "") if D::UNITS.len() == 1 => (value, D::UNITS[0].0),
            (Ok(value), unit) if value.is_finite() => (value, unit),
            _ => return Err(unit_error::<D>(text)),
        };
        factor::<D>(unit).ok_or_else(|| unit_error::<D>(text))?;
        let source = format!("set by the user; was {self}");
        self.written = Written { value, unit: unit.to_string(), source, confidence: Confidence::Assumed };
        Ok(())
    }
}

fn factor<D: Dimension>(unit: &str) -> Option<f64> {
    D::UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

fn unit_error<D: Dimension>(text: &str) -> TargetError {
    let units: Vec<&str> = D::UNITS.iter().map(|(name, _)| *name).collect();
    TargetError::Unit { text: text.to_string(), dimension: D::NAME, units: units.join(", ") }
}

/// One quantity for each element type that the machine treats specially.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Quantity<D>>", into = "BTreeMap<String, Quantity<D>>", bound = "D: Dimension")]
pub struct PerDType<D: Dimension>(BTreeMap<DType, Quantity<D>>);

impl<D: Dimension> PerDType<D> {
    /// The quantity written for exactly this type.
    pub fn get(&self, dtype: DType) -> Option<&Quantity<D>> {
        self.0.get(&dtype)
    }

    /// The value for `dtype` in the SI unit. A 16-bit float without an entry takes the other 16-bit float's; everything else
    /// takes that of f32, times `f64_factor` for f64.
    pub fn si(&self, dtype: DType, f64_factor: f64) -> f64 {
        let twin = match dtype {
            DType::BF16 => DType::F16,
            DType::F16 => DType::BF16,
            other => other,
        };
        let f32 = || self.get(DType::F32).map_or(0.0, Quantity::si);
        match (self.get(dtype).or_else(|| self.get(twin)), dtype) {
            (Some(quantity), _) => quantity.si(),
            (None, DType::F64) => f32() * f64_factor,
            (None, _) => f32(),
        }
    }

    /// The entries, by type.
    pub fn iter(&self) -> impl Iterator<Item = (DType, &Quantity<D>)> {
        self.0.iter().map(|(dtype, quantity)| (*dtype, quantity))
    }

    /// The entries, by type, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (DType, &mut Quantity<D>)> {
        self.0.iter_mut().map(|(dtype, quantity)| (*dtype, quantity))
    }
}

impl<D: Dimension> TryFrom<BTreeMap<String, Quantity<D>>> for PerDType<D> {
    type Error = String;
    fn try_from(named: BTreeMap<String, Quantity<D>>) -> Result<Self, String> {
        let typed = named.into_iter().map(|(name, quantity)| match DType::from_name(&name) {
            Some(dtype) => Ok((dtype, quantity)),
            None => Err(format!("`{name}` is not an element type; those are {}", DType::ALL.map(DType::name).join(", "))),
        });
        Ok(PerDType(typed.collect::<Result<_, _>>()?))
    }
}

impl<D: Dimension> From<PerDType<D>> for BTreeMap<String, Quantity<D>> {
    fn from(typed: PerDType<D>) -> Self {
        typed.0.into_iter().map(|(dtype, quantity)| (dtype.name().to_string(), quantity)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: f64, unit: &str) -> u64 {
        Quantity::<Bytes>::new(value, unit, "test", Confidence::High).unwrap().whole()
    }

    #[test]
    fn units_convert() {
        assert_eq!(bytes(442.5, "MB"), 442_500_000);
        assert_eq!(bytes(48.0, "KiB"), 49_152);
        assert_eq!(bytes(1.5, "GiB"), 1_610_612_736);
        let rate = Quantity::<BytesPerSecond>::new(1.2, "Tbit/s", "test", Confidence::High).unwrap();
        assert_eq!(rate.si(), 150e9);
        let energy = Quantity::<EnergyPerByte>::new(0.5, "pJ/bit", "test", Confidence::High).unwrap();
        assert_eq!(energy.si(), 4e-12);
    }

    #[test]
    fn a_wrong_unit_names_the_right_ones() {
        let error = Quantity::<Time>::new(1.0, "GB", "test", Confidence::High).unwrap_err();
        assert_eq!(error.code(), "E0503");
        assert_eq!(error.to_string(), "`GB` is not a time: write a number and one of s, ms, us, µs, ns, ps");
    }

    #[test]
    fn assignment_reads_number_and_unit() {
        let mut size = Quantity::<Bytes>::new(442.5, "MB", "test", Confidence::High).unwrap();
        for (text, want) in
            [("200MiB", 200 << 20), ("1e9B", 1_000_000_000), ("1.5e3 KB", 1_500_000), ("4_096 B", 4096), ("2.5GB", 2_500_000_000)]
        {
            size.assign(text).unwrap();
            assert_eq!(size.whole(), want, "{text}");
        }
        assert_eq!(size.source(), "set by the user; was 4096 B");
        for text in ["", "MiB", "12", "12 parsecs", "1e", "1..2MB", "é", "1e+B", "-"] {
            assert_eq!(size.assign(text).unwrap_err().code(), "E0503", "{text}");
        }
        let mut count = Quantity::<Count>::new(8.0, "elements", "test", Confidence::High).unwrap();
        count.assign("16").unwrap();
        assert_eq!(count.whole(), 16);
    }
}
