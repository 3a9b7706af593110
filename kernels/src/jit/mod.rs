//! Fused programs as machine code: AVX-512 functions that are made when a program first meets operands that move in a certain way.
//!
//! The interpreter of [`crate::map`] is exact about every operation and its order; compiled code does the same operations in the same
//! order, so both give the same bits, and the interpreter is the test's oracle.
//! It takes programs on f32, bfloat16, binary16, i32, u32 and bool whose innermost columns are contiguous or equal; the interpreter runs
//! what is left.
//!
//! | module | what |
//! |---|---|
//! | `asm` | instructions as bytes |
//! | `block` | straight-line code on virtual registers, given registers |
//! | `functions`, `lower` | elementary functions and program instructions as such code |
//! | `passes` | which values of a row are computed in which pass over it |
//! | `emit` | loops over rows and columns |

mod asm;
mod block;
mod emit;
mod functions;
mod lower;
mod passes;
#[cfg(test)]
mod tests;

use crate::arch::machine::{Arg, Code, Reach};
use crate::buffer::ViewMut;
use crate::map::Operand;
use crate::map::compile::Compiled;
use crate::map::nest::Strides;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// How an operand moves along the columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Motion {
    /// The same element for all columns.
    Still,
    /// Neighbors.
    Along,
    /// As result `0`, where its elements are.
    InPlace(usize),
}

/// What a pointer of a function is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pointer {
    Input(usize),
    Output(usize),
    Index(usize),
    Scratch(usize),
}

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Turns compilation on or off for the whole process. Results are the same bits either way.
pub fn set_enabled(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
}

/// Whether programs are compiled.
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// What a function depends on besides the program: columns of a short row (0: any number), and how the operands move.
type Key = (usize, SmallVec<[Motion; 16]>);

#[derive(Debug)]
struct Ready {
    code: Code,
    pointers: Vec<Pointer>,
}

/// The functions of one program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache(Arc<RwLock<Vec<(Key, Option<Arc<Ready>>)>>>);

/// Functions that one program may have; operands that move in yet another way are interpreted.
const MOST: usize = 64;

impl Cache {
    fn get(&self, program: &Compiled, key: &Key) -> Option<Arc<Ready>> {
        let find = |list: &[(Key, Option<Arc<Ready>>)]| list.iter().find(|e| e.0 == *key).map(|e| e.1.clone());
        if let Some(found) = find(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return found;
        }
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = find(&list) {
            return found;
        }
        if list.len() >= MOST {
            return None;
        }
        let (inputs, indices) = key.1.split_at(program.inputs.len());
        let made = emit::generate(program, inputs, indices, key.0)
            .and_then(|g| Some(Arc::new(Ready { code: Code::new(&g.code)?, pointers: g.pointers })));
        list.push((key.clone(), made.clone()));
        made
    }
}

/// Rows up to this many columns are straight-line code.
const SHORT: usize = emit::STEP;

/// Merged loops: extent and the loop dimension that gives the strides.
type Merged = SmallVec<[(usize, usize); 6]>;

fn merge(dims: impl Iterator<Item = usize>, loops: &[usize], operands: &[(isize, Strides)]) -> Merged {
    let mut merged = Merged::new();
    for d in dims.filter(|d| loops[*d] != 1) {
        match merged.last_mut() {
            Some((e, o)) if operands.iter().all(|(_, s)| s[*o] == s[d] * loops[d] as isize) => (*e, *o) = (*e * loops[d], d),
            _ => merged.push((loops[d], d)),
        }
    }
    merged
}

/// Runs the program as machine code; `false` when it has to be interpreted. `operands` has base and strides of every input, result and
/// used index.
pub(crate) fn run(
    program: &Compiled,
    loops: &[usize],
    operands: &[(isize, Strides)],
    inputs: &[Operand<'_>],
    outputs: &mut [ViewMut<'_>],
    scratch: &mut Vec<[f32; 16]>,
) -> bool {
    if !enabled() || outputs.is_empty() {
        return false;
    }
    let split = loops.len() - program.cols;
    let (mut rows, column) = if program.cols > 0 {
        let columns = merge(split..loops.len(), loops, operands);
        if columns.len() > 1 {
            return false;
        }
        (merge(0..split, loops, operands), columns.first().copied())
    } else {
        let mut order: SmallVec<[usize; 6]> = (0..loops.len()).collect();
        order.sort_by_key(|d| std::cmp::Reverse(operands[inputs.len()].1[*d].unsigned_abs()));
        let mut all = merge(order.into_iter(), loops, operands);
        let column = all.pop();
        (all, column)
    };
    let columns = if loops[split..].contains(&0) { 0 } else { column.map_or(1, |c| c.0) };
    let stride = |k: usize| column.map_or(0, |c| operands[k].1[c.1]);
    let Some(key) = key(program, columns, inputs, stride).filter(|_| columns > 0 && indices_fit(program, loops, operands)) else {
        return false;
    };
    let Some(ready) = program.jit.get(program, &key) else { return false };
    let inner = rows.pop();
    let width = columns.div_ceil(16);
    let wanted = ready.pointers.iter().filter(|p| matches!(p, Pointer::Scratch(_))).count();
    if scratch.len() < width * wanted {
        scratch.resize(width * wanted, [0.0; 16]);
    }
    let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, rows.len());
    loop {
        let at = |k: usize| {
            let (base, strides) = &operands[k];
            index.iter().zip(&rows).fold(*base, |at, (i, (_, d))| at + *i as isize * strides[*d])
        };
        let step = |k: usize| inner.map_or(0, |(_, d)| operands[k].1[d]);
        let mut args: SmallVec<[Arg<'_>; 16]> = SmallVec::new();
        let mut results = outputs.iter_mut();
        let mut spare = scratch.chunks_exact_mut(width);
        for pointer in &ready.pointers {
            let reach = |k: usize, size: usize, moves: bool| Reach {
                first: at(k) * size as isize,
                width: if moves { columns * size } else { size },
                stride: step(k) * size as isize,
            };
            match pointer {
                // Results come first and in order.
                Pointer::Output(k) => {
                    let Some(out) = results.next() else { return false };
                    let (size, moves) = (out.dtype().size(), !(program.cols > 0 && program.outputs[*k].per_row));
                    args.push(Arg::Write(out.buf().bytes_mut(), reach(inputs.len() + k, size, moves)));
                }
                Pointer::Input(k) => {
                    let Operand::Read(view) = &inputs[*k] else { return false };
                    args.push(Arg::Read(view.buf().bytes(), reach(*k, view.dtype().size(), key.1[*k] == Motion::Along)));
                }
                Pointer::Index(i) => {
                    let k = inputs.len() + program.outputs.len() + i;
                    args.push(Arg::Number(at(k) as i64, step(k) as i64));
                }
                Pointer::Scratch(_) => {
                    let Some(row) = spare.next() else { return false };
                    args.push(Arg::Write(bytemuck::cast_slice_mut(row), Reach { first: 0, width: columns * 4, stride: 0 }));
                }
            }
        }
        ready.code.call(inner.map_or(1, |(e, _)| e), columns, &mut args);
        let mut d = index.len();
        loop {
            if d == 0 {
                return true;
            }
            d -= 1;
            index[d] += 1;
            if index[d] < rows[d].0 {
                break;
            }
            index[d] = 0;
        }
    }
}

/// How the operands move; `None` when one moves in a way that is not compiled.
fn key(program: &Compiled, columns: usize, inputs: &[Operand<'_>], stride: impl Fn(usize) -> isize) -> Option<Key> {
    let motion = |k: usize| match stride(k) {
        _ if columns == 1 => Some(Motion::Along),
        0 => Some(Motion::Still),
        1 => Some(Motion::Along),
        _ => None,
    };
    let mut motions = SmallVec::new();
    for (k, input) in inputs.iter().enumerate() {
        motions.push(match input {
            Operand::Read(_) => motion(k)?,
            Operand::InPlace(o) => Motion::InPlace(*o),
        });
    }
    for (k, out) in program.outputs.iter().enumerate() {
        let per_row = program.cols > 0 && out.per_row;
        if !per_row && motion(inputs.len() + k)? != Motion::Along {
            return None;
        }
    }
    for i in 0..program.index_dims.len() {
        motions.push(motion(inputs.len() + program.outputs.len() + i)?);
    }
    Some((if columns <= SHORT { columns } else { 0 }, motions))
}

/// Whether every index that is used fits the 32 bits that it is computed in.
fn indices_fit(program: &Compiled, loops: &[usize], operands: &[(isize, Strides)]) -> bool {
    let first = operands.len() - program.index_dims.len();
    program.index_dims.iter().zip(&operands[first..]).all(|(d, (base, _))| *base >= 0 && *base as usize + loops[*d] < 1 << 31)
}
