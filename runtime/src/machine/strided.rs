//! Copies between strided bytes that need no alignment: host tensors, messages, constants.
//!
//! Kernels copy inside SRAM, where elements are aligned. What comes from outside is bytes anywhere in memory.

use girih_ir::axes::Box as Range;
use girih_ir::types::{Dims, Layout, row_major_strides};
use smallvec::SmallVec;

/// A growable buffer whose bytes start at a multiple of 8.
#[derive(Clone, Debug, Default)]
pub struct Block {
    words: Vec<u64>,
}

impl Block {
    /// The first `len` bytes, growing the buffer when it is shorter. What they hold is unspecified.
    pub fn take(&mut self, len: usize) -> &mut [u8] {
        let words = len.div_ceil(8);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.words)[..len]
    }

    /// The first `len` bytes, at most as many as there are.
    pub fn held(&self, len: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        &bytes[..len.min(bytes.len())]
    }
}

/// Blocks that are not in use, by size. The one that was given back last goes out first, for it is still in a cache.
#[derive(Debug, Default)]
pub struct Pool {
    /// Those of 2^k words and more, at place k.
    classes: Vec<Vec<Block>>,
}

impl Pool {
    /// A block of at least `len` bytes.
    pub fn take(&mut self, len: usize) -> Block {
        let class = len.div_ceil(8).next_power_of_two().trailing_zeros() as usize;
        let kept = self.classes.get_mut(class).and_then(Vec::pop);
        kept.unwrap_or_else(|| Block { words: vec![0; 1 << class] })
    }

    /// Gives a block back.
    pub fn put(&mut self, block: Block) {
        let Some(class) = block.words.len().checked_ilog2() else { return };
        let class = class as usize;
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Vec::new);
        }
        self.classes[class].push(block);
    }
}

/// The layout of a box of a dense tensor of these extents.
pub fn part_of(shape: &[usize], part: &Range) -> Layout {
    let strides = row_major_strides(shape);
    let base = part.iter().zip(&strides).map(|(r, s)| r.start * *s as usize).sum();
    Layout { base, dims: part.iter().map(|r| r.end.saturating_sub(r.start)).collect(), strides }
}

type Walk = SmallVec<[(usize, isize, isize); 6]>;

/// Copies elements of `size` bytes (1, 2, 4 or 8) from one layout to another of equal extents. Layouts that leave their slice, or do not fit together, copy
/// nothing and return `false`.
pub fn copy(size: usize, from: &[u8], from_layout: &Layout, to: &mut [u8], to_layout: &Layout) -> bool {
    let inside =
        |l: &Layout, len: usize| l.strides.len() == l.dims.len() && l.extent().is_some_and(|r| r.is_empty() || r.end <= len / size);
    if from_layout.dims != to_layout.dims || !inside(from_layout, from.len()) || !inside(to_layout, to.len()) {
        return false;
    }
    if from_layout.elements() == 0 {
        return true;
    }
    let mut walk = Walk::new();
    for (d, (s, t)) in from_layout.dims.iter().zip(from_layout.strides.iter().zip(&to_layout.strides)) {
        if *d == 1 {
            continue;
        }
        match walk.last_mut() {
            Some(outer) if outer.1 == s * *d as isize && outer.2 == t * *d as isize => *outer = (outer.0 * d, *s, *t),
            _ => walk.push((*d, *s, *t)),
        }
    }
    let inner = walk.pop().unwrap_or((1, 1, 1));
    let rows = walk.pop().unwrap_or((1, 0, 0));
    let mut index = Dims::from_elem(0, walk.len());
    let (mut source, mut dest) = (from_layout.base as isize, to_layout.base as isize);
    loop {
        match size {
            1 => plane::<1>(from, to, source, dest, rows, inner),
            2 => plane::<2>(from, to, source, dest, rows, inner),
            4 => plane::<4>(from, to, source, dest, rows, inner),
            _ => plane::<8>(from, to, source, dest, rows, inner),
        }
        let mut dim = walk.len();
        loop {
            let Some(next) = dim.checked_sub(1) else { return true };
            dim = next;
            let (extent, s, t) = walk[dim];
            index[dim] += 1;
            source += s;
            dest += t;
            if index[dim] < extent {
                break;
            }
            source -= s * extent as isize;
            dest -= t * extent as isize;
            index[dim] = 0;
        }
    }
}

/// Extent, step in the source, step in the destination.
type Step = (usize, isize, isize);

/// The innermost two dimensions, from element `source` to element `dest`.
fn plane<const N: usize>(from: &[u8], to: &mut [u8], source: isize, dest: isize, (rows, down, up): Step, (count, s, t): Step) {
    for row in 0..rows as isize {
        let (source, dest) = (source + row * down, dest + row * up);
        if s == 1 && t == 1 {
            let (a, b, n) = (source as usize * N, dest as usize * N, count * N);
            run(&from[a..a + n], &mut to[b..b + n]);
            continue;
        }
        for i in 0..count as isize {
            let (a, b) = ((source + i * s) as usize * N, (dest + i * t) as usize * N);
            let element: [u8; N] = from[a..a + N].try_into().expect("the slice has N bytes");
            to[b..b + N].copy_from_slice(&element);
        }
    }
}

/// Bytes side by side. Few of them (the channels of one shard) are two moves that overlap, which a call would cost more than.
#[inline]
fn run(from: &[u8], to: &mut [u8]) {
    fn ends<const W: usize>(from: &[u8], to: &mut [u8]) {
        let last = from.len() - W;
        let word = |at: usize| -> [u8; W] { from[at..at + W].try_into().expect("the slice has W bytes") };
        let (first, second) = (word(0), word(last));
        to[..W].copy_from_slice(&first);
        to[last..].copy_from_slice(&second);
    }
    match from.len() {
        33..=64 => ends::<32>(from, to),
        17..=32 => ends::<16>(from, to),
        8..=16 => ends::<8>(from, to),
        4..=7 => ends::<4>(from, to),
        _ => to.copy_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back() {
        let mut pool = Pool::default();
        let block = pool.take(100);
        let at = block.words.as_ptr();
        pool.put(block);
        pool.put(Block::default());
        assert!(pool.take(4000).words.len() >= 500);
        let same = pool.take(65);
        assert_eq!((same.words.as_ptr(), same.words.len()), (at, 16));
    }

    #[test]
    fn runs_of_every_length() {
        let from: Vec<u8> = (0..3 * 80).collect();
        for n in 0..80 {
            let layout = |row: isize| Layout { base: 1, dims: Dims::from_slice(&[3, n]), strides: SmallVec::from_slice(&[row, 1]) };
            let mut to = vec![255u8; 3 * 90];
            assert!(copy(1, &from, &layout(79), &mut to, &layout(88)));
            let want = |i: usize| (0..3).find(|r| (1 + r * 88..1 + r * 88 + n).contains(&i)).map_or(255, |r| (i - r * 88 + r * 79) as u8);
            assert!(to.iter().enumerate().all(|(i, v)| *v == want(i)), "{n}");
        }
    }

    #[test]
    fn boxes_transpositions_and_reversals() {
        let from: Vec<u8> = (0..12).collect();
        let mut to = vec![0u8; 4];
        let part = part_of(&[3, 4], &[1..3, 2..4].into_iter().collect());
        assert!(copy(1, &from, &part, &mut to, &Layout::dense(&[2, 2])));
        assert_eq!(to, [6, 7, 10, 11]);
        let turned = Layout { base: 0, dims: Dims::from_slice(&[2, 2]), strides: SmallVec::from_slice(&[1, 2]) };
        assert!(copy(1, &from, &part, &mut to, &turned));
        assert_eq!(to, [6, 10, 7, 11]);
        let backwards = Layout { base: 3, dims: Dims::from_slice(&[4]), strides: SmallVec::from_slice(&[-1]) };
        assert!(copy(1, &from, &backwards, &mut to, &Layout::dense(&[4])));
        assert_eq!(to, [3, 2, 1, 0]);
        assert!(!copy(4, &from, &Layout::dense(&[4]), &mut to, &Layout::dense(&[4])), "16 bytes are not there");
        let wide: Vec<u8> = (0..16).collect();
        let mut eight = vec![0u8; 16];
        let swap = Layout { base: 1, dims: Dims::from_slice(&[2]), strides: SmallVec::from_slice(&[-1]) };
        assert!(copy(8, &wide, &swap, &mut eight, &Layout::dense(&[2])));
        assert_eq!(eight[..8], wide[8..]);
    }
}
