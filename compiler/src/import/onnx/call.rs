//! One operator application as its handler sees it: resolved inputs and checked attributes.

use super::build::{Builder, Val};
use super::proto::{AttributeProto, GraphProto, TensorProto, attribute_type};
use girih_ir::tensor::Tensor;
use std::collections::BTreeMap;

/// Why a handler gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node is sound, but uses something that is not supported.
    Unsupported(String),
    /// The node breaks ONNX's rules.
    Malformed(String),
}

/// The result of a handler or of a building step.
pub type Res<T> = Result<T, Fault>;

/// `Err` for something that is not supported.
pub fn unsupported<T>(why: impl Into<String>) -> Res<T> {
    Err(Fault::Unsupported(why.into()))
}

/// `Err` for something that breaks ONNX's rules.
pub fn malformed<T>(why: impl Into<String>) -> Res<T> {
    Err(Fault::Malformed(why.into()))
}

/// What an ONNX name stands for.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Val),
    /// A sequence of tensors; its length is known at import.
    Sequence(Vec<Val>),
    /// An output that is not there.
    Absent,
    /// The result of a node that could not be imported.
    Poison,
}

impl From<Val> for Value {
    fn from(v: Val) -> Self {
        Value::Tensor(v)
    }
}

/// What a handler returns: one value an output, trailing ones may be left out.
pub type Outputs = Res<Vec<Value>>;

/// The usual handler result: one tensor.
pub fn one(v: Val) -> Outputs {
    Ok(vec![Value::Tensor(v)])
}

/// The attributes of a node; inside a function, references are resolved against the caller's.
#[derive(Clone)]
pub struct Attrs<'a> {
    by_name: BTreeMap<&'a str, &'a AttributeProto>,
}

impl<'a> Attrs<'a> {
    /// The attributes of a node, with `ref_attr_name` looked up in `caller`.
    pub fn new(own: &'a [AttributeProto], caller: Option<&Attrs<'a>>) -> Self {
        let mut by_name = BTreeMap::new();
        for attribute in own {
            let name = attribute.name.as_deref().unwrap_or("");
            match attribute.ref_attr_name.as_deref().filter(|r| !r.is_empty()) {
                None => {
                    by_name.insert(name, attribute);
                }
                Some(reference) => {
                    if let Some(actual) = caller.and_then(|c| c.by_name.get(reference)) {
                        by_name.insert(name, *actual);
                    }
                }
            }
        }
        Attrs { by_name }
    }

    /// Adds attributes that are not there yet: a function's defaults.
    pub fn or_defaults(mut self, defaults: &'a [AttributeProto]) -> Self {
        for attribute in defaults {
            self.by_name.entry(attribute.name.as_deref().unwrap_or("")).or_insert(attribute);
        }
        self
    }

    fn typed(&self, name: &str, want: i32, what: &str) -> Res<Option<&'a AttributeProto>> {
        let Some(attribute) = self.by_name.get(name) else { return Ok(None) };
        match attribute.r#type.unwrap_or(attribute_type::UNDEFINED) {
            t if t == want || t == attribute_type::UNDEFINED => Ok(Some(attribute)),
            _ => malformed(format!("attribute '{name}' is not {what}")),
        }
    }

    /// Whether there is an attribute of that name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Res<Option<i64>> {
        Ok(self.typed(name, attribute_type::INT, "an integer")?.and_then(|a| a.i))
    }

    /// A number.
    pub fn float(&self, name: &str) -> Res<Option<f64>> {
        Ok(self.typed(name, attribute_type::FLOAT, "a number")?.and_then(|a| a.f).map(f64::from))
    }

    /// Integers.
    pub fn ints(&self, name: &str) -> Res<Option<&'a [i64]>> {
        Ok(self.typed(name, attribute_type::INTS, "a list of integers")?.map(|a| a.ints.as_slice()))
    }

    /// Numbers.
    pub fn floats(&self, name: &str) -> Res<Option<&'a [f32]>> {
        Ok(self.typed(name, attribute_type::FLOATS, "a list of numbers")?.map(|a| a.floats.as_slice()))
    }

    /// A string.
    pub fn text(&self, name: &str) -> Res<Option<&'a str>> {
        let Some(bytes) = self.typed(name, attribute_type::STRING, "a string")?.and_then(|a| a.s.as_ref()) else { return Ok(None) };
        std::str::from_utf8(bytes).map(Some).map_err(|_| Fault::Malformed(format!("attribute '{name}' is not UTF-8")))
    }

    /// Strings.
    pub fn texts(&self, name: &str) -> Res<Option<Vec<&'a str>>> {
        let Some(attribute) = self.typed(name, attribute_type::STRINGS, "a list of strings")? else { return Ok(None) };
        let texts: Result<Vec<&str>, _> = attribute.strings.iter().map(|s| std::str::from_utf8(s)).collect();
        texts.map(Some).map_err(|_| Fault::Malformed(format!("attribute '{name}' is not UTF-8")))
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Res<Option<&'a TensorProto>> {
        Ok(self.typed(name, attribute_type::TENSOR, "a tensor")?.and_then(|a| a.t.as_deref()))
    }

    /// A graph.
    pub fn graph(&self, name: &str) -> Res<&'a GraphProto> {
        let graph = self.typed(name, attribute_type::GRAPH, "a graph")?.and_then(|a| a.g.as_deref());
        graph.ok_or_else(|| Fault::Malformed(format!("attribute '{name}' is missing")))
    }
}

/// One node, ready for its handler.
pub struct Call<'a> {
    /// The operator.
    pub op: &'a str,
    /// The version of its operator set.
    pub opset: i64,
    /// The inputs; `None` = left out.
    pub inputs: Vec<Option<Value>>,
    /// The attributes.
    pub attrs: Attrs<'a>,
    /// Which outputs have a name.
    pub wanted: Vec<bool>,
}

impl Call<'_> {
    /// Input `i` as a tensor.
    pub fn input(&self, i: usize) -> Res<Val> {
        self.opt(i)?.map_or_else(|| malformed(format!("input {i} is missing")), Ok)
    }

    /// Input `i` as a tensor, if it is given.
    pub fn opt(&self, i: usize) -> Res<Option<Val>> {
        match self.inputs.get(i) {
            None | Some(None) | Some(Some(Value::Absent)) => Ok(None),
            Some(Some(Value::Tensor(v))) => Ok(Some(*v)),
            Some(Some(_)) => malformed(format!("input {i} is not a tensor")),
        }
    }

    /// Input `i` as a sequence.
    pub fn sequence(&self, i: usize) -> Res<&[Val]> {
        match self.inputs.get(i) {
            Some(Some(Value::Sequence(s))) => Ok(s),
            _ => malformed(format!("input {i} is not a sequence")),
        }
    }

    /// All inputs as tensors; there must be at least one.
    pub fn all(&self) -> Res<Vec<Val>> {
        if self.inputs.is_empty() {
            return malformed("there are no inputs");
        }
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// Whether output `i` is used by name.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str, default: i64) -> Res<i64> {
        Ok(self.attrs.int(name)?.unwrap_or(default))
    }

    /// A 0/1 attribute.
    pub fn flag(&self, name: &str, default: bool) -> Res<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// A number attribute.
    pub fn float(&self, name: &str, default: f64) -> Res<f64> {
        Ok(self.attrs.float(name)?.unwrap_or(default))
    }

    /// A string attribute.
    pub fn text(&self, name: &str, default: &'static str) -> Res<&str> {
        Ok(self.attrs.text(name)?.unwrap_or(default))
    }

    /// A list of integers that is an attribute in old operator sets and input `i` in new ones.
    pub fn ints_or_input(&self, b: &mut Builder, name: &str, i: usize) -> Res<Option<Vec<i64>>> {
        if let Some(list) = self.attrs.ints(name)? {
            return Ok(Some(list.to_vec()));
        }
        self.opt(i)?.map(|v| b.known_ints(v, name)).transpose()
    }

    /// A value that must be known at import, as integer; `None` when the input is left out.
    pub fn known_int(&self, b: &mut Builder, i: usize, what: &str) -> Res<Option<i64>> {
        let Some(v) = self.opt(i)? else { return Ok(None) };
        let list = b.known_ints(v, what)?;
        list.first().copied().map_or_else(|| malformed(format!("the {what} is empty")), |v| Ok(Some(v)))
    }

    /// A tensor input that must be known at import.
    pub fn known(&self, b: &mut Builder, i: usize, what: &str) -> Res<Option<Tensor>> {
        let Some(v) = self.opt(i)? else { return Ok(None) };
        b.known(v, what).map(Some)
    }
}

/// An axis counted from the end when negative.
pub fn axis(axis: i64, rank: usize) -> Res<usize> {
    let positive = if axis < 0 { axis.checked_add(rank as i64).unwrap_or(-1) } else { axis };
    match usize::try_from(positive) {
        Ok(a) if a < rank => Ok(a),
        _ => malformed(format!("axis {axis} is outside rank {rank}")),
    }
}

/// Axes, normalized, sorted, without repetition.
pub fn axes(list: &[i64], rank: usize) -> Res<Vec<usize>> {
    let mut out = list.iter().map(|a| axis(*a, rank)).collect::<Res<Vec<_>>>()?;
    out.sort_unstable();
    let count = out.len();
    out.dedup();
    if out.len() != count { malformed("an axis is named twice") } else { Ok(out) }
}
