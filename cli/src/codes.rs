//! The table of error codes: the one place that says what each of them means.
//!
//! The texts live in `codes.md` beside this file, so that they can be read as a document; `girih explain CODE` prints them, and a test
//! holds the table to the sources of every crate.

/// The document.
const DOCUMENT: &str = include_str!("codes.md");

/// One error code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    /// `E` and four digits.
    pub id: &'static str,
    /// What went wrong, in a few words.
    pub title: &'static str,
    /// What it means and what to do about it.
    pub text: &'static str,
}

/// The code of a defect of girih itself.
pub const INTERNAL: &str = "E9999";

/// Every code, ascending.
pub fn all() -> Vec<Code> {
    let entries = DOCUMENT.split("\n## ").skip(1);
    let read = |entry: &'static str| {
        let (head, text) = entry.split_once('\n').unwrap_or((entry, ""));
        let (id, title) = head.split_once(' ').unwrap_or((head, ""));
        Code { id, title, text: text.trim() }
    };
    entries.map(read).collect()
}

/// The code of that name, however it is written: `E0901`, `e901`, `901`.
pub fn find(name: &str) -> Option<Code> {
    let digits = name.trim().trim_start_matches(['E', 'e']);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let id = format!("E{digits:0>4}");
    all().into_iter().find(|c| c.id == id)
}

/// The code that a message carries in front of it or inside it, and the message without it.
pub(crate) fn split(message: &str) -> (Option<Code>, String) {
    let at = message.char_indices().map(|(i, _)| i).find(|i| starts_with_code(&message[*i..]));
    match at {
        Some(at) => {
            let rest = message[at + 5..].trim_start_matches(':').trim_start();
            (find(&message[at..at + 5]), format!("{}{rest}", &message[..at]))
        }
        None => (None, message.to_string()),
    }
}

fn starts_with_code(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() > 5 && b[0] == b'E' && b[1..5].iter().all(u8::is_ascii_digit) && b[5] == b':'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_say_something() {
        let all = all();
        assert!(all.len() > 90);
        assert!(all.windows(2).all(|w| w[0].id < w[1].id));
        assert!(all.iter().all(|c| c.id.len() == 5 && !c.title.is_empty() && c.text.len() > 10), "{all:?}");
    }

    #[test]
    fn codes_are_found_however_they_are_written() {
        for name in ["E0901", "e0901", "e901", "901"] {
            assert_eq!(find(name).map(|c| c.id), Some("E0901"), "{name}");
        }
        assert_eq!(find("model.onnx"), None);
        assert_eq!(find("E7777"), None);
    }

    #[test]
    fn messages_are_split() {
        let (code, rest) = split("%3: E0240: operand %9 is not made before it");
        assert_eq!((code.map(|c| c.id), rest.as_str()), (Some("E0240"), "%3: operand %9 is not made before it"));
        assert_eq!(split("no code"), (None, "no code".to_string()));
    }

    /// Every code that a crate's source mentions is explained, and no two kinds of errors share one.
    #[test]
    fn every_code_of_the_sources_is_explained() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut missing = Vec::new();
        let mut defined: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
        for krate in ["ir", "compiler", "kernels", "runtime"] {
            let mut stack = vec![root.join(krate).join("src")];
            while let Some(path) = stack.pop() {
                if path.is_dir() {
                    stack.extend(std::fs::read_dir(&path).expect("a source folder").map(|e| e.expect("an entry").path()));
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                for (at, _) in text.match_indices("E0").chain(text.match_indices("E1")) {
                    let code = text.get(at..at + 5).unwrap_or_default();
                    let quoted = at > 0 && text.as_bytes()[at - 1] == b'"';
                    if !quoted || code.len() < 5 || !code[1..].bytes().all(|b| b.is_ascii_digit()) {
                        continue;
                    }
                    if find(code).is_none() {
                        missing.push(format!("{code} in {}", path.display()));
                    }
                    let tested = path.ends_with("tests.rs") || text.find("#[cfg(test)]").is_some_and(|t| t < at);
                    if text[at + 5..].starts_with(": ") && !tested {
                        defined.entry(code.to_string()).or_default().push(path.display().to_string());
                    }
                }
            }
        }
        assert!(missing.is_empty(), "codes.md explains no {missing:#?}");
        let shared: Vec<_> = defined.into_iter().filter(|(_, places)| places.len() > 1).collect();
        assert!(shared.is_empty(), "codes with two meanings: {shared:#?}");
    }
}
