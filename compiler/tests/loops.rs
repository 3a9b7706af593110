//! Loops through the whole pipeline: they stay loops, their slots stay in place, and the checker accepts every stream.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::fuse::fuse;
use girih_compiler::optimize::{OptimizeOptions, optimize};
use girih_compiler::pipeline::{CompileOptions, compile};
use girih_ir::graph::loops::LoopNest;
use girih_ir::interp::eval;
use girih_ir::program::{Instr, Program};
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use girih_ir::tensor::Tensor;
use girih_ir::text::parse_graph;
use girih_ir::types::DType;

/// A scan: rows of `xs` are added to a state that is multiplied by an invariant matrix, and each state is stacked.
const SCAN: &str = "graph @scan(%0: f32[24,16] input \"xs\", %1: f32[16,16] input \"w\", %2: f32[16] input \"h\") {
  %3 = constant {value = dense<f32[] 0>}
  %4 = broadcast %3 {dims = [], shape = [24,16]}
  %5 = carry %2 {loop_id = 0, slot = 0}
  %6 = carry %4 {loop_id = 0, slot = 1}
  %7 = loop_index {loop_id = 0}
  %8 = constant {value = dense<i64[] 0>}
  %9 = tanh %1
  %10 = dynamic_slice %0, %7, %8 {sizes = [1,16]}
  %11 = reshape %10 {shape = [16]}
  %12 = dot_general %5, %9 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
  %13 = add %12, %11
  %14 = tanh %13
  %15 = reshape %14 {shape = [1,16]}
  %16 = dynamic_update_slice %6, %15, %7, %8
  %17 = repeat %5, %6, %14, %16 {loop_id = 0, trips = 24}
  %18 = proj %17 {index = 0}
  %19 = proj %17 {index = 1}
  return %18 \"last\", %19 \"all\"
}";

/// Collatz steps: a predicate that depends on the data, and two slots that swap.
const WHILE: &str = "graph @collatz(%0: i32[] input \"n\", %1: f32[4] input \"a\", %2: f32[4] input \"b\") {
  %3 = constant {value = dense<i32[] 1>}
  %4 = constant {value = dense<i32[] 2>}
  %5 = constant {value = dense<i32[] 3>}
  %6 = constant {value = dense<i32[] 0>}
  %7 = carry %0 {loop_id = 0, slot = 0}
  %8 = carry %1 {loop_id = 0, slot = 1}
  %9 = carry %2 {loop_id = 0, slot = 2}
  %10 = ne %7, %3
  %11 = rem %7, %4
  %12 = eq %11, %6
  %13 = div %7, %4
  %14 = mul %7, %5
  %15 = add %14, %3
  %16 = select %12, %13, %15
  %17 = while %10, %7, %8, %9, %16, %9, %8 {loop_id = 0}
  %18 = proj %17 {index = 0}
  %19 = proj %17 {index = 1}
  %20 = proj %17 {index = 2}
  return %18 \"one\", %19 \"x\", %20 \"y\"
}";

fn lower(text: &str, target: &str, dies: usize) -> Program {
    let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
    let target = Target::builtin(target).unwrap();
    let options = CompileOptions { dies: Some(dies), optimize: None, ..CompileOptions::default() };
    compile(TrainStep::inference(graph), &target, &options).unwrap().0
}

/// The instructions of the first die between `loop` and `end_loop`, by name.
fn body(program: &Program) -> Vec<&'static str> {
    let stream = &program.streams[program.dies[0].stream.index()];
    let at = |name: &str| stream.iter().position(|i| i.name() == name).unwrap();
    stream[at("loop") + 1..at("end_loop")].iter().map(Instr::name).collect()
}

#[test]
fn invariants_leave_a_loop_and_its_slots_stay_in_place() {
    // On one die nothing but the work of an iteration is left: no copies, no loads, no constants, no tanh of the matrix.
    let program = lower(SCAN, "host", 1);
    let copies = body(&program).iter().filter(|n| **n == "copy").count();
    assert_eq!(body(&program).len() - copies, 4, "{:?}", body(&program));
    let stream = &program.streams[0];
    for i in stream {
        if let Instr::DynamicUpdateSlice { out, operand, .. } = i {
            assert_eq!(out, operand, "the stack is updated in place");
        }
    }
    assert!(stream.iter().any(|i| matches!(i, Instr::Loop { trips: Some(24), index: Some(_), .. })));
}

#[test]
fn a_while_writes_no_slot_before_its_exit() {
    let program = lower(WHILE, "host", 1);
    let stream = &program.streams[0];
    let (begin, exit) =
        (stream.iter().position(|i| i.name() == "loop").unwrap(), stream.iter().position(|i| i.name() == "exit_unless").unwrap());
    let Instr::Loop { trips: None, carries, .. } = &stream[begin] else { panic!("{}", stream[begin]) };
    for i in &stream[begin + 1..exit] {
        assert!(i.writes().iter().all(|w| carries.iter().all(|c| c.offset != w.offset)), "{i} writes a slot");
    }
}

#[test]
fn rewriting_keeps_what_loops_compute() {
    for text in [SCAN, WHILE] {
        let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
        let inputs: Vec<Tensor> = graph
            .inputs
            .iter()
            .map(|i| match graph.tensor_ty(i.value) {
                t if t.dtype == DType::I32 => Tensor::scalar_int(DType::I32, 27),
                t => Tensor::new_float(t.clone(), (0..t.elements()).map(|k| ((k * 37 % 23) as f64 - 11.0) / 64.0).collect()),
            })
            .collect();
        let want = eval(&graph, &inputs).unwrap();
        let found = optimize(&graph, &OptimizeOptions::default()).unwrap();
        let nest = LoopNest::of(&found.graph).unwrap();
        assert_eq!(nest.loops.len(), 1, "{}", found.graph);
        for (a, b) in eval(&found.graph, &inputs).unwrap().iter().zip(&want) {
            assert!(a.ty() == b.ty() && a.floats().iter().zip(b.floats()).all(|(x, y)| (x - y).abs() <= 1e-5), "{}", found.graph);
        }
        let (fused, _) = fuse(&found.graph);
        for (a, b) in eval(&fused, &inputs).unwrap().iter().zip(&want) {
            assert!(a.floats().iter().zip(b.floats()).all(|(x, y)| (x - y).abs() <= 1e-5), "{fused}");
        }
    }
}

#[test]
fn the_checker_accepts_loops_on_any_number_of_dies() {
    for (text, target, dies) in [(SCAN, "host", 1), (WHILE, "host", 1), (SCAN, "dojo-tile", 4), (WHILE, "dojo-tile", 4)] {
        let program = lower(text, target, dies);
        girih_ir::check::check(program.clone()).unwrap_or_else(|r| panic!("{target}, {dies} dies:\n{r}\n{program}"));
    }
}
