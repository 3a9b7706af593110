//! Convolution of bf16: products and sums in f32, one rounding.
//!
//! With channels innermost, two terms are multiplied an instruction (`pairs`, `pair_filter`), and the transformed paths read and write bf16
//! themselves. For the others the operands are widened into working memory, a few images at a time where that changes no sum, so that the
//! copies stay in the cache.

use super::lower::{Phase, for_each_phase};
use super::{Conv, conv, direct, filter, pair_filter, pairs, winograd};
use crate::arch::line::convert;
use crate::error::KernelError;
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};
use ::half::bf16;
use girih_ir::types::Layout;

/// Elements of the input that are widened together.
const CHUNK: usize = 1 << 18;

/// The path of a phase in pairs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Clear,
    Forward,
    Kernel,
}

/// The paths that a convolution takes in pairs: decided by its layouts and attributes, never by what is cut.
struct Paths {
    straight: bool,
    by_images: bool,
}

impl Paths {
    fn of(c: &Conv) -> Paths {
        Paths { straight: direct::fits(c), by_images: filter::fits(c) }
    }

    fn path(&self, phase: &Phase) -> Option<Path> {
        if self.straight && direct::is_clear(phase) {
            Some(Path::Clear)
        } else if self.by_images && filter::suits(phase) {
            Some(Path::Kernel)
        } else if self.straight && direct::suits(phase) {
            Some(Path::Forward)
        } else {
            None
        }
    }
}

/// Whether [`conv_bf16`] computes this convolution in pairs of terms, unless it transforms it.
pub(super) fn in_pairs(c: &Conv) -> bool {
    let (paths, mut all) = (Paths::of(c), true);
    for_each_phase(&c.without_idle_strides(), &mut |phase| all &= paths.path(phase).is_some());
    all
}

/// Computes `c` on bf16: products of bf16 are exact in f32, sums are made in f32, and the result is rounded once to nearest, ties to even.
///
/// The order of the sums is that of [`conv`](fn@conv), but where channels lie innermost in memory: there, terms go in pairs of input channels
/// (for gradients of kernels, of positions) as in [`gemm_bf16`](crate::gemm::gemm_bf16), with its remark on sums below 2⁻¹²⁶.
///
/// # Errors
/// As [`conv`](fn@conv).
pub fn conv_bf16(isa: Isa, c: &Conv, lhs: &[bf16], rhs: &[bf16], out: &mut [bf16], scratch: &mut Scratch) -> Result<(), KernelError> {
    c.check(lhs.len(), rhs.len(), out.len())?;
    if c.out.elements() == 0 || (c.transform && winograd::run(isa, c, lhs, rhs, out, scratch)) {
        return Ok(());
    }
    if in_pairs(c) {
        let paths = Paths::of(c);
        for_each_phase(&c.without_idle_strides(), &mut |phase| match paths.path(phase) {
            Some(Path::Forward) => pairs::run(isa, phase, lhs, rhs, out, scratch),
            Some(Path::Kernel) => pair_filter::run(isa, phase, lhs, rhs, out, scratch),
            Some(Path::Clear) | None => direct::clear(phase, out),
        });
        return Ok(());
    }
    let mut kernel = std::mem::take(&mut scratch.wide);
    let rhs_layout = widen(isa, &c.rhs, rhs, &mut kernel[1]);
    let whole = Conv { rhs: rhs_layout, ..c.clone() };
    let batch = c.out.dims[0];
    let each = if images_are_apart(c) { (CHUNK * batch / c.lhs.elements().max(1)).clamp(1, batch) } else { batch };
    let mut result = Ok(());
    for start in (0..batch).step_by(each) {
        let mut part = if each == batch { whole.clone() } else { whole.narrowed(0, start, each.min(batch - start)) };
        let to = part.out.clone();
        part.lhs = widen(isa, &part.lhs, lhs, &mut kernel[0]);
        part.out = if c.accumulate { widen(isa, &to, out, &mut kernel[2]) } else { rebased(&to, &mut kernel[2]) };
        let [a, b, sums] = &mut kernel;
        result = result.and(conv(isa, &part, a.held(), b.held(), sums.all(), scratch));
        each_run(&to, |at, len| {
            let from = at - (to.base - part.out.base);
            convert(isa, &sums.held()[from..from + len], &mut out[at..at + len]);
        });
    }
    scratch.wide = kernel;
    result
}

/// The same with the sums as they are, in the order of [`conv`](fn@conv): a part of a sum that others go on with.
///
/// # Errors
/// As [`conv`](fn@conv).
pub fn conv_bf16_sums(isa: Isa, c: &Conv, lhs: &[bf16], rhs: &[bf16], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
    c.check(lhs.len(), rhs.len(), out.len())?;
    let mut wide = std::mem::take(&mut scratch.wide);
    let [a, b, _] = &mut wide;
    let whole = Conv { lhs: widen(isa, &c.lhs, lhs, a), rhs: widen(isa, &c.rhs, rhs, b), ..c.clone() };
    let result = conv(isa, &whole, a.held(), b.held(), out, scratch);
    scratch.wide = wide;
    result
}

/// Whether a range of images is a range of memory, so that cutting the batch widens nothing twice.
fn images_are_apart(c: &Conv) -> bool {
    let reach = c.lhs.dims.iter().zip(&c.lhs.strides).skip(1).map(|(d, s)| d.saturating_sub(1) * s.unsigned_abs()).sum::<usize>();
    c.dims.batch_groups == 1 && reach < c.lhs.strides[0].unsigned_abs().max(1)
}

/// The layout of a copy of its extent, and room for that.
fn rebased(layout: &Layout, to: &mut Buffer) -> Layout {
    let range = layout.extent().filter(|_| layout.elements() > 0).unwrap_or(layout.base..layout.base);
    to.take(range.len());
    Layout { base: layout.base - range.start, ..layout.clone() }
}

/// Copies the extent of a layout to f32; the layout of the copy.
fn widen(isa: Isa, layout: &Layout, from: &[bf16], to: &mut Buffer) -> Layout {
    let copy = rebased(layout, to);
    let range = layout.extent().filter(|_| layout.elements() > 0).unwrap_or(0..0);
    convert(isa, &from[range.clone()], to.take(range.len()));
    copy
}

/// Calls `run` on runs of neighboring elements that make up a layout: position of the first, length.
fn each_run(layout: &Layout, mut run: impl FnMut(usize, usize)) {
    if let Some(range) = layout.extent().filter(|r| r.len() == layout.elements()) {
        return run(range.start, range.len());
    }
    let dims = &layout.dims;
    let inner = (0..dims.len()).find(|d| dims[*d] > 1 && layout.strides[*d] == 1);
    let outer: smallvec::SmallVec<[usize; 5]> = (0..dims.len()).filter(|d| Some(*d) != inner).collect();
    let len = inner.map_or(1, |d| dims[d]);
    for flat in 0..layout.elements() / len.max(1) {
        let (mut rest, mut at) = (flat, layout.base as isize);
        for d in outer.iter().rev() {
            at += (rest % dims[*d]) as isize * layout.strides[*d];
            rest /= dims[*d];
        }
        run(at as usize, len);
    }
}
