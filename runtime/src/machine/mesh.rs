//! Mesh mode: many dies on a few threads.
//!
//! Each die is a compute stream plus ten queues. A worker takes a die that can go on, runs it until it blocks, and takes the next; a
//! message or a credit makes its receiver ready again. Dies share nothing but channels, each with one sender and one receiver that take turns in
//! a fixed order (a Kahn network), so neither the number of workers nor their speed shows in any result.
//!
//! When nothing is ready, nobody runs and some die has not finished, nothing can ever happen again: that is reported, with the cycle of
//! waits.

use super::deadlock::{Blocked, Cause, Deadlock};
use super::execute::{self, Bench};
use super::hosts::Hosts;
use super::place::Place;
use super::queues::{self, QUEUES};
use super::sram::{Lease, Sram, overlap};
use super::strided::{self, Block};
use super::task::{self, Programs, Task};
use super::team::Team;
use crate::error::RuntimeError;
use girih_ir::axes::Box as Part;
use girih_ir::program::{Instr, Program};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, Layout};
use girih_kernels::buffer::{Buf, BufMut, View, ViewMut};
use girih_kernels::{Isa, KernelError, copy};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One instruction of a stream, ready to run.
enum Op {
    /// Runs on the compute engine.
    Task(Box<Task>),
    /// Goes into a queue; which one depends on the die.
    Transfer(Box<Transfer>),
    Wait {
        queue: usize,
        count: u32,
    },
    Nothing,
}

/// What a queue does with a region.
struct Transfer {
    kind: Kind,
    dtype: DType,
    dims: Dims,
    /// Relative to the first byte of the lease's range.
    layout: Layout,
    lease: Lease,
    bytes: std::ops::Range<usize>,
}

enum Kind {
    Send,
    Recv,
    RecvAdd(Monoid),
    Load(usize, Part),
    Store(usize, Part),
}

impl Transfer {
    fn size(&self) -> usize {
        self.layout.elements() * self.dtype.size()
    }
}

/// An entry of a queue.
struct Pending {
    /// Position in the stream.
    index: u32,
    channel: Option<usize>,
    /// Receives of other queues that write the same bytes and come first: queue and count.
    after: SmallVec<[(u8, u32); 2]>,
}

#[derive(Default)]
struct QueueState {
    entries: VecDeque<Pending>,
    issued: u32,
    completed: u32,
}

/// One die while a step runs.
struct DieState {
    sram: Sram,
    pc: usize,
    queues: [QueueState; QUEUES],
    finished: bool,
}

#[derive(Default)]
struct ChannelState {
    /// Each with its length.
    messages: VecDeque<(Block, usize)>,
    spare: Vec<Block>,
}

struct ChannelInfo {
    source: usize,
    dest: usize,
    depth: usize,
    state: Mutex<ChannelState>,
}

/// Whether a die is with a worker, and whether something happened meanwhile.
mod status {
    pub const IDLE: u8 = 0;
    pub const QUEUED: u8 = 1;
    pub const RUNNING: u8 = 2;
    pub const NOTIFIED: u8 = 3;
}

/// What the workers share while a step runs.
#[derive(Default)]
struct Agenda {
    ready: VecDeque<usize>,
    running: usize,
    finished: usize,
    over: bool,
    failure: Option<RuntimeError>,
}

/// All dies of a program made ready.
pub struct MeshMachine {
    /// One list of operations a stream.
    streams: Vec<Vec<Op>>,
    /// The stream of each die.
    stream_of: Vec<usize>,
    /// For each die, the queue and channel of every transfer of its stream.
    entries: Vec<Vec<Option<queues::Entry>>>,
    dies: Vec<Mutex<DieState>>,
    status: Vec<AtomicU8>,
    channels: Vec<ChannelInfo>,
    agenda: Mutex<Agenda>,
    news: Condvar,
    benches: Vec<Mutex<Bench>>,
    isa: Isa,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MeshMachine {
    /// Prepares every stream and takes SRAM for every die.
    pub fn new(program: &Program, team: &Team, isa: Isa) -> Result<Self, RuntimeError> {
        let mut programs = Programs::default();
        let mut streams = Vec::with_capacity(program.streams.len());
        for (s, stream) in program.streams.iter().enumerate() {
            let die = program.dies.iter().position(|d| d.stream.index() == s).unwrap_or(0);
            let ops = stream.iter().enumerate().map(|(index, instr)| {
                let bad = |why| RuntimeError::Program { place: Place::new(program, die, index).to_string(), why };
                prepare(instr, program, &mut programs).map_err(bad)
            });
            streams.push(ops.collect::<Result<Vec<_>, _>>()?);
        }
        let mut machine = MeshMachine {
            streams,
            stream_of: Vec::new(),
            entries: Vec::new(),
            dies: Vec::new(),
            status: Vec::new(),
            channels: Vec::new(),
            agenda: Mutex::new(Agenda::default()),
            news: Condvar::new(),
            benches: (0..team.threads()).map(|_| Mutex::new(Bench::new())).collect(),
            isa,
        };
        for (d, code) in program.dies.iter().enumerate() {
            let bad = |index, why| RuntimeError::Program { place: Place::new(program, d, index).to_string(), why };
            let stream = program.streams.get(code.stream.index()).ok_or_else(|| bad(0, "the die has no stream".into()))?;
            let entries = stream.iter().enumerate().map(|(i, instr)| queues::entry(program, code, instr).map_err(|why| bad(i, why)));
            machine.entries.push(entries.collect::<Result<Vec<_>, _>>()?);
            machine.stream_of.push(code.stream.index());
            let len = usize::try_from(code.sram_used).unwrap_or(usize::MAX);
            let queues = std::array::from_fn(|_| QueueState::default());
            machine.dies.push(Mutex::new(DieState { sram: Sram::new(len), pc: 0, queues, finished: false }));
            machine.status.push(AtomicU8::new(status::IDLE));
        }
        for (c, channel) in program.channels.iter().enumerate() {
            let find = |die| {
                let none = || RuntimeError::Program { place: format!("channel ch{c}"), why: "one of its ends has no code".into() };
                Deadlock::position(program, die).ok_or_else(none)
            };
            let (source, dest) = (find(channel.source)?, find(channel.dest)?);
            machine.channels.push(ChannelInfo { source, dest, depth: channel.depth as usize, state: Mutex::default() });
        }
        Ok(machine)
    }

    /// Hands out the SRAM of a die; `None` when there is no such die.
    pub fn sram<R>(&mut self, die: usize, f: impl FnOnce(&mut Sram) -> R) -> Option<R> {
        self.dies.get_mut(die).map(|d| f(&mut d.get_mut().unwrap_or_else(PoisonError::into_inner).sram))
    }

    /// Hands out the SRAM of a die for reading.
    pub fn peek<R>(&self, die: usize, f: impl FnOnce(&Sram) -> R) -> Option<R> {
        self.dies.get(die).map(|d| f(&lock(d).sram))
    }

    /// Runs the step once.
    pub fn step(&mut self, program: &Program, team: &Team, hosts: &Hosts) -> Result<(), RuntimeError> {
        for die in &mut self.dies {
            let die = die.get_mut().unwrap_or_else(PoisonError::into_inner);
            die.pc = 0;
            die.finished = false;
            die.queues.iter_mut().for_each(|q| *q = QueueState::default());
        }
        for channel in &mut self.channels {
            let state = channel.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            state.spare.extend(state.messages.drain(..).map(|m| m.0));
        }
        self.status.iter().for_each(|s| s.store(status::QUEUED, Ordering::SeqCst));
        *lock(&self.agenda) = Agenda { ready: (0..self.dies.len()).collect(), over: self.dies.is_empty(), ..Agenda::default() };
        let this = &*self;
        team.broadcast(&|thread| {
            let mut bench = lock(&this.benches[thread]);
            while let Some(die) = this.take(program) {
                this.visit(die, program, hosts, &mut bench);
            }
        });
        let failure = lock(&self.agenda).failure.take();
        failure.map_or(Ok(()), Err)
    }

    /// The next die that can go on; `None` when the step is over.
    fn take(&self, program: &Program) -> Option<usize> {
        let mut agenda = lock(&self.agenda);
        loop {
            if agenda.over {
                return None;
            }
            if let Some(die) = agenda.ready.pop_front() {
                agenda.running += 1;
                return Some(die);
            }
            if agenda.running == 0 {
                agenda.over = true;
                agenda.failure = Some(RuntimeError::Deadlock(self.diagnose(program)));
                self.news.notify_all();
                return None;
            }
            agenda = self.news.wait(agenda).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs a die until it blocks.
    fn visit(&self, die: usize, program: &Program, hosts: &Hosts, bench: &mut Bench) {
        self.status[die].store(status::RUNNING, Ordering::SeqCst);
        let mut state = lock(&self.dies[die]);
        let before = state.finished;
        let run = catch_unwind(AssertUnwindSafe(|| self.run(die, &mut state, program, hosts, bench)));
        let (pc, finished) = (state.pc, state.finished);
        drop(state);
        let outcome = run.unwrap_or_else(|panic| {
            let place = Place::new(program, die, pc).to_string();
            Err(RuntimeError::Panicked { place, message: super::panic_message(&*panic) })
        });
        let swap = self.status[die].compare_exchange(status::RUNNING, status::IDLE, Ordering::SeqCst, Ordering::SeqCst);
        let mut agenda = lock(&self.agenda);
        agenda.running -= 1;
        if swap.is_err() && !finished {
            self.status[die].store(status::QUEUED, Ordering::SeqCst);
            agenda.ready.push_back(die);
        }
        if finished && !before {
            agenda.finished += 1;
        }
        if let Err(e) = outcome {
            agenda.failure.get_or_insert(e);
            agenda.over = true;
        }
        agenda.over |= agenda.finished == self.dies.len();
        if agenda.over || agenda.ready.len() > 1 || agenda.running == 0 {
            self.news.notify_all();
        } else if !agenda.ready.is_empty() {
            self.news.notify_one();
        }
    }

    /// Something happened that may let a die go on.
    fn wake(&self, die: usize) {
        loop {
            let (from, to) = match self.status[die].load(Ordering::SeqCst) {
                status::IDLE => (status::IDLE, status::QUEUED),
                status::RUNNING => (status::RUNNING, status::NOTIFIED),
                _ => return,
            };
            if self.status[die].compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                if from == status::IDLE {
                    lock(&self.agenda).ready.push_back(die);
                    self.news.notify_one();
                }
                return;
            }
        }
    }

    fn run(&self, die: usize, state: &mut DieState, program: &Program, hosts: &Hosts, bench: &mut Bench) -> Result<(), RuntimeError> {
        if state.finished {
            return Ok(());
        }
        let stream = &self.streams[self.stream_of[die]];
        self.pump(die, state, program, hosts)?;
        while let Some(op) = stream.get(state.pc) {
            let place = || Place::new(program, die, state.pc).to_string();
            match op {
                Op::Nothing => {}
                Op::Task(task) => {
                    let outside = || RuntimeError::Program { place: place(), why: "a region lies above `sram_used`".into() };
                    let access = state.sram.access(&task.lease).ok_or_else(outside)?;
                    execute::run(task, access, self.isa, bench).map_err(|source| RuntimeError::Instruction { place: place(), source })?;
                }
                Op::Transfer(_) => {
                    self.issue(die, state);
                    self.pump(die, state, program, hosts)?;
                }
                Op::Wait { queue, count } => {
                    if state.queues[*queue].completed < *count {
                        self.pump(die, state, program, hosts)?;
                    }
                    if state.queues[*queue].completed < *count {
                        return Ok(());
                    }
                }
            }
            state.pc += 1;
        }
        self.pump(die, state, program, hosts)?;
        state.finished = state.queues.iter().all(|q| q.entries.is_empty());
        Ok(())
    }

    /// Puts the transfer at the program counter into its queue.
    fn issue(&self, die: usize, state: &mut DieState) {
        let Some(entry) = self.entries[die][state.pc] else { return };
        let mut after = SmallVec::new();
        if let Some(Op::Transfer(new)) = self.streams[self.stream_of[die]].get(state.pc)
            && (4..8).contains(&entry.queue)
        {
            for (q, queue) in state.queues.iter().enumerate().take(8).skip(4).filter(|(q, _)| *q != entry.queue) {
                for (i, old) in queue.entries.iter().enumerate() {
                    if let Op::Transfer(t) = &self.streams[self.stream_of[die]][old.index as usize]
                        && overlap(&t.bytes, &new.bytes)
                    {
                        after.push((q as u8, queue.completed + i as u32 + 1));
                    }
                }
            }
        }
        let queue = &mut state.queues[entry.queue];
        queue.issued += 1;
        queue.entries.push_back(Pending { index: state.pc as u32, channel: entry.channel, after });
    }

    /// Completes whatever can complete.
    fn pump(&self, die: usize, state: &mut DieState, program: &Program, hosts: &Hosts) -> Result<(), RuntimeError> {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for q in 0..QUEUES {
                while let Some(head) = state.queues[q].entries.front() {
                    let index = head.index as usize;
                    if head.after.iter().any(|(q, count)| state.queues[*q as usize].completed < *count) {
                        break;
                    }
                    let Op::Transfer(transfer) = &self.streams[self.stream_of[die]][index] else { break };
                    let done = self.transfer(transfer, head.channel, &mut state.sram, hosts);
                    let place = || Place::new(program, die, index).to_string();
                    match done {
                        Ok(true) => {
                            state.queues[q].entries.pop_front();
                            state.queues[q].completed += 1;
                            moved = true;
                        }
                        Ok(false) => break,
                        Err(Refusal::Kernel(source)) => return Err(RuntimeError::Instruction { place: place(), source }),
                        Err(Refusal::Program(why)) => return Err(RuntimeError::Program { place: place(), why: why.into() }),
                    }
                }
            }
        }
        Ok(())
    }

    /// Does one transfer; `false` when it has to wait for a credit or a message.
    fn transfer(&self, t: &Transfer, channel: Option<usize>, sram: &mut Sram, hosts: &Hosts) -> Result<bool, Refusal> {
        let mut access = sram.access(&t.lease).ok_or(Refusal::Program("a region lies above `sram_used`"))?;
        let mut views = access.views();
        let (size, dense) = (t.dtype.size(), Layout::dense(&t.dims));
        match &t.kind {
            Kind::Load(host, part) => {
                let done = hosts.load(*host, part, |from, layout| strided::copy(size, from, layout, &mut *views.writes[0], &t.layout));
                return if done == Some(true) { Ok(true) } else { Err(Refusal::Program("its part does not fit the host tensor")) };
            }
            Kind::Store(host, part) => {
                let done = hosts.store(*host, part, |to, layout| strided::copy(size, views.reads[0], &t.layout, to, layout));
                return if done == Some(true) { Ok(true) } else { Err(Refusal::Program("its part does not fit the host tensor")) };
            }
            _ => {}
        }
        let info = channel.and_then(|c| self.channels.get(c)).ok_or(Refusal::Program("it has no channel"))?;
        if matches!(t.kind, Kind::Send) {
            let mut state = lock(&info.state);
            if state.messages.len() >= info.depth.max(1) {
                return Ok(false);
            }
            let mut message = state.spare.pop().unwrap_or_default();
            drop(state);
            strided::copy(size, views.reads[0], &t.layout, message.take(t.size()), &dense);
            lock(&info.state).messages.push_back((message, t.size()));
            self.wake(info.dest);
            return Ok(true);
        }
        let Some((message, len)) = lock(&info.state).messages.pop_front() else { return Ok(false) };
        let done = receive(t, message.held(len), &mut *views.writes[0], self.isa);
        lock(&info.state).spare.push(message);
        self.wake(info.source);
        done.map(|()| true)
    }

    /// Who waits for what. Only called while no die is with a worker.
    fn diagnose(&self, program: &Program) -> Deadlock {
        let mut all = Vec::new();
        for (d, die) in self.dies.iter().enumerate() {
            let state = lock(die);
            if state.finished {
                continue;
            }
            let queue = match self.streams[self.stream_of[d]].get(state.pc) {
                Some(Op::Wait { queue, .. }) => *queue,
                _ => state.queues.iter().position(|q| !q.entries.is_empty()).unwrap_or(0),
            };
            let head = state.queues[queue].entries.front();
            let channel = head.and_then(|h| h.channel).map(|c| {
                let info = &self.channels[c];
                (c, Some(if info.source == d { info.dest } else { info.source }))
            });
            let cause = match head {
                None => Cause::NeverIssued,
                Some(h) if h.after.iter().any(|(q, n)| state.queues[*q as usize].completed < *n) => Cause::Order,
                Some(_) if queue < 4 => Cause::Credit,
                Some(_) => Cause::Message,
            };
            let head = head.map(|h| Place::new(program, d, h.index as usize));
            all.push(Blocked { die: d, place: Place::new(program, d, state.pc), queue, head, channel, cause });
        }
        Deadlock::new(all)
    }
}

impl std::fmt::Debug for MeshMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MeshMachine({} dies, {} channels)", self.dies.len(), self.channels.len())
    }
}

enum Refusal {
    Kernel(KernelError),
    Program(&'static str),
}

fn receive(t: &Transfer, message: &[u8], to: &mut [u8], isa: Isa) -> Result<(), Refusal> {
    if message.len() != t.size() {
        return Err(Refusal::Program("the message is not as long as the region"));
    }
    match t.kind {
        Kind::RecvAdd(monoid) => {
            let mut combine = || {
                let input = View::dense(Buf::new(t.dtype, message)?, &t.dims)?;
                let mut out = ViewMut::new(BufMut::new(t.dtype, to)?, t.layout.clone())?;
                copy::combine_into(isa, monoid, &input, &mut out)
            };
            combine().map_err(Refusal::Kernel)
        }
        _ => {
            strided::copy(t.dtype.size(), message, &Layout::dense(&t.dims), to, &t.layout);
            Ok(())
        }
    }
}

fn prepare(instr: &Instr, program: &Program, programs: &mut Programs) -> Result<Op, String> {
    let (kind, region) = match instr {
        Instr::Send { region, .. } => (Kind::Send, region),
        Instr::Recv { out, .. } => (Kind::Recv, out),
        Instr::RecvAdd { out, monoid, .. } => (Kind::RecvAdd(*monoid), out),
        Instr::Load { host, part, out } => (Kind::Load(host.index(), part.clone()), out),
        Instr::Store { host, part, region } => (Kind::Store(host.index(), part.clone()), region),
        Instr::Wait { queue, count } => return Ok(Op::Wait { queue: queues::slot(*queue), count: *count }),
        other => return Ok(task::prepare(other, program, programs)?.map_or(Op::Nothing, |t| Op::Task(Box::new(t)))),
    };
    let bytes = task::extent(region)?;
    let reads = matches!(kind, Kind::Send | Kind::Store(..));
    let range = std::slice::from_ref(&bytes);
    let lease = if reads { Lease::new(range, &[], &[]) } else { Lease::new(&[], range, &[]) };
    let layout = region.layout(bytes.start as u64);
    let lease = lease.ok_or("its region runs backwards")?;
    Ok(Op::Transfer(Box::new(Transfer { kind, dtype: region.dtype, dims: region.dims.clone(), layout, lease, bytes })))
}
