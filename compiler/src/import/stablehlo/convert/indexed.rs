//! Ops that address by computed indices: `gather`, `scatter`, `dynamic_slice`, `dynamic_update_slice`, and their relatives.

use super::super::module::{Block, Operation};
use super::{Converter, Frame, Parts, Res, attrs, bodies, malformed, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::dynamic_slice::DynamicSlice;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::gather::Gather;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::scatter::{Combiner, Scatter};
use girih_ir::ops::transpose::Transpose;
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::types::{DType, Dims, TensorType, element_count};

/// What a scatter does with one of its operands.
enum Update {
    /// Leaves it.
    Keep,
    /// Combines.
    Combine(Combiner),
    /// Subtracts.
    Subtract,
}

impl<'a> Converter<'a> {
    /// `gather`
    pub fn gather_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let sizes = Dims::from_vec(attrs::need_dims(&op.attrs, "slice_sizes")?);
        self.gather_with(frame, op, sizes)
    }

    /// A gather of slices of these extents.
    pub fn gather_with(&mut self, frame: &Frame<'a>, op: &Operation, slice_sizes: Dims) -> Res<Vec<Parts>> {
        let f = attrs::fields(op, "dimension_numbers")?;
        let indices = self.operand(frame, op, 1)?;
        let gather = Gather {
            offset_dims: attrs::dims(f, "offset_dims")?,
            collapsed_slice_dims: attrs::dims(f, "collapsed_slice_dims")?,
            operand_batching_dims: attrs::dims(f, "operand_batching_dims")?,
            start_indices_batching_dims: attrs::dims(f, "start_indices_batching_dims")?,
            start_index_map: attrs::dims(f, "start_index_map")?,
            index_vector_dim: attrs::size(f, "index_vector_dim", 0)?,
            slice_sizes,
        };
        self.on_parts(frame, op, |cx, v| cx.add(gather.clone(), &[v, indices]))
    }

    /// `torch_index_select`, which older files have: rows of a dimension.
    pub fn index_select_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [x, index] = self.exactly(frame, op)?;
        let dim = attrs::need_size(&op.attrs, "dim")?;
        if attrs::size(&op.attrs, "batch_dims", 0)? != 0 {
            return unsupported("torch_index_select with batch dimensions");
        }
        let (shape, n) = (self.dims(x), self.graph.shape(index).len());
        if dim >= shape.len() {
            return malformed(format!("the operand has no dimension {dim}"));
        }
        let mut slice_sizes = shape.clone();
        slice_sizes[dim] = 1;
        let gather = Gather {
            offset_dims: (0..shape.len() - 1).map(|d| if d < dim { d } else { d + n }).collect(),
            collapsed_slice_dims: vec![dim],
            operand_batching_dims: vec![],
            start_indices_batching_dims: vec![],
            start_index_map: vec![dim],
            index_vector_dim: n,
            slice_sizes,
        };
        Ok(super::one(self.add(gather, &[x, index])?))
    }

    /// Start indices from operand `first` on, all of one type.
    fn starts(&mut self, frame: &Frame<'a>, op: &Operation, first: usize) -> Res<Vec<ValueId>> {
        let mut starts: Vec<ValueId> = (first..op.operands.len()).map(|i| self.operand(frame, op, i)).collect::<Res<_>>()?;
        let mixed = starts.iter().any(|s| self.dtype(*s) != self.dtype(starts[0]));
        for s in starts.iter_mut().filter(|_| mixed) {
            *s = self.graph.convert(*s, DType::I64);
        }
        Ok(starts)
    }

    /// `dynamic_slice`
    pub fn dynamic_slice_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let sizes = Dims::from_vec(attrs::dims(&op.attrs, "slice_sizes")?);
        let starts = self.starts(frame, op, 1)?;
        self.on_parts(frame, op, |cx, v| {
            if starts.is_empty() && cx.graph.shape(v).is_empty() {
                return Ok(v);
            }
            let operands: Vec<ValueId> = std::iter::once(v).chain(starts.iter().copied()).collect();
            cx.add(DynamicSlice { sizes: sizes.clone() }, &operands)
        })
    }

    /// `dynamic_update_slice`
    pub fn dynamic_update_slice_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let updates = self.operand_parts(frame, op, 1)?;
        let starts = self.starts(frame, op, 2)?;
        let mut part = 0;
        self.on_parts(frame, op, |cx, v| {
            let Some(update) = updates.get(part).copied() else { return malformed("the update has another type than the tensor") };
            part += 1;
            if starts.is_empty() && cx.graph.shape(v).is_empty() {
                return Ok(update);
            }
            let operands: Vec<ValueId> = [v, update].into_iter().chain(starts.iter().copied()).collect();
            cx.add(DynamicUpdateSlice {}, &operands)
        })
    }

    /// `scatter`
    pub fn scatter_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let n = op.operands.len() / 2;
        let block = self.region(op, 0)?;
        if n == 0 || op.operands.len() != 2 * n + 1 || block.params.len() != 2 * n {
            return malformed(format!("{} operands and {} parameters do not make a scatter", op.operands.len(), block.params.len()));
        }
        if self.lift.is_some() {
            return unsupported("a scatter in a region body");
        }
        let f = attrs::fields(op, "scatter_dimension_numbers")?;
        let scatter = Scatter {
            update_window_dims: attrs::dims(f, "update_window_dims")?,
            inserted_window_dims: attrs::dims(f, "inserted_window_dims")?,
            input_batching_dims: attrs::dims(f, "input_batching_dims")?,
            scatter_indices_batching_dims: attrs::dims(f, "scatter_indices_batching_dims")?,
            scatter_dims_to_operand_dims: attrs::dims(f, "scatter_dims_to_operand_dims")?,
            index_vector_dim: attrs::size(f, "index_vector_dim", 0)?,
            combiner: Combiner::None,
        };
        let indices = self.operand(frame, op, n)?;
        let mut all = Vec::with_capacity(2 * n);
        for i in (0..n).chain(n + 1..2 * n + 1) {
            let mut parts = self.operand_parts(frame, op, i)?;
            let param = block.params[all.len()];
            if let (Some(to), [v]) = (bodies::scalar_type(frame, param), parts.as_mut_slice()) {
                *v = self.graph.convert(*v, to);
            }
            all.push(parts);
        }
        let updates = all.split_off(n);
        if let Some(kinds) = self.updates(frame, block, &all, &updates) {
            let mut made = Vec::with_capacity(n);
            for ((parts, own), kind) in all.iter().zip(&updates).zip(kinds) {
                let put: Res<Parts> = parts.iter().zip(own).map(|(v, u)| self.put(&scatter, &kind, *v, indices, *u)).collect();
                made.push(put?);
            }
            return Ok(made);
        }
        if all.iter().chain(&updates).any(|p| p.len() != 1) {
            return unsupported("a scatter of complex numbers with this body");
        }
        let inputs: Vec<ValueId> = all.iter().map(|p| p[0]).collect();
        let updates: Vec<ValueId> = updates.iter().map(|p| p[0]).collect();
        // Typed as replacements, so that everything below may rely on the dimension numbers.
        for (v, u) in inputs.iter().zip(&updates) {
            self.add(scatter.clone(), &[*v, indices, *u])?;
        }
        self.scatter_by_loop(frame, block, &scatter, inputs, indices, updates)
    }

    /// What the body does with each operand, when it treats each for itself in a known way.
    fn updates(&mut self, frame: &Frame<'a>, block: &'a Block, inputs: &[Parts], updates: &[Parts]) -> Option<Vec<Update>> {
        let n = inputs.len();
        let formulas = self.formulas(frame, block)?;
        let monoids = self.monoids(frame, block);
        let real = inputs.iter().chain(updates).all(|p| p.len() == 1);
        (0..n)
            .map(|k| match formulas.get(k)?.as_str() {
                f if f == format!("p{k}") => Some(Update::Keep),
                f if f == format!("p{}", n + k) => Some(Update::Combine(Combiner::None)),
                f if f == format!("subtract(p{k},p{})", n + k) => Some(Update::Subtract),
                f if f == format!("add(p{k},p{})", n + k) || f == format!("add(p{},p{k})", n + k) => Some(Update::Combine(Combiner::Sum)),
                _ if real => {
                    let monoid = monoids.as_ref()?.get(k).copied()??;
                    Self::scatters(monoid, self.dtype(inputs[k][0])).map(Update::Combine)
                }
                _ => None,
            })
            .collect()
    }

    fn put(&mut self, scatter: &Scatter, kind: &Update, v: ValueId, indices: ValueId, update: ValueId) -> Res<ValueId> {
        match kind {
            Update::Keep => Ok(v),
            Update::Combine(combiner) => self.add(Scatter { combiner: *combiner, ..scatter.clone() }, &[v, indices, update]),
            Update::Subtract => {
                let update = self.add(girih_ir::ops::elementwise::Unary(UnaryFn::Neg), &[update])?;
                self.add(Scatter { combiner: Combiner::Sum, ..scatter.clone() }, &[v, indices, update])
            }
        }
    }

    /// Applies any body, one index vector after the other.
    fn scatter_by_loop(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        scatter: &Scatter,
        inputs: Vec<ValueId>,
        indices: ValueId,
        updates: Vec<ValueId>,
    ) -> Res<Vec<Parts>> {
        let shape = self.dims(inputs[0]);
        let (table, count) = self.start_table(scatter, indices, shape.len())?;
        let window_dims: Vec<usize> =
            (0..shape.len()).filter(|d| !scatter.inserted_window_dims.contains(d) && !scatter.input_batching_dims.contains(d)).collect();
        let mut window = Dims::from_elem(1, shape.len());
        for (u, d) in scatter.update_window_dims.iter().zip(&window_dims) {
            window[*d] = self.graph.shape(updates[0])[*u];
        }
        let mut rows = Vec::with_capacity(updates.len());
        for u in updates {
            let rank = self.graph.shape(u).len();
            let batch = (0..rank).filter(|d| !scatter.update_window_dims.contains(d));
            let permutation: Vec<usize> = batch.chain(scatter.update_window_dims.iter().copied()).collect();
            let moved = self.graph.transpose(u, &permutation);
            let row: Dims = std::iter::once(count).chain(window.iter().copied()).collect();
            rows.push(self.reshape_to(moved, &row)?);
        }
        let given: Vec<Parts> = inputs.iter().map(|v| Parts::from_slice(&[*v])).collect();
        if count == 0 || element_count(&window) == 0 {
            return Ok(given);
        }
        let open = self.graph.begin_loop(&inputs);
        let i = self.graph.loop_index(&open);
        let mut starts = Vec::with_capacity(shape.len());
        let mut inside: Option<ValueId> = None;
        for d in 0..shape.len() {
            let column = self.scalar(DType::I64, d as i64);
            let start = self.add(DynamicSlice { sizes: Dims::from_slice(&[1, 1]) }, &[table, i, column])?;
            let start = self.reshape_to(start, &[])?;
            starts.push(start);
            let (first, last) = (self.scalar(DType::I64, 0), self.scalar(DType::I64, shape[d] as i64 - window[d] as i64));
            for (f, bound) in [(CompareFn::Ge, first), (CompareFn::Le, last)] {
                let fits = self.graph.compare(f, start, bound);
                inside = Some(inside.map_or(fits, |all| self.graph.binary(BinaryFn::And, all, fits)));
            }
        }
        let mut args = Vec::with_capacity(2 * inputs.len());
        for carry in &open.carries {
            args.push(self.sliced(*carry, &starts, &window)?);
        }
        let zero = self.scalar(DType::I64, 0);
        for row in rows {
            let at: Vec<ValueId> = std::iter::once(i).chain(std::iter::repeat_n(zero, shape.len())).collect();
            let row_shape: Dims = std::iter::once(1).chain(window.iter().copied()).collect();
            let own = self.sliced(row, &at, &row_shape)?;
            args.push(self.reshape_to(own, &window)?);
        }
        let made = self.apply(frame, block, &args, &window)?;
        let mut next = Vec::with_capacity(inputs.len());
        for (k, new) in made.into_iter().enumerate() {
            let new = match inside {
                Some(inside) => {
                    let inside = self.spread(inside, &window)?;
                    self.graph.select(inside, new, args[k])
                }
                None => new,
            };
            let operands: Vec<ValueId> = [open.carries[k], new].into_iter().chain(starts.iter().copied()).collect();
            next.push(if shape.is_empty() { new } else { self.add(DynamicUpdateSlice {}, &operands)? });
        }
        let ends = self.graph.end_repeat(&open, count, &next);
        Ok(ends.into_iter().map(|v| Parts::from_slice(&[v])).collect())
    }

    /// A box of a tensor at these starts.
    fn sliced(&mut self, v: ValueId, starts: &[ValueId], sizes: &[usize]) -> Res<ValueId> {
        if self.graph.shape(v).is_empty() {
            return Ok(v);
        }
        let operands: Vec<ValueId> = std::iter::once(v).chain(starts.iter().copied()).collect();
        self.add(DynamicSlice { sizes: Dims::from_slice(sizes) }, &operands)
    }

    /// Where each window starts in every dimension of the operand: i64 of shape [windows, rank], and the number of windows.
    fn start_table(&mut self, scatter: &Scatter, indices: ValueId, rank: usize) -> Res<(ValueId, usize)> {
        let mut v = self.graph.convert(indices, DType::I64);
        let n = self.graph.shape(v).len();
        let vector = scatter.index_vector_dim;
        if vector < n {
            let order: Vec<usize> = (0..n).filter(|d| *d != vector).chain([vector]).collect();
            v = if vector + 1 == n { v } else { self.add(Transpose { permutation: order }, &[v])? };
        } else {
            let mut shape = self.dims(v);
            shape.push(1);
            v = self.reshape_to(v, &shape)?;
        }
        let mut column = self.dims(v);
        let batch = column.len() - 1;
        let count = element_count(&column[..batch]);
        column[batch] = 1;
        let mut columns = Vec::with_capacity(rank);
        for d in 0..rank {
            let mapped = scatter.scatter_dims_to_operand_dims.iter().position(|o| *o == d);
            let along = scatter.input_batching_dims.iter().position(|o| *o == d);
            columns.push(match (mapped, along) {
                (Some(k), _) => {
                    let (mut start, mut limit) = (vec![0; batch + 1], column.to_vec());
                    (start[batch], limit[batch]) = (k, k + 1);
                    self.slice_of(v, &start, &limit, &vec![1; batch + 1])?
                }
                (None, Some(j)) => {
                    let own = scatter.scatter_indices_batching_dims[j];
                    let dim = own - usize::from(own > vector);
                    self.add(Iota { dtype: DType::I64, shape: column.clone(), dim }, &[])?
                }
                (None, None) => self.graph.splat(&TensorType::new(DType::I64, &column), 0.0),
            });
        }
        if columns.is_empty() {
            return Ok((v, count));
        }
        let table = self.concat(&columns, batch)?;
        Ok((self.reshape_to(table, &[count, rank])?, count))
    }
}
