//! Printing of the levels.

use crate::memory::MemoryPlan;
use crate::place::{PlacedGraph, Storage, TaskKind, View};
use crate::schedule::Schedule;
use crate::sharded::ShardedGraph;
use std::fmt::{self, Display, Formatter};
use std::ops::Range;

fn ranges(f: &mut Formatter<'_>, ranges: &[Range<usize>]) -> fmt::Result {
    f.write_str("[")?;
    for (i, r) in ranges.iter().enumerate() {
        write!(f, "{}{}:{}", if i > 0 { "," } else { "" }, r.start, r.end)?;
    }
    f.write_str("]")
}

fn views(f: &mut Formatter<'_>, views: &[View]) -> fmt::Result {
    f.write_str("(")?;
    for (i, v) in views.iter().enumerate() {
        if i > 0 {
            f.write_str(" ")?;
        }
        if v.buffer.0 == u32::MAX {
            f.write_str("-")?;
        } else {
            write!(f, "{}", v.buffer)?;
        }
        ranges(f, &v.part)?;
    }
    f.write_str(")")
}

impl Display for ShardedGraph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        writeln!(f, "== partition")?;
        writeln!(f, "mesh {}x{} cost {}", self.mesh.rows, self.mesh.cols, self.cost)?;
        for r in &self.stages.regions {
            writeln!(f, "stage {}x{} at {},{}", r.shape.rows, r.shape.cols, r.row, r.col)?;
        }
        if let Some(nodes) = self.reuse {
            writeln!(f, "reuse {nodes}")?;
        }
        for (v, before) in &self.remat {
            writeln!(f, "remat {v} before {before}")?;
        }
        for pair in &self.streamed {
            writeln!(f, "stream {pair}")?;
        }
        for (v, strategy) in self.strategies.iter().enumerate().filter(|(_, s)| !s.is_empty()) {
            write!(f, "split %{v} ")?;
            for (i, split) in strategy.iter().enumerate() {
                write!(f, "{}{split}", if i > 0 { "," } else { "" })?;
            }
            writeln!(f, " ; {}", self.step.graph.node(girih_ir::graph::ValueId::new(v)).op.name())?;
        }
        for nodes in self.stages.of.iter().enumerate().collect::<Vec<_>>().chunk_by(|a, b| a.1 == b.1) {
            writeln!(f, "on %{} %{} {}", nodes[0].0, nodes[nodes.len() - 1].0, nodes[0].1)?;
        }
        Ok(())
    }
}

impl Display for PlacedGraph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sharded)?;
        writeln!(f, "== place")?;
        f.write_str("dies")?;
        self.dies.iter().try_for_each(|d| write!(f, " {d}"))?;
        writeln!(f)?;
        for (i, b) in self.buffers.iter().enumerate() {
            write!(f, "buffer b{i} p{} {}.{} ", b.die, b.value, b.component)?;
            ranges(f, &b.part)?;
            write!(f, " {} ", b.dtype)?;
            match b.storage {
                Storage::Own => writeln!(f, "own")?,
                Storage::Alias(of) => writeln!(f, "alias {of}")?,
                Storage::State(pair) => writeln!(f, "state {pair}")?,
                Storage::Carry => writeln!(f, "carry")?,
            }
        }
        for (i, m) in self.messages.iter().enumerate() {
            write!(f, "message {i} p{} -> p{} {}", m.from, m.to, m.bytes)?;
            m.route.iter().try_for_each(|l| write!(f, " {l}"))?;
            writeln!(f)?;
        }
        for t in &self.tasks {
            write!(f, "task p{} ", t.die)?;
            match &t.kind {
                TaskKind::Compute { node, ranges: r } => {
                    write!(f, "compute {node} ")?;
                    ranges(f, r)?;
                }
                TaskKind::Copy => f.write_str("copy")?,
                TaskKind::LoopBegin(end) => write!(f, "loop_begin {end}")?,
                TaskKind::LoopExit(end) => write!(f, "loop_exit {end}")?,
                TaskKind::LoopEnd(end) => write!(f, "loop_end {end}")?,
                TaskKind::Load(i) => write!(f, "load {i}")?,
                TaskKind::Store(o) => write!(f, "store {o}")?,
                TaskKind::Send(m) => write!(f, "send {m}")?,
                TaskKind::Recv(m, None) => write!(f, "recv {m}")?,
                TaskKind::Recv(m, Some(monoid)) => write!(f, "recv_{} {m}", monoid.name())?,
            }
            f.write_str(" ")?;
            views(f, &t.reads)?;
            f.write_str(" -> ")?;
            views(f, &t.writes)?;
            writeln!(f)?;
        }
        let bytes: u64 = self.messages.iter().map(|m| m.bytes).sum();
        writeln!(f, "; {} tasks, {} transfers, {bytes} bytes moved", self.tasks.len(), self.messages.len())
    }
}

impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.placed)?;
        writeln!(f, "== schedule")?;
        for line in self.order.chunks(24) {
            f.write_str("order")?;
            line.iter().try_for_each(|t| write!(f, " {t}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Display for MemoryPlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.schedule)?;
        writeln!(f, "== memory")?;
        for (i, d) in self.dies.iter().enumerate() {
            writeln!(f, "die p{i} peak {} bound {} state {}", d.peak, d.lower_bound, d.state)?;
        }
        for (i, offset) in self.offsets.iter().enumerate() {
            writeln!(f, "offset b{i} {offset:#x}")?;
        }
        let peak = self.dies.iter().map(|d| d.peak).max().unwrap_or(0);
        writeln!(f, "; peak {peak} bytes a die")
    }
}
