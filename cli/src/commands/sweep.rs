//! `girih sweep`: the same model planned again and again while something about the machine varies.
//!
//! Every point is compiled by the real planner, checked, and simulated, so that a table of SRAM sizes or link rates shows cliffs where they really
//! are. Points that do not fit are results, not errors.

use super::args::{ModelArgs, PipelineArgs, Purpose, TargetArgs};
use super::output::{Outcome, Output, bytes, table, time};
use clap::Args;
use girih::{CompileOptions, Error, Prepared, SimOptions, Target, simulate_with};
use girih_ir::target::Coord;
use girih_runtime::simulate::Report;
use serde_json::{Value, json};
use std::path::PathBuf;

/// More points than this are refused.
const MAX_POINTS: usize = 1024;

/// Plan and simulate a model while figures of the target vary
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  girih sweep model.onnx --batch 64 --vary sram=400MB,200MB,100MB,50MB\n  \
                        girih sweep step.mlir --vary link=2TB/s,1TB/s,500GB/s --vary dead=0,1,2\n  \
                        girih sweep step.mlir --vary mesh=1x1,2x2,3x3,5x5 --format json")]
pub struct Sweep {
    /// A model (.onnx, .mlir, .mlirbc, .hlo.pb, .gir)
    #[arg(value_name = "MODEL")]
    path: PathBuf,
    /// What varies, and through which values: a figure of the target (`sram=400MB,200MB`), `link` (its bandwidth), `mesh` (`3x3,5x5`) or `dead` (how many
    /// dies); repeated, all combinations
    #[arg(long, value_name = "KEY=V1,V2,…", required = true)]
    vary: Vec<String>,
    /// How often loops run whose end the data decide
    #[arg(long, value_name = "N", default_value_t = SimOptions::default().while_iterations)]
    while_iterations: u64,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// One thing that varies.
struct Axis {
    key: String,
    values: Vec<String>,
}

/// What came of one point.
enum Point {
    Fits { dies: usize, report: Box<Report>, binding: (&'static str, f64) },
    Fails { code: &'static str, fits: bool, why: String },
}

impl Sweep {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let axes: Vec<Axis> = self.vary.iter().map(|text| axis(text)).collect::<Outcome<_>>()?;
        let count = axes.iter().fold(1usize, |n, a| n.saturating_mul(a.values.len()));
        if count > MAX_POINTS {
            let what = format!("{count} combinations are to be planned, and {MAX_POINTS} are the most");
            return Err(Error::Usage { what, help: "vary less at once".into() }.into());
        }
        let base = self.target.open("dojo-tile")?;
        let model = self.model.open(&self.path)?;
        model.notes().iter().for_each(|n| out.progress(&format!("note: {n}")));
        let prepared = self.model.prepare(&model, Purpose::compiled(self.model.loss.is_some()))?;
        let options = self.pipeline.options(&self.target)?;
        let mut rows = Vec::new();
        for n in 0..count {
            let values = choice(&axes, n);
            let target = vary(base.clone(), &values)?;
            let shown: Vec<String> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
            out.progress(&format!("{} of {count}: {}", n + 1, shown.join(" ")));
            rows.push((values, self.point(&prepared, &target, &options)));
        }
        out.result(|| text(&axes, &rows), || document(&base, &rows))
    }

    fn point(&self, prepared: &Prepared, target: &Target, options: &CompileOptions) -> Point {
        let fails = |e: &Error| Point::Fails { code: e.code(), fits: e.exit_code() != 5, why: e.diagnostic().title };
        let compiled = match girih::compile(prepared.clone(), target, options) {
            Ok(compiled) => compiled,
            Err(e) => return fails(&e),
        };
        let options = SimOptions { while_iterations: self.while_iterations, ..SimOptions::default() };
        match simulate_with(&compiled.program, options) {
            Ok(simulation) => {
                let report = Box::new(simulation.report);
                Point::Fits { dies: report.dies.len(), binding: binding(&report), report }
            }
            Err(e) => fails(&Error::from(e)),
        }
    }
}

/// Parses `KEY=V1,V2`.
fn axis(text: &str) -> Outcome<Axis> {
    let usage = |what: String| Error::Usage { what, help: "write --vary KEY=V1,V2, such as `--vary sram=400MB,200MB`".into() };
    let (key, list) = text.split_once('=').ok_or_else(|| usage(format!("`{text}` does not say through which values")))?;
    let values: Vec<String> = list.split(',').map(|v| v.trim().to_string()).filter(|v| !v.is_empty()).collect();
    if values.is_empty() {
        return Err(usage(format!("`{text}` has no values")).into());
    }
    Ok(Axis { key: key.trim().to_string(), values })
}

/// The values of combination `n`; the last axis varies fastest.
fn choice(axes: &[Axis], mut n: usize) -> Vec<(String, String)> {
    let mut values = Vec::with_capacity(axes.len());
    for axis in axes.iter().rev() {
        values.push((axis.key.clone(), axis.values[n % axis.values.len()].clone()));
        n /= axis.values.len();
    }
    values.reverse();
    values
}

/// The target of a point. Shapes come first, for dead dies must be on the mesh.
fn vary(mut target: Target, values: &[(String, String)]) -> Outcome<Target> {
    let mut ordered: Vec<&(String, String)> = values.iter().collect();
    ordered.sort_by_key(|(key, _)| (key == "dead", key != "mesh"));
    for (key, value) in ordered {
        match key.as_str() {
            "dead" => {
                let count: usize = value.parse().map_err(|_| Error::Usage {
                    what: format!("`dead={value}` is no number of dies"),
                    help: "`--vary dead=0,1,2` says how many; --dead names one".into(),
                })?;
                let dies = scattered(&target, count);
                target = target.with_dead(dies)?;
            }
            "link" => target.set(&format!("link.bandwidth={value}"))?,
            _ => target.set(&format!("{key}={value}"))?,
        }
    }
    Ok(target)
}

/// So many live dies, spread over the mesh: the golden ratio never falls into step with rows.
fn scattered(target: &Target, count: usize) -> Vec<Coord> {
    let mut live = target.live_dies();
    let mut taken = Vec::new();
    let mut at = 0.5f64;
    while taken.len() < count && !live.is_empty() {
        let index = ((at * live.len() as f64) as usize).min(live.len() - 1);
        taken.push(target.coord(live.remove(index)));
        at = (at + 0.618_033_988_749_895).fract();
    }
    taken
}

/// What is busiest, and how busy. Below a half nothing binds: time goes by in latencies and dependencies.
fn binding(report: &Report) -> (&'static str, f64) {
    let busiest = |of: fn(&str) -> bool| report.links.iter().filter(|l| of(&l.name)).map(|l| l.busy).fold(0.0, f64::max);
    let engine = report.dies.iter().map(|d| d.busy).fold(0.0, f64::max);
    let uses = [
        ("engine", engine),
        ("links", busiest(|n| n.starts_with('('))),
        ("host", busiest(|n| n.starts_with("host") || n.starts_with("port"))),
    ];
    let most = uses.into_iter().fold(("engine", 0.0), |best, u| if u.1 > best.1 { u } else { best });
    if most.1 < 0.5 { ("latency", most.1) } else { most }
}

fn text(axes: &[Axis], rows: &[(Vec<(String, String)>, Point)]) -> String {
    let mut head: Vec<String> = axes.iter().map(|a| a.key.clone()).collect();
    head.extend(["fits", "dies", "step", "MFU", "SRAM", "energy", "power", "bound by"].map(String::from));
    let line = |(values, point): &(Vec<(String, String)>, Point)| {
        let mut row: Vec<String> = values.iter().map(|(_, v)| v.clone()).collect();
        match point {
            Point::Fits { dies, report, binding } => row.extend([
                "yes".to_string(),
                dies.to_string(),
                time(report.makespan),
                format!("{:.1} %", 100.0 * report.mfu),
                bytes(report.sram_peak),
                format!("{:.3} J", report.energy.total),
                if report.power_fits() { format!("{:.0} W", report.power) } else { format!("{:.0} W!", report.power) },
                format!("{} ({:.0} %)", binding.0, 100.0 * binding.1),
            ]),
            Point::Fails { fits: false, code, .. } => {
                row.extend(["no", "", "", "", "", "", "", &format!("SRAM ({code})")].map(String::from))
            }
            Point::Fails { code, why, .. } => row.extend(["?", "", "", "", "", "", "", &format!("{code}: {why}")].map(String::from)),
        }
        row
    };
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    table(&lines, true)
}

fn document(base: &Target, rows: &[(Vec<(String, String)>, Point)]) -> Value {
    let point = |(values, point): &(Vec<(String, String)>, Point)| {
        let set: serde_json::Map<String, Value> = values.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        match point {
            Point::Fits { dies, report, binding } => json!({
                "set": set, "fits": true, "dies": dies, "step_s": report.makespan, "mfu": report.mfu, "sram_peak": report.sram_peak,
                "energy_j": report.energy.total, "power_w": report.power, "power_fits": report.power_fits(),
                "bound_by": binding.0, "bound_share": binding.1,
            }),
            Point::Fails { fits, code, why } => json!({
                "set": set, "fits": if *fits { Value::Null } else { json!(false) }, "code": code, "why": why,
                "bound_by": if *fits { Value::Null } else { json!("SRAM") },
            }),
        }
    };
    json!({ "target": base.name, "points": rows.iter().map(point).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_vary_the_last_axis_first() {
        let axes = [axis("sram=1MB, 2MB").unwrap_or_else(|_| unreachable!()), axis("dead=0,1,2").unwrap_or_else(|_| unreachable!())];
        let shown = |n| choice(&axes, n).into_iter().map(|(_, v)| v).collect::<Vec<_>>().join(" ");
        assert_eq!((0..6).map(shown).collect::<Vec<_>>(), ["1MB 0", "1MB 1", "1MB 2", "2MB 0", "2MB 1", "2MB 2"]);
        assert!(axis("sram").is_err() && axis("sram=").is_err());
    }

    #[test]
    fn a_point_changes_the_target() {
        let tile = Target::builtin("dojo-tile").unwrap();
        let set = |text: &[(&str, &str)]| vary(tile.clone(), &text.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>());
        let target = set(&[("dead", "2"), ("mesh", "3x4"), ("link", "1TB/s"), ("sram", "100MB")]).unwrap_or_else(|_| unreachable!());
        assert_eq!((target.mesh.sites(), target.live_dies().len()), (12, 10));
        assert_eq!((target.link_bandwidth(), target.sram_bytes()), (1e12, 100_000_000));
        assert!(set(&[("dead", "2,2")]).is_err() && set(&[("sram", "1 s")]).is_err() && set(&[("dead", "25")]).is_err());
        let spread = scattered(&tile, 3);
        assert_eq!(spread.len(), 3);
        assert!(spread[0] != spread[1] && spread[1] != spread[2]);
    }
}
