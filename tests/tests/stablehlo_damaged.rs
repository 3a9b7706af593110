//! Damaged StableHLO files in each of the three forms: each is refused with the exit code of its class and a message, or it is a graph
//! that verifies; none makes anything panic.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::error::ImportError;
use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_ir::verify::verify;
use girih_tests::damage::{Random, Tally, blind};
use girih_tests::stablehlo_mutants::text_damage;

const TEXTS: [&str; 3] = [
    include_str!("../data/jax/mlp_sgd/loss.mlir"),
    include_str!("../data/jax/mlp_fp16_accum_lossscale/train_step.mlir"),
    include_str!("../data/stablehlo/checks/reductions.mlir"),
];
const BYTECODES: [&[u8]; 3] = [
    include_bytes!("../data/jax/mlp_sgd/loss.vhlo.mlirbc"),
    include_bytes!("../data/jax/mlp_fp16_accum_lossscale/train_step.vhlo.mlirbc"),
    include_bytes!("../data/jax/mlp_sgd/train_step.jaxexport"),
];
const PROTOS: [&[u8]; 2] =
    [include_bytes!("../data/jax/mlp_sgd/loss.hlo.pb"), include_bytes!("../data/jax/mlp_fp16_accum_lossscale/train_step.hlo.pb")];

/// Imports a file; what is accepted must be sound.
fn open(bytes: &[u8]) -> Result<(), ImportError> {
    let imported = import_bytes(bytes, &StablehloOptions::default())?;
    verify(&imported.graph).unwrap();
    Ok(())
}

fn cuts_and_blind_damage(originals: &[&[u8]], seeds: u64) -> Tally {
    let mut tally = Tally::default();
    for (k, original) in originals.iter().enumerate() {
        for i in 0..10 {
            tally.see(&format!("file {k} cut at {i}/10"), open(&original[..original.len() * i / 10]));
        }
        for seed in 0..seeds {
            tally.see(&format!("file {k}, damage {seed}"), open(&blind(original, &mut Random::new(seed))));
        }
    }
    tally
}

#[test]
fn damaged_texts_are_refused() {
    let mut tally = Tally::default();
    for (k, original) in TEXTS.iter().enumerate() {
        // A file of several chunks is damaged chunk by chunk.
        let part = original.split("// -----").nth(k).unwrap_or(original);
        for i in 0..10 {
            let end = (0..=part.len() * i / 10).rev().find(|e| part.is_char_boundary(*e)).unwrap();
            tally.see(&format!("text {k} cut at {i}/10"), open(&part.as_bytes()[..end]));
        }
        for seed in 0..60 {
            tally.see(&format!("text {k}, damage {seed}"), open(text_damage(part, &mut Random::new(seed)).as_bytes()));
            tally.see(&format!("text {k}, bytes {seed}"), open(&blind(part.as_bytes(), &mut Random::new(seed))));
        }
    }
    assert_eq!(tally.files, 390);
    insta::assert_snapshot!("damaged_texts", tally.text());
}

#[test]
fn damaged_bytecode_is_refused() {
    let tally = cuts_and_blind_damage(&BYTECODES, 60);
    assert_eq!(tally.files, 210);
    insta::assert_snapshot!("damaged_bytecode", tally.text());
}

#[test]
fn damaged_protobufs_are_refused() {
    let tally = cuts_and_blind_damage(&PROTOS, 60);
    assert_eq!(tally.files, 140);
    insta::assert_snapshot!("damaged_protobufs", tally.text());
}
