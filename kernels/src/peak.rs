//! What one thread of this processor can do at most: the rate of its multiply-add instructions, measured.
//!
//! Products are judged by the fraction of it that they reach. It is measured, not computed from a clock and a data sheet: virtual machines
//! hide the clock, and processors lower it under wide instructions.

use crate::arch;
use crate::isa::Isa;
use girih_ir::types::DType;
use std::time::Instant;

/// Floating-point operations a second of one thread in registers alone: `vfmadd` for f32, `vdpbf16ps` for bf16 where there is one.
///
/// A multiplication and an addition count one each. The best of some fifty runs of a fifth of a millisecond: other work only takes away.
/// Types without a multiply-add of their own get the rate of f32.
pub fn flops(dtype: DType) -> f64 {
    let isa = Isa::detect();
    let bf16 = dtype == DType::BF16;
    let mut rounds = 1000;
    let mut best = 0.0f64;
    let mut runs = 0;
    while runs < 50 {
        let start = Instant::now();
        let operations = arch::spin(isa, bf16, std::hint::black_box(rounds));
        let seconds = start.elapsed().as_secs_f64();
        if seconds < 1e-4 {
            rounds *= 2;
            continue;
        }
        best = best.max(operations as f64 / seconds);
        runs += 1;
    }
    best
}

/// The same of several threads at once, together: their clocks may be lower than that of one alone.
pub fn flops_on(dtype: DType, threads: usize) -> f64 {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(move || flops(dtype))).collect();
        let first = flops(dtype);
        others.into_iter().fold(first, |sum, other| sum + other.join().unwrap_or(0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::{flops, flops_on};
    use girih_ir::types::DType;

    #[test]
    fn rates_are_those_of_a_processor() {
        for dtype in [DType::F32, DType::BF16] {
            let rate = flops(dtype);
            assert!(rate > 1e7 && rate < 1e14, "{dtype}: {rate:e}");
            assert!(flops_on(dtype, 2) > rate / 4.0, "{dtype}: two threads are no slower than one");
        }
    }
}
