//! Search for a packing below a given capacity.
//!
//! Ranges are placed by ascending offset, each right on top of what is below it, so every packing is met once, in its canonical form. A
//! branch ends when some moment cannot hold what is still to come. Several orders among equals take turns with growing limits.

use std::cmp::Reverse;

/// Placements that are tried, summed over all orders, times the number of ranges.
const WORK: usize = 40_000_000;

struct Search<'a> {
    sizes: &'a [u64],
    /// Moments during which each range lives.
    moments: Vec<std::ops::Range<usize>>,
    /// Ranges alive together with each one.
    neighbors: &'a [Vec<u32>],
    rank: Vec<u32>,
    capacity: u64,
    lowest: Vec<u64>,
    offsets: Vec<u64>,
    placed: Vec<bool>,
    left: usize,
    /// Height of what is placed at each moment, and bytes that are still to come.
    floor: Vec<u64>,
    remaining: Vec<u64>,
    nodes: usize,
    limit: usize,
}

/// Offsets below the capacity, if the search finds some. Sizes are multiples of one alignment.
pub(super) fn fit(sizes: &[u64], spans: &[(u32, u32)], capacity: u64) -> Option<Vec<u64>> {
    let n = sizes.len();
    let mut borders: Vec<u32> = spans.iter().flat_map(|s| [s.0, s.1]).collect();
    borders.sort_unstable();
    borders.dedup();
    let at = |t: u32| borders.partition_point(|b| *b < t);
    let moments: Vec<std::ops::Range<usize>> = spans.iter().map(|s| at(s.0)..at(s.1)).collect();
    let together = |i: usize, j: usize| spans[i].0 < spans[j].1 && spans[j].0 < spans[i].1;
    let neighbors: Vec<Vec<u32>> = (0..n).map(|i| (0..n).filter(|j| *j != i && together(i, *j)).map(|j| j as u32).collect()).collect();
    let width = |i: usize| u64::from(spans[i].1 - spans[i].0);
    let load: Vec<u64> = {
        let mut load = vec![0; borders.len()];
        moments.iter().zip(sizes).for_each(|(m, s)| load[m.clone()].iter_mut().for_each(|l| *l += s));
        load
    };
    let pressure = |i: usize| load[moments[i].clone()].iter().max().copied().unwrap_or(0);
    let mut orders: [Vec<usize>; 3] = std::array::from_fn(|_| (0..n).collect());
    orders[0].sort_by_key(|i| (Reverse(width(*i)), Reverse(sizes[*i]), *i));
    orders[1].sort_by_key(|i| (Reverse(pressure(*i)), Reverse(width(*i).saturating_mul(sizes[*i])), *i));
    orders[2].sort_by_key(|i| (Reverse(pressure(*i)), Reverse(sizes[*i]), *i));
    let mut limit = n * 4 + 200;
    let mut work = 0;
    while work < WORK {
        for order in &orders {
            let mut rank = vec![0u32; n];
            order.iter().enumerate().for_each(|(r, i)| rank[*i] = r as u32);
            let mut s = Search {
                sizes,
                moments: moments.clone(),
                neighbors: &neighbors,
                rank,
                capacity,
                lowest: vec![0; n],
                offsets: vec![0; n],
                placed: vec![false; n],
                left: n,
                floor: vec![0; borders.len()],
                remaining: load.clone(),
                nodes: 0,
                limit,
            };
            if s.go((0, 0)) {
                return Some(s.offsets);
            }
            work += s.nodes * n;
            // The whole tree was seen: there is no such packing.
            if s.nodes < s.limit {
                return None;
            }
        }
        limit *= 2;
    }
    None
}

impl Search<'_> {
    fn go(&mut self, last: (u64, u32)) -> bool {
        if self.left == 0 {
            return true;
        }
        // What ends lowest could lie below all that begin above its end.
        let open = (0..self.sizes.len()).filter(|i| !self.placed[*i]);
        let reach = open.clone().filter(|i| (self.lowest[*i], self.rank[*i]) >= last).map(|i| self.lowest[i] + self.sizes[i]).min();
        let Some(reach) = reach else { return false };
        let mut candidates: Vec<(u64, u32, usize)> = open
            .filter(|i| (self.lowest[*i], self.rank[*i]) >= last && self.lowest[*i] < reach)
            .map(|i| (self.lowest[i], self.rank[i], i))
            .collect();
        candidates.sort_unstable();
        for (offset, rank, i) in candidates {
            self.nodes += 1;
            if self.nodes >= self.limit {
                return false;
            }
            let undo = self.place(i, offset);
            let sound = self.sound(offset);
            if sound && self.go((offset, rank)) {
                return true;
            }
            self.take_back(i, undo);
            if self.nodes >= self.limit {
                return false;
            }
            // With nothing above it any place is as good.
            if self.neighbors[i].iter().all(|j| self.placed[*j as usize]) {
                return false;
            }
        }
        false
    }

    /// Whether every moment can still hold what is to come, which begins at `offset` or higher.
    fn sound(&self, offset: u64) -> bool {
        self.floor.iter().zip(&self.remaining).all(|(f, r)| *r == 0 || (*f).max(offset) + r <= self.capacity)
    }

    fn place(&mut self, i: usize, offset: u64) -> (Vec<u64>, Vec<(u32, u64)>) {
        let top = offset + self.sizes[i];
        self.offsets[i] = offset;
        self.placed[i] = true;
        self.left -= 1;
        let floors = self.floor[self.moments[i].clone()].to_vec();
        for m in self.moments[i].clone() {
            self.floor[m] = top;
            self.remaining[m] -= self.sizes[i];
        }
        let mut raised = Vec::new();
        for j in &self.neighbors[i] {
            let j = *j as usize;
            if !self.placed[j] && self.lowest[j] < top {
                raised.push((j as u32, self.lowest[j]));
                self.lowest[j] = top;
            }
        }
        (floors, raised)
    }

    fn take_back(&mut self, i: usize, (floors, raised): (Vec<u64>, Vec<(u32, u64)>)) {
        for (m, f) in self.moments[i].clone().zip(floors) {
            self.floor[m] = f;
            self.remaining[m] += self.sizes[i];
        }
        raised.into_iter().for_each(|(j, low)| self.lowest[j as usize] = low);
        self.placed[i] = false;
        self.left += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_greedy_misses() {
        // Three long ones and short ones between them that fit exactly in one way only.
        let sizes = [64, 128, 64, 192, 128, 64];
        let spans = [(0, 4), (0, 2), (2, 6), (4, 8), (2, 4), (6, 8)];
        let found = fit(&sizes, &spans, 256).unwrap();
        for i in 0..sizes.len() {
            assert!(found[i] + sizes[i] <= 256);
            for j in i + 1..sizes.len() {
                let together = spans[i].0 < spans[j].1 && spans[j].0 < spans[i].1;
                assert!(!together || found[i] + sizes[i] <= found[j] || found[j] + sizes[j] <= found[i]);
            }
        }
        assert_eq!(fit(&sizes, &spans, 192), None);
    }
}
