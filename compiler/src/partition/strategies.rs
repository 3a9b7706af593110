//! Strategies of the literature as pins, so that a plan can be compared with them on the same planner and the same clock.
//!
//! They pin products and convolutions only; what lies between is planned around them. Where a value comes from tells its dimensions apart: the
//! first dimension of what is given anew each step is the batch, the second one of integers the sequence, and for Megatron's tensor parallel
//! the columns of a weight become a parallel dimension until a product sums it up.

use super::pins::Pin;
use crate::sharded::axes_of;
use girih_ir::axes::{Axes, DimUse, LoopKind};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::ops::Op;
use girih_ir::ops::reshape::reshape_groups;
use girih_ir::step::TrainStep;
use std::fmt;
use std::str::FromStr;

/// A strategy of the literature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Baseline {
    /// Data parallel: the batch over the rows, the sequence (or the batch again) over the columns.
    Data,
    /// Megatron's tensor parallel over the columns (columns of a weight, then rows of the next), data parallel over the rows.
    Megatron,
    /// Two-dimensional products: blocks of rows of the result over the rows of the mesh, of columns over its columns.
    Summa,
}

impl Baseline {
    /// Every one.
    pub const ALL: [Baseline; 3] = [Baseline::Data, Baseline::Megatron, Baseline::Summa];

    /// The name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Baseline::Data => "data",
            Baseline::Megatron => "megatron",
            Baseline::Summa => "summa",
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Baseline {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Baseline::ALL.into_iter().find(|b| b.name() == text);
        found.ok_or_else(|| format!("there is no strategy `{text}`: it is data, megatron or summa"))
    }
}

/// What a dimension is, as a set.
type Tags = u8;
const BATCH: Tags = 1;
const SEQUENCE: Tags = 2;
const PARALLEL: Tags = 4;

/// A dimension as the factors that it was merged from, outermost first.
type Dim = Vec<(Tags, usize)>;

fn tags(dim: &Dim) -> Tags {
    dim.iter().fold(0, |t, f| t | f.0)
}

/// The pin of each node of a fused step.
pub(super) fn pins(step: &TrainStep, baseline: Baseline) -> Vec<Option<Pin>> {
    let graph = &step.graph;
    let mut s = Tagger { graph, dims: vec![Vec::new(); graph.nodes().len()], weight: vec![false; graph.nodes().len()], baseline };
    for i in &graph.inputs {
        let ty = graph.tensor_ty(i.value);
        let tag = |d: usize| match (i.role, d) {
            (Role::Data, 0) => BATCH,
            (Role::Data, 1) if !ty.dtype.is_float() && ty.rank() == 2 => SEQUENCE,
            _ => 0,
        };
        s.dims[i.value.index()] = vec![ty.shape.iter().enumerate().map(|(d, e)| vec![(tag(d), *e)]).collect()];
        s.weight[i.value.index()] = i.role == Role::Param;
    }
    let live = graph.live();
    let mut pins = vec![None; graph.nodes().len()];
    for v in graph.values().filter(|v| live[v.index()]) {
        pins[v.index()] = s.node(v);
    }
    pins
}

struct Tagger<'a> {
    graph: &'a Graph,
    /// The dimensions of every component of every node.
    dims: Vec<Vec<Vec<Dim>>>,
    /// Whether a value is a weight, moved or converted at most.
    weight: Vec<bool>,
    baseline: Baseline,
}

impl Tagger<'_> {
    /// Tags the results of a node; its pin, if it is a product.
    fn node(&mut self, v: ValueId) -> Option<Pin> {
        let node = self.graph.node(v);
        let i = v.index();
        match &node.op {
            Op::Input(_) => return None,
            Op::Proj(p) => {
                self.dims[i] = self.dims[node.operands[0].index()].get(p.index).cloned().into_iter().collect();
                return None;
            }
            Op::Carry(_) | Op::Shard(_) => {
                self.dims[i] = self.dims[node.operands[0].index()].clone();
                return None;
            }
            Op::Repeat(_) | Op::While(_) => {
                self.dims[i] = node.operands.iter().map(|o| self.dims[o.index()].first().cloned().unwrap_or_default()).collect();
                return None;
            }
            Op::Reshape(_) => {
                let from = self.dims[node.operands[0].index()].first().cloned().unwrap_or_default();
                self.dims[i] = vec![reshaped(&from, self.graph.shape(node.operands[0]), self.graph.shape(v))];
                self.weight[i] = self.weight[node.operands[0].index()];
                return None;
            }
            _ => {}
        }
        self.weight[i] = node.operands.len() == 1
            && self.weight[node.operands[0].index()]
            && matches!(node.op, Op::Fused(_) | Op::Transpose(_) | Op::Convert(_) | Op::Slice(_));
        let axes = axes_of(self.graph, v);
        let mut loops: Vec<Dim> = axes.loops.iter().map(|l| vec![(0, l.extent)]).collect();
        for (o, uses) in node.operands.iter().zip(&axes.operands) {
            let Some(dims) = self.dims[o.index()].first() else { continue };
            for (dim, use_) in dims.iter().zip(uses) {
                if let DimUse::Loop(l) | DimUse::Window { loop_dim: l, .. } = use_
                    && tags(&loops[*l]) == 0
                    && tags(dim) != 0
                {
                    loops[*l].clone_from(dim);
                }
            }
        }
        let product = matches!(node.op, Op::DotGeneral(_) | Op::Convolution(_));
        let pin = product.then(|| self.pin(v, &axes, &mut loops));
        let of_dim = |u: &DimUse| if let DimUse::Loop(l) = u { loops[*l].clone() } else { Vec::new() };
        self.dims[i] = axes.results.iter().map(|r| r.iter().map(of_dim).collect()).collect();
        pin
    }

    fn pin(&self, v: ValueId, axes: &Axes, loops: &mut [Dim]) -> Pin {
        let free = |l: &usize| !matches!(axes.loops[*l].kind, LoopKind::Reduce(_));
        let can = |l: &usize| axes.loops[*l].kind != LoopKind::Whole && axes.loops[*l].extent > 1;
        // Loops of the result first.
        let order: Vec<usize> =
            (0..loops.len()).filter(|l| can(l) && free(l)).chain((0..loops.len()).filter(|l| can(l) && !free(l))).collect();
        let tagged = |loops: &[Dim], tag: Tags| order.iter().copied().find(|l| tags(&loops[*l]) & tag != 0);
        let batch = tagged(loops, BATCH).or_else(|| tagged(loops, SEQUENCE));
        match self.baseline {
            Baseline::Data => Pin { y: batch, x: tagged(loops, SEQUENCE).or(batch) },
            Baseline::Megatron => {
                let columns = || self.weight_columns(v, axes, &can);
                let x = tagged(loops, PARALLEL).or_else(columns);
                if let Some(l) = x {
                    let extent = axes.loops[l].extent;
                    loops[l] = vec![(PARALLEL, extent)];
                }
                Pin { y: batch.filter(|l| Some(*l) != x), x }
            }
            Baseline::Summa => self.blocks(v, axes, &can),
        }
    }

    /// The longest loop of the result along a weight's own dimensions, when one operand is a weight.
    fn weight_columns(&self, v: ValueId, axes: &Axes, can: &dyn Fn(&usize) -> bool) -> Option<usize> {
        let node = self.graph.node(v);
        let k = node.operands.iter().position(|o| self.weight[o.index()])?;
        let own = axes.operands[k].iter().filter_map(|u| if let DimUse::Loop(l) = u { Some(*l) } else { None });
        own.filter(|l| can(l) && !matches!(axes.loops[*l].kind, LoopKind::Reduce(_)))
            .max_by_key(|l| (axes.loops[*l].extent, usize::MAX - l))
    }

    /// Rows of the result over rows, columns over columns; a batch of products first.
    fn blocks(&self, v: ValueId, axes: &Axes, can: &dyn Fn(&usize) -> bool) -> Pin {
        let node = self.graph.node(v);
        let longest = |range: std::ops::Range<usize>| range.filter(can).max_by_key(|l| (axes.loops[*l].extent, usize::MAX - l));
        match &node.op {
            Op::DotGeneral(d) => {
                let batch = d.lhs_batch.len();
                let left = self.graph.tensor_ty(node.operands[0]).rank() - d.lhs_contract.len();
                let rank = self.graph.tensor_ty(v).rank();
                match batch {
                    0 => Pin { y: longest(0..left), x: longest(left..rank) },
                    1 => Pin { y: longest(0..1), x: longest(1..left) },
                    _ => Pin { y: longest(0..1), x: longest(1..batch) },
                }
            }
            Op::Convolution(c) => Pin { y: Some(c.out_dims[0]).filter(can), x: Some(c.out_dims[1]).filter(can) },
            _ => Pin::default(),
        }
    }
}

/// The dimensions behind a reshape: factors go where their extents go, and what is cut through keeps its tag on the outer part.
fn reshaped(from: &[Dim], from_shape: &[usize], to_shape: &[usize]) -> Vec<Dim> {
    let mut to: Vec<Dim> = to_shape.iter().map(|e| vec![(0, *e)]).collect();
    if from.len() != from_shape.len() || from_shape.contains(&0) {
        return to;
    }
    for g in reshape_groups(from_shape, to_shape) {
        let mut factors = g.from.flat_map(|d| from[d].iter().copied()).filter(|f| f.1 > 1);
        let mut current: Option<(Tags, usize)> = None;
        for d in g.to {
            let (mut left, mut dim) = (to_shape[d], Dim::new());
            while left > 1 {
                let Some((tag, extent)) = current.take().or_else(|| factors.next()) else { break };
                if extent <= left {
                    dim.push((tag, extent));
                    left = left.div_ceil(extent);
                } else {
                    dim.push((tag, left));
                    // The inner part is not what the tag stands for.
                    current = Some((0, (extent / left).max(1)));
                    left = 1;
                }
            }
            if !dim.is_empty() {
                to[d] = dim;
            }
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::ops::dot_general::DotGeneral;
    use girih_ir::types::{DType, TensorType};

    /// Two layers on a batch: up, then down.
    fn layers() -> (TrainStep, [ValueId; 2]) {
        let mut g = Graph::new("layers");
        let ty = |a: usize, b: usize| TensorType::new(DType::F32, [a, b]);
        let x = g.input("x", ty(64, 32), Role::Data);
        let (up, down) = (g.input("up", ty(32, 128), Role::Param), g.input("down", ty(128, 32), Role::Param));
        let dot = |g: &mut Graph, a, b| g.add(Op::DotGeneral(DotGeneral::matmul(2, 0, 0)), &[a, b]).unwrap();
        let h = dot(&mut g, x, up);
        let y = dot(&mut g, h, down);
        g.output("y", y);
        (TrainStep::inference(g), [h, y])
    }

    #[test]
    fn megatron_takes_columns_and_then_rows() {
        let (step, [up, down]) = layers();
        let found = pins(&step, Baseline::Megatron);
        // Loops are m, n and k.
        assert_eq!(found[up.index()], Some(Pin { y: Some(0), x: Some(1) }));
        assert_eq!(found[down.index()], Some(Pin { y: Some(0), x: Some(2) }));
    }

    #[test]
    fn others_cut_the_result() {
        let (step, both) = layers();
        for v in both {
            assert_eq!(pins(&step, Baseline::Data)[v.index()], Some(Pin { y: Some(0), x: Some(0) }));
            assert_eq!(pins(&step, Baseline::Summa)[v.index()], Some(Pin { y: Some(0), x: Some(1) }));
        }
    }

    #[test]
    fn tags_go_through_reshapes() {
        let merged = reshaped(&[vec![(BATCH, 8)], vec![(SEQUENCE, 16)], vec![(0, 768)]], &[8, 16, 768], &[128, 12, 64]);
        assert_eq!(merged, [vec![(BATCH, 8), (SEQUENCE, 16)], vec![(0, 12)], vec![(0, 64)]]);
        let split = reshaped(&merged, &[128, 12, 64], &[8, 16, 768]);
        assert_eq!(split.iter().map(tags).collect::<Vec<_>>(), [BATCH, SEQUENCE, 0]);
        assert_eq!(reshaped(&[vec![(PARALLEL, 768)]], &[768], &[12, 64]).iter().map(tags).collect::<Vec<_>>(), [PARALLEL, 0]);
    }
}
