//! The graph with every composite op expanded, as a flat list, and what each node reads behind its views.
//!
//! Expansions are not hash-consed with each other: two composite ops never share a part.

use super::MAX_ROW;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::ops::Op;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType, Type, element_count};
use smallvec::SmallVec;

/// How a node takes part in fusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read through, never computed by itself inside a group.
    View,
    /// Elementwise.
    Elementwise,
    /// A reduction of this many trailing dimensions.
    RowReduce(usize),
    /// Everything else.
    Other,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct FlatNode {
    /// Its op; never composite.
    pub op: Op,
    /// Its operands, by position.
    pub operands: SmallVec<[u32; 4]>,
    /// Its type.
    pub ty: Type,
    /// The value of the graph that it stands for or is a part of.
    pub origin: ValueId,
    /// How it takes part in fusion.
    pub kind: Kind,
    /// The innermost loop that it belongs to, as a position in the graph's nest.
    pub inside: Option<usize>,
}

impl FlatNode {
    /// Its tensor type; for a tuple, the first component's.
    pub fn tensor(&self) -> &TensorType {
        &self.ty.components()[0]
    }
}

/// What an operand really is, behind its views.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A known number in every element, by the bits that a program uses.
    Number(DType, u64),
    /// The index along a dimension of the reader.
    Index(DType, usize),
    /// A node, and which dimension of the reader each of its dimensions moves with; `None` for extents of 1 that do not move.
    Node(u32, SmallVec<[Option<usize>; 6]>),
}

/// The flat graph.
#[derive(Debug)]
pub(super) struct Flat {
    /// Nodes, operands first; all are live.
    pub nodes: Vec<FlatNode>,
    /// Outputs, by position.
    pub outputs: Vec<u32>,
    /// For fusable nodes, what each operand is.
    pub sources: Vec<SmallVec<[Source; 3]>>,
    /// The nodes behind the operands of every node that is no view.
    pub needs: Vec<SmallVec<[u32; 4]>>,
    /// For every node, the nodes that need it.
    pub users: Vec<Vec<u32>>,
    /// Nodes that outputs need, directly or behind views.
    pub pinned: Vec<bool>,
}

/// The bits of the one number in a constant.
fn number(op: &Op) -> Option<(DType, u64)> {
    let Op::Constant(c) = op else { return None };
    let ty = c.value.ty();
    let (bytes, size) = (c.value.bytes(), ty.dtype.size());
    let first = bytes.get(..size)?;
    if bytes.chunks_exact(size).any(|c| c != first) {
        return None;
    }
    let one = Tensor::from_literal(&girih_ir::literal::Literal::new(TensorType::scalar(ty.dtype), first.to_vec()).ok()?);
    Some((ty.dtype, if ty.dtype.is_float() { one.floats()[0].to_bits() } else { one.ints()[0] as u64 }))
}

/// For each operand dimension of a reshape that only adds or drops extents of 1, its result dimension.
fn unit_reshape(from: &[usize], to: &[usize]) -> Option<SmallVec<[Option<usize>; 6]>> {
    let mut targets = to.iter().enumerate().filter(|(_, e)| **e != 1);
    let map: Option<SmallVec<[Option<usize>; 6]>> =
        from.iter().map(|e| if *e == 1 { Some(None) } else { targets.next().filter(|(_, t)| *t == e).map(|(i, _)| Some(i)) }).collect();
    map.filter(|_| targets.next().is_none())
}

fn kind(op: &Op, operand: Option<&TensorType>) -> Kind {
    match op {
        Op::Broadcast(_) | Op::Transpose(_) | Op::Iota(_) => Kind::View,
        Op::Constant(_) if number(op).is_some() => Kind::View,
        Op::Reshape(r) if operand.is_some_and(|t| unit_reshape(&t.shape, &r.shape).is_some()) => Kind::View,
        op if op.is_elementwise() => Kind::Elementwise,
        Op::Reduce(r) => match operand {
            Some(t) if r.dims.len() < t.rank() && !r.dims.is_empty() => {
                let lead = t.rank() - r.dims.len();
                let trailing = r.dims.iter().copied().eq(lead..t.rank());
                if trailing && element_count(&t.shape[lead..]) <= MAX_ROW { Kind::RowReduce(r.dims.len()) } else { Kind::Other }
            }
            _ => Kind::Other,
        },
        _ => Kind::Other,
    }
}

struct Flattener {
    nodes: Vec<FlatNode>,
    inside: Option<usize>,
}

impl Flattener {
    /// Appends a node, or the parts of its expansion; returns one position a result component.
    fn append(&mut self, op: &Op, operands: &[u32], ty: &Type, origin: ValueId) -> Vec<u32> {
        if !op.is_composite() {
            let first = operands.first().map(|o| self.nodes[*o as usize].tensor().clone());
            let kind = kind(op, first.as_ref());
            self.nodes.push(FlatNode {
                op: op.clone(),
                operands: SmallVec::from_slice(operands),
                ty: ty.clone(),
                origin,
                kind,
                inside: self.inside,
            });
            return vec![self.nodes.len() as u32 - 1];
        }
        let mut body = Graph::new(op.name());
        let ins: Vec<ValueId> = operands
            .iter()
            .enumerate()
            .map(|(i, o)| body.input(format!("x{i}"), self.nodes[*o as usize].tensor().clone(), Role::Data))
            .collect();
        let outs = op.expand(&mut body, &ins).unwrap_or_default();
        let mut map: Vec<u32> = operands.to_vec();
        for node in &body.nodes()[ins.len()..] {
            let operands: SmallVec<[u32; 4]> = node.operands.iter().map(|o| map[o.index()]).collect();
            let made = self.append(&node.op, &operands, &node.ty, origin);
            map.push(made[0]);
        }
        outs.into_iter().map(|v| map[v.index()]).collect()
    }
}

/// Expands and flattens the live part of a graph.
pub(super) fn flatten(graph: &Graph) -> Flat {
    let nest = LoopNest::of(graph).unwrap_or_default();
    let mut f = Flattener { nodes: Vec::new(), inside: None };
    let mut map: Vec<Vec<u32>> = vec![Vec::new(); graph.nodes().len()];
    let live = graph.live();
    for v in graph.values().filter(|v| live[v.index()]) {
        let node = graph.node(v);
        if let (Op::Proj(p), [tuple]) = (&node.op, &node.operands[..])
            && graph.node(*tuple).op.is_composite()
        {
            map[v.index()] = vec![map[tuple.index()][p.index]];
            continue;
        }
        let operands: SmallVec<[u32; 4]> = node.operands.iter().map(|o| map[o.index()][0]).collect();
        f.inside = nest.innermost(v);
        map[v.index()] = f.append(&node.op, &operands, &node.ty, v);
    }
    let outputs = graph.outputs.iter().map(|o| map[o.value.index()][0]).collect();
    prune(f.nodes, outputs)
}

/// Drops parts of expansions that nobody needs, and works out who reads what.
fn prune(nodes: Vec<FlatNode>, outputs: Vec<u32>) -> Flat {
    let mut live: Vec<bool> = nodes.iter().map(|n| matches!(n.op, Op::Input(_))).collect();
    outputs.iter().for_each(|o| live[*o as usize] = true);
    for i in (0..nodes.len()).rev() {
        if live[i] {
            nodes[i].operands.iter().for_each(|o| live[*o as usize] = true);
        }
    }
    let mut place = vec![0u32; nodes.len()];
    let mut kept: Vec<FlatNode> = Vec::new();
    for (i, mut node) in nodes.into_iter().enumerate().filter(|(i, _)| live[*i]) {
        node.operands.iter_mut().for_each(|o| *o = place[*o as usize]);
        place[i] = kept.len() as u32;
        kept.push(node);
    }
    let n = kept.len();
    let outputs: Vec<u32> = outputs.into_iter().map(|o| place[o as usize]).collect();
    let mut flat = Flat {
        nodes: kept,
        outputs,
        sources: vec![SmallVec::new(); n],
        needs: vec![SmallVec::new(); n],
        users: vec![Vec::new(); n],
        pinned: vec![false; n],
    };
    for i in (0..n).filter(|i| flat.nodes[*i].kind != Kind::View) {
        let sources: SmallVec<[Source; 3]> = flat.nodes[i].operands.iter().map(|o| flat.source(*o)).collect();
        let mut needs: SmallVec<[u32; 4]> = sources.iter().filter_map(Source::node).collect();
        needs.sort_unstable();
        needs.dedup();
        needs.iter().for_each(|b| flat.users[*b as usize].push(i as u32));
        flat.needs[i] = needs;
        flat.sources[i] = sources;
    }
    for o in flat.outputs.clone() {
        if let Some(b) = flat.source(o).node() {
            flat.pinned[b as usize] = true;
        }
    }
    flat
}

impl Source {
    /// The node, if it is one.
    pub fn node(&self) -> Option<u32> {
        match self {
            Source::Node(n, _) => Some(*n),
            _ => None,
        }
    }
}

impl Flat {
    /// What a value is behind its views, seen from a reader of its shape.
    pub fn source(&self, value: u32) -> Source {
        let mut at = value;
        let mut dims: SmallVec<[Option<usize>; 6]> = (0..self.nodes[at as usize].tensor().rank()).map(Some).collect();
        loop {
            let node = &self.nodes[at as usize];
            if node.kind != Kind::View {
                return Source::Node(at, dims);
            }
            let from: Dims = node.operands.first().map(|o| self.nodes[*o as usize].tensor().shape.clone()).unwrap_or_default();
            dims = match &node.op {
                Op::Broadcast(b) => b.dims.iter().zip(&from).map(|(d, e)| if *e == b.shape[*d] { dims[*d] } else { None }).collect(),
                Op::Transpose(t) => t.inverse().into_iter().map(|i| dims[i]).collect(),
                Op::Reshape(r) => {
                    let map = unit_reshape(&from, &r.shape).expect("a reshape is a view only when it is one");
                    map.into_iter().map(|m| m.and_then(|m| dims[m])).collect()
                }
                Op::Iota(i) => {
                    return match dims[i.dim] {
                        Some(d) => Source::Index(i.dtype, d),
                        None => Source::Number(i.dtype, 0),
                    };
                }
                op => {
                    let (dtype, bits) = number(op).expect("a constant is a view only when it is one number");
                    return Source::Number(dtype, bits);
                }
            };
            at = node.operands[0];
        }
    }
}
