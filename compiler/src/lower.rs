//! lower: a memory plan becomes a program. Each die's tasks become instructions in order; `wait`s are put exactly where an
//! instruction touches bytes that a queue still uses.

mod emit;
mod instrs;

use crate::memory::MemoryPlan;
use crate::place::{Task, TaskKind, View};
use crate::sharded::ShardedGraph;
use emit::DieEmitter;
use girih_ir::axes::box_dims;
use girih_ir::fused::{Expr, FusedProgram};
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
use girih_ir::types::Dims;
use indexmap::{IndexMap, IndexSet};
use rayon::prelude::*;
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
    claims: FxIndexSet<Claim>,
    channels: IndexMap<(u32, u32), Channel>,
    host: IndexMap<HostKey, HostTensor>,
    fused: IndexSet<Arc<FusedProgram>>,
    literals: IndexSet<Literal>,
    /// The entry of `fused` or `literals` of each node that has one.
    of_node: FxHashMap<ValueId, u32>,
}

/// Ids follow the order of insertion, so the hash may be a fast one.
type FxIndexSet<T> = IndexSet<T, rustc_hash::FxBuildHasher>;

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
    /// Enters what a node needs beside its operands.
    fn node(&mut self, node: ValueId, op: &Op) {
        if self.of_node.contains_key(&node) {
            return;
        }
        let id = match op {
            Op::Fused(f) => self.fused.insert_full(f.program.clone()).0,
            Op::Attention(a) => self.fused.insert_full(a.weights.clone()).0,
            Op::AttentionGrad(a) => {
                self.fused.insert_full(a.scores.clone());
                self.fused.insert_full(a.weights.clone()).0
            }
            Op::Constant(c) => self.literals.insert_full(c.value.clone()).0,
            _ => return,
        };
        self.of_node.insert(node, id as u32);
    }
    pub(crate) fn fused(&self, node: ValueId) -> FusedId {
        FusedId(self.of_node.get(&node).copied().unwrap_or(u32::MAX))
    }
    /// The number of a program that was entered with its node.
    pub(crate) fn program(&self, program: &Arc<FusedProgram>) -> FusedId {
        FusedId(self.fused.get_index_of(program).map_or(u32::MAX, |i| i as u32))
    }
    pub(crate) fn literal(&self, node: ValueId) -> LiteralId {
        LiteralId(self.of_node.get(&node).copied().unwrap_or(u32::MAX))
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

/// What a task needs of the tables.
#[derive(Clone, Copy)]
struct Entry {
    claim: ClaimId,
    /// Its channel, host tensor, or the program that rounds.
    other: u32,
}

/// Lowers a plan for the target that it was made for.
pub fn lower(plan: MemoryPlan, target: &Target) -> Result<Program, LowerError> {
    // The tables are filled in the order of all tasks; then every die's stream depends on its own tasks only.
    let mut tables = Tables::default();
    let entries = enter(&plan, &mut tables);
    let control = tables.claim(Claim::Control);
    let streams = crate::memory::streams(&plan.schedule);
    let nest = LoopNest::of(&plan.schedule.placed.sharded.step.graph).unwrap_or_default();
    let one = |stream: &Vec<u32>| -> Result<DieEmitter, LowerError> {
        let mut die = DieEmitter::default();
        for t in stream {
            let task = &plan.schedule.placed.tasks[*t as usize];
            let entry = entries[*t as usize];
            let instr = instruction(&plan, &tables, &nest, task, entry, &mut die)?;
            let queue = match instr {
                Instr::AllReduce { .. } => Some(Queue::Collective),
                _ => emit::queue_of(&task.kind, &plan.schedule.placed.messages),
            };
            die.emit(instr, entry.claim, queue, task, &plan, control);
        }
        Ok(die)
    };
    let dies: Vec<DieEmitter> = streams.par_iter().map(one).collect::<Result<_, _>>()?;
    Ok(assemble(plan, target, tables, dies))
}

/// Enters the claims, channels, host tensors, programs and literals of all tasks.
fn enter(plan: &MemoryPlan, tables: &mut Tables) -> Vec<Entry> {
    let placed = &plan.schedule.placed;
    let step = &placed.sharded.step;
    let graph = &step.graph;
    // Also what the step neither reads nor changes has its place there.
    placed.sharded.streamed.iter().for_each(|p| {
        tables.state(step, *p);
    });
    let mut loops: FxHashMap<(u32, ValueId), Claim> = FxHashMap::default();
    let mut entries = vec![Entry { claim: ClaimId(u32::MAX), other: u32::MAX }; placed.tasks.len()];
    let movement = |v: &View| {
        let b = &placed.buffers[v.buffer.index()];
        Claim::Move { value: b.value, component: b.component, part: v.part.clone() }
    };
    for t in &plan.schedule.order {
        let task = &placed.tasks[*t as usize];
        let mut other = u32::MAX;
        let claim = match &task.kind {
            TaskKind::Compute { node, ranges } => {
                tables.node(*node, &graph.node(*node).op);
                Claim::Compute { node: *node, ranges: ranges.clone() }
            }
            TaskKind::LoopBegin(end) | TaskKind::LoopExit(end) | TaskKind::LoopEnd(end) => loop_claim(plan, graph, *end, task, &mut loops),
            TaskKind::Copy => {
                let [from, to] = [&task.reads[0], &task.writes[0]].map(|v| placed.buffers[v.buffer.index()].dtype);
                if from != to {
                    let body = vec![Expr::Input(0), Expr::Convert(to, 0)];
                    other = tables.fused.insert_full(Arc::new(FusedProgram { inputs: vec![from], body, outputs: vec![1] })).0 as u32;
                }
                movement(&task.reads[0])
            }
            TaskKind::Load(input) => {
                let source = &graph.inputs[*input as usize];
                other = match streamed(&placed.sharded, |s| s.input == *input as usize) {
                    Some(pair) => tables.state(step, pair).0,
                    None => {
                        let (ty, usage) = (graph.tensor_ty(source.value).clone(), HostUse::Input(*input));
                        tables.host(HostKey::Input(*input), || HostTensor { name: source.name.clone(), ty, usage }).0
                    }
                };
                movement(&task.writes[0])
            }
            TaskKind::Store(output) => {
                let result = &graph.outputs[*output as usize];
                other = match streamed(&placed.sharded, |s| s.output == Some(*output as usize)) {
                    Some(pair) => tables.state(step, pair).0,
                    None => {
                        let (ty, usage) = (graph.tensor_ty(result.value).clone(), HostUse::Output(*output));
                        tables.host(HostKey::Output(*output), || HostTensor { name: result.name.clone(), ty, usage }).0
                    }
                };
                movement(&task.reads[0])
            }
            TaskKind::Send(m) | TaskKind::Recv(m, _) => {
                let message = &placed.messages[*m as usize];
                let entry = tables.channels.entry((message.from, message.to));
                other = entry.index() as u32;
                entry.or_insert_with(|| Channel {
                    source: placed.dies[message.from as usize],
                    dest: placed.dies[message.to as usize],
                    route: message.route.clone(),
                    depth: CHANNEL_DEPTH,
                });
                movement(task.writes.first().unwrap_or_else(|| &task.reads[0]))
            }
        };
        entries[*t as usize] = Entry { claim: tables.claim(claim), other };
        if tables.claims.len() == 1 {
            tables.claim(Claim::Control);
        }
    }
    entries
}

/// The instruction of a task.
fn instruction(
    plan: &MemoryPlan,
    tables: &Tables,
    nest: &LoopNest,
    task: &Task,
    entry: Entry,
    die: &mut DieEmitter,
) -> Result<Instr, LowerError> {
    let region = |v: &View| region(plan, v);
    Ok(match &task.kind {
        TaskKind::Compute { node, ranges } => instrs::compute(plan, task, *node, ranges, tables)?,
        TaskKind::LoopBegin(end) => {
            let carries: Vec<Region> = task.reads.iter().map(&region).collect();
            let trips = nest.ending_at(*end).and_then(|l| nest.loops[l].trips).map(|n| n as u64);
            Instr::Loop { trips, index: task.writes.first().map(&region), carries }
        }
        TaskKind::LoopExit(_) => Instr::ExitUnless { predicate: region(&task.reads[0]) },
        TaskKind::LoopEnd(_) => Instr::EndLoop,
        TaskKind::Copy => {
            let (out, input) = (region(&task.writes[0]), region(&task.reads[0]));
            if out.dtype == input.dtype {
                return Ok(Instr::Copy { out, input });
            }
            let (loops, origin) = (out.dims.clone(), Dims::from_elem(0, out.dims.len()));
            Instr::Map { program: FusedId(entry.other), loops, cols: 0, origin, ins: vec![input], outs: vec![out] }
        }
        TaskKind::Load(_) => {
            let view = &task.writes[0];
            Instr::Load { host: HostId(entry.other), part: view.part.clone(), out: region(view) }
        }
        TaskKind::Store(_) => {
            let view = &task.reads[0];
            Instr::Store { host: HostId(entry.other), part: view.part.clone(), region: region(view) }
        }
        TaskKind::Send(_) => Instr::Send { port: die.out_port(ChannelId(entry.other)), region: region(&task.reads[0]) },
        TaskKind::Recv(_, None) => Instr::Recv { port: die.in_port(ChannelId(entry.other)), out: region(&task.writes[0]) },
        TaskKind::Recv(_, Some(monoid)) => {
            Instr::RecvAdd { port: die.in_port(ChannelId(entry.other)), out: region(&task.writes[0]), monoid: *monoid }
        }
    })
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
    let mut streams: FxIndexSet<Vec<Instr>> = FxIndexSet::default();
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
