//! The transformed convolutions against the definition: instruction sets, cuts, and the error that the documentation states.

use super::tests::{Case, channels_last, naive, random_case, swapped};
use super::{Conv, ConvDims, ConvWindow, conv, conv_bf16, half, winograd, winograd_pays, winograd_pays_bf16};
use crate::gemm::tests::{Rng, bits};
use crate::{Isa, Scratch};
use girih_ir::types::Layout;

/// A 3×3 layer and which of its passes: 0 forward, 1 gradient of the input, 2 of the kernel.
struct Shape {
    batch: usize,
    inputs: usize,
    outputs: usize,
    extent: [usize; 2],
    pad: [isize; 2],
}

impl Shape {
    /// `by_outputs`: whether the output channels are the kernel's innermost dimension, else the input channels.
    fn case(&self, pass: usize, by_outputs: bool, rng: &mut Rng) -> Case {
        let Shape { batch, inputs, outputs, extent: [h, w], pad: [low, high] } = *self;
        let window = ConvWindow { pad_low: low, pad_high: high, ..ConvWindow::default() };
        let (y, x) = (window.out_extent(h, 3), window.out_extent(w, 3));
        let image = channels_last(&[batch, inputs, h, w]).0;
        let result = channels_last(&[batch, outputs, y, x]).0;
        let mut kernel = Layout::dense(&[outputs, inputs, 3, 3]);
        let step = (inputs * outputs) as isize;
        kernel.strides = [1, outputs as isize, 3 * step, step].as_slice().into();
        if !by_outputs {
            kernel.strides = [inputs as isize, 1, 3 * step, step].as_slice().into();
        }
        let (lhs, rhs, out, window) = match pass {
            0 => (image, kernel, result, window),
            1 => {
                let back = ConvWindow { pad_low: 2 - low, pad_high: 2 - high, reverse: true, ..window };
                (result, swapped(&kernel), image, back)
            }
            _ => (swapped(&image), swapped(&result), swapped(&channels_last_kernel(inputs, outputs)), window),
        };
        let conv = Conv { lhs, rhs, out, dims: ConvDims::new(&[window, window]), accumulate: rng.below(3) == 0, transform: true };
        let [a, b, c] = [&conv.lhs, &conv.rhs, &conv.out].map(|l| rng.floats(l.elements() + l.base));
        Case { conv, lhs: a, rhs: b, out: c }
    }
}

fn channels_last_kernel(inputs: usize, outputs: usize) -> Layout {
    let mut kernel = Layout::dense(&[outputs, inputs, 3, 3]);
    let step = (inputs * outputs) as isize;
    kernel.strides = [1, outputs as isize, 3 * step, step].as_slice().into();
    kernel
}

fn shapes(rng: &mut Rng) -> Vec<Shape> {
    let mut list = vec![
        Shape { batch: 2, inputs: 3, outputs: 70, extent: [12, 12], pad: [1, 1] },
        Shape { batch: 3, inputs: 130, outputs: 6, extent: [8, 8], pad: [1, 1] },
        Shape { batch: 9, inputs: 16, outputs: 5, extent: [16, 16], pad: [1, 1] },
        Shape { batch: 1, inputs: 16, outputs: 33, extent: [9, 7], pad: [0, 2] },
    ];
    for _ in 0..12 {
        list.push(Shape {
            batch: rng.pick(&[1, 2]),
            inputs: rng.pick(&[3, 5, 17, 33]),
            outputs: rng.pick(&[1, 4, 16, 33]),
            extent: [rng.pick(&[4, 5, 6, 8, 13]), rng.pick(&[4, 7, 8, 12])],
            pad: [rng.pick(&[0, 1, 2]), rng.pick(&[0, 1, 2, -1])],
        });
    }
    list
}

#[test]
fn transformed_convolutions_are_close_to_the_definition_with_the_same_bits_on_every_isa() {
    let mut rng = Rng(21);
    let mut scratch = Scratch::new();
    for (i, shape) in shapes(&mut rng).iter().enumerate() {
        for pass in 0..3 {
            let case = shape.case(pass, i % 2 == 0, &mut rng);
            let name = format!("shape {i}, pass {pass}: {:?}", case.conv);
            assert!(winograd::fits_forward(&case.conv) || winograd::fits_filter_gradient(&case.conv), "{name}");
            let expect = naive(&case);
            let largest = expect.iter().map(|e| e.2).fold(0.0, f64::max);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = case.out.clone();
                conv(isa, &case.conv, &case.lhs, &case.rhs, &mut out, &mut scratch).unwrap();
                for (place, want, _) in &expect {
                    let error = (f64::from(out[*place]) - want).abs();
                    assert!(error <= 2e-6 * largest, "{name}: {} is not {want}", out[*place]);
                }
                let first = first.get_or_insert_with(|| out.clone());
                assert_eq!(bits(first), bits(&out), "{name} on {}", isa.name());
            }
        }
    }
}

#[test]
fn cuts_of_batch_channels_and_whole_tiles_keep_the_bits() {
    let mut rng = Rng(22);
    let mut scratch = Scratch::new();
    for shape in shapes(&mut rng) {
        for pass in 0..3 {
            let case = shape.case(pass, true, &mut rng);
            let run = |c: &Conv, out: &mut [f32], scratch: &mut Scratch| {
                conv(Isa::detect(), c, &case.lhs, &case.rhs, out, scratch).unwrap();
            };
            let mut whole = case.out.clone();
            run(&case.conv, &mut whole, &mut scratch);
            let dims = if pass == 2 { 0..2 } else { 0..4 };
            for dim in dims {
                let unit = if dim < 2 { 1 } else { super::TRANSFORM_TILE };
                let extent = case.conv.out.dims[dim];
                let middle = (extent / 2).next_multiple_of(unit).min(extent);
                let mut out = case.out.clone();
                for (start, end) in [(0, middle), (middle, extent)] {
                    if start < end {
                        let part = case.conv.narrowed(dim, start, end - start);
                        assert_eq!(winograd_pays(&part), winograd_pays(&case.conv), "the choice depends on the cut of {dim}");
                        run(&part, &mut out, &mut scratch);
                    }
                }
                assert_eq!(bits(&whole), bits(&out), "pass {pass}, cut of {dim}: {:?}", case.conv);
            }
            for list in case.conv.split(3) {
                assert!(list.iter().all(|c| c.out.dims[2..] == case.conv.out.dims[2..]));
            }
        }
    }
}

/// A sum of twelve uniform numbers: nearly Gaussian.
fn gaussian(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| (0..12).map(|_| rng.unit()).sum::<f32>() / 2.0).collect()
}

#[test]
fn the_error_is_within_the_documented_factor_of_the_direct_sum() {
    let mut rng = Rng(23);
    let mut scratch = Scratch::new();
    let shape = Shape { batch: 2, inputs: 64, outputs: 6, extent: [16, 16], pad: [1, 1] };
    for pass in 0..3 {
        let mut case = shape.case(pass, true, &mut rng);
        case.conv.accumulate = false;
        (case.lhs, case.rhs) = (gaussian(&mut rng, case.lhs.len()), gaussian(&mut rng, case.rhs.len()));
        let expect = naive(&case);
        let mut error = |transform: bool| {
            let mut out = case.out.clone();
            conv(Isa::detect(), &Conv { transform, ..case.conv.clone() }, &case.lhs, &case.rhs, &mut out, &mut scratch).unwrap();
            (expect.iter().map(|(place, want, _)| (f64::from(out[*place]) - want).powi(2)).sum::<f64>() / expect.len() as f64).sqrt()
        };
        let size = (expect.iter().map(|e| e.1 * e.1).sum::<f64>() / expect.len() as f64).sqrt();
        let (direct, transformed) = (error(false), error(true));
        println!("pass {pass}: direct {:.2e}, transformed {:.2e} of the root mean square", direct / size, transformed / size);
        assert!(transformed > direct * 0.5, "pass {pass}: nothing was transformed");
        assert!(transformed <= 3.5 * direct && transformed <= 2e-6 * size, "pass {pass}: {transformed} against {direct}");
    }
}

#[test]
fn the_transform_is_chosen_where_it_saves_products() {
    let mut rng = Rng(24);
    let of = |extent, inputs| Shape { batch: 2, inputs, outputs: 8, extent: [extent, extent], pad: [1, 1] };
    for pass in 0..3 {
        assert!(winograd_pays(&of(8, 16).case(pass, true, &mut rng).conv), "pass {pass}");
        assert!(!winograd_pays(&of(2, 16).case(pass, true, &mut rng).conv), "pass {pass}");
    }
    assert!(!winograd_pays(&of(8, 7).case(0, true, &mut rng).conv));
    let small = of(4, 512).case(0, true, &mut rng).conv;
    assert!(winograd_pays(&small) && !winograd_pays_bf16(&small));
    assert!(winograd_pays_bf16(&of(8, 256).case(0, true, &mut rng).conv));
    let mut strided = of(8, 16).case(0, true, &mut rng).conv;
    strided.dims.window[0].stride = 2;
    assert!(!winograd_pays(&strided));
    let mut planes = of(8, 16).case(0, true, &mut rng).conv;
    planes.lhs = Layout::dense(&planes.lhs.dims);
    assert!(!winograd_pays(&planes));
}

#[test]
fn bf16_outside_of_pairs_is_the_widened_convolution_rounded_once() {
    let mut rng = Rng(25);
    let mut scratch = Scratch::new();
    let mut cases: Vec<Case> = Vec::new();
    for shape in shapes(&mut rng) {
        (0..3).for_each(|pass| cases.push(shape.case(pass, pass == 0, &mut rng)));
    }
    (0..60).for_each(|i| cases.push(random_case(&mut rng, 1 + i % 3, false)));
    // Large enough for more than one chunk of images.
    let mut large = Shape { batch: 5, inputs: 64, outputs: 8, extent: [48, 48], pad: [1, 1] }.case(0, true, &mut rng);
    large.conv.dims.window[0].stride = 2;
    large.conv.out = Layout::dense(&[5, 8, 24, 48]);
    cases.push(large);
    let in_pairs = |c: &Conv| half::in_pairs(c) && !(c.transform && (winograd::fits_forward(c) || winograd::fits_filter_gradient(c)));
    let (pairs, others): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|c| in_pairs(&c.conv));
    assert!(pairs.len() < others.len() / 2, "{} in pairs, {} others", pairs.len(), others.len());
    for case in others.iter().filter(|c| c.conv.flops() < 20_000_000) {
        let half = |x: &[f32]| x.iter().map(|v| ::half::bf16::from_f32(*v)).collect::<Vec<_>>();
        let wide = |x: &[::half::bf16]| x.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
        let (lhs, rhs, old) = (half(&case.lhs), half(&case.rhs), half(&case.out));
        let mut want = wide(&old);
        conv(Isa::detect(), &case.conv, &wide(&lhs), &wide(&rhs), &mut want, &mut scratch).unwrap();
        for isa in Isa::available() {
            let mut out = old.clone();
            conv_bf16(isa, &case.conv, &lhs, &rhs, &mut out, &mut scratch).unwrap();
            assert!(out == half(&want), "{:?} on {}", case.conv, isa.name());
        }
    }
}
