//! Seconds of every pass from a StableHLO file to a program: `passes FILE [TARGET] [DIES|-] [f32|bf16] [OUT.girih] [STRATEGY]`.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_compiler::partition::{Baseline, Pinning};
use girih_compiler::pipeline::{CompileOptions, Pipeline};
use girih_compiler::precision::Precision;
use girih_ir::program::codec::{self, ProgramFile};
use girih_ir::step::Weights;
use girih_ir::target::Target;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let bytes = std::fs::read(&args[1]).unwrap_or_else(|e| panic!("{}: {e}", args[1]));
    let start = Instant::now();
    let imported = import_bytes(&bytes, &StablehloOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let nodes = imported.graph.nodes().len();
    println!("{:<14}{:>9.3} s  {nodes} nodes", "import", start.elapsed().as_secs_f64());
    let step = imported.into_step(&[]).unwrap_or_else(|e| panic!("{e}"));
    let target = Target::builtin(args.get(2).map_or("host", String::as_str)).unwrap_or_else(|e| panic!("{e}"));
    let precision = args.get(4).map_or(Ok(Precision::F32), |p| p.parse()).unwrap_or_else(|e| panic!("{e}"));
    let strategy = args.get(6).map(|name| name.parse::<Baseline>().unwrap_or_else(|e| panic!("{e}")));
    let pins = strategy.map_or(Pinning::Free, Pinning::Strategy);
    let options = CompileOptions { dies: args.get(3).and_then(|d| d.parse().ok()), precision, pins, ..CompileOptions::default() };
    match Pipeline::new(&target, &options).compile(step) {
        Ok((program, report)) => {
            for p in &report.passes {
                println!("{:<14}{:>9.3} s  {:>8} -> {:<8} {}", p.name, p.seconds, p.before, p.after, p.summary.replace('\n', "; "));
            }
            let checking = Instant::now();
            if let Some(path) = args.get(5) {
                let file = ProgramFile { program: program.clone(), weights: Weights::new(), info: Vec::new() };
                std::fs::write(path, codec::write(&file).unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{path}: {e}"));
            }
            let checked = girih_ir::check::check(program).is_ok();
            println!("{:<14}{:>9.3} s  {checked}", "check", checking.elapsed().as_secs_f64());
        }
        Err(girih_compiler::pipeline::CompileError::Fit(r)) => {
            println!("{r}");
            r.live.iter().for_each(|l| println!("  {:>12} {} {}", l.bytes, l.tensor, l.origin));
        }
        Err(e) => println!("{e}"),
    }
    println!("{:<14}{:>9.3} s", "all", start.elapsed().as_secs_f64());
}
