//! Straight-line vector code on virtual registers, and its translation to machine code.
//!
//! A block has no jumps, so registers are given out in one pass: when none is free, the value whose next use is furthest goes to the
//! stack (Belady). Constants and values that are equal in all lanes are read from memory where an instruction can, at no cost, and are
//! kept in a register only where it cannot.

use super::asm::{Asm, Enc, Gpr, Mem, RAX, RCX, RDI, RSP, Rm, Vex, at, enc};
use girih_ir::types::DType;
use rustc_hash::FxHashMap;

/// Kinds of registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Class {
    /// 16 lanes of 32 bits.
    Lanes,
    /// 16 bits.
    Mask,
}

/// A value of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Src {
    /// What an instruction of the block made.
    V(u32),
    /// These bits in every lane; for a mask, all lanes 0 or 1.
    Const(u32),
    /// A value that is equal in all lanes, in this slot of the frame.
    Frame(u32),
    /// An accumulator: a register that keeps its value between blocks.
    Acc(u8),
    /// The mask of the columns that exist.
    Tail,
}

/// Where a result goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dst {
    /// Nowhere.
    None,
    /// A new value.
    V(u32),
    /// An accumulator; with `tail`, only its lanes that exist.
    Acc { reg: u8, tail: bool },
}

/// A place in an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Which pointer.
    pub(super) pointer: u8,
    /// Whether the column counter is added.
    pub(super) moves: bool,
    /// Elements added.
    pub(super) plus: i32,
    /// Whether only the columns that exist are touched.
    pub(super) tail: bool,
}

/// Instructions. Results and arguments are lanes unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// `a op b`.
    Two { enc: Enc, imm: Option<u8>, commutes: bool },
    /// `op a`.
    One { enc: Enc, imm: Option<u8> },
    /// `a` shifted by a constant.
    Shift { kind: u8, by: u8 },
    /// `a · b + c`, or `c − a · b`.
    Fma { negate: bool },
    /// A function of every three bits.
    Bits(u8),
    /// A mask: `a ? b`.
    Compare { enc: Enc, imm: u8 },
    /// A mask: `a ≠ 0`, in lanes or in bytes.
    Test { bytes: bool },
    /// A mask of masks.
    Masks(u8),
    /// The other mask.
    Invert,
    /// `mask ? b : a`.
    Blend,
    /// `mask ? a : 0`.
    Keep,
    /// Bytes 0 and 1 of a mask.
    ToBytes,
    /// The bits as binary16, rounded to nearest, in the low half of the register.
    Halves,
    /// What [`Op::Halves`] made, as f32.
    Widen,
    /// Elements of a type; bytes stay bytes.
    Load(DType, Place),
    /// One element in all lanes; a mask for `bool`.
    LoadOne(DType, Place),
    /// Writes elements; `bool` as bytes, bfloat16 as the upper half, already shifted down.
    Store(DType, Place),
    /// Writes one element.
    StoreOne(DType, Place),
    /// A running index: the pointer is a number.
    Index(Place),
    /// The same number in all lanes.
    IndexOne(Place),
    /// Writes a value that is equal in all lanes to the frame.
    Keepsake(u32),
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ins {
    pub(super) op: Op,
    pub(super) dst: Dst,
    pub(super) args: [Option<Src>; 3],
    pub(super) mask: Option<Src>,
}

/// Straight-line code.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) ins: Vec<Ins>,
    classes: Vec<Class>,
}

impl Block {
    pub(super) fn value(&mut self, class: Class) -> u32 {
        self.classes.push(class);
        self.classes.len() as u32 - 1
    }

    /// Appends an instruction that makes a value.
    pub(super) fn make(&mut self, op: Op, class: Class, args: &[Src], mask: Option<Src>) -> Src {
        let v = self.value(class);
        self.put(op, Dst::V(v), args, mask);
        Src::V(v)
    }

    pub(super) fn put(&mut self, op: Op, dst: Dst, args: &[Src], mask: Option<Src>) {
        let args = [args.first().copied(), args.get(1).copied(), args.get(2).copied()];
        self.ins.push(Ins { op, dst, args, mask });
    }

    fn class(&self, ins: &Ins, which: usize) -> Class {
        match ins.op {
            Op::Masks(_) | Op::Invert | Op::ToBytes => Class::Mask,
            Op::StoreOne(DType::Bool, _) => Class::Mask,
            Op::Keepsake(_) => match ins.args[which] {
                Some(Src::V(v)) => self.classes[v as usize],
                _ => Class::Lanes,
            },
            _ => Class::Lanes,
        }
    }

    /// Lanes that are the same in the whole loop, the most used first.
    pub(super) fn constants(&self) -> Vec<Src> {
        let mut found: Vec<(Src, usize)> = Vec::new();
        for ins in &self.ins {
            for (k, s) in ins.args.iter().enumerate() {
                let Some(s @ (Src::Const(_) | Src::Frame(_))) = *s else { continue };
                match found.iter_mut().find(|f| f.0 == s) {
                    _ if self.class(ins, k) != Class::Lanes => {}
                    Some(f) => f.1 += 1,
                    None => found.push((s, 1)),
                }
            }
        }
        found.sort_by_key(|f| std::cmp::Reverse(f.1));
        found.into_iter().map(|f| f.0).collect()
    }

    /// Reads lanes from registers that hold them instead.
    pub(super) fn hoist(&mut self, held: &[(Src, u8)]) {
        for i in 0..self.ins.len() {
            for k in 0..3 {
                if self.class(&self.ins[i], k) == Class::Lanes
                    && let Some((_, reg)) = held.iter().find(|h| Some(h.0) == self.ins[i].args[k])
                {
                    self.ins[i].args[k] = Some(Src::Acc(*reg));
                }
            }
        }
    }

    /// Most values that live at one time.
    pub(super) fn pressure(&self) -> usize {
        let mut last = vec![0; self.classes.len()];
        for (i, ins) in self.ins.iter().enumerate() {
            for s in ins.args.iter().flatten() {
                if let Src::V(v) = s {
                    last[*v as usize] = i;
                }
            }
        }
        let (mut live, mut most) = (0usize, 0);
        for (i, ins) in self.ins.iter().enumerate() {
            if let Dst::V(v) = ins.dst
                && self.classes[v as usize] == Class::Lanes
            {
                live += 1;
                most = most.max(live);
            }
            let mut ended: Vec<u32> = ins.args.iter().flatten().filter_map(|s| if let Src::V(v) = s { Some(*v) } else { None }).collect();
            ended.dedup();
            live -= ended.iter().filter(|v| last[**v as usize] == i && self.classes[**v as usize] == Class::Lanes).count().min(live);
        }
        most
    }
}

/// Pointers that have a register of their own; the others stay in the table that the program is called with.
pub(super) const POINTERS: [Gpr; 10] = [3, 5, 8, 9, 10, 11, 12, 13, 14, 15];
/// Bytes of the frame before the stack slots of vectors: slots of values that are equal in all lanes, then the old stack pointer.
pub(super) const FRAME_HEAD: i32 = 512;
/// Slots of values that are equal in all lanes.
pub(super) const FRAME_SLOTS: u32 = 126;
/// Byte offset of the pointers in the table.
pub(super) const TABLE_POINTERS: i32 = 24;
/// The register of [`Src::Tail`].
const TAIL: u8 = 7;

const MOV: Enc = enc(1, 0, 0x28);
const LOAD: Enc = enc(1, 0, 0x10);
const STORE: Enc = enc(1, 0, 0x11);
const SPREAD: Enc = enc(2, 1, 0x18);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    /// Made by an instruction.
    Made,
    Const(u32),
    Frame(u32),
}

#[derive(Debug)]
struct Value {
    class: Class,
    home: Home,
    reg: Option<u8>,
    stack: Option<u32>,
    uses: Vec<u32>,
    next: usize,
}

/// Registers of one class: which value each holds.
#[derive(Debug)]
struct File {
    owner: [Option<u32>; 32],
    usable: u32,
}

/// Translates blocks; the stack grows to what the largest needs.
pub(super) struct Emit<'a> {
    pub(super) asm: &'a mut Asm,
    /// Vectors on the stack.
    pub(super) stack: u32,
    values: Vec<Value>,
    known: FxHashMap<(Src, Class), u32>,
    files: [File; 2],
    held: [u32; 2],
    slots: u32,
}

impl<'a> Emit<'a> {
    pub(super) fn new(asm: &'a mut Asm) -> Self {
        let file = || File { owner: [None; 32], usable: 0 };
        Emit { asm, stack: 0, values: Vec::new(), known: FxHashMap::default(), files: [file(), file()], held: [0; 2], slots: 0 }
    }

    /// Translates a block. The registers in `pinned` are accumulators.
    pub(super) fn block(&mut self, block: &Block, pinned: u32) {
        self.files = [File { owner: [None; 32], usable: !pinned }, File { owner: [None; 32], usable: 0x7e }];
        self.known.clear();
        self.slots = 0;
        let made = |class: &Class| Value { class: *class, home: Home::Made, reg: None, stack: None, uses: Vec::new(), next: 0 };
        self.values = block.classes.iter().map(made).collect();
        for (i, ins) in block.ins.iter().enumerate() {
            let args = ins.args.iter().enumerate().filter_map(|(k, s)| s.map(|s| (s, block.class(ins, k))));
            for (s, class) in args.chain(ins.mask.map(|m| (m, Class::Mask))) {
                if let Some(v) = self.id(s, class) {
                    self.values[v as usize].uses.push(i as u32);
                }
            }
        }
        for (i, ins) in block.ins.iter().enumerate() {
            self.held = [0; 2];
            self.instruction(block, ins, i as u32);
        }
        self.stack = self.stack.max(self.slots);
    }

    /// The value behind a source, if it is one that moves between registers and memory.
    fn id(&mut self, s: Src, class: Class) -> Option<u32> {
        let home = match s {
            Src::V(v) => return Some(v),
            Src::Acc(_) | Src::Tail => return None,
            Src::Const(c) => Home::Const(c),
            Src::Frame(f) => Home::Frame(f),
        };
        let next = self.values.len() as u32;
        let v = *self.known.entry((s, class)).or_insert(next);
        if v == next {
            self.values.push(Value { class, home, reg: None, stack: None, uses: Vec::new(), next: 0 });
        }
        Some(v)
    }

    fn file(class: Class) -> usize {
        usize::from(class == Class::Mask)
    }

    /// A register for a value, empty.
    fn take(&mut self, v: u32) -> u8 {
        let class = self.values[v as usize].class;
        let f = Self::file(class);
        let free = (0..32u8)
            .find(|r| self.files[f].usable >> r & 1 == 1 && self.files[f].owner[*r as usize].is_none() && self.held[f] >> r & 1 == 0);
        let reg = free.unwrap_or_else(|| {
            let next = |v: u32| {
                let value = &self.values[v as usize];
                value.uses.get(value.next).copied().unwrap_or(u32::MAX)
            };
            let held = self.held[f];
            let owners = self.files[f].owner.iter().enumerate();
            let far = owners.filter_map(|(r, o)| o.map(|o| (next(o), r as u8))).filter(|(_, r)| held >> r & 1 == 0).max();
            let reg = far.map_or(0, |x| x.1);
            self.evict(f, reg);
            reg
        });
        self.files[f].owner[reg as usize] = Some(v);
        self.values[v as usize].reg = Some(reg);
        self.held[f] |= 1 << reg;
        reg
    }

    fn evict(&mut self, f: usize, reg: u8) {
        let Some(v) = self.files[f].owner[reg as usize].take() else { return };
        let value = &mut self.values[v as usize];
        value.reg = None;
        if value.home == Home::Made && value.stack.is_none() {
            value.stack = Some(self.slots);
            let place = at(RSP, FRAME_HEAD + 64 * self.slots as i32);
            self.slots += 1;
            match value.class {
                Class::Lanes => self.asm.vector(Vex::new(STORE, reg, 0, Rm::Mem(place))),
                Class::Mask => self.asm.mask(0x91, false, reg, 0, Rm::Mem(place)),
            }
        }
    }

    fn home(&self, v: u32) -> Rm {
        let value = &self.values[v as usize];
        match value.home {
            Home::Const(c) => Rm::Const(c),
            Home::Frame(slot) => Rm::Each(at(RSP, 4 * slot as i32)),
            Home::Made => Rm::Mem(at(RSP, FRAME_HEAD + 64 * value.stack.unwrap_or(0) as i32)),
        }
    }

    /// The source in a register.
    fn reg(&mut self, s: Src, class: Class) -> u8 {
        let v = match s {
            Src::Acc(r) => return r,
            Src::Tail => return TAIL,
            s => self.id(s, class).unwrap_or(0),
        };
        if let Some(r) = self.values[v as usize].reg {
            self.held[Self::file(class)] |= 1 << r;
            return r;
        }
        let from = self.home(v);
        let r = self.take(v);
        match (class, from) {
            (Class::Lanes, from) => self.fetch(r, from),
            // All ones or all zeros.
            (Class::Mask, Rm::Const(c)) => self.asm.mask(if c != 0 { 0x46 } else { 0x47 }, true, r, 1, Rm::Reg(1)),
            (Class::Mask, Rm::Each(m) | Rm::Mem(m)) => self.asm.mask(0x90, false, r, 0, Rm::Mem(m)),
            (Class::Mask, _) => {}
        }
        r
    }

    fn fetch(&mut self, to: u8, from: Rm) {
        match from {
            Rm::Each(m) => self.asm.vector(Vex { bytes: 4, ..Vex::new(SPREAD, to, 0, Rm::Mem(m)) }),
            Rm::Const(_) => self.asm.vector(Vex { bytes: 4, ..Vex::new(SPREAD, to, 0, from) }),
            Rm::Reg(r) if r == to => {}
            Rm::Reg(_) => self.asm.vector(Vex::new(MOV, to, 0, from)),
            _ => self.asm.vector(Vex::new(LOAD, to, 0, from)),
        }
    }

    /// The source where it is.
    fn rm(&mut self, s: Src) -> Rm {
        match s {
            Src::Acc(r) => Rm::Reg(r),
            s => {
                let Some(v) = self.id(s, Class::Lanes) else { return Rm::Reg(0) };
                match self.values[v as usize].reg {
                    Some(r) => {
                        self.held[0] |= 1 << r;
                        Rm::Reg(r)
                    }
                    None => self.home(v),
                }
            }
        }
    }

    fn in_reg(&mut self, s: Src) -> bool {
        match s {
            Src::Acc(_) | Src::Tail => true,
            s => self.id(s, Class::Lanes).is_some_and(|v| self.values[v as usize].reg.is_some()),
        }
    }

    /// Whether this instruction is the last that reads the source, so that its register may be overwritten.
    fn dies(&mut self, s: Src, i: u32) -> bool {
        match s {
            Src::V(v) => {
                let value = &self.values[v as usize];
                value.reg.is_some() && value.uses.last() == Some(&i)
            }
            _ => false,
        }
    }

    /// Frees what is not read after instruction `i`.
    fn release(&mut self, block: &Block, ins: &Ins, i: u32) {
        let args = ins.args.iter().enumerate().filter_map(|(k, s)| s.map(|s| (s, block.class(ins, k))));
        for (s, class) in args.chain(ins.mask.map(|m| (m, Class::Mask))).collect::<Vec<_>>() {
            let Some(v) = self.id(s, class) else { continue };
            let value = &mut self.values[v as usize];
            while value.uses.get(value.next).is_some_and(|u| *u <= i) {
                value.next += 1;
            }
            if value.next == value.uses.len()
                && let Some(r) = value.reg.take()
            {
                self.files[Self::file(class)].owner[r as usize] = None;
                self.held[Self::file(class)] &= !(1 << r);
            }
        }
    }

    /// The register of the result, and the mask that limits what is written to it.
    fn target(&mut self, dst: Dst) -> (u8, u8) {
        match dst {
            Dst::V(v) => (self.take(v), 0),
            Dst::Acc { reg, tail } => (reg, if tail { TAIL } else { 0 }),
            Dst::None => (0, 0),
        }
    }

    /// Frees a result that nothing reads.
    fn settle(&mut self, dst: Dst) {
        if let Dst::V(v) = dst
            && self.values[v as usize].uses.is_empty()
            && let Some(r) = self.values[v as usize].reg.take()
        {
            self.files[Self::file(self.values[v as usize].class)].owner[r as usize] = None;
        }
    }

    fn instruction(&mut self, block: &Block, ins: &Ins, i: u32) {
        let [a, b, c] = ins.args.map(|s| s.unwrap_or(Src::Const(0)));
        match ins.op {
            Op::Two { enc, imm, commutes } => {
                let (a, b) = if commutes && !self.in_reg(a) && self.in_reg(b) { (b, a) } else { (a, b) };
                let x = self.reg(a, Class::Lanes);
                let y = self.rm(b);
                self.release(block, ins, i);
                let (to, mask) = self.target(ins.dst);
                self.asm.vector(Vex { imm, mask, ..Vex::new(enc, to, x, y) });
            }
            Op::One { enc, imm } => {
                let x = if enc == MOV && !self.in_reg(a) { None } else { Some(()) };
                let from = self.rm(a);
                self.release(block, ins, i);
                let (to, mask) = self.target(ins.dst);
                match x {
                    // A copy from memory.
                    None if mask == 0 => self.fetch(to, from),
                    _ => self.asm.vector(Vex { imm, mask, ..Vex::new(enc, to, 0, from) }),
                }
            }
            Op::Shift { kind, by } => {
                let x = self.rm(a);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.vector(Vex { imm: Some(by), ..Vex::new(enc(1, 1, 0x72), kind, to, x) });
            }
            Op::Fma { negate } => self.fma(block, ins, i, negate),
            Op::Bits(table) => {
                let y = self.reg(b, Class::Lanes);
                let z = self.rm(c);
                let to = self.tied(block, ins, i, a);
                self.asm.vector(Vex { imm: Some(table), ..Vex::new(enc(3, 1, 0x25), to, y, z) });
            }
            Op::Compare { enc, imm } => {
                let x = self.reg(a, Class::Lanes);
                let y = self.rm(b);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.vector(Vex { imm: Some(imm), ..Vex::new(enc, to, x, y) });
            }
            Op::Test { bytes } => {
                let x = self.reg(a, Class::Lanes);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                let op = if bytes { enc(2, 1, 0x26) } else { enc(2, 1, 0x27) };
                self.asm.vector(Vex { length: if bytes { 0 } else { 2 }, ..Vex::new(op, to, x, Rm::Reg(x)) });
            }
            Op::Masks(op) => {
                let (x, y) = (self.reg(a, Class::Mask), self.reg(b, Class::Mask));
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.mask(op, true, to, x, Rm::Reg(y));
            }
            Op::Invert => {
                let x = self.reg(a, Class::Mask);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.mask(0x44, false, to, 0, Rm::Reg(x));
            }
            Op::Blend => {
                let mask = self.reg(ins.mask.unwrap_or(Src::Tail), Class::Mask);
                let x = self.reg(a, Class::Lanes);
                let y = self.rm(b);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.vector(Vex { mask, ..Vex::new(enc(2, 1, 0x65), to, x, y) });
            }
            Op::Keep => {
                let mask = self.reg(ins.mask.unwrap_or(Src::Tail), Class::Mask);
                let from = self.rm(a);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                let (enc, from, bytes) = match from {
                    Rm::Reg(_) => (MOV, from, 64),
                    Rm::Each(m) => (SPREAD, Rm::Mem(m), 4),
                    Rm::Const(_) => (SPREAD, from, 4),
                    _ => (LOAD, from, 64),
                };
                self.asm.vector(Vex { mask, zero: true, bytes, ..Vex::new(enc, to, 0, from) });
            }
            Op::ToBytes => {
                let x = self.reg(a, Class::Mask);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.vector(Vex { length: 0, ..Vex::new(enc(2, 2, 0x28), to, 0, Rm::Reg(x)) });
                self.asm.vector(Vex { length: 0, ..Vex::new(enc(2, 1, 0x1c), to, 0, Rm::Reg(to)) });
            }
            Op::Halves => {
                let x = self.reg(a, Class::Lanes);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.vector(Vex { imm: Some(0), bytes: 32, ..Vex::new(enc(3, 1, 0x1d), x, 0, Rm::Reg(to)) });
            }
            Op::Widen => {
                let x = self.reg(a, Class::Lanes);
                self.release(block, ins, i);
                let (to, _) = self.target(ins.dst);
                self.asm.vector(Vex { bytes: 32, ..Vex::new(enc(2, 1, 0x13), to, 0, Rm::Reg(x)) });
            }
            _ => self.memory(block, ins, i),
        }
        self.settle(ins.dst);
    }

    /// The register of a result that an instruction reads as its first argument: that of the argument if it is not read again.
    fn tied(&mut self, block: &Block, ins: &Ins, i: u32, a: Src) -> u8 {
        let Dst::V(v) = ins.dst else { return 0 };
        if self.dies(a, i)
            && let Src::V(old) = a
            && let Some(r) = self.values[old as usize].reg
        {
            self.release(block, ins, i);
            self.files[0].owner[r as usize] = Some(v);
            self.values[v as usize].reg = Some(r);
            self.held[0] |= 1 << r;
            return r;
        }
        // The arguments stay where they are until the copy is made.
        let from = self.rm(a);
        let to = self.take(v);
        self.fetch(to, from);
        self.release(block, ins, i);
        to
    }

    fn fma(&mut self, block: &Block, ins: &Ins, i: u32, negate: bool) {
        let [a, b, c] = ins.args.map(|s| s.unwrap_or(Src::Const(0)));
        let form = |base: u8| enc(2, 1, if negate { base + 4 } else { base });
        let (a, b) = if !self.in_reg(a) { (b, a) } else { (a, b) };
        // A factor that is not read again and is not the other operands becomes the result.
        let (a, b) = if !self.dies(a, i) && self.dies(b, i) { (b, a) } else { (a, b) };
        if !self.dies(c, i) && self.dies(a, i) && a != b && a != c {
            if self.in_reg(b) {
                let y = self.reg(b, Class::Lanes);
                let z = self.rm(c);
                let to = self.tied(block, ins, i, a);
                return self.asm.vector(Vex::new(form(0xa8), to, y, z));
            }
            let z = self.reg(c, Class::Lanes);
            let y = self.rm(b);
            let to = self.tied(block, ins, i, a);
            return self.asm.vector(Vex::new(form(0x98), to, z, y));
        }
        let x = self.reg(a, Class::Lanes);
        let y = self.rm(b);
        if c == a || c == b {
            // The sum's register must not be that of a factor.
            let from = self.rm(c);
            let Dst::V(v) = ins.dst else { return };
            let to = self.take(v);
            self.fetch(to, from);
            self.release(block, ins, i);
            return self.asm.vector(Vex::new(form(0xb8), to, x, y));
        }
        let to = self.tied(block, ins, i, c);
        self.asm.vector(Vex::new(form(0xb8), to, x, y));
    }

    /// The pointer of a place, in a register.
    fn pointer(&mut self, k: u8) -> Gpr {
        match POINTERS.get(k as usize) {
            Some(r) => *r,
            None => {
                self.asm.load(RAX, at(RDI, TABLE_POINTERS + 8 * i32::from(k)));
                RAX
            }
        }
    }

    fn address(&mut self, p: Place, size: usize) -> Mem {
        let base = self.pointer(p.pointer);
        Mem { base, index: p.moves.then_some(RCX), scale: size.trailing_zeros() as u8, disp: p.plus * size as i32 }
    }

    fn memory(&mut self, block: &Block, ins: &Ins, i: u32) {
        let a = ins.args[0].unwrap_or(Src::Const(0));
        match ins.op {
            Op::Load(dtype, p) => {
                let from = Rm::Mem(self.address(p, dtype.size()));
                let (to, _) = self.target(ins.dst);
                let mask = if p.tail { TAIL } else { 0 };
                let v = Vex { mask, zero: p.tail, ..Vex::new(LOAD, to, 0, from) };
                match dtype {
                    DType::BF16 => {
                        self.asm.vector(Vex { enc: enc(2, 1, 0x33), bytes: 32, ..v });
                        self.asm.vector(Vex { imm: Some(16), ..Vex::new(enc(1, 1, 0x72), 6, to, Rm::Reg(to)) });
                    }
                    DType::F16 => self.asm.vector(Vex { enc: enc(2, 1, 0x13), bytes: 32, ..v }),
                    DType::Bool => self.asm.vector(Vex { enc: enc(1, 3, 0x6f), bytes: 16, length: 0, ..v }),
                    _ => self.asm.vector(v),
                }
            }
            Op::Store(dtype, p) => {
                let x = self.reg(a, Class::Lanes);
                let to = Rm::Mem(self.address(p, dtype.size()));
                let v = Vex { mask: if p.tail { TAIL } else { 0 }, ..Vex::new(STORE, x, 0, to) };
                match dtype {
                    DType::BF16 => self.asm.vector(Vex { enc: enc(2, 2, 0x33), bytes: 32, ..v }),
                    DType::F16 => self.asm.vector(Vex { enc: enc(3, 1, 0x1d), bytes: 32, imm: Some(0), ..v }),
                    DType::Bool => self.asm.vector(Vex { enc: enc(1, 3, 0x7f), bytes: 16, length: 0, ..v }),
                    _ => self.asm.vector(v),
                }
                self.release(block, ins, i);
            }
            Op::LoadOne(dtype, p) => self.load_one(ins.dst, dtype, p),
            Op::StoreOne(dtype, p) => {
                let x = self.reg(a, if dtype == DType::Bool { Class::Mask } else { Class::Lanes });
                self.store_one(x, dtype, p);
                self.release(block, ins, i);
            }
            Op::Index(p) | Op::IndexOne(p) => {
                let base = self.pointer(p.pointer);
                let (to, _) = self.target(ins.dst);
                // lea rax, [base + rcx + plus]
                let m = Mem { base, index: p.moves.then_some(RCX), scale: 0, disp: p.plus };
                self.asm.plain(true, &[0x8d], RAX, Rm::Mem(m));
                self.asm.vector(Vex::new(enc(2, 1, 0x7c), to, 0, Rm::Reg(RAX)));
                if matches!(ins.op, Op::Index(_)) {
                    self.asm.vector(Vex::new(enc(1, 1, 0xfe), to, to, Rm::Iota));
                }
            }
            Op::Keepsake(slot) => {
                let class = block.class(ins, 0);
                let x = self.reg(a, class);
                let to = Rm::Mem(at(RSP, 4 * slot as i32));
                match class {
                    Class::Lanes => self.asm.vector(Vex { bytes: 4, length: 0, ..Vex::new(enc(1, 2, 0x11), x, 0, to) }),
                    Class::Mask => self.asm.mask(0x91, false, x, 0, to),
                }
                self.release(block, ins, i);
            }
            _ => {}
        }
    }

    fn load_one(&mut self, dst: Dst, dtype: DType, p: Place) {
        let m = self.address(p, dtype.size());
        let (to, _) = self.target(dst);
        match dtype {
            // movzx eax, word; shl eax, 16
            DType::BF16 => {
                self.asm.plain(false, &[0x0f, 0xb7], RAX, Rm::Mem(m));
                self.asm.raw(&[0xc1, 0xe0, 16]);
                self.asm.vector(Vex::new(enc(2, 1, 0x7c), to, 0, Rm::Reg(RAX)));
            }
            DType::F16 => {
                self.asm.plain(false, &[0x0f, 0xb7], RAX, Rm::Mem(m));
                self.asm.vector(Vex::new(enc(2, 1, 0x7b), to, 0, Rm::Reg(RAX)));
                self.asm.vector(Vex { bytes: 32, ..Vex::new(enc(2, 1, 0x13), to, 0, Rm::Reg(to)) });
            }
            // movzx eax, byte; neg eax; kmovw
            DType::Bool => {
                self.asm.plain(false, &[0x0f, 0xb6], RAX, Rm::Mem(m));
                self.asm.raw(&[0xf7, 0xd8]);
                self.asm.mask(0x92, false, to, 0, Rm::Reg(RAX));
            }
            _ => self.asm.vector(Vex { bytes: 4, ..Vex::new(SPREAD, to, 0, Rm::Mem(m)) }),
        }
    }

    fn store_one(&mut self, x: u8, dtype: DType, p: Place) {
        // The address first: it may need the scratch register, which a 16-bit or bool element goes through as well.
        match dtype {
            DType::BF16 | DType::F16 => {
                // vmovd ecx, xmm: no counter runs where single elements are written.
                self.asm.vector(Vex { length: 0, bytes: 4, ..Vex::new(enc(1, 1, 0x7e), x, 0, Rm::Reg(RCX)) });
                let m = self.address(p, 2);
                self.asm.raw(&[0x66]);
                self.asm.plain(false, &[0x89], RCX, Rm::Mem(m));
            }
            DType::Bool => {
                self.asm.mask(0x93, false, RCX, 0, Rm::Reg(x));
                self.asm.raw(&[0x83, 0xe1, 1]);
                let m = self.address(p, 1);
                self.asm.plain(false, &[0x88], RCX, Rm::Mem(m));
            }
            _ => {
                let m = self.address(p, 4);
                self.asm.vector(Vex { length: 0, bytes: 4, ..Vex::new(enc(1, 2, 0x11), x, 0, Rm::Mem(m)) });
            }
        }
    }
}
