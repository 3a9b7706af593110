//! The integer scalars of a counted loop that are known before it runs: in every iteration.

use super::{Line, Stream, moving, part_at};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::program::{Instr, Program, Region};
use girih_ir::scalar::{BinaryFn, UnaryFn, Wide};
use girih_ir::tensor::wrap_int;
use girih_ir::types::{DType, Dims};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where a scalar lies, and its type.
type Key = (u64, DType);

/// What the scalars hold in each iteration, at one line of the loop.
pub struct Scalars<'p> {
    program: &'p Program,
    trips: usize,
    values: BTreeMap<Key, Vec<i64>>,
}

fn key(region: &Region) -> Option<Key> {
    (region.elements() == 1 && region.dtype.is_int()).then_some((region.offset, region.dtype))
}

impl<'p> Scalars<'p> {
    /// What is known where the iterations of the loop from line `start` to `end` begin: constants from before the loop, and the number of
    /// the iteration.
    pub(super) fn of(program: &'p Program, stream: &Stream, start: usize, end: usize, trips: u64, index: Option<&Region>) -> Scalars<'p> {
        let mut known = Scalars { program, trips: trips as usize, values: BTreeMap::new() };
        for (line, depth) in stream.lines[..start].iter().zip(&stream.depths) {
            let copied = known.copied(&line.instr).filter(|_| *depth == 0);
            known.forget(line);
            known.values.extend(copied.into_iter().flatten());
            if let Some((key, value)) = constant(program, &line.instr).filter(|_| *depth == 0) {
                known.values.insert(key, vec![value; known.trips]);
            }
        }
        // What a loop writes anywhere it may have written before.
        let inside = |(i, depth): &(usize, &usize)| (start + 1..end).contains(i) || (stream.depths[start] > 0 && **depth > 0);
        let looped = stream.depths.iter().enumerate().filter(inside);
        looped.for_each(|(i, _)| known.forget(&stream.lines[i]));
        if let Some(index) = index {
            let hit = stream.lines[start + 1..end].iter().any(|l| l.instr.writes().into_iter().any(|w| touch(w, index)));
            known.forget_bytes(index.extent());
            if let Some(key) = key(index).filter(|_| !hit) {
                known.values.insert(key, (0..trips as i64).collect());
            }
        }
        known
    }

    fn forget_bytes(&mut self, range: Option<Range<u64>>) {
        let Some(range) = range else { return self.values.clear() };
        self.values.retain(|(at, dtype), _| *at + dtype.size() as u64 <= range.start || range.end <= *at);
    }

    /// What a line writes is not known any more.
    fn forget(&mut self, line: &Line) {
        for (k, region) in line.instr.writes().into_iter().enumerate() {
            let reach = moving(region, line.motion.write(k)).and_then(|m| m.reach(line.motion.trips()));
            self.forget_bytes(reach.map(|r| r.start as u64..r.end as u64));
        }
    }

    /// Goes on behind a line of the loop.
    pub(super) fn pass(&mut self, line: &Line) {
        let made = constant(self.program, &line.instr).map(|(key, value)| vec![(key, vec![value; self.trips])]);
        let made = made.or_else(|| self.made(&line.instr)).or_else(|| self.copied(&line.instr));
        self.forget(line);
        self.values.extend(made.into_iter().flatten());
    }

    /// What the copy of one scalar, of whatever type, sets.
    fn copied(&self, instr: &Instr) -> Option<Vec<(Key, Vec<i64>)>> {
        let Instr::Copy { out, input } = instr else { return None };
        let fits = out.elements() == 1 && input.elements() == 1 && out.dtype.size() == input.dtype.size();
        let at = self.values.iter().filter(|((at, dtype), _)| fits && *at == input.offset && dtype.size() == out.dtype.size());
        let list: Vec<(Key, Vec<i64>)> = at.map(|((_, dtype), list)| ((out.offset, *dtype), list.clone())).collect();
        (!list.is_empty()).then_some(list)
    }

    fn made(&self, instr: &Instr) -> Option<Vec<(Key, Vec<i64>)>> {
        let Instr::Map { program, loops, ins, outs, .. } = instr else { return None };
        if loops.iter().product::<usize>() != 1 {
            return None;
        }
        let program = self.program.fused.get(program.index())?;
        let types = program.types().ok()?;
        let ins: Vec<&Vec<i64>> = ins.iter().map(|r| self.values.get(&key(r)?)).collect::<Option<_>>()?;
        let mut results: Vec<Vec<i64>> = vec![Vec::with_capacity(self.trips); outs.len()];
        let mut slots = Vec::with_capacity(program.body.len());
        for i in 0..self.trips {
            evaluate(program, &types, &|k| ins.get(k).and_then(|v| v.get(i)).copied(), &mut slots)?;
            for (list, slot) in results.iter_mut().zip(&program.outputs) {
                list.push(*slots.get(*slot as usize)?);
            }
        }
        outs.iter().zip(results).map(|(out, list)| Some((key(out)?, list))).collect()
    }

    /// Where a slab of a region lies in the first iteration, and how far it moves in each; `None` when that is not known or not regular.
    pub(super) fn slab(&mut self, region: &Region, dims: &Dims, starts: &[Region]) -> Option<(Region, isize)> {
        let starts: Vec<&Vec<i64>> = starts.iter().map(|r| self.values.get(&key(r)?)).collect::<Option<_>>()?;
        let at = |i: usize| part_at(region, dims, &starts.iter().map(|s| s.get(i).copied().unwrap_or(0)).collect::<Vec<_>>());
        let first = at(0)?;
        let offset = |r: &Region| i64::try_from(r.offset).ok();
        let step = if self.trips > 1 { offset(&at(1)?)? - offset(&first)? } else { 0 };
        let mut last = offset(&first)?;
        for i in 1..self.trips {
            last = last.checked_add(step)?;
            if offset(&at(i)?)? != last {
                return None;
            }
        }
        Some((first, isize::try_from(step).ok()?))
    }
}

/// The integer scalar that an instruction sets, whatever happened before.
fn constant(program: &Program, instr: &Instr) -> Option<(Key, i64)> {
    match instr {
        Instr::Constant { out, literal, .. } => {
            let literal = program.literals.get(literal.index()).filter(|l| l.ty().dtype == out.dtype)?;
            Some((key(out)?, integer(out.dtype, literal.bytes())?))
        }
        Instr::Fill { out, bits } => Some((key(out)?, integer(out.dtype, bits.to_le_bytes().get(..out.dtype.size())?)?)),
        _ => None,
    }
}

fn touch(a: &Region, b: &Region) -> bool {
    match (a.extent(), b.extent()) {
        (Some(a), Some(b)) => a.start < b.end && b.start < a.end,
        _ => true,
    }
}

/// The integer of one element's bytes.
fn integer(dtype: DType, bytes: &[u8]) -> Option<i64> {
    let size = dtype.size();
    if !dtype.is_int() || bytes.len() != size {
        return None;
    }
    let mut wide = [0u8; 8];
    wide[..size].copy_from_slice(bytes);
    Some(wrap_int(dtype, i64::from_le_bytes(wide)))
}

/// The slots of an integer program of one point; `None` when there is anything else in it.
fn evaluate(program: &FusedProgram, types: &[DType], input: &dyn Fn(usize) -> Option<i64>, slots: &mut Vec<i64>) -> Option<()> {
    slots.clear();
    for (expr, dtype) in program.body.iter().zip(types) {
        if !dtype.is_int() && *dtype != DType::Bool {
            return None;
        }
        let get = |s: u32| slots.get(s as usize).copied();
        let ty = |s: u32| types.get(s as usize).copied().filter(|t| t.is_int());
        let value = match *expr {
            Expr::Input(k) => input(k as usize)?,
            Expr::Const(d, bits) => wrap_int(d, bits as i64),
            Expr::Binary(f @ (BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Min | BinaryFn::Max), a, b) => {
                f.eval(ty(a)?, Wide::I(get(a)?), Wide::I(get(b)?)).int()
            }
            Expr::Unary(f @ UnaryFn::Neg, a) => f.eval(ty(a)?, Wide::I(get(a)?)).int(),
            Expr::Compare(f, a, b) => i64::from(f.eval(ty(a)?, Wide::I(get(a)?), Wide::I(get(b)?))),
            Expr::Select(c, a, b) => get(if get(c)? != 0 { a } else { b })?,
            Expr::Convert(d, a) => ty(a).and_then(|_| get(a)).map(|v| wrap_int(d, v))?,
            _ => return None,
        };
        slots.push(value);
    }
    Some(())
}
