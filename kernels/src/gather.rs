//! Indexed access: StableHLO's gather and scatter, and slices at starts that are known at run time only.
//!
//! A gather clamps a start so that the slice fits; a scatter drops a window that does not. Updates are applied in row-major order, so results
//! are deterministic.

use crate::arch::tier::{Tier, Work};
use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::copy::{Plan, by_size, copy};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::{Lane, Value, by_dtype, by_monoid};
use girih_ir::ops::gather::Gather;
use girih_ir::ops::scatter::Scatter;
use girih_ir::tensor::indices;
use girih_ir::types::{DType, Dims, Layout};
use smallvec::SmallVec;

/// The dimension numbers that gather and scatter share, with the strides that follow from them.
struct Indexed {
    /// Extents of the batch: the indices without the vector dimension.
    batch: Dims,
    /// Their strides in the indices, and in the result (updates).
    batch_index: SmallVec<[isize; 6]>,
    batch_result: SmallVec<[isize; 6]>,
    /// Operand stride of batch dimensions that go along with an operand dimension; else 0.
    batch_operand: SmallVec<[isize; 6]>,
    /// Operand dimension of each entry of an index vector.
    map: Vec<usize>,
    /// Stride between the entries of an index vector.
    vector_stride: isize,
    /// Extent of a window in each operand dimension.
    window: Dims,
    /// Window dimensions: extent, operand stride, result stride, in row-major order of the result.
    inner: SmallVec<[(usize, isize, isize); 6]>,
    /// The window dimensions trail in the result.
    trailing: bool,
}

/// StableHLO's dimension numbers under gather's names.
struct Numbers<'a> {
    offset: &'a [usize],
    collapsed: &'a [usize],
    operand_batching: &'a [usize],
    indices_batching: &'a [usize],
    map: &'a [usize],
    vector_dim: usize,
}

fn rule(name: &'static str, value: usize, rule: &'static str) -> KernelError {
    KernelError::Attribute { name, value: value as i64, rule }
}

impl Indexed {
    fn new(n: &Numbers<'_>, operand: &Layout, ind: &Layout, result: &Layout, window: Option<&[usize]>) -> Result<Self, KernelError> {
        let (rank, ranks) = (operand.dims.len(), ind.dims.len());
        let known = |dims: &[usize], below: usize| dims.iter().all(|d| *d < below);
        let all = known(n.offset, result.dims.len())
            && known(n.collapsed, rank)
            && known(n.operand_batching, rank)
            && known(n.indices_batching, ranks)
            && known(n.map, rank)
            && n.vector_dim <= ranks
            && n.operand_batching.len() == n.indices_batching.len()
            && !n.indices_batching.contains(&n.vector_dim);
        if !all {
            return Err(rule("dimension numbers", rank, "dimensions of the operand, the indices and the result"));
        }
        let vector = ind.dims.get(n.vector_dim).copied().unwrap_or(1);
        check_shape("an index vector has one entry a mapped dimension", "indices", &[vector], &[n.map.len()])?;
        let inner_dims: Dims = (0..rank).filter(|d| !n.collapsed.contains(d) && !n.operand_batching.contains(d)).collect();
        check_shape("one offset dimension a window dimension", "out", &[n.offset.len()], &[inner_dims.len()])?;
        let mut sizes = Dims::from_elem(1, rank);
        n.offset.iter().zip(&inner_dims).for_each(|(r, d)| sizes[*d] = result.dims[*r]);
        if let Some(w) = window {
            check_shape("one slice size an operand dimension", "slice_sizes", &[w.len()], &[rank])?;
            for (r, d) in n.offset.iter().zip(&inner_dims) {
                check_shape("the result has the extents of the slices", "out", &[result.dims[*r]], &[w[*d]])?;
            }
        }
        let along: Dims = (0..ranks).filter(|d| *d != n.vector_dim).collect();
        let batch_dims: Dims = (0..result.dims.len()).filter(|d| !n.offset.contains(d)).collect();
        let batch: Dims = along.iter().map(|d| ind.dims[*d]).collect();
        let have: Dims = batch_dims.iter().map(|d| result.dims[*d]).collect();
        check_shape("the batch has the extents of the indices", "out", &have, &batch)?;
        let mut batch_operand: SmallVec<[isize; 6]> = SmallVec::from_elem(0, along.len());
        for (o, i) in n.operand_batching.iter().zip(n.indices_batching) {
            check_shape("batching dimensions have equal extents", "operand", &[operand.dims[*o]], &[ind.dims[*i]])?;
            batch_operand[i - usize::from(*i > n.vector_dim)] = operand.strides[*o];
        }
        Ok(Indexed {
            batch_index: along.iter().map(|d| ind.strides[*d]).collect(),
            batch_result: batch_dims.iter().map(|d| result.strides[*d]).collect(),
            batch_operand,
            map: n.map.to_vec(),
            vector_stride: ind.strides.get(n.vector_dim).copied().unwrap_or(0),
            window: sizes,
            inner: n.offset.iter().zip(&inner_dims).map(|(r, d)| (result.dims[*r], operand.strides[*d], result.strides[*r])).collect(),
            trailing: n.offset.first().is_none_or(|f| f + n.offset.len() == result.dims.len()),
            batch,
        })
    }

    /// Calls `f(index position, operand position, result position)` for every index vector, row-major.
    fn each(&self, ind: isize, operand: isize, result: isize, mut f: impl FnMut(isize, isize, isize)) {
        for b in indices(&self.batch) {
            let (mut i, mut o, mut r) = (ind, operand, result);
            for (k, x) in b.iter().enumerate() {
                let x = *x as isize;
                i += x * self.batch_index[k];
                o += x * self.batch_operand[k];
                r += x * self.batch_result[k];
            }
            f(i, o, r);
        }
    }
}

/// Reads index vectors of any integer type as i64; what a u64 cannot say there is very large.
fn reader<'a>(ind: &'a View<'_>) -> Result<Box<dyn Fn(isize) -> i64 + 'a>, KernelError> {
    if !ind.dtype().is_int() {
        return Err(KernelError::ElementType { operand: "indices", have: ind.dtype(), want: DType::I64 });
    }
    Ok(by_dtype!(ind.dtype(), I => {
        let values = ind.buf().elements::<I>();
        Box::new(move |at: isize| {
            let v = values[at as usize].widen().to_i64();
            if I::DTYPE == DType::U64 && v < 0 { i64::MAX } else { v }
        })
    }))
}

/// StableHLO `gather`. `origin` is empty, or says for every operand dimension the global index of the operand's first element and the
/// global extent: starts are global then, they are clamped against the global extent, and elements that are not in this operand are zero.
pub fn gather(dims: &Gather, origin: &[(u64, u64)], operand: &View<'_>, ind: &View<'_>, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    check_type("out", out.dtype(), operand.dtype())?;
    let numbers = Numbers {
        offset: &dims.offset_dims,
        collapsed: &dims.collapsed_slice_dims,
        operand_batching: &dims.operand_batching_dims,
        indices_batching: &dims.start_indices_batching_dims,
        map: &dims.start_index_map,
        vector_dim: dims.index_vector_dim,
    };
    let (ol, il, rl) = (operand.layout(), ind.layout(), out.layout().clone());
    let ix = Indexed::new(&numbers, ol, il, &rl, Some(&dims.slice_sizes))?;
    let whole: SmallVec<[(u64, u64); 6]> = ol.dims.iter().map(|d| (0, *d as u64)).collect();
    let origin = if origin.is_empty() { &whole[..] } else { origin };
    check_shape("one origin a dimension", "origin", &[origin.len()], &[ol.dims.len()])?;
    let clamped = |d: usize, v: i64| v.clamp(0, (origin[d].1 as i64 - ix.window[d] as i64).max(0)) - origin[d].0 as i64;
    let unmapped = (0..ol.dims.len()).filter(|d| !ix.map.contains(d) && !dims.operand_batching_dims.contains(d));
    // A dimension without a start begins at 0 of what is here.
    if let Some(d) = unmapped.into_iter().find(|d| ix.window[*d] > ol.dims[*d]) {
        return Err(rule("slice_sizes", ix.window[d], "at most the extent of the operand"));
    }
    let read = reader(ind)?;
    let plan = Plan::new(ix.inner.iter().copied());
    let window_operand: Dims = ix.window.clone();
    by_size!(operand.dtype().size(), T => {
        let from = operand.buf().elements::<T>();
        let (to, _) = out.parts::<T>();
        ix.each(il.base as isize, ol.base as isize, rl.base as isize, |i, mut o, r| {
            let mut here = true;
            let mut start: SmallVec<[i64; 6]> = SmallVec::from_elem(0, ol.dims.len());
            for (k, d) in ix.map.iter().enumerate() {
                start[*d] = clamped(*d, read(i + k as isize * ix.vector_stride));
                here &= start[*d] >= 0 && start[*d] + window_operand[*d] as i64 <= ol.dims[*d] as i64;
                o = o.wrapping_add((start[*d] as isize).wrapping_mul(ol.strides[*d]));
            }
            if here {
                plan.copy(from, o, to, r);
            } else {
                partial::<T>(dims, &start, &ix, ol, operand_base(&ix, o, &start, ol), from, to, r);
            }
        });
    });
    Ok(())
}

/// The operand position without the starts.
fn operand_base(ix: &Indexed, at: isize, start: &[i64], ol: &Layout) -> isize {
    ix.map.iter().fold(at, |at, d| at.wrapping_sub((start[*d] as isize).wrapping_mul(ol.strides[*d])))
}

/// Copies the elements of a slice that are in the operand; the others are zero.
fn partial<T: bytemuck::Pod>(
    dims: &Gather,
    start: &[i64],
    ix: &Indexed,
    ol: &Layout,
    base: isize,
    from: &[T],
    to: &mut [T],
    result: isize,
) {
    let inner: Dims =
        (0..ol.dims.len()).filter(|d| !dims.collapsed_slice_dims.contains(d) && !dims.operand_batching_dims.contains(d)).collect();
    let collapsed = |d: &usize| dims.collapsed_slice_dims.contains(d);
    let absent = (0..ol.dims.len()).filter(collapsed).any(|d| start[d] < 0 || start[d] >= ol.dims[d] as i64);
    let extents: Dims = ix.inner.iter().map(|d| d.0).collect();
    for w in indices(&extents) {
        let mut at =
            (0..ol.dims.len()).filter(collapsed).fold(base, |at, d| at.wrapping_add((start[d] as isize).wrapping_mul(ol.strides[d])));
        let (mut here, mut r) = (!absent, result);
        for (k, d) in inner.iter().enumerate() {
            let p = start[*d] + w[k] as i64;
            here &= p >= 0 && p < ol.dims[*d] as i64;
            at = at.wrapping_add((p as isize).wrapping_mul(ol.strides[*d]));
            r += w[k] as isize * ix.inner[k].2;
        }
        to[r as usize] = if here { from[at as usize] } else { T::zeroed() };
    }
}

/// StableHLO `scatter`: `out` is `operand` with the updates combined in; `None` says that `out` holds the operand already.
pub fn scatter(
    dims: &Scatter,
    operand: Option<&View<'_>>,
    ind: &View<'_>,
    updates: &View<'_>,
    out: &mut ViewMut<'_>,
) -> Result<(), KernelError> {
    check_type("updates", updates.dtype(), out.dtype())?;
    let numbers = Numbers {
        offset: &dims.update_window_dims,
        collapsed: &dims.inserted_window_dims,
        operand_batching: &dims.input_batching_dims,
        indices_batching: &dims.scatter_indices_batching_dims,
        map: &dims.scatter_dims_to_operand_dims,
        vector_dim: dims.index_vector_dim,
    };
    let ix = Indexed::new(&numbers, out.layout(), ind.layout(), updates.layout(), None)?;
    if let Some(d) = (0..ix.window.len()).find(|d| ix.window[*d] > out.dims()[*d] && !ix.map.contains(d)) {
        return Err(rule("update window", ix.window[d], "at most the extent of the operand"));
    }
    let monoid = dims.combiner.monoid();
    if monoid.is_some_and(|m| m.function().result(out.dtype()).is_none()) {
        return Err(rule("combiner", 0, "a combiner that is defined on the element type"));
    }
    let read = reader(ind)?;
    let tier = Tier::new(Isa::detect());
    if let Some(operand) = operand {
        copy(operand, out)?;
    }
    by_dtype!(out.dtype(), L => {
        let ups = updates.buf().elements::<L>();
        let (to, ol) = out.parts::<L>();
        // Sums of 16-bit floats are kept in f32 until the end.
        let narrow = L::DTYPE.size() <= 2 && L::DTYPE.is_float() && monoid.is_some();
        let mut wide: Vec<<L as Lane>::Value> = if narrow { to.iter().map(|x| x.widen()).collect() } else { Vec::new() };
        let mut put = |to: &mut [L], at: isize, v: L| {
            let at = at as usize;
            match monoid {
                None => to[at] = v,
                Some(m) if narrow => wide[at] = Value::combine(m, wide[at], v.widen()),
                Some(m) => to[at] = L::narrow(Value::combine(m, to[at].widen(), v.widen())),
            }
        };
        let begin = |i: isize, mut o: isize| {
            for (k, d) in ix.map.iter().enumerate() {
                let start = read(i + k as isize * ix.vector_stride);
                if start < 0 || start.saturating_add(ix.window[*d] as i64) > ol.dims[*d] as i64 {
                    return None;
                }
                o += start as isize * ol.strides[*d];
            }
            Some(o)
        };
        let (i0, o0, r0) = (ind.layout().base as isize, ol.base as isize, updates.layout().base as isize);
        if ix.trailing {
            let inner: Dims = ix.inner.iter().map(|d| d.0).collect();
            ix.each(i0, o0, r0, |i, o, r| {
                let Some(o) = begin(i, o) else { return };
                for w in Rows::new(&inner) {
                    let (mut at, mut from) = (o, r);
                    w.iter().zip(&ix.inner).for_each(|(x, (_, s, d))| {
                        at += *x as isize * s;
                        from += *x as isize * d;
                    });
                    let (n, s, d) = ix.inner.last().copied().unwrap_or((1, 0, 0));
                    if let (1, 1, false, Some(m)) = (s, d, narrow, monoid) {
                        let (to, ups) = (&mut to[at as usize..at as usize + n], &ups[from as usize..from as usize + n]);
                        by_monoid!(m, <L as Lane>::Value, f => tier.run_narrow(Join { to, ups, f }));
                        continue;
                    }
                    for j in 0..n as isize {
                        put(&mut *to, at + j * s, ups[(from + j * d) as usize]);
                    }
                }
            });
        } else {
            for u in indices(updates.dims()) {
                let batch: SmallVec<[usize; 6]> = (0..u.len()).filter(|d| !dims.update_window_dims.contains(d)).map(|d| u[d]).collect();
                let (mut i, mut o) = (i0, o0);
                for (k, x) in batch.iter().enumerate() {
                    i += *x as isize * ix.batch_index[k];
                    o += *x as isize * ix.batch_operand[k];
                }
                let Some(mut o) = begin(i, o) else { continue };
                dims.update_window_dims.iter().zip(&ix.inner).for_each(|(d, (_, s, _))| o += u[*d] as isize * s);
                let from = u.iter().zip(&updates.layout().strides).fold(r0, |at, (x, s)| at + *x as isize * s);
                put(&mut *to, o, ups[from as usize]);
            }
        }
        if narrow {
            to.iter_mut().zip(wide).for_each(|(t, v)| *t = L::narrow(v));
        }
    });
    Ok(())
}

/// `to[i] = to[i] ∘ ups[i]`.
struct Join<'a, L, F> {
    to: &'a mut [L],
    ups: &'a [L],
    f: F,
}

impl<L: Lane, F: Fn(L::Value, L::Value) -> L::Value> Work for Join<'_, L, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (t, u) in self.to.iter_mut().zip(self.ups) {
            *t = L::narrow((self.f)(t.widen(), u.widen()));
        }
    }
}

/// The indices of all dimensions but the last, row-major, with a 0 for the last.
struct Rows(girih_ir::tensor::IndexIter);

impl Rows {
    fn new(dims: &[usize]) -> Self {
        let mut rows = Dims::from_slice(dims);
        if let Some(last) = rows.last_mut() {
            *last = (*last).min(1);
        }
        Rows(indices(&rows))
    }
}

impl Iterator for Rows {
    type Item = Dims;
    fn next(&mut self) -> Option<Dims> {
        self.0.next()
    }
}

/// The layout of `window` inside `of`, at starts that are clamped so that it fits.
fn slice_at(of: &Layout, window: &[usize], starts: &[i64]) -> Result<Layout, KernelError> {
    check_shape("one start a dimension", "starts", &[starts.len(), window.len()], &[of.dims.len(); 2])?;
    let mut base = of.base as isize;
    for (d, start) in starts.iter().enumerate() {
        if window[d] > of.dims[d] {
            return Err(rule("slice", window[d], "at most the extent of the operand"));
        }
        base += (*start).clamp(0, (of.dims[d] - window[d]) as i64) as isize * of.strides[d];
    }
    Ok(Layout { base: base.max(0) as usize, dims: Dims::from_slice(window), strides: of.strides.clone() })
}

/// StableHLO `dynamic_slice`: the slice of the extents of `out` at `starts`, which are clamped so that it fits.
pub fn dynamic_slice(operand: &View<'_>, starts: &[i64], out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    let layout = slice_at(operand.layout(), out.dims(), starts)?;
    copy(&View::new(operand.buf(), layout)?, out)
}

/// StableHLO `dynamic_update_slice`: `out` is `operand` (`None`: what `out` holds) with `update` written at `starts`, clamped so that it fits.
pub fn dynamic_update_slice(
    operand: Option<&View<'_>>,
    update: &View<'_>,
    starts: &[i64],
    out: &mut ViewMut<'_>,
) -> Result<(), KernelError> {
    let layout = slice_at(out.layout(), update.dims(), starts)?;
    if let Some(operand) = operand {
        copy(operand, out)?;
    }
    copy(update, &mut ViewMut::new(out.buf().reborrow(), layout)?)
}
