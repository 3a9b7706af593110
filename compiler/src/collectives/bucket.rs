//! The dual-order bucket: reduce-scatter and all-gather along lines of dies, one half of the vector along the rows first and the other along the
//! columns first, so that all connections are busy all the time.
//!
//! On a line of n dies a sum goes to its owner from both ends, each die adding its own; a gathered part goes from its owner to both ends. Either
//! way the busiest connection carries (n − 1)/n of what is scattered, and no wrap-around is needed. On two dimensions, the second one handles what
//! the first has left on a die. A reduce-scatter, or an all-gather, then takes what a corner needs at least: all but its own part through two
//! connections. As an all-reduce, packed [`trees`](super::trees) are faster.
//!
//! Messages have a time in the schedule, counted in pieces of the vector; the streams issue both ends of each at the same place of that order.

use super::bare::{Bare, Emitter};
use girih_ir::program::{Channel, ChannelId, Instr, PortId, Program, Queue, Region};
use girih_ir::scalar::Monoid;
use girih_ir::target::{Coord, DieId, Direction, LinkId, Target};
use girih_ir::types::{DType, TensorType};
use std::collections::BTreeMap;

/// Messages on the way in a channel.
const DEPTH: u32 = 8;

/// What the dies do with their vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collective {
    /// Every die ends with its part of the sum over all dies.
    ReduceScatter,
    /// Every die begins with its part and ends with the whole vector.
    AllGather,
    /// Every die ends with the whole sum.
    AllReduce,
}

/// Seconds that no reduce-scatter or all-gather of a vector of so many bytes can beat: every die has to send (receive) all parts but its own over
/// the connections that it has.
pub fn lower_bound(target: &Target, bytes: f64) -> f64 {
    let dies = target.mesh.usable_dies();
    let links = |die: &DieId| Direction::ALL.into_iter().filter(|side| target.mesh.link(*die, *side).is_some()).count();
    let fewest = dies.iter().map(links).min().unwrap_or(0).max(1);
    let others = dies.len().saturating_sub(1) as f64 / dies.len().max(1) as f64;
    others * bytes / fewest as f64 / target.link_bandwidth()
}

/// A message between neighbors.
#[derive(Clone, Copy, Debug)]
struct Message {
    /// When it leaves, in pieces.
    time: usize,
    from: DieId,
    to: DieId,
    piece: usize,
    /// Whether it is added to what is there.
    adds: bool,
}

/// One half of the vector: `first` and `second` are the extents of the dimensions in the order in which it is scattered.
#[derive(Clone, Copy)]
struct Half {
    columns_first: bool,
    first: usize,
    second: usize,
}

/// Dies on a line, and what each of them owns.
struct Line {
    dies: Vec<DieId>,
    /// Pieces of each die, equally many.
    blocks: Vec<Vec<usize>>,
}

impl Line {
    /// How long either way takes, in pieces.
    fn span(&self) -> usize {
        (self.dies.len() - 1) * self.blocks[0].len()
    }

    /// Sums go to their owners: from either end, what has the farthest way first.
    fn scatter(&self, start: usize, messages: &mut Vec<Message>) {
        let last = self.dies.len() - 1;
        for (owner, block) in self.blocks.iter().enumerate() {
            let size = block.len();
            for (k, piece) in block.iter().copied().enumerate() {
                let mut send = |from: usize, to: usize, round: usize, k: usize| {
                    let (from, to) = (self.dies[from], self.dies[to]);
                    messages.push(Message { time: start + round * size + k, from, to, piece, adds: true });
                };
                (0..owner).for_each(|i| send(i, i + 1, last - owner + i, k));
                // The other way begins with the other half of the block, so that both can be added at once.
                (owner + 1..=last).for_each(|i| send(i, i - 1, owner + last - i, (k + size / 2) % size));
            }
        }
    }

    /// What is owned goes to both ends, what is nearest first.
    fn gather(&self, start: usize, messages: &mut Vec<Message>) {
        let last = self.dies.len() - 1;
        for (owner, block) in self.blocks.iter().enumerate() {
            for (k, piece) in block.iter().copied().enumerate() {
                let mut send = |from: usize, to: usize, round: usize| {
                    let (from, to) = (self.dies[from], self.dies[to]);
                    messages.push(Message { time: start + round * block.len() + k, from, to, piece, adds: false });
                };
                (owner..last).for_each(|i| send(i, i + 1, i - owner));
                (1..=owner).for_each(|i| send(i, i - 1, owner - i));
            }
        }
    }
}

impl Half {
    /// The number of a piece: each die owns two of them.
    fn piece(&self, i: usize, j: usize, part: usize) -> usize {
        let before = if self.columns_first { 2 * self.first * self.second } else { 0 };
        before + (i * self.second + j) * 2 + part
    }

    fn die(&self, target: &Target, i: usize, j: usize) -> Option<DieId> {
        let (row, col) = if self.columns_first { (i, j) } else { (j, i) };
        target.die_at(Coord::new(row as u32, col as u32))
    }

    /// The lines along the first dimension: a die owns all of its index there.
    fn first_lines(&self, target: &Target) -> Option<Vec<Line>> {
        let blocks = |i: usize| (0..self.second).flat_map(|j| [self.piece(i, j, 0), self.piece(i, j, 1)]).collect();
        let line = |j: usize| {
            let dies = (0..self.first).map(|i| self.die(target, i, j)).collect::<Option<_>>()?;
            Some(Line { dies, blocks: (0..self.first).map(blocks).collect() })
        };
        (0..self.second).map(line).collect()
    }

    /// The lines along the second dimension.
    fn second_lines(&self, target: &Target) -> Option<Vec<Line>> {
        let line = |i: usize| {
            let dies = (0..self.second).map(|j| self.die(target, i, j)).collect::<Option<_>>()?;
            Some(Line { dies, blocks: (0..self.second).map(|j| vec![self.piece(i, j, 0), self.piece(i, j, 1)]).collect() })
        };
        (0..self.first).map(line).collect()
    }
}

/// The program of a collective over a vector of f32 at the beginning of every die's SRAM; `None` where a die or link is dead or the mesh is a line.
pub fn program(target: &Target, collective: Collective, elements: usize) -> Option<Program> {
    let (rows, cols) = (target.mesh.shape.rows as usize, target.mesh.shape.cols as usize);
    if !target.mesh.is_whole() || rows < 2 || cols < 2 {
        return None;
    }
    let (mut messages, mut start) = (Vec::new(), 0);
    let halves = [Half { columns_first: false, first: cols, second: rows }, Half { columns_first: true, first: rows, second: cols }];
    let lines: Vec<(Vec<Line>, Vec<Line>)> =
        halves.iter().map(|h| Some((h.first_lines(target)?, h.second_lines(target)?))).collect::<Option<_>>()?;
    if collective != Collective::AllGather {
        for (first, second) in &lines {
            first.iter().for_each(|l| l.scatter(0, &mut messages));
            second.iter().for_each(|l| l.scatter(first[0].span(), &mut messages));
            start = start.max(first[0].span() + second[0].span());
        }
    }
    if collective != Collective::ReduceScatter {
        for (first, second) in &lines {
            second.iter().for_each(|l| l.gather(start, &mut messages));
            first.iter().for_each(|l| l.gather(start + second[0].span(), &mut messages));
        }
    }
    messages.sort_by_key(|m| m.time);
    emit(target, &messages, elements, 4 * rows * cols)
}

/// The stream of a die under construction, with what is under way to and from each piece of its vector.
#[derive(Default)]
struct Die {
    emitter: Emitter,
    ports: BTreeMap<Queue, PortId>,
    channels: [Vec<ChannelId>; 2],
    issued: BTreeMap<Queue, u32>,
    /// The last message that is written to each piece.
    written: BTreeMap<usize, (Queue, u32)>,
    /// Messages that read each piece since then.
    read: BTreeMap<usize, Vec<(Queue, u32)>>,
}

impl Die {
    /// Opens a queue on a channel.
    fn open(&mut self, queue: Queue, channel: ChannelId) {
        let list = &mut self.channels[usize::from(matches!(queue, Queue::In(_)))];
        self.ports.insert(queue, PortId::new(list.len()));
        list.push(channel);
    }

    fn issue(&mut self, queue: Queue, instr: Instr) -> (Queue, u32) {
        self.emitter.stream.push(instr);
        let count = self.issued.entry(queue).or_default();
        *count += 1;
        (queue, *count)
    }

    fn receive(&mut self, queue: Queue, piece: usize, out: Region, adds: bool) {
        let under_way: Vec<_> = self.written.get(&piece).into_iter().chain(self.read.get(&piece).into_iter().flatten()).copied().collect();
        under_way.into_iter().for_each(|(queue, count)| self.emitter.wait(queue, count));
        let port = self.ports[&queue];
        let instr = if adds { Instr::RecvAdd { port, out, monoid: Monoid::Sum } } else { Instr::Recv { port, out } };
        let issued = self.issue(queue, instr);
        self.written.insert(piece, issued);
        self.read.remove(&piece);
    }

    fn send(&mut self, queue: Queue, piece: usize, region: Region) {
        if let Some((written, count)) = self.written.get(&piece).copied() {
            self.emitter.wait(written, count);
        }
        let issued = self.issue(queue, Instr::Send { port: self.ports[&queue], region });
        self.read.entry(piece).or_default().push(issued);
    }
}

/// The streams of messages in the order of their times; `None` when two dies of a message are not neighbors.
fn emit(target: &Target, messages: &[Message], elements: usize, pieces: usize) -> Option<Program> {
    let mut bare = Bare::new("bucket", target);
    let mut dies: BTreeMap<DieId, Die> = target.mesh.usable_dies().into_iter().map(|d| (d, Die::default())).collect();
    let mut links: BTreeMap<(DieId, DieId), LinkId> = BTreeMap::new();
    for m in messages {
        if links.contains_key(&(m.from, m.to)) {
            continue;
        }
        let route = target.route(m.from, m.to).filter(|r| r.len() == 1)?;
        let (link, channel) = (route[0], ChannelId::new(bare.program.channels.len()));
        bare.program.channels.push(Channel { source: m.from, dest: m.to, route, depth: DEPTH });
        links.insert((m.from, m.to), link);
        let side = target.mesh.link_start(link).1;
        dies.get_mut(&m.from)?.open(Queue::Out(side), channel);
        dies.get_mut(&m.to)?.open(Queue::In(side.opposite()), channel);
    }
    let begins = |piece: usize| elements * piece / pieces;
    // What arrives at a time is expected before anything leaves at that time.
    for together in messages.chunk_by(|a, b| a.time == b.time) {
        let side = |m: &Message| target.mesh.link_start(links[&(m.from, m.to)]).1;
        let region = |m: &Message| {
            let extent = begins(m.piece + 1) - begins(m.piece);
            Region::dense(begins(m.piece) as u64 * 4, &TensorType::new(DType::F32, [extent]))
        };
        for m in together {
            dies.get_mut(&m.to)?.receive(Queue::In(side(m).opposite()), m.piece, region(m), m.adds);
        }
        for m in together {
            dies.get_mut(&m.from)?.send(Queue::Out(side(m)), m.piece, region(m));
        }
    }
    for (die, Die { emitter, channels: [out, into], .. }) in dies {
        bare.die(die, elements as u64 * 4, out, into, emitter.stream);
    }
    Some(bare.program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_of_a_row_carries_all_but_one_part() {
        let tile = Target::builtin("dojo-tile").unwrap();
        let made = program(&tile, Collective::ReduceScatter, 1000).unwrap();
        // In each half a die sends on four fifths of its row's part at most, then four fifths of a fifth of that along the other dimension.
        let sent = |p: &Program| p.streams.iter().flatten().filter(|i| matches!(i, Instr::Send { .. })).count();
        assert_eq!(sent(&made), 2 * (5 * 2 * 10 * 10 + 5 * 2 * 10 * 2));
        assert_eq!(sent(&program(&tile, Collective::AllReduce, 1000).unwrap()), 2 * sent(&made));
        assert_eq!(made.channels.len(), 80);
    }

    #[test]
    fn holes_and_lines_have_no_bucket() {
        let tile = Target::builtin("dojo-tile").unwrap();
        assert!(program(&tile.clone().with_dead([Coord::new(2, 2)]).unwrap(), Collective::AllReduce, 1000).is_none());
        assert!(program(&tile.with_mesh(1, 5).unwrap(), Collective::AllReduce, 1000).is_none());
    }
}
