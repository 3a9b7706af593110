//! ARCHITECTURE.md says what is there: every crate, module and level that it names exists, and nothing is left out.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The public modules that a crate's `lib.rs` declares.
fn modules(name: &str) -> BTreeSet<String> {
    let text = read(&format!("{name}/src/lib.rs"));
    text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_string).collect()
}

/// Everything between backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The part of the page under the heading of a crate.
fn section<'t>(page: &'t str, name: &str) -> &'t str {
    let start = page.find(&format!("### `{name}`")).unwrap_or_else(|| panic!("ARCHITECTURE.md has no section on `{name}`"));
    let rest = &page[start + 4..];
    let end = rest.find("\n### ").or_else(|| rest.find("\n## ")).unwrap_or(rest.len());
    &rest[..end]
}

#[test]
fn the_code_map_is_complete() {
    let page = read("ARCHITECTURE.md");
    assert!(page.lines().count() <= 200, "ARCHITECTURE.md is longer than 200 lines");
    for (name, internal) in [("ir", &["ids"][..]), ("compiler", &[]), ("runtime", &["error"])] {
        let named = quoted(section(&page, name));
        for module in modules(name).iter().filter(|m| !internal.contains(&m.as_str())) {
            assert!(named.contains(module.as_str()), "ARCHITECTURE.md does not mention `{module}` of {name}");
        }
    }
    for name in ["kernels", "cli", "tests"] {
        assert!(!section(&page, name).is_empty());
    }
}

#[test]
fn every_level_of_the_table_exists() {
    let page = read("ARCHITECTURE.md");
    let mut seen = 0;
    for cell in quoted(&page).into_iter().filter(|q| q.contains("::") && q.chars().next_back().is_some_and(char::is_alphanumeric)) {
        let parts: Vec<&str> = cell.split("::").collect();
        let [krate, module, item] = parts[..] else { continue };
        let file =
            [format!("{krate}/src/{module}.rs"), format!("{krate}/src/{module}/mod.rs")].into_iter().find(|f| root().join(f).is_file());
        let file = file.unwrap_or_else(|| panic!("`{cell}`: there is no module {module} in {krate}"));
        let text = read(&file);
        let found = text.contains(&format!("pub struct {item}")) || text.contains(item);
        assert!(found, "`{cell}`: {file} has no {item}");
        seen += 1;
    }
    assert!(seen >= 7, "the table of levels names only {seen} types");
}

#[test]
fn every_pass_is_in_the_data_flow() {
    let page = read("ARCHITECTURE.md");
    for pass in girih_compiler::pipeline::PASSES {
        assert!(page.contains(pass.name), "ARCHITECTURE.md does not mention the pass {}", pass.name);
        assert!(!pass.about.is_empty());
    }
}
