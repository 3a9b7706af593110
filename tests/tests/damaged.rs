//! Two hundred damaged files: each is refused with the exit code of its class and a message, and none makes anything panic.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, Compiled, Model, ModelOptions, Target};
use girih_compiler::import::onnx::proto::ModelProto;
use girih_tests::damage::{Random, Tally, blind};
use girih_tests::onnx_mutants::absurd;
use prost::Message;
use std::path::Path;

const MODEL: &[u8] = include_bytes!("../../cli/data/digits_cnn.onnx");

fn options() -> ModelOptions {
    let mut options = ModelOptions::default();
    options.import.batch = Some(2);
    options
}

#[test]
fn damaged_models_are_refused() {
    let model = ModelProto::decode(MODEL).unwrap();
    let mut tally = Tally::default();
    let open = |bytes: &[u8]| Model::from_onnx_bytes(bytes, &options()).map(drop);
    for i in 0..40 {
        let end = MODEL.len() * i / 40;
        tally.see(&format!("cut at {i}/40"), open(&MODEL[..end]));
    }
    for seed in 0..40 {
        tally.see(&format!("blind damage {seed}"), open(&blind(MODEL, &mut Random::new(seed))));
        tally.see(&format!("absurd claim {seed}"), open(&absurd(&model, &mut Random::new(seed))));
    }
    assert_eq!(tally.files, 120);
    insta::assert_snapshot!("damaged_models", tally.text());
}

#[test]
fn damaged_programs_are_refused() {
    let model = Model::from_onnx_bytes(MODEL, &options()).unwrap();
    let target = Target::builtin("dojo-tile").unwrap();
    let compile = CompileOptions { dies: Some(4), ..CompileOptions::default() };
    let bytes = girih::compile(model.inference(), &target, &compile).unwrap().to_bytes().unwrap();
    let mut tally = Tally::default();
    let open = |bytes: &[u8]| Compiled::from_bytes(bytes, Path::new("damaged.girih")).map(drop);
    tally.see("whole", open(&bytes));
    for i in 0..30 {
        tally.see(&format!("cut at {i}/30"), open(&bytes[..bytes.len() * i / 30]));
    }
    for i in 0..60usize {
        let mut damaged = bytes.clone();
        let at = (i * 48_271 + 7) % if i < 20 { 256 } else { bytes.len() };
        damaged[at] ^= 1 << (i % 8);
        tally.see(&format!("bit {} of byte {at} flipped", i % 8), open(&damaged));
    }
    assert_eq!(tally.files, 91);
    insta::assert_snapshot!("damaged_programs", tally.text());
}

#[test]
fn paths_out_of_the_folder_are_refused() {
    use girih_compiler::import::onnx::proto::StringStringEntry;
    let dir = tempfile::tempdir().unwrap();
    let mut model = ModelProto::decode(MODEL).unwrap();
    for location in ["../secret", "/etc/passwd", "a/../../b", "missing.bin", "nul\0byte"] {
        let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
        tensor.raw_data = None;
        tensor.data_location = Some(1);
        tensor.external_data = vec![StringStringEntry { key: Some("location".into()), value: Some(location.into()) }];
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        let error = Model::open(&path, &options()).map(drop).expect_err("must be refused");
        assert!(matches!(error.exit_code(), 3 | 6), "{location}: {error}");
    }
}
