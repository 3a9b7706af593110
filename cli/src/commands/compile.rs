//! `girih compile`: from a model, or from the edited text of a level, to a checked program.

use super::args::{ModelArgs, PipelineArgs, Purpose, TargetArgs};
use super::output::{Outcome, Output, bytes, table, time};
use super::summary;
use clap::Args;
use girih::passes::{self, PassOptions};
use girih::{CompileReport, Compiled, Error, Model, Prepared, Target, files, tensors};
use girih_compiler::pipeline::PASSES;
use girih_ir::step::Weights;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Compile a model for a target
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  girih compile model.onnx --batch 64 --loss softmax_cross_entropy --optimizer adam -o step.girih\n  \
                        girih compile model.onnx --batch 8 --dies 25 --emit partition > split.gir\n  \
                        girih compile split.gir --from partition -o step.girih")]
pub struct Compile {
    /// A model (.onnx, .mlir, .mlirbc, .hlo.pb, .gir), or the text of a level with --from (`-` reads it from standard input)
    #[arg(value_name = "MODEL")]
    path: PathBuf,
    /// Write the program here; without it nothing is written
    #[arg(short, long, value_name = "OUT.girih")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Print this level instead of the summary: `graph` (as imported), `step` (with loss and optimizer) or what a pass made
    #[arg(long, value_name = "STAGE", value_parser = emit_names(), help_heading = "Pipeline")]
    emit: Option<String>,
    /// MODEL is the text of this level: go on from there
    #[arg(long, value_name = "STAGE", value_parser = stage_names(), help_heading = "Pipeline")]
    from: Option<String>,
    /// Print what this pass made to standard error, or `all`; may be repeated
    #[arg(long, value_name = "PASS", value_parser = print_names(), help_heading = "Pipeline")]
    print_after: Vec<String>,
    /// Show how long each pass took
    #[arg(long, help_heading = "Pipeline")]
    timing: bool,
}

type Names = clap::builder::PossibleValuesParser;

fn stage_names() -> Names {
    Names::new(PASSES.iter().map(|p| clap::builder::PossibleValue::new(p.name).help(p.about)))
}

fn emit_names() -> Names {
    Names::new(["graph", "step"].into_iter().chain(PASSES.iter().map(|p| p.name)))
}

fn print_names() -> Names {
    Names::new(PASSES.iter().map(|p| p.name).chain(["all"]))
}

/// Collects the texts that were asked for while passes run.
struct Watch<'a> {
    out: &'a Output,
    emit: Option<&'a str>,
    print_after: &'a [String],
    emitted: Option<String>,
}

impl Watch<'_> {
    fn wants(&self, pass: &str) -> bool {
        self.emit == Some(pass) || self.prints(pass)
    }

    fn prints(&self, pass: &str) -> bool {
        self.print_after.iter().any(|p| p == pass || p == "all")
    }

    fn see(&mut self, pass: &str, text: impl FnOnce() -> String) {
        if !self.wants(pass) {
            return;
        }
        let text = text();
        if self.prints(pass) {
            self.out.aside(&format!("; after {pass}\n{text}"));
        }
        if self.emit == Some(pass) {
            self.emitted = Some(text);
        }
    }
}

impl Compile {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let target = self.target.open("dojo-tile")?;
        let mut watch = Watch { out, emit: self.emit.as_deref(), print_after: &self.print_after, emitted: None };
        let early = matches!(self.emit.as_deref(), Some("graph" | "step"));
        let compiled = match &self.from {
            Some(stage) if early => {
                let what = format!("`{}` comes before `{stage}`", self.emit.as_deref().unwrap_or_default());
                return Err(Error::Usage { what, help: "emit a later level".into() }.into());
            }
            Some(stage) => self.resume(stage, &target, &mut watch)?,
            None => {
                let model = self.model.open(&self.path)?;
                model.notes().iter().for_each(|n| out.progress(&format!("note: {n}")));
                if self.emit.as_deref() == Some("graph") {
                    return self.emit(out, model.graph().to_string());
                }
                let prepared = self.model.prepare(&model, Purpose::Compile)?;
                if self.emit.as_deref() == Some("step") {
                    return self.emit(out, prepared.step.to_string());
                }
                let mut options = self.pipeline.options(&self.target)?;
                options.optimize.iter_mut().for_each(|o| o.explain = true);
                self.compile(prepared, &model, &target, &options, &mut watch)?
            }
        };
        self.finish(out, watch.emitted, compiled)
    }

    fn compile(
        &self,
        prepared: Prepared,
        model: &Model,
        target: &Target,
        options: &girih::CompileOptions,
        watch: &mut Watch<'_>,
    ) -> Outcome<Compiled> {
        let mut compiled = girih::compile_observed(prepared, target, options, |pass, level| watch.see(pass, || passes::text_of(level)))?;
        compiled.info.push(("model".into(), model.graph().name.clone()));
        compiled.info.push(("girih".into(), env!("CARGO_PKG_VERSION").into()));
        Ok(compiled)
    }

    /// Goes on from the text of a level. Early levels go through the pipeline, so that it may look for another split when one does not
    /// fit; later ones keep every decision that the text holds.
    fn resume(&self, stage: &str, target: &Target, watch: &mut Watch<'_>) -> Outcome<Compiled> {
        let text = files::read_text(&self.path)?;
        let weights = match &self.model.weights {
            Some(file) => tensors::open(file)?,
            None => Weights::new(),
        };
        let options = PassOptions {
            optimize: self.pipeline.optimize(),
            dies: self.target.dies,
            precision: self.pipeline.precision.unwrap_or_default(),
            pins: self.pipeline.pins()?,
            ..PassOptions::default()
        };
        watch.see(stage, || text.clone());
        let program = passes::resume(stage, &text, &self.path, target, &options, &mut |pass, text| watch.see(pass, || text.to_string()))?;
        Ok(girih::accept(program, weights)?)
    }

    fn emit(&self, out: &Output, text: String) -> Outcome {
        let stage = self.emit.as_deref().unwrap_or_default();
        out.result(|| text.clone(), || json!({ "stage": stage, "text": text }))
    }

    fn finish(&self, out: &Output, emitted: Option<String>, compiled: Compiled) -> Outcome {
        let written = match &self.output {
            Some(path) => Some((path.as_path(), compiled.save(path)?)),
            None => None,
        };
        match (emitted, &self.emit) {
            (Some(text), _) => self.emit(out, text),
            (None, Some(stage)) => {
                let what = format!("the pass `{stage}` did not run");
                Err(Error::Usage { what, help: "leave out --no-optimize, or emit another level".into() }.into())
            }
            (None, None) => out.result(|| self.text(&compiled, written), || self.document(&compiled, written)),
        }
    }

    fn text(&self, compiled: &Compiled, written: Option<(&Path, u64)>) -> String {
        let mut rows = summary::facts(&compiled.program);
        let row = |label: &str, text: String| vec![label.to_string(), text];
        if let Some(o) = &compiled.report.optimize {
            let saved = 100.0 * (1.0 - o.cost_after as f64 / (o.cost_before as f64).max(1.0));
            rows.insert(1, row("optimize", format!("{} nodes -> {}, estimated time {saved:+.0} % saved", o.nodes_before, o.nodes_after)));
        }
        let r = &compiled.report;
        if r.stages > 0 {
            rows.push(row("pipeline", format!("{} stages, {} slices of the batch", r.stages, r.microbatches)));
        }
        let slices = if r.stages > 0 { 0 } else { r.microbatches };
        let made: Vec<String> = [(r.remat, "values made again"), (r.streamed, "state tensors streamed"), (slices, "microbatches")]
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}"))
            .collect();
        if !made.is_empty() {
            rows.push(row("to fit", made.join(", ")));
        }
        rows.push(row("check", format!("accepted, {} reads traced to the reference step", compiled.program.stats().traced_reads)));
        match written {
            Some((path, size)) => rows.push(row("written", format!("{} ({})", path.display(), bytes(size)))),
            None => rows.push(row("written", "nothing; `-o OUT.girih` writes the program".into())),
        }
        let mut text = table(&rows, true);
        if self.timing {
            text.push('\n');
            text.push_str(&timing(&compiled.report));
        }
        text
    }

    fn document(&self, compiled: &Compiled, written: Option<(&Path, u64)>) -> Value {
        let mut d = summary::document(&compiled.program);
        d["passes"] = passes_document(&compiled.report);
        d["estimated_us"] = json!(compiled.report.estimate as f64 * 1e-6);
        d["values_made_again"] = json!(compiled.report.remat);
        d["stages"] = json!(compiled.report.stages.max(1));
        d["microbatches"] = json!(compiled.report.microbatches.max(1));
        d["checked"] = super::check::stats(&compiled.program.stats());
        d["output"] = json!(written.map(|(path, size)| json!({ "path": path.display().to_string(), "bytes": size })));
        d
    }
}

fn timing(report: &CompileReport) -> String {
    let head = ["pass", "time", "before", "after", "what"].map(String::from).to_vec();
    let row = |p: &girih_compiler::pipeline::PassReport| {
        let first = p.summary.lines().next().unwrap_or_default();
        vec![p.name.to_string(), time(p.seconds), p.before.to_string(), p.after.to_string(), first.to_string()]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(report.passes.iter().map(row)).collect();
    table(&rows, true) + &found(report)
}

/// How many ops of each composite kind, and of each structure, optimization found; empty without any.
fn found(report: &CompileReport) -> String {
    let of = |o: &girih_compiler::optimize::OptimizeReport| -> Vec<String> {
        o.composites.iter().chain(&o.structures).map(|(name, n)| format!("{n} {name}")).collect()
    };
    match report.optimize.as_ref().map(of) {
        Some(list) if !list.is_empty() => format!("found: {}\n", list.join(", ")),
        _ => String::new(),
    }
}

fn passes_document(report: &CompileReport) -> Value {
    let pass = |p: &girih_compiler::pipeline::PassReport| json!({ "name": p.name, "ms": p.seconds * 1e3, "before": p.before, "after": p.after, "summary": p.summary });
    Value::Array(report.passes.iter().map(pass).collect())
}
