//! CHLO's elementwise functions, with the implicit broadcasting of its `broadcast_*` forms.

use super::Number;
use super::{build, complex};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::DType;

fn unary(name: &str) -> Option<UnaryFn> {
    Some(match name {
        "acos" => UnaryFn::Acos,
        "acosh" => UnaryFn::Acosh,
        "asin" => UnaryFn::Asin,
        "asinh" => UnaryFn::Asinh,
        "atan" => UnaryFn::Atan,
        "atanh" => UnaryFn::Atanh,
        "bessel_i1e" => UnaryFn::BesselI1e,
        "cosh" => UnaryFn::Cosh,
        "digamma" => UnaryFn::Digamma,
        "erf" => UnaryFn::Erf,
        "erf_inv" => UnaryFn::ErfInv,
        "erfc" => UnaryFn::Erfc,
        "is_inf" => UnaryFn::IsInf,
        "lgamma" => UnaryFn::Lgamma,
        "sinh" => UnaryFn::Sinh,
        "tan" => UnaryFn::Tan,
        _ => return None,
    })
}

fn binary(name: &str) -> Option<BinaryFn> {
    Some(match name {
        "add" => BinaryFn::Add,
        "and" => BinaryFn::And,
        "atan2" => BinaryFn::Atan2,
        "divide" => BinaryFn::Div,
        "maximum" => BinaryFn::Max,
        "minimum" => BinaryFn::Min,
        "mulhi" => BinaryFn::MulHi,
        "multiply" => BinaryFn::Mul,
        "next_after" => BinaryFn::NextAfter,
        "or" => BinaryFn::Or,
        "power" => BinaryFn::Pow,
        "remainder" => BinaryFn::Rem,
        "shift_left" => BinaryFn::Shl,
        "shift_right_arithmetic" => BinaryFn::ShrArith,
        "shift_right_logical" => BinaryFn::ShrLogical,
        "subtract" => BinaryFn::Sub,
        "xor" => BinaryFn::Xor,
        "zeta" => BinaryFn::Zeta,
        _ => return None,
    })
}

/// The elementwise function `chlo.<name>`.
///
/// `direction` is that of `broadcast_compare`; `dims` are the `broadcast_dimensions` of a `broadcast_*` operation: where the dimensions
/// of the operand of lower rank go (else they are the last ones).
/// Not here: `constant` and `constant_like` (see [`constant_like`]), `top_k`, `scan`, `ragged_dot` (see [`ragged`](super::ragged)), and what
/// is about shapes.
pub fn elementwise(b: &mut Graph, name: &str, operands: &[Number], dims: Option<&[usize]>, direction: Option<CompareFn>) -> Option<Number> {
    if let Some(plain) = name.strip_prefix("broadcast_") {
        let operands = broadcast(b, operands, dims)?;
        return function(b, plain, &operands, direction);
    }
    function(b, name, operands, direction)
}

fn function(b: &mut Graph, name: &str, operands: &[Number], direction: Option<CompareFn>) -> Option<Number> {
    if let ("compare", [x, y], Some(f)) = (name, operands, direction) {
        if x.im.is_some() || y.im.is_some() {
            return complex::compare(b, f, *x, *y).map(Number::real);
        }
        return add(b, girih_ir::ops::elementwise::Compare(f), &[x.re, y.re]);
    }
    if let ("select", [c, x, y]) = (name, operands) {
        let im = match (x.im, y.im) {
            (None, None) => None,
            (p, q) => {
                let p = p.unwrap_or_else(|| b.splat_like(x.re, 0.0));
                let q = q.unwrap_or_else(|| b.splat_like(y.re, 0.0));
                Some(b.select(c.re, p, q))
            }
        };
        let re = add(b, girih_ir::ops::elementwise::Select {}, &[c.re, x.re, y.re])?.re;
        return Some(Number { re, im });
    }
    if operands.iter().any(|x| x.im.is_some()) || matches!(name, "complex" | "real" | "imag") {
        return complex::apply(b, name, operands);
    }
    match (name, operands) {
        ("conj", [x]) => Some(*x),
        ("square", [x]) => add(b, girih_ir::ops::elementwise::Binary(BinaryFn::Mul), &[x.re, x.re]),
        ("is_pos_inf" | "is_neg_inf", [x]) if b.tensor_ty(x.re).dtype.is_float() => {
            // In a format without infinities nothing is one.
            let inf = b.unary(UnaryFn::IsInf, x.re);
            let zero = b.splat_like(x.re, 0.0);
            let side = if name == "is_pos_inf" { CompareFn::Gt } else { CompareFn::Lt };
            let side = b.compare(side, x.re, zero);
            Some(Number::real(b.binary(BinaryFn::And, inf, side)))
        }
        ("polygamma", [n, x]) => polygamma(b, n.re, x.re).map(Number::real),
        (_, [x]) => add(b, girih_ir::ops::elementwise::Unary(unary(name)?), &[x.re]),
        (_, [x, y]) => add(b, girih_ir::ops::elementwise::Binary(binary(name)?), &[x.re, y.re]),
        _ => None,
    }
}

/// Adds an op; `None` when it does not fit its operands.
fn add(b: &mut Graph, op: impl Into<girih_ir::ops::Op>, operands: &[ValueId]) -> Option<Number> {
    b.add(op.into(), operands).ok().map(Number::real)
}

/// A scalar in every element of a tensor like another (`chlo.constant_like`).
pub fn constant_like(b: &mut Graph, like: Number, scalar: &Tensor) -> Number {
    let c = b.constant(scalar);
    let shape = b.shape(like.re).to_vec();
    Number::real(b.broadcast(c, &shape, &[]))
}

/// The n-th derivative of the digamma function: (−1)ⁿ⁺¹ n! ζ(n + 1, x), NaN unless n is a natural number.
fn polygamma(b: &mut Graph, n: ValueId, x: ValueId) -> Option<ValueId> {
    let (tn, tx) = (b.tensor_ty(n).clone(), b.tensor_ty(x).clone());
    if tn != tx || !tx.dtype.is_float() {
        return None;
    }
    let (n, x) = (b.convert(n, DType::F64), b.convert(x, DType::F64));
    let (zero, one, two) = (b.splat_like(n, 0.0), b.splat_like(n, 1.0), b.splat_like(n, 2.0));
    let next = b.plus(n, one);
    let (z, l) = (b.binary(BinaryFn::Zeta, next, x), b.unary(UnaryFn::Lgamma, next));
    let factorial = b.unary(UnaryFn::Exp, l);
    // Factorials are integers as long as f64 can say so.
    let exact = b.splat_like(n, 18.0);
    let small = b.compare(CompareFn::Le, n, exact);
    let rounded = b.unary(UnaryFn::RoundEven, factorial);
    let factorial = b.select(small, rounded, factorial);
    let v = b.times(factorial, z);
    let parity = b.binary(BinaryFn::Rem, n, two);
    let even = b.compare(CompareFn::Eq, parity, zero);
    let minus = b.unary(UnaryFn::Neg, v);
    let v = b.select(even, minus, v);
    let (first, d) = (b.compare(CompareFn::Eq, n, zero), b.unary(UnaryFn::Digamma, x));
    let v = b.select(first, d, v);
    let whole = b.unary(UnaryFn::Floor, n);
    let (integer, natural) = (b.compare(CompareFn::Eq, whole, n), b.compare(CompareFn::Ge, n, zero));
    let valid = b.binary(BinaryFn::And, integer, natural);
    let nan = b.splat_like(v, f64::NAN);
    let v = b.select(valid, v, nan);
    Some(b.convert(v, tx.dtype))
}

/// All operands at one shape: ranks are aligned at the end (or by `dims` for the operand of lower rank), extents of 1 repeat.
fn broadcast(b: &mut Graph, operands: &[Number], dims: Option<&[usize]>) -> Option<Vec<Number>> {
    let rank = operands.iter().map(|x| b.shape(x.re).len()).max()?;
    let places = |b: &Graph, x: &Number| -> Option<Vec<usize>> {
        let own = b.shape(x.re).len();
        match dims {
            Some(d) if own < rank => (d.len() == own && d.iter().all(|d| *d < rank)).then(|| d.to_vec()),
            _ => Some((rank - own..rank).collect()),
        }
    };
    let mut shape = vec![1; rank];
    for x in operands {
        for (i, d) in places(b, x)?.into_iter().enumerate() {
            let e = b.shape(x.re)[i];
            if e != 1 && shape[d] != 1 && shape[d] != e {
                return None;
            }
            if e != 1 {
                shape[d] = e;
            }
        }
    }
    operands
        .iter()
        .map(|x| {
            let map = places(b, x)?;
            let increasing = map.windows(2).all(|w| w[0] < w[1]);
            increasing.then(|| build::each(b, *x, |b, v| b.broadcast(v, &shape, &map)))
        })
        .collect()
}
