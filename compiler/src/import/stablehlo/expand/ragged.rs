//! `chlo.ragged_dot`: products in which consecutive runs of a dimension, the groups, have a matrix of their own or a result of their own.
//!
//! Group sizes are data, so the groups are masks: every row is multiplied with every group's matrix and one product is kept (or, for a
//! ragged contracting dimension, only the rows of the group are added up).

use super::build::{iota, number};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::cumulative::Cumulative;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::types::DType;

/// The dimension numbers of `ragged_dot`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaggedDims {
    /// `lhs_batching_dimensions` to `rhs_contracting_dimensions`.
    pub dot: RaggedDot,
    /// `lhs_ragged_dimensions`: exactly one.
    pub ragged: Vec<usize>,
    /// `rhs_group_dimensions`: one when the ragged dimension is free, else none.
    pub group: Vec<usize>,
}

/// The dimension numbers that a plain product has too.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaggedDot {
    /// Batch dimensions of the left operand.
    pub lhs_batch: Vec<usize>,
    /// Batch dimensions of the right operand.
    pub rhs_batch: Vec<usize>,
    /// Contracting dimensions of the left operand.
    pub lhs_contract: Vec<usize>,
    /// Contracting dimensions of the right operand.
    pub rhs_contract: Vec<usize>,
}

/// The ragged product with one list of group sizes for all batches. `None` when the dimensions do not fit.
pub fn ragged_dot(b: &mut Graph, lhs: ValueId, rhs: ValueId, sizes: ValueId, dims: &RaggedDims) -> Option<ValueId> {
    let [ragged] = dims.ragged[..] else { return None };
    let [groups] = b.shape(sizes)[..] else { return None };
    let dot = &dims.dot;
    let plain = DotGeneral {
        lhs_batch: dot.lhs_batch.clone(),
        rhs_batch: dot.rhs_batch.clone(),
        lhs_contract: dot.lhs_contract.clone(),
        rhs_contract: dot.rhs_contract.clone(),
    };
    let (ls, rs) = (b.shape(lhs).to_vec(), b.shape(rhs).to_vec());
    let extent = *ls.get(ragged)?;
    if dot.lhs_batch.contains(&ragged) {
        // Batches are independent: groups of them change nothing.
        return b.add(plain.into(), &[lhs, rhs]).ok();
    }
    let member = members(b, sizes, extent, groups);
    let zero = number(b, b.tensor_ty(lhs).dtype, 0);
    if let Some(contract) = dot.lhs_contract.iter().position(|d| *d == ragged) {
        let _ = contract;
        // [groups, lhs…] with the other groups' elements zero.
        let shape: Vec<usize> = [groups].into_iter().chain(ls.iter().copied()).collect();
        let repeated = b.broadcast(lhs, &shape, &(1..=ls.len()).collect::<Vec<_>>());
        let mask = b.broadcast(member, &shape, &[ragged + 1, 0]);
        let none = b.broadcast(zero, &shape, &[]);
        let own = b.select(mask, repeated, none);
        let up = |l: &[usize]| l.iter().map(|d| d + 1).collect::<Vec<_>>();
        let op = DotGeneral { lhs_batch: up(&dot.lhs_batch), lhs_contract: up(&dot.lhs_contract), ..plain };
        let y = b.add(op.into(), &[own, rhs]).ok()?;
        // The groups come after the batch dimensions; they belong in front.
        let (rank, batch) = (b.shape(y).len(), dot.lhs_batch.len());
        let order: Vec<usize> = [batch].into_iter().chain((0..rank).filter(|d| *d != batch)).collect();
        return Some(b.transpose(y, &order));
    }
    let [group] = dims.group[..] else { return None };
    if *rs.get(group)? != groups {
        return None;
    }
    let free: Vec<usize> = plain.lhs_free(ls.len());
    let right: Vec<usize> = plain.rhs_free(rs.len());
    let row = dot.lhs_batch.len() + free.iter().position(|d| *d == ragged)?;
    let column = dot.lhs_batch.len() + free.len() + right.iter().position(|d| *d == group)?;
    let y = b.add(plain.into(), &[lhs, rhs]).ok()?;
    let shape = b.shape(y).to_vec();
    let mask = b.broadcast(member, &shape, &[row, column]);
    let none = b.broadcast(zero, &shape, &[]);
    let own = b.select(mask, y, none);
    Some(b.sum(own, &[column]))
}

/// `[extent, groups]`: whether an element is in a group.
fn members(b: &mut Graph, sizes: ValueId, extent: usize, groups: usize) -> ValueId {
    let sizes = b.convert(sizes, DType::I64);
    let end = b.emit(Cumulative { monoid: Monoid::Sum, dim: 0, exclusive: false, reverse: false }, &[sizes]);
    let start = b.minus(end, sizes);
    let shape = [extent, groups];
    let (end, start) = (b.broadcast(end, &shape, &[1]), b.broadcast(start, &shape, &[1]));
    let index = iota(b, DType::I64, &shape, 0);
    let (from, to) = (b.compare(CompareFn::Ge, index, start), b.compare(CompareFn::Lt, index, end));
    b.binary(BinaryFn::And, from, to)
}
