//! What can go wrong while reading a model, as data.
//!
//! One type for all front ends, so that the command, the library and the tests treat a damaged ONNX file like a damaged StableHLO
//! file: the class decides the exit code, the `E01xx` code is stable, and each problem says what, where, why and what to do.

use std::fmt;

/// One problem of a model file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The stable code, `E01xx`.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// Where: a node, a tensor, a file. May be empty.
    pub place: String,
    /// Why that is wrong. May be empty.
    pub why: String,
    /// What to do about it. May be empty.
    pub help: String,
}

impl Problem {
    /// A problem of that code.
    pub fn new(code: &'static str, what: impl Into<String>) -> Self {
        Problem { code, what: clean(&what.into()), place: String::new(), why: String::new(), help: String::new() }
    }

    /// The same problem with a place; the first place given stays.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        if self.place.is_empty() {
            self.place = clean(&place.into());
        }
        self
    }

    /// The same problem with a reason.
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = clean(&why.into());
        self
    }

    /// The same problem with advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = clean(&help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.place.is_empty() {
            write!(f, " ({})", self.place)?;
        }
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

/// One node that the importer cannot take.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnsupportedOp {
    /// The operator, with its domain unless that is the default one.
    pub op: String,
    /// The node's name, or the name of its first output.
    pub node: String,
    /// What about it is not supported.
    pub reason: String,
}

impl fmt::Display for UnsupportedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.op, self.node, self.reason)
    }
}

/// Why a model could not be imported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file breaks the rules of its format (exit code 3).
    #[error("{0}")]
    Malformed(Problem),
    /// The file is sound, but uses what is not supported; every such node is listed (exit code 4).
    #[error("{}", list(.ops))]
    Unsupported {
        /// The nodes, in graph order.
        ops: Vec<UnsupportedOp>,
    },
    /// A file could not be read (exit code 6).
    #[error("{0}")]
    Io(Problem),
    /// The caller has to say more, for example the extent of a symbolic dimension (exit code 2).
    #[error("{0}")]
    Usage(Problem),
}

impl ImportError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            ImportError::Malformed(p) | ImportError::Io(p) | ImportError::Usage(p) => p.code,
            ImportError::Unsupported { .. } => "E0120",
        }
    }

    /// The exit code of the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            ImportError::Usage(_) => 2,
            ImportError::Malformed(_) => 3,
            ImportError::Unsupported { .. } => 4,
            ImportError::Io(_) => 6,
        }
    }

    /// What to do about it; may be empty.
    pub fn help(&self) -> &str {
        match self {
            ImportError::Malformed(p) | ImportError::Io(p) | ImportError::Usage(p) => &p.help,
            ImportError::Unsupported { .. } => "the ops listed are not supported; export the model without them",
        }
    }
}

/// All unsupported nodes in one message: operators grouped, at most 20 nodes written out.
fn list(ops: &[UnsupportedOp]) -> String {
    const SHOWN: usize = 20;
    let mut text = format!("{} {} not supported", ops.len(), if ops.len() == 1 { "node is" } else { "nodes are" });
    for op in ops.iter().take(SHOWN) {
        text.push_str("\n  ");
        text.push_str(&op.to_string());
    }
    if ops.len() > SHOWN {
        text.push_str(&format!("\n  … and {} more", ops.len() - SHOWN));
    }
    text
}

/// Text from a model made safe to print: control and bidirectional characters escaped, length bounded.
pub fn clean(text: &str) -> String {
    const LONGEST: usize = 4096;
    let mut out = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if out.len() >= LONGEST {
            out.push('…');
            break;
        }
        let hidden = c.is_control() && c != '\n';
        let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        if hidden || bidi {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_exit_codes_of_the_command() {
        let p = Problem::new("E0101", "x");
        assert_eq!(ImportError::Malformed(p.clone()).exit_code(), 3);
        assert_eq!(ImportError::Unsupported { ops: vec![] }.exit_code(), 4);
        assert_eq!(ImportError::Io(p.clone()).exit_code(), 6);
        assert_eq!(ImportError::Usage(p).exit_code(), 2);
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
        assert!(clean(&"x".repeat(1 << 20)).len() < 5000);
    }

    #[test]
    fn a_problem_reads_as_one_sentence() {
        let p = Problem::new("E0103", "tensor 'w' has 3 values").at("node 'n'").because("its shape has 4").help("re-export");
        assert_eq!(p.to_string(), "tensor 'w' has 3 values (node 'n'): its shape has 4; re-export");
    }
}
