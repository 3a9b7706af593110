//! What runs a step: the reference interpreter, or the whole pipeline and the runtime.

use super::Tensors;
use crate::conformance::Outcome;
use girih_compiler::pipeline::{CompileError, CompileOptions, Microbatches, ReplicaOption, StageOption, compile};
use girih_ir::check::check;
use girih_ir::graph::Role;
use girih_ir::interp;
use girih_ir::literal::Literal;
use girih_ir::program::Instr;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::target::Target;
use girih_ir::tensor::Tensor;
use girih_runtime::{RuntimeOptions, Session};
use std::fmt;
use std::path::Path;
use std::time::Instant;

/// Why a step could not be started or run.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// girih does not have what the case needs.
    Unsupported(String),
    /// It went wrong.
    Error(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unsupported(why) | Failure::Error(why) => f.write_str(why),
        }
    }
}

impl From<Failure> for Outcome {
    fn from(f: Failure) -> Self {
        match f {
            Failure::Unsupported(why) => Outcome::Unsupported(why),
            Failure::Error(why) => Outcome::Fail(why),
        }
    }
}

/// Runs one step after another.
pub trait Stepper {
    /// Runs one step on a batch and returns the named results.
    fn step(&mut self, inputs: &Tensors) -> Result<Tensors, Failure>;
    /// The value of a state now.
    fn state(&self, name: &str) -> Option<Literal>;
    /// Gives every state its value.
    fn set_state(&mut self, weights: &Weights) -> Result<(), Failure>;
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
    /// Cut the batch into so many microbatches; what cannot be cut is unsupported.
    #[arg(long)]
    pub microbatches: Option<usize>,
    /// Cut the model into so many stages; what cannot be cut is unsupported.
    #[arg(long)]
    pub stages: Option<usize>,
    /// Run so many replicas; what cannot be cut is unsupported.
    #[arg(long)]
    pub replicas: Option<usize>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// What runs steps.
#[derive(Clone, Debug)]
pub enum Engine {
    /// The reference interpreter.
    Interpreter,
    /// The whole pipeline, the checker and the runtime.
    Compiled {
        /// The machine.
        target: Box<Target>,
        /// How steps are compiled.
        options: Box<CompileOptions>,
        /// Threads of the runtime.
        threads: usize,
    },
}

impl Engine {
    /// The engine that the flags name.
    pub fn new(args: &EngineArgs) -> Result<Engine, String> {
        if args.target == "interp" {
            return Ok(Engine::Interpreter);
        }
        let mut target = match Path::new(&args.target).is_file() {
            true => {
                let text = std::fs::read_to_string(&args.target).map_err(|e| format!("{}: {e}", args.target))?;
                Target::from_toml(&text).map_err(|e| e.to_string())?
            }
            false => Target::builtin(&args.target).map_err(|e| e.to_string())?,
        };
        let dead = args.dead.iter().map(|d| format!("dead={d}"));
        let dead_links = args.dead_links.iter().map(|l| format!("dead_link={l}"));
        for change in dead.chain(dead_links).chain(args.set.iter().cloned()) {
            target.set(&change).map_err(|e| e.to_string())?;
        }
        let EngineArgs { dies, stages, threads, .. } = *args;
        let microbatches = args.microbatches.map_or(Microbatches::Auto, Microbatches::Exactly);
        let replicas = args.replicas.map_or(ReplicaOption::Auto, ReplicaOption::Exactly);
        let options = CompileOptions {
            dies,
            microbatches,
            stages: stages.map_or(StageOption::Off, StageOption::Exactly),
            replicas,
            ..CompileOptions::default()
        };
        Ok(Engine::Compiled { target: Box::new(target), options: Box::new(options), threads })
    }

    /// Prepares a step with its initial state.
    pub fn start(&self, step: TrainStep, weights: Weights) -> Result<Box<dyn Stepper>, Failure> {
        match self {
            Engine::Interpreter => Ok(Box::new(Interpreted { step, state: weights })),
            Engine::Compiled { target, options, threads } => {
                let error = |e: String| Failure::Error(e);
                let start = Instant::now();
                let (program, _) = compile(step, target, options).map_err(|e| match e {
                    CompileError::Slices(refusal) => Failure::Unsupported(refusal.to_string()),
                    CompileError::Stages(refusal) => Failure::Unsupported(refusal.to_string()),
                    e => error(e.to_string()),
                })?;
                let program = check(program).map_err(|e| error(e.to_string()))?;
                let compile_seconds = start.elapsed().as_secs_f64();
                let options = RuntimeOptions { threads: *threads, ..RuntimeOptions::default() };
                let mut session = Session::new(program, options).map_err(|e| error(e.to_string()))?;
                session.init(&weights).map_err(|e| error(e.to_string()))?;
                Ok(Box::new(Compiled { session, compile_seconds }))
            }
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

    fn set_state(&mut self, weights: &Weights) -> Result<(), Failure> {
        self.state = weights.clone();
        Ok(())
    }

    fn dies(&self) -> usize {
        0
    }

    fn compile_seconds(&self) -> f64 {
        0.0
    }
}

struct Compiled {
    session: Session,
    compile_seconds: f64,
}

impl Stepper for Compiled {
    fn step(&mut self, inputs: &Tensors) -> Result<Tensors, Failure> {
        let wanted: Vec<(String, girih_ir::types::DType)> =
            self.session.inputs().into_iter().map(|(n, t)| (n.to_string(), t.dtype)).collect();
        let batch = wanted.into_iter().filter_map(|(n, d)| inputs.get(&n).map(|l| (n, fit(l, d)))).collect();
        self.session.run(&batch).map_err(|e| Failure::Error(e.to_string()))
    }

    fn state(&self, name: &str) -> Option<Literal> {
        self.session.state(name).ok()
    }

    fn set_state(&mut self, weights: &Weights) -> Result<(), Failure> {
        self.session.init(weights).map_err(|e| Failure::Error(e.to_string()))
    }

    /// Dies with at least one computing instruction.
    fn dies(&self) -> usize {
        let program = self.session.program();
        let computes =
            |i: &Instr| !i.is_async() && !matches!(i, Instr::Wait { .. } | Instr::End | Instr::Copy { .. } | Instr::Constant { .. });
        program.dies.iter().filter(|d| program.streams[d.stream.index()].iter().any(computes)).count()
    }

    fn compile_seconds(&self) -> f64 {
        self.compile_seconds
    }
}
