//! `reduce_window`: combines sliding windows with a monoid (StableHLO `reduce_window`): pooling.
//!
//! Every dimension is a [`WindowDim`]; padding holds the monoid's neutral element.
//! (C1) one operand; (C2) the six lists have one entry a dimension; (C3) strides and dilations are at least 1; (C4) the monoid is
//! defined on the element type.

use super::elementwise::{tensor, wides};
use super::select_and_scatter::SelectAndScatter;
use super::window::WindowDim;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::scalar::{CompareFn, Monoid, Wide};
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type, element_count};

crate::op_attrs! {
    /// See the module.
    ReduceWindow {
        /// The combiner.
        monoid: Monoid,
        /// Window extents, one a dimension.
        window: Dims,
        /// Window step, one a dimension.
        stride: Dims,
        /// Distance between elements of the window, one a dimension.
        window_dilation: Dims,
        /// Distance between elements of the operand, one a dimension.
        base_dilation: Dims,
        /// Padding before, one a dimension; negative crops.
        pad_low: Vec<i64>,
        /// Padding after, one a dimension; negative crops.
        pad_high: Vec<i64>,
    }
}

impl ReduceWindow {
    /// Windows without padding and dilation.
    pub fn plain(monoid: Monoid, window: Dims, stride: Dims) -> Self {
        let rank = window.len();
        let ones = Dims::from_elem(1, rank);
        ReduceWindow {
            monoid,
            window,
            stride,
            window_dilation: ones.clone(),
            base_dilation: ones,
            pad_low: vec![0; rank],
            pad_high: vec![0; rank],
        }
    }

    /// The windows, one a dimension.
    pub fn windows(&self, shape: &[usize]) -> Vec<WindowDim> {
        (0..shape.len())
            .map(|d| WindowDim {
                extent: shape[d],
                window: self.window[d],
                stride: self.stride[d],
                pad_low: self.pad_low[d],
                pad_high: self.pad_high[d],
                base_dilation: self.base_dilation[d],
                window_dilation: self.window_dilation[d],
                reverse: false,
            })
            .collect()
    }
}

impl OpDef for ReduceWindow {
    const NAMES: &'static [&'static str] = &["reduce_window"];
    fn name(&self) -> &'static str {
        "reduce_window"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a] = ins else { return Err(InferError::new("reduce_window", "(C1) takes one operand")) };
        let lists = [&self.window, &self.stride, &self.window_dilation, &self.base_dilation].map(|l| l.len());
        if lists.iter().chain([&self.pad_low.len(), &self.pad_high.len()]).any(|n| *n != a.rank()) {
            return Err(InferError::new(
                "reduce_window",
                format!("(C2) the window lists need {} entries, as {a} has dimensions", a.rank()),
            ));
        }
        let shape: Option<Dims> = self.windows(&a.shape).iter().map(WindowDim::results).collect();
        let Some(shape) = shape else {
            return Err(InferError::new("reduce_window", format!("(C3) a stride or dilation is 0 or absurd for {a}")));
        };
        if self.monoid.function().result(a.dtype).is_none() {
            return Err(InferError::new("reduce_window", format!("(C4) {} is not defined on {}", self.monoid.name(), a.dtype)));
        }
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, element_count(&self.window) as u64);
        axes.operands.push(self.windows(&ins[0].shape).iter().enumerate().map(|(d, w)| w.dim_use(d)).collect());
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, ty) = (ins[0], &out.components()[0]);
        let (windows, x) = (self.windows(a.shape()), wides(a));
        let wide = if ty.dtype.is_float() { DType::F64 } else { ty.dtype };
        let f = self.monoid.function();
        let values: Vec<Wide> = indices(&ty.shape)
            .map(|o| {
                let sources = indices(&self.window)
                    .filter_map(|k| windows.iter().enumerate().map(|(d, w)| w.source(o[d], k[d])).collect::<Option<Dims>>());
                sources.fold(self.monoid.identity(wide), |acc, at| f.eval(wide, acc, x[position(a.shape(), &at)]))
            })
            .collect();
        vec![tensor(ty, values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (x, g) = (cx.operands[0], cx.cotangent());
        let (shape, out) = (Dims::from_slice(cx.graph.shape(x)), Dims::from_slice(cx.graph.shape(g)));
        if [&shape, &out, &self.window].iter().any(|s| element_count(s) == 0) {
            return Ok(vec![Some(cx.graph.splat_like(x, 0.0))]);
        }
        match self.monoid {
            Monoid::Sum => {
                let back: Vec<WindowDim> = self.windows(&shape).iter().zip(&out).map(|(w, n)| w.operand_adjoint(*n)).collect();
                let op = ReduceWindow {
                    stride: back.iter().map(|w| w.stride).collect(),
                    base_dilation: back.iter().map(|w| w.base_dilation).collect(),
                    pad_low: back.iter().map(|w| w.pad_low).collect(),
                    pad_high: back.iter().map(|w| w.pad_high).collect(),
                    ..self.clone()
                };
                Ok(vec![Some(cx.graph.emit(op, &[g]))])
            }
            Monoid::Max | Monoid::Min => {
                if self.base_dilation.iter().chain(&self.window_dilation).any(|d| *d != 1) {
                    return Err(NoVjp { op: "reduce_window", why: "the extreme of a dilated window has no select_and_scatter form" });
                }
                let op = SelectAndScatter {
                    select: if self.monoid == Monoid::Max { CompareFn::Ge } else { CompareFn::Le },
                    window: self.window.clone(),
                    stride: self.stride.clone(),
                    pad_low: self.pad_low.clone(),
                    pad_high: self.pad_high.clone(),
                };
                Ok(vec![Some(cx.graph.emit(op, &[x, g]))])
            }
            _ => Err(NoVjp { op: "reduce_window", why: "only windows of sums and extremes are differentiable" }),
        }
    }
}
