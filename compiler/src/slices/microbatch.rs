//! Microbatches: the slices one after the other, in a counted loop that adds up what is partial, and then the rest of the step.

use super::Refusal;
use super::classes::{Class, Classes, Split};
use super::rebuild::{Rebuild, slice_starts, sliced_out};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::carry::Carry;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::loop_index::LoopIndex;
use girih_ir::ops::proj::Proj;
use girih_ir::ops::repeat::Repeat;
use girih_ir::scalar::{Monoid, Wide};
use girih_ir::step::TrainStep;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

/// What the loop hands out.
#[derive(Clone, Copy)]
enum Slot {
    /// The combination of a partial value.
    Combined(ValueId, Monoid),
    /// The rows of a sliced value.
    Rows(ValueId, Split),
}

/// The same step with its batch in `parts` microbatches: equal to it but for the order of sums over the batch, which are then sums of
/// `parts` sums. Values narrower than f32 are added up in f32.
pub fn microbatched(step: &TrainStep, parts: usize) -> Result<TrainStep, Refusal> {
    let classes = super::classify(step, parts)?;
    if parts == 1 {
        return Ok(step.clone());
    }
    let phases = Phases::of(&classes)?;
    let graph = &step.graph;
    let mut r = Rebuild::new(&classes, |_, ty| ty.clone());
    let place = |v: &ValueId| classes.live[v.index()];
    for v in graph.values().filter(place).filter(|v| phases.before(*v)) {
        if !matches!(graph.node(v).op, Op::Input(_)) {
            r.emit_uniform(v)?;
        }
    }
    let slots = slots(&classes, &phases);
    let id = graph.fresh_loop().max(r.out.fresh_loop());
    let mut carries = Vec::new();
    for (slot, s) in slots.iter().enumerate() {
        let init = match *s {
            Slot::Combined(v, monoid) => identity(&mut r.out, monoid, &accumulator(graph.tensor_ty(v))),
            Slot::Rows(v, _) => r.out.splat(graph.tensor_ty(v), 0.0),
        };
        carries.push(r.out.emit(Carry { loop_id: id, slot }, &[init]));
    }
    let index = r.out.emit(LoopIndex { loop_id: id }, &[]);
    r.slice = Some(index);
    for (k, seed) in classes.seeds.iter().enumerate() {
        let v = graph.inputs[k].value;
        if let (Some(split), Some(whole)) = (seed, r.whole[v.index()]) {
            r.part[v.index()] = Some(sliced_out(&mut r.out, whole, *split, index));
        }
    }
    for v in graph.values().filter(place).filter(|v| phases.inside[v.index()]) {
        r.emit_part(v)?;
    }
    let mut next = Vec::new();
    for (s, carry) in slots.iter().zip(&carries) {
        let v = match s {
            Slot::Combined(v, _) | Slot::Rows(v, _) => *v,
        };
        let part = r.part[v.index()].ok_or_else(|| Refusal::Phases { value: v, origin: graph.origin(v).to_string() })?;
        r.out.set_origin(graph.origin(v));
        next.push(match *s {
            Slot::Combined(_, monoid) => {
                let wide = r.out.tensor_ty(*carry).dtype;
                let part = r.out.convert(part, wide);
                r.out.binary(monoid.function(), *carry, part)
            }
            Slot::Rows(_, split) => {
                let starts = slice_starts(&mut r.out, *carry, split, index);
                let operands: Vec<ValueId> = [*carry, part].into_iter().chain(starts).collect();
                r.out.emit(DynamicUpdateSlice {}, &operands)
            }
        });
    }
    let operands: Vec<ValueId> = carries.iter().chain(&next).copied().collect();
    if operands.is_empty() {
        return Err(Refusal::NoBatch);
    }
    r.out.clear_origin();
    let end = r.out.emit(Repeat { loop_id: id, trips: parts }, &operands);
    for (index, s) in slots.iter().enumerate() {
        let v = match s {
            Slot::Combined(v, _) | Slot::Rows(v, _) => *v,
        };
        let result = r.out.emit(Proj { index }, &[end]);
        r.whole[v.index()] = Some(r.out.convert(result, graph.tensor_ty(v).dtype));
    }
    for v in graph.values().filter(place).filter(|v| phases.late[v.index()]) {
        r.emit_uniform(v)?;
    }
    for o in &graph.outputs {
        let value = r.uniform(o.value)?;
        r.out.output(o.name.clone(), value);
    }
    r.out.clear_origin();
    Ok(TrainStep { graph: r.out, state: step.state.clone(), loss: step.loss, seed: step.seed })
}

/// Which nodes run in the loop, which behind it, and which on the whole batch before it.
struct Phases {
    /// Follows from the batch alone and is needed in the loop combined, or is on the way to that.
    early: Vec<bool>,
    /// Depends on the slice.
    inside: Vec<bool>,
    /// Depends on a combined value.
    late: Vec<bool>,
}

impl Phases {
    fn of(classes: &Classes<'_>) -> Result<Phases, Refusal> {
        let n = classes.graph().nodes().len();
        let mut p = Phases { early: vec![false; n], inside: vec![false; n], late: vec![false; n] };
        while let Some(v) = p.spread(classes) {
            if !p.hoist(classes, v) {
                return Err(Refusal::Phases { value: v, origin: classes.graph().origin(v).to_string() });
            }
        }
        Ok(p)
    }

    /// Whether a node runs before the loop.
    fn before(&self, v: ValueId) -> bool {
        let v = v.index();
        self.early[v] || !self.inside[v] && !self.late[v]
    }

    /// Goes through all nodes; the first one that would have to run in the loop and behind it.
    fn spread(&mut self, classes: &Classes<'_>) -> Option<ValueId> {
        let (graph, p) = (classes.graph(), self);
        for v in graph.values().filter(|v| classes.live[v.index()]) {
            let node = graph.node(v);
            let reads = |o: &ValueId| p.inside[o.index()] && !classes.is_summed(*o);
            let waits = |o: &ValueId| p.late[o.index()] || classes.is_summed(*o) && !p.early[o.index()];
            let (inside, late) = match node.op {
                Op::Input(_) => (false, false),
                // A component is where its tuple is, whatever becomes of it.
                Op::Proj(_) => (p.inside[node.operands[0].index()], p.late[node.operands[0].index()]),
                _ => (classes.varies(v) || node.operands.iter().any(reads), node.operands.iter().any(waits)),
            };
            if inside && late {
                return Some(v);
            }
            (p.inside[v.index()], p.late[v.index()]) = (inside, late);
        }
        None
    }

    /// Lets the sums for which a node has to wait be made of the whole batch before the loop, as the number of labels that count is;
    /// `false` when they need more than the batch, or more than elementwise work on it.
    fn hoist(&mut self, classes: &Classes<'_>, v: ValueId) -> bool {
        let graph = classes.graph();
        let longest =
            graph.inputs.iter().zip(&classes.seeds).filter(|(_, s)| s.is_some()).map(|(i, _)| graph.tensor_ty(i.value).elements());
        let longest = longest.max().unwrap_or(0);
        let mut open: Vec<ValueId> = graph.node(v).operands.iter().copied().filter(|o| self.waited_for(classes, *o)).collect();
        let mut found = vec![false; self.early.len()];
        let mut seen = vec![false; self.early.len()];
        while let Some(o) = open.pop() {
            let node = graph.node(o);
            if matches!(node.op, Op::Input(_)) || std::mem::replace(&mut seen[o.index()], true) {
                continue;
            }
            open.extend(node.operands.iter().copied().filter(|o| self.inside[o.index()] || self.waited_for(classes, *o)));
            if !self.inside[o.index()] {
                // It follows from sums alone, and is there as soon as they are.
                continue;
            }
            let plain = node.op.is_elementwise()
                || matches!(node.op, Op::Fused(_) | Op::Reduce(_) | Op::Reshape(_) | Op::Broadcast(_))
                || matches!(node.op, Op::Transpose(_) | Op::Slice(_) | Op::Shard(_));
            if !plain || graph.ty(o).as_tensor().is_none_or(|t| t.elements() > longest) {
                return false;
            }
            found[o.index()] = true;
        }
        let more = found.iter().zip(&self.early).any(|(new, old)| *new && !old);
        self.early.iter_mut().zip(found).for_each(|(e, f)| *e |= f);
        more
    }

    /// Whether a value is not there before the loop is over.
    fn waited_for(&self, classes: &Classes<'_>, v: ValueId) -> bool {
        !self.early[v.index()] && (self.late[v.index()] || classes.is_summed(v))
    }
}

/// What leaves the loop: combined values, and rows that are outputs.
fn slots(classes: &Classes<'_>, phases: &Phases) -> Vec<Slot> {
    let graph = classes.graph();
    let mut slots = Vec::new();
    for v in graph.values().filter(|v| phases.inside[v.index()]) {
        if graph.ty(v).as_tensor().is_none() {
            continue;
        }
        match classes.made(v) {
            Class::Partial(monoid) if classes.is_summed(v) && !phases.early[v.index()] => slots.push(Slot::Combined(v, monoid)),
            Class::Sliced(split) if graph.outputs.iter().any(|o| o.value == v) => slots.push(Slot::Rows(v, split)),
            _ => {}
        }
    }
    slots
}

/// The type in which partial values are added up.
fn accumulator(ty: &TensorType) -> TensorType {
    let narrow = ty.dtype.is_float() && ty.dtype.size() < 4;
    TensorType::new(if narrow { DType::F32 } else { ty.dtype }, &ty.shape)
}

fn identity(graph: &mut Graph, monoid: Monoid, ty: &TensorType) -> ValueId {
    let scalar = match monoid.identity(ty.dtype) {
        Wide::F(x) => Tensor::scalar_float(ty.dtype, x),
        Wide::I(x) => Tensor::scalar_int(ty.dtype, x),
    };
    let c = graph.constant(&scalar);
    graph.broadcast(c, &ty.shape, &[])
}
