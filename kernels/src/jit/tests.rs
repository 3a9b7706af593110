//! Compiled programs against the interpreter, to the bit.

use super::{Motion, emit};
use crate::isa::Isa;
use crate::map::{Compiled, MapScratch, Operand, run};
use crate::testing::{Rng, Store, bits};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Layout, TensorType};

const FLOAT_UNARY: [UnaryFn; 14] = [
    UnaryFn::Neg,
    UnaryFn::Abs,
    UnaryFn::Sign,
    UnaryFn::Floor,
    UnaryFn::Ceil,
    UnaryFn::RoundEven,
    UnaryFn::RoundAway,
    UnaryFn::Sqrt,
    UnaryFn::Rsqrt,
    UnaryFn::Exp,
    UnaryFn::Log,
    UnaryFn::Tanh,
    UnaryFn::Logistic,
    UnaryFn::Erf,
];
const FLOAT_BINARY: [BinaryFn; 6] = [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Div, BinaryFn::Max, BinaryFn::Min];
const INT_BINARY: [BinaryFn; 11] = [
    BinaryFn::Add,
    BinaryFn::Sub,
    BinaryFn::Mul,
    BinaryFn::Max,
    BinaryFn::Min,
    BinaryFn::And,
    BinaryFn::Or,
    BinaryFn::Xor,
    BinaryFn::Shl,
    BinaryFn::ShrArith,
    BinaryFn::ShrLogical,
];

/// Whether compiled code ran for the program.
fn was_compiled(c: &Compiled) -> bool {
    c.jit.0.read().unwrap().iter().any(|e| e.1.is_some())
}

/// Runs with compiled code and interpreted; the results of both.
fn both(c: &Compiled, loops: &[usize], origin: &[usize], inputs: &[Operand], outs: &[Store]) -> [Vec<Tensor>; 2] {
    [Isa::Avx512, Isa::Avx2].map(|isa| {
        let mut outs = outs.to_vec();
        let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
        run(isa, c, loops, origin, inputs, &mut views, &mut MapScratch::new()).unwrap();
        outs.iter().map(Store::tensor).collect()
    })
}

fn patterns(rng: &mut Rng, dtype: DType, n: usize) -> Tensor {
    let ty = TensorType::new(dtype, [n]);
    if dtype.is_float() {
        let special = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0, -1.0, 1e-40, 88.72, -87.4, -103.9, 0.5, 2.5, -2.5];
        let any = |rng: &mut Rng| f64::from(f32::from_bits(rng.next() as u32));
        let f = |i: usize| match i {
            i if i < special.len() => special[i],
            i if i % 3 == 0 => any(rng),
            i if i % 3 == 1 => rng.unit() * 100.0,
            _ => rng.unit() * 2.0,
        };
        return Tensor::new_float(ty, (0..n).map(f).collect());
    }
    Tensor::new_int(ty, (0..n).map(|_| (rng.next() as i64) >> rng.below(60)).collect())
}

fn available() -> bool {
    let there = Isa::detect() == Isa::Avx512 && cfg!(target_os = "linux");
    if !there {
        println!("skipped: no AVX-512");
    }
    there
}

#[test]
fn functions_of_any_bits_are_those_of_the_interpreter() {
    if !available() {
        return;
    }
    let mut rng = Rng(11);
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for f in FLOAT_UNARY.into_iter().chain([UnaryFn::IsFinite, UnaryFn::IsNan, UnaryFn::IsInf]) {
            let x = patterns(&mut rng, dtype, 60_000);
            let program = FusedProgram { inputs: vec![dtype], body: vec![Expr::Input(0), Expr::Unary(f, 0)], outputs: vec![1] };
            let c = Compiled::new(&program, 0).unwrap();
            let (store, n) = (Store::dense(&x), x.ty().elements());
            let out = Store::empty(f.result(dtype).unwrap(), Layout::dense(&[n]), n);
            let [a, b] = both(&c, &[n], &[], &[Operand::Read(store.view())], &[out]);
            assert!(was_compiled(&c));
            if bits(&a[0]) != bits(&b[0]) {
                let at = (0..n).find(|i| a[0].floats()[*i].to_bits() != b[0].floats()[*i].to_bits()).unwrap();
                panic!("{} {dtype} of {:e}: {:e}, not {:e}", f.name(), x.floats()[at], a[0].floats()[at], b[0].floats()[at]);
            }
        }
    }
}

/// A random program of everything that is compiled.
fn random_program(rng: &mut Rng, loops: usize, reduce: bool, length: usize) -> FusedProgram {
    let types = [DType::F32, DType::F32, DType::BF16, DType::F16, DType::I32, DType::U32, DType::Bool];
    let mut p = FusedProgram { inputs: (0..1 + rng.below(5)).map(|_| types[rng.below(7)]).collect(), ..Default::default() };
    p.body.extend((0..p.inputs.len() as u32).map(Expr::Input));
    let constant = |v: f64| Expr::Const(DType::F32, f64::from(v as f32).to_bits());
    p.body.extend([constant(0.75), constant(0.0), Expr::Const(DType::I32, 3), Expr::Const(DType::Bool, 1)]);
    p.body.extend([Expr::Index(DType::I32, rng.below(loops) as u32), Expr::Index(DType::F32, rng.below(loops) as u32)]);
    while p.body.len() < length {
        let known = p.types().unwrap();
        let x = rng.below(known.len()) as u32;
        let dtype = known[x as usize];
        let same = |rng: &mut Rng, d: DType| {
            let all: Vec<u32> = (0..known.len() as u32).filter(|s| known[*s as usize] == d).collect();
            if all.is_empty() { None } else { Some(all[rng.below(all.len())]) }
        };
        let y = same(rng, dtype).unwrap();
        let e = match rng.below(if reduce { 9 } else { 7 }) {
            0 if dtype.is_float() => Expr::Unary(FLOAT_UNARY[rng.below(14)], x),
            0 if dtype == DType::Bool => Expr::Unary(UnaryFn::Not, x),
            0 => Expr::Unary([UnaryFn::Neg, UnaryFn::Abs, UnaryFn::Sign, UnaryFn::Not][rng.below(4)], x),
            1 | 2 if dtype.is_float() => Expr::Binary(FLOAT_BINARY[rng.below(6)], x, y),
            1 | 2 if dtype == DType::Bool => Expr::Binary([BinaryFn::And, BinaryFn::Or, BinaryFn::Xor][rng.below(3)], x, y),
            1 | 2 => Expr::Binary(INT_BINARY[rng.below(11)], x, y),
            3 => Expr::Compare(CompareFn::ALL[rng.below(CompareFn::ALL.len())], x, y),
            4 | 5 => match same(rng, DType::Bool) {
                Some(c) => Expr::Select(c, x, y),
                None => continue,
            },
            6 => {
                let to = types[rng.below(7)];
                if matches!(dtype, DType::I32 | DType::U32) && to.size() == 2 {
                    continue;
                }
                Expr::Convert(to, x)
            }
            _ if dtype == DType::Bool => continue,
            7 => Expr::Reduce(if rng.below(2) == 0 { Monoid::Max } else { Monoid::Min }, x),
            _ => Expr::Reduce(Monoid::Sum, x),
        };
        if e.arguments().len() == 1
            && let Expr::Unary(f, a) = e
            && f.result(known[a as usize]).is_none()
        {
            continue;
        }
        p.body.push(e);
        if p.types().is_err() {
            p.body.pop();
        }
    }
    let n = p.body.len();
    p.outputs = (0..1 + rng.below(4)).map(|i| if i == 0 { n as u32 - 1 } else { rng.below(n) as u32 }).collect();
    p
}

/// An operand of these loops that stands still in some of them, with the last dimension contiguous or still.
fn operand(rng: &mut Rng, dtype: DType, loops: &[usize], cols: usize) -> (Store, Layout) {
    let split = loops.len() - cols;
    let still_columns = rng.below(4) == 0;
    let fixed: Vec<bool> = (0..loops.len())
        .map(|d| if d + 1 == loops.len() || (cols > 0 && d >= split) { still_columns } else { rng.below(4) == 0 })
        .collect();
    let mut strides = vec![0isize; loops.len()];
    let mut size = 1;
    for d in (0..loops.len()).rev().filter(|d| !fixed[*d]) {
        strides[d] = size as isize;
        size *= loops[d];
        // Rows that are further apart than they are long.
        if d >= 1 && d <= split && rng.below(3) == 0 {
            size += 3;
        }
    }
    let base = rng.below(5);
    let t = patterns(rng, dtype, base + size);
    (Store::dense(&t), Layout { base, dims: loops.into(), strides: strides.as_slice().into() })
}

#[test]
fn random_programs_are_bit_equal_to_the_interpreter() {
    if !available() {
        return;
    }
    let mut rng = Rng(12);
    let mut compiled = 0;
    for case in 0..260 {
        let rank = 1 + rng.below(3);
        let cols = if case % 2 == 0 { 0 } else { 1 + rng.below(rank) };
        let last = [1 + rng.below(16), 1 + rng.below(64), 60 + rng.below(10), 1 + rng.below(400), 128][case % 5];
        let loops: Vec<usize> = (0..rank).map(|d| if d + 1 == rank { last } else { 1 + rng.below(5) }).collect();
        let length = [12, 25, 60][case % 3];
        let program = random_program(&mut rng, rank, cols > 0, length);
        let (types, per_row) = (program.types().unwrap(), program.per_row());
        let operands: Vec<_> = program.inputs.iter().map(|d| operand(&mut rng, *d, &loops, cols)).collect();
        let origin: Vec<usize> = (0..rank).map(|_| rng.below(50)).collect();
        let c = Compiled::new(&program, cols).unwrap();
        let inputs: Vec<Operand> = operands.iter().map(|(s, l)| Operand::Read(s.view_as(l.clone()))).collect();
        let outs: Vec<Store> = program
            .outputs
            .iter()
            .map(|o| {
                let dims = if cols > 0 && per_row[*o as usize] { &loops[..rank - cols] } else { &loops[..] };
                Store::empty(types[*o as usize], Layout::dense(dims), dims.iter().product())
            })
            .collect();
        let [a, b] = both(&c, &loops, &origin, &inputs, &outs);
        compiled += usize::from(was_compiled(&c));
        for (k, (a, b)) in a.iter().zip(&b).enumerate() {
            assert_eq!(bits(a), bits(b), "case {case}: result {k} of {program:?} over {loops:?}, {cols} columns");
        }
    }
    println!("{compiled} of 260 programs ran compiled");
    assert!(compiled > 200, "only {compiled} programs were compiled");
}

#[test]
fn long_rows_and_many_values_agree() {
    if !available() {
        return;
    }
    let mut rng = Rng(13);
    // 50 values that all live to the end: they go to the stack.
    let mut body = vec![Expr::Input(0)];
    (0..50).for_each(|i| body.push(Expr::Unary(if i % 2 == 0 { UnaryFn::Tanh } else { UnaryFn::Exp }, i)));
    let first = body.len() as u32;
    body.push(Expr::Binary(BinaryFn::Add, 1, 50));
    (2..50).for_each(|i| body.push(Expr::Binary(BinaryFn::Add, i, first + i - 2)));
    let last = body.len() as u32 - 1;
    let wide = FusedProgram { inputs: vec![DType::F32], body: body.clone(), outputs: vec![last] };
    body.push(Expr::Reduce(Monoid::Max, last));
    body.push(Expr::Reduce(Monoid::Sum, last));
    body.push(Expr::Binary(BinaryFn::Sub, last, last + 1));
    body.push(Expr::Binary(BinaryFn::Div, last + 3, last + 2));
    let rows = FusedProgram { inputs: vec![DType::F32], body, outputs: vec![last + 4, last + 2] };
    for (program, cols) in [(wide, 0), (rows, 1)] {
        for columns in [33, 64, 65, 1000, 9001] {
            let x = patterns(&mut rng, DType::F32, 3 * columns);
            let (store, c) = (Store::dense(&x), Compiled::new(&program, cols).unwrap());
            let mut outs = vec![Store::empty(DType::F32, Layout::dense(&[3, columns]), 3 * columns)];
            if cols > 0 {
                outs.push(Store::empty(DType::F32, Layout::dense(&[3]), 3));
            }
            let [a, b] = both(&c, &[3, columns], &[], &[Operand::Read(store.view_as(Layout::dense(&[3, columns])))], &outs);
            assert!(a.iter().zip(&b).all(|(a, b)| bits(a) == bits(b)), "{columns} columns");
        }
    }
}

#[test]
fn every_motion_of_a_softmax_is_compiled() {
    let body = vec![
        Expr::Input(0),
        Expr::Reduce(Monoid::Max, 0),
        Expr::Binary(BinaryFn::Sub, 0, 1),
        Expr::Unary(UnaryFn::Exp, 2),
        Expr::Reduce(Monoid::Sum, 3),
        Expr::Binary(BinaryFn::Div, 3, 4),
    ];
    let c = Compiled::new(&FusedProgram { inputs: vec![DType::F32], body, outputs: vec![5] }, 1).unwrap();
    for motion in [Motion::Still, Motion::Along, Motion::InPlace(0)] {
        assert!([0, 1, 10, 16, 64].into_iter().all(|n| emit::generate(&c, &[motion], &[], n).is_some()));
    }
    // The exponentials are computed once and wait in a row of scratch.
    let g = emit::generate(&c, &[Motion::Along], &[], 0).unwrap();
    assert_eq!(g.pointers, [super::Pointer::Output(0), super::Pointer::Input(0), super::Pointer::Scratch(0)]);
}

#[test]
fn divisions_by_one_number_a_row_are_exact() {
    if !available() {
        return;
    }
    let mut rng = Rng(14);
    let body = vec![Expr::Input(0), Expr::Input(1), Expr::Binary(BinaryFn::Div, 0, 1)];
    let c = Compiled::new(&FusedProgram { inputs: vec![DType::F32; 2], body, outputs: vec![2] }, 1).unwrap();
    for columns in [40, 64, 200] {
        let rows = 1500;
        let [x, y] = [rows * columns, rows].map(|n| {
            // Significands next to powers of two are the hard ones.
            let mut v = |i: usize| match i % 4 {
                0 => f32::from_bits(rng.next() as u32),
                1 => f32::from_bits(0x3f80_0000 + (rng.below(40) as u32) - 20),
                2 => f32::from_bits((rng.next() as u32 & 0x807f_ffff) | (127 - 45 + rng.below(90) as u32) << 23),
                _ => [0.0, -0.0, f32::INFINITY, 1e-42, 1.0, 3.0][rng.below(6)],
            };
            Tensor::new_float(TensorType::new(DType::F32, [n]), (0..n).map(|i| f64::from(v(i))).collect())
        });
        let (x, y) = (Store::dense(&x), Store::dense(&y));
        let by_row = Layout { base: 0, dims: [rows, columns].as_slice().into(), strides: [1, 0].as_slice().into() };
        let inputs = [Operand::Read(x.view_as(Layout::dense(&[rows, columns]))), Operand::Read(y.view_as(by_row))];
        let out = Store::empty(DType::F32, Layout::dense(&[rows, columns]), rows * columns);
        let [a, b] = both(&c, &[rows, columns], &[], &inputs, &[out]);
        assert!(was_compiled(&c) && bits(&a[0]) == bits(&b[0]), "{columns} columns");
    }
}
