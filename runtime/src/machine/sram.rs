//! The memory of a die, and who may touch which bytes of it when. The only file of the crate with `unsafe`.
//!
//! An [`Sram`] is one block of bytes that starts on a cache line. A task says beforehand, in a [`Lease`], which byte ranges it reads
//! and which it writes; it gets slices of exactly those ranges and nothing else. The slices are sound because:
//!
//! 1. *Inside a task.* [`Lease::new`] refuses ranges that would alias: no written range overlaps another written or read range.
//!    Operands that do overlap a result are `staged`: they can be read before the other slices exist, and the borrow checker ends that
//!    read ([`Access::staged`] borrows the access) before it lets [`Access::views`] hand out anything writable.
//! 2. *Inside the block.* An [`Access`] exists only for a lease that ends inside the block.
//! 3. *One task at a time.* [`Sram::access`] borrows the block mutably, so safe code cannot make a second access.
//! 4. *Threads of a team.* [`Timetable::push`] accepts the leases of one instruction's parts only if no two conflict, and puts a barrier
//!    before the instruction when any of its leases conflicts with one that *another* thread took since the last barrier. So when
//!    [`Timetable::play`] gives thread `t` the lease `(i, t)`, every conflicting lease of another thread lies on the other side of a
//!    barrier that both threads pass, and one of the same thread has ended. A thread that stops early breaks the barrier, and nobody passes a
//!    broken barrier. `play` borrows the block mutably for its whole length.
//! 5. *Loops of a team.* A loop of which thread 0 does everything is run by thread 0 alone, and no barrier stands inside: to the others it is one
//!    long instruction whose leases all stay in the window that later instructions are compared with, and that was compared with the
//!    earlier ones. In any other loop all threads pass a barrier right before every jump (back to the first row, out by `exit_unless`, past a
//!    loop without trips) and at every end of an iteration, so two conflicting leases that a jump brings together are always apart; between
//!    jumps the rows follow each other as they were compared. All threads jump alike: they count for themselves, and whoever writes a
//!    predicate is compared with the leases under which all of them read it.
//! 6. *Ranges that move.* A range of a lease may move by a fixed number of bytes with every iteration of a counted loop. Such a lease says how
//!    often the loop runs, ends above everything its ranges ever reach, and is accepted only into an innermost loop of just so many trips, whose
//!    number of the iteration each thread hands to its accesses. Two ranges that move alike in the same loop keep their distance, and all threads
//!    are in the same iteration between two barriers of a loop; any other pair is compared by all that it ever reaches.
//!
//! None of this trusts the program: a program that passed the checker only never runs into the refusals.
#![allow(unsafe_code)]

use super::barrier::Barrier;
use smallvec::SmallVec;
use std::cell::UnsafeCell;
use std::ops::Range;

/// Half-open byte range.
pub type Bytes = Range<usize>;

/// Alignment of the block, in bytes.
const ALIGN: usize = 64;

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// The SRAM of one die.
pub struct Sram {
    words: Box<[UnsafeCell<u64>]>,
    /// Bytes before the first aligned one.
    skip: usize,
    len: usize,
}

// SAFETY: shared references give out bytes only through `Access`, whose construction is argued in the module documentation.
unsafe impl Sync for Sram {}

impl Sram {
    /// A block of `len` bytes, all zero. The memory is taken from the system only as it is touched.
    pub fn new(len: usize) -> Self {
        let words = vec![0u64; len.div_ceil(8) + ALIGN / 8].into_boxed_slice();
        let raw = Box::into_raw(words) as *mut [UnsafeCell<u64>];
        // SAFETY: `UnsafeCell<u64>` has the representation of `u64`, and the box was just given up.
        let words = unsafe { Box::from_raw(raw) };
        let skip = (words.as_ptr() as usize).next_multiple_of(ALIGN) - words.as_ptr() as usize;
        let sram = Sram { words, skip, len };
        sram.advise();
        sram
    }

    /// Asks for huge pages: a step walks through all of a block that may be gigabytes long, and ordinary pages would miss the TLB at every row.
    #[cfg(target_os = "linux")]
    fn advise(&self) {
        let (start, end) = (self.base() as usize, self.base() as usize + self.len);
        let (first, last) = (start.next_multiple_of(HUGE), end / HUGE * HUGE);
        if first < last {
            let from = self.base().wrapping_add(first - start);
            // SAFETY: the range lies in the allocation, and the advice changes no byte of it. A system that does not take it loses nothing.
            let _ = unsafe { rustix::mm::madvise(from.cast(), last - first, rustix::mm::Advice::LinuxHugepage) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn advise(&self) {}

    /// All bytes, for reading.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: writable slices exist only while the block is borrowed mutably (3, 4), so not while this borrow lives.
        unsafe { self.read(&(0..self.len)) }
    }

    /// All bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the allocation, and the exclusive borrow of `self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.base(), self.len) }
    }

    /// The one access to what the lease names; `None` when the lease ends outside the block or moves.
    pub fn access<'a>(&'a mut self, lease: &'a Lease) -> Option<Access<'a>> {
        (lease.end <= self.len && lease.trips.is_none()).then_some(Access { sram: self, lease, turn: 0 })
    }

    fn base(&self) -> *mut u8 {
        // SAFETY: the allocation is `ALIGN` bytes longer than `len`, and `skip` is less than that.
        unsafe { (self.words.as_ptr() as *mut u8).add(self.skip) }
    }

    /// # Safety
    /// The range lies in the block, and nobody writes to it while the slice lives.
    unsafe fn read(&self, range: &Bytes) -> &[u8] {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts(self.base().add(range.start), range.len()) }
    }

    /// # Safety
    /// The range lies in the block, and nobody else touches it while the slice lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn write(&self, range: &Bytes) -> &mut [u8] {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.base().add(range.start), range.len()) }
    }
}

impl std::fmt::Debug for Sram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sram({} bytes)", self.len)
    }
}

/// A range of bytes, which may move with the iterations of a counted loop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moving {
    /// Where it is in iteration 0.
    pub bytes: Bytes,
    /// How far it moves in an iteration.
    pub step: isize,
}

impl Moving {
    /// A range that stays.
    pub fn still(bytes: Bytes) -> Self {
        Moving { bytes, step: 0 }
    }

    /// Where it is in an iteration; the lease has checked that it leaves no address space until its last one.
    fn at(&self, turn: usize) -> Bytes {
        let shift = self.step.wrapping_mul(turn as isize);
        self.bytes.start.wrapping_add_signed(shift)..self.bytes.end.wrapping_add_signed(shift)
    }

    /// All that it reaches in so many iterations; `None` when that leaves the address space.
    pub fn reach(&self, trips: u64) -> Option<Bytes> {
        let far = self.step.checked_mul(isize::try_from(trips.saturating_sub(1)).ok()?)?;
        let start = self.bytes.start.checked_add_signed(far.min(0))?;
        Some(start..self.bytes.end.checked_add_signed(far.max(0))?)
    }

    /// Whether the two share a byte in some iteration of a loop of so many trips.
    pub fn meets(&self, other: &Moving, trips: u64) -> bool {
        if self.step == other.step {
            return overlap(&self.bytes, &other.bytes);
        }
        self.reach(trips).zip(other.reach(trips)).is_none_or(|(a, b)| overlap(&a, &b))
    }
}

/// The byte ranges that one task touches.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    reads: SmallVec<[Moving; 4]>,
    writes: SmallVec<[Moving; 2]>,
    staged: SmallVec<[Moving; 2]>,
    end: usize,
    /// How often the loop runs with which the ranges move; `None` when all stay.
    trips: Option<u64>,
    /// The row at which that loop begins.
    frame: Option<usize>,
}

/// Whether two ranges share a byte.
pub fn overlap(a: &Bytes, b: &Bytes) -> bool {
    a.start < b.end && b.start < a.end && !a.is_empty() && !b.is_empty()
}

impl Lease {
    /// A lease of these ranges; `None` when a written range overlaps another written range or a read one.
    pub fn new(reads: &[Bytes], writes: &[Bytes], staged: &[Bytes]) -> Option<Lease> {
        fn still<const N: usize>(ranges: &[Bytes]) -> SmallVec<[Moving; N]>
        where
            [Moving; N]: smallvec::Array<Item = Moving>,
        {
            ranges.iter().cloned().map(Moving::still).collect()
        }
        Lease::moving(still(reads), still(writes), still(staged), 1)
    }

    /// A lease of ranges in a loop of so many trips; `None` also when one leaves the address space.
    pub fn moving(reads: SmallVec<[Moving; 4]>, writes: SmallVec<[Moving; 2]>, staged: SmallVec<[Moving; 2]>, trips: u64) -> Option<Lease> {
        let all = || reads.iter().chain(&writes).chain(&staged);
        let alias = writes.iter().enumerate().any(|(i, w)| writes[..i].iter().chain(&reads).any(|o| w.meets(o, trips)));
        if alias || trips == 0 || all().any(|r| r.bytes.start > r.bytes.end) {
            return None;
        }
        let end = all().map(|r| r.reach(trips).map(|b| b.end)).try_fold(0, |end, b| b.map(|b| end.max(b)))?;
        let moves = all().any(|r| r.step != 0);
        Some(Lease { reads, writes, staged, end, trips: moves.then_some(trips), frame: None })
    }

    /// Whether the two may not be held at once by two threads.
    pub fn conflicts(&self, other: &Lease) -> bool {
        let together = self.frame.is_some() && self.frame == other.frame;
        let reach = |lease: &Lease, range: &Moving| range.reach(lease.trips.unwrap_or(1));
        let meet = |a: &Moving, b: &Moving| {
            if a.step == b.step && (a.step == 0 || together) {
                return overlap(&a.bytes, &b.bytes);
            }
            reach(self, a).zip(reach(other, b)).is_none_or(|(a, b)| overlap(&a, &b))
        };
        let read = |lease: &Lease, hit: &dyn Fn(&Moving) -> bool| lease.reads.iter().chain(&lease.staged).any(hit);
        self.writes.iter().any(|w| other.writes.iter().any(|o| meet(w, o)) || read(other, &|r| meet(w, r)))
            || other.writes.iter().any(|w| read(self, &|r| meet(r, w)))
    }
}

/// The right to what a lease names.
pub struct Access<'a> {
    sram: &'a Sram,
    lease: &'a Lease,
    /// The iteration.
    turn: usize,
}

/// The slices of a lease, in its order.
pub struct Views<'v> {
    /// Ranges that are read.
    pub reads: SmallVec<[&'v [u8]; 4]>,
    /// Ranges that are written.
    pub writes: SmallVec<[&'v mut [u8]; super::task::RUNS]>,
}

impl Access<'_> {
    /// Staged range `k`, to be copied away.
    pub fn staged(&self, k: usize) -> &[u8] {
        // SAFETY: the lease ends inside the block in every iteration (6); nothing writable exists, for `views` needs this access mutably;
        // other threads do not write there (module documentation, 3 and 4).
        unsafe { self.sram.read(&self.lease.staged[k].at(self.turn)) }
    }

    /// All other ranges.
    pub fn views(&mut self) -> Views<'_> {
        // SAFETY: the lease ends inside the block in every iteration (6), its ranges do not alias (1), and nobody else holds a conflicting
        // lease (3, 4). The slices borrow this access mutably, so there is one set of them.
        let reads = self.lease.reads.iter().map(|r| unsafe { self.sram.read(&r.at(self.turn)) }).collect();
        let writes = self.lease.writes.iter().map(|r| unsafe { self.sram.write(&r.at(self.turn)) }).collect();
        Views { reads, writes }
    }
}

/// One instruction of a team: the lease of each part; part `t` runs on thread `t`.
#[derive(Debug)]
struct Row {
    barrier: bool,
    leases: SmallVec<[Lease; 2]>,
    turn: Turn,
}

/// How a row goes on.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// With its parts, then the next row.
    Work,
    /// Begins a loop; `after` is the row behind its end. `solo`: thread 0 runs it alone.
    Loop { trips: Option<u64>, after: usize, solo: bool },
    /// Thread 0 writes the number of the iteration.
    Index,
    /// Every thread reads the predicate.
    Exit { after: usize, solo: bool },
    /// The end of an iteration; `head` is its first row.
    End { trips: Option<u64>, head: usize },
}

/// A loop whose end is still to come.
#[derive(Debug)]
struct OpenLoop {
    row: usize,
    trips: Option<u64>,
    exits: SmallVec<[usize; 1]>,
}

/// What the threads of a team do, instruction by instruction, with barriers where their work would conflict.
#[derive(Debug)]
pub struct Timetable {
    threads: usize,
    rows: Vec<Row>,
    /// First row since the last barrier.
    open: usize,
    end: usize,
    loops: Vec<OpenLoop>,
    /// The row at which the outermost loop begins that thread 0 runs alone, while rows are added to it.
    solo: Option<usize>,
}

/// Rows after which a barrier comes in any case, so that building a timetable takes linear time.
const WINDOW: usize = 24;

impl Timetable {
    /// An empty timetable for a team.
    pub fn new(threads: usize) -> Self {
        Timetable { threads: threads.max(1), rows: Vec::new(), open: 0, end: 0, loops: Vec::new(), solo: None }
    }

    /// Adds an instruction. The leases come back when they conflict among themselves, are more than the threads that take part, or move with
    /// another loop than the innermost.
    pub fn push(&mut self, leases: SmallVec<[Lease; 2]>) -> Result<(), SmallVec<[Lease; 2]>> {
        self.add(leases, Turn::Work)
    }

    fn add(&mut self, mut leases: SmallVec<[Lease; 2]>, turn: Turn) -> Result<(), SmallVec<[Lease; 2]>> {
        for lease in leases.iter_mut().filter(|l| l.trips.is_some()) {
            lease.frame = self.loops.last().filter(|open| open.trips == lease.trips).map(|open| open.row);
        }
        if leases.iter().any(|l| l.trips.is_some() && l.frame.is_none()) {
            return Err(leases);
        }
        let clash = leases.iter().enumerate().any(|(i, a)| leases[..i].iter().any(|b| a.conflicts(b)));
        let most = if self.solo.is_some() { 1 } else { self.threads };
        if clash || leases.len() > most {
            return Err(leases);
        }
        let crosses = |row: &Row| {
            let pairs = row.leases.iter().enumerate().flat_map(|(t, a)| leases.iter().enumerate().map(move |(u, b)| (t, a, u, b)));
            pairs.into_iter().any(|(t, a, u, b)| t != u && a.conflicts(b))
        };
        // Other threads pass a solo loop without a look inside, so the barrier goes before it; rows of the loop itself are thread 0's.
        let earlier = &self.rows[self.open..self.solo.map_or(self.rows.len(), |s| s.max(self.open))];
        let long = self.solo.is_none() && earlier.len() >= WINDOW;
        let barrier = self.threads > 1 && (long || earlier.iter().any(crosses));
        if barrier {
            self.open = self.solo.unwrap_or(self.rows.len());
        }
        if let Some(start) = self.solo {
            self.rows[start].barrier |= barrier;
        }
        self.end = leases.iter().map(|l| l.end).fold(self.end, usize::max);
        self.rows.push(Row { barrier: barrier && self.solo.is_none(), leases, turn });
        Ok(())
    }

    /// Begins a loop; `index` writes the eight bytes of the iteration's number. `solo` promises that no instruction of it has two parts.
    /// Returns the number of rows that it adds.
    pub fn begin_loop(&mut self, trips: Option<u64>, index: Option<Lease>, solo: bool) -> usize {
        let solo = solo || self.solo.is_some();
        let row = self.rows.len();
        let long = self.threads > 1 && self.solo.is_none() && row - self.open >= WINDOW;
        if long {
            self.open = row;
        }
        self.rows.push(Row { barrier: long, leases: SmallVec::new(), turn: Turn::Loop { trips, after: 0, solo } });
        self.loops.push(OpenLoop { row, trips, exits: SmallVec::new() });
        if solo {
            self.solo.get_or_insert(row);
        }
        match index {
            Some(lease) if lease.writes.len() == 1 && lease.writes[0].bytes.len() == 8 => {
                let added = self.add(SmallVec::from_elem(lease, 1), Turn::Index);
                debug_assert!(added.is_ok(), "one lease is no clash");
                2
            }
            _ => 1,
        }
    }

    /// Leaves the innermost loop when the byte that the lease reads is 0; `false` when there is no loop or the lease is not of one byte.
    pub fn exit_unless(&mut self, predicate: Lease) -> bool {
        let solo = self.solo.is_some();
        let row = self.rows.len();
        let Some(open) = self.loops.last_mut().filter(|_| predicate.reads.len() == 1 && predicate.reads[0].bytes.len() == 1) else {
            return false;
        };
        open.exits.push(row);
        let readers = if solo { 1 } else { self.threads };
        self.add(SmallVec::from_elem(predicate, readers), Turn::Exit { after: 0, solo }).is_ok()
    }

    /// Ends the innermost loop; `false` when there is none.
    pub fn end_loop(&mut self) -> bool {
        let Some(open) = self.loops.pop() else { return false };
        let solo = self.solo.is_some();
        let end = self.rows.len();
        let team = self.threads > 1 && !solo;
        self.rows.push(Row { barrier: team, leases: SmallVec::new(), turn: Turn::End { trips: open.trips, head: open.row + 1 } });
        for row in open.exits.iter().copied().chain([open.row]) {
            if let Turn::Loop { after, .. } | Turn::Exit { after, .. } = &mut self.rows[row].turn {
                *after = end + 1;
            }
        }
        if team {
            self.open = end + 1;
        }
        if self.solo == Some(open.row) {
            self.solo = None;
        }
        true
    }

    /// Barriers so far.
    pub fn barriers(&self) -> usize {
        self.rows.iter().filter(|r| r.barrier).count()
    }

    /// Runs the timetable: `run(thread, row, access)` for every part, on the threads of `team`, and `again(row)` before every further
    /// iteration of a loop without trips that ends at that row. A thread that is not to go on, or panics, stops the others at their next
    /// barrier. Returns `false` when the block is too short or a loop has no end.
    pub fn play(&self, sram: &mut Sram, team: &super::team::Team, run: &Run<'_>, again: &Again<'_>) -> bool {
        if self.end > sram.len || team.threads() < self.threads || !self.loops.is_empty() {
            return false;
        }
        let sram: &Sram = sram;
        let barrier = team.barrier();
        barrier.reset();
        team.broadcast(&|thread| {
            let breaker = BreakOnPanic(barrier);
            let (mut at, mut counts) = (0, SmallVec::<[u64; 4]>::new());
            while let Some(row) = self.rows.get(at) {
                if row.barrier && !barrier.wait() {
                    break;
                }
                let turn = counts.last().map_or(0, |count| *count as usize);
                let access = |k: usize| row.leases.get(k).map(|lease| Access { sram, lease, turn });
                let next = match row.turn {
                    Turn::Work => match access(thread) {
                        Some(access) => run(thread, at, access).then_some(at + 1),
                        None => Some(at + 1),
                    },
                    turn => self.turn(turn, at, thread, access(thread), &mut counts, barrier, again),
                };
                match next {
                    Some(next) => at = next,
                    None => {
                        barrier.break_it();
                        break;
                    }
                }
            }
            std::mem::forget(breaker);
        });
        true
    }

    /// The row after a control row; `None` when the thread is not to go on.
    #[allow(clippy::too_many_arguments)]
    fn turn(
        &self,
        turn: Turn,
        at: usize,
        thread: usize,
        access: Option<Access<'_>>,
        counts: &mut SmallVec<[u64; 4]>,
        barrier: &Barrier,
        again: &Again<'_>,
    ) -> Option<usize> {
        // The barrier that stands before every jump of a loop that all threads run.
        let jump = |solo: bool, to: usize| (solo || self.threads == 1 || barrier.wait()).then_some(to);
        match turn {
            Turn::Work => Some(at + 1),
            Turn::Loop { after, solo: true, .. } if thread != 0 => Some(after),
            Turn::Loop { trips: Some(0), after, solo } => jump(solo, after),
            Turn::Loop { .. } => {
                counts.push(0);
                Some(at + 1)
            }
            Turn::Index => {
                if let (Some(mut access), Some(count)) = (access, counts.last()) {
                    access.views().writes[0].copy_from_slice(&count.to_ne_bytes());
                }
                Some(at + 1)
            }
            Turn::Exit { after, solo } => {
                let go_on = access.is_some_and(|mut a| a.views().reads[0][0] != 0);
                if go_on {
                    return Some(at + 1);
                }
                counts.pop();
                jump(solo, after)
            }
            // The barrier of a team stands before this row, so all threads are between two iterations.
            Turn::End { trips, head } => {
                let count = counts.last_mut()?;
                *count += 1;
                if trips == Some(*count) {
                    counts.pop();
                    return Some(at + 1);
                }
                (!barrier.is_broken() && (trips.is_some() || again(at))).then_some(head)
            }
        }
    }
}

/// Runs a part: thread, row, what it may touch. Returns whether to go on.
pub type Run<'a> = dyn Fn(usize, usize, Access<'_>) -> bool + Sync + 'a;

/// Whether the loop without trips that ends at this row may go on.
pub type Again<'a> = dyn Fn(usize) -> bool + Sync + 'a;

/// Breaks the barrier when it is dropped, which happens only while a panic unwinds.
struct BreakOnPanic<'b>(&'b Barrier);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        self.0.break_it();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn aliases_are_refused_and_staging_allows_them() {
        assert!(Lease::new(&[0..8], &[4..12], &[]).is_none());
        assert!(Lease::new(&[], &[0..8, 4..12], &[]).is_none());
        assert!(Lease::new(&[0..8, 4..12], &[12..16], &[]).is_some());
        let lease = Lease::new(&[], &[0..8], &[4..12]).unwrap();
        let mut sram = Sram::new(16);
        sram.bytes_mut()[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut access = sram.access(&lease).unwrap();
        let copy = access.staged(0).to_vec();
        access.views().writes[0].copy_from_slice(&copy);
        assert_eq!(sram.bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 0, 0, 0, 0]);
        assert!(sram.access(&Lease::new(&[8..17], &[], &[]).unwrap()).is_none());
    }

    #[test]
    fn ranges_that_move_alike_keep_their_distance() {
        let range = |bytes: Bytes, step: isize| Moving { bytes, step };
        let lease = |reads: &[Moving], writes: &[Moving], trips| Lease::moving(reads.into(), writes.into(), SmallVec::new(), trips);
        assert!(lease(&[range(0..4, 8)], &[range(4..8, 8)], 3).is_some());
        assert!(lease(&[range(0..4, 0)], &[range(8..12, -4)], 2).is_some());
        assert!(lease(&[range(0..4, 0)], &[range(8..12, -4)], 3).is_none(), "it gets there");
        assert!(lease(&[], &[range(8..12, -4)], 4).is_none(), "it leaves the address space");
        assert_eq!(lease(&[range(0..4, 8)], &[], 3).unwrap().end, 20);

        let halves = |at: usize, step: isize| -> SmallVec<[Lease; 2]> {
            (0..2).map(|t| lease(&[], &[range(at + 4 * t..at + 4 * t + 4, step)], 3).unwrap()).collect()
        };
        let mut table = Timetable::new(2);
        assert!(table.push(halves(0, 8)).is_err(), "there is no loop");
        table.begin_loop(Some(3), None, false);
        assert!(table.push(halves(0, 4)).is_ok());
        table.push(halves(0, 4)).unwrap();
        assert_eq!(table.barriers(), 0);
        table.push(halves(0, 8)).unwrap();
        assert_eq!(table.barriers(), 1, "now each half is the other thread's in some iteration");
        table.begin_loop(Some(2), None, false);
        assert!(table.push(halves(0, 8)).is_err(), "the innermost loop has other trips");
        assert!(table.end_loop() && table.end_loop());

        let mut sram = Sram::new(24);
        let mut table = Timetable::new(1);
        table.begin_loop(Some(3), None, true);
        table.push(smallvec![lease(&[], &[range(16..24, -8)], 3).unwrap()]).unwrap();
        table.end_loop();
        assert!(sram.access(&table.rows[1].leases[0]).is_none());
        let team = super::super::team::Team::new(1).unwrap();
        let next = std::sync::atomic::AtomicU8::new(1);
        let run = |_: usize, _: usize, mut access: Access<'_>| {
            access.views().writes[0].fill(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
            true
        };
        assert!(table.play(&mut sram, &team, &run, &|_| true));
        let first: Vec<u8> = sram.bytes().iter().step_by(8).copied().collect();
        assert_eq!(first, [3, 2, 1]);
    }

    #[test]
    fn blocks_start_on_a_cache_line() {
        for len in [0, 1, 63, 64, 1000] {
            let sram = Sram::new(len);
            assert_eq!(sram.bytes().len(), len);
            assert_eq!(sram.base() as usize % ALIGN, 0);
        }
    }

    #[test]
    fn barriers_come_only_between_threads_that_conflict() {
        let mut table = Timetable::new(2);
        let lease = |r: Bytes, w: Bytes| Lease::new(&[r], &[w], &[]).unwrap();
        // Both threads work on their own half, then thread 0 reads what thread 1 wrote.
        table.push(smallvec![lease(0..4, 8..12), lease(4..8, 12..16)]).unwrap();
        table.push(smallvec![lease(8..12, 0..4), lease(12..16, 4..8)]).unwrap();
        assert_eq!(table.barriers(), 0);
        table.push(smallvec![lease(0..8, 16..20)]).unwrap();
        assert_eq!(table.barriers(), 1);
        assert!(table.push(smallvec![lease(0..4, 8..12), lease(8..12, 16..20)]).is_err());
    }
}
