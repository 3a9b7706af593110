//! `LSTM`, `GRU` and `RNN`, unrolled into one group of primitives a time step; the product with the inputs is one matrix product for
//! all steps.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, malformed, unsupported};
use super::activation;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::{BinaryFn, CompareFn};
use girih_ir::types::DType;

/// An activation function with its parameters.
#[derive(Clone, Debug)]
struct Activation {
    name: &'static str,
    alpha: f64,
    beta: f64,
}

/// What a node asks for, the same for both directions.
struct Cell<'c, 'a> {
    call: &'c Call<'a>,
    gates: usize,
    hidden: usize,
    clip: Option<f64>,
    linear_before_reset: bool,
    input_forget: bool,
}

/// The weights of one direction.
struct Weights {
    /// Input products plus input bias for all steps: `[T, B, gates·H]`.
    inputs: Val,
    /// `[gates·H, H]`.
    recurrent: Val,
    /// Recurrent bias `[gates·H]`.
    bias: Option<Val>,
    /// Peepholes `[3·H]`.
    peepholes: Option<Val>,
    activations: Vec<Activation>,
}

/// No sequence is unrolled further than this.
const MOST_STEPS: usize = 1 << 14;

const KNOWN: [&str; 11] =
    ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"];

/// Unrolls a recurrent node.
pub fn recurrent(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (gates, defaults): (usize, &[&str]) = match call.op {
        "LSTM" => (4, &["Sigmoid", "Tanh", "Tanh"]),
        "GRU" => (3, &["Sigmoid", "Tanh"]),
        _ => (1, &["Tanh"]),
    };
    let batch_first = call.flag("layout", false)?;
    let mut x = call.input(0)?;
    if b.rank(x) != 3 {
        return malformed("the input must have 3 dimensions");
    }
    if batch_first {
        x = b.transpose(x, &[1, 0, 2])?;
    }
    let (steps, batch) = (b.dims(x)[0], b.dims(x)[1]);
    if steps > MOST_STEPS {
        return unsupported(format!("a sequence of {steps} steps (at most {MOST_STEPS})"));
    }
    let (w, r) = (call.input(1)?, call.input(2)?);
    let hidden = b.dims(r).last().copied().unwrap_or(0);
    let directions: &[bool] = match call.text("direction", "forward")? {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return malformed(format!("direction is '{other}'")),
    };
    let (dw, dr) = (b.dims(w), b.dims(r));
    if dw.len() != 3 || dw[0] != directions.len() || dw[1] != gates * hidden || dr.as_slice() != [directions.len(), gates * hidden, hidden]
    {
        return malformed(format!("weights {dw:?} and {dr:?} do not fit {} directions", directions.len()));
    }
    let activations = read_activations(call, defaults, directions.len())?;
    let cell = Cell {
        call,
        gates,
        hidden,
        clip: call.attrs.float("clip")?,
        linear_before_reset: call.flag("linear_before_reset", false)?,
        input_forget: call.flag("input_forget", false)?,
    };
    let masks = step_masks(b, call, steps, batch)?;
    let (mut all, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
    for (k, reverse) in directions.iter().enumerate() {
        let weights = direction_weights(b, &cell, x, k, activations[k * defaults.len()..][..defaults.len()].to_vec())?;
        let h = initial(b, call, 5, k, batch, hidden, batch_first)?;
        let c = initial(b, call, 6, k, batch, hidden, batch_first)?;
        let (y, h, c) = run(b, &cell, &weights, (h, c), steps, *reverse, &masks)?;
        all.push(b.reshape(y, &[steps, 1, batch, hidden])?);
        last_h.push(b.reshape(h, &[1, batch, hidden])?);
        last_c.push(b.reshape(c, &[1, batch, hidden])?);
    }
    let mut y = b.concat(&all, 1)?;
    let (mut h, mut c) = (b.concat(&last_h, 0)?, b.concat(&last_c, 0)?);
    if batch_first {
        y = b.transpose(y, &[2, 0, 1, 3])?;
        h = b.transpose(h, &[1, 0, 2])?;
        c = b.transpose(c, &[1, 0, 2])?;
    }
    Ok([y, h, c].map(Value::Tensor).to_vec())
}

/// The activation functions of all directions.
fn read_activations(call: &Call<'_>, defaults: &[&str], directions: usize) -> Res<Vec<Activation>> {
    let names: Vec<&str> = match call.attrs.texts("activations")? {
        Some(list) if !list.is_empty() => list,
        _ => defaults.iter().copied().cycle().take(defaults.len() * directions).collect(),
    };
    if names.len() != defaults.len() * directions {
        return malformed(format!("{} activations for {directions} directions", names.len()));
    }
    let (alphas, betas) = (call.attrs.floats("activation_alpha")?.unwrap_or(&[]), call.attrs.floats("activation_beta")?.unwrap_or(&[]));
    let read = |(i, name): (usize, &&str)| {
        let Some(name) = KNOWN.into_iter().find(|k| k.eq_ignore_ascii_case(name)) else {
            return unsupported(format!("the activation '{name}'"));
        };
        let (alpha, beta) = activation::defaults(name);
        let number = |list: &[f32], default: f64| list.get(i).map_or(default, |v| f64::from(*v));
        Ok(Activation { name, alpha: number(alphas, alpha), beta: number(betas, beta) })
    };
    names.iter().enumerate().map(read).collect()
}

/// For each step, which batch entries are still inside their sequence: `bool[B, 1]`; `None` = all.
fn step_masks(b: &mut Builder, call: &Call<'_>, steps: usize, batch: usize) -> Res<Vec<Option<Val>>> {
    let Some(lengths) = call.opt(4)? else { return Ok(vec![None; steps]) };
    if b.dims(lengths).as_slice() != [batch] {
        return malformed("there must be one sequence length a batch entry");
    }
    let lengths = b.convert(lengths, DType::I64)?;
    let full = b.constant(lengths).is_some_and(|t| t.ints().iter().all(|l| *l >= steps as i64));
    let lengths = b.reshape(lengths, &[batch, 1])?;
    let mut masks = Vec::with_capacity(steps);
    for t in 0..steps {
        masks.push(if full {
            None
        } else {
            let t = b.int_scalar(t as i64)?;
            Some(b.compare(CompareFn::Gt, lengths, t)?)
        });
    }
    Ok(masks)
}

/// One direction of a `[D, …]` weight.
fn pick(b: &mut Builder, v: Val, k: usize) -> Res<Val> {
    let dims = b.dims(v);
    if dims.is_empty() || k >= dims[0] {
        return malformed("a weight has too few directions");
    }
    let row = b.slice_axis(v, 0, k, k + 1, 1)?;
    b.reshape(row, &dims[1..])
}

/// An initial state `[B, H]`, zero when it is left out.
fn initial(b: &mut Builder, call: &Call<'_>, i: usize, k: usize, batch: usize, hidden: usize, batch_first: bool) -> Res<Val> {
    let Some(v) = (if i == 6 && call.op != "LSTM" { None } else { call.opt(i)? }) else {
        let zero = b.like(call.input(0)?, 0.0)?;
        return b.broadcast_to(zero, &[batch, hidden]);
    };
    let v = if batch_first { b.transpose(v, &[1, 0, 2])? } else { v };
    let v = pick(b, v, k)?;
    if b.dims(v).as_slice() == [batch, hidden] { Ok(v) } else { malformed("an initial state does not fit") }
}

fn direction_weights(b: &mut Builder, cell: &Cell<'_, '_>, x: Val, k: usize, activations: Vec<Activation>) -> Res<Weights> {
    let (w, r) = (pick(b, cell.call.input(1)?, k)?, pick(b, cell.call.input(2)?, k)?);
    let n = cell.gates * cell.hidden;
    let dot = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![2], rhs_contract: vec![1] };
    let mut inputs = b.emit(dot, &[x, w])?;
    let mut bias = None;
    if let Some(both) = cell.call.opt(3)? {
        let both = pick(b, both, k)?;
        if b.dims(both).as_slice() != [2 * n] {
            return malformed("the bias does not fit");
        }
        let wb = b.slice_axis(both, 0, 0, n, 1)?;
        let rb = b.slice_axis(both, 0, n, 2 * n, 1)?;
        inputs = b.binary(BinaryFn::Add, inputs, wb)?;
        if cell.linear_before_reset {
            bias = Some(rb);
        } else {
            inputs = b.binary(BinaryFn::Add, inputs, rb)?;
        }
    }
    let peepholes = if cell.call.op == "LSTM" { cell.call.opt(7)? } else { None };
    let peepholes = peepholes.map(|p| pick(b, p, k)).transpose()?;
    Ok(Weights { inputs, recurrent: r, bias, peepholes, activations })
}

/// Runs one direction; returns `[T, B, H]` and the last states.
fn run(
    b: &mut Builder,
    cell: &Cell<'_, '_>,
    weights: &Weights,
    state: (Val, Val),
    steps: usize,
    reverse: bool,
    masks: &[Option<Val>],
) -> Res<(Val, Val, Val)> {
    let (mut h, mut c) = state;
    let dims = b.dims(weights.inputs);
    let (batch, n) = (dims[1], dims[2]);
    let mut rows: Vec<Option<Val>> = vec![None; steps];
    let order: Vec<usize> = if reverse { (0..steps).rev().collect() } else { (0..steps).collect() };
    for t in order {
        let row = b.slice_axis(weights.inputs, 0, t, t + 1, 1)?;
        let row = b.reshape(row, &[batch, n])?;
        let (mut new_h, mut new_c) = match cell.call.op {
            "LSTM" => lstm_step(b, cell, weights, row, h, c)?,
            "GRU" => (gru_step(b, cell, weights, row, h)?, c),
            _ => {
                let rh = recur(b, weights.recurrent, h)?;
                let sum = b.binary(BinaryFn::Add, row, rh)?;
                (activate(b, cell, &weights.activations[0], sum)?, c)
            }
        };
        let mut out = new_h;
        if let Some(mask) = masks[t] {
            let zero = b.like(out, 0.0)?;
            out = b.select(mask, out, zero)?;
            new_h = b.select(mask, new_h, h)?;
            new_c = b.select(mask, new_c, c)?;
        }
        rows[t] = Some(b.reshape(out, &[1, batch, cell.hidden])?);
        (h, c) = (new_h, new_c);
    }
    let rows: Vec<Val> = rows.into_iter().flatten().collect();
    if rows.is_empty() {
        return unsupported("a sequence of no steps");
    }
    Ok((b.concat(&rows, 0)?, h, c))
}

/// `h · Rᵀ`.
fn recur(b: &mut Builder, r: Val, h: Val) -> Res<Val> {
    b.emit(DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![1] }, &[h, r])
}

fn activate(b: &mut Builder, cell: &Cell<'_, '_>, f: &Activation, x: Val) -> Res<Val> {
    let x = match cell.clip {
        Some(limit) => b.clamp(x, -limit, limit)?,
        None => x,
    };
    activation::apply(b, f.name, x, f.alpha, f.beta)
}

/// Gates in the order i, o, f, c.
fn lstm_step(b: &mut Builder, cell: &Cell<'_, '_>, w: &Weights, row: Val, h: Val, c: Val) -> Res<(Val, Val)> {
    let n = cell.hidden;
    let rh = recur(b, w.recurrent, h)?;
    let sum = b.binary(BinaryFn::Add, row, rh)?;
    let parts = b.split(sum, 1, &[n; 4])?;
    let peep = |b: &mut Builder, gate: Val, k: usize, c: Val| -> Res<Val> {
        let Some(p) = w.peepholes else { return Ok(gate) };
        let p = b.slice_axis(p, 0, k * n, (k + 1) * n, 1)?;
        let term = b.binary(BinaryFn::Mul, p, c)?;
        b.binary(BinaryFn::Add, gate, term)
    };
    let [f, g, hf] = &w.activations[..] else { return malformed("an LSTM has three activations") };
    let i = peep(b, parts[0], 0, c)?;
    let i = activate(b, cell, f, i)?;
    let forget = if cell.input_forget {
        let unit = b.like(i, 1.0)?;
        b.binary(BinaryFn::Sub, unit, i)?
    } else {
        let forget = peep(b, parts[2], 2, c)?;
        activate(b, cell, f, forget)?
    };
    let candidate = activate(b, cell, g, parts[3])?;
    let kept = b.binary(BinaryFn::Mul, forget, c)?;
    let fresh = b.binary(BinaryFn::Mul, i, candidate)?;
    let new_c = b.binary(BinaryFn::Add, kept, fresh)?;
    let o = peep(b, parts[1], 1, new_c)?;
    let o = activate(b, cell, f, o)?;
    let squashed = activation::apply(b, hf.name, new_c, hf.alpha, hf.beta)?;
    Ok((b.binary(BinaryFn::Mul, o, squashed)?, new_c))
}

/// Gates in the order z, r, h.
fn gru_step(b: &mut Builder, cell: &Cell<'_, '_>, w: &Weights, row: Val, h: Val) -> Res<Val> {
    let n = cell.hidden;
    let [f, g] = &w.activations[..] else { return malformed("a GRU has two activations") };
    let (zr_row, h_row) = (b.slice_axis(row, 1, 0, 2 * n, 1)?, b.slice_axis(row, 1, 2 * n, 3 * n, 1)?);
    let (zr, candidate, r);
    if cell.linear_before_reset {
        let mut rh = recur(b, w.recurrent, h)?;
        if let Some(bias) = w.bias {
            rh = b.binary(BinaryFn::Add, rh, bias)?;
        }
        let zr_h = b.slice_axis(rh, 1, 0, 2 * n, 1)?;
        let sum = b.binary(BinaryFn::Add, zr_row, zr_h)?;
        zr = activate(b, cell, f, sum)?;
        r = b.slice_axis(zr, 1, n, 2 * n, 1)?;
        let h_h = b.slice_axis(rh, 1, 2 * n, 3 * n, 1)?;
        let gated = b.binary(BinaryFn::Mul, r, h_h)?;
        candidate = b.binary(BinaryFn::Add, h_row, gated)?;
    } else {
        let (r_zr, r_h) = (b.slice_axis(w.recurrent, 0, 0, 2 * n, 1)?, b.slice_axis(w.recurrent, 0, 2 * n, 3 * n, 1)?);
        let zr_h = recur(b, r_zr, h)?;
        let sum = b.binary(BinaryFn::Add, zr_row, zr_h)?;
        zr = activate(b, cell, f, sum)?;
        r = b.slice_axis(zr, 1, n, 2 * n, 1)?;
        let gated = b.binary(BinaryFn::Mul, r, h)?;
        let h_h = recur(b, r_h, gated)?;
        candidate = b.binary(BinaryFn::Add, h_row, h_h)?;
    }
    let z = b.slice_axis(zr, 1, 0, n, 1)?;
    let candidate = activate(b, cell, g, candidate)?;
    // (1 - z) · candidate + z · h
    let difference = b.binary(BinaryFn::Sub, h, candidate)?;
    let moved = b.binary(BinaryFn::Mul, z, difference)?;
    b.binary(BinaryFn::Add, candidate, moved)
}
