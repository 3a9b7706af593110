//! `girih check`: the independent checker on a program file, or on the text of a program that somebody edited.

use super::output::{Failure, Outcome, Output, bytes};
use super::render;
use clap::Args;
use girih::{Compiled, Error, files};
use girih_ir::check::field::{self, FieldError, FieldOptions, FieldStats};
use girih_ir::check::{CheckStats, check};
use girih_ir::program::parse_program;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Prove a compiled program safe and equal to its reference step
#[derive(Args, Debug)]
#[command(after_help = "Exit code 0 when the program is accepted, 1 when it is not.")]
pub struct Check {
    /// A compiled program, or the text of one (`girih compile --emit lower`)
    #[arg(value_name = "OUT.girih|TEXT")]
    file: PathBuf,
    /// Run the streams over a finite field too, where the order of a sum makes no difference, and compare with the reference step to the bit
    #[arg(long)]
    field: bool,
    /// What the inputs of that run are made from
    #[arg(long, value_name = "N", default_value_t = 0, requires = "field")]
    seed: u64,
    /// The most points of loop nests (a product has one a multiply-add) that the step of such a run may have
    #[arg(long, value_name = "N", default_value_t = FieldOptions::default().limit, requires = "field")]
    field_limit: u64,
}

impl Check {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let checked = if files::extension(&self.file) == "girih" {
            Compiled::open(&self.file).map(|c| c.program)
        } else {
            let text = files::read_text(&self.file)?;
            let program = parse_program(&text).map_err(|error| Error::Text { path: self.file.clone(), error })?;
            check(program).map_err(|report| Error::Check { report: Box::new(report), ours: false })
        };
        let checked = checked.and_then(|program| {
            let found = program.stats();
            if !self.field {
                return Ok((found, None));
            }
            let run = field::check(&program, FieldOptions { seed: self.seed, limit: self.field_limit });
            run.map(|field| (found, Some(field))).map_err(|e| match e {
                FieldError::Wrong(report) => Error::Check { report, ours: false },
                other => Error::Field(other),
            })
        });
        match checked {
            Ok((found, field)) => out.result(
                || sentence(&self.file.display().to_string(), &found) + &field.map(|f| in_field(&f)).unwrap_or_default(),
                || json!({ "accepted": true, "checked": stats(&found), "field": field.map(|f| field_stats(&f, self.seed)) }),
            ),
            Err(Error::Check { report, ours: false }) if out.is_json() => {
                let finding = |f: &girih_ir::check::Finding| {
                    json!({
                        "code": f.fault.code(), "die": f.coord.map(|c| c.to_string()), "instruction": f.instr,
                        "text": f.text, "claim": f.claim, "why": f.why, "help": f.fault.help(),
                    })
                };
                let findings: Vec<Value> = report.findings.iter().map(finding).collect();
                out.json(&json!({ "accepted": false, "total": report.total, "findings": findings, "checked": stats(&report.stats) }))?;
                render::print(&Error::Check { report, ours: false }.diagnostic());
                Err(Failure::Exit(1))
            }
            Err(other) => Err(other.into()),
        }
    }
}

fn sentence(file: &str, s: &CheckStats) -> String {
    format!(
        "{file}: accepted: {} {}, {} instructions, {} messages ({}), peak SRAM {}, {} reads traced to the reference step",
        s.dies,
        if s.dies == 1 { "die" } else { "dies" },
        s.instructions,
        s.messages,
        bytes(s.message_bytes),
        bytes(s.peak_sram),
        s.traced_reads
    )
}

fn in_field(f: &FieldStats) -> String {
    format!(
        "; over the field, {} instructions made all of {} elements as the step does ({} points of loop nests)",
        f.instructions, f.elements, f.points
    )
}

fn field_stats(f: &FieldStats, seed: u64) -> Value {
    json!({ "seed": seed, "instructions": f.instructions, "elements": f.elements, "points": f.points })
}

/// What was checked, as a document.
pub fn stats(s: &CheckStats) -> Value {
    json!({
        "dies": s.dies, "instructions": s.instructions, "messages": s.messages, "message_bytes": s.message_bytes,
        "host_bytes": s.host_bytes, "sram_bytes": s.sram_bytes, "peak_sram_bytes": s.peak_sram, "traced_reads": s.traced_reads,
    })
}
