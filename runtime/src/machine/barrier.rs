//! A barrier that spins for a moment and then sleeps, and that can be broken.
//!
//! Instructions of a step are microseconds long, so a thread that waits is usually needed again at once; a thread that is not (a long
//! instruction on another thread, more threads than cores) gives its core away.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Where the threads of a team meet.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    spin: u32,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    asleep: AtomicUsize,
    broken: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    /// A barrier for this many threads.
    pub fn new(threads: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Barrier {
            threads,
            spin: if threads <= cores { 4000 } else { 0 },
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Makes the barrier whole. Nobody may be at it.
    pub fn reset(&self) {
        self.arrived.store(0, Ordering::SeqCst);
        self.broken.store(false, Ordering::SeqCst);
    }

    /// Lets everybody go and keeps everybody from passing from now on.
    pub fn break_it(&self) {
        self.broken.store(true, Ordering::SeqCst);
        let _guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }

    /// Whether somebody broke it.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Waits until all threads have come. Returns whether they have: `false` when the barrier is broken.
    pub fn wait(&self) -> bool {
        let generation = self.generation.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.threads {
            self.arrived.store(0, Ordering::SeqCst);
            self.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            // A thread counts itself as asleep, under the lock, before it looks at the generation for the last time; so either it sees the
            // new generation, or it is counted here and holds the lock until it sleeps.
            if self.asleep.load(Ordering::SeqCst) > 0 {
                let _guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
                self.wake.notify_all();
            }
            return !self.broken.load(Ordering::SeqCst);
        }
        let waiting = || self.generation.load(Ordering::SeqCst) == generation && !self.broken.load(Ordering::SeqCst);
        for _ in 0..self.spin {
            if !waiting() {
                return !self.broken.load(Ordering::SeqCst);
            }
            std::hint::spin_loop();
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while waiting() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        !self.broken.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_round_ahead() {
        for threads in [1, 2, 3, 8] {
            let barrier = Barrier::new(threads);
            let count = AtomicUsize::new(0);
            std::thread::scope(|s| {
                for _ in 0..threads {
                    s.spawn(|| {
                        for round in 1..=200 {
                            count.fetch_add(1, Ordering::SeqCst);
                            assert!(barrier.wait());
                            assert_eq!(count.load(Ordering::SeqCst), round * threads);
                            assert!(barrier.wait());
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn breaking_lets_everybody_go() {
        let barrier = Barrier::new(3);
        std::thread::scope(|s| {
            let waiters: Vec<_> = (0..2).map(|_| s.spawn(|| barrier.wait())).collect();
            barrier.break_it();
            for w in waiters {
                assert!(!w.join().unwrap());
            }
        });
        assert!(!barrier.wait() || barrier.threads == 1);
    }
}
