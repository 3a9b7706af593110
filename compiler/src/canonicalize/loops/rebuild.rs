//! Carrying out what was decided about loops: a copy of the graph in which each loop's nodes stand together before its end.

use super::{Plan, Slot};
use crate::canonicalize::loops::live::result_of;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::carry::Carry;
use girih_ir::ops::loop_index::LoopIndex;
use girih_ir::ops::repeat::Repeat;
use girih_ir::ops::while_loop::While;
use girih_ir::tensor::Tensor;
use girih_ir::types::DType;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// What a slot of a loop holds at last, in the new graph.
#[derive(Clone, Copy)]
enum Last {
    /// A value.
    Value(ValueId),
    /// A component of the loop's end.
    Component(ValueId, usize),
}

/// The copy being made.
pub(super) struct Rebuild<'a> {
    old: &'a Graph,
    nest: &'a LoopNest,
    plans: &'a [Plan],
    /// Which values are needed, slot by slot.
    live: &'a [bool],
    /// Values known to be these booleans.
    known: &'a FxHashMap<ValueId, bool>,
    out: Graph,
    map: Vec<Option<ValueId>>,
    /// Loops by their ends.
    ends: FxHashMap<ValueId, usize>,
    last: FxHashMap<ValueId, Vec<Option<Last>>>,
    /// Unrolled loops around: the loops inside are copies and need ids of their own.
    copies: usize,
    next_id: usize,
}

impl<'a> Rebuild<'a> {
    /// The graph with the plans carried out.
    pub(super) fn run(
        old: &'a Graph,
        nest: &'a LoopNest,
        plans: &'a [Plan],
        live: &'a [bool],
        known: &'a FxHashMap<ValueId, bool>,
    ) -> Graph {
        let mut this = Rebuild {
            old,
            nest,
            plans,
            live,
            known,
            out: Graph::new(old.name.clone()),
            map: vec![None; old.nodes().len()],
            ends: nest.loops.iter().enumerate().map(|(l, x)| (x.end, l)).collect(),
            last: FxHashMap::default(),
            copies: 0,
            next_id: old.fresh_loop(),
        };
        for i in &old.inputs {
            this.map[i.value.index()] = Some(this.out.input(i.name.clone(), old.tensor_ty(i.value).clone(), i.role));
        }
        for v in old.values().filter(|v| live[v.index()] && nest.innermost(*v).is_none()) {
            if this.map[v.index()].is_none() {
                this.node(v);
            }
        }
        for o in &old.outputs {
            let value = this.get(o.value);
            this.out.output(o.name.clone(), value);
        }
        this.out.clear_origin();
        this.out
    }

    fn get(&self, v: ValueId) -> ValueId {
        self.map[v.index()].expect("operands come before their users")
    }

    /// Copies one node; for the end of a loop, the loop.
    fn node(&mut self, v: ValueId) {
        if let Some(l) = self.ends.get(&v).copied() {
            let last = if self.plans[l].unroll { self.unrolled(l) } else { self.kept(l) };
            self.last.insert(v, last);
            return;
        }
        let node = self.old.node(v);
        self.out.set_origin(self.old.origin(v));
        let new = match (self.known.get(&v), result_of(self.old, v)) {
            (Some(b), _) => self.out.constant(&Tensor::scalar_int(DType::Bool, i64::from(*b))),
            (None, Some((end, slot))) => match self.last[&end][slot].expect("the slots of live results are live") {
                Last::Value(v) => v,
                Last::Component(end, index) => self.out.proj(end, index),
            },
            (None, None) => {
                let operands: SmallVec<[ValueId; 4]> = node.operands.iter().map(|o| self.get(*o)).collect();
                self.out.emit(node.op.clone(), &operands)
            }
        };
        self.map[v.index()] = Some(new);
    }

    /// Copies the nodes of an iteration; carries and index are there.
    fn members(&mut self, l: usize) {
        let this = &self.nest.loops[l];
        for m in &this.members {
            if self.live[m.index()] && !this.carries.contains(m) && this.index != Some(*m) {
                self.node(*m);
            }
        }
    }

    fn init(&self, l: usize, slot: usize) -> ValueId {
        self.get(self.old.node(self.nest.loops[l].carries[slot]).operands[0])
    }

    /// Iteration after iteration; returns what the slots hold at last.
    fn unrolled(&mut self, l: usize) -> Vec<Option<Last>> {
        let (this, plan) = (&self.nest.loops[l], &self.plans[l]);
        let trips = plan.trips.expect("only loops of known trip count are unrolled");
        let live: Vec<bool> = this.carries.iter().map(|c| self.live[c.index()]).collect();
        let mut now: Vec<Option<ValueId>> = (0..live.len()).map(|k| live[k].then(|| self.init(l, k))).collect();
        self.copies += usize::from(trips > 1);
        for trip in 0..trips {
            this.carries.iter().zip(&now).for_each(|(c, v)| self.map[c.index()] = *v);
            if let Some(i) = this.index {
                self.map[i.index()] = Some(self.out.constant(&Tensor::scalar_int(DType::I64, trip as i64)));
            }
            self.members(l);
            now = (0..live.len()).map(|k| live[k].then(|| self.get(this.next[k]))).collect();
        }
        self.copies -= usize::from(trips > 1);
        now.into_iter().map(|v| v.map(Last::Value)).collect()
    }

    /// The loop with the slots that it still needs.
    fn kept(&mut self, l: usize) -> Vec<Option<Last>> {
        let (this, plan) = (&self.nest.loops[l], &self.plans[l]);
        let mut id = this.id;
        if self.copies > 0 {
            id = self.next_id;
            self.next_id += 1;
        }
        let slots: Vec<usize> = (0..plan.slots.len()).filter(|k| plan.slots[*k] == Slot::Keep).collect();
        let mut carries: Vec<ValueId> = Vec::with_capacity(slots.len());
        for (slot, k) in slots.iter().enumerate() {
            let init = self.init(l, *k);
            self.out.set_origin(self.old.origin(this.carries[*k]));
            carries.push(self.out.emit(Carry { loop_id: id, slot }, &[init]));
            self.map[this.carries[*k].index()] = Some(carries[slot]);
        }
        let mut last: Vec<Option<Last>> = vec![None; plan.slots.len()];
        for (k, slot) in plan.slots.iter().enumerate() {
            let (Slot::Invariant | Slot::Counter(_)) = slot else { continue };
            let init = self.init(l, k);
            let (mut now, mut end) = (init, init);
            if let Slot::Counter(step) = slot {
                self.out.set_origin(self.old.origin(this.carries[k]));
                let trips = plan.trips.expect("counters are replaced in loops of known trip count") as i128;
                if !slots.is_empty() {
                    let index = self.out.emit(LoopIndex { loop_id: id }, &[]);
                    now = self.counted(init, index, *step);
                }
                let n = self.out.constant(&Tensor::scalar_int(DType::I64, trips as i64));
                end = self.counted(init, n, *step);
            }
            self.map[this.carries[k].index()] = Some(now);
            last[k] = Some(Last::Value(end));
        }
        if slots.is_empty() {
            return last;
        }
        if let Some(i) = this.index.filter(|i| self.live[i.index()]) {
            self.map[i.index()] = Some(self.out.emit(LoopIndex { loop_id: id }, &[]));
        }
        self.members(l);
        self.out.set_origin(self.old.origin(this.end));
        let end: Op = plan.trips.map_or(While { loop_id: id }.into(), |trips| Repeat { loop_id: id, trips }.into());
        let predicate = this.predicate.filter(|_| plan.trips.is_none()).map(|p| self.get(p));
        let next = slots.iter().map(|k| self.get(this.next[*k]));
        let operands: Vec<ValueId> = predicate.into_iter().chain(carries).chain(next).collect();
        let end = self.out.emit(end, &operands);
        for (slot, k) in slots.iter().enumerate() {
            last[*k] = Some(if plan.settled[*k] { Last::Value(self.get(this.next[*k])) } else { Last::Component(end, slot) });
        }
        last
    }

    /// init + n·step, in the type of `init`.
    fn counted(&mut self, init: ValueId, n: ValueId, step: i128) -> ValueId {
        let dtype = self.out.tensor_ty(init).dtype;
        let n = self.out.convert(n, dtype);
        let step = self.out.constant(&Tensor::scalar_int(dtype, step as i64));
        let product = self.out.times(n, step);
        self.out.plus(init, product)
    }
}
