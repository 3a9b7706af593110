//! Replicas: the slices side by side, one a package of the machine, with an `all_reduce` wherever a combined value is needed.

use super::Refusal;
use super::classes::{Class, Classes, Split};
use super::rebuild::Rebuild;
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::ops::all_reduce::AllReduce;
use girih_ir::step::TrainStep;
use girih_ir::types::TensorType;

/// A step as one of `rows × cols` replicas runs it.
#[derive(Clone, PartialEq, Debug)]
pub struct Replicated {
    /// The step of one replica, on its rows of the batch.
    pub step: TrainStep,
    /// Inputs that are shared out: position and dimension.
    pub inputs: Vec<(u32, u32)>,
    /// Outputs that each replica makes its own rows of.
    pub outputs: Vec<(u32, u32)>,
}

/// The step of one replica of a grid: equal to the whole step but for the order of sums over the batch.
pub fn replicated(step: &TrainStep, rows: usize, cols: usize) -> Result<Replicated, Refusal> {
    let parts = rows * cols;
    let classes = super::classify(step, parts)?;
    let graph = &step.graph;
    let local = |k: usize, ty: &TensorType| {
        let mut ty = ty.clone();
        if let Some(Split { dim, .. }) = classes.seeds[k] {
            ty.shape[dim] /= parts;
        }
        ty
    };
    let mut r = Rebuild::new(&classes, local);
    for (k, i) in graph.inputs.iter().enumerate() {
        if classes.seeds[k].is_some() {
            r.part[i.value.index()] = r.whole[i.value.index()].take();
        }
    }
    for v in graph.values().filter(|v| classes.live[v.index()] && !matches!(graph.node(*v).op, Op::Input(_))) {
        if is_local(&classes, v) {
            r.emit_part(v)?;
            combine(&mut r, &classes, v, rows, cols);
        } else {
            r.emit_uniform(v)?;
        }
    }
    let mut outputs = Vec::new();
    for (k, o) in graph.outputs.iter().enumerate() {
        let value = match classes.class(o.value) {
            Class::Sliced(split) => {
                outputs.push((k as u32, split.dim as u32));
                r.part[o.value.index()].ok_or(Refusal::NoBatch)?
            }
            _ => r.uniform(o.value)?,
        };
        r.out.output(o.name.clone(), value);
    }
    r.out.clear_origin();
    let inputs = (0u32..).zip(&classes.seeds).filter_map(|(k, s)| s.map(|s| (k, s.dim as u32))).collect();
    let step = TrainStep { graph: r.out, state: step.state.clone(), loss: step.loss, seed: step.seed };
    Ok(Replicated { step, inputs, outputs })
}

/// Whether a node is computed from a replica's own rows, or is the end of a loop that is.
fn is_local(classes: &Classes<'_>, v: ValueId) -> bool {
    let graph = classes.graph();
    match &graph.node(v).op {
        Op::Proj(_) => is_local(classes, graph.node(v).operands[0]),
        _ => classes.varies(v),
    }
}

/// Combines a partial value that something needs whole.
fn combine(r: &mut Rebuild<'_>, classes: &Classes<'_>, v: ValueId, rows: usize, cols: usize) {
    let tensor = classes.graph().ty(v).as_tensor().is_some();
    if let (Class::Partial(monoid), true, true, Some(part)) = (classes.made(v), classes.is_summed(v), tensor, r.part[v.index()]) {
        r.whole[v.index()] = Some(r.out.emit(AllReduce { monoid, rows, cols }, &[part]));
    }
}
