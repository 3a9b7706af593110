//! train: from a forward graph to a training step: a loss, its gradients, and an optimizer that turns them into new parameters.

mod build;
pub mod loss;
pub mod optimizer;
pub mod spec;

pub use build::{Training, train_step};
pub use loss::{LossKind, LossSpec};
pub use optimizer::{OptimizerKind, OptimizerSpec, Schedule};

use crate::autodiff::AutodiffError;

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
    /// The loss names a value that is not there.
    #[error("E0331: the model has no {what} `{name}`; it has {known}")]
    Unknown {
        /// `output` or `input`.
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
}
