//! Files that check themselves: ours in every run, and the suite of the specification when it is there.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_tests::conformance::{CaseResult, Outcome};
use girih_tests::corpus::engine::{Engine, EngineArgs};
use girih_tests::stablehlo_cases::run_all;
use std::path::Path;

fn listed(results: &[CaseResult], which: fn(&Outcome) -> Option<(&str, &str)>) -> String {
    let lines =
        results.iter().filter_map(|r| which(&r.outcome).map(|(word, why)| format!("{word} {}  {}", r.name, why.replace('\n', " "))));
    lines.collect::<Vec<_>>().join("\n")
}

fn failures(results: &[CaseResult]) -> String {
    listed(results, |o| if let Outcome::Fail(why) = o { Some(("FAIL", why)) } else { None })
}

fn skips(results: &[CaseResult]) -> String {
    listed(results, |o| if let Outcome::Unsupported(why) = o { Some(("SKIP", why)) } else { None })
}

fn ours(target: &str) -> Vec<CaseResult> {
    let engine = Engine::new(&EngineArgs { target: target.into(), threads: 1, ..EngineArgs::default() }).unwrap();
    run_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/stablehlo/checks"), &engine).unwrap()
}

#[test]
fn our_checks_hold_on_the_interpreter() {
    let results = ours("interp");
    assert!(results.len() >= 60, "{}", results.len());
    assert_eq!(failures(&results), "");
    insta::assert_snapshot!("our_skipped", skips(&results));
}

#[test]
fn our_checks_hold_on_the_host() {
    assert_eq!(failures(&ours("host")), "");
}

#[test]
fn our_checks_hold_on_a_mesh() {
    assert_eq!(failures(&ours("dojo-tile")), "");
}

#[test]
fn chunks_of_the_specification_pass_or_are_skipped_for_a_reason() {
    let Some(dir) = girih_tests::shared("conformance/stablehlo") else { return };
    let results = run_all(&dir, &Engine::Interpreter).unwrap();
    assert_eq!(failures(&results), "");
    insta::assert_snapshot!("skipped", skips(&results));
    let sums = results.iter().filter(|r| !r.note.is_empty()).map(|r| format!("{}  {}", r.name, r.note));
    insta::assert_snapshot!("passed_with_a_note", sums.collect::<Vec<_>>().join("\n"));
    let passed = results.iter().filter(|r| r.outcome == Outcome::Pass).count();
    assert!(passed >= 1_156, "{passed} pass");
}

#[test]
fn chunks_of_the_specification_pass_on_the_host_too() {
    let Some(dir) = girih_tests::shared("conformance/stablehlo") else { return };
    let engine = Engine::new(&EngineArgs { target: "host".into(), threads: 1, ..EngineArgs::default() }).unwrap();
    assert_eq!(failures(&run_all(&dir, &engine).unwrap()), "");
}
