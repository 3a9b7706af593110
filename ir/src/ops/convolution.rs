//! `convolution`: the general convolution (StableHLO `convolution`), any number of spatial dimensions.
//!
//! `lhs_dims` and `out_dims` say where batch, feature and the spatial dimensions lie: `[batch, feature, spatial…]`; `rhs_dims`
//! says `[out feature, in feature, spatial…]`. Every spatial dimension is a [`WindowDim`].
//! With `feature_groups` G the input features and the output features fall into G runs, and a run of outputs sees its run of inputs only.
//! With `batch_groups` B the same holds for the batch of the left operand and the output features; the result's batch is one run long.
//!
//! (C1) two operands of one element type and rank ≥ 2; (C2) the three dimension lists are permutations of the rank, the six window
//! lists have one entry a spatial dimension; (C3) strides and dilations are at least 1; (C4) groups are at least 1 and only one kind is
//! above 1; (C5) `feature_groups` divides the input features, which are `feature_groups` times the kernel's; groups divide the output
//! features, and `batch_groups` the batch.
//! Floats are accumulated in at least f32 and rounded once.

use super::reverse::Reverse;
use super::window::WindowDim;
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::graph::{Graph, ValueId};
use crate::scalar::Monoid;
use crate::tensor::{Data, Tensor, indices, position};
use crate::types::{Dims, TensorType, Type, element_count, row_major_strides};

crate::op_attrs! {
    /// See the module.
    Convolution {
        /// Window step, one a spatial dimension.
        stride: Dims,
        /// Padding before, one a spatial dimension; negative crops.
        pad_low: Vec<i64>,
        /// Padding after, one a spatial dimension; negative crops.
        pad_high: Vec<i64>,
        /// Distance between elements of the left operand, one a spatial dimension.
        lhs_dilation: Dims,
        /// Distance between elements of the kernel, one a spatial dimension.
        rhs_dilation: Dims,
        /// Whether the kernel is turned around, one a spatial dimension.
        reverse: Vec<bool>,
        /// Dimensions of the left operand: batch, feature, spatial.
        lhs_dims: Vec<usize>,
        /// Dimensions of the kernel: out feature, in feature, spatial.
        rhs_dims: Vec<usize>,
        /// Dimensions of the result: batch, feature, spatial.
        out_dims: Vec<usize>,
        /// Number of feature groups.
        feature_groups: usize,
        /// Number of batch groups.
        batch_groups: usize,
    }
}

impl Convolution {
    /// A convolution of batch-feature-spatial tensors with an out-in-spatial kernel: stride 1, no padding, no dilation, one group.
    pub fn plain(spatial: usize) -> Self {
        let dims: Vec<usize> = (0..spatial + 2).collect();
        Convolution {
            stride: Dims::from_elem(1, spatial),
            pad_low: vec![0; spatial],
            pad_high: vec![0; spatial],
            lhs_dilation: Dims::from_elem(1, spatial),
            rhs_dilation: Dims::from_elem(1, spatial),
            reverse: vec![false; spatial],
            lhs_dims: dims.clone(),
            rhs_dims: dims.clone(),
            out_dims: dims,
            feature_groups: 1,
            batch_groups: 1,
        }
    }

    /// Number of spatial dimensions.
    pub fn spatial(&self) -> usize {
        self.stride.len()
    }

    /// The windows of the spatial dimensions, in the order of the attributes.
    pub fn windows(&self, lhs: &[usize], rhs: &[usize]) -> Vec<WindowDim> {
        (0..self.spatial())
            .map(|s| WindowDim {
                extent: lhs[self.lhs_dims[s + 2]],
                window: rhs[self.rhs_dims[s + 2]],
                stride: self.stride[s],
                pad_low: self.pad_low[s],
                pad_high: self.pad_high[s],
                base_dilation: self.lhs_dilation[s],
                window_dilation: self.rhs_dilation[s],
                reverse: self.reverse[s],
            })
            .collect()
    }

    /// The same convolution with other windows.
    fn with_windows(&self, windows: &[WindowDim]) -> Self {
        Convolution {
            stride: windows.iter().map(|w| w.stride).collect(),
            pad_low: windows.iter().map(|w| w.pad_low).collect(),
            pad_high: windows.iter().map(|w| w.pad_high).collect(),
            lhs_dilation: windows.iter().map(|w| w.base_dilation).collect(),
            rhs_dilation: windows.iter().map(|w| w.window_dilation).collect(),
            reverse: windows.iter().map(|w| w.reverse).collect(),
            ..self.clone()
        }
    }

    fn check(&self, a: &TensorType, b: &TensorType) -> Result<Dims, String> {
        let (rank, spatial) = (a.rank(), self.spatial());
        if a.dtype != b.dtype || b.rank() != rank || rank < 2 {
            return Err(format!("(C1) {a} and {b} are not of one element type and rank"));
        }
        let permutes = |dims: &[usize]| dims.len() == rank && (0..rank).all(|d| dims.contains(&d));
        let lists = [self.stride.len(), self.pad_low.len(), self.pad_high.len(), self.lhs_dilation.len(), self.rhs_dilation.len()];
        if ![&self.lhs_dims, &self.rhs_dims, &self.out_dims].iter().all(|d| permutes(d))
            || lists.iter().chain([&self.reverse.len()]).any(|n| *n + 2 != rank)
        {
            return Err(format!("(C2) dimension numbers and windows do not describe {} spatial dimensions of {a}", rank - 2));
        }
        let (fg, bg) = (self.feature_groups, self.batch_groups);
        if fg == 0 || bg == 0 || (fg > 1 && bg > 1) {
            return Err(format!("(C4) feature_groups is {fg} and batch_groups is {bg}"));
        }
        let (batch, features) = (a.shape[self.lhs_dims[0]], a.shape[self.lhs_dims[1]]);
        let (outputs, depth) = (b.shape[self.rhs_dims[0]], b.shape[self.rhs_dims[1]]);
        if Some(features) != depth.checked_mul(fg) || outputs % fg != 0 || outputs % bg != 0 || batch % bg != 0 {
            return Err(format!("(C5) {a} and {b} do not divide into {fg} feature groups and {bg} batch groups"));
        }
        let mut shape = Dims::from_elem(0, rank);
        shape[self.out_dims[0]] = batch / bg;
        shape[self.out_dims[1]] = outputs;
        let windows = self.windows(&a.shape, &b.shape);
        for s in 0..spatial {
            shape[self.out_dims[s + 2]] =
                windows[s].results().ok_or(format!("(C3) the window of spatial dimension {s} of {a} has a zero or absurd entry"))?;
        }
        Ok(shape)
    }

    /// The derivative by the left operand as a convolution of the cotangent.
    fn lhs_grad(&self, graph: &mut Graph, g: ValueId, lhs: &[usize], rhs: ValueId) -> ValueId {
        let (rhs_shape, out) = (Dims::from_slice(graph.shape(rhs)), Dims::from_slice(graph.shape(g)));
        let windows: Vec<WindowDim> =
            self.windows(lhs, &rhs_shape).iter().zip(&self.out_dims[2..]).map(|(w, d)| w.operand_adjoint(out[*d])).collect();
        let groups = self.feature_groups.max(self.batch_groups);
        let kernel = move_groups(graph, rhs, groups, self.rhs_dims[0], self.rhs_dims[1]);
        let mut rhs_dims = self.rhs_dims.clone();
        rhs_dims.swap(0, 1);
        let op = Convolution {
            lhs_dims: self.out_dims.clone(),
            rhs_dims,
            out_dims: self.lhs_dims.clone(),
            feature_groups: groups,
            batch_groups: 1,
            ..self.with_windows(&windows)
        };
        let dx = graph.emit(op, &[g, kernel]);
        move_groups(graph, dx, self.batch_groups, self.lhs_dims[1], self.lhs_dims[0])
    }

    /// The derivative by the kernel as a convolution of the left operand with the cotangent as the kernel.
    fn rhs_grad(&self, graph: &mut Graph, g: ValueId, lhs: ValueId, rhs: &[usize]) -> ValueId {
        let (lhs_shape, out) = (Dims::from_slice(graph.shape(lhs)), Dims::from_slice(graph.shape(g)));
        let windows: Vec<WindowDim> =
            self.windows(&lhs_shape, rhs).iter().zip(&self.out_dims[2..]).map(|(w, d)| w.weight_adjoint(out[*d])).collect();
        let swapped = |dims: &[usize]| {
            let mut dims = dims.to_vec();
            dims.swap(0, 1);
            dims
        };
        let op = Convolution {
            lhs_dims: swapped(&self.lhs_dims),
            rhs_dims: swapped(&self.out_dims),
            out_dims: swapped(&self.rhs_dims),
            feature_groups: self.batch_groups,
            batch_groups: self.feature_groups,
            ..self.with_windows(&windows)
        };
        let dw = graph.emit(op, &[lhs, g]);
        let turned: Vec<usize> = (0..self.spatial()).filter(|s| self.reverse[*s]).map(|s| self.rhs_dims[s + 2]).collect();
        if turned.is_empty() { dw } else { graph.emit(Reverse { dims: turned }, &[dw]) }
    }
}

/// Splits dimension `from` into `groups` runs and makes the group number the leading part of dimension `to`.
fn move_groups(graph: &mut Graph, v: ValueId, groups: usize, from: usize, to: usize) -> ValueId {
    if groups == 1 {
        return v;
    }
    let shape = Dims::from_slice(graph.shape(v));
    let mut split = shape.clone();
    split[from] /= groups;
    split.insert(from, groups);
    let v = graph.reshape(v, &split);
    // In the split tensor the group dimension is `from`; every old dimension at or after it moved up by one.
    let mut order: Vec<usize> = Vec::with_capacity(split.len());
    for d in 0..shape.len() {
        if d == to {
            order.push(from);
        }
        order.push(if d < from { d } else { d + 1 });
    }
    let v = graph.transpose(v, &order);
    let mut merged = shape;
    merged[from] /= groups;
    merged[to] *= groups;
    graph.reshape(v, &merged)
}

impl OpDef for Convolution {
    const NAMES: &'static [&'static str] = &["convolution"];
    fn name(&self) -> &'static str {
        "convolution"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let [a, b] = ins else { return Err(InferError::new("convolution", "(C1) takes two operands")) };
        let shape = self.check(a, b).map_err(|why| InferError::new("convolution", why))?;
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let (a, b, o) = (ins[0], ins[1], &out.components()[0]);
        let mut axes = Axes::elementwise(&o.shape, 0, 2);
        let (mut l, mut r) = (vec![DimUse::Whole; a.rank()], vec![DimUse::Whole; b.rank()]);
        let (batch, feature) = (self.out_dims[0], self.out_dims[1]);
        let depth = axes.loops.len();
        let mut depth_kind = LoopKind::Reduce(Monoid::Sum);
        r[self.rhs_dims[0]] = DimUse::Loop(feature);
        r[self.rhs_dims[1]] = DimUse::Loop(depth);
        let outputs = o.shape[feature];
        if self.feature_groups > 1 {
            // One channel a group splits by channel; other groups only run whole, for a part of a group has no form of its own.
            depth_kind = LoopKind::Whole;
            l[self.lhs_dims[0]] = DimUse::Loop(batch);
            if b.shape[self.rhs_dims[1]] == 1 && outputs == self.feature_groups {
                l[self.lhs_dims[1]] = DimUse::Loop(feature);
            } else {
                axes.loops[feature].kind = LoopKind::Whole;
            }
        } else if self.batch_groups > 1 {
            l[self.lhs_dims[1]] = DimUse::Loop(depth);
            axes.loops[batch].kind = LoopKind::Whole;
            if o.shape[batch] == 1 && outputs == self.batch_groups {
                l[self.lhs_dims[0]] = DimUse::Loop(feature);
            } else {
                axes.loops[feature].kind = LoopKind::Whole;
            }
        } else {
            l[self.lhs_dims[0]] = DimUse::Loop(batch);
            l[self.lhs_dims[1]] = DimUse::Loop(depth);
        }
        axes.loops.push(LoopDim { extent: b.shape[self.rhs_dims[1]], kind: depth_kind });
        for (s, w) in self.windows(&a.shape, &b.shape).iter().enumerate() {
            l[self.lhs_dims[s + 2]] = w.dim_use(self.out_dims[s + 2]);
            r[self.rhs_dims[s + 2]] = DimUse::Loop(axes.loops.len());
            axes.loops.push(LoopDim { extent: w.window, kind: LoopKind::Reduce(Monoid::Sum) });
        }
        axes.operands = vec![l, r];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, b, ty) = (ins[0], ins[1], &out.components()[0]);
        vec![match (a.data(), b.data()) {
            (Data::Int(x), Data::Int(y)) => Tensor::new_int(
                ty.clone(),
                self.sums(a.shape(), b.shape(), &ty.shape, x, y, 0, |s, x, y| s.wrapping_add(x.wrapping_mul(y))),
            ),
            _ => {
                let (x, y) = (a.floats(), b.floats());
                Tensor::new_float(ty.clone(), self.sums(a.shape(), b.shape(), &ty.shape, &x, &y, 0.0, |s, x, y| s + x * y))
            }
        }]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (a, b, g) = (cx.operands[0], cx.operands[1], cx.cotangent());
        let (lhs, rhs) = (Dims::from_slice(cx.graph.shape(a)), Dims::from_slice(cx.graph.shape(b)));
        if [&lhs[..], &rhs[..], cx.graph.shape(g)].iter().any(|s| element_count(s) == 0) {
            return Ok(vec![Some(cx.graph.splat_like(a, 0.0)), Some(cx.graph.splat_like(b, 0.0))]);
        }
        let da = cx.wanted[0].then(|| self.lhs_grad(cx.graph, g, &lhs, b));
        let db = cx.wanted[1].then(|| self.rhs_grad(cx.graph, g, a, &rhs));
        Ok(vec![da, db])
    }
}

impl Convolution {
    /// Every result element as a fold over its terms.
    fn sums<T: Copy>(&self, lhs: &[usize], rhs: &[usize], out: &[usize], x: &[T], y: &[T], zero: T, add: impl Fn(T, T, T) -> T) -> Vec<T> {
        let windows = self.windows(lhs, rhs);
        let (ls, rs) = (row_major_strides(lhs), row_major_strides(rhs));
        let stride = |s: &[isize], d: usize| s[d] as usize;
        let (batch_step, feature_step) = (stride(&ls, self.lhs_dims[0]), stride(&ls, self.lhs_dims[1]));
        let (output_step, depth_step) = (stride(&rs, self.rhs_dims[0]), stride(&rs, self.rhs_dims[1]));
        let out_spatial: Dims = self.out_dims[2..].iter().map(|d| out[*d]).collect();
        let kernel: Dims = windows.iter().map(|w| w.window).collect();
        let (batch, outputs, depth) = (out[self.out_dims[0]], out[self.out_dims[1]], rhs[self.rhs_dims[1]]);
        let (per_feature_group, per_batch_group) = ((outputs / self.feature_groups).max(1), (outputs / self.batch_groups).max(1));
        let mut result = vec![zero; element_count(out)];
        for at in indices(&out_spatial) {
            let tap = |k: Dims| -> Option<(usize, usize)> {
                let (mut p, mut q) = (0, 0);
                for (s, w) in windows.iter().enumerate() {
                    p += w.source(at[s], k[s])? * stride(&ls, self.lhs_dims[s + 2]);
                    q += k[s] * stride(&rs, self.rhs_dims[s + 2]);
                }
                Some((p, q))
            };
            let taps: Vec<(usize, usize)> = indices(&kernel).filter_map(tap).collect();
            let mut index = Dims::from_elem(0, out.len());
            at.iter().enumerate().for_each(|(s, i)| index[self.out_dims[s + 2]] = *i);
            for n in 0..batch {
                for o in 0..outputs {
                    let first = (o / per_feature_group) * depth;
                    let image = n + (o / per_batch_group) * batch;
                    let (p0, q0) = (image * batch_step + first * feature_step, o * output_step);
                    let mut sum = zero;
                    for (p, q) in &taps {
                        for f in 0..depth {
                            sum = add(sum, x[p0 + p + f * feature_step], y[q0 + q + f * depth_step]);
                        }
                    }
                    (index[self.out_dims[0]], index[self.out_dims[1]]) = (n, o);
                    result[position(out, &index)] = sum;
                }
            }
        }
        result
    }
}
