//! The ONNX backend node tests: which pass is a snapshot, and none may be wrong.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_tests::conformance::{CaseResult, Outcome};
use girih_tests::corpus::engine::{Engine, EngineArgs};
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

#[test]
fn a_sample_passes_on_the_host_too() {
    let Some(dir) = girih_tests::shared("conformance/onnx") else { return };
    let engine = Engine::new(&EngineArgs { target: "host".into(), threads: 1, ..EngineArgs::default() }).unwrap();
    for name in
        ["test_add", "test_conv_with_strides_padding", "test_softmax_axis_1", "test_gather_0", "test_constantofshape_int_shape_zero"]
    {
        let results = run_all(&dir.join("node").join(name), &engine).unwrap();
        assert!(results.iter().all(|r| r.outcome == Outcome::Pass), "{results:#?}");
    }
}
