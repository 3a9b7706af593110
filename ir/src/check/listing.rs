//! How an instruction has to list an operand: where its first element lies, and extent and byte stride of each dimension it walks.
//!
//! The loop nest of the node says which elements a share needs and in which order; the map of the contents says where they are.

use super::content::address;
use super::implements::Order;
use crate::axes::{DimUse, box_dims};
use crate::graph::{Graph, ValueId};
use crate::types::element_count;
use smallvec::SmallVec;
use std::ops::Range;

/// Start address, then (extent, byte stride) of each dimension.
pub(super) type Listing = (i64, Vec<(usize, i64)>);

/// The addresses of a part.
pub(super) struct Map<'a> {
    /// The part.
    pub(super) part: &'a [Range<usize>],
    /// Address of index (0, 0, …).
    pub(super) base: i64,
    /// Bytes from one index to the next.
    pub(super) strides: &'a [i64],
}

impl Map<'_> {
    /// The part's dimensions in an order.
    pub(super) fn in_order(&self, order: Option<&[usize]>) -> Listing {
        let start = address(self.base, self.strides, self.part.iter().map(|r| r.start));
        let dim = |d: usize| (self.part[d].len(), self.strides[d]);
        let dims = match order {
            Some(order) => order.iter().map(|d| dim(*d)).collect(),
            None => (0..self.part.len()).map(dim).collect(),
        };
        (start, dims)
    }
}

/// One operand of a claimed node.
pub(super) struct Node<'a> {
    /// The reference graph.
    pub(super) graph: &'a Graph,
    /// The node.
    pub(super) node: ValueId,
    /// Which operand.
    pub(super) operand: usize,
    /// How its dimensions move with the loops.
    pub(super) uses: &'a [DimUse],
    /// The claimed ranges.
    pub(super) ranges: &'a [Range<usize>],
}

impl Node<'_> {
    /// The start and the dimensions of the operand as the instruction has to list them.
    pub(super) fn list(&self, order: &Order, m: &Map<'_>) -> Result<Listing, String> {
        match order {
            Order::Dims(per_operand) => Ok(m.in_order(per_operand.get(self.operand).and_then(|o| o.as_deref()))),
            Order::Flat => self.flat(m),
            Order::Rows(layouts) => match layouts.get(self.operand) {
                Some(layout) => Ok(m.in_order(Some(layout))),
                None => self.loops(m, true),
            },
            Order::Loops | Order::UsedLoops => self.loops(m, *order == Order::Loops),
        }
    }

    fn loops(&self, m: &Map<'_>, all: bool) -> Result<Listing, String> {
        let mut strides: SmallVec<[Option<i64>; 8]> = SmallVec::from_elem(None, self.ranges.len());
        let mut start = m.base;
        let add = |slot: &mut Option<i64>, by: i64| *slot = Some(slot.unwrap_or(0).wrapping_add(by));
        for (d, u) in self.uses.iter().enumerate() {
            match u {
                DimUse::Loop(l) => {
                    add(&mut strides[*l], m.strides[d]);
                    start = start.wrapping_add((m.part[d].start as i64).wrapping_mul(m.strides[d]));
                }
                DimUse::Window { loop_dim, stride, offset, size: 1, dilation: 1 } => {
                    let first = self.ranges[*loop_dim].start as i64 * stride + offset;
                    let last = (self.ranges[*loop_dim].end as i64 - 1) * stride + offset;
                    let (low, high) = (first.min(last), first.max(last));
                    if low != m.part[d].start as i64 || high + 1 != m.part[d].end as i64 {
                        return Err("a copy cannot make elements that its operand does not have".to_string());
                    }
                    add(&mut strides[*loop_dim], m.strides[d].wrapping_mul(*stride));
                    start = start.wrapping_add(first.wrapping_mul(m.strides[d]));
                }
                DimUse::Whole if m.part[d].len() == 1 => start = start.wrapping_add((m.part[d].start as i64).wrapping_mul(m.strides[d])),
                _ => return Err("a copy cannot read windows".to_string()),
            }
        }
        let dims = strides.iter().zip(self.ranges).filter(|(s, _)| all || s.is_some()).map(|(s, r)| (r.len(), s.unwrap_or(0)));
        Ok((start, dims.collect()))
    }

    /// A reshape: within a group of dimensions the operand has to be one run of the flat index.
    fn flat(&self, m: &Map<'_>) -> Result<Listing, String> {
        let (from, to) = (self.graph.shape(self.graph.node(self.node).operands[0]), self.graph.shape(self.node));
        let whole = element_count(&box_dims(self.ranges)) == element_count(&box_dims(m.part));
        let (mut start, mut strides) = (m.in_order(None).0, vec![0i64; to.len()]);
        for g in crate::ops::reshape::reshape_groups(from, to) {
            let mut unit = None;
            let (mut inner, mut flat_from) = (1usize, 0usize);
            for d in g.from.clone().rev() {
                if from[d] > 1 {
                    let unit = *unit.get_or_insert(m.strides[d]);
                    if m.part[d].len() > 1 && m.strides[d] != unit.wrapping_mul(inner as i64) {
                        // Not one run; only a part that is dense as a whole can still be listed, in its own order.
                        return if whole { Ok(m.in_order(None)) } else { Err("the operand is not one run of its flat index".to_string()) };
                    }
                }
                flat_from += m.part[d].start * inner;
                inner *= from[d];
            }
            let (mut weight, mut flat_to) = (1usize, 0usize);
            for d in g.to.clone().rev() {
                strides[d] = (weight as i64).wrapping_mul(unit.unwrap_or(0));
                flat_to += self.ranges[d].start * weight;
                weight *= to[d];
            }
            start = start.wrapping_add((flat_to as i64 - flat_from as i64).wrapping_mul(unit.unwrap_or(0)));
        }
        Ok((start, self.ranges.iter().map(|r| r.len()).zip(strides).collect()))
    }
}
