//! Walks a decoded model node by node: names, scopes, functions, and the list of what is not supported.

use super::build::{Builder, Val};
use super::call::{Attrs, Call, Fault, Outputs, Res, Value, malformed, unsupported};
use super::ops;
use super::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetId, TensorProto, ValueInfoProto, ValueNoteProto};
use super::tensor::{TensorReader, checked_dims, dtype_of, unsupported_type};
use super::{BatchNormMode, Buffer, ImportOptions, Imported};
use crate::import::error::{ImportError, Problem, UnsupportedOp, clean};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

/// Initializers up to this many elements may be used where a value must be known.
const KNOWN_INITIALIZER: usize = 4096;

/// One level of names.
struct Scope<'a> {
    values: BTreeMap<&'a str, Value>,
    /// Whether names of the level outside are visible.
    open: bool,
}

/// The operator sets in force and the caller's attributes: changes inside functions.
#[derive(Clone)]
struct Frame<'a> {
    opsets: BTreeMap<&'a str, i64>,
    attrs: Option<Attrs<'a>>,
}

/// The state of an import.
pub(super) struct Importer<'a> {
    pub(super) builder: Builder<'a>,
    options: &'a ImportOptions,
    functions: BTreeMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    scopes: Vec<Scope<'a>>,
    frames: Vec<Frame<'a>>,
    unsupported: Vec<UnsupportedOp>,
    processed: u64,
    initial: IndexMap<String, Literal>,
    state_inputs: BTreeMap<Val, String>,
}

/// The default domain under both of its names.
fn domain(name: Option<&str>) -> &str {
    match name.unwrap_or("") {
        "ai.onnx" => "",
        other => other,
    }
}

fn opsets(list: &[OperatorSetId]) -> BTreeMap<&str, i64> {
    list.iter().map(|o| (domain(o.domain.as_deref()), o.version.unwrap_or(1))).collect()
}

/// A node's name, or that of its first output.
fn label(node: &NodeProto) -> String {
    let named = node.name.as_deref().filter(|n| !n.is_empty());
    clean(named.or(node.output.first().map(String::as_str)).unwrap_or("(without a name)"))
}

fn op_name(node: &NodeProto) -> String {
    match domain(node.domain.as_deref()) {
        "" => clean(node.op_type.as_deref().unwrap_or("")),
        domain => clean(&format!("{domain}::{}", node.op_type.as_deref().unwrap_or(""))),
    }
}

/// Imports a decoded model.
pub(super) fn run(model: &ModelProto, folder: Option<&Path>, options: &ImportOptions) -> Result<Imported, ImportError> {
    let Some(graph) = &model.graph else {
        return Err(ImportError::Malformed(Problem::new("E0101", "the file holds no graph").help("is this an ONNX model?")));
    };
    let reader = TensorReader::new(folder, &options.limits);
    let name = graph.name.as_deref().filter(|n| !n.is_empty()).unwrap_or("model");
    let mut importer = Importer {
        builder: Builder::new(&identifier(name), &options.limits, reader),
        options,
        functions: BTreeMap::new(),
        scopes: vec![Scope { values: BTreeMap::new(), open: false }],
        frames: vec![Frame { opsets: opsets(&model.opset_import), attrs: None }],
        unsupported: Vec::new(),
        processed: 0,
        initial: IndexMap::new(),
        state_inputs: BTreeMap::new(),
    };
    importer.builder.batch_statistics = options.batch_norm == BatchNormMode::BatchStatistics;
    for f in &model.functions {
        let key = (domain(f.domain.as_deref()), f.name.as_deref().unwrap_or(""), f.overload.as_deref().unwrap_or(""));
        importer.functions.insert(key, f);
    }
    importer.main(graph)
}

/// A graph name that the text form can print.
fn identifier(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

impl<'a> Importer<'a> {
    fn main(mut self, graph: &'a GraphProto) -> Result<Imported, ImportError> {
        self.check_names(graph)?;
        self.builder.expect_nodes(graph.node.len() as u64);
        let initializers: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_deref().unwrap_or("")).collect();
        self.inputs(graph, &initializers)?;
        self.initializers(graph)?;
        for node in &graph.node {
            self.node(node)?;
        }
        self.outputs(graph)?;
        if !self.unsupported.is_empty() {
            return Err(ImportError::Unsupported { ops: self.unsupported });
        }
        Ok(self.finish())
    }

    /// Refuses names that are too long and sparse initializers.
    fn check_names(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        let longest = self.options.limits.name_bytes;
        let nodes = graph.node.iter().flat_map(|n| n.input.iter().chain(&n.output).chain(&n.name).chain(&n.op_type));
        let tensors = graph.initializer.iter().filter_map(|t| t.name.as_ref());
        let values = graph.input.iter().chain(&graph.output).filter_map(|v| v.name.as_ref());
        if nodes.chain(tensors).chain(values).any(|n| n.len() > longest) {
            return Err(super::limits::exceeded("length of a name", longest as u64, "name-bytes"));
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().and_then(|v| v.name.as_deref()).unwrap_or("");
            self.unsupported.push(UnsupportedOp { op: "sparse initializer".into(), node: clean(name), reason: "sparse tensors".into() });
        }
        Ok(())
    }

    /// Binds the graph's inputs.
    fn inputs(&mut self, graph: &'a GraphProto, initializers: &BTreeSet<&str>) -> Result<(), ImportError> {
        let mut unbound = BTreeSet::new();
        for info in &graph.input {
            let name = info.name.as_deref().unwrap_or("");
            if initializers.contains(name) {
                continue;
            }
            let Some(ty) = self.input_type(info, &mut unbound)? else { continue };
            self.builder.graph.set_origin(&format!("input {}", clean(name)));
            let value = self.options.values.get(name).filter(|value| *value.ty() == ty);
            let v = self.builder.input(name, ty, Role::Data);
            if let Some(value) = value {
                self.builder.fix(v, Rc::new(Tensor::from_literal(value)));
            }
            self.define(name, Value::Tensor(v)).map_err(|f| self.malformed_at(f, "graph inputs"))?;
        }
        if unbound.is_empty() {
            return Ok(());
        }
        let list = unbound.into_iter().collect::<Vec<_>>().join(", ");
        let problem = Problem::new("E0130", format!("the model has dimensions without an extent: {list}"));
        Err(ImportError::Usage(
            problem.help("give each one an extent: --batch N for the first dimension of inputs, --dim NAME=N for others"),
        ))
    }

    /// The static type of an input; dimensions that nobody bound are added to `unbound`.
    fn input_type(&mut self, info: &'a ValueInfoProto, unbound: &mut BTreeSet<String>) -> Result<Option<TensorType>, ImportError> {
        let name = info.name.as_deref().unwrap_or("");
        let place = format!("input '{}'", clean(name));
        let given = self.options.input_types.get(name).cloned();
        let Some(tensor) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
            if info.r#type.as_ref().is_some_and(|t| t.sequence_type.is_some() || t.optional_type.is_some()) {
                self.unsupported.push(UnsupportedOp { op: "input".into(), node: clean(name), reason: "its type is no tensor".into() });
                self.define(name, Value::Poison).map_err(|f| self.malformed_at(f, &place))?;
                return Ok(None);
            }
            return match given {
                Some(ty) => Ok(Some(ty)),
                None => Err(ImportError::Malformed(Problem::new("E0107", "an input has no type").at(place))),
            };
        };
        let dtype = match dtype_of(tensor.elem_type.unwrap_or(0)) {
            Ok(dtype) => dtype,
            Err(other) => {
                self.refuse_type(other, &place);
                self.define(name, Value::Poison).map_err(|f| self.malformed_at(f, &place))?;
                return Ok(None);
            }
        };
        if let Some(ty) = given {
            return Ok(Some(TensorType { dtype, shape: ty.shape }));
        }
        let Some(shape) = &tensor.shape else {
            unbound.insert(format!("the rank of {}", clean(name)));
            return Ok(None);
        };
        let mut dims = Vec::new();
        for (i, dim) in shape.dim.iter().enumerate() {
            let symbol = dim.dim_param.as_deref().filter(|p| !p.is_empty());
            let positional = format!("{name}.{i}");
            let bound = symbol.and_then(|s| self.options.dims.get(s)).or(self.options.dims.get(&positional));
            let bound = bound.copied().or(if i == 0 { self.options.batch } else { None });
            match (dim.dim_value, bound) {
                (Some(d), _) => dims.push(d),
                (None, Some(d)) => dims.push(i64::try_from(d).unwrap_or(i64::MAX)),
                (None, None) => {
                    unbound.insert(clean(symbol.unwrap_or(&positional)));
                }
            }
        }
        if dims.len() < shape.dim.len() {
            return Ok(None);
        }
        Ok(Some(TensorType { dtype, shape: checked_dims(&dims, &self.options.limits, &place)? }))
    }

    /// Binds the initializers: parameters, running statistics and constants.
    fn initializers(&mut self, graph: &'a GraphProto) -> Result<(), ImportError> {
        let (buffers, fixed) = (running_statistics(graph), exported_buffers(graph));
        for tensor in &graph.initializer {
            let name = tensor.name.as_deref().unwrap_or("");
            let value = match self.initializer(tensor, name, &buffers, fixed.contains(name)) {
                Ok(v) => Value::Tensor(v),
                Err(fault) => {
                    let place = format!("initializer '{}'", clean(name));
                    self.settle(fault, &place, "initializer")?;
                    Value::Poison
                }
            };
            self.define(name, value).map_err(|f| self.malformed_at(f, "initializers"))?;
        }
        Ok(())
    }

    fn initializer(&mut self, tensor: &TensorProto, name: &str, buffers: &BTreeSet<&str>, fixed: bool) -> Res<Val> {
        let literal = self.builder.read_literal(tensor)?;
        let ty = literal.ty().clone();
        let buffer = buffers.contains(name);
        let trainable = match &self.options.trainable {
            Some(names) => names.contains(name),
            None => ty.dtype.is_float() && ty.rank() > 0 && !buffer && !fixed,
        };
        let role = if trainable && ty.dtype.is_float() {
            Role::Param
        } else if buffer && self.builder.batch_statistics {
            Role::State
        } else {
            self.builder.graph.set_origin(&format!("initializer {}", clean(name)));
            return self.builder.add_literal(literal);
        };
        self.builder.graph.set_origin(&format!("initializer {}", clean(name)));
        let small = ty.elements() <= KNOWN_INITIALIZER;
        let v = self.builder.input(name, ty, role);
        if small {
            self.builder.fix(v, Rc::new(Tensor::from_literal(&literal)));
        }
        if role == Role::State {
            self.state_inputs.insert(v, name.to_string());
        }
        self.initial.insert(name.to_string(), literal);
        Ok(v)
    }

    fn outputs(&mut self, graph: &'a GraphProto) -> Result<(), ImportError> {
        for info in &graph.output {
            let name = info.name.as_deref().unwrap_or("");
            match self.lookup(name) {
                Some(Value::Tensor(v)) => self.builder.graph.output(name, v),
                Some(Value::Poison) => {}
                Some(_) => {
                    let reason = "its type is no tensor".to_string();
                    self.unsupported.push(UnsupportedOp { op: "output".into(), node: clean(name), reason });
                }
                None => {
                    let problem = Problem::new("E0105", format!("output '{}' is computed by no node", clean(name)));
                    return Err(ImportError::Malformed(problem));
                }
            }
        }
        Ok(())
    }

    // ---- names -----------------------------------------------------------------------------------------------------------------

    fn define(&mut self, name: &'a str, value: Value) -> Res<()> {
        if name.is_empty() {
            return Ok(());
        }
        let scope = self.scopes.last_mut().expect("the main graph's scope is never left");
        match scope.values.insert(name, value) {
            None | Some(Value::Poison) => Ok(()),
            Some(_) => malformed(format!("the name '{}' is defined twice", clean(name))),
        }
    }

    fn lookup(&self, name: &str) -> Option<Value> {
        for scope in self.scopes.iter().rev() {
            if let Some(v) = scope.values.get(name) {
                return Some(v.clone());
            }
            if !scope.open {
                break;
            }
        }
        None
    }

    /// Opens a level of names inside the present one.
    pub(super) fn enter(&mut self, names: Vec<(&'a str, Value)>) -> Res<()> {
        if self.scopes.len() > self.options.limits.depth {
            return malformed("graphs are nested too deeply");
        }
        self.scopes.push(Scope { values: BTreeMap::new(), open: true });
        names.into_iter().try_for_each(|(name, value)| self.define(name, value))
    }

    /// Closes it.
    pub(super) fn leave(&mut self) {
        self.scopes.pop();
    }

    /// Runs a nested graph in the level just entered.
    pub(super) fn nested(&mut self, graph: &'a GraphProto) -> Outputs {
        for tensor in &graph.initializer {
            let v = self.builder.read_tensor(tensor)?;
            self.define(tensor.name.as_deref().unwrap_or(""), Value::Tensor(v))?;
        }
        self.nodes(&graph.node)?;
        let results = graph.output.iter().map(|o| self.result(o.name.as_deref().unwrap_or(""))).collect::<Res<Vec<_>>>()?;
        whole(results)
    }

    fn nodes(&mut self, nodes: &'a [NodeProto]) -> Res<()> {
        for node in nodes {
            self.node(node).map_err(|e| {
                let fault = Fault::Malformed(e.to_string());
                self.builder.fatal.get_or_insert(e);
                fault
            })?;
        }
        Ok(())
    }

    fn result(&self, name: &str) -> Res<Value> {
        self.lookup(name).map_or_else(|| malformed(format!("the result '{}' is computed by no node", clean(name))), Ok)
    }

    // ---- nodes -----------------------------------------------------------------------------------------------------------------

    /// Imports one node; what is not supported is noted and its outputs poisoned.
    fn node(&mut self, node: &'a NodeProto) -> Result<(), ImportError> {
        self.processed += 1;
        if self.processed > self.options.limits.nodes {
            return Err(super::limits::exceeded("number of nodes after inlining and unrolling", self.options.limits.nodes, "nodes"));
        }
        let place = format!("{} '{}'", op_name(node), label(node));
        let mut inputs = Vec::with_capacity(node.input.len());
        let mut poisoned = false;
        for name in &node.input {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            let Some(value) = self.lookup(name) else {
                let problem = Problem::new("E0105", format!("the value '{}' is used before any node computes it", clean(name)));
                let problem = problem.at(format!("node {place}")).because("nodes must be in an order without cycles");
                return Err(ImportError::Malformed(problem));
            };
            poisoned |= matches!(value, Value::Poison);
            inputs.push(Some(value));
        }
        let result = if poisoned { self.known_operator(node).map(|()| Vec::new()) } else { self.dispatch(node, inputs) };
        let outputs = match result {
            Ok(outputs) if poisoned => {
                debug_assert!(outputs.is_empty());
                vec![Value::Poison; node.output.len()]
            }
            Ok(outputs) => outputs,
            Err(fault) => {
                self.settle(fault, &place, &op_name(node))?;
                vec![Value::Poison; node.output.len()]
            }
        };
        let mut outputs = outputs.into_iter();
        for name in &node.output {
            let value = outputs.next().unwrap_or(Value::Absent);
            if !name.is_empty() && matches!(value, Value::Absent) {
                self.settle(Fault::Unsupported(format!("its output '{}'", clean(name))), &place, &op_name(node))?;
                self.define(name, Value::Poison).map_err(|f| self.malformed_at(f, &place))?;
                continue;
            }
            self.define(name, value).map_err(|f| self.malformed_at(f, &place))?;
        }
        Ok(())
    }

    /// Turns a fault into an error, or into an entry of the list of what is not supported.
    fn settle(&mut self, fault: Fault, place: &str, op: &str) -> Result<(), ImportError> {
        match (fault, self.builder.fatal.take()) {
            (_, Some(ImportError::Unsupported { ops })) => self.unsupported.extend(ops),
            (_, Some(e)) => return Err(e),
            (Fault::Unsupported(reason), None) => {
                let node = place.split_once(" '").map_or(place, |(_, n)| n.trim_end_matches('\''));
                self.unsupported.push(UnsupportedOp { op: op.to_string(), node: node.to_string(), reason: clean(&reason) });
            }
            (fault, None) => return Err(self.malformed_at(fault, &format!("node {place}"))),
        }
        Ok(())
    }

    fn malformed_at(&self, fault: Fault, place: &str) -> ImportError {
        let (Fault::Malformed(why) | Fault::Unsupported(why)) = fault;
        ImportError::Malformed(Problem::new("E0107", "a part of the model breaks ONNX's rules").at(place).because(why))
    }

    fn refuse_type(&mut self, name: &str, place: &str) {
        if let ImportError::Unsupported { ops } = unsupported_type(name, place) {
            self.unsupported.extend(ops);
        }
    }

    fn version(&self, domain: &str) -> Option<i64> {
        self.frames.last().and_then(|f| f.opsets.get(domain)).copied()
    }

    /// Whether the operator is one that could be imported at all; used for nodes whose inputs could not be.
    fn known_operator(&self, node: &'a NodeProto) -> Res<()> {
        let op = node.op_type.as_deref().unwrap_or("");
        let known = match domain(node.domain.as_deref()) {
            "" => matches!(op, "If" | "Loop" | "Scan") || ops::handler(op).is_some(),
            "ai.onnx.preview.training" => ops::training_handler(op).is_some(),
            _ => false,
        };
        if known || self.function(node).is_some() { Ok(()) } else { unsupported("the operator is not known here") }
    }

    fn function(&self, node: &'a NodeProto) -> Option<&'a FunctionProto> {
        let domain = domain(node.domain.as_deref());
        let key = (domain, node.op_type.as_deref().unwrap_or(""), node.overload.as_deref().unwrap_or(""));
        self.functions.get(&key).copied()
    }

    fn dispatch(&mut self, node: &'a NodeProto, inputs: Vec<Option<Value>>) -> Outputs {
        let attrs = Attrs::new(&node.attribute, self.frames.last().and_then(|f| f.attrs.as_ref()));
        if let Some(function) = self.function(node) {
            return self.inline(function, attrs, inputs);
        }
        let domain = domain(node.domain.as_deref());
        let op = node.op_type.as_deref().unwrap_or("");
        let Some(opset) = self.version(domain) else {
            self.known_operator(node)?;
            return malformed(format!("the model does not import the operator set '{}'", clean(domain)));
        };
        let call = Call { op, opset, inputs, attrs, wanted: node.output.iter().map(|o| !o.is_empty()).collect() };
        self.builder.graph.set_origin(&format!("{} {}", op_name(node), label(node)));
        match (domain, op) {
            ("", "If") => self.branch(&call),
            ("", "Loop") => self.unroll_loop(&call),
            ("", "Scan") => self.unroll_scan(&call),
            _ => {
                let handler = match domain {
                    "" => ops::handler(op),
                    "ai.onnx.preview.training" => ops::training_handler(op),
                    _ => None,
                };
                let Some(handler) = handler else { return unsupported("the operator is not known here") };
                handler(&mut self.builder, &call)
            }
        }
    }

    /// Runs a function's body in a level of its own.
    fn inline(&mut self, function: &'a FunctionProto, attrs: Attrs<'a>, inputs: Vec<Option<Value>>) -> Outputs {
        if self.frames.len() > 32 || self.scopes.len() > self.options.limits.depth {
            return malformed("functions call each other too deeply");
        }
        let mut sets = opsets(&function.opset_import);
        if sets.is_empty() {
            sets = self.frames.last().map(|f| f.opsets.clone()).unwrap_or_default();
        }
        self.frames.push(Frame { opsets: sets, attrs: Some(attrs.or_defaults(&function.attribute_proto)) });
        self.scopes.push(Scope { values: BTreeMap::new(), open: false });
        let result = self.function_body(function, inputs);
        self.scopes.pop();
        self.frames.pop();
        result
    }

    fn function_body(&mut self, function: &'a FunctionProto, inputs: Vec<Option<Value>>) -> Outputs {
        let mut given = inputs.into_iter();
        for name in &function.input {
            let value = given.next().flatten().unwrap_or(Value::Absent);
            self.define(name, value)?;
        }
        self.nodes(&function.node)?;
        let results = function.output.iter().map(|o| self.result(o)).collect::<Res<Vec<_>>>()?;
        whole(results)
    }

    // ---- the end ---------------------------------------------------------------------------------------------------------------

    /// Drops dead nodes and parameters that nothing reads, and adds the outputs of running statistics.
    fn finish(mut self) -> Imported {
        let mut buffers = Vec::new();
        for (old, new) in std::mem::take(&mut self.builder.buffer_updates) {
            if let Some(name) = self.state_inputs.remove(&old) {
                let output = format!("{name}.next");
                self.builder.graph.output(output.clone(), new);
                buffers.push(Buffer { input: name, output });
            }
        }
        if let Some((step, next)) = self.builder.random_step() {
            let input = self.builder.graph.inputs.iter().find(|i| i.value == step).map_or_else(String::new, |i| i.name.clone());
            let output = format!("{input}.next");
            self.builder.graph.output(output.clone(), next);
            self.initial.insert(input.clone(), Tensor::scalar_int(DType::U64, 0).to_literal());
            buffers.push(Buffer { input, output });
        }
        let specialized = self.builder.specialized().clone();
        let graph = &self.builder.graph;
        let live = live(graph);
        let mut out = Graph::new(graph.name.clone());
        let mut map: Vec<Option<ValueId>> = vec![None; graph.nodes().len()];
        let mut unused = Vec::new();
        for i in &graph.inputs {
            if i.role == Role::Data || live[i.value.index()] {
                out.set_origin(graph.origin(i.value));
                map[i.value.index()] = Some(out.input(i.name.clone(), graph.tensor_ty(i.value).clone(), i.role));
            } else {
                self.initial.shift_remove(&i.name);
                unused.push(i.name.clone());
            }
        }
        for v in graph.values().filter(|v| live[v.index()]) {
            let node = graph.node(v);
            if matches!(node.op, Op::Input(_)) {
                continue;
            }
            let operands: Vec<ValueId> = node.operands.iter().filter_map(|o| map[o.index()]).collect();
            out.set_origin(graph.origin(v));
            map[v.index()] = Some(out.add(node.op.clone(), &operands).expect("the node had this type before"));
        }
        for o in &graph.outputs {
            out.output(o.name.clone(), map[o.value.index()].expect("outputs are live"));
        }
        let names = graph.inputs.iter().filter(|i| specialized.contains(&i.value) && i.role == Role::Data);
        let specialized = names.map(|i| i.name.clone()).collect();
        Imported { graph: out, initial: self.initial, buffers, specialized, unused }
    }
}

/// The results of a nested graph, unless one of them could not be imported.
fn whole(results: Vec<Value>) -> Outputs {
    if results.iter().any(|v| matches!(v, Value::Poison)) { unsupported("a node inside it is not supported") } else { Ok(results) }
}

/// Which values the outputs depend on.
fn live(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.nodes().len()];
    graph.outputs.iter().for_each(|o| live[o.value.index()] = true);
    for v in graph.values().rev() {
        if live[v.index()] {
            graph.node(v).operands.iter().for_each(|o| live[o.index()] = true);
        }
    }
    live
}

/// Initializers that were buffers or constants of the exported PyTorch module, which it does not train: its exporter notes that.
fn exported_buffers(graph: &GraphProto) -> BTreeSet<&str> {
    const KIND: &str = "pkg.torch.export.graph_signature.InputSpec.kind";
    let fixed = |info: &&ValueNoteProto| {
        let mut notes = info.metadata_props.iter().filter(|p| p.key.as_deref() == Some(KIND));
        notes.any(|p| matches!(p.value.as_deref(), Some("BUFFER" | "CONSTANT_TENSOR")))
    };
    graph.value_info.iter().filter(fixed).filter_map(|info| info.name.as_deref()).collect()
}

/// Initializers that reach the running mean or variance of a batch normalization, through operators that only reshape or cast.
fn running_statistics(graph: &GraphProto) -> BTreeSet<&str> {
    let producers: BTreeMap<&str, &NodeProto> = graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect();
    let mut found = BTreeSet::new();
    for node in graph.node.iter().filter(|n| n.op_type.as_deref() == Some("BatchNormalization")) {
        for name in node.input.iter().skip(3).take(2) {
            let mut name = name.as_str();
            // Bounded, since a damaged file may have a cycle.
            for _ in 0..64 {
                let through = producers.get(name).filter(|p| {
                    matches!(p.op_type.as_deref(), Some("Identity" | "Expand" | "Cast" | "CastLike" | "Reshape" | "Squeeze" | "Unsqueeze"))
                });
                match through.and_then(|p| p.input.first()) {
                    Some(next) => name = next,
                    None => break,
                }
            }
            found.insert(name);
        }
    }
    found
}
