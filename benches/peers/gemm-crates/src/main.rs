//! Times one matrix product at a time, of girih's kernels and of the crates `gemm` and `faer`, for `gemm.py`.
//!
//! Each line of the input is `LIBRARY DTYPE TRANSPOSED BATCH M K N THREADS MILLISECONDS`; the answer is the seconds of the fastest
//! call in that time. `peak f32|bf16 …` answers with FLOP/s of one thread. A library that cannot do what is asked answers `nan`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use gemm::Parallelism;
use girih_ir::types::{DType, Layout};
use girih_kernels::gemm::{Gemm, gemm};
use girih_kernels::{Isa, Scratch, peak};
use half::bf16;
use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
struct Shape {
    /// Whether `a` is `[k, m]` in memory, and `b` `[n, k]`.
    transposed: [bool; 2],
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
    threads: usize,
    time: Duration,
}

impl Shape {
    /// Row and column strides of `a`, `b` and `out`.
    fn strides(&self) -> [[isize; 2]; 3] {
        let [m, k, n] = [self.m, self.k, self.n].map(|d| d as isize);
        let of = |rows, cols, transposed| if transposed { [1, rows] } else { [cols, 1] };
        [of(m, k, self.transposed[0]), of(k, n, self.transposed[1]), [n, 1]]
    }

    fn lengths(&self) -> [usize; 3] {
        [self.m * self.k, self.k * self.n, self.m * self.n].map(|x| x * self.batch)
    }
}

/// Seconds of the fastest call.
fn fastest(time: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    // Calls of a microsecond are timed in groups, or the clock would be what is measured.
    let start = Instant::now();
    call();
    let group = (20e-6 / start.elapsed().as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1000.0) as u32;
    while begin.elapsed() < time || best.is_infinite() {
        let start = Instant::now();
        (0..group).for_each(|_| call());
        best = best.min(start.elapsed().as_secs_f64() / f64::from(group));
    }
    best
}

fn values(n: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn product(s: &Shape) -> Gemm {
    let layout = |rows: usize, cols: usize, [row, col]: [isize; 2]| {
        let (dims, strides) = ([s.batch, rows, cols], [(rows * cols) as isize, row, col]);
        Layout { base: 0, dims: dims.as_slice().into(), strides: strides.as_slice().into() }
    };
    let [a, b, out] = s.strides();
    Gemm::new(layout(s.m, s.k, a), layout(s.k, s.n, b), layout(s.m, s.n, out))
}

/// One call in parts, the first on this thread: workers spin between calls as the runtime's team does.
fn in_parts<T: Copy + Send + Sync>(s: &Shape, out: &mut [T], run: impl Fn(&Gemm, &mut [T], &mut Scratch) + Sync) -> f64 {
    let mut parts = product(s).split(s.threads);
    let mut from = 0;
    for list in &mut parts {
        let len: usize = list.iter().map(|g| g.out.elements()).sum();
        list.iter_mut().for_each(|g| g.out.base -= from);
        from += len;
    }
    let mut slices = Vec::new();
    let mut rest = out;
    for list in &parts {
        let len = list.iter().map(|g| g.out.elements()).sum();
        let (head, tail) = rest.split_at_mut(len);
        slices.push(head);
        rest = tail;
    }
    let (round, finished, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let part = |list: &[Gemm], out: &mut [T], scratch: &mut Scratch| {
        for g in list {
            run(g, out, scratch);
        }
    };
    std::thread::scope(|scope| {
        let mut slices = slices.into_iter().zip(&parts);
        let first = slices.next();
        let others = parts.len() - 1;
        for (slice, list) in slices {
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
                    part(list, slice, &mut scratch);
                    finished.fetch_add(1, Ordering::Release);
                }
            });
        }
        let Some((slice, list)) = first else { return f64::NAN };
        let mut scratch = Scratch::new();
        let best = fastest(s.time, || {
            let want = finished.load(Ordering::Relaxed) + others;
            round.fetch_add(1, Ordering::Release);
            part(list, slice, &mut scratch);
            while finished.load(Ordering::Acquire) != want {
                std::hint::spin_loop();
            }
        });
        stop.store(true, Ordering::Relaxed);
        best
    })
}

fn run(library: &str, dtype: &str, s: &Shape) -> f64 {
    let [la, lb, lo] = s.lengths();
    let (a, b, mut out) = (values(la, 1), values(lb, 2), vec![0.0f32; lo]);
    let [ra, rb, ro] = s.strides();
    let Shape { batch, m, k, n, threads, time, .. } = *s;
    match (library, dtype) {
        ("girih", "f32") => in_parts(s, &mut out, |g, out, scratch| {
            gemm(Isa::detect(), g, &a, &b, out, scratch).expect("the layouts are dense");
        }),
        ("gemm", "f32") => {
            let par = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
            fastest(time, || {
                for i in 0..batch {
                    // SAFETY: the pointers are those of matrices of these extents and strides; `out` overlaps neither operand.
                    unsafe {
                        let (a, b, out) = (a.as_ptr().add(i * m * k), b.as_ptr().add(i * k * n), out.as_mut_ptr().add(i * m * n));
                        let (c, d) = (false, false);
                        gemm::gemm(
                            m, n, k, out, ro[1], ro[0], false, a, ra[1], ra[0], b, rb[1], rb[0], 0.0, 1.0, c, d, false, par,
                        );
                    }
                }
            })
        }
        ("faer", "f32") => {
            let par = if threads > 1 { Par::rayon(threads) } else { Par::Seq };
            fastest(time, || {
                for i in 0..batch {
                    // SAFETY: as above.
                    unsafe {
                        let a = MatRef::from_raw_parts(a.as_ptr().add(i * m * k), m, k, ra[0], ra[1]);
                        let b = MatRef::from_raw_parts(b.as_ptr().add(i * k * n), k, n, rb[0], rb[1]);
                        let out = MatMut::from_raw_parts_mut(out.as_mut_ptr().add(i * m * n), m, n, ro[0], ro[1]);
                        matmul(out, Accum::Replace, a, b, 1.0, par);
                    }
                }
            })
        }
        _ => f64::NAN,
    }
}

fn main() {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(1usize);
        let transposed = words.get(2).map_or([false; 2], |w| [w.starts_with('t'), w.ends_with('t')]);
        let (library, dtype) = (words.first().copied().unwrap_or(""), words.get(1).copied().unwrap_or(""));
        let s = Shape {
            transposed,
            batch: number(3),
            m: number(4),
            k: number(5),
            n: number(6),
            threads: number(7),
            time: Duration::from_millis(number(8) as u64),
        };
        let answer = match library {
            "peak" => peak::flops(if dtype == "bf16" { DType::BF16 } else { DType::F32 }),
            _ => run(library, dtype, &s),
        };
        println!("{answer:e}");
    }
}
