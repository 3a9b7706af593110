//! The reference interpreter: runs a graph node by node with each op's own `eval`. Slow, clear, and the oracle of everything else.

use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};

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
    if graph.inputs.len() != inputs.len() {
        return Err(InterpError::Count { need: graph.inputs.len(), got: inputs.len() });
    }
    for (i, t) in graph.inputs.iter().zip(inputs) {
        let need = graph.tensor_ty(i.value);
        if need != t.ty() {
            return Err(InterpError::Input { name: i.name.clone(), need: need.clone(), got: t.ty().clone() });
        }
    }
    let live = graph.live();
    let mut uses = live_uses(graph, &live);
    let mut values: Vec<Vec<Tensor>> = vec![Vec::new(); graph.nodes().len()];
    for v in graph.values().filter(|v| live[v.index()]) {
        if uses[v.index()] == 0 {
            continue; // an input that nobody reads
        }
        let node = graph.node(v);
        let made = match &node.op {
            Op::Input(i) => vec![inputs[i.index].clone()],
            Op::Proj(p) => values[node.operands[0].index()].get(p.index).cloned().into_iter().collect(),
            op => {
                let operands: Vec<&Tensor> = node.operands.iter().filter_map(|o| values[o.index()].first()).collect();
                op.eval(&operands, &node.ty)
            }
        };
        check(v, node.op.name(), &node.ty, &made)?;
        values[v.index()] = made;
        for o in &node.operands {
            uses[o.index()] -= 1;
            if uses[o.index()] == 0 {
                values[o.index()] = Vec::new();
            }
        }
    }
    Ok(graph.outputs.iter().filter_map(|o| values[o.value.index()].first().cloned()).collect())
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
    use crate::types::DType;

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
