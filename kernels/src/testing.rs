//! What the tests of several kernels share: a seeded generator, storage in random layouts, and comparison with wide tensors.

use crate::buffer::{Buf, BufMut, View, ViewMut};
use girih_ir::literal::Literal;
use girih_ir::tensor::{Data, Tensor, indices, position};
use girih_ir::types::{DType, Layout, TensorType, element_count};

/// A small generator with a seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// Uniform in [−1, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
    pub(crate) fn tensor(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let ty = TensorType::new(dtype, dims);
        let n = ty.elements();
        if dtype.is_float() {
            Tensor::new_float(ty, (0..n).map(|_| self.unit() * 4.0).collect())
        } else if dtype == DType::Bool {
            Tensor::new_int(ty, (0..n).map(|_| (self.next() & 1) as i64).collect())
        } else {
            Tensor::new_int(ty, (0..n).map(|_| (self.next() >> (self.next() % 64)) as i64).collect())
        }
    }
    /// A layout of these extents in a slice with gaps: dimensions in random memory order, some reversed.
    pub(crate) fn layout(&mut self, dims: &[usize]) -> (Layout, usize) {
        let mut order: Vec<usize> = (0..dims.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i + 1));
        }
        if self.below(2) == 0 {
            order.sort_unstable();
        }
        let mut layout = Layout::dense(dims);
        let (mut step, mut base) = (1 + self.below(5) / 4, self.below(3));
        for d in order.into_iter().rev() {
            let flip = self.below(5) == 0;
            layout.strides[d] = if flip { -(step as isize) } else { step as isize };
            if flip {
                base += step * dims[d].saturating_sub(1);
            }
            step *= dims[d].max(1);
            step += self.below(6) / 5;
        }
        layout.base = base;
        let len = layout.extent().map_or(0, |r| r.end) + self.below(3);
        (layout, len)
    }
}

/// Element storage with the alignment of the widest element.
#[derive(Clone)]
pub(crate) struct Store {
    words: Vec<u64>,
    pub(crate) layout: Layout,
    dtype: DType,
    len: usize,
}

impl Store {
    pub(crate) fn empty(dtype: DType, layout: Layout, len: usize) -> Self {
        Store {
            words: vec![
                0x5a5a_5a5a_5a5a_5a5a & if dtype == DType::Bool { 0x0101_0101_0101_0101 } else { !0 };
                (len * dtype.size()).div_ceil(8)
            ],
            layout,
            dtype,
            len,
        }
    }
    /// The elements of a tensor, laid out.
    pub(crate) fn of(t: &Tensor, layout: Layout, len: usize) -> Self {
        let mut store = Store::empty(t.dtype(), layout, len);
        let (literal, size) = (t.to_literal(), t.dtype().size());
        for i in indices(t.shape()) {
            let (p, at) = (position(t.shape(), &i), store.at(&i));
            bytemuck::cast_slice_mut::<u64, u8>(&mut store.words)[at * size..(at + 1) * size]
                .copy_from_slice(&literal.bytes()[p * size..(p + 1) * size]);
        }
        store
    }
    pub(crate) fn dense(t: &Tensor) -> Self {
        Store::of(t, Layout::dense(t.shape()), t.ty().elements())
    }
    pub(crate) fn random(rng: &mut Rng, t: &Tensor) -> Self {
        let (layout, len) = rng.layout(t.shape());
        Store::of(t, layout, len)
    }
    fn at(&self, i: &[usize]) -> usize {
        i.iter().zip(&self.layout.strides).fold(self.layout.base as isize, |at, (i, s)| at + *i as isize * s) as usize
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len * self.dtype.size()]
    }
    pub(crate) fn view(&self) -> View<'_> {
        View::new(Buf::new(self.dtype, self.bytes()).unwrap(), self.layout.clone()).unwrap()
    }
    /// The elements through another layout.
    pub(crate) fn view_as(&self, layout: Layout) -> View<'_> {
        View::new(Buf::new(self.dtype, self.bytes()).unwrap(), layout).unwrap()
    }
    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        let layout = self.layout.clone();
        self.view_mut_as(layout)
    }
    pub(crate) fn view_mut_as(&mut self, layout: Layout) -> ViewMut<'_> {
        let n = self.len * self.dtype.size();
        let bytes = &mut bytemuck::cast_slice_mut(&mut self.words)[..n];
        ViewMut::new(BufMut::new(self.dtype, bytes).unwrap(), layout).unwrap()
    }
    pub(crate) fn tensor(&self) -> Tensor {
        let (ty, size) = (TensorType::new(self.dtype, &self.layout.dims), self.dtype.size());
        let mut out = Vec::with_capacity(ty.bytes());
        for i in indices(&self.layout.dims) {
            let at = self.at(&i) * size;
            out.extend_from_slice(&self.bytes()[at..at + size]);
        }
        Tensor::from_literal(&Literal::new(ty, out).unwrap())
    }
}

/// Distance of two floats in units of the last place of `want` in that element type.
pub(crate) fn ulps(dtype: DType, got: f64, want: f64) -> f64 {
    if got == want || (got.is_nan() && want.is_nan()) {
        return 0.0;
    }
    let (digits, low) = match dtype {
        DType::F32 => (23, -126),
        DType::BF16 => (7, -126),
        DType::F16 => (10, -14),
        DType::F8E4M3FN => (3, -6),
        DType::F8E5M2 => (2, -14),
        _ => (52, -1022),
    };
    let exponent = (want.abs().max(f64::MIN_POSITIVE).log2().floor() as i32).max(low);
    let distance = (got - want).abs() / 2f64.powi(exponent - digits);
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// Asserts equality: exact for integers, within `most` ulp plus `absolute` for floats.
#[track_caller]
pub(crate) fn assert_close(got: &Tensor, want: &Tensor, most: f64, absolute: f64, what: &str) {
    assert_eq!(got.ty(), want.ty(), "{what}");
    match (got.data(), want.data()) {
        (Data::Int(a), Data::Int(b)) => assert_eq!(a, b, "{what}"),
        (Data::Float(a), Data::Float(b)) => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                let d = ulps(got.dtype(), *a, *b);
                assert!(d <= most || (a - b).abs() <= absolute, "{what}: element {i} is {a:e}, not {b:e} ({d} ulp)");
            }
        }
        _ => panic!("{what}: {} against {}", got.ty(), want.ty()),
    }
}

/// The bytes, with every NaN made the same.
pub(crate) fn bits(t: &Tensor) -> Vec<u8> {
    let t = match t.data() {
        Data::Float(v) => Tensor::new_float(t.ty().clone(), v.iter().map(|x| if x.is_nan() { f64::NAN } else { *x }).collect()),
        Data::Int(_) => t.clone(),
    };
    t.to_literal().bytes().to_vec()
}

/// Random extents of a rank, few elements.
pub(crate) fn dims(rng: &mut Rng, rank: usize, most: usize) -> Vec<usize> {
    loop {
        let d: Vec<usize> = (0..rank).map(|_| 1 + rng.below(most)).collect();
        if element_count(&d) <= 20_000 {
            return d;
        }
    }
}
