//! `scatter`: puts or combines updates into a tensor at places that another tensor holds (StableHLO `scatter`).
//!
//! Dimension numbers are StableHLO's. Updates are applied in row-major order of the updates, so results are deterministic. An update window
//! that does not lie wholly inside the operand is dropped.
//! (C1) three operands: a tensor, integer indices, and updates of the tensor's element type; (C2)–(C4) as gather's, with
//! `inserted_window_dims` for `collapsed_slice_dims`, `input_batching_dims`, `scatter_indices_batching_dims` and
//! `scatter_dims_to_operand_dims`; (C5) the updates have the extents of the windows along `update_window_dims`, none above the operand's, and of the
//! indices along the rest; (C6) `update_window_dims` are ascending; (C7) the combiner is defined on the element type.
//! Float sums are accumulated in at least f32 and rounded once.

use super::elementwise::{tensor, wides};
use super::gather::{Gather, Indexing};
use super::iota::Iota;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::graph::{Graph, ValueId};
use crate::scalar::{BinaryFn, CompareFn, Monoid};
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, NumberKind, TensorType, Type, element_count};
use serde::{Deserialize, Serialize};

/// What a scatter does with an update.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Combiner {
    /// The update takes the element's place; the last one wins.
    None,
    /// Adds.
    Sum,
    /// Multiplies.
    Prod,
    /// Keeps the larger.
    Max,
    /// Keeps the smaller.
    Min,
}

impl Combiner {
    /// Every combiner.
    pub const ALL: [Combiner; 5] = [Combiner::None, Combiner::Sum, Combiner::Prod, Combiner::Max, Combiner::Min];

    /// The name in the text forms.
    pub fn name(self) -> &'static str {
        match self {
            Combiner::None => "none",
            Combiner::Sum => "sum",
            Combiner::Prod => "prod",
            Combiner::Max => "max",
            Combiner::Min => "min",
        }
    }

    /// The combiner of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Combiner::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The monoid; `None` when the update replaces.
    pub fn monoid(self) -> Option<Monoid> {
        match self {
            Combiner::None => None,
            Combiner::Sum => Some(Monoid::Sum),
            Combiner::Prod => Some(Monoid::Prod),
            Combiner::Max => Some(Monoid::Max),
            Combiner::Min => Some(Monoid::Min),
        }
    }
}

crate::op_attrs! {
    /// See the module.
    Scatter {
        /// Dimensions of the updates that run inside a window, ascending.
        update_window_dims: Vec<usize>,
        /// Operand dimensions that windows do not have.
        inserted_window_dims: Vec<usize>,
        /// Operand dimensions that go along with dimensions of the indices.
        input_batching_dims: Vec<usize>,
        /// Those dimensions of the indices.
        scatter_indices_batching_dims: Vec<usize>,
        /// Operand dimension that each entry of an index vector is a start in.
        scatter_dims_to_operand_dims: Vec<usize>,
        /// Dimension of the indices along which an index vector lies; their rank when every element is one.
        index_vector_dim: usize,
        /// What happens with an update.
        combiner: Combiner,
    }
}

impl Scatter {
    fn indexing(&self) -> Indexing<'_> {
        Indexing {
            offset: &self.update_window_dims,
            collapsed: &self.inserted_window_dims,
            operand_batching: &self.input_batching_dims,
            indices_batching: &self.scatter_indices_batching_dims,
            map: &self.scatter_dims_to_operand_dims,
            vector_dim: self.index_vector_dim,
        }
    }

    /// Window extents in operand dimensions: 1 where the updates have none.
    fn window(&self, rank: usize, updates: &[usize]) -> Dims {
        let mut window = Dims::from_elem(1, rank);
        for (u, d) in self.update_window_dims.iter().zip(self.indexing().window_dims(rank)) {
            window[d] = updates.get(*u).copied().unwrap_or(0);
        }
        window
    }

    /// The row-major place in an operand of this shape that each update goes to; `None` where it is dropped.
    pub(crate) fn places(&self, shape: &[usize], starts: &Tensor, updates: &[usize]) -> Vec<Option<usize>> {
        let (ix, values, window) = (self.indexing(), starts.ints(), self.window(shape.len(), updates));
        let place = |u: Dims| {
            let (start, mut at) = ix.locate(shape.len(), starts, &values, &u);
            let inside = |d: usize| start[d] >= 0 && start[d].saturating_add(window[d] as i64) <= shape[d] as i64;
            if !self.scatter_dims_to_operand_dims.iter().all(|d| inside(*d)) {
                return None;
            }
            at.iter_mut().zip(&start).for_each(|(p, s)| *p += *s as usize);
            Some(position(shape, &at))
        };
        indices(updates).map(place).collect()
    }

    /// The gather that reads what the scatter writes.
    fn reader(&self, rank: usize, updates: &[usize]) -> Gather {
        Gather {
            offset_dims: self.update_window_dims.clone(),
            collapsed_slice_dims: self.inserted_window_dims.clone(),
            operand_batching_dims: self.input_batching_dims.clone(),
            start_indices_batching_dims: self.scatter_indices_batching_dims.clone(),
            start_index_map: self.scatter_dims_to_operand_dims.clone(),
            index_vector_dim: self.index_vector_dim,
            slice_sizes: self.window(rank, updates),
        }
    }

    /// A `bool` of the updates' shape: whether the update is not dropped.
    fn kept(&self, graph: &mut Graph, operand: &[usize], starts: ValueId, updates: &[usize]) -> ValueId {
        let ix = self.indexing();
        let last = ix.last_starts(graph, operand, starts, &self.window(operand.len(), updates));
        let mut kept = graph.compare(CompareFn::Le, starts, last);
        if graph.tensor_ty(starts).dtype.kind() == NumberKind::Signed {
            let zero = graph.splat_like(starts, 0.0);
            let from_zero = graph.compare(CompareFn::Ge, starts, zero);
            kept = graph.binary(BinaryFn::And, kept, from_zero);
        }
        if ix.vector_dim < graph.shape(starts).len() {
            kept = graph.reduce(Monoid::And, kept, &[ix.vector_dim]);
        }
        graph.broadcast(kept, updates, &ix.batch_dims(updates.len()))
    }

    /// The cotangent of updates that replace: each place belongs to the last update that was put there.
    fn replaced_grad(&self, graph: &mut Graph, operand: &[usize], starts: ValueId, updates: &[usize], g: ValueId) -> ValueId {
        let count = element_count(updates);
        let ids = graph.emit(Iota { dtype: DType::I64, shape: Dims::from_slice(&[count]), dim: 0 }, &[]);
        let ids = graph.reshape(ids, updates);
        let none = graph.splat(&TensorType::new(DType::I64, operand), -1.0);
        let owners = graph.emit(self.clone(), &[none, starts, ids]);
        let reader = self.reader(operand.len(), updates);
        let owner = graph.emit(reader.clone(), &[owners, starts]);
        let mine = graph.compare(CompareFn::Eq, owner, ids);
        let read = graph.emit(reader, &[g, starts]);
        let zero = graph.splat_like(read, 0.0);
        graph.select(mine, read, zero)
    }

    /// The cotangents of an operand and of updates whose extreme each place takes: those that are equal to the result share its cotangent.
    fn extreme_grads(&self, graph: &mut Graph, [a, starts, u, result]: [ValueId; 4], g: ValueId) -> (ValueId, ValueId) {
        let (shape, updates) = (Dims::from_slice(graph.shape(a)), Dims::from_slice(graph.shape(u)));
        let reader = self.reader(shape.len(), &updates);
        let read = graph.emit(reader.clone(), &[result, starts]);
        let (equal, kept) = (graph.compare(CompareFn::Eq, u, read), self.kept(graph, &shape, starts, &updates));
        let taken = graph.binary(BinaryFn::And, equal, kept);
        let dtype = graph.tensor_ty(g).dtype;
        let (from_u, from_a) = (graph.convert(taken, dtype), graph.compare(CompareFn::Eq, a, result));
        let from_a = graph.convert(from_a, dtype);
        let count = graph.emit(Scatter { combiner: Combiner::Sum, ..self.clone() }, &[from_a, starts, from_u]);
        // NaN is equal to nothing; such places have no share to give.
        let one = graph.splat_like(count, 1.0);
        let count = graph.binary(BinaryFn::Max, count, one);
        let share = graph.over(g, count);
        let da = graph.times(share, from_a);
        let read = graph.emit(reader, &[share, starts]);
        (da, graph.times(read, from_u))
    }
}

impl OpDef for Scatter {
    const NAMES: &'static [&'static str] = &["scatter"];
    fn name(&self) -> &'static str {
        "scatter"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let err = |why: String| Err(InferError::new("scatter", why));
        let [a, starts, updates] = ins else { return err("(C1) takes three operands".into()) };
        if a.dtype != updates.dtype {
            return err(format!("(C1) updates of {a} are {updates}"));
        }
        let window = self.window(a.rank(), &updates.shape);
        let shape = self.indexing().result_shape(a, starts, &window).map_err(|why| InferError::new("scatter", why))?;
        if shape != updates.shape || self.indexing().window_dims(a.rank()).iter().any(|d| window[*d] > a.shape[*d]) {
            return err(format!("(C5) {updates} are not updates of {a} at {starts}"));
        }
        if self.combiner.monoid().is_some_and(|m| m.function().result(a.dtype).is_none()) {
            return err(format!("(C7) {} is not defined on {}", self.combiner.name(), a.dtype));
        }
        Ok((*a).clone().into())
    }
    fn axes(&self, ins: &[&TensorType], _: &Type) -> Axes {
        let (a, starts, updates, ix) = (ins[0], ins[1], ins[2], self.indexing());
        // One loop a dimension of the updates. Those that run along an operand dimension split; the others write anywhere, and a part of
        // them may not be combined on its own, for the operand would be counted once a part.
        let mut axes = Axes::elementwise(&updates.shape, 0, u64::from(self.combiner != Combiner::None));
        axes.loops.iter_mut().for_each(|l| l.kind = LoopKind::Whole);
        let mut place = vec![DimUse::Whole; a.rank()];
        let batch = ix.batch_dims(updates.rank());
        for (u, d) in self.update_window_dims.iter().zip(ix.window_dims(a.rank())) {
            // A window as wide as the operand lies at 0 or is dropped, so it may be indexed only if it is not split.
            if updates.shape[*u] == a.shape[d] && !self.scatter_dims_to_operand_dims.contains(&d) {
                place[d] = DimUse::Loop(*u);
                axes.loops[*u] = LoopDim { extent: a.shape[d], kind: LoopKind::Parallel };
            }
        }
        for (o, i) in self.input_batching_dims.iter().zip(&self.scatter_indices_batching_dims) {
            let l = batch[ix.batch_of(*i)];
            place[*o] = DimUse::Loop(l);
            axes.loops[l].kind = LoopKind::Parallel;
        }
        let along = (0..starts.rank()).map(|d| if d == ix.vector_dim { DimUse::Whole } else { DimUse::Loop(batch[ix.batch_of(d)]) });
        let all: Vec<DimUse> = (0..updates.rank()).map(DimUse::Loop).collect();
        axes.operands = vec![place.clone(), along.collect(), all];
        axes.results = vec![place];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, starts, updates, ty) = (ins[0], ins[1], ins[2], &out.components()[0]);
        let wide = if ty.dtype.is_float() { DType::F64 } else { ty.dtype };
        let mut acc = wides(a);
        for (place, v) in self.places(&ty.shape, starts, updates.shape()).into_iter().zip(wides(updates)) {
            if let Some(place) = place {
                acc[place] = self.combiner.monoid().map_or(v, |m| m.function().eval(wide, acc[place], v));
            }
        }
        vec![tensor(ty, acc)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (a, starts, g) = (cx.operands[0], cx.operands[1], cx.cotangent());
        let shape = Dims::from_slice(cx.graph.shape(a));
        let updates = cx.graph.tensor_ty(cx.operands[2]).clone();
        if element_count(&shape) == 0 {
            return Ok(vec![Some(g), None, Some(cx.graph.splat(&updates, 0.0))]);
        }
        match self.combiner {
            Combiner::Sum => {
                let du = cx.wanted[2].then(|| {
                    let read = cx.graph.emit(self.reader(shape.len(), &updates.shape), &[g, starts]);
                    let kept = self.kept(cx.graph, &shape, starts, &updates.shape);
                    let zero = cx.graph.splat_like(read, 0.0);
                    cx.graph.select(kept, read, zero)
                });
                Ok(vec![Some(g), None, du])
            }
            Combiner::None => {
                let da = cx.wanted[0].then(|| {
                    let zeros = cx.graph.splat(&updates, 0.0);
                    cx.graph.emit(self.clone(), &[g, starts, zeros])
                });
                let du = cx.wanted[2].then(|| self.replaced_grad(cx.graph, &shape, starts, &updates.shape, g));
                Ok(vec![da, None, du])
            }
            Combiner::Prod => {
                Err(NoVjp { op: "scatter", why: "a product over indices that may repeat has no gather form; add or replace instead" })
            }
            Combiner::Max | Combiner::Min => {
                let (result, u) = (cx.result, cx.operands[2]);
                let (da, du) = self.extreme_grads(cx.graph, [a, starts, u, result], g);
                Ok(vec![Some(da), None, Some(du)])
            }
        }
    }
}
