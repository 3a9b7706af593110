//! Definition before use: every byte that an instruction reads was written before, in this step or as state.
//!
//! Races are another phase's business, so a queued write counts from where it is issued. A loop may run no iteration, so after it only
//! that is known which was known before.

use super::footprint::Footprint;
use super::report::{Fault, Findings, Place};
use super::shadow::Shadow;
use crate::program::{Instr, Program, Region};

/// The first byte of a region that is not in the set.
fn missing(known: &mut Shadow<()>, region: &Region) -> Option<u64> {
    for f in Footprint::of(region) {
        let mut parts = 0;
        if let Some(hole) = known.each(&f, |_, ()| parts += 1) {
            return Some(hole);
        }
        // What is whole needs no memory of its parts.
        if parts > 1 {
            known.set(&f, Some(()));
        }
    }
    None
}

/// Checks every die on its own.
pub fn check(program: &Program, findings: &mut Findings<'_>) {
    findings.for_each(program.dies.len(), |d, findings| {
        let code = &program.dies[d];
        let mut known: Shadow<()> = Shadow::default();
        let define = |known: &mut Shadow<()>, region: &Region| Footprint::of(region).iter().for_each(|f| known.set(f, Some(())));
        program.state.iter().flatten().filter(|s| s.die as usize == d).for_each(|s| define(&mut known, &s.region));
        let mut before_loops: Vec<Shadow<()>> = Vec::new();
        for (i, instr) in program.streams[code.stream.index()].iter().enumerate() {
            for (k, region) in instr.reads().into_iter().enumerate() {
                if let Some(byte) = missing(&mut known, region) {
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
    });
}
