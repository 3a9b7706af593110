//! Mesh mode: many dies on a few threads.
//!
//! Each die is a compute stream plus eleven queues. A worker takes a die that can go on, runs it until it blocks, and takes the next; a
//! message or a credit makes its receiver ready again. Dies share nothing but channels, each with one sender and one receiver that take turns in
//! a fixed order (a Kahn network), so neither the number of workers nor their speed shows in any result.
//!
//! A message is copied straight from one memory into the other when its sender and its receiver both stand at it and one of them is with a
//! worker; a die that stands still holds what its receivers have not come for. A worker without other work makes such dies send,
//! into blocks in between as far as there are credits, so nothing waits that need not.
//!
//! A program with replicas runs all of them: every replica has its own dies and channels, and dies of one position meet to combine values
//! over all replicas ([`collective`](super::collective)). Inputs that are shared out are loaded from each replica's rows; what is the same in all
//! is stored by the first one.
//!
//! A fence (`loop`, `exit_unless`, `end_loop`) blocks its die until the die's queues are empty; then their counters begin anew and the die goes
//! on, or jumps. A die in a loop goes on as long as it can; that a loop need not end shows only when somebody cancels.
//!
//! When nothing is ready, nobody runs and some die has not finished, nothing can ever happen again: that is reported, with the cycle of
//! waits.

mod ops;
mod transfers;

use self::ops::{Kind, Op, frame, prepare};
use super::clock::{Clock, timed};
use super::collective::Meeting;
use super::deadlock::{Blocked, Cause, Deadlock};
use super::execute::{self, Bench};
use super::hosts::Hosts;
use super::loops::Loops;
use super::place::Place;
use super::queues::{self, QUEUES};
use super::sram::{Lease, Sram, overlap};
use super::strided::{Block, Pool};
use super::task::Programs;
use super::team::Team;
use crate::error::RuntimeError;
use crate::session::CancelToken;
use girih_ir::program::Program;
use girih_kernels::{Isa, KernelError};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
    /// Numbers of the iterations of the open loops, outermost first.
    iterations: Vec<u64>,
    queues: [QueueState; QUEUES],
    /// Combinations over replicas that are complete.
    combined: u64,
    finished: bool,
}

impl DieState {
    /// The instruction at the head of a queue, with its channel, unless it comes after one of another queue.
    fn ready_head(&self, q: usize) -> Option<(usize, Option<usize>)> {
        let head = self.queues[q].entries.front()?;
        let early = head.after.iter().any(|(q, count)| self.queues[*q as usize].completed < *count);
        (!early).then_some((head.index as usize, head.channel))
    }

    /// The head of a queue is done.
    fn complete(&mut self, q: usize) {
        self.queues[q].entries.pop_front();
        self.queues[q].completed += 1;
    }
}

#[derive(Default)]
struct ChannelState {
    /// Each with its length.
    messages: VecDeque<(Block, usize)>,
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
    /// Workers that wait for news.
    sleeping: usize,
    over: bool,
    failure: Option<RuntimeError>,
}

/// All dies of a program made ready.
pub struct MeshMachine {
    /// One list of operations a stream.
    streams: Vec<Vec<Op>>,
    /// Replicas, and columns of their grid.
    replicas: (usize, usize),
    /// Where the dies of each position meet.
    meetings: Vec<Mutex<Meeting>>,
    /// The stream of each die of a replica.
    stream_of: Vec<usize>,
    /// For each die of a replica, the queue and channel of every transfer of its stream.
    entries: Vec<Vec<Option<queues::Entry>>>,
    /// All dies, replica by replica.
    dies: Vec<Mutex<DieState>>,
    status: Vec<AtomicU8>,
    /// For each die that stands still, whether it has something to send that its receivers have not come for.
    holds: Vec<AtomicBool>,
    channels: Vec<ChannelInfo>,
    /// Memory of messages that were received.
    spare: Mutex<Pool>,
    agenda: Mutex<Agenda>,
    news: Condvar,
    /// Counts what may be news to a worker that looks for it before it sleeps.
    epoch: AtomicU32,
    /// Whether the step has failed, for dies in loops.
    stopped: AtomicBool,
    benches: Vec<Mutex<Bench>>,
    isa: Isa,
}

/// Looks at the epoch, some ten nanoseconds each, before a worker sleeps: being woken takes longer.
const PATIENCE: usize = 2000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a step runs with.
#[derive(Clone, Copy)]
struct Step<'s> {
    program: &'s Program,
    hosts: &'s Hosts,
    cancel: &'s CancelToken,
    /// With the number of the thread.
    clock: Option<(&'s Clock, usize)>,
}

const OUTSIDE: &str = "a region lies above `sram_used`";

impl MeshMachine {
    /// Prepares every stream and takes SRAM for every die.
    pub fn new(program: &Program, team: &Team, isa: Isa) -> Result<Self, RuntimeError> {
        let mut programs = Programs::default();
        let mut streams = Vec::with_capacity(program.streams.len());
        for (s, stream) in program.streams.iter().enumerate() {
            let die = program.dies.iter().position(|d| d.stream.index() == s).unwrap_or(0);
            let bad = |index, why| RuntimeError::Program { place: Place::new(program, die, index).to_string(), why };
            let loops = Loops::of(stream).map_err(|(index, why)| bad(index, why))?;
            let ops = stream.iter().enumerate().map(|(index, instr)| {
                let prepared = match loops.partner(index) {
                    Some(partner) => frame(instr, partner),
                    None => prepare(instr, program, &mut programs),
                };
                prepared.map_err(|why| bad(index, why))
            });
            streams.push(ops.collect::<Result<Vec<_>, _>>()?);
        }
        let replicas = program.replicas.as_ref().map_or((1, 1), |r| (r.count().max(1), (r.cols as usize).max(1)));
        let mut machine = MeshMachine {
            streams,
            replicas,
            meetings: program.dies.iter().map(|_| Mutex::default()).collect(),
            stream_of: Vec::new(),
            entries: Vec::new(),
            dies: Vec::new(),
            status: Vec::new(),
            holds: Vec::new(),
            channels: Vec::new(),
            spare: Mutex::default(),
            agenda: Mutex::new(Agenda::default()),
            news: Condvar::new(),
            epoch: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            benches: (0..team.threads()).map(|_| Mutex::new(Bench::new())).collect(),
            isa,
        };
        for (d, code) in program.dies.iter().enumerate() {
            let bad = |index, why| RuntimeError::Program { place: Place::new(program, d, index).to_string(), why };
            let stream = program.streams.get(code.stream.index()).ok_or_else(|| bad(0, "the die has no stream".into()))?;
            let entries = stream.iter().enumerate().map(|(i, instr)| queues::entry(program, code, instr).map_err(|why| bad(i, why)));
            machine.entries.push(entries.collect::<Result<Vec<_>, _>>()?);
            machine.stream_of.push(code.stream.index());
        }
        for code in (0..replicas.0).flat_map(|_| &program.dies) {
            let len = usize::try_from(code.sram_used).unwrap_or(usize::MAX);
            let queues = std::array::from_fn(|_| QueueState::default());
            let state = DieState { sram: Sram::new(len), pc: 0, iterations: Vec::new(), queues, combined: 0, finished: false };
            machine.dies.push(Mutex::new(state));
            machine.status.push(AtomicU8::new(status::IDLE));
            machine.holds.push(AtomicBool::new(false));
        }
        for (r, c, channel) in (0..replicas.0).flat_map(|r| program.channels.iter().enumerate().map(move |(c, channel)| (r, c, channel))) {
            let find = |die| {
                let none = || RuntimeError::Program { place: format!("channel ch{c}"), why: "one of its ends has no code".into() };
                Deadlock::position(program, die).ok_or_else(none)
            };
            let first = r * program.dies.len();
            let (source, dest) = (first + find(channel.source)?, first + find(channel.dest)?);
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

    /// Runs the step once. `cancel` ends loops without a number of trips; `clock` takes the time of every instruction.
    pub fn step(
        &mut self,
        program: &Program,
        team: &Team,
        hosts: &Hosts,
        cancel: &CancelToken,
        clock: Option<&Clock>,
    ) -> Result<(), RuntimeError> {
        for die in &mut self.dies {
            let die = die.get_mut().unwrap_or_else(PoisonError::into_inner);
            die.pc = 0;
            die.iterations.clear();
            die.finished = false;
            die.combined = 0;
            die.queues.iter_mut().for_each(|q| *q = QueueState::default());
        }
        for channel in &mut self.channels {
            let state = channel.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            state.messages.drain(..).for_each(|m| lock(&self.spare).put(m.0));
        }
        self.meetings.iter_mut().for_each(|m| m.get_mut().unwrap_or_else(PoisonError::into_inner).clear());
        self.status.iter().for_each(|s| s.store(status::QUEUED, Ordering::SeqCst));
        self.holds.iter().for_each(|h| h.store(false, Ordering::SeqCst));
        *lock(&self.agenda) = Agenda { ready: (0..self.dies.len()).collect(), over: self.dies.is_empty(), ..Agenda::default() };
        self.stopped.store(false, Ordering::SeqCst);
        let this = &*self;
        team.broadcast(&|thread| {
            let step = Step { program, hosts, cancel, clock: clock.map(|c| (c, thread)) };
            let mut bench = lock(&this.benches[thread]);
            while let Some((die, eager)) = this.take(program) {
                this.visit(die, step, &mut bench, eager);
            }
        });
        let failure = lock(&self.agenda).failure.take();
        failure.map_or(Ok(()), Err)
    }

    /// The next die that can go on, and whether it is to send what it holds; `None` when the step is over.
    fn take(&self, program: &Program) -> Option<(usize, bool)> {
        let mut agenda = lock(&self.agenda);
        let mut watched = false;
        loop {
            if agenda.over {
                return None;
            }
            if let Some(die) = agenda.ready.pop_front() {
                agenda.running += 1;
                return Some((die, false));
            }
            if let Some(die) = self.holder() {
                agenda.running += 1;
                return Some((die, true));
            }
            if agenda.running == 0 {
                agenda.over = true;
                agenda.failure = Some(RuntimeError::Deadlock(self.diagnose(program)));
                self.announce(&agenda, true);
                return None;
            }
            if !std::mem::replace(&mut watched, true) {
                let seen = self.epoch.load(Ordering::SeqCst);
                drop(agenda);
                let mut patience = 0..PATIENCE;
                while self.epoch.load(Ordering::Relaxed) == seen && patience.next().is_some() {
                    std::hint::spin_loop();
                }
                agenda = lock(&self.agenda);
                continue;
            }
            agenda.sleeping += 1;
            agenda = self.news.wait(agenda).unwrap_or_else(PoisonError::into_inner);
            agenda.sleeping -= 1;
            watched = false;
        }
    }

    /// Tells workers without work that the agenda has changed.
    fn announce(&self, agenda: &Agenda, all: bool) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        match (agenda.sleeping, all) {
            (0, _) => {}
            (_, true) => self.news.notify_all(),
            (_, false) => self.news.notify_one(),
        }
    }

    /// A die that stands still and holds something to send. It belongs to the caller then.
    fn holder(&self) -> Option<usize> {
        let claim = |s: &AtomicU8| s.compare_exchange(status::IDLE, status::QUEUED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let die = (0..self.dies.len()).find(|d| self.holds[*d].load(Ordering::SeqCst) && claim(&self.status[*d]))?;
        self.holds[die].store(false, Ordering::SeqCst);
        Some(die)
    }

    /// Runs a die until it blocks.
    fn visit(&self, die: usize, step: Step<'_>, bench: &mut Bench, eager: bool) {
        let program = step.program;
        self.status[die].store(status::RUNNING, Ordering::SeqCst);
        let mut state = lock(&self.dies[die]);
        let before = state.finished;
        let run = catch_unwind(AssertUnwindSafe(|| self.run(die, &mut state, step, bench, eager)));
        let (pc, finished) = (state.pc, state.finished);
        // After an eager visit only credits are missing, and those announce themselves.
        let holds = !eager && state.queues[..4].iter().any(|q| !q.entries.is_empty());
        self.holds[die].store(holds, Ordering::SeqCst);
        drop(state);
        let outcome = run.unwrap_or_else(|panic| {
            let place = Place::new(program, self.position(die), pc).to_string();
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
            self.stopped.store(true, Ordering::SeqCst);
        }
        agenda.over |= agenda.finished == self.dies.len();
        if agenda.over || agenda.running == 0 || !agenda.ready.is_empty() {
            self.announce(&agenda, agenda.over || agenda.ready.len() > 1 || agenda.running == 0);
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
                    let mut agenda = lock(&self.agenda);
                    agenda.ready.push_back(die);
                    self.announce(&agenda, false);
                }
                return;
            }
        }
    }

    fn run(&self, die: usize, state: &mut DieState, step: Step<'_>, bench: &mut Bench, eager: bool) -> Result<(), RuntimeError> {
        if state.finished {
            return Ok(());
        }
        let stream = self.stream(die);
        self.pump(die, state, step, eager)?;
        while let Some(op) = stream.get(state.pc) {
            let place = || Place::new(step.program, self.position(die), state.pc).to_string();
            match op {
                Op::Nothing => {}
                Op::Task(task) => {
                    let outside = || RuntimeError::Program { place: place(), why: OUTSIDE.into() };
                    let access = state.sram.access(&task.lease).ok_or_else(outside)?;
                    let done = timed(step.clock, self.position(die), state.pc, || execute::run(task, access, self.isa, bench));
                    done.map_err(|source| RuntimeError::Instruction { place: place(), source })?;
                }
                Op::Transfer(_) => {
                    self.issue(die, state);
                    self.pump(die, state, step, eager)?;
                }
                Op::Wait { queue, count } => {
                    if state.queues[*queue].completed < *count {
                        self.pump(die, state, step, eager)?;
                    }
                    if state.queues[*queue].completed < *count {
                        return Ok(());
                    }
                }
                Op::Loop { .. } | Op::Exit { .. } | Op::EndLoop { .. } => {
                    if state.queues.iter().any(|q| !q.entries.is_empty()) {
                        self.pump(die, state, step, eager)?;
                    }
                    if state.queues.iter().any(|q| !q.entries.is_empty()) {
                        return Ok(());
                    }
                    state.queues.iter_mut().for_each(|q| (q.issued, q.completed) = (0, 0));
                    let next = self.turn(die, state, op, step)?;
                    match next {
                        Some(next) => state.pc = next,
                        None => return Ok(()),
                    }
                    continue;
                }
            }
            state.pc += 1;
        }
        self.pump(die, state, step, eager)?;
        state.finished = state.queues.iter().all(|q| q.entries.is_empty());
        Ok(())
    }

    /// Where the stream goes on after a fence; `None` when the step has failed elsewhere.
    fn turn(&self, die: usize, state: &mut DieState, op: &Op, step: Step<'_>) -> Result<Option<usize>, RuntimeError> {
        let place = || Place::new(step.program, self.position(die), state.pc).to_string();
        let outside = || RuntimeError::Program { place: place(), why: OUTSIDE.into() };
        let number = |sram: &mut Sram, index: &Option<Lease>, count: u64| {
            let Some(lease) = index else { return Ok(()) };
            let mut access = sram.access(lease).ok_or_else(outside)?;
            access.views().writes[0].copy_from_slice(&count.to_ne_bytes());
            Ok(())
        };
        match op {
            Op::Loop { trips: Some(0), end, .. } => Ok(Some(end + 1)),
            Op::Loop { index, .. } => {
                number(&mut state.sram, index, 0)?;
                state.iterations.push(0);
                Ok(Some(state.pc + 1))
            }
            Op::Exit { predicate, end } => {
                let mut access = state.sram.access(predicate).ok_or_else(outside)?;
                if access.views().reads[0][0] != 0 {
                    return Ok(Some(state.pc + 1));
                }
                state.iterations.pop();
                Ok(Some(end + 1))
            }
            Op::EndLoop { start } => {
                let Op::Loop { trips, index, .. } = &self.stream(die)[*start] else { return Ok(Some(state.pc + 1)) };
                let count = state.iterations.pop().unwrap_or(0) + 1;
                if *trips == Some(count) {
                    return Ok(Some(state.pc + 1));
                }
                if trips.is_none() && step.cancel.is_cancelled() {
                    return Err(RuntimeError::Interrupted { place: place() });
                }
                if self.stopped.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                number(&mut state.sram, index, count)?;
                state.iterations.push(count);
                Ok(Some(start + 1))
            }
            Op::Nothing | Op::Task(_) | Op::Transfer(_) | Op::Wait { .. } => Ok(Some(state.pc + 1)),
        }
    }

    /// Puts the transfer at the program counter into its queue.
    fn issue(&self, die: usize, state: &mut DieState) {
        let Some(entry) = self.entries[self.position(die)][state.pc] else { return };
        let stream = self.stream(die);
        let mut after = SmallVec::new();
        if let Some(Op::Transfer(new)) = stream.get(state.pc)
            && (4..8).contains(&entry.queue)
        {
            for (q, queue) in state.queues.iter().enumerate().take(8).skip(4).filter(|(q, _)| *q != entry.queue) {
                for (i, old) in queue.entries.iter().enumerate() {
                    if let Op::Transfer(t) = &stream[old.index as usize]
                        && overlap(&t.bytes, &new.bytes)
                    {
                        after.push((q as u8, queue.completed + i as u32 + 1));
                    }
                }
            }
        }
        let queue = &mut state.queues[entry.queue];
        queue.issued += 1;
        let channel = entry.channel.map(|c| self.replica(die) * (self.channels.len() / self.replicas.0) + c);
        queue.entries.push_back(Pending { index: state.pc as u32, channel, after });
    }

    /// Completes whatever can complete. `eager`: nothing stays in a queue for its receiver's sake.
    fn pump(&self, die: usize, state: &mut DieState, step: Step<'_>, eager: bool) -> Result<(), RuntimeError> {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for q in 0..QUEUES {
                while let Some((index, channel)) = state.ready_head(q) {
                    let Op::Transfer(transfer) = &self.stream(die)[index] else { break };
                    let work = || match &transfer.kind {
                        Kind::AllReduce(monoid, from) => {
                            self.combine(die, transfer, *monoid, from.as_ref(), &mut state.sram, &mut state.combined)
                        }
                        Kind::Send => self.send(transfer, channel, state, eager),
                        Kind::Recv | Kind::RecvAdd(_) => self.receive(die, transfer, channel, state),
                        Kind::Load(..) | Kind::Store(..) => self.host(die, transfer, &mut state.sram, step.hosts),
                    };
                    let done = timed(step.clock, self.position(die), index, work);
                    let place = || Place::new(step.program, self.position(die), index).to_string();
                    match done {
                        Ok(true) => {
                            state.complete(q);
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

    /// The position of a die in its replica.
    fn position(&self, die: usize) -> usize {
        die % self.stream_of.len().max(1)
    }

    /// The replica of a die.
    fn replica(&self, die: usize) -> usize {
        die / self.stream_of.len().max(1)
    }

    /// The operations of a die.
    fn stream(&self, die: usize) -> &[Op] {
        &self.streams[self.stream_of[self.position(die)]]
    }

    /// Who waits for what. Only called while no die is with a worker.
    fn diagnose(&self, program: &Program) -> Deadlock {
        let mut all = Vec::new();
        for (d, die) in self.dies.iter().enumerate() {
            let state = lock(die);
            if state.finished {
                continue;
            }
            let queue = match self.stream(d).get(state.pc) {
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
                Some(_) if queue == 10 => Cause::Replicas,
                Some(_) => Cause::Message,
            };
            let at = self.position(d);
            let head = head.map(|h| Place::new(program, at, h.index as usize));
            all.push(Blocked { die: d, place: Place::new(program, at, state.pc), queue, head, channel, cause });
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
