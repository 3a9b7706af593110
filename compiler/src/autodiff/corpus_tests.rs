//! Losses that JAX wrote, with its loops, against JAX's own gradients.

use super::gradients;
use crate::canonicalize::canonicalize;
use crate::import::stablehlo::{StablehloOptions, import_file};
use girih_ir::graph::ValueId;
use girih_ir::interp::eval;
use girih_ir::literal::Literal;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var_os("GIRIH_SHARED").map_or_else(beside, PathBuf::from).join("corpus/jax");
    if !path.is_dir() {
        println!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// The tensors of a `safetensors` file.
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let tensor = |(name, entry): (&String, &Value)| {
        let dtype = match entry["dtype"].as_str().unwrap() {
            "F32" => DType::F32,
            "I32" => DType::I32,
            "U32" => DType::U32,
            "F64" => DType::F64,
            "BOOL" => DType::Bool,
            other => panic!("{name} is {other}"),
        };
        let shape = entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let at = |i: usize| start + entry["data_offsets"][i].as_u64().unwrap() as usize;
        let data = bytes[at(0)..at(1)].to_vec();
        (name.clone(), Tensor::from_literal(&Literal::new(TensorType { dtype, shape }, data).unwrap()))
    };
    entries.map(tensor).collect()
}

/// Differentiates a case's loss and compares with what JAX found, within so many tolerances of the case. Returns the loops of the forward graph and of the gradients.
fn check(folder: &Path, within: f64) -> (usize, usize) {
    let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
    let spec = &case["autodiff_check"];
    let graph = import_file(&folder.join("loss.mlir"), &StablehloOptions::default()).unwrap_or_else(|e| panic!("{e}")).graph;
    let graph = canonicalize(&graph).0;
    let given = tensors(&folder.join("inputs.safetensors"));
    let names: Vec<&str> = spec["inputs_in_order"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let inputs: Vec<Tensor> = names.iter().map(|n| given[*n].clone()).collect();
    let wanted = spec["grads"].as_array().unwrap();
    let wrt: Vec<ValueId> = (0..names.len()).filter(|i| names[*i].starts_with("params/")).map(|i| graph.inputs[i].value).collect();
    assert_eq!(wrt.len(), wanted.len());
    let found = gradients(&graph, graph.outputs[0].value, &wrt).unwrap_or_else(|e| panic!("{e}"));
    let mut with = found.graph.clone();
    with.outputs.clear();
    found.gradients.iter().zip(wanted).for_each(|(v, w)| with.output(w["name"].as_str().unwrap(), *v));
    let with = canonicalize(&with).0;
    girih_ir::verify::verify(&with).unwrap_or_else(|e| panic!("{e}"));
    let got = eval(&with, &inputs).unwrap();
    let expected = tensors(&folder.join("grads.safetensors"));
    let tolerances = folder.join("tolerances.safetensors");
    let tolerances = if tolerances.exists() { tensors(&tolerances) } else { BTreeMap::new() };
    for (have, w) in got.iter().zip(wanted) {
        let name = w["name"].as_str().unwrap();
        let want = expected[name].floats();
        let atol = if w["elementwise_atol"] == true { tolerances.get(name).map(Tensor::floats) } else { None };
        let number = |k: &str| w[k].as_f64().unwrap();
        for (i, (have, want)) in have.floats().iter().zip(&want).enumerate() {
            let atol = atol.as_ref().map_or_else(|| number("atol"), |a| a[i]);
            let most = within * (atol + number("rtol") * want.abs());
            assert!((have - want).abs() <= most, "{}: {name}[{i}] is {have}, JAX has {want} (± {most})", folder.display());
        }
    }
    let loops = |g: &girih_ir::graph::Graph| g.nodes().iter().filter(|n| n.op.name() == "repeat").count();
    (loops(&graph), loops(&with))
}

#[test]
fn losses_of_jax_with_loops_have_the_gradients_of_jax() {
    let Some(corpus) = corpus() else { return };
    assert_eq!(check(&corpus.join("lstm_adam"), 1.0), (1, 2), "a scan over time");
    check(&corpus.join("diffusion_prng_ema"), 1.0);
    check(&corpus.join("encoder_dropout_typedkey"), 1.0);
    // A scan over layers in bf16, where the order of operations alone moves a few elements in a thousand by more than a tolerance; both this
    // and JAX's gradients are as far from those in f32.
    check(&corpus.join("gpt_scan_remat_bf16"), 2.0);
}
