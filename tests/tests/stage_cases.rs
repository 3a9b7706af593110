//! Every stage from text to text: each case in `cases/pipeline/` goes through all passes, one snapshot a pass. The input of a pass is the
//! snapshot of the pass before it, and reading it back and printing it again changes nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use girih::Target;
use girih::passes::{PassOptions, run};
use girih_compiler::levels::{parse_memory, parse_placed, parse_schedule, parse_sharded};
use girih_compiler::pipeline::PASSES;
use girih_ir::program::parse_program;
use girih_ir::step::parse_step;

/// The text after reading and printing it.
fn reprinted(pass: &str, text: &str) -> String {
    match pass {
        "partition" => parse_sharded(text).unwrap().to_string(),
        "place" => parse_placed(text).unwrap().to_string(),
        "schedule" => parse_schedule(text).unwrap().to_string(),
        "memory" => parse_memory(text).unwrap().to_string(),
        "lower" => parse_program(text).unwrap().to_string(),
        _ => parse_step(text).unwrap().to_string(),
    }
}

#[test]
fn every_stage_of_every_case() {
    let target = Target::builtin("dojo-tile").unwrap();
    insta::glob!("../cases/pipeline", "*.gir", |path| {
        let case = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut text = std::fs::read_to_string(path).unwrap();
        let loss = Some("mse".parse().unwrap());
        let optimizer = Some("sgd:lr=0.1,momentum=0.9".parse().unwrap());
        let options = PassOptions { loss, optimizer, dies: Some(2), ..PassOptions::default() };
        for pass in std::iter::once("autodiff").chain(PASSES.iter().map(|p| p.name)) {
            text = run(pass, &text, &target, &options).unwrap_or_else(|e| panic!("{case}, {pass}: {e}"));
            assert_eq!(reprinted(pass, &text), text, "{case}, {pass}: the text does not round-trip");
            // A level's text holds that of the levels before it; show what this pass added.
            let shown = text.rsplit_once("\n== ").map_or(text.as_str(), |(_, last)| last);
            insta::with_settings!({ snapshot_suffix => format!("{case}-{pass}"), prepend_module_to_snapshot => true, omit_expression => true }, {
                insta::assert_snapshot!(shown);
            });
        }
    });
}
