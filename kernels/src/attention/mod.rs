//! Attention: product, row program, product, for some queries at a time, so that scores and weights never leave the caches.
//!
//! A tile is all scores of [`tile`] queries of one head. A row is there as a whole, so its program may be any, and needs no running maxima.
//! The gradient makes the weights of a tile again, and sums dk and dv over the tiles, ascending, in f32.
//!
//! **What is skipped.** Where the program's masks hide scores ([`Chain`]), blocks of [`BLOCK`] keys before the first and behind the last one
//! that some query of the tile sees are not multiplied; where their weights turn out to be 0 they are left out of the other products as well,
//! which changes no sum (a v that is infinite or no number there is not noticed). A row that sees nothing has weights elsewhere, and keeps them.
//!
//! **Numerical contract.** Products are those of [`gemm`](mod@crate::gemm) and rows those of [`map`](mod@crate::map), on tiles that begin at
//! multiples of [`tile`] from the first query, so the bits are the same for every instruction set and for every way of cutting heads, or
//! queries at such multiples, into calls.

mod chain;
#[cfg(test)]
mod tests;
mod tiles;

pub use chain::Chain;

use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::map::MapScratch;
use crate::scratch::{Buffer, Scratch};
use girih_ir::types::{DType, Dims, Layout};
use half::bf16;

/// Keys that are seen or not as one.
pub const BLOCK: usize = 64;
/// Queries of a tile, at most.
const MOST_ROWS: usize = 64;
/// Scores of a tile, about: half of an L2 cache in f32.
const MOST_SCORES: usize = 1 << 17;

/// Queries of a tile where there are so many keys.
pub fn tile(keys: usize) -> usize {
    (MOST_SCORES / keys.max(1) / 8 * 8).clamp(8, MOST_ROWS)
}

/// Working memory that is kept between calls.
#[derive(Default)]
pub struct AttentionScratch {
    /// Scores, then weights.
    scores: Buffer,
    /// Further forms of the weights.
    more: Vec<Buffer>,
    /// Cotangents of weights, then of scores.
    toward: Buffer,
    /// Which scores are read.
    seen: Buffer,
    /// Sums of dk and dv.
    sums: [Buffer; 2],
}

impl std::fmt::Debug for AttentionScratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AttentionScratch({} scores)", self.scores.held().len())
    }
}

/// All working memory of a call.
#[allow(missing_debug_implementations)]
pub struct Memory<'m> {
    /// Of attention itself.
    pub own: &'m mut AttentionScratch,
    /// Of products.
    pub gemm: &'m mut Scratch,
    /// Of row programs.
    pub map: &'m mut MapScratch,
}

/// Rows of one operand or result of one head: element (row, column) at `base + row·down + column·along`.
#[derive(Clone, Copy, Debug)]
struct Rows {
    base: isize,
    down: isize,
    along: isize,
}

impl Rows {
    /// The rows of a head.
    fn of(l: &Layout, head: &[usize]) -> Rows {
        let n = head.len();
        let base = l.base as isize + head.iter().zip(&l.strides).map(|(i, s)| *i as isize * s).sum::<isize>();
        Rows { base, down: l.strides[n], along: l.strides[n + 1] }
    }

    /// From a row and a column on.
    fn at(self, row: usize, column: usize) -> Rows {
        Rows { base: self.base + row as isize * self.down + column as isize * self.along, ..self }
    }

    /// Columns as rows.
    fn turned(self) -> Rows {
        Rows { base: self.base, down: self.along, along: self.down }
    }

    fn layout(self, rows: usize, columns: usize) -> Layout {
        let dims = Dims::from_slice(&[rows, columns]);
        // Only a layout without elements may lie before its slice.
        Layout { base: self.base.max(0) as usize, dims, strides: smallvec::smallvec![self.down, self.along] }
    }
}

/// Runs an attention, or its gradient when the chain is one.
///
/// `ins` are q, k, v (of the gradient also g), each batch, rows, width; then the masks, one dimension a loop (batch, queries, keys).
/// `outs` are the result, or dq, dk and dv. All but the masks are f32, or all are bf16. `origin` is the global index of the first point of the
/// loops (empty: zero), which `Index` instructions see.
///
/// # Errors
/// [`KernelError`] when extents or types do not fit together.
pub fn run(
    isa: Isa,
    chain: &Chain,
    origin: &[usize],
    ins: &[View<'_>],
    outs: &mut [ViewMut<'_>],
    memory: &mut Memory<'_>,
) -> Result<(), KernelError> {
    let extents = check(chain, origin, ins, outs)?;
    match ins[0].dtype() {
        DType::BF16 => tiles::Call::<bf16>::new(isa, chain, origin, ins, extents).run(outs, memory),
        _ => tiles::Call::<f32>::new(isa, chain, origin, ins, extents).run(outs, memory),
    }
}

/// Extents of a call.
#[derive(Clone, Debug)]
struct Extents {
    batch: Dims,
    queries: usize,
    keys: usize,
    width: usize,
    value_width: usize,
}

fn check(chain: &Chain, origin: &[usize], ins: &[View<'_>], outs: &[ViewMut<'_>]) -> Result<Extents, KernelError> {
    let rows = if chain.is_gradient() { 4 } else { 3 };
    let masks = chain.weight_masks + chain.scores.as_ref().map_or(0, |s| s.inputs.len().saturating_sub(chain.made.len() + 1));
    check_shape("rows and masks", "inputs", &[ins.len()], &[rows + masks])?;
    check_shape("results", "outputs", &[outs.len()], &[if chain.is_gradient() { 3 } else { 1 }])?;
    let rank = ins[0].dims().len();
    if rank < 2 || ins[1].dims().len() != rank || ins[2].dims().len() != rank {
        let (what, have) = ("q, k and v have batch, rows and width", ins[..3].iter().map(|i| i.dims().len()).collect());
        return Err(KernelError::Shape { what, operand: "q", have, want: vec![rank.max(2); 3] });
    }
    let (n, dtype) = (rank - 2, ins[0].dtype());
    if !matches!(dtype, DType::F32 | DType::BF16) {
        check_type("q", dtype, DType::F32)?;
    }
    let (q, k, v) = (ins[0].dims(), ins[1].dims(), ins[2].dims());
    let e = Extents { batch: Dims::from_slice(&q[..n]), queries: q[n], keys: k[n], width: q[n + 1], value_width: v[n + 1] };
    let shape = |rows: usize, width: usize| -> Vec<usize> { e.batch.iter().copied().chain([rows, width]).collect() };
    let (of_k, of_v, of_o, of_q) =
        (shape(e.keys, e.width), shape(e.keys, e.value_width), shape(e.queries, e.value_width), shape(e.queries, e.width));
    for (name, view, want) in
        [("k", &ins[1], &of_k), ("v", &ins[2], &of_v)].into_iter().chain(chain.is_gradient().then(|| ("g", &ins[3], &of_o)))
    {
        check_type(name, view.dtype(), dtype)?;
        check_shape("rows of one attention", name, view.dims(), want)?;
    }
    let wanted = if chain.is_gradient() { vec![&of_q, &of_k, &of_v] } else { vec![&of_o] };
    for (out, want) in outs.iter().zip(wanted) {
        check_type("out", out.dtype(), dtype)?;
        check_shape("rows of one attention", "out", out.dims(), want)?;
    }
    let loops = shape(e.queries, e.keys);
    ins[rows..].iter().try_for_each(|m| check_shape("one dimension a loop", "mask", m.dims(), &loops))?;
    if !origin.is_empty() {
        check_shape("one origin a loop", "origin", &[origin.len()], &[rank])?;
    }
    chain.made.first().map_or(Ok(()), |made| check_type("weights", *made, dtype))?;
    Ok(e)
}
