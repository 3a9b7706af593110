//! The elementary functions as vector code.
//!
//! Each is the sequence of operations that [`crate::map::math`] has, in the same order and with the same constants, so that compiled and
//! interpreted programs give the same bits.
//! The one difference is `2ⁿ · p` in `exp`, which `vscalefps` rounds once, as the two exact-then-rounded multiplications there do.

use super::asm::{Enc, enc};
use super::block::{Block, Class, Op, Src};
use girih_ir::scalar::Monoid;

pub(super) const ADD: Op = two(enc(1, 0, 0x58), true);
pub(super) const SUB: Op = two(enc(1, 0, 0x5c), false);
pub(super) const MUL: Op = two(enc(1, 0, 0x59), true);
pub(super) const DIV: Op = two(enc(1, 0, 0x5e), false);
/// `a < b ? a : b`.
const LESS: Op = two(enc(1, 0, 0x5d), false);
/// `a > b ? a : b`.
pub(super) const MORE: Op = two(enc(1, 0, 0x5f), false);
const SCALE: Op = two(enc(2, 1, 0x2c), false);
const RANGE: Enc = enc(3, 1, 0x50);
pub(super) const ADD_INT: Op = two(enc(1, 1, 0xfe), true);
pub(super) const SUB_INT: Op = two(enc(1, 1, 0xfa), false);
pub(super) const MUL_INT: Op = two(enc(2, 1, 0x40), true);
pub(super) const MIN_SIGNED: Op = two(enc(2, 1, 0x39), true);
pub(super) const MAX_SIGNED: Op = two(enc(2, 1, 0x3d), true);
pub(super) const MIN_UNSIGNED: Op = two(enc(2, 1, 0x3b), true);
pub(super) const MAX_UNSIGNED: Op = two(enc(2, 1, 0x3f), true);
pub(super) const AND: Op = two(enc(1, 1, 0xdb), true);
pub(super) const OR: Op = two(enc(1, 1, 0xeb), true);
pub(super) const XOR: Op = two(enc(1, 1, 0xef), true);
pub(super) const SHL: Op = two(enc(2, 1, 0x47), false);
pub(super) const SHR: Op = two(enc(2, 1, 0x45), false);
pub(super) const SAR: Op = two(enc(2, 1, 0x46), false);
pub(super) const SQRT: Op = Op::One { enc: enc(1, 0, 0x51), imm: None };
pub(super) const COPY: Op = Op::One { enc: enc(1, 0, 0x28), imm: None };
pub(super) const ABS_INT: Op = Op::One { enc: enc(2, 1, 0x1e), imm: None };
const TO_FLOAT: Op = Op::One { enc: enc(1, 0, 0x5b), imm: None };
const UNSIGNED_TO_FLOAT: Op = Op::One { enc: enc(1, 3, 0x7a), imm: None };
const TO_INT: Op = Op::One { enc: enc(1, 2, 0x5b), imm: None };
const TO_UNSIGNED: Op = Op::One { enc: enc(1, 0, 0x78), imm: None };
/// Compares floats.
const FLOATS: Enc = enc(1, 0, 0xc2);

/// Quiet predicates of a float comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Is {
    Equal = 0,
    Unordered = 3,
    NotEqual = 4,
    DifferentNumbers = 12,
    Less = 17,
    AtMost = 18,
    AtLeast = 29,
    More = 30,
    NotMore = 26,
}

const fn two(enc: Enc, commutes: bool) -> Op {
    Op::Two { enc, imm: None, commutes }
}

pub(super) fn float(v: f32) -> Src {
    Src::Const(v.to_bits())
}

const SIGN: Src = Src::Const(0x8000_0000);
const MAGNITUDE: Src = Src::Const(0x7fff_ffff);
/// 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;

impl Block {
    pub(super) fn two(&mut self, op: Op, a: Src, b: Src) -> Src {
        self.make(op, Class::Lanes, &[a, b], None)
    }

    pub(super) fn one(&mut self, op: Op, a: Src) -> Src {
        self.make(op, Class::Lanes, &[a], None)
    }

    /// `a · b + c`, rounded once.
    fn fma(&mut self, a: Src, b: Src, c: Src) -> Src {
        self.make(Op::Fma { negate: false }, Class::Lanes, &[a, b, c], None)
    }

    /// `c − a · b`, rounded once.
    fn fnma(&mut self, a: Src, b: Src, c: Src) -> Src {
        self.make(Op::Fma { negate: true }, Class::Lanes, &[a, b, c], None)
    }

    pub(super) fn shift(&mut self, kind: u8, a: Src, by: u8) -> Src {
        self.one(Op::Shift { kind, by }, a)
    }

    pub(super) fn compare(&mut self, is: Is, a: Src, b: Src) -> Src {
        self.make(Op::Compare { enc: FLOATS, imm: is as u8 }, Class::Mask, &[a, b], None)
    }

    /// `mask ? yes : no`.
    pub(super) fn choose(&mut self, mask: Src, yes: Src, no: Src) -> Src {
        if no == Src::Const(0) { self.keep(mask, yes) } else { self.make(Op::Blend, Class::Lanes, &[no, yes], Some(mask)) }
    }

    /// `mask ? a : 0`.
    pub(super) fn keep(&mut self, mask: Src, a: Src) -> Src {
        self.make(Op::Keep, Class::Lanes, &[a], Some(mask))
    }

    pub(super) fn invert(&mut self, mask: Src) -> Src {
        self.make(Op::Invert, Class::Mask, &[mask], None)
    }

    pub(super) fn abs(&mut self, a: Src) -> Src {
        self.two(AND, a, MAGNITUDE)
    }

    pub(super) fn negate(&mut self, a: Src) -> Src {
        self.two(XOR, a, SIGN)
    }

    /// The magnitude of `a` with the sign of `b`.
    fn copysign(&mut self, a: Src, b: Src) -> Src {
        self.make(Op::Bits(0xd8), Class::Lanes, &[a, b, SIGN], None)
    }

    /// To an integer: 0 nearest and ties to even, 1 down, 2 up, 3 toward zero.
    pub(super) fn round(&mut self, how: u8, a: Src) -> Src {
        self.one(Op::One { enc: enc(3, 1, 0x08), imm: Some(how | 8) }, a)
    }

    /// A polynomial: coefficients from the highest power.
    fn horner(&mut self, x: Src, coefficients: &[f32]) -> Src {
        let mut p = float(coefficients[0]);
        for c in &coefficients[1..] {
            p = self.fma(p, x, float(*c));
        }
        p
    }

    /// The combiner of floats: max and min let NaN win and order −0 below +0.
    pub(super) fn extreme(&mut self, max: bool, a: Src, b: Src) -> Src {
        let r = self.two(Op::Two { enc: RANGE, imm: Some(if max { 5 } else { 4 }), commutes: true }, a, b);
        let nan = self.compare(Is::Unordered, a, b);
        self.choose(nan, float(f32::NAN), r)
    }

    /// `a ∘ b` of a monoid on floats or on integers; `None` when that is not compiled.
    pub(super) fn combine(&mut self, monoid: Monoid, kind: Kind, a: Src, b: Src) -> Option<Src> {
        match Self::plain(monoid, kind) {
            Some(op) => Some(self.two(op, a, b)),
            None if kind == Kind::Float && matches!(monoid, Monoid::Max | Monoid::Min) => Some(self.extreme(monoid == Monoid::Max, a, b)),
            None => None,
        }
    }

    /// The one instruction that combines, if there is one.
    pub(super) fn plain(monoid: Monoid, kind: Kind) -> Option<Op> {
        Some(match (monoid, kind) {
            (Monoid::Sum, Kind::Float) => ADD,
            (Monoid::Prod, Kind::Float) => MUL,
            (_, Kind::Float) => return None,
            (Monoid::Sum, _) => ADD_INT,
            (Monoid::Prod, _) => MUL_INT,
            (Monoid::Max, Kind::Signed) => MAX_SIGNED,
            (Monoid::Max, _) => MAX_UNSIGNED,
            (Monoid::Min, Kind::Signed) => MIN_SIGNED,
            (Monoid::Min, _) => MIN_UNSIGNED,
            (Monoid::And, _) => AND,
            (Monoid::Or, _) => OR,
            (Monoid::Xor, _) => XOR,
        })
    }

    pub(super) fn exp(&mut self, x: Src) -> Src {
        let y = self.two(LESS, float(89.0), x);
        let y = self.two(MORE, float(-105.0), y);
        let t = self.fma(y, float(std::f32::consts::LOG2_E), float(ROUND));
        let k = self.two(SUB, t, float(ROUND));
        let r = self.fma(k, float(-std::f32::consts::LN_2), y);
        let r = self.fma(k, float(1.904_654_3e-9), r);
        let q = self.horner(r, &[0.001_392_620_4, 0.008_363_195, 0.041_666_556, 0.166_665_76, 0.5]);
        let square = self.two(MUL, r, r);
        let p = self.fma(square, q, r);
        let p = self.two(ADD, p, float(1.0));
        self.two(SCALE, p, k)
    }

    pub(super) fn log(&mut self, x: Src) -> Src {
        let tiny = self.compare(Is::Less, x, float(f32::MIN_POSITIVE));
        let large = self.two(MUL, x, float(8_388_608.0));
        let y = self.choose(tiny, large, x);
        let bias = self.keep(tiny, float(23.0));
        let e = self.two(SUB_INT, y, Src::Const(0x3f35_04f3));
        let e = self.shift(4, e, 23);
        let scaled = self.shift(6, e, 23);
        let f = self.two(SUB_INT, y, scaled);
        let f = self.two(SUB, f, float(1.0));
        let k = self.one(TO_FLOAT, e);
        let k = self.two(SUB, k, bias);
        let g = self.horner(
            f,
            &[
                0.069_716_12,
                -0.114_797_34,
                0.116_854_2,
                -0.124_256_87,
                0.142_490_58,
                -0.166_678_03,
                0.200_007_16,
                -0.249_999_97,
                0.333_333_3,
            ],
        );
        let square = self.two(MUL, f, f);
        let cube = self.two(MUL, square, f);
        let r = self.two(MUL, cube, g);
        let r = self.fma(k, float(-2.121_944_4e-4), r);
        let r = self.fma(square, float(-0.5), r);
        let r = self.two(ADD, f, r);
        let r = self.fma(k, float(0.693_359_4), r);
        let infinite = self.compare(Is::Equal, x, float(f32::INFINITY));
        let r = self.choose(infinite, x, r);
        let outside = self.compare(Is::NotMore, x, Src::Const(0));
        let r = self.choose(outside, float(f32::NAN), r);
        let zero = self.compare(Is::Equal, x, Src::Const(0));
        self.choose(zero, float(f32::NEG_INFINITY), r)
    }

    pub(super) fn tanh(&mut self, x: Src) -> Src {
        let a = self.abs(x);
        let t = self.two(MUL, x, x);
        let g = self.horner(t, &[-0.006_045_165, 0.020_961_33, -0.053_843_264, 0.133_327_19, -0.333_333_28]);
        let xt = self.two(MUL, x, t);
        let small = self.fma(xt, g, x);
        let double = self.two(ADD, a, a);
        let e = self.exp(double);
        let d = self.two(ADD, e, float(1.0));
        let q = self.two(DIV, float(2.0), d);
        let large = self.two(SUB, float(1.0), q);
        let large = self.copysign(large, x);
        let near = self.compare(Is::Less, a, float(0.625));
        self.choose(near, small, large)
    }

    pub(super) fn logistic(&mut self, x: Src) -> Src {
        let a = self.two(OR, x, SIGN);
        let e = self.exp(a);
        let below = self.compare(Is::Less, x, Src::Const(0));
        let numerator = self.choose(below, e, float(1.0));
        let d = self.two(ADD, e, float(1.0));
        let y = self.two(DIV, numerator, d);
        let back = self.two(SUB, d, float(1.0));
        let rest = self.two(SUB, e, back);
        let lost = self.fnma(y, d, numerator);
        let lost = self.fnma(y, rest, lost);
        let other = self.two(SUB, float(1.0), y);
        let inverse = self.choose(below, other, y);
        self.fma(lost, inverse, y)
    }

    pub(super) fn erf(&mut self, x: Src) -> Src {
        let a = self.abs(x);
        let t = self.two(MUL, x, x);
        let g =
            self.horner(t, &[7.875_875e-5, -0.000_801_686_43, 0.005_189_087, -0.026_854_211, 0.112_835_944, -0.376_126_26, 0.128_379_17]);
        let small = self.fma(x, g, x);
        let far = self.compare(Is::More, a, float(4.0));
        let s = self.two(SUB, a, float(1.0));
        let s = self.choose(far, float(3.0), s);
        let p = self.horner(
            s,
            &[
                1.637_151_4e-6,
                -3.296_083e-5,
                0.000_320_239_57,
                -0.002_054_300_9,
                0.010_077_808,
                -0.041_575_74,
                -0.843_104_7,
                -2.638_967_8,
                -1.849_605_6,
            ],
        );
        let e = self.exp(p);
        let large = self.two(SUB, float(1.0), e);
        let large = self.copysign(large, x);
        let near = self.compare(Is::Less, a, float(1.0));
        self.choose(near, small, large)
    }

    pub(super) fn sign(&mut self, x: Src) -> Src {
        let one = self.copysign(float(1.0), x);
        let number = self.compare(Is::DifferentNumbers, x, Src::Const(0));
        self.choose(number, one, x)
    }

    pub(super) fn round_away(&mut self, x: Src) -> Src {
        let t = self.round(3, x);
        let rest = self.two(SUB, x, t);
        let rest = self.abs(rest);
        let half = self.compare(Is::AtLeast, rest, float(0.5));
        let one = self.copysign(float(1.0), x);
        let further = self.two(ADD, t, one);
        self.choose(half, further, t)
    }

    /// Rounds to bfloat16, ties to even; NaN stays NaN.
    pub(super) fn round_bf16(&mut self, x: Src) -> Src {
        let low = self.shift(2, x, 16);
        let low = self.two(AND, low, Src::Const(1));
        let up = self.two(ADD_INT, low, Src::Const(0x7fff));
        let rounded = self.two(ADD_INT, x, up);
        let quiet = self.two(OR, x, Src::Const(0x0040_0000));
        let nan = self.compare(Is::Unordered, x, x);
        let r = self.choose(nan, quiet, rounded);
        self.two(AND, r, Src::Const(0xffff_0000))
    }

    /// As [`round_bf16`](Self::round_bf16), for what one instruction made of operands that are bfloat16: a NaN is quiet and its low half is 0, so
    /// that adding half a unit leaves it as it is.
    pub(super) fn round_result(&mut self, x: Src) -> Src {
        let low = self.shift(2, x, 16);
        let low = self.two(AND, low, Src::Const(1));
        let up = self.two(ADD_INT, x, Src::Const(0x7fff));
        let rounded = self.two(ADD_INT, up, low);
        self.two(AND, rounded, Src::Const(0xffff_0000))
    }

    /// Rounds to binary16, ties to even.
    pub(super) fn round_f16(&mut self, x: Src) -> Src {
        let h = self.one(Op::Halves, x);
        self.one(Op::Widen, h)
    }

    /// To a signed integer, toward zero, saturating; NaN becomes 0.
    pub(super) fn signed(&mut self, x: Src) -> Src {
        let n = self.one(TO_INT, x);
        let over = self.compare(Is::AtLeast, x, float(2_147_483_648.0));
        let n = self.choose(over, Src::Const(0x7fff_ffff), n);
        let number = self.compare(Is::Equal, x, x);
        self.keep(number, n)
    }

    /// To an unsigned integer, toward zero, saturating; NaN becomes 0.
    pub(super) fn unsigned(&mut self, x: Src) -> Src {
        let x = self.two(MORE, x, Src::Const(0));
        self.one(TO_UNSIGNED, x)
    }

    pub(super) fn floats(&mut self, kind: Kind, x: Src) -> Src {
        self.one(if kind == Kind::Unsigned { UNSIGNED_TO_FLOAT } else { TO_FLOAT }, x)
    }

    /// Every lane combined with the lane `distance` further on (around): 8, 4, 2, 1.
    pub(super) fn turned(&mut self, x: Src, distance: u8) -> Src {
        match distance {
            8 => self.two(Op::Two { enc: enc(3, 1, 0x23), imm: Some(0x4e), commutes: false }, x, x),
            4 => self.two(Op::Two { enc: enc(3, 1, 0x23), imm: Some(0xb1), commutes: false }, x, x),
            2 => self.one(Op::One { enc: enc(3, 1, 0x04), imm: Some(0x4e) }, x),
            _ => self.one(Op::One { enc: enc(3, 1, 0x04), imm: Some(0xb1) }, x),
        }
    }
}

/// How 32-bit lanes are computed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Float,
    Signed,
    Unsigned,
}
