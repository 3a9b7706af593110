//! Registry tests: what must hold for every op, walked over [`samples`].

use super::samples::{Sample, samples};
use super::{NoVjp, Op, Vjp};
use crate::attr::Attr;
use crate::axes::{Axes, Box, LoopKind};
use crate::graph::random::Random;
use crate::graph::{Graph, Role, ValueId};
use crate::interp;
use crate::scalar::Monoid;
use crate::tensor::{Data, Tensor, indices};
use crate::types::{DType, TensorType, Type};
use std::ops::Range;

fn infer(op: &Op, types: &[TensorType]) -> Result<Type, super::InferError> {
    let types: Vec<Type> = types.iter().cloned().map(Type::from).collect();
    op.infer(&types.iter().collect::<Vec<_>>())
}

fn axes(op: &Op, types: &[TensorType], out: &Type) -> Axes {
    let types: Vec<Type> = types.iter().cloned().map(Type::from).collect();
    op.axes(&types.iter().collect::<Vec<_>>(), out)
}

fn eval(op: &Op, ins: &[Tensor]) -> Vec<Tensor> {
    let out = infer(op, &ins.iter().map(|t| t.ty().clone()).collect::<Vec<_>>()).unwrap();
    op.eval(&ins.iter().collect::<Vec<_>>(), &out)
}

fn owned(attrs: Vec<(&'static str, Attr)>) -> Vec<(String, Attr)> {
    attrs.into_iter().map(|(n, a)| (n.to_string(), a)).collect()
}

#[test]
fn names_are_unique_and_every_primitive_has_samples() {
    let names = Op::names();
    for (i, n) in names.iter().enumerate() {
        assert!(!names[..i].contains(n), "two ops are called {n}");
    }
    let sampled: Vec<&str> = samples(1).iter().map(|s| s.op.name()).collect();
    for n in Op::primitive_names() {
        assert!(
            ["input", "proj", "carry", "loop_index", "repeat", "while"].contains(&n) || sampled.contains(&n),
            "ops/samples.rs has no sample of {n}"
        );
    }
}

#[test]
fn samples_type_and_evaluate_to_their_types() {
    let mut r = Random::new(2);
    for s in samples(2) {
        let out = s.result().unwrap_or_else(|e| unreachable!("{e}: {s:?}"));
        let made = eval(&s.op, &s.values(&mut r));
        assert!(made.iter().map(Tensor::ty).eq(out.components()), "{s:?} makes {made:?}");
    }
}

#[test]
fn attributes_round_trip() {
    for s in samples(3) {
        let attrs = owned(s.op.attrs());
        assert_eq!(Op::parse(s.op.name(), &attrs), Some(Ok(s.op.clone())));
        let mut more = attrs.clone();
        more.push(("no_such_attribute".into(), Attr::Int(1)));
        assert!(Op::parse(s.op.name(), &more).unwrap().is_err(), "{}", s.op.name());
        if !attrs.is_empty() {
            assert!(Op::parse(s.op.name(), &attrs[1..]).unwrap().is_err(), "{}", s.op.name());
        }
    }
    assert_eq!(Op::parse("no_such_op", &[]), None);
}

/// Numbers that break index arithmetic.
const HOSTILE: [i64; 13] = [-1, 0, 1, 2, 3, 4, 7, -2, -9, 1 << 33, 1 << 62, i64::MAX, i64::MIN];

fn damage(attr: &mut Attr, r: &mut Random) {
    let ints = |v: &mut Vec<i64>, r: &mut Random| match r.below(3) {
        0 => drop(v.pop()),
        1 => v.push(*r.pick(&HOSTILE)),
        _ if v.is_empty() => {}
        _ => {
            let at = r.below(v.len());
            v[at] = *r.pick(&HOSTILE);
        }
    };
    match attr {
        Attr::Int(v) => *v = *r.pick(&HOSTILE),
        Attr::Ints(v) => ints(v, r),
        Attr::Lists(v) => match v.len() {
            0 => v.push(vec![0]),
            n if r.one_in(3) => drop(v.remove(r.below(n))),
            n => ints(&mut v[r.below(n)], r),
        },
        Attr::Bool(v) => *v = !*v,
        Attr::Word(w) => *w = (*r.pick(&["max", "min", "sum", "and", "ge", "lt", "none", "normal"])).to_string(),
        Attr::DType(d) => *d = *r.pick(&DType::ALL),
        _ => {}
    }
}

fn damage_types(types: &mut Vec<TensorType>, r: &mut Random) {
    let n = types.len();
    match r.below(6) {
        0 => drop(types.pop()),
        1 => types.push(TensorType::new(DType::F64, [2, 3])),
        _ if n == 0 => {}
        2 => types[r.below(n)].dtype = *r.pick(&DType::ALL),
        3 => types[r.below(n)].shape.push(2),
        4 => drop(types[r.below(n)].shape.pop()),
        _ => {
            let k = r.below(n);
            let rank = types[k].rank();
            if rank > 0 {
                types[k].shape[r.below(rank)] = *r.pick(&[0, 1, 2, 5, usize::MAX]);
            }
        }
    }
}

/// Whatever attributes and types come, `infer` answers, and what it accepts has a loop nest of the right form and evaluates.
#[test]
fn infer_is_total_and_what_it_accepts_runs() {
    let mut r = Random::new(4);
    let mut accepted = 0;
    for s in samples(4) {
        for _ in 0..40 {
            let (mut attrs, mut types) = (owned(s.op.attrs()), s.types());
            if !attrs.is_empty() && r.below(4) > 0 {
                let at = r.below(attrs.len());
                damage(&mut attrs[at].1, &mut r);
            }
            if r.one_in(2) {
                damage_types(&mut types, &mut r);
            }
            let Some(Ok(op)) = Op::parse(s.op.name(), &attrs) else { continue };
            let Ok(out) = infer(&op, &types) else { continue };
            let nest = axes(&op, &types, &out);
            let context = format!("{op:?} of {types:?}");
            assert_eq!(nest.operands.len(), types.len(), "{context}");
            assert!(nest.operands.iter().zip(&types).all(|(u, t)| u.len() == t.rank()), "{context}");
            assert!(nest.results.iter().map(Vec::len).eq(out.components().iter().map(TensorType::rank)), "{context}");
            let size = |t: &TensorType| t.elements();
            let small = types.iter().map(size).chain(out.components().iter().map(size)).all(|n| n <= 2000);
            if small && nest.ops(&nest.full_ranges()) < 100_000 {
                let ins: Vec<Tensor> = types.iter().map(|t| r.tensor(t)).collect();
                let made = op.eval(&ins.iter().collect::<Vec<_>>(), &out);
                assert!(made.iter().map(Tensor::ty).eq(out.components()), "{context}");
                accepted += 1;
            }
        }
    }
    assert!(accepted > 1000, "only {accepted} damaged ops were accepted and run");
}

/// A reverse sweep from cotangents of some values to the inputs.
fn backward(graph: &mut Graph, seeds: &[(ValueId, usize, ValueId)]) -> Result<Vec<Option<ValueId>>, NoVjp> {
    let count = graph.nodes().len();
    let mut cotangents: Vec<Vec<Option<ValueId>>> = (0..count).map(|i| vec![None; graph.ty(ValueId::new(i)).components().len()]).collect();
    let mut depends = vec![false; count];
    for i in 0..count {
        let node = &graph.nodes()[i];
        depends[i] = matches!(node.op, Op::Input(_)) || node.operands.iter().any(|o| depends[o.index()]);
    }
    let add = |graph: &mut Graph, slot: &mut Option<ValueId>, g: ValueId| *slot = Some(slot.map_or(g, |old| graph.plus(old, g)));
    for (v, component, g) in seeds {
        add(graph, &mut cotangents[v.index()][*component], *g);
    }
    for i in (0..count).rev() {
        let node = graph.nodes()[i].clone();
        if node.operands.is_empty() || !depends[i] || cotangents[i].iter().all(Option::is_none) {
            continue;
        }
        if let (Op::Proj(p), Some(g)) = (&node.op, cotangents[i][0]) {
            add(graph, &mut cotangents[node.operands[0].index()][p.index], g);
            continue;
        }
        let wanted: Vec<bool> = node.operands.iter().map(|o| depends[o.index()] && graph.tensor_ty(*o).dtype.is_float()).collect();
        let given = cotangents[i].clone();
        let mut cx = Vjp { graph, operands: &node.operands, result: ValueId::new(i), cotangents: &given, wanted: &wanted };
        let grads = node.op.vjp(&mut cx)?;
        assert_eq!(grads.len(), node.operands.len(), "{} answers for another number of operands", node.op.name());
        for ((o, g), w) in node.operands.iter().zip(grads).zip(wanted) {
            if let (Some(g), true) = (g, w) {
                assert_eq!(graph.ty(g), graph.ty(*o), "the cotangent of {} has another type", node.op.name());
                add(graph, &mut cotangents[o.index()][0], g);
            }
        }
    }
    Ok(graph.inputs.iter().map(|i| cotangents[i.value.index()][0]).collect())
}

/// A graph of the op alone, its inputs, and cotangents of its float results.
fn lone(s: &Sample, r: &mut Random) -> (Graph, Vec<ValueId>, Vec<(ValueId, usize, ValueId)>) {
    let mut graph = Graph::new("lone");
    let ins: Vec<ValueId> = s.types().into_iter().enumerate().map(|(i, t)| graph.input(format!("x{i}"), t, Role::Data)).collect();
    let y = graph.add(s.op.clone(), &ins).unwrap();
    let mut seeds = Vec::new();
    for (k, t) in graph.ty(y).clone().components().iter().enumerate() {
        if t.dtype == DType::F64 {
            let w = graph.constant(&r.tensor(t));
            seeds.push((y, k, w));
        }
    }
    (graph, ins, seeds)
}

/// Σ result · weight over the float outputs of a graph.
fn weighted(graph: &Graph, ins: &[Tensor]) -> f64 {
    let out = interp::eval(graph, ins).unwrap();
    out.chunks(2).map(|p| p[0].floats().iter().zip(p[1].floats()).map(|(a, b)| a * b).sum::<f64>()).sum()
}

/// Checks that `grads` are the derivatives of Σ value · weight by central differences. Few elements are tried when there are many.
fn check_differences(graph: &Graph, pairs: &[(ValueId, ValueId)], grads: &[Option<ValueId>], values: &[Tensor], context: &str) {
    let mut loss = graph.clone();
    loss.outputs.clear();
    for (i, (v, w)) in pairs.iter().enumerate() {
        loss.output(format!("v{i}"), *v);
        loss.output(format!("w{i}"), *w);
    }
    let mut slopes = graph.clone();
    slopes.outputs.clear();
    grads.iter().flatten().enumerate().for_each(|(i, g)| slopes.output(format!("g{i}"), *g));
    let mut made = interp::eval(&slopes, values).unwrap().into_iter();
    for (k, x) in values.iter().enumerate().filter(|(_, x)| x.dtype() == DType::F64) {
        let got = grads[k].map(|_| made.next().unwrap().floats());
        let step = 1 + x.floats().len() / 12;
        for e in (0..x.floats().len()).step_by(step) {
            let at = |h: f64| {
                let mut moved = values.to_vec();
                let mut v = x.floats();
                v[e] += h;
                moved[k] = Tensor::new_float(x.ty().clone(), v);
                weighted(&loss, &moved)
            };
            let want = (at(1e-5) - at(-1e-5)) / 2e-5;
            let got = got.as_ref().map_or(0.0, |g| g[e]);
            assert!((got - want).abs() < 2e-6 * (1.0 + want.abs()), "operand {k} element {e}: {got}, differences say {want}: {context}");
        }
    }
}

/// First derivatives against differences of the op, second derivatives against differences of the first.
#[test]
fn derivatives_are_those_of_finite_differences() {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut r = Random::new(5);
    for s in samples(5) {
        let (mut graph, _, seeds) = lone(&s, &mut r);
        let values = s.values(&mut r);
        if seeds.is_empty() || !values.iter().any(|v| v.dtype() == DType::F64) {
            continue;
        }
        let context = format!("{:?} of {:?}", s.op, s.types());
        let grads = match backward(&mut graph, &seeds) {
            Ok(grads) => grads,
            Err(e) => {
                assert!(!e.why.is_empty());
                continue;
            }
        };
        let mut pairs = Vec::new();
        for (v, k, w) in &seeds {
            let component = if graph.ty(*v).as_tensor().is_some() { *v } else { graph.proj(*v, *k) };
            pairs.push((component, *w));
        }
        check_differences(&graph, &pairs, &grads, &values, &context);
        first.push(s.op.name());
        let mut seeds = Vec::new();
        for g in grads.iter().flatten() {
            let w = graph.tensor_ty(*g).clone();
            let w = graph.constant(&r.tensor(&w));
            seeds.push((*g, 0, w));
        }
        let pairs: Vec<(ValueId, ValueId)> = seeds.iter().map(|(g, _, w)| (*g, *w)).collect();
        if let (false, Ok(again)) = (seeds.is_empty(), backward(&mut graph, &seeds)) {
            check_differences(&graph, &pairs, &again, &values, &format!("second order of {context}"));
            second.push(s.op.name());
        }
    }
    for name in ["convolution", "dot_general", "reduce_window", "gather", "scatter", "pad", "slice", "sort", "top_k", "cumulative"] {
        assert!(first.contains(&name), "no derivative of {name} was checked");
        assert!(second.contains(&name), "no second derivative of {name} was checked");
    }
    assert!(second.contains(&"select_and_scatter"));
}

fn inside(b: &Box, i: &[usize]) -> bool {
    b.iter().zip(i).all(|(r, i)| r.contains(i))
}

/// `t` where the box is (or is not), `other` elsewhere.
fn mixed(t: &Tensor, other: &Tensor, b: &Box) -> Tensor {
    let keep: Vec<bool> = indices(t.shape()).map(|i| inside(b, &i)).collect();
    fn choose<T: Copy>(keep: &[bool], a: &[T], b: &[T]) -> Vec<T> {
        keep.iter().zip(a.iter().zip(b)).map(|(k, (a, b))| if *k { *a } else { *b }).collect()
    }
    match (t.data(), other.data()) {
        (Data::Float(a), Data::Float(b)) => Tensor::new_float(t.ty().clone(), choose(&keep, a, b)),
        _ => Tensor::new_int(t.ty().clone(), choose(&keep, &t.ints(), &other.ints())),
    }
}

fn cut(t: &Tensor, b: &Box) -> Tensor {
    let ty = TensorType { dtype: t.dtype(), shape: crate::axes::box_dims(b) };
    let places = indices(t.shape()).enumerate().filter(|(_, i)| inside(b, i)).map(|(p, _)| Some(p));
    Tensor::pick(ty, t, places, None)
}

/// Random ranges of the loops of one kind, everything of the others.
fn split(nest: &Axes, r: &mut Random, parallel: bool) -> Vec<Range<usize>> {
    let part = |n: usize, r: &mut Random| {
        let low = r.below(n);
        low..low + 1 + r.below(n - low)
    };
    let chosen = |k: LoopKind| if parallel { k == LoopKind::Parallel } else { matches!(k, LoopKind::Reduce(_)) };
    nest.loops.iter().map(|l| if chosen(l.kind) && l.extent > 0 { part(l.extent, r) } else { 0..l.extent }).collect()
}

/// Elements outside the operand boxes of a split do not change the results inside its result boxes.
#[test]
fn operand_boxes_hold_all_that_their_results_need() {
    let mut r = Random::new(6);
    let mut split_ops = Vec::new();
    for s in samples(6) {
        let (types, out) = (s.types(), s.result().unwrap());
        let nest = axes(&s.op, &types, &out);
        let values = s.values(&mut r);
        let whole = eval(&s.op, &values);
        for _ in 0..6 {
            let ranges = split(&nest, &mut r, true);
            let others = s.values(&mut r);
            let boxes: Vec<Box> = types.iter().enumerate().map(|(k, t)| nest.operand_box(k, &t.shape, &ranges)).collect();
            let changed: Vec<Tensor> = values.iter().zip(&others).zip(&boxes).map(|((v, o), b)| mixed(v, o, b)).collect();
            for (k, (t, c)) in whole.iter().zip(eval(&s.op, &changed)).enumerate() {
                let made = nest.result_box(k, t.shape(), &ranges);
                assert_eq!(cut(t, &made), cut(&c, &made), "{:?} of {types:?}, loops {ranges:?}, operands {boxes:?}", s.op);
            }
            if changed != values {
                split_ops.push(s.op.name());
            }
        }
    }
    for name in ["convolution", "reduce_window", "select_and_scatter", "gather", "scatter", "slice", "pad", "concat", "reverse", "reshape"]
    {
        assert!(split_ops.contains(&name), "no split of {name} was checked");
    }
}

/// Ops whose attributes hold no extents: run on the operand boxes, they make the result box.
#[test]
fn ops_run_on_their_operand_boxes() {
    let local = ["transpose", "reduce", "dot_general", "select", "tanh", "add", "lt", "convert", "cumulative", "sort", "top_k"];
    let local = [&local[..], &["arg_reduce", "dynamic_update_slice", "softmax", "layer_norm", "gelu", "concat", "reverse"]].concat();
    let mut r = Random::new(7);
    let mut seen = Vec::new();
    for s in samples(7).into_iter().filter(|s| local.contains(&s.op.name())) {
        let (types, out) = (s.types(), s.result().unwrap());
        let nest = axes(&s.op, &types, &out);
        let values = s.values(&mut r);
        let whole = eval(&s.op, &values);
        for _ in 0..4 {
            let ranges = split(&nest, &mut r, true);
            let parts: Vec<Tensor> = values.iter().enumerate().map(|(k, v)| cut(v, &nest.operand_box(k, v.shape(), &ranges))).collect();
            for (k, (t, p)) in whole.iter().zip(eval(&s.op, &parts)).enumerate() {
                assert_eq!(cut(t, &nest.result_box(k, t.shape(), &ranges)), p, "{:?} of {types:?}, loops {ranges:?}", s.op);
            }
        }
        seen.push(s.op.name());
    }
    assert!(local.iter().all(|n| seen.contains(n)), "{seen:?}");
}

/// Partial results over parts of the reduction loops combine to the whole.
#[test]
fn partial_results_combine_to_the_whole() {
    let mut r = Random::new(8);
    let mut seen = 0;
    for s in samples(8).into_iter().filter(|s| ["dot_general", "convolution", "reduce"].contains(&s.op.name())) {
        let (types, out) = (s.types(), s.result().unwrap());
        let nest = axes(&s.op, &types, &out);
        let values = s.values(&mut r);
        let whole = &eval(&s.op, &values)[0];
        for (l, d) in nest.loops.iter().enumerate() {
            let LoopKind::Reduce(monoid) = d.kind else { continue };
            let at = r.below(d.extent);
            let partial = |range: Range<usize>| {
                let mut ranges = nest.full_ranges();
                ranges[l] = range;
                let blank = |t: &Tensor| match monoid.identity(t.dtype()) {
                    crate::scalar::Wide::F(v) => Tensor::new_float(t.ty().clone(), vec![v; t.ty().elements()]),
                    crate::scalar::Wide::I(v) => Tensor::new_int(t.ty().clone(), vec![v; t.ty().elements()]),
                };
                let cut = |(k, v): (usize, &Tensor)| mixed(v, &blank(v), &nest.operand_box(k, v.shape(), &ranges));
                eval(&s.op, &values.iter().enumerate().map(cut).collect::<Vec<_>>()).remove(0)
            };
            let both = eval(&super::elementwise::Binary(monoid.function()).into(), &[partial(0..at), partial(at..d.extent)]).remove(0);
            let near = both.floats().iter().zip(whole.floats()).all(|(a, b)| (a - b).abs() < 1e-9 * (1.0 + b.abs()));
            assert!(near, "{:?} of {types:?}, loop {l} at {at}: {both:?} against {whole:?}", s.op);
            seen += usize::from(monoid == Monoid::Sum);
        }
    }
    assert!(seen > 60, "{seen} sums were split");
}
