//! The finite-field mode of the checker on compiled programs: all of the corpora's small steps pass on every machine, and damage is seen.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::case::Case;
use girih::{CompileOptions, Compiled, Model, ModelOptions, Target};
use girih_ir::check::check;
use girih_ir::check::field::{self, FieldError, FieldOptions};
use girih_ir::check::mutate::mutants;
use std::path::{Path, PathBuf};

const MACHINES: [(&str, &[&str], Option<usize>); 4] = [
    ("host", &[], None),
    ("dojo-tile", &[], Some(25)),
    ("dojo-tile", &["dead=2,2", "dead=4,1"], Some(23)),
    ("dojo-tile", &["dead_link=0,0:E", "dead=1,3"], Some(20)),
];

fn compiled(folder: &Path, (name, changes, dies): (&str, &[&str], Option<usize>)) -> Compiled {
    let case = Case::open(folder).unwrap();
    let model = Model::open(case.model(), &ModelOptions { state: case.carried(), ..ModelOptions::default() }).unwrap();
    let mut target = Target::builtin(name).unwrap();
    changes.iter().for_each(|c| target.set(c).unwrap());
    girih::compile(model.step().unwrap(), &target, &CompileOptions { dies, ..CompileOptions::default() }).unwrap()
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/jax")
}

#[test]
fn compiled_steps_are_equal_to_the_bit() {
    for name in ["mlp_sgd", "mlp_fp16_accum_lossscale", "diffusion_prng_ema"] {
        for machine in MACHINES {
            let program = compiled(&committed().join(name), machine).program;
            let stats = field::check(&program, FieldOptions::default()).unwrap_or_else(|e| panic!("{name} on {machine:?}: {e}"));
            assert!(stats.elements > 100 && stats.points > 1000, "{name} on {machine:?}: {stats:?}");
        }
    }
}

#[test]
fn damage_to_instructions_is_seen_in_what_they_make() {
    // What is waited for, what is claimed and which way messages take does not show in results.
    let work =
        ["shift an offset", "shrink a region", "change a stride", "change a combiner", "drop a recv_add", "change a port", "receive over"];
    let (mut all, mut seen, mut accepted) = (0, 0, 0);
    for machine in [MACHINES[0], ("dojo-tile", &["mesh=2x3", "dead=1,1"], Some(5))] {
        let program = compiled(&committed().join("mlp_sgd"), machine).program.into_inner();
        for m in mutants(&program, 29, 500).into_iter().filter(|m| work.iter().any(|w| m.what.starts_with(w))) {
            let alone = field::check_alone(&m.program, FieldOptions::default());
            let refused = match &alone {
                Err(FieldError::Wrong(report)) if report.findings[0].fault.code() < "E0615" => continue,
                Err(FieldError::Wrong(_)) => true,
                Err(other) => panic!("{}: {other}", m.what),
                Ok(_) => false,
            };
            if check(m.program).is_ok() {
                assert!(!refused, "{}: {alone:?}", m.what);
                accepted += 1;
                continue;
            }
            all += 1;
            seen += usize::from(refused);
            if !refused {
                println!("not seen: {}", m.what);
            }
        }
    }
    println!("{seen} of {all} mutants refused for their results alone, {accepted} equivalent ones accepted");
    assert!(all >= 200 && seen * 100 >= all * 97, "{seen} of {all}");
}

/// The whole corpus; the folders are beside the repository.
#[test]
fn the_corpus_is_equal_to_the_bit() {
    let Some(dir) = girih_tests::shared("corpus/jax") else { return };
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("case.json").is_file()).collect();
    folders.sort();
    let mut passed = 0;
    for folder in &folders {
        for machine in [MACHINES[0], MACHINES[1], MACHINES[2]] {
            let program = compiled(folder, machine).program;
            match field::check(&program, FieldOptions { limit: 60_000_000, ..FieldOptions::default() }) {
                Ok(_) => passed += 1,
                Err(FieldError::TooLarge { points, .. }) => println!("skipped: {} has {points} points", folder.display()),
                Err(e) => panic!("{} on {machine:?}: {e}", folder.display()),
            }
        }
    }
    assert!(passed >= 20, "{passed}");
}
