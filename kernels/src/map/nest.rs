//! The loop nest of one call: row dimensions, walked by an odometer, and a flat suffix that the engine cuts into blocks.

use girih_ir::types::Dims;
use smallvec::SmallVec;

/// Strides of one operand, one a loop dimension.
pub(crate) type Strides = SmallVec<[isize; 6]>;

/// A flat suffix holds at least this many points when the space has them: shorter rows would be all overhead.
const MIN_FLAT: usize = 512;

/// How one operand (or the index along one loop dimension) moves with the nest.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    /// Position of the first point.
    pub(super) base: isize,
    /// Stride of each row dimension.
    rows: Strides,
    /// Extent and stride of the flat dimensions, outermost first, merged where possible.
    runs: SmallVec<[(usize, isize); 4]>,
}

/// A run of points with one stride: position of the first and the stride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) offset: isize,
    pub(super) stride: isize,
}

impl Access {
    fn new(base: isize, rows: Strides, flat: impl Iterator<Item = (usize, isize)>) -> Self {
        let mut runs: SmallVec<[(usize, isize); 4]> = SmallVec::new();
        for (extent, stride) in flat.filter(|(e, _)| *e != 1) {
            match runs.last_mut() {
                Some((e, s)) if *s == stride * extent as isize => (*e, *s) = (*e * extent, stride),
                _ => runs.push((extent, stride)),
            }
        }
        Access { base, rows, runs }
    }

    /// Position of the first point of a row.
    pub(super) fn row(&self, index: &[usize]) -> isize {
        index.iter().zip(&self.rows).fold(self.base, |at, (i, s)| at + *i as isize * s)
    }

    /// The flat points `first..first + count` as one run, relative to the row, if they are one.
    pub(super) fn run(&self, first: usize, count: usize) -> Option<Run> {
        let Some(((extent, stride), outer)) = self.runs.split_last() else {
            return (count <= 1).then_some(Run { offset: 0, stride: 1 });
        };
        let (inside, mut rest) = (first % extent, first / extent);
        if inside + count > *extent {
            return None;
        }
        let mut offset = inside as isize * stride;
        for (e, s) in outer.iter().rev() {
            offset += (rest % e) as isize * s;
            rest /= e;
        }
        Some(Run { offset, stride: *stride })
    }

    /// Calls `f(first lane, lanes, run)` for the runs that make up the flat points `first..first + count`, in order.
    pub(super) fn pieces(&self, first: usize, count: usize, mut f: impl FnMut(usize, usize, Run)) {
        let Some((inner, stride)) = self.runs.last().copied() else {
            return f(0, count, Run { offset: 0, stride: 0 });
        };
        let rank = self.runs.len();
        let mut index: SmallVec<[usize; 4]> = SmallVec::from_elem(0, rank);
        let (mut rest, mut offset) = (first, 0isize);
        for (d, (e, s)) in self.runs.iter().enumerate().rev() {
            index[d] = rest % e;
            rest /= e;
            offset += index[d] as isize * s;
        }
        let mut lane = 0;
        while lane < count {
            let len = (inner - index[rank - 1]).min(count - lane);
            f(lane, len, Run { offset, stride });
            lane += len;
            offset += len as isize * stride;
            index[rank - 1] += len;
            let mut d = rank - 1;
            while index[d] == self.runs[d].0 && d > 0 {
                offset += self.runs[d - 1].1 - self.runs[d].0 as isize * self.runs[d].1;
                index[d] = 0;
                d -= 1;
                index[d] += 1;
            }
        }
    }
}

/// The nest of one call.
#[derive(Debug)]
pub(super) struct Nest {
    /// Extents of the row dimensions.
    pub(super) rows: Dims,
    /// Points of one row.
    pub(super) flat: usize,
    /// One access an operand, in the order they were given.
    pub(super) access: Vec<Access>,
}

impl Nest {
    /// Rows as given, columns in order: for programs that reduce over columns.
    pub(super) fn rows(loops: &[usize], cols: usize, operands: &[(isize, Strides)]) -> Nest {
        let split = loops.len() - cols;
        let access = operands
            .iter()
            .map(|(base, s)| Access::new(*base, s[..split].into(), loops[split..].iter().copied().zip(s[split..].iter().copied())))
            .collect();
        Nest { rows: loops[..split].into(), flat: loops[split..].iter().product(), access }
    }

    /// Any order is right: dimensions are sorted by the stride of operand `lead`, merged, and the innermost become the flat suffix.
    pub(super) fn map(loops: &[usize], operands: &[(isize, Strides)], lead: Option<usize>) -> Nest {
        let mut order: SmallVec<[usize; 6]> = (0..loops.len()).filter(|d| loops[*d] != 1).collect();
        if let Some(lead) = lead {
            order.sort_by_key(|d| std::cmp::Reverse(operands[lead].1[*d].unsigned_abs()));
        }
        // Merged dimensions: extent and the loop dimension that gives the strides.
        let mut dims: SmallVec<[(usize, usize); 6]> = SmallVec::new();
        for d in order {
            match dims.last_mut() {
                Some((e, o)) if operands.iter().all(|(_, s)| s[*o] == s[d] * loops[d] as isize) => (*e, *o) = (*e * loops[d], d),
                _ => dims.push((loops[d], d)),
            }
        }
        let mut split = dims.len();
        let mut flat = 1;
        while split > 0 && flat < MIN_FLAT {
            split -= 1;
            flat *= dims[split].0;
        }
        let access = operands
            .iter()
            .map(|(base, s)| {
                Access::new(*base, dims[..split].iter().map(|(_, d)| s[*d]).collect(), dims[split..].iter().map(|(e, d)| (*e, s[*d])))
            })
            .collect();
        Nest { rows: dims[..split].iter().map(|(e, _)| *e).collect(), flat, access }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_runs_visit_every_point_once() {
        let a = Access::new(0, Strides::new(), [(3usize, 100isize), (4, -7), (5, 1)].into_iter());
        let want: Vec<isize> = (0..60).map(|p| 100 * (p / 20) - 7 * (p / 5 % 4) + p % 5).collect();
        for (first, count) in [(0, 60), (3, 17), (19, 2), (59, 1), (7, 0)] {
            let mut seen = Vec::new();
            a.pieces(first, count, |lane, len, run| {
                assert_eq!(lane, seen.len());
                seen.extend((0..len).map(|i| run.offset + i as isize * run.stride));
            });
            assert_eq!(seen, want[first..first + count]);
            if let Some(run) = a.run(first, count) {
                assert!((0..count).all(|i| want[first + i] == run.offset + i as isize * run.stride));
            }
        }
        assert_eq!(a.run(5, 5), Some(Run { offset: -7, stride: 1 }));
        assert_eq!(a.run(4, 2), None);
    }

    #[test]
    fn contiguous_dimensions_merge() {
        let dense = (0, Strides::from_slice(&[20, 5, 1]));
        let n = Nest::map(&[3, 4, 5], &[dense.clone(), dense], Some(0));
        assert_eq!((n.rows.len(), n.flat, n.access[0].runs.len()), (0, 60, 1));
    }
}
