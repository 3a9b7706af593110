//! JAX's own training steps: the committed cases in every run, and the whole corpus when it is there.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_tests::conformance::Outcome;
use girih_tests::corpus::engine::{Engine, EngineArgs};
use girih_tests::corpus::{find_cases, line, run_case};
use std::path::{Path, PathBuf};

fn engine(target: &str, dies: Option<usize>) -> Engine {
    Engine::new(&EngineArgs { target: target.into(), dies, threads: 2, ..EngineArgs::default() }).unwrap()
}

/// Runs every case below a folder; returns how many checks were made.
fn all_pass(root: PathBuf, engine: &Engine) -> Vec<usize> {
    let results: Vec<_> = find_cases(&[root]).iter().map(|dir| run_case(dir, engine)).collect();
    let wrong: Vec<String> = results.iter().filter(|r| r.outcome != Outcome::Pass).map(line).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    results.iter().map(|r| r.checks).collect()
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/jax")
}

#[test]
fn committed_cases_pass_on_the_interpreter() {
    let checks = all_pass(committed(), &engine("interp", None));
    assert!(checks.len() == 3 && checks.iter().all(|c| *c >= 40), "{checks:?}");
}

#[test]
fn committed_cases_pass_on_the_host() {
    all_pass(committed(), &engine("host", None));
}

#[test]
fn committed_cases_pass_on_a_mesh() {
    all_pass(committed(), &engine("dojo-tile", Some(4)));
}

#[test]
fn the_corpus_passes_on_the_host() {
    let Some(dir) = girih_tests::shared("corpus/jax") else { return };
    assert_eq!(all_pass(dir, &engine("host", None)).len(), 16);
}
