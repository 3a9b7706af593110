//! When each thread worked on which instruction of which die: what `profile` measures.

use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A thread's work on its part of one instruction.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Span {
    /// Position of the die in the program.
    pub die: u32,
    /// Position in the stream.
    pub instruction: u32,
    /// The thread.
    pub thread: u32,
    /// Nanoseconds since the step began.
    pub start: u64,
    /// Nanoseconds since the step began.
    pub end: u64,
}

/// [`Clock::time`] when there is a clock.
pub(super) fn timed<T>(clock: Option<(&Clock, usize)>, die: usize, instruction: usize, work: impl FnOnce() -> T) -> T {
    match clock {
        Some((clock, thread)) => clock.time(thread, die, instruction, work),
        None => work(),
    }
}

/// Collects the spans of one step; each thread has its own list.
#[derive(Debug)]
pub struct Clock {
    begin: Instant,
    spans: Vec<Mutex<Vec<Span>>>,
}

impl Clock {
    /// Starts now.
    pub fn new(threads: usize) -> Self {
        Clock { begin: Instant::now(), spans: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// Runs `work` and notes how long it took.
    pub(super) fn time<T>(&self, thread: usize, die: usize, instruction: usize, work: impl FnOnce() -> T) -> T {
        let start = self.begin.elapsed().as_nanos() as u64;
        let result = work();
        let span = Span {
            die: die as u32,
            instruction: instruction as u32,
            thread: thread as u32,
            start,
            end: self.begin.elapsed().as_nanos() as u64,
        };
        self.spans[thread].lock().unwrap_or_else(PoisonError::into_inner).push(span);
        result
    }

    /// The spans, thread by thread, and how long it took in all.
    pub fn stop(self) -> (Vec<Span>, u64) {
        let wall = self.begin.elapsed().as_nanos() as u64;
        let lists = self.spans.into_iter().map(|l| l.into_inner().unwrap_or_else(PoisonError::into_inner));
        (lists.flatten().collect(), wall)
    }
}
