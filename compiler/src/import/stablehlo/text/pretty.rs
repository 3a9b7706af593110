//! The pretty forms: one table from how an operation is printed to the attributes of the specification.
//!
//! A row tells what stands behind the name, which `key = value` clauses mean which attribute, and how the types at the end are to be
//! read. An operation without a row is read as operands, clauses, attributes and types, which is what printers make of most.

use super::Reader;
use super::attr::Attrs;
use super::error::{MISMATCH, SYNTAX, Step, problem};
use super::normalize::dot_dimensions;
use super::op::Draft;
use crate::import::stablehlo::module::{ModuleAttr, ModuleType};

/// How the types behind `:` are to be read when they are no `(…) -> …`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Types {
    /// One type for all operands and results.
    Same,
    /// Types of the results.
    Results,
    /// Types of the operands; there are no results.
    Operands,
    /// A type for each operand and the result that belongs to it.
    Each,
    /// The predicate's type, and the type of everything else.
    Select,
}

/// What stands behind the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// `%a, %b, key = value {…}`, or the same in parentheses.
    Operands,
    /// `dense<…> : T`
    Constant,
    /// `%a, dense<…> : T {…}`
    Compared,
    /// `GT, %a, %b, FLOAT`
    Compare,
    /// `%a [0:2, 1:9:2]`
    Slice,
    /// `%a[1]`
    Element,
    /// `@f(%a)`, with the attribute that has the name.
    Callee(&'static str),
    /// `"name" %a, %b`
    Composite,
    /// `(%a, %b) dim_numbers = …, window = {…}`
    Convolution,
    /// `(%a init: %b) applies … across dimensions = …`
    Reduce,
    /// `(%a = %b) : T cond {…} do {…}`
    While,
    /// `(%a) inits(%b) dimension = 0 {…}`
    Scan,
    /// `%a <@mesh, […]>`
    Sharding,
    /// `(%a) in_shardings=[…] out_shardings=[…] manual_axes={…} (%b: T) {…}`
    Manual,
}

/// What a clause holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A number, string, list or other attribute as it stands.
    Any,
    /// `[1, 2]`
    Ints,
    /// `DEFAULT`
    Word,
    /// `[DEFAULT, HIGH]`
    Words,
    /// `[0] x [1]`: fields of `dot_dimension_numbers`.
    Pair(&'static str, &'static str),
    /// `e5m10`
    Bits,
    /// `<a = 1>`
    Fields,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    name: &'static str,
    form: Form,
    keys: &'static [(&'static str, &'static str, Kind)],
    types: Types,
}

const DOT: &[(&str, &str, Kind)] = &[
    ("batching_dims", "", Kind::Pair("lhs_batching_dimensions", "rhs_batching_dimensions")),
    ("contracting_dims", "", Kind::Pair("lhs_contracting_dimensions", "rhs_contracting_dimensions")),
    ("precision", "precision_config", Kind::Words),
    ("algorithm", "algorithm", Kind::Fields),
];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row_of("chlo.constant",                    Form::Constant,              &[],                                              Types::Results),
    row_of("chlo.scan",                        Form::Scan,                  &[],                                              Types::Same),
    row_of("func.call",                        Form::Callee("callee"),      &[],                                              Types::Same),
    row_of("func.return",                      Form::Operands,              &[],                                              Types::Operands),
    row_of("interpreter.print",                Form::Operands,              &[],                                              Types::Operands),
    row_of("sdy.manual_computation",           Form::Manual,                &[],                                              Types::Same),
    row_of("sdy.named_computation",            Form::Manual,                &[],                                              Types::Same),
    row_of("sdy.reshard",                      Form::Sharding,              &[],                                              Types::Same),
    row_of("sdy.return",                       Form::Operands,              &[],                                              Types::Operands),
    row_of("sdy.sharding_constraint",          Form::Sharding,              &[],                                              Types::Same),
    row_of("sdy.sharding_group",               Form::Operands,              &[],                                              Types::Operands),
    row_of("stablehlo.broadcast_in_dim",       Form::Operands,              &[("dims", "broadcast_dimensions", Kind::Ints)],  Types::Same),
    row_of("stablehlo.compare",                Form::Compare,               &[],                                              Types::Same),
    row_of("stablehlo.complex",                Form::Operands,              &[],                                              Types::Results),
    row_of("stablehlo.composite",              Form::Composite,             &[],                                              Types::Same),
    row_of("stablehlo.concatenate",            Form::Operands,              &[("dim", "dimension", Kind::Any)],               Types::Same),
    row_of("stablehlo.constant",               Form::Constant,              &[],                                              Types::Results),
    row_of("stablehlo.convolution",            Form::Convolution,           &[],                                              Types::Same),
    row_of("stablehlo.custom_call",            Form::Callee("call_target_name"), &[],                                         Types::Same),
    row_of("stablehlo.dot",                    Form::Operands,              &[("precision", "precision_config", Kind::Words)], Types::Same),
    row_of("stablehlo.dot_general",            Form::Operands,              DOT,                                              Types::Same),
    row_of("stablehlo.dynamic_broadcast_in_dim", Form::Operands,            &[("dims", "broadcast_dimensions", Kind::Ints)],  Types::Same),
    row_of("stablehlo.dynamic_iota",           Form::Operands,              &[("dim", "iota_dimension", Kind::Any)],          Types::Same),
    row_of("stablehlo.dynamic_slice",          Form::Operands,              &[("sizes", "slice_sizes", Kind::Ints)],          Types::Same),
    row_of("stablehlo.einsum",                 Form::Operands,              &[("config", "einsum_config", Kind::Any)],        Types::Same),
    row_of("stablehlo.fft",                    Form::Operands,              &[("type", "fft_type", Kind::Word), ("length", "fft_length", Kind::Ints)], Types::Same),
    row_of("stablehlo.get_dimension_size",     Form::Operands,              &[("dim", "dimension", Kind::Any)],               Types::Same),
    row_of("stablehlo.get_tuple_element",      Form::Element,               &[],                                              Types::Same),
    row_of("stablehlo.imag",                   Form::Operands,              &[],                                              Types::Results),
    row_of("stablehlo.iota",                   Form::Operands,              &[("dim", "iota_dimension", Kind::Any)],          Types::Results),
    row_of("stablehlo.optimization_barrier",   Form::Operands,              &[],                                              Types::Each),
    row_of("stablehlo.pad",                    Form::Operands,              &[("low", "edge_padding_low", Kind::Ints), ("high", "edge_padding_high", Kind::Ints), ("interior", "interior_padding", Kind::Ints)], Types::Same),
    row_of("stablehlo.real",                   Form::Operands,              &[],                                              Types::Results),
    row_of("stablehlo.reduce",                 Form::Reduce,                &[],                                              Types::Same),
    row_of("stablehlo.reduce_precision",       Form::Operands,              &[("format", "", Kind::Bits)],                    Types::Same),
    row_of("stablehlo.return",                 Form::Operands,              &[],                                              Types::Operands),
    row_of("stablehlo.reverse",                Form::Operands,              &[("dims", "dimensions", Kind::Ints)],            Types::Same),
    row_of("stablehlo.rng",                    Form::Operands,              &[("distribution", "rng_distribution", Kind::Word)], Types::Same),
    row_of("stablehlo.rng_bit_generator",      Form::Operands,              &[("algorithm", "rng_algorithm", Kind::Word)],    Types::Same),
    row_of("stablehlo.select",                 Form::Operands,              &[],                                              Types::Select),
    row_of("stablehlo.set_dimension_size",     Form::Operands,              &[("dim", "dimension", Kind::Any)],               Types::Same),
    row_of("stablehlo.slice",                  Form::Slice,                 &[],                                              Types::Same),
    row_of("stablehlo.transpose",              Form::Operands,              &[("dims", "permutation", Kind::Ints)],           Types::Same),
    row_of("stablehlo.tuple",                  Form::Operands,              &[],                                              Types::Results),
    row_of("stablehlo.while",                  Form::While,                 &[],                                              Types::Each),
];

const fn row_of(name: &'static str, form: Form, keys: &'static [(&'static str, &'static str, Kind)], types: Types) -> Row {
    Row { name, form, keys, types }
}

/// The row of an operation.
pub(super) fn row(name: &str) -> Row {
    if let Ok(i) = ROWS.binary_search_by(|r| r.name.cmp(name)) {
        return ROWS[i];
    }
    match name.strip_prefix("check.") {
        Some(rest) if rest.ends_with("_const") => row_of("", Form::Compared, &[], Types::Operands),
        Some(_) => row_of("", Form::Operands, &[], Types::Operands),
        None => row_of("", Form::Operands, &[], Types::Same),
    }
}

impl<'a> Reader<'a> {
    /// What stands behind the name of an operation.
    pub(super) fn form(&mut self, op: &mut Draft, row: Row) -> Step<()> {
        match row.form {
            Form::Operands => {
                let closed = self.at.eat_byte(b'(');
                self.items(op, row.keys)?;
                if closed {
                    self.at.expect(")")?;
                }
                self.any_attrs(op)?;
            }
            Form::Constant => return self.constant(op),
            Form::Compared => return self.compared(op),
            Form::Compare => self.compare(op)?,
            Form::Slice => self.slice_form(op)?,
            Form::Element => {
                op.operands.push(self.operand()?);
                self.at.expect("[")?;
                let index = self.at.int()?;
                self.set(op, "index", ModuleAttr::Int(index))?;
                self.at.expect("]")?;
                self.any_attrs(op)?;
            }
            Form::Callee(key) => {
                let name = self.at.symbol()?;
                let name = if key == "callee" { ModuleAttr::Symbol(name) } else { ModuleAttr::Text(name) };
                self.set(op, key, name)?;
                op.operands = self.list_of("(", ")", Self::operand)?;
                self.any_attrs(op)?;
            }
            Form::Composite => {
                let name = self.at.string()?;
                self.set(op, "name", ModuleAttr::Text(name))?;
                self.items(op, &[])?;
                self.any_attrs(op)?;
            }
            Form::Sharding => {
                op.operands.push(self.operand()?);
                let sharding = self.plain()?;
                self.set(op, "sharding", sharding)?;
                self.any_attrs(op)?;
            }
            Form::Convolution => self.convolution(op)?,
            Form::Reduce => return self.reduce(op),
            Form::While => return self.while_loop(op),
            Form::Scan => self.scan(op)?,
            Form::Manual => self.manual(op)?,
        }
        self.types_of(op, row.types)?;
        if op.name.starts_with("check.") {
            self.more_attrs(&mut op.attrs)?;
        }
        Ok(())
    }

    /// `%a, %b, key = value`
    fn items(&mut self, op: &mut Draft, keys: &[(&str, &str, Kind)]) -> Step<()> {
        let mut due = false;
        loop {
            match self.at.peek() {
                b'%' => op.operands.push(self.operand()?),
                b if b.is_ascii_alphabetic() && self.clause_is_next() => {
                    let key = self.at.name("a clause")?;
                    self.at.expect("=")?;
                    self.clause(op, key, keys)?;
                }
                _ if due => return Err(self.at.expected("an operand or a clause")),
                _ => return Ok(()),
            }
            due = self.at.eat_byte(b',');
            if !due && self.at.peek() == b'%' {
                return Ok(());
            }
        }
    }

    /// Whether `key =` comes next.
    fn clause_is_next(&mut self) -> bool {
        let mut ahead = self.at.clone();
        let word = ahead.word();
        ahead.pos += word.len();
        !word.is_empty() && ahead.peek() == b'=' && !ahead.sees("==")
    }

    fn clause(&mut self, op: &mut Draft, key: &str, keys: &[(&str, &str, Kind)]) -> Step<()> {
        let (attr, kind) = keys.iter().find(|(k, ..)| *k == key).map_or((key, Kind::Any), |(_, attr, kind)| (attr, *kind));
        let value = match kind {
            Kind::Any => self.plain()?,
            Kind::Ints => ModuleAttr::Ints(self.ints()?),
            Kind::Word => ModuleAttr::Word(self.at.name("a word")?.to_string()),
            Kind::Words => ModuleAttr::List(self.list_of("[", "]", |r| Ok(ModuleAttr::Word(r.at.name("a word")?.to_string())))?),
            Kind::Fields => ModuleAttr::Fields(self.fields("")?),
            Kind::Pair(left, right) => return self.pair(op, left, right),
            Kind::Bits => return self.bits(op),
        };
        self.set(op, attr, value)
    }

    /// `[0] x [1]`
    fn pair(&mut self, op: &mut Draft, left: &str, right: &str) -> Step<()> {
        let first = self.ints()?;
        self.at.expect("x")?;
        let second = self.ints()?;
        let dims = op.attrs.entry("dot_dimension_numbers".into()).or_insert_with(|| ModuleAttr::Fields(dot_dimensions()));
        if let ModuleAttr::Fields(fields) = dims {
            fields.insert(left.to_string(), ModuleAttr::Ints(first));
            fields.insert(right.to_string(), ModuleAttr::Ints(second));
        }
        Ok(())
    }

    /// `e5m10`
    fn bits(&mut self, op: &mut Draft) -> Step<()> {
        self.at.skip();
        let start = self.at.pos;
        let word = self.at.name("a format such as `e5m10`")?;
        let parts = word
            .strip_prefix('e')
            .and_then(|w| w.split_once('m'))
            .and_then(|(e, m)| Some((e.parse::<u32>().ok()?, m.parse::<u32>().ok()?)));
        let Some((exponent, mantissa)) = parts else {
            return Err(problem(self.at.text, start, SYNTAX, "expected a format such as `e5m10`", ""));
        };
        self.set(op, "exponent_bits", ModuleAttr::Int(i64::from(exponent)))?;
        self.set(op, "mantissa_bits", ModuleAttr::Int(i64::from(mantissa)))
    }

    /// `{…} dense<…> : T`
    fn constant(&mut self, op: &mut Draft) -> Step<()> {
        self.more_attrs(&mut op.attrs)?;
        let start = self.at.pos;
        let value = self.attr()?;
        self.any_attrs(op)?;
        op.results = vec![match &value {
            ModuleAttr::Dense(d) => ModuleType::Tensor { shape: d.shape.clone(), element: d.element.clone() },
            _ => return Err(problem(self.at.text, start, MISMATCH, "a constant is no `dense<…>` of numbers", "")),
        }];
        self.set(op, "value", value)
    }

    /// `%a, dense<…> : T {tolerance = 0.1 : f64}`
    fn compared(&mut self, op: &mut Draft) -> Step<()> {
        op.operands.push(self.operand()?);
        self.at.expect(",")?;
        let value = self.attr()?;
        self.set(op, "value", value)?;
        while self.at.eat_byte(b',') {
            let key = self.at.name("a clause")?;
            self.at.expect("=")?;
            self.clause(op, key, &[])?;
        }
        if self.at.eat_byte(b':') {
            self.ty()?;
        }
        self.any_attrs(op)
    }

    /// `GT, %a, %b, FLOAT {…}`
    fn compare(&mut self, op: &mut Draft) -> Step<()> {
        let direction = self.at.name("a direction such as `LT`")?;
        self.set(op, "comparison_direction", ModuleAttr::Word(direction.to_string()))?;
        self.at.expect(",")?;
        op.operands.push(self.operand()?);
        self.at.expect(",")?;
        op.operands.push(self.operand()?);
        if self.at.eat_byte(b',') {
            let kind = self.at.name("a type such as `FLOAT`")?;
            self.set(op, "compare_type", ModuleAttr::Word(kind.to_string()))?;
        }
        self.any_attrs(op)
    }

    /// `%a [0:2, 1:9:2]`
    fn slice_form(&mut self, op: &mut Draft) -> Step<()> {
        op.operands.push(self.operand()?);
        let parts = self.list_of("[", "]", |r| {
            let start = r.at.int()?;
            r.at.expect(":")?;
            let limit = r.at.int()?;
            Ok([start, limit, if r.at.eat_byte(b':') { r.at.int()? } else { 1 }])
        })?;
        for (i, key) in ["start_indices", "limit_indices", "strides"].into_iter().enumerate() {
            self.set(op, key, ModuleAttr::Ints(parts.iter().map(|p| p[i]).collect()))?;
        }
        self.any_attrs(op)
    }

    /// `(%a, %b) dim_numbers = …, window = {…} {…}`
    fn convolution(&mut self, op: &mut Draft) -> Step<()> {
        op.operands = self.list_of("(", ")", Self::operand)?;
        let _ = self.at.eat_byte(b',');
        self.at.expect("dim_numbers")?;
        self.at.expect("=")?;
        let dims = self.conv_dims()?;
        self.set(op, "dimension_numbers", ModuleAttr::Fields(dims))?;
        if self.at.eat_byte(b',') {
            self.at.expect("window")?;
            self.at.expect("=")?;
            self.at.expect("{")?;
            while !self.at.eat_byte(b'}') {
                self.window_part(op)?;
                if !self.at.eat_byte(b',') {
                    self.at.expect("}")?;
                    break;
                }
            }
        }
        self.any_attrs(op)
    }

    fn window_part(&mut self, op: &mut Draft) -> Step<()> {
        let start = self.at.pos;
        let key = self.at.name("a part of the window")?;
        self.at.expect("=")?;
        let value = match key {
            "pad" => {
                let rows = self.list_of("[", "]", Self::ints)?;
                if rows.iter().any(|r| r.len() != 2) {
                    return Err(problem(self.at.text, start, SYNTAX, "padding has two numbers a dimension", ""));
                }
                super::normalize::matrix(&rows)
            }
            "reverse" => {
                let all = self.list_of("[", "]", |r| match r.plain()? {
                    ModuleAttr::Bool(b) => Ok(i64::from(b)),
                    ModuleAttr::Int(v) => Ok(i64::from(v != 0)),
                    _ => Err(r.at.expected("`true` or `false`")),
                })?;
                ModuleAttr::Ints(all)
            }
            _ => ModuleAttr::Ints(self.ints()?),
        };
        let attr = match key {
            "stride" => "window_strides",
            "pad" => "padding",
            "lhs_dilate" => "lhs_dilation",
            "rhs_dilate" => "rhs_dilation",
            "reverse" => "window_reversal",
            _ => return Err(problem(self.at.text, start, SYNTAX, format!("`{key}` is no part of a window"), "")),
        };
        self.set(op, attr, value)
    }

    /// `(%a) inits(%b) dimension = 0 attributes {…} {…}`
    fn scan(&mut self, op: &mut Draft) -> Step<()> {
        op.operands = self.list_of("(", ")", Self::operand)?;
        let inputs = op.operands.len();
        self.at.expect("inits")?;
        let inits = self.list_of("(", ")", Self::operand)?;
        let sizes = [inputs, inits.len()].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        op.operands.extend(inits);
        self.set(op, "operandSegmentSizes", ModuleAttr::Ints(sizes.to_vec()))?;
        self.items(op, &[])?;
        if self.at.eat_word("attributes") {
            self.more_attrs(&mut op.attrs)?;
        }
        op.regions.push(self.region(Vec::new())?);
        Ok(())
    }

    /// `(%a) in_shardings=[…] out_shardings=[…] manual_axes={…} (%b: T) {…}`; a named one has `<"name">` in front.
    fn manual(&mut self, op: &mut Draft) -> Step<()> {
        if self.at.eat_byte(b'<') {
            let name = self.at.string()?;
            self.set(op, "name", ModuleAttr::Text(name))?;
            self.at.expect(">")?;
        }
        op.operands = self.list_of("(", ")", Self::operand)?;
        while self.clause_is_next() {
            let key = self.at.name("a clause")?;
            self.at.expect("=")?;
            let value = if self.at.peek() == b'{' { ModuleAttr::List(self.axes()?) } else { self.plain()? };
            self.set(op, key, value)?;
        }
        let params = self.typed_names()?;
        op.regions.push(self.region(params)?);
        self.any_attrs(op)
    }

    /// `applies` and `across` clauses share this: `dimensions = [1]`.
    pub(super) fn across(&mut self, attrs: &mut Attrs) -> Step<()> {
        self.at.expect("across")?;
        self.at.expect("dimensions")?;
        self.at.expect("=")?;
        attrs.insert("dimensions".into(), ModuleAttr::Ints(self.ints()?));
        Ok(())
    }
}
