//! Runs single passes from text to text: how to look at what a pass does, and how to test one with snapshots.
//!
//! `cargo run -p girih --example one_pass`

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::passes::{self, PassOptions};
use girih::{Error, Target};

const GRAPH: &str = r#"
graph @layer(%x: f32[16,8] input "x", %w: f32[8,8] param "w") {
  %y = dot_general %x, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %z = tanh %y
  %s = mul %z, %z
  return %s "y"
}"#;

/// The text after each pass, with its name, from the forward graph to the program.
pub fn levels() -> Result<Vec<(&'static str, String)>, Error> {
    let target = Target::builtin("dojo-tile")?;
    let options =
        PassOptions { loss: Some("mse".parse()?), optimizer: Some("sgd:lr=0.1".parse()?), dies: Some(4), ..PassOptions::default() };
    let mut levels: Vec<(&'static str, String)> = Vec::new();
    for name in passes::names() {
        let text = levels.last().map_or(GRAPH, |l| l.1.as_str());
        levels.push((name, passes::run(name, text, &target, &options)?));
    }
    Ok(levels)
}

fn main() -> Result<(), Error> {
    for (name, text) in levels()? {
        println!("; after {name}\n{text}");
    }
    Ok(())
}
