//! Functions and predicates that rules may name: arithmetic on attributes, shapes and known numbers.
//!
//! A function returns `None` when it is not defined on its arguments; then the rule does not apply. So a side condition that a function
//! already checks needs no guard of its own.

use super::matching::Bindings;
use super::pattern::{Argument, Guard};
use super::space::{Egraph, kind, tensor_type};
use egg::Id;
use girih_ir::attr::Attr;
use girih_ir::types::{DType, TensorType, element_count};

/// Where the arguments of a call are looked up.
pub(super) struct Scope<'a> {
    /// The e-graph.
    pub egraph: &'a Egraph,
    /// What the variables stand for.
    pub bindings: &'a Bindings,
}

/// An argument's value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A class.
    Class(Id),
    /// An attribute or a literal.
    Attr(Attr),
}

/// A function of a template.
pub(super) type Function = fn(&Egraph, &[Value]) -> Option<Attr>;
/// A guard's predicate; `None` counts as false.
pub(super) type Predicate = fn(&Egraph, &[Value]) -> Option<bool>;

/// The value of an argument.
pub(super) fn evaluate(scope: &Scope<'_>, argument: &Argument) -> Option<Value> {
    Some(match argument {
        Argument::Class(v) => Value::Class(scope.bindings.classes[*v]?),
        Argument::Attr(v) => Value::Attr(scope.egraph.analysis.attr(scope.bindings.attrs[*v]?).clone()),
        Argument::Literal(a) => Value::Attr(a.clone()),
        Argument::Call(f, args) => {
            let values: Option<Vec<Value>> = args.iter().map(|a| evaluate(scope, a)).collect();
            Value::Attr(f(scope.egraph, &values?)?)
        }
    })
}

/// Whether a guard holds.
pub(super) fn holds(scope: &Scope<'_>, guard: &Guard) -> bool {
    let values: Option<Vec<Value>> = guard.args.iter().map(|a| evaluate(scope, a)).collect();
    values.and_then(|v| (guard.predicate)(scope.egraph, &v)).unwrap_or(false)
}

/// The function of that name.
pub(super) fn function(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// The predicate of that name.
pub(super) fn predicate(name: &str) -> Option<Predicate> {
    PREDICATES.iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
}

fn list(values: &[Value], i: usize) -> Option<Vec<usize>> {
    match values.get(i)? {
        Value::Attr(Attr::Ints(v)) => v.iter().map(|x| usize::try_from(*x).ok()).collect(),
        _ => None,
    }
}
fn class(values: &[Value], i: usize) -> Option<Id> {
    match values.get(i)? {
        Value::Class(id) => Some(*id),
        Value::Attr(_) => None,
    }
}
fn ty<'e>(egraph: &'e Egraph, values: &[Value], i: usize) -> Option<&'e TensorType> {
    class(values, i).map(|id| tensor_type(egraph, id))
}
fn number(egraph: &Egraph, values: &[Value], i: usize) -> Option<f64> {
    match values.get(i)? {
        Value::Class(id) => egraph[*id].data.uniform,
        Value::Attr(Attr::Int(v)) => Some(*v as f64),
        Value::Attr(Attr::Float(bits)) => Some(f64::from_bits(*bits)),
        Value::Attr(_) => None,
    }
}
fn dtype(values: &[Value], i: usize) -> Option<DType> {
    match values.get(i)? {
        Value::Attr(Attr::DType(d)) => Some(*d),
        _ => None,
    }
}
fn ints(v: impl IntoIterator<Item = usize>) -> Option<Attr> {
    Some(Attr::Ints(v.into_iter().map(|x| x as i64).collect()))
}
/// A number as an attribute; not one that left the finite numbers.
fn real(v: f64) -> Option<Attr> {
    v.is_finite().then_some(Attr::Float(v.to_bits()))
}
fn only_one<T>(v: Vec<T>) -> Option<T> {
    let mut v = v.into_iter();
    v.next().filter(|_| v.next().is_none())
}
fn inverse(p: &[usize]) -> Option<Vec<usize>> {
    let mut inverse = vec![0; p.len()];
    for (i, d) in p.iter().enumerate() {
        *inverse.get_mut(*d)? = i;
    }
    Some(inverse)
}
fn pick(from: &[usize], at: &[usize]) -> Option<Vec<usize>> {
    at.iter().map(|i| from.get(*i).copied()).collect()
}
fn without(v: &[usize], positions: &[usize]) -> Vec<usize> {
    v.iter().enumerate().filter(|(i, _)| !positions.contains(i)).map(|(_, x)| *x).collect()
}
fn ranks(v: &[usize]) -> Vec<usize> {
    v.iter().map(|x| v.iter().filter(|y| *y < x).count()).collect()
}
fn free(rank: usize, batch: &[usize], contract: &[usize]) -> Vec<usize> {
    girih_ir::ops::dot_general::free_dims(rank, batch, contract)
}
/// The extents of a result dimension that a broadcast operand really has.
fn real_dims(shape: &[usize], dims: &[usize], operand: &[usize]) -> Vec<usize> {
    dims.iter().zip(operand).filter(|(d, e)| shape.get(**d) == Some(*e)).map(|(d, _)| *d).collect()
}

/// Maps each dimension of an extent-preserving `from → to` renaming of the non-unit dimensions; `None` when the others differ.
fn match_units(from: &[usize], to: &[usize]) -> Option<Vec<Option<usize>>> {
    let mut targets = to.iter().enumerate().filter(|(_, e)| **e != 1);
    let map = from
        .iter()
        .map(|e| if *e == 1 { Some(None) } else { targets.next().filter(|(_, t)| *t == e).map(|(i, _)| Some(i)) })
        .collect::<Option<Vec<_>>>()?;
    targets.next().is_none().then_some(map)
}

/// Gives the unit dimensions of a broadcast operand any result dimensions that are still free.
fn fill_units(map: Vec<Option<usize>>, rank: usize) -> Option<Attr> {
    let mut used: Vec<usize> = map.iter().flatten().copied().collect();
    let mut dims = Vec::with_capacity(map.len());
    for m in map {
        dims.push(match m {
            Some(d) => d,
            None => {
                let d = (0..rank).find(|d| !used.contains(d))?;
                used.push(d);
                d
            }
        });
    }
    ints(dims)
}

/// The transposition that a product needs after one operand lost its transpose `p`: batch, left free, right free.
fn product_order(left: bool, values: &[Value], egraph: &Egraph) -> Option<Attr> {
    let (p, lb, lc, rb, rc) = (list(values, 0)?, list(values, 1)?, list(values, 2)?, list(values, 3)?, list(values, 4)?);
    let other = ty(egraph, values, 5)?.rank();
    let own = p.len();
    let (left_rank, right_rank) = if left { (own, other) } else { (other, own) };
    let (lf, rf) = (free(left_rank, &lb, &lc), free(right_rank, &rb, &rc));
    let moved = ranks(&pick(&p, if left { &lf } else { &rf })?);
    let n = lb.len();
    let (l, r): (Vec<usize>, Vec<usize>) = if left { (moved, (0..rf.len()).collect()) } else { ((0..lf.len()).collect(), moved) };
    ints((0..n).chain(l.into_iter().map(|i| n + i)).chain(r.into_iter().map(|i| n + lf.len() + i)))
}

/// Whether a transpose `p` of a product only permutes batch dimensions and keeps (or swaps) the two free blocks.
fn absorbs(swapped: bool, values: &[Value], egraph: &Egraph) -> Option<bool> {
    let (p, lb, lc) = (list(values, 0)?, list(values, 1)?, list(values, 2)?);
    let (a, n) = (ty(egraph, values, 3)?.rank(), lb.len());
    let left = free(a, &lb, &lc).len();
    let rest: Vec<usize> = if swapped { (n + left..p.len()).chain(n..n + left).collect() } else { (n..p.len()).collect() };
    Some(p[..n].iter().all(|d| *d < n) && p[n..] == rest[..])
}

#[rustfmt::skip]
const FUNCTIONS: &[(&str, Function)] = &[
    // Numbers.
    ("value",       |e, v| real(number(e, v, 0)?)),
    ("negated",     |e, v| real(-number(e, v, 0)?)),
    ("product",     |e, v| real(number(e, v, 0)? * number(e, v, 1)?)),
    ("total",       |e, v| real(number(e, v, 0)? + number(e, v, 1)?)),
    ("difference",  |e, v| real(number(e, v, 0)? - number(e, v, 1)?)),
    ("reciprocal",  |e, v| real(1.0 / number(e, v, 0)?)),
    // Lists of dimensions: `pick(a, b)` is a[b[i]], `place(d, p)` puts d[i] at p[i], `without(v, positions)` drops.
    ("pick",        |_, v| ints(pick(&list(v, 0)?, &list(v, 1)?)?)),
    ("place",       |_, v| ints(pick(&list(v, 0)?, &inverse(&list(v, 1)?)?)?)),
    ("inverse",     |_, v| ints(inverse(&list(v, 0)?)?)),
    ("without",     |_, v| ints(without(&list(v, 0)?, &list(v, 1)?))),
    ("none",        |_, _| ints([])),
    // The dimensions of a that d does not name.
    ("others",      |e, v| { let d = list(v, 0)?; ints((0..ty(e, v, 1)?.rank()).filter(|i| !d.contains(i))) }),
    ("ranks",       |_, v| ints(ranks(&list(v, 0)?))),
    ("sorted",      |_, v| { let mut l = list(v, 0)?; l.sort_unstable(); ints(l) }),
    ("head",        |_, v| { let (p, l) = (list(v, 0)?, list(v, 1)?); ints(pick(&l, p.get(..l.len())?)?) }),
    ("only",        |_, v| Some(Attr::Int(only_one(list(v, 0)?)? as i64))),
    ("count",       |_, v| Some(Attr::Int(list(v, 0)?.len() as i64))),
    ("shape",       |e, v| ints(ty(e, v, 0)?.shape.iter().copied())),
    // `merge(d, e)`: dimensions gone after first dropping e, then d of what is left.
    ("merge",       |e, v| { let (d, inner, a) = (list(v, 0)?, list(v, 1)?, ty(e, v, 2)?.rank());
                             let left: Vec<usize> = (0..a).filter(|i| !inner.contains(i)).collect();
                             let mut all = pick(&left, &d)?; all.extend(inner); all.sort_unstable(); ints(all) }),
    // Reducing dimensions d of a broadcast: the operand's own dimensions, where the rest goes, how often each element counts.
    ("own",         |_, v| { let (d, e) = (list(v, 0)?, list(v, 1)?); ints((0..e.len()).filter(|i| d.contains(&e[*i]))) }),
    ("shift",       |_, v| { let (d, e) = (list(v, 0)?, list(v, 1)?);
                             ints(e.iter().filter(|x| !d.contains(x)).map(|x| x - d.iter().filter(|y| *y < x).count())) }),
    ("copies",      |e, v| { let (d, dims, s, a) = (list(v, 0)?, list(v, 1)?, list(v, 2)?, ty(e, v, 3)?);
                             let own = real_dims(&s, &dims, &a.shape);
                             real(element_count(&pick(&s, &d.into_iter().filter(|x| !own.contains(x)).collect::<Vec<_>>())?) as f64) }),
    // Broadcasts and reshapes that only add or drop extents of 1.
    ("through",     |e, v| { let (a, t, d, s) = (ty(e, v, 0)?, list(v, 1)?, list(v, 2)?, list(v, 3)?);
                             let map = match_units(&a.shape, &t)?;
                             fill_units(map.into_iter().map(|m| match m { Some(i) => d.get(i).copied().map(Some), None => Some(None) })
                                           .collect::<Option<Vec<_>>>()?, s.len()) }),
    ("onward",      |e, v| { let (a, t, d, s) = (ty(e, v, 0)?, list(v, 1)?, list(v, 2)?, list(v, 3)?);
                             let map = match_units(&t, &s)?;
                             fill_units(d.iter().zip(&a.shape).map(|(d, x)| if *x == 1 { None } else { map.get(*d).copied().flatten() }).collect(), s.len()) }),
    // The transposition left over when a product absorbs an operand's transpose.
    ("left_order",  |e, v| product_order(true, v, e)),
    ("right_order", |e, v| product_order(false, v, e)),
];

#[rustfmt::skip]
const PREDICATES: &[(&str, Predicate)] = &[
    ("float",      |e, v| Some(ty(e, v, 0)?.dtype.is_float())),
    ("same_type",  |e, v| Some(e[class(v, 0)?].data.ty == e[class(v, 1)?].data.ty)),
    ("distinct",   |_, v| Some(class(v, 0)? != class(v, 1)?)),
    ("varying",    |e, v| Some(e[class(v, 0)?].data.uniform.is_none())),
    ("nonzero",    |e, v| number(e, v, 0).map(|x| x != 0.0)),
    ("positive",   |e, v| number(e, v, 0).map(|x| x > 0.0)),
    ("negative",   |e, v| number(e, v, 0).map(|x| x < 0.0)),
    ("dyadic",     |e, v| number(e, v, 0).map(|x| x.is_normal() && x.to_bits() << 12 == 0)),
    ("not_dyadic", |e, v| number(e, v, 0).map(|x| x.is_normal() && x.to_bits() << 12 != 0)),
    ("is_dtype",   |e, v| Some(ty(e, v, 1)?.dtype == dtype(v, 0)?)),
    // Every value of the operand's type is exact in the other one.
    ("wider",      |e, v| { let (from, to) = (ty(e, v, 1)?.dtype, dtype(v, 0)?);
                            Some(from.is_float() && to.is_float() && (matches!((from, to),
                                (DType::BF16 | DType::F16, DType::F32 | DType::F64) | (DType::F32, DType::F64)) || from == to)) }),
    ("identity",   |_, v| Some(list(v, 0)?.into_iter().enumerate().all(|(i, d)| i == d))),
    ("not_identity", |_, v| Some(list(v, 0)?.into_iter().enumerate().any(|(i, d)| i != d))),
    ("has_shape",  |e, v| Some(ty(e, v, 0)?.shape[..] == list(v, 1)?[..])),
    ("scalar",     |e, v| Some(ty(e, v, 0)?.elements() == 1)),
    ("smaller",    |e, v| Some(ty(e, v, 0)?.elements() < element_count(&list(v, 1)?))),
    // The shape of a row's result put back beside its rows: what it had, then extents of 1.
    ("trailing_units", |e, v| {
        let (from, to) = (ty(e, v, 0)?.shape.clone(), list(v, 1)?);
        Some(to.len() > from.len() && from.iter().eq(&to[..from.len()]) && to[from.len()..].iter().all(|x| *x == 1))
    }),
    ("disjoint",   |_, v| { let b = list(v, 1)?; Some(list(v, 0)?.iter().all(|x| !b.contains(x))) }),
    ("units",      |e, v| { let a = ty(e, v, 0)?; Some(list(v, 1)?.iter().all(|d| a.shape.get(*d) == Some(&1))) }),
    // A transpose that only moves extents of 1 is a reshape.
    ("moves_units", |e, v| { let (a, p) = (ty(e, v, 0)?, list(v, 1)?);
                             Some(p.iter().filter(|d| a.shape[**d] != 1).is_sorted()) }),
    // The dimensions k are all dimensions of a but d: what was reduced over d goes back to its rows.
    ("keeps",      |e, v| { let (k, d, a) = (list(v, 0)?, list(v, 1)?, ty(e, v, 2)?.rank());
                            Some(k.iter().copied().eq((0..a).filter(|i| !d.contains(i)))) }),
    ("is_only",    |_, v| Some(match v.first()? { Value::Attr(Attr::Int(i)) => only_one(list(v, 1)?)? as i64 == *i, _ => false })),
    ("trailing",   |e, v| { let (d, a) = (list(v, 0)?, ty(e, v, 1)?.rank()); Some(!d.is_empty() && d.iter().copied().eq(a.checked_sub(d.len())?..a)) }),
    ("row",        |e, v| { let (g, d, a) = (ty(e, v, 0)?, list(v, 1)?, ty(e, v, 2)?);
                            Some(g.shape[..] == pick(&a.shape, &d)?[..]) }),
    ("mean",       |e, v| { let (n, d, a) = (number(e, v, 0)?, list(v, 1)?, ty(e, v, 2)?);
                            let count = element_count(&pick(&a.shape, &d)?) as f64;
                            Some(super::matching::is_near(n, 1.0 / count, a.dtype)) }),
    ("has",        |e, v| { let (c, k) = (class(v, 0)?, match v.get(1)? { Value::Attr(Attr::Word(w)) => kind(w)?, _ => return None });
                            Some(e[c].nodes.iter().any(|n| n.kind == k)) }),
    ("absorbs",    |e, v| absorbs(false, v, e)),
    ("absorbs_swapped", |e, v| absorbs(true, v, e)),
    // A value through which a transpose can go on: a view, a product, a constant.
    ("movable",    |e, v| { let c = class(v, 0)?;
                            Some(e[c].data.uniform.is_some() || e[c].nodes.iter().any(|n|
                                ["transpose", "broadcast", "dot_general"].iter().any(|k| kind(k) == Some(n.kind)))) }),
    ("either_movable", |e, v| { let p = predicate("movable")?; Some(p(e, &v[..1])? || p(e, &v[1..])?) }),
];
