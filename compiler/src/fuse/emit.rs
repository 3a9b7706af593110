//! From groups back to a graph: a program a group, every other node as it was, views only where something outside a group reads them.

use super::FuseReport;
use super::flat::{Flat, Kind, Source};
use super::group::{Group, Groups};
use girih_ir::fused::{Expr, FusedProgram, Slot};
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::fused::Fused;
use girih_ir::ops::proj::Proj;
use girih_ir::ops::{InferError, Op};
use girih_ir::types::Type;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::Arc;

struct Emitter<'a> {
    graph: &'a Graph,
    flat: &'a Flat,
    groups: &'a Groups,
    out: Graph,
    values: Vec<Option<ValueId>>,
    report: FuseReport,
}

/// Builds the fused graph.
pub(super) fn emit(graph: &Graph, flat: &Flat, groups: &Groups) -> Result<(Graph, FuseReport), InferError> {
    let report = FuseReport { nodes_before: graph.live().iter().filter(|l| **l).count(), ..FuseReport::default() };
    let out = Graph::new(graph.name.clone());
    let mut e = Emitter { graph, flat, groups, out, values: vec![None; flat.nodes.len()], report };
    let inputs: Vec<ValueId> = graph.inputs.iter().map(|i| e.out.input(i.name.clone(), graph.tensor_ty(i.value).clone(), i.role)).collect();
    for (i, node) in flat.nodes.iter().enumerate() {
        if let Op::Input(input) = &node.op {
            e.values[i] = Some(inputs[input.index]);
        }
    }
    for g in &groups.order {
        let group = &groups.groups[*g as usize];
        let lone = group.members.len() == 1 && flat.nodes[group.members[0] as usize].kind != Kind::Elementwise;
        if lone { e.value(group.members[0]).map(|_| ())? } else { e.program(group)? }
    }
    for (output, at) in graph.outputs.iter().zip(&flat.outputs) {
        let v = e.value(*at)?;
        e.out.output(output.name.clone(), v);
    }
    e.report.nodes_after = e.out.live().iter().filter(|l| **l).count();
    Ok((e.out, e.report))
}

/// A program under construction.
#[derive(Default)]
struct Builder {
    program: FusedProgram,
    slots: FxHashMap<Expr, Slot>,
    operands: Vec<(u32, SmallVec<[Option<usize>; 6]>)>,
}

impl Builder {
    /// The slot of an instruction; an equal one is used again.
    fn slot(&mut self, e: Expr) -> Slot {
        *self.slots.entry(e).or_insert_with(|| {
            self.program.body.push(e);
            self.program.body.len() as Slot - 1
        })
    }
}

impl Emitter<'_> {
    fn origin(&mut self, at: u32) {
        let origin = self.flat.nodes[at as usize].origin;
        self.out.set_origin(self.graph.origin(origin));
    }

    /// The value of a node, emitted now when it is a view or stands alone.
    fn value(&mut self, at: u32) -> Result<ValueId, InferError> {
        if let Some(v) = self.values[at as usize] {
            return Ok(v);
        }
        let node = &self.flat.nodes[at as usize];
        let mut operands: SmallVec<[ValueId; 4]> = SmallVec::new();
        for o in &node.operands {
            operands.push(self.value(*o)?);
        }
        self.origin(at);
        let v = self.out.add(node.op.clone(), &operands)?;
        self.values[at as usize] = Some(v);
        Ok(v)
    }

    /// Emits a group as one `map` or `rows`.
    fn program(&mut self, group: &Group) -> Result<(), InferError> {
        let flat = self.flat;
        let own = self.groups.of[group.members[0] as usize];
        let mut b = Builder::default();
        let mut slots: FxHashMap<u32, Slot> = FxHashMap::default();
        for m in &group.members {
            let args: SmallVec<[Slot; 3]> = flat.sources[*m as usize].iter().map(|s| source_slot(flat, &mut b, &slots, s)).collect();
            let e = match &flat.nodes[*m as usize].op {
                Op::Unary(f) => Expr::Unary(f.0, args[0]),
                Op::Binary(f) => Expr::Binary(f.0, args[0], args[1]),
                Op::Compare(f) => Expr::Compare(f.0, args[0], args[1]),
                Op::Select(_) => Expr::Select(args[0], args[1], args[2]),
                Op::Convert(c) => Expr::Convert(c.to, args[0]),
                Op::BitcastConvert(c) => Expr::Bitcast(c.to, args[0]),
                Op::Reduce(r) => Expr::Reduce(r.monoid, args[0]),
                op => unreachable!("{} is not fusable", op.name()),
            };
            let slot = b.slot(e);
            slots.insert(*m, slot);
        }
        let outside = |m: &u32| flat.pinned[*m as usize] || flat.users[*m as usize].iter().any(|u| self.groups.of[*u as usize] != own);
        let results: Vec<u32> = group.members.iter().copied().filter(outside).collect();
        for r in &results {
            if !b.program.outputs.contains(&slots[r]) {
                b.program.outputs.push(slots[r]);
            }
        }
        self.report.fused += group.members.len();
        self.report.longest = self.report.longest.max(b.program.body.len());
        *(if group.cols == 0 { &mut self.report.maps } else { &mut self.report.rows }) += 1;
        self.finish(group, b, &slots, &results)
    }

    fn finish(&mut self, group: &Group, b: Builder, slots: &FxHashMap<u32, Slot>, results: &[u32]) -> Result<(), InferError> {
        let (mut ins, mut maps) = (Vec::new(), Vec::new());
        for (node, dims) in &b.operands {
            let v = self.value(*node)?;
            // Extents of 1 that do not move with a loop are dropped by a view.
            let kept: Vec<usize> = dims.iter().zip(self.out.shape(v)).filter(|(d, _)| d.is_some()).map(|(_, e)| *e).collect();
            self.origin(*node);
            ins.push(self.out.reshape(v, &kept));
            maps.push(dims.iter().flatten().copied().collect());
        }
        let per_row = b.program.per_row();
        let outputs = b.program.outputs.clone();
        let last = results.last().or(group.members.last()).copied().unwrap_or_default();
        self.origin(last);
        let op = Fused { program: Arc::new(b.program), loops: group.shape.clone(), cols: group.cols, operands: maps };
        let fused = self.out.add(op.into(), &ins)?;
        for r in results {
            let slot = slots[r];
            let component = outputs.iter().position(|o| *o == slot).unwrap_or_default();
            self.origin(*r);
            let mut v = match self.out.ty(fused) {
                Type::Tensor(_) => fused,
                Type::Tuple(_) => self.out.add(Proj { index: component }.into(), &[fused])?,
            };
            // A full-size value that is the same all along its row is made once a row and repeated outside.
            if group.cols > 0 && per_row[slot as usize] && !self.groups.per_row[*r as usize] {
                let rows: Vec<usize> = (0..group.shape.len() - group.cols).collect();
                v = self.out.broadcast(v, &group.shape, &rows);
            }
            self.values[*r as usize] = Some(v);
        }
        Ok(())
    }
}

fn source_slot(flat: &Flat, b: &mut Builder, slots: &FxHashMap<u32, Slot>, source: &Source) -> Slot {
    match source {
        Source::Number(dtype, bits) => b.slot(Expr::Const(*dtype, *bits)),
        Source::Index(dtype, loop_dim) => b.slot(Expr::Index(*dtype, *loop_dim as u32)),
        Source::Node(n, dims) => match slots.get(n) {
            Some(slot) => *slot,
            None => {
                let known = b.operands.iter().position(|(m, d)| m == n && d == dims);
                let k = known.unwrap_or_else(|| {
                    b.operands.push((*n, dims.clone()));
                    b.program.inputs.push(flat.nodes[*n as usize].tensor().dtype);
                    b.operands.len() - 1
                });
                b.slot(Expr::Input(k as u32))
            }
        },
    }
}
