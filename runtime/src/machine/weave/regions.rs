//! The regions of instructions, elsewhere or with other extents.

use girih_ir::program::{Instr, Region};
use smallvec::{SmallVec, smallvec};

/// The instruction with all its regions so many bytes further on.
pub fn moved(instr: &Instr, by: u64) -> Instr {
    let mut instr = instr.clone();
    instr.reads_mut().into_iter().for_each(|r| r.offset += by);
    instr.writes_mut().into_iter().for_each(|r| r.offset += by);
    instr
}

/// Dimensions that are walked, outermost in memory first: extent and stride. `None` when elements repeat or run backwards.
fn walk(region: &Region) -> Option<Vec<(usize, usize)>> {
    let kept = (0..region.dims.len()).filter(|d| region.dims[*d] > 1);
    let order: Vec<usize> = kept.clone().collect();
    let mut sorted = order.clone();
    sorted.sort_by_key(|d| std::cmp::Reverse(region.strides[*d]));
    order.iter().all(|d| region.strides[*d] > 0).then(|| {
        let rank = |d: &usize| order.iter().position(|o| o == d).unwrap_or(0);
        sorted.iter().map(|d| (rank(d), region.dims[*d])).collect()
    })
}

/// Whether a copy between the two keeps the order of the bytes.
pub fn same_order(a: &Region, b: &Region) -> bool {
    if a.dtype != b.dtype {
        return false;
    }
    let dense = |r: &Region| {
        let mut next = 1i64;
        r.dims.iter().zip(&r.strides).rev().filter(|(n, _)| **n > 1).all(|(n, s)| {
            let fits = *s == next;
            next *= *n as i64;
            fits
        })
    };
    let walks = walk(a).zip(walk(b)).is_some_and(|(x, y)| x == y);
    a.elements() == b.elements() && (walks || (dense(a) && dense(b)))
}

/// For an instruction that only moves bytes as they are: from where to where.
pub fn moves(instr: &Instr) -> Option<SmallVec<[(Region, Region); 2]>> {
    let list: SmallVec<[(Region, Region); 2]> = match instr {
        Instr::Copy { out, input } => smallvec![(input.clone(), out.clone())],
        Instr::Concat { out, dim, ins } => {
            let (dim, mut starts) = (*dim as usize, vec![0; out.dims.len()]);
            let (own, mut list) = (out.extent()?, SmallVec::new());
            for input in ins {
                let there = input.extent()?;
                if there.start < own.end && own.start < there.end {
                    return None;
                }
                list.push((input.clone(), out.sub(&starts, &input.dims)));
                *starts.get_mut(dim)? += input.dims.get(dim)?;
            }
            list
        }
        _ => return None,
    };
    list.iter().all(|(from, to)| same_order(to, from)).then_some(list)
}

/// A region with the extents of another that shows the same elements in the same order; `None` when only the extents of 1 may differ and do not.
pub fn reshaped(region: &Region, like: &Region) -> Option<Region> {
    let kept = |r: &Region| (0..r.dims.len()).filter(|d| r.dims[*d] != 1).collect::<Vec<_>>();
    let (from, to) = (kept(region), kept(like));
    if from.len() != to.len() || from.iter().zip(&to).any(|(f, t)| region.dims[*f] != like.dims[*t]) {
        return None;
    }
    let mut strides = like.strides.clone();
    strides.iter_mut().for_each(|s| *s = 1);
    to.iter().zip(&from).for_each(|(t, f)| strides[*t] = region.strides[*f]);
    Some(Region { dims: like.dims.clone(), strides, ..region.clone() })
}
