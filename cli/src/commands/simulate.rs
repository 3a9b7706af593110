//! `girih simulate`: how long a step would take on the machine that the target describes, and what it would cost.

use super::args::{ProgramArgs, Purpose};
use super::output::{Outcome, Output};
use clap::Args;
use girih::{Error, SimOptions, files, simulate_with};
use std::path::PathBuf;

/// Predict time and energy of a step on the target
#[derive(Args, Debug)]
#[command(after_help = "The trace opens in Perfetto (ui.perfetto.dev) and chrome://tracing.")]
pub struct Simulate {
    /// Write the timeline as Chrome trace events
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// How often loops run whose end the data decide
    #[arg(long, value_name = "N", default_value_t = SimOptions::default().while_iterations)]
    while_iterations: u64,
    #[command(flatten)]
    program: ProgramArgs,
}

impl Simulate {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let compiled = self.program.open(out, "dojo-tile", Purpose::compiled(self.program.model.loss.is_some()))?;
        let options = SimOptions { while_iterations: self.while_iterations, ..SimOptions::default() };
        let simulation = simulate_with(&compiled.program, options)?;
        if let Some(path) = &self.trace {
            let mut trace = Vec::new();
            let write = |source| Error::Io { action: "write", path: path.clone(), source };
            simulation.write_trace(&mut trace).map_err(write)?;
            files::write(path, &trace)?;
            out.progress(&format!("trace written to {}", path.display()));
        }
        let report = &simulation.report;
        let document = || serde_json::to_value(report).expect("a report holds numbers, strings and lists only");
        out.result(|| report.to_string(), document)
    }
}
