//! Times the convolutions of two training steps on one thread, each in the layouts that a channels-last program has:
//! `cargo run --release -p girih-kernels --example convs [-- cnn|resnet] [--exact] [--bf16]`.
//!
//! Prints milliseconds, GFLOP/s by the usual count (taps on padding included, zeros between dilated samples not), the share of the
//! processor's multiply-add peak for the element type, and the total of a step. `--exact` forbids the transformed paths.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_ir::types::{DType, Layout};
use girih_kernels::conv::{Conv, ConvDims, ConvWindow, conv, conv_bf16, winograd_pays, winograd_pays_bf16};
use girih_kernels::{Isa, Scratch, peak};
use half::bf16;
use std::time::Instant;

/// One layer of a step and how often it appears.
struct Layer {
    times: usize,
    batch: usize,
    inputs: usize,
    outputs: usize,
    size: usize,
    kernel: usize,
    stride: usize,
}

/// Best seconds of one call over about `budget` seconds.
fn best(budget: f64, mut call: impl FnMut()) -> f64 {
    call();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < budget {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// `[a, b, y, x]` with strides in elements.
fn layout(dims: [usize; 4], strides: [usize; 4]) -> Layout {
    let mut l = Layout::dense(&dims);
    l.strides = strides.map(|s| s as isize).as_slice().into();
    l
}

fn channels_last(batch: usize, channels: usize, y: usize, x: usize) -> Layout {
    layout([batch, channels, y, x], [y * x * channels, 1, x * channels, channels])
}

fn swapped(l: &Layout) -> Layout {
    let mut l = l.clone();
    l.dims.swap(0, 1);
    l.strides.swap(0, 1);
    l
}

impl Layer {
    /// Forward, gradient of the input, gradient of the kernel.
    fn passes(&self) -> [Conv; 3] {
        let Layer { batch, inputs, outputs, size, kernel, stride, .. } = *self;
        let result = size / stride;
        let total = (result - 1) * stride + kernel;
        let pad = total.saturating_sub(size);
        let low = if stride == 1 { pad / 2 } else { pad };
        let (low, high) = (low as isize, total as isize - size as isize - low as isize);
        let x = channels_last(batch, inputs, size, size);
        let y = channels_last(batch, outputs, result, result);
        let w = layout([outputs, inputs, kernel, kernel], [1, outputs, kernel * inputs * outputs, inputs * outputs]);
        let both = |w: ConvWindow| ConvDims::new(&[w, w]);
        let forward = ConvWindow { stride, pad_low: low, pad_high: high, ..ConvWindow::default() };
        let back_low = kernel as isize - 1 - low;
        let back_high = (size + kernel - 1) as isize - back_low - ((result - 1) * stride + 1) as isize;
        let back = ConvWindow { pad_low: back_low, pad_high: back_high, lhs_dilation: stride, reverse: true, ..ConvWindow::default() };
        let filter = ConvWindow { pad_low: low, pad_high: high, rhs_dilation: stride, ..ConvWindow::default() };
        let call = |lhs: &Layout, rhs: &Layout, out: &Layout, w| Conv {
            lhs: lhs.clone(),
            rhs: rhs.clone(),
            out: out.clone(),
            dims: both(w),
            accumulate: false,
            transform: false,
        };
        [call(&x, &w, &y, forward), call(&y, &swapped(&w), &x, back), call(&swapped(&x), &swapped(&y), &swapped(&w), filter)]
    }

    fn flops(&self) -> f64 {
        let result = self.size / self.stride;
        2.0 * (self.batch * result * result * self.kernel * self.kernel) as f64 * (self.inputs * self.outputs) as f64
    }
}

fn layers(step: &str) -> Vec<Layer> {
    let of = |times, batch, inputs, outputs, size, kernel, stride| Layer { times, batch, inputs, outputs, size, kernel, stride };
    match step {
        "cnn" => vec![of(1, 64, 3, 32, 32, 3, 1), of(1, 64, 32, 64, 16, 3, 1), of(1, 64, 64, 128, 8, 3, 1)],
        _ => vec![
            of(1, 32, 3, 64, 32, 3, 1),
            of(4, 32, 64, 64, 32, 3, 1),
            of(1, 32, 64, 128, 32, 3, 2),
            of(1, 32, 64, 128, 32, 1, 2),
            of(3, 32, 128, 128, 16, 3, 1),
            of(1, 32, 128, 256, 16, 3, 2),
            of(1, 32, 128, 256, 16, 1, 2),
            of(3, 32, 256, 256, 8, 3, 1),
            of(1, 32, 256, 512, 8, 3, 2),
            of(1, 32, 256, 512, 8, 1, 2),
            of(3, 32, 512, 512, 4, 3, 1),
        ],
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let steps: Vec<&str> = ["cnn", "resnet"].into_iter().filter(|s| args.iter().all(|a| a.starts_with("--") || a == s)).collect();
    let exact = args.iter().any(|a| a == "--exact");
    let half = args.iter().any(|a| a == "--bf16");
    let peak = peak::flops(if half { DType::BF16 } else { DType::F32 }) / 1e9;
    println!("multiply-add peak {peak:.0} GFLOP/s");
    let mut scratch = Scratch::new();
    for step in steps {
        println!("{step:<28} {:>25} {:>25} {:>25}", "forward ms, GF/s, %", "input ms, GF/s, %", "kernel ms, GF/s, %");
        let (mut totals, mut work) = ([0.0f64; 3], 0.0);
        for layer in layers(step) {
            let mut line = format!(
                "{}x {:>3}->{:<3} {:>2}x{:<2} k{} s{} n{}",
                layer.times, layer.inputs, layer.outputs, layer.size, layer.size, layer.kernel, layer.stride, layer.batch
            );
            line = format!("{line:<28}");
            for (pass, mut c) in layer.passes().into_iter().enumerate() {
                c.transform = !exact && if half { winograd_pays_bf16(&c) } else { winograd_pays(&c) };
                // The gradient of a step's first input is not computed.
                if pass == 1 && layer.inputs == 3 {
                    line += &format!(" {:>25}", "-");
                    continue;
                }
                let noise = |n: usize| (0..n).map(|i| ((i * 2_654_435_761) >> 7 & 0xff) as f32 / 256.0 - 0.5).collect::<Vec<f32>>();
                let (lhs, rhs, mut out) = (noise(c.lhs.elements()), noise(c.rhs.elements()), vec![0.0f32; c.out.elements()]);
                let seconds = if half {
                    let rounded = |x: &[f32]| x.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>();
                    let (lhs, rhs, mut out) = (rounded(&lhs), rounded(&rhs), rounded(&out));
                    best(0.15, || conv_bf16(Isa::detect(), &c, &lhs, &rhs, &mut out, &mut scratch).unwrap())
                } else {
                    best(0.15, || conv(Isa::detect(), &c, &lhs, &rhs, &mut out, &mut scratch).unwrap())
                };
                let rate = layer.flops() / seconds / 1e9;
                line += &format!(" {:>11.3} {:>7.1} {:>4.0}%", seconds * 1e3, rate, 100.0 * rate / peak);
                totals[pass] += seconds * 1e3 * layer.times as f64;
                work += layer.flops() * layer.times as f64;
            }
            println!("{line}");
        }
        let total: f64 = totals.iter().sum();
        let [f, i, k] = totals;
        println!(
            "{step}: {total:.1} ms a step (forward {f:.1}, input {i:.1}, kernel {k:.1}), {:.2} GFLOP, {:.0} GFLOP/s, {:.1} MB of scratch",
            work / 1e9,
            work / total / 1e6,
            scratch.bytes() as f64 / 1e6
        );
    }
}
