//! `bitcast_convert`: the same bits as elements of another type (StableHLO `bitcast_convert` between types of one size; between sizes it
//! is this op with shifts, see `compiler/src/import/stablehlo/expand/bits.rs`).
//!
//! The quiet bit of a NaN may be set on the way: a float is a value, not its bits.
//!
//! (C1) one operand; (C2) both types have the same size; (C3) neither is `bool`, whose bytes are only 0 and 1.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::float::{from_bits, to_bits};
use crate::graph::ValueId;
use crate::scalar::Wide;
use crate::tensor::{Tensor, wrap_int};
use crate::types::{DType, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    BitcastConvert {
        /// The new element type.
        to: DType,
    }
}

/// Whether every bit pattern of one type is one of the other.
pub fn same_bits(from: DType, to: DType) -> bool {
    from.size() == to.size() && from != DType::Bool && to != DType::Bool
}

/// One element.
pub(super) fn bits(from: DType, to: DType, v: Wide) -> Wide {
    let bits = match v {
        Wide::F(v) => to_bits(from, v),
        Wide::I(v) => v as u64,
    };
    if to.is_float() { Wide::F(from_bits(to, bits)) } else { Wide::I(wrap_int(to, bits as i64)) }
}

impl OpDef for BitcastConvert {
    const NAMES: &'static [&'static str] = &["bitcast_convert"];
    fn name(&self) -> &'static str {
        "bitcast_convert"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("bitcast_convert", format!("(C1) takes 1 operand, not {}", ins.len()))) };
        if !same_bits(a.dtype, self.to) {
            let why = format!("(C2, C3) {} and {} are not numbers of one size", a.dtype, self.to);
            return Err(InferError::new("bitcast_convert", why));
        }
        Ok(a.with_dtype(self.to).into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 1)
    }
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        vec![ins[0].bitcast(self.to)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        if cx.graph.tensor_ty(cx.operands[0]).dtype.is_float() {
            return Err(NoVjp { op: "bitcast_convert", why: "the bits of a number are not a differentiable function of it" });
        }
        Ok(vec![None])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stay() {
        let x = Tensor::new_float(TensorType::new(DType::F32, [3]), vec![1.0, -0.0, f64::INFINITY]);
        let y = x.bitcast(DType::U32);
        assert_eq!(y.ints(), [0x3f80_0000, 0x8000_0000, 0x7f80_0000]);
        assert_eq!(y.bitcast(DType::F32), x);
        assert_eq!(Tensor::scalar_int(DType::U8, 0xfe).bitcast(DType::F8E4M3FN).floats(), [-448.0]);
        assert_eq!(Tensor::scalar_float(DType::F8E5M2, -2.0).bitcast(DType::I8).ints(), [-64]);
        let t = TensorType::new(DType::F32, [3]);
        assert!(BitcastConvert { to: DType::U64 }.infer(&[&t]).is_err() && BitcastConvert { to: DType::I32 }.infer(&[&t]).is_ok());
        assert!(BitcastConvert { to: DType::Bool }.infer(&[&t.with_dtype(DType::U8)]).is_err());
    }
}
