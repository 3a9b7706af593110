//! Rules on elementwise ops: neutral elements, double negations, known conditions, superfluous conversions.

use super::{Rewriter, op_of, splat_of};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::elementwise::{Binary, Convert, Select, Unary};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn, Wide};
use girih_ir::tensor::{Data, Tensor};
use girih_ir::types::{DType, NumberKind};

/// The simpler value, when a rule applies.
pub(super) fn simplify(rw: &mut Rewriter<'_>, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    match (op, operands) {
        (Op::Unary(Unary(f)), [a]) => unary(rw, *f, *a),
        (Op::Binary(Binary(f)), [a, b]) => binary(rw, *f, *a, *b),
        (Op::Compare(c), [a, b]) if a == b => compare_same(rw, c.0, *a),
        (Op::Select(_), [c, a, b]) => select(rw, *c, *a, *b),
        (Op::Convert(c), [a]) => convert(rw, c.to, *a),
        _ => None,
    }
}

/// The operand of `v` when it is this function.
fn argument(g: &Graph, v: ValueId, f: UnaryFn) -> Option<ValueId> {
    matches!(op_of(g, v), Op::Unary(Unary(of)) if *of == f).then(|| g.node(v).operands[0])
}

fn unary(rw: &mut Rewriter<'_>, f: UnaryFn, a: ValueId) -> Option<ValueId> {
    use UnaryFn::{Abs, Ceil, Floor, Neg, Not, RoundAway, RoundEven};
    match f {
        Neg | Not => argument(rw.out, a, f),
        Abs if argument(rw.out, a, Abs).is_some() => Some(a),
        Abs => argument(rw.out, a, Neg).map(|x| rw.build(Unary(Abs).into(), &[x])),
        Floor | Ceil | RoundEven | RoundAway => {
            let whole = [Floor, Ceil, RoundEven, RoundAway].into_iter().any(|g| argument(rw.out, a, g).is_some());
            whole.then_some(a)
        }
        _ => None,
    }
}

/// Whether the repeated element is this wide value; zeros of both signs are equal.
fn is(scalar: &Option<Tensor>, want: Wide) -> bool {
    match (scalar.as_ref().map(Tensor::data), want) {
        (Some(Data::Float(v)), Wide::F(w)) => v[0] == w,
        (Some(Data::Int(v)), Wide::I(w)) => v[0] == w,
        _ => false,
    }
}

fn number(dtype: DType, v: i64) -> Wide {
    if dtype.is_float() { Wide::F(v as f64) } else { Wide::I(girih_ir::tensor::wrap_int(dtype, v)) }
}

fn binary(rw: &mut Rewriter<'_>, f: BinaryFn, a: ValueId, b: ValueId) -> Option<ValueId> {
    use BinaryFn::{Add, And, Div, Max, Min, Mul, Or, Pow, Shl, ShrArith, ShrLogical, Sub, Xor};
    let ty = rw.out.tensor_ty(a).clone();
    let (d, right) = (ty.dtype, splat_of(rw.out, b));
    let (zero, one) = (number(d, 0), number(d, 1));
    let neutral = match f {
        Add | Sub | Shl | ShrArith | ShrLogical => is(&right, zero),
        Mul | Div | Pow => is(&right, one),
        Max => is(&right, Monoid::Max.identity(d)),
        Min => is(&right, Monoid::Min.identity(d)),
        And => is(&right, Monoid::And.identity(d)),
        Or => is(&right, Monoid::Or.identity(d)),
        Xor => is(&right, Monoid::Xor.identity(d)),
        BinaryFn::Rem | BinaryFn::Atan2 | BinaryFn::MulHi | BinaryFn::NextAfter | BinaryFn::Zeta => false,
    };
    if neutral || (a == b && matches!(f, Max | Min | And | Or)) {
        return Some(a);
    }
    let exact = !d.is_float();
    if exact && ((a == b && matches!(f, Sub | Xor)) || (matches!(f, Mul | And) && is(&right, zero))) {
        return Some(rw.number(&ty, 0.0));
    }
    match f {
        Mul if d.kind() != NumberKind::Bool && is(&right, number(d, -1)) && d.kind() != NumberKind::Unsigned => {
            Some(rw.build(Unary(UnaryFn::Neg).into(), &[a]))
        }
        Pow if is(&right, number(d, 2)) => Some(rw.build(Binary(Mul).into(), &[a, a])),
        Pow if d.is_float() && is(&right, zero) => Some(rw.number(&ty, 1.0)),
        Add => {
            let (left, right) = (argument(rw.out, a, UnaryFn::Neg), argument(rw.out, b, UnaryFn::Neg));
            match (left, right) {
                (_, Some(y)) => Some(rw.build(Binary(Sub).into(), &[a, y])),
                (Some(x), None) => Some(rw.build(Binary(Sub).into(), &[b, x])),
                (None, None) => None,
            }
        }
        Sub => argument(rw.out, b, UnaryFn::Neg).map(|y| rw.build(Binary(Add).into(), &[a, y])),
        _ => None,
    }
}

/// Comparisons of an integer with itself. Floats may be NaN.
fn compare_same(rw: &mut Rewriter<'_>, f: CompareFn, a: ValueId) -> Option<ValueId> {
    let ty = rw.out.tensor_ty(a).clone();
    let holds = matches!(f, CompareFn::Eq | CompareFn::Le | CompareFn::Ge);
    (!ty.dtype.is_float()).then(|| rw.number(&ty.with_dtype(DType::Bool), f64::from(u8::from(holds))))
}

fn select(rw: &mut Rewriter<'_>, c: ValueId, a: ValueId, b: ValueId) -> Option<ValueId> {
    if a == b {
        return Some(a);
    }
    if let Some(known) = splat_of(rw.out, c) {
        return Some(if known.ints()[0] != 0 { a } else { b });
    }
    argument(rw.out, c, UnaryFn::Not).map(|c| rw.build(Select {}.into(), &[c, b, a]))
}

/// Whether every value of one type is exactly a value of the other, of the same kind of number.
fn is_exact(from: DType, to: DType) -> bool {
    use DType::{BF16, Bool, F8E4M3FN, F8E5M2, F16, F32, F64};
    if from == to || from == Bool {
        return true;
    }
    match (from.kind(), to.kind()) {
        (NumberKind::Float, NumberKind::Float) => {
            matches!((from, to), (F8E4M3FN | F8E5M2, BF16 | F16 | F32 | F64) | (BF16 | F16, F32 | F64) | (F32, F64))
        }
        (NumberKind::Signed, NumberKind::Signed) | (NumberKind::Unsigned, NumberKind::Unsigned) => from.size() <= to.size(),
        (NumberKind::Unsigned, NumberKind::Signed) => from.size() < to.size(),
        _ => false,
    }
}

fn convert(rw: &mut Rewriter<'_>, to: DType, a: ValueId) -> Option<ValueId> {
    let middle = rw.out.tensor_ty(a).dtype;
    if middle == to {
        return Some(a);
    }
    let Op::Convert(_) = op_of(rw.out, a) else { return None };
    let x = rw.out.node(a).operands[0];
    let from = rw.out.tensor_ty(x).dtype;
    is_exact(from, middle).then(|| if from == to { x } else { rw.build(Convert { to }.into(), &[x]) })
}
