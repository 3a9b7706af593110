//! Snapshots of passes, from text to text: one file in `cases/<stage>/`, one snapshot that shows input and result.
#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::fuse::fuse;
use girih_compiler::optimize::{OptimizeOptions, optimize};
use girih_ir::graph::Graph;
use girih_ir::interp;
use girih_ir::tensor::Tensor;
use girih_ir::text::parse_graph;
use std::path::Path;

fn read(path: &Path) -> Graph {
    let text = std::fs::read_to_string(path).expect("the case is there");
    parse_graph(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Both graphs on the same numbers, to f32 rounding.
fn assert_same_meaning(a: &Graph, b: &Graph) {
    let mut s = 0x2545_F491_4F6C_DD1Du64;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    };
    let ins: Vec<Tensor> = a
        .inputs
        .iter()
        .map(|i| {
            let ty = a.tensor_ty(i.value);
            Tensor::new_float(ty.clone(), (0..ty.elements()).map(|_| next()).collect())
        })
        .collect();
    let (x, y) = (interp::eval(a, &ins).expect("the input runs"), interp::eval(b, &ins).expect("the result runs"));
    for (x, y) in x.iter().zip(&y) {
        for (x, y) in x.floats().into_iter().zip(y.floats()) {
            assert!((x - y).abs() <= 2e-5 * x.abs().max(1.0), "{x} became {y}");
        }
    }
}

#[test]
fn optimize_cases() {
    insta::glob!("../cases/optimize", "*.gir", |path| {
        let graph = read(path);
        let done = optimize(&graph, &OptimizeOptions { explain: true, ..OptimizeOptions::default() }).expect("the rules are sound");
        assert_same_meaning(&graph, &done.graph);
        insta::assert_snapshot!(format!("{graph}\n{}\n{}", done.graph, done.report));
    });
}

#[test]
fn fuse_cases() {
    insta::glob!("../cases/fuse", "*.gir", |path| {
        let graph = read(path);
        let (fused, report) = fuse(&graph);
        assert_same_meaning(&graph, &fused);
        insta::assert_snapshot!(format!("{graph}\n{fused}\n{report}\n"));
    });
}
