//! Collectives over all dies of a mesh: closed forms that choose an algorithm, and the instruction streams of trees and chains.
//!
//! An all-reduce of N bytes over P dies and E connections of B bytes a second and direction takes at least `(P − 1) / E · N / B`, and more where a
//! dead die leaves others with few connections ([`least_load`]). Packed and
//! pipelined spanning trees ([`trees`], [`exchange`]) come within a few percent of it on any connected mesh, dead dies or not; small
//! vectors are better off on one tree. Where only the sum's parts are needed, or parts are gathered, the dual-order [`mod@bucket`] is as fast as can be. On a line of dies that forward word by word, reductions run as chains, in one phase or in two
//! ([`mod@line`]). [`choose`] picks by the closed forms; the simulator has the last word.

pub mod bare;
pub mod bucket;
pub mod exchange;
pub mod line;
pub mod trees;

use girih_ir::target::{LinkId, Target};
use std::collections::BTreeMap;
use trees::Forest;

/// How an all-reduce is carried out.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// Chunks go up and down several spanning trees at once.
    Trees(Forest),
    /// The vector goes up and down one tree whole.
    OneTree(Forest),
    /// Reduce-scatter and all-gather along rows and columns, one half rows first, the other columns first ([`mod@bucket`]). On whole meshes only.
    Bucket,
}

/// The part of a vector that the busiest connection carries in an all-reduce, at least: of any dies that are told apart from each other and from
/// the rest, each but one has to be reached over the connections between them. All dies are tried, and every up to three that hang together.
pub fn least_load(target: &Target) -> f64 {
    let (dies, edges) = (target.mesh.usable_dies(), trees::edges(target));
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); dies.len()];
    for (e, edge) in edges.iter().enumerate() {
        touching[edge.0].push(e);
        touching[edge.1].push(e);
    }
    let beside = |v: usize| touching[v].iter().map(|e| edges[*e].0 + edges[*e].1 - v).collect::<Vec<usize>>();
    let share = |set: &[usize]| {
        let mut all: Vec<usize> = set.iter().flat_map(|v| touching[*v].iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        if set.len() < dies.len() { set.len() as f64 / all.len().max(1) as f64 } else { 0.0 }
    };
    let mut most = dies.len().saturating_sub(1) as f64 / edges.len().max(1) as f64;
    for v in 0..dies.len() {
        most = most.max(share(&[v]));
        for w in beside(v) {
            most = most.max(share(&[v, w]));
            for x in beside(w).into_iter().chain(beside(v)).filter(|x| *x != v && *x != w) {
                most = most.max(share(&[v, w, x]));
            }
        }
    }
    most
}

/// Seconds that no all-reduce of so many bytes can beat.
pub fn lower_bound(target: &Target, bytes: f64) -> f64 {
    least_load(target) * bytes / target.link_bandwidth()
}

/// Seconds of one hop of a message without its bytes: set-up, the link, and the stream's part at both ends.
fn hop(target: &Target) -> f64 {
    target.message_overhead() + target.hop_latency() + 2.0 * target.issue_overhead()
}

/// The closed form of packed trees with chunks of so many bytes.
pub fn trees_seconds(target: &Target, forest: &Forest, bytes: f64, chunk: f64) -> f64 {
    let rate = target.link_bandwidth();
    let load = forest.load as f64 / forest.trees.len().max(1) as f64;
    load * bytes / rate + 2.0 * forest.depth() as f64 * (hop(target) + chunk / rate)
}

/// The closed form of the dual-order bucket; nothing when a die or link is dead or the mesh is a line.
pub fn bucket_seconds(target: &Target, bytes: f64) -> Option<f64> {
    let (rows, cols) = (f64::from(target.mesh.shape.rows), f64::from(target.mesh.shape.cols));
    if !target.mesh.is_whole() || rows < 2.0 || cols < 2.0 {
        return None;
    }
    // The connections along a dimension carry one half first, and what the other one has left of the other half.
    let along = |a: f64, b: f64| 0.5 * (a - 1.0) / a * (1.0 + 1.0 / b);
    let moved = along(cols, rows).max(along(rows, cols));
    Some(2.0 * (moved * bytes / target.link_bandwidth() + (rows + cols - 2.0) * hop(target)))
}

/// The algorithm with the least time by the closed forms, and that time.
pub fn choose(target: &Target, bytes: f64) -> (Algorithm, f64) {
    let packed = trees::pack(target);
    let single = trees::single(target);
    let rate = target.link_bandwidth();
    let one = 2.0 * single.depth() as f64 * (hop(target) + bytes / rate);
    let chunk = exchange::chunk_bytes(target, &packed, bytes);
    let many = trees_seconds(target, &packed, bytes, chunk);
    let mut best = if one <= many { (Algorithm::OneTree(single), one) } else { (Algorithm::Trees(packed), many) };
    if let Some(bucket) = bucket_seconds(target, bytes).filter(|b| *b < best.1) {
        best = (Algorithm::Bucket, bucket);
    }
    best
}

/// A cycle in the channel dependencies of these routes: links where a message may hold one while it waits for the next, all around. Routes
/// without one cannot deadlock in the network (Dally and Seitz).
pub fn dependency_cycle<'r>(routes: impl IntoIterator<Item = &'r [LinkId]>) -> Option<Vec<LinkId>> {
    let mut next: BTreeMap<LinkId, Vec<LinkId>> = BTreeMap::new();
    for route in routes {
        for pair in route.windows(2) {
            let list = next.entry(pair[0]).or_default();
            if !list.contains(&pair[1]) {
                list.push(pair[1]);
            }
        }
    }
    let mut done: BTreeMap<LinkId, bool> = BTreeMap::new();
    for start in next.keys() {
        // Depth first with an explicit stack: link, and how many of its followers were visited.
        let mut path: Vec<(LinkId, usize)> = vec![(*start, 0)];
        if done.contains_key(start) {
            continue;
        }
        done.insert(*start, false);
        while let Some((at, visited)) = path.last_mut() {
            let follower = next.get(at).and_then(|l| l.get(*visited)).copied();
            *visited += 1;
            match follower {
                None => {
                    done.insert(*at, true);
                    path.pop();
                }
                Some(to) => match done.get(&to) {
                    Some(true) => {}
                    Some(false) => {
                        let from = path.iter().position(|(l, _)| *l == to).unwrap_or(0);
                        return Some(path[from..].iter().map(|(l, _)| *l).collect());
                    }
                    None => {
                        done.insert(to, false);
                        path.push((to, 0));
                    }
                },
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::target::Coord;

    #[test]
    fn large_vectors_take_many_trees_and_small_ones_one() {
        let tile = Target::builtin("dojo-tile").unwrap();
        let (large, seconds) = choose(&tile, 256e6);
        assert!(matches!(&large, Algorithm::Trees(f) if f.trees.len() > 1), "{large:?}");
        assert!(seconds >= lower_bound(&tile, 256e6));
        assert!(matches!(choose(&tile, 256.0).0, Algorithm::OneTree(_)));
        let holed = tile.with_dead([Coord::new(2, 2)]).unwrap();
        assert!(bucket_seconds(&holed, 1e6).is_none());
        assert!(matches!(choose(&holed, 256e6).0, Algorithm::Trees(_)));
    }

    #[test]
    fn cycles_are_found_and_routes_have_none() {
        let l = |n: u32| LinkId(n);
        assert_eq!(dependency_cycle([[l(0), l(1)].as_slice(), &[l(1), l(2)], &[l(2), l(0)]]), Some(vec![l(0), l(1), l(2)]));
        assert_eq!(dependency_cycle([[l(0), l(1), l(2)].as_slice(), &[l(0), l(2)]]), None);
        for target in [
            Target::builtin("dojo-tile").unwrap(),
            Target::builtin("dojo-tile").unwrap().with_dead([Coord::new(2, 2), Coord::new(4, 1)]).unwrap(),
            Target::builtin("dojo-d1").unwrap().with_mesh(9, 10).unwrap(),
        ] {
            let (router, dies) = (target.router(), target.mesh.usable_dies());
            let routes: Vec<Vec<LinkId>> = dies.iter().flat_map(|a| dies.iter().filter_map(|b| router.route(*a, *b))).collect();
            assert_eq!(routes.len(), dies.len() * dies.len());
            assert_eq!(dependency_cycle(routes.iter().map(Vec::as_slice)), None);
        }
    }
}
