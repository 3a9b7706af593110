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
        Sram { words, skip, len }
    }

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

    /// The one access to what the lease names; `None` when the lease ends outside the block.
    pub fn access<'a>(&'a mut self, lease: &'a Lease) -> Option<Access<'a>> {
        (lease.end <= self.len).then_some(Access { sram: self, lease })
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

/// The byte ranges that one task touches.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    reads: SmallVec<[Bytes; 4]>,
    writes: SmallVec<[Bytes; 2]>,
    staged: SmallVec<[Bytes; 2]>,
    end: usize,
}

/// Whether two ranges share a byte.
pub fn overlap(a: &Bytes, b: &Bytes) -> bool {
    a.start < b.end && b.start < a.end && !a.is_empty() && !b.is_empty()
}

impl Lease {
    /// A lease of these ranges; `None` when a written range overlaps another written range or a read one.
    pub fn new(reads: &[Bytes], writes: &[Bytes], staged: &[Bytes]) -> Option<Lease> {
        let all = || reads.iter().chain(writes).chain(staged);
        let alias = writes.iter().enumerate().any(|(i, w)| writes[..i].iter().chain(reads).any(|o| overlap(w, o)));
        if alias || all().any(|r| r.start > r.end) {
            return None;
        }
        let end = all().map(|r| r.end).max().unwrap_or(0);
        Some(Lease { reads: reads.into(), writes: writes.into(), staged: staged.into(), end })
    }

    /// Whether the two may not be held at once by two threads.
    pub fn conflicts(&self, other: &Lease) -> bool {
        let hits = |a: &Lease, b: &Lease| a.writes.iter().any(|w| b.reads.iter().chain(&b.staged).any(|r| overlap(w, r)));
        let both = self.writes.iter().any(|w| other.writes.iter().any(|o| overlap(w, o)));
        both || hits(self, other) || hits(other, self)
    }
}

/// The right to what a lease names.
pub struct Access<'a> {
    sram: &'a Sram,
    lease: &'a Lease,
}

/// The slices of a lease, in its order.
pub struct Views<'v> {
    /// Ranges that are read.
    pub reads: SmallVec<[&'v [u8]; 4]>,
    /// Ranges that are written.
    pub writes: SmallVec<[&'v mut [u8]; 2]>,
}

impl Access<'_> {
    /// Staged range `k`, to be copied away.
    pub fn staged(&self, k: usize) -> &[u8] {
        // SAFETY: the lease ends inside the block; nothing writable exists, for `views` needs this access mutably; other threads do not
        // write there (module documentation, 3 and 4).
        unsafe { self.sram.read(&self.lease.staged[k]) }
    }

    /// All other ranges.
    pub fn views(&mut self) -> Views<'_> {
        // SAFETY: the lease ends inside the block, its ranges do not alias (1), and nobody else holds a conflicting lease (3, 4). The
        // slices borrow this access mutably, so there is one set of them.
        let reads = self.lease.reads.iter().map(|r| unsafe { self.sram.read(r) }).collect();
        let writes = self.lease.writes.iter().map(|r| unsafe { self.sram.write(r) }).collect();
        Views { reads, writes }
    }
}

/// One instruction of a team: the lease of each part; part `t` runs on thread `t`.
#[derive(Debug)]
struct Row {
    barrier: bool,
    leases: SmallVec<[Lease; 2]>,
}

/// What the threads of a team do, instruction by instruction, with barriers where their work would conflict.
#[derive(Debug)]
pub struct Timetable {
    threads: usize,
    rows: Vec<Row>,
    /// First row since the last barrier.
    open: usize,
    end: usize,
}

/// Rows after which a barrier comes in any case, so that building a timetable takes linear time.
const WINDOW: usize = 24;

impl Timetable {
    /// An empty timetable for a team.
    pub fn new(threads: usize) -> Self {
        Timetable { threads: threads.max(1), rows: Vec::new(), open: 0, end: 0 }
    }

    /// Adds an instruction. The leases come back when they conflict among themselves or are more than the threads.
    pub fn push(&mut self, leases: SmallVec<[Lease; 2]>) -> Result<(), SmallVec<[Lease; 2]>> {
        let clash = leases.iter().enumerate().any(|(i, a)| leases[..i].iter().any(|b| a.conflicts(b)));
        if clash || leases.len() > self.threads {
            return Err(leases);
        }
        let earlier = &self.rows[self.open..];
        let crosses = |row: &Row| {
            let pairs = row.leases.iter().enumerate().flat_map(|(t, a)| leases.iter().enumerate().map(move |(u, b)| (t, a, u, b)));
            pairs.into_iter().any(|(t, a, u, b)| t != u && a.conflicts(b))
        };
        let barrier = self.threads > 1 && (earlier.len() >= WINDOW || earlier.iter().any(crosses));
        if barrier {
            self.open = self.rows.len();
        }
        self.end = leases.iter().map(|l| l.end).fold(self.end, usize::max);
        self.rows.push(Row { barrier, leases });
        Ok(())
    }

    /// Barriers so far.
    pub fn barriers(&self) -> usize {
        self.rows.iter().filter(|r| r.barrier).count()
    }

    /// Runs the timetable: `run(thread, row, access)` for every part, on the threads of `team`. `run` returns whether to go on; a thread
    /// that does not go on, or panics, stops the others at their next barrier. Returns `false` when the block is too short.
    pub fn play(&self, sram: &mut Sram, team: &super::team::Team, run: &(dyn Fn(usize, usize, Access<'_>) -> bool + Sync)) -> bool {
        if self.end > sram.len || team.threads() < self.threads {
            return false;
        }
        let sram: &Sram = sram;
        let barrier = team.barrier();
        barrier.reset();
        team.broadcast(&|thread| {
            let breaker = BreakOnPanic(barrier);
            for (index, row) in self.rows.iter().enumerate() {
                if row.barrier && !barrier.wait() {
                    break;
                }
                let Some(lease) = row.leases.get(thread) else { continue };
                if !run(thread, index, Access { sram, lease }) {
                    barrier.break_it();
                    break;
                }
            }
            std::mem::forget(breaker);
        });
        true
    }
}

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
