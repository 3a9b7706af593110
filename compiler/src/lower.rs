//! lower: a memory plan becomes a program. Each die's tasks become instructions in order; `wait`s are put exactly where an
//! instruction touches bytes that a queue still uses.

mod emit;
mod instrs;

use crate::memory::MemoryPlan;
use crate::place::{Task, TaskKind, View};
use crate::sharded::ShardedGraph;
use emit::DieEmitter;
use girih_ir::axes::box_dims;
use girih_ir::fused::FusedProgram;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::program::{
    Channel, ChannelId, Claim, ClaimId, DieCode, FusedId, HostId, HostTensor, HostUse, Instr, LiteralId, Program, Queue, Region,
    StateShard, StreamId,
};
use girih_ir::step::{StatePair, TrainStep};
use girih_ir::target::Target;
use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Credits of a channel: messages that may be on the way at once.
const CHANNEL_DEPTH: u32 = 8;

/// Why a plan cannot be lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// No instruction does this op.
    #[error("E1001: no instruction computes `{op}` ({value}, {origin}); it must be expanded before lowering")]
    NoInstruction {
        /// The op.
        op: &'static str,
        /// The value.
        value: ValueId,
        /// Where it comes from.
        origin: String,
    },
}

/// Tables of a program that are shared by its dies.
#[derive(Default)]
pub(crate) struct Tables {
    claims: IndexSet<Claim>,
    channels: IndexMap<(u32, u32), Channel>,
    host: IndexMap<HostKey, HostTensor>,
    fused: IndexSet<Arc<FusedProgram>>,
    literals: IndexSet<Literal>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum HostKey {
    Input(u32),
    Output(u32),
    State(u32),
}

impl Tables {
    fn claim(&mut self, claim: Claim) -> ClaimId {
        ClaimId::new(self.claims.insert_full(claim).0)
    }
    pub(crate) fn fused(&mut self, program: &Arc<FusedProgram>) -> FusedId {
        FusedId::new(self.fused.insert_full(program.clone()).0)
    }
    pub(crate) fn literal(&mut self, literal: &Literal) -> LiteralId {
        LiteralId::new(self.literals.insert_full(literal.clone()).0)
    }
    fn host(&mut self, key: HostKey, make: impl FnOnce() -> HostTensor) -> HostId {
        let entry = self.host.entry(key);
        let index = entry.index();
        entry.or_insert_with(make);
        HostId::new(index)
    }
    /// The host tensor of a streamed state pair.
    fn state(&mut self, step: &TrainStep, pair: u32) -> HostId {
        let of = &step.state[pair as usize];
        self.host(HostKey::State(pair), || HostTensor {
            name: of.name.clone(),
            ty: step.state_type(of).clone(),
            usage: HostUse::State(pair),
        })
    }
}

/// The streamed state pair for which something holds.
fn streamed(sharded: &ShardedGraph, holds: impl Fn(&StatePair) -> bool) -> Option<u32> {
    sharded.streamed.iter().copied().find(|p| holds(&sharded.step.state[*p as usize]))
}

/// Lowers a plan for the target that it was made for.
pub fn lower(plan: MemoryPlan, target: &Target) -> Result<Program, LowerError> {
    let placed = &plan.schedule.placed;
    let step = &placed.sharded.step;
    let graph = &step.graph;
    let mut tables = Tables::default();
    // Also what the step neither reads nor changes has its place there.
    placed.sharded.streamed.iter().for_each(|p| {
        tables.state(step, *p);
    });
    let nest = LoopNest::of(graph).unwrap_or_default();
    let mut loops: FxHashMap<(u32, ValueId), Claim> = FxHashMap::default();
    let mut dies: Vec<DieEmitter> = (0..placed.dies.len()).map(|_| DieEmitter::default()).collect();
    for t in &plan.schedule.order {
        let task = &placed.tasks[*t as usize];
        let die = task.die as usize;
        let region = |v: &View| region(&plan, v);
        let movement = |v: &View| {
            let b = &placed.buffers[v.buffer.index()];
            Claim::Move { value: b.value, component: b.component, part: v.part.clone() }
        };
        let (instr, claim) = match &task.kind {
            TaskKind::Compute { node, ranges } => {
                let instr = instrs::compute(&plan, task, *node, ranges, &mut tables)?;
                (instr, Claim::Compute { node: *node, ranges: ranges.clone() })
            }
            TaskKind::LoopBegin(end) => {
                let carries: Vec<Region> = task.reads.iter().map(&region).collect();
                let trips = nest.ending_at(*end).and_then(|l| nest.loops[l].trips).map(|n| n as u64);
                (Instr::Loop { trips, index: task.writes.first().map(&region), carries }, loop_claim(&plan, graph, *end, task, &mut loops))
            }
            TaskKind::LoopExit(end) => {
                (Instr::ExitUnless { predicate: region(&task.reads[0]) }, loop_claim(&plan, graph, *end, task, &mut loops))
            }
            TaskKind::LoopEnd(end) => (Instr::EndLoop, loop_claim(&plan, graph, *end, task, &mut loops)),
            TaskKind::Copy => (Instr::Copy { out: region(&task.writes[0]), input: region(&task.reads[0]) }, movement(&task.reads[0])),
            TaskKind::Load(input) => {
                let source = &graph.inputs[*input as usize];
                let host = match streamed(&placed.sharded, |s| s.input == *input as usize) {
                    Some(pair) => tables.state(step, pair),
                    None => tables.host(HostKey::Input(*input), || HostTensor {
                        name: source.name.clone(),
                        ty: graph.tensor_ty(source.value).clone(),
                        usage: HostUse::Input(*input),
                    }),
                };
                let view = &task.writes[0];
                (Instr::Load { host, part: view.part.clone(), out: region(view) }, movement(view))
            }
            TaskKind::Store(output) => {
                let result = &graph.outputs[*output as usize];
                let host = match streamed(&placed.sharded, |s| s.output == Some(*output as usize)) {
                    Some(pair) => tables.state(step, pair),
                    None => tables.host(HostKey::Output(*output), || HostTensor {
                        name: result.name.clone(),
                        ty: graph.tensor_ty(result.value).clone(),
                        usage: HostUse::Output(*output),
                    }),
                };
                let view = &task.reads[0];
                (Instr::Store { host, part: view.part.clone(), region: region(view) }, movement(view))
            }
            TaskKind::Send(m) | TaskKind::Recv(m, _) => {
                let message = &placed.messages[*m as usize];
                let entry = tables.channels.entry((message.from, message.to));
                let channel = ChannelId::new(entry.index());
                entry.or_insert_with(|| Channel {
                    source: placed.dies[message.from as usize],
                    dest: placed.dies[message.to as usize],
                    route: message.route.clone(),
                    depth: CHANNEL_DEPTH,
                });
                match &task.kind {
                    TaskKind::Recv(_, Some(monoid)) => {
                        let port = dies[die].in_port(channel);
                        (Instr::RecvAdd { port, out: region(&task.writes[0]), monoid: *monoid }, movement(&task.writes[0]))
                    }
                    TaskKind::Recv(_, None) => {
                        let port = dies[die].in_port(channel);
                        (Instr::Recv { port, out: region(&task.writes[0]) }, movement(&task.writes[0]))
                    }
                    _ => (Instr::Send { port: dies[die].out_port(channel), region: region(&task.reads[0]) }, movement(&task.reads[0])),
                }
            }
        };
        let claim = tables.claim(claim);
        let queue = match instr {
            Instr::AllReduce { .. } => Some(Queue::Collective),
            _ => emit::queue_of(&task.kind, &placed.messages),
        };
        dies[die].emit(instr, claim, queue, task, &plan, tables.claims.insert_full(Claim::Control).0);
    }
    Ok(assemble(plan, target, tables, dies))
}

/// The claim of a loop on a die: made where it begins, the same at its exit and end.
fn loop_claim(plan: &MemoryPlan, graph: &Graph, end: ValueId, task: &Task, known: &mut FxHashMap<(u32, ValueId), Claim>) -> Claim {
    let make = || {
        let slot = |v: &View| match &graph.node(plan.schedule.placed.buffers[v.buffer.index()].value).op {
            Op::Carry(c) => c.slot as u32,
            _ => u32::MAX,
        };
        Claim::Loop { end, parts: task.reads.iter().map(|v| (slot(v), v.part.clone())).collect() }
    };
    known.entry((task.die, end)).or_insert_with(make).clone()
}

/// The SRAM region of a view.
pub(crate) fn region(plan: &MemoryPlan, view: &View) -> Region {
    let buffer = &plan.schedule.placed.buffers[view.buffer.index()];
    let starts: Vec<usize> = view.part.iter().zip(&buffer.part).map(|(v, b)| v.start - b.start).collect();
    Region::dense(plan.offsets[view.buffer.index()], &buffer.ty()).sub(&starts, &box_dims(&view.part))
}

fn assemble(plan: MemoryPlan, target: &Target, mut tables: Tables, emitters: Vec<DieEmitter>) -> Program {
    let placed = &plan.schedule.placed;
    let control = ClaimId::new(tables.claims.insert_full(Claim::Control).0);
    let mut streams: IndexSet<Vec<Instr>> = IndexSet::new();
    let mut dies: Vec<DieCode> = Vec::new();
    // Only dies that do something get code; state lives only on such dies or makes them so.
    let mut code_of = vec![None; emitters.len()];
    let mut order: Vec<usize> = (0..emitters.len()).collect();
    order.sort_by_key(|d| placed.dies[*d]);
    let mut has_state = vec![false; emitters.len()];
    for b in &placed.buffers {
        if matches!(b.storage, crate::place::Storage::State(_)) {
            has_state[b.die as usize] = true;
        }
    }
    let mut emitters: Vec<Option<DieEmitter>> = emitters.into_iter().map(Some).collect();
    for d in order {
        let Some(emitter) = emitters[d].take() else { continue };
        if emitter.is_idle() && !has_state[d] {
            continue;
        }
        let (mut stream, mut claims, out_ports, in_ports) = emitter.into_parts();
        stream.push(Instr::End);
        claims.push(control);
        code_of[d] = Some(dies.len() as u32);
        let stream = StreamId::new(streams.insert_full(stream).0);
        dies.push(DieCode { die: placed.dies[d], stream, claims, out_ports, in_ports, sram_used: plan.dies[d].peak });
    }
    let mut state: Vec<Vec<StateShard>> = vec![Vec::new(); placed.sharded.step.state.len()];
    for (i, b) in placed.buffers.iter().enumerate() {
        if let (crate::place::Storage::State(pair), Some(die)) = (b.storage, code_of[b.die as usize]) {
            state[pair as usize].push(StateShard { die, part: b.part.clone(), region: Region::dense(plan.offsets[i], &b.ty()) });
        }
    }
    let step = placed.sharded.step.clone();
    Program {
        name: step.graph.name.clone(),
        target: target.clone(),
        step,
        dies,
        streams: streams.into_iter().collect(),
        channels: tables.channels.into_values().collect(),
        host: tables.host.into_values().collect(),
        state,
        fused: tables.fused.into_iter().collect(),
        literals: tables.literals.into_iter().collect(),
        claims: tables.claims.into_iter().collect(),
        replicas: None,
    }
}

/// Whether an op lowers to an instruction (everything else is looked through or expanded before).
pub fn has_instruction(op: &Op) -> bool {
    !op.is_composite()
}
