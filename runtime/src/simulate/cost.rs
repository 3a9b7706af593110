//! What one instruction costs a die.
//!
//! | instruction | seconds, plus the launch overhead |
//! |---|---|
//! | `gemm` | the target's GEMM model; the batch counts as further rows. Vector cores run along the contiguous dimension of the result |
//! | `conv` | the target's model of it, else the product it is equal to: `n·out_positions × c_out × (c_in·window)`, per group |
//! | `reduce_window` | the target's model of it, else as all others |
//! | all others | vector operations / vector rate |
//!
//! or bytes read and written / SRAM bandwidth, where that is longer. Copies and fills have no operations. Only bytes that are touched count: of a
//! table, the rows that are gathered; of what is updated in place, the update.

use girih_ir::fused::Expr;
use girih_ir::program::instr::WindowDims;
use girih_ir::program::{Instr, Program, Region, Regions};
use girih_ir::target::engines::inside;
use girih_ir::target::{Product, Target, WindowShape};
use girih_ir::types::DType;

/// Work and time of one instruction.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    /// On the compute engine (or, for a combining receive, in its queue).
    pub seconds: f64,
    /// Operations of the matrix engines.
    pub matrix_flops: u64,
    /// Operations of the vector engines.
    pub vector_flops: u64,
    /// Bytes read from and written to SRAM.
    pub sram_bytes: u64,
    /// Type of the operations.
    pub dtype: Option<DType>,
}

impl Cost {
    /// All operations.
    pub fn flops(&self) -> u64 {
        self.matrix_flops.saturating_add(self.vector_flops)
    }
}

fn product(dims: &[usize]) -> u64 {
    dims.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64))
}

fn count(region: &Region) -> u64 {
    product(&region.dims)
}

/// `work / rate`, 0 where there is no such rate.
pub fn seconds(work: f64, rate: f64) -> f64 {
    if work > 0.0 && rate.is_finite() && rate > 0.0 { work / rate } else { 0.0 }
}

/// Operations that a fused program does at each point.
fn body_ops(program: &Program, id: u32) -> u64 {
    let counts = |e: &&Expr| !matches!(e, Expr::Input(_) | Expr::Const(..) | Expr::Index(..));
    program.fused.get(id as usize).map_or(1, |f| f.body.iter().filter(counts).count() as u64)
}

/// The products of a `gemm`.
pub(super) fn gemm_shape(out: &Region, a: &Region, batch: u32, contract: u32) -> Product {
    let split = a.dims.len().saturating_sub(contract as usize);
    let (rows, terms) = a.dims.split_at(split);
    let (batch, rows) = rows.split_at((batch as usize).min(split));
    let free = out.dims.get(split..).unwrap_or(&[]);
    // The dimension of the result that is contiguous, its rows or its columns.
    let column_major = split > 0 && out.strides.get(split - 1) == Some(&1) && out.strides.last().is_some_and(|s| *s != 1);
    let [batch, m, n, k] = [batch, rows, free, terms].map(|dims| product(dims) as usize);
    Product { batch, m, n, k, column_major }
}

/// The part of the taps along each of these dimensions that meet the operand; `window` has one entry a dimension.
fn share(positions: &[usize], taps: &[usize], window: &WindowDims, operand: &[usize], from: usize) -> Vec<f64> {
    let entry = |list: &[usize], d: usize| list.get(d).copied().unwrap_or(1);
    let dims = positions.iter().zip(taps).zip(operand).enumerate();
    dims.map(|(d, ((p, w), extent))| {
        let (d, base) = (d + from, entry(&window.base_dilation, d + from).max(1));
        // The holes of a dilated operand are taps like all others.
        let extent = if *extent == 0 { 0 } else { (extent - 1) * base + 1 };
        inside(*p, *w, entry(&window.stride, d), entry(&window.window_dilation, d), window.pad_low.get(d).copied().unwrap_or(0), extent)
    })
    .collect()
}

/// The convolutions that a `conv` does beside each other.
pub(super) fn conv_groups(instr: &Instr) -> usize {
    match instr {
        Instr::Conv { feature_groups, batch_groups, .. } => (*feature_groups).max(*batch_groups).max(1) as usize,
        _ => 1,
    }
}

/// A convolution as the target's model sees it.
pub(super) fn conv_shape(out: &Region, lhs: &Region, rhs: &Region, window: &WindowDims, groups: usize) -> WindowShape {
    let rest = |r: &Region| r.dims.get(2..).unwrap_or(&[]).to_vec();
    let (positions, taps) = (rest(out), rest(rhs));
    let inside = share(&positions, &taps, window, &rest(lhs), 0);
    WindowShape {
        batch: out.dims.first().copied().unwrap_or(1),
        groups,
        inputs: rhs.dims.get(1).copied().unwrap_or(1),
        outputs: out.dims.get(1).copied().unwrap_or(1).div_ceil(groups.max(1)),
        positions,
        window: taps,
        inside,
    }
}

/// A pooling: the dimensions from the first that is really pooled are positions, the one before them the channels.
fn pool_shape(out: &Region, input: &Region, window: &WindowDims) -> WindowShape {
    let first = window.size.iter().position(|s| *s > 1).unwrap_or(window.size.len()).min(out.dims.len());
    let (outer, positions) = out.dims.split_at(first);
    let (batch, channels) = outer.split_at(first.saturating_sub(1));
    let taps = window.size.get(first..).unwrap_or(&[]);
    let operand = input.dims.get(first..).unwrap_or(&[]);
    WindowShape {
        batch: batch.iter().product(),
        groups: 1,
        inputs: 1,
        outputs: channels.iter().product(),
        positions: positions.to_vec(),
        window: taps.to_vec(),
        inside: share(positions, taps, window, operand, first),
    }
}

/// Bytes of an instruction that touches a part of its operands only.
fn touched(instr: &Instr) -> Option<u64> {
    let all = |regions: &[&Region]| regions.iter().map(|r| r.bytes()).fold(0u64, u64::saturating_add);
    let scalars = |starts: &[Region]| starts.iter().map(Region::bytes).fold(0u64, u64::saturating_add);
    // What is not updated in place is copied first.
    let copied = |out: &Region, operand: &Region| if out == operand { 0 } else { all(&[operand, out]) };
    Some(match instr {
        Instr::DynamicSlice { out, starts, .. } => all(&[out, out]).saturating_add(scalars(starts)),
        Instr::DynamicUpdateSlice { out, operand, update, starts } => {
            all(&[update, update]).saturating_add(scalars(starts)).saturating_add(copied(out, operand))
        }
        Instr::Gather { out, indices, .. } => all(&[out, out, indices]),
        // Each element of the updates is read, and what it meets is read and written.
        Instr::Scatter { out, operand, indices, updates, .. } => {
            all(&[updates, updates, updates, indices]).saturating_add(copied(out, operand))
        }
        _ => return None,
    })
}

/// Batch, queries and keys of an attention.
fn attention_points(ins: &[Region]) -> [usize; 3] {
    let (Some(q), Some(k)) = (ins.first(), ins.get(1)) else { return [0; 3] };
    let Some(n) = q.dims.len().checked_sub(2).filter(|n| k.dims.len() == n + 2) else { return [0; 3] };
    [q.dims[..n].iter().product(), q.dims[n], k.dims[n]]
}

/// The products of an attention, or of its gradient; what masks save is not known before it runs.
pub fn attention_products(ins: &[Region], gradient: bool) -> Vec<Product> {
    let [batch, queries, keys] = attention_points(ins);
    let width = |k: usize| ins.get(k).and_then(|r| r.dims.last()).copied().unwrap_or(0);
    let (wide, value) = (width(0), width(2));
    let shape = |m: usize, n: usize, k: usize| Product { batch, m, n, k, column_major: false };
    let forward = [shape(queries, keys, wide), shape(queries, value, keys)];
    let backward = [shape(queries, keys, value), shape(queries, wide, keys), shape(keys, wide, queries), shape(keys, value, queries)];
    if gradient { forward[..1].iter().chain(&backward).cloned().collect() } else { forward.into() }
}

/// The cost of an instruction. Waits and `end` cost nothing; transfers cost what their region moves through SRAM.
pub fn cost(instr: &Instr, program: &Program, target: &Target) -> Cost {
    let bytes = |r: &Region| count(r).saturating_mul(r.dtype.size() as u64);
    let moved = |r: Regions<'_>| r.into_iter().map(bytes).fold(0u64, u64::saturating_add);
    let mut c = Cost {
        sram_bytes: touched(instr).unwrap_or_else(|| moved(instr.reads()).saturating_add(moved(instr.writes()))),
        ..Cost::default()
    };
    c.dtype = instr.writes().first().map(|r| r.dtype);
    let mut engine = 0.0;
    match instr {
        Instr::Wait { .. } | Instr::End => return Cost::default(),
        Instr::Loop { .. } | Instr::ExitUnless { .. } | Instr::EndLoop => {
            return Cost { seconds: target.launch_overhead(), ..Cost::default() };
        }
        Instr::Gemm { out, a, batch, contract, .. } => {
            let shape = gemm_shape(out, a, *batch, *contract);
            c.matrix_flops = product(&[2, shape.batch, shape.m, shape.n, shape.k]);
            c.dtype = Some(a.dtype);
            engine = target.gemm_seconds(a.dtype, shape);
        }
        Instr::Conv { out, lhs, rhs, window, .. } => {
            let terms = product(rhs.dims.get(1..).unwrap_or(&[])) as usize;
            c.matrix_flops = product(&[2, product(&out.dims) as usize, terms]);
            c.dtype = Some(lhs.dtype);
            engine = target.conv_seconds(lhs.dtype, &conv_shape(out, lhs, rhs, window, conv_groups(instr)));
        }
        Instr::Attention { weights, scores, ins, .. } => {
            let points = attention_points(ins);
            let programs = body_ops(program, weights.0) + scores.map_or(0, |s| body_ops(program, s.0));
            c.vector_flops = points.iter().product::<usize>() as u64 * programs;
            c.dtype = ins.first().map(|q| q.dtype);
            for shape in attention_products(ins, scores.is_some()) {
                c.matrix_flops = c.matrix_flops.saturating_add(product(&[2, shape.batch, shape.m, shape.n, shape.k]));
                engine += target.gemm_seconds(ins[0].dtype, shape);
            }
        }
        Instr::Map { program: id, loops, .. } => c.vector_flops = product(loops).saturating_mul(body_ops(program, id.0)),
        Instr::Reduce { input, .. } | Instr::ArgReduce { input, .. } | Instr::Scan { input, .. } => c.vector_flops = count(input),
        Instr::TopK { input, .. } => c.vector_flops = count(input).saturating_mul(4),
        Instr::Sort { ins, .. } => {
            let n = ins.first().map_or(0, count);
            c.vector_flops = n.saturating_mul(64 - u64::leading_zeros(n.max(1)) as u64);
        }
        Instr::ReduceWindow { out, input, window, .. } => {
            c.vector_flops = count(out).saturating_mul(product(&window.size));
            engine = target.pool_seconds(&pool_shape(out, input, window)).unwrap_or(0.0);
        }
        Instr::SelectScatter { source, window, .. } => c.vector_flops = count(source).saturating_mul(product(&window.size)),
        Instr::Scatter { updates, .. } => c.vector_flops = count(updates),
        Instr::Random { out, .. } => c.vector_flops = count(out).saturating_mul(20),
        Instr::RecvAdd { out, .. } => c.vector_flops = count(out),
        _ => {}
    }
    let vector = seconds(c.vector_flops as f64, target.vector_flops());
    let memory = seconds(c.sram_bytes as f64, target.sram_bandwidth());
    let launch = if instr.is_async() { 0.0 } else { target.launch_overhead() };
    c.seconds = if engine.is_finite() { engine } else { 0.0 }.max(vector).max(memory) + launch;
    c
}
