//! A cursor over the bytes of a text.
//!
//! There is no separate token list: what `4x5xf32` or `-` means depends on where it stands, so each rule of the grammar takes the
//! bytes that it wants. Nothing is copied until a name has to be kept.

use super::error::{LIMIT, SYNTAX, Step, TOKEN, problem};
use crate::import::error::Problem;

/// A place in the text that moves forward.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    /// The text.
    pub text: &'a str,
    /// The next byte.
    pub pos: usize,
    /// How deep the rule that is being read is nested.
    pub depth: usize,
    /// How deep it may be.
    pub deepest: usize,
    counted: usize,
    line: u32,
}

/// Whether a byte may stand in a bare name.
pub(super) fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$')
}

impl<'a> Cursor<'a> {
    /// A cursor at the start.
    pub fn new(text: &'a str, deepest: usize) -> Self {
        Cursor { text, pos: 0, depth: 0, deepest, counted: 0, line: 1 }
    }

    /// The byte at the cursor without skipping anything; 0 at the end.
    pub fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.pos).copied().unwrap_or(0)
    }

    /// Steps over white space and comments.
    pub fn skip(&mut self) {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.pos) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.pos += 1,
                Some(b'/') if bytes.get(self.pos + 1) == Some(&b'/') => {
                    let end = bytes[self.pos..].iter().position(|b| *b == b'\n');
                    self.pos = end.map_or(bytes.len(), |e| self.pos + e);
                }
                _ => return,
            }
        }
    }

    /// The next byte after white space; 0 at the end.
    pub fn peek(&mut self) -> u8 {
        self.skip();
        self.byte()
    }

    /// Whether nothing is left.
    pub fn at_end(&mut self) -> bool {
        self.skip();
        self.pos >= self.text.len()
    }

    /// Whether that comes next.
    pub fn sees(&mut self, what: &str) -> bool {
        self.skip();
        self.text.as_bytes()[self.pos..].starts_with(what.as_bytes())
    }

    /// Takes that if it comes next.
    pub fn eat(&mut self, what: &str) -> bool {
        let there = self.sees(what);
        if there {
            self.pos += what.len();
        }
        there
    }

    /// Takes a byte if it comes next.
    pub fn eat_byte(&mut self, what: u8) -> bool {
        let there = self.peek() == what && self.pos < self.text.len();
        self.pos += usize::from(there);
        there
    }

    /// Takes a whole word if it comes next.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let there = self.sees(word) && !self.text.as_bytes().get(self.pos + word.len()).copied().is_some_and(is_name);
        if there {
            self.pos += word.len();
        }
        there
    }

    /// Takes that, or tells that it is missing.
    pub fn expect(&mut self, what: &str) -> Step<()> {
        if self.eat(what) { Ok(()) } else { Err(self.expected(&format!("`{what}`"))) }
    }

    /// A bare name, without taking it.
    pub fn word(&mut self) -> &'a str {
        self.skip();
        let bytes = &self.text.as_bytes()[self.pos..];
        let starts = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
        let length = if starts { bytes.iter().take_while(|b| is_name(**b)).count() } else { 0 };
        self.slice(self.pos, self.pos + length)
    }

    /// A bare name.
    pub fn name(&mut self, what: &str) -> Step<&'a str> {
        let word = self.word();
        if word.is_empty() {
            return Err(self.expected(what));
        }
        self.pos += word.len();
        Ok(word)
    }

    /// The rest of a name whose first mark (`%`, `#`, `!`, `^`) has been taken.
    pub fn suffix(&mut self) -> Step<&'a str> {
        let bytes = &self.text.as_bytes()[self.pos..];
        let length = bytes.iter().take_while(|b| is_name(**b) || **b == b'-').count();
        if length == 0 {
            return Err(self.expected("a name"));
        }
        let word = self.slice(self.pos, self.pos + length);
        self.pos += length;
        Ok(word)
    }

    /// `@name` or `@"name"`, with nested parts joined by `::`.
    pub fn symbol(&mut self) -> Step<String> {
        let mut whole = String::new();
        loop {
            self.expect("@")?;
            match self.byte() {
                b'"' => whole.push_str(&self.string()?),
                _ => whole.push_str(self.suffix()?),
            }
            if !self.sees("::@") {
                return Ok(whole);
            }
            whole.push_str("::");
            self.pos += 2;
        }
    }

    /// The part between the quotes of a string, as it stands.
    pub fn raw_string(&mut self) -> Step<&'a str> {
        self.skip();
        let bytes = self.text.as_bytes();
        let start = self.pos + 1;
        if self.byte() != b'"' {
            return Err(self.expected("a string"));
        }
        let mut at = start;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(b'\n') | None => return Err(self.fault(TOKEN, "a string without an end", "")),
                Some(_) => at += 1,
            }
        }
        self.pos = at + 1;
        Ok(self.slice(start, at))
    }

    /// A string.
    pub fn string(&mut self) -> Step<String> {
        Ok(unescape(self.raw_string()?))
    }

    /// A number as it stands: `-12`, `0x7F`, `1.5e-3`; empty when none comes next.
    pub fn number(&mut self) -> &'a str {
        self.skip();
        let bytes = self.text.as_bytes();
        let start = self.pos;
        let mut at = start + usize::from(self.byte() == b'-');
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        if bytes.get(at) == Some(&b'0') && bytes.get(at + 1) == Some(&b'x') && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit) {
            at += 2;
            while bytes.get(at).is_some_and(u8::is_ascii_hexdigit) {
                at += 1;
            }
        } else {
            let whole = digits(at);
            if whole == at {
                return "";
            }
            at = whole;
            if bytes.get(at) == Some(&b'.') {
                at = digits(at + 1);
            }
            if matches!(bytes.get(at), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
                let end = digits(at + 1 + sign);
                at = if end > at + 1 + sign { end } else { at };
            }
        }
        self.pos = at;
        self.slice(start, at)
    }

    /// A whole number.
    pub fn int(&mut self) -> Step<i64> {
        self.skip();
        let start = self.pos;
        let text = self.number();
        if text.is_empty() {
            return Err(self.expected("a whole number"));
        }
        match parse_int(text).and_then(|v| i64::try_from(v).ok()) {
            Some(v) => Ok(v),
            None => Err(problem(self.text, start, TOKEN, format!("`{text}` is no whole number of 64 bits"), "")),
        }
    }

    /// A whole number from 0, such as an extent or an index.
    pub fn unsigned(&mut self) -> Step<usize> {
        self.skip();
        let start = self.pos;
        let value = self.int()?;
        usize::try_from(value).map_err(|_| problem(self.text, start, SYNTAX, format!("`{value}` is below 0"), ""))
    }

    /// Text up to the bracket that closes the one at the cursor, both included.
    pub fn balanced(&mut self) -> Step<&'a str> {
        self.skip();
        let start = self.pos;
        let mut open = Vec::new();
        loop {
            match self.peek() {
                b'"' => {
                    self.raw_string()?;
                    continue;
                }
                b'(' => open.push(b')'),
                b'[' => open.push(b']'),
                b'{' => open.push(b'}'),
                b'<' => open.push(b'>'),
                b'-' if self.text.as_bytes().get(self.pos + 1) == Some(&b'>') => self.pos += 1,
                b @ (b')' | b']' | b'}' | b'>') => {
                    let opened = open.pop();
                    if opened != Some(b) {
                        return Err(self.expected("a matching bracket"));
                    }
                }
                _ if self.pos >= self.text.len() => return Err(problem(self.text, start, SYNTAX, "a bracket is never closed", "")),
                _ => {}
            }
            self.pos += 1;
            while !self.text.is_char_boundary(self.pos) {
                self.pos += 1;
            }
            if open.is_empty() {
                return Ok(self.slice(start, self.pos));
            }
        }
    }

    /// A part of the text.
    pub fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or("")
    }

    /// The line of the cursor; cheap when asked in order.
    pub fn line(&mut self) -> u32 {
        self.skip();
        if self.pos < self.counted {
            return self.line;
        }
        let lines = self.text.as_bytes()[self.counted..self.pos].iter().filter(|b| **b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.counted = self.pos;
        self.line
    }

    /// Goes one level down.
    pub fn enter(&mut self) -> Step<()> {
        self.depth += 1;
        if self.depth > self.deepest {
            return Err(self.fault(LIMIT, format!("nested more than {} deep", self.deepest), ""));
        }
        Ok(())
    }

    /// Goes one level up.
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// A problem at the cursor.
    pub fn fault(&self, code: &'static str, what: impl Into<String>, why: &str) -> Problem {
        problem(self.text, self.pos, code, what, why)
    }

    /// The grammar wants something else at the cursor.
    #[cold]
    pub fn expected(&mut self, what: &str) -> Problem {
        self.skip();
        let word = self.word();
        let found = match self.text.get(self.pos..).and_then(|t| t.chars().next()) {
            None => "the end of the file".to_string(),
            _ if !word.is_empty() => format!("`{}`", word.chars().take(40).collect::<String>()),
            Some(c) => format!("`{c}`"),
        };
        self.fault(SYNTAX, format!("expected {what}, found {found}"), "")
    }
}

/// A whole number in decimal or hexadecimal.
pub(super) fn parse_int(text: &str) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let value = match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok()?,
        None => digits.parse::<i128>().ok()?,
    };
    Some(if negative { -value } else { value })
}

/// Resolves the escapes of a string: `\"`, `\\`, `\n`, `\t`, and two hexadecimal digits.
fn unescape(raw: &str) -> String {
    if !raw.contains('\\') {
        return raw.to_string();
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(b) = bytes.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match bytes.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(high) => {
                let value = bytes.clone().next().and_then(|low| Some((high, low, hex_digit(high)? << 4 | hex_digit(low)?)));
                match value {
                    Some((_, _, value)) => {
                        bytes.next();
                        out.push(value);
                    }
                    None => out.push(high),
                }
            }
            None => {}
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The value of a hexadecimal digit.
pub(super) fn hex_digit(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_they_should() {
        let mut c = Cursor::new(" -12 0x7F 1.5e-3x 2e 0x 3. ,", 9);
        let all: Vec<&str> = std::iter::from_fn(|| {
            let n = c.number();
            if n.is_empty() { c.name("a word").ok() } else { Some(n) }
        })
        .collect();
        assert_eq!(all, ["-12", "0x7F", "1.5e-3", "x", "2", "e", "0", "x", "3."]);
    }

    #[test]
    fn names_strings_and_comments() {
        let mut c = Cursor::new("// c\n func.func @a::@\"b c\" \"q\\22\\n\\\\\" (x [\"]\"] -> y) z", 9);
        assert_eq!(c.name("a").unwrap(), "func.func");
        assert_eq!(c.symbol().unwrap(), "a::b c");
        assert_eq!(c.string().unwrap(), "q\"\n\\");
        assert_eq!(c.balanced().unwrap(), "(x [\"]\"] -> y)");
        assert_eq!(c.line(), 2);
        assert!(c.eat_word("z") && c.at_end());
    }

    #[test]
    fn wholes_have_sixty_four_bits() {
        assert_eq!(Cursor::new("-9223372036854775808", 9).int().unwrap(), i64::MIN);
        for bad in ["9223372036854775808", "1.5", "x", "", "99999999999999999999999999999999999999999999"] {
            assert!(Cursor::new(bad, 9).int().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_never_closed_is_told() {
        assert_eq!(Cursor::new("(a [b)", 9).balanced().unwrap_err().code, SYNTAX);
        assert_eq!(Cursor::new("(a", 9).balanced().unwrap_err().code, SYNTAX);
        assert_eq!(Cursor::new("\"a\\", 9).string().unwrap_err().code, TOKEN);
        assert_eq!(Cursor::new("\"a\\\u{e9}", 9).string().unwrap_err().code, TOKEN);
    }
}
