//! Trains the digit classifier of `girih demo` for a few steps from Rust: on 25 dies and on this CPU, from one model.
//!
//! `cargo run --release -p girih --example train_from_rust`

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::training::{Checkpoints, TrainOptions, train};
use girih::{CompileOptions, Compiled, Error, Literal, Model, ModelOptions, RuntimeOptions, Target, Weights, compile, tensors};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use girih_runtime::data::{DataOptions, Dataset};
use std::path::Path;
use std::sync::Arc;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
const STEPS: u64 = 6;

/// Losses of the first steps on a target.
pub fn losses(target: &Target) -> Result<Vec<f64>, Error> {
    // A model and what it lacks to be a training step: an extent for its open dimension, a loss, an optimizer.
    let mut options = ModelOptions::default();
    options.import.batch = Some(32);
    let model = Model::open(Path::new(FOLDER).join("digits_cnn.onnx"), &options)?;
    let step = model.training(&"softmax_cross_entropy".parse()?, &"adam:lr=3e-3".parse()?, &[])?;

    // A program is a value. It can be written to a file, and is checked again when it is read.
    let bytes = compile(step, target, &CompileOptions::default())?.to_bytes()?;
    let compiled = Compiled::from_bytes(&bytes, Path::new("in memory"))?;

    let mut session = compiled.session(RuntimeOptions { threads: 2, ..RuntimeOptions::default() })?;
    let data = batches(&session.inputs())?;
    let mut losses = Vec::new();
    train(&mut session, &data, &TrainOptions { steps: STEPS, ..TrainOptions::default() }, &mut |p| losses.extend(p.outputs.loss()))?;
    Ok(losses)
}

/// The digits as a data set: pixels from 0 to 1, and labels.
fn batches(inputs: &[(&str, &TensorType)]) -> Result<Arc<Dataset>, Error> {
    let path = Path::new(FOLDER).join("digits.safetensors");
    let raw = tensors::open(&path)?;
    let (images, labels) = (Tensor::from_literal(&raw["images"]), raw["labels"].clone());
    let pixels = images.floats().iter().map(|p| p / 16.0).collect();
    let images: Literal = Tensor::new_float(TensorType::new(DType::F32, [images.shape()[0], 1, 8, 8]), pixels).to_literal();
    let samples = Weights::from([("x".to_string(), images), ("labels".to_string(), labels)]);
    Ok(Arc::new(Dataset::new(&path, samples, inputs, DataOptions::default())?))
}

/// Stops after half of the steps, resumes from the checkpoint in `dir`, and returns the losses of both halves.
pub fn interrupted(target: &Target, dir: &Path) -> Result<Vec<f64>, Error> {
    let mut options = ModelOptions::default();
    options.import.batch = Some(32);
    let model = Model::open(Path::new(FOLDER).join("digits_cnn.onnx"), &options)?;
    let step = model.training(&"softmax_cross_entropy".parse()?, &"adam:lr=3e-3".parse()?, &[])?;
    let compiled = compile(step, target, &CompileOptions::default())?;
    let mut losses = Vec::new();
    for steps in [STEPS / 2, STEPS] {
        let mut session = compiled.session(RuntimeOptions::default())?;
        let checkpoints = Some(Checkpoints { dir: dir.to_path_buf(), every: 2, resume: true });
        let options = TrainOptions { steps, checkpoints, ..TrainOptions::default() };
        train(&mut session, &batches(&compiled.session(RuntimeOptions::default())?.inputs())?, &options, &mut |p| {
            losses.extend(p.outputs.loss())
        })?;
    }
    Ok(losses)
}

fn main() -> Result<(), Error> {
    for name in ["dojo-tile", "host"] {
        println!("{name}: {:?}", losses(&Target::builtin(name)?)?);
    }
    let dir = std::env::temp_dir().join(format!("girih-example-{}", std::process::id()));
    println!("interrupted and resumed: {:?}", interrupted(&Target::builtin("host")?, &dir)?);
    std::fs::remove_dir_all(&dir).map_err(|source| Error::Io { action: "remove", path: dir, source })
}
