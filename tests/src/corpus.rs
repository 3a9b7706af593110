//! The corpus runner: real models with the outputs, gradients and loss curves that their framework computed.
//!
//! A case is a folder with a `case.json` (format: `README.md` of the corpus). Every export of the model is imported and run, its
//! gradients are compared, and 20-step loss curves are replayed, on the reference interpreter or on a compiled program.

pub mod engine;
mod jax;
mod torch;

use crate::conformance::{Outcome, one_line};
use engine::Engine;
use girih_ir::literal::Literal;
use girih_ir::tensor::Tensor;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named tensors.
pub type Tensors = BTreeMap<String, Literal>;

/// Tolerances that our gradients of graphs with f16 or bf16 may be away. Those of the corpus are for the order of operations of the
/// framework: an intermediate result that is rounded to eight bits in another place moves a few elements in a thousand by more than one.
pub const HALVES: f64 = 2.0;

/// The result of one case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The largest error in units of its tolerance, and where it was.
    pub worst: Worst,
    /// The same for our gradients of graphs with f16 or bf16, where [`HALVES`] tolerances are allowed.
    pub halves: Worst,
    /// Dies that compute, in the largest program of the case; 0 on the interpreter.
    pub dies: usize,
    /// Seconds that compiling the largest program took.
    pub compile_seconds: f64,
    /// Checks that were made.
    pub checks: usize,
}

/// The largest error so far, relative to its tolerance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worst {
    /// Error / tolerance; 1 is the limit.
    pub ratio: f64,
    /// Where.
    pub at: String,
}

impl Worst {
    /// Takes a larger error.
    pub fn see(&mut self, ratio: f64, at: impl FnOnce() -> String) {
        if ratio > self.ratio || ratio.is_nan() {
            *self = Worst { ratio: if ratio.is_nan() { f64::INFINITY } else { ratio }, at: at() };
        }
    }

    /// Compares tensors: `|got − want| ≤ atol + rtol·|want|` in every element; equal infinities and NaN for NaN are no error.
    pub fn compare(&mut self, got: &Literal, want: &Literal, atol: f64, rtol: f64, what: &str) {
        self.compare_each(got, want, |_| atol, rtol, what);
    }

    /// The same with an absolute tolerance for every element, of the shape of `want`.
    pub fn compare_elementwise(&mut self, got: &Literal, want: &Literal, atol: &Literal, rtol: f64, what: &str) {
        let atol = Tensor::from_literal(atol).floats();
        self.compare_each(got, want, |i| atol.get(i).copied().unwrap_or(0.0), rtol, what);
    }

    fn compare_each(&mut self, got: &Literal, want: &Literal, atol: impl Fn(usize) -> f64, rtol: f64, what: &str) {
        if got.ty().shape != want.ty().shape {
            self.see(f64::INFINITY, || format!("{what} is {} instead of {}", got.ty(), want.ty()));
            return;
        }
        let (g, w) = (Tensor::from_literal(got).floats(), Tensor::from_literal(want).floats());
        for (i, (a, b)) in g.iter().zip(&w).enumerate() {
            if a == b || (a.is_nan() && b.is_nan()) {
                continue;
            }
            let ratio = (a - b).abs() / (atol(i) + rtol * b.abs() + 1e-300);
            self.see(ratio, || format!("{what}[{i}]: {a} instead of {b}"));
        }
    }
}

/// An f32 number.
fn scalar(v: f64) -> Literal {
    Tensor::scalar_float(girih_ir::types::DType::F32, v).to_literal()
}

/// Every case below the folders, sorted.
pub fn find_cases(roots: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = roots.to_vec();
    while let Some(dir) = todo.pop() {
        if dir.join("case.json").is_file() {
            found.push(dir);
        } else if let Ok(entries) = std::fs::read_dir(&dir) {
            todo.extend(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        }
    }
    found.sort();
    found
}

/// Reads a safetensors file.
pub fn read_tensors(path: &Path) -> Result<Tensors, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let dtype = dtype_of(view.dtype()).ok_or_else(|| format!("{}: {name} is {:?}", path.display(), view.dtype()))?;
        let ty = girih_ir::types::TensorType::new(dtype, view.shape());
        tensors.insert(name, Literal::new(ty, view.data().to_vec()).map_err(|e| e.to_string())?);
    }
    Ok(tensors)
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<girih_ir::types::DType> {
    use girih_ir::types::DType;
    use safetensors::Dtype;
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::I16 => DType::I16,
        Dtype::U16 => DType::U16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::U64 => DType::U64,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

/// Runs the case in a folder.
pub fn run_case(dir: &Path, engine: &Engine) -> CaseResult {
    let name = dir.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut result = CaseResult {
        name,
        outcome: Outcome::Pass,
        worst: Worst::default(),
        halves: Worst::default(),
        dies: 0,
        compile_seconds: 0.0,
        checks: 0,
    };
    let case: Value = match std::fs::read_to_string(dir.join("case.json")).map(|t| serde_json::from_str(&t)) {
        Ok(Ok(case)) => case,
        Ok(Err(e)) => {
            result.outcome = Outcome::Fail(format!("case.json: {e}"));
            return result;
        }
        Err(e) => {
            result.outcome = Outcome::Fail(format!("case.json: {e}"));
            return result;
        }
    };
    let ran = match (case["framework"].as_str(), case["kind"].as_str()) {
        (Some("pytorch"), Some("forward+grads")) => torch::run(dir, &case, engine, &mut result),
        (Some("jax"), Some("train_step")) => jax::run(dir, &case, engine, &mut result),
        (framework, kind) => Err(Outcome::Unsupported(format!("cases of {} ({})", framework.unwrap_or("?"), kind.unwrap_or("?")))),
    };
    result.outcome = match ran {
        Ok(()) if result.worst.ratio <= 1.0 && result.halves.ratio <= HALVES => Outcome::Pass,
        Ok(()) => Outcome::Fail("outside the tolerance".to_string()),
        Err(outcome) => outcome,
    };
    result
}

/// The names of the cases below a folder that pass. What the engine refuses must say so with one of the codes that begin like `refusals`.
///
/// # Panics
/// When a case fails, or is refused for another reason.
#[allow(clippy::panic)]
pub fn passing(root: PathBuf, engine: &Engine, refusals: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for case in find_cases(&[root]) {
        let result = run_case(&case, engine);
        println!("{}", line(&result));
        match &result.outcome {
            Outcome::Pass => names.push(result.name),
            Outcome::Unsupported(why) => assert!(refusals.iter().any(|code| why.contains(code)), "{}: {why}", result.name),
            Outcome::Fail(why) => panic!("{}: {why}", result.name),
        }
    }
    names
}

/// The line that the command prints for a case.
pub fn line(r: &CaseResult) -> String {
    let dies = if r.dies > 0 { format!(", {} dies, compiled in {:.2} s", r.dies, r.compile_seconds) } else { String::new() };
    let halves = match r.halves.ratio > 0.0 {
        true => format!(", half-precision gradients {:.3} of {HALVES} at {}", r.halves.ratio, r.halves.at),
        false => String::new(),
    };
    let dies = halves + &dies;
    match &r.outcome {
        Outcome::Pass => format!("PASS {}: {} checks, worst {:.3} of tolerance at {}{dies}", r.name, r.checks, r.worst.ratio, r.worst.at),
        Outcome::Fail(why) => {
            format!("FAIL {}: {}; worst {:.3} of tolerance at {}{dies}", r.name, one_line(why), r.worst.ratio, r.worst.at)
        }
        Outcome::Unsupported(why) => format!("UNSUPPORTED {}: {}", r.name, one_line(why)),
    }
}
