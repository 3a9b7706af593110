//! Moving elements: copies between layouts, fills, pads, index ramps, and adding one region into another.
//!
//! A copy only looks at the size of an element, so four loops serve all element types.

use crate::arch::tier::{Tier, Work};
use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::{Lane, Value, by_dtype, by_monoid};
use girih_ir::scalar::Monoid;
use girih_ir::types::Layout;
use smallvec::SmallVec;

/// One dimension of a joint walk: extent, source stride, destination stride.
type Dim = (usize, isize, isize);

/// A walk over two layouts of equal extents: dimensions merged and ordered so that the destination is written in runs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    dims: SmallVec<[Dim; 6]>,
    empty: bool,
}

impl Plan {
    /// The walk over dimensions of (extent, source stride, destination stride), in any order.
    pub(crate) fn new(dims: impl IntoIterator<Item = Dim>) -> Plan {
        let mut all: SmallVec<[Dim; 6]> = dims.into_iter().filter(|d| d.0 != 1).collect();
        let empty = all.iter().any(|d| d.0 == 0);
        all.sort_by_key(|(_, s, d)| std::cmp::Reverse((d.unsigned_abs(), s.unsigned_abs())));
        let mut dims: SmallVec<[Dim; 6]> = SmallVec::new();
        for (e, s, d) in all {
            match dims.last_mut() {
                Some(o) if o.1 == s * e as isize && o.2 == d * e as isize => *o = (o.0 * e, s, d),
                _ => dims.push((e, s, d)),
            }
        }
        Plan { dims, empty }
    }

    /// Calls `f(source position, destination position, innermost dimension)` for every run.
    pub(crate) fn runs(&self, src: isize, dst: isize, mut f: impl FnMut(isize, isize, Dim)) {
        if self.empty {
            return;
        }
        let Some((inner, outer)) = self.dims.split_last() else { return f(src, dst, (1, 1, 1)) };
        walk(outer, src, dst, &mut |s, d| f(s, d, *inner));
    }

    /// Copies elements.
    pub(crate) fn copy<T: Copy>(&self, from: &[T], src: isize, to: &mut [T], dst: isize) {
        if let [.., (rows, row_src, row_dst), (cols, col_src, col_dst)] = self.dims[..]
            && row_src == 1
            && col_src != 1
            && !self.empty
        {
            // A transposition: square blocks keep both sides in cache.
            const SIDE: usize = 16;
            let outer = &self.dims[..self.dims.len() - 2];
            return walk(outer, src, dst, &mut |src, dst| {
                for r in (0..rows).step_by(SIDE) {
                    for c in (0..cols).step_by(SIDE) {
                        for i in r..(r + SIDE).min(rows) {
                            let (s, d) = (src + i as isize, dst + i as isize * row_dst);
                            for j in c as isize..(c + SIDE).min(cols) as isize {
                                to[(d + j * col_dst) as usize] = from[(s + j * col_src) as usize];
                            }
                        }
                    }
                }
            });
        }
        self.runs(src, dst, |s, d, (n, step_src, step_dst)| match (step_src, step_dst) {
            (1, 1) => to[d as usize..d as usize + n].copy_from_slice(&from[s as usize..s as usize + n]),
            (0, 1) => to[d as usize..d as usize + n].fill(from[s as usize]),
            _ => (0..n as isize).for_each(|i| to[(d + i * step_dst) as usize] = from[(s + i * step_src) as usize]),
        });
    }
}

fn walk(dims: &[Dim], src: isize, dst: isize, f: &mut impl FnMut(isize, isize)) {
    match dims.split_first() {
        None => f(src, dst),
        Some(((n, s, d), inner)) => (0..*n as isize).for_each(|i| walk(inner, src + i * s, dst + i * d, f)),
    }
}

/// Pairs the dimensions of two layouts.
pub(crate) fn pair(src: &Layout, dst: &Layout) -> Plan {
    Plan::new(dst.dims.iter().zip(src.strides.iter().zip(&dst.strides)).map(|(e, (s, d))| (*e, *s, *d)))
}

/// Runs `$body` with `$t` bound to the unsigned type of that many bytes.
macro_rules! by_size {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}
pub(crate) use by_size;

/// `out[i] = input[i]`; the extents are equal.
pub fn copy(input: &View<'_>, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    check_type("out", out.dtype(), input.dtype())?;
    check_shape("a copy has equal extents", "out", out.dims(), input.dims())?;
    let plan = pair(input.layout(), out.layout());
    by_size!(input.dtype().size(), T => {
        let (to, layout) = out.parts::<T>();
        let dst = layout.base as isize;
        plan.copy(input.buf().elements::<T>(), input.layout().base as isize, to, dst);
    });
    Ok(())
}

/// Sets every element to the one whose bytes are the low bytes of `bits`.
pub fn fill(bits: u64, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    let plan = pair(out.layout(), out.layout());
    by_size!(out.dtype().size(), T => {
        let (to, layout) = out.parts::<T>();
        let (v, base) = (bits as T, layout.base as isize);
        plan.runs(base, base, |_, d, (n, _, step)| match step {
            1 => to[d as usize..d as usize + n].fill(v),
            _ => (0..n as isize).for_each(|i| to[(d + i * step) as usize] = v),
        });
    });
    Ok(())
}

/// `out[i] = input[(i − low) / (interior + 1)]` where that is an element, else the scalar `value`.
pub fn pad(input: &View<'_>, value: &View<'_>, low: &[i64], interior: &[usize], out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    check_type("out", out.dtype(), input.dtype())?;
    check_type("fill", value.dtype(), input.dtype())?;
    let rank = input.dims().len();
    check_shape("one padding a dimension", "low", &[low.len(), interior.len(), out.dims().len()], &[rank; 3])?;
    check_shape("the fill is a scalar", "fill", &[value.layout().elements()], &[1])?;
    let (mut bits, size) = ([0u8; 8], input.dtype().size());
    bits[..size].copy_from_slice(&value.buf().bytes()[value.layout().base * size..][..size]);
    let bits = u64::from_le_bytes(bits);
    fill(bits, out)?;
    let (mut src, mut dst) = (input.layout().base as i128, out.layout().base as i128);
    let mut dims: SmallVec<[Dim; 6]> = SmallVec::new();
    for d in 0..rank {
        // Elements k with 0 ≤ low + k·step < extent.
        let (step, low, extent) = (interior[d] as i128 + 1, i128::from(low[d]), out.dims()[d] as i128);
        let first = if low < 0 { (-low + step - 1) / step } else { 0 };
        let last = ((extent - low + step - 1).div_euclid(step)).min(input.dims()[d] as i128);
        if last <= first {
            return Ok(());
        }
        src += first * input.layout().strides[d] as i128;
        dst += (low + first * step) * out.layout().strides[d] as i128;
        // With one element, the step (which may be huge) is not taken.
        let step = if last - first == 1 { 0 } else { step as isize * out.layout().strides[d] };
        dims.push(((last - first) as usize, input.layout().strides[d], step));
    }
    let plan = Plan::new(dims);
    by_size!(input.dtype().size(), T => {
        plan.copy(input.buf().elements::<T>(), src as isize, out.parts::<T>().0, dst as isize);
    });
    Ok(())
}

/// `out[…, i, …] = start + i` along `dim`, converted to the element type.
pub fn iota(dim: usize, start: u64, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    if dim >= out.dims().len() {
        return Err(KernelError::Attribute { name: "dim", value: dim as i64, rule: "a dimension of the output" });
    }
    // The source "position" is the index along the dimension.
    let plan =
        Plan::new(out.layout().dims.iter().zip(&out.layout().strides).enumerate().map(|(k, (e, s))| (*e, isize::from(k == dim), *s)));
    by_dtype!(out.dtype(), L => {
        let (to, layout) = out.parts::<L>();
        plan.runs(start as isize, layout.base as isize, |s, d, (n, step_src, step_dst)| {
            for i in 0..n as isize {
                to[(d + i * step_dst) as usize] = L::narrow(Value::from_i64((s + i * step_src) as i64));
            }
        });
    });
    Ok(())
}

struct Combine<'a, L, F> {
    to: &'a mut [L],
    from: &'a [L],
    f: F,
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Work for Combine<'_, L, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (t, s) in self.to.iter_mut().zip(self.from) {
            *t = L::narrow((self.f)(t.widen(), s.widen()));
        }
    }
}

/// `out[i] = combine(out[i], input[i])`; the extents are equal.
pub fn combine_into(isa: Isa, monoid: Monoid, input: &View<'_>, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    check_type("out", out.dtype(), input.dtype())?;
    check_shape("combining needs equal extents", "out", out.dims(), input.dims())?;
    if monoid.function().result(input.dtype()).is_none() {
        return Err(KernelError::Attribute {
            name: "monoid",
            value: monoid as i64,
            rule: "a combiner that is defined on the element type",
        });
    }
    let (plan, tier) = (pair(input.layout(), out.layout()), Tier::new(isa));
    by_dtype!(input.dtype(), L => {
        let from = input.buf().elements::<L>();
        let (to, layout) = out.parts::<L>();
        let dst = layout.base as isize;
        by_monoid!(monoid, <L as Lane>::Value, f => plan.runs(input.layout().base as isize, dst, |s, d, (n, step_src, step_dst)| {
            if (step_src, step_dst) == (1, 1) {
                let work = Combine { to: &mut to[d as usize..d as usize + n], from: &from[s as usize..s as usize + n], f };
                return if L::HOT { tier.run(work) } else { tier.run_narrow(work) };
            }
            for i in 0..n as isize {
                let t = &mut to[(d + i * step_dst) as usize];
                *t = L::narrow(f(t.widen(), from[(s + i * step_src) as usize].widen()));
            }
        }));
    });
    Ok(())
}
