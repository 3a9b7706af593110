//! What integer counters of loops do: how often a loop runs, and which comparisons of its counters are known.

use super::super::{op_of, splat_of};
use girih_ir::graph::loops::Loop;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::{Binary, Compare};
use girih_ir::scalar::{BinaryFn, CompareFn};
use girih_ir::types::{DType, NumberKind};

/// Nested ops that a range is sought through.
const MAX_DEPTH: usize = 8;

/// A constant integer scalar.
pub(super) fn known_int(g: &Graph, v: ValueId) -> Option<i128> {
    let ty = g.ty(v).as_tensor()?;
    if ty.rank() != 0 || !ty.dtype.is_int() {
        return None;
    }
    let value = *splat_of(g, v)?.ints().first()?;
    Some(if ty.dtype == DType::U64 { i128::from(value as u64) } else { i128::from(value) })
}

fn fits(dtype: DType, v: i128) -> bool {
    let bits = 8 * dtype.size() as u32;
    match dtype.kind() {
        NumberKind::Signed => (-(1i128 << (bits - 1))..1i128 << (bits - 1)).contains(&v),
        NumberKind::Unsigned => (0..1i128 << bits).contains(&v),
        _ => false,
    }
}

/// What `v` adds to `base`, when it is the sum of `base` and a constant.
pub(super) fn offset_from(g: &Graph, v: ValueId, base: ValueId) -> Option<i128> {
    if v == base {
        return g.tensor_ty(v).dtype.is_int().then_some(0);
    }
    match (op_of(g, v), g.node(v).operands.as_slice()) {
        (Op::Binary(Binary(BinaryFn::Add)), [a, b]) if *a == base => known_int(g, *b),
        (Op::Binary(Binary(BinaryFn::Add)), [a, b]) if *b == base => known_int(g, *a),
        (Op::Binary(Binary(BinaryFn::Sub)), [a, b]) if *a == base => known_int(g, *b).map(|c| -c),
        _ => None,
    }
}

/// How often a loop runs, when that is known before it runs.
pub(super) fn trips(g: &Graph, this: &Loop) -> Option<usize> {
    if this.trips.is_some() {
        return this.trips;
    }
    let p = this.predicate?;
    if let Some(known) = splat_of(g, p) {
        return (known.ints()[0] == 0).then_some(0);
    }
    let (Op::Compare(Compare(f)), [a, b]) = (op_of(g, p), g.node(p).operands.as_slice()) else { return None };
    let (value, bound, f) = match (known_int(g, *a), known_int(g, *b)) {
        (None, Some(bound)) => (*a, bound, *f),
        (Some(bound), None) => (*b, bound, f.swapped()),
        _ => return None,
    };
    let counter = |k: &usize| offset_from(g, value, this.carries[*k]);
    let slot = (0..this.carries.len()).find(|k| counter(k).is_some())?;
    let carry = this.carries[slot];
    let start = known_int(g, g.node(carry).operands[0])?;
    let step = offset_from(g, this.next[slot], carry)?;
    let first = start + counter(&slot)?;
    let n = steps(f, first, step, bound)?;
    let dtype = g.tensor_ty(carry).dtype;
    let inside = [start, start + n * step, first, first + n * step].into_iter().all(|v| fits(dtype, v));
    if inside { usize::try_from(n).ok() } else { None }
}

/// How many members of first, first + step, … satisfy the comparison before one does not; `None` when all do.
fn steps(f: CompareFn, first: i128, step: i128, bound: i128) -> Option<i128> {
    let rising = |bound: i128| if first >= bound { Some(0) } else { (step > 0).then(|| (bound - first + step - 1) / step) };
    let falling = |bound: i128| if first <= bound { Some(0) } else { (step < 0).then(|| (first - bound - step - 1) / -step) };
    match f {
        CompareFn::Lt => rising(bound),
        CompareFn::Le => rising(bound + 1),
        CompareFn::Gt => falling(bound),
        CompareFn::Ge => falling(bound - 1),
        CompareFn::Eq if first != bound => Some(0),
        CompareFn::Eq => (step != 0).then_some(1),
        CompareFn::Ne if first == bound => Some(0),
        CompareFn::Ne => (step != 0 && (bound - first) % step == 0 && (bound - first) / step > 0).then(|| (bound - first) / step),
    }
}

/// The least and the greatest value of an integer scalar, when they follow from the trip counts of loops.
fn range(g: &Graph, v: ValueId, trips: &dyn Fn(usize) -> Option<usize>, depth: usize) -> Option<(i128, i128)> {
    if let Some(c) = known_int(g, v) {
        return Some((c, c));
    }
    let ty = g.ty(v).as_tensor()?;
    if depth == MAX_DEPTH || ty.rank() != 0 || !ty.dtype.is_int() {
        return None;
    }
    let of = |v: &ValueId| range(g, *v, trips, depth + 1);
    let (low, high) = match (op_of(g, v), g.node(v).operands.as_slice()) {
        (Op::LoopIndex(i), _) => (0, trips(i.loop_id)?.checked_sub(1)? as i128),
        (Op::Convert(_), [a]) => of(a)?,
        (Op::Binary(Binary(f)), [a, b]) => {
            let ((a, c), (b, d)) = (of(a)?, of(b)?);
            match f {
                BinaryFn::Add => (a + b, c + d),
                BinaryFn::Sub => (a - d, c - b),
                BinaryFn::Min => (a.min(b), c.min(d)),
                BinaryFn::Max => (a.max(b), c.max(d)),
                BinaryFn::Mul => {
                    let corners = [a.checked_mul(b)?, a.checked_mul(d)?, c.checked_mul(b)?, c.checked_mul(d)?];
                    (*corners.iter().min()?, *corners.iter().max()?)
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    (fits(ty.dtype, low) && fits(ty.dtype, high)).then_some((low, high))
}

/// The result of a comparison of loop indices with constants, when it is the same in every iteration.
pub(super) fn known_compare(g: &Graph, v: ValueId, trips: &dyn Fn(usize) -> Option<usize>) -> Option<bool> {
    let (Op::Compare(Compare(f)), [a, b]) = (op_of(g, v), g.node(v).operands.as_slice()) else { return None };
    let ((a, c), (b, d)) = (range(g, *a, trips, 0)?, range(g, *b, trips, 0)?);
    let decided = |always: bool, never: bool| if always { Some(true) } else { never.then_some(false) };
    match f {
        CompareFn::Lt => decided(c < b, a >= d),
        CompareFn::Le => decided(c <= b, a > d),
        CompareFn::Gt => decided(a > d, c <= b),
        CompareFn::Ge => decided(a >= d, c < b),
        CompareFn::Eq => decided(a == c && b == d && a == b, c < b || d < a),
        CompareFn::Ne => decided(c < b || d < a, a == c && b == d && a == b),
    }
}
