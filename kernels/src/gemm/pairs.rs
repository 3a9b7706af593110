//! Products of pairs of bf16: rows are read where they lie, or are copied once; panels of columns are packed by the first rows that use them;
//! sums stay in registers for a block of terms, and meet in f32 totals that stay in the second-level cache.

use super::Gemm;
use super::half::{Narrow, Side, TERMS};
use super::packed::PackedB;
use crate::arch::pair_rows::{PairRows, Soon, Sums, WIDTH, pair_rows};
use crate::arch::rows::Run;
use crate::arch::stored::Stored;
use crate::error::KernelError;
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};
use girih_ir::types::DType;
use half::bf16;

/// Bytes of the rows of a block of terms: with the totals, half of a second-level cache.
const ROW_BYTES: usize = 256 << 10;
/// Columns of totals.
const COLS: usize = 256;
/// Bytes of panels that serve several blocks of rows.
const PANEL_BYTES: usize = 2 << 20;
/// Bytes of rows that are copied for all columns at once.
const COPY_BYTES: usize = 16 << 20;
/// Elements between rows that are better copied, and columns that repay it.
const CLASH: usize = 2048;
const MANY_COLS: usize = 256;
/// Rows that are over soon.
const FEW_ROWS: usize = 64;
/// Most terms: the panels of a few columns would fill the memory that is kept for them.
const MOST_TERMS: usize = 8 << 10;

/// Whether this instruction set multiplies pairs of bf16, so that operands may be packed in pairs ahead.
pub fn packs_pairs(isa: Isa) -> bool {
    let isa = isa.usable();
    isa == Isa::Scalar || (isa == Isa::Avx512 && Isa::has_bf16_pairs())
}

/// Whether a result of this type takes the sums of `k` terms: several blocks meet in totals, which begin with the first block.
pub(super) fn joins<O: Stored>(k: usize, accumulate: bool) -> bool {
    (1..=MOST_TERMS).contains(&k) && (k <= TERMS || O::DTYPE == DType::F32 || !accumulate)
}

/// Packs a right operand `[k, n]`: panels of [`WIDTH`] columns for every block of [`TERMS`] terms.
pub(super) fn pack_right<B: Narrow>(isa: Isa, b: &Side<'_, B>, [k, n]: [usize; 2], stage: &mut Buffer, dst: &mut Buffer) {
    let wide = n.next_multiple_of(WIDTH);
    let dst = dst.take(wide * k.div_ceil(2));
    for q in (0..k).step_by(TERMS) {
        b.at(0, q).pack_pairs(isa, n, TERMS.min(k - q), WIDTH, stage, &mut dst[wide * (q / 2)..]);
    }
}

/// `out = a · b` with a `b` that [`PackedB::pack_bf16`](super::PackedB::pack_bf16) packed: the bits of [`gemm_bf16`](super::gemm_bf16).
///
/// `g.b` is not read. `g` has rank 2, neighboring output columns are neighbors in memory, and so are the rows or the terms of `a`; it neither
/// scales nor accumulates. The output is f32 or bf16.
///
/// # Errors
/// [`KernelError`] when the layouts do not fit together or leave their slices, or nothing of these extents is packed in pairs.
pub fn gemm_packed_bf16<A: Narrow, O: Narrow>(
    g: &Gemm,
    a: &[A],
    b: &PackedB,
    out: &mut [O],
    scratch: &mut Scratch,
) -> Result<(), KernelError> {
    let (m, n, k) = g.extents();
    let (isa, panels) = b.checked(g, a.len(), out.len(), true)?;
    let [row, step] = g.a.strides[..] else { return Ok(()) };
    let plain = g.alpha == 1.0 && !g.accumulate && (row == 1 || step == 1) && m * n * k > 0;
    if !plain || !matches!(O::DTYPE, DType::F32 | DType::BF16) {
        let rule = "a product with an operand packed in pairs is plain, of dense rows or terms";
        return Err(KernelError::Attribute { name: "packed operand", value: g.out.dims.len() as i64, rule });
    }
    let (a, b) = (Side::new(a, g.a.base, row, step), Right::<bf16>::Packed(panels));
    let (at, row) = (g.out.base as isize, g.out.strides[0]);
    let one = Pairs { isa, extents: [m, n, k], a, b, at, row, accumulate: false };
    match O::DTYPE {
        DType::F32 => one.run::<f32>(bytemuck::cast_slice_mut(out), scratch),
        _ => one.run::<bf16>(bytemuck::cast_slice_mut(out), scratch),
    }
    Ok(())
}

/// The right operand.
pub(super) enum Right<'a, B> {
    /// A matrix.
    Plain(Side<'a, B>),
    /// What [`pack_right`] made of it.
    Packed(&'a [f32]),
}

/// One product of matrices.
pub(super) struct Pairs<'a, A, B> {
    pub isa: Isa,
    /// Rows, columns, terms.
    pub extents: [usize; 3],
    /// Its rows or its terms are neighbors.
    pub a: Side<'a, A>,
    pub b: Right<'a, B>,
    /// Position of output (0, 0), and the distance between its rows.
    pub at: isize,
    pub row: isize,
    pub accumulate: bool,
}

/// Rows as the microkernel reads them: 16-bit elements, the first position, and the distances between rows and between pairs.
#[derive(Clone, Copy)]
struct Paired<'a> {
    data: &'a [u16],
    base: isize,
    row: isize,
    step: isize,
}

/// How a product is cut. None of it reaches the result.
struct Cut {
    /// Rows of a block, and columns of a group.
    rows: usize,
    cols: usize,
    /// Columns that are packed at a time.
    width: usize,
    /// Elements of the copy of a block of rows; 0 where rows are read in place.
    copy: usize,
    /// Whether all blocks of rows are copied at once.
    whole: bool,
    /// Whether the sums of blocks of terms meet in totals.
    totals: bool,
}

impl<A: Narrow, B: Narrow> Pairs<'_, A, B> {
    fn cut<O: Stored>(&self) -> Cut {
        let [m, n, k] = self.extents;
        let units = k.div_ceil(2);
        let most = (ROW_BYTES / 2 / k.min(TERMS)).max(14);
        let rows = m.div_ceil(m.div_ceil(most));
        let totals = k > TERMS && O::DTYPE != DType::F32;
        let kept = (PANEL_BYTES / 2 / k).max(WIDTH) / WIDTH * WIDTH;
        let packed = matches!(self.b, Right::Packed(_));
        let cols = match totals {
            true if packed => COLS,
            true => COLS.min(kept),
            false if packed || rows == m => n,
            false => kept,
        };
        // Rows a multiple of a page apart share the sets of the first-level cache: a tile of them would not stay there.
        let clash = self.a.stride.unsigned_abs().is_multiple_of(CLASH) && n >= MANY_COLS;
        let in_place = self.a.step == 1 && A::DTYPE == DType::BF16 && k.is_multiple_of(2) && !clash;
        let copy = match self.a.step {
            1 if in_place => 0,
            1 => rows * odd_lines(units),
            _ => odd_lines(rows) * units,
        };
        let whole = m.div_ceil(rows) * copy * 4 <= COPY_BYTES;
        // For a few rows two panels are packed at a time.
        Cut { rows, cols, width: if m <= FEW_ROWS { 2 * WIDTH } else { WIDTH }, copy, whole, totals }
    }

    /// Runs the product on validated positions.
    pub(super) fn run<O: Stored>(&self, out: &mut [O], scratch: &mut Scratch) {
        let [m, n, _] = self.extents;
        let cut = self.cut::<O>();
        let Scratch { a, b, stage, tile, .. } = scratch;
        let copies = a.take(cut.copy * if cut.whole { m.div_ceil(cut.rows) } else { 1 });
        for first in (0..n).step_by(cut.cols) {
            let cols = cut.cols.min(n - first);
            for i in (0..m).step_by(cut.rows) {
                let rows = cut.rows.min(m - i);
                let place = if cut.whole { i / cut.rows * cut.copy } else { 0 };
                let paired = self.paired(i, rows, &mut copies[place..place + cut.copy], first == 0 || !cut.whole);
                self.group(&cut, &paired, (i, rows), (first, cols), (&mut *b, &mut *stage, &mut *tile), out);
            }
        }
    }

    /// A block of rows, all terms of them, copied unless they are read where they lie or have been copied before.
    fn paired<'b>(&'b self, i: usize, rows: usize, copy: &'b mut [f32], fill: bool) -> Paired<'b> {
        let (side, k) = (self.a.at(i, 0), self.extents[2]);
        let units = k.div_ceil(2);
        if copy.is_empty() {
            return Paired { data: bytemuck::cast_slice(side.data), base: side.base as isize, row: side.stride, step: 2 };
        }
        let by_terms = side.step == 1;
        let ld = odd_lines(if by_terms { units } else { rows });
        match by_terms {
            true if fill => side.rows(self.isa, rows, k, ld, copy),
            false if fill => side.lines(self.isa, rows, k, ld, copy),
            _ => {}
        }
        let (row, step) = if by_terms { (2 * ld as isize, 2) } else { (2, 2 * ld as isize) };
        Paired { data: bytemuck::cast_slice(copy), base: 0, row, step }
    }

    /// A block of rows against a group of columns.
    fn group<O: Stored>(
        &self,
        cut: &Cut,
        a: &Paired<'_>,
        (i, rows): (usize, usize),
        (first, cols): (usize, usize),
        (kept, stage, tile): (&mut Buffer, &mut Buffer, &mut Buffer),
        out: &mut [O],
    ) {
        let [m, n, k] = self.extents;
        // The first block of rows packs; when there is no other, one panel after another into the same place.
        let alone = rows == m;
        let packed = matches!(self.b, Right::Packed(_));
        let (wide, from) = if packed { (n.next_multiple_of(WIDTH), first) } else { (cols.next_multiple_of(WIDTH), 0) };
        let kept = match self.b {
            Right::Packed(_) => kept.take(0),
            _ if alone => kept.take(cut.width * k.min(TERMS).div_ceil(2)),
            _ => kept.take(wide * k.div_ceil(2)),
        };
        let ld = cols.next_multiple_of(16) + 16;
        let dense = tile.take(if cut.totals { rows * ld } else { 0 });
        for q in (0..k).step_by(TERMS) {
            let terms = TERMS.min(k - q);
            let units = terms.div_ceil(2);
            for j in (0..cols).step_by(cut.width) {
                let width = cut.width.min(cols - j);
                let slot = if alone && !packed { 0 } else { wide * (q / 2) + (from + j) * units };
                let (panels, ahead) = match &self.b {
                    Right::Packed(data) => (&data[slot..], None),
                    Right::Plain(b) => {
                        if i == 0 {
                            b.at(first + j, q).pack_pairs(self.isa, width, terms, WIDTH, stage, &mut kept[slot..]);
                        }
                        let next = if j + width < cols { (first + j + width, q) } else { self.after(q, (first, cols)) };
                        (&kept[slot..], (i == 0).then(|| soon(b, next, width, terms)).flatten())
                    }
                };
                let job = PairRows {
                    a: a.data,
                    base: a.base + (q / 2) as isize * a.step,
                    row: a.row,
                    step: a.step,
                    runs: &[Run { offset: 0, line: 0, len: units }],
                    b: panels,
                    panel: units * WIDTH,
                    cols: width,
                    rows,
                    out: self.at + i as isize * self.row + (first + j) as isize,
                    out_row: self.row,
                    accumulate: self.accumulate || q > 0,
                    sums: None,
                    ahead,
                    fresh: j == 0 && a.step == 2 && rows > 14,
                };
                if !cut.totals {
                    pair_rows(self.isa, job, out);
                } else if q + terms < k {
                    pair_rows(self.isa, PairRows { out: j as isize, out_row: ld as isize, ..job }, dense);
                } else {
                    let sums = Some(Sums { data: dense, base: j as isize, row: ld as isize });
                    pair_rows(self.isa, PairRows { accumulate: false, sums, ..job }, out);
                }
            }
        }
    }

    /// The column and the term that are packed after the last panel of a group and a block of terms.
    fn after(&self, q: usize, (first, cols): (usize, usize)) -> (usize, usize) {
        let [_, n, k] = self.extents;
        if q + TERMS < k {
            return (first, q + TERMS);
        }
        let by_terms = matches!(&self.b, Right::Plain(b) if b.step == 1);
        // Behind a matrix comes the next one of a batch.
        if first + cols < n || by_terms { (first + cols, 0) } else { (0, k) }
    }
}

/// Elements of a line of pairs: an odd number of cache lines.
fn odd_lines(units: usize) -> usize {
    units.next_multiple_of(16) | 16
}

/// Some columns and terms from a place on, which will be packed.
fn soon<B: Narrow>(b: &Side<'_, B>, (column, term): (usize, usize), cols: usize, terms: usize) -> Option<Soon> {
    let size = size_of::<B>();
    let from = b.base as isize + column as isize * b.stride + term as isize * b.step;
    let start = b.data.as_ptr().wrapping_offset(from).cast::<u8>();
    let lines = |len: usize| (len * size).div_ceil(64);
    match (b.stride, b.step) {
        // The last line of each run: the first came with the columns before.
        (1, step) => {
            Some(Soon { start: start.wrapping_add(cols * size - 1), runs: terms, step: step * size as isize, lines: lines(cols).max(1) })
        }
        (stride, 1) => Some(Soon { start, runs: cols, step: stride * size as isize, lines: lines(terms) }),
        _ => None,
    }
}
