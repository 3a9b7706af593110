//! What one instruction costs a die.
//!
//! | instruction | seconds, plus the launch overhead |
//! |---|---|
//! | `gemm` | the target's GEMM model; the batch counts as further rows |
//! | `conv` | the product it is equal to: `n·out_positions × c_out × (c_in·window)`, per group |
//! | all others | vector operations / vector rate |
//!
//! or bytes read and written / SRAM bandwidth, where that is longer. Copies and fills have no operations. Only bytes that are touched count: of a
//! table, the rows that are gathered; of what is updated in place, the update.

use girih_ir::fused::Expr;
use girih_ir::program::{Instr, Program, Region};
use girih_ir::target::Target;
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

/// `(m, n, k)` of a product.
fn gemm_extents(out: &Region, a: &Region, batch: u32, contract: u32) -> (usize, usize, usize) {
    let split = a.dims.len().saturating_sub(contract as usize);
    let (rows, terms) = a.dims.split_at(split);
    let free = out.dims.get(split..).unwrap_or(&[]);
    let _ = batch;
    (product(rows) as usize, product(free) as usize, product(terms) as usize)
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

/// The cost of an instruction. Waits and `end` cost nothing; transfers cost what their region moves through SRAM.
pub fn cost(instr: &Instr, program: &Program, target: &Target) -> Cost {
    let bytes = |r: &Region| count(r).saturating_mul(r.dtype.size() as u64);
    let moved = |r: Vec<&Region>| r.into_iter().map(bytes).fold(0u64, u64::saturating_add);
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
            let (m, n, k) = gemm_extents(out, a, *batch, *contract);
            c.matrix_flops = product(&[2, m, n, k]);
            c.dtype = Some(a.dtype);
            engine = target.gemm_seconds(a.dtype, m, n, k);
        }
        Instr::Conv { out, lhs, rhs, feature_groups, batch_groups, .. } => {
            let groups = (*feature_groups).max(*batch_groups).max(1) as usize;
            let positions = product(&out.dims) as usize / out.dims.get(1).copied().unwrap_or(1).max(1);
            let channels = out.dims.get(1).copied().unwrap_or(1).div_ceil(groups);
            let terms = product(rhs.dims.get(1..).unwrap_or(&[])) as usize;
            c.matrix_flops = product(&[2, product(&out.dims) as usize, terms]);
            c.dtype = Some(lhs.dtype);
            engine = groups as f64 * target.gemm_seconds(lhs.dtype, positions, channels, terms);
        }
        Instr::Map { program: id, loops, .. } => c.vector_flops = product(loops).saturating_mul(body_ops(program, id.0)),
        Instr::Reduce { input, .. } | Instr::ArgReduce { input, .. } | Instr::Scan { input, .. } => c.vector_flops = count(input),
        Instr::TopK { input, .. } => c.vector_flops = count(input).saturating_mul(4),
        Instr::Sort { ins, .. } => {
            let n = ins.first().map_or(0, count);
            c.vector_flops = n.saturating_mul(64 - u64::leading_zeros(n.max(1)) as u64);
        }
        Instr::ReduceWindow { out, window, .. } => c.vector_flops = count(out).saturating_mul(product(&window.size)),
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
