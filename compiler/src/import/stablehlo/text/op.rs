//! Operations, their operands and regions, and the generic form `"stablehlo.add"(%0, %1) <{…}> ({…}) {…} : (…) -> …`.
//!
//! Names of values are scoped: a region sees the names around it, and its own end with it, so that sibling regions can use the same.

use super::Reader;
use super::attr::Attrs;
use super::error::{LIMIT, MISMATCH, NAME, STRUCTURE, SYNTAX, Step, problem};
use super::normalize::normalize;
use super::pretty::{self, Types};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Block, Element, ModuleAttr, ModuleType, ModuleValue, Operation};
use smallvec::SmallVec;

/// Dialects whose pretty forms are read.
const DIALECTS: &[&str] = &["stablehlo", "chlo", "func", "sdy", "check", "interpreter"];

/// Values behind one name: `%0:2` binds two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    first: u32,
    count: u32,
}

/// A parameter of a region: its name and type.
pub(super) type Param<'a> = (&'a str, ModuleType);

/// An operation that is being read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub name: String,
    pub operands: Vec<ModuleValue>,
    pub attrs: Attrs,
    pub regions: Vec<Block>,
    /// Types of the results.
    pub results: Vec<ModuleType>,
    /// How many results the left side names; nothing when there is no left side.
    pub named: Option<usize>,
    /// Where the name stands.
    pub start: usize,
}

/// Names of results with how many values each stands for.
type Left<'a> = SmallVec<[(&'a str, u32); 2]>;

impl<'a> Reader<'a> {
    /// An operation.
    pub(super) fn operation(&mut self) -> Step<Operation> {
        self.operations += 1;
        if self.operations > self.limits.operations {
            return Err(self.at.fault(LIMIT, format!("more than {} operations", self.limits.operations), ""));
        }
        let place = self.new_place();
        let left = self.left()?;
        let named = if left.is_empty() { None } else { Some(left.iter().map(|(_, n)| *n as usize).sum()) };
        self.at.skip();
        let mut op = Draft { named, start: self.at.pos, ..Draft::default() };
        if self.at.peek() == b'"' {
            self.generic(&mut op)?
        } else {
            self.pretty(&mut op)?
        }
        if let "sdy.return" | "chlo.return" = op.name.as_str() {
            op.name = "stablehlo.return".to_string();
        }
        normalize(&mut op);
        self.trailing(place)?;
        let results = self.bind_results(&left, &mut op)?;
        Ok(Operation { name: op.name, operands: op.operands, results, attrs: op.attrs, regions: op.regions, place })
    }

    /// `%a:2, %b =`
    fn left(&mut self) -> Step<Left<'a>> {
        let mut all = Left::new();
        if self.at.peek() != b'%' {
            return Ok(all);
        }
        loop {
            self.at.expect("%")?;
            let name = self.at.suffix()?;
            let mut count = 1;
            if self.at.eat_byte(b':') {
                let number = self.at.unsigned()?;
                count = u32::try_from(number)
                    .ok()
                    .filter(|n| (1..=1 << 20).contains(n))
                    .ok_or_else(|| self.at.fault(MISMATCH, format!("`%{name}` stands for {number} results"), ""))?;
            }
            all.push((name, count));
            if !self.at.eat_byte(b',') {
                self.at.expect("=")?;
                return Ok(all);
            }
        }
    }

    fn bind_results(&mut self, left: &Left<'a>, op: &mut Draft) -> Step<Vec<ModuleValue>> {
        if let Some(named) = op.named
            && named != op.results.len()
        {
            let what = format!("`{}` has {} results, and {named} are named", op.name, op.results.len());
            return Err(problem(self.at.text, op.start, MISMATCH, what, ""));
        }
        let first = self.types.len();
        let values = (first..first + op.results.len()).map(ModuleValue::new).collect();
        self.types.append(&mut op.results);
        let mut next = u32::try_from(first).unwrap_or(u32::MAX);
        for (name, count) in left {
            self.bind(name, Bound { first: next, count: *count }, op.start)?;
            next = next.saturating_add(*count);
        }
        Ok(values)
    }

    fn bind(&mut self, name: &'a str, bound: Bound, at: usize) -> Step<()> {
        if self.names.insert(name, bound).is_some() {
            return Err(problem(
                self.at.text,
                at,
                NAME,
                format!("`%{name}` is defined twice"),
                "a name has one meaning in a region and those inside it",
            ));
        }
        self.scope.push(name);
        Ok(())
    }

    /// A new value with a name.
    pub(super) fn define(&mut self, (name, ty): Param<'a>) -> Step<ModuleValue> {
        let value = ModuleValue::new(self.types.len());
        self.types.push(ty);
        self.bind(name, Bound { first: value.0, count: 1 }, self.at.pos)?;
        Ok(value)
    }

    /// `%a` or `%a#1`
    pub(super) fn operand(&mut self) -> Step<ModuleValue> {
        self.at.skip();
        let start = self.at.pos;
        self.at.expect("%")?;
        let name = self.at.suffix()?;
        let index = if self.at.byte() == b'#' {
            self.at.pos += 1;
            self.at.unsigned()?
        } else {
            0
        };
        let Some(bound) = self.names.get(name) else {
            return Err(problem(self.at.text, start, NAME, format!("`%{name}` is not defined above"), ""));
        };
        match u32::try_from(index) {
            Ok(i) if i < bound.count => Ok(ModuleValue(bound.first + i)),
            _ => Err(problem(
                self.at.text,
                start,
                NAME,
                format!("`%{name}` stands for {} values, and #{index} is asked for", bound.count),
                "",
            )),
        }
    }

    /// `"name"(%a) <{…}> ({…}) {…} : (…) -> …`
    fn generic(&mut self, op: &mut Draft) -> Step<()> {
        op.name = self.at.string()?;
        op.operands = self.list_of("(", ")", Self::operand)?;
        if self.at.peek() == b'[' {
            return Err(self.at.fault(STRUCTURE, "branches between blocks", "StableHLO has one block a region"));
        }
        self.properties(op)?;
        if self.at.peek() == b'(' {
            op.regions = self.list_of("(", ")", |r| r.region(Vec::new()))?;
        }
        self.more_attrs(&mut op.attrs)?;
        self.at.expect(":")?;
        self.signature(op)
    }

    /// `<{…}>`
    pub(super) fn properties(&mut self, op: &mut Draft) -> Step<()> {
        if self.at.eat_byte(b'<') {
            self.more_attrs(&mut op.attrs)?;
            self.at.expect(">")?;
        }
        Ok(())
    }

    /// `{ ^bb0(%a: T): … }` with the parameters that a pretty form has in front, if it has them.
    pub(super) fn region(&mut self, params: Vec<Param<'a>>) -> Step<Block> {
        self.at.enter()?;
        let outside = self.scope.len();
        self.at.expect("{")?;
        let mut block = Block::default();
        for param in params {
            block.params.push(self.define(param)?);
        }
        if block.params.is_empty() && self.at.eat_byte(b'^') {
            self.at.suffix()?;
            if self.at.peek() == b'(' {
                for param in self.typed_names()? {
                    block.params.push(self.define(param)?);
                }
            }
            self.at.expect(":")?;
        }
        while !self.at.eat_byte(b'}') {
            if self.at.byte() == b'^' {
                return Err(self.at.fault(STRUCTURE, "a region with several blocks", "StableHLO has one block a region"));
            }
            block.ops.push(self.operation()?);
        }
        for name in self.scope.drain(outside..) {
            self.names.remove(name);
        }
        self.at.leave();
        Ok(block)
    }

    /// `(%a: T, %b: U loc(…))`
    pub(super) fn typed_names(&mut self) -> Step<Vec<Param<'a>>> {
        self.list_of("(", ")", |r| {
            r.at.expect("%")?;
            let name = r.at.suffix()?;
            r.at.expect(":")?;
            let ty = r.ty()?;
            r.param_loc()?;
            Ok((name, ty))
        })
    }

    /// `(T, U) -> V`, after the `:`.
    fn signature(&mut self, op: &mut Draft) -> Step<()> {
        let inputs = self.list_of("(", ")", Self::ty)?;
        self.at.expect("->")?;
        op.results = self.type_or_types()?;
        self.check(op, &inputs)
    }

    /// Holds the types that are written against those of the operands.
    fn check(&self, op: &Draft, inputs: &[ModuleType]) -> Step<()> {
        if inputs.len() != op.operands.len() {
            let what = format!("`{}` has {} operands and types for {}", op.name, op.operands.len(), inputs.len());
            return Err(problem(self.at.text, op.start, MISMATCH, what, ""));
        }
        for (value, written) in op.operands.iter().zip(inputs) {
            self.check_one(op, *value, written)?;
        }
        Ok(())
    }

    fn check_one(&self, op: &Draft, value: ModuleValue, written: &ModuleType) -> Step<()> {
        let own = &self.types[value.index()];
        if own != written && comparable(own) && comparable(written) {
            let what = format!("an operand of `{}` is {own}, and the text says {written}", op.name);
            return Err(problem(self.at.text, op.start, MISMATCH, what, ""));
        }
        Ok(())
    }

    /// The types behind a pretty form.
    pub(super) fn types_of(&mut self, op: &mut Draft, rule: Types) -> Step<()> {
        if !self.at.eat_byte(b':') {
            let bare = op.operands.is_empty() && matches!(rule, Types::Operands | Types::Each);
            return if bare { Ok(()) } else { Err(self.at.expected("`:` and the types")) };
        }
        if self.at.peek() == b'(' {
            return self.signature(op);
        }
        let mut all = vec![self.ty()?];
        while self.at.eat_byte(b',') {
            all.push(self.ty()?);
        }
        if self.at.eat("->") {
            op.results = self.type_or_types()?;
            return if let [one] = &all[..] { self.check_all(op, one) } else { self.check(op, &all) };
        }
        match (rule, &all[..]) {
            (Types::Same, [one]) => {
                self.check_all(op, one)?;
                op.results = vec![one.clone()];
            }
            (Types::Same, _) => {
                self.check(op, &all)?;
                op.results = if op.named.is_some() { all } else { Vec::new() };
            }
            (Types::Results, _) => op.results = all,
            (Types::Operands, [one]) => self.check_all(op, one)?,
            (Types::Operands, _) => self.check(op, &all)?,
            (Types::Each, _) => {
                self.check(op, &all)?;
                op.results = all;
            }
            (Types::Select, [pred, one]) => {
                self.check(op, &[pred.clone(), one.clone(), one.clone()])?;
                op.results = vec![one.clone()];
            }
            (Types::Select, _) => return Err(self.at.fault(MISMATCH, "`select` has the types of the predicate and of the values", "")),
        }
        Ok(())
    }

    fn check_all(&self, op: &Draft, one: &ModuleType) -> Step<()> {
        op.operands.iter().try_for_each(|v| self.check_one(op, *v, one))
    }

    /// A pretty form.
    fn pretty(&mut self, op: &mut Draft) -> Step<()> {
        let name = self.at.name("an operation")?;
        op.name = match name {
            "call" => "func.call",
            "return" => "func.return",
            _ => name,
        }
        .to_string();
        if !op.name.contains('.') {
            self.at.pos = op.start;
            return Err(self.at.expected("an operation such as `stablehlo.add`"));
        }
        let known = op.name.split_once('.').is_some_and(|(dialect, _)| DIALECTS.contains(&dialect));
        self.form(op, pretty::row(&op.name.clone())).map_err(|p| if known || p.code != SYNTAX { p } else { self.foreign(op) })
    }

    /// An operation of a dialect whose pretty forms are not known.
    fn foreign(&self, op: &Draft) -> Problem {
        let why = "StableHLO modules hold operations of stablehlo, chlo, func and sdy; others are read in their generic form only";
        problem(self.at.text, op.start, STRUCTURE, format!("`{}` is of another dialect", op.name), why)
    }

    /// `{…}` with or without the word in front.
    pub(super) fn any_attrs(&mut self, op: &mut Draft) -> Step<()> {
        let _ = self.at.eat_word("attributes");
        self.more_attrs(&mut op.attrs)
    }

    /// Sets an attribute that a pretty form spells its own way.
    pub(super) fn set(&mut self, op: &mut Draft, key: &str, value: ModuleAttr) -> Step<()> {
        if op.attrs.insert(key.to_string(), value).is_some() {
            return Err(self.at.fault(NAME, format!("the attribute `{key}` is there twice"), ""));
        }
        Ok(())
    }
}

/// Whether a type has one spelling.
fn comparable(ty: &ModuleType) -> bool {
    !matches!(ty, ModuleType::Other(_) | ModuleType::Tuple(_) | ModuleType::Tensor { element: Element::Other(_), .. })
}
