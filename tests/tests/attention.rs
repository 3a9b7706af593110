//! Attention whose keys are cut over dies, forward and backward: every mesh agrees with the interpreter, threads do not show, and damaged programs
//! are refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, Literal, RuntimeOptions, Session, Target};
use girih_compiler::autodiff::gradients;
use girih_compiler::partition::Pinning;
use girih_compiler::pipeline::{Pipeline, compile};
use girih_ir::check::check;
use girih_ir::check::mutate::mutants;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::interp;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::softmax::Softmax;
use girih_ir::ops::transpose::Transpose;
use girih_ir::program::{Instr, Program};
use girih_ir::scalar::{CompareFn, Monoid};
use girih_ir::step::TrainStep;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};
use std::collections::BTreeMap;

/// An attention.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    causal: bool,
    dtype: DType,
}

impl Shape {
    /// Attention and the gradients of a weighted sum of it. Where it is causal, the last query sees all keys.
    fn step(self) -> TrainStep {
        let Shape { heads, queries, keys, width, causal, dtype } = self;
        let mut g = Graph::new("attention");
        let rows = |n: usize| TensorType::new(dtype, [heads, n, width]);
        let [q, k, v, w] = [("q", queries), ("k", keys), ("v", keys), ("w", queries)].map(|(name, n)| g.input(name, rows(n), Role::Data));
        let dot = |g: &mut Graph, a: ValueId, b: ValueId, contract: [usize; 2]| {
            let [lhs, rhs] = contract.map(|d| vec![d]);
            g.emit(DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: lhs, rhs_contract: rhs }, &[a, b])
        };
        let scores = dot(&mut g, q, k, [2, 2]);
        let scale = g.splat_like(scores, (width as f64).powf(-0.5));
        let mut scores = g.times(scores, scale);
        if causal {
            let index = |g: &mut Graph, dim| g.emit(Iota { dtype: DType::I32, shape: Dims::from_slice(&[heads, queries, keys]), dim }, &[]);
            let (row, col) = (index(&mut g, 1), index(&mut g, 2));
            let ahead = g.splat_like(row, keys as f64 - queries as f64);
            let row = g.plus(row, ahead);
            let seen = g.compare(CompareFn::Ge, row, col);
            let never = g.splat_like(scores, f64::NEG_INFINITY);
            scores = g.select(seen, scores, never);
        }
        let p = g.emit(Softmax { dim: 2 }, &[scores]);
        let o = dot(&mut g, p, v, [2, 1]);
        let weighted = g.times(o, w);
        let loss = g.sum(weighted, &[0, 1, 2]);
        let found = gradients(&g, loss, &[q, k, v]).unwrap();
        let mut g = found.graph;
        g.output("o", o);
        found.gradients.iter().zip(["dq", "dk", "dv"]).for_each(|(v, name)| g.output(name, *v));
        TrainStep::inference(g)
    }

    fn inputs(self, graph: &Graph) -> Vec<Tensor> {
        let number = |seed: usize, i: usize| ((i * 7919 + seed * 104_729) % 1009) as f64 / 252.0 - 2.0;
        let value = |(seed, ty): (usize, &TensorType)| {
            let values = (0..ty.elements()).map(|i| number(seed, i)).collect();
            Tensor::from_literal(&Tensor::new_float(ty.clone(), values).to_literal())
        };
        graph.inputs.iter().map(|i| graph.tensor_ty(i.value)).enumerate().map(value).collect()
    }
}

/// The monoids of the parts that come from other dies.
fn received(program: &Program) -> Vec<Monoid> {
    let of = |i: &Instr| if let Instr::RecvAdd { monoid, .. } = i { Some(*monoid) } else { None };
    let mut all: Vec<Monoid> = program.streams.iter().flatten().filter_map(of).collect();
    all.sort();
    all.dedup();
    all
}

fn compiled(step: &TrainStep, dies: Option<usize>, pins: &str) -> Program {
    let target = Target::builtin("dojo-tile").unwrap();
    let options = CompileOptions { dies, pins: Pinning::parse(pins).unwrap(), ..CompileOptions::default() };
    compile(step.clone(), &target, &options).unwrap().0
}

/// What a program computes with so many threads.
fn outputs(program: &Program, inputs: &BTreeMap<String, Literal>, threads: usize) -> BTreeMap<String, Literal> {
    let verified = check(program.clone()).unwrap_or_else(|e| panic!("{e}"));
    let mut session = Session::new(verified, RuntimeOptions { threads, ..RuntimeOptions::default() }).unwrap();
    let got = session.run(inputs).unwrap();
    program.step.graph.outputs.iter().map(|o| (o.name.clone(), got.get(&o.name).unwrap().clone())).collect()
}

#[test]
fn keys_in_uneven_parts_give_what_the_interpreter_gives() {
    for (causal, dtype) in [(false, DType::F32), (true, DType::F32), (false, DType::BF16), (true, DType::BF16)] {
        let shape = Shape { heads: 2, queries: 23, keys: 37, width: 8, causal, dtype };
        let step = shape.step();
        let values = shape.inputs(&step.graph);
        let want = interp::eval(&step.graph, &values).unwrap();
        let given = step.graph.inputs.iter().zip(&values).map(|(i, v)| (i.name.clone(), v.to_literal())).collect();
        // All keys on the columns of the mesh, on both axes, and beside the queries.
        for (dies, pins) in [(1, "op:rows x=2"), (6, "op:rows x=2"), (25, "op:rows y=2 x=2"), (25, "op:rows y=1 x=2")] {
            let what = format!("{shape:?} on {dies} dies, {pins}");
            let program = compiled(&step, Some(dies), pins);
            if dies > 1 {
                let all = received(&program);
                assert!(all.contains(&Monoid::Max) && all.contains(&Monoid::Sum), "{what}: {all:?}");
            }
            let first = outputs(&program, &given, 1);
            for threads in [2, 3] {
                assert!(first == outputs(&program, &given, threads), "{what}: {threads} threads give other bits");
            }
            for (o, want) in step.graph.outputs.iter().zip(&want) {
                let (got, want) = (Tensor::from_literal(&first[&o.name]).floats(), want.floats());
                let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
                let within = if dtype == DType::F32 { 1e-5 } else { 6e-2 };
                for (a, b) in got.iter().zip(&want) {
                    assert!((a - b).abs() <= within * scale, "{what}, {}: {a} instead of {b}", o.name);
                }
            }
        }
    }
}

/// Attention of several heads of a batch, written as models write it: heads are taken out of wide rows and put back, masks are one bool tensor.
fn of_a_model(dtype: DType, seen: fn(usize, usize) -> bool) -> TrainStep {
    let (batch, rows, heads, width) = (2, 96, 3, 16);
    let mut g = Graph::new("model");
    let all = TensorType::new(dtype, [batch, rows, heads * width]);
    let [q, k, v, w] = ["q", "k", "v", "w"].map(|name| g.input(name, all.clone(), Role::Data));
    let mask = (0..rows * rows).map(|i| i64::from(seen(i / rows, i % rows))).collect();
    let mask = g.constant(&Tensor::new_int(TensorType::new(DType::Bool, [rows, rows]), mask));
    let split = |g: &mut Graph, x: ValueId| {
        let x = g.reshape(x, &[batch, rows, heads, width]);
        g.emit(Transpose { permutation: vec![0, 2, 1, 3] }, &[x])
    };
    let (hq, hk, hv) = (split(&mut g, q), split(&mut g, k), split(&mut g, v));
    let dot = |g: &mut Graph, a: ValueId, b: ValueId, to: usize| {
        let both = vec![0, 1];
        g.emit(DotGeneral { lhs_batch: both.clone(), rhs_batch: both, lhs_contract: vec![3], rhs_contract: vec![to] }, &[a, b])
    };
    let convert = |g: &mut Graph, x: ValueId, to: DType| if g.tensor_ty(x).dtype == to { x } else { g.convert(x, to) };
    let scores = dot(&mut g, hq, hk, 3);
    let scores = convert(&mut g, scores, DType::F32);
    let scores = g.scaled(scores, 0.25);
    let mask = g.broadcast(mask, &[batch, heads, rows, rows], &[2, 3]);
    let never = g.splat_like(scores, -1e9);
    let scores = g.select(mask, scores, never);
    let p = g.emit(Softmax { dim: 3 }, &[scores]);
    let p = convert(&mut g, p, dtype);
    let o = dot(&mut g, p, hv, 2);
    let o = g.emit(Transpose { permutation: vec![0, 2, 1, 3] }, &[o]);
    let o = g.reshape(o, &[batch, rows, heads * width]);
    let off = g.minus(o, w);
    let weighted = g.times(off, off);
    let weighted = convert(&mut g, weighted, DType::F32);
    let loss = g.sum(weighted, &[0, 1, 2]);
    let found = gradients(&g, loss, &[q, k, v]).unwrap();
    let mut g = found.graph;
    g.output("o", o);
    found.gradients.iter().zip(["dq", "dk", "dv"]).for_each(|(v, name)| g.output(name, *v));
    TrainStep::inference(g)
}

#[test]
fn on_one_die_attention_is_one_instruction_forward_and_one_backward() {
    let masks: [(&str, fn(usize, usize) -> bool); 4] = [
        ("all", |_, _| true),
        ("causal", |q, k| k <= q),
        ("window", |q, k| k <= q && k + 20 > q),
        ("padding, and a query that sees nothing", |q, k| k < 30 && q != 7),
    ];
    let host = Target::builtin("host").unwrap();
    for ((what, seen), dtype) in masks.into_iter().flat_map(|m| [(m, DType::F32), (m, DType::BF16)]) {
        let step = of_a_model(dtype, seen);
        let values: Vec<Tensor> = Shape { heads: 0, queries: 0, keys: 0, width: 0, causal: false, dtype }.inputs(&step.graph);
        let want = interp::eval(&step.graph, &values).unwrap();
        let given = step.graph.inputs.iter().zip(&values).map(|(i, v)| (i.name.clone(), v.to_literal())).collect();
        let program = compile(step, &host, &CompileOptions::default()).unwrap().0;
        let count = |gradient: bool| {
            let is = |i: &&Instr| matches!(i, Instr::Attention { scores, .. } if scores.is_some() == gradient);
            program.streams.iter().flatten().filter(is).count()
        };
        let large = |i: &&Instr| i.writes().iter().any(|r| r.elements() >= 2 * 3 * 96 * 96 && r.dtype != DType::Bool);
        assert_eq!((count(false), count(true)), (1, 1), "{what} {dtype}");
        assert_eq!(program.streams.iter().flatten().filter(large).count(), 0, "{what} {dtype}: scores are written");
        let first = outputs(&program, &given, 1);
        for threads in [2, 3, 8] {
            assert!(first == outputs(&program, &given, threads), "{what} {dtype}: {threads} threads give other bits");
        }
        for (o, want) in program.step.graph.outputs.iter().zip(&want) {
            let (got, want) = (Tensor::from_literal(&first[&o.name]).floats(), want.floats());
            let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
            let within = if dtype == DType::F32 { 1e-5 } else { 6e-2 };
            for (a, b) in got.iter().zip(&want) {
                assert!((a - b).abs() <= within * scale, "{what} {dtype}, {}: {a} instead of {b}", o.name);
            }
        }
        if what == "causal" {
            let options = girih_ir::check::field::FieldOptions::default();
            girih_ir::check::field::check(&check(program.clone()).unwrap(), options).unwrap();
            let all = mutants(&program, 5, 200);
            let survivors: Vec<&str> = all.iter().filter(|m| check(m.program.clone()).is_ok()).map(|m| m.what.as_str()).collect();
            assert!(survivors.len() * 10 <= all.len(), "{} of {}: {survivors:?}", survivors.len(), all.len());
        }
    }
}

#[test]
fn damaged_programs_are_refused() {
    let step = Shape { heads: 1, queries: 9, keys: 17, width: 4, causal: true, dtype: DType::F32 }.step();
    let program = compiled(&step, Some(6), "op:rows x=2");
    assert!(check(program.clone()).is_ok());
    let all = mutants(&program, 11, 400);
    let survivors: Vec<&str> = all.iter().filter(|m| check(m.program.clone()).is_ok()).map(|m| m.what.as_str()).collect();
    assert!(survivors.iter().all(|s| !s.contains("combiner")), "{survivors:?}");
    assert!(survivors.len() * 10 <= all.len(), "{} of {}: {survivors:?}", survivors.len(), all.len());
}

#[test]
fn many_keys_of_one_head_are_cut_without_a_pin() {
    let target = Target::builtin("dojo-tile").unwrap();
    let options = CompileOptions::default();
    let shape = |queries, keys| Shape { heads: 1, queries, keys, width: 128, causal: false, dtype: DType::F32 };
    for (shape, parts) in [(shape(1024, 50_176), true), (shape(1024, 64), false)] {
        let mut pipeline = Pipeline::new(&target, &options);
        let step = pipeline.rewrite(shape.step()).unwrap();
        let program = pipeline.plan(step).unwrap();
        assert_eq!(pipeline.report().passes.iter().any(|p| p.name == "apart"), parts, "{shape:?}");
        check(program).unwrap();
    }
}
