//! Steps that still need the value that a state had before: as an output, as the new value of another state, or both states of each other.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, RuntimeOptions, Session, Target};
use girih_compiler::partition::Pinning;
use girih_compiler::pipeline::compile;
use girih_ir::check::check;
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::tensor::Tensor;
use std::collections::BTreeMap;

/// An update of `w` by a product, with the old `w` as a result, as what `v` keeps, and turned into what `t` keeps.
const KEPT: &str = "step {
  param \"w\" input 0 -> output 0
  state \"v\" input 1 -> output 1
  state \"t\" input 2 -> output 4
  seed 1
}
graph @kept(%0: f32[12,8] param \"w\", %1: f32[12,8] state \"v\", %2: f32[8,12] state \"t\", %3: f32[12,6] input \"x\", %4: f32[6,8] input \"y\") {
  %5 = dot_general %3, %4 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %6 = sub %0, %5
  %7 = add %1, %5
  %8 = transpose %0 {permutation = [1,0]}
  return %6 \"new\", %0 \"v_new\", %0 \"old\", %7 \"sum\", %8 \"t_new\"
}";

/// Three states that change places, and one of them is a result as well.
const TURNED: &str = "step {
  state \"a\" input 0 -> output 0
  state \"b\" input 1 -> output 1
  state \"c\" input 2 -> output 2
  seed 1
}
graph @turned(%0: f32[12,8] state \"a\", %1: f32[12,8] state \"b\", %2: f32[12,8] state \"c\", %3: f32[12,8] input \"x\") {
  %4 = add %0, %3
  return %1 \"a_new\", %2 \"b_new\", %0 \"c_new\", %0 \"old\", %4 \"sum\"
}";

fn agree(text: &str, target: &str, dies: usize, pins: &str) {
    let step: TrainStep = text.parse().unwrap();
    let target = Target::builtin(target).unwrap();
    let options = CompileOptions { dies: Some(dies), pins: Pinning::parse(pins).unwrap(), ..CompileOptions::default() };
    let (program, _) = compile(step.clone(), &target, &options).unwrap();
    let verified = check(program).unwrap_or_else(|e| panic!("{} on {dies}: {e}", target.name));
    let graph = &step.graph;
    let value = |k: usize, i: usize| {
        Tensor::new_float(graph.tensor_ty(graph.inputs[i].value).clone(), numbers(k, i, graph.shape(graph.inputs[i].value)))
    };
    let named = |k, i: usize| (graph.inputs[i].name.clone(), value(k, i).to_literal());
    for threads in [1, 3] {
        let mut state: Weights = step.state.iter().map(|s| named(0, s.input)).collect();
        let mut session = Session::new(verified.clone(), RuntimeOptions { threads, ..RuntimeOptions::default() }).unwrap();
        session.init(&state).unwrap();
        for k in 1..4 {
            let data: BTreeMap<String, Literal> = step.data_inputs().into_iter().map(|i| named(k, i)).collect();
            let ins: Vec<Tensor> =
                graph.inputs.iter().map(|i| Tensor::from_literal(data.get(&i.name).unwrap_or_else(|| &state[&i.name]))).collect();
            let want = interp::eval(graph, &ins).unwrap();
            let got = session.run(&data).unwrap();
            for o in step.result_outputs() {
                let name = &graph.outputs[o].name;
                assert!(got[name] == want[o].to_literal(), "`{name}` of step {k} on {} with {dies} dies", target.name);
            }
            for pair in &step.state {
                state.insert(pair.name.clone(), want[pair.output.unwrap()].to_literal());
            }
            assert!(session.all_state().unwrap() == state, "step {k} on {} with {dies} dies", target.name);
        }
    }
}

/// Small integers, so that sums are exact.
fn numbers(step: usize, input: usize, shape: &[usize]) -> Vec<f64> {
    (0..shape.iter().product()).map(|e: usize| ((e * 37 + step * 11 + input * 5) % 23) as f64 - 11.0).collect()
}

#[test]
fn old_values_outlive_the_update() {
    for (target, dies, pins) in [
        ("host", 1, ""),
        ("dojo-tile", 1, ""),
        ("dojo-tile", 4, ""),
        ("dojo-tile", 25, "op:map y=0 x=1"),
        ("dojo-tile", 6, "op:map y=1 x=-"),
    ] {
        agree(KEPT, target, dies, pins);
        agree(TURNED, target, dies, pins);
    }
}
