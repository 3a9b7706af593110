//! What conformance suites share: how a case ends, where it runs, and how the results are printed.

use crate::corpus::engine::{Engine, EngineArgs};
use crate::stdout;
use serde_json::{Value, json};
use std::io;
use std::process::ExitCode;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All results agree.
    Pass,
    /// A result is wrong, or the case could not be run though nothing in it is unsupported.
    Fail(String),
    /// The importer says that it does not support the case.
    Unsupported(String),
}

/// A case and how it ended.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Path of the case below the folder that was asked for.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What there is to say about a pass; may be empty.
    pub note: String,
}

/// The flags that every suite takes.
#[derive(Clone, Debug, clap::Args)]
pub struct SuiteArgs {
    /// Where the cases run: `interp` (the reference interpreter), a built-in target, or a target file.
    #[arg(short = 't', long, default_value = "interp")]
    pub target: String,
    /// Spread over exactly this many dies.
    #[arg(long)]
    pub dies: Option<usize>,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// One line a case.
    Text,
    /// One document.
    Json,
}

impl SuiteArgs {
    /// The engine that the flags name. Cases run side by side, so each gets one thread.
    pub fn engine(&self) -> Result<Engine, String> {
        Engine::new(&EngineArgs { target: self.target.clone(), dies: self.dies, threads: 1, ..EngineArgs::default() })
    }
}

/// Runs a case; a panic in it is a failure.
pub fn guarded(case: impl FnOnce() -> Outcome) -> Outcome {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        Outcome::Fail(format!("panicked: {}", text.unwrap_or("?")))
    })
}

/// Runs the `main` of a suite's command: `run` makes the results, which are printed; the exit code is 1 when a case failed and 2 when
/// nothing could be run.
pub fn command(args: &SuiteArgs, skip_word: &str, run: impl FnOnce(&Engine) -> Result<Vec<CaseResult>, String>) -> ExitCode {
    // A panic is reported as the case's failure; the hook would only print it a second time.
    std::panic::set_hook(Box::new(|_| {}));
    match args.engine().and_then(|engine| run(&engine)) {
        Ok(results) => stdout::finish(print(&results, args.format, skip_word)),
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

/// A message on one line, and not too long a one.
pub fn one_line(message: &str) -> String {
    const LONGEST: usize = 400;
    let words: Vec<&str> = message.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn print(results: &[CaseResult], format: Format, skip_word: &str) -> io::Result<ExitCode> {
    let count = |f: fn(&Outcome) -> bool| results.iter().filter(|r| f(&r.outcome)).count();
    let passed = count(|o| matches!(o, Outcome::Pass));
    let failed = count(|o| matches!(o, Outcome::Fail(_)));
    let skipped = count(|o| matches!(o, Outcome::Unsupported(_)));
    let parts = |r: &CaseResult| match &r.outcome {
        Outcome::Pass => ("PASS".to_string(), r.note.clone()),
        Outcome::Fail(why) => ("FAIL".to_string(), why.clone()),
        Outcome::Unsupported(why) => (skip_word.to_string(), why.clone()),
    };
    if format == Format::Json {
        let case = |r: &CaseResult| -> Value {
            let (status, reason) = parts(r);
            json!({ "name": r.name, "status": status, "reason": reason })
        };
        let cases: Vec<Value> = results.iter().map(case).collect();
        stdout::line(&format!("{:#}", json!({ "cases": cases, "passed": passed, "failed": failed, "skipped": skipped })))?;
    } else {
        let width = skip_word.len();
        for r in results {
            let (status, reason) = parts(r);
            stdout::line(format!("{status:<width$} {}  {}", r.name, one_line(&reason)).trim_end())?;
        }
        stdout::line(&format!("{passed} passed, {failed} failed, {skipped} skipped"))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
