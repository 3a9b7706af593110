//! The critical path: the chain of activities that made the step as long as it is.

use super::engine::{Act, COMPUTE, Outcome};
use super::report::{Contributor, PathStep};
use crate::machine::Place;
use girih_ir::program::{Claim, Program};
use std::collections::BTreeMap;

/// What the graph calls the work of an instruction: the node with its op, and where that came from.
pub fn node_of(program: &Program, die: usize, index: usize) -> Option<(String, String)> {
    let code = program.dies.get(die)?;
    let claim = program.claims.get(code.claims.get(index)?.index())?;
    let value = match claim {
        Claim::Compute { node, .. } => *node,
        Claim::Move { value, .. } => *value,
        Claim::Loop { end, .. } => *end,
        Claim::Control => return None,
    };
    let node = program.step.graph.nodes().get(value.index())?;
    Some((format!("{value} {}", node.op.name()), program.step.graph.origin(value).to_string()))
}

/// Walks back from the activity that ended last.
pub fn critical(program: &Program, outcome: &Outcome) -> Vec<PathStep> {
    let mut steps = Vec::new();
    let (mut at, mut end) = (outcome.last, outcome.makespan);
    // A cause comes before its effect, so no activity is met twice.
    for _ in 0..outcome.acts.len() {
        let Some(act) = outcome.acts.get(at as usize) else { break };
        if act.start < end {
            steps.push(step(program, act, end));
            end = act.start;
        }
        at = act.cause;
    }
    steps.reverse();
    steps
}

fn step(program: &Program, act: &Act, end: f64) -> PathStep {
    let place = Place::new(program, act.die as usize, act.index as usize);
    let (node, origin) = node_of(program, act.die as usize, act.index as usize).unwrap_or_default();
    let transfer = act.track != COMPUTE;
    PathStep { die: place.die.to_string(), instruction: act.index, name: place.name.into(), node, origin, transfer, start: act.start, end }
}

/// The time of the path by instruction and node, longest first.
pub fn contributors(path: &[PathStep], makespan: f64, most: usize) -> Vec<Contributor> {
    let mut sums: BTreeMap<(&str, &str), (f64, u64)> = BTreeMap::new();
    for step in path {
        let sum = sums.entry((&step.name, &step.node)).or_default();
        sum.0 += step.end - step.start;
        sum.1 += 1;
    }
    let share = |t: f64| if makespan > 0.0 { t / makespan } else { 0.0 };
    let mut list: Vec<Contributor> = sums
        .into_iter()
        .map(|((name, node), (seconds, count))| Contributor { name: name.into(), node: node.into(), seconds, share: share(seconds), count })
        .collect();
    list.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| (&a.name, &a.node).cmp(&(&b.name, &b.node))));
    list.truncate(most);
    list
}
