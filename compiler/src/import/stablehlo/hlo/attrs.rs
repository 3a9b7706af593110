//! An instruction's name and attributes in the words of the StableHLO specification.

use super::proto::{HloInstructionProto, Window, WindowDimension};
use super::{DAMAGED, UNSUPPORTED, too_large};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Dense, Element, Limits, ModuleAttr, ModuleType};
use girih_ir::types::{DType, Dims, NumberKind};
use indexmap::IndexMap;
use std::sync::Arc;

/// Attributes by name.
pub type Attrs = IndexMap<String, ModuleAttr>;

/// What an opcode becomes.
pub enum Kind {
    /// An operation of that name.
    Op(String),
    /// Its operand.
    Identity,
    /// The lowering treats it by hand: parameters, tuples, calls and control flow.
    Structural,
}

/// Opcodes that only a compiled module has.
const AFTER_OPTIMIZATION: [&str; 17] = [
    "fusion",
    "bitcast",
    "copy-start",
    "copy-done",
    "async-start",
    "async-update",
    "async-done",
    "all-reduce-start",
    "all-reduce-done",
    "all-gather-start",
    "all-gather-done",
    "collective-permute-start",
    "collective-permute-done",
    "send-done",
    "recv-done",
    "rng-get-and-update-state",
    "call-start",
];

/// What becomes of an instruction.
pub fn kind(instruction: &HloInstructionProto) -> Result<Kind, Problem> {
    let opcode = instruction.opcode.as_str();
    if AFTER_OPTIMIZATION.contains(&opcode) {
        let problem = Problem::new(UNSUPPORTED, format!("the module has a '{opcode}': it was written after XLA's optimizations"));
        return Err(problem.help("use the dump whose name ends with before_optimizations, or lowered.compiler_ir('hlo')"));
    }
    let target = instruction.custom_call_target.as_str();
    let renamed = match opcode {
        "parameter" | "tuple" | "get-tuple-element" | "call" | "while" | "conditional" | "constant" => return Ok(Kind::Structural),
        "copy" | "add-dependency" | "domain" => return Ok(Kind::Identity),
        // Between them values have the shapes that one device has.
        "custom-call" if matches!(target, "xla.sdy.GlobalToLocalShape" | "xla.sdy.LocalToGlobalShape") => "stablehlo.custom_call",
        "custom-call" if target == "Sharding" || target.starts_with("xla.sdy.") || target == "annotate_device_placement" => {
            return Ok(Kind::Identity);
        }
        "broadcast" => "stablehlo.broadcast_in_dim",
        "dot" => "stablehlo.dot_general",
        "opt-barrier" => "stablehlo.optimization_barrier",
        "exponential-minus-one" => "stablehlo.exponential_minus_one",
        "topk" => "chlo.top_k",
        "erf" => "chlo.erf",
        "acos" | "acosh" | "asin" | "asinh" | "atanh" | "cosh" | "sinh" => return Ok(Kind::Op(format!("chlo.{opcode}"))),
        "ragged-dot" => "chlo.ragged_dot",
        "batch-norm-training" | "batch-norm-inference" | "batch-norm-grad" => {
            return Ok(Kind::Op(format!("stablehlo.{}", opcode.replace('-', "_"))));
        }
        "" => return Err(Problem::new(DAMAGED, "an instruction has no opcode")),
        _ => return Ok(Kind::Op(format!("stablehlo.{}", opcode.replace('-', "_")))),
    };
    Ok(Kind::Op(renamed.to_owned()))
}

/// The attributes of an instruction.
pub fn attrs(i: &HloInstructionProto, operands: &[ModuleType], limits: &Limits) -> Result<Attrs, Problem> {
    plausible(i, limits)?;
    let mut a = Out(Attrs::new());
    match i.opcode.as_str() {
        "broadcast" => a.ints("broadcast_dimensions", &i.dimensions),
        "transpose" => a.ints("permutation", &i.dimensions),
        "reverse" | "reduce" | "map" => a.ints("dimensions", &i.dimensions),
        "concatenate" | "get-dimension-size" | "set-dimension-size" => a.dim("dimension", &i.dimensions)?,
        "iota" => a.dim("iota_dimension", &i.dimensions)?,
        "sort" => {
            a.dim("dimension", &i.dimensions)?;
            a.bool("is_stable", i.is_stable);
        }
        "slice" => {
            a.ints_of("start_indices", &i.slice_dimensions, |d| d.start);
            a.ints_of("limit_indices", &i.slice_dimensions, |d| d.limit);
            a.ints_of("strides", &i.slice_dimensions, |d| one(d.stride));
        }
        "dynamic-slice" => a.ints("slice_sizes", &i.dynamic_slice_sizes),
        "pad" => {
            let dims = i.padding_config.as_deref().map_or(&[][..], |p| &p.dimensions);
            a.ints_of("edge_padding_low", dims, |d| d.edge_padding_low);
            a.ints_of("edge_padding_high", dims, |d| d.edge_padding_high);
            a.ints_of("interior_padding", dims, |d| d.interior_padding);
        }
        "compare" => {
            a.word("comparison_direction", &i.comparison_direction);
            a.word("compare_type", compare_type(i, operands.first()));
        }
        "dot" => dot(&mut a, i),
        "convolution" => convolution(&mut a, i),
        "gather" => gather(&mut a, i),
        "scatter" => scatter(&mut a, i),
        "reduce-window" => {
            let w = dimensions(i);
            a.ints_of("window_dimensions", w, |d| d.size);
            a.ints_of("window_strides", w, |d| one(d.stride));
            a.ints_of("base_dilations", w, |d| one(d.base_dilation));
            a.ints_of("window_dilations", w, |d| one(d.window_dilation));
            a.put("padding", padding(w));
        }
        "select-and-scatter" => {
            let w = dimensions(i);
            a.ints_of("window_dimensions", w, |d| d.size);
            a.ints_of("window_strides", w, |d| one(d.stride));
            a.put("padding", padding(w));
        }
        _ => rarer(&mut a, i)?,
    }
    Ok(a.0)
}

/// Lists of dimensions are as long as tensors have dimensions.
fn plausible(i: &HloInstructionProto, limits: &Limits) -> Result<(), Problem> {
    let dot = i.dot_dimension_numbers.as_deref().map_or(0, |d| d.lhs_contracting_dimensions.len().max(d.rhs_contracting_dimensions.len()));
    let batch = i.dot_dimension_numbers.as_deref().map_or(0, |d| d.lhs_batch_dimensions.len().max(d.rhs_batch_dimensions.len()));
    let gather = i.gather_dimension_numbers.as_deref().map_or(0, |d| {
        let indices = d.operand_batching_dims.len().max(d.start_indices_batching_dims.len());
        d.offset_dims.len().max(d.collapsed_slice_dims.len()).max(d.start_index_map.len()).max(indices)
    });
    let scatter = i.scatter_dimension_numbers.as_deref().map_or(0, |d| {
        let indices = d.input_batching_dims.len().max(d.scatter_indices_batching_dims.len());
        d.update_window_dims.len().max(d.inserted_window_dims.len()).max(d.scatter_dims_to_operand_dims.len()).max(indices)
    });
    let spatial = i
        .convolution_dimension_numbers
        .as_deref()
        .map_or(0, |d| d.input_spatial_dimensions.len().max(d.kernel_spatial_dimensions.len()).max(d.output_spatial_dimensions.len()));
    let padding = i.padding_config.as_deref().map_or(0, |p| p.dimensions.len());
    let lists = [
        i.dimensions.len(),
        i.slice_dimensions.len(),
        i.dynamic_slice_sizes.len(),
        i.gather_slice_sizes.len(),
        i.fft_length.len(),
        dimensions(i).len(),
        i.precision_config.as_deref().map_or(0, |p| p.operand_precision.len()),
        dot,
        batch,
        gather,
        scatter,
        spatial,
        padding,
    ];
    match lists.into_iter().max() {
        Some(longest) if longest > limits.rank => {
            Err(too_large(format!("a list of dimensions has {longest} entries, more than {}", limits.rank)))
        }
        _ => Ok(()),
    }
}

fn rarer(a: &mut Out, i: &HloInstructionProto) -> Result<(), Problem> {
    match i.opcode.as_str() {
        "reduce-precision" => {
            a.int("exponent_bits", i64::from(i.exponent_bits));
            a.int("mantissa_bits", i64::from(i.mantissa_bits));
        }
        "rng-bit-generator" => a.word("rng_algorithm", pick(&["DEFAULT", "THREE_FRY", "PHILOX"], i.rng_algorithm)?),
        "rng" => a.word("rng_distribution", pick(&["INVALID", "UNIFORM", "NORMAL"], i.distribution)?),
        "fft" => {
            a.word("fft_type", pick(&["FFT", "IFFT", "RFFT", "IRFFT"], i.fft_type)?);
            a.ints("fft_length", &i.fft_length);
        }
        "cholesky" => a.bool("lower", i.cholesky_options.as_deref().is_some_and(|o| o.lower)),
        "triangular-solve" => {
            let o = i.triangular_solve_options.as_deref().cloned().unwrap_or_default();
            a.bool("left_side", o.left_side);
            a.bool("lower", o.lower);
            a.bool("unit_diagonal", o.unit_diagonal);
            let words = ["TRANSPOSE_INVALID", "NO_TRANSPOSE", "TRANSPOSE", "ADJOINT"];
            a.word("transpose_a", pick(&words, o.transpose_a)?);
        }
        "batch-norm-training" | "batch-norm-inference" | "batch-norm-grad" => {
            a.put("epsilon", ModuleAttr::Float(f64::from(i.epsilon)));
            a.int("feature_index", i.feature_index);
        }
        "topk" => {
            if !i.largest {
                return Err(Problem::new(UNSUPPORTED, "a topk asks for the smallest elements").help("negate its operand"));
            }
            a.int("k", i.k);
        }
        "custom-call" => {
            if i.backend_config.len() > 1 << 20 {
                return Err(too_large(format!("the configuration of a custom call has {} bytes", i.backend_config.len())));
            }
            a.put("call_target_name", ModuleAttr::Text(i.custom_call_target.clone()));
            a.put("backend_config", ModuleAttr::Text(String::from_utf8_lossy(&i.backend_config).into_owned()));
            a.bool("has_side_effect", i.custom_call_has_side_effect);
            if let Some(front) = i.frontend_attributes.as_ref().filter(|_| i.custom_call_target.starts_with("xla.sdy.")) {
                let texts = front.map.iter().map(|(key, text)| (key.clone(), ModuleAttr::Text(text.clone())));
                a.put("mhlo.frontend_attributes", ModuleAttr::Fields(texts.collect()));
            }
        }
        "all-reduce" | "reduce-scatter" | "all-gather" | "all-to-all" | "collective-broadcast" => collective(a, i)?,
        "collective-permute" => {
            let pairs: Vec<i64> = i.source_target_pairs.iter().flat_map(|p| [p.source, p.target]).collect();
            a.put("source_target_pairs", matrix(i.source_target_pairs.len(), 2, &pairs));
        }
        _ => {}
    }
    Ok(())
}

fn dot(a: &mut Out, i: &HloInstructionProto) {
    let d = i.dot_dimension_numbers.as_deref().cloned().unwrap_or_default();
    let mut f = Out(Attrs::new());
    f.ints("lhs_batching_dimensions", &d.lhs_batch_dimensions);
    f.ints("rhs_batching_dimensions", &d.rhs_batch_dimensions);
    f.ints("lhs_contracting_dimensions", &d.lhs_contracting_dimensions);
    f.ints("rhs_contracting_dimensions", &d.rhs_contracting_dimensions);
    a.put("dot_dimension_numbers", ModuleAttr::Fields(f.0));
    precision(a, i);
}

fn convolution(a: &mut Out, i: &HloInstructionProto) {
    let w = dimensions(i);
    a.ints_of("window_strides", w, |d| one(d.stride));
    a.put("padding", padding(w));
    a.ints_of("lhs_dilation", w, |d| one(d.base_dilation));
    a.ints_of("rhs_dilation", w, |d| one(d.window_dilation));
    a.ints_of("window_reversal", w, |d| i64::from(d.window_reversal));
    let d = i.convolution_dimension_numbers.as_deref().cloned().unwrap_or_default();
    let mut f = Out(Attrs::new());
    f.int("input_batch_dimension", d.input_batch_dimension);
    f.int("input_feature_dimension", d.input_feature_dimension);
    f.ints("input_spatial_dimensions", &d.input_spatial_dimensions);
    f.int("kernel_input_feature_dimension", d.kernel_input_feature_dimension);
    f.int("kernel_output_feature_dimension", d.kernel_output_feature_dimension);
    f.ints("kernel_spatial_dimensions", &d.kernel_spatial_dimensions);
    f.int("output_batch_dimension", d.output_batch_dimension);
    f.int("output_feature_dimension", d.output_feature_dimension);
    f.ints("output_spatial_dimensions", &d.output_spatial_dimensions);
    a.put("dimension_numbers", ModuleAttr::Fields(f.0));
    a.int("feature_group_count", one(i.feature_group_count));
    a.int("batch_group_count", one(i.batch_group_count));
    precision(a, i);
}

fn gather(a: &mut Out, i: &HloInstructionProto) {
    let d = i.gather_dimension_numbers.as_deref().cloned().unwrap_or_default();
    let mut f = Out(Attrs::new());
    f.ints("offset_dims", &d.offset_dims);
    f.ints("collapsed_slice_dims", &d.collapsed_slice_dims);
    f.ints("operand_batching_dims", &d.operand_batching_dims);
    f.ints("start_indices_batching_dims", &d.start_indices_batching_dims);
    f.ints("start_index_map", &d.start_index_map);
    f.int("index_vector_dim", d.index_vector_dim);
    a.put("dimension_numbers", ModuleAttr::Fields(f.0));
    a.ints("slice_sizes", &i.gather_slice_sizes);
    a.bool("indices_are_sorted", i.indices_are_sorted);
}

fn scatter(a: &mut Out, i: &HloInstructionProto) {
    let d = i.scatter_dimension_numbers.as_deref().cloned().unwrap_or_default();
    let mut f = Out(Attrs::new());
    f.ints("update_window_dims", &d.update_window_dims);
    f.ints("inserted_window_dims", &d.inserted_window_dims);
    f.ints("input_batching_dims", &d.input_batching_dims);
    f.ints("scatter_indices_batching_dims", &d.scatter_indices_batching_dims);
    f.ints("scatter_dims_to_operand_dims", &d.scatter_dims_to_operand_dims);
    f.int("index_vector_dim", d.index_vector_dim);
    a.put("scatter_dimension_numbers", ModuleAttr::Fields(f.0));
    a.bool("indices_are_sorted", i.indices_are_sorted);
    a.bool("unique_indices", i.unique_indices);
}

fn collective(a: &mut Out, i: &HloInstructionProto) -> Result<(), Problem> {
    let rows = i.replica_groups.len();
    let columns = i.replica_groups.iter().map(|g| g.replica_ids.len()).max().unwrap_or(0);
    if rows.checked_mul(columns).is_none_or(|n| n > 1 << 20) {
        return Err(too_large(format!("replica groups of {rows} times {columns} devices")));
    }
    let mut flat = Vec::with_capacity(rows * columns);
    for group in &i.replica_groups {
        flat.extend_from_slice(&group.replica_ids);
        // Groups of different sizes are filled with -1.
        flat.resize(flat.len() + columns - group.replica_ids.len(), -1);
    }
    a.put("replica_groups", matrix(rows, columns, &flat));
    a.int("channel_id", i.channel_id);
    if i.use_global_device_ids {
        a.put("use_global_device_ids", ModuleAttr::Unit);
    }
    if let Some(dim) = i.dimensions.first() {
        let name = match i.opcode.as_str() {
            "all-gather" => "all_gather_dim",
            "reduce-scatter" => "scatter_dimension",
            _ => "split_dimension",
        };
        a.int(name, *dim);
    }
    Ok(())
}

fn precision(a: &mut Out, i: &HloInstructionProto) {
    let Some(config) = i.precision_config.as_deref() else { return };
    let word = |p: &i32| {
        let word = match p {
            0 => "DEFAULT",
            1 => "HIGH",
            2 => "HIGHEST",
            _ => "PACKED_NIBBLE",
        };
        ModuleAttr::Word(word.to_owned())
    };
    a.put("precision_config", ModuleAttr::List(config.operand_precision.iter().map(word).collect()));
}

/// How a comparison orders its operands. Producers write it in one of two fields or leave it to the type.
fn compare_type(i: &HloInstructionProto, operand: Option<&ModuleType>) -> &'static str {
    if i.comparison_type == "TOTALORDER" || &i.comparison_order[..] == b"TOTAL" {
        return "TOTALORDER";
    }
    match operand {
        Some(ModuleType::Tensor { element: Element::Known(d), .. }) => match d.kind() {
            NumberKind::Float => "FLOAT",
            NumberKind::Signed => "SIGNED",
            NumberKind::Unsigned | NumberKind::Bool => "UNSIGNED",
        },
        Some(ModuleType::Tensor { element: Element::Other(name), .. }) if name.starts_with('i') => "SIGNED",
        Some(ModuleType::Tensor { element: Element::Other(name), .. }) if name.starts_with("ui") => "UNSIGNED",
        _ => "FLOAT",
    }
}

fn dimensions(i: &HloInstructionProto) -> &[WindowDimension] {
    i.window.as_deref().map_or(&[], |w: &Window| &w.dimensions)
}

fn padding(w: &[WindowDimension]) -> ModuleAttr {
    let flat: Vec<i64> = w.iter().flat_map(|d| [d.padding_low, d.padding_high]).collect();
    matrix(w.len(), 2, &flat)
}

/// A matrix of integers.
fn matrix(rows: usize, columns: usize, values: &[i64]) -> ModuleAttr {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = Dims::from_slice(&[rows, columns]);
    ModuleAttr::Dense(Dense { shape, element: Element::Known(DType::I64), bytes: Arc::from(bytes), splat: false })
}

/// Counts and strides of 0 are fields that an old producer left out.
fn one(value: i64) -> i64 {
    if value == 0 { 1 } else { value }
}

fn pick(words: &[&'static str], code: i32) -> Result<&'static str, Problem> {
    let word = usize::try_from(code).ok().and_then(|c| words.get(c)).copied();
    word.ok_or_else(|| Problem::new(DAMAGED, format!("an enumeration has the unknown value {code}")))
}

/// Attributes being written.
struct Out(Attrs);

impl Out {
    fn put(&mut self, name: &str, value: ModuleAttr) {
        self.0.insert(name.to_owned(), value);
    }
    fn ints(&mut self, name: &str, values: &[i64]) {
        self.put(name, ModuleAttr::Ints(values.to_vec()));
    }
    fn ints_of<T>(&mut self, name: &str, values: &[T], f: impl Fn(&T) -> i64) {
        self.put(name, ModuleAttr::Ints(values.iter().map(f).collect()));
    }
    fn int(&mut self, name: &str, value: i64) {
        self.put(name, ModuleAttr::Int(value));
    }
    fn bool(&mut self, name: &str, value: bool) {
        self.put(name, ModuleAttr::Bool(value));
    }
    fn word(&mut self, name: &str, value: &str) {
        self.put(name, ModuleAttr::Word(value.to_owned()));
    }
    fn dim(&mut self, name: &str, dimensions: &[i64]) -> Result<(), Problem> {
        let [dim] = dimensions else {
            return Err(Problem::new(DAMAGED, format!("an instruction needs one dimension and has {}", dimensions.len())));
        };
        self.int(name, *dim);
        Ok(())
    }
}
