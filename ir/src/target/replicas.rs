//! Replicas on a machine of many packages: what one package is as a target of its own, and what it takes to combine a value over all of
//! them.
//!
//! A combination runs as one pipelined chain: along each row of packages from west to east, down the last column from north to south, and
//! back the same way. Dies of the same position are so many links apart as a package is long, and all positions of a package do it at
//! once, so they share the links between two packages. Both ways run at the same time, in opposite directions of the links, so the chain
//! carries each byte once; it is cut into pieces so that the sum of what pieces cost to send and what the chain takes to fill is least.

use super::error::TargetError;
use super::geometry::{Coord, Direction, GridShape, LinkName, Mesh};
use super::quantity::{Confidence, Figure, Quantity};
use super::sections::{Borders, Target};

/// What a combination over replicas takes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct AllReduceTime {
    /// Seconds until the next one can begin.
    pub busy: f64,
    /// Seconds from then until the result is there.
    pub latency: f64,
    /// Links that each byte of a replica crosses, on average.
    pub links: f64,
}

impl Target {
    /// Rows and columns of whole packages, when there are at least two.
    pub fn package_grid(&self) -> Option<(u32, u32)> {
        let tile = self.package.tile.as_ref()?;
        let (rows, cols) = (self.mesh.shape.rows / tile.rows.max(1), self.mesh.shape.cols / tile.cols.max(1));
        let whole = rows * tile.rows == self.mesh.shape.rows && cols * tile.cols == self.mesh.shape.cols;
        (whole && rows * cols > 1).then_some((rows, cols))
    }

    /// One package of this machine as a target of its own, when each of the first `rows × cols` packages holds a replica. A die or link that
    /// is dead in one of them is used in none. Of the links between packages those that work count: the border with the fewest of them holds up
    /// all others. The ports and the rate of host memory are shared, and the latency is that of the package
    /// farthest from a port.
    ///
    /// # Errors
    /// When the mesh has no such grid of packages, or no live link between two of them.
    pub fn replica(&self, rows: u32, cols: u32) -> Result<Target, TargetError> {
        let refuse = |why: String| TargetError::Override { text: format!("replicas={rows}x{cols}"), why };
        let (Some(tile), Some((all_rows, all_cols))) = (&self.package.tile, self.package_grid()) else {
            return Err(refuse(format!("the mesh of `{}` is not a grid of packages", self.name)));
        };
        if rows == 0 || cols == 0 || rows > all_rows || cols > all_cols {
            return Err(refuse(format!("`{}` has {all_rows}×{all_cols} packages", self.name)));
        }
        let (th, tw) = (tile.rows, tile.cols);
        let mut one = self.clone();
        one.name = format!("{}-package", self.name);
        one.description = format!("one package of `{}` of {rows}×{cols} that run replicas", self.name);
        one.mesh.shape = GridShape { rows: th, cols: tw, source: tile.source.clone(), confidence: tile.confidence };
        one.mesh.torus = false;
        let inside = |at: &Coord| at.row < rows * th && at.col < cols * tw;
        let local = |at: &Coord| Coord::new(at.row % th, at.col % tw);
        one.mesh.dead_dies = self.mesh.dead_dies.iter().filter(|at| inside(at)).map(local).collect();
        let links = self.mesh.dead_links.iter().filter(|l| inside(&l.from));
        let links = links.map(|l| LinkName { from: local(&l.from), side: l.side });
        one.mesh.dead_links = links.filter(|l| one.mesh.link_named(*l).is_some()).collect();
        one.package.borders = self.borders(&one, rows, cols).map_err(refuse)?;
        let figure = |what: &str| format!("{what} of `{}`, shared by {} packages", self.name, rows * cols);
        let share = |v: f64| v / f64::from(rows * cols);
        let derived = Confidence::Derived;
        one.host_memory.total_bandwidth = Quantity::new(share(self.host_bandwidth()), "B/s", &figure("the rate"), derived)?;
        one.host_memory.capacity = Quantity::new(share(self.host_memory.capacity.si()).floor(), "B", &figure("the memory"), derived)?;
        let far = self.port_distance(rows, cols);
        if far > 0.0 {
            let source = format!("{}; and the way from the port to the farthest package", self.host_memory.latency.source());
            one.host_memory.latency = Quantity::new((self.host_latency() + far) * 1e9, "ns", &source, derived)?;
        }
        match one.check() {
            problems if problems.is_empty() => Ok(one),
            problems => Err(TargetError::Invalid { name: one.name, problems }),
        }
    }

    /// The live links of the borders that a chain through the first `rows × cols` packages crosses, each of them like `one`: along the rows, and down
    /// the last column. `None` when none is dead.
    fn borders(&self, one: &Target, rows: u32, cols: u32) -> Result<Option<Borders>, String> {
        let GridShape { rows: th, cols: tw, .. } = one.mesh.shape;
        let works = |mesh: &Mesh, at: Coord| mesh.die_at(at).is_some_and(|d| mesh.is_alive(d));
        let inside = |at: Coord| works(&one.mesh, Coord::new(at.row % th, at.col % tw));
        let crosses = |from: Coord, to: Coord, side: Direction| {
            let link = self.mesh.link_named(LinkName { from, side });
            inside(from) && inside(to) && link.is_some_and(|l| self.mesh.link_alive(l))
        };
        let east = |r: u32, c: u32| {
            let row = move |i: u32| r * th + i;
            let live = |i: &u32| crosses(Coord::new(row(*i), c * tw + tw - 1), Coord::new(row(*i), (c + 1) * tw), Direction::East);
            ((r, c), (r, c + 1), (0..th).filter(live).count() as u32)
        };
        let south = |r: u32, c: u32| {
            let col = move |i: u32| c * tw + i;
            let live = |i: &u32| crosses(Coord::new(r * th + th - 1, col(*i)), Coord::new((r + 1) * th, col(*i)), Direction::South);
            ((r, c), (r + 1, c), (0..tw).filter(live).count() as u32)
        };
        let rows_of = (0..rows).flat_map(|r| (0..cols - 1).map(move |c| (r, c))).map(|(r, c)| east(r, c)).min_by_key(|b| b.2);
        let column = (0..rows - 1).map(|r| south(r, cols - 1)).min_by_key(|b| b.2);
        if let Some((a, b, _)) = [rows_of, column].into_iter().flatten().find(|b| b.2 == 0) {
            return Err(format!("no live link leads from package {},{} to package {},{}", a.0, a.1, b.0, b.1));
        }
        let [all_sideways, all_downwards] = one.facing();
        let found = Borders { sideways: rows_of.map_or(all_sideways, |b| b.2), downwards: column.map_or(all_downwards, |b| b.2) };
        Ok((found != Borders { sideways: all_sideways, downwards: all_downwards }).then_some(found))
    }

    /// Dies on the borders of this package that face a live one in the next package, sideways and downwards.
    fn facing(&self) -> [u32; 2] {
        let (th, tw) = (self.mesh.shape.rows, self.mesh.shape.cols);
        let alive = |row: u32, col: u32| self.mesh.die_at(Coord::new(row, col)).is_some_and(|d| self.mesh.is_alive(d));
        let sideways = (0..th).filter(|r| alive(*r, 0) && alive(*r, tw - 1)).count();
        let downwards = (0..tw).filter(|c| alive(0, *c) && alive(th - 1, *c)).count();
        [sideways as u32, downwards as u32]
    }

    /// Seconds across a package and into the next one.
    fn across(&self, dies: u32) -> f64 {
        let crossing = self.package.crossing.as_ref().map_or(self.hop_latency(), |c| c.hop_latency.si());
        f64::from(dies.saturating_sub(1)) * self.hop_latency() + crossing
    }

    /// Seconds from a port to the farthest of the first `rows × cols` packages.
    fn port_distance(&self, rows: u32, cols: u32) -> f64 {
        let (Some(tile), Some((all_rows, all_cols))) = (&self.package.tile, self.package_grid()) else { return 0.0 };
        let (down, right) = (self.across(tile.rows), self.across(tile.cols));
        let nearest = |r: u32, c: u32| {
            let ways = self.host_memory.edges.iter().map(|edge| match edge {
                Direction::North => f64::from(r) * down,
                Direction::South => f64::from(all_rows - 1 - r) * down,
                Direction::West => f64::from(c) * right,
                Direction::East => f64::from(all_cols - 1 - c) * right,
            });
            ways.fold(f64::INFINITY, f64::min)
        };
        let all = (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)));
        let far = all.map(|(r, c)| nearest(r, c)).fold(0.0, f64::max);
        if far.is_finite() { far } else { 0.0 }
    }

    /// What it takes to combine `bytes` of every die of this package with those of the same position in `rows × cols` replicas.
    pub fn all_reduce_time(&self, rows: usize, cols: usize, bytes: u64) -> AllReduceTime {
        let stages = 2 * (rows.max(1) - 1 + cols.max(1) - 1);
        if stages == 0 || bytes == 0 {
            return AllReduceTime::default();
        }
        let shape = &self.mesh.shape;
        let (th, tw) = (shape.rows, shape.cols);
        let live = self.mesh.live_dies().len().max(1) as f64;
        let [sideways, downwards] = self.package.borders.map_or(self.facing(), |b| [b.sideways, b.downwards]).map(|n| f64::from(n.max(1)));
        let rate = self.package.crossing.as_ref().map_or(self.link_bandwidth(), |c| c.bandwidth.si().min(self.link_bandwidth()));
        let lanes = match (rows > 1, cols > 1) {
            (true, true) => sideways.min(downwards),
            (true, false) => downwards,
            _ => sideways,
        };
        let rate = rate * lanes / live;
        let (overhead, n) = (self.message_overhead().max(1e-12), bytes as f64 / rate);
        let pieces = ((stages - 1) as f64 * n / overhead).sqrt().floor().clamp(1.0, bytes as f64);
        let piece = n / pieces + overhead;
        let way = 2.0 * ((rows.max(1) - 1) as f64 * self.across(th) + (cols.max(1) - 1) as f64 * self.across(tw));
        let count = (rows * cols) as f64;
        // Up each row and back, down the last column and back.
        let edges = (rows * (cols - 1)) as f64 * f64::from(tw) + (rows - 1) as f64 * f64::from(th);
        AllReduceTime { busy: pieces * piece, latency: (stages - 1) as f64 * piece + way, links: 2.0 * edges / count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_the_exapod_is_a_tile() {
        let pod = Target::builtin("dojo-exapod").unwrap();
        assert_eq!(pod.package_grid(), Some((40, 3)));
        let one = pod.replica(40, 3).unwrap();
        assert_eq!((one.mesh.shape.rows, one.mesh.shape.cols), (5, 5));
        assert_eq!(one.sram_bytes(), pod.sram_bytes());
        assert_eq!(one.host_bandwidth() * 120.0, pod.host_bandwidth());
        assert!(one.host_latency() > pod.host_latency(), "the middle column has no port");
        assert_eq!(Target::from_toml(&one.to_toml()).unwrap(), one);
        assert!(pod.replica(41, 3).is_err());
        assert!(Target::builtin("dojo-tile").unwrap().replica(1, 1).is_err());
    }

    #[test]
    fn what_is_dead_in_one_package_is_used_in_none() {
        let tray = Target::builtin("dojo-tray").unwrap().with_dead([Coord::new(7, 13)]).unwrap().with_dead_link("1,6:E").unwrap();
        let one = tray.replica(2, 3).unwrap();
        assert_eq!(one.mesh.dead_dies.iter().copied().collect::<Vec<_>>(), [Coord::new(2, 3)]);
        assert_eq!(one.mesh.dead_links.len(), 1);
        assert!(tray.replica(1, 1).unwrap().mesh.is_whole(), "the dead parts lie elsewhere");
    }

    #[test]
    fn dead_links_between_packages_slow_the_chain_down() {
        let pod = Target::builtin("dojo-exapod").unwrap();
        let busy = |t: &Target| t.replica(40, 3).unwrap().all_reduce_time(40, 3, 1 << 30).busy;
        let whole = busy(&pod);
        let one = pod.clone().with_dead_link("2,4:E").unwrap();
        assert!((busy(&one) / whole - 5.0 / 4.0).abs() < 0.01, "four of five links are left");
        let other = one.clone().with_dead_link("8,9:E").unwrap();
        assert_eq!(busy(&other), busy(&one), "another border that has lost one holds nothing up any more");
        let two = one.with_dead_link("3,5:W").unwrap();
        assert!((busy(&two) / whole - 5.0 / 3.0).abs() < 0.01, "three are left there");
        // The chain goes down the last column of packages only.
        assert_eq!(busy(&pod.clone().with_dead_link("4,1:S").unwrap()), whole);
        let down = pod.clone().with_dead_link("4,12:S").unwrap();
        assert!((busy(&down) / whole - 5.0 / 4.0).abs() < 0.01);
        let replica = down.replica(40, 3).unwrap();
        assert!(replica.mesh.is_whole(), "no link inside a package is dead");
        assert_eq!(Target::from_toml(&replica.to_toml()).unwrap(), replica);
        let cut = (0..5).fold(pod, |t, row| t.with_dead_link(&format!("{row},4:E")).unwrap());
        assert!(cut.replica(40, 3).unwrap_err().to_string().contains("from package 0,0 to package 0,1"));
    }

    #[test]
    fn combining_is_bound_by_the_borders_and_by_the_chain() {
        let one = Target::builtin("dojo-exapod").unwrap().replica(40, 3).unwrap();
        let large = one.all_reduce_time(40, 3, 1 << 30);
        // Five border links of 0.9 TB/s for 25 dies.
        let least = (1u64 << 30) as f64 / (0.9e12 / 5.0);
        assert!(large.busy >= least && large.busy < least * 1.05, "{large:?} against {least}");
        let small = one.all_reduce_time(40, 3, 4);
        let way = 82.0 * 700e-9;
        assert!(small.latency >= way && small.latency < way * 1.1, "{small:?} against {way}");
        assert_eq!(one.all_reduce_time(1, 1, 1 << 20), AllReduceTime::default());
    }
}
