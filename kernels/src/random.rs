//! Counter-based random numbers in any layout: the same numbers however the tensor is split.
//!
//! The generator is the op's own, [`Stream`]; here it runs block by block over the rows of a part of the logical tensor.

use crate::buffer::{ViewMut, check_shape};
use crate::error::KernelError;
use crate::lane::{Lane, Value, by_dtype};
use girih_ir::ops::random::{Distribution, Stream};
use girih_ir::scalar::Wide;
use girih_ir::tensor::indices;
use girih_ir::types::{DType, Dims};

/// Fills `out` with the numbers of a stream. `origin` is empty, or says for every dimension the global index of the first element and the
/// global extent.
pub fn random(distribution: Distribution, stream: &Stream, origin: &[(u64, u64)], out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    let dtype = out.dtype();
    let fits = if distribution == Distribution::Bits { dtype.is_int() } else { dtype.is_float() };
    if !fits {
        return Err(KernelError::ElementType { operand: "out", have: dtype, want: if dtype.is_float() { DType::U32 } else { DType::F32 } });
    }
    let whole: Vec<(u64, u64)> = out.dims().iter().map(|d| (0, *d as u64)).collect();
    let origin = if origin.is_empty() { &whole[..] } else { origin };
    check_shape("one origin a dimension", "origin", &[origin.len()], &[out.dims().len()])?;
    if let Some((d, _)) = out
        .dims()
        .iter()
        .zip(origin)
        .enumerate()
        .map(|(d, (e, o))| (d, o.0.checked_add(*e as u64).is_some_and(|end| end <= o.1)))
        .find(|x| !x.1)
    {
        return Err(KernelError::Attribute { name: "origin", value: d as i64, rule: "a part inside the global extents" });
    }
    by_dtype!(dtype, L => fill::<L>(distribution, stream, origin, out));
    Ok(())
}

fn fill<L: Lane>(distribution: Distribution, stream: &Stream, origin: &[(u64, u64)], out: &mut ViewMut<'_>) {
    let (to, layout) = out.parts::<L>();
    let (n, step) = layout.dims.last().zip(layout.strides.last()).map_or((1, 0), |(n, s)| (*n, *s));
    let mut rows: Dims = layout.dims.clone();
    if let Some(last) = rows.last_mut() {
        *last = (*last).min(1);
    }
    // Four elements share a block of 32-bit words.
    let mut held: Option<(u64, [u32; 4])> = None;
    for row in indices(&rows) {
        let (mut at, mut element) = (layout.base as isize, 0u64);
        for (d, i) in row.iter().enumerate() {
            at += *i as isize * layout.strides[d];
            element = element.wrapping_mul(origin[d].1).wrapping_add(origin[d].0 + *i as u64);
        }
        for k in 0..n {
            let e = element.wrapping_add(k as u64);
            let mut bits32 = || match held {
                Some((block, words)) if block == e / 4 => words[(e % 4) as usize],
                _ => {
                    let words = stream.block(e / 4);
                    held = Some((e / 4, words));
                    words[(e % 4) as usize]
                }
            };
            let wide = match distribution {
                Distribution::Bits if L::DTYPE.size() == 8 => Wide::I(stream.bits64(e) as i64),
                Distribution::Bits => Wide::I(i64::from(bits32())),
                Distribution::Uniform if L::DTYPE == DType::F32 => Wide::F(f64::from(bits32() >> 8) / f64::from(1u32 << 24)),
                Distribution::Uniform => Wide::F(stream.uniform(L::DTYPE, e)),
                Distribution::Normal => Wide::F(girih_ir::tensor::round_float(L::DTYPE, stream.normal(L::DTYPE, e))),
            };
            to[(at + k as isize * step) as usize] = L::narrow(L::Value::from_wide(wide));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::random;
    use crate::testing::{Rng, Store, bits};
    use girih_ir::ops::Op;
    use girih_ir::ops::random::{Distribution, Random, Stream};
    use girih_ir::tensor::Tensor;
    use girih_ir::types::{DType, Dims, Type};

    #[test]
    fn parts_hold_the_numbers_of_the_op() {
        let mut rng = Rng(20);
        let shape = [5, 7, 6];
        for dtype in DType::ALL {
            for distribution in Distribution::ALL {
                let op = Random { distribution, dtype, shape: Dims::from_slice(&shape), seed: -3 };
                let scalars = [Tensor::scalar_int(DType::U64, 77), Tensor::scalar_int(DType::U32, 9)];
                let types: Vec<Type> = scalars.iter().map(|t| t.ty().clone().into()).collect();
                let Ok(out) = Op::from(op.clone()).infer(&types.iter().collect::<Vec<_>>()) else { continue };
                let want = Op::from(op).eval(&[&scalars[0], &scalars[1]], &out).remove(0);
                let (layout, len) = rng.layout(&shape);
                let mut store = Store::empty(dtype, layout.clone(), len);
                let stream = Stream::new(-3, 77, 9);
                // Two parts along the second dimension.
                for (first, count) in [(0, 3), (3, 4)] {
                    let mut part = layout.clone();
                    part.base = (part.base as isize + first as isize * part.strides[1]) as usize;
                    part.dims[1] = count;
                    random(distribution, &stream, &[(0, 5), (first as u64, 7), (0, 6)], &mut store.view_mut_as(part)).unwrap();
                }
                assert_eq!(bits(&store.tensor()), bits(&want), "{} {dtype}", distribution.name());
            }
        }
    }
}
