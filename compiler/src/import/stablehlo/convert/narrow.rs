//! Element types that the IR has not: integers of two and four bits, and the small floats.
//!
//! Narrow integers are carried in `i8` or `u8`, small floats in `f32`; every value of theirs is one of the carrier. After every op that may
//! leave the type the result is brought back: an integer wraps around, a float is rounded (`round_to`). So a carried value is always one of
//! its type, and ops that only move or choose elements need nothing. Inputs of the graph are brought into their type as well.

use super::super::module::{Dense, Element, ModuleType, ModuleValue, Operation};
use super::{Converter, Frame, Parts, Res, attrs, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::literal::Literal;
use girih_ir::ops::elementwise::{Binary, Unary};
use girih_ir::ops::round_to::RoundTo;
use girih_ir::scalar::{BinaryFn, UnaryFn};
use girih_ir::small_float::SmallFloat;
use girih_ir::types::{DType, Dims, TensorType};

/// An element type that is carried in a wider one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Narrow {
    /// A whole number.
    Int {
        /// Bits, fewer than eight.
        bits: u32,
        /// Whether negative numbers are among them.
        signed: bool,
    },
    /// A floating-point number.
    Float(SmallFloat),
}

impl Narrow {
    /// The narrow type that this is, if it is one.
    pub fn of(element: &Element) -> Option<Narrow> {
        let Element::Other(name) = element else { return None };
        let int = |bits, signed| Some(Narrow::Int { bits, signed });
        match name.as_str() {
            "i2" | "si2" => int(2, true),
            "i4" | "si4" => int(4, true),
            "ui2" => int(2, false),
            "ui4" => int(4, false),
            name => SmallFloat::from_name(name).map(Narrow::Float),
        }
    }

    /// The type that carries it.
    pub fn carrier(self) -> DType {
        match self {
            Narrow::Int { signed: true, .. } => DType::I8,
            Narrow::Int { signed: false, .. } => DType::U8,
            Narrow::Float(_) => DType::F32,
        }
    }

    /// The elements of a constant in the carrier, from one byte each.
    fn carried(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Narrow::Int { bits, signed } => {
                let shift = 8 - bits;
                let own = |b: &u8| if signed { ((b << shift).cast_signed() >> shift).cast_unsigned() } else { b << shift >> shift };
                bytes.iter().map(own).collect()
            }
            Narrow::Float(f) => bytes.iter().flat_map(|b| (f.decode(*b) as f32).to_le_bytes()).collect(),
        }
    }

    /// The literal of a constant; a splat as one element.
    pub fn literal(self, d: &Dense) -> Res<Literal> {
        let shape = if d.splat { Dims::new() } else { d.shape.clone() };
        attrs::literal(self.carrier(), shape, &self.carried(&d.bytes))
    }
}

/// The type that an element is of in the graph: its own, or that which carries it.
pub(super) fn carried(element: &Element) -> Option<DType> {
    match element {
        Element::Known(dtype) => Some(*dtype),
        other => Narrow::of(other).map(Narrow::carrier),
    }
}

/// Ops whose results are among the values of their operands, or of what their regions return; sorted.
#[rustfmt::skip]
const KEEPING: [&str; 43] = [
    "all_gather", "all_to_all", "and", "broadcast", "broadcast_in_dim", "call", "case", "clamp", "collective_broadcast",
    "collective_permute", "composite", "concatenate", "constant", "convert", "dynamic_broadcast_in_dim",
    "dynamic_gather", "dynamic_reshape", "dynamic_slice", "dynamic_update_slice", "gather", "get_tuple_element", "if",
    "manual_computation", "map", "maximum", "minimum", "named_computation", "optimization_barrier", "or", "pad",
    "probe", "propagation_barrier", "real_dynamic_slice", "reshape", "reverse", "select", "set_dimension_size", "slice",
    "sort", "top_k", "transpose", "while", "xor",
];

/// Whether the results of an op need not be brought back into their types.
fn keeps(op: &Operation) -> bool {
    let name = op.name.split_once('.').map_or(op.name.as_str(), |(_, n)| n);
    KEEPING.binary_search(&name).is_ok()
}

impl<'a> Converter<'a> {
    /// The narrow type that a module value has, if it has one.
    pub fn narrow(&self, frame: &Frame<'a>, value: ModuleValue) -> Option<Narrow> {
        match frame.function.types.get(value.index())? {
            ModuleType::Tensor { element, .. } => Narrow::of(element),
            _ => None,
        }
    }

    /// The narrow type of an operand, if it has one.
    fn narrow_operand(&self, frame: &Frame<'a>, op: &Operation, index: usize) -> Option<Narrow> {
        self.narrow(frame, *op.operands.get(index)?)
    }

    /// The results of an op, each brought back into its type.
    pub fn settled(&mut self, frame: &Frame<'a>, op: &Operation, mut results: Vec<Parts>) -> Res<Vec<Parts>> {
        if keeps(op) {
            return Ok(results);
        }
        for (v, parts) in op.results.iter().zip(&mut results) {
            let Some(narrow) = self.narrow(frame, *v) else { continue };
            for part in parts.iter_mut() {
                if self.graph.ty(*part).as_tensor().is_some_and(|t| t.dtype == narrow.carrier()) {
                    *part = self.settle(*part, narrow)?;
                }
            }
        }
        Ok(results)
    }

    /// A value of the carrier brought into a narrow type.
    pub fn settle(&mut self, v: ValueId, narrow: Narrow) -> Res<ValueId> {
        match narrow {
            Narrow::Float(format) => self.add(RoundTo { format }, &[v]),
            Narrow::Int { bits, signed: false } => self.with_number(BinaryFn::And, v, (1 << bits) - 1),
            Narrow::Int { bits, signed: true } => {
                let up = self.with_number(BinaryFn::Shl, v, 8 - i64::from(bits))?;
                self.with_number(BinaryFn::ShrArith, up, 8 - i64::from(bits))
            }
        }
    }

    /// An integer function of a value and a number.
    fn with_number(&mut self, f: BinaryFn, v: ValueId, number: i64) -> Res<ValueId> {
        let number = self.scalar(self.dtype(v), number);
        let number = self.spread(number, &self.dims(v))?;
        self.add(Binary(f), &[v, number])
    }

    /// A conversion to an element type, narrow or not, rounding once.
    pub fn converted(&mut self, v: ValueId, to: DType, narrow: Option<Narrow>) -> Res<ValueId> {
        match narrow {
            Some(Narrow::Float(format)) => {
                // What f32 cannot hold is rounded to the format first.
                let wide = matches!(self.dtype(v), DType::F64 | DType::I32 | DType::U32 | DType::I64 | DType::U64);
                let v = self.graph.convert(v, if wide { DType::F64 } else { DType::F32 });
                let rounded = self.add(RoundTo { format }, &[v])?;
                Ok(self.graph.convert(rounded, DType::F32))
            }
            Some(narrow) => {
                let v = self.graph.convert(v, to);
                self.settle(v, narrow)
            }
            None => Ok(self.graph.convert(v, to)),
        }
    }

    /// A function of one integer of few bits that looks at its bits; `None` for every other function or type.
    pub fn narrow_unary(&mut self, frame: &Frame<'a>, op: &Operation, f: UnaryFn, x: ValueId) -> Res<Option<ValueId>> {
        let (Some(Narrow::Int { bits, .. }), UnaryFn::Clz | UnaryFn::Popcnt) = (self.narrow_operand(frame, op, 0), f) else {
            return Ok(None);
        };
        let pattern = self.with_number(BinaryFn::And, x, (1 << bits) - 1)?;
        let made = self.add(Unary(f), &[pattern])?;
        if f == UnaryFn::Popcnt {
            return Ok(Some(made));
        }
        self.with_number(BinaryFn::Sub, made, 8 - i64::from(bits)).map(Some)
    }

    /// The first operand of a shift to the right as a number of eight bits that shifts like the narrow one.
    pub fn narrow_shifted(&mut self, frame: &Frame<'a>, op: &Operation, f: BinaryFn, x: ValueId) -> Res<ValueId> {
        match (self.narrow_operand(frame, op, 0), f) {
            (Some(Narrow::Int { bits, signed: true }), BinaryFn::ShrLogical) => self.with_number(BinaryFn::And, x, (1 << bits) - 1),
            (Some(Narrow::Int { bits, signed: false }), BinaryFn::ShrArith) => {
                let up = self.with_number(BinaryFn::Shl, x, 8 - i64::from(bits))?;
                self.with_number(BinaryFn::ShrArith, up, 8 - i64::from(bits))
            }
            _ => Ok(x),
        }
    }

    /// Refuses a look at the bits of narrow elements, unless both types have as many of them and are integers.
    pub fn narrow_bitcast(&self, frame: &Frame<'a>, op: &Operation) -> Res<()> {
        let to = op.results.first().and_then(|v| self.narrow(frame, *v));
        match (self.narrow_operand(frame, op, 0), to) {
            (None, None) => Ok(()),
            (Some(Narrow::Int { bits: a, .. }), Some(Narrow::Int { bits: b, .. })) if a == b => Ok(()),
            _ => unsupported("the bits of elements of fewer than eight bits, or of small floats"),
        }
    }

    /// The graph type of a parameter, and the narrow type that it has.
    pub fn narrow_leaf(ty: &ModuleType, leaf: &TensorType) -> Option<Narrow> {
        match ty {
            ModuleType::Tensor { element, .. } => Narrow::of(element).filter(|n| n.carrier() == leaf.dtype),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_order() {
        assert!(KEEPING.is_sorted());
    }

    #[test]
    fn constants_are_extended_to_the_carrier() {
        let of = |name: &str| Narrow::of(&Element::Other(name.into())).unwrap();
        assert_eq!(of("i4").carried(&[0x08, 0xF8, 7]), [0xF8, 0xF8, 7]);
        assert_eq!(of("ui4").carried(&[0x08, 0xFF]), [8, 15]);
        assert_eq!(of("i2").carried(&[2, 1]), [0xFE, 1]);
        assert_eq!(of("f4E2M1FN").carried(&[0x0F]), (-6f32).to_le_bytes());
        assert_eq!(Narrow::of(&Element::Other("i3".into())), None);
        assert_eq!(Narrow::of(&Element::Other("tf32".into())), None);
    }
}
