//! Streaming in drafts: how much state has to stay in host memory, found on the profile of a draft before anything is placed again.

use super::{CompileError, Draft, Drafting, PassReport, Pipeline, REUSE};
use crate::partition::{self, Price, Solved, Streamable};
use crate::pipeline::Stream;
use crate::sharded::ShardedGraph;
use rayon::prelude::*;
use std::time::Instant;

/// A sharded graph with these pairs streamed and nothing made again.
fn with(sharded: &ShardedGraph, list: &[Streamable]) -> ShardedGraph {
    let mut streamed: Vec<u32> = list.iter().map(|s| s.pair).collect();
    streamed.sort_unstable();
    ShardedGraph { remat: Vec::new(), reuse: sharded.reuse.or(Some(REUSE)), streamed, ..sharded.clone() }
}

/// A sharded graph with all that can be streamed.
pub(super) fn all(sharded: &ShardedGraph) -> ShardedGraph {
    with(sharded, &partition::streamable(&with(sharded, &[])))
}

impl Drafting<'_> {
    /// The best split at a price, with all state streamed that can be when that is asked for.
    pub(super) fn solve(&self, price: &Price) -> Solved {
        let mut solved = self.space.solve(price);
        if self.stream == Stream::All {
            solved.sharded.streamed = with(&solved.sharded, &partition::streamable(&solved.sharded)).streamed;
        }
        solved
    }

    /// The draft with as little state streamed as is enough, and values made again as before; with all that can be when nothing is
    /// enough.
    fn with_streams(&self, draft: &Draft, goal: u64) -> Result<Option<Draft>, CompileError> {
        let start = Instant::now();
        let list = partition::streamable(&with(&draft.sharded, &[]));
        if list.is_empty() {
            return Ok(None);
        }
        let enough = |count: usize| {
            let profile = partition::relieved(&draft.kept.profile, &list, count);
            let fits = profile.iter().all(|b| *b <= goal);
            let again = || partition::rematerialize(&with(&draft.sharded, &list[..count]), self.target, &profile, goal);
            fits || self.remat && again().is_some_and(|made| made.peak <= goal)
        };
        // What is not enough is below `few`, what is enough at or above `many`.
        let (mut few, mut many) = (1, list.len());
        while few < many {
            let middle = (few + many) / 2;
            if enough(middle) { many = middle } else { few = middle + 1 }
        }
        let mut best: Option<Draft> = None;
        for count in [many, (many + list.len()).div_ceil(2), list.len()] {
            let sharded = with(&draft.sharded, &list[..count]);
            let kept = self.footprint(&sharded, draft.mesh)?;
            let edge = partition::edge_time(&sharded, self.target);
            let found = self.lowered(Draft { peak: kept.peak, time: sharded.cost, sharded, kept, ..draft.clone() }, goal)?;
            // Loads and stores travel while others compute.
            let found = Draft { time: found.time.max(edge), seconds: start.elapsed().as_secs_f64(), ..found };
            let fits = found.peak <= goal;
            if best.as_ref().is_none_or(|b| found.peak < b.peak) {
                best = Some(found);
            }
            if fits {
                break;
            }
        }
        Ok(best)
    }
}

impl Pipeline<'_> {
    /// The drafts with state streamed.
    pub(super) fn streamed(&mut self, work: &Drafting<'_>, drafts: &[Draft], goal: u64) -> Result<Vec<Draft>, CompileError> {
        let start = Instant::now();
        let made: Vec<Option<Draft>> = drafts.par_iter().map(|d| work.with_streams(d, goal)).collect::<Result<_, _>>()?;
        let made: Vec<Draft> = made.into_iter().flatten().collect();
        let (before, after) = (drafts.len(), made.iter().filter(|d| d.peak <= goal).count());
        let summary = format!("{after} of {before} drafts fit when state stays in host memory");
        self.report.passes.push(PassReport { name: "stream", seconds: start.elapsed().as_secs_f64(), before, after, summary });
        self.drafted(&made, goal);
        Ok(made)
    }
}
