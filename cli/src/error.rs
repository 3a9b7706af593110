//! What can go wrong, as one type for embedders and for the command.
//!
//! Every error has a stable code ([`Error::code`]), a class that the command maps to its exit code ([`Error::exit_code`]), and a
//! [`Diagnostic`]: what, where, why and what to do, ready to be rendered.

use crate::codes::{self, Code};
use girih_compiler::import::error::{ImportError, clean};
use girih_compiler::levels::LevelError;
use girih_compiler::memory::{DoesNotFit, Repair};
use girih_compiler::pipeline::CompileError;
use girih_compiler::train::TrainError;
use girih_ir::check::CheckReport;
use girih_ir::check::field::FieldError;
use girih_ir::literal::LiteralError;
use girih_ir::program::codec::CodecError;
use girih_ir::step::StepError;
use girih_ir::target::{Coord, Target, TargetError};
use girih_ir::text::TextError;
use girih_runtime::{RuntimeError, SimError};
use std::path::{Path, PathBuf};

/// Why girih could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A text form does not read.
    #[error("{}: {error}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: TextError,
    },
    /// A text of a level does not read.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// A training step does not fit together.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A training step cannot be built.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A target file cannot be used.
    #[error("{}: {error}", .path.display())]
    TargetFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: TargetError,
    },
    /// A step does not compile.
    #[error(transparent)]
    Compile(CompileError),
    /// A step does not fit into SRAM.
    #[error("{report}")]
    DoesNotFit {
        /// The die, the peak, and what is alive there.
        report: Box<DoesNotFit>,
        /// Where the die is.
        at: Option<Coord>,
    },
    /// A program was rejected by the checker.
    #[error("{report}")]
    Check {
        /// The findings.
        report: Box<CheckReport>,
        /// Whether girih itself just made the program, which makes this a defect.
        ours: bool,
    },
    /// A program could not be run over a finite field.
    #[error(transparent)]
    Field(FieldError),
    /// A program file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Codec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: CodecError,
    },
    /// A program could not be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A program could not be simulated.
    #[error(transparent)]
    Simulate(#[from] SimError),
    /// A constant of the wrong size.
    #[error(transparent)]
    Literal(#[from] LiteralError),
    /// A kind of file that is not supported.
    #[error("E0004: {what}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do about it.
        help: String,
    },
    /// The caller has to say something else.
    #[error("E0001: {what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What would be right.
        help: String,
    },
    /// A file could not be read or written.
    #[error("E0002: cannot {action} {}: {source}", .path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of tensors is damaged.
    #[error("E0003: {} is malformed: {why}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl From<CompileError> for Error {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Fit(report) => Error::DoesNotFit { report, at: None },
            CompileError::Target(error) => Error::Target(error),
            other => Error::Compile(other),
        }
    }
}

/// An error taken apart for rendering. All texts are free of control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub title: String,
    /// Where: a file, a node, a tensor.
    pub place: Option<String>,
    /// The text in question, if the error is about one.
    pub snippet: Option<Snippet>,
    /// Reasons and details.
    pub notes: Vec<String>,
    /// What to do about it.
    pub help: Option<String>,
}

/// A line of a text with a marked column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snippet {
    /// The file.
    pub path: String,
    /// Line number, from 1.
    pub line: usize,
    /// The line, or the part of it around the place.
    pub text: String,
    /// Byte offset of the place in `text`.
    pub at: usize,
}

impl Error {
    /// Wrong use, with what would be right.
    pub(crate) fn usage(what: impl Into<String>, help: impl Into<String>) -> Self {
        Error::Usage { what: what.into(), help: help.into() }
    }

    /// The same error with the coordinates of the die on the target.
    pub(crate) fn on(self, target: &Target) -> Self {
        match self {
            Error::DoesNotFit { report, .. } => Error::DoesNotFit { at: Some(target.coord(report.die)), report },
            other => other,
        }
    }

    /// A file that cannot be read.
    pub(crate) fn reading(path: &Path, source: std::io::Error) -> Self {
        Error::Io { action: "read", path: path.to_path_buf(), source }
    }

    /// A file that cannot be written.
    pub(crate) fn writing(path: &Path, source: std::io::Error) -> Self {
        Error::Io { action: "write", path: path.to_path_buf(), source }
    }

    /// The stable code, `E` and four digits.
    pub fn code(&self) -> &'static str {
        self.entry().map_or(codes::INTERNAL, |c| c.id)
    }

    fn entry(&self) -> Option<Code> {
        match self {
            Error::Import(e) => codes::find(e.code()),
            Error::Target(error) | Error::TargetFile { error, .. } => codes::find(error.code()),
            Error::Check { report, .. } => codes::find(report.findings.first()?.fault.code()),
            Error::Runtime(e) => codes::find(e.code()),
            other => codes::split(&other.to_string()).0,
        }
    }

    /// The exit code of the command: 1 the check failed · 2 usage · 3 malformed · 4 unsupported · 5 does not fit · 6 I/O · 70 internal.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Import(e) => e.exit_code(),
            Error::Simulate(_) => 70,
            Error::Literal(_) => 2,
            Error::Text { .. } | Error::Level(_) | Error::Codec { .. } | Error::Malformed { .. } => 3,
            Error::Step(StepError::Weight { .. }) => 2,
            Error::Step(_) => 3,
            Error::Train(TrainError::Autodiff(_)) => 4,
            Error::Train(_) | Error::Usage { .. } => 2,
            Error::TargetFile { .. } => 3,
            Error::Target(_) => 2,
            Error::Compile(CompileError::Lower(_) | CompileError::Slices(_)) | Error::Unsupported { .. } | Error::Field(_) => 4,
            Error::Compile(CompileError::Place(_)) => 5,
            Error::Compile(CompileError::Pin(_)) => 2,
            Error::Compile(_) => 70,
            Error::DoesNotFit { .. } => 5,
            Error::Check { ours, .. } => {
                if *ours {
                    70
                } else {
                    1
                }
            }
            Error::Runtime(e) => runtime_exit(e),
            Error::Io { .. } => 6,
        }
    }

    /// What, where, why and what to do.
    pub fn diagnostic(&self) -> Diagnostic {
        let (_, message) = codes::split(&self.to_string());
        let mut lines = message.lines();
        let title = lines.next().unwrap_or_default().to_string();
        let notes: Vec<String> = lines.map(str::to_string).collect();
        let notes = if notes.is_empty() { notes } else { vec![notes.join("\n")] };
        let mut d = Diagnostic { code: self.code(), title, place: None, snippet: None, notes, help: None };
        match self {
            Error::Import(e) => import(e, &mut d),
            Error::Text { path, error } => text(path, error, &mut d),
            Error::Codec { path, error } => {
                d.title = codes::split(&error.to_string()).1;
                d.place = Some(path.display().to_string());
            }
            Error::DoesNotFit { report, at } => fit(report, *at, &mut d),
            Error::TargetFile { path, error } => {
                let text = error.to_string();
                let (title, rest) = text.split_once('\n').unwrap_or((&text, ""));
                d.title = title.to_string();
                d.notes = if rest.is_empty() { Vec::new() } else { vec![rest.to_string()] };
                d.place = Some(path.display().to_string());
            }
            Error::Check { report, ours } => check(report, *ours, &mut d),
            Error::Unsupported { help, .. } | Error::Usage { help, .. } => d.help = Some(help.clone()),
            Error::Field(FieldError::TooLarge { points, .. }) => {
                d.help = Some(format!("`--field-limit {points}` runs it all the same, a core does some 10^8 a second"));
            }
            Error::Compile(CompileError::Optimize(_)) => d.help = Some("`--no-optimize` compiles without rewriting".into()),
            _ => {}
        }
        d.help = d.help.filter(|h| !h.is_empty()).map(|h| clean(&h));
        d.title = clean(&d.title);
        d.place = d.place.filter(|p| !p.is_empty()).map(|p| clean(&p));
        d.notes.iter_mut().for_each(|n| *n = clean(n));
        d
    }
}

fn runtime_exit(e: &RuntimeError) -> u8 {
    match e {
        RuntimeError::MissingInput { .. } | RuntimeError::Unknown { .. } | RuntimeError::WrongType { .. } => 2,
        RuntimeError::MissingState { .. } | RuntimeError::StateLost | RuntimeError::OtherProgram { .. } => 2,
        RuntimeError::Data { .. } => 3,
        RuntimeError::Io { .. } | RuntimeError::Locked { .. } | RuntimeError::NoCheckpoint { .. } | RuntimeError::Threads { .. } => 6,
        RuntimeError::Cancelled { .. } | RuntimeError::Interrupted { .. } => 130,
        _ => 70,
    }
}

fn import(e: &ImportError, d: &mut Diagnostic) {
    match e {
        ImportError::Malformed(p) | ImportError::Io(p) | ImportError::Usage(p) => {
            d.title.clone_from(&p.what);
            d.place = Some(p.place.clone());
            d.notes = if p.why.is_empty() { Vec::new() } else { vec![p.why.clone()] };
        }
        _ => {}
    }
    d.help = Some(e.help().to_string());
}

fn text(path: &Path, e: &TextError, d: &mut Diagnostic) {
    d.title = codes::split(&e.kind.to_string()).1;
    d.notes.clear();
    let at = e.snippet.char_indices().nth(e.caret).map_or(e.snippet.len(), |(i, _)| i);
    d.snippet = Some(Snippet { path: path.display().to_string(), line: e.line, text: e.snippet.clone(), at });
}

fn fit(report: &DoesNotFit, at: Option<Coord>, d: &mut Diagnostic) {
    let die = at.map_or_else(|| report.die.to_string(), |c| c.to_string());
    let over = report.need.saturating_sub(report.have);
    d.title = format!("die {die} needs {} of SRAM and has {}", bytes(report.need), bytes(report.have));
    let mut note = format!("{} too much, at {}; the largest live regions there:", bytes(over), report.at);
    let sizes: Vec<String> = report.live.iter().map(|r| bytes(r.bytes)).collect();
    let width = sizes.iter().map(|s| s.chars().count()).max().unwrap_or(0);
    for (region, size) in report.live.iter().zip(sizes) {
        let kind = if region.state { "state" } else { "value" };
        note.push_str(&format!("\n{size:>width$}  {kind}  {}", region.tensor));
        if !region.origin.is_empty() && region.origin != region.tensor {
            note.push_str(&format!("  ({})", region.origin));
        }
    }
    if report.others.0 > 0 {
        note.push_str(&format!("\n{} more, {} together", report.others.0, bytes(report.others.1)));
    }
    d.notes = vec![note];
    d.notes.extend(report.refused.iter().cloned());
    if report.repairs.is_empty() {
        d.help = Some("spread over more dies (`--dies`), take a smaller batch (`--batch`), or a target with more SRAM".into());
        return;
    }
    // One line each; all were planned.
    let repair = |r: &Repair| format!("`{}`: peak {}, about {:.1} us a step", r.flag, bytes(r.peak), r.picoseconds as f64 * 1e-6);
    let lines: Vec<String> = report.repairs.iter().map(repair).collect();
    d.help = Some(format!("it fits with {}", lines.join("\n   or with ")));
}

fn check(report: &CheckReport, ours: bool, d: &mut Diagnostic) {
    d.title = format!("the program was not accepted: {} finding{}", report.total, if report.total == 1 { "" } else { "s" });
    d.notes = report.findings.iter().map(|f| f.to_string().trim_end().to_string()).collect();
    if ours {
        d.help = Some("girih made this program itself, so this is a defect: please report the model".into());
    }
}

/// A size in words, in powers of 1024.
pub(crate) fn bytes(n: u64) -> String {
    let (mut v, mut unit) = (n as f64, 0);
    while v >= 1024.0 && unit < 5 {
        v /= 1024.0;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
    if unit == 0 { format!("{n} B") } else { format!("{v:.1} {name}") }
}
