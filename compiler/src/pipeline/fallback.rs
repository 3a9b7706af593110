//! The way down when a step does not fit: values are made again, state leaves for host memory (both in `fit`), the batch is cut into slices
//! that run one after the other, and at last there is a report with repairs, each of which was planned.

use super::{CompileError, CompileOptions, Microbatches, Pipeline, StageOption, Stream};
use crate::memory::{DoesNotFit, MemoryPlan, Repair};
use crate::partition::Space;
use crate::slices;
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use std::time::Instant;

/// Sizes of SRAM that are tried as a repair, in percent of what the best plan needs.
const MORE_SRAM: [u64; 4] = [100, 104, 112, 130];
/// So many numbers of slices are tried at most.
const CUTS: usize = 3;

/// The numbers of slices that are worth trying, ascending: the first one with which a slice could fit, twice that, and the largest.
fn cuts(counts: &[usize], need: u64, have: u64) -> Vec<usize> {
    let least = need.div_ceil(have.max(1)) as usize;
    let from = |n: usize| counts.iter().copied().find(|c| *c >= n);
    let first = from(least).or(counts.last().copied());
    let mut list: Vec<usize> = first.into_iter().chain(first.and_then(|n| from(2 * n))).chain(counts.last().copied()).collect();
    list.dedup();
    list.truncate(CUTS);
    list
}

/// A step that is planned to see whether a change of the options helps.
#[derive(Clone, Copy)]
struct Attempt<'s> {
    /// The step that did not fit, rewritten.
    step: &'s TrainStep,
    /// The step before it was rewritten, if it is known.
    source: Option<&'s TrainStep>,
    /// In how many slices the planner cut it.
    parts: Option<usize>,
}

impl Attempt<'_> {
    /// A change of the options, and the number of slices with which it was planned.
    fn flags(&self, change: &str) -> String {
        self.parts.map_or(change.to_string(), |n| format!("{change} --microbatches {n}"))
    }
}

impl Pipeline<'_> {
    /// A plan for a rewritten step. `source` is the step before rewriting: when nothing fits, its batch is cut into slices.
    pub(super) fn plan_or_report(&mut self, step: TrainStep, source: Option<&TrainStep>) -> Result<MemoryPlan, CompileError> {
        if let StageOption::Exactly(stages) = self.options.stages {
            return self.in_stages(&step, source, stages);
        }
        let mut failed = match self.fit(&step)? {
            Ok(plan) => return Ok(plan),
            Err(failed) => failed,
        };
        let (mut best, mut parts, mut refused) = (step, None, std::mem::take(&mut self.refused));
        let cut = source.filter(|_| self.options.microbatches == Microbatches::Auto);
        let cuts = cuts(&cut.map_or(Vec::new(), slices::counts), failed.report.need, failed.report.have);
        let mut far = false;
        for (k, n) in cuts.iter().copied().enumerate() {
            // What is far from fitting gets there with the smallest slices, if at all.
            if far && k + 1 < cuts.len() {
                continue;
            }
            let Some(source) = cut else { break };
            let sliced = match self.rewrite_in(source.clone(), Some(n)) {
                Ok(sliced) => sliced,
                Err(CompileError::Slices(refusal)) => {
                    refused.push(format!("no slices of the batch: {refusal}"));
                    break;
                }
                Err(e) => return Err(e),
            };
            match self.fit(&sliced)? {
                Ok(plan) => {
                    self.report.microbatches = n;
                    return Ok(plan);
                }
                Err(found) => {
                    far = found.report.need > 2 * found.report.have;
                    if found.report.need < failed.report.need {
                        (failed, best, parts) = (found, sliced, Some(n));
                    }
                }
            }
        }
        let mut report = match self.explain(failed)? {
            Ok(plan) => {
                self.report.microbatches = parts.unwrap_or(self.report.microbatches);
                return Ok(plan);
            }
            Err(report) => report,
        };
        report.refused = refused;
        report.repairs = self.repairs(Attempt { step: &best, source, parts }, &report);
        Err(CompileError::Fit(report))
    }

    /// Changes of the options with which the step fits, fastest first. Each one was planned as the command will plan it, and says in how
    /// many slices when the step is cut.
    fn repairs(&self, attempt: Attempt<'_>, report: &DoesNotFit) -> Vec<Repair> {
        let mut repairs: Vec<Repair> = Vec::new();
        let options = || self.options.clone();
        let whole = Space::new(attempt.step, self.target, self.options.dies, &self.options.pins).ok();
        let parts = whole.as_ref().and_then(|s| s.in_parts(self.target, self.options.dies, &self.options.pins).ok()?);
        let space = parts.as_ref().map_or(whole, |p| p.space(self.target, self.options.dies).ok());
        let planned = |flag: &str, target: &Target, options: &CompileOptions| {
            let plan = Pipeline::new(target, options).fit_in(space.as_ref()?, Instant::now()).ok()?.ok()?;
            Some(repair(attempt.flags(flag), &plan))
        };
        let mut loose: Vec<(&str, CompileOptions)> = Vec::new();
        if !self.options.remat {
            loose.push(("--remat auto", CompileOptions { remat: true, ..options() }));
        }
        if self.options.stream == Stream::Off {
            loose.push(("--stream auto", CompileOptions { stream: Stream::Auto, ..options() }));
        }
        repairs.extend(loose.iter().filter_map(|(flag, options)| planned(flag, self.target, options)));
        if repairs.is_empty() && loose.len() > 1 {
            let both = CompileOptions { remat: true, stream: Stream::Auto, ..options() };
            repairs.extend(planned("--remat auto --stream auto", self.target, &both));
        }
        // What the best plan so far needs, or a little more: with another size another split may be tried first.
        let larger = |percent: &u64| {
            let need = report.need.saturating_mul(*percent) / 100;
            let (unit, name) = if need < 64 << 20 { (1 << 10, "KiB") } else { (1 << 20, "MiB") };
            let sram = format!("sram={}{name}", need.div_ceil(unit));
            let mut target = self.target.clone();
            target.set(&sram).ok()?;
            planned(&format!("--set {sram}"), &target, self.options)
        };
        repairs.extend(MORE_SRAM.iter().find_map(larger));
        repairs.extend(self.more_dies(attempt));
        repairs.extend(self.more_slices(attempt, report));
        repairs.sort_by_key(|r| r.picoseconds);
        repairs
    }

    /// All dies instead of some.
    fn more_dies(&self, attempt: Attempt<'_>) -> Option<Repair> {
        let all = self.target.live_dies().len();
        self.options.dies.filter(|n| *n < all)?;
        let options = CompileOptions { dies: Some(all), ..self.options.clone() };
        let mut pipeline = Pipeline::new(self.target, &options);
        let given = if let Microbatches::Exactly(n) = options.microbatches { Some(n) } else { None };
        // What is fused for one die is fused otherwise than for many.
        let anew = attempt.source.map(|s| pipeline.rewrite_in(s.clone(), attempt.parts.or(given)));
        let step = anew.transpose().ok()?.unwrap_or_else(|| attempt.step.clone());
        let plan = pipeline.fit(&step).ok()?.ok()?;
        Some(repair(attempt.flags(&format!("--dies {all}")), &plan))
    }

    /// More slices than were asked for.
    fn more_slices(&self, attempt: Attempt<'_>, report: &DoesNotFit) -> Option<Repair> {
        let source = attempt.source?;
        let now = match self.options.microbatches {
            Microbatches::Auto => return None,
            Microbatches::Exactly(n) => n,
            Microbatches::Off => 1,
        };
        let counts: Vec<usize> = slices::counts(source).into_iter().filter(|n| *n > now && n % now == 0).collect();
        let relative: Vec<usize> = counts.iter().map(|n| n / now).collect();
        cuts(&relative, report.need, report.have).into_iter().find_map(|n| {
            let parts = n * now;
            let options = CompileOptions { microbatches: Microbatches::Exactly(parts), ..self.options.clone() };
            let mut pipeline = Pipeline::new(self.target, &options);
            let step = pipeline.rewrite(source.clone()).ok()?;
            let plan = pipeline.fit(&step).ok()?.ok()?;
            Some(repair(format!("--microbatches {parts}"), &plan))
        })
    }
}

/// A change of the options with the plan that it gives.
pub(super) fn repair(flag: String, plan: &MemoryPlan) -> Repair {
    let peak = plan.dies.iter().map(|d| d.peak).max().unwrap_or(0);
    Repair { flag, peak, picoseconds: plan.schedule.placed.sharded.cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_numbers_of_slices_are_tried() {
        let counts = [2, 4, 8, 16, 32];
        assert_eq!(cuts(&counts, 300, 100), [4, 8, 32]);
        assert_eq!(cuts(&counts, 101, 100), [2, 4, 32]);
        assert_eq!(cuts(&counts, 9000, 100), [32]);
        assert_eq!(cuts(&[], 300, 100), [] as [usize; 0]);
        assert_eq!(cuts(&[3], 150, 100), [3]);
    }
}
