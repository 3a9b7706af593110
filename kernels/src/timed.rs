//! Products of matrices, timed as the runtime runs them: rows in equal parts, a part a thread, threads that spin between calls.

use crate::error::KernelError;
use crate::gemm::{Gemm, Narrow, gemm, gemm_bf16};
use crate::isa::Isa;
use crate::scratch::Scratch;
use girih_ir::types::{DType, Layout};
use half::bf16;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A product of dense matrices, `out = a · b`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Matrices.
    pub batch: usize,
    /// Rows of `a` and `out`.
    pub m: usize,
    /// Columns of `b` and `out`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// Whether `a` is `[k, m]` in memory.
    pub a_transposed: bool,
    /// Whether `b` is `[n, k]` in memory.
    pub b_transposed: bool,
}

impl Shape {
    /// Floating-point operations: two a term.
    pub fn flops(&self) -> f64 {
        2.0 * self.batch as f64 * self.m as f64 * self.n as f64 * self.k as f64
    }

    /// The product over dense slices.
    pub fn product(&self) -> Gemm {
        let layout = |rows: usize, cols: usize, transposed: bool| {
            let strides = if transposed { [rows * cols, 1, rows] } else { [rows * cols, cols, 1] };
            Layout { base: 0, dims: [self.batch, rows, cols].as_slice().into(), strides: strides.map(|s| s as isize).as_slice().into() }
        };
        Gemm::new(layout(self.m, self.k, self.a_transposed), layout(self.k, self.n, self.b_transposed), layout(self.m, self.n, false))
    }

    /// Seconds of the fastest call on this many threads, among the calls of a time; bf16 in and out for that type, else f32.
    pub fn seconds(&self, dtype: DType, threads: usize, time: Duration) -> f64 {
        let g = self.product();
        let (a, b) = (values(g.a.elements(), 1), values(g.b.elements(), 2));
        let isa = Isa::detect();
        if dtype != DType::BF16 {
            return in_parts(&g, threads, time, 0.0f32, |g, out, scratch| gemm(isa, g, &a, &b, out, scratch));
        }
        let narrow = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let (a, b) = (narrow(a), narrow(b));
        in_parts(&g, threads, time, bf16::ZERO, |g, out, scratch| gemm_bf16(isa, g, &a, &b, out, scratch))
    }
}

/// Numbers in [−1, 1).
fn values(n: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Seconds of the fastest call. Calls of a microsecond are timed in groups, or the clock would be what is measured.
pub fn fastest(time: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    call();
    let group = (2e-5 / begin.elapsed().as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1000.0) as u32;
    while begin.elapsed() < time || best.is_infinite() {
        let start = Instant::now();
        (0..group).for_each(|_| call());
        best = best.min(start.elapsed().as_secs_f64() / f64::from(group));
    }
    best
}

/// The fastest call of a product in parts, the first on this thread.
fn in_parts<T: Narrow>(
    g: &Gemm,
    threads: usize,
    time: Duration,
    zero: T,
    run: impl Fn(&Gemm, &mut [T], &mut Scratch) -> Result<(), KernelError> + Sync,
) -> f64 {
    let mut out = vec![zero; g.out.elements()];
    let mut parts = Vec::new();
    let (mut rest, mut from) = (out.as_mut_slice(), 0);
    for mut list in g.split(threads) {
        let len: usize = list.iter().map(|g| g.out.elements()).sum();
        list.iter_mut().for_each(|g| g.out.base -= from);
        from += len;
        let (slice, tail) = rest.split_at_mut(len);
        rest = tail;
        parts.push((list, slice));
    }
    let (round, finished, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let part = |list: &[Gemm], out: &mut [T], scratch: &mut Scratch| {
        list.iter().for_each(|g| run(g, out, scratch).expect("dense matrices fit their slices"));
    };
    let others = parts.len() - 1;
    std::thread::scope(|scope| {
        let mut parts = parts.into_iter();
        let (list, slice) = parts.next().unwrap_or_default();
        for (list, slice) in parts {
            let (round, finished, stop, part) = (&round, &finished, &stop, &part);
            scope.spawn(move || {
                let (mut scratch, mut seen) = (Scratch::new(), 0);
                loop {
                    while round.load(Ordering::Acquire) == seen {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        std::hint::spin_loop();
                    }
                    seen += 1;
                    part(&list, slice, &mut scratch);
                    finished.fetch_add(1, Ordering::Release);
                }
            });
        }
        let mut scratch = Scratch::new();
        let best = fastest(time, || {
            let want = finished.load(Ordering::Relaxed) + others;
            round.fetch_add(1, Ordering::Release);
            part(&list, slice, &mut scratch);
            while finished.load(Ordering::Acquire) != want {
                std::hint::spin_loop();
            }
        });
        stop.store(true, Ordering::Relaxed);
        best
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_take_time_on_any_number_of_threads() {
        let shape = Shape { batch: 2, m: 5, n: 9, k: 3, a_transposed: true, b_transposed: false };
        assert_eq!(shape.flops(), 540.0);
        for (dtype, threads) in [(DType::F32, 1), (DType::BF16, 2), (DType::F32, 3)] {
            let seconds = shape.seconds(dtype, threads, Duration::from_micros(50));
            assert!(seconds > 0.0 && seconds < 10.0, "{dtype} on {threads}: {seconds}");
        }
    }
}
