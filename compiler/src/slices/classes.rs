//! What each value is to the slices: the batch axis followed through every node's loop nest, to a fixed point over loops.

use super::Refusal;
use crate::sharded::axes_of;
use girih_ir::axes::{Axes, DimUse, LoopKind};
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::scalar::{BinaryFn, Monoid, UnaryFn};
use girih_ir::step::TrainStep;
use girih_ir::types::DType;
use smallvec::{SmallVec, smallvec};

/// Where a value is cut: dimension `dim` is `outer × slices × inner`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Split {
    pub dim: usize,
    pub inner: usize,
}

/// What a value is to the slices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Not known yet: it depends on a carry that nothing is known of.
    Unknown,
    /// The same for all slices.
    Uniform,
    /// Each slice has its rows.
    Sliced(Split),
    /// Each slice has a part of what is to be combined.
    Partial(Monoid),
}

/// A component of a node, `proj` looked through.
pub(super) type Key = (ValueId, usize);
type Row = SmallVec<[Class; 1]>;

/// The classes of a step's values.
#[derive(Debug)]
pub(super) struct Classes<'a> {
    pub step: &'a TrainStep,
    pub parts: usize,
    pub nest: LoopNest,
    pub seeds: Vec<Option<Split>>,
    pub live: Vec<bool>,
    of: Vec<Row>,
    /// Components that something needs combined.
    summed: Vec<SmallVec<[bool; 1]>>,
    /// For nodes on sliced operands: the loop along which they are cut.
    pub loops: Vec<Option<usize>>,
    changed: bool,
}

impl<'a> Classes<'a> {
    /// Follows the batch from the seeded inputs.
    pub fn of(step: &'a TrainStep, parts: usize, seeds: Vec<Option<Split>>) -> Result<Self, Refusal> {
        let graph = &step.graph;
        let n = graph.nodes().len();
        let width = |v: ValueId| graph.ty(v).components().len();
        let nest = LoopNest::of(graph).unwrap_or_default();
        let mut c = Classes {
            step,
            parts,
            nest,
            seeds,
            live: graph.live(),
            of: graph.values().map(|v| SmallVec::from_elem(Class::Unknown, width(v))).collect(),
            summed: graph.values().map(|v| SmallVec::from_elem(false, width(v))).collect(),
            loops: vec![None; n],
            changed: true,
        };
        let order: Vec<ValueId> = graph.values().filter(|v| c.live[v.index()]).collect();
        loop {
            while std::mem::take(&mut c.changed) {
                for v in order.iter().copied() {
                    let row = c.node(v)?;
                    c.changed |= c.of[v.index()] != row;
                    c.of[v.index()] = row;
                }
                c.join_loops()?;
                c.finish_outputs()?;
            }
            // What nothing determines is the same for all.
            let open = c.nest.loops.iter().flat_map(|l| &l.carries).find(|v| c.of[v.index()][0] == Class::Unknown && c.live[v.index()]);
            match open.copied() {
                Some(carry) => {
                    c.of[carry.index()][0] = Class::Uniform;
                    c.changed = true;
                }
                None => return Ok(c),
            }
        }
    }

    pub fn graph(&self) -> &'a Graph {
        &self.step.graph
    }

    /// The component that a value is.
    pub fn key(&self, v: ValueId) -> Key {
        match &self.graph().node(v).op {
            Op::Proj(p) => (self.graph().node(v).operands[0], p.index),
            _ => (v, 0),
        }
    }

    /// What a value is as it is made.
    pub fn made(&self, v: ValueId) -> Class {
        let (node, component) = self.key(v);
        self.of[node.index()][component]
    }

    /// What a value is to its readers.
    pub fn class(&self, v: ValueId) -> Class {
        if self.is_summed(v) { Class::Uniform } else { self.made(v) }
    }

    /// Whether a partial value has to be combined.
    pub fn is_summed(&self, v: ValueId) -> bool {
        let (node, component) = self.key(v);
        self.summed[node.index()][component] && matches!(self.of[node.index()][component], Class::Partial(_))
    }

    /// Whether any component of a node is not the same for all slices.
    pub fn varies(&self, v: ValueId) -> bool {
        self.of[v.index()].iter().any(|c| !matches!(c, Class::Uniform | Class::Unknown))
    }

    pub fn refuse<T>(&self, v: ValueId, why: impl Into<String>) -> Result<T, Refusal> {
        let graph = self.graph();
        Err(Refusal::Op { op: graph.node(v).op.name(), value: v, origin: graph.origin(v).to_string(), why: why.into() })
    }

    fn sum(&mut self, v: ValueId) {
        let (node, component) = self.key(v);
        self.changed |= !self.summed[node.index()][component];
        self.summed[node.index()][component] = true;
    }

    fn node(&mut self, v: ValueId) -> Result<Row, Refusal> {
        let graph = self.graph();
        let node = graph.node(v);
        Ok(match &node.op {
            Op::Input(i) => smallvec![self.seeds[i.index].map_or(Class::Uniform, Class::Sliced)],
            Op::Constant(_) | Op::Iota(_) | Op::LoopIndex(_) => smallvec![Class::Uniform],
            Op::Proj(_) => smallvec![self.class(v)],
            Op::Carry(_) => match (self.of[v.index()][0], self.class(node.operands[0])) {
                (Class::Unknown, init @ (Class::Sliced(_) | Class::Partial(_))) => smallvec![init],
                (known, _) => smallvec![known],
            },
            Op::Repeat(_) | Op::While(_) => match self.nest.ending_at(v) {
                Some(l) => self.nest.loops[l].carries.iter().map(|c| self.of[c.index()][0]).collect(),
                None => SmallVec::from_elem(Class::Uniform, self.of[v.index()].len()),
            },
            Op::Reshape(_) => smallvec![self.reshape(v)?],
            _ => self.general(v)?,
        })
    }

    fn general(&mut self, v: ValueId) -> Result<Row, Refusal> {
        let graph = self.graph();
        let node = graph.node(v);
        let classes: SmallVec<[Class; 4]> = node.operands.iter().map(|o| self.class(*o)).collect();
        let width = self.of[v.index()].len();
        let all = |class: Class| -> Row { SmallVec::from_elem(class, width) };
        if !classes.iter().any(|c| matches!(c, Class::Sliced(_))) {
            if let Some(monoid) = self.linear(v, &classes) {
                return Ok(all(Class::Partial(monoid)));
            }
            if classes.contains(&Class::Unknown) {
                return Ok(all(Class::Unknown));
            }
            for (o, _) in node.operands.iter().zip(&classes).filter(|(_, c)| matches!(c, Class::Partial(_))) {
                self.sum(*o);
            }
            return Ok(all(Class::Uniform));
        }
        // What is updated by scattering may itself be partial.
        let scatter = match &node.op {
            Op::Scatter(s) => s.combiner.monoid(),
            _ => None,
        };
        for (k, o) in node.operands.iter().enumerate() {
            match classes[k] {
                Class::Partial(m) if !(k == 0 && scatter == Some(m)) => self.sum(*o),
                _ => {}
            }
        }
        let axes = axes_of(graph, v);
        let (l, inner) = self.cut_loop(v, &axes, &classes)?;
        if axes.loops[l].kind == LoopKind::Whole && scatter.is_none() {
            return self.refuse(v, "it needs all rows at once");
        }
        self.loops[v.index()] = Some(l);
        let mut row = Row::new();
        for (c, uses) in axes.results.iter().enumerate().take(width) {
            let extent = |d: usize| graph.ty(v).components()[c].shape[d];
            let along = uses.iter().position(|u| *u == DimUse::Loop(l)).filter(|_| axes.loops[l].kind != LoopKind::Whole);
            if let Some(dim) = along {
                if !extent(dim).is_multiple_of(self.parts * inner) {
                    return self.refuse(v, "its result does not have the rows of its operand");
                }
                row.push(Class::Sliced(Split { dim, inner }));
                continue;
            }
            row.push(match (axes.loops[l].kind, scatter) {
                (LoopKind::Reduce(m), _) => Class::Partial(m),
                (LoopKind::Whole, Some(m)) if self.accumulates(v, l, &axes, m) => Class::Partial(m),
                _ => return self.refuse(v, "it needs all rows at once"),
            });
        }
        Ok(row)
    }

    /// The one loop along which the sliced operands are cut, and how many elements of it stay together.
    fn cut_loop(&self, v: ValueId, axes: &Axes, classes: &[Class]) -> Result<(usize, usize), Refusal> {
        let graph = self.graph();
        let mut found: Option<(usize, usize)> = None;
        for (k, class) in classes.iter().enumerate() {
            let Class::Sliced(split) = class else { continue };
            let Some(DimUse::Loop(l)) = axes.operands[k].get(split.dim) else {
                return self.refuse(v, "it reads rows of the whole batch for each row");
            };
            if axes.loops[*l].extent != graph.shape(graph.node(v).operands[k])[split.dim] {
                return self.refuse(v, "it does not go through the batch row by row");
            }
            if *found.get_or_insert((*l, split.inner)) != (*l, split.inner) {
                return self.refuse(v, "its operands meet across different rows of the batch");
            }
        }
        let Some((l, inner)) = found else { return self.refuse(v, "no operand of it is cut") };
        let meets = |u: &DimUse| match u {
            DimUse::Loop(_) | DimUse::Whole => false,
            DimUse::Window { loop_dim, .. } => *loop_dim == l,
            DimUse::Linear { terms, .. } => terms.iter().any(|t| t.0 == l),
        };
        if axes.operands.iter().flatten().any(meets) {
            return self.refuse(v, "it shifts along the batch");
        }
        Ok((l, inner))
    }

    /// Whether a scatter only adds up over the cut loop: onto nothing, or onto what is itself partial.
    fn accumulates(&self, v: ValueId, l: usize, axes: &Axes, monoid: Monoid) -> bool {
        let onto = self.graph().node(v).operands[0];
        let fresh = match self.class(onto) {
            Class::Partial(m) => m == monoid,
            Class::Uniform | Class::Unknown => monoid == Monoid::Sum && self.is_zero(onto),
            Class::Sliced(_) => false,
        };
        fresh && !axes.operands[0].contains(&DimUse::Loop(l))
    }

    /// The monoid over which the result of a node on partial operands is still partial: linear ops that are not larger than their operand.
    fn linear(&self, v: ValueId, classes: &[Class]) -> Option<Monoid> {
        let graph = self.graph();
        let node = graph.node(v);
        let monoid = classes.iter().find_map(|c| if let Class::Partial(m) = c { Some(*m) } else { None })?;
        let fits = |k: usize| match classes[k] {
            Class::Partial(m) => m == monoid,
            Class::Unknown => true,
            Class::Uniform => monoid == Monoid::Sum && self.is_zero(node.operands[k]),
            Class::Sliced(_) => false,
        };
        let sum = monoid == Monoid::Sum;
        let wide = |d: DType, from: DType| d.is_float() && from.is_float() && d.size() >= from.size();
        let fine = match &node.op {
            Op::Binary(f) => sum && matches!(f.0, BinaryFn::Add | BinaryFn::Sub) && fits(0) && fits(1),
            Op::Unary(f) => sum && f.0 == UnaryFn::Neg,
            Op::Transpose(_) | Op::Shard(_) | Op::Slice(_) | Op::Reverse(_) => true,
            Op::Convert(c) => sum && wide(c.to, graph.tensor_ty(node.operands[0]).dtype),
            Op::Reduce(r) => sum && r.monoid == Monoid::Sum,
            Op::Concat(_) => (0..classes.len()).all(fits),
            // Stacks of partial values, and what is read from them.
            Op::DynamicUpdateSlice(_) => fits(0) && fits(1) && classes[2..].iter().all(|c| *c == Class::Uniform),
            Op::DynamicSlice(_) => fits(0) && classes[1..].iter().all(|c| *c == Class::Uniform),
            Op::Pad(_) => sum && matches!(classes[0], Class::Partial(_)) && self.is_zero(node.operands[1]),
            _ => false,
        };
        fine.then_some(monoid)
    }

    fn reshape(&mut self, v: ValueId) -> Result<Class, Refusal> {
        let graph = self.graph();
        let from = graph.node(v).operands[0];
        let class = self.class(from);
        let Class::Sliced(split) = class else { return Ok(class) };
        match regrouped(graph.shape(from), graph.shape(v), split, self.parts) {
            Some(split) => Ok(Class::Sliced(split)),
            None => self.refuse(v, "it mixes the rows of the batch with other dimensions"),
        }
    }

    /// Whether a value is all zeros.
    pub fn is_zero(&self, v: ValueId) -> bool {
        let node = self.graph().node(v);
        match &node.op {
            Op::Constant(c) => c.value.bytes().iter().all(|b| *b == 0),
            Op::Broadcast(_) | Op::Reshape(_) | Op::Convert(_) | Op::Transpose(_) => self.is_zero(node.operands[0]),
            _ => false,
        }
    }

    /// What an iteration leaves in a slot must be what the next one finds there.
    fn join_loops(&mut self) -> Result<(), Refusal> {
        let live = |l: &&girih_ir::graph::loops::Loop| self.live[l.end.index()];
        let pairs: Vec<(ValueId, ValueId)> =
            self.nest.loops.iter().filter(live).flat_map(|l| l.carries.iter().copied().zip(l.next.iter().copied())).collect();
        for (carry, next) in pairs {
            let init = self.graph().node(carry).operands[0];
            let (now, then) = (self.of[carry.index()][0], self.class(next));
            let join = match (now, then) {
                (a, b) if a == b => continue,
                (_, Class::Unknown) | (Class::Sliced(_), Class::Uniform) => continue,
                (Class::Unknown, Class::Uniform) => Class::Uniform,
                (Class::Unknown | Class::Uniform, Class::Sliced(s)) => Class::Sliced(s),
                (Class::Unknown, Class::Partial(m)) if m == Monoid::Sum && self.is_zero(init) => Class::Partial(m),
                (Class::Unknown | Class::Uniform, Class::Partial(_)) => {
                    self.sum(next);
                    Class::Uniform
                }
                _ => return self.refuse(carry, "its iterations leave something else in the slot than they find there"),
            };
            self.changed |= now != join;
            self.of[carry.index()][0] = join;
        }
        let live = |l: &&girih_ir::graph::loops::Loop| self.live[l.end.index()];
        let predicates: Vec<ValueId> = self.nest.loops.iter().filter(live).filter_map(|l| l.predicate).collect();
        for p in predicates {
            match self.class(p) {
                Class::Sliced(_) => return self.refuse(p, "how long a loop runs depends on the rows of the batch"),
                Class::Partial(_) => self.sum(p),
                Class::Uniform | Class::Unknown => {}
            }
        }
        Ok(())
    }

    /// Outputs are whole, or have their rows if they are no state.
    fn finish_outputs(&mut self) -> Result<(), Refusal> {
        for (k, output) in self.graph().outputs.iter().enumerate() {
            match self.class(output.value) {
                Class::Partial(_) => self.sum(output.value),
                Class::Sliced(split) => {
                    if self.graph().shape(output.value)[split.dim] != split.inner * self.parts {
                        return self.refuse(output.value, "the rows of a slice do not lie next to each other in the output");
                    }
                    if let Some(pair) = self.step.state.iter().find(|s| s.output == Some(k)) {
                        return Err(Refusal::State { name: pair.name.clone() });
                    }
                }
                Class::Uniform | Class::Unknown => {}
            }
        }
        Ok(())
    }
}

/// The split of a reshape's result: the slices are the same digits of the flat index.
pub(super) fn regrouped(from: &[usize], to: &[usize], split: Split, parts: usize) -> Option<Split> {
    let inside = |shape: &[usize], d: usize| shape[d + 1..].iter().product::<usize>();
    // One step from slice to slice is so many elements.
    let step = inside(from, split.dim) * split.inner;
    let fits = |d: &usize| {
        let unit = inside(to, *d);
        unit > 0 && step.is_multiple_of(unit) && (unit * to[*d]).is_multiple_of(step * parts)
    };
    (0..to.len()).find(fits).map(|dim| Split { dim, inner: step / inside(to, dim) })
}

/// The split of a reshape's operand that gives a split of its result.
pub(super) fn regrouped_back(from: &[usize], to: &[usize], split: Split, parts: usize) -> Option<Split> {
    regrouped(to, from, split, parts)
}
