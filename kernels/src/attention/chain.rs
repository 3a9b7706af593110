//! The row programs of an attention, and what follows from them about scores that nobody needs.

use crate::error::KernelError;
use crate::map::Compiled;
use girih_ir::fused::{Expr, FusedProgram, Slot};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::types::DType;

/// A mask that is added hides what it is added to when it is at most this: a score that is not itself out of all proportion (2⁷⁰ and more)
/// is lost in the rounding of the sum.
const HIDES: f64 = -1e30;

/// Row programs made ready.
#[derive(Debug)]
pub struct Chain {
    /// From scores and masks to weights.
    pub(super) weights: Compiled,
    /// From weights, their cotangents and masks to the cotangents of scores: of the gradient.
    pub(super) scores: Option<Compiled>,
    /// From the masks to whether a score is read, where the program says so.
    pub(super) seen: Option<Compiled>,
    /// Whether a weight of 0 makes a cotangent of 0, whatever that weight's own cotangent is.
    pub(super) fades: bool,
    /// Element types of the weights.
    pub(super) made: Vec<DType>,
    /// Masks that the weights read.
    pub(super) weight_masks: usize,
    /// Whether an `Index` is asked for.
    pub(super) indexed: bool,
}

impl Chain {
    /// Makes the programs ready; with `scores` for the gradient.
    ///
    /// # Errors
    /// [`KernelError::Program`] when a program does not type.
    pub fn new(weights: &FusedProgram, scores: Option<&FusedProgram>) -> Result<Chain, KernelError> {
        let types = weights.types().map_err(|e| KernelError::Program { slot: e.slot, why: e.why })?;
        let seen = seen(weights, &types).map(|p| Compiled::new(&p, 0)).transpose()?;
        let indexed = |p: &FusedProgram| p.body.iter().any(|e| matches!(e, Expr::Index(..)));
        Ok(Chain {
            weights: Compiled::new(weights, 1)?,
            scores: scores.map(|p| Compiled::new(p, 1)).transpose()?,
            seen,
            fades: scores.is_some_and(|p| fades(p, weights.outputs.len())),
            made: weights.outputs.iter().map(|o| types[*o as usize]).collect(),
            weight_masks: weights.inputs.len().saturating_sub(1),
            indexed: indexed(weights) || scores.is_some_and(indexed),
        })
    }

    /// Whether it is a gradient.
    pub fn is_gradient(&self) -> bool {
        self.scores.is_some()
    }
}

/// The program that says of every place whether its score is read: scores go nowhere but into one `select`, or into a sum with a mask.
fn seen(p: &FusedProgram, types: &[DType]) -> Option<FusedProgram> {
    let mut from_score: Vec<bool> = Vec::with_capacity(p.body.len());
    for e in &p.body {
        let direct = matches!(e, Expr::Input(0));
        from_score.push(direct || e.arguments().iter().any(|a| from_score[*a as usize]));
    }
    let of = |s: Slot| from_score[s as usize];
    let gate = |at: usize| match p.body[at] {
        Expr::Select(c, a, b) if of(a) && !of(b) && !of(c) => Some(c),
        Expr::Binary(BinaryFn::Add, a, b) if of(a) != of(b) && types[a as usize] == DType::F32 => Some(if of(a) { b } else { a }),
        _ => None,
    };
    (0..p.body.len()).find_map(|at| {
        let side = gate(at)?;
        // What the scores reach by other ways than through the gate.
        let mut around: Vec<bool> = Vec::with_capacity(p.body.len());
        for (s, e) in p.body.iter().enumerate() {
            let reached = matches!(e, Expr::Input(0)) || e.arguments().iter().any(|a| around[*a as usize]);
            around.push(s != at && reached);
        }
        let leaks = p.outputs.iter().any(|o| around[*o as usize])
            || p.body.iter().enumerate().any(|(s, e)| around[s] && (s > at || matches!(e, Expr::Reduce(..))));
        (!leaks).then(|| condition(p, types, side)).flatten()
    })
}

/// The program of one slot that needs no score, as a truth value.
fn condition(p: &FusedProgram, types: &[DType], slot: Slot) -> Option<FusedProgram> {
    let mut wanted = vec![false; p.body.len()];
    wanted[slot as usize] = true;
    for s in (0..p.body.len()).rev().filter(|s| *s <= slot as usize) {
        if wanted[s] {
            p.body[s].arguments().iter().for_each(|a| wanted[*a as usize] = true);
        }
    }
    if p.body.iter().zip(&wanted).any(|(e, w)| *w && matches!(e, Expr::Reduce(..))) {
        return None;
    }
    let mut made = FusedProgram { inputs: p.inputs[1..].to_vec(), ..FusedProgram::default() };
    let mut to = vec![0 as Slot; p.body.len()];
    for (s, e) in p.body.iter().enumerate().filter(|(s, _)| wanted[*s]) {
        to[s] = made.body.len() as Slot;
        made.body.push(match *e {
            Expr::Input(k) => Expr::Input(k.checked_sub(1)?),
            e => e.renamed(|a| to[a as usize]),
        });
    }
    let mut last = to[slot as usize];
    if types[slot as usize] != DType::Bool {
        made.body.push(Expr::Const(types[slot as usize], HIDES.to_bits()));
        made.body.push(Expr::Compare(CompareFn::Le, last, last + 1));
        // Not "greater": a NaN is seen.
        made.body.push(Expr::Const(DType::Bool, 0));
        made.body.push(Expr::Compare(CompareFn::Eq, last + 2, last + 3));
        last += 4;
    }
    made.outputs = vec![last];
    Some(made)
}

/// Whether the result of a program is 0 wherever its first `weights` operands are, without the next operand being looked at there.
fn fades(p: &FusedProgram, weights: usize) -> bool {
    let mut zero: Vec<bool> = Vec::with_capacity(p.body.len());
    for e in &p.body {
        let z = |s: Slot| zero[s as usize];
        zero.push(match *e {
            Expr::Input(k) => (k as usize) < weights,
            Expr::Const(d, bits) => d.is_float() && f64::from_bits(bits) == 0.0,
            Expr::Binary(BinaryFn::Mul, a, b) => z(a) || z(b),
            Expr::Binary(BinaryFn::Add | BinaryFn::Sub, a, b) => z(a) && z(b),
            Expr::Select(_, a, b) => z(a) && z(b),
            Expr::Convert(_, a) => z(a),
            _ => false,
        });
    }
    // What matters elsewhere in the row: sums, to which a 0 adds nothing.
    let adds_nothing = |e: &Expr| match e {
        Expr::Reduce(Monoid::Sum, a) => zero[*a as usize],
        Expr::Reduce(..) => false,
        _ => true,
    };
    p.outputs.iter().all(|o| zero[*o as usize]) && p.body.iter().all(adds_nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::scalar::UnaryFn;

    fn masked(body: Vec<Expr>, inputs: Vec<DType>, last: Slot) -> Option<FusedProgram> {
        let p = FusedProgram { inputs, body, outputs: vec![last] };
        seen(&p, &p.types().unwrap())
    }

    #[test]
    fn a_select_says_what_is_seen() {
        let body = vec![
            Expr::Input(0),
            Expr::Input(1),
            Expr::Const(DType::F32, (-1e9f64).to_bits()),
            Expr::Select(1, 0, 2),
            Expr::Reduce(Monoid::Max, 3),
            Expr::Binary(BinaryFn::Sub, 3, 4),
            Expr::Unary(UnaryFn::Exp, 5),
        ];
        let found = masked(body.clone(), vec![DType::F32, DType::Bool], 6).unwrap();
        assert_eq!((found.inputs, found.body, found.outputs), (vec![DType::Bool], vec![Expr::Input(0)], vec![0]));
        // The score is read beside the select.
        let mut leaky = body.clone();
        leaky.push(Expr::Binary(BinaryFn::Mul, 6, 0));
        assert!(masked(leaky, vec![DType::F32, DType::Bool], 7).is_none());
        // A sum of the scores is read at other places.
        let mut summed = vec![Expr::Input(0), Expr::Input(1), Expr::Reduce(Monoid::Sum, 0), Expr::Binary(BinaryFn::Sub, 0, 2)];
        summed.extend([Expr::Const(DType::F32, 0), Expr::Select(1, 3, 4)]);
        assert!(masked(summed, vec![DType::F32, DType::Bool], 5).is_none());
        // The mask follows from the score.
        let own = vec![Expr::Input(0), Expr::Const(DType::F32, 0), Expr::Compare(CompareFn::Gt, 0, 1), Expr::Select(2, 0, 1)];
        assert!(masked(own, vec![DType::F32], 3).is_none());
    }

    #[test]
    fn an_added_mask_hides_when_it_is_very_negative() {
        let found = masked(vec![Expr::Input(0), Expr::Input(1), Expr::Binary(BinaryFn::Add, 0, 1)], vec![DType::F32; 2], 2).unwrap();
        let last = found.body.len() as Slot - 1;
        assert_eq!((found.types().unwrap()[last as usize], found.outputs), (DType::Bool, vec![last]));
    }

    #[test]
    fn softmax_grad_fades_and_log_softmax_grad_does_not() {
        // w·(g − Σ w·g)
        let body = vec![
            Expr::Input(0),
            Expr::Input(1),
            Expr::Binary(BinaryFn::Mul, 0, 1),
            Expr::Reduce(Monoid::Sum, 2),
            Expr::Binary(BinaryFn::Sub, 1, 3),
            Expr::Binary(BinaryFn::Mul, 0, 4),
        ];
        let p = |outputs| FusedProgram { inputs: vec![DType::F32; 2], body: body.clone(), outputs };
        assert!(fades(&p(vec![5]), 1));
        assert!(!fades(&p(vec![4]), 1));
        let mut all = p(vec![5]);
        all.body[3] = Expr::Reduce(Monoid::Sum, 1);
        assert!(!fades(&all, 1), "the sum looks at every cotangent");
    }
}
