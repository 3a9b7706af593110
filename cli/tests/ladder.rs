//! Less and less SRAM: values are made again, then state leaves for host memory, at last there is a report with repairs that work. On every
//! rung that fits, the program trains to the same losses.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Hidden layers, and the extent of everything.
const LAYERS: usize = 16;
const WIDTH: usize = 128;

fn girih(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_girih"));
    command.args(args).env_remove("COLUMNS").env("NO_COLOR", "1").stdin(Stdio::null());
    command.output().expect("the command was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// A deep network whose activations are all needed on the way back.
fn model(dir: &Path) -> String {
    let dot = "{lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}";
    let mut g = format!("graph @deep(%x: f32[{WIDTH},{WIDTH}] input \"x\"");
    (0..LAYERS).for_each(|i| write!(g, ", %w{i}: f32[{WIDTH},{WIDTH}] param \"w{i}\"").unwrap());
    writeln!(g, ", %v: f32[{WIDTH},4] param \"v\") {{\n  %t0 = tanh %x").unwrap();
    for i in 0..LAYERS {
        writeln!(g, "  %h{i} = dot_general %t{i}, %w{i} {dot}\n  %a{i} = tanh %h{i}\n  %t{} = add %a{i}, %t{i}", i + 1).unwrap();
    }
    write!(g, "  %y = dot_general %t{LAYERS}, %v {dot}\n  return %y \"logits\"\n}}\n").unwrap();
    save(dir, "deep.gir", g.as_bytes())
}

fn save(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

fn weights(dir: &Path) -> String {
    let value = |n: usize, k: usize| (((n * 31 + k * 17) % 23) as f32 - 11.0) / 230.0;
    let tensor = |k: usize, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|n| value(n, k)).collect();
        girih::Literal::from_f32(shape, &values).unwrap()
    };
    let mut all: girih::Weights = (0..LAYERS).map(|i| (format!("w{i}"), tensor(i, &[WIDTH, WIDTH]))).collect();
    all.insert("v".into(), tensor(LAYERS, &[WIDTH, 4]));
    let path = dir.join("weights.safetensors");
    girih::tensors::save(&all, &path).unwrap();
    path.to_string_lossy().into_owned()
}

fn samples(dir: &Path) -> String {
    let x: Vec<f32> = (0..WIDTH * WIDTH).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 50.0).collect();
    let labels: Vec<i64> = (0..WIDTH).map(|i| (i * 5 % 4) as i64).collect();
    let tensors = girih::Weights::from([
        ("x".to_string(), girih::Literal::from_f32(&[WIDTH, WIDTH], &x).unwrap()),
        ("labels".to_string(), girih::Literal::from_i64(&[WIDTH], &labels).unwrap()),
    ]);
    let path = dir.join("data.safetensors");
    girih::tensors::save(&tensors, &path).unwrap();
    path.to_string_lossy().into_owned()
}

struct Ladder<'a> {
    dir: &'a Path,
    model: String,
    weights: String,
    data: String,
}

impl Ladder<'_> {
    /// Compiles with more flags; the exit code and the document.
    fn compile(&self, flags: &[&str]) -> (i32, Value) {
        let out = self.dir.join("step.girih").to_string_lossy().into_owned();
        let mut args = vec!["compile", &self.model, "--weights", &self.weights, "--format", "json", "-o", &out];
        args.extend(["--loss", "softmax_cross_entropy", "--optimizer", "adamw:lr=1e-4", "--dies", "4", "--microbatches", "off"]);
        args.extend(flags);
        let done = girih(&args);
        let document = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&done.stderr)));
        (done.status.code().unwrap(), document)
    }

    /// The losses of three steps of the program that was compiled last.
    fn losses(&self) -> Vec<f64> {
        let (program, log) = (self.dir.join("step.girih"), self.dir.join("log.jsonl"));
        let _ = std::fs::remove_file(&log);
        let (program, log) = (program.to_string_lossy().into_owned(), log.to_string_lossy().into_owned());
        let done = girih(&["train", &program, "--data", &self.data, "--epochs", "3", "--log", &log, "-q"]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        let line = |l: &str| serde_json::from_str::<Value>(l).unwrap()["loss"].as_f64().unwrap();
        std::fs::read_to_string(&log).unwrap().lines().map(line).collect()
    }
}

fn same(got: &[f64], want: &[f64]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 2e-5 * b.abs().max(1.0))
}

#[test]
fn the_way_down_ends_in_repairs_that_work() {
    let dir = tempfile::tempdir().unwrap();
    let ladder = Ladder { dir: dir.path(), model: model(dir.path()), weights: weights(dir.path()), data: samples(dir.path()) };
    let (code, first) = ladder.compile(&[]);
    assert_eq!(code, 0);
    let want = ladder.losses();
    assert!(want.len() == 3 && want[2] < want[0], "{want:?}");
    let mut sram = first["sram_peak_bytes"].as_u64().unwrap();
    let mut seen: Vec<(u64, u64, u64)> = Vec::new();
    let refused = loop {
        sram = sram * 9 / 10;
        let limit = format!("sram={sram}B");
        let (code, document) = ladder.compile(&["--set", &limit]);
        if code != 0 {
            assert_eq!(code, 5, "{document}");
            break document;
        }
        let number = |key: &str| document[key].as_u64().unwrap();
        assert!(number("sram_peak_bytes") <= sram);
        assert!(same(&ladder.losses(), &want), "{sram} bytes: {:?} instead of {want:?}", ladder.losses());
        seen.push((sram, number("values_made_again"), number("streamed_bytes")));
        assert!(seen.len() < 30, "it fits into next to nothing: {seen:?}");
    };
    println!("SRAM, values made again, bytes streamed: {seen:?}");
    let again = seen.iter().position(|r| r.1 > 0);
    let streamed = seen.iter().position(|r| r.2 > 0).expect("state leaves for host memory before nothing helps any more");
    assert!(again.is_some_and(|a| a <= streamed), "{seen:?}");
    assert!(seen[..streamed].iter().all(|r| r.2 == 0));
    // Every repair is pasted behind the flags that failed.
    let limit = format!("sram={sram}B");
    let help = refused["error"]["help"].as_str().unwrap();
    let repairs: Vec<&str> = help.split('`').skip(1).step_by(2).collect();
    assert!(!repairs.is_empty(), "{refused}");
    for repair in repairs {
        let flags: Vec<&str> = ["--set", &limit].into_iter().chain(repair.split(' ')).collect();
        let (code, document) = ladder.compile(&flags);
        assert_eq!(code, 0, "`{repair}` was proposed: {document}");
        assert!(same(&ladder.losses(), &want), "{repair}");
    }
    // Turned off, they are proposed.
    let limit = format!("sram={}B", seen[streamed].0);
    let off = ["--set", &limit, "--stream", "off"];
    let (code, document) = ladder.compile(&off);
    assert_eq!(code, 5);
    assert!(document["error"]["help"].as_str().unwrap().contains("`--stream auto`"), "{document}");
    let (code, _) = ladder.compile(&[&off[..], &["--stream", "auto"]].concat());
    assert_eq!(code, 0);
}
