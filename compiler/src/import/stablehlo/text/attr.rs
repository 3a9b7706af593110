//! Attributes: numbers, strings, lists, dictionaries, constants, types and aliases.
//!
//! Attributes that dialects define (`#stablehlo.gather<…>`) are in `dialect`.

use super::error::{LITERAL, NAME, STRUCTURE, Step, problem};
use super::lex::parse_int;
use super::types::{element, is_type};
use super::{Reader, alias};
use crate::import::stablehlo::module::{Element, ModuleAttr, ModuleType};
use girih_ir::types::DType;
use indexmap::IndexMap;

/// Attributes by name.
pub(super) type Attrs = IndexMap<String, ModuleAttr>;

impl<'a> Reader<'a> {
    /// An attribute, with the type behind a number if one stands there.
    pub(super) fn attr(&mut self) -> Step<ModuleAttr> {
        self.any(true)
    }

    /// An attribute in a pretty form, where a `:` starts the types of the operation.
    pub(super) fn plain(&mut self) -> Step<ModuleAttr> {
        self.any(false)
    }

    fn any(&mut self, typed: bool) -> Step<ModuleAttr> {
        match self.at.peek() {
            b'"' => {
                let text = self.at.string()?;
                if typed && self.at.eat_byte(b':') {
                    self.ty()?;
                }
                Ok(ModuleAttr::Text(text))
            }
            b'-' | b'0'..=b'9' => self.number(typed),
            b'@' => Ok(ModuleAttr::Symbol(self.at.symbol()?)),
            b'#' => self.hash(),
            b'!' => Ok(ModuleAttr::Type(self.ty()?)),
            b'[' => {
                self.at.enter()?;
                let all = self.list_of("[", "]", |r| r.any(typed))?;
                self.at.leave();
                Ok(ModuleAttr::List(all))
            }
            b'{' => {
                self.at.enter()?;
                let all = self.dictionary()?;
                self.at.leave();
                Ok(ModuleAttr::Fields(all))
            }
            b'(' => self.function_type(),
            b'<' => self.sharding(),
            b'?' => {
                self.at.pos += 1;
                Ok(ModuleAttr::Word("?".into()))
            }
            _ => self.word_attr(typed),
        }
    }

    fn word_attr(&mut self, typed: bool) -> Step<ModuleAttr> {
        let start = self.at.pos;
        let word = self.at.word();
        if word == "loc" {
            self.location()?;
            return Ok(ModuleAttr::Other(self.at.slice(start, self.at.pos).to_string()));
        }
        if is_type(word) {
            return Ok(ModuleAttr::Type(self.ty()?));
        }
        let word = self.at.name("an attribute")?;
        match word {
            "true" => Ok(ModuleAttr::Bool(true)),
            "false" => Ok(ModuleAttr::Bool(false)),
            "unit" => Ok(ModuleAttr::Unit),
            "dense" => self.dense(),
            "dense_resource" => self.dense_resource(),
            "array" => self.array(),
            _ if self.at.byte() == b'<' => {
                self.at.balanced()?;
                if typed && self.at.eat_byte(b':') {
                    self.ty()?;
                }
                Ok(ModuleAttr::Other(self.at.slice(start, self.at.pos).to_string()))
            }
            _ => Ok(ModuleAttr::Word(word.to_string())),
        }
    }

    /// A number: `3 : i64`, `1.0e-5 : f32`, `0x7FC00000 : f32`.
    fn number(&mut self, typed: bool) -> Step<ModuleAttr> {
        let start = self.at.pos;
        let text = self.at.number();
        if text.is_empty() {
            return Err(self.at.expected("a number"));
        }
        let suffix = if typed && self.at.eat_byte(b':') { Some(self.ty()?) } else { None };
        let dtype = match &suffix {
            Some(ModuleType::Other(name)) => match element(name) {
                Some(Element::Known(d)) => Some(d),
                _ => None,
            },
            _ => None,
        };
        let whole = parse_int(text);
        let hex = text.contains("0x");
        let found = match (whole, dtype) {
            (Some(v), Some(d)) if d.is_float() && hex => float_bits(v, d).map(ModuleAttr::Float),
            (Some(v), Some(d)) if d.is_float() => Some(ModuleAttr::Float(v as f64)),
            (Some(v), d) => i64::try_from(v)
                .ok()
                .or_else(|| u64::try_from(v).ok().filter(|_| d == Some(DType::U64)).map(u64::cast_signed))
                .map(ModuleAttr::Int),
            (None, d) if d.is_none_or(DType::is_float) => text.parse().ok().map(ModuleAttr::Float),
            _ => None,
        };
        found.ok_or_else(|| {
            problem(self.at.text, start, LITERAL, format!("`{}` does not fit its type", text.chars().take(40).collect::<String>()), "")
        })
    }

    /// `array<i64: 1, 2>`, after the word.
    fn array(&mut self) -> Step<ModuleAttr> {
        self.at.expect("<")?;
        let ty = self.ty()?;
        let float = matches!(&ty, ModuleType::Other(name) if name.starts_with('f') || name == "bf16");
        let mut ints = Vec::new();
        let mut floats = Vec::new();
        if self.at.eat_byte(b':') {
            loop {
                match self.any(false)? {
                    ModuleAttr::Int(v) if !float => ints.push(v),
                    ModuleAttr::Int(v) => floats.push(ModuleAttr::Float(v as f64)),
                    ModuleAttr::Bool(b) if !float => ints.push(i64::from(b)),
                    v @ ModuleAttr::Float(_) if float => floats.push(v),
                    _ => return Err(self.at.fault(LITERAL, format!("an element of an array is no {ty}"), "")),
                }
                if !self.at.eat_byte(b',') {
                    break;
                }
            }
        }
        self.at.expect(">")?;
        Ok(if float { ModuleAttr::List(floats) } else { ModuleAttr::Ints(ints) })
    }

    /// `[1, 2]` in a pretty form or a structured attribute.
    pub(super) fn ints(&mut self) -> Step<Vec<i64>> {
        self.list_of("[", "]", |r| r.at.int())
    }

    /// `{a = 1, b}`
    pub(super) fn dictionary(&mut self) -> Step<Attrs> {
        let mut all = Attrs::new();
        self.at.expect("{")?;
        if self.at.eat_byte(b'}') {
            return Ok(all);
        }
        loop {
            self.entry(&mut all)?;
            if !self.at.eat_byte(b',') {
                self.at.expect("}")?;
                return Ok(all);
            }
        }
    }

    fn entry(&mut self, all: &mut Attrs) -> Step<()> {
        let start = self.at.pos;
        let key = if self.at.peek() == b'"' { self.at.string()? } else { self.at.name("the name of an attribute")?.to_string() };
        let value = if self.at.eat_byte(b'=') { self.attr()? } else { ModuleAttr::Unit };
        if all.contains_key(&key) {
            return Err(problem(self.at.text, start, NAME, format!("the attribute `{key}` is there twice"), ""));
        }
        all.insert(key, value);
        Ok(())
    }

    /// A dictionary if one comes next, added to those that are there.
    pub(super) fn more_attrs(&mut self, all: &mut Attrs) -> Step<()> {
        if self.at.peek() == b'{' && !self.at.sees("{-#") {
            self.at.enter()?;
            all.extend(self.dictionary()?);
            self.at.leave();
        }
        Ok(())
    }

    /// `(A, B) -> C` as the fields `inputs` and `results`.
    fn function_type(&mut self) -> Step<ModuleAttr> {
        self.at.enter()?;
        let inputs = self.list_of("(", ")", Self::ty)?;
        self.at.expect("->")?;
        let results = self.type_or_types()?;
        self.at.leave();
        let list = |all: Vec<ModuleType>| ModuleAttr::List(all.into_iter().map(ModuleAttr::Type).collect());
        Ok(ModuleAttr::Fields(Attrs::from_iter([("inputs".to_string(), list(inputs)), ("results".to_string(), list(results))])))
    }

    /// `#alias`, or an attribute of a dialect.
    fn hash(&mut self) -> Step<ModuleAttr> {
        let start = self.at.pos;
        self.at.pos += 1;
        let name = self.at.suffix()?;
        if name.contains('.') || self.at.byte() == b'<' {
            return self.dialect_attr(name, start);
        }
        let Some(found) = self.attr_aliases.get(name).cloned() else {
            return Err(problem(self.at.text, start, NAME, format!("the alias `#{name}` is not defined above"), ""));
        };
        self.spend(alias::weight(&found))?;
        Ok(found)
    }

    /// Counts what aliases copy.
    pub(super) fn spend(&mut self, bytes: usize) -> Step<()> {
        /// Bytes that all uses of aliases may copy: far above what printers make.
        const MOST: usize = 1 << 28;
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > MOST {
            return Err(self.at.fault(super::error::LIMIT, "aliases stand for more than 256 MiB of attributes", ""));
        }
        Ok(())
    }

    /// The function type of a dictionary.
    pub(super) fn split_function_type(&self, attr: Option<ModuleAttr>, at: usize) -> Step<(Vec<ModuleType>, Vec<ModuleType>)> {
        let take = |all: Option<ModuleAttr>| match all {
            Some(ModuleAttr::List(all)) => all.into_iter().map(|t| if let ModuleAttr::Type(t) = t { Some(t) } else { None }).collect(),
            _ => None,
        };
        let both = match attr {
            Some(ModuleAttr::Fields(mut f)) => take(f.shift_remove("inputs")).zip(take(f.shift_remove("results"))),
            _ => None,
        };
        both.ok_or_else(|| problem(self.at.text, at, STRUCTURE, "a function has no `function_type`", ""))
    }
}

/// The number of a bit pattern.
fn float_bits(bits: i128, d: DType) -> Option<f64> {
    Some(match d {
        DType::F64 => f64::from_bits(u64::try_from(bits).ok()?),
        DType::F32 => f64::from(f32::from_bits(u32::try_from(bits).ok()?)),
        DType::F16 => half::f16::from_bits(u16::try_from(bits).ok()?).to_f64(),
        DType::BF16 => half::bf16::from_bits(u16::try_from(bits).ok()?).to_f64(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::error::{LIMIT, SYNTAX};
    use super::super::tests::reader;
    use super::*;

    fn attr(text: &str) -> ModuleAttr {
        reader(text, |r| r.attr()).unwrap()
    }

    #[test]
    fn simple_attributes() {
        assert_eq!(attr("3 : i64"), ModuleAttr::Int(3));
        assert_eq!(attr("-1 : i32"), ModuleAttr::Int(-1));
        assert_eq!(attr("1.5e1 : f32"), ModuleAttr::Float(15.0));
        assert_eq!(attr("0x7F800000 : f32"), ModuleAttr::Float(f64::INFINITY));
        assert_eq!(attr("2 : f32"), ModuleAttr::Float(2.0));
        assert_eq!(attr("true"), ModuleAttr::Bool(true));
        assert_eq!(attr("@f"), ModuleAttr::Symbol("f".into()));
        assert_eq!(attr("array<i64: 1, -2>"), ModuleAttr::Ints(vec![1, -2]));
        assert_eq!(attr("array<i1: true, false>"), ModuleAttr::Ints(vec![1, 0]));
        assert_eq!(attr("array<i64>"), ModuleAttr::Ints(vec![]));
        assert_eq!(attr("array<f32: 1.0, 2>"), ModuleAttr::List(vec![ModuleAttr::Float(1.0), ModuleAttr::Float(2.0)]));
        assert_eq!(attr("[1 : i64, \"a\"]"), ModuleAttr::List(vec![ModuleAttr::Int(1), ModuleAttr::Text("a".into())]));
        assert_eq!(attr("tensor<2xi4>").to_owned(), ModuleAttr::Type(reader("tensor<2xi4>", |r| r.ty()).unwrap()));
        assert!(matches!(attr("affine_map<(d0) -> (d0)>"), ModuleAttr::Other(t) if t == "affine_map<(d0) -> (d0)>"));
        let ModuleAttr::Fields(fields) = attr("{a, \"b.c\" = {d = unit}, e.f = loc(unknown)}") else { panic!("no fields") };
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["a", "b.c", "e.f"]);
    }

    #[test]
    fn bad_attributes_are_told() {
        for (text, code) in [
            ("", SYNTAX),
            ("{a = }", SYNTAX),
            ("{a = 1, a = 2}", NAME),
            ("1.5 : i32", LITERAL),
            ("99999999999999999999 : i64", LITERAL),
            ("array<i64: 1.5>", LITERAL),
            ("#nowhere", NAME),
            (&"[".repeat(100_000), LIMIT),
            (&"{a=".repeat(100_000), LIMIT),
        ] {
            assert_eq!(reader(text, |r| r.attr()).unwrap_err().code, code, "{}", &text[..text.len().min(30)]);
        }
    }
}
