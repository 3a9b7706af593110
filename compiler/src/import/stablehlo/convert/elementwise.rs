//! Elementwise ops. In region bodies scalars may stand beside tensors of the lifted shape, see [`bodies`](super::bodies).

use super::super::module::Operation;
use super::{Converter, Fault, Frame, Parts, Res, attrs, malformed, one, unsupported};
use girih_ir::attr::Attr;
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::{Binary, Compare, Select, Unary};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims};
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
        Ok(one(self.add(Unary(f), &[x])?))
    }

    /// A function of two real operands.
    pub fn binary_op(&mut self, frame: &Frame<'a>, op: &Operation, f: BinaryFn) -> Res<Vec<Parts>> {
        let [a, b] = self.exactly(frame, op)?;
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
                *v = self.total_order(*v)?;
            }
        }
        Ok(one(self.add(Compare(f), &operands)?))
    }

    fn compare_complex(&mut self, f: CompareFn, operands: &[Parts]) -> Res<Vec<Parts>> {
        let join = match f {
            CompareFn::Eq => BinaryFn::And,
            CompareFn::Ne => BinaryFn::Or,
            _ => return malformed("complex numbers have no order"),
        };
        let [a, b] = operands else { return malformed("compare takes two operands") };
        if a.len() != 2 || b.len() != 2 {
            return malformed("a complex number is compared with a real one");
        }
        let re = self.leveled(vec![a[0], b[0]])?;
        let im = self.leveled(vec![a[1], b[1]])?;
        let (re, im) = (self.add(Compare(f), &re)?, self.add(Compare(f), &im)?);
        Ok(one(self.add(Binary(join), &[re, im])?))
    }

    /// Signed integers in the total order of floats: −NaN < −∞ < … < −0 < 0 < … < ∞ < NaN.
    pub fn total_order(&mut self, v: ValueId) -> Res<ValueId> {
        let ty = self.graph.tensor_ty(v).clone();
        let to = match ty.dtype.size() {
            1 => DType::I8,
            2 => DType::I16,
            4 => DType::I32,
            _ => DType::I64,
        };
        let bits = self.bitcast(v, to)?;
        // A negative number's other bits are complemented.
        let width = ty.dtype.size() as i64 * 8;
        let shift = self.graph.splat(&ty.with_dtype(to), (width - 1) as f64);
        let sign = self.add(Binary(BinaryFn::ShrArith), &[bits, shift])?;
        let one_bit = self.graph.splat(&ty.with_dtype(to), 1.0);
        let mask = self.add(Binary(BinaryFn::ShrLogical), &[sign, one_bit])?;
        self.add(Binary(BinaryFn::Xor), &[bits, mask])
    }

    /// The same bits as another type of the same size.
    pub fn bitcast(&mut self, v: ValueId, to: DType) -> Res<ValueId> {
        if self.dtype(v) == to {
            return Ok(v);
        }
        match Op::parse("bitcast_convert", &[("to".to_string(), Attr::DType(to))]) {
            Some(Ok(op)) => self.add(op, &[v]),
            _ => unsupported("bit casts"),
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
        let re = self.graph.convert(*first, to);
        let im = match (parts.get(1), want.len()) {
            (_, 1) => return Ok(one(re)),
            (Some(im), _) => self.graph.convert(*im, to),
            (None, _) => self.graph.splat_like(re, 0.0),
        };
        Ok(vec![smallvec![re, im]])
    }

    /// `bitcast_convert`, also between sizes.
    pub fn bitcast_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [x] = self.exactly(frame, op)?;
        let want = self.result(frame, op, 0)?;
        let (from, to) = (self.dtype(x).size(), want.dtype.size());
        match from.cmp(&to) {
            std::cmp::Ordering::Equal => Ok(one(self.bitcast(x, want.dtype)?)),
            _ if self.lift.is_some() => unsupported("bit casts between sizes in a region body"),
            std::cmp::Ordering::Greater => self.bitcast_apart(x, want.dtype).map(one),
            std::cmp::Ordering::Less => self.bitcast_together(x, want.dtype).map(one),
        }
    }

    /// Elements of a larger type taken apart along a new last dimension, lowest bits first.
    fn bitcast_apart(&mut self, x: ValueId, to: DType) -> Res<ValueId> {
        let whole = unsigned(self.dtype(x));
        let x = self.bitcast(x, whole)?;
        let (n, bits) = (whole.size() / to.size(), to.size() * 8);
        let mut shape = self.dims(x);
        let dims: Vec<usize> = (0..shape.len()).collect();
        shape.push(n);
        let x = self.graph.broadcast(x, &shape, &dims);
        let amounts = Tensor::new_int(girih_ir::types::TensorType::new(whole, [n]), (0..n).map(|i| (i * bits) as i64).collect());
        let amounts = self.graph.constant(&amounts);
        let amounts = self.graph.broadcast(amounts, &shape, &[shape.len() - 1]);
        let parts = self.add(Binary(BinaryFn::ShrLogical), &[x, amounts])?;
        let parts = self.graph.convert(parts, unsigned(to));
        self.bitcast(parts, to)
    }

    /// The elements along the last dimension put together to one of a larger type.
    fn bitcast_together(&mut self, x: ValueId, to: DType) -> Res<ValueId> {
        let (part, whole) = (unsigned(self.dtype(x)), unsigned(to));
        let x = self.bitcast(x, part)?;
        let (n, bits) = (whole.size() / part.size(), part.size() * 8);
        let mut shape = self.dims(x);
        if shape.pop() != Some(n) {
            return malformed(format!("the last dimension must have {n} elements"));
        }
        let x = self.graph.convert(x, whole);
        let full = self.dims(x);
        let amounts = Tensor::new_int(girih_ir::types::TensorType::new(whole, [n]), (0..n).map(|i| (i * bits) as i64).collect());
        let amounts = self.graph.constant(&amounts);
        let amounts = self.graph.broadcast(amounts, &full, &[full.len() - 1]);
        let parts = self.add(Binary(BinaryFn::Shl), &[x, amounts])?;
        let joined = self.graph.reduce(girih_ir::scalar::Monoid::Or, parts, &[full.len() - 1]);
        self.bitcast(joined, to)
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

    /// A binary `chlo` op that broadcasts its operands as numpy does.
    pub fn numpy_level(&mut self, values: &mut [ValueId]) -> Res<()> {
        let rank = values.iter().map(|v| self.graph.shape(*v).len()).max().unwrap_or(0);
        let mut shape = Dims::from_elem(1, rank);
        for v in values.iter() {
            let own = self.dims(*v);
            for (d, e) in own.iter().enumerate() {
                let at = &mut shape[rank - own.len() + d];
                *at = if *at == 1 { *e } else { *at };
            }
        }
        for v in values {
            let own = self.graph.shape(*v).len();
            let dims: Vec<usize> = (rank - own..rank).collect();
            let op = girih_ir::ops::broadcast::Broadcast { shape: shape.clone(), dims };
            if self.graph.shape(*v) != shape.as_slice() {
                *v = self.add(op, &[*v])?;
            }
        }
        Ok(())
    }
}

/// The unsigned integer type of the same size.
pub(super) fn unsigned(dtype: DType) -> DType {
    match dtype.size() {
        1 => DType::U8,
        2 => DType::U16,
        4 => DType::U32,
        _ => DType::U64,
    }
}

/// A fault of an op on complex numbers.
pub(super) fn complex(name: &str) -> Fault {
    Fault::Unsupported(format!("{name} on complex numbers"))
}
