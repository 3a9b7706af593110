//! Races: a queued instruction uses its region from where it is issued until a `wait` that covers it. Until then nobody else may
//! write what it reads, or touch what it writes. Entries of one queue run one after another, so they are ordered already. Fences wait for
//! all queues, so nothing is used from one iteration of a loop into the next.

use super::footprint::Footprint;
use super::report::{Fault, Findings, Place};
use super::trace::{DieTrace, QUEUES, Trace, queue_index, queue_name};
use crate::program::{Instr, Program, Region};

/// A queued access that no wait has covered yet.
struct Use {
    footprint: Footprint,
    queue: usize,
    /// Its position in the queue, from 1.
    count: u32,
    write: bool,
}

/// Checks every die on its own.
pub fn check(program: &Program, trace: &Trace, findings: &mut Findings<'_>) {
    findings.for_each(program.dies.len(), |d, findings| {
        check_die(&program.streams[program.dies[d].stream.index()], &trace.dies[d], d, findings);
    });
}

fn check_die(stream: &[Instr], die: &DieTrace, d: usize, findings: &mut Findings<'_>) {
    let mut uses: Vec<Use> = Vec::new();
    let (mut issued, mut waited) = ([0u32; QUEUES], [0u32; QUEUES]);
    for (i, instr) in stream.iter().enumerate() {
        if instr.is_fence() {
            waited = issued;
            uses.clear();
        }
        if let Instr::Wait { queue, .. } = instr {
            let q = queue_index(*queue);
            waited[q] = waited[q].max(die.waits[i]);
            uses.retain(|u| u.queue != q || u.count > waited[q]);
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
                if let Some(c) = conflict(&uses, region, queue, false) {
                    report(region, false, c);
                }
            }
            for region in instr.writes() {
                if let Some(c) = conflict(&uses, region, queue, true) {
                    report(region, true, c);
                }
            }
        }
        if let Some(q) = queued {
            let queue = q.queue as usize;
            issued[queue] = q.count;
            for (regions, write) in [(instr.reads(), false), (instr.writes(), true)] {
                for footprint in regions.into_iter().flat_map(Footprint::of) {
                    // Of accesses of one queue to the same bytes the last one counts.
                    match uses.iter_mut().find(|u| u.queue == queue && u.write == write && u.footprint == footprint) {
                        Some(u) => u.count = q.count,
                        None => uses.push(Use { footprint, queue, count: q.count, write }),
                    }
                }
            }
        }
    }
}

/// A queued access that conflicts with an access by `queue` (`None`: the compute engine).
fn conflict(uses: &[Use], region: &Region, queue: Option<usize>, write: bool) -> Option<(usize, u32)> {
    let extent = region.extent()?;
    let near =
        |u: &&Use| (write || u.write) && queue != Some(u.queue) && u.footprint.start() < extent.end && extent.start < u.footprint.end();
    let mut near = uses.iter().filter(near).peekable();
    near.peek()?;
    let own = Footprint::of(region);
    near.find(|u| own.iter().any(|f| f.meets(&u.footprint))).map(|u| (u.queue, u.count))
}
