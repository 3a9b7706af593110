//! The optimizer ops of `ai.onnx.preview.training`: one update of any number of tensors.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, malformed};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};

/// Inputs after the learning rate and the step: groups of tensors, `[X…, G…, V…]`.
fn groups(call: &Call<'_>, kinds: usize) -> Res<Vec<Vec<Val>>> {
    let all = call.all()?;
    let tensors = &all[2.min(all.len())..];
    if tensors.is_empty() || tensors.len() % kinds != 0 {
        return malformed(format!("{} tensors do not make groups of {kinds}", tensors.len()));
    }
    let n = tensors.len() / kinds;
    Ok((0..n).map(|i| (0..kinds).map(|k| tensors[k * n + i]).collect()).collect())
}

/// Outputs group by group: all new tensors, then all new states.
fn regroup(updated: Vec<Vec<Val>>) -> Outputs {
    let kinds = updated.first().map_or(0, Vec::len);
    Ok((0..kinds).flat_map(|k| updated.iter().map(move |u| Value::Tensor(u[k]))).collect())
}

/// `g + norm_coefficient · x`.
fn regularized(b: &mut Builder, call: &Call<'_>, x: Val, g: Val) -> Res<Val> {
    let decay = b.scale(x, call.float("norm_coefficient", 0.0)?)?;
    if call.float("norm_coefficient", 0.0)? == 0.0 { Ok(g) } else { b.binary(BinaryFn::Add, g, decay) }
}

/// `a · x + (1 - a) · y`.
fn average(b: &mut Builder, a: f64, x: Val, y: Val) -> Res<Val> {
    let (x, y) = (b.scale(x, a)?, b.scale(y, 1.0 - a)?);
    b.binary(BinaryFn::Add, x, y)
}

/// `Momentum`, standard or Nesterov.
pub fn momentum(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (rate, step) = (call.input(0)?, call.input(1)?);
    let (alpha, beta) = (call.float("alpha", 0.0)?, call.float("beta", 0.0)?);
    let mode = call.text("mode", "standard")?;
    let mut updated = Vec::new();
    for group in groups(call, 3)? {
        let [x, g, v] = group[..] else { return malformed("a group has three tensors") };
        let g = regularized(b, call, x, g)?;
        let rate = b.convert(rate, b.dtype(x))?;
        // The first step takes the gradient whole.
        let zero = b.like(step, 0.0)?;
        let later = b.compare(CompareFn::Gt, step, zero)?;
        let (beta, first) = (b.like(x, beta)?, b.like(x, 1.0)?);
        let beta = b.select(later, beta, first)?;
        let kept = b.scale(v, alpha)?;
        let fresh = b.binary(BinaryFn::Mul, g, beta)?;
        let v = b.binary(BinaryFn::Add, kept, fresh)?;
        let direction = match mode {
            "standard" => v,
            "nesterov" => {
                let ahead = b.scale(v, alpha)?;
                b.binary(BinaryFn::Add, g, ahead)?
            }
            other => return malformed(format!("there is no mode '{other}'")),
        };
        let moved = b.binary(BinaryFn::Mul, direction, rate)?;
        updated.push(vec![b.binary(BinaryFn::Sub, x, moved)?, v]);
    }
    regroup(updated)
}

/// `Adagrad`.
pub fn adagrad(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (rate, step) = (call.input(0)?, call.input(1)?);
    let mut updated = Vec::new();
    for group in groups(call, 3)? {
        let [x, g, h] = group[..] else { return malformed("a group has three tensors") };
        let dtype = b.dtype(x);
        let (rate, step) = (b.convert(rate, dtype)?, b.convert(step, dtype)?);
        let slowed = b.scale(step, call.float("decay_factor", 0.0)?)?;
        let slowed = b.shift(slowed, 1.0)?;
        let rate = b.binary(BinaryFn::Div, rate, slowed)?;
        let g = regularized(b, call, x, g)?;
        let square = b.binary(BinaryFn::Mul, g, g)?;
        let h = b.binary(BinaryFn::Add, h, square)?;
        let root = b.unary(UnaryFn::Sqrt, h)?;
        let root = b.shift(root, call.float("epsilon", 1e-6)?)?;
        let direction = b.binary(BinaryFn::Div, g, root)?;
        let moved = b.binary(BinaryFn::Mul, direction, rate)?;
        updated.push(vec![b.binary(BinaryFn::Sub, x, moved)?, h]);
    }
    regroup(updated)
}

/// `Adam`, with the bias correction folded into the learning rate.
pub fn adam(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (rate, step) = (call.input(0)?, call.input(1)?);
    let (alpha, beta) = (call.float("alpha", 0.9)?, call.float("beta", 0.999)?);
    let mut updated = Vec::new();
    for group in groups(call, 4)? {
        let [x, g, v, h] = group[..] else { return malformed("a group has four tensors") };
        let g = regularized(b, call, x, g)?;
        let v = average(b, alpha, v, g)?;
        let square = b.binary(BinaryFn::Mul, g, g)?;
        let h = average(b, beta, h, square)?;
        let root = b.unary(UnaryFn::Sqrt, h)?;
        let root = b.shift(root, call.float("epsilon", 1e-8)?)?;
        let dtype = b.dtype(x);
        let (rate, t) = (b.convert(rate, dtype)?, b.convert(step, dtype)?);
        let left = |b: &mut Builder, base: f64| -> Res<Val> {
            let base = b.like(t, base)?;
            let power = b.binary(BinaryFn::Pow, base, t)?;
            let unit = b.like(power, 1.0)?;
            b.binary(BinaryFn::Sub, unit, power)
        };
        let (first, second) = (left(b, alpha)?, left(b, beta)?);
        let second = b.unary(UnaryFn::Sqrt, second)?;
        let corrected = b.binary(BinaryFn::Mul, rate, second)?;
        let corrected = b.binary(BinaryFn::Div, corrected, first)?;
        let zero = b.like(t, 0.0)?;
        let later = b.compare(CompareFn::Gt, t, zero)?;
        let rate = b.select(later, corrected, rate)?;
        let direction = b.binary(BinaryFn::Div, v, root)?;
        let moved = b.binary(BinaryFn::Mul, direction, rate)?;
        let x = b.binary(BinaryFn::Sub, x, moved)?;
        let x = b.scale(x, 1.0 - call.float("norm_coefficient_post", 0.0)?)?;
        updated.push(vec![x, v, h]);
    }
    regroup(updated)
}
