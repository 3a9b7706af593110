//! From the choice back to a graph, and the report of what was done.

use super::extract::{Choice, Problem};
use super::rules;
use super::saturate::Progress;
use super::space::{DerivationId, Imported, NOWHERE, origin_of};
use super::{OptimizeOptions, Optimized, structures};
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::fmt;

/// What optimization did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptimizeReport {
    /// Live nodes of the input.
    pub nodes_before: usize,
    /// Live nodes of the result.
    pub nodes_after: usize,
    /// Modeled cost of the input, picoseconds.
    pub cost_before: u64,
    /// Modeled cost of the result, picoseconds.
    pub cost_after: u64,
    /// E-nodes at the end.
    pub e_nodes: usize,
    /// Iterations of all phases.
    pub iterations: usize,
    /// Whether the rules had nothing left to do.
    pub saturated: bool,
    /// How often each rule joined two classes; rules that never did are left out.
    pub applied: Vec<(&'static str, u32)>,
    /// How many ops of each composite kind the result has.
    pub composites: Vec<(&'static str, usize)>,
    /// How often the result has each structure that stays a group of ops: attention, dropout, Adam's update.
    pub structures: Vec<(&'static str, usize)>,
    /// The rules behind each output, when explanations were asked for.
    pub outputs: Vec<OutputReport>,
}

/// The rules behind one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputReport {
    /// The output's name.
    pub name: String,
    /// Rules and how many of their applications led to the program of this output, most first.
    pub rules: Vec<(&'static str, usize)>,
}

impl fmt::Display for OptimizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ps: u64| ps as f64 / 1e6;
        writeln!(
            f,
            "{} nodes -> {}, {:.3} us -> {:.3} us",
            self.nodes_before,
            self.nodes_after,
            us(self.cost_before),
            us(self.cost_after)
        )?;
        let state = if self.saturated { "saturated" } else { "stopped by a limit" };
        writeln!(f, "{} e-nodes, {} iterations, {state}", self.e_nodes, self.iterations)?;
        for (name, count) in self.composites.iter().chain(&self.structures) {
            writeln!(f, "  {name:<24}{count:>6}")?;
        }
        for output in &self.outputs {
            let rules: Vec<String> = output.rules.iter().map(|(r, n)| format!("{r} x{n}")).collect();
            writeln!(f, "{}: {}", output.name, if rules.is_empty() { "as in the input".to_string() } else { rules.join(", ") })?;
        }
        Ok(())
    }
}

/// Builds the chosen program; the input's live part when that is not cheaper or nothing was chosen.
pub(super) fn emit(
    graph: &Graph,
    imported: &Imported,
    problem: &Problem,
    choice: Option<&Choice>,
    progress: &Progress,
    options: &OptimizeOptions,
) -> Optimized {
    let cost_before = options.cost.graph(graph);
    let mut report = OptimizeReport {
        nodes_before: imported.terms.len(),
        cost_before,
        e_nodes: imported.egraph.total_number_of_nodes(),
        iterations: progress.iterations,
        saturated: progress.saturated,
        applied: rules::all().iter().zip(&progress.applied).filter(|(_, n)| **n > 0).map(|(r, n)| (r.name, *n)).collect(),
        ..OptimizeReport::default()
    };
    let chosen = choice.and_then(|c| build(graph, imported, problem, c).map(|g| (g, c)));
    let out = match chosen {
        Some((g, c)) if options.cost.graph(&g) <= cost_before && LoopNest::of(&g).is_ok() => {
            if options.explain {
                report.outputs = explain(graph, imported, problem, c, progress);
            }
            g
        }
        _ => {
            let copy = |out: &mut Graph, node: &girih_ir::graph::Node, ops: &[ValueId]| out.add(node.op.clone(), ops);
            graph.rewritten(copy).map_or_else(|_| graph.clone(), |(g, _)| g)
        }
    };
    report.nodes_after = out.live().iter().filter(|l| **l).count();
    report.cost_after = options.cost.graph(&out);
    let mut composites: BTreeMap<&'static str, usize> = BTreeMap::new();
    out.nodes().iter().filter(|n| n.op.is_composite()).for_each(|n| *composites.entry(n.op.name()).or_default() += 1);
    report.composites = composites.into_iter().collect();
    report.structures = structures::count(&out);
    Optimized { graph: out, report }
}

/// The chosen program as a graph: nodes follow the input's order where they come from it.
fn build(graph: &Graph, imported: &Imported, problem: &Problem, choice: &Choice) -> Option<Graph> {
    let space = &imported.egraph.analysis;
    let mut out = Graph::new(graph.name.clone());
    let inputs: Vec<ValueId> = graph.inputs.iter().map(|i| out.input(i.name.clone(), graph.tensor_ty(i.value).clone(), i.role)).collect();
    let mut map: Vec<Option<ValueId>> = vec![None; problem.ids.len()];
    for c in problem.selected(choice) {
        let node = &problem.candidates[c as usize][choice.node[c as usize] as usize];
        let op = space.op(node.op);
        if let Op::Input(i) = op {
            map[c as usize] = Some(inputs[i.index]);
            continue;
        }
        let operands: Option<SmallVec<[ValueId; 4]>> = node.kids.iter().map(|k| map[*k as usize]).collect();
        out.set_origin(origin_of(&imported.egraph, problem.ids[c as usize]).map_or("", |v| graph.origin(v)));
        map[c as usize] = Some(out.add(op.clone(), &operands?).ok()?);
    }
    for (output, root) in graph.outputs.iter().zip(&problem.roots) {
        out.output(output.name.clone(), map[*root as usize]?);
    }
    Some(out)
}

/// For each output, the rule applications that the chosen e-nodes of its program go back to.
fn explain(graph: &Graph, imported: &Imported, problem: &Problem, choice: &Choice, progress: &Progress) -> Vec<OutputReport> {
    let egraph = &imported.egraph;
    let mut joins: BTreeMap<usize, Vec<(usize, &[DerivationId])>> = BTreeMap::new();
    for (id, rule, from) in &progress.joins {
        joins.entry(usize::from(egraph.find(*id))).or_default().push((*rule, from));
    }
    let joins: Vec<&[(usize, &[DerivationId])]> =
        problem.ids.iter().map(|id| joins.get(&usize::from(*id)).map_or(&[][..], Vec::as_slice)).collect();
    let derivations = &egraph.analysis.derivations;
    graph
        .outputs
        .iter()
        .zip(&problem.roots)
        .map(|(output, root)| {
            let mut counts = vec![0usize; rules::all().len()];
            let (mut seen, mut counted) = (vec![false; problem.ids.len()], vec![false; derivations.len()]);
            let (mut classes, mut steps) = (vec![*root], Vec::new());
            while let Some(c) = classes.pop() {
                if std::mem::replace(&mut seen[c as usize], true) {
                    continue;
                }
                let node = &problem.candidates[c as usize][choice.node[c as usize] as usize];
                classes.extend(&node.kids);
                steps.push(node.made);
                for (rule, from) in joins[c as usize] {
                    counts[*rule] += 1;
                    steps.extend(*from);
                }
                while let Some(step) = steps.pop() {
                    if step.0 == 0 || std::mem::replace(&mut counted[step.index()], true) {
                        continue;
                    }
                    let derivation = &derivations[step.index()];
                    if derivation.rule != NOWHERE {
                        counts[derivation.rule as usize] += 1;
                    }
                    steps.extend(&derivation.from);
                }
            }
            let named = rules::all().iter().map(|r| r.name).zip(counts);
            let mut rules: Vec<(&'static str, usize)> = named.filter(|(_, count)| *count > 0).collect();
            rules.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
            OutputReport { name: output.name.clone(), rules }
        })
        .collect()
}
