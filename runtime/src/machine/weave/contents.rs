//! Which value lies where: bytes of memory as pieces of values.
//!
//! A value is what one instruction makes, or what lies in memory before the first one; its image is its bytes in the order of their addresses
//! where it was made. A map says of every byte which value it belongs to and where in the image it stands, so two places hold the same
//! bytes when they hold the same pieces.
//!
//! Parts of tensors are rows at equal distances, thousands of them. So a map is made of blocks, each a range of addresses seen as rows of one
//! pitch, in which rectangles of bytes belong to values.

use super::runs::{AT, Comb, LOST, OFF, Patch, Runs, Val};
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};

/// Pieces in the order of where they are shown; `AT` counts the bytes of the region.
pub type Content = SmallVec<[Patch; 2]>;

/// The pitch of a block that is one row.
pub const ENDLESS: u64 = 1 << 62;
/// Rows that are told apart one by one when a block gets another pitch.
const MOST_ROWS: u64 = 1 << 14;

/// Pieces of a content, or of a block, up to which single rows are looked for or laid into it.
const FEW: usize = 256;
/// So many rows are laid one by one into a block of another pitch.
const FEW_ROWS: u64 = 8;

/// Part of a block: its first row and column count from the beginning of the block's grid, the image from its first byte.
#[derive(Clone, Copy, Debug)]
struct Rect {
    row: u64,
    rows: u64,
    col: u64,
    cols: u64,
    val: Val,
    off: u64,
    step: u64,
}

impl Rect {
    fn sub(&self, rows: &Range<u64>, cols: &Range<u64>) -> Rect {
        let off = self.off + (rows.start - self.row) * self.step + (cols.start - self.col);
        Rect { row: rows.start, rows: rows.end - rows.start, col: cols.start, cols: cols.end - cols.start, off, ..*self }
    }

    fn bounds(&self) -> (Range<u64>, Range<u64>) {
        (self.row..self.row + self.rows, self.col..self.col + self.cols)
    }
}

#[derive(Clone, Debug)]
struct Block {
    end: u64,
    /// Where row 0 begins; never behind the block.
    base: u64,
    pitch: u64,
    /// Whether something was forgotten that lay between the rectangles.
    lost: bool,
    rects: SmallVec<[Rect; 1]>,
}

/// A range of bytes in terms of rows of a pitch: the row and column where it begins, and those behind its last byte.
struct Cut {
    first: (u64, u64),
    last: (u64, u64),
}

impl Cut {
    fn new(range: &Range<u64>, pitch: u64) -> Cut {
        Cut { first: (range.start / pitch, range.start % pitch), last: (range.end / pitch, range.end % pitch) }
    }

    /// Calls `f` with the rows and columns of a rectangle that lie in the range.
    fn of(&self, rows: &Range<u64>, cols: &Range<u64>, f: &mut dyn FnMut(Range<u64>, Range<u64>)) {
        let ((first, from), (last, to)) = (self.first, self.last);
        let (mut low, mut high) = (rows.start.max(first), rows.end.min(if to > 0 { last + 1 } else { last }));
        if low >= high || cols.is_empty() {
            return;
        }
        let head = low == first && from > cols.start;
        let tail = high - 1 == last && to < cols.end;
        if high - low == 1 && head && tail {
            if from < to {
                f(low..high, from..to);
            }
            return;
        }
        if head {
            if from < cols.end {
                f(low..low + 1, from..cols.end);
            }
            low += 1;
        }
        if tail {
            high -= 1;
            if to > cols.start {
                f(high..high + 1, cols.start..to);
            }
        }
        if low < high {
            f(low..high, cols.clone());
        }
    }
}

/// Calls `f` with the rows and columns of a rectangle that lie in a range, counted from the beginning of the grid.
pub fn clip(rows: &Range<u64>, cols: &Range<u64>, pitch: u64, range: &Range<u64>, f: &mut dyn FnMut(Range<u64>, Range<u64>)) {
    Cut::new(range, pitch).of(rows, cols, f);
}

impl Block {
    fn flat(range: Range<u64>, val: Val, off: u64) -> Block {
        let cols = range.end - range.start;
        let rect = Rect { row: 0, rows: 1, col: 0, cols, val, off, step: 0 };
        Block { end: range.end, base: range.start, pitch: ENDLESS, lost: false, rects: SmallVec::from_elem(rect, 1) }
    }

    /// What of it lies in a range.
    fn within(&self, range: &Range<u64>) -> Block {
        let mut rects = SmallVec::new();
        let range = range.start.max(self.base)..range.end.max(self.base);
        let cut = Cut::new(&(range.start - self.base..range.end - self.base), self.pitch);
        for rect in &self.rects {
            let (rows, cols) = rect.bounds();
            cut.of(&rows, &cols, &mut |r, c| rects.push(rect.sub(&r, &c)));
        }
        Block { end: range.end, rects, ..*self }
    }

    /// Adds the rectangles of another block of any pitch, in terms of the own grid. `false`: they were too many.
    fn take(&mut self, other: &Block) -> bool {
        if other.pitch == self.pitch {
            let (down, right) = ((other.base - self.base) / self.pitch, (other.base - self.base) % self.pitch);
            for rect in &other.rects {
                let moved = Rect { row: rect.row + down, col: rect.col + right, ..*rect };
                self.push(moved);
            }
            return true;
        }
        let mut left = MOST_ROWS;
        for rect in &other.rects {
            if left < rect.rows {
                return false;
            }
            left -= rect.rows;
            for r in 0..rect.rows {
                let at = other.base + (rect.row + r) * other.pitch + rect.col - self.base;
                let off = rect.off + r * rect.step;
                self.lay(at..at + rect.cols, rect.val, off);
            }
        }
        true
    }

    /// Adds a run of bytes, counted from the base.
    fn lay(&mut self, range: Range<u64>, val: Val, off: u64) {
        let (pitch, start) = (self.pitch, range.start);
        let mut rects: SmallVec<[Rect; 3]> = SmallVec::new();
        clip(&(0..u64::MAX / pitch.max(2)), &(0..pitch), pitch, &range, &mut |r, c| {
            let off = off + (r.start * pitch + c.start - start);
            rects.push(Rect { row: r.start, rows: r.end - r.start, col: c.start, cols: c.end - c.start, val, off, step: pitch });
        });
        self.rects.extend(rects);
    }

    /// Adds a rectangle that may reach over the end of its rows.
    fn push(&mut self, rect: Rect) {
        split(rect, self.pitch, |r| self.rects.push(r));
    }

    /// Takes a rectangle away.
    fn erase(&mut self, hole: &Rect) {
        let (rows, cols) = hole.bounds();
        let meets = |r: &Rect| r.row < rows.end && rows.start < r.row + r.rows && r.col < cols.end && cols.start < r.col + r.cols;
        let mut i = 0;
        while i < self.rects.len() {
            let rect = self.rects[i];
            if !meets(&rect) {
                i += 1;
                continue;
            }
            self.rects.swap_remove(i);
            let (r, c) = rect.bounds();
            let middle = r.start.max(rows.start)..r.end.min(rows.end);
            let mut keep = |rows: Range<u64>, cols: Range<u64>| {
                if !rows.is_empty() && !cols.is_empty() {
                    self.rects.push(rect.sub(&rows, &cols));
                }
            };
            keep(r.start..middle.start, c.clone());
            keep(middle.end..r.end, c.clone());
            keep(middle.clone(), c.start..cols.start.max(c.start));
            keep(middle, cols.end.min(c.end)..c.end);
        }
    }
}

/// A rectangle in parts that do not reach over the end of their rows.
fn split(rect: Rect, pitch: u64, mut f: impl FnMut(Rect)) {
    let rect = Rect { row: rect.row + rect.col / pitch, col: rect.col % pitch, ..rect };
    let cols = rect.cols.min(pitch - rect.col);
    f(Rect { cols, ..rect });
    if cols < rect.cols {
        f(Rect { row: rect.row + 1, col: 0, cols: rect.cols - cols, off: rect.off + cols, ..rect });
    }
}

/// What lies in a memory, and how many rectangles were looked at to say so.
#[derive(Clone, Debug, Default)]
pub struct Map(BTreeMap<u64, Block>, Cell<u64>);

impl Map {
    /// Puts bytes where the patch shows them. `alive` says of values whether they are still wanted where they are.
    pub fn set(&mut self, patch: &Patch, alive: &dyn Fn(Val) -> bool) {
        let comb = patch.comb(AT);
        let span = comb.span();
        if span.is_empty() {
            return;
        }
        let off = patch.start[OFF];
        if self.set_within(patch, &comb, &span) {
            return;
        }
        let old = self.overlapping(&span);
        self.spend(old.iter().map(|(_, b)| b.rects.len()).sum::<usize>());
        if patch.rows == 1 {
            for (start, block) in old {
                self.keep_outside(start, &block, &span);
            }
            self.0.insert(span.start, Block::flat(span, patch.val, off));
            return;
        }
        let pitch = comb.pitch;
        let like = |b: &&(u64, Block)| b.1.pitch == pitch;
        let base = old.iter().filter(like).map(|b| b.1.base).fold(comb.at, u64::min);
        let mut start = span.start;
        let mut new = Block { end: span.end, base, pitch, lost: false, rects: SmallVec::new() };
        for (from, block) in old {
            if block.pitch == pitch {
                // Rows far from the new ones stay apart.
                let row = |at: u64| block.base + at.saturating_sub(block.base) / pitch * pitch;
                let low = if from + 2 * pitch < span.start { row(span.start - pitch).max(from) } else { from };
                let high = if block.end > span.end + 2 * pitch { row(span.end + 2 * pitch).min(block.end) } else { block.end };
                self.keep_outside(from, &block, &(low..high));
                new.take(&block.within(&(low..high)));
                (start, new.end) = (start.min(low), new.end.max(high));
                new.lost |= block.lost;
                continue;
            }
            self.keep_outside(from, &block, &span);
            let mut inside = block.within(&span);
            if inside.pitch != ENDLESS {
                let before = inside.rects.len();
                inside.rects.retain(|r| alive(r.val));
                new.lost |= block.lost || inside.rects.len() < before;
            }
            new.lost |= !new.take(&inside);
        }
        let rect = Rect { row: 0, rows: patch.rows, col: comb.at - base, cols: patch.len, val: patch.val, off, step: patch.pitch[OFF] };
        let mut parts: SmallVec<[Rect; 2]> = SmallVec::new();
        split(rect, pitch, |r| parts.push(r));
        parts.iter().for_each(|r| new.erase(r));
        new.rects.extend(parts);
        self.0.insert(start, new);
    }

    /// Puts bytes into the one block around them, where they are rows of it or few enough to be laid into it. Whether they were.
    fn set_within(&mut self, patch: &Patch, comb: &Comb, span: &Range<u64>) -> bool {
        let next = self.0.range((Bound::Excluded(span.start), Bound::Unbounded)).next().map(|(start, _)| *start);
        let Some((_, block)) = self.0.range_mut(..=span.start).next_back() else { return false };
        let pitch = block.pitch;
        // It may end a row behind the block, if nothing else is there.
        let inside = span.end <= block.end || (span.end - block.end < pitch && next.is_none_or(|n| span.end <= n));
        let fits = pitch == comb.pitch || (patch.rows <= FEW_ROWS && patch.len <= pitch && block.rects.len() <= FEW);
        if pitch == ENDLESS || block.end <= span.start || !inside || !fits {
            return false;
        }
        block.end = block.end.max(span.end);
        let count = block.rects.len();
        let whole = Rect {
            row: 0,
            rows: patch.rows,
            col: comb.at - block.base,
            cols: patch.len,
            val: patch.val,
            off: patch.start[OFF],
            step: patch.pitch[OFF],
        };
        let mut new: SmallVec<[Rect; 4]> = SmallVec::new();
        if pitch == comb.pitch {
            split(whole, pitch, |r| new.push(r));
        } else {
            for r in 0..patch.rows {
                let row = Rect { rows: 1, col: whole.col + r * comb.pitch, off: whole.off + r * whole.step, ..whole };
                split(row, pitch, |r| new.push(r));
            }
        }
        new.iter().for_each(|r| block.erase(r));
        block.rects.extend(new.iter().copied());
        self.spend(count * new.len());
        true
    }

    /// Notes that rectangles were looked at.
    pub fn spend(&self, looks: usize) {
        self.1.set(self.1.get() + looks as u64);
    }

    /// Takes the blocks out that have bytes in a range.
    fn overlapping(&mut self, span: &Range<u64>) -> Vec<(u64, Block)> {
        let before = self.0.range(..=span.start).next_back().filter(|(_, b)| b.end > span.start).map(|(k, _)| *k);
        let from = before.unwrap_or(span.start);
        let keys: SmallVec<[u64; 8]> = self.0.range(from..span.end).map(|(k, _)| *k).collect();
        keys.into_iter().filter_map(|k| self.0.remove(&k).map(|b| (k, b))).collect()
    }

    fn keep_outside(&mut self, start: u64, block: &Block, range: &Range<u64>) {
        if start < range.start {
            self.0.insert(start, block.within(&(start..range.start)));
        }
        if range.end < block.end {
            self.0.insert(range.end, block.within(&(range.end..block.end)));
        }
    }

    /// Shows all that lies in a rectangle and is known; `AT` counts its bytes. Returns whether something was forgotten there.
    fn known(&self, comb: &Comb, f: &mut dyn FnMut(Patch)) -> bool {
        let span = comb.span();
        let mut lost = false;
        if span.is_empty() {
            return lost;
        }
        let before = self.0.range(..=span.start).next_back().filter(|(_, b)| b.end > span.start);
        let rest = self.0.range((Bound::Excluded(span.start), Bound::Excluded(span.end)));
        for (start, block) in before.into_iter().chain(rest) {
            lost |= block.lost;
            let rows = if comb.rows == 1 || block.pitch == comb.pitch || block.pitch == ENDLESS { 1 } else { comb.rows };
            self.spend(1 + rows as usize * block.rects.len());
            if comb.rows == 1 {
                row_of(block, &span, 0, f);
            } else if block.pitch == ENDLESS {
                let Some(rect) = block.rects.first() else { continue };
                let from = block.base + rect.col;
                let range = from.saturating_sub(comb.at)..(from + rect.cols).saturating_sub(comb.at);
                clip(&(0..comb.rows), &(0..comb.len), comb.pitch, &range, &mut |r, c| {
                    let off = rect.off + (comb.at + r.start * comb.pitch + c.start - from);
                    let at = r.start * comb.len + c.start;
                    let size = (r.end - r.start, c.end - c.start);
                    f(Patch::new(rect.val, size, (at, comb.len), (off, comb.pitch)));
                });
            } else if block.pitch == comb.pitch {
                grid_of(block, comb, f);
            } else {
                let first = start.saturating_sub(comb.at) / comb.pitch;
                let last = ((block.end - 1).saturating_sub(comb.at) / comb.pitch).min(comb.rows - 1);
                for r in first..=last {
                    let at = comb.at + r * comb.pitch;
                    row_of(block, &(at.max(*start)..(at + comb.len).min(block.end)), r * comb.len + at.max(*start) - at, f);
                }
            }
        }
        lost
    }

    /// How many rectangles were looked at so far.
    pub fn looks(&self) -> u64 {
        self.1.get()
    }

    /// Shows all that lies in a rectangle; `AT` counts its bytes.
    pub fn look(&self, comb: &Comb, f: &mut dyn FnMut(Patch)) {
        let (mut seen, mut list): (u64, Content) = (0, Content::new());
        let lost = self.known(comb, &mut |p| {
            seen += p.bytes();
            list.push(p);
        });
        if seen < comb.rows * comb.len {
            // What is not known is named by its addresses.
            let (val, dense) = (if lost { LOST } else { 0 }, if comb.rows > 1 { comb.len } else { 0 });
            let whole = Patch { val, rows: comb.rows, len: comb.len, start: [0, comb.at, 0], pitch: [dense, comb.pitch, dense] };
            rest_of(&whole, &list).into_iter().for_each(&mut *f);
        }
        list.into_iter().for_each(f);
    }

    /// What lies in some runs.
    pub fn content(&self, runs: &Runs) -> Content {
        let mut content = Content::new();
        for (before, comb) in runs.combs() {
            self.look(&comb, &mut |mut p| {
                p.start[AT] += before;
                content.push(p.stays());
            });
        }
        canonical(&mut content);
        content
    }

    /// Which parts of a patch lie where it shows them, and which do not.
    pub fn compare(&self, patch: &Patch) -> (SmallVec<[Patch; 2]>, Vec<Patch>) {
        let (mut same, mut taken): (SmallVec<[Patch; 2]>, Content) = (SmallVec::new(), Content::new());
        let mut seen = 0;
        self.look(&patch.comb(AT), &mut |p| {
            if p.val != patch.val || p.val == LOST {
                return;
            }
            patch.parts(&p, &mut |part, there| {
                if part.start[OFF] == there.start[OFF] && (there.rows == 1 || part.pitch[OFF] == there.pitch[OFF]) {
                    seen += part.bytes();
                    same.push(part.normal());
                    taken.push(there);
                }
            });
        });
        let rest = if seen == patch.bytes() { Vec::new() } else { rest_of(patch, &taken) };
        (same, rest)
    }

    /// Whether just this lies in some runs.
    pub fn holds(&self, runs: &Runs, content: &Content) -> bool {
        let mut places = Vec::new();
        let bytes: u64 = content.iter().map(Patch::bytes).sum();
        content.iter().for_each(|p| runs.place(p, &mut places));
        bytes == runs.bytes() && places.iter().all(|p| self.compare(p).1.is_empty())
    }

    /// Notes that a place is not to be used.
    pub fn ban(&mut self, comb: &Comb) {
        self.set(&Patch::new(1, (comb.rows, comb.len), (comb.at, comb.pitch), (0, comb.len)), &|_| true);
    }

    /// Which parts of a patch lie where nothing was put, as far as that is known.
    pub fn free(&self, patch: &Patch) -> Vec<Patch> {
        let mut taken = Content::new();
        match self.known(&patch.comb(AT), &mut |p| taken.push(p)) {
            true => Vec::new(),
            false if taken.is_empty() => vec![*patch],
            false => rest_of(patch, &taken),
        }
    }

    /// Which parts of a patch lie where something was put, or may have been.
    pub fn taken(&self, patch: &Patch) -> Vec<Patch> {
        let mut taken = Vec::new();
        match self.known(&patch.comb(AT), &mut |p| patch.parts(&p, &mut |part, _| taken.push(part.normal()))) {
            true => vec![*patch],
            false => taken,
        }
    }
}

/// What lies in a range of a block; the range begins with byte `before` of what is looked at.
fn row_of(block: &Block, range: &Range<u64>, before: u64, f: &mut dyn FnMut(Patch)) {
    let cut = Cut::new(&(range.start.saturating_sub(block.base)..range.end.saturating_sub(block.base)), block.pitch);
    for rect in &block.rects {
        let (rows, cols) = rect.bounds();
        cut.of(&rows, &cols, &mut |r, c| {
            let at = before + (block.base + r.start * block.pitch + c.start - range.start);
            let part = rect.sub(&r, &c);
            f(Patch::new(rect.val, (part.rows, part.cols), (at, block.pitch), (part.off, rect.step)));
        });
    }
}

/// What lies in a rectangle of the pitch of a block.
fn grid_of(block: &Block, comb: &Comb, f: &mut dyn FnMut(Patch)) {
    let pitch = i128::from(block.pitch);
    let ahead = i128::from(comb.at) - i128::from(block.base);
    let (row, col) = (ahead.div_euclid(pitch), ahead.rem_euclid(pitch) as u64);
    let first = col..(col + comb.len).min(block.pitch);
    let second = 0..(col + comb.len).saturating_sub(block.pitch);
    for (row, cols, before) in [(row, first, 0), (row + 1, second, block.pitch - col)] {
        if cols.is_empty() {
            continue;
        }
        for rect in &block.rects {
            let low = row.max(i128::from(rect.row));
            let high = (row + i128::from(comb.rows)).min(i128::from(rect.row + rect.rows));
            let own = cols.start.max(rect.col)..cols.end.min(rect.col + rect.cols);
            if low >= high || own.is_empty() {
                continue;
            }
            let part = rect.sub(&(low as u64..high as u64), &own);
            let at = (low - row) as u64 * comb.len + before + (own.start - cols.start);
            f(Patch::new(rect.val, (part.rows, part.cols), (at, comb.len), (part.off, rect.step)));
        }
    }
}

/// The parts of a patch that others do not cover, which say in `AT` which of its bytes they are.
fn rest_of(whole: &Patch, taken: &[Patch]) -> Vec<Patch> {
    let mut map = Map::default();
    let all = |_: Val| true;
    map.set(&Patch::new(1, (1, whole.bytes()), (0, 0), (0, 0)), &all);
    for t in taken {
        map.set(&Patch::new(2, (t.rows, t.len), (t.start[AT], t.pitch[AT]), (0, t.len)), &all);
    }
    if map.0.values().any(|b| b.lost) {
        return vec![*whole];
    }
    let mut rest = Vec::new();
    for block in map.0.values() {
        for rect in block.rects.iter().filter(|r| r.val == 1) {
            let at = block.base + rect.row * block.pitch + rect.col;
            let own = Patch::new(0, (rect.rows, rect.cols), (at, block.pitch), (at, block.pitch));
            whole.parts(&own, &mut |part, _| rest.push(part.normal()));
        }
    }
    rest
}

/// Puts neighbors together, so that the same bytes are the same pieces however they came there.
fn canonical(content: &mut Content) {
    if content.len() < 2 {
        return;
    }
    // A few rows may have been laid one by one.
    let few = |p: &Patch| (2..=FEW_ROWS).contains(&p.rows);
    if content.iter().any(few) {
        let rows = |p: &Patch| (0..p.rows).map(|r| p.window(r..r + 1, 0..p.len)).collect::<SmallVec<[Patch; 8]>>();
        *content = content.iter().flat_map(|p| if few(p) { rows(p) } else { SmallVec::from_slice(&[*p]) }).collect();
    }
    loop {
        let before = content.len();
        // Rows above each other.
        content.sort_unstable_by_key(|p| {
            (p.val, p.len, p.pitch[AT], p.pitch[OFF], p.start[AT].checked_rem(p.pitch[AT]).unwrap_or(0), p.start[AT])
        });
        join(content, |a, b| {
            let down = |k: usize| a.start[k] + a.rows * a.pitch[k] == b.start[k];
            let like = a.rows > 1 && b.rows > 1 && (a.val, a.len, a.pitch[AT], a.pitch[OFF]) == (b.val, b.len, b.pitch[AT], b.pitch[OFF]);
            (like && down(AT) && down(OFF)).then(|| Patch { rows: a.rows + b.rows, ..*a }.normal())
        });
        if content.len() <= FEW {
            lone_rows(content);
        }
        // Columns beside each other.
        content.sort_unstable_by_key(|p| (p.rows, p.pitch[AT], p.start[AT]));
        join(content, |a, b| {
            let right = |k: usize| a.start[k] + a.len == b.start[k];
            let like = (a.val, a.rows, a.pitch[AT], a.pitch[OFF]) == (b.val, b.rows, b.pitch[AT], b.pitch[OFF]);
            (like && right(AT) && right(OFF)).then(|| Patch { len: a.len + b.len, ..*a }.normal())
        });
        if content.len() == before {
            break;
        }
    }
    chain(content);
    content.sort_unstable_by_key(|p| p.start[AT]);
}

/// Makes rows of single rows at equal distances.
fn chain(content: &mut Content) {
    content.sort_unstable_by_key(|p| (p.rows > 1, p.val, p.len, p.start[AT]));
    let mut chained = Content::new();
    for p in content.iter() {
        match chained.last_mut().filter(|last| p.rows == 1 && (last.val, last.len) == (p.val, p.len)) {
            Some(last) => {
                let step: [u64; 3] = std::array::from_fn(|k| p.start[k].wrapping_sub(last.start[k] + (last.rows - 1) * last.pitch[k]));
                let apart = step[OFF] >= p.len && step[OFF] < ENDLESS;
                if apart && (last.rows == 1 || last.pitch == step) {
                    (last.rows, last.pitch) = (last.rows + 1, step);
                } else {
                    chained.push(*p);
                }
            }
            None => chained.push(*p),
        }
    }
    *content = chained;
}

/// Joins those that follow each other.
fn join(content: &mut Content, both: impl Fn(&Patch, &Patch) -> Option<Patch>) {
    let mut joined = Content::new();
    for p in content.iter() {
        match joined.last_mut().and_then(|last| both(last, p).map(|j| (last, j))) {
            Some((last, j)) => *last = j,
            None => joined.push(*p),
        }
    }
    *content = joined;
}

/// Joins single rows to the rows that they lie above or below.
fn lone_rows(content: &mut Content) {
    let mut i = 0;
    while i < content.len() {
        let one = content[i];
        let grows = |p: &Patch| {
            let above = |k: usize| one.start[k] + p.pitch[k] == p.start[k];
            let below = |k: usize| p.start[k] + p.rows * p.pitch[k] == one.start[k];
            let like = p.rows > 1 && p.val == one.val && p.len == one.len;
            match like {
                true if above(AT) && above(OFF) => Some(Patch { rows: p.rows + 1, start: one.start, ..*p }.normal()),
                true if below(AT) && below(OFF) => Some(Patch { rows: p.rows + 1, ..*p }.normal()),
                _ => None,
            }
        };
        let found = if one.rows == 1 { content.iter().position(|p| grows(p).is_some()) } else { None };
        match found.and_then(|k| grows(&content[k]).map(|p| (k, p))) {
            Some((k, p)) => {
                content[k] = p;
                content.remove(i);
                i = 0;
            }
            None => i += 1,
        }
    }
}

/// Ranges of addresses.
#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut all = range.clone();
        while let Some((start, end)) = self.0.range(..=all.end).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e >= all.start) {
            self.0.remove(&start);
            all = all.start.min(start)..all.end.max(end);
        }
        self.0.insert(all.start, all.end);
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(s, e)| *s..*e)
    }

    /// Whether all of a range is in it.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.0.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end)
    }

    /// Whether some of a range is in it.
    pub fn meets(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.0.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start)
    }
}

#[cfg(test)]
mod tests;
