//! Bits of numbers: StableHLO's `bitcast_convert` between types of different sizes, and the integers whose order is the total order of
//! floats.

use super::Number;
use super::build::{integer_like, slice};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::bitcast_convert::BitcastConvert;
use girih_ir::scalar::{BinaryFn, CompareFn};
use girih_ir::types::DType;

fn unsigned(bits: usize) -> DType {
    match bits {
        8 => DType::U8,
        16 => DType::U16,
        32 => DType::U32,
        _ => DType::U64,
    }
}

fn width(dtype: DType) -> usize {
    if dtype == DType::Bool { 1 } else { 8 * dtype.size() }
}

/// The same bits as another type of the same size; nothing when it is that type.
pub(super) fn same_size(b: &mut Graph, x: ValueId, to: DType) -> ValueId {
    if b.tensor_ty(x).dtype == to { x } else { b.emit(BitcastConvert { to }, &[x]) }
}

/// StableHLO's `bitcast_convert`. A smaller result type gets a last dimension with the pieces of each element, the lowest bits first; for
/// a larger one the last dimension is one element's pieces and disappears. `bool` is one bit.
pub fn bitcast_convert(b: &mut Graph, x: ValueId, to: DType) -> Option<ValueId> {
    let ty = b.tensor_ty(x).clone();
    let (from, into) = (width(ty.dtype), width(to));
    if from == into {
        return Some(same_size(b, x, to));
    }
    let rank = ty.rank();
    if from > into {
        let x = same_size(b, x, unsigned(from));
        let mut shape = ty.shape.clone();
        shape.push(from / into);
        let dims: Vec<usize> = (0..rank).collect();
        let wide = b.broadcast(x, &shape, &dims);
        let piece = super::build::iota(b, unsigned(from), &shape, rank);
        let step = integer_like(b, piece, into as u64);
        let shift = b.times(piece, step);
        let low = b.binary(BinaryFn::ShrLogical, wide, shift);
        if to == DType::Bool {
            let one = integer_like(b, low, 1);
            let bit = b.binary(BinaryFn::And, low, one);
            return Some(b.convert(bit, DType::Bool));
        }
        let low = b.convert(low, unsigned(into));
        return Some(same_size(b, low, to));
    }
    if rank == 0 || ty.shape[rank - 1] != into / from {
        return None;
    }
    let x = if ty.dtype == DType::Bool { x } else { same_size(b, x, unsigned(from)) };
    let wide = b.convert(x, unsigned(into));
    let mut whole: Option<ValueId> = None;
    for k in 0..into / from {
        let piece = slice(b, wide, rank - 1, k, k + 1);
        let piece = b.reshape(piece, &ty.shape[..rank - 1]);
        let by = integer_like(b, piece, (k * from) as u64);
        let piece = b.binary(BinaryFn::Shl, piece, by);
        whole = Some(whole.map_or(piece, |w| b.binary(BinaryFn::Or, w, piece)));
    }
    whole.map(|w| same_size(b, w, to))
}

/// `bitcast_convert` where either side may be complex: a complex element is its real part, then its imaginary part.
pub fn bitcast_complex(b: &mut Graph, x: Number, to: DType, complex: bool) -> Option<Number> {
    // A complex tensor is a real one with a last dimension of 2.
    let flat = match x.im {
        None => x.re,
        Some(im) => {
            let mut shape = b.shape(x.re).to_vec();
            let rank = shape.len();
            shape.push(1);
            let (re, im) = (b.reshape(x.re, &shape), b.reshape(im, &shape));
            super::build::concat(b, &[re, im], rank)
        }
    };
    let from = b.tensor_ty(flat).dtype;
    let shape = b.shape(flat).to_vec();
    let rank = shape.len();
    let split = |b: &mut Graph, v: ValueId| {
        let shape = b.shape(v).to_vec();
        let last = shape.len().checked_sub(1).filter(|d| shape[*d] == 2)?;
        let part = |b: &mut Graph, k: usize| {
            let p = slice(b, v, last, k, k + 1);
            b.reshape(p, &shape[..last])
        };
        Some(Number::complex(part(b, 0), part(b, 1)))
    };
    match (x.im.is_some(), complex) {
        (false, false) => bitcast_convert(b, x.re, to).map(Number::real),
        (true, true) if width(from) == width(to) => split(b, flat),
        (true, true) if width(from) > width(to) => {
            // complex<f64> to complex<f32>: each part gives two elements.
            let v = bitcast_convert(b, flat, to)?;
            split(b, v)
        }
        (true, true) => {
            // Pieces [.., 2, 2]: two small complex numbers are the two parts of a large one.
            let v = bitcast_convert(b, flat, to)?;
            split(b, v)
        }
        (true, false) => {
            // A piece of a part is the size of the result, or the pair is one element of it.
            if width(to) == 2 * width(from) {
                return bitcast_convert(b, flat, to).map(Number::real);
            }
            let v = bitcast_convert(b, flat, to)?;
            let mut joined = shape[..rank - 1].to_vec();
            joined.push(2 * width(from) / width(to));
            Some(Number::real(b.reshape(v, &joined)))
        }
        (false, true) => {
            if width(from) == 2 * width(to) {
                let v = bitcast_convert(b, flat, to)?;
                return split(b, v);
            }
            let pieces = width(to) / width(from);
            let n = *shape.last()?;
            if n != 2 * pieces {
                return None;
            }
            let mut apart = shape[..rank - 1].to_vec();
            apart.extend(if pieces == 1 { vec![2] } else { vec![2, pieces] });
            let v = b.reshape(flat, &apart);
            let v = bitcast_convert(b, v, to)?;
            split(b, v)
        }
    }
}

/// Signed integers in the total order of floats: −NaN, −∞, …, −0, +0, …, +∞, +NaN (StableHLO's `TOTALORDER` comparisons).
pub fn total_order(b: &mut Graph, x: ValueId) -> ValueId {
    let signed = match b.tensor_ty(x).dtype.size() {
        1 => DType::I8,
        2 => DType::I16,
        4 => DType::I32,
        _ => DType::I64,
    };
    let v = same_size(b, x, signed);
    let zero = integer_like(b, v, 0);
    let negative = b.compare(CompareFn::Lt, v, zero);
    let rest = integer_like(b, v, !(1u64 << (8 * signed.size() - 1)));
    let flipped = b.binary(BinaryFn::Xor, v, rest);
    b.select(negative, flipped, v)
}
