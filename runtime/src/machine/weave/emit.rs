//! Keeping an instruction: where its operands are, what its results overwrite, and the copies that this takes.
//!
//! What a die believes to lie somewhere need not be there, as long as it is somewhere. So an operand is read wherever the same bytes lie
//! in the same way; only where there is no such place they are brought to where the die has them. And before bytes are overwritten that some
//! die still believes to have elsewhere, and that lie nowhere else, they are brought there.

use super::Weaver;
use super::contents::{Content, ENDLESS, Map, clip};
use super::lives::ALWAYS;
use super::loops::Frame;
use super::runs::{AT, Comb, LOST, OFF, Patch, Runs, TO, Val};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::program::{FusedId, Instr, Region};
use girih_ir::scalar::Monoid;
use girih_ir::types::DType;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// A place that a die was given bytes of a value at.
#[derive(Clone, Debug)]
struct Spot {
    runs: Runs,
    die: usize,
    /// Position up to which the die reads them there.
    until: u32,
}

/// A place that bytes of a value were written to, and that may have them still.
#[derive(Clone, Debug)]
struct Holder {
    runs: Runs,
    /// Which rows of the image are there.
    image: Comb,
}

impl Holder {
    /// Where byte `off` of the image is.
    fn address(&self, off: u64) -> Option<u64> {
        let at = off.checked_sub(self.image.at)?;
        if self.image.rows == 1 {
            return self.runs.byte(at);
        }
        let (row, col) = (at / self.image.pitch, at % self.image.pitch);
        if row < self.image.rows && col < self.image.len { self.runs.byte(row * self.image.len + col) } else { None }
    }

    /// What of a patch is there, with its addresses as `AT`, and what is not.
    fn clip(&self, patch: &Patch, out: &mut Vec<Patch>, rest: &mut Vec<Patch>) {
        let Comb { at: first, rows, len, pitch } = self.image;
        let (off, step) = (patch.start[OFF], patch.pitch[OFF]);
        if rows == 1 {
            let (grid, end) = (if patch.rows > 1 { step } else { ENDLESS }, (first + len).saturating_sub(off));
            let first_own = first.saturating_sub(off);
            let part = |range: Range<u64>, to: &mut Vec<Patch>| {
                clip(&(0..patch.rows), &(0..patch.len), grid, &range, &mut |r, c| to.push(patch.window(r, c)));
            };
            part(0..first_own, rest);
            part(end.max(first_own)..ENDLESS, rest);
            let known = out.len();
            part(first_own..end.max(first_own), out);
            for p in &mut out[known..] {
                // Counted in the holder.
                (p.start[AT], p.pitch[AT]) = (p.start[OFF] - first, p.pitch[OFF]);
            }
            return;
        }
        if patch.rows > 1 && step != pitch {
            return (0..patch.rows).for_each(|r| self.clip(&patch.window(r..r + 1, 0..patch.len), out, rest));
        }
        if patch.rows == 1 && patch.len > pitch {
            // In rows of the image, the first and the last of which may be cut.
            let head = (pitch - (off + pitch - first % pitch) % pitch) % pitch;
            let head = head.min(patch.len);
            let full = (patch.len - head) / pitch;
            let mut piece = |range: Range<u64>, rows: u64| {
                if !range.is_empty() {
                    let mut p = patch.window(0..1, range.clone());
                    if rows > 1 {
                        (p.rows, p.len, p.pitch) = (rows, pitch, [pitch; 3]);
                    }
                    self.clip_rows(&p, out, rest);
                }
            };
            piece(0..head, 1);
            piece(head..head + full * pitch, full);
            piece(head + full * pitch..patch.len, 1);
            return;
        }
        self.clip_rows(patch, out, rest);
    }

    /// The same for rows of the distance of those of the image.
    fn clip_rows(&self, patch: &Patch, out: &mut Vec<Patch>, rest: &mut Vec<Patch>) {
        let Comb { at: first, rows, len, pitch } = self.image;
        let ahead = i128::from(patch.start[OFF]) - i128::from(first);
        let (row, col) = (ahead.div_euclid(i128::from(pitch)), ahead.rem_euclid(i128::from(pitch)) as u64);
        let low = (-row).clamp(0, i128::from(patch.rows)) as u64;
        let high = (i128::from(rows) - row).clamp(0, i128::from(patch.rows)) as u64;
        if col + patch.len > pitch {
            let border = pitch - col;
            self.clip_rows(&patch.window(0..patch.rows, 0..border), out, rest);
            return self.clip_rows(&patch.window(0..patch.rows, border..patch.len), out, rest);
        }
        if low >= high || col >= len {
            return rest.push(*patch);
        }
        let cols = patch.len.min(len - col);
        let part = |r: Range<u64>, c: Range<u64>, to: &mut Vec<Patch>| {
            if !r.is_empty() && !c.is_empty() {
                to.push(patch.window(r, c));
            }
        };
        part(0..low, 0..patch.len, rest);
        part(high..patch.rows, 0..patch.len, rest);
        part(low..high, cols..patch.len, rest);
        let mut inside = patch.window(low..high, 0..cols);
        inside.start[AT] = (row + i128::from(low)) as u64 * len + col;
        inside.pitch[AT] = if inside.rows > 1 { len } else { 0 };
        out.push(inside);
    }
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
pub struct Value {
    len: u64,
    /// Places that it was written to, and that may have it still.
    holders: Vec<Holder>,
    /// Places where dies believe to have it, or believed.
    refs: Vec<Spot>,
}

impl Value {
    /// The same value, of which nobody knows where it is.
    pub fn forgotten(&self) -> Value {
        Value { len: self.len, ..Value::default() }
    }
}

/// An instruction of a die.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub die: usize,
    pub index: usize,
}

/// An instruction that is to be run next, in terms of the common memory.
#[derive(Debug)]
pub struct Member {
    pub origin: Origin,
    pub instr: Instr,
    /// Queues of dies whose heads are done with it; without, the die goes on to its next instruction.
    pub pops: Vec<(usize, usize)>,
}

/// Evictions that make room for evictions, at most.
const DEPTH: usize = 4;
/// Places that are looked at for an operand, at most.
const PLACES: usize = 24;

impl Weaver<'_> {
    pub fn fresh(&mut self) -> Val {
        self.values.push(Value::default());
        (self.values.len() - 1) as Val
    }

    /// A die has this value in these runs now, in its own view.
    pub fn put(&mut self, runs: &Runs, val: Val, at: (usize, u32)) {
        let value = &mut self.values[val as usize];
        value.len = value.len.max(runs.bytes());
        self.refer(runs, val, at);
        for (before, comb) in runs.combs() {
            self.believe(&image_at(val, before, &comb), at.0);
        }
    }

    fn refer(&mut self, runs: &Runs, val: Val, (die, until): (usize, u32)) {
        if let Some(value) = self.values.get_mut(val as usize) {
            value.refs.push(Spot { runs: runs.clone(), die, until });
        }
    }

    /// In the view of a die, the patch lies where it is shown.
    fn believe(&mut self, patch: &Patch, die: usize) {
        let (values, cursors) = (&self.values, &self.cursors);
        let wanted = |s: &Spot| s.die == die && s.until as usize >= cursors[die].pc;
        let alive = |val: Val| values.get(val as usize).is_some_and(|v| v.refs.iter().any(wanted));
        self.logical.set(patch, &alive);
    }

    /// The patch really lies where it is shown.
    fn really(&mut self, patch: &Patch) {
        let (values, cursors) = (&self.values, &self.cursors);
        let wanted = |s: &Spot| s.until as usize >= cursors[s.die].pc;
        let alive = |val: Val| values.get(val as usize).is_some_and(|v| v.refs.iter().any(wanted));
        self.physical.set(patch, &alive);
    }

    /// A value lies in these runs now.
    pub fn place(&mut self, runs: &Runs, val: Val) {
        let value = &mut self.values[val as usize];
        value.len = value.len.max(runs.bytes());
        value.holders.push(Holder { runs: runs.clone(), image: flat(0, runs.bytes()) });
        for (before, comb) in runs.combs() {
            self.really(&image_at(val, before, &comb));
        }
        self.note_written(runs);
    }

    /// In the view of a die, what is in some runs is in others as well.
    pub fn carry(&mut self, from: &Runs, to: &Runs, at: (usize, u32)) -> Option<()> {
        let content = self.logical.content(from);
        if from.bytes() != to.bytes() {
            return None;
        }
        let mut vals: Vec<Val> = content.iter().map(|p| p.val).collect();
        vals.sort_unstable();
        vals.dedup();
        vals.into_iter().for_each(|val| self.refer(to, val, at));
        let mut places = Vec::new();
        content.iter().for_each(|p| to.place(p, &mut places));
        places.iter().for_each(|p| self.believe(p, at.0));
        Some(())
    }

    /// The fused program that combines two operands.
    pub fn combiner(&mut self, monoid: Monoid, dtype: DType) -> FusedId {
        let body = vec![Expr::Input(0), Expr::Input(1), Expr::Binary(monoid.function(), 0, 1)];
        let program = FusedProgram { inputs: vec![dtype; 2], body, outputs: vec![2] };
        let found = self.fused.iter().position(|f| **f == program);
        FusedId::new(found.unwrap_or_else(|| {
            self.fused.push(Arc::new(program));
            self.fused.len() - 1
        }))
    }

    /// One number for what lies somewhere: the value, or a value for all the pieces.
    pub fn number(&mut self, content: &Content) -> Val {
        if let [piece] = content[..]
            && piece.val != 0
            && piece.rows == 1
            && piece.start[OFF] == 0
            && self.values.get(piece.val as usize).is_some_and(|v| v.len == piece.len)
        {
            return piece.val;
        }
        if let Some(val) = self.contents.get(content) {
            return *val;
        }
        let val = self.fresh();
        self.contents.insert(content.clone(), val);
        val
    }

    /// What dies believe to lie in some runs; `None` when that was forgotten.
    pub fn believed(&self, runs: &Runs) -> Option<Content> {
        let content = self.logical.content(runs);
        content.iter().all(|p| p.val != LOST).then_some(content)
    }

    /// The instruction with values in place of addresses, and what it reads; `None` when that was forgotten.
    fn key(&mut self, instr: &Instr) -> Option<(Instr, Vec<(Runs, Content)>)> {
        let mut reads = Vec::new();
        for region in instr.reads() {
            let runs = Runs::around(region)?;
            let content = self.believed(&runs)?;
            reads.push((runs, content));
        }
        let mut key = instr.clone();
        for (region, (_, content)) in key.reads_mut().into_iter().zip(&reads) {
            region.offset = u64::from(self.number(content));
        }
        key.writes_mut().into_iter().for_each(|r| r.offset = 0);
        Some((key, reads))
    }

    /// Runs instructions of several dies that come next: each once.
    pub fn together(&mut self, members: Vec<Member>) -> Option<()> {
        type Group = (Instr, Vec<(Runs, Content)>, Vec<usize>);
        let mut groups: Vec<Group> = Vec::new();
        for (i, member) in members.iter().enumerate() {
            let (key, reads) = self.key(&member.instr)?;
            match groups.iter_mut().find(|g| g.0 == key) {
                Some(group) => group.2.push(i),
                None => groups.push((key, reads, vec![i])),
            }
        }
        for (key, reads, list) in groups {
            let known = self.table.get(&key).cloned().filter(|_| !matches!(key, Instr::Store { .. }));
            let at_hand = |w: &Self, v: &Val| {
                let whole = Patch::new(*v, (1, w.values[*v as usize].len), (0, 0), (0, 0));
                w.find(&whole, &Map::default()).is_some()
            };
            let vals = match &known {
                Some(vals) => vals.clone(),
                None => key.writes().iter().map(|_| self.fresh()).collect(),
            };
            if known.is_some() && vals.iter().all(|v| at_hand(self, v)) {
                list.iter().try_for_each(|m| self.settle(&members[*m], &vals))?;
            } else {
                self.keep(&members, &list, &reads, &vals)?;
                self.table.insert(key, vals);
            }
        }
        Some(())
    }

    /// In the view of its die the instruction is done.
    fn settle(&mut self, member: &Member, vals: &[Val]) -> Option<()> {
        let Origin { die, index } = member.origin;
        for (k, (region, val)) in member.instr.writes().into_iter().zip(vals).enumerate() {
            let until = *self.codes[die].lives.writes[index].get(k)?;
            self.put(&Runs::of(region)?, *val, (die, until));
        }
        match &member.pops[..] {
            [] => self.cursors[die].pc += 1,
            pops => pops.iter().for_each(|(d, q)| self.cursors[*d].complete(*q)),
        }
        Some(())
    }

    /// Keeps the first of some equal instructions.
    fn keep(&mut self, members: &[Member], list: &[usize], reads: &[(Runs, Content)], vals: &[Val]) -> Option<()> {
        let leader = &members[*list.first()?];
        let in_place = matches!(leader.instr, Instr::DynamicUpdateSlice { .. } | Instr::Scatter { .. });
        let mut shifts: SmallVec<[i64; 4]> = SmallVec::new();
        for _ in 0..DEPTH {
            shifts.clear();
            for (k, (runs, content)) in reads.iter().enumerate() {
                let size = leader.instr.reads()[k].dtype.size() as i64;
                let own = in_place && k == 0;
                let mut found = self.resolve(runs, content, (own, size));
                if found.is_none() {
                    self.quiet = self.note_brought(runs, content);
                    let avoid: Vec<Range<u64>> = reads.iter().map(|r| r.0.span()).collect();
                    let brought = match self.crowded(runs, content) && !own {
                        true => self.aside_of(runs, &avoid).and_then(|by| Some((by, runs.shifted(by)?))),
                        false => Some((0, runs.clone())),
                    };
                    let done = brought.and_then(|(by, to)| self.bring(&to, content, leader.origin).map(|()| by));
                    self.quiet = false;
                    found = Some(done?);
                }
                shifts.push(found.unwrap_or(0));
            }
            let there =
                |(shift, (runs, content)): (&i64, &(Runs, Content))| runs.shifted(*shift).is_some_and(|r| self.physical.holds(&r, content));
            if shifts.iter().zip(reads).all(there) {
                break;
            }
        }
        let operands: Vec<Runs> = shifts.iter().zip(reads).map(|(s, (r, _))| r.shifted(*s)).collect::<Option<_>>()?;
        if !operands.iter().zip(reads).all(|(r, (_, content))| self.physical.holds(r, content)) {
            return None;
        }
        for member in list {
            self.settle(&members[*member], vals)?;
        }
        let mut outs: Vec<Runs> = leader.instr.writes().into_iter().map(Runs::of).collect::<Option<_>>()?;
        let mut avoid: Vec<Range<u64>> = operands.iter().map(Runs::span).collect();
        avoid.extend(outs.iter().map(Runs::span));
        let mut instr = leader.instr.clone();
        for (region, shift) in instr.reads_mut().into_iter().zip(&shifts) {
            region.offset = region.offset.checked_add_signed(*shift)?;
        }
        let Origin { die, index } = leader.origin;
        let own = banned(outs.iter().flat_map(Runs::combs).map(|c| c.1));
        for (k, region) in instr.writes_mut().into_iter().enumerate() {
            let stays = in_place || !self.frames.is_empty() || self.codes[die].lives.writes[index].get(k) == Some(&ALWAYS);
            if !stays && outs[k].is_mostly_full() && self.matters(&outs[k..=k], &own) {
                // Where nobody has anything, nothing has to be saved.
                let by = self.aside_of(&outs[k], &avoid)?;
                outs[k] = outs[k].shifted(by)?;
                region.offset = region.offset.checked_add_signed(by)?;
                avoid.push(outs[k].span());
            }
        }
        self.clear(&outs, &Map::default(), &avoid, (leader.origin, 0))?;
        self.push(instr, leader.origin);
        for (out, val) in outs.iter().zip(vals) {
            self.place(out, *val);
        }
        Some(())
    }

    /// Whether something lies in some runs that is wanted and lies nowhere but where it is banned.
    fn matters(&mut self, runs: &[Runs], banned: &Map) -> bool {
        let vals = self.lying(runs);
        vals.into_iter().any(|val| self.wanted(val, banned).is_some())
    }

    /// Whether most of an operand would have to be brought to where something lies that would have to be saved.
    fn crowded(&mut self, runs: &Runs, content: &Content) -> bool {
        let missing: Vec<Patch> = self.parts_there(runs, content).1;
        let goal: Vec<Runs> = missing.iter().map(|part| runs_at(part, TO)).collect();
        let bytes: u64 = missing.iter().map(Patch::bytes).sum();
        let own = banned(missing.iter().map(|part| part.comb(TO)));
        self.frames.is_empty() && 2 * bytes >= runs.bytes() && runs.is_mostly_full() && self.matters(&goal, &own)
    }

    /// The values that lie in some runs.
    fn lying(&self, runs: &[Runs]) -> Vec<Val> {
        let mut vals: Vec<Val> = Vec::new();
        for (_, comb) in runs.iter().flat_map(Runs::combs) {
            self.physical.look(&comb, &mut |p| vals.push(p.val));
        }
        vals.sort_unstable();
        vals.dedup();
        vals.retain(|v| *v != 0 && *v != LOST);
        vals
    }

    pub fn push(&mut self, instr: Instr, origin: Origin) {
        self.out.push(instr);
        self.origin.push((origin.die as u32, origin.index as u32));
    }

    /// How far from its place an operand can be read.
    fn resolve(&mut self, runs: &Runs, content: &Content, (own, size): (bool, i64)) -> Option<i64> {
        if runs.bytes() == 0 || (own && self.physical.holds(runs, content)) {
            return Some(0);
        }
        let first = *content.first()?;
        let number = self.number(content);
        let whole = (number != first.val).then_some((number, 0));
        for (val, off) in whole.into_iter().chain([(first.val, first.start[OFF])]).filter(|v| v.0 != 0) {
            let mut tried = 0;
            for holder in &self.values.get(val as usize)?.holders {
                let Some(at) = holder.address(off) else { continue };
                let shift = at as i64 - runs.start as i64;
                let here = || self.physical.compare(&Patch::new(first.val, (1, 1), (at, 0), (first.start[OFF], 0))).1.is_empty();
                if shift % size != 0 || !here() {
                    continue;
                }
                if runs.shifted(shift).is_some_and(|r| self.physical.holds(&r, content)) {
                    return Some(shift);
                }
                tried += 1;
                if tried == PLACES {
                    break;
                }
            }
        }
        self.physical.holds(runs, content).then_some(0)
    }

    /// Where the bytes of a patch lie, as parts with their addresses as `AT`, none of them banned.
    fn find(&self, patch: &Patch, banned: &Map) -> Option<Vec<Patch>> {
        let (mut found, mut missing) = (Vec::new(), vec![*patch]);
        let check = |places: Vec<Patch>, found: &mut Vec<Patch>, missing: &mut Vec<Patch>| {
            for place in places {
                let (same, other) = self.physical.compare(&place);
                missing.extend(other);
                for part in same {
                    let free = banned.free(&part);
                    if free[..] == [part] {
                        found.push(part);
                        continue;
                    }
                    let taken: u64 = part.bytes() - free.iter().map(Patch::bytes).sum::<u64>();
                    found.extend(free);
                    if taken > 0 {
                        // Whatever is banned is looked for elsewhere.
                        banned.taken(&part).into_iter().for_each(|p| missing.push(p));
                    }
                }
            }
        };
        if patch.val == 0 {
            let mut place = *patch;
            (place.start[AT], place.pitch[AT]) = (place.start[OFF], place.pitch[OFF]);
            missing.clear();
            check(vec![place], &mut found, &mut missing);
            return missing.is_empty().then_some(found);
        }
        for holder in &self.values.get(patch.val as usize)?.holders {
            let (mut inside, mut rest, mut places) = (Vec::new(), Vec::new(), Vec::new());
            missing.iter().for_each(|m| holder.clip(m, &mut inside, &mut rest));
            inside.iter().for_each(|p| holder.runs.place(p, &mut places));
            missing = rest;
            check(places, &mut found, &mut missing);
            if missing.is_empty() {
                return Some(found);
            }
        }
        patch.bytes().eq(&0).then_some(found)
    }

    /// Brings bytes to where a die believes to have them.
    pub fn bring(&mut self, runs: &Runs, content: &Content, origin: Origin) -> Option<()> {
        let (there, missing) = self.parts_there(runs, content);
        let avoid = [runs.span()];
        let goal: Vec<Runs> = missing.iter().map(|part| runs_at(part, TO)).collect();
        self.clear(&goal, &Map::default(), &avoid, (origin, 0))?;
        let into = banned(missing.iter().map(|m| m.comb(TO)));
        let mut moves = Vec::new();
        for part in &missing {
            moves.extend(self.find(part, &into)?);
        }
        let span = runs.span();
        if runs.bytes() == span.end - span.start && !missing.is_empty() {
            // Nothing else is left there.
            self.physical.set(&Patch::new(LOST, (1, runs.bytes()), (span.start, 0), (0, 0)), &|_| false);
            there.iter().for_each(|p| self.physical.set(p, &|_| true));
        }
        self.relocate(&moves, origin);
        let number = self.number(content);
        if content.len() > 1 || content.iter().any(|p| p.rows > 1) {
            self.values[number as usize].holders.push(Holder { runs: runs.clone(), image: flat(0, runs.bytes()) });
        }
        Some(())
    }

    /// Which parts of a content lie in some runs as they should, and which do not.
    fn parts_there(&self, runs: &Runs, content: &Content) -> (Vec<Patch>, Vec<Patch>) {
        let (mut places, mut there, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        content.iter().for_each(|p| runs.place(p, &mut places));
        for place in &places {
            let (same, other) = self.physical.compare(&place.stays());
            there.extend(same);
            missing.extend(other);
        }
        (there, missing)
    }

    /// Copies bytes.
    fn relocate(&mut self, moves: &[Patch], origin: Origin) {
        for (instr, holders) in copies(moves) {
            self.push(instr, origin);
            for (val, holder) in holders.into_iter().filter(|h| h.0 != 0) {
                self.values[val as usize].holders.push(holder);
            }
        }
        for m in moves {
            let mut there = *m;
            (there.start[AT], there.pitch[AT]) = (m.start[TO], m.pitch[TO]);
            self.really(&there.normal());
            if !self.quiet {
                self.note_written(&runs_at(m, TO));
            }
        }
    }

    /// Saves what lies in some runs, and nowhere else, and is still believed to be in other places: there, or behind all dies when that place
    /// is to be avoided. What is doomed is overwritten soon, too.
    pub fn clear(&mut self, goal: &[Runs], doomed: &Map, avoid: &[Range<u64>], (origin, depth): (Origin, usize)) -> Option<()> {
        if goal.is_empty() {
            return Some(());
        }
        let mut own = doomed.clone();
        goal.iter().flat_map(Runs::combs).for_each(|(_, comb)| own.ban(&comb));
        let kept: Vec<Range<u64>> = avoid.iter().cloned().chain(goal.iter().map(Runs::span)).collect();
        for val in self.lying(goal) {
            while let Some(mut parts) = self.wanted(val, &own) {
                self.within_reason()?;
                let (mut moves, mut there, mut kept) = (Vec::new(), Vec::new(), kept.clone());
                for part in &mut parts {
                    let span = part.comb(TO).span();
                    let bad = |r: &Range<u64>| r.start < span.end && span.start < r.end;
                    if avoid.iter().any(bad) || depth == DEPTH || self.unstable(span.clone()) {
                        let aside = self.aside(part.bytes(), &kept);
                        (part.start[TO], part.pitch[TO]) = (aside, if part.rows > 1 { part.len } else { 0 });
                        kept.push(aside..aside + part.bytes());
                    } else {
                        there.push(runs_at(part, TO));
                    }
                }
                self.clear(&there, &own, &kept, (origin, depth + 1))?;
                let into = banned(parts.iter().map(|p| p.comb(TO)));
                for part in &parts {
                    moves.extend(self.find(part, &into)?);
                }
                self.relocate(&moves, origin);
            }
        }
        Some(())
    }

    /// Room behind all dies, outside of some ranges.
    pub fn aside(&mut self, len: u64, avoid: &[Range<u64>]) -> u64 {
        let len = len.next_multiple_of(64);
        let since = self.frames.last().map_or(0, Frame::top);
        let near: Vec<(u64, u64)> =
            self.rooms.range(len..=len + len / 4).flat_map(|(n, list)| list.iter().rev().map(|at| (*n, *at))).collect();
        let free = |(n, at): &&(u64, u64)| {
            let range = *at..*at + *n;
            let met = avoid.iter().any(|r| r.start < range.end && range.start < r.end);
            let mut wanted = false;
            self.physical.look(&flat(range.start, len), &mut |p| wanted |= self.is_wanted(p.val));
            *at >= since && !met && !wanted
        };
        if let Some((_, at)) = near.iter().take(PLACES).find(free) {
            return *at;
        }
        let at = self.top;
        self.top += len;
        self.rooms.entry(len).or_default().push(at);
        at
    }

    /// Whether any die reads the value later.
    fn is_wanted(&self, val: Val) -> bool {
        let wanted = |s: &Spot| s.until as usize >= self.cursors[s.die].pc;
        self.values.get(val as usize).is_some_and(|v| v.refs.iter().any(wanted))
    }

    /// What the first place wants of a value that lies nowhere but where it is banned, to be brought there.
    fn wanted(&mut self, val: Val, banned: &Map) -> Option<Vec<Patch>> {
        let mut refs = std::mem::take(&mut self.values.get_mut(val as usize)?.refs);
        refs.retain(|spot| spot.until as usize >= self.cursors[spot.die].pc);
        let mut found = None;
        for spot in &refs {
            if self.within_reason().is_none() {
                break;
            }
            let mut wants = Vec::new();
            for piece in self.logical.content(&spot.runs).iter().filter(|p| p.val == val) {
                if self.find(piece, banned).is_some() {
                    continue;
                }
                let mut places = Vec::new();
                spot.runs.place(piece, &mut places);
                for place in places.iter().map(|p| p.stays()) {
                    wants.extend(self.unfound(&place, banned));
                }
            }
            if !wants.is_empty() {
                found = Some(wants);
                break;
            }
        }
        self.values[val as usize].refs = refs;
        found
    }

    /// The parts of a patch that lie nowhere but where it is banned.
    fn unfound(&self, patch: &Patch, banned: &Map) -> Vec<Patch> {
        let mut missing = vec![*patch];
        let Some(value) = self.values.get(patch.val as usize) else { return missing };
        for holder in &value.holders {
            let (mut inside, mut rest, mut places) = (Vec::new(), Vec::new(), Vec::new());
            missing.iter().for_each(|m| holder.clip(m, &mut inside, &mut rest));
            inside.iter().for_each(|p| holder.runs.place(p, &mut places));
            missing = rest;
            for place in places {
                let (same, other) = self.physical.compare(&place);
                missing.extend(other);
                same.iter().for_each(|part| missing.extend(banned.taken(part)));
            }
            if missing.is_empty() {
                break;
            }
        }
        missing
    }
}

fn flat(at: u64, len: u64) -> Comb {
    Comb { at, rows: 1, len, pitch: 0 }
}

/// Rows of a value, the first of which is byte `off` of its image, where they are.
fn image_at(val: Val, off: u64, comb: &Comb) -> Patch {
    Patch::new(val, (comb.rows, comb.len), (comb.at, comb.pitch), (off, comb.len))
}

fn runs_at(patch: &Patch, k: usize) -> Runs {
    Runs::walk(patch.start[k], patch.len, std::iter::once((patch.rows, patch.pitch[k])))
}

/// Places that are not to be used.
fn banned(combs: impl Iterator<Item = Comb>) -> Map {
    let mut map = Map::default();
    combs.for_each(|c| map.ban(&c));
    map
}

/// Copies that walk by fixed distances: to, from, bytes, and extents with distances, outermost first.
type Walk = (u64, u64, u64, SmallVec<[(u64, i64, i64); 3]>);

/// Places that hold parts of images.
type Holders = Vec<(Val, Holder)>;

/// Copy instructions for some moves, with the places that hold parts of images then.
fn copies(moves: &[Patch]) -> Vec<(Instr, Holders)> {
    let mut order: Vec<&Patch> = moves.iter().collect();
    order.sort_by_key(|m| (m.val, m.start[TO]));
    // Each walk with the number of its moves.
    let walk = |m: &&Patch| -> (Walk, usize) {
        let rows = (m.rows > 1).then_some((m.rows, m.pitch[TO] as i64, m.pitch[AT] as i64));
        ((m.start[TO], m.start[AT], m.len, rows.into_iter().collect()), 1)
    };
    let mut walks: Vec<(Walk, usize)> = order.iter().map(walk).collect();
    for _ in 0..2 {
        let mut joined: Vec<(Walk, usize)> = Vec::new();
        let mut i = 0;
        while i < walks.len() {
            let step = |k: usize| {
                let (a, b) = (&walks[k - 1].0, &walks.get(k)?.0);
                ((a.2, &a.3) == (b.2, &b.3)).then_some((b.0 as i64 - a.0 as i64, b.1 as i64 - a.1 as i64))
            };
            let by = step(i + 1).filter(|(to, _)| *to > 0);
            let mut n = 1;
            while by.is_some() && step(i + n) == by {
                n += 1;
            }
            let mut walk = walks[i].clone();
            if let (Some((to, from)), true) = (by, n > 1) {
                walk.0.3.insert(0, (n as u64, to, from));
            }
            walk.1 = walks[i..i + n].iter().map(|w| w.1).sum();
            joined.push(walk);
            i += n;
        }
        if joined.len() == walks.len() {
            break;
        }
        walks = joined;
    }
    let mut first = 0;
    let made = walks.into_iter().map(|(w, count)| {
        let own = &order[first..first + count];
        first += count;
        let dense = |p: &Patch| p.rows == 1 || p.pitch[OFF] == p.len;
        let follows = own.windows(2).all(|p| p[1].val == p[0].val && p[1].start[OFF] == p[0].start[OFF] + p[0].bytes());
        let runs = Runs::walk(w.0, w.2, w.3.iter().rev().map(|l| (l.0, l.1 as u64)));
        let ascending = w.3.iter().rev().try_fold(w.2, |span, l| (l.1 as u64 >= span).then_some(l.1 as u64 * (l.0 - 1) + span)).is_some();
        let holders: Holders = match own {
            [head, ..] if ascending && follows && own.iter().all(|p| dense(p)) => {
                vec![(head.val, Holder { image: flat(head.start[OFF], runs.bytes()), runs })]
            }
            _ => own.iter().map(|p| (p.val, Holder { runs: runs_at(p, TO), image: p.comb(OFF) })).collect(),
        };
        (copy_of(&w), holders)
    });
    made.collect()
}

fn copy_of((to, from, len, levels): &Walk) -> Instr {
    let word = levels.iter().all(|(_, t, f)| t % 4 == 0 && f % 4 == 0) && [to, from, len].iter().all(|v| **v % 4 == 0);
    let (dtype, size) = if word { (DType::U32, 4) } else { (DType::U8, 1) };
    let side = |offset: u64, step: &dyn Fn(&(u64, i64, i64)) -> i64| Region {
        offset,
        dtype,
        dims: levels.iter().map(|l| l.0 as usize).chain([(*len / size) as usize]).collect(),
        strides: levels.iter().map(|l| step(l) / size as i64).chain([1]).collect(),
    };
    Instr::Copy { out: side(*to, &|l| l.1), input: side(*from, &|l| l.2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_become_few_copies() {
        let one = |to: u64, from: u64| {
            let mut p = Patch::new(1, (1, 8), (from, 0), (0, 0));
            p.start[TO] = to;
            p
        };
        let moves: Vec<Patch> = (0..3).flat_map(|i| (0..4).map(move |j| one(1000 * i + 32 * j, 100_000 + 8 * (4 * i + j)))).collect();
        let list = copies(&moves);
        let [(Instr::Copy { out, input }, _)] = &list[..] else { panic!("{list:?}") };
        assert_eq!((out.offset, &out.dims[..], &out.strides[..]), (0, &[3, 4, 2][..], &[250, 8, 1][..]));
        assert_eq!((input.offset, &input.strides[..]), (100_000, &[8, 2, 1][..]));
        assert_eq!(copies(&[one(0, 100), one(50, 110), one(60, 300)]).len(), 2);
    }
}
