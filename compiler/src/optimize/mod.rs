//! Optimization: equality saturation over the whole training step, then extraction of the cheapest program.
//!
//! First, sums that a loop carries move behind it, and stacks of a loop that follow from others vanish. Then directed rules run to saturation; rules that only open alternatives run on a budget in small regions; then the directed rules
//! once more. Limits count nodes and iterations, never time, so the result is the same on every machine. The result is never
//! more expensive than the input.

mod apply;
mod cost;
mod emit;
mod extract;
mod functions;
mod improve;
mod loop_stacks;
mod loop_sums;
mod matching;
mod pattern;
pub mod rules;
mod saturate;
mod space;
mod structures;

pub use cost::CostModel;
pub use emit::{OptimizeReport, OutputReport};
pub use rules::RuleClass;

use girih_ir::graph::Graph;
use saturate::{Limits, Progress};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptimizeOptions {
    /// The loosest class of rules that may run.
    pub class: RuleClass,
    /// Most e-nodes; 0 for the larger of 5,000 and six times the input.
    pub max_nodes: usize,
    /// Most iterations of a phase.
    pub max_iterations: usize,
    /// Whether the budgeted phase runs.
    pub explore: bool,
    /// Whether the report lists the rules behind each output.
    pub explain: bool,
    /// What ops cost.
    pub cost: CostModel,
}

impl Default for OptimizeOptions {
    fn default() -> Self {
        OptimizeOptions {
            class: RuleClass::default(),
            max_nodes: 0,
            max_iterations: 16,
            explore: true,
            explain: false,
            cost: CostModel::default(),
        }
    }
}

/// An optimized graph and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Optimized {
    /// The graph: same inputs and outputs.
    pub graph: Graph,
    /// What was done.
    pub report: OptimizeReport,
}

/// A rule that is wrong. No graph can cause this by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizeError {
    /// Two types met in one class.
    #[error(
        "E0341: rule `{rule}` joined a value of type {want} with one of type {got}; this is a bug of the rule: please report the model, and leave the rule's class out until it is fixed"
    )]
    Clash {
        /// The rule.
        rule: &'static str,
        /// The type of the left side.
        want: String,
        /// The type of the right side.
        got: String,
    },
    /// A right side that does not type.
    #[error(
        "E0342: rule `{rule}` made an op that does not type: {why}; this is a bug of the rule: please report the model, and leave the rule's class out until it is fixed"
    )]
    IllTyped {
        /// The rule.
        rule: &'static str,
        /// The op's complaint.
        why: String,
    },
}

/// Most classes of an elementwise region in which the budgeted phase runs.
const SMALL_REGION: usize = 64;
/// Iterations of the budgeted phase.
const EXPLORATIONS: usize = 2;
/// Passes of the local search from one seed.
const PASSES: usize = 8;

/// Optimizes a graph.
pub fn optimize(graph: &Graph, options: &OptimizeOptions) -> Result<Optimized, OptimizeError> {
    let summed = if options.class >= RuleClass::Reassociates { loop_sums::hoist(graph) } else { None };
    let graph = summed.as_ref().unwrap_or(graph);
    let lean = loop_stacks::drop_derived(graph);
    let graph = lean.as_ref().unwrap_or(graph);
    let mut imported = space::import(graph);
    let count = imported.terms.len();
    let rules = rules::all();
    let allowed = |explore: bool| -> Vec<(usize, &rules::Rule)> {
        rules.iter().enumerate().filter(|(_, r)| r.class <= options.class && r.explore == explore).collect()
    };
    let nodes = if options.max_nodes == 0 { (6 * count).max(5_000) } else { options.max_nodes };
    let limits = Limits { nodes, iterations: options.max_iterations, matches: (4 * count).max(4_000) };
    let mut progress = Progress { applied: vec![0; rules.len()], ..Progress::default() };
    let egraph = &mut imported.egraph;
    let directed = allowed(false);
    saturate::saturate(egraph, &directed, limits, None, &mut progress)?;
    if options.explore && progress.saturated {
        let regions = saturate::small_regions(egraph, SMALL_REGION);
        let room = (egraph.total_size() / 4).max(1_000);
        let budget = Limits { nodes: nodes.min(egraph.total_size() + room), iterations: EXPLORATIONS, matches: room };
        saturate::saturate(egraph, &allowed(true), budget, Some(&regions), &mut progress)?;
        let rest = Limits { nodes: budget.nodes + room, ..limits };
        saturate::saturate(egraph, &directed, rest, None, &mut progress)?;
    }

    let roots: Vec<egg::Id> = graph.outputs.iter().filter_map(|o| imported.classes[o.value.index()]).collect();
    let problem = extract::Problem::new(&imported, &roots, &options.cost);
    let seeds = [problem.input_seed(), problem.greedy_seed()];
    let best = seeds.into_iter().flatten().map(|s| improve::improve(&problem, s, PASSES)).min_by_key(|c| problem.cost(c));
    Ok(emit::emit(graph, &imported, &problem, best.as_ref(), &progress, options))
}

#[cfg(test)]
pub(crate) mod tests;
