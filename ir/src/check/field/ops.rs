//! The reference meaning of every op over the field.
//!
//! Ops that only move elements, and those on integers, are evaluated by their own `eval`; composite ops through their expansion.

use super::arrays::{self, Conv};
use super::scalar::{combine, literal};
use crate::check::implements::single;
use crate::graph::{Graph, Role, ValueId};
use crate::ops::Op;
use crate::ops::fused::Fused;
use crate::ops::iota::Iota;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Dims, TensorType, Type, element_count, row_major_strides};
use smallvec::SmallVec;
use std::sync::Arc;

/// The elements of a coded tensor.
pub fn values(t: &Tensor) -> &[i64] {
    match t.data() {
        Data::Int(v) => v,
        Data::Float(_) => &[],
    }
}

/// A type whose elements are integers, with as many of them.
fn as_ints(ty: &TensorType) -> TensorType {
    if ty.dtype.is_float() { ty.with_dtype(DType::I64) } else { ty.clone() }
}

/// An op that moves elements, or orders them in whichever way, by its own definition.
pub fn moved(op: &Op, ins: &[&Tensor], out: &[TensorType]) -> Vec<Tensor> {
    let ints: SmallVec<[Tensor; 4]> = ins.iter().map(|t| Tensor::coded(as_ints(t.ty()), values(t).to_vec())).collect();
    let ty = match out {
        [one] => Type::Tensor(as_ints(one)),
        more => Type::Tuple(more.iter().map(as_ints).collect()),
    };
    let made = op.eval(&ints.iter().collect::<SmallVec<[&Tensor; 4]>>(), &ty);
    made.into_iter().zip(out).map(|(t, ty)| Tensor::coded(ty.clone(), values(&t).to_vec())).collect()
}

/// Evaluates an op; `replicas` says whether there is more than one, which then are all alike.
pub fn eval(op: &Op, ins: &[&Tensor], out: &Type, replicas: bool) -> Result<Vec<Tensor>, String> {
    let out = out.components();
    let dtype = out.first().map_or(DType::Bool, |t| t.dtype);
    let x = || values(ins[0]);
    let one = |values: Vec<i64>| Ok(vec![Tensor::coded(out[0].clone(), values)]);
    match op {
        Op::Constant(c) => one(literal(&c.value)),
        Op::Fused(f) => fused(f, ins, out),
        Op::AllReduce(r) if replicas => one(x().iter().map(|v| combine(r.monoid, dtype, *v, *v)).collect()),
        _ if op.is_elementwise() => {
            let inputs = ins.iter().map(|t| t.dtype()).collect();
            let program = Arc::new(single(op, inputs).ok_or("it has no program")?);
            let operands = vec![(0..out[0].rank()).collect(); ins.len()];
            fused(&Fused { program, loops: out[0].shape.clone(), cols: 0, operands }, ins, out)
        }
        Op::DotGeneral(d) => {
            let (lhs, rhs) = (ins[0].shape(), ins[1].shape());
            let order = |a: &[usize], b: &[usize], c: &[usize]| [a, b, c].concat();
            let (free, other) = (d.lhs_free(lhs.len()), d.rhs_free(rhs.len()));
            let size = |dims: &[usize], of: &[usize]| of.iter().map(|d| dims[*d]).product::<usize>();
            let sizes = [size(lhs, &d.lhs_batch), size(lhs, &free), size(rhs, &other), size(lhs, &d.lhs_contract)];
            let a = arrays::permuted(x(), lhs, &order(&d.lhs_batch, &free, &d.lhs_contract));
            let b = arrays::permuted(values(ins[1]), rhs, &order(&d.rhs_batch, &other, &d.rhs_contract));
            one(arrays::gemm(dtype, sizes, &a, &b))
        }
        Op::Convolution(c) => {
            let (lhs, rhs) = (ins[0].shape(), ins[1].shape());
            let of = |dims: &[usize], order: &[usize]| order.iter().map(|d| dims[*d]).collect::<Dims>();
            let shape = of(&out[0].shape, &c.out_dims);
            let conv = Conv {
                dtype,
                lhs: &of(lhs, &c.lhs_dims),
                rhs: &of(rhs, &c.rhs_dims),
                out: &shape,
                windows: c.windows(lhs, rhs),
                feature_groups: c.feature_groups,
                batch_groups: c.batch_groups,
            };
            let (a, b) = (arrays::permuted(x(), lhs, &c.lhs_dims), arrays::permuted(values(ins[1]), rhs, &c.rhs_dims));
            let made = conv.run(&a, &b)?;
            let home: Vec<usize> = (0..shape.len()).filter_map(|d| c.out_dims.iter().position(|o| *o == d)).collect();
            one(arrays::permuted(&made, &shape, &home))
        }
        Op::Reduce(r) => {
            let shape = ins[0].shape();
            let kept = (0..shape.len()).filter(|d| !r.dims.contains(d));
            let order: Vec<usize> = kept.chain(r.dims.iter().copied()).collect();
            one(arrays::reduce_rows(r.monoid, dtype, &arrays::permuted(x(), shape, &order), element_count(&out[0].shape)))
        }
        Op::ReduceWindow(r) => one(arrays::pool(r.monoid, dtype, x(), ins[0].shape(), &out[0].shape, &r.windows(ins[0].shape()))),
        Op::SelectAndScatter(s) => {
            let max = s.select == crate::scalar::CompareFn::Ge;
            let source = (values(ins[1]), ins[1].shape());
            one(arrays::select_scatter(max, dtype, x(), ins[0].shape(), &s.windows(ins[0].shape()), source))
        }
        Op::Cumulative(c) => one(arrays::scan((c.monoid, dtype), x(), ins[0].shape(), c.dim, c.exclusive, c.reverse)),
        Op::Scatter(s) => {
            let mut acc = x().to_vec();
            let places = s.places(ins[0].shape(), ins[1], ins[2].shape());
            for (place, v) in places.into_iter().zip(values(ins[2])).filter_map(|(p, v)| Some((p?, *v))) {
                acc[place] = s.combiner.monoid().map_or(v, |m| combine(m, dtype, acc[place], v));
            }
            one(acc)
        }
        Op::Random(_) => one(op.eval(ins, &Type::Tensor(out[0].clone())).first().map(super::scalar::coded).unwrap_or_default()),
        Op::Iota(i) => {
            let ints = moved(&Iota { dtype: DType::I64, ..i.clone() }.into(), ins, &[out[0].with_dtype(DType::I64)]);
            one(values(&ints[0]).iter().map(|v| super::scalar::convert(DType::I64, dtype, *v)).collect())
        }
        _ if op.is_composite() => expanded(op, ins, out, replicas),
        _ => Ok(moved(op, ins, out)),
    }
}

fn fused(f: &Fused, ins: &[&Tensor], out: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let along = |(t, map): (&&Tensor, &Vec<usize>)| {
        let mut strides = vec![0i64; f.loops.len()];
        map.iter().zip(row_major_strides(t.shape())).for_each(|(l, s)| strides[*l] = s as i64);
        arrays::strided(values(t), &f.loops, &strides)
    };
    let points: Vec<Vec<i64>> = ins.iter().zip(&f.operands).map(along).collect();
    let made = arrays::fused(&f.program, &f.loops, f.cols, &vec![0; f.loops.len()], &points)?;
    Ok(made.into_iter().zip(out).map(|(v, ty)| Tensor::coded(ty.clone(), v)).collect())
}

fn expanded(op: &Op, ins: &[&Tensor], out: &[TensorType], replicas: bool) -> Result<Vec<Tensor>, String> {
    let mut graph = Graph::new(op.name());
    let vs: Vec<ValueId> = ins.iter().enumerate().map(|(i, t)| graph.input(format!("x{i}"), t.ty().clone(), Role::Data)).collect();
    let outs = op.expand(&mut graph, &vs).ok_or("it has no expansion")?;
    let mut made: Vec<Vec<Tensor>> = ins.iter().map(|t| vec![(*t).clone()]).collect();
    for node in &graph.nodes()[ins.len()..] {
        let next = {
            let args: SmallVec<[&Tensor; 4]> = node.operands.iter().flat_map(|v| &made[v.index()]).collect();
            eval(&node.op, &args, &node.ty, replicas)?
        };
        made.push(next);
    }
    Ok(outs.iter().zip(out).map(|(v, t)| Tensor::coded(t.clone(), values(&made[v.index()][0]).to_vec())).collect())
}
