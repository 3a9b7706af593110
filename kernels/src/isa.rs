//! Which instruction set a kernel may use: a parameter of every call, so that tests and differential runs can force one.

use std::sync::OnceLock;

/// An instruction set, narrowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Portable Rust.
    Scalar,
    /// AVX2, FMA and F16C: 8 lanes of f32.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 lanes of f32 and masks.
    Avx512,
}

impl Isa {
    /// Every instruction set, narrowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// The widest instruction set of this processor.
    pub fn detect() -> Isa {
        static WIDEST: OnceLock<Isa> = OnceLock::new();
        *WIDEST.get_or_init(widest)
    }

    /// Whether the processor multiplies and adds pairs of bf16 (`vdpbf16ps`), which [`Isa::Avx512`] then uses.
    pub fn has_bf16_pairs() -> bool {
        static HAS: OnceLock<bool> = OnceLock::new();
        *HAS.get_or_init(|| Isa::detect() == Isa::Avx512 && bf16_pairs())
    }

    /// This instruction set, or the widest one that the processor has when it lacks this one.
    pub fn usable(self) -> Isa {
        self.min(Isa::detect())
    }

    /// The instruction sets that this processor can run, narrowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| *isa <= Isa::detect())
    }

    /// The name in reports: `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn widest() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match avx2 {
        true if avx512 => Isa::Avx512,
        true => Isa::Avx2,
        false => Isa::Scalar,
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16_pairs() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_pairs() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn widest() -> Isa {
    Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::Isa;

    #[test]
    fn forcing_never_exceeds_the_processor() {
        for isa in Isa::ALL {
            assert!(isa.usable() <= Isa::detect());
            assert!(isa.usable() <= isa);
        }
        assert_eq!(Isa::available().next(), Some(Isa::Scalar));
        assert_eq!(Isa::available().last(), Some(Isa::detect()));
    }
}
