//! Hand-written programs with loops for the tests of this crate.

use crate::testing::{Builder, at, relu_mul_add, wait};
use girih_ir::axes::full_box;
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::program::instr::Queue;
use girih_ir::program::{FusedId, Instr, PortId, Program, Region};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::target::Direction;
use girih_ir::types::{DType, Dims, TensorType};

/// A scalar in SRAM.
pub fn scalar(offset: u64, dtype: DType) -> Region {
    Region::dense(offset, &TensorType::new(dtype, [0usize; 0]))
}

fn spread(mut region: Region, n: usize) -> Region {
    region.dims = Dims::from_slice(&[n]);
    region.strides = [0].into_iter().collect();
    region
}

pub fn begin(trips: Option<u64>, index: Option<u64>, carries: &[Region]) -> Instr {
    Instr::Loop { trips, index: index.map(|o| scalar(o, DType::I64)), carries: carries.to_vec() }
}

fn map(program: FusedId, n: usize, ins: Vec<Region>, outs: Vec<Region>) -> Instr {
    Instr::Map { program, loops: Dims::from_slice(&[n]), cols: 0, origin: Dims::from_slice(&[0]), ins, outs }
}

fn real(v: f64) -> Expr {
    Expr::Const(DType::F32, v.to_bits())
}

/// `(acc, i, x, s) → acc / 2 + i · x + s / n`.
fn blend(n: usize) -> FusedProgram {
    FusedProgram {
        inputs: vec![DType::F32, DType::I64, DType::F32, DType::F32],
        body: vec![
            Expr::Input(0),
            real(0.5),
            Expr::Binary(BinaryFn::Mul, 0, 1),
            Expr::Input(1),
            Expr::Convert(DType::F32, 3),
            Expr::Input(2),
            Expr::Binary(BinaryFn::Mul, 4, 5),
            Expr::Binary(BinaryFn::Add, 2, 6),
            Expr::Input(3),
            real((1.0 / n as f32).into()),
            Expr::Binary(BinaryFn::Mul, 8, 9),
            Expr::Binary(BinaryFn::Add, 7, 10),
        ],
        outputs: vec![11],
    }
}

/// What [`blend`] makes of `acc` in iteration `i`.
pub fn blended(acc: &mut [f64], i: u64, x: &[f64]) {
    let mean = acc.iter().sum::<f64>() / acc.len() as f64;
    acc.iter_mut().zip(x).for_each(|(a, x)| *a = *a / 2.0 + i as f64 * x + mean);
}

/// Where the vectors of a program of one die are.
struct Plan {
    acc: Region,
    x: Region,
    end: u64,
}

fn plan(b: &mut Builder, n: usize) -> Plan {
    let size = (n as u64 * 4).next_multiple_of(64);
    let (acc, x) = (at(64, &[n]), at(64 + size, &[n]));
    b.state("acc", &[n], vec![(0, full_box(&[n]), acc.clone())]);
    b.state("x", &[n], vec![(0, full_box(&[n]), x.clone())]);
    Plan { acc, x, end: 64 + 2 * size }
}

/// `s = Σ acc` at 32, then a [`blend`] with the number at `index`.
fn body(f: FusedId, p: &Plan, n: usize, index: u64) -> [Instr; 2] {
    let (sum, number) = (scalar(32, DType::F32), spread(scalar(index, DType::I64), n));
    let ins = vec![p.acc.clone(), number, p.x.clone(), spread(sum.clone(), n)];
    [Instr::Reduce { monoid: Monoid::Sum, out: sum, input: p.acc.clone() }, map(f, n, ins, vec![p.acc.clone()])]
}

/// One die blends `trips` times; the state `acc` is the result.
pub fn counted(n: usize, trips: u64) -> Program {
    let mut b = Builder::new(1, 1);
    let p = plan(&mut b, n);
    let f = b.fused(blend(n));
    let mut stream = vec![begin(Some(trips), Some(0), std::slice::from_ref(&p.acc))];
    stream.extend(body(f, &p, n, 0));
    stream.extend([Instr::EndLoop, Instr::End]);
    let die = b.die_id(0, 0);
    b.die(die, p.end, &[], &[], stream);
    b.program
}

/// `outer` times: blends `inner` times with the inner number, then once with the outer.
pub fn nested(n: usize, outer: u64, inner: u64) -> Program {
    let mut b = Builder::new(1, 1);
    let p = plan(&mut b, n);
    let f = b.fused(blend(n));
    let carries = std::slice::from_ref(&p.acc);
    let mut stream = vec![begin(Some(outer), Some(0), carries), begin(Some(inner), Some(8), carries)];
    stream.extend(body(f, &p, n, 8));
    stream.push(Instr::EndLoop);
    stream.extend(body(f, &p, n, 0));
    stream.extend([Instr::EndLoop, Instr::End]);
    let die = b.die_id(0, 0);
    b.die(die, p.end, &[], &[], stream);
    b.program
}

/// The Collatz sequence from `from` (at 16) down to 1; the state `steps` counts, and every step blends with `v` itself as the number.
pub fn collatz(n: usize, from: u64) -> Program {
    let mut b = Builder::new(1, 1);
    let p = plan(&mut b, n);
    b.state("steps", &[1], vec![(0, full_box(&[1]), at(48, &[1]))]);
    let f = b.fused(blend(n));
    let number = |v: u64| Expr::Const(DType::I64, v);
    let not_one = b.fused(FusedProgram {
        inputs: vec![DType::I64],
        body: vec![Expr::Input(0), number(1), Expr::Compare(CompareFn::Ne, 0, 1)],
        outputs: vec![2],
    });
    let next = b.fused(FusedProgram {
        inputs: vec![DType::I64],
        body: vec![
            Expr::Input(0),
            number(2),
            Expr::Binary(BinaryFn::Div, 0, 1),
            Expr::Binary(BinaryFn::Mul, 2, 1),
            Expr::Compare(CompareFn::Eq, 3, 0),
            number(3),
            Expr::Binary(BinaryFn::Mul, 0, 5),
            number(1),
            Expr::Binary(BinaryFn::Add, 6, 7),
            Expr::Select(4, 2, 8),
        ],
        outputs: vec![9],
    });
    let one = b.fused(FusedProgram {
        inputs: vec![DType::F32],
        body: vec![Expr::Input(0), real(1.0), Expr::Binary(BinaryFn::Add, 0, 1)],
        outputs: vec![2],
    });
    let (v, flag) = (spread(scalar(16, DType::I64), 1), spread(scalar(24, DType::Bool), 1));
    let steps = spread(scalar(48, DType::F32), 1);
    let mut stream = vec![
        Instr::Fill { out: v.clone(), bits: from },
        begin(None, Some(0), &[v.clone(), p.acc.clone(), steps.clone()]),
        map(not_one, 1, vec![v.clone()], vec![flag]),
        Instr::ExitUnless { predicate: scalar(24, DType::Bool) },
    ];
    stream.extend(body(f, &p, n, 16));
    stream.extend([map(next, 1, vec![v.clone()], vec![v]), map(one, 1, vec![steps.clone()], vec![steps]), Instr::EndLoop, Instr::End]);
    let die = b.die_id(0, 0);
    b.die(die, p.end, &[], &[], stream);
    b.program
}

/// Two dies swap their `n` numbers `trips` times; each time a die makes `max(own · other, 0) + own` of them, die 1 after `extra` further maps.
pub fn swap(n: usize, trips: u64, extra: usize) -> Program {
    let mut b = Builder::new(1, 2);
    let dies = [b.die_id(0, 0), b.die_id(0, 1)];
    let size = (n as u64 * 4).next_multiple_of(64);
    let (own, other, scrap) = (at(64, &[n]), at(64 + size, &[n]), at(64 + 2 * size, &[n]));
    b.state("u", &[2 * n], (0..2).map(|d| (d as u32, std::iter::once(d * n..(d + 1) * n).collect(), own.clone())).collect());
    let ch = [b.channel(dies[0], dies[1], 1), b.channel(dies[1], dies[0], 1)];
    let f = b.fused(relu_mul_add());
    for (d, side) in [Direction::East, Direction::West].into_iter().enumerate() {
        let mut stream = vec![
            begin(Some(trips), Some(0), std::slice::from_ref(&own)),
            Instr::Send { port: PortId(0), region: own.clone() },
            Instr::Recv { port: PortId(0), out: other.clone() },
        ];
        let more = if d == 1 { extra } else { 0 };
        stream.extend((0..more).map(|_| map(f, n, vec![own.clone(), own.clone()], vec![scrap.clone()])));
        stream.extend([
            wait(Queue::In(side), 1),
            wait(Queue::Out(side), 1),
            map(f, n, vec![own.clone(), other.clone()], vec![own.clone()]),
            Instr::EndLoop,
            Instr::End,
        ]);
        b.die(dies[d], 64 + 3 * size, &ch[d..=d], &ch[1 - d..=1 - d], stream);
    }
    b.program
}

/// One die, or two of which the second waits for a message that the first sends after its loop, which never ends.
pub fn endless(dies: u32) -> Program {
    let mut b = Builder::new(1, dies);
    let ids: Vec<_> = (0..dies).map(|c| b.die_id(0, c)).collect();
    let mut stream = vec![
        Instr::Fill { out: scalar(8, DType::Bool), bits: 1 },
        begin(None, Some(0), &[]),
        Instr::ExitUnless { predicate: scalar(8, DType::Bool) },
        Instr::EndLoop,
    ];
    let ch: Vec<_> = (1..dies).map(|_| b.channel(ids[0], ids[1], 1)).collect();
    if dies > 1 {
        stream.push(Instr::Send { port: PortId(0), region: at(0, &[1]) });
    }
    stream.push(Instr::End);
    b.die(ids[0], 64, &ch, &[], stream);
    if dies > 1 {
        let take = vec![Instr::Recv { port: PortId(0), out: at(0, &[1]) }, wait(Queue::In(Direction::West), 1), Instr::End];
        b.die(ids[1], 64, &[], &ch, take);
    }
    b.program
}
