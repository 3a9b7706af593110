//! Training that is interrupted keeps what it did.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const LINE: &str = r#"graph @line(%x: f32[4,1] input "x", %w: f32[1,1] param "w") {
  %y = dot_general %x, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  return %y "y"
}"#;

fn train(dir: &Path, more: &[&str]) -> Child {
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    Command::new(env!("CARGO_BIN_EXE_girih"))
        .args(["train", &at("line.gir"), "--data", &at("data.safetensors"), "--loss", "mse", "--optimizer", "sgd:lr=0.01"])
        .args(["--weights", &at("weights.safetensors"), "--log", &at("log.jsonl"), "--checkpoint", &at("kept"), "--threads", "1"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn logged(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("log.jsonl")).map_or(0, |log| log.lines().count())
}

#[test]
fn an_interrupt_finishes_the_step_and_leaves_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("line.gir"), LINE).unwrap();
    let tensor = |shape: &[usize], values: &[f32]| girih::Literal::from_f32(shape, values).unwrap();
    let data = [("x", tensor(&[4, 1], &[1.0, 2.0, 3.0, 4.0])), ("labels", tensor(&[4, 1], &[2.0, 4.0, 6.0, 8.0]))];
    let data: girih::Weights = data.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    girih::tensors::save(&data, &dir.path().join("data.safetensors")).unwrap();
    let weights = girih::Weights::from([("w".to_string(), tensor(&[1, 1], &[0.0]))]);
    girih::tensors::save(&weights, &dir.path().join("weights.safetensors")).unwrap();

    // So many steps that it surely does not end by itself.
    let mut child = train(dir.path(), &["--steps", "1000000000"]);
    while logged(dir.path()) == 0 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));

    // The checkpoint has every step that the log has, and training goes on behind it.
    let done = logged(dir.path());
    let target = (done + 5).to_string();
    let resumed = train(dir.path(), &["--steps", &target, "--resume"]).wait_with_output().unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{}", said(&resumed));
    assert_eq!(logged(dir.path()), done + 5);
    assert!(said(&resumed).contains(&format!("{done} to {target}")), "{}", said(&resumed));
}
