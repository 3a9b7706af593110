//! Losses over class labels.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, malformed, one};
use super::reduce::log_softmax_over;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::DType;

/// `SoftmaxCrossEntropyLoss`: the loss and the log-probabilities.
pub fn softmax_cross_entropy(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let scores = call.input(0)?;
    if b.rank(scores) < 2 {
        return malformed("the scores must have at least 2 dimensions");
    }
    let log_probability = log_softmax_over(b, scores, &[1])?;
    let loss = negative_log_likelihood(b, call, log_probability)?;
    Ok(vec![loss.into(), log_probability.into()])
}

/// `NegativeLogLikelihoodLoss`.
pub fn nll(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let scores = call.input(0)?;
    if b.rank(scores) < 2 {
        return malformed("the scores must have at least 2 dimensions");
    }
    one(negative_log_likelihood(b, call, scores)?)
}

/// `-Σ w · score[label] / Σ w`, leaving out the ignored label.
fn negative_log_likelihood(b: &mut Builder, call: &Call<'_>, scores: Val) -> Res<Val> {
    let labels = call.input(1)?;
    let labels = b.convert(labels, DType::I64)?;
    let (dims, label_dims) = (b.dims(scores), b.dims(labels));
    let mut without_class = dims.to_vec();
    without_class.remove(1);
    if label_dims.as_slice() != without_class {
        return malformed(format!("labels {label_dims:?} do not fit scores {dims:?}"));
    }
    let ignored = call.attrs.int("ignore_index")?;
    let (mut index, mut used) = (labels, None);
    if let Some(ignored) = ignored {
        let ignored = b.int_scalar(ignored)?;
        let keep = b.compare(CompareFn::Ne, labels, ignored)?;
        let zero = b.int_scalar(0)?;
        index = b.select(keep, labels, zero)?;
        used = Some(b.convert(keep, b.dtype(scores))?);
    }
    let mut with_class = label_dims.to_vec();
    with_class.insert(1, 1);
    let wide_index = b.reshape(index, &with_class)?;
    let picked = b.take_along(scores, wide_index, 1)?;
    let picked = b.reshape(picked, &label_dims)?;
    let mut weight = used;
    if let Some(weights) = call.opt(2)? {
        let w = b.take(weights, index, 0)?;
        weight = Some(match used {
            Some(used) => b.binary(BinaryFn::Mul, w, used)?,
            None => w,
        });
    }
    let negative = b.unary(UnaryFn::Neg, picked)?;
    let losses = match weight {
        Some(w) => b.binary(BinaryFn::Mul, negative, w)?,
        None => negative,
    };
    let all: Vec<usize> = (0..label_dims.len()).collect();
    match (call.text("reduction", "mean")?, weight) {
        ("none", _) => Ok(losses),
        ("sum", _) => b.reduce(Monoid::Sum, losses, &all, false),
        ("mean", None) => b.mean(losses, &all, false),
        ("mean", Some(w)) => {
            let total = b.reduce(Monoid::Sum, losses, &all, false)?;
            let weight = b.reduce(Monoid::Sum, w, &all, false)?;
            b.binary(BinaryFn::Div, total, weight)
        }
        (other, _) => malformed(format!("there is no reduction '{other}'")),
    }
}
