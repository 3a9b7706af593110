//! Scalars over the field of integers modulo p = 2^61 − 1.
//!
//! An element of a float type is a number of the field; sums, differences, products and quotients are exact there, so their order does not
//! matter. Float literals are the rational numbers that they are, and those of small size stay recognizable: they convert to integers and round as they
//! do otherwise. Infinities are two elements at the ends of a fixed order of the field, by which floats are compared. Every other function
//! is a keyed hash of its arguments. Integers and truth values are themselves. All are carried as `i64`.

use crate::float::{from_bits, round_float};
use crate::literal::Literal;
use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn, Wide};
use crate::tensor::{Data, Tensor, wrap_int};
use crate::types::{DType, NumberKind};
use std::cmp::Ordering;

/// The modulus, a Mersenne prime.
pub const P: u64 = (1 << 61) - 1;
/// −∞, +∞ and NaN: three elements that nothing else is likely to be.
const INFINITE: [i64; 3] = [0x0123_4567_89AB_CDEF, 0x0FED_CBA9_8765_4321, 0x0BAD_CAFE_0DDB_A115];
/// Integers below this in magnitude are known for what they are.
const SMALL: i64 = 1 << 40;

/// A number below 2^128 modulo p.
fn reduce(x: u128) -> u64 {
    let low = (x & u128::from(P)) + (x >> 61);
    let low = ((low & u128::from(P)) + (low >> 61)) as u64;
    if low >= P { low - P } else { low }
}

fn add(a: i64, b: i64) -> i64 {
    let sum = a as u64 + b as u64;
    (if sum >= P { sum - P } else { sum }) as i64
}

fn sub(a: i64, b: i64) -> i64 {
    if a >= b { a - b } else { a + P as i64 - b }
}

fn mul(a: i64, b: i64) -> i64 {
    reduce(u128::from(a as u64) * u128::from(b as u64)) as i64
}

/// The multiplicative inverse, by Fermat's little theorem.
fn inverse(a: i64) -> i64 {
    let (mut power, mut left, mut out) = (a, P - 2, 1);
    while left > 0 {
        if left & 1 == 1 {
            out = mul(out, power);
        }
        power = mul(power, power);
        left >>= 1;
    }
    out
}

/// A fixed function of a name and two numbers.
fn hash(name: u64, a: i64, b: i64) -> i64 {
    let mut h = name.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    for v in [a, b] {
        h = (h ^ v as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        h = (h ^ (h >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        h ^= h >> 29;
    }
    (h % P) as i64
}

/// The element that a float is.
pub fn from_f64(v: f64) -> i64 {
    if !v.is_finite() {
        return INFINITE[if v.is_nan() { 2 } else { usize::from(v > 0.0) }];
    }
    let bits = v.to_bits();
    let (exponent, fraction) = ((bits >> 52) as i64 & 0x7FF, bits & ((1 << 52) - 1));
    let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    // 2^61 is 1 in the field.
    let shift = (exponent.max(1) - 1075).rem_euclid(61);
    let magnitude = reduce(u128::from(mantissa) << shift) as i64;
    if v < 0.0 { sub(0, magnitude) } else { magnitude }
}

fn from_int(v: i64, unsigned: bool) -> i64 {
    if unsigned || v >= 0 { (v as u64 % P) as i64 } else { sub(0, (v.unsigned_abs() % P) as i64) }
}

/// The integer that an element surely stands for.
fn small(x: i64) -> Option<i64> {
    if x < SMALL { Some(x) } else { (P as i64 - x < SMALL).then(|| x - P as i64) }
}

/// The order of elements: −∞, then about half of the field, small integers, the rest, +∞.
fn key(x: i64) -> (i8, i64) {
    if let Some(v) = small(x) {
        return (0, v);
    }
    let mixed = x.wrapping_mul(0x9E37_79B9_7F4A_7C15u64 as i64);
    match INFINITE.iter().position(|i| *i == x) {
        Some(0) => (-2, 0),
        Some(1) => (2, 0),
        _ => (if mixed < 0 { -1 } else { 1 }, mixed),
    }
}

fn order(a: i64, b: i64) -> Ordering {
    key(a).cmp(&key(b))
}

/// A function of one value of this type.
pub fn unary(f: UnaryFn, dtype: DType, x: i64) -> i64 {
    use UnaryFn::*;
    if !dtype.is_float() {
        return f.eval(dtype, Wide::I(x)).int();
    }
    match (f, small(x)) {
        (Neg, _) => sub(0, x),
        (IsFinite, _) => i64::from(!INFINITE.contains(&x)),
        (IsNan, _) => i64::from(x == INFINITE[2]),
        (IsInf, _) => i64::from(INFINITE[..2].contains(&x)),
        (Abs, Some(v)) => v.abs(),
        (Floor | Ceil | RoundEven | RoundAway, Some(_)) => x,
        (Sign, _) => match order(x, 0) {
            Ordering::Less => P as i64 - 1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        },
        _ => hash(f as u64, x, 0),
    }
}

/// A function of two values of this type.
pub fn binary(f: BinaryFn, dtype: DType, a: i64, b: i64) -> i64 {
    if !dtype.is_float() {
        return f.eval(dtype, Wide::I(a), Wide::I(b)).int();
    }
    match f {
        BinaryFn::Add => add(a, b),
        BinaryFn::Sub => sub(a, b),
        BinaryFn::Mul => mul(a, b),
        BinaryFn::Div if b != 0 => mul(a, inverse(b)),
        BinaryFn::Max => {
            if order(a, b).is_lt() {
                b
            } else {
                a
            }
        }
        BinaryFn::Min => {
            if order(a, b).is_gt() {
                b
            } else {
                a
            }
        }
        _ => hash(1000 + f as u64, a, b),
    }
}

/// A comparison of two values of this type.
pub fn compare(f: CompareFn, dtype: DType, a: i64, b: i64) -> bool {
    if !dtype.is_float() {
        return f.eval(dtype, Wide::I(a), Wide::I(b));
    }
    let order = order(a, b);
    match f {
        CompareFn::Eq => order.is_eq(),
        CompareFn::Ne => order.is_ne(),
        CompareFn::Lt => order.is_lt(),
        CompareFn::Le => order.is_le(),
        CompareFn::Gt => order.is_gt(),
        CompareFn::Ge => order.is_ge(),
    }
}

/// Conversion; between float types nothing changes.
pub fn convert(from: DType, to: DType, x: i64) -> i64 {
    match (from.is_float(), to.kind()) {
        (true, NumberKind::Float) => x,
        (true, NumberKind::Bool) => i64::from(x != 0),
        (true, _) => small(x).map_or_else(|| wrap_int(to, hash(2000, x, 0)), |v| crate::tensor::float_to_int(to, v as f64)),
        (false, NumberKind::Float) => from_int(x, from == DType::U64),
        (false, _) => wrap_int(to, x),
    }
}

/// The same bits as another type: known for integers, a hash for elements of the field.
pub fn bitcast(from: DType, to: DType, x: i64) -> i64 {
    match (from.is_float(), to.is_float()) {
        (true, true) => hash(2001, x, 0),
        (true, false) => wrap_int(to, hash(2001, x, 0)),
        (false, true) => from_f64(from_bits(to, x as u64)),
        (false, false) => wrap_int(to, x),
    }
}

/// A constant of a fused program.
pub fn constant(dtype: DType, bits: u64) -> i64 {
    if dtype.is_float() { from_f64(round_float(dtype, f64::from_bits(bits))) } else { wrap_int(dtype, bits as i64) }
}

/// The neutral element of a combiner.
pub fn identity(monoid: Monoid, dtype: DType) -> i64 {
    if dtype.is_float() { from_f64(monoid.identity(DType::F64).float()) } else { monoid.identity(dtype).int() }
}

/// Two values combined.
pub fn combine(monoid: Monoid, dtype: DType, a: i64, b: i64) -> i64 {
    binary(monoid.function(), dtype, a, b)
}

/// The elements of a tensor of numbers.
pub fn coded(t: &Tensor) -> Vec<i64> {
    match t.data() {
        Data::Float(v) => v.iter().map(|x| from_f64(*x)).collect(),
        Data::Int(v) => v.clone(),
    }
}

/// The elements of a constant.
pub fn literal(l: &Literal) -> Vec<i64> {
    coded(&Tensor::from_literal(l))
}

/// Σ a·b; or-of-ands for truth values.
pub fn dot(dtype: DType, a: &[i64], b: &[i64]) -> i64 {
    if dtype == DType::Bool {
        return i64::from(a.iter().zip(b).any(|(a, b)| a & b != 0));
    }
    if !dtype.is_float() {
        return wrap_int(dtype, a.iter().zip(b).fold(0i64, |s, (a, b)| s.wrapping_add(a.wrapping_mul(*b))));
    }
    // 32 products of numbers below 2^61 and a rest stay below 2^128.
    let block = |sum: u64, (a, b): (&[i64], &[i64])| {
        reduce(a.iter().zip(b).fold(u128::from(sum), |s, (a, b)| s + u128::from(*a as u64) * u128::from(*b as u64)))
    };
    a.chunks(32).zip(b.chunks(32)).fold(0, block) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_a_ring() {
        let values = [0.0, 1.0, -1.0, 0.5, -0.75, 3.0, 1e-3f32 as f64, -1234.0625, 65504.0, 2f64.powi(-100)];
        for a in values {
            assert_eq!(mul(from_f64(a), 1), from_f64(a));
            for b in values {
                let (x, y) = (from_f64(a), from_f64(b));
                // Sums and products of these are exact floats.
                if (a + b) - a == b && (a + b) - b == a {
                    assert_eq!(add(x, y), from_f64(a + b), "{a} + {b}");
                    assert_eq!(sub(add(x, y), y), x);
                }
                assert_eq!(mul(x, y), from_f64(a * b), "{a} * {b}");
                if b != 0.0 {
                    assert_eq!(mul(binary(BinaryFn::Div, DType::F32, x, y), y), x);
                }
            }
        }
        for n in [-70_000i64, -3, 0, 1, 2, 1 << 39] {
            assert_eq!(convert(DType::I64, DType::BF16, n), from_f64(n as f64));
            assert_eq!(convert(DType::F32, DType::I64, from_f64(n as f64)), n);
            assert_eq!(unary(UnaryFn::Floor, DType::F32, from_f64(n as f64)), from_f64(n as f64));
        }
    }

    #[test]
    fn extremes_are_associative_and_have_neutral_elements() {
        let values: Vec<i64> = (0..40).map(|i| hash(7, i, 0)).chain([0, 5, P as i64 - 5]).collect();
        let combine = |a, b| combine(Monoid::Max, DType::F32, a, b);
        for a in &values {
            assert_eq!(combine(*a, identity(Monoid::Max, DType::F32)), *a);
            for b in &values {
                assert_eq!(combine(*a, *b), combine(*b, *a));
                assert!(values.iter().all(|c| combine(combine(*a, *b), *c) == combine(*a, combine(*b, *c))));
            }
        }
        assert!(values.iter().any(|v| order(*v, 0).is_lt()) && values.iter().any(|v| order(*v, 0).is_gt()));
    }

    #[test]
    fn long_sums_are_sums() {
        let a: Vec<i64> = (0..100).map(|i| hash(1, i, 0)).collect();
        let b: Vec<i64> = (0..100).map(|i| hash(2, i, 0)).collect();
        let want = a.iter().zip(&b).fold(0, |s, (a, b)| add(s, mul(*a, *b)));
        assert_eq!(dot(DType::F32, &a, &b), want);
        assert_eq!(dot(DType::I8, &[100, 100], &[2, 3]), wrap_int(DType::I8, 500));
    }
}
