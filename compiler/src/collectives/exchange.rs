//! All-reduce as instruction streams: chunks climb packed trees, are combined on the way, and come down again.
//!
//! Every chunk of every tree is a message on each connection of the tree, once up and once down. A list schedule decides the order on each link,
//! earlier chunks first and those with the longest way to go before others, so that the way down never runs dry. The streams issue everything in the
//! order of that schedule, but nothing before what it waits for: it is one order for all dies, so they cannot wait for each other in a circle, however
//! the times turn out.
//!
//! Chunks grow at the beginning and shrink at the end: the pipeline fills and drains with small ones and runs with large ones.

use super::bare::{Bare, Emitter};
use super::trees::{Forest, Tree};
use girih_ir::program::{Channel, ChannelId, Instr, PortId, Program, Queue, Region};
use girih_ir::scalar::Monoid;
use girih_ir::target::{Direction, LinkId, Target};
use girih_ir::types::{DType, TensorType};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Chunks of all trees together when there is enough to send.
const CHUNKS: usize = 1175;
/// How much larger a chunk is than the one before it while the pipeline fills.
const GROWTH: f64 = 1.5;
/// How many chunks ahead a message is for each hop that its chunk still has to go.
const AHEAD: f64 = 0.8;
/// How many issues of a stream a message waits for on average before its own.
const ISSUES: f64 = 3.0;
/// Messages on the way in a channel.
const DEPTH: u32 = 8;

/// Bytes of the largest chunks of an all-reduce of so many bytes.
pub fn chunk_bytes(target: &Target, forest: &Forest, bytes: f64) -> f64 {
    let trees = forest.trees.len().max(1);
    let sizes = chunk_sizes(target, (bytes / 4.0 / trees as f64) as usize, trees);
    sizes.into_iter().max().unwrap_or(0) as f64 * 4.0
}

/// Elements of each chunk of a tree's part.
fn chunk_sizes(target: &Target, elements: usize, trees: usize) -> Vec<usize> {
    // A chunk that takes less time on a link than its set-up is not worth sending.
    let least = (target.link_bandwidth() * (target.message_overhead() + target.issue_overhead()) / 4.0).max(64.0);
    let total = elements as f64;
    if total <= 2.0 * least {
        return vec![elements];
    }
    let ramp = |cap: f64| std::iter::successors(Some(least), |s| Some(s * GROWTH)).take_while(|s| *s < cap).collect::<Vec<f64>>();
    let full = |cap: f64| (CHUNKS / trees).saturating_sub(2 * ramp(cap).len());
    let (mut low, mut high) = (least, total);
    for _ in 0..60 {
        let cap = 0.5 * (low + high);
        let sum = 2.0 * ramp(cap).iter().sum::<f64>() + full(cap) as f64 * cap;
        if sum < total { low = cap } else { high = cap }
    }
    let rising = ramp(high);
    let mut shape = rising.clone();
    shape.extend(std::iter::repeat_n(high, full(high).max(1)));
    shape.extend(rising.into_iter().rev());
    let sum: f64 = shape.iter().sum();
    // Cut where the running sum says, so that the parts add up exactly.
    let mut at = 0.0;
    let mut from = 0;
    let mut sizes = Vec::with_capacity(shape.len());
    for s in shape {
        at += s;
        let to = ((at / sum * total).round() as usize).min(elements);
        sizes.push(to - from);
        from = to;
    }
    // Rounding may leave something over.
    if let Some(last) = sizes.last_mut() {
        *last += elements - from;
    }
    sizes.retain(|s| *s > 0);
    sizes
}

/// One message of the schedule.
#[derive(Clone, Copy, Debug)]
struct Message {
    tree: usize,
    chunk: usize,
    up: bool,
    from: usize,
    to: usize,
    link: LinkId,
    start: f64,
    /// When all of it is at its die and combined.
    arrive: f64,
    /// Its number on its link, from 1.
    position: u32,
}

/// Where the chunks of a tree lie: offset in elements, and extent.
type Parts = Vec<Vec<(usize, usize)>>;

/// The list schedule.
struct Scheduler<'a> {
    forest: &'a Forest,
    parts: &'a Parts,
    /// By tree and die, the hops that a chunk still has to go when it leaves the die upward, and when it comes down to it.
    rest: Vec<Vec<(usize, usize)>>,
    rate: f64,
    hop: f64,
    issue: f64,
    messages: Vec<Message>,
    /// Messages that could go, by link: priority and number.
    pending: BTreeMap<LinkId, BTreeSet<(i64, u32)>>,
    free: BTreeMap<LinkId, f64>,
    sent: BTreeMap<LinkId, u32>,
    /// Children that have not sent yet, by tree, chunk and die.
    missing: BTreeMap<(usize, usize, usize), usize>,
    /// Time in femtoseconds, kind, message or link.
    events: BinaryHeap<Reverse<(u64, u8, u32)>>,
}

fn femto(seconds: f64) -> u64 {
    (seconds * 1e15).round() as u64
}

impl Scheduler<'_> {
    fn offer(&mut self, now: f64, tree: usize, chunk: usize, up: bool, from: usize, (to, link): (usize, LinkId)) {
        let id = self.messages.len() as u32;
        self.messages.push(Message { tree, chunk, up, from, to, link, start: 0.0, arrive: 0.0, position: 0 });
        self.events.push(Reverse((femto(now), 0, id)));
    }

    /// Sends a die's chunk on: to its parent, or from the root to the children.
    fn complete(&mut self, now: f64, tree: usize, chunk: usize, die: usize) {
        match self.forest.trees[tree].parent[die] {
            Some(parent) => self.offer(now, tree, chunk, true, die, parent),
            None => self.descend(now + self.issue, tree, chunk, die),
        }
    }

    fn descend(&mut self, now: f64, tree: usize, chunk: usize, die: usize) {
        for child in self.forest.trees[tree].children[die].clone() {
            self.offer(now, tree, chunk, false, die, child);
        }
    }

    fn run(&mut self) {
        // What the leaves have is there from the beginning; it goes in the order of the chunks.
        for chunk in 0..self.parts.iter().map(Vec::len).max().unwrap_or(0) {
            for tree in (0..self.forest.trees.len()).filter(|t| chunk < self.parts[*t].len()) {
                for die in 0..self.forest.dies.len() {
                    let children = self.forest.trees[tree].children[die].len();
                    self.missing.insert((tree, chunk, die), children);
                    if children == 0 && self.forest.dies.len() > 1 {
                        self.complete(0.0, tree, chunk, die);
                    }
                }
            }
        }
        while let Some(Reverse((time, kind, id))) = self.events.pop() {
            let now = time as f64 * 1e-15;
            match kind {
                0 => {
                    let m = self.messages[id as usize];
                    let rest = self.rest[m.tree][if m.up { m.from } else { m.to }];
                    let hops = if m.up { rest.0 } else { rest.1 };
                    let key = ((m.chunk as f64 - AHEAD * hops as f64) * 1e3) as i64;
                    self.pending.entry(m.link).or_default().insert((key, id));
                    self.serve(now, m.link);
                }
                1 => self.serve(now, LinkId(id)),
                _ => self.arrived(now, id),
            }
        }
    }

    fn serve(&mut self, now: f64, link: LinkId) {
        if self.free.get(&link).is_some_and(|free| femto(*free) > femto(now)) {
            return;
        }
        let Some((_, id)) = self.pending.get_mut(&link).and_then(BTreeSet::pop_first) else { return };
        let message = &mut self.messages[id as usize];
        let seconds = self.parts[message.tree][message.chunk].1 as f64 * 4.0 / self.rate;
        let position = self.sent.entry(link).or_default();
        *position += 1;
        (message.start, message.arrive, message.position) = (now, now + seconds + self.hop, *position);
        self.free.insert(link, now + seconds);
        self.events.push(Reverse((femto(now + seconds), 1, link.0)));
        self.events.push(Reverse((femto(message.arrive), 2, id)));
    }

    fn arrived(&mut self, now: f64, id: u32) {
        let m = self.messages[id as usize];
        if !m.up {
            return self.descend(now + self.issue, m.tree, m.chunk, m.to);
        }
        let missing = self.missing.entry((m.tree, m.chunk, m.to)).or_default();
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            self.complete(now + self.issue, m.tree, m.chunk, m.to);
        }
    }
}

/// The program of an all-reduce of a vector of f32 that every die holds at the beginning of its SRAM, over the trees of the forest whose schedule
/// is the shortest, and which one that is; nothing without forests.
pub fn program(target: &Target, forests: &[Forest], elements: usize) -> Option<(Program, usize)> {
    let end = |messages: &[Message]| messages.iter().map(|m| m.arrive).fold(0.0, f64::max);
    let all = forests.iter().enumerate().map(|(i, forest)| {
        let parts = split(target, forest, elements);
        let messages = schedule(target, forest, &parts);
        (end(&messages), i, parts, messages)
    });
    let (_, i, parts, messages) = all.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
    Some((emit(target, &forests[i], &parts, &messages, elements), i))
}

fn schedule(target: &Target, forest: &Forest, parts: &Parts) -> Vec<Message> {
    let mut scheduler = Scheduler {
        forest,
        parts,
        rest: forest.trees.iter().map(rest).collect(),
        rate: target.link_bandwidth(),
        hop: target.message_overhead() + target.hop_latency(),
        issue: ISSUES * target.issue_overhead(),
        messages: Vec::new(),
        pending: BTreeMap::new(),
        free: BTreeMap::new(),
        sent: BTreeMap::new(),
        missing: BTreeMap::new(),
        events: BinaryHeap::new(),
    };
    scheduler.run();
    scheduler.messages
}

/// See [`Scheduler::rest`].
fn rest(tree: &Tree) -> Vec<(usize, usize)> {
    let count = tree.parent.len();
    let way = |die: usize| std::iter::successors(Some(die), |d| tree.parent[*d].map(|p| p.0)).take(count);
    let mut below = vec![1; count];
    for die in 0..count {
        way(die).enumerate().for_each(|(hops, above)| below[above] = below[above].max(hops + 1));
    }
    (0..count).map(|die| (way(die).count() - 1 + tree.depth, below[die])).collect()
}

/// The part of each tree, in chunks.
fn split(target: &Target, forest: &Forest, elements: usize) -> Parts {
    let trees = forest.trees.len().max(1);
    let mut at = 0;
    let mut parts = Parts::new();
    for t in 0..forest.trees.len() {
        let mut chunks = Vec::new();
        for size in chunk_sizes(target, elements * (t + 1) / trees - elements * t / trees, trees) {
            chunks.push((at, size));
            at += size;
        }
        parts.push(chunks);
    }
    parts
}

/// What a die does about a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Deed {
    Receive,
    Send,
}

/// Messages by tree, chunk and die.
type At<T> = BTreeMap<(usize, usize, usize), T>;

/// What a die sends on with a message: all that climbed into it, or the sum that came down to it.
fn sources(m: &Message, climbs: &At<Vec<u32>>, down: &At<u32>) -> Vec<u32> {
    let key = (m.tree, m.chunk, m.from);
    match down.get(&key).filter(|_| !m.up) {
        Some(sum) => vec![*sum],
        None => climbs.get(&key).cloned().unwrap_or_default(),
    }
}

fn emit(target: &Target, forest: &Forest, parts: &Parts, messages: &[Message], elements: usize) -> Program {
    let side = |link: LinkId| target.mesh.link_start(link).1;
    // The queue of a message where it comes from and where it goes to.
    let out = |m: &Message| Queue::Out(side(m.link));
    let into = |m: &Message| Queue::In(side(m.link).opposite());
    let mut climbs: At<Vec<u32>> = BTreeMap::new();
    let mut own: At<u32> = BTreeMap::new();
    let mut down: At<u32> = BTreeMap::new();
    let mut order: Vec<u32> = (0..messages.len() as u32).collect();
    order.sort_by_key(|i| (femto(messages[*i as usize].arrive), *i));
    for id in order.iter().copied() {
        let m = &messages[id as usize];
        if m.up {
            climbs.entry((m.tree, m.chunk, m.to)).or_default().push(id);
            own.insert((m.tree, m.chunk, m.from), id);
        } else {
            down.insert((m.tree, m.chunk, m.to), id);
        }
    }
    // When the streams issue the two ends of each message: in the order of the schedule, but never before what they wait for is issued. The first of
    // a link's messages come first on it, so one that is held up holds up those behind it, which the schedule does not know.
    let mut deeds: Vec<Vec<(u64, Deed, u32)>> = vec![Vec::new(); forest.dies.len()];
    let mut needs: Vec<Option<(Queue, u32)>> = vec![None; messages.len()];
    let (mut sent, mut received) = (vec![0u64; messages.len()], vec![0u64; messages.len()]);
    let mut last: BTreeMap<LinkId, (u64, u64)> = BTreeMap::new();
    for id in order {
        let m = &messages[id as usize];
        let behind = last.get(&m.link).copied().unwrap_or((0, 0));
        let sources = sources(m, &climbs, &down);
        let ready = sources.iter().map(|s| received[*s as usize] + 1).max().unwrap_or(0);
        sent[id as usize] = femto(m.start).max(behind.0 + 1).max(ready);
        let siblings = climbs.get(&(m.tree, m.chunk, m.to));
        let before = match (m.up, siblings.and_then(|s| s.iter().position(|x| *x == id))) {
            // The one before it combines into the same place.
            (true, Some(n)) if n > 0 => siblings.map(|s| s[n - 1]).map(|b| (received[b as usize], (into(&messages[b as usize]), b))),
            (true, _) => None,
            // What the die has sent up lies where the sum will be.
            (false, _) => own.get(&(m.tree, m.chunk, m.to)).map(|o| (sent[*o as usize], (out(&messages[*o as usize]), *o))),
        };
        needs[id as usize] = before.map(|(_, (queue, b))| (queue, messages[b as usize].position));
        let free = before.map_or(0, |(issued, (_, b))| femto(messages[b as usize].arrive).max(issued + 1));
        received[id as usize] = sent[id as usize].max(behind.1 + 1).max(free);
        last.insert(m.link, (sent[id as usize], received[id as usize]));
        deeds[m.to].push((received[id as usize], Deed::Receive, id));
        deeds[m.from].push((sent[id as usize], Deed::Send, id));
    }
    let mut bare = Bare::new("all-reduce", target);
    let mut channels: BTreeMap<LinkId, ChannelId> = BTreeMap::new();
    for m in messages {
        channels.entry(m.link).or_insert_with(|| {
            bare.program.channels.push(Channel { source: forest.dies[m.from], dest: forest.dies[m.to], route: vec![m.link], depth: DEPTH });
            ChannelId::new(bare.program.channels.len() - 1)
        });
    }
    for (position, die) in forest.dies.iter().enumerate() {
        let ports = |of: &dyn Fn(Direction) -> Option<LinkId>| -> (Vec<ChannelId>, BTreeMap<LinkId, PortId>) {
            let links: Vec<LinkId> = Direction::ALL.into_iter().filter_map(of).filter(|l| channels.contains_key(l)).collect();
            let ids = links.iter().map(|l| channels[l]).collect();
            (ids, links.into_iter().enumerate().map(|(i, l)| (l, PortId::new(i))).collect())
        };
        let (out_ports, out_port) = ports(&|side| target.mesh.link(*die, side));
        let (in_ports, in_port) = ports(&|side| target.mesh.link(target.mesh.beside(*die, side)?, side.opposite()));
        let mut list = std::mem::take(&mut deeds[position]);
        list.sort_by_key(|(time, deed, id)| (*time, *deed, messages[*id as usize].position, *id));
        let mut e = Emitter::default();
        for (_, deed, id) in list {
            let m = &messages[id as usize];
            let (offset, extent) = parts[m.tree][m.chunk];
            let region = Region::dense(offset as u64 * 4, &TensorType::new(DType::F32, [extent]));
            match deed {
                Deed::Receive => {
                    if let Some((queue, count)) = needs[id as usize] {
                        e.wait(queue, count);
                    }
                    let port = in_port[&m.link];
                    e.stream.push(if m.up {
                        Instr::RecvAdd { port, out: region, monoid: Monoid::Sum }
                    } else {
                        Instr::Recv { port, out: region }
                    });
                }
                Deed::Send => {
                    for source in sources(m, &climbs, &down) {
                        let source = &messages[source as usize];
                        e.wait(into(source), source.position);
                    }
                    e.stream.push(Instr::Send { port: out_port[&m.link], region });
                }
            }
        }
        bare.die(*die, elements as u64 * 4, out_ports, in_ports, e.stream);
    }
    bare.program
}
