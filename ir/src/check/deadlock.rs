//! Deadlock: the graph of everything that happens in a step has no circle.
//!
//! Each instruction is issued, and a queued one also completes. Issue waits for the instruction before; a `wait` for the completion it
//! counts to; completion for its issue, for the entry before it in its queue, for its message (receive), and for a credit (send).
//! Kahn's algorithm either finds an order in which all of it can happen, which later phases follow, or the events that never can.
//!
//! Loops are followed through one iteration, and that is enough because more is asked of them than the machine does: no die begins the
//! body before every die of the loop has come to its `loop`, and none goes on before every die has come to its `end_loop`. All queues are
//! drained at these fences, and both ends of a message lie in the same loops, so at such a border every channel that the body uses is
//! empty: each iteration starts as the first one did, and what let that one end lets all of them end. Messages of other iterations
//! were received before, so that credits from them are there. What comes before an `exit_unless` needs nothing of what comes after it,
//! so the last iteration of a `while` can end as well. That dies do not wait for each other at borders when they run only lets more
//! happen earlier: a stream reads its queues in a fixed order, so no order of events can block what another one lets happen.

use super::report::{Fault, Findings, Place};
use super::trace::{At, Queued, Trace, queue_index, queue_name};
use crate::program::{Instr, Program};
use smallvec::SmallVec;

/// One event: an instruction is issued, or its queue work completes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Event {
    /// The instruction.
    pub at: At,
    /// Whether this is the completion of queue work.
    pub done: bool,
}

impl Event {
    fn issue(at: At) -> Self {
        Event { at, done: false }
    }
    fn done(at: At) -> Self {
        Event { at, done: true }
    }
}

/// The event graph, its edges computed from the trace.
struct Events<'a> {
    program: &'a Program,
    trace: &'a Trace,
    /// First event number of each die.
    first: Vec<u32>,
    /// Per die and queue, ascending: (entry that is waited for, waiting instruction).
    waits: Vec<Vec<Vec<(u32, u32)>>>,
}

impl<'a> Events<'a> {
    fn new(program: &'a Program, trace: &'a Trace) -> Self {
        let mut total = 0;
        let mut first = Vec::new();
        let mut waits = Vec::new();
        for code in &program.dies {
            first.push(total);
            let stream = &program.streams[code.stream.index()];
            total += 2 * stream.len() as u32;
            let mut of: Vec<Vec<(u32, u32)>> = vec![Vec::new(); super::trace::QUEUES];
            for (i, instr) in stream.iter().enumerate() {
                let entry = trace.dies[first.len() - 1].waits[i];
                if let Instr::Wait { queue, .. } = instr
                    && entry > 0
                {
                    of[queue_index(*queue)].push((entry, i as u32));
                }
            }
            let mut drained = [0; super::trace::QUEUES];
            for fence in &trace.dies[first.len() - 1].fences {
                (0..of.len()).filter(|q| fence.issued[*q] > drained[*q]).for_each(|q| of[q].push((fence.issued[q], fence.instr)));
                drained = fence.issued;
            }
            of.iter_mut().for_each(|w| w.sort_unstable());
            waits.push(of);
        }
        first.push(total);
        Events { program, trace, first, waits }
    }

    fn instr(&self, at: At) -> &'a Instr {
        &self.program.streams[self.program.dies[at.0 as usize].stream.index()][at.1 as usize]
    }

    fn queued(&self, at: At) -> Option<Queued> {
        self.trace.dies[at.0 as usize].queued[at.1 as usize]
    }

    /// The instructions that come to a border of a loop together.
    fn border(&self, at: At) -> Option<&'a [At]> {
        if !self.instr(at).is_fence() {
            return None;
        }
        let border = self.trace.dies[at.0 as usize].fence(at.1)?.border?;
        Some(&self.trace.borders[border as usize])
    }

    /// Whether an instruction has a second event: completion, or for one die of a loop, that all have come to a border.
    fn has_done(&self, at: At) -> bool {
        self.queued(at).is_some() || self.border(at).is_some_and(|b| b[0] == at)
    }

    fn number(&self, e: Event) -> usize {
        self.first[e.at.0 as usize] as usize + 2 * e.at.1 as usize + usize::from(e.done)
    }

    /// What must happen before.
    fn before(&self, e: Event) -> SmallVec<[Event; 4]> {
        let mut out = SmallVec::new();
        let (d, i) = e.at;
        let die = &self.trace.dies[d as usize];
        if !e.done {
            if i > 0 {
                let last = (d, i - 1);
                out.push(self.border(last).map_or(Event::issue(last), |b| Event::done(b[0])));
            }
            if let (Instr::Wait { queue, .. }, Some(n)) = (self.instr(e.at), die.waits[i as usize].checked_sub(1))
                && let Some(entry) = die.queues[queue_index(*queue)].get(n as usize)
            {
                out.push(Event::done((d, *entry)));
            }
            if self.instr(e.at).is_fence()
                && let Some(fence) = die.fence(i)
            {
                let new = (0..super::trace::QUEUES).filter(|q| fence.issued[*q] > die.before_fence(i, *q));
                out.extend(new.map(|q| Event::done((d, die.queues[q][fence.issued[q] as usize - 1]))));
            }
            return out;
        }
        if let Some(border) = self.border(e.at) {
            out.extend(border.iter().map(|at| Event::issue(*at)));
            return out;
        }
        out.push(Event::issue(e.at));
        let Some(q) = self.queued(e.at) else { return out };
        if q.count > 1 {
            out.push(Event::done((d, self.trace.dies[d as usize].queues[q.queue as usize][q.count as usize - 2])));
        }
        if let Some((ch, n)) = q.message {
            let channel = &self.trace.channels[ch as usize];
            if let Instr::Send { .. } = self.instr(e.at) {
                let depth = self.program.channels[ch as usize].depth;
                if let Some(r) = n.checked_sub(depth).and_then(|k| channel.recvs.get(k as usize)) {
                    out.push(Event::done(*r));
                }
            } else if let Some(s) = channel.sends.get(n as usize) {
                out.push(Event::done(*s));
            }
        }
        out
    }

    /// What waits for this.
    fn after(&self, e: Event, mut visit: impl FnMut(Event)) {
        let d = e.at.0;
        let die = &self.trace.dies[d as usize];
        let queued = self.queued(e.at);
        let mut next = |(d, i): At| {
            if (i as usize) + 1 < self.trace.dies[d as usize].queued.len() {
                visit(Event::issue((d, i + 1)));
            }
        };
        let border = self.border(e.at);
        if !e.done {
            match border {
                Some(b) => visit(Event::done(b[0])),
                None => next(e.at),
            }
            if queued.is_some() {
                visit(Event::done(e.at));
            }
            return;
        }
        border.unwrap_or_default().iter().for_each(|at| next(*at));
        let Some(q) = queued else { return };
        if let Some(next) = die.queues[q.queue as usize].get(q.count as usize) {
            visit(Event::done((d, *next)));
        }
        let waits = &self.waits[d as usize][q.queue as usize];
        let from = waits.partition_point(|(n, _)| *n < q.count);
        waits[from..].iter().take_while(|(n, _)| *n == q.count).for_each(|(_, w)| visit(Event::issue((d, *w))));
        if let Some((ch, n)) = q.message {
            let channel = &self.trace.channels[ch as usize];
            let next = match self.instr(e.at) {
                Instr::Send { .. } => channel.recvs.get(n as usize),
                _ => channel.sends.get(n as usize + self.program.channels[ch as usize].depth as usize),
            };
            if let Some(at) = next {
                visit(Event::done(*at));
            }
        }
    }

    fn describe(&self, e: Event) -> String {
        let die = self.program.target.coord(self.program.dies[e.at.0 as usize].die);
        if e.done && self.border(e.at).is_some() {
            return format!("`{}` on all dies of the loop", self.instr(e.at).name());
        }
        let verb = if e.done { "completion of " } else { "" };
        let detail = match (self.instr(e.at), self.queued(e.at)) {
            (Instr::Wait { queue, count }, _) => format!("wait {} {count}", queue_name(queue_index(*queue))),
            (i, Some(Queued { message: Some((ch, n)), .. })) => format!("{} message {n} of ch{ch}", i.name()),
            (i, _) => i.name().to_string(),
        };
        format!("{verb}{detail} (die {die} instruction {})", e.at.1)
    }
}

/// Checks that waits count what is issued, and that everything can happen; returns an order in which it can.
pub fn check(program: &Program, trace: &Trace, findings: &mut Findings<'_>) -> Vec<Event> {
    waits_are_covered(program, trace, findings);
    if !findings.is_clean() {
        return Vec::new();
    }
    let events = Events::new(program, trace);
    let total = events.first.last().copied().unwrap_or(0) as usize;
    let mut pending: Vec<u32> = vec![0; total];
    let mut exists = 0;
    let mut ready: Vec<Event> = Vec::new();
    for (d, die) in trace.dies.iter().enumerate().rev() {
        for i in 0..die.queued.len() {
            let at = (d as u32, i as u32);
            for e in [Event::issue(at), Event::done(at)] {
                if e.done && !events.has_done(at) {
                    continue;
                }
                exists += 1;
                let n = events.before(e).len();
                pending[events.number(e)] = n as u32;
                if n == 0 {
                    ready.push(e);
                }
            }
        }
    }
    let mut order = Vec::with_capacity(exists);
    while let Some(e) = ready.pop() {
        order.push(e);
        events.after(e, |next| {
            let left = &mut pending[events.number(next)];
            *left -= 1;
            if *left == 0 {
                ready.push(next);
            }
        });
    }
    if order.len() < exists {
        report_cycle(&events, &pending, findings);
    }
    order
}

/// A wait for an entry that is not issued before it blocks the stream for ever; so does one for what is never put there.
fn waits_are_covered(program: &Program, trace: &Trace, findings: &mut Findings<'_>) {
    for (d, code) in program.dies.iter().enumerate() {
        let mut issued = [0u32; super::trace::QUEUES];
        for (i, instr) in program.streams[code.stream.index()].iter().enumerate() {
            if let Some(q) = trace.dies[d].queued[i] {
                issued[q.queue as usize] = q.count;
            }
            if let Instr::Wait { queue, count } = instr
                && trace.dies[d].waits[i] > issued[queue_index(*queue)]
            {
                let q = queue_index(*queue);
                let (name, have) = (queue_name(q), issued[q] - trace.dies[d].before_fence(i as u32, q));
                let why = format!("waits for entry {count} of queue {name}, but only {have} are issued before it");
                findings.add(Fault::Deadlock, Place::at(d, i), why);
            }
        }
    }
}

/// Walks back over what is still pending until an event comes again.
fn report_cycle(events: &Events<'_>, pending: &[u32], findings: &mut Findings<'_>) {
    let stuck = |e: &Event| pending[events.number(*e)] > 0;
    let all = events.trace.dies.iter().enumerate().flat_map(|(d, die)| {
        (0..die.queued.len()).flat_map(move |i| [Event::issue((d as u32, i as u32)), Event::done((d as u32, i as u32))])
    });
    let Some(mut at) = all.into_iter().find(stuck) else { return };
    let mut position = std::collections::BTreeMap::new();
    let mut path = Vec::new();
    while !position.contains_key(&at) {
        position.insert(at, path.len());
        path.push(at);
        match events.before(at).into_iter().find(stuck) {
            Some(e) => at = e,
            None => return,
        }
    }
    let cycle = &path[position[&at]..];
    let shown: Vec<String> = cycle
        .iter()
        .filter(|e| e.done || matches!(events.instr(e.at), Instr::Wait { .. }) || events.instr(e.at).is_fence())
        .map(|e| events.describe(*e))
        .collect();
    let first = shown.iter().take(12).cloned().collect::<Vec<_>>().join(" ← ");
    let more = if shown.len() > 12 { format!(" ← {} more", shown.len() - 12) } else { String::new() };
    let place = Place::at(cycle[0].at.0 as usize, cycle[0].at.1 as usize);
    findings.add(Fault::Deadlock, place, format!("these wait for each other: {first}{more}"));
}
