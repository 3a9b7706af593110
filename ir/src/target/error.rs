//! What can be wrong with a target: its name, its file, an override, or what is asked of its mesh.
//!
//! Every variant carries data and has a stable code, so that scripts and tests can tell them apart without reading English.

use std::fmt;
use thiserror::Error;

/// A target that cannot be used, or a question about one that has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// No built-in target has this name.
    #[error("there is no target `{name}`{}; built in are {known}, or give the path of a TOML file", Suggestion(.nearest))]
    UnknownTarget {
        /// What was asked for.
        name: String,
        /// The built-in name that is closest to it, if one is close.
        nearest: Option<&'static str>,
        /// All built-in names, for the message.
        known: String,
    },
    /// The file is not TOML, or not a target.
    #[error("the target file does not parse: {detail}")]
    Syntax {
        /// The parser's message, with line and column.
        detail: String,
    },
    /// A figure with a unit that its dimension does not have, or without a number.
    #[error("`{text}` is not {dimension}: write a number and one of {units}")]
    Unit {
        /// The offending text.
        text: String,
        /// The dimension that is wanted, with its article.
        dimension: &'static str,
        /// The units that are accepted.
        units: String,
    },
    /// The target parses but describes no machine.
    #[error("target `{name}` is not usable: {}", .problems.join("; "))]
    Invalid {
        /// The target's name.
        name: String,
        /// What is wrong, one sentence each.
        problems: Vec<String>,
    },
    /// An override that does not name one figure.
    #[error("cannot apply the override `{text}`: {why}")]
    Override {
        /// The override as given.
        text: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// Text that should name a die or a link.
    #[error("`{text}` does not name a {what}: write {example}")]
    Name {
        /// The offending text.
        text: String,
        /// `die` or `link`.
        what: &'static str,
        /// A name of that kind.
        example: &'static str,
    },
    /// A die or link that the mesh does not have.
    #[error("{name} is not on the {rows}×{cols} mesh of `{target}`")]
    OffMesh {
        /// The die or link.
        name: String,
        /// Rows of the mesh.
        rows: u32,
        /// Columns of the mesh.
        cols: u32,
        /// The target's name.
        target: String,
    },
    /// More dies are wanted than can work together.
    #[error("{wanted} dies are wanted, but `{target}` has {usable} connected live dies{}", Hint(.wanted))]
    TooFewDies {
        /// How many are wanted.
        wanted: usize,
        /// How many there are.
        usable: usize,
        /// The target's name.
        target: String,
    },
}

impl TargetError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            TargetError::UnknownTarget { .. } => "E0501",
            TargetError::Syntax { .. } => "E0502",
            TargetError::Unit { .. } => "E0503",
            TargetError::Invalid { .. } => "E0504",
            TargetError::Override { .. } => "E0505",
            TargetError::Name { .. } => "E0506",
            TargetError::OffMesh { .. } => "E0507",
            TargetError::TooFewDies { .. } => "E0508",
        }
    }
}

/// ` (did you mean …?)`, or nothing.
struct Suggestion<'a>(&'a Option<&'static str>);

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, " (did you mean `{name}`?)"),
            None => Ok(()),
        }
    }
}

/// What to do about too few dies.
struct Hint<'a>(&'a usize);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("; ask for at least one"),
            _ => f.write_str("; ask for fewer or use a larger target"),
        }
    }
}
