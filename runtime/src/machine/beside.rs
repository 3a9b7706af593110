//! Whole instructions beside each other, one a thread.
//!
//! In a stream that was woven from those of several dies, each die's share of an op is an instruction of its own. To cut every one of them for
//! all threads takes a barrier each, and leaves parts that are small for the kernels. Where the shares of two dies stand near each other and
//! neither needs the other, nor anything between them, each thread takes one whole.

use super::split::{SMALL, work};
use super::sram::{Bytes, overlap};
use super::task;
use super::views::{Line, Motion};
use girih_ir::program::Program;
use smallvec::SmallVec;

/// Lines that are looked at for another one of a kind.
const AHEAD: usize = 24;

/// Lines that run at the same time; one line alone is cut for all threads.
pub type Group = SmallVec<[usize; 2]>;

/// The bytes that a line reads and writes.
struct Touch {
    reads: SmallVec<[Bytes; 4]>,
    writes: SmallVec<[Bytes; 2]>,
}

impl Touch {
    fn of(line: &Line) -> Option<Touch> {
        let extents = |list: girih_ir::program::Regions<'_>| list.into_iter().map(|r| task::extent(r).ok()).collect::<Option<Vec<_>>>();
        Some(Touch { reads: extents(line.instr.reads())?.into(), writes: extents(line.instr.writes())?.into() })
    }

    fn crosses(&self, other: &Touch) -> bool {
        let meet = |a: &[Bytes], b: &[Bytes]| a.iter().any(|x| b.iter().any(|y| overlap(x, y)));
        meet(&self.writes, &other.writes) || meet(&self.writes, &other.reads) || meet(&self.reads, &other.writes)
    }
}

/// The lines in the order in which they run.
pub fn groups(lines: &[Line], program: &Program, threads: usize) -> Vec<Group> {
    let touches: Vec<Option<Touch>> = lines.iter().map(Touch::of).collect();
    let works: Vec<u64> = lines.iter().map(|l| work(&l.instr, program)).collect();
    let still = |i: usize| lines[i].motion == Motion::default() && !lines[i].instr.is_fence() && touches[i].is_some();
    let like = |i: usize, j: usize| {
        let (a, b) = (works[i], works[j]);
        std::mem::discriminant(&lines[i].instr) == std::mem::discriminant(&lines[j].instr) && a.max(b) <= a.min(b) + a.min(b) / 2
    };
    let mut taken = vec![false; lines.len()];
    let mut groups = Vec::new();
    for i in (0..lines.len()).filter(|i| !lines[*i].gone) {
        if std::mem::take(&mut taken[i]) {
            continue;
        }
        let mut group: Group = SmallVec::from_elem(i, 1);
        let mut passed: SmallVec<[usize; AHEAD]> = SmallVec::new();
        if threads > 1 && works[i] >= SMALL && still(i) {
            for j in (i + 1..lines.len()).take(AHEAD).take_while(|j| still(*j)) {
                if taken[j] || lines[j].gone {
                    continue;
                }
                let free = |k: &usize| touches[*k].as_ref().zip(touches[j].as_ref()).is_some_and(|(a, b)| !a.crosses(b));
                if like(i, j) && group.iter().all(free) && passed.iter().all(free) {
                    group.push(j);
                    if group.len() == threads {
                        break;
                    }
                } else {
                    passed.push(j);
                }
            }
        }
        if group.len() < threads {
            group.truncate(1);
        }
        group[1..].iter().for_each(|j| taken[*j] = true);
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Builder, at, gemm};
    use girih_ir::program::Instr;

    #[test]
    fn what_is_alike_and_apart_runs_beside() {
        let n = 64;
        let bytes = 4 * (n * n) as u64;
        let product = |out: u64, a: u64| gemm(at(out * bytes, &[n, n]), at(a * bytes, &[n, n]), at(0, &[n, n]));
        let copy = |out: u64, input: u64| Instr::Copy { out: at(out * bytes, &[n, n]), input: at(input * bytes, &[n, n]) };
        let list = [product(2, 1), copy(4, 3), product(5, 4), product(6, 1), product(7, 6), product(8, 5), Instr::End];
        let lines: Vec<Line> = list.iter().map(|i| Line { instr: i.clone(), motion: Motion::default(), gone: false }).collect();
        let program = Builder::new(1, 1).program;
        let order = |threads| groups(&lines, &program, threads).iter().map(|g| g.to_vec()).collect::<Vec<_>>();
        assert_eq!(order(1), [[0], [1], [2], [3], [4], [5], [6]]);
        // The second product needs the copy between them, so the third one goes beside the first.
        assert_eq!(order(2), [vec![0, 3], vec![1], vec![2, 4], vec![5], vec![6]]);
    }
}
