//! Steps whose model is cut into stages do what the whole step does: the corpora's results and loss curves, from pipelines of slices.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_tests::corpus;
use girih_tests::corpus::engine::{Engine, EngineArgs};
use std::path::{Path, PathBuf};

/// The names of the cases that pass in so many stages; those that cannot be cut must say why, and none may fail.
fn passing(root: PathBuf, stages: usize, microbatches: Option<usize>, dead: &[&str]) -> Vec<String> {
    let dead = dead.iter().map(|d| (*d).to_string()).collect();
    let args = EngineArgs { target: "dojo-tile".into(), stages: Some(stages), microbatches, dead, threads: 2, ..EngineArgs::default() };
    let engine = Engine::new(&args).unwrap();
    corpus::passing(root, &engine, &["E083", "E084"])
}

#[test]
fn committed_cases_pass_in_stages() {
    let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("data/jax");
    for (stages, dead) in [(2, &[][..]), (3, &["2,2", "4,1"])] {
        assert!(!passing(committed(), stages, None, dead).is_empty());
    }
}

#[test]
fn the_corpus_passes_in_stages() {
    let Some(dir) = girih_tests::shared("corpus/jax") else { return };
    let names = passing(dir, 4, Some(2), &[]);
    for name in ["mlp_sgd", "gpt2_adamw", "llama_adamw", "mixer_adamw", "vit_tiny_adam"] {
        assert!(names.iter().any(|n| n.contains(name)), "{name}: {names:?}");
    }
}
