//! Capacity: what is used fits into what the target has.

use super::report::{Fault, Findings, Place};
use crate::program::{HostTensor, HostUse, Program};

/// Checks SRAM and host memory.
pub fn check(program: &Program, findings: &mut Findings<'_>) {
    let have = program.target.sram_bytes();
    for (d, code) in program.dies.iter().enumerate() {
        if code.sram_used > have {
            let why = format!("the plan uses {} bytes of SRAM, and the die has {have}", code.sram_used);
            findings.add(Fault::Capacity, Place::die(d), why);
        }
        if !program.target.is_alive(code.die) {
            findings.add(Fault::Capacity, Place::die(d), "the die does not exist or is dead");
        }
    }
    // State that is stored anew is there twice: steps read the old value while they write the new one.
    let copies = |h: &HostTensor, stored: bool| if stored && matches!(h.usage, HostUse::State(_)) { 2 } else { 1 };
    let sizes = program.host.iter().zip(program.stored()).map(|(h, stored)| h.ty.bytes() as u64 * copies(h, stored));
    let host = sizes.fold(0u64, u64::saturating_add);
    let room = program.target.host_capacity();
    if host > room {
        findings.add(Fault::Capacity, Place::program(), format!("the host tensors need {host} bytes, and host memory has {room}"));
    }
    let ports = |code: &crate::program::DieCode| {
        program.streams[code.stream.index()]
            .iter()
            .position(|i| matches!(i, crate::program::Instr::Load { .. } | crate::program::Instr::Store { .. }))
    };
    if program.target.host_ports().is_empty()
        && let Some((d, i)) = program.dies.iter().enumerate().find_map(|(d, c)| ports(c).map(|i| (d, i)))
    {
        findings.add(Fault::Capacity, Place::at(d, i), "the target has no live port to host memory");
    }
}
