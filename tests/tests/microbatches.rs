//! Steps whose batch is cut into microbatches do what the whole step does: the corpora's results and 20-step loss curves, from programs that
//! loop over slices of the batch.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, LossSpec, Model, ModelOptions, OptimizerSpec, RuntimeOptions, Target};
use girih_compiler::pipeline::Microbatches;
use girih_ir::literal::Literal;
use girih_tests::corpus::engine::{Engine, EngineArgs};
use girih_tests::corpus::passing;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn engine(target: &str, dies: Option<usize>, parts: usize) -> Engine {
    let args = EngineArgs { target: target.into(), dies, microbatches: Some(parts), threads: 2, ..EngineArgs::default() };
    Engine::new(&args).unwrap()
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/jax")
}

#[test]
fn committed_cases_pass_in_microbatches() {
    let names = passing(committed(), &engine("host", None, 2), &["E083"]);
    assert!(!names.is_empty());
}

#[test]
fn committed_cases_pass_in_microbatches_on_a_mesh() {
    let names = passing(committed(), &engine("dojo-tile", Some(4), 2), &["E083"]);
    assert!(!names.is_empty());
}

#[test]
fn the_corpus_passes_in_microbatches() {
    let Some(dir) = girih_tests::shared("corpus/jax") else { return };
    let names = passing(dir, &engine("host", None, 2), &["E083"]);
    for name in ["mlp_sgd", "gpt2_adamw", "llama_adamw", "mixer_adamw", "vit_tiny_adam", "word2vec_adagrad"] {
        assert!(names.iter().any(|n| n.contains(name)), "{name}: {names:?}");
    }
}

/// Losses of some steps of a classifier whose labels are ignored where they are 3, very unevenly over the batch.
fn losses(target: &str, dies: Option<usize>, microbatches: Microbatches) -> Vec<f64> {
    const ROWS: usize = 12;
    let mut options = ModelOptions::default();
    options.import.batch = Some(ROWS);
    let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/data/digits_cnn.onnx"), &options).unwrap();
    let loss: LossSpec = "softmax_cross_entropy:ignore_index=3".parse().unwrap();
    let optimizer: OptimizerSpec = "adam:lr=3e-3".parse().unwrap();
    let step = model.training(&loss, &optimizer, &[]).unwrap();
    let options = CompileOptions { dies, microbatches, ..CompileOptions::default() };
    let compiled = girih::compile(step, &Target::builtin(target).unwrap(), &options).unwrap();
    let mut session = compiled.session(RuntimeOptions { threads: 2, ..RuntimeOptions::default() }).unwrap();
    let step = |i: usize| {
        let pixels: Vec<f32> = (0..ROWS * 64).map(|k| ((k * 7919 + i * 104_729) % 17) as f32 / 16.0).collect();
        // In the first half all but one are ignored, in the second none.
        let labels: Vec<i64> = (0..ROWS).map(|k| if k < ROWS / 2 && k != i % 4 { 3 } else { ((4 + k + i) % 6 + 4) as i64 }).collect();
        let images = Literal::from_f32(&[ROWS, 1, 8, 8], &pixels).unwrap();
        let batch = BTreeMap::from([("x".to_string(), images), ("labels".to_string(), Literal::from_i64(&[ROWS], &labels).unwrap())]);
        session.step(&batch).unwrap().loss().unwrap()
    };
    (0..6).map(step).collect()
}

/// The loss is divided by the labels of the whole batch that count, not by those of each slice.
#[test]
fn ignored_labels_count_over_the_whole_batch() {
    let whole = losses("host", None, Microbatches::Off);
    assert!(whole.iter().all(|l| l.is_finite()) && whole[0] != whole[5], "{whole:?}");
    for (target, dies, parts) in [("host", None, 2), ("host", None, 6), ("dojo-tile", Some(4), 3)] {
        let sliced = losses(target, dies, Microbatches::Exactly(parts));
        for (step, (a, b)) in whole.iter().zip(&sliced).enumerate() {
            assert!((a - b).abs() <= 2e-5 * a.abs(), "{target} in {parts}, step {step}: {b} instead of {a}");
        }
    }
}
