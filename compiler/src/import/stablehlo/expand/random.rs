//! StableHLO's random number generators: `rng_bit_generator` with the very bits that XLA makes, and the stateless `rng`.
//!
//! Threefry-2x32 (20 rounds) and Philox-4x32 (10 rounds) are those of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011. Which element gets which counter, and what the new state is, follows XLA's expansion of the operation, so a JAX program gives
//! the same numbers here.

use super::bits::same_size;
use super::build::{concat, integer_like, iota, number, slice};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::random::{Distribution, Random};
use girih_ir::scalar::{BinaryFn, CompareFn};
use girih_ir::types::{DType, Dims, element_count};

/// The algorithms of `rng_bit_generator`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// What XLA takes on a CPU: Philox.
    Default,
    /// Threefry-2x32; the state is u64\[2\]: key and counter.
    ThreeFry,
    /// Philox-4x32; the state is u64\[2\] or u64\[3\]: key and counter.
    Philox,
}

impl Algorithm {
    /// The case of that name: `DEFAULT`, `THREE_FRY`, `PHILOX`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "DEFAULT" => Algorithm::Default,
            "THREE_FRY" => Algorithm::ThreeFry,
            "PHILOX" => Algorithm::Philox,
            _ => return None,
        })
    }
}

/// `rng_bit_generator`: the new state and random bits as numbers of a type of 8 to 64 bits. `None` when the state has another form.
pub fn rng_bit_generator(b: &mut Graph, state: ValueId, algorithm: Algorithm, dtype: DType, shape: &[usize]) -> Option<(ValueId, ValueId)> {
    let ty = b.tensor_ty(state).clone();
    let words = ty.shape.first().copied().unwrap_or(0);
    if ty.dtype != DType::U64 || ty.rank() != 1 || dtype == DType::Bool {
        return None;
    }
    let key = scalar(b, state, 0);
    let (state, bits) = match (algorithm, words) {
        (Algorithm::ThreeFry, 2) => {
            let counter = scalar(b, state, 1);
            let (counter, bits) = three_fry(b, key, counter, dtype.size(), shape);
            (vec![key, counter], bits)
        }
        (Algorithm::Default | Algorithm::Philox, 2 | 3) => {
            let low = scalar(b, state, 1);
            let high = if words == 3 { scalar(b, state, 2) } else { key };
            let (counter, bits) = philox(b, key, [low, high], dtype.size(), shape);
            (if words == 3 { vec![key, counter[0], counter[1]] } else { vec![key, counter[0]] }, bits)
        }
        _ => return None,
    };
    let parts: Vec<ValueId> = state.into_iter().map(|v| b.reshape(v, &[1])).collect();
    let state = concat(b, &parts, 0);
    let unsigned = match dtype.size() {
        1 => DType::U8,
        2 => DType::U16,
        4 => DType::U32,
        _ => DType::U64,
    };
    let bits = b.convert(bits, unsigned);
    Some((state, same_size(b, bits, dtype)))
}

fn scalar(b: &mut Graph, state: ValueId, k: usize) -> ValueId {
    let v = slice(b, state, 0, k, k + 1);
    b.reshape(v, &[])
}

fn spread(b: &mut Graph, v: ValueId, shape: &[usize]) -> ValueId {
    b.broadcast(v, shape, &[])
}

/// The low and high word.
fn halves(b: &mut Graph, v: ValueId) -> [ValueId; 2] {
    let by = integer_like(b, v, 32);
    let high = b.binary(BinaryFn::ShrLogical, v, by);
    [b.convert(v, DType::U32), b.convert(high, DType::U32)]
}

fn joined(b: &mut Graph, low: ValueId, high: ValueId) -> ValueId {
    let (low, high) = (b.convert(low, DType::U64), b.convert(high, DType::U64));
    let by = integer_like(b, high, 32);
    let high = b.binary(BinaryFn::Shl, high, by);
    b.binary(BinaryFn::Or, low, high)
}

/// Threefry-2x32 of counters `x` with a scalar key.
fn three_fry_block(b: &mut Graph, mut x: [ValueId; 2], key: [ValueId; 2]) -> [ValueId; 2] {
    const ROTATIONS: [[u64; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let shape = b.shape(x[0]).to_vec();
    let parity = number(b, DType::U32, 0x1bd1_1bda);
    let both = b.binary(BinaryFn::Xor, key[0], key[1]);
    let schedule = [key[0], key[1], b.binary(BinaryFn::Xor, both, parity)];
    for (x, k) in x.iter_mut().zip(schedule) {
        let k = spread(b, k, &shape);
        *x = b.plus(*x, k);
    }
    for group in 0..5 {
        for r in ROTATIONS[group % 2] {
            x[0] = b.plus(x[0], x[1]);
            let (left, right) = (integer_like(b, x[1], r), integer_like(b, x[1], 32 - r));
            let (up, down) = (b.binary(BinaryFn::Shl, x[1], left), b.binary(BinaryFn::ShrLogical, x[1], right));
            let turned = b.binary(BinaryFn::Or, up, down);
            x[1] = b.binary(BinaryFn::Xor, x[0], turned);
        }
        let round = number(b, DType::U32, group as u64 + 1);
        let second = b.plus(schedule[(group + 2) % 3], round);
        let (p, q) = (spread(b, schedule[(group + 1) % 3], &shape), spread(b, second, &shape));
        x = [b.plus(x[0], p), b.plus(x[1], q)];
    }
    x
}

/// Counters `start`, `start + 1`, … in row-major order, and the one after the last.
fn counters(b: &mut Graph, start: ValueId, shape: &[usize]) -> (ValueId, ValueId) {
    let n = element_count(shape);
    let index = iota(b, DType::U64, &[n], 0);
    let index = b.reshape(index, shape);
    let base = spread(b, start, shape);
    let count = number(b, DType::U64, n as u64);
    (b.plus(base, index), b.plus(start, count))
}

/// New counter and bits.
fn three_fry(b: &mut Graph, key: ValueId, counter: ValueId, size: usize, shape: &[usize]) -> (ValueId, ValueId) {
    let key = halves(b, key);
    if size == 8 {
        let (inputs, next) = counters(b, counter, shape);
        let x = halves(b, inputs);
        let [low, high] = three_fry_block(b, x, key);
        return (next, joined(b, low, high));
    }
    // Each counter makes two words: elements 2i and 2i + 1 along the first even dimension, or else the longest one.
    let longest = (0..shape.len()).rev().max_by_key(|d| shape[*d]);
    let Some(split) = shape.iter().position(|d| d.is_multiple_of(2)).or(longest) else {
        let (inputs, next) = counters(b, counter, &[1]);
        let x = halves(b, inputs);
        let [low, _] = three_fry_block(b, x, key);
        return (next, b.reshape(low, &[]));
    };
    let mut half = shape.to_vec();
    half[split] = shape[split].div_ceil(2);
    half.insert(split + 1, 1);
    let (inputs, next) = counters(b, counter, &half);
    let x = halves(b, inputs);
    let words = three_fry_block(b, x, key);
    let pair = concat(b, &words, split + 1);
    let mut even = shape.to_vec();
    even[split] = shape[split].next_multiple_of(2);
    let all = b.reshape(pair, &even);
    (next, slice(b, all, split, 0, shape[split]))
}

/// Philox-4x32 of counters `x` with a scalar key.
fn philox_block(b: &mut Graph, mut x: [ValueId; 4], mut key: [ValueId; 2]) -> [ValueId; 4] {
    let shape = b.shape(x[0]).to_vec();
    let product = |b: &mut Graph, x: ValueId, k: u64| {
        let k = integer_like(b, x, k);
        (b.binary(BinaryFn::MulHi, x, k), b.times(x, k))
    };
    let bump = [number(b, DType::U32, 0x9e37_79b9), number(b, DType::U32, 0xbb67_ae85)];
    for _ in 0..10 {
        let (high0, low0) = product(b, x[0], 0xd251_1f53);
        let (high1, low1) = product(b, x[2], 0xcd9e_8d57);
        let (k0, k1) = (spread(b, key[0], &shape), spread(b, key[1], &shape));
        let (p, q) = (b.binary(BinaryFn::Xor, high1, x[1]), b.binary(BinaryFn::Xor, high0, x[3]));
        x = [b.binary(BinaryFn::Xor, p, k0), low1, b.binary(BinaryFn::Xor, q, k1), low0];
        key = [b.plus(key[0], bump[0]), b.plus(key[1], bump[1])];
    }
    x
}

/// A 128-bit number, low word first, plus a 64-bit one, with the carry.
fn add_wide(b: &mut Graph, wide: [ValueId; 2], v: ValueId) -> [ValueId; 2] {
    let low = b.plus(wide[0], v);
    let carry = b.compare(CompareFn::Lt, low, wide[0]);
    let carry = b.convert(carry, DType::U64);
    [low, b.plus(wide[1], carry)]
}

/// New counter and bits.
fn philox(b: &mut Graph, key: ValueId, counter: [ValueId; 2], size: usize, shape: &[usize]) -> ([ValueId; 2], ValueId) {
    let n = element_count(shape);
    let words = if size == 8 { 2 * n } else { n };
    let blocks = words.div_ceil(4);
    let key = halves(b, key);
    let index = iota(b, DType::U64, &[blocks], 0);
    let base = counter.map(|c| spread(b, c, &[blocks]));
    let [low, high] = add_wide(b, base, index);
    let ([x0, x1], [x2, x3]) = (halves(b, low), halves(b, high));
    let out = philox_block(b, [x0, x1, x2, x3], key);
    let count = number(b, DType::U64, blocks as u64);
    let next = add_wide(b, counter, count);
    // Element after element out of each block.
    let lanes: Vec<ValueId> = if size == 8 { vec![joined(b, out[0], out[1]), joined(b, out[2], out[3])] } else { out.to_vec() };
    let lanes: Vec<ValueId> = lanes.into_iter().map(|v| b.reshape(v, &[blocks, 1])).collect();
    let all = concat(b, &lanes, 1);
    let all = b.reshape(all, &[blocks * lanes.len()]);
    let all = slice(b, all, 0, 0, n);
    (next, b.reshape(all, shape))
}

/// The distributions of `rng`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RngKind {
    /// Uniform from the first operand to below the second.
    Uniform,
    /// Normal with the first operand as mean and the second as standard deviation.
    Normal,
}

/// StableHLO `rng`, which has no state: `seed` tells one such operation from another. The bits are those of the IR's own generator.
/// `None` for types that the distribution does not have.
pub fn rng(b: &mut Graph, kind: RngKind, first: ValueId, second: ValueId, shape: &[usize], seed: i64) -> Option<ValueId> {
    let dtype = b.tensor_ty(first).dtype;
    if b.tensor_ty(second).dtype != dtype || dtype == DType::Bool || (kind == RngKind::Normal && !dtype.is_float()) {
        return None;
    }
    let zero = number(b, DType::U64, 0);
    let (p, q) = (spread(b, first, shape), spread(b, second, shape));
    let made = |b: &mut Graph, distribution, dtype| {
        let op = Random { distribution, dtype, shape: Dims::from_slice(shape), seed };
        b.add(op.into(), &[zero, zero]).ok()
    };
    if kind == RngKind::Normal {
        let x = made(b, Distribution::Normal, dtype)?;
        let x = b.times(x, q);
        return Some(b.plus(x, p));
    }
    if dtype.is_float() {
        let x = made(b, Distribution::Uniform, dtype)?;
        let width = b.minus(q, p);
        let x = b.times(x, width);
        return Some(b.plus(x, p));
    }
    // Wide bits modulo the width: the bias is below 2⁻³².
    let bits = made(b, Distribution::Bits, DType::U64)?;
    let (wp, wq) = (b.convert(p, DType::I64), b.convert(q, DType::I64));
    let width = b.minus(wq, wp);
    let width = same_size(b, width, DType::U64);
    let x = b.binary(BinaryFn::Rem, bits, width);
    let x = b.convert(x, dtype);
    Some(b.plus(x, p))
}
