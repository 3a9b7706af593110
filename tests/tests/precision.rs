//! `--precision bf16`: products and convolutions on bf16 operands train as those on f32 do, and everything around them stays as it was.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::training::{TrainOptions, train};
use girih::{CompileOptions, Literal, Model, ModelOptions, RuntimeOptions, Session, Target, Weights, compile, tensors};
use girih_compiler::partition::Pinning;
use girih_compiler::precision::Precision;
use girih_ir::program::{Instr, Program};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use girih_runtime::data::{DataOptions, Dataset};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const STEPS: u64 = 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/data")
}

/// The element types of the operands of products and convolutions.
fn product_types(program: &Program) -> Vec<DType> {
    let of = |i: &Instr| match i {
        Instr::Gemm { a, b, .. } => vec![a.dtype, b.dtype],
        Instr::Conv { lhs, rhs, .. } => vec![lhs.dtype, rhs.dtype],
        _ => vec![],
    };
    program.streams.iter().flatten().flat_map(of).collect()
}

/// The digits as a data set: pixels from 0 to 1, and labels.
fn digits(inputs: &[(&str, &TensorType)]) -> Arc<Dataset> {
    let path = folder().join("digits.safetensors");
    let raw = tensors::open(&path).unwrap();
    let (images, labels) = (Tensor::from_literal(&raw["images"]), raw["labels"].clone());
    let pixels = images.floats().iter().map(|p| p / 16.0).collect();
    let images: Literal = Tensor::new_float(TensorType::new(DType::F32, [images.shape()[0], 1, 8, 8]), pixels).to_literal();
    let samples = Weights::from([("x".to_string(), images), ("labels".to_string(), labels)]);
    Arc::new(Dataset::new(&path, samples, inputs, DataOptions::default()).unwrap())
}

/// The losses of the first steps of a convolutional classifier.
fn losses(precision: Precision, target: &str) -> Vec<f64> {
    let mut options = ModelOptions::default();
    options.import.batch = Some(32);
    let model = Model::open(folder().join("digits_cnn.onnx"), &options).unwrap();
    let step = model.training(&"softmax_cross_entropy".parse().unwrap(), &"adam:lr=3e-3".parse().unwrap(), &[]).unwrap();
    let options = CompileOptions { precision, ..CompileOptions::default() };
    let compiled = compile(step, &Target::builtin(target).unwrap(), &options).unwrap();
    let wanted = if precision == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let products = product_types(&compiled.program);
    assert!(!products.is_empty() && products.iter().all(|t| *t == wanted), "{products:?}");
    let state = &compiled.program.step.state;
    assert!(state.iter().all(|s| compiled.program.step.state_type(s).dtype != DType::BF16), "state stays f32");
    let mut session = compiled.session(RuntimeOptions { threads: 2, ..RuntimeOptions::default() }).unwrap();
    let data = digits(&session.inputs());
    let mut losses = Vec::new();
    train(&mut session, &data, &TrainOptions { steps: STEPS, ..TrainOptions::default() }, &mut |p| losses.extend(p.outputs.loss()))
        .unwrap();
    losses
}

#[test]
fn twenty_steps_are_within_two_percent() {
    let (wide, narrow) = (losses(Precision::F32, "host"), losses(Precision::Bf16, "host"));
    assert_eq!(wide.len(), STEPS as usize);
    for (step, (a, b)) in wide.iter().zip(&narrow).enumerate() {
        assert!((a - b).abs() <= 0.02 * a.abs(), "step {step}: {a} in f32, {b} in bf16");
    }
    assert!(wide[19] < 0.8 * wide[0], "it learns: {wide:?}");
    assert_ne!(wide, narrow, "the operands are really rounded");
}

#[test]
fn a_mesh_trains_as_the_host_does() {
    let (host, mesh) = (losses(Precision::Bf16, "host"), losses(Precision::Bf16, "dojo-tile"));
    for (step, (a, b)) in host.iter().zip(&mesh).enumerate() {
        assert!((a - b).abs() <= 0.02 * a.abs(), "step {step}: {a} on the host, {b} on the mesh");
    }
}

/// A product of 2,000 terms, cut over dies.
fn product(dtype: DType) -> String {
    format!(
        "step {{ seed 0 }}
graph @product(%0: {dtype}[8,2000] input \"x\", %1: {dtype}[2000,24] input \"w\") {{
  %2 = dot_general %0, %1 {{lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}}
  %3 = reduce %0 {{monoid = sum, dims = [1]}}
  return %2 \"y\", %3 \"sums\"
}}"
    )
}

/// What dies add up is rounded once: the result is the exact one rounded, however many dies there are.
#[test]
fn sums_over_dies_are_rounded_once() {
    for (dtype, bits) in [(DType::BF16, 8), (DType::F16, 11)] {
        let model = Model::from_text(&product(dtype), Path::new("product.gir")).unwrap();
        let pins = Pinning::parse("op:dot_general y=2 x=2\nop:reduce y=1 x=1").unwrap();
        let options = CompileOptions { pins, dies: Some(25), optimize: None, ..CompileOptions::default() };
        let compiled = compile(model.step().unwrap(), &Target::builtin("dojo-tile").unwrap(), &options).unwrap();
        let added = |i: &&Instr| matches!(i, Instr::RecvAdd { .. });
        let adds: Vec<&Instr> = compiled.program.streams.iter().flatten().filter(added).collect();
        assert!(adds.len() >= 24 && adds.iter().all(|i| i.writes()[0].dtype == DType::F32), "{} additions", adds.len());
        let value = |i: usize, seed: usize| 0.5 + ((i * 7919 + seed * 104_729) % 509) as f64 / 1018.0;
        let tensor = |shape: [usize; 2], seed: usize| {
            let ty = TensorType::new(dtype, shape);
            Tensor::new_float(ty.clone(), (0..ty.elements()).map(|i| value(i, seed)).collect())
        };
        let (x, w) = (tensor([8, 2000], 1), tensor([2000, 24], 2));
        let (a, b) = (x.floats(), w.floats());
        let dots: Vec<f64> = (0..8 * 24).map(|c| (0..2000).map(|k| a[c / 24 * 2000 + k] * b[k * 24 + c % 24]).sum()).collect();
        let sums: Vec<f64> = a.chunks(2000).map(|row| row.iter().sum()).collect();
        let given = std::collections::BTreeMap::from([("x".to_string(), x.to_literal()), ("w".to_string(), w.to_literal())]);
        let run = |threads: usize| {
            let options = RuntimeOptions { threads, ..RuntimeOptions::default() };
            let apart = threads == 2;
            let mut session =
                if apart { Session::die_by_die(compiled.program.clone(), options).unwrap() } else { compiled.session(options).unwrap() };
            let outputs = session.step(&given).unwrap();
            ["y", "sums"].map(|name| Tensor::from_literal(&outputs.get(name).unwrap()))
        };
        let got = run(1);
        assert!(got == run(3) && got == run(2), "threads or messages show");
        for (name, got, want) in [("y", &got[0], dots), ("sums", &got[1], sums)] {
            for (g, w) in got.floats().iter().zip(want) {
                // Half a unit of the last place, and the roundings of f32.
                let unit = 2f64.powi(w.log2().floor() as i32 + 1 - bits);
                assert!((g - w).abs() <= unit / 2.0 + w * 1e-5, "{dtype} {name}: {g} instead of {w}");
            }
        }
    }
}
