//! Keeping an instruction: where its operands are, what its results overwrite, and the copies that this takes.
//!
//! What a die believes to lie somewhere need not be there, as long as it is somewhere. So an operand is read wherever the same bytes lie
//! in the same way; only where there is no such place they are brought to where the die has them. And before bytes are overwritten that some
//! die still believes to have elsewhere, and that lie nowhere else, they are brought there.

use super::Weaver;
use super::contents::{Content, Piece, Runs, Val};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::program::{FusedId, Instr, Region};
use girih_ir::scalar::Monoid;
use girih_ir::types::DType;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// A place that was given bytes of a value.
#[derive(Clone, Debug)]
struct Spot {
    runs: Runs,
    die: usize,
    /// Position up to which the die reads them there.
    until: u32,
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
pub struct Value {
    len: u64,
    /// Places that it was written to, and that may have it still.
    holders: Vec<(Runs, u64)>,
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

/// Bytes to be copied.
#[derive(Clone, Copy, Debug)]
struct Move {
    to: u64,
    from: u64,
    piece: Piece,
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
    pub fn put(&mut self, runs: &Runs, val: Val, (die, until): (usize, u32)) {
        let value = &mut self.values[val as usize];
        value.len = value.len.max(runs.bytes());
        self.put_part(runs, val, 0, (die, until));
    }

    fn put_part(&mut self, runs: &Runs, val: Val, mut off: u64, (die, until): (usize, u32)) {
        self.values[val as usize].refs.push(Spot { runs: runs.clone(), die, until });
        for run in runs.iter() {
            let len = run.end - run.start;
            self.logical.set(run, val, off);
            off += len;
        }
    }

    /// A value lies in these runs now.
    pub fn place(&mut self, runs: &Runs, val: Val) {
        let value = &mut self.values[val as usize];
        value.len = value.len.max(runs.bytes());
        value.holders.push((runs.clone(), 0));
        let mut off = 0;
        for run in runs.iter() {
            let len = run.end - run.start;
            self.physical.set(run, val, off);
            off += len;
        }
        self.note_written(runs);
    }

    /// In the view of a die, what is in some runs is in others as well.
    pub fn carry(&mut self, from: &Runs, to: &Runs, at: (usize, u32)) -> Option<()> {
        let content = self.logical.content(from);
        if from.bytes() != to.bytes() {
            return None;
        }
        if let [piece] = content[..] {
            self.put_part(to, piece.val, piece.off, at);
            return Some(());
        }
        let mut vals: Vec<Val> = content.iter().map(|p| p.val).collect();
        vals.sort_unstable();
        vals.dedup();
        for val in vals {
            self.values[val as usize].refs.push(Spot { runs: to.clone(), die: at.0, until: at.1 });
        }
        let mut pieces = content.iter().copied();
        let mut rest = Piece { val: 0, off: 0, len: 0 };
        for run in to.iter() {
            let mut start = run.start;
            while start < run.end {
                if rest.len == 0 {
                    rest = pieces.next()?;
                }
                let len = rest.len.min(run.end - start);
                self.logical.set(start..start + len, rest.val, rest.off);
                rest = Piece { off: rest.off + len, len: rest.len - len, ..rest };
                start += len;
            }
        }
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
            && piece.off == 0
            && piece.len == self.values[piece.val as usize].len
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

    /// The instruction with values in place of addresses, and what it reads.
    fn key(&mut self, instr: &Instr) -> Option<(Instr, Vec<(Runs, Content)>)> {
        let mut reads = Vec::new();
        for region in instr.reads() {
            let runs = Runs::around(region)?;
            let content = self.logical.content(&runs);
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
            let at_hand = |w: &Self, v: &Val| w.find(Piece { val: *v, off: 0, len: w.values[*v as usize].len }, &|_| false).is_some();
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
                let found = self.resolve(runs, content, (in_place && k == 0, size));
                if found.is_none() {
                    self.quiet = self.note_brought(runs, content);
                    let brought = self.bring(runs, content, leader.origin);
                    self.quiet = false;
                    brought?;
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
        let outs: Vec<Runs> = leader.instr.writes().into_iter().map(Runs::of).collect::<Option<_>>()?;
        let mut avoid: Vec<Range<u64>> = operands.iter().map(Runs::span).collect();
        avoid.extend(outs.iter().map(Runs::span));
        for out in &outs {
            self.clear(out, &avoid, (leader.origin, 0))?;
        }
        let mut instr = leader.instr.clone();
        for (region, shift) in instr.reads_mut().into_iter().zip(&shifts) {
            region.offset = region.offset.checked_add_signed(*shift)?;
        }
        self.push(instr, leader.origin);
        for (out, val) in outs.iter().zip(vals) {
            self.place(out, *val);
        }
        Some(())
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
        for (val, off) in whole.into_iter().chain([(first.val, first.off)]).filter(|v| v.0 != 0) {
            let mut tried = 0;
            for (holder, start) in &self.values[val as usize].holders {
                let Some(at) = address(holder, *start, off).map(|(at, _)| at) else { continue };
                let shift = at as i64 - runs.start as i64;
                let here = || self.physical.held(at, Piece { len: 1, ..first }) == 1;
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

    /// Addresses where these bytes lie, none of them banned.
    fn find(&self, piece: Piece, banned: &dyn Fn(Range<u64>) -> bool) -> Option<SmallVec<[(u64, u64); 2]>> {
        let mut found = SmallVec::new();
        if piece.len == 0 {
            return Some(found);
        }
        if piece.val == 0 {
            found.push((piece.off, piece.len));
            let free = !banned(piece.off..piece.off + piece.len);
            return (free && self.physical.held(piece.off, piece) == piece.len).then_some(found);
        }
        let mut done = 0;
        while done < piece.len {
            let rest = Piece { off: piece.off + done, len: piece.len - done, ..piece };
            let holds = |(runs, start): &(Runs, u64)| {
                let (at, room) = address(runs, *start, rest.off)?;
                let len = room.min(rest.len);
                let held = self.physical.held(at, Piece { len, ..rest });
                (held > 0 && !banned(at..at + held)).then_some((at, held))
            };
            let (at, len) = self.values[piece.val as usize].holders.iter().find_map(holds)?;
            found.push((at, len));
            done += len;
        }
        Some(found)
    }

    /// Brings bytes to where a die believes to have them.
    pub fn bring(&mut self, runs: &Runs, content: &Content, origin: Origin) -> Option<()> {
        let mut missing: Vec<(u64, Piece)> = Vec::new();
        let mut pieces = content.iter().copied();
        let mut rest = Piece { val: 0, off: 0, len: 0 };
        for run in runs.iter() {
            let mut at = run.start;
            while at < run.end {
                if rest.len == 0 {
                    rest = pieces.next()?;
                }
                let part = Piece { len: rest.len.min(run.end - at), ..rest };
                if self.physical.held(at, part) < part.len {
                    missing.push((at, part));
                }
                rest = Piece { off: rest.off + part.len, len: rest.len - part.len, ..rest };
                at += part.len;
            }
        }
        let avoid = [runs.span()];
        for (at, part) in &missing {
            self.clear(&Runs::one(*at..*at + part.len), &avoid, (origin, 0))?;
        }
        let into = |r: Range<u64>| {
            let k = missing.partition_point(|(at, part)| at + part.len <= r.start);
            missing.get(k).is_some_and(|(at, _)| *at < r.end)
        };
        let mut moves = Vec::new();
        for (at, part) in &missing {
            let mut done = 0;
            for (from, len) in self.find(*part, &into)? {
                moves.push(Move { to: at + done, from, piece: Piece { off: part.off + done, len, ..*part } });
                done += len;
            }
        }
        self.relocate(&moves, origin);
        let number = self.number(content);
        if content.len() > 1 {
            self.values[number as usize].holders.push((runs.clone(), 0));
        }
        Some(())
    }

    /// Copies bytes.
    fn relocate(&mut self, moves: &[Move], origin: Origin) {
        for (instr, _, holders) in copies(moves) {
            self.push(instr, origin);
            for (val, runs, off) in holders.into_iter().filter(|h| h.0 != 0) {
                self.values[val as usize].holders.push((runs, off));
            }
        }
        for m in moves {
            let range = m.to..m.to + m.piece.len;
            self.physical.set(range.clone(), m.piece.val, m.piece.off);
            if !self.quiet {
                self.note_written(&Runs::one(range));
            }
        }
    }

    /// Saves what lies in some runs, and nowhere else, and is still believed to be in other places: there, or behind all dies when that place
    /// is to be avoided.
    pub fn clear(&mut self, runs: &Runs, avoid: &[Range<u64>], (origin, depth): (Origin, usize)) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        let mut there: Vec<Piece> = Vec::new();
        for run in runs.iter() {
            self.physical.each(run, |_, piece| {
                if piece.val != 0 {
                    there.push(piece);
                }
            });
        }
        there.sort_unstable_by_key(|p| (p.val, p.off));
        let mut images: Vec<Piece> = Vec::new();
        for piece in there {
            match images.last_mut() {
                Some(last) if last.val == piece.val && piece.off <= last.off + last.len => {
                    last.len = last.len.max(piece.off + piece.len - last.off);
                }
                _ => images.push(piece),
            }
        }
        let (own, span): (Vec<Range<u64>>, _) = (runs.iter().collect(), runs.span());
        let banned = |r: Range<u64>| own.get(own.partition_point(|o| o.end <= r.start)).is_some_and(|o| o.start < r.end);
        let mut from = 0;
        while from < images.len() {
            let end = from + images[from..].iter().take_while(|p| p.val == images[from].val).count();
            while let Some(wanted) = self.wanted(&images[from..end], &banned) {
                let mut moves = Vec::new();
                for (to, part) in wanted {
                    let bad = |r: &Range<u64>| r.start < to + part.len && to < r.end;
                    let aside = avoid.iter().any(bad) || depth == DEPTH || self.unstable(to..to + part.len);
                    let to = if aside { self.aside(part.len) } else { to };
                    if !aside {
                        let mut kept: Vec<Range<u64>> = avoid.to_vec();
                        kept.push(span.clone());
                        self.clear(&Runs::one(to..to + part.len), &kept, (origin, depth + 1))?;
                    }
                    let mut done = 0;
                    for (from, len) in self.find(part, &|_| false)? {
                        moves.push(Move { to: to + done, from, piece: Piece { off: part.off + done, len, ..part } });
                        done += len;
                    }
                }
                self.relocate(&moves, origin);
            }
            from = end;
        }
        Some(())
    }

    /// Room behind all dies.
    pub fn aside(&mut self, len: u64) -> u64 {
        let at = self.top;
        self.top = (self.top + len).next_multiple_of(64);
        at
    }

    /// The first place that wants bytes of a value, some parts of its image, which lie nowhere but where it is banned, with the bytes.
    fn wanted(&mut self, parts: &[Piece], banned: &dyn Fn(Range<u64>) -> bool) -> Option<Vec<(u64, Piece)>> {
        let val = parts.first()?.val;
        let mut refs = std::mem::take(&mut self.values[val as usize].refs);
        refs.retain(|spot| spot.until as usize >= self.cursors[spot.die].pc);
        let mut found = None;
        for spot in &refs {
            let mut wants = Vec::new();
            for run in spot.runs.iter() {
                self.logical.each(run, |at, p| {
                    if p.val != val {
                        return;
                    }
                    let first = parts.partition_point(|part| part.off + part.len <= p.off);
                    for part in parts[first..].iter().take_while(|part| part.off < p.off + p.len) {
                        let (from, to) = (p.off.max(part.off), (p.off + p.len).min(part.off + part.len));
                        let (at, p) = (at + (from - p.off), Piece { val, off: from, len: to - from });
                        let missing = || self.physical.held(at, p) < p.len || banned(at..at + p.len);
                        if missing() && self.find(p, banned).is_none() {
                            wants.push((at, p));
                        }
                    }
                });
            }
            if !wants.is_empty() {
                found = Some(wants);
                break;
            }
        }
        self.values[val as usize].refs = refs;
        found
    }
}

/// The address of a place of an image, which begins with `start` in some runs, and how many bytes follow there.
fn address(runs: &Runs, start: u64, off: u64) -> Option<(u64, u64)> {
    let at = off.checked_sub(start)?;
    if at >= runs.bytes() {
        return None;
    }
    let rest = at % runs.len;
    Some((runs.at(at / runs.len) + rest, runs.len - rest))
}

/// Copies that walk by fixed distances: to, from, bytes, and extents with distances, outermost first.
type Walk = (u64, u64, u64, SmallVec<[(u64, i64, i64); 3]>);

/// Values with places that hold their images from some byte on.
type Holders = Vec<(Val, Runs, u64)>;

/// Copy instructions for some moves, each with the number of its moves, and with the places that hold parts of images then.
fn copies(moves: &[Move]) -> Vec<(Instr, usize, Holders)> {
    let mut order: Vec<(Val, usize)> = moves.iter().enumerate().map(|(i, m)| (m.piece.val, i)).collect();
    order.sort_unstable();
    let mut walks: Vec<Walk> = order.iter().map(|(_, i)| (moves[*i].to, moves[*i].from, moves[*i].piece.len, SmallVec::new())).collect();
    for _ in 0..3 {
        let mut joined: Vec<Walk> = Vec::new();
        let mut i = 0;
        while i < walks.len() {
            let step = |k: usize| {
                let (a, b) = (&walks[k - 1], walks.get(k)?);
                ((a.2, &a.3) == (b.2, &b.3)).then_some((b.0 as i64 - a.0 as i64, b.1 as i64 - a.1 as i64))
            };
            let by = step(i + 1).filter(|(to, _)| *to > 0);
            let mut n = 1;
            while by.is_some() && step(i + n) == by {
                n += 1;
            }
            let mut walk = walks[i].clone();
            if let (Some((to, from)), true) = (by, n > 1) {
                walk.3.insert(0, (n as u64, to, from));
            }
            joined.push(walk);
            i += n;
        }
        if joined.len() == walks.len() {
            break;
        }
        walks = joined;
    }
    let mut first = 0;
    let made = walks.into_iter().map(|w| {
        let count: usize = w.3.iter().map(|l| l.0 as usize).product();
        let own = &order[first..first + count];
        first += count;
        let piece = |k: &(Val, usize)| moves[k.1].piece;
        let follows =
            own.windows(2).all(|p| piece(&p[1]).val == piece(&p[0]).val && piece(&p[1]).off == piece(&p[0]).off + piece(&p[0]).len);
        let head = piece(&own[0]);
        let runs = Runs::walk(w.0, w.2, w.3.iter().rev().map(|l| (l.0, l.1 as u64)));
        let each = || own.iter().map(|k| (k.0, Runs::one(moves[k.1].to..moves[k.1].to + piece(k).len), piece(k).off)).collect();
        let holders: Holders = if follows { vec![(head.val, runs, head.off)] } else { each() };
        (copy_of(&w), count, holders)
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
        let one = |to: u64, from: u64| Move { to, from, piece: Piece { val: 1, off: 0, len: 8 } };
        let moves: Vec<Move> = (0..3).flat_map(|i| (0..4).map(move |j| one(1000 * i + 32 * j, 100_000 + 8 * (4 * i + j)))).collect();
        let list = copies(&moves);
        let [(Instr::Copy { out, input }, 12, _)] = &list[..] else { panic!("{list:?}") };
        assert_eq!((out.offset, &out.dims[..], &out.strides[..]), (0, &[3, 4, 2][..], &[250, 8, 1][..]));
        assert_eq!((input.offset, &input.strides[..]), (100_000, &[8, 2, 1][..]));
        assert_eq!(copies(&[one(0, 100), one(50, 110), one(60, 300)]).iter().map(|c| c.1).collect::<Vec<_>>(), [2, 1]);
    }
}
