//! The transforms of Winograd's F(4×4, 3×3) and its weight gradient, 16 channels a step, and the product of blocks between them.
//!
//! Every function is written once over [`Line`]. The interpolation points are 0, ±5/8, ±3/2 and ∞: they, their powers and the coefficients of the input
//! and output transforms are exact in f32, and they keep the error within twice that of the direct sum.

use super::line::{Cell, LANES, Line, Op, dispatch};
use crate::isa::Isa;

/// Points of a transformed tile.
pub(crate) const POINTS: usize = 36;
/// Outputs of a tile along one axis.
pub(crate) const TILE: usize = 4;
/// Columns of a panel.
pub(crate) const PANEL: usize = 64;
/// Positive finite points and their powers.
const A: f32 = 0.625;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;
/// Derivatives of `x (x² − a²) (x² − b²)` at the points: the denominators of the filter's transform.
const NZ: f64 = (AA as f64) * (BB as f64);
const NA: f64 = 2.0 * (AA as f64) * ((AA as f64) - (BB as f64));
const NB: f64 = 2.0 * (BB as f64) * ((BB as f64) - (AA as f64));

/// A rectangle of positions in a channels-last image; those outside `y` × `x` are padding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    /// Element of position (0, 0), channel 0; may lie outside the slice when that is padding.
    pub base: isize,
    /// Elements between rows.
    pub row: isize,
    /// Elements between columns.
    pub col: isize,
    /// Rows that exist: from, to.
    pub y: [usize; 2],
    /// Columns that exist: from, to.
    pub x: [usize; 2],
}

impl Patch {
    /// What tiles before this one did not read of a patch of the input.
    pub(crate) fn fresh(&self) -> Patch {
        Patch { y: [self.y[0].max(2), self.y[1]], x: [self.x[0].max(2), self.x[1]], ..*self }
    }

    fn is_empty(&self) -> bool {
        self.y[0] >= self.y[1] || self.x[0] >= self.x[1]
    }

    /// Whether all existing positions with `channels` channels lie in a slice of `len` elements, and no index exceeds `size`.
    fn inside(&self, len: usize, channels: usize, size: usize) -> bool {
        if self.is_empty() || channels == 0 {
            return true;
        }
        let at = |y: usize, x: usize| {
            let (y, x) = (self.row.checked_mul(y as isize)?, self.col.checked_mul(x as isize)?);
            let at = usize::try_from(self.base.checked_add(y)?.checked_add(x)?).ok()?;
            at.checked_add(channels).filter(|end| *end <= len)
        };
        let [(top, bottom), (left, right)] = [(self.y[0], self.y[1] - 1), (self.x[0], self.x[1] - 1)];
        bottom < size
            && right < size
            && at(top, left).is_some()
            && at(top, right).is_some()
            && at(bottom, left).is_some()
            && at(bottom, right).is_some()
    }
}

/// Bᵀ along one axis: a patch of the input to its points.
#[inline(always)]
fn input_axis<L: Line>(d: [L; 6]) -> [L; 6] {
    let (a, b, na, nb) = (L::splat(A), L::splat(B), L::splat(-A), L::splat(-B));
    let (naa, nbb) = (L::splat(-AA), L::splat(-BB));
    let (p, ns) = (L::splat(AA * BB), L::splat(-(AA + BB)));
    let (even_a, odd_a) = (d[2].fma(nbb, d[4]), d[1].fma(nbb, d[3]));
    let (even_b, odd_b) = (d[2].fma(naa, d[4]), d[1].fma(naa, d[3]));
    [
        d[0].fma(p, d[2].fma(ns, d[4])),
        odd_a.fma(a, even_a),
        odd_a.fma(na, even_a),
        odd_b.fma(b, even_b),
        odd_b.fma(nb, even_b),
        d[1].fma(p, d[3].fma(ns, d[5])),
    ]
}

/// Aᵀ along one axis: points to outputs.
#[inline(always)]
fn output_axis<L: Line>(m: [L; 6]) -> [L; 4] {
    let (sum_a, dif_a, sum_b, dif_b) = (m[1].add(m[2]), m[1].sub(m[2]), m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(sum_a).add(sum_b),
        dif_a.fma(L::splat(A), dif_b.mul(L::splat(B))),
        sum_a.fma(L::splat(AA), sum_b.mul(L::splat(BB))),
        dif_a.fma(L::splat(A * AA), dif_b.fma(L::splat(B * BB), m[5])),
    ]
}

/// A along one axis: the gradient of outputs to points.
#[inline(always)]
fn gradient_axis<L: Line>(y: [L; 4]) -> [L; 6] {
    let (aa, bb) = (L::splat(AA), L::splat(BB));
    let (even_a, odd_a) = (y[2].fma(aa, y[0]), y[3].fma(aa, y[1]));
    let (even_b, odd_b) = (y[2].fma(bb, y[0]), y[3].fma(bb, y[1]));
    [
        y[0],
        odd_a.fma(L::splat(A), even_a),
        odd_a.fma(L::splat(-A), even_a),
        odd_b.fma(L::splat(B), even_b),
        odd_b.fma(L::splat(-B), even_b),
        y[3],
    ]
}

/// G along one axis: taps to points.
#[inline(always)]
fn filter_axis<L: Line>(g: [L; 3]) -> [L; 6] {
    let at = |x: f64| L::splat(x as f32);
    let (a, b, aa, bb) = (f64::from(A), f64::from(B), f64::from(AA), f64::from(BB));
    let even_a = g[2].fma(at(aa / NA), g[0].mul(at(1.0 / NA)));
    let even_b = g[2].fma(at(bb / NB), g[0].mul(at(1.0 / NB)));
    [
        g[0].mul(at(1.0 / NZ)),
        g[1].fma(at(a / NA), even_a),
        g[1].fma(at(-a / NA), even_a),
        g[1].fma(at(b / NB), even_b),
        g[1].fma(at(-b / NB), even_b),
        g[2],
    ]
}

/// Gᵀ along one axis: points to the gradient of taps.
#[inline(always)]
fn taps_axis<L: Line>(m: [L; 6]) -> [L; 3] {
    let at = |x: f64| L::splat(x as f32);
    let (a, b, aa, bb) = (f64::from(A), f64::from(B), f64::from(AA), f64::from(BB));
    let (sum_a, dif_a, sum_b, dif_b) = (m[1].add(m[2]), m[1].sub(m[2]), m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].fma(at(1.0 / NZ), sum_a.fma(at(1.0 / NA), sum_b.mul(at(1.0 / NB)))),
        dif_a.fma(at(a / NA), dif_b.mul(at(b / NB))),
        sum_a.fma(at(aa / NA), sum_b.fma(at(bb / NB), m[5])),
    ]
}

/// Where transformed lines go: point `p`, channel `c` at `base + p·step + (c / 64)·panel + c % 64`.
#[derive(Clone, Copy)]
pub(crate) struct Points {
    /// First element.
    pub base: usize,
    /// Elements between points.
    pub step: usize,
    /// Elements between panels of channels.
    pub panel: usize,
}

impl Points {
    fn at(&self, channel: usize) -> usize {
        self.base + channel / PANEL * self.panel + channel % PANEL
    }

    fn inside(&self, len: usize, channels: usize) -> bool {
        let furthest = self.at(channels.saturating_sub(1) / LANES * LANES).max(self.at(channels.saturating_sub(1) / PANEL * PANEL));
        furthest.checked_add((POINTS - 1) * self.step + LANES).is_some_and(|end| end <= len)
    }
}

struct Transform<'a, E, const SIZE: usize> {
    src: &'a [E],
    patch: Patch,
    channels: usize,
    dst: &'a mut [f32],
    to: Points,
}

/// Reads a row of a patch; `FULL` patches have no padding.
///
/// # Safety
/// The patch was checked; `lanes` channels from `channel` exist.
#[inline(always)]
unsafe fn read<L: Line, E: Cell, const SIZE: usize, const FULL: bool>(
    src: &[E],
    patch: &Patch,
    y: usize,
    channel: usize,
    lanes: usize,
) -> [L; SIZE] {
    let mut line = [L::splat(0.0); SIZE];
    let at = src.as_ptr().wrapping_offset(patch.base + y as isize * patch.row).wrapping_add(channel);
    for (x, cell) in line.iter_mut().enumerate() {
        if FULL || (x >= patch.x[0] && x < patch.x[1]) {
            // SAFETY: position (y, x) exists.
            *cell = unsafe { E::read(at.wrapping_offset(x as isize * patch.col), lanes) };
        }
    }
    line
}

impl<E: Cell> Transform<'_, E, 6> {
    #[inline(always)]
    unsafe fn input<L: Line, const FULL: bool>(&mut self) {
        for channel in (0..self.channels).step_by(LANES) {
            let lanes = LANES.min(self.channels - channel);
            let mut half = [[L::splat(0.0); 6]; 6];
            for (y, half) in half.iter_mut().enumerate() {
                if FULL || (y >= self.patch.y[0] && y < self.patch.y[1]) {
                    // SAFETY: the patch was checked.
                    *half = input_axis(unsafe { read::<L, E, 6, FULL>(self.src, &self.patch, y, channel, lanes) });
                }
            }
            let to = self.dst.as_mut_ptr().wrapping_add(self.to.at(channel));
            for x in 0..6 {
                let points = input_axis([half[0][x], half[1][x], half[2][x], half[3][x], half[4][x], half[5][x]]);
                for (y, point) in points.iter().enumerate() {
                    // SAFETY: `Points::inside` bounds every point of every line.
                    unsafe { point.store(to.wrapping_add((y * 6 + x) * self.to.step), LANES) };
                }
            }
        }
    }
}

impl<E: Cell> Op for Transform<'_, E, 6> {
    #[inline(always)]
    unsafe fn run<L: Line>(mut self) {
        // SAFETY: passed on.
        unsafe { if self.patch.y == [0, 6] && self.patch.x == [0, 6] { self.input::<L, true>() } else { self.input::<L, false>() } }
    }
}

impl<E: Cell> Transform<'_, E, 4> {
    #[inline(always)]
    unsafe fn gradient<L: Line, const FULL: bool>(&mut self) {
        for channel in (0..self.channels).step_by(LANES) {
            let lanes = LANES.min(self.channels - channel);
            let mut half = [[L::splat(0.0); 6]; 4];
            for (y, half) in half.iter_mut().enumerate() {
                if FULL || (y >= self.patch.y[0] && y < self.patch.y[1]) {
                    // SAFETY: the patch was checked.
                    *half = gradient_axis(unsafe { read::<L, E, 4, FULL>(self.src, &self.patch, y, channel, lanes) });
                }
            }
            let to = self.dst.as_mut_ptr().wrapping_add(self.to.at(channel));
            for x in 0..6 {
                for (y, point) in gradient_axis([half[0][x], half[1][x], half[2][x], half[3][x]]).iter().enumerate() {
                    // SAFETY: `Points::inside` bounds every point of every line.
                    unsafe { point.store(to.wrapping_add((y * 6 + x) * self.to.step), LANES) };
                }
            }
        }
    }
}

impl<E: Cell> Op for Transform<'_, E, 4> {
    #[inline(always)]
    unsafe fn run<L: Line>(mut self) {
        // SAFETY: passed on.
        unsafe { if self.patch.y == [0, 4] && self.patch.x == [0, 4] { self.gradient::<L, true>() } else { self.gradient::<L, false>() } }
    }
}

/// Transforms a 6 × 6 patch of the input. Lines are written whole: channels past `channels` become 0.
pub(crate) fn input<E: Cell>(isa: Isa, src: &[E], patch: Patch, channels: usize, dst: &mut [f32], to: Points) {
    assert!(patch.inside(src.len(), channels, 6), "transform reads outside the input");
    assert!(to.inside(dst.len(), channels), "transform writes outside its points");
    dispatch(isa, Transform::<E, 6> { src, patch, channels, dst, to });
}

/// Transforms a 4 × 4 patch of the output's gradient, as [`input`] does the input.
pub(crate) fn gradient<E: Cell>(isa: Isa, src: &[E], patch: Patch, channels: usize, dst: &mut [f32], to: Points) {
    assert!(patch.inside(src.len(), channels, 4), "transform reads outside the gradient");
    assert!(to.inside(dst.len(), channels), "transform writes outside its points");
    dispatch(isa, Transform::<E, 4> { src, patch, channels, dst, to });
}

struct Output<'a, E> {
    points: &'a [f32],
    from: Points,
    out: &'a mut [E],
    patch: Patch,
    channels: usize,
    accumulate: bool,
}

impl<E: Cell> Op for Output<'_, E> {
    #[inline(always)]
    unsafe fn run<L: Line>(self) {
        let Patch { base, row, col, y: [top, bottom], x: [left, right] } = self.patch;
        for channel in (0..self.channels).step_by(LANES) {
            let lanes = LANES.min(self.channels - channel);
            let from = self.points.as_ptr().wrapping_add(self.from.at(channel));
            let mut half = [[L::splat(0.0); 6]; 4];
            for x in 0..6 {
                // SAFETY: `Points::inside` bounds every point of every line.
                let point = |y: usize| unsafe { L::load(from.wrapping_add((y * 6 + x) * self.from.step), LANES) };
                let column = output_axis([point(0), point(1), point(2), point(3), point(4), point(5)]);
                for (half, value) in half.iter_mut().zip(column) {
                    half[x] = value;
                }
            }
            for (y, half) in half.iter().enumerate().take(bottom).skip(top) {
                let line = output_axis(*half);
                let to = self.out.as_mut_ptr().wrapping_offset(base + y as isize * row).wrapping_add(channel);
                for (x, value) in line.into_iter().enumerate() {
                    if x >= left && x < right {
                        let to = to.wrapping_offset(x as isize * col);
                        // SAFETY: position (y, x) of the patch exists, with `lanes` channels from `channel`.
                        unsafe {
                            let value = if self.accumulate { E::read::<L>(to, lanes).add(value) } else { value };
                            E::write(value, to, lanes);
                        }
                    }
                }
            }
        }
    }
}

/// Transforms points to a 4 × 4 patch of the output.
pub(crate) fn output<E: Cell>(isa: Isa, points: &[f32], from: Points, out: &mut [E], patch: Patch, channels: usize, accumulate: bool) {
    assert!(patch.inside(out.len(), channels, TILE), "transform writes outside the output");
    assert!(from.inside(points.len(), channels), "transform reads outside its points");
    dispatch(isa, Output { points, from, out, patch, channels, accumulate });
}

struct Filter<'a> {
    taps: &'a [f32],
    plane: usize,
    depth: usize,
    lines: usize,
    dst: &'a mut [f32],
    step: usize,
}

impl Op for Filter<'_> {
    #[inline(always)]
    unsafe fn run<L: Line>(self) {
        let plane = self.plane;
        for row in 0..self.depth {
            for line in 0..self.lines {
                let at = row * PANEL + line * LANES;
                // SAFETY: `filter` checked both slices.
                let tap = |y: usize, x: usize| unsafe { L::load(self.taps.as_ptr().add((y * 3 + x) * plane + at), LANES) };
                let mut half = [[L::splat(0.0); 6]; 3];
                for (y, half) in half.iter_mut().enumerate() {
                    *half = filter_axis([tap(y, 0), tap(y, 1), tap(y, 2)]);
                }
                for x in 0..6 {
                    for (y, point) in filter_axis([half[0][x], half[1][x], half[2][x]]).iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { point.store(self.dst.as_mut_ptr().add((y * 6 + x) * self.step + at), LANES) };
                    }
                }
            }
        }
    }
}

/// Transforms `lines` × 16 columns of a kernel: tap `t` is `[depth][64]` at `t·plane`, point `p` of the result `[depth][64]` at `p·step`.
pub(crate) fn filter(isa: Isa, (taps, plane): (&[f32], usize), depth: usize, lines: usize, dst: &mut [f32], step: usize) {
    assert!(taps.len() >= 8 * plane + depth * PANEL && lines <= PANEL / LANES, "transform reads outside the kernel");
    assert!(step >= depth * PANEL && dst.len() >= (POINTS - 1) * step + depth * PANEL, "transform writes outside its points");
    dispatch(isa, Filter { taps, plane, depth, lines, dst, step });
}

struct Taps<'a, E> {
    points: &'a [f32],
    from: Points,
    out: &'a mut [E],
    at: [usize; 9],
    channels: usize,
    accumulate: bool,
}

impl<E: Cell> Op for Taps<'_, E> {
    #[inline(always)]
    unsafe fn run<L: Line>(self) {
        for channel in (0..self.channels).step_by(LANES) {
            let lanes = LANES.min(self.channels - channel);
            let from = self.points.as_ptr().wrapping_add(self.from.at(channel));
            let mut half = [[L::splat(0.0); 6]; 3];
            for x in 0..6 {
                // SAFETY: `Points::inside` bounds every point of every line.
                let point = |y: usize| unsafe { L::load(from.wrapping_add((y * 6 + x) * self.from.step), LANES) };
                let column = taps_axis([point(0), point(1), point(2), point(3), point(4), point(5)]);
                for (half, value) in half.iter_mut().zip(column) {
                    half[x] = value;
                }
            }
            for (half, at) in half.iter().zip(self.at.chunks_exact(3)) {
                for (value, at) in taps_axis(*half).into_iter().zip(at) {
                    // SAFETY: `taps` checked that `channels` elements follow every position.
                    unsafe {
                        let to = self.out.as_mut_ptr().add(at + channel);
                        let value = if self.accumulate { E::read::<L>(to, lanes).add(value) } else { value };
                        E::write(value, to, lanes);
                    }
                }
            }
        }
    }
}

/// Transforms points to the gradient of the nine taps, whose first channels are at `at`.
pub(crate) fn taps<E: Cell>(isa: Isa, points: &[f32], from: Points, out: &mut [E], at: [usize; 9], channels: usize, accumulate: bool) {
    assert!(at.iter().all(|at| *at <= out.len() && out.len() - at >= channels), "transform writes outside the kernel");
    assert!(from.inside(points.len(), channels), "transform reads outside its points");
    dispatch(isa, Taps { points, from, out, at, channels, accumulate });
}

/// A product of blocks: `c[i][j] (+)= Σ_p a[i·a_row + p·a_step] · b[p][j]`, `p` ascending from +0, one fused multiply-add a term; lines of
/// `b` and `c` are 64 apart.
pub(crate) struct Product<'a> {
    /// Broadcast operand.
    pub a: &'a [f32],
    /// Elements between its rows.
    pub a_row: usize,
    /// Elements between its terms.
    pub a_step: usize,
    /// Vector operand.
    pub b: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Terms; at least 1.
    pub depth: usize,
    /// Lines of 16 columns, 1 to 4.
    pub lines: usize,
    /// Add to the result.
    pub accumulate: bool,
}

struct Job<'a> {
    p: Product<'a>,
    c: &'a mut [f32],
}

impl Job<'_> {
    /// # Safety
    /// The product was checked; `row + ROWS` ≤ rows and `line + LINES` ≤ lines.
    #[inline(always)]
    unsafe fn tile<L: Line, const ROWS: usize, const LINES: usize>(&mut self, row: usize, line: usize) {
        let mut sums = [[L::splat(0.0); LINES]; ROWS];
        let p = &self.p;
        let (a_row, a_step) = (p.a_row, p.a_step);
        let mut a = p.a.as_ptr().wrapping_add(row * a_row);
        let mut b = p.b.as_ptr().wrapping_add(line * LANES);
        for _ in 0..p.depth {
            // SAFETY: `product` checked the reach of both operands.
            unsafe {
                let mut cells = [L::splat(0.0); LINES];
                for (v, cell) in cells.iter_mut().enumerate() {
                    *cell = L::load(b.wrapping_add(v * LANES), LANES);
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(*a.wrapping_add(i * a_row));
                    for (sum, y) in sums.iter_mut().zip(&cells) {
                        *sum = x.fma(*y, *sum);
                    }
                }
            }
            a = a.wrapping_add(a_step);
            b = b.wrapping_add(PANEL);
        }
        for (i, sums) in sums.iter().enumerate() {
            let c = self.c.as_mut_ptr().wrapping_add((row + i) * PANEL + line * LANES);
            for (v, sum) in sums.iter().enumerate() {
                let to = c.wrapping_add(v * LANES);
                // SAFETY: `product` checked that the result holds every line.
                unsafe {
                    let sum = if p.accumulate { L::load(to, LANES).add(*sum) } else { *sum };
                    sum.store(to, LANES);
                }
            }
        }
    }

    /// # Safety
    /// As [`tile`](Self::tile), for all rows.
    #[inline(always)]
    unsafe fn rows<L: Line, const LINES: usize>(&mut self, line: usize) {
        let mut row = 0;
        // SAFETY: passed on; each tile ends at or before the last row.
        unsafe {
            while row + 6 <= self.p.rows {
                self.tile::<L, 6, LINES>(row, line);
                row += 6;
            }
            match self.p.rows - row {
                1 => self.tile::<L, 1, LINES>(row, line),
                2 => self.tile::<L, 2, LINES>(row, line),
                3 => self.tile::<L, 3, LINES>(row, line),
                4 => self.tile::<L, 4, LINES>(row, line),
                5 => self.tile::<L, 5, LINES>(row, line),
                _ => {}
            }
        }
    }
}

impl Op for Job<'_> {
    #[inline(always)]
    unsafe fn run<L: Line>(mut self) {
        // SAFETY: passed on.
        unsafe {
            if L::WIDE {
                match self.p.lines {
                    1 => self.rows::<L, 1>(0),
                    2 => self.rows::<L, 2>(0),
                    3 => self.rows::<L, 3>(0),
                    _ => self.rows::<L, 4>(0),
                }
                return;
            }
            for line in 0..self.p.lines {
                for row in (0..self.p.rows / 2 * 2).step_by(2) {
                    self.tile::<L, 2, 1>(row, line);
                }
                if self.p.rows % 2 == 1 {
                    self.tile::<L, 1, 1>(self.p.rows - 1, line);
                }
            }
        }
    }
}

/// Runs a product.
pub(crate) fn product(isa: Isa, p: Product<'_>, c: &mut [f32]) {
    if p.rows == 0 {
        return;
    }
    assert!(p.depth > 0 && (1..=PANEL / LANES).contains(&p.lines), "product extents exceed the microkernel");
    assert!(p.a.len() > (p.rows - 1) * p.a_row + (p.depth - 1) * p.a_step, "product reads outside operand a");
    assert!(p.b.len() >= (p.depth - 1) * PANEL + p.lines * LANES, "product reads outside operand b");
    assert!(c.len() >= (p.rows - 1) * PANEL + p.lines * LANES, "product writes outside its result");
    dispatch(isa, Job { p, c });
}

/// Asks for the lines of cache of a patch, as far as they lie in the slice. A hint: nothing is read.
pub(crate) fn prefetch<E>(data: &[E], patch: &Patch, channels: usize) {
    #[cfg(target_arch = "x86_64")]
    for y in patch.y[0]..patch.y[1] {
        for x in patch.x[0]..patch.x[1] {
            let at = patch.base + y as isize * patch.row + x as isize * patch.col;
            for channel in (0..channels).step_by(64 / size_of::<E>()) {
                if let Some(cell) = data.get((at as usize).wrapping_add(channel)) {
                    // SAFETY: a prefetch has no effect but on time; the address is that of an element.
                    unsafe {
                        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(std::ptr::from_ref(cell).cast());
                    }
                }
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, patch, channels);
}
