//! Shapes and data movement that a static shape decides: reshape, transpose, slice, pad, concatenate, …

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, axes, axis, malformed, one, unsupported};
use girih_ir::tensor::Tensor;
use girih_ir::types::element_count;

/// `Shape`, with `start` and `end`.
pub fn shape(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims: Vec<i64> = b.dims(x).iter().map(|d| *d as i64).collect();
    let rank = dims.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(call.int("start", 0)?), clamp(call.int("end", rank)?));
    one(b.ints(if start < end { &dims[start..end] } else { &[] })?)
}

/// `Size`.
pub fn size(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let count = element_count(&b.dims(x)) as i64;
    one(b.int_scalar(count)?)
}

/// `Reshape`: 0 copies an extent (unless `allowzero`), one −1 is inferred.
pub fn reshape(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let Some(wanted) = call.ints_or_input(b, "shape", 1)? else { return malformed("the shape is missing") };
    let dims = b.dims(x);
    let allow_zero = call.flag("allowzero", false)?;
    let mut target = Vec::with_capacity(wanted.len());
    let mut inferred = None;
    for (i, d) in wanted.iter().enumerate() {
        target.push(match *d {
            0 if !allow_zero => *dims.get(i).map_or_else(|| malformed("shape entry 0 copies a dimension that is not there"), Ok)?,
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            d => usize::try_from(d).map_or_else(|_| malformed(format!("shape entry {d}")), Ok)?,
        });
    }
    if let Some(i) = inferred {
        let (have, rest) = (element_count(&dims), element_count(&target));
        if rest == 0 || have % rest != 0 {
            return malformed(format!("{have} elements do not fill shape {wanted:?}"));
        }
        target[i] = have / rest;
    }
    one(b.reshape(x, &target)?)
}

/// `Flatten` to two dimensions.
pub fn flatten(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let at = call.int("axis", 1)?;
    let at = if at == dims.len() as i64 { dims.len() } else { axis(at, dims.len())? };
    one(b.reshape(x, &[element_count(&dims[..at]), element_count(&dims[at..])])?)
}

/// `Squeeze`.
pub fn squeeze(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let drop = match call.ints_or_input(b, "axes", 1)? {
        Some(list) => axes(&list, dims.len())?,
        None => (0..dims.len()).filter(|d| dims[*d] == 1).collect(),
    };
    if let Some(d) = drop.iter().find(|d| dims[**d] != 1) {
        return malformed(format!("dimension {d} has extent {} and cannot be squeezed", dims[*d]));
    }
    let target: Vec<usize> = (0..dims.len()).filter(|d| !drop.contains(d)).map(|d| dims[d]).collect();
    one(b.reshape(x, &target)?)
}

/// `Unsqueeze`.
pub fn unsqueeze(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let Some(list) = call.ints_or_input(b, "axes", 1)? else { return malformed("the axes are missing") };
    let dims = b.dims(x);
    if list.len() > b.limits.rank {
        return malformed("there are more axes than dimensions are allowed");
    }
    let added = axes(&list, dims.len() + list.len())?;
    let mut old = dims.iter();
    let target: Vec<usize> =
        (0..dims.len() + list.len()).map(|d| if added.contains(&d) { 1 } else { old.next().copied().unwrap_or(1) }).collect();
    one(b.reshape(x, &target)?)
}

/// `Transpose`; without `perm` the dimensions are reversed.
pub fn transpose(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    let perm = match call.attrs.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(list) => list.iter().map(|a| axis(*a, rank)).collect::<Res<Vec<_>>>()?,
    };
    let mut seen = perm.clone();
    seen.sort_unstable();
    if seen != (0..rank).collect::<Vec<_>>() {
        return malformed(format!("{perm:?} is no permutation of {rank} dimensions"));
    }
    one(b.transpose(x, &perm)?)
}

/// `Expand`: broadcast in both directions.
pub fn expand(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, s) = (call.input(0)?, call.input(1)?);
    let wanted = b.known_dims(s, "shape")?;
    let shape = b.broadcast_shape(&b.dims(x), &wanted)?;
    one(b.broadcast_to(x, &shape)?)
}

/// `Identity`, also of sequences.
pub fn identity(_: &mut Builder, call: &Call<'_>) -> Outputs {
    match call.inputs.first() {
        Some(Some(v)) => Ok(vec![v.clone()]),
        _ => malformed("input 0 is missing"),
    }
}

/// `Concat`.
pub fn concat(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let all = call.all()?;
    let default = if call.opset < 4 { 1 } else { i64::MIN };
    let at = axis(call.int("axis", default)?, b.rank(all[0]))?;
    one(b.concat(&all, at)?)
}

/// The sizes into which an axis is split.
fn split_sizes(call: &Call<'_>, extent: usize, sizes: Option<Vec<i64>>) -> Res<Vec<usize>> {
    if let Some(list) = sizes {
        let list: Vec<usize> = list.iter().filter_map(|v| usize::try_from(*v).ok()).collect();
        if list.iter().fold(0usize, |n, v| n.saturating_add(*v)) != extent {
            return malformed(format!("the parts {list:?} do not fill {extent}"));
        }
        return Ok(list);
    }
    let parts = usize::try_from(call.int("num_outputs", call.wanted.len() as i64)?).unwrap_or(0);
    if parts == 0 || parts != call.wanted.len() || parts > extent.max(1) && call.opset < 18 {
        return malformed(format!("{extent} elements cannot be split into {parts} parts"));
    }
    let size = extent.div_ceil(parts);
    Ok((0..parts).map(|i| extent.saturating_sub(i * size).min(size)).collect())
}

/// `Split`.
pub fn split(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let at = axis(call.int("axis", 0)?, dims.len())?;
    let sizes = call.ints_or_input(b, "split", 1)?;
    let sizes = split_sizes(call, dims[at], sizes)?;
    Ok(b.split(x, at, &sizes)?.into_iter().map(Value::Tensor).collect())
}

/// `Slice`: attributes below operator set 10, inputs since.
pub fn slice(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let need = |list: Option<Vec<i64>>, what: &str| list.map_or_else(|| malformed(format!("the {what} are missing")), Ok);
    let starts = need(call.ints_or_input(b, "starts", 1)?, "starts")?;
    let ends = need(call.ints_or_input(b, "ends", 2)?, "ends")?;
    let which = call.ints_or_input(b, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = match call.opt(4)? {
        Some(v) => b.known_ints(v, "steps")?,
        None => vec![1; starts.len()],
    };
    if ends.len() != starts.len() || which.len() != starts.len() || steps.len() != starts.len() {
        return malformed("starts, ends, axes and steps differ in length");
    }
    let mut result = x;
    for i in 0..starts.len() {
        let at = axis(which[i], dims.len())?;
        result = slice_axis(b, result, at, starts[i], ends[i], steps[i])?;
    }
    one(result)
}

/// A Python slice of one axis.
fn slice_axis(b: &mut Builder, x: Val, at: usize, start: i64, end: i64, step: i64) -> Res<Val> {
    let extent = b.dims(x)[at] as i64;
    let from_end = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
    match step {
        0 => malformed("a step is 0"),
        1.. => {
            let start = from_end(start).clamp(0, extent);
            let end = from_end(end).clamp(start, extent);
            b.slice_axis(x, at, start as usize, end as usize, step.min(extent.max(1)) as usize)
        }
        _ => {
            // Positions start, start+step, … above end: reverse the part that they span, then step forward.
            let first = from_end(start).clamp(-1, extent - 1);
            let last = from_end(end).clamp(-1, extent - 1);
            if last >= first {
                return b.slice_axis(x, at, 0, 0, 1);
            }
            let part = b.slice_axis(x, at, (last + 1) as usize, (first + 1) as usize, 1)?;
            let reversed = b.reverse(part, &[at])?;
            b.slice_axis(reversed, at, 0, (first - last) as usize, step.unsigned_abs().min(extent.max(1) as u64) as usize)
        }
    }
}

/// `Tile`.
pub fn tile(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, r) = (call.input(0)?, call.input(1)?);
    let repeats = b.known_dims(r, "repeats")?;
    let dims = b.dims(x);
    if repeats.len() != dims.len() {
        return malformed("there must be one repeat a dimension");
    }
    // Each dimension d becomes (repeat, d), and the pairs are merged again.
    let (mut wide, mut keep) = (Vec::new(), Vec::new());
    for (i, d) in dims.iter().enumerate() {
        wide.extend([repeats[i], *d]);
        keep.push(2 * i + 1);
    }
    let target: Vec<usize> = dims.iter().zip(&repeats).map(|(d, r)| d.saturating_mul(*r)).collect();
    b.check_size(&target)?;
    let spread = b.broadcast_in_dim(x, &wide, &keep)?;
    one(b.reshape(spread, &target)?)
}

/// `Pad` in its four modes.
pub fn pad(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    let name = if call.attrs.has("paddings") { "paddings" } else { "pads" };
    let Some(pads) = call.ints_or_input(b, name, 1)? else { return malformed("the pads are missing") };
    let which = match call.opt(3)? {
        Some(v) => {
            let list = b.known_ints(v, "axes")?;
            list.iter().map(|a| axis(*a, rank)).collect::<Res<Vec<_>>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * which.len() {
        return malformed(format!("{} pads for {} dimensions", pads.len(), which.len()));
    }
    let (mut low, mut high) = (vec![0i64; rank], vec![0i64; rank]);
    for (i, d) in which.iter().enumerate() {
        (low[*d], high[*d]) = (pads[i], pads[i + which.len()]);
    }
    if pads.iter().any(|p| p.unsigned_abs() > 1 << 31) {
        return malformed("a padding is out of range");
    }
    let mode = call.text("mode", "constant")?;
    if mode == "constant" {
        let fill = match call.opt(2)? {
            Some(v) => b.reshape(v, &[])?,
            None => {
                let v = call.float("value", 0.0)?;
                b.scalar(b.dtype(x), v)?
            }
        };
        return one(b.pad(x, fill, &low, &high)?);
    }
    let mut result = x;
    for d in 0..rank {
        result = pad_by_index(b, result, d, low[d], high[d], mode)?;
    }
    one(result)
}

/// Pads one axis with copies of its own elements; negative pads crop.
fn pad_by_index(b: &mut Builder, x: Val, at: usize, low: i64, high: i64, mode: &str) -> Res<Val> {
    let extent = b.dims(x)[at] as i64;
    let (crop_low, crop_high) = ((-low).max(0), (-high).max(0));
    let kept = extent.saturating_sub(crop_low).saturating_sub(crop_high).max(0);
    let x = if crop_low + crop_high > 0 {
        b.slice_axis(x, at, crop_low.min(extent) as usize, (crop_low.min(extent) + kept).min(extent) as usize, 1)?
    } else {
        x
    };
    let (low, high) = (low.max(0), high.max(0));
    if low == 0 && high == 0 {
        return Ok(x);
    }
    if kept == 0 {
        return malformed("an empty dimension has nothing to pad with");
    }
    let part = |b: &mut Builder, from: i64, to: i64, reversed: bool| -> Res<Val> {
        if from < 0 || to > kept {
            return unsupported(format!("{mode} padding wider than the dimension"));
        }
        let v = b.slice_axis(x, at, from as usize, to as usize, 1)?;
        if reversed { b.reverse(v, &[at]) } else { Ok(v) }
    };
    let mut pieces = Vec::new();
    if low > 0 {
        pieces.push(match mode {
            "reflect" => part(b, 1, low + 1, true)?,
            "wrap" => part(b, kept - low, kept, false)?,
            "edge" => edge(b, x, at, 0, low as usize)?,
            other => return malformed(format!("there is no pad mode '{other}'")),
        });
    }
    pieces.push(x);
    if high > 0 {
        pieces.push(match mode {
            "reflect" => part(b, kept - 1 - high, kept - 1, true)?,
            "wrap" => part(b, 0, high, false)?,
            _ => edge(b, x, at, kept as usize - 1, high as usize)?,
        });
    }
    b.concat(&pieces, at)
}

/// One position of an axis, repeated.
fn edge(b: &mut Builder, x: Val, at: usize, position: usize, count: usize) -> Res<Val> {
    let row = b.slice_axis(x, at, position, position + 1, 1)?;
    let mut shape = b.dims(row).to_vec();
    shape[at] = count;
    b.broadcast_to(row, &shape)
}

/// `CenterCropPad`: each axis cropped or padded around its center.
pub fn center_crop_pad(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (mut x, s) = (call.input(0)?, call.input(1)?);
    let wanted = b.known_dims(s, "shape")?;
    let rank = b.rank(x);
    let which = match call.attrs.ints("axes")? {
        Some(list) => list.iter().map(|a| axis(*a, rank)).collect::<Res<Vec<_>>>()?,
        None => (0..rank).collect(),
    };
    if which.len() != wanted.len() {
        return malformed("there must be one extent an axis");
    }
    b.check_size(&wanted)?;
    for (at, want) in which.into_iter().zip(&wanted) {
        let have = b.dims(x)[at];
        if have >= *want {
            let start = (have - want) / 2;
            x = b.slice_axis(x, at, start, start + want, 1)?;
        } else {
            let (mut low, mut high) = (vec![0i64; rank], vec![0i64; rank]);
            low[at] = ((want - have) / 2) as i64;
            high[at] = (want - have) as i64 - low[at];
            let zero = b.scalar(b.dtype(x), 0.0)?;
            x = b.pad(x, zero, &low, &high)?;
        }
    }
    one(x)
}

/// `DepthToSpace` in `DCR` and `CRD` order.
pub fn depth_to_space(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let size = block_size(call)?;
    let [n, c, h, w] = b.dims(x)[..] else { return malformed("the input must have 4 dimensions") };
    if c % (size * size) != 0 {
        return malformed("the channels are no multiple of the block");
    }
    let depth = c / (size * size);
    let (split, perm) = match call.text("mode", "DCR")? {
        "DCR" => ([n, size, size, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, size, size, h, w], [0, 1, 4, 2, 5, 3]),
        other => return malformed(format!("there is no mode '{other}'")),
    };
    let v = b.reshape(x, &split)?;
    let v = b.transpose(v, &perm)?;
    one(b.reshape(v, &[n, depth, h * size, w * size])?)
}

/// `SpaceToDepth`.
pub fn space_to_depth(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let size = block_size(call)?;
    let [n, c, h, w] = b.dims(x)[..] else { return malformed("the input must have 4 dimensions") };
    if h % size != 0 || w % size != 0 {
        return malformed("height or width is no multiple of the block");
    }
    let v = b.reshape(x, &[n, c, h / size, size, w / size, size])?;
    let v = b.transpose(v, &[0, 3, 5, 1, 2, 4])?;
    one(b.reshape(v, &[n, c * size * size, h / size, w / size])?)
}

fn block_size(call: &Call<'_>) -> Res<usize> {
    match usize::try_from(call.int("blocksize", 0)?) {
        Ok(size @ 1..=65_535) => Ok(size),
        _ => malformed("the block size is missing or out of range"),
    }
}

/// `Constant`: one of several attributes.
pub fn constant(b: &mut Builder, call: &Call<'_>) -> Outputs {
    if let Some(proto) = call.attrs.tensor("value")? {
        return one(b.read_tensor(proto)?);
    }
    if let Some(v) = call.attrs.float("value_float")? {
        return one(b.scalar(girih_ir::types::DType::F32, v)?);
    }
    if let Some(v) = call.attrs.int("value_int")? {
        return one(b.int_scalar(v)?);
    }
    if let Some(list) = call.attrs.floats("value_floats")? {
        let ty = girih_ir::types::TensorType::new(girih_ir::types::DType::F32, [list.len()]);
        return one(b.add_constant(Tensor::new_float(ty, list.iter().map(|v| f64::from(*v)).collect()))?);
    }
    if let Some(list) = call.attrs.ints("value_ints")? {
        return one(b.ints(list)?);
    }
    unsupported("a constant that is neither a tensor nor numbers")
}

/// `ConstantOfShape`.
pub fn constant_of_shape(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let s = call.input(0)?;
    let shape = b.known_dims(s, "shape")?;
    b.check_size(&shape)?;
    let value = match call.attrs.tensor("value")? {
        Some(proto) => b.read_tensor(proto)?,
        None => b.scalar(girih_ir::types::DType::F32, 0.0)?,
    };
    if element_count(&b.dims(value)) != 1 {
        return malformed("the value must have one element");
    }
    let value = b.reshape(value, &[])?;
    one(b.broadcast_to(value, &shape)?)
}

/// `Range`.
pub fn range(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let mut ends = Vec::new();
    for (i, what) in ["start", "limit", "delta"].into_iter().enumerate() {
        match call.known(b, i, what)? {
            Some(t) if t.ty().elements() == 1 => ends.push(t),
            _ => return malformed(format!("the {what} must be one number")),
        }
    }
    let dtype = ends[0].dtype();
    if dtype.is_float() {
        let (start, limit, delta) = (ends[0].floats()[0], ends[1].floats()[0], ends[2].floats()[0]);
        let count = ((limit - start) / delta).ceil();
        if !(count.is_finite() && delta != 0.0) {
            return malformed("the range has no end");
        }
        let count = count.max(0.0) as usize;
        if count > LARGEST_RANGE {
            return steps(b, dtype, count, start, delta);
        }
        let values = (0..count).map(|i| start + i as f64 * delta).collect();
        return one(b.add_constant(Tensor::new_float(girih_ir::types::TensorType::new(dtype, [count]), values))?);
    }
    let (start, limit, delta) = (ends[0].ints()[0] as i128, ends[1].ints()[0] as i128, ends[2].ints()[0] as i128);
    if delta == 0 {
        return malformed("the range has no end");
    }
    let span = if delta > 0 { limit - start } else { start - limit };
    let count = if span <= 0 { 0 } else { (span + delta.abs() - 1) / delta.abs() };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > LARGEST_RANGE {
        return steps(b, dtype, count, start as f64, delta as f64);
    }
    let values = (0..count as i128).map(|i| (start + i * delta) as i64).collect();
    one(b.add_constant(Tensor::new_int(girih_ir::types::TensorType::new(dtype, [count]), values))?)
}

/// Longer ranges are computed when the graph runs, so that a few bytes of a file cannot make a large constant.
const LARGEST_RANGE: usize = 1 << 16;

/// `start + i · delta`.
fn steps(b: &mut Builder, dtype: girih_ir::types::DType, count: usize, start: f64, delta: f64) -> Outputs {
    let i = b.iota(dtype, count, 0, 1)?;
    let scaled = b.scale(i, delta)?;
    one(b.shift(scaled, start)?)
}

/// `EyeLike`.
pub fn eye_like(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let [rows, columns] = b.dims(x)[..] else { return malformed("the input must have 2 dimensions") };
    let dtype = match call.attrs.int("dtype")? {
        None => b.dtype(x),
        Some(code) => match super::super::tensor::dtype_of(i32::try_from(code).unwrap_or(0)) {
            Ok(dtype) => dtype,
            Err(name) => return unsupported(format!("the element type {name}")),
        },
    };
    let k = call.int("k", 0)?;
    let mask = super::mask::band(b, rows, columns, k, girih_ir::scalar::CompareFn::Eq)?;
    one(b.convert(mask, dtype)?)
}
