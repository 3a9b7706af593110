//! The timeline in equal slices: how busy the engine and the queues of each die are in each of them, for pictures of a whole step.
//!
//! A step has millions of activities and a picture some hundred columns, so what counts is the part of each column that an activity covers.

use super::engine::{Act, COMPUTE};
use girih_ir::program::Program;
use std::collections::BTreeSet;

/// Tracks of a die: its queues and its engine.
const SLOTS: usize = COMPUTE as usize + 1;

/// One die over time. All lists have one entry a slice, from 0 to 1.
#[derive(Clone, PartialEq, Debug)]
pub struct Lane {
    /// Where the die is.
    pub die: String,
    /// The part of the slice in which the engine computes; issuing transfers is not shown.
    pub compute: Vec<f64>,
    /// The same of the queue that is busiest in it.
    pub transfer: Vec<f64>,
    /// The part that stands for iterations which are like simulated ones.
    pub repeated: Vec<f64>,
}

/// The lanes of all dies with code, in their order. `skips` are the activities that stand for repeated iterations.
pub(super) fn lanes(program: &Program, acts: &[Act], skips: &BTreeSet<u32>, makespan: f64, slices: usize) -> Vec<Lane> {
    let (dies, slices) = (program.dies.len(), slices.max(1));
    let mut covered = vec![vec![0.0; slices]; dies * SLOTS];
    let mut repeated = vec![vec![0.0; slices]; dies];
    let slice = makespan / slices as f64;
    for (id, act) in acts.iter().enumerate().filter(|_| slice > 0.0) {
        let (start, end) = (act.start.clamp(0.0, makespan), act.end.clamp(0.0, makespan));
        let (die, track) = (act.die as usize, (act.track as usize).min(SLOTS - 1));
        let list = if skips.contains(&(id as u32)) { &mut repeated[die] } else { &mut covered[die * SLOTS + track] };
        let last = ((end / slice) as usize).min(slices - 1);
        let first = ((start / slice) as usize).min(last);
        for (i, s) in list.iter_mut().enumerate().take(last + 1).skip(first) {
            *s += (end.min((i + 1) as f64 * slice) - start.max(i as f64 * slice)).max(0.0) / slice;
        }
    }
    let full = |list: &[f64]| list.iter().map(|x| x.min(1.0)).collect::<Vec<f64>>();
    let lane = |d: usize| {
        let own = &covered[d * SLOTS..(d + 1) * SLOTS];
        let queues = |i: usize| own.iter().enumerate().filter(|(t, _)| *t != COMPUTE as usize).map(|(_, s)| s[i]).fold(0.0, f64::max);
        Lane {
            die: program.target.coord(program.dies[d].die).to_string(),
            compute: full(&own[COMPUTE as usize]),
            transfer: full(&(0..slices).map(queues).collect::<Vec<f64>>()),
            repeated: full(&repeated[d]),
        }
    };
    (0..dies).map(lane).collect()
}
