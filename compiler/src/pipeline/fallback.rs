//! The way down when a step does not fit: values are made again, state leaves for host memory (both in `fit`), the batch is cut into slices
//! that run one after the other, and at last there is a report with repairs, each of which was planned.

use super::{CompileError, CompileOptions, Pipeline, Stream};
use crate::memory::{DoesNotFit, MemoryPlan, Repair};
use crate::slices;
use girih_ir::step::TrainStep;
use girih_ir::target::Target;

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

impl Pipeline<'_> {
    /// A plan for a rewritten step. `source` is the step before rewriting: when nothing fits, its batch is cut into slices.
    pub(super) fn plan_or_report(&mut self, step: TrainStep, source: Option<&TrainStep>) -> Result<MemoryPlan, CompileError> {
        let (mut best, mut best_parts) = (step, None);
        let counts = source.map_or(Vec::new(), slices::counts);
        let mut report = match self.fit(&best, counts.is_empty())? {
            Ok(plan) => return Ok(plan),
            Err(report) => report,
        };
        let cuts = cuts(&counts, report.need, report.have);
        let mut far = false;
        for (k, parts) in cuts.iter().copied().enumerate() {
            let last = k + 1 == cuts.len();
            // What is far from fitting gets there with the smallest slices, if at all.
            if far && !last {
                continue;
            }
            let Some(sliced) = source.and_then(|s| self.rewrite_in(s.clone(), Some(parts)).ok()) else { break };
            match self.fit(&sliced, last)? {
                Ok(plan) => {
                    self.report.microbatches = parts;
                    return Ok(plan);
                }
                Err(found) => {
                    far = found.need > 2 * found.have;
                    if found.need < report.need {
                        (report, best, best_parts) = (found, sliced, Some(parts));
                    }
                }
            }
        }
        if report.live.is_empty() {
            // So far there are drafts only; what is live where is known of a whole plan.
            report = match self.fit(&best, true)? {
                Ok(plan) => return Ok(plan),
                Err(report) => report,
            };
        }
        report.repairs = self.repairs(&best, best_parts, &report);
        Err(CompileError::Fit(report))
    }

    /// Changes of the options with which the step fits, fastest first. Each one is planned, and says in how many slices when the step is cut.
    fn repairs(&self, step: &TrainStep, parts: Option<usize>, report: &DoesNotFit) -> Vec<Repair> {
        let mut tries: Vec<(String, Target, CompileOptions)> = Vec::new();
        let mut change = |flag: String, options: CompileOptions| tries.push((flag, self.target.clone(), options));
        let options = || self.options.clone();
        if !options().remat {
            change("--remat auto".into(), CompileOptions { remat: true, ..options() });
        }
        if options().stream == Stream::Off {
            change("--stream auto".into(), CompileOptions { stream: Stream::Auto, ..options() });
        }
        let all = self.target.live_dies().len();
        if options().dies.is_some_and(|n| n < all) {
            change(format!("--dies {all}"), CompileOptions { dies: Some(all), ..options() });
        }
        let planned = |(flag, target, options): (String, Target, CompileOptions)| {
            let plan = Pipeline::new(&target, &options).fit(step, false).ok()?.ok()?;
            let flag = parts.map_or(flag.clone(), |n| format!("{flag} --microbatches {n}"));
            let peak = plan.dies.iter().map(|d| d.peak).max().unwrap_or(0);
            Some(Repair { flag, peak, picoseconds: plan.schedule.placed.sharded.cost })
        };
        let mut repairs: Vec<Repair> = tries.into_iter().filter_map(planned).collect();
        // What the best plan so far needs, or a little more: with another size another split may be tried first.
        let larger = |percent: &u64| {
            let need = report.need.saturating_mul(*percent) / 100;
            let (unit, name) = if need < 64 << 20 { (1 << 10, "KiB") } else { (1 << 20, "MiB") };
            let sram = format!("sram={}{name}", need.div_ceil(unit));
            let mut target = self.target.clone();
            target.set(&sram).ok()?;
            planned((format!("--set {sram}"), target, self.options.clone()))
        };
        repairs.extend(MORE_SRAM.iter().find_map(larger));
        repairs.sort_by_key(|r| r.picoseconds);
        repairs
    }
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
