//! Runs corpus cases and prints one line a case: `corpus DIR... [-t TARGET] [--dies N] [--threads N] [--format json]`.

use clap::Parser;
use girih_tests::conformance::Outcome;
use girih_tests::corpus::engine::Engine;
use girih_tests::corpus::{CaseResult, find_cases, line, run_case};
use girih_tests::stdout;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Runs model cases against the results of their framework")]
struct Args {
    /// Folders of cases, or cases.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    engine: girih_tests::corpus::engine::EngineArgs,
    /// `text` or `json`.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

fn json(r: &CaseResult) -> serde_json::Value {
    let (outcome, why) = match &r.outcome {
        Outcome::Pass => ("pass", ""),
        Outcome::Fail(why) => ("fail", why.as_str()),
        Outcome::Unsupported(why) => ("unsupported", why.as_str()),
    };
    serde_json::json!({
        "case": r.name, "outcome": outcome, "why": why, "worst": r.worst.ratio, "at": r.worst.at, "half_precision_gradients": r.halves.ratio,
        "checks": r.checks, "dies": r.dies, "compile_seconds": r.compile_seconds,
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let engine = match Engine::new(&args.engine) {
        Ok(engine) => engine,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    stdout::finish(run(&args, &engine))
}

fn run(args: &Args, engine: &Engine) -> io::Result<ExitCode> {
    let (mut results, mut counts) = (Vec::new(), [0usize; 3]);
    for dir in find_cases(&args.dirs) {
        let result = run_case(&dir, engine);
        counts[match result.outcome {
            Outcome::Pass => 0,
            Outcome::Fail(_) => 1,
            Outcome::Unsupported(_) => 2,
        }] += 1;
        if args.format == "text" {
            stdout::line(&line(&result))?;
        }
        results.push(json(&result));
    }
    let [passed, failed, unsupported] = counts;
    if args.format == "json" {
        let document = serde_json::json!({ "cases": results, "passed": passed, "failed": failed, "unsupported": unsupported });
        stdout::line(&document.to_string())?;
    } else {
        stdout::line(&format!("{passed} passed, {failed} failed, {unsupported} skipped"))?;
    }
    Ok(ExitCode::from(u8::from(failed > 0 || passed + unsupported == 0)))
}
