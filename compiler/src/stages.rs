//! stages: a pipeline. The model is cut into stages along the way of a slice of the batch through it, each stage has a rectangle of the mesh,
//! and the slices follow each other through the stages.
//!
//! The step comes as a loop over its slices (see `slices`). Every node of the loop's body gets a *position* on the way forward (`way`): what
//! leads to the loss has its own place, a gradient that of what it is the gradient of, a weight and its update that of its first reader.
//! Stages are ranges of positions, so activations go from stage to stage in one direction and gradients in the other.
//! `cut` chooses the ranges and the rectangles so that the slowest stage is as fast as can be. Splits are chosen on the
//! loop, once for all slices; `unroll` then writes the slices one by one, in the order in which a clock over stages begins them:
//! a stage goes backward as soon as it can, and forward with as many slices as there are stages from it on, and one more.

mod cut;
mod keep;
mod unroll;
mod way;

use crate::partition::Solved;
use crate::sharded::{MeshShape, ShardedGraph, Stages};
use girih_ir::graph::ValueId;
use girih_ir::graph::loops::{Loop, LoopNest};
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use keep::Keep;
use way::Way;

/// Why a step cannot be cut into stages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The step is no loop over slices.
    #[error("E0840: stages need a batch in slices, and a model without loops: {why}; leave out `--stages`")]
    Loops {
        /// What it is instead.
        why: &'static str,
    },
    /// No way forward.
    #[error(
        "E0841: no output of the step depends on the slices other than as new state, so there is no way forward to cut into stages; leave out `--stages`"
    )]
    NoLoss,
    /// Too few dies or nodes.
    #[error(
        "E0842: {rows}×{cols} dies and {positions} ops on the way to the loss cannot be cut into {stages} stages; take at most as many as there are rows or columns, or a product of two such numbers"
    )]
    Count {
        /// Rows of the mesh.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Positions.
        positions: usize,
        /// Stages that were asked for.
        stages: usize,
    },
}

/// A step in slices, cut into stages.
#[derive(Debug)]
pub struct Staged<'a> {
    step: &'a TrainStep,
    way: Way<'a>,
    /// Which nodes of the loop have which rectangle.
    pub stages: Stages,
}

/// Cuts a step, which is a loop over slices of its batch (`slices::microbatched`), into so many stages.
pub fn staged<'a>(step: &'a TrainStep, target: &Target, mesh: MeshShape, count: usize) -> Result<Staged<'a>, StageError> {
    let loops = |why| StageError::Loops { why };
    let nest = LoopNest::of(&step.graph).map_err(|_| loops("its loops make no sense"))?;
    let live = step.graph.live();
    let mut alive: Vec<Loop> = nest.loops.into_iter().filter(|l| live[l.end.index()]).collect();
    let slices = match (alive.pop(), alive.is_empty()) {
        (Some(slices), true) if slices.trips.is_some() => slices,
        (None, _) => return Err(loops("the batch is computed at once (`--microbatches` cuts it)")),
        _ => return Err(loops("it has loops of its own, such as a scan over layers")),
    };
    let way = Way::of(step, slices)?;
    let stages = cut::cut(&way, target, mesh, count)?;
    Ok(Staged { step, way, stages })
}

impl Staged<'_> {
    /// Into how many slices the batch is cut.
    pub fn slices(&self) -> usize {
        self.way.slices.trips.unwrap_or(1)
    }

    /// How many slices may be between their way forward and their way back in a stage.
    pub fn ahead(&self, stage: usize) -> usize {
        unroll::ahead(stage, self.stages.regions.len()).min(self.slices())
    }

    /// What is to be made again on the way back so that each stage keeps so many bytes less for a slice.
    pub fn made_again(&self, solved: &Solved, save: &[u64]) -> Vec<ValueId> {
        let stages = save.iter().enumerate().filter(|(_, bytes)| **bytes > 0);
        let chosen = |(stage, bytes): (usize, &u64)| {
            let mut keep = Keep::new(&self.way, solved, stage);
            keep.save(*bytes);
            keep.nodes()
        };
        stages.flat_map(chosen).collect()
    }

    /// The plan of the loop with its slices written one by one; `again` is made again on the way back. Its cost is when the last stage is done.
    pub fn unrolled(&self, solved: &Solved, again: &[ValueId]) -> ShardedGraph {
        unroll::unrolled(self.step, &self.way, solved, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonicalize::canonicalize_rolled;
    use crate::levels::parse_sharded;
    use crate::partition::{Pinning, Price, Space};
    use crate::place::TaskKind;
    use crate::slices::microbatched;
    use girih_ir::graph::Role;
    use girih_ir::interp::eval;
    use girih_ir::ops::Op;
    use girih_ir::step::StatePair;
    use girih_ir::text::parse_graph;

    /// Two layers, their gradients and their updates.
    fn layers() -> TrainStep {
        let text = "graph (%x: f32[8,16], %w1: f32[16,16], %w2: f32[16,16]) {
            %a = dot_general %x, %w1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
            %h = tanh %a
            %y = dot_general %h, %w2 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
            %s = mul %y, %y %loss = reduce %s {monoid = sum, dims = [0,1]}
            %d2 = dot_general %h, %y {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
            %e = dot_general %y, %w2 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [1]}
            %f = mul %e, %h
            %d1 = dot_general %x, %f {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
            %n1 = sub %w1, %d1 %n2 = sub %w2, %d2
            return %loss, %n1, %n2 }";
        let mut graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
        graph.inputs[0].role = Role::Data;
        graph.inputs[1..].iter_mut().for_each(|i| i.role = Role::Param);
        let pair = |i: usize| StatePair { name: format!("w{i}"), input: i, output: Some(i), role: Role::Param };
        TrainStep { state: vec![pair(1), pair(2)], loss: Some(0), ..TrainStep::inference(graph) }
    }

    fn sliced() -> TrainStep {
        let step = microbatched(&layers(), 4).unwrap_or_else(|e| panic!("{e}"));
        TrainStep { graph: canonicalize_rolled(&step.graph).0, ..step }
    }

    #[test]
    fn slices_follow_each_other_and_compute_the_same() {
        let (step, target) = (sliced(), Target::builtin("dojo-tile").unwrap());
        let mesh = target.logical_mesh(2, 3).unwrap();
        let shape = MeshShape { rows: 2, cols: 3 };
        let found = staged(&step, &target, shape, 2).unwrap();
        assert_eq!(found.slices(), 4);
        let space = Space::staged(&step, &target, &mesh, &found.stages, &Pinning::Free).unwrap();
        let solved = space.solve(&Price::default());
        let plain = found.unrolled(&solved, &[]);
        let inputs = girih_ir::graph::random::random_inputs(&layers().graph, 5);
        let expected = eval(&layers().graph, &inputs).unwrap();
        for (a, b) in expected.iter().zip(eval(&plain.step.graph, &inputs).unwrap()) {
            let near = a.floats().iter().zip(b.floats()).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0));
            assert!(near, "{a:?} and {b:?}");
        }
        assert_eq!(parse_sharded(&plain.to_string()), Ok(plain.clone()));
        // Both layers and their gradients are apart, and the second slice begins before the first one is through.
        let dots: Vec<usize> = plain
            .step
            .graph
            .values()
            .filter(|v| matches!(plain.step.graph.node(*v).op, Op::DotGeneral(_)))
            .filter_map(|v| plain.stages.stage(v))
            .collect();
        assert_eq!(dots.iter().filter(|s| **s == 0).count(), 8, "{dots:?}");
        assert_eq!((dots.len(), dots[0], &dots[2..4]), (20, 0, &[0, 0][..]), "{dots:?}");
        // Every die computes the products of its own stage, and no others.
        let placed = crate::place::place(plain.clone(), &mesh, &target).unwrap();
        let mut computing = [0usize; 2];
        for task in &placed.tasks {
            let TaskKind::Compute { node, .. } = &task.kind else { continue };
            // Constants are made wherever they are needed.
            if !matches!(plain.step.graph.node(*node).op, Op::DotGeneral(_)) {
                continue;
            }
            let region = plain.stages.region(*node, shape);
            assert!(region.local(shape, task.die as usize).is_some(), "{node} on die {} outside of {region:?}", task.die);
            plain.stages.stage(*node).into_iter().for_each(|s| computing[s] += 1);
        }
        assert!(computing.iter().all(|n| *n > 0), "{computing:?}");
        let again = found.made_again(&solved, &[1, 0]);
        assert!(!again.is_empty());
        let made = found.unrolled(&solved, &again);
        assert_eq!(made.remat.len(), again.len() * 4);
        assert!(made.remat.iter().all(|(v, before)| v < before) && made.remat.is_sorted_by_key(|(v, before)| (*before, *v)));
    }

    #[test]
    fn what_cannot_be_cut_says_why() {
        let (target, shape) = (Target::builtin("dojo-tile").unwrap(), MeshShape { rows: 2, cols: 3 });
        let refusal = |step: &TrainStep, count| staged(step, &target, shape, count).map(|s| s.stages).unwrap_err().to_string();
        assert!(refusal(&layers(), 2).starts_with("E0840"));
        assert!(refusal(&sliced(), 7).starts_with("E0842"));
        let mut step = sliced();
        step.loss = None;
        step.graph.outputs.remove(0);
        step.state.iter_mut().for_each(|s| s.output = s.output.map(|o| o - 1));
        assert!(refusal(&step, 2).starts_with("E0841"));
    }
}
