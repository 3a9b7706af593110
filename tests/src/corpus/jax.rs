//! JAX cases: one training step from every twin of its module, its loss curve, and our gradients of its forward pass.

use super::engine::{Engine, Stepper};
use super::{CaseResult, Tensors, read_tensors};
use crate::conformance::Outcome;
use girih_compiler::autodiff;
use girih_compiler::import::error::ImportError;
use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_ir::graph::{Graph, GraphOutput, Node, Role, ValueId};
use girih_ir::literal::Literal;
use girih_ir::step::{StatePair, TrainStep, Weights};
use girih_ir::types::DType;
use serde_json::Value;
use std::path::Path;

/// The forms of a module, the one that is compared in full first.
const TWINS: [&str; 6] = ["mlir", "generic.mlir", "debug.mlir", "vhlo.mlirbc", "hlo.pb", "jaxexport"];

struct Case<'a> {
    dir: &'a Path,
    json: &'a Value,
    engine: &'a Engine,
    inputs: Tensors,
    /// Elementwise tolerances of some outputs and gradients.
    tolerances: Tensors,
    /// Positions of the arguments that the module has: JAX drops unused ones.
    kept: Vec<usize>,
}

fn fail(why: impl Into<String>) -> Outcome {
    Outcome::Fail(why.into())
}

/// Runs every check of a case; what is compared goes into `result.worst`.
pub(super) fn run(dir: &Path, json: &Value, engine: &Engine, result: &mut CaseResult) -> Result<(), Outcome> {
    let read = |file: &str| read_tensors(&dir.join(file)).map_err(fail);
    let inputs = read("inputs.safetensors")?;
    let tolerances = if dir.join("tolerances.safetensors").is_file() { read("tolerances.safetensors")? } else { Tensors::new() };
    let count = list(&json["inputs"]).len();
    let kept = match json["kept_inputs"].as_array() {
        Some(kept) => kept.iter().filter_map(|k| Some(k.as_u64()? as usize)).filter(|k| *k < count).collect(),
        None => (0..count).collect(),
    };
    let case = Case { dir, json, engine, inputs, tolerances, kept };
    let step = case.step_and_curve(result)?;
    let loss = case.dir.join("loss.mlir").is_file().then(|| case.import("loss.mlir")).transpose()?;
    if let Some(graph) = &loss {
        case.gradients("loss.mlir", graph.clone(), result)?;
    }
    case.twins_of_the_step(&step, result)?;
    loss.map_or(Ok(()), |graph| case.twins_of_the_loss(&graph, result))
}

impl Case<'_> {
    fn import(&self, file: &str) -> Result<Graph, Outcome> {
        let bytes = std::fs::read(self.dir.join(file)).map_err(|e| fail(format!("{file}: {e}")))?;
        let imported = import_bytes(&bytes, &StablehloOptions::default()).map_err(|e| match e {
            ImportError::Unsupported { .. } => Outcome::Unsupported(format!("{file}: {e}")),
            e => fail(format!("{file}: {e}")),
        })?;
        Ok(imported.graph)
    }

    /// The files that hold the module, without the first of [`TWINS`].
    fn twins(&self, stem: &str) -> Vec<String> {
        TWINS[1..].iter().map(|e| format!("{stem}.{e}")).filter(|f| self.dir.join(f).is_file()).collect()
    }

    /// Starts a step and notes how large its program is.
    fn start(&self, step: TrainStep, result: &mut CaseResult) -> Result<Box<dyn Stepper>, Outcome> {
        let stepper = self.engine.start(step, self.weights())?;
        result.dies = result.dies.max(stepper.dies());
        result.compile_seconds = result.compile_seconds.max(stepper.compile_seconds());
        Ok(stepper)
    }

    fn weights(&self) -> Weights {
        self.inputs.clone()
    }

    /// The imported graph as a step: its inputs and outputs by the names of the case, its state as the case carries it.
    fn train_step(&self, file: &str, mut graph: Graph) -> Result<TrainStep, Outcome> {
        let (ins, outs) = (list(&self.json["inputs"]), list(&self.json["outputs"]));
        if graph.inputs.len() != self.kept.len() || graph.outputs.len() != outs.len() {
            let got = (graph.inputs.len(), graph.outputs.len());
            return Err(fail(format!("{file} has {got:?} inputs and outputs instead of {:?}", (self.kept.len(), outs.len()))));
        }
        let mut state = Vec::new();
        for (position, (input, index)) in graph.inputs.iter_mut().zip(&self.kept).enumerate() {
            input.name = text(&ins[*index], "name");
            input.role = match ins[*index]["role"].as_str() {
                Some("batch") => Role::Data,
                Some("params") => Role::Param,
                _ => Role::State,
            };
            if input.role != Role::Data {
                let output = outs.iter().position(|o| o["feeds_input"].as_u64() == Some(*index as u64));
                state.push(StatePair { name: input.name.clone(), input: position, output, role: input.role });
            }
        }
        for (output, spec) in graph.outputs.iter_mut().zip(outs) {
            output.name = text(spec, "name");
        }
        let loss = self.json["loss_output"].as_u64().map(|l| l as usize);
        let step = TrainStep { graph, state, loss, seed: 0 };
        step.verify().map_err(|e| fail(format!("{file}: {e}")))?;
        Ok(step)
    }

    /// The text of the step: its results, and its loss curve. Returns its graph.
    fn step_and_curve(&self, result: &mut CaseResult) -> Result<Graph, Outcome> {
        let file = "train_step.mlir";
        let graph = self.import(file)?;
        let mut stepper = self.start(self.train_step(file, graph.clone())?, result)?;
        self.one_step(file, stepper.as_mut(), result)?;
        stepper.set_state(&self.weights())?;
        self.curve(stepper.as_mut(), result)?;
        Ok(graph)
    }

    /// The other forms of the step are the same graph as its text, or give the same results.
    fn twins_of_the_step(&self, graph: &Graph, result: &mut CaseResult) -> Result<(), Outcome> {
        for twin in self.twins("train_step") {
            let other = self.import(&twin)?;
            result.checks += 1;
            if !same_computation(graph, &other) {
                let mut stepper = self.start(self.train_step(&twin, other)?, result)?;
                self.one_step(&twin, stepper.as_mut(), result)?;
            }
        }
        Ok(())
    }

    /// One step from the stored inputs must give the stored results.
    fn one_step(&self, file: &str, stepper: &mut dyn Stepper, result: &mut CaseResult) -> Result<(), Outcome> {
        let expected = read_tensors(&self.dir.join("expected.safetensors")).map_err(fail)?;
        let outputs = stepper.step(&self.inputs)?;
        let ins = list(&self.json["inputs"]);
        for spec in list(&self.json["outputs"]) {
            let name = text(spec, "name");
            let fed = spec["feeds_input"].as_u64().and_then(|i| ins.get(i as usize)).map(|i| text(i, "name"));
            let got = match fed.and_then(|n| stepper.state(&n)).or_else(|| outputs.get(&name).cloned()) {
                Some(got) => got,
                None => return Err(fail(format!("{file}: there is no output {name}"))),
            };
            let want = expected.get(&name).ok_or_else(|| fail(format!("expected.safetensors has no {name}")))?;
            self.compare(&got, want, spec, &name, &format!("{file} {name}"), result);
        }
        Ok(())
    }

    /// Compares one tensor as its entry of the case says: exactly, elementwise, or with one tolerance.
    fn compare(&self, got: &Literal, want: &Literal, spec: &Value, key: &str, what: &str, result: &mut CaseResult) {
        result.checks += 1;
        let worst = &mut result.worst;
        if got.ty() != want.ty() {
            worst.see(f64::INFINITY, || format!("{what} is {} instead of {}", got.ty(), want.ty()));
        } else if spec["exact"].as_bool() == Some(true) || !want.ty().dtype.is_float() {
            if got.bytes() != want.bytes() {
                worst.see(f64::INFINITY, || format!("{what} is not equal bit for bit"));
            }
        } else {
            let number = |key: &str| spec[key].as_f64().unwrap_or(0.0);
            let (atol, rtol) = (number("atol"), number("rtol"));
            match self.tolerances.get(key).filter(|t| spec["elementwise_atol"].as_bool() == Some(true) && t.ty().shape == want.ty().shape) {
                Some(each) => worst.compare_elementwise(got, want, each, rtol, what),
                None => worst.compare(got, want, atol, rtol, what),
            }
        }
    }

    /// Steps one after another must give the stored losses.
    fn curve(&self, stepper: &mut dyn Stepper, result: &mut CaseResult) -> Result<(), Outcome> {
        let curve = &self.json["loss_curve"];
        let Some(values) = curve["values"].as_array() else { return Ok(()) };
        let batches = read_tensors(&self.dir.join(curve["batches"].as_str().unwrap_or("batches.safetensors"))).map_err(fail)?;
        let count = curve["num_batches"].as_u64().unwrap_or(1).max(1);
        let loss_spec = self.loss_spec()?;
        let name = text(loss_spec, "name");
        for (i, (want, atol)) in values.iter().zip(list(&curve["atol_per_step"])).enumerate() {
            let prefix = format!("{}/", i as u64 % count);
            let parts = batches.iter().filter_map(|(k, v)| Some((format!("batch/{}", k.strip_prefix(&prefix)?), v.clone())));
            let outputs = stepper.step(&parts.collect())?;
            let loss = outputs.get(&name).ok_or_else(|| fail("the step has no loss"))?;
            let want = super::scalar(want.as_f64().unwrap_or(f64::NAN));
            result.checks += 1;
            result.worst.compare(loss, &want, atol.as_f64().unwrap_or(0.0), 0.0, &format!("loss of step {i}"));
        }
        Ok(())
    }

    fn loss_spec(&self) -> Result<&Value, Outcome> {
        let index = self.json["loss_output"].as_u64().unwrap_or(u64::MAX) as usize;
        list(&self.json["outputs"]).get(index).ok_or_else(|| fail("case.json names no loss"))
    }

    /// The other forms of the loss are the same graph as its text, or give the same loss. Their gradients are not compared: a protobuf
    /// holds functions such as `erfc` as the branches that compute them, and what is not taken there may have no finite derivative.
    fn twins_of_the_loss(&self, graph: &Graph, result: &mut CaseResult) -> Result<(), Outcome> {
        for twin in self.twins("loss") {
            let mut other = self.import(&twin)?;
            result.checks += 1;
            if !same_computation(graph, &other) {
                self.name_loss_inputs(&twin, &mut other)?;
                let name = other.outputs[0].name.clone();
                let outputs = self.start(TrainStep::inference(other), result)?.step(&self.inputs)?;
                let got = outputs.get(&name).ok_or_else(|| fail(format!("{twin}: there is no loss")))?;
                let want = read_tensors(&self.dir.join("grads.safetensors")).map_err(fail)?;
                let want = want.get("loss").ok_or_else(|| fail("grads.safetensors has no loss"))?;
                self.compare(got, want, self.loss_spec()?, "loss", &format!("{twin} loss"), result);
            }
        }
        Ok(())
    }

    /// Gives the inputs of a forward graph their names and roles; returns those to differentiate by, with the names of their gradients.
    fn name_loss_inputs(&self, file: &str, graph: &mut Graph) -> Result<Vec<(ValueId, String)>, Outcome> {
        let check = &self.json["autodiff_check"];
        let all: Vec<&str> = list(&check["inputs_in_order"]).iter().filter_map(Value::as_str).collect();
        let kept: Vec<String> = self.kept.iter().map(|k| text(&list(&self.json["inputs"])[*k], "name")).collect();
        let names: Vec<&str> = match graph.inputs.len() == all.len() {
            true => all,
            false => all.into_iter().filter(|n| kept.iter().any(|k| k == n)).collect(),
        };
        if names.len() != graph.inputs.len() || graph.outputs.len() != 1 {
            return Err(fail(format!("{file} has {} inputs instead of {}", graph.inputs.len(), names.len())));
        }
        let prefix = format!("{}/", check["differentiate_wrt"].as_str().unwrap_or("params"));
        let mut wanted = Vec::new();
        for (input, name) in graph.inputs.iter_mut().zip(names) {
            input.name = name.to_string();
            input.role = Role::Data;
            if let Some(parameter) = name.strip_prefix(&prefix) {
                input.role = Role::Param;
                wanted.push((input.value, format!("grad/{parameter}")));
            }
        }
        Ok(wanted)
    }

    /// Our gradients of a forward graph must be those of JAX.
    fn gradients(&self, file: &str, mut graph: Graph, result: &mut CaseResult) -> Result<(), Outcome> {
        let check = &self.json["autodiff_check"];
        let want = read_tensors(&self.dir.join("grads.safetensors")).map_err(fail)?;
        let (wrt, names): (Vec<ValueId>, Vec<String>) = self.name_loss_inputs(file, &mut graph)?.into_iter().unzip();
        let narrow = |n: &Node| matches!(n.ty.as_tensor().map(|t| t.dtype), Some(DType::F16 | DType::BF16));
        let halves = graph.nodes().iter().any(narrow);
        let loss = graph.outputs[0].value;
        let made = autodiff::gradients(&graph, loss, &wrt).map_err(|e| fail(format!("{file}: {e}")))?;
        let loss = made.find(loss).ok_or_else(|| fail(format!("{file}: the loss is lost")))?;
        let mut graph = made.graph;
        let outputs = std::iter::once(("loss".to_string(), loss)).chain(names.into_iter().zip(made.gradients));
        graph.outputs = outputs.map(|(name, value)| GraphOutput { name, value }).collect();
        let mut stepper = self.start(TrainStep::inference(graph), result)?;
        let got = stepper.step(&self.inputs)?;
        let compare = |name: &str, spec: &Value, result: &mut CaseResult| {
            let got = got.get(name).ok_or_else(|| fail(format!("{file}: there is no {name}")))?;
            let want = want.get(name).ok_or_else(|| fail(format!("grads.safetensors has no {name}")))?;
            self.compare(got, want, spec, name, &format!("{file} {name}"), result);
            Ok(())
        };
        compare("loss", self.loss_spec()?, result)?;
        let before = std::mem::take(&mut result.worst);
        let compared = list(&check["grads"]).iter().try_for_each(|spec| compare(&text(spec, "name"), spec, result));
        let gradients = std::mem::replace(&mut result.worst, before);
        let of = if halves { &mut result.halves } else { &mut result.worst };
        of.see(gradients.ratio, || gradients.at);
        compared
    }
}

/// Whether two graphs are the same ops on the same operands: names and origins aside.
fn same_computation(a: &Graph, b: &Graph) -> bool {
    let nodes =
        a.nodes().len() == b.nodes().len() && a.nodes().iter().zip(b.nodes()).all(|(x, y)| x.op == y.op && x.operands == y.operands);
    nodes && a.inputs.iter().map(|i| i.value).eq(b.inputs.iter().map(|i| i.value)) && {
        a.outputs.iter().map(|o| o.value).eq(b.outputs.iter().map(|o| o.value))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_string()
}
