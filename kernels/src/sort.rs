//! Stable sorting along a dimension, with operands that are carried along, and the k extremes.
//!
//! In sorts NaN is above every number and −0 equals +0; the extremes are those of the total order, in which −NaN is the least and −0 is
//! below +0. Ties keep their order in both directions.

use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::copy::by_size;
use crate::error::KernelError;
use crate::lane::{Lane, Value, by_dtype};
use girih_ir::tensor::indices;
use girih_ir::types::{DType, Layout};
use std::cmp::Ordering;

fn order<V: Value>(a: V, b: V) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The total order of floats; NaNs of one sign are equal.
fn total_order<V: Value>(a: V, b: V) -> Ordering {
    let negative = |v: V| v.to_f64().is_sign_negative();
    let side = |v: V| if v.is_nan() { if negative(v) { -1 } else { 1 } } else { 0 };
    let numbers = || a.partial_cmp(&b).unwrap_or(Ordering::Equal);
    side(a).cmp(&side(b)).then_with(numbers).then_with(|| negative(b).cmp(&negative(a)))
}

/// The stable order of the `n` keys from `base` on, `step` apart.
fn sorted<L: Lane>(
    keys: &[L],
    base: isize,
    step: isize,
    n: usize,
    descending: bool,
    order: fn(L::Value, L::Value) -> Ordering,
    index: &mut Vec<u32>,
) {
    index.clear();
    index.extend(0..n as u32);
    let key = |i: u32| keys[(base + i as isize * step) as usize].widen();
    if descending { index.sort_by(|a, b| order(key(*b), key(*a))) } else { index.sort_by(|a, b| order(key(*a), key(*b))) }
}

/// Sorts along `dim` by the first operand; `outs` are the operands in that order.
pub fn sort(dim: usize, descending: bool, ins: &[View<'_>], outs: &mut [ViewMut<'_>]) -> Result<(), KernelError> {
    let Some(keys) = ins.first() else { return Ok(()) };
    check_shape("one result an operand", "outs", &[outs.len()], &[ins.len()])?;
    if dim >= keys.dims().len() || u32::try_from(keys.dims()[dim]).is_err() {
        return Err(KernelError::Attribute { name: "dim", value: dim as i64, rule: "a dimension of the operands, below 2³² long" });
    }
    for (i, o) in ins.iter().zip(outs.iter()) {
        check_type("out", o.dtype(), i.dtype())?;
        check_shape("sorted operands have equal extents", "input", i.dims(), keys.dims())?;
        check_shape("sorted operands have equal extents", "out", o.dims(), keys.dims())?;
    }
    let (n, rest) = (keys.dims()[dim], (0..keys.dims().len()).filter(|d| *d != dim));
    // Lines are numbered by a walk whose source positions are the keys'; the other operands are located by the line's index.
    let lines: Vec<(usize, usize)> = rest.map(|d| (d, keys.dims()[d])).collect();
    let count: usize = lines.iter().map(|l| l.1).product();
    let at = |l: &Layout, line: usize| {
        let (mut at, mut rest) = (l.base as isize, line);
        for (d, e) in lines.iter().rev() {
            at += (rest % e) as isize * l.strides[*d];
            rest /= e;
        }
        at
    };
    let mut index = Vec::with_capacity(n);
    for line in 0..count {
        by_dtype!(keys.dtype(), L => {
            sorted::<L>(keys.buf().elements(), at(keys.layout(), line), keys.layout().strides[dim], n, descending, order, &mut index);
        });
        for (i, o) in ins.iter().zip(outs.iter_mut()) {
            let (si, so) = (i.layout().strides[dim], o.layout().strides[dim]);
            let (src, dst) = (at(i.layout(), line), at(o.layout(), line));
            by_size!(i.dtype().size(), T => {
                let (from, to) = (i.buf().elements::<T>(), o.parts::<T>().0);
                for (k, p) in index.iter().enumerate() {
                    to[(dst + k as isize * so) as usize] = from[(src + *p as isize * si) as usize];
                }
            });
        }
    }
    Ok(())
}

/// The `k` largest (or smallest) elements along the last dimension, in order, and their positions; `k` is the last extent of the results. The
/// lower position comes first in a tie.
pub fn top_k(largest: bool, input: &View<'_>, values: &mut ViewMut<'_>, positions: &mut ViewMut<'_>) -> Result<(), KernelError> {
    check_type("values", values.dtype(), input.dtype())?;
    check_shape("values and positions have equal extents", "positions", positions.dims(), values.dims())?;
    let (Some((n, kept)), Some((k, out_kept))) = (input.dims().split_last(), values.dims().split_last()) else {
        return Err(KernelError::Attribute { name: "rank", value: 0, rule: "at least one dimension" });
    };
    let (n, k) = (*n, *k);
    check_shape("top_k keeps the leading dimensions", "values", out_kept, kept)?;
    if k > n || u32::try_from(n).is_err() {
        return Err(KernelError::Attribute { name: "k", value: k as i64, rule: "at most the extent, which is below 2³²" });
    }
    if !positions.dtype().is_int() {
        return Err(KernelError::ElementType { operand: "positions", have: positions.dtype(), want: DType::I64 });
    }
    let (il, d) = (input.layout(), kept.len());
    let (vl, pl) = (values.layout().clone(), positions.layout().clone());
    let mut index: Vec<u32> = Vec::with_capacity(n);
    // The positions of all lines, row-major.
    let mut found: Vec<u32> = Vec::new();
    by_dtype!(input.dtype(), L => {
        let from = input.buf().elements::<L>();
        let to = values.parts::<L>().0;
        for line in indices(kept) {
            let at = |l: &Layout| line.iter().zip(&l.strides).fold(l.base as isize, |at, (i, s)| at + *i as isize * s);
            let (src, dst) = (at(il), at(&vl));
            sorted(from, src, il.strides[d], n, largest, total_order, &mut index);
            for (t, p) in index.iter().take(k).enumerate() {
                to[(dst + t as isize * vl.strides[d]) as usize] = from[(src + *p as isize * il.strides[d]) as usize];
            }
            found.extend(&index[..k]);
        }
    });
    let mut found = found.into_iter();
    by_dtype!(positions.dtype(), I => {
        let to = positions.parts::<I>().0;
        for line in indices(kept) {
            let at = line.iter().zip(&pl.strides).fold(pl.base as isize, |at, (i, s)| at + *i as isize * s);
            for (t, p) in (0..k).zip(&mut found) {
                to[(at + t as isize * pl.strides[d]) as usize] = I::narrow(Value::from_i64(i64::from(p)));
            }
        }
    });
    Ok(())
}
