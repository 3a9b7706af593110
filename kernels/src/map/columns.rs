//! Reductions over columns that are not neighbors, of rows that are: sums over the leading dimensions of a tensor (bias gradients, the
//! statistics of batch normalization).
//!
//! Going row by row would touch one element a cache line. Here a strip of neighboring rows is combined side by side: the part of the program
//! before its reductions runs as a map over a block of columns of the strip, whose results stay in cache, and every column is combined into the
//! lanes of all rows of the strip. The order of every sum is that of the row engine, so layouts do not show in the bits.

use super::compile::Compiled;
use super::lanes::{Lanes, WORK, widest};
use super::loops::LANES;
use super::nest::Strides;
use super::{MapScratch, Operand};
use crate::arch::tier::{Tier, Work};
use crate::buffer::{BufMut, View, ViewMut};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::{Value, by_monoid};
use girih_ir::fused::{Expr, FusedProgram, Slot};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, Layout, element_count};
use smallvec::SmallVec;

/// Rows of a strip.
const STRIP: usize = 64;
/// Points of a block, about: its results lie in L2.
const BLOCK: usize = 8192;

/// A program whose results are all reductions of f32 values that need no other reduction.
#[derive(Clone, Debug)]
pub(super) struct ColumnSums {
    /// What comes before the reductions, as a map.
    before: Option<Box<Compiled>>,
    /// Results of that map.
    values: usize,
    /// For each result of the program: the combiner, and what it combines.
    sums: Vec<(Monoid, From)>,
}

/// What a reduction combines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    /// An operand as it is.
    Input(usize),
    /// A result of the map before.
    Value(usize),
}

/// Working memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    values: Vec<f32>,
    lanes: Vec<f32>,
    places: Vec<isize>,
}

impl ColumnSums {
    /// The column form of a program with columns, if it has one.
    pub(super) fn of(program: &FusedProgram, types: &[DType], per_row: &[bool]) -> Option<ColumnSums> {
        let mut sums = Vec::with_capacity(program.outputs.len());
        let mut roots: Vec<Slot> = Vec::new();
        for out in &program.outputs {
            let Expr::Reduce(monoid, a) = program.body[*out as usize] else { return None };
            if types[a as usize] != DType::F32 || per_row[a as usize] {
                return None;
            }
            let from = match program.body[a as usize] {
                Expr::Input(k) => From::Input(k as usize),
                _ => From::Value(roots.iter().position(|r| *r == a).unwrap_or_else(|| {
                    roots.push(a);
                    roots.len() - 1
                })),
            };
            sums.push((monoid, from));
        }
        let before = if roots.is_empty() { None } else { Some(Box::new(Compiled::new(&map_of(program, &roots)?, 0).ok()?)) };
        Some(ColumnSums { before, values: roots.len(), sums })
    }

    /// The row dimension of neighboring rows, when going along the columns would be worse.
    pub(super) fn along(&self, loops: &[usize], cols: usize, operands: &[(isize, Strides)], inputs: &[Operand<'_>]) -> Option<usize> {
        let rows = loops.len() - cols;
        let ins = &operands[..inputs.len()];
        let neighbors = |d: &usize| loops[*d] > 1 && ins.iter().any(|(_, s)| s[*d] == 1);
        let straight = (rows..loops.len()).any(|d| neighbors(&d));
        let read = inputs.iter().all(|i| matches!(i, Operand::Read(_)));
        if straight || !read || element_count(&loops[rows..]) == 0 { None } else { (0..rows).rev().find(neighbors) }
    }
}

/// The slots that the roots need as a program without reductions; `None` when it would need one.
fn map_of(program: &FusedProgram, roots: &[Slot]) -> Option<FusedProgram> {
    let mut wanted = vec![false; program.body.len()];
    roots.iter().for_each(|r| wanted[*r as usize] = true);
    for slot in (0..program.body.len()).rev() {
        if wanted[slot] {
            if matches!(program.body[slot], Expr::Reduce(..)) {
                return None;
            }
            program.body[slot].arguments().iter().for_each(|a| wanted[*a as usize] = true);
        }
    }
    let mut place = vec![0; program.body.len()];
    let mut body = Vec::new();
    for (slot, expr) in program.body.iter().enumerate().filter(|(s, _)| wanted[*s]) {
        place[slot] = body.len() as Slot;
        body.push(expr.renamed(|s| place[s as usize]));
    }
    let outputs = roots.iter().map(|r| place[*r as usize]).collect();
    Some(FusedProgram { inputs: program.inputs.clone(), body, outputs })
}

/// Everything about one call.
pub(super) struct Call<'r, 'i> {
    pub(super) isa: Isa,
    pub(super) program: &'r ColumnSums,
    pub(super) loops: &'r [usize],
    pub(super) cols: usize,
    pub(super) origin: &'r [usize],
    pub(super) inputs: &'r [Operand<'i>],
    /// The row dimension along which rows are neighbors.
    pub(super) along: usize,
}

/// Steps an index through extents; `false` when it is through.
fn next(index: &mut [usize], extents: &[usize]) -> bool {
    for d in (0..index.len()).rev() {
        index[d] += 1;
        if index[d] < extents[d] {
            return true;
        }
        index[d] = 0;
    }
    false
}

impl Call<'_, '_> {
    /// Runs it.
    pub(super) fn run(&self, outputs: &mut [ViewMut<'_>], memory: &mut Memory, scratch: &mut MapScratch) -> Result<(), KernelError> {
        let rows = self.loops.len() - self.cols;
        let direct = self.program.before.is_none() && self.inputs.iter().all(|i| self.neighbors(i));
        let widest = if direct { widest(self.columns()) } else { STRIP };
        memory.lanes.resize((self.program.sums.len() * LANES * STRIP).max(WORK), 0.0);
        let mut outer: Dims = self.loops[..rows].into();
        outer[self.along] = self.loops[self.along].div_ceil(widest);
        let mut index: Dims = Dims::from_elem(0, rows);
        loop {
            let mut start = index.clone();
            start[self.along] *= widest;
            let width = widest.min(self.loops[self.along] - start[self.along]);
            if direct {
                self.halved(&start, width, outputs, memory);
            } else {
                self.strip(&start, width, memory, scratch)?;
                self.finish(&start, width, outputs, &mut memory.lanes);
            }
            if !next(&mut index, &outer) {
                return Ok(());
            }
        }
    }

    /// Number of columns.
    fn columns(&self) -> usize {
        element_count(&self.loops[self.loops.len() - self.cols..])
    }

    /// Whether an operand's elements along the strip are neighbors.
    fn neighbors(&self, operand: &Operand<'_>) -> bool {
        matches!(operand, Operand::Read(view) if view.layout().strides[self.along] == 1)
    }

    /// Combines all columns of one strip of operands as they are.
    fn halved(&self, start: &[usize], width: usize, outputs: &mut [ViewMut<'_>], memory: &mut Memory) {
        let rows = self.loops.len() - self.cols;
        let tier = Tier::new(self.isa);
        for ((monoid, from), out) in self.program.sums.iter().zip(outputs) {
            let (From::Input(k), Memory { lanes, places, .. }) = (from, &mut *memory) else { continue };
            let Operand::Read(view) = &self.inputs[*k] else { continue };
            let layout = view.layout();
            let base = start.iter().zip(&layout.strides).fold(layout.base as isize, |b, (i, s)| b + *i as isize * s);
            let (extents, strides) = (&self.loops[rows..], &layout.strides[rows..]);
            let mut index: Dims = Dims::from_elem(0, self.cols);
            places.clear();
            loop {
                places.push(index.iter().zip(strides).fold(base, |b, (i, s)| b + *i as isize * s));
                if !next(&mut index, extents) {
                    break;
                }
            }
            let work = (view.buf().elements::<f32>(), &places[..], &mut lanes[..]);
            by_monoid!(*monoid, f32, f => {
                let (from, places, lanes) = work;
                tier.run(Lanes { from, places, lanes, width, identity: f32::identity(*monoid), f })
            });
            let (to, layout) = out.parts::<f32>();
            let base = start.iter().zip(&layout.strides).fold(layout.base as isize, |b, (i, s)| b + *i as isize * s);
            for (j, v) in lanes.iter().enumerate().take(width) {
                to[(base + j as isize * layout.strides[self.along]) as usize] = *v;
            }
        }
    }

    /// Combines all columns of one strip into the lanes.
    fn strip(&self, start: &[usize], width: usize, memory: &mut Memory, scratch: &mut MapScratch) -> Result<(), KernelError> {
        let (rows, rank) = (self.loops.len() - self.cols, self.loops.len());
        let used = self.columns().min(LANES);
        for (lanes, (monoid, _)) in memory.lanes.chunks_mut(LANES * STRIP).zip(&self.program.sums) {
            lanes[..used * STRIP].fill(f32::identity(*monoid));
        }
        // Blocks: whole inner column dimensions, a range of the next one.
        let (mut cut, mut inner) = (rank, 1);
        while cut > rows + 1 && inner * self.loops[cut - 1] * width <= BLOCK {
            cut -= 1;
            inner *= self.loops[cut];
        }
        let cut = cut - 1;
        let step = (BLOCK / (inner * width)).max(1);
        memory.values.resize(self.program.values * step.min(self.loops[cut]) * inner * width, 0.0);
        let mut dims: Dims = Dims::from_elem(1, rank);
        dims[self.along] = width;
        dims[cut + 1..].copy_from_slice(&self.loops[cut + 1..]);
        let mut at: Dims = start.into();
        at.resize(rank, 0);
        let mut column = 0;
        loop {
            for first in (0..self.loops[cut]).step_by(step) {
                at[cut] = first;
                dims[cut] = step.min(self.loops[cut] - first);
                self.block(&at, &dims, column, memory, scratch)?;
                column += dims[cut] * inner;
            }
            if !next(&mut at[rows..cut], &self.loops[rows..cut]) {
                return Ok(());
            }
        }
    }

    /// The layout of the points from `at` on of an operand.
    fn part(&self, view: &View<'_>, at: &[usize], dims: &[usize]) -> Layout {
        let l = view.layout();
        let base = at.iter().zip(&l.strides).fold(l.base as isize, |b, (i, s)| b + *i as isize * s);
        Layout { base: base as usize, dims: dims.into(), strides: l.strides.clone() }
    }

    fn block(&self, at: &[usize], dims: &[usize], column: usize, memory: &mut Memory, scratch: &mut MapScratch) -> Result<(), KernelError> {
        let rows = self.loops.len() - self.cols;
        let (width, count) = (dims[self.along], element_count(&dims[rows..]));
        let Memory { values, lanes, .. } = memory;
        let size = values.len() / self.program.values.max(1);
        if let Some(before) = &self.program.before {
            let mut ins: SmallVec<[Operand<'_>; 12]> = SmallVec::new();
            for i in self.inputs {
                if let Operand::Read(view) = i {
                    ins.push(Operand::Read(View::new(view.buf(), self.part(view, at, dims))?));
                }
            }
            let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(width as isize, dims.len());
            strides[self.along] = 1;
            let mut step = width as isize;
            for d in (rows..dims.len()).rev() {
                strides[d] = step;
                step *= dims[d] as isize;
            }
            let mut outs: SmallVec<[ViewMut<'_>; 8]> = SmallVec::new();
            for part in values.chunks_mut(size) {
                let layout = Layout { base: 0, dims: dims.into(), strides: strides.clone() };
                outs.push(ViewMut::new(BufMut::of(part), layout)?);
            }
            let origin: Dims = at.iter().enumerate().map(|(d, i)| i + self.origin.get(d).copied().unwrap_or(0)).collect();
            super::run(self.isa, before, dims, &origin, &ins, &mut outs, scratch)?;
        }
        let tier = Tier::new(self.isa);
        for ((monoid, from), lanes) in self.program.sums.iter().zip(lanes.chunks_mut(LANES * STRIP)) {
            let mut add = |from: &[f32], base: usize, stride: isize, first: usize, n: usize| {
                by_monoid!(*monoid, f32, f => tier.run(Accumulate { lanes: &mut *lanes, from, base, stride, first, n, width, f }));
            };
            match from {
                From::Value(k) => add(&values[k * size..(k + 1) * size], 0, width as isize, column, count),
                From::Input(k) => {
                    let Operand::Read(view) = &self.inputs[*k] else { continue };
                    let layout = self.part(view, at, dims);
                    let last = dims.len() - 1;
                    let (n, stride) = (dims[last], layout.strides[last]);
                    let mut index: Dims = Dims::from_elem(0, self.cols - 1);
                    let mut first = column;
                    let along = layout.strides[self.along];
                    loop {
                        let base = index.iter().zip(&layout.strides[rows..]).fold(layout.base as isize, |b, (i, s)| b + *i as isize * s);
                        if along == 1 {
                            add(view.buf().elements(), base as usize, stride, first, n);
                        } else {
                            let from: &[f32] = view.buf().elements();
                            for i in 0..n {
                                let mut row = [0f32; STRIP];
                                for (j, v) in row.iter_mut().enumerate().take(width) {
                                    *v = from[(base + i as isize * stride + j as isize * along) as usize];
                                }
                                add(&row, 0, 0, first + i, 1);
                            }
                        }
                        first += n;
                        if !next(&mut index, &dims[rows..last]) {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Combines the lanes by halving and writes one value a row.
    fn finish(&self, start: &[usize], width: usize, outputs: &mut [ViewMut<'_>], lanes: &mut [f32]) {
        let tier = Tier::new(self.isa);
        let used = self.columns().min(LANES);
        for (((monoid, _), lanes), out) in self.program.sums.iter().zip(lanes.chunks_mut(LANES * STRIP)).zip(outputs) {
            by_monoid!(*monoid, f32, f => tier.run(Halve { lanes: &mut *lanes, used, width, f }));
            let (to, layout) = out.parts::<f32>();
            let base = start.iter().zip(&layout.strides).fold(layout.base as isize, |b, (i, s)| b + *i as isize * s);
            for (j, v) in lanes.iter().enumerate().take(width) {
                to[(base + j as isize * layout.strides[self.along]) as usize] = *v;
            }
        }
    }
}

/// Combines `n` columns of a strip into its lanes: `first` is the number of the first column.
struct Accumulate<'a, F> {
    lanes: &'a mut [f32],
    from: &'a [f32],
    base: usize,
    stride: isize,
    first: usize,
    n: usize,
    width: usize,
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Work for Accumulate<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for i in 0..self.n {
            let at = (self.base as isize + i as isize * self.stride) as usize;
            let lane = (self.first + i) % LANES * STRIP;
            let from = &self.from[at..at + self.width];
            let to = &mut self.lanes[lane..lane + self.width];
            if let (Ok(to), Ok(from)) = (<&mut [f32; STRIP]>::try_from(&mut *to), <&[f32; STRIP]>::try_from(from)) {
                for (t, s) in to.iter_mut().zip(from) {
                    *t = (self.f)(*t, *s);
                }
            } else {
                for (t, s) in to.iter_mut().zip(from) {
                    *t = (self.f)(*t, *s);
                }
            }
        }
    }
}

/// Combines the lanes by halving; those from `used` on hold nothing.
struct Halve<'a, F> {
    lanes: &'a mut [f32],
    used: usize,
    width: usize,
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Work for Halve<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        let mut half = LANES / 2;
        while half > 0 {
            for l in 0..half.min(self.used.saturating_sub(half)) {
                let (low, high) = self.lanes.split_at_mut((l + half) * STRIP);
                for (t, s) in low[l * STRIP..l * STRIP + self.width].iter_mut().zip(&high[..self.width]) {
                    *t = (self.f)(*t, *s);
                }
            }
            half /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buf;
    use crate::map::{MapScratch, run};
    use girih_ir::scalar::BinaryFn;

    /// Σx and Σx·y of rows [a, c] over columns [b, d]; `neighbors`: whether rows or columns are.
    fn sums(isa: Isa, [a, b, c, d]: [usize; 4], neighbors: bool, rows: std::ops::Range<usize>) -> Vec<f32> {
        let body = vec![
            Expr::Input(0),
            Expr::Reduce(Monoid::Sum, 0),
            Expr::Input(1),
            Expr::Binary(BinaryFn::Mul, 0, 2),
            Expr::Reduce(Monoid::Sum, 3),
        ];
        let program = FusedProgram { inputs: vec![DType::F32; 2], body, outputs: vec![1, 4] };
        let compiled = Compiled::new(&program, 2).unwrap();
        let loops = [rows.len(), c, b, d];
        let n = a * b * c * d;
        let number = |i: usize, salt: usize| ((i * 7919 + salt) % 1013) as f32 / 511.0 - 1.0;
        // Element (i, k, j, l) of the space.
        let strides: [isize; 4] = if neighbors { [b * d * c, 1, d * c, c] } else { [b * d * c, b * d, d, 1] }.map(|s| s as isize);
        let mut data = [vec![0f32; n], vec![0f32; n]];
        let mut at = 0;
        for (i, k) in (0..a).flat_map(|i| (0..c).map(move |k| (i, k))) {
            for (j, l) in (0..b).flat_map(|j| (0..d).map(move |l| (j, l))) {
                let place = [i, k, j, l].iter().zip(strides).map(|(i, s)| *i as isize * s).sum::<isize>() as usize;
                (data[0][place], data[1][place]) = (number(at, 1), number(at, 2));
                at += 1;
            }
        }
        let layout = Layout { base: rows.start * strides[0] as usize, dims: loops.as_slice().into(), strides: strides.as_slice().into() };
        let inputs = data.each_ref().map(|d| Operand::Read(View::new(Buf::of(d.as_slice()), layout.clone()).unwrap()));
        let mut out = vec![0f32; 2 * rows.len() * c];
        let (x, y) = out.split_at_mut(rows.len() * c);
        let mut outputs = [x, y].map(|o| ViewMut::dense(BufMut::of(o), &loops[..2]).unwrap());
        run(isa, &compiled, &loops, &[], &inputs, &mut outputs, &mut MapScratch::new()).unwrap();
        out
    }

    #[test]
    fn layouts_instruction_sets_and_splits_do_not_show() {
        for extents in [[3, 5, 70, 9], [2, 1, 64, 33], [1, 40, 130, 40], [2, 3, 5, 200], [2, 1, 3, 1]] {
            let all = 0..extents[0];
            let want = sums(Isa::Scalar, extents, false, all.clone());
            for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
                assert_eq!(sums(isa, extents, true, all.clone()), want, "{extents:?} {isa:?}");
            }
            let half = want.len() / 2;
            let one = sums(Isa::Avx512, extents, true, 0..1);
            assert_eq!((&one[..extents[2]], &one[extents[2]..]), (&want[..extents[2]], &want[half..half + extents[2]]));
        }
    }
}
