//! The training step: one graph from (parameters, optimizer state, batch) to (new parameters, new state, loss, metrics).
//!
//! ```text
//! step {
//!   param "w"       input 1 -> output 1
//!   state "opt/m/w" input 2 -> output 2
//!   param "frozen"  input 3 -> unchanged
//!   loss output 0
//!   seed 7
//! }
//! graph @mlp(…) { … }
//! ```
//! Inputs that no pair names are data: they come anew with every batch. A pure inference graph is a step that changes nothing.
//! Initial values are kept apart as [`Weights`].

use crate::graph::{Graph, Role};
use crate::literal::Literal;
use crate::text::lex::{Token, quote};
use crate::text::parse::Parser;
use crate::text::{TextError, TextErrorKind};
use crate::types::TensorType;
use crate::verify::{VerifyError, verify};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Values by name: initial parameters and optimizer slots, checkpoints.
pub type Weights = BTreeMap<String, Literal>;

/// A value that is carried from step to step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePair {
    /// Its name in checkpoints.
    pub name: String,
    /// Position of the graph input that reads it.
    pub input: usize,
    /// Position of the graph output that replaces it; `None` when the step leaves it as it is.
    pub output: Option<usize>,
    /// [`Role::Param`] or [`Role::State`].
    pub role: Role,
}

/// A graph with what is carried from one run of it to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainStep {
    /// The computation.
    pub graph: Graph,
    /// What is carried, in the order of the inputs.
    pub state: Vec<StatePair>,
    /// Position of the output that is the loss.
    pub loss: Option<usize>,
    /// Seed of the counter-based random numbers.
    pub seed: u64,
}

/// What is wrong with a training step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The graph is wrong.
    #[error(transparent)]
    Graph(#[from] VerifyError),
    /// A position that the graph does not have.
    #[error("E0260: `{name}` names {what} {index}, which the graph does not have")]
    Missing {
        /// The pair, or `loss`.
        name: String,
        /// Input or output.
        what: &'static str,
        /// The position.
        index: usize,
    },
    /// An input, output or name that two pairs use.
    #[error("E0261: `{name}` uses {what} that another pair has already")]
    Shared {
        /// The second pair.
        name: String,
        /// Which thing.
        what: &'static str,
    },
    /// Input and output of a pair differ in type.
    #[error("E0262: `{name}` is {input} but would become {output}; both must have one type")]
    Types {
        /// The pair.
        name: String,
        /// Type of the input.
        input: TensorType,
        /// Type of the output.
        output: TensorType,
    },
    /// The roles of pair and input differ.
    #[error("E0263: input `{name}` has role `{graph}` in the graph, but the step treats it as `{step}`")]
    Role {
        /// The input.
        name: String,
        /// Role in the graph.
        graph: &'static str,
        /// Role in the step.
        step: &'static str,
    },
    /// The loss is no scalar float.
    #[error("E0264: the loss is {ty}; it must be a scalar of a float type")]
    Loss {
        /// Its type.
        ty: TensorType,
    },
    /// A value is missing, or has another type.
    #[error("E0265: `{name}` needs a value of type {need}, but {got}")]
    Weight {
        /// The pair.
        name: String,
        /// Its type.
        need: TensorType,
        /// What is there.
        got: String,
    },
}

impl TrainStep {
    /// The step that only runs the graph: parameters and state stay as they are.
    pub fn inference(graph: Graph) -> Self {
        let carried = graph.inputs.iter().enumerate().filter(|(_, i)| i.role != Role::Data);
        let state = carried.map(|(input, i)| StatePair { name: i.name.clone(), input, output: None, role: i.role }).collect();
        TrainStep { graph, state, loss: None, seed: 0 }
    }

    /// Positions of the inputs that come anew with every batch, in order.
    pub fn data_inputs(&self) -> Vec<usize> {
        (0..self.graph.inputs.len()).filter(|i| self.state.iter().all(|s| s.input != *i)).collect()
    }

    /// Positions of the outputs that replace no state: the loss and the metrics.
    pub fn result_outputs(&self) -> Vec<usize> {
        (0..self.graph.outputs.len()).filter(|o| self.state.iter().all(|s| s.output != Some(*o))).collect()
    }

    /// The type of a carried value.
    pub fn state_type(&self, pair: &StatePair) -> &TensorType {
        self.graph.tensor_ty(self.graph.inputs[pair.input].value)
    }

    /// Checks everything that the compiler and the runtime take for granted.
    pub fn verify(&self) -> Result<(), StepError> {
        verify(&self.graph)?;
        let (ins, outs) = (&self.graph.inputs, &self.graph.outputs);
        let missing = |name: &str, what, index| StepError::Missing { name: name.to_string(), what, index };
        let mut carried = vec![None; ins.len()];
        let mut replaced = vec![false; outs.len()];
        let mut names: Vec<&str> = Vec::new();
        for s in &self.state {
            let shared = |what| Err(StepError::Shared { name: s.name.clone(), what });
            let slot = carried.get_mut(s.input).ok_or_else(|| missing(&s.name, "input", s.input))?;
            if slot.replace(s.role).is_some() {
                return shared("an input");
            }
            names.push(&s.name);
            let Some(o) = s.output else { continue };
            let slot = replaced.get_mut(o).ok_or_else(|| missing(&s.name, "output", o))?;
            if std::mem::replace(slot, true) {
                return shared("an output");
            }
            let (input, output) = (self.state_type(s), self.graph.tensor_ty(outs[o].value));
            if input != output {
                return Err(StepError::Types { name: s.name.clone(), input: input.clone(), output: output.clone() });
            }
        }
        names.sort_unstable();
        if let Some(w) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(StepError::Shared { name: w[0].to_string(), what: "a name" });
        }
        for (i, role) in ins.iter().zip(carried) {
            let role = role.unwrap_or(Role::Data);
            if role != i.role {
                return Err(StepError::Role { name: i.name.clone(), graph: i.role.name(), step: role.name() });
            }
        }
        if let Some(l) = self.loss {
            let ty = outs.get(l).map(|o| self.graph.tensor_ty(o.value)).ok_or_else(|| missing("loss", "output", l))?;
            if ty.rank() != 0 || !ty.dtype.is_float() {
                return Err(StepError::Loss { ty: ty.clone() });
            }
        }
        Ok(())
    }

    /// Checks that every carried value has an initial value of its type. More values than needed are fine.
    pub fn check_weights(&self, weights: &Weights) -> Result<(), StepError> {
        for s in &self.state {
            let need = self.state_type(s);
            let got = match weights.get(&s.name) {
                Some(l) if l.ty() == need => continue,
                Some(l) => format!("the given one is {}", l.ty()),
                None => "none was given".to_string(),
            };
            return Err(StepError::Weight { name: s.name.clone(), need: need.clone(), got });
        }
        Ok(())
    }
}

impl fmt::Display for TrainStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.state.iter().map(|s| quote(&s.name)).collect();
        let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
        writeln!(f, "step {{")?;
        for (s, name) in self.state.iter().zip(names) {
            let gap = " ".repeat(width - name.chars().count());
            write!(f, "  {} {name}{gap} input {} -> ", s.role.name(), s.input)?;
            match s.output {
                Some(o) => writeln!(f, "output {o}")?,
                None => writeln!(f, "unchanged")?,
            }
        }
        if let Some(l) = self.loss {
            writeln!(f, "  loss output {l}")?;
        }
        writeln!(f, "  seed {}\n}}", self.seed)?;
        write!(f, "{}", self.graph)
    }
}

impl std::str::FromStr for TrainStep {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        parse_step(text)
    }
}

/// Reads the text form of a training step. A text that begins with `graph` is an inference step.
pub fn parse_step(text: &str) -> Result<TrainStep, TextError> {
    let mut p = Parser::new(text);
    let step = step_from(&mut p)?;
    p.end()?;
    Ok(step)
}

/// Reads a training step inside a larger text.
pub(crate) fn step_from(p: &mut Parser<'_>) -> Result<TrainStep, TextError> {
    let (mut state, mut loss, mut seed) = (Vec::new(), None, 0);
    let header = p.cursor.eat_word("step")?;
    if header {
        p.cursor.expect("{")?;
        while !p.cursor.eat("}")? {
            let c = &mut p.cursor;
            match c.word("`param`, `state`, `loss` or `seed`")? {
                "loss" => {
                    c.keyword("output")?;
                    loss = Some(c.integer("the position of an output")?);
                }
                "seed" => seed = c.integer("a number")?,
                word => state.push(pair(p, word)?),
            }
        }
    }
    let graph = p.graph()?;
    if !header {
        return Ok(TrainStep::inference(graph));
    }
    let (ins, outs) = (graph.inputs.len(), graph.outputs.len());
    let beyond = state.iter().any(|s: &StatePair| s.input >= ins || s.output.is_some_and(|o| o >= outs)) || loss.is_some_and(|l| l >= outs);
    if beyond {
        let want = format!("positions below {ins} for inputs and {outs} for outputs in the `step` header");
        return Err(p.cursor.error(TextErrorKind::Unexpected { want, found: "a larger one".to_string() }));
    }
    Ok(TrainStep { graph, state, loss, seed })
}

fn pair(p: &mut Parser<'_>, word: &str) -> Result<StatePair, TextError> {
    let c = &mut p.cursor;
    let role = match Role::from_name(word) {
        Some(r) if r != Role::Data => r,
        _ => return Err(c.unexpected("`param`, `state`, `loss` or `seed`", Token::Word(word))),
    };
    let name = c.quoted("the name in quotes")?;
    c.keyword("input")?;
    let input = c.integer("the position of an input")?;
    c.expect("->")?;
    let output = match c.word("`output` or `unchanged`")? {
        "output" => Some(c.integer("the position of an output")?),
        "unchanged" => None,
        other => return Err(c.unexpected("`output` or `unchanged`", Token::Word(other))),
    };
    Ok(StatePair { name, input, output, role })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "step {
  param \"w\"      input 1 -> output 1
  state \"opt/n\"  input 2 -> output 2
  param \"frozen\" input 3 -> unchanged
  loss output 0
  seed 7
}
graph @s(%0: f32[2] input \"x\", %1: f32[2] param \"w\", %2: i32[] state \"opt/n\", %3: f32[2] param \"frozen\") {
  %4 = mul %0, %1                       : f32[2]
  %5 = reduce %4 {monoid = sum, dims = [0]} : f32[]
  %6 = sub %1, %4                       : f32[2]
  return %5 \"loss\", %6 \"w\", %2 \"opt/n\"
}";

    #[test]
    fn text_round_trip() {
        let s = parse_step(TEXT).unwrap();
        assert_eq!(s.verify(), Ok(()));
        let text = s.to_string();
        assert_eq!(parse_step(&text).unwrap(), s);
        assert_eq!(parse_step(&text).unwrap().to_string(), text);
        assert_eq!(s.data_inputs(), [0]);
        assert_eq!(s.result_outputs(), [0]);
        let inference = parse_step(&s.graph.to_string()).unwrap();
        assert_eq!(inference.verify(), Ok(()));
        assert_eq!(inference, TrainStep::inference(s.graph));
    }

    #[test]
    fn mistakes_are_found() {
        let code = |from: &str, to: &str| match parse_step(&TEXT.replacen(from, to, 1)) {
            Ok(s) => s.verify().unwrap_err().to_string()[..5].to_string(),
            Err(e) => e.kind.to_string()[..5].to_string(),
        };
        assert_eq!(code("input 2 ->", "input 1 ->"), "E0261");
        assert_eq!(code("-> output 2", "-> output 1"), "E0261");
        assert_eq!(code("\"opt/n\"  input", "\"w\"  input"), "E0261");
        assert_eq!(code("-> output 1", "-> output 0"), "E0262");
        assert_eq!(code("state \"opt/n\"", "param \"opt/n\""), "E0263");
        assert_eq!(code("loss output 0", "loss output 1"), "E0264");
        assert_eq!(code("loss output 0", "loss output 9"), "E0230");
    }

    #[test]
    fn weights_are_checked() {
        let s = parse_step(TEXT).unwrap();
        let mut w: Weights = s.state.iter().map(|p| (p.name.clone(), Literal::zeros(s.state_type(p).clone()))).collect();
        assert_eq!(s.check_weights(&w), Ok(()));
        w.remove("opt/n");
        assert_eq!(s.check_weights(&w).unwrap_err().to_string(), "E0265: `opt/n` needs a value of type i32[], but none was given");
    }
}
