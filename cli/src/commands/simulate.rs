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
    /// Print how each number comes about: the formula with the target's figures, and their sources
    #[arg(long)]
    derive: bool,
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
        let derivation = self.derive.then(|| simulation.derive());
        let value = |v: Result<serde_json::Value, serde_json::Error>| v.expect("a report holds numbers, strings and lists only");
        let document = || {
            let mut all = value(serde_json::to_value(report));
            all["power_fits"] = report.power_fits().into();
            if let Some(derivation) = &derivation {
                all["derivation"] = value(serde_json::to_value(derivation));
            }
            all
        };
        out.result(|| format!("{report}{}", derivation.as_ref().map_or(String::new(), ToString::to_string)), document)
    }
}
