//! The search for a split whose memory plan fits, and takes the least time.
//!
//! Without a price of SRAM the fastest split is found; where memory is short, a price makes splits that hold less, and what is still too much
//! is made again instead of being kept. Which price is best is found on *drafts*: a split, and the memory of the one die with
//! the largest shares. Only what looks best there is placed on all dies, and the next best when it does not fit after all.
//! When no draft fits, each gets rid of state that can stay in host memory.

mod stream;

use super::{CompileError, Level, PassReport, Pipeline, Stream};
use crate::memory::{self, DoesNotFit, Footprint, MemoryPlan};
use crate::partition::{self, Price, Space};
use crate::sharded::{Region, ShardedGraph};
use crate::{place, schedule};
use girih_ir::step::TrainStep;
use girih_ir::target::{LogicalMesh, Target};
use rayon::prelude::*;
use std::time::Instant;

/// The first prices of a byte of SRAM, in picoseconds, where it is short.
const PRICES: [f64; 4] = [0.0, 2.0, 16.0, 128.0];
/// The price when all of them are too low.
const HIGH_PRICE: f64 = 1024.0;
/// A price that leaves more than this part of what a lower one needs changes nothing any more.
const SATURATED: f64 = 0.98;
/// What needs so many times the SRAM is looked at in its smallest form first.
const FAR_ABOVE: u64 = 6;
/// Nothing fits when the smallest form needs so many times the SRAM.
const HOPELESS: f64 = 1.3;
/// Memory is short where more than this part of it is live.
const SHORT: f64 = 0.7;
/// How often a split is looked for again when memory became short elsewhere.
const PRESSURE_ROUNDS: usize = 1;
/// How far nodes are moved to hide transfers; the nearer they stay, the less is kept.
const WINDOWS: [usize; 2] = [1, FAR];
const FAR: usize = 64;
/// When memory is short, copies are used again within so many nodes.
pub(super) const REUSE: u32 = 12;
/// How often rematerialization goes on from what it left.
const REMAT_ROUNDS: usize = 3;
/// Where memory is short, another order must bring the time below this part.
const WORTH: f64 = 0.9;
/// What is made again is made right when it is needed, so nothing hides its transfers and everything waits for it.
const REMAT_WEIGHT: f64 = 3.0;
/// Making values again is tried for what needs up to so many times the SRAM.
const NEAR: f64 = 3.0;
/// The part of the SRAM that a draft may take: the rest is for what packing loses.
const MARGIN: f64 = 0.985;
/// Drafts take as long when their times differ by less than one part in so many.
const ALIKE: u64 = 200;
/// How many drafts are placed on all dies.
const TRIES: usize = 5;

/// A split, as far as it is known without placing all dies.
#[derive(Clone, Debug)]
struct Draft {
    price: Price,
    mesh: usize,
    /// How far nodes were moved to hide transfers.
    window: usize,
    sharded: ShardedGraph,
    /// Estimated picoseconds without what is made again.
    alone: u64,
    /// Without anything made again.
    kept: Footprint,
    /// For each node of the step in its own order, whether memory is short there.
    short: Vec<bool>,
    /// The most bytes that are live.
    peak: u64,
    /// Estimated picoseconds, with what is made again.
    time: u64,
    /// Wall-clock seconds that it took to make. Never an input of a decision.
    seconds: f64,
}

/// What drafts are made from.
struct Drafting<'a> {
    space: &'a Space<'a>,
    target: &'a Target,
    remat: bool,
    stream: Stream,
    /// Memory is short where more bytes are live.
    short: u64,
}

/// No plan was found to fit.
pub(super) struct Failed {
    /// How much is needed at least; where, if something was placed.
    pub(super) report: Box<DoesNotFit>,
    /// What needs least, when that is an estimate only.
    pub(super) draft: Option<(ShardedGraph, LogicalMesh)>,
}

/// The memory of the die of a region with the largest shares: the last one.
pub(super) fn footprint(sharded: &ShardedGraph, region: Region, mesh: &LogicalMesh, target: &Target) -> Result<Footprint, CompileError> {
    let placed = place::place_alone(sharded.clone(), mesh, target, region.last(sharded.mesh) as u32)?;
    Ok(memory::footprint(schedule::schedule(placed)))
}

impl Drafting<'_> {
    fn mesh(&self, mesh: usize) -> &LogicalMesh {
        self.space.mesh(mesh)
    }

    /// The memory of the die with the largest shares: the last one.
    fn footprint(&self, sharded: &ShardedGraph, mesh: usize) -> Result<Footprint, CompileError> {
        footprint(sharded, Region::whole(sharded.mesh), self.mesh(mesh), self.target)
    }

    /// The best split at a price, with values made again until it stays below `goal`.
    fn draft(&self, price: &Price, reuse: Option<u32>, goal: u64) -> Result<Draft, CompileError> {
        let start = Instant::now();
        let (mut price, mut drafts, mut first) = (price.clone(), Vec::new(), Vec::new());
        for round in 0..=PRESSURE_ROUNDS {
            let mut solved = self.solve(&price);
            solved.sharded.reuse = reuse;
            let kept = self.footprint(&solved.sharded, solved.mesh)?;
            let short: Vec<bool> = kept.profile.iter().map(|b| *b > self.short).collect();
            let fits = kept.peak <= goal;
            for window in WINDOWS {
                let (sharded, alone) = schedule::overlap(&solved.sharded, &solved.times, window);
                let kept = if window == 1 { kept.clone() } else { self.footprint(&sharded, solved.mesh)? };
                let (price, mesh, peak) = (price.clone(), solved.mesh, kept.peak);
                let draft = Draft { price, mesh, window, alone, peak, time: alone, sharded, kept, short: Vec::new(), seconds: 0.0 };
                let lowered = self.lowered(draft, goal)?;
                // Moved nodes hold more, and pack worse: where values are made again, the order must be worth it.
                let worth = drafts.last().is_none_or(|d: &Draft| (lowered.time as f64) < d.time as f64 * WORTH);
                if window == 1 || lowered.sharded.remat.is_empty() || worth {
                    drafts.push(lowered);
                }
            }
            // Where memory became short may be priced as well.
            let grown = price.lambda > 0.0 && price.pressure.iter().zip(&short).any(|(p, s)| *s && !p);
            price.pressure.iter_mut().zip(&short).for_each(|(p, s)| *p |= s);
            if round == 0 {
                first = short;
            }
            if fits || !grown {
                break;
            }
        }
        let at = best(&drafts, goal).unwrap_or_default();
        Ok(Draft { short: first, seconds: start.elapsed().as_secs_f64(), ..drafts.swap_remove(at) })
    }

    /// The draft with values made again until it stays below `goal`, or as near to it as can be.
    fn lowered(&self, draft: Draft, goal: u64) -> Result<Draft, CompileError> {
        // Far above what there is, another split saves more than making values again.
        if draft.peak as f64 > goal as f64 * NEAR { Ok(draft) } else { self.made_again(draft, goal) }
    }

    /// The same, however far it is.
    fn made_again(&self, mut draft: Draft, goal: u64) -> Result<Draft, CompileError> {
        if !self.remat {
            return Ok(draft);
        }
        draft.sharded.remat.clear();
        (draft.peak, draft.time) = (draft.kept.peak, draft.alone);
        let mut profile = draft.kept.profile.clone();
        let mut best: Option<Draft> = None;
        for _ in 0..REMAT_ROUNDS {
            if draft.peak <= goal {
                break;
            }
            let Some(made) = partition::rematerialize(&draft.sharded, self.target, &profile, goal) else { break };
            if made.list == draft.sharded.remat {
                break;
            }
            draft.sharded.remat = made.list;
            draft.sharded.reuse = draft.sharded.reuse.or(Some(REUSE));
            let found = self.footprint(&draft.sharded, draft.mesh)?;
            draft.time += (made.seconds * 1e12 * REMAT_WEIGHT) as u64;
            (draft.peak, profile) = (found.peak, found.profile);
            if best.as_ref().is_none_or(|b| draft.peak < b.peak) {
                best = Some(draft.clone());
            }
        }
        Ok(best.unwrap_or(draft))
    }

    /// The draft that holds as little as any: at the highest price, with all that can be in host memory, and values made again.
    fn least(&self, pressure: &[bool], goal: u64) -> Result<Draft, CompileError> {
        let start = Instant::now();
        let price = Price { lambda: HIGH_PRICE, pressure: pressure.to_vec() };
        let mut solved = self.space.solve(&price);
        if self.stream != Stream::Off {
            solved.sharded = stream::all(&solved.sharded);
        }
        solved.sharded.reuse = Some(REUSE);
        let kept = self.footprint(&solved.sharded, solved.mesh)?;
        let (alone, peak) = (solved.sharded.cost, kept.peak);
        let time = alone.max(partition::edge_time(&solved.sharded, self.target));
        let (mesh, sharded) = (solved.mesh, solved.sharded);
        let draft = Draft { price, mesh, window: 1, alone, peak, time, sharded, kept, short: Vec::new(), seconds: 0.0 };
        let made = self.made_again(draft, goal)?;
        Ok(Draft { seconds: start.elapsed().as_secs_f64(), ..made })
    }

    /// A failure of which a draft is what needs least, unless something that was placed needs less.
    fn failed(&self, failure: Option<Box<DoesNotFit>>, draft: Draft, have: u64) -> Failed {
        match failure.filter(|f| f.need <= draft.peak) {
            Some(report) => Failed { report, draft: None },
            None => {
                let sharded = ShardedGraph { cost: draft.time, ..draft.sharded };
                let report = Box::new(DoesNotFit::estimated(draft.peak, have));
                Failed { report, draft: Some((sharded, self.mesh(draft.mesh).clone())) }
            }
        }
    }

    /// Drafts at several prices.
    fn drafts(&self, prices: &[f64], pressure: &[bool], goal: u64) -> Result<Vec<Draft>, CompileError> {
        let one = |lambda: &f64| self.draft(&Price { lambda: *lambda, pressure: pressure.to_vec() }, Some(REUSE), goal);
        prices.par_iter().map(one).collect()
    }
}

/// The fastest draft that stays below the goal, and if none does, the smallest.
fn best<'d>(drafts: impl IntoIterator<Item = &'d Draft>, goal: u64) -> Option<usize> {
    // What is too large comes behind all that fits, the smallest first.
    let rank = |d: &Draft| if d.peak <= goal { (false, d.time, d.peak) } else { (true, d.peak, 0) };
    drafts.into_iter().enumerate().min_by_key(|(i, d)| (rank(d), *i)).map(|(i, _)| i)
}

/// The prices halfway from that of the best draft to the next first prices, where the drafts differ.
fn around_best(all: &[Draft], goal: u64) -> Vec<f64> {
    let first: Vec<&Draft> = all.iter().filter(|d| PRICES.contains(&d.price.lambda) || d.price.lambda == HIGH_PRICE).collect();
    let Some(at) = best(first.iter().copied(), goal) else { return Vec::new() };
    // Between two prices with the same split there is no other, and nothing to gain between two that fit and take as long.
    let alike = |a: &Draft, b: &Draft| a.time.abs_diff(b.time) < a.time / ALIKE && a.peak.max(b.peak) <= goal;
    let between = |a: &Draft, b: &Draft| {
        let differ = (a.kept.peak != b.kept.peak || a.alone != b.alone) && !alike(a, b);
        differ.then(|| between(a.price.lambda, b.price.lambda))
    };
    let below = at.checked_sub(1).and_then(|b| between(first[b], first[at]));
    let above = first.get(at + 1).and_then(|a| between(first[at], a));
    below.into_iter().chain(above).collect()
}

impl Pipeline<'_> {
    /// The fastest plan that is found to fit, or why none does.
    pub(super) fn fit(&mut self, step: &TrainStep) -> Result<Result<MemoryPlan, Failed>, CompileError> {
        let start = Instant::now();
        let whole = Space::new(step, self.target, self.options.dies, &self.options.pins)?;
        let Some(parts) = whole.in_parts(self.target, self.options.dies, &self.options.pins)? else { return self.fit_in(&whole, start) };
        let (seconds, before) = (start.elapsed().as_secs_f64(), step.graph.nodes().len());
        let (after, summary) = (parts.step.graph.nodes().len(), format!("rows of {} ops are cut over dies", parts.count));
        self.report.passes.push(PassReport { name: "apart", seconds, before, after, summary });
        let start = Instant::now();
        let space = parts.space(self.target, self.options.dies)?;
        self.fit_in(&space, start)
    }

    /// The same in a space that is known.
    pub(super) fn fit_in(&mut self, space: &Space<'_>, start: Instant) -> Result<Result<MemoryPlan, Failed>, CompileError> {
        let have = self.target.sram_bytes();
        let short = (have as f64 * SHORT) as u64;
        let work = Drafting { space, target: self.target, remat: self.options.remat, stream: self.options.stream, short };
        let mut solved = work.solve(&Price::default());
        let cost = solved.sharded.cost;
        solved.sharded = schedule::overlap(&solved.sharded, &solved.times, FAR).0;
        let report = solved.report;
        let (rows, cols) = (solved.sharded.mesh.rows, solved.sharded.mesh.cols);
        let (seconds, before, after) = (start.elapsed().as_secs_f64(), space.step().graph.nodes().len(), report.groups);
        let goal = (have as f64 * MARGIN) as u64;
        // Where all is on one die, planning it is as good as a draft of it.
        let alone = solved.sharded.mesh.count() == 1;
        let need = || if alone { Ok(None) } else { work.footprint(&solved.sharded, solved.mesh).map(Some) };
        let (first, gap) = rayon::join(need, || if report.fixed == 0 { 0.0 } else { work.space.gap(solved.mesh, cost) });
        let first = first?;
        let best =
            if report.fixed == 0 { "the least cost".to_string() } else { format!("at most {:.1} % above the least cost", 100.0 * gap) };
        let summary = format!("{rows}×{cols} dies, {} decisions, width {}, {} fixed: {best}", report.groups, report.width, report.fixed);
        self.report.passes.push(PassReport { name: "partition", seconds, before, after, summary });
        self.report.partition = report;
        let mut failure = None;
        if first.as_ref().is_none_or(|f| f.peak <= have) {
            match self.attempt(&work, &solved.sharded, solved.mesh)? {
                Ok(plan) => return Ok(Ok(plan)),
                Err(found) => failure = Some(found),
            }
        }
        if let Some(first) = first.filter(|f| f.peak > have.saturating_mul(FAR_ABOVE)) {
            let pressure: Vec<bool> = first.profile.iter().map(|b| *b > work.short).collect();
            let least = work.least(&pressure, goal)?;
            self.drafted(std::slice::from_ref(&least), goal);
            if least.peak as f64 > have as f64 * HOPELESS {
                return Ok(Err(work.failed(failure, least, have)));
            }
        }
        let drafts = self.drafts(&work, goal)?;
        if self.options.stream != Stream::Auto {
            return self.settle(&work, drafts, failure);
        }
        if drafts.iter().any(|d| d.peak <= have) {
            match self.settle(&work, drafts.clone(), failure)? {
                Ok(plan) => return Ok(Ok(plan)),
                Err(found) => failure = Some(found.report),
            }
        }
        let streamed = self.streamed(&work, &drafts, goal)?;
        self.settle(&work, if streamed.is_empty() { drafts } else { streamed }, failure)
    }

    /// Drafts at prices around the best one.
    fn drafts(&mut self, work: &Drafting<'_>, goal: u64) -> Result<Vec<Draft>, CompileError> {
        let fast = work.draft(&Price::default(), Some(REUSE), goal)?;
        let pressure = fast.short.clone();
        let single = fast.sharded.mesh.count() == 1;
        self.drafted(std::slice::from_ref(&fast), goal);
        let mut all = vec![fast];
        if single {
            return Ok(all);
        }
        let more = |pipeline: &mut Self, all: &mut Vec<Draft>, prices: &[f64]| -> Result<(), CompileError> {
            let made = work.drafts(prices, &pressure, goal)?;
            pipeline.drafted(&made, goal);
            all.extend(made);
            all.sort_by(|a, b| a.price.lambda.total_cmp(&b.price.lambda));
            Ok(())
        };
        let [_, second, third, last] = PRICES;
        more(self, &mut all, &[second, third])?;
        // Two at a time: where the third price is enough already, what lies below it is looked at beside the last one.
        let early = if all.iter().any(|d| d.peak <= goal) { around_best(&all, goal) } else { Vec::new() };
        more(self, &mut all, &early.into_iter().chain([last]).collect::<Vec<_>>())?;
        let saturated = |all: &[Draft]| match all {
            [.., lower, last] => last.kept.peak as f64 > lower.kept.peak as f64 * SATURATED,
            _ => true,
        };
        if all.iter().all(|d| d.peak > goal) && !saturated(&all) {
            more(self, &mut all, &[HIGH_PRICE])?;
        }
        let prices: Vec<f64> = around_best(&all, goal).into_iter().filter(|p| all.iter().all(|d| d.price.lambda != *p)).collect();
        more(self, &mut all, &prices)?;
        Ok(all)
    }

    /// Places what looks best on all dies until something fits.
    fn settle(
        &mut self,
        work: &Drafting<'_>,
        mut drafts: Vec<Draft>,
        mut failure: Option<Box<DoesNotFit>>,
    ) -> Result<Result<MemoryPlan, Failed>, CompileError> {
        let have = self.target.sram_bytes();
        let mut goal = have;
        for _ in 0..TRIES {
            let Some(at) = best(&drafts, goal) else { break };
            let draft = drafts.remove(at);
            if draft.peak > have {
                return Ok(Err(work.failed(failure, draft, have)));
            }
            let sharded = ShardedGraph { cost: draft.time, ..draft.sharded.clone() };
            let found = match self.attempt(work, &sharded, draft.mesh)? {
                Ok(plan) => {
                    self.report.price = draft.price;
                    return Ok(Ok(plan));
                }
                Err(found) => found,
            };
            // What packing and the other dies take beyond the draft now, they take then.
            let beyond = found.need as f64 / draft.peak.max(1) as f64;
            goal = goal.min((have as f64 / beyond.max(1.0) * MARGIN) as u64);
            if failure.as_ref().is_none_or(|f| found.need < f.need) {
                failure = Some(found);
            }
            let lower = work.lowered(Draft { peak: draft.kept.peak, ..draft.clone() }, goal)?;
            if lower.peak < draft.peak {
                self.drafted(std::slice::from_ref(&lower), goal);
                drafts.push(lower);
            }
        }
        Ok(Err(Failed { report: failure.expect("something was placed, and did not fit"), draft: None }))
    }

    /// What failed on all dies: the plan when it fits after all, and else where there is too much.
    pub(super) fn explain(&mut self, failed: Failed) -> Result<Result<MemoryPlan, Box<DoesNotFit>>, CompileError> {
        let Some((sharded, mesh)) = failed.draft else { return Ok(Err(failed.report)) };
        self.saw("partition", Level::Sharded(&sharded));
        Ok(self.memory(sharded, &mesh)?.map_err(|f| f.report))
    }

    /// Places a split on all dies and plans their memory.
    fn attempt(
        &mut self,
        work: &Drafting<'_>,
        sharded: &ShardedGraph,
        mesh: usize,
    ) -> Result<Result<MemoryPlan, Box<DoesNotFit>>, CompileError> {
        self.saw("partition", Level::Sharded(sharded));
        Ok(self.memory(sharded.clone(), work.mesh(mesh))?.map_err(|f| f.report))
    }

    fn drafted(&mut self, drafts: &[Draft], goal: u64) {
        for d in drafts {
            let (again, us, streamed) = (d.sharded.remat.len(), d.time as f64 * 1e-6, d.sharded.streamed.len());
            let streamed = if streamed > 0 { format!(", {streamed} state tensors streamed") } else { String::new() };
            let price = format!("{} ps a byte, window {}", d.price.lambda, d.window);
            let summary = format!("{price}: {us:.1} us, {again} values made again{streamed}, peak {} of {goal} bytes", d.peak);
            let (before, after) = (d.sharded.strategies.len(), again);
            self.report.passes.push(PassReport { name: "draft", seconds: d.seconds, before, after, summary });
        }
    }
}

/// A price between two.
fn between(low: f64, high: f64) -> f64 {
    if low <= 0.0 { high / 4.0 } else { (low * high).sqrt() }
}
