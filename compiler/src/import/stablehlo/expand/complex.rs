//! Functions of complex numbers on pairs of real tensors.
//!
//! `complex<f32>` is computed in f64 where a formula could lose digits or overflow, and rounded at the end. The formulas are the usual
//! careful ones (Smith for quotients, Kahan for square roots and tangents); branch cuts are those of C's `<complex.h>`.

use super::Number;
use super::build::{conj, minus, plus, times};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::types::DType;

use BinaryFn::Atan2;
use UnaryFn::{Abs, Cos, Cosh, Exp, Expm1, Log, Log1p, Neg, Sign, Sin, Sinh, Sqrt, Tan};

/// A complex value in parts that are both there.
#[derive(Clone, Copy)]
struct Z {
    re: ValueId,
    im: ValueId,
}

impl From<Z> for Number {
    fn from(z: Z) -> Number {
        Number::complex(z.re, z.im)
    }
}

fn whole(b: &mut Graph, x: Number) -> Z {
    Z { re: x.re, im: x.im.unwrap_or_else(|| b.splat_like(x.re, 0.0)) }
}

/// The function of that StableHLO or CHLO name (without its dialect) on operands of which at least one is complex: `add`, `divide`,
/// `exponential`, … The result is real for `abs`, `real`, `imag`; comparisons are [`compare`].
pub fn apply(b: &mut Graph, name: &str, operands: &[Number]) -> Option<Number> {
    match (name, operands) {
        ("add", [x, y]) => return Some(plus(b, *x, *y)),
        ("subtract", [x, y]) => return Some(minus(b, *x, *y)),
        ("multiply", [x, y]) => return Some(times(b, *x, *y)),
        ("square", [x]) => return Some(times(b, *x, *x)),
        ("maximum" | "minimum", [x, y]) => return Some(extreme(b, name == "maximum", *x, *y)),
        ("negate", [x]) => return Some(super::build::each(b, *x, |b, v| b.unary(Neg, v))),
        ("conj", [x]) => return Some(conj(b, *x)),
        ("real", [x]) => return Some(Number::real(x.re)),
        ("imag", [x]) => return Some(Number::real(whole(b, *x).im)),
        ("complex", [x, y]) if x.im.is_none() && y.im.is_none() => return Some(Number::complex(x.re, y.re)),
        _ => {}
    }
    let own = b.tensor_ty(operands.first()?.re).dtype;
    let wide: Vec<Z> = operands
        .iter()
        .map(|x| {
            let z = whole(b, *x);
            Z { re: b.convert(z.re, DType::F64), im: b.convert(z.im, DType::F64) }
        })
        .collect();
    let result: Number = match (name, &wide[..]) {
        ("abs", [x]) => Number::real(abs(b, *x)),
        ("divide", [x, y]) => divide(b, *x, *y).into(),
        ("exponential", [x]) => exp(b, *x).into(),
        ("exponential_minus_one", [x]) => expm1(b, *x).into(),
        ("log", [x]) => log(b, *x).into(),
        ("log_plus_one", [x]) => log1p(b, *x).into(),
        ("sqrt", [x]) => sqrt(b, *x).into(),
        ("rsqrt", [x]) => rsqrt(b, *x).into(),
        ("cbrt", [x]) => cbrt(b, *x).into(),
        ("sine", [x]) => sine(b, *x).into(),
        ("cosine", [x]) => cosine(b, *x).into(),
        ("tan", [x]) => tan(b, *x).into(),
        ("tanh", [x]) => tanh(b, *x).into(),
        ("sinh", [x]) => sinh(b, *x).into(),
        ("cosh", [x]) => cosh(b, *x).into(),
        ("asin", [x]) => asin(b, *x).into(),
        ("acos", [x]) => acos(b, *x).into(),
        ("atan", [x]) => atan(b, *x).into(),
        ("asinh", [x]) => asinh(b, *x).into(),
        ("acosh", [x]) => acosh(b, *x).into(),
        ("atanh", [x]) => atanh(b, *x).into(),
        ("logistic", [x]) => logistic(b, *x).into(),
        ("power", [x, y]) => power(b, *x, *y).into(),
        ("atan2", [y, x]) => atan2(b, *y, *x).into(),
        ("sign", [x]) => sign(b, *x).into(),
        _ => return None,
    };
    Some(super::build::each(b, result, |b, v| b.convert(v, own)))
}

/// Equality or inequality; other comparisons are not defined.
pub fn compare(b: &mut Graph, f: CompareFn, x: Number, y: Number) -> Option<ValueId> {
    let (x, y) = (whole(b, x), whole(b, y));
    let join = match f {
        CompareFn::Eq => BinaryFn::And,
        CompareFn::Ne => BinaryFn::Or,
        _ => return None,
    };
    let (re, im) = (b.compare(f, x.re, y.re), b.compare(f, x.im, y.im));
    Some(b.binary(join, re, im))
}

/// The larger or smaller number in lexicographic order, as the specification orders them: by the real parts, then by the imaginary ones.
/// An operand with a NaN in it wins, the first before the second.
fn extreme(b: &mut Graph, larger: bool, x: Number, y: Number) -> Number {
    let (x, y) = (whole(b, x), whole(b, y));
    let f = if larger { CompareFn::Gt } else { CompareFn::Lt };
    let (beats, ties, then) = (b.compare(f, x.re, y.re), b.compare(CompareFn::Eq, x.re, y.re), b.compare(f, x.im, y.im));
    let second = b.binary(BinaryFn::And, ties, then);
    let (odd_re, odd_im) = (b.compare(CompareFn::Ne, x.re, x.re), b.compare(CompareFn::Ne, x.im, x.im));
    let first = b.binary(BinaryFn::Or, beats, second);
    let odd = b.binary(BinaryFn::Or, odd_re, odd_im);
    let first = b.binary(BinaryFn::Or, first, odd);
    choose(b, first, x, y).into()
}

/// `a` where c, else `other`.
fn choose(b: &mut Graph, c: ValueId, a: Z, other: Z) -> Z {
    Z { re: b.select(c, a.re, other.re), im: b.select(c, a.im, other.im) }
}

fn scale(b: &mut Graph, x: Z, by: ValueId) -> Z {
    Z { re: b.times(x.re, by), im: b.times(x.im, by) }
}

fn real(b: &mut Graph, like: ValueId, v: f64) -> Z {
    Z { re: b.splat_like(like, v), im: b.splat_like(like, 0.0) }
}

fn add(b: &mut Graph, x: Z, y: Z) -> Z {
    Z { re: b.plus(x.re, y.re), im: b.plus(x.im, y.im) }
}

fn sub(b: &mut Graph, x: Z, y: Z) -> Z {
    Z { re: b.minus(x.re, y.re), im: b.minus(x.im, y.im) }
}

fn mul(b: &mut Graph, x: Z, y: Z) -> Z {
    let z = times(b, x.into(), y.into());
    whole(b, z)
}

/// i · x
fn turned(b: &mut Graph, x: Z) -> Z {
    Z { re: b.unary(Neg, x.im), im: x.re }
}

/// −i · x
fn turned_back(b: &mut Graph, x: Z) -> Z {
    Z { re: x.im, im: b.unary(Neg, x.re) }
}

/// |v| with the sign of `sign`, which may be −0.
fn with_sign(b: &mut Graph, v: ValueId, sign: ValueId) -> ValueId {
    // 1/−0 is −∞, so the quotient of one by the sign knows it where the sign itself compares equal to 0.
    let (one, zero) = (b.splat_like(v, 1.0), b.splat_like(v, 0.0));
    let at_zero = b.compare(CompareFn::Eq, sign, zero);
    let inverse = b.over(one, sign);
    let probe = b.select(at_zero, inverse, sign);
    let negative = b.compare(CompareFn::Lt, probe, zero);
    let magnitude = b.unary(Abs, v);
    let minus = b.unary(Neg, magnitude);
    b.select(negative, minus, magnitude)
}

/// The larger and the smaller of the absolute parts, and the square of their quotient, 0 for 0.
fn ordered(b: &mut Graph, x: Z) -> (ValueId, ValueId, ValueId) {
    let (p, q) = (b.unary(Abs, x.re), b.unary(Abs, x.im));
    let (large, small) = (b.binary(BinaryFn::Max, p, q), b.binary(BinaryFn::Min, p, q));
    let (zero, one) = (b.splat_like(large, 0.0), b.splat_like(large, 1.0));
    let none = b.compare(CompareFn::Eq, small, zero);
    let safe = b.select(none, one, large);
    let r = b.over(small, safe);
    (large, small, b.times(r, r))
}

fn abs(b: &mut Graph, x: Z) -> ValueId {
    let (large, _, square) = ordered(b, x);
    let one = b.splat_like(large, 1.0);
    let sum = b.plus(one, square);
    let root = b.unary(Sqrt, sum);
    let v = b.times(large, root);
    // An infinite part makes the whole infinite, whatever the other.
    let inf = b.splat_like(large, f64::INFINITY);
    let (p, q) = (b.unary(UnaryFn::IsInf, x.re), b.unary(UnaryFn::IsInf, x.im));
    let any = b.binary(BinaryFn::Or, p, q);
    b.select(any, inf, v)
}

fn divide(b: &mut Graph, x: Z, y: Z) -> Z {
    let (p, q) = (b.unary(Abs, y.re), b.unary(Abs, y.im));
    let re_larger = b.compare(CompareFn::Ge, p, q);
    // Smith: with r the smaller part over the larger one.
    let (large, small) = (b.select(re_larger, y.re, y.im), b.select(re_larger, y.im, y.re));
    let (zero, one) = (b.splat_like(p, 0.0), b.splat_like(p, 1.0));
    let none = b.compare(CompareFn::Eq, large, zero);
    let safe = b.select(none, one, large);
    let r = b.over(small, safe);
    let sr = b.times(small, r);
    let d = b.plus(large, sr);
    let (first, second) = (b.select(re_larger, x.re, x.im), b.select(re_larger, x.im, x.re));
    let sr = b.times(second, r);
    let re = b.plus(first, sr);
    let fr = b.times(first, r);
    let im = b.minus(second, fr);
    let minus = b.unary(Neg, im);
    let im = b.select(re_larger, im, minus);
    Z { re: b.over(re, d), im: b.over(im, d) }
}

fn exp(b: &mut Graph, x: Z) -> Z {
    let (e, c, s) = (b.unary(Exp, x.re), b.unary(Cos, x.im), b.unary(Sin, x.im));
    let (re, im) = (b.times(e, c), b.times(e, s));
    // A real argument has a real result, also where the exponential is infinite.
    let zero = b.splat_like(e, 0.0);
    let flat = b.compare(CompareFn::Eq, x.im, zero);
    Z { re: b.select(flat, e, re), im: b.select(flat, x.im, im) }
}

fn expm1(b: &mut Graph, x: Z) -> Z {
    let e = exp(b, x);
    let (m, c) = (b.unary(Expm1, x.re), b.unary(Cos, x.im));
    let half = b.splat_like(c, 0.5);
    let h = b.times(x.im, half);
    let s = b.unary(Sin, h);
    let ss = b.times(s, s);
    let ss2 = b.plus(ss, ss);
    let mc = b.times(m, c);
    Z { re: b.minus(mc, ss2), im: e.im }
}

/// ln |x|
fn log_abs(b: &mut Graph, x: Z) -> ValueId {
    let (large, small, square) = ordered(b, x);
    let (one, half) = (b.splat_like(large, 1.0), b.splat_like(large, 0.5));
    // Near the unit circle: ½ ln(1 + (m − 1)(m + 1) + n²).
    let (down, up) = (b.minus(large, one), b.plus(large, one));
    let (du, nn) = (b.times(down, up), b.times(small, small));
    let sum = b.plus(du, nn);
    let near = b.unary(Log1p, sum);
    let near = b.times(near, half);
    let (l, r) = (b.unary(Log, large), b.unary(Log1p, square));
    let r = b.times(r, half);
    let far = b.plus(l, r);
    let (low, high) = (b.splat_like(large, 0.5), b.splat_like(large, 2.0));
    let (a, c) = (b.compare(CompareFn::Gt, large, low), b.compare(CompareFn::Lt, large, high));
    let close = b.binary(BinaryFn::And, a, c);
    b.select(close, near, far)
}

fn log(b: &mut Graph, x: Z) -> Z {
    Z { re: log_abs(b, x), im: b.binary(Atan2, x.im, x.re) }
}

fn log1p(b: &mut Graph, x: Z) -> Z {
    let (one, two, half) = (b.splat_like(x.re, 1.0), b.splat_like(x.re, 2.0), b.splat_like(x.re, 0.5));
    let up = b.plus(x.re, one);
    let shifted = Z { re: up, im: x.im };
    // ½ ln(1 + a(2 + a) + b²) where that is small.
    let t = b.plus(x.re, two);
    let (at, bb) = (b.times(x.re, t), b.times(x.im, x.im));
    let sum = b.plus(at, bb);
    let near = b.unary(Log1p, sum);
    let near = b.times(near, half);
    let far = log_abs(b, shifted);
    let size = b.unary(Abs, sum);
    let small = b.compare(CompareFn::Lt, size, half);
    Z { re: b.select(small, near, far), im: b.binary(Atan2, x.im, up) }
}

fn sqrt(b: &mut Graph, x: Z) -> Z {
    let m = abs(b, x);
    let (half, zero) = (b.splat_like(m, 0.5), b.splat_like(m, 0.0));
    let p = b.unary(Abs, x.re);
    let (m2, p2) = (b.times(m, half), b.times(p, half));
    let sum = b.plus(m2, p2);
    let t = b.unary(Sqrt, sum);
    let none = b.compare(CompareFn::Eq, t, zero);
    let one = b.splat_like(m, 1.0);
    let safe = b.select(none, one, t);
    let q = b.over(x.im, safe);
    let q = b.times(q, half);
    let right = b.compare(CompareFn::Ge, x.re, zero);
    let (aq, st) = (b.unary(Abs, q), with_sign(b, t, x.im));
    let z = Z { re: b.select(right, t, aq), im: b.select(right, q, st) };
    Z { re: z.re, im: b.select(none, x.im, z.im) }
}

fn rsqrt(b: &mut Graph, x: Z) -> Z {
    let one = real(b, x.re, 1.0);
    let s = sqrt(b, x);
    divide(b, one, s)
}

fn cbrt(b: &mut Graph, x: Z) -> Z {
    let third = b.splat_like(x.re, 1.0 / 3.0);
    let l = log(b, x);
    let l = scale(b, l, third);
    let r = exp(b, l);
    zero_at_zero(b, x, r)
}

/// 0 where x is 0, else r.
fn zero_at_zero(b: &mut Graph, x: Z, r: Z) -> Z {
    let zero = real(b, x.re, 0.0);
    let (p, q) = (b.compare(CompareFn::Eq, x.re, zero.re), b.compare(CompareFn::Eq, x.im, zero.im));
    let both = b.binary(BinaryFn::And, p, q);
    choose(b, both, zero, r)
}

fn tanh(b: &mut Graph, x: Z) -> Z {
    let one = b.splat_like(x.re, 1.0);
    let (t, s) = (b.unary(Tan, x.im), b.unary(Sinh, x.re));
    let (tt, ss) = (b.times(t, t), b.times(s, s));
    let (beta, sq) = (b.plus(one, tt), b.plus(one, ss));
    let rho = b.unary(Sqrt, sq);
    let bs = b.times(beta, ss);
    let d = b.plus(one, bs);
    let br = b.times(beta, rho);
    let n = b.times(br, s);
    let near = Z { re: b.over(n, d), im: b.over(t, d) };
    // Far out: ±1 and 4 sin b cos b e^{−2|a|}.
    let size = b.unary(Abs, x.re);
    let limit = b.splat_like(x.re, 20.0);
    let far = b.compare(CompareFn::Gt, size, limit);
    let (sin, cos) = (b.unary(Sin, x.im), b.unary(Cos, x.im));
    let sc = b.times(sin, cos);
    let (minus_two, four) = (b.splat_like(x.re, -2.0), b.splat_like(x.re, 4.0));
    let e = b.times(size, minus_two);
    let e = b.unary(Exp, e);
    let e = b.times(e, four);
    let edge = Z { re: b.unary(Sign, x.re), im: b.times(sc, e) };
    choose(b, far, edge, near)
}

fn tan(b: &mut Graph, x: Z) -> Z {
    let t = turned(b, x);
    let t = tanh(b, t);
    turned_back(b, t)
}

fn sinh(b: &mut Graph, x: Z) -> Z {
    let (s, c) = (b.unary(Sinh, x.re), b.unary(Cosh, x.re));
    let (si, co) = (b.unary(Sin, x.im), b.unary(Cos, x.im));
    Z { re: b.times(s, co), im: b.times(c, si) }
}

fn cosh(b: &mut Graph, x: Z) -> Z {
    let (s, c) = (b.unary(Sinh, x.re), b.unary(Cosh, x.re));
    let (si, co) = (b.unary(Sin, x.im), b.unary(Cos, x.im));
    Z { re: b.times(c, co), im: b.times(s, si) }
}

fn sine(b: &mut Graph, x: Z) -> Z {
    let t = turned(b, x);
    let t = sinh(b, t);
    turned_back(b, t)
}

fn cosine(b: &mut Graph, x: Z) -> Z {
    let t = turned(b, x);
    cosh(b, t)
}

/// Kahan: acos x = 2 atan(Re √(1−x) / Re √(1+x)), asinh(Im(conj √(1+x) · √(1−x))).
fn acos(b: &mut Graph, x: Z) -> Z {
    let (down, up) = roots(b, x);
    let a = b.binary(Atan2, down.re, up.re);
    let re = b.plus(a, a);
    // Im(conj(up) · down)
    let (p, q) = (b.times(up.re, down.im), b.times(up.im, down.re));
    let v = b.minus(p, q);
    Z { re, im: b.unary(UnaryFn::Asinh, v) }
}

/// √(1 − x) and √(1 + x).
fn roots(b: &mut Graph, x: Z) -> (Z, Z) {
    let one = b.splat_like(x.re, 1.0);
    let down = Z { re: b.minus(one, x.re), im: b.unary(Neg, x.im) };
    let up = Z { re: b.plus(one, x.re), im: x.im };
    (sqrt(b, down), sqrt(b, up))
}

/// Kahan: asin x = atan(Re x / Re(√(1−x) √(1+x))), asinh(Im(conj √(1−x) · √(1+x))).
fn asin(b: &mut Graph, x: Z) -> Z {
    let (down, up) = roots(b, x);
    let (rr, ii) = (b.times(down.re, up.re), b.times(down.im, up.im));
    let d = b.minus(rr, ii);
    let re = b.binary(Atan2, x.re, d);
    let (p, q) = (b.times(down.re, up.im), b.times(down.im, up.re));
    let v = b.minus(p, q);
    Z { re, im: b.unary(UnaryFn::Asinh, v) }
}

fn asinh(b: &mut Graph, x: Z) -> Z {
    let t = turned(b, x);
    let t = asin(b, t);
    turned_back(b, t)
}

/// Kahan: acosh x = asinh(Re(conj √(x−1) · √(x+1))), 2 atan(Im √(x−1) / Re √(x+1)).
fn acosh(b: &mut Graph, x: Z) -> Z {
    let one = b.splat_like(x.re, 1.0);
    let down = Z { re: b.minus(x.re, one), im: x.im };
    let up = Z { re: b.plus(x.re, one), im: x.im };
    let (down, up) = (sqrt(b, down), sqrt(b, up));
    let (rr, ii) = (b.times(down.re, up.re), b.times(down.im, up.im));
    let v = b.plus(rr, ii);
    let a = b.binary(Atan2, down.im, up.re);
    Z { re: b.unary(UnaryFn::Asinh, v), im: b.plus(a, a) }
}

/// ¼ ln(1 + 4a / ((1−a)² + b²)), ½ atan2(2b, (1−a)(1+a) − b²).
fn atanh(b: &mut Graph, x: Z) -> Z {
    let (one, four) = (b.splat_like(x.re, 1.0), b.splat_like(x.re, 4.0));
    let (quarter, half) = (b.splat_like(x.re, 0.25), b.splat_like(x.re, 0.5));
    let (down, up) = (b.minus(one, x.re), b.plus(one, x.re));
    let (dd, bb) = (b.times(down, down), b.times(x.im, x.im));
    let d = b.plus(dd, bb);
    let n = b.times(x.re, four);
    let r = b.over(n, d);
    let r = b.unary(Log1p, r);
    let (du, twice) = (b.times(down, up), b.plus(x.im, x.im));
    let den = b.minus(du, bb);
    let a = b.binary(Atan2, twice, den);
    Z { re: b.times(r, quarter), im: b.times(a, half) }
}

fn atan(b: &mut Graph, x: Z) -> Z {
    let t = turned(b, x);
    let t = atanh(b, t);
    turned_back(b, t)
}

fn logistic(b: &mut Graph, x: Z) -> Z {
    let one = real(b, x.re, 1.0);
    let minus = Z { re: b.unary(Neg, x.re), im: b.unary(Neg, x.im) };
    let e = exp(b, minus);
    let d = add(b, one, e);
    divide(b, one, d)
}

fn power(b: &mut Graph, x: Z, y: Z) -> Z {
    let l = log(b, x);
    let l = mul(b, y, l);
    let r = exp(b, l);
    let r = zero_at_zero(b, x, r);
    // Anything to the power of 0 is 1.
    let one = real(b, x.re, 1.0);
    let zero = real(b, x.re, 0.0);
    let (p, q) = (b.compare(CompareFn::Eq, y.re, zero.re), b.compare(CompareFn::Eq, y.im, zero.im));
    let both = b.binary(BinaryFn::And, p, q);
    choose(b, both, one, r)
}

/// −i ln((x + i y) / √(x² + y²))
fn atan2(b: &mut Graph, y: Z, x: Z) -> Z {
    let iy = turned(b, y);
    let (num, xx, yy) = (add(b, x, iy), mul(b, x, x), mul(b, y, y));
    let sum = add(b, xx, yy);
    let root = sqrt(b, sum);
    let q = divide(b, num, root);
    let l = log(b, q);
    turned_back(b, l)
}

fn sign(b: &mut Graph, x: Z) -> Z {
    let m = abs(b, x);
    let (zero, one) = (b.splat_like(m, 0.0), b.splat_like(m, 1.0));
    let none = b.compare(CompareFn::Eq, m, zero);
    let safe = b.select(none, one, m);
    let z = Z { re: b.over(x.re, safe), im: b.over(x.im, safe) };
    let nowhere = real(b, m, 0.0);
    let not = sub(b, z, z);
    // A NaN in one part makes both NaN.
    let z = add(b, z, Z { re: not.im, im: not.re });
    choose(b, none, nowhere, z)
}
