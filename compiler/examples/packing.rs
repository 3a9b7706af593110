//! How near to the lower bound the memory plans of real steps come: `packing FILE…`, StableHLO files. Every step is planned for one,
//! four and all dies of `dojo-tile`; equal problems count once.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_compiler::memory::problems;
use girih_compiler::pipeline::{CompileOptions, Level, Pipeline};
use girih_ir::target::Target;
use std::time::Instant;

fn main() {
    let target = Target::builtin("dojo-tile").unwrap();
    let (mut count, mut close, mut proven, mut slowest) = (0, 0, 0, 0.0f64);
    println!("| model | dies | buffers | bound | peak | over | ms |\n|---|---|---|---|---|---|---|");
    for file in std::env::args().skip(1) {
        let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        let name = std::path::Path::new(&file).parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        for dies in [Some(1), Some(4), None] {
            let step = import_bytes(&bytes, &StablehloOptions::default()).unwrap_or_else(|e| panic!("{e}")).into_step(&[]).unwrap();
            let options = CompileOptions { dies, ..CompileOptions::default() };
            let mut last = Vec::new();
            let pipeline = Pipeline::new(&target, &options).observe(|_, level| {
                if let Level::Scheduled(s) = level {
                    last = problems(s.clone());
                }
            });
            let fits = pipeline.compile(step).is_ok();
            // Dies of one plan differ little; three of them stand for all.
            for problem in last.iter().filter(|_| fits).take(3) {
                let start = Instant::now();
                let found = problem.solve();
                let ms = start.elapsed().as_secs_f64() * 1e3;
                let over = (found.peak as f64 / found.lower_bound.max(1) as f64 - 1.0) * 100.0;
                (count, slowest) = (count + 1, slowest.max(ms));
                close += usize::from(over <= 2.0);
                proven += usize::from(found.peak == found.lower_bound);
                let dies = dies.map_or("all".to_string(), |n| n.to_string());
                let (bound, peak) = (found.lower_bound, found.peak);
                println!("| {name} | {dies} | {} | {bound} | {peak} | {over:.2} % | {ms:.1} |", problem.buffers());
            }
        }
    }
    println!("\n{count} problems: {close} within 2 % of the bound, {proven} at it; the slowest took {slowest:.0} ms");
}
