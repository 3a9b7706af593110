//! Where the way is cut, and which rectangle each stage gets.
//!
//! The mesh is cut into rows and columns of rectangles, which the slices go through like a snake, so that neighbors on the way are
//! neighbors on the mesh, or into strips of any widths, for a long op may need more dies than the other stages have. For each such cut,
//! dynamic programming over positions finds the ranges whose slowest one, with what it
//! moves to its neighbors, is as fast as can be.

use super::StageError;
use super::way::Way;
use crate::partition;
use crate::sharded::{MeshShape, Region, Stages};
use girih_ir::ops::Op;
use girih_ir::target::Target;

/// At most so many ways to cut a mesh into strips are tried in each direction.
const STRIPS: usize = 64;

/// The best stages of a mesh.
pub(super) fn cut(way: &Way<'_>, target: &Target, mesh: MeshShape, count: usize) -> Result<Stages, StageError> {
    let costs = Costs::of(way, target);
    let mut best: Option<(f64, Vec<usize>, Vec<Region>)> = None;
    for regions in arrangements(mesh, count) {
        if let Some((slowest, firsts)) = costs.balanced(&regions)
            && best.as_ref().is_none_or(|b| slowest < b.0)
        {
            best = Some((slowest, firsts, regions));
        }
    }
    let none = StageError::Count { rows: mesh.rows, cols: mesh.cols, positions: way.length, stages: count };
    let (_, firsts, regions) = best.ok_or(none)?;
    let stage = |at: &usize| (firsts.partition_point(|first| first <= at) - 1) as u16;
    Ok(Stages { regions, of: way.at.iter().map(stage).collect() })
}

/// The ways to cut a mesh into so many rectangles: like a chess board, or into strips, where any of them may be wider than the others.
fn arrangements(mesh: MeshShape, count: usize) -> Vec<Vec<Region>> {
    let boards = (1..=mesh.rows).filter(|r| count.is_multiple_of(*r) && count / r <= mesh.cols).map(|r| snake(mesh, r, count / r));
    let mut all: Vec<Vec<Region>> = boards.collect();
    for (along, over_rows) in [(mesh.rows, true), (mesh.cols, false)] {
        let mut widths = Vec::new();
        compositions(along, count, &mut Vec::new(), &mut widths);
        for widths in widths {
            let mut first = 0;
            let strip = |width: usize| {
                let at = first;
                first += width;
                match over_rows {
                    true => Region { row: at, col: 0, shape: MeshShape { rows: width, cols: mesh.cols } },
                    false => Region { row: 0, col: at, shape: MeshShape { rows: mesh.rows, cols: width } },
                }
            };
            all.push(widths.into_iter().map(strip).collect());
        }
    }
    all
}

/// The ways to write `sum` as a sum of `count` numbers, in lexical order; not more than a few.
fn compositions(sum: usize, count: usize, begun: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
    if all.len() >= STRIPS || count == 0 || sum < count {
        return;
    }
    if count == 1 {
        all.push(begun.iter().copied().chain([sum]).collect());
        return;
    }
    for first in 1..=sum - (count - 1) {
        begun.push(first);
        compositions(sum - first, count - 1, begun, all);
        begun.pop();
    }
}

/// The rectangles of a mesh that is cut into so many rows and columns of them.
fn snake(mesh: MeshShape, rows: usize, cols: usize) -> Vec<Region> {
    let rectangle = |i: usize, j: usize| {
        let (row, col) = (i * mesh.rows / rows, j * mesh.cols / cols);
        let shape = MeshShape { rows: (i + 1) * mesh.rows / rows - row, cols: (j + 1) * mesh.cols / cols - col };
        Region { row, col, shape }
    };
    (0..rows).flat_map(|i| (0..cols).map(move |j| rectangle(i, if i % 2 == 0 { j } else { cols - 1 - j }))).collect()
}

/// What a slice takes along the way.
struct Costs {
    /// Seconds of one die until each position.
    work: Vec<f64>,
    /// Seconds of one link for what crosses the border before each position.
    moved: Vec<f64>,
}

impl Costs {
    fn of(way: &Way<'_>, target: &Target) -> Self {
        let (graph, slices) = (way.graph, way.slices.trips.unwrap_or(1) as f64);
        let (mut work, mut moved) = (vec![0.0; way.length + 1], vec![0.0; way.length + 1]);
        // How far each value travels: from its own position to its readers'.
        let mut span: Vec<(usize, usize)> = way.at.iter().map(|at| (*at, *at)).collect();
        for v in graph.values().filter(|v| way.phase[v.index()].is_some()) {
            let at = way.at[v.index()];
            let times = if way.of_slice(v) { 1.0 } else { 1.0 / slices };
            if !matches!(graph.node(v).op, Op::Carry(_) | Op::Repeat(_)) {
                work[at + 1] += partition::work_of(target, graph, v) * times;
            }
            for o in graph.node(v).operands.iter().filter(|o| way.of_slice(**o) && way.of_slice(v)) {
                let s = &mut span[o.index()];
                *s = (s.0.min(at), s.1.max(at));
            }
        }
        for v in graph.values().filter(|v| way.of_slice(*v)) {
            let bytes: usize = graph.ty(v).components().iter().map(|t| t.bytes()).sum();
            let (first, last) = span[v.index()];
            moved[first + 1..=last].iter_mut().for_each(|m| *m += bytes as f64 / target.link_bandwidth());
        }
        for i in 1..work.len() {
            work[i] += work[i - 1];
        }
        Costs { work, moved }
    }

    /// The first position of each stage, so that the slowest takes the least time; and that time. `None` when there are too few positions.
    fn balanced(&self, regions: &[Region]) -> Option<(f64, Vec<usize>)> {
        let (length, stages) = (self.work.len() - 1, regions.len());
        // What crosses the border behind a stage goes over all links between the two rectangles.
        let border = |s: usize| match regions.get(s..s + 2) {
            Some([a, b]) if a.row == b.row => a.shape.rows.min(b.shape.rows) as f64,
            Some([a, b]) => a.shape.cols.min(b.shape.cols) as f64,
            _ => f64::INFINITY,
        };
        // The slowest of the first stages up to a position, and where the last of them begins.
        let mut table = vec![vec![(f64::INFINITY, 0usize); length + 1]; stages + 1];
        table[0][0].0 = 0.0;
        for s in 1..=stages {
            let dies = regions[s - 1].shape.count() as f64;
            let before = if s > 1 { border(s - 2) } else { f64::INFINITY };
            for end in s..=length {
                let behind = if end < length { self.moved[end] / border(s - 1) } else { 0.0 };
                let taken = |first: usize| {
                    let moved = self.moved[first] / before + behind;
                    ((self.work[end] - self.work[first]) / dies + moved).max(table[s - 1][first].0)
                };
                let best = (s - 1..end).map(|first| (taken(first), first)).min_by(|a, b| a.0.total_cmp(&b.0));
                table[s][end] = best.unwrap_or((f64::INFINITY, 0));
            }
        }
        let slowest = table[stages][length].0;
        let mut firsts = vec![0; stages];
        let mut end = length;
        for s in (1..=stages).rev() {
            end = table[s][end].1;
            firsts[s - 1] = end;
        }
        slowest.is_finite().then_some((slowest, firsts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_cover_the_mesh_and_neighbors_touch() {
        let mesh = MeshShape { rows: 5, cols: 7 };
        for count in [1, 2, 3, 6, 35] {
            for regions in arrangements(mesh, count) {
                assert_eq!(regions.len(), count);
                let owners = |d: usize| regions.iter().filter(|r| r.local(mesh, d).is_some()).count();
                assert!((0..mesh.count()).all(|d| owners(d) == 1), "{regions:?}");
                for pair in regions.windows(2) {
                    let near = |a: usize, alen: usize, b: usize, blen: usize| a + alen >= b && b + blen >= a;
                    let (a, b) = (pair[0], pair[1]);
                    assert!(near(a.row, a.shape.rows, b.row, b.shape.rows) && near(a.col, a.shape.cols, b.col, b.shape.cols));
                }
            }
        }
    }

    #[test]
    fn stages_are_balanced() {
        let work: Vec<f64> = [0.0, 4.0, 1.0, 1.0, 1.0, 1.0]
            .iter()
            .scan(0.0, |sum, w| {
                Some({
                    *sum += w;
                    *sum
                })
            })
            .collect();
        let costs = Costs { moved: vec![0.0; work.len()], work };
        let one = |rows| Region { row: 0, col: 0, shape: MeshShape { rows, cols: 1 } };
        assert_eq!(costs.balanced(&[one(1), one(1)]), Some((4.0, vec![0, 1])));
        assert_eq!(costs.balanced(&[one(3), one(1)]), Some((2.0, vec![0, 3])));
        assert_eq!(costs.balanced(&[one(1); 6]), None);
    }
}
