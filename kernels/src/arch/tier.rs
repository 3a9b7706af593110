//! Portable loops compiled once per instruction set.
//!
//! A [`Work`] is a plain loop in safe Rust. Its body is compiled again inside functions that enable wider instructions, so that the
//! compiler vectorizes the same operations in the same order: the bits do not depend on the instruction set.

use crate::isa::Isa;

/// A loop. `run` must be `#[inline(always)]`, else it is compiled for the narrowest instruction set only.
pub(crate) trait Work {
    /// What the loop returns.
    type Out;
    /// Runs it.
    fn run(self) -> Self::Out;
}

/// An instruction set that the processor has: the proof that [`Tier::run`] is sound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tier(Isa);

impl Tier {
    /// The instruction set, or the widest one below it that the processor has.
    pub(crate) fn new(isa: Isa) -> Tier {
        Tier(isa.usable())
    }

    /// Runs the loop in the version for this instruction set.
    pub(crate) fn run<W: Work>(self, work: W) -> W::Out {
        match self.0 {
            // SAFETY: a `Tier` only holds what `Isa::usable` found in the processor.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { wide(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { middle(work) },
            _ => work.run(),
        }
    }

    /// As [`run`](Self::run), in two versions only: for element types whose speed matters less than the size of the program.
    pub(crate) fn run_narrow<W: Work>(self, work: W) -> W::Out {
        match self.0 {
            // SAFETY: as above; AVX-512 includes AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => unsafe { middle(work) },
            _ => work.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn wide<W: Work>(work: W) -> W::Out {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn middle<W: Work>(work: W) -> W::Out {
    work.run()
}
