//! Problems of a text: what is wrong, the line and column, and the line itself with a mark under the place.
//!
//! The mark stands in the reason, because every front end shares [`Problem`] and only texts have lines to show.

use crate::import::error::Problem;

/// The grammar wants something else.
pub(super) const SYNTAX: &str = "E0141";
/// A token that cannot be read: a string without an end, a number without digits, bytes that are no text.
pub(super) const TOKEN: &str = "E0142";
/// A type that does not exist or is malformed.
pub(super) const TYPE: &str = "E0143";
/// A literal that does not fit its type.
pub(super) const LITERAL: &str = "E0144";
/// The data of a constant is not in the file.
pub(super) const RESOURCE: &str = "E0145";
/// A name that is not defined, or defined twice.
pub(super) const NAME: &str = "E0146";
/// Types or counts of an operation that disagree.
pub(super) const MISMATCH: &str = "E0147";
/// More than a text may ask for.
pub(super) const LIMIT: &str = "E0148";
/// Nothing to read, or a structure that StableHLO modules do not have.
pub(super) const STRUCTURE: &str = "E0149";

/// What a step of the reader gives.
pub(super) type Step<T> = Result<T, Problem>;

/// Characters of a long line that are shown on each side of the place.
const CONTEXT: usize = 50;

/// A problem at a byte offset of the text.
#[cold]
pub(super) fn problem(text: &str, offset: usize, code: &'static str, what: impl Into<String>, why: &str) -> Problem {
    let offset = (0..=offset.min(text.len())).rev().find(|o| text.is_char_boundary(*o)).unwrap_or(0);
    let start = text[..offset].rfind('\n').map_or(0, |p| p + 1);
    let line = text[..offset].bytes().filter(|b| *b == b'\n').count() + 1;
    let column = text[start..offset].chars().count();
    let before: Vec<char> = text[start..offset].chars().rev().take(CONTEXT).collect();
    let after = text[offset..].chars().take_while(|c| *c != '\n').take(CONTEXT);
    let shown: String = before.iter().rev().copied().chain(after).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let mark = " ".repeat(before.len());
    let lead = if why.is_empty() { String::new() } else { format!("{why}\n") };
    Problem::new(code, what)
        .at(format!("line {line}, column {}", column + 1))
        .because(format!("{lead}{number} | {}\n{margin} | {mark}^", shown.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_under_the_place() {
        let p = problem("ab\n\tcd €f g\n", 8, SYNTAX, "expected a type", "");
        assert_eq!(p.place, "line 2, column 5");
        assert_eq!(p.why, "2 |  cd €f g\n  |     ^");
    }

    #[test]
    fn a_long_line_is_cut() {
        let p = problem(&"x".repeat(1 << 20), 1 << 19, SYNTAX, "w", "because");
        assert!(p.why.len() < 300 && p.why.starts_with("because\n1 | xxx"));
    }

    #[test]
    fn every_offset_has_a_place() {
        let text = "aé\n\u{1F600}";
        assert!((0..20).all(|o| problem(text, o, SYNTAX, "w", "").place.starts_with("line ")));
    }
}
