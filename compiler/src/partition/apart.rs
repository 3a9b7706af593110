//! Row-wise ops in parts: every reduction of a row by itself, and behind them the rest of the program point by point.
//!
//! A `rows` op keeps its rows whole, so a softmax has all keys of a query on one die. In parts, its reductions are loops like those of any sum.
//! Dies that have parts of a row combine its largest element, then the sum of the exponentials relative to that, and then go on with their own
//! points: the pair that an online softmax carries, each combined by a monoid of its own. A part of a row without a finite element has the
//! neutral element of `max` and adds nothing. The product behind the softmax sums over the keys as it always could.
//! What the parts share is computed again in each of them instead of being kept.

use girih_ir::fused::{Expr, FusedProgram, Slot};
use girih_ir::graph::{Graph, Node, ValueId};
use girih_ir::ops::fused::Fused;
use girih_ir::ops::proj::Proj;
use girih_ir::ops::{InferError, Op};
use girih_ir::types::DType;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

/// A graph with row-wise ops in parts.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    pub graph: Graph,
    /// For each live node of the graph before, what stands for it; of what makes a tuple, its first component.
    pub map: Vec<Option<ValueId>>,
    /// The parts of each op.
    pub parts: FxHashMap<ValueId, Parts>,
}

/// The nodes that do the work of one op.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// One a reduction, with the loops of the op.
    pub reductions: Vec<ValueId>,
    /// What is computed point by point, with the loops of the op.
    pub points: Option<ValueId>,
    /// One value a result of the op.
    components: Vec<ValueId>,
}

/// The op, when it can be in parts: rows are reduced on the way to its results, and cannot be cut as it is.
pub(super) fn separable(op: &Op) -> Option<&Fused> {
    let Op::Fused(f) = op else { return None };
    (f.cols > 0 && f.program.has_reduction() && f.reduction().is_none() && f.program.types().is_ok()).then_some(f)
}

/// The graph with these ops in parts.
pub(super) fn apart(graph: &Graph, ops: &FxHashSet<ValueId>) -> Result<Apart, InferError> {
    let mut parts: FxHashMap<ValueId, Parts> = FxHashMap::default();
    let (live, inputs) = (graph.live(), graph.inputs.iter().map(|i| i.value).collect::<FxHashSet<_>>());
    // The order in which nodes are rewritten.
    let mut visited = graph.values().filter(|v| live[v.index()] && !inputs.contains(v));
    let rewrite = |out: &mut Graph, node: &Node, operands: &[ValueId]| {
        let value = visited.next();
        if let (Some(v), Some(f)) = (value.filter(|v| ops.contains(v)), separable(&node.op)) {
            let made = Writer { out, fused: f, operands, made: FxHashMap::default() }.write()?;
            let first = made.components[0];
            parts.insert(v, made);
            return Ok(first);
        }
        match (&node.op, node.operands.first().and_then(|o| parts.get(o))) {
            (Op::Proj(p), Some(made)) => Ok(made.components[p.index]),
            (op, _) => out.add(op.clone(), operands),
        }
    };
    let (graph, map) = graph.rewritten(rewrite)?;
    Ok(Apart { graph, map, parts })
}

/// The iteration space of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// Rows and columns, and the part reduces.
    Reducing,
    /// Every point.
    Points,
    /// Rows only.
    Rows,
}

/// Writes the parts of one op.
struct Writer<'a> {
    out: &'a mut Graph,
    fused: &'a Fused,
    operands: &'a [ValueId],
    /// The reductions that are there.
    made: FxHashMap<Slot, ValueId>,
}

impl Writer<'_> {
    fn write(mut self) -> Result<Parts, InferError> {
        let program = Arc::clone(&self.fused.program);
        let mut parts = Parts::default();
        for (slot, _) in program.body.iter().enumerate().filter(|(_, e)| matches!(e, Expr::Reduce(..))) {
            let node = self.part(&[slot as Slot], Space::Reducing)?;
            self.made.insert(slot as Slot, node);
            parts.reductions.push(node);
        }
        let (types, per_row) = (program.types().unwrap_or_default(), program.per_row());
        // A reduction that is itself a result, in the type of the result.
        let as_it_is = |w: &Self, s: Slot| w.made.get(&s).copied().filter(|v| w.out.tensor_ty(*v).dtype == types[s as usize]);
        let (rows, points): (Vec<Slot>, Vec<Slot>) = program.outputs.iter().partition(|s| per_row[**s as usize]);
        let rows: Vec<Slot> = rows.into_iter().filter(|s| as_it_is(&self, *s).is_none()).collect();
        let of_rows = if rows.is_empty() { None } else { Some(self.part(&rows, Space::Rows)?) };
        parts.points = if points.is_empty() { None } else { Some(self.part(&points, Space::Points)?) };
        let (mut row, mut point) = (0, 0);
        for slot in &program.outputs {
            let component = match (per_row[*slot as usize], as_it_is(&self, *slot)) {
                (true, Some(reduction)) => reduction,
                (true, None) => self.component(of_rows, rows.len(), &mut row)?,
                (false, _) => self.component(parts.points, points.len(), &mut point)?,
            };
            parts.components.push(component);
        }
        Ok(parts)
    }

    /// The next of the results of a part.
    fn component(&mut self, node: Option<ValueId>, count: usize, next: &mut usize) -> Result<ValueId, InferError> {
        let node = node.expect("a part is there for each of its results");
        let index = std::mem::replace(next, *next + 1);
        if count == 1 { Ok(node) } else { self.out.add(Op::Proj(Proj { index }), &[node]) }
    }

    /// The part of the program that makes these slots from the operands and the reductions that are there.
    fn part(&mut self, wanted: &[Slot], space: Space) -> Result<ValueId, InferError> {
        let (fused, program) = (self.fused, &*self.fused.program);
        let types = program.types().unwrap_or_default();
        let mut needed = vec![false; program.body.len()];
        wanted.iter().for_each(|s| needed[*s as usize] = true);
        for s in (0..program.body.len()).rev().filter(|s| !self.made.contains_key(&(*s as Slot))).collect::<Vec<_>>() {
            if needed[s] {
                program.body[s].arguments().iter().for_each(|a| needed[*a as usize] = true);
            }
        }
        let mut p = FusedProgram::default();
        let (mut operands, mut maps): (Vec<ValueId>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
        let mut slots: Vec<Slot> = vec![0; program.body.len()];
        for s in (0..program.body.len()).filter(|s| needed[*s]) {
            let read = match (self.made.get(&(s as Slot)), program.body[s]) {
                (Some(reduction), _) => Some((*reduction, (0..fused.rows()).collect())),
                (None, Expr::Input(k)) => Some((self.operands[k as usize], fused.operands[k as usize].clone())),
                _ => None,
            };
            if let Some((value, map)) = read {
                let dtype = self.out.tensor_ty(value).dtype;
                p.body.push(Expr::Input(operands.len() as u32));
                p.inputs.push(dtype);
                operands.push(value);
                maps.push(map);
                converted(&mut p, dtype, types[s]);
            } else {
                let mut expr = program.body[s].renamed(|a| slots[a as usize]);
                if let Expr::Reduce(m, a) = expr {
                    // Partial results are not rounded; what reads the reduction rounds it.
                    p.body.extend(Some(m.carried_in(types[s])).filter(|wide| *wide != types[s]).map(|wide| Expr::Convert(wide, a)));
                    expr = Expr::Reduce(m, if m.carried_in(types[s]) == types[s] { a } else { p.body.len() as Slot - 1 });
                }
                p.body.push(expr);
            }
            slots[s] = p.body.len() as Slot - 1;
        }
        p.outputs = wanted.iter().map(|s| slots[*s as usize]).collect();
        let (loops, cols) = match space {
            Space::Reducing => (fused.loops.clone(), fused.cols),
            Space::Points => (fused.loops.clone(), 0),
            Space::Rows => (fused.loops[..fused.rows()].into(), 0),
        };
        self.out.add(Op::Fused(Fused { program: Arc::new(p), loops, cols, operands: maps }), &operands)
    }
}

/// The last slot in the type that its readers expect.
fn converted(p: &mut FusedProgram, is: DType, want: DType) {
    if is != want {
        p.body.push(Expr::Convert(want, p.body.len() as Slot - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::axes::LoopKind;
    use girih_ir::graph::Role;
    use girih_ir::interp;
    use girih_ir::scalar::{BinaryFn, Monoid, UnaryFn};
    use girih_ir::tensor::Tensor;
    use girih_ir::types::{Dims, TensorType};

    /// A softmax with its statistics, on scores below a diagonal.
    fn softmax(dtype: DType) -> Graph {
        let mut g = Graph::new("softmax");
        let x = g.input("x", TensorType::new(dtype, [3, 7]), Role::Data);
        let body = vec![
            Expr::Input(0),
            Expr::Index(DType::I32, 0),
            Expr::Index(DType::I32, 1),
            Expr::Compare(girih_ir::scalar::CompareFn::Ge, 1, 2),
            Expr::Const(dtype, f64::NEG_INFINITY.to_bits()),
            Expr::Select(3, 0, 4),
            Expr::Reduce(Monoid::Max, 5),
            Expr::Binary(BinaryFn::Sub, 5, 6),
            Expr::Unary(UnaryFn::Exp, 7),
            Expr::Reduce(Monoid::Sum, 8),
            Expr::Binary(BinaryFn::Div, 8, 9),
            Expr::Unary(UnaryFn::Log, 9),
            Expr::Binary(BinaryFn::Add, 11, 6),
        ];
        let program = Arc::new(FusedProgram { inputs: vec![dtype], body, outputs: vec![10, 12, 6, 8] });
        let rows = Fused { program, loops: Dims::from_slice(&[3, 7]), cols: 1, operands: vec![vec![0, 1]] };
        let all = g.add(Op::Fused(rows), &[x]).unwrap();
        for (index, name) in ["p", "lse", "max", "e"].into_iter().enumerate() {
            let value = g.add(Op::Proj(Proj { index }), &[all]).unwrap();
            g.output(name, value);
        }
        g
    }

    #[test]
    fn parts_compute_what_the_op_did() {
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            let graph = softmax(dtype);
            let op = graph.values().find(|v| separable(&graph.node(*v).op).is_some()).unwrap();
            let split = apart(&graph, &FxHashSet::from_iter([op])).unwrap();
            let parts = &split.parts[&op];
            assert_eq!(parts.reductions.len(), 2);
            for (reduction, monoid) in parts.reductions.iter().zip([Monoid::Max, Monoid::Sum]) {
                let kinds: Vec<LoopKind> = crate::sharded::axes_of(&split.graph, *reduction).loops.iter().map(|l| l.kind).collect();
                assert_eq!(kinds, [LoopKind::Parallel, LoopKind::Reduce(monoid)]);
            }
            assert!(split.graph.values().all(|v| separable(&split.graph.node(v).op).is_none()));
            let x = Tensor::new_float(TensorType::new(dtype, [3, 7]), (0..21).map(|i| f64::from(i * 37 % 17) * 0.5 - 3.0).collect());
            let (want, got) = (interp::eval(&graph, &[x.clone()]).unwrap(), interp::eval(&split.graph, &[x]).unwrap());
            assert_eq!(want, got, "{dtype}");
        }
    }

    #[test]
    fn other_ops_stay() {
        let graph = softmax(DType::F32);
        let split = apart(&graph, &FxHashSet::default()).unwrap();
        assert_eq!(split.graph.to_string(), graph.to_string());
        assert!(split.parts.is_empty());
    }
}
