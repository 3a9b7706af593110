//! The ONNX front end: a model file becomes a tensor graph with static shapes.
//!
//! ```text
//! bytes ─ limits (scan) ─ proto (decode) ─ model (names, functions) ─ ops (one handler an operator) ─ build (emit, fold) ─ Graph
//! ```
//! Everything a file claims is checked before it is believed. What is not supported is collected and reported at once.

mod build;
mod build_move;
mod call;
mod control;
pub mod limits;
mod model;
pub mod ops;
pub mod proto;
pub mod tensor;
mod window;

use crate::import::error::{ImportError, Problem};
use bytes::Bytes;
use girih_ir::graph::Graph;
use girih_ir::literal::Literal;
use girih_ir::types::TensorType;
use indexmap::IndexMap;
use limits::ImportLimits;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Whose statistics `BatchNormalization` uses where the file says inference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BatchNormMode {
    /// The running statistics: constants.
    #[default]
    Inference,
    /// Those of the batch, as in training. Running statistics become state inputs with an output each.
    BatchStatistics,
}

/// How to import a model.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Extent of the first dimension of every input where the file leaves it open.
    pub batch: Option<usize>,
    /// Extents of named dimensions; `INPUT.3` names dimension 3 of an input.
    pub dims: BTreeMap<String, usize>,
    /// How batch normalization behaves.
    pub batch_norm: BatchNormMode,
    /// Names of the trainable initializers; `None` = every float initializer with at least one dimension, but for running statistics and
    /// what the file says was a buffer of the module.
    pub trainable: Option<BTreeSet<String>>,
    /// Types of inputs that replace what the file says of their shape.
    pub input_types: BTreeMap<String, TensorType>,
    /// Values of inputs, used only where an operator needs a value at compile time (a shape, an axis): the graph is then valid for
    /// that value only and the input is listed in [`Imported::specialized`].
    pub values: BTreeMap<String, Literal>,
    /// Limits on what the file may claim.
    pub limits: ImportLimits,
}

/// A state that every step renews: a running statistic of a batch normalization in batch-statistics mode, or the number of the step, on
/// which random numbers depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Name of its state input: the initializer's, or `random.step`.
    pub input: String,
    /// Name of the output that holds its next value: `NAME.next`.
    pub output: String,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph: the model's inputs, then one `param` input for each trainable initializer (and one `state` input for each running
    /// statistic in batch-statistics mode), each under its own name. The model's outputs come first, then those of [`Buffer`]s.
    /// Every value's origin is the operator and the name of the node that it came from.
    pub graph: Graph,
    /// Values of the `param` and `state` inputs from the file.
    pub initial: IndexMap<String, Literal>,
    /// Running statistics, and the number of the step if random numbers are drawn.
    pub buffers: Vec<Buffer>,
    /// Inputs whose value the graph now depends on, see [`ImportOptions::values`].
    pub specialized: Vec<String>,
    /// Trainable initializers that no output depends on; they are no inputs.
    pub unused: Vec<String>,
}

/// Imports a model from its bytes. External data is refused, since there is no folder to read it from.
pub fn import_bytes(bytes: impl Into<Bytes>, options: &ImportOptions) -> Result<Imported, ImportError> {
    import(bytes.into(), None, options)
}

/// Imports a model file; external data is read from its folder.
pub fn import_file(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let io = |e: std::io::Error| {
        let problem = Problem::new("E0140", format!("cannot read '{}'", path.display())).because(e.to_string());
        ImportError::Io(problem)
    };
    let bytes = std::fs::read(path).map_err(io)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    import(bytes.into(), Some(folder), options)
}

fn import(bytes: Bytes, folder: Option<&Path>, options: &ImportOptions) -> Result<Imported, ImportError> {
    model::run(&decode(bytes, &options.limits)?, folder, options)
}

/// Decodes a model after checking what it would cost.
pub fn decode(bytes: Bytes, limits: &ImportLimits) -> Result<proto::ModelProto, ImportError> {
    limits::prescan(&bytes, limits)?;
    proto::ModelProto::decode(bytes).map_err(|e| {
        let problem = Problem::new("E0101", "this is not an ONNX model, or it is damaged").because(e.to_string());
        ImportError::Malformed(problem.help("export the model again, or check that the file was copied whole"))
    })
}
