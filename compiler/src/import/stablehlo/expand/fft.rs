//! Discrete Fourier transforms (StableHLO `fft`) as matrix products.
//!
//! A length with factors is split (Cooley and Tukey 1965) until the parts are at most [`DIRECT`] or prime; each part is a product with a
//! table of cosines and sines that were computed in f64. Matrix products are what the machines are good at, and every length works.

use super::Number;
use super::build::{concat, conj, each, reverse, slice, times};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

/// Lengths up to this are one matrix product.
const DIRECT: usize = 48;
/// The largest prime factor: its table has the square of it.
const LARGEST: usize = 4096;

/// The kinds of `fft`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FftKind {
    /// Forward, complex to complex.
    Fft,
    /// Inverse, complex to complex.
    Ifft,
    /// Forward, real to the first half of complex.
    Rfft,
    /// Inverse, the first half of complex to real.
    Irfft,
}

impl FftKind {
    /// The kind of that name: `FFT`, `IFFT`, `RFFT`, `IRFFT`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "FFT" => FftKind::Fft,
            "IFFT" => FftKind::Ifft,
            "RFFT" => FftKind::Rfft,
            "IRFFT" => FftKind::Irfft,
            _ => return None,
        })
    }
}

/// The transform over the last `lengths.len()` dimensions. `None` when the lengths do not fit or have too large a prime factor.
pub fn fft(b: &mut Graph, x: Number, kind: FftKind, lengths: &[usize]) -> Option<Number> {
    let shape = b.shape(x.re).to_vec();
    let first = shape.len().checked_sub(lengths.len()).filter(|_| !lengths.is_empty())?;
    let last = shape.len() - 1;
    let n = *lengths.last()?;
    let half = n / 2 + 1;
    let stored = if kind == FftKind::Irfft { half } else { n };
    let fits = shape[first..last].iter().eq(&lengths[..lengths.len() - 1]) && shape[last] == stored;
    if !fits || lengths.iter().any(|n| *n == 0 || factor(*n).is_none()) {
        return None;
    }
    match kind {
        FftKind::Fft => (first..=last).try_fold(x, |x, d| along(b, x, d)),
        FftKind::Ifft => inverse(b, x, first..last + 1),
        FftKind::Rfft => {
            let y = along(b, Number::real(x.re), last)?;
            let y = each(b, y, |b, v| slice(b, v, last, 0, half));
            (first..last).try_fold(y, |y, d| along(b, y, d))
        }
        FftKind::Irfft => {
            let y = inverse(b, x, first..last)?;
            // The rest is the mirror image, conjugate; what is its own image is real.
            let rest = each(b, y, |b, v| {
                let v = slice(b, v, last, 1, n - half + 1);
                reverse(b, v, &[last])
            });
            let rest = conj(b, rest);
            let mut whole = super::build::join(b, &[y, rest], |b, p| concat(b, p, last));
            if let Some(im) = whole.im {
                // Imaginary parts at 0 and n/2 are ignored.
                let own: Vec<f64> = (0..n).map(|k| if k == 0 || 2 * k == n { 0.0 } else { 1.0 }).collect();
                let mask = b.constant(&Tensor::new_float(TensorType::new(b.tensor_ty(im).dtype, [n]), own));
                let shape = b.shape(im).to_vec();
                let mask = b.broadcast(mask, &shape, &[last]);
                whole.im = Some(b.times(im, mask));
            }
            inverse(b, whole, last..last + 1).map(|z| Number::real(z.re))
        }
    }
}

/// conj(F(conj x)) / n over these dimensions.
fn inverse(b: &mut Graph, x: Number, dims: std::ops::Range<usize>) -> Option<Number> {
    let count: usize = dims.clone().map(|d| b.shape(x.re)[d]).product();
    let y = conj(b, x);
    let y = dims.into_iter().try_fold(y, |y, d| along(b, y, d))?;
    let y = conj(b, y);
    Some(each(b, y, |b, v| {
        let by = b.splat_like(v, 1.0 / count as f64);
        b.times(v, by)
    }))
}

/// How a length is split: `(n, 1)` when it is not.
fn factor(n: usize) -> Option<(usize, usize)> {
    if n <= DIRECT {
        return Some((n, 1));
    }
    match (2..=DIRECT).rev().find(|p| n.is_multiple_of(*p)) {
        Some(p) => factor(n / p).map(|_| (p, n / p)),
        None => {
            let least = (DIRECT + 1..).take_while(|p| p * p <= n).find(|p| n.is_multiple_of(*p)).unwrap_or(n);
            (least <= LARGEST && (least == n || factor(n / least).is_some())).then_some((least, n / least))
        }
    }
}

/// The transform along one dimension.
fn along(b: &mut Graph, x: Number, dim: usize) -> Option<Number> {
    let rank = b.shape(x.re).len();
    let mut order: Vec<usize> = (0..rank).filter(|d| *d != dim).collect();
    order.push(dim);
    let y = each(b, x, |b, v| b.transpose(v, &order));
    let y = trailing(b, y)?;
    let back: Vec<usize> = (0..rank).map(|d| order.iter().position(|o| *o == d).unwrap_or(d)).collect();
    Some(each(b, y, |b, v| b.transpose(v, &back)))
}

/// cos and −sin of 2π jk / n over j < rows, k < columns.
fn table(b: &mut Graph, dtype: DType, n: usize, rows: usize, columns: usize) -> Number {
    let angle = |i: usize| {
        // The angle is reduced exactly, to an eighth of the circle.
        let k = (i / columns) * (i % columns) % n;
        let (eighth, rest) = (8 * k / n, (8 * k % n) as f64 / n as f64);
        let (turn, within) = if eighth % 2 == 0 { (eighth, rest) } else { (eighth + 1, rest - 1.0) };
        let (s, c) = (within * std::f64::consts::FRAC_PI_4).sin_cos();
        match turn / 2 % 4 {
            0 => (c, s),
            1 => (-s, c),
            2 => (-c, -s),
            _ => (s, -c),
        }
    };
    let ty = TensorType::new(dtype, [rows, columns]);
    let (c, s): (Vec<f64>, Vec<f64>) = (0..rows * columns).map(angle).map(|(c, s)| (c, -s)).unzip();
    let re = b.constant(&Tensor::new_float(ty.clone(), c));
    Number::complex(re, b.constant(&Tensor::new_float(ty, s)))
}

/// The transform along the last dimension.
fn trailing(b: &mut Graph, x: Number) -> Option<Number> {
    let ty = b.tensor_ty(x.re).clone();
    let (lead, n) = (&ty.shape[..ty.rank() - 1], ty.shape[ty.rank() - 1]);
    let (p, q) = factor(n)?;
    if q == 1 {
        let w = table(b, ty.dtype, n, n, n);
        return Some(super::build::product(b, x, w, dot_last));
    }
    // Input index j = j₁q + j₂, output index k = k₁ + pk₂.
    let rank = lead.len();
    let with = |tail: [usize; 2]| [lead, &tail].concat();
    let mut swapped: Vec<usize> = (0..rank + 2).collect();
    swapped.swap(rank, rank + 1);
    let y = each(b, x, |b, v| {
        let v = b.reshape(v, &with([p, q]));
        b.transpose(v, &swapped)
    });
    let y = trailing(b, y)?;
    let twiddle = table(b, ty.dtype, n, q, p);
    let twiddle = each(b, twiddle, |b, v| b.broadcast(v, &with([q, p]), &[rank, rank + 1]));
    let y = times(b, y, twiddle);
    let y = each(b, y, |b, v| b.transpose(v, &swapped));
    let y = trailing(b, y)?;
    Some(each(b, y, |b, v| {
        let v = b.transpose(v, &swapped);
        b.reshape(v, &ty.shape)
    }))
}

/// x[…, j] w[j, k], summed over j.
fn dot_last(b: &mut Graph, x: ValueId, w: ValueId) -> ValueId {
    let rank = b.shape(x).len();
    b.emit(DotGeneral::matmul(rank, 0, 0), &[x, w])
}
