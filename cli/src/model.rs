//! Models: what people have on disk, read into the tensor IR and made into a step that can be compiled.

use crate::error::Error;
use crate::{files, tensors};
use girih_compiler::import::error::ImportError;
use girih_compiler::import::onnx::{self, Buffer, ImportOptions, Imported};
use girih_compiler::train::{LossSpec, OptimizerSpec, TrainOptions, train_step_with};
use girih_ir::graph::Graph;
use girih_ir::step::{TrainStep, Weights, parse_step};
use std::path::{Path, PathBuf};

/// How to read a model.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// What the ONNX importer needs to know: open dimensions, batch normalization, trainable parameters, limits.
    pub import: ImportOptions,
    /// A `.safetensors` file with initial values by name. They replace those of the model file; a `.gir` text has none of its own.
    pub weights: Option<PathBuf>,
}

/// A model in memory.
#[derive(Clone, Debug)]
pub struct Model {
    source: Source,
    initial: Weights,
    buffers: Vec<Buffer>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
enum Source {
    /// A forward graph.
    Forward(Graph),
    /// A text that already is a training step.
    Step(TrainStep),
}

/// A step that is ready to be compiled, and the values that its state begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The step.
    pub step: TrainStep,
    /// Initial values of its state, by name. Values that are missing must be set on the session.
    pub weights: Weights,
}

impl Model {
    /// Reads a model by the extension of its file: `.onnx`, or `.gir` (a graph or a step in the text form).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for kinds of files that are known but not imported, such as StableHLO.
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Model, Error> {
        let path = path.as_ref();
        let mut model = match files::extension(path).as_str() {
            "onnx" => Model::imported(onnx::import_file(path, &options.import)?),
            "gir" => Model::from_text(&files::read_text(path)?, path)?,
            "mlir" | "mlirbc" | "hlo.pb" => {
                return Err(Error::Unsupported {
                    what: format!("{} is StableHLO, which this version does not import", path.display()),
                    help: "export the model to ONNX".into(),
                });
            }
            "girih" => {
                let what = format!("{} is a compiled program, and a model is needed here", path.display());
                return Err(Error::usage(what, "give the .onnx or .gir file that it was compiled from"));
            }
            _ => {
                let what = format!("it is not clear what kind of model {} is", path.display());
                return Err(Error::usage(what, "models end in .onnx or .gir"));
            }
        };
        if let Some(weights) = &options.weights {
            model.initial.extend(tensors::open(weights)?);
        }
        Ok(model)
    }

    /// Reads an ONNX model from memory. External data is refused.
    pub fn from_onnx_bytes(bytes: &[u8], options: &ModelOptions) -> Result<Model, Error> {
        let imported: Result<Imported, ImportError> = onnx::import_bytes(bytes.to_vec(), &options.import);
        Ok(Model::imported(imported?))
    }

    /// Reads the text form of a graph or step; `path` is what errors call it.
    pub fn from_text(text: &str, path: &Path) -> Result<Model, Error> {
        let step = parse_step(text).map_err(|error| Error::Text { path: path.to_path_buf(), error })?;
        step.verify()?;
        let source = match TrainStep::inference(step.graph.clone()) == step {
            true => Source::Forward(step.graph),
            false => Source::Step(step),
        };
        Ok(Model { source, initial: Weights::new(), buffers: Vec::new(), notes: Vec::new() })
    }

    fn imported(imported: Imported) -> Model {
        let mut notes = Vec::new();
        if !imported.specialized.is_empty() {
            notes.push(format!("the graph is valid for the given values of {} only", imported.specialized.join(", ")));
        }
        if !imported.unused.is_empty() {
            notes.push(format!("no output depends on the initializers {}", imported.unused.join(", ")));
        }
        let initial = imported.initial.into_iter().collect();
        Model { source: Source::Forward(imported.graph), initial, buffers: imported.buffers, notes }
    }

    /// The graph: the forward graph, or that of the step.
    pub fn graph(&self) -> &Graph {
        match &self.source {
            Source::Forward(graph) => graph,
            Source::Step(step) => &step.graph,
        }
    }

    /// Whether the file already held a training step.
    pub fn is_step(&self) -> bool {
        matches!(self.source, Source::Step(_))
    }

    /// Initial values from the file.
    pub fn initial(&self) -> &Weights {
        &self.initial
    }

    /// What a user should know about the import, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The step that only runs the model. A training step from a text stays as it is.
    pub fn inference(&self) -> Prepared {
        let step = match &self.source {
            Source::Forward(graph) => TrainStep::inference(graph.clone()),
            Source::Step(step) => step.clone(),
        };
        Prepared { step, weights: self.initial.clone() }
    }

    /// The training step: forward, loss, gradients, optimizer. Running statistics are carried along; `keep` names forward outputs that
    /// every step returns beside the loss.
    pub fn training(&self, loss: &LossSpec, optimizer: &OptimizerSpec, keep: &[String]) -> Result<Prepared, Error> {
        let Source::Forward(graph) = &self.source else {
            let what = format!("`{}` already is a training step", self.graph().name);
            return Err(Error::usage(what, "leave out --loss and --optimizer"));
        };
        let carried: Vec<(String, String)> = self.buffers.iter().map(|b| (b.input.clone(), b.output.clone())).collect();
        let options = TrainOptions { carried, keep: keep.to_vec(), ..TrainOptions::default() };
        let training = train_step_with(graph, loss, optimizer, &options)?;
        // A text has no weights; the slots have their values all the same, and the session asks for the rest.
        let slots = || self.initial.clone().into_iter().chain(training.slots.clone()).collect();
        let weights = training.initial(self.initial.clone()).unwrap_or_else(|_| slots());
        Ok(Prepared { step: training.step, weights })
    }
}

impl Prepared {
    /// Operations of one step, forward to optimizer, counted before any rewriting.
    pub fn flops(&self) -> u64 {
        flops(&self.step.graph)
    }
}

/// Operations of one run of a graph.
pub fn flops(graph: &Graph) -> u64 {
    use girih_ir::ops::Op;
    let count = |node: &girih_ir::graph::Node| {
        let ins: Vec<&girih_ir::types::Type> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        let axes = node.op.axes(&ins, &node.ty);
        axes.ops(&axes.full_ranges())
    };
    let work = graph.nodes().iter().filter(|n| !matches!(n.op, Op::Input(_) | Op::Constant(_) | Op::Proj(_)));
    work.fold(0, |sum, n| sum.saturating_add(count(n)))
}
