//! A fused program made ready to run: what is needed, in which sweep over the columns, in which block register.

use super::columns::ColumnSums;
use crate::error::KernelError;
use crate::jit::Cache;
use crate::lane::{Value, by_value};
use girih_ir::fused::{Expr, FusedProgram, Slot};
use girih_ir::scalar::Wide;
use girih_ir::types::DType;

/// A program that is ready to run, on any extents.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Element types of the operands.
    pub(crate) inputs: Vec<DType>,
    /// The results.
    pub(crate) outputs: Vec<Result_>,
    /// Element type of every slot.
    pub(crate) types: Vec<DType>,
    /// Slots that are constant along a row.
    pub(crate) per_row: Vec<bool>,
    /// Everything in one sweep: for rows that fit one block.
    pub(crate) whole: Sweep,
    /// One sweep more than the depth of the reductions: each computes again what it needs.
    pub(crate) sweeps: Vec<Sweep>,
    /// Trailing loop dimensions that are columns.
    pub(crate) cols: usize,
    /// Loop dimensions whose index is used.
    pub(crate) index_dims: Vec<usize>,
    /// Whether there is a reduction.
    pub(crate) reduces: bool,
    /// For each operand, the last slot that reads it (0 when none does).
    pub(crate) last_read: Vec<Slot>,
    /// The program as machine code, for each way that its operands moved so far.
    pub(crate) jit: Cache,
    /// Its form for columns that are not neighbors.
    pub(super) columns: Option<ColumnSums>,
}

/// One result of a program.
#[derive(Clone, Debug)]
pub(crate) struct Result_ {
    pub(crate) slot: Slot,
    pub(crate) dtype: DType,
    pub(crate) per_row: bool,
}

/// One instruction with its register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) slot: Slot,
    pub(crate) expr: Expr,
    /// Raw value of a constant.
    pub(crate) constant: u64,
    /// The block register that it may write.
    pub(crate) reg: u32,
    /// The result that is exactly this slot, if any.
    pub(crate) out: Option<u32>,
}

/// Instructions of one pass over the columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) steps: Vec<Step>,
    /// Bytes a lane of every register.
    pub(crate) regs: Vec<usize>,
    /// Whether the results are written in this pass.
    pub(crate) writes: bool,
}

/// The element type that values of a type are computed in.
pub(crate) fn value_type(d: DType) -> DType {
    match d {
        DType::BF16 | DType::F16 | DType::F8E4M3FN | DType::F8E5M2 => DType::F32,
        d => d,
    }
}

/// The bytes of a value, in the low bytes.
pub(crate) fn raw<T: bytemuck::Pod>(v: T) -> u64 {
    let mut bytes = [0u8; 8];
    bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&v));
    u64::from_le_bytes(bytes)
}

/// The value of those bytes.
pub(crate) fn unraw<T: bytemuck::Pod>(v: u64) -> T {
    bytemuck::pod_read_unaligned(&v.to_le_bytes()[..size_of::<T>()])
}

impl Compiled {
    /// Prepares a program whose last `cols` loop dimensions are columns (0: a map).
    pub fn new(program: &FusedProgram, cols: usize) -> Result<Compiled, KernelError> {
        let types = program.types().map_err(|e| KernelError::Program { slot: e.slot, why: e.why })?;
        let per_row = program.per_row();
        let mut stage = vec![0usize; types.len()];
        let mut index_dims = Vec::new();
        for (slot, expr) in program.body.iter().enumerate() {
            stage[slot] = expr.arguments().iter().map(|a| stage[*a as usize]).max().unwrap_or(0);
            match expr {
                Expr::Reduce(..) if cols == 0 => {
                    return Err(KernelError::Program { slot, why: "it reduces, but the program has no columns" });
                }
                Expr::Reduce(..) => stage[slot] += 1,
                Expr::Index(_, d) if !index_dims.contains(&(*d as usize)) => index_dims.push(*d as usize),
                _ => {}
            }
        }
        let outputs: Vec<Result_> =
            program.outputs.iter().map(|s| Result_ { slot: *s, dtype: types[*s as usize], per_row: per_row[*s as usize] }).collect();
        let depth = program.outputs.iter().map(|s| stage[*s as usize]).max().unwrap_or(0);
        let all = needed(program, program.outputs.iter().copied(), |_| false);
        let whole = sweep(program, &types, &all, true);
        let reduces = all.iter().any(|s| matches!(program.body[*s as usize], Expr::Reduce(..)));
        let sweeps = (0..=depth)
            .map(|level| {
                let known = |s: Slot| matches!(program.body[s as usize], Expr::Reduce(..)) && stage[s as usize] <= level;
                let last = level == depth;
                let next = all
                    .iter()
                    .copied()
                    .filter(|s| !known(*s) && matches!(program.body[*s as usize], Expr::Reduce(..)) && stage[*s as usize] == level + 1);
                let roots: Vec<Slot> = if last { program.outputs.clone() } else { next.collect() };
                sweep(program, &types, &needed(program, roots.into_iter(), known), last)
            })
            .collect();
        let mut last_read = vec![0; program.inputs.len()];
        for slot in &all {
            for a in program.body[*slot as usize].arguments() {
                if let Expr::Input(k) = program.body[a as usize] {
                    last_read[k as usize] = *slot;
                }
            }
        }
        Ok(Compiled {
            columns: if cols > 0 { ColumnSums::of(program, &types, &per_row) } else { None },
            jit: Cache::default(),
            last_read,
            inputs: program.inputs.clone(),
            outputs,
            types,
            per_row,
            whole,
            sweeps,
            cols,
            index_dims,
            reduces,
        })
    }

    /// Trailing loop dimensions that are columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// The slots that the roots need, ascending; `known` slots have values already.
fn needed(program: &FusedProgram, roots: impl Iterator<Item = Slot>, known: impl Fn(Slot) -> bool) -> Vec<Slot> {
    let mut wanted = vec![false; program.body.len()];
    roots.for_each(|r| wanted[r as usize] = !known(r));
    for slot in (0..program.body.len()).rev() {
        if wanted[slot] {
            for a in program.body[slot].arguments() {
                wanted[a as usize] |= !known(a);
            }
        }
    }
    (0..program.body.len() as Slot).filter(|s| wanted[*s as usize]).collect()
}

/// Assigns registers by a linear scan. A register is free again after the last use of its slot.
fn sweep(program: &FusedProgram, types: &[DType], slots: &[Slot], writes: bool) -> Sweep {
    let mut last_use = vec![0usize; program.body.len()];
    for (i, slot) in slots.iter().enumerate() {
        last_use[*slot as usize] = i;
        program.body[*slot as usize].arguments().iter().for_each(|a| last_use[*a as usize] = i);
    }
    if writes {
        program.outputs.iter().for_each(|o| last_use[*o as usize] = usize::MAX);
    }
    let mut regs: Vec<usize> = Vec::new();
    let mut free: Vec<u32> = Vec::new();
    let mut reg_of = vec![u32::MAX; program.body.len()];
    let mut steps = Vec::with_capacity(slots.len());
    for (i, slot) in slots.iter().enumerate() {
        let expr = program.body[*slot as usize];
        // A reduction only borrows a register, to spread a value that is the same in every column.
        let dtype = if let Expr::Reduce(_, a) = expr { types[a as usize] } else { types[*slot as usize] };
        let bytes = value_type(dtype).size();
        let reg = match free.iter().position(|r| regs[*r as usize] == bytes) {
            // A constant needs none.
            _ if matches!(expr, Expr::Const(..)) => u32::MAX,
            Some(at) => free.swap_remove(at),
            None => {
                regs.push(bytes);
                regs.len() as u32 - 1
            }
        };
        reg_of[*slot as usize] = reg;
        let mut done = expr.arguments();
        done.push(*slot);
        done.sort_unstable();
        done.dedup();
        for d in done {
            if last_use[d as usize] == i && reg_of[d as usize] != u32::MAX {
                free.push(std::mem::replace(&mut reg_of[d as usize], u32::MAX));
            }
        }
        let constant = match expr {
            Expr::Const(d, bits) if d.is_float() => by_value!(d, T => raw(T::from_wide(Wide::F(f64::from_bits(bits))))),
            Expr::Const(d, bits) => by_value!(d, T => raw(T::from_wide(Wide::I(bits as i64)))),
            _ => 0,
        };
        let out = if writes { program.outputs.iter().position(|o| o == slot).map(|o| o as u32) } else { None };
        steps.push(Step { slot: *slot, expr, constant, reg, out });
    }
    Sweep { steps, regs, writes }
}
