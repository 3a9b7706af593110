//! Normalizations.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, axis, malformed, one};
use girih_ir::attr::Real;
use girih_ir::ops::{layer_norm::LayerNorm, rms_norm::RmsNorm};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::DType;

/// The type in which a normalization computes: at least f32.
fn wide(b: &Builder, x: Val) -> DType {
    match b.dtype(x) {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// One number a channel, shaped to broadcast against `[N, C, …]`.
pub fn per_channel(b: &mut Builder, v: Val, rank: usize) -> Res<Val> {
    let mut shape = vec![1; rank];
    shape[1] = girih_ir::types::element_count(&b.dims(v));
    b.reshape(v, &shape)
}

/// Mean and (population) variance over dimensions, kept.
pub fn moments(b: &mut Builder, x: Val, dims: &[usize]) -> Res<(Val, Val)> {
    let mean = b.mean(x, dims, true)?;
    let centered = b.binary(BinaryFn::Sub, x, mean)?;
    let square = b.binary(BinaryFn::Mul, centered, centered)?;
    Ok((mean, b.mean(square, dims, true)?))
}

/// `(x - mean) / √(variance + ε)`.
fn normalize(b: &mut Builder, x: Val, mean: Val, variance: Val, epsilon: f64) -> Res<(Val, Val)> {
    let centered = b.binary(BinaryFn::Sub, x, mean)?;
    let shifted = b.shift(variance, epsilon)?;
    let inverse = b.unary(UnaryFn::Rsqrt, shifted)?;
    Ok((b.binary(BinaryFn::Mul, centered, inverse)?, inverse))
}

/// `BatchNormalization` with the running statistics, or with those of the batch.
pub fn batch_norm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let (scale, bias, mean, variance) = (call.input(1)?, call.input(2)?, call.input(3)?, call.input(4)?);
    let rank = b.rank(x);
    if rank < 2 {
        return malformed("the input must have at least 2 dimensions");
    }
    let epsilon = call.float("epsilon", 1e-5)?;
    let momentum = call.float("momentum", 0.9)?;
    let in_file = if call.opset >= 14 { call.flag("training_mode", false)? } else { call.wants(1) };
    let training = in_file || b.batch_statistics;
    let (w, out) = (wide(b, x), b.dtype(x));
    let x = b.convert(x, w)?;
    let mut outputs = vec![];
    let mut updates = None;
    let (m, v) = if training {
        let others: Vec<usize> = (0..rank).filter(|d| *d != 1).collect();
        let (m, v) = moments(b, x, &others)?;
        // PyTorch's running variance is the unbiased one; ONNX says population.
        let dims = b.dims(x);
        let count: usize = others.iter().map(|d| dims[*d]).product();
        let unbiased = if in_file || count < 2 { 1.0 } else { count as f64 / (count as f64 - 1.0) };
        let new_mean = running(b, mean, m, momentum, 1.0)?;
        let new_variance = running(b, variance, v, momentum, unbiased)?;
        b.buffer_update(mean, new_mean);
        b.buffer_update(variance, new_variance);
        updates = Some((new_mean, new_variance));
        (m, v)
    } else {
        let (m, v) = (b.convert(mean, w)?, b.convert(variance, w)?);
        (per_channel(b, m, rank)?, per_channel(b, v, rank)?)
    };
    let (y, _) = normalize(b, x, m, v, epsilon)?;
    let (scale, bias) = (b.convert(scale, w)?, b.convert(bias, w)?);
    let (scale, bias) = (per_channel(b, scale, rank)?, per_channel(b, bias, rank)?);
    let y = b.binary(BinaryFn::Mul, y, scale)?;
    let y = b.binary(BinaryFn::Add, y, bias)?;
    outputs.push(Value::Tensor(b.convert(y, out)?));
    if let Some((m, v)) = updates {
        outputs.extend([Value::Tensor(m), Value::Tensor(v)]);
    }
    Ok(outputs)
}

/// `old · momentum + batch · factor · (1 - momentum)`, one a channel.
fn running(b: &mut Builder, old: Val, batch: Val, momentum: f64, factor: f64) -> Res<Val> {
    let (shape, dtype) = (b.dims(old), b.dtype(old));
    let batch = b.reshape(batch, &shape)?;
    let batch = b.convert(batch, dtype)?;
    let kept = b.scale(old, momentum)?;
    let fresh = b.scale(batch, factor * (1.0 - momentum))?;
    b.binary(BinaryFn::Add, kept, fresh)
}

/// `InstanceNormalization`.
pub fn instance_norm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let rank = b.rank(x);
    if rank < 3 {
        return malformed("the input must have at least 3 dimensions");
    }
    let (w, out) = (wide(b, x), b.dtype(x));
    let (x, scale, bias) = (b.convert(x, w)?, b.convert(scale, w)?, b.convert(bias, w)?);
    let spatial: Vec<usize> = (2..rank).collect();
    let (mean, variance) = moments(b, x, &spatial)?;
    let (y, _) = normalize(b, x, mean, variance, call.float("epsilon", 1e-5)?)?;
    let (scale, bias) = (per_channel(b, scale, rank)?, per_channel(b, bias, rank)?);
    let y = b.binary(BinaryFn::Mul, y, scale)?;
    let y = b.binary(BinaryFn::Add, y, bias)?;
    one(b.convert(y, out)?)
}

/// `LayerNormalization` over the trailing dimensions from `axis` on.
pub fn layer_norm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.opt(2)?);
    let rank = b.rank(x);
    let dims: Vec<usize> = (axis(call.int("axis", -1)?, rank)?..rank).collect();
    let (w, out) = (wide(b, x), b.dtype(x));
    let epsilon = call.float("epsilon", 1e-5)?;
    let row = b.dims(x)[dims[0]..].to_vec();
    if b.dims(scale).as_slice() == row && !call.wants(1) && !call.wants(2) {
        let bias = match bias {
            Some(v) => v,
            None => b.like(x, 0.0)?,
        };
        let bias = b.broadcast_to(bias, &row)?;
        let op = LayerNorm { trailing: dims.len(), eps: Real::new(epsilon) };
        return one(b.emit(op, &[x, scale, bias])?);
    }
    let x = b.convert(x, w)?;
    let (mean, variance) = moments(b, x, &dims)?;
    let (y, inverse) = normalize(b, x, mean, variance, epsilon)?;
    let scale = b.convert(scale, w)?;
    let mut y = b.binary(BinaryFn::Mul, y, scale)?;
    if let Some(bias) = bias {
        let bias = b.convert(bias, w)?;
        y = b.binary(BinaryFn::Add, y, bias)?;
    }
    let y = b.convert(y, out)?;
    Ok(vec![y.into(), mean.into(), inverse.into()])
}

/// `RMSNormalization`.
pub fn rms_norm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, scale) = (call.input(0)?, call.input(1)?);
    let rank = b.rank(x);
    let dims: Vec<usize> = (axis(call.int("axis", -1)?, rank)?..rank).collect();
    let (w, out) = (wide(b, x), b.dtype(x));
    let epsilon = call.float("epsilon", 1e-5)?;
    if b.dims(scale)[..] == b.dims(x)[dims[0]..] && b.dtype(scale) == out {
        return one(b.emit(RmsNorm { trailing: dims.len(), eps: Real::new(epsilon) }, &[x, scale])?);
    }
    let x = b.convert(x, w)?;
    let square = b.binary(BinaryFn::Mul, x, x)?;
    let mean = b.mean(square, &dims, true)?;
    let shifted = b.shift(mean, epsilon)?;
    let inverse = b.unary(UnaryFn::Rsqrt, shifted)?;
    let y = b.binary(BinaryFn::Mul, x, inverse)?;
    let scale = b.convert(scale, w)?;
    let y = b.binary(BinaryFn::Mul, y, scale)?;
    one(b.convert(y, out)?)
}

/// `GroupNormalization`: scale and bias a group (operator set 18) or a channel (since 21).
pub fn group_norm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let dims = b.dims(x);
    let groups = usize::try_from(call.int("num_groups", 0)?).unwrap_or(0);
    if dims.len() < 2 || groups == 0 || !dims[1].is_multiple_of(groups) {
        return malformed(format!("{groups} groups do not divide the channels of {dims:?}"));
    }
    let (w, out) = (wide(b, x), b.dtype(x));
    let x = b.convert(x, w)?;
    let mut grouped = vec![dims[0], groups, dims[1] / groups];
    grouped.extend_from_slice(&dims[2..]);
    let x = b.reshape(x, &grouped)?;
    let inner: Vec<usize> = (2..grouped.len()).collect();
    let (mean, variance) = moments(b, x, &inner)?;
    let (mut y, _) = normalize(b, x, mean, variance, call.float("epsilon", 1e-5)?)?;
    let per_group = b.dims(scale).as_slice() == [groups] && (call.opset < 21 || groups == dims[1]);
    for (v, f) in [(scale, BinaryFn::Mul), (bias, BinaryFn::Add)] {
        let v = b.convert(v, w)?;
        let mut shape = vec![1; grouped.len()];
        shape[1] = groups;
        if !per_group {
            shape[2] = grouped[2];
        }
        let v = b.reshape(v, &shape)?;
        y = b.binary(f, y, v)?;
    }
    let y = b.reshape(y, &dims)?;
    one(b.convert(y, out)?)
}

/// `LRN`: by the sum of squares of neighboring channels.
pub fn lrn(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    let size = usize::try_from(call.int("size", 0)?).unwrap_or(0);
    if size == 0 || rank < 2 {
        return malformed("the size is missing");
    }
    let (alpha, beta, bias) = (call.float("alpha", 1e-4)?, call.float("beta", 0.75)?, call.float("bias", 1.0)?);
    let square = b.binary(BinaryFn::Mul, x, x)?;
    let (mut window, mut low, mut high) = (vec![1; rank], vec![0i64; rank], vec![0i64; rank]);
    window[1] = size;
    (low[1], high[1]) = (((size - 1) / 2) as i64, (size - 1 - (size - 1) / 2) as i64);
    let ones = vec![1; rank];
    let sum = b.reduce_window(Monoid::Sum, square, &window, &ones, &ones, &low, &high)?;
    let scaled = b.scale(sum, alpha / size as f64)?;
    let base = b.shift(scaled, bias)?;
    let power = b.like(base, beta)?;
    let divisor = b.binary(BinaryFn::Pow, base, power)?;
    one(b.binary(BinaryFn::Div, x, divisor)?)
}

/// `MeanVarianceNormalization`.
pub fn mvn(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    let dims = super::super::call::axes(call.attrs.ints("axes")?.unwrap_or(&[0, 2, 3]), rank)?;
    let (mean, variance) = moments(b, x, &dims)?;
    let centered = b.binary(BinaryFn::Sub, x, mean)?;
    let deviation = b.unary(UnaryFn::Sqrt, variance)?;
    let deviation = b.shift(deviation, 1e-9)?;
    one(b.binary(BinaryFn::Div, centered, deviation)?)
}

/// `LpNormalization`; a zero vector stays zero.
pub fn lp_norm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let at = axis(call.int("axis", -1)?, b.rank(x))?;
    let norm = match call.int("p", 2)? {
        1 => {
            let a = b.unary(UnaryFn::Abs, x)?;
            b.reduce(Monoid::Sum, a, &[at], true)?
        }
        2 => {
            let square = b.binary(BinaryFn::Mul, x, x)?;
            let sum = b.reduce(Monoid::Sum, square, &[at], true)?;
            b.unary(UnaryFn::Sqrt, sum)?
        }
        p => return malformed(format!("p is {p}, not 1 or 2")),
    };
    let (zero, unit) = (b.like(norm, 0.0)?, b.like(norm, 1.0)?);
    let empty = b.compare(CompareFn::Eq, norm, zero)?;
    let norm = b.select(empty, unit, norm)?;
    one(b.binary(BinaryFn::Div, x, norm)?)
}
