//! How a product runs on the grid of nodes of one die.
//!
//! Every node has a matrix unit and SRAM of its own. A *node plan* says how many ways a product is cut over the nodes (along its batch,
//! rows, columns and inner extent) and in how many passes a node goes over its block. A node multiplies panels of both operands that come
//! to it over the grid while it works on the ones before; partial results of a cut inner extent are combined behind the product.
//! The plans differ in cycles and in the bytes of their panels: of those whose panels fit the node's buffer the fastest is taken.

use super::quantity::{Bytes, Count, Cycles, Quantity};
use serde::{Deserialize, Serialize};

/// The matrix unit of a node, and what brings it its operands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEngine {
    /// Rows of the block of results that the unit makes.
    pub rows: Quantity<Count>,
    /// Columns of that block.
    pub cols: Quantity<Count>,
    /// Terms that it adds to all of them in one step.
    pub depth: Quantity<Count>,
    /// To change to another block.
    pub start: Quantity<Cycles>,
    /// Bytes a cycle that come to a node over the grid.
    pub port: Quantity<Bytes>,
    /// Bytes a cycle that a node writes into its SRAM.
    pub store: Quantity<Bytes>,
    /// Of a node's SRAM for the panels that it works on and those that come.
    pub panels: Quantity<Bytes>,
    /// From node to node.
    pub hop: Quantity<Cycles>,
}

/// Products of the same extents, each `m×k` by `k×n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Product {
    /// How many.
    pub batch: usize,
    /// Rows of a result.
    pub m: usize,
    /// Columns of a result.
    pub n: usize,
    /// Terms of an element of it.
    pub k: usize,
    /// Whether results are stored column by column.
    pub column_major: bool,
}

impl Product {
    /// One product, stored row by row.
    pub fn one(m: usize, n: usize, k: usize) -> Self {
        Product { batch: 1, m, n, k, column_major: false }
    }

    /// As one product in the order in which the result is stored: rows, columns and terms.
    pub fn merged(self) -> (usize, usize, usize) {
        let rows = self.batch.saturating_mul(self.m);
        if self.column_major { (self.n, rows, self.k) } else { (rows, self.n, self.k) }
    }
}

/// A product on the nodes of a die.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct NodePlan {
    /// Ways of the batch, the rows, the columns and the inner extent.
    pub ways: [usize; 4],
    /// Passes of a node over the rows and the columns of its block.
    pub passes: [usize; 2],
    /// Inner extent of a panel.
    pub depth: usize,
    /// Bytes of a node's panels.
    pub bytes: usize,
    /// Cycles, without the launch.
    pub cycles: f64,
}

/// A die for a product.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Grid {
    /// Working nodes.
    pub nodes: usize,
    /// Hops across.
    pub hops: usize,
    /// Cycles of a step of the matrix unit.
    pub step: f64,
    /// Bytes of an element of the operands.
    pub size: usize,
}

/// Inner ways that are worth trying.
const INNER: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Edges of the tile of a pass that are worth trying, in blocks: small tiles have deep panels, but their operands come more often.
const EDGES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

impl NodeEngine {
    /// Bytes of the panels of one block of results, of the widest elements and as shallow as the unit takes them.
    pub(super) fn smallest_panels(&self) -> f64 {
        2.0 * (self.rows.si() + self.cols.si()) * self.depth.si() * 8.0
    }

    /// The fastest plan of a product.
    pub(super) fn plan(&self, grid: Grid, product: Product) -> NodePlan {
        let (rows, cols) = (product.m.div_ceil(self.rows.whole() as usize), product.n.div_ceil(self.cols.whole() as usize));
        let blocks = product.batch.saturating_mul(rows).saturating_mul(cols);
        let mut best: Option<NodePlan> = None;
        for inner in INNER {
            // Cutting the inner extent pays where there are too few blocks of results.
            if inner > 1 && blocks >= 8 * grid.nodes || inner > product.k.max(1) || inner > grid.nodes {
                break;
            }
            for batch in cuts(product.batch, grid.nodes / inner) {
                for row in cuts(rows, grid.nodes / (inner * batch)) {
                    let col = (grid.nodes / (inner * batch * row)).min(cols).max(1);
                    let plan = self.of(grid, product, [batch, row, col, inner]);
                    if best.is_none_or(|b| plan.cycles < b.cycles) {
                        best = Some(plan);
                    }
                }
            }
        }
        best.expect("one way of everything is a plan")
    }

    /// The plan that cuts a product so many ways.
    fn of(&self, grid: Grid, product: Product, ways: [usize; 4]) -> NodePlan {
        let [unit_rows, unit_cols, unit_depth] = [&self.rows, &self.cols, &self.depth].map(|q| q.whole() as usize);
        let batch = product.batch.div_ceil(ways[0]) as f64;
        let rows = product.m.div_ceil(unit_rows).div_ceil(ways[1]);
        let cols = product.n.div_ceil(unit_cols).div_ceil(ways[2]);
        let terms = product.k.div_ceil(ways[3]);
        let blocks = batch * (rows * cols) as f64;
        let elements = blocks * (unit_rows * unit_cols) as f64;
        let written = elements * 4.0 / self.store.si();
        let mut best: Option<NodePlan> = None;
        for edge in EDGES.into_iter().filter(|e| *e / 2 < rows.max(cols)) {
            let (high, wide) = (rows.min(edge), cols.min(edge));
            let passes = [rows.div_ceil(high), cols.div_ceil(wide)];
            let extent = [high * unit_rows, wide * unit_cols];
            // Two of each: one that is worked on, one that comes.
            let line = 2 * (extent[0] + extent[1]) * grid.size;
            let fits = self.panels.whole() as usize / line / unit_depth * unit_depth;
            if fits == 0 {
                continue;
            }
            let depth = fits.min(terms.next_multiple_of(unit_depth));
            let panels = terms.div_ceil(depth) as f64;
            let steps = terms.div_ceil(unit_depth) as f64;
            let compute = blocks * (steps * grid.step + panels * self.start.si());
            let came = batch * (rows * unit_rows * passes[1] + cols * unit_cols * passes[0]) as f64 * (terms * grid.size) as f64;
            let first = (extent[0] + extent[1]) as f64 * (depth.min(2 * unit_depth) * grid.size) as f64 / self.port.si();
            let others = (ways[3] - 1) as f64 / ways[3] as f64;
            // Partial results come in f32 and are added as wide as they come.
            let combined =
                if ways[3] > 1 { 2.0 * elements * 4.0 * others / self.port.si() + grid.hops as f64 * self.hop.si() } else { 0.0 };
            let cycles = compute.max(came / self.port.si()).max(written) + first + grid.hops as f64 * self.hop.si() + combined;
            if best.is_none_or(|b| cycles < b.cycles) {
                best = Some(NodePlan { ways, passes, depth, bytes: line * depth, cycles });
            }
        }
        best.expect("panels of one block fit the buffer of a sound target")
    }
}

/// The ways to cut `extent` into at most `most` parts that have different largest parts, with as few parts as each needs.
fn cuts(extent: usize, most: usize) -> impl Iterator<Item = usize> {
    let most = most.min(extent).max(1);
    let mut next = Some(most);
    std::iter::from_fn(move || {
        let ways = next?;
        // The fewest parts with that largest part, and then the next larger part.
        let fewest = extent.max(1).div_ceil(extent.max(1).div_ceil(ways));
        next = (fewest > 1).then(|| fewest - 1);
        Some(fewest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;
    use crate::types::DType;

    #[test]
    fn cuts_have_different_largest_parts() {
        assert_eq!(cuts(10, 10).collect::<Vec<_>>(), [10, 5, 4, 3, 2, 1]);
        assert_eq!(cuts(10, 6).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
        assert_eq!(cuts(1, 100).collect::<Vec<_>>(), [1]);
        for extent in 1..60usize {
            let largest: Vec<usize> = cuts(extent, extent).map(|w| extent.div_ceil(w)).collect();
            let mut all: Vec<usize> = (1..=extent).rev().map(|w| extent.div_ceil(w)).collect();
            all.dedup();
            assert_eq!(largest, all, "{extent}");
        }
    }

    #[test]
    fn plans_keep_to_the_nodes_and_their_buffers() {
        let tile = Target::builtin("dojo-tile").unwrap();
        for (batch, m, n, k) in
            [(1, 328, 3072, 768), (4, 1024, 1024, 64), (96, 41, 64, 1024), (1, 1, 1, 100_000), (1, 5, 7, 3), (1000, 3, 3, 3)]
        {
            for dtype in [DType::F32, DType::BF16] {
                let product = Product { batch, m, n, k, column_major: false };
                let plan = tile.node_plan(dtype, product).unwrap();
                assert!(plan.ways.iter().product::<usize>() <= tile.live_nodes(), "{plan:?}");
                assert!(plan.bytes as f64 <= 32.0 * 1024.0, "{plan:?}");
                // Never faster than the peak of all nodes.
                let ideal = 2.0 * (batch * m * n * k) as f64 / tile.peak_flops(dtype) * tile.clock_hz();
                assert!(plan.cycles >= ideal, "{plan:?} against {ideal}");
            }
        }
    }

    #[test]
    fn tiles_whose_shallowest_panels_do_not_fit_are_skipped() {
        let mut tile = Target::builtin("dojo-tile").unwrap();
        // 256 B a term of one block in f64: four terms, and none for two blocks.
        tile.set("die.node_engine.panels=1024 B").unwrap();
        let product = Product::one(4096, 4096, 4096);
        for (dtype, deepest) in [(DType::F64, 4), (DType::F32, 8), (DType::BF16, 16)] {
            let plan = tile.node_plan(dtype, product).unwrap();
            assert!(plan.bytes <= 1024 && plan.depth <= deepest, "{dtype}: {plan:?}");
        }
        let error = tile.set("die.node_engine.panels=1023 B").unwrap_err();
        assert!(error.to_string().contains("one block takes 1024 B"), "{error}");
        assert_eq!(tile.node_plan(DType::F32, Product::one(0, 3, 3)), None);
    }

    #[test]
    fn shallow_products_are_cut_by_their_results_and_deep_ones_by_their_terms() {
        let tile = Target::builtin("dojo-tile").unwrap();
        let plan = |batch, m, n, k| tile.node_plan(DType::BF16, Product { batch, m, n, k, column_major: false }).unwrap();
        let shallow = plan(4, 1024, 1024, 64);
        assert_eq!(shallow.ways[3], 1);
        let ideal = 2.0 * 4.0 * 1024.0 * 1024.0 * 64.0 / 362e12 * 2e9;
        assert!(shallow.cycles < 1.6 * ideal, "{shallow:?}");
        assert!(plan(1, 16, 16, 100_000).ways[3] > 1);
    }
}
