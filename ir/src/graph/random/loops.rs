//! Random graphs with loops: counted and data-dependent, nested, with stacked results, slices at the index, and slots of every kind.

use super::Random;
use crate::graph::loops::OpenLoop;
use crate::graph::{Graph, Role, ValueId};
use crate::ops::dynamic_slice::DynamicSlice;
use crate::ops::dynamic_update_slice::DynamicUpdateSlice;
use crate::scalar::{BinaryFn, CompareFn, UnaryFn};
use crate::tensor::Tensor;
use crate::types::{DType, Dims, TensorType};

/// Elements of the vectors.
const WIDTH: usize = 3;
/// Rows of what is sliced and stacked.
const ROWS: usize = 5;

/// A graph with loops.
struct Make {
    g: Graph,
    r: Random,
    dtype: DType,
    /// Whether loops may end when the data says so.
    whiles: bool,
    /// Vectors, matrices and counters that may be read here.
    vectors: Vec<ValueId>,
    matrices: Vec<ValueId>,
    counters: Vec<ValueId>,
}

/// A well-typed graph with about `size` nodes and at least one loop, on two vectors and two matrices of `dtype`. Its values stay small. With
/// `whiles`, some loops end by a predicate.
pub fn random_loops(seed: u64, size: usize, dtype: DType, whiles: bool) -> Graph {
    let mut g = Graph::new(format!("loops{seed}"));
    let vector = TensorType::new(dtype, [WIDTH]);
    let matrix = TensorType::new(dtype, [ROWS, WIDTH]);
    let vectors = ["a", "b"].map(|n| g.input(n, vector.clone(), Role::Param)).to_vec();
    let matrices = ["xs", "ys"].map(|n| g.input(n, matrix.clone(), Role::Param)).to_vec();
    let counters = vec![g.constant(&Tensor::scalar_int(DType::I32, 0)), g.constant(&Tensor::scalar_int(DType::I32, 2))];
    let mut make = Make { g, r: Random::new(seed), dtype, whiles, vectors, matrices, counters };
    make.body(2);
    make.repeated(0, size);
    make.body(size / 3);
    if make.r.one_in(2) {
        make.repeated(0, size / 2);
    }
    for (i, v) in [make.vectors.last(), make.matrices.last(), make.counters.last()].into_iter().flatten().enumerate() {
        make.g.output(format!("out{i}"), *v);
    }
    make.g
}

impl Make {
    fn vector(&mut self) -> ValueId {
        let (a, b) = (self.r.below(self.vectors.len()), self.r.below(self.vectors.len()));
        self.vectors[a.max(b)]
    }

    fn matrix(&mut self) -> ValueId {
        *self.r.pick(&self.matrices)
    }

    fn counter(&mut self) -> ValueId {
        *self.r.pick(&self.counters)
    }

    /// A row of a matrix.
    fn row(&mut self, matrix: ValueId, at: ValueId) -> ValueId {
        let zero = self.g.splat_like(at, 0.0);
        let row = self.g.emit(DynamicSlice { sizes: Dims::from_slice(&[1, WIDTH]) }, &[matrix, at, zero]);
        self.g.reshape(row, &[WIDTH])
    }

    fn body(&mut self, size: usize) {
        for _ in 0..size {
            let a = self.vector();
            match self.r.below(10) {
                0 | 1 => {
                    let b = self.vector();
                    let half = self.g.splat(&TensorType::new(self.dtype, [WIDTH]), 0.5);
                    let sum = self.g.binary(*self.r.pick(&[BinaryFn::Add, BinaryFn::Sub]), a, b);
                    self.vectors.push(self.g.times(sum, half));
                }
                2 | 3 => {
                    let b = self.vector();
                    let product = self.g.times(a, b);
                    self.vectors.push(self.g.unary(UnaryFn::Tanh, product));
                }
                4 => self.vectors.push(self.g.unary(*self.r.pick(&[UnaryFn::Sin, UnaryFn::Neg, UnaryFn::Logistic]), a)),
                5 | 6 => {
                    let (m, at) = (self.matrix(), self.counter());
                    let row = self.row(m, at);
                    self.vectors.push(row);
                }
                7 => {
                    let (m, at) = (self.matrix(), self.counter());
                    let row = self.g.reshape(a, &[1, WIDTH]);
                    let zero = self.g.splat_like(at, 0.0);
                    self.matrices.push(self.g.emit(DynamicUpdateSlice {}, &[m, row, at, zero]));
                }
                8 => {
                    let at = self.counter();
                    let by = self.g.splat_like(at, *self.r.pick(&[1.0, -1.0, 3.0]));
                    self.counters.push(self.g.plus(at, by));
                }
                _ => {
                    let (m, n) = (self.matrix(), self.matrix());
                    let third = self.g.splat_like(m, 0.25);
                    let product = self.g.times(m, n);
                    self.matrices.push(self.g.times(product, third));
                }
            }
        }
    }

    /// A loop with a counter, a few vectors, and perhaps a matrix in its slots.
    fn repeated(&mut self, depth: usize, size: usize) {
        let zero = self.g.constant(&Tensor::scalar_int(DType::I32, 0));
        let mut init = vec![zero];
        let slots = 1 + self.r.below(3);
        for _ in 0..slots {
            init.push(self.vector());
        }
        let stack = self.r.one_in(2);
        if stack {
            init.push(self.matrix());
        }
        let outside = (self.vectors.len(), self.matrices.len(), self.counters.len());
        let open = self.g.begin_loop(&init);
        self.counters.push(open.carries[0]);
        self.vectors.extend(&open.carries[1..=slots]);
        self.matrices.extend(open.carries.get(slots + 1));
        if self.r.one_in(2) {
            let index = self.g.loop_index(&open);
            self.counters.push(self.g.convert(index, DType::I32));
        }
        self.body(size / 2);
        if depth < 2 && self.r.one_in(2) {
            self.repeated(depth + 1, size / 2);
        }
        self.body(size / 2);
        let by = self.g.splat_like(zero, *self.r.pick(&[1.0, 1.0, 2.0]));
        let mut next = vec![self.g.plus(open.carries[0], by)];
        for k in 0..slots {
            let v = self.vector();
            next.push(if self.r.one_in(6) { open.carries[1 + k] } else { v });
        }
        if stack {
            next.push(*self.matrices.last().expect("there are two inputs"));
        }
        let last = self.end(&open, &next);
        self.vectors.truncate(outside.0);
        self.matrices.truncate(outside.1);
        self.counters.truncate(outside.2);
        self.counters.push(last[0]);
        self.vectors.extend(&last[1..=slots]);
        self.matrices.extend(last.get(slots + 1));
    }

    fn end(&mut self, open: &OpenLoop, next: &[ValueId]) -> Vec<ValueId> {
        let trips = *self.r.pick(&[0, 1, 2, 3, 4, 5, 12]);
        let kind = self.r.below(if self.whiles { 4 } else { 2 });
        if kind == 0 {
            return self.g.end_repeat(open, trips, next);
        }
        // The counter rises by at least 1, so that every loop ends.
        let bound = self.g.splat_like(open.carries[0], trips as f64);
        let f = *self.r.pick(&[CompareFn::Lt, CompareFn::Le]);
        let mut goes_on = self.g.compare(f, open.carries[0], bound);
        if kind > 1 {
            let all = self.g.sum(open.carries[1], &[0]);
            let limit = self.g.splat_like(all, 1.0);
            let small = self.g.compare(CompareFn::Lt, all, limit);
            goes_on = self.g.binary(BinaryFn::And, goes_on, small);
        }
        self.g.end_while(open, goes_on, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::loops::LoopNest;
    use crate::graph::random::random_inputs;

    #[test]
    fn loops_of_all_kinds_occur() {
        let (mut nested, mut whiles, mut repeats) = (0, 0, 0);
        for seed in 0..100 {
            let g = random_loops(seed, 12, DType::F32, true);
            let nest = LoopNest::of(&g).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{g}"));
            assert_eq!(crate::interp::eval(&g, &random_inputs(&g, seed)).unwrap().len(), 3);
            nested += nest.loops.iter().filter(|l| l.parent.is_some()).count();
            whiles += nest.loops.iter().filter(|l| l.trips.is_none()).count();
            repeats += nest.loops.iter().filter(|l| l.trips.is_some()).count();
        }
        assert!(nested > 10 && whiles > 10 && repeats > 10, "{nested} {whiles} {repeats}");
    }
}
