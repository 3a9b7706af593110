//! The streams of all dies, executed over the field.
//!
//! A queue's entries that only read happen when they are issued, and messages are taken when something waits for them: in a program that
//! the other phases accept, no one can tell the difference.

use super::instrs;
use super::memory::Memory;
use super::ops::values;
use super::scalar::combine;
use crate::axes::{Box, LoopKind, box_dims};
use crate::check::implements::result_order;
use crate::check::report::Place;
use crate::check::trace::{QUEUES, Trace, queue_index};
use crate::program::{Claim, HostUse, Instr, Program, Region};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, Type};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Where and why a run cannot go on.
pub type Failure = (Place, String);

/// The reference value of each node that is computed once.
pub type Reference = Vec<Option<Vec<Tensor>>>;

struct Die {
    memory: Memory,
    at: usize,
    /// The loops that it is in: where they begin, and the number of the iteration.
    loops: Vec<(usize, u64)>,
    /// Instructions whose messages are still to be taken.
    pending: [VecDeque<usize>; QUEUES],
    /// Entries completed since the last fence.
    done: [u32; QUEUES],
}

/// A tensor in host memory: as it was before the step, and what the step stored.
struct Host {
    shape: Dims,
    before: Vec<i64>,
    after: Vec<Option<i64>>,
}

/// A run of a program.
pub struct Machine<'a> {
    program: &'a Program,
    trace: Trace,
    reference: &'a Reference,
    dies: Vec<Die>,
    channels: Vec<VecDeque<(DType, Vec<i64>)>>,
    host: Vec<Host>,
    /// Instructions executed, and elements that were compared with the reference.
    pub executed: u64,
    /// See `executed`.
    pub compared: u64,
    /// How many more instructions may be executed.
    left: u64,
}

/// The elements of a box.
fn part_of(values: &[i64], shape: &[usize], part: &Box) -> Result<Vec<i64>, String> {
    instrs::part(values, shape, &part.iter().map(|r| r.start).collect::<Dims>(), &box_dims(part))
}

impl<'a> Machine<'a> {
    /// A machine with the inputs of the step, in their order, in place.
    pub fn new(program: &'a Program, inputs: &[Tensor], reference: &'a Reference, limit: u64) -> Result<Self, Failure> {
        let new = |bytes| Die { memory: Memory::new(bytes), at: 0, loops: Vec::new(), pending: Default::default(), done: [0; QUEUES] };
        let mut dies: Vec<Die> = program.dies.iter().map(|d| new(d.sram_used)).collect();
        for (pair, shards) in program.step.state.iter().zip(&program.state) {
            let t = &inputs[pair.input];
            for s in shards {
                let given = part_of(values(t), t.shape(), &s.part);
                given.and_then(|v| dies[s.die as usize].memory.write(&s.region, &v)).map_err(|why| (Place::die(s.die as usize), why))?;
            }
        }
        let host = program.host.iter().map(|h| {
            let input = match h.usage {
                HostUse::Input(n) => Some(n as usize),
                HostUse::State(p) => Some(program.step.state[p as usize].input),
                HostUse::Output(_) => None,
            };
            let before = input.map(|i| values(&inputs[i]).to_vec()).unwrap_or_default();
            Host { shape: h.ty.shape.clone(), before, after: vec![None; h.ty.elements()] }
        });
        let (host, channels) = (host.collect(), program.channels.iter().map(|_| VecDeque::new()).collect());
        Ok(Machine { program, trace: Trace::new(program), reference, dies, channels, host, executed: 0, compared: 0, left: limit })
    }

    /// Runs all streams to their ends.
    pub fn run(&mut self) -> Result<(), Failure> {
        loop {
            let before = self.executed;
            for d in 0..self.dies.len() {
                while self.step(d)? {
                    self.executed += 1;
                    self.left = self.left.checked_sub(1).ok_or((Place::at(d, self.dies[d].at), "the step does not end".to_string()))?;
                }
            }
            let open = (0..self.dies.len()).find(|d| self.dies[*d].at < self.stream(*d).len());
            match open {
                None => return Ok(()),
                Some(d) if self.executed == before => return Err((Place::at(d, self.dies[d].at), "it waits for ever".to_string())),
                Some(_) => {}
            }
        }
    }

    /// What a region of a die holds.
    pub fn read(&self, die: usize, region: &Region) -> Result<Vec<i64>, String> {
        self.dies[die].memory.read(region)
    }

    /// What a host tensor holds behind the step; `None` where nothing is.
    pub fn stored(&self, host: usize) -> Vec<Option<i64>> {
        let h = &self.host[host];
        let kept = h.after.iter().all(Option::is_none) && matches!(self.program.host[host].usage, HostUse::State(_));
        if kept { h.before.iter().map(|v| Some(*v)).collect() } else { h.after.clone() }
    }

    fn stream(&self, d: usize) -> &'a [Instr] {
        &self.program.streams[self.program.dies[d].stream.index()]
    }

    /// Executes the next instruction of a die, unless it has to wait.
    fn step(&mut self, d: usize) -> Result<bool, Failure> {
        let i = self.dies[d].at;
        let Some(instr) = self.stream(d).get(i) else { return Ok(false) };
        let fail = |why: String| (Place::at(d, i), why);
        match instr {
            Instr::Wait { queue, count } => {
                let q = queue_index(*queue);
                while self.dies[d].done[q] < *count {
                    if !self.complete(d, q)? {
                        return Ok(false);
                    }
                }
            }
            Instr::Loop { .. } | Instr::ExitUnless { .. } | Instr::EndLoop | Instr::End => {
                for q in 0..QUEUES {
                    while !self.dies[d].pending[q].is_empty() {
                        if !self.complete(d, q)? {
                            return Ok(false);
                        }
                    }
                }
                self.dies[d].done = [0; QUEUES];
                return self.fence(d, i, instr).map(|()| true).map_err(fail);
            }
            _ => {
                self.issue(d, i, instr).map_err(fail)?;
            }
        }
        self.dies[d].at += 1;
        Ok(true)
    }

    fn issue(&mut self, d: usize, i: usize, instr: &'a Instr) -> Result<(), String> {
        let queued = self.trace.dies[d].queued[i];
        match (instr, queued.and_then(|q| q.message)) {
            (Instr::Send { region, .. }, Some((channel, _))) => {
                let message = (region.dtype, self.read(d, region)?);
                self.channels[channel as usize].push_back(message);
            }
            (Instr::Recv { .. } | Instr::RecvAdd { .. }, Some(_)) => {
                if let Some(q) = queued {
                    self.dies[d].pending[q.queue as usize].push_back(i);
                }
                return Ok(());
            }
            (Instr::Load { host, part, out }, _) => {
                let h = &self.host[host.index()];
                if h.before.is_empty() && out.elements() > 0 {
                    return Err("it loads what is not there".to_string());
                }
                let values = part_of(&h.before, &h.shape, part)?;
                self.dies[d].memory.write(out, &values)?;
            }
            (Instr::Store { host, part, region }, _) => {
                let values = self.read(d, region)?;
                let h = &mut self.host[host.index()];
                let places: Vec<i64> = (0..h.after.len() as i64).collect();
                let places = part_of(&places, &h.shape, part)?;
                if values.len() != places.len() {
                    return Err("it stores another number of elements".to_string());
                }
                places.into_iter().zip(values).for_each(|(at, v)| h.after[at as usize] = Some(v));
            }
            _ => self.compute(d, i, instr)?,
        }
        if let Some(q) = queued {
            self.dies[d].done[q.queue as usize] += 1;
        }
        Ok(())
    }

    fn compute(&mut self, d: usize, i: usize, instr: &Instr) -> Result<(), String> {
        let ins = instr.reads().iter().map(|r| self.read(d, r)).collect::<Result<Vec<_>, String>>()?;
        let made = instrs::run(self.program, instr, &ins)?;
        for (region, values) in instr.writes().iter().zip(&made) {
            self.dies[d].memory.write(region, values)?;
        }
        self.compare(d, i, &made)
    }

    /// Takes the next message of a queue, if it is there.
    fn complete(&mut self, d: usize, q: usize) -> Result<bool, Failure> {
        let Some(i) = self.dies[d].pending[q].front().copied() else { return Ok(false) };
        let Some((channel, _)) = self.trace.dies[d].queued[i].and_then(|q| q.message) else { return Ok(false) };
        let Some((dtype, mut message)) = self.channels[channel as usize].pop_front() else { return Ok(false) };
        let fail = |why: String| (Place::at(d, i), why);
        let (out, monoid) = match &self.stream(d)[i] {
            Instr::RecvAdd { out, monoid, .. } => (out, Some(*monoid)),
            Instr::Recv { out, .. } => (out, None),
            _ => return Err(fail("it takes no message".to_string())),
        };
        if dtype != out.dtype || message.len() != out.elements() {
            return Err(fail(format!("the message has {} elements of {dtype}", message.len())));
        }
        if let Some(monoid) = monoid {
            let have = self.read(d, out).map_err(fail)?;
            message.iter_mut().zip(have).for_each(|(m, h)| *m = combine(monoid, dtype, h, *m));
        }
        self.dies[d].memory.write(out, &message).map_err(fail)?;
        self.dies[d].pending[q].pop_front();
        self.dies[d].done[q] += 1;
        Ok(true)
    }

    fn fence(&mut self, d: usize, i: usize, instr: &'a Instr) -> Result<(), String> {
        match instr {
            Instr::Loop { trips, index, .. } => {
                if *trips == Some(0) {
                    self.dies[d].at = self.behind(d, i)?;
                    return Ok(());
                }
                self.dies[d].loops.push((i, 0));
                self.write_index(d, index, 0)?;
            }
            Instr::ExitUnless { predicate } if self.read(d, predicate)?.first() == Some(&0) => {
                let (begin, _) = self.dies[d].loops.pop().ok_or("it is in no loop")?;
                self.dies[d].at = self.behind(d, begin)?;
                return Ok(());
            }
            Instr::EndLoop => {
                let (begin, trip) = self.dies[d].loops.pop().ok_or("it is in no loop")?;
                if let Instr::Loop { trips, index, .. } = &self.stream(d)[begin]
                    && *trips != Some(trip + 1)
                {
                    self.dies[d].loops.push((begin, trip + 1));
                    self.write_index(d, index, trip as i64 + 1)?;
                    self.dies[d].at = begin + 1;
                    return Ok(());
                }
            }
            _ => {}
        }
        self.dies[d].at = i + 1;
        Ok(())
    }

    fn write_index(&mut self, d: usize, index: &Option<Region>, trip: i64) -> Result<(), String> {
        index.as_ref().map_or(Ok(()), |r| self.dies[d].memory.write(r, &[trip]))
    }

    /// The instruction behind the loop that begins at `begin`.
    fn behind(&self, d: usize, begin: usize) -> Result<usize, String> {
        let mut depth = 0usize;
        for (i, instr) in self.stream(d).iter().enumerate().skip(begin) {
            match instr {
                Instr::Loop { .. } => depth += 1,
                Instr::EndLoop => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(i + 1);
            }
        }
        Err("its loop has no end".to_string())
    }

    /// Holds what an instruction made to its claim, where that is a whole part of a value that is computed once.
    fn compare(&mut self, d: usize, i: usize, made: &[Vec<i64>]) -> Result<(), String> {
        let program = self.program;
        let Claim::Compute { node, ranges } = &program.claims[program.dies[d].claims[i].index()] else { return Ok(()) };
        let Some(Some(want)) = self.reference.get(node.index()) else { return Ok(()) };
        let graph = &program.step.graph;
        let n = graph.node(*node);
        let types: SmallVec<[&Type; 4]> = n.operands.iter().map(|o| graph.ty(*o)).collect();
        let axes = n.op.axes(&types, &n.ty);
        if axes.loops.len() != ranges.len()
            || axes.loops.iter().zip(ranges).any(|(l, r)| l.kind != LoopKind::Parallel && r.len() != l.extent)
        {
            return Ok(());
        }
        for (k, (want, made)) in want.iter().zip(made).enumerate() {
            let part = axes.result_box(k, want.shape(), ranges);
            let mut expect = part_of(values(want), want.shape(), &part)?;
            if let Some(order) = result_order(&n.op, k) {
                expect = super::arrays::permuted(&expect, &box_dims(&part), order);
            }
            if expect.len() != made.len() {
                continue;
            }
            let wrong = expect.iter().zip(made).filter(|(a, b)| a != b).count();
            if wrong > 0 {
                return Err(format!("{wrong} of {} elements that it makes are not those of {node}", made.len()));
            }
            self.compared += made.len() as u64;
        }
        Ok(())
    }
}
