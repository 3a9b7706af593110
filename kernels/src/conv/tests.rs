//! Convolution against the definition, across instruction sets, layouts, attributes and splits.

use super::{Conv, ConvDims, ConvWindow, conv, conv_reference, direct, filter, grouped, lower};
use crate::gemm::tests::{Rng, bits, indices, position, random_layout};
use crate::{Isa, KernelError, Scratch};
use girih_ir::types::{Dims, Layout};

pub(super) struct Case {
    pub conv: Conv,
    pub lhs: Vec<f32>,
    pub rhs: Vec<f32>,
    pub out: Vec<f32>,
}

/// A random convolution of `spatial` dimensions; `wide` makes one of the channel counts large.
pub(super) fn random_case(rng: &mut Rng, spatial: usize, wide: bool) -> Case {
    let mut window = Vec::new();
    let (mut image, mut kernel, mut result) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..spatial {
        let w = ConvWindow {
            stride: rng.pick(&[1, 1, 2, 3]),
            pad_low: rng.pick(&[0, 1, 2, -1, 3]),
            pad_high: rng.pick(&[0, 1, 2, -2]),
            lhs_dilation: rng.pick(&[1, 1, 2, 3, 4]),
            rhs_dilation: rng.pick(&[1, 1, 2, 3]),
            reverse: rng.below(2) == 0,
        };
        let (x, k) = (rng.pick(&[1, 3, 5, 7, 9, 0]), rng.pick(&[1, 2, 3, 3, 5]));
        result.push(w.out_extent(x, k));
        image.push(x);
        kernel.push(k);
        window.push(w);
    }
    let mut dims = ConvDims::new(&window);
    let groups = rng.pick(&[1, 1, 2, 3, 17]);
    match rng.below(3) {
        0 => dims.feature_groups = groups,
        1 => dims.batch_groups = groups,
        _ => {}
    }
    let sizes: &[usize] = if wide { &[1, 7, 16, 33, 66, 100] } else { &[1, 2, 3, 5] };
    let inputs = if rng.below(20) == 0 { 0 } else { rng.pick(sizes) };
    let batch = rng.pick(&[1, 2, 3]);
    let outputs = rng.pick(sizes) * dims.feature_groups * dims.batch_groups;
    let shape = |a: usize, b: usize, rest: &[usize]| [a, b].iter().chain(rest).copied().collect::<Vec<_>>();
    let layout = |rng: &mut Rng, dims: &[usize]| if rng.below(3) == 0 { channels_last(dims) } else { random_layout(rng, dims, 0) };
    let (lhs, lhs_len) = layout(rng, &shape(batch * dims.batch_groups, inputs * dims.feature_groups, &image));
    let (rhs, rhs_len) = layout(rng, &shape(outputs, inputs, &kernel));
    let (out, out_len) = layout(rng, &shape(batch, outputs, &result));
    let conv = Conv { lhs, rhs, out, dims, accumulate: rng.below(3) == 0, transform: false };
    Case { conv, lhs: rng.floats(lhs_len), rhs: rng.floats(rhs_len), out: rng.floats(out_len) }
}

/// Extents `[n, c, spatial…]` with the channels innermost in memory.
pub(super) fn channels_last(dims: &[usize]) -> (Layout, usize) {
    let mut layout = Layout::dense(dims);
    let mut step = 1;
    for d in std::iter::once(1).chain((2..dims.len()).rev()).chain([0]) {
        layout.strides[d] = step as isize;
        step *= dims[d].max(1);
    }
    (layout, step)
}

/// The expected output in f64, straight from the padded and dilated image, and the magnitudes that bound the rounding error.
pub(super) fn naive(case: &Case) -> Vec<(usize, f64, f64)> {
    let c = &case.conv;
    let (fg, bg) = (c.dims.feature_groups, c.dims.batch_groups);
    let mut kernel = Dims::from_slice(&c.rhs.dims);
    kernel[0] = 1;
    indices(&c.out.dims)
        .into_iter()
        .map(|o| {
            let (mut sum, mut size) = (0.0f64, 0.0f64);
            let group = o[1] * fg * bg / c.out.dims[1];
            for mut t in indices(&kernel) {
                t[0] = o[1];
                let mut x = o.clone();
                x[0] = if bg > 1 { group * c.out.dims[0] + o[0] } else { o[0] };
                x[1] = if fg > 1 { group * c.rhs.dims[1] + t[1] } else { t[1] };
                let mut valid = true;
                for (d, w) in c.dims.window.iter().enumerate() {
                    let at = (o[d + 2] * w.stride + t[d + 2] * w.rhs_dilation) as i64 - w.pad_low as i64;
                    let cell = at.div_euclid(w.lhs_dilation as i64);
                    valid &= at.rem_euclid(w.lhs_dilation as i64) == 0 && cell >= 0 && cell < c.lhs.dims[d + 2] as i64;
                    x[d + 2] = cell.max(0) as usize;
                    if w.reverse {
                        t[d + 2] = c.rhs.dims[d + 2] - 1 - t[d + 2];
                    }
                }
                if valid {
                    let term = case.lhs[position(&c.lhs, &x)] as f64 * case.rhs[position(&c.rhs, &t)] as f64;
                    sum += term;
                    size += term.abs();
                }
            }
            let place = position(&c.out, &o);
            let old = if c.accumulate { case.out[place] as f64 } else { 0.0 };
            (place, old + sum, old.abs() + size)
        })
        .collect()
}

fn check(case: &Case, name: &str, scratch: &mut Scratch) {
    let expect = naive(case);
    let close = |out: &[f32], what: &str| {
        let mut untouched = vec![true; out.len()];
        for (place, want, size) in &expect {
            untouched[*place] = false;
            let error = (out[*place] as f64 - want).abs();
            assert!(error <= 2e-6 * size + 1e-12, "{name}, {what}: {:?}: at {place}: {} is not {want}", case.conv, out[*place]);
        }
        for (place, untouched) in untouched.iter().enumerate() {
            assert!(!untouched || out[place].to_bits() == case.out[place].to_bits(), "{name}, {what}: wrote outside the view at {place}");
        }
    };
    let mut plain = case.out.clone();
    conv_reference(&case.conv, &case.lhs, &case.rhs, &mut plain).unwrap();
    close(&plain, "reference");
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        let mut out = case.out.clone();
        conv(isa, &case.conv, &case.lhs, &case.rhs, &mut out, scratch).unwrap();
        match &first {
            None => {
                close(&out, isa.name());
                first = Some(out);
            }
            Some(first) => assert_eq!(bits(first), bits(&out), "{name} on {}: {:?}", isa.name(), case.conv),
        }
    }
}

#[test]
fn equals_the_definition_on_random_attributes_with_the_same_bits_on_every_isa() {
    let mut rng = Rng(11);
    let mut scratch = Scratch::new();
    for i in 0..300 {
        let spatial = 1 + i % 3;
        let case = random_case(&mut rng, spatial, false);
        if case.conv.out.elements() < 30_000 {
            check(&case, &format!("case {i}"), &mut scratch);
        }
    }
    for i in 0..40 {
        let case = random_case(&mut rng, 2, true);
        if case.conv.flops() < 4_000_000 {
            check(&case, &format!("wide case {i}"), &mut scratch);
        }
    }
}

/// Depthwise layers, their gradients and layers with a few channels a group, in both orders of memory.
fn grouped_cases(rng: &mut Rng) -> Vec<Case> {
    let mut cases = Vec::new();
    for (groups, inputs, outputs, size, kernel, stride, batch) in
        [(4, 1, 1, 9, 3, 1, 2), (33, 1, 2, 11, 3, 2, 3), (16, 3, 1, 8, 5, 1, 2), (20, 2, 4, 20, 3, 2, 4), (17, 1, 1, 19, 3, 1, 5)]
    {
        let pad = kernel as isize / 2;
        let forward = ConvWindow { stride, pad_low: pad, pad_high: pad, ..ConvWindow::default() };
        let result = forward.out_extent(size, kernel);
        let back = ConvWindow { lhs_dilation: stride, stride: 1, reverse: true, ..forward };
        let high = (kernel + (result - 1) * stride) as isize - size as isize - pad;
        let filter = ConvWindow { pad_low: pad, pad_high: high, rhs_dilation: stride, ..ConvWindow::default() };
        for (w, n, image, taps, by_batch) in
            [(forward, batch, size, kernel, false), (back, batch, result, kernel, false), (filter, batch, size, result, true)]
        {
            let out = w.out_extent(image, taps);
            let (features, batches) = if by_batch { (1, groups) } else { (groups, 1) };
            let dims = ConvDims { feature_groups: features, batch_groups: batches, ..ConvDims::new(&[w, w]) };
            // In a kernel gradient the batch takes the place of the input channels.
            let (items, channels) = if by_batch { (inputs, n) } else { (n, inputs) };
            let shapes = [
                [items * batches, channels * features, image, image],
                [outputs * groups, channels, taps, taps],
                [items, outputs * groups, out, out],
            ];
            for last in [false, true] {
                let layouts = shapes.map(|s| match (last, by_batch) {
                    (false, false) => Layout::dense(&s),
                    (true, false) => channels_last(&s).0,
                    (false, true) => swapped(&Layout::dense(&[s[1], s[0], s[2], s[3]])),
                    (true, true) => swapped(&channels_last(&[s[1], s[0], s[2], s[3]]).0),
                });
                let [lhs, rhs, out] = layouts;
                let [a, b, c] = [&lhs, &rhs, &out].map(|l| rng.floats(l.elements()));
                let conv = Conv { lhs, rhs, out, dims: dims.clone(), accumulate: rng.below(2) == 0, transform: false };
                cases.push(Case { conv, lhs: a, rhs: b, out: c });
            }
        }
    }
    cases
}

pub(super) fn swapped(l: &Layout) -> Layout {
    let mut l = l.clone();
    l.dims.swap(0, 1);
    l.strides.swap(0, 1);
    l
}

#[test]
fn the_grouped_path_equals_the_definition_and_the_contraction_to_the_bit() {
    let mut rng = Rng(14);
    let mut scratch = Scratch::new();
    let mut taken = 0;
    for (i, case) in grouped_cases(&mut rng).iter().enumerate() {
        check(case, &format!("grouped case {i}"), &mut scratch);
        let mut by_contraction = case.out.clone();
        let mut out = case.out.clone();
        lower::for_each_phase(&case.conv, &mut |phase| {
            taken += usize::from(grouped::suits(phase));
            lower::contract(Isa::detect(), phase, &case.lhs, &case.rhs, &mut by_contraction, &mut scratch);
        });
        conv(Isa::detect(), &case.conv, &case.lhs, &case.rhs, &mut out, &mut scratch).unwrap();
        assert_eq!(bits(&by_contraction), bits(&out), "grouped case {i}: {:?}", case.conv);
    }
    assert!(taken >= 30, "only {taken} phases took the grouped path");
}

/// Layers with channels innermost: forward passes and input gradients, of any stride.
#[test]
fn the_direct_path_equals_the_definition_and_the_contraction_to_the_bit() {
    let mut rng = Rng(15);
    let mut scratch = Scratch::new();
    let mut taken = 0;
    for i in 0..90 {
        let one = |rng: &mut Rng| ConvWindow {
            stride: rng.pick(&[1, 1, 2, 3]),
            pad_low: rng.pick(&[0, 1, 2, -1, 4]),
            pad_high: rng.pick(&[0, 1, 2, -2]),
            lhs_dilation: rng.pick(&[1, 1, 2]),
            rhs_dilation: rng.pick(&[1, 1, 2]),
            reverse: rng.below(2) == 0,
        };
        let windows = [one(&mut rng), one(&mut rng)];
        let (kernel, image) = ([rng.pick(&[1, 2, 3]), rng.pick(&[1, 3, 5])], [rng.pick(&[3, 8, 13]), rng.pick(&[1, 6, 17])]);
        let size = [0, 1].map(|d| windows[d].out_extent(image[d], kernel[d]));
        let (batch, inputs, outputs) = (rng.pick(&[1, 3, 13]), rng.pick(&[1, 3, 24, 70]), rng.pick(&[1, 20, 66]));
        let lhs = channels_last(&[batch, inputs, image[0], image[1]]).0;
        let out = channels_last(&[batch, outputs, size[0], size[1]]).0;
        let mut rhs = channels_last(&[outputs, inputs, kernel[0], kernel[1]]).0;
        if rng.below(2) == 0 {
            rhs = swapped(&channels_last(&[inputs, outputs, kernel[0], kernel[1]]).0);
        }
        let accumulate = rng.below(3) == 0;
        let conv_ = Conv { lhs, rhs, out, dims: ConvDims::new(&windows), accumulate, transform: false };
        let [a, b, c] = [&conv_.lhs, &conv_.rhs, &conv_.out].map(|l| rng.floats(l.elements()));
        let case = Case { conv: conv_, lhs: a, rhs: b, out: c };
        if case.conv.flops() > 3_000_000 || case.conv.out.elements() == 0 {
            continue;
        }
        check(&case, &format!("direct case {i}"), &mut scratch);
        let (mut by_contraction, mut out) = (case.out.clone(), case.out.clone());
        lower::for_each_phase(&case.conv, &mut |phase| {
            taken += usize::from(direct::fits(&case.conv) && direct::suits(phase) || direct::is_clear(phase));
            lower::contract(Isa::detect(), phase, &case.lhs, &case.rhs, &mut by_contraction, &mut scratch);
        });
        conv(Isa::detect(), &case.conv, &case.lhs, &case.rhs, &mut out, &mut scratch).unwrap();
        assert_eq!(bits(&by_contraction), bits(&out), "direct case {i}: {:?}", case.conv);
    }
    assert!(taken >= 60, "only {taken} phases took the direct path");
}

/// Gradients of kernels with channels innermost, of any stride, and cut by their channels.
#[test]
fn the_filter_path_equals_the_definition_and_cuts_of_channels_keep_the_bits() {
    let mut rng = Rng(16);
    let mut scratch = Scratch::new();
    let mut taken = 0;
    for i in 0..100 {
        let one = |rng: &mut Rng| ConvWindow {
            stride: rng.pick(&[1, 1, 2]),
            pad_low: rng.pick(&[0, 1, 2, -1]),
            pad_high: rng.pick(&[0, 1, 2]),
            lhs_dilation: 1,
            rhs_dilation: rng.pick(&[1, 2]),
            reverse: false,
        };
        let windows = [one(&mut rng), one(&mut rng)];
        let (image, grad) = ([rng.pick(&[9, 12]), rng.pick(&[8, 20])], [rng.pick(&[4, 5]), rng.pick(&[4, 7])]);
        let size = [0, 1].map(|d| windows[d].out_extent(image[d], grad[d]));
        let (images, inputs, outputs) = (rng.pick(&[2, 5, 12]), rng.pick(&[1, 3, 20]), rng.pick(&[1, 16, 70]));
        let lhs = swapped(&channels_last(&[images, inputs, image[0], image[1]]).0);
        let rhs = swapped(&channels_last(&[images, outputs, grad[0], grad[1]]).0);
        let mut out = Layout::dense(&[inputs, outputs, size[0], size[1]]);
        out.strides = [outputs, 1, size[1] * inputs * outputs, inputs * outputs].map(|s| s as isize).as_slice().into();
        let conv_ = Conv { lhs, rhs, out, dims: ConvDims::new(&windows), accumulate: rng.below(3) == 0, transform: false };
        let [a, b, c] = [&conv_.lhs, &conv_.rhs, &conv_.out].map(|l| rng.floats(l.elements()));
        let case = Case { conv: conv_, lhs: a, rhs: b, out: c };
        if case.conv.flops() > 4_000_000 || case.conv.out.elements() == 0 {
            continue;
        }
        lower::for_each_phase(&case.conv, &mut |phase| taken += usize::from(filter::fits(&case.conv) && filter::suits(phase)));
        check(&case, &format!("filter case {i}"), &mut scratch);
        let mut whole = case.out.clone();
        conv(Isa::detect(), &case.conv, &case.lhs, &case.rhs, &mut whole, &mut scratch).unwrap();
        for dim in 0..2 {
            let extent = case.conv.out.dims[dim];
            let mut out = case.out.clone();
            for (start, end) in [(0, extent / 3), (extent / 3, extent)] {
                if start < end {
                    let part = case.conv.narrowed(dim, start, end - start);
                    conv(Isa::detect(), &part, &case.lhs, &case.rhs, &mut out, &mut scratch).unwrap();
                }
            }
            assert_eq!(bits(&whole), bits(&out), "filter case {i}, cut of {dim}: {:?}", case.conv);
        }
    }
    assert!(taken >= 25, "only {taken} phases took the path");
}

#[test]
fn splitting_keeps_the_bits() {
    let mut rng = Rng(12);
    let mut scratch = Scratch::new();
    for i in 0..120 {
        let case = random_case(&mut rng, 1 + i % 3, i % 4 == 0);
        if case.conv.flops() > 4_000_000 {
            continue;
        }
        let mut whole = case.out.clone();
        conv(Isa::detect(), &case.conv, &case.lhs, &case.rhs, &mut whole, &mut scratch).unwrap();
        for parts in [1, 2, 3, 5] {
            let mut out = case.out.clone();
            let lists = case.conv.split(parts);
            assert_eq!(lists.len(), parts);
            for piece in lists.iter().flatten() {
                conv(Isa::detect(), piece, &case.lhs, &case.rhs, &mut out, &mut scratch).unwrap();
            }
            assert_eq!(bits(&whole), bits(&out), "case {i} in {parts} parts: {:?}", case.conv);
        }
    }
}

#[test]
fn splits_of_a_dense_output_are_contiguous_and_in_order() {
    let window = ConvWindow { pad_low: 1, pad_high: 1, ..ConvWindow::default() };
    for last in [false, true] {
        let shape = |dims: &[usize]| if last { channels_last(dims).0 } else { Layout::dense(dims) };
        let dims = ConvDims::new(&[window, window]);
        let c = Conv {
            lhs: shape(&[3, 4, 6, 5]),
            rhs: shape(&[10, 4, 3, 3]),
            out: shape(&[3, 10, 6, 5]),
            dims,
            accumulate: false,
            transform: false,
        };
        for parts in 1..9 {
            let (mut at, mut most) = (0, 0);
            for list in c.split(parts) {
                let begin = at;
                for piece in list {
                    let range = piece.out.extent().unwrap();
                    assert_eq!((range.start, range.len()), (at, piece.out.elements()));
                    at = range.end;
                }
                most = most.max(at - begin);
            }
            assert_eq!(at, c.out.elements());
            assert!(most * parts <= at * 5 / 4, "{parts} parts are uneven: {most} of {at}");
        }
    }
}

/// The gradients of a strided, padded convolution are convolutions; <dY, conv(X, W)> is linear in X and in W.
#[test]
fn gradients_are_convolutions_of_the_same_kind() {
    let mut rng = Rng(13);
    let mut scratch = Scratch::new();
    let (n, ci, co, x, k, stride, pad) = (2, 5, 7, 9, 3, 2, 1);
    let y = (x + 2 * pad - k) / stride + 1;
    let (image, kernel, grad) = (rng.floats(n * ci * x * x), rng.floats(co * ci * k * k), rng.floats(n * co * y * y));
    let (xl, wl, yl) = (Layout::dense(&[n, ci, x, x]), Layout::dense(&[co, ci, k, k]), Layout::dense(&[n, co, y, y]));
    let both = |w: ConvWindow| ConvDims::new(&[w, w]);
    let forward = ConvWindow { stride, pad_low: pad as isize, pad_high: pad as isize, ..ConvWindow::default() };
    let mut out = vec![0.0; grad.len()];
    let c = Conv { lhs: xl.clone(), rhs: wl.clone(), out: yl.clone(), dims: both(forward), accumulate: false, transform: false };
    conv(Isa::detect(), &c, &image, &kernel, &mut out, &mut scratch).unwrap();
    let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let want = inner(&out, &grad);

    let low = (k - 1 - pad) as isize;
    let high = (x + k - 1) as isize - low - ((y - 1) * stride + 1) as isize;
    let back = ConvWindow { pad_low: low, pad_high: high, lhs_dilation: stride, reverse: true, ..ConvWindow::default() };
    let mut dx = vec![0.0; image.len()];
    let c = Conv { lhs: yl.clone(), rhs: swapped(&wl), out: xl.clone(), dims: both(back), accumulate: false, transform: false };
    conv(Isa::detect(), &c, &grad, &kernel, &mut dx, &mut scratch).unwrap();
    assert!((inner(&dx, &image) - want).abs() < 1e-4 * want.abs().max(1.0));

    let high = ((k - 1) + (y - 1) * stride + 1) as isize - x as isize - pad as isize;
    let filter = ConvWindow { pad_low: pad as isize, pad_high: high, rhs_dilation: stride, ..ConvWindow::default() };
    let mut dw = vec![0.0; kernel.len()];
    let c = Conv { lhs: swapped(&xl), rhs: swapped(&yl), out: swapped(&wl), dims: both(filter), accumulate: false, transform: false };
    conv(Isa::detect(), &c, &image, &grad, &mut dw, &mut scratch).unwrap();
    assert!((inner(&dw, &kernel) - want).abs() < 1e-4 * want.abs().max(1.0));
}

#[test]
fn the_reference_knows_integers_and_half_floats() {
    let c = Conv {
        lhs: Layout::dense(&[1, 1, 3]),
        rhs: Layout::dense(&[1, 1, 2]),
        out: Layout::dense(&[1, 1, 4]),
        dims: ConvDims::new(&[ConvWindow { pad_low: 1, pad_high: 1, reverse: true, ..ConvWindow::default() }]),
        accumulate: false,
        transform: false,
    };
    let mut out = [0i64; 4];
    conv_reference(&c, &[1i64, 2, 3], &[10, 1], &mut out).unwrap();
    assert_eq!(out, [10, 21, 32, 3]);
    let mut out = [0u8; 4];
    conv_reference(&c, &[1u8, 20, 30], &[10, 1], &mut out).unwrap();
    assert_eq!(out, [10, 201, (20u32 + 300) as u8, 30]);
    let half = |x: &[f32]| x.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>();
    let mut out = half(&[0.0; 4]);
    conv_reference(&c, &half(&[1.0, 2.0, 3.0]), &half(&[0.5, 0.25]), &mut out).unwrap();
    assert_eq!(out, half(&[0.5, 1.25, 2.0, 0.75]));
}

#[test]
fn refuses_what_does_not_fit() {
    let good = Conv {
        lhs: Layout::dense(&[2, 4, 5]),
        rhs: Layout::dense(&[6, 2, 3]),
        out: Layout::dense(&[2, 6, 3]),
        dims: ConvDims { feature_groups: 2, ..ConvDims::new(&[ConvWindow::default()]) },
        accumulate: false,
        transform: false,
    };
    let run = |c: &Conv| conv(Isa::detect(), c, &[1.0; 40], &[1.0; 36], &mut [0.0; 36], &mut Scratch::new());
    assert_eq!(run(&good), Ok(()));
    let mut c = good.clone();
    c.dims.feature_groups = 4;
    assert!(matches!(run(&c), Err(KernelError::Attribute { name: "groups", .. })));
    let mut c = good.clone();
    c.dims.window[0].stride = 0;
    assert!(matches!(run(&c), Err(KernelError::Attribute { name: "stride", value: 0, .. })));
    let mut c = good.clone();
    c.dims.window[0].pad_low = 1;
    assert!(matches!(run(&c), Err(KernelError::Shape { operand: "out", .. })));
    let mut c = good.clone();
    c.dims.window.clear();
    assert!(matches!(run(&c), Err(KernelError::Attribute { name: "window", .. })));
    let mut c = good;
    c.rhs.strides[0] = 7;
    assert!(matches!(run(&c), Err(KernelError::OutOfBounds { operand: "rhs", .. })));
}
