//! `Attention`, `RotaryEmbedding`, `LinearAttention` and `CausalConvWithState`.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, malformed, one, unsupported};
use super::super::tensor::dtype_of;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::DType;

/// A positive count from an attribute.
fn count(call: &Call<'_>, name: &str) -> Res<usize> {
    match usize::try_from(call.int(name, 0)?) {
        Ok(n) if n > 0 => Ok(n),
        _ => malformed(format!("attribute '{name}' is missing or not positive")),
    }
}

/// `[B, T, H·D]` to `[B, H, T, D]`; four dimensions stay.
fn heads(b: &mut Builder, v: Val, heads: usize) -> Res<Val> {
    let dims = b.dims(v);
    match dims[..] {
        [_, _, _, _] => Ok(v),
        [n, t, hd] if heads > 0 && hd % heads == 0 => {
            let v = b.reshape(v, &[n, t, heads, hd / heads])?;
            b.transpose(v, &[0, 2, 1, 3])
        }
        _ => malformed(format!("{dims:?} has no {heads} heads")),
    }
}

/// `[B, H, T, D]` back to `[B, T, H·D]`.
fn unheads(b: &mut Builder, v: Val) -> Res<Val> {
    let [n, h, t, d] = b.dims(v)[..] else { return malformed("four dimensions were expected") };
    let v = b.transpose(v, &[0, 2, 1, 3])?;
    b.reshape(v, &[n, t, h * d])
}

/// Repeats each head, so that groups of query heads share one.
fn repeat_heads(b: &mut Builder, v: Val, times: usize) -> Res<Val> {
    if times == 1 {
        return Ok(v);
    }
    let [n, h, t, d] = b.dims(v)[..] else { return malformed("four dimensions were expected") };
    let v = b.broadcast_in_dim(v, &[n, h, times, t, d], &[0, 1, 3, 4])?;
    b.reshape(v, &[n, h * times, t, d])
}

/// A batched product over the last two dimensions; `transposed` contracts the last dimension of both.
fn batched(b: &mut Builder, x: Val, y: Val, transposed: bool) -> Res<Val> {
    let (dx, dy) = (b.dims(x), b.dims(y));
    let contract = if transposed { 3 } else { 2 };
    if dx.len() != 4 || dy.len() != 4 || dx[..2] != dy[..2] || dx[3] != dy[contract] || b.dtype(x) != b.dtype(y) {
        return malformed(format!("{dx:?} and {dy:?} have no product"));
    }
    b.emit(DotGeneral::matmul(4, contract, 2), &[x, y])
}

/// `Attention`.
pub fn attention(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (mut q, mut k, mut v) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let packed = b.rank(q) == 3;
    if packed {
        let (qn, kn) = (count(call, "q_num_heads")?, count(call, "kv_num_heads")?);
        q = heads(b, q, qn)?;
        k = heads(b, k, kn)?;
        v = heads(b, v, kn)?;
    }
    if [q, k, v].iter().any(|t| b.rank(*t) != 4) {
        return malformed("queries, keys and values must have 3 or 4 dimensions");
    }
    let mut past = 0;
    if let (Some(pk), Some(pv)) = (call.opt(4)?, call.opt(5)?) {
        past = b.dims(pk).get(2).copied().unwrap_or(0);
        k = b.concat(&[pk, k], 2)?;
        v = b.concat(&[pv, v], 2)?;
    }
    let present = (k, v);
    let dtype = b.dtype(q);
    let (dq, dk) = (b.dims(q), b.dims(k));
    if dk[1] == 0 || dq[1] % dk[1] != 0 {
        return malformed(format!("{} query heads do not share {} key heads", dq[1], dk[1]));
    }
    let groups = dq[1] / dk[1];
    let (k, v) = (repeat_heads(b, k, groups)?, repeat_heads(b, v, groups)?);
    let scale = call.float("scale", 1.0 / (dq[3] as f64).sqrt())?;
    let root = scale.abs().sqrt();
    let (sq, sk) = (b.scale(q, root * scale.signum())?, b.scale(k, root)?);
    let raw = batched(b, sq, sk, true)?;
    let softcap = call.float("softcap", 0.0)?;
    let capped = if softcap > 0.0 {
        let x = b.scale(raw, 1.0 / softcap)?;
        let x = b.unary(UnaryFn::Tanh, x)?;
        b.scale(x, softcap)?
    } else {
        raw
    };
    let mut biased = capped;
    let allowed = allowed_keys(b, call, dq[2], dk[2], past)?;
    let lowest = b.scalar(dtype, f64::NEG_INFINITY)?;
    if let Some(mask) = call.opt(3)?.filter(|m| b.dtype(*m) != DType::Bool) {
        let mask = pad_mask(b, mask, dk[2])?;
        let mask = b.convert(mask, dtype)?;
        biased = b.binary(BinaryFn::Add, biased, mask)?;
    }
    if let Some(allowed) = allowed {
        biased = b.select(allowed, biased, lowest)?;
    }
    let masked = allowed.is_some() || call.opt(3)?.is_some();
    let probability = guarded_softmax(b, call, biased, masked)?;
    let y = batched(b, probability, v, false)?;
    let y = if packed { unheads(b, y)? } else { y };
    let shown = match call.int("qk_matmul_output_mode", 0)? {
        0 => raw,
        1 => capped,
        2 => biased,
        _ => probability,
    };
    Ok([y, present.0, present.1, shown].map(Value::Tensor).to_vec())
}

/// A mask that is shorter than the keys hides the rest.
fn pad_mask(b: &mut Builder, mask: Val, keys: usize) -> Res<Val> {
    let dims = b.dims(mask);
    let Some(last) = dims.last().copied() else { return Ok(mask) };
    if last >= keys || last == 1 {
        return Ok(mask);
    }
    let hidden = if b.dtype(mask) == DType::Bool { 0.0 } else { f64::NEG_INFINITY };
    let fill = b.scalar(b.dtype(mask), hidden)?;
    let (low, mut high) = (vec![0; dims.len()], vec![0; dims.len()]);
    high[dims.len() - 1] = (keys - last) as i64;
    b.pad(mask, fill, &low, &high)
}

/// Which keys each query may attend: by a bool mask, causality, windows, and the count of valid keys. `None` = all.
fn allowed_keys(b: &mut Builder, call: &Call<'_>, queries: usize, keys: usize, past: usize) -> Res<Option<Val>> {
    let mut allowed: Option<Val> = None;
    let mut restrict = |b: &mut Builder, more: Val| -> Res<()> {
        allowed = Some(match allowed {
            None => more,
            Some(old) => b.binary(BinaryFn::And, old, more)?,
        });
        Ok(())
    };
    if let Some(mask) = call.opt(3)?.filter(|m| b.dtype(*m) == DType::Bool) {
        let mask = pad_mask(b, mask, keys)?;
        restrict(b, mask)?;
    }
    let key = b.iota(DType::I64, keys, 3, 4)?;
    let mut offset = b.int_scalar(past as i64)?;
    if let Some(valid) = call.opt(6)? {
        let valid = b.convert(valid, DType::I64)?;
        let n = b.dims(valid).first().copied().unwrap_or(1);
        let valid = b.reshape(valid, &[n, 1, 1, 1])?;
        let inside = b.compare(CompareFn::Lt, key, valid)?;
        restrict(b, inside)?;
        if call.opset >= 25 || call.opset == 24 {
            offset = b.shift(valid, -(queries as f64))?;
        }
    }
    let query = b.iota(DType::I64, queries, 2, 4)?;
    let position = b.binary(BinaryFn::Add, query, offset)?;
    if call.flag("is_causal", false)? {
        let before = b.compare(CompareFn::Le, key, position)?;
        restrict(b, before)?;
    }
    for (name, sign) in [("left_window_size", -1i64), ("right_window_size", 1)] {
        let size = call.int(name, -1)?;
        if size >= 0 {
            let bound = b.shift(position, (sign * size) as f64)?;
            let near = b.compare(if sign < 0 { CompareFn::Ge } else { CompareFn::Le }, key, bound)?;
            restrict(b, near)?;
        }
    }
    Ok(allowed)
}

/// Softmax over the keys in the precision asked for; a row with no key becomes zero.
fn guarded_softmax(b: &mut Builder, call: &Call<'_>, x: Val, masked: bool) -> Res<Val> {
    let out = b.dtype(x);
    let precision = match call.attrs.int("softmax_precision")? {
        None => out,
        Some(code) => match dtype_of(i32::try_from(code).unwrap_or(0)) {
            Ok(dtype) if dtype.is_float() => dtype,
            _ => return malformed(format!("softmax_precision {code} is no float type")),
        },
    };
    let x = b.convert(x, precision)?;
    let probability = if masked {
        let max = b.reduce(Monoid::Max, x, &[3], true)?;
        let lowest = b.like(max, f64::NEG_INFINITY)?;
        let none = b.compare(CompareFn::Eq, max, lowest)?;
        let zero = b.like(x, 0.0)?;
        let safe = b.select(none, zero, x)?;
        let p = super::reduce::softmax_over(b, safe, &[3])?;
        b.select(none, zero, p)?
    } else {
        super::reduce::softmax_over(b, x, &[3])?
    };
    b.convert(probability, out)
}

/// `RotaryEmbedding`.
pub fn rotary(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let packed = b.rank(x) == 3;
    // [B, H, T, D]
    let v = if packed { heads(b, x, count(call, "num_heads")?)? } else { x };
    let [n, h, t, size] = b.dims(v)[..] else { return malformed("the input must have 3 or 4 dimensions") };
    let rotated = match usize::try_from(call.int("rotary_embedding_dim", 0)?) {
        Ok(0) => size,
        Ok(r) if r <= size && r % 2 == 0 => r,
        _ => return malformed("rotary_embedding_dim does not fit the heads"),
    };
    let half = rotated / 2;
    let cache = |b: &mut Builder, i: usize| -> Res<Val> {
        let mut c = call.input(i)?;
        if let Some(ids) = call.opt(3)? {
            let extent = b.dims(c).first().copied().unwrap_or(0);
            if extent == 0 {
                return malformed("a cache has no positions");
            }
            let ids = super::gather::positive(b, ids, extent)?;
            c = b.take(c, ids, 0)?;
        }
        let dims = b.dims(c);
        match dims[..] {
            [m, s, d] if d == half => b.reshape(c, &[m, 1, s, half]),
            [s, d] if d == half => b.reshape(c, &[1, 1, s, half]),
            _ => malformed(format!("a cache of {dims:?} does not fit {half} rotations")),
        }
    };
    let (cos, sin) = (cache(b, 1)?, cache(b, 2)?);
    let turned = b.slice_axis(v, 3, 0, rotated, 1)?;
    let interleaved = call.flag("interleaved", false)?;
    let (x1, x2) = if interleaved {
        (b.slice_axis(turned, 3, 0, rotated, 2)?, b.slice_axis(turned, 3, 1, rotated, 2)?)
    } else {
        (b.slice_axis(turned, 3, 0, half, 1)?, b.slice_axis(turned, 3, half, rotated, 1)?)
    };
    let term = |b: &mut Builder, f: BinaryFn, p: (Val, Val), q: (Val, Val)| -> Res<Val> {
        let (p, q) = (b.binary(BinaryFn::Mul, p.0, p.1)?, b.binary(BinaryFn::Mul, q.0, q.1)?);
        b.binary(f, p, q)
    };
    let real = term(b, BinaryFn::Sub, (cos, x1), (sin, x2))?;
    let imaginary = term(b, BinaryFn::Add, (sin, x1), (cos, x2))?;
    let mut y = if interleaved {
        let pair = [&[n, h, t, half][..], &[1]].concat();
        let (r, i) = (b.reshape(real, &pair)?, b.reshape(imaginary, &pair)?);
        let both = b.concat(&[r, i], 4)?;
        b.reshape(both, &[n, h, t, rotated])?
    } else {
        b.concat(&[real, imaginary], 3)?
    };
    if rotated < size {
        let rest = b.slice_axis(v, 3, rotated, size, 1)?;
        y = b.concat(&[y, rest], 3)?;
    }
    one(if packed { unheads(b, y)? } else { y })
}

/// `LinearAttention`: the recurrence, unrolled.
pub fn linear_attention(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let rule = call.text("update_rule", "gated_delta")?;
    let (gated, delta) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return malformed(format!("there is no update rule '{other}'")),
    };
    let (hq, hkv) = (count(call, "q_num_heads")?, count(call, "kv_num_heads")?);
    let out = b.dtype(call.input(0)?);
    let wide = |b: &mut Builder, v: Val| b.convert(v, DType::F32);
    let (q, k, v) = (wide(b, call.input(0)?)?, wide(b, call.input(1)?)?, wide(b, call.input(2)?)?);
    let (q, k, v) = (heads(b, q, hq)?, heads(b, k, hkv)?, heads(b, v, hkv)?);
    let [n, _, steps, dk] = b.dims(q)[..] else { return malformed("the query must have 3 dimensions") };
    let dv = b.dims(v)[3];
    if steps == 0 || steps > 4096 || hq % hkv != 0 {
        return unsupported("no steps, more than 4096, or heads that do not share");
    }
    let per_head = |b: &mut Builder, i: usize, what: &str| -> Res<Val> {
        let Some(v) = call.opt(i)? else { return malformed(format!("the {what} is missing")) };
        let v = wide(b, v)?;
        let last = b.dims(v).last().copied().unwrap_or(0);
        heads(b, v, if last == 1 { 1 } else { hkv })
    };
    let decay = if gated {
        let g = per_head(b, 4, "decay")?;
        Some(b.unary(UnaryFn::Exp, g)?)
    } else {
        None
    };
    let beta = if delta { Some(per_head(b, 5, "beta")?) } else { None };
    let (mut state, state_type) = match call.opt(3)? {
        Some(s) => (wide(b, s)?, b.dtype(s)),
        None => {
            let zero = b.scalar(DType::F32, 0.0)?;
            (b.broadcast_to(zero, &[n, hkv, dk, dv])?, out)
        }
    };
    let scale = match call.float("scale", 0.0)? {
        0.0 => 1.0 / (dk as f64).sqrt(),
        s => s,
    };
    let mut rows = Vec::with_capacity(steps);
    for t in 0..steps {
        let at = |b: &mut Builder, v: Val| b.slice_axis(v, 2, t, t + 1, 1);
        let (qt, kt, mut vt) = (at(b, q)?, at(b, k)?, at(b, v)?);
        if let Some(decay) = decay {
            let g = at(b, decay)?;
            let g = b.transpose(g, &[0, 1, 3, 2])?;
            state = b.binary(BinaryFn::Mul, state, g)?;
        }
        if let Some(beta) = beta {
            let seen = batched(b, kt, state, false)?;
            let error = b.binary(BinaryFn::Sub, vt, seen)?;
            let rate = at(b, beta)?;
            vt = b.binary(BinaryFn::Mul, error, rate)?;
        }
        let column = b.transpose(kt, &[0, 1, 3, 2])?;
        let outer = b.binary(BinaryFn::Mul, column, vt)?;
        state = b.binary(BinaryFn::Add, state, outer)?;
        let shared = repeat_heads(b, state, hq / hkv)?;
        let row = batched(b, qt, shared, false)?;
        rows.push(b.scale(row, scale)?);
    }
    let y = b.concat(&rows, 2)?;
    let y = unheads(b, y)?;
    let (y, state) = (b.convert(y, out)?, b.convert(state, state_type)?);
    Ok(vec![y.into(), state.into()])
}

/// `CausalConvWithState`: a depthwise convolution over the past and the present.
pub fn causal_conv(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, w) = (call.input(0)?, call.input(1)?);
    let (dims, kernel) = (b.dims(x), b.dims(w));
    let ([n, channels, _], [_, 1, k]) = (&dims[..], &kernel[..]) else { return malformed("input and weight must have 3 dimensions") };
    let (n, channels, k) = (*n, *channels, *k);
    if kernel[0] != channels || k == 0 {
        return malformed(format!("input {dims:?} and weight {kernel:?} do not fit"));
    }
    let past = match call.opt(3)? {
        Some(v) => v,
        None => {
            let zero = b.like(x, 0.0)?;
            b.broadcast_to(zero, &[n, channels, k - 1])?
        }
    };
    let all = b.concat(&[past, x], 2)?;
    let mut y = b.conv(all, w, &[1], &[0], &[0], &[1], &[1], channels)?;
    if let Some(bias) = call.opt(2)? {
        let bias = super::norm::per_channel(b, bias, 3)?;
        y = b.binary(BinaryFn::Add, y, bias)?;
    }
    match call.text("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = super::activation::apply(b, "Swish", y, 1.0, 0.0)?,
        other => return malformed(format!("there is no activation '{other}'")),
    }
    let total = b.dims(all)[2];
    let state = b.slice_axis(all, 2, total.saturating_sub(k - 1), total, 1)?;
    Ok(vec![y.into(), state.into()])
}
