//! `girih bench`: how long a step takes on this machine.

use super::args::{ProgramArgs, Purpose, Workers};
use super::gemm;
use super::output::{Outcome, Output, bytes, metric, table, time};
use clap::Args;
use girih::case::Case;
use girih::{Inputs, Session, tensors};
use girih_ir::literal::Literal;
use girih_ir::program::{Instr, Program};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Measure a model on this machine
#[derive(Args, Debug)]
#[command(
    after_help = "Simulated times come from `girih simulate`; what is printed here was measured.",
    mut_arg("path", |path| path
        .required(false)
        .required_unless_present("gemm")
        .default_value_if("gemm", clap::builder::ArgPredicate::IsPresent, "."))
)]
pub struct Bench {
    /// Measured steps
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Measure for about this long instead, and seven steps at least
    #[arg(long, value_name = "S", conflicts_with = "steps")]
    seconds: Option<f64>,
    /// Measure matrix products alone, without a model, against what this processor can do at most
    #[arg(long)]
    gemm: bool,
    #[command(flatten)]
    subject: Subject,
}

/// What is measured, and on what values.
#[derive(Args, Debug)]
pub struct Subject {
    /// Steps before measuring
    #[arg(long, value_name = "N", default_value_t = 8)]
    warmup: u32,
    #[command(flatten)]
    workers: Workers,
    /// The inputs, by name; without it floats are random and integers 0 or 1
    #[arg(short, long, value_name = "IN.safetensors")]
    inputs: Option<PathBuf>,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Losses that are reported.
const LOSSES: usize = 8;

/// A session that is ready to be measured.
pub struct Ready {
    /// The program with its state set.
    pub session: Session,
    /// One or more sets of inputs, taken in turn.
    pub batches: Vec<Inputs>,
    /// Operations of a step: those that a case states, else those of the compiled graph.
    pub flops: u64,
    /// Seconds from the file to the prepared program, without the values of its state.
    pub compile: f64,
    /// The first losses.
    pub losses: Vec<f64>,
    steps: usize,
}

impl Subject {
    /// Compiles, sets the state and runs the warm-up. The path may be the folder of a case.
    pub fn prepare(mut self, out: &Output) -> Outcome<Ready> {
        let case = if self.program.path.is_dir() { Some(Case::open(&self.program.path)?) } else { None };
        if let Some(case) = &case {
            self.program.path = case.model();
            self.program.model.state.extend(case.carried());
            self.program.model.loss = self.program.model.loss.take().or_else(|| case.loss());
            self.program.model.trainable = self.program.model.trainable.take().or_else(|| case.trainable());
            self.program.model.batch = self.program.model.batch.or(case.batch());
            self.program.pipeline.precision = self.program.pipeline.precision.or(case.precision());
        }
        let start = Instant::now();
        let compiled = self.program.open(out, "host", Purpose::compiled(self.program.model.loss.is_some()))?;
        let mut session = Session::new(compiled.program.clone(), self.workers.options())?;
        let compile = start.elapsed().as_secs_f64();
        for (name, value) in &compiled.weights {
            session.set_state(name, value)?;
        }
        let mut missing = states_without_value(&session, &compiled.weights);
        // What no batch brings stays as it is.
        let mut fixed = Inputs::new();
        if let Some(case) = &case {
            let inputs: Vec<String> = session.inputs().iter().map(|(n, _)| (*n).to_string()).collect();
            case.initial(|name, value| {
                if let Some(k) = missing.iter().position(|m| m.0 == name) {
                    missing.swap_remove(k);
                    session.set_state(name, &value)?;
                } else if inputs.iter().any(|n| n == name) {
                    fixed.insert(name.to_string(), value);
                }
                Ok(())
            })?;
        }
        for (name, ty) in missing {
            session.set_state(&name, &random(&ty, &name))?;
        }
        let batches = match (&self.inputs, &case) {
            (Some(path), _) => vec![tensors::open(path)?],
            (None, Some(case)) => case.batches()?.into_iter().map(|b| fixed.clone().into_iter().chain(b).collect()).collect(),
            (None, None) => vec![random_inputs(&session)],
        };
        let wanted: Vec<String> = session.inputs().iter().map(|(n, _)| (*n).to_string()).collect();
        let batches = batches.into_iter().map(|b| b.into_iter().filter(|(n, _)| wanted.contains(n)).collect()).collect();
        let flops = case
            .and_then(|c| c.useful_flops())
            .unwrap_or_else(|| girih::flops(&compiled.program.step.graph).saturating_mul(compiled.program.replica_count() as u64));
        let mut ready = Ready { session, batches, flops, compile, losses: Vec::new(), steps: 0 };
        for _ in 0..self.warmup {
            ready.step()?;
        }
        Ok(ready)
    }
}

impl Ready {
    /// The inputs of the next step.
    pub fn batch(&mut self) -> Inputs {
        self.steps += 1;
        self.batches[(self.steps - 1) % self.batches.len()].clone()
    }

    /// Runs the next step; returns its seconds.
    fn step(&mut self) -> Outcome<f64> {
        let batch = self.batch();
        let start = Instant::now();
        let outputs = self.session.step(&batch)?;
        let seconds = start.elapsed().as_secs_f64();
        if self.losses.len() < LOSSES {
            self.losses.extend(outputs.loss());
        }
        Ok(seconds)
    }
}

impl Bench {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        if self.gemm {
            return gemm::run(self.subject.workers.options().threads, self.seconds, out);
        }
        let mut ready = self.subject.prepare(out)?;
        let (begin, mut times) = (Instant::now(), Vec::new());
        let more = |times: &Vec<f64>| match self.seconds {
            Some(seconds) => times.len() < 7 || begin.elapsed().as_secs_f64() < seconds,
            None => times.len() < self.steps as usize,
        };
        while more(&times) {
            times.push(ready.step()?);
        }
        let Ready { session, flops, compile, losses, .. } = ready;
        times.sort_by(f64::total_cmp);
        let (median, least) = (median(&times), times.first().copied().unwrap_or_default());
        let (rate, peak, steps) = (flops as f64 / median, peak_rss(), times.len());
        let program = session.program();
        let products = girih_runtime::peak::flops(product_type(program)) * session.threads() as f64;
        let share = 100.0 * rate / products;
        let text = || {
            let row = |label: &str, text: String| vec![label.to_string(), text];
            let mut rows = vec![
                row(
                    "program",
                    format!("{} on {}, {} of {} dies", program.name, program.target.name, program.dies.len(), program.target.mesh.sites()),
                ),
                row("step", format!("median {}, least {} ({} steps, {} threads)", time(median), time(least), steps, session.threads())),
                row("speed", format!("{}, {share:.1} % of the peak ({} a step)", metric(rate, "FLOP/s"), metric(flops as f64, "FLOP"))),
                row("memory", peak.map_or_else(|| "not known on this system".into(), |p| format!("peak {} resident", bytes(p)))),
                row("compile", time(compile)),
            ];
            if !losses.is_empty() {
                let list: Vec<String> = losses.iter().map(|l| format!("{l:.5}")).collect();
                rows.push(row("losses", list.join(" ")));
            }
            table(&rows, true)
        };
        let document = || {
            json!({
                "program": program.name, "target": program.target.name, "dies_used": program.dies.len(), "threads": session.threads(),
                "steps": steps, "median_ms": median * 1e3, "min_ms": least * 1e3, "flops": flops, "gflops": rate / 1e9, "percent_of_peak": share,
                "precision": product_type(program).name(), "peak_rss_bytes": peak, "losses": losses, "compile_ms": compile * 1e3,
            })
        };
        out.line(text, document)
    }
}

/// The element type whose multiply-adds bound the step: bf16 when its products are of that type.
fn product_type(program: &Program) -> DType {
    let halves = program.streams.iter().flatten().any(|i| match i {
        Instr::Gemm { a, .. } => a.dtype == DType::BF16,
        Instr::Conv { lhs, .. } => lhs.dtype == DType::BF16,
        _ => false,
    });
    if halves { DType::BF16 } else { DType::F32 }
}

fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n == 0 {
        return 0.0;
    }
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

fn random_inputs(session: &Session) -> Inputs {
    session.inputs().into_iter().map(|(name, ty)| (name.to_string(), random(ty, name))).collect()
}

fn states_without_value(session: &Session, weights: &girih::Weights) -> Vec<(String, TensorType)> {
    let missing = session.states().into_iter().filter(|(name, _)| !weights.contains_key(*name));
    missing.map(|(name, ty)| (name.to_string(), ty.clone())).collect()
}

/// Values of a type: floats in [−1, 1), everything else 0 or 1, so that labels and indices are in range. Seeded by the name.
fn random(ty: &TensorType, name: &str) -> Literal {
    let mut state = name.bytes().fold(0x9e37_79b9_7f4a_7c15u64, |s, b| (s ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    if ty.dtype.is_float() {
        let values = (0..ty.elements()).map(|_| (next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0).collect();
        return Tensor::new_float(ty.clone(), values).to_literal();
    }
    let values = (0..ty.elements()).map(|_| (next() >> 63) as i64).collect();
    Tensor::new_int(ty.clone(), values).to_literal()
}

/// The most memory that this process ever held, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::types::DType;

    #[test]
    fn medians() {
        assert_eq!((median(&[]), median(&[1.0]), median(&[1.0, 3.0]), median(&[1.0, 2.0, 9.0])), (0.0, 1.0, 2.0, 2.0));
    }

    #[test]
    fn random_values_are_in_range_and_repeat() {
        let floats = Tensor::from_literal(&random(&TensorType::new(DType::F32, [1000]), "x")).floats();
        assert!(floats.iter().all(|v| (-1.0..1.0).contains(v)) && floats.iter().any(|v| *v < -0.5) && floats.iter().any(|v| *v > 0.5));
        let ty = TensorType::new(DType::I64, [100]);
        assert!(Tensor::from_literal(&random(&ty, "labels")).ints().iter().all(|v| (0..2).contains(v)));
        assert_eq!(random(&ty, "a"), random(&ty, "a"));
    }
}
