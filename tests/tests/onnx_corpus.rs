//! Every ONNX export of the model corpus imports, and its forward pass in the reference interpreter equals PyTorch's.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::onnx::{self, BatchNormMode, ImportOptions, Imported};
use girih_ir::graph::Role;
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn corpus() -> Option<PathBuf> {
    girih_tests::shared("corpus/torch")
}

fn load(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let dtype = |d| match d {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::I64 => DType::I64,
        safetensors::Dtype::I32 => DType::I32,
        safetensors::Dtype::BOOL => DType::Bool,
        other => panic!("{other:?}"),
    };
    let tensor = |name: &str| {
        let view = file.tensor(name).unwrap();
        let literal = Literal::new(TensorType::new(dtype(view.dtype()), view.shape()), view.data()).unwrap();
        Tensor::from_literal(&literal)
    };
    file.names().into_iter().map(|n| (n.to_string(), tensor(n))).collect()
}

/// Runs the model on the stored inputs; the i-th data input takes the i-th input of the case.
fn forward(imported: &Imported, names: &[String], given: &BTreeMap<String, Tensor>) -> Vec<Tensor> {
    let mut next = names.iter();
    let inputs: Vec<Tensor> = imported
        .graph
        .inputs
        .iter()
        .map(|i| match i.role {
            Role::Data => given.get(&i.name).unwrap_or_else(|| &given[next.next().unwrap()]).clone(),
            _ => Tensor::from_literal(&imported.initial[&i.name]),
        })
        .collect();
    interp::eval(&imported.graph, &inputs).unwrap()
}

fn assert_close(got: &Tensor, want: &Tensor, place: &str) {
    assert_eq!(got.ty(), want.ty(), "{place}");
    for (i, (g, w)) in got.floats().iter().zip(want.floats()).enumerate() {
        assert!((g - w).abs() <= 2e-4 + 1e-3 * w.abs(), "{place}: element {i} is {g}, not {w}");
    }
}

fn cases(dir: &Path) -> Vec<(String, PathBuf, serde_json::Value)> {
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("case.json").is_file()).collect();
    cases.sort();
    let json = |p: &PathBuf| serde_json::from_slice(&std::fs::read(p.join("case.json")).unwrap()).unwrap();
    cases.into_iter().map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), p.clone(), json(&p))).collect()
}

fn names(case: &serde_json::Value, key: &str) -> Vec<String> {
    case[key].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn every_export_imports_and_computes_the_same() {
    let Some(dir) = corpus() else { return };
    let (mut lines, mut count) = (Vec::new(), 0);
    for (name, path, case) in cases(&dir) {
        let (given, want) = (load(&path.join("inputs.safetensors")), load(&path.join("expected.safetensors")));
        let batch = case["inputs"][0]["shape"][0].as_u64().unwrap() as usize;
        for file in ["model.onnx", "model.opt.onnx", "model.legacy.onnx"] {
            if !path.join(file).is_file() {
                continue;
            }
            let options = ImportOptions { batch: Some(batch), ..Default::default() };
            let imported = onnx::import_file(&path.join(file), &options).unwrap();
            let place = format!("{name}/{file}");
            let got = forward(&imported, &names(&case, "inputs"), &given);
            for (output, got) in names(&case, "outputs").iter().zip(&got) {
                assert_close(got, &want[output], &place);
            }
            let nodes = imported.graph.nodes().len();
            lines.push(format!("{place}: {nodes} nodes, {} parameters, unused {:?}", imported.initial.len(), imported.unused));
            count += 1;
        }
    }
    assert!(count >= 9, "{count}");
    insta::assert_snapshot!("imports", lines.join("\n"));
}

#[test]
fn every_parameter_of_the_case_is_a_trainable_input() {
    let Some(dir) = corpus() else { return };
    for (name, path, case) in cases(&dir) {
        let options = ImportOptions { batch: Some(2), ..Default::default() };
        let imported = onnx::import_file(&path.join("model.onnx"), &options).unwrap();
        // Tied parameters are one initializer, under either name.
        let tied = |n: String| case["tied_params"][&n].as_str().map_or(n.clone(), str::to_string);
        let mut got: Vec<String> = imported.initial.keys().cloned().chain(imported.unused).map(tied).collect();
        let mut want = names(&case, "params");
        got.sort();
        want.sort();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn batch_statistics_make_the_outputs_of_training_mode() {
    let Some(dir) = corpus() else { return };
    let mut checked = 0;
    for (name, path, _) in cases(&dir) {
        let file = path.join("grads_train_mode.safetensors");
        if !file.is_file() {
            continue;
        }
        let (given, want) = (load(&path.join("inputs.safetensors")), load(&file));
        let options = ImportOptions { batch_norm: BatchNormMode::BatchStatistics, ..Default::default() };
        let imported = onnx::import_file(&path.join("model.onnx"), &options).unwrap();
        let got = forward(&imported, &[], &given);
        if let Some(want) = want.get("output") {
            assert_close(&got[0], want, &name);
        }
        for buffer in &imported.buffers {
            let k = imported.graph.outputs.iter().position(|o| o.name == buffer.output).unwrap();
            assert_close(&got[k], &want[&format!("buffer_after/{}", buffer.input)], &format!("{name}: {}", buffer.input));
            checked += 1;
        }
    }
    assert!(checked > 0);
}
