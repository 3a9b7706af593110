//! Reductions, arg-reductions, softmax and running sums.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, axes, axis, malformed, one, unsupported};
use girih_ir::ops::{arg_reduce::ArgReduce, cumulative::Cumulative, log_softmax::LogSoftmax, softmax::Softmax};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::DType;

/// The `Reduce…` family.
pub fn reduce(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    let listed = call.ints_or_input(b, "axes", 1)?.unwrap_or_default();
    let dims = match listed.is_empty() {
        true if call.flag("noop_with_empty_axes", false)? => Vec::new(),
        true => (0..rank).collect(),
        false => axes(&listed, rank)?,
    };
    let keep = call.flag("keepdims", true)?;
    one(match call.op {
        "ReduceSum" => b.reduce(Monoid::Sum, x, &dims, keep)?,
        "ReduceProd" => b.reduce(Monoid::Prod, x, &dims, keep)?,
        "ReduceMax" => b.reduce(Monoid::Max, x, &dims, keep)?,
        "ReduceMin" => b.reduce(Monoid::Min, x, &dims, keep)?,
        "ReduceMean" => b.mean(x, &dims, keep)?,
        "ReduceL1" => {
            let a = b.unary(UnaryFn::Abs, x)?;
            b.reduce(Monoid::Sum, a, &dims, keep)?
        }
        "ReduceL2" | "ReduceSumSquare" => {
            let square = b.binary(BinaryFn::Mul, x, x)?;
            let sum = b.reduce(Monoid::Sum, square, &dims, keep)?;
            if call.op == "ReduceL2" { b.unary(UnaryFn::Sqrt, sum)? } else { sum }
        }
        "ReduceLogSum" => {
            let sum = b.reduce(Monoid::Sum, x, &dims, keep)?;
            b.unary(UnaryFn::Log, sum)?
        }
        "ReduceLogSumExp" => {
            let v = log_sum_exp(b, x, &dims)?;
            if keep {
                v
            } else {
                let shape: Vec<usize> = b.dims(x).iter().enumerate().filter(|(d, _)| !dims.contains(d)).map(|(_, e)| *e).collect();
                b.reshape(v, &shape)?
            }
        }
        other => return unsupported(format!("{other} is no reduction")),
    })
}

/// `ln Σ eˣ`, kept dimensions; the maximum is taken out, unless it is infinite.
pub fn log_sum_exp(b: &mut Builder, x: Val, dims: &[usize]) -> Res<Val> {
    let max = b.reduce(Monoid::Max, x, dims, true)?;
    let finite = b.unary(UnaryFn::IsFinite, max)?;
    let zero = b.like(max, 0.0)?;
    let max = b.select(finite, max, zero)?;
    let shifted = b.binary(BinaryFn::Sub, x, max)?;
    let e = b.unary(UnaryFn::Exp, shifted)?;
    let sum = b.reduce(Monoid::Sum, e, dims, true)?;
    let log = b.unary(UnaryFn::Log, sum)?;
    b.binary(BinaryFn::Add, log, max)
}

/// `eˣ / Σ eˣ` over dimensions.
pub fn softmax_over(b: &mut Builder, x: Val, dims: &[usize]) -> Res<Val> {
    if let ([dim], true) = (dims, b.dtype(x).is_float()) {
        return b.emit(Softmax { dim: *dim }, &[x]);
    }
    let max = b.reduce(Monoid::Max, x, dims, true)?;
    let shifted = b.binary(BinaryFn::Sub, x, max)?;
    let e = b.unary(UnaryFn::Exp, shifted)?;
    let sum = b.reduce(Monoid::Sum, e, dims, true)?;
    b.binary(BinaryFn::Div, e, sum)
}

/// `x - max - ln Σ e^{x - max}` over dimensions.
pub fn log_softmax_over(b: &mut Builder, x: Val, dims: &[usize]) -> Res<Val> {
    if let ([dim], true) = (dims, b.dtype(x).is_float()) {
        return b.emit(LogSoftmax { dim: *dim }, &[x]);
    }
    let max = b.reduce(Monoid::Max, x, dims, true)?;
    let shifted = b.binary(BinaryFn::Sub, x, max)?;
    let e = b.unary(UnaryFn::Exp, shifted)?;
    let sum = b.reduce(Monoid::Sum, e, dims, true)?;
    let log = b.unary(UnaryFn::Log, sum)?;
    b.binary(BinaryFn::Sub, shifted, log)
}

/// `Softmax`, `LogSoftmax` and `Hardmax`: over one axis since operator set 13, over all axes from one on before.
pub fn softmax(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    let dims =
        if call.opset >= 13 { vec![axis(call.int("axis", -1)?, rank)?] } else { (axis(call.int("axis", 1)?, rank)?..rank).collect() };
    match call.op {
        "Softmax" => one(softmax_over(b, x, &dims)?),
        "LogSoftmax" => one(log_softmax_over(b, x, &dims)?),
        _ => hardmax(b, x, &dims),
    }
}

/// One at the first maximum, zero elsewhere.
fn hardmax(b: &mut Builder, x: Val, dims: &[usize]) -> Outputs {
    let shape = b.dims(x);
    let first = dims[0];
    let flat: usize = shape[first..].iter().product();
    let (x2, at) = if dims.len() > 1 {
        let mut two = shape[..first].to_vec();
        two.push(flat);
        (b.reshape(x, &two)?, first)
    } else {
        (x, first)
    };
    let rank = b.rank(x2);
    let best = arg(b, x2, at, true, false)?;
    let count = b.dims(x2)[at];
    let index = b.iota(DType::I64, count, at, rank)?;
    let hit = b.compare(CompareFn::Eq, index, best)?;
    let hit = b.convert(hit, b.dtype(x))?;
    one(b.reshape(hit, &shape)?)
}

/// The index of the largest (smallest) element along an axis, which stays with extent 1; of equal ones the first (last).
pub fn arg(b: &mut Builder, x: Val, at: usize, largest: bool, last: bool) -> Res<Val> {
    if b.dims(x)[at] == 0 {
        return malformed("an empty axis has no extremum");
    }
    let kind = if largest { Monoid::Max } else { Monoid::Min };
    let mut shape = b.dims(x);
    shape[at] = 1;
    let index = b.emit(ArgReduce { dim: at, kind, select_last: last, dtype: DType::I64 }, &[x])?;
    b.reshape(index, &shape)
}

/// `ArgMax` and `ArgMin`.
pub fn arg_reduce(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let at = axis(call.int("axis", 0)?, b.rank(x))?;
    let index = arg(b, x, at, call.op == "ArgMax", call.flag("select_last_index", false)?)?;
    if call.flag("keepdims", true)? {
        return one(index);
    }
    let mut shape = b.dims(index);
    shape.remove(at);
    one(b.reshape(index, &shape)?)
}

/// `CumSum` and `CumProd`.
pub fn cumulative(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let Some(at) = call.known_int(b, 1, "axis")? else { return malformed("the axis is missing") };
    let at = axis(at, b.rank(x))?;
    let monoid = if call.op == "CumSum" { Monoid::Sum } else { Monoid::Prod };
    let op = Cumulative { monoid, dim: at, exclusive: call.flag("exclusive", false)?, reverse: call.flag("reverse", false)? };
    one(b.emit(op, &[x])?)
}
