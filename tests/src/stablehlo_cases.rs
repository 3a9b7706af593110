//! Runs StableHLO files that check themselves: the reference interpreter's chunks and the module tests of the specification.
//!
//! A file is split at lines that begin with `// -----`. Every function of a chunk that has checks (`check.expect_*`, or a `custom_call`
//! of that name) is converted and run, and each check must hold. A chunk without checks shows what its main function prints, which its
//! results must be, see [`printed`]; or it returns nothing, and then it has to be imported. A chunk that the importer refuses is skipped
//! only for a reason of the short list below that its text shows; a chunk that expects an error passes when it is refused.
//!
//! `expect_close` counts the numbers between two floats. That is a bound for functions; a sum whose terms cancel has no such bound, because
//! StableHLO leaves the order of its additions open. Where a float op that adds is involved, an element is therefore also close when it
//! differs by no more than that many steps of the largest number of the tensor. `expect_almost_eq` allows an absolute difference, which
//! for large numbers is less than their last digits; there [`LAST_DIGITS`] steps of the number itself are near as well. Cases that need
//! one of the two say so. A result that the suite itself does not check (`RUN-DISABLED`) is skipped when it differs.

use crate::conformance::{CaseResult, Outcome, guarded};
use crate::corpus::Tensors;
use crate::corpus::engine::Engine;
use crate::printed;
use girih_compiler::import::stablehlo::convert::{Check, CheckKind, Imported, convert};
use girih_compiler::import::stablehlo::module::{Block, Limits, Module, ModuleAttr, Operation};
use girih_compiler::import::stablehlo::{StablehloOptions, default_entry, read};
use girih_ir::graph::{Graph, GraphOutput, Role};
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::tensor::{Data, Tensor};
use girih_ir::types::{DType, TensorType};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A part of a file that stands alone.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Path of the file, and `#` with the number of the chunk when the file has several.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Every `.mlir` file at or below a path, sorted.
pub fn find_files(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut found, mut stack) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                stack.push(entry?.path());
            }
        } else if path.extension().is_some_and(|e| e == "mlir") || path == root {
            std::fs::metadata(&path)?;
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The chunks of a text. Those with nothing but comments are dropped; the others keep their numbers, from 1.
pub fn chunks(name: &str, text: &str) -> Vec<Chunk> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line.trim_start().starts_with("// -----") {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let several = parts.len() > 1;
    let numbered = parts.into_iter().enumerate().filter(|(_, text)| !code(text).trim().is_empty());
    numbered.map(|(i, text)| Chunk { name: if several { format!("{name}#{}", i + 1) } else { name.to_string() }, text }).collect()
}

/// The text without its comments. A `//` inside quotes is no comment.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let bytes = line.as_bytes();
        let end = (0..bytes.len()).find(|i| {
            quoted ^= bytes[*i] == b'"';
            !quoted && bytes[*i..].starts_with(b"//")
        });
        out.push_str(&line[..end.unwrap_or(line.len())]);
        out.push('\n');
    }
    out
}

/// Runs all chunks of all files at or below a path, in the order of their names.
pub fn run_all(root: &Path, engine: &Engine) -> Result<Vec<CaseResult>, String> {
    let files = find_files(root).map_err(|e| format!("cannot read {}: {e}", root.display()))?;
    let name = |file: &Path| match file.strip_prefix(root) {
        Ok(rest) if !rest.as_os_str().is_empty() => rest.display().to_string(),
        _ => file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned(),
    };
    let run_file = |file: &PathBuf| match std::fs::read_to_string(file) {
        Ok(text) => {
            let run = |c: Chunk| {
                let (outcome, note) = run_chunk(&c.text, engine);
                CaseResult { name: c.name, outcome, note }
            };
            chunks(&name(file), &text).into_iter().map(run).collect()
        }
        Err(e) => vec![CaseResult { name: name(file), outcome: Outcome::Fail(e.to_string()), note: String::new() }],
    };
    Ok(files.par_iter().map(run_file).collect::<Vec<Vec<CaseResult>>>().concat())
}

/// Runs one chunk; also returns what there is to say about a pass.
pub fn run_chunk(text: &str, engine: &Engine) -> (Outcome, String) {
    let mut note = String::new();
    let outcome = guarded(|| run_text(text, engine, &mut note));
    (outcome, note)
}

fn run_text(text: &str, engine: &Engine, note: &mut String) -> Outcome {
    if text.contains("expected-error") {
        return if refused(text) { Outcome::Pass } else { Outcome::Fail("it is accepted, but an error is expected".to_string()) };
    }
    match checked(text, engine) {
        Ok(said) => {
            *note = said;
            Outcome::Pass
        }
        Err(outcome) => outcome,
    }
}

/// Whether the text or a function of it is refused.
fn refused(text: &str) -> bool {
    let Ok(module) = read(text.as_bytes(), &Limits::default()) else { return true };
    module.functions.keys().any(|name| convert(&module, name, &StablehloOptions::default()).is_err())
}

/// Runs the checks of a chunk; returns what there is to say about them.
fn checked(text: &str, engine: &Engine) -> Result<String, Outcome> {
    let skip_or_fail = |why: String| match skip_reason(&code(text)) {
        Some(reason) => Outcome::Unsupported(reason.to_string()),
        None => Outcome::Fail(why),
    };
    let module = read(text.as_bytes(), &Limits::default()).map_err(|e| skip_or_fail(format!("{}: {e}", e.code)))?;
    let entries: Vec<&str> = module.functions.values().filter(|f| has_check(&f.body)).map(|f| f.name.as_str()).collect();
    let wrong = |entry: &str, e: Wrong| match e {
        Wrong::Refused(why) => skip_or_fail(why),
        Wrong::Result(_) if text.contains("RUN-DISABLED") => Outcome::Unsupported("disabled by the suite".to_string()),
        Wrong::Result(why) => Outcome::Fail(format!("@{entry}: {why}")),
    };
    if entries.is_empty() {
        let Some(main) = default_entry(&module) else { return Err(skip_or_fail("there is no function".to_string())) };
        return run_printed(&module, main, text, engine).map(str::to_string).map_err(|e| wrong(main, e));
    }
    let mut notes = BTreeSet::new();
    for entry in entries {
        notes.extend(run_entry(&module, entry, engine).map_err(|e| wrong(entry, e))?);
    }
    Ok(notes.into_iter().collect::<Vec<_>>().join("; "))
}

/// Why a function did not pass.
enum Wrong {
    /// It was not imported.
    Refused(String),
    /// It does not run, or a check does not hold.
    Result(String),
}

fn run_entry(module: &Module, entry: &str, engine: &Engine) -> Result<Vec<&'static str>, Wrong> {
    let options = StablehloOptions { checks: true, ..StablehloOptions::default() };
    let imported = convert(module, entry, &options).map_err(|e| Wrong::Refused(format!("{}: {e}", e.code())))?;
    if imported.checks.is_empty() {
        return Err(Wrong::Result("its checks were lost".to_string()));
    }
    if !imported.graph.inputs.is_empty() {
        return Err(Wrong::Result("it has checks and takes arguments".to_string()));
    }
    let outputs = interp::eval(&imported.graph, &[]).map_err(|e| Wrong::Result(e.to_string()))?;
    let checked: Vec<usize> = imported.checks.iter().map(|c| c.got).collect();
    let got = results(&imported, &checked, &[], &outputs, engine).map_err(Wrong::Result)?;
    let adds = imported.graph.nodes().iter().any(|n| ADDING.contains(&n.op.name()));
    let mut notes = Vec::new();
    for (check, got) in imported.checks.iter().zip(&got) {
        let want = &outputs[check.want];
        match holds(check, got, want) {
            Ok(()) => {}
            Err(_) if adds && holds_for_sums(check, got, want) => notes.push("sums agree to the last digits of the largest number"),
            Err(_) if holds_to_the_last_digits(check, got, want) => {
                notes.push("numbers too large for the tolerance agree to the last digits")
            }
            Err(why) => return Err(Wrong::Result(format!("{}: {why}", check.place))),
        }
    }
    Ok(notes)
}

/// A function without checks: its results must be those that the file shows. Returns what there is to say.
fn run_printed(module: &Module, entry: &str, text: &str, engine: &Engine) -> Result<&'static str, Wrong> {
    let refused = |e: String| Wrong::Refused(e);
    let imported = convert(module, entry, &StablehloOptions::default()).map_err(|e| refused(format!("{}: {e}", e.code())))?;
    let want = match printed::results(text) {
        None if imported.graph.outputs.is_empty() => return Ok("it has no results; it is imported"),
        None => return Err(refused("there is no check".to_string())),
        Some(want) => want.map_err(Wrong::Result)?,
    };
    let Some(given) = printed::given(text) else { return Err(refused("the arguments are in no known form".to_string())) };
    let given = given.map_err(Wrong::Result)?;
    let outputs = interp::eval(&imported.graph, &given).map_err(|e| Wrong::Result(e.to_string()))?;
    let all: Vec<usize> = (0..outputs.len()).collect();
    let got = results(&imported, &all, &given, &outputs, engine).map_err(Wrong::Result)?;
    if got.len() != want.len() {
        return Err(Wrong::Result(format!("{} results are shown, and there are {}", want.len(), got.len())));
    }
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let check = Check { kind: CheckKind::Exact, got: i, want: i, place: format!("result {i}") };
        holds(&check, got, want).map_err(|why| Wrong::Result(format!("{}: {why}", check.place)))?;
    }
    Ok("the results are those that the file shows")
}

/// Results of a graph, of which the interpreter has found all: by the engine.
fn results(imported: &Imported, which: &[usize], given: &[Tensor], found: &[Tensor], engine: &Engine) -> Result<Vec<Tensor>, String> {
    match engine {
        Engine::Interpreter => Ok(which.iter().map(|k| found[*k].clone()).collect()),
        Engine::Compiled { .. } => compiled(imported, which, given, engine),
    }
}

/// Ops that add many numbers.
const ADDING: [&str; 7] = ["reduce", "reduce_window", "convolution", "dot_general", "scatter", "select_and_scatter", "cumulative"];

/// Results as a compiled program makes them. Constants of one dimension or more become inputs, so that the program computes
/// and nothing is folded away.
fn compiled(imported: &Imported, which: &[usize], given: &[Tensor], engine: &Engine) -> Result<Vec<Tensor>, String> {
    let mut graph = imported.graph.clone();
    let names: Vec<String> = (0..which.len()).map(|k| format!("got{k}")).collect();
    let value = |k: &usize| imported.graph.outputs[*k].value;
    graph.outputs = which.iter().zip(&names).map(|(k, n)| GraphOutput { name: n.clone(), value: value(k) }).collect();
    let mut inputs: Tensors = graph.inputs.iter().zip(given).map(|(i, t)| (i.name.clone(), t.to_literal())).collect();
    let lifted = graph.rewritten(|out: &mut Graph, node, operands| match &node.op {
        Op::Constant(c) if c.value.ty().rank() > 0 => {
            let name = format!("constant{}", out.inputs.len());
            inputs.insert(name.clone(), c.value.clone());
            Ok(out.input(name, c.value.ty().clone(), Role::Data))
        }
        op => out.add(op.clone(), operands),
    });
    let (graph, _) = lifted.map_err(|e| e.to_string())?;
    let mut stepper = engine.start(TrainStep::inference(graph), Weights::new()).map_err(|e| e.to_string())?;
    let outputs = stepper.step(&inputs).map_err(|e| e.to_string())?;
    names.iter().map(|n| outputs.get(n).map(Tensor::from_literal).ok_or_else(|| format!("there is no {n}"))).collect()
}

fn is_check(op: &Operation) -> bool {
    let called = op.attrs.get("call_target_name").is_some_and(|a| match a {
        ModuleAttr::Text(name) | ModuleAttr::Symbol(name) => name.starts_with("check."),
        _ => false,
    });
    op.name.starts_with("check.") || called
}

fn has_check(block: &Block) -> bool {
    block.ops.iter().any(|op| is_check(op) || op.regions.iter().any(has_check))
}

/// Why a chunk that is refused need not be supported.
fn skip_reason(code: &str) -> Option<&'static str> {
    let any = |words: &[&str]| words.iter().any(|w| code.contains(w));
    let several = |key: &str| code.split(key).skip(1).any(|rest| number(rest).is_some_and(|n| n > 1));
    if any(&["interpreter.run_parallel"]) || several("num_partitions = ") || several("num_replicas = ") {
        return Some("multi-process");
    }
    if any(&["stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv"]) {
        return Some("host I/O");
    }
    if any(&["<?x", "x?x", "<?>", "bounded"]) {
        return Some("dynamic shape");
    }
    if any(&["!quant."]) {
        return Some("quantized");
    }
    if code.split(|c: char| !c.is_ascii_alphanumeric() || c == 'x').any(|w| w == "tf32") {
        return Some("element type");
    }
    (!any(&["check."])).then_some("no check")
}

fn number(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a check holds. NaN equals NaN everywhere; integers are equal or not.
pub fn holds(check: &Check, got: &Tensor, want: &Tensor) -> Result<(), String> {
    if got.ty() != want.ty() {
        return Err(format!("is {}, not {}", got.ty(), want.ty()));
    }
    let wrong = |i: usize, g: &dyn std::fmt::Display, w: &dyn std::fmt::Display| Err(format!("element {i} is {g}, not {w}"));
    match (got.data(), want.data()) {
        (Data::Float(g), Data::Float(w)) => {
            let near = |i: usize| match check.kind {
                CheckKind::Exact => false,
                CheckKind::Near(tolerance) => g[i].is_finite() && w[i].is_finite() && (g[i] - w[i]).abs() <= tolerance,
                CheckKind::Ulps(most) => g[i].is_finite() && w[i].is_finite() && ulps(got, i).abs_diff(ulps(want, i)) <= u128::from(most),
            };
            let agree = |i: &usize| g[*i] == w[*i] || g[*i].is_nan() && w[*i].is_nan() || near(*i);
            (0..g.len()).find(|i| !agree(i)).map_or(Ok(()), |i| wrong(i, &g[i], &w[i]))
        }
        _ => {
            let (g, w) = (got.ints(), want.ints());
            (0..g.len()).find(|i| g[*i] != w[*i]).map_or(Ok(()), |i| wrong(i, &g[i], &w[i]))
        }
    }
}

/// Whether sums agree to the last digits of the largest number of the tensor.
fn holds_for_sums(check: &Check, got: &Tensor, want: &Tensor) -> bool {
    let CheckKind::Ulps(most) = check.kind else { return false };
    let (Data::Float(g), Data::Float(w)) = (got.data(), want.data()) else { return false };
    let largest = w.iter().copied().filter(|w| w.is_finite()).fold(0.0, |a: f64, w| a.max(w.abs()));
    let at = ulps(&Tensor::scalar_float(want.dtype(), largest), 0);
    let step = largest - below(want.dtype(), at);
    let agree = |(g, w): (&f64, &f64)| g == w || g.is_nan() && w.is_nan() || (g - w).abs() <= step * f64::from(most);
    got.ty() == want.ty() && g.iter().zip(w).all(agree)
}

/// Steps of a number that are near as well, where an absolute tolerance is asked for.
const LAST_DIGITS: u32 = 8;

/// Whether numbers that are too far from each other for an absolute tolerance agree to their last digits.
fn holds_to_the_last_digits(check: &Check, got: &Tensor, want: &Tensor) -> bool {
    let (CheckKind::Near(_), true) = (check.kind, want.dtype().is_float() && got.ty() == want.ty()) else { return false };
    let digits = Check { kind: CheckKind::Ulps(LAST_DIGITS), ..check.clone() };
    (0..want.floats().len()).all(|i| {
        let one = |t: &Tensor| Tensor::scalar_float(t.dtype(), t.floats()[i]);
        holds(check, &one(got), &one(want)).is_ok() || holds(&digits, &one(got), &one(want)).is_ok()
    })
}

/// The number of a float type before the positive one at that place.
fn below(dtype: DType, at: i128) -> f64 {
    let bits = u64::try_from(at.max(1) - 1).unwrap_or(0).to_le_bytes();
    let literal = Literal::new(TensorType::scalar(dtype), bits[..dtype.size()].to_vec());
    literal.map_or(0.0, |l| Tensor::from_literal(&l).floats()[0])
}

/// The number of an element of a float tensor among all numbers of its type, counted from zero.
fn ulps(tensor: &Tensor, i: usize) -> i128 {
    let literal = Tensor::scalar_float(tensor.dtype(), tensor.floats()[i]).to_literal();
    let bits = literal.bytes().iter().rev().fold(0u64, |bits, b| bits << 8 | u64::from(*b));
    let sign = 1u64 << (8 * literal.bytes().len() - 1);
    if bits & sign == 0 { i128::from(bits) } else { -i128::from(bits & !sign) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_and_numbered() {
        let text = "// RUN: x\n// -----\nfunc.func @a() {}\n// -----\n\n// only words\n  // -----\nfunc.func @b() {} // end\n";
        let found = chunks("f.mlir", text);
        assert_eq!(found.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["f.mlir#2", "f.mlir#4"]);
        assert_eq!(chunks("f.mlir", "func.func @a() {}")[0].name, "f.mlir");
    }

    #[test]
    fn reasons_are_read_from_code_only() {
        let reason = |text: &str| skip_reason(&code(text));
        assert_eq!(reason("// complex<f32>\ncheck.expect_eq \"//\" // x"), None);
        assert_eq!(reason("check.expect_eq %0 : tensor<complex<f32>>"), None);
        assert_eq!(reason("check.expect_eq %0 : tensor<4xi4>"), None);
        assert_eq!(reason("check.expect_eq %0 : tensor<4xtf32>"), Some("element type"));
        assert_eq!(reason("check.expect_eq %0 : tensor<?x4xf32>"), Some("dynamic shape"));
        assert_eq!(reason("module attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 2 : i32} check."), Some("multi-process"));
        assert_eq!(reason("func.func @main() {}"), Some("no check"));
    }

    #[test]
    fn checks_are_as_strict_as_they_say() {
        let t = |d: DType, v: &[f64]| Tensor::new_float(TensorType::new(d, [v.len()]), v.to_vec());
        let kind = |kind: CheckKind| Check { kind, got: 0, want: 1, place: String::new() };
        let one = t(DType::F16, &[1.0, f64::NAN, -0.0]);
        let third = t(DType::F16, &[1.0 + 3.0 / 1024.0, f64::NAN, 0.0]);
        let fourth = t(DType::F16, &[1.0 + 4.0 / 1024.0, f64::NAN, 0.0]);
        assert!(holds(&kind(CheckKind::Exact), &one, &one).is_ok());
        assert!(holds(&kind(CheckKind::Exact), &one, &third).is_err());
        assert!(holds(&kind(CheckKind::Ulps(3)), &one, &third).is_ok());
        assert!(holds(&kind(CheckKind::Ulps(3)), &one, &fourth).is_err());
        assert!(holds(&kind(CheckKind::Near(0.003)), &one, &third).is_ok());
        assert!(holds(&kind(CheckKind::Near(0.003)), &one, &fourth).is_err());
        let infinite = t(DType::F16, &[f64::INFINITY, f64::NAN, 0.0]);
        assert!(holds(&kind(CheckKind::Ulps(3)), &t(DType::F16, &[65504.0, f64::NAN, 0.0]), &infinite).is_err());
        assert_eq!(ulps(&t(DType::F32, &[-1e-45]), 0), -1);
    }

    #[test]
    fn sums_are_as_near_as_the_largest_number_allows() {
        let t = |v: &[f64]| Tensor::new_float(TensorType::new(DType::F32, [v.len()]), v.to_vec());
        let check = Check { kind: CheckKind::Ulps(3), got: 0, want: 1, place: String::new() };
        let step = f64::from(f32::EPSILON);
        let want = t(&[0.001, 1.5]);
        assert!(holds(&check, &t(&[0.001 + 3.0 * step, 1.5]), &want).is_err());
        assert!(holds_for_sums(&check, &t(&[0.001 + 3.0 * step, 1.5]), &want));
        assert!(!holds_for_sums(&check, &t(&[0.001 + 4.0 * step, 1.5]), &want));
        assert!(!holds_for_sums(&check, &t(&[f64::NAN, 1.5]), &want));
        assert!(!holds_for_sums(&Check { kind: CheckKind::Exact, ..check }, &want, &t(&[0.002, 1.5])));
    }

    #[test]
    fn absolute_tolerances_know_how_coarse_large_numbers_are() {
        let t = |v: &[f64]| Tensor::new_float(TensorType::new(DType::F32, [v.len()]), v.to_vec());
        let check = Check { kind: CheckKind::Near(0.001), got: 0, want: 1, place: String::new() };
        let step = 0.000244140625;
        assert!(holds(&check, &t(&[1.0005, 3136.0 + 6.0 * step]), &t(&[1.0, 3136.0])).is_err());
        assert!(holds_to_the_last_digits(&check, &t(&[1.0005, 3136.0 + 6.0 * step]), &t(&[1.0, 3136.0])));
        assert!(!holds_to_the_last_digits(&check, &t(&[1.0005, 3136.0 + 9.0 * step]), &t(&[1.0, 3136.0])));
        assert!(!holds_to_the_last_digits(&check, &t(&[1.002, 3136.0]), &t(&[1.0, 3136.0])));
    }
}
