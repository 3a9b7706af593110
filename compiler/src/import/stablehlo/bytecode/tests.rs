//! Tests of the reader: real files, the same modules in other formats, and damaged files.

use super::read;
use crate::import::stablehlo::module::{Block, Function, Limits, Module, ModuleAttr, ModuleValue};
use std::collections::BTreeMap;
use std::path::PathBuf;

const MLP: &[u8] = include_bytes!("../../../../data/mlp_loss.vhlo.mlirbc");
const LSTM: &[u8] = include_bytes!("../../../../data/lstm_loss.vhlo.mlirbc");

/// Every value is made once, before it is used, in its block or one around it.
fn check_block(f: &Function, block: &Block, defined: &mut Vec<bool>) {
    let define = |v: &ModuleValue, defined: &mut Vec<bool>| {
        assert!(!defined[v.index()], "{v} of {} is made twice", f.name);
        defined[v.index()] = true;
    };
    block.params.iter().for_each(|v| define(v, defined));
    for op in &block.ops {
        assert!(op.operands.iter().all(|v| defined[v.index()]), "{} of {} uses a value before it is made", op.name, f.name);
        op.results.iter().for_each(|v| define(v, defined));
        for region in &op.regions {
            let mut inner = defined.clone();
            check_block(f, region, &mut inner);
        }
    }
    let last = block.ops.last().expect("a block returns");
    assert!(last.name.ends_with(".return"), "{}", last.name);
}

fn check(module: &Module) {
    for f in module.functions.values() {
        assert_eq!(f.params.len(), f.body.params.len());
        assert_eq!(f.results.len(), f.body.ops.last().unwrap().operands.len());
        check_block(f, &f.body, &mut vec![false; f.types.len()]);
    }
}

fn count(block: &Block, into: &mut BTreeMap<String, usize>) {
    for op in &block.ops {
        *into.entry(op.name.clone()).or_default() += 1;
        op.regions.iter().for_each(|r| count(r, into));
    }
}

fn histogram(module: &Module) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    module.functions.values().for_each(|f| count(&f.body, &mut out));
    out
}

fn corpus() -> Option<PathBuf> {
    let roots = ["../../shared/corpus", "../../../shared/corpus"].map(|r| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(r));
    let found = roots.into_iter().find(|r| r.is_dir());
    if found.is_none() {
        println!("skipped: no corpus beside the repository");
    }
    found
}

#[test]
fn reads_a_multilayer_perceptron() {
    let module = read(MLP, &Limits::default()).unwrap();
    check(&module);
    println!("{module:#?}");
}
#[test]
fn zz() {
    let root = corpus().unwrap();
    for group in ["jax", "graphs"] {
        for case in std::fs::read_dir(root.join(group)).unwrap() {
            for name in ["train_step.vhlo.mlirbc", "loss.vhlo.mlirbc", "train_step.jaxexport"] {
                let path = case.as_ref().unwrap().path().join(name);
                let Ok(bytes) = std::fs::read(&path) else { continue };
                match read(&bytes, &Limits::default()) { Ok(module) => {
                check(&module);
                println!("{} {:?}", path.display(), histogram(&module));}
                Err(e) => println!("FAIL {} {e}", path.display()),
                }
            }
        }
    }
}
