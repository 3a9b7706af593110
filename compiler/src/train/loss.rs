//! Losses on top of a forward graph, averaged as PyTorch averages them.

use super::spec::Spec;
use super::{TrainError, listed};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::ops::log_softmax::LogSoftmax;
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::types::{DType, Dims, TensorType};
use std::str::FromStr;

/// The type that losses and updates are computed in: at least f32.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Which loss.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LossKind {
    /// `−log softmax(logits)[label]` along `axis`, averaged over the labels that are not `ignore_index`. Labels of the logits' own shape and
    /// of a float type are probabilities.
    SoftmaxCrossEntropy {
        /// The class dimension of the logits; negative counts from the end.
        axis: i64,
        /// Labels of this value do not count.
        ignore_index: i64,
    },
    /// Binary cross-entropy of a logit and a target in [0, 1], averaged over all elements.
    BceWithLogits,
    /// Squared error, averaged over all elements.
    Mse,
    /// A scalar output of the graph is the loss.
    Output,
}

/// A loss and what it reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LossSpec {
    /// Which loss.
    pub kind: LossKind,
    /// The graph output with the logits or prediction (or the loss itself); the only or first output when absent.
    pub output: Option<String>,
    /// The input with the labels; it is added to the graph when it is not there.
    pub labels: String,
}

const EXAMPLE: &str = "softmax_cross_entropy:logits=output,labels=labels,axis=-1,ignore_index=-100";

impl FromStr for LossSpec {
    type Err = TrainError;

    /// `softmax_cross_entropy[:logits=NAME,labels=NAME,axis=-1,ignore_index=-100]`, `bce_with_logits`, `mse`, `output[:NAME]`.
    fn from_str(text: &str) -> Result<Self, TrainError> {
        let mut spec = Spec::parse(text, EXAMPLE);
        let kind = match spec.name {
            "softmax_cross_entropy" => {
                let axis = spec.take("axis")?.unwrap_or(-1);
                LossKind::SoftmaxCrossEntropy { axis, ignore_index: spec.take("ignore_index")?.unwrap_or(-100) }
            }
            "bce_with_logits" => LossKind::BceWithLogits,
            "mse" => LossKind::Mse,
            "output" => LossKind::Output,
            other => {
                let why = format!("there is no loss `{other}`; there are softmax_cross_entropy, bce_with_logits, mse and output");
                return Err(spec.error(why));
            }
        };
        let mut output = spec.take("logits")?.or(spec.take("output")?).or(spec.take("prediction")?);
        if output.is_none() {
            output = spec.bare().map(str::to_string);
        }
        let labels = spec.take("labels")?.unwrap_or_else(|| "labels".to_string());
        spec.finish("logits (or output), labels and, for softmax_cross_entropy, axis and ignore_index")?;
        Ok(LossSpec { kind, output, labels })
    }
}

impl LossSpec {
    /// Adds the loss to a graph and returns its scalar value.
    pub fn build(&self, graph: &mut Graph) -> Result<ValueId, TrainError> {
        let prediction = self.prediction(graph)?;
        let ty = graph.tensor_ty(prediction).clone();
        if graph.ty(prediction).as_tensor().is_none_or(|t| !t.dtype.is_float()) {
            return Err(TrainError::Shape { why: format!("the prediction is {ty}; a loss needs floats") });
        }
        // Averages over more than a few hundred elements need more bits than narrow types have.
        let prediction = graph.convert(prediction, wide(ty.dtype));
        let ty = ty.with_dtype(wide(ty.dtype));
        match self.kind {
            LossKind::Output if ty.elements() == 1 => Ok(graph.reshape(prediction, &[])),
            LossKind::Output => Err(TrainError::Shape { why: format!("the output is {ty}, not a scalar") }),
            LossKind::Mse => {
                let labels = self.float_labels(graph, &ty)?;
                let d = graph.minus(prediction, labels);
                let square = graph.times(d, d);
                Ok(mean(graph, square))
            }
            LossKind::BceWithLogits => {
                let labels = self.float_labels(graph, &ty)?;
                let zero = graph.splat_like(prediction, 0.0);
                let positive = graph.binary(BinaryFn::Max, prediction, zero);
                let product = graph.times(prediction, labels);
                let linear = graph.minus(positive, product);
                let size = graph.unary(UnaryFn::Abs, prediction);
                let negative = graph.unary(UnaryFn::Neg, size);
                let e = graph.unary(UnaryFn::Exp, negative);
                let l = graph.unary(UnaryFn::Log1p, e);
                let all = graph.plus(linear, l);
                Ok(mean(graph, all))
            }
            LossKind::SoftmaxCrossEntropy { axis, ignore_index } => self.cross_entropy(graph, prediction, axis, ignore_index),
        }
    }

    fn prediction(&self, graph: &Graph) -> Result<ValueId, TrainError> {
        let found = match &self.output {
            Some(name) => graph.find_output(name),
            None => graph.outputs.first(),
        };
        let known = || listed(graph.outputs.iter().map(|o| o.name.as_str()));
        let name = || self.output.clone().unwrap_or_default();
        found.map(|o| o.value).ok_or_else(|| TrainError::Unknown { what: "output", name: name(), known: known() })
    }

    /// The labels input, added when the graph does not have it.
    fn labels(&self, graph: &mut Graph, ty: TensorType) -> ValueId {
        match graph.find_input(&self.labels) {
            Some(input) => input.value,
            None => graph.input(self.labels.clone(), ty, Role::Data),
        }
    }

    fn float_labels(&self, graph: &mut Graph, ty: &TensorType) -> Result<ValueId, TrainError> {
        let labels = self.labels(graph, ty.clone());
        if graph.shape(labels) != &ty.shape[..] {
            return Err(TrainError::Shape { why: format!("the prediction is {ty} but the labels are {}", graph.tensor_ty(labels)) });
        }
        Ok(graph.convert(labels, ty.dtype))
    }

    fn cross_entropy(&self, graph: &mut Graph, logits: ValueId, axis: i64, ignore_index: i64) -> Result<ValueId, TrainError> {
        let ty = graph.tensor_ty(logits).clone();
        let rank = ty.rank() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        if axis < 0 || axis >= rank {
            return Err(TrainError::Shape { why: format!("the class axis is outside the logits {ty}") });
        }
        let axis = axis as usize;
        let others: Vec<usize> = (0..ty.rank()).filter(|d| *d != axis).collect();
        let label_shape: Dims = others.iter().map(|d| ty.shape[*d]).collect();
        let labels = self.labels(graph, TensorType::new(DType::I64, &label_shape));
        let label_ty = graph.tensor_ty(labels).clone();
        if label_ty.shape == ty.shape && label_ty.dtype.is_float() {
            let logp = graph.emit(LogSoftmax { dim: axis }, &[logits]);
            let labels = graph.convert(labels, ty.dtype);
            let weighted = graph.times(labels, logp);
            let rows = graph.sum(weighted, &[axis]);
            let total = mean(graph, rows);
            return Ok(graph.unary(UnaryFn::Neg, total));
        }
        if label_ty.shape != label_shape || !label_ty.dtype.is_int() {
            let why = format!(
                "the logits are {ty} with classes along dimension {axis}, so labels are integers {label_shape:?}; they are {label_ty}"
            );
            return Err(TrainError::Shape { why });
        }
        // Narrow labels could not hold the ignored number.
        let labels = if label_ty.dtype.size() < 4 { graph.convert(labels, DType::I32) } else { labels };
        let label_ty = graph.tensor_ty(labels).clone();
        let logp = graph.emit(LogSoftmax { dim: axis }, &[logits]);
        let spread = graph.broadcast(labels, &ty.shape, &others);
        let classes = graph.emit(girih_ir::ops::iota::Iota { dtype: label_ty.dtype, shape: ty.shape.clone(), dim: axis }, &[]);
        let hit = graph.compare(CompareFn::Eq, classes, spread);
        let zero = graph.splat_like(logp, 0.0);
        let picked = graph.select(hit, logp, zero);
        let picked = graph.sum(picked, &[axis]);
        let ignored = graph.splat_like(labels, ignore_index as f64);
        let counts = graph.compare(CompareFn::Ne, labels, ignored);
        let zero = graph.splat_like(picked, 0.0);
        let picked = graph.select(counts, picked, zero);
        let all: Vec<usize> = (0..others.len()).collect();
        let total = graph.sum(picked, &all);
        let counts = graph.convert(counts, ty.dtype);
        let counted = graph.sum(counts, &all);
        let total = graph.unary(UnaryFn::Neg, total);
        Ok(graph.over(total, counted))
    }
}

fn mean(graph: &mut Graph, v: ValueId) -> ValueId {
    let dims: Vec<usize> = (0..graph.shape(v).len()).collect();
    let count = graph.tensor_ty(v).elements();
    let sum = graph.sum(v, &dims);
    let scale = graph.splat_like(sum, 1.0 / count.max(1) as f64);
    graph.times(sum, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_read_or_say_what_is_wrong() {
        let loss: LossSpec = "softmax_cross_entropy:logits=out,ignore_index=0".parse().expect("reads");
        assert_eq!(loss.output.as_deref(), Some("out"));
        assert_eq!(loss.kind, LossKind::SoftmaxCrossEntropy { axis: -1, ignore_index: 0 });
        assert_eq!("output:total".parse::<LossSpec>().expect("reads").output.as_deref(), Some("total"));
        let wrong = |t: &str| t.parse::<LossSpec>().expect_err("must not read").to_string();
        insta::assert_snapshot!(wrong("hinge"), @"E0330: `hinge`: there is no loss `hinge`; there are softmax_cross_entropy, bce_with_logits, mse and output; an example is `softmax_cross_entropy:logits=output,labels=labels,axis=-1,ignore_index=-100`");
        insta::assert_snapshot!(wrong("mse:axis=2"), @"E0330: `mse:axis=2`: there is no option `axis`; there is logits (or output), labels and, for softmax_cross_entropy, axis and ignore_index; an example is `softmax_cross_entropy:logits=output,labels=labels,axis=-1,ignore_index=-100`");
        insta::assert_snapshot!(wrong("softmax_cross_entropy:axis=x"), @"E0330: `softmax_cross_entropy:axis=x`: `x` is no value for `axis`; an example is `softmax_cross_entropy:logits=output,labels=labels,axis=-1,ignore_index=-100`");
    }
}
