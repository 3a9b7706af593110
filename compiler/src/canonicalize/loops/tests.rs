//! Loops keep their meaning and reach a canonical form.

use super::super::{MAX_ROUNDS, canonicalize};
use super::unrolled;
use girih_ir::graph::Graph;
use girih_ir::graph::random::{random_inputs, random_loops};
use girih_ir::interp::eval;
use girih_ir::tensor::{Data, Tensor};
use girih_ir::text::parse_graph;
use girih_ir::types::DType;
use girih_ir::verify::verify;

/// Equal bits, but for the sign of zeros and the payload of NaNs.
fn same(a: &Tensor, b: &Tensor) -> bool {
    match (a.data(), b.data()) {
        (Data::Float(x), Data::Float(y)) => a.ty() == b.ty() && x.iter().zip(y).all(|(x, y)| x == y || (x.is_nan() && y.is_nan())),
        _ => a == b,
    }
}

fn keeps_results(g: &Graph, new: &Graph, seed: u64) {
    assert_eq!(verify(new), Ok(()), "seed {seed}\n{g}\n{new}");
    let inputs = random_inputs(g, seed);
    let (want, got) = (eval(g, &inputs).unwrap(), eval(new, &inputs).unwrap());
    for (w, n) in want.iter().zip(&got) {
        assert!(same(w, n), "seed {seed}: {w:?} became {n:?}\n{g}\n{new}");
    }
}

#[test]
fn random_loops_keep_their_results() {
    let mut rolled = 0;
    for seed in 0..400 {
        let g = random_loops(seed, 14, DType::F32, true);
        let (c, stats) = canonicalize(&g);
        keeps_results(&g, &c, seed);
        assert!(stats.rounds < MAX_ROUNDS, "seed {seed} does not settle:\n{g}");
        let (again, _) = canonicalize(&c);
        assert_eq!(again, c, "seed {seed} is not idempotent:\n{g}\n{c}\n{again}");
        rolled += c.nodes().iter().filter(|n| matches!(n.op.name(), "repeat" | "while")).count();
    }
    assert!(rolled > 100, "{rolled} loops are left");
}

#[test]
fn unrolled_loops_keep_their_results() {
    for seed in 0..60 {
        let g = random_loops(seed, 10, DType::F64, false);
        let u = unrolled(&g);
        keeps_results(&g, &u, seed);
        assert!(u.nodes().iter().all(|n| !matches!(n.op.name(), "repeat" | "while")), "seed {seed}\n{u}");
    }
}

fn check(body: &str, expect: &str) {
    let text = |b: &str| format!("graph (%x: f32[2,3], %xs: f32[20,3], %i: i32[]) {{ {b} }}");
    let g = parse_graph(&text(body)).unwrap_or_else(|e| panic!("{e}"));
    let want = parse_graph(&text(expect)).unwrap_or_else(|e| panic!("{e}"));
    let (mut got, _) = canonicalize(&g);
    got.outputs.iter_mut().zip(&want.outputs).for_each(|(g, w)| g.name.clone_from(&w.name));
    assert_eq!(got.to_string(), want.to_string());
}

#[test]
fn dead_and_invariant_slots_vanish() {
    check(
        "%a = carry %x {loop_id = 0, slot = 0} %b = carry %x {loop_id = 0, slot = 1} %c = carry %x {loop_id = 0, slot = 2}
         %d = sin %a %e = exp %c %f = mul %d, %b
         %l = repeat %a, %b, %c, %f, %b, %e {loop_id = 0, trips = 50} %r = proj %l {index = 0} %s = proj %l {index = 1} %t = add %r, %s return %t",
        "%a = carry %x {loop_id = 0, slot = 0} %d = sin %a %f = mul %x, %d
         %l = repeat %a, %f {loop_id = 0, trips = 50} %r = proj %l {index = 0} %t = add %x, %r return %t",
    );
}

#[test]
fn a_scan_of_jax_becomes_a_counted_loop() {
    check(
        "%z = constant {value = dense<i32[] 0>} %one = constant {value = dense<i32[] 1>} %n = constant {value = dense<i32[] 20>}
         %xs2 = carry %xs {loop_id = 4, slot = 0} %k = carry %z {loop_id = 4, slot = 1} %h0 = slice %xs {start = [0, 0], limit = [1, 3], stride = [1, 1]}
         %h = carry %h0 {loop_id = 4, slot = 2} %p = lt %k, %n
         %neg = lt %k, %z %wrapped = add %k, %n %at = select %neg, %wrapped, %k
         %row = dynamic_slice %xs2, %at, %z {sizes = [1, 3]} %s = mul %h, %row %k2 = add %k, %one
         %l = while %p, %xs2, %k, %h, %xs2, %k2, %s {loop_id = 4} %r = proj %l {index = 2} %q = proj %l {index = 1} return %r, %q",
        "%z = constant {value = dense<i32[] 0>} %n = constant {value = dense<i32[] 20>} %h0 = slice %xs {start = [0, 0], limit = [1, 3], stride = [1, 1]}
         %h = carry %h0 {loop_id = 4, slot = 0} %j = loop_index {loop_id = 4} %at = convert %j {to = i32}
         %row = dynamic_slice %xs, %at, %z {sizes = [1, 3]} %s = mul %h, %row
         %l = repeat %h, %s {loop_id = 4, trips = 20} %r = proj %l {index = 0} return %r, %n",
    );
}

#[test]
fn loops_of_no_or_one_iteration_are_none() {
    let one = |trips: usize| {
        format!(
            "%a = carry %x {{loop_id = 0, slot = 0}} %b = sin %a %l = repeat %a, %b {{loop_id = 0, trips = {trips}}} %r = proj %l {{index = 0}} return %r"
        )
    };
    check(&one(0), "return %x");
    check(&one(1), "%b = sin %x return %b");
    check(&one(2), "%b = sin %x %c = sin %b return %c");
}

#[test]
fn trip_counts_are_found_for_every_comparison() {
    let trips = |f: &str, start: i32, step: i32, bound: i32| {
        let text = format!(
            "graph (%x: f32[2]) {{ %s = constant {{value = dense<i32[] {start}>}} %d = constant {{value = dense<i32[] {step}>}}
             %b = constant {{value = dense<i32[] {bound}>}} %k = carry %s {{loop_id = 0, slot = 0}} %v = carry %x {{loop_id = 0, slot = 1}}
             %p = {f} %k, %b %n = add %k, %d %w = sin %v %l = while %p, %k, %v, %n, %w {{loop_id = 0}} %r = proj %l {{index = 1}} return %r }}"
        );
        let g = canonicalize(&parse_graph(&text).unwrap_or_else(|e| panic!("{e}"))).0;
        let found = g.nodes().iter().find_map(|n| match &n.op {
            girih_ir::ops::Op::Repeat(r) => Some(r.trips),
            _ => None,
        });
        let open = g.nodes().iter().any(|n| n.op.name() == "while");
        (!open).then(|| found.unwrap_or_else(|| g.nodes().iter().filter(|n| n.op.name() == "sin").count()))
    };
    assert_eq!(trips("lt", 0, 1, 100), Some(100));
    assert_eq!(trips("le", 1, 3, 100), Some(34));
    assert_eq!(trips("gt", 100, -7, 0), Some(15));
    assert_eq!(trips("ge", 100, -10, 0), Some(11));
    assert_eq!(trips("ne", 0, 5, 50), Some(10));
    assert_eq!(trips("ne", 0, 5, 51), None, "it would wrap");
    assert_eq!(trips("lt", 5, 1, 5), Some(0));
    assert_eq!(trips("lt", 0, -1, 5), None);
    assert_eq!(trips("le", 0, 1, i32::MAX), None, "it never ends");
    assert_eq!(trips("eq", 3, 1, 3), Some(1));
}

#[test]
fn boxes_of_known_place_are_slices() {
    check(
        "%z = constant {value = dense<i32[] 0>} %k = constant {value = dense<i32[] 30>} %a = dynamic_slice %xs, %k, %z {sizes = [2, 3]} return %a",
        "%a = slice %xs {start = [18, 0], limit = [20, 3], stride = [1, 1]} return %a",
    );
    check(
        "%z = constant {value = dense<i32[] 0>} %u = dynamic_update_slice %xs, %x, %i, %z %a = dynamic_slice %u, %i, %z {sizes = [2, 3]} return %a",
        "return %x",
    );
}
