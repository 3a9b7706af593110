//! Reductions along a row of dies that forward word by word, as on a wafer: a chain, or chains in groups and a chain of their heads.
//!
//! With word-by-word forwarding a chain of P dies takes the words once and a few cycles a die. Two phases halve the dies that a word passes
//! through and send the words twice: better when there are many dies and few words. Both are ordinary streams: each die combines what comes with its own
//! and sends it on.

use super::bare::Bare;
use girih_ir::program::{Instr, PortId, Program, Queue, Region};
use girih_ir::scalar::Monoid;
use girih_ir::target::{Coord, Direction, Target};
use girih_ir::types::{DType, TensorType};

/// The program that sums `words` f32 of each of the first `dies` dies of row 0 into the first of them, in groups of `group` dies. With one
/// group it is a plain chain. `None` when the target has no such row.
pub fn reduce(target: &Target, dies: usize, words: usize, group: usize) -> Option<Program> {
    let (dies, group) = (dies.max(1), group.clamp(1, dies.max(1)));
    let row: Vec<_> = (0..dies).map(|c| target.die_at(Coord::new(0, c as u32))).collect::<Option<_>>()?;
    if !row.iter().all(|d| target.is_alive(*d)) {
        return None;
    }
    let mut bare = Bare::new("line reduce", target);
    // Where each die sends its sum: to its neighbor, and the head of a group to that of the group before it.
    let to = |i: usize| if i.is_multiple_of(group) { i.checked_sub(group) } else { Some(i - 1) };
    let mut outgoing = vec![None; dies];
    for i in 1..dies {
        outgoing[i] = Some(bare.channel(row[i], row[to(i)?], 1)?);
    }
    let sum = Region::dense(0, &TensorType::new(DType::F32, [words]));
    for i in 0..dies {
        // From the group first, then from the head of the next one.
        let mut sources = Vec::new();
        if i + 1 < dies && !(i + 1).is_multiple_of(group) {
            sources.push(i + 1);
        }
        if i.is_multiple_of(group) && i + group < dies {
            sources.push(i + group);
        }
        let mut stream = Vec::new();
        for (n, _) in sources.iter().enumerate() {
            stream.push(Instr::RecvAdd { port: PortId::new(n), out: sum.clone(), monoid: Monoid::Sum });
            stream.push(Instr::Wait { queue: Queue::In(Direction::East), count: n as u32 + 1 });
        }
        if i > 0 {
            stream.push(Instr::Send { port: PortId(0), region: sum.clone() });
            stream.push(Instr::Wait { queue: Queue::Out(Direction::West), count: 1 });
        }
        let incoming = sources.iter().filter_map(|s| outgoing[*s]).collect();
        bare.die(row[i], words as u64 * 4, outgoing[i].into_iter().collect(), incoming, stream);
    }
    Some(bare.program)
}

/// The closed form of [`reduce`] in seconds, for targets that forward word by word; `None` for others.
pub fn seconds(target: &Target, dies: usize, words: usize, group: usize) -> Option<f64> {
    let word = 4.0 / target.link_bandwidth();
    let hop = target.hop_latency();
    let die = target.streaming()? + target.message_overhead();
    let (dies, group) = (dies as f64, (group as f64).clamp(1.0, dies as f64));
    let chain = words as f64 * word + (group - 1.0) * (die + hop);
    let heads = (dies / group).ceil();
    // The last head passes its group's words on as they come; the head before it is the first that has to have its own together.
    let second = if heads > 1.0 { words as f64 * word + (heads - 2.0).max(0.0) * (die + group * hop) } else { 0.0 };
    Some(target.dispatch() + target.issue_overhead() + chain + second)
}

/// The group size with the least closed form for so many dies and words: `dies` is the plain chain.
pub fn best_group(target: &Target, dies: usize, words: usize) -> usize {
    let candidates = (2..=dies).filter(|g| g.is_power_of_two() || *g == dies);
    let time = |g: usize| seconds(target, dies, words, g).unwrap_or(f64::INFINITY);
    candidates.min_by(|a, b| time(*a).total_cmp(&time(*b)).then(b.cmp(a))).unwrap_or(dies.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_words_take_a_chain_and_few_take_two_phases() {
        let wafer = Target::builtin("wse2").unwrap();
        assert_eq!(best_group(&wafer, 512, 4096), 512);
        assert!((8..64).contains(&best_group(&wafer, 512, 64)));
        assert!(seconds(&Target::builtin("dojo-tile").unwrap(), 5, 100, 5).is_none());
    }

    #[test]
    fn every_die_but_the_first_sends_once() {
        let wafer = Target::builtin("wse2").unwrap();
        for group in [1, 3, 4, 16, 50] {
            let program = reduce(&wafer, 16, 8, group).unwrap();
            let sends = |s: &Vec<Instr>| s.iter().filter(|i| matches!(i, Instr::Send { .. })).count();
            assert_eq!(program.streams.iter().map(sends).sum::<usize>(), 15);
            assert_eq!(program.channels.len(), 15);
        }
        assert!(reduce(&wafer, 2000, 8, 4).is_none());
    }
}
