//! What products, convolutions and pooling take on the engines of a die.
//!
//! Every die has one kind of engine, in a section of its own that says how its cycles come about. Some are described well enough by a
//! peak, the tile that a product is padded to and the depth that fills the pipeline ([`GemmTile`](super::GemmTile)). The others are cores
//! that run one vector instruction for each scalar of an operand ([`VectorUnit`]), the accumulating matrix engine of an IPU's tile with
//! its six workers ([`Amp`]), engines that take square tiles in fidelity phases ([`TileEngine`]), and grids of nodes with a matrix unit
//! each ([`NodeEngine`](super::NodeEngine)). Planning and simulation ask the same functions.

use super::Target;
use super::nodes::{Grid, NodePlan, Product};
use super::quantity::{Count, Cycles, PerDType, Quantity};
use crate::types::DType;
use serde::{Deserialize, Serialize};

/// A core without a matrix engine: `C += A·b` is one vector instruction for each scalar `b`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorUnit {
    /// To start a vector instruction.
    pub start: Quantity<Cycles>,
    /// Elements that are worked on together.
    pub lanes: PerDType<Count>,
    /// For as many elements as there are lanes.
    pub cycles: PerDType<Cycles>,
}

impl VectorUnit {
    /// Cycles of `count` multiply-add instructions on vectors of `length`.
    pub fn instructions(&self, dtype: DType, length: usize, count: f64) -> f64 {
        let groups = (length as f64 / self.lanes.si(dtype, 1.0).max(1.0)).ceil();
        count * (self.start.si() + groups * self.cycles.si(dtype, 2.0))
    }
}

/// The accumulating matrix engine of an IPU's tile, fed by worker threads that share the pipeline.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amp {
    /// Threads that take turns; each has every so-manieth cycle.
    pub workers: Quantity<Count>,
    /// Bytes of the inner extent of a product that one block of weights holds.
    pub depth_bytes: Quantity<Count>,
    /// Columns of a block of weights.
    pub columns: Quantity<Count>,
    /// For each byte of an element, row of a worker and block.
    pub byte_cycles: Quantity<Cycles>,
    /// To load a block of weights and start the workers.
    pub block_cycles: Quantity<Cycles>,
    /// For each block of columns.
    pub column_cycles: Quantity<Cycles>,
    /// Input channels times filter rows of a pass of a convolution.
    pub conv_depth: Quantity<Count>,
    /// Output channels of a pass.
    pub conv_columns: Quantity<Count>,
    /// For each position and pass with all columns; half a pass takes half.
    pub conv_cycles: Quantity<Cycles>,
    /// To load the weights of a pass.
    pub conv_block: Quantity<Cycles>,
    /// For each worker and pass.
    pub conv_worker: Quantity<Cycles>,
    /// For each row of positions of a worker.
    pub conv_row: Quantity<Cycles>,
    /// For each output, to convert the partial sums.
    pub conv_output: Quantity<Cycles>,
    /// Filter columns that the line engine takes at once; it serves a single input channel.
    pub line_width: Quantity<Count>,
    /// For each position of the line engine.
    pub line_cycles: Quantity<Cycles>,
    /// Pooling: for each worker.
    pub pool_worker: Quantity<Cycles>,
    /// Pooling: for each row of positions and tap.
    pub pool_item: Quantity<Cycles>,
    /// Pooling: for each tap and vector of four channels.
    pub pool_vector: Quantity<Cycles>,
}

/// An engine that multiplies square tiles, as many times as the fidelity has phases.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileEngine {
    /// Edge of a tile.
    pub tile: Quantity<Count>,
    /// Of one phase of a product of two tiles; the peak of the type gives the number of phases.
    pub phase: Quantity<Cycles>,
    /// Beyond that, for each phase.
    pub phase_issue: Quantity<Cycles>,
    /// Beyond that, for each product of two tiles.
    pub tile_issue: Quantity<Cycles>,
}

/// A convolution or pooling on one die.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WindowShape {
    /// Images.
    pub batch: usize,
    /// Groups of channels, each a convolution of its own.
    pub groups: usize,
    /// Input channels of a group.
    pub inputs: usize,
    /// Output channels of a group.
    pub outputs: usize,
    /// Output extents.
    pub positions: Vec<usize>,
    /// Window extents.
    pub window: Vec<usize>,
    /// For each dimension the part of the taps that meet the operand and not its padding.
    pub inside: Vec<f64>,
}

impl WindowShape {
    /// All positions of all images.
    fn count(&self) -> usize {
        self.positions.iter().product::<usize>() * self.batch
    }

    /// The product that a group is equal to.
    pub fn product(&self) -> Product {
        Product::one(self.count(), self.outputs, self.inputs * self.window.iter().product::<usize>())
    }

    /// Positions of a row.
    fn row(&self) -> usize {
        self.positions.last().copied().unwrap_or(1).max(1)
    }

    /// Taps of the last dimension, and of all others.
    fn taps(&self) -> (usize, usize) {
        let across = self.window.last().copied().unwrap_or(1);
        (across, self.window.iter().rev().skip(1).product())
    }

    /// The part of the taps inside, along rows and along all other dimensions.
    fn share(&self) -> (f64, f64) {
        let along = self.inside.last().copied().unwrap_or(1.0);
        (along, self.inside.iter().rev().skip(1).product())
    }
}

/// The part of `window` taps at `positions` places that lie in an operand of `extent`, all along one dimension.
pub fn inside(positions: usize, window: usize, stride: usize, dilation: usize, pad_low: i64, extent: usize) -> f64 {
    let (stride, dilation) = (stride.max(1) as i128, dilation.max(1) as i128);
    let total = positions as f64 * window as f64;
    if total == 0.0 {
        return 1.0;
    }
    let taps = |j: usize| {
        // Positions `i` with `0 ≤ i·stride + shift < extent`.
        let shift = j as i128 * dilation - i128::from(pad_low);
        let first = (-shift).div_euclid(stride) + i128::from((-shift).rem_euclid(stride) > 0);
        let past = (extent as i128 - shift).div_euclid(stride) + i128::from((extent as i128 - shift).rem_euclid(stride) > 0);
        (past.min(positions as i128) - first.max(0)).max(0) as f64
    };
    // Windows are small; of a huge one the ends say enough.
    let step = window.div_ceil(4096).max(1);
    let (sum, seen) = (0..window).step_by(step).fold((0.0, 0usize), |(sum, n), j| (sum + taps(j), n + 1));
    sum / (positions as f64 * seen as f64)
}

impl Amp {
    /// Cycles of a product, without the launch.
    fn gemm(&self, size: usize, m: usize, n: usize, k: usize) -> f64 {
        // The longer of m and n is that of the rows, unless it would not fill a block of columns.
        let (mut m, mut n) = (m as f64, n as f64);
        if m < n {
            std::mem::swap(&mut m, &mut n);
        }
        if m <= self.columns.si() {
            std::mem::swap(&mut m, &mut n);
        }
        let columns = (n / self.columns.si()).ceil();
        let blocks = columns * (k as f64 * size as f64 / self.depth_bytes.si()).ceil();
        let rows = (m / self.workers.si()).ceil();
        blocks * (size as f64 * self.byte_cycles.si() * rows + self.block_cycles.si()) + columns * self.column_cycles.si()
    }

    /// Cycles of all workers for `passes` passes of so many cycles a position.
    fn passes(&self, shape: &WindowShape, passes: f64, rate: f64, (along, across): (f64, f64), by_row: bool) -> f64 {
        let workers = self.workers.si();
        let mine = (shape.count() as f64 / workers).ceil();
        let rows = if by_row { (mine / shape.row() as f64).ceil() } else { 0.0 };
        let worker = self.conv_worker.si() + rows * self.conv_row.si() * across + rate * mine * along * across;
        passes * (workers * worker + self.conv_block.si())
    }

    /// Cycles of one group of a convolution, without the launch: the best of the engine's programs for it.
    fn conv(&self, shape: &WindowShape) -> f64 {
        let (inputs, outputs) = (shape.inputs as f64, shape.outputs as f64);
        let (width, height) = shape.taps();
        let (width, height) = (width as f64, height as f64);
        let columns = self.conv_columns.si();
        // Half the columns take half the time.
        let rate = self.conv_cycles.si() * if outputs * 2.0 <= columns { 0.5 } else { 1.0 };
        let converted = self.conv_output.si() * outputs * shape.count() as f64;
        let (along, across) = shape.share();
        let mut best = f64::INFINITY;
        // Several filter rows share a pass with fewer channels each; padding between them is computed.
        for rows in [1.0, 2.0, 4.0] {
            if rows > 1.0 && height == 1.0 {
                continue;
            }
            let channels = (self.conv_depth.si() / rows).max(1.0);
            let passes = (inputs / channels).ceil() * (height / rows).ceil() * width * (outputs / columns).ceil();
            let share = (along, if rows == 1.0 { across } else { 1.0 });
            best = best.min(self.passes(shape, passes, rate, share, true) + converted);
        }
        // A filter that fits into one pass is a plain product, and twice as wide.
        let wide = 2.0 * columns;
        let fits = outputs * 2.0 <= columns || shape.outputs.is_multiple_of(wide as usize);
        if inputs * width * height <= self.conv_depth.si() && fits {
            best = best.min(self.passes(shape, (outputs / wide).ceil(), rate, (1.0, 1.0), width * height > 1.0));
        }
        // The line engine keeps a filter row of a single channel.
        if shape.inputs == 1 {
            let passes = height * (width / self.line_width.si()).ceil() * (outputs * 2.0 / columns).ceil();
            best = best.min(self.passes(shape, passes, self.line_cycles.si(), (along, across), false));
        }
        best
    }

    /// Cycles of a pooling, without the launch.
    fn pool(&self, shape: &WindowShape) -> f64 {
        let workers = self.workers.si();
        let mine = (shape.count() as f64 / workers).ceil();
        let taps: usize = shape.window.iter().product();
        let vectors = (shape.outputs as f64 / 4.0).ceil();
        let items = (mine / shape.row() as f64).ceil() * taps as f64;
        let (along, across) = shape.share();
        let worker = self.pool_worker.si()
            + items * (self.pool_item.si() + 2.0 * vectors)
            + self.pool_vector.si() * vectors * taps as f64 * mine * along * across;
        workers * worker
    }
}

impl TileEngine {
    /// Cycles of a product, where two tiles take so many at the peak.
    fn gemm(&self, peak: f64, (m, n, k): (usize, usize, usize)) -> f64 {
        let tiles = [m, n, k].map(|extent| (extent as f64 / self.tile.si()).ceil()).iter().product::<f64>();
        let phases = (peak / self.phase.si()).max(1.0);
        tiles * (peak + phases * self.phase_issue.si() + self.tile_issue.si())
    }
}

impl Target {
    /// Seconds of the engines for products of this type, launch not included.
    pub fn gemm_seconds(&self, dtype: DType, product: Product) -> f64 {
        let (m, n, k) = product.merged();
        if m == 0 || n == 0 || k == 0 {
            return 0.0;
        }
        let clock = self.clock_hz();
        if let Some(plan) = self.node_plan(dtype, product) {
            return plan.cycles / clock;
        }
        if let Some(unit) = &self.die.vector_unit {
            return unit.instructions(dtype, n, m as f64 * k as f64) / clock;
        }
        if let Some(amp) = &self.die.amp {
            return amp.gemm(dtype.size(), m, n, k) / clock;
        }
        if let Some(engine) = &self.die.tile_engine {
            let peak = 2.0 * engine.tile.si().powi(3) / self.peak_flops(dtype) * clock;
            return engine.gemm(peak, (m, n, k)) / clock;
        }
        let efficiency = self.die.gemm.as_ref().map_or(1.0, |tile| tile.efficiency(m, n, k));
        2.0 * m as f64 * n as f64 * k as f64 / (self.peak_flops(dtype) * efficiency)
    }

    /// How products of this type are cut over the nodes of a die, where its nodes have engines of their own; nothing for an empty one.
    pub fn node_plan(&self, dtype: DType, product: Product) -> Option<NodePlan> {
        let engine = self.die.node_engine.as_ref()?;
        if product.batch == 0 || product.m == 0 || product.n == 0 || product.k == 0 {
            return None;
        }
        let nodes = self.live_nodes().max(1);
        let step = 2.0 * engine.rows.si() * engine.cols.si() * engine.depth.si();
        let grid = Grid {
            nodes,
            hops: (self.die.nodes.shape.rows + self.die.nodes.shape.cols) as usize,
            step: step * nodes as f64 * self.clock_hz() / self.peak_flops(dtype),
            size: dtype.size(),
        };
        Some(engine.plan(grid, product))
    }

    /// Seconds of the engines for a convolution of this type, launch not included: where the engine has no program of its own for
    /// it, the product that it is equal to, group by group.
    pub fn conv_seconds(&self, dtype: DType, shape: &WindowShape) -> f64 {
        let groups = shape.groups.max(1) as f64;
        match &self.die.amp {
            Some(amp) if dtype.size() <= 2 => groups * amp.conv(shape) / self.clock_hz(),
            _ => groups * self.gemm_seconds(dtype, shape.product()),
        }
    }

    /// Seconds of the engines for a pooling, launch not included, if they have a program of their own for it.
    pub fn pool_seconds(&self, shape: &WindowShape) -> Option<f64> {
        self.die.amp.as_ref().map(|amp| amp.pool(shape) / self.clock_hz())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(name: &str, dtype: DType, m: usize, n: usize, k: usize) -> f64 {
        let target = Target::builtin(name).unwrap();
        ((target.gemm_seconds(dtype, Product::one(m, n, k)) + target.launch_overhead()) * target.clock_hz()).round()
    }

    #[test]
    fn an_ipu_product_takes_the_published_cycles() {
        // Elk, MICRO 2025: m, k, n and cycles of its fitted model, f16.
        for (m, k, n, want) in [
            (16, 16, 16, 872.0),
            (64, 64, 64, 13_073.0),
            (128, 128, 128, 67_765.0),
            (256, 128, 64, 50_097.0),
            (384, 256, 64, 131_825.0),
            (1, 256, 256, 25_022.0),
            (192, 192, 192, 186_137.0),
            (1024, 16, 16, 4_904.0),
        ] {
            let got = cycles("ipu-mk2", DType::F16, m, n, k);
            assert!((got - want).abs() <= 1.0, "{m}×{k}×{n}: {got} against {want}");
        }
    }

    #[test]
    fn a_vector_core_pays_for_each_instruction() {
        let target = Target::builtin("wse3").unwrap();
        let seconds = |n| target.gemm_seconds(DType::F16, Product::one(8, n, 8)) * target.clock_hz();
        assert_eq!(seconds(1), seconds(8), "up to eight elements take the same time");
        assert!(seconds(9) > seconds(8) && seconds(16) < 2.0 * seconds(8));
        assert!((8.3..8.7).contains(&(seconds(8) / 64.0)));
    }

    #[test]
    fn taps_outside_are_counted() {
        assert_eq!(inside(5, 3, 1, 1, 1, 5), 13.0 / 15.0);
        assert_eq!(inside(3, 3, 1, 1, 0, 5), 1.0);
        assert_eq!(inside(3, 3, 2, 1, 1, 5), 7.0 / 9.0);
        assert_eq!(inside(0, 3, 1, 1, 0, 0), 1.0);
        let brute = |positions: i64, window: i64, stride: i64, dilation: i64, pad: i64, extent: i64| {
            let all = (0..positions).flat_map(|i| (0..window).map(move |j| i * stride + j * dilation - pad));
            all.filter(|at| (0..extent).contains(at)).count() as f64 / (positions * window) as f64
        };
        for (p, w, s, d, pad, e) in [(7, 5, 2, 3, 4, 11), (4, 2, 3, 1, -1, 9), (9, 4, 1, 2, 6, 3)] {
            let got = inside(p as usize, w as usize, s as usize, d as usize, pad, e as usize);
            assert!((got - brute(p, w, s, d, pad, e)).abs() < 1e-12, "{p} {w} {s} {d} {pad} {e}");
        }
    }
}
