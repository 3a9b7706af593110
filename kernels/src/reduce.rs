//! Reductions over trailing dimensions of any strided layout, and the position of an extreme.
//!
//! **Order:** the reduced elements, row-major, are cut into chunks of [`CHUNK`]. Element `r` of a chunk is combined into lane `r mod 64`,
//! ascending; the lanes are combined by halving, then the chunks one after another. That order depends on nothing but the extents, so
//! layouts, instruction sets and splits of the kept dimensions do not show in the bits, and the error grows with the logarithm of most of
//! the length. 16-bit floats are combined in f32.

use crate::arch::tier::{Tier, Work};
use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::{Lane, Value, by_dtype, by_monoid};
use crate::map::lanes::{self, Lanes};
use crate::map::loops::{LANES, finish, fold};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Layout, element_count};
use smallvec::SmallVec;

/// Elements of one chunk. A reduction that is cut at multiples of it, whose parts are run in order with `accumulate`, has the same bits
/// (but for 16-bit floats, which are rounded between the parts).
pub const CHUNK: usize = 8192;

/// Most kept elements that are reduced side by side when they are neighbors and the reduced ones are not.
const TILE: usize = 1024;
/// Bytes of lanes that are worked on at a time, so that they stay in L1.
const NEAR: usize = 32 << 10;

/// A cache line of working memory.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

thread_local! {
    /// Working memory of reductions: lanes and totals, kept between calls.
    static MEMORY: std::cell::RefCell<[Vec<Line>; 2]> = const { std::cell::RefCell::new([Vec::new(), Vec::new()]) };
    /// Where the reduced elements of a column are.
    static PLACES: std::cell::RefCell<Vec<isize>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The first `count` elements of working memory.
fn elements<T: Value>(memory: &mut Vec<Line>, count: usize) -> &mut [T] {
    let lines = (count * size_of::<T>()).div_ceil(size_of::<Line>());
    if memory.len() < lines {
        memory.resize(lines, Line([0; 8]));
    }
    &mut bytemuck::cast_slice_mut(memory)[..count]
}

/// `out[kept…] = combine(input[kept…, reduced…])`, and with `accumulate` `combine(out, …)`. Floats of 16 bits and fewer may be combined into f32,
/// where nothing is rounded.
pub fn reduce(isa: Isa, monoid: Monoid, accumulate: bool, input: &View<'_>, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    if out.dtype() != monoid.carried_in(input.dtype()) {
        check_type("out", out.dtype(), input.dtype())?;
    }
    let kept = out.dims().len();
    check_shape("the kept dimensions lead", "input", &input.dims()[..kept.min(input.dims().len())], out.dims())?;
    if monoid.function().result(input.dtype()).is_none() {
        return Err(KernelError::Attribute {
            name: "monoid",
            value: monoid as i64,
            rule: "a combiner that is defined on the element type",
        });
    }
    if out.layout().elements() > 0 {
        MEMORY.with_borrow_mut(|memory| {
            by_dtype!(input.dtype(), L => {
                let job = Job::<L>::new(Tier::new(isa), monoid, accumulate, input, kept);
                if out.dtype() == L::DTYPE { job.run::<L>(out, memory) } else { job.run::<<L as Lane>::Value>(out, memory) }
            });
        });
    }
    Ok(())
}

struct Job<'a, L: Lane> {
    tier: Tier,
    monoid: Monoid,
    accumulate: bool,
    from: &'a [L],
    layout: &'a Layout,
    kept: usize,
    /// Merged reduced dimensions: extent and stride, outermost first.
    dims: SmallVec<[(usize, isize); 4]>,
    count: usize,
}

impl<'a, L: Lane> Job<'a, L> {
    fn new(tier: Tier, monoid: Monoid, accumulate: bool, input: &'a View<'_>, kept: usize) -> Self {
        let layout = input.layout();
        let mut dims: SmallVec<[(usize, isize); 4]> = SmallVec::new();
        for (e, s) in layout.dims[kept..].iter().zip(&layout.strides[kept..]).filter(|(e, _)| **e != 1) {
            match dims.last_mut() {
                Some(o) if o.1 == s * *e as isize => *o = (o.0 * e, *s),
                _ => dims.push((*e, *s)),
            }
        }
        let count = element_count(&layout.dims[kept..]);
        Job { tier, monoid, accumulate, from: input.buf().elements(), layout, kept, dims, count }
    }

    fn run<O: Lane<Value = L::Value>>(&self, out: &mut ViewMut<'_>, memory: &mut [Vec<Line>; 2]) {
        let [lanes, totals] = memory;
        let (to, out_layout) = out.parts::<O>();
        // Side by side along a kept dimension of neighbors, unless the reduced elements are neighbors themselves.
        let inner_stride = self.dims.last().map_or(0, |d| d.1);
        let along = (0..self.kept).rev().find(|d| self.layout.strides[*d] == 1 && self.layout.dims[*d] > 1).filter(|_| inner_stride != 1);
        let outer: SmallVec<[usize; 6]> = (0..self.kept).filter(|d| Some(*d) != along).collect();
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer.len());
        loop {
            let (mut src, mut dst) = (self.layout.base as isize, out_layout.base as isize);
            for (i, d) in index.iter().zip(&outer) {
                src += *i as isize * self.layout.strides[*d];
                dst += *i as isize * out_layout.strides[*d];
            }
            match along {
                Some(d) if self.count <= CHUNK => {
                    let widest = lanes::widest(self.count);
                    let totals = elements::<L::Value>(totals, lanes::WORK);
                    for first in (0..self.layout.dims[d]).step_by(widest) {
                        let width = widest.min(self.layout.dims[d] - first);
                        self.strip(src + first as isize, width, totals);
                        for (j, v) in totals[..width].iter().enumerate() {
                            self.write(to, dst + (first + j) as isize * out_layout.strides[d], *v);
                        }
                    }
                }
                Some(d) => {
                    for first in (0..self.layout.dims[d]).step_by(TILE) {
                        let width = TILE.min(self.layout.dims[d] - first);
                        let totals = elements::<L::Value>(totals, width);
                        self.columns(src + first as isize, totals, lanes);
                        for (j, v) in totals.iter().enumerate() {
                            self.write(to, dst + (first + j) as isize * out_layout.strides[d], *v);
                        }
                    }
                }
                None => {
                    let v = self.row(src, lanes);
                    self.write(to, dst, v);
                }
            }
            let mut d = outer.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                index[d] += 1;
                if index[d] < self.layout.dims[outer[d]] {
                    break;
                }
                index[d] = 0;
            }
        }
    }

    fn write<O: Lane<Value = L::Value>>(&self, to: &mut [O], at: isize, v: L::Value) {
        let slot = &mut to[at as usize];
        *slot = O::narrow(if self.accumulate { L::Value::combine(self.monoid, slot.widen(), v) } else { v });
    }

    /// Calls `f(first element, count, position, stride)` for the runs of reduced elements in `range`, relative to `range.start`.
    fn runs(&self, range: std::ops::Range<usize>, mut f: impl FnMut(usize, usize, isize, isize)) {
        let Some((inner, stride)) = self.dims.last().copied() else { return f(0, range.len(), 0, 0) };
        let mut r = range.start;
        while r < range.end {
            let (inside, mut rest) = (r % inner, r / inner);
            let mut offset = inside as isize * stride;
            for (e, s) in self.dims[..self.dims.len() - 1].iter().rev() {
                offset += (rest % e) as isize * s;
                rest /= e;
            }
            let n = (inner - inside).min(range.end - r);
            f(r - range.start, n, offset, stride);
            r += n;
        }
    }

    /// One output element.
    fn row(&self, base: isize, memory: &mut Vec<Line>) -> L::Value {
        let mut total = None;
        for first in (0..self.count).step_by(CHUNK) {
            let n = CHUNK.min(self.count - first);
            let mut lanes = [L::Value::identity(self.monoid); LANES];
            let contiguous = self.dims.last().is_some_and(|(e, s)| *s == 1 && first % e + n <= *e) && L::DTYPE == <L::Value as Lane>::DTYPE;
            let mut direct: Option<&[L::Value]> = None;
            if contiguous {
                self.runs(first..first + n, |_, _, offset, _| {
                    let at = (base + offset) as usize;
                    direct = bytemuck::try_cast_slice(&self.from[at..at + n]).ok();
                });
            }
            if direct.is_none() {
                let values = elements::<L::Value>(memory, CHUNK);
                self.runs(first..first + n, |lane, n, offset, stride| {
                    for (i, v) in values[lane..lane + n].iter_mut().enumerate() {
                        *v = self.from[(base + offset + i as isize * stride) as usize].widen();
                    }
                });
            }
            let chunk = if let Some(direct) = direct { direct } else { &elements::<L::Value>(memory, CHUNK)[..n] };
            fold(self.tier, self.monoid, &mut lanes, chunk);
            let part = finish(self.monoid, &lanes);
            total = Some(total.map_or(part, |t| L::Value::combine(self.monoid, t, part)));
        }
        total.unwrap_or(L::Value::identity(self.monoid))
    }

    /// Output elements of one chunk that are neighbors in the input: the first `width` of `lanes`.
    fn strip(&self, base: isize, width: usize, lanes: &mut [L::Value]) {
        PLACES.with_borrow_mut(|places| {
            places.clear();
            self.runs(0..self.count, |_, n, offset, stride| places.extend((0..n as isize).map(|i| base + offset + i * stride)));
            by_monoid!(self.monoid, <L as Lane>::Value, f => {
                let identity = L::Value::identity(self.monoid);
                let work = Lanes { from: self.from, places, lanes: &mut *lanes, width, identity, f };
                if L::HOT { self.tier.run(work) } else { self.tier.run_narrow(work) }
            });
        });
    }

    /// Output elements that are neighbors in the input, one for each of `totals`, of more than one chunk.
    ///
    /// A few lanes at a time: of every 64 neighboring rows of a chunk the ones that belong to them, for all columns.
    fn columns(&self, base: isize, totals: &mut [L::Value], memory: &mut Vec<Line>) {
        let (identity, width) = (L::Value::identity(self.monoid), totals.len());
        totals.fill(identity);
        let near = (NEAR / (width * size_of::<L::Value>())).clamp(1, LANES).next_power_of_two();
        let near = if near * width * size_of::<L::Value>() > NEAR + NEAR / 2 { near / 2 } else { near }.max(1);
        for first in (0..self.count).step_by(CHUNK) {
            let n = CHUNK.min(self.count - first);
            // Lanes that hold no element are neutral and are left out, up to the next power of two.
            let used = n.min(LANES).next_power_of_two();
            let lanes = elements::<L::Value>(memory, used * width);
            for block in (0..used).step_by(near) {
                let block = block..(block + near).min(used);
                let own = &mut lanes[block.start * width..block.end * width];
                own.fill(identity);
                self.runs(first..first + n, |lane, n, offset, stride| {
                    by_monoid!(self.monoid, <L as Lane>::Value, f => {
                        let work = Columns { lanes: &mut *own, block: block.clone(), from: self.from, base: base + offset, stride, lane, n, width, f };
                        if L::HOT { self.tier.run(work) } else { self.tier.run_narrow(work) }
                    });
                });
            }
            // By halving, as `finish` does.
            let mut half = used / 2;
            while half > 0 {
                let (low, high) = lanes[..2 * half * width].split_at_mut(half * width);
                self.join(low, high);
                half /= 2;
            }
            if first == 0 {
                totals.copy_from_slice(&lanes[..width]);
            } else {
                self.join(totals, &lanes[..width]);
            }
        }
    }

    /// `a[i] = a[i] ∘ b[i]`.
    fn join(&self, a: &mut [L::Value], b: &[L::Value]) {
        by_monoid!(self.monoid, <L as Lane>::Value, f => {
            let work = Join { a, b, f };
            if L::HOT { self.tier.run(work) } else { self.tier.run_narrow(work) }
        });
    }
}

struct Join<'a, T, F> {
    a: &'a mut [T],
    b: &'a [T],
    f: F,
}

impl<T: Copy, F: Fn(T, T) -> T> Work for Join<'_, T, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (a, b) in self.a.iter_mut().zip(self.b) {
            *a = (self.f)(*a, *b);
        }
    }
}

struct Columns<'a, L: Lane, F> {
    /// The lanes of `block`, one row of `width` elements each.
    lanes: &'a mut [L::Value],
    block: std::ops::Range<usize>,
    from: &'a [L],
    base: isize,
    stride: isize,
    /// Number of the first element in its chunk.
    lane: usize,
    n: usize,
    width: usize,
    f: F,
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Columns<'_, L, F> {
    /// Adds `rows` rows from row `i` on, the first to `lane`. A row of `W` elements when that is not 0.
    #[inline(always)]
    fn rows<const W: usize>(&mut self, i: usize, lane: usize, rows: usize) {
        let width = if W > 0 { W } else { self.width };
        let to = (lane - self.block.start) * width;
        let to = &mut self.lanes[to..to + rows * width];
        let at = |r: usize| (self.base + (i + r) as isize * self.stride) as usize;
        if self.stride == width as isize {
            // The rows follow one another.
            for (t, s) in to.iter_mut().zip(&self.from[at(0)..at(0) + rows * width]) {
                *t = (self.f)(*t, s.widen());
            }
            return;
        }
        for (r, to) in to.chunks_exact_mut(width).enumerate() {
            for (t, s) in to.iter_mut().zip(&self.from[at(r)..at(r) + width]) {
                *t = (self.f)(*t, s.widen());
            }
        }
    }

    #[inline(always)]
    fn all<const W: usize>(mut self) {
        let mut i = 0;
        while i < self.n {
            let lane = (self.lane + i) % LANES;
            if lane < self.block.start {
                i += self.block.start - lane;
            } else if lane >= self.block.end {
                i += LANES - lane + self.block.start;
            } else {
                let rows = (self.block.end - lane).min(self.n - i);
                self.rows::<W>(i, lane, rows);
                i += rows;
            }
        }
    }
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Work for Columns<'_, L, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        match self.width {
            // Narrow parts of wider rows.
            16 if L::HOT => self.all::<16>(),
            32 if L::HOT => self.all::<32>(),
            64 if L::HOT => self.all::<64>(),
            _ => self.all::<0>(),
        }
    }
}

/// Index along the last dimension of `input` of its largest (`max`) or smallest element, plus `origin`. NaN wins over everything; the first wins a
/// tie, or the last with `last`. `out` holds an integer type.
pub fn arg_reduce(max: bool, last: bool, origin: u64, input: &View<'_>, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    let Some((count, kept)) = input.dims().split_last() else {
        return Err(KernelError::Attribute { name: "rank", value: 0, rule: "at least one dimension to search" });
    };
    check_shape("the kept dimensions lead", "out", out.dims(), kept)?;
    if *count == 0 && element_count(kept) > 0 {
        return Err(KernelError::Attribute { name: "extent", value: 0, rule: "at least one element to search" });
    }
    if !out.dtype().is_int() {
        return Err(KernelError::ElementType { operand: "out", have: out.dtype(), want: DType::I64 });
    }
    let layout = input.layout();
    let (base, strides) = (layout.base as isize, &layout.strides);
    let plan = crate::copy::Plan::new(kept.iter().zip(strides.iter().zip(&out.layout().strides)).map(|(e, (s, d))| (*e, *s, *d)));
    let (step, count) = (strides[kept.len()], *count);
    let mut found: Vec<i64> = Vec::with_capacity(element_count(kept));
    by_dtype!(input.dtype(), L => {
        let from = input.buf().elements::<L>();
        plan.runs(base, 0, |s, _, (n, step_src, _)| {
            found.extend((0..n as isize).map(|i| (search(from, s + i * step_src, step, count, max, last) as u64).wrapping_add(origin) as i64));
        });
    });
    let dst = out.layout().base as isize;
    let mut found = found.into_iter();
    by_dtype!(out.dtype(), I => {
        let (to, _) = out.parts::<I>();
        plan.runs(base, dst, |_, d, (n, _, step_dst)| {
            for (i, v) in (0..n as isize).zip(&mut found) {
                to[(d + i * step_dst) as usize] = I::narrow(Value::from_i64(v));
            }
        });
    });
    Ok(())
}

/// Index of the extreme among `count` elements.
fn search<L: Lane>(from: &[L], at: isize, step: isize, count: usize, max: bool, last: bool) -> usize {
    let mut best = (from[at as usize].widen(), 0);
    for i in 1..count {
        let v = from[(at + i as isize * step) as usize].widen();
        let better = if max { v > best.0 } else { v < best.0 };
        let better = (better && !best.0.is_nan()) || (v.is_nan() && !best.0.is_nan());
        let tie = last && (v == best.0 || (v.is_nan() && best.0.is_nan()));
        if better || tie {
            best = (v, i);
        }
    }
    best.1
}
