//! Flags that several commands share: the target, the model, the pipeline.

use super::output::{Outcome, Output};
use clap::{Args, ValueEnum};
use girih::{CompileOptions, Compiled, Error, Model, ModelOptions, Prepared, Stream, Target, TargetSpec, files};
use girih_compiler::import::onnx::BatchNormMode;
use girih_compiler::import::onnx::limits::ImportLimits;
use girih_compiler::optimize::{OptimizeOptions, RuleClass};
use girih_compiler::partition::{Baseline, Pinning};
use girih_compiler::pipeline::{CompileError, Microbatches, ReplicaOption, StageOption};
use girih_compiler::precision::Precision;
use girih_compiler::train::LossSpec;
use girih_ir::target::Coord;
use girih_runtime::{RuntimeOptions, jit};
use std::path::{Path, PathBuf};

/// Which machine, and what is changed about it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Target")]
pub struct TargetArgs {
    /// A built-in target (`girih targets` lists them) or a TOML file
    #[arg(short, long, value_name = "NAME|FILE")]
    pub target: Option<String>,
    /// Spread over exactly this many dies; without it the planner chooses
    #[arg(long, value_name = "N")]
    pub dies: Option<usize>,
    /// A die that does not work; may be repeated
    #[arg(long, value_name = "ROW,COL")]
    pub dead: Vec<Coord>,
    /// A link that does not work, such as `0,1:E`; may be repeated
    #[arg(long, value_name = "ROW,COL:SIDE")]
    pub dead_link: Vec<String>,
    /// Override a figure of the target, such as `sram=200MiB`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl TargetArgs {
    /// The target, `default` when none is named.
    pub fn open(&self, default: &str) -> Outcome<Target> {
        let name = self.target.clone().unwrap_or_else(|| default.to_string());
        let spec = TargetSpec { name, dead: self.dead.clone(), dead_links: self.dead_link.clone(), set: self.set.clone() };
        Ok(spec.open()?)
    }

    /// Whether any flag is given.
    fn is_given(&self) -> bool {
        self.target.is_some() || self.dies.is_some() || !self.dead.is_empty() || !self.dead_link.is_empty() || !self.set.is_empty()
    }
}

/// How a program is executed.
#[derive(Args, Clone, Debug)]
pub struct Workers {
    /// Worker threads; 0 takes one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Interpret fused programs instead of running them as machine code
    #[arg(long)]
    no_jit: bool,
}

impl Workers {
    /// The options of a session; turns machine code off where that is asked for.
    pub fn options(&self) -> RuntimeOptions {
        jit::set_enabled(!self.no_jit);
        RuntimeOptions { threads: self.threads, ..RuntimeOptions::default() }
    }
}

/// Whose statistics batch normalization uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BatchNorm {
    /// The running statistics in the file
    Inference,
    /// Those of the batch, as in training
    Batch,
}

/// How a model is read and made into a step.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Extent of the first dimension of every input where the model leaves it open
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Extent of a named dimension, or of one of an input (`x.2=128`); may be repeated
    #[arg(long, value_name = "NAME=N", value_parser = key_value::<usize>)]
    pub dim: Vec<(String, usize)>,
    /// Train with this loss: `softmax_cross_entropy`, `bce_with_logits`, `mse` or `output`, with `:key=value,…` (see `girih explain E0330`)
    #[arg(long, value_name = "SPEC")]
    pub loss: Option<String>,
    /// Train with this optimizer: `sgd`, `adam`, `adamw` or `none`, with `:lr=…,key=value,…` (see `girih explain E0330`)
    #[arg(long, value_name = "SPEC")]
    pub optimizer: Option<String>,
    /// Forward outputs that a training step returns beside the loss
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub keep: Vec<String>,
    /// Whose statistics batch normalization uses
    #[arg(long, value_enum, default_value_t = BatchNorm::Inference, value_name = "MODE")]
    pub batch_norm: BatchNorm,
    /// Values that a StableHLO step carries, beside those that its file donates: `arg0=out0,arg1=out1`
    #[arg(long, value_name = "INPUT=OUTPUT", value_delimiter = ',', value_parser = pair)]
    pub state: Vec<(String, String)>,
    /// The function of a StableHLO module; without it `main`
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Trainable initializers; without it all floating-point ones with at least one dimension. Of a StableHLO model the trainable inputs
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub trainable: Option<Vec<String>>,
    /// Initial values by name; they replace those of the model file
    #[arg(long, value_name = "FILE.safetensors")]
    pub weights: Option<PathBuf>,
    /// Seed of the random numbers that the step draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Raise or lower an import limit, such as `nodes=2000000`; may be repeated
    #[arg(long, value_name = "KEY=N", value_parser = key_value::<u64>)]
    pub limit: Vec<(String, u64)>,
}

/// Parses `KEY=VALUE`.
fn key_value<T: std::str::FromStr>(text: &str) -> Result<(String, T), String> {
    let (key, value) = text.split_once('=').ok_or("write NAME=NUMBER")?;
    value.trim().parse().map(|v| (key.trim().to_string(), v)).map_err(|_| format!("`{value}` is no number that fits here"))
}

/// Parses `INPUT=OUTPUT`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (input, output) = text.split_once('=').ok_or("write INPUT=OUTPUT")?;
    Ok((input.trim().to_string(), output.trim().to_string()))
}

/// What a model is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To run it a single time.
    Once,
    /// To compile what it is.
    Compile,
    /// To train it.
    Train,
}

impl Purpose {
    /// To train it when a loss is given.
    pub fn compiled(loss: bool) -> Self {
        if loss { Purpose::Train } else { Purpose::Compile }
    }
}

impl ModelArgs {
    /// Reads a model.
    pub fn open(&self, path: &Path) -> Outcome<Model> {
        let mut options = ModelOptions { weights: self.weights.clone(), ..ModelOptions::default() };
        options.import.batch = self.batch;
        options.import.dims = self.dim.iter().cloned().collect();
        options.import.batch_norm = match self.batch_norm {
            BatchNorm::Inference => BatchNormMode::Inference,
            BatchNorm::Batch => BatchNormMode::BatchStatistics,
        };
        options.import.trainable = self.trainable.as_ref().map(|names| names.iter().cloned().collect());
        options.state = self.state.clone();
        options.stablehlo.entry = self.entry.clone();
        for (key, value) in &self.limit {
            set_limit(&mut options.import.limits, key, *value)?;
        }
        Ok(Model::open(path, &options)?)
    }

    /// The step to compile: a training step when a loss is given, or when it is to be trained and the model's own output is a loss.
    pub fn prepare(&self, model: &Model, purpose: Purpose) -> Outcome<Prepared> {
        let train = purpose == Purpose::Train;
        let mut prepared = match (&self.loss, model.is_step()) {
            (Some(loss), _) => model.training(&loss.parse()?, &self.optimizer()?.parse()?, &self.keep)?,
            (None, _) if purpose == Purpose::Once => model.once(),
            (None, true) => model.inference(),
            (None, false) if train && model.is_function() && self.optimizer.is_none() => model.step()?,
            (None, false) if train => model.training(&own_loss(model)?, &self.optimizer()?.parse()?, &self.keep)?,
            (None, false) if self.optimizer.is_some() => {
                return Err(Error::Usage { what: "an optimizer needs a loss".into(), help: "add --loss SPEC".into() }.into());
            }
            (None, false) => model.inference(),
        };
        prepared.step.seed = self.seed;
        Ok(prepared)
    }

    fn optimizer(&self) -> Outcome<String> {
        Ok(self.optimizer.clone().unwrap_or_else(|| "sgd:lr=0.01".into()))
    }
}

/// The loss of a model whose first output is one.
fn own_loss(model: &Model) -> Outcome<LossSpec> {
    let graph = model.graph();
    let first = graph.outputs.first().map(|o| graph.tensor_ty(o.value));
    if first.is_some_and(|t| t.elements() == 1 && t.dtype.is_float()) {
        return Ok("output".parse()?);
    }
    let outputs: Vec<String> = graph.outputs.iter().map(|o| format!("`{}`", o.name)).collect();
    let what = format!("training needs a loss, and no output of the model is a scalar: it has {}", outputs.join(", "));
    Err(Error::Usage { what, help: "add --loss, for example `--loss softmax_cross_entropy:labels=labels`".into() }.into())
}

fn set_limit(limits: &mut ImportLimits, key: &str, value: u64) -> Outcome {
    match key {
        "graph_bytes" => limits.graph_bytes = value,
        "nodes" => limits.nodes = value,
        "rank" => limits.rank = value as usize,
        "extent" => limits.extent = value,
        "elements" => limits.elements = value,
        "depth" => limits.depth = value as usize,
        "name_bytes" => limits.name_bytes = value as usize,
        "external_files" => limits.external_files = value as usize,
        "decoded_ratio" => limits.decoded_ratio = value,
        "folded_bytes" => limits.folded_bytes = value,
        _ => {
            let known = "graph_bytes, nodes, rank, extent, elements, depth, name_bytes, external_files, decoded_ratio and folded_bytes";
            return Err(Error::Usage { what: format!("there is no limit `{key}`"), help: format!("there are {known}") }.into());
        }
    }
    Ok(())
}

/// Which rewrite rules may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Rules {
    /// Every bit stays the same
    Exact,
    /// Rounding may differ: sums and products in another order
    Reassociates,
    /// Special values may differ: infinities, NaN, overflow
    Approximates,
}

/// How the pipeline runs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pipeline")]
pub struct PipelineArgs {
    /// Compile without rewriting
    #[arg(long)]
    pub no_optimize: bool,
    /// The loosest class of rewrite rules that may run
    #[arg(long, value_enum, default_value_t = Rules::Reassociates, value_name = "CLASS")]
    pub rules: Rules,
    /// Whether values that do not fit into SRAM may be computed again instead of being kept
    #[arg(long, value_enum, default_value_t = Remat::Auto, value_name = "WHEN")]
    pub remat: Remat,
    /// In what products and convolutions of f32 take their operands (default: f32, or what the folder of a case says); sums, weights and
    /// everything else stay f32
    #[arg(long, value_name = "f32|bf16")]
    pub precision: Option<Precision>,
    /// Whether optimizer state and weights that do not fit into SRAM may stay in host memory and be loaded for each use
    #[arg(long, value_enum, default_value_t = Streaming::Auto, value_name = "WHEN")]
    pub stream: Streaming,
    /// Cut the batch into N slices that are computed one after the other; `auto` does it when the whole batch does not fit
    #[arg(long, default_value = "auto", value_name = "auto|N|off", value_parser = microbatches)]
    pub microbatches: Microbatches,
    /// Cut the model into N stages, each on its own rectangle of dies, through which slices of the batch follow each other; `auto` plans
    /// several numbers of stages and none, simulates them, and keeps the fastest
    #[arg(long, default_value = "off", value_name = "auto|N|off", value_parser = stages)]
    pub stages: StageOption,
    /// Run the same streams on N packages of the machine, each on its rows of the batch; `auto` does it on machines of many dies
    #[arg(long, default_value = "auto", value_name = "auto|N|off", value_parser = replicas)]
    pub replicas: ReplicaOption,
    /// Split the products as in the literature, to compare: `data`, `megatron` or `summa`
    #[arg(long, value_name = "NAME", conflicts_with = "pin")]
    pub strategy: Option<Baseline>,
    /// Splits that are not up for choice: a file of lines such as `wte y=0 x=-` or `op:dot_general y=1 x=2`
    #[arg(long, value_name = "FILE")]
    pub pin: Option<PathBuf>,
}

/// Parses `auto`, a number or `off`.
fn replicas(text: &str) -> Result<ReplicaOption, String> {
    match (text, text.parse::<usize>()) {
        ("auto", _) => Ok(ReplicaOption::Auto),
        ("off", _) => Ok(ReplicaOption::Off),
        (_, Ok(n)) if n > 0 => Ok(ReplicaOption::Exactly(n)),
        _ => Err("write `auto`, `off` or a number of replicas".into()),
    }
}

/// Parses `auto`, a number or `off`.
fn microbatches(text: &str) -> Result<Microbatches, String> {
    match (text, text.parse::<usize>()) {
        ("auto", _) => Ok(Microbatches::Auto),
        ("off", _) => Ok(Microbatches::Off),
        (_, Ok(n)) if n > 0 => Ok(Microbatches::Exactly(n)),
        _ => Err("write `auto`, `off` or a number of slices".into()),
    }
}

/// Parses `auto`, a number or `off`.
fn stages(text: &str) -> Result<StageOption, String> {
    match (text, text.parse::<usize>()) {
        ("auto", _) => Ok(StageOption::Auto),
        ("off", _) => Ok(StageOption::Off),
        (_, Ok(n)) if n > 1 => Ok(StageOption::Exactly(n)),
        _ => Err("write `auto`, `off` or a number of stages, at least 2".into()),
    }
}

/// When state stays in host memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Streaming {
    /// When the step does not fit otherwise, as little as is needed.
    Auto,
    /// Never.
    Off,
    /// Always, all that can.
    All,
}

/// When values are computed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Remat {
    /// When the step does not fit otherwise.
    Auto,
    /// Never.
    Off,
}

impl PipelineArgs {
    /// Options of rewriting.
    pub fn optimize(&self) -> OptimizeOptions {
        let class = match self.rules {
            Rules::Exact => RuleClass::Exact,
            Rules::Reassociates => RuleClass::Reassociates,
            Rules::Approximates => RuleClass::Approximates,
        };
        OptimizeOptions { class, ..OptimizeOptions::default() }
    }

    /// Options of the pipeline.
    pub fn options(&self, target: &TargetArgs) -> Outcome<CompileOptions> {
        let optimize = if self.no_optimize { None } else { Some(self.optimize()) };
        let stream = match self.stream {
            Streaming::Auto => Stream::Auto,
            Streaming::Off => Stream::Off,
            Streaming::All => Stream::All,
        };
        Ok(CompileOptions {
            dies: target.dies,
            optimize,
            remat: self.remat == Remat::Auto,
            precision: self.precision.unwrap_or_default(),
            stream,
            microbatches: self.microbatches,
            stages: self.stages,
            replicas: self.replicas,
            pins: self.pins()?,
        })
    }

    /// Splits that are not up for choice.
    pub fn pins(&self) -> Outcome<Pinning> {
        Ok(match (&self.strategy, &self.pin) {
            (Some(strategy), _) => Pinning::Strategy(*strategy),
            (None, Some(file)) => Pinning::parse(&files::read_text(file)?).map_err(CompileError::from)?,
            (None, None) => Pinning::Free,
        })
    }
}

/// A model to be compiled on the way, or a compiled program.
#[derive(Args, Clone, Debug)]
pub struct ProgramArgs {
    /// A model (.onnx, .mlir, .mlirbc, .hlo.pb, .gir) or a compiled program (.girih)
    #[arg(value_name = "MODEL|OUT.girih")]
    pub path: PathBuf,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

impl ProgramArgs {
    /// The program: opened, or compiled for the target.
    pub fn open(&self, out: &Output, default_target: &str, purpose: Purpose) -> Outcome<Compiled> {
        if files::extension(&self.path) == "girih" {
            if self.target.is_given() {
                let what = format!("{} was compiled for its target already", self.path.display());
                return Err(Error::Usage { what, help: "leave out the target flags, or give the model".into() }.into());
            }
            return Ok(Compiled::open(&self.path)?);
        }
        let target = self.target.open(default_target)?;
        let model = self.model.open(&self.path)?;
        model.notes().iter().for_each(|n| out.progress(&format!("note: {n}")));
        let prepared = self.model.prepare(&model, purpose)?;
        Ok(girih::compile(prepared, &target, &self.pipeline.options(&self.target)?)?)
    }
}
