//! Sequences of tensors. Their lengths are static, so they exist only while importing.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, axis, malformed, one, unsupported};

/// `SplitToSequence`.
pub fn split(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let at = axis(call.int("axis", 0)?, dims.len())?;
    let extent = dims[at];
    if extent > 1 << 16 {
        return unsupported(format!("a sequence of up to {extent} parts"));
    }
    let (sizes, drop) = match call.opt(1)? {
        None => (vec![1; extent], !call.flag("keepdims", true)?),
        Some(v) => {
            let list = b.known_dims(v, "split sizes")?;
            if b.rank(v) == 0 {
                let size = list[0].max(1);
                ((0..extent.div_ceil(size)).map(|i| size.min(extent - i * size)).collect(), false)
            } else {
                (list, false)
            }
        }
    };
    if sizes.iter().fold(0usize, |n, s| n.saturating_add(*s)) != extent {
        return malformed(format!("the parts {sizes:?} do not fill {extent}"));
    }
    let mut parts = b.split(x, at, &sizes)?;
    if drop {
        let mut shape = dims.to_vec();
        shape.remove(at);
        parts = parts.into_iter().map(|p| b.reshape(p, &shape)).collect::<Res<Vec<_>>>()?;
    }
    Ok(vec![Value::Sequence(parts)])
}

/// The position that an index input names in a sequence.
fn position(b: &mut Builder, call: &Call<'_>, i: usize, len: usize) -> Res<usize> {
    match call.known_int(b, i, "position")? {
        Some(p) => axis(p, len),
        None => malformed("the position is missing"),
    }
}

/// `SequenceAt`.
pub fn at(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let sequence = call.sequence(0)?.to_vec();
    let p = position(b, call, 1, sequence.len())?;
    one(sequence[p])
}

/// `SequenceConstruct`.
pub fn construct(_: &mut Builder, call: &Call<'_>) -> Outputs {
    Ok(vec![Value::Sequence(call.all()?)])
}

/// `SequenceEmpty`.
pub fn empty(_: &mut Builder, _: &Call<'_>) -> Outputs {
    Ok(vec![Value::Sequence(Vec::new())])
}

/// `SequenceLength`.
pub fn length(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let n = call.sequence(0)?.len() as i64;
    one(b.int_scalar(n)?)
}

/// `SequenceInsert`.
pub fn insert(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let mut sequence = call.sequence(0)?.to_vec();
    let v = call.input(1)?;
    let p = match call.opt(2)? {
        Some(_) => position(b, call, 2, sequence.len() + 1)?,
        None => sequence.len(),
    };
    sequence.insert(p, v);
    Ok(vec![Value::Sequence(sequence)])
}

/// `SequenceErase`.
pub fn erase(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let mut sequence = call.sequence(0)?.to_vec();
    let p = match call.opt(1)? {
        Some(_) => position(b, call, 1, sequence.len())?,
        None => axis(-1, sequence.len())?,
    };
    sequence.remove(p);
    Ok(vec![Value::Sequence(sequence)])
}

/// `ConcatFromSequence`.
pub fn concat(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let sequence: Vec<Val> = call.sequence(0)?.to_vec();
    let Some(first) = sequence.first() else { return malformed("the sequence is empty") };
    let rank = b.rank(*first);
    if !call.flag("new_axis", false)? {
        let at = axis(call.int("axis", 0)?, rank)?;
        return one(b.concat(&sequence, at)?);
    }
    let at = axis(call.int("axis", 0)?, rank + 1)?;
    let mut parts = Vec::new();
    for v in sequence {
        let mut shape = b.dims(v).to_vec();
        shape.insert(at, 1);
        parts.push(b.reshape(v, &shape)?);
    }
    one(b.concat(&parts, at)?)
}
