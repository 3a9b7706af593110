//! Machine code that was made at run time: memory that is first written and then executed, and calls of it.
//!
//! Memory is never writable and executable at once.

use smallvec::SmallVec;

/// A function in executable memory.
#[derive(Debug)]
pub(crate) struct Code {
    memory: *mut u8,
    bytes: usize,
}

// SAFETY: the memory is never written after `Code::new`, and freed by `drop` alone.
unsafe impl Send for Code {}
// SAFETY: as above; calls only read it.
unsafe impl Sync for Code {}

/// What one pointer of a function is for.
pub(crate) enum Arg<'a> {
    /// Bytes that it reads.
    Read(&'a [u8], Reach),
    /// Bytes that it reads and writes.
    Write(&'a mut [u8], Reach),
    /// A number, and what is added to it from row to row.
    Number(i64, i64),
}

/// Which bytes of a slice a function touches: `width` in each row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Where those of the first row start.
    pub(crate) first: isize,
    /// Bytes in a row.
    pub(crate) width: usize,
    /// From row to row.
    pub(crate) stride: isize,
}

impl Reach {
    fn check(&self, rows: usize, len: usize) {
        let last = self.first as i128 + (rows as i128 - 1) * self.stride as i128;
        let (low, high) = (last.min(self.first as i128), last.max(self.first as i128) + self.width as i128);
        assert!(low >= 0 && high <= len as i128, "a compiled program reaches outside an operand");
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Code {
    /// Puts code into executable memory; `None` when the system refuses.
    pub(crate) fn new(code: &[u8]) -> Option<Code> {
        let bytes = code.len().next_multiple_of(4096);
        // SAFETY: a new private mapping, not at a fixed address; it is checked, written inside its length, and only then made executable.
        unsafe {
            let memory =
                libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            if memory == libc::MAP_FAILED {
                return None;
            }
            let made = Code { memory: memory.cast(), bytes };
            std::ptr::copy_nonoverlapping(code.as_ptr(), made.memory, code.len());
            (libc::mprotect(memory, bytes, libc::PROT_READ | libc::PROT_EXEC) == 0).then_some(made)
        }
    }

    fn release(&mut self) {
        // SAFETY: the mapping of `new`, which nothing uses any more.
        unsafe { libc::munmap(self.memory.cast(), self.bytes) };
    }

    /// Calls a function that [`crate::jit`] made, on `rows` ≥ 1 rows of `columns` ≥ 1 columns, with one argument a pointer.
    ///
    /// The argument's `width` must be the bytes of one row of that pointer's operand: the function touches no others.
    pub(crate) fn call(&self, rows: usize, columns: usize, args: &mut [Arg<'_>]) {
        assert!(rows > 0 && columns > 0 && crate::isa::Isa::detect() == crate::isa::Isa::Avx512, "compiled programs need rows and AVX-512");
        let left = columns % 64;
        let mask = |c: usize| (1u64 << left.saturating_sub(16 * c).min(16)) - 1;
        let masks = if columns <= 64 {
            // Straight-line code wants the mask of its last vector.
            (1u64 << ((columns - 1) % 16 + 1)) - 1
        } else {
            (0..4).map(|c| mask(c) << (16 * c)).sum()
        };
        let mut table: SmallVec<[u64; 64]> = SmallVec::from_slice(&[(columns - left) as u64, rows as u64, masks]);
        for arg in &mut *args {
            table.push(match arg {
                Arg::Read(bytes, reach) => {
                    reach.check(rows, bytes.len());
                    bytes.as_ptr().wrapping_offset(reach.first) as u64
                }
                Arg::Write(bytes, reach) => {
                    reach.check(rows, bytes.len());
                    bytes.as_mut_ptr().wrapping_offset(reach.first) as u64
                }
                Arg::Number(n, _) => *n as u64,
            });
        }
        for arg in &*args {
            table.push(match arg {
                Arg::Read(_, reach) | Arg::Write(_, reach) => reach.stride as u64,
                Arg::Number(_, step) => *step as u64,
            });
        }
        // SAFETY: the memory holds a complete function of this type. It keeps the registers that the convention tells it to keep, and touches its own
        // frame, the table, and of every pointer `width` bytes in each of `rows` rows, which were checked against the slices above.
        unsafe {
            let function: extern "sysv64" fn(*mut u64) = std::mem::transmute(self.memory);
            function(table.as_mut_ptr());
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Code {
    /// No code is made on this system.
    pub(crate) fn new(_: &[u8]) -> Option<Code> {
        None
    }

    fn release(&mut self) {}

    /// Never called: there is no code.
    pub(crate) fn call(&self, _: usize, _: usize, _: &mut [Arg<'_>]) {}
}

impl Drop for Code {
    fn drop(&mut self) {
        self.release();
    }
}
