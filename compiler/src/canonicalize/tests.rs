//! Canonicalization keeps meanings and is idempotent.

use super::canonicalize;
use girih_ir::graph::random::{random_graph, random_inputs};
use girih_ir::interp::eval;
use girih_ir::tensor::{Data, Tensor};
use girih_ir::text::parse_graph;
use girih_ir::verify::verify;

/// Equal bits, but for the sign of zeros and the payload of NaNs.
fn same(a: &Tensor, b: &Tensor) -> bool {
    match (a.data(), b.data()) {
        (Data::Float(x), Data::Float(y)) => a.ty() == b.ty() && x.iter().zip(y).all(|(x, y)| x == y || (x.is_nan() && y.is_nan())),
        _ => a == b,
    }
}

#[test]
fn random_graphs_keep_their_results() {
    for seed in 0..600 {
        let g = random_graph(seed, 25);
        let (c, stats) = canonicalize(&g);
        assert_eq!(verify(&c), Ok(()), "{g}\n{c}");
        assert!(stats.rounds < super::MAX_ROUNDS, "seed {seed} does not settle:\n{g}");
        let (again, _) = canonicalize(&c);
        assert_eq!(again, c, "seed {seed} is not idempotent:\n{g}\n{c}\n{again}");
        let inputs = random_inputs(&g, seed);
        let (want, got) = (eval(&g, &inputs).unwrap(), eval(&c, &inputs).unwrap());
        for (w, g2) in want.iter().zip(&got) {
            assert!(same(w, g2), "seed {seed}: {w:?} became {g2:?}\n{g}\n{c}");
        }
    }
}

fn check(body: &str, expect: &str) {
    let text = |b: &str| format!("graph (%x: f32[2,3], %y: f32[2,3], %i: i32[4], %h: bf16[2]) {{ {b} }}");
    let g = parse_graph(&text(body)).unwrap_or_else(|e| panic!("{e}"));
    let want = parse_graph(&text(expect)).unwrap_or_else(|e| panic!("{e}"));
    let (mut got, _) = canonicalize(&g);
    got.outputs.iter_mut().zip(&want.outputs).for_each(|(g, w)| g.name.clone_from(&w.name));
    assert_eq!(got.to_string(), want.to_string());
}

#[test]
fn no_ops_vanish() {
    let zero = "%c = constant {value = dense<f32[2,3] 0>}";
    check(&format!("{zero} %a = add %c, %x %b = sub %a, %c return %b"), "return %x");
    check("%c = constant {value = dense<f32[2,3] 1>} %a = mul %c, %x %b = div %a, %c %d = pow %b, %c return %d", "return %x");
    check("%a = neg %x %b = neg %a return %b", "return %x");
    check("%a = neg %x %b = add %a, %y return %b", "%a = sub %y, %x return %a");
    check("%a = reshape %x {shape = [6]} %b = reshape %a {shape = [2, 3]} return %b", "return %x");
    check("%a = transpose %x {permutation = [1, 0]} %b = transpose %a {permutation = [1, 0]} return %b", "return %x");
    check("%a = broadcast %x {shape = [2, 3], dims = [0, 1]} return %a", "return %x");
    check("%a = slice %x {start = [0, 0], limit = [2, 3], stride = [1, 1]} return %a", "return %x");
    check("%c = constant {value = dense<f32[] 7>} %a = pad %x, %c {low = [0, 0], high = [0, 0], interior = [0, 0]} return %a", "return %x");
    check("%a = convert %h {to = f32} %b = convert %a {to = bf16} return %b", "return %h");
    check("%c = constant {value = dense<bool[2,3] 1>} %a = select %c, %x, %y return %a", "return %x");
}

#[test]
fn commuted_sums_are_one() {
    check("%a = add %x, %y %b = add %y, %x %c = mul %a, %b return %c", "%a = add %x, %y %c = mul %a, %a return %c");
}

#[test]
fn inexact_things_stay() {
    for body in [
        "%a = convert %x {to = bf16} %b = convert %a {to = f32} return %b",
        "%a = sub %x, %x return %a",
        "%a = eq %x, %x return %a",
        "%a = convert %x {to = i8} %b = convert %a {to = i32} return %b",
    ] {
        check(body, body);
    }
}

#[test]
fn constants_fold_and_stay_small() {
    check(
        "%a = constant {value = dense<f32[2,3] [1, 2, 3, 4, 5, 6]>} %b = transpose %a {permutation = [1, 0]} %c = reshape %b {shape = [2, 3]} return %c",
        "%c = constant {value = dense<f32[2,3] [1, 4, 2, 5, 3, 6]>} return %c",
    );
    check(
        "%a = constant {value = dense<f32[] 2>} %b = broadcast %a {shape = [2, 3], dims = []} %c = sqrt %b %d = mul %c, %c return %d",
        "%a = constant {value = dense<f32[] 1.9999999>} %b = broadcast %a {shape = [2, 3], dims = []} return %b",
    );
    let big = "%a = constant {value = dense<f32[] 2>} %b = broadcast %a {shape = [4096, 4096], dims = []}";
    check(
        &format!("{big} %c = reduce %b {{monoid = sum, dims = [1]}} return %c"),
        &format!("{big} %c = reduce %b {{monoid = sum, dims = [1]}} return %c"),
    );
}

#[test]
fn a_reversed_kernel_is_read_backwards() {
    let attrs = |reverse: &str, dims: &str| {
        format!(
            "{{stride = [1, 1], pad_low = [1, 1], pad_high = [1, 1], lhs_dilation = [1, 1], rhs_dilation = [1, 1], reverse = {reverse}, \
             lhs_dims = [0, 3, 1, 2], rhs_dims = {dims}, out_dims = [0, 3, 1, 2], feature_groups = 1, batch_groups = 1}}"
        )
    };
    let graph = |turned: &str, reverse: &str, kernel: &str| {
        let a = attrs(reverse, "[2, 3, 0, 1]");
        let text = format!("graph (%x: f32[2,5,4,3], %w: f32[3,2,2,3]) {{ {turned} %y = convolution %x, {kernel} {a} return %y \"y\" }}");
        parse_graph(&text).unwrap_or_else(|e| panic!("{e}"))
    };
    let g = graph("%r = reverse %w {dims = [0, 1]}", "[0, 1]", "%r");
    let (c, _) = canonicalize(&g);
    assert_eq!(c.to_string(), graph("", "[1, 0]", "%w").to_string());
    let inputs = random_inputs(&g, 3);
    assert_eq!(eval(&g, &inputs).unwrap(), eval(&c, &inputs).unwrap());
    // A reversal of channels is none of the window's.
    let g = graph("%r = reverse %w {dims = [0, 2]}", "[0, 0]", "%r");
    assert_eq!(canonicalize(&g).0.to_string(), g.to_string());
}
