//! How fast the simulator is: `simulation_speed STEP.girih [ROUNDS]` prints the events of a step and how many are done in a second.

use girih_ir::program::codec;
use girih_runtime::simulate::simulate;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("give a .girih file")?;
    let rounds: usize = args.next().map_or(Ok(3), |n| n.parse())?;
    let program = codec::read(&std::fs::read(&path)?)?.program;
    for _ in 0..rounds {
        let start = Instant::now();
        let report = simulate(&program)?.report;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{} events in {seconds:.3} s: {:.1} M/s, makespan {:.6} s",
            report.events,
            report.events as f64 / seconds / 1e6,
            report.makespan
        );
    }
    Ok(())
}
