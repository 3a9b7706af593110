//! Products whose operands are bf16, or are rounded to bf16 on the way: two terms an instruction, sums in f32.
//!
//! **Numerical contract.** The terms go in pairs (0, 1), (2, 3), …; within a pair the second is added first, each by a fused multiply-add
//! in f32 from +0; a last term without a partner goes alone. A block of 2 · [`KC`] terms joins the total as f32 blocks do, and the total
//! is rounded to the element type of the output once. With `accumulate` the total starts as the output.
//! That is what `vdpbf16ps` computes, whose operands and sums below 2⁻¹²⁶ are 0; where the processor lacks it, operands are flushed
//! but sums are not, so that results differ by at most 2⁻¹²⁵ a term, times `alpha`, and not at all where no sum is that small.
//! As in f32, the bits do not depend on how rows, columns and batch are cut into calls.

use super::batch::Parts;
use super::pairs::{self, Pairs, Right, packs_pairs};
use super::plan::Tiles;
use super::{Gemm, KC};
use crate::arch::block::{Block, Panels, Step, Strips, block};
use crate::arch::pack::{Plane, interleave, pack, pair_lines};
use crate::arch::stored::Stored;
use crate::arch::tier::{Tier, Work};
use crate::error::KernelError;
use crate::isa::Isa;
use crate::lane::Lane;
use crate::scratch::{Buffer, Scratch};
use girih_ir::types::DType;
use half::bf16;

/// Terms of a block.
pub(super) const TERMS: usize = 2 * KC;
/// Columns of the f32 totals that are on the way to a narrower output, about.
const TOTALS: usize = 256;
/// Rows of them, about; cut evenly.
const TOTAL_ROWS: usize = 512;

/// An element of an operand or a result of [`gemm_bf16`]: f32, or a type that f32 holds exactly.
pub trait Narrow: Lane<Value = f32> {}
impl<T: Lane<Value = f32>> Narrow for T {}

/// Computes `g` with operands rounded to bf16; bf16 operands are taken as they are.
///
/// # Errors
/// As [`gemm`](super::gemm()).
pub fn gemm_bf16<A: Narrow, B: Narrow, O: Narrow>(
    isa: Isa,
    g: &Gemm,
    a: &[A],
    b: &[B],
    out: &mut [O],
    scratch: &mut Scratch,
) -> Result<(), KernelError> {
    g.check(a.len(), b.len(), out.len())?;
    if g.out.elements() == 0 {
        return Ok(());
    }
    let parts = Parts::of(g).with_shared_loops(g);
    let rank = g.out.dims.len();
    let [m, n] = parts.extents(g);
    let (a_s, b_s, o_s) = (&g.a.strides, &g.b.strides, &g.out.strides);
    let isa = isa.usable();
    let one = Product {
        isa,
        form: if packs_pairs(isa) { Form::Pairs } else { Form::Widened },
        extents: [m, n, g.extents().2],
        a: Side { data: a, base: g.a.base, stride: a_s[rank - 2], step: a_s[rank - 1] },
        b: Side { data: b, base: g.b.base, stride: b_s[rank - 1], step: b_s[rank - 2] },
        out: g.out.base,
        out_strides: [o_s[rank - 2], o_s[rank - 1]],
        alpha: g.alpha,
        accumulate: g.accumulate,
    };
    parts.each(g, |bases| {
        let (a, b) = (Side { base: bases[0], ..one.a }, Side { base: bases[1], ..one.b });
        Product { a, b, out: bases[2], ..one }.run(out, scratch);
    });
    Ok(())
}

/// One matrix: element (index, term) at `base + index·stride + term·step`.
pub(crate) struct Side<'a, T> {
    pub(super) data: &'a [T],
    pub(super) base: usize,
    pub(super) stride: isize,
    pub(super) step: isize,
}

impl<T> Clone for Side<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Side<'_, T> {}

/// How operands are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Two bf16 in an element, the even term in the low half.
    Pairs,
    /// f32, with the terms of a pair exchanged.
    Widened,
}

impl Form {
    /// Packed elements for some terms.
    fn units(self, terms: usize) -> usize {
        match self {
            Form::Pairs => terms.div_ceil(2),
            Form::Widened => terms,
        }
    }
}

/// A line of bf16 bits, from any element type.
struct Rounding<'a, T>(&'a [T], &'a mut [u16]);

impl<T: Narrow> Work for Rounding<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (x, bits) in self.0.iter().zip(self.1) {
            *bits = <bf16 as Lane>::narrow(x.widen()).to_bits();
        }
    }
}

fn bits_of<'b, T: Narrow>(isa: Isa, src: &'b [T], buffer: &'b mut [u16]) -> &'b [u16] {
    if T::DTYPE == DType::BF16 {
        return bytemuck::cast_slice(src);
    }
    let bits = &mut buffer[..src.len()];
    Tier::new(isa).run(Rounding(src, bits));
    bits
}

impl<'a, T: Narrow> Side<'a, T> {
    /// Element (0, 0) at `base`; distances between indices and between terms.
    pub(crate) fn new(data: &'a [T], base: usize, stride: isize, step: isize) -> Self {
        Side { data, base, stride, step }
    }

    /// Packs `count` indices × `terms` terms in pairs: groups of `width` indices, each a line for every pair.
    pub(crate) fn pack_pairs(&self, isa: Isa, count: usize, terms: usize, width: usize, stage: &mut Buffer, dst: &mut [f32]) {
        self.pack(isa, Form::Pairs, count, terms, width, false, stage, dst);
    }

    pub(super) fn at(self, index: usize, term: usize) -> Self {
        Side { base: (self.base as isize + index as isize * self.stride + term as isize * self.step) as usize, ..self }
    }

    /// The pairs as 32-bit elements in place, where their halves are neighbors.
    fn pairs(&self, terms: usize) -> Option<Plane<'_>> {
        let even = self.step == 1 && terms.is_multiple_of(2) && self.base.is_multiple_of(2) && self.stride % 2 == 0;
        if T::DTYPE != DType::BF16 || !even {
            return None;
        }
        let halves: &[u16] = bytemuck::cast_slice(self.data);
        let data: &[f32] = bytemuck::try_cast_slice(&halves[..halves.len() / 2 * 2]).ok()?;
        Some(Plane { data, base: self.base / 2, stride: self.stride / 2, step: 1 })
    }

    /// Copies rows of pairs: `dst[i·ld ..]` has those of index `i`.
    pub(super) fn rows(&self, isa: Isa, count: usize, terms: usize, ld: usize, dst: &mut [f32]) {
        for (i, row) in dst.chunks_mut(ld).enumerate().take(count) {
            let from = (self.base as isize + i as isize * self.stride) as usize;
            let row: &mut [u16] = bytemuck::cast_slice_mut(&mut row[..terms.div_ceil(2)]);
            let (whole, rest) = row.split_at_mut(terms);
            rest.fill(0);
            let src = &self.data[from..from + terms];
            match T::DTYPE {
                DType::BF16 => whole.copy_from_slice(bytemuck::cast_slice(src)),
                _ => Tier::new(isa).run(Rounding(src, whole)),
            }
        }
    }

    /// Packs `count` indices × `terms` terms as [`pack`] does.
    fn pack(&self, isa: Isa, form: Form, count: usize, terms: usize, width: usize, tight: bool, stage: &mut Buffer, dst: &mut [f32]) {
        let units = form.units(terms);
        if form == Form::Pairs
            && let Some(plane) = self.pairs(terms)
        {
            return pack(isa, &plane, count, units, width, tight, dst);
        }
        for first in (0..count).step_by(width) {
            let group = width.min(count - first);
            let ld = if tight { group } else { width };
            let dst = &mut dst[first * units..][..ld * units];
            let source = self.at(first, 0);
            match form {
                Form::Pairs if self.step == 1 => {
                    let line = units.next_multiple_of(16) + 16;
                    let stage = stage.take(group * line);
                    source.rows(isa, group, terms, line, stage);
                    pack(isa, &Plane { data: stage, base: 0, stride: line as isize, step: 1 }, group, units, width, tight, dst);
                }
                Form::Pairs if self.stride == 1 => source.lines(isa, group, terms, ld, dst),
                _ => source.gather(form, group, terms, ld, dst),
            }
        }
    }

    /// Pairs of terms whose indices are neighbors: `dst[p·ld + i]` is pair `p` of index `i`.
    pub(super) fn lines(&self, isa: Isa, count: usize, terms: usize, ld: usize, dst: &mut [f32]) {
        if T::DTYPE == DType::BF16 {
            return pair_lines(isa, bytemuck::cast_slice(self.data), self.base, self.step, count, terms, dst, ld);
        }
        let (mut low, mut high) = ([0u16; 64], [0u16; 64]);
        for first in (0..count).step_by(64) {
            let group = 64.min(count - first);
            for p in 0..terms.div_ceil(2) {
                let of = |term: usize| &self.data[self.at(first, term).base..][..group];
                let second = (2 * p + 1 < terms).then(|| bits_of(isa, of(2 * p + 1), &mut high));
                interleave(isa, bits_of(isa, of(2 * p), &mut low), second, &mut dst[p * ld + first..][..group]);
            }
        }
    }

    /// The same for a group, an element at a time.
    fn gather(&self, form: Form, group: usize, terms: usize, ld: usize, dst: &mut [f32]) {
        let bits = |i: usize, term: usize| u32::from(<bf16 as Lane>::narrow(self.data[self.at(i, term).base].widen()).to_bits());
        for (p, line) in dst.chunks_exact_mut(ld).enumerate() {
            for (i, x) in line[..group].iter_mut().enumerate() {
                *x = match form {
                    Form::Pairs => {
                        let high = if 2 * p + 1 < terms { bits(i, 2 * p + 1) } else { 0 };
                        f32::from_bits(high << 16 | bits(i, 2 * p))
                    }
                    Form::Widened => {
                        let term = if p ^ 1 < terms { p ^ 1 } else { p };
                        let x = f32::from_bits(bits(i, term) << 16);
                        if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
                    }
                };
            }
        }
    }
}

/// One product of matrices.
struct Product<'a, A, B> {
    isa: Isa,
    form: Form,
    /// Rows, columns, terms.
    extents: [usize; 3],
    a: Side<'a, A>,
    b: Side<'a, B>,
    out: usize,
    out_strides: [isize; 2],
    alpha: f32,
    accumulate: bool,
}

impl<A: Narrow, B: Narrow> Product<'_, A, B> {
    fn run<O: Narrow>(&self, out: &mut [O], scratch: &mut Scratch) {
        let [m, n, k] = self.extents;
        let done = match O::DTYPE {
            DType::F32 => self.pairs::<f32>(bytemuck::cast_slice_mut(out), scratch),
            DType::BF16 => self.pairs::<bf16>(bytemuck::cast_slice_mut(out), scratch),
            _ => false,
        };
        if done {
            return;
        }
        if O::DTYPE == DType::F32 && self.out_strides[1] == 1 && k > 0 {
            let tiles = Tiles::choose(self.isa, m, n, self.form.units(k));
            let rows = tiles.block_rows(m);
            for i in (0..m).step_by(rows) {
                scratch.out_rows.clear();
                scratch.out_rows.extend((i..m.min(i + rows)).map(|i| i as isize * self.out_strides[0]));
                let out = bytemuck::cast_slice_mut(out);
                self.totals(tiles, (i, rows.min(m - i)), (0, n), (self.out as isize, self.accumulate), out, scratch);
            }
            return;
        }
        let tiles = Tiles::choose(self.isa, m, n, self.form.units(k));
        let rows = m.div_ceil(m.div_ceil(TOTAL_ROWS)).next_multiple_of(tiles.height);
        let cols = (TOTALS / tiles.width).max(1) * tiles.width;
        let mut totals = std::mem::take(&mut scratch.tile);
        for i in (0..m).step_by(rows) {
            let rows = rows.min(m - i);
            for j in (0..n).step_by(cols) {
                let cols = cols.min(n - j);
                // Lines of an odd number of cache lines.
                let ld = cols.next_multiple_of(16) + 16;
                let dense = totals.take(rows * ld);
                let place = |r: usize, c: usize| {
                    (self.out as isize + (i + r) as isize * self.out_strides[0] + (j + c) as isize * self.out_strides[1]) as usize
                };
                for (r, line) in dense.chunks_exact_mut(ld).enumerate().filter(|_| self.accumulate || k == 0) {
                    for (c, x) in line[..cols].iter_mut().enumerate() {
                        *x = if self.accumulate { out[place(r, c)].widen() } else { 0.0 };
                    }
                }
                scratch.out_rows.clear();
                scratch.out_rows.extend((0..rows).map(|r| (r * ld) as isize));
                self.totals(tiles, (i, rows), (j, cols), (0, self.accumulate), dense, scratch);
                for (r, line) in dense.chunks_exact(ld).enumerate() {
                    if self.out_strides[1] == 1 {
                        let out = &mut out[place(r, 0)..][..cols];
                        Tier::new(self.isa).run(Ending(&line[..cols], out));
                        continue;
                    }
                    line[..cols].iter().enumerate().for_each(|(c, x)| out[place(r, c)] = O::narrow(*x));
                }
            }
        }
        scratch.tile = totals;
    }

    /// The product as one of pairs, if it is one.
    fn pairs<O: Stored>(&self, out: &mut [O], scratch: &mut Scratch) -> bool {
        let dense = self.out_strides[1] == 1 && (self.a.step == 1 || self.a.stride == 1);
        let fits = self.form == Form::Pairs && self.alpha == 1.0 && dense && pairs::joins::<O>(self.extents[2], self.accumulate);
        if fits {
            let (at, row) = (self.out as isize, self.out_strides[0]);
            Pairs { isa: self.isa, extents: self.extents, a: self.a, b: Right::Plain(self.b), at, row, accumulate: self.accumulate }
                .run(out, scratch);
        }
        fits
    }

    /// Totals of some rows and columns, to rows that start at `scratch.out_rows` from `base`.
    fn totals(
        &self,
        tiles: Tiles,
        (i, rows): (usize, usize),
        (j, cols): (usize, usize),
        (base, accumulate): (isize, bool),
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Tiles { height, width } = tiles;
        let Scratch { a, b, stage, out_rows, .. } = scratch;
        for q in (0..self.extents[2]).step_by(TERMS) {
            let terms = TERMS.min(self.extents[2] - q);
            let units = self.form.units(terms);
            let side = self.a.at(i, q);
            let in_place = if self.form == Form::Pairs { side.pairs(terms) } else { None };
            let strips = if let Some(plane) = in_place {
                Strips { data: plane.data, base: plane.base, height, strides: Some((plane.stride, 1)) }
            } else if self.form == Form::Pairs && self.a.step == 1 {
                let ld = units.next_multiple_of(16) + 16;
                let dst = a.take(rows * ld);
                side.rows(self.isa, rows, terms, ld, dst);
                Strips { data: dst, base: 0, height, strides: Some((ld as isize, 1)) }
            } else if self.form == Form::Pairs && self.a.stride == 1 {
                let ld = if rows < 64 { rows } else { rows.next_multiple_of(16) | 16 };
                let dst = a.take(units * ld);
                side.lines(self.isa, rows, terms, ld, dst);
                Strips { data: dst, base: 0, height, strides: Some((1, ld as isize)) }
            } else {
                let dst = a.take(rows * units);
                side.pack(self.isa, self.form, rows, terms, height, true, stage, dst);
                Strips { data: dst, base: 0, height, strides: None }
            };
            for first in (0..cols).step_by(width) {
                let cols = width.min(cols - first);
                let panel = b.take(width * units);
                self.b.at(j + first, q).pack(self.isa, self.form, cols, terms, width, false, stage, panel);
                let one = Block {
                    k: units,
                    chain: usize::MAX,
                    term: if self.form == Form::Pairs { Step::Pair } else { Step::Single },
                    a: strips,
                    b: Panels { data: panel, base: 0, width, step: None },
                    cols,
                    rows: out_rows,
                    base: base + first as isize,
                    alpha: self.alpha,
                    accumulate: accumulate || q > 0,
                    ahead: None,
                    room: None,
                    by_rows: false,
                    fresh: false,
                };
                block(self.isa, &one, out);
            }
        }
    }
}

/// A line of totals on its way to the output.
struct Ending<'a, O>(&'a [f32], &'a mut [O]);

impl<O: Narrow> Work for Ending<'_, O> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (x, y) in self.0.iter().zip(self.1) {
            *y = O::narrow(*x);
        }
    }
}
