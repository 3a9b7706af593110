//! Gradients of loops: against differences, and against the gradients of the same graph with its loops unrolled.

use super::{AutodiffError, gradients};
use crate::canonicalize::{canonicalize, loops::unrolled};
use girih_ir::graph::random::{random_inputs, random_loops};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::interp::eval;
use girih_ir::ops::Op;
use girih_ir::tensor::Tensor;
use girih_ir::text::parse_graph;
use girih_ir::types::DType;

/// The sum of squares of the float outputs.
fn with_loss(g: &Graph) -> (Graph, ValueId) {
    let mut g = g.clone();
    let floats: Vec<ValueId> = g.outputs.iter().map(|o| o.value).filter(|v| g.tensor_ty(*v).dtype.is_float()).collect();
    let mut sum = None;
    for v in floats {
        let square = g.times(v, v);
        let all: Vec<usize> = (0..g.shape(v).len()).collect();
        let part = g.sum(square, &all);
        sum = Some(sum.map_or(part, |s| g.plus(s, part)));
    }
    let loss = sum.expect("there is a float output");
    g.outputs.clear();
    g.output("loss", loss);
    (g, loss)
}

/// The graph of the gradients with respect to all float inputs.
fn differentiated(g: &Graph, loss: ValueId) -> Graph {
    let wrt: Vec<ValueId> = g.inputs.iter().map(|i| i.value).filter(|v| g.tensor_ty(*v).dtype.is_float()).collect();
    let found = gradients(g, loss, &wrt).unwrap_or_else(|e| panic!("{e}\n{g}"));
    let mut with = found.graph.clone();
    with.outputs.clear();
    with.output("loss", found.find(loss).expect("the loss is outside of loops"));
    found.gradients.iter().enumerate().for_each(|(i, v)| with.output(format!("g{i}"), *v));
    girih_ir::verify::verify(&with).unwrap_or_else(|e| panic!("{e}\n{with}"));
    with
}

fn close(a: &Tensor, b: &Tensor) -> bool {
    a.ty() == b.ty() && a.floats().iter().zip(b.floats()).all(|(x, y)| (x - y).abs() <= 1e-9 * (1.0 + x.abs()))
}

fn all_close(g: &Graph, a: &[Tensor], b: &[Tensor]) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!(close(x, y), "{x:?} is not {y:?}\n{g}");
    }
}

/// Gradients against central differences, before and after canonicalization. Returns the canonical graph of the gradients.
fn check(text: &str) -> Graph {
    let g = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
    let loss = g.outputs[0].value;
    let with = differentiated(&g, loss);
    let inputs = random_inputs(&g, 5);
    let got = eval(&with, &inputs).unwrap();
    for (at, x) in inputs.iter().enumerate().filter(|(_, x)| x.dtype().is_float()) {
        let base = x.floats();
        let slot = 1 + g.inputs[..at].iter().filter(|i| g.tensor_ty(i.value).dtype.is_float()).count();
        for e in 0..base.len() {
            let h = 1e-5;
            let moved = |by: f64| {
                let mut all = inputs.clone();
                let mut x2 = base.clone();
                x2[e] += by;
                all[at] = Tensor::new_float(x.ty().clone(), x2);
                eval(&g, &all).unwrap()[0].floats()[0]
            };
            let (want, have) = ((moved(h) - moved(-h)) / (2.0 * h), got[slot].floats()[e]);
            assert!((want - have).abs() <= 1e-6 * (1.0 + want.abs()), "input {at}[{e}]: {have}, differences say {want}\n{with}");
        }
    }
    let canonical = canonicalize(&with).0;
    all_close(&canonical, &got, &eval(&canonical, &inputs).unwrap());
    canonical
}

/// A recurrent net as JAX scans it: rows of `xs` in, rows of `hs` out, weights and a first state from outside.
const SCAN: &str = "graph (%xs: f64[9,2,3] \"xs\", %w: f64[3,4] param \"w\", %u: f64[4,4] param \"u\", %h0: f64[2,4] \"h0\") {
    %z = constant {value = dense<i32[] 0>} %one = constant {value = dense<i32[] 1>} %n = constant {value = dense<i32[] 9>}
    %zero = constant {value = dense<f64[] 0>} %hs0 = broadcast %zero {shape = [9, 2, 4], dims = []}
    %k = carry %z {loop_id = 0, slot = 0} %h = carry %h0 {loop_id = 0, slot = 1} %hs = carry %hs0 {loop_id = 0, slot = 2}
    %p = lt %k, %n %k2 = add %k, %one
    %row = dynamic_slice %xs, %k, %z, %z {sizes = [1, 2, 3]} %x = reshape %row {shape = [2, 3]}
    %a = dot_general %x, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
    %b = dot_general %h, %u {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
    %c = add %a, %b %h2 = tanh %c %r = reshape %h2 {shape = [1, 2, 4]} %hs2 = dynamic_update_slice %hs, %r, %k, %z, %z
    %end = while %p, %k, %h, %hs, %k2, %h2, %hs2 {loop_id = 0}
    %last = proj %end {index = 1} %all = proj %end {index = 2}
    %q = mul %all, %all %s = reduce %q {monoid = sum, dims = [0, 1, 2]} %t = reduce %last {monoid = sum, dims = [0, 1]} %loss = add %s, %t
    return %loss \"loss\" }";

fn loops(g: &Graph) -> Vec<usize> {
    let slots = |n: &girih_ir::graph::Node| matches!(n.op, Op::Repeat(_) | Op::While(_)).then_some(n.operands.len() / 2);
    g.nodes().iter().filter_map(slots).collect()
}

fn counted(text: &str) -> String {
    canonicalize(&parse_graph(text).unwrap_or_else(|e| panic!("{e}"))).0.to_string()
}

#[test]
fn a_scan_is_differentiated_into_two_loops_and_saves_only_the_state() {
    let canonical = check(&counted(SCAN));
    // Forward: state, stacked results, stacked states. Backward: cotangents of state and results, gradients of xs, w and u.
    assert_eq!(loops(&canonical), [3, 5], "{canonical}");
    // No loop adds whole arrays where a row is meant.
    let whole = canonical.nodes().iter().filter(|n| n.op.name() == "add" && n.ty.components()[0].shape.as_slice() == [9, 2, 3]).count();
    assert_eq!(whole, 0, "{canonical}");
}

#[test]
fn second_derivatives_of_a_scan() {
    let g = parse_graph(&counted(SCAN)).unwrap();
    let u = g.find_input("u").unwrap().value;
    let found = gradients(&g, g.outputs[0].value, &[u]).unwrap();
    let mut norm = found.graph.clone();
    let square = norm.times(found.gradients[0], found.gradients[0]);
    let loss = norm.sum(square, &[0, 1]);
    norm.outputs.clear();
    norm.output("loss", loss);
    check(&canonicalize(&norm).0.to_string());
}

#[test]
fn nested_loops_and_swapped_slots() {
    check(
        "graph (%x: f64[3], %w: f64[3], %y: f64[3]) {
           %a = carry %x {loop_id = 0, slot = 0} %b = carry %y {loop_id = 0, slot = 1} %i = loop_index {loop_id = 0}
           %f = convert %i {to = f64} %fb = broadcast %f {shape = [3], dims = []} %d = mul %fb, %a %e = sin %d
           %c = carry %e {loop_id = 1, slot = 0} %j = loop_index {loop_id = 1} %g = convert %j {to = f64} %gb = broadcast %g {shape = [3], dims = []}
           %h = mul %c, %w %h2 = add %h, %gb %h3 = mul %h2, %b %h4 = tanh %h3
           %in = repeat %c, %h4 {loop_id = 1, trips = 11} %r = proj %in {index = 0}
           %out = repeat %a, %b, %b, %r {loop_id = 0, trips = 10} %s = proj %out {index = 0} %t = proj %out {index = 1}
           %m = mul %s, %t %loss = reduce %m {monoid = sum, dims = [0]} return %loss }",
    );
}

#[test]
fn gradients_of_loops_are_those_of_unrolled_loops() {
    let mut with_loops = 0;
    for seed in 0..120 {
        let (g, loss) = with_loss(&random_loops(seed, 10, DType::F64, false));
        let rolled = if seed % 2 == 0 { canonicalize(&g).0 } else { g.clone() };
        let wrt: Vec<ValueId> = rolled.inputs.iter().map(|i| i.value).collect();
        if let Err(e) = gradients(&rolled, rolled.outputs[0].value, &wrt) {
            assert!(seed % 2 == 1 && rolled.nodes().iter().any(|n| n.op.name() == "while"), "seed {seed}: {e}\n{rolled}");
            continue;
        }
        with_loops += usize::from(!loops(&rolled).is_empty());
        let flat = unrolled(&g);
        let inputs = random_inputs(&g, seed);
        let want = eval(&differentiated(&flat, flat.outputs[0].value), &inputs).unwrap();
        let got = differentiated(&rolled, if seed % 2 == 0 { rolled.outputs[0].value } else { loss });
        all_close(&got, &want, &eval(&got, &inputs).unwrap());
        let canonical = canonicalize(&got).0;
        all_close(&canonical, &want, &eval(&canonical, &inputs).unwrap());
    }
    assert!(with_loops > 20, "{with_loops}");
}

#[test]
fn what_has_no_gradient_says_why() {
    let text = "graph (%x: f64[], %n: f64[]) { %a = carry %x {loop_id = 0, slot = 0} %p = lt %a, %n %b = add %a, %a
        %e = while %p, %a, %b {loop_id = 0} %r = proj %e {index = 0} return %r }";
    let g = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
    let e = gradients(&g, g.outputs[0].value, &[g.inputs[0].value]).unwrap_err();
    assert!(e.to_string().contains("give the loop a fixed number of iterations"), "{e}");
    let inside = g.values().find(|v| g.node(*v).op.name() == "carry").unwrap();
    assert_eq!(gradients(&g, g.outputs[0].value, &[inside]).unwrap_err(), AutodiffError::InLoop { value: inside });
    assert!(matches!(gradients(&g, inside, &[g.inputs[0].value]), Err(AutodiffError::Loop(_))));
}
