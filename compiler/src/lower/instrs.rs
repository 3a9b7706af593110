//! One die's share of a node as one instruction: global attributes become local ones.

use super::{LowerError, Tables, region};
use crate::memory::MemoryPlan;
use crate::place::{Task, View};
use girih_ir::axes::{box_dims, box_is_empty};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::ops::convolution::Convolution;
use girih_ir::ops::reduce_window::ReduceWindow;
use girih_ir::program::instr::WindowDims;
use girih_ir::program::{FusedId, Instr, Region};
use girih_ir::scalar::CompareFn;
use girih_ir::types::Dims;
use smallvec::SmallVec;
use std::ops::Range;

/// Everything that a share's instruction is made from.
struct Share<'a> {
    task: &'a Task,
    ranges: &'a [Range<usize>],
    plan: &'a MemoryPlan,
    ins: Vec<Region>,
    outs: Vec<Region>,
}

impl Share<'_> {
    fn part(&self, operand: usize) -> &[Range<usize>] {
        &self.task.reads[operand].part
    }
    fn result(&self) -> &[Range<usize>] {
        &self.task.writes[0].part
    }
    fn out(&self) -> Region {
        self.outs[0].clone()
    }
    fn input(&self) -> Region {
        self.ins[0].clone()
    }
    /// A copy of a view of the operand with these extents, strides (in operand elements a dimension) and start.
    fn copy(&self, strides: SmallVec<[i64; 6]>, shift: i64) -> Instr {
        let out = self.out();
        let from = &self.ins[0];
        let offset = from.offset.wrapping_add_signed(shift * from.dtype.size() as i64);
        let input = Region { offset, dtype: from.dtype, dims: out.dims.clone(), strides };
        Instr::Copy { out, input }
    }
}

/// The region with its dimensions in another order.
fn permuted(r: &Region, order: impl IntoIterator<Item = usize> + Clone) -> Region {
    Region {
        offset: r.offset,
        dtype: r.dtype,
        dims: order.clone().into_iter().map(|d| r.dims[d]).collect(),
        strides: order.into_iter().map(|d| r.strides[d]).collect(),
    }
}

/// The instruction of a compute task.
pub(super) fn compute(
    plan: &MemoryPlan,
    task: &Task,
    node: ValueId,
    ranges: &[Range<usize>],
    tables: &Tables,
) -> Result<Instr, LowerError> {
    let graph = &plan.schedule.placed.sharded.step.graph;
    let view = |(k, v): (usize, &View)| {
        if !box_is_empty(&v.part) {
            return region(plan, v);
        }
        // A part that this share does not touch: no bytes, but the right type and rank.
        let dtype = graph.tensor_ty(graph.node(node).operands[k]).dtype;
        Region { offset: 0, dtype, dims: box_dims(&v.part), strides: SmallVec::from_elem(0, v.part.len()) }
    };
    let share = Share {
        task,
        ranges,
        plan,
        ins: task.reads.iter().enumerate().map(view).collect(),
        outs: task.writes.iter().map(|v| region(plan, v)).collect(),
    };
    let s = &share;
    let op = &graph.node(node).op;
    Ok(match op {
        Op::Constant(_) => {
            let starts: Dims = s.result().iter().map(|r| r.start).collect();
            Instr::Constant { out: s.out(), literal: tables.literal(node), starts }
        }
        Op::Iota(i) => Instr::Iota { out: s.out(), dim: i.dim as u32, start: s.result()[i.dim].start as u64 },
        Op::Fused(f) => fused(s, f, tables.fused(node)),
        Op::Attention(a) => attention(s, tables.fused(node), None, &a.layouts, &a.masks),
        Op::AttentionGrad(a) => attention(s, tables.fused(node), Some(tables.program(&a.scores)), &a.layouts, &a.masks),
        Op::DotGeneral(d) => {
            let (ra, rb) = (s.ins[0].dims.len(), s.ins[1].dims.len());
            let order = |batch: &[usize], free: Vec<usize>, contract: &[usize]| -> Vec<usize> {
                batch.iter().copied().chain(free).chain(contract.iter().copied()).collect()
            };
            Instr::Gemm {
                out: s.out(),
                a: permuted(&s.ins[0], order(&d.lhs_batch, d.lhs_free(ra), &d.lhs_contract)),
                b: permuted(&s.ins[1], order(&d.rhs_batch, d.rhs_free(rb), &d.rhs_contract)),
                batch: d.lhs_batch.len() as u32,
                contract: d.lhs_contract.len() as u32,
            }
        }
        Op::Convolution(c) => convolution(s, c, graph.shape(graph.node(node).operands[1])),
        Op::Reduce(r) => {
            let order = r.kept(s.ins[0].dims.len()).into_iter().chain(r.dims.iter().copied());
            let order: Vec<usize> = order.collect();
            Instr::Reduce { monoid: r.monoid, out: s.out(), input: permuted(&s.ins[0], order) }
        }
        Op::ReduceWindow(w) => reduce_window(s, w),
        Op::SelectAndScatter(w) => {
            let rank = s.ins[0].dims.len();
            let window = WindowDims {
                size: w.window.to_vec(),
                stride: w.stride.to_vec(),
                pad_low: w.pad_low.clone(),
                pad_high: w.pad_high.clone(),
                base_dilation: vec![1; rank],
                window_dilation: vec![1; rank],
                reverse: vec![false; rank],
            };
            let max = matches!(w.select, CompareFn::Ge | CompareFn::Gt);
            Instr::SelectScatter { max, out: s.out(), input: s.input(), source: s.ins[1].clone(), window }
        }
        Op::Shard(_) => Instr::Copy { out: s.out(), input: s.input() },
        Op::AllReduce(a) => Instr::AllReduce { monoid: a.monoid, out: s.out(), input: s.input() },
        Op::Transpose(t) => {
            let from = permuted(&s.ins[0], t.permutation.iter().copied());
            Instr::Copy { out: s.out(), input: from }
        }
        Op::Broadcast(b) => {
            let mut strides: SmallVec<[i64; 6]> = SmallVec::from_elem(0, b.shape.len());
            for (i, d) in b.dims.iter().enumerate() {
                let repeated = graph.shape(graph.node(node).operands[0])[i] != b.shape[*d];
                strides[*d] = if repeated { 0 } else { s.ins[0].strides[i] };
            }
            s.copy(strides, 0)
        }
        Op::Reshape(_) => reshape(s, graph.shape(graph.node(node).operands[0]), graph.shape(node)),
        Op::Slice(sl) => {
            let shift = (0..sl.start.len())
                .map(|d| (sl.start[d] + s.result()[d].start * sl.stride[d] - s.part(0)[d].start) as i64 * s.ins[0].strides[d])
                .sum();
            s.copy(s.ins[0].strides.iter().zip(&sl.stride).map(|(a, b)| a * *b as i64).collect(), shift)
        }
        Op::Reverse(r) => {
            let mut strides = s.ins[0].strides.clone();
            let mut shift = 0;
            for d in &r.dims {
                shift += (s.ins[0].dims[*d].max(1) as i64 - 1) * strides[*d];
                strides[*d] = -strides[*d];
            }
            s.copy(strides, shift)
        }
        Op::Pad(p) => {
            let low = (0..p.low.len())
                .map(|d| p.low[d] + s.part(0)[d].start as i64 * (p.interior[d] as i64 + 1) - s.result()[d].start as i64)
                .collect();
            Instr::Pad { out: s.out(), input: s.input(), fill: s.ins[1].clone(), low, interior: p.interior.to_vec() }
        }
        Op::Concat(c) => {
            let ins = s.ins.iter().filter(|r| r.elements() > 0).cloned().collect();
            Instr::Concat { out: s.out(), dim: c.dim as u32, ins }
        }
        Op::Gather(g) => {
            let operand = graph.shape(graph.node(node).operands[0]);
            let mut dims = g.clone();
            for (d, part) in s.part(0).iter().enumerate() {
                if part.end - part.start < operand[d] {
                    dims.slice_sizes[d] = dims.slice_sizes[d].min(part.end - part.start);
                }
            }
            let origin = s.part(0).iter().zip(operand).map(|(r, e)| (r.start as u64, *e as u64)).collect();
            Instr::Gather { out: s.out(), operand: s.input(), indices: s.ins[1].clone(), dims, origin }
        }
        Op::Scatter(sc) => {
            Instr::Scatter { out: s.out(), operand: s.input(), indices: s.ins[1].clone(), updates: s.ins[2].clone(), dims: sc.clone() }
        }
        Op::DynamicSlice(_) => Instr::DynamicSlice { out: s.out(), operand: s.input(), starts: s.ins[1..].to_vec() },
        Op::DynamicUpdateSlice(_) => {
            Instr::DynamicUpdateSlice { out: s.out(), operand: s.input(), update: s.ins[1].clone(), starts: s.ins[2..].to_vec() }
        }
        Op::ArgReduce(a) => {
            let rank = s.ins[0].dims.len();
            let order: Vec<usize> = (0..rank).filter(|d| *d != a.dim).chain([a.dim]).collect();
            let origin = s.part(0)[a.dim].start as u64;
            Instr::ArgReduce {
                max: a.kind == girih_ir::scalar::Monoid::Max,
                last: a.select_last,
                out: s.out(),
                input: permuted(&s.ins[0], order),
                origin,
            }
        }
        Op::Cumulative(c) => {
            Instr::Scan { monoid: c.monoid, dim: c.dim as u32, exclusive: c.exclusive, reverse: c.reverse, out: s.out(), input: s.input() }
        }
        Op::Sort(so) => Instr::Sort { dim: so.dim as u32, descending: so.descending, outs: s.outs.clone(), ins: s.ins.clone() },
        Op::TopK(t) => Instr::TopK { largest: t.largest, values: s.outs[0].clone(), positions: s.outs[1].clone(), input: s.input() },
        Op::Random(r) => {
            let origin = s.result().iter().zip(graph.shape(node)).map(|(r, e)| (r.start as u64, *e as u64)).collect();
            Instr::Random { out: s.out(), random: r.clone(), ins: s.ins.clone(), origin }
        }
        _ => {
            return Err(LowerError::NoInstruction { op: op.name(), value: node, origin: graph.origin(node).to_string() });
        }
    })
}

/// Rows in the order batch, row, width; masks with one dimension a loop.
fn attention(s: &Share<'_>, weights: FusedId, scores: Option<FusedId>, layouts: &[Vec<usize>], masks: &[Vec<usize>]) -> Instr {
    let loops: Dims = s.ranges.iter().map(|r| r.end - r.start).collect();
    let (rows, outs) = layouts.split_at(layouts.len() - s.outs.len());
    let laid = |(r, layout): (&Region, &Vec<usize>)| permuted(r, layout.iter().copied());
    let mask = |(r, dims): (&Region, &Vec<usize>)| along(r, dims, &loops);
    let (first, rest) = s.ins.split_at(rows.len());
    Instr::Attention {
        weights,
        scores,
        origin: s.ranges.iter().map(|r| r.start).collect(),
        ins: first.iter().zip(rows).map(laid).chain(rest.iter().zip(masks).map(mask)).collect(),
        outs: s.outs.iter().zip(outs).map(laid).collect(),
    }
}

/// The region with one dimension a loop, of which its own move with `dims`.
fn along(r: &Region, dims: &[usize], loops: &Dims) -> Region {
    let mut strides: SmallVec<[i64; 6]> = SmallVec::from_elem(0, loops.len());
    dims.iter().enumerate().for_each(|(i, l)| strides[*l] = r.strides[i]);
    Region { offset: r.offset, dtype: r.dtype, dims: loops.clone(), strides }
}

fn fused(s: &Share<'_>, f: &girih_ir::ops::fused::Fused, program: FusedId) -> Instr {
    let loops: Dims = s.ranges.iter().map(|r| r.end - r.start).collect();
    let ins = s.ins.iter().zip(&f.operands).map(|(r, dims)| along(r, dims, &loops));
    Instr::Map {
        program,
        loops: loops.clone(),
        cols: f.cols as u32,
        origin: s.ranges.iter().map(|r| r.start).collect(),
        ins: ins.collect(),
        outs: s.outs.clone(),
    }
}

/// Padding of one window dimension when results `out`, operand elements `base` and window elements from `first` are local:
/// low padding by where local base position 0 lies, high padding so that exactly the local results come out.
fn local_padding(
    out: &Range<usize>,
    base: &Range<usize>,
    first: usize,
    window: usize,
    (stride, base_dilation, window_dilation, pad_low): (usize, usize, usize, i64),
) -> (i64, i64) {
    let spread = |n: usize, d: usize| if n == 0 { 0 } else { (n as i64 - 1) * d as i64 + 1 };
    let low = (base.start * base_dilation) as i64 + pad_low - (out.start * stride) as i64 - (first * window_dilation) as i64;
    let padded = ((out.end - out.start).max(1) as i64 - 1) * stride as i64 + spread(window, window_dilation);
    (low, padded - spread(base.end - base.start, base_dilation) - low)
}

fn convolution(s: &Share<'_>, c: &Convolution, rhs_shape: &[usize]) -> Instr {
    let mut w = WindowDims::default();
    for i in 0..c.stride.len() {
        let (out, base, kernel) = (&s.result()[c.out_dims[i + 2]], &s.part(0)[c.lhs_dims[i + 2]], &s.part(1)[c.rhs_dims[i + 2]]);
        let first = if c.reverse[i] { rhs_shape[c.rhs_dims[i + 2]] - kernel.end } else { kernel.start };
        let window = kernel.end - kernel.start;
        let numbers = (c.stride[i], c.lhs_dilation[i], c.rhs_dilation[i], c.pad_low[i]);
        let (low, high) = local_padding(out, base, first, window, numbers);
        w.size.push(window);
        w.stride.push(c.stride[i]);
        w.pad_low.push(low);
        w.pad_high.push(high);
        w.base_dilation.push(c.lhs_dilation[i]);
        w.window_dilation.push(c.rhs_dilation[i]);
        w.reverse.push(c.reverse[i]);
    }
    let out = permuted(&s.outs[0], c.out_dims.iter().copied());
    let lhs = permuted(&s.ins[0], c.lhs_dims.iter().copied());
    let rhs = permuted(&s.ins[1], c.rhs_dims.iter().copied());
    // A share of a grouped convolution has as many groups as its shards have features.
    let feature_groups = if c.feature_groups > 1 { (lhs.dims[1] / rhs.dims[1].max(1)).max(1) } else { 1 };
    let batch_groups = if c.batch_groups > 1 { (lhs.dims[0] / out.dims[0].max(1)).max(1) } else { 1 };
    Instr::Conv { out, lhs, rhs, window: w, feature_groups: feature_groups as u32, batch_groups: batch_groups as u32 }
}

fn reduce_window(s: &Share<'_>, r: &ReduceWindow) -> Instr {
    let mut w = WindowDims::default();
    for d in 0..r.window.len() {
        let numbers = (r.stride[d], r.base_dilation[d], r.window_dilation[d], r.pad_low[d]);
        let (low, high) = local_padding(&s.result()[d], &s.part(0)[d], 0, r.window[d], numbers);
        w.size.push(r.window[d]);
        w.stride.push(r.stride[d]);
        w.pad_low.push(low);
        w.pad_high.push(high);
        w.base_dilation.push(r.base_dilation[d]);
        w.window_dilation.push(r.window_dilation[d]);
        w.reverse.push(false);
    }
    Instr::ReduceWindow { monoid: r.monoid, out: s.out(), input: s.input(), window: w }
}

/// The result's part as a strided view of the operand's buffer, group by group: within a group the operand's box is one run of the
/// flat index, so every result dimension has a fixed distance in it.
fn reshape(s: &Share<'_>, from: &[usize], to: &[usize]) -> Instr {
    let (input, part) = (&s.ins[0], s.part(0));
    let buffer = &s.plan.schedule.placed.buffers[s.task.reads[0].buffer.index()];
    if input.elements() == s.outs[0].elements() && buffer.part.as_slice() == part {
        let out = s.out();
        let strides = Region::dense(0, &girih_ir::types::TensorType::new(out.dtype, &out.dims)).strides;
        return Instr::Copy { input: Region { offset: input.offset, dtype: out.dtype, dims: out.dims.clone(), strides }, out };
    }
    let mut strides: SmallVec<[i64; 6]> = SmallVec::from_elem(0, to.len());
    let mut shift = 0i64;
    for g in girih_ir::ops::reshape::reshape_groups(from, to) {
        let unit = g.from.clone().last().map_or(0, |d| input.strides[d]);
        let (mut weight, mut flat, mut operand_flat) = (1usize, 0usize, 0usize);
        for d in g.to.clone().rev() {
            strides[d] = weight as i64 * unit;
            flat += s.result()[d].start * weight;
            weight *= to[d];
        }
        let mut inner = 1;
        for d in g.from.clone().rev() {
            operand_flat += part[d].start * inner;
            inner *= from[d];
        }
        shift += (flat as i64 - operand_flat as i64) * unit;
    }
    s.copy(strides, shift)
}
