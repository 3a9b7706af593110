//! Products: `dot_general`, `dot` and `convolution`, on real and complex numbers, with the result type that the file asks for.

use super::super::module::Operation;
use super::{Converter, Frame, Parts, Res, attrs, malformed};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::ops::convolution::Convolution;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::types::DType;
use smallvec::smallvec;

/// The type in which a product is computed: that of the result, unless it is narrower than the operands. Truth values are counted: an "or" of
/// "and"s is a sum of products that is not 0.
fn product_type(a: DType, b: DType, result: DType) -> DType {
    let wider = |x: DType, y: DType| if (y.is_float(), y.size()) > (x.is_float(), x.size()) { y } else { x };
    Some(wider(wider(a, b), result)).filter(|t| *t != DType::Bool).unwrap_or(DType::I32)
}

impl<'a> Converter<'a> {
    /// `dot_general`
    pub fn dot_general_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let f = attrs::fields(op, "dot_dimension_numbers")?;
        let dot = DotGeneral {
            lhs_batch: attrs::dims(f, "lhs_batching_dimensions")?,
            rhs_batch: attrs::dims(f, "rhs_batching_dimensions")?,
            lhs_contract: attrs::dims(f, "lhs_contracting_dimensions")?,
            rhs_contract: attrs::dims(f, "rhs_contracting_dimensions")?,
        };
        self.product(frame, op, dot.into())
    }

    /// `dot`: of vectors and matrices.
    pub fn dot_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let parts = self.operand_parts(frame, op, 0)?;
        let Some(rank) = parts.first().map(|v| self.graph.shape(*v).len()).filter(|r| *r > 0) else {
            return malformed("dot takes vectors and matrices");
        };
        let dot = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![rank - 1], rhs_contract: vec![0] };
        self.product(frame, op, dot.into())
    }

    /// `convolution`
    pub fn convolution_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let f = attrs::fields(op, "dimension_numbers")?;
        let spatial = attrs::dims(f, "input_spatial_dimensions")?.len();
        let (low, high) = attrs::pairs(&op.attrs, "padding", spatial)?;
        self.convolution_with(frame, op, low, high)
    }

    /// A convolution with this padding.
    pub fn convolution_with(&mut self, frame: &Frame<'a>, op: &Operation, pad_low: Vec<i64>, pad_high: Vec<i64>) -> Res<Vec<Parts>> {
        let f = attrs::fields(op, "dimension_numbers")?;
        let list = |first: &str, second: &str, rest: &str| -> Res<Vec<usize>> {
            let mut dims = vec![attrs::size(f, first, 0)?, attrs::size(f, second, 0)?];
            dims.extend(attrs::dims(f, rest)?);
            Ok(dims)
        };
        let lhs_dims = list("input_batch_dimension", "input_feature_dimension", "input_spatial_dimensions")?;
        let spatial = lhs_dims.len() - 2;
        let conv = Convolution {
            stride: attrs::ones(&op.attrs, "window_strides", spatial)?,
            pad_low,
            pad_high,
            lhs_dilation: attrs::ones(&op.attrs, "lhs_dilation", spatial)?,
            rhs_dilation: attrs::ones(&op.attrs, "rhs_dilation", spatial)?,
            reverse: attrs::bools(&op.attrs, "window_reversal", spatial)?,
            lhs_dims,
            rhs_dims: list("kernel_output_feature_dimension", "kernel_input_feature_dimension", "kernel_spatial_dimensions")?,
            out_dims: list("output_batch_dimension", "output_feature_dimension", "output_spatial_dimensions")?,
            feature_groups: attrs::size(&op.attrs, "feature_group_count", 1)?,
            batch_groups: attrs::size(&op.attrs, "batch_group_count", 1)?,
        };
        self.product(frame, op, conv.into())
    }

    /// A bilinear op on real or complex operands, in the type of the result.
    fn product(&mut self, frame: &Frame<'a>, op: &Operation, product: Op) -> Res<Vec<Parts>> {
        let (a, b) = (self.operand_parts(frame, op, 0)?, self.operand_parts(frame, op, 1)?);
        let to = self.result(frame, op, 0).map(|t| t.dtype);
        let (Some(x), Some(y)) = (a.first().copied(), b.first().copied()) else { return malformed("a product takes two tensors") };
        let to = to.unwrap_or(self.dtype(x));
        let wide = product_type(self.dtype(x), self.dtype(y), to);
        let mut times = |a: ValueId, b: ValueId| -> Res<ValueId> {
            let (a, b) = (self.graph.convert(a, wide), self.graph.convert(b, wide));
            let made = self.add(product.clone(), &[a, b])?;
            Ok(self.graph.convert(made, to))
        };
        match (a.as_slice(), b.as_slice()) {
            ([a], [b]) => Ok(vec![smallvec![times(*a, *b)?]]),
            ([a, ai], [b, bi]) => {
                let (rr, ii, ri, ir) = (times(*a, *b)?, times(*ai, *bi)?, times(*a, *bi)?, times(*ai, *b)?);
                Ok(vec![smallvec![self.graph.minus(rr, ii), self.graph.plus(ri, ir)]])
            }
            _ => malformed("a real tensor is multiplied with a complex one"),
        }
    }
}
