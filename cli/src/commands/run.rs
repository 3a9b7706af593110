//! `girih run`: one step of a program on given inputs.

use super::args::{ProgramArgs, Purpose, Workers};
use super::output::{Outcome, Output, table, time};
use clap::Args;
use girih::{Error, Inputs, tensors};
use girih_ir::literal::Literal;
use girih_ir::tensor::Tensor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Run a model once
#[derive(Args, Debug)]
#[command(after_help = "Example: girih run model.onnx --batch 8 --inputs in.safetensors --outputs out.safetensors")]
pub struct Run {
    /// The inputs, by name
    #[arg(short, long, value_name = "IN.safetensors")]
    inputs: Option<PathBuf>,
    /// Write the outputs here; without it they are summarized
    #[arg(short, long, value_name = "OUT.safetensors")]
    outputs: Option<PathBuf>,
    #[command(flatten)]
    workers: Workers,
    #[command(flatten)]
    program: ProgramArgs,
}

impl Run {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let compiled = self.program.open(out, "host", Purpose::Once)?;
        let mut session = compiled.session(self.workers.options())?;
        let given: Inputs = match &self.inputs {
            Some(path) => tensors::open(path)?,
            None => Inputs::new(),
        };
        let wanted = |name: &str| compiled.program.step.graph.inputs.iter().any(|i| i.name == name);
        let inputs: Inputs = given.into_iter().filter(|(name, _)| wanted(name)).collect();
        if self.inputs.is_none() && !session.inputs().is_empty() {
            let names: Vec<String> = session.inputs().iter().map(|(n, t)| format!("`{n}` ({t})")).collect();
            let what = format!("the program needs the inputs {}", names.join(", "));
            return Err(Error::Usage { what, help: "give them with --inputs FILE.safetensors".into() }.into());
        }
        let start = Instant::now();
        let outputs = session.run(&inputs)?;
        let seconds = start.elapsed().as_secs_f64();
        if let Some(path) = &self.outputs {
            tensors::save(&outputs, path)?;
        }
        let written = self.outputs.as_ref().map(|p| p.display().to_string());
        out.result(|| text(&outputs, seconds, written.as_deref()), || document(&outputs, seconds, written.as_deref()))
    }
}

/// Smallest, largest and mean value.
fn range(l: &Literal) -> Option<(f64, f64, f64)> {
    let values = Tensor::from_literal(l).floats();
    if values.is_empty() {
        return None;
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some((low, high, values.iter().sum::<f64>() / values.len() as f64))
}

fn text(outputs: &BTreeMap<String, Literal>, seconds: f64, written: Option<&str>) -> String {
    let mut rows = vec![["output", "type", "smallest", "mean", "largest"].map(String::from).to_vec()];
    for (name, l) in outputs {
        let (low, high, mean) = range(l).unwrap_or_default();
        rows.push(vec![name.clone(), l.ty().to_string(), format!("{low:.6}"), format!("{mean:.6}"), format!("{high:.6}")]);
    }
    let end = written.map_or_else(|| "`--outputs FILE.safetensors` writes them".to_string(), |w| format!("written to {w}"));
    format!("{}one run in {}; {end}", table(&rows, false), time(seconds))
}

fn document(outputs: &BTreeMap<String, Literal>, seconds: f64, written: Option<&str>) -> Value {
    let tensor = |(name, l): (&String, &Literal)| {
        let r = range(l);
        json!({
            "name": name, "dtype": l.ty().dtype.name(), "shape": l.ty().shape.to_vec(),
            "min": r.map(|r| r.0), "max": r.map(|r| r.1), "mean": r.map(|r| r.2),
        })
    };
    json!({ "outputs": outputs.iter().map(tensor).collect::<Vec<_>>(), "ms": seconds * 1e3, "written": written })
}
