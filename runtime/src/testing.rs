//! Hand-written programs for the tests of this crate.

use girih_ir::axes::{Box as Part, full_box};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::graph::Role;
use girih_ir::literal::Literal;
use girih_ir::program::instr::Queue;
use girih_ir::program::{
    Channel, ChannelId, ClaimId, DieCode, FusedId, HostId, HostTensor, HostUse, Instr, PortId, Program, Region, StateShard, StreamId,
};
use girih_ir::scalar::{BinaryFn, Monoid};
use girih_ir::step::StatePair;
use girih_ir::target::{Coord, DieId, Direction, Target};
use girih_ir::types::{DType, Dims, TensorType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A program under construction on a row or grid of dies.
pub struct Builder {
    pub program: Program,
}

pub fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// A dense f32 region.
pub fn at(offset: u64, shape: &[usize]) -> Region {
    Region::dense(offset, &f32s(shape))
}

/// Numbers in (−1, 1) that depend on `seed` only.
pub fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub fn literal(seed: u32, shape: &[usize]) -> Literal {
    Literal::from_f32(shape, &numbers(seed, shape.iter().product())).unwrap()
}

pub fn wait(queue: Queue, count: u32) -> Instr {
    Instr::Wait { queue, count }
}

pub fn gemm(out: Region, a: Region, b: Region) -> Instr {
    Instr::Gemm { out, a, b, batch: 0, contract: 1 }
}

impl Builder {
    /// A mesh of the training tile's dies.
    pub fn new(rows: u32, cols: u32) -> Self {
        let target = Target::builtin("dojo-tile").unwrap().with_mesh(rows, cols).unwrap();
        Builder { program: Program::bare("test", target) }
    }

    pub fn die_id(&self, row: u32, col: u32) -> DieId {
        self.program.target.die_at(Coord::new(row, col)).unwrap()
    }

    pub fn input(&mut self, name: &str, shape: &[usize]) -> HostId {
        let index = self.program.step.graph.inputs.len() as u32;
        self.program.step.graph.input(name, f32s(shape), Role::Data);
        self.host(name, shape, HostUse::Input(index))
    }

    pub fn output(&mut self, name: &str, shape: &[usize]) -> HostId {
        let index = self.program.step.graph.outputs.len() as u32;
        let value = self.program.step.graph.input(format!("{name} made"), f32s(shape), Role::State);
        self.program.step.graph.output(name, value);
        self.host(name, shape, HostUse::Output(index))
    }

    fn host(&mut self, name: &str, shape: &[usize], usage: HostUse) -> HostId {
        self.program.host.push(HostTensor { name: name.into(), ty: f32s(shape), usage });
        HostId::new(self.program.host.len() - 1)
    }

    pub fn state(&mut self, name: &str, shape: &[usize], shards: Vec<(u32, Part, Region)>) {
        let input = self.program.step.graph.inputs.len();
        self.program.step.graph.input(name, f32s(shape), Role::Param);
        self.program.step.state.push(StatePair { name: name.into(), input, output: None, role: Role::Param });
        self.program.state.push(shards.into_iter().map(|(die, part, region)| StateShard { die, part, region }).collect());
    }

    pub fn channel(&mut self, source: DieId, dest: DieId, depth: u32) -> ChannelId {
        let route = self.program.target.route(source, dest).unwrap();
        self.program.channels.push(Channel { source, dest, route, depth });
        ChannelId::new(self.program.channels.len() - 1)
    }

    pub fn fused(&mut self, fused: FusedProgram) -> FusedId {
        self.program.fused.push(Arc::new(fused));
        FusedId::new(self.program.fused.len() - 1)
    }

    pub fn die(&mut self, die: DieId, sram_used: u64, out: &[ChannelId], into: &[ChannelId], stream: Vec<Instr>) {
        let claims = vec![ClaimId(0); stream.len()];
        self.program.streams.push(stream);
        let stream = StreamId::new(self.program.streams.len() - 1);
        self.program.dies.push(DieCode { die, stream, claims, out_ports: out.to_vec(), in_ports: into.to_vec(), sram_used });
    }
}

/// `(x, y) → max(x · y, 0) + x`, row by row of nothing: a map.
pub fn relu_mul_add() -> FusedProgram {
    FusedProgram {
        inputs: vec![DType::F32, DType::F32],
        body: vec![
            Expr::Input(0),
            Expr::Input(1),
            Expr::Binary(BinaryFn::Mul, 0, 1),
            Expr::Const(DType::F32, 0f64.to_bits()),
            Expr::Binary(BinaryFn::Max, 2, 3),
            Expr::Binary(BinaryFn::Add, 4, 0),
        ],
        outputs: vec![5],
    }
}

/// One die: `y = x · wᵀ`, in place `y = max(y · bias, 0) + y`, `rows = Σ y`, both stored; then `w = w + w · w`, when positive.
pub fn alone(m: usize, n: usize, k: usize) -> Program {
    let mut b = Builder::new(1, 1);
    let (x, y, rows) = (b.input("x", &[m, k]), b.output("y", &[m, n]), b.output("rows", &[m]));
    let round = |v: usize| (v as u64 * 4).next_multiple_of(64);
    let (xa, wa) = (0, round(m * k));
    let (ba, ya) = (wa + round(n * k), wa + round(n * k) + round(n));
    let ra = ya + round(m * n);
    b.state("w", &[n, k], vec![(0, full_box(&[n, k]), at(wa, &[n, k]))]);
    b.state("bias", &[n], vec![(0, full_box(&[n]), at(ba, &[n]))]);
    let f = b.fused(relu_mul_add());
    let loops = |s: &[usize]| Dims::from_slice(s);
    let mut bias = at(ba, &[m, n]);
    bias.strides = [0, 1].into_iter().collect();
    let stream = vec![
        Instr::Load { host: x, part: full_box(&[m, k]), out: at(xa, &[m, k]) },
        wait(Queue::Load, 1),
        gemm(at(ya, &[m, n]), at(xa, &[m, k]), at(wa, &[n, k])),
        Instr::Map {
            program: f,
            loops: loops(&[m, n]),
            cols: 0,
            origin: loops(&[0, 0]),
            ins: vec![at(ya, &[m, n]), bias],
            outs: vec![at(ya, &[m, n])],
        },
        Instr::Reduce { monoid: Monoid::Sum, out: at(ra, &[m]), input: at(ya, &[m, n]) },
        Instr::Store { host: y, part: full_box(&[m, n]), region: at(ya, &[m, n]) },
        Instr::Store { host: rows, part: full_box(&[m]), region: at(ra, &[m]) },
        Instr::Map {
            program: f,
            loops: loops(&[n, k]),
            cols: 0,
            origin: loops(&[0, 0]),
            ins: vec![at(wa, &[n, k]), at(wa, &[n, k])],
            outs: vec![at(wa, &[n, k])],
        },
        wait(Queue::Store, 2),
        Instr::End,
    ];
    let die = b.die_id(0, 0);
    b.die(die, ra + round(m), &[], &[], stream);
    b.program
}

/// Two dies share `y[m,n] = x[m,k] · w[n,k]ᵀ` along `k`; die 1 sends its partial product, die 0 adds and stores it.
pub fn partial_sums(m: usize, n: usize, k: usize) -> Program {
    let mut b = Builder::new(1, 2);
    let (x, y) = (b.input("x", &[m, 2 * k]), b.output("y", &[m, n]));
    let round = |v: usize| (v as u64 * 4).next_multiple_of(64);
    let (wa, ya) = (round(m * k), round(m * k) + round(n * k));
    let half = |d: usize| -> Part { [0..n, d * k..(d + 1) * k].into_iter().collect() };
    b.state("w", &[n, 2 * k], vec![(0, half(0), at(wa, &[n, k])), (1, half(1), at(wa, &[n, k]))]);
    let (d0, d1) = (b.die_id(0, 0), b.die_id(0, 1));
    let ch = b.channel(d1, d0, 1);
    let head = |d: usize| {
        let part: Part = [0..m, d * k..(d + 1) * k].into_iter().collect();
        vec![
            Instr::Load { host: x, part, out: at(0, &[m, k]) },
            wait(Queue::Load, 1),
            gemm(at(ya, &[m, n]), at(0, &[m, k]), at(wa, &[n, k])),
        ]
    };
    let mut first = head(0);
    first.extend([
        Instr::RecvAdd { port: PortId(0), out: at(ya, &[m, n]), monoid: Monoid::Sum },
        wait(Queue::In(Direction::East), 1),
        Instr::Store { host: y, part: full_box(&[m, n]), region: at(ya, &[m, n]) },
        Instr::End,
    ]);
    let mut second = head(1);
    second.extend([Instr::Send { port: PortId(0), region: at(ya, &[m, n]) }, wait(Queue::Out(Direction::West), 1), Instr::End]);
    b.die(d0, ya + round(m * n), &[], &[ch], first);
    b.die(d1, ya + round(m * n), &[ch], &[], second);
    b.program
}

/// Three dies in a row hold 4 numbers each with a halo of one on both sides (zero at the ends); state `u` becomes `u[i−1] · u[i]`, when
/// positive, plus `u[i−1]`, and is stored.
pub fn halo() -> Program {
    let mut b = Builder::new(1, 3);
    let out = b.output("u out", &[12]);
    // Layout of a die: left halo at 0, own numbers at 4..20, right halo at 20, result at 64.
    b.state("u", &[12], (0..3).map(|d| (d as u32, Part::from_iter([4 * d..4 * d + 4]), at(4, &[4]))).collect());
    let f = b.fused(relu_mul_add());
    let dies = [0, 1, 2].map(|c| b.die_id(0, c));
    let east = [b.channel(dies[0], dies[1], 1), b.channel(dies[1], dies[2], 1)];
    let west = [b.channel(dies[1], dies[0], 1), b.channel(dies[2], dies[1], 1)];
    for d in 0..3usize {
        let (mut outs, mut ins, mut stream) = (Vec::new(), Vec::new(), Vec::new());
        let edge = |at_end: bool, offset| if at_end { Instr::Fill { out: at(offset, &[1]), bits: 0 } } else { Instr::End };
        for (end, offset) in [(d == 0, 0), (d == 2, 20)] {
            if end {
                stream.push(edge(true, offset));
            }
        }
        if d < 2 {
            outs.push(east[d]);
            stream.push(Instr::Send { port: PortId(outs.len() as u32 - 1), region: at(16, &[1]) });
        }
        if d > 0 {
            outs.push(west[d - 1]);
            stream.push(Instr::Send { port: PortId(outs.len() as u32 - 1), region: at(4, &[1]) });
        }
        if d > 0 {
            ins.push(east[d - 1]);
            stream.push(Instr::Recv { port: PortId(ins.len() as u32 - 1), out: at(0, &[1]) });
            stream.push(wait(Queue::In(Direction::West), 1));
        }
        if d < 2 {
            ins.push(west[d]);
            stream.push(Instr::Recv { port: PortId(ins.len() as u32 - 1), out: at(20, &[1]) });
            stream.push(wait(Queue::In(Direction::East), 1));
            stream.push(wait(Queue::Out(Direction::East), 1));
        }
        if d > 0 {
            stream.push(wait(Queue::Out(Direction::West), 1));
        }
        stream.push(Instr::Map {
            program: f,
            loops: Dims::from_slice(&[4]),
            cols: 0,
            origin: Dims::from_slice(&[0]),
            ins: vec![at(0, &[4]), at(4, &[4])],
            outs: vec![at(64, &[4])],
        });
        stream.push(Instr::Copy { out: at(4, &[4]), input: at(64, &[4]) });
        stream.push(Instr::Store { host: out, part: Part::from_iter([4 * d..4 * d + 4]), region: at(64, &[4]) });
        stream.push(Instr::End);
        b.die(dies[d], 80, &outs, &ins, stream);
    }
    b.program
}

/// Two dies that each want to receive before they send.
pub fn deadlocked() -> Program {
    let mut b = Builder::new(1, 2);
    let (d0, d1) = (b.die_id(0, 0), b.die_id(0, 1));
    let (there, back) = (b.channel(d0, d1, 1), b.channel(d1, d0, 1));
    let stream = |side| {
        vec![
            Instr::Recv { port: PortId(0), out: at(0, &[4]) },
            wait(Queue::In(side), 1),
            Instr::Send { port: PortId(0), region: at(64, &[4]) },
            Instr::End,
        ]
    };
    b.die(d0, 128, &[there], &[back], stream(Direction::East));
    b.die(d1, 128, &[back], &[there], stream(Direction::West));
    b.program
}

/// Initial state of a program, from its position.
pub fn weights(program: &Program) -> BTreeMap<String, Literal> {
    let step = &program.step;
    step.state.iter().enumerate().map(|(i, p)| (p.name.clone(), literal(100 + i as u32, &step.state_type(p).shape))).collect()
}
