//! Shapes: the regions and parameters of each instruction fit each other, by the rules of the op that it does.

use crate::axes::box_dims;
use crate::ops::attention::Attention;
use crate::ops::attention_grad::AttentionGrad;
use crate::ops::window::WindowDim;
use crate::ops::{Op, OpDef};
use crate::program::instr::WindowDims;
use crate::program::{FusedId, Instr, Program, Region};
use crate::scalar::Monoid;
use crate::types::{DType, TensorType, Type};
use smallvec::SmallVec;

type Verdict = Result<(), String>;

fn need(ok: bool, why: impl FnOnce() -> String) -> Verdict {
    if ok { Ok(()) } else { Err(why()) }
}

fn ty(r: &Region) -> TensorType {
    TensorType { dtype: r.dtype, shape: r.dims.clone() }
}

fn alike(regions: &[&Region]) -> Verdict {
    match regions.iter().find(|r| r.dtype != regions[0].dtype) {
        Some(r) => Err(format!("{} and {} are of two element types", ty(regions[0]), ty(r))),
        None => Ok(()),
    }
}

fn equal(a: &Region, b: &Region) -> Verdict {
    need(a.dims == b.dims, || format!("{} and {} have different extents", ty(a), ty(b)))
}

/// A combination may be made in the type in which its parts are carried.
fn carries(out: &Region, from: &Region, monoid: Monoid) -> Verdict {
    if out.dtype == monoid.carried_in(from.dtype) { Ok(()) } else { alike(&[out, from]) }
}

fn scalars(regions: &[Region], count: usize) -> Verdict {
    let fine = regions.len() == count && regions.iter().all(|r| r.dims.is_empty() && r.dtype.is_int() && r.dtype == regions[0].dtype);
    need(fine, || format!("it needs {count} scalar starts of one integer type"))
}

fn combines(monoid: Monoid, dtype: DType) -> Verdict {
    need(monoid.function().result(dtype).is_some(), || format!("{} is not defined on {dtype}", monoid.name()))
}

/// Checks one instruction.
pub fn check(program: &Program, instr: &Instr) -> Verdict {
    match instr {
        Instr::Gemm { out, a, b, batch, contract } => gemm(out, a, b, *batch as usize, *contract as usize),
        Instr::Conv { out, lhs, rhs, window, feature_groups, batch_groups } => {
            conv(out, lhs, rhs, window, *feature_groups as usize, *batch_groups as usize)
        }
        Instr::Map { .. } => map(program, instr),
        Instr::Attention { origin, ins, outs, .. } => attention(program, instr, origin, ins, outs),
        Instr::Reduce { monoid, out, input } => {
            carries(out, input, *monoid)?;
            combines(*monoid, out.dtype)?;
            need(input.dims.starts_with(&out.dims), || format!("{} does not begin with the extents of {}", ty(input), ty(out)))
        }
        Instr::AllReduce { monoid, out, input } => {
            alike(&[out, input])?;
            combines(*monoid, out.dtype)?;
            equal(out, input)
        }
        Instr::ArgReduce { out, input, .. } => {
            need(out.dtype.is_int(), || format!("indices cannot be {}", out.dtype))?;
            let fits = input.dims.len() == out.dims.len() + 1 && input.dims.starts_with(&out.dims);
            need(fits, || format!("{} is not {} with one more dimension", ty(input), ty(out)))
        }
        Instr::ReduceWindow { monoid, out, input, window } => {
            alike(&[out, input])?;
            combines(*monoid, out.dtype)?;
            windowed(out, input, &window.size, window, 0)
        }
        Instr::SelectScatter { out, input, source, window, .. } => {
            alike(&[out, input, source])?;
            lists(window, out.dims.len())?;
            equal(out, input)?;
            need(source.dims.len() == out.dims.len(), || "ranks differ".to_string())?;
            need(window.size.iter().chain(&window.stride).all(|v| *v > 0), || "window extents and steps must be positive".to_string())
        }
        Instr::Gather { out, operand, indices, dims, origin } => {
            let got = dims.infer(&[&ty(operand), &ty(indices)]).map_err(|e| e.to_string())?;
            need(got == ty(out).into(), || format!("it gathers {got}, and the result is {}", ty(out)))?;
            let fits = origin.len() == operand.dims.len()
                && origin.iter().zip(&operand.dims).all(|((o, e), d)| o.checked_add(*d as u64).is_some_and(|end| end <= *e));
            need(fits, || format!("the local part {} does not lie inside the global extents {origin:?}", ty(operand)))
        }
        Instr::Scatter { out, operand, indices, updates, dims } => {
            let got = dims.infer(&[&ty(operand), &ty(indices), &ty(updates)]).map_err(|e| e.to_string())?;
            need(got == ty(out).into(), || format!("it makes {got}, and the result is {}", ty(out)))
        }
        Instr::DynamicSlice { out, operand, starts } => {
            alike(&[out, operand])?;
            scalars(starts, operand.dims.len())?;
            let fits = out.dims.len() == operand.dims.len() && out.dims.iter().zip(&operand.dims).all(|(o, i)| o <= i);
            need(fits, || format!("{} does not fit into {}", ty(out), ty(operand)))
        }
        Instr::DynamicUpdateSlice { out, operand, update, starts } => {
            alike(&[out, operand, update])?;
            equal(out, operand)?;
            scalars(starts, operand.dims.len())?;
            let fits = update.dims.len() == out.dims.len() && update.dims.iter().zip(&out.dims).all(|(u, o)| u <= o);
            need(fits, || format!("{} does not fit into {}", ty(update), ty(out)))
        }
        Instr::Scan { monoid, dim, out, input, .. } => {
            alike(&[out, input])?;
            combines(*monoid, out.dtype)?;
            need((*dim as usize) < out.dims.len(), || format!("there is no dimension {dim}"))?;
            equal(out, input)
        }
        Instr::Sort { dim, outs, ins, .. } => {
            let same = outs.len() == ins.len() && !ins.is_empty() && outs.iter().chain(ins).all(|r| r.dims == ins[0].dims);
            need(same && outs.iter().zip(ins).all(|(o, i)| o.dtype == i.dtype), || "results and operands differ".to_string())?;
            need((*dim as usize) < ins[0].dims.len(), || format!("there is no dimension {dim}"))
        }
        Instr::TopK { values, positions, input, .. } => {
            alike(&[values, input])?;
            equal(values, positions)?;
            need(positions.dtype.is_int(), || format!("positions cannot be {}", positions.dtype))?;
            let (v, i) = (&values.dims, &input.dims);
            let fits = v.len() == i.len() && !v.is_empty() && v[..v.len() - 1] == i[..i.len() - 1] && v[v.len() - 1] <= i[i.len() - 1];
            need(fits, || format!("{} is not the top of {}", ty(values), ty(input)))
        }
        Instr::Random { out, origin, ins, .. } => {
            need(ins.iter().all(|r| r.dims.is_empty()), || "its operands are scalars".to_string())?;
            let fits = origin.len() == out.dims.len()
                && origin.iter().zip(&out.dims).all(|((o, e), d)| o.checked_add(*d as u64).is_some_and(|end| end <= *e));
            need(fits, || format!("{} does not lie inside the global extents {origin:?}", ty(out)))
        }
        Instr::Copy { out, input } => {
            alike(&[out, input])?;
            equal(out, input)
        }
        Instr::Pad { out, input, fill, low, interior } => {
            need(input.dims.contains(&0) || input.dtype == out.dtype, || format!("{} cannot become {}", ty(input), ty(out)))?;
            need(fill.dims.is_empty() && fill.dtype == out.dtype, || format!("the fill of {} cannot be {}", ty(out), ty(fill)))?;
            let rank = out.dims.len();
            need([input.dims.len(), low.len(), interior.len()] == [rank; 3], || format!("it needs {rank} paddings"))
        }
        Instr::Concat { out, dim, ins } => {
            let d = *dim as usize;
            need(d < out.dims.len(), || format!("there is no dimension {dim}"))?;
            let others = |r: &Region| r.dims.len() == out.dims.len() && (0..out.dims.len()).all(|i| i == d || r.dims[i] == out.dims[i]);
            need(ins.iter().all(|r| others(r) && r.dtype == out.dtype), || format!("a part does not fit into {}", ty(out)))?;
            let total = ins.iter().fold(0usize, |n, r| n.saturating_add(r.dims[d]));
            need(total == out.dims[d], || format!("the parts add up to {total} along dimension {d} of {}", ty(out)))
        }
        Instr::Fill { out, bits } => {
            let width = out.dtype.size() * 8;
            need(width == 64 || *bits >> width == 0, || format!("{bits:#x} is wider than an element of {}", out.dtype))
        }
        Instr::Constant { out, literal, starts } => {
            let whole = program.literals[literal.index()].ty();
            let fits = starts.len() == whole.rank()
                && out.dims.len() == whole.rank()
                && (0..whole.rank()).all(|d| starts[d].checked_add(out.dims[d]).is_some_and(|end| end <= whole.shape[d]));
            need(fits && whole.dtype == out.dtype, || format!("{} is no part of the constant {whole}", ty(out)))
        }
        Instr::Iota { out, dim, .. } => {
            need((*dim as usize) < out.dims.len() && out.dtype != DType::Bool, || format!("{} has no index along {dim}", ty(out)))
        }
        Instr::RecvAdd { out, monoid, .. } => combines(*monoid, out.dtype),
        Instr::Load { host, part, out: region } | Instr::Store { host, part, region } => {
            let whole = &program.host[host.index()].ty;
            let inside = part.len() == whole.rank() && part.iter().zip(&whole.shape).all(|(r, d)| r.start <= r.end && r.end <= *d);
            need(inside, || format!("{} is not inside the host tensor {whole}", super::report::show_box(part)))?;
            need(region.dims == box_dims(part) && region.dtype == whole.dtype, || {
                format!("{} is not {} of the host tensor {whole}", ty(region), super::report::show_box(part))
            })
        }
        Instr::Loop { index, .. } => match index {
            Some(i) => need(i.dims.is_empty() && i.dtype == DType::I64, || format!("the number of the iteration is i64[], not {}", ty(i))),
            None => Ok(()),
        },
        Instr::ExitUnless { predicate: p } => {
            need(p.dims.is_empty() && p.dtype == DType::Bool, || format!("the predicate is bool[], not {}", ty(p)))
        }
        Instr::Send { .. } | Instr::Recv { .. } | Instr::Wait { .. } | Instr::EndLoop | Instr::End => Ok(()),
    }
}

fn gemm(out: &Region, a: &Region, b: &Region, batch: usize, contract: usize) -> Verdict {
    alike(&[a, b])?;
    carries(out, a, Monoid::Sum)?;
    let (ra, rb) = (a.dims.len(), b.dims.len());
    need(batch + contract <= ra && batch + contract <= rb, || format!("{} and {} have too few dimensions", ty(a), ty(b)))?;
    let fits = a.dims[..batch] == b.dims[..batch] && a.dims[ra - contract..] == b.dims[rb - contract..];
    need(fits, || format!("batch or contracting extents of {} and {} differ", ty(a), ty(b)))?;
    let want: SmallVec<[usize; 6]> = a.dims[..ra - contract].iter().chain(&b.dims[batch..rb - contract]).copied().collect();
    need(out.dims == want, || format!("the product of {} and {} is {want:?}, and the result is {}", ty(a), ty(b), ty(out)))
}

fn lists(window: &WindowDims, rank: usize) -> Verdict {
    let lengths =
        [window.stride.len(), window.pad_low.len(), window.pad_high.len(), window.base_dilation.len(), window.window_dilation.len()];
    need(lengths == [rank; 5], || format!("the window needs {rank} entries a list"))
}

/// The result extents from dimension `first` on are those of the window over the input.
fn windowed(out: &Region, input: &Region, size: &[usize], window: &WindowDims, first: usize) -> Verdict {
    let rank = out.dims.len();
    need(input.dims.len() == rank && size.len() + first == rank, || "ranks differ".to_string())?;
    lists(window, rank - first)?;
    for d in first..rank {
        let w = d - first;
        let dim = WindowDim {
            extent: input.dims[d],
            window: size[w],
            stride: window.stride[w],
            pad_low: window.pad_low[w],
            pad_high: window.pad_high[w],
            base_dilation: window.base_dilation[w],
            window_dilation: window.window_dilation[w],
            reverse: false,
        };
        let results = dim.results();
        need(results == Some(out.dims[d]), || {
            format!("windows over dimension {d} of {} make {} results, and the result is {}", ty(input), results.unwrap_or(0), ty(out))
        })?;
    }
    Ok(())
}

fn conv(out: &Region, lhs: &Region, rhs: &Region, window: &WindowDims, fg: usize, bg: usize) -> Verdict {
    alike(&[lhs, rhs])?;
    carries(out, lhs, Monoid::Sum)?;
    let rank = out.dims.len();
    need(rank >= 2 && rhs.dims.len() == rank && lhs.dims.len() == rank && fg > 0 && bg > 0, || "ranks or groups are wrong".to_string())?;
    need(window.reverse.len() + 2 == rank, || "`reverse` needs one entry a spatial dimension".to_string())?;
    windowed(out, lhs, &rhs.dims[2..], window, 2)?;
    let features = lhs.dims[1] == rhs.dims[1].saturating_mul(fg) && rhs.dims[0] == out.dims[1];
    let groups = out.dims[1].is_multiple_of(fg) && out.dims[1].is_multiple_of(bg) && lhs.dims[0] == out.dims[0].saturating_mul(bg);
    need(features && groups, || format!("{} and {} do not make {} with {fg} feature and {bg} batch groups", ty(lhs), ty(rhs), ty(out)))
}

/// The op that an attention instruction does on its regions.
pub(super) fn attention_op(program: &Program, instr: &Instr) -> Option<Op> {
    let Instr::Attention { weights, scores, ins, .. } = instr else { return None };
    let fused = |id: &FusedId| program.fused.get(id.index()).cloned();
    let plain: Vec<usize> = (0..ins.first()?.dims.len()).collect();
    let (rows, all) = if scores.is_some() { (4, 7) } else { (3, 4) };
    let masks = vec![plain.clone(); ins.len().checked_sub(rows)?];
    let (weights, layouts) = (fused(weights)?, vec![plain; all]);
    Some(match scores {
        Some(scores) => AttentionGrad { weights, scores: fused(scores)?, layouts, masks }.into(),
        None => Attention { weights, layouts, masks }.into(),
    })
}

fn attention(program: &Program, instr: &Instr, origin: &[usize], ins: &[Region], outs: &[Region]) -> Verdict {
    let op = attention_op(program, instr).ok_or("it has too few operands, or a program that is not there")?;
    let given: Vec<Type> = ins.iter().map(|r| ty(r).into()).collect();
    let made = op.infer(&given.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    need(origin.len() == ins[0].dims.len(), || "the origin needs one entry a loop".to_string())?;
    need(outs.iter().map(ty).eq(made.components().iter().cloned()), || format!("it makes {made}, and its regions are others"))
}

fn map(program: &Program, instr: &Instr) -> Verdict {
    let Instr::Map { program: id, loops, cols, origin, ins, outs } = instr else { return Ok(()) };
    let fused = &program.fused[id.index()];
    let types = fused.types().map_err(|e| e.to_string())?;
    let rows = loops.len().checked_sub(*cols as usize).ok_or_else(|| format!("it has {} loops and {cols} columns", loops.len()))?;
    need(origin.len() == loops.len(), || "the origin needs one entry a loop".to_string())?;
    need(*cols > 0 || !fused.has_reduction(), || "only `rows` may reduce over columns".to_string())?;
    let index_fits = |e: &crate::fused::Expr| !matches!(e, crate::fused::Expr::Index(_, l) if *l as usize >= loops.len());
    need(fused.body.iter().all(index_fits), || "it asks for the index of a loop that it does not have".to_string())?;
    need(ins.len() == fused.inputs.len() && outs.len() == fused.outputs.len(), || {
        format!("the fused program has {} operands and {} results", fused.inputs.len(), fused.outputs.len())
    })?;
    for (k, (region, dtype)) in ins.iter().zip(&fused.inputs).enumerate() {
        need(region.dtype == *dtype && region.dims == *loops, || format!("operand {k} is {}, not {dtype}{loops:?}", ty(region)))?;
    }
    let per_row = fused.per_row();
    for (k, (region, slot)) in outs.iter().zip(&fused.outputs).enumerate() {
        let per_row = *cols > 0 && per_row[*slot as usize];
        let want = if per_row { &loops[..rows] } else { &loops[..] };
        let dtype = types[*slot as usize];
        need(region.dtype == dtype && region.dims[..] == *want, || format!("result {k} is {}, not {dtype}{want:?}", ty(region)))?;
    }
    Ok(())
}
