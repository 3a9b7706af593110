//! Collectives as instruction streams, and what has to hold of the routes that carry them.
//!
//! On a line of dies that forward word by word, reductions run as chains, in one phase or in two ([`mod@line`]); closed forms say which is
//! better, and the simulator has the last word.

pub mod bare;
pub mod line;

use girih_ir::target::LinkId;
use std::collections::BTreeMap;

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
    use girih_ir::target::{Coord, Target};

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
