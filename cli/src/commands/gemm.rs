//! `girih bench --gemm`: matrix products beside the rate of multiply-adds in registers.

use super::output::{Outcome, Output, table};
use girih_ir::types::DType;
use girih_runtime::peak;
use girih_runtime::timed::Shape;
use serde_json::json;
use std::time::Duration;

/// Cubes, the projections of a transformer, attention, and the thin ones of small models: batch, m, k, n, and which are transposed.
#[rustfmt::skip]
const SHAPES: [(usize, usize, usize, usize, &str); 34] = [
    (1, 64, 64, 64, "nn"),       (1, 128, 128, 128, "nn"),    (1, 256, 256, 256, "nn"),    (1, 256, 256, 256, "nt"),
    (1, 256, 256, 256, "tn"),    (1, 512, 512, 512, "nn"),    (1, 512, 512, 512, "nt"),    (1, 512, 512, 512, "tn"),
    (1, 1024, 1024, 1024, "nn"), (1, 2048, 2048, 2048, "nn"), (1, 512, 768, 768, "nn"),    (1, 512, 768, 768, "nt"),
    (1, 512, 768, 768, "tn"),    (1, 512, 768, 3072, "nn"),   (1, 512, 768, 3072, "nt"),   (1, 512, 768, 3072, "tn"),
    (1, 512, 3072, 768, "nn"),   (1, 512, 3072, 768, "nt"),   (1, 512, 3072, 768, "tn"),   (1, 768, 512, 3072, "tn"),
    (1, 1024, 256, 1024, "nn"),  (96, 256, 64, 256, "nt"),    (96, 256, 256, 64, "nn"),    (96, 256, 256, 64, "tn"),
    (1, 32, 256, 1024, "nn"),    (1, 32, 1024, 256, "nn"),    (1, 32, 1024, 256, "nt"),    (1, 128, 784, 512, "nn"),
    (1, 128, 512, 10, "nn"),     (1, 128, 10, 512, "nt"),     (1, 784, 128, 512, "tn"),    (1, 512, 128, 10, "tn"),
    (1, 256, 32, 1024, "tn"),    (1, 256, 32, 256, "nn"),
];

/// One measured product.
struct Measured {
    dtype: DType,
    shape: Shape,
    transposed: &'static str,
    seconds: f64,
    share: f64,
}

/// Measures every shape in f32 and bf16.
pub fn run(threads: usize, seconds: Option<f64>, out: &Output) -> Outcome {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores } else { threads };
    let each = Duration::from_secs_f64(seconds.unwrap_or(12.0).max(0.0) / (2 * SHAPES.len()) as f64);
    let mut peaks = [(DType::F32, 0.0f64), (DType::BF16, 0.0)];
    let mut all = Vec::new();
    for (dtype, best) in &mut peaks {
        for (batch, m, k, n, transposed) in SHAPES {
            // The peak beside each product: the clock changes with what else the machine does.
            *best = best.max(peak::flops_on(*dtype, threads) / threads as f64);
            let shape = Shape { batch, m, n, k, a_transposed: transposed.starts_with('t'), b_transposed: transposed.ends_with('t') };
            let seconds = shape.seconds(*dtype, threads, each);
            all.push(Measured { dtype: *dtype, shape, transposed, seconds, share: 0.0 });
        }
        for one in all.iter_mut().filter(|one| one.dtype == *dtype) {
            one.share = 100.0 * one.shape.flops() / one.seconds / (*best * threads as f64);
        }
    }
    let name = |one: &Measured| {
        let Shape { batch, m, k, n, .. } = one.shape;
        format!("{} {}{m}x{k}x{n} {}", one.dtype, if batch > 1 { format!("{batch} of ") } else { String::new() }, one.transposed)
    };
    let text = || {
        let head = ["batch of m x k x n", "time", "GFLOP/s", "of peak"].map(String::from).to_vec();
        let row = |one: &Measured| {
            let rate = one.shape.flops() / one.seconds / 1e9;
            vec![name(one), format!("{:.1} us", one.seconds * 1e6), format!("{rate:.1}"), format!("{:.1} %", one.share)]
        };
        let rows: Vec<_> = std::iter::once(head).chain(all.iter().map(row)).collect();
        let peaks: Vec<String> = peaks.iter().map(|(dtype, rate)| format!("{dtype} {:.1} GFLOP/s", rate / 1e9)).collect();
        format!("{}\npeak of one thread: {}; measured on {threads} threads\n", table(&rows, false), peaks.join(", "))
    };
    let document = || {
        let products: Vec<_> = all
            .iter()
            .map(|one| {
                let Shape { batch, m, k, n, .. } = one.shape;
                json!({
                    "dtype": one.dtype.to_string(), "batch": batch, "m": m, "k": k, "n": n, "transposed": one.transposed,
                    "seconds": one.seconds, "gflops": one.shape.flops() / one.seconds / 1e9, "percent_of_peak": one.share,
                })
            })
            .collect();
        let rates = peaks.map(|(dtype, rate)| json!({ "dtype": dtype.to_string(), "gflops": rate / 1e9 }));
        json!({ "threads": threads, "peak_of_one_thread": rates, "products": products })
    };
    out.result(text, document)
}
