//! `girih demo`: a small convolutional classifier of handwritten digits, trained on the dies of a Dojo training tile and on this CPU.

use super::output::{Outcome, Output, bytes, metric, table, time};
use clap::Args;
use girih::{
    CancelToken, CompileOptions, Compiled, Error, Inputs, Literal, Model, ModelOptions, Prepared, RuntimeOptions, Session, Target, Weights,
    compile, simulate, tensors,
};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::time::Instant;

/// The untrained classifier, as PyTorch exported it.
const MODEL: &[u8] = include_bytes!("../../data/digits_cnn.onnx");
/// 1,797 handwritten digits; see `cli/data/README.md` for source and license.
const DIGITS: &[u8] = include_bytes!("../../data/digits.safetensors");
/// Images of a step.
const BATCH: usize = 64;
/// The last images, a fifth, are held out.
const HELD_OUT: usize = 360;
/// Pixels of an image.
const PIXELS: usize = 64;

/// Train a digit classifier on 25 dies and on this CPU
#[derive(Args, Debug)]
pub struct Demo {
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 12)]
    epochs: usize,
    /// The mesh
    #[arg(short, long, value_name = "NAME|FILE", default_value = "dojo-tile")]
    target: String,
    /// Worker threads; 0 takes one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// What one of the two runs showed.
struct Trained {
    target: String,
    dies: usize,
    losses: Vec<f64>,
    seconds: f64,
    compile: f64,
    accuracy: f64,
    images: usize,
}

impl Trained {
    fn rate(&self) -> f64 {
        self.images as f64 / self.seconds
    }

    fn document(&self) -> Value {
        json!({
            "target": self.target, "dies_used": self.dies, "steps": self.losses.len(), "first_loss": self.losses.first(),
            "last_loss": self.losses.last(), "accuracy": self.accuracy, "seconds": self.seconds, "compile_ms": self.compile * 1e3,
            "images_per_second": self.rate(),
        })
    }
}

impl Demo {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let digits = Digits::read()?;
        let mesh = girih::TargetSpec::named(self.target.as_str()).open()?;
        let host = Target::builtin("host")?;
        let shape = &mesh.mesh.shape;
        out.progress(&format!(
            "girih trains a convolutional classifier on {} handwritten digits: first on `{}` ({}×{} dies, every instruction really runs),\n\
             then on this CPU; {} more digits are held out.\n",
            digits.train(),
            mesh.name,
            shape.rows,
            shape.cols,
            HELD_OUT
        ));
        let start = Instant::now();
        let step = compile(training()?, &mesh, &CompileOptions::default())?;
        let compiled_in = start.elapsed().as_secs_f64();
        let simulation = simulate(&step.program)?;
        let report = &simulation.report;
        if !out.is_json() {
            out.text(&stages(&step))?;
            out.text(&format!(
                "\n{} dies of {}, SRAM peak {} of {} a die, accepted by the checker; {} a step (simulated), {:.1} % busy, {:.1} W\n",
                step.program.dies.len(),
                mesh.name,
                bytes(report.sram_peak),
                bytes(report.sram_size),
                time(report.makespan),
                100.0 * report.busy(),
                report.power
            ))?;
        }
        let on_mesh = self.train(out, &digits, &step, &mesh, compiled_in)?;
        self.say(out, &on_mesh)?;
        let start = Instant::now();
        let step_host = compile(training()?, &host, &CompileOptions::default())?;
        let on_host = self.train(out, &digits, &step_host, &host, start.elapsed().as_secs_f64())?;
        self.say(out, &on_host)?;
        if !out.is_json() {
            return out.text(NEXT);
        }
        let simulated = json!({
            "makespan_s": report.makespan, "busy": report.busy(), "mfu": report.mfu, "energy_j": report.energy.total, "power_w": report.power,
            "sram_peak_bytes": report.sram_peak, "link_bytes": report.link_bytes,
        });
        out.json(&json!({ "simulated": simulated, "mesh": on_mesh.document(), "host": on_host.document(), "held_out": HELD_OUT }))
    }

    fn say(&self, out: &Output, t: &Trained) -> Outcome {
        if out.is_json() {
            return Ok(());
        }
        let (first, last) = (t.losses.first().copied().unwrap_or(f64::NAN), t.losses.last().copied().unwrap_or(f64::NAN));
        out.text(&format!(
            "{:<10} compiled in {}, {} steps in {}: loss {first:.3} -> {last:.4}, accuracy {:.2} % on held-out digits, {}",
            t.target,
            time(t.compile),
            t.losses.len(),
            time(t.seconds),
            100.0 * t.accuracy,
            metric(t.rate(), "images/s")
        ))
    }

    fn train(&self, out: &Output, digits: &Digits, step: &Compiled, target: &Target, compiled_in: f64) -> Outcome<Trained> {
        let mut session = step.session(RuntimeOptions { threads: self.threads, ..RuntimeOptions::default() })?;
        let per_epoch = digits.train() / BATCH;
        let steps = per_epoch * self.epochs;
        let bar = bar(out, steps as u64, &target.name);
        let mut losses = Vec::with_capacity(steps);
        let batches = (0..steps).map(|k| Ok(digits.batch((k % per_epoch) * BATCH, BATCH)));
        let start = Instant::now();
        session.run_steps(0, batches, &CancelToken::new(), &mut |p| {
            let loss = p.outputs.loss().unwrap_or(f64::NAN);
            losses.push(loss);
            bar.set_message(format!("loss {loss:.4}"));
            bar.inc(1);
        })?;
        let seconds = start.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let accuracy = digits.accuracy(&session, target, self.threads)?;
        let images = steps * BATCH;
        Ok(Trained { target: target.name.clone(), dies: step.program.dies.len(), losses, seconds, compile: compiled_in, accuracy, images })
    }
}

fn bar(out: &Output, steps: u64, name: &str) -> ProgressBar {
    let to = if out.is_quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
    let bar = ProgressBar::with_draw_target(Some(steps), to);
    let template = "{prefix:<10} [{bar:30}] step {pos}/{len}  {msg}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(name.to_string());
    bar
}

fn model(batch: usize) -> Result<Model, Error> {
    let mut options = ModelOptions::default();
    options.import.batch = Some(batch);
    Model::from_onnx_bytes(MODEL, &options)
}

fn training() -> Result<Prepared, Error> {
    model(BATCH)?.training(&"softmax_cross_entropy".parse()?, &"adam:lr=3e-3".parse()?, &[])
}

/// One line a stage.
fn stages(step: &Compiled) -> String {
    let head = ["stage", "before", "after", "time", "what it did"].map(String::from).to_vec();
    let row = |p: &girih_compiler::pipeline::PassReport| {
        let first = p.summary.lines().next().unwrap_or_default();
        vec![p.name.to_string(), p.before.to_string(), p.after.to_string(), time(p.seconds), first.to_string()]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(step.report.passes.iter().map(row)).collect();
    table(&rows, true)
}

const NEXT: &str = "
What to try next
  girih targets                                    the machines that girih knows
  girih compile MODEL.onnx --batch 8 --timing      your own model, exported by torch.onnx.export
  girih simulate MODEL.onnx --batch 8 --trace t.json   its timeline on the tile; open t.json in ui.perfetto.dev
  girih train MODEL.onnx --batch 64 --loss softmax_cross_entropy --optimizer adam:lr=1e-3 --data DATA.safetensors
  girih compile MODEL.onnx --batch 8 --dies 25 --emit partition    how the planner split it
(`cargo run --release --` in place of `girih` works too.)";

/// The images and their labels.
struct Digits {
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl Digits {
    fn read() -> Result<Digits, Error> {
        let broken = |why: &str| Error::Malformed { path: "digits.safetensors".into(), why: why.into() };
        let found = tensors::parse(DIGITS).map_err(|why| broken(&why))?;
        let bytes = |name: &str| found.get(name).map(|l| l.bytes().to_vec()).ok_or_else(|| broken("a tensor is missing"));
        let digits = Digits { images: bytes("images")?, labels: bytes("labels")? };
        match digits.images.len() == digits.labels.len() * PIXELS && digits.labels.len() > HELD_OUT + BATCH {
            true => Ok(digits),
            false => Err(broken("images and labels do not belong together")),
        }
    }

    /// How many images are trained on.
    fn train(&self) -> usize {
        self.labels.len() - HELD_OUT
    }

    fn images(&self, from: usize, count: usize) -> Literal {
        let pixels = &self.images[from * PIXELS..(from + count) * PIXELS];
        let values = pixels.iter().map(|p| f64::from(*p) / 16.0).collect();
        Tensor::new_float(TensorType::new(DType::F32, [count, 1, 8, 8]), values).to_literal()
    }

    fn batch(&self, from: usize, count: usize) -> Inputs {
        let labels = self.labels[from..from + count].iter().map(|l| i64::from(*l)).collect();
        let labels = Tensor::new_int(TensorType::new(DType::I64, [count]), labels).to_literal();
        Inputs::from([("x".to_string(), self.images(from, count)), ("labels".to_string(), labels)])
    }

    /// The share of held-out images that the trained parameters classify correctly, run on the same target.
    fn accuracy(&self, session: &Session, target: &Target, threads: usize) -> Result<f64, Error> {
        let trained: Weights = session.all_state()?;
        let mut forward = model(HELD_OUT)?.inference();
        for (name, value) in trained {
            if forward.weights.contains_key(&name) {
                forward.weights.insert(name, value);
            }
        }
        let program = compile(forward, target, &CompileOptions::default())?;
        let mut session = program.session(RuntimeOptions { threads, ..RuntimeOptions::default() })?;
        let inputs = Inputs::from([("x".to_string(), self.images(self.train(), HELD_OUT))]);
        let outputs = session.run(&inputs)?;
        let logits = outputs.values().next().map(|l| Tensor::from_literal(l).floats()).unwrap_or_default();
        let classes = logits.len() / HELD_OUT;
        let correct = logits.chunks(classes.max(1)).zip(&self.labels[self.train()..]).filter(|(row, label)| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|b| b.0);
            best == Some(usize::from(**label))
        });
        Ok(correct.count() as f64 / HELD_OUT as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_whole() {
        let digits = Digits::read().unwrap();
        assert_eq!((digits.labels.len(), digits.train()), (1797, 1437));
        assert!(digits.images.iter().all(|p| *p <= 16) && digits.labels.iter().all(|l| *l <= 9));
        assert!(DIGITS.len() <= 200 << 10);
        let batch = digits.batch(0, BATCH);
        assert_eq!(batch["x"].ty().to_string(), "f32[64,1,8,8]");
        assert_eq!(batch["labels"].ty().to_string(), "i64[64]");
    }
}
