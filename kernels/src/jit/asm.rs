//! An assembler for the x86-64 instructions that compiled programs are made of: AVX-512 in EVEX form, masks, and a few of pointers.
//!
//! Encodings follow Intel's *Software Developer's Manual*, volume 2. Constants go to a pool behind the code and are addressed relative
//! to the instruction pointer, so the code runs wherever it is put.

/// A general register by its number.
pub(super) type Gpr = u8;

pub(super) const RAX: Gpr = 0;
pub(super) const RCX: Gpr = 1;
pub(super) const RDX: Gpr = 2;
pub(super) const RSP: Gpr = 4;
pub(super) const RSI: Gpr = 6;
pub(super) const RDI: Gpr = 7;

/// Opcode of a vector instruction: opcode map, mandatory prefix, W bit, opcode byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Enc {
    map: u8,
    pp: u8,
    w: bool,
    op: u8,
}

/// Opcode in map `0F` (1), `0F38` (2) or `0F3A` (3), with prefix none (0), `66` (1), `F3` (2) or `F2` (3), W 0.
pub(super) const fn enc(map: u8, pp: u8, op: u8) -> Enc {
    Enc { map, pp, w: false, op }
}

/// A memory operand: `base + index · 2^scale + disp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mem {
    pub(super) base: Gpr,
    pub(super) index: Option<Gpr>,
    pub(super) scale: u8,
    pub(super) disp: i32,
}

/// `[base + disp]`.
pub(super) fn at(base: Gpr, disp: i32) -> Mem {
    Mem { base, index: None, scale: 0, disp }
}

/// The operand that may be memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rm {
    /// A vector (or mask) register.
    Reg(u8),
    /// Memory as wide as the instruction says.
    Mem(Mem),
    /// One 32-bit element for all lanes.
    Each(Mem),
    /// A pool constant for all lanes.
    Const(u32),
    /// The numbers 0 to 15.
    Iota,
}

/// One vector instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vex {
    pub(super) enc: Enc,
    /// Register of the `reg` field (or an opcode extension).
    pub(super) reg: u8,
    /// First source (0 when there is none).
    pub(super) src: u8,
    pub(super) rm: Rm,
    /// Mask register, 0 for none.
    pub(super) mask: u8,
    /// Lanes that the mask leaves out become zero.
    pub(super) zero: bool,
    /// Vector length: 0, 1, 2 for 128, 256, 512 bits.
    pub(super) length: u8,
    /// Bytes of a memory operand.
    pub(super) bytes: i32,
    pub(super) imm: Option<u8>,
}

impl Vex {
    /// A 512-bit instruction without a mask.
    pub(super) fn new(enc: Enc, reg: u8, src: u8, rm: Rm) -> Vex {
        Vex { enc, reg, src, rm, mask: 0, zero: false, length: 2, bytes: 64, imm: None }
    }
}

/// A place in the code to jump to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

/// Conditions of a jump.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cond {
    Below = 2,
    Equal = 4,
    NotEqual = 5,
}

/// What a displacement into the pool names.
#[derive(Clone, Copy, Debug)]
enum Pooled {
    Const(usize),
    Iota,
}

/// Machine code that is being written.
#[derive(Debug, Default)]
pub(super) struct Asm {
    code: Vec<u8>,
    labels: Vec<usize>,
    jumps: Vec<(usize, Label)>,
    pool: Vec<u32>,
    /// Position of a displacement, bytes of the instruction behind it, and what it names.
    pooled: Vec<(usize, u8, Pooled)>,
}

impl Asm {
    /// Appends bytes.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// Overwrites four bytes.
    pub(super) fn patch(&mut self, at: usize, value: i32) {
        self.code[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// Puts a label here.
    pub(super) fn bind(&mut self, label: Label) {
        self.labels[label.0] = self.code.len();
    }

    /// The code with jumps and pool addresses filled in.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (at, label) in std::mem::take(&mut self.jumps) {
            let distance = self.labels[label.0] as i64 - (at as i64 + 4);
            self.patch(at, distance as i32);
        }
        let iota = self.code.len().next_multiple_of(64);
        let constants = iota + 64;
        for (at, behind, what) in std::mem::take(&mut self.pooled) {
            let target = match what {
                Pooled::Iota => iota,
                Pooled::Const(i) => constants + 4 * i,
            };
            let distance = target as i64 - (at as i64 + 4 + i64::from(behind));
            self.patch(at, distance as i32);
        }
        self.code.resize(iota, 0xcc);
        (0..16u32).for_each(|i| self.code.extend_from_slice(&i.to_le_bytes()));
        self.pool.iter().for_each(|c| self.code.extend_from_slice(&c.to_le_bytes()));
        self.code
    }

    /// ModRM, SIB and displacement. `unit`: what an 8-bit displacement counts in. `behind`: bytes of the instruction after them.
    fn operand(&mut self, reg: u8, rm: Rm, unit: i32, behind: u8) {
        let reg = (reg & 7) << 3;
        let what = match rm {
            Rm::Reg(r) => return self.code.push(0xc0 | reg | (r & 7)),
            Rm::Mem(m) | Rm::Each(m) => return self.address(reg, m, unit),
            Rm::Iota => Pooled::Iota,
            Rm::Const(bits) => Pooled::Const(self.pool.iter().position(|c| *c == bits).unwrap_or_else(|| {
                self.pool.push(bits);
                self.pool.len() - 1
            })),
        };
        self.code.push(reg | 5);
        self.pooled.push((self.code.len(), behind, what));
        self.code.extend_from_slice(&[0; 4]);
    }

    fn address(&mut self, reg: u8, m: Mem, unit: i32) {
        let short = i8::try_from(m.disp / unit).ok().filter(|_| m.disp % unit == 0);
        let mode = match short {
            Some(0) if m.base & 7 != 5 => 0,
            Some(_) => 0x40,
            None => 0x80,
        };
        match m.index {
            None if m.base & 7 != 4 => self.code.push(mode | reg | (m.base & 7)),
            index => {
                self.code.push(mode | reg | 4);
                self.code.push((m.scale << 6) | ((index.unwrap_or(RSP) & 7) << 3) | (m.base & 7));
            }
        }
        match (mode, short) {
            (0, _) => {}
            (0x40, Some(d)) => self.code.push(d as u8),
            _ => self.code.extend_from_slice(&m.disp.to_le_bytes()),
        }
    }

    /// Whether the operand has bit 3 of its index and of its base set; a vector register has its bits 4 and 3 there.
    fn extension(rm: Rm) -> (bool, bool) {
        match rm {
            Rm::Reg(r) => (r & 16 != 0, r & 8 != 0),
            Rm::Mem(m) | Rm::Each(m) => (m.index.is_some_and(|i| i & 8 != 0), m.base & 8 != 0),
            Rm::Const(_) | Rm::Iota => (false, false),
        }
    }

    /// An EVEX instruction.
    pub(super) fn vector(&mut self, v: Vex) {
        let (x, b) = Self::extension(v.rm);
        let each = matches!(v.rm, Rm::Each(_) | Rm::Const(_)) && v.bytes == 64;
        let bit = |on: bool, at: u8| u8::from(on) << at;
        self.code.push(0x62);
        self.code.push(bit(v.reg & 8 == 0, 7) | bit(!x, 6) | bit(!b, 5) | bit(v.reg & 16 == 0, 4) | v.enc.map);
        self.code.push(bit(v.enc.w, 7) | ((!v.src & 15) << 3) | 4 | v.enc.pp);
        self.code.push(bit(v.zero, 7) | (v.length << 5) | bit(each, 4) | bit(v.src & 16 == 0, 3) | v.mask);
        self.code.push(v.enc.op);
        self.operand(v.reg, v.rm, if each { 4 } else { v.bytes }, u8::from(v.imm.is_some()));
        self.code.extend(v.imm);
    }

    /// A mask instruction (VEX, 16 lanes): `reg = src op rm`.
    pub(super) fn mask(&mut self, op: u8, two: bool, reg: u8, src: u8, rm: Rm) {
        let (x, b) = Self::extension(rm);
        let bit = |on: bool, at: u8| u8::from(on) << at;
        self.code.extend_from_slice(&[0xc4, bit(reg & 8 == 0, 7) | bit(!x, 6) | bit(!b, 5) | 1, ((!src & 15) << 3) | bit(two, 2), op]);
        self.operand(reg, rm, 1, 0);
    }

    /// A plain instruction with a REX prefix.
    pub(super) fn plain(&mut self, wide: bool, op: &[u8], reg: u8, rm: Rm) {
        let (x, b) = Self::extension(rm);
        let rex = 0x40 | (u8::from(wide) << 3) | (u8::from(reg & 8 != 0) << 2) | (u8::from(x) << 1) | u8::from(b);
        self.code.push(rex);
        self.code.extend_from_slice(op);
        self.operand(reg, rm, 1, 0);
    }

    /// `to = [from]`, 64 bits.
    pub(super) fn load(&mut self, to: Gpr, from: Mem) {
        self.plain(true, &[0x8b], to, Rm::Mem(from));
    }

    /// `[to] = from`, 64 bits.
    pub(super) fn store(&mut self, to: Mem, from: Gpr) {
        self.plain(true, &[0x89], from, Rm::Mem(to));
    }

    /// `to = from`.
    pub(super) fn copy(&mut self, to: Gpr, from: Gpr) {
        self.plain(true, &[0x8b], to, Rm::Reg(from));
    }

    /// `to += [from]`.
    pub(super) fn add_from(&mut self, to: Gpr, from: Mem) {
        self.plain(true, &[0x03], to, Rm::Mem(from));
    }

    /// `[to] += from`.
    pub(super) fn add_to(&mut self, to: Mem, from: Gpr) {
        self.plain(true, &[0x01], from, Rm::Mem(to));
    }

    /// `to += value`; returns where the value is in the code.
    pub(super) fn add(&mut self, to: Gpr, value: i32) -> usize {
        self.plain(true, &[0x81], 0, Rm::Reg(to));
        self.code.extend_from_slice(&value.to_le_bytes());
        self.code.len() - 4
    }

    /// Compares two registers.
    pub(super) fn compare(&mut self, a: Gpr, b: Gpr) {
        self.plain(true, &[0x3b], a, Rm::Reg(b));
    }

    pub(super) fn jump_if(&mut self, cond: Cond, label: Label) {
        self.code.extend_from_slice(&[0x0f, 0x80 | cond as u8]);
        self.jumps.push((self.code.len(), label));
        self.code.extend_from_slice(&[0; 4]);
    }

    pub(super) fn push(&mut self, r: Gpr) {
        self.code.extend_from_slice(&[0x40 | (r >> 3), 0x50 | (r & 7)]);
    }

    pub(super) fn pop(&mut self, r: Gpr) {
        self.code.extend_from_slice(&[0x40 | (r >> 3), 0x58 | (r & 7)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(f: impl FnOnce(&mut Asm)) -> String {
        let mut a = Asm::default();
        f(&mut a);
        a.code.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn encodings_are_those_of_the_manual() {
        let add = enc(1, 0, 0x58);
        let r9 = |disp| Mem { base: 9, index: Some(RCX), scale: 2, disp };
        let check = |want: &str, f: &dyn Fn(&mut Asm)| assert_eq!(bytes(f), want);
        // vaddps zmm1, zmm2, zmm3
        check("62f16c4858cb", &|a| a.vector(Vex::new(add, 1, 2, Rm::Reg(3))));
        // vaddps zmm17, zmm26, zmm31
        check("6281244058cf", &|a| a.vector(Vex::new(add, 17, 27, Rm::Reg(31))));
        // vaddps zmm1, zmm2, [r9 + rcx*4 + 128]
        check("62d16c48584c8902", &|a| a.vector(Vex::new(add, 1, 2, Rm::Mem(r9(128)))));
        // vaddps zmm1, zmm2, [r9 + rcx*4 + 100]
        check("62d16c48588c8964000000", &|a| a.vector(Vex::new(add, 1, 2, Rm::Mem(r9(100)))));
        // vmulps zmm9, zmm8, dword [rsp + 12]{1to16}
        check("62713c58594c2403", &|a| a.vector(Vex::new(enc(1, 0, 0x59), 9, 8, Rm::Each(at(RSP, 12)))));
        // vmovups zmm3{k7}{z}, [r13]
        check("62d17ccf105d00", &|a| {
            a.vector(Vex { mask: 7, zero: true, ..Vex::new(enc(1, 0, 0x10), 3, 0, Rm::Mem(at(13, 0))) });
        });
        // vcmpps k2, zmm1, zmm20, 17
        check("62b17448c2d411", &|a| a.vector(Vex { imm: Some(17), ..Vex::new(enc(1, 0, 0xc2), 2, 1, Rm::Reg(20)) }));
        // vpmovdw [r8 + 32], zmm6
        check("62d27e48337001", &|a| a.vector(Vex { bytes: 32, ..Vex::new(enc(2, 2, 0x33), 6, 0, Rm::Mem(at(8, 32))) }));
        // vpsrad zmm5, zmm21, 1
        check("62b1554872e501", &|a| a.vector(Vex { imm: Some(1), ..Vex::new(enc(1, 1, 0x72), 4, 5, Rm::Reg(21)) }));
        // kandw k1, k2, k3
        check("c4e16c41cb", &|a| a.mask(0x41, true, 1, 2, Rm::Reg(3)));
        // kmovw k7, word [rdi + 18]
        check("c4e178907f12", &|a| a.mask(0x90, false, 7, 0, Rm::Mem(at(RDI, 18))));
        // mov r12, [rdi + 40]; add [rdi + 40], rax; cmp rcx, rdx; push r15; pop rbx
        check("4c8b6728", &|a| a.load(12, at(RDI, 40)));
        check("48014728", &|a| a.add_to(at(RDI, 40), RAX));
        check("483bca", &|a| a.compare(RCX, RDX));
        check("4157405b", &|a| {
            a.push(15);
            a.pop(3);
        });
    }

    #[test]
    fn jumps_and_constants_are_relative() {
        let mut a = Asm::default();
        let top = a.label();
        a.bind(top);
        a.vector(Vex::new(enc(1, 0, 0x58), 0, 0, Rm::Const(0x3f80_0000)));
        a.vector(Vex { imm: Some(1), ..Vex::new(enc(3, 1, 0x50), 0, 0, Rm::Const(0x3f80_0000)) });
        a.jump_if(Cond::Below, top);
        let code = a.finish();
        assert_eq!(code.len(), 64 + 64 + 4);
        let at = |i: usize| i32::from_le_bytes(code[i..i + 4].try_into().unwrap());
        assert_eq!((at(6), at(16), at(23)), (128 - 10, 128 - 21, -27));
        assert_eq!(&code[128..], 1f32.to_le_bytes());
    }
}
