//! Types: `tensor<2x3xf32>`, `tuple<…>`, `!stablehlo.token`, and everything else as it stands.
//!
//! Extents are read digit by digit, because `0x6xf32` is a shape and no hexadecimal number.

use super::error::{LIMIT, Step, TYPE};
use super::{Reader, alias};
use crate::import::stablehlo::module::{Element, ModuleType};
use girih_ir::types::{DType, Dims};

/// The element type of that name. Only names that StableHLO knows count.
pub(super) fn element(name: &str) -> Option<Element> {
    let known = match name {
        "i1" => DType::Bool,
        "i8" | "si8" => DType::I8,
        "i16" | "si16" => DType::I16,
        "i32" | "si32" => DType::I32,
        "i64" | "si64" => DType::I64,
        "ui8" => DType::U8,
        "ui16" => DType::U16,
        "ui32" => DType::U32,
        "ui64" => DType::U64,
        "f32" => DType::F32,
        "f64" => DType::F64,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => {
            let digits = name.trim_start_matches(|c: char| c.is_ascii_lowercase());
            let prefix = &name[..name.len() - digits.len()];
            let whole = matches!(prefix, "i" | "si" | "ui") && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let small =
                prefix == "f" && matches!(digits.as_bytes().get(1), Some(b'E')) && digits.bytes().all(|b| b.is_ascii_alphanumeric());
            let other = whole || small || matches!(name, "index" | "tf32" | "f80" | "f128" | "none");
            let in_ir = if small { DType::from_name(name).or_else(|| DType::from_name(&name.to_ascii_lowercase())) } else { None };
            return in_ir.map(Element::Known).or_else(|| other.then(|| Element::Other(name.to_string())));
        }
    };
    Some(Element::Known(known))
}

/// Whether a word starts a type.
pub(super) fn is_type(word: &str) -> bool {
    matches!(word, "tensor" | "tuple" | "complex" | "vector" | "memref") || element(word).is_some()
}

impl Reader<'_> {
    /// A type.
    pub(super) fn ty(&mut self) -> Step<ModuleType> {
        if self.at.eat_word("tensor") {
            return self.tensor();
        }
        if self.at.peek() == b'!' {
            return self.dialect_type();
        }
        let start = self.at.pos;
        let word = self.at.word();
        if word == "tuple" {
            self.at.pos += word.len();
            self.at.enter()?;
            let parts = self.list_of("<", ">", Self::ty)?;
            self.at.leave();
            return Ok(ModuleType::Tuple(parts));
        }
        if !is_type(word) {
            return Err(self.at.expected("a type"));
        }
        self.at.pos += word.len();
        if self.at.byte() == b'<' {
            self.at.balanced()?;
        }
        Ok(ModuleType::Other(self.at.slice(start, self.at.pos).to_string()))
    }

    /// Types between brackets.
    pub(super) fn list_of<T>(&mut self, open: &str, close: &str, item: impl Fn(&mut Self) -> Step<T>) -> Step<Vec<T>> {
        let mut all = Vec::new();
        self.at.expect(open)?;
        if self.at.eat(close) {
            return Ok(all);
        }
        loop {
            all.push(item(self)?);
            if !self.at.eat_byte(b',') {
                self.at.expect(close)?;
                return Ok(all);
            }
        }
    }

    /// One type, or several in parentheses.
    pub(super) fn type_or_types(&mut self) -> Step<Vec<ModuleType>> {
        if self.at.peek() == b'(' { self.list_of("(", ")", Self::ty) } else { Ok(vec![self.ty()?]) }
    }

    /// `!stablehlo.token`, an alias, or another dialect's type.
    fn dialect_type(&mut self) -> Step<ModuleType> {
        let start = self.at.pos;
        self.at.pos += 1;
        let name = self.at.suffix()?;
        if matches!(name, "stablehlo.token" | "mhlo.token") {
            return Ok(ModuleType::Token);
        }
        if self.at.byte() == b'<' {
            self.at.balanced()?;
        } else if !name.contains('.') {
            let Some(found) = self.type_aliases.get(name).cloned() else {
                self.at.pos = start;
                return Err(self.at.fault(TYPE, format!("the type alias `!{name}` is not defined above"), ""));
            };
            self.spend(alias::type_weight(&found))?;
            return Ok(found);
        }
        Ok(ModuleType::Other(self.at.slice(start, self.at.pos).to_string()))
    }

    /// What follows `tensor`.
    fn tensor(&mut self) -> Step<ModuleType> {
        let word = self.at.pos;
        self.at.expect("<")?;
        let mut shape = Dims::new();
        let mut elements = 1_usize;
        let mut fixed = true;
        loop {
            match self.at.peek() {
                b'?' | b'*' => {
                    fixed = false;
                    self.at.pos += 1;
                }
                b'0'..=b'9' => {
                    let extent = self.extent()?;
                    let product = elements.checked_mul(extent).filter(|e| *e <= self.limits.elements);
                    let Some(product) = product else {
                        let what = format!("a tensor has more than {} elements", self.limits.elements);
                        return Err(self.at.fault(LIMIT, what, ""));
                    };
                    elements = product;
                    shape.push(extent);
                }
                _ => break,
            }
            if shape.len() > self.limits.rank {
                return Err(self.at.fault(LIMIT, format!("a tensor has more than {} dimensions", self.limits.rank), ""));
            }
            if self.at.peek() != b'x' {
                return Err(self.at.fault(
                    TYPE,
                    "expected `x` after an extent of a tensor",
                    "extents and the element are joined by `x`: `tensor<2x3xf32>`",
                ));
            }
            self.at.pos += 1;
        }
        let element = self.element()?;
        if self.at.eat_byte(b',') {
            fixed &= !self.at.sees("#stablehlo.bounds");
            self.at.enter()?;
            self.attr()?;
            self.at.leave();
        }
        self.at.expect(">")?;
        if fixed {
            Ok(ModuleType::Tensor { shape, element })
        } else {
            Ok(ModuleType::Other(format!("tensor{}", self.at.slice(word, self.at.pos))))
        }
    }

    fn extent(&mut self) -> Step<usize> {
        let bytes = &self.at.text.as_bytes()[self.at.pos..];
        let length = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let text = self.at.slice(self.at.pos, self.at.pos + length);
        let Ok(extent) = text.parse::<usize>() else {
            return Err(self.at.fault(LIMIT, format!("an extent of {length} digits"), ""));
        };
        self.at.pos += length;
        Ok(extent)
    }

    fn element(&mut self) -> Step<Element> {
        let start = self.at.pos;
        if self.at.peek() == b'!' {
            let ty = self.dialect_type()?;
            return Ok(Element::Other(ty.to_string()));
        }
        let word = self.at.word();
        if word == "complex" {
            self.at.pos += word.len();
            self.at.expect("<")?;
            let part = self.at.name("`f32` or `f64`")?;
            self.at.expect(">")?;
            return match part {
                "f32" => Ok(Element::Complex(DType::F32)),
                "f64" => Ok(Element::Complex(DType::F64)),
                _ => Ok(Element::Other(format!("complex<{part}>"))),
            };
        }
        match element(word) {
            Some(e) => {
                self.at.pos += word.len();
                Ok(e)
            }
            None => {
                self.at.pos = start;
                self.at.skip();
                let shown: String = word.chars().take(40).collect();
                Err(self.at.fault(
                    TYPE,
                    format!("`{shown}` is no element type"),
                    "known are f32, bf16, f16, f64, i1 to i64, ui2 to ui64, f8E4M3FN and the like, complex<f32>",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::reader;
    use super::*;

    #[test]
    fn types_are_read_and_written_back() {
        for text in [
            "tensor<f32>",
            "tensor<2x3xbf16>",
            "tensor<0x6xui32>",
            "tensor<4xcomplex<f32>>",
            "tensor<2xi4>",
            "tensor<4xf8E3M4>",
            "tensor<2x!quant.uniform<i8:f32:0, {0.1:-30,0.5:-20}>>",
            "tensor<?x8xf32>",
            "tensor<*xf32>",
            "tuple<tensor<i64>, tuple<>>",
            "!stablehlo.token",
            "!tf_type.string",
            "f32",
        ] {
            let got = reader(text, |r| r.ty()).unwrap();
            assert_eq!(got.to_string().replace("bool", "i1").replace("u32", "ui32"), text);
        }
        let fixed = |t: &str| matches!(reader(t, |r| r.ty()), Ok(ModuleType::Tensor { .. }));
        assert!(fixed("tensor<2x2xi64, #enc.x<1>>") && !fixed("tensor<2x2xi64, #stablehlo.bounds<2, ?>>"));
    }

    #[test]
    fn bad_types_are_told() {
        for (text, code) in [
            ("tensor<2x3>", TYPE),
            ("tensor<2 3xf32>", TYPE),
            ("tensor<2xf33>", TYPE),
            ("tensor<x>", TYPE),
            ("tensor<99999999999999999999xf32>", LIMIT),
            ("tensor<99999999999x99999999999xf32>", LIMIT),
            (&format!("tensor<{}f32>", "1x".repeat(65)), LIMIT),
            (&"tuple<".repeat(1000), LIMIT),
            ("!nowhere", TYPE),
        ] {
            assert_eq!(reader(text, |r| r.ty()).unwrap_err().code, code, "{text}");
        }
    }
}
