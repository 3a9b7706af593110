//! Elementwise arithmetic, comparisons, logic and casts.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, malformed, one, unsupported};
use super::super::tensor::dtype_of;
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::types::{DType, NumberKind};

/// Functions of one tensor that the IR has under another name.
pub fn unary(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let f = match call.op {
        "Abs" => UnaryFn::Abs,
        "Neg" => UnaryFn::Neg,
        "Sign" => UnaryFn::Sign,
        "Floor" => UnaryFn::Floor,
        "Ceil" => UnaryFn::Ceil,
        "Round" => UnaryFn::RoundEven,
        "Sqrt" => UnaryFn::Sqrt,
        "Exp" => UnaryFn::Exp,
        "Log" => UnaryFn::Log,
        "Sin" => UnaryFn::Sin,
        "Cos" => UnaryFn::Cos,
        "Tan" => UnaryFn::Tan,
        "Asin" => UnaryFn::Asin,
        "Acos" => UnaryFn::Acos,
        "Atan" => UnaryFn::Atan,
        "Sinh" => UnaryFn::Sinh,
        "Cosh" => UnaryFn::Cosh,
        "Asinh" => UnaryFn::Asinh,
        "Acosh" => UnaryFn::Acosh,
        "Atanh" => UnaryFn::Atanh,
        "Tanh" => UnaryFn::Tanh,
        "Sigmoid" => UnaryFn::Logistic,
        "Erf" => UnaryFn::Erf,
        "Not" | "BitwiseNot" => UnaryFn::Not,
        "IsNaN" => UnaryFn::IsNan,
        other => return unsupported(format!("{other} has no elementwise function")),
    };
    if f == UnaryFn::Abs && b.dtype(x).kind() == NumberKind::Unsigned {
        return one(x);
    }
    one(b.unary(f, x)?)
}

/// `1 / x`.
pub fn reciprocal(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let unit = b.like(x, 1.0)?;
    one(b.binary(BinaryFn::Div, unit, x)?)
}

/// `x` is an infinity of a wanted sign.
pub fn is_inf(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let both = b.unary(UnaryFn::IsInf, x)?;
    let zero = b.like(x, 0.0)?;
    let sign = match (call.flag("detect_negative", true)?, call.flag("detect_positive", true)?) {
        (true, true) => return one(both),
        (true, false) => b.compare(CompareFn::Lt, x, zero)?,
        (false, true) => b.compare(CompareFn::Gt, x, zero)?,
        (false, false) => b.compare(CompareFn::Ne, x, x).and_then(|nan| b.binary(BinaryFn::And, nan, both))?,
    };
    one(b.binary(BinaryFn::And, both, sign)?)
}

/// Functions of two tensors, broadcast against each other.
pub fn binary(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, y) = (call.input(0)?, old_broadcast(b, call)?);
    let f = match call.op {
        "Add" => BinaryFn::Add,
        "Sub" => BinaryFn::Sub,
        "Mul" => BinaryFn::Mul,
        "Div" => BinaryFn::Div,
        "And" | "BitwiseAnd" => BinaryFn::And,
        "Or" | "BitwiseOr" => BinaryFn::Or,
        "Xor" | "BitwiseXor" => BinaryFn::Xor,
        other => return unsupported(format!("{other} has no elementwise function")),
    };
    one(b.binary(f, x, y)?)
}

/// The second operand under the `broadcast`/`axis` attributes of operator sets below 7.
fn old_broadcast(b: &mut Builder, call: &Call<'_>) -> Res<Val> {
    let (x, y) = (call.input(0)?, call.input(1)?);
    if call.opset >= 7 || !call.flag("broadcast", false)? {
        return Ok(y);
    }
    let Some(axis) = call.attrs.int("axis")? else { return Ok(y) };
    let (rank, shape) = (b.rank(x), b.dims(y));
    let axis = super::super::call::axis(axis, rank)?;
    let mut padded = shape.to_vec();
    if axis + padded.len() > rank {
        return malformed("the broadcast operand reaches behind the last dimension");
    }
    padded.resize(rank - axis, 1);
    b.reshape(y, &padded)
}

/// Remainder: of the divisor's sign (`fmod = 0`) or of the dividend's (`fmod = 1`).
pub fn modulo(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, y) = (call.input(0)?, call.input(1)?);
    let r = b.binary(BinaryFn::Rem, x, y)?;
    if call.flag("fmod", false)? || b.dtype(x).kind() == NumberKind::Unsigned {
        return one(r);
    }
    let zero = b.like(r, 0.0)?;
    let nonzero = b.compare(CompareFn::Ne, r, zero)?;
    let r_negative = b.compare(CompareFn::Lt, r, zero)?;
    let y_zero = b.like(y, 0.0)?;
    let y_negative = b.compare(CompareFn::Lt, y, y_zero)?;
    let differ = b.binary(BinaryFn::Xor, r_negative, y_negative)?;
    let wrap = b.binary(BinaryFn::And, nonzero, differ)?;
    let wrapped = b.binary(BinaryFn::Add, r, y)?;
    one(b.select(wrap, wrapped, r)?)
}

/// `x` to the power `y`, in the type of `x`.
pub fn pow(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, y) = (call.input(0)?, call.input(1)?);
    let (base, exponent) = (b.dtype(x), b.dtype(y));
    if base == exponent {
        if let Some(p) = b.constant(y).filter(|t| base.is_float() && t.ty().elements() == 1).map(|t| t.floats()[0]) {
            return power_by_constant(b, x, y, p);
        }
        return one(b.binary(BinaryFn::Pow, x, y)?);
    }
    if base.is_float() {
        let y = b.convert(y, base)?;
        return one(b.binary(BinaryFn::Pow, x, y)?);
    }
    if exponent.is_float() {
        let wide = b.convert(x, DType::F64)?;
        let y = b.convert(y, DType::F64)?;
        let p = b.binary(BinaryFn::Pow, wide, y)?;
        return one(b.convert(p, base)?);
    }
    let y = b.convert(y, base)?;
    one(b.binary(BinaryFn::Pow, x, y)?)
}

/// Small powers as products and roots, which are cheaper and have derivatives everywhere.
fn power_by_constant(b: &mut Builder, x: Val, y: Val, p: f64) -> Outputs {
    // The exponent may have a larger rank than the base.
    let shape = b.broadcast_shape(&b.dims(x), &b.dims(y))?;
    let x = b.broadcast_to(x, &shape)?;
    one(match p {
        1.0 => x,
        2.0 => b.binary(BinaryFn::Mul, x, x)?,
        3.0 => {
            let square = b.binary(BinaryFn::Mul, x, x)?;
            b.binary(BinaryFn::Mul, square, x)?
        }
        0.5 => b.unary(UnaryFn::Sqrt, x)?,
        _ => b.binary(BinaryFn::Pow, x, y)?,
    })
}

/// Shifts of unsigned integers.
pub fn bit_shift(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let f = match call.text("direction", "")? {
        "LEFT" => BinaryFn::Shl,
        "RIGHT" => BinaryFn::ShrLogical,
        other => return malformed(format!("direction is '{other}', not LEFT or RIGHT")),
    };
    let (x, y) = (call.input(0)?, call.input(1)?);
    one(b.binary(f, x, y)?)
}

/// Comparisons.
pub fn compare(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let f = match call.op {
        "Equal" => CompareFn::Eq,
        "Less" => CompareFn::Lt,
        "LessOrEqual" => CompareFn::Le,
        "Greater" => CompareFn::Gt,
        "GreaterOrEqual" => CompareFn::Ge,
        other => return unsupported(format!("{other} is no comparison")),
    };
    let (x, y) = (call.input(0)?, old_broadcast(b, call)?);
    one(b.compare(f, x, y)?)
}

/// `Max`, `Min`, `Sum` and `Mean` of any number of tensors.
pub fn variadic(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let f = match call.op {
        "Max" => BinaryFn::Max,
        "Min" => BinaryFn::Min,
        _ => BinaryFn::Add,
    };
    let all = call.all()?;
    let mut result = all[0];
    for v in &all[1..] {
        result = b.binary(f, result, *v)?;
    }
    if call.op == "Mean" {
        let count = b.like(result, all.len() as f64)?;
        result = b.binary(BinaryFn::Div, result, count)?;
    }
    one(result)
}

/// `x` where the condition holds, else `y`.
pub fn select(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (c, x, y) = (call.input(0)?, call.input(1)?, call.input(2)?);
    one(b.select(c, x, y)?)
}

/// `min(max(x, low), high)`.
pub fn clip(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let mut x = call.input(0)?;
    let (mut low, mut high) = (call.opt(1)?, call.opt(2)?);
    if call.opset < 11 {
        low = call.attrs.float("min")?.map(|v| b.like(x, v)).transpose()?;
        high = call.attrs.float("max")?.map(|v| b.like(x, v)).transpose()?;
    }
    if let Some(low) = low {
        x = b.binary(BinaryFn::Max, x, low)?;
    }
    if let Some(high) = high {
        x = b.binary(BinaryFn::Min, x, high)?;
    }
    one(x)
}

/// Conversion to the type of an attribute.
pub fn cast(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let code = match call.attrs.int("to") {
        Ok(Some(code)) => code,
        // The first operator sets name the type.
        _ => match call.text("to", "")? {
            "FLOAT" => 1,
            "INT32" => 6,
            "INT64" => 7,
            "BOOL" => 9,
            "DOUBLE" => 11,
            other => return unsupported(format!("a cast to '{other}'")),
        },
    };
    match dtype_of(i32::try_from(code).unwrap_or(0)) {
        Ok(dtype) => one(b.convert(x, dtype)?),
        Err("undefined") => malformed(format!("there is no element type {code}")),
        Err(name) => unsupported(format!("a cast to {name}")),
    }
}

/// Conversion to the type of the second input.
pub fn cast_like(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, like) = (call.input(0)?, call.input(1)?);
    let dtype = b.dtype(like);
    one(b.convert(x, dtype)?)
}
