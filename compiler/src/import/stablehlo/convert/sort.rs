//! `sort` and `top_k`: recognized comparators become sorts by key; every other one gives each element its rank first.

use super::super::expand::bits;
use super::super::module::{Block, Operation};
use super::{Converter, Frame, Parts, Res, attrs, malformed, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::sort::Sort;
use girih_ir::ops::top_k::TopK;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::{DType, Dims, element_count};

/// Comparators that are not recognized are evaluated on every pair; at most this many.
const MOST_PAIRS: usize = 1 << 27;
/// The longest row whose pairs are compared.
const LONGEST_ROW: usize = 4096;

/// A key of a sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    operand: usize,
    descending: bool,
    /// Whether −0 and 0, and NaN of both signs, are told apart.
    bits: bool,
}

/// Both sides of a comparison as JAX makes them equal before it compares them in total order.
fn canonical(p: &str) -> String {
    format!("select(NE({p},{p}),NaN,select(EQ({p},0.0),0.0,{p}))")
}

impl<'a> Converter<'a> {
    /// `sort`
    pub fn sort_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let block = self.region(op, 0)?;
        let all: Res<Vec<Parts>> = (0..op.operands.len()).map(|i| self.operand_parts(frame, op, i)).collect();
        let all = all?;
        let Some(first) = all.first().and_then(|p| p.first()) else { return malformed("sort takes at least one tensor") };
        let shape = self.dims(*first);
        if self.lift.is_some() {
            return unsupported("a sort in a region body");
        }
        if shape.is_empty() {
            return Ok(all);
        }
        let dim = match attrs::int(&op.attrs, "dimension")?.unwrap_or(-1) {
            d if d < 0 => usize::try_from(d + shape.len() as i64).unwrap_or(usize::MAX),
            d => d as usize,
        };
        if dim >= shape.len() || all.iter().flatten().any(|v| self.graph.shape(*v) != shape.as_slice()) {
            return malformed(format!("tensors of different shapes, or without a dimension {dim}, cannot be sorted together"));
        }
        if block.params.len() != 2 * all.len() {
            return malformed(format!("a comparator of {} operands has {} parameters", all.len(), block.params.len()));
        }
        let counts: Vec<usize> = all.iter().map(|p| p.len()).collect();
        let flat: Vec<ValueId> = all.iter().flatten().copied().collect();
        let sorted = match self.keys(frame, block, &all) {
            Some(keys) => self.sort_by_keys(&keys, &all, flat, dim)?,
            None => self.sort_by_rank(frame, block, &all, flat, dim)?,
        };
        let mut rest = sorted.as_slice();
        Ok(counts
            .into_iter()
            .map(|n| {
                let (own, after) = rest.split_at(n);
                rest = after;
                Parts::from_slice(own)
            })
            .collect())
    }

    /// The keys that a comparator compares, most important first.
    fn keys(&mut self, frame: &Frame<'a>, block: &'a Block, all: &[Parts]) -> Option<Vec<Key>> {
        let formulas = self.formulas(frame, block)?;
        let [formula] = formulas.as_slice() else { return None };
        let real = |k: usize| all[k].len() == 1;
        for descending in [false, true] {
            let beats = if descending { "GT" } else { "LT" };
            for total in [false, true] {
                // A single key may be any operand.
                for k in (0..all.len()).filter(|k| real(*k)) {
                    let float = self.dtype(all[k][0]).is_float();
                    let (a, b) = (format!("p{}", 2 * k), format!("p{}", 2 * k + 1));
                    let key = |bits| Some(vec![Key { operand: k, descending, bits }]);
                    let total = total && float;
                    if *formula == format!("{beats}{}({a},{b})", if total { "!" } else { "" }) {
                        return key(total);
                    }
                    if float && *formula == format!("{beats}!({},{})", canonical(&a), canonical(&b)) {
                        return key(false);
                    }
                }
                for count in 2..=all.len() {
                    if (0..count).all(real) && *formula == self.lexicographic(beats, total, all, count) {
                        return Some((0..count).map(|operand| Key { operand, descending, bits: false }).collect());
                    }
                }
            }
        }
        None
    }

    /// The comparator of the first `count` operands in order.
    fn lexicographic(&self, beats: &str, canonicalized: bool, all: &[Parts], count: usize) -> String {
        let mut formula = String::new();
        for (k, parts) in all[..count].iter().enumerate().rev() {
            let (mut a, mut b, mut mark) = (format!("p{}", 2 * k), format!("p{}", 2 * k + 1), "");
            if canonicalized && self.dtype(parts[0]).is_float() {
                (a, b, mark) = (canonical(&a), canonical(&b), "!");
            }
            let less = format!("{beats}{mark}({a},{b})");
            formula = if formula.is_empty() { less } else { format!("or({less},and(EQ{mark}({a},{b}),{formula}))") };
        }
        formula
    }

    /// Sorts by the least important key first; stable sorts keep what they did.
    fn sort_by_keys(&mut self, keys: &[Key], all: &[Parts], mut flat: Vec<ValueId>, dim: usize) -> Res<Vec<ValueId>> {
        let position = |operand: usize| all[..operand].iter().map(|p| p.len()).sum::<usize>();
        for key in keys.iter().rev() {
            let at = position(key.operand);
            let op = Sort { dim, descending: key.descending, stable: true };
            if key.bits {
                let order = bits::total_order(&mut self.graph, flat[at]);
                let operands: Vec<ValueId> = std::iter::once(order).chain(flat.iter().copied()).collect();
                flat = self.sorted(op, &operands)?.split_off(1);
                continue;
            }
            let mut operands = flat.clone();
            operands.swap(0, at);
            flat = self.sorted(op, &operands)?;
            flat.swap(0, at);
        }
        Ok(flat)
    }

    fn sorted(&mut self, op: Sort, operands: &[ValueId]) -> Res<Vec<ValueId>> {
        let tuple = self.add(op, operands)?;
        Ok((0..operands.len()).map(|i| self.graph.proj(tuple, i)).collect())
    }

    /// The rank of an element is the number of elements before it: those that the comparator puts there, and equal earlier ones.
    fn sort_by_rank(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        all: &[Parts],
        flat: Vec<ValueId>,
        dim: usize,
    ) -> Res<Vec<ValueId>> {
        let shape = self.dims(flat[0]);
        let n = shape[dim];
        if n > LONGEST_ROW || element_count(&shape).saturating_mul(n) > MOST_PAIRS {
            return unsupported(format!("a comparator of this form on {n} elements; at most {LONGEST_ROW} are supported"));
        }
        // Pairs (i, j) lie along two dimensions: i along `dim`, j along a new last one.
        let rank = shape.len();
        let mut square = shape.clone();
        square.push(n);
        let along_i: Vec<usize> = (0..rank).collect();
        let along_j: Vec<usize> = (0..rank).map(|d| if d == dim { rank } else { d }).collect();
        let mut forward = Vec::new();
        let mut backward = Vec::new();
        for parts in all {
            let side = |cx: &mut Self, dims: &[usize]| -> Res<Parts> {
                parts
                    .iter()
                    .map(|v| cx.add(girih_ir::ops::broadcast::Broadcast { shape: square.clone(), dims: dims.to_vec() }, &[*v]))
                    .collect()
            };
            let (i, j) = (side(self, &along_i)?, side(self, &along_j)?);
            forward.extend([j.clone(), i.clone()]);
            backward.extend([i, j]);
        }
        let bool_result = |made: Vec<Parts>| match made.as_slice() {
            [p] if p.len() == 1 => Ok(p[0]),
            _ => malformed("a comparator returns one truth value"),
        };
        let made = self.vectorize(frame, block, &forward, &square)?;
        let before = bool_result(made)?;
        let made = self.vectorize(frame, block, &backward, &square)?;
        let after = bool_result(made)?;
        let i = self.add(Iota { dtype: DType::I32, shape: square.clone(), dim }, &[])?;
        let j = self.add(Iota { dtype: DType::I32, shape: square.clone(), dim: rank }, &[])?;
        let earlier = self.graph.compare(CompareFn::Lt, j, i);
        let not_after = self.graph.unary(UnaryFn::Not, after);
        let tied = self.graph.binary(BinaryFn::And, earlier, not_after);
        let before = self.graph.binary(BinaryFn::Or, before, tied);
        let ones = self.graph.convert(before, DType::I32);
        let ranks = self.graph.reduce(Monoid::Sum, ones, &[rank]);
        let operands: Vec<ValueId> = std::iter::once(ranks).chain(flat).collect();
        Ok(self.sorted(Sort { dim, descending: false, stable: true }, &operands)?.split_off(1))
    }

    /// `chlo.top_k`
    pub fn top_k_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [x] = self.exactly(frame, op)?;
        let k = attrs::need_size(&op.attrs, "k")?;
        let largest = attrs::flag(&op.attrs, "largest", true)?;
        let index = self.result(frame, op, 1).map_or(DType::I32, |t| t.dtype);
        let shape: Dims = self.dims(x);
        let dtype = if matches!(index, DType::I32 | DType::I64) { index } else { DType::I32 };
        if shape.last().is_none_or(|n| k > *n) {
            return malformed(format!("a row of {shape:?} has no {k} elements"));
        }
        let tuple = self.add(TopK { k, largest, dtype }, &[x])?;
        let (values, indices) = (self.graph.proj(tuple, 0), self.graph.proj(tuple, 1));
        let indices = self.graph.convert(indices, index);
        Ok(vec![Parts::from_slice(&[values]), Parts::from_slice(&[indices])])
    }
}
