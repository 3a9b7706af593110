//! The e-graph over the one `Op` type: what an e-node is, what is known about an e-class, and how a graph gets in.
//!
//! An e-node is an interned op (with its attributes) and its operand classes. Attributes are interned one by one as well, so patterns
//! bind them as cheaply as classes. An e-node remembers the rewrite that made it, which is no part of its identity.

use egg::{Analysis, DidMerge, EGraph, Id, Language};
use girih_ir::attr::Attr;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::newtype_id;
use girih_ir::ops::{InferError, Op};
use girih_ir::scalar::Wide;
use girih_ir::tensor::Tensor;
use girih_ir::types::{TensorType, Type};
use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

newtype_id! {
    /// The name of an op, as its position among all op names.
    KindId, "kind"
}
newtype_id! {
    /// An interned op with its attributes.
    OpId, "op"
}
newtype_id! {
    /// An interned attribute value.
    AttrId, "attr"
}
newtype_id! {
    /// An interned type.
    TypeId, "type"
}
newtype_id! {
    /// An application of a rule; 0 is "was in the input".
    DerivationId, "step"
}

/// No value of the input graph.
pub(super) const NOWHERE: u32 = u32::MAX;

static KINDS: LazyLock<FxHashMap<&'static str, KindId>> =
    LazyLock::new(|| Op::names().into_iter().enumerate().map(|(i, n)| (n, KindId::new(i))).collect());

/// The kind of that name.
pub(super) fn kind(name: &str) -> Option<KindId> {
    KINDS.get(name).copied()
}

/// Attribute names, in order, of the ops with attributes that rules build or take apart.
pub(super) const ATTRIBUTE_NAMES: &[(&str, &[&str])] = &[
    ("broadcast", &["shape", "dims"]),
    ("reshape", &["shape"]),
    ("transpose", &["permutation"]),
    ("reduce", &["monoid", "dims"]),
    ("convert", &["to"]),
    ("dot_general", &["lhs_batch", "rhs_batch", "lhs_contract", "rhs_contract"]),
    ("softmax", &["dim"]),
    ("softmax_grad", &["dim"]),
    ("log_softmax", &["dim"]),
    ("log_softmax_grad", &["dim"]),
    ("layer_norm", &["trailing", "eps"]),
    ("layer_norm_grad", &["trailing", "eps"]),
    ("rms_norm", &["trailing", "eps"]),
    ("rms_norm_grad", &["trailing", "eps"]),
    ("gelu", &["tanh"]),
    ("gelu_grad", &["tanh"]),
];

/// The attribute names of an op that rules know.
pub(super) fn attribute_names(name: &str) -> &'static [&'static str] {
    ATTRIBUTE_NAMES.iter().find(|(n, _)| *n == name).map_or(&[], |(_, a)| a)
}

/// An e-node.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// The op's name.
    pub kind: KindId,
    /// The op with its attributes.
    pub op: OpId,
    /// Operand classes.
    pub children: SmallVec<[Id; 4]>,
    /// The rewrite that made it; not part of its identity.
    pub made: DerivationId,
}

impl Term {
    fn key(&self) -> (KindId, OpId, &[Id]) {
        (self.kind, self.op, &self.children)
    }
}
impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Term {}
impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
impl Hash for Term {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Language for Term {
    type Discriminant = KindId;
    fn discriminant(&self) -> KindId {
        self.kind
    }
    fn matches(&self, other: &Self) -> bool {
        self.op == other.op && self.children.len() == other.children.len()
    }
    fn children(&self) -> &[Id] {
        &self.children
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// Loops of the graph by position, as bits. Loops beyond the 64th are not told apart from none; that only makes estimates coarser.
pub(super) type LoopSet = u64;

/// What is known about an e-class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    /// Its type.
    pub ty: TypeId,
    /// The value of every element, when all are one known number.
    pub uniform: Option<f64>,
    /// The first value of the input graph that is in it, or [`NOWHERE`].
    pub original: u32,
    /// The value of the input graph whose origin it inherits.
    pub origin: u32,
    /// The loops that it depends on, as far as is known.
    pub loops: LoopSet,
}

/// One application of a rule.
#[derive(Clone, Debug)]
pub(super) struct Derivation {
    /// Index of the rule.
    pub rule: u32,
    /// The applications that made the matched e-nodes.
    pub from: SmallVec<[DerivationId; 4]>,
}

/// What the interner knows about an op.
#[derive(Clone, Debug)]
pub(super) struct OpInfo {
    /// Its name.
    pub kind: KindId,
    /// Its attributes in order.
    pub attrs: SmallVec<[AttrId; 4]>,
    /// Whether its two operands may be swapped.
    pub commutative: bool,
}

/// The interners and the analysis of the e-graph.
#[derive(Debug)]
pub(super) struct Space {
    ops: IndexSet<Op, FxBuildHasher>,
    infos: Vec<OpInfo>,
    attrs: IndexSet<Attr, FxBuildHasher>,
    types: IndexSet<Type, FxBuildHasher>,
    by_attrs: FxHashMap<(KindId, SmallVec<[AttrId; 4]>), Option<OpId>>,
    inferred: FxHashMap<(OpId, SmallVec<[TypeId; 4]>), TypeId>,
    next: Fact,
    /// The first two types that were found in one class.
    pub clash: Option<(TypeId, TypeId)>,
    /// Applications so far; the first entry stands for the input.
    pub derivations: Vec<Derivation>,
    /// The bit of each loop, by its id.
    loop_bits: FxHashMap<usize, LoopSet>,
    /// For each loop: how often it runs, and the loops around it.
    loops: Vec<(u64, LoopSet)>,
}

/// How often a `while` is taken to run.
pub(super) const WHILE_RUNS: usize = 8;

/// The e-graph.
pub(super) type Egraph = EGraph<Term, Space>;

impl Analysis<Term> for Space {
    type Data = Fact;
    fn make(egraph: &mut Egraph, _: &Term, _: Id) -> Fact {
        egraph.analysis.next
    }
    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        if a.ty != b.ty && self.clash.is_none() {
            self.clash = Some((a.ty, b.ty));
        }
        a.uniform = a.uniform.or(b.uniform);
        a.original = a.original.min(b.original);
        a.origin = a.origin.min(b.origin);
        a.loops &= b.loops;
        // No parent's facts are derived from these again, so nothing has to be propagated.
        DidMerge(false, false)
    }
}

impl Space {
    /// Empty interners.
    pub fn new() -> Self {
        Space {
            ops: IndexSet::default(),
            infos: Vec::new(),
            attrs: IndexSet::default(),
            types: IndexSet::default(),
            by_attrs: FxHashMap::default(),
            inferred: FxHashMap::default(),
            next: Fact { ty: TypeId(0), uniform: None, original: NOWHERE, origin: NOWHERE, loops: 0 },
            clash: None,
            loop_bits: FxHashMap::default(),
            loops: Vec::new(),
            derivations: vec![Derivation { rule: u32::MAX, from: SmallVec::new() }],
        }
    }

    /// Learns the loops of a graph.
    fn set_loops(&mut self, nest: &LoopNest) {
        let bit = |l: usize| if l < 64 { 1 << l } else { 0 };
        let around = |l: usize| std::iter::successors(nest.loops[l].parent, |l| nest.loops[*l].parent).map(bit).fold(0, |a, b| a | b);
        self.loop_bits = nest.loops.iter().enumerate().map(|(l, of)| (of.id, bit(l))).collect();
        self.loops = nest.loops.iter().enumerate().map(|(l, of)| (of.trips.unwrap_or(WHILE_RUNS) as u64, around(l))).collect();
    }

    /// How often something runs that depends on these loops.
    pub fn runs(&self, set: LoopSet) -> u64 {
        let inside = |l: &usize| *l < 64 && set & (1 << l) != 0;
        let all = (0..self.loops.len()).filter(inside).fold(set, |all, l| all | self.loops[l].1);
        (0..self.loops.len()).filter(|l| *l < 64 && all & (1 << l) != 0).fold(1u64, |n, l| n.saturating_mul(self.loops[l].0))
    }

    /// The loops that an op on these operands depends on.
    fn loops_of(&self, op: OpId, below: LoopSet) -> LoopSet {
        let bit = |id: usize| self.loop_bits.get(&id).copied().unwrap_or(0);
        match self.op(op) {
            Op::Carry(c) => below | bit(c.loop_id),
            Op::LoopIndex(i) => below | bit(i.loop_id),
            Op::Repeat(r) => below & !bit(r.loop_id),
            Op::While(w) => below & !bit(w.loop_id),
            _ => below,
        }
    }

    /// The op of an id.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.index()]
    }
    /// Name and attributes of an op.
    pub fn info(&self, id: OpId) -> &OpInfo {
        &self.infos[id.index()]
    }
    /// The attribute of an id.
    pub fn attr(&self, id: AttrId) -> &Attr {
        &self.attrs[id.index()]
    }
    /// The type of an id.
    pub fn ty(&self, id: TypeId) -> &Type {
        &self.types[id.index()]
    }

    /// Interns an op.
    pub fn intern_op(&mut self, op: Op) -> OpId {
        if let Some(i) = self.ops.get_index_of(&op) {
            return OpId::new(i);
        }
        let kind = KINDS.get(op.name()).copied().expect("every op has a registered name");
        let attrs = op.attrs().into_iter().map(|(_, a)| self.intern_attr(a)).collect();
        let commutative = matches!(&op, Op::Binary(b) if b.0.is_commutative());
        self.infos.push(OpInfo { kind, attrs, commutative });
        OpId::new(self.ops.insert_full(op).0)
    }

    /// Interns an attribute.
    pub fn intern_attr(&mut self, attr: Attr) -> AttrId {
        AttrId::new(self.attrs.insert_full(attr).0)
    }

    /// Interns a type.
    pub fn intern_type(&mut self, ty: &Type) -> TypeId {
        match self.types.get_index_of(ty) {
            Some(i) => TypeId::new(i),
            None => TypeId::new(self.types.insert_full(ty.clone()).0),
        }
    }

    /// The op of that name with these attributes; `None` when they do not make one.
    pub fn assemble(&mut self, name: &'static str, attrs: SmallVec<[AttrId; 4]>) -> Option<OpId> {
        let key = (kind(name)?, attrs);
        if let Some(known) = self.by_attrs.get(&key) {
            return *known;
        }
        let names = attribute_names(name);
        let named: Vec<(String, Attr)> = names.iter().zip(&key.1).map(|(n, a)| (n.to_string(), self.attr(*a).clone())).collect();
        let made = Op::parse(name, &named).and_then(Result::ok).map(|op| self.intern_op(op));
        self.by_attrs.insert(key, made);
        made
    }

    fn infer(&mut self, op: OpId, operands: SmallVec<[TypeId; 4]>) -> Result<TypeId, InferError> {
        let key = (op, operands);
        if let Some(known) = self.inferred.get(&key) {
            return Ok(*known);
        }
        let ty = {
            let types: SmallVec<[&Type; 4]> = key.1.iter().map(|t| self.ty(*t)).collect();
            self.op(op).infer(&types)?
        };
        let id = self.intern_type(&ty);
        self.inferred.insert(key, id);
        Ok(id)
    }
}

/// The number that every element of a literal is, when they are all equal and exact in f64.
fn uniform_literal(literal: &girih_ir::literal::Literal) -> Option<f64> {
    let (bytes, size) = (literal.bytes(), literal.ty().dtype.size());
    let first = bytes.get(..size)?;
    if bytes.chunks_exact(size).any(|c| c != first) {
        return None;
    }
    let one = girih_ir::literal::Literal::new(TensorType::scalar(literal.ty().dtype), first.to_vec()).ok()?;
    let value = Tensor::from_literal(&one).floats()[0];
    (literal.ty().dtype.is_float() || value.abs() <= (1u64 << 53) as f64).then_some(value)
}

/// The number that every element of a new e-node is, when that is known.
fn uniform(egraph: &Egraph, op: OpId, children: &[Id]) -> Option<f64> {
    match egraph.analysis.op(op) {
        Op::Constant(c) => uniform_literal(&c.value),
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => egraph[children[0]].data.uniform,
        Op::Unary(_) | Op::Binary(_) => folded(egraph, op, children),
        _ => None,
    }
}

/// The number that an elementwise function of known float numbers is.
pub(super) fn folded(egraph: &Egraph, op: OpId, children: &[Id]) -> Option<f64> {
    let known = |i: usize| egraph[*children.get(i)?].data.uniform.map(Wide::F);
    let dtype = tensor_type(egraph, *children.first()?).dtype;
    let value = match egraph.analysis.op(op) {
        Op::Unary(f) if dtype.is_float() && f.0.result(dtype) == Some(dtype) => f.0.eval(dtype, known(0)?),
        Op::Binary(f) if dtype.is_float() => f.0.eval(dtype, known(0)?, known(1)?),
        _ => return None,
    };
    Some(value.float()).filter(|v| !v.is_nan())
}

/// An e-node. The operands of a commutative op are put in order, so that both orders are one e-node.
fn term(egraph: &Egraph, op: OpId, children: &[Id], made: DerivationId) -> Term {
    let info = egraph.analysis.info(op);
    let mut children = SmallVec::from_slice(children);
    if info.commutative && children[0] > children[1] {
        children.swap(0, 1);
    }
    Term { kind: info.kind, op, children, made }
}

/// Adds an e-node that a rewrite makes.
pub(super) fn add(egraph: &mut Egraph, op: OpId, children: &[Id], made: DerivationId, origin: u32) -> Result<Id, InferError> {
    let types = children.iter().map(|c| egraph[*c].data.ty).collect();
    let ty = egraph.analysis.infer(op, types)?;
    let uniform = uniform(egraph, op, children);
    let canonical: SmallVec<[Id; 4]> = children.iter().map(|c| egraph.find(*c)).collect();
    let term = term(egraph, op, &canonical, made);
    let loops = egraph.analysis.loops_of(op, below(egraph, &canonical));
    egraph.analysis.next = Fact { ty, uniform, original: NOWHERE, origin, loops };
    Ok(egraph.add(term))
}

/// The loops that some class depends on.
pub(super) fn below(egraph: &Egraph, children: &[Id]) -> LoopSet {
    children.iter().fold(0, |set, c| set | egraph[*c].data.loops)
}

/// The tensor type of a class; for a tuple, its first component.
pub(super) fn tensor_type(egraph: &Egraph, id: Id) -> &TensorType {
    &egraph.analysis.ty(egraph[id].data.ty).components()[0]
}

/// A graph as an e-graph.
pub(super) struct Imported {
    /// The e-graph.
    pub egraph: Egraph,
    /// The class of each live value, as it was then.
    pub classes: Vec<Option<Id>>,
    /// The e-node of each live value, in order.
    pub terms: Vec<(ValueId, Term)>,
}

/// A graph as an e-graph; dead values stay behind.
pub(super) fn import(graph: &Graph) -> Imported {
    let mut egraph = Egraph::new(Space::new());
    egraph.analysis.set_loops(&LoopNest::of(graph).unwrap_or_default());
    let mut terms = Vec::new();
    let mut map: Vec<Option<Id>> = vec![None; graph.nodes().len()];
    let live = graph.live();
    for value in graph.values().filter(|v| live[v.index()]) {
        let node = graph.node(value);
        let children: SmallVec<[Id; 4]> =
            node.operands.iter().map(|o| map[o.index()].expect("operands of live values are live and come first")).collect();
        let op = egraph.analysis.intern_op(node.op.clone());
        let ty = egraph.analysis.intern_type(&node.ty);
        let uniform = uniform(&egraph, op, &children);
        let term = term(&egraph, op, &children, DerivationId(0));
        terms.push((value, term.clone()));
        let loops = egraph.analysis.loops_of(op, below(&egraph, &children));
        egraph.analysis.next = Fact { ty, uniform, original: value.0, origin: value.0, loops };
        map[value.index()] = Some(egraph.add(term));
    }
    egraph.rebuild();
    Imported { egraph, classes: map, terms }
}

/// The value of the input graph that gives a class its origin.
pub(super) fn origin_of(egraph: &Egraph, id: Id) -> Option<ValueId> {
    let origin = egraph[id].data.origin;
    (origin != NOWHERE).then_some(ValueId(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::ops::{
        broadcast::Broadcast, dot_general::DotGeneral, gelu::Gelu, layer_norm::LayerNorm, reduce::Reduce, reshape::Reshape,
    };
    use girih_ir::types::Dims;

    #[test]
    fn attribute_names_are_those_of_the_ops() {
        let examples: Vec<Op> = vec![
            Broadcast { shape: Dims::new(), dims: vec![] }.into(),
            Reshape { shape: Dims::new() }.into(),
            Reduce { monoid: girih_ir::scalar::Monoid::Sum, dims: vec![] }.into(),
            DotGeneral::matmul(2, 0, 0).into(),
            Gelu { tanh: true }.into(),
            LayerNorm { trailing: 1, eps: girih_ir::attr::Real::new(0.0) }.into(),
        ];
        for op in examples {
            let names: Vec<&str> = op.attrs().into_iter().map(|(n, _)| n).collect();
            assert_eq!(attribute_names(op.name()), names, "{}", op.name());
        }
        for (name, _) in ATTRIBUTE_NAMES {
            assert!(kind(name).is_some(), "there is no op {name}");
        }
    }
}
