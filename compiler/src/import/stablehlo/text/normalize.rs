//! What texts leave out or spell in an older way, in the form that the specification has.

use super::attr::Attrs;
use super::op::Draft;
use crate::import::stablehlo::module::{Dense, Element, ModuleAttr};
use girih_ir::types::{DType, Dims};

/// Attributes that are lists of whole numbers; older texts write them as constants of rank 1.
#[rustfmt::skip]
const LISTS: &[&str] = &[
    "broadcast_dimensions", "permutation", "dimensions", "start_indices", "limit_indices", "strides", "slice_sizes", "edge_padding_low",
    "edge_padding_high", "interior_padding", "window_dimensions", "window_strides", "base_dilations", "window_dilations", "lhs_dilation",
    "rhs_dilation", "window_reversal", "fft_length", "known_expanding_dimensions", "known_nonexpanding_dimensions",
];

/// Attributes that are matrices of whole numbers; texts write them as one number when all are the same.
const MATRICES: &[&str] = &["padding", "replica_groups", "source_target_pairs"];

/// Most elements of such an attribute: more than any mesh or window has.
const MOST: usize = 1 << 16;

/// Completes an operation.
pub(super) fn normalize(op: &mut Draft) {
    for (key, value) in &mut op.attrs {
        let ModuleAttr::Dense(d) = value else { continue };
        if MATRICES.contains(&key.as_str()) {
            spread(d);
        } else if LISTS.contains(&key.as_str())
            && let Some(ints) = whole_numbers(d)
        {
            *value = ModuleAttr::Ints(ints);
        }
    }
    match op.name.as_str() {
        "stablehlo.convolution" | "stablehlo.dynamic_conv" => convolution(&mut op.attrs, op.name == "stablehlo.convolution"),
        "stablehlo.dot_general" if !op.attrs.contains_key("dot_dimension_numbers") => {
            op.attrs.insert("dot_dimension_numbers".into(), ModuleAttr::Fields(dot_dimensions()));
        }
        _ => {}
    }
}

/// Dimension numbers of a product without any.
pub(super) fn dot_dimensions() -> Attrs {
    let names = ["lhs_batching_dimensions", "rhs_batching_dimensions", "lhs_contracting_dimensions", "rhs_contracting_dimensions"];
    names.into_iter().map(|n| (n.to_string(), ModuleAttr::Ints(Vec::new()))).collect()
}

/// A matrix of whole numbers, as `padding` is.
pub(super) fn matrix(rows: &[Vec<i64>]) -> ModuleAttr {
    let columns = rows.first().map_or(2, Vec::len);
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    ModuleAttr::Dense(Dense {
        shape: Dims::from_slice(&[rows.len(), columns]),
        element: Element::Known(DType::I64),
        bytes: bytes.into(),
        splat: false,
    })
}

/// Fills the window of a convolution in.
fn convolution(attrs: &mut Attrs, padded: bool) {
    let Some(ModuleAttr::Fields(dims)) = attrs.get("dimension_numbers") else { return };
    let Some(ModuleAttr::Ints(spatial)) = dims.get("input_spatial_dimensions") else { return };
    let n = spatial.len();
    for key in ["window_strides", "lhs_dilation", "rhs_dilation"] {
        attrs.entry(key.into()).or_insert_with(|| ModuleAttr::Ints(vec![1; n]));
    }
    attrs.entry("window_reversal".into()).or_insert_with(|| ModuleAttr::Ints(vec![0; n]));
    if padded {
        attrs.entry("padding".into()).or_insert_with(|| matrix(&vec![vec![0, 0]; n]));
    }
    for key in ["feature_group_count", "batch_group_count"] {
        attrs.entry(key.into()).or_insert(ModuleAttr::Int(1));
    }
}

/// Writes every element of a small constant out.
fn spread(d: &mut Dense) {
    let total: usize = d.shape.iter().product();
    if d.splat && total <= MOST {
        d.bytes = d.bytes.repeat(total).into();
        d.splat = false;
    }
}

/// The elements of a constant of rank 1.
fn whole_numbers(d: &Dense) -> Option<Vec<i64>> {
    let [length @ 0..=MOST] = d.shape[..] else { return None };
    let one = |c: &[u8]| match (&d.element, c) {
        (Element::Known(DType::Bool), [b]) => Some(i64::from(*b)),
        (Element::Known(DType::I64), c) => Some(i64::from_le_bytes(c.try_into().ok()?)),
        (Element::Known(DType::I32), c) => Some(i64::from(i32::from_le_bytes(c.try_into().ok()?))),
        _ => None,
    };
    let size = match d.element {
        Element::Known(d) => d.size(),
        _ => return None,
    };
    let all: Vec<i64> = d.bytes.chunks(size).map(one).collect::<Option<_>>()?;
    Some(if d.splat { vec![*all.first()?; length] } else { all })
}
