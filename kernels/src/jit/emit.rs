//! A fused program as one machine-code function over rows and columns.
//!
//! The function gets a table: the columns that make whole steps of 64, the number of rows, four masks for the columns that are left, then
//! the pointers and how far each moves from row to row. Rows of at most 64 columns are straight-line code that keeps everything in
//! registers; longer ones are loops, one a pass, of four vectors a turn.

use super::asm::{Asm, Cond, RAX, RCX, RDI, RDX, RSI, RSP, Rm, at};
use super::block::{Block, Dst, Emit, FRAME_HEAD, FRAME_SLOTS, Op, POINTERS, Place, Src, TABLE_POINTERS};
use super::functions::{COPY, Kind};
use super::lower::{self, kind};
use super::passes::{Kept, Pass, Passes, plan};
use super::{Motion, Pointer};
use crate::lane::{Value, by_value};
use crate::map::compile::{Compiled, Step, raw};
use girih_ir::fused::{Expr, Slot};
use girih_ir::scalar::Monoid;
use girih_ir::types::DType;

/// Columns of one turn of a loop: one in each lane of a reduction.
pub(super) const STEP: usize = 64;
/// Vectors of one turn.
const COPIES: usize = 4;
/// Registers that values of a loop may take before they go to the stack.
const ROOM: usize = 30;

/// Constants that a loop should at least have in registers before vectors run side by side.
const CONSTANTS: usize = 10;

/// A function and what its table holds.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) code: Vec<u8>,
    /// What each pointer is.
    pub(super) pointers: Vec<Pointer>,
}

/// Values of a block: one for each vector, the same for values that are equal in all columns.
#[derive(Clone)]
struct Values(Vec<[Option<Src>; COPIES]>);

impl Values {
    fn get(&self, slot: Slot, copy: usize) -> Option<Src> {
        self.0[slot as usize][copy]
    }
    fn set(&mut self, slot: Slot, copy: usize, x: Src) {
        self.0[slot as usize][copy] = Some(x);
    }
    fn set_all(&mut self, slot: Slot, x: Src) {
        self.0[slot as usize] = [Some(x); COPIES];
    }
}

struct Generator<'a> {
    program: &'a Compiled,
    inputs: &'a [Motion],
    indices: &'a [Motion],
    passes: Passes,
    pointers: Vec<Pointer>,
    /// Slot of the frame of every value that is equal in all columns.
    frame: Vec<Option<u32>>,
}

/// Neutral element of a reduction of this type, as bits.
fn identity(monoid: Monoid, dtype: DType) -> u32 {
    by_value!(dtype, T => raw(T::identity(monoid))) as u32
}

/// The function of a program whose rows have `columns` columns (0: any number).
pub(super) fn generate(program: &Compiled, inputs: &[Motion], indices: &[Motion], columns: usize) -> Option<Generated> {
    let passes = plan(program, inputs, indices)?;
    let mut pointers: Vec<Pointer> = (0..program.outputs.len()).map(Pointer::Output).collect();
    let of = |m: Motion| (0..inputs.len()).filter(move |k| inputs[*k] == m).map(Pointer::Input);
    pointers.extend(of(Motion::Along));
    if columns == 0 {
        pointers.extend((0..passes.scratch).map(Pointer::Scratch));
    }
    pointers.extend(of(Motion::Still));
    pointers.extend((0..indices.len()).map(Pointer::Index));
    let mut frame = vec![None; program.types.len()];
    let spread = program.whole.steps.iter().filter(|s| passes.uniform[s.slot as usize] && !matches!(s.expr, Expr::Const(..)));
    for (i, step) in spread.enumerate() {
        frame[step.slot as usize] = Some(i as u32);
    }
    if pointers.len() > 100 || frame.iter().flatten().any(|f| *f >= FRAME_SLOTS) {
        return None;
    }
    let generator = Generator { program, inputs, indices, passes, pointers, frame };
    let code = generator.function(columns)?;
    Some(Generated { code, pointers: generator.pointers })
}

impl Generator<'_> {
    fn pointer(&self, p: Pointer) -> u8 {
        self.pointers.iter().position(|x| *x == p).unwrap_or(0) as u8
    }

    fn function(&self, columns: usize) -> Option<Vec<u8>> {
        let mut asm = Asm::default();
        let saved = [3, 5, 12, 13, 14, 15];
        saved.iter().for_each(|r| asm.push(*r));
        asm.copy(RAX, RSP);
        let frame = asm.add(RSP, 0);
        // and rsp, -64
        asm.raw(&[0x48, 0x83, 0xe4, 0xc0]);
        asm.store(at(RSP, FRAME_HEAD - 8), RAX);
        asm.load(RSI, at(RDI, 8));
        let count = self.pointers.len();
        for (k, r) in POINTERS.iter().enumerate().take(count) {
            asm.load(*r, at(RDI, TABLE_POINTERS + 8 * k as i32));
        }
        if columns > 0 {
            asm.mask(0x90, false, 7, 0, Rm::Mem(at(RDI, 16)));
        }
        let row = asm.label();
        asm.bind(row);
        let mut emit = Emit::new(&mut asm);
        if columns > 0 {
            let block = self.straight(columns)?;
            emit.block(&block, 0);
        } else {
            self.loops(&mut emit)?;
        }
        let stack = emit.stack as i32;
        let bytes = FRAME_HEAD + 64 * (stack + 1);
        if bytes > 3968 {
            return None;
        }
        for k in 0..count {
            let stride = at(RDI, TABLE_POINTERS + 8 * (count + k) as i32);
            match POINTERS.get(k) {
                Some(r) => asm.add_from(*r, stride),
                None => {
                    asm.load(RAX, stride);
                    asm.add_to(at(RDI, TABLE_POINTERS + 8 * k as i32), RAX);
                }
            }
        }
        asm.add(RSI, -1);
        asm.jump_if(Cond::NotEqual, row);
        asm.load(RSP, at(RSP, FRAME_HEAD - 8));
        saved.iter().rev().for_each(|r| asm.pop(*r));
        // vzeroupper; ret
        asm.raw(&[0xc5, 0xf8, 0x77, 0xc3]);
        asm.patch(frame, -bytes);
        Some(asm.finish())
    }

    fn nothing(&self) -> Values {
        Values(vec![[None; COPIES]; self.program.types.len()])
    }

    /// The value of one slot in one vector, from the values before it.
    fn value(&self, b: &mut Block, step: &Step, values: &Values, place: Place) -> Option<Src> {
        let dtype = self.program.types[step.slot as usize];
        let copy = place.plus as usize / 16;
        match step.expr {
            Expr::Const(..) => Some(Src::Const(step.constant as u32)),
            Expr::Input(k) => {
                let pointer = match self.inputs[k as usize] {
                    Motion::InPlace(o) => Pointer::Output(o),
                    _ => Pointer::Input(k as usize),
                };
                let pointer = self.pointer(pointer);
                if self.inputs[k as usize] == Motion::Still {
                    let place = Place { pointer, moves: false, plus: 0, tail: false };
                    return Some(b.make(Op::LoadOne(dtype, place), lower::class(dtype), &[], None));
                }
                Some(lower::load(b, dtype, Place { pointer, ..place }))
            }
            Expr::Index(_, d) => {
                let at = self.program.index_dims.iter().position(|x| *x == d as usize)?;
                let pointer = self.pointer(Pointer::Index(at));
                let still = Place { pointer, moves: false, plus: 0, tail: false };
                let op = if self.indices[at] == Motion::Still { Op::IndexOne(still) } else { Op::Index(Place { pointer, ..place }) };
                lower::index(b, dtype, op)
            }
            expr => {
                let slots = expr.arguments();
                let mut args = [Src::Const(0); 3];
                for (i, a) in slots.iter().enumerate() {
                    args[i] = values.get(*a, copy)?;
                }
                lower::compute(b, expr, dtype, self.program.types[*slots.first()? as usize], &args)
            }
        }
    }

    fn step(&self, slot: Slot) -> Option<&Step> {
        let steps = &self.program.whole.steps;
        steps.binary_search_by_key(&slot, |s| s.slot).ok().map(|i| &steps[i])
    }

    fn kind(&self, slot: Slot) -> Option<Kind> {
        kind(self.program.types[slot as usize])
    }

    /// Whether result `k` has one element a row.
    fn per_row(&self, k: usize) -> bool {
        self.program.cols > 0 && self.program.outputs[k].per_row
    }

    /// Combines up to four vectors into a value that is the same in all lanes: vectors by halving, then lanes by halving.
    fn gather(&self, b: &mut Block, (slot, monoid, a): (Slot, Monoid, Slot), mut lanes: Vec<Src>) -> Option<Src> {
        let kind = self.kind(a)?;
        for half in [2, 1] {
            for l in half..lanes.len().min(2 * half) {
                lanes[l - half] = b.combine(monoid, kind, lanes[l - half], lanes[l])?;
            }
            lanes.truncate(half);
        }
        let mut x = lanes[0];
        for distance in [8, 4, 2, 1] {
            let y = b.turned(x, distance);
            x = b.combine(monoid, kind, x, y)?;
        }
        Some(lower::settle(b, self.program.types[slot as usize], x))
    }

    /// A row of up to 64 columns.
    fn straight(&self, columns: usize) -> Option<Block> {
        let mut b = Block::default();
        let vectors = columns.div_ceil(16);
        let place =
            |c: usize| Place { pointer: 0, moves: false, plus: 16 * c as i32, tail: c + 1 == vectors && !columns.is_multiple_of(16) };
        let mut values = self.nothing();
        for step in &self.program.whole.steps {
            let s = step.slot as usize;
            if let Expr::Reduce(monoid, a) = step.expr {
                let (kind, neutral) = (self.kind(a)?, identity(monoid, self.program.types[a as usize]));
                let mut lanes = Vec::new();
                for c in 0..vectors {
                    let x = values.get(a, c)?;
                    // A sum turns −0 into 0 where it starts.
                    let x = if monoid == Monoid::Sum && kind == Kind::Float { b.combine(monoid, kind, x, Src::Const(neutral))? } else { x };
                    lanes.push(if place(c).tail { b.choose(Src::Tail, x, Src::Const(neutral)) } else { x });
                }
                let x = self.gather(&mut b, (step.slot, monoid, a), lanes)?;
                values.set_all(step.slot, x);
            } else if self.passes.uniform[s] {
                let x = self.value(&mut b, step, &values, Place { pointer: 0, moves: false, plus: 0, tail: false })?;
                values.set_all(step.slot, x);
            } else if self.program.reduces {
                for c in 0..vectors {
                    let x = self.value(&mut b, step, &values, place(c))?;
                    values.set(step.slot, c, x);
                }
            }
        }
        for c in 0..vectors {
            if !self.program.reduces {
                for step in self.program.whole.steps.iter().filter(|s| !self.passes.uniform[s.slot as usize]) {
                    let x = self.value(&mut b, step, &values, place(c))?;
                    values.set(step.slot, c, x);
                }
            }
            for (k, out) in self.program.outputs.iter().enumerate().filter(|(k, _)| !self.per_row(*k)) {
                let pointer = self.pointer(Pointer::Output(k));
                lower::store(&mut b, out.dtype, Place { pointer, ..place(c) }, values.get(out.slot, c)?);
            }
        }
        for (k, out) in self.program.outputs.iter().enumerate().filter(|(k, _)| self.per_row(*k)) {
            let place = Place { pointer: self.pointer(Pointer::Output(k)), moves: false, plus: 0, tail: false };
            lower::store_one(&mut b, out.dtype, place, values.get(out.slot, 0)?);
        }
        Some(b)
    }

    /// Values that are equal in all columns, as blocks of columns see them.
    fn still(&self) -> Values {
        let mut values = self.nothing();
        for step in self.program.whole.steps.iter().filter(|s| self.passes.uniform[s.slot as usize]) {
            let s = step.slot as usize;
            let x = if let Expr::Const(..) = step.expr { Src::Const(step.constant as u32) } else { Src::Frame(self.frame[s].unwrap_or(0)) };
            values.set_all(step.slot, x);
        }
        values
    }

    /// Finishes the reductions of pass `stage − 1` and computes what is equal in all columns and needs nothing later.
    fn row(&self, stage: usize) -> Option<Block> {
        let mut b = Block::default();
        let mut values = self.still();
        if let Some(pass) = stage.checked_sub(1).and_then(|p| self.passes.passes.get(p)) {
            for (r, reduction) in pass.reductions.iter().enumerate() {
                let lanes = (0..COPIES).map(|c| Src::Acc(accumulator(r, c))).collect();
                let x = self.gather(&mut b, *reduction, lanes)?;
                values.set_all(reduction.0, x);
                self.keepsake(&mut b, reduction.0, x);
            }
        }
        for step in &self.program.whole.steps {
            let s = step.slot as usize;
            let skip = matches!(step.expr, Expr::Const(..) | Expr::Reduce(..));
            if skip || !self.passes.uniform[s] || self.passes.stage[s] != stage {
                continue;
            }
            let x = self.value(&mut b, step, &values, Place { pointer: 0, moves: false, plus: 0, tail: false })?;
            values.set_all(step.slot, x);
            self.keepsake(&mut b, step.slot, x);
        }
        Some(b)
    }

    fn keepsake(&self, b: &mut Block, slot: Slot, x: Src) {
        let frame = self.frame[slot as usize].unwrap_or(0);
        // A mask that is another slot of the frame has no class in a block of its own.
        let x = match x {
            Src::V(_) => x,
            other if lower::class(self.program.types[slot as usize]) == super::block::Class::Lanes => b.one(COPY, other),
            other => b.make(Op::Masks(0x41), super::block::Class::Mask, &[other, other], None),
        };
        b.put(Op::Keepsake(frame), Dst::None, &[x], None);
    }

    fn place_of(&self, kept: Kept) -> u8 {
        self.pointer(match kept {
            Kept::Output(k) => Pointer::Output(k),
            Kept::Scratch(j) => Pointer::Scratch(j),
        })
    }

    /// Some vectors of one turn of a pass.
    fn turn(&self, b: &mut Block, pass: &Pass, copies: std::ops::Range<usize>, tail: bool, still: &Values) -> Option<()> {
        let mut values = still.clone();
        let place = |c: usize, pointer: u8| Place { pointer, moves: true, plus: 16 * c as i32, tail };
        for slot in &pass.slots {
            for c in copies.clone() {
                let x = match pass.read.get(slot) {
                    Some(kept) => lower::load(b, DType::F32, place(c, self.place_of(*kept))),
                    None => self.value(b, self.step(*slot)?, &values, place(c, 0))?,
                };
                values.set(*slot, c, x);
            }
        }
        for c in copies {
            for (slot, kept) in &pass.written {
                lower::store(b, DType::F32, place(c, self.place_of(*kept)), values.get(*slot, c)?);
            }
            for k in &pass.outputs {
                let out = &self.program.outputs[*k];
                lower::store(b, out.dtype, place(c, self.pointer(Pointer::Output(*k))), values.get(out.slot, c)?);
            }
            for (r, (_, monoid, a)) in pass.reductions.iter().enumerate() {
                let (x, acc) = (values.get(*a, c)?, accumulator(r, c));
                let kind = self.kind(*a)?;
                match Block::plain(*monoid, kind) {
                    Some(op) => b.put(op, Dst::Acc { reg: acc, tail }, &[Src::Acc(acc), x], None),
                    None => {
                        let y = b.combine(*monoid, kind, Src::Acc(acc), x)?;
                        b.put(COPY, Dst::Acc { reg: acc, tail }, &[y], None);
                    }
                }
            }
        }
        Some(())
    }

    /// Rows of any number of columns.
    fn loops(&self, emit: &mut Emit<'_>) -> Option<()> {
        let first = self.row(0)?;
        emit.block(&first, 0);
        let still = self.still();
        for (stage, pass) in self.passes.passes.iter().enumerate() {
            let count = pass.reductions.len();
            if count > 5 {
                return None;
            }
            let pinned: u32 = (0..count).flat_map(|r| (0..COPIES).map(move |c| 1 << accumulator(r, c))).sum();
            let mut start = Block::default();
            for (r, (_, monoid, a)) in pass.reductions.iter().enumerate() {
                let neutral = Src::Const(identity(*monoid, self.program.types[*a as usize]));
                (0..COPIES).for_each(|c| start.put(COPY, Dst::Acc { reg: accumulator(r, c), tail: false }, &[neutral], None));
            }
            emit.block(&start, pinned);
            if !(pass.slots.is_empty() && pass.outputs.is_empty() && count == 0) {
                self.pass(emit, pass, pinned, &still)?;
            }
            let rest = self.row(stage + 1)?;
            emit.block(&rest, pinned);
        }
        let mut last = Block::default();
        for (k, out) in self.program.outputs.iter().enumerate().filter(|(k, _)| self.per_row(*k)) {
            let place = Place { pointer: self.pointer(Pointer::Output(k)), moves: false, plus: 0, tail: false };
            lower::store_one(&mut last, out.dtype, place, still.get(out.slot, 0)?);
        }
        emit.block(&last, 0);
        Some(())
    }

    /// One pass: whole turns, then the columns that are left, vector by vector.
    fn pass(&self, emit: &mut Emit<'_>, pass: &Pass, pinned: u32, still: &Values) -> Option<()> {
        let taken = pinned.count_ones() as usize;
        let mut body = Block::default();
        let (mut free, mut constants) = (0, Vec::new());
        // As many vectors side by side as the registers hold, with room for some constants.
        for group in [4, 2, 1] {
            body = Block::default();
            for c in (0..COPIES).step_by(group) {
                self.turn(&mut body, pass, c..c + group, false, still)?;
            }
            constants = body.constants();
            free = ROOM.saturating_sub(taken + body.pressure());
            if free >= constants.len().min(CONSTANTS) {
                break;
            }
        }
        let held: Vec<(Src, u8)> = constants.iter().take(free).enumerate().map(|(i, s)| (*s, (31 - taken - i) as u8)).collect();
        let pinned = held.iter().fold(pinned, |pinned, (_, reg)| pinned | 1 << reg);
        let mut hold = Block::default();
        held.iter().for_each(|(s, reg)| hold.put(COPY, Dst::Acc { reg: *reg, tail: false }, &[*s], None));
        emit.block(&hold, pinned);
        body.hoist(&held);
        let (main, tail, done) = (emit.asm.label(), emit.asm.label(), emit.asm.label());
        // xor ecx, ecx; mov rdx, [rdi]; test rdx, rdx
        emit.asm.raw(&[0x31, 0xc9]);
        emit.asm.load(RDX, at(RDI, 0));
        emit.asm.raw(&[0x48, 0x85, 0xd2]);
        emit.asm.jump_if(Cond::Equal, tail);
        emit.asm.bind(main);
        emit.block(&body, pinned);
        emit.asm.add(RCX, STEP as i32);
        emit.asm.compare(RCX, RDX);
        emit.asm.jump_if(Cond::Below, main);
        emit.asm.bind(tail);
        for c in 0..COPIES {
            let mask = 16 + 2 * c as i32;
            // cmp word [rdi + mask], 0
            emit.asm.raw(&[0x66, 0x83, 0x7f, mask as u8, 0]);
            emit.asm.jump_if(Cond::Equal, done);
            emit.asm.mask(0x90, false, 7, 0, Rm::Mem(at(RDI, mask)));
            let mut block = Block::default();
            self.turn(&mut block, pass, c..c + 1, true, still)?;
            block.hoist(&held);
            emit.block(&block, pinned);
        }
        emit.asm.bind(done);
        Some(())
    }
}

/// The register of vector `c` of reduction `r`.
fn accumulator(r: usize, c: usize) -> u8 {
    31 - (COPIES * r + c) as u8
}
