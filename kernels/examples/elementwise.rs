//! Speed of the elementwise engine, compiled and interpreted, and of the reductions, beside plain loops in Rust:
//! `cargo run --release -p girih-kernels --example elementwise`.
//!
//! Bytes are those that the operands and results occupy, each counted once a read and once a write.

#![allow(clippy::unwrap_used, clippy::panic, unsafe_code)]

use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::ops::window::WindowDim;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::{DType, Layout};
use girih_kernels::map::{Compiled, MapScratch, Operand, run};
use girih_kernels::reduce::reduce;
use girih_kernels::window::{reduce_window, select_and_scatter};
use girih_kernels::{Buf, BufMut, Isa, KernelError, View, ViewMut, jit};
use std::time::Instant;

/// Nanoseconds of the fastest of 31 calls: other work on the machine only ever adds.
fn time(mut f: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
    let mut best = f64::INFINITY;
    for _ in 0..31 {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_nanos() as f64);
    }
    Ok(best)
}

fn report(name: &str, isa: Isa, ns: f64, elements: usize, bytes: usize) {
    let how = if isa == Isa::Avx512 && jit::enabled() { "compiled" } else { isa.name() };
    println!("{name:28} {how:8} {:9.1} us  {:6.3} ns/element  {:6.1} GB/s", ns / 1e3, ns / elements as f64, bytes as f64 / ns);
}

struct Body(Vec<Expr>);

impl Body {
    fn push(&mut self, e: Expr) -> u32 {
        self.0.push(e);
        self.0.len() as u32 - 1
    }
    fn constant(&mut self, v: f32) -> u32 {
        self.push(Expr::Const(DType::F32, f64::from(v).to_bits()))
    }
    fn bin(&mut self, f: BinaryFn, a: u32, b: u32) -> u32 {
        self.push(Expr::Binary(f, a, b))
    }
}

/// p, m, v, g: one step of Adam with bias corrections folded into constants.
fn adam() -> FusedProgram {
    use BinaryFn::{Add, Div, Mul, Sub};
    let mut b = Body(Vec::new());
    let [p, m, v, g] = [0, 1, 2, 3].map(|k| b.push(Expr::Input(k)));
    let c: Vec<u32> = [0.9, 0.1, 0.999, 0.001, 1e-3, 1e-8, 1e-2].map(|v| b.constant(v)).into();
    let (m, g1) = (b.bin(Mul, m, c[0]), b.bin(Mul, g, c[1]));
    let m = b.bin(Add, m, g1);
    let g2 = b.bin(Mul, g, g);
    let (v, g2) = (b.bin(Mul, v, c[2]), b.bin(Mul, g2, c[3]));
    let v = b.bin(Add, v, g2);
    let root = b.push(Expr::Unary(UnaryFn::Sqrt, v));
    let root = b.bin(Add, root, c[5]);
    let step = b.bin(Div, m, root);
    let step = b.bin(Mul, step, c[4]);
    let decay = b.bin(Mul, p, c[6]);
    let step = b.bin(Add, step, decay);
    let p = b.bin(Sub, p, step);
    FusedProgram { inputs: vec![DType::F32; 4], body: b.0, outputs: vec![p, m, v] }
}

fn softmax() -> FusedProgram {
    let body = vec![
        Expr::Input(0),
        Expr::Reduce(Monoid::Max, 0),
        Expr::Binary(BinaryFn::Sub, 0, 1),
        Expr::Unary(UnaryFn::Exp, 2),
        Expr::Reduce(Monoid::Sum, 3),
        Expr::Binary(BinaryFn::Div, 3, 4),
    ];
    FusedProgram { inputs: vec![DType::F32], body, outputs: vec![5] }
}

/// x, scale, offset.
fn layer_norm(columns: usize) -> FusedProgram {
    use BinaryFn::{Add, Mul, Sub};
    let mut b = Body(Vec::new());
    let [x, scale, offset] = [0, 1, 2].map(|k| b.push(Expr::Input(k)));
    let (part, epsilon) = (b.constant(1.0 / columns as f32), b.constant(1e-5));
    let sum = b.push(Expr::Reduce(Monoid::Sum, x));
    let mean = b.bin(Mul, sum, part);
    let d = b.bin(Sub, x, mean);
    let dd = b.bin(Mul, d, d);
    let var = b.push(Expr::Reduce(Monoid::Sum, dd));
    let var = b.bin(Mul, var, part);
    let var = b.bin(Add, var, epsilon);
    let r = b.push(Expr::Unary(UnaryFn::Rsqrt, var));
    let y = b.bin(Mul, d, r);
    let y = b.bin(Mul, y, scale);
    let y = b.bin(Add, y, offset);
    FusedProgram { inputs: vec![DType::F32; 3], body: b.0, outputs: vec![y] }
}

/// x: the approximation of GELU by tanh.
fn gelu() -> FusedProgram {
    use BinaryFn::{Add, Mul};
    let mut b = Body(Vec::new());
    let x = b.push(Expr::Input(0));
    let c = [0.044_715, 0.797_884_6, 1.0, 0.5].map(|v| b.constant(v));
    let square = b.bin(Mul, x, x);
    let cube = b.bin(Mul, square, x);
    let cube = b.bin(Mul, cube, c[0]);
    let inner = b.bin(Add, x, cube);
    let inner = b.bin(Mul, inner, c[1]);
    let t = b.push(Expr::Unary(UnaryFn::Tanh, inner));
    let t = b.bin(Add, t, c[2]);
    let half = b.bin(Mul, x, c[3]);
    let y = b.bin(Mul, half, t);
    FusedProgram { inputs: vec![DType::F32], body: b.0, outputs: vec![y] }
}

/// x, scale, offset, by channel: batch normalization and ReLU with its mask.
fn scale_relu() -> FusedProgram {
    use BinaryFn::{Add, Max, Mul};
    let mut b = Body(Vec::new());
    let [x, scale, offset] = [0, 1, 2].map(|k| b.push(Expr::Input(k)));
    let y = b.bin(Mul, x, scale);
    let y = b.bin(Add, y, offset);
    let zero = b.constant(0.0);
    let r = b.bin(Max, y, zero);
    let m = b.push(Expr::Compare(CompareFn::Gt, y, zero));
    FusedProgram { inputs: vec![DType::F32; 3], body: b.0, outputs: vec![r, m] }
}

/// Logits and targets: the logarithm of softmax and the gradient of cross-entropy.
fn cross_entropy() -> FusedProgram {
    use BinaryFn::{Mul, Sub};
    let mut b = Body(Vec::new());
    let x = b.push(Expr::Input(0));
    let max = b.push(Expr::Reduce(Monoid::Max, x));
    let d = b.bin(Sub, x, max);
    let e = b.push(Expr::Unary(UnaryFn::Exp, d));
    let sum = b.push(Expr::Reduce(Monoid::Sum, e));
    let l = b.push(Expr::Unary(UnaryFn::Log, sum));
    let y = b.bin(Sub, d, l);
    let t = b.push(Expr::Input(1));
    let total = b.push(Expr::Reduce(Monoid::Sum, t));
    let p = b.push(Expr::Unary(UnaryFn::Exp, y));
    let p = b.bin(Mul, p, total);
    let g = b.bin(Sub, t, p);
    FusedProgram { inputs: vec![DType::F32; 2], body: b.0, outputs: vec![y, g] }
}

/// A plain loop, compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn plain_adam(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        *m = *m * 0.9 + *g * 0.1;
        *v = *v * 0.999 + *g * *g * 0.001;
        *p -= *m / (v.sqrt() + 1e-8) * 1e-3 + *p * 1e-2;
    }
}

/// A plain loop, compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn plain_scale_relu(x: &[f32], scale: &[f32], offset: &[f32], y: &mut [f32], mask: &mut [u8]) {
    let n = scale.len();
    for ((x, y), mask) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(mask.chunks_exact_mut(n)) {
        for i in 0..n {
            let v = x[i] * scale[i] + offset[i];
            y[i] = if v > 0.0 { v } else { 0.0 };
            mask[i] = u8::from(v > 0.0);
        }
    }
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut scratch = MapScratch::new();
    let wide = Isa::detect() == Isa::Avx512;
    for (isa, compiled) in [(Isa::Avx2, false), (Isa::Avx512, false), (Isa::Avx512, true)] {
        if isa > Isa::detect() {
            continue;
        }
        jit::set_enabled(compiled);
        for n in [16_384, 131_072, 1 << 20] {
            let c = Compiled::new(&adam(), 0)?;
            let (mut p, mut m, mut v, g) = (ramp(n), ramp(n), vec![0.5f32; n], ramp(n));
            let ns = time(|| {
                let mut outs = [&mut p, &mut m, &mut v]
                    .map(|x| ViewMut::dense(BufMut::of(&mut x[..]), &[n]))
                    .into_iter()
                    .collect::<Result<Vec<_>, _>>()?;
                let ins =
                    [Operand::InPlace(0), Operand::InPlace(1), Operand::InPlace(2), Operand::Read(View::dense(Buf::of(&g[..]), &[n])?)];
                run(isa, &c, &[n], &[], &ins, &mut outs, &mut scratch)
            })?;
            report(&format!("adam {n}"), isa, ns, n, 28 * n);
            #[cfg(target_arch = "x86_64")]
            if compiled && wide {
                let ns = time(|| {
                    // SAFETY: the processor has AVX-512.
                    unsafe { plain_adam(&mut p, &mut m, &mut v, &g) };
                    Ok(())
                })?;
                report(&format!("adam {n}, a Rust loop"), isa, ns, n, 28 * n);
            }
        }
        for (rows, channels) in [(65_536, 32), (4096, 256), (256, 64)] {
            let n = rows * channels;
            let (x, scale, offset) = (ramp(n), ramp(channels), ramp(channels));
            let (mut y, mut mask) = (vec![0f32; n], vec![0u8; n]);
            let c = Compiled::new(&scale_relu(), 0)?;
            let dims = [rows, channels];
            let by_channel = |v| View::new(Buf::of(v), Layout { base: 0, dims: dims.as_slice().into(), strides: [0, 1].as_slice().into() });
            let ns = time(|| {
                let ins = [
                    Operand::Read(View::dense(Buf::of(&x[..]), &dims)?),
                    Operand::Read(by_channel(&scale[..])?),
                    Operand::Read(by_channel(&offset[..])?),
                ];
                let mut outs =
                    [ViewMut::dense(BufMut::of(&mut y[..]), &dims)?, ViewMut::dense(BufMut::new(DType::Bool, &mut mask)?, &dims)?];
                run(isa, &c, &dims, &[], &ins, &mut outs, &mut scratch)
            })?;
            report(&format!("scale, relu {rows}x{channels}"), isa, ns, n, 9 * n);
            #[cfg(target_arch = "x86_64")]
            if compiled && wide {
                let ns = time(|| {
                    // SAFETY: the processor has AVX-512.
                    unsafe { plain_scale_relu(&x, &scale, &offset, &mut y, &mut mask) };
                    Ok(())
                })?;
                report("   a Rust loop", isa, ns, n, 9 * n);
            }
        }
        for n in [16_384, 1 << 20] {
            let (x, mut y) = (ramp(n), vec![0f32; n]);
            let c = Compiled::new(&gelu(), 0)?;
            let ns = time(|| {
                let mut outs = [ViewMut::dense(BufMut::of(&mut y[..]), &[n])?];
                run(isa, &c, &[n], &[], &[Operand::Read(View::dense(Buf::of(&x[..]), &[n])?)], &mut outs, &mut scratch)
            })?;
            report(&format!("gelu {n}"), isa, ns, n, 8 * n);
        }
        for (rows, columns) in [(256, 4096), (32, 50_257), (128, 10)] {
            let n = rows * columns;
            let (x, t) = (ramp(n), ramp(n));
            let (mut y, mut g) = (vec![0f32; n], vec![0f32; n]);
            let (c, dims) = (Compiled::new(&cross_entropy(), 1)?, [rows, columns]);
            let ns = time(|| {
                let ins = [Operand::Read(View::dense(Buf::of(&x[..]), &dims)?), Operand::Read(View::dense(Buf::of(&t[..]), &dims)?)];
                let mut outs = [ViewMut::dense(BufMut::of(&mut y[..]), &dims)?, ViewMut::dense(BufMut::of(&mut g[..]), &dims)?];
                run(isa, &c, &dims, &[], &ins, &mut outs, &mut scratch)
            })?;
            report(&format!("cross-entropy {rows}x{columns}"), isa, ns, n, 16 * n);
        }
        let mut group = |rows: usize, columns: usize| -> Result<(), Box<dyn std::error::Error>> {
            let (x, mut y) = (ramp(rows * columns), vec![0f32; rows * columns]);
            let c = Compiled::new(&softmax(), 1)?;
            let ns = time(|| {
                let ins = [Operand::Read(View::dense(Buf::of(&x[..]), &[rows, columns])?)];
                let mut outs = [ViewMut::dense(BufMut::of(&mut y[..]), &[rows, columns])?];
                run(isa, &c, &[rows, columns], &[], &ins, &mut outs, &mut scratch)
            })?;
            report(&format!("softmax {rows}x{columns}"), isa, ns, rows * columns, 8 * rows * columns);
            Ok(())
        };
        group(512, 1024)?;
        group(3072, 64)?;
        group(4096, 10)?;

        let (rows, columns) = (512, 768);
        let (x, mut y, s) = (ramp(rows * columns), vec![0f32; rows * columns], ramp(columns));
        let c = Compiled::new(&layer_norm(columns), 1)?;
        let ns = time(|| {
            let over_rows = || {
                View::new(Buf::of(&s[..]), Layout { base: 0, dims: [rows, columns].as_slice().into(), strides: [0, 1].as_slice().into() })
            };
            let ins =
                [Operand::Read(View::dense(Buf::of(&x[..]), &[rows, columns])?), Operand::Read(over_rows()?), Operand::Read(over_rows()?)];
            let mut outs = [ViewMut::dense(BufMut::of(&mut y[..]), &[rows, columns])?];
            run(isa, &c, &[rows, columns], &[], &ins, &mut outs, &mut scratch)
        })?;
        report("layer_norm 512x768", isa, ns, rows * columns, 8 * rows * columns);

        let n = 1 << 20;
        let (x, mut y) = (ramp(n), vec![0f32; 8192]);
        for (name, dims, order) in [
            ("reduce 1M", vec![n], vec![0]),
            ("reduce rows 1024x1024", vec![1024, 1024], vec![0, 1]),
            ("reduce columns 1024x1024", vec![1024, 1024], vec![1, 0]),
            ("reduce columns 128x8192", vec![128, 8192], vec![1, 0]),
            ("reduce columns 8192x128", vec![8192, 128], vec![1, 0]),
            ("reduce columns 32768x32", vec![32_768, 32], vec![1, 0]),
        ] {
            let dense = Layout::dense(&dims);
            let layout = Layout {
                base: 0,
                dims: order.iter().map(|d| dense.dims[*d]).collect(),
                strides: order.iter().map(|d| dense.strides[*d]).collect(),
            };
            let ns = time(|| {
                let kept = &layout.dims[..dims.len() - 1];
                let count = kept.iter().product::<usize>();
                reduce(
                    isa,
                    Monoid::Sum,
                    false,
                    &View::new(Buf::of(&x[..]), layout.clone())?,
                    &mut ViewMut::dense(BufMut::of(&mut y[..count]), kept)?,
                )
            })?;
            report(name, isa, ns, n, 4 * n);
        }
        {
            let (batch, size, channels) = (64, 32, 32);
            let (large, small) = ([batch, size, size, channels], [batch, size / 2, size / 2, channels]);
            let n = batch * size * size * channels;
            let dim = |extent, window| WindowDim {
                extent,
                window,
                stride: window,
                pad_low: 0,
                pad_high: 0,
                base_dilation: 1,
                window_dilation: 1,
                reverse: false,
            };
            let windows = [dim(batch, 1), dim(size, 2), dim(size, 2), dim(channels, 1)];
            let (x, mut y, mut dx) = (ramp(n), vec![0f32; n / 4], vec![0f32; n]);
            let ns = time(|| {
                let mut out = ViewMut::dense(BufMut::of(&mut y[..]), &small)?;
                reduce_window(isa, Monoid::Max, &windows, &View::dense(Buf::of(&x[..]), &large)?, &mut out)
            })?;
            report("max pooling 64x32x32x32", isa, ns, n, 5 * n);
            let ns = time(|| {
                let (input, source) = (View::dense(Buf::of(&x[..]), &large)?, View::dense(Buf::of(&y[..]), &small)?);
                select_and_scatter(true, &windows, &input, &source, &mut ViewMut::dense(BufMut::of(&mut dx[..]), &large)?)
            })?;
            report("   its gradient", isa, ns, n, 9 * n);
        }
        for f in [UnaryFn::Exp, UnaryFn::Tanh, UnaryFn::Log, UnaryFn::Erf, UnaryFn::Logistic, UnaryFn::Sin, UnaryFn::Log1p] {
            let n = 16_384;
            let (x, mut y): (Vec<f32>, _) = (ramp(n).iter().map(|x| x + 1.5).collect(), vec![0f32; n]);
            let c = Compiled::new(
                &FusedProgram { inputs: vec![DType::F32], body: vec![Expr::Input(0), Expr::Unary(f, 0)], outputs: vec![1] },
                0,
            )?;
            let ns = time(|| {
                let mut outs = [ViewMut::dense(BufMut::of(&mut y[..]), &[n])?];
                run(isa, &c, &[n], &[], &[Operand::Read(View::dense(Buf::of(&x[..]), &[n])?)], &mut outs, &mut scratch)
            })?;
            report(f.name(), isa, ns, n, 8 * n);
        }
    }
    Ok(())
}
