//! Fusion keeps every value, makes what it promises, and depends on nothing but its input.

use super::{FuseReport, MAX_OPERANDS, MAX_RESULTS, fuse};
use crate::optimize::{OptimizeOptions, optimize};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::interp;
use girih_ir::ops::Op;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::iota::Iota;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};

struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % n.max(1) as u64) as usize
    }
    fn tensor(&mut self, ty: &TensorType) -> Tensor {
        Tensor::new_float(ty.clone(), (0..ty.elements()).map(|_| self.below(4001) as f64 / 1000.0 - 2.0).collect())
    }
}

fn check(graph: &Graph) -> (Graph, FuseReport) {
    let (fused, report) = fuse(graph);
    girih_ir::verify::verify(&fused).unwrap();
    assert_eq!((fused.clone(), report), fuse(graph));
    let mut random = Random(0x5DEE_CE66_D1CE_4E5B);
    let ins: Vec<Tensor> = graph.inputs.iter().map(|i| random.tensor(graph.tensor_ty(i.value))).collect();
    let (a, b) = (interp::eval(graph, &ins).unwrap(), interp::eval(&fused, &ins).unwrap());
    for ((a, b), o) in a.iter().zip(&b).zip(&graph.outputs) {
        assert_eq!(a.ty(), b.ty());
        for (x, y) in a.floats().into_iter().zip(b.floats()) {
            let same = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= 1e-11 * x.abs().max(1.0);
            assert!(same, "output {}: {x} became {y}", o.name);
        }
    }
    for node in fused.nodes() {
        assert!(!node.op.is_elementwise() && !node.op.is_composite(), "{}", node.op.name());
        if let Op::Fused(f) = &node.op {
            assert!(f.program.body.len() <= 64 && f.operands.len() <= MAX_OPERANDS && f.program.outputs.len() <= MAX_RESULTS);
        }
    }
    (fused, report)
}

fn new(shapes: &[&[usize]]) -> (Graph, Vec<ValueId>) {
    let mut g = Graph::new("g");
    let v = shapes.iter().enumerate().map(|(i, s)| g.input(format!("x{i}"), TensorType::new(DType::F64, s), Role::Data)).collect();
    (g, v)
}

fn names(g: &Graph) -> Vec<&'static str> {
    let live = g.live();
    g.values().filter(|v| live[v.index()]).map(|v| g.node(v).op.name()).filter(|n| *n != "input").collect()
}

#[test]
fn a_bias_is_read_small_and_a_transpose_is_absorbed() {
    let (mut g, v) = new(&[&[3, 4], &[4], &[4, 3]]);
    let b = g.spread_row(v[1], v[0]);
    let t = g.transpose(v[2], &[1, 0]);
    let s = g.plus(v[0], b);
    let s = g.times(s, t);
    let s = g.scaled(s, 0.5);
    g.output("y", s);
    let (f, _) = check(&g);
    assert_eq!(names(&f), ["map"]);
    let Op::Fused(op) = &f.nodes().last().unwrap().op else { panic!("a map") };
    assert_eq!(op.operands, [vec![0, 1], vec![1], vec![1, 0]]);
}

#[test]
fn row_ops_are_one_program_with_what_surrounds_them() {
    use girih_ir::attr::Real;
    let (mut g, v) = new(&[&[2, 3, 4], &[4], &[4], &[2, 3, 4]]);
    let x = g.plus(v[0], v[3]);
    let n = g.emit(girih_ir::ops::layer_norm::LayerNorm { trailing: 1, eps: Real::new(1e-5) }, &[x, v[1], v[2]]);
    let y = g.emit(girih_ir::ops::softmax::Softmax { dim: 2 }, &[n]);
    g.output("x", x);
    g.output("y", y);
    let (f, report) = check(&g);
    assert_eq!((report.rows, report.maps), (1, 0), "{report}");
    assert_eq!(names(&f), ["rows", "proj", "proj"]);
}

#[test]
fn leading_and_full_reductions_stay() {
    let (mut g, v) = new(&[&[3, 4]]);
    let e = g.unary(UnaryFn::Exp, v[0]);
    let bias = g.sum(e, &[0]);
    let all = g.sum(e, &[0, 1]);
    let row = g.sum(e, &[1]);
    g.output("bias", bias);
    g.output("all", all);
    g.output("row", row);
    let (f, _) = check(&g);
    let mut found = names(&f);
    found.sort_unstable();
    assert_eq!(found, ["proj", "proj", "reduce", "reduce", "rows"]);
}

#[test]
fn a_path_out_and_back_in_is_not_closed() {
    let (mut g, v) = new(&[&[4, 4], &[4, 4]]);
    let a = g.unary(UnaryFn::Tanh, v[0]);
    let p = g.emit(DotGeneral::matmul(2, 0, 0), &[a, v[1]]);
    let s = g.plus(a, p);
    g.output("y", s);
    let (f, _) = check(&g);
    assert_eq!(names(&f), ["map", "dot_general", "map"]);
}

#[test]
fn values_that_are_uniform_along_rows_keep_their_shape() {
    let (mut g, v) = new(&[&[3, 4]]);
    let m = g.reduce_spread(Monoid::Max, v[0], &[1]);
    let e = g.unary(UnaryFn::Exp, m);
    let y = g.plus(e, v[0]);
    let iota = g.emit(Iota { dtype: DType::F64, shape: Dims::from_slice(&[3, 4]), dim: 1 }, &[]);
    let y = g.plus(y, iota);
    g.output("e", e);
    g.output("y", y);
    check(&g);
}

/// A random graph over a few shapes that broadcast, reduce and transpose into each other.
fn random_graph(seed: u64) -> Graph {
    let mut r = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let (mut g, mut pool) = new(&[&[3, 4], &[3, 4], &[3], &[4], &[4, 3], &[3, 1], &[]]);
    for _ in 0..10 + r.below(40) {
        let a = pool[r.below(pool.len())];
        let shape = Dims::from_slice(g.shape(a));
        let same: Vec<ValueId> = pool.iter().copied().filter(|v| g.shape(*v) == &shape[..]).collect();
        let b = same[r.below(same.len())];
        let made = match r.below(12) {
            0 => g.unary([UnaryFn::Tanh, UnaryFn::Neg, UnaryFn::Logistic][r.below(3)], a),
            1..=4 => g.binary([BinaryFn::Add, BinaryFn::Mul, BinaryFn::Max, BinaryFn::Sub][r.below(4)], a, b),
            5 => g.scaled(a, 0.5),
            6 => {
                let c = g.compare(CompareFn::Lt, a, b);
                g.select(c, b, a)
            }
            7 if shape.len() == 2 => g.transpose(a, &[1, 0]),
            8 if shape[..] == [3] => g.broadcast(a, &[3, 4], &[0]),
            8 if shape[..] == [4] => g.broadcast(a, &[3, 4], &[1]),
            8 if shape[..] == [3, 1] => g.broadcast(a, &[3, 4], &[0, 1]),
            8 if shape.is_empty() => g.broadcast(a, &[3, 4], &[]),
            9 if shape.len() == 2 => g.reduce([Monoid::Sum, Monoid::Max][r.below(2)], a, &[1]),
            10 if shape.len() == 2 => g.sum(a, &[r.below(2)]),
            10 if shape[..] == [3] => g.reshape(a, &[3, 1]),
            11 if shape[..] == [3, 4] => {
                let other = pool.iter().copied().find(|v| g.shape(*v) == [4, 3]).unwrap_or(a);
                let p = g.emit(DotGeneral::matmul(2, 0, 0), &[a, other]);
                let p = g.scaled(p, 0.1);
                g.emit(DotGeneral::matmul(2, 0, 0), &[p, a])
            }
            11 if shape[..] == [3, 4] || shape[..] == [4, 3] => g.emit(girih_ir::ops::softmax::Softmax { dim: r.below(2) }, &[a]),
            _ => continue,
        };
        pool.push(made);
    }
    for (i, v) in pool.iter().rev().take(4).enumerate() {
        g.output(format!("y{i}"), *v);
    }
    g
}

#[test]
fn random_graphs_keep_their_meaning() {
    for seed in 1..150 {
        let g = random_graph(seed);
        check(&g);
        let optimized = optimize(&g, &OptimizeOptions::default()).unwrap();
        assert!(optimized.report.e_nodes < 6_000, "seed {seed}: {}", optimized.report);
        assert!(optimized.report.cost_after <= optimized.report.cost_before);
        check(&optimized.graph);
    }
}

#[test]
fn a_training_step_becomes_few_ops() {
    let g = crate::optimize::tests::step(2, 3, 4, DType::F64);
    let (_, plain) = check(&g);
    let optimized = optimize(&g, &OptimizeOptions::default()).unwrap();
    let (f, report) = check(&optimized.graph);
    assert!(report.nodes_after * 3 < plain.nodes_before && report.nodes_after <= plain.nodes_after, "{report} against {plain}");
    assert!(!names(&f).contains(&"transpose"));
}

/// As [`check`], for one die.
fn check_one_die(graph: &Graph) -> Graph {
    let (fused, report) = super::fuse_for_one_die(graph);
    girih_ir::verify::verify(&fused).unwrap();
    assert_eq!((fused.clone(), report), super::fuse_for_one_die(graph));
    let mut random = Random(0x5DEE_CE66_D1CE_4E5B);
    let ins: Vec<Tensor> = graph.inputs.iter().map(|i| random.tensor(graph.tensor_ty(i.value))).collect();
    let (a, b) = (interp::eval(graph, &ins).unwrap(), interp::eval(&fused, &ins).unwrap());
    for ((a, b), o) in a.iter().zip(&b).zip(&graph.outputs) {
        assert_eq!(a.ty(), b.ty());
        for (x, y) in a.floats().into_iter().zip(b.floats()) {
            assert!((x - y).abs() <= 1e-9 * x.abs().max(1.0), "output {}: {x} became {y}", o.name);
        }
    }
    fused
}

#[test]
fn batch_normalization_reads_its_operand_once_for_the_sums_and_once_for_the_result() {
    let (mut g, v) = new(&[&[8, 16, 16, 32], &[8, 16, 16, 32], &[32]]);
    let (x, up, gain) = (v[0], v[1], v[2]);
    let spread = |g: &mut Graph, a| g.broadcast(a, &[8, 16, 16, 32], &[3]);
    let square = g.times(x, x);
    let (sum, squares) = (g.sum(x, &[0, 1, 2]), g.sum(square, &[0, 1, 2]));
    let (mean, second) = (g.scaled(sum, 1.0 / 2048.0), g.scaled(squares, 1.0 / 2048.0));
    let of_mean = g.times(mean, mean);
    let variance = g.minus(second, of_mean);
    let scale = g.unary(UnaryFn::Rsqrt, variance);
    let scale = g.times(scale, gain);
    let (wide_mean, wide_scale) = (spread(&mut g, mean), spread(&mut g, scale));
    let centered = g.minus(x, wide_mean);
    let y = g.times(centered, wide_scale);
    let zero = g.splat_like(y, 0.0);
    let positive = g.compare(CompareFn::Gt, y, zero);
    let relu = g.select(positive, y, zero);
    // What reads the activation is no map, so the activation is kept, but its mask is not.
    let turned = g.reshape(relu, &[2048, 32]);
    let product =
        g.emit(DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0], rhs_contract: vec![0] }, &[turned, turned]);
    let dy = g.select(positive, up, zero);
    let weighted = g.times(dy, centered);
    let (db, dg) = (g.sum(dy, &[0, 1, 2]), g.sum(weighted, &[0, 1, 2]));
    let (wide_b, wide_g) = (spread(&mut g, db), spread(&mut g, dg));
    let part = g.times(centered, wide_g);
    let part = g.plus(part, wide_b);
    let part = g.scaled(part, 1.0 / 2048.0);
    let dx = g.minus(dy, part);
    let dx = g.times(dx, wide_scale);
    for (name, v) in [("product", product), ("db", db), ("dg", dg), ("dx", dx)] {
        g.output(name, v);
    }
    let f = check_one_die(&g);
    let large = |n: &&girih_ir::graph::Node| n.ty.components().iter().any(|t| t.elements() == 65536);
    let live = f.live();
    let nodes: Vec<&girih_ir::graph::Node> = f.values().filter(|v| live[v.index()]).map(|v| f.node(v)).collect();
    let kept: Vec<&str> =
        nodes.iter().copied().filter(large).map(|n| n.op.name()).filter(|n| !["input", "proj", "reshape"].contains(n)).collect();
    assert_eq!(kept, ["map", "map"], "the activation and the gradient are all that is kept");
    let firsts = nodes.iter().filter(|n| matches!(&n.op, Op::Fused(o) if o.cols == 2)).count();
    assert_eq!(firsts, 2, "two sums of the operand, two of its gradient");
}

#[test]
fn one_summed_dimension_is_cut_into_blocks() {
    let (mut g, v) = new(&[&[512, 160], &[512, 160]]);
    let t = g.times(v[0], v[1]);
    let s = g.sum(t, &[0]);
    g.output("s", s);
    let f = check_one_die(&g);
    assert_eq!(names(&f), ["reshape", "reshape", "rows", "rows"]);
}

#[test]
fn a_short_sum_of_many_results_stays_in_one_level() {
    let (mut g, v) = new(&[&[128, 512]]);
    let s = g.sum(v[0], &[0]);
    g.output("s", s);
    assert_eq!(names(&check_one_die(&g)), ["reduce"]);
}

#[test]
fn random_graphs_keep_their_meaning_on_one_die() {
    for seed in 1..60 {
        check_one_die(&random_graph(seed));
    }
}
