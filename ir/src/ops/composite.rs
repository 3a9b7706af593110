//! What composite ops share: evaluation and differentiation through their expansion, and the loop nest of row-wise ops.
//!
//! The expansion is the definition. It is evaluated in f64 and rounded once, so a composite op is at least as accurate as its parts.

use super::{Composite, InferError, NoVjp, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::graph::{Graph, Role, ValueId};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};
use smallvec::SmallVec;
use std::ops::Range;

/// The expansion as a graph of its own whose inputs are the operands.
fn expansion<C: Composite>(op: &C, operands: &[TensorType]) -> (Graph, Vec<ValueId>) {
    let mut graph = Graph::new(op.name());
    let ins: Vec<ValueId> = operands.iter().enumerate().map(|(i, t)| graph.input(format!("x{i}"), t.clone(), Role::Data)).collect();
    let outs = op.expand(&mut graph, &ins);
    (graph, outs)
}

/// Evaluates the expansion with every float in f64 and rounds the results to the result types.
pub fn eval_wide<C: Composite>(op: &C, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
    let wide: Vec<Tensor> = ins.iter().map(|t| if t.dtype().is_float() { t.convert(DType::F64) } else { (*t).clone() }).collect();
    let types: Vec<TensorType> = wide.iter().map(|t| t.ty().clone()).collect();
    let (graph, outs) = expansion(op, &types);
    let mut values: Vec<Vec<Tensor>> = wide.into_iter().map(|t| vec![t]).collect();
    for node in &graph.nodes()[types.len()..] {
        let made = {
            let args: SmallVec<[&Tensor; 4]> = node.operands.iter().flat_map(|v| &values[v.index()]).collect();
            node.op.eval(&args, &node.ty)
        };
        values.push(made);
    }
    outs.iter().zip(out.components()).map(|(v, t)| values[v.index()][0].convert(t.dtype)).collect()
}

/// Evaluates the expansion as it is, every op in its own type.
pub fn eval_parts<C: Composite>(op: &C, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
    let types: Vec<TensorType> = ins.iter().map(|t| t.ty().clone()).collect();
    let (graph, outs) = expansion(op, &types);
    let mut values: Vec<Vec<Tensor>> = ins.iter().map(|t| vec![(*t).clone()]).collect();
    for node in &graph.nodes()[types.len()..] {
        let made = {
            let args: SmallVec<[&Tensor; 4]> = node.operands.iter().flat_map(|v| &values[v.index()]).collect();
            node.op.eval(&args, &node.ty)
        };
        values.push(made);
    }
    debug_assert_eq!(outs.len(), out.components().len());
    outs.iter().map(|v| values[v.index()][0].clone()).collect()
}

/// Differentiates the expansion, node by node in reverse.
pub fn vjp_through<C: Composite>(op: &C, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
    let types: Vec<TensorType> = cx.operands.iter().map(|v| cx.graph.tensor_ty(*v).clone()).collect();
    let (body, outs) = expansion(op, &types);
    let mut map: Vec<ValueId> = cx.operands.to_vec();
    let mut depends: Vec<bool> = cx.wanted.to_vec();
    for node in &body.nodes()[types.len()..] {
        let operands: SmallVec<[ValueId; 4]> = node.operands.iter().map(|v| map[v.index()]).collect();
        map.push(cx.graph.emit(node.op.clone(), &operands));
        depends.push(node.operands.iter().any(|v| depends[v.index()]));
    }
    let mut cotangents: Vec<Option<ValueId>> = vec![None; map.len()];
    let add = |graph: &mut Graph, slot: &mut Option<ValueId>, g: ValueId| {
        *slot = Some(match *slot {
            Some(old) => graph.plus(old, g),
            None => g,
        });
    };
    for (v, g) in outs.iter().zip(cx.cotangents) {
        if let Some(g) = g {
            add(cx.graph, &mut cotangents[v.index()], *g);
        }
    }
    for i in (types.len()..map.len()).rev() {
        let (true, Some(g)) = (depends[i], cotangents[i]) else { continue };
        let node = &body.nodes()[i];
        let operands: SmallVec<[ValueId; 4]> = node.operands.iter().map(|v| map[v.index()]).collect();
        let wanted: SmallVec<[bool; 4]> = node.operands.iter().map(|v| depends[v.index()]).collect();
        let mut inner = Vjp { graph: &mut *cx.graph, operands: &operands, result: map[i], cotangents: &[Some(g)], wanted: &wanted };
        let grads = node.op.vjp(&mut inner)?;
        for (k, g) in grads.into_iter().enumerate() {
            if let (Some(g), true) = (g, wanted[k]) {
                add(cx.graph, &mut cotangents[node.operands[k].index()], g);
            }
        }
    }
    cotangents.truncate(types.len());
    Ok(cotangents)
}

/// (C1) `count` operands; (C2) all of the first one's type; (C3) a float type.
pub fn alike_floats<'a>(op: &'static str, ins: &[&'a TensorType], count: usize) -> Result<&'a TensorType, InferError> {
    if ins.len() != count {
        return Err(InferError::new(op, format!("(C1) takes {count} operands, not {}", ins.len())));
    }
    if let Some(t) = ins.iter().find(|t| **t != ins[0]) {
        return Err(InferError::new(op, format!("(C2) operands are {} and {t}", ins[0])));
    }
    if !ins[0].dtype.is_float() {
        return Err(InferError::new(op, format!("(C3) is not defined on {}", ins[0].dtype)));
    }
    Ok(ins[0])
}

/// Checks that `trailing` dimensions of `x` are there and that `scale` has exactly their extents and the type of `x`.
pub fn check_rows(op: &'static str, x: &TensorType, trailing: usize, scales: &[&TensorType]) -> Result<(), InferError> {
    if !x.dtype.is_float() || trailing == 0 || trailing > x.rank() {
        return Err(InferError::new(op, format!("(C2) {trailing} trailing dimensions of {x} are no rows of floats")));
    }
    let row = TensorType::new(x.dtype, &x.shape[x.rank() - trailing..]);
    match scales.iter().find(|s| ***s != row) {
        Some(s) => Err(InferError::new(op, format!("(C3) scale and shift have the rows' type {row}, not {s}"))),
        None => Ok(()),
    }
}

/// The nest of a row-wise op: `operands` operands lie like the result, then `scales` operands like a row; loops over `rows` are not split.
pub fn row_axes(shape: &[usize], rows: Range<usize>, operands: usize, scales: usize, ops_per_point: u64) -> Axes {
    let mut axes = Axes::elementwise(shape, operands, ops_per_point);
    rows.clone().for_each(|d| axes.loops[d].kind = LoopKind::Whole);
    axes.operands.extend(std::iter::repeat_n(rows.map(DimUse::Loop).collect::<Vec<_>>(), scales));
    axes
}

/// Emission helpers of the expansions.
impl Graph {
    /// a times a number.
    pub fn scaled(&mut self, a: ValueId, by: f64) -> ValueId {
        let c = self.splat_like(a, by);
        self.times(a, c)
    }

    /// a plus a number.
    pub fn shifted(&mut self, a: ValueId, by: f64) -> ValueId {
        let c = self.splat_like(a, by);
        self.plus(a, c)
    }

    /// Reduces over `dims` and repeats the result along them: every element sees its row's value.
    pub fn reduce_spread(&mut self, monoid: crate::scalar::Monoid, a: ValueId, dims: &[usize]) -> ValueId {
        let shape = crate::types::Dims::from_slice(self.shape(a));
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
        let r = self.reduce(monoid, a, dims);
        self.broadcast(r, &shape, &kept)
    }

    /// The mean over `dims`, repeated along them.
    pub fn mean_spread(&mut self, a: ValueId, dims: &[usize]) -> ValueId {
        let shape = crate::types::Dims::from_slice(self.shape(a));
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
        let count: usize = dims.iter().map(|d| shape[*d]).product();
        let sum = self.sum(a, dims);
        let mean = self.scaled(sum, 1.0 / count.max(1) as f64);
        self.broadcast(mean, &shape, &kept)
    }

    /// The sum over the leading dimensions that a row vector does not have.
    pub fn sum_leading(&mut self, a: ValueId, trailing: usize) -> ValueId {
        let leading: Vec<usize> = (0..self.shape(a).len() - trailing).collect();
        self.sum(a, &leading)
    }

    /// Repeats a row vector over the leading dimensions of `like`.
    pub fn spread_row(&mut self, row: ValueId, like: ValueId) -> ValueId {
        let shape = crate::types::Dims::from_slice(self.shape(like));
        let trailing = self.shape(row).len();
        let dims: Vec<usize> = (shape.len() - trailing..shape.len()).collect();
        self.broadcast(row, &shape, &dims)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ops::Op;

    /// Evaluates a graph whose inputs are `ins`.
    fn run(graph: &Graph, ins: &[Tensor]) -> Vec<Vec<Tensor>> {
        let mut values: Vec<Vec<Tensor>> = Vec::new();
        for node in graph.nodes() {
            let made = match &node.op {
                Op::Input(i) => vec![ins[i.index].clone()],
                op => {
                    let args: Vec<&Tensor> = node.operands.iter().flat_map(|v| &values[v.index()]).collect();
                    op.eval(&args, &node.ty)
                }
            };
            values.push(made);
        }
        values
    }

    /// Deterministic values in (−1.5, 1.5).
    pub fn noise(ty: &TensorType, seed: u64) -> Tensor {
        let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 53) as f64 * 3.0 - 1.5
        };
        Tensor::new_float(ty.clone(), (0..ty.elements()).map(|_| next()).collect())
    }

    /// The op's VJP against central differences of Σ y·w in f64.
    pub fn check_gradient(op: impl Into<Op>, shapes: &[&[usize]]) {
        let op = op.into();
        let types: Vec<TensorType> = shapes.iter().map(|s| TensorType::new(DType::F64, s)).collect();
        let ins: Vec<Tensor> = types.iter().enumerate().map(|(i, t)| noise(t, 7 + i as u64)).collect();
        let mut graph = Graph::new("g");
        let vs: Vec<ValueId> = types.iter().enumerate().map(|(i, t)| graph.input(format!("x{i}"), t.clone(), Role::Data)).collect();
        let y = graph.add(op.clone(), &vs).unwrap();
        let ty = graph.tensor_ty(y).clone();
        let w = noise(&ty, 99);
        let g = graph.constant(&w);
        let wanted = vec![true; vs.len()];
        let grads = op.vjp(&mut Vjp { graph: &mut graph, operands: &vs, result: y, cotangents: &[Some(g)], wanted: &wanted }).unwrap();
        let values = run(&graph, &ins);
        let loss = |ins: &[Tensor]| -> f64 { run(&graph, ins)[y.index()][0].floats().iter().zip(w.floats()).map(|(a, b)| a * b).sum() };
        for (k, grad) in grads.iter().enumerate() {
            let got = values[grad.expect("these ops have all gradients").index()][0].floats();
            for (e, got) in got.iter().enumerate() {
                let bumped = |h: f64| {
                    let mut moved = ins.clone();
                    let mut v = ins[k].floats();
                    v[e] += h;
                    moved[k] = Tensor::new_float(types[k].clone(), v);
                    loss(&moved)
                };
                let want = (bumped(1e-5) - bumped(-1e-5)) / 2e-5;
                assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{} operand {k} element {e}: {got} against {want}", op.name());
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        use crate::attr::Real;
        use crate::ops::{gelu, gelu_grad, layer_norm, layer_norm_grad, log_softmax, log_softmax_grad};
        use crate::ops::{rms_norm, rms_norm_grad, silu, silu_grad, softmax, softmax_grad};
        let x: &[usize] = &[2, 3, 4];
        for dim in [1, 2] {
            check_gradient(softmax::Softmax { dim }, &[x]);
            check_gradient(log_softmax::LogSoftmax { dim }, &[x]);
            check_gradient(softmax_grad::SoftmaxGrad { dim }, &[x, x]);
            check_gradient(log_softmax_grad::LogSoftmaxGrad { dim }, &[x, x]);
        }
        let eps = Real::new(1e-3);
        for (trailing, row) in [(1, &[4][..]), (2, &[3, 4][..])] {
            check_gradient(layer_norm::LayerNorm { trailing, eps }, &[x, row, row]);
            check_gradient(layer_norm_grad::LayerNormGrad { trailing, eps }, &[x, row, x]);
            check_gradient(rms_norm::RmsNorm { trailing, eps }, &[x, row]);
            check_gradient(rms_norm_grad::RmsNormGrad { trailing, eps }, &[x, row, x]);
        }
        for tanh in [false, true] {
            check_gradient(gelu::Gelu { tanh }, &[x]);
            check_gradient(gelu_grad::GeluGrad { tanh }, &[x, x]);
        }
        check_gradient(silu::Silu {}, &[x]);
        check_gradient(silu_grad::SiluGrad {}, &[x, x]);
    }
}
