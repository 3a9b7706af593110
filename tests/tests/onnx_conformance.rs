//! The ONNX backend node tests: which pass is a snapshot, and none may be wrong.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_tests::conformance::{CaseResult, Outcome};
use girih_tests::corpus::engine::Engine;
use girih_tests::onnx_cases::run_all;

#[test]
fn node_tests_pass_or_are_refused_cleanly() {
    let Some(dir) = girih_tests::shared("conformance/onnx") else { return };
    let results = run_all(&dir, &Engine::Interpreter).unwrap();
    let wrong: Vec<&CaseResult> = results.iter().filter(|r| matches!(r.outcome, Outcome::Fail(_))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let refused = results.iter().filter_map(|r| match &r.outcome {
        Outcome::Unsupported(why) => Some(format!("{}: {why}", r.name)),
        _ => None,
    });
    insta::assert_snapshot!("refused", refused.collect::<Vec<_>>().join("\n"));
    let passing: Vec<&str> = results.iter().filter(|r| r.outcome == Outcome::Pass).map(|r| r.name.as_str()).collect();
    assert!(passing.len() >= 1450, "{} pass", passing.len());
    insta::assert_snapshot!("passing", passing.join("\n"));
}
