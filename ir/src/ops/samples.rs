//! Samples of every op: attributes and operand types that fit, with domains to draw operand values from.
//!
//! The registry tests walk them (round trips, derivatives, loop nests), and so can every other test that wants to run "each op once".
//! Real operands are f64, so that derivatives can be checked by finite differences.

use super::arg_reduce::ArgReduce;
use super::bitcast_convert::BitcastConvert;
use super::convolution::Convolution;
use super::dot_general::DotGeneral;
use super::elementwise::{Binary, Compare, Convert, Select, Unary};
use super::gather::Gather;
use super::pad::Pad;
use super::random::Distribution;
use super::reduce_precision::ReducePrecision;
use super::reduce_window::ReduceWindow;
use super::scatter::{Combiner, Scatter};
use super::select_and_scatter::SelectAndScatter;
use super::slice::Slice;
use super::{
    Op, attention, attention_grad, broadcast, concat, constant, cumulative, dynamic_slice, dynamic_update_slice, fused, iota, random,
    reduce, reshape,
};
use super::{gelu, gelu_grad, layer_norm, layer_norm_grad, log_softmax, log_softmax_grad, rms_norm, rms_norm_grad};
use super::{reverse, silu, silu_grad, softmax, softmax_grad, sort, top_k, transpose};
use crate::attr::Real;
use crate::fused::{Expr, FusedProgram};
use crate::graph::random::Random;
use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType, Type};
use std::sync::Arc;

/// Where operand values are drawn from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Domain {
    /// Floats between these ends, at least 0.05 away from 0.
    Real(f64, f64),
    /// Integers from the first to below the second.
    Index(i64, i64),
}

/// Any float.
const ANY: Domain = Domain::Real(-1.5, 1.5);
/// A float that may be a divisor, a base or an argument of a logarithm.
const POSITIVE: Domain = Domain::Real(0.4, 2.0);

/// An op with operand types that fit it.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// The op.
    pub op: Op,
    /// Type and values of each operand.
    pub operands: Vec<(TensorType, Domain)>,
}

impl Sample {
    /// The operand types.
    pub fn types(&self) -> Vec<TensorType> {
        self.operands.iter().map(|(t, _)| t.clone()).collect()
    }

    /// The result type.
    pub fn result(&self) -> Result<Type, super::InferError> {
        let types: Vec<Type> = self.types().into_iter().map(Type::from).collect();
        self.op.infer(&types.iter().collect::<Vec<_>>())
    }

    /// Operand values from the domains.
    pub fn values(&self, random: &mut Random) -> Vec<Tensor> {
        self.operands.iter().map(|(t, d)| d.tensor(t, random)).collect()
    }
}

impl Domain {
    /// A tensor of values from the domain.
    pub fn tensor(self, ty: &TensorType, random: &mut Random) -> Tensor {
        match self {
            Domain::Real(low, high) => {
                let mut value = || {
                    let v = low + (random.unit() + 1.0) / 2.0 * (high - low);
                    if v.abs() < 0.05 { v + 0.1f64.copysign(v) } else { v }
                };
                Tensor::new_float(ty.clone(), (0..ty.elements()).map(|_| value()).collect())
            }
            Domain::Index(low, high) => {
                let mut value = || low + random.below((high - low) as usize) as i64;
                Tensor::new_int(ty.clone(), (0..ty.elements()).map(|_| value()).collect())
            }
        }
    }
}

fn real(shape: &[usize]) -> (TensorType, Domain) {
    (TensorType::new(DType::F64, shape), ANY)
}
fn positive(shape: &[usize]) -> (TensorType, Domain) {
    (TensorType::new(DType::F64, shape), POSITIVE)
}
fn index(shape: &[usize], low: i64, high: i64) -> (TensorType, Domain) {
    (TensorType::new(DType::I32, shape), Domain::Index(low, high))
}
fn dims(d: &[usize]) -> Dims {
    Dims::from_slice(d)
}

/// Samples of every op that a graph may add (so neither `input` nor `proj`). The same seed gives the same samples.
pub fn samples(seed: u64) -> Vec<Sample> {
    let mut r = Random::new(seed);
    let mut all = Vec::new();
    elementwise(&mut all);
    movement(&mut all, &mut r);
    contractions(&mut all, &mut r);
    windows(&mut all, &mut r);
    indexed(&mut all);
    rows(&mut all);
    made(&mut all);
    composites(&mut all);
    all
}

fn add(all: &mut Vec<Sample>, op: impl Into<Op>, operands: &[(TensorType, Domain)]) {
    all.push(Sample { op: op.into(), operands: operands.to_vec() });
}

fn elementwise(all: &mut Vec<Sample>) {
    let s: &[usize] = &[2, 3];
    for f in UnaryFn::ALL {
        use UnaryFn::*;
        let operand = match f {
            Sqrt | Rsqrt | Cbrt | Log | Log1p => positive(s),
            Lgamma | Digamma => positive(s),
            ErfInv | Asin | Acos | Atanh => (TensorType::new(DType::F64, s), Domain::Real(-0.9, 0.9)),
            Acosh => (TensorType::new(DType::F64, s), Domain::Real(1.2, 3.0)),
            Not | Popcnt | Clz => index(s, -9, 9),
            _ => real(s),
        };
        add(all, Unary(*f), &[operand]);
    }
    for f in BinaryFn::ALL {
        use BinaryFn::*;
        match f {
            And | Or | Xor => add(all, Binary(*f), &[index(s, -9, 9), index(s, -9, 9)]),
            Shl | ShrArith | ShrLogical => add(all, Binary(*f), &[index(s, -9, 9), index(s, 0, 40)]),
            Pow => add(all, Binary(*f), &[positive(s), real(s)]),
            MulHi => add(all, Binary(*f), &[index(s, -99, 99), index(s, -99, 99)]),
            Zeta => add(all, Binary(*f), &[(TensorType::new(DType::F64, s), Domain::Real(1.5, 4.0)), positive(s)]),
            Div | Rem => add(all, Binary(*f), &[real(s), positive(s)]),
            _ => add(all, Binary(*f), &[real(s), real(s)]),
        }
    }
    for f in CompareFn::ALL {
        add(all, Compare(*f), &[real(s), real(s)]);
    }
    let truth = (TensorType::new(DType::Bool, s), Domain::Index(0, 2));
    add(all, Select {}, &[truth.clone(), real(s), real(s)]);
    for to in DType::ALL {
        add(all, Convert { to }, &[real(s)]);
    }
    add(all, Convert { to: DType::F64 }, &[truth]);
    add(all, BitcastConvert { to: DType::I64 }, &[real(s)]);
    add(all, BitcastConvert { to: DType::F32 }, &[index(s, 1 << 29, 1 << 30)]);
    add(all, ReducePrecision { exponent: 11, mantissa: 52 }, &[real(s)]);
}

fn movement(all: &mut Vec<Sample>, r: &mut Random) {
    add(all, broadcast::Broadcast { shape: dims(&[4, 2, 3]), dims: vec![2, 1] }, &[real(&[3, 1])]);
    for (from, to) in [(&[2, 6][..], &[2, 3, 2][..]), (&[2, 3, 4], &[6, 4]), (&[4, 3], &[3, 4]), (&[1, 5], &[5])] {
        add(all, reshape::Reshape { shape: dims(to) }, &[real(from)]);
    }
    add(all, transpose::Transpose { permutation: vec![2, 0, 1] }, &[real(&[2, 3, 4])]);
    add(all, super::shard::Shard { y: 1, x: -1 }, &[real(&[2, 3])]);
    add(all, super::all_reduce::AllReduce { monoid: Monoid::Sum, rows: 2, cols: 3 }, &[real(&[2, 3])]);
    for _ in 0..6 {
        let shape: Dims = (0..2).map(|_| 2 + r.below(5)).collect();
        let start: Dims = shape.iter().map(|e| r.below(*e)).collect();
        let limit: Dims = (0..2).map(|d| start[d] + r.below(shape[d] - start[d] + 1)).collect();
        add(all, Slice { start, limit, stride: dims(&[1 + r.below(3), 1 + r.below(2)]) }, &[real(&shape)]);
        let mut edge = || (0..2).map(|_| r.below(5) as i64 - 2).collect::<Vec<i64>>();
        let (low, high) = (edge(), edge());
        add(all, Pad { low, high, interior: dims(&[r.below(3), r.below(2)]) }, &[real(&[4, 5]), real(&[])]);
    }
    add(all, concat::Concat { dim: 1 }, &[real(&[2, 3, 2]), real(&[2, 1, 2]), real(&[2, 0, 2]), real(&[2, 4, 2])]);
    add(all, concat::Concat { dim: 0 }, &[real(&[3])]);
    add(all, reverse::Reverse { dims: vec![2, 0] }, &[real(&[2, 3, 4])]);
    let start = index(&[], -2, 6);
    add(all, dynamic_slice::DynamicSlice { sizes: dims(&[2, 4]) }, &[real(&[5, 4]), start.clone(), start.clone()]);
    add(all, dynamic_update_slice::DynamicUpdateSlice {}, &[real(&[5, 4]), real(&[2, 4]), start.clone(), start]);
}

fn contractions(all: &mut Vec<Sample>, r: &mut Random) {
    add(all, DotGeneral::matmul(2, 0, 0), &[real(&[3, 4]), real(&[4, 2])]);
    add(all, DotGeneral::matmul(3, 2, 1), &[real(&[2, 3, 4]), real(&[2, 5, 4])]);
    let op = DotGeneral { lhs_batch: vec![2], rhs_batch: vec![0], lhs_contract: vec![3, 0], rhs_contract: vec![1, 3] };
    add(all, op, &[real(&[2, 3, 4, 5]), real(&[4, 5, 3, 2])]);
    for monoid in Monoid::ALL {
        let operand = match monoid {
            Monoid::And | Monoid::Or | Monoid::Xor => index(&[2, 3, 4], -9, 9),
            _ => real(&[2, 3, 4]),
        };
        add(all, reduce::Reduce { monoid: *monoid, dims: vec![0, 2] }, &[operand]);
    }
    // Plain, strided, padded, dilated, grouped and permuted convolutions of each spatial rank.
    for i in 0..30 {
        let spatial = if i == 0 { 3 } else { 1 + i % 2 };
        all.push(convolution(r, spatial, i / 2 % 5));
    }
}

/// A random convolution; `kind` 1 and 2 have feature groups (2: one channel a group), 3 and 4 batch groups (4: one image a group).
fn convolution(r: &mut Random, spatial: usize, kind: usize) -> Sample {
    loop {
        let groups = 2 + r.below(2);
        let (fg, bg) = match kind {
            1 | 2 => (groups, 1),
            3 | 4 => (1, groups),
            _ => (1, 1),
        };
        let depth = if kind == 2 { 1 } else { 1 + r.below(3) };
        let outputs = if kind == 2 || kind == 4 { groups } else { fg * bg * (1 + r.below(2)) };
        let batch = if kind == 4 { groups } else { bg * (1 + r.below(2)) };
        let mut some = |low: usize, count: usize| -> Vec<usize> { (0..spatial).map(|_| low + r.below(count)).collect() };
        let (size, window) = (some(2, 4), some(1, 3));
        let (stride, lhs_dilation, rhs_dilation) = (some(1, 3), some(1, 2), some(1, 2));
        let (low, high, turned) = (some(0, 4), some(0, 4), some(0, 2));
        let op = Convolution {
            stride: dims(&stride),
            pad_low: low.iter().map(|v| *v as i64 - 1).collect(),
            pad_high: high.iter().map(|v| *v as i64 - 1).collect(),
            lhs_dilation: dims(&lhs_dilation),
            rhs_dilation: dims(&rhs_dilation),
            reverse: turned.iter().map(|v| *v == 1).collect(),
            lhs_dims: r.shuffled(spatial + 2),
            rhs_dims: r.shuffled(spatial + 2),
            out_dims: r.shuffled(spatial + 2),
            feature_groups: fg,
            batch_groups: bg,
        };
        let place = |at: &[usize], first: usize, second: usize, rest: &[usize]| {
            let mut shape = vec![0; spatial + 2];
            [first, second].iter().chain(rest).zip(at).for_each(|(e, d)| shape[*d] = *e);
            real(&shape)
        };
        let lhs = place(&op.lhs_dims, batch, depth * fg, &size);
        let rhs = place(&op.rhs_dims, outputs, depth, &window);
        let sample = Sample { op: op.into(), operands: vec![lhs, rhs] };
        if sample.result().is_ok_and(|t| t.components()[0].elements() > 0) {
            return sample;
        }
    }
}

fn windows(all: &mut Vec<Sample>, r: &mut Random) {
    for monoid in [Monoid::Sum, Monoid::Max, Monoid::Min, Monoid::Prod] {
        let plain = ReduceWindow::plain(monoid, dims(&[1, 2]), dims(&[1, 2]));
        add(all, plain.clone(), &[real(&[2, 6])]);
        add(all, ReduceWindow { pad_low: vec![0, 1], pad_high: vec![0, 1], window: dims(&[1, 3]), ..plain }, &[real(&[2, 7])]);
    }
    for _ in 0..6 {
        let mut some = |low: usize, count: usize| -> Dims { (0..2).map(|_| low + r.below(count)).collect() };
        let (window, stride) = (some(1, 3), some(1, 3));
        let (low, high) = (some(0, 3), some(0, 3));
        let signed = |d: &Dims| d.iter().map(|v| *v as i64 - 1).collect::<Vec<i64>>();
        let op = ReduceWindow {
            window_dilation: some(1, 2),
            base_dilation: some(1, 2),
            pad_low: signed(&low),
            pad_high: signed(&high),
            ..ReduceWindow::plain(Monoid::Sum, window.clone(), stride.clone())
        };
        add(all, op, &[real(&[5, 6])]);
        let select = if r.one_in(2) { CompareFn::Ge } else { CompareFn::Le };
        let op = SelectAndScatter { select, window, stride, pad_low: signed(&low), pad_high: signed(&high) };
        let source: Option<Dims> = op.windows(&[5, 6]).iter().map(|w| w.results()).collect();
        add(all, op, &[real(&[5, 6]), real(&source.unwrap_or_default())]);
    }
}

fn indexed(all: &mut Vec<Sample>) {
    let take = |shape: &[usize], rank, dim| Gather::take(shape, rank, dim);
    let along = Gather {
        offset_dims: vec![],
        collapsed_slice_dims: vec![1],
        operand_batching_dims: vec![0],
        start_indices_batching_dims: vec![0],
        start_index_map: vec![1],
        index_vector_dim: 2,
        slice_sizes: dims(&[1, 1]),
    };
    let boxes = Gather {
        offset_dims: vec![1, 3],
        collapsed_slice_dims: vec![1],
        operand_batching_dims: vec![],
        start_indices_batching_dims: vec![],
        start_index_map: vec![2, 0],
        index_vector_dim: 0,
        slice_sizes: dims(&[2, 1, 3]),
    };
    let batched = Gather {
        offset_dims: vec![2],
        collapsed_slice_dims: vec![1],
        operand_batching_dims: vec![3, 0],
        start_indices_batching_dims: vec![0, 2],
        start_index_map: vec![1],
        index_vector_dim: 1,
        slice_sizes: dims(&[1, 1, 2, 1]),
    };
    let cases = [
        (take(&[5, 3], 2, 0), real(&[5, 3]), index(&[2, 2], -1, 7)),
        (take(&[2, 5, 3], 1, 1), real(&[2, 5, 3]), index(&[4], 0, 5)),
        (take(&[5], 0, 0), real(&[5]), index(&[], 0, 5)),
        (along, real(&[3, 4]), index(&[3, 2], -1, 5)),
        (boxes, real(&[4, 1, 5]), index(&[2, 3, 2], -1, 5)),
        (batched, real(&[2, 4, 3, 3]), index(&[3, 1, 2], 0, 4)),
    ];
    for (g, operand, starts) in cases {
        add(all, g.clone(), &[operand.clone(), starts.clone()]);
        let updates = Sample { op: g.clone().into(), operands: vec![operand.clone(), starts.clone()] }.result();
        let updates = updates.map(|t| Dims::from_slice(&t.components()[0].shape)).unwrap_or_default();
        for combiner in Combiner::ALL {
            let op = Scatter {
                update_window_dims: g.offset_dims.clone(),
                inserted_window_dims: g.collapsed_slice_dims.clone(),
                input_batching_dims: g.operand_batching_dims.clone(),
                scatter_indices_batching_dims: g.start_indices_batching_dims.clone(),
                scatter_dims_to_operand_dims: g.start_index_map.clone(),
                index_vector_dim: g.index_vector_dim,
                combiner,
            };
            add(all, op, &[operand.clone(), starts.clone(), real(&updates)]);
        }
    }
}

fn rows(all: &mut Vec<Sample>) {
    let s: &[usize] = &[2, 4, 3];
    for kind in [Monoid::Max, Monoid::Min] {
        for select_last in [false, true] {
            add(all, ArgReduce { dim: 1, kind, select_last, dtype: DType::I64 }, &[real(s)]);
            add(all, ArgReduce { dim: 0, kind, select_last, dtype: DType::I32 }, &[index(&[6, 2], 0, 3)]);
        }
    }
    for monoid in [Monoid::Sum, Monoid::Prod, Monoid::Max, Monoid::Min] {
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            add(all, cumulative::Cumulative { monoid, dim: 1, exclusive, reverse }, &[real(s)]);
        }
    }
    for descending in [false, true] {
        add(all, sort::Sort { dim: 1, descending, stable: true }, &[real(s), real(s), index(s, 0, 9)]);
        add(all, sort::Sort { dim: 0, descending, stable: true }, &[index(&[6], 0, 3), real(&[6])]);
        add(all, top_k::TopK { k: 2, largest: descending, dtype: DType::I64 }, &[real(&[2, 3, 4])]);
    }
}

fn made(all: &mut Vec<Sample>) {
    let value = Tensor::new_float(TensorType::new(DType::F64, [2, 2]), vec![1.0, -0.5, 0.25, 3.0]).to_literal();
    add(all, constant::Constant { value }, &[]);
    add(all, iota::Iota { dtype: DType::F64, shape: dims(&[2, 3]), dim: 1 }, &[]);
    add(all, iota::Iota { dtype: DType::I32, shape: dims(&[4]), dim: 0 }, &[]);
    let scalar = (TensorType::scalar(DType::U32), Domain::Index(0, 9));
    for (distribution, dtype) in [
        (Distribution::Bits, DType::U32),
        (Distribution::Bits, DType::U64),
        (Distribution::Uniform, DType::F32),
        (Distribution::Normal, DType::F64),
    ] {
        let op = random::Random { distribution, dtype, shape: dims(&[3, 5]), seed: -3 };
        add(all, op, &[scalar.clone(), scalar.clone()]);
    }
    let body = vec![
        Expr::Input(0),
        Expr::Input(1),
        Expr::Binary(BinaryFn::Mul, 0, 1),
        Expr::Unary(UnaryFn::Tanh, 2),
        Expr::Index(DType::F64, 1),
        Expr::Compare(CompareFn::Lt, 3, 4),
        Expr::Select(5, 2, 3),
    ];
    let program = FusedProgram { inputs: vec![DType::F64; 2], body, outputs: vec![6, 5] };
    let op = fused::Fused { program: Arc::new(program), loops: dims(&[3, 4]), cols: 0, operands: vec![vec![1, 0], vec![1]] };
    add(all, op, &[real(&[4, 3]), real(&[4])]);
    let body = vec![Expr::Input(0), Expr::Reduce(Monoid::Max, 0), Expr::Binary(BinaryFn::Sub, 0, 1), Expr::Reduce(Monoid::Sum, 2)];
    let program = FusedProgram { inputs: vec![DType::F64], body, outputs: vec![2, 3] };
    let op = fused::Fused { program: Arc::new(program), loops: dims(&[3, 4]), cols: 1, operands: vec![vec![0, 1]] };
    add(all, op, &[real(&[3, 4])]);
}

/// softmax(scores + mask), and the cotangents of the scores.
fn attentions(all: &mut Vec<Sample>) {
    let body = vec![
        Expr::Input(0),
        Expr::Input(1),
        Expr::Binary(BinaryFn::Add, 0, 1),
        Expr::Reduce(Monoid::Max, 2),
        Expr::Binary(BinaryFn::Sub, 2, 3),
        Expr::Unary(UnaryFn::Exp, 4),
        Expr::Reduce(Monoid::Sum, 5),
        Expr::Binary(BinaryFn::Div, 5, 6),
    ];
    let weights = Arc::new(FusedProgram { inputs: vec![DType::F64; 2], body, outputs: vec![7] });
    let body = vec![
        Expr::Input(0),
        Expr::Input(1),
        Expr::Binary(BinaryFn::Mul, 0, 1),
        Expr::Reduce(Monoid::Sum, 2),
        Expr::Binary(BinaryFn::Sub, 1, 3),
        Expr::Binary(BinaryFn::Mul, 0, 4),
    ];
    let scores = Arc::new(FusedProgram { inputs: vec![DType::F64; 2], body, outputs: vec![5] });
    // q lies as batch, row, width, k with the width first, v and all others with the rows first.
    let (plain, turned, rows) = (vec![0, 1, 2], vec![1, 2, 0], vec![1, 0, 2]);
    let layouts = vec![plain.clone(), turned.clone(), rows.clone(), rows.clone()];
    let (q, k, v, mask) = (real(&[2, 3, 2]), real(&[2, 2, 4]), real(&[4, 2, 5]), real(&[4, 3]));
    let masks = vec![vec![2, 1]];
    let op = attention::Attention { weights: weights.clone(), layouts, masks: masks.clone() };
    add(all, op, &[q.clone(), k.clone(), v.clone(), mask.clone()]);
    let layouts = vec![plain, turned.clone(), rows.clone(), rows.clone(), rows.clone(), turned, rows];
    let op = attention_grad::AttentionGrad { weights, scores, layouts, masks };
    add(all, op, &[q, k, v, real(&[3, 2, 5]), mask]);
}

fn composites(all: &mut Vec<Sample>) {
    attentions(all);
    let x = real(&[2, 3, 4]);
    for dim in [1, 2] {
        add(all, softmax::Softmax { dim }, std::slice::from_ref(&x));
        add(all, log_softmax::LogSoftmax { dim }, std::slice::from_ref(&x));
        add(all, softmax_grad::SoftmaxGrad { dim }, &[x.clone(), x.clone()]);
        add(all, log_softmax_grad::LogSoftmaxGrad { dim }, &[x.clone(), x.clone()]);
    }
    let (trailing, eps, row) = (2, Real::new(1e-3), real(&[3, 4]));
    add(all, layer_norm::LayerNorm { trailing, eps }, &[x.clone(), row.clone(), row.clone()]);
    add(all, layer_norm_grad::LayerNormGrad { trailing, eps }, &[x.clone(), row.clone(), x.clone()]);
    add(all, rms_norm::RmsNorm { trailing, eps }, &[x.clone(), row.clone()]);
    add(all, rms_norm_grad::RmsNormGrad { trailing, eps }, &[x.clone(), row, x.clone()]);
    for tanh in [false, true] {
        add(all, gelu::Gelu { tanh }, std::slice::from_ref(&x));
        add(all, gelu_grad::GeluGrad { tanh }, &[x.clone(), x.clone()]);
    }
    add(all, silu::Silu {}, std::slice::from_ref(&x));
    add(all, silu_grad::SiluGrad {}, &[x.clone(), x]);
}
