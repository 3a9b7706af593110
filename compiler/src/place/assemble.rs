//! The placer: who holds which part of which value, and the tasks that bring a part to where it is needed.

use super::PlaceError;
use super::dies::{Buffer, BufferId, Message, Storage, Task, TaskKind, View};
use super::holders::{Holders, Holding};
use super::stream::StreamHome;
use crate::sharded::{Shard, ShardedGraph};
use girih_ir::axes::{Axes, Box, box_contains, box_dims, box_intersect, box_is_empty, full_box};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::target::{LinkId, LogicalMesh, Router, Target};
use girih_ir::types::{DType, element_count};
use rustc_hash::FxHashMap;
#[cfg(test)]
use smallvec::smallvec;

/// What is used for more than so many nodes is kept for long.
pub(super) const LASTING: u32 = 24;

/// A part of a value on a die, for use there.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) buffer: BufferId,
    pub(super) part: Box,
    /// Made here; else a copy.
    pub(super) origin: bool,
    /// The node that used it last.
    used: u32,
}

/// A value component after `proj` is looked through.
pub(super) type Key = (ValueId, u32);

pub(super) struct Placer<'a> {
    sharded: &'a ShardedGraph,
    mesh: &'a LogicalMesh,
    router: Router<'a>,
    /// The only die whose tasks are made, with the others' part in its transfers left out.
    only: Option<u32>,
    pub(super) buffers: Vec<Buffer>,
    tasks: Vec<Task>,
    messages: Vec<Message>,
    holdings: FxHashMap<Key, Holders>,
    local: FxHashMap<(u32, Key), Vec<Local>>,
    routes: FxHashMap<(u32, u32), Vec<LinkId>>,
    /// The node that is being placed.
    now: u32,
    /// The last node that reads each one, renamings looked through.
    pub(super) last_use: Vec<u32>,
    /// The nodes that read each value component, and as which operand.
    pub(super) readers: FxHashMap<Key, Vec<(ValueId, usize)>>,
    /// For each graph input: its state pair.
    pair_of_input: Vec<Option<u32>>,
    /// State buffers by pair.
    state: Vec<Vec<BufferId>>,
    /// For each state pair: whether it stays in host memory.
    pub(super) streamed: Vec<bool>,
    /// The dies that load streamed state, by pair.
    pub(super) loads: std::collections::BTreeMap<u32, Vec<StreamHome>>,
    /// Streamed values that the dies read in different parts for the node that is being placed.
    pub(super) apart: Vec<Key>,
    /// Constants that are filled in where they are read.
    pub(super) splats: Vec<bool>,
}

impl<'a> Placer<'a> {
    pub(super) fn new(sharded: &'a ShardedGraph, mesh: &'a LogicalMesh, target: &'a Target, only: Option<u32>) -> Self {
        let mut pair_of_input = vec![None; sharded.step.graph.inputs.len()];
        sharded.step.state.iter().enumerate().for_each(|(p, s)| pair_of_input[s.input] = Some(p as u32));
        let graph = &sharded.step.graph;
        Placer {
            sharded,
            mesh,
            router: target.router(),
            only,
            buffers: Vec::new(),
            tasks: Vec::new(),
            messages: Vec::new(),
            holdings: FxHashMap::default(),
            local: FxHashMap::default(),
            routes: FxHashMap::default(),
            now: 0,
            last_use: last_uses(graph),
            readers: readers(graph),
            pair_of_input,
            state: vec![Vec::new(); sharded.step.state.len()],
            streamed: (0..sharded.step.state.len() as u32).map(|p| sharded.streamed.contains(&p)).collect(),
            loads: std::collections::BTreeMap::new(),
            apart: Vec::new(),
            splats: sharded.splats(),
        }
    }

    pub(super) fn into_parts(self) -> (Vec<Buffer>, Vec<Task>, Vec<Message>) {
        (self.buffers, self.tasks, self.messages)
    }

    pub(super) fn sharded(&self) -> &'a ShardedGraph {
        self.sharded
    }

    pub(super) fn graph(&self) -> &'a Graph {
        &self.sharded.step.graph
    }

    pub(super) fn push(&mut self, task: Task) {
        self.tasks.push(task);
    }

    /// What is known to be on a die of a value.
    pub(super) fn local(&self, die: u32, key: Key) -> &[Local] {
        self.local.get(&(die, key)).map_or(&[], Vec::as_slice)
    }

    /// What the others can have of a value.
    pub(super) fn offered(&self, key: Key) -> &[Holding] {
        self.holdings.get(&key).map_or(&[], |h| &h.list)
    }

    /// A new message.
    pub(super) fn message(&mut self, message: Message) -> u32 {
        self.messages.push(message);
        self.messages.len() as u32 - 1
    }

    /// The buffer whose bytes a buffer uses.
    pub(super) fn root(&self, id: BufferId) -> &Buffer {
        &self.buffers[self.root_id(id).index()]
    }

    fn root_id(&self, mut id: BufferId) -> BufferId {
        while let Storage::Alias(of) = self.buffers[id.index()].storage {
            id = of;
        }
        id
    }

    pub(super) fn dies(&self) -> u32 {
        self.sharded.mesh.count() as u32
    }

    /// Whether tasks of a die are made.
    pub(super) fn works(&self, die: u32) -> bool {
        self.only.is_none_or(|only| only == die)
    }

    /// The dies whose tasks are made.
    pub(super) fn working(&self) -> std::ops::Range<u32> {
        self.only.map_or(0..self.dies(), |die| die..die + 1)
    }

    /// The value component behind chains of `proj`.
    pub(super) fn resolve(&self, value: ValueId) -> Key {
        component(self.graph(), value)
    }

    pub(super) fn shape(&self, key: Key) -> &'a [usize] {
        &self.sharded.step.graph.ty(key.0).components()[key.1 as usize].shape
    }

    pub(super) fn dtype(&self, key: Key) -> DType {
        self.graph().ty(key.0).components()[key.1 as usize].dtype
    }

    pub(super) fn buffer(&mut self, die: u32, key: Key, part: Box, storage: Storage) -> BufferId {
        let dtype = self.dtype(key);
        self.buffers.push(Buffer { die, value: key.0, component: key.1, part, dtype, storage });
        BufferId::new(self.buffers.len() - 1)
    }

    /// Goes on to a node.
    pub(super) fn at(&mut self, value: ValueId) {
        self.now = value.0;
    }

    /// Places a node once more; what it made before is not used any more.
    pub(super) fn again(&mut self, value: ValueId, axes: &Axes) -> Result<(), PlaceError> {
        for c in 0..self.graph().ty(value).components().len() as u32 {
            let key = (value, c);
            self.holdings.remove(&key);
            self.working().for_each(|die| {
                self.local.remove(&(die, key));
            });
        }
        self.node(value, axes)
    }

    /// Makes it known that `buffer` holds a complete `part` of a value.
    pub(super) fn hold(&mut self, die: u32, key: Key, buffer: BufferId, part: Box, origin: bool) {
        self.use_here(die, key, buffer, part.clone(), origin);
        if origin {
            self.offer(die, key, buffer, part);
        }
    }

    /// The same for the die itself alone.
    fn use_here(&mut self, die: u32, key: Key, buffer: BufferId, part: Box, origin: bool) {
        self.local.entry((die, key)).or_default().push(Local { buffer, part, origin, used: self.now });
    }

    /// The same for the others alone.
    fn offer(&mut self, die: u32, key: Key, buffer: BufferId, part: Box) {
        self.holdings.entry(key).or_default().push(Holding { die, buffer, part });
    }

    /// Places one node: a task on every die that has a share of it.
    pub(super) fn node(&mut self, value: ValueId, axes: &Axes) -> Result<(), PlaceError> {
        let node = self.sharded.step.graph.node(value);
        let given = matches!(node.op, Op::Input(_) | Op::Constant(_) | Op::Proj(_) | Op::Iota(_) | Op::Carry(_) | Op::LoopIndex(_));
        if given || self.splats[value.index()] {
            return Ok(());
        }
        self.apart(value, axes);
        let combination = self.sharded.combination(value, axes);
        let mut partials = Vec::new();
        for die in self.working() {
            let Some(shard) = self.sharded.shard(value, axes, die as usize) else { continue };
            let mut reads = Vec::with_capacity(node.operands.len());
            for (k, operand) in node.operands.iter().enumerate() {
                let key = self.resolve(*operand);
                let part = axes.operand_box(k, self.shape(key), &shard.ranges);
                reads.push(if box_is_empty(&part) { View { buffer: BufferId(u32::MAX), part } } else { self.demand(die, key, part)? });
            }
            if let Some(alias) = self.reshape_alias(value, die, &shard, &reads) {
                let part = shard.results[0].clone();
                self.hold(die, (value, 0), alias, part.clone(), true);
                let kind = TaskKind::Compute { node: value, ranges: shard.ranges };
                self.tasks.push(Task { die, kind, reads, writes: vec![View { buffer: alias, part }] });
                continue;
            }
            let mut writes = Vec::with_capacity(shard.results.len());
            for (c, part) in shard.results.iter().enumerate() {
                let buffer = self.buffer(die, (value, c as u32), part.clone(), Storage::Own);
                writes.push(View { buffer, part: part.clone() });
                let dtype = &mut self.buffers[buffer.index()].dtype;
                if shard.partial {
                    *dtype = self.sharded.carried_in(value, combination, *dtype, part);
                } else {
                    self.use_here(die, (value, c as u32), buffer, part.clone(), true);
                }
            }
            for ranges in self.panels(value, axes, &shard, die) {
                let part_of = |k: usize, v: &View| match box_is_empty(&v.part) {
                    true => v.clone(),
                    false => View { part: axes.operand_box(k, self.shape(self.resolve(node.operands[k])), &ranges), ..*v },
                };
                let reads = reads.iter().enumerate().map(|(k, v)| part_of(k, v)).collect();
                let made = |c: usize, v: &View| View { part: axes.result_box(c, self.shape((value, c as u32)), &ranges), ..*v };
                let writes: Vec<View> = writes.iter().enumerate().map(|(c, v)| made(c, v)).collect();
                if !shard.partial {
                    writes.iter().enumerate().for_each(|(c, v)| self.offer(die, (value, c as u32), v.buffer, v.part.clone()));
                }
                self.tasks.push(Task { die, kind: TaskKind::Compute { node: value, ranges }, reads, writes });
            }
            if shard.partial {
                partials.push((die, writes));
            }
        }
        match (partials.is_empty(), self.only) {
            (true, _) => {}
            (false, None) => self.combine(value, axes, partials)?,
            (false, Some(die)) => partials.into_iter().for_each(|(_, views)| self.combine_alone(value, axes, die, views)),
        }
        Ok(())
    }

    /// A reshape (or an op that changes nothing) whose share is exactly the elements of a whole buffer only gives the bytes another name: they are already in order.
    fn reshape_alias(&mut self, value: ValueId, die: u32, shard: &Shard, reads: &[View]) -> Option<BufferId> {
        if !matches!(self.sharded.step.graph.node(value).op, Op::Reshape(_) | Op::Shard(_)) {
            return None;
        }
        let (view, result) = (&reads[0], &shard.results[0]);
        if view.buffer.0 == u32::MAX || self.buffers[view.buffer.index()].part != view.part {
            return None;
        }
        let exact = element_count(&box_dims(&view.part)) == element_count(&box_dims(result));
        exact.then(|| self.buffer(die, (value, 0), result.clone(), Storage::Alias(view.buffer)))
    }

    /// A view of `part` of a value on `die`, brought there when it is not.
    pub(super) fn demand(&mut self, die: u32, key: Key, part: Box) -> Result<View, PlaceError> {
        if let Some(pair) = self.streamed_pair(key) {
            return self.demand_streamed(pair, die, key, part);
        }
        self.prepare(key)?;
        if let Some(held) = self.local.get_mut(&(die, key)) {
            if let Some(window) = self.sharded.reuse {
                held.retain(|l| l.origin || self.now - l.used <= window);
            }
            if let Some(l) = held.iter_mut().find(|l| box_contains(&l.part, &part)) {
                l.used = self.now;
                return Ok(View { buffer: l.buffer, part });
            }
        }
        let graph = &self.sharded.step.graph;
        match &graph.node(key.0).op {
            Op::Input(input) => match self.pair_of_input[input.index] {
                Some(pair) if self.state[pair as usize].is_empty() || self.is_frozen(pair) => {
                    let buffer = self.buffer(die, key, part.clone(), Storage::State(pair));
                    self.state[pair as usize].push(buffer);
                    self.hold(die, key, buffer, part.clone(), true);
                    return Ok(View { buffer, part });
                }
                Some(_) => {}
                None => {
                    let buffer = self.buffer(die, key, part.clone(), Storage::Own);
                    self.hold(die, key, buffer, part.clone(), true);
                    let view = View { buffer, part };
                    self.tasks.push(Task { die, kind: TaskKind::Load(input.index as u32), reads: vec![], writes: vec![view.clone()] });
                    return Ok(view);
                }
            },
            Op::Constant(_) | Op::Iota(_) => {
                let buffer = self.buffer(die, key, part.clone(), Storage::Own);
                self.hold(die, key, buffer, part.clone(), true);
                let view = View { buffer, part };
                let kind = TaskKind::Compute { node: key.0, ranges: view.part.to_vec() };
                self.tasks.push(Task { die, kind, reads: vec![], writes: vec![view.clone()] });
                return Ok(view);
            }
            _ if self.splats[key.0.index()] => return self.fill(die, key, part),
            _ => {}
        }
        self.gather(die, key, part)
    }

    /// A part of a constant that is the same everywhere.
    fn fill(&mut self, die: u32, key: Key, part: Box) -> Result<View, PlaceError> {
        let scalar = self.resolve(self.graph().node(key.0).operands[0]);
        let read = self.demand(die, scalar, Box::new())?;
        let buffer = self.buffer(die, key, part.clone(), Storage::Own);
        self.hold(die, key, buffer, part.clone(), false);
        let view = View { buffer, part };
        let kind = TaskKind::Compute { node: key.0, ranges: view.part.to_vec() };
        self.tasks.push(Task { die, kind, reads: vec![read], writes: vec![view.clone()] });
        Ok(view)
    }

    /// State that is updated each step gets its home before its first use: where its new value is made.
    fn prepare(&mut self, key: Key) -> Result<(), PlaceError> {
        let graph = &self.sharded.step.graph;
        let Op::Input(input) = &graph.node(key.0).op else { return Ok(()) };
        let Some(pair) = self.pair_of_input[input.index] else { return Ok(()) };
        if self.is_frozen(pair) || !self.state[pair as usize].is_empty() {
            return Ok(());
        }
        for (die, part) in self.homes(pair) {
            let buffer = self.buffer(die, key, part.clone(), Storage::State(pair));
            self.state[pair as usize].push(buffer);
            self.hold(die, key, buffer, part, true);
        }
        Ok(())
    }

    /// The state pair of a value that is one's input and stays in host memory.
    pub(super) fn streamed_pair(&self, key: Key) -> Option<u32> {
        let Op::Input(input) = &self.sharded.step.graph.node(key.0).op else { return None };
        self.pair_of_input[input.index].filter(|p| self.streamed[*p as usize])
    }

    /// A copy of a part that is on a die and was used within so many nodes. What was not is forgotten.
    pub(super) fn recent(&mut self, die: u32, key: Key, part: &Box, window: u32) -> Option<View> {
        let now = self.now;
        let held = self.local.get_mut(&(die, key))?;
        held.retain(|l| now - l.used <= window);
        let l = held.iter_mut().find(|l| box_contains(&l.part, part))?;
        l.used = now;
        Some(View { buffer: l.buffer, part: part.clone() })
    }

    /// Forgets what a die has of a value.
    pub(super) fn forget(&mut self, die: u32, key: Key) {
        self.local.remove(&(die, key));
    }

    /// The number of the node that is being placed.
    pub(super) fn now(&self) -> u32 {
        self.now
    }

    /// Makes these the only holders of a value that others can be sent from.
    pub(super) fn only_holders(&mut self, key: Key, list: impl IntoIterator<Item = Holding>) {
        let mut holders = Holders::default();
        list.into_iter().for_each(|h| holders.push(h));
        self.holdings.insert(key, holders);
    }

    pub(super) fn is_frozen(&self, pair: u32) -> bool {
        let graph = &self.sharded.step.graph;
        let state = &self.sharded.step.state[pair as usize];
        match state.output {
            None => true,
            Some(output) => self.resolve(graph.outputs[output].value).0 == graph.inputs[state.input].value,
        }
    }

    /// Where the shards of an updated state pair live: on the dies that make its new value.
    pub(super) fn homes(&self, pair: u32) -> Vec<(u32, Box)> {
        let graph = &self.sharded.step.graph;
        let state = &self.sharded.step.state[pair as usize];
        let key = self.resolve(graph.outputs[state.output.unwrap_or_default()].value);
        let whole = || vec![(0, full_box(self.shape(key)))];
        if matches!(graph.node(key.0).op, Op::Input(_) | Op::Constant(_) | Op::Iota(_)) || self.splats[key.0.index()] {
            return whole();
        }
        // What a loop leaves in a slot lies as the slot's carry does.
        let key = match &graph.node(key.0).op {
            Op::Repeat(_) => (graph.node(key.0).operands[key.1 as usize], 0),
            Op::While(_) => (graph.node(key.0).operands[key.1 as usize + 1], 0),
            _ => key,
        };
        let axes = crate::sharded::axes_of(graph, key.0);
        let shards: Vec<(u32, Shard)> =
            (0..self.dies()).filter_map(|d| self.sharded.shard(key.0, &axes, d as usize).map(|s| (d, s))).collect();
        if shards.is_empty() || shards.iter().any(|(_, s)| s.partial) {
            return whole();
        }
        shards.into_iter().map(|(d, mut s)| (d, s.results.swap_remove(key.1 as usize))).collect()
    }

    /// Assembles a part in a new buffer: local pieces are copied, the rest comes from the nearest holders.
    pub(super) fn gather(&mut self, die: u32, key: Key, part: Box) -> Result<View, PlaceError> {
        if self.only.is_some() {
            return Ok(self.gather_alone(die, key, part));
        }
        let target = self.buffer(die, key, part.clone(), Storage::Own);
        let mut sources = self.holdings.get_mut(&key).map(|h| h.overlapping(&part)).unwrap_or_default();
        if let Some(held) = self.local.get(&(die, key)) {
            sources.extend(held.iter().map(|l| Holding { die, buffer: l.buffer, part: l.part.clone() }));
        }
        let distance = |a: u32, b: u32| {
            let cols = self.sharded.mesh.cols as u32;
            (a / cols).abs_diff(b / cols) + (a % cols).abs_diff(b % cols)
        };
        sources.sort_by_key(|h| (distance(h.die, die), h.die, h.buffer));
        let mut missing: Vec<Box> = vec![part.clone()];
        for source in sources {
            if missing.is_empty() {
                break;
            }
            let mut rest = Vec::new();
            for want in missing {
                match box_intersect(&want, &source.part) {
                    None => rest.push(want),
                    Some(piece) => {
                        subtract(&want, &piece, &mut rest);
                        let from = View { buffer: source.buffer, part: piece.clone() };
                        let to = View { buffer: target, part: piece };
                        if source.die == die {
                            self.tasks.push(Task { die, kind: TaskKind::Copy, reads: vec![from], writes: vec![to] });
                        } else {
                            self.transfer(from, to)?;
                        }
                    }
                }
            }
            missing = rest;
        }
        debug_assert!(missing.is_empty(), "no die holds {missing:?} of {} ({key:?})", self.sharded.step.graph.node(key.0).op.name());
        self.hold(die, key, target, part.clone(), false);
        Ok(View { buffer: target, part })
    }

    fn transfer(&mut self, from: View, to: View) -> Result<(), PlaceError> {
        let dest = self.buffers[to.buffer.index()].die;
        let message = self.send(from, dest)?;
        self.tasks.push(Task { die: dest, kind: TaskKind::Recv(message, None), reads: vec![], writes: vec![to] });
        Ok(())
    }

    pub(super) fn send(&mut self, from: View, dest: u32) -> Result<u32, PlaceError> {
        let source = self.buffers[from.buffer.index()].die;
        let route = match self.routes.get(&(source, dest)) {
            Some(route) => route.clone(),
            None => {
                let (a, b) = (self.mesh.dies()[source as usize], self.mesh.dies()[dest as usize]);
                let route = self.router.route(a, b).ok_or(PlaceError::NoRoute { from: a.to_string(), to: b.to_string() })?;
                self.routes.insert((source, dest), route.clone());
                route
            }
        };
        let bytes = element_count(&box_dims(&from.part)) as u64 * self.buffers[from.buffer.index()].dtype.size() as u64;
        let message = self.message(Message { from: source, to: dest, route, bytes });
        self.tasks.push(Task { die: source, kind: TaskKind::Send(message), reads: vec![from], writes: vec![] });
        Ok(message)
    }

    /// Brings results to host memory and new state home, in that order, for a result may be the old value of a state.
    pub(super) fn finish(&mut self) -> Result<(), PlaceError> {
        let step = &self.sharded.step;
        let graph = &step.graph;
        let mut replaced: Vec<(View, View)> = Vec::new();
        for (p, pair) in step.state.iter().enumerate() {
            let input = (graph.inputs[pair.input].value, 0);
            if self.streamed[p] {
                if let Some(output) = pair.output.filter(|_| !self.is_frozen(p as u32)) {
                    self.store(output as u32, self.resolve(graph.outputs[output].value))?;
                }
                continue;
            }
            let Some(output) = pair.output else {
                if self.state[p].is_empty() && self.works(0) {
                    self.demand(0, input, full_box(self.shape(input)))?;
                }
                continue;
            };
            let key = self.resolve(graph.outputs[output].value);
            self.prepare(input)?;
            if self.is_frozen(p as u32) {
                if self.state[p].is_empty() && self.works(0) {
                    self.demand(0, input, full_box(self.shape(input)))?;
                }
                continue;
            }
            for home in self.state[p].clone() {
                let (die, part) = (self.buffers[home.index()].die, self.buffers[home.index()].part.clone());
                if box_is_empty(&part) {
                    continue;
                }
                if !self.works(die) {
                    continue;
                }
                let view = self.demand(die, key, part.clone())?;
                replaced.push((view, View { buffer: home, part }));
            }
        }
        for (k, output) in graph.outputs.iter().enumerate() {
            if step.state.iter().any(|s| s.output == Some(k)) {
                continue;
            }
            self.store(k as u32, self.resolve(output.value))?;
        }
        self.replace(replaced);
        Ok(())
    }

    /// Copies new values (the first views) into the homes of their states, each behind the copies that read the old value there. Where states
    /// change places, one is put aside before.
    fn replace(&mut self, mut copies: Vec<(View, View)>) {
        let mut readers: FxHashMap<BufferId, usize> = copies.iter().map(|(_, to)| (to.buffer, 0)).collect();
        for (from, _) in &copies {
            readers.entry(self.root_id(from.buffer)).and_modify(|n| *n += 1);
        }
        while !copies.is_empty() {
            let pending = copies.len();
            let mut waiting = Vec::new();
            for (from, to) in copies {
                if readers[&to.buffer] > 0 {
                    waiting.push((from, to));
                    continue;
                }
                readers.entry(self.root_id(from.buffer)).and_modify(|n| *n -= 1);
                let die = self.buffers[to.buffer.index()].die;
                self.tasks.push(Task { die, kind: TaskKind::Copy, reads: vec![from], writes: vec![to] });
            }
            copies = waiting;
            if copies.len() == pending {
                let aside = self.put_aside(&copies[0].0);
                let old = std::mem::replace(&mut copies[0].0, aside);
                readers.entry(self.root_id(old.buffer)).and_modify(|n| *n -= 1);
            }
        }
    }

    fn put_aside(&mut self, view: &View) -> View {
        let Buffer { die, value, component, .. } = self.buffers[view.buffer.index()];
        let buffer = self.buffer(die, (value, component), view.part.clone(), Storage::Own);
        let to = View { buffer, part: view.part.clone() };
        self.tasks.push(Task { die, kind: TaskKind::Copy, reads: vec![view.clone()], writes: vec![to.clone()] });
        to
    }

    fn store(&mut self, output: u32, key: Key) -> Result<(), PlaceError> {
        let whole = full_box(self.shape(key));
        let made = matches!(&self.graph().node(key.0).op, Op::Input(_) | Op::Constant(_) | Op::Iota(_));
        let lazy = made || self.splats[key.0.index()];
        let sources: Vec<(u32, View)> = if lazy || box_is_empty(&whole) {
            if box_is_empty(&whole) || !self.works(0) {
                return Ok(());
            }
            vec![(0, self.demand(0, key, whole)?)]
        } else {
            let mut missing = vec![whole];
            let mut held = self.holdings.get(&key).map(|h| h.list.clone()).unwrap_or_default();
            held.sort_by_key(|h| (h.die, h.buffer));
            let mut sources = Vec::new();
            for h in held {
                let mut rest = Vec::new();
                for want in missing {
                    match box_intersect(&want, &h.part) {
                        None => rest.push(want),
                        Some(piece) => {
                            subtract(&want, &piece, &mut rest);
                            sources.push((h.die, View { buffer: h.buffer, part: piece }));
                        }
                    }
                }
                missing = rest;
            }
            sources
        };
        for (die, view) in sources {
            self.tasks.push(Task { die, kind: TaskKind::Store(output), reads: vec![view], writes: vec![] });
        }
        Ok(())
    }
}

/// The value component behind chains of `proj`.
fn component(graph: &Graph, value: ValueId) -> Key {
    let node = graph.node(value);
    match &node.op {
        Op::Proj(p) => (node.operands[0], p.index as u32),
        _ => (value, 0),
    }
}

/// The nodes that read each value component, and as which operand.
fn readers(graph: &Graph) -> FxHashMap<Key, Vec<(ValueId, usize)>> {
    let mut readers: FxHashMap<Key, Vec<(ValueId, usize)>> = FxHashMap::default();
    for v in graph.values().filter(|v| !matches!(graph.node(*v).op, Op::Proj(_))) {
        for (k, o) in graph.node(v).operands.iter().enumerate() {
            readers.entry(component(graph, *o)).or_default().push((v, k));
        }
    }
    readers
}

/// The last node that reads each node, also under another name.
fn last_uses(graph: &Graph) -> Vec<u32> {
    let mut last: Vec<u32> = (0..graph.nodes().len() as u32).collect();
    for v in graph.values().rev() {
        let node = graph.node(v);
        let used = if matches!(node.op, Op::Proj(_) | Op::Reshape(_) | Op::Shard(_)) { last[v.index()] } else { v.0 };
        node.operands.iter().for_each(|o| last[o.index()] = last[o.index()].max(used));
    }
    last
}

/// Appends `from` minus `piece` (a part of it) as disjoint boxes.
fn subtract(from: &Box, piece: &Box, out: &mut Vec<Box>) {
    let mut rest = from.clone();
    for d in 0..from.len() {
        for side in [rest[d].start..piece[d].start, piece[d].end..rest[d].end] {
            if side.start < side.end {
                let mut b = rest.clone();
                b[d] = side;
                out.push(b);
            }
        }
        rest[d] = piece[d].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction_leaves_a_disjoint_cover() {
        let from: Box = smallvec![0..4, 0..6];
        let piece: Box = smallvec![1..3, 2..6];
        let mut rest = Vec::new();
        subtract(&from, &piece, &mut rest);
        let count: usize = rest.iter().map(|b| element_count(&box_dims(b))).sum();
        assert_eq!(count, 24 - 8);
        assert!(rest.iter().all(|b| box_intersect(b, &piece).is_none()));
        for (i, a) in rest.iter().enumerate() {
            assert!(rest[i + 1..].iter().all(|b| box_intersect(a, b).is_none()));
        }
    }
}
