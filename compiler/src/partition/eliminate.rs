//! Exact minimization of a sum of small tables by variable elimination, min-degree order.

use rustc_hash::{FxHashMap, FxHasher};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// Tables above this many entries are avoided by fixing a variable first.
const TABLE_LIMIT: usize = 1 << 18;

/// A joint table of so many entries is looked up among those that were made before.
const WORTH_KNOWING: usize = 1 << 9;

/// How often what was fixed is freed again.
const ROUNDS: usize = 1;

/// A term of the sum: one cost for every assignment of its variables, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Variables, each once.
    pub vars: Vec<usize>,
    /// Costs.
    pub table: Vec<u64>,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elimination {
    /// One choice a variable.
    pub choice: Vec<usize>,
    /// The sum at that choice.
    pub cost: u64,
    /// The most neighbors that a variable had when it was eliminated.
    pub width: usize,
    /// Variables that were fixed greedily.
    pub fixed: usize,
}

/// How an eliminated variable follows from its neighbors.
struct Step {
    var: usize,
    neighbors: Vec<usize>,
    best: Vec<u16>,
}

/// Minimizes the sum of the factors over variables with the given numbers of options. Where tables would be too large variables are
/// fixed, and then the others are: each round is exact around what it fixes, so it can only get better.
pub fn solve(sizes: &[usize], factors: Vec<Factor>) -> Elimination {
    let (mut best, mut fixed) = pass(sizes, &factors, None);
    for _ in 0..ROUNDS {
        if fixed.is_empty() {
            break;
        }
        let (next, others) = pass(sizes, &factors, Some((&best.choice, &fixed)));
        if next.cost >= best.cost {
            break;
        }
        (best, fixed) = (Elimination { width: best.width, fixed: best.fixed, ..next }, others);
    }
    best
}

/// One elimination, and which variables it fixed. With a choice to start from, variables are fixed to what they are there, and rather
/// others than those that were fixed before.
fn pass(sizes: &[usize], factors: &[Factor], around: Option<(&[usize], &BTreeSet<usize>)>) -> (Elimination, BTreeSet<usize>) {
    let mut s = Solver::new(sizes, factors);
    let mut fixed = BTreeSet::new();
    while let Some(&(degree, var)) = s.queue.first() {
        let neighbors = s.neighbors(var);
        let entries = neighbors.iter().fold(sizes[var], |n, v| n.saturating_mul(sizes[*v]));
        if entries > TABLE_LIMIT {
            // Fix the neighbor with the most neighbors of its own; its tables shrink by one dimension.
            let fresh = |v: usize| around.is_none_or(|(_, before)| !before.contains(&v));
            let key = |v: &usize| (fresh(*v), s.adjacent[*v].len(), std::cmp::Reverse(*v));
            let hub = neighbors.iter().copied().max_by_key(key).unwrap_or(var);
            s.fix(hub, around.map(|(choice, _)| choice[hub]));
            fixed.insert(hub);
            continue;
        }
        s.width = s.width.max(degree);
        s.eliminate(var, neighbors);
    }
    let mut choice = vec![0usize; sizes.len()];
    for step in s.steps.iter().rev() {
        let at = step.neighbors.iter().fold(0, |p, v| p * sizes[*v] + choice[*v]);
        choice[step.var] = step.best[at] as usize;
    }
    let cost = factors.iter().map(|f| f.table[f.vars.iter().fold(0, |p, v| p * sizes[*v] + choice[*v])]).fold(0u64, u64::saturating_add);
    (Elimination { choice, cost, width: s.width, fixed: s.fixed }, fixed)
}

/// A sum that no choice falls below: where the table of a variable would have more than `limit` entries, its terms are minimized apart from
/// each other, as if the variable could be something else in each part (mini-buckets).
pub fn bound(sizes: &[usize], factors: &[Factor], limit: usize) -> u64 {
    let mut s = Solver::new(sizes, factors);
    let mut sum = 0u64;
    while let Some(&(_, var)) = s.queue.first() {
        let neighbors = s.neighbors(var);
        let mut parts: Vec<(BTreeSet<usize>, Vec<Factor>)> = Vec::new();
        let mut factors = s.take(var);
        factors.sort_by_key(|f| std::cmp::Reverse(f.table.len()));
        for f in factors {
            let joined = |scope: &BTreeSet<usize>| -> BTreeSet<usize> { scope.iter().chain(&f.vars).copied().collect() };
            let small = |scope: &BTreeSet<usize>| joined(scope).iter().fold(1usize, |n, v| n.saturating_mul(sizes[*v])) <= limit;
            match parts.iter().position(|(scope, _)| small(scope)) {
                Some(p) => {
                    parts[p].0 = joined(&parts[p].0);
                    parts[p].1.push(f);
                }
                None => parts.push((f.vars.iter().copied().collect(), vec![f])),
            }
        }
        s.queue.remove(&(s.adjacent[var].len(), var));
        s.adjacent[var].clear();
        let degrees: Vec<usize> = neighbors.iter().map(|v| s.adjacent[*v].len()).collect();
        for (scope, part) in parts {
            let others: Vec<usize> = scope.into_iter().filter(|v| *v != var).collect();
            let (table, _) = s.minimum(var, &others, part);
            if others.is_empty() {
                sum = sum.saturating_add(table[0]);
            } else {
                s.insert(Factor { vars: others, table });
            }
        }
        for (v, old) in neighbors.iter().zip(degrees) {
            let near = s.factors_of[*v].iter().flat_map(|f| &s.live[f].vars);
            s.adjacent[*v] = near.copied().filter(|w| w != v).collect();
            s.requeue(*v, old);
        }
    }
    sum
}

/// A minimum that was found: identical layers have identical ones.
struct Known {
    /// The options of the neighbors and of the variable itself.
    sizes: Vec<usize>,
    /// Each factor's variables, as positions in `sizes`, and its table.
    factors: Vec<(Vec<usize>, Vec<u64>)>,
    table: Vec<u64>,
    best: Vec<u16>,
}

struct Solver<'a> {
    sizes: &'a [usize],
    /// By hash.
    known: FxHashMap<u64, Vec<Known>>,
    live: BTreeMap<usize, Factor>,
    next: usize,
    factors_of: Vec<BTreeSet<usize>>,
    adjacent: Vec<BTreeSet<usize>>,
    queue: BTreeSet<(usize, usize)>,
    steps: Vec<Step>,
    width: usize,
    fixed: usize,
}

impl<'a> Solver<'a> {
    fn new(sizes: &'a [usize], factors: &[Factor]) -> Self {
        let mut s = Solver {
            sizes,
            known: FxHashMap::default(),
            live: BTreeMap::new(),
            next: 0,
            factors_of: vec![BTreeSet::new(); sizes.len()],
            adjacent: vec![BTreeSet::new(); sizes.len()],
            queue: BTreeSet::new(),
            steps: Vec::new(),
            width: 0,
            fixed: 0,
        };
        // Terms over the same variables are one table.
        let mut merged: BTreeMap<Vec<usize>, Vec<u64>> = BTreeMap::new();
        for f in factors {
            let (vars, table) = if f.vars.len() == 2 && f.vars[0] > f.vars[1] {
                let (n, m) = (sizes[f.vars[0]], sizes[f.vars[1]]);
                let t = (0..n * m).map(|i| f.table[(i % n) * m + i / n]).collect();
                (vec![f.vars[1], f.vars[0]], t)
            } else {
                (f.vars.clone(), f.table.clone())
            };
            match merged.get_mut(&vars) {
                Some(t) => t.iter_mut().zip(table).for_each(|(a, b)| *a = a.saturating_add(b)),
                None => {
                    merged.insert(vars, table);
                }
            }
        }
        for (vars, table) in merged {
            s.insert(Factor { vars, table });
        }
        s.queue = (0..sizes.len()).map(|v| (s.adjacent[v].len(), v)).collect();
        s
    }

    fn insert(&mut self, f: Factor) {
        for v in &f.vars {
            self.factors_of[*v].insert(self.next);
            self.adjacent[*v].extend(f.vars.iter().filter(|w| *w != v));
        }
        self.live.insert(self.next, f);
        self.next += 1;
    }

    fn neighbors(&self, var: usize) -> Vec<usize> {
        self.adjacent[var].iter().copied().collect()
    }

    fn requeue(&mut self, var: usize, old: usize) {
        if self.queue.remove(&(old, var)) {
            self.queue.insert((self.adjacent[var].len(), var));
        }
    }

    /// Takes the factors of a variable out.
    fn take(&mut self, var: usize) -> Vec<Factor> {
        let mut taken = Vec::new();
        for id in std::mem::take(&mut self.factors_of[var]) {
            let Some(f) = self.live.remove(&id) else { continue };
            f.vars.iter().for_each(|v| {
                self.factors_of[*v].remove(&id);
            });
            taken.push(f);
        }
        taken
    }

    /// For every choice of the neighbors the least sum of the factors over a variable, and the option with which it is reached.
    fn minimum(&mut self, var: usize, neighbors: &[usize], factors: Vec<Factor>) -> (Vec<u64>, Vec<u16>) {
        let order: Vec<usize> = neighbors.iter().copied().chain([var]).collect();
        let sizes: Vec<usize> = order.iter().map(|v| self.sizes[*v]).collect();
        if sizes.iter().product::<usize>() < WORTH_KNOWING {
            return self.joint_minimum(&order, &factors);
        }
        let scope = |f: &Factor| -> Vec<usize> { f.vars.iter().filter_map(|v| order.iter().position(|o| o == v)).collect() };
        let scopes: Vec<Vec<usize>> = factors.iter().map(scope).collect();
        let mut hasher = FxHasher::default();
        (&sizes, &scopes).hash(&mut hasher);
        factors.iter().for_each(|f| f.table.hash(&mut hasher));
        let hash = hasher.finish();
        let same = |k: &&Known| {
            let alike = |((a, b), (scope, f)): (&(Vec<usize>, Vec<u64>), (&Vec<usize>, &Factor))| a == scope && *b == f.table;
            k.sizes == sizes && k.factors.len() == factors.len() && k.factors.iter().zip(scopes.iter().zip(&factors)).all(alike)
        };
        if let Some(k) = self.known.get(&hash).into_iter().flatten().find(same) {
            return (k.table.clone(), k.best.clone());
        }
        let (table, best) = self.joint_minimum(&order, &factors);
        let factors = scopes.into_iter().zip(factors.into_iter().map(|f| f.table)).collect();
        self.known.entry(hash).or_default().push(Known { sizes, factors, table: table.clone(), best: best.clone() });
        (table, best)
    }

    /// The joint table with the last variable innermost, then its minimum.
    fn joint_minimum(&self, order: &[usize], factors: &[Factor]) -> (Vec<u64>, Vec<u16>) {
        let size = order.last().map_or(1, |v| self.sizes[*v]);
        let entries: usize = order.iter().map(|v| self.sizes[*v]).product();
        let mut joint = vec![0u64; entries];
        for f in factors {
            let mut stride = vec![0usize; order.len()];
            let mut weight = 1;
            for v in f.vars.iter().rev() {
                if let Some(i) = order.iter().position(|o| o == v) {
                    stride[i] = weight;
                }
                weight *= self.sizes[*v];
            }
            // Row by row: the variable itself is innermost, and in every one of its factors.
            let (outer, inner) = (order.len() - 1, stride[order.len() - 1]);
            let mut digits = vec![0usize; outer];
            let mut at = 0usize;
            for row in joint.chunks_exact_mut(size) {
                if inner == 1 {
                    row.iter_mut().zip(&f.table[at..at + size]).for_each(|(cell, c)| *cell = cell.saturating_add(*c));
                } else {
                    row.iter_mut().zip(f.table[at..].iter().step_by(inner)).for_each(|(cell, c)| *cell = cell.saturating_add(*c));
                }
                for i in (0..outer).rev() {
                    digits[i] += 1;
                    at += stride[i];
                    if digits[i] < self.sizes[order[i]] {
                        break;
                    }
                    at -= stride[i] * digits[i];
                    digits[i] = 0;
                }
            }
        }
        let (mut table, mut best) = (Vec::with_capacity(entries / size.max(1)), Vec::with_capacity(entries / size.max(1)));
        for row in joint.chunks_exact(size) {
            let (i, c) = row.iter().enumerate().min_by_key(|(i, c)| (**c, *i)).unwrap_or((0, &0));
            table.push(*c);
            best.push(i as u16);
        }
        (table, best)
    }

    fn eliminate(&mut self, var: usize, neighbors: Vec<usize>) {
        let factors = self.take(var);
        let (table, best) = self.minimum(var, &neighbors, factors);
        self.queue.remove(&(self.adjacent[var].len(), var));
        self.adjacent[var].clear();
        let degrees: Vec<usize> = neighbors.iter().map(|v| self.adjacent[*v].len()).collect();
        for v in &neighbors {
            self.adjacent[*v].remove(&var);
        }
        self.steps.push(Step { var, neighbors: neighbors.clone(), best });
        if !neighbors.is_empty() {
            self.insert(Factor { vars: neighbors.clone(), table });
        }
        for (v, old) in neighbors.iter().zip(degrees) {
            self.requeue(*v, old);
        }
    }

    /// Takes the given option of a variable, or the one that minimizes its own terms, each at its best neighbors, and removes the variable.
    fn fix(&mut self, var: usize, given: Option<usize>) {
        self.fixed += 1;
        let size = self.sizes[var];
        let mut own = vec![0u64; size];
        let ids: Vec<usize> = self.factors_of[var].iter().copied().collect();
        let strides = |s: &Self, f: &Factor| -> (usize, usize) {
            let i = f.vars.iter().position(|v| *v == var).unwrap_or(0);
            (i, f.vars[i + 1..].iter().map(|v| s.sizes[*v]).product())
        };
        for id in &ids {
            let f = &self.live[id];
            let (_, inner) = strides(self, f);
            for (o, sum) in own.iter_mut().enumerate() {
                let low = f.table.iter().enumerate().filter(|(at, _)| at / inner % size == o).map(|(_, c)| *c).min().unwrap_or(0);
                *sum = sum.saturating_add(low);
            }
        }
        let least = own.iter().enumerate().min_by_key(|(i, c)| (**c, *i)).map_or(0, |(i, _)| i);
        let choice = given.unwrap_or(least);
        let neighbors = self.neighbors(var);
        let degrees: Vec<usize> = neighbors.iter().map(|v| self.adjacent[*v].len()).collect();
        for id in ids {
            let Some(f) = self.live.remove(&id) else { continue };
            let (i, inner) = strides(self, &f);
            let table = f.table.iter().enumerate().filter(|(at, _)| at / inner % size == choice).map(|(_, c)| *c).collect();
            let mut vars = f.vars.clone();
            vars.remove(i);
            f.vars.iter().for_each(|v| {
                self.factors_of[*v].remove(&id);
            });
            if !vars.is_empty() {
                self.insert(Factor { vars, table });
            }
        }
        self.queue.remove(&(self.adjacent[var].len(), var));
        self.adjacent[var].clear();
        for v in &neighbors {
            self.adjacent[*v].remove(&var);
        }
        self.steps.push(Step { var, neighbors: Vec::new(), best: vec![choice as u16] });
        for (v, old) in neighbors.iter().zip(degrees) {
            self.requeue(*v, old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brute(sizes: &[usize], factors: &[Factor]) -> u64 {
        let total: usize = sizes.iter().product();
        (0..total)
            .map(|mut n| {
                let choice: Vec<usize> = sizes
                    .iter()
                    .map(|s| {
                        let c = n % s;
                        n /= s;
                        c
                    })
                    .collect();
                factors.iter().map(|f| f.table[f.vars.iter().fold(0, |p, v| p * sizes[*v] + choice[*v])]).sum::<u64>()
            })
            .min()
            .unwrap_or(0)
    }

    #[test]
    fn elimination_finds_the_minimum() {
        let mut state = 7u64;
        let mut next = move |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        for _ in 0..200 {
            let sizes: Vec<usize> = (0..6).map(|_| 1 + next(4) as usize).collect();
            let mut factors = Vec::new();
            for a in 0..6 {
                factors.push(Factor { vars: vec![a], table: (0..sizes[a]).map(|_| next(100)).collect() });
                for b in 0..6 {
                    if a != b && next(3) == 0 {
                        factors.push(Factor { vars: vec![a, b], table: (0..sizes[a] * sizes[b]).map(|_| next(100)).collect() });
                    }
                }
            }
            let found = solve(&sizes, factors.clone());
            assert_eq!(found.cost, brute(&sizes, &factors));
            assert_eq!(found.fixed, 0);
            assert_eq!(bound(&sizes, &factors, TABLE_LIMIT), found.cost, "nothing is split");
            assert!(bound(&sizes, &factors, 16) <= found.cost);
        }
    }

    #[test]
    fn identical_layers_are_solved_once() {
        let sizes = [8usize; 6];
        let table = |seed: u64| (0..64u64).map(|i| (i * 37 + seed) % 101).collect::<Vec<u64>>();
        let layer = |first: usize, seed: u64| {
            vec![
                Factor { vars: vec![first, first + 2], table: table(seed) },
                Factor { vars: vec![first + 1, first + 2], table: table(seed + 5) },
            ]
        };
        let factors = [layer(0, 1), layer(3, 1)].concat();
        let mut s = Solver::new(&sizes, &factors);
        let first = s.minimum(2, &[0, 1], layer(0, 1));
        let second = s.minimum(5, &[3, 4], layer(3, 1));
        let known = |s: &Solver<'_>| s.known.values().map(Vec::len).sum::<usize>();
        assert_eq!(known(&s), 1);
        assert_eq!(first, second);
        assert_eq!(first, s.joint_minimum(&[0, 1, 2], &layer(0, 1)));
        let other = s.minimum(5, &[3, 4], layer(3, 2));
        assert_eq!((known(&s), other), (2, s.joint_minimum(&[3, 4, 5], &layer(3, 2))));
    }
}
