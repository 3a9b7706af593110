//! Views: the instructions of counted loops that only move elements, done by reading and writing elsewhere instead.
//!
//! A loop over a sequence takes a slab out of a stacked tensor, works on it, and puts the result into another one. Written as `dynamic_slice`
//! and `dynamic_update_slice` these are copies, often as long as the work itself. But the loop counts: where the starts follow from the number
//! of the iteration, a slab is a region that moves by a fixed number of bytes ([`Motion`]), so its readers can read it where it lies and its
//! maker can write it where it belongs. Slices and copies inside the loop go the same way.
//!
//! Everything is decided once, when a session begins, on the stream of one die, step by step from a stream to an equivalent one: a copy goes
//! away when all the reads of what it wrote are known, can be said in terms of its other side, and come before that side changes. What is not
//! understood stays as it is.

mod scalars;

use super::loops::Loops;
use super::sram::{Bytes, Moving, overlap};
use super::task;
use girih_ir::program::{Instr, Program, Region, Regions};
use girih_ir::types::Dims;
use smallvec::SmallVec;

/// Iterations of a loop that is looked at, at most.
const MAX_TRIPS: u64 = 1 << 16;
/// Instructions of a loop that is looked at, at most.
const MAX_BODY: usize = 2048;
/// Bytes next to each other that a view has at least.
const MIN_RUN: usize = 64;

/// How far the regions of an instruction move with every iteration of the innermost loop around it, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Motion {
    reads: SmallVec<[isize; 4]>,
    writes: SmallVec<[isize; 2]>,
    trips: u64,
}

impl Motion {
    /// The step of operand `k`.
    pub fn read(&self, k: usize) -> isize {
        self.reads.get(k).copied().unwrap_or(0)
    }

    /// The step of result `k`.
    pub fn write(&self, k: usize) -> isize {
        self.writes.get(k).copied().unwrap_or(0)
    }

    /// How often the loop runs.
    pub fn trips(&self) -> u64 {
        self.trips.max(1)
    }

    fn set(list: &mut [isize], k: usize, step: isize) {
        if let Some(s) = list.get_mut(k) {
            *s = step;
        }
    }
}

/// An instruction of the equivalent stream.
#[derive(Clone, Debug)]
pub struct Line {
    /// What to do.
    pub instr: Instr,
    /// How its regions move.
    pub motion: Motion,
    /// Nothing is to be done.
    pub gone: bool,
}

/// The stream with the copies of its counted loops done away with where that is possible. `state` are the regions that outlive the step.
pub fn views(program: &Program, stream: &[Instr], loops: &Loops, state: &[Region]) -> Vec<Line> {
    let line = |instr: &Instr| Line { instr: instr.clone(), motion: Motion::default(), gone: false };
    let mut depth = 0usize;
    let depths = stream.iter().map(|instr| {
        depth -= usize::from(matches!(instr, Instr::EndLoop));
        let here = depth;
        depth += usize::from(matches!(instr, Instr::Loop { .. }));
        here
    });
    let depths = depths.collect();
    // Loops that run at least once, outermost first.
    let mut runs: Vec<bool> = Vec::new();
    let certain = stream.iter().map(|instr| {
        if matches!(instr, Instr::EndLoop) {
            runs.pop();
        }
        let here = runs.iter().all(|r| *r);
        if let Instr::Loop { trips, .. } = instr {
            runs.push(trips.is_some_and(|n| n > 0));
        }
        here
    });
    let certain = certain.collect();
    let state = state.iter().filter_map(|r| task::extent(r).ok()).collect();
    let mut stream = Stream { lines: stream.iter().map(line).collect(), depths, certain, state };
    for start in 0..stream.lines.len() {
        let (Instr::Loop { trips: Some(trips), index, carries }, Some(end)) = (&stream.lines[start].instr, loops.partner(start)) else {
            continue;
        };
        let (trips, carries) = (*trips, carries.clone());
        let fenced = (start + 1..end).any(|i| stream.lines[i].instr.is_fence());
        if fenced || !(1..=MAX_TRIPS).contains(&trips) || end - start > MAX_BODY {
            continue;
        }
        let known = scalars::Scalars::of(program, &stream, start, end, trips, index.as_ref());
        let body = Body { start, end, trips };
        stream.make_copies(&body, known);
        stream.elide(&body);
        carries.iter().for_each(|c| stream.drop_initial(&body, c));
    }
    stream.lines
}

/// Fewest trips that repay packing.
const MIN_TRIPS: u64 = 4;

/// The products in the loop between two lines, and in none inside, whose right operand stays the same in all iterations.
pub fn repeated_products(lines: &[Line], start: usize, end: usize) -> Vec<usize> {
    let Instr::Loop { trips: Some(MIN_TRIPS..), .. } = &lines[start].instr else { return Vec::new() };
    let mut inside = 0usize;
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate().take(end).skip(start + 1) {
        inside += usize::from(matches!(line.instr, Instr::Loop { .. }));
        inside -= usize::from(matches!(line.instr, Instr::EndLoop));
        let Instr::Gemm { b, .. } = &line.instr else { continue };
        let Some(operand) = moving(b, line.motion.read(1)).filter(|m| m.step == 0 && inside == 0 && !line.gone) else { continue };
        let changed = lines[start + 1..end].iter().filter(|l| !l.gone).any(|l| {
            let writes = l.instr.writes();
            writes.into_iter().enumerate().any(|(k, w)| moving(w, l.motion.write(k)).is_none_or(|w| w.meets(&operand, l.motion.trips())))
        });
        if !changed {
            found.push(i);
        }
    }
    found
}

/// A counted loop without loops inside: its first and its last line, and how often it runs.
struct Body {
    start: usize,
    end: usize,
    trips: u64,
}

struct Stream {
    lines: Vec<Line>,
    /// Loops around each line.
    depths: Vec<usize>,
    /// Whether each line runs at least once, the first time after all lines before it.
    certain: Vec<bool>,
    state: Vec<Bytes>,
}

impl Stream {
    /// The ranges that a line reads.
    fn reads(&self, i: usize) -> impl Iterator<Item = (usize, Option<Moving>)> + '_ {
        let line = &self.lines[i];
        let regions = if line.gone { Regions::new() } else { line.instr.reads() };
        regions.into_iter().enumerate().map(|(k, r)| (k, moving(r, line.motion.read(k))))
    }

    /// The ranges that a line writes.
    fn writes(&self, i: usize) -> impl Iterator<Item = (usize, Option<Moving>)> + '_ {
        let line = &self.lines[i];
        let regions = if line.gone { Regions::new() } else { line.instr.writes() };
        regions.into_iter().enumerate().map(|(k, r)| (k, moving(r, line.motion.write(k))))
    }

    fn reads_meet(&self, i: usize, range: &Moving, trips: u64) -> bool {
        self.reads(i).any(|(_, r)| r.is_none_or(|r| r.meets(range, trips)))
    }

    fn writes_meet(&self, i: usize, range: &Moving, trips: u64) -> bool {
        self.writes(i).any(|(_, r)| r.is_none_or(|r| r.meets(range, trips)))
    }

    /// Whether a line writes all of a range with one of its results.
    fn covers(&self, i: usize, range: &Moving) -> bool {
        let line = &self.lines[i];
        let whole = |(k, region): (usize, &Region)| {
            let bytes = task::extent(region).ok().filter(|b| b.len() as u64 == region.bytes() && line.motion.write(k) == range.step);
            bytes.is_some_and(|b| b.start <= range.bytes.start && range.bytes.end <= b.end)
        };
        !line.gone && line.instr.writes().into_iter().enumerate().any(whole)
    }

    /// The reads, by line and operand, of what line `at` of the loop leaves in a range that stays; `None` when they cannot all be told.
    fn readers(&self, body: &Body, at: usize, range: &Moving) -> Option<Vec<(usize, usize)>> {
        let mut found = Vec::new();
        let mut rest = vec![range.bytes.clone()];
        for i in at + 1..body.end {
            for (k, r) in self.reads(i) {
                let r = r?.reach(body.trips)?;
                if rest.iter().any(|x| overlap(x, &r)) {
                    // Of what is left of it nobody can tell where it would be.
                    found.push((rest[0] == range.bytes).then_some((i, k))?);
                }
            }
            self.subtract(i, &mut rest);
            if rest.is_empty() {
                return Some(found);
            }
        }
        // In the next iteration, until the line writes it again.
        let mut again = rest.clone();
        let next = self.unread(body.start + 1..at, &mut again, body.trips)
            && (again.is_empty() || self.unread(at..at + 1, &mut again, body.trips));
        (next && self.dead_after(body.end, rest)).then_some(found)
    }

    /// Takes away what a line writes whatever happens.
    fn subtract(&self, i: usize, rest: &mut Vec<Bytes>) {
        let line = &self.lines[i];
        let writes = if line.gone { Regions::new() } else { line.instr.writes() };
        for (_, region) in writes.into_iter().enumerate().filter(|(k, _)| line.motion.write(*k) == 0) {
            let Some(bytes) = task::extent(region).ok().filter(|b| b.len() as u64 == region.bytes()) else { continue };
            let left = |x: &Bytes| x.start..x.end.min(bytes.start).max(x.start);
            let right = |x: &Bytes| x.start.max(bytes.end).min(x.end)..x.end;
            *rest = rest.iter().flat_map(|x| [left(x), right(x)]).filter(|x| !x.is_empty()).collect();
        }
    }

    /// Whether none of these lines, which run one after the other, reads any byte of what is left before it is written.
    fn unread(&self, lines: std::ops::Range<usize>, rest: &mut Vec<Bytes>, trips: u64) -> bool {
        for i in lines {
            let looked_at = |r: Option<Moving>| r.and_then(|r| r.reach(trips)).is_none_or(|r| rest.iter().any(|x| overlap(x, &r)));
            if self.reads(i).any(|(_, r)| looked_at(r)) {
                return false;
            }
            self.subtract(i, rest);
            if rest.is_empty() {
                return true;
            }
        }
        true
    }

    /// Whether nobody behind a line, which is in no loop, reads any byte of these ranges before it is written.
    fn dead_after(&self, line: usize, mut rest: Vec<Bytes>) -> bool {
        if self.depths[line] != 0 {
            return false;
        }
        for i in line + 1..self.lines.len() {
            // What a loop without trips writes it may not write at all, but what it reads counts. A range that moves is compared in all its
            // places.
            let mut seen = rest.clone();
            if !self.unread(i..i + 1, &mut seen, self.lines[i].motion.trips()) {
                return false;
            }
            if self.certain[i] {
                rest = seen;
            }
            if rest.is_empty() {
                return true;
            }
        }
        !self.state.iter().any(|s| rest.iter().any(|x| overlap(s, x)))
    }

    /// Makes copies of the slabs whose places follow from the number of the iteration.
    fn make_copies(&mut self, body: &Body, mut known: scalars::Scalars) {
        for i in body.start + 1..body.end {
            let before = self.lines[i].clone();
            let copy = match &before.instr {
                Instr::DynamicSlice { out, operand, starts } => {
                    known.slab(operand, &out.dims, starts).map(|(slab, step)| (out.clone(), slab, 0, step))
                }
                Instr::DynamicUpdateSlice { out, operand, update, starts } if out == operand => {
                    known.slab(out, &update.dims, starts).map(|(slab, step)| (slab, update.clone(), step, 0))
                }
                _ => None,
            };
            if let Some((out, input, write, read)) = copy.filter(|(out, input, ..)| out.dtype == input.dtype) {
                let motion = Motion { reads: [read].into_iter().collect(), writes: [write].into_iter().collect(), trips: body.trips };
                self.lines[i] = Line { instr: Instr::Copy { out, input }, motion, gone: false };
            }
            known.pass(&before);
        }
    }

    /// Does away with the copies of a loop, and with what nobody reads then.
    fn elide(&mut self, body: &Body) {
        let copies = |s: &Self, i: usize| !s.lines[i].gone && matches!(s.lines[i].instr, Instr::Copy { .. });
        for i in body.start + 1..body.end {
            if copies(self, i) && !self.read_instead(body, i) {
                self.write_instead(body, i);
            }
        }
        for i in (body.start + 1..body.end).rev() {
            let pure = matches!(&self.lines[i].instr, Instr::Copy { .. } | Instr::Map { .. });
            let unread = |(_, range): (usize, Option<Moving>)| {
                range.filter(|r| r.step == 0).is_some_and(|r| self.readers(body, i, &r).is_some_and(|list| list.is_empty()))
            };
            if pure && !self.lines[i].gone && self.writes(i).all(unread) {
                self.lines[i].gone = true;
            }
        }
    }

    /// Lets the readers of a copy read what it copies. Returns whether the copy is gone.
    fn read_instead(&mut self, body: &Body, at: usize) -> bool {
        let Some(edits) = self.source_edits(body, at) else { return false };
        for (line, k, region, step) in edits {
            self.set_read(body, line, k, region, step);
        }
        self.lines[at].gone = true;
        true
    }

    fn source_edits(&self, body: &Body, at: usize) -> Option<Vec<(usize, usize, Region, isize)>> {
        let line = &self.lines[at];
        let Instr::Copy { out, input } = &line.instr else { return None };
        let (range, source) = (moving(out, line.motion.write(0))?, moving(input, line.motion.read(0))?);
        if out == input && range == source {
            return Some(Vec::new());
        }
        if range.step != 0 || range.meets(&source, body.trips) {
            return None;
        }
        let readers = self.readers(body, at, &range)?;
        let last = readers.iter().map(|r| r.0).max().unwrap_or(at);
        if (at + 1..=last).any(|i| self.writes_meet(i, &source, body.trips)) {
            return None;
        }
        let edit = |(i, k): &(usize, usize)| {
            let instr = &self.lines[*i].instr;
            // What an update works on in place it would have to copy.
            let whole = matches!(instr, Instr::DynamicUpdateSlice { .. } | Instr::Scatter { .. }) && *k == 0;
            let read = instr.reads().get(*k).copied().filter(|_| !whole && readable(instr))?;
            Some((*i, *k, translated(read, out, input)?, source.step))
        };
        readers.iter().map(edit).collect()
    }

    /// Lets the maker of what a copy copies write it where the copy would. Returns whether the copy is gone.
    fn write_instead(&mut self, body: &Body, at: usize) -> bool {
        let Some((maker, k, region, edits)) = self.dest_edits(body, at) else { return false };
        let step = self.lines[at].motion.write(0);
        for (line, k, region) in edits {
            self.set_read(body, line, k, region, step);
        }
        self.prepare_motion(body, maker);
        let line = &mut self.lines[maker];
        if let Some(out) = line.instr.writes_mut().into_iter().nth(k) {
            *out = region;
        }
        Motion::set(&mut line.motion.writes, k, step);
        self.lines[at].gone = true;
        true
    }

    #[allow(clippy::type_complexity)]
    fn dest_edits(&self, body: &Body, at: usize) -> Option<(usize, usize, Region, Vec<(usize, usize, Region)>)> {
        let line = &self.lines[at];
        let Instr::Copy { out, input } = &line.instr else { return None };
        let (dest, source) = (moving(out, line.motion.write(0))?, moving(input, line.motion.read(0))?);
        if source.step != 0 || dest.meets(&source, body.trips) {
            return None;
        }
        let maker = (body.start + 1..at).rev().find(|i| self.writes_meet(*i, &source, body.trips))?;
        if !self.covers(maker, &source) || !writable(&self.lines[maker].instr) {
            return None;
        }
        let writes = self.lines[maker].instr.writes();
        let k = self.writes(maker).find(|(_, r)| r.as_ref().is_some_and(|r| r.meets(&source, body.trips)))?.0;
        let made = *writes.get(k)?;
        // Nobody may look at the destination too early, and it may not lie between other results or be read while it is written.
        let others = self.writes(maker).any(|(j, r)| j != k && r.is_none_or(|r| r.meets(&dest, body.trips)));
        let early = (maker + 1..at).any(|i| self.reads_meet(i, &dest, body.trips) || self.writes_meet(i, &dest, body.trips));
        if made.bytes() != input.bytes() || others || early || self.reads_meet(maker, &dest, body.trips) {
            return None;
        }
        let readers = self.readers(body, maker, &source)?;
        let last = readers.iter().map(|r| r.0).max().unwrap_or(at);
        if (at + 1..=last).any(|i| self.writes_meet(i, &dest, body.trips)) {
            return None;
        }
        let region = translated(made, input, out)?;
        let edit = |(i, k): &(usize, usize)| {
            let instr = &self.lines[*i].instr;
            let whole = matches!(instr, Instr::DynamicUpdateSlice { .. } | Instr::Scatter { .. }) && *k == 0;
            let read = instr.reads().get(*k).copied().filter(|_| !whole && readable(instr))?;
            Some((*i, *k, translated(read, input, out)?))
        };
        let edits = readers.iter().filter(|(i, _)| *i != at).map(edit).collect::<Option<Vec<_>>>()?;
        Some((maker, k, region, edits))
    }

    /// Gives every region of a line a step.
    fn prepare_motion(&mut self, body: &Body, i: usize) {
        let line = &mut self.lines[i];
        line.motion.reads.resize(line.instr.reads().len(), 0);
        line.motion.writes.resize(line.instr.writes().len(), 0);
        line.motion.trips = body.trips;
    }

    fn set_read(&mut self, body: &Body, i: usize, k: usize, region: Region, step: isize) {
        self.prepare_motion(body, i);
        let line = &mut self.lines[i];
        if let Some(read) = line.instr.reads_mut().into_iter().nth(k) {
            *read = region;
        }
        Motion::set(&mut line.motion.reads, k, step);
    }

    /// Does away with what a carried stack is filled with before a loop that writes all of it, slab after slab, before it reads any.
    fn drop_initial(&mut self, body: &Body, carry: &Region) {
        let Some(whole) = moving(carry, 0).filter(|m| m.bytes.len() as u64 == carry.bytes()) else { return };
        if self.depths[body.start] != 0 || !self.fills(body, &whole.bytes) {
            return;
        }
        for i in (0..body.start).rev() {
            let trips = self.lines[i].motion.trips();
            if self.reads_meet(i, &whole, trips) || (self.depths[i] != 0 && self.writes_meet(i, &whole, trips)) {
                return;
            }
            if self.writes_meet(i, &whole, trips) {
                let pure = matches!(self.lines[i].instr, Instr::Copy { .. } | Instr::Fill { .. } | Instr::Constant { .. });
                let inside =
                    self.writes(i).all(|(_, r)| r.is_some_and(|r| whole.bytes.start <= r.bytes.start && r.bytes.end <= whole.bytes.end));
                let complete = self.covers(i, &whole);
                if pure && inside {
                    let source = self.reads(i).find_map(|(_, r)| r);
                    self.lines[i].gone = true;
                    source.into_iter().for_each(|s| self.drop_unread(i, &s));
                }
                if complete || !(pure && inside) {
                    return;
                }
            }
        }
    }

    /// Does away with the copy or constant before line `before` that made a range, when nobody reads it any more.
    fn drop_unread(&mut self, before: usize, range: &Moving) {
        let Some(maker) = (0..before).rev().find(|i| self.writes_meet(*i, range, self.lines[*i].motion.trips())) else { return };
        let pure = matches!(self.lines[maker].instr, Instr::Copy { .. } | Instr::Fill { .. } | Instr::Constant { .. });
        let made = self.writes(maker).find_map(|(_, r)| r);
        if pure && made.is_some_and(|m| m.step == 0 && self.dead_after(maker, vec![m.bytes])) {
            self.lines[maker].gone = true;
        }
    }

    /// Whether a loop writes all of a range, a slab an iteration, and reads of it only slabs that it has written.
    fn fills(&self, body: &Body, whole: &Bytes) -> bool {
        let still = Moving::still(whole.clone());
        let inside = body.start + 1..body.end;
        let Some(first) = inside.clone().find(|i| self.writes_meet(*i, &still, body.trips)) else { return false };
        let mut slabs = self.writes(first).filter_map(|(_, r)| r).filter(|r| r.meets(&still, body.trips));
        let (Some(slab), None) = (slabs.next(), slabs.next()) else { return false };
        let length = slab.bytes.len() as u64;
        let edge = if slab.step > 0 { slab.bytes.start == whole.start } else { slab.bytes.end == whole.end };
        let next = body.trips == 1 || slab.step.unsigned_abs() as u64 == length;
        let tiles = next && length * body.trips == whole.len() as u64 && edge;
        let own = |r: &Moving| r.step == slab.step && slab.bytes.start <= r.bytes.start && r.bytes.end <= slab.bytes.end;
        let known = |i: usize| {
            let read = self.reads(i).all(|(_, r)| r.is_some_and(|r| !r.meets(&still, body.trips) || (i > first && own(&r))));
            read && self.writes(i).all(|(_, r)| r.is_some_and(|r| !r.meets(&still, body.trips) || own(&r)))
        };
        tiles && self.covers(first, &slab) && inside.clone().all(known)
    }
}

/// The bytes of a region that moves.
fn moving(region: &Region, step: isize) -> Option<Moving> {
    Some(Moving { bytes: task::extent(region).ok()?, step })
}

/// Whether any region will do as an operand.
fn readable(instr: &Instr) -> bool {
    let plain = matches!(instr, Instr::Map { .. } | Instr::Gemm { .. } | Instr::Copy { .. } | Instr::Concat { .. } | Instr::Reduce { .. });
    plain || matches!(instr, Instr::DynamicUpdateSlice { .. } | Instr::DynamicSlice { .. } | Instr::Attention { .. })
}

/// Whether any region will do as a result.
fn writable(instr: &Instr) -> bool {
    let products = matches!(instr, Instr::Gemm { .. } | Instr::Attention { .. });
    products || matches!(instr, Instr::Map { .. } | Instr::Copy { .. } | Instr::Concat { .. } | Instr::Reduce { .. })
}

/// A part of `from`, said in terms of `to`, which shows the same elements elsewhere. `None` when they do not lie in long enough runs, or not
/// regularly there.
fn translated(part: &Region, from: &Region, to: &Region) -> Option<Region> {
    if part.dtype != from.dtype || from.dtype != to.dtype || from.dims != to.dims {
        return None;
    }
    // Extent, stride of `from`, stride of `to`; outermost first.
    let mut walk: SmallVec<[(i64, i64, i64); 6]> = SmallVec::new();
    let mut order: SmallVec<[usize; 6]> = (0..from.dims.len()).filter(|d| from.dims[*d] > 1).collect();
    order.sort_by_key(|d| std::cmp::Reverse(from.strides[*d]));
    for d in order {
        let (extent, s, t) = (from.dims[d] as i64, from.strides[d], to.strides[d]);
        match walk.last_mut() {
            Some(outer) if outer.1 == s * extent && outer.2 == t * extent => *outer = (outer.0 * extent, s, t),
            _ => walk.push((extent, s, t)),
        }
    }
    let apart = walk.windows(2).all(|w| w[0].1 >= w[1].1 * w[1].0) && walk.iter().all(|w| w.1 > 0 && w.2 > 0);
    let size = from.dtype.size() as i64;
    if !apart || walk.last().is_some_and(|w| w.1 != 1 || w.2 != 1 || w.0 * size < MIN_RUN as i64) {
        return None;
    }
    let steps = |mut at: i64| -> Option<SmallVec<[i64; 6]>> {
        let list = walk.iter().map(|(_, s, _)| {
            let n = at / s;
            at -= n * s;
            n
        });
        let list: SmallVec<[i64; 6]> = list.collect();
        (at == 0).then_some(list)
    };
    let shift = i64::try_from(part.offset).ok()? - i64::try_from(from.offset).ok()?;
    if shift < 0 || shift % size != 0 {
        return None;
    }
    let first = steps(shift / size)?;
    let mut reach = first.clone();
    let mut strides: SmallVec<[i64; 6]> = SmallVec::new();
    for (extent, stride) in part.dims.iter().zip(&part.strides) {
        if *extent <= 1 || *stride == 0 {
            strides.push(0);
            continue;
        }
        let list = if *stride > 0 { steps(*stride)? } else { return None };
        let (d, n) = list.iter().enumerate().find(|(_, n)| **n != 0)?;
        if list.iter().filter(|n| **n != 0).count() > 1 {
            return None;
        }
        reach[d] += (*extent as i64 - 1) * n;
        strides.push(n * walk[d].2);
    }
    if reach.iter().zip(&walk).any(|(r, w)| *r >= w.0) {
        return None;
    }
    let shift: i64 = first.iter().zip(&walk).map(|(n, w)| n * w.2).sum();
    Some(Region { offset: to.offset.checked_add_signed(shift * size)?, dtype: to.dtype, dims: part.dims.clone(), strides })
}

/// The part of a region at some starts, when it has all the rest.
fn part_at(region: &Region, dims: &Dims, starts: &[i64]) -> Option<Region> {
    let fits = region.dims.len() == dims.len() && starts.len() == dims.len() && region.strides.len() == dims.len();
    if !fits || dims.iter().zip(&region.dims).any(|(d, e)| d > e) {
        return None;
    }
    let clamped: Vec<usize> = (0..dims.len()).map(|d| starts[d].clamp(0, (region.dims[d] - dims[d]) as i64) as usize).collect();
    Some(region.sub(&clamped, dims))
}

#[cfg(test)]
mod tests;
