//! One dimension of a sliding window: the index arithmetic that convolution, pooling and their derivatives share.
//!
//! Result position `o` and window position `k` look at base position `o·stride + k·window_dilation − pad_low`, which is element
//! `base / base_dilation` of the operand when that is a whole number inside it, and padding otherwise.

use crate::axes::DimUse;

/// One dimension of a sliding window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowDim {
    /// Extent of the operand.
    pub extent: usize,
    /// Elements of the window.
    pub window: usize,
    /// Step between neighboring results, in base positions.
    pub stride: usize,
    /// Padding before the first base position; negative crops.
    pub pad_low: i64,
    /// Padding after the last base position; negative crops.
    pub pad_high: i64,
    /// Distance between neighboring operand elements, in base positions.
    pub base_dilation: usize,
    /// Distance between neighboring window elements, in base positions.
    pub window_dilation: usize,
    /// Whether window element `k` lies at window position `window − 1 − k`.
    pub reverse: bool,
}

/// No base position may be further away than this, so that index arithmetic cannot overflow.
const FARTHEST: i128 = 1 << 40;

/// Base positions that `count` elements with this dilation cover.
fn spread(count: usize, dilation: usize) -> i128 {
    if count == 0 { 0 } else { (count as i128 - 1) * dilation as i128 + 1 }
}

impl WindowDim {
    /// Number of results; `None` when a stride or dilation is 0 or a number is absurdly large.
    pub fn results(&self) -> Option<usize> {
        if self.stride == 0 || self.base_dilation == 0 || self.window_dilation == 0 {
            return None;
        }
        let (base, window) = (spread(self.extent, self.base_dilation), spread(self.window, self.window_dilation));
        let (low, high, stride) = (self.pad_low as i128, self.pad_high as i128, self.stride as i128);
        if [base, window, low.abs(), high.abs(), stride].into_iter().any(|v| v > FARTHEST) {
            return None;
        }
        let padded = base + low + high;
        Some(if padded <= 0 || window > padded { 0 } else { ((padded - window) / stride) as usize + 1 })
    }

    /// The operand element that window element `k` of result `o` sees; `None` is padding.
    pub fn source(&self, o: usize, k: usize) -> Option<usize> {
        let k = if self.reverse { self.window - 1 - k } else { k };
        let base = o as i64 * self.stride as i64 + k as i64 * self.window_dilation as i64 - self.pad_low;
        let dilation = self.base_dilation as i64;
        (base >= 0 && base % dilation == 0 && base / dilation < self.extent as i64).then_some((base / dilation) as usize)
    }

    /// Whether the window is one element wide and leaves the dimension as it is.
    pub fn is_identity(&self) -> bool {
        self.window == 1 && self.stride == 1 && self.pad_low == 0 && self.pad_high == 0 && self.base_dilation == 1
    }

    /// How the operand's dimension moves with the loop over results.
    pub fn dim_use(&self, loop_dim: usize) -> DimUse {
        if self.is_identity() {
            return DimUse::Loop(loop_dim);
        }
        DimUse::Window {
            loop_dim,
            stride: self.stride as i64,
            offset: -self.pad_low,
            size: spread(self.window, self.window_dilation) as i64,
            dilation: self.base_dilation as i64,
        }
    }

    /// The window over the results whose sums are the derivative by the operand.
    pub fn operand_adjoint(&self, results: usize) -> WindowDim {
        let reach = spread(self.window, self.window_dilation) as i64 - 1;
        let pad_low = reach - self.pad_low;
        let need = spread(self.extent, self.base_dilation) as i64 + reach;
        WindowDim {
            extent: results,
            window: self.window,
            stride: self.base_dilation,
            pad_low,
            pad_high: need - spread(results, self.stride) as i64 - pad_low,
            base_dilation: self.stride,
            window_dilation: self.window_dilation,
            reverse: !self.reverse,
        }
    }

    /// The window over the operand, as wide as the results are many, whose sums are the derivative by the window's weights
    /// (in window-position order: reversed windows come out reversed).
    pub fn weight_adjoint(&self, results: usize) -> WindowDim {
        let need = spread(self.window, self.window_dilation) as i64 - 1 + spread(results, self.stride) as i64;
        WindowDim {
            extent: self.extent,
            window: results,
            stride: self.window_dilation,
            pad_low: self.pad_low,
            pad_high: need - spread(self.extent, self.base_dilation) as i64 - self.pad_low,
            base_dilation: self.base_dilation,
            window_dilation: self.stride,
            reverse: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjoints_have_the_extents_of_what_they_differentiate() {
        for extent in 1..9 {
            for (window, stride, low, high, base, dilation) in
                [(3, 2, 1, 1, 1, 1), (2, 3, 0, 2, 1, 2), (3, 1, -1, -1, 2, 1), (1, 2, 2, 0, 3, 1)]
            {
                let w = WindowDim {
                    extent,
                    window,
                    stride,
                    pad_low: low,
                    pad_high: high,
                    base_dilation: base,
                    window_dilation: dilation,
                    reverse: false,
                };
                let n = w.results().unwrap();
                if n == 0 {
                    continue;
                }
                assert_eq!(w.operand_adjoint(n).results(), Some(extent), "{w:?}");
                assert_eq!(w.weight_adjoint(n).results(), Some(window), "{w:?}");
                for o in 0..n {
                    for k in 0..window {
                        if let Some(i) = w.source(o, k) {
                            assert_eq!(w.operand_adjoint(n).source(i, k), Some(o), "{w:?} {o} {k}");
                            assert_eq!(w.weight_adjoint(n).source(k, o), Some(i), "{w:?} {o} {k}");
                        }
                    }
                }
            }
        }
    }
}
