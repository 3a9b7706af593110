//! AVX2 microkernels: up to 6 × 16 accumulators, one instance for each number of rows and vectors.

use super::block::Block;
use std::arch::x86_64::{
    __m256i, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_mul_ps, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
};

const LANES: usize = 8;

#[target_feature(enable = "avx2,fma")]
fn mask(lanes: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes.min(LANES) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// One tile: strides of `a`, and pointers whose ranges `Block::check` has proved.
struct Job<'a> {
    k: usize,
    chain: usize,
    a: *const f32,
    a_row: isize,
    a_step: isize,
    b: *const f32,
    b_step: isize,
    c: *mut f32,
    rows: &'a [isize],
    cols: usize,
    alpha: f32,
    accumulate: bool,
}

/// Runs all tiles of a block, a panel at a time.
///
/// # Safety
/// The processor has AVX2 and FMA, and `Block::check` holds.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn block(t: &Block<'_>, c: &mut [f32]) {
    for panel in 0..t.cols.div_ceil(t.b.width) {
        let at = panel * t.b.width;
        let cols = t.b.width.min(t.cols - at);
        let (b_base, b_step) = t.panel(panel);
        for first in (0..t.rows.len()).step_by(t.a.height) {
            let height = t.a.height.min(t.rows.len() - first);
            let (a, a_row, a_step) = t.strip(first, height);
            let job = Job {
                k: t.k,
                chain: t.chain,
                a: t.a.data.as_ptr().wrapping_offset(a),
                a_row,
                a_step,
                b: t.b.data.as_ptr().wrapping_add(b_base),
                b_step,
                c: c.as_mut_ptr().wrapping_offset(t.base + at as isize),
                rows: &t.rows[first..first + height],
                cols,
                alpha: t.alpha,
                accumulate: t.accumulate,
            };
            // SAFETY: `Block::check` proved the ranges of the whole block, of which this is one tile.
            unsafe { tile(&job) }
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA; the ranges of the job are those of a checked block.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile(job: &Job<'_>) {
    macro_rules! by_rows {
        ($vectors:literal) => {
            // SAFETY: the caller's promise, passed on.
            unsafe {
                match job.rows.len() {
                    1 => run::<1, $vectors>(job),
                    2 => run::<2, $vectors>(job),
                    3 => run::<3, $vectors>(job),
                    4 => run::<4, $vectors>(job),
                    5 => run::<5, $vectors>(job),
                    _ => run::<6, $vectors>(job),
                }
            }
        };
    }
    if job.cols <= LANES { by_rows!(1) } else { by_rows!(2) }
}

/// # Safety
/// As [`tile`]; the job has `ROWS` rows, and its columns fill `VECTORS` vectors, the last perhaps partly.
#[target_feature(enable = "avx2,fma")]
unsafe fn run<const ROWS: usize, const VECTORS: usize>(job: &Job<'_>) {
    let mut lanes = [mask(LANES); VECTORS];
    lanes[VECTORS - 1] = mask(job.cols - (VECTORS - 1) * LANES);
    let (mut a, mut b) = (job.a, job.b);
    let (alpha, mut left, mut accumulate) = (_mm256_set1_ps(job.alpha), job.k, job.accumulate);
    loop {
        let terms = left.min(job.chain);
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
        for _ in 0..terms {
            let mut line = [_mm256_setzero_ps(); VECTORS];
            // SAFETY: (i, p) and (p, j) are inside their slices for every i < ROWS, p < k, j < cols; the masks hide the rest.
            unsafe {
                for (v, x) in line.iter_mut().enumerate() {
                    *x = _mm256_maskload_ps(b.wrapping_add(v * LANES), lanes[v]);
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.wrapping_offset(i as isize * job.a_row));
                    for (sum, y) in sums.iter_mut().zip(&line) {
                        *sum = _mm256_fmadd_ps(x, *y, *sum);
                    }
                }
            }
            a = a.wrapping_offset(job.a_step);
            b = b.wrapping_offset(job.b_step);
        }
        for (sums, at) in sums.iter().zip(job.rows) {
            let out = job.c.wrapping_offset(*at);
            for (v, sum) in sums.iter().enumerate() {
                let place = out.wrapping_add(v * LANES);
                // SAFETY: `cols` elements from each row's start are inside the output; the masks hide the rest.
                unsafe {
                    let value = if accumulate {
                        _mm256_fmadd_ps(alpha, *sum, _mm256_maskload_ps(place, lanes[v]))
                    } else {
                        _mm256_mul_ps(alpha, *sum)
                    };
                    _mm256_maskstore_ps(place, lanes[v], value);
                }
            }
        }
        left -= terms;
        if left == 0 {
            return;
        }
        accumulate = true;
    }
}

/// Multiply-adds in registers alone, `rounds` times 12; returns how many operations that were.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn spin(rounds: usize) -> u64 {
    let (x, mut sums) = (_mm256_set1_ps(1e-3), [_mm256_setzero_ps(); 12]);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(x, x, *sum);
        }
        std::hint::black_box(());
    }
    std::hint::black_box(&sums);
    (rounds * 12 * LANES * 2) as u64
}
