//! Hand-written programs, and damage to them. Whether damage matters is decided by running it: a small executor that chooses any
//! allowed order of events, with garbage in fresh memory, against the reference interpreter.

use super::mutate::mutants;
use super::*;
use crate::interp::eval;
use crate::program::instr::WindowDims;
use crate::program::{HostUse, Instr, Program, Region, parse_program};
use crate::tensor::{Data, Tensor, indices};
use crate::types::{DType, Dims, TensorType};
use trace::{QUEUES, queue_index};

pub(super) const SAMPLES: [(&str, &str); 7] = [
    ("matmul", include_str!("samples/matmul.txt")),
    ("halo", include_str!("samples/halo.txt")),
    ("all_gather", include_str!("samples/all_gather.txt")),
    ("loop", include_str!("samples/loop.txt")),
    ("nested", include_str!("samples/nested.txt")),
    ("while", include_str!("samples/while.txt")),
    ("streamed", include_str!("samples/streamed.txt")),
];

pub(super) fn sample(name: &str) -> Program {
    let text = SAMPLES.iter().find(|(n, _)| *n == name).unwrap().1;
    parse_program(text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Deterministic random numbers.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// One die while it runs: f32 memory, position, queues.
struct Die {
    memory: Vec<f32>,
    at: usize,
    issued: [Vec<usize>; QUEUES],
    done: [usize; QUEUES],
    /// Entries done at the last fence.
    base: [usize; QUEUES],
    /// The loops that it is in: where they begin, and the number of the iteration.
    loops: Vec<(usize, u64)>,
}

/// A program that has not ended after this many events never will: some damage makes endless loops.
const MAX_EVENTS: usize = 50_000;

/// A run of a program with any order of events.
struct Run<'p> {
    program: &'p Program,
    trace: Trace,
    dies: Vec<Die>,
    channels: Vec<Vec<Vec<f32>>>,
    /// What loads read, and what stores write.
    host: Vec<Vec<f32>>,
    next: Vec<Vec<f32>>,
}

fn places(r: &Region) -> Vec<usize> {
    indices(&r.dims)
        .map(|i| {
            let shift: i64 = i.iter().zip(&r.strides).map(|(i, s)| *i as i64 * s).sum();
            (r.offset as i64 / 4 + shift) as usize
        })
        .collect()
}

fn box_places(shape: &[usize], part: &[std::ops::Range<usize>]) -> Vec<usize> {
    let dims = crate::axes::box_dims(part);
    let at = |i: Dims| -> Dims { i.iter().zip(part).map(|(i, r)| i + r.start).collect() };
    indices(&dims).map(|i| crate::tensor::position(shape, &at(i))).collect()
}

impl<'p> Run<'p> {
    fn new(program: &'p Program, inputs: &[Vec<f32>], dice: &mut Dice) -> Self {
        let dies = program.dies.iter().map(|c| Die {
            memory: (0..c.sram_used as usize / 4 + 64).map(|_| 1000.0 + dice.below(1000) as f32).collect(),
            at: 0,
            issued: Default::default(),
            done: [0; QUEUES],
            base: [0; QUEUES],
            loops: Vec::new(),
        });
        let host = program.host.iter().map(|h| match h.usage {
            HostUse::Input(n) => inputs[n as usize].clone(),
            HostUse::Output(_) => vec![f32::NAN; h.ty.elements()],
            HostUse::State(p) => inputs[program.step.state[p as usize].input].clone(),
        });
        let mut run = Run {
            program,
            trace: Trace::new(program),
            dies: dies.collect(),
            channels: vec![Vec::new(); program.channels.len()],
            next: program.host.iter().map(|h| vec![f32::NAN; h.ty.elements()]).collect(),
            host: host.collect(),
        };
        for (pair, shards) in program.step.state.iter().zip(&program.state) {
            for s in shards {
                let shape = &program.step.state_type(pair).shape;
                for (to, from) in places(&s.region).into_iter().zip(box_places(shape, &s.part)) {
                    run.dies[s.die as usize].memory[to] = inputs[pair.input][from];
                }
            }
        }
        run
    }

    fn stream(&self, d: usize) -> &'p [Instr] {
        &self.program.streams[self.program.dies[d].stream.index()]
    }

    fn read(&self, d: usize, r: &Region) -> Vec<f32> {
        places(r).into_iter().map(|p| self.dies[d].memory[p]).collect()
    }

    fn write(&mut self, d: usize, r: &Region, values: &[f32]) {
        for (p, v) in places(r).into_iter().zip(values) {
            self.dies[d].memory[p] = *v;
        }
    }

    /// Runs to the end; false when it is stuck.
    fn finish(&mut self, dice: &mut Dice) -> bool {
        for _ in 0..MAX_EVENTS {
            let mut can: Vec<(usize, Option<usize>)> = Vec::new();
            let mut over = true;
            for d in 0..self.dies.len() {
                let die = &self.dies[d];
                if let Some(instr) = self.stream(d).get(die.at) {
                    over = false;
                    match instr {
                        Instr::Wait { queue, count } if die.done[queue_index(*queue)] < die.base[queue_index(*queue)] + *count as usize => {
                        }
                        fence if fence.is_fence() && (0..QUEUES).any(|q| die.done[q] < die.issued[q].len()) => {}
                        _ => can.push((d, None)),
                    }
                }
                for q in 0..QUEUES {
                    if let Some(i) = die.issued[q].get(die.done[q]) {
                        over = false;
                        if self.can_complete(d, *i) {
                            can.push((d, Some(q)));
                        }
                    }
                }
            }
            if can.is_empty() {
                return over;
            }
            let (d, queue) = can[dice.below(can.len())];
            match queue {
                None => self.issue(d),
                Some(q) => {
                    let i = self.dies[d].issued[q][self.dies[d].done[q]];
                    self.complete(d, i);
                    self.dies[d].done[q] += 1;
                }
            }
        }
        false
    }

    fn fence(&mut self, d: usize, i: usize) {
        self.dies[d].base = self.dies[d].done;
        let stream = self.stream(d);
        let (begin, iteration) = match &stream[i] {
            Instr::Loop { .. } => (i, 0),
            Instr::ExitUnless { predicate } => {
                if self.read(d, predicate)[0] != 0.0 {
                    return;
                }
                (self.dies[d].loops.pop().unwrap().0, u64::MAX)
            }
            _ => self.dies[d].loops.pop().map(|(begin, n)| (begin, n + 1)).unwrap(),
        };
        let Instr::Loop { trips, index, .. } = &stream[begin] else { unreachable!("loops begin at `loop`") };
        if iteration < trips.unwrap_or(u64::MAX) {
            if let Some(region) = index {
                self.write(d, region, &[iteration as f32]);
            }
            self.dies[d].loops.push((begin, iteration));
            self.dies[d].at = begin + 1;
            return;
        }
        let mut depth = 0;
        let end = (begin..stream.len()).find(|j| {
            depth += i32::from(matches!(stream[*j], Instr::Loop { .. })) - i32::from(matches!(stream[*j], Instr::EndLoop));
            depth == 0
        });
        self.dies[d].at = end.unwrap() + 1;
    }

    fn channel(&self, d: usize, i: usize) -> usize {
        self.trace.dies[d].queued[i].unwrap().message.unwrap().0 as usize
    }

    fn can_complete(&self, d: usize, i: usize) -> bool {
        match &self.stream(d)[i] {
            Instr::Send { .. } => {
                let ch = self.channel(d, i);
                self.channels[ch].len() < self.program.channels[ch].depth as usize
            }
            Instr::Recv { .. } | Instr::RecvAdd { .. } => !self.channels[self.channel(d, i)].is_empty(),
            _ => true,
        }
    }

    fn issue(&mut self, d: usize) {
        let i = self.dies[d].at;
        self.dies[d].at += 1;
        if self.stream(d)[i].is_fence() {
            return self.fence(d, i);
        }
        match self.trace.dies[d].queued[i] {
            Some(q) => self.dies[d].issued[q.queue as usize].push(i),
            None => self.compute(d, i),
        }
    }

    fn complete(&mut self, d: usize, i: usize) {
        match &self.stream(d)[i] {
            Instr::Send { region, .. } => {
                let ch = self.channel(d, i);
                let message = self.read(d, region);
                self.channels[ch].push(message);
            }
            Instr::Recv { out, .. } => {
                let ch = self.channel(d, i);
                let message = self.channels[ch].remove(0);
                self.write(d, out, &message);
            }
            Instr::RecvAdd { out, monoid, .. } => {
                let ch = self.channel(d, i);
                let message = self.channels[ch].remove(0);
                let f = |a: f32, b: f32| if *monoid == crate::scalar::Monoid::Sum { a + b } else { a.max(b) };
                let sum: Vec<f32> = self.read(d, out).into_iter().zip(message).map(|(a, b)| f(a, b)).collect();
                self.write(d, out, &sum);
            }
            Instr::Load { host, part, out } => {
                let shape = &self.program.host[host.index()].ty.shape;
                let values: Vec<f32> = box_places(shape, part).into_iter().map(|p| self.host[host.index()][p]).collect();
                self.write(d, out, &values);
            }
            Instr::Store { host, part, region } => {
                let shape = &self.program.host[host.index()].ty.shape;
                for (p, v) in box_places(shape, part).into_iter().zip(self.read(d, region)) {
                    self.next[host.index()][p] = v;
                }
            }
            _ => {}
        }
    }

    fn compute(&mut self, d: usize, i: usize) {
        match &self.stream(d)[i] {
            Instr::Gemm { out, a, b, .. } => {
                let (x, y, (m, n, k)) = (self.read(d, a), self.read(d, b), (a.dims[0], b.dims[0], a.dims[1]));
                let cell = |c: usize| (0..k).map(|t| x[c / n * k + t] * y[c % n * k + t]).sum();
                let product: Vec<f32> = (0..m * n).map(cell).collect();
                self.write(d, out, &product);
            }
            Instr::Map { program, ins, outs, .. } => {
                let fused = &self.program.fused[program.index()];
                let ins: Vec<Vec<f32>> = ins.iter().map(|r| self.read(d, r)).collect();
                let point = |p: usize| match fused.body.last() {
                    Some(crate::fused::Expr::Unary(..)) => -ins[0][p],
                    Some(crate::fused::Expr::Binary(f, ..)) if f.name() == "add" => ins[0][p] + ins[1][p],
                    Some(crate::fused::Expr::Compare(..)) => f32::from(u8::from(ins[0][p] < ins[1][p])),
                    Some(crate::fused::Expr::Convert(..)) => ins[0][p],
                    _ => ins[0][p] - ins[1][p],
                };
                let values: Vec<f32> = (0..ins[0].len()).map(point).collect();
                self.write(d, &outs[0], &values);
            }
            Instr::Reduce { out, input, monoid } => {
                let x = self.read(d, input);
                let n = x.len() / out.elements().max(1);
                let f = |a: f32, b: &f32| if *monoid == crate::scalar::Monoid::Sum { a + b } else { a.max(*b) };
                let start = if *monoid == crate::scalar::Monoid::Sum { 0.0 } else { f32::NEG_INFINITY };
                let values: Vec<f32> = x.chunks(n.max(1)).map(|c| c.iter().fold(start, f)).collect();
                self.write(d, out, &values);
            }
            Instr::ReduceWindow { out, input, window, monoid } => {
                let values = pool(&self.read(d, input), input, out, window, *monoid == crate::scalar::Monoid::Sum);
                self.write(d, out, &values);
            }
            Instr::Copy { out, input } => {
                let values = self.read(d, input);
                self.write(d, out, &values);
            }
            Instr::Fill { out, bits } => self.write(d, out, &vec![f32::from_bits(*bits as u32); out.elements()]),
            _ => {}
        }
    }
}

/// Pools along dimension 0 of rank 2 with windows of three.
fn pool(x: &[f32], input: &Region, out: &Region, w: &WindowDims, sum: bool) -> Vec<f32> {
    indices(&out.dims)
        .map(|o| {
            let rows = (0..3).filter_map(|k| usize::try_from(o[0] as i64 + k - w.pad_low[0]).ok()).filter(|r| *r < input.dims[0]);
            let values = rows.map(|r| x[r * input.dims[1] + o[1]]);
            if sum { values.sum() } else { values.fold(f32::NEG_INFINITY, f32::max) }
        })
        .collect()
}

/// Whether the program ends with the reference results, in several random orders of events.
pub(super) fn behaves(program: &Program, dice: &mut Dice) -> bool {
    let graph = &program.step.graph;
    let inputs: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|i| {
            let ty: TensorType = graph.tensor_ty(i.value).clone();
            let values = (0..ty.elements()).map(|_| dice.below(41) as f64 - 20.0).collect();
            Tensor::new_float(ty, values)
        })
        .collect();
    let want = eval(graph, &inputs).unwrap();
    let floats = |t: &Tensor| match t.data() {
        Data::Float(v) => v.iter().map(|x| *x as f32).collect::<Vec<f32>>(),
        Data::Int(_) => Vec::new(),
    };
    let given: Vec<Vec<f32>> = inputs.iter().map(floats).collect();
    (0..12).all(|_| {
        let mut run = Run::new(program, &given, dice);
        if !run.finish(dice) {
            return false;
        }
        let outputs = program.step.result_outputs().into_iter().all(|o| {
            let stored = program.host.iter().position(|h| h.usage == HostUse::Output(o as u32));
            stored.is_some_and(|h| run.next[h] == floats(&want[o]))
        });
        outputs
            && program.step.state.iter().zip(&program.state).enumerate().all(|(p, (pair, shards))| {
                let new = pair.output.map_or(given[pair.input].clone(), |o| floats(&want[o]));
                if let Some(host) = program.streamed(p) {
                    return new
                        == if program.stored()[host.index()] { run.next[host.index()].clone() } else { run.host[host.index()].clone() };
                }
                let shape = &program.step.state_type(pair).shape;
                let covered = content::uncovered(crate::axes::full_box(shape), &shards.iter().map(|s| s.part.clone()).collect::<Vec<_>>());
                covered.is_none()
                    && shards.iter().all(|s| {
                        let held = run.read(s.die as usize, &s.region);
                        box_places(shape, &s.part).into_iter().map(|p| new[p]).eq(held)
                    })
            })
    })
}

#[test]
fn samples_pass_and_behave() {
    for (name, _) in SAMPLES {
        let program = sample(name);
        assert_eq!(program.host.iter().map(|h| h.ty.dtype).find(|d| *d != DType::F32), None);
        assert!(behaves(&program, &mut Dice(1)), "{name}");
        let verified = check(program).unwrap_or_else(|r| panic!("{name}:\n{r}"));
        assert!(verified.stats().traced_reads > 0 && verified.stats().messages > 0, "{:?}", verified.stats());
    }
}

#[test]
fn text_round_trips() {
    for (name, _) in SAMPLES {
        let program = sample(name);
        let text = program.to_string();
        let again = parse_program(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        assert_eq!(again, program, "{name}");
        assert_eq!(again.to_string(), text, "{name}");
    }
    insta::assert_snapshot!("matmul", sample("matmul"));
    insta::assert_snapshot!("nested", sample("nested"));
}

/// The soundness of the checker: a mutant that it accepts does exactly what the program did, in any order of events.
#[test]
fn harmful_mutants_are_refused() {
    let (mut killed, mut equivalent, mut harmless) = (0, 0, 0);
    for (name, _) in SAMPLES {
        let program = sample(name);
        for m in mutants(&program, 17, 400) {
            let mut dice = Dice(5);
            match check(m.program.clone()) {
                Ok(_) => {
                    assert!(behaves(&m.program, &mut dice), "{name}: a harmful mutant was accepted: {}", m.what);
                    equivalent += 1;
                }
                Err(report) => {
                    assert!(!report.findings.is_empty() && report.to_string().contains("E06"), "{report}");
                    killed += 1;
                    let runs = m.program.validate().is_ok() && !report.findings.iter().any(|f| f.fault.code() <= "E0606");
                    harmless += usize::from(runs && behaves(&m.program, &mut dice));
                }
            }
        }
    }
    let total = killed + equivalent;
    println!(
        "{total} mutants: {killed} refused, {equivalent} accepted and all equivalent; {harmless} refused only for their claims or order"
    );
    assert!(total >= 1800, "only {total} mutants");
    assert!(killed * 100 >= total * 85, "{killed} of {total}");
}

#[test]
fn findings_explain_themselves() {
    let text = SAMPLES[0].1;
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "the sample has no `{from}`");
        let program = parse_program(&text.replacen(from, to, 1)).unwrap_or_else(|e| panic!("{e}"));
        check(program).map(|_| ()).expect_err("it is broken").to_string()
    };
    let cases = [
        ("count=1\n  0006", "count=0\n  0006"),
        ("[4..8,0..6]\ndie", "[0..4,0..6]\ndie"),
        ("monoid=sum", "monoid=max"),
        ("sram 512 out []", "sram 400 out []"),
        ("depth 2 via (0,1):W", "depth 2 via (0,1):N"),
        ("0x100 f32[4,6] port=c0\n  0004", "0x108 f32[4,6] port=c0\n  0004"),
        ("output 0\nstate", "output 1\nstate"),
        ("queue=in.E count=1", "queue=in.E count=2"),
    ];
    let all: Vec<String> = cases.iter().map(|(from, to)| format!("{:?} -> {:?}\n{}", from, to, refused(from, to))).collect();
    insta::assert_snapshot!("findings", all.join("\n\n"));
}

/// The matrix product of the samples in bf16, whose parts are carried in f32 and rounded when they are together.
const SUMS: &str = "program \"sums\"
target \"dojo-tile\"
step { param \"w\" input 1 -> output 1 seed 0 }
graph @sums(%0: bf16[4,8] input \"x\", %1: bf16[8,6] param \"w\") {
  %2 = dot_general %0, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %3 = neg %2
  return %3 \"y\", %1 \"w\"
}
channel ch0 (0,1) -> (0,0) depth 2 via (0,1):W
host h0 \"x\" bf16[4,8] input 0
host h1 \"y\" bf16[4,6] output 0
state 0 on 0 [0..4,0..6] 0x0 bf16[4,6]
state 0 on 1 [4..8,0..6] 0x0 bf16[4,6]
fused f0 {in bf16; s1 = neg s0; out s1}
fused f1 {in f32; s1 = convert bf16 s0; out s1}
claim0 control
claim1 move %0.0 [0..4,0..4]
claim2 compute %2 [0..4,0..6,0..4]
claim3 move %2.0 [0..4,0..6]
claim4 compute %3 [0..4,0..6]
claim5 move %3.0 [0..4,0..6]
claim6 move %0.0 [0..4,4..8]
claim7 compute %2 [0..4,0..6,4..8]
die (0,0) stream s0 sram 1024 out [] in [ch0] claims [1,0,2,3,0,3,4,5,0] {
  0  load      0x80 bf16[4,4] host=h0 part=[0..4,0..4]
  1  wait      queue=load count=1
  2  gemm      0x100 f32[4,6] = 0x80 bf16[4,4], 0x0 bf16[6,4]{1,6} batch=0 contract=1
  3  recv_add  0x100 f32[4,6] port=c0 monoid=sum
  4  wait      queue=in.E count=1
  5  map       0x180 bf16[4,6] = 0x100 f32[4,6] program=f1 loops=[4,6] cols=0 origin=[0,0]
  6  map       0x1c0 bf16[4,6] = 0x180 bf16[4,6] program=f0 loops=[4,6] cols=0 origin=[0,0]
  7  store     0x1c0 bf16[4,6] host=h1 part=[0..4,0..6]
  8  end
}
die (0,1) stream s1 sram 1024 out [ch0] in [] claims [6,0,7,3,0] {
  0  load      0x80 bf16[4,4] host=h0 part=[0..4,4..8]
  1  wait      queue=load count=1
  2  gemm      0x100 f32[4,6] = 0x80 bf16[4,4], 0x0 bf16[6,4]{1,6} batch=0 contract=1
  3  send      0x100 f32[4,6] port=c0
  4  end
}";

/// A sum of narrow numbers is rounded once, when it is complete, and nobody takes what is carried for the value.
#[test]
fn sums_are_rounded_when_they_are_complete() {
    let program = |edits: &[(&str, &str)]| {
        let mut text = SUMS.to_string();
        for (from, to) in edits {
            assert!(text.contains(from), "there is no `{from}`");
            text = text.replace(from, to);
        }
        parse_program(&text).unwrap_or_else(|e| panic!("{e}"))
    };
    let whole = program(&[]);
    assert_eq!(parse_program(&whole.to_string()).unwrap(), whole);
    check(whole).unwrap_or_else(|r| panic!("{r}"));
    let refused = |edits: &[(&str, &str)]| check(program(edits)).map(|_| ()).expect_err("it is broken").to_string();
    let cases = [
        // One part is rounded as if it were all.
        refused(&[("recv_add  0x100 f32[4,6] port=c0 monoid=sum", "recv  0x200 f32[4,6] port=c0")]),
        // The bits of what is carried are taken for the value.
        refused(&[("0x180 bf16[4,6] program", "0x100 bf16[4,6] program")]),
        // It is rounded to something else.
        refused(&[("map       0x180 bf16", "map       0x180 f16"), ("convert bf16", "convert f16")]),
    ];
    let first = |report: &String| report.lines().take(2).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("rounding", cases.iter().map(first).collect::<Vec<_>>().join("\n\n"));
}

#[test]
fn loops_without_iterations_behave() {
    for (name, from, to) in [("loop", "4", "0"), ("loop", "4", "1"), ("nested", "3", "0"), ("nested", "2", "0"), ("nested", "2", "5")] {
        let text = SAMPLES.iter().find(|(n, _)| *n == name).unwrap().1;
        let text = text.replace(&format!("trips = {from}"), &format!("trips = {to}"));
        let text = text.replace(&format!("trips={from}"), &format!("trips={to}"));
        let program = parse_program(&text).unwrap_or_else(|e| panic!("{e}"));
        assert!(behaves(&program, &mut Dice(3)), "{name} {to} times");
        check(program).unwrap_or_else(|r| panic!("{name} {to} times:\n{r}"));
    }
}

/// What has to be stored may be stored in a loop only if that surely runs.
#[test]
fn stores_in_loops_have_to_happen() {
    let program = |trips: &str| {
        let text = SAMPLES.iter().find(|(n, _)| *n == "loop").unwrap().1;
        let text = text.replace("neg %9", "neg %0").replace("map       0x40 f32[4] = 0x0 ", "map       0xc0 f32[4] = 0x0 ");
        let text = text.replace("store     0x40", "store     0xc0").replace("trips=4", &format!("trips={trips}"));
        let mut p = parse_program(&text.replace("trips = 4", &format!("trips = {trips}"))).unwrap_or_else(|e| panic!("{e}"));
        for d in 0..2 {
            p.streams[d][..12].rotate_right(1);
            p.dies[d].claims[..12].rotate_right(1);
            p.streams[d][2..13].rotate_right(1);
            p.dies[d].claims[2..13].rotate_right(1);
        }
        p
    };
    assert!(behaves(&program("4"), &mut Dice(1)));
    check(program("4")).unwrap_or_else(|r| panic!("{r}"));
    assert!(!behaves(&program("0"), &mut Dice(1)));
    let report = check(program("0")).map(|_| ()).unwrap_err();
    assert!(report.to_string().contains("E0614") && report.to_string().contains("perhaps never runs"), "{report}");
}

#[test]
fn findings_in_loops_explain_themselves() {
    let refused = |name: &str, edits: &[(&str, &str)]| {
        let mut text = SAMPLES.iter().find(|(n, _)| *n == name).unwrap().1.to_string();
        for (from, to) in edits {
            assert!(text.contains(from), "the sample has no `{from}`");
            text = text.replacen(from, to, 1);
        }
        let program = parse_program(&text).unwrap_or_else(|e| panic!("{e}"));
        let report = check(program.clone()).map(|_| ()).expect_err("it is broken");
        let runs = program.validate().is_ok() && !report.findings.iter().any(|f| f.fault.code() <= "E0606");
        format!("{name} {edits:?}, {}\n{report}", if runs && behaves(&program, &mut Dice(2)) { "no harm" } else { "harm" })
    };
    let cases = [
        // The carry is not updated in place.
        refused("loop", &[("map       0x0 f32[4] = 0x60", "map       0x40 f32[4] = 0x60")]),
        // What an iteration leaves behind is not there in the next one.
        refused("loop", &[("i64[] = 0x0 f32[4] trips=4", "i64[] = 0x90 f32[4] trips=4")]),
        refused("loop", &[("trips=4", "trips=3")]),
        refused("loop", &[("0x80 i64[] = 0x0 f32[4] trips", "0x80 i32[] = 0x0 f32[4] trips")]),
        // A carry where the loop is over, and the work of an iteration after it.
        refused("loop", &[("claim14 compute %10", "claim14 compute %3")]),
        refused("loop", &[("1,14,16,0] {", "1,3,16,0] {")]),
        refused(
            "nested",
            &[(
                "copy      0x20 f32[2] = 0x10 f32[2]\n  0001  loop      = 0x0 f32[2], 0x20",
                "copy      0x20 f32[2] = 0x10 f32[2]\n  0001  loop      = 0x0 f32[2], 0x0",
            )],
        ),
        refused("nested", &[("claim7 loop %8 0 [0..2]", "claim7 loop %11 0 [0..2]")]),
        refused("while", &[("exit_unless 0x1c", "exit_unless 0x1d")]),
        refused("while", &[("claim4 loop %10 0 [] 1 [0..2]", "claim4 loop %10 0 [] 1 [1..3]")]),
        // The slot is overwritten before the loop knows whether it ends.
        refused(
            "while",
            &[
                ("4,6,7,4,8,14,9", "4,6,7,14,4,8,9"),
                (
                    "0009    map       0x10 f32[] = 0x10 f32[], 0x14 f32[] program=f1 loops=[] cols=0 origin=[]",
                    "0009    send 0x0 f32[2] port=c0",
                ),
                ("0008    send      0x0 f32[2] port=c0", "0008    exit_unless 0x1c bool[]"),
                ("0007    exit_unless 0x1c bool[]", "0007    map 0x10 f32[] = 0x10 f32[], 0x14 f32[] program=f1 loops=[] cols=0 origin=[]"),
            ],
        ),
        // A message is sent once more often than it is received.
        refused(
            "while",
            &[
                ("4,6,7,4,8,14,9", "4,6,4,7,8,14,9"),
                ("0007    exit_unless 0x1c bool[]", "0007    send 0x1c bool[] port=c0"),
                ("0006    send      0x1c bool[] port=c0", "0006    exit_unless 0x1c bool[]"),
            ],
        ),
    ];
    insta::assert_snapshot!("findings_in_loops", cases.join("\n\n"));
}

/// Two dies with a loop each, the first of which tells the other something when it is through.
fn late(early: bool) -> Program {
    let (before, after) = ("recv 0x8 f32[1] port=c1\n  1 wait queue=in.W count=1\n", "recv 0x8 f32[1] port=c1\n");
    let (first, last, n) = if early { (before, "", 2) } else { ("", after, 0) };
    let claims = if early { "4,0,1,2,0,3,1,0" } else { "1,2,0,3,1,4,0" };
    let lines = [
        "loop = 0x0 f32[1] trips=9",
        "recv 0x10 f32[1] port=c0",
        "wait queue=in.W count=1",
        "map 0x0 f32[1] = 0x0 f32[1] program=f0 loops=[1] cols=0 origin=[0]",
        "end_loop",
    ];
    let body: String = lines.iter().enumerate().map(|(i, l)| format!("  {} {l}\n", i + n)).collect();
    let first = if first.is_empty() { String::new() } else { format!("  0 {first}") };
    let last = if last.is_empty() { String::new() } else { format!("  5 {last}") };
    let end = if early { 7 } else { 6 };
    let text = format!(
        "program \"late\" target \"dojo-tile\" step {{ param \"x\" input 0 -> output 0 seed 0 }}
         graph @late(%0: f32[1] param \"x\") {{
           %1 = carry %0 {{loop_id = 0, slot = 0}}
           %2 = neg %1
           %3 = repeat %1, %2 {{loop_id = 0, trips = 9}}
           %4 = proj %3 {{index = 0}}
           return %4 \"x\"
         }}
         channel ch0 (0,0) -> (0,1) depth 2 via (0,0):E
         channel ch1 (0,0) -> (0,1) depth 2 via (0,0):E
         state 0 on 0 [0..1] 0x0 f32[1]
         state 0 on 1 [0..1] 0x0 f32[1]
         fused f0 {{in f32; s1 = neg s0; out s1}}
         claim0 control
         claim1 loop %3 0 [0..1]
         claim2 move %1.0 [0..1]
         claim3 compute %2 [0..1]
         claim4 move %3.0 [0..1]
         die (0,0) stream s0 sram 64 out [ch0,ch1] in [] claims [1,2,0,3,1,4,0] {{
           0 loop = 0x0 f32[1] trips=9
           1 send 0x0 f32[1] port=c0
           2 wait queue=out.E count=1
           3 map 0x0 f32[1] = 0x0 f32[1] program=f0 loops=[1] cols=0 origin=[0]
           4 end_loop
           5 send 0x0 f32[1] port=c1
           6 end
         }}
         die (0,1) stream s1 sram 64 out [] in [ch0,ch1] claims [{claims}] {{\n{first}{body}{last}  {end} end\n}}"
    );
    parse_program(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// One iteration of it would run: the channel holds two messages.
#[test]
fn loops_that_block_each_other_later_are_refused() {
    assert!(behaves(&late(false), &mut Dice(1)));
    check(late(false)).unwrap_or_else(|r| panic!("{r}"));
    assert!(!behaves(&late(true), &mut Dice(1)));
    let report = check(late(true)).map(|_| ()).unwrap_err();
    assert_eq!(report.findings[0].fault, Fault::Deadlock, "{report}");
    assert!(report.to_string().contains("`end_loop` on all dies of the loop"), "{report}");
}

/// A chain of `nodes` negations over 25 dies, each of which computes its row and shows it to the next die on the snake.
fn long_program(nodes: usize) -> Program {
    let mut text = String::from("program \"long\"\ntarget \"dojo-tile\"\nstep {\n  param \"x\" input 0 -> output 0\n  seed 0\n}\n");
    text += "graph @long(%0: f32[25,64] param \"x\") {\n";
    (0..nodes).for_each(|n| text += &format!("  %{} = neg %{n}\n", n + 1));
    text += &format!("  return %{nodes} \"x\"\n}}\n");
    let coord = |d: usize| format!("({},{})", d / 5, if (d / 5).is_multiple_of(2) { d % 5 } else { 4 - d % 5 });
    let side = |d: usize| {
        if d % 5 == 4 {
            "S"
        } else if (d / 5).is_multiple_of(2) {
            "E"
        } else {
            "W"
        }
    };
    (0..24).for_each(|d| text += &format!("channel ch{d} {} -> {} depth 2 via {}:{}\n", coord(d), coord(d + 1), coord(d), side(d)));
    let mut order: Vec<usize> = (0..25).collect();
    order.sort_by_key(|d| coord(*d));
    let position = |d: usize| order.iter().position(|x| *x == d).unwrap();
    (0..25).for_each(|d| text += &format!("state 0 on {} [{d}..{},0..64] 0x0 f32[1,64]\n", position(d), d + 1));
    text += "fused f0 {in f32; s1 = neg s0; out s1}\nclaim0 control\n";
    for n in 0..nodes {
        for d in 0..25 {
            text += &format!("claim{} compute %{} [{d}..{},0..64]\n", 1 + 2 * (n * 25 + d), n + 1, d + 1);
            text += &format!("claim{} move %{}.0 [{d}..{},0..64]\n", 2 + 2 * (n * 25 + d), n + 1, d + 1);
        }
    }
    for d in &order {
        let (sends, receives) = (*d < 24, *d > 0);
        let (mut body, mut claims) = (Vec::new(), Vec::new());
        let queue_in = |d: usize| match side(d - 1) {
            "S" => "in.N",
            "E" => "in.W",
            _ => "in.E",
        };
        for n in 0..nodes {
            body.push(format!("map 0x0 f32[1,64] = 0x0 f32[1,64] program=f0 loops=[1,64] cols=0 origin=[{d},0]"));
            claims.push(1 + 2 * (n * 25 + d));
            if sends {
                body.push("send 0x0 f32[1,64] port=c0".to_string());
                claims.push(2 + 2 * (n * 25 + d));
            }
            if receives {
                body.push("recv 0x100 f32[1,64] port=c0".to_string());
                body.push(format!("wait queue={} count={}", queue_in(*d), n + 1));
                claims.extend([2 + 2 * (n * 25 + d - 1), 0]);
            }
            if sends {
                body.push(format!("wait queue=out.{} count={}", side(*d), n + 1));
                claims.push(0);
            }
        }
        body.push("end".to_string());
        claims.push(0);
        let ports = |yes: bool, c: usize| if yes { format!("[ch{c}]") } else { "[]".to_string() };
        let (out, in_) = (ports(sends, *d), ports(receives, d.wrapping_sub(1)));
        let claims: Vec<String> = claims.iter().map(ToString::to_string).collect();
        text += &format!("die {} stream s{} sram 1024 out {out} in {in_} claims [{}] {{\n", coord(*d), position(*d), claims.join(","));
        body.iter().enumerate().for_each(|(i, line)| text += &format!("  {i} {line}\n"));
        text += "}\n";
    }
    parse_program(&text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn long_programs_are_checked() {
    let program = long_program(100);
    let started = std::time::Instant::now();
    let verified = check(program).unwrap_or_else(|r| panic!("{r}"));
    let stats = verified.stats();
    println!("{} instructions in {:?}", stats.instructions, started.elapsed());
    assert_eq!((stats.dies, stats.messages, stats.traced_reads), (25, 2400, 2500 + 2400 + 25));
}
