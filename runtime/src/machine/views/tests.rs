//! Streams with and without their copies do the same, and the copies are gone.

use super::{Line, views};
use crate::machine::loops::Loops;
use crate::session::{Inputs, RuntimeOptions, Session};
use crate::testing::{Builder, at, gemm, relu_mul_add, weights};
use girih_ir::axes::full_box;
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::program::{Channel, FusedId, Instr, LiteralId, Program, Region};
use girih_ir::scalar::BinaryFn;
use girih_ir::types::{DType, Dims, TensorType};
use std::sync::Arc;

const ROWS: usize = 24;
const COLS: usize = 128;
const SLAB: u64 = (ROWS * COLS * 4) as u64;

/// Addresses of a loop over a sequence, in order: numbers, then what it works on.
struct Map {
    index: u64,
    start: u64,
    zero: u64,
    weight: u64,
    carry: u64,
    taken: u64,
    product: u64,
    made: u64,
    stack: u64,
    xs: u64,
    end: u64,
}

fn map_of(trips: u64) -> Map {
    let weight = 64;
    let carry = weight + (COLS * COLS * 4) as u64;
    let at = |k: u64| carry + k * SLAB;
    Map {
        index: 0,
        start: 8,
        zero: 16,
        weight,
        carry,
        taken: at(1),
        product: at(2),
        made: at(3),
        stack: at(4),
        xs: at(4 + trips),
        end: at(4 + 2 * trips),
    }
}

fn number(offset: u64, dtype: DType) -> Region {
    Region::dense(offset, &TensorType::new(dtype, [0usize; 0]))
}

fn elementwise(program: FusedId, ins: [Region; 2], out: Region) -> Instr {
    Instr::Map { program, loops: out.dims.clone(), cols: 0, origin: Dims::new(), ins: ins.to_vec(), outs: vec![out] }
}

/// `h = relu(x·(h·w)) + x` over the slabs `x` of `xs`, from the last to the first when `back`; all `h` go into `stack`.
fn recurrence(trips: u64, back: bool, spoil: impl Fn(&Map, &mut Vec<Instr>)) -> Program {
    let mut b = Builder::new(1, 1);
    let m = map_of(trips);
    let shape = [ROWS, COLS];
    let slab = |offset: u64| at(offset, &shape);
    let whole = |offset: u64| at(offset, &[trips as usize, ROWS, COLS]);
    b.state("w", &[COLS, COLS], vec![(0, full_box(&[COLS, COLS]), at(m.weight, &[COLS, COLS]))]);
    b.state("h", &shape, vec![(0, full_box(&shape), slab(m.carry))]);
    let all = [trips as usize, ROWS, COLS];
    b.state("stack", &all, vec![(0, full_box(&all), whole(m.stack))]);
    b.state("xs", &all, vec![(0, full_box(&all), whole(m.xs))]);
    let last = Expr::Const(DType::I32, trips - 1);
    let body = match back {
        false => vec![Expr::Input(0), Expr::Convert(DType::I32, 0)],
        true => vec![Expr::Input(0), Expr::Convert(DType::I32, 0), last, Expr::Binary(BinaryFn::Sub, 2, 1)],
    };
    let outputs = vec![body.len() as u32 - 1];
    let counter = b.fused(FusedProgram { inputs: vec![DType::I64], body, outputs });
    let f = b.fused(relu_mul_add());
    b.program.literals.push(girih_ir::tensor::Tensor::scalar_int(DType::I32, 0).to_literal());
    let starts = || vec![number(m.start, DType::I32), number(m.zero, DType::I32), number(m.zero, DType::I32)];
    let one = |offset: u64| at(offset, &[1, ROWS, COLS]);
    let mut stream = vec![
        Instr::Constant { out: number(m.zero, DType::I32), literal: LiteralId(0), starts: Dims::new() },
        Instr::Fill { out: whole(m.stack), bits: 0 },
        Instr::Loop { trips: Some(trips), index: Some(number(m.index, DType::I64)), carries: vec![slab(m.carry), whole(m.stack)] },
        Instr::Map {
            program: counter,
            loops: Dims::new(),
            cols: 0,
            origin: Dims::new(),
            ins: vec![number(m.index, DType::I64)],
            outs: vec![number(m.start, DType::I32)],
        },
        Instr::DynamicSlice { out: one(m.taken), operand: whole(m.xs), starts: starts() },
        gemm(slab(m.product), slab(m.carry), at(m.weight, &[COLS, COLS])),
        elementwise(f, [slab(m.taken), slab(m.product)], slab(m.made)),
        Instr::DynamicUpdateSlice { out: whole(m.stack), operand: whole(m.stack), update: one(m.made), starts: starts() },
        Instr::Copy { out: slab(m.carry), input: slab(m.made) },
        Instr::EndLoop,
        Instr::End,
    ];
    spoil(&m, &mut stream);
    let die = b.die_id(0, 0);
    b.die(die, m.end, &[], &[], stream);
    b.program
}

fn lines(program: &Program) -> Vec<Line> {
    let state: Vec<Region> = program.state.iter().flatten().map(|s| s.region.clone()).collect();
    views(program, &program.streams[0], &Loops::of(&program.streams[0]).unwrap(), &state)
}

fn left(program: &Program) -> Vec<&'static str> {
    lines(program).iter().filter(|l| !l.gone).map(|l| l.instr.name()).collect()
}

/// All states after a step, as bits.
fn after(program: &Program, threads: usize) -> Vec<Vec<u32>> {
    let mut s = Session::of(program.clone(), RuntimeOptions { threads, isa: None }).unwrap();
    s.init(&weights(program)).unwrap();
    s.step(&Inputs::new()).unwrap();
    let names: Vec<&String> = program.step.state.iter().map(|p| &p.name).collect();
    names.iter().map(|n| s.state(n).unwrap().to_f32().unwrap().iter().map(|v| v.to_bits()).collect()).collect()
}

/// Mesh mode, which runs the stream as it is, and host mode agree.
fn same_results(program: &Program) {
    let mut meshed = program.clone();
    let die = meshed.dies[0].die;
    meshed.channels.push(Channel { source: die, dest: die, route: Vec::new(), depth: 1 });
    let want = after(&meshed, 1);
    for threads in [1, 2, 3, 8] {
        assert!(after(program, threads) == want, "{threads} threads");
    }
}

#[test]
fn slabs_are_read_and_written_in_place() {
    for (trips, back) in [(1, false), (2, true), (5, false), (6, true)] {
        let program = recurrence(trips, back, |_, _| {});
        assert_eq!(left(&program), ["constant", "loop", "gemm", "map", "copy", "end_loop", "end"], "{trips} {back}");
        same_results(&program);
        let moved = lines(&program).into_iter().find(|l| matches!(l.instr, Instr::Map { .. }) && !l.gone).unwrap();
        let step = if trips == 1 { 0 } else { SLAB as isize * if back { -1 } else { 1 } };
        assert_eq!((moved.motion.read(0), moved.motion.read(1), moved.motion.write(0)), (step, 0, step));
    }
}

#[test]
fn what_somebody_else_looks_at_is_copied() {
    let position = |stream: &[Instr], name: &str| stream.iter().position(|i| i.name() == name).unwrap();
    // The slab that was taken is looked at in the next iteration.
    let program = recurrence(4, false, |m, stream| {
        let i = position(stream, "dynamic_slice");
        stream.insert(i, Instr::Copy { out: at(m.product, &[ROWS, COLS]), input: at(m.taken, &[ROWS, COLS]) });
        stream.insert(i + 1, Instr::Concat { out: at(m.carry, &[ROWS, COLS]), dim: 0, ins: vec![at(m.product, &[ROWS, COLS])] });
    });
    assert!(lines(&program).iter().any(|l| !l.gone && matches!(&l.instr, Instr::Copy { .. }) && l.motion.read(0) != 0));
    same_results(&program);
    // The sequence changes between taking and using.
    let program = recurrence(4, true, |m, stream| {
        let i = position(stream, "gemm");
        stream.insert(i, Instr::Fill { out: at(m.xs + 64, &[ROWS]), bits: u64::from(2f32.to_bits()) });
    });
    assert!(lines(&program).iter().any(|l| !l.gone && l.motion.read(0) == -(SLAB as isize) && matches!(l.instr, Instr::Copy { .. })));
    same_results(&program);
    // The stack is read before its slab is written.
    let program = recurrence(3, false, |m, stream| {
        let i = position(stream, "gemm");
        stream.insert(i + 1, Instr::Copy { out: at(m.product, &[ROWS, COLS]), input: at(m.stack + SLAB, &[ROWS, COLS]) });
    });
    assert!(left(&program).contains(&"fill"), "it is looked at");
    same_results(&program);
    // What was made is looked at behind the loop.
    let program = recurrence(3, false, |m, stream| {
        let i = position(stream, "end");
        stream.insert(i, Instr::Copy { out: at(m.carry, &[ROWS, COLS]), input: at(m.made, &[ROWS, COLS]) });
    });
    assert!(lines(&program).iter().any(|l| !l.gone && l.motion.write(0) != 0 && matches!(l.instr, Instr::Copy { .. })));
    same_results(&program);
}

#[test]
fn starts_that_do_not_count_stay_dynamic() {
    let program = recurrence(4, false, |m, stream| {
        let Some(Instr::Map { ins, .. }) = stream.iter_mut().find(|i| matches!(i, Instr::Map { .. })) else { return };
        ins[0] = number(m.zero + 8, DType::I64);
    });
    assert!(left(&program).contains(&"dynamic_slice") && left(&program).contains(&"fill"));
    same_results(&program);
    // Quadratic, then clamped.
    let mut program = recurrence(5, false, |_, _| {});
    let body = vec![Expr::Input(0), Expr::Convert(DType::I32, 0), Expr::Binary(BinaryFn::Mul, 1, 1)];
    program.fused[0] = Arc::new(FusedProgram { inputs: vec![DType::I64], body, outputs: vec![2] });
    assert!(left(&program).contains(&"dynamic_update_slice") && left(&program).contains(&"fill"));
    same_results(&program);
}

#[test]
fn parts_of_rows_are_read_where_they_lie() {
    let half = |offset: u64| Region { strides: [COLS as i64, 1].into_iter().collect(), ..at(offset, &[ROWS, COLS / 2]) };
    let program = recurrence(4, false, |m, stream| {
        let i = stream.iter().position(|i| i.name() == "gemm").unwrap();
        let (left, right) = (at(m.taken, &[ROWS, COLS / 2]), at(m.taken + SLAB / 2, &[ROWS, COLS / 2]));
        stream.insert(i + 1, Instr::Copy { out: left.clone(), input: half(m.product) });
        stream.insert(i + 2, Instr::Copy { out: right.clone(), input: half(m.product + COLS as u64 * 2) });
        let Instr::Map { program, .. } = stream[i + 3] else { return };
        stream[i + 3] = elementwise(program, [left, right], half(m.made));
        stream.insert(i + 4, Instr::Fill { out: half(m.made + COLS as u64 * 2), bits: 0 });
    });
    let kept = left(&program);
    assert_eq!(kept.iter().filter(|n| **n == "copy").count(), 2, "the carry, and the slab that two make: {kept:?}");
    same_results(&program);
}
