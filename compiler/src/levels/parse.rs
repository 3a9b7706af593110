//! Reading the levels back. What was edited is validated: ids in range, parts inside buffers, tasks in an order that can run.

use crate::memory::{DieMemory, MemoryPlan};
use crate::place::{Buffer, BufferId, Message, PlacedGraph, Storage, Task, TaskKind, View};
use crate::schedule::Schedule;
use crate::sharded::{AxisSet, LoopSplit, MeshShape, Region, ShardedGraph, Stages, Strategy, axes_of};
use girih_ir::axes::{Box, box_contains};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::scalar::Monoid;
use girih_ir::step::parse_step;
use girih_ir::target::{DieId, LinkId};
use girih_ir::types::DType;

/// A level text that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LevelError {
    /// The training step above the first `==` line is wrong.
    #[error("{0}")]
    Step(String),
    /// A line is wrong.
    #[error("E1101: line {line}: `{text}`: {why}")]
    Line {
        /// Line number in the whole text, from 1.
        line: usize,
        /// The line.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A section is missing.
    #[error("E1102: there is no section `== {name}`; this text is of an earlier level")]
    Section {
        /// Its name.
        name: &'static str,
    },
}

type Lines<'t> = Vec<(usize, &'t str)>;

/// The lines of a section without comments, and the text before the first section.
fn sections(text: &str) -> (&str, Vec<(&str, Lines<'_>)>) {
    let start = if text.starts_with("== ") { 0 } else { text.find("\n== ").map_or(text.len(), |i| i + 1) };
    let first_line = text[..start].lines().count();
    let mut found: Vec<(&str, Lines<'_>)> = Vec::new();
    for (i, line) in text[start..].lines().enumerate() {
        if let Some(name) = line.strip_prefix("== ") {
            found.push((name.trim(), Vec::new()));
            continue;
        }
        let line = line.split(';').next().unwrap_or("").trim();
        if let (false, Some((_, lines))) = (line.is_empty(), found.last_mut()) {
            lines.push((first_line + i + 1, line));
        }
    }
    (&text[..start], found)
}

fn section<'a, 't>(found: &'a [(&'t str, Lines<'t>)], name: &'static str) -> Result<&'a Lines<'t>, LevelError> {
    found.iter().find(|(n, _)| *n == name).map(|(_, l)| l).ok_or(LevelError::Section { name })
}

/// Runs a line through a reader that says what is wrong.
fn each<'t>(lines: &Lines<'t>, mut read: impl FnMut(&mut Words<'t>) -> Result<(), &'static str>) -> Result<(), LevelError> {
    for (line, text) in lines {
        let mut words = Words { rest: text };
        let end = |w: &Words<'_>| if w.rest.trim().is_empty() { Ok(()) } else { Err("there is more on the line than belongs there") };
        read(&mut words).and_then(|()| end(&words)).map_err(|why| LevelError::Line { line: *line, text: (*text).to_string(), why })?;
    }
    Ok(())
}

struct Words<'t> {
    rest: &'t str,
}

impl<'t> Words<'t> {
    fn next(&mut self) -> Result<&'t str, &'static str> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Err("the line ends too early") } else { Ok(word) }
    }
    fn word(&mut self, want: &str) -> Result<(), &'static str> {
        if self.next()? == want { Ok(()) } else { Err("another word is expected here") }
    }
    fn number(&mut self, prefix: &str) -> Result<u64, &'static str> {
        number(self.next()?, prefix)
    }
    fn done(&self) -> bool {
        self.rest.trim().is_empty()
    }
    /// `(b0[0:4] -[0:0])`
    fn views(&mut self) -> Result<Vec<View>, &'static str> {
        self.rest = self.rest.trim_start().strip_prefix('(').ok_or("`(` is expected")?;
        let (inside, rest) = self.rest.split_once(')').ok_or("`)` is missing")?;
        self.rest = rest;
        let view = |w: &str| {
            let (name, part) = w.split_at(w.find('[').ok_or("`[` is missing")?);
            let buffer = if name == "-" { BufferId(u32::MAX) } else { BufferId(number(name, "b")? as u32) };
            Ok(View { buffer, part: ranges(part)? })
        };
        inside.split(' ').filter(|w| !w.is_empty()).map(view).collect()
    }
}

fn number(word: &str, prefix: &str) -> Result<u64, &'static str> {
    let digits = word.strip_prefix(prefix).ok_or("another kind of id is expected here")?;
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.map_err(|_| "this is not a number")
}

fn ranges(word: &str) -> Result<Box, &'static str> {
    let inside = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).ok_or("ranges look like `[0:4,2:8]`")?;
    let range = |w: &str| {
        let (a, b) = w.split_once(':').ok_or("a range looks like `0:4`")?;
        let (a, b) = (number(a, "")? as usize, number(b, "")? as usize);
        if a <= b { Ok(a..b) } else { Err("a range ends before it begins") }
    };
    inside.split(',').filter(|w| !w.is_empty()).map(range).collect()
}

/// Reads what `partition` makes.
pub fn parse_sharded(text: &str) -> Result<ShardedGraph, LevelError> {
    let (head, found) = sections(text);
    let step = parse_step(head).map_err(|e| LevelError::Step(e.to_string()))?;
    let mut mesh = MeshShape { rows: 1, cols: 1 };
    let mut cost = 0;
    let (mut reuse, mut remat, mut streamed) = (None, Vec::new(), Vec::<u32>::new());
    let mut stages = Stages::default();
    let mut strategies: Vec<Strategy> = vec![Strategy::new(); step.graph.nodes().len()];
    each(section(&found, "partition")?, |w| match w.next()? {
        "mesh" => {
            let (rows, cols) = w.next()?.split_once('x').ok_or("a mesh looks like `5x5`")?;
            mesh = MeshShape { rows: number(rows, "")? as usize, cols: number(cols, "")? as usize };
            w.word("cost")?;
            cost = w.number("")?;
            if mesh.count() == 0 || mesh.rows > 4096 || mesh.cols > 4096 { Err("the mesh has no dies, or too many") } else { Ok(()) }
        }
        "split" => {
            let v = w.number("%")? as usize;
            let slot = strategies.get_mut(v).ok_or("there is no such value")?;
            let split = |s: &str| match s.strip_prefix('@') {
                Some(die) => match number(die, "")? {
                    die if die < mesh.count() as u64 => Ok(LoopSplit::On(die as u32)),
                    _ => Err("the mesh has no such die"),
                },
                None => AxisSet::from_name(s).map(LoopSplit::Over).ok_or("a loop is split over -, y, x, yx or xy, or on a die: @7"),
            };
            *slot = w.next()?.split(',').map(split).collect::<Result<_, _>>()?;
            let axes = axes_of(&step.graph, ValueId::new(v));
            if slot.len() != axes.loops.len() { Err("the value has another number of loops") } else { Ok(()) }
        }
        "stage" => {
            let (rows, cols) = w.next()?.split_once('x').ok_or("a stage looks like `2x5 at 0,0`")?;
            w.word("at")?;
            let (row, col) = w.next()?.split_once(',').ok_or("a stage looks like `2x5 at 0,0`")?;
            let [rows, cols, row, col] = [rows, cols, row, col].map(|n| number(n, "").map(|n| n as usize));
            let region = Region { row: row?, col: col?, shape: MeshShape { rows: rows?, cols: cols? } };
            stages.regions.push(region);
            let within = |first: usize, count: usize, all: usize| count > 0 && first < all && count <= all - first;
            let fits = within(region.row, region.shape.rows, mesh.rows) && within(region.col, region.shape.cols, mesh.cols);
            if fits { Ok(()) } else { Err("the stage is not inside the mesh") }
        }
        "on" => {
            let (first, last, stage) = (w.number("%")? as usize, w.number("%")? as usize, w.number("")?);
            let fits = first == stages.of.len() && first <= last && last < step.graph.nodes().len() && stage < stages.regions.len() as u64;
            if !fits {
                return Err("`on %FIRST %LAST STAGE` lines name every node once, in order, and a stage that there is");
            }
            stages.of.resize(last + 1, stage as u16);
            Ok(())
        }
        "reuse" => {
            reuse = Some(w.number("")? as u32);
            Ok(())
        }
        "remat" => {
            let v = w.number("%")? as usize;
            w.word("before")?;
            let before = w.number("%")? as usize;
            remat.push((ValueId::new(v), ValueId::new(before)));
            if v < before && before < step.graph.nodes().len() { Ok(()) } else { Err("a value is made again before a later node") }
        }
        "stream" => {
            let pair = w.number("")?;
            let fits = (pair as usize) < step.state.len() && streamed.last().is_none_or(|p| u64::from(*p) < pair);
            streamed.push(pair as u32);
            if fits { Ok(()) } else { Err("streamed state pairs are listed in ascending order") }
        }
        _ => Err("`mesh`, `stage`, `reuse`, `remat`, `stream`, `split` or `on` is expected"),
    })?;
    let named = if stages.regions.is_empty() { 0 } else { step.graph.nodes().len() };
    if let (true, Some((line, text))) = (stages.of.len() != named, section(&found, "partition")?.last()) {
        return Err(LevelError::Line {
            line: *line,
            text: (*text).to_string(),
            why: "where there are stages, every node is on one of them",
        });
    }
    Ok(ShardedGraph { step, mesh, strategies, cost, reuse, remat, streamed, stages })
}

fn storage(w: &mut Words<'_>) -> Result<Storage, &'static str> {
    Ok(match w.next()? {
        "own" => Storage::Own,
        "alias" => Storage::Alias(BufferId(w.number("b")? as u32)),
        "state" => Storage::State(w.number("")? as u32),
        "carry" => Storage::Carry,
        _ => return Err("storage is own, alias or state"),
    })
}

fn task_kind(w: &mut Words<'_>) -> Result<TaskKind, &'static str> {
    Ok(match w.next()? {
        "compute" => TaskKind::Compute { node: ValueId(w.number("%")? as u32), ranges: ranges(w.next()?)?.to_vec() },
        "copy" => TaskKind::Copy,
        "loop_begin" => TaskKind::LoopBegin(ValueId(w.number("%")? as u32)),
        "loop_exit" => TaskKind::LoopExit(ValueId(w.number("%")? as u32)),
        "loop_end" => TaskKind::LoopEnd(ValueId(w.number("%")? as u32)),
        "load" => TaskKind::Load(w.number("")? as u32),
        "store" => TaskKind::Store(w.number("")? as u32),
        "send" => TaskKind::Send(w.number("")? as u32),
        "recv" => TaskKind::Recv(w.number("")? as u32, None),
        other => match other.strip_prefix("recv_").and_then(Monoid::from_name) {
            Some(monoid) => TaskKind::Recv(w.number("")? as u32, Some(monoid)),
            None => return Err("there is no such kind of task"),
        },
    })
}

/// Reads what `place` makes.
pub fn parse_placed(text: &str) -> Result<PlacedGraph, LevelError> {
    let sharded = parse_sharded(text)?;
    let (_, found) = sections(text);
    let graph = sharded.step.graph.clone();
    let (pairs, count) = (sharded.step.state.len(), sharded.mesh.count() as u64);
    let mut p = PlacedGraph { sharded, dies: Vec::new(), buffers: Vec::new(), tasks: Vec::new(), messages: Vec::new() };
    let die = |n: u64| if n < count { Ok(n as u32) } else { Err("there is no such logical die") };
    each(section(&found, "place")?, |w| match w.next()? {
        "dies" => {
            while !w.done() {
                p.dies.push(DieId(w.number("d")? as u32));
            }
            if p.dies.len() as u64 == count { Ok(()) } else { Err("the mesh has another number of dies") }
        }
        "buffer" => {
            if w.number("b")? as usize != p.buffers.len() {
                return Err("buffers are numbered in order");
            }
            let owner = die(w.number("p")?)?;
            let (value, component) = w.next()?.split_once('.').ok_or("a value and component look like `%3.0`")?;
            let (value, component) = (ValueId(number(value, "%")? as u32), number(component, "")? as u32);
            let node = graph.nodes().get(value.index()).ok_or("there is no such value")?;
            let ty = node.ty.components().get(component as usize).ok_or("the value has no such component")?;
            let part = ranges(w.next()?)?;
            let dtype = DType::from_name(w.next()?).ok_or("there is no such element type")?;
            let storage = storage(w)?;
            let inside = part.len() == ty.rank() && box_contains(&girih_ir::axes::full_box(&ty.shape), &part);
            let known = match storage {
                Storage::Own => true,
                Storage::Carry => matches!(node.op, Op::Carry(_)),
                Storage::Alias(b) => b.index() < p.buffers.len() || b.index() > p.buffers.len(),
                Storage::State(s) => (s as usize) < pairs,
            };
            let fits = dtype == ty.dtype || dtype == Monoid::Sum.carried_in(ty.dtype);
            if !fits || !inside || !known {
                return Err("the buffer does not fit its value");
            }
            p.buffers.push(Buffer { die: owner, value, component, part, dtype, storage });
            Ok(())
        }
        "message" => {
            if w.number("")? as usize != p.messages.len() {
                return Err("messages are numbered in order");
            }
            let from = die(w.number("p")?)?;
            w.word("->")?;
            let to = die(w.number("p")?)?;
            let bytes = w.number("")?;
            let mut route = Vec::new();
            while !w.done() {
                route.push(LinkId(w.number("l")? as u32));
            }
            p.messages.push(Message { from, to, route, bytes });
            Ok(())
        }
        "task" => {
            let owner = die(w.number("p")?)?;
            let kind = task_kind(w)?;
            let reads = w.views()?;
            w.word("->")?;
            let task = Task { die: owner, kind, reads, writes: w.views()? };
            check_task(&p, &task)?;
            p.tasks.push(task);
            Ok(())
        }
        _ => Err("`dies`, `buffer`, `message` or `task` is expected"),
    })?;
    check_aliases(&p)?;
    Ok(p)
}

fn check_task(p: &PlacedGraph, t: &Task) -> Result<(), &'static str> {
    let graph = &p.sharded.step.graph;
    let fits = |v: &View| match p.buffers.get(v.buffer.index()) {
        None => v.buffer.0 == u32::MAX && girih_ir::axes::box_is_empty(&v.part),
        Some(b) => b.die == t.die && b.part.len() == v.part.len() && box_contains(&b.part, &v.part),
    };
    if !t.reads.iter().chain(&t.writes).all(fits) || t.writes.iter().any(|v| v.buffer.0 == u32::MAX) {
        return Err("a view is outside its buffer, or the buffer is on another die");
    }
    let shape = (t.reads.len(), t.writes.len());
    let is_end = |v: ValueId| graph.nodes().get(v.index()).is_some_and(|n| matches!(n.op, Op::Repeat(_) | Op::While(_)));
    let ok = match &t.kind {
        TaskKind::Compute { node, ranges } => graph.nodes().get(node.index()).is_some_and(|n| {
            let axes = axes_of(graph, *node);
            shape == (n.operands.len(), n.ty.components().len())
                && ranges.len() == axes.loops.len()
                && ranges.iter().zip(&axes.loops).all(|(r, l)| r.end <= l.extent)
        }),
        TaskKind::Copy => shape == (1, 1),
        TaskKind::LoopBegin(end) => is_end(*end) && shape.1 <= 1,
        TaskKind::LoopExit(end) => is_end(*end) && shape == (1, 0),
        TaskKind::LoopEnd(end) => is_end(*end) && shape.1 == 0,
        TaskKind::Load(i) => shape == (0, 1) && (*i as usize) < graph.inputs.len(),
        TaskKind::Store(o) => shape == (1, 0) && (*o as usize) < graph.outputs.len(),
        TaskKind::Send(m) => shape == (1, 0) && p.messages.get(*m as usize).is_some_and(|m| m.from == t.die),
        TaskKind::Recv(m, _) => shape == (0, 1) && p.messages.get(*m as usize).is_some_and(|m| m.to == t.die),
    };
    if ok { Ok(()) } else { Err("the task does not fit what it does") }
}

fn check_aliases(p: &PlacedGraph) -> Result<(), LevelError> {
    for (i, b) in p.buffers.iter().enumerate() {
        let (mut at, mut hops) = (BufferId::new(i), 0);
        while let Some(Storage::Alias(of)) = p.buffers.get(at.index()).map(|b| b.storage) {
            (at, hops) = (of, hops + 1);
            let fits = p.buffers.get(of.index()).is_some_and(|o| o.die == b.die && o.bytes() == b.bytes());
            if hops > p.buffers.len() || !fits {
                let why = "aliases lead to a buffer of the same die and size";
                return Err(LevelError::Line { line: 0, text: format!("buffer b{i}"), why });
            }
        }
    }
    Ok(())
}

/// Reads what `schedule` makes.
pub fn parse_schedule(text: &str) -> Result<Schedule, LevelError> {
    let placed = parse_placed(text)?;
    let (_, found) = sections(text);
    let mut order = Vec::with_capacity(placed.tasks.len());
    let mut seen = vec![false; placed.tasks.len()];
    each(section(&found, "schedule")?, |w| {
        w.word("order")?;
        while !w.done() {
            let t = w.number("")?;
            match seen.get_mut(t as usize) {
                Some(s) if !*s => *s = true,
                _ => return Err("a task is unknown or issued twice"),
            }
            order.push(t as u32);
        }
        Ok(())
    })?;
    Ok(Schedule { placed, order })
}

/// Reads what `memory` makes.
pub fn parse_memory(text: &str) -> Result<MemoryPlan, LevelError> {
    let schedule = parse_schedule(text)?;
    let (_, found) = sections(text);
    let mut offsets = vec![0; schedule.placed.buffers.len()];
    let mut dies = vec![DieMemory::default(); schedule.placed.dies.len()];
    each(section(&found, "memory")?, |w| match w.next()? {
        "die" => {
            let slot = dies.get_mut(w.number("p")? as usize).ok_or("there is no such logical die")?;
            w.word("peak")?;
            slot.peak = w.number("")?;
            w.word("bound")?;
            slot.lower_bound = w.number("")?;
            w.word("state")?;
            slot.state = w.number("")?;
            Ok(())
        }
        "offset" => {
            let slot = offsets.get_mut(w.number("b")? as usize).ok_or("there is no such buffer")?;
            *slot = w.number("")?;
            Ok(())
        }
        _ => Err("`die` or `offset` is expected"),
    })?;
    Ok(MemoryPlan { schedule, offsets, dies })
}
