//! A placed product for the tests of placing.

use super::{PlacedGraph, place};
use crate::sharded::{AxisSet, LoopSplit, MeshShape, ShardedGraph, Stages, Strategy};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::UnaryFn;
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use girih_ir::types::{DType, TensorType};

/// `tanh(x · w)` of an `m×k` and a `k×n` matrix on some rows and columns of a tile, the product and its reader split so.
pub(super) fn product(
    [m, k, n]: [usize; 3],
    (rows, cols): (usize, usize),
    dot_split: [AxisSet; 3],
    reader_split: [AxisSet; 2],
) -> (ValueId, PlacedGraph) {
    let mut g = Graph::new("product");
    let x = g.input("x", TensorType::new(DType::F32, [m, k]), Role::Data);
    let w = g.input("w", TensorType::new(DType::F32, [k, n]), Role::Data);
    let dot = g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[x, w]).unwrap();
    let y = g.unary(UnaryFn::Tanh, dot);
    g.output("y", y);
    let mut strategies = vec![Strategy::new(); g.nodes().len()];
    strategies[dot.index()] = dot_split.map(LoopSplit::Over).into_iter().collect();
    strategies[y.index()] = reader_split.map(LoopSplit::Over).into_iter().collect();
    let target = Target::builtin("dojo-tile").unwrap();
    let (step, mesh) = (TrainStep::inference(g), MeshShape { rows, cols });
    let sharded =
        ShardedGraph { step, mesh, strategies, cost: 0, reuse: None, remat: Vec::new(), streamed: Vec::new(), stages: Stages::default() };
    (dot, place(sharded, &target.logical_mesh(rows, cols).unwrap(), &target).unwrap())
}
