//! Which instruction may do which op, with which parameters for a share of its loops, and in which order it walks its operands.

use super::report::show_box;
use crate::axes::{Box, box_dims};
use crate::fused::{Expr, FusedProgram};
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::ops::convolution::Convolution;
use crate::program::instr::WindowDims;
use crate::program::{Instr, Program};
use crate::scalar::{CompareFn, Monoid};
use crate::types::DType;
use std::ops::Range;

/// The order in which an instruction lists the elements of an operand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// One dimension a loop of the node, repeating along loops that the operand does not use.
    Loops,
    /// The loops that the operand uses, ascending.
    UsedLoops,
    /// The operand's dimensions, in this order per operand (`None`: as they are).
    Dims(Vec<Option<Vec<usize>>>),
    /// By the flat index, as a reshape does.
    Flat,
    /// The first operands by their dimensions in these orders, the others one dimension a loop.
    Rows(Vec<Vec<usize>>),
}

/// The order in which an instruction lists the dimensions of result `k` of an op, where it is not their own.
pub fn result_order(op: &Op, k: usize) -> Option<&[usize]> {
    match op {
        Op::Convolution(c) => Some(&c.out_dims),
        Op::Attention(a) => a.layouts.get(3).map(Vec::as_slice),
        Op::AttentionGrad(a) => a.layouts.get(4 + k).map(Vec::as_slice),
        _ => None,
    }
}

/// A claim to compute a share of a node.
#[derive(Debug)]
pub struct Share<'a> {
    /// The program.
    pub program: &'a Program,
    /// The node.
    pub node: ValueId,
    /// Its ranges.
    pub ranges: &'a [Range<usize>],
    /// Part of each operand.
    pub parts: &'a [Box],
    /// Part of each result.
    pub results: &'a [Box],
}

impl Share<'_> {
    fn graph(&self) -> &Graph {
        &self.program.step.graph
    }
    fn shape(&self, k: usize) -> &[usize] {
        self.graph().shape(self.graph().node(self.node).operands[k])
    }
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what} is {got:?}, and the claim needs {want:?}")) }
}

fn dims() -> Order {
    Order::Dims(Vec::new())
}

/// Checks that the instruction does this share of the op; returns how it walks its operands.
pub fn check(s: &Share<'_>, instr: &Instr) -> Result<Order, String> {
    let op = &s.graph().node(s.node).op;
    match (op, instr) {
        (Op::Constant(c), Instr::Constant { literal, starts, .. }) => {
            let have = &s.program.literals[literal.index()];
            if !std::ptr::eq(have.bytes(), c.value.bytes()) && *have != c.value {
                return Err(format!("{literal} is another constant than that of {}", s.node));
            }
            let want: crate::types::Dims = s.results[0].iter().map(|r| r.start).collect();
            same("the start", starts, &want).map(|()| dims())
        }
        (Op::Constant(c), Instr::Fill { out, bits }) => filled(c.value.bytes(), out.dtype.size(), *bits).map(|()| dims()),
        (Op::Broadcast(_), Instr::Fill { out, bits }) => match &s.graph().node(s.graph().node(s.node).operands[0]).op {
            Op::Constant(c) => filled(c.value.bytes(), out.dtype.size(), *bits).map(|()| dims()),
            _ => Err("only a broadcast constant can be filled in".to_string()),
        },
        (Op::Iota(i), Instr::Iota { dim, start, .. }) => {
            same("the dimension", &(*dim as usize), &i.dim)?;
            same("the start", &(*start as usize), &s.results[0][i.dim].start).map(|()| dims())
        }
        (_, Instr::Map { program, cols, origin, loops, .. }) => {
            let have = &s.program.fused[program.index()];
            let (want, columns) = match op {
                Op::Fused(f) => (f.program.as_ref().clone(), f.cols),
                _ => (single(op, have.inputs.clone()).ok_or_else(|| mismatch(s, instr))?, 0),
            };
            if **have != want {
                return Err(format!("{program} is another program than that of {}", s.node));
            }
            same("the number of columns", &(*cols as usize), &columns)?;
            let starts = s.ranges.iter().map(|r| r.start).collect();
            same("the origin", origin, &starts)?;
            same("the iteration space", loops, &box_dims(s.ranges)).map(|()| Order::Loops)
        }
        (Op::DotGeneral(d), Instr::Gemm { a, b, batch, contract, .. }) => {
            let (nb, nc, first) = (d.lhs_batch.len(), d.lhs_contract.len(), s.ranges.len() - d.lhs_contract.len());
            let free = nb + d.lhs_free(s.shape(0).len()).len();
            let size = |r: &[Range<usize>]| r.iter().map(|r| r.len()).product::<usize>();
            let want = [size(&s.ranges[..nb]), size(&s.ranges[nb..free]), size(&s.ranges[free..first]), size(&s.ranges[first..])];
            let (bt, ct) = (*batch as usize, *contract as usize);
            let product = |d: &[usize]| d.iter().product::<usize>();
            let (ea, eb) = (a.dims.len() - ct, b.dims.len() - ct);
            let got = [product(&a.dims[..bt]), product(&a.dims[bt..ea]), product(&b.dims[bt..eb]), product(&a.dims[ea..])];
            debug_assert_eq!(nc, d.rhs_contract.len());
            same("the size in batch, m, n, k", &got, &want).map(|()| Order::UsedLoops)
        }
        (Op::Attention(a), Instr::Attention { weights, scores, origin, .. }) => {
            if scores.is_some() || *s.program.fused[weights.index()] != *a.weights {
                return Err(format!("{weights} is another program than that of {}", s.node));
            }
            same("the origin", origin, &s.ranges.iter().map(|r| r.start).collect())?;
            Ok(Order::Rows(a.layouts[..3].to_vec()))
        }
        (Op::AttentionGrad(a), Instr::Attention { weights, scores: Some(scores), origin, .. }) => {
            if *s.program.fused[weights.index()] != *a.weights || *s.program.fused[scores.index()] != *a.scores {
                return Err(format!("{weights} and {scores} are other programs than those of {}", s.node));
            }
            same("the origin", origin, &s.ranges.iter().map(|r| r.start).collect())?;
            Ok(Order::Rows(a.layouts[..4].to_vec()))
        }
        (Op::Convolution(c), Instr::Conv { window, feature_groups, batch_groups, lhs, .. }) => {
            convolution(s, c, window)?;
            let groups = (*feature_groups > 1 && c.feature_groups == 1) || (*batch_groups > 1 && c.batch_groups == 1);
            if groups && !lhs.dims.contains(&0) {
                return Err("the op has no groups".to_string());
            }
            Ok(Order::Dims(vec![Some(c.lhs_dims.clone()), Some(c.rhs_dims.clone())]))
        }
        (Op::AllReduce(r), Instr::AllReduce { monoid, .. }) => same("the combiner", monoid, &r.monoid).map(|()| Order::Loops),
        (Op::Reduce(r), Instr::Reduce { monoid, .. }) => same("the combiner", monoid, &r.monoid).map(|()| Order::UsedLoops),
        (Op::ArgReduce(r), Instr::ArgReduce { max, last, origin, .. }) => {
            same("`max`", max, &(r.kind == Monoid::Max))?;
            same("`last`", last, &r.select_last)?;
            same("the origin", origin, &(s.parts[0][r.dim].start as u64)).map(|()| Order::UsedLoops)
        }
        (Op::ReduceWindow(r), Instr::ReduceWindow { monoid, window, .. }) => {
            same("the combiner", monoid, &r.monoid)?;
            same("the window", &window.size[..], &r.window[..])?;
            same("the step", &window.stride[..], &r.stride[..])?;
            same("the dilation", &window.base_dilation[..], &r.base_dilation[..])?;
            same("the window dilation", &window.window_dilation[..], &r.window_dilation[..])?;
            for d in 0..r.window.len() {
                let want = local_low(&s.results[0][d], &s.parts[0][d], r.stride[d], r.base_dilation[d], r.pad_low[d]);
                same("the low padding", &window.pad_low[d], &want)?;
            }
            Ok(dims())
        }
        (Op::SelectAndScatter(w), Instr::SelectScatter { max, window, .. }) => {
            same("`max`", max, &matches!(w.select, CompareFn::Ge | CompareFn::Gt))?;
            same("the window", &window.size[..], &w.window[..])?;
            same("the step", &window.stride[..], &w.stride[..])?;
            same("the low padding", &window.pad_low, &w.pad_low)?;
            same("the high padding", &window.pad_high, &w.pad_high).map(|()| dims())
        }
        (Op::Gather(g), Instr::Gather { dims: have, origin, .. }) => {
            let (mut want, shape) = (g.clone(), s.shape(0));
            for (d, part) in s.parts[0].iter().enumerate().filter(|(d, p)| p.len() < shape[*d]) {
                want.slice_sizes[d] = want.slice_sizes[d].min(part.len());
            }
            same("the gather", have, &want)?;
            let starts = s.parts[0].iter().zip(shape).map(|(r, e)| (r.start as u64, *e as u64)).collect();
            same("the origin", origin, &starts).map(|()| dims())
        }
        (Op::Scatter(x), Instr::Scatter { dims: have, .. }) => same("the scatter", have, x).map(|()| dims()),
        (Op::DynamicSlice(_), Instr::DynamicSlice { .. }) => Ok(dims()),
        (Op::DynamicUpdateSlice(_), Instr::DynamicUpdateSlice { .. }) => Ok(dims()),
        (Op::Cumulative(c), Instr::Scan { monoid, dim, exclusive, reverse, .. }) => {
            let (have, want) = ((*monoid, *dim as usize, *exclusive, *reverse), (c.monoid, c.dim, c.exclusive, c.reverse));
            same("the scan", &have, &want).map(|()| dims())
        }
        (Op::Sort(x), Instr::Sort { dim, descending, .. }) => {
            same("the sort", &(*dim as usize, *descending), &(x.dim, x.descending)).map(|()| dims())
        }
        (Op::TopK(t), Instr::TopK { largest, .. }) => same("`largest`", largest, &t.largest).map(|()| dims()),
        (Op::Random(r), Instr::Random { random, origin, .. }) => {
            same("the distribution", random, r)?;
            let want = s.results[0].iter().zip(&r.shape).map(|(p, e)| (p.start as u64, *e as u64)).collect();
            same("the origin", origin, &want).map(|()| dims())
        }
        (Op::Pad(p), Instr::Pad { low, interior, .. }) => {
            same("the interior", &interior[..], &p.interior[..])?;
            let local = |d: usize| p.low[d] + (s.parts[0][d].start * (p.interior[d] + 1)) as i64 - s.results[0][d].start as i64;
            if s.parts[0].iter().all(|r| !r.is_empty()) {
                same("the low padding", low, &(0..p.low.len()).map(local).collect())?;
            }
            Ok(dims())
        }
        (Op::Concat(c), Instr::Concat { dim, .. }) => same("the dimension", &(*dim as usize), &c.dim).map(|()| dims()),
        (Op::Transpose(_) | Op::Broadcast(_) | Op::Slice(_) | Op::Reverse(_) | Op::Concat(_) | Op::Shard(_), Instr::Copy { .. }) => {
            Ok(Order::Loops)
        }
        (Op::Reshape(_), Instr::Copy { .. }) => Ok(Order::Flat),
        _ => Err(mismatch(s, instr)),
    }
}

fn mismatch(s: &Share<'_>, instr: &Instr) -> String {
    format!("`{}` does not compute `{}` over {}", instr.name(), s.graph().node(s.node).op.name(), show_box(s.ranges))
}

/// Whether all elements of a constant are `bits`.
fn filled(bytes: &[u8], size: usize, bits: u64) -> Result<(), String> {
    let want = bits.to_le_bytes();
    let all = bytes.chunks(size).all(|c| c == &want[..size.min(8)]);
    if all { Ok(()) } else { Err(format!("the constant is not {bits:#x} everywhere")) }
}

/// The program of one elementwise op, for operands of these types.
pub(super) fn single(op: &Op, inputs: Vec<DType>) -> Option<FusedProgram> {
    let (expr, count) = match op {
        Op::Unary(f) => (Expr::Unary(f.0, 0), 1),
        Op::Binary(f) => (Expr::Binary(f.0, 0, 1), 2),
        Op::Compare(f) => (Expr::Compare(f.0, 0, 1), 2),
        Op::Select(_) => (Expr::Select(0, 1, 2), 3),
        Op::Convert(c) => (Expr::Convert(c.to, 0), 1),
        Op::BitcastConvert(c) => (Expr::Bitcast(c.to, 0), 1),
        _ => return None,
    };
    let body = (0..count).map(Expr::Input).chain([expr]).collect();
    Some(FusedProgram { inputs, body, outputs: vec![count] })
}

/// Low padding of a share: where the first window of `out` begins, seen from the first element of `base`.
fn local_low(out: &Range<usize>, base: &Range<usize>, stride: usize, dilation: usize, low: i64) -> i64 {
    (base.start * dilation) as i64 + low - (out.start * stride) as i64
}

fn convolution(s: &Share<'_>, c: &Convolution, window: &WindowDims) -> Result<(), String> {
    same("the step", &window.stride[..], &c.stride[..])?;
    same("the dilation", &window.base_dilation[..], &c.lhs_dilation[..])?;
    same("the window dilation", &window.window_dilation[..], &c.rhs_dilation[..])?;
    same("the reversal", &window.reverse[..], &c.reverse[..])?;
    for i in 0..c.stride.len() {
        let (out, base, kernel) = (&s.results[0][c.out_dims[i + 2]], &s.parts[0][c.lhs_dims[i + 2]], &s.parts[1][c.rhs_dims[i + 2]]);
        let first = if c.reverse[i] { s.shape(1)[c.rhs_dims[i + 2]] - kernel.end } else { kernel.start };
        let want = local_low(out, base, c.stride[i], c.lhs_dilation[i], c.pad_low[i]) - (first * c.rhs_dilation[i]) as i64;
        if !base.is_empty() {
            same("the low padding", &window.pad_low[i], &want)?;
        }
    }
    Ok(())
}
