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

/// Operations that an export neither folds nor expands, with all that is known of them.
const KEPT: &[&str] = &[
    "stablehlo.case",
    "stablehlo.concatenate",
    "stablehlo.convolution",
    "stablehlo.dot_general",
    "stablehlo.dynamic_slice",
    "stablehlo.dynamic_update_slice",
    "stablehlo.gather",
    "stablehlo.pad",
    "stablehlo.reduce_window",
    "stablehlo.reverse",
    "stablehlo.scatter",
    "stablehlo.select_and_scatter",
    "stablehlo.slice",
    "stablehlo.transpose",
    "stablehlo.while",
];

/// How often each of these operations stands in a module, by its types and attributes.
fn describe(module: &Module) -> BTreeMap<String, usize> {
    fn block(f: &Function, b: &Block, out: &mut BTreeMap<String, usize>) {
        for op in &b.ops {
            if KEPT.contains(&op.name.as_str()) {
                let types: Vec<String> = op.operands.iter().chain(&op.results).map(|v| f.ty(*v).to_string()).collect();
                let mut attrs: Vec<String> = op.attrs.iter().map(|(k, v)| format!("{k} = {}", sorted(v))).collect();
                attrs.sort();
                *out.entry(format!("{} {} {}", op.name, types.join(", "), attrs.join(", "))).or_default() += 1;
            }
            op.regions.iter().for_each(|r| block(f, r, out));
        }
    }
    let mut out = BTreeMap::new();
    module.functions.values().for_each(|f| block(f, &f.body, &mut out));
    out
}

/// An attribute as text that does not depend on the order of fields.
fn sorted(attr: &ModuleAttr) -> String {
    let ModuleAttr::Fields(fields) = attr else { return format!("{attr:?}") };
    let all: BTreeMap<&String, String> = fields.iter().map(|(k, v)| (k, sorted(v))).collect();
    format!("{all:?}")
}

#[test]
fn reads_a_multilayer_perceptron() {
    let module = read(MLP, &Limits::default()).unwrap();
    check(&module);
    let main = &module.functions["main"];
    assert_eq!(main.results.len(), 1);
    assert_eq!(main.results[0].ty.to_string(), "tensor<f32>");
    assert_eq!(module.attrs["mhlo.num_partitions"], ModuleAttr::Int(1));
    assert_eq!(module.name, "jit_loss_fn");
    let h = histogram(&module);
    assert_eq!((h["stablehlo.dot_general"], h["func.call"], h["stablehlo.reduce"]), (3, 4, 4));
    let dot = main.body.ops.iter().find(|o| o.name == "stablehlo.dot_general").unwrap();
    let ModuleAttr::Fields(numbers) = &dot.attrs["dot_dimension_numbers"] else { panic!("{dot:?}") };
    assert_eq!(numbers["lhs_contracting_dimensions"], ModuleAttr::Ints(vec![1]));
    assert_eq!(dot.attrs["precision_config"], ModuleAttr::List(vec![ModuleAttr::Word("DEFAULT".into()); 2]));
    assert!(module.place(dot.place).contains(".py:"), "{:?}", module.place(dot.place));
}

#[test]
fn reads_a_loop() {
    let module = read(LSTM, &Limits::default()).unwrap();
    check(&module);
    let looping = module.functions.values().flat_map(|f| &f.body.ops).find(|o| o.name == "stablehlo.while").unwrap();
    assert_eq!(looping.regions.len(), 2);
    assert!(looping.operands.len() > 3 && looping.operands.len() == looping.results.len());
    assert_eq!(looping.regions[1].params.len(), looping.operands.len());
}

#[test]
fn a_payload_inside_another_file_is_found() {
    let mut file = b"some header....".to_vec();
    file.extend(u32::try_from(MLP.len()).unwrap().to_le_bytes());
    file.extend(MLP);
    file.extend(b"what follows");
    assert_eq!(read(&file, &Limits::default()).unwrap(), read(MLP, &Limits::default()).unwrap());
    // Without a length before it the sections tell where it ends.
    let mut file = b"a header without a length\0".to_vec();
    file.extend(MLP);
    file.extend([0u8; 64]);
    assert_eq!(read(&file, &Limits::default()).unwrap().functions.len(), 5);
}

#[test]
fn every_file_of_the_corpus_agrees_with_its_text() {
    let Some(root) = corpus() else { return };
    let names =
        [("train_step.vhlo.mlirbc", "train_step.mlir"), ("loss.vhlo.mlirbc", "loss.mlir"), ("train_step.jaxexport", "train_step.mlir")];
    let (mut files, mut compared) = (0, 0);
    for case in ["jax", "graphs"].iter().flat_map(|group| std::fs::read_dir(root.join(group)).unwrap()) {
        let case = case.unwrap().path();
        for (name, twin) in names {
            let Ok(bytes) = std::fs::read(case.join(name)) else { continue };
            let module = read(&bytes, &Limits::default()).unwrap_or_else(|e| panic!("{}: {e}", case.join(name).display()));
            check(&module);
            files += 1;
            let text = crate::import::stablehlo::text::read(&std::fs::read(case.join(twin)).unwrap(), &Limits::default()).unwrap();
            let (main, want) = (&module.functions["main"], &text.functions["main"]);
            let donated = |f: &Function| f.params.iter().map(|p| p.attrs.get("tf.aliasing_output").cloned()).collect::<Vec<_>>();
            assert_eq!(donated(main), donated(want), "{}", case.display());
            let types = |f: &Function| [&f.params, &f.results].map(|s| s.iter().map(|s| s.ty.clone()).collect::<Vec<_>>());
            assert_eq!(types(main), types(want), "{}", case.display());
            if !histogram(&text).keys().any(|k| k.starts_with("chlo.")) {
                let (got, want) = (describe(&module), describe(&text));
                let differ: Vec<_> = got
                    .iter()
                    .filter(|(k, n)| want.get(*k) != Some(n))
                    .chain(want.iter().filter(|(k, n)| got.get(*k) != Some(n)))
                    .collect();
                assert!(differ.is_empty(), "{}: {differ:#?}", case.join(name).display());
                compared += 1;
            }
        }
    }
    assert!(files >= 30 && compared >= 10, "{files} {compared}");
}

#[test]
fn refuses_other_bytecode_and_what_is_too_large() {
    let code = |bytes: &[u8], limits: &Limits| read(bytes, limits).map(|_| ()).map_err(|e| e.code);
    let limits = Limits::default();
    assert_eq!(code(b"", &limits), Err("E0150"));
    assert_eq!(code(&MLP[..MLP.len() / 2], &limits), Err("E0150"));
    assert_eq!(code(MLP, &Limits { operations: 20, ..limits }), Err("E0151"));
    assert_eq!(code(MLP, &Limits { elements: 100, ..limits }), Err("E0151"));
    assert_eq!(code(MLP, &Limits { file_bytes: 100, ..limits }), Err("E0151"));
    let patched = |from: &[u8], to: &[u8]| {
        let at = MLP.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = MLP.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    assert_eq!(code(&patched(b"ML\xefR\x0d", b"ML\xefR\x7f"), &limits), Err("E0152"));
    assert_eq!(code(&patched(b"\0reduce_v1\0", b"\0reduce_v7\0"), &limits), Err("E0153"));
    assert_eq!(code(&patched(b"\0vhlo\0", b"\0else\0"), &limits), Err("E0154"));
}

/// A generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

#[test]
fn damaged_files_are_refused_or_read_but_never_crash() {
    let limits = Limits { operations: 20_000, ..Limits::default() };
    let mut numbers = Numbers(7);
    let mut refused = 0;
    for file in [MLP, LSTM] {
        for _ in 0..1500 {
            let mut bytes = file.to_vec();
            match numbers.below(5) {
                0 => bytes.truncate(numbers.below(file.len())),
                1 => {
                    let at = numbers.below(file.len());
                    bytes.drain(at..(at + 1 + numbers.below(40)).min(file.len()));
                }
                _ => {
                    for _ in 0..=numbers.below(4) {
                        let at = numbers.below(bytes.len());
                        bytes[at] = [0, 1, 0x7f, 0x80, 0xff, numbers.below(256) as u8][numbers.below(6)];
                    }
                }
            }
            match read(&bytes, &limits) {
                Ok(module) => check(&module),
                Err(e) => {
                    assert!(("E0150"..="E0155").contains(&e.code), "{e}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}
