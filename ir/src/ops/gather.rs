//! `gather`: slices of a tensor at starts that another tensor holds (StableHLO `gather`).
//!
//! Dimension numbers are StableHLO's. A start that would reach outside is clamped so that the slice fits.
//! (C1) two operands: a tensor and integer indices; (C2) `index_vector_dim` is at most the rank of the indices, and the vector along it
//! (one element when it is the rank) has one entry a dimension of `start_index_map`; (C3) `collapsed_slice_dims` and
//! `operand_batching_dims` are different dimensions of the operand, `start_index_map` are different ones outside the batching dimensions;
//! (C4) `start_indices_batching_dims` are different dimensions of the indices, not `index_vector_dim`, with the extents of
//! `operand_batching_dims`; (C5) `slice_sizes` has one entry a dimension, none above the extent, 1 where the dimension is collapsed and at
//! most 1 where it is batching; (C6) `offset_dims` are ascending dimensions of the result, one an operand dimension that is left.

use super::scatter::{Combiner, Scatter};
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::graph::{Graph, ValueId};
use crate::scalar::BinaryFn;
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type};
use smallvec::SmallVec;

crate::op_attrs! {
    /// See the module.
    Gather {
        /// Result dimensions that run inside a slice, ascending.
        offset_dims: Vec<usize>,
        /// Operand dimensions of slice size 1 that disappear.
        collapsed_slice_dims: Vec<usize>,
        /// Operand dimensions that go along with dimensions of the indices.
        operand_batching_dims: Vec<usize>,
        /// Those dimensions of the indices.
        start_indices_batching_dims: Vec<usize>,
        /// Operand dimension that each entry of an index vector is a start in.
        start_index_map: Vec<usize>,
        /// Dimension of the indices along which an index vector lies; their rank when every element is one.
        index_vector_dim: usize,
        /// Extents of a slice, one an operand dimension.
        slice_sizes: Dims,
    }
}

/// The index arithmetic that gather and scatter share; scatter's updates take the place of gather's result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indexing<'a> {
    /// `offset_dims`, `update_window_dims`.
    pub offset: &'a [usize],
    /// `collapsed_slice_dims`, `inserted_window_dims`.
    pub collapsed: &'a [usize],
    /// `operand_batching_dims`, `input_batching_dims`.
    pub operand_batching: &'a [usize],
    /// `start_indices_batching_dims`, `scatter_indices_batching_dims`.
    pub indices_batching: &'a [usize],
    /// `start_index_map`, `scatter_dims_to_operand_dims`.
    pub map: &'a [usize],
    /// `index_vector_dim`.
    pub vector_dim: usize,
}

fn different(dims: &[&[usize]], below: usize) -> bool {
    let all: Vec<usize> = dims.iter().flat_map(|d| d.iter().copied()).collect();
    all.iter().enumerate().all(|(i, d)| *d < below && !all[..i].contains(d))
}

impl Indexing<'_> {
    /// Operand dimensions that a slice keeps, ascending: entry `i` is result dimension `offset[i]`.
    pub fn window_dims(&self, rank: usize) -> Dims {
        (0..rank).filter(|d| !self.collapsed.contains(d) && !self.operand_batching.contains(d)).collect()
    }

    /// Result dimensions that run over index vectors, ascending: entry `i` is the `i`-th dimension of the indices but `vector_dim`.
    pub fn batch_dims(&self, result_rank: usize) -> Dims {
        (0..result_rank).filter(|d| !self.offset.contains(d)).collect()
    }

    /// The batch position of a dimension of the indices.
    pub fn batch_of(&self, indices_dim: usize) -> usize {
        indices_dim - usize::from(indices_dim > self.vector_dim)
    }

    /// Checks C2 to C4 and C6, and returns the extents of the result with these slice extents.
    pub fn result_shape(&self, operand: &TensorType, starts: &TensorType, slice: &[usize]) -> Result<Dims, String> {
        let (rank, n) = (operand.rank(), starts.rank());
        if !starts.dtype.is_int() {
            return Err(format!("(C1) indices must be integers, not {starts}"));
        }
        let vector = if self.vector_dim == n { Some(1) } else { starts.shape.get(self.vector_dim).copied() };
        if vector != Some(self.map.len()) {
            return Err(format!("(C2) dimension {} of {starts} does not hold {} starts", self.vector_dim, self.map.len()));
        }
        if !different(&[self.collapsed, self.operand_batching], rank) || !different(&[self.map, self.operand_batching], rank) {
            return Err(format!("(C3) the dimension numbers do not name different dimensions of {operand}"));
        }
        let paired = self.operand_batching.len() == self.indices_batching.len()
            && different(&[self.indices_batching], n)
            && !self.indices_batching.contains(&self.vector_dim)
            && self.operand_batching.iter().zip(self.indices_batching).all(|(o, i)| operand.shape[*o] == starts.shape[*i]);
        if !paired {
            return Err(format!("(C4) the batching dimensions of {operand} and {starts} do not pair up"));
        }
        let window = self.window_dims(rank);
        let batch: Dims = (0..n).filter(|d| *d != self.vector_dim).map(|d| starts.shape[d]).collect();
        let result_rank = batch.len() + self.offset.len();
        let ascending = self.offset.windows(2).all(|w| w[0] < w[1]) && self.offset.iter().all(|d| *d < result_rank);
        if !ascending || window.len() != self.offset.len() || slice.len() != rank {
            return Err(format!("(C6) {:?} are not ascending positions of the {} slice dimensions", self.offset, window.len()));
        }
        let mut shape = Dims::from_elem(0, result_rank);
        self.offset.iter().zip(&window).for_each(|(r, d)| shape[*r] = slice[*d]);
        self.batch_dims(result_rank).iter().zip(&batch).for_each(|(r, e)| shape[*r] = *e);
        Ok(shape)
    }

    /// For one result index: where the slice starts (as the indices say it, unclamped), and the place relative to that start.
    pub fn locate(&self, rank: usize, starts: &Tensor, values: &[i64], result: &[usize]) -> (SmallVec<[i64; 6]>, Dims) {
        let batch: Dims = self.batch_dims(result.len()).iter().map(|d| result[*d]).collect();
        let (mut start, mut inside) = (SmallVec::from_elem(0i64, rank), Dims::from_elem(0, rank));
        for (k, d) in self.map.iter().enumerate() {
            let mut at = batch.clone();
            if self.vector_dim < starts.shape().len() {
                at.insert(self.vector_dim, k);
            }
            let v = values[position(starts.shape(), &at)];
            start[*d] = if starts.dtype() == DType::U64 && v < 0 { i64::MAX } else { v };
        }
        for (o, i) in self.operand_batching.iter().zip(self.indices_batching) {
            inside[*o] = batch[self.batch_of(*i)];
        }
        for (r, d) in self.offset.iter().zip(self.window_dims(rank)) {
            inside[d] = result[*r];
        }
        (start, inside)
    }

    /// The largest start that each entry of an index vector may have for a slice to fit, as a tensor of the indices' type that
    /// fits in it.
    pub fn last_starts(&self, graph: &mut Graph, operand: &[usize], starts: ValueId, slice: &[usize]) -> ValueId {
        let ty = graph.tensor_ty(starts).clone();
        let bits = ty.dtype.size() as u32 * 8 - u32::from(ty.dtype.kind() == crate::types::NumberKind::Signed);
        let largest = if bits >= 63 { i64::MAX } else { (1i64 << bits) - 1 };
        let last: Vec<i64> = self.map.iter().map(|d| ((operand[*d] - slice[*d]) as i64).min(largest)).collect();
        if last.iter().all(|l| *l == last[0]) {
            return graph.splat(&ty, last.first().map_or(0.0, |l| *l as f64));
        }
        let vector = graph.constant(&Tensor::new_int(TensorType::new(ty.dtype, [last.len()]), last));
        graph.broadcast(vector, &ty.shape, &[self.vector_dim])
    }
}

impl Gather {
    pub(super) fn indexing(&self) -> Indexing<'_> {
        Indexing {
            offset: &self.offset_dims,
            collapsed: &self.collapsed_slice_dims,
            operand_batching: &self.operand_batching_dims,
            indices_batching: &self.start_indices_batching_dims,
            map: &self.start_index_map,
            vector_dim: self.index_vector_dim,
        }
    }

    /// Rows of `operand` along `dim` at scalar indices: the extents of the indices take the place of `dim`.
    pub fn take(operand: &[usize], indices_rank: usize, dim: usize) -> Self {
        let mut slice_sizes = Dims::from_slice(operand);
        slice_sizes[dim] = 1;
        Gather {
            offset_dims: (0..dim).chain(dim + indices_rank..operand.len() - 1 + indices_rank).collect(),
            collapsed_slice_dims: vec![dim],
            operand_batching_dims: Vec::new(),
            start_indices_batching_dims: Vec::new(),
            start_index_map: vec![dim],
            index_vector_dim: indices_rank,
            slice_sizes,
        }
    }
}

impl OpDef for Gather {
    const NAMES: &'static [&'static str] = &["gather"];
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a, starts] = ins else { return Err(InferError::new("gather", "(C1) takes two operands")) };
        let shape = self.indexing().result_shape(a, starts, &self.slice_sizes).map_err(|why| InferError::new("gather", why))?;
        let fits = self.slice_sizes.iter().zip(&a.shape).all(|(s, e)| s <= e)
            && self.collapsed_slice_dims.iter().all(|d| self.slice_sizes[*d] == 1)
            && self.operand_batching_dims.iter().all(|d| self.slice_sizes[*d] <= 1);
        if !fits {
            return Err(InferError::new("gather", format!("(C5) slices of {:?} do not fit {a}", self.slice_sizes)));
        }
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let (a, starts, ix) = (ins[0], ins[1], self.indexing());
        let result_rank = out.components()[0].rank();
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 0);
        let batch = ix.batch_dims(result_rank);
        let mut operand = vec![DimUse::Whole; a.rank()];
        for (r, d) in self.offset_dims.iter().zip(ix.window_dims(a.rank())) {
            // A slice as wide as the operand can only start at 0, indexed or not.
            if self.slice_sizes[d] == a.shape[d] {
                operand[d] = DimUse::Loop(*r);
            } else if !self.start_index_map.contains(&d) {
                operand[d] = DimUse::Window { loop_dim: *r, stride: 1, offset: 0, size: 1, dilation: 1 };
            } else {
                // The indices address the window's first element: a part of the window is no window of its own.
                axes.loops[*r].kind = LoopKind::Whole;
            }
        }
        for (o, i) in self.operand_batching_dims.iter().zip(&self.start_indices_batching_dims) {
            operand[*o] = DimUse::Loop(batch[ix.batch_of(*i)]);
        }
        let along = (0..starts.rank()).map(|d| if d == ix.vector_dim { DimUse::Whole } else { DimUse::Loop(batch[ix.batch_of(d)]) });
        axes.operands = vec![operand, along.collect()];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, starts, ty, ix) = (ins[0], ins[1], &out.components()[0], self.indexing());
        let values = starts.ints();
        let pick = indices(&ty.shape).map(|r| {
            let (start, mut at) = ix.locate(a.shape().len(), starts, &values, &r);
            for (d, s) in start.iter().enumerate() {
                if self.start_index_map.contains(&d) {
                    at[d] += (*s).clamp(0, (a.shape()[d] - self.slice_sizes[d]) as i64) as usize;
                }
            }
            Some(position(a.shape(), &at))
        });
        vec![Tensor::pick(ty.clone(), a, pick, None)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (a, starts, g) = (cx.operands[0], cx.operands[1], cx.cotangent());
        let shape = Dims::from_slice(cx.graph.shape(a));
        let zeros = cx.graph.splat_like(a, 0.0);
        // Scatter drops what gather clamps, so the starts are clamped first.
        let last = self.indexing().last_starts(cx.graph, &shape, starts, &self.slice_sizes);
        let mut starts = cx.graph.binary(BinaryFn::Min, starts, last);
        if cx.graph.tensor_ty(starts).dtype.kind() == crate::types::NumberKind::Signed {
            let zero = cx.graph.splat_like(starts, 0.0);
            starts = cx.graph.binary(BinaryFn::Max, starts, zero);
        }
        let op = Scatter {
            update_window_dims: self.offset_dims.clone(),
            inserted_window_dims: self.collapsed_slice_dims.clone(),
            input_batching_dims: self.operand_batching_dims.clone(),
            scatter_indices_batching_dims: self.start_indices_batching_dims.clone(),
            scatter_dims_to_operand_dims: self.start_index_map.clone(),
            index_vector_dim: self.index_vector_dim,
            combiner: Combiner::Sum,
        };
        Ok(vec![Some(cx.graph.emit(op, &[zeros, starts, g])), None])
    }
}
