//! Runs StableHLO files that check themselves and prints one line a chunk.
//!
//! `cargo run --release -p girih-tests --bin stablehlo-conformance -- DIR... [-t TARGET] [--format json]`

use clap::Parser;
use girih_tests::conformance::{SuiteArgs, command};
use girih_tests::stablehlo_cases::run_all;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs StableHLO files with `check.*`.
#[derive(Parser)]
struct Args {
    /// A `.mlir` file, or a folder of them.
    #[arg(required = true)]
    dir: Vec<PathBuf>,
    #[command(flatten)]
    suite: SuiteArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    command(&args.suite, "SKIP", |engine| {
        let mut results = Vec::new();
        for dir in &args.dir {
            results.extend(run_all(dir, engine)?);
        }
        Ok(results)
    })
}
