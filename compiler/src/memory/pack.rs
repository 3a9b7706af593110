//! Packing: addresses for live ranges so that ranges alive together do not overlap.
//!
//! Two greedy orders are tried, by first use and by size, each at the lowest gap that fits; the lower peak wins.

use super::{ALIGNMENT, DieMemory, Live};
use crate::place::BufferId;

/// Above this many ranges the quadratic order by size is not tried.
const BY_SIZE_LIMIT: usize = 4000;

fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Addresses for the ranges, and what the die needs.
pub(super) fn pack(live: &[Live]) -> (Vec<(BufferId, u64)>, DieMemory) {
    let bound = lower_bound(live);
    let mut by_start: Vec<usize> = (0..live.len()).collect();
    by_start.sort_by_key(|i| (live[*i].start, std::cmp::Reverse(live[*i].end), live[*i].buffer));
    let mut best = sweep(live, &by_start);
    if best.1 > bound && live.len() <= BY_SIZE_LIMIT {
        let mut by_size: Vec<usize> = (0..live.len()).collect();
        by_size.sort_by_key(|i| (std::cmp::Reverse(live[*i].bytes), live[*i].start, live[*i].buffer));
        let other = first_fit(live, &by_size);
        if other.1 < best.1 {
            best = other;
        }
    }
    let state = live.iter().filter(|l| l.state).map(|l| l.bytes).sum();
    let placements = live.iter().zip(&best.0).map(|(l, o)| (l.buffer, *o)).collect();
    (placements, DieMemory { peak: best.1, lower_bound: bound, state })
}

/// In order of first use: a sweep over time with the set of occupied gaps.
fn sweep(live: &[Live], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0; live.len()];
    let mut active: Vec<usize> = Vec::new();
    let mut peak = 0;
    for &i in order {
        active.retain(|j| live[*j].end > live[i].start);
        let mut at = 0;
        for &j in &active {
            if at + rounded(live[i].bytes) <= offsets[j] {
                break;
            }
            at = at.max(offsets[j] + rounded(live[j].bytes));
        }
        offsets[i] = at;
        peak = peak.max(at + rounded(live[i].bytes));
        let slot = active.partition_point(|j| offsets[*j] < at);
        active.insert(slot, i);
    }
    (offsets, peak)
}

/// In any order: each range at the lowest gap among those it is alive with.
fn first_fit(live: &[Live], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0; live.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut peak = 0;
    for &i in order {
        let mut at = 0;
        for &j in &placed {
            if live[j].start < live[i].end && live[i].start < live[j].end {
                if at + rounded(live[i].bytes) <= offsets[j] {
                    break;
                }
                at = at.max(offsets[j] + rounded(live[j].bytes));
            }
        }
        offsets[i] = at;
        peak = peak.max(at + rounded(live[i].bytes));
        let slot = placed.partition_point(|j| offsets[*j] < at);
        placed.insert(slot, i);
    }
    (offsets, peak)
}

/// The most bytes alive at one position, and the first such position.
fn busiest(live: &[Live]) -> (u64, u32) {
    let mut events: Vec<(u32, bool, u64)> = Vec::with_capacity(live.len() * 2);
    for l in live {
        events.push((l.start, true, rounded(l.bytes)));
        events.push((l.end, false, rounded(l.bytes)));
    }
    events.sort_unstable();
    let (mut now, mut best, mut at) = (0u64, 0, 0);
    for (position, begins, bytes) in events {
        if begins {
            now += bytes;
            if now > best {
                (best, at) = (now, position);
            }
        } else {
            now -= bytes;
        }
    }
    (best, at)
}

fn lower_bound(live: &[Live]) -> u64 {
    busiest(live).0
}

/// The position at which most bytes are alive.
pub(super) fn peak_position(live: &[Live]) -> u32 {
    busiest(live).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, count: u32) -> Vec<Live> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        (0..count)
            .map(|i| {
                let start = next(50) as u32;
                Live { buffer: BufferId(i), bytes: 1 + next(4000), start, end: start + 1 + next(30) as u32, state: false }
            })
            .collect()
    }

    #[test]
    fn plans_never_overlap_and_respect_the_bound() {
        for seed in 1..60 {
            let live = random(seed, 40);
            let (at, memory) = pack(&live);
            assert!(memory.peak >= memory.lower_bound);
            for (i, a) in live.iter().enumerate() {
                assert_eq!(at[i].1 % ALIGNMENT, 0);
                assert!(at[i].1 + a.bytes <= memory.peak);
                for (j, b) in live.iter().enumerate().skip(i + 1) {
                    let together = a.start < b.end && b.start < a.end;
                    let apart = at[i].1 + a.bytes <= at[j].1 || at[j].1 + b.bytes <= at[i].1;
                    assert!(!together || apart, "seed {seed}: {a:?} at {} and {b:?} at {}", at[i].1, at[j].1);
                }
            }
        }
    }
}
