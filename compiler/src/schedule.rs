//! schedule: the global order of tasks. Every die's stream is that order restricted to the die, so all waits point backwards and no
//! deadlock is possible. Transfers move up to right behind the task that makes their data, but not many nodes before
//! their use, so they travel while others compute and hold memory for a short time; what a loop needs from outside is brought before it.

mod order;
mod overlap;

pub use order::reorder;
pub use overlap::overlap;

use crate::place::{PlacedGraph, Storage, Task, TaskKind, View};
use girih_ir::axes::{Box, box_dims, box_intersect};
use girih_ir::graph::ValueId;
use girih_ir::graph::loops::LoopNest;
use girih_ir::ops::Op;
use girih_ir::types::element_count;
use rustc_hash::FxHashMap;

/// A placed graph with the order in which its tasks are issued.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    /// What is scheduled.
    pub placed: PlacedGraph,
    /// Task indices in global issue order.
    pub order: Vec<u32>,
}

/// Positions between two nodes: room for what belongs right before or behind one.
const STEP: u32 = 8;
/// How many nodes before its use a transfer is issued at the earliest.
const PREFETCH: u32 = 6;
/// The same for messages of few bytes, which would only come late behind larger ones.
const PREFETCH_SMALL: u32 = 24;
/// Few bytes.
const SMALL: usize = 4096;
/// The same for messages of many bytes, which take long.
const PREFETCH_LARGE: u32 = 20;
/// Many bytes.
const LARGE: usize = 512 << 10;
/// The position of new state.
const LAST: u32 = u32::MAX;

/// The position of a node's own task.
fn at_node(node: ValueId) -> u32 {
    (node.0 + 1) * STEP
}

/// Where the parts of a loop stand.
struct Bounds {
    /// Invariants, the copies into the slots, then the loop itself.
    begin: u32,
    /// The first node of the body.
    first: ValueId,
    end: ValueId,
}

impl Bounds {
    fn invariants(&self) -> u32 {
        self.begin - 2
    }
    fn slots(&self) -> u32 {
        self.begin - 1
    }
    fn next_slots(&self) -> u32 {
        at_node(self.end) - 1
    }
}

struct Scheduler<'a> {
    placed: &'a PlacedGraph,
    nest: LoopNest,
    bounds: Vec<Bounds>,
    /// Constants that are filled in where they are read.
    splats: Vec<bool>,
    /// The position at which the bytes of a root buffer are complete.
    ready: Vec<u32>,
    /// By root buffer that is made in panels: the position at which each one is.
    panels: FxHashMap<usize, Vec<(Box, u32)>>,
    message_ready: Vec<u32>,
    /// The task that receives each message.
    receiver: Vec<Option<usize>>,
    /// The position of each task so far.
    position: Vec<u32>,
    /// By root buffer: the task that rounds a sum into it, until somebody reads it.
    rounding: FxHashMap<usize, usize>,
    /// The position of the last node placed, and that node.
    now: u32,
    node: Option<ValueId>,
    /// The position of that node's first panel.
    base: u32,
    /// Whether the loop has begun on a die.
    begun: Vec<Vec<bool>>,
    /// How many nodes of the order there are to one of a die: as many as stages that work at the same time.
    stages: u32,
}

/// Orders the tasks of a placed graph.
pub fn schedule(placed: PlacedGraph) -> Schedule {
    let graph = &placed.sharded.step.graph;
    let nest = LoopNest::of(graph).unwrap_or_default();
    // A loop stands before its own first node, and before its first inner loop when that is the same.
    let first = |l: usize| nest.loops[l].members.iter().min().copied().unwrap_or(nest.loops[l].end);
    let bounds = (0..nest.loops.len()).map(|l| Bounds { begin: at_node(first(l)) - 1, first: first(l), end: nest.loops[l].end }).collect();
    let mut s = Scheduler {
        ready: vec![0; placed.buffers.len()],
        panels: FxHashMap::default(),
        message_ready: vec![0; placed.messages.len()],
        receiver: receivers(&placed),
        position: Vec::with_capacity(placed.tasks.len()),
        rounding: FxHashMap::default(),
        now: 0,
        node: None,
        base: 0,
        begun: vec![vec![false; placed.dies.len()]; nest.loops.len()],
        stages: placed.sharded.stages.regions.len().max(1) as u32,
        splats: placed.sharded.splats(),
        placed: &placed,
        nest,
        bounds,
    };
    for i in 0..placed.tasks.len() {
        let at = s.place(i);
        s.position.push(at);
    }
    let position = s.position;
    let mut order: Vec<u32> = (0..placed.tasks.len() as u32).collect();
    order.sort_by_key(|t| (position[*t as usize], *t));
    Schedule { placed, order }
}

/// The task that receives each message.
fn receivers(placed: &PlacedGraph) -> Vec<Option<usize>> {
    let mut receiver = vec![None; placed.messages.len()];
    for (i, task) in placed.tasks.iter().enumerate() {
        if let TaskKind::Recv(m, _) = task.kind {
            receiver[m as usize] = Some(i);
        }
    }
    receiver
}

impl Scheduler<'_> {
    fn place(&mut self, i: usize) -> u32 {
        let task = &self.placed.tasks[i];
        let graph = &self.placed.sharded.step.graph;
        let root = |b| self.placed.root(b).index();
        let inputs = task.reads.iter().filter(|v| v.buffer.0 != u32::MAX).map(|v| self.ready_at(v)).max().unwrap_or(0);
        let outputs = task.writes.iter().map(|v| self.ready[root(v.buffer)]).max().unwrap_or(0);
        let at = match &task.kind {
            TaskKind::Compute { node, .. } if matches!(graph.node(*node).op, Op::Constant(_) | Op::Iota(_)) => self.outside(),
            // A constant that a mesh fills in is there for its reader only.
            TaskKind::Compute { node, .. } if self.splats[node.index()] => {
                if self.placed.dies.len() > 1 {
                    self.before_reader(i)
                } else {
                    self.outside()
                }
            }
            // A combination over replicas is issued as soon as its operand is there: it takes long, and the engine goes on meanwhile.
            TaskKind::Compute { node, .. } if matches!(graph.node(*node).op, Op::AllReduce(_)) => inputs.max(outputs),
            TaskKind::Compute { node, .. } => {
                // What is made again comes behind what it is made from, on all dies: the transfers of the one are before the other.
                if self.node != Some(*node) {
                    self.base = if at_node(*node) <= self.now { self.now + 1 } else { at_node(*node) };
                    self.node = Some(*node);
                }
                // The panels of a share follow each other, with what carries each away in between.
                let before = i.checked_sub(1).map(|b| &self.placed.tasks[b]).filter(|t| t.die == task.die);
                let next = before.is_some_and(|t| matches!(&t.kind, TaskKind::Compute { node: n, .. } if n == node));
                let at = if next { self.position[i - 1] + 1 } else { self.base };
                self.now = self.now.max(at);
                at
            }
            // State from host memory is on its way before it is sent on, and that is before its use.
            TaskKind::Load(i) if self.is_state(*i) => self.streamed(),
            TaskKind::Load(_) => self.outside(),
            TaskKind::LoopBegin(end) => {
                let l = self.nest.ending_at(*end).unwrap_or_default();
                self.begun[l][task.die as usize] = true;
                self.node = Some(self.bounds[l].first);
                self.now = self.now.max(self.bounds[l].begin);
                self.base = self.now.max(at_node(self.bounds[l].first));
                self.bounds[l].begin
            }
            // Behind the predicate, wherever its transfers stand.
            TaskKind::LoopExit(_) => inputs.max(self.now) + 1,
            TaskKind::LoopEnd(end) => {
                self.node = Some(*end);
                self.now = self.now.max(at_node(*end));
                self.base = self.now;
                at_node(*end)
            }
            TaskKind::Copy => match self.home(task) {
                // State is overwritten when every reader of the old value has been issued.
                Some(Home::State) => LAST,
                Some(Home::Slot(l)) if self.begun[l][task.die as usize] => self.bounds[l].next_slots(),
                Some(Home::Slot(l)) => self.bounds[l].slots(),
                None if self.rounds(task) => {
                    self.rounding.insert(root(task.writes[0].buffer), i);
                    inputs.max(outputs)
                }
                None => inputs.max(outputs).max(self.ahead(inputs, self.bytes(task))),
            },
            TaskKind::Recv(..) if matches!(self.home(task), Some(Home::State)) => LAST,
            TaskKind::Store(_) => inputs,
            TaskKind::Send(m) => {
                // Both ends are issued at one place of the order. Parts that are brought together do not wait for each other.
                let receive = self.receiver[*m as usize].map(|t| &self.placed.tasks[t]);
                let onto = receive.filter(|t| matches!(t.kind, TaskKind::Recv(_, Some(_))) || self.home(t).is_some());
                let dest = onto.map_or(0, |t| self.ready[root(t.writes[0].buffer)]);
                self.message_ready[*m as usize] = inputs.max(dest).max(self.ahead(inputs, self.bytes(task)));
                self.message_ready[*m as usize]
            }
            TaskKind::Recv(m, _) => self.message_ready[*m as usize],
        };
        for v in task.reads.iter().filter(|v| v.buffer.0 != u32::MAX) {
            let root = self.placed.root(v.buffer).index();
            if let Some(t) = self.rounding.remove(&root) {
                self.position[t] = self.delayed(self.position[t], at);
                self.ready[root] = self.position[t];
            }
        }
        for v in &task.writes {
            let root = self.placed.root(v.buffer).index();
            self.ready[root] = self.ready[root].max(at);
            if matches!(task.kind, TaskKind::Compute { .. }) && self.placed.buffers[root].part != v.part && v.buffer.index() == root {
                self.panels.entry(root).or_default().push((v.part.clone(), at));
            }
        }
        if let TaskKind::LoopBegin(_) | TaskKind::LoopEnd(_) = task.kind {
            // The slots hold their values from here on: those of the iteration, or the loop's results.
            for v in &task.reads {
                let root = self.placed.root(v.buffer).index();
                self.ready[root] = at;
            }
        }
        at
    }

    /// The position at which what a view shows is complete.
    fn ready_at(&self, view: &View) -> u32 {
        let root = self.placed.root(view.buffer).index();
        let panels = self.panels.get(&root).filter(|_| view.buffer.index() == root);
        let shown = |p: &&(Box, u32)| box_intersect(&p.0, &view.part).is_some();
        panels.map_or(self.ready[root], |panels| panels.iter().filter(shown).map(|p| p.1).max().unwrap_or(0))
    }

    /// Whether a copy rounds a sum.
    fn rounds(&self, task: &Task) -> bool {
        let dtype = |views: &[View]| views.first().and_then(|v| self.placed.buffers.get(v.buffer.index())).map(|b| b.dtype);
        dtype(&task.reads).zip(dtype(&task.writes)).is_some_and(|(from, to)| from != to)
    }

    /// When a sum is rounded that is issued at `from` and read at `to`: as late as that, so that nobody waits for the other parts before it has to,
    /// but not so late that it is kept for long, and in no other loop.
    fn delayed(&self, from: u32, to: u32) -> u32 {
        let at = to.min(from + PREFETCH * STEP);
        let borders = self.bounds.iter().flat_map(|b| [b.invariants(), at_node(b.end)]);
        if borders.into_iter().any(|b| from < b && b <= at) { from } else { at }
    }

    /// Right before the task that reads what task `i` makes.
    fn before_reader(&self, i: usize) -> u32 {
        let tasks = &self.placed.tasks;
        let made = tasks[i].writes[0].buffer;
        let Some(reader) = tasks[i + 1..].iter().find(|t| t.reads.iter().any(|v| v.buffer == made)) else { return self.now };
        match (&reader.kind, reader.writes.first().and_then(|_| self.home(reader))) {
            (TaskKind::Compute { node, .. }, _) => self.now.max(at_node(*node)),
            (TaskKind::Copy, Some(Home::State)) => LAST,
            (TaskKind::Copy, Some(Home::Slot(l))) if self.begun[l][reader.die as usize] => self.bounds[l].next_slots(),
            (TaskKind::Copy, Some(Home::Slot(l))) => self.bounds[l].slots(),
            _ => self.now,
        }
    }

    /// Bytes that a task reads.
    fn bytes(&self, task: &Task) -> usize {
        let view = |v: &View| element_count(&box_dims(&v.part)) * self.placed.buffers[v.buffer.index()].dtype.size();
        task.reads.iter().map(view).sum()
    }

    fn is_state(&self, input: u32) -> bool {
        self.placed.sharded.step.state.iter().any(|s| s.input == input as usize)
    }

    /// How early something may be brought whose sources are complete at `ready`: some nodes before it is used, and before the loops that it
    /// does not depend on. Nearer would be waited for, and farther would hold memory for long.
    fn ahead(&self, ready: u32, bytes: usize) -> u32 {
        let prefetch = match bytes {
            ..=SMALL => PREFETCH_SMALL,
            LARGE.. => PREFETCH_LARGE,
            _ => PREFETCH,
        };
        let inner = self.node.and_then(|v| self.nest.innermost(v));
        let around: Vec<usize> = std::iter::successors(inner, |l| self.nest.loops[*l].parent).collect();
        let outside = around.iter().filter(|l| ready < self.bounds[**l].begin).map(|l| self.bounds[*l].invariants()).min();
        self.behind_loops(&around, outside.unwrap_or(self.now).min(self.now).saturating_sub(prefetch * self.stages * STEP))
    }

    /// A position, or the first one behind a loop that it would be in and that is over: there it would be brought in every iteration.
    fn behind_loops(&self, around: &[usize], at: u32) -> u32 {
        let over = |l: &usize| !around.contains(l) && (self.bounds[*l].begin..=at_node(self.bounds[*l].end)).contains(&at);
        (0..self.bounds.len()).filter(over).map(|l| at_node(self.bounds[l].end) + 1).max().unwrap_or(at)
    }

    /// Where streamed state is loaded: early enough to be there when it is sent on, and in a loop in every iteration, for between them it
    /// would take its room.
    fn streamed(&self) -> u32 {
        let inner = self.node.and_then(|v| self.nest.innermost(v));
        let around: Vec<usize> = std::iter::successors(inner, |l| self.nest.loops[*l].parent).collect();
        let first = inner.map_or(0, |l| self.bounds[l].begin + 1);
        self.behind_loops(&around, self.now.saturating_sub(2 * PREFETCH * STEP).max(first))
    }

    /// Where something is made that depends on nothing: here, or before the outermost loop that is open here.
    fn outside(&self) -> u32 {
        let inner = self.node.and_then(|v| self.nest.innermost(v));
        let outermost = std::iter::successors(inner, |l| self.nest.loops[*l].parent).last();
        outermost.map_or(self.now, |l| self.bounds[l].invariants().min(self.now))
    }

    fn home(&self, task: &Task) -> Option<Home> {
        let root = &self.placed.buffers[self.placed.root(task.writes.first()?.buffer).index()];
        match root.storage {
            Storage::State(_) => Some(Home::State),
            Storage::Carry => self.nest.innermost(root.value).map(Home::Slot),
            _ => None,
        }
    }
}

/// A buffer that is written when its old value is no longer needed.
enum Home {
    State,
    Slot(usize),
}
