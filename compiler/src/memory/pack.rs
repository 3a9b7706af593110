//! Packing: addresses for live ranges so that ranges alive together do not overlap.
//!
//! Cheap first, and no further than needed: a sweep in order of first use; then ranges at the lowest gap that fits, by lifetime, by area and by size; then the
//! same with what sticks out moved to the front, again and again; then a search over canonical placements for the bound itself, and for a little more.
//! Work is counted, not timed, so equal problems have equal plans.

use super::search;
use super::{ALIGNMENT, DieMemory, Live};
use crate::place::BufferId;
use std::cmp::Reverse;

/// Above this many ranges the quadratic orders are tried only for what does not fit yet.
const ORDERS_LIMIT: usize = 4000;
/// Above this many ranges nothing is moved or searched.
const SEARCH_LIMIT: usize = 1500;
/// How often what sticks out is moved to the front, for 1000 ranges.
const MOVES: usize = 300;
/// A plan within this part of the bound is not improved.
const CLOSE: f64 = 0.02;

pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// How much work a packing is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effort {
    /// Until it fits below this.
    Fit(u64),
    /// Until it is near the bound.
    Thorough,
}

/// Addresses for the ranges, and what the die needs.
pub(super) fn pack(live: &[Live], effort: Effort) -> (Vec<(BufferId, u64)>, DieMemory) {
    let bound = lower_bound(live);
    let offsets = place(live, bound, effort);
    let peak = live.iter().zip(&offsets).map(|(l, o)| o + rounded(l.bytes)).max().unwrap_or(0);
    let state = live.iter().filter(|l| l.state).map(|l| l.bytes).sum();
    let placements = live.iter().zip(&offsets).map(|(l, o)| (l.buffer, *o)).collect();
    (placements, DieMemory { peak, lower_bound: bound, state })
}

fn place(live: &[Live], bound: u64, effort: Effort) -> Vec<u64> {
    let capacity = if let Effort::Fit(capacity) = effort { capacity } else { u64::MAX };
    let enough = bound + (bound as f64 * CLOSE) as u64;
    let mut best = sweep(live, &sorted(live, |l| (u64::from(l.start), Reverse(l.end))));
    let fits = |best: &(Vec<u64>, u64)| best.1 <= enough && best.1 <= capacity;
    if fits(&best) || bound > capacity || live.len() > ORDERS_LIMIT && best.1 <= capacity {
        return best.0;
    }
    let span = |l: &Live| u64::from(l.end - l.start);
    let orders = [
        sorted(live, |l| (Reverse(span(l)), Reverse(l.bytes))),
        sorted(live, |l| (Reverse(span(l).saturating_mul(l.bytes)), Reverse(l.bytes))),
        sorted(live, |l| (Reverse(l.bytes), Reverse(span(l)))),
    ];
    let mut first = best.0.clone();
    let mut order: Vec<usize> = (0..live.len()).collect();
    order.sort_by_key(|i| (first[*i], *i));
    for o in orders {
        let found = first_fit(live, &o);
        if found.1 < best.1 {
            (best, order) = (found, o);
            if fits(&best) {
                return best.0;
            }
        }
    }
    if live.len() > SEARCH_LIMIT || effort != Effort::Thorough && best.1 <= capacity {
        return best.0;
    }
    // What reaches the top goes first next time.
    let mut current = order;
    first.clone_from(&best.0);
    for _ in 0..MOVES * 1000 / live.len().max(250) {
        let top = live.iter().zip(&first).map(|(l, o)| o + rounded(l.bytes)).max().unwrap_or(0);
        let (high, low): (Vec<usize>, Vec<usize>) = current.iter().copied().partition(|i| first[*i] + rounded(live[*i].bytes) == top);
        current = high.into_iter().chain(low).collect();
        let found = first_fit(live, &current);
        first.clone_from(&found.0);
        if found.1 < best.1 {
            best = found;
            if fits(&best) {
                return best.0;
            }
        }
    }
    let sizes: Vec<u64> = live.iter().map(|l| rounded(l.bytes)).collect();
    let spans: Vec<(u32, u32)> = live.iter().map(|l| (l.start, l.end)).collect();
    for cap in [bound, bound + (enough - bound) / 4, bound + (enough - bound) / 2, enough] {
        if let Some(found) = search::fit(&sizes, &spans, cap / ALIGNMENT * ALIGNMENT) {
            return found;
        }
    }
    best.0
}

fn sorted<K: Ord>(live: &[Live], key: impl Fn(&Live) -> K) -> Vec<usize> {
    let mut order: Vec<usize> = (0..live.len()).collect();
    order.sort_by_key(|i| (key(&live[*i]), live[*i].buffer));
    order
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

/// The most bytes alive at one position.
pub(super) fn lower_bound(live: &[Live]) -> u64 {
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
    fn small_problems_come_near_the_bound() {
        let close = (1..60).filter(|seed| {
            let memory = pack(&random(*seed, 40), Effort::Thorough).1;
            memory.peak as f64 <= memory.lower_bound as f64 * (1.0 + CLOSE)
        });
        assert!(close.count() >= 56);
    }

    #[test]
    fn plans_never_overlap_and_respect_the_bound() {
        for seed in 1..60 {
            let live = random(seed, 40);
            let (at, memory) = pack(&live, Effort::Thorough);
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
