//! Definition before use: every byte that an instruction reads was written before, in this step or as state.
//!
//! Races are another phase's business, so a queued write counts from where it is issued. A loop may run no iteration, so after it only
//! that is known which was known before.

use super::intervals::IntervalMap;
use super::report::{Fault, Findings, Place};
use super::runs::runs;
use crate::program::{Instr, Program, Region};
use std::ops::Range;

/// The first byte of a region that is not in the set.
pub fn missing(known: &IntervalMap<()>, region: &Region) -> Option<u64> {
    let all = |r: Range<u64>| {
        let mut hole = None;
        known.each(r, |part, fact| {
            hole = fact.is_none().then_some(part.start);
            hole.is_none()
        });
        hole
    };
    let extent = region.extent()?;
    // Mostly all bytes between the first and the last are defined, and the walk over single runs is not needed.
    all(extent.clone())?;
    match runs(region) {
        Some(runs) => runs.into_iter().find_map(all),
        None => Some(extent.start),
    }
}

/// Checks every die on its own.
pub fn check(program: &Program, findings: &mut Findings<'_>) {
    for (d, code) in program.dies.iter().enumerate() {
        let mut known: IntervalMap<()> = IntervalMap::default();
        let define = |known: &mut IntervalMap<()>, region: &Region| {
            for r in runs(region).unwrap_or_default() {
                known.set(r, ());
            }
        };
        program.state.iter().flatten().filter(|s| s.die as usize == d).for_each(|s| define(&mut known, &s.region));
        let mut before_loops: Vec<IntervalMap<()>> = Vec::new();
        for (i, instr) in program.streams[code.stream.index()].iter().enumerate() {
            for (k, region) in instr.reads().into_iter().enumerate() {
                if let Some(byte) = missing(&known, region) {
                    let why = format!("input {k} reads byte {byte:#x}, which nothing has written");
                    findings.add(Fault::Undefined, Place::at(d, i), why);
                }
            }
            match instr {
                Instr::Loop { .. } => before_loops.push(known.clone()),
                Instr::EndLoop => known = before_loops.pop().unwrap_or_default(),
                _ => {}
            }
            instr.writes().into_iter().for_each(|region| define(&mut known, region));
        }
    }
}
