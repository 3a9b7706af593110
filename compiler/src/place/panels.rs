//! Panels: a large share that others read is computed in parts, so that each part travels while the next one is computed.

use super::assemble::Placer;
use crate::sharded::{AxisSet, Shard, axes_of};
use girih_ir::axes::{Axes, DimUse, LoopKind, box_contains, box_dims};
use girih_ir::graph::ValueId;
use girih_ir::types::element_count;
use std::ops::Range;

/// How many panels a share has.
const PANELS: usize = 3;
/// A panel has at least so many bytes: each is one more launch on its die and one more message to each reader.
const PANEL_BYTES: usize = 2 << 20;

impl Placer<'_> {
    /// The ranges of the parts in which a die computes its share of a node, one after the other.
    pub(super) fn panels(&self, value: ValueId, axes: &Axes, shard: &Shard, die: u32) -> Vec<Vec<Range<usize>>> {
        let components = self.graph().ty(value).components();
        let bytes: usize = components.iter().zip(&shard.results).map(|(t, b)| element_count(&box_dims(b)) * t.dtype.size()).sum();
        let large = self.dies() > 1 && !shard.partial && bytes >= PANELS * PANEL_BYTES;
        let mut components = (0..components.len() as u32).filter(|_| large);
        let Some(cut) = components.find_map(|c| self.panel_loop(value, axes, shard, die, c)) else { return vec![shard.ranges.clone()] };
        let Range { start, end } = shard.ranges[cut];
        let at = |i: usize| start + i * (end - start) / PANELS;
        let panel = |i: usize| {
            let mut ranges = shard.ranges.clone();
            ranges[cut] = at(i)..at(i + 1);
            ranges
        };
        (0..PANELS).map(panel).collect()
    }

    /// The loop along which a share is cut: one that the first reader of other parts does not cut further, so that each panel has something for all
    /// dies that wait.
    fn panel_loop(&self, value: ValueId, axes: &Axes, shard: &Shard, die: u32, component: u32) -> Option<usize> {
        let (graph, sharded) = (self.graph(), self.sharded());
        let shape = self.shape((value, component));
        let split = |v: ValueId, l: usize| sharded.strategies[v.index()].get(l).map_or(AxisSet::NONE, |s| s.axes());
        self.readers.get(&(value, component))?.iter().find_map(|(reader, operand)| {
            let read = axes_of(graph, *reader);
            let wanted = sharded.shard(*reader, &read, die as usize)?;
            if box_contains(&shard.results[component as usize], &read.operand_box(*operand, shape, &wanted.ranges)) {
                return None;
            }
            let along = |(made, used): (&DimUse, &DimUse)| {
                let DimUse::Loop(l) = made else { return None };
                let further = match used {
                    DimUse::Loop(r) => !split(value, *l).has(split(*reader, *r)),
                    DimUse::Whole => false,
                    _ => true,
                };
                let everywhere = axes.results.iter().all(|r| r.contains(made));
                let free = axes.loops[*l].kind == LoopKind::Parallel && shard.ranges[*l].len() >= PANELS;
                (free && everywhere && !further).then_some(*l)
            };
            let loops = axes.results[component as usize].iter().zip(&read.operands[*operand]).filter_map(along);
            loops.max_by_key(|l| shard.ranges[*l].len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::product;
    use super::super::{TaskKind, View};
    use super::PANELS;
    use crate::schedule::schedule;
    use crate::sharded::AxisSet;

    #[test]
    fn a_panel_leaves_before_the_next_is_computed() {
        // Rows and columns of the product over the mesh; its reader has whole rows.
        let (dot, placed) = product([2048, 64, 4096], (2, 2), [AxisSet::Y, AxisSet::X, AxisSet::NONE], [AxisSet::YX, AxisSet::NONE]);
        let schedule = schedule(placed);
        for die in 0..4 {
            let tasks = schedule.order.iter().map(|t| &schedule.placed.tasks[*t as usize]).filter(|t| t.die == die);
            let of_product = |v: &View| schedule.placed.buffers[v.buffer.index()].value == dot;
            let found: Vec<char> = tasks
                .filter_map(|t| match &t.kind {
                    TaskKind::Compute { node, ranges } if *node == dot => {
                        assert_eq!(ranges[0].len(), 1024, "panels are cut along the columns, which the reader does not cut");
                        Some('c')
                    }
                    TaskKind::Send(_) if t.reads.iter().any(of_product) => Some('s'),
                    _ => None,
                })
                .collect();
            assert_eq!(found.iter().collect::<String>(), "cs".repeat(PANELS), "die {die}");
        }
    }
}
