//! Runs cases in the layout of the ONNX backend node tests: a folder with `model.onnx` and `test_data_set_K/{input,output}_N.pb`.
//!
//! A case goes through the importer and an engine, such as the reference interpreter; its outputs must equal the stored ones within the tolerance that the
//! suite itself uses. What the importer refuses cleanly counts as skipped, everything else that does not agree as failed.

use crate::conformance::{CaseResult, Outcome, guarded};
use crate::corpus::engine::Engine;
use bytes::Bytes;
use girih_compiler::import::error::ImportError;
use girih_compiler::import::onnx::limits::ImportLimits;
use girih_compiler::import::onnx::proto::{ModelProto, TensorProto};
use girih_compiler::import::onnx::tensor::{TensorData, TensorReader};
use girih_compiler::import::onnx::{self, ImportOptions, Imported};
use girih_ir::graph::Role;
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::tensor::{Data, Tensor};
use girih_ir::types::TensorType;
use prost::Message;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Relative tolerance of float outputs.
pub const RTOL: f64 = 1e-3;
/// Absolute tolerance of float outputs.
pub const ATOL: f64 = 1e-7;

/// All folders at or below `dir` that hold a `model.onnx`, sorted.
pub fn find_cases(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut found, mut stack) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = stack.pop() {
        if dir.join("model.onnx").is_file() {
            found.push(dir);
            continue;
        }
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                stack.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Runs all cases below a folder, in order of their names.
pub fn run_all(dir: &Path, engine: &Engine) -> std::io::Result<Vec<CaseResult>> {
    let cases = find_cases(dir)?;
    let name = |case: &Path| match case.strip_prefix(dir) {
        Ok(rest) if !rest.as_os_str().is_empty() => rest.display().to_string(),
        _ => case.file_name().unwrap_or(case.as_os_str()).to_string_lossy().into_owned(),
    };
    Ok(cases
        .par_iter()
        .map(|case| CaseResult { name: name(case), outcome: guarded(|| run_case(case, engine)), note: String::new() })
        .collect())
}

/// Runs one case folder.
pub fn run_case(case: &Path, engine: &Engine) -> Outcome {
    let mut sets: Vec<PathBuf> = match std::fs::read_dir(case) {
        Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect(),
        Err(e) => return Outcome::Fail(e.to_string()),
    };
    sets.sort();
    if sets.is_empty() {
        return Outcome::Fail("there is no test_data_set".into());
    }
    for set in sets {
        match run_set(case, &set, engine) {
            Ok(()) => {}
            Err(outcome) => return outcome,
        }
    }
    Outcome::Pass
}

fn refused(e: ImportError) -> Outcome {
    match &e {
        ImportError::Unsupported { ops } => {
            let list: BTreeSet<String> = ops.iter().map(|o| format!("{}: {}", o.op, o.reason)).collect();
            Outcome::Unsupported(list.into_iter().collect::<Vec<_>>().join("; "))
        }
        other => Outcome::Fail(format!("{}: {other}", other.code())),
    }
}

fn run_set(case: &Path, set: &Path, engine: &Engine) -> Result<(), Outcome> {
    let fail = |what: String| Outcome::Fail(what);
    let bytes = std::fs::read(case.join("model.onnx")).map_err(|e| fail(e.to_string()))?;
    let limits = ImportLimits::default();
    let model = onnx::decode(bytes.into(), &limits).map_err(refused)?;
    let names = input_names(&model);
    let mut options = ImportOptions::default();
    for (k, name) in names.iter().enumerate() {
        let file = set.join(format!("input_{k}.pb"));
        if !file.is_file() {
            continue;
        }
        let literal = read_tensor(&file)?;
        options.input_types.insert(name.clone(), literal.ty().clone());
        options.values.insert(name.clone(), literal);
    }
    // The suite's initializers are constants.
    options.trainable = Some(BTreeSet::new());
    let imported = onnx::import_file(&case.join("model.onnx"), &options).map_err(refused)?;
    if imported.graph.nodes().iter().any(|n| matches!(n.op, Op::Random(_))) {
        return Err(Outcome::Unsupported("it draws random numbers, and the stored ones are another generator's".into()));
    }
    let outputs = run(&imported, &options, engine)?;
    let stored = (0..).take_while(|k| set.join(format!("output_{k}.pb")).is_file()).count();
    if stored != outputs.len() {
        return Err(fail(format!("{stored} outputs are stored, the model has {}", outputs.len())));
    }
    for (k, (output, got)) in imported.graph.outputs.iter().zip(&outputs).enumerate() {
        let file = set.join(format!("output_{k}.pb"));
        if !file.is_file() {
            return Err(fail(format!("{} is missing", file.display())));
        }
        let want = Tensor::from_literal(&read_tensor(&file)?);
        compare(got, &want).map_err(|why| fail(format!("output {k} '{}': {why}", output.name)))?;
    }
    Ok(())
}

/// Names of the inputs that the data files are for.
fn input_names(model: &ModelProto) -> Vec<String> {
    let Some(graph) = &model.graph else { return Vec::new() };
    let names = graph.input.iter().map(|i| i.name.clone().unwrap_or_default());
    names.filter(|n| !graph.initializer.iter().any(|t| t.name.as_deref() == Some(n))).collect()
}

/// Reads a tensor file.
pub fn read_tensor(file: &Path) -> Result<Literal, Outcome> {
    let fail = |why: String| Outcome::Fail(format!("{}: {why}", file.display()));
    let bytes = std::fs::read(file).map_err(|e| fail(e.to_string()))?;
    let proto = TensorProto::decode(Bytes::from(bytes)).map_err(|_| Outcome::Unsupported("data that is no tensor".into()))?;
    let limits = ImportLimits::default();
    let TensorData { dtype, dims, data } = TensorReader::new(None, &limits).read(&proto).map_err(|e| match e {
        ImportError::Unsupported { .. } => Outcome::Unsupported(e.to_string()),
        e => fail(e.to_string()),
    })?;
    Literal::new(TensorType { dtype, shape: dims }, &data[..]).map_err(|e| fail(e.to_string()))
}

fn run(imported: &Imported, options: &ImportOptions, engine: &Engine) -> Result<Vec<Tensor>, Outcome> {
    if let Engine::Compiled { .. } = engine {
        let weights: Weights = imported.initial.clone().into_iter().collect();
        let mut stepper = engine.start(TrainStep::inference(imported.graph.clone()), weights)?;
        let outputs = stepper.step(&options.values.clone().into_iter().collect())?;
        let found = imported.graph.outputs.iter().map(|o| outputs.get(&o.name).map(Tensor::from_literal));
        return found.collect::<Option<Vec<_>>>().ok_or_else(|| Outcome::Fail("an output is missing".to_string()));
    }
    let mut inputs = Vec::new();
    for input in &imported.graph.inputs {
        let value = if input.role == Role::Data { options.values.get(&input.name) } else { imported.initial.get(&input.name) };
        let value = value.ok_or_else(|| Outcome::Fail(format!("there is no data for input '{}'", input.name)))?;
        inputs.push(Tensor::from_literal(value));
    }
    interp::eval(&imported.graph, &inputs).map_err(|e| Outcome::Fail(e.to_string()))
}

/// Whether a result equals what was expected: floats within the tolerance, everything else exactly.
pub fn compare(got: &Tensor, want: &Tensor) -> Result<(), String> {
    if got.ty() != want.ty() {
        return Err(format!("is {}, not {}", got.ty(), want.ty()));
    }
    match (got.data(), want.data()) {
        (Data::Float(got), Data::Float(want)) => {
            let near = |g: f64, w: f64| w.is_finite() && (g - w).abs() <= ATOL + RTOL * w.abs();
            let agree = |g: f64, w: f64| g == w || g.is_nan() && w.is_nan() || near(g, w);
            match got.iter().zip(want).position(|(g, w)| !agree(*g, *w)) {
                None => Ok(()),
                Some(i) => Err(format!("element {i} is {}, not {}", got[i], want[i])),
            }
        }
        _ => match got.ints().iter().zip(want.ints()).position(|(g, w)| *g != w) {
            None => Ok(()),
            Some(i) => Err(format!("element {i} is {}, not {}", got.ints()[i], want.ints()[i])),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::types::DType;

    #[test]
    fn tolerance_is_relative_and_knows_nan() {
        let t = |v: &[f64]| Tensor::new_float(TensorType::new(DType::F32, [v.len()]), v.to_vec());
        assert!(compare(&t(&[1.0, f64::NAN, f64::INFINITY]), &t(&[1.0005, f64::NAN, f64::INFINITY])).is_ok());
        assert!(compare(&t(&[1.0]), &t(&[1.002])).is_err());
        assert!(compare(&t(&[1.0]), &t(&[f64::INFINITY])).is_err());
        assert!(compare(&t(&[1.0]), &t(&[1.0, 1.0])).is_err());
    }
}
