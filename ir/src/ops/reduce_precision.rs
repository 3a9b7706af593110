//! `reduce_precision`: rounds to a float format of fewer bits and back (StableHLO `reduce_precision`).
//!
//! The mantissa is rounded to nearest, ties to even; what is then too large becomes infinite, and what is below the smallest normal number
//! of the format becomes zero. NaN stays NaN, or becomes infinite when the format has no mantissa to tell the two apart. Bits of the format
//! beyond those of the type change nothing. The derivative is the rounded cotangent: rounding counts as the identity.
//!
//! (C1) one operand; (C2) of a float type of at least 16 bits; (C3) `exponent` is at least 1.

use super::composite::alike_floats;
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::ops::bitcast_convert::BitcastConvert;
use crate::scalar::{BinaryFn, CompareFn};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    ReducePrecision {
        /// Exponent bits of the format.
        exponent: usize,
        /// Explicit mantissa bits of the format.
        mantissa: usize,
    }
}

/// Exponent and mantissa bits of a type, and the unsigned integer type of its size.
fn layout(dtype: DType) -> Option<(usize, usize, DType)> {
    Some(match dtype {
        DType::F64 => (11, 52, DType::U64),
        DType::F32 => (8, 23, DType::U32),
        DType::BF16 => (8, 7, DType::U16),
        DType::F16 => (5, 10, DType::U16),
        _ => return None,
    })
}

impl OpDef for ReducePrecision {
    const NAMES: &'static [&'static str] = &["reduce_precision"];
    fn name(&self) -> &'static str {
        "reduce_precision"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let a = alike_floats("reduce_precision", ins, 1)?;
        match layout(a.dtype) {
            Some(_) if self.exponent == 0 => Err(InferError::new("reduce_precision", "(C3) a format has at least one exponent bit")),
            Some(_) => Ok(a.clone().into()),
            None => Err(InferError::new("reduce_precision", format!("(C2) is not defined on {}", a.dtype))),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 12)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let dtype = ins[0].dtype();
        let values = ins[0].floats().into_iter().map(|v| self.round(dtype, v)).collect();
        vec![Tensor::new_float(out.components()[0].clone(), values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let g = cx.cotangent();
        Ok(vec![Some(cx.graph.emit(self.clone(), &[g]))])
    }
}

impl ReducePrecision {
    fn round(&self, dtype: DType, v: f64) -> f64 {
        let Some((exponent, mantissa, _)) = layout(dtype) else { return v };
        if v == 0.0 || !v.is_finite() {
            return if v.is_nan() && self.mantissa == 0 { f64::INFINITY } else { v };
        }
        let own = (v.to_bits() >> 52 & 0x7ff) as i32 - 1023;
        let mut r = v;
        if self.mantissa < mantissa {
            // A subnormal number of the type has the spacing of the smallest normal ones.
            let low = 2 - (1 << (exponent - 1));
            let step = own.max(low) - self.mantissa as i32;
            // In two steps, since neither power need be a number by itself.
            let scaled = |x: f64, n: i32| x * 2f64.powi(n / 2) * 2f64.powi(n - n / 2);
            r = scaled(scaled(v, -step).round_ties_even(), step);
        }
        if self.exponent < exponent {
            let bias = (1 << (self.exponent - 1)) - 1;
            let (low, most) = (2f64.powi(1 - bias), 2f64.powi(bias) * (2.0 - 2f64.powi(-(self.mantissa.min(mantissa) as i32))));
            if r.abs() > most {
                r = f64::INFINITY;
            } else if r.abs() < low {
                r = 0.0;
            }
        }
        r.copysign(v)
    }
}

impl Composite for ReducePrecision {
    fn expand(&self, b: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let x = operands[0];
        let dtype = b.tensor_ty(x).dtype;
        let Some((exponent, mantissa, int)) = layout(dtype) else { return vec![x] };
        let ty = b.tensor_ty(x).with_dtype(int);
        let number = |b: &mut Graph, v: u64| {
            let c = b.constant(&Tensor::scalar_int(int, v as i64));
            b.broadcast(c, &ty.shape, &[])
        };
        let whole = exponent + mantissa;
        let sign = 1u64 << whole;
        let bits = b.emit(BitcastConvert { to: int }, &[x]);
        let mut r = bits;
        if self.mantissa < mantissa {
            // Half of the last place that stays, less one, plus that place: a carry rounds up, ties to even.
            let dropped = (mantissa - self.mantissa) as u64;
            let (shift, one, half) = (number(b, dropped), number(b, 1), number(b, (1 << (dropped - 1)) - 1));
            let last = b.binary(BinaryFn::ShrLogical, bits, shift);
            let last = b.binary(BinaryFn::And, last, one);
            r = b.plus(r, half);
            r = b.plus(r, last);
            let keep = number(b, !((1u64 << dropped) - 1));
            r = b.binary(BinaryFn::And, r, keep);
        }
        if self.exponent < exponent {
            let (bias, narrow) = ((1u64 << (exponent - 1)) - 1, (1u64 << (self.exponent - 1)) - 1);
            let (low, high) = ((bias + 1 - narrow) << mantissa, (bias + narrow + 1) << mantissa);
            let (rest, only) = (number(b, sign - 1), number(b, sign));
            let (magnitude, signed) = (b.binary(BinaryFn::And, r, rest), b.binary(BinaryFn::And, bits, only));
            let (low, high, inf) = (number(b, low), number(b, high), number(b, ((1 << exponent) - 1) << mantissa));
            let (small, large) = (b.compare(CompareFn::Lt, magnitude, low), b.compare(CompareFn::Ge, magnitude, high));
            let inf = b.binary(BinaryFn::Or, signed, inf);
            r = b.select(large, inf, r);
            r = b.select(small, signed, r);
        }
        let r = b.emit(BitcastConvert { to: dtype }, &[r]);
        let nan = b.compare(CompareFn::Ne, x, x);
        let instead = if self.mantissa == 0 { b.splat_like(x, f64::INFINITY) } else { x };
        vec![b.select(nan, instead, r)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Role;
    use crate::interp;

    #[test]
    fn the_expansion_and_the_definition_agree_on_every_kind_of_number() {
        let mut values =
            vec![0.0, -0.0, 1.0, 65504.0, 65520.0, 65519.0, 3.4e38, 6.1e-5, 6.0e-5, 1e-40, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        let mut random = crate::graph::random::Random::new(5);
        values.extend((0..300).map(|i| random.unit() * 2f64.powi(i % 280 - 140)));
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let x = Tensor::new_float(TensorType::new(dtype, [values.len()]), values.clone());
            for (exponent, mantissa) in [(8, 7), (5, 10), (5, 2), (4, 3), (8, 23), (5, 52), (2, 0)] {
                let op = ReducePrecision { exponent, mantissa };
                let Ok(out) = op.infer(&[x.ty()]) else { continue };
                let mut g = Graph::new("expanded");
                let v = g.input("x", x.ty().clone(), Role::Data);
                let y = op.expand(&mut g, &[v]).remove(0);
                g.output("y", y);
                let got = interp::eval(&g, &[x.clone()]).unwrap().remove(0).to_literal();
                let want = op.eval(&[&x], &out).remove(0).to_literal();
                assert_eq!(got, want, "{dtype} {exponent} {mantissa}");
            }
        }
    }

    #[test]
    fn known_values() {
        let op = ReducePrecision { exponent: 5, mantissa: 10 };
        assert_eq!(op.round(DType::F32, 65520.0), f64::INFINITY);
        assert_eq!(op.round(DType::F32, 5e-5).to_bits(), 0);
        assert_eq!(op.round(DType::F32, 1.0 + 2f64.powi(-11)), 1.0);
        assert_eq!(op.round(DType::F32, 1.0 + 3.0 * 2f64.powi(-11)), 1.0 + 2f64.powi(-9));
    }
}
