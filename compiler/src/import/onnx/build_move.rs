//! The builder's data movement, windows and indexing: thin, checked wrappers over the IR's ops.

use super::build::{Builder, Val};
use super::call::{Res, malformed, unsupported};
use girih_ir::ops::convolution::Convolution;
use girih_ir::ops::gather::Gather;
use girih_ir::ops::scatter::{Combiner, Scatter};
use girih_ir::ops::{concat::Concat, pad::Pad, reduce_window::ReduceWindow, reverse::Reverse, slice::Slice, top_k::TopK};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims};

/// No padding or stride may be further from zero than this.
const FARTHEST: i64 = 1 << 40;

impl Builder<'_> {
    /// Elements `start, start + step, …` below `end` of one axis.
    pub fn slice_axis(&mut self, v: Val, at: usize, start: usize, end: usize, step: usize) -> Res<Val> {
        let dims = self.dims(v);
        if at >= dims.len() || start > end || end > dims[at] || step == 0 {
            return malformed(format!("a slice {start}:{end}:{step} of dimension {at} of {dims:?}"));
        }
        if start == 0 && end == dims[at] && step == 1 {
            return Ok(v);
        }
        let mut low = Dims::from_elem(0, dims.len());
        let mut limit = dims.clone();
        let mut stride = Dims::from_elem(1, dims.len());
        (low[at], limit[at], stride[at]) = (start, end, step);
        self.emit(Slice { start: low, limit, stride }, &[v])
    }

    /// Consecutive parts of one axis; the sizes must fill it.
    pub fn split(&mut self, v: Val, at: usize, sizes: &[usize]) -> Res<Vec<Val>> {
        let mut parts = Vec::with_capacity(sizes.len());
        let mut start = 0;
        for size in sizes {
            parts.push(self.slice_axis(v, at, start, start + size, 1)?);
            start += size;
        }
        Ok(parts)
    }

    /// Turns the order along dimensions around.
    pub fn reverse(&mut self, v: Val, dims: &[usize]) -> Res<Val> {
        let shape = self.dims(v);
        let dims: Vec<usize> = dims.iter().copied().filter(|d| shape[*d] > 1).collect();
        if dims.is_empty() { Ok(v) } else { self.emit(Reverse { dims }, &[v]) }
    }

    /// Tensors one after the other along an axis; empty ones are left out.
    pub fn concat(&mut self, parts: &[Val], at: usize) -> Res<Val> {
        let Some(first) = parts.first() else { return malformed("nothing to concatenate") };
        if at >= self.rank(*first) {
            return malformed("scalars cannot be concatenated");
        }
        if let Some(v) = parts.iter().find(|v| self.dtype(**v) != self.dtype(*first)) {
            return malformed(format!("{} and {} cannot be concatenated", self.dtype(*first), self.dtype(*v)));
        }
        let full: Vec<Val> = parts.iter().copied().filter(|v| self.dims(*v).get(at) != Some(&0)).collect();
        match full[..] {
            [] => Ok(*first),
            [only] => Ok(only),
            _ => self.emit(Concat { dim: at }, &full),
        }
    }

    /// Puts `fill` before and after the elements; negative amounts crop.
    pub fn pad(&mut self, v: Val, fill: Val, low: &[i64], high: &[i64]) -> Res<Val> {
        let none = vec![0; low.len()];
        self.pad_interior(v, fill, low, high, &none)
    }

    /// Puts `fill` before, after and between the elements.
    pub fn pad_interior(&mut self, v: Val, fill: Val, low: &[i64], high: &[i64], interior: &[usize]) -> Res<Val> {
        if low.iter().chain(high).all(|p| *p == 0) && interior.iter().all(|p| *p == 0) {
            return Ok(v);
        }
        if low.iter().chain(high).any(|p| p.unsigned_abs() > FARTHEST as u64) || interior.iter().any(|i| *i as u64 > FARTHEST as u64) {
            return malformed("a padding is out of range");
        }
        if self.dtype(fill) != self.dtype(v) {
            return malformed(format!("{} is padded with {}", self.dtype(v), self.dtype(fill)));
        }
        let op = Pad { low: low.to_vec(), high: high.to_vec(), interior: Dims::from_slice(interior) };
        self.emit(op, &[v, fill])
    }

    /// A convolution of `[N, C, …]` with `[M, C/g, …]`.
    pub fn conv(
        &mut self,
        x: Val,
        w: Val,
        strides: &[usize],
        low: &[i64],
        high: &[i64],
        input_dilation: &[usize],
        kernel_dilation: &[usize],
        groups: usize,
    ) -> Res<Val> {
        if self.dtype(x) != self.dtype(w) {
            return malformed(format!("{} is convolved with {}", self.dtype(x), self.dtype(w)));
        }
        let op = Convolution {
            stride: Dims::from_slice(strides),
            pad_low: low.to_vec(),
            pad_high: high.to_vec(),
            lhs_dilation: Dims::from_slice(input_dilation),
            rhs_dilation: Dims::from_slice(kernel_dilation),
            feature_groups: groups,
            ..Convolution::plain(strides.len())
        };
        self.emit(op, &[x, w])
    }

    /// Combines sliding windows.
    pub fn reduce_window(
        &mut self,
        monoid: Monoid,
        v: Val,
        window: &[usize],
        strides: &[usize],
        dilations: &[usize],
        low: &[i64],
        high: &[i64],
    ) -> Res<Val> {
        if monoid.function().result(self.dtype(v)).is_none() {
            return unsupported(format!("windows over {}", self.dtype(v)));
        }
        let op = ReduceWindow {
            monoid,
            window: Dims::from_slice(window),
            stride: Dims::from_slice(strides),
            window_dilation: Dims::from_slice(dilations),
            base_dilation: Dims::from_elem(1, window.len()),
            pad_low: low.to_vec(),
            pad_high: high.to_vec(),
        };
        self.emit(op, &[v])
    }

    /// Whole slices along an axis by index (not negative): numpy's `take`.
    pub fn take(&mut self, x: Val, index: Val, at: usize) -> Res<Val> {
        let (dims, index_rank) = (self.dims(x), self.rank(index));
        let mut slice_sizes = dims.clone();
        if dims.get(at).copied().unwrap_or(0) == 0 {
            return malformed("an empty dimension cannot be indexed");
        }
        slice_sizes[at] = 1;
        // The index dimensions take the place of the axis.
        let offset_dims = (0..at).chain(at + index_rank..dims.len() - 1 + index_rank).collect();
        let op = Gather {
            offset_dims,
            collapsed_slice_dims: vec![at],
            operand_batching_dims: vec![],
            start_indices_batching_dims: vec![],
            start_index_map: vec![at],
            index_vector_dim: index_rank,
            slice_sizes,
        };
        self.emit(op, &[x, index])
    }

    /// One element for each index (not negative): numpy's `take_along_axis`. The index may be shorter in the other dimensions.
    pub fn take_along(&mut self, x: Val, index: Val, at: usize) -> Res<Val> {
        let (dims, shape) = (self.dims(x), self.dims(index));
        let others: Vec<usize> = (0..dims.len()).filter(|d| *d != at).collect();
        if dims.len() != shape.len() || others.iter().any(|d| shape[*d] > dims[*d]) || dims[at] == 0 {
            return malformed(format!("indices {shape:?} do not fit data {dims:?}"));
        }
        let mut x = x;
        for d in &others {
            x = self.slice_axis(x, *d, 0, shape[*d], 1)?;
        }
        let op = Gather {
            offset_dims: vec![],
            collapsed_slice_dims: vec![at],
            operand_batching_dims: others.clone(),
            start_indices_batching_dims: others,
            start_index_map: vec![at],
            index_vector_dim: shape.len(),
            slice_sizes: Dims::from_elem(1, dims.len()),
        };
        self.emit(op, &[x, index])
    }

    /// Slices by index tuples (not negative) along the last dimension of `index`, after `batch` shared leading dimensions.
    pub fn gather_nd(&mut self, x: Val, index: Val, batch: usize) -> Res<Val> {
        let (dims, shape) = (self.dims(x), self.dims(index));
        let vector = shape.len() - 1;
        let depth = shape[vector];
        let mut slice_sizes = dims.clone();
        slice_sizes[..batch + depth].fill(1);
        let op = Gather {
            offset_dims: (vector..vector + dims.len() - batch - depth).collect(),
            collapsed_slice_dims: (batch..batch + depth).collect(),
            operand_batching_dims: (0..batch).collect(),
            start_indices_batching_dims: (0..batch).collect(),
            start_index_map: (batch..batch + depth).collect(),
            index_vector_dim: vector,
            slice_sizes,
        };
        if op.slice_sizes.iter().zip(&dims).any(|(s, d)| s > d) {
            return malformed("an empty dimension cannot be indexed");
        }
        self.emit(op, &[x, index])
    }

    /// Writes or combines slices at index tuples (not negative) along the last dimension of `index`.
    pub fn scatter_nd(&mut self, x: Val, index: Val, updates: Val, combine: Option<Monoid>) -> Res<Val> {
        if self.dtype(x) != self.dtype(updates) {
            return malformed(format!("{} is updated with {}", self.dtype(x), self.dtype(updates)));
        }
        let combiner = match combine {
            None => Combiner::None,
            Some(Monoid::Sum) => Combiner::Sum,
            Some(Monoid::Prod) => Combiner::Prod,
            Some(Monoid::Max) => Combiner::Max,
            Some(Monoid::Min) => Combiner::Min,
            Some(other) => return unsupported(format!("a scatter that combines by {}", other.name())),
        };
        let (dims, shape) = (self.dims(x), self.dims(index));
        let vector = shape.len() - 1;
        let depth = shape[vector];
        let op = Scatter {
            update_window_dims: (vector..vector + dims.len() - depth).collect(),
            inserted_window_dims: (0..depth).collect(),
            input_batching_dims: vec![],
            scatter_indices_batching_dims: vec![],
            scatter_dims_to_operand_dims: (0..depth).collect(),
            index_vector_dim: vector,
            combiner,
        };
        self.emit(op, &[x, index, updates])
    }

    /// The `k` largest (smallest) elements along an axis, best first, and their indices; of equal ones the first comes first.
    pub fn top_k(&mut self, x: Val, at: usize, k: usize, largest: bool) -> Res<(Val, Val)> {
        let rank = self.rank(x);
        let mut to_last: Vec<usize> = (0..rank).filter(|d| *d != at).collect();
        to_last.push(at);
        let rows = self.transpose(x, &to_last)?;
        let both = self.emit_tuple(TopK { k, largest, dtype: DType::I64 }, &[rows])?;
        let mut back: Vec<usize> = (0..rank - 1).collect();
        back.insert(at, rank - 1);
        Ok((self.transpose(both[0], &back)?, self.transpose(both[1], &back)?))
    }
}
