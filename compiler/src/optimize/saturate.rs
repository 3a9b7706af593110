//! Saturation: apply rules until nothing new is found, or a limit of nodes or iterations is reached. Never a limit of time.
//!
//! All rules are searched before any is applied, so their order does not decide what is found. A class is searched again only when
//! something changed as deep below it as the pattern reaches.

use super::OptimizeError;
use super::apply::build;
use super::matching::{KindSets, Match, Search, root_kinds};
use super::pattern::Pattern;
use super::rules::{Rule, RuleClass};
use super::space::{DerivationId, Egraph, KindId, tensor_type};
use egg::Id;
use girih_ir::types::DType;
use rayon::prelude::*;
use rustc_hash::{FxHashSet, FxHasher};
use std::hash::{Hash, Hasher};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most e-nodes.
    pub nodes: usize,
    /// Most iterations.
    pub iterations: usize,
    /// Most matches of one rule in one iteration.
    pub matches: usize,
}

/// What saturation did so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// How often each rule joined two classes.
    pub applied: Vec<u32>,
    /// Iterations.
    pub iterations: usize,
    /// Whether the last phase ended because nothing was left to do.
    pub saturated: bool,
    /// Joins whose right side was there already: the joined class and the rule application.
    pub joins: Vec<(Id, usize, Vec<DerivationId>)>,
    /// Applications that were already made, by hash.
    pub seen: FxHashSet<u64>,
}

/// How deep a pattern looks, variables included.
fn depth(pattern: &Pattern) -> u8 {
    match pattern {
        Pattern::Variable(_) | Pattern::Uniform(_) | Pattern::Number { .. } => 0,
        Pattern::Named(_, p) => depth(p),
        Pattern::Op { args, .. } => 1 + args.iter().map(depth).max().unwrap_or(0),
    }
}

const FAR: u8 = u8::MAX;

/// What each class looked like when it was last searched, to see which changed.
#[derive(Default)]
struct Shadow {
    sizes: Vec<(u32, u32)>,
}

impl Shadow {
    /// For each class id, how many steps below it something changed since the last call.
    fn distances(&mut self, egraph: &Egraph, deepest: u8) -> Vec<u8> {
        let count = egraph.nodes().len();
        self.sizes.resize(count, (0, 0));
        let mut distance = vec![FAR; count];
        let mut front: Vec<Id> = Vec::new();
        for class in egraph.classes() {
            let size = (class.nodes.len() as u32, class.parents().len() as u32);
            let old = &mut self.sizes[usize::from(class.id)];
            if *old != size {
                *old = size;
                distance[usize::from(class.id)] = 0;
                front.push(class.id);
            }
        }
        for d in 1..=deepest {
            let mut next = Vec::new();
            for id in &front {
                for parent in egraph[*id].parents() {
                    let parent = egraph.find(parent);
                    let slot = &mut distance[usize::from(parent)];
                    if *slot == FAR {
                        *slot = d;
                        next.push(parent);
                    }
                }
            }
            front = next;
        }
        distance
    }
}

/// Runs rules to saturation or a limit. `within`, indexed by class id, restricts where left sides may start.
pub(super) fn saturate<'r>(
    egraph: &mut Egraph,
    rules: &[(usize, &'r Rule)],
    limits: Limits,
    within: Option<&[bool]>,
    progress: &mut Progress,
) -> Result<(), OptimizeError> {
    let plans: Vec<(usize, &Rule, Vec<KindId>, u8)> = rules.iter().map(|(i, r)| (*i, *r, root_kinds(&r.from), depth(&r.from))).collect();
    let deepest = plans.iter().map(|p| p.3).max().unwrap_or(0);
    let mut shadow = Shadow::default();
    progress.saturated = false;
    for _ in 0..limits.iterations {
        progress.iterations += 1;
        let distances = shadow.distances(egraph, deepest);
        let sets = KindSets::of(egraph);
        let graph: &Egraph = egraph;
        let matches_of = |(index, rule, kinds, depth): &(usize, &'r Rule, Vec<KindId>, u8)| {
            let wanted = |id: Id| {
                let i = usize::from(id);
                let able = match tensor_type(graph, id).dtype {
                    DType::F32 | DType::F64 => true,
                    // So few bits that another order of rounding is another result.
                    DType::BF16 | DType::F16 | DType::F8E4M3FN | DType::F8E5M2 => rule.class == RuleClass::Exact,
                    _ => !rule.composite,
                };
                able && distances[i] <= *depth && within.is_none_or(|w| w.get(i).copied().unwrap_or(false))
            };
            (*index, *rule, search(graph, &sets, rule, kinds, limits.matches, wanted))
        };
        let found: Vec<(usize, &Rule, Vec<Match>)> = plans.par_iter().map(matches_of).collect();
        let mut changed = false;
        for (index, rule, matches) in found {
            for m in matches {
                if egraph.total_size() >= limits.nodes {
                    egraph.rebuild();
                    return check_clash(egraph, rule);
                }
                changed |= apply(egraph, index, rule, &m, progress)?;
            }
            check_clash(egraph, rule)?;
        }
        egraph.rebuild();
        if let Some((_, rule, ..)) = plans.first() {
            check_clash(egraph, rule)?;
        }
        if !changed {
            progress.saturated = true;
            break;
        }
    }
    Ok(())
}

fn search(egraph: &Egraph, sets: &KindSets, rule: &Rule, kinds: &[KindId], limit: usize, wanted: impl Fn(Id) -> bool) -> Vec<Match> {
    let variables = (rule.names.classes.len(), rule.names.attrs.len(), rule.names.ops.len());
    let mut search = Search::new(egraph, sets, &rule.guards, variables, limit);
    for kind in kinds {
        let Some(ids) = egraph.classes_for_op(kind) else { continue };
        let mut ids: Vec<Id> = ids.filter(|id| wanted(*id)).collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            search.at(&rule.from, id);
        }
    }
    search.found
}

/// Applies one match. Returns whether two classes were joined.
fn apply(egraph: &mut Egraph, index: usize, rule: &Rule, m: &Match, progress: &mut Progress) -> Result<bool, OptimizeError> {
    let mut hasher = FxHasher::default();
    (index, m.root, &m.bindings).hash(&mut hasher);
    if !progress.seen.insert(hasher.finish()) {
        return Ok(false);
    }
    let before = egraph.total_size();
    let built = build(egraph, index, &rule.to, m).map_err(|e| OptimizeError::IllTyped { rule: rule.name, why: e.to_string() })?;
    let Some(id) = built else { return Ok(false) };
    let (want, got) = (egraph[m.root].data.ty, egraph[id].data.ty);
    if want != got {
        let space = &egraph.analysis;
        return Err(OptimizeError::Clash { rule: rule.name, want: space.ty(want).to_string(), got: space.ty(got).to_string() });
    }
    let joined = egraph.union(m.root, id);
    if joined {
        progress.applied[index] += 1;
        if egraph.total_size() == before {
            progress.joins.push((m.root, index, m.from.to_vec()));
        }
    }
    Ok(joined)
}

fn check_clash(egraph: &Egraph, rule: &Rule) -> Result<(), OptimizeError> {
    match egraph.analysis.clash {
        None => Ok(()),
        Some((a, b)) => {
            let space = &egraph.analysis;
            Err(OptimizeError::Clash { rule: rule.name, want: space.ty(a).to_string(), got: space.ty(b).to_string() })
        }
    }
}

/// Which classes lie in connected elementwise regions of at most `most` classes.
pub(super) fn small_regions(egraph: &Egraph, most: usize) -> Vec<bool> {
    let count = egraph.nodes().len();
    let mut elementwise = vec![false; count];
    for class in egraph.classes() {
        elementwise[usize::from(class.id)] = class.nodes.iter().any(|n| egraph.analysis.op(n.op).is_elementwise());
    }
    let mut leader: Vec<usize> = (0..count).collect();
    fn find(leader: &mut [usize], mut i: usize) -> usize {
        while leader[i] != i {
            leader[i] = leader[leader[i]];
            i = leader[i];
        }
        i
    }
    for class in egraph.classes().filter(|c| elementwise[usize::from(c.id)]) {
        for child in class.nodes.iter().flat_map(|n| &n.children).filter(|c| elementwise[usize::from(egraph.find(**c))]) {
            let (a, b) = (find(&mut leader, usize::from(class.id)), find(&mut leader, usize::from(egraph.find(*child))));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut sizes = vec![0usize; count];
    for i in (0..count).filter(|i| elementwise[*i]) {
        sizes[find(&mut leader, i)] += 1;
    }
    (0..count).map(|i| elementwise[i] && sizes[find(&mut leader, i)] <= most).collect()
}
