//! `girih explain`: what an error code means, which rewrite rules made each output of a model, or why a value lies as it does.

use super::args::{ModelArgs, PipelineArgs, Purpose, TargetArgs};
use super::output::{Outcome, Output, table};
use clap::Args;
use girih::{Compiled, Error, codes, files};
use girih_compiler::optimize::{OptimizeOptions, OptimizeReport, optimize};
use girih_compiler::partition::Alternative;
use girih_compiler::pipeline::{CompileError, Pipeline};
use girih_ir::graph::ValueId;
use girih_ir::step::TrainStep;
use serde_json::{Value, json};
use std::path::Path;

/// Explain an error code, the rules behind each output, or where a value lies
#[derive(Args, Debug)]
pub struct Explain {
    /// An error code, a model or a compiled program
    #[arg(value_name = "CODE|MODEL|OUT.girih")]
    what: String,
    /// Why this value of the model lies over the dies as it does: an input, an output, or a number such as `%12` of `--emit fuse`
    #[arg(long, value_name = "NAME|%N")]
    value: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
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
        if let Some(value) = &self.value {
            return self.layout(out, step, value);
        }
        let graph = girih_compiler::canonicalize::canonicalize(&step.graph).0;
        let options = OptimizeOptions { explain: true, ..self.pipeline.optimize() };
        let report = optimize(&graph, &options).map_err(CompileError::from)?.report;
        out.result(|| text(&report), || document(&report))
    }

    /// Why a value lies as it does, and what else it could have cost.
    fn layout(&self, out: &Output, step: TrainStep, value: &str) -> Outcome {
        let target = self.target.open("dojo-tile")?;
        let options = self.pipeline.options(&self.target)?;
        let step = Pipeline::new(&target, &options).rewrite(step)?;
        let named = || {
            let graph = &step.graph;
            let number = value.strip_prefix('%').and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < graph.nodes().len());
            let input = graph.inputs.iter().find(|i| i.name == value).map(|i| i.value);
            let output = graph.outputs.iter().find(|o| o.name == value).map(|o| o.value);
            number.map(ValueId::new).or(input).or(output)
        };
        let Some(v) = named() else {
            let what = format!("the model has no value `{value}`");
            return Err(
                Error::Usage { what, help: "give an input, an output, or a number of `girih compile MODEL --emit fuse`".into() }.into()
            );
        };
        let (found, fits) = Pipeline::new(&target, &options).explain_split(&step, v)?;
        let Some(e) = found else {
            let text = || format!("{value} is made on every die that needs it, so nothing was decided");
            return out.result(text, || json!({ "value": value, "alternatives": [] }));
        };
        let (op, region) = (e.op, e.region);
        let shape = region.shape;
        let place = match e.stage {
            Some(stage) => format!("the {}×{} dies from ({},{}) of stage {stage}", shape.rows, shape.cols, region.row, region.col),
            None => format!("a mesh of {}×{} dies", shape.rows, shape.cols),
        };
        let text = || {
            let micro = |ps: u64| format!("{:.3}", ps as f64 * 1e-6);
            let mut rows = vec![["split", "work us", "moves us", "step us", "memory us", "more"].map(String::from).to_vec()];
            let best = e.alternatives.first().map_or(0, Alternative::cost);
            rows.extend(e.alternatives.iter().map(|a| {
                let more = (a.cost() - best) as f64 / best.max(1) as f64 * 100.0;
                vec![a.split.clone(), micro(a.work), micro(a.moves), micro(a.step), micro(a.memory), format!("{more:+.2} %")]
            }));
            let with = e.members.len() - 1;
            format!(
                "{value} is made by {} ({op}) on {place}; {with} more nodes are split alike.\n{}\nAxes of the mesh, one entry a loop of {}; the first line was chosen:\n\n{}",
                e.node,
                why(&e.alternatives, fits),
                e.node,
                table(&rows, true)
            )
        };
        let list = || {
            let one = |a: &Alternative| json!({ "split": a.split, "work_ps": a.work, "moves_ps": a.moves, "step_ps": a.step, "memory_ps": a.memory });
            e.alternatives.iter().map(one).collect::<Vec<_>>()
        };
        out.result(
            text,
            || json!({ "value": value, "node": e.node.to_string(), "op": op, "stage": e.stage, "mesh": [shape.rows, shape.cols], "alternatives": list() }),
        )
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

/// Why the first alternative is better than the second.
fn why(alternatives: &[Alternative], fits: bool) -> String {
    let (Some(first), Some(second)) = (alternatives.first(), alternatives.get(1)) else {
        return "There is no other way to split it, or a pin says so.".into();
    };
    let signed = |a: u64, b: u64| format!("{:+.3} us", (b as f64 - a as f64) * 1e-6);
    let rest = |a: &Alternative| a.step.saturating_sub(a.work).saturating_sub(a.moves);
    let memory = if first.memory > 0 || second.memory > 0 {
        format!(", memory where it is short {}", signed(first.memory, second.memory))
    } else {
        String::new()
    };
    let plan = if fits { "" } else { " No plan of the step fits; this is the fastest one, whatever it needs." };
    format!(
        "`{}` is chosen; `{}` comes next and would cost {} more: work {}, moving what it reads and makes {}, the rest of the step {}{memory}.{plan}",
        first.split,
        second.split,
        signed(first.cost(), second.cost()).trim_start_matches('+'),
        signed(first.work, second.work),
        signed(first.moves, second.moves),
        signed(rest(first), rest(second)),
    )
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
