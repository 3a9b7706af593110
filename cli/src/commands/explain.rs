//! `girih explain`: what an error code means, or which rewrite rules made each output of a model.

use super::args::{ModelArgs, PipelineArgs, Purpose};
use super::output::{Outcome, Output, table};
use clap::Args;
use girih::{Compiled, Error, codes, files};
use girih_compiler::optimize::{OptimizeOptions, OptimizeReport, optimize};
use girih_compiler::pipeline::CompileError;
use serde_json::{Value, json};
use std::path::Path;

/// Explain an error code, or the rewrite rules behind each output
#[derive(Args, Debug)]
pub struct Explain {
    /// An error code, a model or a compiled program
    #[arg(value_name = "CODE|MODEL|OUT.girih")]
    what: String,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pipeline: PipelineArgs,
}

impl Explain {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        if let Some(code) = codes::find(&self.what) {
            let text = || format!("{}: {}\n\n{}", code.id, code.title, code.text);
            return out.result(text, || json!({ "code": code.id, "title": code.title, "text": code.text }));
        }
        let path = Path::new(&self.what);
        if self.what.len() == 5 && self.what.starts_with(['E', 'e']) && !path.exists() {
            let what = format!("there is no error code `{}`", self.what);
            return Err(Error::Usage { what, help: "codes are listed in cli/src/codes.md".into() }.into());
        }
        if files::extension(path) == "girih" {
            return self.program(out, &Compiled::open(path)?);
        }
        let model = self.model.open(path)?;
        let step = self.model.prepare(&model, Purpose::Compile)?.step;
        let graph = girih_compiler::canonicalize::canonicalize(&step.graph).0;
        let options = OptimizeOptions { explain: true, ..self.pipeline.optimize() };
        let report = optimize(&graph, &options).map_err(CompileError::from)?.report;
        out.result(|| text(&report), || document(&report))
    }

    fn program(&self, out: &Output, compiled: &Compiled) -> Outcome {
        let rows: Vec<Vec<String>> = compiled.rules().map(|(output, rules)| vec![output.to_string(), or_none(rules)]).collect();
        if rows.is_empty() {
            let what = format!("{} was compiled without rewriting, so no rule made its outputs", self.what);
            return Err(Error::Usage { what, help: "give the model, or compile it without --no-optimize".into() }.into());
        }
        let map: serde_json::Map<String, Value> = compiled.rules().map(|(o, r)| (o.to_string(), json!(r))).collect();
        out.result(|| table(&rows, true), || json!({ "outputs": map }))
    }
}

fn or_none(rules: &str) -> String {
    if rules.is_empty() { "as in the model".into() } else { rules.into() }
}

fn text(report: &OptimizeReport) -> String {
    let mut rows: Vec<Vec<String>> = vec![["rule", "times applied"].map(String::from).to_vec()];
    rows.extend(report.applied.iter().map(|(name, n)| vec![(*name).to_string(), n.to_string()]));
    format!("{report}\n{}", table(&rows, false))
}

fn document(r: &OptimizeReport) -> Value {
    let pairs = |list: &[(&'static str, usize)]| -> serde_json::Map<String, Value> {
        list.iter().map(|(k, n)| ((*k).to_string(), json!(n))).collect()
    };
    let applied: serde_json::Map<String, Value> = r.applied.iter().map(|(k, n)| ((*k).to_string(), json!(n))).collect();
    let outputs: serde_json::Map<String, Value> = r.outputs.iter().map(|o| (o.name.clone(), Value::Object(pairs(&o.rules)))).collect();
    json!({
        "nodes_before": r.nodes_before, "nodes_after": r.nodes_after, "cost_before_ps": r.cost_before, "cost_after_ps": r.cost_after,
        "e_nodes": r.e_nodes, "iterations": r.iterations, "saturated": r.saturated,
        "applied": applied, "composites": pairs(&r.composites), "structures": pairs(&r.structures), "outputs": outputs,
    })
}
