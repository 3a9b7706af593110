//! Programs whose packages all run the same streams, each on its rows of the batch: executed replica by replica against the whole step.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::pipeline::{CompileError, CompileOptions, Microbatches, ReplicaOption, compile};
use girih_ir::check::mutate::mutants;
use girih_ir::check::{Fault, check};
use girih_ir::graph::Graph;
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::program::codec::{Codec, ProgramFile, read, write_with};
use girih_ir::program::{Instr, Program, parse_program};
use girih_ir::step::{self, TrainStep, Weights};
use girih_ir::target::Target;
use girih_ir::tensor::Tensor;
use girih_ir::types::TensorType;
use girih_runtime::simulate::simulate;
use girih_runtime::{Inputs, RuntimeOptions, Session};
use girih_tests::corpus;
use girih_tests::corpus::engine::{Engine, EngineArgs};
use std::path::{Path, PathBuf};

/// A machine of 2×3 packages of 2×2 dies.
fn machine() -> Target {
    let mut text = Target::builtin("dojo-tray").unwrap().to_toml();
    text = text.replace("name = \"dojo-tray\"", "name = \"six\"");
    let mut t = Target::from_toml(&text).unwrap().with_mesh(4, 6).unwrap();
    let tile = t.package.tile.as_mut().unwrap();
    (tile.rows, tile.cols) = (2, 2);
    t
}

/// Two layers with a batch norm over the whole batch between them, momentum, and an output with one row for each of the batch.
const NORMED: &str = "step {
  param \"w1\" input 2 -> output 2
  param \"w2\" input 3 -> output 3
  state \"m2\" input 4 -> output 4
  loss output 0
  seed 0
}
graph @normed(%0: f32[12,6] input \"x\", %1: f32[12,3] input \"y\", %2: f32[6,8] param \"w1\", %3: f32[8,3] param \"w2\", %4: f32[8,3] state \"m2\") {
  %5 = dot_general %0, %2 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]} : f32[12,8]
  %6 = reduce %5 {monoid = sum, dims = [0]} : f32[8]
  %7 = constant {value = dense<f32[] 0.083333336>}
  %8 = broadcast %7 {shape = [8], dims = []}
  %9 = mul %6, %8
  %10 = broadcast %9 {shape = [12,8], dims = [1]}
  %11 = sub %5, %10
  %12 = tanh %11
  %13 = dot_general %12, %3 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]} : f32[12,3]
  %14 = sub %13, %1
  %15 = mul %14, %14
  %16 = reduce %15 {monoid = sum, dims = [0, 1]} : f32[]
  %17 = mul %16, %7
  %18 = broadcast %7 {shape = [12,3], dims = []}
  %19 = mul %14, %18
  %20 = dot_general %12, %19 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]} : f32[8,3]
  %21 = add %4, %20
  %22 = sub %3, %21
  %23 = dot_general %19, %3 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [1]} : f32[12,8]
  %24 = mul %12, %12
  %25 = mul %23, %24
  %26 = dot_general %0, %25 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]} : f32[6,8]
  %27 = sub %2, %26
  return %17 \"loss\", %13 \"logits\", %27 \"w1\", %22 \"w2\", %21 \"m2\"
}";

fn normed() -> TrainStep {
    step::parse_step(NORMED).unwrap_or_else(|e| panic!("{e}"))
}

fn noise(seed: u64, ty: &TensorType) -> Literal {
    let mut s = seed;
    let mut next = || {
        s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((s >> 40) as f64 / (1u64 << 24) as f64 - 0.5) * 0.8
    };
    Tensor::new_float(ty.clone(), (0..ty.elements()).map(|_| next()).collect()).to_literal()
}

fn program(options: &CompileOptions) -> Program {
    compile(normed(), &machine(), options).unwrap().0
}

fn replicas(n: usize) -> CompileOptions {
    CompileOptions { replicas: ReplicaOption::Exactly(n), ..CompileOptions::default() }
}

/// Three steps: losses, logits of the last one, and the state.
fn run(program: Program, threads: usize) -> (Vec<f64>, Literal, Weights) {
    let step = normed();
    let weights: Weights = step.state.iter().zip(1..).map(|(s, i)| (s.name.clone(), noise(i, step.state_type(s)))).collect();
    let mut session = Session::new(check(program).unwrap_or_else(|e| panic!("{e}")), RuntimeOptions { threads, isa: None }).unwrap();
    session.init(&weights).unwrap();
    let (mut losses, mut logits) = (Vec::new(), None);
    for k in 0..3 {
        let inputs: Inputs = session.inputs().into_iter().map(|(n, ty)| (n.to_string(), noise(100 + k, ty))).collect();
        let outputs = session.step(&inputs).unwrap();
        losses.push(outputs.loss().unwrap());
        logits = outputs.get("logits");
    }
    (losses, logits.unwrap(), session.all_state().unwrap())
}

fn close(a: &Literal, b: &Literal, what: &str) {
    assert_eq!(a.ty(), b.ty(), "{what}");
    for (x, y) in Tensor::from_literal(a).floats().into_iter().zip(Tensor::from_literal(b).floats()) {
        assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "{what}: {x} instead of {y}");
    }
}

#[test]
fn replicas_do_what_the_whole_step_does_with_any_number_of_threads() {
    let whole = run(program(&CompileOptions { replicas: ReplicaOption::Off, ..CompileOptions::default() }), 1);
    for n in [2, 4, 6] {
        let made = program(&replicas(n));
        assert_eq!(made.replica_count(), n);
        let combines = made.streams.iter().flatten().filter(|i| matches!(i, Instr::AllReduce { .. })).count();
        assert!(combines > 0, "the batch norm and the gradients are combined");
        let first = run(made.clone(), 1);
        for (a, b) in first.0.iter().zip(&whole.0) {
            assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{:?} instead of {:?}", first.0, whole.0);
        }
        close(&first.1, &whole.1, "logits");
        whole.2.iter().for_each(|(name, value)| close(&first.2[name], value, name));
        for threads in [2, 3] {
            assert_eq!(run(made.clone(), threads), first, "{n} replicas on {threads} threads");
        }
    }
}

#[test]
fn microbatches_refuse_what_replicas_can_do() {
    let options = CompileOptions { microbatches: Microbatches::Exactly(2), ..CompileOptions::default() };
    let refused = compile(normed(), &Target::builtin("dojo-tile").unwrap(), &options).unwrap_err();
    assert!(matches!(refused, CompileError::Slices(_)) && refused.to_string().starts_with("E0834"), "{refused}");
}

#[test]
fn text_and_container_round_trip() {
    let made = program(&replicas(4));
    let text = made.to_string();
    assert!(text.contains("\nreplicas 2 by 2 on ") && text.contains("\nsliced input 0 along 0"), "{text}");
    let again = parse_program(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again, made);
    assert_eq!(again.to_string(), text);
    for codec in [Codec::Bincode, Codec::Postcard] {
        let file = ProgramFile { program: made.clone(), weights: Weights::new(), info: Vec::new() };
        let bytes = write_with(&file, codec).unwrap();
        assert_eq!(read(&bytes).unwrap().program, made);
    }
}

/// The step of a replicated program with its combinations left out.
fn without_combining(step: &TrainStep) -> TrainStep {
    let drop = |out: &mut Graph, node: &girih_ir::graph::Node, operands: &[girih_ir::graph::ValueId]| match &node.op {
        Op::AllReduce(_) => Ok(operands[0]),
        op => out.add(op.clone(), operands),
    };
    TrainStep { graph: step.graph.rewritten(drop).unwrap().0, ..step.clone() }
}

#[test]
fn what_is_not_combined_is_refused() {
    let made = program(&replicas(4));
    let inner = CompileOptions { replicas: ReplicaOption::Off, ..CompileOptions::default() };
    let (mut wrong, _) = compile(without_combining(&made.step), &made.target, &inner).unwrap();
    wrong.replicas = made.replicas.clone();
    let report = check(wrong.clone()).unwrap_err();
    assert!(report.findings.iter().any(|f| f.fault == Fault::Partial && f.why.contains("not combined over the replicas")), "{report}");
    // Alone it is a sound program of one replica's rows.
    wrong.replicas = None;
    assert!(check(wrong).is_ok());
}

#[test]
fn mutants_are_refused() {
    let made = program(&replicas(4));
    let all = mutants(&made, 7, 300);
    let survivors: Vec<&str> = all.iter().filter(|m| check(m.program.clone()).is_ok()).map(|m| m.what.as_str()).collect();
    let combining = all.iter().filter(|m| m.what.contains("own part")).count();
    assert!(combining > 0, "some mutants keep a replica's own part");
    assert!(survivors.iter().all(|s| !s.contains("own part") && !s.contains("combiner")), "{survivors:?}");
    assert!(survivors.len() * 10 <= all.len(), "{} of {}: {survivors:?}", survivors.len(), all.len());
}

#[test]
fn structure_is_checked() {
    let made = program(&replicas(4));
    let damaged = |change: &dyn Fn(&mut Program)| {
        let mut p = made.clone();
        change(&mut p);
        check(p).unwrap_err().to_string()
    };
    assert!(damaged(&|p| p.replicas = None).contains("E0600"));
    assert!(damaged(&|p| p.replicas.as_mut().unwrap().rows = 3).contains("E0600"));
    assert!(damaged(&|p| p.replicas.as_mut().unwrap().inputs.push((2, 0))).contains("not state"));
    assert!(damaged(&|p| p.replicas.as_mut().unwrap().outputs.clear()).contains("not combined"));
    assert!(damaged(&|p| p.target = Target::builtin("dojo-tile").unwrap()).contains("E0600"));
}

#[test]
fn the_simulator_counts_every_replica() {
    let made = program(&replicas(6));
    let report = simulate(&made).unwrap().report;
    assert_eq!((report.replicas, report.target.as_str()), (6, "six"));
    let text = report.to_string();
    assert!(text.contains(&format!("{} with code ({} in each of 6 replicas)", 6 * report.dies.len(), report.dies.len())), "{text}");
    let alone = {
        let mut p = made.clone();
        p.replicas = None;
        simulate(&p).unwrap().report
    };
    assert!(report.makespan > alone.makespan && report.model_flops == 6 * alone.model_flops);
    assert!((report.energy.compute - 6.0 * alone.energy.compute).abs() < 1e-12 * report.energy.compute.max(1e-9) + 1e-15);
}

/// The names of the cases that pass in replicas on the dies of a tray's packages.
fn passing(root: PathBuf, parts: usize) -> Vec<String> {
    let args = EngineArgs { target: "dojo-tray".into(), replicas: Some(parts), threads: 2, ..EngineArgs::default() };
    let engine = Engine::new(&args).unwrap();
    corpus::passing(root, &engine, &["E083"])
}

#[test]
fn committed_cases_pass_in_replicas() {
    let names = passing(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/jax"), 2);
    assert!(!names.is_empty());
}
