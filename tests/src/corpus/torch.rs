//! PyTorch cases: outputs of every export, gradients in both batch-norm modes, and loss curves.

use super::engine::{Engine, Stepper};
use super::{CaseResult, Tensors, read_tensors, scalar};
use crate::conformance::Outcome;
use girih_compiler::import::onnx::{BatchNormMode, ImportOptions, Imported, import_file};
use girih_compiler::train::{LossSpec, OptimizerSpec, train_step};
use girih_ir::step::{TrainStep, Weights};
use serde_json::Value;
use std::path::Path;

struct Case<'a> {
    dir: &'a Path,
    json: &'a Value,
    engine: &'a Engine,
    inputs: Tensors,
}

fn fail(why: impl Into<String>) -> Outcome {
    Outcome::Fail(why.into())
}

/// Runs every check of a case; what is compared goes into `result.worst`.
pub(super) fn run(dir: &Path, json: &Value, engine: &Engine, result: &mut CaseResult) -> Result<(), Outcome> {
    let inputs = read_tensors(&dir.join("inputs.safetensors")).map_err(fail)?;
    let case = Case { dir, json, engine, inputs };
    let mut variants: Vec<&String> = json["variants"].as_object().map(|v| v.keys().collect()).unwrap_or_default();
    variants.retain(|v| v.ends_with(".onnx"));
    for variant in variants {
        case.forward(variant, result)?;
    }
    let Some(checks) = json["checks"].as_object() else { return Err(fail("case.json has no checks")) };
    for (mode, check) in checks {
        let batch_norm = if mode == "train" { BatchNormMode::BatchStatistics } else { BatchNormMode::Inference };
        let model = case.import("model.onnx", batch_norm)?;
        case.gradients(mode, check, &model, result)?;
        for (name, curve) in check["loss_curves"].as_object().into_iter().flatten() {
            case.curve(mode, name, curve, &model, result)?;
        }
    }
    Ok(())
}

impl Case<'_> {
    fn import(&self, file: &str, batch_norm: BatchNormMode) -> Result<Imported, Outcome> {
        let mut options = ImportOptions { batch_norm, ..ImportOptions::default() };
        let first = self.json["inputs"][0]["shape"][0].as_u64();
        options.batch = first.map(|n| n as usize);
        if file == "model.onnx" {
            let case = girih::case::Case::open(self.dir).map_err(|e| fail(e.to_string()))?;
            options.trainable = case.trainable().map(|names| names.into_iter().collect());
        }
        import_file(&self.dir.join(file), &options).map_err(|e| match e {
            girih_compiler::import::error::ImportError::Unsupported { .. } => Outcome::Unsupported(format!("{file}: {e}")),
            e => fail(format!("{file}: {e}")),
        })
    }

    /// Starts a step and notes how large its program is.
    fn start(&self, step: TrainStep, weights: Weights, result: &mut CaseResult) -> Result<Box<dyn Stepper>, Outcome> {
        let stepper = self.engine.start(step, weights).map_err(Outcome::from)?;
        result.dies = result.dies.max(stepper.dies());
        result.compile_seconds = result.compile_seconds.max(stepper.compile_seconds());
        Ok(stepper)
    }

    /// Outputs of one export (for `loss.onnx` the loss).
    fn forward(&self, file: &str, result: &mut CaseResult) -> Result<(), Outcome> {
        let training = file.contains(".train.");
        let model = self.import(file, BatchNormMode::Inference)?;
        let weights: Weights = model.initial.clone().into_iter().collect();
        let mut stepper = self.start(TrainStep::inference(model.graph.clone()), weights, result)?;
        let outputs = stepper.step(&self.inputs).map_err(Outcome::from)?;
        if file == "loss.onnx" {
            let want = self.json["checks"]["eval"]["loss"].as_f64().unwrap_or(f64::NAN);
            let loss = outputs.values().next().ok_or_else(|| fail("loss.onnx has no output"))?;
            let want = scalar(want);
            result.checks += 1;
            result.worst.compare(loss, &want, 2e-5, 1e-4, file);
            return Ok(());
        }
        if training {
            // Batch statistics and live dropout: the training-mode gradients file has the output when dropout is off.
            let path = self.dir.join("grads_train_mode.safetensors");
            let Ok(want) = read_tensors(&path) else { return Ok(()) };
            if let (Some(want), Some(got), false) = (want.get("output"), outputs.values().next(), self.has_dropout(file)) {
                result.checks += 1;
                result.worst.compare(got, want, 1e-4, 1e-3, &format!("{file} output"));
            }
            return Ok(());
        }
        let expected = read_tensors(&self.dir.join("expected.safetensors")).map_err(fail)?;
        for (k, spec) in self.json["outputs"].as_array().into_iter().flatten().enumerate() {
            let name = spec["name"].as_str().unwrap_or_default();
            let want = expected.get(name).ok_or_else(|| fail(format!("expected.safetensors has no {name}")))?;
            let produced = model.graph.outputs.get(k).map(|o| &o.name);
            let got = outputs.get(name).or_else(|| produced.and_then(|n| outputs.get(n)));
            let got = got.ok_or_else(|| fail(format!("{file} has no output {name}")))?;
            let (atol, rtol) = (spec["atol"].as_f64().unwrap_or(0.0), spec["rtol"].as_f64().unwrap_or(0.0));
            result.checks += 1;
            result.worst.compare(got, want, atol, rtol, &format!("{file} {name}"));
        }
        Ok(())
    }

    fn has_dropout(&self, file: &str) -> bool {
        !self.json["variants"][file]["ops"]["Dropout"].is_null()
    }

    fn loss(&self) -> Result<LossSpec, Outcome> {
        let case = girih::case::Case::open(self.dir).map_err(|e| fail(e.to_string()))?;
        let text = case.loss().ok_or_else(|| fail("the case has no loss"))?;
        text.parse().map_err(|e: girih_compiler::train::TrainError| fail(e.to_string()))
    }

    fn training(&self, model: &Imported, optimizer: &str, result: &mut CaseResult) -> Result<Box<dyn Stepper>, Outcome> {
        let optimizer: OptimizerSpec = optimizer.parse().map_err(|e: girih_compiler::train::TrainError| fail(e.to_string()))?;
        let carried: Vec<(String, String)> = model.buffers.iter().map(|b| (b.input.clone(), b.output.clone())).collect();
        let training = train_step(&model.graph, &self.loss()?, &optimizer, &carried, &[]).map_err(|e| fail(e.to_string()))?;
        let mut weights: Weights = model.initial.clone().into_iter().collect();
        weights.extend(training.slots);
        self.start(training.step, weights, result)
    }

    fn gradients(&self, mode: &str, check: &Value, model: &Imported, result: &mut CaseResult) -> Result<(), Outcome> {
        let want = read_tensors(&self.dir.join(check["file"].as_str().unwrap_or_default())).map_err(fail)?;
        let mut stepper = self.training(model, "none", result)?;
        let outputs = stepper.step(&self.inputs).map_err(Outcome::from)?;
        let loss = outputs.get("loss").ok_or_else(|| fail("the step has no loss"))?;
        let want_loss = scalar(check["loss"].as_f64().unwrap_or(f64::NAN));
        result.checks += 1;
        result.worst.compare(loss, &want_loss, 2e-5, 1e-4, &format!("{mode} loss"));
        for (name, spec) in check["grads"].as_object().into_iter().flatten() {
            let key = format!("grad/{name}");
            let want = want.get(&key).ok_or_else(|| fail(format!("the case has no {key}")))?;
            let tied = self.json["tied_params"].as_object().into_iter().flatten();
            let mut names = tied.filter(|(_, of)| of.as_str() == Some(name)).map(|(alias, _)| format!("grad/{alias}"));
            let got = outputs.get(&key).or_else(|| names.find_map(|n| outputs.get(&n)));
            let got = got.ok_or_else(|| fail(format!("{mode}: no gradient of {name}")))?;
            let (atol, rtol) = (spec["atol"].as_f64().unwrap_or(0.0), spec["rtol"].as_f64().unwrap_or(0.0));
            result.checks += 1;
            result.worst.compare(got, want, atol, rtol, &format!("{mode} {key}"));
        }
        for (name, want) in want.iter().filter_map(|(k, v)| k.strip_prefix("buffer_after/").map(|n| (n, v))) {
            if let (Some(got), true) = (stepper.state(name), want.ty().dtype.is_float()) {
                result.checks += 1;
                result.worst.compare(&got, want, 1e-5, 1e-4, &format!("{mode} buffer {name}"));
            }
        }
        Ok(())
    }

    fn curve(&self, mode: &str, name: &str, curve: &Value, model: &Imported, result: &mut CaseResult) -> Result<(), Outcome> {
        let batches = read_tensors(&self.dir.join(curve["batches"].as_str().unwrap_or("batches.safetensors"))).map_err(fail)?;
        let mut stepper = self.training(model, &optimizer_text(name, &curve["hyper"]), result)?;
        let count = curve["num_batches"].as_u64().unwrap_or(1).max(1);
        let (values, tolerances) = (curve["values"].as_array(), curve["atol_per_step"].as_array());
        for (i, (want, atol)) in values.into_iter().flatten().zip(tolerances.into_iter().flatten()).enumerate() {
            let prefix = format!("{}/", i as u64 % count);
            let batch: Tensors = batches.iter().filter_map(|(k, v)| k.strip_prefix(&prefix).map(|k| (k.to_string(), v.clone()))).collect();
            let outputs = stepper.step(&batch).map_err(Outcome::from)?;
            let loss = outputs.get("loss").ok_or_else(|| fail("the step has no loss"))?;
            let want = scalar(want.as_f64().unwrap_or(f64::NAN));
            result.checks += 1;
            result.worst.compare(loss, &want, atol.as_f64().unwrap_or(0.0), 0.0, &format!("{mode} {name} step {i}"));
        }
        Ok(())
    }
}

fn optimizer_text(name: &str, hyper: &Value) -> String {
    let number = |k: &str| hyper[k].as_f64().unwrap_or(0.0);
    let mut text = format!("{name}:lr={},weight_decay={}", number("lr"), number("weight_decay"));
    if name == "sgd" {
        text += &format!(",momentum={}", number("momentum"));
    } else {
        let beta = |i: usize| hyper["betas"][i].as_f64().unwrap_or(0.0);
        text += &format!(",beta1={},beta2={},eps={}", beta(0), beta(1), number("eps"));
    }
    text
}
