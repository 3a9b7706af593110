//! The tensor graph: an arena of hash-consed nodes in topological order.
//!
//! A node is one op applied to earlier values; its id is its value. Multi-result ops have a tuple type that `proj` takes apart.
//! Every node is typed when it is added, so an ill-typed graph cannot be built.

pub mod build;
pub mod loops;
pub mod random;

use crate::literal::Literal;
use crate::newtype_id;
use crate::ops::{InferError, Op};
use crate::types::{TensorType, Type};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::hash::{Hash, Hasher};

newtype_id! {
    /// A value of a graph, and the node that makes it. Printed `%3`.
    ValueId, "%"
}
newtype_id! {
    /// Where in the source model a node came from.
    OriginId, "origin"
}

/// One op applied to values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The op with its attributes.
    pub op: Op,
    /// The values that it reads, each made by an earlier node.
    pub operands: SmallVec<[ValueId; 4]>,
    /// The type of the value.
    pub ty: Type,
    /// Where it came from.
    pub origin: OriginId,
}

/// What an input is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Given anew each step: part of the batch.
    Data,
    /// A trainable parameter.
    Param,
    /// Carried from step to step but not trained: optimizer slots, running statistics, the step counter.
    State,
}

impl Role {
    /// The word in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Role::Data => "input",
            Role::Param => "param",
            Role::State => "state",
        }
    }
    /// The role of that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Role::Data, Role::Param, Role::State].into_iter().find(|r| r.name() == name)
    }
}

/// A named input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphInput {
    /// Its name in the model.
    pub name: String,
    /// Its value: an `input` node.
    pub value: ValueId,
    /// What it is for.
    pub role: Role,
}

/// A named output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphOutput {
    /// Its name in the model.
    pub name: String,
    /// Its value.
    pub value: ValueId,
}

/// A tensor graph.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    /// Name, printed after `@`.
    pub name: String,
    nodes: Vec<Node>,
    /// Inputs in order.
    pub inputs: Vec<GraphInput>,
    /// Outputs in order.
    pub outputs: Vec<GraphOutput>,
    /// Texts of the origins.
    origins: Vec<String>,
    #[serde(skip)]
    interned: FxHashMap<(Op, SmallVec<[ValueId; 4]>), ValueId>,
    #[serde(skip)]
    origin_ids: FxHashMap<String, OriginId>,
    #[serde(skip)]
    current_origin: Option<OriginId>,
}

/// Equal names, ops, operands, types, inputs, outputs and origins.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        let key = |g: &Graph| (g.name.clone(), g.inputs.clone(), g.outputs.clone());
        let same = |a: ValueId| {
            let (x, y) = (self.node(a), other.node(a));
            x.op == y.op && x.operands == y.operands && x.ty == y.ty && self.origin(a) == other.origin(a)
        };
        self.nodes.len() == other.nodes.len() && key(self) == key(other) && self.values().all(same)
    }
}
impl Eq for Graph {}
impl PartialOrd for Graph {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Graph {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |g: &Graph| {
            let nodes: Vec<_> = g.nodes.iter().map(|n| (n.op.clone(), n.operands.clone(), n.ty.clone())).collect();
            let inputs: Vec<_> = g.inputs.iter().map(|i| (i.name.clone(), i.value, i.role)).collect();
            let outputs: Vec<_> = g.outputs.iter().map(|o| (o.name.clone(), o.value)).collect();
            let origins: Vec<_> = g.values().map(|v| g.origin(v).to_string()).collect();
            (g.name.clone(), nodes, inputs, outputs, origins)
        };
        key(self).cmp(&key(other))
    }
}
impl Hash for Graph {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nodes.len().hash(state);
        for n in &self.nodes {
            (&n.op, &n.operands).hash(state);
        }
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds a named input.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorType, role: Role) -> ValueId {
        let op = Op::Input(crate::ops::input::Input { index: self.inputs.len() });
        let value = self.push(op, SmallVec::new(), ty.into());
        self.inputs.push(GraphInput { name: name.into(), value, role });
        value
    }

    /// Adds a named output.
    pub fn output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push(GraphOutput { name: name.into(), value });
    }

    /// Adds an op, or finds the equal node that is already there. The type is inferred; an ill-typed op is refused.
    pub fn add(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, InferError> {
        let ty = {
            let types: SmallVec<[&Type; 4]> = operands.iter().map(|v| self.ty(*v)).collect();
            op.infer(&types)?
        };
        Ok(self.push(op, SmallVec::from_slice(operands), ty))
    }

    fn push(&mut self, op: Op, operands: SmallVec<[ValueId; 4]>, ty: Type) -> ValueId {
        if self.interned.len() != self.nodes.len() {
            self.interned = self.nodes.iter().enumerate().map(|(i, n)| ((n.op.clone(), n.operands.clone()), ValueId::new(i))).collect();
        }
        let key = (op, operands);
        if let Some(known) = self.interned.get(&key) {
            return *known;
        }
        let value = ValueId::new(self.nodes.len());
        let origin = self.current_origin.unwrap_or_else(|| self.intern_origin(""));
        self.nodes.push(Node { op: key.0.clone(), operands: key.1.clone(), ty, origin });
        self.interned.insert(key, value);
        value
    }

    fn intern_origin(&mut self, text: &str) -> OriginId {
        if self.origin_ids.len() != self.origins.len() {
            self.origin_ids = self.origins.iter().enumerate().map(|(i, o)| (o.clone(), OriginId::new(i))).collect();
        }
        if let Some(id) = self.origin_ids.get(text) {
            return *id;
        }
        let id = OriginId::new(self.origins.len());
        self.origins.push(text.to_string());
        self.origin_ids.insert(text.to_string(), id);
        id
    }

    /// Nodes added from now on come from nowhere in particular.
    pub fn clear_origin(&mut self) {
        self.current_origin = None;
    }

    /// Nodes added from now on come from this place of the source model.
    pub fn set_origin(&mut self, text: &str) {
        let id = self.intern_origin(text);
        self.current_origin = Some(id);
    }

    /// Nodes in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// Every value in topological order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = ValueId> + use<> {
        (0..self.nodes.len()).map(ValueId::new)
    }
    /// The node that makes a value.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.index()]
    }
    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &Type {
        &self.nodes[value.index()].ty
    }
    /// The tensor type of a value; for a tuple, its first component.
    pub fn tensor_ty(&self, value: ValueId) -> &TensorType {
        &self.nodes[value.index()].ty.components()[0]
    }
    /// The extents of a value.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.tensor_ty(value).shape
    }
    /// Where a value came from in the source model; empty when nobody said.
    pub fn origin(&self, value: ValueId) -> &str {
        self.origins.get(self.node(value).origin.index()).map_or("", String::as_str)
    }
    /// The scalar constant that a value is or repeats.
    pub fn splat_of(&self, value: ValueId) -> Option<&Literal> {
        let node = self.node(value);
        let one = if matches!(node.op, Op::Broadcast(_)) { self.node(node.operands[0]) } else { node };
        match &one.op {
            Op::Constant(c) if c.value.ty().rank() == 0 => Some(&c.value),
            _ => None,
        }
    }
    /// The input of that name.
    pub fn find_input(&self, name: &str) -> Option<&GraphInput> {
        self.inputs.iter().find(|i| i.name == name)
    }
    /// The output of that name.
    pub fn find_output(&self, name: &str) -> Option<&GraphOutput> {
        self.outputs.iter().find(|o| o.name == name)
    }

    /// How many operands and outputs read each value.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.nodes.len()];
        self.nodes.iter().flat_map(|n| &n.operands).for_each(|v| counts[v.index()] += 1);
        self.outputs.iter().for_each(|o| counts[o.value.index()] += 1);
        counts
    }

    /// Which values an output depends on.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        self.outputs.iter().for_each(|o| live[o.value.index()] = true);
        self.inputs.iter().for_each(|i| live[i.value.index()] = true);
        for v in self.values().rev() {
            if live[v.index()] {
                self.nodes[v.index()].operands.iter().for_each(|o| live[o.index()] = true);
            }
        }
        live
    }

    /// A copy that holds the nodes in this order, which must be topological and hold every node that an output needs. Inputs come first.
    pub(crate) fn reordered(&self, order: &[ValueId]) -> Graph {
        let mut out = Graph::new(self.name.clone());
        let mut map: Vec<Option<ValueId>> = vec![None; self.nodes.len()];
        for i in &self.inputs {
            map[i.value.index()] = Some(out.input(i.name.clone(), self.tensor_ty(i.value).clone(), i.role));
        }
        for v in order {
            if map[v.index()].is_none() {
                let node = self.node(*v);
                let operands = node.operands.iter().map(|o| map[o.index()].expect("operands come before their users")).collect();
                out.set_origin(self.origin(*v));
                map[v.index()] = Some(out.push(node.op.clone(), operands, node.ty.clone()));
            }
        }
        for o in &self.outputs {
            out.output(o.name.clone(), map[o.value.index()].expect("outputs are live"));
        }
        out.current_origin = None;
        out
    }

    /// A copy that goes node by node through `rewrite`, which may emit anything into the new graph and returns what stands for the
    /// node there. Dead nodes are dropped; inputs, outputs and origins are kept.
    pub fn rewritten<E>(
        &self,
        mut rewrite: impl FnMut(&mut Graph, &Node, &[ValueId]) -> Result<ValueId, E>,
    ) -> Result<(Graph, Vec<Option<ValueId>>), E> {
        let live = self.live();
        let mut out = Graph::new(self.name.clone());
        let mut map: Vec<Option<ValueId>> = vec![None; self.nodes.len()];
        for i in &self.inputs {
            map[i.value.index()] = Some(out.input(i.name.clone(), self.tensor_ty(i.value).clone(), i.role));
        }
        for v in self.values().filter(|v| live[v.index()]) {
            if map[v.index()].is_some() {
                continue;
            }
            let node = self.node(v);
            let operands: SmallVec<[ValueId; 4]> =
                node.operands.iter().map(|o| map[o.index()].expect("operands come before their users")).collect();
            out.set_origin(self.origin(v));
            map[v.index()] = Some(rewrite(&mut out, node, &operands)?);
        }
        for o in &self.outputs {
            out.output(o.name.clone(), map[o.value.index()].expect("outputs are live"));
        }
        out.current_origin = None;
        Ok((out, map))
    }
}
