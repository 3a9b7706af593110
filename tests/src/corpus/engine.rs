//! What runs a step: the reference interpreter, or the whole pipeline and the runtime.

use super::Tensors;
use girih_ir::graph::Role;
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::tensor::Tensor;

/// Why a step could not be started or run.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// girih does not have what the case needs.
    Unsupported(String),
    /// It went wrong.
    Error(String),
}

/// Runs one step after another.
pub trait Stepper {
    /// Runs one step on a batch and returns the named results.
    fn step(&mut self, inputs: &Tensors) -> Result<Tensors, Failure>;
    /// The value of a state now.
    fn state(&self, name: &str) -> Option<Literal>;
    /// Dies that compute; 0 when there are none.
    fn dies(&self) -> usize;
    /// Seconds that compiling took.
    fn compile_seconds(&self) -> f64;
}

/// Where to run: the flags that `girih compile` takes, and `-t interp` for the reference interpreter.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EngineArgs {
    /// A built-in target, a target file, or `interp`.
    #[arg(short = 't', long, default_value = "host")]
    pub target: String,
    /// Spread over exactly this many dies.
    #[arg(long)]
    pub dies: Option<usize>,
    /// Dead dies, `ROW,COL`.
    #[arg(long = "dead", value_name = "ROW,COL")]
    pub dead: Vec<String>,
    /// Dead links, `ROW,COL:SIDE`.
    #[arg(long = "dead-link", value_name = "ROW,COL:SIDE")]
    pub dead_links: Vec<String>,
    /// Changes of the target, `key=value`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// What runs steps.
#[derive(Clone, Debug)]
pub enum Engine {
    /// The reference interpreter.
    Interpreter,
}

impl Engine {
    /// The engine that the flags name.
    pub fn new(args: &EngineArgs) -> Result<Engine, String> {
        if args.target == "interp" {
            return Ok(Engine::Interpreter);
        }
        Err(format!("there is no target `{}`", args.target))
    }

    /// Prepares a step with its initial state.
    pub fn start(&self, step: TrainStep, weights: Weights) -> Result<Box<dyn Stepper>, Failure> {
        match self {
            Engine::Interpreter => Ok(Box::new(Interpreted { step, state: weights })),
        }
    }
}

/// Converts a batch tensor to the type that the graph wants, when that loses nothing.
pub fn fit(literal: &Literal, to: girih_ir::types::DType) -> Literal {
    if literal.ty().dtype == to { literal.clone() } else { Tensor::from_literal(literal).convert(to).to_literal() }
}

struct Interpreted {
    step: TrainStep,
    state: Weights,
}

impl Stepper for Interpreted {
    fn step(&mut self, inputs: &Tensors) -> Result<Tensors, Failure> {
        let graph = &self.step.graph;
        let mut values = Vec::with_capacity(graph.inputs.len());
        for input in &graph.inputs {
            let source = if input.role == Role::Data { inputs } else { &self.state };
            let literal = source.get(&input.name).ok_or_else(|| Failure::Error(format!("no value for input {}", input.name)))?;
            values.push(Tensor::from_literal(&fit(literal, graph.tensor_ty(input.value).dtype)));
        }
        let outputs = interp::eval(graph, &values).map_err(|e| Failure::Error(e.to_string()))?;
        for pair in &self.step.state {
            if let Some(o) = pair.output {
                self.state.insert(pair.name.clone(), outputs[o].to_literal());
            }
        }
        let results = self.step.result_outputs();
        Ok(results.into_iter().map(|o| (graph.outputs[o].name.clone(), outputs[o].to_literal())).collect())
    }

    fn state(&self, name: &str) -> Option<Literal> {
        self.state.get(name).cloned()
    }

    fn dies(&self) -> usize {
        0
    }

    fn compile_seconds(&self) -> f64 {
        0.0
    }
}
