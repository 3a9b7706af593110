//! Steps whose batch is cut into microbatches do what the whole step does: the corpora's results and 20-step loss curves, from programs that
//! loop over slices of the batch.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_tests::conformance::Outcome;
use girih_tests::corpus::engine::{Engine, EngineArgs};
use girih_tests::corpus::{find_cases, line, run_case};
use std::path::{Path, PathBuf};

fn engine(target: &str, dies: Option<usize>, parts: usize) -> Engine {
    let args = EngineArgs { target: target.into(), dies, microbatches: Some(parts), threads: 2, ..EngineArgs::default() };
    Engine::new(&args).unwrap()
}

/// The names of the cases that pass; those that cannot be cut must say why, and none may fail.
fn passing(root: PathBuf, engine: &Engine) -> Vec<String> {
    let mut names = Vec::new();
    for case in find_cases(&[root]) {
        let result = run_case(&case, engine);
        println!("{}", line(&result));
        match &result.outcome {
            Outcome::Pass => names.push(result.name.clone()),
            Outcome::Unsupported(why) => assert!(why.contains("E083"), "{}: {why}", result.name),
            Outcome::Fail(why) => panic!("{}: {why}", result.name),
        }
    }
    names
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/jax")
}

#[test]
fn committed_cases_pass_in_microbatches() {
    let names = passing(committed(), &engine("host", None, 2));
    assert!(!names.is_empty());
}

#[test]
fn committed_cases_pass_in_microbatches_on_a_mesh() {
    let names = passing(committed(), &engine("dojo-tile", Some(4), 2));
    assert!(!names.is_empty());
}

#[test]
fn the_corpus_passes_in_microbatches() {
    let Some(dir) = girih_tests::shared("corpus/jax") else { return };
    let names = passing(dir, &engine("host", None, 2));
    for name in ["mlp_sgd", "gpt2_adamw", "llama_adamw", "mixer_adamw", "vit_tiny_adam", "word2vec_adagrad"] {
        assert!(names.iter().any(|n| n.contains(name)), "{name}: {names:?}");
    }
}
