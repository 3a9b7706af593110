//! Tiles of queries, head by head.

use super::{AttentionScratch, BLOCK, Chain, Extents, Memory, Rows, tile};
use crate::buffer::{Buf, BufMut, View, ViewMut};
use crate::error::KernelError;
use crate::gemm::{Gemm, gemm, gemm_bf16};
use crate::isa::Isa;
use crate::lane::Lane;
use crate::map::{self, MapScratch, Operand};
use crate::scratch::{Buffer, Scratch};
use girih_ir::types::{DType, Dims, Layout};
use half::bf16;
use smallvec::SmallVec;
use std::ops::Range;

/// The elements of an attention.
pub(super) trait Element: Lane<Value = f32> {
    /// A product.
    fn product(isa: Isa, g: &Gemm, a: &[Self], b: &[Self], out: &mut [Self], scratch: &mut Scratch) -> Result<(), KernelError>;
    /// A product whose sums are not rounded.
    fn sums(isa: Isa, g: &Gemm, a: &[Self], b: &[Self], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError>;
}

impl Element for f32 {
    fn product(isa: Isa, g: &Gemm, a: &[f32], b: &[f32], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
        gemm(isa, g, a, b, out, scratch)
    }
    fn sums(isa: Isa, g: &Gemm, a: &[f32], b: &[f32], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
        gemm(isa, g, a, b, out, scratch)
    }
}

impl Element for bf16 {
    fn product(isa: Isa, g: &Gemm, a: &[bf16], b: &[bf16], out: &mut [bf16], scratch: &mut Scratch) -> Result<(), KernelError> {
        gemm_bf16(isa, g, a, b, out, scratch)
    }
    fn sums(isa: Isa, g: &Gemm, a: &[bf16], b: &[bf16], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
        gemm_bf16(isa, g, a, b, out, scratch)
    }
}

/// One call.
pub(super) struct Call<'c, 'a, T> {
    isa: Isa,
    chain: &'c Chain,
    origin: &'c [usize],
    /// q, k, v and of the gradient g.
    rows: SmallVec<[(&'a [T], &'c Layout); 4]>,
    masks: &'c [View<'a>],
    e: Extents,
    /// Elements from one row of scores to the next: rows do not all begin in the same cache set.
    pitch: usize,
}

/// A tile: the head, and its queries.
struct Tile<'t> {
    head: &'t [usize],
    first: usize,
    count: usize,
}

impl<'c, 'a, T: Element> Call<'c, 'a, T> {
    pub(super) fn new(isa: Isa, chain: &'c Chain, origin: &'c [usize], ins: &'c [View<'a>], e: Extents) -> Self {
        let (rows, masks) = ins.split_at(if chain.is_gradient() { 4 } else { 3 });
        let rows = rows.iter().map(|v| (bytemuck::try_cast_slice(v.buf().bytes()).unwrap_or(&[]), v.layout())).collect();
        let pitch = e.keys.next_multiple_of(16) + 16;
        Call { isa, chain, origin, rows, masks, e, pitch }
    }

    /// Runs all heads.
    pub(super) fn run(&self, outs: &mut [ViewMut<'_>], memory: &mut Memory<'_>) -> Result<(), KernelError> {
        let e = &self.e;
        let step = tile(e.keys);
        for head in girih_ir::tensor::indices(&e.batch) {
            let tiles = (0..e.queries).step_by(step).map(|first| Tile { head: &head, first, count: step.min(e.queries - first) });
            if !self.chain.is_gradient() {
                tiles.into_iter().try_for_each(|t| self.forward(&t, &mut outs[0], memory))?;
                continue;
            }
            let [dk, dv] = [e.keys * e.width, e.keys * e.value_width];
            memory.own.sums[0].take(dk).fill(0.0);
            memory.own.sums[1].take(dv).fill(0.0);
            tiles.into_iter().try_for_each(|t| self.backward(&t, &mut outs[0], memory))?;
            for (which, width) in [(0, e.width), (1, e.value_width)] {
                let sums = memory.own.sums[which].take(e.keys * width);
                let (out, layout) = outs[1 + which].parts::<T>();
                store(sums, e.keys, width, out, Rows::of(layout, &head));
            }
        }
        Ok(())
    }

    fn side(&self, k: usize, head: &[usize]) -> (&'a [T], Rows) {
        let (data, layout) = self.rows[k];
        (data, Rows::of(layout, head))
    }

    fn scores(&self) -> Rows {
        Rows { base: 0, down: self.pitch as isize, along: 1 }
    }

    /// Weights of a tile, and the keys that have any that are not 0.
    fn weights(
        &self,
        t: &Tile<'_>,
        own: &mut AttentionScratch,
        gemm: &mut Scratch,
        map: &mut MapScratch,
    ) -> Result<Range<usize>, KernelError> {
        let keys = self.e.keys;
        let seen = self.seen(t, &mut own.seen, map)?;
        let scores = elements::<T>(&mut own.scores, t.count * self.pitch);
        let ((q, q_rows), (k, k_rows)) = (self.side(0, t.head), self.side(1, t.head));
        self.toward(t, (q, q_rows), (k, k_rows), self.e.width, &seen, scores, gemm)?;
        // Weights in place of the scores, other forms of them beside.
        own.more.resize_with(self.chain.made.len().saturating_sub(1), Buffer::default);
        let layout = Layout { base: 0, ..self.rows_layout(t.count) };
        let mut outs: SmallVec<[ViewMut<'_>; 2]> = SmallVec::new();
        outs.push(ViewMut::new(BufMut::of(scores), self.shaped(&layout))?);
        for (buffer, dtype) in own.more.iter_mut().zip(&self.chain.made[1..]) {
            outs.push(ViewMut::new(BufMut::new(*dtype, bytes(buffer, t.count * self.pitch * dtype.size()))?, self.shaped(&layout))?);
        }
        let mut ins: SmallVec<[Operand<'_>; 4]> = SmallVec::from_iter([Operand::InPlace(0)]);
        self.add_masks(t, 0..self.chain.weight_masks, &mut ins)?;
        self.program(t, &self.chain.weights, &ins, &mut outs, map)?;
        drop(outs);
        let scores = elements::<T>(&mut own.scores, t.count * self.pitch);
        let used = |block: Range<usize>| (0..t.count).any(|r| scores[r * self.pitch..][block.clone()].iter().any(|w| w.widen() != 0.0));
        let (mut first, mut last) = (seen.start, seen.end);
        while let Some(at) = (0..first).step_by(BLOCK).find(|b| used(*b..(b + BLOCK).min(first))) {
            first = at;
        }
        while let Some(at) = (last..keys).step_by(BLOCK).rfind(|b| used(*b..(b + BLOCK).min(keys))) {
            last = (at + BLOCK).min(keys);
        }
        Ok(first..last)
    }

    /// The products of rows of queries with rows of keys, where they are needed; 0 elsewhere.
    #[allow(clippy::too_many_arguments)]
    fn toward(
        &self,
        t: &Tile<'_>,
        (a, a_rows): (&[T], Rows),
        (b, b_rows): (&[T], Rows),
        width: usize,
        keys: &Range<usize>,
        out: &mut [T],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        for row in out.chunks_mut(self.pitch) {
            row[..keys.start].fill(T::zeroed());
            row[keys.end..self.e.keys].fill(T::zeroed());
        }
        let g = Gemm::new(
            a_rows.at(t.first, 0).layout(t.count, width),
            b_rows.at(keys.start, 0).turned().layout(width, keys.len()),
            self.scores().at(0, keys.start).layout(t.count, keys.len()),
        );
        if keys.is_empty() { Ok(()) } else { T::product(self.isa, &g, a, b, out, scratch) }
    }

    fn forward(&self, t: &Tile<'_>, out: &mut ViewMut<'_>, memory: &mut Memory<'_>) -> Result<(), KernelError> {
        let used = self.weights(t, memory.own, memory.gemm, memory.map)?;
        let weights = elements::<T>(&mut memory.own.scores, t.count * self.pitch);
        let (v, v_rows) = self.side(2, t.head);
        let (out, layout) = out.parts::<T>();
        self.sum_of_keys(t, weights, (v, v_rows), self.e.value_width, &used, (out, Rows::of(layout, t.head)), memory.gemm)
    }

    /// Σ over keys of weight times row of the key: rows of queries.
    #[allow(clippy::too_many_arguments)]
    fn sum_of_keys(
        &self,
        t: &Tile<'_>,
        weights: &[T],
        (b, b_rows): (&[T], Rows),
        width: usize,
        keys: &Range<usize>,
        (out, out_rows): (&mut [T], Rows),
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let g = Gemm::new(
            self.scores().at(0, keys.start).layout(t.count, keys.len()),
            b_rows.at(keys.start, 0).layout(keys.len(), width),
            out_rows.at(t.first, 0).layout(t.count, width),
        );
        T::product(self.isa, &g, weights, b, out, scratch)
    }

    /// Adds, for every key, Σ over the queries of weight times row of the query.
    fn sum_of_queries(
        &self,
        t: &Tile<'_>,
        weights: &[T],
        (b, b_rows): (&[T], Rows),
        width: usize,
        keys: &Range<usize>,
        sums: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let a = self.scores().at(0, keys.start).turned().layout(keys.len(), t.count);
        let sums_rows = Rows { base: 0, down: width as isize, along: 1 };
        let out = sums_rows.at(keys.start, 0).layout(keys.len(), width);
        let g = Gemm { accumulate: true, ..Gemm::new(a, b_rows.at(t.first, 0).layout(t.count, width), out) };
        if keys.is_empty() { Ok(()) } else { T::sums(self.isa, &g, weights, b, sums, scratch) }
    }

    fn backward(&self, t: &Tile<'_>, dq: &mut ViewMut<'_>, memory: &mut Memory<'_>) -> Result<(), KernelError> {
        let (e, own) = (&self.e, &mut *memory.own);
        let Some(program) = &self.chain.scores else { return Ok(()) };
        let used = self.weights(t, own, memory.gemm, memory.map)?;
        let needed = if self.chain.fades { used.clone() } else { 0..e.keys };
        let len = t.count * self.pitch;
        let (q, k, v, g) = (self.side(0, t.head), self.side(1, t.head), self.side(2, t.head), self.side(3, t.head));
        self.toward(t, g, v, e.value_width, &needed, elements::<T>(&mut own.toward, len), memory.gemm)?;
        let layout = self.shaped(&self.rows_layout(t.count));
        let mut ins: SmallVec<[Operand<'_>; 4]> = SmallVec::new();
        for (dtype, b) in std::iter::once((T::DTYPE, &own.scores)).chain(self.chain.made[1..].iter().copied().zip(&own.more)) {
            let held = &bytemuck::cast_slice::<f32, u8>(b.held())[..len * dtype.size()];
            ins.push(Operand::Read(View::new(Buf::new(dtype, held)?, layout.clone())?));
        }
        ins.push(Operand::InPlace(0));
        self.add_masks(t, self.chain.weight_masks..self.masks.len(), &mut ins)?;
        let mut outs = [ViewMut::new(BufMut::of(elements::<T>(&mut own.toward, len)), layout)?];
        self.program(t, program, &ins, &mut outs, memory.map)?;
        drop(ins);
        let weights = elements::<T>(&mut own.scores, len);
        let ds = elements::<T>(&mut own.toward, len);
        let (out, out_layout) = dq.parts::<T>();
        self.sum_of_keys(t, ds, k, e.width, &needed, (out, Rows::of(out_layout, t.head)), memory.gemm)?;
        let [dk, dv] = &mut own.sums;
        self.sum_of_queries(t, ds, q, e.width, &needed, dk.take(e.keys * e.width), memory.gemm)?;
        self.sum_of_queries(t, weights, g, e.value_width, &used, dv.take(e.keys * e.value_width), memory.gemm)
    }

    /// The keys that some query of a tile sees, in whole blocks; all of them where nothing is known.
    fn seen(&self, t: &Tile<'_>, buffer: &mut Buffer, map: &mut MapScratch) -> Result<Range<usize>, KernelError> {
        let keys = self.e.keys;
        let Some(program) = self.chain.seen.as_ref().filter(|_| keys > BLOCK) else { return Ok(0..keys) };
        let bytes = bytes(buffer, t.count * self.pitch);
        let layout = self.shaped(&self.rows_layout(t.count));
        let mut ins: SmallVec<[Operand<'_>; 4]> = SmallVec::new();
        self.add_masks(t, 0..self.chain.weight_masks, &mut ins)?;
        let mut outs = [ViewMut::new(BufMut::new(DType::Bool, bytes)?, layout)?];
        self.program(t, program, &ins, &mut outs, map)?;
        let seen = outs[0].as_buf().bytes();
        let any = |b: &usize| {
            let block = *b..(b + BLOCK).min(keys);
            (0..t.count).any(|r| seen[r * self.pitch..][block.clone()].iter().fold(0, |a, x| a | x) != 0)
        };
        let first = (0..keys).step_by(BLOCK).find(any);
        let last = (0..keys).step_by(BLOCK).rfind(any);
        Ok(first.zip(last).map_or(0..0, |(a, b)| a..(b + BLOCK).min(keys)))
    }

    /// The scores of a tile as a layout of their loops' rank.
    fn rows_layout(&self, rows: usize) -> Layout {
        self.scores().layout(rows, self.e.keys)
    }

    /// A layout of scores with one dimension a loop, where an index may be asked for.
    fn shaped(&self, l: &Layout) -> Layout {
        if !self.chain.indexed {
            return l.clone();
        }
        let ones = self.e.batch.iter().map(|_| 1);
        let (dims, strides) = (
            ones.chain(l.dims.iter().copied()).collect(),
            self.e.batch.iter().map(|_| l.strides[0]).chain(l.strides.iter().copied()).collect(),
        );
        Layout { base: l.base, dims, strides }
    }

    /// Masks of a tile.
    fn add_masks<'o>(&self, t: &Tile<'_>, which: Range<usize>, to: &mut SmallVec<[Operand<'o>; 4]>) -> Result<(), KernelError>
    where
        'a: 'o,
    {
        for m in &self.masks[which] {
            let rows = Rows::of(m.layout(), t.head).at(t.first, 0);
            to.push(Operand::Read(View::new(m.buf(), self.shaped(&rows.layout(t.count, self.e.keys)))?));
        }
        Ok(())
    }

    fn program(
        &self,
        t: &Tile<'_>,
        program: &map::Compiled,
        ins: &[Operand<'_>],
        outs: &mut [ViewMut<'_>],
        scratch: &mut MapScratch,
    ) -> Result<(), KernelError> {
        let loops = self.shaped(&self.rows_layout(t.count)).dims;
        let mut origin = Dims::new();
        if self.chain.indexed {
            let own = t.head.iter().copied().chain([t.first, 0]);
            origin = own.enumerate().map(|(l, i)| i + self.origin.get(l).copied().unwrap_or(0)).collect();
        }
        map::run(self.isa, program, &loops, &origin, ins, outs, scratch)
    }
}

/// The first elements of a buffer.
fn elements<T: Lane>(buffer: &mut Buffer, len: usize) -> &mut [T] {
    bytemuck::cast_slice_mut(bytes(buffer, len * size_of::<T>()))
}

/// The first bytes of a buffer.
fn bytes(buffer: &mut Buffer, len: usize) -> &mut [u8] {
    &mut bytemuck::cast_slice_mut::<f32, u8>(buffer.take(len.div_ceil(4)))[..len]
}

/// Rounds sums to where they belong.
fn store<T: Lane<Value = f32>>(sums: &[f32], rows: usize, width: usize, out: &mut [T], to: Rows) {
    for r in 0..rows {
        let (from, start) = (&sums[r * width..(r + 1) * width], to.base + r as isize * to.down);
        if to.along == 1 {
            let line = &mut out[start as usize..start as usize + width];
            line.iter_mut().zip(from).for_each(|(o, s)| *o = T::narrow(*s));
            continue;
        }
        for (c, s) in from.iter().enumerate() {
            out[(start + c as isize * to.along) as usize] = T::narrow(*s);
        }
    }
}
