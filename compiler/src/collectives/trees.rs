//! Packing spanning trees: as many as together load every connection evenly.
//!
//! All-reduce over K trees moves a K-th of the vector up and down each. The connection that most trees use is the bottleneck, so trees are taken out
//! and put back as minimum spanning trees under the load of the others until no connection has more than its share. Any connected mesh will do.

use girih_ir::target::{DieId, LinkId, Target};
use std::collections::{BTreeMap, VecDeque};

/// A rooted spanning tree over the dies of [`Forest::dies`], by position.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The root.
    pub root: usize,
    /// Parent of each die, and the link to it.
    pub parent: Vec<Option<(usize, LinkId)>>,
    /// Children of each die, and the links to them.
    pub children: Vec<Vec<(usize, LinkId)>>,
    /// Connections between the root and the die farthest from it.
    pub depth: usize,
}

/// Spanning trees over the same dies.
#[derive(Clone, Debug)]
pub struct Forest {
    /// The dies, in order.
    pub dies: Vec<DieId>,
    /// The trees.
    pub trees: Vec<Tree>,
    /// Trees that use the busiest connection.
    pub load: usize,
}

impl Forest {
    /// The greatest depth.
    pub fn depth(&self) -> usize {
        self.trees.iter().map(|t| t.depth).max().unwrap_or(0)
    }
}

/// A connection: two dies by position, and the links from the first to the second and back.
pub type Edge = (usize, usize, LinkId, LinkId);

/// The live connections between the dies that can work together.
pub fn edges(target: &Target) -> Vec<Edge> {
    let dies = target.mesh.usable_dies();
    let position: BTreeMap<DieId, usize> = dies.iter().enumerate().map(|(i, d)| (*d, i)).collect();
    let mut found: BTreeMap<(usize, usize), (LinkId, LinkId)> = BTreeMap::new();
    for (i, die) in dies.iter().enumerate() {
        for (link, to) in target.mesh.neighbors(*die) {
            let Some(j) = position.get(&to).copied().filter(|j| i < *j) else { continue };
            let (_, side) = target.mesh.link_start(link);
            if let Some(back) = target.mesh.link(to, side.opposite()) {
                found.entry((i, j)).or_insert((link, back));
            }
        }
    }
    found.into_iter().map(|((a, b), (there, back))| (a, b, there, back)).collect()
}

/// A deterministic sequence of numbers in [0, 1): which of equally loaded connections come first.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Edges of a minimum spanning tree, by position; the edges are taken in this order.
fn spanning(count: usize, edges: &[Edge], order: &[usize]) -> Vec<usize> {
    let mut leader: Vec<usize> = (0..count).collect();
    fn find(leader: &mut [usize], mut x: usize) -> usize {
        while leader[x] != x {
            leader[x] = leader[leader[x]];
            x = leader[x];
        }
        x
    }
    let mut tree = Vec::with_capacity(count.saturating_sub(1));
    for e in order {
        let (a, b) = (find(&mut leader, edges[*e].0), find(&mut leader, edges[*e].1));
        if a != b {
            leader[a] = b;
            tree.push(*e);
        }
    }
    tree
}

/// Distances from a die over these neighbors.
fn distances(adjacent: &[Vec<(usize, LinkId)>], from: usize) -> Vec<usize> {
    let mut distance = vec![usize::MAX; adjacent.len()];
    distance[from] = 0;
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        for (to, _) in &adjacent[at] {
            if distance[*to] == usize::MAX {
                distance[*to] = distance[at] + 1;
                queue.push_back(*to);
            }
        }
    }
    distance
}

/// Roots a tree where it is flattest.
fn rooted(count: usize, edges: &[Edge], tree: &[usize]) -> Tree {
    let mut adjacent: Vec<Vec<(usize, LinkId)>> = vec![Vec::new(); count];
    for e in tree {
        let (a, b, there, back) = edges[*e];
        adjacent[a].push((b, there));
        adjacent[b].push((a, back));
    }
    let far = |from: usize| distances(&adjacent, from).into_iter().enumerate().max_by_key(|(i, d)| (*d, usize::MAX - i)).unwrap_or((0, 0));
    // The middle of a longest path is a center.
    let one = far(0).0;
    let (other, length) = far(one);
    let (d1, d2) = (distances(&adjacent, one), distances(&adjacent, other));
    let root = (0..count).min_by_key(|v| (d1[*v].max(d2[*v]), *v)).unwrap_or(0);
    let mut parent = vec![None; count];
    let mut children = vec![Vec::new(); count];
    let distance = distances(&adjacent, root);
    for v in 0..count {
        for (to, link) in &adjacent[v] {
            if distance[*to] < distance[v] {
                parent[v] = Some((*to, *link));
            } else {
                children[v].push((*to, *link));
            }
        }
    }
    Tree { root, parent, children, depth: length.div_ceil(2) }
}

/// `count` trees, improved until their load cannot be less, and the trees of the busiest connection.
fn packed(dies: usize, edges: &[Edge], count: usize) -> (Vec<Vec<usize>>, usize) {
    let least = (count * dies.saturating_sub(1)).div_ceil(edges.len().max(1));
    let mut load = vec![0usize; edges.len()];
    let mut trees: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut noise = Noise(count as u64);
    let mut best = (Vec::new(), usize::MAX);
    for _ in 0..60 {
        for tree in &mut trees {
            tree.iter().for_each(|e| load[*e] -= 1);
            let mut order: Vec<(f64, usize)> = load.iter().enumerate().map(|(e, l)| (*l as f64 + 0.5 * noise.next(), e)).collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let order: Vec<usize> = order.into_iter().map(|(_, e)| e).collect();
            *tree = spanning(dies, edges, &order);
            tree.iter().for_each(|e| load[*e] += 1);
        }
        let most = load.iter().copied().max().unwrap_or(0);
        if most < best.1 {
            best = (trees.clone(), most);
        }
        if most <= least {
            break;
        }
    }
    best
}

/// Trees whose busiest connection carries the smallest part of the vector; of equally good packings the one with fewest trees.
pub fn pack(target: &Target) -> Forest {
    let (dies, edges) = (target.mesh.usable_dies(), edges(target));
    let mut best: Option<(Vec<Vec<usize>>, usize)> = None;
    for count in 1..=8 {
        let (trees, load) = packed(dies.len(), &edges, count);
        // load / count < best load / best count, in whole numbers.
        if best.as_ref().is_none_or(|(b, l)| load * b.len() < *l * count) {
            best = Some((trees, load));
        }
    }
    let (trees, load) = best.unwrap_or_default();
    Forest { trees: trees.iter().map(|t| rooted(dies.len(), &edges, t)).collect(), dies, load }
}

/// One tree, as flat as it can be: breadth first from a die in the middle.
pub fn single(target: &Target) -> Forest {
    let (dies, edges) = (target.mesh.usable_dies(), edges(target));
    let mut adjacent: Vec<Vec<(usize, LinkId)>> = vec![Vec::new(); dies.len()];
    for (a, b, there, back) in &edges {
        adjacent[*a].push((*b, *there));
        adjacent[*b].push((*a, *back));
    }
    let depth = |v: usize| distances(&adjacent, v).into_iter().max().unwrap_or(0);
    // Large meshes have their middle where the coordinates say.
    let candidates: Vec<usize> =
        if dies.len() <= 256 { (0..dies.len()).collect() } else { vec![dies.len() / 2 + target.mesh.shape.cols as usize / 2] };
    let root = candidates.into_iter().filter(|v| *v < dies.len()).min_by_key(|v| (depth(*v), *v)).unwrap_or(0);
    let distance = distances(&adjacent, root);
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.retain(|e| distance[edges[*e].0].abs_diff(distance[edges[*e].1]) == 1);
    order.sort_by_key(|e| distance[edges[*e].0].min(distance[edges[*e].1]));
    let tree = spanning(dies.len(), &edges, &order);
    Forest { trees: vec![rooted(dies.len(), &edges, &tree)], dies, load: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::target::Coord;

    /// Every tree reaches every die once, along live links, and no connection is in more trees than said.
    fn check(target: &Target, forest: &Forest) {
        let mut load: BTreeMap<LinkId, usize> = BTreeMap::new();
        for tree in &forest.trees {
            assert_eq!(tree.parent.iter().filter(|p| p.is_none()).count(), 1);
            for v in 0..forest.dies.len() {
                let (mut at, mut steps) = (v, 0);
                while let Some((to, link)) = tree.parent[at] {
                    assert_eq!(target.mesh.link_ends(link), Some((forest.dies[at], forest.dies[to])));
                    assert!(target.mesh.link_alive(link));
                    (at, steps) = (to, steps + 1);
                }
                assert!(at == tree.root && steps <= tree.depth);
                if let Some((_, link)) = tree.parent[v] {
                    *load.entry(link).or_default() += 1;
                }
                for (c, link) in &tree.children[v] {
                    assert_eq!(tree.parent[*c].map(|p| p.0), Some(v));
                    *load.entry(*link).or_default() += 1;
                }
            }
        }
        assert!(load.values().all(|l| *l <= forest.load));
    }

    #[test]
    fn a_whole_tile_is_packed_perfectly() {
        let tile = Target::builtin("dojo-tile").unwrap();
        let forest = pack(&tile);
        check(&tile, &forest);
        assert_eq!((forest.trees.len(), forest.load), (5, 3), "24 / 40 of the vector, the least that there can be");
        let one = single(&tile);
        check(&tile, &one);
        assert_eq!(one.depth(), 4);
    }

    #[test]
    fn holes_cost_a_few_percent() {
        for dead in [vec![Coord::new(2, 2)], vec![Coord::new(0, 0)], vec![Coord::new(1, 3)], vec![Coord::new(2, 2), Coord::new(4, 1)]] {
            let target = Target::builtin("dojo-tile").unwrap().with_dead(dead.iter().copied()).unwrap();
            let forest = pack(&target);
            check(&target, &forest);
            let bound = (forest.dies.len() - 1) as f64 / edges(&target).len() as f64;
            let got = forest.load as f64 / forest.trees.len() as f64;
            assert!(got < 1.12 * bound, "{dead:?}: {got} against {bound}");
            check(&target, &single(&target));
        }
    }
}
