//! The command as scripts see it: help texts, exit codes, documents, files.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MLP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/mlp.gir");
const TRAIN: [&str; 4] = ["--loss", "softmax_cross_entropy", "--optimizer", "sgd:lr=0.1,momentum=0.9"];

fn girih(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_girih"));
    command.args(args).env_remove("COLUMNS").env("NO_COLOR", "1").stdin(Stdio::null());
    command.output().expect("the command was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Standard output of a command that must succeed.
fn ok(args: &[&str]) -> String {
    let out = girih(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn json(args: &[&str]) -> Value {
    let all: Vec<&str> = args.iter().copied().chain(["--format", "json"]).collect();
    serde_json::from_str(&ok(&all)).expect("standard output is one JSON document")
}

fn file(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("the folder is there");
    path.to_string_lossy().into_owned()
}

fn at(dir: &Path, name: &str) -> String {
    dir.join(name).to_string_lossy().into_owned()
}

/// Weights of the little network, as they would come from anywhere.
fn weights(dir: &Path) -> String {
    let value = |n: usize, k: usize| (((n * 31 + k * 17) % 23) as f32 - 11.0) / 23.0;
    let tensors = [("w", vec![12, 16]), ("b", vec![16]), ("v", vec![16, 4])];
    save(dir, "weights.safetensors", tensors.into_iter().enumerate().map(|(k, (n, s))| (n.to_string(), s, k)).collect(), value)
}

/// Samples for it: `count` of them.
fn samples(dir: &Path, name: &str, count: usize) -> String {
    let x: Vec<f32> = (0..count * 12).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 50.0).collect();
    let labels: Vec<i64> = (0..count).map(|i| (i * 5 % 4) as i64).collect();
    let tensors = girih::Weights::from([
        ("x".to_string(), girih::Literal::from_f32(&[count, 12], &x).expect("sizes agree")),
        ("labels".to_string(), girih::Literal::from_i64(&[count], &labels).expect("sizes agree")),
    ]);
    let path = dir.join(name);
    girih::tensors::save(&tensors, &path).expect("the folder is there");
    path.to_string_lossy().into_owned()
}

fn save(dir: &Path, name: &str, list: Vec<(String, Vec<usize>, usize)>, value: impl Fn(usize, usize) -> f32) -> String {
    let tensor = |(name, shape, k): (String, Vec<usize>, usize)| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|n| value(n, k)).collect();
        (name, girih::Literal::from_f32(&shape, &values).expect("sizes agree"))
    };
    let path = dir.join(name);
    girih::tensors::save(&list.into_iter().map(tensor).collect(), &path).expect("the folder is there");
    path.to_string_lossy().into_owned()
}

#[test]
fn help_of_every_command() {
    insta::assert_snapshot!("help", ok(&["--help"]));
    for command in [
        "compile",
        "run",
        "train",
        "simulate",
        "sweep",
        "report",
        "explain",
        "inspect",
        "check",
        "targets",
        "bench",
        "profile",
        "diff",
        "demo",
        "completions",
        "man",
    ] {
        insta::assert_snapshot!(format!("help_{command}"), ok(&[command, "--help"]));
    }
}

#[test]
fn exit_codes_and_messages() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let bad = file(d, "bad.gir", "graph @g(%x: f32[4] input \"x\") {\n  %y = frobnicate %x\n  return %y \"y\"\n}\n");
    let empty = file(d, "empty.onnx", "");
    let mlir = file(d, "m.mlir", "module {}");
    let cut = file(d, "cut.girih", b"\x89GIRIH\r\n");
    let odd = file(d, "odd.xyz", "");
    let toml = file(d, "t.toml", "name = 3");
    let tensors = file(d, "t.safetensors", "nonsense");
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits_cnn.onnx");
    let none = at(d, "none.onnx");
    let out = at(d, "none/out.girih");
    let cases: Vec<(&str, i32, Vec<&str>)> = vec![
        ("no_command", 2, vec!["frobnicate"]),
        ("unknown_target", 2, vec!["compile", MLP, "-t", "dojo-tail"]),
        ("bad_loss", 2, vec!["compile", MLP, "--loss", "hinge"]),
        ("optimizer_alone", 2, vec!["compile", MLP, "--optimizer", "sgd"]),
        ("open_batch", 2, vec!["compile", digits]),
        ("no_loss", 2, vec!["train", MLP, "--data", &tensors]),
        ("no_data", 2, vec!["train", MLP, "--loss", "softmax_cross_entropy"]),
        ("no_inputs", 2, vec!["run", MLP]),
        ("odd_model", 2, vec!["compile", &odd]),
        ("dead_die_off_mesh", 2, vec!["compile", MLP, "--dead", "9,9"]),
        ("too_many_dies", 2, vec!["compile", MLP, "--dies", "26"]),
        ("bad_text", 3, vec!["compile", &bad]),
        ("bad_onnx", 3, vec!["compile", &empty]),
        ("bad_program", 3, vec!["check", &cut]),
        ("bad_target", 3, vec!["targets", "check", &toml]),
        ("bad_tensors", 3, vec!["inspect", &tensors]),
        ("stablehlo", 3, vec!["compile", &mlir]),
        ("does_not_fit", 5, vec!["compile", MLP, "--dies", "1", "--set", "sram=1KiB"]),
        ("no_file", 6, vec!["compile", &none]),
        ("no_folder", 6, vec!["compile", MLP, "-o", &out]),
    ];
    for (name, code, args) in cases {
        let got = girih(&args);
        let message = text(&got.stderr).replace(&*d.to_string_lossy(), "DIR").replace(env!("CARGO_MANIFEST_DIR"), "CLI");
        assert_eq!(got.status.code(), Some(code), "{name}: {message}");
        assert!(!message.contains("panicked"), "{name}: {message}");
        if name != "no_command" {
            insta::assert_snapshot!(format!("error_{name}"), message);
        }
    }
}

#[test]
fn errors_are_documents_too() {
    let out = girih(&["compile", MLP, "-t", "dojo-tail", "--format", "json"]);
    assert_eq!(out.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["error"]["code"], "E0501");
    assert_eq!(document["error"]["exit_code"], 2);
    assert!(text(&out.stderr).starts_with("error[E0501]: "));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_girih"))
        .args(["targets", "show", "dojo-tile"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()));
}

#[test]
fn programs_are_files_and_equal_for_equal_input() {
    let dir = tempfile::tempdir().unwrap();
    let w = weights(dir.path());
    let (a, b) = (at(dir.path(), "a.girih"), at(dir.path(), "b.girih"));
    for path in [&a, &b] {
        let mut args = vec!["compile", MLP, "--dies", "4", "--weights", &w, "-o", path];
        args.extend(TRAIN);
        let document = json(&args);
        assert_eq!(document["dies_used"], 4);
        assert_eq!(document["output"]["bytes"], std::fs::metadata(path).unwrap().len());
    }
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    let report = json(&["report", &a]);
    assert_eq!((&report["name"], &report["target"], &report["weights"]), (&"mlp".into(), &"dojo-tile".into(), &6.into()));
    assert_eq!(report["loss"], "loss");
    for key in ["instructions", "sram_peak_bytes", "flops", "host_bytes", "state_bytes"] {
        assert!(report[key].as_u64().is_some_and(|n| n > 0), "{key}: {report}");
    }
    let checked = json(&["check", &a]);
    assert_eq!((&checked["accepted"], &checked["checked"]["dies"]), (&true.into(), &4.into()));
    assert_eq!(girih(&["diff", &a, &b]).status.code(), Some(0));
    assert!(ok(&["report", &a]).contains("(0,0)"));
    let rules = json(&["explain", &a]);
    assert!(rules["outputs"]["loss"].is_string(), "{rules}");
    assert_eq!(json(&["inspect", &a])["dies_used"], 4);
    // A damaged program is refused by its hash, an edited one by the checker.
    let mut bytes = std::fs::read(&a).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = file(dir.path(), "damaged.girih", &bytes);
    assert_eq!(girih(&["check", &damaged]).status.code(), Some(3));
    let mut lowered = vec!["compile", MLP, "--emit", "lower"];
    lowered.extend(TRAIN);
    let program = ok(&lowered);
    let line = program.lines().find(|l| l.contains("  gemm")).unwrap();
    let swapped = file(dir.path(), "edited.txt", program.replacen(&format!("{line}\n"), "", 1));
    assert_ne!(girih(&["check", &swapped]).status.code(), Some(0));
    let whole = file(dir.path(), "whole.txt", &program);
    assert_eq!(girih(&["check", &whole]).status.code(), Some(0));
}

#[test]
fn every_stage_can_be_printed_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let compile = |extra: &[&str]| {
        let mut args = vec!["compile", MLP, "--dies", "4"];
        args.extend(TRAIN);
        args.extend(extra);
        ok(&args)
    };
    let straight = compile(&["--emit", "lower"]);
    for stage in ["canonicalize", "optimize", "fuse", "partition", "place", "schedule", "memory", "lower"] {
        let level = compile(&["--emit", stage]);
        let path = file(dir.path(), &format!("{stage}.gir"), &level);
        let from = |extra: &[&str]| {
            let mut args = vec!["compile", &path, "--from", stage, "--dies", "4"];
            args.extend(extra);
            ok(&args)
        };
        assert_eq!(from(&["--emit", stage]), level, "{stage}: the text is read as it was printed");
        assert_eq!(from(&["--emit", "lower"]), straight, "{stage}: going on gives the same program");
    }
    for stage in ["graph", "step"] {
        let level = compile(&["--emit", stage]);
        let path = file(dir.path(), "early.gir", &level);
        assert_eq!(ok(&["compile", &path, "--emit", if stage == "graph" { "graph" } else { "step" }]), level);
    }
    assert_eq!(json(&["compile", MLP, "--emit", "fuse"])["stage"], "fuse");
    let printed = girih(&["compile", MLP, "--print-after", "fuse", "--timing"]);
    assert!(text(&printed.stderr).starts_with("; after fuse\nstep {"));
    assert!(text(&printed.stdout).contains("partition"));
}

#[test]
fn a_model_runs_on_files_the_same_on_every_target() {
    let dir = tempfile::tempdir().unwrap();
    let (w, inputs) = (weights(dir.path()), samples(dir.path(), "in.safetensors", 8));
    let run = |name: &str, extra: &[&str]| -> String {
        let out = at(dir.path(), name);
        let mut args = vec!["run", MLP, "--weights", &w, "--inputs", &inputs, "--outputs", &out];
        args.extend(extra);
        let document = json(&args);
        assert_eq!(document["outputs"][0]["name"], "logits");
        assert_eq!(document["outputs"][0]["shape"], serde_json::json!([8, 4]));
        out
    };
    let (host, mesh) = (run("h.safetensors", &[]), run("m.safetensors", &["-t", "dojo-tile", "--dies", "5", "--threads", "3"]));
    let compared = json(&["diff", &host, &mesh, "--atol", "1e-6", "--rtol", "1e-5"]);
    assert_eq!(compared["equal"], true, "{compared}");
    let one = run("t1.safetensors", &["--threads", "1"]);
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(&host).unwrap());
    let other = girih(&["diff", &host, &inputs, "--format", "json"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(ok(&["run", MLP, "--weights", &w, "--inputs", &inputs]).contains("f32[8,4]"));
}

fn losses(log: &str) -> Vec<(u64, f64)> {
    let lines = std::fs::read_to_string(log).expect("the log was written");
    let read = |l: &str| {
        let v: Value = serde_json::from_str(l).expect("a line is JSON");
        assert!(v["ms"].as_f64().is_some_and(|ms| ms >= 0.0));
        (v["step"].as_u64().expect("a step is a number"), v["loss"].as_f64().expect("a loss is a number"))
    };
    lines.lines().map(read).collect()
}

#[test]
fn training_logs_checkpoints_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let (w, data) = (weights(dir.path()), samples(dir.path(), "data.safetensors", 40));
    let train = |log: &str, extra: &[&str]| -> (String, Value) {
        let log = at(dir.path(), log);
        let mut args = vec!["train", MLP, "--weights", &w, "--data", &data, "--log", &log, "-q"];
        args.extend(TRAIN);
        args.extend(extra);
        let document = json(&args);
        (log, document)
    };
    let (straight, done) = train("a.jsonl", &["--epochs", "4"]);
    let straight = losses(&straight);
    assert_eq!(straight.iter().map(|l| l.0).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(straight[19].1 < straight[0].1);
    assert_eq!((done["next_step"].as_u64(), done["last_loss"].as_f64()), (Some(20), Some(straight[19].1)));
    let ckpt = at(dir.path(), "ckpt");
    let (log, _) = train("b.jsonl", &["--steps", "7", "--checkpoint", &ckpt, "--every", "3"]);
    assert_eq!(losses(&log), straight[..7]);
    let refused = girih(&["train", MLP, "--weights", &w, "--data", &data, "--loss", "softmax_cross_entropy", "--checkpoint", &ckpt]);
    assert_eq!(refused.status.code(), Some(2), "two runs must not mix: {}", text(&refused.stderr));
    let state = at(dir.path(), "state.safetensors");
    let (log, done) = train("b.jsonl", &["--steps", "20", "--checkpoint", &ckpt, "--resume", "--output", &state]);
    assert_eq!(done["first_step"], 7);
    assert_eq!(losses(&log), straight, "resuming changes nothing, to the bit");
    let names: Vec<Value> = json(&["inspect", &state])["tensors"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert!(names.contains(&"w".into()) && names.len() == 6, "{names:?}");
    let (mesh, _) = train("c.jsonl", &["--epochs", "4", "-t", "dojo-tile", "--dies", "3"]);
    assert!(losses(&mesh).iter().zip(&straight).all(|(a, b)| (a.1 - b.1).abs() < 1e-4));
}

#[test]
fn sweeps_plan_every_point() {
    let mut args = vec!["sweep", MLP, "--vary", "sram=442MB,1KiB", "--vary", "link=2TB/s,1GB/s", "--dies", "4"];
    args.extend(TRAIN);
    let points = json(&args)["points"].as_array().unwrap().clone();
    assert_eq!(points.len(), 4);
    let fits: Vec<_> = points.iter().map(|p| p["fits"].as_bool()).collect();
    assert_eq!(fits, [Some(true), Some(true), Some(false), Some(false)], "a KiB holds nothing");
    let step = |n: usize| points[n]["step_s"].as_f64().unwrap();
    assert!(step(1) > step(0), "slower links take longer: {} and {}", step(1), step(0));
    assert_eq!(points[3]["bound_by"], "SRAM");
    let mut args = vec!["sweep", MLP, "--vary", "dead=0,1", "--vary", "mesh=2x2,1x2"];
    args.extend(TRAIN);
    let table = ok(&args);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.lines().next().is_some_and(|l| l.starts_with("dead") && l.ends_with("bound by")), "{table}");
}

#[test]
fn numbers_say_how_they_come_about() {
    let mut args = vec!["simulate", MLP, "--dies", "4", "--derive"];
    args.extend(TRAIN);
    let derivation = json(&args)["derivation"].clone();
    let names: Vec<&str> = derivation["numbers"].as_array().unwrap().iter().filter_map(|n| n["name"].as_str()).collect();
    assert!(names[0] == "makespan" && names.contains(&"MFU") && names.contains(&"power"), "{names:?}");
    for figure in derivation["figures"].as_array().unwrap() {
        assert!(figure["source"].as_str().is_some_and(|s| !s.is_empty()), "{figure}");
    }
    let text = ok(&args);
    assert!(text.contains("how the numbers come about") && text.contains("die.launch_overhead"), "{text}");
}

#[test]
fn simulation_and_measurement_are_documents() {
    let dir = tempfile::tempdir().unwrap();
    let trace = at(dir.path(), "trace.json");
    let mut args = vec!["simulate", MLP, "--dies", "4", "--trace", &trace];
    args.extend(TRAIN);
    let report = json(&args);
    assert_eq!(report["target"], "dojo-tile");
    assert!(report["makespan"].as_f64().is_some_and(|s| s > 0.0 && s < 1.0));
    assert_eq!(report["dies"].as_array().map(Vec::len), Some(4));
    let events: Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    assert!(events["traceEvents"].as_array().is_some_and(|e| e.len() > 10));
    let mut args = vec!["bench", MLP, "--steps", "9", "--threads", "2"];
    args.extend(TRAIN);
    let bench = json(&args);
    assert_eq!((&bench["target"], &bench["threads"], &bench["steps"]), (&"host".into(), &2.into(), &9.into()));
    assert_eq!(bench["losses"].as_array().map(Vec::len), Some(8));
    let (median, least) = (bench["median_ms"].as_f64().unwrap(), bench["min_ms"].as_f64().unwrap());
    assert!(least > 0.0 && median >= least && bench["compile_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    assert!(bench["gflops"].as_f64().is_some_and(|g| g > 0.0) && bench["percent_of_peak"].as_f64().is_some_and(|p| p > 0.0 && p < 400.0));
    assert!(bench["peak_rss_bytes"].as_u64().is_none_or(|b| b > 1 << 20));
}

/// A step `w -= 0.5 (w - x)` as the folder of a case; the scalar counter is stored with one dimension.
fn case_folder(dir: &Path) -> String {
    let module = r#"module @jit_step {
  func.func public @main(%arg0: tensor<4xf32>, %arg1: tensor<f32>, %arg2: tensor<4xf32>) -> (tensor<4xf32>, tensor<f32>, tensor<f32>) {
    %half = stablehlo.constant dense<5.000000e-01> : tensor<4xf32>
    %one = stablehlo.constant dense<1.000000e+00> : tensor<f32>
    %zero = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %d = stablehlo.subtract %arg0, %arg2 : tensor<4xf32>
    %s = stablehlo.multiply %d, %half : tensor<4xf32>
    %w = stablehlo.subtract %arg0, %s : tensor<4xf32>
    %t = stablehlo.add %arg1, %one : tensor<f32>
    %q = stablehlo.multiply %d, %d : tensor<4xf32>
    %l = stablehlo.reduce(%q init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<4xf32>, tensor<f32>) -> tensor<f32>
    return %w, %t, %l : tensor<4xf32>, tensor<f32>, tensor<f32>
  }
}"#;
    let manifest = r#"{"inputs": [{"name": "unused", "shape": []}, {"name": "w", "shape": [4]}, {"name": "t", "shape": []}, {"name": "batch/x", "shape": [4]}],
        "outputs": [{"name": "w", "feeds_input": 1}, {"name": "t", "feeds_input": 2}, {"name": "loss"}],
        "kept_inputs": [1, 2, 3], "params": 4, "useful_flops_per_step": 12}"#;
    file(dir, "train_step.mlir", module);
    file(dir, "case.json", manifest);
    let pair = |name: &str, shape: &[usize], k: usize| (name.to_string(), shape.to_vec(), k);
    save(dir, "inputs.safetensors", vec![pair("w", &[4], 2), pair("t", &[1], 0)], |_, k| k as f32);
    save(dir, "batches.safetensors", vec![pair("0/batch/x", &[4], 0), pair("1/batch/x", &[4], 1)], |_, k| k as f32);
    dir.to_string_lossy().into_owned()
}

#[test]
fn cases_are_measured_on_their_own_values() {
    let dir = tempfile::tempdir().unwrap();
    let folder = case_folder(dir.path());
    let line = ok(&["bench", &folder, "--seconds", "0.01", "--threads", "1", "--format", "json"]);
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    let bench: Value = serde_json::from_str(&line).unwrap();
    // w: 2, 1, 1, 0.5, 0.75, …; the batches are 0 and 1 in turn, and the loss is 4 (w - x)².
    let losses: Vec<f64> = bench["losses"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert_eq!(losses[..5], [16.0, 0.0, 4.0, 1.0, 2.25]);
    assert_eq!((bench["flops"].as_u64(), losses.len()), (Some(12), 8));
    assert!(bench["steps"].as_u64().is_some_and(|n| n >= 7));
    let missing = girih(&["bench", dir.path().parent().unwrap().to_str().unwrap(), "--steps", "1"]);
    assert_eq!(missing.status.code(), Some(6), "{}", text(&missing.stderr));
}

/// A model with an open batch dimension, its loss and two batches as the folder of a case.
fn model_case(dir: &Path) -> String {
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits_cnn.onnx"), dir.join("model.onnx")).expect("the demo has a model");
    let manifest = r#"{"inputs": [{"name": "x", "shape": [3, 1, 8, 8]}], "labels": [{"name": "labels", "shape": [3]}], "outputs": [],
        "loss": {"type": "softmax_cross_entropy", "logits": "logits", "labels": "labels", "ignore_index": -100}}"#;
    file(dir, "case.json", manifest);
    let mut tensors = girih::Weights::new();
    for k in 0..2i64 {
        let x: Vec<f32> = (0..192).map(|i| ((i * 31 + k * 17) % 16) as f32 / 16.0).collect();
        tensors.insert(format!("{k}/x"), girih::Literal::from_f32(&[3, 1, 8, 8], &x).expect("sizes agree"));
        tensors.insert(format!("{k}/labels"), girih::Literal::from_i64(&[3], &[k, 4, 7]).expect("sizes agree"));
    }
    girih::tensors::save(&tensors, &dir.join("batches.safetensors")).expect("the folder is there");
    girih::tensors::save(&girih::Weights::new(), &dir.join("inputs.safetensors")).expect("the folder is there");
    dir.to_string_lossy().into_owned()
}

#[test]
fn cases_of_models_are_trained_with_their_loss() {
    let dir = tempfile::tempdir().unwrap();
    let folder = model_case(dir.path());
    let bench = json(&["bench", &folder, "--steps", "8", "--threads", "1", "--optimizer", "sgd:lr=0.1"]);
    let losses: Vec<f64> = bench["losses"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert_eq!(losses.len(), 8);
    assert!((losses[0] - 10f64.ln()).abs() < 0.2, "an untrained classifier of ten digits: {losses:?}");
    assert!(losses[6] < losses[0] && losses[7] < losses[1], "it learns the two batches by heart: {losses:?}");
}

#[test]
fn profiles_name_every_instruction_of_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let trace = at(dir.path(), "trace.json");
    for (target, dies) in [("host", "1"), ("dojo-tile", "4")] {
        let mut args = vec!["profile", MLP, "--steps", "2", "--threads", "2", "-t", target, "--dies", dies, "--trace", &trace];
        args.extend(TRAIN);
        let profile = json(&args);
        let kinds: Vec<&str> = profile["kinds"].as_array().unwrap().iter().filter_map(|k| k["kind"].as_str()).collect();
        assert!(kinds.contains(&"gemm") && kinds.contains(&"map"), "{kinds:?}");
        let first = profile["instructions"][0]["name"].as_str().unwrap();
        assert_eq!(first.starts_with('('), target == "dojo-tile", "instructions of a mesh begin with their die: {first}");
        assert_eq!(profile["instructions"].as_array().map(Vec::len), Some(10));
        assert!(profile["instructions"][0]["source"].as_str().is_some_and(|s| s.starts_with('%')));
        let events: Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        assert!(events["traceEvents"].as_array().is_some_and(|e| e.len() > 10));
    }
    assert!(ok(&["profile", MLP, "--steps", "1"]).contains("waiting"));
}

#[test]
fn targets_are_listed_shown_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let list = json(&["targets"]);
    let names: Vec<&str> = list["targets"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(names.starts_with(&["host", "dojo-d1", "dojo-tile"]), "{names:?}");
    let toml = ok(&["targets", "show", "dojo-tile", "--toml"]);
    let path = file(dir.path(), "mine.toml", &toml);
    assert!(ok(&["targets", "check", &path]).contains("is sound: 5×5 dies"));
    assert_eq!(json(&["targets", "show", &path])["digest"], json(&["targets", "show", "dojo-tile"])["digest"]);
    assert_eq!(json(&["inspect", &path])["live_dies"], 25);
    let changed = file(dir.path(), "other.toml", ok(&["targets", "show", "dojo-tile", "--toml", "--set", "sram=1GB"]));
    let diff = girih(&["diff", &path, &changed]);
    assert_eq!(diff.status.code(), Some(1));
    assert!(text(&diff.stdout).contains("+sram = ") && text(&diff.stdout).contains("-sram = "), "{}", text(&diff.stdout));
}

#[test]
fn codes_and_models_are_explained() {
    assert!(ok(&["explain", "E0901"]).starts_with("E0901: the program does not fit"));
    assert_eq!(json(&["explain", "e130"])["code"], "E0130");
    assert_eq!(girih(&["explain", "E7777"]).status.code(), Some(2));
    let mut args = vec!["explain", MLP];
    args.extend(TRAIN);
    let rules = json(&args);
    assert!(rules["outputs"]["w"].is_object() && rules["nodes_before"].as_u64().is_some_and(|n| n > 10), "{rules}");
    let onnx = json(&["inspect", concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits_cnn.onnx")]);
    assert_eq!((&onnx["operators"]["Conv"], &onnx["inputs"][0]["shape"][0]), (&2.into(), &"batch".into()));
    assert_eq!(json(&["inspect", MLP])["inputs"][1]["role"], "param");
}

#[test]
fn splits_are_explained_with_and_without_stages() {
    let dir = tempfile::tempdir().unwrap();
    let explained = |more: &[&str]| {
        let mut args = vec!["explain", MLP, "--value", "w", "--dies", "6", "-t", "dojo-tile"];
        args.extend(TRAIN.iter().chain(more));
        json(&args)
    };
    let whole = explained(&[]);
    assert_eq!((&whole["mesh"], &whole["stage"]), (&serde_json::json!([2, 3]), &Value::Null), "{whole}");
    let staged = explained(&["--stages", "2"]);
    assert_eq!(staged["stage"], 0, "{staged}");
    let dies = staged["mesh"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
    assert!(dies < 6 && staged["alternatives"].as_array().is_some_and(|a| !a.is_empty()), "{staged}");

    // What `auto` keeps is no slower than either way alone.
    let step_time = |stages: &str| {
        let program = at(dir.path(), "step.girih");
        let mut args = vec!["compile", MLP, "--dies", "6", "--stages", stages, "-o", &program];
        args.extend(TRAIN);
        ok(&args);
        json(&["simulate", &program])["makespan"].as_f64().unwrap()
    };
    let (auto, off, two) = (step_time("auto"), step_time("off"), step_time("2"));
    assert!(auto <= off && auto <= two, "{auto} {off} {two}");
}

#[test]
fn shells_and_manuals_are_served() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(ok(&["completions", shell]).contains("girih"), "{shell}");
    }
    assert!(ok(&["man"]).contains(".TH girih"));
    let dir = tempfile::tempdir().unwrap();
    ok(&["man", "--dir", &dir.path().to_string_lossy()]);
    let pages: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(pages.len() >= 15 && dir.path().join("girih-compile.1").exists(), "{pages:?}");
}

#[test]
fn the_demo_trains_on_both_targets() {
    let d = json(&["demo", "--epochs", "1", "-q"]);
    assert_eq!((&d["mesh"]["target"], &d["host"]["target"]), (&"dojo-tile".into(), &"host".into()));
    for run in [&d["mesh"], &d["host"]] {
        let (first, last) = (run["first_loss"].as_f64().unwrap(), run["last_loss"].as_f64().unwrap());
        assert!(first > 2.0 && last < 1.5, "{run}");
        assert!(run["accuracy"].as_f64().is_some_and(|a| a > 0.5), "{run}");
    }
    let (mesh, host) = (d["mesh"]["last_loss"].as_f64().unwrap(), d["host"]["last_loss"].as_f64().unwrap());
    assert!((mesh - host).abs() < 1e-2, "{mesh} {host}");
    assert!(d["simulated"]["makespan_s"].as_f64().is_some_and(|s| s > 0.0));
}
