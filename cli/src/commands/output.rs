//! What a command writes: its result to standard output as text or as one JSON document, progress to standard error.

use girih::{Diagnostic, Error};
use serde_json::{Value, json};
use std::io::{self, Write};

/// How results are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON document
    Json,
}

/// Why a command ends without a result.
#[derive(Debug)]
pub enum Failure {
    /// With an error to be shown.
    Error(Error),
    /// The reader of standard output went away, which is fine.
    ClosedPipe,
    /// With an exit code; everything was said.
    Exit(u8),
}

/// What commands return.
pub type Outcome<T = ()> = Result<T, Failure>;

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Error(error.into())
    }
}

/// The two streams.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    /// Streams of that format.
    pub fn new(format: Format, quiet: bool) -> Self {
        Output { format, quiet }
    }

    /// Whether the result is JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether progress may be shown.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes the result in the chosen form.
    pub fn result(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Outcome {
        match self.format {
            Format::Text => self.text(&text()),
            Format::Json => self.json(&json()),
        }
    }

    /// [`result`](Self::result) with the document on one line, for scripts that collect one line a run.
    pub fn line(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Outcome {
        match self.format {
            Format::Text => self.text(&text()),
            Format::Json => write(json().to_string().as_bytes()),
        }
    }

    /// Writes text, ending in one newline.
    pub fn text(&self, text: &str) -> Outcome {
        write(text.trim_end_matches('\n').as_bytes())
    }

    /// Writes a document.
    pub fn json(&self, value: &Value) -> Outcome {
        write(format!("{value:#}").as_bytes())
    }

    /// The document of a command that failed, when documents are wanted.
    pub fn error(&self, d: &Diagnostic, exit_code: u8) -> Outcome {
        if !self.is_json() {
            return Ok(());
        }
        let error = json!({ "code": d.code, "title": d.title, "place": d.place, "notes": d.notes, "help": d.help, "exit_code": exit_code });
        self.json(&json!({ "error": error }))
    }

    /// Writes a line of progress to standard error.
    pub fn progress(&self, line: &str) {
        if !self.quiet {
            self.aside(line);
        }
    }

    /// Writes what was asked for beside the result to standard error.
    pub fn aside(&self, text: &str) {
        // What nobody can read is no reason to stop.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn write(bytes: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Error(Error::Io { action: "write", path: "standard output".into(), source }),
    })
}

/// Writes raw bytes, such as a script.
pub fn write_raw(bytes: &[u8]) -> Outcome {
    write(bytes.strip_suffix(b"\n").unwrap_or(bytes))
}

/// A table with aligned columns: the first left, the others right, the last as it is when `prose`.
pub fn table(rows: &[Vec<String>], prose: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, text) in row.iter().enumerate() {
            let gap = " ".repeat(widths[c].saturating_sub(text.chars().count()));
            let sep = if c == 0 { "" } else { "  " };
            match c {
                0 => line.push_str(&format!("{text}{gap}")),
                _ if prose && c + 1 == columns => line.push_str(&format!("{sep}{text}")),
                _ => line.push_str(&format!("{sep}{gap}{text}")),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A size in words, in powers of 1024.
pub fn bytes(n: u64) -> String {
    let (mut v, mut unit) = (n as f64, 0);
    while v >= 1024.0 && unit < 5 {
        v /= 1024.0;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
    if unit == 0 { format!("{n} B") } else { format!("{v:.1} {name}") }
}

/// A count with a metric prefix.
pub fn metric(n: f64, unit: &str) -> String {
    let (mut v, mut prefix) = (n, "");
    for next in ["K", "M", "G", "T", "P"] {
        if v.abs() < 1000.0 {
            break;
        }
        (v, prefix) = (v / 1000.0, next);
    }
    if prefix.is_empty() && v.fract() == 0.0 { format!("{v:.0} {unit}") } else { format!("{v:.1} {prefix}{unit}") }
}

/// A duration in the unit that fits.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.2} us", s * 1e6),
        s => format!("{:.0} ns", s * 1e9),
    }
}
