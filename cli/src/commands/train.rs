//! `girih train`: a training step, batch after batch, with a log and checkpoints.

use super::args::{ProgramArgs, Purpose, Workers};
use super::output::{Failure, Outcome, Output, table, time};
use clap::Args;
use girih::training::{Checkpoints, TrainOptions, Trained, train};
use girih::{CancelToken, Error, Session, Weights, files, tensors};
use girih_ir::types::TensorType;
use girih_runtime::data::{DataOptions, Dataset, Remainder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Exit code of a command that was interrupted: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Train a model
#[derive(Args, Debug)]
#[command(after_help = "Data: a tensor with the name of an input holds samples along its first dimension; tensors named\n\
                        `0/x`, `1/x`, … are whole batches.\n\
                        The first interrupt (Ctrl-C) ends training after the step that is running, writes the last checkpoint and exits\n\
                        with 130; the second one ends it at once.\n\
                        Example:\n  girih train model.onnx --batch 64 --loss softmax_cross_entropy --optimizer adam:lr=1e-3 \\\n    \
                        --data digits.npz --epochs 10 --log loss.jsonl --checkpoint ckpt --resume")]
pub struct Train {
    /// The batches, by input name
    #[arg(long, value_name = "FILE.safetensors|FILE.npz")]
    data: Option<PathBuf>,
    /// Train until this many steps are done; without it and --epochs, one epoch
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Train for this many passes over the data
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Shuffle the samples of each epoch with this seed
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Fill the last batch of an epoch from its first samples, where they would otherwise be left out
    #[arg(long)]
    wrap: bool,
    /// Write one JSON line a step: step, loss, ms
    #[arg(long, value_name = "FILE.jsonl")]
    log: Option<PathBuf>,
    /// Write checkpoints into this folder
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Steps between checkpoints; without it only one at the end
    #[arg(long, value_name = "N", requires = "checkpoint")]
    every: Option<u64>,
    /// Go on from the newest checkpoint, if there is one
    #[arg(long, requires = "checkpoint")]
    resume: bool,
    /// Write the final parameters and state here
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: Option<PathBuf>,
    #[command(flatten)]
    workers: Workers,
    #[command(flatten)]
    program: ProgramArgs,
}

impl Train {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let compiled = self.program.open(out, "host", Purpose::Train)?;
        if compiled.program.step.loss.is_none() {
            let what = format!("{} is no training step", self.program.path.display());
            return Err(Error::Usage { what, help: "compile it with --loss and --optimizer, or give the model".into() }.into());
        }
        let mut session = compiled.session(self.workers.options())?;
        let data = self.dataset(&session)?;
        let steps = self.steps.or(self.epochs.map(|e| e.saturating_mul(data.len()))).unwrap_or(data.len());
        let checkpoints = self.checkpoint.clone().map(|dir| Checkpoints { dir, every: self.every.unwrap_or(0), resume: self.resume });
        let cancel = on_interrupt();
        let options = TrainOptions { steps, checkpoints, cancel };
        let bar = bar(out, steps);
        let mut log = Log { path: self.log.as_deref(), resume: self.resume, file: None, failed: None };
        let mut curve = Curve::default();
        let done = train(&mut session, &data, &options, &mut |p| {
            let (loss, ms) = (p.outputs.loss().unwrap_or(f64::NAN), p.time.as_secs_f64() * 1e3);
            curve.add(loss, ms);
            log.write(p.step, loss, ms);
            bar.set_position(p.step + 1);
            bar.set_message(format!("loss {loss:.4}"));
        });
        bar.finish_and_clear();
        let done = done?;
        log.finish()?;
        if let Some(path) = &self.output {
            let state: Weights = session.all_state()?;
            tensors::save(&state, path)?;
        }
        out.result(|| text(&done, &curve), || document(&done, &curve))?;
        if done.cancelled { Err(Failure::Exit(INTERRUPTED)) } else { Ok(()) }
    }

    fn dataset(&self, session: &Session) -> Outcome<Arc<Dataset>> {
        let inputs: Vec<(&str, &TensorType)> = session.inputs();
        let Some(path) = &self.data else {
            let names: Vec<String> = inputs.iter().map(|(n, t)| format!("`{n}` ({t})")).collect();
            let what = format!("training needs batches of {}", names.join(", "));
            return Err(Error::Usage { what, help: "give them with --data FILE.safetensors or --data FILE.npz".into() }.into());
        };
        let remainder = if self.wrap { Remainder::Wrap } else { Remainder::Drop };
        let options = DataOptions { shuffle: self.shuffle, remainder, ..DataOptions::default() };
        Ok(Dataset::open(path, &inputs, options)?)
    }
}

/// A token that the first interrupt of the process sets; the second one ends the process.
fn on_interrupt() -> CancelToken {
    let cancel = CancelToken::new();
    let token = cancel.clone();
    let handler = move || {
        if token.is_cancelled() {
            std::process::exit(INTERRUPTED.into());
        }
        token.cancel();
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        anstream::eprintln!("note: an interrupt will end training at once: {e}");
    }
    cancel
}

fn bar(out: &Output, steps: u64) -> ProgressBar {
    let to = if out.is_quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
    let bar = ProgressBar::with_draw_target(Some(steps), to);
    let style = ProgressStyle::with_template("[{bar:30}] step {pos}/{len}  {msg}  {per_sec}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

/// The log file. It is made at the first step; a resumed run keeps the lines of the steps before it.
struct Log<'a> {
    path: Option<&'a Path>,
    resume: bool,
    file: Option<BufWriter<File>>,
    failed: Option<Error>,
}

impl Log<'_> {
    fn write(&mut self, step: u64, loss: f64, ms: f64) {
        let (Some(path), None) = (self.path, &self.failed) else { return };
        let line = json!({ "step": step, "loss": loss, "ms": ms });
        let io = |source| Error::Io { action: "write", path: path.to_path_buf(), source };
        if self.file.is_none() {
            match open_log(path, if self.resume { step } else { 0 }) {
                Ok(file) => self.file = Some(BufWriter::new(file)),
                Err(e) => self.failed = Some(e),
            }
        }
        if let Some(file) = &mut self.file {
            // A line is whole in the file before the next step begins, so that others can follow it.
            self.failed = writeln!(file, "{line}").and_then(|()| file.flush()).map_err(io).err();
        }
    }

    fn finish(self) -> Outcome {
        self.failed.map_or(Ok(()), |e| Err(e.into()))
    }
}

/// Opens a log that holds only the steps before `step`.
fn open_log(path: &Path, step: u64) -> Result<File, Error> {
    let before = |line: &&str| serde_json::from_str::<Value>(line).ok().and_then(|l| l["step"].as_u64()).is_some_and(|s| s < step);
    let old = if step > 0 { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    let kept: String = old.lines().filter(before).map(|l| format!("{l}\n")).collect();
    files::write(path, kept.as_bytes())?;
    let opened = File::options().append(true).open(path);
    opened.map_err(|source| Error::Io { action: "write", path: path.to_path_buf(), source })
}

/// Losses and times of the steps that ran.
#[derive(Default)]
struct Curve {
    first: Option<f64>,
    last: Option<f64>,
    times: Vec<f64>,
}

impl Curve {
    fn add(&mut self, loss: f64, ms: f64) {
        self.first.get_or_insert(loss);
        self.last = Some(loss);
        self.times.push(ms);
    }

    fn median_ms(&self) -> f64 {
        let mut sorted = self.times.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

fn text(done: &Trained, curve: &Curve) -> String {
    let row = |label: &str, text: String| vec![label.to_string(), text];
    let total: f64 = curve.times.iter().sum();
    let mut rows =
        vec![row("steps", format!("{} to {} in {}, median {}", done.first, done.next, time(total / 1e3), time(curve.median_ms() / 1e3)))];
    if let (Some(first), Some(last)) = (curve.first, curve.last) {
        rows.push(row("loss", format!("{first:.6} -> {last:.6}")));
    }
    if let Some(path) = &done.checkpoint {
        rows.push(row("checkpoint", path.display().to_string()));
    }
    table(&rows, true)
}

fn document(done: &Trained, curve: &Curve) -> Value {
    json!({
        "first_step": done.first, "next_step": done.next, "cancelled": done.cancelled, "first_loss": curve.first, "last_loss": curve.last,
        "median_ms": curve.median_ms(), "checkpoint": done.checkpoint.as_ref().map(|p| p.display().to_string()),
    })
}
