//! Elements and dense constants as text. Bits always round-trip: what decimal cannot say (NaN payloads) is written in hexadecimal.

use super::error::TextErrorKind;
use super::lex::{Cursor, Token};
use super::parse::Parser;
use crate::float::{from_bits, round_float, to_bits};
use crate::literal::Literal;
use crate::types::{DType, TensorType};

/// Literals of more elements than this are printed as bytes.
const MAX_LISTED: usize = 64;

/// A float so that it reads back to the same bits; integers lose the `.0` when `typed`.
pub(crate) fn float(v: f64, typed: bool) -> String {
    if v.is_nan() {
        let bits = v.to_bits();
        return if bits == CANONICAL_NAN { "nan".to_string() } else { format!("nan0x{bits:016x}") };
    }
    let s = format!("{v:?}");
    if typed { s.strip_suffix(".0").map_or(s.clone(), str::to_string) } else { s }
}

/// The quiet NaN that `nan` stands for.
pub(crate) const CANONICAL_NAN: u64 = 0x7ff8_0000_0000_0000;

/// Reads what [`float`] wrote.
pub(crate) fn parse_float(s: &str) -> Option<f64> {
    match s {
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::from_bits(CANONICAL_NAN)),
        _ => match s.strip_prefix("nan0x") {
            Some(bits) => u64::from_str_radix(bits, 16).ok().map(f64::from_bits),
            None if s.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) => s.parse().ok(),
            None => None,
        },
    }
}

fn canonical_nan(dtype: DType) -> u64 {
    match dtype {
        DType::F32 => 0x7fc0_0000,
        DType::BF16 => 0x7fc0,
        DType::F16 => 0x7e00,
        DType::F8E4M3FN => 0x7f,
        DType::F8E5M2 => 0x7e,
        _ => CANONICAL_NAN,
    }
}

/// One element as text.
pub(crate) fn element(dtype: DType, bytes: &[u8]) -> String {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    let hex = || format!("0x{bits:0width$x}", width = 2 * bytes.len());
    let small = match dtype {
        DType::F32 => f32::from_bits(bits as u32),
        DType::F16 | DType::BF16 | DType::F8E4M3FN | DType::F8E5M2 => from_bits(dtype, bits) as f32,
        DType::F64 => {
            let v = f64::from_bits(bits);
            return if v.is_nan() && bits != CANONICAL_NAN { hex() } else { float(v, true) };
        }
        DType::I8 => return (bits as i8).to_string(),
        DType::I16 => return (bits as i16).to_string(),
        DType::I32 => return (bits as i32).to_string(),
        DType::I64 => return (bits as i64).to_string(),
        DType::Bool if bits > 1 => return hex(),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => return bits.to_string(),
    };
    if small.is_nan() {
        return if bits == canonical_nan(dtype) { "nan".to_string() } else { hex() };
    }
    let s = format!("{small:?}");
    s.strip_suffix(".0").map_or(s.clone(), str::to_string)
}

/// Reads one element and appends its bytes; `None` when it does not fit the type.
fn parse_element(dtype: DType, s: &str, out: &mut Vec<u8>) -> Option<()> {
    let size = dtype.size();
    let bits = if let Some(hex) = s.strip_prefix("0x") {
        let bits = u64::from_str_radix(hex, 16).ok()?;
        (hex.len() <= 2 * size).then_some(bits)?
    } else if dtype.is_float() {
        if s == "nan" {
            canonical_nan(dtype)
        } else {
            let v = parse_float(s)?;
            match dtype {
                DType::F64 => v.to_bits(),
                DType::F16 | DType::BF16 | DType::F8E4M3FN | DType::F8E5M2 => to_bits(dtype, round_float(dtype, v)),
                _ => match s {
                    "inf" | "-inf" => u64::from((v as f32).to_bits()),
                    _ => u64::from(s.parse::<f32>().ok()?.to_bits()),
                },
            }
        }
    } else {
        let v: i128 = match s {
            "true" if dtype == DType::Bool => 1,
            "false" if dtype == DType::Bool => 0,
            _ => s.parse().ok()?,
        };
        let width = 8 * size as u32;
        let (low, high) = match dtype {
            DType::Bool => (0, 1),
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => (0, (1i128 << width) - 1),
            _ => (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1),
        };
        (low..=high).contains(&v).then_some(v as u64)?
    };
    out.extend(&bits.to_le_bytes()[..size]);
    Some(())
}

/// A constant: `dense<f32[2,2] [1, 2, 3, 4]>`, `dense<f32[64] 0>` when all elements are equal, `dense<f32[99] hex"…">` when it is long.
pub(crate) fn dense(literal: &Literal) -> String {
    let (ty, bytes) = (literal.ty(), literal.bytes());
    let size = ty.dtype.size();
    let body = if bytes.len() >= size && bytes.chunks_exact(size).all(|c| c == &bytes[..size]) {
        element(ty.dtype, &bytes[..size])
    } else if bytes.len() > MAX_LISTED * size {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]].map(char::from));
        format!("hex\"{}\"", digits.collect::<String>())
    } else {
        let all: Vec<String> = bytes.chunks_exact(size).map(|c| element(ty.dtype, c)).collect();
        format!("[{}]", all.join(", "))
    };
    format!("dense<{ty} {body}>")
}

/// The text of the element that comes.
fn element_token<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, super::TextError> {
    match cursor.next()? {
        Token::Number(s) | Token::Word(s) => Ok(s),
        other => Err(cursor.unexpected("an element", other)),
    }
}

/// Reads a constant after `dense`.
pub(crate) fn parse_dense(p: &mut Parser<'_>) -> Result<Literal, super::TextError> {
    p.cursor.expect("<")?;
    let ty = p.tensor_type()?;
    let misfit = |s: &str, ty: &TensorType| TextErrorKind::Literal { why: format!("`{s}` is no element of type {}", ty.dtype) };
    let mut bytes = Vec::new();
    if p.cursor.eat("[")? {
        while !p.cursor.eat("]")? {
            if !bytes.is_empty() {
                p.cursor.expect(",")?;
            }
            let s = element_token(&mut p.cursor)?;
            parse_element(ty.dtype, s, &mut bytes).ok_or_else(|| p.cursor.error(misfit(s, &ty)))?;
        }
    } else if p.cursor.eat_word("hex")? {
        let digits = p.cursor.quoted("the bytes in hexadecimal")?;
        let nibble = |b: u8| char::from(b).to_digit(16);
        for pair in digits.as_bytes().chunks(2) {
            let byte = if let [a, b] = pair { nibble(*a).zip(nibble(*b)) } else { None };
            let why = || TextErrorKind::Literal { why: "bytes are pairs of hexadecimal digits".to_string() };
            let (a, b) = byte.ok_or_else(|| p.cursor.error(why()))?;
            bytes.push((a << 4 | b) as u8);
        }
    } else {
        let s = element_token(&mut p.cursor)?;
        p.spend(ty.bytes())?;
        parse_element(ty.dtype, s, &mut bytes).ok_or_else(|| p.cursor.error(misfit(s, &ty)))?;
        bytes = bytes.repeat(ty.elements());
    }
    let literal = Literal::new(ty, bytes).map_err(|e| p.cursor.error(TextErrorKind::Literal { why: e.to_string() }))?;
    p.cursor.expect(">")?;
    Ok(literal)
}
