//! Names of inputs and outputs, from what JAX says about them.

use super::attrs::{Attrs, word};
use rustc_hash::FxHashSet;

/// A name of letters, digits, `_` and `.`.
pub(super) fn identifier(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() { format!("m{name}") } else { name }
}

/// The name of input `k`.
pub(super) fn input(attrs: &Attrs, k: usize) -> String {
    let said = ["jax.arg_info", "girih.name", "loc"].into_iter().find_map(|key| word(attrs, key)).map(path);
    said.filter(|n| !n.is_empty()).unwrap_or_else(|| format!("arg{k}"))
}

/// The name of output `k`: `result[0]['b']` becomes `0/b`, and an index alone `out0`.
pub(super) fn output(attrs: &Attrs, k: usize) -> String {
    let said = word(attrs, "jax.result_info").map(path).unwrap_or_default();
    let said = said.strip_prefix("result").map(|s| s.trim_start_matches('/').to_string()).unwrap_or(said);
    if said.chars().any(char::is_alphabetic) { said } else { format!("out{k}") }
}

/// A key path as Python writes it, with `/` between the keys.
fn path(text: &str) -> String {
    let (mut keys, mut key) = (Vec::new(), String::new());
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => key.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '[' | ']' | '.') => keys.extend(Some(std::mem::take(&mut key)).filter(|k| !k.is_empty())),
            (None, c) if c.is_whitespace() || c.is_control() => {}
            (None, c) => key.push(c),
        }
    }
    keys.extend(Some(key).filter(|k| !k.is_empty()));
    keys.join("/")
}

/// Names of the parts of a value: its own when there is one, `.re` and `.im` for two, else numbers.
pub(super) fn parts(name: &str, count: usize) -> Vec<String> {
    match count {
        1 => vec![name.to_string()],
        2 => vec![format!("{name}.re"), format!("{name}.im")],
        n => (0..n).map(|i| format!("{name}.{i}")).collect(),
    }
}

/// The name, with a number after it when it is taken.
pub(super) fn unique(taken: &mut FxHashSet<String>, name: String) -> String {
    let mut unique = name.clone();
    let mut n = 1;
    while !taken.insert(unique.clone()) {
        n += 1;
        unique = format!("{name}.{n}");
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::super::super::module::ModuleAttr;
    use super::*;

    #[test]
    fn key_paths_become_names() {
        let name = |text: &str| output(&[("jax.result_info".to_string(), ModuleAttr::Text(text.into()))].into_iter().collect(), 3);
        assert_eq!(name("result[0]['l1']['b']"), "0/l1/b");
        assert_eq!(name("result[1]"), "out3");
        assert_eq!(name(""), "out3");
        assert_eq!(name("[0].mu['w']"), "0/mu/w");
        assert_eq!(input(&Attrs::new(), 2), "arg2");
        let mut taken = FxHashSet::default();
        assert_eq!(["a", "a", "b"].map(|n| unique(&mut taken, n.into())), ["a", "a.2", "b"]);
    }
}
