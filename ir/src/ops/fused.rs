//! `map` and `rows`: a [`FusedProgram`] run at every point of an iteration space: what fusion makes of elementwise and row-wise ops.
//!
//! `loops` are the extents of the iteration space; the last `cols` of them are columns (`map`: none). Dimension `d` of operand `k` moves with
//! loop `operands[k][d]`; along loops that are not listed the operand repeats. A result has the extents of all loops, or of the row loops only
//! when `cols` is not 0 and its slot is per row. One result is a tensor, more are a tuple.
//! (C1) the program types, has a result, and its inputs are the operands' element types; (C2) `cols` is at most the number of loops, and 0
//! only for a program that does not reduce; (C3) every operand dimension has a loop of its own, of equal extent; (C4) `Index` names a loop.
//! Every instruction rounds to its slot's type; reductions accumulate in at least f32 and round once.
//!
//! A row may not be cut, unless the program is a single reduction, whose result is all that it makes ([`Fused::reduction`]): then parts of a row
//! make partial results, which that monoid combines.

use super::elementwise::{tensor, wides};
use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopKind};
use crate::fused::{Expr, FusedProgram};
use crate::graph::ValueId;
use crate::scalar::{Monoid, Wide};
use crate::tensor::{Tensor, float_to_int, indices, int_to_float, position, round_float, wrap_int};
use crate::types::{DType, Dims, NumberKind, TensorType, Type};
use std::sync::Arc;

crate::op_attrs! {
    /// See the module.
    Fused {
        /// What happens at a point.
        program: Arc<FusedProgram>,
        /// Extents of the iteration space, rows then columns.
        loops: Dims,
        /// How many of the last loops are columns.
        cols: usize,
        /// Loop of each dimension of each operand.
        operands: Vec<Vec<usize>>,
    }
}

impl Fused {
    /// Number of row loops.
    pub fn rows(&self) -> usize {
        self.loops.len() - self.cols
    }

    /// The monoid that combines what parts of a row make, where there is one: the only result is the only reduction, in a type in which
    /// partial results are not rounded.
    pub fn reduction(&self) -> Option<Monoid> {
        let reductions = || self.program.body.iter().filter(|e| matches!(e, Expr::Reduce(..)));
        let [result] = self.program.outputs[..] else { return None };
        match self.program.body.get(result as usize)? {
            Expr::Reduce(m, _) if self.cols > 0 && reductions().count() == 1 => {
                let types = self.program.types().ok()?;
                let own = types[result as usize];
                (m.carried_in(own) == own).then_some(*m)
            }
            _ => None,
        }
    }

    fn check(&self, ins: &[&TensorType]) -> Result<Vec<DType>, String> {
        let p = &*self.program;
        let types = p.types().map_err(|e| format!("(C1) {e}"))?;
        if p.outputs.is_empty() || ins.iter().map(|t| t.dtype).ne(p.inputs.iter().copied()) {
            return Err(format!("(C1) the program makes {} results from {:?}, the operands are {ins:?}", p.outputs.len(), p.inputs));
        }
        if self.cols > self.loops.len() || (self.cols == 0 && p.has_reduction()) {
            return Err(format!("(C2) {} of {} loops cannot be columns of this program", self.cols, self.loops.len()));
        }
        let mapped = self.operands.len() == ins.len()
            && self.operands.iter().zip(ins).all(|(map, t)| {
                map.len() == t.rank()
                    && map.iter().enumerate().all(|(d, l)| self.loops.get(*l) == Some(&t.shape[d]) && !map[..d].contains(l))
            });
        if !mapped {
            return Err(format!("(C3) {:?} do not map {ins:?} into loops {:?}", self.operands, self.loops));
        }
        if p.body.iter().any(|e| matches!(e, Expr::Index(d, l) if *l as usize >= self.loops.len() || *d == DType::Bool)) {
            return Err(format!("(C4) an index names no loop of {:?} or is bool", self.loops));
        }
        Ok(types)
    }
}

/// One value converted from one type to another with `convert`'s rules.
fn convert(from: DType, to: DType, v: Wide) -> Wide {
    match (v, to.kind()) {
        (Wide::F(x), NumberKind::Float) => Wide::F(round_float(to, x)),
        (Wide::I(x), NumberKind::Float) => Wide::F(int_to_float(to, x, from == DType::U64)),
        (Wide::F(x), NumberKind::Bool) => Wide::I(i64::from(x != 0.0)),
        (Wide::F(x), _) => Wide::I(float_to_int(to, x)),
        (Wide::I(x), _) => Wide::I(wrap_int(to, x)),
    }
}

fn from_bits(dtype: DType, bits: u64) -> Wide {
    if dtype.is_float() { Wide::F(round_float(dtype, f64::from_bits(bits))) } else { Wide::I(wrap_int(dtype, bits as i64)) }
}

/// The values of every slot along one row; a per-row slot holds one.
struct Row<'a> {
    op: &'a Fused,
    types: &'a [DType],
    per_row: &'a [bool],
    ins: &'a [(&'a Tensor, Vec<Wide>)],
    slots: Vec<Vec<Wide>>,
}

impl Row<'_> {
    fn slot(&self, slot: u32, column: usize) -> Wide {
        let s = slot as usize;
        self.slots[s][if self.per_row[s] { 0 } else { column }]
    }

    fn eval(&self, at: usize, column: usize, index: &[usize], columns: usize) -> Wide {
        let (get, ty) = (|s: u32| self.slot(s, column), |s: u32| self.types[s as usize]);
        match self.op.program.body[at] {
            Expr::Input(k) => {
                let (t, values) = &self.ins[k as usize];
                let place: Dims = self.op.operands[k as usize].iter().map(|l| index[*l]).collect();
                values[position(t.shape(), &place)]
            }
            Expr::Const(d, bits) => from_bits(d, bits),
            Expr::Index(d, l) => convert(DType::I64, d, Wide::I(index[l as usize] as i64)),
            Expr::Unary(f, a) => f.eval(ty(a), get(a)),
            Expr::Binary(f, a, b) => f.eval(ty(a), get(a), get(b)),
            Expr::Compare(f, a, b) => Wide::I(i64::from(f.eval(ty(a), get(a), get(b)))),
            Expr::Select(c, a, b) => get(if get(c).int() != 0 { a } else { b }),
            Expr::Convert(d, a) => convert(ty(a), d, get(a)),
            Expr::Bitcast(d, a) => super::bitcast_convert::bits(ty(a), d, get(a)),
            Expr::Reduce(m, a) => {
                let wide = if ty(a).is_float() { DType::F64 } else { ty(a) };
                let all = (0..columns).fold(m.identity(wide), |acc, c| m.function().eval(wide, acc, self.slot(a, c)));
                convert(wide, ty(a), all)
            }
        }
    }
}

impl OpDef for Fused {
    const NAMES: &'static [&'static str] = &["map", "rows"];
    fn name(&self) -> &'static str {
        if self.cols == 0 { "map" } else { "rows" }
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let types = self.check(ins).map_err(|why| InferError::new(self.name(), why))?;
        let per_row = self.program.per_row();
        let result = |slot: &u32| {
            let s = *slot as usize;
            let dims = if self.cols > 0 && per_row[s] { self.rows() } else { self.loops.len() };
            TensorType::new(types[s], &self.loops[..dims])
        };
        let mut results: Vec<TensorType> = self.program.outputs.iter().map(result).collect();
        Ok(if results.len() == 1 { results.remove(0).into() } else { Type::Tuple(results) })
    }
    fn axes(&self, _: &[&TensorType], out: &Type) -> Axes {
        let free = |e: &&Expr| !matches!(e, Expr::Input(_) | Expr::Const(..) | Expr::Index(..));
        let mut axes = Axes::elementwise(&self.loops, 0, self.program.body.iter().filter(free).count() as u64);
        let columns = self.reduction().map_or(LoopKind::Whole, LoopKind::Reduce);
        axes.loops[self.rows()..].iter_mut().for_each(|l| l.kind = columns);
        axes.operands = self.operands.iter().map(|map| map.iter().map(|l| DimUse::Loop(*l)).collect()).collect();
        axes.results = out.components().iter().map(|t| (0..t.rank()).map(DimUse::Loop).collect()).collect();
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let types = self.program.types().unwrap_or_default();
        let per_row = self.program.per_row();
        let ins: Vec<(&Tensor, Vec<Wide>)> = ins.iter().map(|t| (*t, wides(t))).collect();
        let columns: Vec<Dims> = indices(&self.loops[self.rows()..]).collect();
        let mut results: Vec<Vec<Wide>> = vec![Vec::new(); self.program.outputs.len()];
        for row in indices(&self.loops[..self.rows()]) {
            let points: Vec<Dims> = columns.iter().map(|c| row.iter().chain(c).copied().collect()).collect();
            let mut state = Row { op: self, types: &types, per_row: &per_row, ins: &ins, slots: Vec::with_capacity(types.len()) };
            for (at, uniform) in per_row.iter().enumerate() {
                let values = if *uniform {
                    vec![state.eval(at, 0, &[], columns.len())]
                } else {
                    points.iter().enumerate().map(|(c, p)| state.eval(at, c, p, columns.len())).collect()
                };
                state.slots.push(values);
            }
            for (result, slot) in results.iter_mut().zip(&self.program.outputs) {
                let count = if self.cols > 0 && per_row[*slot as usize] { 1 } else { columns.len() };
                result.extend((0..count).map(|c| state.slot(*slot, c)));
            }
        }
        out.components().iter().zip(results).map(|(ty, values)| tensor(ty, values)).collect()
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: self.name(), why: "fusion comes after differentiation; differentiate the graph before it is fused" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::{BinaryFn, UnaryFn};

    #[test]
    fn a_row_program_is_a_softmax() {
        let body = vec![
            Expr::Input(0),
            Expr::Reduce(Monoid::Max, 0),
            Expr::Binary(BinaryFn::Sub, 0, 1),
            Expr::Unary(UnaryFn::Exp, 2),
            Expr::Reduce(Monoid::Sum, 3),
            Expr::Binary(BinaryFn::Div, 3, 4),
        ];
        let program = FusedProgram { inputs: vec![DType::F64], body, outputs: vec![5, 4] };
        // The operand lies columns first: the mapping transposes it.
        let op = Fused { program: Arc::new(program), loops: Dims::from_slice(&[2, 3]), cols: 1, operands: vec![vec![1, 0]] };
        let x = Tensor::new_float(TensorType::new(DType::F64, [3, 2]), vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0 + 3f64.ln()]);
        let out = op.infer(&[x.ty()]).unwrap();
        assert_eq!(out.to_string(), "(f64[2,3], f64[2])");
        let y = op.eval(&[&x], &out);
        for (got, want) in y[0].floats().into_iter().zip([1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.2, 0.2, 0.6]) {
            assert!((got - want).abs() < 1e-12, "{y:?}");
        }
        assert!((y[1].floats()[0] - 3.0).abs() < 1e-12);
        assert_eq!(op.name(), "rows");
    }

    #[test]
    fn rows_that_are_one_reduction_may_be_cut() {
        let columns = |body: Vec<Expr>, outputs: Vec<u32>, dtype: DType| {
            let program = FusedProgram { inputs: vec![dtype], body, outputs };
            let op = Fused { program: Arc::new(program), loops: Dims::from_slice(&[2, 3]), cols: 1, operands: vec![vec![0, 1]] };
            let x = TensorType::new(dtype, [2, 3]);
            let out = op.infer(&[&x]).unwrap();
            op.axes(&[&x], &out).loops.iter().map(|l| l.kind).collect::<Vec<_>>()
        };
        let squares = vec![Expr::Input(0), Expr::Binary(BinaryFn::Mul, 0, 0), Expr::Reduce(Monoid::Sum, 1)];
        assert_eq!(columns(squares.clone(), vec![2], DType::F32), [LoopKind::Parallel, LoopKind::Reduce(Monoid::Sum)]);
        assert_eq!(columns(squares.clone(), vec![2], DType::BF16)[1], LoopKind::Whole, "partial sums would be rounded");
        assert_eq!(columns(squares.clone(), vec![1, 2], DType::F32)[1], LoopKind::Whole, "not all of it is the sum");
        let scaled = [squares, vec![Expr::Binary(BinaryFn::Div, 1, 2)]].concat();
        assert_eq!(columns(scaled, vec![3], DType::F32)[1], LoopKind::Whole);
        let largest = vec![Expr::Input(0), Expr::Reduce(Monoid::Max, 0)];
        assert_eq!(columns(largest, vec![1], DType::BF16)[1], LoopKind::Reduce(Monoid::Max));
    }

    #[test]
    fn instructions_round_to_their_type() {
        let body =
            vec![Expr::Input(0), Expr::Const(DType::BF16, 1f64.to_bits()), Expr::Binary(BinaryFn::Add, 0, 1), Expr::Convert(DType::F32, 2)];
        let program = FusedProgram { inputs: vec![DType::BF16], body, outputs: vec![3] };
        let op = Fused { program: Arc::new(program), loops: Dims::from_slice(&[1]), cols: 0, operands: vec![vec![0]] };
        let x = Tensor::new_float(TensorType::new(DType::BF16, [1]), vec![256.0]);
        let out = op.infer(&[x.ty()]).unwrap();
        assert_eq!(op.eval(&[&x], &out)[0].floats(), [256.0]);
    }
}
