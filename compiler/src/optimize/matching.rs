//! E-matching: every way in which a pattern is present in the e-graph.
//!
//! Backtracking over a stack-allocated list of what is still to be matched. Commutative ops are tried both ways around, so no rule has to
//! say an operand order twice and no general commutativity rule fills the e-graph. Shared operands are joined by walking down from
//! the root, so no search ever scans all classes.

use super::functions::{Scope, holds};
use super::pattern::{AttrPattern, Family, Guard, Head, Pattern};
use super::space::{AttrId, DerivationId, Egraph, KindId, OpId, Term, tensor_type};
use egg::Id;
use girih_ir::ops::Op;
use girih_ir::scalar::UnaryFn;
use girih_ir::types::DType;
use smallvec::SmallVec;

/// What the variables of a pattern stand for.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Bindings {
    /// Classes.
    pub classes: SmallVec<[Option<Id>; 6]>,
    /// Attributes.
    pub attrs: SmallVec<[Option<AttrId>; 8]>,
    /// Ops.
    pub ops: SmallVec<[Option<OpId>; 1]>,
}

/// A match of a rule.
#[derive(Clone, Debug)]
pub(super) struct Match {
    /// The class that the left side stands for.
    pub root: Id,
    /// What the variables stand for.
    pub bindings: Bindings,
    /// The rewrites that made the matched e-nodes.
    pub from: SmallVec<[DerivationId; 4]>,
}

struct Todo<'a> {
    pattern: &'a Pattern,
    id: Id,
    next: Option<&'a Todo<'a>>,
}

/// Most steps of the search at one root. Where sums in both orders fill their classes, a deep pattern has more ways to try than are
/// worth it; what is found until then is the same on every machine.
const STEPS: usize = 20_000;

/// Which kinds of ops each class has, as a small set that may say yes where the answer is no: most steps of a search end here.
#[derive(Clone, Debug)]
pub(super) struct KindSets(Vec<u64>);

impl KindSets {
    /// Those of an e-graph as it is now.
    pub fn of(egraph: &Egraph) -> Self {
        let mut sets = vec![0u64; egraph.nodes().len()];
        for class in egraph.classes() {
            sets[usize::from(class.id)] = class.nodes.iter().fold(0, |set, n| set | Self::bit(n.kind));
        }
        KindSets(sets)
    }

    fn bit(kind: KindId) -> u64 {
        1 << (kind.index() % 64)
    }

    fn may_have(&self, id: Id, head: Head) -> bool {
        match head {
            Head::Kind { kind, .. } => self.0[usize::from(id)] & Self::bit(kind) != 0,
            Head::Family(..) => true,
        }
    }
}

/// A search for one pattern.
pub(super) struct Search<'e> {
    egraph: &'e Egraph,
    kinds: &'e KindSets,
    guards: &'e [Guard],
    limit: usize,
    root: Id,
    bindings: Bindings,
    from: SmallVec<[DerivationId; 4]>,
    /// Steps that are left for the current root.
    steps: usize,
    /// What was found.
    pub found: Vec<Match>,
}

/// Whether a number of a class is this number, up to what rounding to the element type and a few operations may have made of it.
pub(super) fn is_near(value: f64, wanted: f64, dtype: DType) -> bool {
    let tolerance = match dtype {
        DType::F64 => 1e-12,
        DType::BF16 | DType::F16 => 8e-3,
        _ => 4e-7,
    };
    (value - wanted).abs() <= tolerance * wanted.abs()
}

impl<'e> Search<'e> {
    /// A search for a pattern with these numbers of variables.
    pub fn new(egraph: &'e Egraph, kinds: &'e KindSets, guards: &'e [Guard], variables: (usize, usize, usize), limit: usize) -> Self {
        let bindings = Bindings {
            classes: SmallVec::from_elem(None, variables.0),
            attrs: SmallVec::from_elem(None, variables.1),
            ops: SmallVec::from_elem(None, variables.2),
        };
        Search { egraph, kinds, guards, limit, root: Id::from(0usize), bindings, from: SmallVec::new(), steps: 0, found: Vec::new() }
    }

    /// Finds every match whose root is this class.
    pub fn at(&mut self, pattern: &Pattern, root: Id) {
        self.root = root;
        self.steps = STEPS;
        self.step(Some(&Todo { pattern, id: root, next: None }));
    }

    fn step(&mut self, todo: Option<&Todo<'_>>) {
        let Some(t) = todo else {
            let scope = Scope { egraph: self.egraph, bindings: &self.bindings };
            if self.guards.iter().all(|g| holds(&scope, g)) {
                self.found.push(Match { root: self.root, bindings: self.bindings.clone(), from: self.from.clone() });
            }
            return;
        };
        if self.found.len() >= self.limit || self.steps == 0 {
            return;
        }
        self.steps -= 1;
        match t.pattern {
            Pattern::Variable(v) => self.bind(*v, t.id, t.next),
            Pattern::Uniform(v) if self.egraph[t.id].data.uniform.is_some() => self.bind(*v, t.id, t.next),
            Pattern::Uniform(_) => {}
            Pattern::Number { value, near } => {
                let found = self.egraph[t.id].data.uniform;
                let fits = |v: f64| v == *value || *near && is_near(v, *value, tensor_type(self.egraph, t.id).dtype);
                if found.is_some_and(fits) {
                    self.step(t.next);
                }
            }
            Pattern::Named(v, inner) => self.bind(*v, t.id, Some(&Todo { pattern: inner, id: t.id, next: t.next })),
            Pattern::Op { head, .. } if !self.kinds.may_have(t.id, *head) => {}
            Pattern::Op { head, attrs, args } => {
                let egraph = self.egraph;
                for node in &egraph[t.id].nodes {
                    self.node(node, *head, attrs, args, t.next);
                }
            }
        }
    }

    fn bind(&mut self, variable: usize, id: Id, next: Option<&Todo<'_>>) {
        match self.bindings.classes[variable] {
            Some(bound) if bound == id => self.step(next),
            Some(_) => {}
            None => {
                self.bindings.classes[variable] = Some(id);
                self.step(next);
                self.bindings.classes[variable] = None;
            }
        }
    }

    fn node(&mut self, node: &Term, head: Head, attrs: &[AttrPattern], args: &[Pattern], next: Option<&Todo<'_>>) {
        let mut swappable = false;
        let mut bound_op = None;
        match head {
            Head::Kind { kind, commutative, .. } => {
                if node.kind != kind || node.children.len() != args.len() {
                    return;
                }
                swappable = commutative && node.children[0] != node.children[1];
            }
            Head::Family(family, slot) => {
                if !in_family(self.egraph.analysis.op(node.op), family) {
                    return;
                }
                match self.bindings.ops[slot] {
                    Some(op) if op != node.op => return,
                    Some(_) => {}
                    None => {
                        self.bindings.ops[slot] = Some(node.op);
                        bound_op = Some(slot);
                    }
                }
            }
        }
        let mut bound: SmallVec<[usize; 4]> = SmallVec::new();
        if self.attributes(node.op, attrs, &mut bound) {
            let depth = self.from.len();
            if node.made.0 != 0 {
                self.from.push(node.made);
            }
            self.arguments(args, &node.children, next);
            if swappable {
                let swapped = [node.children[1], node.children[0]];
                self.arguments(args, &swapped, next);
            }
            self.from.truncate(depth);
        }
        bound.into_iter().for_each(|v| self.bindings.attrs[v] = None);
        if let Some(slot) = bound_op {
            self.bindings.ops[slot] = None;
        }
    }

    fn attributes(&mut self, op: OpId, attrs: &[AttrPattern], bound: &mut SmallVec<[usize; 4]>) -> bool {
        let egraph = self.egraph;
        let have = &egraph.analysis.info(op).attrs;
        if !attrs.is_empty() && attrs.len() != have.len() {
            return false;
        }
        attrs.iter().zip(have).all(|(pattern, attr)| match pattern {
            AttrPattern::Literal(l) => egraph.analysis.attr(*attr) == l,
            AttrPattern::Variable(v) => match self.bindings.attrs[*v] {
                Some(known) => known == *attr,
                None => {
                    self.bindings.attrs[*v] = Some(*attr);
                    bound.push(*v);
                    true
                }
            },
        })
    }

    fn arguments(&mut self, args: &[Pattern], ids: &[Id], next: Option<&Todo<'_>>) {
        match (args.split_last(), ids.split_last()) {
            (Some((pattern, args)), Some((id, ids))) => self.arguments(args, ids, Some(&Todo { pattern, id: *id, next })),
            _ => self.step(next),
        }
    }
}

/// Whether an op belongs to a family.
pub(super) fn in_family(op: &Op, family: Family) -> bool {
    match (op, family) {
        (Op::Unary(u), Family::Unary) => !matches!(u.0, UnaryFn::IsFinite | UnaryFn::IsNan | UnaryFn::IsInf),
        (Op::Binary(_), Family::Binary) => true,
        _ => false,
    }
}

/// Kinds of ops at which a pattern can start.
pub(super) fn root_kinds(pattern: &Pattern) -> Vec<super::space::KindId> {
    use super::space::kind;
    use girih_ir::scalar::BinaryFn;
    match pattern {
        Pattern::Named(_, p) => root_kinds(p),
        Pattern::Op { head: Head::Kind { kind, .. }, .. } => vec![*kind],
        Pattern::Op { head: Head::Family(Family::Unary, _), .. } => UnaryFn::NAMES.iter().filter_map(|n| kind(n)).collect(),
        Pattern::Op { head: Head::Family(Family::Binary, _), .. } => BinaryFn::NAMES.iter().filter_map(|n| kind(n)).collect(),
        _ => Vec::new(),
    }
}
