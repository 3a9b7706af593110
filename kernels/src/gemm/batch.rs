//! The batch dimensions of a product: which become rows or columns, and which are a loop around it.

use super::Gemm;
use super::contract::Contract;
use super::plain::{Product, Right};
use crate::arch::pack::Plane;
use smallvec::SmallVec;

/// How a batched product is taken apart.
pub(super) struct Parts {
    /// Dimensions of the loop around, outermost first.
    loops: SmallVec<[usize; 6]>,
    /// Dimensions that one operand does not move along, outermost first: rows or columns of one contraction.
    pub shared: SmallVec<[usize; 6]>,
    /// Rows and columns of one product when every shared dimension continues them.
    merged: Option<[usize; 2]>,
}

/// What is computed for each item of the loop.
pub(super) enum One<'a> {
    /// Plain matrices.
    Plain(Product<'a>),
    /// Anything else.
    General(Contract<'a>),
}

impl Parts {
    /// The parts of `g`.
    pub(super) fn of(g: &Gemm) -> Parts {
        let rank = g.out.dims.len();
        let (a_s, b_s, o_s) = (&g.a.strides, &g.b.strides, &g.out.strides);
        let (mut loops, mut shared) = (SmallVec::new(), SmallVec::new());
        for dim in (0..rank - 2).filter(|dim| g.out.dims[*dim] > 1) {
            if a_s[dim] == 0 || b_s[dim] == 0 { shared.push(dim) } else { loops.push(dim) }
        }
        let (m, n, _) = g.extents();
        let mut extents = [m, n];
        let continues = |outer: isize, size: usize, inner: isize| size == 1 || outer == inner.wrapping_mul(size as isize);
        let all = shared.iter().rev().all(|&dim: &usize| {
            let (axis, moves, inner) = if b_s[dim] == 0 { (0, a_s[dim], a_s[rank - 2]) } else { (1, b_s[dim], b_s[rank - 1]) };
            let fits =
                extents[axis] > 1 && continues(moves, extents[axis], inner) && continues(o_s[dim], extents[axis], o_s[rank - 2 + axis]);
            extents[axis] *= g.out.dims[dim];
            fits
        });
        Parts { loops, shared, merged: all.then_some(extents) }
    }

    /// The same with a loop along the shared dimensions too, unless they continue rows and columns.
    pub(super) fn with_shared_loops(mut self, g: &Gemm) -> Parts {
        if self.merged.is_none() {
            self.loops = (0..g.out.dims.len() - 2).filter(|dim| g.out.dims[*dim] > 1).collect();
        }
        self
    }

    /// Rows and columns of an item of the loop.
    pub(super) fn extents(&self, g: &Gemm) -> [usize; 2] {
        self.merged.unwrap_or([g.extents().0, g.extents().1])
    }

    /// One product of plain matrices, if that is what an item of the loop is; its positions are those of the first item.
    pub(super) fn product<'a>(&self, g: &Gemm, a: &'a [f32], b: &'a [f32]) -> Option<Product<'a>> {
        let [m, n] = self.merged?;
        let k = g.extents().2;
        if k == 0 {
            return None;
        }
        let rank = g.out.dims.len();
        // The stride of a dimension with one index is free: that of a neighbor is the easiest to read.
        let stride = |strides: &[isize], dim: usize, extent: usize, free: isize| if extent == 1 { free } else { strides[dim] };
        let left = Plane {
            data: a,
            base: g.a.base,
            stride: stride(&g.a.strides, rank - 2, m, k as isize),
            step: stride(&g.a.strides, rank - 1, k, 1),
        };
        let right = Plane {
            data: b,
            base: g.b.base,
            stride: stride(&g.b.strides, rank - 1, n, 1),
            step: stride(&g.b.strides, rank - 2, k, n as isize),
        };
        let (row, col) = (stride(&g.out.strides, rank - 2, m, 1), stride(&g.out.strides, rank - 1, n, 1));
        let one = Product {
            extents: [m, n, k],
            a: left,
            b: Right::Plain(right),
            out: g.out.base,
            out_row: row,
            swapped: false,
            alpha: g.alpha,
            accumulate: g.accumulate,
        };
        match (row, col) {
            (_, 1) if n > 1 || row != 1 => Some(one),
            (1, _) => Some(Product { extents: [n, m, k], a: right, b: Right::Plain(left), out_row: col, swapped: true, ..one }),
            _ => None,
        }
    }

    /// Calls `run` with the positions of `a`, `b` and `out` for every item of the loop.
    pub(super) fn each(&self, g: &Gemm, mut run: impl FnMut([usize; 3])) {
        let items: usize = self.loops.iter().map(|d| g.out.dims[*d]).product();
        for item in 0..items {
            let mut bases = [g.a.base, g.b.base, g.out.base];
            let mut rest = item;
            for dim in self.loops.iter().rev() {
                let index = (rest % g.out.dims[*dim]) as isize;
                rest /= g.out.dims[*dim];
                for (base, layout) in bases.iter_mut().zip([&g.a, &g.b, &g.out]) {
                    *base = (*base as isize + index * layout.strides[*dim]) as usize;
                }
            }
            run(bases);
        }
    }
}
