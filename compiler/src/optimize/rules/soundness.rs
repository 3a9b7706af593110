//! One test that walks all rules: samples are generated from the left side, from the result type down; the rule is applied as the
//! optimizer applies it; both sides are run by the interpreter and compared.

use super::{Rule, RuleClass, all};
use crate::optimize::apply::build;
use crate::optimize::matching::{KindSets, Search, in_family};
use crate::optimize::pattern::{AttrPattern, Family, Head, Pattern};
use crate::optimize::space::{Imported, import};
use egg::Id;
use girih_ir::attr::Attr;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::interp;
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::{Binary, Unary};
use girih_ir::scalar::{BinaryFn, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
    fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        (1..n).for_each(|i| p.swap(i, self.below(i + 1)));
        p
    }
}

/// Grows a graph that a pattern matches.
struct Sampler<'r> {
    random: Random,
    graph: Graph,
    classes: Vec<Option<ValueId>>,
    attrs: Vec<Option<Attr>>,
    ops: Vec<Option<Op>>,
    definitions: Vec<Option<&'r Pattern>>,
}

fn ints(v: &[usize]) -> Attr {
    Attr::Ints(v.iter().map(|x| *x as i64).collect())
}
fn dims(a: &Attr) -> Vec<usize> {
    match a {
        Attr::Ints(v) => v.iter().map(|x| *x as usize).collect(),
        _ => Vec::new(),
    }
}

fn definitions<'r>(p: &'r Pattern, out: &mut Vec<Option<&'r Pattern>>) {
    match p {
        Pattern::Named(v, inner) => {
            out[*v] = Some(inner);
            definitions(inner, out);
        }
        Pattern::Op { args, .. } => args.iter().for_each(|a| definitions(a, out)),
        _ => {}
    }
}

impl<'r> Sampler<'r> {
    fn new(rule: &'r Rule, seed: u64) -> Self {
        let mut defs = vec![None; rule.names.classes.len()];
        definitions(&rule.from, &mut defs);
        Sampler {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            graph: Graph::new("sample"),
            classes: vec![None; rule.names.classes.len()],
            attrs: vec![None; rule.names.attrs.len()],
            ops: vec![None; rule.names.ops.len()],
            definitions: defs,
        }
    }

    /// The attribute at a position, when it is a literal or bound.
    fn known(&self, attrs: &[AttrPattern], i: usize) -> Option<Attr> {
        match attrs.get(i)? {
            AttrPattern::Literal(a) => Some(a.clone()),
            AttrPattern::Variable(v) => self.attrs[*v].clone(),
        }
    }

    fn known_type(&self, p: &Pattern) -> Option<TensorType> {
        match p {
            Pattern::Variable(v) | Pattern::Named(v, _) if self.classes[*v].is_some() => {
                self.classes[*v].map(|c| self.graph.tensor_ty(c).clone())
            }
            Pattern::Named(_, inner) => self.known_type(inner),
            Pattern::Op { head: Head::Kind { name, .. }, args, .. }
                if UnaryFn::from_name(name).is_some() || BinaryFn::from_name(name).is_some() =>
            {
                args.iter().find_map(|a| self.known_type(a))
            }
            _ => None,
        }
    }

    fn value(&mut self, p: &'r Pattern, want: &TensorType) -> Option<ValueId> {
        match p {
            Pattern::Variable(v) | Pattern::Named(v, _) => {
                if self.classes[*v].is_none() {
                    let made = match self.definitions[*v] {
                        Some(inner) => self.value(inner, want)?,
                        None if want.rank() > 0 && self.random.chance(4) => {
                            let last = want.rank() - 1;
                            let x = self.graph.input(format!("x{v}"), TensorType::new(want.dtype, &want.shape[last..]), Role::Data);
                            self.graph.broadcast(x, &want.shape, &[last])
                        }
                        None => self.graph.input(format!("x{v}"), want.clone(), Role::Data),
                    };
                    self.classes[*v] = Some(made);
                }
                self.classes[*v].filter(|c| self.graph.tensor_ty(*c) == want)
            }
            Pattern::Uniform(v) => {
                if self.classes[*v].is_none() {
                    let n = self.random.pick(&[0.5, 0.25, 1.0 / 3.0, 1.0 / 6.0, 2.0, -1.5, 0.3, 1e-3, 0.0]);
                    self.classes[*v] = Some(self.graph.splat(want, n));
                }
                self.classes[*v].filter(|c| self.graph.tensor_ty(*c) == want)
            }
            Pattern::Number { value, .. } => Some(self.graph.splat(want, *value)),
            Pattern::Op { head, attrs, args } => {
                let op = match head {
                    Head::Family(family, slot) => return self.family(*family, *slot, args, want),
                    Head::Kind { name, .. } => *name,
                };
                let (values, types) = self.operands(op, attrs, args, want)?;
                for (pattern, value) in attrs.iter().zip(&values) {
                    if let AttrPattern::Variable(v) = pattern {
                        match &self.attrs[*v] {
                            Some(known) if known != value => return None,
                            _ => self.attrs[*v] = Some(value.clone()),
                        }
                    }
                }
                let mut operands = Vec::new();
                for (arg, ty) in args.iter().zip(&types) {
                    operands.push(self.value(arg, ty)?);
                }
                let names = crate::optimize::space::attribute_names(op);
                let named: Vec<(String, Attr)> = names.iter().map(|n| n.to_string()).zip(values).collect();
                let op = Op::parse(op, &named)?.ok()?;
                self.graph.add(op, &operands).ok().filter(|v| self.graph.tensor_ty(*v) == want)
            }
        }
    }

    fn family(&mut self, family: Family, slot: usize, args: &'r [Pattern], want: &TensorType) -> Option<ValueId> {
        let op = match &self.ops[slot] {
            Some(op) => op.clone(),
            None => match family {
                Family::Unary => Op::Unary(Unary(self.random.pick(UnaryFn::ALL))),
                Family::Binary => Op::Binary(Binary(self.random.pick(BinaryFn::ALL))),
            },
        };
        assert!(in_family(&op, family) || matches!(&op, Op::Unary(_)));
        self.ops[slot] = Some(op.clone());
        let mut operands = Vec::new();
        for a in args {
            operands.push(self.value(a, want)?);
        }
        self.graph.add(op, &operands).ok().filter(|v| self.graph.tensor_ty(*v) == want)
    }

    /// Attribute values and operand types of an op with this result type.
    fn operands(&mut self, op: &str, attrs: &[AttrPattern], args: &[Pattern], want: &TensorType) -> Option<(Vec<Attr>, Vec<TensorType>)> {
        let of = |shape: &[usize]| TensorType::new(want.dtype, shape);
        let rank = want.rank();
        match op {
            "broadcast" => {
                let to = match (self.known(attrs, 1), self.known_type(&args[0])) {
                    (Some(d), _) => dims(&d),
                    (None, Some(t)) => {
                        let mut all = subsets(rank);
                        all.retain(|s| s.iter().map(|d| want.shape[*d]).eq(t.shape.iter().copied()));
                        if all.is_empty() { return None } else { self.random.pick(&all) }
                    }
                    (None, None) if self.random.chance(2) => (0..self.random.below(rank + 1)).collect(),
                    (None, None) => {
                        let mut s = self.random.pick(&subsets(rank));
                        if self.random.chance(4) && s.len() > 1 {
                            let n = s.len();
                            s.swap(0, n - 1);
                        }
                        s
                    }
                };
                let mut shape: Vec<usize> = to.iter().map(|d| want.shape.get(*d).copied()).collect::<Option<_>>()?;
                if !shape.is_empty() && self.random.chance(6) {
                    let i = self.random.below(shape.len());
                    shape[i] = 1;
                }
                let shape = self.known_type(&args[0]).map_or(shape, |t| t.shape.to_vec());
                Some((vec![ints(&want.shape), ints(&to)], vec![of(&shape)]))
            }
            "reshape" => {
                let mut shape = want.shape.to_vec();
                match self.random.below(4) {
                    0 => shape.insert(self.random.below(rank + 1), 1),
                    1 if rank > 1 => {
                        let i = self.random.below(rank - 1);
                        let e = shape.remove(i);
                        shape[i] *= e;
                    }
                    2 => shape.retain(|e| *e != 1),
                    _ => {}
                }
                let shape = self.known_type(&args[0]).map_or(shape, |t| t.shape.to_vec());
                Some((vec![ints(&want.shape)], vec![of(&shape)]))
            }
            "transpose" => {
                let p = match self.known(attrs, 0) {
                    Some(p) => dims(&p),
                    None if self.random.chance(4) => (0..rank).collect(),
                    None => self.random.shuffled(rank),
                };
                if p.len() != rank {
                    return None;
                }
                let mut shape = vec![0; rank];
                p.iter().enumerate().for_each(|(i, d)| shape[*d] = want.shape[i]);
                Some((vec![ints(&p)], vec![of(&shape)]))
            }
            "reduce" => {
                let monoid = self.known(attrs, 0).unwrap_or_else(|| Attr::Word(self.random.pick(&["sum", "max", "min"]).into()));
                let (gone, shape) = match (self.known(attrs, 1), self.known_type(&args[0])) {
                    (known, Some(t)) => {
                        let mut all = subsets(t.rank());
                        all.retain(|s| known.as_ref().is_none_or(|k| dims(k) == *s));
                        all.retain(|s| (0..t.rank()).filter(|d| !s.contains(d)).map(|d| t.shape[d]).eq(want.shape.iter().copied()));
                        (if all.is_empty() { return None } else { self.random.pick(&all) }, t.shape.to_vec())
                    }
                    (Some(d), None) => {
                        let d = dims(&d);
                        let mut kept = want.shape.iter();
                        let shape = (0..rank + d.len())
                            .map(|i| if d.contains(&i) { Some(self.random.below(3) + 1) } else { kept.next().copied() })
                            .collect::<Option<Vec<_>>>()?;
                        (d, shape)
                    }
                    (None, None) => {
                        let mut all = subsets(rank + 1 + self.random.below(2));
                        all.retain(|s| !s.is_empty());
                        let total = all.last().map_or(0, Vec::len);
                        all.retain(|s| total - s.len() == rank);
                        let d = self.random.pick(&all);
                        let units = self.random.chance(3);
                        let mut kept = want.shape.iter();
                        let extent = |r: &mut Random| if units { 1 } else { r.below(3) + 1 };
                        let shape = (0..total)
                            .map(|i| if d.contains(&i) { Some(extent(&mut self.random)) } else { kept.next().copied() })
                            .collect::<Option<Vec<_>>>()?;
                        (d, shape)
                    }
                };
                Some((vec![monoid, ints(&gone)], vec![of(&shape)]))
            }
            "convert" => {
                let from = self.random.pick(&[DType::F32, DType::F64, DType::BF16]);
                Some((vec![Attr::DType(want.dtype)], vec![want.with_dtype(from)]))
            }
            "dot_general" => self.product(attrs, args, want),
            "softmax" | "log_softmax" | "softmax_grad" | "log_softmax_grad" => {
                let dim = self.known(attrs, 0).unwrap_or(Attr::Int(self.random.below(rank) as i64));
                Some((vec![dim], vec![want.clone(); args.len()]))
            }
            "eq" => {
                let of = args.iter().find_map(|a| self.known_type(a));
                Some((Vec::new(), vec![of.unwrap_or_else(|| want.with_dtype(DType::F64)); 2]))
            }
            "select" => Some((Vec::new(), vec![want.with_dtype(DType::Bool), want.clone(), want.clone()])),
            _ => Some((Vec::new(), vec![want.clone(); args.len()])),
        }
    }

    fn product(&mut self, attrs: &[AttrPattern], args: &[Pattern], want: &TensorType) -> Option<(Vec<Attr>, Vec<TensorType>)> {
        let rank = want.rank();
        let known = [self.known_type(&args[0]), self.known_type(&args[1])];
        let lists: Vec<Vec<usize>> = match self.known(attrs, 0) {
            Some(_) => (0..4).map(|i| self.known(attrs, i).map(|a| dims(&a))).collect::<Option<_>>()?,
            None => {
                let batch = self.random.below(rank.min(2) + 1);
                let left = self.random.below(rank - batch + 1);
                let depth = 1 + self.random.below(2);
                let (p, q) = (self.random.shuffled(batch + left + depth), self.random.shuffled(rank - left + depth));
                vec![p[..batch].to_vec(), q[..batch].to_vec(), p[batch..batch + depth].to_vec(), q[batch..batch + depth].to_vec()]
            }
        };
        let (batch, depth) = (lists[0].len(), lists[2].len());
        let left = match (&known[0], &known[1]) {
            (Some(t), _) => t.rank().checked_sub(batch + depth)?,
            (None, Some(t)) => rank.checked_sub(t.rank() - depth)?,
            (None, None) => {
                // All positions of the left operand that the lists do not name below their largest are free.
                let most = lists[0].iter().chain(&lists[2]).max().map_or(0, |m| m + 1);
                (most - batch - depth).max(rank.checked_sub(batch)?.min(self.random.below(3)))
            }
        };
        let right = rank.checked_sub(batch + left)?;
        let extents: Vec<usize> = (0..depth)
            .map(|i| match &known {
                [Some(t), _] => t.shape.get(lists[2][i]).copied().unwrap_or(1),
                [_, Some(t)] => t.shape.get(lists[3][i]).copied().unwrap_or(1),
                _ => self.random.below(3) + 1,
            })
            .collect();
        let shape = |b: &[usize], c: &[usize], free: &[usize]| {
            let mut free = free.iter();
            (0..b.len() + c.len() + free.len())
                .map(|d| match (b.iter().position(|x| *x == d), c.iter().position(|x| *x == d)) {
                    (Some(i), _) => Some(want.shape[i]),
                    (_, Some(i)) => Some(extents[i]),
                    _ => free.next().copied(),
                })
                .collect::<Option<Vec<usize>>>()
        };
        let a = shape(&lists[0], &lists[2], &want.shape[batch..batch + left])?;
        let b = shape(&lists[1], &lists[3], &want.shape[batch + left..batch + left + right])?;
        let of = |s: &[usize]| TensorType::new(want.dtype, s);
        Some((lists.iter().map(|l| ints(l)).collect(), vec![of(&a), of(&b)]))
    }
}

fn subsets(n: usize) -> Vec<Vec<usize>> {
    (0..1usize << n).map(|m| (0..n).filter(|i| m >> i & 1 == 1).collect()).collect()
}

/// The program of a class of an e-graph in which every class has one e-node.
fn program(imported: &Imported, source: &Graph, root: Id) -> Graph {
    fn value(imported: &Imported, inputs: &[ValueId], out: &mut Graph, id: Id) -> ValueId {
        let class = &imported.egraph[id];
        assert_eq!(class.nodes.len(), 1, "nothing was joined");
        let op = imported.egraph.analysis.op(class.nodes[0].op).clone();
        if let Op::Input(i) = &op {
            return inputs[i.index];
        }
        let operands: Vec<ValueId> = class.nodes[0].children.iter().map(|c| value(imported, inputs, out, *c)).collect();
        out.add(op, &operands).expect("the e-graph is typed")
    }
    let mut out = Graph::new("right");
    let inputs: Vec<ValueId> = source.inputs.iter().map(|i| out.input(i.name.clone(), source.tensor_ty(i.value).clone(), i.role)).collect();
    let v = value(imported, &inputs, &mut out, root);
    out.output("y", v);
    out
}

fn data(random: &mut Random, ty: &TensorType, positive: bool) -> Tensor {
    let mut unit = || random.next() as f64 / (1u64 << 53) as f64;
    if ty.dtype.is_float() {
        let v = (0..ty.elements()).map(|_| if positive { unit() * 1.5 + 0.1 } else { unit() * 3.0 - 1.5 }).collect();
        Tensor::new_float(ty.clone(), v)
    } else {
        Tensor::new_int(ty.clone(), (0..ty.elements()).map(|_| (unit() * 2.0) as i64).collect())
    }
}

/// One sample of a rule: compared, or not a sample after all.
fn sample(rule: &Rule, seed: u64) -> bool {
    let mut sampler = Sampler::new(rule, seed);
    let rank = 1 + sampler.random.below(3);
    let shape: Vec<usize> = (0..rank).map(|_| sampler.random.pick(&[1, 2, 2, 3, 3, 4])).collect();
    let dtype = if rule.name.starts_with("convert") { sampler.random.pick(&[DType::F64, DType::F32, DType::BF16]) } else { DType::F64 };
    let want = TensorType::new(dtype, if rank == 1 && sampler.random.chance(4) { &[] } else { &shape[..] });
    let Some(root) = sampler.value(&rule.from, &want) else { return false };
    let Sampler { mut graph, mut random, .. } = sampler;
    graph.output("y", root);
    let mut imported = import(&graph);
    let id = imported.classes[root.index()].expect("the root is live");
    let names = &rule.names;
    let kinds = KindSets::of(&imported.egraph);
    let variables = (names.classes.len(), names.attrs.len(), names.ops.len());
    let mut search = Search::new(&imported.egraph, &kinds, &rule.guards, variables, 8);
    search.at(&rule.from, id);
    let Some(m) = search.found.first().cloned() else { return false };
    let built = build(&mut imported.egraph, 0, &rule.to, &m).unwrap_or_else(|e| panic!("{}: {e}", rule.name));
    let Some(right) = built else { return false };
    let facts = (imported.egraph[right].data.ty, imported.egraph[id].data.ty);
    assert_eq!(facts.0, facts.1, "{}: {} became {}", rule.name, want, imported.egraph.analysis.ty(facts.0));
    let other = program(&imported, &graph, right);
    let positive = random.chance(2);
    let ins: Vec<Tensor> = graph.inputs.iter().map(|i| data(&mut random, graph.tensor_ty(i.value), positive)).collect();
    let (a, b) = (interp::eval(&graph, &ins).unwrap(), interp::eval(&other, &ins).unwrap());
    for (x, y) in a[0].floats().into_iter().zip(b[0].floats()) {
        let same = match rule.class {
            RuleClass::Exact => x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(),
            RuleClass::Reassociates => x.is_nan() && y.is_nan() || x == y || (x - y).abs() <= 1e-9 * x.abs().max(y.abs()).max(1.0),
            RuleClass::Approximates => !x.is_finite() || !y.is_finite() || (x - y).abs() <= 1e-9 * x.abs().max(1.0),
        };
        assert!(same, "{}: {x} became {y} with seed {seed}", rule.name);
    }
    true
}

#[test]
fn every_rule_is_sound_on_samples_of_its_left_side() {
    let mut poor = Vec::new();
    for (index, rule) in all().iter().enumerate() {
        let mut good = 0;
        for seed in 1..60_000u64 {
            good += usize::from(sample(rule, seed * 1000 + index as u64));
            if good >= 12 {
                break;
            }
        }
        if good < 12 {
            poor.push(format!("{} ({good})", rule.name));
        }
    }
    assert!(poor.is_empty(), "too few samples: {poor:?}");
}
