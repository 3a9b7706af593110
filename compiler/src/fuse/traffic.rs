//! Values that are cheaper to compute again than to keep: a map whose readers are maps, rows or sums is computed inside them where that
//! moves fewer bytes. Grouping alone cannot do that when a path leads out of the group and back (batch normalization: everything waits for
//! the sums), because it never computes anything twice.

use super::items::{Builder, Items, Ref};
use super::{MAX_INSTRUCTIONS, MAX_OPERANDS};
use girih_ir::fused::Expr;
use girih_ir::ops::Op;
use girih_ir::ops::fused::Fused;
use girih_ir::scalar::{BinaryFn, UnaryFn};
use girih_ir::types::{Type, element_count};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Maps over fewer points are left alone.
const MIN_POINTS: usize = 1 << 12;

/// A fused op and its operands.
type Made = (Fused, SmallVec<[Ref; 4]>);

/// Computes values again where that pays.
pub(super) fn recompute(items: &mut Items) {
    for i in (0..items.list.len() as u32).rev() {
        if items.get(i).map().is_none_or(|f| element_count(&f.loops) < MIN_POINTS) {
            continue;
        }
        let used = |items: &Items| -> Vec<Ref> { items.results(i).filter(|r| items.is_used(*r)).collect() };
        let movable = |r: &Ref| !items.is_output(*r) && items.users(*r).iter().all(|u| items.get(*u).fused().is_some());
        let together: Vec<Ref> = used(items).into_iter().filter(movable).collect();
        if together.len() > 1 {
            everywhere(items, i, &together);
        }
        for r in used(items) {
            everywhere(items, i, &[r]);
        }
        for r in used(items) {
            one_reader(items, i, r);
        }
    }
}

/// Computes results of a map in all their readers, when that moves fewer bytes.
fn everywhere(items: &mut Items, i: u32, results: &[Ref]) {
    if results.iter().any(|r| items.is_output(*r)) {
        return;
    }
    let mut readers: Vec<u32> = results.iter().flat_map(|r| items.users(*r).iter().copied()).collect();
    readers.sort_unstable();
    readers.dedup();
    let (mut before, mut after) = (cost(items, i, &[]), cost(items, i, results));
    let mut changes: Vec<(u32, Made)> = Vec::new();
    for reader in readers {
        let Some(new) = inlined(items, reader, results) else { return };
        before += cost(items, reader, &[]);
        after += cost_of(items, &new);
        changes.push((reader, new));
    }
    if after + before / 50 < before {
        for (reader, (f, args)) in changes {
            items.change(reader, f.into(), args);
        }
    }
}

/// Computes a map's results in single readers which have most of its operands anyway.
fn one_reader(items: &mut Items, i: u32, result: Ref) {
    for reader in items.users(result).to_vec() {
        let read: Vec<Ref> = items.results(i).filter(|r| items.get(reader).args.contains(r)).collect();
        let Some(new) = inlined(items, reader, &read) else { continue };
        let (before, after) = (cost(items, reader, &[]), cost_of(items, &new));
        if after + before / 50 < before {
            items.change(reader, new.0.into(), new.1);
        }
    }
}

/// A reader with these results of a map computed inside; `None` when it cannot hold them.
fn inlined(items: &Items, reader: u32, results: &[Ref]) -> Option<Made> {
    let user = items.get(reader);
    let f = user.fused()?;
    let mut b = Builder::default();
    let mut slots: FxHashMap<u32, u32> = FxHashMap::default();
    for (s, e) in f.program.body.iter().enumerate() {
        let new = match *e {
            Expr::Input(k) => {
                let (arg, dims) = (user.args[k as usize], &f.operands[k as usize]);
                let producer = items.get(arg.item);
                match producer.map().filter(|_| results.contains(&arg)) {
                    Some(p) => {
                        if producer.inside != user.inside {
                            return None;
                        }
                        let root = p.program.outputs[arg.part as usize];
                        b.copy(p, &producer.args, std::iter::once(root), &|l| dims[l])[&root]
                    }
                    None => b.input(arg, f.program.inputs[k as usize], dims.clone()),
                }
            }
            e => b.slot(e.renamed(|s| slots[&s])),
        };
        slots.insert(s as u32, new);
    }
    b.program.outputs = f.program.outputs.iter().map(|o| slots[o]).collect();
    if b.program.body.len() > MAX_INSTRUCTIONS || b.args.len() > MAX_OPERANDS {
        return None;
    }
    let made = b.finish(f);
    let types: Vec<Type> = made.1.iter().map(|a| items.ty(*a).clone().into()).collect();
    let ty = Op::from(made.0.clone()).infer(&types.iter().collect::<Vec<_>>()).ok()?;
    (ty == user.ty).then_some(made)
}

/// The price of an item without some of its results, in quarters of a byte that is moved.
fn cost(items: &Items, item: u32, without: &[Ref]) -> u64 {
    let it = items.get(item);
    let Some(f) = it.fused() else { return 0 };
    let kept: Vec<u32> = items.results(item).filter(|r| items.is_used(*r) && !without.contains(r)).map(|r| r.part).collect();
    if kept.is_empty() {
        return 0;
    }
    let made = super::items::with_results(f, &it.args, &kept);
    let written: u64 = kept.iter().map(|k| it.ty.components()[*k as usize].bytes() as u64).sum();
    4 * written + inside(items, &made)
}

/// The price of an op that is no item yet; all its results count.
fn cost_of(items: &Items, made: &Made) -> u64 {
    let Ok(types) = made.0.program.types() else { return u64::MAX };
    let per_row = made.0.program.per_row();
    let points = element_count(&made.0.loops);
    let rows = element_count(&made.0.loops[..made.0.rows()]);
    let one = |o: &u32| types[*o as usize].size() * if made.0.cols > 0 && per_row[*o as usize] { rows } else { points };
    4 * made.0.program.outputs.iter().map(|o| one(o) as u64).sum::<u64>() + inside(items, made)
}

/// What is read and computed.
fn inside(items: &Items, (f, args): &Made) -> u64 {
    let mut read: Vec<Ref> = args.to_vec();
    read.sort_unstable();
    read.dedup();
    let bytes: u64 = read.iter().map(|r| items.ty(*r).bytes() as u64).sum();
    let work: u64 = f.program.body.iter().map(weight).sum();
    4 * bytes + work * element_count(&f.loops) as u64
}

/// The time of an instruction at one point, in quarters of a byte.
fn weight(e: &Expr) -> u64 {
    match e {
        Expr::Input(_) | Expr::Const(..) => 0,
        Expr::Unary(UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Sign | UnaryFn::Not, _) => 1,
        Expr::Unary(UnaryFn::Sqrt | UnaryFn::Rsqrt, _) | Expr::Binary(BinaryFn::Div | BinaryFn::Rem, ..) => 8,
        Expr::Binary(BinaryFn::Pow, ..) => 64,
        Expr::Unary(..) => 24,
        _ => 1,
    }
}
