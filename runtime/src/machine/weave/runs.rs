//! The bytes of regions as runs, and rectangles of bytes laid over them.

use girih_ir::program::Region;
use smallvec::SmallVec;
use std::ops::Range;

/// Most rectangles that one region is made of.
const MOST_COMBS: u64 = 1 << 12;

/// Rows of bytes of one length at equal distances. Of a single row the distance is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comb {
    pub at: u64,
    pub rows: u64,
    pub len: u64,
    pub pitch: u64,
}

impl Comb {
    /// From the first byte to behind the last.
    pub fn span(&self) -> Range<u64> {
        if self.rows == 0 || self.len == 0 {
            return self.at..self.at;
        }
        self.at..self.at + (self.rows - 1) * self.pitch + self.len
    }
}

/// The bytes of a region in the order of their addresses: runs of equal length, level by level, innermost first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs {
    pub start: u64,
    pub len: u64,
    /// Count and distance.
    levels: SmallVec<[(u64, u64); 3]>,
}

impl Runs {
    /// One run.
    pub fn one(range: Range<u64>) -> Runs {
        Runs { start: range.start, len: range.end - range.start, levels: SmallVec::new() }
    }

    /// Runs of some bytes at some distances: counts and distances, innermost first.
    pub fn walk(start: u64, len: u64, levels: impl Iterator<Item = (u64, u64)>) -> Runs {
        let mut runs = Runs { start, len, levels: SmallVec::new() };
        levels.filter(|l| l.0 != 1).for_each(|(count, step)| runs.level(count, step));
        runs
    }

    /// Adds a level around the others.
    fn level(&mut self, count: u64, step: u64) {
        match self.levels.last_mut() {
            None if step == self.len => self.len *= count,
            Some((n, inner)) if step == *n * *inner => *n *= count,
            _ => self.levels.push((count, step)),
        }
    }

    /// The runs of a region; `None` when they overlap or are too many.
    pub fn of(region: &Region) -> Option<Runs> {
        let size = region.dtype.size() as u64;
        let extent = region.extent()?;
        if extent.is_empty() {
            return Some(Runs::one(extent));
        }
        let walk = region.dims.iter().zip(&region.strides).filter(|(n, s)| **n > 1 && **s != 0);
        let mut dims: SmallVec<[(u64, u64); 6]> = walk.map(|(n, s)| (s.unsigned_abs() * size, *n as u64)).collect();
        dims.sort_unstable();
        let mut runs = Runs { start: extent.start, len: size, levels: SmallVec::new() };
        let mut span = size;
        for (step, count) in dims {
            if step < span {
                return None;
            }
            runs.level(count, step);
            span += step * (count - 1);
        }
        (runs.combs_count() <= MOST_COMBS).then_some(runs)
    }

    /// The runs of a region, or all of its extent.
    pub fn around(region: &Region) -> Option<Runs> {
        Runs::of(region).or_else(|| region.extent().map(Runs::one))
    }

    pub fn count(&self) -> u64 {
        self.levels.iter().map(|l| l.0).product()
    }

    /// How many rectangles these are.
    pub fn combs_count(&self) -> u64 {
        self.levels.iter().skip(1).map(|l| l.0).product()
    }

    pub fn bytes(&self) -> u64 {
        self.count() * self.len
    }

    /// From the first byte to behind the last.
    pub fn span(&self) -> Range<u64> {
        let reach: u64 = self.levels.iter().map(|(n, step)| (n - 1) * step).sum();
        self.start..self.start + reach + self.len
    }

    /// Whether it is more than half of the bytes that it reaches over.
    pub fn is_mostly_full(&self) -> bool {
        let span = self.span();
        2 * self.bytes() > span.end - span.start
    }

    /// Where run `i` starts.
    fn at(&self, mut i: u64) -> u64 {
        let mut at = self.start;
        for (n, step) in &self.levels {
            at += i % n * step;
            i /= n;
        }
        at
    }

    /// Where byte `i` is.
    pub fn byte(&self, i: u64) -> Option<u64> {
        (i < self.bytes()).then(|| self.at(i / self.len) + i % self.len)
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        (0..if self.len == 0 { 0 } else { self.count() }).map(|i| {
            let at = self.at(i);
            at..at + self.len
        })
    }

    /// The runs as rectangles, each with the number of bytes before it.
    pub fn combs(&self) -> impl Iterator<Item = (u64, Comb)> + '_ {
        let (rows, pitch) = self.levels.first().copied().unwrap_or((1, 0));
        let bytes = rows * self.len;
        (0..if self.len == 0 { 0 } else { self.combs_count() })
            .map(move |k| (k * bytes, Comb { at: self.at(k * rows), rows, len: self.len, pitch }))
    }

    /// The same at the beginning of the memory.
    pub fn shape(&self) -> Runs {
        Runs { start: 0, ..self.clone() }
    }

    /// The same elsewhere.
    pub fn shifted(&self, by: i64) -> Option<Runs> {
        Some(Runs { start: self.start.checked_add_signed(by)?, ..self.clone() })
    }

    /// Where a part of these bytes lies, of which `AT` says which ones they are, counted in order.
    pub fn place(&self, part: &Patch, out: &mut Vec<Patch>) {
        let Some((rows, pitch)) = self.levels.first().copied() else {
            let mut part = *part;
            part.start[AT] += self.start;
            out.push(part);
            return;
        };
        spread(*part, self.len, rows, &mut |mut sub, row, col, hop| {
            sub.start[AT] = self.at(row) + col;
            sub.pitch[AT] = match hop {
                Hop::Rows(n) => n * pitch,
                Hop::Bytes(n) => n,
            };
            out.push(sub.normal());
        });
    }
}

/// Number of a value; 0 is what lay in a byte that nothing is known of, with its address as its place in the image.
pub type Val = u32;

/// Bytes of which it was forgotten what they are.
pub const LOST: Val = Val::MAX;

/// Where the bytes of a patch are shown.
pub const AT: usize = 0;
/// Where they are in the image of their value.
pub const OFF: usize = 1;
/// Where they are to go.
pub const TO: usize = 2;

/// Bytes of a value: rows of one length, at equal distances wherever they are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Patch {
    pub val: Val,
    pub rows: u64,
    pub len: u64,
    pub start: [u64; 3],
    pub pitch: [u64; 3],
}

impl Patch {
    /// Rows of a length that lie at one place with one distance, and at another place of the image with another one.
    pub fn new(val: Val, (rows, len): (u64, u64), (at, pitch): (u64, u64), (off, step): (u64, u64)) -> Patch {
        Patch { val, rows, len, start: [at, off, at], pitch: [pitch, step, pitch] }.normal()
    }

    /// One row where rows follow each other everywhere.
    pub fn normal(mut self) -> Patch {
        if self.rows > 1 && self.pitch.iter().all(|p| *p == self.len) {
            self.len *= self.rows;
            self.rows = 1;
        }
        if self.rows == 1 {
            self.pitch = [0; 3];
        }
        self
    }

    pub fn bytes(&self) -> u64 {
        self.rows * self.len
    }

    /// Where it is shown, or is to go, or is in the image.
    pub fn comb(&self, k: usize) -> Comb {
        Comb { at: self.start[k], rows: self.rows, len: self.len, pitch: self.pitch[k] }
    }

    /// The same with `TO` where it is shown.
    pub fn stays(mut self) -> Patch {
        (self.start[TO], self.pitch[TO]) = (self.start[AT], self.pitch[AT]);
        self
    }

    /// Some columns of some rows; rows that follow each other stay rows.
    pub fn window(&self, rows: Range<u64>, cols: Range<u64>) -> Patch {
        let start = std::array::from_fn(|k| self.start[k] + rows.start * self.pitch[k] + cols.start);
        let rows = rows.end - rows.start;
        Patch { rows, len: cols.end - cols.start, start, pitch: if rows > 1 { self.pitch } else { [0; 3] }, ..*self }
    }

    /// Of a single row: rows of a length that follow each other.
    fn rows_of_one(&self, from: u64, rows: u64, len: u64) -> Patch {
        let start = self.start.map(|s| s + from);
        let pitch = if rows > 1 { [len; 3] } else { [0; 3] };
        Patch { val: self.val, rows, len, start, pitch }
    }

    /// The parts whose bytes, counted in order, are those that the `AT` of another patch names, with the parts of that.
    pub fn parts(&self, which: &Patch, f: &mut dyn FnMut(Patch, Patch)) {
        if self.rows == 1 {
            let start = self.start.map(|s| s + which.start[AT]);
            return f(Patch { val: self.val, start, pitch: [which.pitch[AT]; 3], ..*which }, *which);
        }
        spread(*which, self.len, self.rows, &mut |sub, row, col, hop| {
            let start: [u64; 3] = std::array::from_fn(|k| self.start[k] + row * self.pitch[k] + col);
            let pitch = match hop {
                Hop::Bytes(n) => [n; 3],
                Hop::Rows(n) => self.pitch.map(|p| p * n),
            };
            f(Patch { val: self.val, start, pitch, ..sub }, sub);
        });
    }
}

/// How rows that were laid over others go on.
enum Hop {
    /// By so many of those rows.
    Rows(u64),
    /// By so many bytes within one of them.
    Bytes(u64),
}

/// Lays a patch over rows of a length that follow each other, as far as `AT` says; they come in groups. Calls `f` with each part, the row and
/// the column where it begins, and how its rows go on.
fn spread(q: Patch, len: u64, group: u64, f: &mut dyn FnMut(Patch, u64, u64, Hop)) {
    let at = q.start[AT];
    if q.rows == 1 {
        let mut done = 0;
        while done < q.len {
            let (row, col, rest) = ((at + done) / len, (at + done) % len, q.len - done);
            let rows = if col == 0 && rest >= len { (rest / len).min(group - row % group) } else { 1 };
            let own = len.min(rest).min(len - col);
            f(q.rows_of_one(done, rows, own), row, col, Hop::Rows(1));
            done += rows * own;
        }
        return;
    }
    let pitch = q.pitch[AT];
    let (row, col) = (at / len, at % len);
    if pitch.is_multiple_of(len) {
        if col + q.len > len && q.len / len > q.rows {
            // Its rows are the fewer parts.
            return (0..q.rows).for_each(|r| spread(q.window(r..r + 1, 0..q.len), len, group, f));
        }
        if col + q.len > len {
            spread(q.window(0..q.rows, 0..len - col), len, group, f);
            return spread(q.window(0..q.rows, len - col..q.len), len, group, f);
        }
        let by = pitch / len;
        let mut done = 0;
        while done < q.rows {
            let row = row + done * by;
            let rows = ((group - row % group - 1) / by + 1).min(q.rows - done);
            f(q.window(done..done + rows, 0..q.len), row, col, Hop::Rows(by));
            done += rows;
        }
        return;
    }
    let mut done = 0;
    while done < q.rows {
        let (row, col) = ((at + done * pitch) / len, (at + done * pitch) % len);
        if col + q.len > len {
            spread(q.window(done..done + 1, 0..q.len), len, group, f);
            done += 1;
            continue;
        }
        let rows = ((len - col - q.len) / pitch + 1).min(q.rows - done);
        f(q.window(done..done + rows, 0..q.len), row, col, Hop::Bytes(pitch));
        done += rows;
    }
}
