//! Extraction: which e-node stands for each class, so that the shared program as a whole costs least.
//!
//! Tree costs are useless on training graphs, whose trees have more nodes than there are atoms, and any greedy choice misses that forward
//! and backward share values. So several acyclic seeds (the input program among them) are improved by a local search that knows
//! the roots: it changes the e-node of one class at a time and keeps what makes the whole program cheaper.

use super::cost::CostModel;
use super::space::{DerivationId, Egraph, Imported, NOWHERE, OpId, Term, TypeId, below};
use egg::Id;
use girih_ir::ops::Op;
use girih_ir::types::Type;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An e-node of the dense problem.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Its op.
    pub op: OpId,
    /// Its operands, as dense classes, in order.
    pub kids: SmallVec<[u32; 4]>,
    /// Its own cost.
    pub cost: u64,
    /// The rewrite that made it.
    pub made: DerivationId,
}

/// The extraction problem: classes numbered densely.
#[derive(Debug)]
pub(super) struct Problem {
    /// E-graph ids of the classes.
    pub ids: Vec<Id>,
    /// The e-nodes of each class.
    pub candidates: Vec<Vec<Candidate>>,
    /// Classes that the program must have.
    pub roots: Vec<u32>,
    /// For classes that hold a value of the input program: its number and its e-node's position.
    original: Vec<Option<(u32, u32)>>,
}

/// A choice of one e-node for every class, with a topological order that proves it acyclic.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// Position among the candidates.
    pub node: Vec<u32>,
    /// All classes, operands first.
    pub order: Vec<u32>,
    /// Position of each class in `order`.
    pub rank: Vec<u32>,
}

impl Problem {
    /// The problem of an e-graph with these roots.
    pub fn new(imported: &Imported, roots: &[Id], model: &CostModel) -> Self {
        let egraph = &imported.egraph;
        let (ids, dense) = reachable(egraph, roots);
        let mut costs: FxHashMap<(OpId, SmallVec<[TypeId; 4]>), u64> = FxHashMap::default();
        let mut candidates: Vec<Vec<Candidate>> = Vec::with_capacity(ids.len());
        for (i, id) in ids.iter().enumerate() {
            let out = egraph[*id].data.ty;
            let mut list: Vec<Candidate> = Vec::new();
            // The end of a loop names its carries, so a class that holds one stands for just that.
            let is_carry = |t: &Term| matches!(egraph.analysis.op(t.op), Op::Carry(_));
            let carried = egraph[*id].nodes.iter().any(is_carry);
            for term in egraph[*id].nodes.iter().filter(|t| !carried || is_carry(t)) {
                let kids: SmallVec<[u32; 4]> = term.children.iter().map(|c| dense[usize::from(egraph.find(*c))]).collect();
                if kids.contains(&(i as u32)) {
                    continue;
                }
                let types: SmallVec<[TypeId; 4]> = term.children.iter().map(|c| egraph[*c].data.ty).collect();
                let cost = *costs.entry((term.op, types)).or_insert_with_key(|(op, types)| {
                    let ins: SmallVec<[&Type; 4]> = types.iter().map(|t| egraph.analysis.ty(*t)).collect();
                    model.op(egraph.analysis.op(*op), &ins, egraph.analysis.ty(out))
                });
                // What depends on nothing that changes in a loop runs once, whatever it is needed for.
                let cost = cost.saturating_mul(egraph.analysis.runs(below(egraph, &term.children)));
                list.push(Candidate { op: term.op, kids, cost, made: term.made });
            }
            candidates.push(list);
        }
        let mut original: Vec<Option<(u32, u32)>> = vec![None; ids.len()];
        for (value, term) in &imported.terms {
            let id = egraph.find(imported.classes[value.index()].expect("imported values have classes"));
            let class = dense[usize::from(id)];
            if class == NOWHERE || egraph[id].data.original != value.0 {
                continue;
            }
            let kids: SmallVec<[u32; 4]> = term.children.iter().map(|c| dense[usize::from(egraph.find(*c))]).collect();
            let swapped: SmallVec<[u32; 4]> = kids.iter().rev().copied().collect();
            let commutative = egraph.analysis.info(term.op).commutative;
            let same = |c: &Candidate| c.op == term.op && (c.kids == kids || commutative && c.kids == swapped);
            original[class as usize] = candidates[class as usize].iter().position(same).map(|p| (value.0, p as u32));
        }
        let roots = roots.iter().map(|r| dense[usize::from(egraph.find(*r))]).collect();
        Problem { ids, candidates, roots, original }
    }

    /// The input program, completed greedily for classes that it does not have.
    pub fn input_seed(&self) -> Option<Choice> {
        self.greedy(true)
    }

    /// The greedy choice that divides a shared value's cost among its users.
    pub fn greedy_seed(&self) -> Option<Choice> {
        self.greedy(false)
    }

    /// Chooses classes in the order of their cost, each from e-nodes whose operands are chosen, so the result is acyclic.
    fn greedy(&self, keep_input: bool) -> Option<Choice> {
        let n = self.ids.len();
        let mut users: Vec<Vec<(u32, u32)>> = vec![Vec::new(); n];
        let mut missing: Vec<Vec<u32>> = Vec::with_capacity(n);
        let mut fan: Vec<u64> = vec![0; n];
        for (c, list) in self.candidates.iter().enumerate() {
            let mut counts = Vec::with_capacity(list.len());
            let mut below: Vec<u32> = Vec::new();
            for (i, node) in list.iter().enumerate() {
                let mut kids = node.kids.clone();
                kids.sort_unstable();
                kids.dedup();
                kids.iter().for_each(|k| users[*k as usize].push((c as u32, i as u32)));
                counts.push(kids.len() as u32);
                below.extend(kids);
            }
            below.sort_unstable();
            below.dedup();
            below.into_iter().for_each(|k| fan[k as usize] += 1);
            missing.push(counts);
        }
        let mut state = Greedy {
            problem: self,
            users,
            missing,
            fan,
            shared: vec![0; n],
            node: vec![NOWHERE; n],
            order: Vec::new(),
            heap: BinaryHeap::new(),
        };
        if keep_input {
            let mut originals: Vec<(u32, u32, u32)> =
                self.original.iter().enumerate().filter_map(|(c, o)| o.map(|(v, p)| (v, c as u32, p))).collect();
            originals.sort_unstable();
            originals.into_iter().for_each(|(_, c, p)| state.choose(c, p, 0));
        }
        for (c, list) in self.candidates.iter().enumerate() {
            for (i, node) in list.iter().enumerate().filter(|(_, node)| node.kids.is_empty()) {
                state.heap.push(Reverse((node.cost, c as u32, i as u32)));
            }
        }
        while let Some(Reverse((cost, class, node))) = state.heap.pop() {
            if state.node[class as usize] == NOWHERE {
                state.choose(class, node, cost);
            }
        }
        if state.order.len() != n {
            return None;
        }
        let mut rank = vec![0; n];
        state.order.iter().enumerate().for_each(|(i, c)| rank[*c as usize] = i as u32);
        Some(Choice { node: state.node, order: state.order, rank })
    }

    /// The true cost of a choice: every class that the roots need, once.
    pub fn cost(&self, choice: &Choice) -> u64 {
        self.selected(choice)
            .iter()
            .fold(0, |sum, c| sum.saturating_add(self.candidates[*c as usize][choice.node[*c as usize] as usize].cost))
    }

    /// The classes that the roots need, operands first.
    pub fn selected(&self, choice: &Choice) -> Vec<u32> {
        let mut needed = vec![false; self.ids.len()];
        self.roots.iter().for_each(|r| needed[*r as usize] = true);
        for c in choice.order.iter().rev().filter(|c| **c != NOWHERE) {
            if needed[*c as usize] {
                self.candidates[*c as usize][choice.node[*c as usize] as usize].kids.iter().for_each(|k| needed[*k as usize] = true);
            }
        }
        choice.order.iter().copied().filter(|c| needed[*c as usize]).collect()
    }
}

/// Classes that some program from the roots may need, in order of id, and the dense number of each id.
fn reachable(egraph: &Egraph, roots: &[Id]) -> (Vec<Id>, Vec<u32>) {
    let mut seen = vec![false; egraph.nodes().len()];
    let mut todo: Vec<Id> = roots.iter().map(|r| egraph.find(*r)).collect();
    while let Some(id) = todo.pop() {
        if !std::mem::replace(&mut seen[usize::from(id)], true) {
            todo.extend(egraph[id].nodes.iter().flat_map(|n| &n.children).map(|c| egraph.find(*c)).filter(|c| !seen[usize::from(*c)]));
        }
    }
    let ids: Vec<Id> = seen.iter().enumerate().filter(|(_, s)| **s).map(|(i, _)| Id::from(i)).collect();
    let mut dense = vec![NOWHERE; seen.len()];
    ids.iter().enumerate().for_each(|(i, id)| dense[usize::from(*id)] = i as u32);
    (ids, dense)
}

struct Greedy<'p> {
    problem: &'p Problem,
    users: Vec<Vec<(u32, u32)>>,
    missing: Vec<Vec<u32>>,
    fan: Vec<u64>,
    /// A chosen class's cost for one user.
    shared: Vec<u64>,
    node: Vec<u32>,
    order: Vec<u32>,
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

impl Greedy<'_> {
    fn choose(&mut self, class: u32, node: u32, cost: u64) {
        let c = class as usize;
        self.node[c] = node;
        self.shared[c] = cost / self.fan[c].max(1);
        self.order.push(class);
        for (user, i) in std::mem::take(&mut self.users[c]) {
            let left = &mut self.missing[user as usize][i as usize];
            *left -= 1;
            if *left == 0 && self.node[user as usize] == NOWHERE {
                let node = &self.problem.candidates[user as usize][i as usize];
                let cost = node.kids.iter().fold(node.cost, |sum, k| sum.saturating_add(self.shared[*k as usize]));
                self.heap.push(Reverse((cost, user, i)));
            }
        }
    }
}
