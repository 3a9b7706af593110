//! The order of the passes: the only file that knows it, and the only one that may loop back.
//!
//! `canonicalize → optimize → precision → fuse → partition → place → schedule → memory → lower`, on a training step that `import`, `autodiff` and
//! `train` made. How a split is found whose memory plan fits is in `fit`, and what is
//! done when there is none in `fallback`.

mod fallback;
mod fit;
mod options;
mod search;
mod staged;

use crate::memory::{self, DoesNotFit, Failure, MemoryPlan};
use crate::optimize::OptimizeReport;
use crate::partition::{PartitionError, PartitionReport, PinError, Price};
use crate::place::PlacedGraph;
use crate::precision::{self, Precision};
use crate::schedule::Schedule;
use crate::sharded::ShardedGraph;
use crate::{canonicalize, fuse, lower, optimize, place, schedule, slices, stages};
use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::Op;
use girih_ir::program::{Program, Replicas};
use girih_ir::step::TrainStep;
use girih_ir::target::{LogicalMesh, Target};
use std::time::Instant;

pub use options::{CompileOptions, Microbatches, ReplicaOption, StageOption, Stream};

/// One pass: its name in `--timing`, `--emit` and `--print-after`, and what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// The name.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
}

/// Every pass behind `import`, in order.
pub const PASSES: &[Pass] = &[
    Pass { name: "canonicalize", about: "folds constants, drops what does nothing" },
    Pass { name: "optimize", about: "rewrites the whole step by equality saturation" },
    Pass { name: "precision", about: "rounds the operands of products and convolutions" },
    Pass { name: "fuse", about: "groups elementwise and row-wise ops into single programs" },
    Pass { name: "partition", about: "chooses which loops are split over which axes of the mesh" },
    Pass { name: "place", about: "gives every die its tasks and buffers, and routes what must move" },
    Pass { name: "schedule", about: "orders the tasks" },
    Pass { name: "memory", about: "shares and packs the SRAM of every die" },
    Pass { name: "lower", about: "writes one instruction stream per die" },
];

/// Why a step does not compile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Rewriting failed.
    #[error(transparent)]
    Optimize(#[from] optimize::OptimizeError),
    /// The target cannot give the dies that were asked for.
    #[error(transparent)]
    Target(#[from] girih_ir::target::error::TargetError),
    /// A pin means nothing.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Dies cannot reach each other.
    #[error(transparent)]
    Place(#[from] place::PlaceError),
    /// The step does not fit into SRAM.
    #[error(transparent)]
    Fit(#[from] Box<DoesNotFit>),
    /// An op has no instruction.
    #[error(transparent)]
    Lower(#[from] lower::LowerError),
    /// The step cannot be cut along its batch.
    #[error(transparent)]
    Slices(#[from] slices::Refusal),
    /// The step cannot be cut into stages.
    #[error(transparent)]
    Stages(#[from] stages::StageError),
}

impl From<PartitionError> for CompileError {
    fn from(error: PartitionError) -> Self {
        match error {
            PartitionError::Target(e) => CompileError::Target(e),
            PartitionError::Pin(e) => CompileError::Pin(e),
        }
    }
}

/// What one pass did.
#[derive(Clone, PartialEq, Debug)]
pub struct PassReport {
    /// The pass.
    pub name: &'static str,
    /// Wall-clock seconds. Never an input of a decision.
    pub seconds: f64,
    /// Size before: ops, or tasks, or instructions.
    pub before: usize,
    /// Size after.
    pub after: usize,
    /// One line about the result.
    pub summary: String,
}

/// What compilation did.
#[derive(Clone, Debug, Default)]
pub struct CompileReport {
    /// One entry a pass that ran, in order; a repeated pass appears again.
    pub passes: Vec<PassReport>,
    /// What rewriting found.
    pub optimize: Option<OptimizeReport>,
    /// How the split was chosen.
    pub partition: PartitionReport,
    /// The price of SRAM at which it was chosen.
    pub price: Price,
    /// Dies that have code.
    pub dies_used: usize,
    /// Highest SRAM use of a die, in bytes.
    pub sram_peak: u64,
    /// Estimated picoseconds of a step.
    pub estimate: u64,
    /// How many values are made again instead of being kept.
    pub remat: usize,
    /// How many state tensors stay in host memory between their uses.
    pub streamed: usize,
    /// Into how many stages the model was cut; 0 when it was not.
    pub stages: usize,
    /// Into how many slices the batch was cut, because it was asked for or did not fit otherwise; 0 when it was not.
    pub microbatches: usize,
}

/// A level of the pipeline, handed to the observer after the pass that made it.
#[derive(Clone, Copy, Debug)]
pub enum Level<'a> {
    /// A training step, after `canonicalize`, `optimize`, `precision` or `fuse`.
    Step(&'a TrainStep),
    /// After `partition`.
    Sharded(&'a ShardedGraph),
    /// After `place`.
    Placed(&'a PlacedGraph),
    /// After `schedule`.
    Scheduled(&'a Schedule),
    /// After `memory`.
    Planned(&'a MemoryPlan),
    /// After `lower`.
    Program(&'a Program),
}

/// What sees every level with the name of the pass that made it.
type Observer<'a> = Box<dyn FnMut(&'static str, Level<'_>) + 'a>;

/// How many picoseconds a step of a program takes; `None` when it cannot tell.
pub type Clock<'a> = &'a dyn Fn(&Program) -> Option<u64>;

/// A pipeline run.
pub struct Pipeline<'a> {
    target: &'a Target,
    options: &'a CompileOptions,
    observe: Option<Observer<'a>>,
    clock: Option<Clock<'a>>,
    report: CompileReport,
    /// What could not be tried so far, and why.
    refused: Vec<String>,
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("report", &self.report).finish_non_exhaustive()
    }
}

/// Compiles a training step for a target. The caller checks the program (`girih_ir::check`) before running it.
pub fn compile(step: TrainStep, target: &Target, options: &CompileOptions) -> Result<(Program, CompileReport), CompileError> {
    Pipeline::new(target, options).compile(step)
}

/// The graph without the wishes how values lie over a mesh, when there is no mesh.
fn without_shards(graph: &Graph, one_die: bool) -> Graph {
    if !one_die || !graph.nodes().iter().any(|n| matches!(n.op, Op::Shard(_))) {
        return graph.clone();
    }
    let drop = |out: &mut Graph, node: &Node, operands: &[ValueId]| match &node.op {
        Op::Shard(_) => Ok(operands[0]),
        op => out.add(op.clone(), operands),
    };
    graph.rewritten(drop).map_or_else(|_| graph.clone(), |(g, _)| g)
}

/// The pass `fuse`: groups as they are best on one die or on many, in an order that needs little memory.
pub fn fused(mut step: TrainStep, target: &Target, dies: Option<usize>) -> (TrainStep, fuse::FuseReport) {
    let (graph, report) = if on_one_die(target, dies) { fuse::fuse_for_one_die(&step.graph) } else { fuse::fuse(&step.graph) };
    step.graph = graph;
    (if target.mesh.sites() > 1 { schedule::reorder(step) } else { step }, report)
}

fn on_one_die(target: &Target, dies: Option<usize>) -> bool {
    dies == Some(1) || target.mesh.sites() == 1
}

/// Machines of so many dies run replicas when they can.
const MANY_DIES: usize = 100;

impl<'a> Pipeline<'a> {
    /// A pipeline for a target.
    pub fn new(target: &'a Target, options: &'a CompileOptions) -> Self {
        Pipeline { target, options, observe: None, clock: None, report: CompileReport::default(), refused: Vec::new() }
    }

    /// Calls `observe` with the name of each pass and the level that it made.
    pub fn observe(mut self, observe: impl FnMut(&'static str, Level<'_>) + 'a) -> Self {
        self.observe = Some(Box::new(observe));
        self
    }

    /// Compares programs by `clock` where several are made ([`StageOption::Auto`]), instead of by the planner's estimates.
    pub fn clock(mut self, clock: Clock<'a>) -> Self {
        self.clock = Some(clock);
        self
    }

    fn saw(&mut self, pass: &'static str, level: Level<'_>) {
        if let Some(observe) = &mut self.observe {
            observe(pass, level);
        }
    }

    fn timed<T>(&mut self, name: &'static str, before: usize, run: impl FnOnce(&mut Self) -> (T, usize, String)) -> T {
        let start = Instant::now();
        let (value, after, summary) = run(self);
        self.report.passes.push(PassReport { name, seconds: start.elapsed().as_secs_f64(), before, after, summary });
        value
    }

    /// Runs every pass.
    pub fn compile(mut self, step: TrainStep) -> Result<(Program, CompileReport), CompileError> {
        if let Some((one, replicas, local)) = self.replicate(&step)? {
            let options = CompileOptions { replicas: ReplicaOption::Off, ..self.options.clone() };
            let (observe, clock, report) = (self.observe, self.clock, self.report);
            let inner = Pipeline { observe, clock, report, ..Pipeline::new(&one, &options) };
            let (mut program, report) = inner.compile(local)?;
            program.replicas = Some(Box::new(replicas));
            return Ok((program, report));
        }
        if self.options.stages == StageOption::Auto {
            return self.fastest(step);
        }
        let source = step.clone();
        let step = self.rewrite(step)?;
        let plan = self.plan_or_report(step, Some(&source))?;
        let program = self.lower(plan)?;
        Ok((program, self.report))
    }

    /// The package, the replicas and the step of one of them, when the step is to run in replicas.
    fn replicate(&mut self, step: &TrainStep) -> Result<Option<(Target, Replicas, TrainStep)>, CompileError> {
        let (wanted, auto) = match self.options.replicas {
            ReplicaOption::Off | ReplicaOption::Exactly(1) => return Ok(None),
            ReplicaOption::Exactly(n) => (Some(n), false),
            ReplicaOption::Auto if self.options.dies.is_some() || self.target.live_dies().len() < MANY_DIES => return Ok(None),
            ReplicaOption::Auto => (None, true),
        };
        let Some((rows, cols)) = self.target.package_grid() else {
            return if auto { Ok(None) } else { Err(slices::Refusal::Packages { target: self.target.name.clone() }.into()) };
        };
        let Some(batch) = slices::batch(step) else {
            return if auto { self.as_one(&slices::Refusal::NoBatch) } else { Err(slices::Refusal::NoBatch.into()) };
        };
        let grid = slices::grid((rows as usize, cols as usize), batch, wanted);
        let Some((rows, cols)) = grid.filter(|(r, c)| !auto || r * c * 2 > (rows * cols) as usize) else {
            let refusal = slices::Refusal::Indivisible { batch, parts: wanted.unwrap_or((rows * cols) as usize) };
            return if auto { self.as_one(&refusal) } else { Err(refusal.into()) };
        };
        let start = Instant::now();
        let before = step.graph.nodes().len();
        let plain = TrainStep { graph: canonicalize::canonicalize(&without_shards(&step.graph, true)).0, ..step.clone() };
        let local = match slices::replicated(&plain, rows, cols) {
            Ok(local) => local,
            Err(refusal) if auto => return self.as_one(&refusal),
            Err(refusal) => return Err(refusal.into()),
        };
        let one = match self.target.replica(rows as u32, cols as u32) {
            Ok(one) => one,
            Err(refusal) if auto => return self.as_one(&refusal),
            Err(refusal) => return Err(refusal.into()),
        };
        let (rows, cols) = (rows as u32, cols as u32);
        let summary = format!("{rows}×{cols} replicas of {} rows", batch / (rows * cols) as usize);
        let (seconds, after) = (start.elapsed().as_secs_f64(), local.step.graph.nodes().len());
        self.report.passes.push(PassReport { name: "replicate", seconds, before, after, summary });
        let replicas = Replicas { machine: self.target.clone(), rows, cols, inputs: local.inputs, outputs: local.outputs };
        Ok(Some((one, replicas, local.step)))
    }

    /// Many dies are planned as one mesh, for the step cannot run in replicas.
    fn as_one<T>(&mut self, refusal: &dyn std::fmt::Display) -> Result<Option<T>, CompileError> {
        let summary = format!("no replicas, all dies are planned as one: {refusal}");
        self.report.passes.push(PassReport { name: "replicate", seconds: 0.0, before: 0, after: 0, summary: summary.clone() });
        self.refused.push(summary);
        Ok(None)
    }

    /// The step with its batch in slices, one after the other.
    fn slice(&mut self, step: &TrainStep, parts: usize) -> Result<TrainStep, CompileError> {
        let (before, start) = (step.graph.nodes().len(), Instant::now());
        let mut sliced = slices::microbatched(step, parts)?;
        sliced.graph = self.canonical(&sliced.graph);
        let after = sliced.graph.nodes().len();
        let summary = format!("{parts} microbatches");
        self.report.passes.push(PassReport { name: "microbatch", seconds: start.elapsed().as_secs_f64(), before, after, summary });
        Ok(sliced)
    }

    /// A graph in its canonical form, in which the loop over slices stays one where there are stages.
    fn canonical(&self, graph: &Graph) -> Graph {
        match self.options.stages {
            StageOption::Exactly(_) => canonicalize::canonicalize_rolled(graph).0,
            StageOption::Off | StageOption::Auto => canonicalize::canonicalize(graph).0,
        }
    }

    /// The passes on the tensor graph: canonicalize, optimize, precision, fuse.
    pub fn rewrite(&mut self, step: TrainStep) -> Result<TrainStep, CompileError> {
        let parts = match (self.options.microbatches, self.options.stages) {
            (Microbatches::Exactly(parts), _) => Some(parts),
            (Microbatches::Auto, StageOption::Exactly(stages)) => staged::slices(&step, stages),
            _ => None,
        };
        self.report.microbatches = parts.unwrap_or(0);
        self.rewrite_in(step, parts)
    }

    /// The same with the batch in so many slices.
    fn rewrite_in(&mut self, mut step: TrainStep, parts: Option<usize>) -> Result<TrainStep, CompileError> {
        let size = |s: &TrainStep| s.graph.nodes().len();
        let before = size(&step);
        let one_die = on_one_die(self.target, self.options.dies);
        step.graph = self.timed("canonicalize", before, |_| {
            let graph = canonicalize::canonicalize(&without_shards(&step.graph, one_die)).0;
            let n = graph.nodes().len();
            (graph, n, String::new())
        });
        self.saw("canonicalize", Level::Step(&step));
        if let Some(parts) = parts {
            step = self.slice(&step, parts)?;
        }
        if let Some(options) = &self.options.optimize {
            let (before, start) = (size(&step), Instant::now());
            let found = optimize::optimize(&step.graph, options)?;
            step.graph = self.canonical(&found.graph);
            let summary = found.report.to_string();
            let seconds = start.elapsed().as_secs_f64();
            self.report.passes.push(PassReport { name: "optimize", seconds, before, after: size(&step), summary });
            self.report.optimize = Some(found.report);
            self.saw("optimize", Level::Step(&step));
        }
        if self.options.precision == Precision::Bf16 {
            let before = size(&step);
            step.graph = self.timed("precision", before, |pipeline| {
                let (graph, products) = precision::narrow(&step.graph);
                let graph = pipeline.canonical(&graph);
                let n = graph.nodes().len();
                (graph, n, format!("{products} products and convolutions on bf16"))
            });
            self.saw("precision", Level::Step(&step));
        }
        let before = size(&step);
        let step = self.timed("fuse", before, |pipeline| {
            let (step, report) = fused(step, pipeline.target, pipeline.options.dies);
            let n = size(&step);
            (step, n, report.to_string())
        });
        self.saw("fuse", Level::Step(&step));
        Ok(step)
    }

    /// The passes from a fused step (see [`fused`]) to a program: partition, place, schedule, memory, lower.
    pub fn plan(&mut self, step: TrainStep) -> Result<Program, CompileError> {
        let plan = self.plan_or_report(step, None)?;
        self.lower(plan)
    }

    fn memory(&mut self, sharded: ShardedGraph, mesh: &LogicalMesh) -> Result<Result<MemoryPlan, Failure>, CompileError> {
        let nodes = sharded.step.graph.nodes().len();
        let target = self.target;
        let placed = self.timed("place", nodes, |_| {
            let placed = place::place(sharded, mesh, target);
            let (n, moved) = placed.as_ref().map_or((0, 0), |p| (p.tasks.len(), p.messages.iter().map(|m| m.bytes).sum::<u64>()));
            let count = placed.as_ref().map_or(0, |p| p.messages.len());
            (placed, n, format!("{count} transfers, {moved} bytes"))
        })?;
        self.saw("place", Level::Placed(&placed));
        let tasks = placed.tasks.len();
        let scheduled = self.timed("schedule", tasks, |_| {
            let s = schedule::schedule(placed);
            let n = s.order.len();
            (s, n, String::new())
        });
        self.saw("schedule", Level::Scheduled(&scheduled));
        let plan = self.timed("memory", tasks, |_| {
            let plan = memory::plan_or_profile(scheduled, target);
            let n = plan.as_ref().map_or(0, |p| p.schedule.order.len());
            let summary = match &plan {
                Ok(p) => format!("peak {} bytes", p.dies.iter().map(|d| d.peak).max().unwrap_or(0)),
                Err(f) => format!("die {} needs {} bytes", f.report.die, f.report.need),
            };
            (plan, n, summary)
        });
        if let Ok(plan) = &plan {
            self.report.sram_peak = plan.dies.iter().map(|d| d.peak).max().unwrap_or(0);
            let sharded = &plan.schedule.placed.sharded;
            (self.report.remat, self.report.streamed) = (sharded.remat.len(), sharded.streamed.len());
            self.report.estimate = sharded.cost;
            self.saw("memory", Level::Planned(plan));
        }
        Ok(plan)
    }

    fn lower(&mut self, plan: MemoryPlan) -> Result<Program, CompileError> {
        let tasks = plan.schedule.order.len();
        let target = self.target;
        let program = self.timed("lower", tasks, |_| {
            let program = lower::lower(plan, target);
            let n = program.as_ref().map_or(0, |p| p.dies.iter().map(|d| d.claims.len()).sum());
            (program, n, String::new())
        })?;
        self.report.dies_used = program.dies.len();
        self.saw("lower", Level::Program(&program));
        Ok(program)
    }

    /// What the passes did so far.
    pub fn report(&self) -> &CompileReport {
        &self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::Role;
    use girih_ir::ops::dot_general::DotGeneral;
    use girih_ir::types::{DType, TensorType};

    /// Products that are all needed again in reverse order.
    fn there_and_back(length: usize) -> TrainStep {
        let mut g = Graph::new("there_and_back");
        let ty = || TensorType::new(DType::F32, [256usize, 256]);
        let (x, w) = (g.input("x", ty(), Role::Data), g.input("w", ty(), Role::Data));
        let dot = |g: &mut Graph, a, b| g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[a, b]).unwrap();
        let mut values = vec![dot(&mut g, x, w)];
        for i in 1..length {
            let next = dot(&mut g, values[i - 1], w);
            values.push(next);
        }
        let last = values[length - 1];
        let y = values.iter().rev().fold(last, |y, v| dot(&mut g, y, *v));
        g.output("y", y);
        TrainStep::inference(g)
    }

    #[test]
    fn what_does_not_fit_is_made_again() {
        let mut target = Target::builtin("dojo-tile").unwrap();
        target.set("sram=3MiB").unwrap();
        let mut options = CompileOptions { dies: Some(1), remat: false, ..CompileOptions::default() };
        let failure = Pipeline::new(&target, &options).plan(there_and_back(12)).unwrap_err();
        let CompileError::Fit(report) = failure else { panic!("another error") };
        assert!(report.need > 3 << 20);
        let flags: Vec<&str> = report.repairs.iter().map(|r| r.flag.as_str()).collect();
        assert!(flags.contains(&"--remat auto"), "{flags:?}");
        options.remat = true;
        let mut pipeline = Pipeline::new(&target, &options);
        let program = pipeline.plan(there_and_back(12)).unwrap();
        assert!(pipeline.report.remat > 0);
        let verified = girih_ir::check::check(program).unwrap();
        assert!(verified.stats().peak_sram <= 3 << 20);
    }

    /// Products with weights of their own, whose results are all needed again; each row of the batch by itself.
    fn layers(count: usize) -> TrainStep {
        let mut g = Graph::new("layers");
        let ty = || TensorType::new(DType::F32, [64usize, 64]);
        let x = g.input("x", ty(), Role::Data);
        let weights: Vec<ValueId> = (0..count).map(|i| g.input(format!("w{i}"), ty(), Role::Param)).collect();
        let mut values = vec![x];
        for w in &weights {
            let next = g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[values[values.len() - 1], *w]).unwrap();
            values.push(next);
        }
        let y = values.iter().rev().skip(1).fold(values[count], |y, v| g.binary(girih_ir::scalar::BinaryFn::Mul, y, *v));
        g.output("y", y);
        TrainStep::inference(g)
    }

    /// The options and the target with the flags of a repair.
    fn pasted(flags: &str, target: &Target, options: &CompileOptions) -> (Target, CompileOptions) {
        let (mut target, mut options) = (target.clone(), options.clone());
        for flag in flags.split(' ').collect::<Vec<_>>().chunks(2) {
            match flag {
                ["--set", value] => target.set(value).unwrap(),
                ["--microbatches", n] => options.microbatches = Microbatches::Exactly(n.parse().unwrap()),
                ["--dies", n] => options.dies = Some(n.parse().unwrap()),
                ["--remat", "auto"] => options.remat = true,
                ["--stream", "auto"] => options.stream = Stream::Auto,
                other => panic!("{other:?}"),
            }
        }
        (target, options)
    }

    #[test]
    fn repairs_keep_what_they_say() {
        let (step, mut seen) = (layers(6), Vec::new());
        let off = CompileOptions {
            dies: Some(1),
            remat: false,
            stream: Stream::Off,
            microbatches: Microbatches::Off,
            ..CompileOptions::default()
        };
        let sliced = CompileOptions { dies: Some(2), ..CompileOptions::default() };
        for (options, sizes) in [(off, [150, 60]), (sliced, [24, 12])] {
            for kib in sizes {
                let mut target = Target::builtin("dojo-tile").unwrap();
                target.set(&format!("sram={kib}KiB")).unwrap();
                let Err(CompileError::Fit(report)) = compile(step.clone(), &target, &options) else { continue };
                assert!(!report.repairs.is_empty() && report.need > target.sram_bytes() && !report.live.is_empty(), "{report:?}");
                for repair in &report.repairs {
                    let (target, options) = pasted(&repair.flag, &target, &options);
                    let (program, done) = compile(step.clone(), &target, &options).unwrap_or_else(|e| panic!("`{}`: {e}", repair.flag));
                    assert_eq!((done.sram_peak, done.estimate), (repair.peak, repair.picoseconds), "`{}`", repair.flag);
                    girih_ir::check::check(program).unwrap();
                    seen.push(repair.flag.clone());
                }
            }
        }
        for flag in ["--set sram=", "--dies 25", "--microbatches "] {
            assert!(seen.iter().any(|s| s.contains(flag)), "{flag}: {seen:?}");
        }
    }
}
