//! The elementwise engine: runs a [`FusedProgram`](girih_ir::fused::FusedProgram) at every point of an iteration space.
//!
//! The space is cut into blocks of some hundred points whose values stay in L1; every instruction is one vectorized loop over a block.
//! Operands that lie contiguously are read where they are, values that are equal in the whole block stay scalars.
//! Where the processor has AVX-512 and the operands allow it, the program runs as machine code instead ([`crate::jit`]); the bits are the same.
//! A program with reductions runs row by row: at once when the row fits a block, else in one sweep over the columns for each level of
//! reductions.
//!
//! **Order of sums:** column `c` is combined into lane `c mod 64`, ascending, then the lanes by halving, whatever the blocks, the layouts
//! and the instruction set.

mod columns;
pub(crate) mod compile;
mod convert;
mod engine;
pub(crate) mod lanes;
pub(crate) mod loops;
pub(crate) mod math;
pub(crate) mod nest;
#[cfg(test)]
mod tests;

pub use compile::Compiled;

use crate::arch::tier::Tier;
use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::jit;
use engine::Engine;
use girih_ir::types::element_count;
use nest::{Nest, Strides};

/// An operand of a fused program.
#[derive(Clone, Debug)]
pub enum Operand<'a> {
    /// Elements to read; the layout has one dimension a loop (stride 0 where the operand does not move).
    Read(View<'a>),
    /// The elements of result `0` (not a per-row one), each read before it is written.
    InPlace(usize),
}

/// Working memory of [`run`], kept between calls.
#[derive(Debug, Default)]
pub struct MapScratch(engine::Memory, Vec<[f32; 16]>, columns::Memory);

impl MapScratch {
    /// Empty working memory; it grows to what the calls need.
    pub fn new() -> Self {
        MapScratch::default()
    }
}

/// Rows up to this many points are one block when the program reduces.
const WHOLE_ROW: usize = 8192;
/// Bytes that the registers of a block may take: well inside L1.
const BLOCK_BYTES: usize = 32 << 10;
/// Rows of at most this many points are run several at a time.
const SHORT_ROW: usize = 512;
/// Points of a group of short rows.
const GROUP: usize = 2048;

/// Runs the program at every point of `loops`.
///
/// Results have one dimension a loop, per-row results only the row ones.
/// `origin` is the global index of the first point (empty: zero), which `Index` instructions see. A call may be split into calls on parts of the
/// row dimensions (all dimensions of a map): the results are the same bits.
pub fn run(
    isa: Isa,
    program: &Compiled,
    loops: &[usize],
    origin: &[usize],
    inputs: &[Operand<'_>],
    outputs: &mut [ViewMut<'_>],
    scratch: &mut MapScratch,
) -> Result<(), KernelError> {
    let operands = validate(program, loops, origin, inputs, outputs)?;
    if element_count(&loops[..loops.len() - program.cols]) == 0 || (program.cols == 0 && element_count(loops) == 0) {
        return Ok(());
    }
    if let Some(sums) = &program.columns
        && let Some(along) = sums.along(loops, program.cols, &operands, inputs)
    {
        let mut memory = std::mem::take(&mut scratch.2);
        let call = columns::Call { isa, program: sums, loops, cols: program.cols, origin, inputs, along };
        let done = call.run(outputs, &mut memory, scratch);
        scratch.2 = memory;
        return done;
    }
    if isa.usable() == Isa::Avx512 && jit::run(program, loops, &operands, inputs, outputs, &mut scratch.1) {
        return Ok(());
    }
    let columns = element_count(&loops[loops.len() - program.cols..]);
    let whole = program.reduces && columns <= WHOLE_ROW;
    // Short rows: the last row dimension joins the columns, and a block is a group of rows.
    let row_dims = loops.len() - program.cols;
    let grouped = whole && (1..=SHORT_ROW).contains(&columns) && row_dims > 0 && loops[row_dims - 1] > 1;
    let nest = if program.cols > 0 {
        Nest::rows(loops, program.cols + usize::from(grouped), &operands)
    } else {
        Nest::map(loops, &operands, (!outputs.is_empty()).then_some(inputs.len()))
    };
    let (block, group) = if grouped {
        let rows = (GROUP / columns).min(loops[row_dims - 1]);
        (rows * columns, rows)
    } else {
        (if whole { nest.flat } else { block_size(program, nest.flat) }, 0)
    };
    let shape = engine::Shape { whole, block, group, columns };
    Engine::new(Tier::new(isa), program, &nest, inputs, outputs, &mut scratch.0, shape).run();
    Ok(())
}

/// Points of a block: as many as keep the registers in L1, in blocks of about equal size.
fn block_size(program: &Compiled, flat: usize) -> usize {
    let bytes = program.sweeps.iter().map(|s| s.regs.iter().sum::<usize>()).max().unwrap_or(0).max(1);
    let most = (BLOCK_BYTES / bytes).clamp(512, 2048);
    let blocks = flat.div_ceil(most).max(1);
    flat.div_ceil(blocks).next_multiple_of(loops::LANES).max(loops::LANES)
}

/// Base and strides of operands.
type Places = smallvec::SmallVec<[(isize, Strides); 12]>;

/// Base and strides of every input, every output and every used index, one stride a loop.
fn validate(
    program: &Compiled,
    loops: &[usize],
    origin: &[usize],
    inputs: &[Operand<'_>],
    outputs: &[ViewMut<'_>],
) -> Result<Places, KernelError> {
    if program.cols > loops.len() {
        return Err(KernelError::Attribute { name: "cols", value: program.cols as i64, rule: "at most the number of loops" });
    }
    check_shape("operands of the program", "inputs", &[inputs.len()], &[program.inputs.len()])?;
    check_shape("results of the program", "outputs", &[outputs.len()], &[program.outputs.len()])?;
    if !origin.is_empty() {
        check_shape("one origin a loop", "origin", &[origin.len()], &[loops.len()])?;
    }
    let mut operands = Places::new();
    for (input, dtype) in inputs.iter().zip(&program.inputs) {
        match input {
            Operand::Read(view) => {
                check_type("input", view.dtype(), *dtype)?;
                check_shape("one dimension a loop", "input", view.dims(), loops)?;
                operands.push((view.layout().base as isize, view.layout().strides.clone()));
            }
            Operand::InPlace(k) => {
                let out = outputs.get(*k).zip(program.outputs.get(*k)).filter(|(_, o)| !o.per_row);
                let Some((out, _)) = out else {
                    return Err(KernelError::Attribute { name: "in place", value: *k as i64, rule: "a result with one element a point" });
                };
                check_type("input", out.dtype(), *dtype)?;
                check_shape("one dimension a loop", "out", out.dims(), loops)?;
                operands.push((out.layout().base as isize, out.layout().strides.clone()));
            }
        }
    }
    for (out, info) in outputs.iter().zip(&program.outputs) {
        check_type("out", out.dtype(), info.dtype)?;
        let want = if info.per_row { &loops[..loops.len() - program.cols] } else { loops };
        check_shape("one dimension a loop", "out", out.dims(), want)?;
        let mut strides = out.layout().strides.clone();
        strides.resize(loops.len(), 0);
        operands.push((out.layout().base as isize, strides));
    }
    for d in &program.index_dims {
        if *d >= loops.len() {
            return Err(KernelError::Attribute { name: "index", value: *d as i64, rule: "a loop dimension" });
        }
        let mut strides = Strides::from_elem(0, loops.len());
        strides[*d] = 1;
        operands.push((origin.get(*d).copied().unwrap_or(0) as isize, strides));
    }
    Ok(operands)
}
