//! Logical meshes: the grids that partitioning shards over, and where their dies are.
//!
//! Partitioning thinks in `r×c` grids and must not know about holes. An embedding gives each logical die a physical one: a
//! rectangle without holes if there is one, else rows that skip their dead dies, else a snake through all live dies.

use super::Target;
use super::error::TargetError;
use super::geometry::{Coord, DieId};
use crate::newtype_id;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

newtype_id!(
    /// A die of a [`LogicalMesh`], counted in row-major order.
    LogicalDie, "p");

/// How a logical mesh lies on the physical one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Embedding {
    /// A rectangle of live dies and links: logical neighbors are neighbors. The north-west corner is given.
    Rectangle(Coord),
    /// Consecutive rows from this one, each using its first live dies: neighbors in a row may have holes between them.
    Rows(u32),
    /// A walk over the live dies, one row eastwards, the next westwards.
    Snake,
}

impl fmt::Display for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Embedding::Rectangle(at) => write!(f, "rectangle at {at}"),
            Embedding::Rows(first) => write!(f, "live dies of the rows from {first}"),
            Embedding::Snake => f.write_str("snake"),
        }
    }
}

/// An `r×c` grid of logical dies and the physical die of each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogicalMesh {
    rows: u32,
    cols: u32,
    embedding: Embedding,
    dies: Vec<DieId>,
}

impl LogicalMesh {
    /// Rows of the grid.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Columns of the grid.
    pub fn cols(&self) -> usize {
        self.cols as usize
    }

    /// Number of dies; never 0.
    pub fn count(&self) -> usize {
        self.dies.len()
    }

    /// How it lies on the physical mesh.
    pub fn embedding(&self) -> Embedding {
        self.embedding
    }

    /// The physical dies, in the order of the logical ones.
    pub fn dies(&self) -> &[DieId] {
        &self.dies
    }

    /// The physical die of a logical one.
    pub fn physical(&self, die: LogicalDie) -> DieId {
        self.dies[die.index()]
    }

    /// The logical die on a physical one, if it is used.
    pub fn logical(&self, die: DieId) -> Option<LogicalDie> {
        self.dies.iter().position(|d| *d == die).map(LogicalDie::new)
    }

    /// The logical die in this row and column.
    pub fn at(&self, row: usize, col: usize) -> LogicalDie {
        LogicalDie::new(row * self.cols() + col)
    }

    /// Row and column of a logical die.
    pub fn position(&self, die: LogicalDie) -> (usize, usize) {
        (die.index() / self.cols(), die.index() % self.cols())
    }
}

impl fmt::Display for LogicalMesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{} {}", self.rows, self.cols, self.embedding)
    }
}

/// Candidates for one die count are cut to this many, the squarest.
const MAX_SHAPES: usize = 16;
/// Up to this many sites every sub-rectangle is a candidate.
const ALL_SHAPES_SITES: usize = 64;

impl Target {
    /// An `rows×cols` logical mesh on this target: a rectangle without holes if one exists, else consecutive rows with enough
    /// live dies, else a snake. Fails if there are too few connected live dies, or if an extent is 0.
    pub fn logical_mesh(&self, rows: usize, cols: usize) -> Result<LogicalMesh, TargetError> {
        Survey::new(self).embed(rows, cols)
    }

    /// The logical meshes that are worth trying, largest first, squarest first among equals. With `count`, all shapes of
    /// exactly that many dies; without, those that lie on the mesh without a snake, and the snake over everything if that
    /// uses more dies.
    pub fn logical_meshes(&self, count: Option<usize>) -> Result<Vec<LogicalMesh>, TargetError> {
        let survey = Survey::new(self);
        let (rows, cols) = (self.mesh.shape.rows as usize, self.mesh.shape.cols as usize);
        let mut meshes: Vec<LogicalMesh> = Vec::new();
        match count {
            Some(count) => {
                survey.require(count)?;
                let mut shapes: Vec<(usize, usize)> = (1..=count)
                    .take_while(|d| d * d <= count)
                    .filter(|d| count % d == 0)
                    .flat_map(|d| [(d, count / d), (count / d, d)])
                    .collect();
                shapes.dedup();
                shapes.sort_by_key(|(r, c)| (r.abs_diff(*c), *r));
                let mut embedded = shapes.into_iter().map(|(r, c)| survey.embed(r, c)).take(MAX_SHAPES).collect::<Result<Vec<_>, _>>()?;
                // A column of a snake is the same walk as a row of it.
                if embedded.iter().any(|m| m.rows == 1) {
                    embedded.retain(|m| m.embedding != Embedding::Snake || m.cols > 1 || m.count() == 1);
                }
                meshes.extend(embedded);
            }
            None => {
                let all = rows * cols <= ALL_SHAPES_SITES;
                for r in self.extents(rows, all, |p| p.rows as usize) {
                    for c in self.extents(cols, all, |p| p.cols as usize) {
                        if r * c <= survey.usable.len() {
                            meshes.extend(survey.rectangle(r, c).or_else(|| survey.shifted_rows(r, c)));
                        }
                    }
                }
                if meshes.iter().all(|m| m.count() < survey.usable.len()) {
                    meshes.push(survey.embed(1, survey.usable.len())?);
                }
            }
        }
        meshes.sort_by_key(|m| (std::cmp::Reverse(m.count()), m.rows.abs_diff(m.cols), m.rows));
        Ok(meshes)
    }

    /// The sensible extents up to `limit`: all, or the powers of two, the multiples of a package by them, and the limit.
    fn extents(&self, limit: usize, all: bool, of_package: fn(&super::geometry::GridShape) -> usize) -> BTreeSet<usize> {
        if all {
            return (1..=limit).collect();
        }
        let package = self.package.tile.as_ref().map_or(1, of_package).max(1);
        let doubling = |from: usize| std::iter::successors(Some(from), |n| Some(n * 2)).take_while(move |n| *n <= limit);
        doubling(1).chain(doubling(package)).chain([limit]).collect()
    }
}

/// What embedding asks about a mesh, computed once.
struct Survey<'t> {
    target: &'t Target,
    usable: Vec<DieId>,
    /// Dies that no rectangle may contain, by row.
    bad: Vec<Coord>,
}

impl<'t> Survey<'t> {
    fn new(target: &'t Target) -> Self {
        let mesh = &target.mesh;
        let usable = mesh.usable_dies();
        let mut bad = Vec::new();
        if usable.len() < mesh.sites() {
            let good: BTreeSet<DieId> = usable.iter().copied().collect();
            bad.extend((0..mesh.sites()).map(DieId::new).filter(|d| !good.contains(d)).map(|d| mesh.coord(d)));
        }
        Survey { target, usable, bad }
    }

    fn require(&self, wanted: usize) -> Result<(), TargetError> {
        if wanted == 0 || wanted > self.usable.len() {
            return Err(TargetError::TooFewDies { wanted, usable: self.usable.len(), target: self.target.name.clone() });
        }
        Ok(())
    }

    fn embed(&self, rows: usize, cols: usize) -> Result<LogicalMesh, TargetError> {
        let count = rows.saturating_mul(cols);
        self.require(count)?;
        let flat = || self.rectangle(rows, cols).or_else(|| self.shifted_rows(rows, cols));
        Ok(flat().unwrap_or_else(|| {
            let dies = self.snake().take(count).collect();
            LogicalMesh { rows: rows as u32, cols: cols as u32, embedding: Embedding::Snake, dies }
        }))
    }

    /// The first rectangle, in row-major order of its corner, with neither a dead die nor a dead link inside.
    fn rectangle(&self, rows: usize, cols: usize) -> Option<LogicalMesh> {
        let mesh = &self.target.mesh;
        let (have_rows, have_cols) = (mesh.shape.rows as usize, mesh.shape.cols as usize);
        if rows > have_rows || cols > have_cols {
            return None;
        }
        for row in 0..=have_rows - rows {
            let inside = |r: u32| (row..row + rows).contains(&(r as usize));
            // Each defect forbids the corners of a range of columns: from `last + 1 - cols`, where the rectangle's east side
            // comes to include it, to `first`, where its west side still does.
            let mut forbidden: Vec<(usize, usize)> = self
                .bad
                .iter()
                .filter(|at| inside(at.row))
                .map(|at| ((at.col as usize + 1).saturating_sub(cols), at.col as usize))
                .collect();
            for name in &mesh.dead_links {
                let Some((a, b)) = mesh.link_named(*name).and_then(|l| mesh.link_ends(l)) else { continue };
                let (a, b) = (mesh.coord(a), mesh.coord(b));
                // A wrapping link joins no two neighbors of a rectangle, except that of two rows or columns.
                if inside(a.row) && inside(b.row) && super::route::hops(a, b) == 1 {
                    forbidden.push(((a.col.max(b.col) as usize + 1).saturating_sub(cols), a.col.min(b.col) as usize));
                }
            }
            forbidden.sort_unstable();
            let corner = forbidden.iter().fold(0, |corner, (from, to)| if *from <= corner && corner <= *to { to + 1 } else { corner });
            if corner + cols <= have_cols {
                let die = |i: usize| DieId::new((row + i / cols) * have_cols + corner + i % cols);
                let embedding = Embedding::Rectangle(Coord::new(row as u32, corner as u32));
                return Some(LogicalMesh { rows: rows as u32, cols: cols as u32, embedding, dies: (0..rows * cols).map(die).collect() });
            }
        }
        None
    }

    fn shifted_rows(&self, rows: usize, cols: usize) -> Option<LogicalMesh> {
        let mesh = &self.target.mesh;
        let mut by_row: Vec<Vec<DieId>> = vec![Vec::new(); mesh.shape.rows as usize];
        for die in &self.usable {
            by_row[mesh.coord(*die).row as usize].push(*die);
        }
        let first = by_row.windows(rows).position(|window| window.iter().all(|row| row.len() >= cols))?;
        let dies = by_row[first..first + rows].iter().flat_map(|row| row[..cols].iter().copied()).collect();
        Some(LogicalMesh { rows: rows as u32, cols: cols as u32, embedding: Embedding::Rows(first as u32), dies })
    }

    fn snake(&self) -> impl Iterator<Item = DieId> + '_ {
        let mesh = &self.target.mesh;
        let mut order = self.usable.clone();
        order.sort_by_key(|die| {
            let at = mesh.coord(*die);
            (at.row, if at.row.is_multiple_of(2) { at.col } else { mesh.shape.cols - 1 - at.col })
        });
        order.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(dead: &[&str]) -> Target {
        Target::builtin("dojo-tile").unwrap().with_dead(dead.iter().map(|t| t.parse().unwrap())).unwrap()
    }

    fn list(meshes: &[LogicalMesh]) -> String {
        meshes.iter().map(LogicalMesh::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn rectangles_avoid_holes_and_dead_links() {
        assert_eq!(tile(&[]).logical_mesh(5, 5).unwrap().to_string(), "5×5 rectangle at (0,0)");
        assert_eq!(tile(&["0,0"]).logical_mesh(2, 3).unwrap().to_string(), "2×3 rectangle at (0,1)");
        assert_eq!(tile(&["0,2"]).logical_mesh(1, 3).unwrap().to_string(), "1×3 rectangle at (1,0)");
        assert_eq!(tile(&["0,1", "0,3"]).logical_mesh(5, 1).unwrap().to_string(), "5×1 rectangle at (0,0)");
        let cut = tile(&[]).with_dead_link("0,1:E").unwrap();
        assert_eq!(cut.logical_mesh(1, 3).unwrap().to_string(), "1×3 rectangle at (0,2)");
        assert_eq!(cut.logical_mesh(2, 2).unwrap().to_string(), "2×2 rectangle at (0,0)");
        assert_eq!(cut.logical_mesh(5, 5).unwrap().to_string(), "5×5 live dies of the rows from 0");
        let cut = tile(&[]).with_dead_link("1,2:N").unwrap();
        assert_eq!(cut.logical_mesh(2, 3).unwrap().to_string(), "2×3 rectangle at (1,0)");
    }

    #[test]
    fn holes_shift_rows_and_then_force_a_snake() {
        let holed = tile(&["2,2"]);
        let shifted = holed.logical_mesh(5, 4).unwrap();
        assert_eq!(shifted.embedding(), Embedding::Rows(0));
        assert_eq!(shifted.physical(shifted.at(2, 2)), holed.mesh.die_at(Coord::new(2, 3)).unwrap());
        let snake = holed.logical_mesh(4, 6).unwrap();
        assert_eq!(snake.embedding(), Embedding::Snake);
        assert_eq!(snake.count(), 24);
        let dies: BTreeSet<DieId> = snake.dies().iter().copied().collect();
        assert_eq!(dies.into_iter().collect::<Vec<_>>(), holed.live_dies());
        for (i, pair) in snake.dies().windows(2).enumerate() {
            let hops = holed.route(pair[0], pair[1]).unwrap().len();
            assert!(hops == 1 || (i == 11 && hops == 4), "step {i} of the snake takes {hops} hops");
        }
        assert_eq!(snake.logical(snake.physical(LogicalDie(7))), Some(LogicalDie(7)));
        assert_eq!(snake.position(LogicalDie(7)), (1, 1));
    }

    #[test]
    fn candidates() {
        assert_eq!(list(&tile(&[]).logical_meshes(Some(25)).unwrap()), "5×5 rectangle at (0,0), 1×25 snake");
        assert_eq!(list(&tile(&[]).logical_meshes(Some(8)).unwrap()), "2×4 rectangle at (0,0), 4×2 rectangle at (0,0), 1×8 snake");
        assert_eq!(list(&tile(&[]).logical_meshes(Some(1)).unwrap()), "1×1 rectangle at (0,0)");
        assert_eq!(list(&tile(&[]).logical_meshes(Some(3)).unwrap()), "1×3 rectangle at (0,0), 3×1 rectangle at (0,0)");
        assert_eq!(tile(&[]).logical_meshes(None).unwrap().len(), 25);
        assert_eq!(list(&tile(&["0,0"]).logical_meshes(None).unwrap()[..3]), "1×24 snake, 4×5 rectangle at (1,0), 5×4 rectangle at (0,1)");
        for (dead, wanted) in [(&[][..], 26), (&[], 0), (&["0,0"], 25)] {
            assert_eq!(tile(dead).logical_meshes(Some(wanted)).unwrap_err().code(), "E0508");
        }
        let wafer = Target::builtin("wse2").unwrap().logical_meshes(None).unwrap();
        assert_eq!(wafer[0].count(), 745_500);
        assert!(wafer.len() < 200);
        let tray = Target::builtin("dojo-tray").unwrap().logical_meshes(None).unwrap();
        assert!(tray.iter().any(|m| (m.rows(), m.cols()) == (5, 5)), "a tile of the tray is a candidate");
    }

    #[test]
    fn a_target_says_how_many_dies_it_has() {
        let error = tile(&["0,0"]).logical_meshes(Some(25)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "25 dies are wanted, but `dojo-tile` has 24 connected live dies; ask for fewer or use a larger target"
        );
    }
}
