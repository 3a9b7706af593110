//! Pooling: combining the windows of a tensor, and the gradient of max pooling.
//!
//! The elements of a window are combined in row-major order of the window, whatever the layout; 16-bit floats in f32.

use crate::arch::tier::{Tier, Work};
use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::{Lane, Value, by_dtype, by_monoid};
use girih_ir::ops::window::WindowDim;
use girih_ir::scalar::Monoid;
use girih_ir::tensor::indices;
use girih_ir::types::{DType, Dims, Layout};
use smallvec::SmallVec;

fn check_windows(windows: &[WindowDim], operand: &[usize], results: &[usize]) -> Result<(), KernelError> {
    let extents: Dims = windows.iter().map(|w| w.extent).collect();
    check_shape("one window a dimension, of its extent", "window", &extents, operand)?;
    check_shape("one result dimension an operand dimension", "out", &[results.len()], &[operand.len()])?;
    for (w, have) in windows.iter().zip(results) {
        // A part of the results may be asked for: fewer than fit, never more.
        match w.results() {
            Some(most) if *have <= most => {}
            _ => {
                return Err(KernelError::Attribute {
                    name: "window",
                    value: *have as i64,
                    rule: "a window that makes at least these results",
                });
            }
        }
    }
    Ok(())
}

/// The results `o` whose window element `k` is an operand element, when the operand is not dilated, and the operand index of the first.
fn valid(w: &WindowDim, k: usize, results: usize) -> (std::ops::Range<usize>, isize) {
    let k = if w.reverse { w.window - 1 - k } else { k };
    let (shift, stride) = (k as i64 * w.window_dilation as i64 - w.pad_low, w.stride as i64);
    let first = if shift < 0 { (-shift + stride - 1) / stride } else { 0 };
    let last = (w.extent as i64 - shift + stride - 1).div_euclid(stride).clamp(0, results as i64);
    let first = first.min(last);
    (first as usize..last as usize, (first * stride + shift) as isize)
}

struct Step<'a, L: Lane, F> {
    acc: &'a mut [L::Value],
    from: &'a [L],
    base: isize,
    stride: isize,
    f: F,
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Work for Step<'_, L, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        let n = self.acc.len();
        if n == 0 {
            return;
        }
        if self.stride == 1 {
            let at = self.base as usize;
            for (a, x) in self.acc.iter_mut().zip(&self.from[at..at + n]) {
                *a = (self.f)(*a, x.widen());
            }
        } else {
            for (i, a) in self.acc.iter_mut().enumerate() {
                *a = (self.f)(*a, self.from[(self.base + i as isize * self.stride) as usize].widen());
            }
        }
    }
}

/// `out[o…] = combine(input[window of o…])`; padding holds neutral elements. `out` may hold fewer results than fit, from the first on.
pub fn reduce_window(isa: Isa, monoid: Monoid, windows: &[WindowDim], input: &View<'_>, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    check_type("out", out.dtype(), input.dtype())?;
    check_windows(windows, input.dims(), out.dims())?;
    if monoid.function().result(input.dtype()).is_none() {
        return Err(KernelError::Attribute {
            name: "monoid",
            value: monoid as i64,
            rule: "a combiner that is defined on the element type",
        });
    }
    if out.layout().elements() == 0 {
        return Ok(());
    }
    by_dtype!(input.dtype(), L => pool::<L>(Tier::new(isa), monoid, windows, input, out));
    Ok(())
}

fn pool<L: Lane>(tier: Tier, monoid: Monoid, windows: &[WindowDim], input: &View<'_>, out: &mut ViewMut<'_>) {
    let (from, il) = (input.buf().elements::<L>(), input.layout());
    let (to, ol) = out.parts::<L>();
    let identity = L::Value::identity(monoid);
    let rank = windows.len();
    // The dimension of the inner loop: one of neighbors in memory if there is one, not dilated.
    let smooth = |d: &usize| windows[*d].base_dilation == 1;
    let along = (0..rank).filter(smooth).find(|d| il.strides[*d] == 1 && windows[*d].stride == 1 && ol.dims[*d] >= 8);
    let along = along.or_else(|| (0..rank).rev().find(|d| smooth(d) && ol.dims[*d] > 1));
    let width = along.map_or(1, |d| ol.dims[d]);
    let mut rows = ol.dims.clone();
    if let Some(d) = along {
        rows[d] = 1;
    }
    let kernel: Dims = windows.iter().map(|w| w.window).collect();
    let taps: Vec<Dims> = indices(&kernel).collect();
    let mut acc = vec![identity; width];
    for row in indices(&rows) {
        acc.fill(identity);
        for k in &taps {
            let mut base = il.base as isize;
            let (mut range, mut step, mut inside) = (0..width, 0, true);
            for (d, w) in windows.iter().enumerate() {
                if Some(d) == along {
                    let (r, first) = valid(w, k[d], width);
                    base += first * il.strides[d];
                    (range, step) = (r, w.stride as isize * il.strides[d]);
                } else if let Some(at) = w.source(row[d], k[d]) {
                    base += at as isize * il.strides[d];
                } else {
                    inside = false;
                    break;
                }
            }
            if inside && !range.is_empty() {
                let acc = &mut acc[range];
                by_monoid!(monoid, <L as Lane>::Value, f => {
                    let work = Step { acc, from, base, stride: step, f };
                    if L::HOT { tier.run(work) } else { tier.run_narrow(work) }
                });
            }
        }
        let dst = position(ol, &row);
        let step = along.map_or(0, |d| ol.strides[d]);
        for (i, v) in acc.iter().enumerate() {
            to[(dst + i as isize * step) as usize] = L::narrow(*v);
        }
    }
}

fn position(l: &Layout, index: &[usize]) -> isize {
    index.iter().zip(&l.strides).fold(l.base as isize, |at, (i, s)| at + *i as isize * s)
}

/// The gradient of max (or min) pooling: `out`, of the extents of `input`, is zero but for the sums of the source elements whose window selected
/// an element. The first of equal extremes in a window is selected; a NaN is when nothing that follows it is ordered against it.
pub fn select_and_scatter(
    max: bool,
    windows: &[WindowDim],
    input: &View<'_>,
    source: &View<'_>,
    out: &mut ViewMut<'_>,
) -> Result<(), KernelError> {
    check_type("out", out.dtype(), input.dtype())?;
    check_type("source", source.dtype(), input.dtype())?;
    check_shape("the gradient has the extents of the operand", "out", out.dims(), input.dims())?;
    check_windows(windows, input.dims(), source.dims())?;
    if input.dtype() == DType::Bool {
        return Err(KernelError::ElementType { operand: "input", have: DType::Bool, want: DType::F32 });
    }
    by_dtype!(input.dtype(), L => unpool::<L>(max, windows, input, source, out));
    Ok(())
}

fn unpool<L: Lane>(max: bool, windows: &[WindowDim], input: &View<'_>, source: &View<'_>, out: &mut ViewMut<'_>) {
    let (x, il) = (input.buf().elements::<L>(), input.layout());
    let (g, gl) = (source.buf().elements::<L>(), source.layout());
    let dense = Layout::dense(&il.dims);
    let mut sums = vec![L::Value::identity(Monoid::Sum); il.elements()];
    let Some((last, outer)) = windows.split_last() else {
        // Rank 0: the only element is its own window.
        let (to, ol) = out.parts::<L>();
        to[ol.base] = g[gl.base];
        return;
    };
    let n = outer.len();
    let outer_kernel: Dims = outer.iter().map(|w| w.window).collect();
    // For each position of the outer dimensions: where the window's rows are, in the input and in the sums.
    let mut rows: SmallVec<[(isize, isize); 16]> = SmallVec::new();
    let outer_results: Dims = gl.dims[..n].into();
    for o in indices(&outer_results) {
        rows.clear();
        rows.extend(indices(&outer_kernel).filter_map(|k| {
            outer.iter().enumerate().try_fold((il.base as isize, 0isize), |(a, b), (d, w)| {
                let at = w.source(o[d], k[d])? as isize;
                Some((a + at * il.strides[d], b + at * dense.strides[d]))
            })
        }));
        let g_base = position(gl, &o);
        for j in 0..gl.dims[n] {
            let mut best: Option<(L::Value, isize)> = None;
            for (a, b) in &rows {
                for at in (0..last.window).filter_map(|k| last.source(j, k)) {
                    let v = x[(a + at as isize * il.strides[n]) as usize].widen();
                    let keep = best.is_some_and(|(w, _)| if max { w >= v } else { w <= v });
                    if !keep {
                        best = Some((v, b + at as isize));
                    }
                }
            }
            if let Some((_, at)) = best {
                let sum = &mut sums[at as usize];
                *sum = Value::combine(Monoid::Sum, *sum, g[(g_base + j as isize * gl.strides[n]) as usize].widen());
            }
        }
    }
    let (to, ol) = out.parts::<L>();
    let plan = crate::copy::pair(&dense, ol);
    plan.runs(0, ol.base as isize, |s, d, (m, step_src, step_dst)| {
        for i in 0..m as isize {
            to[(d + i * step_dst) as usize] = L::narrow(sums[(s + i * step_src) as usize]);
        }
    });
}
