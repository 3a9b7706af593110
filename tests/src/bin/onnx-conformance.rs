//! Runs the ONNX backend node tests (or any folder in their layout) through the importer and the reference interpreter, or a target.
//!
//! `cargo run --release -p girih-tests --bin onnx-conformance -- DIR... [-t TARGET] [--format json]`

use clap::Parser;
use girih_tests::conformance::{SuiteArgs, command};
use girih_tests::onnx_cases::run_all;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs ONNX backend test cases.
#[derive(Parser)]
struct Args {
    /// A case folder (with model.onnx), or a folder of case folders.
    #[arg(required = true)]
    dir: Vec<PathBuf>,
    #[command(flatten)]
    suite: SuiteArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    command(&args.suite, "UNSUPPORTED", |engine| {
        let mut results = Vec::new();
        for dir in &args.dir {
            results.extend(run_all(dir, engine).map_err(|e| format!("cannot read {}: {e}", dir.display()))?);
        }
        Ok(results)
    })
}
