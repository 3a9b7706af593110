//! Pooling: combining the windows of a tensor, and the gradient of max pooling.
//!
//! The elements of a window are combined in row-major order of the window, whatever the layout; 16-bit floats in f32.

use crate::arch;
use crate::arch::pool::{Combine, Strip};
use crate::arch::stored::Stored;
use crate::arch::tier::{Tier, Work};
use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::{Lane, Value, by_dtype, by_monoid};
use girih_ir::ops::window::WindowDim;
use girih_ir::scalar::Monoid;
use girih_ir::tensor::indices;
use girih_ir::types::{DType, Dims, Layout};
use half::bf16;
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
    let grid = Grid::new(windows, input.layout(), out.layout());
    if let (Some(grid), Some(how)) = (&grid, Combine::of(monoid)) {
        let done = match input.dtype() {
            DType::F32 => grid.combined::<f32>(isa, how, input, out),
            DType::BF16 => grid.combined::<bf16>(isa, how, input, out),
            _ => false,
        };
        if done {
            return Ok(());
        }
    }
    by_dtype!(input.dtype(), L => {
        if let Some(grid) = grid {
            let (to, ol) = out.parts::<L>();
            let (from, base) = (input.buf().elements::<L>(), [input.layout().base as isize, ol.base as isize]);
            by_monoid!(monoid, <L as Lane>::Value, f => {
                let work = PoolChannels { from, to, base, grid: &grid, identity: <L as Lane>::Value::identity(monoid), f };
                if L::HOT { Tier::new(isa).run(work) } else { Tier::new(isa).run_narrow(work) }
            });
        } else {
            pool::<L>(Tier::new(isa), monoid, windows, input, out);
        }
    });
    Ok(())
}

/// Windows that all lie inside the operand, over channels that are neighbors: the usual pooling.
struct Grid {
    /// Channels: the dimension that the windows leave alone.
    channels: usize,
    /// Other dimensions: results, and how far one result moves in the operand and in the results.
    dims: SmallVec<[(usize, isize, isize); 4]>,
    /// Where the elements of a window are, in row-major order of the window.
    taps: SmallVec<[isize; 16]>,
    /// The windows do not overlap, and cover the operand.
    tiles: bool,
}

/// Most elements of a window of a [`Grid`].
const TAPS: usize = 64;

impl Grid {
    fn new(windows: &[WindowDim], operand: &Layout, results: &Layout) -> Option<Grid> {
        let leaves = |w: &WindowDim| w.window == 1 && w.stride == 1 && w.pad_low == 0 && w.base_dilation == 1;
        let along = (0..windows.len()).find(|d| {
            leaves(&windows[*d]) && operand.strides[*d] == 1 && results.strides[*d] == 1 && results.dims[*d] == operand.dims[*d]
        })?;
        let channels = results.dims[along];
        if channels < 2 || windows.iter().map(|w| w.window).product::<usize>() > TAPS || results.elements() == 0 {
            return None;
        }
        let (mut dims, mut tiles) = (SmallVec::new(), true);
        let mut taps: SmallVec<[isize; 16]> = SmallVec::from_slice(&[0]);
        for (d, w) in windows.iter().enumerate().filter(|(d, _)| *d != along) {
            let last = (results.dims[d] - 1) * w.stride + (w.window - 1) * w.window_dilation;
            if w.pad_low != 0 || w.base_dilation != 1 || w.reverse || last >= w.extent {
                return None;
            }
            dims.push((results.dims[d], w.stride as isize * operand.strides[d], results.strides[d]));
            tiles &= w.stride == w.window && w.window_dilation == 1 && results.dims[d] * w.stride == w.extent;
            let step = w.window_dilation as isize * operand.strides[d];
            taps = taps.iter().flat_map(|t| (0..w.window as isize).map(move |k| t + k * step)).collect();
        }
        Some(Grid { channels, dims, taps, tiles })
    }

    /// Pools with vectors of channels, where the instruction set has them.
    fn combined<E: Stored>(&self, isa: Isa, how: Combine, input: &View<'_>, out: &mut ViewMut<'_>) -> bool {
        let base = [input.layout().base as isize, out.layout().base as isize];
        let (from, (to, _)) = (input.buf().elements::<E>(), out.parts::<E>());
        let mut done = true;
        self.rows(|x, y| {
            let strip = Strip { count: self.inner().0, channels: self.channels, taps: &self.taps };
            let (x, y) = ((base[0] + x, self.inner().1), (base[1] + y, self.inner().2));
            done = done && arch::pool::combine(isa, &strip, how, from, x, to, y);
        });
        done
    }

    /// The same for the gradient; the operand and its gradient are laid out alike, and the windows tile them.
    fn selected<E: Stored>(&self, max: bool, input: &View<'_>, source: &View<'_>, out: &mut ViewMut<'_>) -> bool {
        let base = [input.layout().base as isize, source.layout().base as isize, out.layout().base as isize];
        let (from, g, (to, _)) = (input.buf().elements::<E>(), source.buf().elements::<E>(), out.parts::<E>());
        let mut done = true;
        self.rows(|x, y| {
            let strip = Strip { count: self.inner().0, channels: self.channels, taps: &self.taps };
            let (x, y, to_base) = ((base[0] + x, self.inner().1), (base[1] + y, self.inner().2), base[2] + x);
            done = done && arch::pool::select(Isa::detect(), &strip, max, from, x, g, y, to, to_base);
        });
        done
    }

    /// The innermost dimension: results, and how far one moves in the operand and in the results.
    #[inline(always)]
    fn inner(&self) -> (usize, isize, isize) {
        self.dims.last().copied().unwrap_or((1, 0, 0))
    }

    /// Calls `f(operand position, result position)` for every result position, row-major.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(isize, isize)) {
        let inner = self.inner();
        self.rows(|a, b| {
            for i in 0..inner.0 as isize {
                f(a + i * inner.1, b + i * inner.2);
            }
        });
    }

    /// Calls `f` for the first result of every row of the innermost dimension.
    #[inline(always)]
    fn rows(&self, mut f: impl FnMut(isize, isize)) {
        let outer = &self.dims[..self.dims.len().saturating_sub(1)];
        let mut index: SmallVec<[usize; 4]> = SmallVec::from_elem(0, outer.len());
        loop {
            let at = index.iter().zip(outer).fold((0, 0), |at, (i, (_, a, b))| (at.0 + *i as isize * a, at.1 + *i as isize * b));
            f(at.0, at.1);
            let mut d = index.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                index[d] += 1;
                if index[d] < outer[d].0 {
                    break;
                }
                index[d] = 0;
            }
        }
    }
}

/// Channels that are worked on at a time.
const BLOCK: usize = 32;

struct PoolChannels<'a, L: Lane, F> {
    from: &'a [L],
    to: &'a mut [L],
    base: [isize; 2],
    grid: &'a Grid,
    identity: L::Value,
    f: F,
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Work for PoolChannels<'_, L, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        let PoolChannels { from, to, base, grid, identity, f } = self;
        grid.each(|a, b| {
            let (a, b) = (base[0] + a, (base[1] + b) as usize);
            let to = &mut to[b..b + grid.channels];
            let mut chunks = to.chunks_exact_mut(BLOCK);
            for (i, to) in chunks.by_ref().enumerate() {
                let mut acc = [identity; BLOCK];
                for tap in &grid.taps {
                    let at = (a + tap) as usize + i * BLOCK;
                    acc.iter_mut().zip(&from[at..at + BLOCK]).for_each(|(acc, x)| *acc = f(*acc, x.widen()));
                }
                to.iter_mut().zip(acc).for_each(|(t, v)| *t = L::narrow(v));
            }
            let rest = chunks.into_remainder();
            let first = grid.channels - rest.len();
            for (j, to) in rest.iter_mut().enumerate() {
                let x = |tap: &isize| from[(a + tap) as usize + first + j].widen();
                *to = L::narrow(grid.taps.iter().fold(identity, |acc, tap| f(acc, x(tap))));
            }
        });
    }
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
    // The operand and its gradient have to be laid out alike for one list of window elements to serve both.
    let alike = input.layout().strides == out.layout().strides;
    let grid = if alike { Grid::new(windows, input.layout(), source.layout()).filter(|g| g.tiles) } else { None };
    if let Some(grid) = &grid {
        let done = match input.dtype() {
            DType::F32 => grid.selected::<f32>(max, input, source, out),
            DType::BF16 => grid.selected::<bf16>(max, input, source, out),
            _ => false,
        };
        if done {
            return Ok(());
        }
    }
    by_dtype!(input.dtype(), L => match &grid {
        Some(grid) => {
            let (from, source_from) = (input.buf().elements::<L>(), source.buf().elements::<L>());
            let base = [input.layout().base as isize, source.layout().base as isize, out.layout().base as isize];
            let (to, _) = out.parts::<L>();
            let work = UnpoolChannels { from, source: source_from, to, base, grid, max };
            if L::HOT { Tier::new(Isa::detect()).run(work) } else { Tier::new(Isa::detect()).run_narrow(work) }
        }
        None => unpool::<L>(max, windows, input, source, out),
    });
    Ok(())
}

struct UnpoolChannels<'a, L: Lane> {
    from: &'a [L],
    source: &'a [L],
    to: &'a mut [L],
    base: [isize; 3],
    grid: &'a Grid,
    max: bool,
}

impl<L: Lane> UnpoolChannels<'_, L> {
    /// `count` ≤ [`BLOCK`] channels of one window.
    #[inline(always)]
    fn window(&mut self, x: isize, g: usize, to: isize, count: usize) {
        let zero = L::Value::identity(Monoid::Sum);
        let (mut best, mut which) = ([zero; BLOCK], [0u32; BLOCK]);
        for (k, tap) in self.grid.taps.iter().enumerate() {
            let at = (x + tap) as usize;
            let from = &self.from[at..at + count];
            if k == 0 {
                best.iter_mut().zip(from).for_each(|(b, v)| *b = v.widen());
                continue;
            }
            for ((b, w), v) in best.iter_mut().zip(&mut which).zip(from) {
                let v = v.widen();
                let keep = if self.max { *b >= v } else { *b <= v };
                *w = if keep { *w } else { k as u32 };
                *b = if keep { *b } else { v };
            }
        }
        let source = &self.source[g..g + count];
        for (k, tap) in self.grid.taps.iter().enumerate() {
            let at = (to + tap) as usize;
            for ((t, w), g) in self.to[at..at + count].iter_mut().zip(&which).zip(source) {
                let sum = L::Value::combine(Monoid::Sum, zero, g.widen());
                *t = L::narrow(if *w == k as u32 { sum } else { zero });
            }
        }
    }
}

impl<L: Lane> Work for UnpoolChannels<'_, L> {
    type Out = ();
    #[inline(always)]
    fn run(mut self) {
        let (grid, base) = (self.grid, self.base);
        grid.each(|x, g| {
            let (x, g, to) = (base[0] + x, (base[1] + g) as usize, base[2] + x);
            let whole = grid.channels / BLOCK * BLOCK;
            for c in (0..whole).step_by(BLOCK) {
                self.window(x + c as isize, g + c, to + c as isize, BLOCK);
            }
            if whole < grid.channels {
                self.window(x + whole as isize, g + whole, to + whole as isize, grid.channels - whole);
            }
        });
    }
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
