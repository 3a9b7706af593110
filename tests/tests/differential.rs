//! One program, many machines: the interpreter, the host and meshes of every size agree, and bits depend on nothing that they must not.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, LossSpec, Model, ModelOptions, OptimizerSpec, Prepared, RuntimeOptions, Session, Target};
use girih_compiler::partition::Pinning;
use girih_ir::graph::random::{Random, random_graph, random_inputs};
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use std::collections::BTreeMap;

const MODEL: &[u8] = include_bytes!("../../cli/data/digits_cnn.onnx");

/// The demo's classifier with AdamW and a batch of 6, which no mesh below divides evenly.
fn digits() -> Prepared {
    let mut options = ModelOptions::default();
    options.import.batch = Some(6);
    let model = Model::from_onnx_bytes(MODEL, &options).unwrap();
    let loss: LossSpec = "softmax_cross_entropy".parse().unwrap();
    let optimizer: OptimizerSpec = "adamw:lr=3e-3,clip_norm=1.0".parse().unwrap();
    model.training(&loss, &optimizer, &[]).unwrap()
}

/// A batch of made-up images.
fn batch(step: u64) -> BTreeMap<String, Literal> {
    let pixel = |i: usize| (((i as u64 * 7919 + step * 104_729) % 17) as f32) / 16.0;
    let images: Vec<f32> = (0..6 * 64).map(pixel).collect();
    let labels: Vec<i64> = (0..6).map(|i| ((i as u64 * 3 + step) % 10) as i64).collect();
    BTreeMap::from([
        ("x".to_string(), Literal::from_f32(&[6, 1, 8, 8], &images).unwrap()),
        ("labels".to_string(), Literal::from_i64(&[6], &labels).unwrap()),
    ])
}

/// Trains three steps; returns the losses and every state afterwards.
fn run(prepared: &Prepared, target: &Target, dies: Option<usize>, threads: usize) -> (Vec<u8>, Vec<f64>, Weights) {
    let options = CompileOptions { dies, ..CompileOptions::default() };
    let compiled = girih::compile(prepared.clone(), target, &options).unwrap();
    let (losses, state) = train(compiled.session(RuntimeOptions { threads, ..RuntimeOptions::default() }).unwrap());
    (compiled.to_bytes().unwrap(), losses, state)
}

fn train(mut session: Session) -> (Vec<f64>, Weights) {
    let losses = (0..3).map(|i| session.step(&batch(i)).unwrap().loss().unwrap()).collect();
    (losses, session.all_state().unwrap())
}

#[test]
fn a_step_of_many_dies_that_runs_as_one_gives_the_bits_of_the_dies() {
    let prepared = digits();
    let options = CompileOptions { dies: Some(25), ..CompileOptions::default() };
    let compiled = girih::compile(prepared.clone(), &tile(&[]), &options).unwrap();
    let mut apart = Session::die_by_die(compiled.program.clone(), RuntimeOptions::default()).unwrap();
    prepared.weights.iter().for_each(|(name, value)| apart.set_state(name, value).unwrap());
    let together = compiled.session(RuntimeOptions::default()).unwrap();
    assert!(together.is_woven());
    assert!(train(together) == train(apart));
}

fn tile(changes: &[&str]) -> Target {
    let mut target = Target::builtin("dojo-tile").unwrap();
    changes.iter().for_each(|c| target.set(c).unwrap());
    target
}

#[test]
fn bits_do_not_depend_on_threads_and_bytes_not_on_the_run() {
    let prepared = digits();
    for (target, dies) in [(Target::builtin("host").unwrap(), None), (tile(&[]), Some(25)), (tile(&["mesh=3x5"]), Some(15))] {
        let first = run(&prepared, &target, dies, 1);
        for threads in [2, 3, 8] {
            let again = run(&prepared, &target, dies, threads);
            assert!(first.0 == again.0, "two compilations for {} gave different bytes", target.name);
            assert_eq!(first.1, again.1, "losses on {} with {threads} threads", target.name);
            assert!(first.2 == again.2, "state on {} with {threads} threads", target.name);
        }
    }
}

#[test]
fn every_mesh_trains_like_the_interpreter() {
    let prepared = digits();
    let graph = &prepared.step.graph;
    let mut state = prepared.weights.clone();
    let mut want = Vec::new();
    for i in 0..3 {
        let data = batch(i);
        let value = |name: &str| Tensor::from_literal(data.get(name).or_else(|| state.get(name)).unwrap());
        let inputs: Vec<Tensor> = graph.inputs.iter().map(|g| value(&g.name)).collect();
        let outputs = interp::eval(graph, &inputs).unwrap();
        want.push(outputs[prepared.step.loss.unwrap()].floats()[0]);
        for pair in &prepared.step.state {
            if let Some(o) = pair.output {
                state.insert(pair.name.clone(), outputs[o].to_literal());
            }
        }
    }
    let meshes: [(&[&str], usize); 7] = [
        (&[], 1),
        (&["mesh=2x2"], 4),
        (&["mesh=3x5"], 15),
        (&[], 25),
        (&["dead=2,2"], 24),
        (&["dead=2,2", "dead=4,1"], 23),
        (&["dead_link=0,0:E", "dead=1,3"], 20),
    ];
    for (changes, dies) in meshes {
        let (_, losses, end) = run(&prepared, &tile(changes), Some(dies), 2);
        for (got, want) in losses.iter().zip(&want) {
            assert!((got - want).abs() < 2e-5, "{changes:?} on {dies} dies: {losses:?} instead of {want:?}");
        }
        for (name, value) in &end {
            let (got, want) = (Tensor::from_literal(value).floats(), Tensor::from_literal(&state[name]).floats());
            // AdamW moves a parameter whose gradient is rounding noise by up to the learning rate either way.
            let far = got.iter().zip(&want).filter(|(a, b)| (**a - **b).abs() > 1e-4 + 1e-3 * b.abs()).count();
            assert!(far * 200 <= got.len(), "{name} on {changes:?}: {far} of {} elements differ", got.len());
        }
    }
}

/// Whether kernels hold every element type of a graph to a tolerance that can be stated.
fn comparable(step: &TrainStep) -> bool {
    let plain = |t: &TensorType| !matches!(t.dtype, DType::BF16 | DType::F16);
    step.graph.nodes().iter().all(|n| n.ty.components().iter().all(plain))
}

#[test]
fn random_graphs_compute_the_same_on_any_number_of_dies() {
    let mut compared = 0;
    for seed in 0..60 {
        let graph = random_graph(seed, 14);
        let inputs = random_inputs(&graph, seed);
        let want = interp::eval(&graph, &inputs).unwrap();
        let step = TrainStep::inference(graph.clone());
        if !comparable(&step) {
            continue;
        }
        let named: BTreeMap<String, Literal> = graph.inputs.iter().zip(&inputs).map(|(i, t)| (i.name.clone(), t.to_literal())).collect();
        let weights: Weights = step.state.iter().map(|s| (s.name.clone(), named[&s.name].clone())).collect();
        let data: BTreeMap<String, Literal> =
            step.data_inputs().into_iter().map(|i| (graph.inputs[i].name.clone(), named[&graph.inputs[i].name].clone())).collect();
        for (target, dies) in [(Target::builtin("host").unwrap(), None), (tile(&[]), Some(6)), (tile(&["dead=1,1"]), Some(24))] {
            let prepared = Prepared { step: step.clone(), weights: weights.clone() };
            let options = CompileOptions { dies, ..CompileOptions::default() };
            let compiled = girih::compile(prepared, &target, &options).unwrap_or_else(|e| panic!("seed {seed}, {dies:?}: {e}\n{graph}"));
            let mut session = compiled.session(RuntimeOptions { threads: 2, ..RuntimeOptions::default() }).unwrap();
            let outputs = session.run(&data).unwrap_or_else(|e| panic!("seed {seed}, {dies:?}: {e}\n{graph}"));
            for (o, want) in graph.outputs.iter().zip(&want) {
                let Some(got) = outputs.get(&o.name) else { continue };
                let (got, want) = (Tensor::from_literal(got).floats(), want.floats());
                let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
                for (a, b) in got.iter().zip(&want) {
                    let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-3 * scale;
                    assert!(same, "seed {seed}, {dies:?}, output {}: {a} instead of {b}\n{graph}", o.name);
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 60, "only {compared} outputs were compared");
}

/// A program in which every kind of op is split along some of its loops.
fn randomly_split(prepared: &Prepared, target: &Target, dies: usize, r: &mut Random) -> girih::Compiled {
    let names: std::collections::BTreeSet<&str> = prepared.step.graph.nodes().iter().map(|n| n.op.name()).chain(["map", "rows"]).collect();
    let mut lines: Vec<String> = names.iter().map(|name| format!("op:{name} y={} x={}", r.below(3), r.below(3))).collect();
    loop {
        let pins = Pinning::parse(&lines.join("\n")).unwrap();
        let options = CompileOptions { dies: Some(dies), pins, optimize: None, ..CompileOptions::default() };
        match girih::compile(prepared.clone(), target, &options) {
            Ok(compiled) => return compiled,
            Err(e) => {
                // An op that is fused away cannot be split.
                let text = e.to_string();
                let before = lines.len();
                lines.retain(|line| !line.split_whitespace().next().is_some_and(|op| text.contains(&format!("E0804: the pin `{op}`"))));
                assert!(lines.len() < before, "{text}\n{}", prepared.step);
            }
        }
    }
}

#[test]
fn streams_of_many_dies_that_run_as_one_give_the_bits_of_the_dies() {
    let mut woven = 0;
    for seed in 0..150 {
        let step = TrainStep::inference(random_graph(seed, 14));
        let mut r = Random::new(seed);
        let inputs = random_inputs(&step.graph, seed);
        let named = || step.graph.inputs.iter().map(|i| i.name.clone()).zip(inputs.iter().map(Tensor::to_literal));
        let is_state = |name: &String| step.state.iter().any(|s| s.name == *name);
        let (weights, data): (Weights, BTreeMap<String, Literal>) = named().partition(|(name, _)| is_state(name));
        let (changes, dies): (&[&str], usize) = *r.pick(&[(&["mesh=2x2"][..], 4), (&["mesh=2x3"], 6), (&["dead=1,1"], 24)]);
        let compiled = randomly_split(&Prepared { step: step.clone(), weights: weights.clone() }, &tile(changes), dies, &mut r);
        let bits = |mut session: Session| {
            weights.iter().for_each(|(name, value)| session.set_state(name, value).unwrap());
            session.run(&data)
        };
        let with = |threads| RuntimeOptions { threads, ..RuntimeOptions::default() };
        // Not every element type has every kernel.
        let Ok(want) = bits(Session::die_by_die(compiled.program.clone(), with(1)).unwrap()) else { continue };
        for threads in [1, 2, 3] {
            let session = compiled.session(with(threads)).unwrap();
            woven += usize::from(session.is_woven());
            assert!(bits(session).unwrap() == want, "seed {seed}: {dies} dies and {threads} threads\n{}", *compiled.program);
        }
    }
    assert!(woven > 150, "only {woven} sessions ran many dies as one");
}
