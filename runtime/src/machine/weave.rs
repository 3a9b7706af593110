//! Weaves the streams of all dies into one, for the team of a machine that has all of their memories.
//!
//! Dies repeat each other: what is replicated every die computes for itself, and what one die sends four others receive into memories of
//! their own. On one processor that is work done again. But the streams say where every byte comes from. So they are followed side by
//! side, once, when a session begins, with a value for each result instead of its numbers ([`contents`]): two instructions that do the same to the
//! same values make the same value, and only the first is kept; messages and copies move values, and bytes only when somebody needs them
//! where they are not. What is left is one stream over one memory, in which each die has a range of addresses, and the team runs it as it
//! runs the stream of the host, with all that it does for that.
//!
//! The result is that of the dies to the bit, because the instructions that are kept are theirs, and no two values are taken for equal unless
//! they come from the same instruction on the same values. State that several dies hold counts as equal as long as every step leaves it so, which
//! is followed as well. Where the dies do something that is not understood here, and whenever they
//! would not come to an end, there is no woven stream, and the mesh is run die by die.

mod contents;
mod cursor;
mod emit;
mod lives;
mod loops;
mod regions;
mod runs;

use self::contents::{Content, Map};
use self::cursor::{Code, Cursor, Next};
use self::emit::{Member, Origin, Value};
use self::lives::{ALWAYS, lives};
use self::regions::same_order;
use self::runs::{Runs, Val};
use super::loops::Loops;
use super::queues;
use girih_ir::fused::FusedProgram;
use girih_ir::program::{ClaimId, DieCode, Instr, Program, Region, StateShard, StreamId};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dies begin at multiples of this.
const PAGE: u64 = 4096;
/// Attempts at a step or loop before its repeated values are given up.
const ATTEMPTS: usize = 6;
/// Rectangles of bytes that are looked at before the streams are left to the dies.
const MOST_LOOKS: u64 = 400_000_000;

/// A program of one die that does what all dies do.
pub struct Woven {
    /// Its one die has the memories of all one after the other; of state that several dies have, it has the shard that is kept up.
    pub program: Program,
    /// For each instruction, the die and the instruction that it is of.
    pub origin: Vec<(u32, u32)>,
}

/// Weaves the streams of a program, when that is possible.
pub fn weave(program: &Program) -> Option<Woven> {
    weave_within(program, MOST_LOOKS)
}

/// Weaves, unless more rectangles than so many have to be looked at.
fn weave_within(program: &Program, looks: u64) -> Option<Woven> {
    if program.replicas.is_some() || program.dies.len() < 2 {
        return None;
    }
    let mut apart = FxHashSet::default();
    for _ in 0..ATTEMPTS {
        let mut weaver = Weaver::new(program, looks)?;
        let classes = weaver.begin(&apart);
        weaver.run()?;
        let wrong = weaver.finish(&classes)?;
        if wrong.is_empty() {
            return Some(weaver.done(&classes));
        }
        apart.extend(wrong);
    }
    None
}

/// Whether all regions of a stream lie in the memory of its die.
fn lie_within(stream: &[Instr], memory: u64) -> bool {
    let inside = |r: &Region| r.strides.len() == r.dims.len() && r.extent().is_some_and(|e| e.end <= memory);
    stream.iter().all(|instr| instr.reads().into_iter().chain(instr.writes()).all(inside))
}

/// State that several dies have: the pair, and its shards with equal parts. The first one is kept up.
struct Class {
    pair: usize,
    shards: Vec<usize>,
}

struct Weaver<'p> {
    program: &'p Program,
    codes: Vec<Code<'p>>,
    cursors: Vec<Cursor>,
    /// Dies that take part: inside of a loop those that run it.
    active: Vec<bool>,
    /// What lies where according to the dies, and what really does.
    logical: Map,
    physical: Map,
    values: Vec<Value>,
    contents: FxHashMap<Content, Val>,
    /// What instructions on known values make: the values of their results.
    table: FxHashMap<Instr, Vec<Val>>,
    out: Vec<Instr>,
    origin: Vec<(u32, u32)>,
    fused: Vec<Arc<FusedProgram>>,
    /// End of the memory; behind the dies lies what no die has a place for.
    top: u64,
    /// Places behind the dies, by their length.
    rooms: BTreeMap<u64, Vec<u64>>,
    frames: Vec<loops::Frame>,
    /// Copies are not to be noted as changes of the open loops.
    quiet: bool,
    /// Rectangles that may be looked at.
    most_looks: u64,
}

impl<'p> Weaver<'p> {
    fn new(program: &'p Program, most_looks: u64) -> Option<Self> {
        let mut ranks = cursor::ranks(program).into_iter();
        let (mut codes, mut base) = (Vec::new(), 0u64);
        for (d, die) in program.dies.iter().enumerate() {
            let stream = program.streams.get(die.stream.index())?.as_slice();
            lie_within(stream, die.sram_used).then_some(())?;
            let loops = Loops::of(stream).ok()?;
            let entries: Vec<_> = stream.iter().map(|i| queues::entry(program, die, i).ok()).collect::<Option<_>>()?;
            let own = program.state.iter().flatten().filter(|s| s.die as usize == d);
            let state: Vec<Region> = own.map(|s| s.region.clone()).collect();
            let lives = lives(stream, &loops, &entries, &state, most_looks / program.dies.len() as u64)?;
            codes.push(Code { stream, base, loops, lives, entries, ranks: ranks.next()? });
            base = base.checked_add(die.sram_used)?.checked_next_multiple_of(PAGE)?;
        }
        let dies = codes.len();
        Some(Weaver {
            program,
            codes,
            cursors: (0..dies).map(|_| Cursor::new()).collect(),
            active: vec![true; dies],
            logical: Map::default(),
            physical: Map::default(),
            values: vec![Value::default()],
            contents: FxHashMap::default(),
            table: FxHashMap::default(),
            out: Vec::new(),
            origin: Vec::new(),
            fused: program.fused.clone(),
            top: base,
            rooms: BTreeMap::new(),
            frames: Vec::new(),
            quiet: false,
            most_looks,
        })
    }

    fn shard(&self, pair: usize, shard: usize) -> (usize, Region) {
        let s = &self.program.state[pair][shard];
        (s.die as usize, self.codes[s.die as usize].region(&s.region))
    }

    /// Puts the state where it lies before the step. `apart`: shards that are not like others of the same part.
    fn begin(&mut self, apart: &FxHashSet<(usize, usize)>) -> Vec<Class> {
        let mut classes: Vec<Class> = Vec::new();
        for (pair, shards) in self.program.state.iter().enumerate() {
            let first = classes.len();
            for (k, shard) in shards.iter().enumerate() {
                let own = apart.contains(&(pair, k));
                let like = |c: &&mut Class| {
                    let head = (pair, c.shards[0]);
                    !own && !apart.contains(&head) && shards[c.shards[0]].part == shard.part
                };
                match classes[first..].iter_mut().find(like) {
                    Some(class) => class.shards.push(k),
                    None => classes.push(Class { pair, shards: vec![k] }),
                }
            }
        }
        let mut used = vec![0usize; self.codes.len()];
        let mut until: FxHashMap<(usize, usize), u32> = FxHashMap::default();
        for (pair, shards) in self.program.state.iter().enumerate() {
            for (k, shard) in shards.iter().enumerate() {
                let die = shard.die as usize;
                until.insert((pair, k), self.codes[die].lives.initial.get(used[die]).copied().unwrap_or(ALWAYS));
                used[die] += 1;
            }
        }
        for class in &classes {
            let val = self.fresh();
            for (i, k) in class.shards.iter().enumerate() {
                let (die, region) = self.shard(class.pair, *k);
                let Some(runs) = Runs::of(&region) else { continue };
                self.put(&runs, val, (die, until[&(class.pair, *k)]));
                if i == 0 {
                    self.place(&runs, val);
                }
            }
        }
        classes
    }

    /// Follows all dies to their ends.
    fn run(&mut self) -> Option<()> {
        loop {
            let mut next = vec![Next::Waits; self.codes.len()];
            let mut moved = true;
            while std::mem::take(&mut moved) {
                for d in self.taking() {
                    next[d] = self.cursors[d].advance(&self.codes[d])?;
                    while next[d] == Next::Copies {
                        self.copy(d)?;
                        next[d] = self.cursors[d].advance(&self.codes[d])?;
                    }
                }
                moved |= self.transfer()?;
            }
            self.within_reason()?;
            let queued = self.queued()?;
            if !queued.is_empty() {
                self.together(queued)?;
                continue;
            }
            let ready = (0..next.len()).filter(|d| next[*d] == Next::Computes);
            let rank = |d: usize| self.codes[d].ranks[self.cursors[d].pc];
            if let Some(first) = ready.clone().map(rank).min() {
                let members = ready.filter(|d| rank(*d) == first).map(|d| {
                    let index = self.cursors[d].pc;
                    Member { origin: Origin { die: d, index }, instr: self.codes[d].instr(index), pops: Vec::new() }
                });
                let members = members.collect();
                self.together(members)?;
                continue;
            }
            if self.fence(&next)? {
                continue;
            }
            return next.iter().zip(&self.active).all(|(n, a)| !a || *n == Next::Finished).then_some(());
        }
    }

    /// Something, unless following the dies takes too long.
    fn within_reason(&self) -> Option<()> {
        (self.logical.looks() + self.physical.looks() <= self.most_looks).then_some(())
    }

    /// The dies that take part.
    fn taking(&self) -> Vec<usize> {
        (0..self.codes.len()).filter(|d| self.active[*d]).collect()
    }

    /// The copy at the program counter of a die: its bytes have another name, or another place.
    fn copy(&mut self, die: usize) -> Option<()> {
        let index = self.cursors[die].pc;
        let until = self.codes[die].lives.writes[index][0];
        if !lives::renames(&self.codes[die].stream[index]) {
            for (from, to) in regions::moves(&self.codes[die].instr(index))? {
                self.carry(&Runs::of(&from)?, &Runs::of(&to)?, (die, until));
            }
        }
        self.cursors[die].pc += 1;
        Some(())
    }

    /// Moves messages between queues that both have come to them. Returns whether any did.
    fn transfer(&mut self) -> Option<bool> {
        let mut moved = false;
        for die in self.taking() {
            for q in 0..4 {
                while let Some((send, dest, into, recv)) = self.meeting(die, q) {
                    let (Instr::Send { region: from, .. }, Instr::Recv { out, .. }) =
                        (self.codes[die].instr(send), self.codes[dest].instr(recv))
                    else {
                        break;
                    };
                    if !same_order(&from, &out) {
                        break;
                    }
                    let until = self.codes[dest].lives.writes[recv][0];
                    self.carry(&Runs::of(&from)?, &Runs::of(&out)?, (dest, until));
                    self.cursors[die].complete(q);
                    self.cursors[dest].complete(into);
                    moved = true;
                }
            }
        }
        Some(moved)
    }

    /// The send at the head of a queue with the receive that stands ready for it: the send, the die there, its queue and the receive.
    fn meeting(&self, die: usize, q: usize) -> Option<(usize, usize, usize, usize)> {
        let (send, channel) = self.cursors[die].head(q)?;
        let channel = channel?;
        let there = self.program.channels.get(channel)?.dest;
        let dest = self.program.dies.iter().position(|d| d.die == there)?;
        let (into, recv) = self.cursors[dest].receiver(channel)?;
        Some((send, dest, into, recv))
    }

    /// What the heads of the queues do to bytes: loads, stores, sums, and messages that change the order of their elements.
    fn queued(&mut self) -> Option<Vec<Member>> {
        let mut members = Vec::new();
        for die in self.taking() {
            for q in [8, 9] {
                if let Some((index, _)) = self.cursors[die].head(q) {
                    let instr = self.codes[die].instr(index);
                    members.push(Member { origin: Origin { die, index }, instr, pops: vec![(die, q)] });
                }
            }
            for q in 0..4 {
                let Some((send, dest, into, recv)) = self.meeting(die, q) else { continue };
                let Instr::Send { region, .. } = self.codes[die].instr(send) else { return None };
                let instr = match self.codes[dest].instr(recv) {
                    Instr::Recv { out, .. } => Instr::Copy { input: regions::reshaped(&region, &out)?, out },
                    Instr::RecvAdd { out, monoid, .. } => {
                        let ins = vec![out.clone(), regions::reshaped(&region, &out)?];
                        let program = self.combiner(monoid, out.dtype);
                        let origin = std::iter::repeat_n(0, out.dims.len()).collect();
                        Instr::Map { program, loops: out.dims.clone(), cols: 0, origin, ins, outs: vec![out] }
                    }
                    _ => return None,
                };
                if instr.reads().iter().zip(instr.writes().iter().cycle()).any(|(r, w)| r.dtype != w.dtype) {
                    return None;
                }
                members.push(Member { origin: Origin { die: dest, index: recv }, instr, pops: vec![(die, q), (dest, into)] });
            }
        }
        Some(members)
    }

    /// Brings the state to where the next step finds it. Returns the shards that are not like the first of their class.
    fn finish(&mut self, classes: &[Class]) -> Option<Vec<(usize, usize)>> {
        let mut wrong = Vec::new();
        for class in classes {
            let content = |w: &Self, k: usize| w.believed(&Runs::of(&w.shard(class.pair, k).1)?);
            let first = content(self, class.shards[0])?;
            for k in &class.shards[1..] {
                if content(self, *k)? != first {
                    wrong.push((class.pair, *k));
                }
            }
        }
        if !wrong.is_empty() {
            return Some(wrong);
        }
        for _ in 0..ATTEMPTS {
            let mut quiet = true;
            for class in classes {
                let (die, region) = self.shard(class.pair, class.shards[0]);
                let runs = Runs::of(&region)?;
                let content = self.believed(&runs)?;
                if !self.physical.holds(&runs, &content) {
                    quiet = false;
                    let origin = Origin { die, index: self.codes[die].stream.len().saturating_sub(1) };
                    self.bring(&runs, &content, origin)?;
                }
            }
            if quiet {
                return Some(wrong);
            }
        }
        None
    }

    fn done(self, classes: &[Class]) -> Woven {
        let program = self.program;
        let mut state: Vec<Vec<StateShard>> = program.state.iter().map(|_| Vec::new()).collect();
        for class in classes {
            let shard = &program.state[class.pair][class.shards[0]];
            let region = self.codes[shard.die as usize].region(&shard.region);
            state[class.pair].push(StateShard { die: 0, part: shard.part.clone(), region });
        }
        let mut stream = self.out;
        stream.push(Instr::End);
        let mut origin = self.origin;
        origin.push((0, program.streams[program.dies[0].stream.index()].len().saturating_sub(1) as u32));
        let claims = vec![ClaimId(0); stream.len()];
        let die = DieCode {
            die: program.dies[0].die,
            stream: StreamId(0),
            claims,
            out_ports: Vec::new(),
            in_ports: Vec::new(),
            sram_used: self.top,
        };
        let woven = Program {
            dies: vec![die],
            streams: vec![stream],
            host: program.host.clone(),
            state,
            fused: self.fused,
            literals: program.literals.clone(),
            ..Program::bare(program.name.clone(), program.target.clone())
        };
        Woven { program: woven, origin }
    }
}

#[cfg(test)]
mod tests;
