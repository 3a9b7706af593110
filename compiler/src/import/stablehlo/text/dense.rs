//! The elements of a constant, decoded straight to bytes.
//!
//! The type stands behind the elements, so the reader first finds the end, then the type, and then decodes with both known.
//! Nothing is reserved for elements that the text does not hold.

use super::Reader;
use super::error::{LITERAL, RESOURCE, Step, TOKEN, problem};
use super::lex::{Cursor, hex_digit, parse_int};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Dense, Element, ModuleAttr, ModuleType};
use girih_ir::small_float::SmallFloat;
use girih_ir::types::{DType, NumberKind};

/// How an element is written into bytes.
#[derive(Clone, Copy, Debug)]
enum Codec {
    Bool,
    /// Whole numbers: bits and bytes of an element, and whether there is a sign.
    Int {
        bits: u32,
        size: usize,
        signed: bool,
    },
    F64,
    F32,
    F16,
    BF16,
    Mini(SmallFloat),
}

impl Codec {
    fn of(element: &Element) -> Option<(Codec, bool)> {
        Some(match element {
            Element::Complex(d) => (Codec::known(*d)?, true),
            Element::Known(d) => (Codec::known(*d)?, false),
            Element::Other(name) if name == "index" => (Codec::Int { bits: 64, size: 8, signed: true }, false),
            Element::Other(name) => match SmallFloat::from_name(name) {
                Some(mini) => (Codec::Mini(mini), false),
                None => {
                    let bits: u32 =
                        name.trim_start_matches(|c: char| c.is_ascii_lowercase()).parse().ok().filter(|b| (1..=8).contains(b))?;
                    (Codec::Int { bits, size: 1, signed: !name.starts_with('u') }, false)
                }
            },
        })
    }

    fn known(d: DType) -> Option<Codec> {
        let size = d.size();
        let bits = 8 * u32::try_from(size).unwrap_or(8);
        Some(match (d.kind(), d) {
            (NumberKind::Bool, _) => Codec::Bool,
            (NumberKind::Signed, _) => Codec::Int { bits, size, signed: true },
            (NumberKind::Unsigned, _) => Codec::Int { bits, size, signed: false },
            (_, DType::F64) => Codec::F64,
            (_, DType::F32) => Codec::F32,
            (_, DType::F16) => Codec::F16,
            (_, DType::BF16) => Codec::BF16,
            (NumberKind::Float, _) => Codec::Mini(SmallFloat::from_name(d.name())?),
        })
    }

    fn size(self) -> usize {
        match self {
            Codec::Bool | Codec::Mini(_) => 1,
            Codec::Int { size, .. } => size,
            Codec::F64 => 8,
            Codec::F32 => 4,
            Codec::F16 | Codec::BF16 => 2,
        }
    }

    /// Appends an element that is written as a number or word. The text of the number is what a problem shows.
    fn put(self, c: &mut Cursor<'_>, out: &mut Vec<u8>) -> Step<()> {
        c.skip();
        let start = c.pos;
        if let Codec::Bool = self
            && let word @ ("true" | "false") = c.word()
        {
            c.pos += word.len();
            out.push(u8::from(word == "true"));
            return Ok(());
        }
        let text = c.number();
        if text.is_empty() {
            return Err(c.expected("an element"));
        }
        let bad = |why: &str| {
            Err(problem(
                c.text,
                start,
                LITERAL,
                format!("`{}` does not fit the element type", text.chars().take(40).collect::<String>()),
                why,
            ))
        };
        match self {
            Codec::Bool => match parse_int(text) {
                Some(v @ -1..=1) => out.push(u8::from(v != 0)),
                _ => return bad("truth values are true, false, 0 and 1"),
            },
            Codec::Int { bits, size, signed } => {
                let low = if signed { -(1_i128 << (bits - 1)) } else { 0 };
                let Some(v) = parse_int(text).filter(|v| *v >= low && *v < 1_i128 << bits) else {
                    return bad(&format!("whole numbers of {bits} bits are needed"));
                };
                out.extend_from_slice(&narrow(v, bits, signed).to_le_bytes()[..size]);
            }
            _ if text.starts_with("0x") || text.starts_with("-0x") => {
                let bits = if let Codec::Mini(m) = self { m.bits() } else { 8 * u32::try_from(self.size()).unwrap_or(8) };
                let Some(v) = parse_int(text).filter(|v| *v >= 0 && *v < 1_i128 << bits) else {
                    return bad(&format!("the pattern has {bits} bits"));
                };
                out.extend_from_slice(&v.to_le_bytes()[..self.size()]);
            }
            _ => {
                let Ok(v) = text.parse::<f64>() else { return bad("a number is needed") };
                match self {
                    Codec::F32 => out.extend_from_slice(&(v as f32).to_le_bytes()),
                    Codec::F16 => out.extend_from_slice(&half::f16::from_f64(v).to_le_bytes()),
                    Codec::BF16 => out.extend_from_slice(&half::bf16::from_f64(v).to_le_bytes()),
                    Codec::Mini(m) => out.push(m.encode(v)),
                    _ => out.extend_from_slice(&v.to_le_bytes()),
                }
            }
        }
        Ok(())
    }
}

/// A whole number of few bits, with the sign of its top bit when the type has a sign.
fn narrow(value: i128, bits: u32, signed: bool) -> i128 {
    if signed && value >= 1_i128 << (bits - 1) { value - (1_i128 << bits) } else { value }
}

impl<'a> Reader<'a> {
    /// `dense<…> : type`, after the word.
    pub(super) fn dense(&mut self) -> Step<ModuleAttr> {
        self.at.expect("<")?;
        self.at.skip();
        let start = self.at.pos;
        self.seek_close()?;
        let end = self.at.pos;
        self.at.pos += 1;
        self.at.expect(":")?;
        let ty = self.ty()?;
        match self.elements(start, end, ty)? {
            Ok(dense) => Ok(ModuleAttr::Dense(dense)),
            Err(ty) => Ok(ModuleAttr::Other(format!("dense<{}> : {ty}", self.at.slice(start, end)))),
        }
    }

    /// Moves to the `>` that ends the elements.
    fn seek_close(&mut self) -> Step<()> {
        let bytes = self.at.text.as_bytes();
        let open = self.at.pos;
        loop {
            match bytes.get(self.at.pos) {
                Some(b'>') => return Ok(()),
                Some(b'"') => {
                    self.at.raw_string()?;
                }
                Some(b'/') => {
                    let before = self.at.pos;
                    self.at.skip();
                    if self.at.pos == before {
                        return Err(self.at.expected("an element"));
                    }
                }
                Some(_) => self.at.pos += 1,
                None => return Err(problem(self.at.text, open, TOKEN, "`dense<` is never closed", "")),
            }
        }
    }

    /// Decodes; gives the type back when its elements have no known form.
    fn elements(&mut self, start: usize, end: usize, ty: ModuleType) -> Step<Result<Dense, ModuleType>> {
        let ModuleType::Tensor { shape, element } = ty else { return Ok(Err(ty)) };
        let Some((codec, complex)) = Codec::of(&element) else { return Ok(Err(ModuleType::Tensor { shape, element })) };
        let total: usize = shape.iter().product();
        let mut c = self.at.clone();
        (c.text, c.pos) = (self.at.slice(0, end), start);
        let size = codec.size() * if complex { 2 } else { 1 };
        if c.peek() == b'"' {
            let at = c.pos;
            let text = c.raw_string()?;
            let Some(hex) = text.strip_prefix("0x") else {
                return Err(problem(self.at.text, at, LITERAL, "a string holds no elements", "`\"0x…\"` was expected"));
            };
            let bytes = unhex(hex.as_bytes())
                .ok_or_else(|| problem(self.at.text, at, TOKEN, "the hexadecimal data has a digit too few or a wrong one", ""))?;
            let (bytes, splat) = blob(codec, bytes, total, size)
                .map_err(|why| problem(self.at.text, at, LITERAL, "the data does not fit the type", &why))?;
            return Ok(Ok(Dense { shape, element, bytes: bytes.into(), splat }));
        }
        let mut list = List { codec, complex, shape: &shape, out: Vec::with_capacity(total.min(end - start).saturating_mul(size)) };
        let splat = list.read(&mut c, total).map_err(|p| self.within(p, &c))?;
        if !c.at_end() {
            let p = c.expected("`>`");
            return Err(self.within(p, &c));
        }
        let bytes = list.out.into();
        Ok(Ok(Dense { shape, element, bytes, splat }))
    }

    /// The same problem with the line as the whole text has it.
    fn within(&self, p: Problem, c: &Cursor<'_>) -> Problem {
        if p.code == LITERAL { p } else { problem(self.at.text, c.pos, p.code, p.what, "") }
    }

    /// `dense_resource<key> : type`, after the word.
    pub(super) fn dense_resource(&mut self) -> Step<ModuleAttr> {
        let at = self.at.pos;
        self.at.expect("<")?;
        let key = if self.at.peek() == b'"' { self.at.string()? } else { self.at.suffix()?.to_string() };
        self.at.expect(">")?;
        self.at.expect(":")?;
        let ty = self.ty()?;
        if key == "__elided__" {
            let why = "the file was printed with a limit on large constants, which leaves their elements out; print it without that limit";
            return Err(problem(self.at.text, at, RESOURCE, "the elements of a constant are not in the file", why));
        }
        let Some(hex) = self.resource(&key)? else {
            return Err(problem(
                self.at.text,
                at,
                RESOURCE,
                format!("the resource `{key}` is not in the file"),
                "a `{-# dialect_resources … #-}` section would hold it",
            ));
        };
        let ModuleType::Tensor { shape, element } = ty else { return Ok(ModuleAttr::Other(format!("dense_resource<{key}> : {ty}"))) };
        let Some((codec, complex)) = Codec::of(&element) else {
            return Ok(ModuleAttr::Other(format!("dense_resource<{key}> : {}", ModuleType::Tensor { shape, element })));
        };
        if !self.used_resources.insert(key.clone()) {
            self.spend(hex.len() / 2)?;
        }
        let total: usize = shape.iter().product();
        let size = codec.size() * if complex { 2 } else { 1 };
        // The first four bytes are the alignment.
        let bytes = hex.strip_prefix("0x").and_then(|h| unhex(h.as_bytes())).filter(|b| b.len() >= 4);
        let fit = bytes
            .ok_or_else(|| "it is no hexadecimal data with an alignment in front".to_string())
            .and_then(|b| blob(codec, b[4..].to_vec(), total, size));
        let (bytes, splat) =
            fit.map_err(|why| problem(self.at.text, at, LITERAL, format!("the resource `{key}` does not fit the type"), &why))?;
        Ok(ModuleAttr::Dense(Dense { shape, element, bytes: bytes.into(), splat }))
    }
}

/// Nested lists of elements.
struct List<'s> {
    codec: Codec,
    complex: bool,
    shape: &'s [usize],
    out: Vec<u8>,
}

impl List<'_> {
    /// Reads all; whether one element stands for all.
    fn read(&mut self, c: &mut Cursor<'_>, total: usize) -> Step<bool> {
        if c.at_end() {
            return if total == 0 { Ok(false) } else { Err(c.expected("elements")) };
        }
        if c.peek() != b'[' {
            self.one(c)?;
            if total == 0 {
                self.out.clear();
            }
            return Ok(total > 1);
        }
        self.nested(c)?;
        Ok(false)
    }

    fn one(&mut self, c: &mut Cursor<'_>) -> Step<()> {
        if !self.complex {
            return self.codec.put(c, &mut self.out);
        }
        c.expect("(")?;
        self.codec.put(c, &mut self.out)?;
        c.expect(",")?;
        self.codec.put(c, &mut self.out)?;
        c.expect(")")
    }

    fn nested(&mut self, c: &mut Cursor<'_>) -> Step<()> {
        let rank = self.shape.len();
        let mut counts: Vec<usize> = Vec::with_capacity(rank);
        loop {
            // An item is due: a list down to the last dimension, then elements.
            if counts.len() < rank {
                c.expect("[")?;
                counts.push(0);
                if self.shape[counts.len() - 1] != 0 {
                    continue;
                }
            } else {
                self.one(c)?;
                if let Some(last) = counts.last_mut() {
                    *last += 1;
                }
                if c.eat_byte(b',') {
                    continue;
                }
            }
            while let Some(count) = counts.pop() {
                let want = self.shape[counts.len()];
                c.skip();
                if count != want {
                    let what = format!("a list has {count} elements, and dimension {} of the type has {want}", counts.len());
                    return Err(c.fault(LITERAL, what, ""));
                }
                c.expect("]")?;
                let Some(outer) = counts.last_mut() else { return Ok(()) };
                *outer += 1;
                if c.eat_byte(b',') {
                    break;
                }
            }
        }
    }
}

/// Bytes from pairs of hexadecimal digits.
fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    const TABLE: [u8; 256] = {
        let mut table = [0xFF_u8; 256];
        let mut i = 0;
        while i < 16 {
            table[b"0123456789abcdef"[i] as usize] = i as u8;
            table[b"0123456789ABCDEF"[i] as usize] = i as u8;
            i += 1;
        }
        table
    };
    debug_assert_eq!(hex_digit(b'f'), Some(TABLE[usize::from(b'f')]));
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let mut wrong = 0;
    let bytes = digits
        .chunks_exact(2)
        .map(|pair| {
            let (high, low) = (TABLE[usize::from(pair[0])], TABLE[usize::from(pair[1])]);
            wrong |= high | low;
            high << 4 | low
        })
        .collect();
    (wrong & 0xF0 == 0).then_some(bytes)
}

/// Elements of a block of data, and whether it is one element for all.
fn blob(codec: Codec, mut bytes: Vec<u8>, total: usize, size: usize) -> Result<(Vec<u8>, bool), String> {
    let need = total.checked_mul(size);
    let packed = matches!(codec, Codec::Bool) && bytes.len() != total && bytes.len() == total.div_ceil(8);
    if packed {
        bytes = (0..total).map(|i| bytes[i / 8] >> (i % 8) & 1).collect();
    } else if total > 1 && bytes.len() == size {
        tidy(codec, &mut bytes);
        return Ok((bytes, true));
    } else if need != Some(bytes.len()) {
        let need = need.map_or("more".to_string(), |n| n.to_string());
        return Err(format!("it has {} bytes, and {total} elements of {size} bytes need {need}", bytes.len()));
    }
    tidy(codec, &mut bytes);
    Ok((bytes, false))
}

/// Makes the bytes of truth values 0 and 1, and extends whole numbers of fewer than eight bits.
fn tidy(codec: Codec, bytes: &mut [u8]) {
    match codec {
        Codec::Bool => bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0)),
        Codec::Int { bits: bits @ 1..8, signed, .. } => {
            let shift = 8 - bits;
            bytes.iter_mut().for_each(|b| {
                let up = *b << shift;
                *b = if signed { (up.cast_signed() >> shift).cast_unsigned() } else { up >> shift };
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::reader;
    use super::*;

    fn dense(text: &str) -> Result<Dense, Problem> {
        match reader(text, |r| r.attr())? {
            ModuleAttr::Dense(d) => Ok(d),
            other => panic!("{other:?}"),
        }
    }

    fn f32s(text: &str) -> Vec<f32> {
        dense(text).unwrap().bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }

    #[test]
    fn elements_of_all_kinds() {
        assert_eq!(f32s("dense<[[1.0, -2.5e-1], [0x7F800000, 3]]> : tensor<2x2xf32>"), [1.0, -0.25, f32::INFINITY, 3.0]);
        assert_eq!(f32s("dense<\"0x0000803F00000040\"> : tensor<2xf32>"), [1.0, 2.0]);
        assert_eq!(f32s("dense<(1.0, -0.0)> : tensor<complex<f32>>"), [1.0, -0.0]);
        let bytes = |t: &str| dense(t).unwrap().bytes.to_vec();
        assert_eq!(bytes("dense<[true, false, 1]> : tensor<3xi1>"), [1, 0, 1]);
        assert_eq!(bytes("dense<\"0x010001\"> : tensor<3xi1>"), [1, 0, 1]);
        assert_eq!(bytes("dense<\"0x05\"> : tensor<3xi1>"), [1, 0, 1]);
        assert_eq!(bytes("dense<[-8, 7, 15]> : tensor<3xi4>"), [0xF8, 7, 0xFF]);
        assert_eq!(bytes("dense<\"0x080F\"> : tensor<2xi4>"), [0xF8, 0xFF]);
        assert_eq!(bytes("dense<\"0x080F\"> : tensor<2xui4>"), [8, 15]);
        assert_eq!(bytes("dense<[1.0, 0x7F]> : tensor<2xf8E4M3FN>"), [0x38, 0x7F]);
        assert_eq!(bytes("dense<[1.0, -2.0]> : tensor<2xbf16>"), [0x80, 0x3F, 0x00, 0xC0]);
        assert_eq!(bytes("dense<[-1, 255]> : tensor<2xi8>"), [255, 255]);
        assert_eq!(bytes("dense<18446744073709551615> : tensor<ui64>"), [255; 8]);
    }

    #[test]
    fn one_element_can_stand_for_all() {
        let d = dense("dense<0xFF800000> : tensor<3x4xf32>").unwrap();
        assert!(d.splat && d.bytes[..] == [0, 0, 0x80, 0xFF]);
        assert!(!dense("dense<1> : tensor<i32>").unwrap().splat);
        assert!(!dense("dense<1> : tensor<1x1xi32>").unwrap().splat);
        assert!(dense("dense<\"0x0000803F\"> : tensor<5xf32>").unwrap().splat);
        assert!(dense("dense<\"0xFF\"> : tensor<50xi1>").unwrap().bytes[..] == [1]);
    }

    #[test]
    fn nothing_is_also_a_tensor() {
        for text in [
            "dense<> : tensor<0xf32>",
            "dense<> : tensor<2x0xf32>",
            "dense<[[], []]> : tensor<2x0xf32>",
            "dense<[]> : tensor<0x2xf32>",
            "dense<1.0> : tensor<0xf32>",
        ] {
            let d = dense(text).unwrap();
            assert!(d.bytes.is_empty() && !d.splat, "{text}");
        }
    }

    #[test]
    fn data_that_does_not_fit_is_told() {
        for (text, code) in [
            ("dense<[1, 2]> : tensor<3xi32>", LITERAL),
            ("dense<[1, 2, 3, 4]> : tensor<3xi32>", LITERAL),
            ("dense<[[1, 2], [3]]> : tensor<2x2xi32>", LITERAL),
            ("dense<256> : tensor<i8>", LITERAL),
            ("dense<-1> : tensor<ui8>", LITERAL),
            ("dense<1.5> : tensor<i32>", LITERAL),
            ("dense<2> : tensor<i1>", LITERAL),
            ("dense<0x1FFFFFFFF> : tensor<f32>", LITERAL),
            ("dense<\"0x00\"> : tensor<3xf32>", LITERAL),
            ("dense<\"0x0G\"> : tensor<1xi8>", TOKEN),
            ("dense<\"abc\"> : tensor<1xi8>", LITERAL),
            ("dense<[1 2]> : tensor<2xi8>", LITERAL),
            ("dense<> : tensor<2xi8>", super::super::error::SYNTAX),
            ("dense<[[1]]> : tensor<1xi8>", super::super::error::SYNTAX),
            ("dense<[1", TOKEN),
            ("dense_resource<__elided__> : tensor<4xf32>", RESOURCE),
            ("dense_resource<weights> : tensor<4xf32>", RESOURCE),
        ] {
            assert_eq!(dense(text).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn resources_stand_at_the_end_of_the_file() {
        let text = "dense_resource<w> : tensor<2xf32>\n{-#\n  dialect_resources: {\n    builtin: {\n      w: \"0x040000000000803F00000040\"\n    }\n  }\n#-}\n";
        assert_eq!(f32s(text), [1.0, 2.0]);
    }
}
