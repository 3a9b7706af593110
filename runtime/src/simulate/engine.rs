//! The event loop.
//!
//! Between two waits a die needs nobody, so it runs ahead in its own time; queues, links and arrivals happen in the order of global
//! time, from a heap. Every activity remembers the one that it waited for last: those links make the critical path.

use super::SimError;
use super::cost::seconds;
use super::model::{Model, Role, Server, Step, receives};
use crate::machine::queues::QUEUES;
use crate::machine::{Blocked, Cause, Deadlock, Place};
use girih_ir::program::Program;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

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
enum What {
    /// Try the head of a queue; the activity is the one that made it possible.
    Try { die: u32, queue: u8, cause: u32 },
    /// A message's head is at its next resource.
    Hop { message: u32 },
    /// The last byte of a message is there.
    Arrive { message: u32 },
    /// The head of a queue is complete.
    Done { die: u32, queue: u8 },
}

struct Event {
    time: f64,
    serial: u64,
    what: What,
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
struct Entry {
    act: u32,
    channel: u32,
    issued: f64,
    /// What the stream did last before it issued the entry.
    issuer: u32,
}

#[derive(Default)]
struct QueueState {
    entries: VecDeque<Entry>,
    /// When each entry completed, and its activity.
    done: Vec<(f64, u32)>,
    serving: bool,
}

struct Die {
    pc: usize,
    time: f64,
    /// The activity that ended at `time`.
    last: u32,
    blocked: Option<(usize, u32)>,
    over: bool,
    queues: [QueueState; QUEUES],
    times: DieTimes,
}

#[derive(Default)]
struct ChannelState {
    flying: usize,
    /// Activities of sends whose message is there.
    arrived: VecDeque<u32>,
    needs_credit: bool,
    needs_message: bool,
}

struct Message {
    act: u32,
    channel: u32,
    hop: u32,
    bytes: u64,
    tail: f64,
    role: Role,
}

struct Sim<'m> {
    model: &'m mut Model,
    dies: Vec<Die>,
    channels: Vec<ChannelState>,
    messages: Vec<Message>,
    acts: Vec<Act>,
    heap: BinaryHeap<Reverse<Event>>,
    serial: u64,
    overhead: f64,
    launch: f64,
    sent: u64,
    host_bytes: u64,
    instructions: u64,
}

/// Simulates one step.
pub fn run(program: &Program) -> Result<Outcome, SimError> {
    let mut model = Model::new(program)?;
    let die = || Die {
        pc: 0,
        time: 0.0,
        last: NONE,
        blocked: None,
        over: false,
        queues: std::array::from_fn(|_| QueueState::default()),
        times: DieTimes::default(),
    };
    let finite = |v: f64| if v.is_finite() { v.max(0.0) } else { 0.0 };
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
        sent: 0,
        host_bytes: 0,
        instructions: 0,
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
    let (acts, sent, host_bytes, instructions) = (sim.acts, sim.sent, sim.host_bytes, sim.instructions);
    let dies = sim.dies.iter().map(|d| d.times).collect();
    Ok(Outcome { acts, dies, servers: model.servers, sent, host_bytes, last, makespan, instructions })
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
                    let act = Act { die: d as u32, index, track: COMPUTE, start: die.time, end: die.time + cost.seconds, cause: die.last };
                    die.time = act.end;
                    die.times.compute += cost.seconds;
                    die.last = self.acts.len() as u32;
                    self.acts.push(act);
                }
                Step::Transfer { .. } => self.issue(d, index),
                Step::Wait { queue, count } => {
                    let reached = (count as usize).checked_sub(1).map(|n| die.queues[queue].done.get(n).copied());
                    match reached {
                        Some(None) => {
                            die.blocked = Some((queue, count));
                            return;
                        }
                        Some(Some((time, act))) if time > die.time => {
                            die.times.wait += time - die.time;
                            die.time = time;
                            die.last = act;
                        }
                        _ => {}
                    }
                }
            }
            self.instructions += 1;
            self.dies[d].pc += 1;
        }
        let die = &mut self.dies[d];
        die.over = true;
        die.times.finish = die.queues.iter().filter_map(|q| q.done.last()).map(|d| d.0).fold(die.time, f64::max);
    }

    fn issue(&mut self, d: usize, index: u32) {
        let Some(entry) = self.model.entries[d][index as usize] else { return };
        let die = &mut self.dies[d];
        die.time += self.launch;
        die.times.compute += self.launch;
        let act = self.acts.len() as u32;
        self.acts.push(Act { die: d as u32, index, track: entry.queue as u8, start: die.time, end: die.time, cause: die.last });
        let queue = &mut die.queues[entry.queue];
        let channel = entry.channel.map_or(NONE, |c| c as u32);
        queue.entries.push_back(Entry { act, channel, issued: die.time, issuer: die.last });
        if queue.entries.len() == 1 {
            let (time, cause) = (die.time, die.last);
            self.at(time, What::Try { die: d as u32, queue: entry.queue as u8, cause });
        }
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
        let Step::Transfer { role, bytes, cost } = self.model.streams[self.model.stream_of[d]][index] else { return };
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
                return self.at(now + combine, What::Done { die: d as u32, queue: q as u8 });
            }
        } else {
            self.host_bytes += bytes;
        }
        self.start(d, q, head.act, now, cause);
        let message = self.messages.len() as u32;
        self.messages.push(Message { act: head.act, channel: head.channel, hop: 0, bytes, tail: now, role });
        self.at(now + self.overhead, What::Hop { message });
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
        message.tail = (message.tail + server.latency).max(start + service + server.latency);
        message.hop += 1;
        let (tail, latency, role, act) = (message.tail, server.latency, message.role, message.act);
        if hop == 0 && role == Role::Send {
            let Act { die, track, .. } = self.acts[act as usize];
            self.at(start + service, What::Done { die, queue: track });
        }
        if hop + 1 == count {
            self.at(tail, What::Arrive { message: id });
        } else {
            self.at(start + latency, What::Hop { message: id });
        }
    }

    fn arrive(&mut self, now: f64, id: u32) {
        let Message { act, channel, role, .. } = self.messages[id as usize];
        let Act { die, track, .. } = self.acts[act as usize];
        if role != Role::Send {
            return self.at(now, What::Done { die, queue: track });
        }
        if self.way(&self.messages[id as usize]).is_empty() {
            self.at(now, What::Done { die, queue: track });
        }
        self.acts[act as usize].end = now;
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
        if let Some((queue, count)) = die.blocked
            && queue == q
            && die.queues[q].done.len() >= count as usize
        {
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
            let Some(queue) = die.blocked.map(|b| b.0).or(pending) else { continue };
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
