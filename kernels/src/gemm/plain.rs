//! One product of plain matrices: the path of nearly every call, with as little set-up as possible.
//!
//! Small operands are read where they lie, and so is a broadcast operand whose terms are neighbors; else it is packed a block at a time.
//! The vector operand is packed a panel at a time, by the first tile that uses the panel where that can be done on the way.

use super::KC;
use super::plan::{Chosen, Tiles, terms_at_once};
use crate::arch::block::{Ahead, Block, Next, Packing, Panels, Step, Strips, block, block_packing, lanes_of, most_rows};
use crate::arch::pack::{Plane, pack};
use crate::arch::{copy, transpose16};
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};

/// Bytes of an operand that is read in place again and again: it shares the first-level cache with the other.
const NEAR_BYTES: usize = 24 << 10;
/// Bytes of packed panels that serve several blocks of rows.
const PANEL_BYTES: usize = 4 << 20;
/// Elements of a result that is computed transposed, at most.
const MOST_TURNED: usize = 1 << 17;
/// Strips of rows that do not repay packing the columns.
const FEW_STRIPS: usize = 6;
/// Sums so short that writing them is most of the work: then the results are written row by row.
const SHORT_TERMS: usize = 16;
/// Rows that make high strips worth their narrower panels.
const MANY_ROWS: usize = 128;
/// Terms of a full vector of idle lanes that are worth turning a result.
const NARROW_TERMS: usize = 16;
/// Rows of a result that are turned at a time where its columns do not fill a vector.
const SOME_ROWS: usize = 64;
/// Terms that are worth copying a panel a share at a time.
const CARRIED_TERMS: usize = 192;
/// Elements of a cache line.
const LINE: usize = 16;

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
        match self.turned() {
            Some(turned) => self.run_turned(isa, &turned, out, scratch),
            None => self.run_as_it_is(isa, out, scratch),
        }
    }

    fn run_as_it_is(&self, isa: Isa, out: &mut [f32], scratch: &mut Scratch) {
        let [m, n, k] = self.extents;
        let (tiles, direct_a) = self.tiles(isa, &mut scratch.tiles);
        let direct_b = self.direct_b(m.div_ceil(tiles.height));
        let short = matches!(self.b, Right::Plain(_)) && !direct_b && k <= SHORT_TERMS;
        let plan = Plan::of(self, tiles, direct_a, direct_b);
        let plan = if short { Plan { cols: n, ..plan } } else { plan };
        let Scratch { a, b, out_rows, .. } = scratch;
        for first in (0..n).step_by(plan.cols) {
            let group = (first, plan.cols.min(n - first));
            for q in (0..k).step_by(plan.terms) {
                let kc = plan.terms.min(k - q);
                for i in (0..m).step_by(plan.rows) {
                    let rows = plan.rows.min(m - i);
                    rows_from(out_rows, i, rows, self.out_row);
                    let source = self.a.at(i, q);
                    let strips = if direct_a { in_place(&source, tiles) } else { strips(isa, &source, rows, kc, tiles, a) };
                    match self.b {
                        Right::Plain(plane) if direct_b => {
                            block(isa, &self.block((strips, panels(&plane.at(0, q), tiles)), (q, kc), group, out_rows), out);
                        }
                        Right::Packed { data, width } => {
                            let panels = Panels { data, base: n.next_multiple_of(width) * q, width, step: None };
                            block(isa, &self.block((strips, panels), (q, kc), group, out_rows), out);
                        }
                        Right::Plain(plane) if short => {
                            let kept = b.take(n.next_multiple_of(tiles.width) * k);
                            if i == 0 {
                                pack(isa, &plane, n, k, tiles.width, false, kept);
                            }
                            let panels = Panels { data: kept, base: 0, width: tiles.width, step: None };
                            block(isa, &Block { by_rows: true, ..self.block((strips, panels), (q, kc), group, out_rows) }, out);
                        }
                        Right::Plain(plane) => {
                            let turn = Turn { strips, group, terms: (q, kc), first: i == 0, last: i + rows >= m, width: tiles.width };
                            self.panels(isa, &plane, &turn, out_rows, b, out);
                        }
                    }
                }
            }
        }
    }

    /// One block of rows against the panels of a group of columns. The first block of rows packs them; when there is no other, one after
    /// another into the same place.
    fn panels(&self, isa: Isa, plane: &Plane<'_>, turn: &Turn<'_>, rows: &[isize], kept: &mut Buffer, out: &mut [f32]) {
        let Turn { strips, group: (first, all), terms: (q, kc), width, .. } = *turn;
        let alone = turn.first && turn.last;
        let size = width * kc;
        let kept = kept.take(if alone { 2 } else { all.div_ceil(width) } * size);
        let on_the_way = plane.stride == 1 && isa.usable() == Isa::Avx512;
        let mut packed = false;
        for (slot, at) in (0..all).step_by(width).enumerate() {
            let (j, cols) = (first + at, width.min(all - at));
            let (source, after) = (plane.at(j, q), plane.at(j + cols, q));
            let in_place = Panels { data: source.data, base: source.base, width, step: Some(source.step) };
            let (panel, next) = if alone {
                let (even, odd) = kept.split_at_mut(size);
                if slot % 2 == 0 { (even, odd) } else { (odd, even) }
            } else {
                kept[slot * size..].split_at_mut(size)
            };
            if !turn.first {
                let ahead = (at + cols < all).then_some(Ahead::packed(next.as_ptr(), width, kc));
                let panels = Panels { data: panel, base: 0, width, step: None };
                block(isa, &Block { ahead, fresh: at == 0, ..self.block((strips, panels), (q, kc), (j, cols), rows) }, out);
                continue;
            }
            let beside = next.as_ptr();
            let carries = on_the_way && kc >= CARRIED_TERMS && at + 2 * width <= all && rows.len() > strips.height;
            let next = carries.then_some(Next { data: after.data, base: after.base, step: after.step, to: next });
            let done = std::mem::replace(&mut packed, carries);
            let reads = on_the_way && cols.is_multiple_of(LINE);
            if !done && !reads {
                pack(isa, &source, cols, kc, width, false, panel);
            }
            let ahead = match () {
                () if carries => None,
                () if reads && at + cols < all => after.ahead(cols),
                // Behind the last columns come those of the next matrix of a batch.
                () => after.lines_ahead(cols, kc, KC),
            };
            let room = (!reads && at + cols < all).then(|| Ahead::packed(beside, width, kc));
            let mut one = Block { ahead, room, fresh: at == 0, ..self.block((strips, in_place), (q, kc), (j, cols), rows) };
            if !done && reads {
                block_packing(isa, &one, Packing { own: Some(panel), next }, out);
                continue;
            }
            one.b = Panels { data: panel, base: 0, width, step: None };
            match next {
                Some(_) => block_packing(isa, &one, Packing { own: None, next }, out),
                None => block(isa, &one, out),
            }
        }
    }

    /// The product of the transposed operands, whose result is the transposed one and is turned when it is done: where the columns are not
    /// neighbors but their terms are, and there are few rows, so that fewer elements move; and where the columns do not fill a vector but the
    /// rows are neighbors and do.
    fn turned(&self) -> Option<Product<'a>> {
        let Right::Plain(b) = self.b else { return None };
        let [m, n, k] = self.extents;
        let fewer = b.step == 1 && b.stride != 1 && self.a.step == 1 && m * k + 2 * m * n < n * k && m >= LINE;
        let narrow = self.a.stride == 1 && m >= MANY_ROWS && n < LINE && k * (LINE - n) >= NARROW_TERMS * LINE;
        let fits = (fewer || narrow) && m * n <= MOST_TURNED && self.out_row > 0 && !self.accumulate;
        fits.then_some(Product { extents: [n, m, k], a: b, b: Right::Plain(self.a), out: 0, out_row: m as isize, ..*self })
    }

    fn run_turned(&self, isa: Isa, turned: &Product<'_>, out: &mut [f32], scratch: &mut Scratch) {
        let [m, n, _] = self.extents;
        let mut result = std::mem::take(&mut scratch.tile);
        let dense = result.take(m * n);
        turned.run_as_it_is(isa, dense, scratch);
        let row = self.out_row as usize;
        let whole = n / LINE * LINE;
        for j in (0..whole).step_by(LINE) {
            transpose16(isa, dense, j * m, m as isize, LINE, m, &mut out[self.out + j..], row);
        }
        let mut lines = [0.0; SOME_ROWS * LINE];
        for i in (0..m).step_by(SOME_ROWS).filter(|_| whole < n) {
            let rows = SOME_ROWS.min(m - i);
            transpose16(isa, dense, whole * m + i, m as isize, n - whole, rows, &mut lines, LINE);
            for (r, line) in lines.chunks_exact(LINE).enumerate().take(rows) {
                copy(isa, &line[..n - whole], &mut out[self.out + (i + r) * row + whole..][..n - whole]);
            }
        }
        scratch.tile = result;
    }

    /// The tiles, and whether the rows are read where they lie: when their terms are neighbors, or copying them would not be repaid.
    ///
    /// Rows a multiple of a page's half apart share few sets of the first-level cache: then fewer are read side by side.
    fn tiles(&self, isa: Isa, last: &mut Option<Chosen>) -> (Tiles, bool) {
        let [m, n, k] = self.extents;
        let tiles = match self.b {
            Right::Plain(_) => Chosen::again(last, isa, self.extents),
            Right::Packed { width, .. } => Tiles { width, ..Tiles::of_width(isa, m, width, width) },
        };
        let kc = k.min(KC);
        let bytes = if self.a.step == 1 { 4 * m * kc } else { 4 * kc * self.a.step.unsigned_abs() };
        let direct = self.a.step == 1 || n <= 2 * tiles.width || bytes <= NEAR_BYTES;
        // Rows that are packed are packed in longer pieces when there are more to a strip.
        let high = !direct && matches!(self.b, Right::Plain(_)) && m >= MANY_ROWS && k >= KC;
        let tiles = if high { Tiles::of_width(isa, m, n, most_rows(isa).len().min(2) * lanes_of(isa)) } else { tiles };
        let clash = self.a.step == 1 && self.a.stride.unsigned_abs().is_multiple_of(512);
        if clash && tiles.height > 8 { (Tiles { height: m.div_ceil(m.div_ceil(8)), ..tiles }, direct) } else { (tiles, direct) }
    }

    /// Whether the columns are read where they lie; they have to be neighbors.
    fn direct_b(&self, strips: usize) -> bool {
        let Right::Plain(b) = self.b else { return false };
        let kc = self.extents[2].min(KC);
        b.stride == 1 && (strips <= FEW_STRIPS || 4 * kc.saturating_mul(b.step.unsigned_abs()) <= NEAR_BYTES)
    }

    /// `k` terms from `q` on, of some columns.
    fn block<'b>(
        &self,
        (a, b): (Strips<'b>, Panels<'b>),
        (q, k): (usize, usize),
        (j, cols): (usize, usize),
        rows: &'b [isize],
    ) -> Block<'b> {
        Block {
            k,
            chain: KC,
            term: Step::Single,
            a,
            b,
            cols,
            rows,
            base: (self.out + j) as isize,
            alpha: self.alpha,
            accumulate: self.accumulate || q > 0,
            ahead: None,
            room: None,
            by_rows: false,
            fresh: false,
        }
    }
}

/// How a product is cut into blocks.
struct Plan {
    rows: usize,
    cols: usize,
    terms: usize,
}

impl Plan {
    /// Long chains of terms, so that the result is touched rarely; rows that stay in the second-level cache; columns whose packed panels
    /// stay in the third.
    fn of(p: &Product<'_>, tiles: Tiles, direct_a: bool, direct_b: bool) -> Plan {
        let [m, n, k] = p.extents;
        if let Right::Packed { .. } = p.b {
            return Plan { rows: tiles.block_rows(m), cols: n, terms: KC };
        }
        if direct_a && direct_b {
            return Plan { rows: m, cols: n, terms: KC };
        }
        let terms = terms_at_once(k);
        let cols = (PANEL_BYTES / 4 / terms / tiles.width).max(1) * tiles.width;
        Plan { rows: tiles.rows_in_place(m, terms.min(k)), cols, terms }
    }
}

/// One block of rows: what [`Product::panels`] needs to know of it.
struct Turn<'a> {
    strips: Strips<'a>,
    /// First column and number of columns.
    group: (usize, usize),
    /// First term and number of terms.
    terms: (usize, usize),
    /// Whether it is the first block of rows, and the last.
    first: bool,
    last: bool,
    width: usize,
}

fn in_place<'a>(a: &Plane<'a>, tiles: Tiles) -> Strips<'a> {
    Strips { data: a.data, base: a.base, height: tiles.height, strides: Some((a.stride, a.step)) }
}

fn panels<'a>(b: &Plane<'a>, tiles: Tiles) -> Panels<'a> {
    Panels { data: b.data, base: b.base, width: tiles.width, step: Some(b.step) }
}

/// Turns rows into strips, term after term.
fn strips<'b>(isa: Isa, a: &Plane<'_>, rows: usize, kc: usize, tiles: Tiles, dst: &'b mut Buffer) -> Strips<'b> {
    let dst = dst.take(rows * kc);
    pack(isa, a, rows, kc, tiles.height, true, dst);
    Strips { data: dst, base: 0, height: tiles.height, strides: None }
}

/// Where `len` rows from `first` on start, from the first row of all.
fn rows_from(list: &mut Vec<isize>, first: usize, len: usize, stride: isize) {
    list.clear();
    list.extend((first..first + len).map(|i| i as isize * stride));
}
