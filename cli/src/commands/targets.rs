//! `girih targets`: the machines that girih knows, and a check for new ones.

use super::output::{Outcome, Output, bytes, metric, table};
use clap::{Args, Subcommand};
use girih::{Target, TargetSpec};
use girih_ir::types::DType;
use serde_json::{Value, json};

/// List, show and check targets
#[derive(Args, Debug)]
pub struct Targets {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show every figure of a target with its source
    Show {
        /// A built-in name or a TOML file
        target: String,
        /// Print the TOML file, to start one of your own from
        #[arg(long)]
        toml: bool,
        /// Override a figure, such as `sram=200MiB`; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Check a target file
    Check {
        /// A TOML file
        file: String,
    },
}

impl Targets {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        match self.action {
            None => list(out),
            Some(Action::Show { target, toml: true, set }) if set.is_empty() && Target::builtin_text(&target).is_some() => {
                out.text(Target::builtin_text(&target).unwrap_or_default())
            }
            Some(Action::Show { target, toml, set }) => {
                let target = TargetSpec { set, ..TargetSpec::named(target) }.open()?;
                if toml {
                    return out.text(&target.to_toml());
                }
                out.result(|| target.to_string(), || describe(&target))
            }
            Some(Action::Check { file }) => {
                let spec = if file.contains('/') || file.ends_with(".toml") { file.clone() } else { format!("./{file}") };
                let target = TargetSpec::named(spec).open()?;
                let shape = &target.mesh.shape;
                let text = || format!("{file}: target `{}` is sound: {}×{} dies", target.name, shape.rows, shape.cols);
                out.result(text, || json!({ "file": file, "sound": true, "target": describe(&target) }))
            }
        }
    }
}

fn list(out: &Output) -> Outcome {
    let targets: Vec<Target> = Target::builtin_names().into_iter().map(Target::builtin).collect::<Result<_, _>>()?;
    let row = |t: &Target| {
        let shape = &t.mesh.shape;
        vec![
            t.name.clone(),
            format!("{}×{}", shape.rows, shape.cols),
            bytes(t.sram_bytes()),
            metric(t.peak_flops(DType::F32), "FLOP/s"),
            metric(t.peak_flops(DType::BF16), "FLOP/s"),
            t.description.clone(),
        ]
    };
    let head = ["target", "dies", "SRAM a die", "f32 a die", "bf16 a die", "what it is"].map(String::from).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(targets.iter().map(row)).collect();
    out.result(|| table(&rows, true), || json!({ "targets": targets.iter().map(brief).collect::<Vec<_>>() }))
}

/// The facts of one line of the list.
fn brief(t: &Target) -> Value {
    json!({
        "name": t.name,
        "description": t.description,
        "rows": t.mesh.shape.rows,
        "cols": t.mesh.shape.cols,
        "live_dies": t.live_dies().len(),
        "sram_bytes_per_die": t.sram_bytes(),
        "f32_flops_per_die": t.peak_flops(DType::F32),
        "bf16_flops_per_die": t.peak_flops(DType::BF16),
    })
}

/// Every figure.
pub fn describe(t: &Target) -> Value {
    let figures: Vec<Value> = t
        .figures()
        .into_iter()
        .map(|(path, f)| json!({ "path": path, "text": f.to_string(), "si": f.si(), "confidence": f.confidence().to_string(), "source": f.source() }))
        .collect();
    let mut all = brief(t);
    all["figures"] = Value::Array(figures);
    all["formats"] = json!(t.formats);
    all["multicast"] = json!(t.multicast());
    all["host_ports"] = json!(t.host_ports().len());
    all["dead_dies"] = json!(t.mesh.dead_dies.iter().map(ToString::to_string).collect::<Vec<_>>());
    all["dead_links"] = json!(t.mesh.dead_links.iter().map(ToString::to_string).collect::<Vec<_>>());
    all["digest"] = json!(t.digest());
    all
}
