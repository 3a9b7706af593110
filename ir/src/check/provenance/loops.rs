//! Loops in the abstract execution. The body is followed once, from what is known at the start of every iteration.
//!
//! Values of a loop's nodes mean those of the current iteration. Three rules keep that true. What the body writes is forgotten at
//! `loop`, so that nothing of one iteration is taken for another's; then the carried regions, which hold the values before the loop, are
//! the carries, and at `end_loop` they have to hold the next values, so that they are the carries of the next iteration as well. A claim on
//! a node that depends on a loop stands only between the `loop` and the `end_loop` of that loop, on every die, and channels are
//! matched loop by loop, so a message stays in its iteration. After the loop everything is again as it was before it except for the bytes
//! that the body writes, and the carried regions hold the results: for no iteration the values before the loop, else the next values of
//! the last one, and after an `exit_unless`, where that is checked, the carries as they are.
//!
//! All dies leave a `while` in the same iteration because its predicate is the same value on all of them. The checker takes equal values
//! for equal bits; a predicate has to be computed once and sent, or computed from the same bits in the same order.

use super::{COMPLETE, Fail, Footprint, Form, Key, Shadow, State, fail};
use crate::axes::Box;
use crate::check::report::Fault;
use crate::check::runs::{overlap, region_walk};
use crate::graph::loops::{LoopNest, loop_of};
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::program::{Instr, Region};
use smallvec::SmallVec;

/// A loop that no claim can be inside of.
const NOWHERE: u32 = u32::MAX;

/// The loops of the reference graph, as claims need them.
pub(super) struct Nest {
    nest: LoopNest,
    /// The loops that each node depends on, other than through their ends; for dead nodes as well.
    of: Vec<SmallVec<[u32; 2]>>,
    /// The `loop_index` nodes of each loop.
    indices: Vec<Vec<ValueId>>,
}

impl Nest {
    pub(super) fn of(graph: &Graph) -> Self {
        let nest = LoopNest::of(graph).unwrap_or_default();
        let position = |id: usize| nest.loops.iter().position(|l| l.id == id);
        let mut indices = vec![Vec::new(); nest.loops.len()];
        let mut of: Vec<SmallVec<[u32; 2]>> = Vec::with_capacity(graph.nodes().len());
        for v in graph.values() {
            let node = graph.node(v);
            let mut set: SmallVec<[u32; 2]> = node.operands.iter().flat_map(|o| of[o.index()].iter().copied()).collect();
            match &node.op {
                Op::Carry(_) | Op::LoopIndex(_) => {
                    let own = position(loop_of(&node.op));
                    if let (Op::LoopIndex(_), Some(l)) = (&node.op, own) {
                        indices[l].push(v);
                    }
                    set.push(own.map_or(NOWHERE, |l| l as u32));
                }
                Op::Repeat(_) | Op::While(_) => {
                    let own = position(loop_of(&node.op));
                    set.retain(|l| Some(*l as usize) != own);
                }
                _ => {}
            }
            set.sort_unstable();
            set.dedup();
            of.push(set);
        }
        Nest { nest, of, indices }
    }
}

/// A loop that a die is in.
pub(super) struct Frame {
    position: u32,
    /// What is known before and after, of the bytes that the body leaves alone.
    memory: Shadow<u32>,
    carries: Vec<Region>,
}

impl State<'_> {
    /// Whether an instruction of the die may speak of the node here.
    pub(super) fn in_scope(&self, die: usize, node: u32) -> Result<(), Fail> {
        let is_in = |l: u32| self.inside[die].iter().any(|f| f.position == l);
        match self.nest.of[node as usize].iter().find(|l| !is_in(**l)) {
            None => Ok(()),
            Some(l) => {
                let of = self.nest.nest.loops.get(*l as usize).map_or("no end".to_string(), |l| l.end.to_string());
                fail(Fault::Claim, format!("{} belongs to the loop of {of}, and this instruction does not", ValueId(node)))
            }
        }
    }

    /// Refuses work that has to be done but lies in a loop that perhaps never runs.
    pub(super) fn surely_runs(&self, die: usize) -> Result<(), Fail> {
        let perhaps = |f: &&Frame| self.nest.nest.loops[f.position as usize].trips.is_none_or(|n| n == 0);
        match self.inside[die].iter().find(perhaps) {
            Some(f) => {
                let end = self.nest.nest.loops[f.position as usize].end;
                fail(Fault::Result, format!("it stores in the loop of {end}, which perhaps never runs"))
            }
            None => Ok(()),
        }
    }

    /// `loop`, `exit_unless` or `end_loop`.
    pub(super) fn fence(&mut self, (die, i): (usize, usize), instr: &Instr, end: ValueId, parts: &[(u32, Box)]) -> Result<(), Fail> {
        let Some(l) = self.nest.nest.ending_at(end) else { return fail(Fault::Claim, format!("{end} ends no loop")) };
        match instr {
            Instr::Loop { index, carries, .. } => self.begin((die, i), l, index.as_ref(), carries, parts),
            Instr::ExitUnless { predicate } => {
                let Some(value) = self.nest.nest.loops[l].predicate else {
                    return fail(Fault::Claim, format!("the loop of {end} has no predicate"));
                };
                self.holds(die, predicate, value, &Box::new()).map_err(|(f, why)| (f, format!("the predicate: {why}")))?;
                self.hold_slots(die, l, parts, "as its result if the loop ends here", |this, slot| this.nest.nest.loops[l].carries[slot])
            }
            Instr::EndLoop => {
                let verdict = self.hold_slots(die, l, parts, "for the next iteration", |this, slot| this.nest.nest.loops[l].next[slot]);
                let Some(frame) = self.inside[die].pop() else { return fail(Fault::Claim, "there is no loop to end") };
                self.memory[die] = frame.memory;
                for (region, (slot, part)) in frame.carries.iter().zip(parts) {
                    self.write_part(die, region, (end.0, *slot), part, COMPLETE)?;
                }
                verdict
            }
            _ => fail(Fault::Claim, format!("`{}` is no part of a loop's frame", instr.name())),
        }
    }

    fn begin(
        &mut self,
        (die, i): (usize, usize),
        l: usize,
        index: Option<&Region>,
        carries: &[Region],
        parts: &[(u32, Box)],
    ) -> Result<(), Fail> {
        let frame = Frame { position: l as u32, memory: Shadow::default(), carries: carries.to_vec() };
        self.inside[die].push(frame);
        let graph = self.graph;
        let init = |this: &Self, slot: usize| graph.node(this.nest.nest.loops[l].carries[slot]).operands[0];
        let verdict = self.hold_slots(die, l, parts, "before the loop", init);
        for f in self.written(die, i) {
            self.memory[die].set(&f, None);
        }
        if let Some(frame) = self.inside[die].last_mut() {
            frame.memory = self.memory[die].clone();
        }
        for (region, (slot, part)) in carries.iter().zip(parts) {
            let carry = self.nest.nest.loops[l].carries[*slot as usize];
            let key = self.key(carry, 0)?;
            self.write_part(die, region, key, part, COMPLETE)?;
        }
        if let Some(region) = index {
            let keys: Vec<Key> = self.nest.indices[l].iter().map(|v| (v.0, 0)).collect();
            let forms = keys.into_iter().filter_map(|key| Form::of(key, &[], region)).collect();
            self.write(die, region, forms, COMPLETE);
        }
        verdict
    }

    /// Checks that the carried regions of the innermost loop hold a value for each slot.
    fn hold_slots(
        &mut self,
        die: usize,
        l: usize,
        parts: &[(u32, Box)],
        when: &str,
        value: impl Fn(&Self, usize) -> ValueId,
    ) -> Result<(), Fail> {
        let regions = self.inside[die].last().filter(|f| f.position as usize == l).map(|f| f.carries.clone()).unwrap_or_default();
        let mut verdict = Ok(());
        for (region, (slot, part)) in regions.iter().zip(parts) {
            let value = value(self, *slot as usize);
            let held = self.holds(die, region, value, part);
            verdict = verdict.and(held.map_err(|(f, why)| (f, format!("slot {slot} {when}: {why}"))));
        }
        verdict
    }

    /// Checks that a region holds a part of a value, complete.
    fn holds(&mut self, die: usize, region: &Region, value: ValueId, part: &Box) -> Result<(), Fail> {
        let key = self.key(value, 0)?;
        self.is_part(key, part)?;
        let coverage = self.read_part(die, region, key, part)?;
        self.complete(key, coverage)
    }

    /// The bytes that an iteration of the loop that begins at an instruction writes.
    fn written(&self, die: usize, begin: usize) -> Vec<Footprint> {
        let stream = &self.program.streams[self.program.dies[die].stream.index()];
        let mut out: Vec<Footprint> = Vec::new();
        let mut depth = 0usize;
        for instr in &stream[begin..] {
            match instr {
                Instr::Loop { .. } => depth += 1,
                Instr::EndLoop => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if !stays(instr) {
                out.extend(instr.writes().into_iter().flat_map(Footprint::of));
            }
        }
        out.sort_unstable_by_key(|f| (f.start(), f.end()));
        out.dedup();
        out
    }
}

/// Whether an instruction is a copy of a region onto itself, which leaves its bytes as they are.
fn stays(instr: &Instr) -> bool {
    match instr {
        Instr::Copy { out, input } => {
            input.offset == out.offset && overlap(input, out) && region_walk(input, false) == region_walk(out, false)
        }
        _ => false,
    }
}
