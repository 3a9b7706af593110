//! How a product is cut into tiles and blocks. None of it reaches the result.

use super::KC;
use crate::arch::block::{lanes_of, most_rows};
use crate::isa::Isa;

/// Bytes of a block of the broadcast operand: half of a second-level cache.
const BLOCK_BYTES: usize = 512 << 10;
/// Rows whose strips do not repay packing the columns.
const FEW_ROWS: u32 = 36;
/// Most terms of a block.
const TERMS: usize = 1024;

/// Terms of a block, when a product has `k`: chains of [`KC`], cut evenly.
pub(crate) fn terms_at_once(k: usize) -> usize {
    k.div_ceil(k.div_ceil(TERMS).max(1)).next_multiple_of(KC)
}

/// The tiles of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tiles {
    /// Rows of a strip.
    pub height: usize,
    /// Columns of a panel.
    pub width: usize,
}

impl Tiles {
    /// The tiles for `m` × `n` results of `k` terms: the fewest instructions, counting multiply-adds, loads and the tile's ends.
    pub(crate) fn choose(isa: Isa, m: usize, n: usize, k: usize) -> Tiles {
        let (lanes, k) = (lanes_of(isa), k.min(KC));
        let (m, all) = (short(m), short(n.div_ceil(lanes)));
        // Few rows read the columns where they lie, mostly from the second-level cache: once for each strip.
        let far = if m <= FEW_ROWS { k / 2 } else { 0 };
        let mut best = (usize::MAX, Tiles { height: 1, width: lanes });
        for vectors in (1..=most_rows(isa).len() as u32).rev() {
            let even = Even::new(isa, m, all, vectors);
            // Half-cycles: two multiply-adds or loads each, and never less than the latency of a sum allows; then the lines of the
            // output, which straddle one more than they fill, and the tile's ends.
            let steps = |rows: u32, vectors: u32| {
                let (rows, vectors) = (rows as usize, vectors as usize);
                k * (rows * vectors).max(rows + vectors).max(8) + far * vectors + 4 * rows * (vectors + 1) + 60
            };
            let column = |vectors: u32| {
                (even.strips - 1) as usize * steps(even.height, vectors) + steps(m - (even.strips - 1) * even.height, vectors)
            };
            let cost = (even.panels - 1) as usize * column(even.vectors) + column(all - (even.panels - 1) * even.vectors);
            if cost < best.0 {
                best = (cost, Tiles { height: even.height as usize, width: even.vectors as usize * lanes });
            }
        }
        best.1
    }

    /// Tiles of about this width: rows and columns are cut evenly, so that no tile is much smaller than the others.
    pub(crate) fn of_width(isa: Isa, m: usize, n: usize, width: usize) -> Tiles {
        let lanes = lanes_of(isa);
        let even = Even::new(isa, short(m), short(n.div_ceil(lanes)), short(width / lanes));
        Tiles { height: even.height as usize, width: even.vectors as usize * lanes }
    }

    /// Rows of a block that is read in place over `k` terms: whole strips that stay in the second-level cache beside two panels, cut evenly.
    pub(crate) fn rows_in_place(self, m: usize, k: usize) -> usize {
        let most = (BLOCK_BYTES / 4 / k.max(1)).max(self.height);
        let blocks = m.div_ceil(most).max(1);
        m.div_ceil(blocks).next_multiple_of(self.height)
    }

    /// Rows of a block: whole strips that stay in the second-level cache, cut evenly.
    pub(crate) fn block_rows(self, m: usize) -> usize {
        let most = BLOCK_BYTES / 4 / KC;
        let blocks = m.div_ceil(most).max(1);
        m.div_ceil(blocks).next_multiple_of(self.height)
    }
}

/// A number of rows or vectors that is at least 1, in the integers that processors divide fastest.
fn short(x: usize) -> u32 {
    x.clamp(1, 1 << 24) as u32
}

/// Rows and vectors cut evenly.
struct Even {
    height: u32,
    strips: u32,
    vectors: u32,
    panels: u32,
}

impl Even {
    /// `m` rows and `all` vectors in panels of at most `vectors`.
    fn new(isa: Isa, m: u32, all: u32, vectors: u32) -> Even {
        let vectors = all.div_ceil(all.div_ceil(vectors.max(1)));
        let most = most_rows(isa)[vectors as usize - 1] as u32;
        let height = m.div_ceil(m.div_ceil(most));
        Even { height, strips: m.div_ceil(height), vectors, panels: all.div_ceil(vectors) }
    }
}

/// The last choice of a worker: the next product is often as large.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    isa: Isa,
    extents: [usize; 3],
    tiles: Tiles,
}

impl Chosen {
    /// [`Tiles::choose`], remembered.
    pub(crate) fn again(last: &mut Option<Chosen>, isa: Isa, extents: [usize; 3]) -> Tiles {
        if let Some(chosen) = last.as_ref().filter(|chosen| chosen.isa == isa && chosen.extents == extents) {
            return chosen.tiles;
        }
        let [m, n, k] = extents;
        let tiles = Tiles::choose(isa, m, n, k);
        *last = Some(Chosen { isa, extents, tiles });
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_full_and_even() {
        let tiles = |m, n, k| {
            let t = Tiles::choose(Isa::Avx512, m, n, k);
            (t.height, t.width)
        };
        if Isa::detect() == Isa::Avx512 {
            assert_eq!(tiles(512, 512, 512), (6, 64));
            assert_eq!(tiles(64, 32, 64), (13, 32));
            assert_eq!(tiles(1, 1024, 1024), (1, 64));
            assert_eq!(tiles(128, 10, 512).1, 16);
        }
    }

    #[test]
    fn blocks_are_whole_chains() {
        assert_eq!([1, 256, 784, 1024, 1100, 3072].map(terms_at_once), [256, 256, 1024, 1024, 768, 1024]);
    }

    #[test]
    fn blocks_are_whole_strips() {
        for m in [1, 13, 512, 513, 2048] {
            let tiles = Tiles::of_width(Isa::detect(), m, 512, 32);
            assert!(tiles.block_rows(m).is_multiple_of(tiles.height));
            assert!(tiles.rows_in_place(m, 1024).is_multiple_of(tiles.height));
        }
    }
}
