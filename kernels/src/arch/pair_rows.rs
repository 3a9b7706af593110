//! The microkernel of bf16 products and convolutions: rows against panels of 32 columns, over runs of pairs of terms, summed in f32.
//!
//! The broadcast operand is read where it lies: a row is a pixel of a channels-last image (forward), or a channel of a packed line of pairs of
//! positions (gradient of the kernel). All terms of a result are summed in registers.

use super::block::pair_of_terms;
use super::inside;
use super::rows::Run;
use super::stored::Stored;
use super::tier::{Tier, Work};
use crate::isa::Isa;

/// Columns of a panel.
pub(crate) const WIDTH: usize = 32;
/// Columns of a vector.
const LANES: usize = 16;

/// `c[i][j] (+)= Σ over runs, Σ_p pair(a[base + i·row + offset + p·step], b[panel of j][line + p][j])`, in order from +0; a pair adds the term
/// in its high half first.
pub(crate) struct PairRows<'a> {
    /// 16-bit elements; a pair is two neighbors, the first the low half.
    pub a: &'a [u16],
    /// Position of the first row.
    pub base: isize,
    /// Elements between rows.
    pub row: isize,
    /// Elements between pairs.
    pub step: isize,
    /// The terms: offsets in elements, lines and lengths in pairs.
    pub runs: &'a [Run],
    /// Panels of lines of [`WIDTH`] pairs.
    pub b: &'a [f32],
    /// Elements between panels.
    pub panel: usize,
    /// Columns; lanes past them in the last panel may hold anything.
    pub cols: usize,
    /// Rows.
    pub rows: usize,
    /// Where the result of the first row starts.
    pub out: isize,
    /// Elements between results.
    pub out_row: isize,
    /// Add to the result.
    pub accumulate: bool,
    /// What the sums are added to instead.
    pub sums: Option<Sums<'a>>,
    /// What to fetch on the way.
    pub ahead: Option<Soon>,
    /// Whether this is the first use of the rows, whose terms are neighbors, so that they have to be fetched.
    pub fresh: bool,
}

/// Sums so far, in f32.
#[derive(Clone, Copy)]
pub(crate) struct Sums<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Position of the first.
    pub base: isize,
    /// Elements between rows.
    pub row: isize,
}

/// Memory that will be read after these rows: runs of cache lines, `step` bytes apart. It is only ever a hint.
#[derive(Clone, Copy)]
pub(crate) struct Soon {
    /// First byte.
    pub start: *const u8,
    /// Number of runs.
    pub runs: usize,
    /// Bytes between them.
    pub step: isize,
    /// Cache lines of a run.
    pub lines: usize,
}

/// Runs the rows.
pub(crate) fn pair_rows<O: Stored>(isa: Isa, r: PairRows<'_>, c: &mut [O]) {
    if r.rows == 0 || r.cols == 0 {
        return;
    }
    assert!(inside(c.len(), r.out, [(r.rows, r.out_row), (r.cols, 1)]), "rows write outside the output");
    let sums = |s: Sums<'_>| inside(s.data.len(), s.base, [(r.rows, s.row), (r.cols, 1)]);
    assert!(r.sums.is_none_or(sums), "rows read outside the sums");
    for run in r.runs.iter().filter(|run| run.len > 0) {
        let first = inside(r.a.len(), r.base + run.offset, [(r.rows, r.row), (run.len, r.step)]);
        let second = inside(r.a.len(), r.base + run.offset + 1, [(r.rows, r.row), (run.len, r.step)]);
        assert!(first && second, "rows read outside the image");
        let last = (r.cols.div_ceil(WIDTH) - 1) * r.panel + (run.line + run.len) * WIDTH;
        assert!(last <= r.b.len(), "rows read outside the kernel");
    }
    match isa.usable() {
        // SAFETY: the processor has the features, by `usable` and the guard; the assertions prove every position that a row reads or writes.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if Isa::has_bf16_pairs() => unsafe { wide::all(&r, c.as_mut_ptr()) },
        isa => Tier::new(isa).run(Portable { r: &r, c }),
    }
}

/// The twin: a row and a vector of columns at a time.
struct Portable<'a, 'b, O> {
    r: &'a PairRows<'b>,
    c: &'a mut [O],
}

impl<O: Stored> Work for Portable<'_, '_, O> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        let Portable { r, c } = self;
        for first in (0..r.cols).step_by(LANES) {
            let cols = LANES.min(r.cols - first);
            let panel = &r.b[first / WIDTH * r.panel + first % WIDTH..];
            for i in 0..r.rows as isize {
                let mut sums = [0.0f32; LANES];
                for run in r.runs {
                    for p in 0..run.len {
                        let at = (r.base + i * r.row + run.offset + p as isize * r.step) as usize;
                        let x = f32::from_bits(u32::from(r.a[at + 1]) << 16 | u32::from(r.a[at]));
                        let line = &panel[(run.line + p) * WIDTH..][..LANES];
                        sums.iter_mut().zip(line).for_each(|(sum, y)| *sum = pair_of_terms(x, *y, *sum));
                    }
                }
                let to = (r.out + i * r.out_row) as usize + first;
                for (l, (c, sum)) in c[to..to + cols].iter_mut().zip(sums).enumerate() {
                    *c = O::narrow(match r.sums {
                        Some(s) => s.data[(s.base + i * s.row) as usize + first + l] + sum,
                        None if r.accumulate => c.widen() + sum,
                        None => sum,
                    });
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::super::avx512_block::{each_row, launder};
    use super::super::stored::Wide;
    use super::{LANES, PairRows, Run, Soon, WIDTH};
    use std::arch::x86_64::{
        __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
        _mm512_set1_epi32, _mm512_setzero_ps,
    };

    /// A tile; the pointers are those of its first row and column.
    struct Tile<'a, O> {
        a: *const u16,
        row: isize,
        step: isize,
        runs: &'a [Run],
        /// Vectors come two from each panel.
        b: [*const f32; 2],
        c: *mut O,
        out_row: isize,
        /// What the sums are added to, if not to the result; null if to nothing.
        sums: *const f32,
        sums_row: isize,
        /// Elements from these rows to those that are fetched; 0 for none.
        next: isize,
        /// Lanes of the last vector.
        edge: u16,
        accumulate: bool,
    }

    /// Terms that are over before what is fetched at their beginning has come.
    const SHORT: usize = 24;

    /// Pairs of a cache line.
    const LINE: usize = 16;
    /// Lines that are fetched for a tile, at most.
    const MOST_LINES: usize = 48;

    /// What is still to be fetched.
    struct Fetch {
        soon: Soon,
        line: usize,
    }

    impl Fetch {
        fn some(&mut self, mut count: usize) {
            while count > 0 && self.soon.runs > 0 {
                // SAFETY: prefetching reads nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(self.soon.start.wrapping_add(64 * self.line).cast()) };
                count -= 1;
                self.line += 1;
                if self.line >= self.soon.lines {
                    self.line = 0;
                    self.soon.runs -= 1;
                    self.soon.start = self.soon.start.wrapping_offset(self.soon.step);
                }
            }
        }
    }

    /// All tiles, a few vectors of columns at a time.
    ///
    /// # Safety
    /// The processor has the features; every position that a row reads or writes is inside its slice.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn all<O: Wide>(r: &PairRows<'_>, c: *mut O) {
        let mut col = 0;
        let mut fetch = r.ahead.map(|soon| Fetch { soon, line: 0 });
        let share =
            r.ahead.map_or(0, |soon| (soon.runs * soon.lines).div_ceil(r.rows.div_ceil(14) * r.cols.div_ceil(WIDTH)).min(MOST_LINES));
        while col < r.cols {
            let left = r.cols - col;
            // Few rows: twice the columns keep enough sums in flight.
            let vectors = if r.rows <= 6 && left > 48 { 4 } else { left.div_ceil(LANES).min(2) };
            let most = if vectors == 4 { 6 } else { 14 };
            let cols = left.min(vectors * LANES);
            let rest = cols - (vectors - 1) * LANES;
            let b = r.b.as_ptr().wrapping_add(col / WIDTH * r.panel);
            let height = r.rows.div_ceil(r.rows.div_ceil(most));
            for row in (0..r.rows).step_by(height) {
                let at = row as isize;
                let tile = Tile {
                    a: r.a.as_ptr().wrapping_offset(r.base + at * r.row),
                    row: r.row,
                    step: r.step,
                    runs: r.runs,
                    b: [b, b.wrapping_add(r.panel)],
                    c: c.wrapping_offset(r.out + at * r.out_row).wrapping_add(col),
                    out_row: r.out_row,
                    sums: r.sums.map_or(std::ptr::null(), |s| s.data.as_ptr().wrapping_offset(s.base + at * s.row).wrapping_add(col)),
                    sums_row: r.sums.map_or(0, |s| s.row),
                    next: if r.fresh && col == 0 { height as isize * r.row } else { 0 },
                    edge: if rest == LANES { !0 } else { (1 << rest) - 1 },
                    accumulate: r.accumulate,
                };
                if let Some(fetch) = &mut fetch {
                    fetch.some(share);
                }
                // SAFETY: the caller's promise; the tile ends at or before the last row.
                unsafe { one(&tile, height.min(r.rows - row), vectors) }
            }
            col += cols;
        }
    }

    macro_rules! instances {
        ($tile:ident, $rows:ident, $vectors:literal: $($at:literal)*) => {
            match $rows {
                $($at => run::<O, $at, $vectors>($tile),)*
                _ => {}
            }
        };
    }

    /// # Safety
    /// As for [`run`], with these rows and vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn one<O: Wide>(tile: &Tile<'_, O>, rows: usize, vectors: usize) {
        // SAFETY: passed on.
        unsafe {
            match vectors {
                1 => instances!(tile, rows, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                2 => instances!(tile, rows, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                _ => instances!(tile, rows, 4: 1 2 3 4 5 6),
            }
        }
    }

    /// # Safety
    /// The processor has the features; `ROWS` rows of all runs can be read, and lines of `VECTORS` vectors; `ROWS` × columns, the last vector up
    /// to its mask, can be read and written.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<O: Wide, const ROWS: usize, const VECTORS: usize>(tile: &Tile<'_, O>) {
        let (row, step) = (tile.row, tile.step);
        let triple = launder(3 * row);
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        if tile.runs.first().is_some_and(|run| run.len > SHORT) {
            each_row!(ROWS, i => {
                let to = tile.c.wrapping_offset(i as isize * tile.out_row);
                _mm_prefetch::<_MM_HINT_T0>(to.cast());
                _mm_prefetch::<_MM_HINT_T0>(to.wrapping_add(VECTORS * LANES - 1).cast());
                if !tile.sums.is_null() {
                    let from = tile.sums.wrapping_offset(i as isize * tile.sums_row);
                    _mm_prefetch::<_MM_HINT_T0>(from.cast());
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(VECTORS * LANES - 1).cast());
                }
            });
        }
        for run in tile.runs {
            let first = tile.a.wrapping_offset(run.offset);
            // As in the microkernels of products: three pointers and one multiple reach every row.
            let mut a = [first, launder(first.wrapping_offset(5 * row)), launder(first.wrapping_offset(10 * row))];
            let mut b = tile.b.map(|b| b.wrapping_add(run.line * WIDTH));
            for p in 0..run.len {
                if tile.next != 0 && p % LINE == 0 {
                    let next = a[0].wrapping_offset(tile.next);
                    each_row!(ROWS, i => {
                        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_offset(i as isize * row).cast());
                    });
                }
                let mut line = [_mm512_setzero_ps(); VECTORS];
                // SAFETY: the caller's promise; 16-bit elements need no more than their own alignment, so pairs are read unaligned.
                unsafe {
                    for (v, x) in line.iter_mut().enumerate() {
                        *x = _mm512_loadu_ps(b[v / 2].wrapping_add(v % 2 * LANES));
                    }
                    let line = line.map(|x| std::mem::transmute::<_, __m512bh>(x));
                    each_row!(ROWS, i => {
                        let place = match i % 5 {
                            3 => a[i / 5].wrapping_offset(triple),
                            at => a[i / 5].wrapping_offset(at as isize * row),
                        };
                        let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(place.cast::<i32>().read_unaligned()));
                        for v in 0..VECTORS {
                            sums[i][v] = _mm512_dpbf16_ps(sums[i][v], x, line[v]);
                        }
                    });
                }
                a = a.map(|a| launder(a.wrapping_offset(step)));
                b = b.map(|b| b.wrapping_add(WIDTH));
            }
        }
        if !tile.accumulate && tile.sums.is_null() && tile.edge == !0 {
            each_row!(ROWS, i => {
                // SAFETY: the caller's promise; sums of pairs are never denormal.
                unsafe { O::store_sums(tile.c.wrapping_offset(i as isize * tile.out_row), &sums[i]) };
            });
            return;
        }
        each_row!(ROWS, i => {
            let to = tile.c.wrapping_offset(i as isize * tile.out_row);
            let from = tile.sums.wrapping_offset(i as isize * tile.sums_row);
            for (v, sum) in sums[i].iter().enumerate() {
                let (to, mask) = (to.wrapping_add(v * LANES), if v + 1 == VECTORS { tile.edge } else { !0 });
                // SAFETY: the caller's promise.
                unsafe {
                    let sum = if !tile.sums.is_null() {
                        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, from.wrapping_add(v * LANES)), *sum)
                    } else if tile.accumulate {
                        _mm512_add_ps(O::load(mask, to), *sum)
                    } else {
                        *sum
                    };
                    O::store(to, mask, sum);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::Rng;
    use half::bf16;

    fn pairs(rng: &mut Rng, n: usize) -> Vec<u16> {
        (0..n).map(|_| bf16::from_f32(rng.unit()).to_bits()).collect()
    }

    fn check<O: Stored>(rng: &mut Rng, rows: usize, cols: usize, by_rows: bool) {
        let (terms, lines, panels) = (7, 9, cols.div_ceil(WIDTH));
        let panel = lines * WIDTH + 16;
        let a = pairs(rng, (rows + 2) * 64 + 8);
        let b: Vec<f32> =
            pairs(rng, 2 * panels * panel).chunks(2).map(|p| f32::from_bits(u32::from(p[1]) << 16 | u32::from(p[0]))).collect();
        let runs = [Run { offset: 3, line: 0, len: terms }, Run { offset: 20, line: terms, len: 2 }, Run { offset: 1, line: 1, len: 0 }];
        let (row, step) = if by_rows { (2, 2 * rows as isize) } else { (30, 2) };
        let start: Vec<O> = (0..rows * (cols + 3)).map(|_| O::narrow(rng.unit())).collect();
        let so_far = rng.floats(rows * cols + 1);
        for (accumulate, add) in [(false, false), (true, false), (false, true)] {
            let sums = add.then_some(Sums { data: &so_far, base: 1, row: cols as isize });
            let mut results = Vec::new();
            for isa in Isa::available() {
                let mut c = start.clone();
                let runs = &runs;
                let out_row = cols as isize + 3;
                let (b, ahead, fresh) = (&b, None, !by_rows);
                pair_rows(
                    isa,
                    PairRows { a: &a, base: 1, row, step, runs, b, panel, cols, rows, out: 0, out_row, accumulate, sums, ahead, fresh },
                    &mut c,
                );
                results.push(c);
            }
            assert!(results.iter().all(|c| *c == results[0]), "{rows} × {cols}, rows side by side: {by_rows}, adding: {accumulate} {add}");
            assert!(results[0] != start);
        }
    }

    #[test]
    fn every_tile_is_its_twin() {
        let mut rng = Rng(61);
        for rows in (1..=16).chain([29]) {
            for cols in [1, 16, 17, 32, 33, 50, 64, 100] {
                check::<f32>(&mut rng, rows, cols, true);
                check::<bf16>(&mut rng, rows, cols, false);
            }
        }
    }
}
