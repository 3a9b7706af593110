//! The local search of extraction: flips of one class, or of a class and one new operand, with exact cost differences.
//!
//! Reference counts say which classes the program needs. A flip acquires the new operands and releases the old ones; what that adds
//! and frees is the difference. A flip must not make a cycle: from the new operands, only classes above the flipped one in the
//! topological order can lead back to it.

use super::extract::{Choice, Problem};

/// A choice with its reference counts.
struct State<'p> {
    problem: &'p Problem,
    choice: Choice,
    uses: Vec<u32>,
    mark: Vec<u32>,
    stamp: u32,
}

/// Improves a choice until no single flip helps, or `passes` passes are done.
pub(super) fn improve(problem: &Problem, choice: Choice, passes: usize) -> Choice {
    let n = problem.ids.len();
    let mut state = State { problem, choice, uses: vec![0; n], mark: vec![0; n], stamp: 0 };
    problem.roots.iter().for_each(|r| {
        state.acquire(*r);
    });
    for _ in 0..passes {
        let mut gained = false;
        let classes: Vec<u32> = state.choice.order.iter().rev().copied().collect();
        for c in classes {
            if state.uses[c as usize] == 0 || problem.candidates[c as usize].len() < 2 {
                continue;
            }
            for node in 0..problem.candidates[c as usize].len() as u32 {
                gained |= node != state.choice.node[c as usize] && state.try_flip(c, node);
            }
        }
        if !gained {
            break;
        }
    }
    state.choice
}

impl State<'_> {
    /// Adds one user of a class; returns the cost of what becomes needed.
    fn acquire(&mut self, class: u32) -> u64 {
        let mut added = 0u64;
        let mut todo = vec![class];
        while let Some(c) = todo.pop() {
            self.uses[c as usize] += 1;
            if self.uses[c as usize] == 1 {
                let node = &self.problem.candidates[c as usize][self.choice.node[c as usize] as usize];
                added = added.saturating_add(node.cost);
                todo.extend(&node.kids);
            }
        }
        added
    }

    /// Removes one user of a class; returns the cost of what is no longer needed.
    fn release(&mut self, class: u32) -> u64 {
        let mut freed = 0u64;
        let mut todo = vec![class];
        while let Some(c) = todo.pop() {
            self.uses[c as usize] -= 1;
            if self.uses[c as usize] == 0 {
                let node = &self.problem.candidates[c as usize][self.choice.node[c as usize] as usize];
                freed = freed.saturating_add(node.cost);
                todo.extend(&node.kids);
            }
        }
        freed
    }

    fn acquire_all(&mut self, kids: &[u32]) -> u64 {
        kids.iter().fold(0, |sum: u64, k| sum.saturating_add(self.acquire(*k)))
    }
    fn release_all(&mut self, kids: &[u32]) -> u64 {
        kids.iter().fold(0, |sum: u64, k| sum.saturating_add(self.release(*k)))
    }

    /// The classes above `class` in the order that the operands of a candidate need; `None` when one of them needs `class` itself.
    fn needed_above(&mut self, class: u32, kids: &[u32]) -> Option<Vec<u32>> {
        self.stamp += 1;
        let floor = self.choice.rank[class as usize];
        let mut above = Vec::new();
        let mut todo: Vec<u32> = kids.to_vec();
        while let Some(k) = todo.pop() {
            if k == class {
                return None;
            }
            if self.choice.rank[k as usize] < floor || self.mark[k as usize] == self.stamp {
                continue;
            }
            self.mark[k as usize] = self.stamp;
            above.push(k);
            todo.extend(&self.problem.candidates[k as usize][self.choice.node[k as usize] as usize].kids);
        }
        Some(above)
    }

    /// Moves the classes that a flipped class now needs in front of it.
    fn reorder(&mut self, class: u32, above: &[u32]) {
        let Some(last) = above.iter().map(|c| self.choice.rank[*c as usize]).max() else { return };
        let first = self.choice.rank[class as usize] as usize;
        self.stamp += 1;
        above.iter().for_each(|c| self.mark[*c as usize] = self.stamp);
        let window = &mut self.choice.order[first..=last as usize];
        let (stamp, mark) = (self.stamp, &self.mark);
        let mut moved: Vec<u32> = window.iter().copied().filter(|c| mark[*c as usize] == stamp).collect();
        moved.extend(window.iter().copied().filter(|c| mark[*c as usize] != stamp));
        window.copy_from_slice(&moved);
        for (i, c) in moved.into_iter().enumerate() {
            self.choice.rank[c as usize] = (first + i) as u32;
        }
    }

    /// Sets the e-node of a class that nobody uses, when that is acyclic.
    fn set_unused(&mut self, class: u32, node: u32) -> bool {
        let kids = self.problem.candidates[class as usize][node as usize].kids.clone();
        let Some(above) = self.needed_above(class, &kids) else { return false };
        self.choice.node[class as usize] = node;
        self.reorder(class, &above);
        true
    }

    /// For an unused class that a flip is about to use, takes the candidate that adds least now.
    fn prepare(&mut self, class: u32) {
        let count = self.problem.candidates[class as usize].len() as u32;
        if self.uses[class as usize] != 0 || count < 2 {
            return;
        }
        let old = self.choice.node[class as usize];
        let mut best = (u64::MAX, old);
        for node in std::iter::once(old).chain((0..count).filter(|n| *n != old)) {
            let candidate = &self.problem.candidates[class as usize][node as usize];
            let (own, kids) = (candidate.cost, candidate.kids.clone());
            if node != old && self.needed_above(class, &kids).is_none() {
                continue;
            }
            let added = self.acquire_all(&kids).saturating_add(own);
            self.release_all(&kids);
            if added < best.0 {
                best = (added, node);
            }
        }
        if best.1 != old {
            self.set_unused(class, best.1);
        }
    }

    /// Changes the e-node of a needed class when that makes the program cheaper.
    fn try_flip(&mut self, class: u32, node: u32) -> bool {
        let old = &self.problem.candidates[class as usize][self.choice.node[class as usize] as usize];
        let new = &self.problem.candidates[class as usize][node as usize];
        let (old_cost, new_cost, old_kids, new_kids) = (old.cost, new.cost, old.kids.clone(), new.kids.clone());
        new_kids.iter().for_each(|k| self.prepare(*k));
        let Some(above) = self.needed_above(class, &new_kids) else { return false };
        let added = self.acquire_all(&new_kids).saturating_add(new_cost);
        let freed = self.release_all(&old_kids).saturating_add(old_cost);
        if added < freed {
            self.choice.node[class as usize] = node;
            self.reorder(class, &above);
            return true;
        }
        self.acquire_all(&old_kids);
        self.release_all(&new_kids);
        false
    }
}
