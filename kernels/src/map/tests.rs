//! The engine against the scalar tables and a direct evaluation of programs.

use super::{Compiled, MapScratch, Operand, run};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::testing::{Rng, Store, assert_close, bits, dims, ulps};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn, Wide};
use girih_ir::tensor::{Data, Tensor, indices};
use girih_ir::types::{DType, Layout, TensorType};

fn wides(t: &Tensor) -> Vec<Wide> {
    match t.data() {
        Data::Float(v) => v.iter().map(|x| Wide::F(*x)).collect(),
        Data::Int(v) => v.iter().map(|x| Wide::I(*x)).collect(),
    }
}

fn tensor(ty: TensorType, v: &[Wide]) -> Tensor {
    if ty.dtype.is_float() {
        Tensor::new_float(ty, v.iter().map(|x| x.float()).collect())
    } else {
        Tensor::new_int(ty, v.iter().map(|x| x.int()).collect())
    }
}

/// Runs a one-dimensional map of dense operands.
fn flat(isa: Isa, program: &FusedProgram, ins: &[&Tensor]) -> Vec<Tensor> {
    let n = ins[0].ty().elements();
    let c = Compiled::new(program, 0).unwrap();
    let stores: Vec<Store> = ins.iter().map(|t| Store::dense(t)).collect();
    let inputs: Vec<Operand> = stores.iter().map(|s| Operand::Read(s.view())).collect();
    let types = program.types().unwrap();
    let mut outs: Vec<Store> = program.outputs.iter().map(|o| Store::empty(types[*o as usize], Layout::dense(&[n]), n)).collect();
    let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
    run(isa, &c, &[n], &[], &inputs, &mut views, &mut MapScratch::new()).unwrap();
    outs.iter().map(Store::tensor).collect()
}

/// Interesting and random elements of a type.
fn samples(dtype: DType, rng: &mut Rng, n: usize) -> Tensor {
    let ty = TensorType::new(dtype, [n]);
    if dtype.is_float() {
        let special = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            -0.5,
            1.5,
            2.5,
            -2.5,
            1e-40,
            -1e-40,
            3e38,
            -3e38,
            1e-8,
            -1e-8,
            88.8,
            -88.8,
            -103.5,
            1e7,
            -0.999,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        let f = |i: usize| match i {
            i if i < special.len() => special[i],
            i if i % 4 == 0 => rng.unit() * 2f64.powi(rng.below(250) as i32 - 125),
            i if i % 4 == 1 => rng.unit() * 100.0,
            i if i % 4 == 2 => (rng.unit() * 9.0).round(),
            _ => rng.unit() * 2.0,
        };
        return Tensor::new_float(ty, (0..n).map(f).collect());
    }
    let special =
        [0, 1, -1, 2, 3, 31, 32, 63, 64, 127, 128, i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i16::MIN), -128, -2, 7, 8, 15, 16];
    let f = |i: usize| if i < special.len() { special[i] } else { (rng.next() as i64) >> rng.below(64) };
    Tensor::new_int(ty, (0..n).map(f).collect())
}

/// Units in the last place that a function may be off, in its own type.
fn allowed(f: UnaryFn, dtype: DType) -> f64 {
    use UnaryFn::*;
    match f {
        Neg | Abs | Sign | Floor | Ceil | RoundEven | RoundAway | Sqrt => 0.0,
        _ if dtype == DType::F32 => match f {
            Exp | Log | Tanh | Erf | Logistic | Rsqrt => 2.0,
            _ => 1.0,
        },
        _ => 1.0,
    }
}

#[test]
fn unary_functions_agree_with_the_table() {
    let mut rng = Rng(1);
    for dtype in DType::ALL {
        for f in UnaryFn::ALL.iter().copied().filter(|f| f.result(dtype).is_some()) {
            let x = samples(dtype, &mut rng, 1500);
            let program = FusedProgram { inputs: vec![dtype], body: vec![Expr::Input(0), Expr::Unary(f, 0)], outputs: vec![1] };
            let ty = TensorType::new(f.result(dtype).unwrap(), [1500]);
            let want = tensor(ty, &wides(&x).iter().map(|x| f.eval(dtype, *x)).collect::<Vec<_>>());
            let all: Vec<Tensor> = Isa::available().map(|isa| flat(isa, &program, &[&x]).remove(0)).collect();
            assert_close(&all[0], &want, allowed(f, dtype), 0.0, &format!("{} {dtype}", f.name()));
            assert!(all.iter().all(|t| bits(t) == bits(&all[0])), "{} {dtype} depends on the instruction set", f.name());
        }
    }
}

#[test]
fn binary_functions_and_comparisons_agree_with_the_table() {
    let mut rng = Rng(2);
    for dtype in DType::ALL {
        let special = samples(dtype, &mut rng, 20);
        // All pairs of special values, then random ones.
        let (mut a, mut b) = (wides(&samples(dtype, &mut rng, 1100)), wides(&samples(dtype, &mut rng, 1100)));
        for (i, x) in wides(&special).into_iter().enumerate() {
            for (j, y) in wides(&special).into_iter().enumerate() {
                (a[i * 20 + j], b[i * 20 + j]) = (x, y);
            }
        }
        let (ta, tb) = (tensor(TensorType::new(dtype, [1100]), &a), tensor(TensorType::new(dtype, [1100]), &b));
        let check = |expr: Expr, name: &str, result: DType, eval: &dyn Fn(Wide, Wide) -> Wide, ulp: f64| {
            let program = FusedProgram { inputs: vec![dtype; 2], body: vec![Expr::Input(0), Expr::Input(1), expr], outputs: vec![2] };
            let want: Vec<Wide> = wides(&ta).into_iter().zip(wides(&tb)).map(|(a, b)| eval(a, b)).collect();
            let all: Vec<Tensor> = Isa::available().map(|isa| flat(isa, &program, &[&ta, &tb]).remove(0)).collect();
            assert_close(&all[0], &tensor(TensorType::new(result, [1100]), &want), ulp, 0.0, &format!("{name} {dtype}"));
            assert!(all.iter().all(|t| bits(t) == bits(&all[0])), "{name} {dtype} depends on the instruction set");
        };
        for f in BinaryFn::ALL.iter().copied().filter(|f| f.result(dtype).is_some()) {
            let ulp = if matches!(f, BinaryFn::Pow | BinaryFn::Atan2) { 1.0 } else { 0.0 };
            check(Expr::Binary(f, 0, 1), f.name(), dtype, &|a, b| f.eval(dtype, a, b), ulp);
        }
        for f in CompareFn::ALL.iter().copied() {
            check(Expr::Compare(f, 0, 1), f.name(), DType::Bool, &|a, b| Wide::I(i64::from(f.eval(dtype, a, b))), 0.0);
        }
    }
}

#[test]
fn bits_are_those_of_the_elements() {
    let mut rng = Rng(33);
    for from in DType::ALL {
        for to in DType::ALL.into_iter().filter(|to| girih_ir::ops::bitcast_convert::same_bits(from, *to)) {
            let x = samples(from, &mut rng, 700);
            let program = FusedProgram { inputs: vec![from], body: vec![Expr::Input(0), Expr::Bitcast(to, 0)], outputs: vec![1] };
            for isa in Isa::available() {
                let got = flat(isa, &program, &[&x]).remove(0);
                assert_eq!(bits(&got), bits(&x.bitcast(to)), "{from} to {to}");
            }
        }
    }
}

#[test]
fn conversions_follow_the_tensor_rules() {
    let mut rng = Rng(3);
    for from in DType::ALL {
        for to in DType::ALL {
            let x = samples(from, &mut rng, 700);
            let program = FusedProgram { inputs: vec![from], body: vec![Expr::Input(0), Expr::Convert(to, 0)], outputs: vec![1] };
            for isa in Isa::available() {
                assert_close(&flat(isa, &program, &[&x])[0], &x.convert(to), 0.0, 0.0, &format!("{from} to {to}"));
            }
        }
    }
}

#[test]
fn hot_functions_stay_within_two_ulp_on_dense_samples() {
    use UnaryFn::*;
    let ranges: [(UnaryFn, f64, f64); 15] = [
        (Erfc, -5.0, 10.2),
        (ErfInv, -1.0, 1.0),
        (ErfInv, 0.9999, 1.0),
        (Exp, -104.0, 88.7),
        (Expm1, -20.0, 88.7),
        (Log, 0.0, 8.0),
        (Log1p, -1.0, 8.0),
        (Tanh, -10.0, 10.0),
        (Logistic, -104.0, 40.0),
        (Erf, -5.0, 5.0),
        (Erf, -1.2, 1.2),
        (Sin, -30.0, 30.0),
        (Cos, -1e6, 1e6),
        (Rsqrt, 0.0, 100.0),
        (Logistic, -2.0, 2.0),
    ];
    for (f, low, high) in ranges {
        let n = 120_000;
        let x = Tensor::new_float(TensorType::new(DType::F32, [n]), (0..n).map(|i| low + (high - low) * i as f64 / n as f64).collect());
        let program = FusedProgram { inputs: vec![DType::F32], body: vec![Expr::Input(0), Expr::Unary(f, 0)], outputs: vec![1] };
        let got = flat(Isa::detect(), &program, &[&x]).remove(0);
        // Against the function in f64, before rounding.
        let worst = x
            .floats()
            .iter()
            .zip(got.floats())
            .map(|(x, y)| ulps(DType::F32, y, f.eval(DType::F64, Wide::F(*x)).float()))
            .fold(0.0, f64::max);
        let most = if matches!(f, Exp | Log | Tanh | Erf | Logistic | Rsqrt) { 2.0 } else { 1.0 };
        println!("{:9} [{low}, {high}]  {worst:.3} ulp", f.name());
        assert!(worst <= most, "{} on [{low}, {high}] is off by {worst} ulp", f.name());
    }
}

/// Evaluates a program point by point with wide values; reductions of floats are in f64.
fn reference(p: &FusedProgram, loops: &[usize], cols: usize, origin: &[usize], ins: &[Tensor]) -> Vec<Tensor> {
    let types = p.types().unwrap();
    let rows = &loops[..loops.len() - cols];
    let mut slots: Vec<Vec<Wide>> = Vec::new();
    let columns: usize = loops[loops.len() - cols..].iter().product();
    for (s, e) in p.body.iter().enumerate() {
        let at = |a: u32| &slots[a as usize];
        let n = loops.iter().product::<usize>();
        let v: Vec<Wide> = match *e {
            Expr::Input(k) => wides(&ins[k as usize]),
            Expr::Const(d, b) => vec![if d.is_float() { Wide::F(f64::from_bits(b)) } else { Wide::I(b as i64) }; n],
            Expr::Index(d, l) => {
                let v = indices(loops).map(|i| i[l as usize] + origin.get(l as usize).copied().unwrap_or(0));
                wides(&Tensor::new_int(TensorType::new(DType::I64, [n]), v.map(|i| i as i64).collect()).convert(d))
            }
            Expr::Unary(f, a) => at(a).iter().map(|x| f.eval(types[a as usize], *x)).collect(),
            Expr::Binary(f, a, b) => at(a).iter().zip(at(b)).map(|(x, y)| f.eval(types[s], *x, *y)).collect(),
            Expr::Compare(f, a, b) => at(a).iter().zip(at(b)).map(|(x, y)| Wide::I(i64::from(f.eval(types[a as usize], *x, *y)))).collect(),
            Expr::Select(c, a, b) => {
                at(c).iter().zip(at(a).iter().zip(at(b))).map(|(c, (a, b))| if c.int() != 0 { *a } else { *b }).collect()
            }
            Expr::Bitcast(d, a) => wides(&tensor(TensorType::new(types[a as usize], [n]), at(a)).bitcast(d)),
            Expr::Convert(d, a) => wides(&tensor(TensorType::new(types[a as usize], [n]), at(a)).convert(d)),
            Expr::Reduce(m, a) => {
                let wide = if types[s].is_float() { DType::F64 } else { types[s] };
                let fold = |row: &[Wide]| row.iter().fold(m.identity(wide), |x, y| m.function().eval(wide, x, *y));
                let one: Vec<Wide> = at(a).chunks(columns.max(1)).map(fold).collect();
                wides(&tensor(TensorType::new(types[s], [one.len()]), &one)).into_iter().flat_map(|x| vec![x; columns]).collect()
            }
        };
        slots.push(v);
    }
    let per_row = p.per_row();
    p.outputs
        .iter()
        .map(|o| {
            let (v, ty) = (&slots[*o as usize], types[*o as usize]);
            if per_row[*o as usize] {
                tensor(TensorType::new(ty, rows), &v.iter().step_by(columns.max(1)).copied().collect::<Vec<_>>())
            } else {
                tensor(TensorType::new(ty, loops), v)
            }
        })
        .collect()
}

fn constant(v: f64) -> Expr {
    Expr::Const(DType::F32, v.to_bits())
}

/// A random program of exact functions on f32, i32 and bool, so that only reductions differ from the reference.
fn random_program(rng: &mut Rng, inputs: usize, loops: usize, reduce: bool) -> FusedProgram {
    let mut p =
        FusedProgram { inputs: (0..inputs).map(|i| if i % 3 == 2 { DType::I32 } else { DType::F32 }).collect(), ..Default::default() };
    p.body.extend((0..inputs as u32).map(Expr::Input));
    p.body.extend([constant(0.75), Expr::Index(DType::I32, rng.below(loops) as u32), Expr::Index(DType::F32, rng.below(loops) as u32)]);
    for _ in 0..12 {
        let types = p.types().unwrap();
        let pick = |rng: &mut Rng, d: DType| {
            let all: Vec<u32> = (0..types.len() as u32).filter(|s| types[*s as usize] == d).collect();
            (!all.is_empty()).then(|| all[rng.below(all.len())])
        };
        let (Some(a), Some(b), Some(i), Some(j)) =
            (pick(rng, DType::F32), pick(rng, DType::F32), pick(rng, DType::I32), pick(rng, DType::I32))
        else {
            continue;
        };
        let e = match rng.below(if reduce { 11 } else { 9 }) {
            0 => Expr::Binary(BinaryFn::Add, a, b),
            1 => Expr::Binary(BinaryFn::Mul, a, b),
            2 => Expr::Binary(BinaryFn::Max, a, b),
            3 => Expr::Unary(UnaryFn::Abs, a),
            4 => Expr::Binary(BinaryFn::Xor, i, j),
            5 => Expr::Compare(CompareFn::Lt, a, b),
            6 => Expr::Convert(DType::F32, i),
            7 => match pick(rng, DType::Bool) {
                Some(c) => Expr::Select(c, a, b),
                None => Expr::Compare(CompareFn::Ge, i, j),
            },
            8 => Expr::Binary(BinaryFn::Sub, i, j),
            9 => Expr::Reduce(Monoid::Max, a),
            _ => Expr::Reduce(Monoid::Sum, i),
        };
        p.body.push(e);
    }
    let n = p.body.len();
    p.outputs = vec![n as u32 - 1, rng.below(n) as u32, n as u32 - 2];
    p
}

/// Broadcast operands: the tensor as the loops see it, and storage with stride 0 where it does not move.
fn operand(rng: &mut Rng, dtype: DType, loops: &[usize]) -> (Tensor, Store, Layout) {
    let small: Vec<usize> = loops.iter().map(|d| if rng.below(4) == 0 { 1 } else { *d }).collect();
    let t = rng.tensor(dtype, &small);
    let store = Store::random(rng, &t);
    let mut layout = store.layout.clone();
    for d in 0..loops.len() {
        if small[d] == 1 {
            (layout.dims[d], layout.strides[d]) = (loops[d], 0);
        }
    }
    let pick = indices(loops).map(|i| Some(i.iter().zip(&small).fold(0, |p, (i, d)| p * d + i % d)));
    let wide = Tensor::pick(TensorType::new(dtype, loops), &t, pick, None);
    (wide, store, layout)
}

#[test]
fn random_programs_in_random_layouts_agree_with_the_reference() {
    let mut rng = Rng(4);
    let mut scratch = MapScratch::new();
    for case in 0..150 {
        let rank = 1 + rng.below(4);
        let cols = if case % 2 == 0 { 0 } else { 1 + rng.below(rank) };
        let loops = dims(&mut rng, rank, [40, 9, 1500][case % 3]);
        let program = random_program(&mut rng, 3, rank, cols > 0);
        let origin: Vec<usize> = (0..rank).map(|_| rng.below(50)).collect();
        let (per_row, types) = (program.per_row(), program.types().unwrap());
        let operands: Vec<_> = program.inputs.clone().into_iter().map(|d| operand(&mut rng, d, &loops)).collect();
        let wide: Vec<Tensor> = operands.iter().map(|o| o.0.clone()).collect();
        let want = reference(&program, &loops, cols, &origin, &wide);
        let c = Compiled::new(&program, cols).unwrap();
        let inputs: Vec<Operand> = operands.iter().map(|(_, s, l)| Operand::Read(s.view_as(l.clone()))).collect();
        let shapes: Vec<(DType, Layout, usize)> = program
            .outputs
            .iter()
            .map(|o| {
                let (l, n) = rng.layout(if per_row[*o as usize] { &loops[..rank - cols] } else { &loops });
                (types[*o as usize], l, n)
            })
            .collect();
        for isa in Isa::available() {
            let mut outs: Vec<Store> = shapes.iter().map(|(d, l, n)| Store::empty(*d, l.clone(), *n)).collect();
            let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
            run(isa, &c, &loops, &origin, &inputs, &mut views, &mut scratch).unwrap();
            for (k, (o, w)) in outs.iter().zip(&want).enumerate() {
                assert_close(
                    &o.tensor(),
                    w,
                    0.0,
                    0.0,
                    &format!("case {case}, result {k}, loops {loops:?}, cols {cols}, {}, {program:?}", isa.name()),
                );
            }
        }
    }
}

/// softmax over the columns, its logarithm of the sum as a per-row result, in one of the float types.
fn softmax(dtype: DType) -> FusedProgram {
    use Expr::{Binary, Input, Reduce, Unary};
    let body = vec![
        Input(0),
        Reduce(Monoid::Max, 0),
        Binary(BinaryFn::Sub, 0, 1),
        Unary(UnaryFn::Exp, 2),
        Reduce(Monoid::Sum, 3),
        Binary(BinaryFn::Div, 3, 4),
        Unary(UnaryFn::Log, 4),
        Binary(BinaryFn::Add, 6, 1),
    ];
    FusedProgram { inputs: vec![dtype], body, outputs: vec![5, 7] }
}

#[test]
fn rows_short_and_long_agree_and_split() {
    let mut rng = Rng(5);
    for (rows, columns) in [(3, 7), (500, 9), (33, 128), (4, 640), (2, 8192), (2, 9001), (1, 20_000), (3, 1)] {
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let x = rng.tensor(dtype, &[rows, columns]);
            let store = Store::dense(&x);
            let program = softmax(dtype);
            let want = reference(&program, &[rows, columns], 1, &[], &[x]);
            let c = Compiled::new(&program, 1).unwrap();
            let mut all = Vec::new();
            for isa in Isa::available() {
                let mut outs = [
                    Store::empty(dtype, Layout::dense(&[rows, columns]), rows * columns),
                    Store::empty(dtype, Layout::dense(&[rows]), rows),
                ];
                let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
                run(isa, &c, &[rows, columns], &[], &[Operand::Read(store.view())], &mut views, &mut MapScratch::new()).unwrap();
                for (o, w) in outs.iter().zip(&want) {
                    assert_close(
                        &o.tensor(),
                        w,
                        if dtype.size() == 2 { 3.0 } else { 64.0 },
                        0.0,
                        &format!("softmax {dtype} {rows}×{columns}"),
                    );
                }
                // One call a row.
                let mut parts = [
                    Store::empty(dtype, Layout::dense(&[rows, columns]), rows * columns),
                    Store::empty(dtype, Layout::dense(&[rows]), rows),
                ];
                for r in 0..rows {
                    let at = |base| Layout { base, ..Layout::dense(&[1, columns]) };
                    let [a, b] = &mut parts;
                    let mut views = [a.view_mut_as(at(r * columns)), b.view_mut_as(Layout { base: r, ..Layout::dense(&[1]) })];
                    run(isa, &c, &[1, columns], &[], &[Operand::Read(store.view_as(at(r * columns)))], &mut views, &mut MapScratch::new())
                        .unwrap();
                }
                for (o, p) in outs.iter().zip(&parts) {
                    assert_eq!(o.bytes(), p.bytes());
                    all.push(o.bytes().to_vec());
                }
            }
            assert!(all.chunks(2).all(|p| p == &all[..2]), "softmax depends on the instruction set");
        }
    }
}

#[test]
fn operands_in_place_are_read_before_they_are_written() {
    // (a, b) ← (b + a, a), both in place, in blocks and in strided layouts.
    let body = vec![Expr::Input(0), Expr::Input(1), Expr::Binary(BinaryFn::Add, 1, 0)];
    let program = FusedProgram { inputs: vec![DType::F32; 2], body, outputs: vec![2, 0] };
    let c = Compiled::new(&program, 0).unwrap();
    let mut rng = Rng(6);
    for loops in [vec![5000], vec![30, 40], vec![3, 7, 5]] {
        for isa in Isa::available() {
            let (a, b) = (rng.tensor(DType::F32, &loops), rng.tensor(DType::F32, &loops));
            let mut stores = if loops.len() == 3 {
                [Store::random(&mut rng, &a), Store::random(&mut rng, &b)]
            } else {
                [Store::dense(&a), Store::dense(&b)]
            };
            let mut views: Vec<_> = stores.iter_mut().map(Store::view_mut).collect();
            run(isa, &c, &loops, &[], &[Operand::InPlace(0), Operand::InPlace(1)], &mut views, &mut MapScratch::new()).unwrap();
            let want = reference(&program, &loops, 0, &[], &[a.clone(), b]);
            assert_close(&stores[0].tensor(), &want[0], 0.0, 0.0, "sum in place");
            assert_close(&stores[1].tensor(), &a, 0.0, 0.0, "moved in place");
        }
    }
}

#[test]
fn empty_rows_give_neutral_elements_and_bad_calls_are_refused() {
    let x = Store::empty(DType::F32, Layout::dense(&[2, 0]), 0);
    let program = FusedProgram {
        inputs: vec![DType::F32],
        body: vec![Expr::Input(0), Expr::Reduce(Monoid::Sum, 0), Expr::Binary(BinaryFn::Add, 0, 1)],
        outputs: vec![1, 2],
    };
    let c = Compiled::new(&program, 1).unwrap();
    let mut outs = [Store::empty(DType::F32, Layout::dense(&[2]), 2), Store::empty(DType::F32, Layout::dense(&[2, 0]), 0)];
    let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
    run(Isa::detect(), &c, &[2, 0], &[], &[Operand::Read(x.view())], &mut views, &mut MapScratch::new()).unwrap();
    assert_eq!(outs[0].tensor().floats(), [0.0, 0.0]);

    assert!(matches!(Compiled::new(&program, 0), Err(KernelError::Program { slot: 1, .. })));
    let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
    let go = |loops: &[usize], ins: &[Operand], outs: &mut [_]| run(Isa::detect(), &c, loops, &[], ins, outs, &mut MapScratch::new());
    assert!(matches!(go(&[2, 0], &[], &mut views), Err(KernelError::Shape { .. })));
    assert!(matches!(go(&[3, 0], &[Operand::Read(x.view())], &mut views), Err(KernelError::Shape { .. })));
    assert!(matches!(go(&[2, 0], &[Operand::InPlace(0)], &mut views), Err(KernelError::Attribute { .. })));
    let wrong = Store::empty(DType::I32, Layout::dense(&[2, 0]), 0);
    assert!(matches!(go(&[2, 0], &[Operand::Read(wrong.view())], &mut views), Err(KernelError::ElementType { .. })));
}
