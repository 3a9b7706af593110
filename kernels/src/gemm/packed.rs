//! The right operand of many products, packed once: weights that a loop uses in every turn, and that several threads share.

use super::half::{Narrow, Side};
use super::pairs::{pack_right, packs_pairs};
use super::plain::{Product, Right};
use super::plan::Tiles;
use super::{Gemm, KC};
use crate::arch::pack::{Plane, pack};
use crate::error::{KernelError, check_bounds};
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};
use girih_ir::types::Layout;

/// A packed right operand `[k, n]`. It may be filled again, and then keeps its memory.
#[derive(Default)]
pub struct PackedB {
    data: Buffer,
    k: usize,
    n: usize,
    width: usize,
    isa: Option<Isa>,
    /// Whether the elements are pairs of bf16.
    pairs: bool,
}

impl std::fmt::Debug for PackedB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} x {})", self.k, self.n)
    }
}

impl PackedB {
    /// Nothing packed yet.
    pub fn new() -> Self {
        PackedB::default()
    }

    /// Packs a `[k, n]` operand, in any strides, for products of about `rows` rows on this instruction set.
    ///
    /// # Errors
    /// [`KernelError`] when the layout does not have rank 2 or leaves the slice.
    pub fn pack(&mut self, isa: Isa, layout: &Layout, b: &[f32], rows: usize) -> Result<(), KernelError> {
        let [k, n] = self.begin(isa, layout, b.len(), false)?;
        self.width = Tiles::choose(isa, rows.max(1), n.max(1), k.max(1)).width;
        let source = Plane { data: b, base: layout.base, stride: layout.strides[1], step: layout.strides[0] };
        let wide = n.next_multiple_of(self.width);
        let dst = self.data.take(wide * k);
        for q in (0..k).step_by(KC).filter(|_| n > 0) {
            pack(isa, &source.at(0, q), n, KC.min(k - q), self.width, false, &mut dst[wide * q..]);
        }
        Ok(())
    }

    /// Packs a `[k, n]` operand, rounded to bf16, in pairs of terms for [`gemm_packed_bf16`](super::gemm_packed_bf16).
    ///
    /// # Errors
    /// As [`pack`](Self::pack); and when this instruction set multiplies no pairs.
    pub fn pack_bf16<T: Narrow>(&mut self, isa: Isa, layout: &Layout, b: &[T], scratch: &mut Scratch) -> Result<(), KernelError> {
        if !packs_pairs(isa) {
            let rule = "this instruction set multiplies no pairs";
            return Err(KernelError::Attribute { name: "packed operand", value: 0, rule });
        }
        let extents = self.begin(isa, layout, b.len(), true)?;
        let side = Side::new(b, layout.base, layout.strides[1], layout.strides[0]);
        pack_right(isa.usable(), &side, extents, &mut scratch.stage, &mut self.data);
        Ok(())
    }

    /// Checks an operand that is going to be packed, and keeps what is known of it.
    fn begin(&mut self, isa: Isa, layout: &Layout, len: usize, pairs: bool) -> Result<[usize; 2], KernelError> {
        let [k, n] = layout.dims[..] else {
            let have = layout.dims.to_vec();
            return Err(KernelError::Shape { what: "a packed operand has rank 2", operand: "b", have, want: vec![0, 0] });
        };
        check_bounds("b", layout, len)?;
        (self.k, self.n, self.isa, self.pairs) = (k, n, Some(isa.usable()), pairs);
        Ok([k, n])
    }

    /// The instruction set and the elements, when they fit this product.
    pub(super) fn checked(&self, g: &Gemm, a: usize, out: usize, pairs: bool) -> Result<(Isa, &[f32]), KernelError> {
        Gemm { b: Layout::dense(&[self.k, self.n]), ..g.clone() }.check(a, self.k * self.n, out)?;
        let fits = self.pairs == pairs && g.out.dims.len() == 2 && (self.n <= 1 || g.out.strides[1] == 1);
        self.isa.filter(|_| fits).map(|isa| (isa, self.data.held())).ok_or(KernelError::Attribute {
            name: "packed operand",
            value: g.out.dims.len() as i64,
            rule: "it has to be packed before, for a product of rank 2 with dense output rows",
        })
    }

    /// Terms and columns.
    pub fn extents(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.data.held())
    }
}

/// `out (+)= alpha · a · b` with a packed `b`: the bits of [`gemm`](super::gemm()).
///
/// `g.b` is not read. `g` has rank 2, and neighboring output columns are neighbors in memory.
///
/// # Errors
/// [`KernelError`] when the layouts do not fit together or leave their slices, or nothing of these extents is packed.
pub fn gemm_packed(g: &Gemm, a: &[f32], b: &PackedB, out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
    let (m, n, k) = g.extents();
    let (isa, data) = b.checked(g, a.len(), out.len(), false)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        return super::gemm(isa, &Gemm { b: Layout::dense(&[0, n]), ..g.clone() }, a, &[], out, scratch);
    }
    let one = Product {
        extents: [m, n, k],
        a: Plane { data: a, base: g.a.base, stride: g.a.strides[0], step: g.a.strides[1] },
        b: Right::Packed { data, width: b.width },
        out: g.out.base,
        out_row: g.out.strides[0],
        swapped: false,
        alpha: g.alpha,
        accumulate: g.accumulate,
    };
    one.run(isa, out, scratch);
    Ok(())
}
