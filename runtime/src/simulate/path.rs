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

/// Walks back from the activity that ended last. Also says which instructions and nodes take most of the path, longest first: what stands for
/// extrapolated periods counts for the steps of the period before it.
pub fn critical(program: &Program, outcome: &Outcome, most: usize) -> (Vec<PathStep>, Vec<Contributor>) {
    let (mut steps, mut skips) = (Vec::new(), Vec::new());
    let (mut at, mut end) = (outcome.last, outcome.makespan);
    // A cause comes before its effect, so no activity is met twice.
    for _ in 0..outcome.acts.len() {
        let Some(act) = outcome.acts.get(at as usize) else { break };
        if act.start < end {
            let skip = outcome.skips.get(&at);
            steps.push(PathStep { iterations: skip.map_or(0, |s| s.count), ..step(program, act, end) });
            skips.push(skip.map(|s| s.period));
            end = act.start;
        }
        at = act.cause;
    }
    steps.reverse();
    skips.reverse();
    let list = contributors(&steps, &skips, outcome.makespan, most);
    (steps, list)
}

fn step(program: &Program, act: &Act, end: f64) -> PathStep {
    let place = Place::new(program, act.die as usize, act.index as usize);
    let (node, origin) = node_of(program, act.die as usize, act.index as usize).unwrap_or_default();
    let transfer = act.track != COMPUTE;
    let (die, name) = (place.die.to_string(), place.name.into());
    PathStep { die, instruction: act.index, name, node, origin, transfer, start: act.start, end, iterations: 0 }
}

/// How often each step counts. A step that stands for periods of some length hands its weight to the steps in the period before it.
fn weights(path: &[PathStep], periods: &[Option<f64>]) -> Vec<f64> {
    let mut weights = vec![1.0; path.len()];
    for i in (0..path.len()).rev() {
        let Some(period) = periods[i].filter(|p| *p > 0.0) else { continue };
        let (own, start) = (std::mem::take(&mut weights[i]), path[i].start);
        let length = path[i].end - start;
        let mut rest = 1.0;
        for j in (0..i).rev().take_while(|j| path[*j].end > start - period) {
            let share = path[j].end - path[j].start.max(start - period);
            weights[j] += own * length / period * share / (path[j].end - path[j].start);
            rest -= share / period;
        }
        weights[i] = own * rest.max(0.0);
    }
    weights
}

/// The time of the path by instruction and node, longest first.
fn contributors(path: &[PathStep], periods: &[Option<f64>], makespan: f64, most: usize) -> Vec<Contributor> {
    let mut sums: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
    let mut origins: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (step, weight) in path.iter().zip(weights(path, periods)) {
        origins.entry((&step.name, &step.node)).or_insert(&step.origin);
        let sum = sums.entry((&step.name, &step.node)).or_default();
        sum.0 += (step.end - step.start) * weight;
        sum.1 += weight;
    }
    // What only rounding has left over is no contribution.
    sums.retain(|_, (seconds, _)| *seconds > 1e-9 * makespan);
    let share = |t: f64| if makespan > 0.0 { t / makespan } else { 0.0 };
    let one = |((name, node), (seconds, weight)): ((&str, &str), (f64, f64))| {
        let count = (weight.round() as u64).max(1);
        let origin = origins.get(&(name, node)).copied().unwrap_or_default().to_string();
        Contributor { name: name.into(), node: node.into(), origin, seconds, share: share(seconds), count }
    };
    let mut list: Vec<Contributor> = sums.into_iter().map(one).collect();
    list.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| (&a.name, &a.node).cmp(&(&b.name, &b.node))));
    list.truncate(most);
    list
}
