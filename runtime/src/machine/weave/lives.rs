//! Until when what an instruction writes is read by its die.
//!
//! Asynchronous instructions read until the `wait` that covers them. What comes into an iteration of a loop from outside of it, or from the
//! iteration before, is read until the loop ends.

use super::contents::Map;
use super::regions::same_order;
use super::runs::{LOST, Patch, Runs};
use crate::machine::loops::Loops;
use crate::machine::queues;
use girih_ir::program::{Instr, Region};
use smallvec::SmallVec;

/// What is never read.
pub const NEVER: u32 = 0;
/// What is read after the step.
pub const ALWAYS: u32 = u32::MAX;

/// For each write of each instruction, and for each region that holds something before the first one, the last position that reads it.
/// Position 0 means never: nothing is read before something is written.
pub struct Lives {
    pub writes: Vec<SmallVec<[u32; 1]>>,
    pub initial: Vec<u32>,
}

struct Pass<'s> {
    stream: &'s [Instr],
    loops: &'s Loops,
    /// Position at which each instruction has read.
    read_at: &'s [u32],
    /// Rectangles that may be looked at.
    looks: u64,
    map: Map,
    /// Where each record was written, and until when it is read.
    records: Vec<(u32, u32)>,
    /// First record of each instruction.
    first: Vec<u32>,
    /// Open loops: first and last position.
    open: Vec<(u32, u32)>,
    /// Whether what lies between the rows of what is written is told apart, which takes longer.
    careful: bool,
}

/// Follows a stream. `state`: the regions that hold something before it and after it; `looks`: rectangles that may be looked at.
pub fn lives(stream: &[Instr], loops: &Loops, entries: &[Option<queues::Entry>], state: &[Region], looks: u64) -> Option<Lives> {
    let read_at = read_positions(stream, entries);
    follow(stream, loops, &read_at, state, looks, false).or_else(|| follow(stream, loops, &read_at, state, looks, true))
}

fn follow(stream: &[Instr], loops: &Loops, read_at: &[u32], state: &[Region], looks: u64, careful: bool) -> Option<Lives> {
    let mut pass = Pass {
        stream,
        loops,
        read_at,
        looks,
        map: Map::default(),
        records: vec![(0, NEVER)],
        first: Vec::new(),
        open: Vec::new(),
        careful,
    };
    for region in state {
        pass.records.push((0, NEVER));
        pass.put(region, pass.records.len() as u32 - 1)?;
    }
    for (i, instr) in stream.iter().enumerate() {
        pass.first.push(pass.records.len() as u32);
        instr.writes().iter().for_each(|_| pass.records.push((i as u32, NEVER)));
    }
    pass.walk(0..stream.len())?;
    for region in state {
        pass.look(region, ALWAYS)?;
    }
    let until = |k: u32| pass.records[k as usize].1;
    let writes = stream.iter().enumerate().map(|(i, instr)| (0..instr.writes().len() as u32).map(|k| until(pass.first[i] + k)).collect());
    Some(Lives { writes: writes.collect(), initial: (1..=state.len() as u32).map(until).collect() })
}

/// For asynchronous instructions the position of the `wait`, fence or end that covers them, for others their own.
fn read_positions(stream: &[Instr], entries: &[Option<queues::Entry>]) -> Vec<u32> {
    let mut at: Vec<u32> = (0..stream.len() as u32).collect();
    let mut open: [Vec<(usize, u32)>; queues::QUEUES] = Default::default();
    let mut issued = [0u32; queues::QUEUES];
    for (i, instr) in stream.iter().enumerate() {
        match instr {
            Instr::Wait { queue, count } => {
                let q = queues::slot(*queue);
                open[q].retain(|(j, n)| {
                    let done = n <= count;
                    if done {
                        at[*j] = i as u32;
                    }
                    !done
                });
            }
            _ if instr.is_fence() => {
                open.iter_mut().for_each(|list| list.drain(..).for_each(|(j, _)| at[j] = i as u32));
                issued = [0; queues::QUEUES];
            }
            _ => {
                if let Some(entry) = entries.get(i).copied().flatten() {
                    issued[entry.queue] += 1;
                    open[entry.queue].push((i, issued[entry.queue]));
                }
            }
        }
    }
    open.iter().flatten().for_each(|(j, _)| at[*j] = stream.len() as u32);
    at
}

/// Whether an instruction only gives bytes another name.
pub fn renames(instr: &Instr) -> bool {
    let Instr::Copy { out, input } = instr else { return false };
    out.offset == input.offset && same_order(out, input) && Runs::of(out).is_some_and(|r| Some(r) == Runs::of(input))
}

impl Pass<'_> {
    fn walk(&mut self, range: std::ops::Range<usize>) -> Option<()> {
        let mut i = range.start;
        while i < range.end {
            let instr = &self.stream[i];
            if let (Instr::Loop { .. }, Some(end)) = (instr, self.loops.partner(i)) {
                self.step(i)?;
                self.open.push((i as u32, end as u32));
                // The second time shows what an iteration reads of the one before it.
                self.walk(i + 1..end)?;
                self.walk(i + 1..end)?;
                self.step_reads(i, end as u32)?;
                self.open.pop();
                i = end + 1;
                continue;
            }
            self.step(i)?;
            i += 1;
        }
        Some(())
    }

    fn step(&mut self, i: usize) -> Option<()> {
        if renames(&self.stream[i]) {
            return Some(());
        }
        self.step_reads(i, self.read_at[i])?;
        let first = self.first[i];
        for (k, region) in self.stream[i].writes().into_iter().enumerate() {
            self.put(region, first + k as u32)?;
        }
        Some(())
    }

    fn step_reads(&mut self, i: usize, at: u32) -> Option<()> {
        let stream = self.stream;
        stream[i].reads().into_iter().try_for_each(|region| self.look(region, at))
    }

    fn put(&mut self, region: &Region, record: u32) -> Option<()> {
        for (_, comb) in Runs::of(region)?.combs() {
            let patch = Patch::new(record, (comb.rows, comb.len), (comb.at, comb.pitch), (comb.at, comb.pitch));
            self.map.set(&patch, &|_| self.careful);
        }
        Some(())
    }

    fn look(&mut self, region: &Region, at: u32) -> Option<()> {
        let (records, open) = (&mut self.records, &self.open);
        let mut last = u32::MAX;
        let mut lost = false;
        let mut mark = |piece: Patch| {
            lost |= piece.val == LOST;
            if piece.val == 0 || piece.val == LOST || piece.val == last {
                return;
            }
            last = piece.val;
            let record = &mut records[piece.val as usize];
            let carried = open.iter().find(|(start, _)| record.0 < *start || record.0 >= at || record.0 == 0);
            record.1 = record.1.max(carried.map_or(at, |(_, end)| at.max(*end)));
        };
        for (_, comb) in Runs::around(region)?.combs() {
            self.map.look(&comb, &mut mark);
        }
        (!lost && self.map.looks() <= self.looks).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn what_a_loop_carries_is_read_until_it_ends() {
        let copy = |to: u64, from: u64| Instr::Copy { out: at(to, &[4]), input: at(from, &[4]) };
        let stream = vec![
            copy(16, 0),                                                              // 0
            Instr::Loop { trips: Some(3), index: None, carries: vec![at(16, &[4])] }, // 1
            copy(32, 16),                                                             // 2
            copy(48, 32),                                                             // 3
            copy(16, 48),                                                             // 4
            Instr::EndLoop,                                                           // 5
            copy(64, 16),                                                             // 6
            copy(0, 64),                                                              // 7
            Instr::End,
        ];
        let loops = Loops::of(&stream).unwrap();
        let lives = lives(&stream, &loops, &vec![None; stream.len()], &[at(0, &[4])], 1000).unwrap();
        assert_eq!(lives.initial, [0], "read at position 0 only");
        let until: Vec<u32> = lives.writes.iter().filter_map(|w| w.first().copied()).collect();
        assert_eq!(until, [5, 3, 4, 6, 7, ALWAYS]);
    }
}
