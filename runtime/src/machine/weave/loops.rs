//! Loops: what an iteration finds is what the one before it left, whatever that was.
//!
//! A loop is followed once. At its head, what it carries has new values, and what else it writes has values of its own; regions that different
//! dies carry are taken for equal when they begin equal. If that turns out wrong at the end of the iteration, or if bytes were moved to
//! places that the head had counted on, the loop is followed again without the assumption.

use super::contents::{Content, Map, Ranges};
use super::cursor::{Cursor, Next};
use super::emit::{Origin, Value};
use super::runs::{LOST, Runs, Val};
use super::{ATTEMPTS, Weaver};
use girih_ir::program::{Claim, Instr, Region};
use std::ops::Range;

/// A region that a die carries.
struct Carry {
    die: usize,
    runs: Runs,
    region: Region,
}

/// All that following the streams changes.
#[derive(Clone)]
struct Snapshot {
    cursors: Vec<Cursor>,
    logical: Map,
    physical: Map,
    values: Vec<Value>,
    out: usize,
}

/// A loop that is open.
pub struct Frame {
    dies: Vec<usize>,
    before: Snapshot,
    active: Vec<bool>,
    carries: Vec<Carry>,
    /// Carries with equal values, the one that is kept up first.
    classes: Vec<Vec<usize>>,
    /// Number of the group in which each carry may be equal to others.
    groups: Vec<usize>,
    /// Ranges that an iteration changes.
    changed: Ranges,
    /// Ranges that it turned out to change besides.
    extra: Vec<Range<u64>>,
    /// Operands from before the loop that an iteration wants together: they are brought together before it.
    hoists: Vec<(Runs, Content)>,
    /// Whether the loop has to be followed again for them.
    again: bool,
    /// Values from here on are of the loop.
    first: Val,
    /// From here on memory was taken while the loop was followed.
    top: u64,
    attempts: usize,
    /// State at `exit_unless`.
    exit: Option<Snapshot>,
}

impl Frame {
    /// Memory from here on is of the loop.
    pub fn top(&self) -> u64 {
        self.top
    }
}

impl Weaver<'_> {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            cursors: self.cursors.clone(),
            logical: self.logical.clone(),
            physical: self.physical.clone(),
            values: self.values.clone(),
            out: self.out.len(),
        }
    }

    fn restore(&mut self, s: &Snapshot) {
        self.logical = s.logical.clone();
        self.physical = s.physical.clone();
        let mut values = s.values.clone();
        values.extend(self.values[values.len()..].iter().map(Value::forgotten));
        self.values = values;
    }

    /// Notes that bytes are written in all open loops.
    pub fn note_written(&mut self, runs: &Runs) {
        self.physical.spend(self.frames.len() * runs.count() as usize);
        for frame in &mut self.frames {
            for run in runs.iter().filter(|r| r.start < frame.top) {
                if !frame.changed.covers(&run) {
                    frame.extra.push(run);
                }
            }
        }
    }

    /// An operand is about to be brought together. In a loop that could have been done before, if all of it is from before.
    pub fn note_brought(&mut self, runs: &Runs, content: &Content) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        let old = content.iter().all(|p| p.val < frame.first && p.val != 0 && p.val != LOST);
        let new = old && !frame.hoists.iter().any(|h| h.0 == *runs && h.1 == *content);
        if new {
            frame.hoists.push((runs.clone(), content.clone()));
            frame.again = true;
        }
        new
    }

    /// Brings together before a loop what its iterations would.
    fn hoist(&mut self, frame: &Frame, from: Origin) -> Option<()> {
        for (runs, content) in &frame.hoists {
            let stays = !frame.changed.meets(&runs.span()) && self.logical.holds(runs, content);
            let to = if stays { runs.clone() } else { runs.shifted(self.aside_of(runs, &[])?)? };
            self.bring(&to, content, from)?;
        }
        Some(())
    }

    /// How far away from some runs there is room behind all dies, outside of some ranges.
    pub fn aside_of(&mut self, runs: &Runs, avoid: &[Range<u64>]) -> Option<i64> {
        let span = runs.span();
        let lead = span.start % 64;
        let at = self.aside(span.end - span.start + lead, avoid) + lead;
        i64::try_from(at).ok()?.checked_sub(i64::try_from(span.start).ok()?)
    }

    /// Whether bytes there do not outlive the iteration of an open loop.
    pub fn unstable(&self, range: Range<u64>) -> bool {
        self.frames.iter().any(|frame| frame.changed.meets(&range))
    }

    /// Goes past the fences that all dies of a loop have come to. `false` when there are none.
    pub fn fence(&mut self, next: &[Next]) -> Option<bool> {
        let at: Vec<usize> = (0..next.len()).filter(|d| self.active[*d] && next[*d] == Next::Fence).collect();
        let instr = |w: &Self, d: usize| w.codes[d].stream[w.cursors[d].pc].clone();
        let Some(first) = at.first().copied() else { return Some(false) };
        match instr(self, first) {
            Instr::Loop { trips: Some(0), .. } => None,
            Instr::Loop { trips, .. } => {
                let end = |w: &Self, d: usize| {
                    let claim = w.program.dies[d].claims.get(w.cursors[d].pc)?;
                    match w.program.claims.get(claim.index())? {
                        Claim::Loop { end, .. } => Some(*end),
                        _ => None,
                    }
                };
                let same = |d: &usize| match instr(self, *d) {
                    Instr::Loop { trips: t, .. } => t == trips && end(self, *d) == end(self, first),
                    _ => false,
                };
                let dies: Vec<usize> = at.into_iter().filter(same).collect();
                self.open(dies)?;
                Some(true)
            }
            Instr::ExitUnless { .. } => {
                self.everyone(&at, |i| matches!(i, Instr::ExitUnless { .. }))?;
                self.exit(&at)?;
                Some(true)
            }
            _ => {
                self.everyone(&at, |i| matches!(i, Instr::EndLoop))?;
                self.close()?;
                Some(true)
            }
        }
    }

    /// Whether all dies of the innermost loop stand at such an instruction.
    fn everyone(&self, at: &[usize], is: fn(&Instr) -> bool) -> Option<()> {
        let dies = &self.frames.last()?.dies;
        let fits = |d: &usize| is(&self.codes[*d].stream[self.cursors[*d].pc]);
        (at == &dies[..] && at.iter().all(fits)).then_some(())
    }

    fn open(&mut self, dies: Vec<usize>) -> Option<()> {
        let mut carries = Vec::new();
        for d in &dies {
            let Instr::Loop { carries: list, .. } = &self.codes[*d].stream[self.cursors[*d].pc] else { return None };
            for region in list {
                let region = self.codes[*d].region(region);
                carries.push(Carry { die: *d, runs: Runs::of(&region)?, region });
            }
        }
        let mut numbers: Vec<(Val, Runs)> = Vec::new();
        let mut groups = Vec::new();
        for c in &carries {
            let content = self.believed(&c.runs)?;
            let number = self.number(&content);
            let shape = c.runs.shape();
            let at = numbers.iter().position(|n| *n == (number, shape.clone()));
            groups.push(at.unwrap_or_else(|| {
                numbers.push((number, shape));
                numbers.len() - 1
            }));
        }
        let active = self.active.clone();
        self.active = (0..self.codes.len()).map(|d| dies.contains(&d)).collect();
        let frame = Frame {
            before: self.snapshot(),
            dies,
            active,
            carries,
            classes: Vec::new(),
            groups,
            changed: Ranges::default(),
            extra: Vec::new(),
            hoists: Vec::new(),
            again: false,
            first: self.values.len() as Val,
            top: self.top,
            attempts: 0,
            exit: None,
        };
        self.frames.push(frame);
        self.enter()
    }

    /// Begins to follow the innermost loop.
    fn enter(&mut self) -> Option<()> {
        let mut frame = self.frames.pop()?;
        let origin = |w: &Self| Origin { die: frame.dies[0], index: w.cursors[frame.dies[0]].pc };
        let from = origin(self);
        let groups = frame.groups.iter().max().map_or(0, |g| g + 1);
        frame.classes = vec![Vec::new(); groups];
        frame.groups.iter().enumerate().for_each(|(c, g)| frame.classes[*g].push(c));
        frame.classes.retain(|c| !c.is_empty());
        for class in &mut frame.classes {
            let there = |c: &usize| {
                let runs = &frame.carries[*c].runs;
                self.physical.holds(runs, &self.logical.content(runs))
            };
            match class.iter().position(there) {
                Some(k) => class[..=k].rotate_right(1),
                None => {
                    let runs = &frame.carries[class[0]].runs;
                    let content = self.logical.content(runs);
                    self.bring(runs, &content, from)?;
                }
            }
        }
        for class in &frame.classes {
            let runs = &frame.carries[class[0]].runs;
            self.physical.holds(runs, &self.logical.content(runs)).then_some(())?;
        }
        // In the view of the dies everything that the loop writes is new at its head.
        let mut written: Vec<(usize, Runs)> = Vec::new();
        for d in &frame.dies {
            let (code, start) = (&self.codes[*d], self.cursors[*d].pc);
            let end = code.loops.partner(start)?;
            for instr in &code.stream[start..end] {
                for region in instr.writes() {
                    let runs = Runs::of(&code.region(region))?;
                    self.physical.spend(runs.count() as usize);
                    self.within_reason()?;
                    written.push((*d, runs));
                }
            }
        }
        let ends: Vec<u32> = (0..self.codes.len())
            .map(|d| self.codes[d].loops.partner(self.cursors[d].pc).filter(|_| frame.dies.contains(&d)).unwrap_or(0) as u32)
            .collect();
        frame.changed = Ranges::default();
        for (_, runs) in written.iter().chain(frame.carries.iter().map(|c| (c.die, c.runs.clone())).collect::<Vec<_>>().iter()) {
            runs.iter().for_each(|run| frame.changed.add(run));
        }
        frame.extra.iter().for_each(|run| frame.changed.add(run.clone()));
        self.hoist(&frame, from)?;
        let mut made: Vec<(Runs, Val)> = Vec::new();
        for (die, runs) in &written {
            let val = self.fresh();
            self.put(runs, val, (*die, ends[*die]));
            made.push((runs.clone(), val));
        }
        let mut carried = Vec::new();
        for class in &frame.classes {
            let val = self.fresh();
            for c in class {
                let carry = &frame.carries[*c];
                self.put(&carry.runs, val, (carry.die, ends[carry.die]));
            }
            carried.push(val);
        }
        // What lies there and is wanted elsewhere goes away; then what lies there is new, too.
        let ranges: Vec<Range<u64>> = frame.changed.iter().filter(|r| r.start < frame.top).collect();
        let everywhere = 0..u64::MAX;
        let goal: Vec<Runs> = ranges.iter().cloned().map(Runs::one).collect();
        self.clear(&goal, &Map::default(), std::slice::from_ref(&everywhere), (from, 0))?;
        for range in &ranges {
            let val = self.fresh();
            self.place(&Runs::one(range.clone()), val);
        }
        made.iter().for_each(|(runs, val)| self.place(runs, *val));
        for (class, val) in frame.classes.iter().zip(&carried) {
            class[1..].iter().for_each(|c| {
                let val = self.fresh();
                self.place(&frame.carries[*c].runs, val);
            });
            self.place(&frame.carries[class[0]].runs, *val);
        }
        frame.top = self.top;
        self.begin_iterations(&frame, &ends, from)?;
        self.frames.push(frame);
        Some(())
    }

    /// Puts the `loop` into the stream.
    fn begin_iterations(&mut self, frame: &Frame, ends: &[u32], from: Origin) -> Option<()> {
        let number = self.fresh();
        let (mut own, mut count) = (None, None);
        for d in &frame.dies {
            let Instr::Loop { trips, index, .. } = &self.codes[*d].stream[self.cursors[*d].pc] else { return None };
            count = *trips;
            if let Some(region) = index {
                let region = self.codes[*d].region(region);
                let runs = Runs::of(&region)?;
                self.put(&runs, number, (*d, ends[*d]));
                if own.is_none() {
                    self.place(&runs, number);
                    own = Some(region);
                }
            }
        }
        let carries = frame.classes.iter().map(|c| frame.carries[c[0]].region.clone()).collect();
        self.push(Instr::Loop { trips: count, index: own, carries }, from);
        frame.dies.iter().for_each(|d| self.cursors[*d].pass_fence());
        Some(())
    }

    /// All dies of the loop look whether it goes on; they have to look at the same.
    fn exit(&mut self, dies: &[usize]) -> Option<()> {
        let mut same: Option<(Content, Instr, Origin)> = None;
        for d in dies {
            let instr = self.codes[*d].instr(self.cursors[*d].pc);
            let Instr::ExitUnless { predicate } = &instr else { return None };
            let runs = Runs::of(predicate)?;
            let content = self.believed(&runs)?;
            match &same {
                None => {
                    if !self.physical.holds(&runs, &content) {
                        let origin = Origin { die: *d, index: self.cursors[*d].pc };
                        self.bring(&runs, &content, origin)?;
                    }
                    same = Some((content, instr, Origin { die: *d, index: self.cursors[*d].pc }));
                }
                Some((first, ..)) => (*first == content).then_some(())?,
            }
        }
        let (_, instr, origin) = same?;
        self.push(instr, origin);
        dies.iter().for_each(|d| self.cursors[*d].pass_fence());
        let exit = self.snapshot();
        // With several exits it would not be known which values lie where behind the loop.
        self.frames.last_mut()?.exit.replace(exit).is_none().then_some(())
    }

    /// All dies of the innermost loop are at its end.
    fn close(&mut self) -> Option<()> {
        let mut frame = self.frames.pop()?;
        let content = |w: &Self, c: usize| w.believed(&frame.carries[c].runs);
        let mut split = false;
        for class in &frame.classes {
            let mut kinds = vec![(content(self, class[0])?, frame.groups[class[0]])];
            for c in &class[1..] {
                let own = content(self, *c)?;
                let group = match kinds.iter().find(|k| k.0 == own) {
                    Some(k) => k.1,
                    None => {
                        let group = frame.groups.iter().max().map_or(0, |g| g + 1);
                        kinds.push((own, group));
                        group
                    }
                };
                split |= group != frame.groups[*c];
                frame.groups[*c] = group;
            }
        }
        let at = frame.dies[0];
        let from = Origin { die: at, index: self.cursors[at].pc };
        let mut settled = split;
        self.frames.push(frame);
        for _ in 0..ATTEMPTS {
            if settled {
                break;
            }
            settled = self.keep_up(from)?;
        }
        settled.then_some(())?;
        let mut frame = self.frames.pop()?;
        let more = frame.extra.iter().any(|r| !frame.changed.covers(r));
        if split || more || frame.again {
            frame.again = false;
            frame.attempts += 1;
            if frame.attempts > ATTEMPTS {
                return None;
            }
            let before = frame.before.clone();
            self.restore(&before);
            self.cursors.clone_from(&before.cursors);
            self.out.truncate(before.out);
            self.origin.truncate(before.out);
            frame.exit = None;
            frame.top = frame.top.max(self.top);
            self.frames.push(frame);
            return self.enter();
        }
        self.push(Instr::EndLoop, from);
        frame.dies.iter().for_each(|d| self.cursors[*d].pass_fence());
        if let Some(exit) = &frame.exit {
            self.restore(exit);
        }
        self.active = frame.active;
        Some(())
    }

    /// Brings what the next iteration finds to its places. Whether it was there.
    fn keep_up(&mut self, from: Origin) -> Option<bool> {
        let heads: Vec<Runs> = {
            let frame = self.frames.last()?;
            frame.classes.iter().map(|c| frame.carries[c[0]].runs.clone()).collect()
        };
        let mut quiet = true;
        for runs in heads {
            let content = self.believed(&runs)?;
            if !self.physical.holds(&runs, &content) {
                quiet = false;
                self.bring(&runs, &content, from)?;
            }
        }
        Some(quiet)
    }
}
