//! Convolutions of bf16 in pairs of terms: the stated order of sums to the bit, on every instruction set, however they are cut.

use super::tests::{channels_last, swapped};
use super::{Conv, ConvDims, ConvWindow, conv_bf16, half};
use crate::gemm::tests::{Rng, indices, position};
use crate::{Isa, Scratch};
use ::half::bf16;
use girih_ir::types::Layout;

struct Case {
    conv: Conv,
    lhs: Vec<bf16>,
    rhs: Vec<bf16>,
    out: Vec<bf16>,
}

fn filled(rng: &mut Rng, conv: Conv) -> Case {
    let mut noise = |l: &Layout| (0..l.elements() + l.base).map(|_| bf16::from_f32(rng.unit())).collect::<Vec<_>>();
    let [lhs, rhs, out] = [&conv.lhs, &conv.rhs, &conv.out].map(&mut noise);
    Case { conv, lhs, rhs, out }
}

/// A kernel `[outputs, inputs, y, x]` whose innermost dimension is the outputs or the inputs.
fn kernel(outputs: usize, inputs: usize, size: [usize; 2], by_outputs: bool) -> Layout {
    let mut layout = Layout::dense(&[outputs, inputs, size[0], size[1]]);
    let step = (inputs * outputs) as isize;
    let [o, i] = if by_outputs { [1, outputs as isize] } else { [inputs as isize, 1] };
    layout.strides = [o, i, size[1] as isize * step, step].as_slice().into();
    layout
}

/// A convolution with channels innermost, forward or of the kind of a gradient of the input.
fn forward(rng: &mut Rng) -> Option<Case> {
    let [h, w, ky, kx] = [rng.pick(&[1, 4, 5, 9, 17]), rng.pick(&[1, 4, 7, 16]), rng.pick(&[1, 3]), rng.pick(&[1, 2, 3])];
    let mut window = || ConvWindow {
        stride: rng.pick(&[1, 1, 2]),
        pad_low: rng.pick(&[0, 1, 1, 2, -1]),
        pad_high: rng.pick(&[0, 1, 2]),
        lhs_dilation: rng.pick(&[1, 1, 2, 3]),
        rhs_dilation: rng.pick(&[1, 1, 2]),
        reverse: rng.below(2) == 0,
    };
    let [wy, wx] = [window(), window()];
    let (y, x) = (wy.out_extent(h, ky), wx.out_extent(w, kx));
    let (batch, inputs, outputs) = (rng.pick(&[1, 2, 9]), rng.pick(&[1, 2, 3, 6, 17, 40]), rng.pick(&[1, 5, 16, 33, 70]));
    if batch * y * x * inputs * outputs == 0 || batch * y * x * inputs * outputs * ky * kx > 2_000_000 {
        return None;
    }
    let by_outputs = rng.below(2) == 0;
    let conv = Conv {
        lhs: channels_last(&[batch, inputs, h, w]).0,
        rhs: kernel(outputs, inputs, [ky, kx], by_outputs),
        out: channels_last(&[batch, outputs, y, x]).0,
        dims: ConvDims::new(&[wy, wx]),
        accumulate: rng.below(3) == 0,
        transform: false,
    };
    Some(filled(rng, conv))
}

/// The gradient of a kernel with channels innermost.
fn gradient(rng: &mut Rng) -> Option<Case> {
    let [h, w] = [rng.pick(&[1, 4, 7, 20]), rng.pick(&[1, 4, 9, 20])];
    let [ky, kx] = [rng.pick(&[1, 3]), rng.pick(&[1, 3, 5])];
    let mut window = || ConvWindow {
        stride: rng.pick(&[1, 1, 2]),
        pad_low: rng.pick(&[0, 1, 2]),
        pad_high: rng.pick(&[0, 1, 2]),
        ..ConvWindow::default()
    };
    let [fy, fx] = [window(), window()];
    let (y, x) = (fy.out_extent(h, ky), fx.out_extent(w, kx));
    let (batch, inputs, outputs) = (rng.pick(&[1, 3, 20]), rng.pick(&[1, 2, 3, 7, 16, 70]), rng.pick(&[1, 6, 32, 33, 65]));
    if batch * y * x * inputs * outputs == 0 || batch * y * x * inputs * outputs * ky * kx > 2_000_000 {
        return None;
    }
    // What is left of the image where the last stride does not reach its end is cropped.
    let turn = |f: ConvWindow, extent: usize, size: usize, outs: usize| {
        let used = (outs - 1) * f.stride + size;
        let pad_high = used as isize - extent as isize - f.pad_low;
        ConvWindow { stride: 1, rhs_dilation: f.stride, pad_low: f.pad_low, pad_high, ..ConvWindow::default() }
    };
    let conv = Conv {
        lhs: swapped(&channels_last(&[batch, inputs, h, w]).0),
        rhs: swapped(&channels_last(&[batch, outputs, y, x]).0),
        out: swapped(&kernel(outputs, inputs, [ky, kx], true)),
        dims: ConvDims::new(&[turn(fy, h, ky, y), turn(fx, w, kx, x)]),
        accumulate: rng.below(3) == 0,
        transform: false,
    };
    Some(filled(rng, conv))
}

/// Where output position `o` and kernel position `k` meet the image: `None` between samples, `Some(None)` in the padding.
fn meets(w: &ConvWindow, o: usize, k: usize, extent: usize) -> Option<Option<usize>> {
    let at = (o * w.stride + k * w.rhs_dilation) as isize - w.pad_low;
    if at.rem_euclid(w.lhs_dilation as isize) != 0 {
        return None;
    }
    let cell = at.div_euclid(w.lhs_dilation as isize);
    Some(usize::try_from(cell).ok().filter(|c| *c < extent))
}

fn pair(terms: [Option<(f32, f32)>; 2], sum: f32) -> f32 {
    terms.into_iter().rev().flatten().fold(sum, |sum, (a, b)| a.mul_add(b, sum))
}

/// One output of a forward convolution.
fn forward_sum(case: &Case, o: &[usize]) -> f32 {
    let c = &case.conv;
    let [wy, wx] = [c.dims.window[0], c.dims.window[1]];
    let mut sum = 0.0;
    for (ky, kx) in (0..c.rhs.dims[2]).flat_map(|y| (0..c.rhs.dims[3]).map(move |x| (y, x))) {
        let (Some(Some(y)), Some(Some(x))) = (meets(&wy, o[2], ky, c.lhs.dims[2]), meets(&wx, o[3], kx, c.lhs.dims[3])) else { continue };
        let turned = |k: usize, w: &ConvWindow, d: usize| if w.reverse { c.rhs.dims[d] - 1 - k } else { k };
        let (ky, kx) = (turned(ky, &wy, 2), turned(kx, &wx, 3));
        let term = |i: usize| {
            (i < c.lhs.dims[1]).then(|| {
                let (a, b) = (position(&c.lhs, &[o[0], i, y, x]), position(&c.rhs, &[o[1], i, ky, kx]));
                (case.lhs[a].to_f32(), case.rhs[b].to_f32())
            })
        };
        sum = (0..c.lhs.dims[1]).step_by(2).fold(sum, |sum, i| pair([term(i), term(i + 1)], sum));
    }
    sum
}

/// One element of a kernel's gradient: blocks of whole rows of positions.
fn gradient_sum(case: &Case, o: &[usize]) -> f32 {
    let c = &case.conv;
    let [wy, wx] = [c.dims.window[0], c.dims.window[1]];
    let (images, rows, cols) = (c.lhs.dims[1], c.rhs.dims[2], c.rhs.dims[3]);
    let lines: Vec<(usize, usize)> = (0..images).flat_map(|n| (0..rows).map(move |y| (n, y))).collect();
    let mut total = 0.0f32;
    for block in lines.chunks((256 / cols.div_ceil(2)).max(1)) {
        let mut sum = 0.0;
        for (n, gy) in block {
            let Some(Some(y)) = meets(&wy, o[2], *gy, c.lhs.dims[2]) else { continue };
            let term = |gx: usize| {
                let x = meets(&wx, o[3], gx, c.lhs.dims[3]).flatten().filter(|_| gx < cols)?;
                let (a, b) = (position(&c.lhs, &[o[0], *n, y, x]), position(&c.rhs, &[o[1], *n, *gy, gx]));
                Some((case.lhs[a].to_f32(), case.rhs[b].to_f32()))
            };
            sum = (0..cols).step_by(2).fold(sum, |sum, x| pair([term(x), term(x + 1)], sum));
        }
        total += sum;
    }
    total
}

fn check(case: &Case, sum: fn(&Case, &[usize]) -> f32, scratch: &mut Scratch) {
    let c = &case.conv;
    assert!(half::in_pairs(c), "{c:?}");
    let mut want = case.out.clone();
    for o in indices(&c.out.dims) {
        let (place, sum) = (position(&c.out, &o), sum(case, &o));
        want[place] = bf16::from_f32(if c.accumulate { case.out[place].to_f32() + sum } else { sum });
    }
    let run = |isa: Isa, parts: &[Conv], scratch: &mut Scratch| {
        let mut out = case.out.clone();
        parts.iter().for_each(|part| conv_bf16(isa, part, &case.lhs, &case.rhs, &mut out, scratch).unwrap());
        out
    };
    for isa in Isa::available() {
        assert!(run(isa, std::slice::from_ref(c), scratch) == want, "{} computes {c:?}", isa.name());
    }
    for dim in 0..4 {
        let extent = c.out.dims[dim];
        let parts: Vec<Conv> = [(0, extent / 3), (extent / 3, extent)]
            .into_iter()
            .filter(|(start, end)| start < end)
            .map(|(start, end)| c.narrowed(dim, start, end - start))
            .collect();
        assert!(run(Isa::detect(), &parts, scratch) == want, "a cut of {dim} changes {c:?}");
    }
}

#[test]
fn pairs_of_channels_are_summed_in_the_stated_order() {
    let (mut rng, mut scratch) = (Rng(71), Scratch::new());
    let cases: Vec<Case> = std::iter::repeat_with(|| forward(&mut rng)).flatten().take(60).collect();
    cases.iter().for_each(|case| check(case, forward_sum, &mut scratch));
}

#[test]
fn pairs_of_positions_are_summed_in_the_stated_order() {
    let (mut rng, mut scratch) = (Rng(72), Scratch::new());
    let cases: Vec<Case> = std::iter::repeat_with(|| gradient(&mut rng)).flatten().take(60).collect();
    cases.iter().for_each(|case| check(case, gradient_sum, &mut scratch));
}
