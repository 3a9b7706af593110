//! What an op costs: estimated machine time in integer picoseconds, so that equal programs have equal costs on every machine.
//!
//! A roofline an op: the longer of arithmetic and memory traffic, plus a launch. Views are free. Elementwise ops are charged their
//! arithmetic only, because fusion joins them to what they touch; reductions, which are fused as well, are charged one pass over their
//! largest operand. A composite op is charged less than any single one of its parts: it takes part in the group that needs it, and what
//! forward and backward would share of the parts had to be kept in memory in between. So what is found in its parts stays found, also
//! where something else needs some of them.

use super::space::WHILE_RUNS;
use girih_ir::graph::Graph;
use girih_ir::graph::loops::LoopNest;
use girih_ir::ops::Op;
use girih_ir::scalar::{BinaryFn, UnaryFn};
use girih_ir::types::{TensorType, Type};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Rates of the machine that a graph is optimized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostModel {
    /// Matrix arithmetic, operations a second.
    pub flops: u64,
    /// Elementwise arithmetic, operations a second.
    pub vector_flops: u64,
    /// Memory traffic, bytes a second.
    pub bytes: u64,
    /// Fixed time of one op, picoseconds.
    pub launch: u64,
}

impl Default for CostModel {
    /// Ratios of an SRAM die: 22.6 Tflop/s of matrix arithmetic, an eighth of that elementwise, 4 TB/s, 50 ns a launch.
    fn default() -> Self {
        CostModel { flops: 22_600_000_000_000, vector_flops: 2_800_000_000_000, bytes: 4_000_000_000_000, launch: 50_000 }
    }
}

const PICO: u128 = 1_000_000_000_000;

fn time(amount: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(amount) * PICO / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}

/// Elementary operations of one element of an elementwise op.
fn weight(op: &Op) -> Option<u64> {
    Some(match op {
        Op::Unary(f) => match f.0 {
            UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Not | UnaryFn::Sign | UnaryFn::Floor | UnaryFn::Ceil => 1,
            UnaryFn::Sqrt | UnaryFn::Rsqrt => 4,
            _ => 8,
        },
        Op::Binary(f) => match f.0 {
            BinaryFn::Div | BinaryFn::Rem => 4,
            BinaryFn::Pow | BinaryFn::Atan2 | BinaryFn::Zeta => 16,
            _ => 1,
        },
        Op::Compare(_) | Op::Select(_) | Op::Convert(_) | Op::BitcastConvert(_) => 1,
        _ => return None,
    })
}

impl CostModel {
    /// The cost of one op on these operand types.
    pub fn op(&self, op: &Op, ins: &[&Type], out: &Type) -> u64 {
        let components = |t: &&Type| t.components().iter().map(|c| c.bytes() as u64).fold(0u64, u64::saturating_add);
        let written = components(&out);
        let read = ins.iter().map(components).fold(0u64, u64::saturating_add);
        let largest = ins.iter().map(components).max().unwrap_or(0);
        let elements = out.components().iter().map(TensorType::elements).max().unwrap_or(0) as u64;
        // One picosecond a node makes the smaller of two otherwise equal programs the cheaper one.
        let cost = match op {
            Op::Input(_)
            | Op::Constant(_)
            | Op::Proj(_)
            | Op::Shard(_)
            | Op::Carry(_)
            | Op::LoopIndex(_)
            | Op::Repeat(_)
            | Op::While(_) => return 0,
            Op::Reshape(_) | Op::Broadcast(_) => 0,
            Op::Transpose(_) => time(written.saturating_mul(2), self.bytes),
            _ if op.is_composite() => time(elements, self.vector_flops) / 2,
            _ => match weight(op) {
                Some(w) => time(elements.saturating_mul(w), self.vector_flops),
                None => {
                    let axes = op.axes(ins, out);
                    let rate = if matches!(op, Op::DotGeneral(_)) { self.flops } else { self.vector_flops };
                    let work = time(axes.ops(&axes.full_ranges()), rate);
                    let moved = if matches!(op, Op::Reduce(_)) { largest } else { read.saturating_add(written) };
                    work.max(time(moved, self.bytes)).saturating_add(self.launch)
                }
            },
        };
        cost.saturating_add(1)
    }

    /// The cost of the live part of a graph; what is in a loop counts once an iteration.
    pub fn graph(&self, graph: &Graph) -> u64 {
        let live = graph.live();
        let nest = LoopNest::of(graph).unwrap_or_default();
        graph.values().filter(|v| live[v.index()]).fold(0u64, |sum, v| {
            let node = graph.node(v);
            let ins: SmallVec<[&Type; 4]> = node.operands.iter().map(|o| graph.ty(*o)).collect();
            sum.saturating_add(self.op(&node.op, &ins, &node.ty).saturating_mul(nest.runs(v, WHILE_RUNS) as u64))
        })
    }
}
