//! The right operand of many products, packed once: weights that a loop uses in every turn, and that several threads share.

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
        let [k, n] = layout.dims[..] else {
            let have = layout.dims.to_vec();
            return Err(KernelError::Shape { what: "a packed operand has rank 2", operand: "b", have, want: vec![0, 0] });
        };
        check_bounds("b", layout, b.len())?;
        let isa = isa.usable();
        self.width = Tiles::choose(isa, rows.max(1), n.max(1), k.max(1)).width;
        (self.k, self.n, self.isa) = (k, n, Some(isa));
        let source = Plane { data: b, base: layout.base, stride: layout.strides[1], step: layout.strides[0] };
        let wide = n.next_multiple_of(self.width);
        let dst = self.data.take(wide * k);
        for q in (0..k).step_by(KC).filter(|_| n > 0) {
            pack(isa, &source.at(0, q), n, KC.min(k - q), self.width, false, &mut dst[wide * q..]);
        }
        Ok(())
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
    let plain = Gemm { b: Layout::dense(&[b.k, b.n]), ..g.clone() };
    plain.check(a.len(), b.k * b.n, out.len())?;
    let Some(isa) = b.isa.filter(|_| g.out.dims.len() == 2 && (n <= 1 || g.out.strides[1] == 1)) else {
        let rule = "it has to be packed before, for a product of rank 2 with dense output rows";
        return Err(KernelError::Attribute { name: "packed operand", value: g.out.dims.len() as i64, rule });
    };
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        return super::gemm(isa, &plain, a, &[], out, scratch);
    }
    let one = Product {
        extents: [m, n, k],
        a: Plane { data: a, base: g.a.base, stride: g.a.strides[0], step: g.a.strides[1] },
        b: Right::Packed { data: b.data.held(), width: b.width },
        out: g.out.base,
        out_row: g.out.strides[0],
        swapped: false,
        alpha: g.alpha,
        accumulate: g.accumulate,
    };
    one.run(isa, out, scratch);
    Ok(())
}
