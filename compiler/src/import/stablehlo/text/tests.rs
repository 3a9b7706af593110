//! Whole texts: forms, twins, damaged files.

use super::{Problem, Reader, read};
use crate::import::stablehlo::module::Limits;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Applies a rule to the start of a text.
pub(super) fn reader<'a, T>(text: &'a str, rule: impl Fn(&mut Reader<'a>) -> Result<T, Problem>) -> Result<T, Problem> {
    rule(&mut Reader::new(text, &Limits::default()))
}

fn files(root: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "mlir") {
            out.push(path);
        }
    }
    out.sort();
}

/// Texts of a folder beside the repository; nothing, with a notice, when it is not there.
fn shared(folder: &str) -> Vec<PathBuf> {
    let root = [".", ".."].map(|up| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(up).join("../shared").join(folder));
    let mut all = Vec::new();
    for root in root {
        if all.is_empty() {
            files(&root, &mut all);
        }
    }
    if all.is_empty() {
        println!("skipped: no ../shared/{folder}");
    }
    all
}

#[test]
fn all_of_the_corpus_is_read() {
    let (mut bytes, mut count) = (0, 0);
    let mut bad = Vec::new();
    for path in ["corpus/jax", "corpus/graphs"].iter().flat_map(|f| shared(f)) {
        let data = std::fs::read(&path).unwrap();
        bytes += data.len();
        count += 1;
        if let Err(p) = read(&data, &Limits::default()) {
            bad.push(format!("{}: {} {p}", path.display(), p.code));
        }
    }
    println!("{count} files, {bytes} bytes");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn all_of_the_conformance_suite_is_read() {
    let mut counts = BTreeMap::new();
    let mut bad = Vec::new();
    for path in shared("conformance/stablehlo") {
        let data = std::fs::read_to_string(&path).unwrap();
        for (i, chunk) in data.split("\n// -----").enumerate() {
            if !chunk.contains("func.func") {
                continue;
            }
            *counts.entry(path.parent().map(Path::to_path_buf)).or_insert(0) += 1;
            if let Err(p) = read(chunk.as_bytes(), &Limits::default()) {
                bad.push(format!("{} #{i}: {} {p}", path.display(), p.code));
            }
        }
    }
    println!("{counts:?}");
    assert!(bad.is_empty(), "{} chunks:\n{}", bad.len(), bad.join("\n"));
}
