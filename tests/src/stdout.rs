//! Standard output that may be closed early, as by `| head`: nobody who stops reading wants to see a panic.

use std::io::{self, Write};
use std::process::ExitCode;

/// Writes a line.
///
/// # Errors
/// Those of standard output, such as a closed pipe.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// The exit code of a command that wrote its results: a closed pipe is no failure.
pub fn finish(result: io::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: cannot write standard output: {e}");
            ExitCode::from(6)
        }
    }
}
