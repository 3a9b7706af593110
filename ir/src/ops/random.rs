//! `random`: counter-based random numbers, Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A number depends on the seed, the two operands and its own row-major index in the logical tensor only, so every split over dies and threads
//! makes the same numbers. The key of the stream is made from `seed` (one an op) and the key operand (one a run); the counter operand is
//! the step. Two ops with equal attributes and operands are one op: give each its own seed.
//! (C1) two operands, key and counter: scalars of type `u32` or `u64`; (C2) `bits` needs an integer type, `uniform` (in [0, 1)) and `normal`
//! (mean 0, variance 1) a floating-point type.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::Axes;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType, Type};
use serde::{Deserialize, Serialize};

/// What the numbers are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Distribution {
    /// Uniform integers of the whole type.
    Bits,
    /// Uniform in [0, 1), a multiple of the type's step below 1.
    Uniform,
    /// Standard normal, by Box and Muller's transform.
    Normal,
}

impl Distribution {
    /// Every distribution.
    pub const ALL: [Distribution; 3] = [Distribution::Bits, Distribution::Uniform, Distribution::Normal];

    /// The name in the text forms.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Bits => "bits",
            Distribution::Uniform => "uniform",
            Distribution::Normal => "normal",
        }
    }

    /// The distribution of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Distribution::ALL.into_iter().find(|d| d.name() == name)
    }
}

crate::op_attrs! {
    /// See the module.
    Random {
        /// What the numbers are.
        distribution: Distribution,
        /// Element type.
        dtype: DType,
        /// Extents of the result.
        shape: Dims,
        /// Tells this op's numbers from every other op's.
        seed: i64,
    }
}

/// Ten rounds of Philox4x32.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (p, q) = (0xD251_1F53u64 * a as u64, 0xCD9E_8D57u64 * c as u64);
        (a, b, c, d) = ((q >> 32) as u32 ^ b ^ k0, q as u32, (p >> 32) as u32 ^ d ^ k1, p as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [a, b, c, d]
}

/// A stream of numbers: what is the same for every element of one result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 2],
}

fn words(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

impl Stream {
    /// The stream of an op's seed, a key and a counter.
    pub fn new(seed: i64, key: u64, counter: u64) -> Self {
        let [s0, s1] = words(seed as u64);
        let [k0, k1, ..] = philox4x32_10([s0, s1, 0, 0], words(key));
        Stream { key: [k0, k1], counter: words(counter) }
    }

    /// The random words of a block.
    pub fn block(&self, block: u64) -> [u32; 4] {
        let [b0, b1] = words(block);
        philox4x32_10([b0, b1, self.counter[0], self.counter[1]], self.key)
    }

    /// 32 random bits of an element: four elements a block.
    pub fn bits32(&self, element: u64) -> u32 {
        self.block(element / 4)[(element % 4) as usize]
    }

    /// 64 random bits of an element: two elements a block.
    pub fn bits64(&self, element: u64) -> u64 {
        let lane = (element % 2) as usize * 2;
        let block = self.block(element / 2);
        block[lane] as u64 | (block[lane + 1] as u64) << 32
    }

    /// A uniform number in [0, 1), exact in the type.
    pub fn uniform(&self, dtype: DType, element: u64) -> f64 {
        let scaled = |bits: u32| (self.bits32(element) >> (32 - bits)) as f64 / (1u64 << bits) as f64;
        match dtype {
            DType::F64 => (self.bits64(element) >> 11) as f64 / (1u64 << 53) as f64,
            DType::BF16 => scaled(8),
            DType::F16 => scaled(11),
            _ => scaled(24),
        }
    }

    /// A standard normal number before rounding to the type. An even element and the one after it share a point of the plane.
    pub fn normal(&self, dtype: DType, element: u64) -> f64 {
        let (radius, angle) = if dtype == DType::F64 {
            let block = self.block(element / 2);
            let wide = |low: u32, high: u32| (low as u64 | (high as u64) << 32) >> 11;
            let unit = (1u64 << 53) as f64;
            ((wide(block[0], block[1]) + 1) as f64 / unit, wide(block[2], block[3]) as f64 / unit)
        } else {
            let lane = (element % 4 / 2 * 2) as usize;
            let block = self.block(element / 4);
            let unit = (1u64 << 24) as f64;
            (((block[lane] >> 8) + 1) as f64 / unit, (block[lane + 1] >> 8) as f64 / unit)
        };
        let (radius, angle) = ((-2.0 * radius.ln()).sqrt(), std::f64::consts::TAU * angle);
        radius * if element.is_multiple_of(2) { angle.cos() } else { angle.sin() }
    }
}

impl OpDef for Random {
    const NAMES: &'static [&'static str] = &["random"];
    fn name(&self) -> &'static str {
        "random"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let scalars = ins.len() == 2 && ins.iter().all(|t| t.rank() == 0 && matches!(t.dtype, DType::U32 | DType::U64));
        if !scalars {
            return Err(InferError::new("random", "(C1) takes a key and a counter: scalars of type u32 or u64"));
        }
        let fits = if self.distribution == Distribution::Bits { self.dtype.is_int() } else { self.dtype.is_float() };
        if !fits {
            return Err(InferError::new("random", format!("(C2) {} is not defined on {}", self.distribution.name(), self.dtype)));
        }
        Ok(TensorType::new(self.dtype, &self.shape).into())
    }
    fn axes(&self, _: &[&TensorType], _: &Type) -> Axes {
        let mut axes = Axes::elementwise(&self.shape, 0, 20);
        axes.operands = vec![Vec::new(); 2];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let ty = out.components()[0].clone();
        let stream = Stream::new(self.seed, ins[0].ints()[0] as u64, ins[1].ints()[0] as u64);
        let elements = 0..ty.elements() as u64;
        vec![match self.distribution {
            Distribution::Bits if self.dtype.size() == 8 => Tensor::new_int(ty, elements.map(|e| stream.bits64(e) as i64).collect()),
            Distribution::Bits => Tensor::new_int(ty, elements.map(|e| stream.bits32(e) as i64).collect()),
            Distribution::Uniform => Tensor::new_float(ty, elements.map(|e| stream.uniform(self.dtype, e)).collect()),
            Distribution::Normal => Tensor::new_float(ty, elements.map(|e| stream.normal(self.dtype, e)).collect()),
        }]
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(vec![None, None])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (pi, [0xa4093822, 0x299f31d0], [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]),
        ] {
            assert_eq!(philox4x32_10(counter, key), want);
        }
    }

    #[test]
    fn distributions_have_their_moments() {
        let stream = Stream::new(7, 1, 2);
        for dtype in [DType::F32, DType::F64] {
            let n = 20_000;
            let moments = |f: &dyn Fn(u64) -> f64| {
                let v: Vec<f64> = (0..n).map(f).collect();
                let mean = v.iter().sum::<f64>() / n as f64;
                (mean, v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
            };
            let (mean, variance) = moments(&|e| stream.uniform(dtype, e));
            assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.003, "{mean} {variance}");
            let (mean, variance) = moments(&|e| stream.normal(dtype, e));
            assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        }
        let one = |d| (0..20_000).all(|e| crate::tensor::round_float(d, stream.uniform(d, e)) < 1.0);
        assert!(one(DType::BF16) && one(DType::F16) && one(DType::F32));
    }

    #[test]
    fn streams_differ_by_seed_key_and_counter() {
        let first: Vec<u32> = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)].map(|(s, k, c)| Stream::new(s, k, c).bits32(0)).to_vec();
        assert!((0..4).all(|i| (0..i).all(|j| first[i] != first[j])), "{first:?}");
    }
}
