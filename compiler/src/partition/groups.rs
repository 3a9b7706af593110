//! Decision groups: nodes that are split alike because one feeds the other dimension by dimension.

use super::pins::Pin;
use crate::sharded::{AxisSet, LoopSplit, MeshShape, PIECE_BYTES, Stages, Strategy, axes_of, splats};
use girih_ir::axes::{Axes, DimUse, LoopKind};
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;
use std::ops::Range;

/// Loops of a group that are considered for splitting, longest first.
const SPLITTABLE: usize = 5;

/// One node of a group.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub node: ValueId,
    /// For each loop of the node: the group's dimension.
    pub dim_of_loop: Vec<usize>,
}

/// A decision: the group's dimension on the mesh's `y` axis and on its `x` axis, and when it is the same one, which is the outer axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub y: Option<usize>,
    pub x: Option<usize>,
    pub x_outer: bool,
    /// The only die that has anything of it.
    pub on: Option<u32>,
}

impl Choice {
    /// The rows outermost.
    pub fn new(y: Option<usize>, x: Option<usize>) -> Self {
        Choice { y, x, x_outer: false, on: None }
    }

    /// All of it on one die.
    pub fn on(die: u32) -> Self {
        Choice { on: Some(die), ..Choice::new(None, None) }
    }

    /// How many parts a dimension is cut into on a mesh.
    pub fn parts(&self, mesh: MeshShape, dim: usize) -> usize {
        (if self.y == Some(dim) { mesh.rows } else { 1 }) * (if self.x == Some(dim) { mesh.cols } else { 1 })
    }

    /// Whether one dimension is on both axes.
    pub fn both(&self) -> bool {
        self.y.is_some() && self.y == self.x
    }

    /// Whether the parts of its dimension on an axis lie together, also when the dimension is on the other axis as well.
    pub fn outer(&self, along_x: bool) -> bool {
        !self.both() || self.x_outer == along_x
    }
}

/// Nodes with one decision. Dimensions are the loops of the first member.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub members: Vec<Member>,
    pub extents: Vec<usize>,
    pub splittable: Vec<bool>,
    pub options: Vec<Choice>,
}

/// A value that flows from one group to another.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub producer: usize,
    pub consumer: usize,
    pub from: Member,
    pub component: usize,
    pub to: Member,
    pub operand: usize,
}

/// All groups of a step.
pub(super) struct Groups<'a> {
    pub step: &'a TrainStep,
    pub mesh: MeshShape,
    /// Which nodes have which part of the mesh.
    pub stages: &'a Stages,
    pub axes: Vec<Option<Axes>>,
    pub list: Vec<Group>,
    /// Group and position in it of each node.
    pub place: Vec<Option<(usize, usize)>>,
    /// For each graph input that is updated state: the output value.
    pub next_state: Vec<Option<ValueId>>,
    /// The loops of the graph.
    pub nest: LoopNest,
}

/// Nodes that are made wherever they are needed.
fn is_free(op: &Op) -> bool {
    matches!(op, Op::Input(_) | Op::Constant(_) | Op::Proj(_) | Op::Iota(_) | Op::LoopIndex(_) | Op::Repeat(_) | Op::While(_))
}

impl<'a> Groups<'a> {
    /// The groups. `spread`: everything is split that can be.
    pub fn of(step: &'a TrainStep, mesh: MeshShape, stages: &'a Stages, pins: &[Option<Pin>], spread: bool) -> Self {
        let graph = &step.graph;
        let (live, splats) = (graph.live(), splats(graph));
        let count = graph.nodes().len();
        let mut next_state = vec![None; graph.inputs.len()];
        for pair in &step.state {
            next_state[pair.input] = pair.output.map(|o| graph.outputs[o].value);
        }
        let nest = LoopNest::of(graph).unwrap_or_default();
        let mut groups =
            Groups { step, mesh, stages, axes: vec![None; count], list: Vec::new(), place: vec![None; count], next_state, nest };
        for v in graph.values().filter(|v| live[v.index()] && !is_free(&graph.node(*v).op) && !splats[v.index()]) {
            let axes = axes_of(graph, v);
            groups.join(v, &axes);
            groups.axes[v.index()] = Some(axes);
        }
        for g in 0..groups.list.len() {
            let pinned = groups.pinned(g, pins);
            groups.list[g].options = pinned.map_or_else(|| groups.options(g), |choice| vec![choice]);
        }
        if !spread && mesh.count() > 1 {
            groups.leave_small_updates(pins);
        }
        groups
    }

    /// The small values that no product is made of, those of an update above all, are many, and none of them takes longer than its launch: each
    /// is left on one die, and so are the values that follow from it.
    fn leave_small_updates(&mut self, pins: &[Option<Pin>]) {
        let late = late(&self.step.graph);
        let mut next = 0;
        for g in 0..self.list.len() {
            let (group, first) = (&self.list[g], self.list[g].members[0].node);
            let bytes = group.extents.iter().fold(size_of::<f32>(), |n, e| n.saturating_mul(*e));
            let dies = self.mesh_of(first).count();
            let small = !group.extents.is_empty() && bytes < PIECE_BYTES * dies;
            let free = self.pinned(g, pins).is_none() && !matches!(self.step.graph.node(first).op, Op::Shard(_));
            if !(small && free && group.members.iter().all(|m| late[m.node.index()] && self.nest.innermost(m.node).is_none())) {
                continue;
            }
            let made = self.step.graph.node(first).operands.iter().find_map(|o| {
                let maker = self.resolve(*o).0;
                let alike = self.stages.stage(maker) == self.stages.stage(first);
                self.place[maker.index()].filter(|_| alike).and_then(|(g, _)| self.list[g].options[0].on)
            });
            let die = made.unwrap_or_else(|| {
                next += 1;
                (next - 1) % dies as u32
            });
            self.list[g].options = vec![Choice::on(die)];
        }
    }

    /// The extents of the mesh that a node has.
    pub fn mesh_of(&self, node: ValueId) -> MeshShape {
        self.stages.region(node, self.mesh).shape
    }

    /// The extents of the mesh that a group has.
    pub fn mesh_of_group(&self, g: usize) -> MeshShape {
        self.mesh_of(self.list[g].members[0].node)
    }

    /// The tensor-making node behind `proj`, and its component. What a loop leaves in a slot lies as the slot's carry does.
    pub fn resolve(&self, v: ValueId) -> (ValueId, usize) {
        let node = self.step.graph.node(v);
        let Op::Proj(p) = &node.op else { return (v, 0) };
        match self.nest.ending_at(node.operands[0]) {
            Some(l) => (self.nest.loops[l].carries[p.index], 0),
            None => (node.operands[0], p.index),
        }
    }

    /// The node that decides how a value lies: the one that makes it, and of state the one that makes its new value.
    pub fn maker(&self, value: ValueId) -> Option<ValueId> {
        let node = self.resolve(value).0;
        match &self.step.graph.node(node).op {
            Op::Input(input) => self.next_state[input.index].map(|v| self.resolve(v).0),
            _ => Some(node),
        }
    }

    fn join(&mut self, v: ValueId, axes: &Axes) {
        let own: Vec<bool> = axes.loops.iter().map(|l| l.kind != LoopKind::Whole && l.extent > 1).collect();
        // What cannot be split where its operand can decides for itself.
        let as_free = |g: &Group, m: &Member| own.iter().zip(&m.dim_of_loop).all(|(own, dim)| *own || !g.splittable[*dim]);
        if let Some((g, member)) = self.host(v, axes).filter(|(g, m)| as_free(&self.list[*g], m)) {
            self.place[v.index()] = Some((g, self.list[g].members.len()));
            self.list[g].members.push(member);
            return;
        }
        self.place[v.index()] = Some((self.list.len(), 0));
        self.list.push(Group {
            members: vec![Member { node: v, dim_of_loop: (0..axes.loops.len()).collect() }],
            extents: axes.loops.iter().map(|l| l.extent).collect(),
            splittable: own,
            options: Vec::new(),
        });
    }

    /// The group of the largest operand, when every loop of an elementwise node runs along one of its dimensions.
    fn host(&self, v: ValueId, axes: &Axes) -> Option<(usize, Member)> {
        let graph = &self.step.graph;
        let node = graph.node(v);
        // What reduces may be cut where its operand is not.
        if axes.loops.iter().any(|l| matches!(l.kind, LoopKind::Reduce(_))) {
            return None;
        }
        if !matches!(
            node.op,
            Op::Fused(_)
                | Op::Transpose(_)
                | Op::Convert(_)
                | Op::BitcastConvert(_)
                | Op::AllReduce(_)
                | Op::Unary(_)
                | Op::Binary(_)
                | Op::Select(_)
                | Op::Compare(_)
        ) {
            return None;
        }
        let mut operands: Vec<usize> = (0..node.operands.len()).collect();
        operands.sort_by_key(|k| (std::cmp::Reverse(graph.tensor_ty(node.operands[*k]).elements()), *k));
        for k in operands {
            let (producer, component) = self.resolve(node.operands[k]);
            let Some((g, at)) = self.place[producer.index()] else { continue };
            if self.stages.stage(producer) != self.stages.stage(v) {
                return None;
            }
            let group = &self.list[g];
            let from = self.axes[producer.index()].as_ref()?;
            if from.loops.iter().any(|l| matches!(l.kind, LoopKind::Reduce(_))) {
                return None;
            }
            let mut dim_of_loop = vec![usize::MAX; axes.loops.len()];
            for (use_, result) in axes.operands[k].iter().zip(&from.results[component]) {
                if let (DimUse::Loop(l), DimUse::Loop(p)) = (use_, result) {
                    dim_of_loop[*l] = group.members[at].dim_of_loop[*p];
                }
            }
            if !dim_of_loop.contains(&usize::MAX) {
                return Some((g, Member { node: v, dim_of_loop }));
            }
            return None;
        }
        None
    }

    /// The choice that a pin of a member leaves, as far as there is something to split.
    fn pinned(&self, g: usize, pins: &[Option<Pin>]) -> Option<Choice> {
        let group = &self.list[g];
        let (member, pin) = group.members.iter().find_map(|m| Some((m, (*pins.get(m.node.index())?)?)))?;
        let dim = |l: Option<usize>| l.and_then(|l| member.dim_of_loop.get(l).copied()).filter(|d| group.splittable[*d]);
        Some(Choice::new(dim(pin.y), dim(pin.x)))
    }

    fn options(&self, g: usize) -> Vec<Choice> {
        let group = &self.list[g];
        // What the author of the model asks for is not up for choice, as far as there is something to split.
        if let Op::Shard(pin) = &self.step.graph.node(group.members[0].node).op {
            let dim = |d: i64| usize::try_from(d).ok().filter(|d| group.splittable.get(*d) == Some(&true));
            return vec![Choice::new(dim(pin.y), dim(pin.x))];
        }
        let mut dims: Vec<usize> = (0..group.extents.len()).filter(|d| group.splittable[*d]).collect();
        dims.sort_by_key(|d| (std::cmp::Reverse(group.extents[*d]), *d));
        dims.truncate(SPLITTABLE);
        let along = |parts: usize| -> Vec<Option<usize>> {
            if parts > 1 { std::iter::once(None).chain(dims.iter().copied().map(Some)).collect() } else { vec![None] }
        };
        let mesh = self.mesh_of_group(g);
        let mut options: Vec<Choice> = Vec::new();
        for y in along(mesh.rows) {
            options.extend(along(mesh.cols).into_iter().map(|x| Choice::new(y, x)));
        }
        if mesh.rows > 1 && mesh.cols > 1 {
            options.extend(options.clone().into_iter().filter(Choice::both).map(|c| Choice { x_outer: true, ..c }));
        }
        // Most parallel first; splitting nothing always stays possible.
        options.sort_by_key(|c| self.largest_share(g, c));
        let serial = Choice::new(None, None);
        if !options.contains(&serial) {
            options.push(serial);
        }
        options
    }

    /// Keeps the options of a group with the lowest scores, in their order; the serial one, which comes last, always stays.
    pub fn keep_best(&mut self, g: usize, scores: &[u64], most: usize) {
        let options = &mut self.list[g].options;
        if options.len() <= most + 1 {
            return;
        }
        let mut order: Vec<usize> = (0..options.len()).collect();
        let serial = Choice::new(None, None);
        order.sort_by_key(|i| (options[*i] != serial, scores[*i], *i));
        let mut kept = order[..=most].to_vec();
        kept.sort_unstable();
        *options = kept.into_iter().map(|i| options[i]).collect();
    }

    /// The loops of a member as the busiest die runs them.
    pub fn largest_ranges(&self, member: &Member, axes: &Axes, choice: &Choice) -> Vec<Range<usize>> {
        let (loops, mesh) = (axes.loops.iter().zip(&member.dim_of_loop), self.mesh_of(member.node));
        loops.map(|(l, d)| 0..l.extent.div_ceil(choice.parts(mesh, *d)).min(l.extent)).collect()
    }

    /// Iterations of the busiest die, in the group's dimensions.
    pub fn largest_share(&self, g: usize, c: &Choice) -> u64 {
        let (group, mesh) = (&self.list[g], self.mesh_of_group(g));
        group.extents.iter().enumerate().fold(1u64, |n, (d, e)| n.saturating_mul(e.div_ceil(c.parts(mesh, d)).max(1) as u64))
    }

    /// The strategy of a member under a choice of its group.
    pub fn member_strategy(&self, member: &Member, c: &Choice) -> Strategy {
        let split = |dim: &usize| {
            if let Some(die) = c.on {
                return LoopSplit::On(die);
            }
            let axes = match (c.y == Some(*dim), c.x == Some(*dim)) {
                (true, true) if c.x_outer => AxisSet::XY,
                (true, true) => AxisSet::YX,
                (true, false) => AxisSet::Y,
                (false, true) => AxisSet::X,
                (false, false) => AxisSet::NONE,
            };
            LoopSplit::Over(axes)
        };
        member.dim_of_loop.iter().map(split).collect()
    }

    /// Every value that flows between groups, new state to its readers in the next step included.
    pub fn edges(&self) -> Vec<Edge> {
        let graph = &self.step.graph;
        let mut edges = Vec::new();
        for v in graph.values() {
            let Some((consumer, at)) = self.place[v.index()] else { continue };
            for (operand, o) in graph.node(v).operands.iter().enumerate() {
                edges.extend(self.edge(*o, (consumer, at), operand));
            }
        }
        // What an iteration leaves in a slot becomes the slot's carry.
        for (next, carry) in self.nest.loops.iter().flat_map(|l| l.next.iter().zip(&l.carries)) {
            if let Some(to) = self.place[carry.index()] {
                edges.extend(self.edge(*next, to, 0));
            }
        }
        edges
    }

    /// The flow of a value into an operand of a member.
    fn edge(&self, value: ValueId, (consumer, at): (usize, usize), operand: usize) -> Option<Edge> {
        let (mut producer, mut component) = self.resolve(value);
        if let Op::Input(input) = &self.step.graph.node(producer).op {
            (producer, component) = self.resolve(self.next_state[input.index]?);
        }
        let (group, from) = self.place[producer.index()]?;
        let (from, to) = (self.list[group].members[from].clone(), self.list[consumer].members[at].clone());
        Some(Edge { producer: group, consumer, from, component, to, operand })
    }
}

/// For each node, whether no product is made of it.
fn late(graph: &Graph) -> Vec<bool> {
    let mut late = vec![true; graph.nodes().len()];
    for v in graph.values().rev() {
        let node = graph.node(v);
        if !late[v.index()] || matches!(node.op, Op::DotGeneral(_) | Op::Convolution(_)) {
            node.operands.iter().for_each(|o| late[o.index()] = false);
        }
    }
    late
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::Role;
    use girih_ir::step::StatePair;
    use girih_ir::text::parse_graph;

    /// A vector and a matrix that are updated by sums over rows, and a vector that a product reads.
    fn step() -> TrainStep {
        let text = "graph (%x: f32[400,64], %b: f32[64], %w: f32[400,64], %c: f32[64]) {
            %g = reduce %x {monoid = sum, dims = [0]} %b1 = sub %b, %g %n = mul %b1, %b1
            %w1 = add %w, %x
            %c1 = tanh %c %m = dot_general %x, %c1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
            return %b1, %n, %w1, %m }";
        let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
        let b = StatePair { name: "b".into(), input: 1, output: Some(0), role: Role::Param };
        TrainStep { state: vec![b], ..TrainStep::inference(graph) }
    }

    #[test]
    fn small_values_of_an_update_are_left_on_one_die() {
        let step = step();
        let mesh = MeshShape { rows: 5, cols: 5 };
        let stages = Stages::default();
        let groups = Groups::of(&step, mesh, &stages, &[], false);
        let on = |output: usize| groups.place[step.graph.outputs[output].value.index()].and_then(|(g, _)| groups.list[g].options[0].on);
        assert!(on(0).is_some(), "the vector");
        assert_eq!(on(0), on(1), "what follows from it is where it is");
        assert_eq!((on(2), on(3)), (None, None), "the matrix is large, and the product is no update");
        let c1 = step.graph.values().find(|v| step.graph.node(*v).op.name() == "tanh").unwrap();
        assert!(groups.place[c1.index()].is_some_and(|(g, _)| groups.list[g].options.len() > 1), "a product reads it");
        let spread = Groups::of(&step, mesh, &stages, &[], true);
        assert!(spread.list.iter().all(|g| g.options.iter().all(|o| o.on.is_none())));
    }
}
