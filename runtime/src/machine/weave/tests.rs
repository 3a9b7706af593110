//! Woven programs do what the dies do, and less of it.

use super::{weave, weave_within};
use crate::session::{Inputs, RuntimeOptions, Session};
use crate::testing::{Builder, at, deadlocked, gemm, halo, literal, partial_sums, relu_mul_add, wait, weights};
use girih_ir::axes::{Box as Part, full_box};
use girih_ir::fused::FusedProgram;
use girih_ir::literal::Literal;
use girih_ir::program::instr::Queue;
use girih_ir::program::{Instr, PortId, Program, Region};
use girih_ir::scalar::Monoid;
use girih_ir::target::Direction;
use girih_ir::types::Dims;
use std::collections::BTreeMap;

/// Outputs of three steps and the state behind them.
fn trajectory(program: &Program, threads: usize, together: bool) -> Vec<BTreeMap<String, Literal>> {
    let mut s = Session::with(program.clone(), RuntimeOptions { threads, isa: None }, together).unwrap();
    s.init(&weights(program)).unwrap();
    let inputs: Inputs = s.inputs().iter().map(|(n, ty)| (n.to_string(), literal(7, &ty.shape))).collect();
    let mut all: Vec<_> = (0..3).map(|_| s.run(&inputs).unwrap()).collect();
    all.push(s.all_state().unwrap());
    all
}

fn check(program: &Program) -> Vec<Instr> {
    let want = trajectory(program, 1, false);
    for threads in [1, 2, 3, 8] {
        assert_eq!(trajectory(program, threads, true), want, "{threads} threads");
    }
    weave(program).expect("the streams are understood").program.streams.swap_remove(0)
}

fn count(stream: &[Instr], name: &str) -> usize {
    stream.iter().filter(|i| i.name() == name).count()
}

const M: usize = 6;
const N: usize = 32;

/// Two rows of two dies do the same: each die has half of the columns of `h` and half of the rows of `w`. In a loop the two of a row exchange their
/// halves, multiply, and carry what becomes of it; behind it, each adds what the other has. `spoil`: the second row changes its `h` first.
fn recurrence(spoil: bool) -> Program {
    let mut b = Builder::new(2, 2);
    let half = N / 2;
    let bytes = |n: usize| (n as u64 * 4).next_multiple_of(64);
    let h = 0;
    let w = h + bytes(M * half);
    let all = w + bytes(half * N);
    let t = all + bytes(M * N);
    let part = |p: usize| Region { strides: [N as i64, 1].into_iter().collect(), ..at(all + (p * half * 4) as u64, &[M, half]) };
    let columns = |p: usize| -> Part { [0..M, p * half..(p + 1) * half].into_iter().collect() };
    let rows = |p: usize| -> Part { [p * half..(p + 1) * half, 0..N].into_iter().collect() };
    b.state("h", &[M, N], (0..4).map(|d| (d as u32, columns(d % 2), at(h, &[M, half]))).collect());
    b.state("w", &[N, N], (0..4).map(|d| (d as u32, rows(d % 2), at(w, &[half, N]))).collect());
    let y = b.output("y", &[M, half]);
    let f = b.fused(relu_mul_add());
    let dims = Dims::from_slice(&[M, half]);
    let square = |out: u64, input: u64| Instr::Map {
        program: f,
        loops: dims.clone(),
        cols: 0,
        origin: Dims::from_slice(&[0, 0]),
        ins: vec![at(input, &[M, half]), at(input, &[M, half])],
        outs: vec![at(out, &[M, half])],
    };
    let dies = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(r, c)| b.die_id(r, c));
    let across = [0, 1, 2, 3].map(|d: usize| b.channel(dies[d], dies[d ^ 1], 1));
    for d in 0..4 {
        let p = d % 2;
        let side = if p == 0 { Direction::East } else { Direction::West };
        let mut stream = Vec::new();
        if spoil && d >= 2 {
            stream.push(square(h, h));
        }
        stream.extend([
            Instr::Loop { trips: Some(3), index: None, carries: vec![at(h, &[M, half])] },
            Instr::Send { port: PortId(0), region: at(h, &[M, half]) },
            Instr::Copy { out: part(p), input: at(h, &[M, half]) },
            Instr::Recv { port: PortId(0), out: part(1 - p) },
            wait(Queue::In(side), 1),
            gemm(at(t, &[M, half]), at(all, &[M, N]), at(w, &[half, N])),
            wait(Queue::Out(side), 1),
            square(h, t),
            Instr::EndLoop,
            Instr::Send { port: PortId(0), region: at(t, &[M, half]) },
            Instr::RecvAdd { port: PortId(0), out: at(h, &[M, half]), monoid: Monoid::Sum },
            wait(Queue::In(side), 1),
        ]);
        if d == 3 {
            stream.push(Instr::Store { host: y, part: full_box(&[M, half]), region: at(h, &[M, half]) });
        }
        stream.push(Instr::End);
        b.die(dies[d], t + bytes(M * half), &[across[d]], &[across[d ^ 1]], stream);
    }
    b.program
}

#[test]
fn dies_that_do_the_same_do_it_once() {
    let stream = check(&recurrence(false));
    assert_eq!((count(&stream, "gemm"), count(&stream, "loop")), (2, 1), "{stream:#?}");
    assert_eq!(count(&stream, "map"), 4, "one in the loop and one behind it for each half");
    assert!(count(&stream, "copy") <= 6, "{stream:#?}");
}

#[test]
fn dies_that_only_look_alike_are_told_apart() {
    let stream = check(&recurrence(true));
    assert_eq!((count(&stream, "gemm"), count(&stream, "loop")), (4, 1), "{stream:#?}");
}

#[test]
fn messages_are_read_where_they_are() {
    let stream = check(&partial_sums(16, 24, 40));
    assert_eq!((count(&stream, "copy"), count(&stream, "map")), (0, 1));
    check(&halo());
}

/// One die makes the columns of `h` in three panels, each of which travels while the next is made, and writes over them before the other die,
/// which has them in rows of `pitch` elements, reads them.
fn panels(pitch: usize) -> Program {
    let mut b = Builder::new(1, 2);
    let bytes = |n: usize| (n as u64 * 4).next_multiple_of(64);
    let w = bytes(M * N);
    let h = w + bytes(N * N);
    let z = h + bytes(M * N);
    let whole = |name: &str, b: &mut Builder, shape: &[usize], region| b.state(name, shape, vec![(0, full_box(shape), region)]);
    whole("x", &mut b, &[M, N], at(0, &[M, N]));
    whole("w", &mut b, &[N, N], at(w, &[N, N]));
    b.state("v", &[N, N], vec![(1, full_box(&[N, N]), at(w, &[N, N]))]);
    let (y, own) = (b.output("y", &[M, N]), b.output("own", &[M, N]));
    let f = b.fused(FusedProgram { outputs: vec![4, 5], ..relu_mul_add() });
    let dims = Dims::from_slice(&[M, N]);
    let dies = [b.die_id(0, 0), b.die_id(0, 1)];
    let channel = b.channel(dies[0], dies[1], 3);
    let columns = |offset: u64, row: usize, cols: std::ops::Range<usize>| Region {
        strides: [row as i64, 1].into_iter().collect(),
        ..at(offset + 4 * cols.start as u64, &[M, cols.len()])
    };
    let cuts = [0..11, 11..21, 21..N];
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for cut in &cuts {
        near.push(gemm(columns(h, N, cut.clone()), at(0, &[M, N]), at(w + 4 * (cut.start * N) as u64, &[cut.len(), N])));
        near.push(Instr::Send { port: PortId(0), region: columns(h, N, cut.clone()) });
        far.push(Instr::Recv { port: PortId(0), out: columns(h, pitch, cut.clone()) });
    }
    near.push(wait(Queue::Out(Direction::East), 3));
    near.push(Instr::Map {
        program: f,
        loops: dims.clone(),
        cols: 0,
        origin: Dims::from_slice(&[0, 0]),
        ins: vec![at(0, &[M, N]), at(0, &[M, N])],
        outs: vec![at(z, &[M, N]), at(h, &[M, N])],
    });
    near.extend([Instr::Store { host: own, part: full_box(&[M, N]), region: at(h, &[M, N]) }, Instr::End]);
    far.push(wait(Queue::In(Direction::West), 3));
    far.push(gemm(at(0, &[M, N]), columns(h, pitch, 0..N), at(w, &[N, N])));
    far.extend([Instr::Store { host: y, part: full_box(&[M, N]), region: at(0, &[M, N]) }, Instr::End]);
    b.die(dies[0], z + bytes(M * N), &[channel], &[], near);
    b.die(dies[1], h + bytes(M * pitch), &[], &[channel], far);
    b.program
}

#[test]
fn panels_that_are_written_over_before_others_read_them_are_kept() {
    let stream = check(&panels(N));
    assert_eq!((count(&stream, "gemm"), count(&stream, "copy")), (4, 0), "{stream:#?}");
    let stream = check(&panels(N + 5));
    assert_eq!(count(&stream, "gemm"), 4);
    assert!((1..=3).contains(&count(&stream, "copy")), "the rows have another distance: {stream:#?}");
}

#[test]
fn what_has_no_end_is_not_woven() {
    assert!(weave(&deadlocked()).is_none());
}

/// One die sends single elements from all over its memory to the other, which stores them.
fn crumbs(n: usize) -> Program {
    let mut b = Builder::new(1, 2);
    let (near, far) = (6, 6 * n + 2);
    let there = Region { strides: [far as i64, near as i64, 2].into_iter().collect(), ..at(0, &[n, n, 2]) };
    let (all, bytes) = (far * n, 4 * (2 * n * n) as u64);
    b.state("x", &[all], vec![(0, full_box(&[all]), at(0, &[all]))]);
    let y = b.output("y", &[n, n, 2]);
    let dies = [b.die_id(0, 0), b.die_id(0, 1)];
    let channel = b.channel(dies[0], dies[1], 1);
    b.die(dies[0], 4 * all as u64, &[channel], &[], vec![Instr::Send { port: PortId(0), region: there }, Instr::End]);
    let out = at(0, &[n, n, 2]);
    let stream = vec![
        Instr::Recv { port: PortId(0), out: out.clone() },
        wait(Queue::In(Direction::West), 1),
        Instr::Store { host: y, part: full_box(&[n, n, 2]), region: out },
        Instr::End,
    ];
    b.die(dies[1], bytes, &[], &[channel], stream);
    b.program
}

#[test]
fn what_would_take_too_long_to_follow_is_left_to_the_dies() {
    let program = recurrence(false);
    assert!(weave_within(&program, 10).is_none());
    check(&crumbs(8));
    let many = crumbs(70);
    assert!(weave(&many).is_none());
    let apart = trajectory(&many, 1, false);
    for threads in [1, 2, 3] {
        let session = Session::with(many.clone(), RuntimeOptions { threads, isa: None }, true).unwrap();
        assert!(!session.is_woven());
        assert_eq!(trajectory(&many, threads, true), apart);
    }
}
