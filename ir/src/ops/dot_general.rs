//! `dot_general`: the batched matrix product (StableHLO `dot_general`).
//!
//! Result dimensions: batch, then free dimensions of the left, then free dimensions of the right.
//! (C1) two operands of one element type; (C2) batch and contracting dimensions pair up, are all different, and have equal extents.
//! Floats are accumulated in at least f32 and rounded once.

use super::{InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::graph::ValueId;
use crate::scalar::Monoid;
use crate::tensor::{Data, Tensor, indices, position};
use crate::types::{Dims, TensorType, Type};

crate::op_attrs! {
    /// See the module.
    DotGeneral {
        /// Batch dimensions of the left operand.
        lhs_batch: Vec<usize>,
        /// Batch dimensions of the right operand.
        rhs_batch: Vec<usize>,
        /// Contracting dimensions of the left operand.
        lhs_contract: Vec<usize>,
        /// Contracting dimensions of the right operand.
        rhs_contract: Vec<usize>,
    }
}

/// Dimensions of an operand that are neither batch nor contracting, ascending.
pub fn free_dims(rank: usize, batch: &[usize], contract: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !batch.contains(d) && !contract.contains(d)).collect()
}

impl DotGeneral {
    /// The plain product over the last dimension of the left and the given dimension of the right, with `batch` leading batch dimensions.
    pub fn matmul(lhs_rank: usize, rhs_contract: usize, batch: usize) -> Self {
        let b: Vec<usize> = (0..batch).collect();
        DotGeneral { lhs_batch: b.clone(), rhs_batch: b, lhs_contract: vec![lhs_rank - 1], rhs_contract: vec![rhs_contract] }
    }
    /// Free dimensions of the left operand.
    pub fn lhs_free(&self, rank: usize) -> Vec<usize> {
        free_dims(rank, &self.lhs_batch, &self.lhs_contract)
    }
    /// Free dimensions of the right operand.
    pub fn rhs_free(&self, rank: usize) -> Vec<usize> {
        free_dims(rank, &self.rhs_batch, &self.rhs_contract)
    }
}

fn distinct(rank: usize, a: &[usize], b: &[usize]) -> bool {
    let all: Vec<usize> = a.iter().chain(b).copied().collect();
    all.iter().enumerate().all(|(i, d)| *d < rank && !all[..i].contains(d))
}

impl OpDef for DotGeneral {
    const NAMES: &'static [&'static str] = &["dot_general"];
    fn name(&self) -> &'static str {
        "dot_general"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let err = |why: String| Err(InferError::new("dot_general", why));
        let [a, b] = ins else { return err("(C1) takes two operands".into()) };
        if a.dtype != b.dtype {
            return err(format!("(C1) operands are {} and {}", a.dtype, b.dtype));
        }
        let pairs = |x: &[usize], y: &[usize]| x.len() == y.len() && x.iter().zip(y).all(|(i, j)| a.shape.get(*i) == b.shape.get(*j));
        let fits = distinct(a.rank(), &self.lhs_batch, &self.lhs_contract)
            && distinct(b.rank(), &self.rhs_batch, &self.rhs_contract)
            && pairs(&self.lhs_batch, &self.rhs_batch)
            && pairs(&self.lhs_contract, &self.rhs_contract);
        if !fits {
            return err(format!("(C2) {a} and {b} do not pair up by {self:?}"));
        }
        let mut shape: Dims = self.lhs_batch.iter().map(|d| a.shape[*d]).collect();
        shape.extend(self.lhs_free(a.rank()).into_iter().map(|d| a.shape[d]));
        shape.extend(self.rhs_free(b.rank()).into_iter().map(|d| b.shape[d]));
        Ok(TensorType { dtype: a.dtype, shape }.into())
    }
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes {
        let (a, b) = (ins[0], ins[1]);
        let mut axes = Axes::elementwise(&out.components()[0].shape, 0, 2);
        let (mut l, mut r) = (vec![DimUse::Whole; a.rank()], vec![DimUse::Whole; b.rank()]);
        let mut next = 0;
        for (i, j) in self.lhs_batch.iter().zip(&self.rhs_batch) {
            l[*i] = DimUse::Loop(next);
            r[*j] = DimUse::Loop(next);
            next += 1;
        }
        for d in self.lhs_free(a.rank()) {
            l[d] = DimUse::Loop(next);
            next += 1;
        }
        for d in self.rhs_free(b.rank()) {
            r[d] = DimUse::Loop(next);
            next += 1;
        }
        for (i, j) in self.lhs_contract.iter().zip(&self.rhs_contract) {
            l[*i] = DimUse::Loop(next);
            r[*j] = DimUse::Loop(next);
            axes.loops.push(LoopDim { extent: a.shape[*i], kind: LoopKind::Reduce(Monoid::Sum) });
            next += 1;
        }
        axes.operands = vec![l, r];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        let (a, b, ty) = (ins[0], ins[1], &out.components()[0]);
        let axes = self.axes(&[a.ty(), b.ty()], out);
        let depth: Dims = axes.loops[ty.rank()..].iter().map(|l| l.extent).collect();
        let at = |k: usize, shape: &[usize], o: &[usize], c: &[usize]| {
            let index: Dims = axes.operands[k]
                .iter()
                .map(|u| if let DimUse::Loop(l) = u { *o.get(*l).unwrap_or_else(|| &c[l - o.len()]) } else { 0 })
                .collect();
            position(shape, &index)
        };
        let terms =
            |o: &Dims| -> Vec<(usize, usize)> { indices(&depth).map(|c| (at(0, a.shape(), o, &c), at(1, b.shape(), o, &c))).collect() };
        vec![match (a.data(), b.data()) {
            (Data::Int(x), Data::Int(y)) => Tensor::new_int(
                ty.clone(),
                indices(&ty.shape).map(|o| terms(&o).into_iter().fold(0i64, |s, (i, j)| s.wrapping_add(x[i].wrapping_mul(y[j])))).collect(),
            ),
            _ => {
                let (x, y) = (a.floats(), b.floats());
                Tensor::new_float(ty.clone(), indices(&ty.shape).map(|o| terms(&o).into_iter().map(|(i, j)| x[i] * y[j]).sum()).collect())
            }
        }]
    }
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        let (a, b) = (cx.operands[0], cx.operands[1]);
        let (ra, rb) = (cx.graph.shape(a).len(), cx.graph.shape(b).len());
        let (n, g) = (self.lhs_batch.len(), cx.cotangent());
        let (fa, fb) = (self.lhs_free(ra), self.rhs_free(rb));
        let g_batch: Vec<usize> = (0..n).collect();
        let g_left: Vec<usize> = (n..n + fa.len()).collect();
        let g_right: Vec<usize> = (n + fa.len()..n + fa.len() + fb.len()).collect();
        // Each gradient is the product of the cotangent with the other operand over that one's free dimensions. The product's
        // dimensions are batch, own free, own contracting (in the other operand's ascending order); transpose them home.
        let mut grad = |wanted: bool, other, ob: &[usize], of: &[usize], g_sum: &[usize], home: Vec<usize>| {
            if !wanted {
                return None;
            }
            let op =
                DotGeneral { lhs_batch: g_batch.clone(), rhs_batch: ob.to_vec(), lhs_contract: g_sum.to_vec(), rhs_contract: of.to_vec() };
            let product = cx.graph.emit(op, &[g, other]);
            let mut permutation = vec![0; home.len()];
            home.iter().enumerate().for_each(|(i, d)| permutation[*d] = i);
            Some(cx.graph.transpose(product, &permutation))
        };
        let home = |own_batch: &[usize], own_free: &[usize], own: &[usize], other: &[usize]| -> Vec<usize> {
            let mut order: Vec<usize> = (0..own.len()).collect();
            order.sort_by_key(|i| other[*i]);
            own_batch.iter().chain(own_free).copied().chain(order.into_iter().map(|i| own[i])).collect()
        };
        let home_a = home(&self.lhs_batch, &fa, &self.lhs_contract, &self.rhs_contract);
        let home_b = home(&self.rhs_batch, &fb, &self.rhs_contract, &self.lhs_contract);
        let da = grad(cx.wanted[0], b, &self.rhs_batch, &fb, &g_right, home_a);
        let db = grad(cx.wanted[1], a, &self.lhs_batch, &fa, &g_left, home_b);
        Ok(vec![da, db])
    }
}
