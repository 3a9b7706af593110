//! Describes a machine in a file: a Dojo training tile with half of the SRAM and a dead die, and what that does to a step.
//!
//! `cargo run -p girih --example target_file`

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, Error, Model, Target, TargetSpec, compile, files, simulate};
use girih_ir::target::Coord;
use std::path::Path;

const GRAPH: &str = r#"
graph @layer(%x: f32[64,256] input "x", %w: f32[256,256] param "w") {
  %y = dot_general %x, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %z = tanh %y
  return %z "y"
}"#;

/// Writes a target file, reads it back, and returns how many dies a step uses and its simulated time.
pub fn compare(path: &Path) -> Result<(usize, f64), Error> {
    // Every figure of a target has a value, a unit, a source and a confidence; an override says that it is yours.
    let mut target = Target::builtin("dojo-tile")?.with_dead([Coord::new(2, 2)])?;
    target.name = "half-tile".into();
    target.set("sram=220MB")?;
    files::write(path, target.to_toml().as_bytes())?;

    let target = TargetSpec::named(path.to_string_lossy()).open()?;
    let model = Model::from_text(GRAPH, Path::new("layer.gir"))?;
    let step = model.training(&"mse".parse()?, &"sgd:lr=0.1".parse()?, &[])?;
    let compiled = compile(step, &target, &CompileOptions { dies: Some(24), ..CompileOptions::default() })?;
    let simulation = simulate(&compiled.program)?;
    Ok((compiled.program.dies.len(), simulation.report.makespan))
}

fn main() -> Result<(), Error> {
    let path = std::env::temp_dir().join(format!("half-tile-{}.toml", std::process::id()));
    let (dies, seconds) = compare(&path)?;
    println!("{}: {dies} dies, {:.2} us a step (simulated)", path.display(), seconds * 1e6);
    Ok(())
}
