//! Times one matrix product at a time, of girih's kernels and of the crates `gemm` and `faer`, for `gemm.py`.
//!
//! Each line of the input is `LIBRARY DTYPE TRANSPOSED BATCH M K N THREADS MILLISECONDS`; the answer is the seconds of the fastest
//! call in that time. `peak f32|bf16 THREADS` answers with FLOP/s of so many threads at once. A library that cannot do what is asked answers `nan`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use gemm::Parallelism;
use girih_ir::types::DType;
use girih_kernels::peak;
use girih_kernels::timed::{Shape, fastest};
use std::io::BufRead;
use std::time::Duration;

/// What is asked for.
struct Question {
    shape: Shape,
    dtype: DType,
    threads: usize,
    time: Duration,
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn run(library: &str, q: &Question) -> f64 {
    let Question { shape, dtype, threads, time } = *q;
    let Shape { batch, m, n, k, a_transposed, b_transposed } = shape;
    let strides = |rows, cols, transposed: bool| if transposed { [1, rows as isize] } else { [cols as isize, 1] };
    let (ra, rb, ro) = (strides(m, k, a_transposed), strides(k, n, b_transposed), strides(m, n, false));
    if library == "girih" {
        return shape.seconds(dtype, threads, time);
    }
    let (a, b, mut out) = (values(batch * m * k), values(batch * k * n), vec![0.0f32; batch * m * n]);
    match (library, dtype) {
        ("gemm", DType::F32) => {
            let par = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
            fastest(time, || {
                for i in 0..batch {
                    // SAFETY: the pointers are those of matrices of these extents and strides; `out` overlaps neither operand.
                    unsafe {
                        let (a, b, out) = (a.as_ptr().add(i * m * k), b.as_ptr().add(i * k * n), out.as_mut_ptr().add(i * m * n));
                        let (c, d) = (false, false);
                        gemm::gemm(m, n, k, out, ro[1], ro[0], false, a, ra[1], ra[0], b, rb[1], rb[0], 0.0, 1.0, c, d, false, par);
                    }
                }
            })
        }
        ("faer", DType::F32) => {
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
        let library = words.first().copied().unwrap_or("");
        let dtype = if words.get(1) == Some(&"bf16") { DType::BF16 } else { DType::F32 };
        let is = |end: fn(&str) -> bool| words.get(2).is_some_and(|w| end(w));
        let shape = Shape {
            batch: number(3),
            m: number(4),
            k: number(5),
            n: number(6),
            a_transposed: is(|w| w.starts_with('t')),
            b_transposed: is(|w| w.ends_with('t')),
        };
        let q = Question { shape, dtype, threads: number(7), time: Duration::from_millis(number(8) as u64) };
        let answer = if library == "peak" { peak::flops_on(dtype, number(2)) } else { run(library, &q) };
        println!("{answer:e}");
    }
}
