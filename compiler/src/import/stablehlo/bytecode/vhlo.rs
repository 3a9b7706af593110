//! What VHLO calls things, and what StableHLO calls them.
//!
//! VHLO spells every attribute out and never nests: the numbers that StableHLO keeps in one structured attribute (what the dimensions
//! of a product, a convolution, a gather or a scatter mean) are attributes of their own here. Names carry a version.

use super::broken;
use super::element::read_int;
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Dense, Element, ModuleAttr, ModuleType};
use indexmap::IndexMap;

/// Attributes by name.
pub type Attrs = IndexMap<String, ModuleAttr>;

/// The attributes of each version of each operation that has any, in the order of the file: by name.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("all_gather_v1", &["all_gather_dim", "channel_id", "replica_groups", "use_global_device_ids"]),
    ("all_gather_v2", &["all_gather_dim", "channel_id", "replica_groups", "use_global_device_ids"]),
    ("all_reduce_v1", &["channel_id", "replica_groups", "use_global_device_ids"]),
    ("all_reduce_v2", &["channel_id", "replica_groups", "use_global_device_ids"]),
    ("all_to_all_v1", &["channel_id", "concat_dimension", "replica_groups", "split_count", "split_dimension"]),
    ("all_to_all_v2", &["channel_id", "concat_dimension", "replica_groups", "split_count", "split_dimension"]),
    ("batch_norm_grad_v1", &["epsilon", "feature_index"]),
    ("batch_norm_inference_v1", &["epsilon", "feature_index"]),
    ("batch_norm_training_v1", &["epsilon", "feature_index"]),
    ("broadcast_in_dim_v1", &["broadcast_dimensions"]),
    ("broadcast_v1", &["broadcast_sizes"]),
    ("call_v1", &["callee"]),
    ("cbrt_v2", &["result_accuracy"]),
    ("cholesky_v1", &["lower"]),
    ("collective_broadcast_v1", &["channel_id", "replica_groups"]),
    ("collective_broadcast_v2", &["channel_id", "has_dynamic_root", "replica_groups"]),
    ("collective_permute_v1", &["channel_id", "source_target_pairs"]),
    ("collective_reduce_v1", &["channel_id", "has_dynamic_root", "replica_groups", "use_global_device_ids"]),
    ("compare_v1", &["compare_type", "comparison_direction"]),
    ("composite_v1", &["composite_attributes", "decomposition", "name", "version"]),
    ("composite_v2", &["composite_attributes", "decomposition", "name", "version"]),
    ("concatenate_v1", &["dimension"]),
    ("constant_v1", &["value"]),
    (
        "convolution_v1",
        &[
            "batch_group_count",
            "feature_group_count",
            "input_batch_dimension",
            "input_feature_dimension",
            "input_spatial_dimensions",
            "kernel_input_feature_dimension",
            "kernel_output_feature_dimension",
            "kernel_spatial_dimensions",
            "lhs_dilation",
            "output_batch_dimension",
            "output_feature_dimension",
            "output_spatial_dimensions",
            "padding",
            "precision_config",
            "rhs_dilation",
            "window_reversal",
            "window_strides",
        ],
    ),
    ("cosine_v2", &["result_accuracy"]),
    ("cross-replica-sum_v1", &["replica_groups"]),
    (
        "custom_call_v1",
        &[
            "api_version",
            "backend_config",
            "call_target_name",
            "called_computations",
            "has_side_effect",
            "operand_layouts",
            "output_operand_aliases",
            "result_layouts",
        ],
    ),
    (
        "custom_call_v2",
        &[
            "api_version",
            "backend_config",
            "call_target_name",
            "called_computations",
            "has_side_effect",
            "operand_layouts",
            "output_operand_aliases",
            "result_layouts",
            "result_tilings",
        ],
    ),
    (
        "dot_general_v1",
        &[
            "lhs_batching_dimensions",
            "lhs_contracting_dimensions",
            "precision_config",
            "rhs_batching_dimensions",
            "rhs_contracting_dimensions",
        ],
    ),
    (
        "dot_general_v2",
        &[
            "accumulation_type",
            "allow_imprecise_accumulation",
            "lhs_batching_dimensions",
            "lhs_component_count",
            "lhs_contracting_dimensions",
            "lhs_precision_type",
            "num_primitive_operations",
            "precision_config",
            "rhs_batching_dimensions",
            "rhs_component_count",
            "rhs_contracting_dimensions",
            "rhs_precision_type",
        ],
    ),
    ("dot_v1", &["precision_config"]),
    ("dynamic_broadcast_in_dim_v1", &["broadcast_dimensions", "known_expanding_dimensions", "known_nonexpanding_dimensions"]),
    (
        "dynamic_conv_v1",
        &[
            "batch_group_count",
            "feature_group_count",
            "input_batch_dimension",
            "input_feature_dimension",
            "input_spatial_dimensions",
            "kernel_input_feature_dimension",
            "kernel_output_feature_dimension",
            "kernel_spatial_dimensions",
            "lhs_dilation",
            "output_batch_dimension",
            "output_feature_dimension",
            "output_spatial_dimensions",
            "padding",
            "precision_config",
            "rhs_dilation",
            "window_reversal",
            "window_strides",
        ],
    ),
    (
        "dynamic_conv_v2",
        &[
            "batch_group_count",
            "feature_group_count",
            "input_batch_dimension",
            "input_feature_dimension",
            "input_spatial_dimensions",
            "kernel_input_feature_dimension",
            "kernel_output_feature_dimension",
            "kernel_spatial_dimensions",
            "lhs_dilation",
            "output_batch_dimension",
            "output_feature_dimension",
            "output_spatial_dimensions",
            "precision_config",
            "rhs_dilation",
            "window_reversal",
            "window_strides",
        ],
    ),
    ("dynamic_gather_v1", &["collapsed_slice_dims", "index_vector_dim", "indices_are_sorted", "offset_dims", "start_index_map"]),
    (
        "dynamic_gather_v2",
        &[
            "collapsed_slice_dims",
            "index_vector_dim",
            "indices_are_sorted",
            "offset_dims",
            "operand_batching_dims",
            "start_index_map",
            "start_indices_batching_dims",
        ],
    ),
    ("dynamic_iota_v1", &["iota_dimension"]),
    ("dynamic_slice_v1", &["slice_sizes"]),
    ("einsum_v1", &["einsum_config"]),
    ("exponential_minus_one_v2", &["result_accuracy"]),
    ("exponential_v2", &["result_accuracy"]),
    ("fft_v1", &["fft_length", "fft_type"]),
    ("func_v1", &["arg_attrs", "function_type", "res_attrs", "sym_name", "sym_visibility"]),
    ("gather_v1", &["collapsed_slice_dims", "index_vector_dim", "indices_are_sorted", "offset_dims", "slice_sizes", "start_index_map"]),
    (
        "gather_v2",
        &[
            "collapsed_slice_dims",
            "index_vector_dim",
            "indices_are_sorted",
            "offset_dims",
            "operand_batching_dims",
            "slice_sizes",
            "start_index_map",
            "start_indices_batching_dims",
        ],
    ),
    ("get_dimension_size_v1", &["dimension"]),
    ("get_tuple_element_v1", &["index"]),
    ("infeed_v1", &["infeed_config", "layout"]),
    ("iota_v1", &["iota_dimension"]),
    ("log_plus_one_v2", &["result_accuracy"]),
    ("log_v2", &["result_accuracy"]),
    ("logistic_v2", &["result_accuracy"]),
    ("map_v1", &["dimensions"]),
    ("outfeed_v1", &["outfeed_config"]),
    ("pad_v1", &["edge_padding_high", "edge_padding_low", "interior_padding"]),
    ("recv_v1", &["channel_id", "channel_type", "is_host_transfer"]),
    ("recv_v2", &["channel_id", "channel_type", "is_host_transfer", "source_target_pairs"]),
    ("reduce_precision_v1", &["exponent_bits", "mantissa_bits"]),
    ("reduce_scatter_v1", &["channel_id", "replica_groups", "scatter_dimension", "use_global_device_ids"]),
    ("reduce_v1", &["dimensions"]),
    ("reduce_window_v1", &["base_dilations", "padding", "window_dilations", "window_dimensions", "window_strides"]),
    ("reverse_v1", &["dimensions"]),
    ("rng_bit_generator_v1", &["rng_algorithm"]),
    ("rng_v1", &["rng_distribution"]),
    ("rsqrt_v2", &["result_accuracy"]),
    (
        "scatter_v1",
        &[
            "index_vector_dim",
            "indices_are_sorted",
            "inserted_window_dims",
            "scatter_dims_to_operand_dims",
            "unique_indices",
            "update_window_dims",
        ],
    ),
    (
        "scatter_v2",
        &[
            "index_vector_dim",
            "indices_are_sorted",
            "input_batching_dims",
            "inserted_window_dims",
            "scatter_dims_to_operand_dims",
            "scatter_indices_batching_dims",
            "unique_indices",
            "update_window_dims",
        ],
    ),
    ("select_and_scatter_v1", &["padding", "window_dimensions", "window_strides"]),
    ("send_v1", &["channel_id", "channel_type", "is_host_transfer"]),
    ("send_v2", &["channel_id", "channel_type", "is_host_transfer", "source_target_pairs"]),
    ("set_dimension_size_v1", &["dimension"]),
    ("sine_v2", &["result_accuracy"]),
    ("slice_v1", &["limit_indices", "start_indices", "strides"]),
    ("sort_v1", &["dimension", "is_stable"]),
    ("sqrt_v2", &["result_accuracy"]),
    ("tan_v2", &["result_accuracy"]),
    ("tanh_v2", &["result_accuracy"]),
    ("torch_index_select_v1", &["batch_dims", "dim"]),
    ("transpose_v1", &["permutation"]),
    ("triangular_solve_v1", &["left_side", "lower", "transpose_a", "unit_diagonal"]),
    ("unary_einsum_v1", &["einsum_config"]),
];

/// Operations of other dialects that a mixed artifact may hold, with their attributes.
const OTHERS: &[(&str, &[&str])] = &[
    ("builtin.module", &[]),
    ("chlo.top_k", &["k"]),
    ("chlo.constant", &["value"]),
    ("sdy.manual_computation", &["in_shardings", "manual_axes", "out_shardings"]),
    ("sdy.mesh", &["mesh", "sym_name"]),
    ("sdy.sharding_constraint", &["sharding"]),
];

/// The names of an operation's attributes in the order of the file; `None` when the operation is not known to have any.
pub fn attributes(dialect: &str, name: &str) -> Option<&'static [&'static str]> {
    if dialect == "vhlo" {
        return ATTRIBUTES.binary_search_by_key(&name, |(n, _)| n).ok().map(|at| ATTRIBUTES[at].1);
    }
    OTHERS.iter().find(|(n, _)| n.strip_prefix(dialect).and_then(|n| n.strip_prefix('.')) == Some(name)).map(|(_, attrs)| *attrs)
}

/// A name without its version: `add_v1` is `add`.
pub fn base(name: &str) -> &str {
    let version = name.rsplit_once("_v").filter(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    version.map_or(name, |(base, _)| base)
}

/// Brings the attributes of a VHLO operation into the form of StableHLO.
pub fn normalize(name: &str, attrs: Attrs, offset: usize) -> Result<Attrs, Problem> {
    let mut out = Attrs::with_capacity(attrs.len());
    for (key, value) in attrs {
        let value = match value {
            ModuleAttr::Dense(dense) if key != "value" => ints(dense, offset)?,
            value => value,
        };
        if !is_default(&key, &value) {
            out.insert(key, value);
        }
    }
    match name {
        "dot_general" => {
            let parts = ["lhs_batching_dimensions", "rhs_batching_dimensions", "lhs_contracting_dimensions", "rhs_contracting_dimensions"];
            group(&mut out, "dot_dimension_numbers", &parts, &[], offset)?;
            algorithm(&mut out);
        }
        "gather" | "dynamic_gather" => {
            let parts = ["offset_dims", "collapsed_slice_dims", "start_index_map", "index_vector_dim"];
            group(&mut out, "dimension_numbers", &parts, &["operand_batching_dims", "start_indices_batching_dims"], offset)?;
        }
        "scatter" => {
            let parts = ["update_window_dims", "inserted_window_dims", "scatter_dims_to_operand_dims", "index_vector_dim"];
            group(&mut out, "scatter_dimension_numbers", &parts, &["input_batching_dims", "scatter_indices_batching_dims"], offset)?;
        }
        "convolution" | "dynamic_conv" => {
            let parts = [
                "input_batch_dimension",
                "input_feature_dimension",
                "input_spatial_dimensions",
                "kernel_input_feature_dimension",
                "kernel_output_feature_dimension",
                "kernel_spatial_dimensions",
                "output_batch_dimension",
                "output_feature_dimension",
                "output_spatial_dimensions",
            ];
            group(&mut out, "dimension_numbers", &parts, &[], offset)?;
        }
        "call" => symbol(&mut out, "callee"),
        "composite" => symbol(&mut out, "decomposition"),
        _ => {}
    }
    if let Some(ModuleAttr::Int(channel)) = out.shift_remove("channel_id") {
        let fields = [("handle", channel), ("type", 1)].map(|(k, v)| (k.to_owned(), ModuleAttr::Int(v)));
        out.insert("channel_handle".to_owned(), ModuleAttr::Fields(fields.into_iter().collect()));
    }
    if out.get("use_global_device_ids") == Some(&ModuleAttr::Bool(true)) {
        out.insert("use_global_device_ids".to_owned(), ModuleAttr::Unit);
    }
    Ok(out)
}

/// Whether an attribute says what its absence says in StableHLO.
fn is_default(key: &str, value: &ModuleAttr) -> bool {
    match (key, value) {
        ("compare_type", ModuleAttr::Word(w)) => w == "NOTYPE",
        ("result_accuracy", ModuleAttr::Fields(f)) => f.get("mode") == Some(&ModuleAttr::Word("DEFAULT".to_owned())),
        ("channel_id", ModuleAttr::Int(channel)) => *channel <= 0,
        ("use_global_device_ids" | "has_dynamic_root", ModuleAttr::Bool(b)) => !b,
        (
            "precision_config" | "called_computations" | "operand_layouts" | "result_layouts" | "output_operand_aliases" | "result_tilings",
            ModuleAttr::List(list),
        ) => list.is_empty(),
        ("arg_attrs" | "res_attrs", ModuleAttr::List(list)) => list.is_empty(),
        _ => false,
    }
}

/// Lists of integers are tensors of one dimension in VHLO. Matrices stay tensors, written out.
fn ints(mut dense: Dense, offset: usize) -> Result<ModuleAttr, Problem> {
    let size = match &dense.element {
        Element::Known(d) if !d.is_float() => d.size(),
        _ => return Ok(ModuleAttr::Dense(dense)),
    };
    let count: usize = dense.shape.iter().product();
    if count > 1 << 16 {
        return Err(broken(offset, &format!("a list of dimensions has {count} entries")));
    }
    if dense.splat {
        dense.bytes = dense.bytes.repeat(count).into();
        dense.splat = false;
    }
    if dense.shape.len() != 1 {
        return Ok(ModuleAttr::Dense(dense));
    }
    let each = |b: &[u8]| read_int(b, &dense.element).ok_or_else(|| broken(offset, "a list of dimensions has no integers"));
    Ok(ModuleAttr::Ints(dense.bytes.chunks_exact(size).map(each).collect::<Result<Vec<i64>, _>>()?))
}

/// Moves attributes into a structured one. Those that an older version lacks are empty lists.
fn group(out: &mut Attrs, name: &str, parts: &[&str], newer: &[&str], offset: usize) -> Result<(), Problem> {
    let mut fields = Attrs::new();
    for part in parts {
        let value = out.shift_remove(*part).ok_or_else(|| broken(offset, &format!("an operation lacks the attribute '{part}'")))?;
        fields.insert((*part).to_owned(), value);
    }
    for part in newer {
        fields.insert((*part).to_owned(), out.shift_remove(*part).unwrap_or_else(|| ModuleAttr::Ints(vec![])));
    }
    out.insert(name.to_owned(), ModuleAttr::Fields(fields));
    Ok(())
}

/// How a product is to be computed; all parts say `none` when nothing is asked for.
fn algorithm(out: &mut Attrs) {
    let mut fields = Attrs::new();
    for part in [
        "lhs_precision_type",
        "rhs_precision_type",
        "accumulation_type",
        "lhs_component_count",
        "rhs_component_count",
        "num_primitive_operations",
        "allow_imprecise_accumulation",
    ] {
        match out.shift_remove(part) {
            None => {}
            Some(ModuleAttr::Type(ModuleType::Other(none))) if none == "none" => {}
            Some(value) => drop(fields.insert(part.to_owned(), value)),
        }
    }
    if !fields.is_empty() {
        out.insert("algorithm".to_owned(), ModuleAttr::Fields(fields));
    }
}

fn symbol(out: &mut Attrs, key: &str) {
    if let Some(value) = out.get_mut(key)
        && let ModuleAttr::Text(name) = value
    {
        *value = ModuleAttr::Symbol(std::mem::take(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(ATTRIBUTES.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(ATTRIBUTES.iter().all(|(_, attrs)| attrs.windows(2).all(|w| w[0] < w[1])));
        assert_eq!(attributes("vhlo", "iota_v1"), Some(&["iota_dimension"][..]));
        assert_eq!(attributes("vhlo", "iota_v9"), None);
        assert_eq!(attributes("chlo", "top_k"), Some(&["k"][..]));
    }

    #[test]
    fn names_lose_their_version() {
        assert_eq!([base("add_v1"), base("dot_general_v12"), base("is_v"), base("x_values")], ["add", "dot_general", "is_v", "x_values"]);
    }
}
