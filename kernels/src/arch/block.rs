//! A block of a product over panels: what the blocked drivers hand to the microkernels, and its scalar twin.
//!
//! One call covers many tiles, so that its slices are checked once for all of them.

use super::inside;
use crate::isa::Isa;

/// The broadcast operand of a [`Block`]: rows, in strips of `height`.
#[derive(Clone, Copy)]
pub(crate) struct Strips<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Position of (row 0, term 0).
    pub base: usize,
    /// Rows of a strip; the last may have fewer.
    pub height: usize,
    /// Strides of row and term where the operand is read in place; `None` when packed: strip after strip, term after term.
    pub strides: Option<(isize, isize)>,
}

/// The vector operand of a [`Block`]: columns, in panels of `width`.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Position of (term 0, column 0).
    pub base: usize,
    /// Columns of a panel, a multiple of the vector; the last may have fewer.
    pub width: usize,
    /// Term stride where the operand is read in place; `None` when packed: panel after panel, `width` columns of each term.
    pub step: Option<isize>,
}

/// Memory that will be used after a block, of which its strips fetch a line a term. It is only ever a hint.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// First element.
    pub start: *const f32,
    /// How far a strip goes on after a term.
    pub step: isize,
    /// How far it goes on besides after a chain of terms.
    pub jump: isize,
    /// Strips that it takes.
    pub strips: usize,
    /// Distance between what they fetch.
    pub next: isize,
}

impl Ahead {
    /// A packed panel, term after term.
    pub(crate) fn packed(start: *const f32, width: usize, k: usize) -> Ahead {
        Ahead { start, step: 16, jump: 0, strips: width.div_ceil(16), next: 16 * k as isize }
    }
}

/// Multiplies and adds of one step of a microkernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// One f32 term.
    Single,
    /// Two bf16 terms in one 32-bit element, the first in the low half; the second is added first.
    Pair,
}

/// One product of blocks: `c[rows[i] + j] (+)= alpha · Σ_p a[i, p] · b[p, j]`, `p` ascending, one fused multiply-add a term from +0. After
/// every `chain` terms the sum joins the output, and the next one begins.
pub(crate) struct Block<'a> {
    /// Terms, or pairs of terms.
    pub k: usize,
    /// How many of them are summed before the sum joins the output.
    pub chain: usize,
    /// What one of them is.
    pub term: Step,
    /// Broadcast operand.
    pub a: Strips<'a>,
    /// Vector operand.
    pub b: Panels<'a>,
    /// Columns.
    pub cols: usize,
    /// Where the rows start, from `base`.
    pub rows: &'a [isize],
    /// Position of output (0, 0) less the first entry of `rows`.
    pub base: isize,
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether the block adds to the output (`fma(alpha, sum, c)`) or replaces it (`alpha · sum`).
    pub accumulate: bool,
    /// What to fetch on the way, last.
    pub ahead: Option<Ahead>,
    /// What to fetch before that.
    pub room: Option<Ahead>,
    /// Whether all columns of a strip of rows come before the next strip; else all rows of a panel come before the next panel.
    pub by_rows: bool,
    /// Whether its first panel is the first to use the rows, which have to be fetched.
    pub fresh: bool,
}

/// Rows of a tile at most, for tiles of 1, 2, … vectors; the accumulators, one row of the vector operand and a broadcast fill the registers.
pub(crate) fn most_rows(isa: Isa) -> &'static [usize] {
    match isa.usable() {
        Isa::Avx512 => &[14, 14, 9, 6],
        Isa::Avx2 => &[6, 6],
        Isa::Scalar => &[6],
    }
}

/// Columns of a vector.
pub(crate) fn lanes_of(isa: Isa) -> usize {
    match isa.usable() {
        Isa::Avx2 => 8,
        Isa::Avx512 | Isa::Scalar => 16,
    }
}

impl Block<'_> {
    /// Panics unless every position that the block reads or writes lies inside its slice and the tiles are those of the instruction set.
    fn check(&self, isa: Isa, c: &[f32]) {
        let (rows, vector) = (self.rows.len(), lanes_of(isa));
        let most = most_rows(isa).get((self.b.width / vector).wrapping_sub(1)).copied().unwrap_or(0);
        assert!(self.chain > 0, "a sum has terms");
        assert!(self.b.width.is_multiple_of(vector) && (1..=most).contains(&self.a.height), "tiles exceed the microkernels");
        let (low, high) = self.rows.iter().fold((isize::MAX, isize::MIN), |(low, high), r| (low.min(*r), high.max(*r)));
        let last = self.base.checked_add(high).and_then(|x| x.checked_add(self.cols as isize));
        assert!(self.base.checked_add(low).is_some_and(|x| x >= 0), "block writes before the output");
        assert!(last.is_some_and(|x| x as usize <= c.len()), "block writes outside the output");
        let a = match self.a.strides {
            Some((row, step)) => inside(self.a.data.len(), self.a.base as isize, [(rows, row), (self.k, step)]),
            None => self.a.data.len() >= self.a.base && self.a.data.len() - self.a.base >= rows * self.k,
        };
        assert!(a, "block reads outside operand a");
        let b = match self.b.step {
            Some(step) => inside(self.b.data.len(), self.b.base as isize, [(self.cols, 1), (self.k, step)]),
            None => {
                let len = self.cols.div_ceil(self.b.width) * self.b.width * self.k;
                self.b.data.len() >= self.b.base && self.b.data.len() - self.b.base >= len
            }
        };
        assert!(b, "block reads outside operand b");
    }

    /// Where the rows of the strip after one of `height` rows lie, from that strip on, and how far to go on a term, so that all their lines
    /// are fetched in as many terms as the block has; `None` when that is not worth it.
    pub(super) fn rows_ahead(&self, height: usize) -> Option<(isize, isize)> {
        let height = height as isize;
        match self.a.strides? {
            (row, 1) if row > 0 => {
                let step = (height * row).unsigned_abs().div_ceil(self.k.max(1));
                (step <= 16).then_some((height * row, step as isize))
            }
            // A line of the last of those rows; the others share it, or have been fetched with rows before.
            (1, step) => Some((2 * height - 1, step)),
            _ => None,
        }
    }

    /// What to fetch of panel `index`, if there is one and it is packed.
    pub(super) fn panel_ahead(&self, index: usize) -> Option<Ahead> {
        let exists = self.b.step.is_none() && index * self.b.width < self.cols;
        let start = self.b.data.as_ptr().wrapping_add(self.panel(index).0);
        exists.then_some(Ahead::packed(start, self.b.width, self.k))
    }

    /// Where panel `index` starts in `b`, and its term stride.
    pub(super) fn panel(&self, index: usize) -> (usize, isize) {
        match self.b.step {
            Some(step) => (self.b.base + index * self.b.width, step),
            None => (self.b.base + index * self.b.width * self.k, self.b.width as isize),
        }
    }

    /// Where the strip of `height` rows from `row` on starts in `a`, and its strides.
    pub(super) fn strip(&self, row: usize, height: usize) -> (isize, isize, isize) {
        match self.a.strides {
            Some((stride, step)) => (self.a.base as isize + row as isize * stride, stride, step),
            None => ((self.a.base + row * self.k) as isize, 1, height as isize),
        }
    }
}

/// What a block of one panel packs on the way.
pub(crate) struct Packing<'a> {
    /// Where its own panel goes, which is read in place by the first strip and here by the others.
    pub own: Option<&'a mut [f32]>,
    /// The next panel, which has as many columns.
    pub next: Option<Next<'a>>,
}

/// A panel that is copied by the strips of a block, a share each: it is not read long before, for it would leave the cache again where its lines
/// share few sets, and its misses are spread over the whole block.
pub(crate) struct Next<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Position of (term 0, column 0); what comes after this panel lies beside it.
    pub base: usize,
    /// Term stride.
    pub step: isize,
    /// Where it goes.
    pub to: &'a mut [f32],
}

/// Runs a block.
pub(crate) fn block(isa: Isa, t: &Block<'_>, c: &mut [f32]) {
    run(isa, t, None, c);
}

/// Runs a block of one panel of whole vectors with AVX-512, and packs on the way.
pub(crate) fn block_packing(isa: Isa, t: &Block<'_>, packing: Packing<'_>, c: &mut [f32]) {
    let (room, strips) = (t.k * t.cols, t.rows.len().div_ceil(t.a.height));
    assert!(t.cols <= t.b.width && t.cols.is_multiple_of(lanes_of(isa)), "one panel of whole vectors is packed");
    if let Some(own) = &packing.own {
        assert!(t.b.step.is_some() && own.len() >= room, "a panel in place is kept");
    }
    if let Some(next) = &packing.next {
        let inside = inside(next.data.len(), next.base as isize, [(t.cols, 1), (t.k, next.step)]);
        assert!(inside && next.to.len() >= room && strips > usize::from(packing.own.is_some()), "the next panel is copied");
    }
    run(isa, t, Some(packing), c);
}

fn run(isa: Isa, t: &Block<'_>, packing: Option<Packing<'_>>, c: &mut [f32]) {
    let isa = isa.usable();
    if t.rows.is_empty() || t.cols == 0 {
        return;
    }
    t.check(isa, c);
    match (isa, t.term) {
        // SAFETY: `usable` says that the processor has the features; `check` proved that every position that the block reads or writes is
        // inside its slice, and `block_packing` the same of what is packed.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Step::Single) => unsafe { super::avx512_block::single::block(t, packing, c) },
        // SAFETY: as above, for the pairs by the test in the guard.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Step::Pair) if Isa::has_bf16_pairs() => unsafe { super::avx512_block::pair::block(t, None, c) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Step::Single) => unsafe { super::avx2_block::block(t, c) },
        _ => scalar(t, c),
    }
}

/// The twin: tile by tile, in the order that the numerical contract states.
fn scalar(t: &Block<'_>, c: &mut [f32]) {
    for panel in 0..t.cols.div_ceil(t.b.width) {
        let (b_base, b_step) = t.panel(panel);
        let at = panel * t.b.width;
        for first in (0..t.rows.len()).step_by(t.a.height) {
            let height = t.a.height.min(t.rows.len() - first);
            let (a_base, a_row, a_step) = t.strip(first, height);
            for i in 0..height {
                let place = (t.base + t.rows[first + i]) as usize + at;
                for j in 0..t.b.width.min(t.cols - at) {
                    for q in (0..t.k.max(1)).step_by(t.chain) {
                        let mut sum = 0.0f32;
                        for p in q as isize..t.k.min(q.saturating_add(t.chain)) as isize {
                            let a = t.a.data[(a_base + i as isize * a_row + p * a_step) as usize];
                            let b = t.b.data[((b_base + j) as isize + p * b_step) as usize];
                            sum = match t.term {
                                Step::Single => a.mul_add(b, sum),
                                Step::Pair => pair_of_terms(a, b, sum),
                            };
                        }
                        let c = &mut c[place + j];
                        *c = if t.accumulate || q > 0 { t.alpha.mul_add(sum, *c) } else { t.alpha * sum };
                    }
                }
            }
        }
    }
}

/// What `vdpbf16ps` does to one lane: the high halves first, denormals read as 0 and written as 0.
#[inline(always)]
pub(super) fn pair_of_terms(a: f32, b: f32, sum: f32) -> f32 {
    let flush = |x: f32| if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x };
    let high = |x: f32| flush(f32::from_bits(x.to_bits() & 0xffff_0000));
    let low = |x: f32| flush(f32::from_bits(x.to_bits() << 16));
    let sum = flush(high(a).mul_add(high(b), flush(sum)));
    flush(low(a).mul_add(low(b), sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::Rng;

    /// Random elements; for pairs, two bf16 of moderate size.
    fn elements(rng: &mut Rng, term: Step, n: usize) -> Vec<f32> {
        let half = |rng: &mut Rng| u32::from(half::bf16::from_f32(rng.unit()).to_bits());
        match term {
            Step::Single => rng.floats(n),
            Step::Pair => (0..n).map(|_| f32::from_bits(half(rng) << 16 | half(rng))).collect(),
        }
    }

    /// Every number of rows and of columns, with operands packed and in place, replacing and adding, against the twin.
    #[test]
    fn every_tile_equals_its_twin_and_writes_nothing_else() {
        let mut rng = Rng(11);
        for isa in Isa::available() {
            let lanes = lanes_of(isa);
            for (vectors, most) in most_rows(isa).iter().enumerate().map(|(i, most)| (i + 1, *most)) {
                for height in 1..=most {
                    for term in [Step::Single, Step::Pair] {
                        let (width, k) = (vectors * lanes, 1 + rng.below(40));
                        let cols = 1 + rng.below(2 * width);
                        let cols = if rng.below(2) == 0 { cols.next_multiple_of(lanes) } else { cols };
                        let rows = height + rng.below(height + 1);
                        one_block(&mut rng, isa, term, [height, width], [rows, cols, k]);
                    }
                }
            }
        }
    }

    fn one_block(rng: &mut Rng, isa: Isa, term: Step, [height, width]: [usize; 2], [rows, cols, k]: [usize; 3]) {
        let ld = cols + rng.below(20);
        let a = elements(rng, term, rows * k);
        let b = elements(rng, term, ld.max(cols.next_multiple_of(width)) * k);
        let before = rng.floats(3 + rows * ld);
        let starts: Vec<isize> = (0..rows).map(|i| (i * ld) as isize).collect();
        for (packed_a, packed_b) in [(true, true), (false, true), (true, false), (false, false)] {
            let block = Block {
                k,
                chain: 16,
                term,
                a: Strips { data: &a, base: 0, height, strides: (!packed_a).then_some((k as isize, 1)) },
                b: Panels { data: &b, base: 0, width, step: (!packed_b).then_some(ld as isize) },
                cols,
                rows: &starts,
                base: 3,
                alpha: if rng.below(2) == 0 { 1.0 } else { -0.75 },
                accumulate: rng.below(2) == 0,
                ahead: None,
                room: None,
                by_rows: rng.below(3) == 0,
                fresh: rng.below(2) == 0,
            };
            let (mut want, mut got) = (before.clone(), before.clone());
            scalar(&block, &mut want);
            super::block(isa, &block, &mut got);
            let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let what = format!("{} {term:?} {height} x {width} of {rows} x {cols} x {k}, packed {packed_a} {packed_b}", isa.name());
            // AVX2 has no pairs and runs the twin itself; a sum of pairs is the same to the bit where the processor has the instruction.
            assert_eq!(bits(&want), bits(&got), "{what}");
            if cols <= width && cols.is_multiple_of(lanes_of(isa)) && term == Step::Single && isa == Isa::Avx512 {
                let (mut own, mut to, mut got) = (vec![0.0; k * cols], vec![0.0; k * cols], before.clone());
                let (base, step, packs) = (b.len() - ld * k, ld as isize, packed_b || rows > height);
                let next = packs.then_some(Next { data: &b, base, step, to: &mut to });
                block_packing(isa, &Block { by_rows: false, ..block }, Packing { own: (!packed_b).then_some(&mut own), next }, &mut got);
                assert_eq!(bits(&want), bits(&got), "{what}, packing");
                let lines = |at: usize| (0..k).flat_map(|p| &b[at + p * ld..][..cols]).copied().collect::<Vec<_>>();
                assert!(!packs || to == lines(base), "{what}, the next panel");
                assert!(packed_b || own == lines(0), "{what}, its own panel");
            }
        }
    }

    #[test]
    fn pairs_of_small_numbers_are_flushed_alike() {
        let mut rng = Rng(12);
        let tiny = |rng: &mut Rng| (rng.next() as u32 & 0x8000) | (rng.next() as u32 % 0x1200);
        let values = |rng: &mut Rng, n: usize| (0..n).map(|_| f32::from_bits(tiny(rng) << 16 | tiny(rng))).collect::<Vec<_>>();
        let (a, k) = (values(&mut rng, 6 * 40), 40);
        let big = |rng: &mut Rng| 0x3c00 + (rng.next() as u32 % 0x0400);
        let b: Vec<f32> = (0..64 * k).map(|_| f32::from_bits(big(&mut rng) << 16 | big(&mut rng))).collect();
        let starts: Vec<isize> = (0..6).map(|i| i * 64).collect();
        let block = Block {
            k,
            chain: k,
            term: Step::Pair,
            a: Strips { data: &a, base: 0, height: 6, strides: None },
            b: Panels { data: &b, base: 0, width: 64, step: None },
            cols: 64,
            rows: &starts,
            base: 0,
            alpha: 1.0,
            accumulate: false,
            ahead: None,
            room: None,
            by_rows: false,
            fresh: false,
        };
        let mut want = vec![0.0; 6 * 64];
        scalar(&block, &mut want);
        assert!(want.iter().any(|x| *x != 0.0), "some sums are normal numbers");
        if Isa::has_bf16_pairs() {
            let mut got = vec![0.0; 6 * 64];
            super::block(Isa::Avx512, &block, &mut got);
            assert_eq!(want.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), got.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        }
    }
}
