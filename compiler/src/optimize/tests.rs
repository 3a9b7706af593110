//! Whole-graph properties: meaning is kept, cost never grows, the same input gives the same output.

use super::{CostModel, OptimizeOptions, Optimized, RuleClass, optimize};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::interp;
use girih_ir::ops::Op;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::{Monoid, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let mut s = 0x0123_4567_89AB_CDEF_u64;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    };
    let of = |t: &TensorType, next: &mut dyn FnMut() -> f64| Tensor::new_float(t.clone(), (0..t.elements()).map(|_| next()).collect());
    graph.inputs.iter().map(|i| of(graph.tensor_ty(i.value), &mut next)).collect()
}

/// Optimizes and checks everything that always holds.
fn check(graph: &Graph, options: &OptimizeOptions) -> Optimized {
    let done = optimize(graph, options).unwrap();
    girih_ir::verify::verify(&done.graph).unwrap();
    assert!(done.report.cost_after <= done.report.cost_before, "{}", done.report);
    assert_eq!(done, optimize(graph, options).unwrap(), "the result depends on something else than the input");
    let ins = inputs(graph);
    let (a, b) = (interp::eval(graph, &ins).unwrap(), interp::eval(&done.graph, &ins).unwrap());
    for ((a, b), o) in a.iter().zip(&b).zip(&graph.outputs) {
        assert_eq!(a.ty(), b.ty());
        for (x, y) in a.floats().into_iter().zip(b.floats()) {
            assert!((x - y).abs() <= 1e-9 * x.abs().max(1.0), "output {}: {x} became {y}", o.name);
        }
    }
    done
}

fn kinds(graph: &Graph) -> Vec<&'static str> {
    let live = graph.live();
    graph.values().filter(|v| live[v.index()]).map(|v| graph.node(v).op.name()).filter(|n| *n != "input").collect()
}

fn new(name: &str, shapes: &[&[usize]]) -> (Graph, Vec<ValueId>) {
    let mut g = Graph::new(name);
    let v = shapes.iter().enumerate().map(|(i, s)| g.input(format!("x{i}"), TensorType::new(DType::F64, s), Role::Data)).collect();
    (g, v)
}

#[test]
fn softmax_is_found_in_its_parts() {
    let (mut g, v) = new("softmax", &[&[4, 8]]);
    let m = g.reduce_spread(Monoid::Max, v[0], &[1]);
    let c = g.minus(v[0], m);
    let e = g.unary(UnaryFn::Exp, c);
    let s = g.reduce_spread(Monoid::Sum, e, &[1]);
    let y = g.over(e, s);
    let l = g.unary(UnaryFn::Log, y);
    g.output("y", l);
    let done = check(&g, &OptimizeOptions { explain: true, ..OptimizeOptions::default() });
    assert_eq!(kinds(&done.graph), ["log_softmax"], "{}", done.report);
    let rules: Vec<&str> = done.report.outputs[0].rules.iter().map(|r| r.0).collect();
    assert!(rules.contains(&"softmax") && rules.contains(&"log-of-softmax"), "{rules:?}");
}

#[test]
fn composites_are_found_again_in_their_expansions() {
    use girih_ir::attr::Real;
    use girih_ir::ops::{gelu, gelu_grad, layer_norm, layer_norm_grad, log_softmax, log_softmax_grad};
    use girih_ir::ops::{rms_norm, rms_norm_grad, silu, silu_grad, softmax, softmax_grad};
    let x: &[usize] = &[3, 4];
    let eps = Real::new(1e-5);
    let cases: Vec<(Op, Vec<&[usize]>)> = vec![
        (softmax::Softmax { dim: 1 }.into(), vec![x]),
        (log_softmax::LogSoftmax { dim: 0 }.into(), vec![x]),
        (softmax_grad::SoftmaxGrad { dim: 1 }.into(), vec![x, x]),
        (log_softmax_grad::LogSoftmaxGrad { dim: 1 }.into(), vec![x, x]),
        (layer_norm::LayerNorm { trailing: 1, eps }.into(), vec![x, &[4], &[4]]),
        (layer_norm_grad::LayerNormGrad { trailing: 1, eps }.into(), vec![x, &[4], x]),
        (rms_norm::RmsNorm { trailing: 1, eps }.into(), vec![x, &[4]]),
        (rms_norm_grad::RmsNormGrad { trailing: 1, eps }.into(), vec![x, &[4], x]),
        (gelu::Gelu { tanh: false }.into(), vec![x]),
        (gelu::Gelu { tanh: true }.into(), vec![x]),
        (gelu_grad::GeluGrad { tanh: false }.into(), vec![x, x]),
        (silu::Silu {}.into(), vec![x]),
        (silu_grad::SiluGrad {}.into(), vec![x, x]),
    ];
    for (op, shapes) in cases {
        let (mut g, v) = new(op.name(), &shapes);
        let y = op.expand(&mut g, &v).unwrap()[0];
        g.output("y", y);
        let done = check(&g, &OptimizeOptions::default());
        assert_eq!(kinds(&done.graph), [op.name()], "{}", done.report);
    }
}

#[test]
fn products_absorb_transposes_and_shared_operands_join() {
    let (mut g, v) = new("products", &[&[6, 4], &[6, 5], &[6, 5]]);
    let t = g.transpose(v[0], &[1, 0]);
    let (p, q) = (g.emit(DotGeneral::matmul(2, 0, 0), &[t, v[1]]), g.emit(DotGeneral::matmul(2, 0, 0), &[t, v[2]]));
    let s = g.plus(p, q);
    let s = g.transpose(s, &[1, 0]);
    g.output("y", s);
    let mut found = kinds(&check(&g, &OptimizeOptions::default()).graph);
    found.sort_unstable();
    assert_eq!(found, ["add", "dot_general"]);
}

#[test]
fn exact_options_keep_every_bit() {
    let (mut g, v) = new("exact", &[&[4, 8], &[8]]);
    let b = g.spread_row(v[1], v[0]);
    let n = g.unary(UnaryFn::Neg, b);
    let d = g.plus(v[0], n);
    let d = g.scaled(d, 1.0 / 3.0);
    let d = g.scaled(d, 3.0);
    g.output("y", d);
    let done = check(&g, &OptimizeOptions { class: RuleClass::Exact, ..OptimizeOptions::default() });
    let ins = inputs(&g);
    assert_eq!(interp::eval(&g, &ins).unwrap(), interp::eval(&done.graph, &ins).unwrap());
    assert_eq!(kinds(&done.graph).iter().filter(|k| **k == "mul").count(), 2);
}

/// A perceptron's training step made by the ops' own VJPs, with a softmax of parts and plain SGD.
pub(crate) fn step(layers: usize, batch: usize, width: usize, dtype: DType) -> Graph {
    let mut g = Graph::new("step");
    let x = g.input("x", TensorType::new(dtype, [batch, width]), Role::Data);
    let t = g.input("t", TensorType::new(dtype, [batch, width]), Role::Data);
    let mut params = Vec::new();
    let mut h = x;
    for l in 0..layers {
        let w = g.input(format!("w{l}"), TensorType::new(dtype, [width, width]), Role::Param);
        let b = g.input(format!("b{l}"), TensorType::new(dtype, [width]), Role::Param);
        params.extend([w, b]);
        let p = g.emit(DotGeneral::matmul(2, 0, 0), &[h, w]);
        let bias = g.spread_row(b, p);
        let p = g.plus(p, bias);
        let u = g.scaled(p, std::f64::consts::FRAC_1_SQRT_2);
        let e = g.unary(UnaryFn::Erf, u);
        let e = g.shifted(e, 1.0);
        let a = g.times(p, e);
        let a = g.scaled(a, 0.5);
        let (normal, _) = girih_ir::ops::layer_norm::normalized(&mut g, a, 1, 1e-5);
        h = g.plus(normal, h);
    }
    let m = g.reduce_spread(Monoid::Max, h, &[1]);
    let c = g.minus(h, m);
    let e = g.unary(UnaryFn::Exp, c);
    let s = g.sum(e, &[1]);
    let s = g.unary(UnaryFn::Log, s);
    let s = g.broadcast(s, &[batch, width], &[0]);
    let y = g.minus(c, s);
    let l = g.times(y, t);
    let l = g.sum(l, &[0, 1]);
    let loss = g.scaled(l, -1.0 / batch as f64);
    let grads = backward(&mut g, loss, &params);
    g.output("loss", loss);
    for (i, (p, d)) in params.iter().zip(grads).enumerate() {
        let d = g.scaled(d, 0.01);
        let new = g.minus(*p, d);
        g.output(format!("p{i}"), new);
    }
    g
}

fn backward(g: &mut Graph, loss: ValueId, params: &[ValueId]) -> Vec<ValueId> {
    let count = g.nodes().len();
    let mut cotangents: Vec<Option<ValueId>> = vec![None; count];
    cotangents[loss.index()] = Some(g.splat_like(loss, 1.0));
    for i in (0..count).rev() {
        let Some(d) = cotangents[i] else { continue };
        let node = g.nodes()[i].clone();
        // The row maximum is a constant of the softmax: its gradient is stopped, as frameworks do.
        if matches!(&node.op, Op::Input(_) | Op::Constant(_)) || matches!(&node.op, Op::Reduce(r) if r.monoid == Monoid::Max) {
            continue;
        }
        let wanted = vec![true; node.operands.len()];
        let mut cx =
            girih_ir::ops::Vjp { graph: g, operands: &node.operands, result: ValueId::new(i), cotangents: &[Some(d)], wanted: &wanted };
        let grads = node.op.vjp(&mut cx).unwrap();
        for (o, d) in node.operands.iter().zip(grads) {
            if let Some(d) = d {
                cotangents[o.index()] = Some(match cotangents[o.index()] {
                    Some(old) => g.plus(old, d),
                    None => d,
                });
            }
        }
    }
    params.iter().map(|p| cotangents[p.index()].unwrap()).collect()
}

#[test]
fn a_training_step_gets_cheaper_and_keeps_its_meaning() {
    let g = step(2, 3, 4, DType::F64);
    let done = check(&g, &OptimizeOptions { explain: true, ..OptimizeOptions::default() });
    let counts: Vec<&str> = done.report.composites.iter().map(|c| c.0).collect();
    assert!(counts.contains(&"log_softmax") && counts.contains(&"gelu") && counts.contains(&"gelu_grad"), "{}", done.report);
    assert!(!kinds(&done.graph).contains(&"transpose"), "{}", done.report);
    assert!(done.report.cost_after < done.report.cost_before, "{}", done.report);
}

#[test]
fn a_large_step_stays_within_the_limits() {
    let g = step(24, 64, 96, DType::F32);
    let done = optimize(&g, &OptimizeOptions::default()).unwrap();
    assert!(done.report.nodes_before > 1000 && done.report.e_nodes < 40_000, "{}", done.report);
    assert!(done.report.cost_after < done.report.cost_before);
    let few = optimize(&g, &OptimizeOptions { max_nodes: 1500, ..OptimizeOptions::default() }).unwrap();
    assert!(few.report.cost_after <= few.report.cost_before && !few.report.saturated, "{}", few.report);
    assert_eq!(few.report.cost_before, CostModel::default().graph(&g));
}
