//! How a step is compiled: what is up to the planner, and what is given.

use crate::optimize::OptimizeOptions;
use crate::partition::Pinning;
use crate::precision::Precision;

/// How a step is compiled.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Spread over exactly this many dies; `None` leaves the choice to the planner.
    pub dies: Option<usize>,
    /// Equality saturation; `None` skips it.
    pub optimize: Option<OptimizeOptions>,
    /// Whether values may be made again when they do not fit otherwise.
    pub remat: bool,
    /// The operands of products and convolutions of f32.
    pub precision: Precision,
    /// Which state stays in host memory between its uses.
    pub stream: Stream,
    /// Whether the batch is computed in slices, one after the other.
    pub microbatches: Microbatches,
    /// Whether the model is cut into stages, through which the slices of the batch follow each other.
    pub stages: StageOption,
    /// Whether the batch is computed in slices side by side, one a package of the machine.
    pub replicas: ReplicaOption,
    /// Splits that are not up for choice.
    pub pins: Pinning,
}

/// How many packages of the machine run the same streams, each on its rows of the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplicaOption {
    /// As many as there are packages, on machines of many dies, when the batch divides.
    #[default]
    Auto,
    /// Exactly so many.
    Exactly(usize),
    /// All dies are planned as one.
    Off,
}

/// Into how many stages the model is cut, each on its own rectangle of dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StageOption {
    /// None: every op has all dies.
    #[default]
    Off,
    /// As many as make the fastest program, none among them. Plans the step several times (see [`Pipeline::clock`](super::Pipeline::clock)).
    Auto,
    /// Exactly so many.
    Exactly(usize),
}

/// Into how many slices the batch is cut that are computed one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Microbatches {
    /// As few as fit, when the whole batch does not.
    #[default]
    Auto,
    /// Exactly so many.
    Exactly(usize),
    /// The whole batch at once.
    Off,
}

/// Which state stays in host memory between its uses and is loaded for each of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stream {
    /// As little as is needed, when the step does not fit otherwise.
    #[default]
    Auto,
    /// None.
    Off,
    /// All that can.
    All,
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions {
            dies: None,
            optimize: Some(OptimizeOptions::default()),
            remat: true,
            precision: Precision::F32,
            stream: Stream::Auto,
            microbatches: Microbatches::Auto,
            stages: StageOption::Off,
            replicas: ReplicaOption::Auto,
            pins: Pinning::Free,
        }
    }
}
