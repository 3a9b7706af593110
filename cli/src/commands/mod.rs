//! The commands: one file each, and the list that parses, documents and dispatches them.

mod args;
mod bench;
mod check;
mod compile;
mod demo;
mod diff;
mod explain;
mod gemm;
mod html;
mod inspect;
mod output;
mod profile;
mod render;
mod report;
mod run;
mod shell;
mod simulate;
mod summary;
mod sweep;
mod targets;
mod train;

use clap::{Args, CommandFactory, Parser, Subcommand};
use output::{Failure, Format, Output};

/// Compiles training graphs onto meshes of SRAM dies, checks the programs, runs them, and predicts their time and energy.
#[derive(Parser, Debug)]
#[command(
    name = "girih",
    bin_name = "girih",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true
)]
#[command(after_help = "Exit codes: 0 ok, 1 the check failed, 2 usage, 3 malformed input, 4 unsupported,\n\
                        5 does not fit, 6 I/O, 7 hardware fault, 70 internal error.\n\
                        `girih demo` shows everything on a small model; `girih explain CODE` explains an error.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Global {
    /// How results are written to standard output
    #[arg(long, value_enum, default_value_t = Format::Text, global = true, value_name = "FORMAT")]
    format: Format,
    /// No progress on standard error
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Compile a model for a target
    Compile(Box<compile::Compile>),
    /// Run a model once
    Run(Box<run::Run>),
    /// Train a model
    Train(Box<train::Train>),
    /// Predict time and energy of a step on the target
    Simulate(Box<simulate::Simulate>),
    /// Plan and simulate a model while figures of the target vary
    Sweep(Box<sweep::Sweep>),
    /// Summarize a compiled program
    Report(report::Report),
    /// Explain an error code, the rules behind each output, or where a value lies
    Explain(Box<explain::Explain>),
    /// Show what is in a file
    Inspect(inspect::Inspect),
    /// Prove a compiled program safe and equal to its reference step
    Check(check::Check),
    /// List, show and check targets
    Targets(Box<targets::Targets>),
    /// Measure a model on this machine
    Bench(Box<bench::Bench>),
    /// Show where the time of a step goes on this machine
    Profile(Box<profile::Profile>),
    /// Compare two programs, models, tensor files or targets
    Diff(Box<diff::Diff>),
    /// Train a digit classifier on 25 dies and on this CPU
    Demo(demo::Demo),
    /// Print a completion script
    Completions(shell::Completions),
    /// Print the manual
    Man(shell::Man),
}

/// Parses the command line and runs it; returns the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Nothing better can be done when not even the usage can be printed.
            let _ = e.print();
            return if e.use_stderr() { 2 } else { 0 };
        }
    };
    let out = Output::new(cli.global.format, cli.global.quiet);
    let done = match cli.command {
        Command::Compile(c) => c.run(&out),
        Command::Run(c) => c.run(&out),
        Command::Train(c) => c.run(&out),
        Command::Simulate(c) => c.run(&out),
        Command::Sweep(c) => c.run(&out),
        Command::Report(c) => c.run(&out),
        Command::Explain(c) => c.run(&out),
        Command::Inspect(c) => c.run(&out),
        Command::Check(c) => c.run(&out),
        Command::Targets(c) => c.run(&out),
        Command::Bench(c) => c.run(&out),
        Command::Profile(c) => c.run(&out),
        Command::Diff(c) => c.run(&out),
        Command::Demo(c) => c.run(&out),
        Command::Completions(c) => c.run(&mut Cli::command()),
        Command::Man(c) => c.run(Cli::command()),
    };
    match done {
        Ok(()) | Err(Failure::ClosedPipe) => 0,
        Err(Failure::Exit(code)) => code,
        Err(Failure::Error(e)) => {
            let diagnostic = e.diagnostic();
            render::print(&diagnostic);
            // The text on standard error has said it already.
            let _ = out.error(&diagnostic, e.exit_code());
            e.exit_code()
        }
    }
}

/// Reports a defect of girih itself.
pub fn internal_error(what: &str) {
    render::print(&girih::Diagnostic {
        code: girih::codes::INTERNAL,
        title: "internal error".into(),
        place: None,
        snippet: None,
        notes: vec![format!("girih {}: {what}", env!("CARGO_PKG_VERSION"))],
        help: Some("this is a defect of girih; please report it with the command line and, if you can, the input".into()),
    });
}
