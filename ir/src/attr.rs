//! Attributes: the static parameters of an op in one generic form, so that the text form, the e-graph and the codec need no code per op.

use crate::fused::FusedProgram;
use crate::graph::Graph;
use crate::literal::Literal;
use crate::types::{DType, Dims};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One attribute value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Attr {
    /// A truth value: `true`.
    Bool(bool),
    /// An integer: `-3`.
    Int(i64),
    /// A float by its bit pattern, so that equality is exact: `1e-5`.
    Float(u64),
    /// A word: `sum`.
    Word(String),
    /// A list of integers: `[1, 2]`.
    Ints(Vec<i64>),
    /// Lists of lists of integers: `[[0, 1], [2]]`.
    Lists(Vec<Vec<i64>>),
    /// An element type: `f32`.
    DType(DType),
    /// A dense tensor: `dense<…>`.
    Literal(Literal),
    /// A fused elementwise or row program.
    Program(Arc<FusedProgram>),
    /// A region: the body of a reduction or a loop.
    Region(Arc<Graph>),
}

/// What is wrong with an op's attributes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttrError {
    /// A required attribute is absent.
    #[error("E0210: attribute `{name}` is missing; write `{name} = …` inside the braces")]
    Missing {
        /// Attribute name.
        name: &'static str,
    },
    /// The attribute has another kind of value.
    #[error("E0211: attribute `{name}` must be {want}")]
    Kind {
        /// Attribute name.
        name: &'static str,
        /// The kind that is needed.
        want: &'static str,
    },
    /// An attribute that the op does not have.
    #[error("E0212: there is no attribute `{name}` on this op; it has {known}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The names that the op has.
        known: String,
    },
}

/// A Rust type that is an attribute's value.
pub trait AttrValue: Sized {
    /// The kind, for messages: `an integer`.
    const KIND: &'static str;
    /// The generic form.
    fn to_attr(&self) -> Attr;
    /// Reads the generic form back; `None` when it is of another kind.
    fn from_attr(attr: &Attr) -> Option<Self>;
}

macro_rules! attr_value {
    ($t:ty, $kind:literal, |$s:ident| $to:expr, $pat:pat => $from:expr) => {
        impl AttrValue for $t {
            const KIND: &'static str = $kind;
            fn to_attr(&self) -> Attr {
                let $s = self;
                $to
            }
            fn from_attr(attr: &Attr) -> Option<Self> {
                match attr {
                    $pat => $from,
                    _ => None,
                }
            }
        }
    };
}

attr_value!(bool, "true or false", |s| Attr::Bool(*s), Attr::Bool(v) => Some(*v));
attr_value!(i64, "an integer", |s| Attr::Int(*s), Attr::Int(v) => Some(*v));
attr_value!(usize, "a non-negative integer", |s| Attr::Int(*s as i64), Attr::Int(v) => usize::try_from(*v).ok());
attr_value!(String, "a word", |s| Attr::Word(s.clone()), Attr::Word(v) => Some(v.clone()));
attr_value!(Vec<i64>, "a list of integers", |s| Attr::Ints(s.clone()), Attr::Ints(v) => Some(v.clone()));
attr_value!(Vec<usize>, "a list of non-negative integers", |s| Attr::Ints(s.iter().map(|v| *v as i64).collect()),
    Attr::Ints(v) => v.iter().map(|x| usize::try_from(*x).ok()).collect());
attr_value!(Dims, "a list of non-negative integers", |s| Attr::Ints(s.iter().map(|v| *v as i64).collect()),
    Attr::Ints(v) => v.iter().map(|x| usize::try_from(*x).ok()).collect());
attr_value!(Vec<bool>, "a list of 0 and 1", |s| Attr::Ints(s.iter().map(|v| i64::from(*v)).collect()),
    Attr::Ints(v) => v.iter().map(|x| match x { 0 => Some(false), 1 => Some(true), _ => None }).collect());
attr_value!(Vec<Vec<usize>>, "a list of lists of non-negative integers",
|s| Attr::Lists(s.iter().map(|l| l.iter().map(|v| *v as i64).collect()).collect()),
a @ (Attr::Lists(_) | Attr::Ints(_)) => match a {
    Attr::Lists(v) => v.iter().map(|l| l.iter().map(|x| usize::try_from(*x).ok()).collect()).collect(),
    // The text form of no lists at all.
    Attr::Ints(v) if v.is_empty() => Some(Vec::new()),
    _ => None,
});
attr_value!(DType, "an element type", |s| Attr::DType(*s), Attr::DType(v) => Some(*v));
attr_value!(Literal, "a dense tensor", |s| Attr::Literal(s.clone()), Attr::Literal(v) => Some(v.clone()));
attr_value!(Arc<FusedProgram>, "a fused program", |s| Attr::Program(s.clone()), Attr::Program(v) => Some(v.clone()));
attr_value!(Arc<Graph>, "a region", |s| Attr::Region(s.clone()), Attr::Region(v) => Some(v.clone()));

/// A float attribute, compared and hashed by its bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Real(u64);

impl Real {
    /// The attribute for a value.
    pub fn new(v: f64) -> Self {
        Real(v.to_bits())
    }
    /// The value.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

attr_value!(Real, "a number", |s| Attr::Float(s.0), a @ (Attr::Float(_) | Attr::Int(_)) => Some(match a {
    Attr::Float(bits) => Real(*bits),
    Attr::Int(v) => Real::new(*v as f64),
    _ => return None,
}));

macro_rules! word_attr {
    ($t:ty, $kind:literal) => {
        attr_value!($t, $kind, |s| Attr::Word(s.name().to_string()), Attr::Word(v) => <$t>::from_name(v));
    };
}
word_attr!(crate::scalar::Monoid, "one of sum, prod, max, min, and, or, xor");
word_attr!(crate::scalar::CompareFn, "one of eq, ne, lt, le, gt, ge");
word_attr!(crate::ops::scatter::Combiner, "one of none, sum, prod, max, min");
word_attr!(crate::small_float::SmallFloat, "a small float format, such as f8E4M3FNUZ");
word_attr!(crate::ops::random::Distribution, "one of bits, uniform, normal");

/// Attributes being read into an op.
#[derive(Debug)]
pub struct AttrReader<'a> {
    attrs: &'a [(String, Attr)],
}

impl<'a> AttrReader<'a> {
    /// A reader over named attributes.
    pub fn new(attrs: &'a [(String, Attr)]) -> Self {
        AttrReader { attrs }
    }

    /// The attribute of that name.
    pub fn get<T: AttrValue>(&self, name: &'static str) -> Result<T, AttrError> {
        let attr = self.attrs.iter().find(|(n, _)| n == name).map(|(_, a)| a).ok_or(AttrError::Missing { name })?;
        T::from_attr(attr).ok_or(AttrError::Kind { name, want: T::KIND })
    }

    /// Refuses attributes that are not in `known`.
    pub fn only(&self, known: &[&'static str]) -> Result<(), AttrError> {
        match self.attrs.iter().find(|(n, _)| !known.contains(&n.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                Err(AttrError::Unknown { name: name.clone(), known: if known.is_empty() { "none".to_string() } else { known.join(", ") } })
            }
        }
    }
}

/// Declares an op's attribute struct and its generic form: `op_attrs! { /// doc  Reshape { /// doc  shape: Dims } }`.
#[macro_export]
macro_rules! op_attrs {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident : $t:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($(#[$doc])* pub $field: $t),* }
        impl $crate::ops::OpAttrs for $name {
            fn attrs(&self) -> Vec<(&'static str, $crate::attr::Attr)> {
                vec![$((stringify!($field), $crate::attr::AttrValue::to_attr(&self.$field))),*]
            }
            fn from_attrs(_name: &str, reader: &$crate::attr::AttrReader<'_>) -> Result<Self, $crate::attr::AttrError> {
                reader.only(&[$(stringify!($field)),*])?;
                Ok($name { $($field: reader.get(stringify!($field))?),* })
            }
        }
    };
}
