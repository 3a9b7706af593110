//! Moving the machine on by whole periods.
//!
//! One die watches: at the end of every iteration of a long loop it notes how everything stands. When all that has moved since an earlier note
//! stands as it did then, only later by one period (dies at the same instruction, queues, messages and credits alike, clocks equally far
//! apart), and everything else has not moved at all, then the machine will go on in the same way until a loop ends or something that has
//! stood still moves. So all times, counts and sums are moved on by that many periods at once.

use super::engine::{Act, Block, COMPUTE, Die, Event, NONE, Sim, What};
use crate::machine::queues::QUEUES;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Iterations that were not simulated.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    /// Seconds of one period.
    pub period: f64,
    /// Periods.
    pub count: u64,
}

/// Notes that are compared with: the longest period in iterations.
const NOTES: usize = 4;

/// The die that watches, and its notes for each loop that it is in, outermost first.
#[derive(Default)]
pub struct Watch {
    die: Option<usize>,
    notes: Vec<Vec<Note>>,
}

impl Watch {
    /// A die has left a loop and is in so many now.
    pub fn left(&mut self, die: usize, depth: usize) {
        if self.die == Some(die) {
            self.notes.truncate(depth);
            if self.notes.iter().all(Vec::is_empty) {
                (self.die, self.notes) = (None, Vec::new());
            }
        }
    }
}

/// How everything stands.
struct Note {
    time: f64,
    dies: Vec<DieNote>,
    /// When each resource is free, and its sums: busy seconds, bytes, messages.
    servers: Vec<(f64, f64, u64, u64)>,
    channels: Vec<ChannelNote>,
    /// Sorted by what they are.
    events: Vec<(EventKey, f64)>,
    sent: u64,
    host_bytes: u64,
}

struct DieNote {
    /// Everything but times.
    form: (usize, bool, Option<Block>, Vec<usize>, Vec<QueueForm>),
    counts: Vec<u64>,
    /// The clock of the stream, then those of the queues.
    times: Vec<f64>,
    executed: u64,
    iterations: u64,
    compute: f64,
    wait: f64,
}

/// Instructions of the entries, number of completed ones, whether the first is being served.
type QueueForm = (Vec<u32>, usize, bool);

struct ChannelNote {
    form: (usize, usize, bool, bool),
    times: Vec<f64>,
}

/// Kind, die, queue, instruction, hop.
type EventKey = (u8, u32, u8, u32, u32);

/// What moves between two notes.
struct Motion {
    period: f64,
    dies: Vec<bool>,
    channels: Vec<bool>,
    count: u64,
}

/// The loops that a die is in, and what it has done ahead of its stream.
fn open(die: &Die) -> Vec<usize> {
    let ahead = die.early.iter().map(|e| usize::MAX - *e as usize);
    die.loops.iter().map(|l| l.start).chain(ahead).chain([(die.debt * 1e15) as usize]).collect()
}

impl Sim<'_> {
    /// A die begins a further iteration of a long loop.
    pub(super) fn watch_iteration(&mut self, d: usize) {
        if *self.watch.die.get_or_insert(d) != d {
            return;
        }
        let depth = self.dies[d].loops.len();
        self.watch.notes.resize_with(depth, Vec::new);
        let now = self.note(d);
        let mut notes = self.watch.notes.pop().unwrap_or_default();
        let found = notes.iter().rev().find_map(|before| Some((before, self.motion(before, &now)?)));
        match found {
            Some((before, motion)) if motion.count > 0 => {
                self.advance(before, &now, &motion);
                notes.clear();
            }
            _ => {
                if notes.len() == NOTES {
                    notes.remove(0);
                }
                notes.push(now);
            }
        }
        self.watch.notes.push(notes);
    }

    fn note(&self, d: usize) -> Note {
        let dies = self.dies.iter().map(|die| {
            let mut times = vec![die.time];
            let mut forms = Vec::with_capacity(QUEUES);
            for queue in &die.queues {
                forms.push((queue.entries.iter().map(|e| self.acts[e.act as usize].index).collect(), queue.done.len(), queue.serving));
                times.extend(queue.entries.iter().map(|e| e.issued));
                times.extend(queue.done.iter().map(|d| d.0));
                let head = queue.entries.front().filter(|_| queue.serving);
                times.extend(head.map(|e| self.acts[e.act as usize].start));
            }
            DieNote {
                form: (die.pc, die.over, die.blocked, open(die), forms),
                counts: die.loops.iter().map(|l| l.count).collect(),
                times,
                executed: die.executed,
                iterations: die.iterations,
                compute: die.times.compute,
                wait: die.times.wait,
            }
        });
        let channels = self.channels.iter().map(|c| ChannelNote {
            form: (c.flying, c.arrived.len(), c.needs_credit, c.needs_message),
            times: c.arrived.iter().map(|a| self.acts[*a as usize].end).collect(),
        });
        let mut events: Vec<(EventKey, f64)> = self.heap.iter().map(|Reverse(e)| (self.key(&e.what), e.time)).collect();
        events.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        Note {
            time: self.dies[d].time,
            dies: dies.collect(),
            servers: self.model.servers.iter().map(|s| (s.free, s.busy, s.bytes, s.messages)).collect(),
            channels: channels.collect(),
            events,
            sent: self.sent,
            host_bytes: self.host_bytes,
        }
    }

    /// What an event is, without its time.
    fn key(&self, what: &What) -> EventKey {
        let of = |kind, message: u32| {
            let m = &self.messages[message as usize];
            let act = &self.acts[m.act as usize];
            (kind, act.die, act.track, act.index, m.hop)
        };
        match *what {
            What::Try { die, queue, .. } => (0, die, queue, 0, 0),
            What::Done { die, queue } => (1, die, queue, 0, 0),
            What::Hop { message } => of(2, message),
            What::Arrive { message } => of(3, message),
        }
    }

    /// What has moved by one period since `before`, and for how many periods it can go on like that; `None` when something has moved in another
    /// way.
    fn motion(&self, before: &Note, now: &Note) -> Option<Motion> {
        let period = now.time - before.time;
        if period <= 0.0 {
            return None;
        }
        // Rounding: of the differences in a period, and of clocks that are long past zero.
        let slack = 1e-9 * period + 1e-14 * now.time;
        let later = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (b - a - period).abs() <= slack);
        let mut motion = Motion { period, dies: Vec::new(), channels: Vec::new(), count: u64::MAX };
        for (d, (a, b)) in before.dies.iter().zip(&now.dies).enumerate() {
            if a.form != b.form {
                return None;
            }
            let still = a.executed == b.executed && a.times == b.times;
            if !still {
                if b.executed <= a.executed || !later(&a.times, &b.times) {
                    return None;
                }
                motion.count = motion.count.min(self.periods(d, a, b)?);
            }
            motion.dies.push(!still);
        }
        for (a, b) in before.channels.iter().zip(&now.channels) {
            let still = a.times == b.times;
            if a.form != b.form || !still && !later(&a.times, &b.times) {
                return None;
            }
            motion.channels.push(!still);
        }
        if before.servers.iter().zip(&now.servers).any(|(a, b)| a.3 != b.3 && !later(&[a.0], &[b.0]))
            || before.events.len() != now.events.len()
        {
            return None;
        }
        for (a, b) in before.events.iter().zip(&now.events) {
            let moves = *motion.dies.get(b.0.1 as usize)?;
            if a.0 != b.0 || !(if moves { later(&[a.1], &[b.1]) } else { a.1 == b.1 }) {
                return None;
            }
            if !moves {
                // What stands still begins to move then; two periods are more than all clocks are apart.
                motion.count = motion.count.min((((b.1 - now.time) / period).floor() - 2.0).max(0.0) as u64);
            }
        }
        (motion.count < u64::MAX).then_some(motion)
    }

    /// How many periods a die can go on before a loop of it ends. In a period one loop counts, and those inside it are where they were.
    fn periods(&self, d: usize, before: &DieNote, now: &DieNote) -> Option<u64> {
        let mut counting = before.counts.iter().zip(&now.counts).enumerate().filter(|(_, (a, b))| a != b);
        let (level, (a, b)) = counting.next()?;
        if counting.next().is_some() {
            return None;
        }
        let step = b.checked_sub(*a).filter(|s| *s > 0)?;
        let last = self.dies[d].loops[level].frame.trips.saturating_sub(1);
        Some(last.saturating_sub(*b) / step)
    }

    /// Moves everything on by `motion.count` periods.
    fn advance(&mut self, before: &Note, now: &Note, motion: &Motion) {
        let (count, times) = (motion.count, motion.count as f64);
        let shift = motion.period * times;
        let grown = |a: u64, b: u64| b.saturating_sub(a).saturating_mul(count);
        let mut acts = BTreeSet::new();
        let mut skips = vec![NONE; self.dies.len()];
        for d in (0..self.dies.len()).filter(|d| motion.dies[*d]) {
            let (a, b) = (&before.dies[d], &now.dies[d]);
            let level = a.counts.iter().zip(&b.counts).position(|(a, b)| a != b).unwrap_or(0);
            skips[d] = self.acts.len() as u32;
            let die = &mut self.dies[d];
            let index = die.loops.get(level).map_or(0, |l| l.start as u32);
            self.acts.push(Act { die: d as u32, index, track: COMPUTE, start: die.time, end: die.time + shift, cause: die.last });
            self.skips.insert(skips[d], Skip { period: motion.period, count });
            if let Some(open) = die.loops.get_mut(level) {
                open.count += (b.counts[level] - a.counts[level]) * count;
            }
            die.time += shift;
            die.last = skips[d];
            die.executed += grown(a.executed, b.executed);
            die.iterations += grown(a.iterations, b.iterations);
            self.extrapolated += grown(a.iterations, b.iterations);
            die.times.compute += (b.compute - a.compute) * times;
            die.times.wait += (b.wait - a.wait) * times;
            for queue in &mut die.queues {
                for entry in &mut queue.entries {
                    entry.issued += shift;
                    entry.issuer = skips[d];
                    acts.insert(entry.act);
                }
                queue.done.iter_mut().for_each(|done| *done = (done.0 + shift, skips[d]));
            }
        }
        for (channel, _) in self.channels.iter().zip(&motion.channels).filter(|(_, moves)| **moves) {
            acts.extend(channel.arrived.iter().copied());
        }
        for (server, (a, b)) in self.model.servers.iter_mut().zip(before.servers.iter().zip(&now.servers)).filter(|(_, (a, b))| a.3 != b.3)
        {
            server.free += shift;
            server.busy += (b.1 - a.1) * times;
            server.bytes += grown(a.2, b.2);
            server.messages += grown(a.3, b.3);
        }
        self.sent += grown(before.sent, now.sent);
        self.host_bytes += grown(before.host_bytes, now.host_bytes);
        let events = std::mem::take(&mut self.heap).into_vec();
        for Reverse(mut event) in events {
            let skip = skips.get(self.key(&event.what).1 as usize).copied().unwrap_or(NONE);
            if skip != NONE {
                self.shift(&mut event, shift, skip, &mut acts);
            }
            self.heap.push(Reverse(event));
        }
        for act in acts {
            let act = &mut self.acts[act as usize];
            act.start += shift;
            act.end += shift;
            act.cause = skips[act.die as usize];
        }
    }

    fn shift(&mut self, event: &mut Event, shift: f64, skip: u32, acts: &mut BTreeSet<u32>) {
        event.time += shift;
        match &mut event.what {
            What::Try { cause, .. } => *cause = skip,
            What::Hop { message } | What::Arrive { message } => {
                let message = &mut self.messages[*message as usize];
                message.tail += shift;
                acts.insert(message.act);
            }
            What::Done { .. } => {}
        }
    }
}
