//! Less and less SRAM: values are made again, then state leaves for host memory, at last there is a report with repairs that work. On every
//! rung that fits, the program trains to the same losses, and every repair keeps what it says when it is pasted.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Hidden layers, and the extent of everything.
const LAYERS: usize = 16;
const WIDTH: usize = 128;

/// Divides by the labels that count, so a batch cannot be sliced.
const CROSS_ENTROPY: &str = "softmax_cross_entropy";

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

fn samples(dir: &Path, loss: &str) -> String {
    let x: Vec<f32> = (0..WIDTH * WIDTH).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 50.0).collect();
    let labels: Vec<i64> = (0..WIDTH).map(|i| (i * 5 % 4) as i64).collect();
    let values: Vec<f32> = (0..WIDTH * 4).map(|i| ((i * 31 % 17) as f32 - 8.0) / 8.0).collect();
    let labels = match loss {
        "mse" => girih::Literal::from_f32(&[WIDTH, 4], &values),
        _ => girih::Literal::from_i64(&[WIDTH], &labels),
    };
    let tensors = girih::Weights::from([
        ("x".to_string(), girih::Literal::from_f32(&[WIDTH, WIDTH], &x).unwrap()),
        ("labels".to_string(), labels.unwrap()),
    ]);
    let path = dir.join("data.safetensors");
    girih::tensors::save(&tensors, &path).unwrap();
    path.to_string_lossy().into_owned()
}

struct Ladder<'a> {
    dir: &'a Path,
    loss: &'static str,
    model: String,
    weights: String,
    data: String,
}

impl Ladder<'_> {
    /// Compiles with more flags; the exit code and the document.
    fn compile(&self, flags: &[&str]) -> (i32, Value) {
        let out = self.dir.join("step.girih").to_string_lossy().into_owned();
        let mut args = vec!["compile", &self.model, "--weights", &self.weights, "--format", "json", "-o", &out];
        args.extend(["--loss", self.loss, "--optimizer", "adamw:lr=1e-4", "--dies", "4", "--microbatches", "off"]);
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

/// A proposed change of the flags, and what is said of it.
#[derive(Debug)]
struct Repair {
    flags: String,
    peak: String,
    microseconds: f64,
}

/// The repairs of a fit report, as printed.
fn repairs(refused: &Value) -> Vec<Repair> {
    let help = refused["error"]["help"].as_str().unwrap();
    let one = |line: &str| {
        let (flags, rest) = line.split_once('`')?.1.split_once('`')?;
        let (peak, time) = rest.strip_prefix(": peak ")?.split_once(", about ")?;
        let microseconds = time.strip_suffix(" us a step")?.parse().ok()?;
        Some(Repair { flags: flags.into(), peak: peak.into(), microseconds })
    };
    let found: Vec<Repair> = help.lines().filter_map(one).collect();
    assert!(!found.is_empty() && found.len() == help.lines().count(), "{help}");
    found
}

/// Bytes as the report writes them.
fn size(n: u64) -> String {
    let (mut v, mut unit) = (n as f64, 0);
    while v >= 1024.0 {
        (v, unit) = (v / 1024.0, unit + 1);
    }
    format!("{v:.1} {}", ["B", "KiB", "MiB", "GiB"][unit])
}

impl Ladder<'_> {
    fn new<'a>(dir: &'a Path, loss: &'static str) -> Ladder<'a> {
        Ladder { dir, loss, model: model(dir), weights: weights(dir), data: samples(dir, loss) }
    }

    /// Less and less SRAM, until nothing fits: the limit and the report.
    fn refused(&self, mut sram: u64, flags: &[&str], mut fits: impl FnMut(u64, &Value)) -> (String, Value) {
        for _ in 0..40 {
            let limit = format!("sram={sram}B");
            let (code, document) = self.compile(&[flags, &["--set", &limit]].concat());
            if code != 0 {
                assert_eq!(code, 5, "{document}");
                return (limit, document);
            }
            fits(sram, &document);
            sram = sram * 9 / 10;
        }
        panic!("it fits into next to nothing");
    }

    /// Pastes every repair behind the flags that failed: it fits, takes what was said, and trains to the same losses.
    fn paste(&self, refused: &Value, flags: &[&str], want: &[f64]) -> Vec<Repair> {
        let all = repairs(refused);
        assert!(all.windows(2).all(|r| r[0].microseconds <= r[1].microseconds), "the fastest comes first: {all:?}");
        for r in &all {
            let (code, document) = self.compile(&flags.iter().copied().chain(r.flags.split(' ')).collect::<Vec<_>>());
            assert_eq!(code, 0, "`{}` was proposed: {document}", r.flags);
            assert_eq!(size(document["sram_peak_bytes"].as_u64().unwrap()), r.peak, "`{}`", r.flags);
            let took = document["estimated_us"].as_f64().unwrap();
            assert!((took - r.microseconds).abs() < 0.051, "`{}`: {took} instead of {} us", r.flags, r.microseconds);
            let losses = self.losses();
            assert!(same(&losses, want), "`{}`: {losses:?} instead of {want:?}", r.flags);
        }
        all
    }
}

/// Whether one of the repairs has this flag.
fn proposes(repairs: &[Repair], flag: &str) -> bool {
    repairs.iter().any(|r| format!("{} ", r.flags).contains(flag))
}

#[test]
fn the_way_down_ends_in_repairs_that_work() {
    let dir = tempfile::tempdir().unwrap();
    let ladder = Ladder::new(dir.path(), CROSS_ENTROPY);
    let (code, first) = ladder.compile(&[]);
    assert_eq!(code, 0);
    let want = ladder.losses();
    assert!(want.len() == 3 && want[2] < want[0], "{want:?}");
    let peak = first["sram_peak_bytes"].as_u64().unwrap();
    let mut seen: Vec<(u64, u64, u64)> = Vec::new();
    let (limit, refused) = ladder.refused(peak * 9 / 10, &[], |sram, document| {
        let number = |key: &str| document[key].as_u64().unwrap();
        assert!(number("sram_peak_bytes") <= sram);
        assert!(same(&ladder.losses(), &want), "{sram} bytes: {:?} instead of {want:?}", ladder.losses());
        seen.push((sram, number("values_made_again"), number("streamed_bytes")));
    });
    println!("SRAM, values made again, bytes streamed: {seen:?}");
    let again = seen.iter().position(|r| r.1 > 0);
    let streamed = seen.iter().position(|r| r.2 > 0).expect("state leaves for host memory before nothing helps any more");
    assert!(again.is_some_and(|a| a <= streamed), "{seen:?}");
    assert!(seen[..streamed].iter().all(|r| r.2 == 0));
    let found = ladder.paste(&refused, &["--set", &limit], &want);
    for flag in ["--set sram=", "--dies 25 "] {
        assert!(proposes(&found, flag), "{flag}: {found:?}");
    }
    // Turned off, they are proposed.
    let limit = format!("sram={}B", seen[streamed].0);
    let off = ["--set", &limit, "--stream", "off"];
    let (code, document) = ladder.compile(&off);
    assert_eq!(code, 5);
    let found = ladder.paste(&document, &off, &want);
    assert!(proposes(&found, "--stream auto "), "{found:?}");
}

#[test]
fn a_step_in_slices_has_repairs_that_work() {
    let dir = tempfile::tempdir().unwrap();
    let ladder = Ladder::new(dir.path(), "mse");
    let (_, first) = ladder.compile(&[]);
    let want = ladder.losses();
    let four = ["--microbatches", "4"];
    let mut slices = Vec::new();
    let (limit, refused) = ladder.refused(first["sram_peak_bytes"].as_u64().unwrap() / 2, &four, |sram, document| {
        slices.push((sram, document["microbatches"].as_u64().unwrap()));
    });
    println!("SRAM, microbatches: {slices:?}");
    assert!(slices.iter().all(|s| s.1 == 4), "{slices:?}");
    let found = ladder.paste(&refused, &["--microbatches", "4", "--set", &limit], &want);
    assert!(proposes(&found, "--set sram=") && proposes(&found, "--dies 25 "), "{found:?}");
}

#[test]
fn what_was_turned_off_is_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let ladder = Ladder::new(dir.path(), CROSS_ENTROPY);
    let (_, first) = ladder.compile(&["--dies", "2"]);
    let want = ladder.losses();
    let half = format!("sram={}B", first["sram_peak_bytes"].as_u64().unwrap() * 3 / 4);
    for flags in [&["--dies", "1", "--remat", "off", "--stream", "off"][..], &["--dies", "2", "--remat", "off"], &["--stream", "all"]] {
        let flags = [flags, &["--set", &half]].concat();
        let (code, document) = ladder.compile(&flags);
        if code == 0 {
            continue;
        }
        assert_eq!(code, 5, "{document}");
        let found = ladder.paste(&document, &flags, &want);
        assert!(!flags.contains(&"--dies") || proposes(&found, "--dies 25 "), "{flags:?}: {found:?}");
    }
}
