//! Parsing: recursive descent over the cursor. Every op is typed as it is read, so a parsed graph is well-typed.

use super::error::{TextError, TextErrorKind};
use super::lex::{Cursor, Token};
use super::{literal, program};
use crate::attr::Attr;
use crate::graph::{Graph, Role, ValueId};
use crate::ops::Op;
use crate::types::{DType, Dims, TensorType, Type};
use crate::verify::{MAX_ATTR_INT, MAX_BYTES, MAX_RANK, MAX_REGION_DEPTH};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that all splat constants of one text may expand to.
const MAX_SPLAT_BYTES: usize = 256 << 20;

/// A parser: the cursor and what is left of the limits.
#[derive(Debug)]
pub(crate) struct Parser<'a> {
    /// Where it is.
    pub(crate) cursor: Cursor<'a>,
    depth: usize,
    splat_bytes: usize,
}

/// An input of the header that is not in the graph yet.
struct Pending<'a> {
    id: &'a str,
    ty: TensorType,
    role: Role,
    name: String,
    origin: String,
}

/// The inputs in order, and their ids.
type Header<'a> = (VecDeque<Pending<'a>>, FxHashMap<&'a str, ()>);

/// The values of the graph being read.
struct Scope<'a> {
    graph: Graph,
    values: FxHashMap<&'a str, ValueId>,
    /// Inputs that are not added yet, in order, and the ids of all inputs.
    pending: VecDeque<Pending<'a>>,
    declared: FxHashMap<&'a str, ()>,
}

impl<'a> Scope<'a> {
    /// Adds the inputs whose ids come before `id`: an input may lie anywhere in the graph, and its id says where.
    fn inputs_before(&mut self, id: &str) {
        let number = |s: &str| s.parse::<u64>().ok();
        while let Some(front) = self.pending.front() {
            if let (Some(a), Some(b)) = (number(front.id), number(id))
                && a >= b
            {
                break;
            }
            self.next_input();
        }
    }

    fn next_input(&mut self) {
        if let Some(p) = self.pending.pop_front() {
            self.graph.set_origin(&p.origin);
            let v = self.graph.input(p.name, p.ty, p.role);
            self.values.insert(p.id, v);
        }
    }
}

/// Reads the text form of one graph.
pub fn parse_graph(text: &str) -> Result<Graph, TextError> {
    let mut p = Parser::new(text);
    let g = p.graph()?;
    p.end()?;
    Ok(g)
}

impl std::str::FromStr for Graph {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        parse_graph(text)
    }
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Parser { cursor: Cursor::new(text), depth: 0, splat_bytes: 0 }
    }

    /// Nothing but blanks and comments may follow.
    pub(crate) fn end(&mut self) -> Result<(), TextError> {
        match self.cursor.next()? {
            Token::End => Ok(()),
            other => Err(self.cursor.unexpected("the end of the text", other)),
        }
    }

    /// Counts bytes that a short text asks for.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), TextError> {
        self.splat_bytes = self.splat_bytes.saturating_add(bytes);
        if self.splat_bytes > MAX_SPLAT_BYTES {
            let what = "the constants of equal elements need too many bytes";
            return Err(self.cursor.error(TextErrorKind::Limit { what, limit: MAX_SPLAT_BYTES }));
        }
        Ok(())
    }

    /// `f32[64,32]`
    pub(crate) fn tensor_type(&mut self) -> Result<TensorType, TextError> {
        let word = self.cursor.word("a type such as `f32[2,3]`")?;
        let mark = self.cursor.mark();
        let dtype = DType::from_name(word).ok_or_else(|| self.cursor.unexpected("an element type", Token::Word(word)))?;
        self.cursor.expect("[")?;
        let mut shape = Dims::new();
        while !self.cursor.eat("]")? {
            if !shape.is_empty() {
                self.cursor.expect(",")?;
            }
            shape.push(self.cursor.integer("an extent")?);
            if shape.len() > MAX_RANK {
                return Err(self.cursor.error(TextErrorKind::Limit { what: "the type has too many dimensions", limit: MAX_RANK }));
            }
        }
        let ty = TensorType { dtype, shape };
        if !crate::verify::size_is_sane(&ty) {
            return Err(self.cursor.error_at(mark, TextErrorKind::Limit { what: "the tensor has too many bytes", limit: MAX_BYTES }));
        }
        Ok(ty)
    }

    fn ty(&mut self) -> Result<Type, TextError> {
        if !self.cursor.eat("(")? {
            return self.tensor_type().map(Type::Tensor);
        }
        let mut parts = Vec::new();
        while !self.cursor.eat(")")? {
            if !parts.is_empty() {
                self.cursor.expect(",")?;
            }
            parts.push(self.tensor_type()?);
        }
        Ok(Type::Tuple(parts))
    }

    /// `graph @name(inputs) { statements return outputs }`
    pub(crate) fn graph(&mut self) -> Result<Graph, TextError> {
        self.cursor.keyword("graph")?;
        if self.depth == MAX_REGION_DEPTH {
            return Err(self.cursor.error(TextErrorKind::Limit { what: "regions are nested too deep", limit: MAX_REGION_DEPTH }));
        }
        self.depth += 1;
        let name = if self.cursor.eat("@")? { self.cursor.name()? } else { String::new() };
        let (pending, declared) = self.header()?;
        let mut scope = Scope { graph: Graph::new(name), values: FxHashMap::default(), pending, declared };
        self.cursor.expect("{")?;
        loop {
            match self.cursor.next()? {
                Token::Value(id) => self.statement(&mut scope, id)?,
                Token::Word("return") => break,
                other => return Err(self.cursor.unexpected("a statement such as `%2 = add %0, %1`, or `return`", other)),
            }
        }
        while !scope.pending.is_empty() {
            scope.next_input();
        }
        self.outputs(&mut scope)?;
        self.cursor.expect("}")?;
        self.depth -= 1;
        scope.graph.clear_origin();
        Ok(scope.graph)
    }

    fn header(&mut self) -> Result<Header<'a>, TextError> {
        self.cursor.expect("(")?;
        let mut inputs: VecDeque<Pending<'a>> = VecDeque::new();
        let mut seen: FxHashMap<&'a str, ()> = FxHashMap::default();
        while !self.cursor.eat(")")? {
            if !inputs.is_empty() {
                self.cursor.expect(",")?;
            }
            let id = self.cursor.value()?;
            if seen.insert(id, ()).is_some() {
                return Err(self.cursor.error(TextErrorKind::Twice { what: format!("%{id}") }));
            }
            self.cursor.expect(":")?;
            let ty = self.tensor_type()?;
            let role = match self.cursor.peek()? {
                Token::Word(w) => {
                    self.cursor.next()?;
                    Role::from_name(w).ok_or_else(|| self.cursor.unexpected("`input`, `param` or `state`", Token::Word(w)))?
                }
                _ => Role::Data,
            };
            let name = match self.cursor.peek()? {
                Token::Str(_) => self.cursor.quoted("the name")?,
                _ => id.to_string(),
            };
            let origin = self.origin()?;
            inputs.push_back(Pending { id, ty, role, name, origin });
        }
        Ok((inputs, seen))
    }

    fn origin(&mut self) -> Result<String, TextError> {
        if self.cursor.eat("@")? { self.cursor.quoted("the origin in quotes") } else { Ok(String::new()) }
    }

    fn operand(&mut self, scope: &mut Scope<'a>) -> Result<ValueId, TextError> {
        let id = self.cursor.value()?;
        while !scope.values.contains_key(id) && scope.declared.contains_key(id) {
            scope.next_input();
        }
        scope.values.get(id).copied().ok_or_else(|| self.cursor.error(TextErrorKind::UnknownValue { id: id.to_string() }))
    }

    /// The rest of `%2 = add %0, %1 {…} : f32[2] @"origin"`.
    fn statement(&mut self, scope: &mut Scope<'a>, id: &'a str) -> Result<(), TextError> {
        scope.inputs_before(id);
        if scope.values.contains_key(id) || scope.declared.contains_key(id) {
            return Err(self.cursor.error(TextErrorKind::Twice { what: format!("%{id}") }));
        }
        self.cursor.expect("=")?;
        let name = self.cursor.word("an op")?;
        let mark = self.cursor.mark();
        let mut operands = Vec::new();
        if matches!(self.cursor.peek()?, Token::Value(_)) {
            operands.push(self.operand(scope)?);
            while self.cursor.eat(",")? {
                operands.push(self.operand(scope)?);
            }
        }
        let attrs = self.attrs()?;
        let op = match Op::parse(name, &attrs) {
            None => return Err(self.cursor.error_at(mark, unknown_op(name))),
            Some(op) => op.map_err(|e| self.cursor.error_at(mark, e))?,
        };
        let said = if self.cursor.eat(":")? { Some(self.ty()?) } else { None };
        let origin = self.origin()?;
        let types: Vec<&Type> = operands.iter().map(|v| scope.graph.ty(*v)).collect();
        let got = op.infer(&types).map_err(|e| self.cursor.error_at(mark, e))?;
        if !got.components().iter().all(crate::verify::size_is_sane) {
            return Err(self.cursor.error_at(mark, TextErrorKind::Limit { what: "the result has too many bytes", limit: MAX_BYTES }));
        }
        match said {
            Some(said) if said != got => return Err(self.cursor.error_at(mark, TextErrorKind::Type { got, said })),
            _ => {}
        }
        scope.graph.set_origin(&origin);
        let v = scope.graph.add(op, &operands).map_err(|e| self.cursor.error_at(mark, e))?;
        scope.values.insert(id, v);
        Ok(())
    }

    fn outputs(&mut self, scope: &mut Scope<'a>) -> Result<(), TextError> {
        while matches!(self.cursor.peek()?, Token::Value(_)) {
            let v = self.operand(scope)?;
            if scope.graph.ty(v).as_tensor().is_none() {
                let want = "a tensor; take a tuple apart with `proj`";
                return Err(self.cursor.unexpected(want, Token::Word("a tuple")));
            }
            let name = match self.cursor.peek()? {
                Token::Str(_) => self.cursor.quoted("the name")?,
                _ => format!("{v}").trim_start_matches('%').to_string(),
            };
            scope.graph.output(name, v);
            if !self.cursor.eat(",")? {
                break;
            }
        }
        Ok(())
    }

    fn attrs(&mut self) -> Result<Vec<(String, Attr)>, TextError> {
        let mut attrs: Vec<(String, Attr)> = Vec::new();
        if !self.cursor.eat("{")? {
            return Ok(attrs);
        }
        while !self.cursor.eat("}")? {
            if !attrs.is_empty() {
                self.cursor.expect(",")?;
            }
            let name = self.cursor.word("an attribute name")?.to_string();
            if attrs.iter().any(|(n, _)| *n == name) {
                return Err(self.cursor.error(TextErrorKind::Twice { what: format!("attribute `{name}`") }));
            }
            self.cursor.expect("=")?;
            let value = self.attr()?;
            attrs.push((name, value));
        }
        Ok(attrs)
    }

    fn attr(&mut self) -> Result<Attr, TextError> {
        let want = "an attribute value";
        Ok(match self.cursor.peek()? {
            Token::Word("graph") => Attr::Region(Arc::new(self.graph()?)),
            Token::Punct("[") => self.list()?,
            Token::Punct("{") => {
                self.cursor.next()?;
                Attr::Program(Arc::new(program::parse(&mut self.cursor)?))
            }
            token => {
                self.cursor.next()?;
                match token {
                    Token::Word("true") => Attr::Bool(true),
                    Token::Word("false") => Attr::Bool(false),
                    Token::Word("dense") => Attr::Literal(literal::parse_dense(self)?),
                    Token::Word(w) => match (DType::from_name(w), literal::parse_float(w)) {
                        (Some(d), _) => Attr::DType(d),
                        (None, Some(v)) => Attr::Float(v.to_bits()),
                        (None, None) => Attr::Word(w.to_string()),
                    },
                    Token::Str(raw) => Attr::Word(self.cursor.unescape(raw)?),
                    Token::Number(n) => match (n.parse(), literal::parse_float(n)) {
                        (Ok(v), _) => Attr::Int(v),
                        (_, Some(v)) => Attr::Float(v.to_bits()),
                        _ => return Err(self.cursor.unexpected(want, token)),
                    },
                    other => return Err(self.cursor.unexpected(want, other)),
                }
            }
        })
    }

    fn ints(&mut self) -> Result<Vec<i64>, TextError> {
        self.cursor.expect("[")?;
        self.ints_after_bracket()
    }

    fn ints_after_bracket(&mut self) -> Result<Vec<i64>, TextError> {
        let mut values = Vec::new();
        while !self.cursor.eat("]")? {
            if !values.is_empty() {
                self.cursor.expect(",")?;
            }
            let v: i64 = self.cursor.integer("an integer")?;
            if v.unsigned_abs() > MAX_ATTR_INT as u64 {
                return Err(self.cursor.error(TextErrorKind::Limit { what: "the number is too large", limit: MAX_ATTR_INT }));
            }
            values.push(v);
        }
        Ok(values)
    }

    fn list(&mut self) -> Result<Attr, TextError> {
        self.cursor.next()?;
        if self.cursor.peek()? != Token::Punct("[") {
            return Ok(Attr::Ints(self.ints_after_bracket()?));
        }
        let mut lists = Vec::new();
        while !self.cursor.eat("]")? {
            if !lists.is_empty() {
                self.cursor.expect(",")?;
            }
            lists.push(self.ints()?);
        }
        Ok(Attr::Lists(lists))
    }
}

/// The error for an op name that nobody has, with the closest name that somebody has.
fn unknown_op(name: &str) -> TextErrorKind {
    let close = Op::names().into_iter().map(|n| (distance(name, n), n)).min();
    let hint = match close {
        Some((d, n)) if d <= 2.max(name.len() / 3) => format!("; did you mean `{n}`?"),
        _ => String::new(),
    };
    TextErrorKind::UnknownOp { name: name.to_string(), hint }
}

/// Edits that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
