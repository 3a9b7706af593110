//! Instructions of fused programs as vector code.

use super::block::{Block, Class, Op, Place, Src};
use super::functions::{self as f, Is, Kind};
use girih_ir::fused::Expr;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::DType;

/// How a type is computed with; `None` for types that are not compiled, and for `bool`, which is a mask.
pub(super) fn kind(dtype: DType) -> Option<Kind> {
    match dtype {
        DType::F32 | DType::BF16 | DType::F16 => Some(Kind::Float),
        DType::I32 => Some(Kind::Signed),
        DType::U32 => Some(Kind::Unsigned),
        _ => None,
    }
}

/// Whether values of the type are compiled.
pub(super) fn compiled(dtype: DType) -> bool {
    dtype == DType::Bool || kind(dtype).is_some()
}

/// Registers of the class that holds the type.
pub(super) fn class(dtype: DType) -> Class {
    if dtype == DType::Bool { Class::Mask } else { Class::Lanes }
}

fn rounded(b: &mut Block, dtype: DType, x: Src) -> Src {
    match dtype {
        DType::BF16 => b.round_bf16(x),
        DType::F16 => b.round_f16(x),
        _ => x,
    }
}

/// Rounds the result of a reduction to its type.
pub(super) fn settle(b: &mut Block, dtype: DType, x: Src) -> Src {
    rounded(b, dtype, x)
}

/// The value of an instruction that computes from `args`, whose type is `from`. `None` when it is not compiled.
pub(super) fn compute(b: &mut Block, expr: Expr, dtype: DType, from: DType, args: &[Src]) -> Option<Src> {
    if !compiled(dtype) || !compiled(from) {
        return None;
    }
    match expr {
        Expr::Unary(f, _) => unary(b, f, dtype, from, args[0]),
        Expr::Binary(f, ..) if dtype == DType::Bool => Some(masks(b, f, args[0], args[1])),
        Expr::Binary(f, ..) => binary(b, f, dtype, args[0], args[1]),
        Expr::Compare(f, ..) => Some(compare(b, f, from, args[0], args[1])),
        Expr::Select(..) if dtype == DType::Bool => {
            let yes = masks_op(b, 0x41, args[0], args[1]);
            let no = masks_op(b, 0x42, args[0], args[2]);
            Some(masks_op(b, 0x45, yes, no))
        }
        Expr::Select(..) => Some(b.choose(args[0], args[1], args[2])),
        Expr::Convert(..) => convert(b, from, dtype, args[0]),
        // Values of four bytes are their bits.
        Expr::Bitcast(..) if dtype.size() == 4 && from.size() == 4 => Some(args[0]),
        Expr::Bitcast(..) if dtype == from => Some(args[0]),
        _ => None,
    }
}

fn unary(b: &mut Block, f: UnaryFn, dtype: DType, from: DType, x: Src) -> Option<Src> {
    let Some(kind) = kind(from) else { return (f == UnaryFn::Not).then(|| b.invert(x)) };
    if kind == Kind::Float {
        // What only changes the sign needs no rounding.
        match f {
            UnaryFn::Neg => return Some(b.negate(x)),
            UnaryFn::Abs => return Some(b.abs(x)),
            UnaryFn::IsFinite => {
                let a = b.abs(x);
                return Some(b.compare(Is::Less, a, f::float(f32::INFINITY)));
            }
            UnaryFn::IsInf => {
                let a = b.abs(x);
                return Some(b.compare(Is::Equal, a, f::float(f32::INFINITY)));
            }
            UnaryFn::IsNan => return Some(b.compare(Is::Unordered, x, x)),
            _ => {}
        }
        let y = match f {
            UnaryFn::Sign => b.sign(x),
            UnaryFn::Floor => b.round(1, x),
            UnaryFn::Ceil => b.round(2, x),
            UnaryFn::RoundEven => b.round(0, x),
            UnaryFn::RoundAway => b.round_away(x),
            UnaryFn::Sqrt => b.one(f::SQRT, x),
            UnaryFn::Rsqrt => {
                let root = b.one(f::SQRT, x);
                b.two(f::DIV, f::float(1.0), root)
            }
            UnaryFn::Exp => b.exp(x),
            UnaryFn::Log => b.log(x),
            UnaryFn::Tanh => b.tanh(x),
            UnaryFn::Logistic => b.logistic(x),
            UnaryFn::Erf => b.erf(x),
            _ => return None,
        };
        return Some(rounded(b, dtype, y));
    }
    Some(match f {
        UnaryFn::Neg => b.two(f::SUB_INT, Src::Const(0), x),
        UnaryFn::Abs if kind == Kind::Signed => b.one(f::ABS_INT, x),
        UnaryFn::Abs => x,
        UnaryFn::Sign if kind == Kind::Signed => {
            let low = b.two(f::MAX_SIGNED, x, Src::Const(u32::MAX));
            b.two(f::MIN_SIGNED, low, Src::Const(1))
        }
        UnaryFn::Sign => b.two(f::MIN_UNSIGNED, x, Src::Const(1)),
        UnaryFn::Not => b.two(f::XOR, x, Src::Const(u32::MAX)),
        _ => return None,
    })
}

fn binary(b: &mut Block, f: BinaryFn, dtype: DType, x: Src, y: Src) -> Option<Src> {
    let kind = kind(dtype)?;
    if kind == Kind::Float {
        let op = match f {
            BinaryFn::Add => f::ADD,
            BinaryFn::Sub => f::SUB,
            BinaryFn::Mul => f::MUL,
            BinaryFn::Div => f::DIV,
            BinaryFn::Max => return Some(b.extreme(true, x, y)),
            BinaryFn::Min => return Some(b.extreme(false, x, y)),
            _ => return None,
        };
        let r = b.two(op, x, y);
        return Some(if dtype == DType::BF16 { b.round_result(r) } else { rounded(b, dtype, r) });
    }
    let monoid = match f {
        BinaryFn::Add => Monoid::Sum,
        BinaryFn::Mul => Monoid::Prod,
        BinaryFn::Max => Monoid::Max,
        BinaryFn::Min => Monoid::Min,
        BinaryFn::And => Monoid::And,
        BinaryFn::Or => Monoid::Or,
        BinaryFn::Xor => Monoid::Xor,
        // Shifts by 32 or more give 0, or the sign everywhere, as the instructions do.
        BinaryFn::Shl => return Some(b.two(f::SHL, x, y)),
        BinaryFn::ShrLogical => return Some(b.two(f::SHR, x, y)),
        BinaryFn::ShrArith => return Some(b.two(f::SAR, x, y)),
        BinaryFn::Sub => return Some(b.two(f::SUB_INT, x, y)),
        _ => return None,
    };
    b.combine(monoid, kind, x, y)
}

fn masks_op(b: &mut Block, op: u8, x: Src, y: Src) -> Src {
    b.make(Op::Masks(op), Class::Mask, &[x, y], None)
}

fn masks(b: &mut Block, f: BinaryFn, x: Src, y: Src) -> Src {
    let op = match f {
        BinaryFn::Add | BinaryFn::Max | BinaryFn::Or => 0x45,
        BinaryFn::Xor => 0x47,
        _ => 0x41,
    };
    masks_op(b, op, x, y)
}

fn compare(b: &mut Block, f: CompareFn, from: DType, x: Src, y: Src) -> Src {
    let Some(kind) = kind(from) else {
        // On masks, `a < b` is `¬a ∧ b`.
        return match f {
            CompareFn::Eq => masks_op(b, 0x46, x, y),
            CompareFn::Ne => masks_op(b, 0x47, x, y),
            CompareFn::Lt => masks_op(b, 0x42, x, y),
            CompareFn::Gt => masks_op(b, 0x42, y, x),
            CompareFn::Le => {
                let more = masks_op(b, 0x42, y, x);
                b.invert(more)
            }
            CompareFn::Ge => {
                let less = masks_op(b, 0x42, x, y);
                b.invert(less)
            }
        };
    };
    if kind == Kind::Float {
        let is = match f {
            CompareFn::Eq => Is::Equal,
            CompareFn::Ne => Is::NotEqual,
            CompareFn::Lt => Is::Less,
            CompareFn::Le => Is::AtMost,
            CompareFn::Gt => Is::More,
            CompareFn::Ge => Is::AtLeast,
        };
        return b.compare(is, x, y);
    }
    let imm = match f {
        CompareFn::Eq => 0,
        CompareFn::Lt => 1,
        CompareFn::Le => 2,
        CompareFn::Ne => 4,
        CompareFn::Ge => 5,
        CompareFn::Gt => 6,
    };
    let enc = super::asm::enc(3, 1, if kind == Kind::Unsigned { 0x1e } else { 0x1f });
    b.make(Op::Compare { enc, imm }, Class::Mask, &[x, y], None)
}

fn convert(b: &mut Block, from: DType, to: DType, x: Src) -> Option<Src> {
    let one = match kind(to) {
        Some(Kind::Float) => f::float(1.0),
        _ => Src::Const(1),
    };
    Some(match (kind(from), kind(to)) {
        (None, None) => x,
        (None, Some(_)) => b.keep(x, one),
        (Some(Kind::Float), None) => b.compare(Is::NotEqual, x, Src::Const(0)),
        (Some(_), None) => b.make(Op::Test { bytes: false }, Class::Mask, &[x], None),
        (Some(Kind::Float), Some(Kind::Float)) => rounded(b, to, x),
        (Some(Kind::Float), Some(Kind::Signed)) => b.signed(x),
        (Some(Kind::Float), Some(Kind::Unsigned)) => b.unsigned(x),
        // Rounding to 16 bits by way of f32 would round twice.
        (Some(_), Some(Kind::Float)) if to != DType::F32 => return None,
        (Some(kind), Some(Kind::Float)) => b.floats(kind, x),
        (Some(_), Some(_)) => x,
    })
}

/// Elements of an operand.
pub(super) fn load(b: &mut Block, dtype: DType, place: Place) -> Src {
    let x = b.make(Op::Load(dtype, place), Class::Lanes, &[], None);
    if dtype == DType::Bool { b.make(Op::Test { bytes: true }, Class::Mask, &[x], None) } else { x }
}

/// The index along a dimension.
pub(super) fn index(b: &mut Block, dtype: DType, op: Op) -> Option<Src> {
    let n = b.make(op, Class::Lanes, &[], None);
    match dtype {
        DType::I32 | DType::U32 => Some(n),
        DType::F32 => Some(b.floats(Kind::Signed, n)),
        _ => None,
    }
}

/// Writes elements.
pub(super) fn store(b: &mut Block, dtype: DType, place: Place, x: Src) {
    let x = match dtype {
        DType::Bool => b.make(Op::ToBytes, Class::Lanes, &[x], None),
        DType::BF16 => b.shift(2, x, 16),
        _ => x,
    };
    b.put(Op::Store(dtype, place), super::block::Dst::None, &[x], None);
}

/// Writes one element.
pub(super) fn store_one(b: &mut Block, dtype: DType, place: Place, x: Src) {
    let x = match dtype {
        DType::BF16 => b.shift(2, x, 16),
        DType::F16 => b.one(Op::Halves, x),
        _ => x,
    };
    b.put(Op::StoreOne(dtype, place), super::block::Dst::None, &[x], None);
}
