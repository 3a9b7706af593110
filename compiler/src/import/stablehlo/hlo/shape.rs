//! Shapes and constants of the file as module types and dense attributes.

use super::proto::{HloInstructionProto, LiteralProto, ShapeProto};
use super::{DAMAGED, UNSUPPORTED, too_large};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Dense, Element, Limits, ModuleType};
use girih_ir::types::{DType, Dims};
use std::sync::Arc;

/// The codes of element types that are no numbers.
const TUPLE: i32 = 13;
const TOKEN: i32 = 17;

/// A shape with its leaves counted.
#[derive(Debug)]
pub enum Shape {
    /// One value.
    Leaf(ModuleType),
    /// A tuple: its parts, and before how many leaves each starts (one more entry than parts).
    Tuple(Vec<Shape>, Vec<usize>),
}

impl Shape {
    /// The shape that the file writes.
    pub fn read(proto: &ShapeProto, limits: &Limits) -> Result<Shape, Problem> {
        if proto.element_type != TUPLE {
            return Ok(Shape::Leaf(leaf(proto, limits)?));
        }
        let parts = proto.tuple_shapes.iter().map(|p| Shape::read(p, limits)).collect::<Result<Vec<_>, _>>()?;
        let mut starts = vec![0];
        let mut total = 0;
        for part in &parts {
            total += part.leaves();
            starts.push(total);
        }
        Ok(Shape::Tuple(parts, starts))
    }

    /// How many values it stands for.
    pub fn leaves(&self) -> usize {
        match self {
            Shape::Leaf(_) => 1,
            Shape::Tuple(_, starts) => starts.last().copied().unwrap_or(0),
        }
    }

    /// Calls `f` with the type of each leaf, in order.
    pub fn each(&self, f: &mut impl FnMut(&ModuleType)) {
        match self {
            Shape::Leaf(ty) => f(ty),
            Shape::Tuple(parts, _) => parts.iter().for_each(|p| p.each(f)),
        }
    }

    /// The leaves of part `index`: where they start and end.
    pub fn part(&self, index: i64) -> Option<(usize, usize)> {
        let Shape::Tuple(_, starts) = self else { return None };
        let index = usize::try_from(index).ok()?;
        Some((*starts.get(index)?, *starts.get(index.checked_add(1)?)?))
    }

    /// The number of the leaf at that path.
    pub fn leaf_at(&self, path: &[i64]) -> Option<usize> {
        let mut shape = self;
        let mut leaf = 0;
        for step in path {
            let Shape::Tuple(parts, starts) = shape else { return None };
            let index = usize::try_from(*step).ok()?;
            leaf += starts.get(index)?;
            shape = parts.get(index)?;
        }
        matches!(shape, Shape::Leaf(_)).then_some(leaf)
    }
}

fn leaf(proto: &ShapeProto, limits: &Limits) -> Result<ModuleType, Problem> {
    if proto.element_type == TOKEN {
        return Ok(ModuleType::Token);
    }
    let element = element(proto.element_type)?;
    if proto.dimensions.len() > limits.rank {
        return Err(too_large(format!("a tensor has {} dimensions, more than {}", proto.dimensions.len(), limits.rank)));
    }
    if proto.is_dynamic_dimension.contains(&true) {
        let mut text = String::from("tensor<");
        for (d, dynamic) in proto.dimensions.iter().zip(&proto.is_dynamic_dimension) {
            text.push_str(&if *dynamic { "?x".to_owned() } else { format!("{d}x") });
        }
        return Ok(ModuleType::Other(format!("{text}{element}>")));
    }
    let mut shape = Dims::new();
    let mut elements = 1usize;
    for d in &proto.dimensions {
        let d = usize::try_from(*d).map_err(|_| Problem::new(DAMAGED, format!("a tensor has the extent {d}")))?;
        // An extent of 0 makes the product 0, but the other extents still have to be plausible.
        elements = elements
            .checked_mul(d.max(1))
            .filter(|e| *e <= limits.elements)
            .ok_or_else(|| too_large(format!("a tensor of the shape {:?} has more than {} elements", proto.dimensions, limits.elements)))?;
        shape.push(d);
    }
    Ok(ModuleType::Tensor { shape, element })
}

/// The element type of that code.
fn element(code: i32) -> Result<Element, Problem> {
    let name = match code {
        1 => return Ok(Element::Known(DType::Bool)),
        2 => "i8",
        3 => "i16",
        4 => "i32",
        5 => "i64",
        6 => "u8",
        7 => "u16",
        8 => "u32",
        9 => "u64",
        10 => "f16",
        11 => "f32",
        12 => "f64",
        16 => "bf16",
        15 => return Ok(Element::Complex(DType::F32)),
        18 => return Ok(Element::Complex(DType::F64)),
        19 => "f8E5M2",
        20 => "f8E4M3FN",
        21 => "i4",
        22 => "ui4",
        23 => "f8E4M3B11FNUZ",
        24 => "f8E5M2FNUZ",
        25 => "f8E4M3FNUZ",
        26 => "i2",
        27 => "ui2",
        28 => "f8E4M3",
        29 => "f8E3M4",
        30 => "si1",
        31 => "ui1",
        32 => "f4E2M1FN",
        33 => "f8E8M0FNU",
        14 => "opaque",
        34 => "buffer",
        _ => return Err(Problem::new(DAMAGED, format!("an element type has the unknown code {code}"))),
    };
    let known = DType::from_name(name).or_else(|| DType::from_name(&name.to_ascii_lowercase()));
    Ok(known.map_or_else(|| Element::Other(name.to_owned()), Element::Known))
}

/// The value of a `constant`.
pub fn constant(instruction: &HloInstructionProto, limits: &Limits) -> Result<Dense, Problem> {
    let literal = instruction.literal.as_deref().ok_or_else(|| Problem::new(DAMAGED, "a constant has no value"))?;
    let proto = literal.shape.as_ref().or(instruction.shape.as_ref());
    let proto = proto.ok_or_else(|| Problem::new(DAMAGED, "a constant has no shape"))?;
    let (shape, element) = match leaf_of_constant(proto, limits)? {
        ModuleType::Tensor { shape, element } => (shape, element),
        other => return Err(Problem::new(UNSUPPORTED, format!("a constant has the type {other}")).help("re-export the module")),
    };
    if let Some(outer) = &instruction.shape
        && (outer.dimensions != proto.dimensions || outer.element_type != proto.element_type)
    {
        return Err(Problem::new(DAMAGED, "a constant's value has another shape than the constant"));
    }
    let count: usize = shape.iter().product();
    let (bytes, size) = payload(literal, proto.element_type)
        .ok_or_else(|| Problem::new(UNSUPPORTED, format!("a constant has elements of the type {element}")))?;
    if count.checked_mul(size) != Some(bytes.len()) {
        let what = format!("a constant of {count} elements has {} of them in the file", bytes.len() / size);
        return Err(Problem::new(DAMAGED, what).help("dump the module with its large constants"));
    }
    let bytes = row_major(bytes, size, &shape, proto)?;
    Ok(Dense { splat: false, shape, element, bytes: Arc::from(bytes) })
}

fn leaf_of_constant(proto: &ShapeProto, limits: &Limits) -> Result<ModuleType, Problem> {
    if proto.element_type == TUPLE {
        return Ok(ModuleType::Tuple(vec![]));
    }
    leaf(proto, limits)
}

/// The little-endian elements of a literal, and the bytes of one.
fn payload(l: &LiteralProto, code: i32) -> Option<(Vec<u8>, usize)> {
    let f32s = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let f64s = |v: &[f64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    Some(match code {
        1 => (l.preds.iter().map(|b| u8::from(*b)).collect(), 1),
        2 => (l.s8s.to_vec(), 1),
        3 => (l.s16s.to_vec(), 2),
        4 => (l.s32s.iter().flat_map(|x| x.to_le_bytes()).collect(), 4),
        5 => (l.s64s.iter().flat_map(|x| x.to_le_bytes()).collect(), 8),
        6 => (l.u8s.to_vec(), 1),
        7 => (l.u16s.to_vec(), 2),
        8 => (l.u32s.iter().flat_map(|x| x.to_le_bytes()).collect(), 4),
        9 => (l.u64s.iter().flat_map(|x| x.to_le_bytes()).collect(), 8),
        10 => (l.f16s.to_vec(), 2),
        11 => (f32s(&l.f32s), 4),
        12 => (f64s(&l.f64s), 8),
        15 => (f32s(&l.c64s), 8),
        16 => (l.bf16s.to_vec(), 2),
        18 => (f64s(&l.c128s), 16),
        19 => (l.f8e5m2s.to_vec(), 1),
        20 => (l.f8e4m3fns.to_vec(), 1),
        21 => (l.s4s.to_vec(), 1),
        22 => (l.u4s.to_vec(), 1),
        23 => (l.f8e4m3b11fnuzs.to_vec(), 1),
        24 => (l.f8e5m2fnuzs.to_vec(), 1),
        25 => (l.f8e4m3fnuzs.to_vec(), 1),
        26 => (l.s2s.to_vec(), 1),
        27 => (l.u2s.to_vec(), 1),
        28 => (l.f8e4m3s.to_vec(), 1),
        29 => (l.f8e3m4s.to_vec(), 1),
        32 => (l.f4e2m1fns.to_vec(), 1),
        33 => (l.f8e8m0fnus.to_vec(), 1),
        _ => return None,
    })
}

/// The elements in row-major order; the layout of the literal says in which order they stand.
fn row_major(bytes: Vec<u8>, size: usize, shape: &Dims, proto: &ShapeProto) -> Result<Vec<u8>, Problem> {
    let order: &[i64] = proto.layout.as_deref().map_or(&[], |l| &l.minor_to_major);
    let rank = shape.len();
    if order.is_empty() || bytes.is_empty() || order.iter().copied().eq((0..rank as i64).rev()) {
        return Ok(bytes);
    }
    let mut strides = vec![0usize; rank];
    let mut seen = vec![false; rank];
    let mut stride = 1;
    for d in order {
        let d = usize::try_from(*d).ok().filter(|d| *d < rank && !seen[*d]);
        let d = d.ok_or_else(|| Problem::new(DAMAGED, "the layout of a constant is no permutation of its dimensions"))?;
        seen[d] = true;
        strides[d] = stride;
        stride *= shape[d];
    }
    if order.len() != rank {
        return Err(Problem::new(DAMAGED, "the layout of a constant is no permutation of its dimensions"));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0usize; rank];
    let mut from = 0;
    for _ in 0..bytes.len() / size {
        out.extend_from_slice(&bytes[from * size..(from + 1) * size]);
        for d in (0..rank).rev() {
            index[d] += 1;
            from += strides[d];
            if index[d] < shape[d] {
                break;
            }
            from -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
    Ok(out)
}
