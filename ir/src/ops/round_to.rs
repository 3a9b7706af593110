//! `round_to`: rounds to the numbers of a small float format that is no element type of the IR.
//!
//! The result is the nearest number of the format, ties to an even mantissa; what is beyond the largest number becomes infinite, NaN or the
//! largest number, as the format has them, see [`SmallFloat`]. The derivative is the cotangent: rounding counts as the identity.
//!
//! (C1) one operand; (C2) of type f32 or f64.

use super::composite::alike_floats;
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::ops::bitcast_convert::BitcastConvert;
use crate::scalar::{BinaryFn, CompareFn, UnaryFn};
use crate::small_float::{Overflow, SmallFloat};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    RoundTo {
        /// The format.
        format: SmallFloat,
    }
}

/// The unsigned integer type of a float type's size, its mantissa bits, its bias, and the bits of the exponent in place.
fn layout(dtype: DType) -> Option<(DType, u32, i32, u64)> {
    Some(match dtype {
        DType::F32 => (DType::U32, 23, 127, 0xff << 23),
        DType::F64 => (DType::U64, 52, 1023, 0x7ff << 52),
        _ => return None,
    })
}

impl OpDef for RoundTo {
    const NAMES: &'static [&'static str] = &["round_to"];
    fn name(&self) -> &'static str {
        "round_to"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let a = alike_floats("round_to", ins, 1)?;
        match layout(a.dtype) {
            Some(_) => Ok(a.clone().into()),
            None => Err(InferError::new("round_to", format!("(C2) is not defined on {}", a.dtype))),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 12)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let values = ins[0].floats().into_iter().map(|v| self.format.round(v)).collect();
        vec![Tensor::new_float(out.components()[0].clone(), values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(vec![Some(cx.cotangent())])
    }
}

impl Composite for RoundTo {
    fn expand(&self, b: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let (x, f) = (operands[0], self.format);
        let dtype = b.tensor_ty(x).dtype;
        let Some((int, mantissa, bias, exponent)) = layout(dtype) else { return vec![x] };
        let ty = b.tensor_ty(x).with_dtype(int);
        let number = |b: &mut Graph, v: u64| {
            let c = b.constant(&Tensor::scalar_int(int, v as i64));
            b.broadcast(c, &ty.shape, &[])
        };
        // The power of two at or below the magnitude, or the lowest; then the distance of neighbors there. All scales are exact.
        let a = b.unary(UnaryFn::Abs, x);
        let bits = b.emit(BitcastConvert { to: int }, &[a]);
        let (mask, low) = (number(b, exponent), number(b, ((f.low_exponent() + bias) as u64) << mantissa));
        let power = b.binary(BinaryFn::And, bits, mask);
        let power = b.binary(BinaryFn::Max, power, low);
        let power = b.emit(BitcastConvert { to: dtype }, &[power]);
        let unit = b.scaled(power, 2f64.powi(-(f.mantissa() as i32)));
        let units = b.over(a, unit);
        let units = b.unary(UnaryFn::RoundEven, units);
        let mut r = b.times(units, unit);
        if !f.is_signed() {
            let (smallest, middle) = (b.splat_like(x, f.smallest()), b.splat_like(x, 1.5 * f.smallest()));
            let tiny = b.compare(CompareFn::Lt, a, middle);
            r = b.select(tiny, smallest, r);
        }
        // Also false of NaN, which infinity makes above.
        let largest = b.splat_like(x, f.largest());
        let fits = b.compare(CompareFn::Le, r, largest);
        let beyond = match f.overflow() {
            Overflow::Infinite => b.splat_like(x, f64::INFINITY),
            Overflow::Nan => b.splat_like(x, f64::NAN),
            Overflow::Largest => largest,
        };
        r = b.select(fits, r, beyond);
        if !f.is_signed() {
            let (zero, nan) = (b.splat_like(x, 0.0), b.splat_like(x, f64::NAN));
            let none = b.compare(CompareFn::Le, x, zero);
            return vec![b.select(none, nan, r)];
        }
        let (signed, only) = (b.emit(BitcastConvert { to: int }, &[x]), number(b, (exponent << 1) & !exponent));
        let sign = b.binary(BinaryFn::And, signed, only);
        let r = b.emit(BitcastConvert { to: int }, &[r]);
        let r = b.binary(BinaryFn::Or, r, sign);
        let mut r = b.emit(BitcastConvert { to: dtype }, &[r]);
        if !f.has_negative_zero() {
            let zero = b.splat_like(x, 0.0);
            let none = b.compare(CompareFn::Eq, r, zero);
            r = b.select(none, zero, r);
        }
        if f.overflow() != Overflow::Nan {
            let nan = b.compare(CompareFn::Ne, x, x);
            let instead = if f.overflow() == Overflow::Infinite { x } else { b.splat_like(x, -0.0) };
            r = b.select(nan, instead, r);
        }
        vec![r]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Role;
    use crate::interp;

    #[test]
    fn the_expansion_and_the_definition_agree_on_every_kind_of_number() {
        let mut random = crate::graph::random::Random::new(7);
        for format in SmallFloat::ALL.iter().copied() {
            let mut values = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 3.4e38, -3.4e38, 1e-40, -1e-45];
            for bits in 0..(1u32 << format.bits()) {
                let (v, next) = (format.decode(bits as u8), format.decode((bits + 1) as u8));
                values.extend([v, (v + next) / 2.0, v * 1.01, v * 0.99]);
            }
            values.extend((0..300).map(|i| random.unit() * 2f64.powi(i % 280 - 140)));
            for dtype in [DType::F64, DType::F32] {
                let x = Tensor::new_float(TensorType::new(dtype, [values.len()]), values.clone());
                let op = RoundTo { format };
                let out = op.infer(&[x.ty()]).unwrap();
                let mut g = Graph::new("expanded");
                let v = g.input("x", x.ty().clone(), Role::Data);
                let y = op.expand(&mut g, &[v]).remove(0);
                g.output("y", y);
                let got = interp::eval(&g, &[x.clone()]).unwrap().remove(0).floats();
                let want = op.eval(&[&x], &out).remove(0).floats();
                for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                    let same = g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
                    assert!(same, "{format} {dtype}: {} becomes {g}, not {w}", x.floats()[i]);
                }
            }
        }
    }

    #[test]
    fn only_wide_types_are_rounded() {
        let op = RoundTo { format: SmallFloat::F4E2M1FN };
        assert!(op.infer(&[&TensorType::new(DType::BF16, [2])]).is_err());
        assert!(op.infer(&[&TensorType::new(DType::I32, [2])]).is_err());
        assert!(op.infer(&[]).is_err());
    }
}
