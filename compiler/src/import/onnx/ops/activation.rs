//! Activation functions, written so that their derivatives are finite wherever PyTorch's are.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, malformed, one, unsupported};
use girih_ir::ops::{gelu::Gelu, silu::Silu};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};

/// An activation node: parameters from its attributes.
pub fn activation(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let defaults = defaults(call.op);
    let alpha = call.float("alpha", defaults.0)?;
    let second = if call.op == "Selu" { "gamma" } else { "beta" };
    let beta = call.float(second, defaults.1)?;
    one(apply(b, call.op, x, alpha, beta)?)
}

/// The default `alpha` and `beta` (`gamma` for Selu) of an activation.
pub fn defaults(op: &str) -> (f64, f64) {
    match op {
        "LeakyRelu" => (0.01, 0.0),
        "HardSigmoid" => (0.2, 0.5),
        "Selu" => (1.67326319217681884765625, 1.05070102214813232421875),
        _ => (1.0, 0.0),
    }
}

/// An activation by name; recurrent ops name theirs too.
pub fn apply(b: &mut Builder, op: &str, x: Val, alpha: f64, beta: f64) -> Res<Val> {
    let zero = b.like(x, 0.0)?;
    match op {
        "Relu" => b.binary(BinaryFn::Max, x, zero),
        "Tanh" => b.unary(UnaryFn::Tanh, x),
        "Sigmoid" => b.unary(UnaryFn::Logistic, x),
        "Affine" => {
            let scaled = b.scale(x, alpha)?;
            b.shift(scaled, beta)
        }
        "ScaledTanh" => {
            let scaled = b.scale(x, beta)?;
            let t = b.unary(UnaryFn::Tanh, scaled)?;
            b.scale(t, alpha)
        }
        "LeakyRelu" => {
            let positive = b.compare(CompareFn::Gt, x, zero)?;
            let scaled = b.scale(x, alpha)?;
            b.select(positive, x, scaled)
        }
        "ThresholdedRelu" => {
            let limit = b.like(x, alpha)?;
            let above = b.compare(CompareFn::Gt, x, limit)?;
            b.select(above, x, zero)
        }
        "Elu" | "Selu" => {
            let positive = b.compare(CompareFn::Gt, x, zero)?;
            // Clamped, so that the branch not taken cannot overflow and spoil the derivative.
            let below = b.binary(BinaryFn::Min, x, zero)?;
            let e = b.unary(UnaryFn::Expm1, below)?;
            let e = b.scale(e, alpha)?;
            let y = b.select(positive, x, e)?;
            if op == "Selu" { b.scale(y, beta) } else { Ok(y) }
        }
        "Celu" => {
            let above = b.binary(BinaryFn::Max, x, zero)?;
            let below = b.binary(BinaryFn::Min, x, zero)?;
            let inner = b.scale(below, 1.0 / alpha)?;
            let e = b.unary(UnaryFn::Expm1, inner)?;
            let e = b.scale(e, alpha)?;
            b.binary(BinaryFn::Add, above, e)
        }
        "HardSigmoid" => {
            let scaled = b.scale(x, alpha)?;
            let line = b.shift(scaled, beta)?;
            b.clamp(line, 0.0, 1.0)
        }
        "HardSwish" => {
            let gate = apply(b, "HardSigmoid", x, 1.0 / 6.0, 0.5)?;
            b.binary(BinaryFn::Mul, x, gate)
        }
        "Softplus" => softplus(b, x),
        "Softsign" => {
            let a = b.unary(UnaryFn::Abs, x)?;
            let d = b.shift(a, 1.0)?;
            b.binary(BinaryFn::Div, x, d)
        }
        "Mish" => {
            let s = softplus(b, x)?;
            let t = b.unary(UnaryFn::Tanh, s)?;
            b.binary(BinaryFn::Mul, x, t)
        }
        "Swish" if alpha == 1.0 && b.dtype(x).is_float() => b.emit(Silu {}, &[x]),
        "Swish" => {
            let scaled = b.scale(x, alpha)?;
            let s = b.unary(UnaryFn::Logistic, scaled)?;
            b.binary(BinaryFn::Mul, x, s)
        }
        other => unsupported(format!("there is no activation '{other}'")),
    }
}

/// `ln(1 + eˣ)` without overflow.
fn softplus(b: &mut Builder, x: Val) -> Res<Val> {
    let zero = b.like(x, 0.0)?;
    let above = b.binary(BinaryFn::Max, x, zero)?;
    let a = b.unary(UnaryFn::Abs, x)?;
    let negative = b.unary(UnaryFn::Neg, a)?;
    let e = b.unary(UnaryFn::Exp, negative)?;
    let l = b.unary(UnaryFn::Log1p, e)?;
    b.binary(BinaryFn::Add, above, l)
}

/// Gelu, exact or by tanh.
pub fn gelu(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let tanh = match call.text("approximate", "none")? {
        "none" => false,
        "tanh" => true,
        other => return malformed(format!("approximate is '{other}', not none or tanh")),
    };
    if !b.dtype(x).is_float() {
        return malformed(format!("the input is {}", b.dtype(x)));
    }
    one(b.emit(Gelu { tanh }, &[x])?)
}

/// `x` where positive, else `slope · x`; the slope is broadcast to `x`.
pub fn prelu(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, mut slope) = (call.input(0)?, call.input(1)?);
    let (shape, slope_shape) = (b.dims(x), b.dims(slope));
    // Old operator sets and PyTorch give one slope a channel.
    if call.opset < 7 && slope_shape.len() == 1 && shape.len() > 2 && slope_shape[0] == shape[1] {
        let mut per_channel = vec![1; shape.len() - 1];
        per_channel[0] = slope_shape[0];
        slope = b.reshape(slope, &per_channel)?;
    }
    let zero = b.like(x, 0.0)?;
    let positive = b.compare(CompareFn::Gt, x, zero)?;
    let scaled = b.binary(BinaryFn::Mul, x, slope)?;
    one(b.select(positive, x, scaled)?)
}

/// Shrinks towards zero by `bias` outside `[-lambd, lambd]`, zero inside.
pub fn shrink(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let (bias, lambda) = (call.float("bias", 0.0)?, call.float("lambd", 0.5)?);
    let (low, high, zero) = (b.like(x, -lambda)?, b.like(x, lambda)?, b.like(x, 0.0)?);
    let (below, above) = (b.compare(CompareFn::Lt, x, low)?, b.compare(CompareFn::Gt, x, high)?);
    let (raised, lowered) = (b.shift(x, bias)?, b.shift(x, -bias)?);
    let y = b.select(above, lowered, zero)?;
    one(b.select(below, raised, y)?)
}
