//! Power over time: where the energy of every activity goes, package by package.
//!
//! An average over a step hides what the supply sees. The makespan is cut into equal slices, each activity's energy is spread evenly over
//! its time, and the slice of the package that draws most is the peak. What extrapolated iterations take is spread over the whole step.

use super::cost;
use super::engine::{COMPUTE, Outcome};
use girih_ir::program::{Instr, Program};
use girih_ir::target::Coord;
use std::collections::BTreeMap;

/// Slices of a step.
const SLICES: usize = 256;

/// Joules of one instruction, links and host included.
fn joules(program: &Program, die: usize, index: usize) -> f64 {
    let (target, code) = (&program.target, &program.dies[die]);
    let Some(instr) = program.streams.get(code.stream.index()).and_then(|s| s.get(index)) else { return 0.0 };
    let work = cost::cost(instr, program, target);
    let own = work.dtype.map_or(0.0, |d| target.energy_per_flop(d)) * work.flops() as f64
        + work.sram_bytes as f64 * target.energy_per_sram_byte();
    let moved = |r: &girih_ir::program::Region| r.elements() as f64 * r.dtype.size() as f64;
    own + match instr {
        Instr::Send { port, region } => {
            let channel = code.out_ports.get(port.index()).and_then(|c| program.channels.get(c.index()));
            moved(region) * channel.map_or(0, |c| c.route.len()) as f64 * target.energy_per_link_byte()
        }
        Instr::Load { out: region, .. } | Instr::Store { region, .. } => {
            let links = target.nearest_port(code.die).map_or(0, |p| girih_ir::target::route::hops(target.coord(p), target.coord(code.die)));
            moved(region) * (target.energy_per_host_byte() + links as f64 * target.energy_per_link_byte())
        }
        _ => 0.0,
    }
}

/// Peak watts of all dies together, and of the package that draws most. `total` is the energy of the step without idle power.
pub(super) fn peaks(program: &Program, outcome: &Outcome, total: f64) -> (f64, f64) {
    let (target, makespan) = (&program.target, outcome.makespan);
    if makespan <= 0.0 {
        return (0.0, 0.0);
    }
    let mut live: BTreeMap<Coord, usize> = BTreeMap::new();
    for die in target.live_dies() {
        *live.entry(target.package_of(die)).or_default() += 1;
    }
    let mut packages: BTreeMap<Coord, Vec<f64>> = live.keys().map(|p| (*p, vec![0.0; SLICES])).collect();
    let slice = makespan / SLICES as f64;
    let mut known: BTreeMap<(usize, u32), f64> = BTreeMap::new();
    let mut spread = 0.0;
    for (id, act) in outcome.acts.iter().enumerate() {
        if outcome.skips.contains_key(&(id as u32)) {
            continue;
        }
        let die = act.die as usize;
        let stream = program.dies[die].stream.index();
        // Sends know their route, so the die counts for them.
        let key = (if act.track == COMPUTE { stream } else { program.streams.len() + die }, act.index);
        let joules = *known.entry(key).or_insert_with(|| joules(program, die, act.index as usize));
        let Some(slices) = packages.get_mut(&target.package_of(program.dies[die].die)).filter(|_| joules > 0.0) else { continue };
        spread += joules;
        let (start, end) = (act.start.clamp(0.0, makespan), act.end.clamp(0.0, makespan));
        let (first, last) = ((start / slice) as usize, ((end / slice) as usize).min(SLICES - 1));
        let first = first.min(last);
        for (i, s) in slices.iter_mut().enumerate().take(last + 1).skip(first) {
            let part = (end.min((i + 1) as f64 * slice) - start.max(i as f64 * slice)).max(0.0);
            *s += if end > start { joules * part / (end - start) } else { joules };
        }
    }
    let rest = (total - spread).max(0.0) / makespan;
    let dies: usize = live.values().sum();
    let mut all = vec![0.0; SLICES];
    let mut hottest = 0.0f64;
    for (package, slices) in &packages {
        let share = live[package] as f64;
        let steady = target.idle_watts() * share + rest * share / dies.max(1) as f64;
        for (sum, s) in all.iter_mut().zip(slices) {
            let watts = s / slice + steady;
            *sum += watts;
            hottest = hottest.max(watts);
        }
    }
    (all.into_iter().fold(0.0, f64::max), hottest)
}
