//! Where the dies are and how they are wired: coordinates, directions, links, and what is dead.
//!
//! Ids count the whole rectangle in row-major order, dead dies included, so that an id means the same place whatever breaks.

use super::error::TargetError;
use super::quantity::Confidence;
use crate::newtype_id;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

newtype_id!(
    /// A physical die: its position in row-major order.
    DieId, "d");

newtype_id!(
    /// A one-way link: four a die, in the order of [`Direction::ALL`].
    LinkId, "l");

/// A place on the mesh, `(row,col)` from the north-west corner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Coord {
    /// From the north.
    pub row: u32,
    /// From the west.
    pub col: u32,
}

impl Coord {
    /// The place in this row and column.
    pub fn new(row: u32, col: u32) -> Self {
        Coord { row, col }
    }
}

impl fmt::Display for Coord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.row, self.col)
    }
}

impl FromStr for Coord {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix('(').and_then(|t| t.strip_suffix(')')).unwrap_or(trimmed);
        let parsed = inner.split_once(',').and_then(|(row, col)| Some((row.trim().parse().ok()?, col.trim().parse().ok()?)));
        match parsed {
            Some((row, col)) => Ok(Coord { row, col }),
            None => Err(TargetError::Name { text: text.to_string(), what: "die", example: "`(0,1)` or `0,1`" }),
        }
    }
}

impl TryFrom<String> for Coord {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Coord> for String {
    fn from(coord: Coord) -> String {
        coord.to_string()
    }
}

/// A side of a die.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards row 0.
    North,
    /// Towards the last column.
    East,
    /// Towards the last row.
    South,
    /// Towards column 0.
    West,
}

impl Direction {
    /// Clockwise from the north: the order of the links of a die.
    pub const ALL: [Direction; 4] = [Direction::North, Direction::East, Direction::South, Direction::West];

    /// The way back.
    pub fn opposite(self) -> Direction {
        match self {
            Direction::North => Direction::South,
            Direction::East => Direction::West,
            Direction::South => Direction::North,
            Direction::West => Direction::East,
        }
    }

    /// `N`, `E`, `S` or `W`.
    pub fn letter(self) -> char {
        match self {
            Direction::North => 'N',
            Direction::East => 'E',
            Direction::South => 'S',
            Direction::West => 'W',
        }
    }

    /// The direction of that [`letter`](Self::letter).
    pub fn from_letter(letter: char) -> Option<Direction> {
        Direction::ALL.into_iter().find(|d| d.letter() == letter.to_ascii_uppercase())
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// The name of a link: the die that it leaves and the side, `(0,0):E`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName {
    /// The die that it leaves.
    pub from: Coord,
    /// On which side.
    pub side: Direction,
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.from, self.side)
    }
}

impl FromStr for LinkName {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = || TargetError::Name { text: text.to_string(), what: "link", example: "a die and a side, `0,0:E`" };
        let (die, side) = text.split_once(':').ok_or_else(error)?;
        let mut letters = side.trim().chars();
        match (die.parse(), letters.next().and_then(Direction::from_letter), letters.next()) {
            (Ok(from), Some(side), None) => Ok(LinkName { from, side }),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for LinkName {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<LinkName> for String {
    fn from(link: LinkName) -> String {
        link.to_string()
    }
}

/// The extents of a grid, with the source that gives them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridShape {
    /// From north to south.
    pub rows: u32,
    /// From west to east.
    pub cols: u32,
    /// Where the extents are from.
    pub source: String,
    /// How sure they are.
    pub confidence: Confidence,
}

impl GridShape {
    /// Sites of the grid.
    pub fn sites(&self) -> usize {
        self.rows as usize * self.cols as usize
    }
}

/// A rectangle of dies, each linked to its four neighbors.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Rows and columns, dead dies included.
    pub shape: GridShape,
    /// Whether the last row and column are linked to the first.
    #[serde(default)]
    pub torus: bool,
    /// Dies that do not work.
    #[serde(default)]
    pub dead_dies: BTreeSet<Coord>,
    /// Connections that do not work, named from either end; both ways are dead.
    #[serde(default)]
    pub dead_links: BTreeSet<LinkName>,
}

impl Mesh {
    /// Sites of the rectangle, dead or alive: die ids are below this.
    pub fn sites(&self) -> usize {
        self.shape.sites()
    }

    /// Where a die is.
    pub fn coord(&self, die: DieId) -> Coord {
        Coord { row: die.0 / self.shape.cols, col: die.0 % self.shape.cols }
    }

    /// The die at a place, dead or alive.
    pub fn die_at(&self, at: Coord) -> Option<DieId> {
        (at.row < self.shape.rows && at.col < self.shape.cols).then(|| DieId(at.row * self.shape.cols + at.col))
    }

    /// Whether the die exists and works.
    pub fn is_alive(&self, die: DieId) -> bool {
        die.index() < self.sites() && !self.dead_dies.contains(&self.coord(die))
    }

    /// The working dies in order.
    pub fn live_dies(&self) -> Vec<DieId> {
        (0..self.sites()).map(DieId::new).filter(|d| self.is_alive(*d)).collect()
    }

    /// Whether nothing is dead.
    pub fn is_whole(&self) -> bool {
        self.dead_dies.is_empty() && self.dead_links.is_empty()
    }

    /// The die on that side, dead or alive; `None` at the edge of a mesh that is no torus.
    pub fn beside(&self, die: DieId, side: Direction) -> Option<DieId> {
        let at = self.coord(die);
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let step = |position: u32, extent: u32, forward: bool| match (forward, self.torus && extent > 1) {
            (true, wrap) if position + 1 == extent => wrap.then_some(0),
            (false, wrap) if position == 0 => wrap.then(|| extent - 1),
            (true, _) => Some(position + 1),
            (false, _) => Some(position - 1),
        };
        let to = match side {
            Direction::North => Coord { row: step(at.row, rows, false)?, col: at.col },
            Direction::South => Coord { row: step(at.row, rows, true)?, col: at.col },
            Direction::West => Coord { row: at.row, col: step(at.col, cols, false)? },
            Direction::East => Coord { row: at.row, col: step(at.col, cols, true)? },
        };
        self.die_at(to)
    }

    /// The link that leaves `die` on that side, dead or alive.
    pub fn link(&self, die: DieId, side: Direction) -> Option<LinkId> {
        self.beside(die, side).map(|_| LinkId(die.0 * 4 + side as u32))
    }

    /// Link ids are below this; at the edges some are of no link.
    pub fn link_slots(&self) -> usize {
        self.sites() * 4
    }

    /// The die and the side that a link leaves.
    pub fn link_start(&self, link: LinkId) -> (DieId, Direction) {
        (DieId(link.0 / 4), Direction::ALL[link.index() % 4])
    }

    /// The dies at both ends, from and to; `None` for an id that is of no link.
    pub fn link_ends(&self, link: LinkId) -> Option<(DieId, DieId)> {
        let (from, side) = self.link_start(link);
        (from.index() < self.sites()).then(|| self.beside(from, side)).flatten().map(|to| (from, to))
    }

    /// The same connection the other way.
    pub fn reverse_link(&self, link: LinkId) -> Option<LinkId> {
        let (_, to) = self.link_ends(link)?;
        self.link(to, self.link_start(link).1.opposite())
    }

    /// The name of a link in the text forms.
    pub fn link_name(&self, link: LinkId) -> LinkName {
        let (from, side) = self.link_start(link);
        LinkName { from: self.coord(from), side }
    }

    /// The link of that name.
    pub fn link_named(&self, name: LinkName) -> Option<LinkId> {
        self.link(self.die_at(name.from)?, name.side)
    }

    /// Whether the link exists, works, and both of its dies work.
    pub fn link_alive(&self, link: LinkId) -> bool {
        let Some((from, to)) = self.link_ends(link) else { return false };
        let dead = |l: LinkId| self.dead_links.contains(&self.link_name(l));
        self.is_alive(from) && self.is_alive(to) && !dead(link) && !self.reverse_link(link).is_some_and(dead)
    }

    /// The live links that leave a die and the dies that they reach, in the order of [`Direction::ALL`].
    pub fn neighbors(&self, die: DieId) -> impl Iterator<Item = (LinkId, DieId)> + '_ {
        Direction::ALL.into_iter().filter_map(move |side| {
            let link = self.link(die, side)?;
            self.link_alive(link).then(|| self.beside(die, side).map(|to| (link, to)))?
        })
    }

    /// The working dies of the largest group that can reach each other, in order; of equally large groups the one with the
    /// lowest die. A die that lost all its links works but is of no use.
    pub fn usable_dies(&self) -> Vec<DieId> {
        if self.is_whole() {
            return self.live_dies();
        }
        let mut seen = vec![false; self.sites()];
        let mut best: Vec<DieId> = Vec::new();
        for start in self.live_dies() {
            if std::mem::replace(&mut seen[start.index()], true) {
                continue;
            }
            let mut group = vec![start];
            let mut next = 0;
            while next < group.len() {
                for (_, to) in self.neighbors(group[next]) {
                    if !std::mem::replace(&mut seen[to.index()], true) {
                        group.push(to);
                    }
                }
                next += 1;
            }
            if group.len() > best.len() {
                best = group;
            }
        }
        best.sort_unstable();
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(rows: u32, cols: u32, torus: bool) -> Mesh {
        let shape = GridShape { rows, cols, source: "test".into(), confidence: Confidence::High };
        Mesh { shape, torus, dead_dies: BTreeSet::new(), dead_links: BTreeSet::new() }
    }

    fn around(mesh: &Mesh, at: &str) -> String {
        let die = mesh.die_at(at.parse().unwrap()).unwrap();
        let list: Vec<String> = mesh.neighbors(die).map(|(l, to)| format!("{}→{}", mesh.link_name(l), mesh.coord(to))).collect();
        list.join(" ")
    }

    #[test]
    fn neighbors_stop_at_edges_holes_and_dead_links() {
        let mut m = mesh(3, 3, false);
        assert_eq!(around(&m, "(0,0)"), "(0,0):E→(0,1) (0,0):S→(1,0)");
        assert_eq!(around(&m, "1,1"), "(1,1):N→(0,1) (1,1):E→(1,2) (1,1):S→(2,1) (1,1):W→(1,0)");
        m.dead_dies.insert(Coord::new(0, 1));
        // Named from the other end on purpose: a dead connection is dead both ways.
        m.dead_links.insert("1,0:N".parse().unwrap());
        assert_eq!(around(&m, "0,0"), "");
        assert_eq!(around(&m, "1,0"), "(1,0):E→(1,1) (1,0):S→(2,0)");
        assert_eq!(m.live_dies().len(), 8);
        assert_eq!(m.usable_dies().len(), 7, "(0,0) works but cannot be reached");
    }

    #[test]
    fn a_torus_wraps_and_a_line_of_one_does_not() {
        assert_eq!(around(&mesh(1, 3, true), "0,0"), "(0,0):E→(0,1) (0,0):W→(0,2)");
        assert_eq!(around(&mesh(1, 1, true), "0,0"), "");
        let m = mesh(4, 5, true);
        for link in (0..m.link_slots()).map(LinkId::new) {
            let back = m.reverse_link(link).unwrap();
            assert_eq!(m.reverse_link(back), Some(link));
            assert_eq!(m.link_named(m.link_name(link)), Some(link));
        }
    }

    #[test]
    fn names_that_are_none() {
        for text in ["", "0", "0,", "(0,1", "0,1,2", "-1,0", "99999999999,0"] {
            assert_eq!(text.parse::<Coord>().unwrap_err().code(), "E0506", "{text}");
        }
        for text in ["0,0", "0,0:", "0,0:X", "0,0:EE", "E:0,0"] {
            assert_eq!(text.parse::<LinkName>().unwrap_err().code(), "E0506", "{text}");
        }
        assert_eq!("(3,4):w".parse::<LinkName>().unwrap().to_string(), "(3,4):W");
    }
}
