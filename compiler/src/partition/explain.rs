//! Why a value lies as it does: every way in which its group could be split, and what the whole step would cost then at best.

use super::{PartitionError, PartitionOptions, Price, Space, solve};
use crate::sharded::{LoopSplit, Region};
use girih_ir::graph::ValueId;
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use rayon::prelude::*;

/// A cost that no sum of others reaches.
const FORBIDDEN: u64 = u64::MAX / 4;

/// A way in which the group of a value could be split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alternative {
    /// The loops of the value's node: mesh axes a loop, as in the text of `partition`.
    pub split: String,
    /// Picoseconds of the group's work on the busiest die.
    pub work: u64,
    /// Picoseconds of moving what the group reads and makes, with its neighbors as they suit it best.
    pub moves: u64,
    /// Picoseconds of the step.
    pub step: u64,
    /// What the memory of the step costs beside, in picoseconds, where memory is short.
    pub memory: u64,
}

impl Alternative {
    /// What was minimized: the time of the step, and the price of its memory.
    pub fn cost(&self) -> u64 {
        self.step.saturating_add(self.memory)
    }
}

/// Why a value lies as it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The dies that compute the node: all of the logical mesh, or those of its stage.
    pub region: Region,
    /// Its stage, where the model is cut into stages.
    pub stage: Option<usize>,
    /// The node that makes the value (for state: its new value), as `--emit partition` counts nodes.
    pub node: ValueId,
    /// Its op.
    pub op: &'static str,
    /// The nodes that share the decision.
    pub members: Vec<ValueId>,
    /// What could have been chosen, cheapest first: the first one was.
    pub alternatives: Vec<Alternative>,
}

/// Explains the split of a value of a fused step; `None` for what is made wherever it is needed.
pub fn explain(
    step: &TrainStep,
    target: &Target,
    options: &PartitionOptions,
    value: ValueId,
) -> Result<Option<Explanation>, PartitionError> {
    let whole = Space::new(step, target, options.dies, &options.pins)?;
    let parts = whole.in_parts(target, options.dies, &options.pins)?;
    let Some(value) = parts.as_ref().map_or(Some(value), |p| p.value(value)) else { return Ok(None) };
    let space = parts.as_ref().map_or(Ok(whole), |p| p.space(target, options.dies))?;
    Ok(space.explain(&options.price, value))
}

impl Space<'_> {
    /// Explains the split of a value at a price of SRAM; `None` for what is made wherever it is needed.
    pub fn explain(&self, price: &Price, value: ValueId) -> Option<Explanation> {
        let terms = &self.meshes[self.solve(price).mesh].terms;
        let groups = &terms.groups;
        let (g, at) = groups.maker(value).and_then(|n| groups.place[n.index()])?;
        let (group, sizes) = (&groups.list[g], terms.sizes());
        let (factors, constant) = terms.factors(price);
        let edges: Vec<_> = terms.edges.iter().filter(|e| e.producer == g || e.consumer == g).collect();
        let alternative = |o: usize| {
            let mut factors = factors.clone();
            factors.push(super::Factor { vars: vec![g], table: (0..sizes[g]).map(|i| if i == o { 0 } else { FORBIDDEN }).collect() });
            let found = solve(&sizes, factors);
            let moves = edges.iter().map(|e| e.time[found.choice[e.producer] * sizes[e.consumer] + found.choice[e.consumer]]);
            let strategy = groups.member_strategy(&group.members[at], &group.options[o]);
            let split: Vec<String> = strategy.iter().map(LoopSplit::to_string).collect();
            let step = terms.time(&found.choice);
            let memory = found.cost.saturating_add(constant).saturating_sub(step);
            Alternative { split: split.join(","), work: terms.work[g][o], moves: moves.sum(), step, memory }
        };
        let mut alternatives: Vec<Alternative> = (0..sizes[g]).into_par_iter().map(alternative).collect();
        alternatives.sort_by_key(Alternative::cost);
        alternatives.dedup_by(|a, b| a.split == b.split);
        let members = group.members.iter().map(|m| m.node).collect();
        let node = group.members[at].node;
        let op = self.step().graph.node(node).op.name();
        let (region, stage) = (groups.stages.region(node, groups.mesh), groups.stages.stage(node));
        Some(Explanation { region, stage, node, op, members, alternatives })
    }
}
