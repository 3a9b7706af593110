//! Halves the SRAM of a Dojo training tile step by step: `ladder FILE FIRST [LAST]`, a StableHLO training step and sizes such as `442MB`. Every
//! program is checked; where nothing fits, every repair of the report is tried. Prints one row a size.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_compiler::memory::Repair;
use girih_compiler::pipeline::{CompileError, CompileOptions, Microbatches, Pipeline};
use girih_ir::program::{HostUse, Instr, Program};
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use std::time::Instant;

/// What leaves SRAM between its uses, and what goes through the edge in a step, in MiB.
fn streamed(program: &Program) -> (f64, f64) {
    let state = program.host.iter().filter(|h| matches!(h.usage, HostUse::State(_))).map(|h| h.ty.bytes() as u64).sum::<u64>();
    let mut moved = 0;
    for code in &program.dies {
        let mut runs = vec![1u64];
        for instr in &program.streams[code.stream.index()] {
            match instr {
                Instr::Load { out: region, .. } | Instr::Store { region, .. } => moved += region.bytes() * runs[runs.len() - 1],
                Instr::Loop { trips, .. } => runs.push(runs[runs.len() - 1] * trips.unwrap_or(1)),
                Instr::EndLoop => runs.truncate(runs.len() - 1),
                _ => {}
            }
        }
    }
    (state as f64 / 1048576.0, moved as f64 / 1048576.0)
}

/// What compiling with the flags of a repair gives.
fn pasted(step: &TrainStep, target: &Target, repair: &Repair) -> String {
    let (mut target, mut options) = (target.clone(), CompileOptions::default());
    let words: Vec<&str> = repair.flag.split(' ').collect();
    for flag in words.chunks(2) {
        match flag {
            ["--set", value] => target.set(value).unwrap(),
            ["--microbatches", n] => options.microbatches = Microbatches::Exactly(n.parse().unwrap()),
            ["--dies", n] => options.dies = Some(n.parse().unwrap()),
            other => return format!("{other:?} is not tried"),
        }
    }
    match Pipeline::new(&target, &options).compile(step.clone()) {
        Ok((_, report)) if (report.sram_peak, report.estimate) == (repair.peak, repair.picoseconds) => "as stated".into(),
        Ok((_, report)) => format!("ANOTHER PLAN: peak {} bytes, {} ps", report.sram_peak, report.estimate),
        Err(e) => format!("DOES NOT FIT: {e}"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bytes = std::fs::read(&args[0]).unwrap();
    let step = import_bytes(&bytes, &StablehloOptions::default()).unwrap().into_step(&[]).unwrap();
    let size = |text: &str| {
        let mut target = Target::builtin("dojo-tile").unwrap();
        target.set(&format!("sram={text}")).unwrap();
        target
    };
    let (mut sram, last) = (size(&args[1]).sram_bytes(), args.get(2).map_or(1 << 20, |l| size(l).sram_bytes()));
    println!("| SRAM a die | peak | made again | streamed (through the edge a step) | microbatches | estimated step | compile |");
    println!("|---|---|---|---|---|---|---|");
    while sram >= last {
        let target = size(&format!("{sram}B"));
        let options = CompileOptions::default();
        let start = Instant::now();
        let done = Pipeline::new(&target, &options).compile(step.clone());
        let seconds = start.elapsed().as_secs_f64();
        let mib = sram as f64 / 1048576.0;
        match done {
            Ok((program, report)) => {
                let (state, moved) = streamed(&program);
                let (peak, again, parts) = (report.sram_peak as f64 / 1048576.0, report.remat, report.microbatches.max(1));
                let us = report.estimate as f64 * 1e-6;
                println!(
                    "| {mib:.1} MiB | {peak:.1} MiB | {again} | {state:.0} MiB ({moved:.0} MiB) | {parts} | {us:.0} us | {seconds:.1} s |"
                );
                if let Err(e) = girih_ir::check::check(program) {
                    println!("refused: {e}");
                }
                report
                    .passes
                    .iter()
                    .for_each(|p| eprintln!("{:14} {:8.1} ms  {}", p.name, p.seconds * 1e3, p.summary.lines().next().unwrap_or("")));
            }
            Err(CompileError::Fit(report)) => {
                println!("| {mib:.1} MiB | needs {:.1} MiB | | | | | {seconds:.1} s |", report.need as f64 / 1048576.0);
                report.live.iter().for_each(|l| println!("  {:12} {} {}", l.bytes, l.tensor, l.origin));
                for repair in &report.repairs {
                    println!(
                        "  `{}`: peak {:.1} MiB, about {:.0} us a step",
                        repair.flag,
                        repair.peak as f64 / 1048576.0,
                        repair.picoseconds as f64 * 1e-6
                    );
                    println!("  pasted: {}", pasted(&step, &target, repair));
                }
                return;
            }
            Err(e) => panic!("{e}"),
        }
        sram /= 2;
    }
}
