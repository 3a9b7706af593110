//! Indexing: gather, scatter, one-hot, top-k and their kin.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, axis, malformed, one, unsupported};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

/// Indices counted from the end made positive.
pub fn positive(b: &mut Builder, index: Val, extent: usize) -> Res<Val> {
    let index = b.convert(index, DType::I64)?;
    if b.constant(index).is_some_and(|t| t.ints().iter().all(|i| *i >= 0)) {
        return Ok(index);
    }
    let zero = b.int_scalar(0)?;
    let negative = b.compare(CompareFn::Lt, index, zero)?;
    let n = b.int_scalar(extent as i64)?;
    let wrapped = b.binary(BinaryFn::Add, index, n)?;
    b.select(negative, wrapped, index)
}

/// `Gather`: whole slices by index along an axis.
pub fn gather(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, index) = (call.input(0)?, call.input(1)?);
    let at = axis(call.int("axis", 0)?, b.rank(x))?;
    let extent = b.dims(x)[at];
    // One constant index is a slice, which is cheaper and splits well.
    if let Some(t) = b.constant(index).filter(|t| t.ty().elements() == 1) {
        let i = t.ints()[0];
        let i = if i < 0 { i + extent as i64 } else { i };
        if i < 0 || i >= extent as i64 {
            return malformed(format!("index {i} is outside dimension {at} of extent {extent}"));
        }
        let mut shape = b.dims(x).to_vec();
        shape.splice(at..=at, b.dims(index));
        let row = b.slice_axis(x, at, i as usize, i as usize + 1, 1)?;
        return one(b.reshape(row, &shape)?);
    }
    let index = positive(b, index, extent)?;
    one(b.take(x, index, at)?)
}

/// `GatherElements`.
pub fn gather_elements(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, index) = (call.input(0)?, call.input(1)?);
    let at = axis(call.int("axis", 0)?, b.rank(x))?;
    let index = positive(b, index, b.dims(x)[at])?;
    one(b.take_along(x, index, at)?)
}

/// Index tuples (last dimension) made positive against the extents that they index.
fn positive_tuples(b: &mut Builder, index: Val, extents: &[usize]) -> Res<Val> {
    let index = b.convert(index, DType::I64)?;
    if b.constant(index).is_some_and(|t| t.ints().iter().all(|i| *i >= 0)) {
        return Ok(index);
    }
    let limits: Vec<i64> = extents.iter().map(|e| *e as i64).collect();
    let zero = b.int_scalar(0)?;
    let negative = b.compare(CompareFn::Lt, index, zero)?;
    let limits = b.ints(&limits)?;
    let wrapped = b.binary(BinaryFn::Add, index, limits)?;
    b.select(negative, wrapped, index)
}

/// `GatherND`.
pub fn gather_nd(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, index) = (call.input(0)?, call.input(1)?);
    let batch = usize::try_from(call.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let (dims, index_dims) = (b.dims(x), b.dims(index));
    let Some(depth) = index_dims.last().copied() else { return malformed("the indices are a scalar") };
    if batch >= index_dims.len() || batch.saturating_add(depth) > dims.len() || dims[..batch] != index_dims[..batch] {
        return malformed(format!("indices {index_dims:?} do not fit data {dims:?}"));
    }
    let index = positive_tuples(b, index, &dims[batch..batch + depth])?;
    one(b.gather_nd(x, index, batch)?)
}

/// The combiner of a scatter, from `reduction`.
fn combiner(call: &Call<'_>) -> Res<Option<Monoid>> {
    Ok(match call.text("reduction", "none")? {
        "none" => None,
        "add" => Some(Monoid::Sum),
        "mul" => Some(Monoid::Prod),
        "max" => Some(Monoid::Max),
        "min" => Some(Monoid::Min),
        other => return malformed(format!("there is no reduction '{other}'")),
    })
}

/// `ScatterND`.
pub fn scatter_nd(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, index, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let (dims, index_dims) = (b.dims(x), b.dims(index));
    let Some(depth) = index_dims.last().copied() else { return malformed("the indices are a scalar") };
    if depth > dims.len() {
        return malformed(format!("indices {index_dims:?} do not fit data {dims:?}"));
    }
    let mut want = index_dims[..index_dims.len() - 1].to_vec();
    want.extend_from_slice(&dims[depth..]);
    if b.dims(updates).as_slice() != want {
        return malformed(format!("updates {:?} do not fit; they must be {want:?}", b.dims(updates)));
    }
    let index = positive_tuples(b, index, &dims[..depth])?;
    one(b.scatter_nd(x, index, updates, combiner(call)?)?)
}

/// `ScatterElements` and the old `Scatter`: as a `ScatterND` with full index tuples.
pub fn scatter_elements(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, index, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let (dims, shape) = (b.dims(x), b.dims(index));
    let at = axis(call.int("axis", 0)?, dims.len())?;
    if b.dims(updates) != shape || shape.len() != dims.len() {
        return malformed(format!("indices {shape:?} and updates {:?} differ", b.dims(updates)));
    }
    let index = positive(b, index, dims[at])?;
    let tuples = full_tuples(b, index, at)?;
    one(b.scatter_nd(x, tuples, updates, combiner(call)?)?)
}

/// Index tuples `(i0, …, index, …)` for indices along one axis.
pub fn full_tuples(b: &mut Builder, index: Val, at: usize) -> Res<Val> {
    let shape = b.dims(index);
    let mut tuple_shape = shape.to_vec();
    tuple_shape.push(1);
    let mut parts = Vec::new();
    for (d, extent) in shape.iter().enumerate() {
        let part = if d == at {
            index
        } else {
            let i = b.iota(DType::I64, *extent, d, shape.len())?;
            b.broadcast_to(i, &shape)?
        };
        parts.push(b.reshape(part, &tuple_shape)?);
    }
    b.concat(&parts, shape.len())
}

/// `OneHot`.
pub fn one_hot(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (index, values) = (call.input(0)?, call.input(2)?);
    let Some(depth) = call.known_int(b, 1, "depth")? else { return malformed("the depth is missing") };
    let depth = usize::try_from(depth).or_else(|_| malformed("the depth is negative"))?;
    let rank = b.rank(index);
    let at = axis(call.int("axis", -1)?, rank + 1)?;
    let index = positive(b, index, depth)?;
    let mut shape = b.dims(index).to_vec();
    shape.insert(at, 1);
    let index = b.reshape(index, &shape)?;
    let classes = b.iota(DType::I64, depth, at, rank + 1)?;
    let hit = b.compare(CompareFn::Eq, index, classes)?;
    if b.dims(values).as_slice() != [2] {
        return malformed("the values must be two: off and on");
    }
    let (off, on) = (b.slice_axis(values, 0, 0, 1, 1)?, b.slice_axis(values, 0, 1, 2, 1)?);
    let (off, on) = (b.reshape(off, &[])?, b.reshape(on, &[])?);
    one(b.select(hit, on, off)?)
}

/// `TopK`.
pub fn top_k(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let at = axis(call.int("axis", -1)?, dims.len())?;
    let k = match call.attrs.int("k")? {
        Some(k) => Some(k),
        None => call.known_int(b, 1, "k")?,
    };
    let Some(k) = k.and_then(|k| usize::try_from(k).ok()).filter(|k| *k <= dims[at]) else {
        return malformed(format!("k is missing or larger than {}", dims[at]));
    };
    let (values, indices) = b.top_k(x, at, k, call.flag("largest", true)?)?;
    Ok(vec![values.into(), indices.into()])
}

/// `NonZero` of a value known at import.
pub fn non_zero(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let t = b.known(x, "input (its count of non-zero elements is a shape)")?;
    let shape = t.shape().to_vec();
    let hits: Vec<_> = girih_ir::tensor::indices(&shape).zip(t.floats()).filter(|(_, v)| *v != 0.0).map(|(i, _)| i).collect();
    let values = (0..shape.len()).flat_map(|d| hits.iter().map(move |i| i[d] as i64)).collect();
    one(b.add_constant(Tensor::new_int(TensorType::new(DType::I64, [shape.len(), hits.len()]), values))?)
}

/// `Compress` with a condition known at import.
pub fn compress(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, condition) = (call.input(0)?, call.input(1)?);
    let keep = b.known_ints(condition, "condition")?;
    let (x, at) = match call.attrs.int("axis")? {
        Some(a) => (x, axis(a, b.rank(x))?),
        None => (b.reshape(x, &[girih_ir::types::element_count(&b.dims(x))])?, 0),
    };
    let extent = b.dims(x)[at];
    let picked: Vec<i64> = keep.iter().take(extent).enumerate().filter(|(_, c)| **c != 0).map(|(i, _)| i as i64).collect();
    let index = b.ints(&picked)?;
    one(b.take(x, index, at)?)
}

/// `TensorScatter`: a key/value cache written at a position along an axis.
pub fn tensor_scatter(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (cache, update) = (call.input(0)?, call.input(1)?);
    let dims = b.dims(cache);
    let at = axis(call.int("axis", -2)?, dims.len())?;
    let shape = b.dims(update);
    if shape.len() != dims.len() {
        return malformed(format!("an update of {shape:?} does not fit {dims:?}"));
    }
    let (batch, steps) = (dims[0], shape[at]);
    let starts = match call.opt(2)? {
        Some(v) => b.convert(v, DType::I64)?,
        None => {
            let zero = b.int_scalar(0)?;
            b.broadcast_to(zero, &[batch])?
        }
    };
    let mut spread = vec![1; dims.len()];
    spread[0] = batch;
    let starts = b.reshape(starts, &spread)?;
    let step = b.iota(DType::I64, steps, at, dims.len())?;
    let mut position = b.binary(BinaryFn::Add, starts, step)?;
    match call.text("mode", "linear")? {
        "linear" => {}
        "circular" => {
            let n = b.int_scalar(dims[at] as i64)?;
            position = b.binary(BinaryFn::Rem, position, n)?;
        }
        other => return malformed(format!("there is no mode '{other}'")),
    }
    let position = b.broadcast_to(position, &shape)?;
    let tuples = full_tuples(b, position, at)?;
    one(b.scatter_nd(cache, tuples, update, None)?)
}

/// `ReverseSequence`: each batch entry reversed up to its own length.
pub fn reverse_sequence(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, lengths) = (call.input(0)?, call.input(1)?);
    let dims = b.dims(x);
    let (time, batch) = (axis(call.int("time_axis", 0)?, dims.len())?, axis(call.int("batch_axis", 1)?, dims.len())?);
    if time == batch || b.dims(lengths).as_slice() != [dims[batch]] {
        return malformed("the lengths do not fit the batch");
    }
    let mut spread = vec![1; dims.len()];
    spread[batch] = dims[batch];
    let lengths = b.convert(lengths, DType::I64)?;
    let lengths = b.reshape(lengths, &spread)?;
    let t = b.iota(DType::I64, dims[time], time, dims.len())?;
    let last = b.shift(lengths, -1.0)?;
    let mirrored = b.binary(BinaryFn::Sub, last, t)?;
    let inside = b.compare(CompareFn::Lt, t, lengths)?;
    let index = b.select(inside, mirrored, t)?;
    let index = b.broadcast_to(index, &dims)?;
    one(b.take_along(x, index, time)?)
}

/// `Unique` of a value known at import.
pub fn unique(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    if call.attrs.has("axis") {
        return unsupported("unique slices along an axis");
    }
    let t = b.known(x, "input (its count of distinct elements is a shape)")?;
    if t.ty().elements() > 1 << 13 {
        return unsupported("the distinct elements of a large tensor");
    }
    let values = t.floats();
    let mut distinct: Vec<(f64, i64, i64)> = Vec::new();
    let mut inverse = Vec::with_capacity(values.len());
    for (i, v) in values.iter().enumerate() {
        match distinct.iter().position(|d| d.0 == *v) {
            Some(k) => {
                distinct[k].2 += 1;
                inverse.push(k);
            }
            None => {
                inverse.push(distinct.len());
                distinct.push((*v, i as i64, 1));
            }
        }
    }
    let mut order: Vec<usize> = (0..distinct.len()).collect();
    if call.flag("sorted", true)? {
        order.sort_by(|a, c| distinct[*a].0.total_cmp(&distinct[*c].0));
    }
    let mut rank_of = vec![0i64; order.len()];
    order.iter().enumerate().for_each(|(rank, k)| rank_of[*k] = rank as i64);
    let first: Vec<i64> = order.iter().map(|k| distinct[*k].1).collect();
    let counts: Vec<i64> = order.iter().map(|k| distinct[*k].2).collect();
    let inverse: Vec<i64> = inverse.iter().map(|k| rank_of[*k]).collect();
    let ty = TensorType::new(t.dtype(), [order.len()]);
    let picked = Tensor::pick(ty, &t, first.iter().map(|i| Some(*i as usize)), None);
    let (values, first) = (b.add_constant(picked)?, b.ints(&first)?);
    let (inverse, counts) = (b.ints(&inverse)?, b.ints(&counts)?);
    Ok([values, first, inverse, counts].map(Value::Tensor).to_vec())
}
