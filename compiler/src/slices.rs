//! slices: a training step cut along its batch. What depends on the batch row by row is computed a slice at a time; what sums over the
//! batch (gradients, the loss) becomes a partial value of each slice, and the sum of those is exact in the mathematical sense.
//!
//! The batch axis is followed from the step's data inputs through the loop nest of every node. A value is *uniform* (no slice sees another
//! one), *sliced* (one dimension is `outer × slices × inner`), or *partial* (waiting to be combined over the slices). Sums of partials stay
//! partial, and so do their other linear images that are no larger; anything else needs the combined value first.
//! Microbatches run the slices one after the other in a loop, so everything that needs a combined value has to come behind the loop. What
//! follows from the batch alone, such as the number of labels that count, is combined before it; a
//! batch norm over the whole batch, whose statistics the forward pass needs at once, is refused. Replicas run the slices side by side,
//! and may combine anywhere.

mod classes;
mod microbatch;
mod rebuild;
mod replicas;
#[cfg(test)]
mod tests;

pub use microbatch::microbatched;
pub use replicas::{Replicated, replicated};

use classes::{Classes, Split};
use girih_ir::graph::ValueId;
use girih_ir::step::TrainStep;

/// Why a step cannot be cut along its batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No input carries a batch.
    #[error("E0830: the step has no input that carries a batch along its first or second dimension")]
    NoBatch,
    /// The batch does not divide.
    #[error("E0831: a batch of {batch} cannot be cut into {parts} equal slices; take a divisor of {batch}")]
    Indivisible {
        /// Rows of the batch.
        batch: usize,
        /// Slices that were asked for.
        parts: usize,
    },
    /// An op needs all rows at once.
    #[error("E0832: `{op}` ({value}, {origin}) cannot be computed slice by slice: {why}")]
    Op {
        /// The op.
        op: &'static str,
        /// Its value.
        value: ValueId,
        /// Where in the model it comes from.
        origin: String,
        /// The reason.
        why: String,
    },
    /// The machine does not consist of packages.
    #[error("E0835: `{target}` is no grid of packages that could each run a replica")]
    Packages {
        /// The target.
        target: String,
    },
    /// State that has a row for each row of the batch.
    #[error("E0833: the state `{name}` has a part for every row of the batch")]
    State {
        /// The state.
        name: String,
    },
    /// A sum over the batch is needed before the slices are through.
    #[error(
        "E0834: {value} ({origin}) needs a sum over the whole batch before the slices are through, as a batch norm does, or a loss that is \
         divided by a sum of predictions: slices that run one after the other would give other results; compute the batch at once (`--microbatches off`), or \
         side by side on several packages (`--replicas`)"
    )]
    Phases {
        /// The value that needs it.
        value: ValueId,
        /// Where in the model it comes from.
        origin: String,
    },
}

/// The grid of replicas on a machine of so many rows and columns of packages: the largest that divides the batch, or one of exactly `wanted`
/// replicas; of equally large ones the widest.
pub fn grid(packages: (usize, usize), batch: usize, wanted: Option<usize>) -> Option<(usize, usize)> {
    let all = (1..=packages.0).flat_map(|r| (1..=packages.1).map(move |c| (r, c)));
    let fits = |(r, c): &(usize, usize)| r * c > 1 && batch.is_multiple_of(r * c) && wanted.is_none_or(|n| n == r * c);
    all.filter(fits).max_by_key(|(r, c)| (r * c, *c))
}

/// Rows of the batch of a step: the extent of its largest data input along the first dimension, or the second. `None` when there is none.
pub fn batch(step: &TrainStep) -> Option<usize> {
    (0..2).find_map(|dim| batch_along(step, dim))
}

/// Into how many equal slices the batch can be cut, ascending, without 1.
pub fn counts(step: &TrainStep) -> Vec<usize> {
    batch(step).map_or(Vec::new(), |b| (2..=b).filter(|k| b.is_multiple_of(*k)).collect())
}

/// The extent of the largest data input along `dim`, if it is more than 1: small ones may be keys of random numbers or schedules.
fn batch_along(step: &TrainStep, dim: usize) -> Option<usize> {
    let graph = &step.graph;
    let tensors = step.data_inputs().into_iter().map(|i| graph.tensor_ty(graph.inputs[i].value));
    let long = tensors.filter(|t| t.shape.get(dim).is_some_and(|e| *e > 1));
    long.max_by_key(|t| (t.elements(), std::cmp::Reverse(t.shape[dim]))).map(|t| t.shape[dim])
}

/// The classes of all values when the step is cut into `parts`: the batch is taken to lie along the first dimension of the data inputs, and
/// if that does not work, along the second.
fn classify(step: &TrainStep, parts: usize) -> Result<Classes<'_>, Refusal> {
    let mut first: Option<Refusal> = None;
    for dim in 0..2 {
        let Some(batch) = batch_along(step, dim) else { continue };
        let classes = match parts > 0 && batch.is_multiple_of(parts) {
            true => Classes::of(step, parts, seeds(step, parts, batch, dim)),
            false => Err(Refusal::Indivisible { batch, parts }),
        };
        match classes {
            Ok(classes) => return Ok(classes),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    Err(first.unwrap_or(Refusal::NoBatch))
}

/// Where each input carries the batch, when it lies along `dim`. What has one dimension only, such as labels, carries it there.
fn seeds(step: &TrainStep, parts: usize, batch: usize, dim: usize) -> Vec<Option<Split>> {
    let graph = &step.graph;
    let data = step.data_inputs();
    let seed = |i: usize| {
        let shape = graph.shape(graph.inputs[i].value);
        let dim = dim.min(shape.len().checked_sub(1)?);
        (data.contains(&i) && shape[dim] == batch).then_some(Split { dim, inner: batch / parts })
    };
    (0..graph.inputs.len()).map(seed).collect()
}
