//! Graphs with loops, compiled, checked, run and simulated: every machine agrees with the interpreter, and threads do not show.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, RuntimeOptions, Session, Target};
use girih_compiler::pipeline::compile;
use girih_ir::check::check;
use girih_ir::graph::Graph;
use girih_ir::interp;
use girih_ir::step::TrainStep;
use girih_ir::tensor::Tensor;
use girih_ir::text::parse_graph;
use girih_ir::types::DType;
use girih_runtime::simulate;

/// A recurrent layer: `h ← tanh(h · w + x_t)`, with every `h` stacked in 6 rows; the last
/// row takes all that come later. Loops of few trips are unrolled.
fn scan(trips: usize, width: usize) -> String {
    format!(
        "graph @scan(%0: f32[6,{width}] input \"xs\", %1: f32[{width},{width}] input \"w\", %2: f32[4,{width}] input \"h\") {{
  %3 = constant {{value = dense<f32[] 0>}}
  %4 = broadcast %3 {{dims = [], shape = [6,4,{width}]}}
  %5 = carry %2 {{loop_id = 0, slot = 0}}
  %6 = carry %4 {{loop_id = 0, slot = 1}}
  %7 = loop_index {{loop_id = 0}}
  %8 = constant {{value = dense<i64[] 0>}}
  %9 = dynamic_slice %0, %7, %8 {{sizes = [1,{width}]}}
  %10 = reshape %9 {{shape = [{width}]}}
  %11 = broadcast %10 {{dims = [1], shape = [4,{width}]}}
  %12 = dot_general %5, %1 {{lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}}
  %13 = add %12, %11
  %14 = tanh %13
  %15 = reshape %14 {{shape = [1,4,{width}]}}
  %16 = dynamic_update_slice %6, %15, %7, %8, %8
  %17 = repeat %5, %6, %14, %16 {{loop_id = 0, trips = {trips}}}
  %18 = proj %17 {{index = 0}}
  %19 = proj %17 {{index = 1}}
  return %18 \"last\", %19 \"all\"
}}"
    )
}

/// Three times: doubles a vector until the largest magnitude is at least the bound, then squares it and raises the bound.
const NESTED: &str = "graph @nested(%0: f32[24] input \"v\", %1: f32[] input \"bound\") {
  %2 = constant {value = dense<f32[] 8>}
  %3 = carry %0 {loop_id = 5, slot = 0}
  %4 = carry %1 {loop_id = 5, slot = 1}
  %5 = carry %3 {loop_id = 2, slot = 0}
  %6 = abs %5
  %7 = reduce %6 {monoid = max, dims = [0]}
  %8 = lt %7, %4
  %9 = add %5, %5
  %10 = while %8, %5, %9 {loop_id = 2}
  %11 = proj %10 {index = 0}
  %12 = mul %11, %11
  %13 = mul %4, %2
  %14 = repeat %3, %4, %12, %13 {loop_id = 5, trips = 3}
  %15 = proj %14 {index = 0}
  %16 = proj %14 {index = 1}
  return %15 \"v\", %16 \"bound\"
}";

/// Collatz steps from an input, with a vector that turns by one place in each.
const WHILE: &str = "graph @collatz(%0: i32[] input \"n\", %1: f32[8] input \"v\") {
  %2 = constant {value = dense<i32[] 1>}
  %3 = constant {value = dense<i32[] 2>}
  %4 = constant {value = dense<i32[] 3>}
  %5 = constant {value = dense<i32[] 0>}
  %6 = carry %0 {loop_id = 0, slot = 0}
  %7 = carry %1 {loop_id = 0, slot = 1}
  %8 = ne %6, %2
  %9 = rem %6, %3
  %10 = eq %9, %5
  %11 = div %6, %3
  %12 = mul %6, %4
  %13 = add %12, %2
  %14 = select %10, %11, %13
  %15 = slice %7 {start = [1], limit = [8], stride = [1]}
  %16 = slice %7 {start = [0], limit = [1], stride = [1]}
  %17 = concat %15, %16 {dim = 0}
  %18 = while %8, %6, %7, %14, %17 {loop_id = 0}
  %19 = proj %18 {index = 0}
  %20 = proj %18 {index = 1}
  return %19 \"one\", %20 \"turned\"
}";

fn inputs(graph: &Graph, number: i64) -> Vec<Tensor> {
    let value = |v| match graph.tensor_ty(v) {
        t if t.dtype == DType::I32 => Tensor::scalar_int(DType::I32, number),
        t if t.shape.is_empty() => Tensor::new_float(t.clone(), vec![number as f64]),
        t => Tensor::new_float(t.clone(), (0..t.elements()).map(|k| ((k * 37 % 23) as f64 - 11.0) / 64.0).collect()),
    };
    graph.inputs.iter().map(|i| value(i.value)).collect()
}

/// Every target and number of threads against the interpreter.
fn agree(text: &str, number: i64) {
    let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
    let values = inputs(&graph, number);
    let want = interp::eval(&graph, &values).unwrap();
    let given = graph.inputs.iter().zip(&values).map(|(i, v)| (i.name.clone(), v.to_literal())).collect();
    for (target, dies) in [("host", 1), ("dojo-tile", 1), ("dojo-tile", 4), ("dojo-tile", 9)] {
        let options = CompileOptions { dies: Some(dies), ..CompileOptions::default() };
        let target = Target::builtin(target).unwrap();
        let (program, _) = compile(TrainStep::inference(graph.clone()), &target, &options).unwrap();
        let mut first = None;
        for threads in [1, 2, 3] {
            let verified = check(program.clone()).unwrap_or_else(|e| panic!("{} on {dies}: {e}", target.name));
            let mut session = Session::new(verified, RuntimeOptions { threads, ..RuntimeOptions::default() }).unwrap();
            let got = session.run(&given).unwrap();
            for (output, want) in graph.outputs.iter().zip(&want) {
                let value = Tensor::from_literal(&got[&output.name]).floats();
                for (g, w) in value.iter().zip(want.floats()) {
                    assert!((g - w).abs() <= 1e-4 * (1.0 + w.abs()), "{} on {} with {dies} dies: {g} for {w}", output.name, target.name);
                }
            }
            assert!(*first.get_or_insert_with(|| got.clone()) == got, "{threads} threads on {} with {dies} dies", target.name);
        }
        let report = simulate(&program).unwrap().report;
        let loops = report.loops.unwrap_or_else(|| panic!("{program}"));
        assert!(report.makespan > 0.0 && loops.iterations > 0);
    }
}

#[test]
fn scans_run_everywhere() {
    agree(&scan(40, 16), 0);
    agree(&scan(33, 96), 0);
}

#[test]
fn loops_that_the_data_end_run_everywhere() {
    for number in [1, 2, 27] {
        agree(WHILE, number);
    }
}

#[test]
fn loops_in_loops_run_everywhere() {
    for bound in [0, 3] {
        agree(NESTED, bound);
    }
}

#[test]
fn the_iterations_of_a_scan_add_up() {
    let target = Target::builtin("dojo-tile").unwrap();
    let report = |text: &str| {
        let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
        let options = CompileOptions { dies: Some(1), ..CompileOptions::default() };
        let (program, _) = compile(TrainStep::inference(graph), &target, &options).unwrap();
        simulate(&program).unwrap().report
    };
    let (some, twice) = (report(&scan(32, 64)), report(&scan(64, 64)));
    assert_eq!((some.model_flops, twice.model_flops), (32 * 2 * 4 * 64 * 64, 64 * 2 * 4 * 64 * 64));
    assert!(twice.flops > some.flops && twice.makespan > 1.3 * some.makespan, "{some}{twice}");
    let per_trip = (twice.makespan - some.makespan) / 32.0;
    let many = report(&scan(5000, 64));
    assert!(((many.makespan - twice.makespan) / ((5000.0 - 64.0) * per_trip) - 1.0).abs() < 1e-6, "{many}");
    assert!(many.loops.unwrap().extrapolated > 4900, "{many}");
}
