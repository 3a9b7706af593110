//! Elementwise ops. In region bodies scalars may stand beside tensors of the lifted shape, see [`bodies`](super::bodies).

use super::super::expand::{Number, bits, complex};
use super::super::module::Operation;
use super::{Converter, Frame, Parts, Res, attrs, malformed, one, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::elementwise::{Binary, Compare, Select, Unary};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use smallvec::smallvec;

/// The function of one real operand of that name, without the dialect.
pub(super) fn unary(name: &str) -> Option<UnaryFn> {
    use UnaryFn::*;
    Some(match name {
        "abs" => Abs,
        "cbrt" => Cbrt,
        "ceil" => Ceil,
        "cosine" => Cos,
        "count_leading_zeros" => Clz,
        "exponential" => Exp,
        "exponential_minus_one" => Expm1,
        "floor" => Floor,
        "is_finite" => IsFinite,
        "log" => Log,
        "log_plus_one" => Log1p,
        "logistic" => Logistic,
        "negate" => Neg,
        "not" => Not,
        "popcnt" => Popcnt,
        "round_nearest_afz" => RoundAway,
        "round_nearest_even" => RoundEven,
        "rsqrt" => Rsqrt,
        "sign" => Sign,
        "sine" => Sin,
        "sqrt" => Sqrt,
        "tan" => Tan,
        "tanh" => Tanh,
        _ => return None,
    })
}

/// The function of two real operands of that name, without the dialect.
pub(super) fn binary(name: &str) -> Option<BinaryFn> {
    use BinaryFn::*;
    Some(match name {
        "add" => Add,
        "and" => And,
        "atan2" => Atan2,
        "divide" => Div,
        "maximum" => Max,
        "minimum" => Min,
        "multiply" => Mul,
        "or" => Or,
        "power" => Pow,
        "remainder" => Rem,
        "shift_left" => Shl,
        "shift_right_arithmetic" => ShrArith,
        "shift_right_logical" => ShrLogical,
        "subtract" => Sub,
        "xor" => Xor,
        _ => return None,
    })
}

/// The comparison that a word names.
pub(super) fn direction(word: &str) -> Res<CompareFn> {
    Ok(match word {
        "EQ" => CompareFn::Eq,
        "NE" => CompareFn::Ne,
        "LT" => CompareFn::Lt,
        "LE" => CompareFn::Le,
        "GT" => CompareFn::Gt,
        "GE" => CompareFn::Ge,
        other => return malformed(format!("`{other}` is no comparison")),
    })
}

impl<'a> Converter<'a> {
    /// Scalars repeated so that all values have one shape: in a region body, or where an op allows scalars.
    pub fn level(&mut self, values: &mut [ValueId]) -> Res<()> {
        let shape = values.iter().map(|v| self.dims(*v)).max_by_key(|s| s.len()).unwrap_or_default();
        for v in values {
            *v = self.spread(*v, &shape)?;
        }
        Ok(())
    }

    /// Operands of an elementwise op: of one shape, or leveled in a region body.
    fn leveled(&mut self, mut values: Vec<ValueId>) -> Res<Vec<ValueId>> {
        if self.lift.is_some() {
            self.level(&mut values)?;
        }
        Ok(values)
    }

    /// A function of one real operand.
    pub fn unary_op(&mut self, frame: &Frame<'a>, op: &Operation, f: UnaryFn) -> Res<Vec<Parts>> {
        let [x] = self.exactly(frame, op)?;
        match self.narrow_unary(frame, op, f, x)? {
            Some(made) => Ok(one(made)),
            None => Ok(one(self.add(Unary(f), &[x])?)),
        }
    }

    /// A function of two real operands.
    pub fn binary_op(&mut self, frame: &Frame<'a>, op: &Operation, f: BinaryFn) -> Res<Vec<Parts>> {
        let [a, b] = self.exactly(frame, op)?;
        let a = self.narrow_shifted(frame, op, f, a)?;
        let operands = self.leveled(vec![a, b])?;
        Ok(one(self.add(Binary(f), &operands)?))
    }

    /// `compare`; the total order of floats compares their bits.
    pub fn compare_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let f = direction(attrs::need_word(&op.attrs, "comparison_direction")?)?;
        let operands: Res<Vec<Parts>> = (0..2).map(|i| self.operand_parts(frame, op, i)).collect();
        let operands = operands?;
        if operands.iter().any(|p| p.len() != 1) {
            return self.compare_complex(f, &operands);
        }
        let mut operands = self.leveled(vec![operands[0][0], operands[1][0]])?;
        if self.dtype(operands[0]).is_float() && attrs::word(&op.attrs, "compare_type") == Some("TOTALORDER") {
            for v in &mut operands {
                *v = bits::total_order(&mut self.graph, *v);
            }
        }
        Ok(one(self.add(Compare(f), &operands)?))
    }

    fn compare_complex(&mut self, f: CompareFn, operands: &[Parts]) -> Res<Vec<Parts>> {
        let mut values: Vec<ValueId> = operands.iter().flatten().copied().collect();
        if self.lift.is_some() {
            self.level(&mut values)?;
        }
        let [a, b, c, d] = values[..] else { return malformed("a complex number is compared with a real one") };
        if [b, c, d].iter().any(|v| self.graph.ty(*v) != self.graph.ty(a)) {
            return malformed("compare takes two values of one type");
        }
        match complex::compare(&mut self.graph, f, Number::complex(a, b), Number::complex(c, d)) {
            Some(v) => Ok(one(v)),
            None => malformed("complex numbers have no order"),
        }
    }

    /// `select`, whose condition may be a scalar.
    pub fn select_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let condition = self.operand(frame, op, 0)?;
        let (a, b) = (self.operand_parts(frame, op, 1)?, self.operand_parts(frame, op, 2)?);
        if a.len() != b.len() || op.operands.len() != 3 {
            return malformed("select takes a condition and two values of one type");
        }
        let picked: Res<Parts> = a.iter().zip(&b).map(|(a, b)| self.pick(condition, *a, *b)).collect();
        Ok(vec![picked?])
    }

    /// a where the condition holds, else b; scalars are repeated.
    pub fn pick(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Res<ValueId> {
        if a == b {
            return Ok(a);
        }
        let mut values = [condition, a, b];
        if self.lift.is_some() {
            self.level(&mut values)?;
        } else if self.graph.shape(condition).is_empty() {
            values[0] = self.spread(condition, &self.dims(a))?;
        }
        self.add(Select {}, &values)
    }

    /// `clamp`, whose bounds may be scalars.
    pub fn clamp_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let mut values: [ValueId; 3] = self.exactly(frame, op)?;
        self.level(&mut values)?;
        let [low, x, high] = values;
        let above = self.add(Binary(BinaryFn::Max), &[low, x])?;
        Ok(one(self.add(Binary(BinaryFn::Min), &[above, high])?))
    }

    /// `convert` between real and complex types.
    pub fn convert_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let parts = self.operand_parts(frame, op, 0)?;
        let want = self.result_leaves(frame, op, 0)?;
        let (Some(first), Some(to)) = (parts.first(), want.first().map(|t| t.dtype)) else { return malformed("convert takes a tensor") };
        let narrow = op.results.first().and_then(|v| self.narrow(frame, *v));
        let re = self.converted(*first, to, narrow)?;
        let im = match (parts.get(1), want.len()) {
            (_, 1) => return Ok(one(re)),
            (Some(im), _) => self.graph.convert(*im, to),
            (None, _) => self.graph.splat_like(re, 0.0),
        };
        Ok(vec![smallvec![re, im]])
    }

    /// `map`: a body of scalars on whole tensors.
    pub fn map_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let args: Res<Vec<Parts>> = (0..op.operands.len()).map(|i| self.operand_parts(frame, op, i)).collect();
        let args = args?;
        let Some(first) = args.first().and_then(|p| p.first()) else { return malformed("map takes at least one tensor") };
        let shape = self.dims(*first);
        if self.lift.is_some() {
            return unsupported("map in a region body");
        }
        let block = self.region(op, 0)?;
        self.vectorize(frame, block, &args, &shape)
    }
}
