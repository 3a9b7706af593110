//! One product of plain matrices: the path of nearly every call, with as little set-up as possible.
//!
//! Small operands are read where they lie. Of the others, the broadcast operand is packed a block at a time, and the vector operand a
//! panel at a time, just before its use, when one block has all the rows, else all of it ahead.

use super::KC;
use super::plan::Tiles;
use crate::arch::block::{Block, Panels, Step, Strips, block, block_keeping};
use crate::arch::pack::{Plane, copy_rows, pack};
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};

/// Bytes of an operand that is read in place again and again: it shares the first-level cache with the other.
const NEAR_BYTES: usize = 24 << 10;

/// The right operand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right<'a> {
    /// A matrix, by columns.
    Plain(Plane<'a>),
    /// Panels of `width` columns for every block of [`KC`] terms.
    Packed { data: &'a [f32], width: usize },
}

/// `out[i, j] (+)= alpha · Σ_p a[i, p] · b[p, j]`, in a slice with the columns of `out` next to each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    /// Rows, columns, terms; none is 0.
    pub extents: [usize; 3],
    /// Left operand, by rows.
    pub a: Plane<'a>,
    /// Right operand.
    pub b: Right<'a>,
    /// Position of output (0, 0).
    pub out: usize,
    /// Distance between output rows.
    pub out_row: isize,
    /// Whether `a` is the right operand of the caller, and `b` the left one.
    pub swapped: bool,
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether to add to the output.
    pub accumulate: bool,
}

impl<'a> Product<'a> {
    /// The same product of matrices elsewhere: the caller's left, right and result.
    pub(super) fn from(&self, [left, right, out]: [usize; 3]) -> Product<'a> {
        let (a, b) = if self.swapped { (right, left) } else { (left, right) };
        let moved = match self.b {
            Right::Plain(plane) => Right::Plain(Plane { base: b, ..plane }),
            packed @ Right::Packed { .. } => packed,
        };
        Product { a: Plane { base: a, ..self.a }, b: moved, out, ..*self }
    }

    /// Runs the product on validated positions.
    pub(super) fn run(&self, isa: Isa, out: &mut [f32], scratch: &mut Scratch) {
        let [m, n, k] = self.extents;
        let (tiles, direct_a) = self.tiles(isa);
        let direct_b = self.direct_b(m.div_ceil(tiles.height));
        let at_once = if direct_a && direct_b { m } else { tiles.block_rows(m) };
        let Scratch { a, b, out_rows, .. } = scratch;
        for i in (0..m).step_by(at_once) {
            let rows = at_once.min(m - i);
            rows_from(out_rows, i, rows, self.out_row);
            for q in (0..k).step_by(KC) {
                let kc = KC.min(k - q);
                let source = self.a.at(i, q);
                let strips = if direct_a { in_place(&source, tiles) } else { strips(isa, &source, rows, kc, tiles, a) };
                let plane = match self.b {
                    Right::Plain(plane) if direct_b => {
                        block(isa, &self.block((strips, panels(&plane.at(0, q), tiles)), q, (0, n), out_rows), out);
                        continue;
                    }
                    Right::Packed { data, width } => {
                        let panels = Panels { data, base: n.next_multiple_of(width) * q, width, step: None };
                        block(isa, &self.block((strips, panels), q, (0, n), out_rows), out);
                        continue;
                    }
                    Right::Plain(plane) => plane,
                };
                let keeps = plane.stride == 1 && isa.usable() == Isa::Avx512;
                for j in (0..n).step_by(tiles.width) {
                    let cols = tiles.width.min(n - j);
                    let source = plane.at(j, q);
                    let panel = b.take(tiles.width * kc);
                    if keeps {
                        let ahead = if j + cols < n { plane.at(j + cols, q).ahead(cols) } else { None };
                        let one = Block { ahead, ..self.block((strips, panels(&source, tiles)), q, (j, cols), out_rows) };
                        block_keeping(isa, &one, panel, out);
                        continue;
                    }
                    pack(isa, &source, cols, kc, tiles.width, false, panel);
                    let panels = Panels { data: panel, base: 0, width: tiles.width, step: None };
                    block(isa, &self.block((strips, panels), q, (j, cols), out_rows), out);
                }
            }
        }
    }

    /// The tiles, and whether the rows are read where they lie: when copying them would not be repaid, or they are few and close.
    ///
    /// Rows a multiple of a page's half apart share few sets of the first-level cache: then fewer are read side by side.
    fn tiles(&self, isa: Isa) -> (Tiles, bool) {
        let [m, n, k] = self.extents;
        let tiles = match self.b {
            Right::Plain(_) => Tiles::choose(isa, m, n, k),
            Right::Packed { width, .. } => Tiles { width, ..Tiles::of_width(isa, m, width, width) },
        };
        let kc = k.min(KC);
        let bytes = if self.a.step == 1 { 4 * m * kc } else { 4 * kc * self.a.step.unsigned_abs() };
        let spread = self.a.step == 1 && !self.a.stride.unsigned_abs().is_multiple_of(512);
        let direct = n <= 2 * tiles.width || bytes <= NEAR_BYTES || spread;
        let clash = direct && self.a.step == 1 && self.a.stride.unsigned_abs().is_multiple_of(512);
        if clash && tiles.height > 8 { (Tiles { height: m.div_ceil(m.div_ceil(8)), ..tiles }, direct) } else { (tiles, direct) }
    }

    /// Whether the columns are read where they lie; they have to be neighbors.
    fn direct_b(&self, strips: usize) -> bool {
        let Right::Plain(b) = self.b else { return false };
        let kc = self.extents[2].min(KC);
        b.stride == 1 && (strips <= 1 || 4 * kc.saturating_mul(b.step.unsigned_abs()) <= NEAR_BYTES)
    }

    /// Terms from `q` on, at most [`KC`], of some columns.
    fn block<'b>(&self, (a, b): (Strips<'b>, Panels<'b>), q: usize, (j, cols): (usize, usize), rows: &'b [isize]) -> Block<'b> {
        Block {
            k: KC.min(self.extents[2] - q),
            term: Step::Single,
            a,
            b,
            cols,
            rows,
            base: (self.out + j) as isize,
            alpha: self.alpha,
            accumulate: self.accumulate || q > 0,
            ahead: None,
        }
    }
}

fn in_place<'a>(a: &Plane<'a>, tiles: Tiles) -> Strips<'a> {
    Strips { data: a.data, base: a.base, height: tiles.height, strides: Some((a.stride, a.step)) }
}

fn panels<'a>(b: &Plane<'a>, tiles: Tiles) -> Panels<'a> {
    Panels { data: b.data, base: b.base, width: tiles.width, step: Some(b.step) }
}

/// Copies rows of neighboring terms, with lines of an odd length that keeps them out of one cache set; turns any others into strips.
fn strips<'b>(isa: Isa, a: &Plane<'_>, rows: usize, kc: usize, tiles: Tiles, dst: &'b mut Buffer) -> Strips<'b> {
    let height = tiles.height;
    if a.step == 1 {
        let ld = kc.next_multiple_of(16) + 16;
        let dst = dst.take(rows * ld);
        copy_rows(isa, a, rows, kc, ld, dst);
        return Strips { data: dst, base: 0, height, strides: Some((ld as isize, 1)) };
    }
    let dst = dst.take(rows * kc);
    pack(isa, a, rows, kc, height, true, dst);
    Strips { data: dst, base: 0, height, strides: None }
}

/// Where `len` rows from `first` on start, from the first row of all.
fn rows_from(list: &mut Vec<isize>, first: usize, len: usize, stride: isize) {
    list.clear();
    list.extend((first..first + len).map(|i| i as isize * stride));
}
