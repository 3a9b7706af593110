//! Fused programs: the small SSA programs inside `map` and `rows` ops.
//!
//! A program runs once for every point of an iteration space. Operands are read through a mapping of their dimensions to loop
//! dimensions, so broadcasts and transpositions cost nothing. In a `rows` program the trailing loop dimensions are columns:
//! `Reduce` combines a value over all columns of one row, and everything derived only from such results is per row.

use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use crate::types::DType;
use serde::{Deserialize, Serialize};

/// A value of a program: the index of the instruction that makes it.
pub type Slot = u32;

/// One SSA instruction. Its slot is its position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Expr {
    /// Element of operand `0`.
    Input(u32),
    /// A constant by its bit pattern: f64 bits for floats (exact in the type), i64 bits for integers and bool.
    Const(DType, u64),
    /// The index along a loop dimension, as an integer or float of this type.
    Index(DType, u32),
    /// A function of one value.
    Unary(UnaryFn, Slot),
    /// A function of two values of one type.
    Binary(BinaryFn, Slot, Slot),
    /// A comparison of two values of one type; makes a `bool`.
    Compare(CompareFn, Slot, Slot),
    /// `Select(c, a, b)`: a where c, else b.
    Select(Slot, Slot, Slot),
    /// Conversion with `convert`'s rules.
    Convert(DType, Slot),
    /// Combines a value over the columns of the row (`rows` programs only); sums accumulate in at least f32.
    Reduce(Monoid, Slot),
    /// The same bits as another type of the same size.
    Bitcast(DType, Slot),
}

/// A program: instructions in order and the slots that are its results.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
pub struct FusedProgram {
    /// Element types of the operands.
    pub inputs: Vec<DType>,
    /// Instructions; each refers to earlier ones only.
    pub body: Vec<Expr>,
    /// Results. One that is per row (see [`FusedProgram::per_row`]) has the shape of the row dimensions only.
    pub outputs: Vec<Slot>,
}

/// What is wrong with a fused program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("E0220: instruction {slot} of a fused program is wrong: {why}")]
pub struct ProgramError {
    /// The instruction.
    pub slot: usize,
    /// Why.
    pub why: &'static str,
}

impl FusedProgram {
    /// The element type of every slot, or what is wrong.
    pub fn types(&self) -> Result<Vec<DType>, ProgramError> {
        let mut types: Vec<DType> = Vec::with_capacity(self.body.len());
        for (slot, expr) in self.body.iter().enumerate() {
            let err = |why| ProgramError { slot, why };
            let of = |s: Slot| types.get(s as usize).copied().ok_or(err("it reads a slot that is not before it"));
            let pair = |a, b| {
                let (a, b) = (of(a)?, of(b)?);
                if a == b { Ok(a) } else { Err(err("its arguments have two element types")) }
            };
            let undefined = err("the function is not defined on that element type");
            types.push(match *expr {
                Expr::Input(k) => *self.inputs.get(k as usize).ok_or(err("there is no such operand"))?,
                Expr::Const(d, _) | Expr::Index(d, _) => d,
                Expr::Unary(f, a) => f.result(of(a)?).ok_or(undefined)?,
                Expr::Binary(f, a, b) => f.result(pair(a, b)?).ok_or(undefined)?,
                Expr::Compare(_, a, b) => pair(a, b).map(|_| DType::Bool)?,
                Expr::Select(c, a, b) => {
                    if of(c)? != DType::Bool {
                        return Err(err("the condition of a select must be bool"));
                    }
                    pair(a, b)?
                }
                Expr::Convert(d, a) => of(a).map(|_| d)?,
                Expr::Bitcast(d, a) => {
                    if !crate::ops::bitcast_convert::same_bits(of(a)?, d) {
                        return Err(err("a bitcast is between numbers of one size"));
                    }
                    d
                }
                Expr::Reduce(m, a) => m.function().result(of(a)?).ok_or(undefined)?,
            });
        }
        match self.outputs.iter().find(|o| **o as usize >= types.len()) {
            Some(o) => Err(ProgramError { slot: *o as usize, why: "a result names a slot that does not exist" }),
            None => Ok(types),
        }
    }

    /// Which slots are constant along a row: made only of reductions and constants.
    pub fn per_row(&self) -> Vec<bool> {
        let mut uniform: Vec<bool> = Vec::with_capacity(self.body.len());
        for expr in &self.body {
            let u = |s: Slot| uniform.get(s as usize).copied().unwrap_or(false);
            uniform.push(match *expr {
                Expr::Input(_) | Expr::Index(..) => false,
                Expr::Const(..) | Expr::Reduce(..) => true,
                Expr::Unary(_, a) | Expr::Convert(_, a) | Expr::Bitcast(_, a) => u(a),
                Expr::Binary(_, a, b) | Expr::Compare(_, a, b) => u(a) && u(b),
                Expr::Select(c, a, b) => u(c) && u(a) && u(b),
            });
        }
        uniform
    }

    /// Whether any instruction reduces over columns.
    pub fn has_reduction(&self) -> bool {
        self.body.iter().any(|e| matches!(e, Expr::Reduce(..)))
    }
}

impl Expr {
    /// The slots that the instruction reads.
    pub fn arguments(&self) -> smallvec::SmallVec<[Slot; 3]> {
        match *self {
            Expr::Input(_) | Expr::Const(..) | Expr::Index(..) => smallvec::smallvec![],
            Expr::Unary(_, a) | Expr::Convert(_, a) | Expr::Bitcast(_, a) | Expr::Reduce(_, a) => smallvec::smallvec![a],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) => smallvec::smallvec![a, b],
            Expr::Select(c, a, b) => smallvec::smallvec![c, a, b],
        }
    }

    /// The instruction with the slots that it reads renamed.
    pub fn renamed(self, to: impl Fn(Slot) -> Slot) -> Expr {
        match self {
            Expr::Input(_) | Expr::Const(..) | Expr::Index(..) => self,
            Expr::Unary(f, a) => Expr::Unary(f, to(a)),
            Expr::Binary(f, a, b) => Expr::Binary(f, to(a), to(b)),
            Expr::Compare(f, a, b) => Expr::Compare(f, to(a), to(b)),
            Expr::Select(c, a, b) => Expr::Select(to(c), to(a), to(b)),
            Expr::Convert(d, a) => Expr::Convert(d, to(a)),
            Expr::Bitcast(d, a) => Expr::Bitcast(d, to(a)),
            Expr::Reduce(m, a) => Expr::Reduce(m, to(a)),
        }
    }
}
