//! Reading the attributes of a module's ops.

use super::super::module::{Dense, Element, ModuleAttr, Operation};
use super::narrow::Narrow;
use super::{Res, malformed};
use girih_ir::literal::Literal;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};
use indexmap::IndexMap;

/// Attributes by name: those of an op, or the fields of one.
pub(super) type Attrs = IndexMap<String, ModuleAttr>;

/// The elements of a dense attribute as a tensor of the IR, narrow ones in the type that carries them; a splat as one element. `None` when
/// the IR has no such type.
pub(super) fn dense_literal(d: &Dense) -> Res<Option<Literal>> {
    if let Some(narrow) = Narrow::of(&d.element) {
        return narrow.literal(d).map(Some);
    }
    let Element::Known(dtype) = d.element else { return Ok(None) };
    let shape = if d.splat { Dims::new() } else { d.shape.clone() };
    literal(dtype, shape, &d.bytes).map(Some)
}

/// The real and imaginary parts of a complex dense attribute.
pub(super) fn complex_literals(d: &Dense, part: DType) -> Res<[Literal; 2]> {
    let shape = if d.splat { Dims::new() } else { d.shape.clone() };
    let size = part.size();
    let pick = |offset: usize| -> Vec<u8> { d.bytes.chunks_exact(2 * size).flat_map(|c| c[offset..offset + size].to_vec()).collect() };
    Ok([literal(part, shape.clone(), &pick(0))?, literal(part, shape, &pick(size))?])
}

/// A literal of these bytes.
pub(super) fn literal(dtype: DType, shape: Dims, bytes: &[u8]) -> Res<Literal> {
    let ty = TensorType { dtype, shape };
    let bytes: Vec<u8> = if dtype == DType::Bool { bytes.iter().map(|b| u8::from(*b != 0)).collect() } else { bytes.to_vec() };
    Literal::new(ty, bytes).or_else(|e| malformed(format!("a dense attribute of type {} needs {} bytes and has {}", e.ty, e.need, e.got)))
}

/// The integers of an attribute that lists some.
fn integers(attr: &ModuleAttr) -> Res<Option<Vec<i64>>> {
    Ok(match attr {
        ModuleAttr::Ints(v) => Some(v.clone()),
        ModuleAttr::List(items) => items
            .iter()
            .map(|i| match i {
                ModuleAttr::Int(v) => Some(*v),
                ModuleAttr::Bool(b) => Some(i64::from(*b)),
                _ => None,
            })
            .collect(),
        ModuleAttr::Dense(d) => match dense_literal(d)? {
            Some(l) if !l.ty().dtype.is_float() => {
                let values = Tensor::from_literal(&l).ints();
                let count = girih_ir::types::element_count(&d.shape);
                Some(if d.splat { vec![values[0]; count.min(1 << 16)] } else { values })
            }
            _ => None,
        },
        _ => None,
    })
}

/// A list of integers, when there is one.
pub(super) fn ints(attrs: &Attrs, name: &str) -> Res<Option<Vec<i64>>> {
    let Some(attr) = attrs.get(name) else { return Ok(None) };
    match integers(attr)? {
        Some(v) => Ok(Some(v)),
        None => malformed(format!("attribute `{name}` must be a list of integers")),
    }
}

/// A list of dimensions or extents; none when it is absent.
pub(super) fn dims(attrs: &Attrs, name: &str) -> Res<Vec<usize>> {
    let list = ints(attrs, name)?.unwrap_or_default();
    let list: Result<Vec<usize>, _> = list.into_iter().map(usize::try_from).collect();
    list.or_else(|_| malformed(format!("attribute `{name}` has a negative entry")))
}

/// A list of dimensions or extents that must be there.
pub(super) fn need_dims(attrs: &Attrs, name: &str) -> Res<Vec<usize>> {
    if attrs.contains_key(name) { dims(attrs, name) } else { malformed(format!("attribute `{name}` is missing")) }
}

/// A list of extents with `count` entries, ones when it is absent.
pub(super) fn ones(attrs: &Attrs, name: &str, count: usize) -> Res<Dims> {
    match attrs.contains_key(name) {
        true => counted(dims(attrs, name)?, name, count).map(Dims::from_vec),
        false => Ok(Dims::from_elem(1, count)),
    }
}

fn counted<T>(list: Vec<T>, name: &str, count: usize) -> Res<Vec<T>> {
    match list.len() == count {
        true => Ok(list),
        false => malformed(format!("attribute `{name}` has {} entries instead of {count}", list.len())),
    }
}

/// A list of truth values with `count` entries, false when it is absent.
pub(super) fn bools(attrs: &Attrs, name: &str, count: usize) -> Res<Vec<bool>> {
    match ints(attrs, name)? {
        Some(list) => counted(list.into_iter().map(|v| v != 0).collect(), name, count),
        None => Ok(vec![false; count]),
    }
}

/// Pairs (low, high), `count` of them; zeros when absent.
pub(super) fn pairs(attrs: &Attrs, name: &str, count: usize) -> Res<(Vec<i64>, Vec<i64>)> {
    let flat: Vec<i64> = match attrs.get(name) {
        None => vec![0; 2 * count],
        Some(ModuleAttr::List(rows)) if rows.iter().any(|r| matches!(r, ModuleAttr::Ints(_) | ModuleAttr::List(_))) => {
            let mut flat = Vec::new();
            for row in rows {
                match integers(row)? {
                    Some(v) => flat.extend(v),
                    None => return malformed(format!("attribute `{name}` must be a matrix of integers")),
                }
            }
            flat
        }
        Some(_) => ints(attrs, name)?.unwrap_or_default(),
    };
    let flat = counted(flat, name, 2 * count)?;
    Ok((flat.iter().step_by(2).copied().collect(), flat.iter().skip(1).step_by(2).copied().collect()))
}

/// An integer, when there is one.
pub(super) fn int(attrs: &Attrs, name: &str) -> Res<Option<i64>> {
    match attrs.get(name) {
        None => Ok(None),
        Some(ModuleAttr::Int(v)) => Ok(Some(*v)),
        Some(ModuleAttr::Bool(b)) => Ok(Some(i64::from(*b))),
        Some(other) => match integers(other)?.as_deref() {
            Some([v]) => Ok(Some(*v)),
            _ => malformed(format!("attribute `{name}` must be an integer")),
        },
    }
}

/// A dimension or count that must be there.
pub(super) fn need_size(attrs: &Attrs, name: &str) -> Res<usize> {
    match int(attrs, name)?.map(usize::try_from) {
        Some(Ok(v)) => Ok(v),
        Some(Err(_)) => malformed(format!("attribute `{name}` is negative")),
        None => malformed(format!("attribute `{name}` is missing")),
    }
}

/// A count, `default` when it is absent.
pub(super) fn size(attrs: &Attrs, name: &str, default: usize) -> Res<usize> {
    if attrs.contains_key(name) { need_size(attrs, name) } else { Ok(default) }
}

/// A truth value, `default` when it is absent.
pub(super) fn flag(attrs: &Attrs, name: &str, default: bool) -> Res<bool> {
    match attrs.get(name) {
        None => Ok(default),
        Some(ModuleAttr::Unit) => Ok(true),
        Some(_) => Ok(int(attrs, name)?.is_some_and(|v| v != 0)),
    }
}

/// A word, text or symbol.
pub(super) fn word<'a>(attrs: &'a Attrs, name: &str) -> Option<&'a str> {
    match attrs.get(name)? {
        ModuleAttr::Word(w) | ModuleAttr::Text(w) | ModuleAttr::Symbol(w) => Some(w),
        _ => None,
    }
}

/// A word that must be there.
pub(super) fn need_word<'a>(attrs: &'a Attrs, name: &str) -> Res<&'a str> {
    match word(attrs, name) {
        Some(w) => Ok(w),
        None => malformed(format!("attribute `{name}` is missing, or no word")),
    }
}

/// A number, when there is one.
pub(super) fn real(attrs: &Attrs, name: &str) -> Res<Option<f64>> {
    match attrs.get(name) {
        None => Ok(None),
        Some(ModuleAttr::Float(v)) => Ok(Some(*v)),
        Some(ModuleAttr::Int(v)) => Ok(Some(*v as f64)),
        Some(ModuleAttr::Dense(d)) => match dense_literal(d)? {
            Some(l) => Ok(Tensor::from_literal(&l).floats().first().copied()),
            None => Ok(None),
        },
        Some(_) => malformed(format!("attribute `{name}` must be a number")),
    }
}

/// A structured attribute; its fields may all be absent.
pub(super) fn fields<'a>(op: &'a Operation, name: &str) -> Res<&'a Attrs> {
    match op.attrs.get(name) {
        Some(ModuleAttr::Fields(f)) => Ok(f),
        Some(_) => malformed(format!("attribute `{name}` must have fields")),
        None => malformed(format!("attribute `{name}` is missing")),
    }
}
