//! Random numbers: dropout in training, and the operators that PyTorch's `rand`, `randn` and `bernoulli` become.
//!
//! ONNX leaves the generator open. Ours is counter-based: an operator has a seed of its own, and the counter is the number of the step, a
//! state of the graph (see [`Builder::draw`]), so that every step draws anew and a step of a given number always draws the same.

use super::super::build::Builder;
use super::super::call::{Call, Outputs, Res, Value, malformed, one, unsupported};
use super::super::tensor::dtype_of;
use girih_ir::ops::random::Distribution;
use girih_ir::scalar::{BinaryFn, CompareFn};
use girih_ir::types::{DType, Dims};

/// `Dropout`: the identity at inference, and in training when its ratio is 0; else elements are left out with a chance of its ratio.
pub fn dropout(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let training = match call.opt(2)? {
        Some(v) => b.known_ints(v, "training mode")?.first().is_some_and(|v| *v != 0),
        None => call.opset < 7 && !call.flag("is_test", false)?,
    };
    let ratio = match call.known(b, 1, "ratio")? {
        Some(t) => t.floats().first().copied().unwrap_or(0.5),
        None => call.float("ratio", 0.5)?,
    };
    if !(0.0..=1.0).contains(&ratio) {
        return malformed(format!("a ratio of {ratio}"));
    }
    let shape: Dims = b.dims(x);
    let dtype = if call.opset >= 10 { DType::Bool } else { b.dtype(x) };
    if !training || ratio == 0.0 {
        let mut outputs = vec![Value::Tensor(x)];
        if call.wants(1) {
            let yes = b.scalar(dtype, 1.0)?;
            outputs.push(Value::Tensor(b.broadcast_to(yes, &shape)?));
        }
        return Ok(outputs);
    }
    let chance = b.draw(Distribution::Uniform, DType::F32, &shape)?;
    let limit = b.scalar(DType::F32, ratio)?;
    let kept = b.compare(CompareFn::Ge, chance, limit)?;
    let grown = b.scale(x, if ratio < 1.0 { 1.0 / (1.0 - ratio) } else { 0.0 })?;
    let nothing = b.scalar(b.dtype(x), 0.0)?;
    let mut outputs = vec![Value::Tensor(b.select(kept, grown, nothing)?)];
    if call.wants(1) {
        outputs.push(Value::Tensor(b.convert(kept, dtype)?));
    }
    Ok(outputs)
}

/// `RandomUniform`, `RandomNormal` and the same `Like` another tensor.
pub fn random(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (shape, like) = match call.op.ends_with("Like") {
        true => {
            let x = call.input(0)?;
            (b.dims(x), Some(b.dtype(x)))
        }
        false => {
            let Some(list) = call.attrs.ints("shape")? else { return malformed("the attribute `shape` is missing") };
            let dims: Result<Dims, _> = list.iter().map(|d| usize::try_from(*d)).collect();
            let Ok(dims) = dims else { return malformed(format!("a shape of {list:?}")) };
            (dims, None)
        }
    };
    let dtype = declared(call, like.unwrap_or(DType::F32))?;
    let (distribution, scale, shift) = match call.op.starts_with("RandomNormal") {
        true => (Distribution::Normal, call.float("scale", 1.0)?, call.float("mean", 0.0)?),
        false => {
            let (low, high) = (call.float("low", 0.0)?, call.float("high", 1.0)?);
            (Distribution::Uniform, high - low, low)
        }
    };
    let v = b.draw(distribution, dtype, &shape)?;
    let v = b.scale(v, scale)?;
    if shift == 0.0 {
        return one(v);
    }
    let shift = b.like(v, shift)?;
    one(b.binary(BinaryFn::Add, v, shift)?)
}

/// `Bernoulli`: 1 with the chance that the operand says, else 0.
pub fn bernoulli(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    if !b.dtype(x).is_float() {
        return malformed(format!("chances of type {}", b.dtype(x)));
    }
    let to = match call.int("dtype", 0)? {
        0 => b.dtype(x),
        code => known_type(code)?,
    };
    let shape = b.dims(x);
    let drawn = b.draw(Distribution::Uniform, DType::F32, &shape)?;
    let chance = b.convert(x, DType::F32)?;
    let hit = b.compare(CompareFn::Lt, drawn, chance)?;
    one(b.convert(hit, to)?)
}

fn declared(call: &Call<'_>, default: DType) -> Res<DType> {
    let dtype = match call.int("dtype", 0)? {
        0 => default,
        code => known_type(code)?,
    };
    if dtype.is_float() { Ok(dtype) } else { unsupported(format!("random numbers of type {dtype}")) }
}

fn known_type(code: i64) -> Res<DType> {
    match i32::try_from(code).ok().and_then(|c| dtype_of(c).ok()) {
        Some(dtype) => Ok(dtype),
        None => unsupported(format!("the element type {code}")),
    }
}
