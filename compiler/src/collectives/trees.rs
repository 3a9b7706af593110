//! Packing spanning trees: as many as together load every connection evenly.
//!
//! All-reduce over K trees moves a K-th of the vector up and down each. The connection that most trees use is the bottleneck, so trees are taken out
//! and put back as minimum spanning trees under the load of the others, and then chains of exchanges take what is too much off a connection (the
//! augmenting paths of a matroid union). Any connected mesh will do.

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

/// Trees over edges, by position, and how many of them use each edge.
#[derive(Clone, Debug, Default)]
struct Packing {
    trees: Vec<Vec<usize>>,
    load: Vec<usize>,
}

impl Packing {
    fn most(&self) -> usize {
        self.load.iter().copied().max().unwrap_or(0)
    }

    /// The side of each die when an edge is taken out of a tree.
    fn sides(&self, dies: usize, edges: &[Edge], tree: usize, without: usize) -> Vec<bool> {
        let mut adjacent = vec![Vec::new(); dies];
        for e in self.trees[tree].iter().filter(|e| **e != without) {
            adjacent[edges[*e].0].push(edges[*e].1);
            adjacent[edges[*e].1].push(edges[*e].0);
        }
        let mut side = vec![false; dies];
        let mut open = vec![edges[without].0];
        side[edges[without].0] = true;
        while let Some(at) = open.pop() {
            for to in &adjacent[at] {
                if !std::mem::replace(&mut side[*to], true) {
                    open.push(*to);
                }
            }
        }
        side
    }

    /// Takes one tree off an edge that more than `cap` use, by the shortest chain of exchanges that ends at an edge with room. `false` when there
    /// is none, and then no packing within `cap` exists.
    fn relieve(&mut self, dies: usize, edges: &[Edge], from: usize, cap: usize) -> bool {
        // How each edge was reached: from which edge, in which tree.
        let mut reached: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(x) = queue.pop_front() {
            for tree in (0..self.trees.len()).filter(|t| self.trees[*t].contains(&x)) {
                let side = self.sides(dies, edges, tree, x);
                for f in 0..edges.len() {
                    let crosses = side[edges[f].0] != side[edges[f].1];
                    if f == x || f == from || !crosses || reached.contains_key(&f) || self.trees[tree].contains(&f) {
                        continue;
                    }
                    reached.insert(f, (x, tree));
                    if self.load[f] < cap {
                        return self.exchange(dies, edges, &reached, from, f);
                    }
                    queue.push_back(f);
                }
            }
        }
        false
    }

    /// Carries the exchanges of a chain out, last one first; undoes them all if one no longer fits.
    fn exchange(&mut self, dies: usize, edges: &[Edge], reached: &BTreeMap<usize, (usize, usize)>, from: usize, last: usize) -> bool {
        let before = self.clone();
        let mut to = last;
        while to != from {
            let Some((x, tree)) = reached.get(&to).copied() else { break };
            let side = self.sides(dies, edges, tree, x);
            if !self.trees[tree].contains(&x) || side[edges[to].0] == side[edges[to].1] {
                *self = before;
                return false;
            }
            self.trees[tree].retain(|e| *e != x);
            self.trees[tree].push(to);
            self.load[x] -= 1;
            self.load[to] += 1;
            to = x;
        }
        true
    }
}

/// `count` trees whose most used edge is used as little as can be.
fn packed(dies: usize, edges: &[Edge], count: usize, seed: u64) -> Packing {
    let least = (count * dies.saturating_sub(1)).div_ceil(edges.len().max(1));
    let mut packing = Packing { trees: vec![Vec::new(); count], load: vec![0; edges.len()] };
    let mut noise = Noise(seed);
    // A few rounds of taking a tree out and putting it back as a minimum spanning tree under the load of the others.
    for _ in 0..4 {
        for t in 0..count {
            let old = std::mem::take(&mut packing.trees[t]);
            old.iter().for_each(|e| packing.load[*e] -= 1);
            let mut order: Vec<(f64, usize)> = packing.load.iter().enumerate().map(|(e, l)| (*l as f64 + 0.5 * noise.next(), e)).collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let order: Vec<usize> = order.into_iter().map(|(_, e)| e).collect();
            packing.trees[t] = spanning(dies, edges, &order);
            packing.trees[t].iter().for_each(|e| packing.load[*e] += 1);
        }
    }
    // Then chains of exchanges, where the mesh is small enough for them.
    if edges.len() <= 1024 {
        for cap in least..packing.most() {
            let mut stuck = false;
            while let Some(over) = packing.load.iter().position(|l| *l > cap).filter(|_| !stuck) {
                stuck = !packing.relieve(dies, edges, over, cap);
            }
            if !stuck {
                break;
            }
        }
    }
    packing
}

/// Trees whose busiest connection carries the smallest part of the vector; of equally good packings one with few and flat trees.
pub fn pack(target: &Target) -> Forest {
    let flat = |f: &Forest| (f.depth(), f.trees.iter().map(|t| t.depth).sum::<usize>());
    let all = packings(target, 8);
    all.into_iter().min_by_key(flat).unwrap_or_else(|| single(target))
}

/// Up to so many packings whose busiest connection carries the smallest part of the vector.
pub fn packings(target: &Target, most: usize) -> Vec<Forest> {
    let (dies, edges) = (target.mesh.usable_dies(), edges(target));
    let mut best = Packing::default();
    for count in 1..=8 {
        let packing = packed(dies.len(), &edges, count, count as u64);
        // most / count < best most / best count, in whole numbers.
        if best.trees.is_empty() || packing.most() * best.trees.len() < best.most() * count {
            best = packing;
        }
    }
    let seeds = if edges.len() <= 128 { most.saturating_sub(1) as u64 } else { 0 };
    let others = (1..=seeds).map(|s| packed(dies.len(), &edges, best.trees.len(), 1000 + s)).filter(|p| p.most() <= best.most());
    let forest = |p: &Packing| {
        let trees: Vec<Tree> = p.trees.iter().map(|t| rooted(dies.len(), &edges, t)).collect();
        Forest { dies: dies.clone(), trees, load: p.most() }
    };
    let mut all = vec![forest(&best)];
    all.extend(others.map(|p| forest(&p)));
    all
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
            let bound = crate::collectives::least_load(&target);
            let got = forest.load as f64 / forest.trees.len() as f64;
            assert!(got >= bound && got < 1.05 * bound, "{dead:?}: {got} against {bound}");
            check(&target, &single(&target));
        }
    }
}
