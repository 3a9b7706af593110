//! The training step: forward, loss, backward, update, and what is carried to the next step.

use super::{LossSpec, OptimizerKind, OptimizerSpec, TrainError};
use crate::autodiff::gradients;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::literal::Literal;
use girih_ir::step::{StatePair, TrainStep, Weights};
use girih_ir::types::{DType, TensorType};

/// A training step and the values that its slots begin with.
#[derive(Clone, Debug)]
pub struct Training {
    /// The step. Outputs: new state, then `loss`, then (with optimizer `none`) `grad/<parameter>`, then kept forward outputs.
    pub step: TrainStep,
    /// Initial values of the optimizer's slots and step counter: zeros.
    pub slots: Weights,
}

/// Name of the state that counts steps.
pub const STEP: &str = "opt/step";

/// Builds the training step of a forward graph.
///
/// Every `param` input that the loss depends on is trained. `carried` names pairs of a `state` input and the output that is its
/// next value (running statistics). `keep` names forward outputs to return beside the loss.
pub fn train_step(
    forward: &Graph,
    loss: &LossSpec,
    optimizer: &OptimizerSpec,
    carried: &[(String, String)],
    keep: &[String],
) -> Result<Training, TrainError> {
    let mut graph = forward.clone();
    let forward_outputs = std::mem::take(&mut graph.outputs);
    graph.outputs.clone_from(&forward_outputs);
    let loss_value = loss.build(&mut graph)?;
    graph.outputs.clear();
    let params: Vec<(String, usize, ValueId)> =
        graph.inputs.iter().enumerate().filter(|(_, i)| i.role == Role::Param).map(|(k, i)| (i.name.clone(), k, i.value)).collect();
    if params.is_empty() {
        return Err(TrainError::NothingToTrain);
    }
    let wrt: Vec<ValueId> = params.iter().map(|p| p.2).collect();
    let found = gradients(&graph, loss_value, &wrt)?;
    if found.unreached.len() == params.len() {
        return Err(TrainError::NothingToTrain);
    }
    let (mut graph, grads) = (found.graph, found.gradients);
    graph.set_origin(&format!("optimizer {:?}", optimizer.kind).to_lowercase());
    let mut build = Build { state: Vec::new(), slots: Weights::new(), step: None };
    if optimizer.counts_steps() {
        let ty = TensorType::scalar(DType::F32);
        build.step = Some(build.slot(&mut graph, STEP.to_string(), ty));
    }
    if optimizer.kind != OptimizerKind::None {
        build.update(&mut graph, optimizer, &params, &grads);
    } else {
        params.iter().for_each(|(name, input, _)| build.state.push(pair(name, *input, None, Role::Param)));
    }
    for (input, output) in carried {
        let next = forward_outputs.iter().find(|o| o.name == *output).map(|o| o.value);
        let position = graph.inputs.iter().position(|i| i.name == *input);
        if let (Some(next), Some(position)) = (next, position) {
            graph.output(input.clone(), next);
            build.state.push(pair(input, position, Some(graph.outputs.len() - 1), Role::State));
        }
    }
    for (position, input) in graph.inputs.iter().enumerate() {
        if input.role == Role::State && build.state.iter().all(|s| s.input != position) {
            build.state.push(pair(&input.name, position, None, Role::State));
        }
    }
    let position = graph.outputs.len();
    graph.output("loss", loss_value);
    if optimizer.kind == OptimizerKind::None {
        params.iter().zip(&grads).for_each(|((name, ..), g)| graph.output(format!("grad/{name}"), *g));
    }
    for o in forward_outputs.iter().filter(|o| keep.contains(&o.name)) {
        graph.output(o.name.clone(), o.value);
    }
    build.state.sort_by_key(|s| s.input);
    let step = TrainStep { graph, state: build.state, loss: Some(position), seed: 0 };
    Ok(Training { step, slots: build.slots })
}

fn pair(name: &str, input: usize, output: Option<usize>, role: Role) -> StatePair {
    StatePair { name: name.to_string(), input, output, role }
}

struct Build {
    state: Vec<StatePair>,
    slots: Weights,
    step: Option<ValueId>,
}

impl Build {
    /// A new state input that begins with zeros; its pair is completed by [`Build::carry`].
    fn slot(&mut self, graph: &mut Graph, name: String, ty: TensorType) -> ValueId {
        self.slots.insert(name.clone(), Literal::zeros(ty.clone()));
        self.state.push(pair(&name, graph.inputs.len(), None, Role::State));
        graph.input(name, ty, Role::State)
    }

    /// Completes the pair of a state input.
    fn carry(&mut self, graph: &mut Graph, name: &str, next: ValueId) {
        graph.output(name, next);
        if let Some(s) = self.state.iter_mut().find(|s| s.name == name) {
            s.output = Some(graph.outputs.len() - 1);
        }
    }

    fn update(&mut self, graph: &mut Graph, optimizer: &OptimizerSpec, params: &[(String, usize, ValueId)], grads: &[ValueId]) {
        let factor = optimizer.clip(graph, grads);
        let rate = optimizer.rate(graph, self.step);
        for ((name, input, p), g) in params.iter().zip(grads) {
            let ty = graph.tensor_ty(*p).clone();
            let wide = ty.with_dtype(DType::F32);
            let mut g = graph.convert(*g, DType::F32);
            if let Some(factor) = factor {
                let factor = graph.broadcast(factor, &ty.shape, &[]);
                g = graph.times(g, factor);
            }
            let names: Vec<String> = optimizer.slots().iter().map(|s| format!("opt/{s}/{name}")).collect();
            let slots: Vec<ValueId> = names.iter().map(|n| self.slot(graph, n.clone(), wide.clone())).collect();
            let p = graph.convert(*p, DType::F32);
            let (new, next) = optimizer.update(graph, p, g, &slots, rate, self.step);
            let new = graph.convert(new, ty.dtype);
            self.state.push(pair(name, *input, None, Role::Param));
            self.carry(graph, name, new);
            names.iter().zip(next).for_each(|(n, v)| self.carry(graph, n, v));
        }
        if let Some(t) = self.step {
            let one = graph.splat_like(t, 1.0);
            let next = graph.plus(t, one);
            self.carry(graph, STEP, next);
        }
    }
}
