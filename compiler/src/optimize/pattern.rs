//! The notation of rules: what the tables say, read into trees.
//!
//! A pattern is an s-expression: `(reduce[sum, ?d] (mul ?a #c))`. `?x` binds a class or, inside the brackets, an attribute; `#c` binds a
//! class whose elements are all one known number; a number matches such a class exactly, `~0.1` up to rounding; `?c@(…)` names what it matches; `%unary` and
//! `%binary` stand for any op of that family. The right side may also call functions: `(transpose[pick(?q, ?p)] ?a)`; a number there
//! takes the type of its neighbor. Guards are calls of predicates joined by `&`. Functions and predicates are in `functions.rs`.

use super::functions::{Function, Predicate, function, predicate};
use super::space::{KindId, kind};
use girih_ir::attr::Attr;
use girih_ir::ops::Op;
use girih_ir::scalar::BinaryFn;
use std::fmt;

/// Any op of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Elementwise functions of one operand that keep the element type.
    Unary,
    /// Elementwise functions of two operands.
    Binary,
}

/// The op of a pattern or template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// An op of this name.
    Kind {
        /// The name, as an id.
        kind: KindId,
        /// The name.
        name: &'static str,
        /// Whether the operands may be swapped.
        commutative: bool,
    },
    /// Any op of a family; the number is the op variable.
    Family(Family, usize),
}

/// An attribute of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AttrPattern {
    /// Binds, or equals what was bound before.
    Variable(usize),
    /// Is exactly this.
    Literal(Attr),
}

/// The left side of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pattern {
    /// Any class; binds.
    Variable(usize),
    /// A class of one known number; binds.
    Uniform(usize),
    /// A class of this number, or of one that rounding may have made of it.
    Number {
        /// The number.
        value: f64,
        /// Whether it may be off by rounding.
        near: bool,
    },
    /// Binds the class that the pattern matches.
    Named(usize, Box<Pattern>),
    /// An op.
    Op {
        /// Which.
        head: Head,
        /// Its attributes, all of them, or none when they do not matter.
        attrs: Vec<AttrPattern>,
        /// Its operands.
        args: Vec<Pattern>,
    },
}

/// The right side of a rule.
#[derive(Clone, Debug)]
pub(super) enum Template {
    /// A bound class.
    Variable(usize),
    /// A number in the type of a neighbor.
    Number(Argument),
    /// An op.
    Op {
        /// Which.
        head: Head,
        /// Its attributes.
        attrs: Vec<Argument>,
        /// Its operands.
        args: Vec<Template>,
    },
}

/// An argument of a function, or an attribute of a template.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    /// A bound class.
    Class(usize),
    /// A bound attribute.
    Attr(usize),
    /// A literal.
    Literal(Attr),
    /// A computed value.
    Call(Function, Vec<Argument>),
}

/// A guard.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// What must hold.
    pub predicate: Predicate,
    /// Of what.
    pub args: Vec<Argument>,
}

/// The variables of a rule, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Names {
    /// Class variables.
    pub classes: Vec<String>,
    /// Attribute variables.
    pub attrs: Vec<String>,
    /// Op variables.
    pub ops: Vec<String>,
}

/// A rule side that does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadError(String);

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    names: &'a mut Names,
    may_bind: bool,
}

type Read<T> = Result<T, ReadError>;

/// Reads a left side.
pub(super) fn read_pattern(text: &str, names: &mut Names) -> Read<Pattern> {
    let mut r = Reader { text, at: 0, names, may_bind: true };
    let p = r.pattern()?;
    r.end()?;
    Ok(p)
}

/// Reads a right side.
pub(super) fn read_template(text: &str, names: &mut Names) -> Read<Template> {
    let mut r = Reader { text, at: 0, names, may_bind: false };
    let t = r.template()?;
    r.end()?;
    Ok(t)
}

/// Reads guards; an empty text is none.
pub(super) fn read_guards(text: &str, names: &mut Names) -> Read<Vec<Guard>> {
    let mut r = Reader { text, at: 0, names, may_bind: false };
    let mut guards = Vec::new();
    while !r.rest().is_empty() {
        let name = r.word()?;
        let predicate = predicate(name).ok_or_else(|| r.error(format!("no predicate `{name}`")))?;
        guards.push(Guard { predicate, args: r.arguments()? });
        if !r.take("&") {
            break;
        }
    }
    r.end()?;
    Ok(guards)
}

impl<'a> Reader<'a> {
    fn error(&self, why: impl fmt::Display) -> ReadError {
        ReadError(format!("{why} at `{}` of `{}`", &self.text[self.at..], self.text))
    }
    fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        &self.text[self.at..]
    }
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }
    fn expect(&mut self, token: &str) -> Read<()> {
        if self.take(token) { Ok(()) } else { Err(self.error(format!("expected `{token}`"))) }
    }
    fn end(&mut self) -> Read<()> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.error("expected the end")) }
    }
    fn word(&mut self) -> Read<&'a str> {
        let rest = self.rest();
        let length = rest.find(|c: char| !(c.is_alphanumeric() || "_-.+".contains(c))).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.error("expected a word"));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    fn slot(names: &mut Vec<String>, name: &str, may_bind: bool) -> Option<usize> {
        names.iter().position(|n| n == name).or_else(|| {
            may_bind.then(|| {
                names.push(name.to_string());
                names.len() - 1
            })
        })
    }
    fn class(&mut self, name: &str) -> Read<usize> {
        Self::slot(&mut self.names.classes, name, self.may_bind).ok_or_else(|| self.error(format!("`{name}` is not bound")))
    }

    fn head(&mut self) -> Read<Head> {
        if self.take("%") {
            let name = self.word()?;
            let family = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
                "unary" => Family::Unary,
                "binary" => Family::Binary,
                _ => return Err(self.error(format!("no family `{name}`"))),
            };
            let slot = Self::slot(&mut self.names.ops, name, self.may_bind).ok_or_else(|| self.error(format!("`%{name}` is not bound")))?;
            return Ok(Head::Family(family, slot));
        }
        let word = self.word()?;
        let kind = kind(word).ok_or_else(|| self.error(format!("no op `{word}`")))?;
        let name = Op::names()[kind.index()];
        Ok(Head::Kind { kind, name, commutative: BinaryFn::from_name(name).is_some_and(BinaryFn::is_commutative) })
    }

    fn pattern(&mut self) -> Read<Pattern> {
        if self.take("#") {
            let name = format!("#{}", self.word()?);
            return self.class(&name).map(Pattern::Uniform);
        }
        if self.take("?") {
            let name = format!("?{}", self.word()?);
            let slot = self.class(&name)?;
            return if self.take("@") { Ok(Pattern::Named(slot, Box::new(self.pattern()?))) } else { Ok(Pattern::Variable(slot)) };
        }
        if !self.take("(") {
            let near = self.take("~");
            let word = self.word()?;
            let value = word.parse().map_err(|_| self.error(format!("`{word}` is no number")))?;
            return Ok(Pattern::Number { value, near });
        }
        let head = self.head()?;
        let mut attrs = Vec::new();
        if self.take("[") {
            while !self.take("]") {
                attrs.push(if self.take("?") {
                    let name = format!("?{}", self.word()?);
                    AttrPattern::Variable(Self::slot(&mut self.names.attrs, &name, true).unwrap_or_default())
                } else {
                    AttrPattern::Literal(literal(self.word()?))
                });
                self.take(",");
            }
        }
        let mut args = Vec::new();
        while !self.take(")") {
            args.push(self.pattern()?);
        }
        Ok(Pattern::Op { head, attrs, args })
    }

    fn template(&mut self) -> Read<Template> {
        if self.rest().starts_with(['?', '#']) {
            let sigil = &self.rest()[..1];
            self.at += 1;
            let name = format!("{sigil}{}", self.word()?);
            return self.class(&name).map(Template::Variable);
        }
        if !self.take("(") {
            return self.argument().map(Template::Number);
        }
        let head = self.head()?;
        let attrs = if self.rest().starts_with('[') { self.list("[", "]")? } else { Vec::new() };
        let mut args = Vec::new();
        while !self.take(")") {
            args.push(self.template()?);
        }
        Ok(Template::Op { head, attrs, args })
    }

    fn argument(&mut self) -> Read<Argument> {
        if self.rest().starts_with(['?', '#']) {
            let sigil = &self.rest()[..1];
            self.at += 1;
            let name = format!("{sigil}{}", self.word()?);
            if let Some(i) = self.names.attrs.iter().position(|n| *n == name) {
                return Ok(Argument::Attr(i));
            }
            return self.class(&name).map(Argument::Class);
        }
        let word = self.word()?;
        if self.rest().starts_with('(') {
            let f = function(word).ok_or_else(|| self.error(format!("no function `{word}`")))?;
            return Ok(Argument::Call(f, self.arguments()?));
        }
        Ok(Argument::Literal(literal(word)))
    }
    fn arguments(&mut self) -> Read<Vec<Argument>> {
        self.list("(", ")")
    }
    fn list(&mut self, open: &str, close: &str) -> Read<Vec<Argument>> {
        self.expect(open)?;
        let mut list = Vec::new();
        while !self.take(close) {
            list.push(self.argument()?);
            self.take(",");
        }
        Ok(list)
    }
}

fn literal(word: &str) -> Attr {
    match word {
        "true" => Attr::Bool(true),
        "false" => Attr::Bool(false),
        _ => match (word.parse::<i64>(), word.parse::<f64>()) {
            (Ok(i), _) => Attr::Int(i),
            (_, Ok(v)) => Attr::Float(v.to_bits()),
            _ => Attr::Word(word.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_and_where() {
        let bad = |text: &str| read_pattern(text, &mut Names::default()).unwrap_err().to_string();
        assert_eq!(bad("(frob ?a)"), "no op `frob` at ` ?a)` of `(frob ?a)`");
        assert_eq!(bad("(neg ?a) x"), "expected the end at `x` of `(neg ?a) x`");
        let mut names = Names::default();
        read_pattern("(neg ?a)", &mut names).unwrap();
        assert_eq!(read_template("?b", &mut names).unwrap_err().to_string(), "`?b` is not bound at `` of `?b`");
        assert!(read_guards("odd(?a)", &mut names).unwrap_err().to_string().starts_with("no predicate `odd`"));
    }

    #[test]
    fn variables_are_numbered_in_order() {
        let mut names = Names::default();
        let p = read_pattern("(reduce[sum, ?d] ?c@(mul ?a #k))", &mut names).unwrap();
        assert_eq!(names.classes, ["?c", "?a", "#k"]);
        assert_eq!(names.attrs, ["?d"]);
        assert!(matches!(p, Pattern::Op { attrs, .. } if attrs.len() == 2));
    }
}
