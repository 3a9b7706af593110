//! Speed of the elementwise engine and the reductions: `cargo run --release -p girih-kernels --example elementwise`.
//!
//! Bytes are those that the operands and results occupy, each counted once a read and once a write.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::scalar::{BinaryFn, Monoid, UnaryFn};
use girih_ir::types::{DType, Layout};
use girih_kernels::map::{Compiled, MapScratch, Operand, run};
use girih_kernels::reduce::reduce;
use girih_kernels::{Buf, BufMut, Isa, KernelError, View, ViewMut};
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
    println!("{name:24} {:8} {:9.1} us  {:6.3} ns/element  {:6.1} GB/s", isa.name(), ns / 1e3, ns / elements as f64, bytes as f64 / ns);
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

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut scratch = MapScratch::new();
    for isa in Isa::available().filter(|i| *i != Isa::Scalar) {
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
            let ns = time(|| {
                for (((p, m), v), g) in p.iter_mut().zip(&mut m).zip(&mut v).zip(&g) {
                    *m = *m * 0.9 + *g * 0.1;
                    *v = *v * 0.999 + *g * *g * 0.001;
                    *p -= *m / (v.sqrt() + 1e-8) * 1e-3 + *p * 1e-2;
                }
                Ok(())
            })?;
            report(&format!("adam {n}, a Rust loop"), isa, ns, n, 28 * n);
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
        let (x, mut y) = (ramp(n), vec![0f32; 1024]);
        for (name, dims, order) in [
            ("reduce 1M", vec![n], vec![0]),
            ("reduce rows 1024x1024", vec![1024, 1024], vec![0, 1]),
            ("reduce columns 1024x1024", vec![1024, 1024], vec![1, 0]),
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
