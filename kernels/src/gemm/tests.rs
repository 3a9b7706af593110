//! GEMM against a naive f64 loop, across instruction sets, layouts and splits.

use super::{Gemm, PackedB, gemm, gemm_bf16, gemm_generic, gemm_packed, gemm_packed_bf16, packs_pairs};
use crate::{Isa, KernelError, Scratch};
use girih_ir::types::{Dims, Layout};
use half::bf16;

/// A small deterministic generator (splitmix64).
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// A random layout of these extents: permuted in memory, gaps, reversed dimensions, an offset; `free` dimensions may have stride 0.
pub(crate) fn random_layout(rng: &mut Rng, dims: &[usize], free: usize) -> (Layout, usize) {
    let mut order: Vec<usize> = (0..dims.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let mut layout = Layout::dense(dims);
    let mut step = if rng.below(4) == 0 { 2 } else { 1 };
    let mut base = rng.below(5);
    for dim in order {
        if dim < free && rng.below(3) == 0 {
            layout.strides[dim] = 0;
            continue;
        }
        layout.strides[dim] = step as isize;
        if rng.below(6) == 0 {
            layout.strides[dim] = -(step as isize);
            base += step * dims[dim].saturating_sub(1);
        }
        step = step * dims[dim].max(1) + if rng.below(4) == 0 { 3 } else { 0 };
    }
    layout.base = base;
    let len = layout.extent().map_or(0, |r| r.end).max(base) + rng.below(3);
    (layout, len)
}

pub(crate) fn position(l: &Layout, index: &[usize]) -> usize {
    (l.base as isize + index.iter().zip(&l.strides).map(|(i, s)| *i as isize * s).sum::<isize>()) as usize
}

pub(crate) fn indices(dims: &[usize]) -> Vec<Dims> {
    let total: usize = dims.iter().product();
    (0..total)
        .map(|mut flat| {
            let mut index = Dims::from_elem(0, dims.len());
            for d in (0..dims.len()).rev() {
                index[d] = flat % dims[d];
                flat /= dims[d];
            }
            index
        })
        .collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// The expected output and, per element, the sum of magnitudes that bounds the rounding error.
fn naive(g: &Gemm, a: &[f32], b: &[f32], before: &[f32]) -> Vec<(usize, f64, f64)> {
    let rank = g.out.dims.len();
    let k = g.a.dims[rank - 1];
    indices(&g.out.dims)
        .into_iter()
        .map(|index| {
            let (mut x, mut y) = (index.clone(), index.clone());
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..k {
                x[rank - 1] = p;
                y[rank - 2] = p;
                let term = a[position(&g.a, &x)] as f64 * b[position(&g.b, &y)] as f64;
                sum += term;
                size += term.abs();
            }
            let place = position(&g.out, &index);
            let old = if g.accumulate { before[place] as f64 } else { 0.0 };
            (place, old + g.alpha as f64 * sum, old.abs() + (g.alpha as f64).abs() * size)
        })
        .collect()
}

fn random_gemm(rng: &mut Rng) -> (Gemm, usize, usize, usize) {
    let sizes = [0, 1, 2, 3, 5, 6, 7, 11, 13, 16, 17, 31, 37, 64, 65, 70, 97];
    let (mut m, mut n, mut k) = (rng.pick(&sizes), rng.pick(&sizes), rng.pick(&sizes));
    match rng.below(8) {
        0 => k = rng.pick(&[255, 256, 257, 300, 512, 600]),
        1 => m = rng.pick(&[239, 240, 241, 260]),
        2 => n = rng.pick(&[127, 128, 129, 200]),
        _ => {}
    }
    let batch: Vec<usize> = (0..rng.below(3)).map(|_| rng.pick(&[1, 2, 3])).collect();
    let dims = |x, y| batch.iter().copied().chain([x, y]).collect::<Vec<_>>();
    let (a, a_len) = random_layout(rng, &dims(m, k), batch.len());
    let (b, b_len) = random_layout(rng, &dims(k, n), batch.len());
    let (out, out_len) = random_layout(rng, &dims(m, n), 0);
    let g = Gemm { a, b, out, alpha: rng.pick(&[1.0, 1.0, 0.25, -1.3]), accumulate: rng.below(2) == 0 };
    (g, a_len, b_len, out_len)
}

#[test]
fn equals_naive_on_random_layouts_with_the_same_bits_on_every_isa() {
    let mut rng = Rng(1);
    let mut scratch = Scratch::new();
    for case in 0..300 {
        let (g, a_len, b_len, out_len) = random_gemm(&mut rng);
        let (a, b, before) = (rng.floats(a_len), rng.floats(b_len), rng.floats(out_len));
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut out = before.clone();
            gemm(isa, &g, &a, &b, &mut out, &mut scratch).unwrap();
            match &first {
                None => {
                    let expect = naive(&g, &a, &b, &before);
                    let mut untouched = vec![true; out_len];
                    for (place, want, size) in expect {
                        untouched[place] = false;
                        let error = (out[place] as f64 - want).abs();
                        assert!(error <= 1e-6 * size + 1e-12, "case {case}: {g:?}: at {place}: {} is not {want}", out[place]);
                    }
                    for (place, untouched) in untouched.iter().enumerate() {
                        assert!(
                            !untouched || out[place].to_bits() == before[place].to_bits(),
                            "case {case}: wrote outside the view at {place}"
                        );
                    }
                    first = Some(out);
                }
                Some(first) => assert_eq!(bits(first), bits(&out), "case {case} on {}: {g:?}", isa.name()),
            }
        }
    }
}

#[test]
fn splitting_keeps_the_bits() {
    let mut rng = Rng(2);
    let mut scratch = Scratch::new();
    for case in 0..80 {
        let (g, a_len, b_len, out_len) = random_gemm(&mut rng);
        let (a, b, before) = (rng.floats(a_len), rng.floats(b_len), rng.floats(out_len));
        let isa = Isa::detect();
        let mut whole = before.clone();
        gemm(isa, &g, &a, &b, &mut whole, &mut scratch).unwrap();
        for parts in [1, 2, 3, 7] {
            let mut out = before.clone();
            let pieces = g.split(parts);
            assert_eq!(pieces.len(), parts);
            for piece in pieces.iter().flatten() {
                gemm(isa, piece, &a, &b, &mut out, &mut scratch).unwrap();
            }
            assert_eq!(bits(&whole), bits(&out), "case {case} in {parts} parts");
        }
    }
}

/// The two block orders of the driver (all terms packed, and one block of terms at a time) against single rows, which run in place.
#[test]
fn every_block_order_has_the_bits_of_single_rows() {
    let mut rng = Rng(5);
    let mut scratch = Scratch::new();
    for (m, n, k) in [(14, 450, 5000), (14, 270, 8500), (110, 1100, 1030)] {
        let (a, b) = (rng.floats(m * k), rng.floats(k * n));
        let g = Gemm::new(Layout::dense(&[m, k]), Layout::dense(&[k, n]), Layout::dense(&[m, n]));
        for isa in Isa::available().filter(|isa| *isa != Isa::Scalar) {
            let (mut whole, mut rows) = (vec![0.0; m * n], vec![0.0; m * n]);
            gemm(isa, &g, &a, &b, &mut whole, &mut scratch).unwrap();
            for row in g.split(m).iter().flatten() {
                gemm(isa, row, &a, &b, &mut rows, &mut scratch).unwrap();
            }
            assert_eq!(bits(&whole), bits(&rows), "{m} x {n} x {k} on {}", isa.name());
        }
    }
}

#[test]
fn splits_of_a_dense_output_are_contiguous_balanced_and_in_order() {
    let g = Gemm::new(Layout::dense(&[3, 2, 5, 4]), Layout::dense(&[3, 2, 4, 7]), Layout::dense(&[3, 2, 5, 7]));
    for parts in 1..40 {
        let mut at = 0;
        for list in g.split(parts) {
            let begin = at;
            for piece in list {
                let range = piece.out.extent().unwrap();
                assert_eq!(range.start, at);
                assert_eq!(range.len(), piece.out.elements());
                at = range.end;
            }
            assert!((at - begin) / 7 <= 30usize.div_ceil(parts));
        }
        assert_eq!(at, g.out.elements());
    }
}

#[test]
fn products_keep_their_bits_in_every_transposition() {
    // Tall, with few rows and many columns, with several blocks of rows and of terms, and with columns that do not fill a vector.
    for extents in [[70, 130, 530], [20, 150, 300], [300, 70, 1100], [150, 10, 300]] {
        every_transposition(extents);
    }
}

fn every_transposition([m, n, k]: [usize; 3]) {
    let mut rng = Rng(3);
    let (a, b) = (rng.floats(m * k), rng.floats(k * n));
    let transposed =
        |x: &[f32], rows: usize, cols: usize| -> Vec<f32> { (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect() };
    let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
    let flip = |rows: usize, cols: usize| Layout { strides: [1, rows as isize].as_slice().into(), ..Layout::dense(&[rows, cols]) };
    let mut scratch = Scratch::new();
    for isa in Isa::available() {
        let mut nn = vec![0.0; m * n];
        gemm(isa, &Gemm::new(Layout::dense(&[m, k]), Layout::dense(&[k, n]), Layout::dense(&[m, n])), &a, &b, &mut nn, &mut scratch)
            .unwrap();
        for (la, xa) in [(Layout::dense(&[m, k]), &a), (flip(m, k), &at)] {
            for (lb, xb) in [(Layout::dense(&[k, n]), &b), (flip(k, n), &bt)] {
                let mut out = vec![0.0; m * n];
                gemm(isa, &Gemm::new(la.clone(), lb.clone(), Layout::dense(&[m, n])), xa, xb, &mut out, &mut scratch).unwrap();
                assert_eq!(bits(&nn), bits(&out));
                gemm(isa, &Gemm::new(la.clone(), lb.clone(), flip(m, n)), xa, xb, &mut out, &mut scratch).unwrap();
                assert_eq!(bits(&transposed(&nn, m, n)), bits(&out));
            }
        }
    }
}

#[test]
fn generic_equals_naive_and_wraps() {
    let mut rng = Rng(4);
    for _ in 0..60 {
        let (g, a_len, b_len, out_len) = random_gemm(&mut rng);
        let (a, b, before) = (rng.floats(a_len), rng.floats(b_len), rng.floats(out_len));
        let wide = |x: &[f32]| x.iter().map(|v| *v as f64).collect::<Vec<_>>();
        let mut out = wide(&before);
        gemm_generic(&g, &wide(&a), &wide(&b), &mut out).unwrap();
        for (place, want, size) in naive(&g, &a, &b, &before) {
            assert!((out[place] - want).abs() <= 1e-13 * size + 1e-300);
        }
        let narrow = |x: &[f32]| x.iter().map(|v| half::bf16::from_f32(*v)).collect::<Vec<_>>();
        let (a16, b16, mut out16) = (narrow(&a), narrow(&b), narrow(&before));
        let back = |x: &[half::bf16]| x.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
        let expect = naive(&g, &back(&a16), &back(&b16), &back(&out16));
        gemm_generic(&g, &a16, &b16, &mut out16).unwrap();
        for (place, want, size) in expect {
            assert!((out16[place].to_f64() - want).abs() <= want.abs() / 128.0 + 1e-5 * size);
        }
    }
    let g = Gemm::new(Layout::dense(&[1, 2]), Layout::dense(&[2, 1]), Layout::dense(&[1, 1]));
    let mut out = [0i32];
    gemm_generic(&g, &[i32::MAX, 2], &[2, 5], &mut out).unwrap();
    assert_eq!(out, [8]);
    let mut out = [0u8];
    gemm_generic(&g, &[200u8, 3], &[2, 5], &mut out).unwrap();
    assert_eq!(out, [159]);
}

#[test]
fn refuses_what_does_not_fit() {
    let mut scratch = Scratch::new();
    let good = Gemm::new(Layout::dense(&[2, 3]), Layout::dense(&[3, 4]), Layout::dense(&[2, 4]));
    let run = |g: &Gemm, scratch: &mut Scratch| gemm(Isa::detect(), g, &[1.0; 6], &[1.0; 12], &mut [0.0; 8], scratch);
    assert_eq!(run(&good, &mut scratch), Ok(()));
    let mut far = good.clone();
    far.b.base = 1;
    assert!(matches!(run(&far, &mut scratch), Err(KernelError::OutOfBounds { operand: "b", len: 12, .. })));
    let mut aliased = good.clone();
    aliased.out.strides[0] = 0;
    assert_eq!(run(&aliased, &mut scratch), Err(KernelError::Aliased { dim: 0, extent: 2 }));
    let mut odd = good.clone();
    odd.a = Layout::dense(&[2, 2]);
    assert!(matches!(run(&odd, &mut scratch), Err(KernelError::Shape { operand: "b", .. })));
    let mut flat = good;
    flat.out = Layout::dense(&[8]);
    assert!(matches!(run(&flat, &mut scratch), Err(KernelError::Shape { operand: "out", .. })));
}

/// The contract of bf16 products, written down again: pairs, the second term first, blocks of 512.
fn bf16_reference(g: &Gemm, a: &[bf16], b: &[bf16], before: &[f32]) -> Vec<(usize, f32)> {
    let rank = g.out.dims.len();
    let k = g.a.dims[rank - 1];
    indices(&g.out.dims)
        .into_iter()
        .map(|index| {
            let (mut x, mut y) = (index.clone(), index.clone());
            let place = position(&g.out, &index);
            let mut total = g.accumulate.then(|| before[place]);
            for q in (0..k).step_by(512) {
                let mut sum = 0.0f32;
                for p in (q..k.min(q + 512)).step_by(2) {
                    for term in [p + 1, p].into_iter().filter(|term| *term < k) {
                        (x[rank - 1], y[rank - 2]) = (term, term);
                        sum = a[position(&g.a, &x)].to_f32().mul_add(b[position(&g.b, &y)].to_f32(), sum);
                    }
                }
                total = Some(total.map_or(g.alpha * sum, |t| g.alpha.mul_add(sum, t)));
            }
            (place, total.unwrap_or(0.0))
        })
        .collect()
}

#[test]
fn bf16_products_are_their_contract_on_every_isa_and_in_parts() {
    let mut rng = Rng(6);
    let mut scratch = Scratch::new();
    for case in 0..160 {
        let (g, a_len, b_len, out_len) = random_gemm(&mut rng);
        let narrow = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let (a, b) = (narrow(rng.floats(a_len)), narrow(rng.floats(b_len)));
        let before = narrow(rng.floats(out_len)).iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        let mut want = before.clone();
        for (place, value) in bf16_reference(&g, &a, &b, &before) {
            want[place] = value;
        }
        let wide = |x: &[bf16]| x.iter().map(|x| x.to_f32() * (1.0 + 1e-3 * f32::EPSILON)).collect::<Vec<_>>();
        for isa in Isa::available() {
            let what = || format!("case {case} on {}: {g:?}", isa.name());
            let mut out = before.clone();
            gemm_bf16(isa, &g, &a, &b, &mut out, &mut scratch).unwrap();
            assert_eq!(bits(&want), bits(&out), "{}", what());
            let mut rounded = narrow(before.clone());
            gemm_bf16(isa, &g, &a, &b, &mut rounded, &mut scratch).unwrap();
            assert_eq!(narrow(want.clone()), rounded, "rounded, {}", what());
            let mut of_floats = before.clone();
            gemm_bf16(isa, &g, &wide(&a), &b, &mut of_floats, &mut scratch).unwrap();
            assert_eq!(bits(&want), bits(&of_floats), "floats on the left, {}", what());
            let mut of_floats = before.clone();
            gemm_bf16(isa, &g, &a, &wide(&b), &mut of_floats, &mut scratch).unwrap();
            assert_eq!(bits(&want), bits(&of_floats), "floats on the right, {}", what());
            for parts in [2, 3] {
                let mut out = narrow(before.clone());
                for piece in g.split(parts).iter().flatten() {
                    gemm_bf16(isa, piece, &a, &b, &mut out, &mut scratch).unwrap();
                }
                assert_eq!(rounded, out, "in {parts} parts, {}", what());
            }
        }
    }
}

/// Where sums are below 2⁻¹²⁶, instruction sets differ by the bound that the module states, and parts still not at all.
#[test]
fn bf16_products_of_tiny_numbers_stay_within_the_bound() {
    let mut rng = Rng(7);
    let mut scratch = Scratch::new();
    let (m, n, k) = (9, 70, 65);
    let tiny = |rng: &mut Rng, scale: f32, n: usize| rng.floats(n).iter().map(|x| bf16::from_f32(x * scale)).collect::<Vec<_>>();
    let (a, b) = (tiny(&mut rng, 1e-19, m * k), tiny(&mut rng, 1e-18, k * n));
    let g = Gemm::new(Layout::dense(&[m, k]), Layout::dense(&[k, n]), Layout::dense(&[m, n]));
    let exact = bf16_reference(&g, &a, &b, &[]);
    for isa in Isa::available() {
        let (mut whole, mut parts) = (vec![0.0f32; m * n], vec![0.0f32; m * n]);
        gemm_bf16(isa, &g, &a, &b, &mut whole, &mut scratch).unwrap();
        for (place, want) in &exact {
            let bound = k as f64 * 2f64.powi(-125);
            assert!((f64::from(whole[*place]) - f64::from(*want)).abs() <= bound, "{} is not {want} on {}", whole[*place], isa.name());
        }
        for piece in g.split(4).iter().flatten() {
            gemm_bf16(isa, piece, &a, &b, &mut parts, &mut scratch).unwrap();
        }
        assert_eq!(bits(&whole), bits(&parts));
    }
}

#[test]
fn pairs_packed_ahead_keep_the_bits() {
    let mut rng = Rng(9);
    let (mut scratch, mut packed) = (Scratch::new(), PackedB::new());
    for case in 0..60 {
        let (m, n, k) = (1 + rng.below(40), 1 + rng.below(300), rng.pick(&[1, 7, 64, 512, 514, 1100]));
        let narrow = |rng: &mut Rng, n: usize| rng.floats(n).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let turned = Layout { base: 0, dims: [m, k].as_slice().into(), strides: [1, m as isize].as_slice().into() };
        let la = if rng.below(2) == 0 { turned } else { Layout::dense(&[m, k]) };
        let (lb, b_len) = random_layout(&mut rng, &[k, n], 0);
        let (a, b) = (narrow(&mut rng, m * k), narrow(&mut rng, b_len));
        let g = Gemm::new(la, lb, Layout::dense(&[m, n]));
        for isa in Isa::available().filter(|isa| packs_pairs(*isa)) {
            let (mut want, mut got) = (vec![0.0f32; m * n], vec![1.0f32; m * n]);
            let (mut narrow_want, mut narrow_got) = (vec![bf16::ZERO; m * n], vec![bf16::ONE; m * n]);
            gemm_bf16(isa, &g, &a, &b, &mut want, &mut scratch).unwrap();
            gemm_bf16(isa, &g, &a, &b, &mut narrow_want, &mut scratch).unwrap();
            packed.pack_bf16(isa, &g.b, &b, &mut scratch).unwrap();
            for piece in g.split(1 + rng.below(4)).iter().flatten() {
                gemm_packed_bf16(piece, &a, &packed, &mut got, &mut scratch).unwrap();
                gemm_packed_bf16(piece, &a, &packed, &mut narrow_got, &mut scratch).unwrap();
            }
            assert_eq!(bits(&want), bits(&got), "case {case} on {}: {g:?}", isa.name());
            assert_eq!(narrow_want, narrow_got, "case {case} on {}: {g:?}", isa.name());
        }
    }
}

#[test]
fn packed_operands_keep_the_bits_and_their_memory() {
    let mut rng = Rng(8);
    let mut scratch = Scratch::new();
    let mut packed = PackedB::new();
    for case in 0..120 {
        let (m, n, k) = (1 + rng.below(70), 1 + rng.below(200), rng.pick(&[1, 7, 64, 256, 300, 600]));
        let (la, a_len) = random_layout(&mut rng, &[m, k], 0);
        let (lb, b_len) = random_layout(&mut rng, &[k, n], 0);
        let (a, b, before) = (rng.floats(a_len), rng.floats(b_len), rng.floats(m * n));
        let mut g = Gemm::new(la, lb, Layout::dense(&[m, n]));
        (g.alpha, g.accumulate) = (rng.pick(&[1.0, 0.5]), rng.below(2) == 0);
        for isa in Isa::available() {
            let (mut want, mut got) = (before.clone(), before.clone());
            gemm(isa, &g, &a, &b, &mut want, &mut scratch).unwrap();
            packed.pack(isa, &g.b, &b, m).unwrap();
            for piece in g.split(1 + rng.below(4)).iter().flatten() {
                gemm_packed(piece, &a, &packed, &mut got, &mut scratch).unwrap();
            }
            assert_eq!(bits(&want), bits(&got), "case {case} on {}: {g:?}", isa.name());
        }
    }
    let bytes = packed.bytes();
    let pairs: Vec<bf16> = rng.floats(6).into_iter().map(bf16::from_f32).collect();
    if packed.pack_bf16(Isa::detect(), &Layout::dense(&[2, 3]), &pairs, &mut scratch).is_ok() {
        let one = Gemm::new(Layout::dense(&[2, 2]), Layout::dense(&[2, 3]), Layout::dense(&[2, 3]));
        assert!(gemm_packed(&one, &[1.0; 4], &packed, &mut [0.0; 6], &mut scratch).is_err(), "pairs are no f32");
    }
    packed.pack(Isa::detect(), &Layout::dense(&[2, 3]), &[1.0; 6], 4).unwrap();
    assert_eq!((packed.bytes(), packed.extents()), (bytes, (2, 3)));
    let wrong = Gemm::new(Layout::dense(&[2, 3]), Layout::dense(&[3, 4]), Layout::dense(&[2, 4]));
    assert!(gemm_packed(&wrong, &[1.0; 6], &packed, &mut [0.0; 8], &mut scratch).is_err());
    let fine = Gemm::new(Layout::dense(&[2, 2]), Layout::dense(&[2, 3]), Layout::dense(&[2, 3]));
    assert!(gemm_packed(&fine, &[1.0; 4], &PackedB::new(), &mut [0.0; 6], &mut scratch).is_err());
}

/// Rows a page apart are copied before they are used.
#[test]
fn bf16_products_of_rows_a_page_apart_are_their_contract() {
    let mut rng = Rng(10);
    let mut scratch = Scratch::new();
    for (m, n, k) in [(15, 260, 2048), (300, 256, 2048)] {
        let narrow = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let (a, b) = (narrow(rng.floats(m * k)), narrow(rng.floats(k * n)));
        let g = Gemm::new(Layout::dense(&[m, k]), Layout::dense(&[k, n]), Layout::dense(&[m, n]));
        let want: Vec<f32> = bf16_reference(&g, &a, &b, &[]).into_iter().map(|(_, value)| value).collect();
        for isa in Isa::available().filter(|isa| packs_pairs(*isa) && *isa != Isa::Scalar) {
            let (mut wide, mut rounded) = (vec![0.0f32; m * n], vec![bf16::ZERO; m * n]);
            gemm_bf16(isa, &g, &a, &b, &mut wide, &mut scratch).unwrap();
            for piece in g.split(2).iter().flatten() {
                gemm_bf16(isa, piece, &a, &b, &mut rounded, &mut scratch).unwrap();
            }
            assert_eq!(bits(&want), bits(&wide), "{m} x {n} x {k} on {}", isa.name());
            assert_eq!(narrow(want.clone()), rounded, "{m} x {n} x {k} on {}", isa.name());
        }
    }
}
