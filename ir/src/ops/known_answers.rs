//! Known answers: the examples of the StableHLO specification, and small cases worked out by hand.

use super::Op;
use super::arg_reduce::ArgReduce;
use super::concat::Concat;
use super::convolution::Convolution;
use super::cumulative::Cumulative;
use super::dynamic_update_slice::DynamicUpdateSlice;
use super::gather::Gather;
use super::pad::Pad;
use super::reduce_window::ReduceWindow;
use super::reverse::Reverse;
use super::scatter::{Combiner, Scatter};
use super::select_and_scatter::SelectAndScatter;
use super::slice::Slice;
use super::sort::Sort;
use super::top_k::TopK;
use crate::graph::random::Random;
use crate::scalar::{CompareFn, Monoid};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType, Type};

fn floats(shape: &[usize], values: impl IntoIterator<Item = f64>) -> Tensor {
    Tensor::new_float(TensorType::new(DType::F32, shape), values.into_iter().collect())
}

fn ints(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::new_int(TensorType::new(DType::I32, shape), values.to_vec())
}

fn ramp(shape: &[usize]) -> Tensor {
    let ty = TensorType::new(DType::F32, shape);
    let n = ty.elements();
    Tensor::new_float(ty, (1..=n).map(|v| v as f64).collect())
}

fn dims(d: &[usize]) -> Dims {
    Dims::from_slice(d)
}

fn run(op: impl Into<Op>, ins: &[&Tensor]) -> Vec<Tensor> {
    let op = op.into();
    let types: Vec<Type> = ins.iter().map(|t| t.ty().clone().into()).collect();
    let out = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
    op.eval(ins, &out)
}

fn check(op: impl Into<Op>, ins: &[&Tensor], shape: &[usize], values: &[f64]) {
    let made = &run(op, ins)[0];
    assert_eq!((made.shape(), &made.floats()[..]), (shape, values));
}

#[test]
fn convolution_dilates_strides_and_reverses() {
    let lhs = floats(&[1, 4, 4, 1], [1, 2, 5, 6, 3, 4, 7, 8, 10, 11, 14, 15, 12, 13, 16, 17].map(f64::from));
    let rhs = floats(&[3, 3, 1, 1], [1.0; 9]);
    let op = Convolution {
        stride: dims(&[4, 4]),
        lhs_dilation: dims(&[2, 2]),
        lhs_dims: vec![0, 3, 1, 2],
        rhs_dims: vec![3, 2, 0, 1],
        out_dims: vec![0, 3, 1, 2],
        ..Convolution::plain(2)
    };
    check(op, &[&lhs, &rhs], &[1, 2, 2, 1], &[10.0, 26.0, 46.0, 62.0]);
    let (x, w) = (ramp(&[1, 1, 4]), floats(&[1, 1, 2], [1.0, 10.0]));
    let plain = Convolution::plain(1);
    check(plain.clone(), &[&x, &w], &[1, 1, 3], &[21.0, 32.0, 43.0]);
    check(Convolution { reverse: vec![true], ..plain.clone() }, &[&x, &w], &[1, 1, 3], &[12.0, 23.0, 34.0]);
    check(Convolution { rhs_dilation: dims(&[2]), pad_low: vec![1], ..plain.clone() }, &[&x, &w], &[1, 1, 3], &[20.0, 31.0, 42.0]);
    check(Convolution { pad_low: vec![-1], pad_high: vec![1], ..plain }, &[&x, &w], &[1, 1, 3], &[32.0, 43.0, 4.0]);
}

/// A grouped convolution is the concatenation of one convolution a group.
#[test]
fn groups_are_separate_convolutions() {
    let mut r = Random::new(1);
    let mut noise = |shape: &[usize]| r.tensor(&TensorType::new(DType::F64, shape));
    let part = |t: &Tensor, dim: usize, g: usize, groups: usize| {
        let mut start = Dims::from_elem(0, t.shape().len());
        let mut limit = dims(t.shape());
        let n = t.shape()[dim] / groups;
        (start[dim], limit[dim]) = (g * n, (g + 1) * n);
        run(Slice { start, limit, stride: Dims::from_elem(1, t.shape().len()) }, &[t]).remove(0)
    };
    let plain = Convolution { pad_low: vec![1], ..Convolution::plain(1) };
    let (x, w) = (noise(&[2, 6, 5]), noise(&[9, 2, 3]));
    let each: Vec<Tensor> = (0..3).map(|g| run(plain.clone(), &[&part(&x, 1, g, 3), &part(&w, 0, g, 3)]).remove(0)).collect();
    let together = run(Concat { dim: 1 }, &each.iter().collect::<Vec<_>>());
    assert_eq!(run(Convolution { feature_groups: 3, ..plain.clone() }, &[&x, &w]), together);
    let (x, w) = (noise(&[6, 2, 5]), noise(&[9, 2, 3]));
    let each: Vec<Tensor> = (0..3).map(|g| run(plain.clone(), &[&part(&x, 0, g, 3), &part(&w, 0, g, 3)]).remove(0)).collect();
    let together = run(Concat { dim: 1 }, &each.iter().collect::<Vec<_>>());
    assert_eq!(run(Convolution { batch_groups: 3, ..plain }, &[&x, &w]), together);
}

#[test]
fn windows_follow_the_specification() {
    let op = ReduceWindow {
        base_dilation: dims(&[2, 1]),
        window_dilation: dims(&[3, 1]),
        pad_low: vec![2, 0],
        pad_high: vec![1, 0],
        ..ReduceWindow::plain(Monoid::Sum, dims(&[2, 1]), dims(&[4, 1]))
    };
    check(op, &[&ramp(&[3, 2])], &[2, 2], &[0.0, 0.0, 3.0, 4.0]);
    let operand = floats(&[4, 2], [1, 5, 2, 5, 3, 6, 4, 4].map(f64::from));
    let source = floats(&[2, 2], [5.0, 6.0, 7.0, 8.0]);
    let op =
        SelectAndScatter { select: CompareFn::Ge, window: dims(&[3, 1]), stride: dims(&[2, 1]), pad_low: vec![0, 0], pad_high: vec![1, 0] };
    check(op, &[&operand, &source], &[4, 2], &[0.0, 0.0, 0.0, 0.0, 5.0, 14.0, 7.0, 0.0]);
    // Equal elements: the first is selected.
    let op = SelectAndScatter { select: CompareFn::Ge, window: dims(&[3]), stride: dims(&[3]), pad_low: vec![0], pad_high: vec![0] };
    check(op, &[&floats(&[3], [2.0, 2.0, 1.0]), &floats(&[1], [5.0])], &[3], &[5.0, 0.0, 0.0]);
}

#[test]
fn gather_clamps_and_scatter_drops() {
    let operand = ramp(&[3, 4, 2]);
    let starts = ints(&[2, 3, 2], &[0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 0, 9]);
    let gather = Gather {
        offset_dims: vec![2, 3],
        collapsed_slice_dims: vec![0],
        operand_batching_dims: vec![],
        start_indices_batching_dims: vec![],
        start_index_map: vec![1, 0],
        index_vector_dim: 2,
        slice_sizes: dims(&[1, 2, 2]),
    };
    let want = [1, 2, 3, 4, 3, 4, 5, 6, 13, 14, 15, 16, 9, 10, 11, 12, 11, 12, 13, 14, 17, 18, 19, 20].map(f64::from);
    check(gather, &[&operand, &starts], &[2, 3, 2, 2], &want);
    let starts = ints(&[2, 3, 2], &[0, 2, 1, 0, 2, 1, 0, 1, 1, 0, 0, 9]);
    let scatter = Scatter {
        update_window_dims: vec![2, 3],
        inserted_window_dims: vec![0],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        scatter_dims_to_operand_dims: vec![1, 0],
        index_vector_dim: 2,
        combiner: Combiner::Sum,
    };
    let want = [1, 2, 5, 6, 7, 8, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 21, 22, 23, 24].map(f64::from);
    check(scatter, &[&operand, &starts, &floats(&[2, 3, 2, 2], [1.0; 24])], &[3, 4, 2], &want);
    // Replacing: the last of two updates of one place wins.
    let op = Scatter {
        update_window_dims: vec![],
        inserted_window_dims: vec![0],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        combiner: Combiner::None,
    };
    check(op, &[&ramp(&[3]), &ints(&[3], &[1, -1, 1]), &floats(&[3], [7.0, 8.0, 9.0])], &[3], &[1.0, 9.0, 3.0]);
    let take = Gather::take(&[3, 2], 2, 0);
    check(take, &[&ramp(&[3, 2]), &ints(&[1, 2], &[2, 0])], &[1, 2, 2], &[5.0, 6.0, 1.0, 2.0]);
}

#[test]
fn movement_follows_the_specification() {
    let op = Pad { low: vec![0, 1], high: vec![2, 1], interior: dims(&[1, 2]) };
    let mut want = vec![0.0; 45];
    for (k, p) in [1, 4, 7, 19, 22, 25].into_iter().enumerate() {
        want[p] = k as f64 + 1.0;
    }
    check(op, &[&ramp(&[2, 3]), &floats(&[], [0.0])], &[5, 9], &want);
    check(Pad::edges(vec![-1], vec![1]), &[&ramp(&[3]), &floats(&[], [9.0])], &[3], &[2.0, 3.0, 9.0]);
    let op = Slice { start: dims(&[1, 4]), limit: dims(&[3, 8]), stride: dims(&[1, 2]) };
    check(op, &[&ramp(&[3, 8])], &[2, 2], &[13.0, 15.0, 21.0, 23.0]);
    check(Reverse { dims: vec![1] }, &[&ramp(&[2, 2])], &[2, 2], &[2.0, 1.0, 4.0, 3.0]);
    let (low, high) = (ints(&[], &[-1]), ints(&[], &[3]));
    check(DynamicUpdateSlice {}, &[&ramp(&[2, 3]), &floats(&[1, 2], [0.0, 0.0]), &low, &high], &[2, 3], &[1.0, 0.0, 0.0, 4.0, 5.0, 6.0]);
}

#[test]
fn rows_are_ordered_with_ties_and_nan() {
    let nan = f64::NAN;
    let arg = |kind, select_last, values: [f64; 4]| {
        let op = ArgReduce { dim: 0, kind, select_last, dtype: DType::I32 };
        run(op, &[&floats(&[4], values)])[0].ints()[0]
    };
    assert_eq!(arg(Monoid::Max, false, [1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(arg(Monoid::Max, true, [1.0, 3.0, 3.0, 2.0]), 2);
    assert_eq!(arg(Monoid::Min, false, [1.0, nan, 0.0, nan]), 1);
    assert_eq!(arg(Monoid::Min, true, [1.0, nan, 0.0, nan]), 3);
    let sorted = |descending| {
        let op = Sort { dim: 0, descending, stable: true };
        run(op, &[&floats(&[5], [2.0, nan, -1.0, 2.0, 0.0]), &ints(&[5], &[0, 1, 2, 3, 4])])[1].ints()
    };
    assert_eq!(sorted(false), [2, 4, 0, 3, 1]);
    assert_eq!(sorted(true), [1, 0, 3, 4, 2]);
    let top = run(TopK { k: 3, largest: true, dtype: DType::I64 }, &[&floats(&[1, 5], [2.0, 5.0, -1.0, 2.0, 5.0])]);
    assert_eq!((top[0].floats(), top[1].ints()), (vec![5.0, 5.0, 2.0], vec![1, 4, 0]));
    let running = |exclusive, reverse| {
        run(Cumulative { monoid: Monoid::Sum, dim: 0, exclusive, reverse }, &[&floats(&[3], [1.0, 2.0, 4.0])])[0].floats()
    };
    assert_eq!(running(false, false), [1.0, 3.0, 7.0]);
    assert_eq!(running(true, false), [0.0, 1.0, 3.0]);
    assert_eq!(running(false, true), [7.0, 6.0, 4.0]);
    assert_eq!(running(true, true), [6.0, 4.0, 0.0]);
}

#[test]
fn what_violates_a_constraint_is_refused_by_its_number() {
    let f = |shape: &[usize]| TensorType::new(DType::F32, shape);
    let i = |shape: &[usize]| TensorType::new(DType::I32, shape);
    let window = ReduceWindow::plain(Monoid::Sum, dims(&[2]), dims(&[0]));
    let cases: Vec<(Op, Vec<TensorType>, &str)> = vec![
        (Pad::edges(vec![-2], vec![-2]).into(), vec![f(&[3]), f(&[])], "(C3)"),
        (Pad::edges(vec![0], vec![0]).into(), vec![f(&[3]), i(&[])], "(C1)"),
        (Slice { start: dims(&[1]), limit: dims(&[4]), stride: dims(&[1]) }.into(), vec![f(&[3])], "(C2)"),
        (Concat { dim: 0 }.into(), vec![f(&[2, 3]), f(&[2, 4])], "(C2)"),
        (Reverse { dims: vec![0, 0] }.into(), vec![f(&[2])], "(C2)"),
        (Convolution { feature_groups: 2, ..Convolution::plain(1) }.into(), vec![f(&[1, 3, 4]), f(&[2, 1, 3])], "(C5)"),
        (Convolution { feature_groups: 2, batch_groups: 2, ..Convolution::plain(0) }.into(), vec![f(&[2, 2]), f(&[2, 1])], "(C4)"),
        (window.into(), vec![f(&[4])], "(C3)"),
        (Gather::take(&[4, 2], 1, 0).into(), vec![f(&[4, 2]), f(&[3])], "(C1)"),
        (Gather::take(&[4, 2], 1, 0).into(), vec![f(&[4, 1]), i(&[3])], "(C5)"),
        (ArgReduce { dim: 0, kind: Monoid::Max, select_last: false, dtype: DType::I64 }.into(), vec![f(&[0])], "(C2)"),
        (TopK { k: 4, largest: true, dtype: DType::I64 }.into(), vec![f(&[3])], "(C2)"),
    ];
    for (op, types, constraint) in cases {
        let types: Vec<Type> = types.into_iter().map(Type::from).collect();
        let refused = op.infer(&types.iter().collect::<Vec<_>>()).unwrap_err();
        assert!(refused.why.starts_with(constraint), "{refused}");
    }
}
