//! Provenance: abstract execution over what each byte holds in terms of the reference step.
//!
//! Instructions run in the order that the deadlock phase found. Each claim is checked against the loop nest of its node: the operand
//! boxes it needs must lie, complete, exactly at the bytes that the instruction reads, in the order in which it reads them. At the
//! end every state shard and every host output must be what the step says. So a missing reduction, a wrong shard, a double sum or a
//! buffer that was overwritten too early is found without running a number.

mod loops;

use super::content::{COMPLETE, Content, CoverageId, Coverages, Form, Key, base_of, uncovered};
use super::deadlock::Event;
use super::footprint::Footprint;
use super::implements::{self, Share};
use super::listing::{Listing, Map, Node};
use super::report::{Fault, Findings, Place, show_box};
use super::runs::{region_walk, walk};
use super::shadow::Shadow;
use super::trace::Trace;
use crate::axes::{Axes, Box, LoopKind, box_is_empty, full_box};
use crate::fused::Expr;
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::program::{Claim, HostUse, Instr, Program, Region};
use crate::scalar::Monoid;
use crate::types::{DType, TensorType, Type};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

type Fail = (Fault, String);

fn fail<T>(fault: Fault, why: impl Into<String>) -> Result<T, Fail> {
    Err((fault, why.into()))
}

/// A message on its way.
struct Message {
    key: Key,
    part: Box,
    coverage: CoverageId,
}

/// What is known while the abstract execution runs.
struct State<'a> {
    program: &'a Program,
    graph: &'a Graph,
    keys: Vec<Key>,
    axes: Vec<Option<Rc<Axes>>>,
    memory: Vec<Shadow<u32>>,
    contents: Vec<Content>,
    coverages: Coverages,
    messages: Vec<VecDeque<Message>>,
    stored: Vec<Vec<Box>>,
    nest: loops::Nest,
    /// The loops that each die is in.
    inside: Vec<Vec<loops::Frame>>,
    reads: usize,
}

/// Runs the program and checks its end; returns how many reads it traced. What it finds counts only in programs that the other phases accept.
pub fn check(program: &Program, trace: &Trace, order: &[Event], findings: &mut Findings<'_>) -> usize {
    let mut state = State::new(program);
    for event in order {
        let (d, i) = (event.at.0 as usize, event.at.1 as usize);
        if event.done != trace.dies[d].queued[i].is_some() {
            continue;
        }
        let message = trace.dies[d].queued[i].and_then(|q| q.message).map_or(0, |(ch, _)| ch as usize);
        let code = &program.dies[d];
        let instr = &program.streams[code.stream.index()][i];
        let claim = &program.claims[code.claims[i].index()];
        if let Err((fault, why)) = state.step((d, i), instr, claim, message) {
            findings.add(fault, Place::at(d, i), why);
            if findings.total > super::report::MAX_FINDINGS {
                return state.reads;
            }
        }
    }
    state.finish(findings);
    state.reads
}

/// The value component behind `proj` and behind ops that change nothing, for each node.
fn resolve_keys(graph: &Graph) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::with_capacity(graph.nodes().len());
    for (i, node) in graph.nodes().iter().enumerate() {
        let from = node.operands.first().map(|v| v.index());
        let same_type = from.is_some_and(|v| graph.nodes()[v].ty == node.ty);
        let ascending = |l: &[usize]| l.iter().copied().eq(0..l.len());
        let through = match &node.op {
            Op::Proj(p) => from.map(|v| (keys[v].0, p.index as u32)),
            Op::Reshape(_) | Op::Convert(_) if same_type => from.map(|v| keys[v]),
            Op::Transpose(t) if ascending(&t.permutation) => from.map(|v| keys[v]),
            Op::Broadcast(b) if same_type && ascending(&b.dims) => from.map(|v| keys[v]),
            _ => None,
        };
        keys.push(through.unwrap_or((i as u32, 0)));
    }
    keys
}

impl<'a> State<'a> {
    fn new(program: &'a Program) -> Self {
        let graph = &program.step.graph;
        let mut state = State {
            program,
            graph,
            keys: resolve_keys(graph),
            axes: vec![None; graph.nodes().len()],
            memory: vec![Shadow::default(); program.dies.len()],
            contents: Vec::new(),
            coverages: Coverages::default(),
            messages: (0..program.channels.len()).map(|_| VecDeque::new()).collect(),
            stored: vec![Vec::new(); program.host.len()],
            nest: loops::Nest::of(graph),
            inside: (0..program.dies.len()).map(|_| Vec::new()).collect(),
            reads: 0,
        };
        for (pair, shards) in program.state.iter().enumerate() {
            let value = graph.inputs[program.step.state[pair].input].value;
            for shard in shards {
                let form = Form::of(state.keys[value.index()], &shard.part, &shard.region);
                state.write(shard.die as usize, &shard.region, form.into_iter().collect(), COMPLETE);
            }
        }
        state
    }

    fn key(&self, value: ValueId, component: u32) -> Result<Key, Fail> {
        match self.graph.ty(value) {
            Type::Tensor(_) if component == 0 => Ok(self.keys[value.index()]),
            Type::Tuple(ts) if (component as usize) < ts.len() => Ok((value.0, component)),
            _ => fail(Fault::Claim, format!("{value} has no component {component}")),
        }
    }

    fn ty(&self, key: Key) -> &'a TensorType {
        &self.graph.ty(ValueId(key.0)).components()[key.1 as usize]
    }

    fn name(&self, key: Key) -> String {
        let v = ValueId(key.0);
        let component = if matches!(self.graph.ty(v), Type::Tuple(_)) { format!(".{}", key.1) } else { String::new() };
        format!("{v}{component} ({})", self.graph.node(v).op.name())
    }

    fn write(&mut self, die: usize, region: &Region, forms: SmallVec<[Form; 1]>, coverage: CoverageId) {
        let id = self.contents.len() as u32;
        self.contents.push(Content { forms, coverage, dtype: region.dtype });
        Footprint::of(region).iter().for_each(|f| self.memory[die].set(f, Some(id)));
    }

    /// Writes a part that the region lists in order, in the value's type or in the one in which its sums are carried.
    fn write_part(&mut self, die: usize, region: &Region, key: Key, part: &[Range<usize>], coverage: CoverageId) -> Result<(), Fail> {
        let own = self.ty(key).dtype;
        let carried = self.coverages.monoid(coverage).unwrap_or(Monoid::Sum).carried_in(own);
        if region.dtype != own && region.dtype != carried {
            return fail(Fault::Claim, format!("{} is {own}, and the region holds {}", self.name(key), region.dtype));
        }
        match Form::of(key, part, region) {
            Some(form) => {
                self.write(die, region, smallvec::smallvec![form], coverage);
                Ok(())
            }
            None => {
                fail(Fault::Claim, format!("a region of extents {:?} cannot hold {} of {}", region.dims, show_box(part), self.name(key)))
            }
        }
    }

    /// All contents of a region, one after the other.
    fn contents_of(&self, die: usize, region: &Region) -> Result<SmallVec<[u32; 4]>, Fail> {
        let mut ids: SmallVec<[u32; 4]> = SmallVec::new();
        for f in Footprint::of(region) {
            let hole = self.memory[die].each(&f, |_, id| {
                if ids.last() != Some(&id) {
                    ids.push(id);
                }
            });
            if let Some(byte) = hole {
                return fail(Fault::Provenance, format!("byte {byte:#x} holds nothing of the step"));
            }
        }
        if ids.len() > 1 {
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(ids)
    }

    fn form_of(&self, id: u32, key: Key) -> Result<&Form, Fail> {
        let content = &self.contents[id as usize];
        content.forms.iter().find(|f| f.key == key).ok_or_else(|| {
            let held: Vec<String> = content.forms.iter().map(|f| format!("{} of {}", show_box(&f.part), self.name(f.key))).collect();
            (Fault::Provenance, format!("it needs {}, and the memory holds {}", self.name(key), held.join(" or ")))
        })
    }

    /// Checks that the region lists `part` of `key`, in elements of this type, in the order that `list` makes of its map, and returns its
    /// coverage.
    fn read(
        &mut self,
        die: usize,
        region: &Region,
        (key, dtype): (Key, DType),
        part: &[Range<usize>],
        list: impl FnOnce(&Map<'_>) -> Result<Listing, String>,
    ) -> Result<CoverageId, Fail> {
        if box_is_empty(part) || region.dims.contains(&0) {
            let both = box_is_empty(part) == region.dims.contains(&0);
            return if both { Ok(COMPLETE) } else { fail(Fault::Claim, format!("it needs {} of {}", show_box(part), self.name(key))) };
        }
        self.reads += 1;
        if region.dtype != dtype {
            return fail(Fault::Claim, format!("{} is {dtype}, and the region is read as {}", self.name(key), region.dtype));
        }
        let ids = self.contents_of(die, region)?;
        let (base, strides) = self.map_of(&ids, key, part)?;
        let coverage = self.contents[ids[0] as usize].coverage;
        for id in &ids {
            let form = self.form_of(*id, key)?;
            if self.contents[*id as usize].dtype != dtype {
                let held = self.contents[*id as usize].dtype;
                return fail(Fault::Provenance, format!("{} lies there in {held}, and is read as {dtype}", self.name(key)));
            }
            if !form.agrees(part, base, &strides, dtype.size() as u64) {
                let why = format!("{} of {} does not lie where {} of it would", show_box(&form.part), self.name(key), show_box(part));
                return fail(Fault::Provenance, why);
            }
            if self.contents[*id as usize].coverage != coverage {
                return fail(Fault::Partial, format!("parts of {} are summed to different degrees", self.name(key)));
            }
        }
        let (start, dims) = list(&Map { part, base, strides: &strides }).map_err(|why| (Fault::Claim, why))?;
        let (want, got) = (walk(dims.into_iter(), false), region_walk(region, false));
        if start != region.offset as i64 || want != got {
            let why = format!(
                "{} of {} starts at {start:#x} and runs {}, but the region starts at {:#x} and runs {}",
                show_box(part),
                self.name(key),
                show_walk(&want),
                region.offset,
                show_walk(&got)
            );
            return fail(Fault::Provenance, why);
        }
        self.join(die, region, &ids, Form { key, part: Box::from(part), base, strides }, coverage);
        Ok(coverage)
    }

    /// What was found to be one part of one value needs no memory of its pieces, unless they can be read as something else as well.
    fn join(&mut self, die: usize, region: &Region, ids: &[u32], form: Form, coverage: CoverageId) {
        let plain = |id: &u32| self.contents[*id as usize].forms.len() == 1;
        let covered: usize = form.part.iter().map(|r| r.len()).product();
        if ids.len() > 1 && ids.iter().all(plain) && covered == region.elements() {
            self.write(die, region, smallvec::smallvec![form], coverage);
        }
    }

    /// The map from index to address behind the contents of a region.
    fn map_of(&self, ids: &[u32], key: Key, part: &[Range<usize>]) -> Result<(i64, SmallVec<[i64; 6]>), Fail> {
        let Some(first) = ids.first() else { return fail(Fault::Provenance, "the region is empty") };
        let f = self.form_of(*first, key)?;
        let mut strides = f.strides.clone();
        let mut unknown: SmallVec<[usize; 6]> = (0..part.len()).filter(|d| f.part[*d].len() == 1 && part[*d].len() > 1).collect();
        if unknown.is_empty() {
            return Ok((f.base, strides));
        }
        // A dimension of one index tells no stride; where its neighbors lie does.
        let mut progress = true;
        while progress && !unknown.is_empty() {
            progress = false;
            for id in &ids[1..] {
                let g = self.form_of(*id, key)?;
                let step = |d: usize| g.part[d].start as i64 - f.part[d].start as i64;
                let open: SmallVec<[usize; 6]> = unknown.iter().copied().filter(|d| g.part[*d].len() > 1 || step(*d) != 0).collect();
                let found = match open.iter().find(|d| g.part[**d].len() > 1) {
                    Some(d) => Some((*d, g.strides[*d])),
                    None if open.len() == 1 => {
                        let d = open[0];
                        let known: i64 = (0..part.len())
                            .filter(|e| !unknown.contains(e))
                            .map(|e| step(e).wrapping_mul(strides[e]))
                            .fold(0, i64::wrapping_add);
                        let rest = g.corner().wrapping_sub(f.corner()).wrapping_sub(known);
                        (rest.wrapping_rem(step(d)) == 0).then(|| (d, rest.wrapping_div(step(d))))
                    }
                    None => None,
                };
                if let Some((d, stride)) = found {
                    strides[d] = stride;
                    unknown.retain(|e| *e != d);
                    progress = true;
                }
            }
        }
        Ok((base_of(f.corner(), &f.part, &strides), strides))
    }

    /// A read of a whole part in its own order.
    fn read_part(&mut self, die: usize, region: &Region, key: Key, part: &[Range<usize>]) -> Result<CoverageId, Fail> {
        let dtype = self.ty(key).dtype;
        self.read(die, region, (key, dtype), part, |m| Ok(m.in_order(None)))
    }

    /// The same where it may be a sum that is not rounded yet.
    fn read_sum(&mut self, die: usize, region: &Region, key: Key, part: &[Range<usize>]) -> Result<CoverageId, Fail> {
        let own = self.ty(key).dtype;
        let dtype = if region.dtype == Monoid::Sum.carried_in(own) { region.dtype } else { own };
        self.read(die, region, (key, dtype), part, |m| Ok(m.in_order(None)))
    }

    fn complete(&self, key: Key, coverage: CoverageId) -> Result<(), Fail> {
        if coverage == COMPLETE {
            return Ok(());
        }
        fail(Fault::Partial, format!("{} is not complete here: it has {}", self.name(key), self.coverages.describe(coverage)))
    }

    fn is_part(&self, key: Key, part: &[Range<usize>]) -> Result<(), Fail> {
        let shape = &self.ty(key).shape;
        if part.len() == shape.len() && part.iter().zip(shape).all(|(r, d)| r.start <= r.end && r.end <= *d) {
            return Ok(());
        }
        fail(Fault::Claim, format!("{} is no part of {}", show_box(part), self.name(key)))
    }

    /// One instruction.
    fn step(&mut self, (die, i): (usize, usize), instr: &Instr, claim: &Claim, channel: usize) -> Result<(), Fail> {
        match claim {
            Claim::Control if matches!(instr, Instr::Wait { .. } | Instr::End) => Ok(()),
            Claim::Control => fail(Fault::Claim, "it touches tensors but claims to touch none"),
            Claim::Loop { end, parts } => self.fence((die, i), instr, *end, parts),
            Claim::Compute { node, ranges } => {
                self.in_scope(die, node.0)?;
                self.compute(die, instr, *node, ranges)
            }
            Claim::Move { value, component, part } => {
                let key = self.key(*value, *component)?;
                self.is_part(key, part)?;
                self.in_scope(die, key.0)?;
                self.movement(die, instr, key, part, channel)
            }
        }
    }

    fn movement(&mut self, die: usize, instr: &Instr, key: Key, part: &Box, channel: usize) -> Result<(), Fail> {
        match instr {
            Instr::Copy { out, input } => {
                let coverage = self.read_sum(die, input, key, part)?;
                self.write_part(die, out, key, part, coverage)
            }
            Instr::Send { region, .. } => {
                // The message goes out even if it is wrong, so that its receiver is not blamed as well.
                let read = self.read_sum(die, region, key, part);
                let coverage = *read.as_ref().unwrap_or(&COMPLETE);
                self.messages[channel].push_back(Message { key, part: part.clone(), coverage });
                read.map(|_| ())
            }
            Instr::Recv { out, .. } => {
                let message = self.take(channel, key, part);
                let coverage = *message.as_ref().unwrap_or(&COMPLETE);
                self.write_part(die, out, key, part, coverage)?;
                message.map(|_| ())
            }
            Instr::RecvAdd { out, monoid, .. } => {
                let message = self.take(channel, key, part)?;
                let have = self.read_sum(die, out, key, part)?;
                self.combine(die, out, key, part, [have, message], *monoid)
            }
            Instr::Load { host, part: box_, out } => {
                let input = match self.program.host[host.index()].usage {
                    HostUse::Input(n) => n as usize,
                    HostUse::State(p) => self.program.step.state[p as usize].input,
                    HostUse::Output(_) => return fail(Fault::Claim, "it loads from a tensor that is an output"),
                };
                self.host_part(self.graph.inputs[input].value, key, part, box_)?;
                self.write_part(die, out, key, part, COMPLETE)
            }
            Instr::Store { host, part: box_, region } => {
                let output = match self.program.host[host.index()].usage {
                    HostUse::Output(n) => Some(n as usize),
                    HostUse::State(p) => self.program.step.state[p as usize].output,
                    HostUse::Input(_) => None,
                };
                let Some(output) = output else { return fail(Fault::Claim, "it stores to a tensor that stays as it is") };
                self.host_part(self.graph.outputs[output].value, key, part, box_)?;
                let coverage = self.read_part(die, region, key, part)?;
                self.complete(key, coverage)?;
                self.surely_runs(die)?;
                let stored = &mut self.stored[host.index()];
                if let Some(other) = stored.iter().find(|b| crate::axes::box_intersect(b, part).is_some()) {
                    return fail(Fault::Result, format!("{} is stored already, as part of {}", show_box(part), show_box(other)));
                }
                stored.push(part.clone());
                Ok(())
            }
            Instr::Map { program, ins, outs, cols: 0, .. } => {
                let fused = &self.program.fused[program.index()];
                if let ([Expr::Input(0), Expr::Convert(..)], [1]) = (&fused.body[..], &fused.outputs[..]) {
                    return self.round(die, (&outs[0], &ins[0]), key, part);
                }
                // Two partial results added on one die.
                let monoid = match fused.body[..] {
                    [Expr::Input(0), Expr::Input(1), Expr::Binary(f, 0, 1)] if fused.outputs == [2] => {
                        [Monoid::Sum, Monoid::Prod, Monoid::Max, Monoid::Min, Monoid::And, Monoid::Or, Monoid::Xor]
                            .into_iter()
                            .find(|m| m.function() == f)
                    }
                    _ => None,
                };
                let Some(monoid) = monoid else { return fail(Fault::Claim, "it moves nothing: its program does not combine two parts") };
                let (a, b) = (self.read_sum(die, &ins[0], key, part)?, self.read_sum(die, &ins[1], key, part)?);
                self.combine(die, &outs[0], key, part, [a, b], monoid)
            }
            _ => fail(Fault::Claim, format!("`{}` moves nothing", instr.name())),
        }
    }

    /// A complete sum becomes the value: that is rounded here and nowhere else.
    fn round(&mut self, die: usize, (out, input): (&Region, &Region), key: Key, part: &Box) -> Result<(), Fail> {
        let own = self.ty(key).dtype;
        if out.dtype != own {
            return fail(Fault::Claim, format!("{} is {own}, and it is rounded to {}", self.name(key), out.dtype));
        }
        let coverage = self.read_sum(die, input, key, part)?;
        self.complete(key, coverage)?;
        self.write_part(die, out, key, part, coverage)
    }

    fn host_part(&self, value: ValueId, key: Key, part: &Box, host: &Box) -> Result<(), Fail> {
        if self.keys[value.index()] != key || part != host {
            let why =
                format!("the host tensor is {value}, {}, and the claim says {} of {}", show_box(host), show_box(part), self.name(key));
            return fail(Fault::Claim, why);
        }
        Ok(())
    }

    fn take(&mut self, channel: usize, key: Key, part: &Box) -> Result<CoverageId, Fail> {
        match self.messages[channel].pop_front() {
            None => fail(Fault::Channel, "no message was sent"),
            Some(m) if m.key == key && m.part == *part => Ok(m.coverage),
            Some(m) => {
                let (sent, want) = (self.name(m.key), self.name(key));
                fail(
                    Fault::Provenance,
                    format!("the message is {} of {sent}, and the claim says {} of {want}", show_box(&m.part), show_box(part)),
                )
            }
        }
    }

    fn combine(&mut self, die: usize, out: &Region, key: Key, part: &Box, both: [CoverageId; 2], monoid: Monoid) -> Result<(), Fail> {
        match self.coverages.merge(both[0], both[1], monoid) {
            Ok(coverage) => self.write_part(die, out, key, part, coverage),
            Err(why) => {
                self.write_part(die, out, key, part, both[0])?;
                fail(Fault::Partial, format!("two parts of {} are combined, but {why}", self.name(key)))
            }
        }
    }

    fn axes(&mut self, node: ValueId) -> Rc<Axes> {
        let graph = self.graph;
        self.axes[node.index()]
            .get_or_insert_with(|| {
                let n = graph.node(node);
                let types: SmallVec<[&Type; 4]> = n.operands.iter().map(|o| graph.ty(*o)).collect();
                Rc::new(n.op.axes(&types, &n.ty))
            })
            .clone()
    }

    fn compute(&mut self, die: usize, instr: &Instr, node: ValueId, ranges: &[Range<usize>]) -> Result<(), Fail> {
        let given =
            matches!(self.graph.node(node).op, Op::Input(_) | Op::Proj(_) | Op::Carry(_) | Op::LoopIndex(_) | Op::Repeat(_) | Op::While(_));
        if given || instr.is_async() && !matches!(instr, Instr::AllReduce { .. }) {
            return fail(Fault::Claim, format!("`{}` computes no node", instr.name()));
        }
        let axes = self.axes(node);
        check_ranges(&axes, ranges)?;
        let operands = &self.graph.node(node).operands;
        let mut keys: SmallVec<[Key; 4]> = SmallVec::new();
        let mut parts: SmallVec<[Box; 4]> = SmallVec::new();
        for (k, v) in operands.iter().enumerate() {
            let key = self.key(*v, 0)?;
            parts.push(axes.operand_box(k, &self.ty(key).shape, ranges));
            keys.push(key);
        }
        let results: SmallVec<[Box; 2]> =
            self.graph.ty(node).components().iter().enumerate().map(|(k, t)| axes.result_box(k, &t.shape, ranges)).collect();
        let share = Share { program: self.program, node, ranges, parts: &parts, results: &results };
        let order = implements::check(&share, instr).map_err(|why| (Fault::Claim, why))?;
        let reads = instr.reads();
        let which = operands_read(&reads, &parts, instr)?;
        let mut verdict = Ok(());
        for (region, k) in reads.iter().zip(&which) {
            let (key, part) = (keys[*k], &parts[*k]);
            let node = Node { graph: self.graph, node, operand: *k, uses: &axes.operands[*k], ranges };
            let dtype = self.ty(key).dtype;
            let read = self.read(die, region, (key, dtype), part, |m| node.list(&order, m));
            let read = read.and_then(|coverage| self.complete(key, coverage)).map_err(|(f, why)| (f, format!("operand {k}: {why}")));
            verdict = verdict.and(read);
        }
        let coverage = self.result_coverage(&axes, ranges)?;
        self.record(die, instr, node, &results, coverage)?;
        verdict
    }

    /// Records the results; a copy onto itself gives its bytes one more form.
    fn record(&mut self, die: usize, instr: &Instr, node: ValueId, results: &[Box], coverage: CoverageId) -> Result<(), Fail> {
        let writes = instr.writes();
        if writes.len() != results.len() {
            return fail(Fault::Claim, format!("it writes {} results, and the node has {}", writes.len(), results.len()));
        }
        for (c, (region, part)) in writes.into_iter().zip(results).enumerate() {
            let key = self.key(node, c as u32)?;
            let order = implements::result_order(&self.graph.node(node).op, c);
            let mut shaped = region.clone();
            for (i, d) in order.into_iter().flatten().enumerate().filter(|_| region.dims.len() == part.len()) {
                shaped.dims[*d] = region.dims[i];
                shaped.strides[*d] = region.strides[i];
            }
            match instr {
                Instr::Copy { input, .. } if input.offset == region.offset && super::runs::overlap(input, region) => {
                    let Some(form) = Form::of(key, part, &shaped) else {
                        return fail(Fault::Claim, format!("a region of extents {:?} cannot hold {}", region.dims, show_box(part)));
                    };
                    self.add_form(die, region, form);
                }
                _ => self.write_part(die, &shaped, key, part, coverage)?,
            }
        }
        Ok(())
    }

    fn add_form(&mut self, die: usize, region: &Region, form: Form) {
        let mut pieces: Vec<(Footprint, u32)> = Vec::new();
        for f in Footprint::of(region) {
            self.memory[die].each(&f, |part, id| pieces.push((part.clone(), id)));
        }
        let mut renamed: Vec<(u32, u32)> = Vec::new();
        for (bytes, id) in pieces {
            let new = renamed.iter().find(|(old, _)| *old == id).map(|(_, new)| *new);
            let new = new.unwrap_or_else(|| {
                let mut content = self.contents[id as usize].clone();
                content.forms.retain(|f| f.key != form.key);
                content.forms.push(form.clone());
                self.contents.push(content);
                renamed.push((id, self.contents.len() as u32 - 1));
                self.contents.len() as u32 - 1
            });
            self.memory[die].set(&bytes, Some(new));
        }
    }

    fn result_coverage(&mut self, axes: &Axes, ranges: &[Range<usize>]) -> Result<CoverageId, Fail> {
        let reducing: SmallVec<[usize; 4]> = (0..axes.loops.len()).filter(|l| matches!(axes.loops[*l].kind, LoopKind::Reduce(_))).collect();
        let cut = |l: &&usize| ranges[**l].len() < axes.loops[**l].extent;
        let mut monoids = reducing.iter().filter(cut).filter_map(|l| match axes.loops[*l].kind {
            LoopKind::Reduce(m) => Some(m),
            _ => None,
        });
        let Some(monoid) = monoids.next() else { return Ok(COMPLETE) };
        if monoids.any(|m| m != monoid) {
            return fail(Fault::Claim, "it cuts loops that combine in different ways");
        }
        let extents: SmallVec<[usize; 4]> = reducing.iter().map(|l| axes.loops[*l].extent).collect();
        let part: Box = reducing.iter().map(|l| ranges[*l].clone()).collect();
        Ok(self.coverages.part(monoid, &extents, part))
    }

    /// Checks what is there when all is done.
    fn finish(&mut self, findings: &mut Findings<'_>) {
        let step = &self.program.step;
        for (p, shards) in self.program.state.iter().enumerate() {
            let pair = &step.state[p];
            let value = pair.output.map_or(self.graph.inputs[pair.input].value, |o| self.graph.outputs[o].value);
            let key = self.keys[value.index()];
            if let Some(host) = self.program.streamed(p) {
                // Without a store the host tensor keeps its value, which then has to be the new one.
                let stored = &self.stored[host.index()];
                let kept = stored.is_empty() && key == self.keys[self.graph.inputs[pair.input].value.index()];
                if let (false, Some(hole)) = (kept, uncovered(full_box(&self.ty(key).shape), stored)) {
                    let why = format!("{} of state `{}` is never stored to host memory", show_box(&hole), pair.name);
                    findings.add(Fault::Result, Place::program(), why);
                }
                continue;
            }
            for shard in shards {
                let held = self.read_part(shard.die as usize, &shard.region, key, &shard.part);
                if let Err((_, why)) = held.and_then(|coverage| self.complete(key, coverage)) {
                    let why = format!("state `{}` {} is not its new value at the end: {why}", pair.name, show_box(&shard.part));
                    findings.add(Fault::Result, Place::die(shard.die as usize), why);
                }
            }
            let mut parts: Vec<Box> = shards.iter().map(|s| s.part.clone()).collect();
            parts.dedup();
            if let Some(hole) = uncovered(full_box(&self.ty(key).shape), &parts) {
                findings.add(Fault::Result, Place::program(), format!("no die holds {} of state `{}`", show_box(&hole), pair.name));
            }
        }
        for o in step.result_outputs() {
            let output = &self.graph.outputs[o];
            let hosts = self.program.host.iter().zip(&self.stored).filter(|(h, _)| h.usage == HostUse::Output(o as u32));
            let boxes: Vec<Box> = hosts.flat_map(|(_, boxes)| boxes.iter().cloned()).collect();
            if let Some(hole) = uncovered(full_box(self.graph.shape(output.value)), &boxes) {
                findings.add(Fault::Result, Place::program(), format!("{} of output `{}` is never stored", show_box(&hole), output.name));
            }
        }
    }
}

/// The extents and strides of a walk, in words.
fn show_walk(walk: &[(u64, i64)]) -> String {
    if walk.is_empty() {
        return "over one element".to_string();
    }
    walk.iter().map(|(n, s)| format!("{n}×{s} B")).collect::<Vec<_>>().join(", ")
}

fn check_ranges(axes: &Axes, ranges: &[Range<usize>]) -> Result<(), Fail> {
    if ranges.len() != axes.loops.len() {
        return fail(Fault::Claim, format!("the node has {} loops, and the claim has {} ranges", axes.loops.len(), ranges.len()));
    }
    for (l, (r, dim)) in ranges.iter().zip(&axes.loops).enumerate() {
        if r.start > r.end || r.end > dim.extent {
            return fail(Fault::Claim, format!("range {}..{} of loop {l} is not inside its extent {}", r.start, r.end, dim.extent));
        }
        if dim.kind == LoopKind::Whole && r.len() != dim.extent {
            return fail(Fault::Claim, format!("loop {l} may not be cut, and the claim has {}..{} of {}", r.start, r.end, dim.extent));
        }
    }
    Ok(())
}

/// Which operand each region that is read belongs to.
fn operands_read(reads: &[&Region], parts: &[Box], instr: &Instr) -> Result<SmallVec<[usize; 4]>, Fail> {
    let needed: SmallVec<[usize; 4]> = (0..parts.len()).filter(|k| !box_is_empty(&parts[*k])).collect();
    if reads.len() == parts.len() {
        Ok((0..parts.len()).collect())
    } else if reads.len() == needed.len() {
        Ok(needed)
    } else if matches!(instr, Instr::Fill { .. }) {
        Ok(SmallVec::new())
    } else {
        fail(Fault::Claim, format!("it reads {} regions, and the claim needs {} operands", reads.len(), needed.len()))
    }
}
