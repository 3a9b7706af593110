//! Prints the measured rate of the GEMM and convolution kernels on one thread: `cargo run --release -p girih-kernels --example gflops`.

use girih_ir::types::Layout;
use girih_kernels::{
    Isa, Scratch,
    gemm::{Gemm, gemm},
};
use std::time::Instant;

/// Best seconds of one call over about a fifth of a second.
fn best(mut call: impl FnMut()) -> f64 {
    call();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < 0.2 {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn transposed(rows: usize, cols: usize) -> Layout {
    Layout { strides: [1, rows as isize].as_slice().into(), ..Layout::dense(&[rows, cols]) }
}

fn gemms(isa: Isa, scratch: &mut Scratch) {
    let cubes = [16, 32, 64, 100, 128, 256, 512, 768, 1024].map(|s| (s, s, s));
    let others = [(512, 768, 3072), (512, 3072, 768), (63, 127, 65), (1, 1024, 1024), (1024, 1, 1024), (1024, 1024, 1), (8, 768, 768)];
    println!("{:>16} {:>7} {:>7} {:>7} {:>7}  GFLOP/s, {}", "m x n x k", "nn", "nt", "tn", "tt", isa.name());
    for (m, n, k) in cubes.into_iter().chain(others) {
        let (a, b, mut out) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0.0f32; m * n]);
        let mut rates = Vec::new();
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let la = if ta { transposed(m, k) } else { Layout::dense(&[m, k]) };
            let lb = if tb { transposed(k, n) } else { Layout::dense(&[k, n]) };
            let g = Gemm::new(la, lb, Layout::dense(&[m, n]));
            let seconds = best(|| gemm(isa, &g, &a, &b, &mut out, scratch).expect("the layouts are dense"));
            rates.push(g.flops() as f64 / seconds / 1e9);
        }
        println!("{:>16} {:7.1} {:7.1} {:7.1} {:7.1}", format!("{m}x{n}x{k}"), rates[0], rates[1], rates[2], rates[3]);
    }
    let (a, b) = (vec![0.5f32; 96 * 256 * 64], vec![0.25f32; 96 * 64 * 256]);
    let mut out = vec![0.0f32; 96 * 256 * 256];
    let mut nt = Layout::dense(&[96, 64, 256]);
    nt.strides = [64 * 256, 1, 64].as_slice().into();
    let g = Gemm::new(Layout::dense(&[96, 256, 64]), nt, Layout::dense(&[96, 256, 256]));
    let seconds = best(|| gemm(isa, &g, &a, &b, &mut out, scratch).expect("the layouts are dense"));
    println!("96b 256x256x64 nt {:7.1}", g.flops() as f64 / seconds / 1e9);
    let g = Gemm::new(Layout::dense(&[96, 256, 256]), Layout::dense(&[96, 256, 64]), Layout::dense(&[96, 256, 64]));
    let a = vec![0.5f32; 96 * 256 * 256];
    let mut out = vec![0.0f32; 96 * 256 * 64];
    let seconds = best(|| gemm(isa, &g, &a, &b, &mut out, scratch).expect("the layouts are dense"));
    println!("96b 256x64x256 nn {:7.1}", g.flops() as f64 / seconds / 1e9);
}

fn main() {
    let mut scratch = Scratch::new();
    let isas: Vec<Isa> = if std::env::args().any(|a| a == "--all") { vec![Isa::Avx2, Isa::Avx512] } else { vec![Isa::detect()] };
    for isa in isas {
        gemms(isa, &mut scratch);
    }
}
