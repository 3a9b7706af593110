//! The definition of convolution as plain loops, for every element type.

use super::Conv;
use crate::element::Element;
use crate::error::KernelError;
use girih_ir::types::Layout;
use smallvec::SmallVec;

type Index = SmallVec<[usize; 5]>;

/// Advances a row-major index; false after the last.
fn advance(index: &mut Index, dims: &[usize]) -> bool {
    for d in (0..dims.len()).rev() {
        index[d] += 1;
        if index[d] < dims[d] {
            return true;
        }
        index[d] = 0;
    }
    false
}

fn position(l: &Layout, index: &[usize]) -> usize {
    (l.base as isize + index.iter().zip(&l.strides).map(|(i, s)| *i as isize * s).sum::<isize>()) as usize
}

/// Computes `c` on any element type, portably and slowly.
///
/// Terms that fall into the padding or between the samples of a dilated input are skipped. Floats of 16 bits and fewer accumulate in f32 and
/// are rounded once, or not at all where the result is f32; integers wrap.
///
/// # Errors
/// As [`conv`](fn@super::conv).
pub fn conv_reference<T: Element, O: Element<Sum = T::Sum>>(c: &Conv, lhs: &[T], rhs: &[T], out: &mut [O]) -> Result<(), KernelError> {
    c.check(lhs.len(), rhs.len(), out.len())?;
    if c.out.elements() == 0 {
        return Ok(());
    }
    let mut index = Index::from_elem(0, c.out.dims.len());
    loop {
        let sum = if c.rhs.elements() == 0 { T::ZERO } else { sum_at(c, &index, lhs, rhs) };
        let place = position(&c.out, &index);
        out[place] = O::round(if c.accumulate { T::add(out[place].widen(), sum) } else { sum });
        if !advance(&mut index, &c.out.dims) {
            return Ok(());
        }
    }
}

/// The sum of one output element; the kernel is not empty.
fn sum_at<T: Element>(c: &Conv, out: &[usize], lhs: &[T], rhs: &[T]) -> T::Sum {
    let groups = c.dims.feature_groups * c.dims.batch_groups;
    let group = out[1] / (c.out.dims[1] / groups);
    let (batch, channels) = if c.dims.batch_groups > 1 { (group * c.out.dims[0] + out[0], 0) } else { (out[0], group * c.rhs.dims[1]) };
    let taps = &c.rhs.dims[2..];
    let mut tap = Index::from_elem(0, taps.len());
    let mut sum = T::ZERO;
    loop {
        let mut at = Index::from_slice(&[batch, channels]);
        for (d, w) in c.dims.window.iter().enumerate() {
            let raw = (out[d + 2] * w.stride + tap[d] * w.rhs_dilation) as isize - w.pad_low;
            let spread = w.lhs_dilation as isize;
            if raw >= 0 && raw % spread == 0 && raw / spread < c.lhs.dims[d + 2] as isize {
                at.push((raw / spread) as usize);
            }
        }
        if at.len() == out.len() {
            let mut from = Index::from_slice(&[out[1], 0]);
            from.extend(tap.iter().enumerate().map(|(d, t)| if c.dims.window[d].reverse { taps[d] - 1 - t } else { *t }));
            for channel in 0..c.rhs.dims[1] {
                at[1] = channels + channel;
                from[1] = channel;
                sum = T::mul_add(lhs[position(&c.lhs, &at)], rhs[position(&c.rhs, &from)], sum);
            }
        }
        if !advance(&mut tap, taps) {
            return sum;
        }
    }
}
