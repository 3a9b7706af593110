//! Emits IR ops on behalf of the handlers: broadcasting, constant folding, and values that must be known at import.
//!
//! Exporters compute shapes with tensor ops (`Shape → Gather → Concat → Reshape`), and the IR wants static shapes. So every op whose
//! operands are small constants is evaluated on the spot by the op's own reference meaning, and a handler that needs a number (a shape,
//! an axis, a trip count) asks [`Builder::known`], which also evaluates through values the caller has fixed.

use super::call::{Fault, Res, malformed, unsupported};
use super::limits::ImportLimits;
use super::proto::TensorProto;
use super::tensor::{TensorData, TensorReader};
use crate::import::error::ImportError;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::ops::{
    broadcast::Broadcast, constant::Constant, elementwise, iota::Iota, proj::Proj, random::Distribution, random::Random, reduce::Reduce,
    reshape::Reshape, transpose::Transpose,
};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType, Type, element_count};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A value of the graph being built.
pub type Val = ValueId;

/// An op's result is folded when it is at most this large …
const FOLD_ALWAYS: usize = 1 << 12;
/// … or when it is no larger than its operands and at most this large.
const FOLD_SHRINKING: usize = 1 << 18;

/// The state input with the number of the step, when the model draws random numbers.
const RANDOM_STEP: &str = "random.step";

/// A constant product or window is evaluated when it takes at most this many steps.
const FOLD_WORK: usize = 1 << 24;
/// Ops that a small model may unroll into.
const MOST_UNROLLED: u64 = 300_000;

/// Builds the graph of one model.
pub struct Builder<'a> {
    /// The graph so far.
    pub graph: Graph,
    /// Limits on what the model may claim.
    pub limits: &'a ImportLimits,
    reader: TensorReader<'a>,
    constants: BTreeMap<Val, Rc<Tensor>>,
    /// Inputs whose values the caller fixed, and initializers: usable where a value must be known.
    fixed: BTreeMap<Val, Rc<Tensor>>,
    /// Inputs of `fixed` that were used that way.
    specialized: BTreeSet<Val>,
    /// What [`known`](Self::known) has computed.
    computed: BTreeMap<Val, Rc<Tensor>>,
    folded_bytes: u64,
    nodes: u64,
    /// How many ops may be emitted.
    most_nodes: u64,
    /// An error with its own class (a damaged or external tensor) that a handler met.
    pub fatal: Option<ImportError>,
    /// Whether `BatchNormalization` normalizes by the batch even where the file says inference.
    pub batch_statistics: bool,
    /// New values of running statistics: the old value and the new one.
    pub buffer_updates: Vec<(Val, Val)>,
    /// The number of the step, when random numbers are drawn.
    step: Option<Val>,
    /// Operators that have drawn random numbers.
    draws: i64,
}

impl<'a> Builder<'a> {
    /// An empty graph of that name.
    pub fn new(name: &str, limits: &'a ImportLimits, reader: TensorReader<'a>) -> Self {
        Builder {
            graph: Graph::new(name),
            limits,
            reader,
            constants: BTreeMap::new(),
            fixed: BTreeMap::new(),
            specialized: BTreeSet::new(),
            computed: BTreeMap::new(),
            folded_bytes: 0,
            nodes: 0,
            most_nodes: limits.nodes,
            fatal: None,
            batch_statistics: false,
            buffer_updates: Vec::new(),
            step: None,
            draws: 0,
        }
    }

    /// Bounds the ops that a model with this many nodes may unroll into.
    pub fn expect_nodes(&mut self, nodes: u64) {
        self.most_nodes = nodes.saturating_mul(16).saturating_add(MOST_UNROLLED).min(self.limits.nodes);
    }

    /// Says that a running statistic has a new value after this step.
    pub fn buffer_update(&mut self, old: Val, new: Val) {
        self.buffer_updates.push((old, new));
    }

    /// Random numbers that differ from all others of the step, and from step to step.
    pub fn draw(&mut self, distribution: Distribution, dtype: DType, shape: &[usize]) -> Res<Val> {
        self.check_size(shape)?;
        let step = match self.step {
            Some(step) => step,
            None => {
                let mut name = RANDOM_STEP.to_string();
                while self.graph.inputs.iter().any(|i| i.name == name) {
                    name.push('_');
                }
                let step = self.input(&name, TensorType::scalar(DType::U64), Role::State);
                self.step = Some(step);
                step
            }
        };
        self.draws += 1;
        let key = self.scalar(DType::U64, 0.0)?;
        self.emit(Random { distribution, dtype, shape: Dims::from_slice(shape), seed: self.draws }, &[key, step])
    }

    /// The number of the step that random numbers depend on, and that of the next one.
    pub fn random_step(&mut self) -> Option<(Val, Val)> {
        let step = self.step?;
        let one = self.graph.splat_like(step, 1.0);
        Some((step, self.graph.plus(step, one)))
    }

    /// The element type of a value.
    pub fn dtype(&self, v: Val) -> DType {
        self.graph.tensor_ty(v).dtype
    }

    /// The extents of a value.
    pub fn dims(&self, v: Val) -> Dims {
        Dims::from_slice(self.graph.shape(v))
    }

    /// The number of dimensions of a value.
    pub fn rank(&self, v: Val) -> usize {
        self.graph.shape(v).len()
    }

    /// Refuses shapes that are larger than the limits allow.
    pub fn check_size(&self, dims: &[usize]) -> Res<()> {
        if dims.len() > self.limits.rank || element_count(dims) as u64 > self.limits.elements {
            return malformed(format!("a tensor of shape {dims:?} exceeds the limits on rank or elements"));
        }
        Ok(())
    }

    // ---- constants and inputs --------------------------------------------------------------------------------------------------

    /// A graph input.
    pub fn input(&mut self, name: &str, ty: TensorType, role: Role) -> Val {
        self.graph.input(name, ty, role)
    }

    /// Says that an input's value may be used where a value must be known.
    pub fn fix(&mut self, input: Val, value: Rc<Tensor>) {
        self.fixed.insert(input, value);
    }

    /// The inputs whose fixed values the graph now depends on.
    pub fn specialized(&self) -> &BTreeSet<Val> {
        &self.specialized
    }

    /// A constant tensor.
    pub fn add_constant(&mut self, t: Tensor) -> Res<Val> {
        let op = Constant { value: t.to_literal() };
        let v = self.add(op.into(), &[])?;
        self.constants.insert(v, Rc::new(t));
        Ok(v)
    }

    /// A constant tensor from a file; large ones are not widened.
    pub fn add_literal(&mut self, literal: Literal) -> Res<Val> {
        if literal.ty().elements() <= FOLD_SHRINKING {
            return self.add_constant(Tensor::from_literal(&literal));
        }
        self.add(Constant { value: literal }.into(), &[])
    }

    /// Reads a tensor of the model file as a literal.
    pub fn read_literal(&mut self, proto: &TensorProto) -> Res<Literal> {
        let read = self.reader.read(proto).and_then(literal);
        read.map_err(|e| {
            let fault = Fault::Malformed(e.to_string());
            self.fatal.get_or_insert(e);
            fault
        })
    }

    /// Reads a tensor of the model file as a constant.
    pub fn read_tensor(&mut self, proto: &TensorProto) -> Res<Val> {
        let literal = self.read_literal(proto)?;
        self.add_literal(literal)
    }

    /// A rank-0 constant.
    pub fn scalar(&mut self, dtype: DType, v: f64) -> Res<Val> {
        let t = if dtype.is_float() { Tensor::scalar_float(dtype, v) } else { Tensor::scalar_int(dtype, v as i64) };
        self.add_constant(t)
    }

    /// A rank-0 constant of the type of `x`: broadcasts against it.
    pub fn like(&mut self, x: Val, v: f64) -> Res<Val> {
        self.scalar(self.dtype(x), v)
    }

    /// A rank-0 i64 constant.
    pub fn int_scalar(&mut self, v: i64) -> Res<Val> {
        self.add_constant(Tensor::scalar_int(DType::I64, v))
    }

    /// A rank-1 i64 constant.
    pub fn ints(&mut self, values: &[i64]) -> Res<Val> {
        self.add_constant(Tensor::new_int(TensorType::new(DType::I64, [values.len()]), values.to_vec()))
    }

    /// A constant of rank 1 with numbers of that type.
    pub fn floats(&mut self, dtype: DType, shape: &[usize], values: Vec<f64>) -> Res<Val> {
        if !dtype.is_float() {
            return unsupported(format!("the operator on {dtype}"));
        }
        self.add_constant(Tensor::new_float(TensorType::new(dtype, shape), values))
    }

    /// `0, 1, …` along one dimension of `rank`, the others of extent 1.
    pub fn iota(&mut self, dtype: DType, count: usize, at: usize, rank: usize) -> Res<Val> {
        self.check_size(&[count])?;
        let mut shape = vec![1; rank];
        shape[at] = count;
        if count > 1 << 16 {
            return self.add(Iota { dtype, shape: Dims::from_slice(&shape), dim: at }.into(), &[]);
        }
        let ty = TensorType::new(dtype, shape);
        self.add_constant(if dtype.is_float() {
            Tensor::new_float(ty, (0..count).map(|i| i as f64).collect())
        } else {
            Tensor::new_int(ty, (0..count as i64).collect())
        })
    }

    /// The value, if it is a constant of the model (trainable initializers and inputs are not).
    pub fn constant(&self, v: Val) -> Option<&Tensor> {
        self.constants.get(&v).map(Rc::as_ref)
    }

    /// The value, which must be known at import: a constant, or computed from constants, initializers and inputs that the caller fixed.
    pub fn known(&mut self, v: Val, what: &str) -> Res<Tensor> {
        match self.evaluate(v) {
            Some(t) => Ok((*t).clone()),
            None => unsupported(format!("the {what} is not known at compile time")),
        }
    }

    /// [`known`](Self::known) as integers.
    pub fn known_ints(&mut self, v: Val, what: &str) -> Res<Vec<i64>> {
        Ok(self.known(v, what)?.ints())
    }

    /// [`known`](Self::known) as extents.
    pub fn known_dims(&mut self, v: Val, what: &str) -> Res<Vec<usize>> {
        let list = self.known_ints(v, what)?;
        let dims: Result<Vec<usize>, _> = list.iter().map(|d| usize::try_from(*d)).collect();
        dims.or_else(|_| malformed(format!("the {what} {list:?} has a negative entry")))
    }

    /// Whether a value could be known.
    pub fn is_known(&mut self, v: Val) -> bool {
        self.evaluate(v).is_some()
    }

    /// Evaluates a value from constants and fixed inputs, without recursion.
    fn evaluate(&mut self, v: Val) -> Option<Rc<Tensor>> {
        if let Some(t) = self.constants.get(&v).or_else(|| self.computed.get(&v)) {
            return Some(t.clone());
        }
        // The ancestors, and whether they all rest on values that are there.
        let (mut needed, mut stack) = (BTreeSet::new(), vec![v]);
        let mut used = Vec::new();
        while let Some(v) = stack.pop() {
            if self.constants.contains_key(&v) || self.computed.contains_key(&v) || !needed.insert(v) {
                continue;
            }
            let node = self.graph.node(v);
            let sizes = |values: &[Val]| values.iter().map(|v| self.graph.tensor_ty(*v).elements()).fold(0, usize::saturating_add);
            match &node.op {
                Op::Input(_) => {
                    self.fixed.get(&v)?;
                    used.push(v);
                }
                Op::Constant(_) => {}
                _ if node.ty.components().iter().any(|t| t.elements() > FOLD_SHRINKING) => return None,
                op if heavy(op, sizes(&node.operands), sizes(&[v])) => return None,
                _ => stack.extend(node.operands.iter().copied()),
            }
        }
        self.specialized.extend(used);
        let mut values: BTreeMap<Val, Vec<Rc<Tensor>>> = BTreeMap::new();
        for v in needed {
            let node = self.graph.node(v);
            let results = match &node.op {
                Op::Input(_) => vec![self.fixed.get(&v)?.clone()],
                Op::Constant(c) => vec![Rc::new(Tensor::from_literal(&c.value))],
                op => {
                    let mut operands = Vec::new();
                    for o in &node.operands {
                        match self.constants.get(o).or_else(|| self.computed.get(o)) {
                            Some(t) => operands.push(t.clone()),
                            None => operands.extend(values.get(o)?.iter().cloned()),
                        }
                    }
                    if let Op::Proj(p) = op {
                        vec![operands.get(p.index)?.clone()]
                    } else {
                        let refs: Vec<&Tensor> = operands.iter().map(Rc::as_ref).collect();
                        op.eval(&refs, &node.ty).into_iter().map(Rc::new).collect()
                    }
                }
            };
            values.insert(v, results);
        }
        for (v, results) in &values {
            if let ([only], Type::Tensor(t)) = (&results[..], self.graph.ty(*v))
                && t.elements() <= FOLD_ALWAYS
            {
                self.computed.insert(*v, only.clone());
            }
        }
        values.get(&v).and_then(|r| r.first()).cloned()
    }

    // ---- emitting ----------------------------------------------------------------------------------------------------------------

    fn add(&mut self, op: Op, operands: &[Val]) -> Res<Val> {
        self.nodes += 1;
        if self.nodes > self.most_nodes {
            return malformed(format!("the model unrolls into more than {} nodes", self.most_nodes));
        }
        let v = self.graph.add(op, operands).map_err(|e| Fault::Malformed(e.why))?;
        for t in self.graph.ty(v).components() {
            if t.rank() > self.limits.rank || t.elements() as u64 > self.limits.elements {
                return malformed(format!("a tensor of type {t} exceeds the limits on rank or elements"));
            }
        }
        Ok(v)
    }

    /// Adds an op; a small result of constants is evaluated at once.
    pub fn emit(&mut self, op: impl Into<Op>, operands: &[Val]) -> Res<Val> {
        let op = op.into();
        let Some(constants) = operands.iter().map(|o| self.constants.get(o).cloned()).collect::<Option<Vec<_>>>() else {
            return self.add(op, operands);
        };
        let types: Vec<Type> = operands.iter().map(|o| self.graph.ty(*o).clone()).collect();
        let refs: Vec<&Type> = types.iter().collect();
        let ty = op.infer(&refs).map_err(|e| Fault::Malformed(e.why))?;
        let size: usize = ty.components().iter().map(TensorType::elements).sum();
        let given: usize = constants.iter().map(|c| c.ty().elements()).sum();
        let bytes = 8 * size as u64;
        if operands.is_empty()
            || matches!(ty, Type::Tuple(_))
            || heavy(&op, given, size)
            || size > FOLD_ALWAYS && (size > given || size > FOLD_SHRINKING)
            || self.folded_bytes.saturating_add(bytes) > self.limits.folded_bytes
        {
            return self.add(op, operands);
        }
        self.folded_bytes += bytes;
        let tensors: Vec<&Tensor> = constants.iter().map(Rc::as_ref).collect();
        match op.eval(&tensors, &ty).into_iter().next() {
            Some(t) => self.add_constant(t),
            None => self.add(op, operands),
        }
    }

    /// Adds a multi-result op.
    pub fn emit_tuple(&mut self, op: impl Into<Op>, operands: &[Val]) -> Res<Vec<Val>> {
        let tuple = self.add(op.into(), operands)?;
        let count = self.graph.ty(tuple).components().len();
        (0..count).map(|index| self.add(Proj { index }.into(), &[tuple])).collect()
    }

    /// The common shape of two shapes by numpy's rule.
    pub fn broadcast_shape(&self, a: &[usize], b: &[usize]) -> Res<Vec<usize>> {
        let rank = a.len().max(b.len());
        let extent = |s: &[usize], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
        let mut shape = Vec::with_capacity(rank);
        for i in 0..rank {
            shape.push(match (extent(a, i), extent(b, i)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => return malformed(format!("shapes {a:?} and {b:?} do not broadcast")),
            });
        }
        self.check_size(&shape)?;
        Ok(shape)
    }

    /// Repeats a value to a shape by numpy's rule.
    pub fn broadcast_to(&mut self, v: Val, shape: &[usize]) -> Res<Val> {
        let dims = self.dims(v);
        if dims.as_slice() == shape {
            return Ok(v);
        }
        if dims.len() > shape.len() {
            return malformed(format!("shape {dims:?} does not broadcast to {shape:?}"));
        }
        let offset = shape.len() - dims.len();
        let map: Vec<usize> = (0..dims.len()).map(|i| i + offset).collect();
        self.broadcast_in_dim(v, shape, &map)
    }

    /// Operand dimension `i` becomes result dimension `dims[i]`; the rest repeats.
    ///
    /// Extents 1 that repeat are dropped first, so that equal broadcasts look equal.
    pub fn broadcast_in_dim(&mut self, v: Val, shape: &[usize], dims: &[usize]) -> Res<Val> {
        let from = self.dims(v);
        if from.as_slice() == shape && dims.iter().enumerate().all(|(i, d)| i == *d) {
            return Ok(v);
        }
        if from.len() != dims.len() || from.iter().zip(dims).any(|(e, d)| *e != 1 && shape.get(*d) != Some(e)) {
            return malformed(format!("shape {from:?} does not broadcast to {shape:?}"));
        }
        self.check_size(shape)?;
        let kept: Vec<usize> = (0..from.len()).filter(|i| from[*i] != 1).collect();
        let narrow: Vec<usize> = kept.iter().map(|i| from[*i]).collect();
        let v = self.reshape(v, &narrow)?;
        let dims = kept.iter().map(|i| dims[*i]).collect();
        self.emit(Broadcast { shape: Dims::from_slice(shape), dims }, &[v])
    }

    /// The same elements in another shape.
    pub fn reshape(&mut self, v: Val, shape: &[usize]) -> Res<Val> {
        if self.graph.shape(v) == shape {
            return Ok(v);
        }
        if element_count(self.graph.shape(v)) != element_count(shape) {
            return malformed(format!("shape {:?} cannot become {shape:?}", self.graph.shape(v)));
        }
        self.check_size(shape)?;
        self.emit(Reshape { shape: Dims::from_slice(shape) }, &[v])
    }

    /// Result dimension `i` is operand dimension `permutation[i]`.
    pub fn transpose(&mut self, v: Val, permutation: &[usize]) -> Res<Val> {
        if permutation.iter().enumerate().all(|(i, p)| i == *p) {
            return Ok(v);
        }
        self.emit(Transpose { permutation: permutation.to_vec() }, &[v])
    }

    /// Two values brought to a common shape.
    pub fn align(&mut self, a: Val, b: Val) -> Res<(Val, Val)> {
        let shape = self.broadcast_shape(&self.dims(a), &self.dims(b))?;
        Ok((self.broadcast_to(a, &shape)?, self.broadcast_to(b, &shape)?))
    }

    /// A function of one value.
    pub fn unary(&mut self, f: UnaryFn, v: Val) -> Res<Val> {
        if f.result(self.dtype(v)).is_none() {
            return unsupported(format!("the function on {}", self.dtype(v)));
        }
        self.emit(elementwise::Unary(f), &[v])
    }

    /// A function of two values of one type, broadcast against each other.
    pub fn binary(&mut self, f: BinaryFn, a: Val, b: Val) -> Res<Val> {
        let (ta, tb) = (self.dtype(a), self.dtype(b));
        if ta != tb {
            return malformed(format!("the operands are {ta} and {tb}"));
        }
        if f.result(ta).is_none() {
            return unsupported(format!("the function on {ta}"));
        }
        let (a, b) = self.align(a, b)?;
        self.emit(elementwise::Binary(f), &[a, b])
    }

    /// A comparison, broadcast.
    pub fn compare(&mut self, f: CompareFn, a: Val, b: Val) -> Res<Val> {
        let (ta, tb) = (self.dtype(a), self.dtype(b));
        if ta != tb {
            return malformed(format!("the operands are {ta} and {tb}"));
        }
        let (a, b) = self.align(a, b)?;
        self.emit(elementwise::Compare(f), &[a, b])
    }

    /// `a` where `c` holds, else `b`; broadcast.
    pub fn select(&mut self, c: Val, a: Val, b: Val) -> Res<Val> {
        if self.dtype(c) != DType::Bool || self.dtype(a) != self.dtype(b) {
            return malformed(format!("a choice by {} between {} and {}", self.dtype(c), self.dtype(a), self.dtype(b)));
        }
        let shape = self.broadcast_shape(&self.dims(a), &self.dims(b))?;
        let shape = self.broadcast_shape(&shape, &self.dims(c))?;
        let (c, a, b) = (self.broadcast_to(c, &shape)?, self.broadcast_to(a, &shape)?, self.broadcast_to(b, &shape)?);
        self.emit(elementwise::Select {}, &[c, a, b])
    }

    /// A conversion; nothing when the type is already that.
    pub fn convert(&mut self, v: Val, to: DType) -> Res<Val> {
        if self.dtype(v) == to { Ok(v) } else { self.emit(elementwise::Convert { to }, &[v]) }
    }

    /// `v · factor`; nothing when the factor is 1.
    pub fn scale(&mut self, v: Val, factor: f64) -> Res<Val> {
        if factor == 1.0 {
            return Ok(v);
        }
        let factor = self.like(v, factor)?;
        self.binary(BinaryFn::Mul, v, factor)
    }

    /// `v + amount`; nothing when the amount is 0.
    pub fn shift(&mut self, v: Val, amount: f64) -> Res<Val> {
        if amount == 0.0 {
            return Ok(v);
        }
        let amount = self.like(v, amount)?;
        self.binary(BinaryFn::Add, v, amount)
    }

    /// `min(max(v, low), high)`.
    pub fn clamp(&mut self, v: Val, low: f64, high: f64) -> Res<Val> {
        let (low, high) = (self.like(v, low)?, self.like(v, high)?);
        let v = self.binary(BinaryFn::Max, v, low)?;
        self.binary(BinaryFn::Min, v, high)
    }

    /// Combines over dimensions, which disappear or stay with extent 1.
    pub fn reduce(&mut self, monoid: Monoid, v: Val, dims: &[usize], keep: bool) -> Res<Val> {
        if monoid.function().result(self.dtype(v)).is_none() {
            return unsupported(format!("the reduction of {}", self.dtype(v)));
        }
        let mut shape = self.dims(v);
        let mut dims = dims.to_vec();
        dims.sort_unstable();
        let v = if dims.is_empty() { v } else { self.emit(Reduce { monoid, dims: dims.clone() }, &[v])? };
        if !keep {
            return Ok(v);
        }
        dims.iter().for_each(|d| shape[*d] = 1);
        self.reshape(v, &shape)
    }

    /// The mean over dimensions.
    pub fn mean(&mut self, v: Val, dims: &[usize], keep: bool) -> Res<Val> {
        let shape = self.dims(v);
        let count: usize = dims.iter().map(|d| shape[*d]).product();
        let sum = self.reduce(Monoid::Sum, v, dims, keep)?;
        let count = self.like(sum, count as f64)?;
        self.binary(BinaryFn::Div, sum, count)
    }
}

/// Whether evaluating an op takes far longer than reading its operands and writing its results.
fn heavy(op: &Op, given: usize, made: usize) -> bool {
    let product = matches!(op, Op::DotGeneral(_) | Op::Convolution(_) | Op::ReduceWindow(_) | Op::SelectAndScatter(_) | Op::Sort(_));
    product && given.saturating_mul(made) > FOLD_WORK
}

/// A literal from a file's tensor.
pub fn literal(data: TensorData) -> Result<Literal, ImportError> {
    let bytes: std::sync::Arc<[u8]> = data.data.as_ref().into();
    Literal::new(TensorType { dtype: data.dtype, shape: data.dims }, bytes)
        .map_err(|e| ImportError::Malformed(crate::import::error::Problem::new("E0103", e.to_string())))
}
