//! train: from a forward graph to a training step: a loss, its gradients, and an optimizer that turns them into new parameters.

mod build;
pub mod loss;
pub mod optimizer;
pub mod spec;

pub use build::{TrainOptions, Training, train_step, train_step_with};
pub use loss::{LossKind, LossSpec};
pub use optimizer::{OptimizerKind, OptimizerSpec, Schedule};

use crate::autodiff::AutodiffError;
use girih_ir::step::StepError;

/// Why a training step cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// `--loss` or `--optimizer` does not read.
    #[error("E0330: `{text}`: {why}; an example is `{example}`")]
    Spec {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
        /// A text that works.
        example: &'static str,
    },
    /// A name that the model does not have.
    #[error("E0331: the model has no {what} `{name}`; it has {known}")]
    Unknown {
        /// Output, input, parameter.
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Logits and labels do not fit together, or the loss is no scalar.
    #[error("E0332: the loss does not fit the model: {why}")]
    Shape {
        /// How.
        why: String,
    },
    /// There is nothing to train.
    #[error("E0333: the model has no trainable parameter that the loss depends on; name some with `--trainable`, or use `run`")]
    NothingToTrain,
    /// The gradient does not exist.
    #[error(transparent)]
    Autodiff(#[from] AutodiffError),
    /// The step is malformed, such as by a name that is given twice.
    #[error(transparent)]
    Step(#[from] StepError),
}

/// Names for a message.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    match all.len() {
        0 => "none".to_string(),
        1..=12 => all.join(", "),
        n => format!("{} and {} more", all[..12].join(", "), n - 12),
    }
}

#[cfg(test)]
mod tests;
