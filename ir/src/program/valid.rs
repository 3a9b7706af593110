//! Structure: every id is in range, every size is within the limits, and the tables fit the step. Nothing may look at a program from a
//! file before this has passed.

mod loops;
mod replicas;

use super::{Claim, DieCode, HostUse, Instr, Program, Region};
use crate::axes::box_dims;
use crate::graph::loops::LoopNest;
use crate::step::StepError;
use crate::types::TensorType;
use crate::verify::size_is_sane;
use rayon::prelude::*;
use std::ops::Range;

/// Dimensions of a region or box.
pub const MAX_RANK: usize = 16;
/// Elements of a region, and bytes of an address.
pub const MAX_SIZE: u64 = 1 << 46;
/// An extent, a stride or a padding.
pub const MAX_EXTENT: u64 = 1 << 36;
/// Instructions of all dies together.
pub const MAX_INSTRUCTIONS: usize = 1 << 28;

/// A program whose parts do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StructureError {
    /// The target describes no machine.
    #[error("E0410: the target is not usable: {}", .problems.join("; "))]
    Target {
        /// What is wrong, one sentence each.
        problems: Vec<String>,
    },
    /// The reference step is wrong.
    #[error("E0411: the reference step is wrong: {0}")]
    Step(#[source] Box<StepError>),
    /// An id names nothing.
    #[error("E0412: {place} names {what} {id}, and there are {have}")]
    Id {
        /// Where.
        place: String,
        /// What kind of thing.
        what: &'static str,
        /// The id.
        id: usize,
        /// How many there are.
        have: usize,
    },
    /// A number is beyond the limits.
    #[error("E0413: {place}: {what} is beyond the limit of {limit}")]
    Limit {
        /// Where.
        place: String,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Two tables disagree.
    #[error("E0414: {place}: {why}")]
    Fit {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
}

impl From<StepError> for StructureError {
    fn from(e: StepError) -> Self {
        StructureError::Step(Box::new(e))
    }
}

type Verdict = Result<(), StructureError>;

fn id(place: &dyn Fn() -> String, what: &'static str, id: usize, have: usize) -> Verdict {
    if id < have { Ok(()) } else { Err(StructureError::Id { place: place(), what, id, have }) }
}

fn limit(place: &dyn Fn() -> String, what: &'static str, ok: bool, limit: u64) -> Verdict {
    if ok { Ok(()) } else { Err(StructureError::Limit { place: place(), what, limit }) }
}

fn fit(place: &dyn Fn() -> String, ok: bool, why: impl FnOnce() -> String) -> Verdict {
    if ok { Ok(()) } else { Err(StructureError::Fit { place: place(), why: why() }) }
}

fn region(place: &dyn Fn() -> String, r: &Region) -> Verdict {
    limit(place, "the rank of a region", r.dims.len() <= MAX_RANK, MAX_RANK as u64)?;
    fit(place, r.dims.len() == r.strides.len(), || format!("a region has {} extents and {} strides", r.dims.len(), r.strides.len()))?;
    limit(place, "an address", r.offset <= MAX_SIZE, MAX_SIZE)?;
    let fine = r.dims.iter().all(|d| *d as u64 <= MAX_EXTENT) && r.strides.iter().all(|s| s.unsigned_abs() <= MAX_EXTENT);
    limit(place, "an extent or stride", fine, MAX_EXTENT)?;
    let count = r.dims.iter().try_fold(1u64, |n, d| n.checked_mul((*d).max(1) as u64)).is_some_and(|n| n <= MAX_SIZE);
    limit(place, "the number of elements of a region", count, MAX_SIZE)
}

fn part(place: &dyn Fn() -> String, b: &[Range<usize>]) -> Verdict {
    limit(place, "the number of ranges", b.len() <= 4 * MAX_RANK, 4 * MAX_RANK as u64)?;
    let fine = b.iter().all(|r| r.start <= r.end && r.end as u64 <= MAX_EXTENT);
    fit(place, fine, || "a range ends before it starts, or is too large".to_string())
}

/// The number parameters of an instruction that are lists.
fn numbers(place: &dyn Fn() -> String, instr: &Instr) -> Verdict {
    let small = |v: u64| v <= MAX_EXTENT;
    let signed = |v: &i64| small(v.unsigned_abs());
    let unsigned = |v: &usize| small(*v as u64);
    let fine = match instr {
        Instr::Conv { window: w, .. } | Instr::ReduceWindow { window: w, .. } | Instr::SelectScatter { window: w, .. } => {
            w.size.iter().chain(&w.stride).chain(&w.base_dilation).chain(&w.window_dilation).all(unsigned)
                && w.pad_low.iter().chain(&w.pad_high).all(signed)
        }
        Instr::Map { loops, origin, .. } => loops.len() <= MAX_RANK && loops.iter().chain(origin).all(unsigned),
        Instr::Attention { origin, .. } => origin.iter().all(unsigned),
        Instr::Pad { low, interior, .. } => low.iter().all(signed) && interior.iter().all(unsigned),
        Instr::Constant { starts, .. } => starts.iter().all(unsigned),
        Instr::Iota { start, .. } | Instr::ArgReduce { origin: start, .. } => small(*start),
        Instr::Gather { origin, .. } | Instr::Random { origin, .. } => origin.iter().all(|(a, b)| small(*a) && small(*b)),
        _ => true,
    };
    limit(place, "a parameter", fine, MAX_EXTENT)
}

impl Program {
    /// Checks the structure. What the instructions do is [`check`](crate::check::check)'s business.
    pub fn validate(&self) -> Verdict {
        match self.target.check() {
            problems if problems.is_empty() => {}
            problems => return Err(StructureError::Target { problems }),
        }
        self.step.verify()?;
        replicas::check(self)?;
        self.validate_tables()?;
        self.validate_claims()?;
        self.validate_state()?;
        let broken = self.streams.par_iter().enumerate().find_map_first(|(s, stream)| {
            let of_instr = |(i, instr)| self.validate_instr(&|| format!("instruction {i} of s{s}"), instr).err();
            stream.iter().enumerate().find_map(of_instr)
        });
        broken.map_or(Ok(()), Err)?;
        self.validate_dies()
    }

    fn validate_tables(&self) -> Verdict {
        let sites = self.target.mesh.sites();
        for (i, c) in self.channels.iter().enumerate() {
            let place = || format!("channel ch{i}");
            id(&place, "die", c.source.index(), sites)?;
            id(&place, "die", c.dest.index(), sites)?;
            limit(&place, "the length of the route", c.route.len() <= 4 * sites, 4 * sites as u64)?;
            for link in &c.route {
                id(&place, "link", link.index(), self.target.mesh.link_slots())?;
            }
        }
        let graph = &self.step.graph;
        for (i, h) in self.host.iter().enumerate() {
            let place = || format!("host tensor h{i}");
            let value = match h.usage {
                HostUse::Input(n) => {
                    id(&place, "input", n as usize, graph.inputs.len())?;
                    graph.inputs[n as usize].value
                }
                HostUse::Output(n) => {
                    id(&place, "output", n as usize, graph.outputs.len())?;
                    graph.outputs[n as usize].value
                }
                HostUse::State(n) => {
                    id(&place, "state pair", n as usize, self.step.state.len())?;
                    let once = self.host.iter().filter(|other| other.usage == h.usage).count() == 1;
                    let shards = self.state.get(n as usize).map_or(0, Vec::len);
                    fit(&place, once && shards == 0, || format!("state {n} has another place as well"))?;
                    graph.inputs[self.step.state[n as usize].input].value
                }
            };
            fit(&place, graph.tensor_ty(value) == &h.ty, || format!("it is {}, and the step has {}", h.ty, graph.tensor_ty(value)))?;
        }
        for (i, p) in self.fused.iter().enumerate() {
            let place = || format!("fused program f{i}");
            p.types().map_err(|e| StructureError::Fit { place: place(), why: e.to_string() })?;
        }
        for (i, l) in self.literals.iter().enumerate() {
            let place = || format!("constant k{i}");
            let fine = size_is_sane(l.ty()) && l.ty().bytes() == l.bytes().len();
            fit(&place, fine, || format!("{} has {} bytes", l.ty(), l.bytes().len()))?;
        }
        Ok(())
    }

    fn validate_claims(&self) -> Verdict {
        let nodes = self.step.graph.nodes().len();
        for (i, c) in self.claims.iter().enumerate() {
            let place = || format!("claim{i}");
            match c {
                Claim::Control => {}
                Claim::Compute { node, ranges } => {
                    id(&place, "node", node.index(), nodes)?;
                    part(&place, ranges)?;
                }
                Claim::Loop { end, parts } => {
                    id(&place, "node", end.index(), nodes)?;
                    parts.iter().try_for_each(|(_, b)| part(&place, b))?;
                }
                Claim::Move { value, component, part: b } => {
                    id(&place, "node", value.index(), nodes)?;
                    id(&place, "component", *component as usize, self.step.graph.ty(*value).components().len())?;
                    part(&place, b)?;
                }
            }
        }
        Ok(())
    }

    fn validate_state(&self) -> Verdict {
        let pairs = self.step.state.len();
        let place = || "the state".to_string();
        fit(&place, self.state.len() == pairs, || format!("it has {} entries for {pairs} pairs", self.state.len()))?;
        for (i, (shards, pair)) in self.state.iter().zip(&self.step.state).enumerate() {
            let ty: &TensorType = self.step.state_type(pair);
            for s in shards {
                let place = || format!("a shard of state {i}");
                id(&place, "die", s.die as usize, self.dies.len())?;
                part(&place, &s.part)?;
                region(&place, &s.region)?;
                let inside = s.part.len() == ty.rank() && s.part.iter().zip(&ty.shape).all(|(r, d)| r.end <= *d);
                let alike = s.region.dtype == ty.dtype && s.region.dims == box_dims(&s.part);
                fit(&place, inside && alike, || format!("its region is no part of {ty}"))?;
            }
        }
        Ok(())
    }

    fn validate_instr(&self, place: &dyn Fn() -> String, instr: &Instr) -> Verdict {
        for r in instr.reads().into_iter().chain(instr.writes()) {
            region(place, r)?;
        }
        numbers(place, instr)?;
        match instr {
            Instr::Map { program, .. } => id(place, "fused program", program.index(), self.fused.len()),
            Instr::Constant { literal, .. } => id(place, "constant", literal.index(), self.literals.len()),
            Instr::Load { host, part: b, .. } | Instr::Store { host, part: b, .. } => {
                part(place, b)?;
                id(place, "host tensor", host.index(), self.host.len())
            }
            _ => Ok(()),
        }
    }

    fn validate_dies(&self) -> Verdict {
        let mut total = 0usize;
        let nest =
            LoopNest::of(&self.step.graph).map_err(|e| StructureError::Fit { place: "the graph".to_string(), why: e.to_string() })?;
        let ports: Vec<(usize, usize)> = self.streams.iter().map(|s| ports(s)).collect();
        for (d, code) in self.dies.iter().enumerate() {
            let place = || format!("die {d}");
            id(&place, "die", code.die.index(), self.target.mesh.sites())?;
            fit(&place, d == 0 || self.dies[d - 1].die < code.die, || "dies are not in ascending order".to_string())?;
            id(&place, "stream", code.stream.index(), self.streams.len())?;
            let stream = &self.streams[code.stream.index()];
            let (claims, instrs) = (code.claims.len(), stream.len());
            fit(&place, claims == instrs, || format!("it has {claims} claims for {instrs} instructions"))?;
            total = total.saturating_add(instrs);
            limit(&place, "the number of instructions", total <= MAX_INSTRUCTIONS, MAX_INSTRUCTIONS as u64)?;
            limit(&place, "the planned SRAM", code.sram_used <= MAX_SIZE, MAX_SIZE)?;
            self.validate_ports(&place, code, ports[code.stream.index()])?;
            for c in &code.claims {
                id(&place, "claim", c.index(), self.claims.len())?;
            }
            loops::check(self, &place, code, &nest)?;
        }
        Ok(())
    }

    fn validate_ports(&self, place: &dyn Fn() -> String, code: &DieCode, (out, in_): (usize, usize)) -> Verdict {
        for c in code.out_ports.iter().chain(&code.in_ports) {
            id(place, "channel", c.index(), self.channels.len())?;
        }
        if out > 0 {
            id(place, "outgoing port", out - 1, code.out_ports.len())?;
        }
        if in_ > 0 {
            id(place, "incoming port", in_ - 1, code.in_ports.len())?;
        }
        // One channel behind two ports of a die would hide the order of its messages.
        for list in [&code.out_ports, &code.in_ports] {
            let mut seen: Vec<u32> = list.iter().map(|c| c.0).collect();
            seen.sort_unstable();
            fit(place, seen.windows(2).all(|w| w[0] != w[1]), || "a channel is behind two ports".to_string())?;
        }
        Ok(())
    }
}

/// How many outgoing and incoming ports a stream uses.
fn ports(stream: &[Instr]) -> (usize, usize) {
    stream.iter().fold((0, 0), |(out, in_), instr| match instr {
        Instr::Send { port, .. } => (out.max(port.index() + 1), in_),
        Instr::Recv { port, .. } | Instr::RecvAdd { port, .. } => (out, in_.max(port.index() + 1)),
        _ => (out, in_),
    })
}
