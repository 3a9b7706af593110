//! Matrix multiplication over strided views: `out (+)= alpha · a · b`, batched, in any transposition.
//!
//! **Numerical contract.** Every output element is `Σ` over blocks of [`KC`] terms in ascending order; inside a block the terms are
//! chained by fused multiply-add from +0 in ascending order, and a finished block joins the output by `fma(alpha, block, out)`
//! (the first block of a call that does not accumulate by `alpha · block`).
//! So the bits are the same for every instruction set, for every way of cutting rows, columns and batch into calls, and for every
//! stride pattern. (The sign and payload of a NaN are outside the contract.)
//!
//! Transposed operands are never materialized: packing reads any strides.

mod batch;
mod contract;
mod half;
pub(crate) mod operand;
mod packed;
mod pairs;
mod plain;
pub(crate) mod plan;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::half::Side;
pub use self::half::{Narrow, gemm_bf16};
pub use contract::KC;
pub(crate) use contract::{Contract, OutStrides};
pub use packed::{PackedB, gemm_packed};
pub use pairs::{gemm_packed_bf16, packs_pairs};

use crate::element::Element;
use crate::error::{KernelError, check_bounds, check_output};
use crate::isa::Isa;
use crate::scratch::Scratch;
use girih_ir::types::Layout;
use operand::{Axes, Axis, Operand};

/// A batched matrix product: `a` is `[batch…, m, k]`, `b` is `[batch…, k, n]`, `out` is `[batch…, m, n]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Gemm {
    /// Layout of the left operand. A batch stride may be 0.
    pub a: Layout,
    /// Layout of the right operand. A batch stride may be 0.
    pub b: Layout,
    /// Layout of the result.
    pub out: Layout,
    /// Factor of the product.
    pub alpha: f32,
    /// Add to the output instead of replacing it.
    pub accumulate: bool,
}

impl Gemm {
    /// `out = a · b`.
    pub fn new(a: Layout, b: Layout, out: Layout) -> Self {
        Gemm { a, b, out, alpha: 1.0, accumulate: false }
    }

    /// Rows, columns and terms of one matrix of the batch.
    pub fn extents(&self) -> (usize, usize, usize) {
        let from_end = |l: &Layout, i: usize| l.dims.len().checked_sub(i).map_or(0, |at| l.dims[at]);
        (from_end(&self.out, 2), from_end(&self.out, 1), from_end(&self.a, 1))
    }

    /// Floating-point operations: two a term.
    pub fn flops(&self) -> u64 {
        2 * self.out.elements() as u64 * self.extents().2 as u64
    }

    /// Checks that the three layouts fit together and lie inside slices of these lengths.
    pub fn check(&self, a_len: usize, b_len: usize, out_len: usize) -> Result<(), KernelError> {
        let rank = self.out.dims.len();
        let shape = |what, operand, have: &[usize], want: &[usize]| {
            if have == want { Ok(()) } else { Err(KernelError::Shape { what, operand, have: have.to_vec(), want: want.to_vec() }) }
        };
        if rank < 2 {
            return shape("a product has rank 2 or more", "out", &self.out.dims, &[0, 0]);
        }
        let (m, n, k) = self.extents();
        let batch = &self.out.dims[..rank - 2];
        let fits = |have: &[usize], tail: [usize; 2]| have.len() == rank && have[..rank - 2] == *batch && have[rank - 2..] == tail;
        for (what, operand, have, tail) in
            [("a is [batch…, m, k]", "a", &self.a.dims, [m, k]), ("b is [batch…, k, n]", "b", &self.b.dims, [k, n])]
        {
            if !fits(have, tail) {
                return shape(what, operand, have, &batch.iter().copied().chain(tail).collect::<Vec<_>>());
            }
        }
        check_bounds("a", &self.a, a_len)?;
        check_bounds("b", &self.b, b_len)?;
        check_output(&self.out, out_len)
    }

    /// Cuts the product into `parts` lists of products over contiguous, nearly equal ranges of the rows (batch and m taken together).
    ///
    /// Computing all of them gives the bits of the whole; when `out` is dense, the lists write disjoint contiguous slices, in order.
    /// A list has more than one product only where its range cuts through the batch; it is empty when there are fewer rows than parts.
    pub fn split(&self, parts: usize) -> Vec<Vec<Gemm>> {
        let rank = self.out.dims.len();
        let rows = self.out.dims[..rank.saturating_sub(1)].iter().product::<usize>();
        let parts = parts.max(1);
        (0..parts)
            .map(|part| {
                let mut list = Vec::new();
                self.rows(0, rows * part / parts, rows * (part + 1) / parts, &mut list);
                list
            })
            .collect()
    }

    /// The products that cover rows `[start, end)` of the space of dimensions `dim..`.
    fn rows(&self, dim: usize, start: usize, end: usize, list: &mut Vec<Gemm>) {
        if start >= end {
            return;
        }
        let inner: usize = self.out.dims[dim + 1..self.out.dims.len() - 1].iter().product();
        let (first, last) = (start.div_ceil(inner), end / inner);
        if first > last {
            return self.narrowed(dim, last, 1).rows(dim + 1, start - last * inner, end - last * inner, list);
        }
        if start < first * inner {
            let at = first - 1;
            self.narrowed(dim, at, 1).rows(dim + 1, start - at * inner, inner, list);
        }
        if first < last {
            list.push(self.narrowed(dim, first, last - first));
        }
        if last * inner < end {
            self.narrowed(dim, last, 1).rows(dim + 1, 0, end - last * inner, list);
        }
    }

    /// Indices `[start, start + len)` of one batch dimension or of m.
    fn narrowed(&self, dim: usize, start: usize, len: usize) -> Gemm {
        let is_batch = dim + 2 < self.out.dims.len();
        let mut g = self.clone();
        narrow(&mut g.out, dim, start, len);
        narrow(&mut g.a, dim, start, len);
        if is_batch {
            narrow(&mut g.b, dim, start, len);
        }
        g
    }
}

/// Restricts a layout to `[start, start + len)` of one dimension.
pub(crate) fn narrow(layout: &mut Layout, dim: usize, start: usize, len: usize) {
    if start > 0 {
        layout.base = (layout.base as isize + start as isize * layout.strides[dim]) as usize;
    }
    layout.dims[dim] = len;
}

/// Computes `g` on f32.
///
/// # Errors
/// [`KernelError`] when the layouts do not fit together or leave their slices; nothing is written then.
pub fn gemm(isa: Isa, g: &Gemm, a: &[f32], b: &[f32], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
    g.check(a.len(), b.len(), out.len())?;
    if g.out.elements() == 0 {
        return Ok(());
    }
    let parts = batch::Parts::of(g);
    let one = match parts.product(g, a, b) {
        Some(product) => batch::One::Plain(product),
        None => batch::One::General(contraction(g, parts.shared.iter().copied(), a, b)),
    };
    parts.each(g, |bases| match &one {
        batch::One::Plain(product) => product.from(bases).run(isa, out, scratch),
        batch::One::General(one) => {
            let mut each = one.clone();
            (each.a.base, each.b.base, each.out_base) = (bases[0] as isize, bases[1] as isize, bases[2]);
            each.run(isa, out, scratch);
        }
    });
    Ok(())
}

/// The contraction of one matrix of the batch, or of all those along `shared` dimensions.
fn contraction<'a>(g: &Gemm, shared: impl Iterator<Item = usize>, a: &'a [f32], b: &'a [f32]) -> Contract<'a> {
    let rank = g.out.dims.len();
    let (m, n, k) = g.extents();
    let (a_s, b_s, o_s) = (&g.a.strides, &g.b.strides, &g.out.strides);
    let (mut a_rows, mut b_rows) = (Axes::new(), Axes::new());
    let (mut out_a, mut out_b) = (OutStrides::new(), OutStrides::new());
    for dim in shared {
        let (rows, out, stride) = if b_s[dim] == 0 { (&mut a_rows, &mut out_a, a_s[dim]) } else { (&mut b_rows, &mut out_b, b_s[dim]) };
        rows.push(Axis::plain(g.out.dims[dim], stride));
        out.push(o_s[dim]);
    }
    a_rows.push(Axis::plain(m, a_s[rank - 2]));
    out_a.push(o_s[rank - 2]);
    b_rows.push(Axis::plain(n, b_s[rank - 1]));
    out_b.push(o_s[rank - 1]);
    let terms = |stride| Axes::from_slice(&[Axis::plain(k, stride)]);
    Contract {
        a: Operand::matrix(a, g.a.base, a_rows, terms(a_s[rank - 1])),
        b: Operand::matrix(b, g.b.base, b_rows, terms(b_s[rank - 2])),
        out_base: g.out.base,
        out_a,
        out_b,
        alpha: g.alpha,
        accumulate: g.accumulate,
    }
}

/// Computes `g` on any element type, portably: the same order of terms as [`gemm`](fn@gemm), but one running sum per element.
///
/// Floats of 16 bits and fewer accumulate in f32 and are rounded once, or not at all where the result is f32; integers wrap.
///
/// # Errors
/// As [`gemm`](fn@gemm).
pub fn gemm_generic<T: Element, O: Element<Sum = T::Sum>>(g: &Gemm, a: &[T], b: &[T], out: &mut [O]) -> Result<(), KernelError> {
    g.check(a.len(), b.len(), out.len())?;
    let rank = g.out.dims.len();
    let k = g.extents().2;
    let mut index = vec![0usize; rank];
    let (a_step, b_step) = (g.a.strides[rank - 1], g.b.strides[rank - 2]);
    for _ in 0..g.out.elements() {
        let at = |layout: &Layout, skip: usize| {
            let moved = (0..rank).filter(|d| *d != skip).map(|d| index[d] as isize * layout.strides[d]).sum::<isize>();
            layout.base as isize + moved
        };
        let (mut x, mut y, place) = (at(&g.a, rank - 1), at(&g.b, rank - 2), at(&g.out, rank) as usize);
        let mut sum = T::ZERO;
        for _ in 0..k {
            sum = T::mul_add(a[x as usize], b[y as usize], sum);
            x += a_step;
            y += b_step;
        }
        let value = T::scale(g.alpha, sum);
        out[place] = O::round(if g.accumulate { T::add(out[place].widen(), value) } else { value });
        for d in (0..rank).rev() {
            index[d] += 1;
            if index[d] < g.out.dims[d] {
                break;
            }
            index[d] = 0;
        }
    }
    Ok(())
}
