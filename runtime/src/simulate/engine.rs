//! The event loop.
//!
//! Between two waits a die needs nobody, so it runs ahead in its own time; queues, links and arrivals happen in the order of global
//! time, from a heap. Every activity remembers the one that it waited for last: those links make the critical path.

use super::cost::seconds;
use super::model::{Frame, Model, Role, Server, Step, receives};
use super::period::{Skip, Watch};
use super::{SimError, SimOptions};
use crate::machine::queues::QUEUES;
use crate::machine::{Blocked, Cause, Deadlock, Place};
use girih_ir::program::Program;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// No activity.
pub const NONE: u32 = u32::MAX;

/// Something that took time.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// Position of the die.
    pub die: u32,
    /// Position in its stream.
    pub index: u32,
    /// The queue; [`COMPUTE`] for the engine.
    pub track: u8,
    /// When it began, in seconds.
    pub start: f64,
    /// When it completed.
    pub end: f64,
    /// The activity whose end let it begin.
    pub cause: u32,
}

/// The track of the compute engine.
pub const COMPUTE: u8 = QUEUES as u8;

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that took time, in the order in which it began to be simulated.
    pub acts: Vec<Act>,
    /// One a die.
    pub dies: Vec<DieTimes>,
    /// Links, ports and the host.
    pub servers: Vec<Server>,
    /// Bytes sent over channels.
    pub sent: u64,
    /// Bytes loaded from and stored to the host.
    pub host_bytes: u64,
    /// The activity that ended last.
    pub last: u32,
    /// When it did.
    pub makespan: f64,
    /// Instructions executed.
    pub instructions: u64,
    /// Events done.
    pub events: u64,
    /// Iterations of loops, of all dies.
    pub iterations: u64,
    /// Those of them that were extrapolated.
    pub extrapolated: u64,
    /// The activities that stand for extrapolated iterations.
    pub skips: BTreeMap<u32, Skip>,
    /// How often each instruction of each stream runs.
    pub runs: Vec<Vec<u64>>,
    /// The assumption about loops without a number of trips.
    pub while_iterations: u64,
}

/// Times of a die, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct DieTimes {
    /// The engine worked.
    pub compute: f64,
    /// The stream waited for a queue.
    pub wait: f64,
    /// Everything was over.
    pub finish: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Try the head of a queue; the activity is the one that made it possible.
    Try { die: u32, queue: u8, cause: u32 },
    /// A message's head is at its next resource.
    Hop { message: u32 },
    /// The last byte of a message is there.
    Arrive { message: u32 },
    /// The head of a queue is complete.
    Done { die: u32, queue: u8 },
}

pub(super) struct Event {
    pub(super) time: f64,
    pub(super) serial: u64,
    pub(super) what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time.total_cmp(&other.time).then(self.serial.cmp(&other.serial))
    }
}

/// An entry of a queue that has not completed.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) act: u32,
    pub(super) channel: u32,
    pub(super) issued: f64,
    /// What the stream did last before it issued the entry.
    pub(super) issuer: u32,
}

#[derive(Default)]
pub(super) struct QueueState {
    pub(super) entries: VecDeque<Entry>,
    /// When each entry since the last fence completed, and its activity.
    pub(super) done: Vec<(f64, u32)>,
    pub(super) serving: bool,
}

/// Why a stream does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Block {
    /// So many entries of a queue are not complete.
    Count(usize, u32),
    /// A queue has entries.
    Drain,
}

/// A loop that a die is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Where it begins.
    pub(super) start: usize,
    pub(super) frame: Frame,
    /// The number of the iteration.
    pub(super) count: u64,
    /// How things stood when the iteration began.
    mark: Mark,
}

/// Sums that grow evenly in even iterations.
#[derive(Clone, Copy, Debug)]
struct Mark {
    time: f64,
    compute: f64,
    executed: u64,
    iterations: u64,
}

pub(super) struct Die {
    pub(super) pc: usize,
    pub(super) time: f64,
    /// The activity that ended at `time`.
    pub(super) last: u32,
    pub(super) blocked: Option<Block>,
    pub(super) over: bool,
    pub(super) queues: [QueueState; QUEUES],
    pub(super) times: DieTimes,
    pub(super) loops: Vec<Open>,
    /// Instructions.
    pub(super) executed: u64,
    /// Iterations of loops.
    pub(super) iterations: u64,
    /// Sends that were issued when the receive before them began.
    pub(super) early: Vec<u32>,
    /// Seconds of transfers on the way that the engine has not given yet.
    pub(super) debt: f64,
}

#[derive(Default)]
pub(super) struct ChannelState {
    pub(super) flying: usize,
    /// Activities of sends whose message is there.
    pub(super) arrived: VecDeque<u32>,
    pub(super) needs_credit: bool,
    pub(super) needs_message: bool,
}

pub(super) struct Message {
    pub(super) act: u32,
    channel: u32,
    pub(super) hop: u32,
    bytes: u64,
    pub(super) tail: f64,
    role: Role,
}

pub(super) struct Sim<'m> {
    pub(super) model: &'m mut Model,
    pub(super) dies: Vec<Die>,
    pub(super) channels: Vec<ChannelState>,
    pub(super) messages: Vec<Message>,
    pub(super) acts: Vec<Act>,
    pub(super) heap: BinaryHeap<Reverse<Event>>,
    serial: u64,
    overhead: f64,
    launch: f64,
    issue: f64,
    resume: f64,
    /// See [`Target::streaming`](girih_ir::target::Target::streaming).
    streaming: Option<f64>,
    /// When the last byte of what is passed on can leave, by send.
    floors: BTreeMap<u32, f64>,
    pub(super) sent: u64,
    pub(super) host_bytes: u64,
    pub(super) extrapolated: u64,
    pub(super) skips: BTreeMap<u32, Skip>,
    pub(super) watch: Watch,
}

/// Simulates one step.
pub fn run(program: &Program, options: SimOptions) -> Result<Outcome, SimError> {
    let mut model = Model::new(program, options)?;
    let finite = |v: f64| if v.is_finite() { v.max(0.0) } else { 0.0 };
    let dispatch = finite(program.target.dispatch());
    let die = || Die {
        pc: 0,
        time: dispatch,
        last: NONE,
        blocked: None,
        over: false,
        queues: std::array::from_fn(|_| QueueState::default()),
        times: DieTimes::default(),
        loops: Vec::new(),
        executed: 0,
        iterations: 0,
        early: Vec::new(),
        debt: 0.0,
    };
    let mut sim = Sim {
        dies: (0..program.dies.len()).map(|_| die()).collect(),
        channels: program.channels.iter().map(|_| ChannelState::default()).collect(),
        model: &mut model,
        messages: Vec::new(),
        acts: Vec::new(),
        heap: BinaryHeap::new(),
        serial: 0,
        overhead: finite(program.target.message_overhead()),
        launch: finite(program.target.launch_overhead()),
        issue: finite(program.target.issue_overhead()),
        resume: finite(program.target.wait_overhead()),
        streaming: program.target.streaming().map(finite),
        floors: BTreeMap::new(),
        sent: 0,
        host_bytes: 0,
        extrapolated: 0,
        skips: BTreeMap::new(),
        watch: Watch::default(),
    };
    for d in 0..sim.dies.len() {
        sim.go(d);
    }
    while let Some(Reverse(event)) = sim.heap.pop() {
        sim.handle(event.time, event.what);
    }
    if sim.dies.iter().any(|d| !d.over || d.queues.iter().any(|q| !q.entries.is_empty())) {
        return Err(SimError::Deadlock(sim.diagnose(program)));
    }
    let last = sim.acts.iter().enumerate().max_by(|a, b| a.1.end.total_cmp(&b.1.end).then(b.0.cmp(&a.0))).map_or(NONE, |a| a.0 as u32);
    let makespan = sim.dies.iter().map(|d| d.times.finish).fold(0.0, f64::max);
    Ok(Outcome {
        dies: sim.dies.iter().map(|d| d.times).collect(),
        sent: sim.sent,
        host_bytes: sim.host_bytes,
        last,
        makespan,
        events: sim.serial,
        instructions: sim.dies.iter().map(|d| d.executed).fold(0, u64::saturating_add),
        iterations: sim.dies.iter().map(|d| d.iterations).fold(0, u64::saturating_add),
        extrapolated: sim.extrapolated,
        skips: sim.skips,
        acts: sim.acts,
        servers: model.servers,
        runs: model.runs,
        while_iterations: options.while_iterations,
    })
}

impl Die {
    fn wait_until(&mut self, time: f64, act: u32) {
        if time > self.time {
            self.times.wait += time - self.time;
            (self.time, self.last) = (time, act);
        }
    }

    /// Waits for all queues and counts their entries anew; `false` when there are some.
    fn drained(&mut self) -> bool {
        if self.queues.iter().any(|q| !q.entries.is_empty()) {
            return false;
        }
        let last = self.queues.iter().filter_map(|q| q.done.last().copied()).max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((time, act)) = last {
            self.wait_until(time, act);
        }
        self.queues.iter_mut().for_each(|q| q.done.clear());
        true
    }

    fn mark(&self) -> Mark {
        Mark { time: self.time, compute: self.times.compute, executed: self.executed, iterations: self.iterations }
    }
}

impl Sim<'_> {
    fn at(&mut self, time: f64, what: What) {
        self.serial += 1;
        self.heap.push(Reverse(Event { time, serial: self.serial, what }));
    }

    /// Runs a die until it blocks or its stream ends.
    fn go(&mut self, d: usize) {
        let stream = self.model.stream_of[d];
        while let Some(step) = self.model.streams[stream].get(self.dies[d].pc).copied() {
            let die = &mut self.dies[d];
            let index = die.pc as u32;
            match step {
                Step::End => {}
                Step::Compute(cost) => {
                    let seconds = cost.seconds + std::mem::take(&mut die.debt);
                    let act = Act { die: d as u32, index, track: COMPUTE, start: die.time, end: die.time + seconds, cause: die.last };
                    die.time = act.end;
                    die.times.compute += seconds;
                    die.last = self.acts.len() as u32;
                    self.acts.push(act);
                }
                Step::Transfer { .. } => self.issue(d, index),
                Step::Wait { queue, count } => match (count as usize).checked_sub(1).map(|n| die.queues[queue].done.get(n).copied()) {
                    Some(None) => {
                        die.blocked = Some(Block::Count(queue, count));
                        return;
                    }
                    Some(Some((time, act))) => {
                        die.wait_until(time, act);
                        die.debt = 0.0;
                    }
                    None => {}
                },
                Step::Loop { .. } | Step::Exit { .. } | Step::EndLoop { .. } => {
                    if !die.drained() {
                        die.blocked = Some(Block::Drain);
                        return;
                    }
                    die.time += self.launch;
                    die.times.compute += self.launch;
                    die.executed += 1;
                    self.turn(d, step);
                    continue;
                }
            }
            let die = &mut self.dies[d];
            if matches!(step, Step::Wait { .. }) {
                die.time += self.resume;
                die.times.compute += self.resume;
            }
            die.executed += 1;
            die.pc += 1;
        }
        let die = &mut self.dies[d];
        die.over = true;
        die.times.finish = die.queues.iter().filter_map(|q| q.done.last()).map(|d| d.0).fold(die.time, f64::max);
    }

    /// Where a die goes on after a fence.
    fn turn(&mut self, d: usize, step: Step) {
        let die = &mut self.dies[d];
        match step {
            Step::Loop { frame, end } => {
                // A loop that only an exit ends runs until it gets there.
                if frame.trips == 0 && !frame.exits {
                    die.pc = end + 1;
                    return;
                }
                let mark = die.mark();
                die.loops.push(Open { start: die.pc, frame, count: 0, mark });
                die.pc += 1;
            }
            Step::Exit { end } if die.loops.last().is_none_or(|open| open.count >= open.frame.trips) => {
                die.pc = end + 1;
                self.leave(d);
            }
            Step::EndLoop { start } => {
                die.iterations += 1;
                let now = die.mark();
                let Some(open) = die.loops.last_mut() else { return die.pc += 1 };
                open.count += 1;
                if open.count >= open.frame.trips && !open.frame.exits {
                    die.pc += 1;
                    return self.leave(d);
                }
                let before = std::mem::replace(&mut open.mark, now);
                let (frame, count) = (open.frame, open.count);
                die.pc = start + 1;
                if frame.long && frame.local {
                    // The first iteration may have begun with the clock of before the loop; the second is like all others.
                    if count == 2 {
                        self.skip_local(d, before);
                    }
                } else if frame.long {
                    self.watch_iteration(d);
                }
            }
            _ => die.pc += 1,
        }
    }

    /// The innermost loop of a die is over.
    fn leave(&mut self, d: usize) {
        let die = &mut self.dies[d];
        die.loops.pop();
        self.watch.left(d, die.loops.len());
    }

    /// All iterations of a loop that needs nobody are like the last one, which began at `before`.
    fn skip_local(&mut self, d: usize, before: Mark) {
        let die = &mut self.dies[d];
        let Some(open) = die.loops.last_mut() else { return };
        let count = open.frame.trips.saturating_sub(open.count + 1);
        if count == 0 {
            return;
        }
        let (times, start) = (count as f64, die.time);
        let period = die.time - before.time;
        let index = open.start as u32;
        open.count += count;
        die.time += period * times;
        die.times.compute += (die.times.compute - before.compute) * times;
        die.executed += (die.executed - before.executed).saturating_mul(count);
        let iterations = (die.iterations - before.iterations).saturating_mul(count);
        die.iterations += iterations;
        self.extrapolated += iterations;
        let act = Act { die: d as u32, index, track: COMPUTE, start, end: die.time, cause: die.last };
        die.last = self.acts.len() as u32;
        self.skips.insert(die.last, Skip { period, count });
        self.acts.push(act);
    }

    fn issue(&mut self, d: usize, index: u32) {
        let die = &mut self.dies[d];
        die.time += self.issue;
        die.times.compute += self.issue;
        if let Some(at) = die.early.iter().position(|e| *e == index) {
            die.early.remove(at);
            return;
        }
        if let Some(Step::Transfer { engine, .. }) = self.model.streams[self.model.stream_of[d]].get(index as usize) {
            die.debt += engine;
        }
        let (time, last) = (die.time, die.last);
        self.enqueue(d, index, time, last);
    }

    /// Puts an entry into its queue, and says which activity it is.
    fn enqueue(&mut self, d: usize, index: u32, time: f64, issuer: u32) -> Option<u32> {
        let entry = self.model.entries[d][index as usize]?;
        let act = self.acts.len() as u32;
        self.acts.push(Act { die: d as u32, index, track: entry.queue as u8, start: time, end: time, cause: issuer });
        let queue = &mut self.dies[d].queues[entry.queue];
        let channel = entry.channel.map_or(NONE, |c| c as u32);
        queue.entries.push_back(Entry { act, channel, issued: time, issuer });
        if queue.entries.len() == 1 {
            self.at(time, What::Try { die: d as u32, queue: entry.queue as u8, cause: issuer });
        }
        Some(act)
    }

    /// A receive began: with word-by-word forwarding the send behind it begins too. Returns when the receive is complete.
    fn receive(&mut self, d: usize, index: usize, act: u32, send: u32, now: f64, combine: f64) -> f64 {
        let Some(step) = self.streaming else { return now + combine };
        let done = self.arrival(send).max(now + combine);
        if let Some(next) = self.model.chains[self.model.stream_of[d]][index] {
            self.dies[d].early.push(next);
            if let Some(send) = self.enqueue(d, next, now + step, act) {
                self.floors.insert(send, done + step);
            }
        }
        done
    }

    fn handle(&mut self, now: f64, what: What) {
        match what {
            What::Try { die, queue, cause } => self.attempt(now, die as usize, queue as usize, cause),
            What::Hop { message } => self.hop(now, message),
            What::Arrive { message } => self.arrive(now, message),
            What::Done { die, queue } => self.done(now, die as usize, queue as usize),
        }
    }

    /// Starts the head of a queue if it can start.
    fn attempt(&mut self, now: f64, d: usize, q: usize, cause: u32) {
        let queue = &self.dies[d].queues[q];
        let Some(head) = queue.entries.front().copied().filter(|_| !queue.serving) else { return };
        if head.issued > now {
            return;
        }
        let index = self.acts[head.act as usize].index as usize;
        let Step::Transfer { role, bytes, cost, .. } = self.model.streams[self.model.stream_of[d]][index] else { return };
        if head.channel != NONE {
            let channel = &mut self.channels[head.channel as usize];
            if role == Role::Send {
                if channel.flying >= self.model.ways[head.channel as usize].depth {
                    channel.needs_credit = true;
                    return;
                }
                channel.flying += 1;
                self.sent += bytes;
            } else {
                let Some(send) = channel.arrived.pop_front() else {
                    channel.needs_message = true;
                    return;
                };
                // The message may have come after the queue was ready, whoever woke it.
                let cause = if self.arrival(send) >= now { send } else { cause };
                self.start(d, q, head.act, now, cause);
                let combine = if cost.vector_flops > 0 { cost.seconds } else { 0.0 };
                let done = self.receive(d, index, head.act, send, now, combine);
                return self.at(done, What::Done { die: d as u32, queue: q as u8 });
            }
        } else if role == Role::AllReduce {
            return self.combine(d, q, head, bytes, now, cause);
        } else {
            self.host_bytes += bytes;
        }
        self.start(d, q, head.act, now, cause);
        let message = self.messages.len() as u32;
        let tail = self.floors.remove(&head.act).map_or(now, |floor| floor + self.overhead);
        self.messages.push(Message { act: head.act, channel: head.channel, hop: 0, bytes, tail, role });
        // A queue sets the next transfer up while the one before it is on its way.
        self.at(now.max(head.issued + self.overhead), What::Hop { message });
    }

    /// A combination over replicas goes through their chain as soon as the one before it lets it; all replicas are alike, so they come to it
    /// at the same time. Its result is there when the chain has carried it up and back.
    fn combine(&mut self, d: usize, q: usize, head: Entry, bytes: u64, now: f64, cause: u32) {
        let (rows, cols) = self.model.grid;
        let took = self.model.target.all_reduce_time(rows, cols, bytes);
        let Some(server) = self.model.chain_of.get(d).map(|s| *s as usize) else {
            return self.at(now, What::Done { die: d as u32, queue: q as u8 });
        };
        let server = &mut self.model.servers[server];
        let start = (head.issued + self.overhead).max(server.free);
        server.free = start + took.busy;
        server.busy += took.busy;
        server.bytes += bytes;
        server.messages += 1;
        let done = (server.free + took.latency).max(now);
        // The queue completes in order, but the next one begins while this one is on its way.
        self.start(d, q, head.act, start.min(done), cause);
        self.at(done, What::Done { die: d as u32, queue: q as u8 });
    }

    /// When the message of a send was there: kept in the end of its activity once it has arrived.
    fn arrival(&self, send: u32) -> f64 {
        self.acts[send as usize].end
    }

    fn start(&mut self, d: usize, q: usize, act: u32, now: f64, cause: u32) {
        self.dies[d].queues[q].serving = true;
        let act = &mut self.acts[act as usize];
        (act.start, act.cause) = (now, cause);
    }

    fn way(&self, message: &Message) -> &[u32] {
        let die = self.acts[message.act as usize].die as usize;
        match message.role {
            Role::Load => &self.model.loads[die],
            Role::Store => &self.model.stores[die],
            _ => &self.model.ways[message.channel as usize].hops,
        }
    }

    /// Reserves the next resource on the way.
    fn hop(&mut self, now: f64, id: u32) {
        let message = &self.messages[id as usize];
        let (hop, count) = (message.hop as usize, self.way(message).len());
        let Some(server) = self.way(message).get(hop).map(|s| *s as usize) else {
            return self.at(now, What::Arrive { message: id });
        };
        let message = &mut self.messages[id as usize];
        let server = &mut self.model.servers[server];
        let service = seconds(message.bytes as f64, server.rate);
        let start = now.max(server.free);
        server.free = start + service;
        server.busy += service;
        server.bytes += message.bytes;
        server.messages += 1;
        let leaves = message.tail.max(start + service);
        message.tail = leaves + server.latency;
        message.hop += 1;
        let (tail, latency, role, act) = (message.tail, server.latency, message.role, message.act);
        if hop == 0 && role == Role::Send {
            let Act { die, track, .. } = self.acts[act as usize];
            self.at(leaves, What::Done { die, queue: track });
        }
        if hop + 1 == count {
            // Where words are passed on at once, a message is there when its first one is.
            let there = if role == Role::Send && self.streaming.is_some() { start + latency } else { tail };
            self.at(there, What::Arrive { message: id });
        } else {
            self.at(start + latency, What::Hop { message: id });
        }
    }

    fn arrive(&mut self, now: f64, id: u32) {
        let Message { act, channel, role, tail, .. } = self.messages[id as usize];
        let Act { die, track, .. } = self.acts[act as usize];
        if role != Role::Send {
            return self.at(now, What::Done { die, queue: track });
        }
        if self.way(&self.messages[id as usize]).is_empty() {
            self.at(now, What::Done { die, queue: track });
        }
        self.acts[act as usize].end = if self.streaming.is_some() { tail.max(now) } else { now };
        let state = &mut self.channels[channel as usize];
        state.arrived.push_back(act);
        if std::mem::take(&mut state.needs_message) {
            let dest = self.model.ways[channel as usize].dest;
            for queue in (0..QUEUES).filter(|q| receives(*q)) {
                if self.dies[dest].queues[queue].entries.front().is_some_and(|e| e.channel == channel) {
                    self.at(now, What::Try { die: dest as u32, queue: queue as u8, cause: act });
                }
            }
        }
    }

    /// The head of a queue is complete: counts, credits, the next entry, the stream.
    fn done(&mut self, now: f64, d: usize, q: usize) {
        let queue = &mut self.dies[d].queues[q];
        queue.serving = false;
        let Some(entry) = queue.entries.pop_front() else { return };
        queue.done.push((now, entry.act));
        if let Some(next) = queue.entries.front() {
            let (time, cause) = if next.issued > now { (next.issued, next.issuer) } else { (now, entry.act) };
            self.at(time, What::Try { die: d as u32, queue: q as u8, cause });
        }
        let act = &mut self.acts[entry.act as usize];
        act.end = act.end.max(now);
        if entry.channel != NONE && receives(q) {
            let channel = &mut self.channels[entry.channel as usize];
            channel.flying = channel.flying.saturating_sub(1);
            if std::mem::take(&mut channel.needs_credit) {
                let source = self.model.ways[entry.channel as usize].source;
                for queue in (0..QUEUES).filter(|q| !receives(*q)) {
                    if self.dies[source].queues[queue].entries.front().is_some_and(|e| e.channel == entry.channel) {
                        self.at(now, What::Try { die: source as u32, queue: queue as u8, cause: entry.act });
                    }
                }
            }
        }
        let die = &mut self.dies[d];
        let free = match die.blocked {
            Some(Block::Count(queue, count)) => queue == q && die.queues[q].done.len() >= count as usize,
            Some(Block::Drain) => die.queues.iter().all(|q| q.entries.is_empty()),
            None => false,
        };
        if free {
            die.blocked = None;
            self.go(d);
        } else if die.over {
            die.times.finish = die.times.finish.max(now);
        }
    }

    fn diagnose(&self, program: &Program) -> Deadlock {
        let mut all = Vec::new();
        for (d, die) in self.dies.iter().enumerate() {
            let pending = die.queues.iter().position(|q| !q.entries.is_empty());
            let blocked = match die.blocked {
                Some(Block::Count(queue, _)) => Some(queue),
                _ => pending,
            };
            let Some(queue) = blocked else { continue };
            let head = die.queues[queue].entries.front();
            let channel = head.filter(|h| h.channel != NONE).map(|h| {
                let way = &self.model.ways[h.channel as usize];
                (h.channel as usize, Some(if way.source == d { way.dest } else { way.source }))
            });
            let cause = match head {
                None => Cause::NeverIssued,
                Some(_) if receives(queue) => Cause::Message,
                Some(_) => Cause::Credit,
            };
            let head = head.map(|h| Place::new(program, d, self.acts[h.act as usize].index as usize));
            all.push(Blocked { die: d, place: Place::new(program, d, die.pc), queue, head, channel, cause });
        }
        Deadlock::new(all)
    }
}
