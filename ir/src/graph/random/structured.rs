//! Random ops with structure: data movement, windows, rows, several results, fused programs.

use super::{Random, choose, matching};
use crate::attr::Real;
use crate::fused::{Expr, FusedProgram};
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::ops::arg_reduce::ArgReduce;
use crate::ops::concat::Concat;
use crate::ops::convolution::Convolution;
use crate::ops::cumulative::Cumulative;
use crate::ops::dynamic_slice::DynamicSlice;
use crate::ops::fused::Fused;
use crate::ops::gather::Gather;
use crate::ops::gelu::Gelu;
use crate::ops::iota::Iota;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::log_softmax::LogSoftmax;
use crate::ops::pad::Pad;
use crate::ops::reduce_window::ReduceWindow;
use crate::ops::reverse::Reverse;
use crate::ops::silu::Silu;
use crate::ops::slice::Slice;
use crate::ops::softmax::Softmax;
use crate::ops::sort::Sort;
use crate::ops::top_k::TopK;
use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use crate::types::{DType, Dims, TensorType};
use std::sync::Arc;

/// A random structured op on `a` and what else it needs; `None` when the chosen one does not fit.
pub(super) fn structured(g: &mut Graph, r: &mut Random, a: ValueId) -> Option<(Op, Vec<ValueId>)> {
    let ty = g.tensor_ty(a).clone();
    let (rank, shape) = (ty.rank(), ty.shape.clone());
    let dim = r.below(rank);
    let some = rank > 0 && ty.elements() > 0;
    let scalar = |g: &mut Graph, r: &mut Random| matching(g, r, &TensorType::scalar(ty.dtype));
    Some(match r.below(16) {
        0 => (slice(r, &shape).into(), vec![a]),
        1 => {
            let edge = |r: &mut Random| (0..rank).map(|_| r.below(4) as i64 - 1).collect::<Vec<i64>>();
            let op = Pad { low: edge(r), high: edge(r), interior: (0..rank).map(|_| r.below(2)).collect() };
            let fill = scalar(g, r);
            (op.into(), vec![a, fill])
        }
        2 if some => {
            let mut other = ty.clone();
            other.shape[dim] = r.below(3);
            let b = matching(g, r, &other);
            (Concat { dim }.into(), if r.one_in(2) { vec![a, b] } else { vec![b, a, a] })
        }
        3 => (Reverse { dims: r.subset(rank) }.into(), vec![a]),
        4 => (
            Iota { dtype: *r.pick(&[DType::F32, DType::I32, DType::I64]), shape: Dims::from_slice(&[2, 3]), dim: r.below(2) }.into(),
            vec![],
        ),
        5 if some => {
            let window = shape.iter().map(|e| 1 + r.below((*e).min(2))).collect();
            let stride = (0..rank).map(|_| 1 + r.below(2)).collect();
            let monoid = *r.pick(&[Monoid::Sum, Monoid::Max]);
            (ReduceWindow::plain(monoid, window, stride).into(), vec![a])
        }
        6 if some && ty.dtype.is_float() => {
            let op: Op = if r.one_in(2) { Softmax { dim }.into() } else { LogSoftmax { dim }.into() };
            (op, vec![a])
        }
        7 if ty.dtype.is_float() => {
            let op: Op = if r.one_in(2) { Gelu { tanh: r.one_in(2) }.into() } else { Silu {}.into() };
            (op, vec![a])
        }
        8 if some && ty.dtype.is_float() => {
            let row = TensorType::new(ty.dtype, &shape[rank - 1..]);
            let (scale, shift) = (matching(g, r, &row), matching(g, r, &row));
            (LayerNorm { trailing: 1, eps: Real::new(1e-5) }.into(), vec![a, scale, shift])
        }
        9 if some => {
            let op = Cumulative { monoid: *r.pick(&[Monoid::Sum, Monoid::Max]), dim, exclusive: r.one_in(2), reverse: r.one_in(2) };
            (op.into(), vec![a])
        }
        10 if some => {
            let kind = *r.pick(&[Monoid::Max, Monoid::Min]);
            (ArgReduce { dim, kind, select_last: r.one_in(2), dtype: DType::I32 }.into(), vec![a])
        }
        11 if some => {
            let all = Sort { dim, descending: r.one_in(2), stable: true };
            let best = TopK { k: 1, largest: r.one_in(2), dtype: DType::I64 };
            let op: Op = if r.one_in(2) { all.into() } else { best.into() };
            let tuple = g.add(op, &[a]).ok()?;
            let component = r.below(g.ty(tuple).components().len());
            (crate::ops::proj::Proj { index: component }.into(), vec![tuple])
        }
        12 if some => {
            let starts = (0..rank).map(|_| matching(g, r, &TensorType::scalar(DType::I32))).collect::<Vec<_>>();
            let sizes = shape.iter().map(|e| 1 + r.below(*e)).collect();
            (DynamicSlice { sizes }.into(), [vec![a], starts].concat())
        }
        13 if some => take(g, r, a),
        14 if ty.dtype.is_float() => convolution(g, r, ty.dtype)?,
        15 if some && ty.dtype.is_float() => fused(r, a, &ty),
        _ => return None,
    })
}

fn slice(r: &mut Random, shape: &[usize]) -> Slice {
    let start: Dims = shape.iter().map(|e| r.below(e + 1).min(1)).collect();
    let limit = shape.iter().zip(&start).map(|(e, s)| s + r.below(e - s + 1).max((e - s).min(1))).collect();
    Slice { start, limit, stride: shape.iter().map(|_| 1 + r.below(2)).collect() }
}

/// Rows of `a` at random places.
fn take(g: &mut Graph, r: &mut Random, a: ValueId) -> (Op, Vec<ValueId>) {
    let mut slice_sizes = Dims::from_slice(g.shape(a));
    slice_sizes[0] = 1;
    let places = matching(g, r, &TensorType::new(DType::I32, [2]));
    let op = Gather {
        offset_dims: (1..slice_sizes.len()).collect(),
        collapsed_slice_dims: vec![0],
        operand_batching_dims: vec![],
        start_indices_batching_dims: vec![],
        start_index_map: vec![0],
        index_vector_dim: 1,
        slice_sizes,
    };
    (op.into(), vec![a, places])
}

/// A small convolution over one spatial dimension.
fn convolution(g: &mut Graph, r: &mut Random, dtype: DType) -> Option<(Op, Vec<ValueId>)> {
    let x = choose(g, r, |t| t.dtype == dtype && t.rank() == 3 && t.elements() > 0)?;
    let (features, length) = (g.shape(x)[1], g.shape(x)[2]);
    let outs = 1 + r.below(2);
    let w = matching(g, r, &TensorType::new(dtype, [outs, features, length.min(2)]));
    let mut op = Convolution::plain(1);
    op.pad_low[0] = r.below(2) as i64;
    op.stride[0] = 1 + r.below(2);
    op.reverse[0] = r.one_in(3);
    Some((op.into(), vec![x, w]))
}

/// A map, or a row-wise program when there is a column.
fn fused(r: &mut Random, a: ValueId, ty: &TensorType) -> (Op, Vec<ValueId>) {
    let d = ty.dtype;
    let cols = r.below(2);
    let half = Expr::Const(d, 0.5f64.to_bits());
    let mut body = vec![Expr::Input(0), half, Expr::Binary(BinaryFn::Mul, 0, 1), Expr::Compare(CompareFn::Lt, 0, 1)];
    body.extend([Expr::Unary(UnaryFn::Tanh, 2), Expr::Select(3, 4, 0)]);
    if cols > 0 {
        body.extend([Expr::Reduce(Monoid::Max, 5), Expr::Binary(BinaryFn::Sub, 5, 6)]);
    }
    body.push(Expr::Index(d, 0));
    let last = body.len() as u32 - 1;
    body.push(Expr::Binary(BinaryFn::Add, last - 1, last));
    let program = FusedProgram { inputs: vec![d], body, outputs: vec![last + 1] };
    let operands = vec![(0..ty.rank()).collect()];
    (Fused { program: Arc::new(program), loops: ty.shape.clone(), cols, operands }.into(), vec![a])
}
