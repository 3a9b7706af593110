//! The generic form of instructions: a name, result regions, operand regions, and named fields. The text form is written in terms of
//! it alone, so a new instruction is one arm in [`Form::of`] and one in [`Form::build`].

use super::instr::WindowDims;
use super::{FusedId, HostId, Instr, LiteralId, PortId, Queue, Region};
use crate::attr::{Attr, AttrReader};
use crate::axes::Box;
use crate::ops::OpAttrs;
use crate::scalar::Monoid;
use crate::target::Direction;
use crate::types::{DType, Dims};
use std::fmt;

/// The value of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    /// A number.
    Int(i128),
    /// A number in hexadecimal.
    Hex(u64),
    /// A word.
    Word(String),
    /// A half-open range.
    Range(usize, usize),
    /// A list.
    List(Vec<Field>),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Int(v) => write!(f, "{v}"),
            Field::Hex(v) => write!(f, "{v:#x}"),
            Field::Word(w) => f.write_str(w),
            Field::Range(a, b) => write!(f, "{a}..{b}"),
            Field::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A Rust type that is a field's value.
pub(crate) trait FieldValue: Sized {
    fn to_field(&self) -> Field;
    fn from_field(field: &Field) -> Option<Self>;
}

macro_rules! number {
    ($($t:ty),*) => { $(impl FieldValue for $t {
        fn to_field(&self) -> Field { Field::Int(*self as i128) }
        fn from_field(field: &Field) -> Option<Self> {
            match field { Field::Int(v) => <$t>::try_from(*v).ok(), Field::Hex(v) => <$t>::try_from(*v).ok(), _ => None }
        }
    })* };
}
number!(u32, u64, usize, i64);

macro_rules! id {
    ($($t:ident $prefix:literal),*) => { $(impl FieldValue for $t {
        fn to_field(&self) -> Field { Field::Word(self.to_string()) }
        fn from_field(field: &Field) -> Option<Self> {
            match field { Field::Word(w) => w.strip_prefix($prefix)?.parse().ok().map($t), _ => None }
        }
    })* };
}
id!(FusedId "f", HostId "h", LiteralId "k", PortId "c");

impl FieldValue for bool {
    fn to_field(&self) -> Field {
        Field::Word(self.to_string())
    }
    fn from_field(field: &Field) -> Option<Self> {
        match field {
            Field::Word(w) => w.parse().ok(),
            _ => None,
        }
    }
}

impl FieldValue for Monoid {
    fn to_field(&self) -> Field {
        Field::Word(self.name().to_string())
    }
    fn from_field(field: &Field) -> Option<Self> {
        match field {
            Field::Word(w) => Monoid::from_name(w),
            _ => None,
        }
    }
}

impl FieldValue for Queue {
    fn to_field(&self) -> Field {
        Field::Word(match self {
            Queue::Out(d) => format!("out.{d}"),
            Queue::In(d) => format!("in.{d}"),
            Queue::Load => "load".to_string(),
            Queue::Store => "store".to_string(),
            Queue::Collective => "collective".to_string(),
        })
    }
    fn from_field(field: &Field) -> Option<Self> {
        let Field::Word(w) = field else { return None };
        let side = |s: &str| match s.as_bytes() {
            [b] if b.is_ascii_uppercase() => Direction::from_letter(char::from(*b)),
            _ => None,
        };
        match (w.as_str(), w.split_once('.')) {
            ("load", _) => Some(Queue::Load),
            ("store", _) => Some(Queue::Store),
            ("collective", _) => Some(Queue::Collective),
            (_, Some(("out", s))) => side(s).map(Queue::Out),
            (_, Some(("in", s))) => side(s).map(Queue::In),
            _ => None,
        }
    }
}

impl FieldValue for std::ops::Range<usize> {
    fn to_field(&self) -> Field {
        Field::Range(self.start, self.end)
    }
    fn from_field(field: &Field) -> Option<Self> {
        match field {
            Field::Range(a, b) => Some(*a..*b),
            _ => None,
        }
    }
}

impl FieldValue for Option<u64> {
    fn to_field(&self) -> Field {
        self.map_or_else(|| Field::Word("any".to_string()), |n| n.to_field())
    }
    fn from_field(field: &Field) -> Option<Self> {
        match field {
            Field::Word(w) if w == "any" => Some(None),
            field => u64::from_field(field).map(Some),
        }
    }
}

impl FieldValue for (u64, u64) {
    fn to_field(&self) -> Field {
        Field::List(vec![self.0.to_field(), self.1.to_field()])
    }
    fn from_field(field: &Field) -> Option<Self> {
        match field {
            Field::List(l) => match &l[..] {
                [a, b] => Some((u64::from_field(a)?, u64::from_field(b)?)),
                _ => None,
            },
            _ => None,
        }
    }
}

macro_rules! list {
    ($($t:ty),*) => { $(impl FieldValue for $t {
        fn to_field(&self) -> Field { Field::List(self.iter().map(FieldValue::to_field).collect()) }
        fn from_field(field: &Field) -> Option<Self> {
            match field { Field::List(l) => l.iter().map(FieldValue::from_field).collect(), _ => None }
        }
    })* };
}
list!(Dims, Vec<usize>, Vec<i64>, Vec<bool>, Vec<(u64, u64)>, Box);

/// A number that reads better in hexadecimal.
struct Bits(u64);

impl FieldValue for Bits {
    fn to_field(&self) -> Field {
        Field::Hex(self.0)
    }
    fn from_field(field: &Field) -> Option<Self> {
        u64::from_field(field).map(Bits)
    }
}

/// An attribute as a field; what no instruction's op has is written as a word that does not read back.
fn attr_to_field(attr: &Attr) -> Field {
    match attr {
        Attr::Bool(v) => v.to_field(),
        Attr::Int(v) => v.to_field(),
        Attr::Word(w) => Field::Word(w.clone()),
        Attr::DType(d) => Field::Word(d.name().to_string()),
        Attr::Ints(v) => v.to_field(),
        Attr::Lists(v) => Field::List(v.iter().map(FieldValue::to_field).collect()),
        Attr::Float(bits) => Field::Hex(*bits),
        Attr::Literal(_) | Attr::Program(_) | Attr::Region(_) => Field::Word("unprintable".to_string()),
    }
}

fn field_to_attr(field: &Field) -> Option<Attr> {
    Some(match field {
        Field::Int(v) => Attr::Int(i64::try_from(*v).ok()?),
        Field::Hex(v) => Attr::Float(*v),
        Field::Word(w) => match (w.as_str(), DType::from_name(w)) {
            ("true", _) => Attr::Bool(true),
            ("false", _) => Attr::Bool(false),
            (_, Some(d)) => Attr::DType(d),
            _ => Attr::Word(w.clone()),
        },
        Field::List(l) if matches!(l.first(), Some(Field::List(_))) => {
            Attr::Lists(l.iter().map(Vec::<i64>::from_field).collect::<Option<_>>()?)
        }
        Field::List(_) => Attr::Ints(Vec::<i64>::from_field(field)?),
        Field::Range(..) => return None,
    })
}

/// An instruction in generic form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    pub(crate) name: String,
    pub(crate) outs: Vec<Region>,
    pub(crate) ins: Vec<Region>,
    pub(crate) fields: Vec<(String, Field)>,
}

/// Whether the regions of an instruction of that name are operands, for it has no results.
pub(crate) fn only_reads(name: &str) -> bool {
    matches!(name, "send" | "store" | "exit_unless")
}

/// Starts a list of fields: `fields![a, b = value]`.
macro_rules! fields {
    ($($name:ident $(= $value:expr)?),* $(,)?) => { vec![$((stringify!($name).to_string(), fields!(@ $name $($value)?))),*] };
    (@ $name:ident) => { FieldValue::to_field($name) };
    (@ $name:ident $value:expr) => { FieldValue::to_field(&$value) };
}

fn window_fields(w: &WindowDims) -> Vec<(String, Field)> {
    let WindowDims { size, stride, pad_low, pad_high, base_dilation, window_dilation, reverse } = w;
    fields![size, stride, pad_low, pad_high, base_dilation, window_dilation, reverse]
}

impl Form {
    /// The generic form of an instruction.
    pub(crate) fn of(instr: &Instr) -> Form {
        let fields = match instr {
            Instr::Gemm { batch, contract, .. } => fields![batch, contract],
            Instr::Conv { window, feature_groups, batch_groups, .. } => {
                let mut all = fields![feature_groups, batch_groups];
                all.extend(window_fields(window));
                all
            }
            Instr::Map { program, loops, cols, origin, .. } => fields![program, loops, cols, origin],
            Instr::Reduce { monoid, .. } | Instr::AllReduce { monoid, .. } => fields![monoid],
            Instr::ArgReduce { max, last, origin, .. } => fields![max, last, origin],
            Instr::ReduceWindow { monoid, window, .. } => {
                let mut all = fields![monoid];
                all.extend(window_fields(window));
                all
            }
            Instr::SelectScatter { max, window, .. } => {
                let mut all = fields![max];
                all.extend(window_fields(window));
                all
            }
            Instr::Gather { dims, origin, .. } => with_attrs(dims.attrs(), fields![origin]),
            Instr::Scatter { dims, .. } => with_attrs(dims.attrs(), Vec::new()),
            Instr::Random { random, origin, .. } => with_attrs(random.attrs(), fields![origin]),
            Instr::Scan { monoid, dim, exclusive, reverse, .. } => fields![monoid, dim, exclusive, reverse],
            Instr::Sort { dim, descending, .. } => fields![dim, descending],
            Instr::TopK { largest, .. } => fields![largest],
            Instr::Pad { low, interior, .. } => fields![low, interior],
            Instr::Concat { dim, .. } => fields![dim],
            Instr::Fill { bits, .. } => fields![bits = Bits(*bits)],
            Instr::Constant { literal, starts, .. } => fields![literal, starts],
            Instr::Iota { dim, start, .. } => fields![dim, start],
            Instr::Send { port, .. } | Instr::Recv { port, .. } => fields![port],
            Instr::RecvAdd { port, monoid, .. } => fields![port, monoid],
            Instr::Load { host, part, .. } | Instr::Store { host, part, .. } => fields![host, part],
            Instr::Wait { queue, count } => fields![queue, count],
            Instr::Attention { weights, scores: Some(scores), origin, .. } => fields![weights, scores, origin],
            Instr::Attention { weights, origin, .. } => fields![weights, origin],
            Instr::Loop { trips, .. } => fields![trips],
            Instr::DynamicSlice { .. }
            | Instr::DynamicUpdateSlice { .. }
            | Instr::Copy { .. }
            | Instr::ExitUnless { .. }
            | Instr::EndLoop
            | Instr::End => Vec::new(),
        };
        // The region that recv_add reads is the one that it writes.
        let ins = if matches!(instr, Instr::RecvAdd { .. }) { Vec::new() } else { instr.reads().into_iter().cloned().collect() };
        Form { name: instr.name().to_string(), outs: instr.writes().into_iter().cloned().collect(), ins, fields }
    }

    fn get<T: FieldValue>(&self, name: &str) -> Result<T, String> {
        let field = self.fields.iter().find(|(n, _)| n == name).map(|(_, f)| f);
        let field = field.ok_or_else(|| format!("`{}` needs `{name}=…`", self.name))?;
        T::from_field(field).ok_or_else(|| format!("`{name}` of `{}` cannot be {field}", self.name))
    }

    fn window(&self) -> Result<WindowDims, String> {
        Ok(WindowDims {
            size: self.get("size")?,
            stride: self.get("stride")?,
            pad_low: self.get("pad_low")?,
            pad_high: self.get("pad_high")?,
            base_dilation: self.get("base_dilation")?,
            window_dilation: self.get("window_dilation")?,
            reverse: self.get("reverse")?,
        })
    }

    /// The op struct behind the fields but `others`.
    fn op<T: OpAttrs>(&self, others: &[&str]) -> Result<T, String> {
        let own = self.fields.iter().filter(|(n, _)| !others.contains(&n.as_str()));
        let attrs: Option<Vec<(String, Attr)>> = own.map(|(n, f)| Some((n.clone(), field_to_attr(f)?))).collect();
        let attrs = attrs.ok_or_else(|| format!("a field of `{}` is no attribute", self.name))?;
        T::from_attrs(&self.name, &AttrReader::new(&attrs)).map_err(|e| e.to_string())
    }

    /// Takes exactly `N` regions.
    fn exactly<const N: usize>(regions: &[Region], what: &str, name: &str) -> Result<[Region; N], String> {
        let got = regions.len();
        <[Region; N]>::try_from(regions.to_vec()).map_err(|_| format!("`{name}` has {N} {what}, not {got}"))
    }

    fn out(&self) -> Result<Region, String> {
        Self::exactly::<1>(&self.outs, "results", &self.name).map(|[r]| r)
    }

    fn ins<const N: usize>(&self) -> Result<[Region; N], String> {
        Self::exactly(&self.ins, "operands", &self.name)
    }

    /// The first `N` operands and the rest.
    fn ins_from<const N: usize>(&self) -> Result<([Region; N], Vec<Region>), String> {
        let at = N.min(self.ins.len());
        Ok((Self::exactly(&self.ins[..at], "operands before its starts", &self.name)?, self.ins[at..].to_vec()))
    }

    /// The instruction of this form, or what is wrong.
    pub(crate) fn build(&self) -> Result<Instr, String> {
        let instr = self.assemble()?;
        let (mine, want) = (self.fields.len(), Form::of(&instr).fields.len());
        if mine != want {
            return Err(format!("`{}` has {want} fields, not {mine}", self.name));
        }
        Ok(instr)
    }

    fn assemble(&self) -> Result<Instr, String> {
        Ok(match self.name.as_str() {
            "gemm" => {
                let [a, b] = self.ins()?;
                Instr::Gemm { out: self.out()?, a, b, batch: self.get("batch")?, contract: self.get("contract")? }
            }
            "conv" => {
                let ([lhs, rhs], out, window) = (self.ins()?, self.out()?, self.window()?);
                let (feature_groups, batch_groups) = (self.get("feature_groups")?, self.get("batch_groups")?);
                Instr::Conv { out, lhs, rhs, window, feature_groups, batch_groups }
            }
            "map" | "rows" => Instr::Map {
                program: self.get("program")?,
                loops: self.get("loops")?,
                cols: self.get("cols")?,
                origin: self.get("origin")?,
                ins: self.ins.clone(),
                outs: self.outs.clone(),
            },
            "attention" | "attention_grad" => Instr::Attention {
                weights: self.get("weights")?,
                scores: if self.name == "attention" { None } else { Some(self.get("scores")?) },
                origin: self.get("origin")?,
                ins: self.ins.clone(),
                outs: self.outs.clone(),
            },
            "reduce" => {
                let [input] = self.ins()?;
                Instr::Reduce { monoid: self.get("monoid")?, out: self.out()?, input }
            }
            "arg_reduce" => {
                let ([input], out) = (self.ins()?, self.out()?);
                Instr::ArgReduce { max: self.get("max")?, last: self.get("last")?, out, input, origin: self.get("origin")? }
            }
            "reduce_window" => {
                let [input] = self.ins()?;
                Instr::ReduceWindow { monoid: self.get("monoid")?, out: self.out()?, input, window: self.window()? }
            }
            "select_scatter" => {
                let [input, source] = self.ins()?;
                Instr::SelectScatter { max: self.get("max")?, out: self.out()?, input, source, window: self.window()? }
            }
            "gather" => {
                let [operand, indices] = self.ins()?;
                Instr::Gather { out: self.out()?, operand, indices, dims: self.op(&["origin"])?, origin: self.get("origin")? }
            }
            "scatter" => {
                let [operand, indices, updates] = self.ins()?;
                Instr::Scatter { out: self.out()?, operand, indices, updates, dims: self.op(&[])? }
            }
            "dynamic_slice" => {
                let ([operand], starts) = self.ins_from()?;
                Instr::DynamicSlice { out: self.out()?, operand, starts }
            }
            "dynamic_update_slice" => {
                let ([operand, update], starts) = self.ins_from()?;
                Instr::DynamicUpdateSlice { out: self.out()?, operand, update, starts }
            }
            "random" => {
                Instr::Random { out: self.out()?, random: self.op(&["origin"])?, ins: self.ins.clone(), origin: self.get("origin")? }
            }
            _ => self.assemble_rest()?,
        })
    }

    fn assemble_rest(&self) -> Result<Instr, String> {
        Ok(match self.name.as_str() {
            "scan" => {
                let ([input], out) = (self.ins()?, self.out()?);
                let (exclusive, reverse) = (self.get("exclusive")?, self.get("reverse")?);
                Instr::Scan { monoid: self.get("monoid")?, dim: self.get("dim")?, exclusive, reverse, out, input }
            }
            "sort" => {
                Instr::Sort { dim: self.get("dim")?, descending: self.get("descending")?, outs: self.outs.clone(), ins: self.ins.clone() }
            }
            "top_k" => {
                let [values, positions] = Self::exactly(&self.outs, "results", &self.name)?;
                let [input] = self.ins()?;
                Instr::TopK { largest: self.get("largest")?, values, positions, input }
            }
            "copy" => {
                let [input] = self.ins()?;
                Instr::Copy { out: self.out()?, input }
            }
            "pad" => {
                let [input, fill] = self.ins()?;
                Instr::Pad { out: self.out()?, input, fill, low: self.get("low")?, interior: self.get("interior")? }
            }
            "concat" => Instr::Concat { out: self.out()?, dim: self.get("dim")?, ins: self.ins.clone() },
            "fill" => Instr::Fill { out: self.out()?, bits: self.get::<Bits>("bits")?.0 },
            "constant" => Instr::Constant { out: self.out()?, literal: self.get("literal")?, starts: self.get("starts")? },
            "iota" => Instr::Iota { out: self.out()?, dim: self.get("dim")?, start: self.get("start")? },
            "send" => {
                let [region] = self.ins()?;
                Instr::Send { port: self.get("port")?, region }
            }
            "recv" => Instr::Recv { port: self.get("port")?, out: self.out()? },
            "recv_add" => Instr::RecvAdd { port: self.get("port")?, out: self.out()?, monoid: self.get("monoid")? },
            "load" => Instr::Load { host: self.get("host")?, part: self.get("part")?, out: self.out()? },
            "store" => {
                let [region] = self.ins()?;
                Instr::Store { host: self.get("host")?, part: self.get("part")?, region }
            }
            "wait" => Instr::Wait { queue: self.get("queue")?, count: self.get("count")? },
            "loop" => {
                let index = match &self.outs[..] {
                    [] => None,
                    [index] => Some(index.clone()),
                    more => return Err(format!("`loop` has at most 1 result, not {}", more.len())),
                };
                Instr::Loop { trips: self.get("trips")?, index, carries: self.ins.clone() }
            }
            "exit_unless" => {
                let [predicate] = self.ins()?;
                Instr::ExitUnless { predicate }
            }
            "end_loop" => Instr::EndLoop,
            "all_reduce" => {
                let ([input], out) = (self.ins()?, self.out()?);
                Instr::AllReduce { monoid: self.get("monoid")?, out, input }
            }
            "end" => Instr::End,
            other => return Err(format!("there is no instruction `{other}`")),
        })
    }
}

fn with_attrs(attrs: Vec<(&'static str, Attr)>, mut more: Vec<(String, Field)>) -> Vec<(String, Field)> {
    more.extend(attrs.iter().map(|(n, a)| (n.to_string(), attr_to_field(a))));
    more
}
