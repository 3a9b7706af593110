//! memory: where each buffer lies in its die's SRAM. Buffers that can share bytes are unified first (state updated in place, maps
//! that overwrite a dying operand), then live ranges are packed. What does not fit is data, not a failure of the pass.

mod pack;
mod search;
mod unify;

use crate::place::{BufferId, Storage, TaskKind};
use crate::schedule::Schedule;
use girih_ir::target::{DieId, Target};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes to which every buffer is aligned.
pub const ALIGNMENT: u64 = 64;

/// A schedule with an address for every buffer.
#[derive(Clone, PartialEq, Debug)]
pub struct MemoryPlan {
    /// The schedule, less the copies that unification made needless.
    pub schedule: Schedule,
    /// Byte address of each buffer.
    pub offsets: Vec<u64>,
    /// What each logical die needs.
    pub dies: Vec<DieMemory>,
}

/// Memory of one die.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DieMemory {
    /// Bytes up to the highest address used.
    pub peak: u64,
    /// The most bytes that are live at once: no plan can be smaller.
    pub lower_bound: u64,
    /// Bytes of state among them.
    pub state: u64,
}

/// A live range on one die: half-open in positions of the die's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Live {
    buffer: BufferId,
    bytes: u64,
    start: u32,
    end: u32,
    state: bool,
}

/// One live region of a fit report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveRegion {
    /// The tensor's name in the model or the text form.
    pub tensor: String,
    /// Bytes on the die.
    pub bytes: u64,
    /// Where in the source model it comes from.
    pub origin: String,
    /// Whether it is state that stays between steps.
    pub state: bool,
}

/// A plan that does not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("E0901: die {die} needs {need} bytes of SRAM but has {have}; the peak is at {at}")]
pub struct DoesNotFit {
    /// The die.
    pub die: DieId,
    /// Bytes that the best plan needs.
    pub need: u64,
    /// Bytes that the die has.
    pub have: u64,
    /// The task at the peak, with its origin.
    pub at: String,
    /// The ten largest live regions at the peak.
    pub live: Vec<LiveRegion>,
    /// How many smaller ones there are, and their bytes.
    pub others: (usize, u64),
    /// What could not be tried, and why: slices one after the other, replicas side by side.
    pub refused: Vec<String>,
    /// What would help, best first; each was planned.
    pub repairs: Vec<Repair>,
}

impl DoesNotFit {
    /// What is known without a plan: how much would be needed.
    pub fn estimated(need: u64, have: u64) -> Self {
        let at = "an estimate".to_string();
        DoesNotFit { die: DieId(0), need, have, at, live: Vec::new(), others: (0, 0), refused: Vec::new(), repairs: Vec::new() }
    }
}

/// A change of the options with which a step fits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// To be added to the command line.
    pub flag: String,
    /// Highest SRAM use of a die with it, in bytes.
    pub peak: u64,
    /// Estimated picoseconds of a step with it.
    pub picoseconds: u64,
}

/// Live regions that are listed.
const LISTED: usize = 10;

/// Plans the memory of every die.
pub fn plan(schedule: Schedule, target: &Target) -> Result<MemoryPlan, std::boxed::Box<DoesNotFit>> {
    plan_or_profile(schedule, target).map_err(|failure| failure.report)
}

/// A plan that does not fit, and what would help to change that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What is reported.
    pub report: std::boxed::Box<DoesNotFit>,
    /// For each node of the graph: the most bytes that are live on a die from it to the next node.
    pub profile: Vec<u64>,
}

/// How much memory the dies of a schedule need, without addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// The most bytes that are live on a die at once.
    pub peak: u64,
    /// For each node of the graph: the most bytes that are live on a die from it to the next node.
    pub profile: Vec<u64>,
}

/// How much memory the dies of a schedule need.
pub fn footprint(mut schedule: Schedule) -> Footprint {
    unify::unify(&mut schedule);
    let streams = streams(&schedule);
    let live = all_live(&schedule, &streams);
    let profile = profile(&schedule, &streams, &live);
    Footprint { peak: live.iter().map(|l| pack::lower_bound(l)).max().unwrap_or(0), profile }
}

/// Plans the memory of every die, or says how much is live when.
pub fn plan_or_profile(mut schedule: Schedule, target: &Target) -> Result<MemoryPlan, Failure> {
    unify::unify(&mut schedule);
    let streams = streams(&schedule);
    let have = target.sram_bytes();
    let live = all_live(&schedule, &streams);
    let packed = pack_all(&live, have);
    let mut offsets = vec![0u64; schedule.placed.buffers.len()];
    let mut dies = Vec::with_capacity(packed.len());
    for (die, (placements, memory)) in packed.into_iter().enumerate() {
        if memory.peak > have {
            let report = std::boxed::Box::new(report(&schedule, &streams[die], &live[die], die, memory.peak, have));
            return Err(Failure { report, profile: profile(&schedule, &streams, &live) });
        }
        placements.into_iter().for_each(|(b, offset)| offsets[b.index()] = offset);
        dies.push(memory);
    }
    for i in 0..offsets.len() {
        offsets[i] = offsets[schedule.placed.root(BufferId::new(i)).index()];
    }
    Ok(MemoryPlan { schedule, offsets, dies })
}

/// Addresses and needs of every die. Dies with equal problems share one solution.
fn pack_all(live: &[Vec<Live>], have: u64) -> Vec<(Vec<(BufferId, u64)>, DieMemory)> {
    let mut first: rustc_hash::FxHashMap<Vec<(u64, u32, u32, bool)>, usize> = rustc_hash::FxHashMap::default();
    let key = |l: &Vec<Live>| l.iter().map(|l| (l.bytes, l.start, l.end, l.state)).collect::<Vec<_>>();
    let like: Vec<usize> = live.iter().enumerate().map(|(die, l)| *first.entry(key(l)).or_insert(die)).collect();
    let solved: Vec<Option<(Vec<(BufferId, u64)>, DieMemory)>> =
        live.par_iter().enumerate().map(|(die, l)| (like[die] == die).then(|| pack::pack(l, pack::Effort::Fit(have)))).collect();
    let of = |(die, l): (usize, &Vec<Live>)| {
        let (placements, memory) = solved[like[die]].as_ref().expect("the first of its kind is solved");
        (l.iter().zip(placements).map(|(l, p)| (l.buffer, p.1)).collect(), *memory)
    };
    live.iter().enumerate().map(of).collect()
}

/// The live ranges of one die, to be packed.
#[derive(Clone, Debug)]
pub struct Problem {
    live: Vec<Live>,
}

impl Problem {
    /// How many buffers there are.
    pub fn buffers(&self) -> usize {
        self.live.len()
    }

    /// Bytes, begin and end of each: problems with equal ones are equal.
    pub fn ranges(&self) -> Vec<(u64, u32, u32)> {
        self.live.iter().map(|l| (l.bytes, l.start, l.end)).collect()
    }

    /// Packs them as near to the bound as possible.
    pub fn solve(&self) -> DieMemory {
        pack::pack(&self.live, pack::Effort::Thorough).1
    }
}

/// The packing problems of a schedule, equal ones once.
pub fn problems(mut schedule: Schedule) -> Vec<Problem> {
    unify::unify(&mut schedule);
    let mut known = std::collections::BTreeSet::new();
    let all = all_live(&schedule, &streams(&schedule));
    let new = |l: &Vec<Live>| known.insert(l.iter().map(|l| (l.bytes, l.start, l.end)).collect::<Vec<_>>());
    all.into_iter().filter(new).map(|live| Problem { live }).collect()
}

/// The tasks of each die in issue order.
pub(crate) fn streams(schedule: &Schedule) -> Vec<Vec<u32>> {
    let mut streams = vec![Vec::new(); schedule.placed.dies.len()];
    for t in &schedule.order {
        streams[schedule.placed.tasks[*t as usize].die as usize].push(*t);
    }
    streams
}

/// The live ranges of every die.
fn all_live(schedule: &Schedule, streams: &[Vec<u32>]) -> Vec<Vec<Live>> {
    let buffers = &schedule.placed.buffers;
    let mut state: Vec<Vec<BufferId>> = vec![Vec::new(); streams.len()];
    for (i, b) in buffers.iter().enumerate().filter(|(_, b)| matches!(b.storage, Storage::State(_))) {
        state[b.die as usize].push(BufferId::new(i));
    }
    streams.par_iter().zip(&state).map(|(stream, state)| live_ranges(schedule, state, stream)).collect()
}

/// The live ranges of a die. A die without tasks still keeps its state.
fn live_ranges(schedule: &Schedule, state: &[BufferId], stream: &[u32]) -> Vec<Live> {
    let placed = &schedule.placed;
    let mut index: rustc_hash::FxHashMap<BufferId, usize> = rustc_hash::FxHashMap::default();
    let mut live: Vec<Live> = Vec::new();
    let length = stream.len() as u32;
    for buffer in state {
        index.insert(*buffer, live.len());
        live.push(Live { buffer: *buffer, bytes: placed.buffers[buffer.index()].bytes(), start: 0, end: length + 1, state: true });
    }
    for (at, t) in stream.iter().enumerate() {
        let task = &placed.tasks[*t as usize];
        for view in task.reads.iter().chain(&task.writes).filter(|v| v.buffer.0 != u32::MAX) {
            let root = placed.root(view.buffer);
            let next = live.len();
            let slot = *index.entry(root).or_insert(next);
            if slot == next {
                let bytes = placed.buffers[root.index()].bytes();
                live.push(Live { buffer: root, bytes, start: at as u32, end: at as u32 + 1, state: false });
            }
            live[slot].end = live[slot].end.max(at as u32 + 1);
        }
    }
    for span in spans(schedule, stream) {
        // Inner loops come first. What was there before a loop and is used in it is needed again in the next iteration.
        for l in live.iter_mut().filter(|l| l.start <= span.start && l.end > span.start + 1) {
            l.end = l.end.max(span.end + 1);
        }
    }
    live
}

/// The loops of a die's stream, inner ones first: the positions of their first and last task.
pub(crate) fn spans(schedule: &Schedule, stream: &[u32]) -> Vec<Range<u32>> {
    let mut open: Vec<u32> = Vec::new();
    let mut spans = Vec::new();
    for (at, t) in stream.iter().enumerate() {
        match schedule.placed.tasks[*t as usize].kind {
            TaskKind::LoopBegin(_) => open.push(at as u32),
            TaskKind::LoopEnd(_) => spans.extend(open.pop().map(|start| start..at as u32)),
            _ => {}
        }
    }
    spans
}

/// For each node of the graph: the most bytes that are live on a die from it to the next node.
fn profile(schedule: &Schedule, streams: &[Vec<u32>], live: &[Vec<Live>]) -> Vec<u64> {
    let placed = &schedule.placed;
    let nodes = placed.sharded.step.graph.nodes().len();
    // The node that is being worked on at each position of the order, on all dies alike.
    let mut now = 0usize;
    let mut node_of = vec![0usize; placed.tasks.len()];
    for t in &schedule.order {
        if let TaskKind::Compute { node, .. } | TaskKind::LoopEnd(node) = &placed.tasks[*t as usize].kind {
            now = now.max(node.index());
        }
        node_of[*t as usize] = now;
    }
    let of_die = |(stream, live): (&Vec<u32>, &Vec<Live>)| {
        let mut change = vec![0i64; stream.len() + 2];
        for l in live {
            let bytes = pack::rounded(l.bytes) as i64;
            change[l.start as usize] += bytes;
            change[(l.end as usize).min(stream.len() + 1)] -= bytes;
        }
        let (mut out, mut sum) = (vec![0u64; nodes], 0i64);
        for (at, t) in stream.iter().enumerate() {
            sum += change[at];
            let slot = &mut out[node_of[*t as usize]];
            *slot = (*slot).max(sum.max(0) as u64);
        }
        out
    };
    let all: Vec<Vec<u64>> = streams.par_iter().zip(live).filter(|(s, _)| !s.is_empty()).map(of_die).collect();
    let mut out: Vec<u64> = (0..nodes).map(|n| all.iter().map(|p| p[n]).max().unwrap_or(0)).collect();
    // Where no die starts anything, what was live stays live.
    for n in 1..nodes {
        if out[n] == 0 {
            out[n] = out[n - 1];
        }
    }
    out
}

fn report(schedule: &Schedule, stream: &[u32], live: &[Live], die: usize, need: u64, have: u64) -> DoesNotFit {
    let placed = &schedule.placed;
    let graph = &placed.sharded.step.graph;
    let peak = pack::peak_position(live);
    let mut at_peak: Vec<&Live> = live.iter().filter(|l| l.start <= peak && peak < l.end).collect();
    at_peak.sort_by_key(|l| (std::cmp::Reverse(l.bytes), l.buffer));
    let region = |l: &&Live| {
        let buffer = &placed.buffers[l.buffer.index()];
        let input = graph.inputs.iter().find(|i| i.value == buffer.value);
        LiveRegion {
            tensor: input.map_or_else(|| format!("{} ({})", buffer.value, graph.node(buffer.value).op.name()), |i| i.name.clone()),
            bytes: l.bytes,
            origin: graph.origin(buffer.value).to_string(),
            state: matches!(buffer.storage, Storage::State(_)),
        }
    };
    let at = match stream.get(peak as usize).map(|t| &placed.tasks[*t as usize].kind) {
        Some(crate::place::TaskKind::Compute { node, .. }) => {
            format!("{node} = {} {}", graph.node(*node).op.name(), graph.origin(*node)).trim_end().to_string()
        }
        _ => "a transfer".to_string(),
    };
    let (largest, rest) = at_peak.split_at(at_peak.len().min(LISTED));
    DoesNotFit {
        die: placed.dies[die],
        need,
        have,
        at,
        live: largest.iter().map(region).collect(),
        others: (rest.len(), rest.iter().map(|l| l.bytes).sum()),
        refused: Vec::new(),
        repairs: Vec::new(),
    }
}
