//! Random graphs: seeded, well-typed, small enough for the reference interpreter. Property tests and fuzzing share them.

mod loops;
mod structured;

pub use loops::random_loops;

use super::{Graph, Role, ValueId};
use crate::ops::Op;
use crate::ops::broadcast::Broadcast;
use crate::ops::constant::Constant;
use crate::ops::dot_general::{DotGeneral, free_dims};
use crate::ops::elementwise::{Binary, Compare, Convert, Select, Unary};
use crate::ops::reduce::Reduce;
use crate::ops::reshape::Reshape;
use crate::ops::transpose::Transpose;
use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType, element_count};

/// A small generator of random numbers (splitmix64): the same numbers from the same seed everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.bits() % n as u64) as usize }
    }
    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// An element of a slice that is not empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
    /// A float in [−1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
    /// The numbers 0..n in random order.
    pub fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }
    /// A random ascending subset of 0..n.
    pub fn subset(&mut self, n: usize) -> Vec<usize> {
        (0..n).filter(|_| self.one_in(2)).collect()
    }
    /// A tensor of small numbers: halves in [−4, 4], or other floats with a random mantissa.
    pub fn tensor(&mut self, ty: &TensorType) -> Tensor {
        let n = ty.elements();
        if ty.dtype.is_float() {
            let rough = self.one_in(3);
            let mut value = || if rough { 2.0 * self.unit() } else { self.below(17) as f64 / 2.0 - 4.0 };
            return Tensor::new_float(ty.clone(), (0..n).map(|_| value()).collect());
        }
        let low = if ty.dtype.kind() == crate::types::NumberKind::Signed { 3 } else { 0 };
        Tensor::new_int(ty.clone(), (0..n).map(|_| self.below(8) as i64 - low).collect())
    }
}

/// Most elements of a value.
const MAX_ELEMENTS: usize = 512;

/// A well-typed graph of about `size` nodes with one to three outputs.
pub fn random_graph(seed: u64, size: usize) -> Graph {
    let mut r = Random::new(seed);
    let mut g = Graph::new(format!("random{seed}"));
    let first = 1 + r.below(4);
    for i in 0..first {
        add_input(&mut g, &mut r, i);
    }
    for step in 0..size.max(1) {
        if r.one_in(12) {
            g.set_origin(["layer1/Conv", "layer 2: \"quoted\"", ""][r.below(3)]);
        }
        if r.one_in(20) {
            let n = g.inputs.len();
            add_input(&mut g, &mut r, n);
        } else {
            add_node(&mut g, &mut r, step);
        }
    }
    g.clear_origin();
    let count = 1 + r.below(3);
    for i in 0..count {
        let from = g.nodes().len().saturating_sub(1 + size / 2);
        let candidates: Vec<ValueId> = g.values().skip(from).filter(|v| g.ty(*v).as_tensor().is_some()).collect();
        if !candidates.is_empty() {
            let v = *r.pick(&candidates);
            g.output(format!("out{i}"), v);
        }
    }
    g
}

/// One random tensor an input of the graph.
pub fn random_inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut r = Random::new(seed.wrapping_add(77));
    graph.inputs.iter().map(|i| r.tensor(graph.tensor_ty(i.value))).collect()
}

fn random_type(r: &mut Random) -> TensorType {
    let dtype = match r.below(12) {
        0..6 => DType::F32,
        6 => DType::F64,
        7 => DType::Bool,
        8 => DType::I32,
        9 => DType::I64,
        _ => *r.pick(&DType::ALL),
    };
    let rank = r.below(4);
    TensorType { dtype, shape: (0..rank).map(|_| *r.pick(&[1, 2, 2, 3, 4])).collect() }
}

fn add_input(g: &mut Graph, r: &mut Random, index: usize) {
    let ty = random_type(r);
    let role = *r.pick(&[Role::Data, Role::Param, Role::State]);
    g.input(format!("in{index}"), ty, role);
}

/// A value that `accept` accepts, later ones more often.
fn choose(g: &Graph, r: &mut Random, accept: impl Fn(&TensorType) -> bool) -> Option<ValueId> {
    let all: Vec<ValueId> = g.values().filter(|v| g.ty(*v).as_tensor().is_some_and(&accept)).collect();
    let (a, b) = (r.below(all.len()), r.below(all.len()));
    all.get(a.max(b)).copied()
}

/// A value of exactly this type: one that is there or a new constant.
fn matching(g: &mut Graph, r: &mut Random, ty: &TensorType) -> ValueId {
    match choose(g, r, |t| t == ty) {
        Some(v) if !r.one_in(3) => v,
        _ if r.one_in(2) => {
            let v = *r.pick(&[0.0, 1.0, -1.0, 2.0, 0.5]);
            g.splat(ty, v)
        }
        _ => {
            let t = r.tensor(ty);
            g.constant(&t)
        }
    }
}

/// Adds one random node, or none when the chosen op fits nothing that is there.
fn add_node(g: &mut Graph, r: &mut Random, step: usize) {
    let Some(a) = choose(g, r, |_| true) else { return };
    let ty = g.tensor_ty(a).clone();
    let made: Option<(Op, Vec<ValueId>)> = match r.below(19) {
        0 | 1 => {
            let all: Vec<UnaryFn> = UnaryFn::ALL.iter().copied().filter(|f| f.result(ty.dtype).is_some()).collect();
            (!all.is_empty()).then(|| (Unary(*r.pick(&all)).into(), vec![a]))
        }
        2..=4 => {
            let all: Vec<BinaryFn> = BinaryFn::ALL.iter().copied().filter(|f| f.result(ty.dtype).is_some()).collect();
            let f = if r.one_in(2) { *r.pick(&[BinaryFn::Add, BinaryFn::Mul]) } else { *r.pick(&all) };
            let b = matching(g, r, &ty);
            Some((Binary(f).into(), if r.one_in(2) { vec![a, b] } else { vec![b, a] }))
        }
        5 => {
            let b = matching(g, r, &ty);
            Some((Compare(*r.pick(CompareFn::ALL)).into(), vec![a, b]))
        }
        6 => {
            let c = matching(g, r, &ty.with_dtype(DType::Bool));
            let b = matching(g, r, &ty);
            Some((Select {}.into(), vec![c, a, b]))
        }
        7 => Some((Convert { to: if r.one_in(2) { DType::F32 } else { *r.pick(&DType::ALL) } }.into(), vec![a])),
        8 => random_broadcast(r, &ty).map(|op| (op.into(), vec![a])),
        9 => Some((Reshape { shape: random_factors(r, ty.elements()) }.into(), vec![a])),
        10 => Some((Transpose { permutation: r.shuffled(ty.rank()) }.into(), vec![a])),
        11 => {
            let all: Vec<Monoid> = Monoid::ALL.iter().copied().filter(|m| m.function().result(ty.dtype).is_some()).collect();
            Some((Reduce { monoid: *r.pick(&all), dims: r.subset(ty.rank()) }.into(), vec![a]))
        }
        12 => random_dot(g, r, a),
        13 => {
            let mut ty = random_type(r);
            if step.is_multiple_of(7) {
                ty.shape = Dims::from_slice(&[5, 14]);
            }
            let t = r.tensor(&ty);
            Some((Constant { value: t.to_literal() }.into(), vec![]))
        }
        _ => structured::structured(g, r, a),
    };
    if let Some((op, operands)) = made
        && within_limits(g, &op, &operands)
    {
        g.emit(op, &operands);
    }
}

fn within_limits(g: &Graph, op: &Op, operands: &[ValueId]) -> bool {
    let types: Vec<_> = operands.iter().map(|v| g.ty(*v)).collect();
    op.infer(&types).is_ok_and(|t| t.components().iter().all(|t| t.elements() <= MAX_ELEMENTS && t.rank() <= 6))
}

fn random_broadcast(r: &mut Random, ty: &TensorType) -> Option<Broadcast> {
    let rank = ty.rank() + r.below(2);
    let places = r.shuffled(rank);
    let mut dims: Vec<usize> = places[..ty.rank()].to_vec();
    if !r.one_in(4) {
        dims.sort_unstable();
    }
    let mut shape: Dims = (0..rank).map(|_| 1 + r.below(3)).collect();
    for (extent, d) in ty.shape.iter().zip(&dims) {
        if *extent != 1 || r.one_in(2) {
            shape[*d] = *extent;
        }
    }
    Some(Broadcast { shape, dims })
}

/// A random shape of so many elements.
fn random_factors(r: &mut Random, elements: usize) -> Dims {
    let mut shape = Dims::new();
    let mut left = elements;
    while left > 1 && shape.len() < 3 {
        let divisors: Vec<usize> = (1..=left).filter(|d| left.is_multiple_of(*d)).collect();
        let d = *r.pick(&divisors);
        shape.push(d);
        left /= d;
    }
    if left != 1 || elements == 0 {
        shape.push(left);
    }
    debug_assert_eq!(element_count(&shape), elements);
    shape
}

/// A product of `a` with a new or known right side whose dimensions are paired at random.
fn random_dot(g: &mut Graph, r: &mut Random, a: ValueId) -> Option<(Op, Vec<ValueId>)> {
    let ty = g.tensor_ty(a).clone();
    let order = r.shuffled(ty.rank());
    let batch = r.below(ty.rank().min(1) + 1);
    let contract = r.below(ty.rank() - batch + 1);
    let (lhs_batch, rest) = order.split_at(batch);
    let lhs_contract = &rest[..contract];
    let free = r.below(3);
    let rank = batch + contract + free;
    let places = r.shuffled(rank);
    let mut shape = Dims::from_elem(2, rank);
    for (from, to) in lhs_batch.iter().chain(lhs_contract).zip(&places) {
        shape[*to] = ty.shape[*from];
    }
    let (rhs_batch, rhs_contract) = (places[..batch].to_vec(), places[batch..batch + contract].to_vec());
    debug_assert_eq!(free_dims(rank, &rhs_batch, &rhs_contract).len(), free);
    let b = matching(g, r, &TensorType { dtype: ty.dtype, shape });
    let op = DotGeneral { lhs_batch: lhs_batch.to_vec(), rhs_batch, lhs_contract: lhs_contract.to_vec(), rhs_contract };
    Some((op.into(), vec![a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn most_ops_occur() {
        let graphs: Vec<Graph> = (0..300).map(|seed| random_graph(seed, 25)).collect();
        let names: BTreeSet<&str> = graphs.iter().flat_map(|g| g.nodes()).map(|n| n.op.name()).collect();
        let nodes: usize = graphs.iter().map(|g| g.nodes().len()).sum();
        let structured = ["slice", "pad", "concat", "reverse", "iota", "reduce_window", "softmax", "gelu", "layer_norm", "cumulative"];
        let more = ["arg_reduce", "sort", "top_k", "dynamic_slice", "gather", "convolution", "map", "rows", "dot_general", "proj"];
        let absent: Vec<_> = structured.iter().chain(&more).filter(|n| !names.contains(**n)).collect();
        assert!(absent.is_empty() && names.len() > 70, "{absent:?} of {names:?}");
        assert!(nodes > 300 * 15, "{nodes} nodes");
        assert_eq!(random_graph(3, 25), random_graph(3, 25));
    }
}
