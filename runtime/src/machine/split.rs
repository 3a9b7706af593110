//! Cuts an instruction into parts that threads can run side by side.
//!
//! Only parallel dimensions are cut, and the kernels promise that a result's bits do not depend on how a call is cut, so the number of
//! parts (the number of threads) never shows in a result. A dimension is cut only where the parts of every result are apart in memory: then
//! each thread owns a contiguous range of bytes.

use super::task;
use girih_ir::program::instr::WindowDims;
use girih_ir::program::{Instr, Program, Region};
use girih_kernels::attention::tile;
use girih_kernels::conv::TRANSFORM_TILE;
use std::ops::Range;

/// Work below this (about operations) is not worth waking anybody.
pub const SMALL: u64 = 1 << 12;

/// The instruction in at most `parts` parts, in order; itself when it is small or cannot be cut.
pub fn split(instr: &Instr, program: &Program, parts: usize) -> Vec<Instr> {
    if parts < 2 || work(instr, program) < SMALL {
        return vec![instr.clone()];
    }
    let Some((dim, extent)) = best_dim(instr, parts) else { return vec![instr.clone()] };
    let unit = match instr {
        Instr::Attention { ins, .. } if dim + 2 == ins[0].dims.len() => tile(keys(ins)),
        Instr::Gemm { .. } if extent >= 16 * parts => 8,
        Instr::Conv { .. } if dim >= 2 => TRANSFORM_TILE,
        Instr::Conv { .. } if extent >= 32 * parts => 16,
        _ => 1,
    };
    let units = extent.div_ceil(unit);
    let cuts = (0..=parts).map(|t| (units * t / parts * unit).min(extent)).collect::<Vec<_>>();
    cuts.windows(2).filter(|w| w[0] < w[1]).filter_map(|w| part(instr, dim, w[0]..w[1])).collect()
}

/// About how many operations an instruction takes.
pub fn work(instr: &Instr, program: &Program) -> u64 {
    let count = |r: &Region| r.elements() as u64;
    match instr {
        Instr::Gemm { out, a, contract, .. } => {
            let k: usize = a.dims[a.dims.len().saturating_sub(*contract as usize)..].iter().product();
            count(out).saturating_mul(k as u64) / 4
        }
        Instr::Conv { out, rhs, .. } => count(out).saturating_mul(rhs.dims.get(1..).map_or(1, |d| d.iter().product::<usize>() as u64)) / 4,
        Instr::Attention { ins, .. } => count(&ins[0]).saturating_mul(keys(ins) as u64),
        Instr::Map { program: id, loops, .. } => {
            let body = program.fused.get(id.index()).map_or(1, |f| f.body.len() as u64);
            loops.iter().product::<usize>() as u64 * body
        }
        Instr::ReduceWindow { out, window, .. } => count(out) * window.size.iter().product::<usize>() as u64,
        Instr::SelectScatter { source, window, .. } => count(source) * window.size.iter().product::<usize>() as u64,
        Instr::Random { out, .. } => count(out) * 16,
        Instr::Sort { ins, .. } => ins.first().map_or(0, |r| count(r) * 8),
        _ => instr.reads().into_iter().chain(instr.writes()).map(count).max().unwrap_or(0) / 2,
    }
}

/// How many keys an attention has.
fn keys(ins: &[Region]) -> usize {
    ins.get(1).and_then(|k| k.dims.len().checked_sub(2).map(|d| k.dims[d])).unwrap_or(0)
}

/// The dimension to cut: the outermost in memory with enough extent for every part, else the one with the largest extent.
fn best_dim(instr: &Instr, parts: usize) -> Option<(usize, usize)> {
    let outs = instr.writes();
    let first = outs.first()?;
    let mut dims: Vec<usize> = (0..first.dims.len()).filter(|d| first.dims[*d] > 1).collect();
    dims.sort_by_key(|d| std::cmp::Reverse(first.strides[*d].unsigned_abs()));
    let possible = |d: &usize| part(instr, *d, 0..1).is_some();
    let able: Vec<usize> = dims.iter().copied().filter(|d| outs.iter().all(|o| apart(o, *d)) && possible(d)).collect();
    let enough = able.iter().find(|d| first.dims[**d] >= 2 * parts);
    // The gradient of a kernel lies tap by tap: a range of its channels is one run a tap.
    let by_channel = |d: &&usize| **d < 2 && first.dims[**d] >= 2 * parts && part(instr, **d, 0..1).is_some_and(|p| in_runs(&p));
    let channels = if enough.is_none() && matches!(instr, Instr::Conv { .. }) { dims.iter().find(by_channel) } else { None };
    let enough = enough.or(channels);
    let dim = enough.or_else(|| able.iter().max_by_key(|d| (first.dims[**d], std::cmp::Reverse(**d))))?;
    Some((*dim, first.dims[*dim]))
}

/// Whether the result lies in a few runs of bytes that nothing else lies between as far as one part is concerned.
fn in_runs(instr: &Instr) -> bool {
    instr.writes().first().is_some_and(|r| matches!(task::runs_of(r), Ok(Some(_))))
}

/// Whether parts of this dimension are apart in memory: one step is at least the span of all other dimensions.
fn apart(region: &Region, dim: usize) -> bool {
    let Some(extent) = region.dims.get(dim) else { return false };
    let others = region.dims.iter().zip(&region.strides).enumerate().filter(|(d, _)| *d != dim);
    let span: u64 = others.map(|(_, (e, s))| (*e as u64).saturating_sub(1).saturating_mul(s.unsigned_abs())).fold(1, u64::saturating_add);
    *extent > 1 && region.elements() > 0 && region.strides[dim].unsigned_abs() >= span
}

/// Indices `range` of one dimension.
fn cut(region: &Region, dim: usize, range: &Range<usize>) -> Option<Region> {
    let mut starts = vec![0; region.dims.len()];
    let mut dims = region.dims.to_vec();
    *starts.get_mut(dim)? = range.start;
    if range.end > dims[dim] {
        return None;
    }
    dims[dim] = range.len();
    Some(region.sub(&starts, &dims))
}

/// The part of the instruction that makes indices `range` of dimension `dim` of its (first) result; `None` when that dimension is not
/// parallel.
fn part(instr: &Instr, dim: usize, range: Range<usize>) -> Option<Instr> {
    let mut part = instr.clone();
    let narrow = |r: &mut Region, d: usize| cut(r, d, &range).map(|new| *r = new);
    match &mut part {
        Instr::Gemm { out, a, b, batch, contract } => {
            let (batch, free) = (*batch as usize, a.dims.len().checked_sub(*batch as usize + *contract as usize)?);
            narrow(out, dim)?;
            match dim {
                d if d < batch => {
                    narrow(a, d)?;
                    narrow(b, d)?;
                }
                d if d < batch + free => narrow(a, d)?,
                d => narrow(b, d - free)?,
            }
        }
        Instr::Conv { out, lhs, rhs, window, feature_groups, batch_groups } => match dim {
            0 if *batch_groups == 1 => {
                narrow(out, 0)?;
                narrow(lhs, 0)?;
            }
            1 if *feature_groups == 1 && *batch_groups == 1 => {
                narrow(out, 1)?;
                narrow(rhs, 0)?;
            }
            d if d >= 2 => {
                // Transformed convolutions are cut between tiles, and the gradient of a kernel is one tile.
                let small = out.dims.get(d).is_none_or(|extent| *extent < TRANSFORM_TILE);
                if small && task::conv_of(instr).is_some_and(|c| c.transform) {
                    return None;
                }
                narrow(out, d)?;
                shift_window(window, d - 2, *lhs.dims.get(d)?, *rhs.dims.get(d)?, &range)?;
            }
            _ => return None,
        },
        Instr::Attention { scores, origin, ins, outs, .. } => {
            let n = ins.first()?.dims.len().checked_sub(2)?;
            if dim > n || dim == n && (scores.is_some() || !range.start.is_multiple_of(tile(keys(ins)))) {
                return None;
            }
            let rows = if scores.is_some() { 4 } else { 3 };
            let moves = |k: usize| dim < n || k == 0 || k >= rows;
            ins.iter_mut().enumerate().filter(|(k, _)| moves(*k)).try_for_each(|(_, r)| narrow(r, dim))?;
            outs.iter_mut().try_for_each(|r| narrow(r, dim))?;
            *origin.get_mut(dim)? += range.start;
        }
        Instr::Map { loops, cols, origin, ins, outs, .. } => {
            if dim >= loops.len().checked_sub(*cols as usize)? {
                return None;
            }
            ins.iter_mut().chain(outs).try_for_each(|r| narrow(r, dim))?;
            loops[dim] = range.len();
            if origin.is_empty() {
                origin.resize(loops.len(), 0);
            }
            *origin.get_mut(dim)? += range.start;
        }
        Instr::Reduce { out, input, .. } | Instr::ArgReduce { out, input, .. } | Instr::Copy { out, input } => {
            narrow(out, dim)?;
            narrow(input, dim)?;
        }
        Instr::ReduceWindow { out, input, window, .. } if trivial(window, dim) => {
            narrow(out, dim)?;
            narrow(input, dim)?;
        }
        Instr::SelectScatter { out, input, source, window, .. } if trivial(window, dim) => {
            [out, input, source].into_iter().try_for_each(|r| narrow(r, dim))?;
        }
        Instr::Scan { dim: own, out, input, .. } if *own as usize != dim => {
            narrow(out, dim)?;
            narrow(input, dim)?;
        }
        Instr::Sort { dim: own, outs, ins, .. } if *own as usize != dim => outs.iter_mut().chain(ins).try_for_each(|r| narrow(r, dim))?,
        Instr::TopK { values, positions, input, .. } if dim + 1 < input.dims.len() => {
            [values, positions, input].into_iter().try_for_each(|r| narrow(r, dim))?;
        }
        Instr::Random { out, origin, .. } => {
            narrow(out, dim)?;
            origin.get_mut(dim)?.0 += range.start as u64;
        }
        Instr::Pad { out, input, low, interior, .. } => {
            let plain = *low.get(dim)? == 0 && *interior.get(dim)? == 0 && out.dims.get(dim)? == input.dims.get(dim)?;
            if !plain {
                return None;
            }
            narrow(out, dim)?;
            narrow(input, dim)?;
        }
        Instr::Concat { out, dim: own, ins } if *own as usize != dim => {
            std::iter::once(out).chain(ins).try_for_each(|r| narrow(r, dim))?;
        }
        Instr::Gather { out, indices, dims, .. } => {
            if dims.offset_dims.contains(&dim) || dim >= out.dims.len() {
                return None;
            }
            let batch = (0..dim).filter(|d| !dims.offset_dims.contains(d)).count();
            let own = batch + usize::from(batch >= dims.index_vector_dim);
            if dims.start_indices_batching_dims.contains(&own) {
                return None;
            }
            narrow(out, dim)?;
            narrow(indices, own)?;
        }
        Instr::Fill { out, .. } => narrow(out, dim)?,
        Instr::Constant { out, starts, .. } => {
            narrow(out, dim)?;
            *starts.get_mut(dim)? += range.start;
        }
        Instr::Iota { out, dim: own, start } => {
            narrow(out, dim)?;
            if *own as usize == dim {
                *start += range.start as u64;
            }
        }
        Instr::Load { part, out, .. } => {
            narrow(out, dim)?;
            let whole = part.get_mut(dim)?;
            *whole = whole.start + range.start..whole.start + range.end;
        }
        _ => return None,
    }
    Some(part)
}

/// Whether the window leaves this dimension as it is.
fn trivial(w: &WindowDims, d: usize) -> bool {
    let one = |list: &[usize]| list.get(d) == Some(&1);
    one(&w.size) && one(&w.stride) && one(&w.base_dilation) && w.pad_low.get(d) == Some(&0) && w.pad_high.get(d) == Some(&0)
}

/// Moves the padding of a convolution so that it makes these output positions alone.
fn shift_window(w: &mut WindowDims, d: usize, lhs: usize, rhs: usize, range: &Range<usize>) -> Option<()> {
    let spread = |extent: usize, dilation: usize| if extent == 0 { 0 } else { (extent as i64 - 1) * dilation as i64 + 1 };
    let stride = *w.stride.get(d)? as i64;
    let used = (range.len() as i64 - 1) * stride + spread(rhs, *w.window_dilation.get(d)?);
    let base = spread(lhs, *w.base_dilation.get(d)?);
    let low = w.pad_low.get_mut(d)?;
    *low -= range.start as i64 * stride;
    let low = *low;
    *w.pad_high.get_mut(d)? = used - base - low;
    Some(())
}
