//! What an instruction makes of the elements that it reads, by its own parameters.

use super::arrays::{self, Conv};
use super::ops::{self, values};
use super::scalar::{combine, convert, literal};
use crate::check::shapes;
use crate::fused::Expr;
use crate::literal::Literal;
use crate::ops::Op;
use crate::ops::arg_reduce::ArgReduce;
use crate::ops::cumulative::Cumulative;
use crate::ops::dynamic_slice::DynamicSlice;
use crate::ops::dynamic_update_slice::DynamicUpdateSlice;
use crate::ops::gather::Gather;
use crate::ops::random::Random;
use crate::ops::sort::Sort;
use crate::ops::top_k::TopK;
use crate::ops::window::WindowDim;
use crate::program::instr::WindowDims;
use crate::program::{Instr, Program, Region};
use crate::scalar::Monoid;
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type, element_count};

fn ty(region: &Region) -> TensorType {
    TensorType { dtype: region.dtype, shape: region.dims.clone() }
}

fn tensor(region: &Region, values: &[i64]) -> Tensor {
    Tensor::coded(ty(region), values.to_vec())
}

fn windows(w: &WindowDims, extents: &[usize], sizes: &[usize]) -> Result<Vec<WindowDim>, String> {
    let lists = [w.stride.len(), w.pad_low.len(), w.base_dilation.len(), w.window_dilation.len(), sizes.len()];
    if lists.iter().any(|n| *n != extents.len()) || [&w.stride, &w.base_dilation, &w.window_dilation].iter().any(|l| l.contains(&0)) {
        return Err(format!("its window does not fit {} dimensions", extents.len()));
    }
    let dim = |d: usize| WindowDim {
        extent: extents[d],
        window: sizes[d],
        stride: w.stride[d],
        pad_low: w.pad_low[d],
        pad_high: w.pad_high.get(d).copied().unwrap_or(0),
        base_dilation: w.base_dilation[d],
        window_dilation: w.window_dilation[d],
        reverse: w.reverse.get(d).copied().unwrap_or(false),
    };
    Ok((0..extents.len()).map(dim).collect())
}

/// The results of a synchronous instruction or of a combination over replicas, one a region that it writes; `ins` are the elements of the
/// regions that it reads.
pub fn run(program: &Program, instr: &Instr, ins: &[Vec<i64>]) -> Result<Vec<Vec<i64>>, String> {
    let replicas = program.replicas.is_some();
    // An op of the graph on what is here.
    let op = |op: Op, regions: &[&Region], outs: &[&Region]| -> Result<Vec<Vec<i64>>, String> {
        let args: Vec<Tensor> = regions.iter().zip(ins).map(|(r, v)| tensor(r, v)).collect();
        let given: Vec<Type> = args.iter().map(|t| Type::Tensor(t.ty().clone())).collect();
        let made = op.infer(&given.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        let outs: Vec<TensorType> = outs.iter().map(|r| ty(r)).collect();
        if made.components() != outs {
            return Err(format!("it makes {made}, and its regions hold {outs:?}"));
        }
        let results = ops::eval(&op, &args.iter().collect::<Vec<_>>(), &made, replicas)?;
        Ok(results.iter().map(|t| values(t).to_vec()).collect())
    };
    Ok(match instr {
        Instr::Gemm { out, a, b, batch, contract } => vec![gemm(out, (a, &ins[0]), (b, &ins[1]), *batch as usize, *contract as usize)?],
        Instr::Conv { out, lhs, rhs, window, feature_groups, batch_groups } => {
            if lhs.dims.len() < 2 || rhs.dims.len() != lhs.dims.len() || out.dims.len() != lhs.dims.len() {
                return Err("its regions are no images".to_string());
            }
            let windows = windows(window, &lhs.dims[2..], &rhs.dims[2..])?;
            let (feature_groups, batch_groups) = (*feature_groups as usize, *batch_groups as usize);
            let shapes = (&lhs.dims[..], &rhs.dims[..], &out.dims[..]);
            vec![
                Conv { dtype: out.dtype, lhs: shapes.0, rhs: shapes.1, out: shapes.2, windows, feature_groups, batch_groups }
                    .run(&ins[0], &ins[1])?,
            ]
        }
        Instr::Map { program: id, loops, cols, origin, .. } => {
            arrays::fused(&program.fused[id.index()], loops, *cols as usize, origin, ins)?
        }
        Instr::Attention { origin, ins: regions, outs, .. } => {
            if origin.iter().any(|o| *o != 0) && program.fused.iter().any(|f| f.body.iter().any(|e| matches!(e, Expr::Index(..)))) {
                return Err("attention that begins inside its loops and asks for an index is not executed over integers".to_string());
            }
            let does = shapes::attention_op(program, instr).ok_or("it has too few operands, or a program that is not there")?;
            op(does, &regions.iter().collect::<Vec<_>>(), &outs.iter().collect::<Vec<_>>())?
        }
        Instr::Reduce { monoid, out, .. } => vec![arrays::reduce_rows(*monoid, out.dtype, &ins[0], out.elements())],
        Instr::AllReduce { monoid, out, .. } if replicas => {
            vec![ins[0].iter().map(|v| combine(*monoid, out.dtype, *v, *v)).collect()]
        }
        Instr::AllReduce { .. } | Instr::Copy { .. } => vec![ins[0].clone()],
        Instr::ArgReduce { max, last, out, input, origin } => {
            let dim = input.dims.len().checked_sub(1).ok_or("a scalar has no rows")?;
            let kind = if *max { Monoid::Max } else { Monoid::Min };
            let made = op(ArgReduce { dim, kind, select_last: *last, dtype: out.dtype }.into(), &[input], &[out])?;
            vec![made[0].iter().map(|v| v + *origin as i64).collect()]
        }
        Instr::ReduceWindow { monoid, out, input, window } => {
            let windows = windows(window, &input.dims, &window.size)?;
            vec![arrays::pool(*monoid, out.dtype, &ins[0], &input.dims, &out.dims, &windows)]
        }
        Instr::SelectScatter { max, out, input, source, window } => {
            let windows = windows(window, &input.dims, &window.size)?;
            vec![arrays::select_scatter(*max, out.dtype, &ins[0], &input.dims, &windows, (&ins[1], &source.dims))]
        }
        Instr::Gather { out, operand, indices, dims, origin } => {
            vec![gather(dims, origin, out, (operand, &ins[0]), tensor(indices, &ins[1]))?]
        }
        Instr::Scatter { out, operand, indices, updates, dims } => op(dims.clone().into(), &[operand, indices, updates], &[out])?,
        Instr::DynamicSlice { out, operand, starts } => {
            let regions: Vec<&Region> = std::iter::once(operand).chain(starts).collect();
            op(DynamicSlice { sizes: out.dims.clone() }.into(), &regions, &[out])?
        }
        Instr::DynamicUpdateSlice { out, operand, update, starts } => {
            let regions: Vec<&Region> = [operand, update].into_iter().chain(starts).collect();
            op(DynamicUpdateSlice {}.into(), &regions, &[out])?
        }
        Instr::Scan { monoid, dim, exclusive, reverse, out, input } => {
            let scan = Cumulative { monoid: *monoid, dim: *dim as usize, exclusive: *exclusive, reverse: *reverse };
            op(scan.into(), &[input], &[out])?
        }
        Instr::Sort { dim, descending, outs, ins } => {
            let sort = Sort { dim: *dim as usize, descending: *descending, stable: true };
            op(sort.into(), &ins.iter().collect::<Vec<_>>(), &outs.iter().collect::<Vec<_>>())?
        }
        Instr::TopK { largest, values, positions, input } => {
            let k = values.dims.last().copied().unwrap_or(0);
            op(TopK { k, largest: *largest, dtype: positions.dtype }.into(), &[input], &[values, positions])?
        }
        Instr::Random { out, random, ins: scalars, origin } => {
            let shape: Dims = origin.iter().map(|(_, extent)| *extent as usize).collect();
            let whole = Random { shape: shape.clone(), ..random.clone() };
            let args: Vec<Tensor> = scalars.iter().zip(ins).map(|(r, v)| tensor(r, v)).collect();
            let made = ops::eval(&whole.into(), &args.iter().collect::<Vec<_>>(), &TensorType::new(out.dtype, &shape).into(), replicas)?;
            let starts: Vec<usize> = origin.iter().map(|(start, _)| *start as usize).collect();
            vec![part(values(&made[0]), &shape, &starts, &out.dims)?]
        }
        Instr::Pad { out, input, low, interior, .. } => vec![pad(out, (input, &ins[0]), ins[1][0], low, interior)],
        Instr::Concat { out, dim, ins: regions } => vec![concat(out, *dim as usize, regions, ins)?],
        Instr::Fill { out, bits } => {
            let bytes = bits.to_le_bytes()[..out.dtype.size()].to_vec();
            let element = Literal::new(TensorType::scalar(out.dtype), bytes).map_err(|e| e.to_string())?;
            vec![vec![literal(&element)[0]; out.elements()]]
        }
        Instr::Constant { out, literal: id, starts } => {
            let constant = &program.literals[id.index()];
            vec![part(&literal(constant), &constant.ty().shape, starts, &out.dims)?]
        }
        Instr::Iota { out, dim, start } => {
            let at = |i: Dims| convert(DType::I64, out.dtype, (i[*dim as usize] as u64 + start) as i64);
            vec![indices(&out.dims).map(at).collect()]
        }
        _ => return Err("it is not executed on the engine of a die".to_string()),
    })
}

fn gemm(out: &Region, (a, x): (&Region, &[i64]), (b, y): (&Region, &[i64]), batch: usize, contract: usize) -> Result<Vec<i64>, String> {
    let cut = |r: &Region| -> Option<[usize; 3]> {
        let free = r.dims.len().checked_sub(contract).filter(|f| *f >= batch)?;
        Some([element_count(&r.dims[..batch]), element_count(&r.dims[batch..free]), element_count(&r.dims[free..])])
    };
    match (cut(a), cut(b)) {
        (Some([b1, m, k1]), Some([b2, n, k2])) if b1 == b2 && k1 == k2 && b1 * m * n == out.elements() => {
            Ok(arrays::gemm(out.dtype, [b1, m, n, k1], x, y))
        }
        _ => Err(format!("{:?} times {:?} does not make {:?}", a.dims, b.dims, out.dims)),
    }
}

/// The box of an array that begins at `starts`.
pub fn part(data: &[i64], shape: &[usize], starts: &[usize], dims: &[usize]) -> Result<Vec<i64>, String> {
    let inside = shape.len() == dims.len() && starts.len() == dims.len() && (0..dims.len()).all(|d| starts[d] + dims[d] <= shape[d]);
    if !inside {
        return Err(format!("{dims:?} at {starts:?} are no part of {shape:?}"));
    }
    let at = |i: Dims| data[position(shape, &i.iter().zip(starts).map(|(i, s)| i + s).collect::<Dims>())];
    Ok(indices(dims).map(at).collect())
}

/// Along dimensions that are indexed, the operand is a part of a table whose other rows are zero; along the others it is what is there.
fn gather(dims: &Gather, origin: &[(u64, u64)], out: &Region, (operand, x): (&Region, &[i64]), starts: Tensor) -> Result<Vec<i64>, String> {
    let rank = operand.dims.len();
    if !origin.is_empty() && origin.len() != rank {
        return Err("it needs one origin a dimension".to_string());
    }
    let place =
        |d: usize| if dims.start_index_map.contains(&d) { origin.get(d).copied() } else { None }.unwrap_or((0, operand.dims[d] as u64));
    let table: Dims = (0..rank).map(|d| place(d).1 as usize).collect();
    if (0..rank).any(|d| place(d).0 as usize + operand.dims[d] > table[d]) || element_count(&table) > 1 << 28 {
        return Err(format!("its operand is no part of a table of {table:?}"));
    }
    // What is gathered are the positions in the operand, counted from 1.
    let mut ids = vec![0i64; element_count(&table)];
    for (k, i) in indices(&operand.dims).enumerate() {
        let at: Dims = i.iter().enumerate().map(|(d, i)| i + place(d).0 as usize).collect();
        ids[position(&table, &at)] = k as i64 + 1;
    }
    let ids = Tensor::coded(TensorType::new(DType::I64, &table), ids);
    let op = Op::from(dims.clone());
    let made = op.infer(&[&ids.ty().clone().into(), &starts.ty().clone().into()]).map_err(|e| e.to_string())?;
    if made.components()[0].shape != out.dims {
        return Err(format!("it makes {made}, and its region has extents {:?}", out.dims));
    }
    let found = op.eval(&[&ids, &starts], &made);
    Ok(values(&found[0]).iter().map(|id| if *id > 0 { x[*id as usize - 1] } else { 0 }).collect())
}

fn pad(out: &Region, (input, x): (&Region, &[i64]), fill: i64, low: &[i64], interior: &[usize]) -> Vec<i64> {
    let from = |i: Dims| -> Option<usize> {
        let along = |(d, i): (usize, &usize)| {
            let (at, step) = (*i as i64 - low[d], interior[d] as i64 + 1);
            (at >= 0 && at % step == 0 && at / step < input.dims[d] as i64).then_some((at / step) as usize)
        };
        Some(position(&input.dims, &i.iter().enumerate().map(along).collect::<Option<Dims>>()?))
    };
    indices(&out.dims).map(|i| from(i).map_or(fill, |p| x[p])).collect()
}

fn concat(out: &Region, dim: usize, regions: &[Region], ins: &[Vec<i64>]) -> Result<Vec<i64>, String> {
    if dim >= out.dims.len() || regions.iter().any(|r| r.dims.len() != out.dims.len()) {
        return Err(format!("its parts have no dimension {dim}"));
    }
    let mut joined = Vec::with_capacity(out.elements());
    for outer in 0..element_count(&out.dims[..dim]) {
        for (r, v) in regions.iter().zip(ins) {
            let run = element_count(&r.dims[dim..]);
            joined.extend_from_slice(v.get(outer * run..(outer + 1) * run).ok_or("its parts differ in their other extents")?);
        }
    }
    Ok(joined)
}
