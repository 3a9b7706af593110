//! Tokens: a cursor over a text that reads one token at a time, as the grammar asks for it.

use super::error::{TextError, TextErrorKind};
use std::str::FromStr;

/// One token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token<'a> {
    /// A word.
    Word(&'a str),
    /// A value: the name after `%`.
    Value(&'a str),
    /// A number as written.
    Number(&'a str),
    /// A string, without quotes, escapes as written.
    Str(&'a str),
    /// Punctuation.
    Punct(&'a str),
    /// The end of the text.
    End,
}

impl Token<'_> {
    fn describe(self) -> String {
        match self {
            Token::Word(s) | Token::Number(s) | Token::Punct(s) => format!("`{s}`"),
            Token::Value(s) => format!("`%{s}`"),
            Token::Str(s) => format!("\"{s}\""),
            Token::End => "the end of the text".to_string(),
        }
    }
}

/// A position in a text.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    peeked: Option<(Token<'a>, usize)>,
    last: usize,
    /// Whether `;` separates (inside a fused program) rather than starts a comment. Change it only right after `next`.
    pub(crate) semicolons: bool,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/')
}

/// Whether a name can be written without quotes.
pub(crate) fn is_plain_word(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && s.chars().all(is_word)
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Cursor { text, at: 0, peeked: None, last: 0, semicolons: false }
    }

    /// An error at the token that was read last.
    pub(crate) fn error(&self, kind: impl Into<TextErrorKind>) -> TextError {
        TextError::at(self.text, self.last, kind.into())
    }

    /// An error at a position given by [`mark`](Self::mark).
    pub(crate) fn error_at(&self, mark: usize, kind: impl Into<TextErrorKind>) -> TextError {
        TextError::at(self.text, mark, kind.into())
    }

    /// The position of the token that was read last.
    pub(crate) fn mark(&self) -> usize {
        self.last
    }

    fn skip_blank(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(b) = bytes.get(self.at) {
            match b {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b';' if !self.semicolons => self.at = self.text[self.at..].find('\n').map_or(self.text.len(), |p| self.at + p),
                _ => break,
            }
        }
    }

    fn run(&self, from: usize, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[from..];
        &rest[..rest.find(|c| !accept(c)).unwrap_or(rest.len())]
    }

    fn number(&self) -> &'a str {
        let rest = &self.text[self.at..];
        let hex = rest.starts_with("0x");
        let mut previous = ' ';
        let end = rest.char_indices().find(|(i, c)| {
            let sign = matches!(c, '+' | '-') && (*i == 0 || (!hex && matches!(previous, 'e' | 'E')));
            previous = *c;
            !(sign || c.is_ascii_alphanumeric() || *c == '.')
        });
        &rest[..end.map_or(rest.len(), |(i, _)| i)]
    }

    fn string(&self) -> Result<&'a str, TextError> {
        let mut escaped = false;
        for (i, c) in self.text[self.at + 1..].char_indices() {
            match c {
                '"' if !escaped => return Ok(&self.text[self.at + 1..self.at + 1 + i]),
                '\n' => break,
                _ => escaped = c == '\\' && !escaped,
            }
        }
        let why = "the string does not end on its line; close it with `\"`".to_string();
        Err(TextError::at(self.text, self.at, TextErrorKind::Token { why }))
    }

    fn read(&mut self) -> Result<(Token<'a>, usize), TextError> {
        self.skip_blank();
        let start = self.at;
        let Some(c) = self.text[start..].chars().next() else { return Ok((Token::End, start)) };
        let after = self.text[start + c.len_utf8()..].chars().next().unwrap_or(' ');
        let (token, length) = match c {
            '"' => {
                let s = self.string()?;
                (Token::Str(s), s.len() + 2)
            }
            '%' => {
                let s = self.run(start + 1, is_word);
                (Token::Value(s), s.len() + 1)
            }
            '-' if after == '>' => (Token::Punct("->"), 2),
            '-' if after.is_ascii_alphanumeric() => {
                let s = self.number();
                (Token::Number(s), s.len())
            }
            _ if c.is_ascii_digit() => {
                let s = self.number();
                (Token::Number(s), s.len())
            }
            _ if c.is_ascii_alphabetic() || c == '_' => {
                let s = self.run(start, is_word);
                (Token::Word(s), s.len())
            }
            _ if "(){}[]<>,:;=@".contains(c) => (Token::Punct(&self.text[start..start + 1]), 1),
            _ => {
                let why = format!("the character {c:?} has no meaning here");
                return Err(TextError::at(self.text, start, TextErrorKind::Token { why }));
            }
        };
        if token == Token::Value("") {
            let why = "`%` must be followed by a number or a name".to_string();
            return Err(TextError::at(self.text, start, TextErrorKind::Token { why }));
        }
        self.at += length;
        Ok((token, start))
    }

    /// The token that comes, which stays.
    pub(crate) fn peek(&mut self) -> Result<Token<'a>, TextError> {
        if self.peeked.is_none() {
            self.peeked = Some(self.read()?);
        }
        Ok(self.peeked.map_or(Token::End, |(t, _)| t))
    }

    /// The token that comes.
    pub(crate) fn next(&mut self) -> Result<Token<'a>, TextError> {
        let (token, start) = match self.peeked.take() {
            Some(p) => p,
            None => self.read()?,
        };
        self.last = start;
        Ok(token)
    }

    /// The error that something else is wanted than the token that was read last.
    pub(crate) fn unexpected(&self, want: impl Into<String>, found: Token<'_>) -> TextError {
        self.error(TextErrorKind::Unexpected { want: want.into(), found: found.describe() })
    }

    /// Reads this punctuation if it comes.
    pub(crate) fn eat(&mut self, punct: &str) -> Result<bool, TextError> {
        let hit = self.peek()? == Token::Punct(punct);
        if hit {
            self.next()?;
        }
        Ok(hit)
    }

    /// Reads this word if it comes.
    pub(crate) fn eat_word(&mut self, word: &str) -> Result<bool, TextError> {
        let hit = self.peek()? == Token::Word(word);
        if hit {
            self.next()?;
        }
        Ok(hit)
    }

    /// Reads this punctuation.
    pub(crate) fn expect(&mut self, punct: &str) -> Result<(), TextError> {
        match self.next()? {
            Token::Punct(p) if p == punct => Ok(()),
            other => Err(self.unexpected(format!("`{punct}`"), other)),
        }
    }

    /// Reads this word.
    pub(crate) fn keyword(&mut self, word: &str) -> Result<(), TextError> {
        match self.next()? {
            Token::Word(w) if w == word => Ok(()),
            other => Err(self.unexpected(format!("`{word}`"), other)),
        }
    }

    /// Reads a word.
    pub(crate) fn word(&mut self, want: &str) -> Result<&'a str, TextError> {
        match self.next()? {
            Token::Word(w) => Ok(w),
            other => Err(self.unexpected(want, other)),
        }
    }

    /// Reads a value's name.
    pub(crate) fn value(&mut self) -> Result<&'a str, TextError> {
        match self.next()? {
            Token::Value(v) => Ok(v),
            other => Err(self.unexpected("a value such as `%2`", other)),
        }
    }

    /// Reads a number.
    pub(crate) fn integer<T: FromStr>(&mut self, want: &str) -> Result<T, TextError> {
        match self.next()? {
            Token::Number(n) => n.parse().map_err(|_| self.unexpected(want, Token::Number(n))),
            other => Err(self.unexpected(want, other)),
        }
    }

    /// Reads a quoted string.
    pub(crate) fn quoted(&mut self, want: &str) -> Result<String, TextError> {
        match self.next()? {
            Token::Str(raw) => self.unescape(raw),
            other => Err(self.unexpected(want, other)),
        }
    }

    /// Reads the name after `@`: a plain word or a quoted string.
    pub(crate) fn name(&mut self) -> Result<String, TextError> {
        match self.next()? {
            Token::Word(w) => Ok(w.to_string()),
            Token::Str(raw) => self.unescape(raw),
            other => Err(self.unexpected("a name after `@`", other)),
        }
    }

    /// The characters of a string token.
    pub(crate) fn unescape(&self, raw: &str) -> Result<String, TextError> {
        let mut out = String::with_capacity(raw.len());
        let mut rest = raw.chars();
        while let Some(c) = rest.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            let plain = match rest.next() {
                Some('n') => Some('\n'),
                Some('t') => Some('\t'),
                Some('r') => Some('\r'),
                Some(c @ ('"' | '\\')) => Some(c),
                Some('u') => {
                    let tail = rest.as_str();
                    let code = tail.strip_prefix('{').and_then(|t| t.split_once('}'));
                    code.and_then(|(hex, after)| {
                        rest = after.chars();
                        u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)
                    })
                }
                _ => None,
            };
            let why = || TextErrorKind::Token { why: "an escape is one of \\n \\t \\r \\\" \\\\ \\u{…}".to_string() };
            out.push(plain.ok_or_else(|| self.error(why()))?);
        }
        Ok(out)
    }
}

/// A string in quotes, as the cursor reads it.
pub(crate) fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A name for after `@`: plain when it can be, else quoted.
pub(crate) fn plain_or_quoted(s: &str) -> String {
    if is_plain_word(s) { s.to_string() } else { quote(s) }
}
