//! Bounds: every region lies inside the planned SRAM, starts at a multiple of its element size, and writes each byte once; and
//! inputs overlap outputs only where the instruction allows it.

use super::report::{Fault, Findings, Place};
use super::runs::{is_compact, is_injective, overlap, region_walk};
use super::shapes;
use crate::program::text::show_region;
use crate::program::{Instr, Program, Region};

/// Checks every stream once, against the die that runs it with the least SRAM; and the state of every die.
pub fn check(program: &Program, findings: &mut Findings<'_>) {
    for (pair, shards) in program.state.iter().enumerate() {
        for shard in shards {
            let d = shard.die as usize;
            if let Some(why) = misplaced(&shard.region, program.dies[d].sram_used) {
                findings.add(Fault::Bounds, Place::die(d), format!("state {pair} at {}: {why}", show_region(&shard.region)));
            } else if !is_injective(&shard.region) {
                findings.add(Fault::Bounds, Place::die(d), format!("state {pair} at {} overlaps itself", show_region(&shard.region)));
            }
        }
    }
    findings.for_each(program.streams.len(), |s, findings| {
        let stream = &program.streams[s];
        let runs_it = program.dies.iter().enumerate().filter(|(_, c)| c.stream.index() == s);
        let Some((d, code)) = runs_it.min_by_key(|(_, c)| c.sram_used) else { return };
        for (i, instr) in stream.iter().enumerate() {
            let place = Place::at(d, i);
            let (reads, writes) = (instr.reads(), instr.writes());
            let mut sound = true;
            for region in reads.iter().chain(&writes) {
                if let Some(why) = misplaced(region, code.sram_used) {
                    findings.add(Fault::Bounds, place, format!("{}: {why}", show_region(region)));
                    sound = false;
                }
            }
            for region in &writes {
                if !is_injective(region) {
                    findings.add(Fault::Bounds, place, format!("the result {} overlaps itself", show_region(region)));
                    sound = false;
                }
            }
            if let Instr::Loop { carries, .. } = instr
                && let Some(carry) = carries.iter().find(|r| !is_injective(r))
            {
                findings.add(Fault::Bounds, place, format!("the carried region {} overlaps itself", show_region(carry)));
                sound = false;
            }
            if let Err(why) = shapes::check(program, instr) {
                findings.add(Fault::Shape, place, why);
                sound = false;
            }
            if sound && let Some(why) = in_place(instr, &reads, &writes) {
                findings.add(Fault::InPlace, place, why);
            }
            if matches!(instr, Instr::End) != (i + 1 == stream.len()) {
                findings.add(Fault::Shape, place, "a stream has one `end`, and it is the last instruction");
            }
        }
        if stream.is_empty() {
            findings.add(Fault::Shape, Place::die(d), "the stream is empty; it has to finish with `end`");
        }
    });
}

/// What is wrong with where a region lies.
fn misplaced(region: &Region, sram: u64) -> Option<String> {
    let Some(extent) = region.extent() else { return Some("it leaves the address space".to_string()) };
    if extent.end > sram {
        return Some(format!("it ends at {:#x}, beyond the {sram:#x} bytes that the plan uses", extent.end));
    }
    if !region.offset.is_multiple_of(region.dtype.size() as u64) {
        return Some(format!("it is not aligned to the {} bytes of its elements", region.dtype.size()));
    }
    if !is_compact(region) {
        return Some("it is scattered over too many pieces".to_string());
    }
    None
}

/// Which operands may be overwritten by the result that equals them.
fn may_overwrite(instr: &Instr, k: usize) -> bool {
    match instr {
        Instr::Map { cols: 0, .. } | Instr::RecvAdd { .. } | Instr::AllReduce { .. } => true,
        Instr::Scatter { .. } | Instr::DynamicUpdateSlice { .. } => k == 0,
        _ => false,
    }
}

fn in_place(instr: &Instr, reads: &[&Region], writes: &[&Region]) -> Option<String> {
    for (k, input) in reads.iter().enumerate() {
        for out in writes {
            if !overlap(input, out) {
                continue;
            }
            // A copy onto itself, element by element, only gives bytes another shape.
            let same = input.offset == out.offset && input.dtype.size() == out.dtype.size();
            let renames = matches!(instr, Instr::Copy { .. }) && same && region_walk(input, false) == region_walk(out, false);
            let replaces = may_overwrite(instr, k) && same && input.dims == out.dims && input.strides == out.strides;
            if !(renames || replaces) {
                return Some(format!("input {k} at {} overlaps the result at {}", show_region(input), show_region(out)));
            }
        }
    }
    for (i, a) in writes.iter().enumerate() {
        if let Some(b) = writes[i + 1..].iter().find(|b| overlap(a, b)) {
            return Some(format!("the results {} and {} overlap", show_region(a), show_region(b)));
        }
    }
    None
}
