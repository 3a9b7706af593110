//! `attention`: o = W(q·kᵀ, masks)·v, product by product and head by head, where `weights` is the row program W (a softmax, say, of scaled and
//! masked scores): what fusion makes of two products with rows between them, so that scores need not be kept.
//!
//! The loops are the batch (and head) dimensions, then queries, then keys. `layouts` has, for q, k, v and the result, the tensor dimension of
//! each of: the batch dimensions, the rows (queries or keys), the width. Dimension `d` of mask `i` moves with loop `masks[i][d]`.
//! (C1) operands are q, k, v and the masks; (C2) layouts are permutations, all of one rank of at least 2; (C3) q and k have one width, k and v
//! one number of keys, all the same batch; (C4) q, k and v have one float type; (C5) the program types, reads the scores and then the masks,
//! and makes one weight a score, of that type too; (C6) every mask dimension has a loop of its own, of equal extent.
//! Scores are rounded to the operands' type before the program, as a product's results are.

use super::composite::eval_parts;
use super::dot_general::DotGeneral;
use super::fused::Fused;
use super::transpose::Transpose;
use super::{Composite, InferError, NoVjp, OpDef, Vjp};
use crate::axes::{Axes, DimUse, LoopDim, LoopKind};
use crate::fused::FusedProgram;
use crate::graph::{Graph, ValueId};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType, Type};
use std::sync::Arc;

crate::op_attrs! {
    /// See the module.
    Attention {
        /// From scores and masks to weights, row by row.
        weights: Arc<FusedProgram>,
        /// Where batch, rows and width are in q, k, v and the result.
        layouts: Vec<Vec<usize>>,
        /// Loop of each dimension of each mask.
        masks: Vec<Vec<usize>>,
    }
}

/// The extents of an attention.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extents {
    /// Batch (and head) dimensions.
    pub batch: Dims,
    /// Rows of q.
    pub queries: usize,
    /// Rows of k and v.
    pub keys: usize,
    /// Width of q and k.
    pub width: usize,
    /// Width of v.
    pub value_width: usize,
}

impl Extents {
    /// The loops: batch, queries, keys.
    pub fn loops(&self) -> Dims {
        self.batch.iter().copied().chain([self.queries, self.keys]).collect()
    }

    /// The shape of rows in a layout.
    fn shape(&self, layout: &[usize], rows: usize, width: usize) -> Dims {
        let mut shape = Dims::from_elem(0, layout.len());
        let extents = self.batch.iter().copied().chain([rows, width]);
        layout.iter().zip(extents).for_each(|(d, e)| shape[*d] = e);
        shape
    }

    /// The type of rows of queries (`true`) or keys, as wide as q (`true`) or as v.
    pub fn rows(&self, dtype: DType, layout: &[usize], queries: bool, keyed: bool) -> TensorType {
        let (rows, width) = (if queries { self.queries } else { self.keys }, if keyed { self.width } else { self.value_width });
        TensorType { dtype, shape: self.shape(layout, rows, width) }
    }

    /// How the dimensions of rows move with the loops.
    pub fn uses(&self, layout: &[usize], queries: bool) -> Vec<DimUse> {
        let n = self.batch.len();
        let mut uses = vec![DimUse::Whole; layout.len()];
        layout[..n].iter().enumerate().for_each(|(l, d)| uses[*d] = DimUse::Loop(l));
        uses[layout[n]] = DimUse::Loop(n + usize::from(!queries));
        uses
    }
}

/// Checks (C2) to (C4), and that `count` layouts are there; `ins` are q, k, v.
pub(super) fn extents(op: &'static str, ins: &[&TensorType], layouts: &[Vec<usize>], count: usize) -> Result<Extents, InferError> {
    let err = |why: String| Err(InferError::new(op, why));
    let [q, k, v, ..] = ins else { return err(format!("(C1) takes q, k, v and masks, not {} operands", ins.len())) };
    let rank = q.rank();
    let permutes = |l: &Vec<usize>| l.len() == rank && (0..rank).all(|d| l.contains(&d));
    if rank < 2 || k.rank() != rank || v.rank() != rank || layouts.len() != count || !layouts.iter().all(permutes) {
        return err(format!("(C2) {layouts:?} are no {count} layouts of {q}, {k} and {v}"));
    }
    let of = |t: &TensorType, i: usize| -> Dims { layouts[i].iter().map(|d| t.shape[*d]).collect() };
    let (qs, ks, vs) = (of(q, 0), of(k, 1), of(v, 2));
    let n = rank - 2;
    if qs[..n] != ks[..n] || qs[..n] != vs[..n] || qs[n + 1] != ks[n + 1] || ks[n] != vs[n] {
        return err(format!("(C3) {q}, {k} and {v} do not fit together in layouts {layouts:?}"));
    }
    if !q.dtype.is_float() || k.dtype != q.dtype || v.dtype != q.dtype {
        return err(format!("(C4) {q}, {k} and {v} are not of one float type"));
    }
    Ok(Extents { batch: Dims::from_slice(&qs[..n]), queries: qs[n], keys: ks[n], width: qs[n + 1], value_width: vs[n + 1] })
}

/// Checks the operands of a row program on the scores, `given` first, then masks; returns the types of its results.
pub(super) fn program(
    op: &'static str,
    p: &FusedProgram,
    given: &[DType],
    masks: &[&TensorType],
    maps: &[Vec<usize>],
    loops: &[usize],
) -> Result<Vec<DType>, InferError> {
    let err = |why: String| Err(InferError::new(op, why));
    let types = p.types().map_err(|e| InferError::new(op, format!("(C5) {e}")))?;
    let inputs = given.iter().copied().chain(masks.iter().map(|m| m.dtype));
    let per_row = p.per_row();
    if inputs.ne(p.inputs.iter().copied()) || p.outputs.is_empty() || p.outputs.iter().any(|o| per_row[*o as usize]) {
        return err(format!("(C5) the program on {:?} does not make one value a score of {given:?} and {masks:?}", p.inputs));
    }
    if p.body.iter().any(|e| matches!(e, crate::fused::Expr::Index(d, l) if *l as usize >= loops.len() || *d == DType::Bool)) {
        return err(format!("(C5) an index of the program names no loop of {loops:?}"));
    }
    let mapped = maps.len() == masks.len()
        && maps.iter().zip(masks).all(|(map, t)| {
            let own = |(d, l): (usize, &usize)| loops.get(*l) == Some(&t.shape[d]) && !map[..d].contains(l);
            map.len() == t.rank() && map.iter().enumerate().all(own)
        });
    if !mapped {
        return err(format!("(C6) {maps:?} do not map {masks:?} into loops {loops:?}"));
    }
    Ok(p.outputs.iter().map(|o| types[*o as usize]).collect())
}

/// Operations at one point of so many products as wide as q and as v.
pub(super) fn products(wide: u64, value: u64, e: &Extents) -> u64 {
    let terms = |n: u64, width: usize| n.saturating_mul(2).saturating_mul(width as u64);
    terms(wide, e.width).saturating_add(terms(value, e.value_width))
}

/// Operations of a program at one point.
pub(super) fn work(p: &FusedProgram) -> u64 {
    p.body.iter().filter(|e| !e.arguments().is_empty()).count() as u64
}

/// The nest: batch loops and, if they may be cut, queries are parallel; keys stay whole.
pub(super) fn nest(e: &Extents, queries: LoopKind, ops_per_point: u64) -> Axes {
    let n = e.batch.len();
    let kind = |l: usize| {
        if l < n {
            LoopKind::Parallel
        } else if l == n {
            queries
        } else {
            LoopKind::Whole
        }
    };
    let loops = e.loops().iter().enumerate().map(|(l, extent)| LoopDim { extent: *extent, kind: kind(l) }).collect();
    Axes { loops, operands: Vec::new(), results: Vec::new(), ops_per_point }
}

/// How masks move with the loops.
pub(super) fn mask_uses(masks: &[Vec<usize>]) -> impl Iterator<Item = Vec<DimUse>> + '_ {
    masks.iter().map(|m| m.iter().map(|l| DimUse::Loop(*l)).collect())
}

/// A value with the dimensions of a layout in their order.
pub(super) fn ordered(g: &mut Graph, v: ValueId, layout: &[usize]) -> ValueId {
    g.emit(Transpose { permutation: layout.to_vec() }, &[v])
}

/// A value with batch, rows and width in that order, laid out.
pub(super) fn laid_out(g: &mut Graph, v: ValueId, layout: &[usize]) -> ValueId {
    let home = (0..layout.len()).filter_map(|d| layout.iter().position(|l| *l == d)).collect();
    g.emit(Transpose { permutation: home }, &[v])
}

/// A product over a dimension of each, batch dimensions first.
pub(super) fn product(g: &mut Graph, a: ValueId, b: ValueId, contract: [usize; 2]) -> ValueId {
    let n = g.shape(a).len() - 2;
    let batch: Vec<usize> = (0..n).collect();
    let [lhs_contract, rhs_contract] = contract.map(|d| vec![n + d]);
    g.emit(DotGeneral { lhs_batch: batch.clone(), rhs_batch: batch, lhs_contract, rhs_contract }, &[a, b])
}

/// Runs a row program on scores and masks; its results.
pub(super) fn rows(g: &mut Graph, p: &Arc<FusedProgram>, given: &[ValueId], masks: &[ValueId], maps: &[Vec<usize>]) -> Vec<ValueId> {
    let loops = Dims::from_slice(g.shape(given[0]));
    let own: Vec<usize> = (0..loops.len()).collect();
    let operands = std::iter::repeat_n(own, given.len()).chain(maps.iter().cloned()).collect();
    let args: Vec<ValueId> = given.iter().chain(masks).copied().collect();
    let all = g.emit(Fused { program: p.clone(), loops, cols: 1, operands }, &args);
    match p.outputs.len() {
        1 => vec![all],
        n => (0..n).map(|index| g.emit(super::proj::Proj { index }, &[all])).collect(),
    }
}

impl Attention {
    /// The extents for these operand types, checked.
    pub fn extents(&self, ins: &[&TensorType]) -> Result<Extents, InferError> {
        let e = extents("attention", ins, &self.layouts, 4)?;
        let dtype = ins[0].dtype;
        let made = program("attention", &self.weights, &[dtype], &ins[3..], &self.masks, &e.loops())?;
        if made != [dtype] {
            return Err(InferError::new("attention", format!("(C5) weights are {made:?}, not one {dtype}")));
        }
        Ok(e)
    }
}

impl OpDef for Attention {
    const NAMES: &'static [&'static str] = &["attention"];
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
        let e = self.extents(ins)?;
        Ok(e.rows(ins[0].dtype, &self.layouts[3], true, false).into())
    }
    fn axes(&self, ins: &[&TensorType], _: &Type) -> Axes {
        let Ok(e) = self.extents(ins) else { return Axes::whole(&[], &[]) };
        let mut axes = nest(&e, LoopKind::Parallel, products(1, 1, &e).saturating_add(work(&self.weights)));
        axes.operands = (0..3).map(|i| e.uses(&self.layouts[i], i == 0)).chain(mask_uses(&self.masks)).collect();
        axes.results = vec![e.uses(&self.layouts[3], true)];
        axes
    }
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        eval_parts(self, ins, out)
    }
    fn vjp(&self, _: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
        Err(NoVjp { op: "attention", why: "fusion comes after differentiation; differentiate the graph before it is fused" })
    }
}

impl Composite for Attention {
    fn expand(&self, g: &mut Graph, operands: &[ValueId]) -> Vec<ValueId> {
        let [q, k, v] = [0, 1, 2].map(|i| ordered(g, operands[i], &self.layouts[i]));
        let scores = product(g, q, k, [1, 1]);
        let weights = rows(g, &self.weights, &[scores], &operands[3..], &self.masks);
        let o = product(g, weights[0], v, [1, 0]);
        vec![laid_out(g, o, &self.layouts[3])]
    }
}
