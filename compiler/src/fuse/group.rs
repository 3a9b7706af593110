//! Grouping: which nodes become one program.
//!
//! Nodes are visited operands first; each joins the groups that feed it when the iteration spaces agree, everything lies aligned, the program
//! stays small, and no path leads out of the group and back in. A topological order of the groups is kept up to date, so that the search for
//! such a path only looks at groups between the two.

use super::flat::{Flat, Kind, Source};
use super::{MAX_INSTRUCTIONS, MAX_OPERANDS, MAX_RESULTS};
use girih_ir::types::Dims;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

/// Nodes that run together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Nodes, operands first.
    pub members: Vec<u32>,
    /// Iteration space.
    pub shape: Dims,
    /// How many trailing loops are columns.
    pub cols: usize,
}

/// The partition of all nodes that are no views.
#[derive(Debug)]
pub(super) struct Groups {
    /// Groups; those that were joined into another are empty.
    pub groups: Vec<Group>,
    /// Non-empty groups, producers first.
    pub order: Vec<u32>,
    /// The group of each node; `u32::MAX` for views.
    pub of: Vec<u32>,
    /// Whether a node's value is one a row.
    pub per_row: Vec<bool>,
}

/// A total order in which few can be moved without touching those between: labels with room between them.
#[derive(Default)]
struct Order {
    label: Vec<u64>,
    at: BTreeMap<u64, u32>,
}

/// The room between two labels at first.
const ROOM: u64 = 1 << 32;

impl Order {
    /// Puts the next group behind all others.
    fn push(&mut self, group: u32) {
        let label = self.at.last_key_value().map_or(0, |(l, _)| *l) + ROOM;
        self.label.push(label);
        self.at.insert(label, group);
    }

    fn of(&self, group: u32) -> u64 {
        self.label[group as usize]
    }

    /// Moves groups right before another one, in the order in which they are.
    fn put_before(&mut self, next: u32, mut groups: Vec<u32>) {
        groups.sort_unstable_by_key(|g| self.of(*g));
        groups.iter().for_each(|g| {
            self.at.remove(&self.label[*g as usize]);
        });
        let mut room = self.room_before(next);
        if room.1 <= groups.len() as u64 {
            let spread: BTreeMap<u64, u32> = self.at.values().zip(1..).map(|(g, i)| (i * ROOM, *g)).collect();
            spread.iter().for_each(|(l, g)| self.label[*g as usize] = *l);
            self.at = spread;
            room = self.room_before(next);
        }
        let step = room.1 / (groups.len() as u64 + 1);
        for (g, i) in groups.into_iter().zip(1..) {
            let label = room.0 + i * step;
            self.label[g as usize] = label;
            self.at.insert(label, g);
        }
    }

    /// The label before that of a group, and the distance between the two.
    fn room_before(&self, group: u32) -> (u64, u64) {
        let label = self.of(group);
        let before = self.at.range(..label).next_back().map_or(0, |(l, _)| *l);
        (before, label - before)
    }
}

struct State<'f> {
    flat: &'f Flat,
    all: Groups,
    order: Order,
    mark: Vec<u32>,
    stamp: u32,
}

/// Groups the nodes.
pub(super) fn groups(flat: &Flat) -> Groups {
    let n = flat.nodes.len();
    let all = Groups { groups: Vec::new(), order: Vec::new(), of: vec![u32::MAX; n], per_row: vec![false; n] };
    let mut state = State { flat, all, order: Order::default(), mark: Vec::new(), stamp: 0 };
    for i in 0..n as u32 {
        let node = &flat.nodes[i as usize];
        if node.kind != Kind::View {
            state.visit(i);
        }
    }
    let State { mut all, order, .. } = state;
    all.order = order.at.into_values().collect();
    all
}

impl State<'_> {
    fn visit(&mut self, i: u32) {
        let node = &self.flat.nodes[i as usize];
        let (shape, cols) = match node.kind {
            Kind::RowReduce(cols) => (self.flat.nodes[node.operands[0] as usize].tensor().shape.clone(), cols),
            _ => (node.tensor().shape.clone(), 0),
        };
        self.all.per_row[i as usize] = cols > 0;
        let id = self.all.groups.len() as u32;
        self.all.groups.push(Group { members: vec![i], shape, cols });
        self.all.of[i as usize] = id;
        self.order.push(id);
        self.mark.push(0);
        if node.kind == Kind::Other {
            return;
        }
        let mut feeding: Vec<u32> = self.flat.needs[i as usize]
            .iter()
            .filter(|b| matches!(self.flat.nodes[**b as usize].kind, Kind::Elementwise | Kind::RowReduce(_)))
            .map(|b| self.all.of[*b as usize])
            .collect();
        feeding.sort_unstable_by_key(|g| std::cmp::Reverse(self.order.of(*g)));
        feeding.dedup();
        for g in feeding {
            let own = self.all.of[i as usize];
            if g != own && !self.all.groups[g as usize].members.is_empty() {
                self.try_join(g, own, i);
            }
        }
    }

    /// Joins group `b`, which holds the node just visited, into group `a`, when that is allowed.
    fn try_join(&mut self, a: u32, b: u32, newest: u32) {
        let (ga, gb) = (&self.all.groups[a as usize], &self.all.groups[b as usize]);
        let inside = |g: &Group| self.flat.nodes[g.members[0] as usize].inside;
        if inside(ga) != inside(gb) {
            return;
        }
        let rows = ga.shape.len() - ga.cols;
        let as_row = ga.shape != gb.shape;
        if as_row {
            // One value a row: only from what is one value a row itself, so that its result has that shape.
            let fits = ga.cols > 0 && gb.cols == 0 && gb.members.len() == 1 && gb.shape[..] == ga.shape[..rows];
            let uniform = |s: &Source| match s {
                Source::Number(..) => true,
                Source::Index(..) => false,
                Source::Node(n, _) => self.all.of[*n as usize] == a && self.all.per_row[*n as usize],
            };
            if !fits || !self.flat.sources[newest as usize].iter().all(uniform) {
                return;
            }
        } else if ga.cols > 0 && gb.cols > 0 && ga.cols != gb.cols {
            return;
        }
        let cols = ga.cols.max(gb.cols);
        let mut members: Vec<u32> = ga.members.iter().chain(&gb.members).copied().collect();
        members.sort_unstable();
        if as_row {
            self.all.per_row[newest as usize] = true;
        }
        let allowed = self.is_small(&members, a, b) && self.is_aligned(&members, a, b);
        let above = if allowed { self.ancestors(a, b) } else { None };
        match above {
            Some(above) => {
                let shape = self.all.groups[a as usize].shape.clone();
                gb_members_to(&mut self.all, b, a);
                self.all.groups[a as usize] = Group { members, shape, cols };
                self.all.groups[b as usize].members.clear();
                self.reorder(a, b, above);
            }
            None if as_row => self.all.per_row[newest as usize] = false,
            None => {}
        }
    }

    fn inside(&self, node: u32, a: u32, b: u32) -> bool {
        let g = self.all.of[node as usize];
        g == a || g == b
    }

    /// Whether the program of these nodes stays within the limits.
    fn is_small(&self, members: &[u32], a: u32, b: u32) -> bool {
        let mut operands: FxHashSet<&Source> = FxHashSet::default();
        let mut leaves: FxHashSet<&Source> = FxHashSet::default();
        for s in members.iter().flat_map(|m| &self.flat.sources[*m as usize]) {
            match s {
                Source::Node(n, _) if self.inside(*n, a, b) => {}
                Source::Node(..) => {
                    operands.insert(s);
                }
                _ => {
                    leaves.insert(s);
                }
            }
        }
        let seen_outside =
            |m: &&u32| self.flat.pinned[**m as usize] || self.flat.users[**m as usize].iter().any(|u| !self.inside(*u, a, b));
        members.len() + operands.len() + leaves.len() <= MAX_INSTRUCTIONS
            && operands.len() <= MAX_OPERANDS
            && members.iter().filter(seen_outside).count() <= MAX_RESULTS
    }

    /// Whether every value that these nodes pass to each other is read at its own index.
    fn is_aligned(&self, members: &[u32], a: u32, b: u32) -> bool {
        members.iter().all(|m| {
            self.flat.sources[*m as usize].iter().all(|s| match s {
                Source::Node(n, dims) if self.inside(*n, a, b) => {
                    let reader_per_row = self.all.per_row[*m as usize] && self.flat.nodes[*m as usize].kind == Kind::Elementwise;
                    let straight = dims.iter().enumerate().all(|(i, d)| *d == Some(i));
                    straight && (!reader_per_row || self.all.per_row[*n as usize]) && self.fills(*n, *m)
                }
                _ => true,
            })
        })
    }

    /// Whether a value that is not one a row has the full shape that its reader reads.
    fn fills(&self, n: u32, reader: u32) -> bool {
        let read = &self.flat.nodes[reader as usize];
        let shape = match read.kind {
            Kind::RowReduce(_) => &self.flat.nodes[read.operands[0] as usize].tensor().shape,
            _ => &read.tensor().shape,
        };
        self.all.per_row[n as usize] || self.flat.nodes[n as usize].tensor().shape == *shape
    }

    /// The groups that the union of two groups needs, as far as they come after the first of the two; `None` when one of them needs the
    /// union itself.
    fn ancestors(&mut self, a: u32, b: u32) -> Option<Vec<u32>> {
        self.stamp += 1;
        let floor = self.order.of(a).min(self.order.of(b));
        let mut above = Vec::new();
        let needs = |s: &Self, g: u32, todo: &mut Vec<u32>| {
            for m in &s.all.groups[g as usize].members {
                todo.extend(s.flat.needs[*m as usize].iter().map(|n| s.all.of[*n as usize]));
            }
        };
        let mut todo = Vec::new();
        needs(self, a, &mut todo);
        needs(self, b, &mut todo);
        todo.retain(|g| *g != a && *g != b);
        while let Some(g) = todo.pop() {
            if g == a || g == b {
                return None;
            }
            if self.order.of(g) < floor || self.mark[g as usize] == self.stamp {
                continue;
            }
            self.mark[g as usize] = self.stamp;
            above.push(g);
            needs(self, g, &mut todo);
        }
        Some(above)
    }

    /// Gives the joined group `a` the earlier of the two places, and puts everything that it needs right before it.
    fn reorder(&mut self, a: u32, b: u32, above: Vec<u32>) {
        let (la, lb) = (self.order.of(a), self.order.of(b));
        self.order.at.remove(&la.max(lb));
        self.order.at.insert(la.min(lb), a);
        self.order.label[a as usize] = la.min(lb);
        self.order.put_before(a, above);
    }
}

fn gb_members_to(all: &mut Groups, from: u32, to: u32) {
    for m in &all.groups[from as usize].members {
        all.of[*m as usize] = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_move_as_in_a_list() {
        let (mut order, mut list) = (Order::default(), Vec::new());
        for g in 0..40u32 {
            order.push(g);
            list.push(g);
        }
        let mut seed = 5u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for round in 0..2000 {
            // Always before the same group, the room there is used up again and again.
            let before = if round % 3 == 0 { next(40) as u32 } else { 20 };
            let moved: Vec<u32> = list.iter().copied().filter(|g| *g != before && next(8) == 0).collect();
            list.retain(|g| !moved.contains(g));
            let at = list.iter().position(|g| *g == before).expect("it stays");
            list.splice(at..at, moved.iter().copied());
            order.put_before(before, moved);
            assert!(order.at.values().eq(&list), "round {round}");
            assert!(order.at.iter().all(|(label, g)| order.of(*g) == *label));
        }
    }
}
