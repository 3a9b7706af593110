//! `select_and_scatter`: adds each source element to the place in its window that is selected (StableHLO `select_and_scatter`
//! with a sum): the derivative of max pooling.
//!
//! The selected place is the first, in row-major order, of the elements that no later one of the window beats. Padding is never selected.
//! (C1) two operands of one element type: the tensor whose windows select, and the source; (C2) the four lists have one entry a dimension;
//! (C3) strides are at least 1, and the source has one element a window; (C4) `select` is `ge` or `le`.

use super::elementwise::{tensor, wides};
use super::pad::Pad;
use super::slice::Slice;
use super::window::WindowDim;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::graph::ValueId;
use crate::scalar::{CompareFn, Monoid, Wide};
use crate::tensor::{Tensor, indices, position};
use crate::types::{DType, Dims, TensorType, Type, element_count};

crate::op_attrs! {
    /// See the module.
    SelectAndScatter {
        /// `ge` selects the largest element, `le` the smallest.
        select: CompareFn,
        /// Window extents, one a dimension.
        window: Dims,
        /// Window step, one a dimension.
        stride: Dims,
        /// Padding before, one a dimension.
        pad_low: Vec<i64>,
        /// Padding after, one a dimension.
        pad_high: Vec<i64>,
    }
}

impl SelectAndScatter {
    /// The windows, one a dimension.
    pub fn windows(&self, shape: &[usize]) -> Vec<WindowDim> {
        (0..shape.len())
            .map(|d| WindowDim {
                extent: shape[d],
                window: self.window[d],
                stride: self.stride[d],
                pad_low: self.pad_low[d],
                pad_high: self.pad_high[d],
                base_dilation: 1,
                window_dilation: 1,
                reverse: false,
            })
            .collect()
    }
}

impl OpDef for SelectAndScatter {
    const NAMES: &'static [&'static str] = &["select_and_scatter"];
    fn name(&self) -> &'static str {
        "select_and_scatter"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let err = |why: String| Err(InferError::new("select_and_scatter", why));
        let [a, source] = ins else { return err("(C1) takes two operands".into()) };
        if a.dtype != source.dtype || a.dtype == DType::Bool {
            return err(format!("(C1) operands are {a} and {source}"));
        }
        if [self.window.len(), self.stride.len(), self.pad_low.len(), self.pad_high.len()].iter().any(|n| *n != a.rank()) {
            return err(format!("(C2) the window lists need {} entries, as {a} has dimensions", a.rank()));
        }
        let shape: Option<Dims> = self.windows(&a.shape).iter().map(WindowDim::results).collect();
        if shape.as_ref() != Some(&source.shape) {
            return err(format!("(C3) the windows of {a} make {shape:?} results, the source is {source}"));
        }
        if !matches!(self.select, CompareFn::Ge | CompareFn::Le) {
            return err(format!("(C4) select must be ge or le, not {}", self.select.name()));
        }
        Ok((*a).clone().into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, element_count(&self.window) as u64);
        let (mut operand, mut source) = (Vec::new(), Vec::new());
        for (d, w) in self.windows(&ins[0].shape).iter().enumerate() {
            if w.is_identity() {
                operand.push(DimUse::Loop(d));
                source.push(DimUse::Loop(d));
                continue;
            }
            // Any window over a result element may select it, and reaches a window further to both sides. Which element it selects
            // takes the whole window, so these dimensions stay together.
            axes.loops[d].kind = LoopKind::Whole;
            let (reach, size) = (w.window as i64 - 1, w.window as i64);
            operand.push(DimUse::Window { loop_dim: d, stride: 1, offset: -reach, size: 2 * size - 1, dilation: 1 });
            source.push(DimUse::Window { loop_dim: d, stride: 1, offset: w.pad_low - reach, size, dilation: w.stride as i64 });
        }
        axes.operands = vec![operand, source];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, ty) = (ins[0], &out.components()[0]);
        let (windows, x, source) = (self.windows(a.shape()), wides(a), wides(ins[1]));
        let wide = if ty.dtype.is_float() { DType::F64 } else { ty.dtype };
        let mut acc = vec![Monoid::Sum.identity(wide); x.len()];
        for (o, s) in indices(ins[1].shape()).zip(source) {
            let places = indices(&self.window)
                .filter_map(|k| windows.iter().enumerate().map(|(d, w)| w.source(o[d], k[d])).collect::<Option<Dims>>())
                .map(|at| position(a.shape(), &at));
            let selected = places.reduce(|best, p| if self.select.eval(ty.dtype, x[best], x[p]) { best } else { p });
            if let Some(p) = selected {
                acc[p] = Monoid::Sum.function().eval(wide, acc[p], s);
            }
        }
        vec![tensor(ty, acc)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        // The source's cotangent is the cotangent at each window's selected place: run over the window's places as eval does.
        let (x, g) = (cx.operands[0], cx.cotangent());
        let dtype = cx.graph.tensor_ty(x).dtype;
        let (out, rank) = (Dims::from_slice(cx.graph.shape(cx.operands[1])), self.window.len());
        if element_count(&out) == 0 || element_count(&self.window) == 0 {
            return Ok(vec![None, Some(cx.graph.splat_like(cx.operands[1], 0.0))]);
        }
        let pad = Pad::edges(self.pad_low.clone(), self.pad_high.clone());
        let never = if self.select == CompareFn::Ge { Monoid::Max } else { Monoid::Min }.identity(dtype);
        let never = cx.graph.splat(&TensorType::scalar(dtype), Wide::float(never));
        let zero = cx.graph.splat(&TensorType::scalar(dtype), 0.0);
        let (x, g) = (cx.graph.emit(pad.clone(), &[x, never]), cx.graph.emit(pad, &[g, zero]));
        let mut best: Option<(ValueId, ValueId)> = None;
        for start in indices(&self.window) {
            let limit: Dims = (0..rank).map(|d| start[d] + (out[d] - 1) * self.stride[d] + 1).collect();
            let slice = Slice { start, limit, stride: self.stride.clone() };
            let (xk, gk) = (cx.graph.emit(slice.clone(), &[x]), cx.graph.emit(slice, &[g]));
            best = Some(match best {
                None => (xk, gk),
                Some((bx, bg)) => {
                    let keep = cx.graph.compare(self.select, bx, xk);
                    (cx.graph.select(keep, bx, xk), cx.graph.select(keep, bg, gk))
                }
            });
        }
        Ok(vec![None, best.map(|(_, g)| g)])
    }
}
