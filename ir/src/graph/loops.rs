//! Loops in a flat graph: which nodes an iteration consists of, and how to make loops.
//!
//! A loop is a `carry` a slot, perhaps a `loop_index`, and one end (`repeat` or `while`). Its body is not written down: a node belongs to
//! the loop when it depends on one of those other than through the end. So what is invariant leaves a loop by itself, rewriting sees
//! through loop borders, and equal invariant work of two loops is one node.

use super::{Graph, ValueId};
use crate::ops::Op;
use crate::ops::carry::Carry;
use crate::ops::loop_index::LoopIndex;
use crate::ops::proj::Proj;
use crate::ops::repeat::Repeat;
use crate::ops::while_loop::While;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// A loop of a graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loop {
    /// Its id in the attributes of its nodes.
    pub id: usize,
    /// The node that ends it.
    pub end: ValueId,
    /// How often it runs; `None` for a `while`.
    pub trips: Option<usize>,
    /// The predicate of a `while`.
    pub predicate: Option<ValueId>,
    /// The `carry` of each slot.
    pub carries: Vec<ValueId>,
    /// The value of each slot after an iteration.
    pub next: Vec<ValueId>,
    /// The `loop_index`, when there is one.
    pub index: Option<ValueId>,
    /// The loop around it, as a position in [`LoopNest::loops`].
    pub parent: Option<usize>,
    /// The nodes of an iteration in topological order: carries, index, body, and the ends of the loops directly inside (whose own nodes
    /// are theirs).
    pub members: Vec<ValueId>,
}

/// The loops of a graph.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoopNest {
    /// Loops in the order of their ends, so inner ones come before outer ones.
    pub loops: Vec<Loop>,
    /// The innermost loop that each node belongs to.
    of: Vec<Option<u32>>,
}

/// What is wrong with the loops of a graph.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("E0238: loop {loop_id}: {why}")]
pub struct LoopError {
    /// The node to blame.
    pub value: ValueId,
    /// The loop's id.
    pub loop_id: usize,
    /// What is wrong.
    pub why: String,
}

type Set = SmallVec<[u32; 2]>;

impl LoopNest {
    /// The loops of a graph, or what is wrong with them.
    pub fn of(graph: &Graph) -> Result<LoopNest, LoopError> {
        let mut nest = LoopNest { loops: Vec::new(), of: vec![None; graph.nodes().len()] };
        let mut known: FxHashMap<usize, u32> = FxHashMap::default();
        for v in graph.values() {
            let node = graph.node(v);
            let (id, trips, first) = match &node.op {
                Op::Repeat(r) => (r.loop_id, Some(r.trips), 0),
                Op::While(w) => (w.loop_id, None, 1),
                _ => continue,
            };
            if known.insert(id, nest.loops.len() as u32).is_some() {
                return Err(error(v, id, "it ends twice"));
            }
            let slots = (node.operands.len() - first) / 2;
            let carries: Vec<ValueId> = node.operands[first..first + slots].to_vec();
            for (slot, c) in carries.iter().enumerate() {
                if graph.node(*c).op != Op::Carry(Carry { loop_id: id, slot }) {
                    return Err(error(v, id, format!("operand {} is {c}, not the carry of slot {slot}", first + slot)));
                }
            }
            let next = node.operands[first + slots..].to_vec();
            let predicate = (first == 1).then(|| node.operands[0]);
            nest.loops.push(Loop { id, end: v, trips, predicate, carries, next, index: None, parent: None, members: Vec::new() });
        }
        if nest.loops.is_empty() {
            return match graph.values().find(|v| matches!(graph.node(*v).op, Op::Carry(_) | Op::LoopIndex(_))) {
                Some(v) if graph.live()[v.index()] => Err(error(v, loop_of(&graph.node(v).op), "it has no end")),
                _ => Ok(nest),
            };
        }
        nest.place(graph, &known)?;
        Ok(nest)
    }

    fn place(&mut self, graph: &Graph, known: &FxHashMap<usize, u32>) -> Result<(), LoopError> {
        let live = graph.live();
        let mut sets: Vec<Set> = vec![Set::new(); graph.nodes().len()];
        // The loops around each loop: those that its end still depends on.
        let mut around: Vec<Set> = vec![Set::new(); self.loops.len()];
        for v in graph.values() {
            let node = graph.node(v);
            let mut set = Set::new();
            for o in &node.operands {
                sets[o.index()].iter().for_each(|l| insert(&mut set, *l));
            }
            match &node.op {
                Op::Carry(Carry { loop_id, .. }) | Op::LoopIndex(LoopIndex { loop_id }) => match known.get(loop_id) {
                    Some(l) => {
                        insert(&mut set, *l);
                        let end = &self.loops[*l as usize];
                        if let Op::Carry(c) = &node.op
                            && live[v.index()]
                            && end.carries.get(c.slot) != Some(&v)
                        {
                            return Err(error(v, *loop_id, format!("this carry of slot {} is not the one that its end names", c.slot)));
                        }
                        if let Op::LoopIndex(_) = &node.op {
                            self.loops[*l as usize].index = Some(v);
                        }
                    }
                    None if live[v.index()] => return Err(error(v, *loop_id, "it has no end")),
                    None => {}
                },
                Op::Repeat(Repeat { loop_id, .. }) | Op::While(While { loop_id }) => {
                    let own = known[loop_id];
                    set.retain(|l| *l != own);
                    around[own as usize] = set.clone();
                }
                _ => {}
            }
            sets[v.index()] = set;
        }
        if let Some(o) = graph.outputs.iter().find(|o| !sets[o.value.index()].is_empty()) {
            let l = &self.loops[sets[o.value.index()][0] as usize];
            return Err(error(o.value, l.id, format!("output `{}` leaves it other than through its end", o.name)));
        }
        let depth: Vec<usize> = around.iter().map(SmallVec::len).collect();
        let deepest = |set: &Set| set.iter().copied().max_by_key(|l| depth[*l as usize]);
        for (l, outer) in around.iter().enumerate() {
            self.loops[l].parent = deepest(outer).map(|p| p as usize);
        }
        for v in graph.values().filter(|v| live[v.index()]) {
            let Some(inner) = deepest(&sets[v.index()]) else { continue };
            // All loops that the node depends on lie around the innermost.
            if let Some(stray) = sets[v.index()].iter().find(|l| **l != inner && !around[inner as usize].contains(l)) {
                let (a, b) = (&self.loops[inner as usize], &self.loops[*stray as usize]);
                return Err(error(v, b.id, format!("{v} belongs to it and to loop {}, and neither is inside the other", a.id)));
            }
            self.of[v.index()] = Some(inner);
            self.loops[inner as usize].members.push(v);
        }
        Ok(())
    }

    /// Whether there are no loops.
    pub fn is_empty(&self) -> bool {
        self.loops.is_empty()
    }

    /// The innermost loop of a node, as a position in [`loops`](Self::loops). The end of a loop belongs to the loop around it.
    pub fn innermost(&self, value: ValueId) -> Option<usize> {
        self.of.get(value.index()).copied().flatten().map(|l| l as usize)
    }

    /// The loop that ends at a node.
    pub fn ending_at(&self, value: ValueId) -> Option<usize> {
        self.loops.iter().position(|l| l.end == value)
    }

    /// Whether `inner` is `outer` or inside it; `None` is outside of all loops.
    pub fn is_inside(&self, inner: Option<usize>, outer: usize) -> bool {
        std::iter::successors(inner, |l| self.loops[*l].parent).any(|l| l == outer)
    }

    /// How often a node runs; `per_while` stands for the unknown number of iterations of a `while`.
    pub fn runs(&self, value: ValueId, per_while: usize) -> usize {
        let around = std::iter::successors(self.innermost(value), |l| self.loops[*l].parent);
        around.fold(1usize, |n, l| n.saturating_mul(self.loops[l].trips.unwrap_or(per_while)))
    }

    /// The nodes that the predicate of a `while` needs, in order; they run before the loop knows whether the iteration takes place.
    pub fn predicate_members(&self, graph: &Graph, l: usize) -> Vec<ValueId> {
        let Some(p) = self.loops[l].predicate else { return Vec::new() };
        let mut needed = rustc_hash::FxHashSet::default();
        let mut open = vec![p];
        while let Some(v) = open.pop() {
            if self.is_inside(self.innermost(v), l) && needed.insert(v) {
                open.extend(&graph.node(v).operands);
            }
        }
        self.loops[l].members.iter().copied().filter(|v| needed.contains(v)).collect()
    }
}

fn insert(set: &mut Set, l: u32) {
    if !set.contains(&l) {
        set.push(l);
    }
}

fn error(value: ValueId, loop_id: usize, why: impl Into<String>) -> LoopError {
    LoopError { value, loop_id, why: why.into() }
}

/// The loop id among the attributes of a node of a loop.
pub fn loop_of(op: &Op) -> usize {
    match op {
        Op::Carry(c) => c.loop_id,
        Op::LoopIndex(i) => i.loop_id,
        Op::Repeat(r) => r.loop_id,
        Op::While(w) => w.loop_id,
        _ => usize::MAX,
    }
}

/// The same op with another loop id; other ops stay as they are.
pub fn with_loop(op: &Op, loop_id: usize) -> Op {
    match op {
        Op::Carry(c) => Carry { loop_id, slot: c.slot }.into(),
        Op::LoopIndex(_) => LoopIndex { loop_id }.into(),
        Op::Repeat(r) => Repeat { loop_id, trips: r.trips }.into(),
        Op::While(_) => While { loop_id }.into(),
        op => op.clone(),
    }
}

impl Graph {
    /// The same graph with the nodes of every loop next to each other, right before its end: carries, index, what a predicate needs, then
    /// the rest. Dead nodes are dropped.
    pub fn with_contiguous_loops(&self, nest: &LoopNest) -> Graph {
        let live = self.live();
        let mut order: Vec<ValueId> = Vec::with_capacity(self.nodes().len());
        let mut open: Vec<ValueId> = self.values().rev().filter(|v| live[v.index()] && nest.innermost(*v).is_none()).collect();
        let mut begun = vec![false; nest.loops.len()];
        while let Some(v) = open.pop() {
            match nest.ending_at(v).filter(|l| !begun[*l]) {
                Some(l) => {
                    begun[l] = true;
                    let members = &nest.loops[l].members;
                    let before = nest.predicate_members(self, l);
                    let rank = |m: &ValueId| match self.node(*m).op {
                        Op::Carry(_) | Op::LoopIndex(_) => 0,
                        _ if before.contains(m) => 1,
                        _ => 2,
                    };
                    let mut sorted: Vec<ValueId> = members.clone();
                    sorted.sort_by_key(|m| (rank(m), *m));
                    open.push(v);
                    open.extend(sorted.into_iter().rev());
                }
                None => order.push(v),
            }
        }
        self.reordered(&order)
    }
}

/// A loop that is being made: emit its body from `carries` and `index`, then end it.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    /// Its id.
    pub id: usize,
    /// What the slots hold at the start of the iteration.
    pub carries: Vec<ValueId>,
}

impl Graph {
    /// Begins a loop with these values in its slots. At least one slot is needed.
    pub fn begin_loop(&mut self, init: &[ValueId]) -> OpenLoop {
        let id = self.fresh_loop();
        let carries = init.iter().enumerate().map(|(slot, v)| self.emit(Carry { loop_id: id, slot }, &[*v])).collect();
        OpenLoop { id, carries }
    }

    /// An id that no loop of the graph has.
    pub fn fresh_loop(&self) -> usize {
        let ids = self.nodes().iter().filter(|n| matches!(n.op, Op::Carry(_) | Op::LoopIndex(_))).map(|n| loop_of(&n.op));
        ids.max().map_or(0, |m| m + 1)
    }

    /// The number of the current iteration: an i64 scalar.
    pub fn loop_index(&mut self, open: &OpenLoop) -> ValueId {
        self.emit(LoopIndex { loop_id: open.id }, &[])
    }

    /// Ends a loop that runs `trips` times; `next` has one value a slot. Returns what the slots hold at last.
    pub fn end_repeat(&mut self, open: &OpenLoop, trips: usize, next: &[ValueId]) -> Vec<ValueId> {
        let operands: Vec<ValueId> = open.carries.iter().chain(next).copied().collect();
        let end = self.emit(Repeat { loop_id: open.id, trips }, &operands);
        (0..next.len()).map(|index| self.emit(Proj { index }, &[end])).collect()
    }

    /// Ends a loop that runs while `predicate` holds; `next` has one value a slot. Returns what the slots hold at last.
    pub fn end_while(&mut self, open: &OpenLoop, predicate: ValueId, next: &[ValueId]) -> Vec<ValueId> {
        let operands: Vec<ValueId> = std::iter::once(&predicate).chain(&open.carries).chain(next).copied().collect();
        let end = self.emit(While { loop_id: open.id }, &operands);
        (0..next.len()).map(|index| self.emit(Proj { index }, &[end])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::eval;
    use crate::tensor::Tensor;
    use crate::text::parse_graph;
    use crate::types::{DType, TensorType};

    /// Sums i · x for i in 0..4, with an inner loop that adds 1.0 twice, and an invariant.
    const NESTED: &str = "graph (%0: f64[2] input \"x\") {
       %1 = neg %0
       %2 = carry %0 {loop_id = 7, slot = 0}
       %3 = loop_index {loop_id = 7}
       %4 = convert %3 {to = f64}
       %5 = broadcast %4 {dims = [], shape = [2]}
       %6 = mul %5, %1
       %7 = add %2, %6
       %8 = carry %7 {loop_id = 3, slot = 0}
       %9 = mul %8, %8
       %10 = repeat %8, %9 {loop_id = 3, trips = 2}
       %11 = proj %10 {index = 0}
       %12 = repeat %2, %11 {loop_id = 7, trips = 3}
       %13 = proj %12 {index = 0}
       return %13 \"y\"
     }";

    #[test]
    fn members_follow_from_dependence() {
        let g = parse_graph(NESTED).unwrap_or_else(|e| panic!("{e}"));
        let nest = LoopNest::of(&g).unwrap();
        assert_eq!(nest.loops.len(), 2);
        assert_eq!((nest.loops[0].id, nest.loops[0].parent, nest.loops[0].trips), (3, Some(1), Some(2)));
        let neg = g.values().find(|v| g.node(*v).op.name() == "neg").unwrap();
        assert_eq!(nest.innermost(neg), None);
        assert_eq!(nest.innermost(nest.loops[0].end), Some(1));
        assert_eq!(nest.runs(nest.loops[0].next[0], 1), 6);
        assert!(nest.loops[1].members.contains(&nest.loops[0].end));
    }

    #[test]
    fn nested_loops_run() {
        let g = parse_graph(NESTED).unwrap_or_else(|e| panic!("{e}"));
        let out = eval(&g, &[Tensor::new_float(TensorType::new(DType::F64, [2]), vec![1.0, 0.5])]).unwrap();
        let want = |x: f64| (0..3).fold(x, |s, i| (s - f64::from(i) * x).powi(4));
        assert_eq!(out[0].floats(), [want(1.0), want(0.5)]);
    }

    #[test]
    fn a_while_stops_before_its_first_iteration() {
        let text = |bound: i32| {
            format!(
                "graph (%0: i32[] input \"x\") {{
                   %1 = constant {{value = dense<i32[] {bound}>}}
                   %2 = carry %0 {{loop_id = 0, slot = 0}}
                   %3 = add %2, %2
                   %4 = lt %2, %1
                   %5 = while %4, %2, %3 {{loop_id = 0}}
                   %6 = proj %5 {{index = 0}}
                   return %6 \"y\"
                 }}"
            )
        };
        for (bound, want) in [(100, 192), (3, 3), (4, 6)] {
            let g = parse_graph(&text(bound)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(eval(&g, &[Tensor::scalar_int(DType::I32, 3)]).unwrap()[0].ints(), [want]);
        }
    }

    #[test]
    fn what_is_no_loop_is_refused() {
        let refused = |body: &str, ret: &str| {
            let g = parse_graph(&format!("graph (%0: f32[2] input \"x\") {{ {body} return {ret} \"y\" }}"));
            match g {
                Ok(g) => LoopNest::of(&g).unwrap_err().to_string(),
                Err(e) => e.to_string(),
            }
        };
        let carry = "%1 = carry %0 {loop_id = 0, slot = 0} %2 = neg %1 ";
        assert!(refused(carry, "%2").contains("has no end"));
        let end = "%3 = repeat %1, %2 {loop_id = 0, trips = 2} %4 = proj %3 {index = 0} %5 = add %4, %2";
        assert!(refused(&format!("{carry}{end}"), "%5").contains("other than through its end"));
        let twice = "%3 = repeat %1, %2 {loop_id = 0, trips = 2} %4 = repeat %1, %2 {loop_id = 0, trips = 3} %5 = proj %3 {index = 0}";
        assert!(refused(&format!("{carry}{twice}"), "%5").contains("ends twice"));
    }
}
