//! AVX-512 microkernels: up to 14 × 32, 9 × 48 or 6 × 64 accumulators, one instance for each number of rows and vectors.
//!
//! Written once for both multiply-adds: `vfmadd` on f32 and `vdpbf16ps` on pairs of bf16.

use super::block::{Block, Packing};
use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __mmask16, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

const LANES: usize = 16;
/// Terms that are over before what is fetched at their beginning has come.
const SHORT: usize = 24;
/// Terms between the fetching of a line and its use, where it is not fetched by the tile before.
const NEAR: isize = 32;

/// What a microkernel reads and writes: pointers whose ranges [`Block::check`](super::block::Block) has proved.
#[derive(Clone, Copy)]
struct Job {
    k: usize,
    chain: usize,
    a: *const f32,
    a_row: isize,
    a_step: isize,
    b: *const f32,
    b_step: isize,
    /// Lines that are copied and where they go, for the instances that pack; the number of terms between two of them, a power of two, less 1.
    from: *const f32,
    from_step: isize,
    to: *mut f32,
    copies: usize,
    pause: usize,
    /// From a line to one that is copied later, which is fetched.
    soon: isize,
    /// What to fetch, a line a term.
    ahead: *const f32,
    ahead_step: isize,
    ahead_jump: isize,
    c: *mut f32,
    rows: *const isize,
    /// Lanes of the last vector.
    edge: __mmask16,
    alpha: f32,
    accumulate: bool,
}

/// What the strips of a block pack: the first copies the panel that it reads in place, then each a share of the next panel.
struct Shares<'a> {
    packing: Packing<'a>,
    /// Terms of a share.
    share: usize,
    /// See [`Job::pause`].
    pause: usize,
}

impl<'a> Shares<'a> {
    fn new(t: &Block<'_>, packing: Packing<'a>, strips: usize) -> Self {
        let share = t.k.div_ceil((strips - usize::from(packing.own.is_some())).max(1)).max(1);
        Shares { packing, share, pause: (t.k / share + 1).next_power_of_two() / 2 - 1 }
    }

    /// How many of the strips pack.
    fn strips(&self, strips: usize) -> usize {
        if self.packing.next.is_some() { strips } else { usize::from(self.packing.own.is_some()) }
    }

    fn of_strip(&mut self, t: &Block<'_>, strip: usize, job: &mut Job) {
        let Packing { own, next } = &mut self.packing;
        if let Some(own) = own.as_mut().filter(|_| strip == 0) {
            (job.from, job.from_step, job.to) = (job.b, job.b_step, own.as_mut_ptr());
            (job.copies, job.pause, job.soon) = (t.k, 0, if t.k > 2 * NEAR as usize { NEAR * job.b_step } else { 0 });
        } else if let Some(next) = next {
            let (done, step) = (((strip - usize::from(own.is_some())) * self.share).min(t.k), next.step);
            job.from = next.data.as_ptr().wrapping_add(next.base).wrapping_offset(done as isize * step);
            (job.from_step, job.to) = (step, next.to.as_mut_ptr().wrapping_add(done * t.cols));
            (job.copies, job.pause) = (self.share.min(t.k - done), self.pause);
            // The first lines of what lies beside it come last.
            let last = done + self.share >= t.k;
            job.soon = if last { t.cols as isize - done as isize * step } else { self.share as isize * step };
        }
    }

    /// After the first strip the panel is read where it has been copied to.
    fn done(&self, t: &Block<'_>, job: &mut Job) {
        if let Some(own) = &self.packing.own {
            (job.b, job.b_step) = (own.as_ptr(), t.cols as isize);
        }
    }
}

macro_rules! rows_of {
    ($whole:literal, $pack:literal, $vectors:literal: $($rows:literal)*) => {
        [$(run::<$rows, $vectors, $whole, $pack>),*]
    };
}

macro_rules! all_of {
    ($whole:literal, $pack:literal) => {
        (
            rows_of!($whole, $pack, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            rows_of!($whole, $pack, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            rows_of!($whole, $pack, 3: 1 2 3 4 5 6 7 8 9),
            rows_of!($whole, $pack, 4: 1 2 3 4 5 6),
        )
    };
}

/// Repeats a body for every row of a tile, unrolled by construction: the accumulators have to stay in registers.
macro_rules! each_row {
    ($rows:expr, $i:ident => $body:block) => {
        each_row!(@ $rows, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:expr, $i:ident, $body:block, $($at:literal)*) => {
        $(if $at < $rows {
            let $i: usize = $at;
            $body
        })*
    };
}

pub(super) use each_row;

/// The module of one multiply-add.
macro_rules! microkernels {
    ($name:ident, $features:literal, $packs:literal, $step:expr) => {
        pub(super) mod $name {
            use super::*;

            type Kernel = unsafe fn(&Job);
            type Kernels = ([Kernel; 14], [Kernel; 14], [Kernel; 9], [Kernel; 6]);

            /// The last vector is read under a mask, which takes a place among the multiply-adds.
            static MASKED: Kernels = all_of!(false, false);
            static WHOLE: Kernels = all_of!($packs, false);
            static PACKING: Kernels = all_of!($packs, $packs);

            fn kernel(all: &Kernels, rows: usize, vectors: usize) -> Kernel {
                match vectors {
                    1 => all.0[rows - 1],
                    2 => all.1[rows - 1],
                    3 => all.2[rows - 1],
                    _ => all.3[rows - 1],
                }
            }

            /// Runs all tiles of a block, a panel at a time.
            ///
            /// # Safety
            /// The processor has the features, and `Block::check` holds; a packing is that of `block_packing`.
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn block(t: &Block<'_>, packing: Option<Packing<'_>>, c: &mut [f32]) {
                let (panels, strips) = (t.cols.div_ceil(t.b.width), t.rows.len().div_ceil(t.a.height));
                let mut packing = if $packs { packing.map(|packing| Shares::new(t, packing, strips)) } else { None };
                let busy = packing.as_ref().map_or(0, |packing| packing.strips(strips));
                if t.by_rows {
                    for strip in 0..strips {
                        for panel in 0..panels {
                            let (mut job, all, vectors) = of_panel(t, panel, c.as_mut_ptr());
                            let height = to_strip(t, &mut job, strip);
                            // SAFETY: `Block::check` proved the ranges of the whole block, of which this is one tile.
                            unsafe { kernel(all, height, vectors)(&job) }
                        }
                    }
                    return;
                }
                for panel in 0..panels {
                    let (mut job, all, vectors) = of_panel(t, panel, c.as_mut_ptr());
                    let ahead = t.ahead.or_else(|| t.panel_ahead(panel + 1));
                    // The last strips fetch it, so that it is not long in the cache before it is used.
                    let last = ahead.map_or(0, |ahead| ahead.strips);
                    let fetched = |left: usize| match (&ahead, &t.room) {
                        (Some(ahead), _) if left < last => Some((ahead, left)),
                        (_, Some(room)) if (last..last + room.strips).contains(&left) => Some((room, left - last)),
                        _ => None,
                    };
                    for strip in 0..strips {
                        let height = to_strip(t, &mut job, strip);
                        let left = strips - 1 - strip;
                        let rows_ahead = if t.fresh && panel == 0 { t.rows_ahead(height) } else { None };
                        (job.ahead, job.ahead_step, job.ahead_jump) = match (fetched(left), rows_ahead) {
                            (Some((ahead, at)), _) => (ahead.start.wrapping_offset(at as isize * ahead.next), ahead.step, ahead.jump),
                            // The rows that come next, when this is their first use.
                            (_, Some((from, step))) => (job.a.wrapping_offset(from), step, 0),
                            _ => (t.rows.as_ptr().cast(), 0, 0),
                        };
                        let shares = packing.as_mut().filter(|_| strip < busy);
                        let Some(shares) = shares else {
                            // SAFETY: as above.
                            unsafe { kernel(all, height, vectors)(&job) };
                            continue;
                        };
                        shares.of_strip(t, strip, &mut job);
                        // SAFETY: as above; the shares are parts of what `block_packing` proved.
                        unsafe { kernel(&PACKING, height, vectors)(&job) };
                        shares.done(t, &mut job);
                    }
                }
            }

            /// What all tiles of a panel have in common, with the kernels for it and its vectors.
            fn of_panel(t: &Block<'_>, panel: usize, c: *mut f32) -> (Job, &'static Kernels, usize) {
                let at = panel * t.b.width;
                let cols = t.b.width.min(t.cols - at);
                let vectors = cols.div_ceil(LANES);
                let (b_base, b_step) = t.panel(panel);
                let job = Job {
                    k: t.k,
                    chain: t.chain,
                    a: t.a.data.as_ptr(),
                    a_row: 0,
                    a_step: 0,
                    b: t.b.data.as_ptr().wrapping_add(b_base),
                    b_step,
                    from: t.rows.as_ptr().cast(),
                    from_step: 0,
                    to: std::ptr::null_mut(),
                    copies: 0,
                    pause: 0,
                    soon: 0,
                    ahead: t.rows.as_ptr().cast(),
                    ahead_step: 0,
                    ahead_jump: 0,
                    c: c.wrapping_offset(t.base + at as isize),
                    rows: t.rows.as_ptr(),
                    edge: mask(cols - (vectors - 1) * LANES),
                    alpha: t.alpha,
                    accumulate: t.accumulate,
                };
                (job, if t.b.step.is_none() || cols.is_multiple_of(LANES) { &WHOLE } else { &MASKED }, vectors)
            }

            /// Moves on to a strip; returns its rows.
            fn to_strip(t: &Block<'_>, job: &mut Job, strip: usize) -> usize {
                let first = strip * t.a.height;
                let height = t.a.height.min(t.rows.len() - first);
                let (a, a_row, a_step) = t.strip(first, height);
                job.a = t.a.data.as_ptr().wrapping_offset(a);
                (job.a_row, job.a_step) = (a_row, a_step);
                job.rows = t.rows.as_ptr().wrapping_add(first);
                height
            }

            /// # Safety
            /// The processor has the features; the ranges of the job are those of a checked block: `ROWS` rows, and columns that fill `VECTORS`
            /// vectors, the last up to its mask; all of the last can be read if `WHOLE`; if `PACK`, `VECTORS` whole vectors of each copy can be read and
            /// written.
            #[target_feature(enable = $features)]
            unsafe fn run<const ROWS: usize, const VECTORS: usize, const WHOLE: bool, const PACK: bool>(job: &Job) {
                let (row, step) = (job.a_row, job.a_step);
                let (mut b, mut ahead) = (job.b, job.ahead);
                let (mut from, mut to, mut copies) = (job.from, job.to, job.copies);
                // Three pointers, five rows apart, and one multiple of the stride reach every row by an address of one instruction;
                // laundered, or the compiler makes one chain of additions of them.
                let triple = launder(3 * row);
                let mut a = [job.a, launder(job.a.wrapping_offset(5 * row)), launder(job.a.wrapping_offset(10 * row))];
                let (b_step, edge) = (job.b_step, job.edge);
                let (mut left, mut accumulate) = (job.k, job.accumulate);
                if left > SHORT {
                    // SAFETY: prefetching reads nothing; `rows` has `ROWS` entries.
                    unsafe {
                        each_row!(ROWS, i => {
                            let out = job.c.wrapping_offset(*job.rows.add(i));
                            for v in 0..VECTORS {
                                _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(v * LANES).cast());
                            }
                            _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(VECTORS * LANES - 1).cast());
                        });
                    }
                }
                loop {
                    let terms = left.min(job.chain);
                    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                    for p in 0..terms {
                        let mut line = [_mm512_setzero_ps(); VECTORS];
                        // SAFETY: (i, p) and (p, j) are inside their slices for every i < ROWS, p < k, j < cols; the mask hides the rest.
                        unsafe {
                            for (v, x) in line.iter_mut().enumerate().take(VECTORS - 1) {
                                *x = _mm512_loadu_ps(b.wrapping_add(v * LANES));
                            }
                            let last = b.wrapping_add((VECTORS - 1) * LANES);
                            line[VECTORS - 1] = if WHOLE { _mm512_loadu_ps(last) } else { _mm512_maskz_loadu_ps(edge, last) };
                            if PACK && p & job.pause == 0 && copies > 0 {
                                let soon = from.wrapping_offset(job.soon);
                                for v in 0..VECTORS {
                                    let at = v * LANES;
                                    _mm512_storeu_ps(to.wrapping_add(at), _mm512_loadu_ps(from.wrapping_add(at)));
                                    _mm_prefetch::<_MM_HINT_T1>(soon.wrapping_add(at).cast());
                                }
                                // A line may begin and end inside a cache line.
                                _mm_prefetch::<_MM_HINT_T1>(soon.wrapping_add(VECTORS * LANES - 1).cast());
                                (from, to) = (from.wrapping_offset(job.from_step), to.wrapping_add(VECTORS * LANES));
                                copies -= 1;
                            }
                            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                            ahead = ahead.wrapping_offset(job.ahead_step);
                            each_row!(ROWS, i => {
                                let place = match i % 5 {
                                    3 => a[i / 5].wrapping_offset(triple),
                                    at => a[i / 5].wrapping_offset(at as isize * row),
                                };
                                let x = _mm512_set1_ps(*place);
                                for v in 0..VECTORS {
                                    sums[i][v] = $step(x, line[v], sums[i][v]);
                                }
                            });
                        }
                        a = a.map(|a| launder(a.wrapping_offset(step)));
                        b = b.wrapping_offset(b_step);
                    }
                    // SAFETY: `cols` elements from each row's start are inside the output; the mask hides the rest.
                    unsafe {
                        if edge != !0 {
                            let tile = sums;
                            store_edge(job, accumulate, &tile);
                        } else {
                            let (c, rows, alpha) = (job.c, job.rows, _mm512_set1_ps(job.alpha));
                            if accumulate {
                                each_row!(ROWS, i => {
                                    let out = c.wrapping_offset(*rows.add(i));
                                    for v in 0..VECTORS {
                                        let place = out.wrapping_add(v * LANES);
                                        _mm512_storeu_ps(place, _mm512_fmadd_ps(alpha, sums[i][v], _mm512_loadu_ps(place)));
                                    }
                                });
                            } else if job.alpha == 1.0 {
                                each_row!(ROWS, i => {
                                    let out = c.wrapping_offset(*rows.add(i));
                                    for v in 0..VECTORS {
                                        _mm512_storeu_ps(out.wrapping_add(v * LANES), sums[i][v]);
                                    }
                                });
                            } else {
                                each_row!(ROWS, i => {
                                    let out = c.wrapping_offset(*rows.add(i));
                                    for v in 0..VECTORS {
                                        _mm512_storeu_ps(out.wrapping_add(v * LANES), _mm512_mul_ps(alpha, sums[i][v]));
                                    }
                                });
                            }
                        }
                    }
                    left -= terms;
                    if left == 0 {
                        return;
                    }
                    accumulate = true;
                    ahead = ahead.wrapping_offset(job.ahead_jump);
                }
            }
        }
    };
}

microkernels!(single, "avx512f", true, |x, y, sum| _mm512_fmadd_ps(x, y, sum));
microkernels!(pair, "avx512f,avx512bf16", false, |x: __m512, y: __m512, sum| {
    _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512, __m512bh>(x), std::mem::transmute::<__m512, __m512bh>(y))
});

fn mask(lanes: usize) -> __mmask16 {
    if lanes >= LANES { !0 } else { (1 << lanes) - 1 }
}

/// Hands the sums to the output where the last vector is partly outside.
///
/// # Safety
/// The processor has AVX-512 F; columns that fill `VECTORS` vectors, the last up to the job's mask, can be read and written from each of
/// the `ROWS` row starts.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn store_edge<const ROWS: usize, const VECTORS: usize>(job: &Job, accumulate: bool, sums: &[[__m512; VECTORS]; ROWS]) {
    let alpha = _mm512_set1_ps(job.alpha);
    for (i, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            let lanes = if v + 1 == VECTORS { job.edge } else { !0 };
            // SAFETY: the caller's promise.
            unsafe {
                let place = job.c.wrapping_offset(*job.rows.add(i)).wrapping_add(v * LANES);
                let value =
                    if accumulate { _mm512_fmadd_ps(alpha, *sum, _mm512_maskz_loadu_ps(lanes, place)) } else { _mm512_mul_ps(alpha, *sum) };
                _mm512_mask_storeu_ps(place, lanes, value);
            }
        }
    }
}

/// The value, in a register that the compiler knows nothing about.
#[inline(always)]
pub(super) fn launder<T: Laundered>(value: T) -> T {
    value.launder()
}

/// What fits a general register.
pub(super) trait Laundered {
    /// See [`launder`].
    fn launder(self) -> Self;
}

impl Laundered for isize {
    #[inline(always)]
    fn launder(mut self) -> Self {
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {0} */", inout(reg) self, options(nomem, nostack, preserves_flags)) };
        self
    }
}

impl<T> Laundered for *const T {
    // The pointer is a number here: nothing is read through it.
    #[allow(clippy::pointers_in_nomem_asm_block)]
    #[inline(always)]
    fn launder(mut self) -> Self {
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {0} */", inout(reg) self, options(nomem, nostack, preserves_flags)) };
        self
    }
}

/// Multiply-adds in registers alone, `rounds` times 24; returns how many operations that were.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn spin_single(rounds: usize) -> u64 {
    let (x, mut sums) = (_mm512_set1_ps(1e-3), [_mm512_setzero_ps(); 24]);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(x, x, *sum);
        }
        std::hint::black_box(());
    }
    std::hint::black_box(&sums);
    (rounds * 24 * LANES * 2) as u64
}

/// As [`spin_single`], on pairs of bf16.
///
/// # Safety
/// The processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn spin_pair(rounds: usize) -> u64 {
    let (x, mut sums) = (_mm512_set1_ps(1e-3), [_mm512_setzero_ps(); 24]);
    // SAFETY: both types are 64 bytes of any content.
    let x = unsafe { std::mem::transmute::<__m512, std::arch::x86_64::__m512bh>(x) };
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, x, x);
        }
        std::hint::black_box(());
    }
    std::hint::black_box(&sums);
    (rounds * 24 * LANES * 4) as u64
}
