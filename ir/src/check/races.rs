//! Races: a queued instruction uses its region from where it is issued until a `wait` that covers it. Until then nobody else may
//! write what it reads, or touch what it writes. Entries of one queue run one after another, so they are ordered already. Fences wait for
//! all queues, so nothing is used from one iteration of a loop into the next.

use super::intervals::IntervalMap;
use super::report::{Fault, Findings, Place};
use super::runs::runs;
use super::trace::{DieTrace, QUEUES, Trace, queue_index, queue_name};
use crate::program::{Instr, Program, Region};

/// The last queued accesses of some bytes: queue position counts, 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Uses {
    writer: (u8, u32),
    readers: [u32; QUEUES],
}

impl Uses {
    /// The queued access that conflicts with an access by `queue` (`None`: the compute engine).
    fn conflict(&self, queue: Option<usize>, write: bool, waited: &[u32; QUEUES]) -> Option<(usize, u32)> {
        let other = |q: usize, n: u32| n > waited[q] && queue != Some(q);
        let writer = (self.writer.0 as usize, self.writer.1);
        if other(writer.0, writer.1) {
            return Some(writer);
        }
        if !write {
            return None;
        }
        (0..QUEUES).map(|q| (q, self.readers[q])).find(|(q, n)| other(*q, *n))
    }
}

/// Checks every die on its own.
pub fn check(program: &Program, trace: &Trace, findings: &mut Findings<'_>) {
    for (d, code) in program.dies.iter().enumerate() {
        check_die(&program.streams[code.stream.index()], &trace.dies[d], d, findings);
    }
}

fn check_die(stream: &[Instr], die: &DieTrace, d: usize, findings: &mut Findings<'_>) {
    let mut uses: IntervalMap<Uses> = IntervalMap::default();
    let (mut issued, mut waited) = ([0u32; QUEUES], [0u32; QUEUES]);
    for (i, instr) in stream.iter().enumerate() {
        if instr.is_fence() {
            waited = issued;
            uses.clear();
        }
        if let Instr::Wait { queue, .. } = instr {
            let q = queue_index(*queue);
            waited[q] = waited[q].max(die.waits[i]);
            if (0..QUEUES).all(|q| waited[q] >= issued[q]) {
                uses.clear();
            }
            continue;
        }
        let queued = die.queued[i];
        let queue = queued.map(|q| q.queue as usize);
        if !uses.is_empty() {
            let mut report = |region: &Region, write: bool, (q, n): (usize, u32)| {
                let culprit = die.queues[q].get(n as usize - 1).copied().unwrap_or(0);
                let verb = if write { "writes" } else { "reads" };
                let why = format!(
                    "{verb} {} while instruction {culprit} (`{}`, entry {n} of queue {}) may still use it: no wait covers that entry",
                    crate::program::text::show_region(region),
                    stream[culprit as usize].name(),
                    queue_name(q)
                );
                findings.add(Fault::Race, Place::at(d, i), why);
            };
            for region in instr.reads() {
                if let Some(c) = conflict(&uses, region, queue, false, &waited) {
                    report(region, false, c);
                }
            }
            for region in instr.writes() {
                if let Some(c) = conflict(&uses, region, queue, true, &waited) {
                    report(region, true, c);
                }
            }
        }
        if let Some(q) = queued {
            let queue = q.queue as usize;
            issued[queue] = q.count;
            for r in instr.reads().into_iter().filter_map(runs).flatten() {
                uses.update(r, Uses::default(), |u| u.readers[queue] = q.count);
            }
            for r in instr.writes().into_iter().filter_map(runs).flatten() {
                uses.update(r, Uses::default(), |u| u.writer = (q.queue, q.count));
            }
        }
    }
}

fn conflict(uses: &IntervalMap<Uses>, region: &Region, queue: Option<usize>, write: bool, waited: &[u32; QUEUES]) -> Option<(usize, u32)> {
    let search = |range| {
        let mut hit = None;
        uses.each(range, |_, fact| {
            hit = fact.and_then(|u: Uses| u.conflict(queue, write, waited));
            hit.is_none()
        });
        hit
    };
    // Mostly nothing conflicts between the first and the last byte either.
    let found = search(region.extent()?)?;
    match runs(region) {
        Some(runs) if runs.len() > 1 => runs.into_iter().find_map(search),
        _ => Some(found),
    }
}
