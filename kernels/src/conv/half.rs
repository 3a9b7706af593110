//! Convolution of bf16: products and sums in f32, one rounding.
//!
//! The transformed paths read and write bf16 themselves. For the others the operands are widened into working memory, a few images at a
//! time where that changes no sum, so that the copies stay in the cache.

use super::{Conv, conv, winograd};
use crate::arch::winograd::convert;
use crate::error::KernelError;
use crate::isa::Isa;
use crate::scratch::{Buffer, Scratch};
use ::half::bf16;
use girih_ir::types::Layout;

/// Elements of the input that are widened together.
const CHUNK: usize = 1 << 18;

/// Computes `c` on bf16: as [`conv`](fn@conv) on the widened operands, rounded once to nearest, ties to even.
///
/// # Errors
/// As [`conv`](fn@conv).
pub fn conv_bf16(isa: Isa, c: &Conv, lhs: &[bf16], rhs: &[bf16], out: &mut [bf16], scratch: &mut Scratch) -> Result<(), KernelError> {
    c.check(lhs.len(), rhs.len(), out.len())?;
    if c.out.elements() == 0 || (c.transform && winograd::run(isa, c, lhs, rhs, out, scratch)) {
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
