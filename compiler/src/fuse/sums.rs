//! Sums over leading dimensions: bias gradients, the statistics of batch normalization and their gradients.
//!
//! Sums over the same dimensions that share an operand become one `rows` op whose columns are the summed dimensions, so that the operand is
//! read once; what comes before the sums can then be computed inside it ([`traffic`](super::traffic)). It is made in two levels: the first
//! keeps one of the summed dimensions (or blocks of it), along which threads divide the work; the second adds up what is left. The order of
//! every sum is thereby written in the program.

use super::items::{Item, Items, Ref, add};
use super::{MAX_OPERANDS, MAX_RESULTS};
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::fused::Fused;
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::{InferError, Op};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, Type, element_count};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::Arc;

/// Sums of fewer elements are left alone.
const MIN_POINTS: usize = 1 << 14;
/// Blocks of the first level, at most.
const MAX_BLOCKS: usize = 32;
/// A summed dimension of at most this extent is kept by the first level as it is.
const MAX_KEPT: usize = 64;
/// So many results divide a sum of at most so many elements by themselves.
const WIDE: (usize, usize) = (256, 1 << 18);

/// How many leading dimensions an item reduces, when it is such a sum.
fn leading(items: &Items, item: u32) -> Option<(Monoid, usize, Ref)> {
    let it = items.get(item);
    let (Op::Reduce(r), [v]) = (&it.op, &it.args[..]) else { return None };
    let ty = items.ty(*v);
    let n = r.dims.len();
    let fits = n > 0 && n < ty.rank() && r.dims.iter().copied().eq(0..n) && ty.elements() >= MIN_POINTS;
    (fits && matches!(ty.dtype, DType::F32 | DType::F64)).then_some((r.monoid, n, *v))
}

/// The values that a sum reads, or would read with its producer inside.
fn sources(items: &Items, v: Ref) -> SmallVec<[Ref; 4]> {
    let size = items.ty(v).elements();
    let mut all: SmallVec<[Ref; 4]> = smallvec::smallvec![v];
    if items.get(v.item).map().is_some() {
        all.extend(items.get(v.item).args.iter().copied().filter(|a| items.ty(*a).elements() == size));
    }
    all
}

/// A group of sums that is being collected.
struct Group {
    item: u32,
    key: (Dims, usize, Option<usize>),
    sources: SmallVec<[Ref; 4]>,
}

/// Makes `rows` ops of the sums.
pub(super) fn collect(items: &mut Items) {
    let mut groups: Vec<Group> = Vec::new();
    for i in 0..items.list.len() as u32 {
        let Some((monoid, n, v)) = leading(items, i).filter(|_| items.is_used(Ref { item: i, part: 0 })) else { continue };
        let key = (items.ty(v).shape.clone(), n, items.get(i).inside);
        let own = sources(items, v);
        let found = groups.iter().rposition(|g| {
            let f = items.get(g.item).fused();
            g.key == key
                && g.sources.iter().any(|s| own.contains(s))
                && f.is_some_and(|f| f.program.outputs.len() < MAX_RESULTS && f.operands.len() < MAX_OPERANDS)
                && !items.needs(i, g.item)
        });
        let earlier = found.map(|g| groups[g].item);
        let (op, args) = joined(items, earlier, (monoid, n, v));
        let types: Vec<Type> = args.iter().map(|a| items.ty(*a).clone().into()).collect();
        let Ok(ty) = op.infer(&types.iter().collect::<Vec<_>>()) else { continue };
        let last = ty.components().len() as u32 - 1;
        // The group stands where its last member was.
        items.redirect(Ref { item: i, part: 0 }, Ref { item: i, part: last });
        if let Some(g) = earlier {
            for part in 0..last {
                items.redirect(Ref { item: g, part }, Ref { item: i, part });
            }
        }
        items.list[i as usize].ty = ty;
        items.list[i as usize].sums = true;
        items.change(i, op, args);
        earlier.iter().for_each(|g| items.drop_if_dead(*g));
        match found {
            Some(g) => {
                groups[g].item = i;
                groups[g].sources.extend(own);
            }
            None => groups.push(Group { item: i, key, sources: own }),
        }
    }
}

/// The op of a group with one more sum.
fn joined(items: &Items, earlier: Option<u32>, (monoid, n, v): (Monoid, usize, Ref)) -> (Op, SmallVec<[Ref; 4]>) {
    let ty = items.ty(v);
    let kept = ty.rank() - n;
    let mut loops: Dims = ty.shape[n..].into();
    loops.extend_from_slice(&ty.shape[..n]);
    let (mut program, mut operands, mut args) = match earlier.map(|g| items.get(g)) {
        Some(Item { op: Op::Fused(f), args, .. }) => (f.program.as_ref().clone(), f.operands.clone(), args.clone()),
        _ => (FusedProgram::default(), Vec::new(), SmallVec::new()),
    };
    let slot = match args.iter().position(|a| *a == v) {
        Some(k) => program.body.iter().position(|e| *e == Expr::Input(k as u32)).unwrap_or_default(),
        None => {
            args.push(v);
            operands.push(summed_first(kept, n).collect());
            program.inputs.push(ty.dtype);
            program.body.push(Expr::Input(args.len() as u32 - 1));
            program.body.len() - 1
        }
    };
    program.body.push(Expr::Reduce(monoid, slot as u32));
    program.outputs.push(program.body.len() as u32 - 1);
    (Fused { program: Arc::new(program), loops, cols: n, operands }.into(), args)
}

/// Adds an item to the graph: sums in two levels, everything else with the results that are needed.
pub(super) fn emit(items: &Items, graph: &Graph, i: u32, out: &mut Graph, made: &mut FxHashMap<Ref, ValueId>) -> Result<(), InferError> {
    let it = items.get(i);
    out.set_origin(graph.origin(it.origin));
    let value = |made: &FxHashMap<Ref, ValueId>, a: &Ref| made[a];
    let Some((f, args, kept)) = items.pruned(i) else {
        let args: Vec<ValueId> = it.args.iter().map(|a| value(made, a)).collect();
        let numbers: Vec<u32> = (0..it.ty.components().len() as u32).collect();
        return add(out, made, i, it.op.clone(), &args, &numbers);
    };
    let args: Vec<ValueId> = args.iter().map(|a| value(made, a)).collect();
    if !it.sums {
        return add(out, made, i, f.into(), &args, &kept);
    }
    match two_levels(&f) {
        Some((first, second, cut)) => {
            let ins: Vec<ValueId> = args
                .iter()
                .zip(&f.operands)
                .map(|(v, dims)| {
                    // The dimension that is cut into blocks becomes two.
                    let Some((l, blocks)) = cut else { return *v };
                    let shape = out.shape(*v).to_vec();
                    let cut = |(e, d): (&usize, &usize)| if *d == l { vec![blocks, e / blocks] } else { vec![*e] };
                    let shape: Vec<usize> = shape.iter().zip(dims).flat_map(cut).collect();
                    out.reshape(*v, &shape)
                })
                .collect();
            let partial = out.add(first.into(), &ins)?;
            let parts: Vec<ValueId> = match out.ty(partial).clone() {
                Type::Tensor(_) => vec![partial],
                Type::Tuple(ts) => (0..ts.len()).map(|index| out.proj(partial, index)).collect(),
            };
            add(out, made, i, second.into(), &parts, &kept)
        }
        None => match f.program.body[..] {
            [Expr::Input(0), Expr::Reduce(monoid, 0)] if f.operands[0].iter().copied().eq(summed_first(f.loops.len() - f.cols, f.cols)) => {
                add(out, made, i, Reduce { monoid, dims: (0..f.cols).collect() }.into(), &args, &kept)
            }
            _ => add(out, made, i, f.into(), &args, &kept),
        },
    }
}

/// The loops of a tensor whose leading dimensions are summed.
fn summed_first(kept: usize, summed: usize) -> impl Iterator<Item = usize> {
    (kept..kept + summed).chain(0..kept)
}

/// The two levels of a sum, and the loop that is cut into how many blocks; `None` when it stays in one.
fn two_levels(f: &Fused) -> Option<(Fused, Fused, Option<(usize, usize)>)> {
    let kept = f.loops.len() - f.cols;
    if element_count(&f.loops[..kept]) >= WIDE.0 && element_count(&f.loops) <= WIDE.1 {
        return None;
    }
    let monoids: Option<Vec<Monoid>> =
        f.program.outputs.iter().map(|o| if let Expr::Reduce(m, _) = f.program.body[*o as usize] { Some(m) } else { None }).collect();
    let monoids = monoids?;
    if f.program.body.iter().any(|e| matches!(e, Expr::Index(..))) || element_count(&f.loops) < 4 * MIN_POINTS {
        return None;
    }
    let whole = (kept..f.loops.len()).find(|l| (4..=MAX_KEPT).contains(&f.loops[*l])).filter(|_| f.cols > 1);
    let (l, blocks, cut) = match whole {
        Some(l) => (l, f.loops[l], None),
        None => {
            let blocks = |e: usize| (4..=MAX_BLOCKS).rev().find(|b| e.is_multiple_of(*b) && e / b >= 4);
            let (l, b) = (kept..f.loops.len()).find_map(|l| blocks(f.loops[l]).map(|b| (l, b)))?;
            (l, b, Some((l, b)))
        }
    };
    // Loops of the first level: the blocks, what is kept, and what is summed.
    let mut loops: Dims = Dims::from_slice(&[blocks]);
    loops.extend_from_slice(&f.loops[..kept]);
    let mut place: Vec<usize> = (1..=kept).collect();
    for s in kept..f.loops.len() {
        let stays = s != l || cut.is_some();
        place.push(if stays { loops.len() } else { 0 });
        if stays {
            loops.push(if s == l { f.loops[s] / blocks } else { f.loops[s] });
        }
    }
    let dims = |d: &usize| if *d == l && cut.is_some() { vec![0, place[*d]] } else { vec![place[*d]] };
    let operands = f.operands.iter().map(|o| o.iter().flat_map(dims).collect()).collect();
    let cols = loops.len() - 1 - kept;
    let first = Fused { program: f.program.clone(), loops, cols, operands };
    let mut program = FusedProgram::default();
    let types = f.program.types().ok()?;
    for (k, (monoid, o)) in monoids.iter().zip(&f.program.outputs).enumerate() {
        program.inputs.push(types[*o as usize]);
        program.body.extend([Expr::Input(k as u32), Expr::Reduce(*monoid, 2 * k as u32)]);
        program.outputs.push(2 * k as u32 + 1);
    }
    let mut loops: Dims = f.loops[..kept].into();
    loops.push(blocks);
    let operands = vec![std::iter::once(kept).chain(0..kept).collect(); monoids.len()];
    Some((first, Fused { program: Arc::new(program), loops, cols: 1, operands }, cut))
}
