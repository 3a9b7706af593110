//! How near to the lower bound the memory plans of real steps come: `packing [--rows N] CASE…`, where a case is a StableHLO file or a folder
//! with a `case.json` and a `model.onnx`, which is trained with Adam. Every step is planned for the host, for 1, 4, 12 (3×4) and all dies of
//! a Dojo training tile and for the nodes of a D1, as far as it fits there; a case that ends in `@tile` for the tile alone. Three different
//! dies of a plan stand for all, and problems that are equal count once. Prints a summary and the N worst rows.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::onnx::{ImportOptions, import_file};
use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_compiler::memory::problems;
use girih_compiler::pipeline::{CompileOptions, Level, Pipeline};
use girih_compiler::train::{LossSpec, OptimizerSpec, train_step};
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// Where steps are planned: a name for the table, the target, the dies.
const PLACES: [(&str, &str, Option<usize>); 6] = [
    ("host", "host", None),
    ("tile, 1 die", "dojo-tile", Some(1)),
    ("tile, 4 dies", "dojo-tile", Some(4)),
    ("tile, 3×4 dies", "dojo-tile", Some(12)),
    ("tile", "dojo-tile", None),
    ("D1", "dojo-d1", None),
];

struct Row {
    case: String,
    place: &'static str,
    buffers: usize,
    bound: u64,
    peak: u64,
    ms: f64,
}

impl Row {
    fn over(&self) -> f64 {
        (self.peak as f64 / self.bound.max(1) as f64 - 1.0) * 100.0
    }
}

fn step_of(case: &Path) -> TrainStep {
    if case.is_file() {
        let bytes = std::fs::read(case).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
        let imported = import_bytes(&bytes, &StablehloOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
        return imported.into_step(&[]).unwrap();
    }
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(case.join("case.json")).unwrap()).unwrap();
    let batch = json["inputs"][0]["shape"][0].as_u64().map(|n| n as usize);
    let model = import_file(&case.join("model.onnx"), &ImportOptions { batch, ..ImportOptions::default() }).unwrap();
    let text = |key: &str| json["loss"][key].as_str();
    let output = text("logits").or(text("prediction")).unwrap_or_default();
    let mut loss = format!("{}:output={output},labels={}", text("type").unwrap(), text("labels").unwrap_or("labels"));
    if let Some(i) = json["loss"]["ignore_index"].as_i64() {
        loss += &format!(",ignore_index={i}");
    }
    let carried: Vec<(String, String)> = model.buffers.iter().map(|b| (b.input.clone(), b.output.clone())).collect();
    let (loss, adam): (LossSpec, OptimizerSpec) = (loss.parse().unwrap(), "adam".parse().unwrap());
    train_step(&model.graph, &loss, &adam, &carried, &[]).unwrap_or_else(|e| panic!("{}: {e}", case.display())).step
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let shown = match args.iter().position(|a| a == "--rows") {
        Some(i) => args.drain(i..i + 2).nth(1).unwrap().parse().unwrap(),
        None => 12,
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut known: BTreeSet<Vec<(u64, u32, u32)>> = BTreeSet::new();
    for arg in args {
        let only_tile = arg.ends_with("@tile");
        let case = Path::new(arg.trim_end_matches("@tile"));
        let folder = if case.is_file() { case.parent() } else { Some(case) };
        let name = folder.and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        let step = step_of(case);
        for (place, target, dies) in PLACES.into_iter().filter(|p| !only_tile || p.0 == "tile") {
            let target = Target::builtin(target).unwrap();
            let options = CompileOptions { dies, ..CompileOptions::default() };
            let mut last = Vec::new();
            let pipeline = Pipeline::new(&target, &options).observe(|_, level| {
                if let Level::Scheduled(s) = level {
                    last = problems(s.clone());
                }
            });
            if pipeline.compile(step.clone()).is_err() {
                continue;
            }
            for problem in last.iter().filter(|p| known.insert(p.ranges())).take(3) {
                let start = Instant::now();
                let found = problem.solve();
                let ms = start.elapsed().as_secs_f64() * 1e3;
                let (bound, peak) = (found.lower_bound, found.peak);
                rows.push(Row { case: name.clone(), place, buffers: problem.buffers(), bound, peak, ms });
            }
        }
    }
    print(&mut rows, shown);
}

fn print(rows: &mut [Row], shown: usize) {
    println!("| where | problems | within 2 % | at the bound | worst | most buffers | slowest ms |\n|---|---|---|---|---|---|---|");
    let line = |name: &str, of: &[&Row]| {
        let count = |f: &dyn Fn(&Row) -> bool| of.iter().filter(|r| f(r)).count();
        let worst = of.iter().map(|r| r.over()).fold(0.0, f64::max);
        let (buffers, ms) = (of.iter().map(|r| r.buffers).max().unwrap_or(0), of.iter().map(|r| r.ms).fold(0.0, f64::max));
        let (close, exact) = (count(&|r| r.over() <= 2.0), count(&|r| r.peak == r.bound));
        println!("| {name} | {} | {close} | {exact} | {worst:.2} % | {buffers} | {ms:.0} |", of.len());
    };
    for (place, ..) in PLACES {
        line(place, &rows.iter().filter(|r| r.place == place).collect::<Vec<_>>());
    }
    line("all", &rows.iter().collect::<Vec<_>>());
    rows.sort_by(|a, b| b.over().total_cmp(&a.over()).then(b.ms.total_cmp(&a.ms)));
    println!("\n| step | where | buffers | bound | peak | over | ms |\n|---|---|---|---|---|---|---|");
    for r in rows.iter().take(shown) {
        println!("| {} | {} | {} | {} | {} | {:.2} % | {:.1} |", r.case, r.place, r.buffers, r.bound, r.peak, r.over(), r.ms);
    }
}
