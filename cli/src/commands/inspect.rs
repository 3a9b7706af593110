//! `girih inspect`: what is in a file, whatever kind it is.

use super::output::{Outcome, Output, bytes, metric, table};
use super::summary;
use super::targets;
use clap::Args;
use girih::{Compiled, Error, Model, TargetSpec, Weights, files, tensors};
use girih_compiler::import::onnx::limits::ImportLimits;
use girih_compiler::import::onnx::proto::{ModelProto, ValueInfoProto};
use girih_compiler::import::onnx::{self, tensor};
use girih_ir::graph::Graph;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Show what is in a file
#[derive(Args, Debug)]
pub struct Inspect {
    /// A .onnx, .gir, .girih, .safetensors, .npz or target .toml file
    file: PathBuf,
}

impl Inspect {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let path = self.file.as_path();
        match files::extension(path).as_str() {
            "onnx" => onnx_model(path, out),
            "gir" => {
                let model = Model::open(path, &girih::ModelOptions::default())?;
                out.result(|| graph_text(&model), || graph_document(&model))
            }
            "girih" => {
                let compiled = Compiled::open(path)?;
                out.result(|| summary::text(&compiled.program), || summary::document(&compiled.program))
            }
            "safetensors" | "npz" => {
                let found = tensors::open(path)?;
                out.result(|| tensors_text(&found), || tensors_document(&found))
            }
            "toml" => {
                let target = TargetSpec::named(path.to_string_lossy()).open()?;
                out.result(|| target.to_string(), || targets::describe(&target))
            }
            _ => {
                let what = format!("it is not clear what kind of file {} is", path.display());
                let help = "files end in .onnx, .gir, .girih, .safetensors, .npz or .toml";
                Err(Error::Usage { what, help: help.into() }.into())
            }
        }
    }
}

/// Facts straight from the file, so that models that cannot be imported can be looked at too.
fn onnx_model(path: &Path, out: &Output) -> Outcome {
    let model = onnx::decode(files::read(path)?.into(), &ImportLimits::default())?;
    out.result(|| onnx_text(&model), || onnx_document(&model))
}

fn operators(model: &ModelProto) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in model.graph.iter().flat_map(|g| &g.node) {
        *counts.entry(clean(node.op_type.as_deref())).or_default() += 1;
    }
    counts
}

fn clean(text: Option<&str>) -> String {
    girih_compiler::import::error::clean(text.unwrap_or("?")).replace('\n', " ")
}

fn opsets(model: &ModelProto) -> Vec<String> {
    let name = |domain: Option<&str>| if domain.unwrap_or("").is_empty() { "ai.onnx".to_string() } else { clean(domain) };
    model.opset_import.iter().map(|o| format!("{} {}", name(o.domain.as_deref()), o.version.unwrap_or(0))).collect()
}

fn onnx_text(model: &ModelProto) -> String {
    let row = |label: &str, text: String| vec![label.to_string(), text];
    let graph = model.graph.clone().unwrap_or_default();
    let initial: Vec<String> = graph.initializer.iter().filter_map(|t| t.name.clone()).collect();
    let elements: i64 = graph.initializer.iter().map(|t| t.dims.iter().product::<i64>().max(0)).fold(0, i64::saturating_add);
    let producer = format!(
        "{} {}",
        clean(model.producer_name.as_deref()),
        model.producer_version.as_deref().map(|v| clean(Some(v))).unwrap_or_default()
    );
    let counts = operators(model);
    let list: Vec<String> = counts.iter().map(|(op, n)| format!("{op} {n}")).collect();
    let mut rows = vec![
        row("model", format!("{}, ONNX IR version {}", clean(graph.name.as_deref()), model.ir_version.unwrap_or(0))),
        row("producer", producer.trim().to_string()),
        row("opsets", opsets(model).join(", ")),
        row("nodes", format!("{}, {} functions", graph.node.len(), model.functions.len())),
        row("operators", list.join(", ")),
        row("initializers", format!("{}, {}", initial.len(), metric(elements as f64, "elements"))),
    ];
    let inputs = graph.input.iter().filter(|i| i.name.as_ref().is_some_and(|n| !initial.contains(n)));
    rows.extend(inputs.map(|i| row("input", value_info(i))));
    rows.extend(graph.output.iter().map(|o| row("output", value_info(o))));
    table(&rows, true)
}

fn value_info(v: &ValueInfoProto) -> String {
    let (dtype, shape) = value_type(v);
    format!("{} {dtype}[{}]", clean(v.name.as_deref()), shape.join(","))
}

/// Element type and extents; open ones by name.
fn value_type(v: &ValueInfoProto) -> (String, Vec<String>) {
    let Some(tensor) = v.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else { return ("not a tensor".into(), Vec::new()) };
    let dtype = match tensor::dtype_of(tensor.elem_type.unwrap_or(0)) {
        Ok(dtype) => dtype.name(),
        Err(name) => name,
    };
    let dims = tensor.shape.iter().flat_map(|s| &s.dim);
    let dims = dims.map(|d| d.dim_value.map_or_else(|| clean(d.dim_param.as_deref()), |n| n.to_string()));
    (dtype.to_string(), dims.collect())
}

fn onnx_document(model: &ModelProto) -> Value {
    let graph = model.graph.clone().unwrap_or_default();
    let value = |v: &ValueInfoProto| {
        let (dtype, shape) = value_type(v);
        json!({ "name": clean(v.name.as_deref()), "dtype": dtype, "shape": shape })
    };
    let tensor = |t: &onnx::proto::TensorProto| json!({ "name": clean(t.name.as_deref()), "shape": t.dims });
    json!({
        "kind": "onnx",
        "name": clean(graph.name.as_deref()),
        "ir_version": model.ir_version,
        "producer": clean(model.producer_name.as_deref()),
        "opsets": opsets(model),
        "nodes": graph.node.len(),
        "functions": model.functions.len(),
        "operators": operators(model),
        "inputs": graph.input.iter().map(value).collect::<Vec<_>>(),
        "outputs": graph.output.iter().map(value).collect::<Vec<_>>(),
        "initializers": graph.initializer.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn ops(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    graph.nodes().iter().for_each(|n| *counts.entry(n.op.name()).or_default() += 1);
    counts
}

fn graph_text(model: &Model) -> String {
    let graph = model.graph();
    let kind = if model.is_step() { "training step" } else { "graph" };
    let list: Vec<String> = ops(graph).iter().map(|(op, n)| format!("{op} {n}")).collect();
    let row = |label: &str, text: String| vec![label.to_string(), text];
    let mut rows = vec![
        row(kind, format!("{}: {} nodes, {}", graph.name, graph.nodes().len(), metric(girih::flops(graph) as f64, "FLOP"))),
        row("ops", list.join(", ")),
    ];
    rows.extend(graph.inputs.iter().map(|i| row(i.role.name(), format!("{} {}", i.name, graph.ty(i.value)))));
    rows.extend(graph.outputs.iter().map(|o| row("output", format!("{} {}", o.name, graph.ty(o.value)))));
    table(&rows, true)
}

fn graph_document(model: &Model) -> Value {
    let graph = model.graph();
    json!({
        "kind": if model.is_step() { "step" } else { "graph" },
        "name": graph.name,
        "nodes": graph.nodes().len(),
        "flops": girih::flops(graph),
        "operators": ops(graph),
        "inputs": graph.inputs.iter().map(|i| json!({ "name": i.name, "role": i.role.name(), "type": graph.ty(i.value).to_string() })).collect::<Vec<_>>(),
        "outputs": graph.outputs.iter().map(|o| json!({ "name": o.name, "type": graph.ty(o.value).to_string() })).collect::<Vec<_>>(),
    })
}

fn tensors_text(found: &Weights) -> String {
    let total: u64 = found.values().map(|l| l.bytes().len() as u64).sum();
    let rows: Vec<Vec<String>> = found.iter().map(|(n, l)| vec![n.clone(), l.ty().to_string(), bytes(l.bytes().len() as u64)]).collect();
    format!("{}{} tensors, {}", table(&rows, false), found.len(), bytes(total))
}

fn tensors_document(found: &Weights) -> Value {
    let tensor = |(name, l): (&String, &girih::Literal)| json!({ "name": name, "dtype": l.ty().dtype.name(), "shape": l.ty().shape.to_vec(), "bytes": l.bytes().len() });
    json!({ "kind": "tensors", "tensors": found.iter().map(tensor).collect::<Vec<_>>() })
}
