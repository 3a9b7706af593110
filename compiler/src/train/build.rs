//! The training step: forward, loss, backward, update, and what is carried to the next step.

use super::loss::wide;
use super::{LossSpec, OptimizerKind, OptimizerSpec, TrainError, listed};
use crate::autodiff::gradients;
use crate::canonicalize::canonicalize;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::step::{StatePair, StepError, TrainStep, Weights};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

/// A training step and the values that its slots begin with.
#[derive(Clone, Debug)]
pub struct Training {
    /// The step. Outputs: new state, then `loss`, then (with optimizer `none`) `grad/<parameter>`, then kept forward outputs.
    pub step: TrainStep,
    /// Initial values of the optimizer's slots and step counter: zeros.
    pub slots: Weights,
    /// Slots that begin as a wide copy of a parameter: slot, parameter.
    pub copies: Vec<(String, String)>,
    /// Parameters on which the loss does not depend; an optimizer leaves them as they are.
    pub unreached: Vec<String>,
}

impl Training {
    /// Parameters and state with the slots' initial values added. Slots that are there already, from a checkpoint, stay.
    pub fn initial(&self, mut weights: Weights) -> Result<Weights, StepError> {
        for (slot, param) in &self.copies {
            let pair = self.step.state.iter().find(|s| s.name == *slot);
            if let (Some(pair), Some(from), false) = (pair, weights.get(param), weights.contains_key(slot)) {
                let copy = Tensor::from_literal(from).convert(self.step.state_type(pair).dtype).to_literal();
                weights.insert(slot.clone(), copy);
            }
        }
        for (name, value) in &self.slots {
            weights.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self.step.check_weights(&weights)?;
        Ok(weights)
    }
}

/// What a training step has besides loss and optimizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainOptions {
    /// Pairs of a `state` input and the output that is its next value (running statistics).
    pub carried: Vec<(String, String)>,
    /// Forward outputs to return beside the loss.
    pub keep: Vec<String>,
    /// The parameters that are trained; every float parameter when absent.
    pub trainable: Option<Vec<String>>,
    /// Seed of the counter-based random numbers.
    pub seed: u64,
}

/// Name of the state that counts steps.
pub const STEP: &str = "opt/step";

/// [`train_step_with`] for every parameter.
pub fn train_step(
    forward: &Graph,
    loss: &LossSpec,
    optimizer: &OptimizerSpec,
    carried: &[(String, String)],
    keep: &[String],
) -> Result<Training, TrainError> {
    let options = TrainOptions { carried: carried.to_vec(), keep: keep.to_vec(), ..TrainOptions::default() };
    train_step_with(forward, loss, optimizer, &options)
}

/// Builds the training step of a forward graph. Every trainable parameter that the loss depends on is trained.
pub fn train_step_with(
    forward: &Graph,
    loss: &LossSpec,
    optimizer: &OptimizerSpec,
    options: &TrainOptions,
) -> Result<Training, TrainError> {
    // Loops whose trip count can be known are differentiable once it is.
    let looped = forward.nodes().iter().any(|n| matches!(n.op, Op::Repeat(_) | Op::While(_)));
    let mut graph = if looped { canonicalize(forward).0 } else { forward.clone() };
    let carried = resolve_carried(&graph, &options.carried)?;
    let mut params = trainable(&graph, options.trainable.as_deref())?;
    let kept: Vec<(String, ValueId)> =
        options.keep.iter().map(|n| find_output(&graph, n).map(|v| (n.clone(), v))).collect::<Result<_, _>>()?;
    graph.set_origin("loss");
    let loss_value = loss.build(&mut graph)?;
    graph.outputs.clear();
    let wrt: Vec<ValueId> = params.iter().map(|p| p.value).collect();
    let found = gradients(&graph, loss_value, &wrt)?;
    if found.unreached.len() == params.len() {
        return Err(TrainError::NothingToTrain);
    }
    let now = |v: ValueId| found.find(v).expect("inputs and outputs are outside of loops");
    let loss_value = now(loss_value);
    let carried: Vec<(String, ValueId)> = carried.into_iter().map(|(name, v)| (name, now(v))).collect();
    let kept: Vec<(String, ValueId)> = kept.into_iter().map(|(name, v)| (name, now(v))).collect();
    for (p, g) in params.iter_mut().zip(&found.gradients) {
        (p.value, p.gradient) = (now(p.value), *g);
    }
    let mut graph = found.graph;
    let unreached = found.unreached.iter().map(|i| params[*i].name.clone()).collect();
    if optimizer.kind != OptimizerKind::None {
        let mut at = 0..;
        params.retain(|_| at.next().is_none_or(|i| !found.unreached.contains(&i)));
    }
    graph.set_origin("optimizer");
    let mut build = Build { next: Vec::new(), slots: Weights::new(), copies: Vec::new(), step: None };
    build.clip(&mut graph, optimizer, &mut params);
    if optimizer.kind != OptimizerKind::None {
        build.update(&mut graph, optimizer, &params);
    }
    build.next.extend(carried);
    let position = build.next.len();
    build.next.iter().for_each(|(name, v)| graph.output(name.clone(), *v));
    graph.output("loss", loss_value);
    if optimizer.kind == OptimizerKind::None {
        params.iter().for_each(|p| graph.output(format!("grad/{}", p.name), p.gradient));
    }
    kept.into_iter().filter(|(_, v)| *v != loss_value).for_each(|(name, v)| graph.output(name, v));
    graph.clear_origin();
    let state = graph.inputs.iter().enumerate().filter(|(_, i)| i.role != Role::Data).map(|(input, i)| {
        let output = build.next.iter().position(|(name, _)| *name == i.name);
        StatePair { name: i.name.clone(), input, output, role: i.role }
    });
    let step = TrainStep { state: state.collect(), loss: Some(position), seed: options.seed, graph };
    step.verify()?;
    Ok(Training { step, slots: build.slots, copies: build.copies, unreached })
}

/// A parameter that is trained.
struct Param {
    name: String,
    value: ValueId,
    gradient: ValueId,
}

fn find_output(graph: &Graph, name: &str) -> Result<ValueId, TrainError> {
    let known = || listed(graph.outputs.iter().map(|o| o.name.as_str()));
    let found = graph.find_output(name).map(|o| o.value);
    found.ok_or_else(|| TrainError::Unknown { what: "output", name: name.to_string(), known: known() })
}

/// Names of state inputs with their next values.
fn resolve_carried(graph: &Graph, pairs: &[(String, String)]) -> Result<Vec<(String, ValueId)>, TrainError> {
    let find = |(input, output): &(String, String)| {
        let states = || graph.inputs.iter().filter(|i| i.role == Role::State).map(|i| i.name.as_str());
        if !states().any(|n| n == input) {
            return Err(TrainError::Unknown { what: "state input", name: input.clone(), known: listed(states()) });
        }
        Ok((input.clone(), find_output(graph, output)?))
    };
    pairs.iter().map(find).collect()
}

/// The parameters that are trained; their gradients come later.
fn trainable(graph: &Graph, names: Option<&[String]>) -> Result<Vec<Param>, TrainError> {
    let all = || graph.inputs.iter().filter(|i| i.role == Role::Param && graph.tensor_ty(i.value).dtype.is_float());
    let absent = names.and_then(|names| names.iter().find(|n| all().all(|i| i.name != **n)));
    if let Some(name) = absent {
        let known = listed(all().map(|i| i.name.as_str()));
        return Err(TrainError::Unknown { what: "float parameter", name: name.clone(), known });
    }
    let chosen = all().filter(|i| names.is_none_or(|names| names.contains(&i.name)));
    let params: Vec<Param> = chosen.map(|i| Param { name: i.name.clone(), value: i.value, gradient: i.value }).collect();
    if params.is_empty() { Err(TrainError::NothingToTrain) } else { Ok(params) }
}

struct Build {
    /// Names of inputs with the values that replace them.
    next: Vec<(String, ValueId)>,
    slots: Weights,
    copies: Vec<(String, String)>,
    step: Option<ValueId>,
}

impl Build {
    /// A new state input that begins with zeros.
    fn slot(&mut self, graph: &mut Graph, name: &str, ty: TensorType) -> ValueId {
        self.slots.insert(name.to_string(), Literal::zeros(ty.clone()));
        graph.input(name, ty, Role::State)
    }

    fn clip(&mut self, graph: &mut Graph, optimizer: &OptimizerSpec, params: &mut [Param]) {
        let all: Vec<ValueId> = params.iter().map(|p| p.gradient).collect();
        let Some(factor) = optimizer.clip(graph, &all) else { return };
        for p in params {
            let ty = graph.tensor_ty(p.gradient).clone();
            let g = graph.convert(p.gradient, wide(ty.dtype));
            let factor = graph.convert(factor, wide(ty.dtype));
            let factor = graph.broadcast(factor, &ty.shape, &[]);
            let scaled = graph.times(g, factor);
            p.gradient = if optimizer.kind == OptimizerKind::None { graph.convert(scaled, ty.dtype) } else { scaled };
        }
    }

    fn update(&mut self, graph: &mut Graph, optimizer: &OptimizerSpec, params: &[Param]) {
        if optimizer.counts_steps() {
            self.step = Some(self.slot(graph, STEP, TensorType::scalar(DType::F32)));
        }
        for p in params {
            let ty = graph.tensor_ty(p.value).clone();
            let wide_ty = ty.with_dtype(wide(ty.dtype));
            let rate = optimizer.rate(graph, self.step, wide_ty.dtype);
            let g = graph.convert(p.gradient, wide_ty.dtype);
            let names: Vec<String> = optimizer.slots().iter().map(|s| format!("opt/{s}/{}", p.name)).collect();
            let slots: Vec<ValueId> = names.iter().map(|n| self.slot(graph, n, wide_ty.clone())).collect();
            let master = (optimizer.master && ty != wide_ty).then(|| format!("opt/master/{}", p.name));
            let old = match &master {
                Some(name) => graph.input(name.clone(), wide_ty, Role::State),
                None => graph.convert(p.value, wide_ty.dtype),
            };
            let (new, next) = optimizer.update(graph, old, g, &slots, rate, self.step);
            self.next.push((p.name.clone(), graph.convert(new, ty.dtype)));
            self.next.extend(names.into_iter().zip(next));
            if let Some(name) = master {
                self.copies.push((name.clone(), p.name.clone()));
                self.next.push((name, new));
            }
        }
        if let Some(t) = self.step {
            let one = graph.splat_like(t, 1.0);
            self.next.push((STEP.to_string(), graph.plus(t, one)));
        }
    }
}
