//! The search over stages: every way to cut the step is planned as a whole, and the one whose program takes the least time is kept.
//!
//! The cost of splits leaves out what dies wait for, which is what a pipeline is good or bad at. So programs are compared, not costs, by the
//! clock that the caller gives (`girih` gives the simulator).

use super::{CompileError, CompileOptions, CompileReport, Microbatches, PassReport, Pipeline, StageOption};
use crate::partition::{self, Explanation, PartitionOptions, Price};
use crate::slices;
use girih_ir::graph::ValueId;
use girih_ir::program::Program;
use girih_ir::step::TrainStep;
use std::time::Instant;

/// So many slices a stage are tried: with more of them the stages wait less, and read their weights more often.
const SLICES: [usize; 2] = [2, 4];

/// The fastest way so far.
struct Fastest {
    time: u64,
    options: CompileOptions,
    program: Program,
    report: CompileReport,
}

impl Pipeline<'_> {
    /// The ways to cut a step: not at all, then every number of stages with every number of slices.
    fn ways(&self, step: &TrainStep) -> Result<Vec<CompileOptions>, CompileError> {
        let mesh = partition::largest_mesh(self.target, self.options.dies)?;
        let counts = slices::counts(step);
        let mut stages = vec![2, mesh.rows(), mesh.cols()];
        stages.sort_unstable();
        stages.dedup();
        let way = |stages, microbatches| CompileOptions { stages, microbatches, ..self.options.clone() };
        let mut ways = vec![way(StageOption::Off, self.options.microbatches)];
        for stages in stages.into_iter().filter(|s| *s > 1 && *s <= mesh.count()) {
            let exactly = |microbatches| way(StageOption::Exactly(stages), microbatches);
            match self.options.microbatches {
                Microbatches::Off => {}
                given @ Microbatches::Exactly(_) => ways.push(exactly(given)),
                Microbatches::Auto => {
                    let mut slices: Vec<usize> =
                        SLICES.iter().filter_map(|each| counts.iter().copied().find(|n| *n >= each * stages)).collect();
                    slices.dedup();
                    ways.extend(slices.into_iter().map(|n| exactly(Microbatches::Exactly(n))));
                }
            }
        }
        Ok(ways)
    }

    /// The program of the way that takes the least time; what was tried is in its report.
    pub(super) fn fastest(self, step: TrainStep) -> Result<(Program, CompileReport), CompileError> {
        let mut best: Option<Fastest> = None;
        let (mut tried, mut refused) = (self.report.passes.clone(), None);
        for options in self.ways(&step)? {
            let start = Instant::now();
            let name = way_name(&options);
            let summary = match Pipeline::new(self.target, &options).compile(step.clone()) {
                Ok((program, report)) => {
                    let time = self.clock.and_then(|clock| clock(&program)).unwrap_or(report.estimate);
                    if best.as_ref().is_none_or(|b| time < b.time) {
                        best = Some(Fastest { time, options: options.clone(), program, report });
                    }
                    format!("{name}: {:.1} us", time as f64 * 1e-6)
                }
                Err(e) => {
                    let summary = format!("{name}: {}", e.to_string().lines().next().unwrap_or_default());
                    refused.get_or_insert(e);
                    summary
                }
            };
            let (seconds, size) = (start.elapsed().as_secs_f64(), step.graph.nodes().len());
            tried.push(PassReport { name: "stages", seconds, before: size, after: size, summary });
        }
        let Some(mut best) = best else { return Err(refused.expect("one way was tried, and gave neither a program nor an error")) };
        if let Some(observe) = self.observe {
            // What is observed are the levels of the way that is kept.
            let again = Pipeline { observe: Some(observe), ..Pipeline::new(self.target, &best.options) };
            (best.program, best.report) = again.compile(step)?;
        }
        best.report.passes.splice(0..0, tried);
        Ok((best.program, best.report))
    }

    /// Why a value of a fused step lies as it does in the plan that fits, and whether there is one: where none fits, memory costs nothing.
    /// `None` for what is made wherever it is needed.
    pub fn explain_split(&mut self, step: &TrainStep, value: ValueId) -> Result<(Option<Explanation>, bool), CompileError> {
        let fits = self.plan(step.clone()).is_ok();
        let price = if fits { self.report.price.clone() } else { Price::default() };
        let found = match self.options.stages {
            StageOption::Exactly(count) => self.with_stages(step, count, |_, space| Ok(space.explain(&price, value)))?,
            StageOption::Off | StageOption::Auto => {
                let options = PartitionOptions { dies: self.options.dies, pins: self.options.pins.clone(), price };
                partition::explain(step, self.target, &options, value)?
            }
        };
        Ok((found, fits))
    }
}

/// How reports name a way to cut a step.
fn way_name(options: &CompileOptions) -> String {
    match (options.stages, options.microbatches) {
        (StageOption::Exactly(stages), Microbatches::Exactly(slices)) => format!("--stages {stages} --microbatches {slices}"),
        (StageOption::Exactly(stages), _) => format!("--stages {stages}"),
        _ => "--stages off".to_string(),
    }
}
