//! Static routes that cannot deadlock.
//!
//! A message holds one link while it waits for the next, so the routes of all channels together must never wait in a circle
//! (Dally and Seitz, 1987). Two schemes guarantee that whatever set of routes a program uses:
//!
//! - On a whole mesh, dimension order: along the row, then along the column. On a torus the wrapping links serve only
//!   neighbors, as routes of one link; a longer route over them would close a ring.
//! - If any die or link is dead, *all* routes are up\*/down\* (Autonet, 1991): links that lead to an earlier die of a
//!   breadth-first order are "up", and no route goes up after it has gone down. Mixing the two schemes would not be safe.

use super::Target;
use super::geometry::{Coord, DieId, Direction, LinkId, Mesh};
use std::collections::VecDeque;

/// Finds routes on one mesh; made once for many questions.
#[derive(Clone, Debug)]
pub struct Router<'t> {
    mesh: &'t Mesh,
    /// Where each die comes in the breadth-first order, if anything is dead.
    rank: Option<Vec<u32>>,
}

impl Target {
    /// A router over this target's mesh.
    pub fn router(&self) -> Router<'_> {
        Router::new(&self.mesh)
    }

    /// The links from `src` to `dst` in order: none if they are the same die, `None` if there is no way. For many routes
    /// use a [`router`](Self::router).
    pub fn route(&self, src: DieId, dst: DieId) -> Option<Vec<LinkId>> {
        self.router().route(src, dst)
    }
}

impl<'t> Router<'t> {
    /// A router over this mesh.
    pub fn new(mesh: &'t Mesh) -> Self {
        let rank = (!mesh.is_whole()).then(|| breadth_first_ranks(mesh));
        Router { mesh, rank }
    }

    /// The links from `src` to `dst` in order: none if they are the same die, `None` if there is no way.
    pub fn route(&self, src: DieId, dst: DieId) -> Option<Vec<LinkId>> {
        if !self.mesh.is_alive(src) || !self.mesh.is_alive(dst) {
            return None;
        }
        match &self.rank {
            _ if src == dst => Some(Vec::new()),
            None => self.dimension_order(src, dst),
            Some(rank) => self.up_down(rank, src, dst),
        }
    }

    /// The dies that a route passes, both ends included.
    pub fn dies_on(&self, src: DieId, route: &[LinkId]) -> Vec<DieId> {
        let ends = route.iter().filter_map(|link| self.mesh.link_ends(*link).map(|(_, to)| to));
        std::iter::once(src).chain(ends).collect()
    }

    fn dimension_order(&self, src: DieId, dst: DieId) -> Option<Vec<LinkId>> {
        if let Some((link, _)) = self.mesh.neighbors(src).find(|(_, to)| *to == dst) {
            return Some(vec![link]);
        }
        let (from, to) = (self.mesh.coord(src), self.mesh.coord(dst));
        let across = if to.col > from.col { Direction::East } else { Direction::West };
        let along = if to.row > from.row { Direction::South } else { Direction::North };
        let mut at = src;
        let mut route = Vec::with_capacity(hops(from, to));
        for (side, count) in [(across, from.col.abs_diff(to.col)), (along, from.row.abs_diff(to.row))] {
            for _ in 0..count {
                route.push(self.mesh.link(at, side)?);
                at = self.mesh.beside(at, side)?;
            }
        }
        Some(route)
    }

    /// The shortest legal route, by a search over (die, has gone down); of equally short ones the first in link order.
    fn up_down(&self, rank: &[u32], src: DieId, dst: DieId) -> Option<Vec<LinkId>> {
        let state = |die: DieId, down: bool| die.index() * 2 + usize::from(down);
        let mut came_by: Vec<Option<(LinkId, usize)>> = vec![None; self.mesh.sites() * 2];
        let start = state(src, false);
        let mut queue = VecDeque::from([(src, false)]);
        while let Some((at, down)) = queue.pop_front() {
            if at == dst {
                let mut route = Vec::new();
                let mut cursor = state(at, down);
                while cursor != start {
                    let (link, previous) = came_by[cursor]?;
                    route.push(link);
                    cursor = previous;
                }
                route.reverse();
                return Some(route);
            }
            for (link, to) in self.mesh.neighbors(at) {
                let goes_down = rank[to.index()] > rank[at.index()];
                let next = state(to, goes_down);
                // `came_by` of the start stays empty, hence the second test.
                if (goes_down || !down) && came_by[next].is_none() && next != start {
                    came_by[next] = Some((link, state(at, down)));
                    queue.push_back((to, goes_down));
                }
            }
        }
        None
    }
}

/// Links between two places on a whole mesh, without wrapping.
pub fn hops(a: Coord, b: Coord) -> usize {
    a.row.abs_diff(b.row) as usize + a.col.abs_diff(b.col) as usize
}

/// The place of each live die in a breadth-first order that starts, in each connected group, at the live die nearest to the
/// middle of the mesh: a central root keeps detours short.
fn breadth_first_ranks(mesh: &Mesh) -> Vec<u32> {
    let middle = Coord::new(mesh.shape.rows / 2, mesh.shape.cols / 2);
    let mut starts = mesh.live_dies();
    starts.sort_by_key(|die| (hops(mesh.coord(*die), middle), *die));
    let mut rank = vec![u32::MAX; mesh.sites()];
    let mut count = 0;
    let mut queue = VecDeque::new();
    for start in starts {
        if rank[start.index()] != u32::MAX {
            continue;
        }
        rank[start.index()] = count;
        count += 1;
        queue.push_back(start);
        while let Some(at) = queue.pop_front() {
            for (_, to) in mesh.neighbors(at) {
                if rank[to.index()] == u32::MAX {
                    rank[to.index()] = count;
                    count += 1;
                    queue.push_back(to);
                }
            }
        }
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;
    use petgraph::algo::toposort;
    use petgraph::graph::DiGraph;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn target(rows: u32, cols: u32, torus: bool) -> Target {
        let mut target = Target::builtin("dojo-tile").unwrap().with_mesh(rows, cols).unwrap();
        target.mesh.torus = torus;
        target
    }

    fn show(target: &Target, src: &str, dst: &str) -> String {
        let die = |t: &str| target.mesh.die_at(t.parse().unwrap()).unwrap();
        match target.route(die(src), die(dst)) {
            None => "none".into(),
            Some(route) => route.iter().map(|l| target.mesh.link_name(*l).to_string()).collect::<Vec<_>>().join(" "),
        }
    }

    /// Checks every pair's route link by link, that exactly the connected pairs have one, and that all routes together are
    /// free of deadlock.
    fn check_all_routes(target: &Target) {
        let mesh = &target.mesh;
        let router = target.router();
        let mut dependencies = DiGraph::<(), ()>::new();
        let nodes: Vec<_> = (0..mesh.link_slots()).map(|_| dependencies.add_node(())).collect();
        let usable: BTreeSet<DieId> = mesh.usable_dies().into_iter().collect();
        for src in (0..mesh.sites()).map(DieId::new) {
            for dst in (0..mesh.sites()).map(DieId::new) {
                let Some(route) = router.route(src, dst) else {
                    assert!(!usable.contains(&src) || !usable.contains(&dst), "no route {src} to {dst}");
                    continue;
                };
                assert_eq!(usable.contains(&src), usable.contains(&dst));
                let mut at = src;
                for link in &route {
                    assert!(mesh.link_alive(*link));
                    let (from, to) = mesh.link_ends(*link).unwrap();
                    assert_eq!(from, at);
                    at = to;
                }
                assert_eq!(at, dst);
                let passed = router.dies_on(src, &route);
                assert_eq!(passed.iter().collect::<BTreeSet<_>>().len(), route.len() + 1, "a route passes no die twice");
                for pair in route.windows(2) {
                    dependencies.update_edge(nodes[pair[0].index()], nodes[pair[1].index()], ());
                }
            }
        }
        assert!(toposort(&dependencies, None).is_ok(), "the channel dependency graph has a cycle");
    }

    #[test]
    fn whole_meshes_route_row_first() {
        let t = target(5, 5, false);
        assert_eq!(show(&t, "0,0", "1,2"), "(0,0):E (0,1):E (0,2):S");
        assert_eq!(show(&t, "3,2", "2,2"), "(3,2):N");
        assert_eq!(show(&t, "2,2", "2,2"), "");
        check_all_routes(&t);
        check_all_routes(&target(1, 7, false));
    }

    #[test]
    fn a_torus_wraps_only_to_the_neighbor() {
        let t = target(4, 4, true);
        assert_eq!(show(&t, "0,0", "0,3"), "(0,0):W");
        assert_eq!(show(&t, "0,0", "1,3"), "(0,0):E (0,1):E (0,2):E (0,3):S");
        check_all_routes(&t);
    }

    #[test]
    fn holes_are_routed_around() {
        let t = target(3, 3, false).with_dead([Coord::new(1, 1)]).unwrap().with_dead_link("0,0:E").unwrap();
        assert_eq!(show(&t, "1,1", "0,0"), "none");
        assert_eq!(show(&t, "0,0", "0,1"), "(0,0):S (1,0):S (2,0):E (2,1):E (2,2):N (1,2):N (0,2):W");
        check_all_routes(&t);
        check_all_routes(&Target::builtin("dojo-tile").unwrap().with_dead([Coord::new(2, 2)]).unwrap());
    }

    proptest! {
        #[test]
        fn any_damage_leaves_deadlock_free_routes(
            (rows, cols) in (1u32..7, 1u32..7),
            torus: bool,
            dies in prop::collection::vec((0u32..7, 0u32..7), 0..8),
            links in prop::collection::vec((0u32..7, 0u32..7, 0usize..4), 0..8),
        ) {
            let mut t = target(rows, cols, torus);
            for (row, col) in dies {
                if row < rows && col < cols {
                    t.mesh.dead_dies.insert(Coord::new(row, col));
                }
            }
            for (row, col, side) in links {
                let Some(die) = t.mesh.die_at(Coord::new(row, col)) else { continue };
                if let Some(link) = t.mesh.link(die, Direction::ALL[side]) {
                    let name = t.mesh.link_name(link);
                    t.mesh.dead_links.insert(name);
                }
            }
            // A mesh in several pieces has routes inside each of them; the check below speaks of the largest.
            let usable: BTreeSet<DieId> = t.mesh.usable_dies().into_iter().collect();
            for die in t.mesh.live_dies() {
                if !usable.contains(&die) {
                    let at = t.mesh.coord(die);
                    t.mesh.dead_dies.insert(at);
                }
            }
            check_all_routes(&t);
        }
    }
}
