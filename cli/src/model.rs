//! Models: what people have on disk, read into the tensor IR and made into a step that can be compiled.

use crate::error::Error;
use crate::{files, tensors};
use girih_compiler::import::error::ImportError;
use girih_compiler::import::onnx::{self, Buffer, ImportOptions, Imported};
use girih_compiler::import::stablehlo::{self, StablehloOptions};
use girih_compiler::train::{LossSpec, OptimizerSpec, TrainOptions, train_step_with};
use girih_ir::graph::{Graph, Role};
use girih_ir::step::{TrainStep, Weights, parse_step};
use std::path::{Path, PathBuf};

/// How to read a model.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// What the ONNX importer needs to know: open dimensions, batch normalization, trainable parameters, limits.
    pub import: ImportOptions,
    /// What the StableHLO importer needs to know: the function, limits.
    pub stablehlo: StablehloOptions,
    /// What a StableHLO step carries beside what its file donates: names of inputs with those of the outputs that replace them.
    pub state: Vec<(String, String)>,
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
    /// A StableHLO function, and the training step that it is when its file or the caller says what is carried.
    Function { imported: Box<stablehlo::convert::Imported>, step: Option<Box<TrainStep>> },
}

/// Extensions of StableHLO files.
const STABLEHLO: [&str; 4] = ["mlir", "mlirbc", "jaxexport", "hlo.pb"];

/// A step that is ready to be compiled, and the values that its state begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The step.
    pub step: TrainStep,
    /// Initial values of its state, by name. Values that are missing must be set on the session.
    pub weights: Weights,
}

impl Model {
    /// Reads a model by the extension of its file: `.onnx`, `.mlir`, `.mlirbc`, `.jaxexport` or `.hlo.pb` (StableHLO), or `.gir` (a graph
    /// or a step in the text form).
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Model, Error> {
        let path = path.as_ref();
        let kind = files::extension(path);
        let is_function = STABLEHLO.contains(&kind.as_str());
        if !options.state.is_empty() && !is_function {
            return Err(Error::usage("only StableHLO models have pairs to carry", "leave out --state"));
        }
        let mut model = match kind.as_str() {
            "onnx" => Model::imported(onnx::import_file(path, &options.import)?),
            "gir" => Model::from_text(&files::read_text(path)?, path)?,
            _ if is_function => Model::function(stablehlo::import_file(path, &options.stablehlo)?, options)?,
            "girih" => {
                let what = format!("{} is a compiled program, and a model is needed here", path.display());
                return Err(Error::usage(what, "give the model that it was compiled from"));
            }
            _ => {
                let what = format!("it is not clear what kind of model {} is", path.display());
                return Err(Error::usage(what, "models end in .onnx, .mlir, .mlirbc, .hlo.pb, .jaxexport or .gir"));
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

    /// Reads a StableHLO module from memory, in any of its forms.
    pub fn from_stablehlo_bytes(bytes: &[u8], options: &ModelOptions) -> Result<Model, Error> {
        Model::function(stablehlo::import_bytes(bytes, &options.stablehlo)?, options)
    }

    fn function(mut imported: stablehlo::convert::Imported, options: &ModelOptions) -> Result<Model, Error> {
        let carries = !options.state.is_empty() || !imported.donated_pairs().is_empty();
        let step = if carries { Some(Box::new(imported.clone().into_step(&options.state)?)) } else { None };
        for name in options.import.trainable.iter().flatten() {
            let Some(input) = imported.graph.inputs.iter_mut().find(|i| i.name == *name) else {
                return Err(Error::usage(format!("there is no input `{name}` to train"), "`girih inspect` lists the inputs"));
            };
            input.role = Role::Param;
        }
        let source = Source::Function { imported: Box::new(imported), step };
        Ok(Model { source, initial: Weights::new(), buffers: Vec::new(), notes: Vec::new() })
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
            Source::Function { imported, .. } => &imported.graph,
        }
    }

    /// Whether the file already held a training step.
    pub fn is_step(&self) -> bool {
        matches!(self.source, Source::Step(_) | Source::Function { step: Some(_), .. })
    }

    /// The step that the file holds.
    ///
    /// # Errors
    /// A usage error that says how to make one, when the file does not say what is carried from step to step.
    pub fn step(&self) -> Result<Prepared, Error> {
        match &self.source {
            Source::Function { imported, step: None } => {
                let step = imported.as_ref().clone().into_step(&[])?;
                Ok(Prepared { step, weights: self.initial.clone() })
            }
            _ => Ok(self.inference()),
        }
    }

    /// Whether the file is StableHLO, whose functions may be training steps.
    pub fn is_function(&self) -> bool {
        matches!(self.source, Source::Function { .. })
    }

    /// The step that runs the model a single time: a StableHLO function takes all its inputs anew and returns all its outputs.
    pub fn once(&self) -> Prepared {
        match &self.source {
            Source::Function { imported, .. } => {
                Prepared { step: TrainStep::inference(imported.graph.clone()), weights: self.initial.clone() }
            }
            _ => self.inference(),
        }
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
            Source::Function { step: Some(step), .. } => step.as_ref().clone(),
            Source::Function { imported, step: None } => TrainStep::inference(imported.graph.clone()),
        };
        Prepared { step, weights: self.initial.clone() }
    }

    /// The training step: forward, loss, gradients, optimizer. Running statistics are carried along; `keep` names forward outputs that
    /// every step returns beside the loss.
    pub fn training(&self, loss: &LossSpec, optimizer: &OptimizerSpec, keep: &[String]) -> Result<Prepared, Error> {
        if self.is_step() {
            let what = format!("`{}` already is a training step", self.graph().name);
            return Err(Error::usage(what, "leave out --loss and --optimizer"));
        }
        let graph = self.graph();
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
    let nest = girih_ir::graph::loops::LoopNest::of(graph).unwrap_or_default();
    let work = graph.values().filter(|v| !matches!(graph.node(*v).op, Op::Input(_) | Op::Constant(_) | Op::Proj(_)));
    // What is in a loop runs once an iteration; a `while` counts as one.
    work.fold(0, |sum, v| sum.saturating_add(count(graph.node(v)).saturating_mul(nest.runs(v, 1) as u64)))
}
