//! Single passes from text to text.
//!
//! Every level of the pipeline has a text form that round-trips, so a pass is a function on strings: feed it a level, compare what comes
//! out with a snapshot. `girih compile --emit STAGE` prints the same texts.

use crate::error::Error;
use girih_compiler::levels::{parse_memory, parse_placed, parse_schedule, parse_sharded};
use girih_compiler::optimize::OptimizeOptions;
use girih_compiler::partition::{PartitionOptions, Pinning, Price, partition};
use girih_compiler::pipeline::{CompileError, CompileOptions, Level, PASSES, Pipeline, fused};
use girih_compiler::precision::{self, Precision};
use girih_compiler::train::{LossSpec, OptimizerSpec, train_step};
use girih_compiler::{canonicalize, lower, memory, optimize, place, schedule};
use girih_ir::program::{Program, parse_program};
use girih_ir::step::{TrainStep, parse_step};
use girih_ir::target::Target;
use std::fmt::Display;
use std::path::Path;

/// What passes need beside their input.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// `autodiff`: the loss.
    pub loss: Option<LossSpec>,
    /// `autodiff`: the optimizer; without one the gradients are outputs.
    pub optimizer: Option<OptimizerSpec>,
    /// `optimize`: rules and limits.
    pub optimize: OptimizeOptions,
    /// `precision`: what products and convolutions take.
    pub precision: Precision,
    /// `partition`: spread over exactly this many dies.
    pub dies: Option<usize>,
    /// `partition`: splits that are not up for choice.
    pub pins: Pinning,
    /// `partition`: the price of a byte of SRAM in picoseconds.
    pub sram_price: f64,
}

/// The names of all passes, in order: `autodiff`, then those of the pipeline.
pub fn names() -> Vec<&'static str> {
    std::iter::once("autodiff").chain(PASSES.iter().map(|p| p.name)).collect()
}

/// Runs one pass on the text of its level and returns the text of the next.
///
/// ```
/// use girih::{Target, passes::{self, PassOptions}};
///
/// let text = r#"
/// graph @g(%x: f32[4] input "x") {
///   %y = add %x, %x
///   %z = neg %y
///   %unused = exp %x
///   return %z "z"
/// }"#;
/// let target = Target::builtin("dojo-tile")?;
/// let out = passes::run("canonicalize", text, &target, &PassOptions::default())?;
/// assert!(!out.contains("exp"), "what nothing reads is dropped");
/// # Ok::<(), girih::Error>(())
/// ```
pub fn run(name: &str, text: &str, target: &Target, options: &PassOptions) -> Result<String, Error> {
    Ok(match name {
        "autodiff" => autodiff(text, options)?.to_string(),
        "canonicalize" => rewritten(text, |step| Ok(canonicalize::canonicalize(&step.graph).0))?.to_string(),
        "optimize" => {
            let optimized = rewritten(text, |step| {
                let found = optimize::optimize(&step.graph, &options.optimize).map_err(CompileError::from)?;
                Ok(canonicalize::canonicalize(&found.graph).0)
            });
            optimized?.to_string()
        }
        "precision" => rewritten(text, |step| {
            Ok(match options.precision {
                Precision::F32 => step.graph.clone(),
                Precision::Bf16 => canonicalize::canonicalize(&precision::narrow(&step.graph).0).0,
            })
        })?
        .to_string(),
        "fuse" => fused(step_of(text)?, target, options.dies).0.to_string(),
        "partition" => {
            let price = Price { lambda: options.sram_price, ..Price::default() };
            let options = PartitionOptions { dies: options.dies, price, pins: options.pins.clone() };
            partition(&step_of(text)?, target, &options).map_err(CompileError::from)?.0.to_string()
        }
        "place" => {
            let sharded = parse_sharded(text)?;
            let mesh = target.logical_mesh(sharded.mesh.rows, sharded.mesh.cols)?;
            place::place(sharded, &mesh, target).map_err(CompileError::from)?.to_string()
        }
        "schedule" => schedule::schedule(parse_placed(text)?).to_string(),
        "memory" => {
            memory::plan(parse_schedule(text)?, target).map_err(|report| Error::from(CompileError::Fit(report)).on(target))?.to_string()
        }
        "lower" => lower::lower(parse_memory(text)?, target).map_err(CompileError::from)?.to_string(),
        other => {
            let what = format!("there is no pass `{other}`");
            return Err(Error::usage(what, format!("passes are {}", names().join(", "))));
        }
    })
}

/// Goes on after the pass `stage` from the text that it made, down to the program, which is not yet checked. `observe` sees what every
/// pass makes. Up to `fuse` the pipeline may still look for another split when one does not fit; later texts keep their decisions.
pub fn resume(
    stage: &str,
    text: &str,
    path: &Path,
    target: &Target,
    options: &PassOptions,
    observe: &mut dyn FnMut(&'static str, &dyn Display),
) -> Result<Program, Error> {
    let position = |name: &str| PASSES.iter().position(|p| p.name == name);
    let (Some(at), Some(split)) = (position(stage), position("partition")) else {
        let known: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
        return Err(Error::usage(format!("there is no stage `{stage}`"), format!("stages are {}", known.join(", "))));
    };
    let named = |e: Error| match e {
        Error::Text { error, .. } => Error::Text { path: path.to_path_buf(), error },
        other => other,
    };
    let mut text = text.to_string();
    let end = if at < split { split } else { PASSES.len() };
    for pass in &PASSES[at + 1..end] {
        text = run(pass.name, &text, target, options).map_err(named)?;
        observe(pass.name, &text);
    }
    if at >= split {
        return parse_program(&text).map_err(|error| Error::Text { path: path.to_path_buf(), error });
    }
    let settings = CompileOptions { dies: options.dies, pins: options.pins.clone(), ..CompileOptions::default() };
    let mut pipeline = Pipeline::new(target, &settings).observe(|pass, level| observe(pass, &text_of(level)));
    pipeline.plan(step_of(&text).map_err(named)?).map_err(|e| Error::from(e).on(target))
}

/// The text form of a level.
pub fn text_of(level: Level<'_>) -> String {
    match level {
        Level::Step(l) => l.to_string(),
        Level::Sharded(l) => l.to_string(),
        Level::Placed(l) => l.to_string(),
        Level::Scheduled(l) => l.to_string(),
        Level::Planned(l) => l.to_string(),
        Level::Program(l) => l.to_string(),
    }
}

fn step_of(text: &str) -> Result<TrainStep, Error> {
    let step = parse_step(text).map_err(|error| Error::Text { path: "text".into(), error })?;
    step.verify()?;
    Ok(step)
}

fn rewritten(text: &str, pass: impl FnOnce(&TrainStep) -> Result<girih_ir::graph::Graph, Error>) -> Result<TrainStep, Error> {
    let mut step = step_of(text)?;
    step.graph = pass(&step)?;
    Ok(step)
}

fn autodiff(text: &str, options: &PassOptions) -> Result<TrainStep, Error> {
    let Some(loss) = &options.loss else {
        return Err(Error::usage("`autodiff` needs a loss", "set `PassOptions::loss`"));
    };
    let optimizer = match options.optimizer {
        Some(o) => o,
        None => "none".parse()?,
    };
    Ok(train_step(&step_of(text)?.graph, loss, &optimizer, &[], &[])?.step)
}
