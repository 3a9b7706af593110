//! Plans in stages: the splits of a loop over slices are chosen once, and all slices are placed one by one.
//!
//! Each stage needs another amount of memory, so a draft is the memory of one die of every stage. Where that is too much, copies are brought anew
//! for each use, then values are made again on the way back, and at last the next price of SRAM is tried.

use super::fallback::repair;
use super::fit::{REUSE, footprint};
use super::{CompileError, CompileOptions, Level, PassReport, Pipeline, StageOption};
use crate::memory::{DoesNotFit, MemoryPlan, Repair};
use crate::partition::{self, PartitionReport, Price, Space};
use crate::sharded::{MeshShape, Region, ShardedGraph};
use crate::slices;
use crate::stages::{Staged, staged};
use girih_ir::step::TrainStep;
use girih_ir::target::{LogicalMesh, Target};
use rayon::prelude::*;
use std::time::Instant;

/// The prices of a byte of SRAM that are tried, in picoseconds.
const PRICES: [f64; 2] = [0.0, 16.0];
/// So many slices for each stage fill a pipeline well: more are smaller, and fill it hardly better.
const SLICES: usize = 4;
/// The part of the SRAM that a draft may take: the rest is for what packing loses.
const MARGIN: f64 = 0.97;
/// How often a draft makes more again.
const ROUNDS: usize = 2;
/// What is to be saved, over what is too much: some of what is dropped is there again when memory is shortest.
const AMPLE: f64 = 1.2;

/// Into how many slices the batch is cut for so many stages.
pub(super) fn slices(step: &TrainStep, stages: usize) -> Option<usize> {
    let counts = slices::counts(step);
    let enough = counts.iter().copied().find(|n| *n >= SLICES * stages);
    enough.or(counts.last().copied())
}

/// A split in stages, as far as it is known without placing all dies.
struct Draft {
    price: Price,
    sharded: ShardedGraph,
    report: PartitionReport,
    /// The most bytes that are live on the last die of a stage.
    peak: u64,
}

/// What drafts are made from.
struct Drafting<'a> {
    staged: &'a Staged<'a>,
    space: &'a Space<'a>,
    mesh: &'a LogicalMesh,
    target: &'a Target,
    remat: bool,
    /// What a die may need.
    goal: u64,
}

impl Drafting<'_> {
    /// The best split at a price, with so much made again that every stage fits, or is as near to that as can be.
    fn draft(&self, lambda: f64) -> Result<Draft, CompileError> {
        let price = Price { lambda, pressure: Vec::new() };
        let count = self.staged.stages.regions.len();
        let solved = self.space.solve(&price);
        let mut sharded = self.staged.unrolled(&solved, &[]);
        let mut peaks = self.peaks(&sharded)?;
        if peaks.iter().any(|p| *p > self.goal) {
            sharded.reuse = Some(REUSE * count as u32);
            peaks = self.peaks(&sharded)?;
        }
        let mut save = vec![0u64; count];
        let rounds = if self.remat { ROUNDS } else { 0 };
        for _ in 0..rounds {
            if peaks.iter().all(|p| *p <= self.goal) {
                break;
            }
            for (s, peak) in peaks.iter().enumerate() {
                save[s] += (peak.saturating_sub(self.goal) as f64 * AMPLE) as u64 / self.staged.ahead(s) as u64;
            }
            let again = self.staged.made_again(&solved, &save);
            sharded = ShardedGraph { reuse: sharded.reuse, ..self.staged.unrolled(&solved, &again) };
            peaks = self.peaks(&sharded)?;
        }
        let peak = peaks.into_iter().max().unwrap_or(0);
        Ok(Draft { price, sharded, report: solved.report, peak })
    }

    /// The most bytes that are live on the last die of each stage.
    fn peaks(&self, sharded: &ShardedGraph) -> Result<Vec<u64>, CompileError> {
        let peak = |region: &Region| Ok(footprint(sharded, *region, self.mesh, self.target)?.peak);
        sharded.stages.regions.par_iter().map(peak).collect()
    }
}

impl Pipeline<'_> {
    /// The plan of a rewritten step, a loop over slices, in so many stages.
    pub(super) fn in_stages(&mut self, step: &TrainStep, source: Option<&TrainStep>, count: usize) -> Result<MemoryPlan, CompileError> {
        let start = Instant::now();
        let (target, remat) = (self.target, self.options.remat);
        let goal = (target.sram_bytes() as f64 * MARGIN) as u64;
        let (mut drafts, mesh, slices) = self.with_stages(step, count, |staged, space| {
            let mesh = space.mesh(0).clone();
            let work = Drafting { staged, space, mesh: &mesh, target, remat, goal };
            let drafts: Vec<Draft> = PRICES.par_iter().map(|lambda| work.draft(*lambda)).collect::<Result<_, _>>()?;
            Ok((drafts, mesh, staged.slices()))
        })?;
        drafts.sort_by_key(|d| (d.peak.max(goal), d.sharded.cost, d.peak));
        let (seconds, before) = (start.elapsed().as_secs_f64(), step.graph.nodes().len());
        for d in &drafts {
            let (again, us) = (d.sharded.remat.len() / slices, d.sharded.cost as f64 * 1e-6);
            let price = format!("{count} stages, {slices} slices, {} ps a byte", d.price.lambda);
            let summary = format!("{price}: {us:.1} us, {again} values made again a slice, peak {} of {goal} bytes", d.peak);
            let (seconds, after) = (seconds / drafts.len() as f64, d.sharded.step.graph.nodes().len());
            self.report.passes.push(PassReport { name: "draft", seconds, before, after, summary });
        }
        self.report.stages = count;
        let mut failure: Option<Box<DoesNotFit>> = None;
        for d in drafts {
            self.report.partition = d.report;
            self.saw("partition", Level::Sharded(&d.sharded));
            match self.memory(d.sharded, &mesh)? {
                Ok(plan) => {
                    self.report.price = d.price;
                    return Ok(plan);
                }
                Err(found) if failure.as_ref().is_none_or(|f| found.report.need < f.need) => failure = Some(found.report),
                Err(_) => {}
            }
        }
        let mut report = failure.expect("a draft was placed");
        report.repairs.extend(source.and_then(|s| self.without_stages(s)));
        Err(CompileError::Fit(report))
    }

    /// Hands on a rewritten step, a loop over slices, cut into so many stages, and what can be chosen for it.
    pub(super) fn with_stages<T>(
        &self,
        step: &TrainStep,
        count: usize,
        then: impl FnOnce(&Staged<'_>, &Space<'_>) -> Result<T, CompileError>,
    ) -> Result<T, CompileError> {
        let mesh = partition::largest_mesh(self.target, self.options.dies)?;
        let shape = MeshShape { rows: mesh.rows(), cols: mesh.cols() };
        let staged = staged(step, self.target, shape, count)?;
        let space = Space::staged(step, self.target, &mesh, &staged.stages, &self.options.pins)?;
        then(&staged, &space)
    }

    /// Every op on all dies instead, where values can also be streamed.
    fn without_stages(&self, source: &TrainStep) -> Option<Repair> {
        let options = CompileOptions { stages: StageOption::Off, ..self.options.clone() };
        let mut pipeline = Pipeline::new(self.target, &options);
        let step = pipeline.rewrite(source.clone()).ok()?;
        let plan = pipeline.plan_or_report(step, Some(source)).ok()?;
        Some(repair("--stages off".to_string(), &plan))
    }
}
