//! Scalar functions: the one table of elementwise arithmetic, shared by graph ops, fused programs, the interpreter and the kernels.
//!
//! A row is a name and its exact meaning on wide values. Floats are evaluated in f64 and rounded once; integers wrap.

use crate::float::{next_after, round_float};
use crate::special;
use crate::tensor::wrap_int;
use crate::types::{DType, NumberKind};
use serde::{Deserialize, Serialize};

/// A wide scalar: what one element of a [`Tensor`](crate::tensor::Tensor) is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wide {
    /// A float.
    F(f64),
    /// An integer or truth value; u64 by bit pattern.
    I(i64),
}

impl Wide {
    /// The float, or the integer converted.
    pub fn float(self) -> f64 {
        match self {
            Wide::F(v) => v,
            Wide::I(v) => v as f64,
        }
    }
    /// The integer, or the float truncated.
    pub fn int(self) -> i64 {
        match self {
            Wide::F(v) => v as i64,
            Wide::I(v) => v,
        }
    }
}

macro_rules! scalar_fns {
    ($(#[$meta:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum $enum { $($(#[$doc])* $variant),+ }
        impl $enum {
            /// Every function of the table, in order.
            pub const ALL: &'static [$enum] = &[$($enum::$variant),+];
            /// Every name, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];
            /// The name in the text forms.
            pub fn name(self) -> &'static str { match self { $($enum::$variant => $name),+ } }
            /// The function of that name.
            pub fn from_name(name: &str) -> Option<Self> { match name { $($name => Some($enum::$variant),)+ _ => None } }
        }
    };
}

scalar_fns! {
    /// Functions of one argument; the result has the argument's type, but for the `is_*` tests, which return `bool`.
    UnaryFn {
        /// −x
        Neg = "neg",
        /// |x|
        Abs = "abs",
        /// −1, 0 or 1; keeps −0, 0 and NaN.
        Sign = "sign",
        /// Largest integer not above x.
        Floor = "floor",
        /// Smallest integer not below x.
        Ceil = "ceil",
        /// Nearest integer, ties to even.
        RoundEven = "round_even",
        /// Nearest integer, ties away from zero.
        RoundAway = "round_away",
        /// √x
        Sqrt = "sqrt",
        /// 1/√x
        Rsqrt = "rsqrt",
        /// Cube root.
        Cbrt = "cbrt",
        /// eˣ
        Exp = "exp",
        /// eˣ − 1
        Expm1 = "expm1",
        /// Natural logarithm.
        Log = "log",
        /// ln(1 + x)
        Log1p = "log1p",
        /// sin x
        Sin = "sin",
        /// cos x
        Cos = "cos",
        /// tan x
        Tan = "tan",
        /// arcsin x
        Asin = "asin",
        /// arccos x
        Acos = "acos",
        /// arctan x
        Atan = "atan",
        /// sinh x
        Sinh = "sinh",
        /// cosh x
        Cosh = "cosh",
        /// arsinh x
        Asinh = "asinh",
        /// arcosh x
        Acosh = "acosh",
        /// artanh x
        Atanh = "atanh",
        /// tanh x
        Tanh = "tanh",
        /// 1 / (1 + e⁻ˣ)
        Logistic = "logistic",
        /// The error function.
        Erf = "erf",
        /// 1 − erf x, accurate also where it is tiny.
        Erfc = "erfc",
        /// The inverse of the error function.
        ErfInv = "erf_inv",
        /// ln |Γ(x)|
        Lgamma = "lgamma",
        /// The derivative of ln Γ(x).
        Digamma = "digamma",
        /// e^{−|x|} I₀(x), the scaled modified Bessel function of order 0.
        BesselI0e = "bessel_i0e",
        /// e^{−|x|} I₁(x), the scaled modified Bessel function of order 1.
        BesselI1e = "bessel_i1e",
        /// Bitwise complement; logical negation on `bool`.
        Not = "not",
        /// Number of one bits.
        Popcnt = "popcnt",
        /// Number of leading zero bits.
        Clz = "clz",
        /// Neither infinite nor NaN.
        IsFinite = "is_finite",
        /// Not a number.
        IsNan = "is_nan",
        /// Positive or negative infinity.
        IsInf = "is_inf",
    }
}

scalar_fns! {
    /// Functions of two arguments of one type; the result has that type.
    BinaryFn {
        /// a + b; logical or on `bool`.
        Add = "add",
        /// a − b
        Sub = "sub",
        /// a · b; logical and on `bool`.
        Mul = "mul",
        /// a / b; integers truncate toward zero, x / 0 is −1 (all ones).
        Div = "div",
        /// Remainder with the sign of a; x rem 0 is x.
        Rem = "rem",
        /// aᵇ
        Pow = "pow",
        /// The larger; NaN wins.
        Max = "max",
        /// The smaller; NaN wins.
        Min = "min",
        /// The angle of the point (b, a).
        Atan2 = "atan2",
        /// Bitwise and.
        And = "and",
        /// Bitwise or.
        Or = "or",
        /// Bitwise exclusive or.
        Xor = "xor",
        /// Shift left; 0 when the amount is the width or more.
        Shl = "shl",
        /// Arithmetic shift right; the sign when the amount is the width or more.
        ShrArith = "shr_arith",
        /// Logical shift right; 0 when the amount is the width or more.
        ShrLogical = "shr_logical",
        /// The upper half of the product of two integers.
        MulHi = "mul_hi",
        /// The neighbor of a, in its type, in the direction of b.
        NextAfter = "next_after",
        /// Hurwitz's zeta function Σ (b + n)⁻ᵃ.
        Zeta = "zeta",
    }
}

scalar_fns! {
    /// Comparisons; the result is `bool`. Any comparison with NaN is false but `ne`.
    CompareFn {
        /// a = b
        Eq = "eq",
        /// a ≠ b
        Ne = "ne",
        /// a < b
        Lt = "lt",
        /// a ≤ b
        Le = "le",
        /// a > b
        Gt = "gt",
        /// a ≥ b
        Ge = "ge",
    }
}

scalar_fns! {
    /// Associative combiners with a neutral element.
    Monoid {
        /// Sum; logical or on `bool`.
        Sum = "sum",
        /// Product; logical and on `bool`.
        Prod = "prod",
        /// Largest; NaN wins.
        Max = "max",
        /// Smallest; NaN wins.
        Min = "min",
        /// Bitwise and.
        And = "and",
        /// Bitwise or.
        Or = "or",
        /// Bitwise exclusive or.
        Xor = "xor",
    }
}

impl UnaryFn {
    /// The result type for an argument of this type, or `None` when the function is not defined on it.
    pub fn result(self, arg: DType) -> Option<DType> {
        use UnaryFn::*;
        match self {
            IsFinite | IsNan | IsInf => arg.is_float().then_some(DType::Bool),
            Neg | Abs | Sign => (arg != DType::Bool).then_some(arg),
            Not => (!arg.is_float()).then_some(arg),
            Popcnt | Clz => arg.is_int().then_some(arg),
            _ => arg.is_float().then_some(arg),
        }
    }

    /// The exact function, rounded or wrapped to the result type.
    pub fn eval(self, dtype: DType, x: Wide) -> Wide {
        use UnaryFn::*;
        match x {
            Wide::F(x) => {
                let v = match self {
                    IsFinite => return Wide::I(i64::from(x.is_finite())),
                    IsNan => return Wide::I(i64::from(x.is_nan())),
                    IsInf => return Wide::I(i64::from(x.is_infinite())),
                    Neg => -x,
                    Abs => x.abs(),
                    Sign if x == 0.0 || x.is_nan() => x,
                    Sign => x.signum(),
                    Floor => x.floor(),
                    Ceil => x.ceil(),
                    RoundEven => x.round_ties_even(),
                    RoundAway => x.round(),
                    Sqrt => x.sqrt(),
                    Rsqrt => 1.0 / x.sqrt(),
                    Cbrt => x.cbrt(),
                    Exp => x.exp(),
                    Expm1 => x.exp_m1(),
                    Log => x.ln(),
                    Log1p => x.ln_1p(),
                    Sin => x.sin(),
                    Cos => x.cos(),
                    Tan => x.tan(),
                    Asin => x.asin(),
                    Acos => x.acos(),
                    Atan => x.atan(),
                    Sinh => x.sinh(),
                    Cosh => x.cosh(),
                    Asinh => x.asinh(),
                    Acosh => x.acosh(),
                    Atanh => x.atanh(),
                    Tanh => x.tanh(),
                    Logistic => 1.0 / (1.0 + (-x).exp()),
                    Erf => special::erf(x),
                    Erfc => special::erfc(x),
                    ErfInv => special::erf_inv(x),
                    Lgamma => special::lgamma(x),
                    Digamma => special::digamma(x),
                    BesselI0e => special::bessel_i0e(x),
                    BesselI1e => special::bessel_i1e(x),
                    Not | Popcnt | Clz => f64::NAN,
                };
                Wide::F(round_float(dtype, v))
            }
            Wide::I(x) => {
                let bits = dtype.size() as u32 * 8;
                let mask = if bits == 64 { u64::MAX } else { (1u64 << bits) - 1 };
                let v = match self {
                    Neg => x.wrapping_neg(),
                    Abs if dtype.kind() == NumberKind::Signed => x.wrapping_abs(),
                    Sign if dtype.kind() == NumberKind::Signed => x.signum(),
                    Sign => i64::from(x != 0),
                    Not if dtype == DType::Bool => i64::from(x == 0),
                    Not => !x,
                    Popcnt => (x as u64 & mask).count_ones() as i64,
                    Clz => ((x as u64 & mask).leading_zeros() - (64 - bits)) as i64,
                    _ => x,
                };
                Wide::I(wrap_int(dtype, v))
            }
        }
    }
}

impl BinaryFn {
    /// The result type for arguments of this type, or `None` when the function is not defined on it.
    pub fn result(self, arg: DType) -> Option<DType> {
        use BinaryFn::*;
        match self {
            And | Or | Xor => (!arg.is_float()).then_some(arg),
            Shl | ShrArith | ShrLogical | MulHi => arg.is_int().then_some(arg),
            Atan2 | NextAfter | Zeta => arg.is_float().then_some(arg),
            Sub | Div | Rem | Pow => (arg != DType::Bool).then_some(arg),
            Add | Mul | Max | Min => Some(arg),
        }
    }

    /// Whether `f(a, b) = f(b, a)`.
    pub fn is_commutative(self) -> bool {
        use BinaryFn::*;
        matches!(self, Add | Mul | Max | Min | And | Or | Xor | MulHi)
    }

    /// The exact function, rounded or wrapped to the type.
    pub fn eval(self, dtype: DType, a: Wide, b: Wide) -> Wide {
        match (a, b) {
            (Wide::F(a), Wide::F(b)) if self == BinaryFn::NextAfter => Wide::F(next_after(dtype, a, b)),
            (Wide::F(a), Wide::F(b)) => Wide::F(round_float(dtype, self.eval_float(a, b))),
            (a, b) => Wide::I(wrap_int(dtype, self.eval_int(dtype, a.int(), b.int()))),
        }
    }

    fn eval_float(self, a: f64, b: f64) -> f64 {
        use BinaryFn::*;
        match self {
            Add => a + b,
            Sub => a - b,
            Mul => a * b,
            Div => a / b,
            Rem => a % b,
            Pow => a.powf(b),
            Max if a.is_nan() || b.is_nan() => f64::NAN,
            Max if a == b => {
                if a.is_sign_negative() {
                    b
                } else {
                    a
                }
            }
            Max => a.max(b),
            Min if a.is_nan() || b.is_nan() => f64::NAN,
            Min if a == b => {
                if a.is_sign_negative() {
                    a
                } else {
                    b
                }
            }
            Min => a.min(b),
            Atan2 => a.atan2(b),
            Zeta => special::zeta(a, b),
            NextAfter => next_after(DType::F64, a, b),
            And | Or | Xor | Shl | ShrArith | ShrLogical | MulHi => f64::NAN,
        }
    }

    fn eval_int(self, dtype: DType, a: i64, b: i64) -> i64 {
        use BinaryFn::*;
        let unsigned = dtype.kind() != NumberKind::Signed;
        let bits = dtype.size() as u64 * 8;
        let mask = if bits == 64 { u64::MAX } else { (1u64 << bits) - 1 };
        let over = (b as u64 & mask) >= bits;
        match self {
            Add if dtype == DType::Bool => a | b,
            Mul if dtype == DType::Bool => a & b,
            Add => a.wrapping_add(b),
            Sub => a.wrapping_sub(b),
            Mul => a.wrapping_mul(b),
            Div if b == 0 => -1,
            Div if unsigned => (a as u64 / b as u64) as i64,
            Div => a.wrapping_div(b),
            Rem if b == 0 => a,
            Rem if unsigned => (a as u64 % b as u64) as i64,
            Rem => a.wrapping_rem(b),
            Pow => int_pow(a, b, unsigned),
            Max if unsigned => (a as u64).max(b as u64) as i64,
            Max => a.max(b),
            Min if unsigned => (a as u64).min(b as u64) as i64,
            Min => a.min(b),
            And => a & b,
            Or => a | b,
            Xor => a ^ b,
            Shl if over => 0,
            Shl => a.wrapping_shl(b as u32),
            ShrArith if over => wrap_int(signed_twin(dtype), a) >> 63,
            ShrArith => wrap_int(signed_twin(dtype), a) >> b,
            ShrLogical if over => 0,
            ShrLogical => ((a as u64 & mask) >> b) as i64,
            MulHi if unsigned => (i128::from(a as u64).wrapping_mul(i128::from(b as u64)) >> bits) as i64,
            MulHi => ((i128::from(a) * i128::from(b)) >> bits) as i64,
            Atan2 | NextAfter | Zeta => 0,
        }
    }
}

fn signed_twin(dtype: DType) -> DType {
    match dtype.size() {
        1 => DType::I8,
        2 => DType::I16,
        4 => DType::I32,
        _ => DType::I64,
    }
}

fn int_pow(base: i64, exponent: i64, unsigned: bool) -> i64 {
    if !unsigned && exponent < 0 {
        return match base {
            1 => 1,
            -1 => 1 - 2 * (exponent & 1),
            _ => 0,
        };
    }
    let (mut result, mut square, mut left) = (1i64, base, exponent as u64);
    while left > 0 {
        if left & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    result
}

impl CompareFn {
    /// The comparison of two values of one type.
    pub fn eval(self, dtype: DType, a: Wide, b: Wide) -> bool {
        use std::cmp::Ordering::*;
        let order = match (a, b) {
            (Wide::F(a), Wide::F(b)) => a.partial_cmp(&b),
            (a, b) if dtype.kind() == NumberKind::Unsigned => Some((a.int() as u64).cmp(&(b.int() as u64))),
            (a, b) => Some(a.int().cmp(&b.int())),
        };
        match (self, order) {
            (CompareFn::Ne, None) => true,
            (_, None) => false,
            (CompareFn::Eq, Some(o)) => o == Equal,
            (CompareFn::Ne, Some(o)) => o != Equal,
            (CompareFn::Lt, Some(o)) => o == Less,
            (CompareFn::Le, Some(o)) => o != Greater,
            (CompareFn::Gt, Some(o)) => o == Greater,
            (CompareFn::Ge, Some(o)) => o != Less,
        }
    }

    /// The comparison with the arguments swapped: `a < b` is `b > a`.
    pub fn swapped(self) -> Self {
        use CompareFn::*;
        match self {
            Eq | Ne => self,
            Lt => Gt,
            Le => Ge,
            Gt => Lt,
            Ge => Le,
        }
    }
}

impl Monoid {
    /// The combining function.
    pub fn function(self) -> BinaryFn {
        match self {
            Monoid::Sum => BinaryFn::Add,
            Monoid::Prod => BinaryFn::Mul,
            Monoid::Max => BinaryFn::Max,
            Monoid::Min => BinaryFn::Min,
            Monoid::And => BinaryFn::And,
            Monoid::Or => BinaryFn::Or,
            Monoid::Xor => BinaryFn::Xor,
        }
    }

    /// The type in which parts of a combination of values of this type are kept until it is complete: where every step would round to less
    /// than f32, that is f32, and what is complete is rounded once.
    pub fn carried_in(self, dtype: DType) -> DType {
        let rounds = matches!(self, Monoid::Sum | Monoid::Prod) && dtype.is_float() && dtype.size() < DType::F32.size();
        if rounds { DType::F32 } else { dtype }
    }

    /// The neutral element in this type.
    pub fn identity(self, dtype: DType) -> Wide {
        let float = dtype.is_float();
        let bits = dtype.size() as u32 * 8;
        match (self, dtype.kind()) {
            (Monoid::Sum, _) if float => Wide::F(0.0),
            (Monoid::Prod, _) if float => Wide::F(1.0),
            // A format without infinities has its largest numbers.
            (Monoid::Max, _) if dtype == DType::F8E4M3FN => Wide::F(-448.0),
            (Monoid::Min, _) if dtype == DType::F8E4M3FN => Wide::F(448.0),
            (Monoid::Max, _) if float => Wide::F(f64::NEG_INFINITY),
            (Monoid::Min, _) if float => Wide::F(f64::INFINITY),
            (Monoid::Sum | Monoid::Or | Monoid::Xor, _) => Wide::I(0),
            (Monoid::Prod, _) => Wide::I(1),
            (Monoid::And, _) => Wide::I(wrap_int(dtype, -1)),
            (Monoid::Max, NumberKind::Signed) => Wide::I(i64::MIN >> (64 - bits)),
            (Monoid::Min, NumberKind::Signed) => Wide::I(i64::MAX >> (64 - bits)),
            (Monoid::Max, _) => Wide::I(0),
            (Monoid::Min, _) => Wide::I(wrap_int(dtype, -1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_carried_where_no_step_rounds() {
        assert_eq!([DType::BF16, DType::F16, DType::F8E5M2].map(|d| Monoid::Sum.carried_in(d)), [DType::F32; 3]);
        for exact in [DType::F32, DType::F64, DType::I8, DType::Bool] {
            assert_eq!(Monoid::Sum.carried_in(exact), exact);
        }
        assert_eq!(Monoid::Max.carried_in(DType::BF16), DType::BF16);
    }

    #[test]
    fn shifts_and_divisions_follow_the_rules() {
        let f = |f: BinaryFn, d, a, b| f.eval(d, Wide::I(a), Wide::I(b));
        assert_eq!(f(BinaryFn::ShrLogical, DType::I32, -1, 28), Wide::I(15));
        assert_eq!(f(BinaryFn::ShrArith, DType::I32, -8, 40), Wide::I(-1));
        assert_eq!(f(BinaryFn::Shl, DType::U32, 1, 32), Wide::I(0));
        assert_eq!(f(BinaryFn::Div, DType::I32, 7, 0), Wide::I(-1));
        assert_eq!(f(BinaryFn::Rem, DType::I32, -7, 3), Wide::I(-1));
        assert_eq!(f(BinaryFn::Pow, DType::I32, -1, -3), Wide::I(-1));
        assert_eq!(f(BinaryFn::Div, DType::I32, i64::from(i32::MIN), -1), Wide::I(i64::from(i32::MIN)));
        assert_eq!(f(BinaryFn::Rem, DType::I32, i64::from(i32::MIN), -1), Wide::I(0));
        assert_eq!(f(BinaryFn::ShrArith, DType::U8, 0x80, 1), Wide::I(0xc0));
    }

    #[test]
    fn upper_halves_of_products() {
        let f = |d, a, b| BinaryFn::MulHi.eval(d, Wide::I(a), Wide::I(b));
        assert_eq!((f(DType::I8, 64, 4), f(DType::I8, -64, 4), f(DType::U8, 240, 16)), (Wide::I(1), Wide::I(-1), Wide::I(15)));
        assert_eq!((f(DType::U64, -1, -1), f(DType::I64, i64::MIN, i64::MIN)), (Wide::I(-2), Wide::I(1 << 62)));
    }
}
