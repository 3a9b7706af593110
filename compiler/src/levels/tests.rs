//! Round trips of every level on small steps over several meshes.

use super::*;
use crate::partition::{PartitionOptions, partition};
use crate::{lower, memory, place, schedule};
use girih_ir::graph::{Graph, Role};
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::step::{StatePair, TrainStep};
use girih_ir::target::Target;
use girih_ir::types::{DType, TensorType};

/// One step of linear regression by gradient descent: w ← w − 0.1 · xᵀ(xw − y).
fn regression() -> TrainStep {
    let mut g = Graph::new("regression");
    let ty = |s: &[usize]| TensorType::new(DType::F32, s);
    let x = g.input("x", ty(&[64, 48]), Role::Data);
    let y = g.input("y", ty(&[64, 32]), Role::Data);
    let w = g.input("w", ty(&[48, 32]), Role::Param);
    let out = g.emit(DotGeneral::matmul(2, 0, 0), &[x, w]);
    let error = g.minus(out, y);
    let product = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0], rhs_contract: vec![0] };
    let gradient = g.emit(product, &[x, error]);
    let rate = g.splat_like(gradient, 0.1);
    let change = g.times(rate, gradient);
    let next = g.minus(w, change);
    let square = g.times(error, error);
    let loss = g.sum(square, &[0, 1]);
    g.output("w", next);
    g.output("loss", loss);
    let state = vec![StatePair { name: "w".into(), input: 2, output: Some(0), role: Role::Param }];
    TrainStep { graph: g, state, loss: Some(1), seed: 0 }
}

#[test]
fn every_level_round_trips_on_every_mesh() {
    let target = Target::builtin("dojo-tile").expect("a built-in target");
    let fused = {
        let mut step = regression();
        step.graph = crate::fuse::fuse(&step.graph).0;
        step
    };
    for dies in [1, 2, 5, 9, 24, 25] {
        let options = PartitionOptions { dies: Some(dies), ..PartitionOptions::default() };
        let (sharded, mesh, _) = partition(&fused, &target, &options).expect("the tile has that many dies");
        assert_eq!(mesh.count(), dies);
        assert_eq!(parse_sharded(&sharded.to_string()), Ok(sharded.clone()));
        let placed = place::place(sharded, &mesh, &target).expect("routes exist");
        assert_eq!(parse_placed(&placed.to_string()), Ok(placed.clone()));
        let scheduled = schedule::schedule(placed);
        assert_eq!(parse_schedule(&scheduled.to_string()), Ok(scheduled.clone()));
        let plan = memory::plan(scheduled, &target).expect("it fits");
        assert_eq!(parse_memory(&plan.to_string()), Ok(plan.clone()));
        let program = lower::lower(plan, &target).expect("every op has an instruction");
        assert_eq!(program.dies.len(), dies);
    }
}

#[test]
fn damaged_levels_are_refused_with_the_line() {
    let target = Target::builtin("dojo-tile").expect("a built-in target");
    let (sharded, mesh, _) =
        partition(&regression(), &target, &PartitionOptions { dies: Some(4), ..PartitionOptions::default() }).expect("four dies");
    let text = place::place(sharded, &mesh, &target).expect("routes exist").to_string();
    let refused = |from: &str, to: &str| match parse_placed(&text.replacen(from, to, 1)) {
        Err(LevelError::Line { why, .. }) => why,
        other => panic!("{from} -> {to} was answered with {other:?}"),
    };
    assert_eq!(refused("dies d", "dice d"), "`dies`, `buffer`, `message` or `task` is expected");
    assert_eq!(refused("buffer b1 ", "buffer b7 "), "buffers are numbered in order");
    assert_eq!(refused(" f32 own", " f64 own"), "the buffer does not fit its value");
    assert_eq!(refused("message 0 p", "message 0 q"), "another kind of id is expected here");
    assert!(matches!(parse_placed("step"), Err(LevelError::Step(_))));
}
