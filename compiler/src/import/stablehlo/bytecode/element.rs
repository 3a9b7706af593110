//! Element types: their names, how wide they are, and their numbers as the file stores them.

use crate::import::stablehlo::module::Element;
use girih_ir::types::DType;
use std::sync::Arc;

/// The element type of a name in MLIR's spelling.
pub fn element(name: &str) -> Element {
    let ours = match name {
        "i1" => "bool".to_owned(),
        _ => name.replacen("ui", "u", 1).to_ascii_lowercase(),
    };
    DType::from_name(name).or_else(|| DType::from_name(&ours)).map_or_else(|| Element::Other(name.to_owned()), Element::Known)
}

/// How wide an integer is and whether it has a sign.
pub fn integer_bits(element: &Element) -> Option<(u32, bool)> {
    match element {
        Element::Known(DType::Bool) => Some((1, false)),
        Element::Known(d) if d.is_int() => {
            Some((u32::try_from(d.size()).ok()? * 8, matches!(d, DType::I8 | DType::I16 | DType::I32 | DType::I64)))
        }
        Element::Other(name) => match name.as_str() {
            "index" => Some((64, true)),
            "i4" => Some((4, true)),
            "ui4" => Some((4, false)),
            "i2" => Some((2, true)),
            "ui2" => Some((2, false)),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes of one element of a dense attribute.
pub fn element_size(element: &Element) -> Option<usize> {
    match element {
        Element::Known(d) => Some(d.size()),
        Element::Complex(d) => Some(2 * d.size()),
        Element::Other(name) if name == "index" => Some(8),
        Element::Other(name) if name == "tf32" => Some(4),
        Element::Other(name) if name.starts_with(['f', 'i', 'u']) => Some(1),
        Element::Other(_) => None,
    }
}

/// One little-endian integer.
pub fn read_int(bytes: &[u8], element: &Element) -> Option<i64> {
    let (bits, signed) = integer_bits(element)?;
    let mut word = [0u8; 8];
    word.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let shift = 64 - bits.max(8);
    let raw = i64::from_le_bytes(word);
    Some(if signed { (raw << shift) >> shift } else { raw })
}

/// Truth values may be packed eight to a byte; all ones stand for true everywhere.
pub fn booleans(blob: &[u8], count: usize) -> Arc<[u8]> {
    if blob == [0xff] {
        return Arc::from([1u8]);
    }
    if blob.len() == count.div_ceil(8) && blob.len() != count {
        return (0..count).map(|i| (blob[i / 8] >> (i % 8)) & 1).collect();
    }
    blob.iter().map(|b| u8::from(*b != 0)).collect()
}
