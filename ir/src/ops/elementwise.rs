//! Elementwise ops: the rows of the scalar tables of [`scalar`](crate::scalar) as graph ops, plus `select` and `convert`.
//!
//! (C1) as many operands as the function has arguments; (C2) all of one shape; (C3) the function is defined on the element types
//! (`select`: a `bool` condition first, then two operands of one type).

use super::{InferError, NoVjp, OpAttrs, OpDef, Vjp};
use crate::attr::{Attr, AttrError, AttrReader};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::scalar::{BinaryFn, CompareFn, UnaryFn, Wide};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, Type};
use serde::{Deserialize, Serialize};

macro_rules! table_op {
    ($(#[$doc:meta])* $name:ident($f:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub struct $name(pub $f);
        impl OpAttrs for $name {
            fn attrs(&self) -> Vec<(&'static str, Attr)> {
                Vec::new()
            }
            fn from_attrs(name: &str, reader: &AttrReader<'_>) -> Result<Self, AttrError> {
                reader.only(&[])?;
                <$f>::from_name(name).map($name).ok_or(AttrError::Missing { name: "function" })
            }
        }
    };
}

table_op! {
    /// A function of one operand.
    Unary(UnaryFn)
}
table_op! {
    /// A function of two operands.
    Binary(BinaryFn)
}
table_op! {
    /// A comparison of two operands.
    Compare(CompareFn)
}

crate::op_attrs! {
    /// `select(c, a, b)`: a where c, else b.
    Select {}
}
crate::op_attrs! {
    /// Conversion to another element type: float to int truncates and saturates, int to int wraps, to bool is `!= 0`.
    Convert {
        /// The new element type.
        to: DType,
    }
}

fn alike<'a>(op: &'static str, ins: &[&'a TensorType], count: usize) -> Result<&'a TensorType, InferError> {
    if ins.len() != count {
        return Err(InferError::new(op, format!("(C1) takes {count} operands, not {}", ins.len())));
    }
    match ins.iter().find(|t| t.shape != ins[0].shape) {
        Some(t) => Err(InferError::new(op, format!("(C2) operands have shapes {} and {t}", ins[0]))),
        None => Ok(ins[0]),
    }
}

/// The elements of a tensor as wide scalars.
pub(super) fn wides(t: &Tensor) -> Vec<Wide> {
    match t.data() {
        Data::Float(v) => v.iter().map(|x| Wide::F(*x)).collect(),
        Data::Int(v) => v.iter().map(|x| Wide::I(*x)).collect(),
    }
}

/// A tensor from wide scalars, rounded to its type.
pub(super) fn tensor(ty: &TensorType, values: Vec<Wide>) -> Tensor {
    if ty.dtype.is_float() {
        Tensor::new_float(ty.clone(), values.into_iter().map(Wide::float).collect())
    } else {
        Tensor::new_int(ty.clone(), values.into_iter().map(Wide::int).collect())
    }
}

impl OpDef for Unary {
    const NAMES: &'static [&'static str] = UnaryFn::NAMES;
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let a = alike(self.name(), ins, 1)?;
        match self.0.result(a.dtype) {
            Some(d) => Ok(a.with_dtype(d).into()),
            None => Err(InferError::new(self.name(), format!("(C3) is not defined on {}", a.dtype))),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 1)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let d = ins[0].dtype();
        vec![tensor(&out.components()[0], wides(ins[0]).into_iter().map(|x| self.0.eval(d, x)).collect())]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (g, x, y) = (cx.cotangent(), cx.operands[0], cx.result);
        unary_vjp(self.0, cx.graph, g, x, y).map(|v| vec![v])
    }
}

fn unary_vjp(f: UnaryFn, b: &mut Graph, g: ValueId, x: ValueId, y: ValueId) -> Result<Option<ValueId>, NoVjp> {
    use UnaryFn::*;
    let one = |b: &mut Graph| b.splat_like(x, 1.0);
    // 1 + s·x², the inner derivative's denominator of the inverse functions.
    let square_plus = |b: &mut Graph, x_scale: f64, plus: f64| {
        let xx = b.times(x, x);
        let s = b.splat_like(x, x_scale);
        let xx = b.times(xx, s);
        let p = b.splat_like(x, plus);
        b.plus(xx, p)
    };
    Ok(Some(match f {
        Neg => b.unary(Neg, g),
        Abs => {
            let s = b.unary(Sign, x);
            b.times(g, s)
        }
        Sign | Floor | Ceil | RoundEven | RoundAway => return Ok(None),
        Sqrt => {
            let half = b.splat_like(x, 0.5);
            let g = b.times(g, half);
            b.over(g, y)
        }
        Rsqrt => {
            let c = b.splat_like(x, -0.5);
            let yy = b.times(y, y);
            let yyy = b.times(yy, y);
            let g = b.times(g, c);
            b.times(g, yyy)
        }
        Cbrt => {
            let c = b.splat_like(x, 1.0 / 3.0);
            let yy = b.times(y, y);
            let g = b.times(g, c);
            b.over(g, yy)
        }
        Exp => b.times(g, y),
        Expm1 => {
            let one = one(b);
            let e = b.plus(y, one);
            b.times(g, e)
        }
        Log => b.over(g, x),
        Log1p => {
            let one = one(b);
            let d = b.plus(x, one);
            b.over(g, d)
        }
        Sin => {
            let c = b.unary(Cos, x);
            b.times(g, c)
        }
        Cos => {
            let s = b.unary(Sin, x);
            let s = b.unary(Neg, s);
            b.times(g, s)
        }
        Tan => {
            let (one, yy) = (one(b), b.times(y, y));
            let d = b.plus(one, yy);
            b.times(g, d)
        }
        Asin | Acos => {
            let d = square_plus(b, -1.0, 1.0);
            let r = b.unary(Rsqrt, d);
            let r = if f == Acos { b.unary(Neg, r) } else { r };
            b.times(g, r)
        }
        Atan => {
            let d = square_plus(b, 1.0, 1.0);
            b.over(g, d)
        }
        Sinh => {
            let c = b.unary(Cosh, x);
            b.times(g, c)
        }
        Cosh => {
            let s = b.unary(Sinh, x);
            b.times(g, s)
        }
        Asinh | Acosh => {
            let d = square_plus(b, 1.0, if f == Asinh { 1.0 } else { -1.0 });
            let r = b.unary(Rsqrt, d);
            b.times(g, r)
        }
        Atanh => {
            let d = square_plus(b, -1.0, 1.0);
            b.over(g, d)
        }
        Tanh => {
            let (one, yy) = (one(b), b.times(y, y));
            let d = b.minus(one, yy);
            b.times(g, d)
        }
        Logistic => {
            let one = one(b);
            let d = b.minus(one, y);
            let d = b.times(y, d);
            b.times(g, d)
        }
        Erf => {
            let xx = b.times(x, x);
            let xx = b.unary(Neg, xx);
            let e = b.unary(Exp, xx);
            let c = b.splat_like(x, std::f64::consts::FRAC_2_SQRT_PI);
            let e = b.times(e, c);
            b.times(g, e)
        }
        Erfc => {
            let xx = b.times(x, x);
            let xx = b.unary(Neg, xx);
            let e = b.unary(Exp, xx);
            let c = b.splat_like(x, -std::f64::consts::FRAC_2_SQRT_PI);
            let e = b.times(e, c);
            b.times(g, e)
        }
        ErfInv => {
            let yy = b.times(y, y);
            let e = b.unary(Exp, yy);
            let c = b.splat_like(x, 1.0 / std::f64::consts::FRAC_2_SQRT_PI);
            let e = b.times(e, c);
            b.times(g, e)
        }
        Lgamma => {
            let d = b.unary(Digamma, x);
            b.times(g, d)
        }
        Digamma => {
            let two = b.splat_like(x, 2.0);
            let d = b.binary(BinaryFn::Zeta, two, x);
            b.times(g, d)
        }
        BesselI0e => {
            let (s, other) = (b.unary(Sign, x), b.unary(BesselI1e, x));
            let sy = b.times(s, y);
            let d = b.minus(other, sy);
            b.times(g, d)
        }
        BesselI1e => {
            // I₀ − I₁/x − sgn(x) I₁, all scaled; at 0 the quotient is ½ and the product 0.
            let (s, other) = (b.unary(Sign, x), b.unary(BesselI0e, x));
            let (zero, one, half) = (b.splat_like(x, 0.0), one(b), b.splat_like(x, 0.5));
            let at_zero = b.compare(CompareFn::Eq, x, zero);
            let safe = b.select(at_zero, one, x);
            let q = b.over(y, safe);
            let q = b.select(at_zero, half, q);
            let sy = b.times(s, y);
            let d = b.minus(other, q);
            let d = b.minus(d, sy);
            b.times(g, d)
        }
        Not | Popcnt | Clz | IsFinite | IsNan | IsInf => {
            return Err(NoVjp { op: f.name(), why: "its result is not a real number" });
        }
    }))
}

impl OpDef for Binary {
    const NAMES: &'static [&'static str] = BinaryFn::NAMES;
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let a = alike(self.name(), ins, 2)?;
        match self.0.result(a.dtype) {
            Some(d) if a.dtype == ins[1].dtype => Ok(a.with_dtype(d).into()),
            _ => Err(InferError::new(self.name(), format!("(C3) is not defined on {} and {}", a.dtype, ins[1].dtype))),
        }
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 2, 1)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let d = ins[0].dtype();
        let values = wides(ins[0]).into_iter().zip(wides(ins[1])).map(|(a, b)| self.0.eval(d, a, b)).collect();
        vec![tensor(&out.components()[0], values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (g, x, z, y) = (cx.cotangent(), cx.operands[0], cx.operands[1], cx.result);
        let b = &mut *cx.graph;
        use BinaryFn::*;
        Ok(match self.0 {
            Add => vec![Some(g), Some(g)],
            Sub => vec![Some(g), Some(b.unary(UnaryFn::Neg, g))],
            Mul => vec![Some(b.times(g, z)), Some(b.times(g, x))],
            Div => {
                let gx = b.over(g, z);
                let gz = b.times(gx, y);
                vec![Some(gx), Some(b.unary(UnaryFn::Neg, gz))]
            }
            Rem => {
                let q = b.over(x, z);
                let (up, down) = (b.unary(UnaryFn::Ceil, q), b.unary(UnaryFn::Floor, q));
                let zero = b.splat_like(q, 0.0);
                let negative = b.compare(CompareFn::Lt, q, zero);
                let whole = b.select(negative, up, down);
                let gz = b.times(g, whole);
                vec![Some(g), Some(b.unary(UnaryFn::Neg, gz))]
            }
            Max | Min => {
                // A tie gives each side half.
                let f = if self.0 == Max { CompareFn::Gt } else { CompareFn::Lt };
                let wins = b.compare(f, x, z);
                let ties = b.compare(CompareFn::Eq, x, z);
                let half = b.splat_like(g, 0.5);
                let zero = b.splat_like(g, 0.0);
                let shared = b.times(g, half);
                let rest = b.select(ties, shared, zero);
                let gx = b.select(wins, g, rest);
                vec![Some(gx), Some(b.minus(g, gx))]
            }
            Pow => {
                let one = b.splat_like(z, 1.0);
                let less = b.minus(z, one);
                let p = b.binary(Pow, x, less);
                let p = b.times(z, p);
                let gx = b.times(g, p);
                let gz = cx.wanted[1].then(|| {
                    let l = b.unary(UnaryFn::Log, x);
                    let zero = b.splat_like(x, 0.0);
                    let at_zero = b.compare(CompareFn::Eq, x, zero);
                    let l = b.select(at_zero, zero, l);
                    let l = b.times(y, l);
                    b.times(g, l)
                });
                vec![Some(gx), gz]
            }
            Atan2 => {
                let (xx, zz) = (b.times(x, x), b.times(z, z));
                let d = b.plus(xx, zz);
                let gd = b.over(g, d);
                let gz = b.times(gd, x);
                vec![Some(b.times(gd, z)), Some(b.unary(UnaryFn::Neg, gz))]
            }
            Zeta => {
                if cx.wanted[0] {
                    return Err(NoVjp { op: self.0.name(), why: "its derivative by the exponent has no closed form" });
                }
                let one = b.splat_like(x, 1.0);
                let more = b.plus(x, one);
                let d = b.binary(Zeta, more, z);
                let d = b.times(x, d);
                let d = b.unary(UnaryFn::Neg, d);
                vec![None, Some(b.times(g, d))]
            }
            NextAfter => return Err(NoVjp { op: self.0.name(), why: "it is a step of the number format" }),
            And | Or | Xor | Shl | ShrArith | ShrLogical | MulHi => {
                return Err(NoVjp { op: self.0.name(), why: "bitwise functions are not differentiable" });
            }
        })
    }
}

impl OpDef for Compare {
    const NAMES: &'static [&'static str] = CompareFn::NAMES;
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let a = alike(self.name(), ins, 2)?;
        if a.dtype != ins[1].dtype {
            return Err(InferError::new(self.name(), format!("(C3) compares {} with {}", a.dtype, ins[1].dtype)));
        }
        Ok(a.with_dtype(DType::Bool).into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 2, 1)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let d = ins[0].dtype();
        let values = wides(ins[0]).into_iter().zip(wides(ins[1])).map(|(a, b)| Wide::I(i64::from(self.0.eval(d, a, b)))).collect();
        vec![tensor(&out.components()[0], values)]
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Ok(vec![None, None])
    }
}

impl OpDef for Select {
    const NAMES: &'static [&'static str] = &["select"];
    fn name(&self) -> &'static str {
        "select"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        alike("select", ins, 3)?;
        if ins[0].dtype != DType::Bool || ins[1].dtype != ins[2].dtype {
            return Err(InferError::new("select", format!("(C3) operands are {}, {} and {}", ins[0], ins[1], ins[2])));
        }
        Ok(ins[1].clone().into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 3, 1)
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, b) = (wides(ins[1]), wides(ins[2]));
        let values = ins[0].ints().iter().zip(a.into_iter().zip(b)).map(|(c, (a, b))| if *c != 0 { a } else { b }).collect();
        vec![tensor(&out.components()[0], values)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (g, c) = (cx.cotangent(), cx.operands[0]);
        let zero = cx.graph.splat_like(g, 0.0);
        let a = cx.wanted[1].then(|| cx.graph.select(c, g, zero));
        let b = cx.wanted[2].then(|| cx.graph.select(c, zero, g));
        Ok(vec![None, a, b])
    }
}

impl OpDef for Convert {
    const NAMES: &'static [&'static str] = &["convert"];
    fn name(&self) -> &'static str {
        "convert"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        Ok(alike("convert", ins, 1)?.with_dtype(self.to).into())
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        Axes::elementwise(&out.components()[0].shape, 1, 1)
    }
    fn eval(&self, ins: &[&Tensor], _: &Type) -> Vec<Tensor> {
        vec![ins[0].convert(self.to)]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let from = cx.graph.tensor_ty(cx.operands[0]).dtype;
        if !from.is_float() || !self.to.is_float() {
            return Ok(vec![None]);
        }
        Ok(vec![Some(cx.graph.convert(cx.cotangent(), from))])
    }
}
