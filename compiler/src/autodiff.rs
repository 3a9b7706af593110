//! Reverse-mode differentiation: a copy of the graph, extended by the gradients of a scalar.
//!
//! One sweep from the loss to its inputs asks each op for its vector-Jacobian product, which emits ordinary ops: gradients of gradients
//! work the same way. A composite op without a derivative of its own is differentiated through its expansion, a loop as a whole.
//! Values keep their ids, unless a loop had to be made anew to keep what its reverse needs: [`Gradients::find`] knows them.

mod loops;
mod replace;

use girih_ir::graph::loops::LoopError;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::ops::dynamic_slice::DynamicSlice;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::scatter::Combiner;
use girih_ir::ops::{NoVjp, Op, Vjp};
use girih_ir::tensor::Tensor;
use girih_ir::types::{Dims, TensorType, Type};
use loops::{Loops, Sweep};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// A graph with gradients.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The graph that came in and, after its nodes, the gradients.
    pub graph: Graph,
    /// The gradient of each value that was asked for, in that order, each of its value's type.
    pub gradients: Vec<ValueId>,
    /// Positions, in that order, of values on which the loss does not depend. Their gradient is zero.
    pub unreached: Vec<usize>,
    /// Where the values of the graph that came in are, when they moved.
    moved: Option<Vec<Option<ValueId>>>,
}

impl Gradients {
    /// Where a value of the graph that came in is now; `None` for what was inside a loop that has been made anew.
    pub fn find(&self, value: ValueId) -> Option<ValueId> {
        self.moved.as_ref().map_or(Some(value), |m| m.get(value.index()).copied().flatten())
    }
}

/// Why a graph cannot be differentiated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AutodiffError {
    /// The loss is no scalar float.
    #[error("E0320: the loss {value} is {ty}; only a scalar of a float type has a gradient: reduce it first")]
    Loss {
        /// The value.
        value: ValueId,
        /// Its type.
        ty: Type,
    },
    /// A value that cannot have a gradient.
    #[error("E0321: {value} is {ty}; gradients are taken with respect to float tensors")]
    NotFloat {
        /// The value.
        value: ValueId,
        /// Its type.
        ty: Type,
    },
    /// An op on the way has no derivative.
    #[error(
        "E0322: the loss depends on the parameters through {value}, made by {}, which has no derivative: {}; \
         freeze the parameters before it, or take it out of the loss's path",
        place(.origin, .reason.op),
        .reason.why
    )]
    NoDerivative {
        /// Its value.
        value: ValueId,
        /// Where the op came from; may be empty.
        origin: String,
        /// The op and the reason.
        reason: NoVjp,
    },
    /// The loops of the graph make no sense, or the loss lies inside one.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A value of an iteration has no gradient.
    #[error("E0324: {value} is another value in each iteration of a loop; take gradients with respect to values outside of loops")]
    InLoop {
        /// The value.
        value: ValueId,
    },
    /// An op's derivative has another type than its operand: a bug of the op.
    #[error("E0323: the derivative of {op} makes a {got} for an operand of type {need}; this is a bug of the op")]
    Mismatch {
        /// The op.
        op: &'static str,
        /// Type of the operand.
        need: String,
        /// Type of its cotangent.
        got: String,
    },
}

fn place(origin: &str, op: &str) -> String {
    if origin.is_empty() { format!("`{op}`") } else { format!("`{op}` (from {origin:?})") }
}

/// The gradients of `loss` with respect to `wrt`.
pub fn gradients(graph: &Graph, loss: ValueId, wrt: &[ValueId]) -> Result<Gradients, AutodiffError> {
    let loss_ty = graph.ty(loss);
    if loss_ty.as_tensor().is_none_or(|t| t.rank() != 0 || !t.dtype.is_float()) {
        return Err(AutodiffError::Loss { value: loss, ty: loss_ty.clone() });
    }
    if let Some(value) = wrt.iter().copied().find(|v| graph.ty(*v).as_tensor().is_none_or(|t| !t.dtype.is_float())) {
        return Err(AutodiffError::NotFloat { value, ty: graph.ty(value).clone() });
    }
    let mut out = graph.clone();
    let entries = graph.values().take(loss.index() + 1).map(|v| {
        let node = graph.node(v);
        Entry { op: node.op.clone(), operands: node.operands.iter().map(|o| o.index()).collect(), value: v }
    });
    let loops = Loops::of(graph, loss, wrt)?;
    let entries: Vec<Entry> = entries.collect();
    let wanted = loops.wanted[..entries.len()].to_vec();
    let mut tape = Tape::new(&out, entries, wanted, None);
    let one = out.splat(&graph.tensor_ty(loss).clone(), 1.0);
    tape.add(&mut out, loss.index(), 0, one)?;
    let mut replaced = Vec::new();
    tape.sweep(&mut Sweep { graph: &mut out, loops: &loops, replaced: &mut replaced })?;
    let mut unreached = Vec::new();
    let mut all = Vec::new();
    for (i, v) in wrt.iter().enumerate() {
        let known = tape.cotangents.get(v.index()).and_then(|c| c[0]);
        all.push(known.unwrap_or_else(|| {
            unreached.push(i);
            let ty = out.tensor_ty(*v).clone();
            out.splat(&ty, 0.0)
        }));
    }
    out.clear_origin();
    if replaced.is_empty() {
        return Ok(Gradients { graph: out, gradients: all, unreached, moved: None });
    }
    let (graph, moved) = replace::replace(&out, &loops.nest, graph.nodes().len(), &all, &replaced);
    let gradients = all.iter().filter_map(|v| moved[v.index()]).collect();
    Ok(Gradients { graph, gradients, unreached, moved: Some(moved) })
}

/// An op that was run: its operands by their place on the tape, its value in the graph.
struct Entry {
    op: Op,
    operands: SmallVec<[usize; 4]>,
    value: ValueId,
}

/// Ops in the order in which they ran, and what is known about them going backward.
struct Tape {
    entries: Vec<Entry>,
    /// Whether a cotangent is of use: something that is asked for lies behind it.
    wanted: Vec<bool>,
    /// One cotangent a result component; `None` is zero so far.
    cotangents: Vec<SmallVec<[Option<ValueId>; 1]>>,
    /// The places of values of the original graph, when they are not their ids.
    places: Option<FxHashMap<ValueId, usize>>,
}

impl Tape {
    fn new(graph: &Graph, entries: Vec<Entry>, wanted: Vec<bool>, places: Option<FxHashMap<ValueId, usize>>) -> Self {
        let cotangents = entries.iter().map(|e| SmallVec::from_elem(None, graph.ty(e.value).components().len())).collect();
        Tape { entries, wanted, cotangents, places }
    }

    /// Where a value of the original graph is on the tape.
    fn place(&self, v: ValueId) -> usize {
        self.places.as_ref().map_or(v.index(), |places| places[&v])
    }

    /// Marks all float values that are computed from wanted ones.
    fn propagate_wants(&mut self, graph: &Graph) {
        for (i, e) in self.entries.iter().enumerate() {
            let float = graph.ty(e.value).components().iter().any(|t| t.dtype.is_float());
            self.wanted[i] |= float && e.operands.iter().any(|o| self.wanted[*o]);
        }
    }

    /// Adds to the cotangent of a value's component.
    fn add(&mut self, graph: &mut Graph, at: usize, component: usize, g: ValueId) -> Result<(), AutodiffError> {
        let entry = &self.entries[at];
        let need = &graph.ty(entry.value).components()[component];
        if graph.ty(g).as_tensor() != Some(need) {
            let (need, got) = (need.to_string(), graph.ty(g).to_string());
            return Err(AutodiffError::Mismatch { op: entry.op.name(), need, got });
        }
        let slot = &mut self.cotangents[at][component];
        *slot = Some(match *slot {
            Some(sum) => accumulated(graph, sum, g),
            None => g,
        });
        Ok(())
    }

    /// Goes through the tape backward and leaves every wanted cotangent complete.
    fn sweep(&mut self, sweep: &mut Sweep<'_>) -> Result<(), AutodiffError> {
        for at in (0..self.entries.len()).rev() {
            if !self.wanted[at] || self.cotangents[at].iter().all(Option::is_none) {
                continue;
            }
            let operands: SmallVec<[usize; 4]> = self.entries[at].operands.clone();
            match &self.entries[at].op {
                Op::Repeat(_) => {
                    for (v, g) in self.pull_back_loop(sweep, at)? {
                        let to = self.place(v);
                        if self.wanted[to] {
                            self.add(sweep.graph, to, 0, g)?;
                        }
                    }
                }
                Op::While(_) => self.pull_back(sweep, at).map(drop)?,
                _ if operands.is_empty() => {}
                Op::Proj(p) => {
                    let index = p.index;
                    if let Some(g) = self.cotangents[at][0] {
                        self.add(sweep.graph, operands[0], index, g)?;
                    }
                }
                _ => {
                    let grads = self.pull_back(sweep, at)?;
                    for (o, g) in operands.iter().zip(grads) {
                        if let (Some(g), true) = (g, self.wanted[*o]) {
                            self.add(sweep.graph, *o, 0, g)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Gradients that a loop hands to the values outside of it.
    fn pull_back_loop(&self, sweep: &mut Sweep<'_>, at: usize) -> Result<Vec<(ValueId, ValueId)>, AutodiffError> {
        let entry = &self.entries[at];
        let id = girih_ir::graph::loops::loop_of(&entry.op);
        let l = sweep.loops.nest.loops.iter().position(|l| l.id == id).expect("a loop with a cotangent is one that the loss depends on");
        let env = sweep.loops.reads(sweep.graph, l).into_iter().map(|v| (v, self.entries[self.place(v)].value)).collect();
        set_grad_origin(sweep.graph, entry.value);
        loops::pull_back(sweep, l, entry.value, &env, &self.cotangents[at])
    }

    /// Cotangents of one op's operands.
    fn pull_back(&self, sweep: &mut Sweep<'_>, at: usize) -> Result<Vec<Option<ValueId>>, AutodiffError> {
        let entry = &self.entries[at];
        let origin = set_grad_origin(sweep.graph, entry.value);
        let operands: SmallVec<[ValueId; 4]> = entry.operands.iter().map(|o| self.entries[*o].value).collect();
        let wanted: SmallVec<[bool; 4]> = entry.operands.iter().map(|o| self.wanted[*o]).collect();
        let mut cx =
            Vjp { graph: &mut *sweep.graph, operands: &operands, result: entry.value, cotangents: &self.cotangents[at], wanted: &wanted };
        match entry.op.vjp(&mut cx) {
            Ok(grads) => Ok(grads),
            Err(_) if entry.op.is_composite() => through_expansion(sweep, &entry.op, &operands, &self.cotangents[at], &wanted),
            Err(reason) => Err(AutodiffError::NoDerivative { value: entry.value, origin, reason }),
        }
    }
}

/// New nodes belong to the gradient of where the value came from, which is returned.
fn set_grad_origin(graph: &mut Graph, value: ValueId) -> String {
    let origin = graph.origin(value).to_string();
    graph.set_origin(&if origin.is_empty() || origin.ends_with("/grad") { origin.clone() } else { format!("{origin}/grad") });
    origin
}

/// A sum of gradients. What is zero but for a box, or but for scattered elements, is added in its place.
fn accumulated(graph: &mut Graph, sum: ValueId, g: ValueId) -> ValueId {
    let node = graph.node(g);
    let (op, operands) = (node.op.clone(), node.operands.clone());
    match (&op, operands.as_slice()) {
        (Op::DynamicUpdateSlice(_), [zeros, update, starts @ ..]) if is_zero(graph, *zeros) => {
            let sizes = Dims::from_slice(graph.shape(*update));
            let at: SmallVec<[ValueId; 4]> = std::iter::once(sum).chain(starts.iter().copied()).collect();
            let there = graph.emit(DynamicSlice { sizes }, &at);
            let new = graph.plus(there, *update);
            let at: SmallVec<[ValueId; 4]> = [sum, new].into_iter().chain(starts.iter().copied()).collect();
            graph.emit(DynamicUpdateSlice {}, &at)
        }
        (Op::Scatter(s), [zeros, starts, updates]) if s.combiner == Combiner::Sum && is_zero(graph, *zeros) => {
            graph.emit(op.clone(), &[sum, *starts, *updates])
        }
        _ => graph.plus(sum, g),
    }
}

/// Whether a value is a repeated zero.
fn is_zero(graph: &Graph, v: ValueId) -> bool {
    let node = graph.node(v);
    match &node.op {
        Op::Broadcast(_) => is_zero(graph, node.operands[0]),
        Op::Constant(c) if c.value.ty().rank() == 0 => Tensor::from_literal(&c.value).floats() == [0.0],
        _ => false,
    }
}

/// Differentiates the expansion of a composite op in its place.
fn through_expansion(
    sweep: &mut Sweep<'_>,
    op: &Op,
    operands: &[ValueId],
    cotangents: &[Option<ValueId>],
    wanted: &[bool],
) -> Result<Vec<Option<ValueId>>, AutodiffError> {
    let graph = &mut *sweep.graph;
    let mut body = Graph::new(op.name());
    let types: Vec<TensorType> = operands.iter().map(|v| graph.tensor_ty(*v).clone()).collect();
    let inputs: Vec<ValueId> = types.iter().enumerate().map(|(i, t)| body.input(format!("x{i}"), t.clone(), Role::Data)).collect();
    let results = op.expand(&mut body, &inputs).unwrap_or_default();
    let mut entries: Vec<Entry> = Vec::with_capacity(body.nodes().len());
    for node in body.nodes() {
        let places: SmallVec<[usize; 4]> = node.operands.iter().map(|o| o.index()).collect();
        let value = match &node.op {
            Op::Input(i) => operands[i.index],
            op => {
                let args: SmallVec<[ValueId; 4]> = places.iter().map(|o| entries[*o].value).collect();
                graph.emit(op.clone(), &args)
            }
        };
        entries.push(Entry { op: node.op.clone(), operands: places, value });
    }
    let asked = vec![false; entries.len()];
    let mut tape = Tape::new(graph, entries, asked, None);
    inputs.iter().zip(wanted).for_each(|(v, w)| tape.wanted[v.index()] = *w);
    tape.propagate_wants(graph);
    for (v, g) in results.iter().zip(cotangents) {
        if let Some(g) = g {
            tape.add(graph, v.index(), 0, *g)?;
        }
    }
    tape.sweep(sweep)?;
    Ok(inputs.iter().map(|v| tape.cotangents[v.index()][0]).collect())
}

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod loop_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::random::Random;
    use girih_ir::interp::eval;
    use girih_ir::tensor::Tensor;
    use girih_ir::text::parse_graph;
    use girih_ir::types::DType;

    /// Compares gradients of the first output with respect to all f64 inputs with central differences.
    fn check(text: &str) {
        let g = parse_graph(text).unwrap_or_else(|e| panic!("{e}"));
        let wrt: Vec<ValueId> = g.inputs.iter().map(|i| i.value).filter(|v| g.tensor_ty(*v).dtype == DType::F64).collect();
        let d = gradients(&g, g.outputs[0].value, &wrt).unwrap_or_else(|e| panic!("{e}"));
        let mut with = d.graph.clone();
        with.outputs.clear();
        d.gradients.iter().enumerate().for_each(|(i, v)| with.output(format!("g{i}"), *v));
        girih_ir::verify::verify(&with).unwrap_or_else(|e| panic!("{e}\n{with}"));
        let mut r = Random::new(3);
        let inputs: Vec<Tensor> = g
            .inputs
            .iter()
            .map(|i| {
                let ty = g.tensor_ty(i.value).clone();
                if ty.dtype == DType::F64 {
                    Tensor::new_float(ty.clone(), (0..ty.elements()).map(|_| r.unit()).collect())
                } else {
                    r.tensor(&ty)
                }
            })
            .collect();
        let got = eval(&with, &inputs).unwrap();
        for (k, v) in wrt.iter().enumerate() {
            let at = g.inputs.iter().position(|i| i.value == *v).unwrap();
            let ty = g.tensor_ty(*v).clone();
            let base = inputs[at].floats();
            for e in 0..ty.elements() {
                let h = 1e-5;
                let moved = |by: f64| {
                    let mut x = base.clone();
                    x[e] += by;
                    let mut all = inputs.clone();
                    all[at] = Tensor::new_float(ty.clone(), x);
                    eval(&g, &all).unwrap()[0].floats()[0]
                };
                let (want, have) = ((moved(h) - moved(-h)) / (2.0 * h), got[k].floats()[e]);
                assert!((want - have).abs() <= 1e-6 * (1.0 + want.abs()), "input {at}[{e}]: {have}, differences say {want}\n{with}");
            }
        }
    }

    const TWO_LAYERS: &str = "graph (%x: f64[3,4] \"x\", %w: f64[4,5] param \"w\", %b: f64[5] param \"b\", %v: f64[5] param \"v\") {
        %1 = dot_general %x, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
        %2 = broadcast %b {shape = [3, 5], dims = [1]}
        %3 = add %1, %2
        %4 = tanh %3 @\"layer1/Tanh\"
        %5 = mul %4, %4
        %6 = add %4, %5
        %7 = dot_general %6, %v {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
        %8 = reduce %7 {monoid = sum, dims = [0]}
        return %8 \"loss\" }";

    #[test]
    fn gradients_agree_with_differences() {
        check(TWO_LAYERS);
        check(
            "graph (%x: f64[2,3,4]) { %1 = softmax %x {dim = 1} %2 = log_softmax %x {dim = 2} %3 = mul %1, %2 %4 = gelu %x {tanh = false}
               %5 = add %3, %4 %6 = mul %5, %x %7 = reduce %6 {monoid = sum, dims = [0, 1, 2]} return %7 }",
        );
        check(
            "graph (%x: f64[4], %k: i64[4]) { %1 = sort %x, %k {dim = 0, descending = false, stable = true} %2 = proj %1 {index = 0}
               %3 = cumulative %2 {monoid = sum, dim = 0, exclusive = false, reverse = false} %4 = mul %3, %3
               %5 = reduce %4 {monoid = sum, dims = [0]} return %5 }",
        );
    }

    #[test]
    fn second_derivatives_work() {
        let g = parse_graph(TWO_LAYERS).unwrap();
        let w = g.find_input("w").unwrap().value;
        let first = gradients(&g, g.outputs[0].value, &[w]).unwrap();
        let mut norm = first.graph.clone();
        let square = norm.times(first.gradients[0], first.gradients[0]);
        let loss = norm.sum(square, &[0, 1]);
        norm.outputs.clear();
        norm.output("loss", loss);
        check(&norm.to_string());
    }

    #[test]
    fn unreached_values_have_gradient_zero() {
        let g = parse_graph("graph (%x: f32[2], %y: f32[3]) { %1 = reduce %x {monoid = sum, dims = [0]} return %1 }").unwrap();
        let wrt = [g.inputs[1].value, g.inputs[0].value];
        let d = gradients(&g, g.outputs[0].value, &wrt).unwrap();
        assert_eq!(d.unreached, [0]);
        assert_eq!(d.graph.tensor_ty(d.gradients[0]), g.tensor_ty(wrt[0]));
    }

    #[test]
    fn random_graphs_differentiate_into_well_typed_graphs() {
        let mut reached = 0;
        for seed in 0..400 {
            let mut g = girih_ir::graph::random::random_graph(seed, 20);
            let out = g.outputs[0].value;
            let wrt: Vec<ValueId> = g.values().filter(|v| g.ty(*v).as_tensor().is_some_and(|t| t.dtype.is_float())).collect();
            let loss = g.convert(out, DType::F32);
            let all: Vec<usize> = (0..g.shape(loss).len()).collect();
            let loss = g.sum(loss, &all);
            match gradients(&g, loss, &wrt) {
                Ok(mut d) => {
                    d.gradients.iter().enumerate().for_each(|(i, v)| d.graph.output(format!("g{i}"), *v));
                    assert_eq!(girih_ir::verify::verify(&d.graph), Ok(()), "seed {seed}\n{}", d.graph);
                    reached += wrt.len() - d.unreached.len();
                }
                Err(e) => assert!(matches!(e, AutodiffError::NoDerivative { .. }), "seed {seed}: {e}\n{g}"),
            }
        }
        assert!(reached > 400, "{reached}");
    }

    #[test]
    fn errors_name_op_origin_and_reason() {
        let text =
            "graph (%x: f32[2] \"x\") { %1 = convert %x {to = i32} %2 = convert %1 {to = f32} %3 = reduce %2 {monoid = sum, dims = [0]}
                    %4 = reduce %x {monoid = sum, dims = []} return %3, %4, %2 }";
        let g = parse_graph(text).unwrap();
        let x = g.inputs[0].value;
        assert_eq!(gradients(&g, g.outputs[0].value, &[x]).unwrap().unreached, [0], "integers stop gradients");
        assert!(matches!(gradients(&g, g.outputs[2].value, &[x]), Err(AutodiffError::Loss { .. })));
        assert!(matches!(gradients(&g, g.outputs[0].value, &[ValueId(1)]), Err(AutodiffError::NotFloat { .. })));
        let reason = NoVjp { op: "some_op", why: "it jumps" };
        let e = AutodiffError::NoDerivative { value: ValueId(3), origin: "layer1/X".into(), reason };
        insta::assert_snapshot!(e.to_string());
    }
}
