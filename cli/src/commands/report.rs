//! `girih report`: one compiled program on a screen, or as a document.

use super::html;
use super::output::{Outcome, Output, bytes, table};
use super::summary::{self, Totals};
use clap::Args;
use girih::{Compiled, files, simulate};
use girih_ir::program::Program;
use serde_json::json;
use std::path::PathBuf;

/// Summarize a compiled program
#[derive(Args, Debug)]
pub struct Report {
    /// The program
    #[arg(value_name = "OUT.girih")]
    file: PathBuf,
    /// Write one page that joins the plan with a simulated step: cuts, memory, timeline, links, energy; it needs no other file
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

impl Report {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let compiled = Compiled::open(&self.file)?;
        let program: &Program = &compiled.program;
        if let Some(path) = &self.html {
            files::write(path, html::page(program, &simulate(program)?).as_bytes())?;
            out.progress(&format!("page written to {}", path.display()));
        }
        let document = || {
            let mut d = summary::document(program);
            d["info"] = json!(compiled.info.iter().cloned().collect::<std::collections::BTreeMap<_, _>>());
            d["weights"] = json!(compiled.weights.len());
            d["checked"] = super::check::stats(&compiled.program.stats());
            d
        };
        out.result(|| text(program), document)
    }
}

fn text(program: &Program) -> String {
    let totals = Totals::of(program);
    let mut names: Vec<(&str, usize)> = totals.by_name.iter().map(|(n, c)| (*n, *c)).collect();
    names.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let instructions: Vec<Vec<String>> = names.iter().map(|(n, c)| vec![(*n).to_string(), c.to_string()]).collect();
    let head = ["die", "stream", "instructions", "SRAM"].map(String::from).to_vec();
    let die = |d: &girih_ir::program::DieCode| {
        let n = program.streams.get(d.stream.index()).map_or(0, Vec::len);
        vec![program.target.coord(d.die).to_string(), d.stream.to_string(), n.to_string(), bytes(d.sram_used)]
    };
    let dies: Vec<Vec<String>> = std::iter::once(head).chain(program.dies.iter().map(die)).collect();
    format!("{}\n{}\n{}", summary::text(program), table(&instructions, false), table(&dies, false))
}
