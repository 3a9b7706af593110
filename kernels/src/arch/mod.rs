//! Everything that is written once per instruction set: the microkernel and the transposition of packing.
//!
//! The functions here are safe: each checks its slices before it hands pointers to an intrinsic, and falls back to a narrower
//! instruction set when the processor lacks the one asked for.
//! Each has a scalar twin with the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use crate::isa::Isa;

/// Rows of a full microkernel tile.
pub(crate) const MR: usize = 6;

/// Columns of a full microkernel tile: the width of a packed panel.
pub(crate) fn panel_width(isa: Isa) -> usize {
    match isa.usable() {
        Isa::Avx512 => 64,
        Isa::Avx2 | Isa::Scalar => 16,
    }
}

/// One microkernel call: `c[i][j] (+)= alpha · Σ_p a[i][p] · b[p][j]`, `p` ascending, one fused multiply-add a term from +0.
pub(crate) struct Tile<'a> {
    /// Terms.
    pub k: usize,
    /// Broadcast operand; element (i, p) is at `a_base + i·a_row + p·a_step`.
    pub a: &'a [f32],
    /// See `a`.
    pub a_base: usize,
    /// See `a`.
    pub a_row: isize,
    /// See `a`.
    pub a_step: isize,
    /// Vector operand; element (p, j) is at `b_base + p·b_step + j`.
    pub b: &'a [f32],
    /// See `b`.
    pub b_base: usize,
    /// See `b`.
    pub b_step: isize,
    /// Columns, at most [`panel_width`].
    pub cols: usize,
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether the tile adds to the output (`fma(alpha, sum, c)`) or replaces it (`alpha · sum`).
    pub accumulate: bool,
}

impl Tile<'_> {
    fn check(&self, width: usize, c: &[f32], c_rows: &[usize]) {
        assert!((1..=MR).contains(&c_rows.len()) && (1..=width).contains(&self.cols), "tile extents exceed the microkernel");
        let last = self.cols - 1;
        assert!(c_rows.iter().all(|r| *r < c.len() && c.len() - *r > last), "tile writes outside the output");
        assert!(inside(self.a.len(), self.a_base, [(c_rows.len(), self.a_row), (self.k, self.a_step)]), "tile reads outside operand a");
        assert!(inside(self.b.len(), self.b_base, [(self.cols, 1), (self.k, self.b_step)]), "tile reads outside operand b");
    }
}

/// Whether every position `base + Σ i·stride` lies inside a slice of `len` elements.
fn inside(len: usize, base: usize, axes: [(usize, isize); 2]) -> bool {
    let (mut low, mut high) = (base as i128, base as i128);
    for (count, stride) in axes {
        if count == 0 {
            return true;
        }
        let reach = (count as i128 - 1) * stride as i128;
        low += reach.min(0);
        high += reach.max(0);
    }
    low >= 0 && high < len as i128
}

/// Runs one tile; row `i` of the tile starts at `c[c_rows[i]]`.
pub(crate) fn tile(isa: Isa, t: &Tile<'_>, c: &mut [f32], c_rows: &[usize]) {
    let isa = isa.usable();
    t.check(panel_width(isa), c, c_rows);
    match isa {
        // SAFETY: `usable` says that the processor has the features; `check` proved that every position the tile reads or writes is inside its slice.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::tile(t, c, c_rows) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::tile(t, c, c_rows) },
        _ => scalar::tile(t, c, c_rows),
    }
}

/// Transposes `rows` ≤ 16 rows of `k` elements, row `i` at `src[base + i·row ..]`, into `dst[p·ld + i]`.
///
/// Lanes from `rows` to 15 of `dst` may be overwritten with anything.
pub(crate) fn transpose16(isa: Isa, src: &[f32], base: usize, row: isize, rows: usize, k: usize, dst: &mut [f32], ld: usize) {
    if rows == 0 || k == 0 {
        return;
    }
    assert!(rows <= 16 && ld >= 16, "a transposed panel has 16 lanes");
    assert!(inside(src.len(), base, [(rows, row), (k, 1)]), "transposition reads outside its source");
    assert!(inside(dst.len(), 0, [(16, 1), (k, ld as isize)]), "transposition writes outside its panel");
    match isa.usable() {
        // SAFETY: `usable` says that the processor has the features; the assertions prove that every row and every panel line is inside its slice.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::transpose16(src.as_ptr().add(base), row, rows, k, dst.as_mut_ptr(), ld) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::transpose16(src.as_ptr().add(base), row, rows, k, dst.as_mut_ptr(), ld) },
        _ => scalar::transpose16(src, base, row, rows, k, dst, ld),
    }
}
