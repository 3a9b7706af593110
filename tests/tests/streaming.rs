//! State in host memory: the same numbers as with all of it in SRAM, whatever the mesh, and less SRAM.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih::{CompileOptions, Compiled, LossSpec, Model, ModelOptions, OptimizerSpec, Prepared, RuntimeOptions, Stream, Target};
use girih_ir::literal::Literal;
use girih_ir::program::{HostUse, Instr};
use girih_ir::step::Weights;
use std::collections::BTreeMap;

const MODEL: &[u8] = include_bytes!("../../cli/data/digits_cnn.onnx");

/// The demo's classifier with AdamW.
fn digits(batch: usize) -> Prepared {
    let mut options = ModelOptions::default();
    options.import.batch = Some(batch);
    let model = Model::from_onnx_bytes(MODEL, &options).unwrap();
    let loss: LossSpec = "softmax_cross_entropy".parse().unwrap();
    let optimizer: OptimizerSpec = "adamw:lr=3e-3,clip_norm=1.0".parse().unwrap();
    model.training(&loss, &optimizer, &[]).unwrap()
}

fn batch(rows: usize, step: u64) -> BTreeMap<String, Literal> {
    let pixel = |i: usize| (((i as u64 * 7919 + step * 104_729) % 17) as f32) / 16.0;
    let images: Vec<f32> = (0..rows * 64).map(pixel).collect();
    let labels: Vec<i64> = (0..rows).map(|i| ((i as u64 * 3 + step) % 10) as i64).collect();
    BTreeMap::from([
        ("x".to_string(), Literal::from_f32(&[rows, 1, 8, 8], &images).unwrap()),
        ("labels".to_string(), Literal::from_i64(&[rows], &labels).unwrap()),
    ])
}

fn compile(prepared: &Prepared, target: &Target, dies: Option<usize>, stream: Stream) -> Compiled {
    let options = CompileOptions { dies, stream, ..CompileOptions::default() };
    girih::compile(prepared.clone(), target, &options).unwrap_or_else(|e| panic!("{} on {dies:?} dies: {e}", target.name))
}

/// Losses of three steps, and the state behind them; the state is read and set again between the steps, as a checkpoint does.
fn train(compiled: &Compiled, rows: usize, threads: usize) -> (Vec<f64>, Weights) {
    let mut session = compiled.session(RuntimeOptions { threads, ..RuntimeOptions::default() }).unwrap();
    let mut losses = Vec::new();
    for i in 0..3 {
        losses.push(session.step(&batch(rows, i)).unwrap().loss().unwrap());
        let state = session.all_state().unwrap();
        session.init(&state).unwrap();
    }
    (losses, session.all_state().unwrap())
}

#[test]
fn streamed_state_trains_to_the_same_bits() {
    let (host, tile) = (Target::builtin("host").unwrap(), Target::builtin("dojo-tile").unwrap());
    let prepared = digits(6);
    for (target, dies) in [(&host, None), (&tile, Some(1)), (&tile, Some(4)), (&tile, Some(12)), (&tile, Some(25))] {
        let resident = compile(&prepared, target, dies, Stream::Off);
        let streamed = compile(&prepared, target, dies, Stream::All);
        let program = &streamed.program;
        let pairs = program.host.iter().filter(|h| matches!(h.usage, HostUse::State(_))).count();
        assert!(pairs * 10 >= program.step.state.len() * 9, "{pairs} of {} are streamed", program.step.state.len());
        let stores = |i: &Instr| matches!(i, Instr::Store { host, .. } if matches!(program.host[host.index()].usage, HostUse::State(_)));
        assert!(program.streams.iter().flatten().any(stores));
        assert!(program.stats().peak_sram < resident.program.stats().peak_sram, "{} on {dies:?} dies", target.name);
        let want = train(&resident, 6, 2);
        for threads in [1, 2] {
            let got = train(&streamed, 6, threads);
            assert_eq!(got.0, want.0, "losses on {dies:?} dies of {}", target.name);
            assert!(got.1 == want.1, "state on {dies:?} dies of {}", target.name);
        }
    }
}
