//! No damaged model makes the importer panic, and each is refused with the exit code of its class.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::onnx::{self, ImportOptions, limits::ImportLimits, proto::ModelProto};
use girih_ir::literal::Literal;
use girih_ir::types::{DType, TensorType};
use girih_tests::damage::{Random, blind};
use girih_tests::onnx_cases::find_cases;
use girih_tests::onnx_mutants::absurd;
use prost::Message;
use std::collections::BTreeMap;

/// Models to damage: the node tests when they are there, with the integer inputs that they need at compile time.
fn originals() -> Vec<(String, Vec<u8>, ImportOptions)> {
    let Some(dir) = girih_tests::shared("conformance/onnx") else { return Vec::new() };
    let mut out = Vec::new();
    for case in find_cases(&dir).unwrap() {
        let bytes = std::fs::read(case.join("model.onnx")).unwrap();
        let model = onnx::decode(bytes.clone().into(), &ImportLimits::default()).unwrap();
        let mut options = ImportOptions { batch: Some(2), ..Default::default() };
        let names = model.graph.iter().flat_map(|g| g.input.iter().filter_map(|i| i.name.clone()));
        for (k, name) in names.enumerate() {
            if let Ok(value) = girih_tests::onnx_cases::read_tensor(&case.join(format!("test_data_set_0/input_{k}.pb"))) {
                options.values.insert(name, value);
            }
        }
        if bytes.len() < 20_000 {
            out.push((case.display().to_string(), bytes, options));
        }
    }
    out
}

/// Imports `rounds` damaged copies of each model; returns how many ended with each code.
fn run(rounds: u64, damage: fn(&[u8], &ModelProto, &mut Random) -> Vec<u8>) -> BTreeMap<&'static str, usize> {
    let mut codes = BTreeMap::new();
    let mut panics = Vec::new();
    for (name, bytes, options) in originals() {
        let model = ModelProto::decode(&bytes[..]).unwrap();
        for seed in 0..rounds {
            let mutant = damage(&bytes, &model, &mut Random::new(seed));
            let result = std::panic::catch_unwind(|| onnx::import_bytes(mutant, &options));
            let Ok(result) = result else {
                panics.push(format!("{name} with seed {seed}"));
                continue;
            };
            let code = match &result {
                Ok(_) => "ok",
                Err(e) => {
                    assert!(matches!(e.exit_code(), 2..=4), "{name} with seed {seed}: {e}");
                    assert!(!e.to_string().is_empty());
                    e.code()
                }
            };
            *codes.entry(code).or_insert(0) += 1;
        }
    }
    assert!(panics.is_empty(), "{panics:#?}");
    codes
}

fn rounds(default: u64) -> u64 {
    std::env::var("GIRIH_MUTANTS").ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn blind_damage_never_panics() {
    let codes = run(rounds(4), |bytes, _, random| blind(bytes, random));
    assert!(codes.is_empty() || codes["E0101"] > 100, "{codes:?}");
}

#[test]
fn absurd_claims_never_panic() {
    let codes = run(rounds(12), |_, model, random| absurd(model, random));
    assert!(codes.is_empty() || codes.len() >= 6, "{codes:?}");
}

#[test]
fn values_that_do_not_fit_their_input_are_ignored_or_refused() {
    let Some((_, bytes, mut options)) = originals().into_iter().find(|(name, ..)| name.ends_with("test_reshape_reordered_all_dims")) else {
        return;
    };
    let wrong = Literal::new(TensorType::new(DType::F32, [0]), Vec::new()).unwrap();
    options.values.values_mut().for_each(|v| *v = wrong.clone());
    assert!(matches!(onnx::import_bytes(bytes, &options).map_err(|e| e.exit_code()), Err(2..=4)));
}
