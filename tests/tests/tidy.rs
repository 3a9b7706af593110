//! What a source file of this repository must look like.
//!
//! Rules that reviewers would otherwise have to remember: files stay readable, say what they are for, and hide nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// Files may not be longer.
const MAX_LINES: usize = 1000;

/// Files that may, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Documents that stay short enough to be read.
const SHORT_DOCUMENTS: &[(&str, usize)] = &[("CONTRIBUTING.md", 60)];

/// Text that no source file contains. Each is written in two parts, so that this file passes too.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("#[ign", "ore", "a test that does not run proves nothing"),
    ("#[should_", "panic", "assert on the error instead"),
    ("to", "do!(", "write the code or return an error"),
    ("unimplemen", "ted!(", "write the code or return an error"),
];

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "prelude"];

struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file of every crate, by path.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for krate in ["ir", "kernels", "compiler", "runtime", "cli", "tests"] {
        for folder in ["src", "tests", "examples", "benches"] {
            collect(&root().join(krate).join(folder), &format!("{krate}/{folder}"), &mut files);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 20, "the sources were not found");
    files
}

fn collect(folder: &Path, name: &str, files: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a source folder can be listed").path();
        let name = format!("{name}/{}", path.file_name().expect("an entry has a name").to_string_lossy());
        if path.is_dir() {
            collect(&path, &name, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            files.push(Source { path: name, text });
        }
    }
}

/// Fails with all findings at once.
fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn files_are_not_too_long() {
    let sources = sources();
    let mut findings: Vec<String> = Vec::new();
    for source in &sources {
        let lines = source.text.lines().count();
        let listed = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > MAX_LINES && !listed {
            findings.push(format!("{}: {lines} lines; split it, or list it with a reason", source.path));
        }
        if lines <= MAX_LINES && listed {
            findings.push(format!("{}: is listed as long but has {lines} lines", source.path));
        }
    }
    for (path, reason) in LONG_FILES {
        if !sources.iter().any(|s| s.path == *path) || reason.is_empty() {
            findings.push(format!("{path}: is listed as long but does not exist, or for no reason"));
        }
    }
    for (path, limit) in SHORT_DOCUMENTS {
        let lines = fs::read_to_string(root().join(path)).expect("the document exists").lines().count();
        if lines > *limit {
            findings.push(format!("{path}: {lines} lines, {limit} are allowed"));
        }
    }
    report(&findings);
}

#[test]
fn files_say_what_they_are_for() {
    let silent = sources().into_iter().filter(|s| !s.text.trim_start().starts_with("//!"));
    report(&silent.map(|s| format!("{}: starts without `//!`", s.path)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_skipped_or_left_out() {
    let mut findings = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            for (head, tail, why) in FORBIDDEN {
                if line.contains(&format!("{head}{tail}")) {
                    findings.push(format!("{}:{}: `{head}{tail}`: {why}", source.path, number + 1));
                }
            }
        }
    }
    report(&findings);
}

#[test]
fn names_are_exported_one_by_one() {
    let mut findings = Vec::new();
    for source in sources() {
        for (at, _) in source.text.match_indices("use ") {
            let line_start = source.text[..at].rfind('\n').map_or(0, |n| n + 1);
            let public = source.text[line_start..at].trim_start().starts_with("pub");
            let statement = source.text[at..].split(';').next().unwrap_or_default();
            if public && statement.contains('*') {
                findings.push(format!("{}: `pub {statement}`: name what is exported", source.path));
            }
        }
    }
    report(&findings);
}

#[test]
fn modules_have_telling_names() {
    let vague = |s: &Source| s.path.split(['/', '.']).any(|part| EMPTY_NAMES.contains(&part));
    report(&sources().iter().filter(|s| vague(s)).map(|s| format!("{}: name it after what it holds", s.path)).collect::<Vec<_>>());
}
