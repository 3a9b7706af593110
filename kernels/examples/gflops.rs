//! Prints the measured rate of the GEMM and convolution kernels on one thread: `cargo run --release -p girih-kernels --example gflops`.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_ir::types::Layout;
use girih_kernels::conv::{Conv, ConvDims, ConvWindow, conv};
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

/// A layout of `[a, b, spatial…]`, dense with `b` innermost when `last`.
fn shape(dims: &[usize], last: bool) -> Layout {
    let mut layout = Layout::dense(dims);
    if last {
        let mut step = 1;
        for d in [1, 3, 2, 0] {
            layout.strides[d] = step as isize;
            step *= dims[d];
        }
    }
    layout
}

fn swapped(l: &Layout) -> Layout {
    let mut l = l.clone();
    l.dims.swap(0, 1);
    l.strides.swap(0, 1);
    l
}

/// Forward, input gradient and kernel gradient of one layer.
struct Layer {
    batch: usize,
    inputs: usize,
    outputs: usize,
    size: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

impl Layer {
    fn passes(&self, last: bool) -> [Conv; 3] {
        let Layer { batch, inputs, outputs, size, kernel, stride, groups } = *self;
        let pad = (kernel - 1) / 2;
        let result = (size + 2 * pad - kernel) / stride + 1;
        let x = shape(&[batch, inputs, size, size], last);
        let y = shape(&[batch, outputs, result, result], last);
        // Kernels are [kh, kw, c_in, c_out] in memory when channels are last.
        let mut w = shape(&[outputs, inputs / groups, kernel, kernel], false);
        if last {
            let per = (inputs / groups * outputs) as isize;
            w.strides = [1, outputs as isize, per * kernel as isize, per].as_slice().into();
        }
        let both = |w: ConvWindow, features, batches| {
            let mut dims = ConvDims::new(&[w, w]);
            (dims.feature_groups, dims.batch_groups) = (features, batches);
            dims
        };
        let forward = ConvWindow { stride, pad_low: pad as isize, pad_high: pad as isize, ..ConvWindow::default() };
        let low = (kernel - 1 - pad) as isize;
        let high = (size + kernel - 1) as isize - low - ((result - 1) * stride + 1) as isize;
        let back = ConvWindow { pad_low: low, pad_high: high, lhs_dilation: stride, reverse: true, ..ConvWindow::default() };
        let high = (kernel + (result - 1) * stride) as isize - size as isize - pad as isize;
        let filter = ConvWindow { pad_low: pad as isize, pad_high: high, rhs_dilation: stride, ..ConvWindow::default() };
        let wide =
            Conv { lhs: x.clone(), rhs: w.clone(), out: y.clone(), dims: both(forward, groups, 1), accumulate: false, transform: false };
        let dw = Conv {
            lhs: swapped(&x),
            rhs: swapped(&y),
            out: swapped(&w),
            dims: both(filter, 1, groups),
            accumulate: false,
            transform: false,
        };
        let mut back_w = swapped(&w);
        if groups > 1 {
            // [c_in, c_out / groups]: depthwise layers only, where both orders are the same channels.
            back_w.dims[0] = inputs;
            back_w.strides[0] = w.strides[0];
            back_w.dims[1] = outputs / groups;
        }
        let dx = Conv { lhs: y, rhs: back_w, out: x, dims: both(back, groups, 1), accumulate: false, transform: false };
        [wide, dx, dw]
    }
}

fn convs(isa: Isa, scratch: &mut Scratch) {
    let layer = |batch, inputs, outputs, size, kernel, stride, groups| Layer { batch, inputs, outputs, size, kernel, stride, groups };
    let layers = [
        layer(8, 3, 64, 224, 7, 2, 1),
        layer(8, 64, 64, 56, 3, 1, 1),
        layer(8, 64, 256, 56, 1, 1, 1),
        layer(8, 64, 128, 56, 3, 2, 1),
        layer(8, 64, 128, 56, 1, 2, 1),
        layer(8, 128, 128, 28, 3, 1, 1),
        layer(8, 256, 256, 14, 3, 1, 1),
        layer(8, 512, 512, 7, 3, 1, 1),
        layer(8, 16, 32, 28, 3, 1, 1),
        layer(8, 96, 96, 56, 3, 1, 96),
        layer(8, 192, 192, 28, 5, 2, 192),
    ];
    println!("{:>34} {:>23} {:>23}  GFLOP/s, {}", "convolution", "nchw fwd dx dw", "nhwc fwd dx dw", isa.name());
    for l in &layers {
        let name = format!("{}x{} {}->{} k{} s{} g{}", l.batch, l.size, l.inputs, l.outputs, l.kernel, l.stride, l.groups);
        let mut rates = Vec::new();
        if std::env::args().any(|a| a.starts_with("--only=") && !name.contains(&a[7..])) {
            continue;
        }
        for last in [false, true] {
            for (pass, c) in l.passes(last).into_iter().enumerate() {
                if std::env::args().any(|a| a.starts_with("--pass=") && a[7..] != format!("{}{pass}", if last { "nhwc" } else { "nchw" })) {
                    continue;
                }
                let (lhs, rhs) = (vec![0.5f32; c.lhs.elements()], vec![0.25f32; c.rhs.elements()]);
                let mut out = vec![0.0f32; c.out.elements()];
                let seconds = best(|| conv(isa, &c, &lhs, &rhs, &mut out, scratch).expect("the layouts are dense"));
                let useful =
                    2 * l.batch * l.outputs * (l.inputs / l.groups) * l.kernel * l.kernel * (l.size / l.stride) * (l.size / l.stride);
                rates.push(format!("{:7.1}", useful as f64 / seconds / 1e9));
            }
        }
        println!("{name:>34} {}", rates.join(" "));
    }
}

fn main() {
    let mut scratch = Scratch::new();
    let isas: Vec<Isa> = if std::env::args().any(|a| a == "--all") { vec![Isa::Avx2, Isa::Avx512] } else { vec![Isa::detect()] };
    for isa in isas {
        if !std::env::args().any(|a| a == "--conv") {
            gemms(isa, &mut scratch);
        }
        convs(isa, &mut scratch);
    }
}
