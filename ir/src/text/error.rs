//! What can be wrong with a text, and where.

use crate::attr::AttrError;
use crate::fused::ProgramError;
use crate::ops::InferError;
use crate::types::Type;
use std::fmt;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextErrorKind {
    /// The grammar wants something else here.
    #[error("E0230: expected {want}, found {found}")]
    Unexpected {
        /// What would be right.
        want: String,
        /// What is there.
        found: String,
    },
    /// A token that cannot be read.
    #[error("E0231: {why}")]
    Token {
        /// Why.
        why: String,
    },
    /// No op has that name.
    #[error("E0232: there is no op `{name}`{hint}")]
    UnknownOp {
        /// The name.
        name: String,
        /// A close name, in words.
        hint: String,
    },
    /// A value that no earlier line makes.
    #[error("E0233: %{id} is not made by any line above")]
    UnknownValue {
        /// The name after `%`.
        id: String,
    },
    /// A name that is given twice.
    #[error("E0234: {what} is there twice; give each its own name")]
    Twice {
        /// The name.
        what: String,
    },
    /// The written type is not the type that the op makes.
    #[error("E0235: the op makes {got}, but the text says {said}; correct the type or leave it out")]
    Type {
        /// Inferred.
        got: Type,
        /// Written.
        said: Type,
    },
    /// Beyond what a text may ask for.
    #[error("E0236: {what}; the limit is {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A constant whose elements do not fit its type.
    #[error("E0237: {why}")]
    Literal {
        /// Why.
        why: String,
    },
    /// An attribute is missing, unknown or of the wrong kind.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// The op does not type.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A fused program is malformed.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// An error in a text, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line, or the part of it around the column.
    pub snippet: String,
    /// Column of the caret inside the snippet, from 0.
    pub caret: usize,
    /// What is wrong.
    pub kind: TextErrorKind,
}

/// Characters of a long line that an error shows on each side of its column.
const CONTEXT: usize = 60;

impl TextError {
    /// An error at a byte offset of `text`.
    pub(crate) fn at(text: &str, offset: usize, kind: TextErrorKind) -> Self {
        let offset = (0..=offset.min(text.len())).rev().find(|o| text.is_char_boundary(*o)).unwrap_or(0);
        let start = text[..offset].rfind('\n').map_or(0, |p| p + 1);
        let end = text[offset..].find('\n').map_or(text.len(), |p| offset + p);
        let column = text[start..offset].chars().count();
        let skip = column.saturating_sub(CONTEXT);
        let snippet = text[start..end].chars().skip(skip).take(2 * CONTEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = text[..offset].bytes().filter(|b| *b == b'\n').count() + 1;
        TextError { line, column: column + 1, snippet, caret: column - skip, kind }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{}", self.kind)?;
        writeln!(f, "{margin}--> line {}, column {}", self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", self.snippet)?;
        write!(f, "{margin} | {}^", " ".repeat(self.caret))
    }
}

impl std::error::Error for TextError {}
