//! Convolution in one to three spatial dimensions, with StableHLO's semantics, over strided views of any dimension order.
//!
//! The gradients of a convolution are convolutions with other attributes (dilated input and reversed kernel for the input's,
//! batch and features exchanged for the kernel's), so this is one operation with every attribute, and all of them take the fast path:
//! channels innermost in memory (`direct`, `filter`): straight from the image, without products with padding; many small groups
//! (`grouped`): 16 groups side by side; anything else (`lower`): the blocked contraction under [`gemm`](mod@crate::gemm), with im2col
//! inside the packing. A dilated input is cut into phases first, so that its zeros are never multiplied.
//! With [`Conv::transform`], 3×3 kernels of stride 1 go through Winograd's transform instead (`winograd`).
//!
//! **Numerical contract.** An output element sums its terms in the order (kernel positions row-major, input channels innermost), or
//! (input channels, kernel positions innermost) when the positions of `lhs` lie closer together in memory than its channels;
//! in blocks of [`KC`](crate::gemm::KC) as GEMM does. Gradients of kernels in channels-last layouts, where "input channels" are images, take these
//! outermost, in blocks of whole rows of positions. Kernel positions that fall between the samples of a dilated input are no terms;
//! those that fall into the padding are terms with the value 0 or none. Which path a convolution takes depends on its layouts and attributes
//! only, never on what is cut: the bits depend neither on the instruction set nor on the cutting of batch,
//! output channels or output positions into calls. Transformed convolutions have a contract of their own, see [`winograd_pays`].

mod direct;
mod filter;
mod grouped;
mod half;
mod lower;
mod pair_filter;
#[cfg(test)]
mod pair_tests;
mod pairs;
mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transform_tests;
mod winograd;

pub use half::{conv_bf16, conv_bf16_sums};
pub use reference::conv_reference;

use crate::error::{KernelError, check_bounds, check_output};
use crate::gemm::narrow;
use crate::isa::Isa;
use crate::scratch::Scratch;
use girih_ir::types::Layout;
use smallvec::SmallVec;

/// The attributes of one spatial dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConvWindow {
    /// Distance between output positions, in (dilated) input positions; at least 1.
    pub stride: usize,
    /// Zeros before the input; negative crops.
    pub pad_low: isize,
    /// Zeros after the input; negative crops.
    pub pad_high: isize,
    /// Distance between neighbors of the input, with zeros between; at least 1.
    pub lhs_dilation: usize,
    /// Distance between neighbors of the kernel; at least 1.
    pub rhs_dilation: usize,
    /// Whether the kernel is read backwards.
    pub reverse: bool,
}

impl Default for ConvWindow {
    fn default() -> Self {
        ConvWindow { stride: 1, pad_low: 0, pad_high: 0, lhs_dilation: 1, rhs_dilation: 1, reverse: false }
    }
}

/// The attributes of a convolution.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConvDims {
    /// One entry a spatial dimension, one to three of them.
    pub window: SmallVec<[ConvWindow; 3]>,
    /// Input channels and output channels are cut into this many groups that do not mix.
    pub feature_groups: usize,
    /// The batch and the output channels are cut into this many groups; the result's batch is that of one group.
    pub batch_groups: usize,
}

impl ConvDims {
    /// Attributes without groups.
    pub fn new(window: &[ConvWindow]) -> Self {
        ConvDims { window: SmallVec::from_slice(window), feature_groups: 1, batch_groups: 1 }
    }
}

/// A convolution: `lhs` is `[n, c_in, spatial…]`, `rhs` is `[c_out, c_in / feature_groups, spatial…]`, `out` is
/// `[n / batch_groups, c_out, spatial…]`; the strides of the layouts give any other order in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conv {
    /// Layout of the input.
    pub lhs: Layout,
    /// Layout of the kernel.
    pub rhs: Layout,
    /// Layout of the result.
    pub out: Layout,
    /// The attributes.
    pub dims: ConvDims,
    /// Add to the output instead of replacing it.
    pub accumulate: bool,
    /// Let 3×3 kernels be multiplied in a transformed domain where that is possible: another rounding (see [`winograd_pays`]), fewer products.
    pub transform: bool,
}

/// Whether [`Conv::transform`] makes this convolution faster: Winograd's F(4×4, 3×3), for stride 1 and channels innermost in memory, and
/// its transpose for the gradient of such a kernel.
///
/// The error is about three times that of the direct sum in the root mean square, and is bounded by the largest products of a 6 × 6 patch instead
/// of those of one output; one infinity makes a whole patch NaN. The answer, and the bits of a transformed convolution, do not change when
/// batch or output channels (for the gradient of a kernel: input or output channels) are cut into calls; positions of the output are cut at
/// multiples of [`TRANSFORM_TILE`], those of a kernel's gradient not at all.
pub fn winograd_pays(c: &Conv) -> bool {
    winograd::pays(c)
}

/// As [`winograd_pays`], for bf16: the direct sum is twice as fast there, so that images much smaller than their kernel are not transformed.
pub fn winograd_pays_bf16(c: &Conv) -> bool {
    let small = winograd::fits_forward(c) && c.lhs.dims[2] * c.lhs.dims[3] * 8 < c.rhs.dims[1];
    !small && winograd::pays(c)
}

/// Output positions that a transformed convolution computes together along each spatial dimension.
pub const TRANSFORM_TILE: usize = crate::arch::winograd::TILE;

/// Largest magnitude of a stride, a dilation or a padding.
const LIMIT: usize = 1 << 24;

fn dilated(extent: usize, dilation: usize) -> i128 {
    if extent == 0 { 0 } else { (extent as i128 - 1) * dilation as i128 + 1 }
}

impl ConvWindow {
    /// Output positions for an input and a kernel of these extents.
    pub fn out_extent(&self, lhs: usize, rhs: usize) -> usize {
        let padded = dilated(lhs, self.lhs_dilation.max(1)) + self.pad_low as i128 + self.pad_high as i128;
        let kernel = dilated(rhs, self.rhs_dilation.max(1));
        if padded <= 0 || kernel > padded { 0 } else { ((padded - kernel) / self.stride.max(1) as i128 + 1) as usize }
    }

    /// The window that computes output positions `[start, start + len)` alone.
    fn narrowed(&self, lhs: usize, rhs: usize, start: usize, len: usize) -> ConvWindow {
        let pad_low = self.pad_low - (start * self.stride) as isize;
        let used = (len.max(1) as i128 - 1) * self.stride as i128 + dilated(rhs, self.rhs_dilation);
        let pad_high = (used - dilated(lhs, self.lhs_dilation)) as isize - pad_low;
        ConvWindow { pad_low, pad_high, ..*self }
    }

    fn check(&self) -> Result<(), KernelError> {
        let at_least_one = [("stride", self.stride), ("lhs_dilation", self.lhs_dilation), ("rhs_dilation", self.rhs_dilation)];
        for (name, value) in at_least_one {
            if value == 0 || value > LIMIT {
                return Err(KernelError::Attribute { name, value: value as i64, rule: "it has to be from 1 to 2^24" });
            }
        }
        Ok(())
    }
}

impl Conv {
    /// Floating-point operations that contribute: two for each term that is not between the samples of a dilated input.
    pub fn flops(&self) -> u64 {
        let per_phase = self.dims.window.iter().map(|w| lower::phase_stride(w).1 as u64).product::<u64>();
        2 * self.out.elements() as u64 * self.rhs.dims[1..].iter().map(|d| *d as u64).product::<u64>() / per_phase.max(1)
    }

    /// Checks attributes, extents and layouts against slices of these lengths.
    pub fn check(&self, lhs_len: usize, rhs_len: usize, out_len: usize) -> Result<(), KernelError> {
        let rank = self.dims.window.len() + 2;
        if !(3..=5).contains(&rank) {
            let value = self.dims.window.len() as i64;
            return Err(KernelError::Attribute { name: "window", value, rule: "it has to have 1 to 3 spatial dimensions" });
        }
        self.dims.window.iter().try_for_each(ConvWindow::check)?;
        let shape = |what, operand, have: &[usize], want: &[usize]| {
            if have == want { Ok(()) } else { Err(KernelError::Shape { what, operand, have: have.to_vec(), want: want.to_vec() }) }
        };
        for (operand, layout) in [("lhs", &self.lhs), ("rhs", &self.rhs), ("out", &self.out)] {
            shape("rank is 2 plus the spatial dimensions", operand, &[layout.dims.len()], &[rank])?;
        }
        let (features, batches) = (self.dims.feature_groups, self.dims.batch_groups);
        if features == 0 || batches == 0 || (features > 1 && batches > 1) {
            let value = features.min(batches) as i64;
            return Err(KernelError::Attribute {
                name: "groups",
                value,
                rule: "feature and batch groups are at least 1, and one of them is 1",
            });
        }
        let (lhs, rhs) = (&self.lhs.dims, &self.rhs.dims);
        if lhs[0] % batches != 0 || lhs[1] % features != 0 || rhs[0] % (features * batches) != 0 {
            let value = (features * batches) as i64;
            return Err(KernelError::Attribute { name: "groups", value, rule: "they have to divide the batch or the channels they cut" });
        }
        shape("rhs is [c_out, c_in / feature_groups, …]", "rhs", &rhs[1..2], &[lhs[1] / features])?;
        let spatial = self.dims.window.iter().enumerate().map(|(d, w)| w.out_extent(lhs[d + 2], rhs[d + 2]));
        let want: Vec<usize> = [lhs[0] / batches, rhs[0]].into_iter().chain(spatial).collect();
        shape("out is [n / batch_groups, c_out, spatial…]", "out", &self.out.dims, &want)?;
        for (d, w) in self.dims.window.iter().enumerate() {
            let reach = [w.pad_low.unsigned_abs(), w.pad_high.unsigned_abs()];
            if self.out.dims[d + 2] > 0 && reach.iter().any(|r| *r > LIMIT) {
                let value = w.pad_low.max(w.pad_high) as i64;
                return Err(KernelError::Attribute { name: "padding", value, rule: "its magnitude is at most 2^24" });
            }
        }
        check_bounds("lhs", &self.lhs, lhs_len)?;
        check_bounds("rhs", &self.rhs, rhs_len)?;
        check_output(&self.out, out_len)
    }

    /// Cuts the convolution into `parts` lists of convolutions over nearly equal ranges of the output, outermost in memory first.
    ///
    /// Computing all of them gives the bits of the whole; when `out` is dense in some dimension order, the lists write disjoint
    /// contiguous slices, in order. Lists may be empty.
    pub fn split(&self, parts: usize) -> Vec<Vec<Conv>> {
        let parts = parts.max(1);
        let axes = self.split_axes(parts);
        let rows: usize = axes.iter().map(|a| a.1).product();
        (0..parts)
            .map(|part| {
                let mut list = Vec::new();
                self.rows(&axes, rows * part / parts, rows * (part + 1) / parts, &mut list);
                list
            })
            .collect()
    }

    /// Output dimensions that may be cut, outermost in memory first, each with its extent in cuttable units.
    fn split_axes(&self, parts: usize) -> SmallVec<[(usize, usize); 5]> {
        let mut order: SmallVec<[usize; 5]> = (0..self.out.dims.len()).filter(|d| self.out.dims[*d] != 1).collect();
        order.sort_by_key(|d| std::cmp::Reverse(self.out.strides[*d].unsigned_abs()));
        let groups = self.dims.feature_groups * self.dims.batch_groups;
        let (mut axes, mut rows) = (SmallVec::new(), 1usize);
        for dim in order {
            if rows >= 8 * parts || (dim == 0 && self.dims.batch_groups > 1) || (dim >= 2 && self.transform) {
                break;
            }
            let units = if dim == 1 && groups > 1 { groups } else { self.out.dims[dim] };
            axes.push((dim, units));
            rows *= units;
            if units != self.out.dims[dim] {
                break;
            }
        }
        axes
    }

    fn rows(&self, axes: &[(usize, usize)], start: usize, end: usize, list: &mut Vec<Conv>) {
        if start >= end {
            return;
        }
        let Some(((dim, _), rest)) = axes.split_first() else {
            return list.push(self.clone());
        };
        let inner: usize = rest.iter().map(|a| a.1).product();
        let (first, last) = (start.div_ceil(inner), end / inner);
        if first > last {
            return self.narrowed(*dim, last, 1).rows(rest, start - last * inner, end - last * inner, list);
        }
        if start < first * inner {
            self.narrowed(*dim, first - 1, 1).rows(rest, start - (first - 1) * inner, inner, list);
        }
        if first < last {
            list.push(self.narrowed(*dim, first, last - first));
        }
        if last * inner < end {
            self.narrowed(*dim, last, 1).rows(rest, 0, end - last * inner, list);
        }
    }

    /// The convolution with strides of 0 where an extent leaves nothing to step over.
    fn without_idle_strides(&self) -> Conv {
        let mut c = self.clone();
        for layout in [&mut c.lhs, &mut c.rhs, &mut c.out] {
            for (stride, extent) in layout.strides.iter_mut().zip(&layout.dims) {
                if *extent <= 1 {
                    *stride = 0;
                }
            }
        }
        c
    }

    /// Units `[start, start + len)` of one output dimension.
    fn narrowed(&self, dim: usize, start: usize, len: usize) -> Conv {
        let mut c = self.clone();
        let (features, batches) = (self.dims.feature_groups, self.dims.batch_groups);
        let unit = if dim == 1 { self.out.dims[1] / (features * batches) } else { 1 };
        match dim {
            0 => narrow(&mut c.lhs, 0, start, len),
            1 if features * batches == 1 => {
                narrow(&mut c.rhs, 0, start, len);
                narrow(&mut c.out, 1, start, len);
                return c;
            }
            1 => {
                let (grouped, groups) = if features > 1 { (1, features) } else { (0, batches) };
                let each = self.lhs.dims[grouped] / groups;
                narrow(&mut c.lhs, grouped, start * each, len * each);
                narrow(&mut c.rhs, 0, start * unit, len * unit);
                if features > 1 {
                    c.dims.feature_groups = len;
                } else {
                    c.dims.batch_groups = len;
                }
            }
            _ => {
                let d = dim - 2;
                c.dims.window[d] = self.dims.window[d].narrowed(self.lhs.dims[dim], self.rhs.dims[dim], start, len);
            }
        }
        narrow(&mut c.out, dim, start * unit, len * unit);
        c
    }
}

/// Computes `c` on f32.
///
/// # Errors
/// [`KernelError`] when attributes and extents do not fit together or a layout leaves its slice; nothing is written then.
pub fn conv(isa: Isa, c: &Conv, lhs: &[f32], rhs: &[f32], out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
    c.check(lhs.len(), rhs.len(), out.len())?;
    if c.out.elements() == 0 {
        return Ok(());
    }
    if c.transform && winograd::run(isa, c, lhs, rhs, out, scratch) {
        return Ok(());
    }
    let (straight, by_images) = (direct::fits(c), filter::fits(c));
    let c = c.without_idle_strides();
    lower::for_each_phase(&c, &mut |phase| {
        if grouped::suits(phase) {
            grouped::run(isa, phase, lhs, rhs, out, scratch);
        } else if straight && direct::is_clear(phase) {
            direct::clear(phase, out);
        } else if by_images && filter::suits(phase) {
            filter::run(isa, phase, lhs, rhs, out, scratch);
        } else if straight && direct::suits(phase) {
            direct::run(isa, phase, lhs, rhs, out, scratch);
        } else {
            lower::contract(isa, phase, lhs, rhs, out, scratch);
        }
    });
    Ok(())
}
