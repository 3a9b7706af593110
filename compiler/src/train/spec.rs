//! The small language of `--loss` and `--optimizer`: `name:key=value,key,key=value`.

use super::TrainError;
use std::str::FromStr;

/// A parsed text: a name and its options, each used once.
#[derive(Clone, Debug)]
pub(super) struct Spec<'t> {
    text: &'t str,
    example: &'static str,
    pub name: &'t str,
    options: Vec<(&'t str, Option<&'t str>)>,
}

impl<'t> Spec<'t> {
    pub fn parse(text: &'t str, example: &'static str) -> Self {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        // `schedule=cosine:warmup=10,total=100` is `schedule=cosine,warmup=10,total=100`.
        let parts = rest.split(',').flat_map(|o| match o.split_once(':') {
            Some((kind, first)) if o.trim_start().starts_with("schedule") => [kind, first],
            _ => [o, ""],
        });
        let options = parts.map(str::trim).filter(|o| !o.is_empty());
        let options = options.map(|o| o.split_once('=').map_or((o, None), |(k, v)| (k.trim(), Some(v.trim())))).collect();
        Spec { text, example, name: name.trim(), options }
    }

    pub fn error(&self, why: impl Into<String>) -> TrainError {
        TrainError::Spec { text: self.text.to_string(), why: why.into(), example: self.example }
    }

    /// Takes an option of the form `key=value`.
    pub fn take<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, TrainError> {
        let Some(at) = self.options.iter().position(|(k, _)| *k == key) else { return Ok(None) };
        let (_, value) = self.options.remove(at);
        let value = value.ok_or_else(|| self.error(format!("`{key}` needs a value: `{key}=…`")))?;
        value.parse().map(Some).map_err(|_| self.error(format!("`{value}` is no value for `{key}`")))
    }

    /// Takes a number that must be finite.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64, TrainError> {
        match self.take::<f64>(key)? {
            Some(v) if !v.is_finite() => Err(self.error(format!("`{key}` must be a finite number"))),
            v => Ok(v.unwrap_or(default)),
        }
    }

    /// Takes a bare word, `key` or `key=true|false`.
    pub fn flag(&mut self, key: &str) -> Result<bool, TrainError> {
        match self.options.iter().position(|(k, v)| *k == key && v.is_none()) {
            Some(at) => {
                self.options.remove(at);
                Ok(true)
            }
            None => Ok(self.take::<bool>(key)?.unwrap_or(false)),
        }
    }

    /// Takes the first bare word, whatever it is.
    pub fn bare(&mut self) -> Option<&'t str> {
        let at = self.options.iter().position(|(_, v)| v.is_none())?;
        Some(self.options.remove(at).0)
    }

    /// Refuses options that nobody took.
    pub fn finish(self, known: &str) -> Result<(), TrainError> {
        match self.options.first() {
            None => Ok(()),
            Some((key, _)) => Err(self.error(format!("there is no option `{key}`; there is {known}"))),
        }
    }
}
