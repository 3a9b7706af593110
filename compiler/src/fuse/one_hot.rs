//! One element a row, said with comparisons: the pick of a label's logarithm, and its gradient.
//!
//! `gather` and `scatter` of one element a row touch one number at a time and keep their whole operand in memory. Compared with the index along
//! the row, they are elementwise and a reduction of rows, so that they become a part of the group that makes the row, or that reads it.
//! Both give the same numbers: the pick is the largest of the one element and −∞.

use super::MAX_ROW;
use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::gather::Gather;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::scatter::{Combiner, Scatter};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::types::{DType, Dims, element_count};
use std::convert::Infallible;

/// The graph with its picks as comparisons; `None` when it has none.
pub(super) fn expand(graph: &Graph) -> Option<Graph> {
    let live = graph.live();
    let any = graph.values().any(|v| live[v.index()] && matches!(graph.node(v).op, Op::Gather(_) | Op::Scatter(_)));
    let rewrite = |out: &mut Graph, node: &Node, operands: &[ValueId]| {
        let made = match (&node.op, operands) {
            (Op::Gather(g), [x, at]) => pick(out, g, *x, *at),
            (Op::Scatter(s), [x, at, updates]) => place(out, s, *x, *at, *updates),
            _ => None,
        };
        Ok::<ValueId, Infallible>(made.unwrap_or_else(|| out.emit(node.op.clone(), operands)))
    };
    if !any {
        return None;
    }
    match graph.rewritten(rewrite) {
        Ok((out, _)) => Some(out),
        Err(never) => match never {},
    }
}

/// Whether there is one index a row: rows are everything but the last dimension of the operand, in order.
fn one_a_row(graph: &Graph, (x, at): (ValueId, ValueId), [mapped, dropped]: [&[usize]; 2], [rows, of_rows]: [&[usize]; 2]) -> bool {
    let shape = graph.shape(x);
    let Some(last) = shape.len().checked_sub(1).filter(|last| *last > 0 && (2..=MAX_ROW).contains(&shape[*last])) else { return false };
    let indices = graph.tensor_ty(at);
    let plain = mapped == [last] && dropped == [last] && rows.iter().copied().eq(0..last) && of_rows.is_sorted();
    let exact = matches!(indices.dtype, DType::I32 | DType::I64 | DType::U32 | DType::U64);
    plain && exact && graph.tensor_ty(x).dtype == DType::F32 && indices.elements() == element_count(&shape[..last])
}

/// Where the index along the rows of `x` is the index of the row.
fn hits(graph: &mut Graph, x: ValueId, at: ValueId) -> ValueId {
    let (shape, dtype) = (Dims::from_slice(graph.shape(x)), graph.tensor_ty(at).dtype);
    let last = shape.len() - 1;
    let along = graph.emit(Iota { dtype, shape: shape.clone(), dim: last }, &[]);
    let at = along_rows(graph, at, &shape);
    graph.compare(CompareFn::Eq, along, at)
}

/// One element a row, repeated along the rows.
fn along_rows(graph: &mut Graph, one: ValueId, shape: &Dims) -> ValueId {
    let last = shape.len() - 1;
    let one = graph.reshape(one, &shape[..last]);
    graph.broadcast(one, shape, &(0..last).collect::<Vec<_>>())
}

/// Whether a value is made by a group; of one that is not, whole rows would have to be read for the pick.
fn is_made(graph: &Graph, x: ValueId) -> bool {
    let node = graph.node(x);
    match &node.op {
        Op::Proj(_) => graph.node(node.operands[0]).op.is_composite(),
        Op::Unary(_) | Op::Binary(_) | Op::Select(_) | Op::Convert(_) => true,
        op => op.is_composite(),
    }
}

/// Whether a value is 0 everywhere.
fn is_zero(graph: &Graph, x: ValueId) -> bool {
    graph.splat_of(x).is_some_and(|value| value.bytes().iter().all(|b| *b == 0))
}

fn pick(graph: &mut Graph, g: &Gather, x: ValueId, at: ValueId) -> Option<ValueId> {
    let numbers = [&g.operand_batching_dims[..], &g.start_indices_batching_dims[..]];
    let fits = one_a_row(graph, (x, at), [&g.start_index_map, &g.collapsed_slice_dims], numbers);
    if !fits || !is_made(graph, x) || !g.offset_dims.is_empty() {
        return None;
    }
    let shape = Dims::from_slice(graph.shape(x));
    let last = shape.len() - 1;
    let indices = graph.shape(at);
    let result: Vec<usize> = (0..indices.len()).filter(|d| *d != g.index_vector_dim).map(|d| indices[d]).collect();
    // A start outside is the nearest one inside.
    let (low, high) = (graph.splat_like(at, 0.0), graph.splat_like(at, (shape[last] - 1) as f64));
    let at = graph.binary(BinaryFn::Max, at, low);
    let at = graph.binary(BinaryFn::Min, at, high);
    let hits = hits(graph, x, at);
    let nothing = graph.splat_like(x, f64::NEG_INFINITY);
    let one = graph.select(hits, x, nothing);
    let found = graph.reduce(Monoid::Max, one, &[last]);
    Some(graph.reshape(found, &result))
}

fn place(graph: &mut Graph, s: &Scatter, x: ValueId, at: ValueId, updates: ValueId) -> Option<ValueId> {
    let numbers = [&s.input_batching_dims[..], &s.scatter_indices_batching_dims[..]];
    let fits = one_a_row(graph, (x, at), [&s.scatter_dims_to_operand_dims, &s.inserted_window_dims], numbers);
    if !fits || !s.update_window_dims.is_empty() {
        return None;
    }
    let shape = Dims::from_slice(graph.shape(x));
    let updates = along_rows(graph, updates, &shape);
    let new = match s.combiner {
        Combiner::None => updates,
        Combiner::Sum if is_zero(graph, x) => updates,
        Combiner::Sum => graph.plus(x, updates),
        _ => return None,
    };
    let hits = hits(graph, x, at);
    Some(graph.select(hits, new, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::fuse_for_one_die;
    use girih_ir::graph::Role;
    use girih_ir::interp;
    use girih_ir::scalar::UnaryFn;
    use girih_ir::tensor::Tensor;
    use girih_ir::types::TensorType;

    /// exp(x) of rows, the element of each at an index, and the gradient of that.
    fn label_loss(combiner: Combiner, onto: Option<f64>) -> Graph {
        let mut g = Graph::new("label");
        let x = g.input("x", TensorType::new(DType::F32, [6, 5, 9]), Role::Data);
        let at = g.input("at", TensorType::new(DType::I32, [6, 5, 1, 1]), Role::Data);
        let weight = g.input("w", TensorType::new(DType::F32, [6, 5, 1]), Role::Data);
        let y = g.unary(UnaryFn::Exp, x);
        let gather = Gather {
            offset_dims: vec![],
            collapsed_slice_dims: vec![2],
            operand_batching_dims: vec![0, 1],
            start_indices_batching_dims: vec![0, 1],
            start_index_map: vec![2],
            index_vector_dim: 3,
            slice_sizes: Dims::from_elem(1, 3),
        };
        let picked = g.emit(gather, &[y, at]);
        let scatter = Scatter {
            update_window_dims: vec![],
            inserted_window_dims: vec![2],
            input_batching_dims: vec![0, 1],
            scatter_indices_batching_dims: vec![0, 1],
            scatter_dims_to_operand_dims: vec![2],
            index_vector_dim: 3,
            combiner,
        };
        let to = onto.map_or(y, |v| g.splat_like(x, v));
        let spread = g.emit(scatter, &[to, at, weight]);
        let dx = g.times(spread, y);
        g.output("picked", picked);
        g.output("dx", dx);
        g
    }

    #[test]
    fn picks_and_their_gradients_are_parts_of_row_programs() {
        for (combiner, onto) in [(Combiner::Sum, Some(0.0)), (Combiner::Sum, None), (Combiner::None, Some(2.0))] {
            let graph = label_loss(combiner, onto);
            let (fused, _) = fuse_for_one_die(&graph);
            girih_ir::verify::verify(&fused).unwrap();
            assert!(!fused.nodes().iter().any(|n| matches!(n.op, Op::Gather(_) | Op::Scatter(_))));
            let numbers = |n: usize, salt: usize| (0..n).map(|i| ((i * 37 + salt) % 101) as f64 / 25.0 - 2.0).collect::<Vec<_>>();
            let ty = |v: usize| graph.tensor_ty(graph.inputs[v].value).clone();
            // Indices inside and outside: a gather takes the nearest inside, a scatter drops them.
            let at = (0..30).map(|i| (i * 7) % 13 - 2).collect();
            let ins = [Tensor::new_float(ty(0), numbers(270, 5)), Tensor::new_int(ty(1), at), Tensor::new_float(ty(2), numbers(30, 3))];
            let (want, got) = (interp::eval(&graph, &ins).unwrap(), interp::eval(&fused, &ins).unwrap());
            for (want, got) in want.iter().zip(&got) {
                assert_eq!(want.floats(), got.floats(), "{combiner:?} onto {onto:?}");
            }
        }
    }

    #[test]
    fn a_lookup_in_a_stored_table_stays_one() {
        let mut g = Graph::new("lookup");
        let x = g.input("x", TensorType::new(DType::F32, [6, 9]), Role::Data);
        let at = g.input("at", TensorType::new(DType::I32, [6, 1]), Role::Data);
        let gather = Gather {
            offset_dims: vec![],
            collapsed_slice_dims: vec![1],
            operand_batching_dims: vec![0],
            start_indices_batching_dims: vec![0],
            start_index_map: vec![1],
            index_vector_dim: 1,
            slice_sizes: Dims::from_elem(1, 2),
        };
        let v = g.emit(gather, &[x, at]);
        g.output("v", v);
        let (fused, _) = fuse_for_one_die(&g);
        assert!(fused.nodes().iter().any(|n| matches!(n.op, Op::Gather(_))));
    }
}
