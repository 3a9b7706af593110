//! What an import gives: a graph, what its file says about state, checks and shardings, and the training step that follows from it.

use super::attrs::{self, Attrs};
use super::{Converter, Res};
use crate::import::error::{ImportError, Problem};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::step::{StatePair, TrainStep};

/// How two values must agree.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum CheckKind {
    /// In every bit, but any NaN is as good as another.
    Exact,
    /// With at most this many numbers of the type between them.
    Ulps(u32),
    /// With at most this difference.
    Near(f64),
}

/// A check that the file asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    /// How both must agree.
    pub kind: CheckKind,
    /// Position of the graph output to be checked.
    pub got: usize,
    /// Position of the graph output that it must agree with.
    pub want: usize,
    /// Where the check stands.
    pub place: String,
}

/// What a sharding is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinAt {
    /// The input at this position.
    Input(usize),
    /// The output at this position.
    Output(usize),
    /// This value.
    Value(ValueId),
}

/// A sharding that the file asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// Of what.
    pub at: PinAt,
    /// The axes of the device mesh with their sizes.
    pub mesh: Vec<(String, usize)>,
    /// For every dimension the axes that split it, outermost first; an axis may be part of one, as `x:(1)2`.
    pub dims: Vec<Vec<String>>,
    /// For every dimension whether the partitioner may split it further.
    pub open: Vec<bool>,
}

/// An imported StableHLO function.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph. Inputs and outputs are those of the function in order, tuples flattened and complex ones as real and imaginary part, all
    /// with the role of data; the outputs of [`checks`](Self::checks) follow. Origins are the places in the source, after the name of the
    /// function that was inlined.
    pub graph: Graph,
    /// Inputs that the step may overwrite, each with the output that takes its place if the file says which.
    pub donated: Vec<(usize, Option<usize>)>,
    /// Checks of a conformance file, when they were asked for.
    pub checks: Vec<Check>,
    /// Shardings.
    pub pins: Vec<Pin>,
}

/// Whether a parameter is donated, and to which result.
pub(super) fn donor(attrs: &Attrs) -> Res<Option<Option<i64>>> {
    if let Some(result) = attrs::int(attrs, "tf.aliasing_output")? {
        return Ok(Some(Some(result)));
    }
    Ok(attrs::flag(attrs, "jax.buffer_donor", false)?.then_some(None))
}

/// The result of a conversion that went well: checks become outputs, dead nodes are dropped.
pub(super) fn finish(cx: Converter<'_>, donated: Vec<(usize, Option<usize>)>) -> Result<Imported, ImportError> {
    let Converter { mut graph, checks: found, mut pins, .. } = cx;
    graph.clear_origin();
    let mut checks = Vec::with_capacity(found.len());
    for (i, (kind, got, want, place)) in found.into_iter().enumerate() {
        let at = graph.outputs.len();
        graph.output(format!("check{i}.got"), got);
        graph.output(format!("check{i}.want"), want);
        checks.push(Check { kind, got: at, want: at + 1, place });
    }
    let (graph, map) = graph
        .rewritten(|out, node, operands| out.add(node.op.clone(), operands))
        .map_err(|e| ImportError::Malformed(Problem::new("E0162", format!("the operands of `{}` do not fit", e.op)).because(e.why)))?;
    for pin in &mut pins {
        if let PinAt::Value(v) = pin.at
            && let Some(new) = map.get(v.index()).copied().flatten()
        {
            pin.at = PinAt::Value(new);
        }
    }
    pins.retain(|p| !matches!(p.at, PinAt::Value(v) if v.index() >= graph.nodes().len()));
    Ok(Imported { graph, donated, checks, pins })
}

impl Imported {
    /// The pairs of inputs and outputs that donation makes state: those that the file names, then each other donated input with the first
    /// free output of its type, in order, as JAX pairs them.
    pub fn donated_pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(usize, usize)> = self.donated.iter().filter_map(|(i, o)| o.map(|o| (*i, o))).collect();
        let mut taken = vec![false; self.graph.outputs.len()];
        pairs.iter().for_each(|(_, o)| taken[*o] = true);
        for (input, _) in self.donated.iter().filter(|(_, o)| o.is_none()) {
            let ty = self.graph.tensor_ty(self.graph.inputs[*input].value);
            let free = |o: &usize| !taken[*o] && self.graph.tensor_ty(self.graph.outputs[*o].value) == ty;
            if let Some(output) = (0..taken.len()).find(free) {
                taken[output] = true;
                pairs.push((*input, output));
            }
        }
        pairs.sort_unstable();
        pairs
    }

    /// The training step that carries what the file donates, or the given pairs of input and output names beside or instead of that. An
    /// input may be called `argN` and an output `outN` by its position. The loss is the first float scalar among the other outputs.
    ///
    /// # Errors
    /// [`ImportError::Usage`] with E0165 for a name that is not there, for types that differ, and when nothing is carried.
    pub fn into_step(self, pairs: &[(String, String)]) -> Result<TrainStep, ImportError> {
        let mut all = self.donated_pairs();
        for (input, output) in pairs {
            let i = find(self.graph.inputs.iter().map(|i| i.name.as_str()), "arg", input)
                .ok_or_else(|| usage(format!("there is no input `{input}` to carry"), &self.input_names()))?;
            let o = find(self.graph.outputs.iter().map(|o| o.name.as_str()), "out", output)
                .ok_or_else(|| usage(format!("there is no output `{output}` to carry"), &self.output_names()))?;
            all.retain(|(a, b)| *a != i && *b != o);
            all.push((i, o));
        }
        if all.is_empty() {
            let what = format!("`{}` does not say what is carried from step to step", self.graph.name);
            let help = "donate the state where the step is exported, as in `jax.jit(step, donate_argnums=(0, 1))`, or name the pairs with \
                        `--state INPUT=OUTPUT,…`";
            return Err(ImportError::Usage(Problem::new("E0165", what).help(help)));
        }
        all.sort_unstable();
        let mut graph = self.graph;
        let mut state = Vec::with_capacity(all.len());
        for (input, output) in all {
            let (from, to) = (graph.tensor_ty(graph.inputs[input].value), graph.tensor_ty(graph.outputs[output].value));
            let name = graph.inputs[input].name.clone();
            if from != to {
                let what = format!("input `{name}` is {from}, but output `{}` is {to}", graph.outputs[output].name);
                return Err(ImportError::Usage(Problem::new("E0165", what).help("carry values of one type")));
            }
            graph.inputs[input].role = Role::State;
            state.push(StatePair { name, input, output: Some(output), role: Role::State });
        }
        let free = |o: &usize| state.iter().all(|s| s.output != Some(*o));
        let loss = (0..graph.outputs.len()).filter(free).find(|o| {
            let ty = graph.tensor_ty(graph.outputs[*o].value);
            ty.rank() == 0 && ty.dtype.is_float()
        });
        Ok(TrainStep { graph, state, loss, seed: 0 })
    }

    fn input_names(&self) -> String {
        listed(self.graph.inputs.iter().map(|i| i.name.as_str()))
    }

    fn output_names(&self) -> String {
        listed(self.graph.outputs.iter().map(|o| o.name.as_str()))
    }
}

/// The position of a name, or of `PREFIXn`.
fn find<'n>(names: impl Iterator<Item = &'n str> + Clone, prefix: &str, name: &str) -> Option<usize> {
    let count = names.clone().count();
    names.clone().position(|n| n == name).or_else(|| name.strip_prefix(prefix)?.parse().ok().filter(|k| *k < count))
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.iter().take(12).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 12 { format!("{shown} and {} more", names.len() - 12) } else { shown }
}

fn usage(what: String, known: &str) -> ImportError {
    ImportError::Usage(Problem::new("E0165", what).because(format!("there are {known}")))
}
