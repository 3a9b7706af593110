//! The blocked register machine.

use super::Operand;
use super::compile::{Compiled, Step, Sweep, raw, unraw, value_type};
use super::convert::{ConvertFrom, bitcast, convert, round_block};
use super::loops::{self, Arith, LANES, Src};
use super::nest::{Access, Nest};
use crate::arch::tier::Tier;
use crate::buffer::{Buf, BufMut, ViewMut};
use crate::lane::{Lane, Truth, Value, by_dtype, by_value};
use girih_ir::fused::{Expr, Slot};
use girih_ir::scalar::{BinaryFn, Monoid, UnaryFn};
use girih_ir::types::{DType, Dims};

/// One cache line: gives the registers their alignment.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Working memory of the machine.
#[derive(Debug, Default)]
pub(super) struct Memory {
    regs: Vec<Vec<Line>>,
    values: Vec<Val>,
    sums: Vec<[u64; LANES]>,
    bases: Vec<isize>,
    /// In groups: which slots have been spread over the columns, and where.
    spread: Vec<bool>,
    spread_regs: Vec<Vec<Line>>,
}

/// Where the value of a slot is, for the current block.
#[derive(Clone, Copy, Debug)]
enum Val {
    /// In a register.
    Reg(u32),
    /// The same in every lane.
    Splat(u64),
    /// In the operand, from this element on.
    Input(u32, usize),
    /// In the result, from this element on.
    Output(u32, usize),
}

/// A place to write, taken out of the machine so that the arguments can be borrowed.
enum Dest<'a> {
    Reg(u32, Vec<Line>),
    Output(u32, BufMut<'a>, usize),
}

impl Dest<'_> {
    fn bytes(&mut self, lanes: usize, size: usize) -> &mut [u8] {
        match self {
            Dest::Reg(_, lines) => &mut bytemuck::cast_slice_mut(lines)[..lanes * size],
            Dest::Output(_, buf, first) => &mut buf.bytes_mut()[*first * size..(*first + lanes) * size],
        }
    }
}

/// How a call is cut into blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// A whole row, or a group of rows, is one block.
    pub(super) whole: bool,
    /// Points of a block, at most.
    pub(super) block: usize,
    /// Rows of a group; 0 when rows are run one by one.
    pub(super) group: usize,
    /// Points of a row.
    pub(super) columns: usize,
}

/// The machine of one call.
pub(super) struct Engine<'r, 'i, 'o> {
    tier: Tier,
    program: &'r Compiled,
    nest: &'r Nest,
    inputs: &'r [Operand<'i>],
    outputs: &'r mut [ViewMut<'o>],
    memory: &'r mut Memory,
    shape: Shape,
    /// Results that may be written as soon as they are computed: their place is not an operand that is still read.
    direct: smallvec::SmallVec<[bool; 8]>,
    /// Current block: first point and number of points.
    first: usize,
    lanes: usize,
    /// Rows of the current group.
    rows: usize,
    /// The current step works on whole rows, so values that are one a row have to be spread over the columns.
    full: bool,
}

impl<'r, 'i, 'o> Engine<'r, 'i, 'o> {
    pub(super) fn new(
        tier: Tier,
        program: &'r Compiled,
        nest: &'r Nest,
        inputs: &'r [Operand<'i>],
        outputs: &'r mut [ViewMut<'o>],
        memory: &'r mut Memory,
        shape: Shape,
    ) -> Self {
        let sweeps = if shape.whole { std::slice::from_ref(&program.whole) } else { &program.sweeps };
        for sweep in sweeps {
            // In groups, every slot may need a second register to be spread into: it is made when it is used.
            for (r, bytes) in sweep.regs.iter().enumerate() {
                let lines = (bytes * shape.block).div_ceil(64);
                if memory.regs.len() == r {
                    memory.regs.push(Vec::new());
                }
                if memory.regs[r].len() < lines {
                    memory.regs[r].resize(lines, Line([0; 8]));
                }
            }
        }
        memory.values.clear();
        memory.values.resize(program.types.len(), Val::Splat(0));
        memory.sums.resize(if program.reduces { program.types.len() } else { 0 }, [0; LANES]);
        memory.spread.clear();
        memory.spread.resize(if shape.group > 0 { program.types.len() } else { 0 }, false);
        if memory.spread_regs.len() < memory.spread.len() {
            memory.spread_regs.resize(memory.spread.len(), Vec::new());
        }
        let read_later =
            |k: usize, i: &Operand<'_>, last: Slot| matches!(i, Operand::InPlace(j) if *j == k) && last >= program.outputs[k].slot;
        let direct = (0..outputs.len()).map(|k| !inputs.iter().zip(&program.last_read).any(|(i, last)| read_later(k, i, *last))).collect();
        Engine { tier, program, nest, inputs, outputs, memory, shape, direct, first: 0, lanes: 0, rows: 0, full: true }
    }

    /// Runs every row.
    pub(super) fn run(mut self) {
        let mut index = Dims::from_elem(0, self.nest.rows.len());
        loop {
            self.memory.bases.clear();
            self.memory.bases.extend(self.nest.access.iter().map(|a| a.row(&index)));
            self.row();
            let mut d = index.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                index[d] += 1;
                if index[d] < self.nest.rows[d] {
                    break;
                }
                index[d] = 0;
            }
        }
    }

    fn row(&mut self) {
        let program = self.program;
        if self.shape.group > 0 {
            for first in (0..self.nest.flat).step_by(self.shape.block) {
                (self.first, self.lanes) = (first, self.shape.block.min(self.nest.flat - first));
                self.rows = self.lanes / self.shape.columns;
                self.memory.spread.fill(false);
                self.run_block(&program.whole);
                self.store_rows();
            }
            return;
        }
        if self.shape.whole {
            (self.first, self.lanes) = (0, self.nest.flat);
            self.run_block(&program.whole);
        } else {
            for sweep in &program.sweeps {
                self.run_sweep(sweep);
            }
        }
        self.store_rows();
    }

    /// Writes the results that are one a row.
    fn store_rows(&mut self) {
        let program = self.program;
        for (k, out) in program.outputs.iter().enumerate().filter(|(_, o)| o.per_row && program.cols > 0) {
            let at = self.inputs.len() + k;
            let (base, access) = (self.memory.bases[at], &self.nest.access[at]);
            let rows = self.rows.max(1);
            by_dtype!(out.dtype, L => for r in 0..rows {
                let v = match self.memory.values[out.slot as usize] {
                    Val::Splat(v) => unraw(v),
                    Val::Reg(reg) => bytemuck::cast_slice::<Line, <L as Lane>::Value>(&self.memory.regs[reg as usize])[r],
                    Val::Input(..) | Val::Output(..) => continue,
                };
                // Outside of groups the row is the whole nest.
                let offset = if self.shape.group > 0 { access.run(self.first + r * self.shape.columns, 1).map_or(0, |run| run.offset) } else { 0 };
                self.outputs[k].buf().elements_mut::<L>()[(base + offset) as usize] = L::narrow(v);
            });
        }
    }

    fn run_sweep(&mut self, sweep: &Sweep) {
        let program = self.program;
        let reduces = || sweep.steps.iter().filter_map(|s| if let Expr::Reduce(m, a) = s.expr { Some((s.slot, m, a)) } else { None });
        for (slot, monoid, a) in reduces() {
            self.memory.sums[slot as usize] = start(program.types[a as usize], monoid);
        }
        let mut first = 0;
        while first < self.nest.flat || first == 0 {
            (self.first, self.lanes) = (first, self.shape.block.min(self.nest.flat - first));
            self.run_block(sweep);
            first += self.shape.block;
        }
        for (slot, monoid, _) in reduces() {
            self.finish(slot, monoid);
        }
    }

    fn run_block(&mut self, sweep: &Sweep) {
        for step in &sweep.steps {
            if self.lanes == 0 && !self.program.per_row[step.slot as usize] {
                continue;
            }
            if self.shape.group == 0 {
                self.step(step);
                continue;
            }
            // What is one a row is computed in one lane a row; what is not sees such values spread over the columns.
            let (per_row, reduces, all) = (self.program.per_row[step.slot as usize], matches!(step.expr, Expr::Reduce(..)), self.lanes);
            self.full = !per_row || reduces;
            if self.full {
                step.expr.arguments().iter().for_each(|a| self.spread(*a));
            } else {
                self.lanes = self.rows;
            }
            self.step(step);
            (self.lanes, self.full) = (all, true);
        }
        if sweep.writes && self.lanes > 0 {
            for k in 0..self.program.outputs.len() {
                if !(self.program.outputs[k].per_row && self.program.cols > 0) {
                    self.store(k);
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let dtype = self.program.types[step.slot as usize];
        match step.expr {
            Expr::Const(..) => self.set(step.slot, Val::Splat(step.constant)),
            Expr::Input(k) => self.load(step, k as usize, dtype),
            Expr::Index(_, d) => self.index(step, d as usize, dtype),
            Expr::Unary(f, a) => by_value!(self.type_of(a), T => self.unary::<T>(step, f, a, dtype)),
            // In a type that is computed as f32, the neighbor is another one.
            Expr::Binary(BinaryFn::NextAfter, a, b) if value_type(dtype) != dtype => {
                self.apply::<f32, f32>(step, dtype, &[a, b], |_, dst, s| loops::next_after(dtype, dst, s[0], s[1]));
            }
            Expr::Binary(f, a, b) => by_value!(dtype, T => {
                self.apply::<T, T>(step, dtype, &[a, b], |tier, dst, s| T::binary(tier, f, dst, s[0], s[1]));
            }),
            Expr::Compare(f, a, b) => by_value!(self.type_of(a), T => {
                self.apply::<T, Truth>(step, dtype, &[a, b], |tier, dst, s| loops::compare(tier, f, dst, s[0], s[1]));
            }),
            Expr::Select(c, a, b) => by_value!(dtype, T => self.select::<T>(step, c, a, b)),
            Expr::Convert(_, a) => self.convert(step, a, dtype, false),
            Expr::Bitcast(_, a) => self.convert(step, a, dtype, true),
            Expr::Reduce(m, a) => by_value!(self.type_of(a), T => self.reduce::<T>(step, m, a)),
        }
    }

    /// Repeats a value that is one a row over the columns, once a block.
    fn spread(&mut self, slot: Slot) {
        let s = slot as usize;
        let Val::Reg(reg) = self.memory.values[s] else { return };
        if !self.program.per_row[s] || std::mem::replace(&mut self.memory.spread[s], true) {
            return;
        }
        let mut lines = std::mem::take(&mut self.memory.spread_regs[s]);
        by_value!(self.type_of(slot), T => {
            let need = (self.shape.block * size_of::<T>()).div_ceil(64);
            if lines.len() < need {
                lines.resize(need, Line([0; 8]));
            }
            let from: &[T] = bytemuck::cast_slice(&self.memory.regs[reg as usize]);
            let to: &mut [T] = bytemuck::cast_slice_mut(&mut lines);
            for (row, v) in to[..self.lanes].chunks_exact_mut(self.shape.columns).zip(from) {
                row.fill(*v);
            }
        });
        self.memory.spread_regs[s] = lines;
    }

    fn type_of(&self, slot: Slot) -> DType {
        self.program.types[slot as usize]
    }

    fn set(&mut self, slot: Slot, v: Val) {
        self.memory.values[slot as usize] = v;
    }

    fn splat<T: Value>(&self, slot: Slot) -> Option<T> {
        if let Val::Splat(v) = self.memory.values[slot as usize] { Some(unraw(v)) } else { None }
    }

    fn bytes(&self, slot: Slot, size: usize) -> &[u8] {
        match self.memory.values[slot as usize] {
            Val::Reg(_) if self.full && self.memory.spread.get(slot as usize) == Some(&true) => {
                &bytemuck::cast_slice(&self.memory.spread_regs[slot as usize])[..self.lanes * size]
            }
            Val::Reg(r) => &bytemuck::cast_slice(&self.memory.regs[r as usize])[..self.lanes * size],
            Val::Input(k, first) => &self.input(k as usize).bytes()[first * size..(first + self.lanes) * size],
            Val::Output(k, first) => &self.outputs[k as usize].as_buf().bytes()[first * size..(first + self.lanes) * size],
            Val::Splat(_) => &[],
        }
    }

    fn input(&self, k: usize) -> Buf<'_> {
        match &self.inputs[k] {
            Operand::Read(view) => view.buf(),
            Operand::InPlace(k) => self.outputs[*k].as_buf(),
        }
    }

    fn src<T: Value>(&self, slot: Slot) -> Src<'_, T> {
        match self.splat(slot) {
            Some(v) => Src::Splat(v),
            None => Src::Slice(bytemuck::cast_slice(self.bytes(slot, size_of::<T>()))),
        }
    }

    /// Takes out the place that a step writes: the result itself where that is contiguous, else its register.
    fn open(&mut self, step: &Step, dtype: DType) -> Dest<'o> {
        if let Some(k) = step.out.filter(|k| self.full && self.direct[*k as usize] && value_type(dtype) == dtype) {
            let at = self.inputs.len() + k as usize;
            if let Some(run) = self.nest.access[at].run(self.first, self.lanes)
                && (run.stride == 1 || self.lanes == 1)
            {
                let first = (self.memory.bases[at] + run.offset) as usize;
                return Dest::Output(k, self.outputs[k as usize].buf().take(), first);
            }
        }
        Dest::Reg(step.reg, std::mem::take(&mut self.memory.regs[step.reg as usize]))
    }

    fn close(&mut self, slot: Slot, dest: Dest<'o>) {
        let v = match dest {
            Dest::Reg(r, lines) => {
                self.memory.regs[r as usize] = lines;
                Val::Reg(r)
            }
            Dest::Output(k, buf, first) => {
                self.outputs[k as usize].buf().put(buf);
                Val::Output(k, first)
            }
        };
        self.set(slot, v);
    }

    /// Computes a slot from blocks of one type: in one lane when every argument is a scalar.
    fn apply<T: Value, U: Value>(&mut self, step: &Step, dtype: DType, args: &[Slot; 2], f: impl Fn(Tier, &mut [U], [Src<'_, T>; 2])) {
        if let (Some(a), Some(b)) = (self.splat::<T>(args[0]), self.splat::<T>(args[1])) {
            let mut one = [U::from_i64(0)];
            f(self.tier, &mut one, [Src::Splat(a), Src::Splat(b)]);
            round_block(self.tier, dtype, bytemuck::cast_slice_mut(&mut one));
            return self.set(step.slot, Val::Splat(raw(one[0])));
        }
        let mut dest = self.open(step, dtype);
        let dst = dest.bytes(self.lanes, size_of::<U>());
        f(self.tier, bytemuck::cast_slice_mut(&mut *dst), [self.src(args[0]), self.src(args[1])]);
        round_block(self.tier, dtype, dst);
        self.close(step.slot, dest);
    }

    fn unary<T: Arith>(&mut self, step: &Step, f: UnaryFn, a: Slot, dtype: DType) {
        // Unary loops want slices: a scalar argument is a slice of one.
        let run = |tier, out: &mut [T], a: &[T]| T::unary(tier, f, out, a);
        let slice = |s: &Src<'_, T>| if let Src::Splat(v) = s { [*v] } else { [T::from_i64(0)] };
        if matches!(f, UnaryFn::IsFinite | UnaryFn::IsNan | UnaryFn::IsInf) {
            return self.apply::<T, Truth>(step, dtype, &[a, a], |tier, dst, s| match s[0] {
                Src::Slice(a) => T::test(tier, f, dst, a),
                Src::Splat(_) => T::test(tier, f, dst, &slice(&s[0])),
            });
        }
        self.apply::<T, T>(step, dtype, &[a, a], |tier, dst, s| match s[0] {
            Src::Slice(a) => run(tier, dst, a),
            Src::Splat(_) => run(tier, dst, &slice(&s[0])),
        });
    }

    fn select<T: Value>(&mut self, step: &Step, c: Slot, a: Slot, b: Slot) {
        if let Some(Truth(c)) = self.splat::<Truth>(c) {
            let chosen = if c != 0 { a } else { b };
            if let Some(v) = self.splat::<T>(chosen) {
                return self.set(step.slot, Val::Splat(raw(v)));
            }
            // The chosen register may be reused before this slot dies, so its elements are copied.
            let mut dest = self.open(step, self.type_of(step.slot));
            let dst = dest.bytes(self.lanes, size_of::<T>());
            dst.copy_from_slice(self.bytes(chosen, size_of::<T>()));
            return self.close(step.slot, dest);
        }
        let mut dest = self.open(step, self.type_of(step.slot));
        let dst = bytemuck::cast_slice_mut(dest.bytes(self.lanes, size_of::<T>()));
        let c: &[Truth] = bytemuck::cast_slice(self.bytes(c, 1));
        loops::select::<T>(self.tier, dst, c, self.src(a), self.src(b));
        self.close(step.slot, dest);
    }

    /// A conversion, of the value or of the bits.
    fn convert(&mut self, step: &Step, a: Slot, dtype: DType, bits: bool) {
        let (own, from, size) = (self.type_of(a), value_type(self.type_of(a)), value_type(dtype).size());
        let tier = self.tier;
        let run = |dst: &mut [u8], source: ConvertFrom<'_>| {
            if bits { bitcast(dtype, dst, source, own) } else { convert(tier, dtype, dst, source) }
        };
        if let Val::Splat(v) = self.memory.values[a as usize] {
            let mut one = [0u64];
            let source = [v];
            let bytes = &bytemuck::cast_slice(&source)[..from.size()];
            run(&mut bytemuck::cast_slice_mut(&mut one)[..size], ConvertFrom { dtype: from, bytes });
            return self.set(step.slot, Val::Splat(one[0]));
        }
        let mut dest = self.open(step, dtype);
        let source = ConvertFrom { dtype: from, bytes: self.bytes(a, from.size()) };
        run(dest.bytes(self.lanes, size), source);
        self.close(step.slot, dest);
    }

    fn reduce<T: Value>(&mut self, step: &Step, monoid: Monoid, a: Slot) {
        if self.shape.group > 0 && self.splat::<T>(a).is_none() {
            let mut lines = std::mem::take(&mut self.memory.regs[step.reg as usize]);
            let dst: &mut [T] = &mut bytemuck::cast_slice_mut(&mut lines)[..self.rows];
            loops::fold_rows(self.tier, monoid, dst, bytemuck::cast_slice(self.bytes(a, size_of::<T>())), self.shape.columns);
            round_block(self.tier, self.type_of(step.slot), bytemuck::cast_slice_mut(dst));
            self.memory.regs[step.reg as usize] = lines;
            return self.set(step.slot, Val::Reg(step.reg));
        }
        if self.shape.whole {
            self.memory.sums[step.slot as usize] = start(T::DTYPE, monoid);
        }
        let mut sums = self.memory.sums[step.slot as usize];
        let lanes: &mut [T] = &mut bytemuck::cast_slice_mut(&mut sums)[..LANES];
        let lanes: &mut [T; LANES] = lanes.try_into().expect("a slice of LANES elements");
        match self.splat::<T>(a) {
            _ if self.lanes == 0 => {}
            None => loops::fold(self.tier, monoid, lanes, bytemuck::cast_slice(self.bytes(a, size_of::<T>()))),
            Some(v) => {
                let mut lines = std::mem::take(&mut self.memory.regs[step.reg as usize]);
                let lanes_of_row = if self.shape.group > 0 { self.shape.columns } else { self.lanes };
                let spread: &mut [T] = &mut bytemuck::cast_slice_mut(&mut lines)[..lanes_of_row];
                spread.fill(v);
                loops::fold(self.tier, monoid, lanes, spread);
                self.memory.regs[step.reg as usize] = lines;
            }
        }
        self.memory.sums[step.slot as usize] = sums;
        if self.shape.whole {
            self.finish(step.slot, monoid);
        }
    }

    fn finish(&mut self, slot: Slot, monoid: Monoid) {
        let dtype = self.type_of(slot);
        by_value!(dtype, T => {
            let lanes: &[T] = &bytemuck::cast_slice(&self.memory.sums[slot as usize])[..LANES];
            let mut one = [loops::finish::<T>(monoid, lanes.try_into().expect("a slice of LANES elements"))];
            round_block(self.tier, dtype, bytemuck::cast_slice_mut(&mut one));
            self.set(slot, Val::Splat(raw(one[0])));
        });
    }

    fn load(&mut self, step: &Step, k: usize, dtype: DType) {
        let base = self.memory.bases[k];
        let run = self.nest.access[k].run(self.first, self.lanes);
        if let Some(run) = run {
            let first = (base + run.offset) as usize;
            if run.stride == 0 {
                let v = by_dtype!(dtype, L => raw(self.input(k).elements::<L>()[first].widen()));
                return self.set(step.slot, Val::Splat(v));
            }
            // A result that is an operand in place is copied first: another result may be about to overwrite it.
            let in_place = matches!(self.inputs[k], Operand::InPlace(_));
            if run.stride == 1 && value_type(dtype) == dtype && !(in_place && step.out.is_some()) {
                let v = if let Operand::InPlace(k) = self.inputs[k] { Val::Output(k as u32, first) } else { Val::Input(k as u32, first) };
                return self.set(step.slot, v);
            }
        }
        let mut lines = std::mem::take(&mut self.memory.regs[step.reg as usize]);
        by_dtype!(dtype, L => {
            let dst: &mut [<L as Lane>::Value] = &mut bytemuck::cast_slice_mut(&mut lines)[..self.lanes];
            gather::<L>(&self.nest.access[k], base, self.first, self.input(k).elements(), dst);
        });
        self.memory.regs[step.reg as usize] = lines;
        self.set(step.slot, Val::Reg(step.reg));
    }

    fn index(&mut self, step: &Step, dim: usize, dtype: DType) {
        let at = self.program.index_dims.iter().position(|d| *d == dim).unwrap_or(0) + self.inputs.len() + self.outputs.len();
        let (base, access) = (self.memory.bases[at], &self.nest.access[at]);
        // 16-bit floats round large indices.
        let value = |i: isize| by_value!(dtype, T => { let mut one = [T::from_i64(i as i64)]; round_block(self.tier, dtype, bytemuck::cast_slice_mut(&mut one)); raw(one[0]) });
        if let Some(run) = access.run(self.first, self.lanes)
            && (run.stride == 0 || self.lanes == 1)
        {
            let v = value(base + run.offset);
            return self.set(step.slot, Val::Splat(v));
        }
        let mut lines = std::mem::take(&mut self.memory.regs[step.reg as usize]);
        by_value!(dtype, T => {
            let dst: &mut [T] = &mut bytemuck::cast_slice_mut(&mut lines)[..self.lanes];
            access.pieces(self.first, self.lanes, |lane, len, run| {
                for (i, d) in dst[lane..lane + len].iter_mut().enumerate() {
                    *d = T::from_i64((base + run.offset + i as isize * run.stride) as i64);
                }
            });
            round_block(self.tier, dtype, bytemuck::cast_slice_mut(dst));
        });
        self.memory.regs[step.reg as usize] = lines;
        self.set(step.slot, Val::Reg(step.reg));
    }

    /// Writes a result, unless its slot was computed right there.
    fn store(&mut self, k: usize) {
        let info = &self.program.outputs[k];
        if matches!(self.memory.values[info.slot as usize], Val::Output(o, _) if o as usize == k && self.direct[k]) {
            return;
        }
        let at = self.inputs.len() + k;
        let base = self.memory.bases[at];
        let mut buf = self.outputs[k].buf().take();
        by_dtype!(info.dtype, L => {
            let out: &mut [L] = buf.elements_mut();
            let src = self.src::<<L as Lane>::Value>(info.slot);
            scatter::<L>(&self.nest.access[at], base, self.first, self.lanes, src, out);
        });
        self.outputs[k].buf().put(buf);
    }
}

/// Elements that are copied at a time.
const PIECE: usize = 128;

/// Neutral elements in every lane.
fn start(dtype: DType, monoid: Monoid) -> [u64; LANES] {
    let mut sums = [0u64; LANES];
    by_value!(dtype, T => {
        let lanes: &mut [T] = &mut bytemuck::cast_slice_mut(&mut sums)[..LANES];
        lanes.fill(T::identity(monoid));
    });
    sums
}

fn gather<L: Lane>(access: &Access, base: isize, first: usize, from: &[L], dst: &mut [L::Value]) {
    access.pieces(first, dst.len(), |lane, len, run| {
        let at = base + run.offset;
        let dst = &mut dst[lane..lane + len];
        match run.stride {
            0 => dst.fill(from[at as usize].widen()),
            1 => dst.iter_mut().zip(&from[at as usize..at as usize + len]).for_each(|(d, s)| *d = s.widen()),
            stride => dst.iter_mut().enumerate().for_each(|(i, d)| *d = from[(at + i as isize * stride) as usize].widen()),
        }
    });
}

fn scatter<L: Lane>(access: &Access, base: isize, first: usize, lanes: usize, src: Src<'_, L::Value>, out: &mut [L]) {
    access.pieces(first, lanes, |lane, len, run| {
        let at = base + run.offset;
        match (src, run.stride) {
            (Src::Splat(v), stride) => (0..len).for_each(|i| out[(at + i as isize * stride) as usize] = L::narrow(v)),
            (Src::Slice(s), 1) => {
                // In pieces: one long copy may become a string instruction, which some processors run ten times slower when source and
                // destination are equal modulo the page size.
                let out = out[at as usize..at as usize + len].chunks_mut(PIECE);
                for (d, s) in out.zip(s[lane..lane + len].chunks(PIECE)) {
                    d.iter_mut().zip(s).for_each(|(d, s)| *d = L::narrow(*s));
                }
            }
            (Src::Slice(s), stride) => {
                s[lane..lane + len].iter().enumerate().for_each(|(i, s)| out[(at + i as isize * stride) as usize] = L::narrow(*s));
            }
        }
    });
}
