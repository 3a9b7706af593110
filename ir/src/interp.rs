//! The reference interpreter: runs a graph node by node with each op's own `eval`. Slow, clear, and the oracle of everything else.

use crate::graph::loops::{LoopError, LoopNest};
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, Type};

/// Why a graph cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// Too few or too many inputs.
    #[error("E0250: the graph takes {need} inputs, but {got} were given")]
    Count {
        /// Inputs of the graph.
        need: usize,
        /// Inputs that were given.
        got: usize,
    },
    /// An input of another type.
    #[error("E0251: input `{name}` is {need}, but {got} was given")]
    Input {
        /// Its name.
        name: String,
        /// Type in the graph.
        need: TensorType,
        /// Type that was given.
        got: TensorType,
    },
    /// The loops of the graph make no sense.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// An op returned something else than its type says: a bug of the op.
    #[error("E0252: {value} = {op} should make {need}, but made {got}; this is a bug of the op's reference evaluation")]
    Result {
        /// The value.
        value: ValueId,
        /// The op.
        op: &'static str,
        /// Its type.
        need: Type,
        /// What came out.
        got: String,
    },
}

/// Runs a well-typed graph on inputs in order and returns the outputs in order. Values are dropped after their last use.
pub fn eval(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, InterpError> {
    eval_by(graph, inputs, |_, op, operands, ty| Ok(op.eval(operands, ty)))
}

/// The same with another meaning of the ops: `op` is given each value that is computed, its op, operands and type.
pub(crate) fn eval_by<E, F>(graph: &Graph, inputs: &[Tensor], op: F) -> Result<Vec<Tensor>, E>
where
    E: From<InterpError>,
    F: FnMut(ValueId, &Op, &[&Tensor], &Type) -> Result<Vec<Tensor>, E>,
{
    if graph.inputs.len() != inputs.len() {
        return Err(InterpError::Count { need: graph.inputs.len(), got: inputs.len() }.into());
    }
    for (i, t) in graph.inputs.iter().zip(inputs) {
        let need = graph.tensor_ty(i.value);
        if need != t.ty() {
            return Err(InterpError::Input { name: i.name.clone(), need: need.clone(), got: t.ty().clone() }.into());
        }
    }
    let nest = LoopNest::of(graph).map_err(InterpError::from)?;
    let values = vec![Vec::new(); graph.nodes().len()];
    let mut run = Run { graph, nest: &nest, inputs, live: graph.live(), uses: Vec::new(), values, op };
    run.uses = live_uses(graph, &run.live);
    for v in graph.values().filter(|v| run.live[v.index()] && nest.innermost(*v).is_none()).collect::<Vec<_>>() {
        run.node(v)?;
        run.release(v);
    }
    Ok(graph.outputs.iter().filter_map(|o| run.values[o.value.index()].first().cloned()).collect())
}

/// A run of the interpreter.
struct Run<'a, F> {
    graph: &'a Graph,
    nest: &'a LoopNest,
    inputs: &'a [Tensor],
    live: Vec<bool>,
    /// Readers of each value that have not run; values inside loops are dropped by the iteration instead.
    uses: Vec<usize>,
    values: Vec<Vec<Tensor>>,
    /// What ops mean.
    op: F,
}

impl<E, F> Run<'_, F>
where
    E: From<InterpError>,
    F: FnMut(ValueId, &Op, &[&Tensor], &Type) -> Result<Vec<Tensor>, E>,
{
    /// Computes one value; for the end of a loop, runs the loop.
    fn node(&mut self, v: ValueId) -> Result<(), E> {
        let node = self.graph.node(v);
        if self.uses[v.index()] == 0 {
            return Ok(()); // an input that nobody reads
        }
        let made = match &node.op {
            Op::Input(i) => vec![self.inputs[i.index].clone()],
            Op::Proj(p) => self.values[node.operands[0].index()].get(p.index).cloned().into_iter().collect(),
            Op::Repeat(_) | Op::While(_) => match self.nest.ending_at(v) {
                Some(l) => self.iterate(l)?,
                None => Vec::new(),
            },
            op => {
                let operands: Vec<&Tensor> = node.operands.iter().filter_map(|o| self.values[o.index()].first()).collect();
                (self.op)(v, op, &operands, &node.ty)?
            }
        };
        check(v, node.op.name(), &node.ty, &made)?;
        self.values[v.index()] = made;
        Ok(())
    }

    /// Drops what a node outside of all loops was the last to read.
    fn release(&mut self, v: ValueId) {
        let mut readers = vec![v];
        while let Some(reader) = readers.pop() {
            for o in &self.graph.node(reader).operands {
                self.uses[o.index()] -= 1;
                if self.uses[o.index()] == 0 {
                    self.values[o.index()] = Vec::new();
                }
            }
            if let Some(l) = self.nest.ending_at(reader) {
                readers.extend(self.nest.loops[l].members.iter().filter(|m| self.live[m.index()]));
            }
        }
    }

    /// Runs a loop and returns what its slots hold at last.
    fn iterate(&mut self, l: usize) -> Result<Vec<Tensor>, E> {
        let this = &self.nest.loops[l];
        let first = |run: &Self, v: ValueId| run.values[v.index()].first().cloned();
        let mut slots: Vec<Tensor> = this.carries.iter().filter_map(|c| first(self, self.graph.node(*c).operands[0])).collect();
        let before = self.nest.predicate_members(self.graph, l);
        let given = |v: &ValueId| {
            matches!(self.graph.node(*v).op, Op::Carry(_) | Op::LoopIndex(_)) && (this.carries.contains(v) || this.index == Some(*v))
        };
        let body: Vec<ValueId> = this.members.iter().copied().filter(|v| !given(v) && self.live[v.index()]).collect();
        let mut trip = 0;
        while this.trips.is_none_or(|n| trip < n) {
            for (c, t) in this.carries.iter().zip(&slots) {
                self.values[c.index()] = vec![t.clone()];
            }
            if let Some(i) = this.index {
                self.values[i.index()] = vec![Tensor::scalar_int(DType::I64, trip as i64)];
            }
            if let Some(p) = this.predicate {
                for v in before.iter().filter(|v| !given(v)) {
                    self.node(*v)?;
                }
                if first(self, p).is_none_or(|t| t.ints()[0] == 0) {
                    break;
                }
            }
            for v in body.iter().filter(|v| !before.contains(v)) {
                self.node(*v)?;
            }
            slots = this.next.iter().filter_map(|v| first(self, *v)).collect();
            trip += 1;
        }
        Ok(slots)
    }
}

/// How many live nodes and outputs read each value.
fn live_uses(graph: &Graph, live: &[bool]) -> Vec<usize> {
    let mut uses = vec![0; live.len()];
    let readers = graph.nodes().iter().zip(live).filter(|(_, l)| **l);
    readers.flat_map(|(n, _)| &n.operands).for_each(|o| uses[o.index()] += 1);
    graph.outputs.iter().for_each(|o| uses[o.value.index()] += 1);
    uses
}

fn check(value: ValueId, op: &'static str, need: &Type, made: &[Tensor]) -> Result<(), InterpError> {
    if need.components().iter().eq(made.iter().map(Tensor::ty)) {
        return Ok(());
    }
    let got: Vec<String> = made.iter().map(|t| t.ty().to_string()).collect();
    Err(InterpError::Result { value, op, need: need.clone(), got: format!("({})", got.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::random::{random_graph, random_inputs};
    use crate::text::parse_graph;

    #[test]
    fn runs_a_small_graph() {
        let g = parse_graph(
            "graph (%0: f32[2,2] input \"x\") {
               %1 = dot_general %0, %0 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
               %2 = reduce %1 {monoid = sum, dims = [0, 1]}
               %9 = neg %0
               return %2 \"sum\", %1 \"square\", %0 \"same\"
             }",
        )
        .unwrap();
        let x = Tensor::new_float(TensorType::new(DType::F32, [2, 2]), vec![1.0, 2.0, 3.0, 4.0]);
        let out = eval(&g, std::slice::from_ref(&x)).unwrap();
        assert_eq!(out[0].floats(), [54.0]);
        assert_eq!(out[1].floats(), [7.0, 10.0, 15.0, 22.0]);
        assert_eq!(out[2], x);
    }

    #[test]
    fn refuses_wrong_inputs() {
        let g = parse_graph("graph (%0: f32[2] input \"x\") { return %0 \"y\" }").unwrap();
        assert_eq!(eval(&g, &[]), Err(InterpError::Count { need: 1, got: 0 }));
        let wrong = Tensor::scalar_int(DType::I32, 1);
        assert!(eval(&g, &[wrong]).unwrap_err().to_string().starts_with("E0251: input `x` is f32[2]"));
    }

    #[test]
    fn random_graphs_run() {
        for seed in 0..100 {
            let g = random_graph(seed, 30);
            let out = eval(&g, &random_inputs(&g, seed)).unwrap_or_else(|e| panic!("{e}\n{g}"));
            assert_eq!(out.len(), g.outputs.len());
        }
    }
}
