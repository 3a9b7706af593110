//! The graph of one slice: every node with the extents of its share, and the shares of values that are the same for all.

use super::Refusal;
use super::classes::{Class, Classes, Split, regrouped_back};
use crate::sharded::axes_of;
use girih_ir::axes::{DimUse, LoopKind};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::broadcast::Broadcast;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::reshape::Reshape;
use girih_ir::types::{Dims, TensorType};
use rustc_hash::FxHashMap;

/// How deep the share of a uniform value is looked for before it is cut out of the whole.
const DEPTH: usize = 64;

/// A new graph on its way.
pub(super) struct Rebuild<'a> {
    pub classes: &'a Classes<'a>,
    pub out: Graph,
    /// What stands for a value that is the same for all slices.
    pub whole: Vec<Option<ValueId>>,
    /// What stands for a slice's part of a value.
    pub part: Vec<Option<ValueId>>,
    cuts: FxHashMap<(ValueId, Split), ValueId>,
    /// The number of the slice, an i64 scalar, where slices know it.
    pub slice: Option<ValueId>,
}

impl<'a> Rebuild<'a> {
    /// An empty graph with the inputs of the step; inputs that are cut have `shape` as it is given.
    pub fn new(classes: &'a Classes<'a>, shape: impl Fn(usize, &TensorType) -> TensorType) -> Self {
        let graph = classes.graph();
        let n = graph.nodes().len();
        let mut out = Graph::new(graph.name.clone());
        let mut whole = vec![None; n];
        for (k, i) in graph.inputs.iter().enumerate() {
            whole[i.value.index()] = Some(out.input(i.name.clone(), shape(k, graph.tensor_ty(i.value)), i.role));
        }
        Rebuild { classes, out, whole, part: vec![None; n], cuts: FxHashMap::default(), slice: None }
    }

    fn graph(&self) -> &'a Graph {
        self.classes.graph()
    }

    /// What stands for a value that is the same for all slices.
    pub fn uniform(&self, v: ValueId) -> Result<ValueId, Refusal> {
        match self.whole[v.index()].or(self.part[v.index()]) {
            Some(made) => Ok(made),
            None => Err(Refusal::Phases { value: v, origin: self.graph().origin(v).to_string() }),
        }
    }

    fn part(&self, v: ValueId) -> Result<ValueId, Refusal> {
        match self.part[v.index()] {
            Some(made) => Ok(made),
            None => self.classes.refuse(v, "it is needed before it is made"),
        }
    }

    /// Emits a node that is the same for all slices.
    pub fn emit_uniform(&mut self, v: ValueId) -> Result<(), Refusal> {
        if self.whole[v.index()].is_some() {
            return Ok(());
        }
        let node = self.graph().node(v);
        let operands: Vec<ValueId> = node.operands.iter().map(|o| self.uniform(*o)).collect::<Result<_, _>>()?;
        self.out.set_origin(self.graph().origin(v));
        self.whole[v.index()] = Some(self.add(v, node.op.clone(), &operands)?);
        Ok(())
    }

    /// Emits a slice's part of a node.
    pub fn emit_part(&mut self, v: ValueId) -> Result<(), Refusal> {
        if self.part[v.index()].is_some() {
            return Ok(());
        }
        let node = self.graph().node(v);
        let mut operands = Vec::with_capacity(node.operands.len());
        for k in 0..node.operands.len() {
            operands.push(self.operand(v, k)?);
        }
        let op = self.local_op(v);
        self.out.set_origin(self.graph().origin(v));
        let made = self.add(v, op, &operands)?;
        self.part[v.index()] = Some(made);
        Ok(())
    }

    fn add(&mut self, v: ValueId, op: Op, operands: &[ValueId]) -> Result<ValueId, Refusal> {
        match self.out.add(op, operands) {
            Ok(made) => Ok(made),
            Err(e) => self.classes.refuse(v, format!("its share does not type: {e}")),
        }
    }

    /// What a slice's node reads as operand `k`.
    fn operand(&mut self, v: ValueId, k: usize) -> Result<ValueId, Refusal> {
        let graph = self.graph();
        let node = graph.node(v);
        let o = node.operands[k];
        let class = self.classes.class(o);
        // Carries and ends of loops: each slot is as its carry is.
        let slot = match &node.op {
            Op::Carry(_) => Some(v),
            Op::Repeat(_) | Op::While(_) => {
                let first = usize::from(matches!(node.op, Op::While(_)));
                let slots = (node.operands.len() - first) / 2;
                k.checked_sub(first).map(|k| node.operands[first + k % slots])
            }
            _ => None,
        };
        if let Some(slot) = slot {
            return match (self.classes.made(slot), class) {
                (Class::Sliced(split), Class::Uniform | Class::Unknown) => self.cut(o, split, 0),
                (Class::Uniform | Class::Unknown, _) => self.uniform(o),
                (Class::Partial(_), Class::Uniform | Class::Unknown) if self.classes.is_zero(o) => self.uniform(o),
                (Class::Partial(_), Class::Uniform | Class::Unknown) => {
                    self.classes.refuse(v, "what it starts from would count in every slice")
                }
                _ => self.part(o),
            };
        }
        match class {
            Class::Sliced(_) | Class::Partial(_) => self.part(o),
            Class::Uniform | Class::Unknown => match self.wanted(v, k) {
                Some(split) => self.cut(o, split, 0),
                None => self.uniform(o),
            },
        }
    }

    /// Where a sliced node wants an operand cut.
    fn wanted(&self, v: ValueId, k: usize) -> Option<Split> {
        let l = self.classes.loops[v.index()]?;
        let graph = self.graph();
        let inner = graph.node(v).operands.iter().find_map(|o| match self.classes.class(*o) {
            Class::Sliced(s) => Some(s.inner),
            _ => None,
        })?;
        let dim = axes_of(graph, v).operands[k].iter().position(|u| *u == DimUse::Loop(l))?;
        Some(Split { dim, inner })
    }

    /// The op of a node with the extents of a slice.
    fn local_op(&self, v: ValueId) -> Op {
        let node = self.graph().node(v);
        let at = |class: Class| if let Class::Sliced(s) = class { Some(s.dim) } else { None };
        let result = if matches!(node.op, Op::Proj(_)) { None } else { at(self.classes.made(v)) };
        self.resized(v, result, node.operands.first().and_then(|o| at(self.classes.class(*o))))
    }

    /// The op of a node whose result and first operand are cut along these dimensions.
    fn resized(&self, v: ValueId, result: Option<usize>, operand: Option<usize>) -> Op {
        let graph = self.graph();
        let node = graph.node(v);
        let parts = self.classes.parts;
        let mut op = node.op.clone();
        match (&mut op, result) {
            (Op::Broadcast(b), Some(d)) => b.shape[d] /= parts,
            (Op::Reshape(r), Some(d)) => r.shape[d] /= parts,
            (Op::Slice(s), Some(d)) => s.limit[d] = s.start[d] + (s.limit[d] - s.start[d]) / parts,
            (Op::DynamicSlice(s), Some(d)) => s.sizes[d] /= parts,
            (Op::Gather(g), _) => {
                if let Some(d) = operand.filter(|d| g.slice_sizes[*d] == graph.shape(node.operands[0])[*d] && g.slice_sizes[*d] > 1) {
                    g.slice_sizes[d] /= parts;
                }
            }
            _ => {}
        }
        op
    }

    /// A slice's share of a value that is the same for all.
    pub fn cut(&mut self, v: ValueId, split: Split, depth: usize) -> Result<ValueId, Refusal> {
        if let Some(known) = self.cuts.get(&(v, split)) {
            return Ok(*known);
        }
        let made = match self.share(v, split, depth)? {
            Some(made) => made,
            None => self.out_of_whole(v, split)?,
        };
        self.cuts.insert((v, split), made);
        Ok(made)
    }

    /// The share, made from shares; `None` when it has to be cut out of the whole.
    fn share(&mut self, v: ValueId, split: Split, depth: usize) -> Result<Option<ValueId>, Refusal> {
        let graph = self.graph();
        let node = graph.node(v);
        let parts = self.classes.parts;
        if depth >= DEPTH || self.whole[v.index()].is_none() {
            return Ok(None);
        }
        let shape = graph.shape(v);
        let local = || -> Dims { shape.iter().enumerate().map(|(d, e)| if d == split.dim { e / parts } else { *e }).collect() };
        let made = match &node.op {
            Op::Broadcast(b) => {
                let from = node.operands[0];
                let along = b.dims.iter().position(|d| *d == split.dim).filter(|i| graph.shape(from)[*i] == shape[split.dim]);
                let operand = match along {
                    Some(dim) => self.cut(from, Split { dim, ..split }, depth + 1)?,
                    None => self.uniform(from)?,
                };
                self.out.set_origin(graph.origin(v));
                self.add(v, Broadcast { shape: local(), dims: b.dims.clone() }.into(), &[operand])?
            }
            Op::Iota(i) if i.dim != split.dim => self.add(v, Iota { dtype: i.dtype, shape: local(), dim: i.dim }.into(), &[])?,
            Op::Constant(c) => {
                let size = c.value.ty().dtype.size();
                let first = c.value.bytes().get(..size).unwrap_or(&[]);
                if c.value.bytes().chunks(size.max(1)).any(|e| e != first) {
                    return Ok(None);
                }
                let scalar = girih_ir::literal::Literal::new(TensorType::scalar(c.value.ty().dtype), first.to_vec());
                let Ok(value) = scalar else { return Ok(None) };
                let scalar = self.add(v, girih_ir::ops::constant::Constant { value }.into(), &[])?;
                self.out.broadcast(scalar, &local(), &[])
            }
            Op::Reshape(_) => {
                let from = node.operands[0];
                let Some(before) = regrouped_back(graph.shape(from), shape, split, parts) else { return Ok(None) };
                let operand = self.cut(from, before, depth + 1)?;
                self.add(v, Reshape { shape: local() }.into(), &[operand])?
            }
            Op::Input(_) | Op::Iota(_) | Op::Random(_) | Op::Proj(_) => return Ok(None),
            Op::Carry(_) | Op::LoopIndex(_) | Op::Repeat(_) | Op::While(_) => return Ok(None),
            _ => return self.share_of_loop(v, split, depth),
        };
        Ok(Some(made))
    }

    /// The share of a node that goes through its result row by row: from the rows of its operands.
    fn share_of_loop(&mut self, v: ValueId, split: Split, depth: usize) -> Result<Option<ValueId>, Refusal> {
        let graph = self.graph();
        let node = graph.node(v);
        let axes = axes_of(graph, v);
        let Some(DimUse::Loop(l)) = axes.results[0].get(split.dim) else { return Ok(None) };
        let moves = |u: &DimUse| match u {
            DimUse::Loop(_) | DimUse::Whole => false,
            DimUse::Window { loop_dim, .. } => loop_dim == l,
            DimUse::Linear { terms, .. } => terms.iter().any(|t| t.0 == *l),
        };
        let rows = axes.loops[*l].kind == LoopKind::Parallel && graph.ty(v).as_tensor().is_some();
        if !rows || axes.operands.iter().flatten().any(moves) {
            return Ok(None);
        }
        let cut = |k: usize| axes.operands[k].iter().position(|u| *u == DimUse::Loop(*l));
        let mut operands = Vec::with_capacity(node.operands.len());
        for (k, o) in node.operands.iter().enumerate() {
            operands.push(match cut(k) {
                Some(dim) => self.cut(*o, Split { dim, ..split }, depth + 1)?,
                None => self.uniform(*o)?,
            });
        }
        let op = self.resized(v, Some(split.dim), if operands.is_empty() { None } else { cut(0) });
        self.out.set_origin(graph.origin(v));
        self.add(v, op, &operands).map(Some)
    }

    /// The share of a value that is there as a whole, by the number of the slice.
    fn out_of_whole(&mut self, v: ValueId, split: Split) -> Result<ValueId, Refusal> {
        let graph = self.graph();
        let extent = graph.shape(v)[split.dim];
        if extent != split.inner * self.classes.parts {
            return self.classes.refuse(v, "its rows do not lie next to each other");
        }
        let Some(slice) = self.slice else {
            return self.classes.refuse(v, "it is not the same for every row of the batch, and a slice does not know which rows it has");
        };
        let whole = self.uniform(v)?;
        Ok(sliced_out(&mut self.out, whole, split, slice))
    }
}

/// The rows of slice number `slice` of a whole value.
pub(super) fn sliced_out(graph: &mut Graph, whole: ValueId, split: Split, slice: ValueId) -> ValueId {
    let starts = slice_starts(graph, whole, split, slice);
    let mut sizes = Dims::from_slice(graph.shape(whole));
    sizes[split.dim] = split.inner;
    let operands: Vec<ValueId> = std::iter::once(whole).chain(starts).collect();
    graph.emit(girih_ir::ops::dynamic_slice::DynamicSlice { sizes }, &operands)
}

/// Where the rows of slice number `slice` begin: one scalar a dimension.
pub(super) fn slice_starts(graph: &mut Graph, whole: ValueId, split: Split, slice: ValueId) -> Vec<ValueId> {
    let ty = graph.tensor_ty(slice).clone();
    let (zero, rows) = (graph.splat(&ty, 0.0), graph.splat(&ty, split.inner as f64));
    let first = graph.times(slice, rows);
    (0..graph.shape(whole).len()).map(|d| if d == split.dim { first } else { zero }).collect()
}
