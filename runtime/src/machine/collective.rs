//! Combinations over replicas: where the dies of one position meet.
//!
//! Every replica's die issues the same combinations in the same order, so the n-th of one belongs to the n-th of all others. A die leaves its
//! part and goes on with other things; the last one to come combines all parts in the order that the op defines, which no thread and no
//! arrival changes; then each takes the result. A die comes to the next combination only with the result of the one before, so at
//! most two are on their way.

use super::strided::{Block, Pool};
use girih_ir::scalar::Monoid;
use girih_ir::types::DType;
use girih_kernels::buffer::{Buf, BufMut, View, ViewMut};
use girih_kernels::{Isa, KernelError, copy};
use half::{bf16, f16};
use std::collections::VecDeque;

/// One combination on its way.
#[derive(Default)]
struct Round {
    /// One a replica; empty where none has come.
    parts: Vec<Option<Block>>,
    missing: usize,
    /// The result, once all parts are there, and how many have still to take it.
    result: Option<(Block, usize)>,
}

/// The meeting place of the dies of one position.
#[derive(Default)]
pub struct Meeting {
    rounds: VecDeque<Round>,
    /// The number of the first of them.
    first: u64,
    /// What is not in use.
    spare: Pool,
    unused: Vec<Round>,
}

/// What a die finds at a meeting place.
pub enum Found {
    /// The others have not all come.
    Waiting,
    /// The result has been taken; with `true` it has just been made, so the others can be woken.
    Taken(bool),
}

/// The shape of the grid, and what is combined.
#[derive(Clone, Copy, Debug)]
pub struct Combine {
    /// Replicas.
    pub count: usize,
    /// Columns of the grid.
    pub cols: usize,
    /// Combiner.
    pub monoid: Monoid,
    /// Type.
    pub dtype: DType,
    /// Bytes of a part.
    pub bytes: usize,
}

impl Meeting {
    /// Before a step: nobody is here.
    pub fn clear(&mut self) {
        while let Some(mut round) = self.rounds.pop_front() {
            round.parts.drain(..).flatten().for_each(|b| self.spare.put(b));
            round.result.take().into_iter().for_each(|(b, _)| self.spare.put(b));
            self.unused.push(round);
        }
        self.first = 0;
    }

    /// A replica comes to its combination number `round`: the first time with its part, which `give` writes, and again until the result is
    /// there, which `take` gets.
    pub fn come(
        &mut self,
        (replica, round): (usize, u64),
        c: Combine,
        isa: Isa,
        give: impl FnOnce(&mut [u8]),
        take: impl FnOnce(&[u8]),
    ) -> Result<Found, KernelError> {
        let at = (round - self.first) as usize;
        while self.rounds.len() <= at {
            let mut new = self.unused.pop().unwrap_or_default();
            new.parts.resize_with(c.count, || None);
            new.missing = c.count;
            self.rounds.push_back(new);
        }
        let this = &mut self.rounds[at];
        if this.result.is_none() && this.parts[replica].is_none() {
            let mut part = self.spare.take(c.bytes);
            give(part.take(c.bytes));
            this.parts[replica] = Some(part);
            this.missing -= 1;
        }
        let made = this.result.is_none() && this.missing == 0;
        if made {
            let result = combined(&this.parts, c, isa, &mut self.spare)?;
            this.parts.drain(..).flatten().for_each(|b| self.spare.put(b));
            this.result = Some((result, c.count));
        }
        let Some((result, left)) = &mut this.result else { return Ok(Found::Waiting) };
        take(result.held(c.bytes));
        *left -= 1;
        while self.rounds.front().is_some_and(|r| r.result.as_ref().is_some_and(|(_, left)| *left == 0)) {
            if let Some(mut over) = self.rounds.pop_front() {
                over.result.take().into_iter().for_each(|(b, _)| self.spare.put(b));
                self.unused.push(over);
            }
            self.first += 1;
        }
        Ok(Found::Taken(made))
    }
}

/// The parts combined along each row of the grid, and then the rows. Floats narrower than f32 are combined in f32 and rounded once.
fn combined(parts: &[Option<Block>], c: Combine, isa: Isa, spare: &mut Pool) -> Result<Block, KernelError> {
    let narrow = matches!(c.dtype, DType::BF16 | DType::F16);
    let (dtype, bytes) = if narrow { (DType::F32, c.bytes * 2) } else { (c.dtype, c.bytes) };
    let (mut all, mut row) = (spare.take(bytes), spare.take(bytes));
    let mut wide = narrow.then(|| spare.take(bytes));
    for (k, part) in parts.iter().enumerate() {
        let held = part.as_ref().map_or(&[][..], |b| b.held(c.bytes));
        let value = match &mut wide {
            Some(wide) => {
                widen(c.dtype, held, wide.take(bytes));
                wide.held(bytes)
            }
            None => held,
        };
        if k % c.cols == 0 {
            row.take(bytes).copy_from_slice(value);
        } else {
            add(c.monoid, dtype, value, row.take(bytes), isa)?;
        }
        if k % c.cols == c.cols - 1 {
            if k < c.cols {
                std::mem::swap(&mut all, &mut row);
            } else {
                add(c.monoid, dtype, row.held(bytes), all.take(bytes), isa)?;
            }
        }
    }
    spare.put(row);
    wide.into_iter().for_each(|b| spare.put(b));
    if !narrow {
        return Ok(all);
    }
    let mut out = spare.take(c.bytes);
    for (to, from) in out.take(c.bytes).chunks_exact_mut(2).zip(all.held(bytes).chunks_exact(4)) {
        let value = f32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
        let bits = if c.dtype == DType::BF16 { bf16::from_f32(value).to_bits() } else { f16::from_f32(value).to_bits() };
        to.copy_from_slice(&bits.to_ne_bytes());
    }
    spare.put(all);
    Ok(out)
}

fn widen(dtype: DType, from: &[u8], to: &mut [u8]) {
    for (to, from) in to.chunks_exact_mut(4).zip(from.chunks_exact(2)) {
        let bits = u16::from_ne_bytes([from[0], from[1]]);
        let value = if dtype == DType::BF16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

fn add(monoid: Monoid, dtype: DType, part: &[u8], to: &mut [u8], isa: Isa) -> Result<(), KernelError> {
    let dims = [part.len() / dtype.size()];
    let input = View::dense(Buf::new(dtype, part)?, &dims)?;
    let mut out = ViewMut::dense(BufMut::new(dtype, to)?, &dims)?;
    copy::combine_into(isa, monoid, &input, &mut out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_arrival_does_not_show() {
        let values = [1e8f32, 1.0, -1e8, 3.0, 0.25, -7.5];
        let want = ((values[0] + values[1]) + values[2]) + ((values[3] + values[4]) + values[5]);
        for order in [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 0, 4, 5, 3, 1]] {
            let mut m = Meeting::default();
            let c = Combine { count: 6, cols: 3, monoid: Monoid::Sum, dtype: DType::F32, bytes: 4 };
            let mut got: Vec<Option<f32>> = vec![None; 6];
            let mut come = |r: usize, got: &mut Vec<Option<f32>>| {
                let give = |b: &mut [u8]| b.copy_from_slice(&values[r].to_ne_bytes());
                let take = |b: &[u8]| got[r] = Some(f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                m.come((r, 0), c, Isa::Scalar, give, take).unwrap()
            };
            for r in &order[..5] {
                assert!(matches!(come(*r, &mut got), Found::Waiting));
            }
            assert!(matches!(come(order[5], &mut got), Found::Taken(true)));
            for r in &order[..5] {
                assert!(matches!(come(*r, &mut got), Found::Taken(false)));
            }
            assert!(got.iter().all(|g| g.map(f32::to_bits) == Some(want.to_bits())), "{got:?} instead of {want}");
        }
    }

    #[test]
    fn narrow_floats_are_rounded_once() {
        // Adding one by one in bf16 would lose every 1.
        let mut m = Meeting::default();
        let c = Combine { count: 4, cols: 4, monoid: Monoid::Sum, dtype: DType::BF16, bytes: 2 };
        let values = [256.0f32, 1.0, 1.0, 2.0].map(bf16::from_f32);
        let mut got = None;
        for (r, v) in values.iter().enumerate() {
            let take = |b: &[u8]| got = Some(bf16::from_ne_bytes([b[0], b[1]]));
            m.come((r, 0), c, Isa::Scalar, |b| b.copy_from_slice(&v.to_ne_bytes()), take).unwrap();
        }
        assert_eq!(got, Some(bf16::from_f32(260.0)));
    }
}
