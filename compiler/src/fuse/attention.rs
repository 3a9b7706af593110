//! Attention as one op a pass: two products with rows between them, and the products and rows of its gradient.
//!
//! Between the products of an attention there are scores and weights, one a pair of query and key; as one op they stay in the caches, what
//! masks hide is not computed, and the gradient makes the weights again instead of reading them. It is found here, behind the grouping,
//! because then everything between the products (scale, masks, softmax, roundings) is one row program already, whatever it is.
//! Forward and backward go together: a gradient that is not of the known form keeps the weights, and with them the whole pattern.

use super::items::{Item, Items, Ref, with_results};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::ops::Op;
use girih_ir::ops::attention::Attention;
use girih_ir::ops::attention_grad::AttentionGrad;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::fused::Fused;
use girih_ir::types::{DType, TensorType, Type};
use smallvec::SmallVec;
use std::sync::Arc;

/// Fewest queries and keys that repay a tile of their own.
const MIN_ROWS: usize = 16;

/// Makes every attention one op, and every gradient of one.
pub(super) fn collect(items: &mut Items) {
    for scores in 0..items.list.len() as u32 {
        if let Some(found) = Found::of(items, scores) {
            found.replace(items);
        }
    }
}

/// Rows of a value: where batch, row and width are among its dimensions.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rows {
    value: Ref,
    layout: Vec<usize>,
}

impl Rows {
    /// Those of an operand, seen through its transposes.
    fn of(items: &Items, mut value: Ref, mut layout: Vec<usize>) -> Rows {
        while let Op::Transpose(t) = &items.get(value.item).op {
            layout.iter_mut().for_each(|d| *d = t.permutation[*d]);
            value = items.get(value.item).args[0];
        }
        Rows { value, layout }
    }

    /// Those of a result: the transposed one when nobody needs the other.
    fn turned(items: &Items, value: Ref, layout: Vec<usize>) -> Rows {
        if let ([user], false) = (items.users(value), items.is_output(value))
            && let Op::Transpose(t) = &items.get(*user).op
        {
            let at = |d: &usize| t.permutation.iter().position(|p| p == d);
            if let Some(layout) = layout.iter().map(at).collect() {
                return Rows { value: Ref { item: *user, part: 0 }, layout };
            }
        }
        Rows { value, layout }
    }
}

/// Both sides of a product of rows with rows: batch, queries, keys.
fn pair(items: &Items, item: u32) -> Option<[Rows; 2]> {
    let it = items.get(item);
    let Op::DotGeneral(d) = &it.op else { return None };
    let n = it.ty.as_tensor()?.rank().checked_sub(2)?;
    let side = |k: usize, batch: &[usize], contract: &[usize]| -> Option<Rows> {
        let free = girih_ir::ops::dot_general::free_dims(items.ty(it.args[k]).rank(), batch, contract);
        let ([row], [width]) = (&free[..], contract) else { return None };
        (batch.len() == n).then(|| Rows::of(items, it.args[k], batch.iter().copied().chain([*row, *width]).collect()))
    };
    Some([side(0, &d.lhs_batch, &d.lhs_contract)?, side(1, &d.rhs_batch, &d.rhs_contract)?])
}

/// A product of weights (batch, queries, keys) with rows: the dimension that it sums over, the rows, the result.
fn weighted(items: &Items, item: u32, weights: Ref) -> Option<(usize, Rows, Rows)> {
    let it = items.get(item);
    let Op::DotGeneral(d) = &it.op else { return None };
    let at = it.args.iter().position(|a| *a == weights)?;
    let other = it.args[1 - at];
    if other == weights {
        return None;
    }
    let DotGeneral { lhs_batch, rhs_batch, lhs_contract, rhs_contract } = d;
    let (own, theirs) = if at == 0 {
        ((lhs_batch, lhs_contract), (rhs_batch, rhs_contract))
    } else {
        ((rhs_batch, rhs_contract), (lhs_batch, lhs_contract))
    };
    let n = items.ty(weights).rank() - 2;
    let ([sum], [from]) = (&own.1[..], &theirs.1[..]) else { return None };
    let free = girih_ir::ops::dot_general::free_dims(items.ty(other).rank(), theirs.0, theirs.1);
    let [width] = free[..] else { return None };
    let places: Vec<usize> = (0..n).map(|b| own.0.iter().position(|d| *d == b)).collect::<Option<_>>()?;
    if own.0.len() != n || *sum < n {
        return None;
    }
    let rows = Rows::of(items, other, places.iter().map(|p| theirs.0[*p]).chain([*from, width]).collect());
    let result = Ref { item, part: 0 };
    let layout = places.into_iter().chain([n + at, n + 1 - at]).collect();
    Some((*sum - n, rows, Rows::turned(items, result, layout)))
}

/// A row program whose first operands are given values, in this order; masks follow.
struct Program {
    program: Arc<FusedProgram>,
    masks: Vec<(Ref, Vec<usize>)>,
}

impl Program {
    /// From a fused op and its operands; `None` when a given value is not read point by point.
    fn of(f: &Fused, args: &[Ref], given: &[(Ref, DType)]) -> Option<Program> {
        let own: Vec<usize> = (0..f.loops.len()).collect();
        let mut inputs: Vec<DType> = given.iter().map(|g| g.1).collect();
        let mut masks = Vec::new();
        let mut to = Vec::new();
        for ((arg, map), dtype) in args.iter().zip(&f.operands).zip(&f.program.inputs) {
            match given.iter().position(|g| g.0 == *arg) {
                Some(k) if *map == own => to.push(k as u32),
                Some(_) => return None,
                None => {
                    to.push(inputs.len() as u32);
                    inputs.push(*dtype);
                    masks.push((*arg, map.clone()));
                }
            }
        }
        let input = |e: &Expr| if let Expr::Input(k) = e { Expr::Input(to[*k as usize]) } else { *e };
        let body = f.program.body.iter().map(input).collect();
        Some(Program { program: Arc::new(FusedProgram { inputs, body, outputs: f.program.outputs.clone() }), masks })
    }
}

/// An attention.
struct Found {
    q: Rows,
    k: Rows,
    v: Rows,
    weights: Program,
    out: Rows,
    gradient: Option<Gradient>,
    item: u32,
}

/// Its gradient.
struct Gradient {
    g: Rows,
    weights: Program,
    scores: Program,
    /// dq, dk, dv.
    made: [Rows; 3],
}

impl Found {
    fn of(items: &Items, scores: u32) -> Option<Found> {
        let s = Ref { item: scores, part: 0 };
        let ([user], false) = (items.users(s), items.is_output(s)) else { return None };
        let [q, k] = pair(items, scores)?;
        let ty = items.ty(s);
        let n = ty.rank() - 2;
        if !matches!(ty.dtype, DType::F32 | DType::BF16) || ty.shape[n..].iter().any(|e| *e < MIN_ROWS) {
            return None;
        }
        let rows = items.get(*user);
        let f = rows.fused().filter(|f| f.cols == 1 && f.loops == ty.shape)?;
        let used: Vec<Ref> = items.results(*user).filter(|r| items.is_used(*r)).collect();
        let whole = |r: &Ref| items.ty(*r).shape == ty.shape && !items.is_output(*r);
        if !used.iter().all(whole) || items.get(scores).inside != rows.inside {
            return None;
        }
        // The weights are what a product sums over the keys.
        let sums = |r: Ref| items.users(r).iter().filter_map(move |u| weighted(items, *u, r).map(|w| (*u, w)));
        let mut forward = used.iter().flat_map(|r| sums(*r).filter(|(_, w)| w.0 == 1).map(move |(u, w)| (*r, u, w)));
        let (weights, item, (_, v, out)) = forward.next().filter(|_| forward.next().is_none())?;
        if items.ty(weights).dtype != ty.dtype || items.get(item).inside != rows.inside {
            return None;
        }
        let given = [(s, ty.dtype)];
        let (own, args) = with_results(f, &rows.args, &[weights.part]);
        let program = Program::of(&own, &args, &given)?;
        let others = used.iter().flat_map(|r| items.users(*r).iter().map(move |u| (*r, *u))).filter(|(_, u)| *u != item);
        let others: Vec<(Ref, u32)> = others.collect();
        let gradient = if others.is_empty() { None } else { Some(Gradient::of(items, (s, *user, weights), [&q, &k, &v], &others)?) };
        Some(Found { q, k, v, weights: program, out, gradient, item })
    }

    fn replace(self, items: &mut Items) {
        let Found { q, k, v, weights, out, gradient, item } = self;
        if let Some(g) = gradient {
            let dtype = items.ty(q.value).dtype;
            let rows = [&q, &k, &v, &g.g];
            let layouts = rows.iter().map(|r| r.layout.clone()).chain(g.made.iter().map(|m| m.layout.clone())).collect();
            let masks: Vec<(Ref, Vec<usize>)> = g.weights.masks.into_iter().chain(g.scores.masks).collect();
            let args: SmallVec<[Ref; 4]> = rows.iter().map(|r| r.value).chain(masks.iter().map(|m| m.0)).collect();
            let masks = masks.into_iter().map(|m| m.1).collect();
            let op = AttentionGrad { weights: g.weights.program, scores: g.scores.program, layouts, masks };
            let ty: Vec<TensorType> = g.made.iter().map(|m| items.ty(m.value).clone()).collect();
            debug_assert!(ty.iter().all(|t| t.dtype == dtype));
            let like = items.get(item);
            let new = Item {
                op: op.into(),
                args,
                ty: Type::Tuple(ty),
                origin: items.get(g.made[0].value.item).origin,
                inside: like.inside,
                sums: false,
            };
            let new = items.push(new);
            for (part, m) in g.made.iter().enumerate() {
                items.redirect(m.value, Ref { item: new, part: part as u32 });
                items.drop_if_dead(m.value.item);
            }
        }
        let layouts = [&q, &k, &v].iter().map(|r| r.layout.clone()).chain([out.layout]).collect();
        let args = [q.value, k.value, v.value].into_iter().chain(weights.masks.iter().map(|m| m.0)).collect();
        let masks = weights.masks.into_iter().map(|m| m.1).collect();
        items.change(out.value.item, Attention { weights: weights.program, layouts, masks }.into(), args);
    }
}

impl Gradient {
    /// From what else reads the results of the row program: a product over the queries, and the rows that make the scores' cotangents.
    fn of(items: &Items, (s, rows, weights): (Ref, u32, Ref), [q, k, v]: [&Rows; 3], others: &[(Ref, u32)]) -> Option<Gradient> {
        let dtype = items.ty(s).dtype;
        let over_queries = |(r, u): &(Ref, u32)| weighted(items, *u, *r).filter(|w| w.0 == 0 && *r == weights).map(|w| (*u, w));
        let (dv_item, (_, g, dv)) = others.iter().find_map(over_queries)?;
        // All others are one row program.
        let mut readers = others.iter().filter(|(_, u)| *u != dv_item);
        let (_, back) = *readers.next()?;
        if readers.any(|(_, u)| *u != back) {
            return None;
        }
        let (it, inside) = (items.get(back), items.get(rows).inside);
        let f = it.fused().filter(|f| f.cols == 1 && f.loops == items.ty(s).shape)?;
        let used: Vec<Ref> = items.results(back).filter(|r| items.is_used(*r)).collect();
        let [ds] = used[..] else { return None };
        if items.ty(ds) != items.ty(s) || items.is_output(ds) || it.inside != inside {
            return None;
        }
        // The cotangent of the weights: g times v, which nobody else reads.
        let toward = it.args.iter().find(|a| pair(items, a.item).is_some_and(|[x, y]| x == g && y == *v)).copied()?;
        let own = items.users(toward) == [back] && !items.is_output(toward) && items.ty(toward) == items.ty(s);
        let [u1, u2] = items.users(ds) else { return None };
        let (a, b) = (weighted(items, *u1, ds)?, weighted(items, *u2, ds)?);
        let ((1, from_k, dq), (0, from_q, dk)) = (if a.0 == 1 { (a, b) } else { (b, a) }) else { return None };
        let alike = [dv_item, toward.item, *u1, *u2].iter().all(|i| items.get(*i).inside == inside);
        if !own || from_k != *k || from_q != *q || !alike {
            return None;
        }
        let forms: Vec<Ref> = it.args.iter().copied().filter(|a| a.item == rows && *a != weights).collect();
        let mut parts = vec![weights];
        forms.into_iter().for_each(|r| {
            if !parts.contains(&r) {
                parts.push(r)
            }
        });
        let numbers: Vec<u32> = parts.iter().map(|r| r.part).collect();
        let forward = items.get(rows);
        let (made, args) = with_results(forward.fused()?, &forward.args, &numbers);
        let given: Vec<(Ref, DType)> = parts.iter().chain([&toward]).map(|r| (*r, items.ty(*r).dtype)).collect();
        let (pruned, back_args) = with_results(f, &it.args, &[ds.part]);
        Some(Gradient {
            g,
            weights: Program::of(&made, &args, &[(s, dtype)])?,
            scores: Program::of(&pruned, &back_args, &given)?,
            made: [dq, dk, dv],
        })
    }
}
