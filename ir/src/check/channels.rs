//! Channels: the n-th send and the n-th receive of a channel are one message, so they must agree on element type and count, and
//! none may be left over. They are one message in every iteration only if both lie in the same loops, on the same side of an exit: then
//! both are executed equally often, in the same order among the messages of the channel.

use super::report::{Fault, Findings, Place};
use super::trace::{At, Trace};
use crate::program::{Instr, Program, Region};

/// The region that a send or receive touches.
fn region(program: &Program, at: At) -> Option<&Region> {
    let code = &program.dies[at.0 as usize];
    match &program.streams[code.stream.index()][at.1 as usize] {
        Instr::Send { region, .. } => Some(region),
        Instr::Recv { out, .. } | Instr::RecvAdd { out, .. } => Some(out),
        _ => None,
    }
}

/// Checks that ports belong to their die, and that messages match.
pub fn check(program: &Program, trace: &Trace, findings: &mut Findings<'_>) {
    for (d, code) in program.dies.iter().enumerate() {
        for (port, ch) in code.out_ports.iter().enumerate() {
            if program.channels[ch.index()].source != code.die {
                findings.add(Fault::Channel, Place::die(d), format!("outgoing port c{port} is {ch}, which starts at another die"));
            }
        }
        for (port, ch) in code.in_ports.iter().enumerate() {
            if program.channels[ch.index()].dest != code.die {
                findings.add(Fault::Channel, Place::die(d), format!("incoming port c{port} is {ch}, which ends at another die"));
            }
        }
    }
    for (id, channel) in trace.channels.iter().enumerate() {
        let place = |at: At| Place::at(at.0 as usize, at.1 as usize);
        for (n, (s, r)) in channel.sends.iter().zip(&channel.recvs).enumerate() {
            let (Some(from), Some(to)) = (region(program, *s), region(program, *r)) else { continue };
            if from.dtype != to.dtype || from.elements() != to.elements() {
                let say = |r: &Region| format!("{} elements of {}", r.elements(), r.dtype);
                let why = format!("message {n} of ch{id} is sent as {} and received as {}", say(from), say(to));
                findings.add(Fault::Channel, place(*r), why);
            }
            let (out, in_) = (trace.path(*s), trace.path(*r));
            if out != in_ {
                let (out, in_) = (trace.show_path(out), trace.show_path(in_));
                findings.add(Fault::Channel, place(*r), format!("message {n} of ch{id} is sent {out} and received {in_}"));
            }
        }
        let (s, r) = (channel.sends.len(), channel.recvs.len());
        if s > r {
            findings.add(Fault::Channel, place(channel.sends[r]), format!("ch{id} gets {s} messages, but only {r} are received"));
        }
        if r > s {
            findings.add(Fault::Channel, place(channel.recvs[s]), format!("ch{id} gets {s} messages, but {r} are received"));
        }
    }
}
