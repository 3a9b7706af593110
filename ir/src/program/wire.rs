//! What the codec writes for a step: graphs as flat tables of nodes, with attributes in generic form.
//!
//! Nothing in it is recursive (a region is the index of an earlier graph), so a file cannot ask for a deep stack; and a graph that is
//! read is built through [`Graph::add`], which types every node anew.

use crate::attr::Attr;
use crate::fused::FusedProgram;
use crate::graph::{Graph, Role, ValueId};
use crate::literal::Literal;
use crate::ops::Op;
use crate::step::{StatePair, TrainStep};
use crate::types::{DType, Dims, TensorType, Type};
use crate::verify::{MAX_REGION_DEPTH, size_is_sane};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct WireStep {
    /// Graphs; a region comes before the graph that has it, and the step's own graph is the last.
    graphs: Vec<WireGraph>,
    /// Names of ops and attributes, and words.
    words: Vec<String>,
    literals: Vec<WireLiteral>,
    programs: Vec<FusedProgram>,
    state: Vec<StatePair>,
    loss: Option<u64>,
    seed: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct WireGraph {
    name: String,
    origins: Vec<String>,
    nodes: Vec<WireNode>,
    inputs: Vec<(String, u32, Role)>,
    outputs: Vec<(String, u32)>,
    /// How deep regions are nested inside; 0 without regions.
    depth: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WireNode {
    op: u32,
    attrs: Vec<(u32, WireAttr)>,
    operands: Vec<u32>,
    origin: u32,
    /// The type of an input.
    ty: Option<TensorType>,
}

/// A constant: its type and its bytes, checked when it is taken out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WireLiteral {
    dtype: DType,
    shape: Dims,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum WireAttr {
    Bool(bool),
    Int(i64),
    Float(u64),
    Word(u32),
    Ints(Vec<i64>),
    Lists(Vec<Vec<i64>>),
    DType(DType),
    Literal(u32),
    Program(u32),
    Region(u32),
}

impl WireLiteral {
    pub(super) fn of(literal: &Literal) -> Self {
        WireLiteral { dtype: literal.ty().dtype, shape: literal.ty().shape.clone(), bytes: literal.bytes().to_vec() }
    }

    pub(super) fn take(self) -> Result<Literal, String> {
        let ty = TensorType { dtype: self.dtype, shape: self.shape };
        if !size_is_sane(&ty) {
            return Err(format!("a constant of type {ty} is too large"));
        }
        Literal::new(ty, self.bytes).map_err(|e| e.to_string())
    }
}

/// Tables that are filled while a step is written.
#[derive(Default)]
struct Writer {
    step: WireStep,
    words: rustc_hash::FxHashMap<String, u32>,
}

impl WireStep {
    pub(super) fn of(step: &TrainStep) -> Self {
        let mut w = Writer::default();
        w.graph(&step.graph);
        w.step.state = step.state.clone();
        w.step.loss = step.loss.map(|l| l as u64);
        w.step.seed = step.seed;
        w.step
    }

    pub(super) fn take(self) -> Result<TrainStep, String> {
        let mut done: Vec<(Arc<Graph>, u32)> = Vec::with_capacity(self.graphs.len());
        let literals: Vec<Literal> = self.literals.into_iter().map(WireLiteral::take).collect::<Result<_, _>>()?;
        let programs: Vec<Arc<FusedProgram>> = self.programs.into_iter().map(Arc::new).collect();
        if programs.iter().any(|p| p.types().is_err()) {
            return Err("a fused program is malformed".to_string());
        }
        let tables = Tables { words: &self.words, literals: &literals, programs: &programs };
        for g in self.graphs {
            let built = tables.graph(g, &done)?;
            done.push(built);
        }
        let (graph, _) = done.pop().ok_or("the step has no graph")?;
        drop(done);
        let graph = Arc::try_unwrap(graph).unwrap_or_else(|shared| (*shared).clone());
        let loss = self.loss.map(usize::try_from).transpose().map_err(|_| "the loss is out of range")?;
        let step = TrainStep { graph, state: self.state, loss, seed: self.seed };
        step.verify().map_err(|e| e.to_string())?;
        Ok(step)
    }
}

impl Writer {
    fn word(&mut self, word: &str) -> u32 {
        if let Some(id) = self.words.get(word) {
            return *id;
        }
        let id = self.step.words.len() as u32;
        self.step.words.push(word.to_string());
        self.words.insert(word.to_string(), id);
        id
    }

    /// Writes a graph behind its regions; returns its index and how deep its regions are nested.
    fn graph(&mut self, graph: &Graph) -> (u32, u32) {
        let mut out = WireGraph { name: graph.name.clone(), ..WireGraph::default() };
        let mut origins: rustc_hash::FxHashMap<&str, u32> = rustc_hash::FxHashMap::default();
        for v in graph.values() {
            let node = graph.node(v);
            let mut attrs = Vec::new();
            for (name, attr) in node.op.attrs() {
                let attr = self.attr(&attr, &mut out.depth);
                attrs.push((self.word(name), attr));
            }
            let text = graph.origin(v);
            let next = out.origins.len() as u32;
            let origin = *origins.entry(text).or_insert(next);
            if origin == next {
                out.origins.push(text.to_string());
            }
            let ty = matches!(node.op, Op::Input(_)).then(|| graph.tensor_ty(v).clone());
            let op = self.word(node.op.name());
            out.nodes.push(WireNode { op, attrs, operands: node.operands.iter().map(|o| o.0).collect(), origin, ty });
        }
        out.inputs = graph.inputs.iter().map(|i| (i.name.clone(), i.value.0, i.role)).collect();
        out.outputs = graph.outputs.iter().map(|o| (o.name.clone(), o.value.0)).collect();
        let depth = out.depth;
        self.step.graphs.push(out);
        (self.step.graphs.len() as u32 - 1, depth)
    }

    fn attr(&mut self, attr: &Attr, depth: &mut u32) -> WireAttr {
        match attr {
            Attr::Bool(v) => WireAttr::Bool(*v),
            Attr::Int(v) => WireAttr::Int(*v),
            Attr::Float(v) => WireAttr::Float(*v),
            Attr::Word(w) => WireAttr::Word(self.word(w)),
            Attr::Ints(v) => WireAttr::Ints(v.clone()),
            Attr::Lists(v) => WireAttr::Lists(v.clone()),
            Attr::DType(d) => WireAttr::DType(*d),
            Attr::Literal(l) => {
                self.step.literals.push(WireLiteral::of(l));
                WireAttr::Literal(self.step.literals.len() as u32 - 1)
            }
            Attr::Program(p) => {
                self.step.programs.push((**p).clone());
                WireAttr::Program(self.step.programs.len() as u32 - 1)
            }
            Attr::Region(g) => {
                let (id, inner) = self.graph(g);
                *depth = (*depth).max(inner + 1);
                WireAttr::Region(id)
            }
        }
    }
}

/// Tables that a step is read from.
struct Tables<'a> {
    words: &'a [String],
    literals: &'a [Literal],
    programs: &'a [Arc<FusedProgram>],
}

fn pick<'t, T>(table: &'t [T], id: u32, what: &str) -> Result<&'t T, String> {
    table.get(id as usize).ok_or_else(|| format!("there is no {what} {id}"))
}

impl Tables<'_> {
    /// Builds a graph; also says how deep its regions are nested.
    fn graph(&self, wire: WireGraph, done: &[(Arc<Graph>, u32)]) -> Result<(Arc<Graph>, u32), String> {
        let mut graph = Graph::new(wire.name);
        let mut depth = 0;
        let mut inputs = wire.inputs.iter();
        for (i, node) in wire.nodes.iter().enumerate() {
            graph.set_origin(pick(&wire.origins, node.origin, "origin")?);
            let name = pick(self.words, node.op, "word")?;
            let value = match &node.ty {
                Some(ty) => {
                    let (input, v, role) = inputs.next().ok_or("a graph has more input nodes than inputs")?;
                    if name != "input" || *v as usize != i || !size_is_sane(ty) || !node.operands.is_empty() {
                        return Err(format!("input `{input}` is malformed"));
                    }
                    graph.input(input.clone(), ty.clone(), *role)
                }
                None => self.node(&mut graph, node, name, done, &mut depth)?,
            };
            if value.index() != i {
                return Err(format!("node {i} is there twice"));
            }
        }
        if inputs.next().is_some() {
            return Err("a graph has more inputs than input nodes".to_string());
        }
        for (name, v) in wire.outputs {
            if v as usize >= graph.nodes().len() {
                return Err(format!("output `{name}` names no value"));
            }
            graph.output(name, ValueId(v));
        }
        if depth != wire.depth || depth as usize > MAX_REGION_DEPTH {
            return Err("regions are nested too deep".to_string());
        }
        graph.clear_origin();
        Ok((Arc::new(graph), depth))
    }

    fn node(&self, graph: &mut Graph, node: &WireNode, name: &str, done: &[(Arc<Graph>, u32)], depth: &mut u32) -> Result<ValueId, String> {
        let mut attrs: Vec<(String, Attr)> = Vec::with_capacity(node.attrs.len());
        for (key, attr) in &node.attrs {
            attrs.push((pick(self.words, *key, "word")?.clone(), self.attr(attr, done, depth)?));
        }
        let op = Op::parse(name, &attrs).ok_or_else(|| format!("there is no op `{name}`"))?.map_err(|e| e.to_string())?;
        if node.operands.iter().any(|o| *o as usize >= graph.nodes().len()) {
            return Err(format!("an operand of `{name}` is not an earlier value"));
        }
        let operands: Vec<ValueId> = node.operands.iter().map(|o| ValueId(*o)).collect();
        let types: Vec<&Type> = operands.iter().map(|o| graph.ty(*o)).collect();
        let ty = op.infer(&types).map_err(|e| e.to_string())?;
        if !ty.components().iter().all(size_is_sane) {
            return Err(format!("the result of `{name}` is too large"));
        }
        graph.add(op, &operands).map_err(|e| e.to_string())
    }

    fn attr(&self, attr: &WireAttr, done: &[(Arc<Graph>, u32)], depth: &mut u32) -> Result<Attr, String> {
        Ok(match attr {
            WireAttr::Bool(v) => Attr::Bool(*v),
            WireAttr::Int(v) => Attr::Int(*v),
            WireAttr::Float(v) => Attr::Float(*v),
            WireAttr::Word(w) => Attr::Word(pick(self.words, *w, "word")?.clone()),
            WireAttr::Ints(v) => Attr::Ints(v.clone()),
            WireAttr::Lists(v) => Attr::Lists(v.clone()),
            WireAttr::DType(d) => Attr::DType(*d),
            WireAttr::Literal(l) => Attr::Literal(pick(self.literals, *l, "constant")?.clone()),
            WireAttr::Program(p) => Attr::Program(pick(self.programs, *p, "fused program")?.clone()),
            WireAttr::Region(g) => {
                let (graph, inner) = pick(done, *g, "graph")?;
                *depth = (*depth).max(inner + 1);
                if *depth as usize > MAX_REGION_DEPTH {
                    return Err("regions are nested too deep".to_string());
                }
                Attr::Region(graph.clone())
            }
        })
    }
}
