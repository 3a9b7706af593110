//! 3×3 convolutions of stride 1 by Winograd's F(4×4, 3×3): 36 products for 16 outputs instead of 144.
//!
//! Forward passes and gradients of the input are the same algorithm ([`forward`]); the gradient of the kernel is its transpose
//! ([`filter_gradient`]). Tiles of 4 × 4 output positions are cut from position 0 of the output, so cutting batch or output channels into
//! calls keeps the bits, and so does cutting rows or columns at multiples of 4; cutting the result of [`filter_gradient`] by rows does not.
//!
//! **Rounding class.** Reassociation, normwise: measured on Gaussian data with 64 channels, the root mean square error is 5 to 8·10⁻⁷ of the
//! result's root mean square, against 3·10⁻⁷ for the direct sum; but the error of one output is in proportion to the largest products of its 6 × 6 patch, not to its own terms, and an infinity in a patch makes all 16 outputs NaN.

use super::{Conv, ConvWindow};
use crate::arch::line::{Cell, convert};
use crate::arch::transpose16;
use crate::arch::winograd::{self as transform, PANEL, POINTS, Patch, Points, Product, TILE};
use crate::isa::Isa;
use crate::scratch::Scratch;
use std::ops::Range;

/// Tiles that go through the products together in a forward pass. Never reaches the result.
const BLOCK: usize = 48;
/// Input channels that one product sums: part of the numerical contract.
const DEPTH: usize = 64;
/// Bytes of a transformed kernel that is kept for all tiles of a call; a larger one is transformed again for every block of tiles.
const KEPT: usize = 3 << 20;
/// Tiles that one product of a kernel gradient sums: part of the numerical contract.
const SUMMED: usize = 128;
/// Tiles between asking for a patch and reading it.
const AHEAD: usize = 3;
/// Input patch extent.
const REACH: usize = TILE + 2;

fn round_up(n: usize, to: usize) -> usize {
    n.div_ceil(to) * to
}

/// Elements between points of a plane: a line more than the plane, so that the 36 lines of a tile fall into different cache sets.
fn spaced(plane: usize) -> usize {
    round_up(plane, 16) + 16
}

/// The windows of a plain two-dimensional convolution of stride 1.
fn plain(c: &Conv) -> Option<[ConvWindow; 2]> {
    let [y, x] = c.dims.window.as_slice() else { return None };
    let simple = |w: &ConvWindow| w.stride == 1 && w.lhs_dilation == 1 && w.rhs_dilation == 1;
    (simple(y) && simple(x) && c.dims.feature_groups == 1 && c.dims.batch_groups == 1).then_some([*y, *x])
}

/// Whether [`forward`] computes this convolution.
pub(super) fn fits_forward(c: &Conv) -> bool {
    plain(c).is_some() && c.rhs.dims[2..] == [3, 3] && c.lhs.strides[1] == 1 && c.out.strides[1] == 1
}

/// Whether [`filter_gradient`] computes this convolution.
pub(super) fn fits_filter_gradient(c: &Conv) -> bool {
    plain(c).is_some_and(|w| !w[0].reverse && !w[1].reverse)
        && c.out.dims[2..] == [3, 3]
        && c.lhs.strides[0] == 1
        && c.rhs.strides[0] == 1
        && c.out.strides[1] == 1
}

/// Whether tiles that cover an image of this extent multiply much less than the direct sum.
fn saves(y: usize, x: usize) -> bool {
    // 36 products a tile, and about as much as a third of them again for the transforms, against 9 an output.
    48 * y.div_ceil(TILE) * x.div_ceil(TILE) < 9 * y * x
}

/// Whether the transformed path is the faster one. Depends on nothing that is cut over threads.
pub(super) fn pays(c: &Conv) -> bool {
    if fits_forward(c) {
        return c.rhs.dims[1] >= 8 && saves(c.lhs.dims[2], c.lhs.dims[3]);
    }
    if !fits_filter_gradient(c) {
        return false;
    }
    // The distance between columns is the number of channels in memory, whatever part of them this call has.
    let narrow = c.lhs.dims[3] > 1 && c.lhs.strides[3].unsigned_abs() < 8;
    !narrow && saves(c.rhs.dims[2], c.rhs.dims[3])
}

/// Runs a convolution that one of the two forms fits; `false` when none does.
pub(super) fn run<E: Cell>(isa: Isa, c: &Conv, lhs: &[E], rhs: &[E], out: &mut [E], scratch: &mut Scratch) -> bool {
    if fits_forward(c) && c.rhs.dims[1] > 0 {
        forward(isa, c, lhs, rhs, out, scratch);
        return true;
    }
    if fits_filter_gradient(c) && c.lhs.dims[1] * c.rhs.dims[2] * c.rhs.dims[3] > 0 {
        filter_gradient(isa, c, lhs, rhs, out, scratch);
        return true;
    }
    false
}

/// The tiles of a batch of images.
#[derive(Clone, Copy)]
struct Tiles {
    images: usize,
    rows: usize,
    cols: usize,
}

impl Tiles {
    fn new(images: usize, y: usize, x: usize) -> Self {
        Tiles { images, rows: y.div_ceil(TILE), cols: x.div_ceil(TILE) }
    }

    fn count(&self) -> usize {
        self.images * self.rows * self.cols
    }

    /// Image, first row and first column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (line, col) = (tile / self.cols, tile % self.cols);
        (line / self.rows, line % self.rows * TILE, col * TILE)
    }
}

/// A channels-last image: position of the first element, strides of image, row and column, extents.
#[derive(Clone, Copy)]
struct Image {
    base: isize,
    strides: [isize; 3],
    extent: [usize; 2],
}

impl Image {
    /// `batch` is the dimension of the layout that counts images.
    fn new(layout: &girih_ir::types::Layout, batch: usize) -> Self {
        let s = &layout.strides;
        Image { base: layout.base as isize, strides: [s[batch], s[2], s[3]], extent: [layout.dims[2], layout.dims[3]] }
    }

    /// The `size` × `size` patch of an image from position (y, x), which may lie outside.
    fn patch(&self, image: usize, y: isize, x: isize, size: usize) -> Patch {
        let [by_image, row, col] = self.strides;
        let clip = |at: isize, extent: usize| {
            let from = (-at).clamp(0, size as isize);
            [from as usize, (extent as isize - at).clamp(from, size as isize) as usize]
        };
        Patch {
            base: self.base + image as isize * by_image + y * row + x * col,
            row,
            col,
            y: clip(y, self.extent[0]),
            x: clip(x, self.extent[1]),
        }
    }
}

/// Computes a convolution that [`fits_forward`].
fn forward<E: Cell>(isa: Isa, c: &Conv, lhs: &[E], rhs: &[E], out: &mut [E], scratch: &mut Scratch) {
    let [wy, wx] = [c.dims.window[0], c.dims.window[1]];
    let (inputs, outputs) = (c.rhs.dims[1], c.out.dims[1]);
    let (from, to) = (Image::new(&c.lhs, 0), Image::new(&c.out, 0));
    let tiles = Tiles::new(c.out.dims[0], c.out.dims[2], c.out.dims[3]);
    let (count, padded, panels) = (tiles.count(), round_up(inputs, 16), outputs.div_ceil(PANEL));
    let block = BLOCK.min(count);
    let (image_step, product_step) = (spaced(block * padded), spaced(block * PANEL));
    // Planes of a kernel start a line further than their size, as those of images do.
    let plane = spaced(PANEL * DEPTH.min(inputs));
    let kernel_block = POINTS * plane;
    let kept = POINTS * inputs * panels * PANEL * 4 <= KEPT;
    let Scratch { a, b, stage, tile, .. } = scratch;
    let kernel = b.take(kernel_block * if kept { panels * inputs.div_ceil(DEPTH) } else { 1 });
    let (taps, turned) = stage.take(9 * plane + 16 * DEPTH).split_at_mut(9 * plane);
    let (image, products) = (a.take(POINTS * image_step), tile.take(POINTS * product_step));
    let source = |tile: usize| {
        let (n, y, x) = tiles.place(tile);
        from.patch(n, y as isize - wy.pad_low, x as isize - wx.pad_low, REACH)
    };
    let target = |tile: usize, panel: usize| {
        let (n, y, x) = tiles.place(tile);
        let patch = to.patch(n, y as isize, x as isize, TILE);
        Patch { base: patch.base + (panel * PANEL) as isize, ..patch }
    };
    for start in (0..count).step_by(block) {
        let len = block.min(count - start);
        for t in 0..len {
            if start + t + AHEAD < count {
                transform::prefetch(lhs, &source(start + t + AHEAD).fresh(), inputs);
            }
            let patch = source(start + t);
            transform::input(isa, lhs, patch, inputs, image, Points { base: t * padded, step: image_step, panel: PANEL });
        }
        for panel in 0..panels {
            let columns = PANEL.min(outputs - panel * PANEL);
            let lines = columns.div_ceil(16);
            for k in (0..inputs).step_by(DEPTH) {
                let depth = DEPTH.min(inputs - k);
                let place = if kept { panel * inputs.div_ceil(DEPTH) + k / DEPTH } else { 0 };
                let kernel = &mut kernel[place * kernel_block..][..kernel_block];
                if !kept || start == 0 {
                    let of = Block { outputs: panel * PANEL..panel * PANEL + columns, inputs: k..k + depth };
                    gather(isa, c, rhs, &of, (taps, plane), turned);
                    transform::filter(isa, (taps, plane), depth, lines, kernel, plane);
                }
                for point in 0..POINTS {
                    let a = &image[point * image_step + k..][..(len - 1) * padded + depth];
                    let b = &kernel[point * plane..][..depth * PANEL];
                    let product = Product { a, a_row: padded, a_step: 1, b, rows: len, depth, lines, accumulate: k > 0 };
                    transform::product(isa, product, &mut products[point * product_step..][..len * PANEL]);
                }
            }
            for t in 0..len {
                if t + AHEAD < len {
                    transform::prefetch(out, &target(start + t + AHEAD, panel), columns);
                }
                let patch = target(start + t, panel);
                let points = Points { base: t * PANEL, step: product_step, panel: PANEL };
                transform::output(isa, products, points, out, patch, columns, c.accumulate);
            }
        }
    }
}

/// A block of a kernel.
struct Block {
    outputs: Range<usize>,
    inputs: Range<usize>,
}

/// Copies a block of the kernel to nine planes of `[inputs][64]`, reversed where the window is.
fn gather<E: Cell>(isa: Isa, c: &Conv, rhs: &[E], block: &Block, (taps, step): (&mut [f32], usize), turned: &mut [f32]) {
    let s = &c.rhs.strides;
    let (columns, depth) = (block.outputs.len(), block.inputs.len());
    for (tap, plane) in taps.chunks_exact_mut(step).take(9).enumerate() {
        let plane = &mut plane[..depth * PANEL];
        let index = |t: usize, w: &ConvWindow| if w.reverse { 2 - t } else { t } as isize;
        let (y, x) = (index(tap / 3, &c.dims.window[0]), index(tap % 3, &c.dims.window[1]));
        let base = c.rhs.base as isize + y * s[2] + x * s[3] + block.outputs.start as isize * s[0] + block.inputs.start as isize * s[1];
        if s[1] == 1 && s[0] != 1 {
            for lane in (0..columns).step_by(16) {
                let rows = 16.min(columns - lane);
                let at = (base + lane as isize * s[0]) as usize;
                if let Some(plain) = E::plain(rhs) {
                    transpose16(isa, plain, at, s[0], rows, depth, &mut plane[lane..], PANEL);
                    continue;
                }
                for (row, line) in turned.chunks_exact_mut(depth).take(rows).enumerate() {
                    let at = (at as isize + row as isize * s[0]) as usize;
                    convert(isa, &rhs[at..at + depth], line);
                }
                transpose16(isa, turned, 0, depth as isize, rows, depth, &mut plane[lane..], PANEL);
            }
            continue;
        }
        for (k, line) in plane.chunks_exact_mut(PANEL).enumerate() {
            let at = base + k as isize * s[1];
            let (line, rest) = line.split_at_mut(columns);
            rest.fill(0.0);
            if s[0] == 1 {
                convert(isa, &rhs[at as usize..at as usize + columns], line);
                continue;
            }
            for (j, cell) in line.iter_mut().enumerate() {
                let at = (at + j as isize * s[0]) as usize;
                convert(isa, &rhs[at..=at], std::slice::from_mut(cell));
            }
        }
    }
}

/// Computes a convolution that [`fits_filter_gradient`]: the channels of `lhs` and `rhs` are images here, their batches channels.
fn filter_gradient<E: Cell>(isa: Isa, c: &Conv, lhs: &[E], rhs: &[E], out: &mut [E], scratch: &mut Scratch) {
    let [wy, wx] = [c.dims.window[0], c.dims.window[1]];
    let (inputs, outputs) = (c.lhs.dims[0], c.rhs.dims[0]);
    let (image, grads) = (Image::new(&c.lhs, 1), Image::new(&c.rhs, 1));
    let tiles = Tiles::new(c.lhs.dims[1], c.rhs.dims[2], c.rhs.dims[3]);
    let (count, block) = (tiles.count(), SUMMED.min(tiles.count()));
    let (in_panels, out_panels) = (inputs.div_ceil(PANEL), outputs.div_ceil(PANEL));
    let (in_step, out_step) = (spaced(in_panels * block * PANEL), spaced(out_panels * block * PANEL));
    let rows = PANEL.min(inputs);
    let step = spaced(rows * PANEL);
    let once = count <= block;
    let Scratch { a, b, tile, .. } = scratch;
    let sources = |tile: usize| {
        let (n, y, x) = tiles.place(tile);
        (image.patch(n, y as isize - wy.pad_low, x as isize - wx.pad_low, REACH), grads.patch(n, y as isize, x as isize, TILE))
    };
    let (points_in, points_out) = (a.take(POINTS * in_step), b.take(POINTS * out_step));
    let sums = tile.take(POINTS * step * if once { 1 } else { in_panels * out_panels });
    for start in (0..count).step_by(block) {
        let len = block.min(count - start);
        for t in 0..len {
            let to = |step| Points { base: t * PANEL, step, panel: block * PANEL };
            if start + t + AHEAD < count {
                let (patch, grad) = sources(start + t + AHEAD);
                transform::prefetch(lhs, &patch.fresh(), inputs);
                transform::prefetch(rhs, &grad, outputs);
            }
            let (patch, grad) = sources(start + t);
            transform::input(isa, lhs, patch, inputs, points_in, to(in_step));
            transform::gradient(isa, rhs, grad, outputs, points_out, to(out_step));
        }
        for pair in 0..in_panels * out_panels {
            let (i, j) = (pair / out_panels, pair % out_panels);
            let (rows, columns) = (PANEL.min(inputs - i * PANEL), PANEL.min(outputs - j * PANEL));
            let sums = &mut sums[if once { 0 } else { pair * POINTS * step }..][..POINTS * step];
            for point in 0..POINTS {
                let a = &points_in[point * in_step + i * block * PANEL..][..(len - 1) * PANEL + rows];
                let b = &points_out[point * out_step + j * block * PANEL..][..len * PANEL];
                let lines = columns.div_ceil(16);
                let product = Product { a, a_row: 1, a_step: PANEL, b, rows, depth: len, lines, accumulate: start > 0 };
                transform::product(isa, product, &mut sums[point * step..][..rows * PANEL]);
            }
            if start + len == count {
                finish(isa, c, [i * PANEL..i * PANEL + rows, j * PANEL..j * PANEL + columns], sums, step, out);
            }
        }
    }
}

/// Transforms the sums of a block of input channels × output channels to taps.
fn finish<E: Cell>(isa: Isa, c: &Conv, [inputs, outputs]: [Range<usize>; 2], sums: &[f32], step: usize, out: &mut [E]) {
    let s = &c.out.strides;
    for (row, input) in inputs.enumerate() {
        let base = c.out.base as isize + input as isize * s[0] + outputs.start as isize;
        let mut at = [0; 9];
        for (tap, at) in at.iter_mut().enumerate() {
            *at = (base + (tap / 3) as isize * s[2] + (tap % 3) as isize * s[3]) as usize;
        }
        transform::taps(isa, sums, Points { base: row * PANEL, step, panel: PANEL }, out, at, outputs.len(), c.accumulate);
    }
}
