//! A convolution as contractions: first into phases without input dilation, then each into one contraction a group.

use super::{Conv, ConvWindow};
use crate::gemm::operand::{Axes, Axis, Operand, PLAIN};
use crate::gemm::{Contract, OutStrides};
use crate::isa::Isa;
use crate::scratch::Scratch;
use smallvec::SmallVec;

/// One spatial dimension of a phase: output position `o` and kernel position `t` meet input position `origin + o·stride + t·dilation`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PhaseDim {
    /// Output positions.
    pub outs: usize,
    /// Kernel positions.
    pub taps: usize,
    /// Input extent.
    pub extent: usize,
    /// Input position of output 0 and kernel position 0.
    pub origin: isize,
    /// Input positions between output positions.
    pub stride: isize,
    /// Input positions between kernel positions.
    pub dilation: isize,
    /// Element stride of the input.
    pub lhs: isize,
    /// Element stride of the kernel, negative when it is reversed.
    pub rhs: isize,
    /// Element stride of the output.
    pub out: isize,
}

/// A convolution without input dilation, reversal or layouts: plain strides.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// Spatial dimensions.
    pub dims: SmallVec<[PhaseDim; 3]>,
    /// Groups that do not mix.
    pub groups: usize,
    /// Output batch, in each group.
    pub batch: usize,
    /// Input channels, in each group.
    pub inputs: usize,
    /// Output channels, in each group.
    pub outputs: usize,
    /// Input: position of the first element (of padding, perhaps), strides of group, batch and channel.
    pub lhs: (isize, isize, isize, isize),
    /// Kernel: position of the first element, strides of group, output channel, input channel.
    pub rhs: (isize, isize, isize, isize),
    /// Output: position of the first element, strides of group, batch and channel.
    pub out: (isize, isize, isize, isize),
    /// Whether the sum runs over channels first and over kernel positions inside.
    pub channels_first: bool,
    /// Add to the output.
    pub accumulate: bool,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Output positions after which the alignment with a dilated input repeats, and the kernel positions between two that meet a sample.
pub(super) fn phase_stride(w: &ConvWindow) -> (usize, usize) {
    (w.lhs_dilation / gcd(w.stride, w.lhs_dilation), w.lhs_dilation / gcd(w.rhs_dilation, w.lhs_dilation))
}

/// The phases of one spatial dimension.
type Choices = SmallVec<[(usize, usize, PhaseDim); 4]>;

/// The phases of one spatial dimension: with each, its first output position and its first kernel position.
fn phases_of(c: &Conv, d: usize) -> Choices {
    let w = &c.dims.window[d];
    let (outs, taps, extent) = (c.out.dims[d + 2], c.rhs.dims[d + 2], c.lhs.dims[d + 2]);
    let (every, tap_every) = phase_stride(w);
    let spread = w.lhs_dilation as isize;
    let rhs = c.rhs.strides[d + 2] * if w.reverse { -1 } else { 1 };
    (0..every.min(outs))
        .map(|first| {
            let at = first as isize * w.stride as isize - w.pad_low;
            let tap = (0..tap_every.min(taps)).find(|t| (at + (t * w.rhs_dilation) as isize).rem_euclid(spread) == 0);
            let dim = PhaseDim {
                outs: (outs - first).div_ceil(every),
                taps: tap.map_or(0, |t| (taps - t).div_ceil(tap_every)),
                extent,
                origin: tap.map_or(0, |t| (at + (t * w.rhs_dilation) as isize).div_euclid(spread)),
                stride: (every * w.stride / w.lhs_dilation) as isize,
                dilation: (tap_every * w.rhs_dilation / w.lhs_dilation) as isize,
                lhs: c.lhs.strides[d + 2],
                rhs: rhs * tap_every as isize,
                out: c.out.strides[d + 2] * every as isize,
            };
            (first, tap.unwrap_or(0), dim)
        })
        .collect()
}

/// Calls `run` on every phase. The output is not empty.
pub(super) fn for_each_phase(c: &Conv, run: &mut dyn FnMut(&Phase)) {
    let choices: SmallVec<[Choices; 3]> = (0..c.dims.window.len()).map(|d| phases_of(c, d)).collect();
    let groups = c.dims.feature_groups * c.dims.batch_groups;
    let (batch, outputs) = (c.out.dims[0], c.out.dims[1] / groups);
    let by_features = c.dims.feature_groups > 1;
    let (inputs, lhs_group) = if by_features {
        (c.rhs.dims[1], c.rhs.dims[1] as isize * c.lhs.strides[1])
    } else {
        (c.lhs.dims[1], batch as isize * c.lhs.strides[0])
    };
    let near = (2..c.lhs.dims.len()).filter(|d| c.lhs.dims[*d] > 1).map(|d| c.lhs.strides[d].unsigned_abs()).min();
    let channels_first = near.is_some_and(|near| near < c.lhs.strides[1].unsigned_abs());
    let total: usize = choices.iter().map(|list| list.len()).product();
    for flat in 0..total {
        let (mut rest, mut lhs_at, mut rhs_at, mut out_at) = (flat, c.lhs.base as isize, c.rhs.base as isize, c.out.base as isize);
        let mut dims: SmallVec<[PhaseDim; 3]> = SmallVec::new();
        for (d, list) in choices.iter().enumerate() {
            let (first, tap, dim) = list[rest % list.len()];
            rest /= list.len();
            let tap = if c.dims.window[d].reverse { c.rhs.dims[d + 2] as isize - 1 - tap as isize } else { tap as isize };
            lhs_at += dim.origin * dim.lhs;
            rhs_at += tap * c.rhs.strides[d + 2];
            out_at += first as isize * c.out.strides[d + 2];
            dims.push(dim);
        }
        run(&Phase {
            dims,
            groups,
            batch,
            inputs,
            outputs,
            lhs: (lhs_at, lhs_group, c.lhs.strides[0], c.lhs.strides[1]),
            rhs: (rhs_at, outputs as isize * c.rhs.strides[0], c.rhs.strides[0], c.rhs.strides[1]),
            out: (out_at, outputs as isize * c.out.strides[1], c.out.strides[0], c.out.strides[1]),
            channels_first,
            accumulate: c.accumulate,
        });
    }
}

/// Runs a phase as one contraction a group: (batch, output positions) × (output channels) over (kernel positions, input channels).
pub(super) fn contract(isa: Isa, phase: &Phase, lhs: &[f32], rhs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    let (mut image_rows, mut image_terms, mut kernel_terms) = (Axes::new(), Axes::new(), Axes::new());
    let mut image_out = OutStrides::new();
    let (mut origin, mut extent) = ([0; 3], [1; 3]);
    let channels_first = phase.channels_first;
    if channels_first {
        image_terms.push(Axis::plain(phase.inputs, phase.lhs.3));
        kernel_terms.push(Axis::plain(phase.inputs, phase.rhs.3));
    }
    image_rows.push(Axis::plain(phase.batch, phase.lhs.2));
    image_out.push(phase.out.2);
    for (d, dim) in phase.dims.iter().enumerate() {
        let moves = |size, step: isize| Axis { size, stride: dim.lhs * step, spatial: if size > 1 { d } else { PLAIN }, step };
        image_rows.push(moves(dim.outs, dim.stride));
        image_out.push(dim.out);
        image_terms.push(moves(dim.taps, dim.dilation));
        kernel_terms.push(Axis::plain(dim.taps, dim.rhs));
        (origin[d], extent[d]) = (dim.origin, dim.extent as isize);
    }
    if !channels_first {
        image_terms.push(Axis::plain(phase.inputs, phase.lhs.3));
        kernel_terms.push(Axis::plain(phase.inputs, phase.rhs.3));
    }
    let kernel_rows = Axes::from_slice(&[Axis::plain(phase.outputs, phase.rhs.2)]);
    for group in 0..phase.groups as isize {
        let image = Operand {
            data: lhs,
            base: phase.lhs.0 + group * phase.lhs.1,
            rows: image_rows.clone(),
            terms: image_terms.clone(),
            origin,
            extent,
        };
        let kernel =
            Operand { base: phase.rhs.0 + group * phase.rhs.1, ..Operand::matrix(rhs, 0, kernel_rows.clone(), kernel_terms.clone()) };
        let job = Contract {
            a: image,
            b: kernel,
            out_base: (phase.out.0 + group * phase.out.1) as usize,
            out_a: image_out.clone(),
            out_b: OutStrides::from_slice(&[phase.out.3]),
            alpha: 1.0,
            accumulate: phase.accumulate,
        };
        job.run(isa, out, scratch);
    }
}
