//! What an alias costs each time it is used.
//!
//! Aliases of aliases can make a short text stand for an endless one; the reader counts what their uses copy.

use crate::import::stablehlo::module::{Element, ModuleAttr, ModuleType};

/// Roughly the bytes that a copy of an attribute takes.
pub(super) fn weight(attr: &ModuleAttr) -> usize {
    let inner: usize = match attr {
        ModuleAttr::Text(t) | ModuleAttr::Symbol(t) | ModuleAttr::Word(t) | ModuleAttr::Other(t) => t.len(),
        ModuleAttr::Ints(all) => 8 * all.len(),
        ModuleAttr::List(all) => all.iter().map(weight).sum(),
        ModuleAttr::Fields(all) => all.iter().map(|(k, v)| k.len() + weight(v)).sum(),
        ModuleAttr::Type(t) => type_weight(t),
        _ => 0,
    };
    64 + inner
}

/// Roughly the bytes that a copy of a type takes.
pub(super) fn type_weight(ty: &ModuleType) -> usize {
    let inner: usize = match ty {
        ModuleType::Tensor { shape, element } => 8 * shape.len() + if let Element::Other(name) = element { name.len() } else { 0 },
        ModuleType::Tuple(parts) => parts.iter().map(type_weight).sum(),
        ModuleType::Other(text) => text.len(),
        ModuleType::Token => 0,
    };
    64 + inner
}
