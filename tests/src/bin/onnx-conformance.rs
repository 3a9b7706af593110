//! Runs the ONNX backend node tests (or any folder in their layout) through the importer and the reference interpreter.
//!
//! `cargo run --release -p girih-tests --bin onnx-conformance -- DIR [--format json]`

use clap::{Parser, ValueEnum};
use girih_tests::onnx_cases::{Outcome, run_all};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs ONNX backend test cases.
#[derive(Parser)]
struct Args {
    /// A case folder (with model.onnx), or a folder of case folders.
    dir: Vec<PathBuf>,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    anyhow::ensure!(!args.dir.is_empty(), "name at least one folder");
    // A panic is reported as the case's failure; the hook would only print it a second time.
    std::panic::set_hook(Box::new(|_| {}));
    let mut results = Vec::new();
    for dir in &args.dir {
        results.extend(run_all(dir).map_err(|e| anyhow::anyhow!("cannot read {}: {e}", dir.display()))?);
    }
    let count = |f: fn(&Outcome) -> bool| results.iter().filter(|r| f(&r.outcome)).count();
    let passed = count(|o| matches!(o, Outcome::Pass));
    let failed = count(|o| matches!(o, Outcome::Fail(_)));
    let skipped = count(|o| matches!(o, Outcome::Unsupported(_)));
    let parts = |o: &Outcome| match o {
        Outcome::Pass => ("PASS", String::new()),
        Outcome::Fail(why) => ("FAIL", why.clone()),
        Outcome::Unsupported(why) => ("UNSUPPORTED", why.clone()),
    };
    if args.format == Format::Json {
        let cases: Vec<_> = results
            .iter()
            .map(|r| {
                let (status, reason) = parts(&r.outcome);
                serde_json::json!({ "name": r.name, "status": status, "reason": reason })
            })
            .collect();
        let document = serde_json::json!({ "cases": cases, "passed": passed, "failed": failed, "skipped": skipped });
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        for r in &results {
            let (status, reason) = parts(&r.outcome);
            println!("{status:<11} {}{}{}", r.name, if reason.is_empty() { "" } else { "  " }, reason.replace('\n', " "));
        }
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
