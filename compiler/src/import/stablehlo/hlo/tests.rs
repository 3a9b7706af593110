//! Tests of the reader: real files, damaged files, and small modules built by hand.

use super::proto::{
    AliasConfig, AliasEntry, FrontendAttributes, HloComputationProto, HloInstructionProto, HloModuleProto, HloProto, LayoutProto,
    LiteralProto, ShapeProto,
};
use super::read;
use crate::import::stablehlo::module::{Block, Function, Limits, Module, ModuleAttr, ModuleValue};
use prost::Message;
use std::collections::BTreeMap;
use std::path::PathBuf;

const MLP: &[u8] = include_bytes!("../../../../data/mlp_loss.hlo.pb");
const LSTM: &[u8] = include_bytes!("../../../../data/lstm_loss.hlo.pb");

/// Every value is made once, before it is used, in its block or one around it.
fn check_block(f: &Function, block: &Block, defined: &mut Vec<bool>) {
    let define = |v: &ModuleValue, defined: &mut Vec<bool>| {
        assert!(!defined[v.index()], "{v} of {} is made twice", f.name);
        defined[v.index()] = true;
    };
    block.params.iter().for_each(|v| define(v, defined));
    for op in &block.ops {
        assert!(op.operands.iter().all(|v| defined[v.index()]), "{} of {} uses a value before it is made", op.name, f.name);
        for region in &op.regions {
            let mut inner = defined.clone();
            check_block(f, region, &mut inner);
        }
        op.results.iter().for_each(|v| define(v, defined));
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

#[test]
fn reads_a_multilayer_perceptron() {
    let module = read(MLP, &Limits::default()).unwrap();
    check(&module);
    let main = &module.functions["main"];
    assert_eq!(main.results.len(), 1);
    assert_eq!(main.results[0].ty.to_string(), "tensor<f32>");
    let h = histogram(&module);
    assert_eq!(h["stablehlo.dot_general"], 3);
    assert!(module.functions.contains_key("relu") && module.functions.contains_key("log_softmax"), "{:?}", module.functions.keys());
    assert!(!h.contains_key("stablehlo.tuple"), "{h:?}");
    let dot = main.body.ops.iter().find(|o| o.name == "stablehlo.dot_general").unwrap();
    let ModuleAttr::Fields(numbers) = &dot.attrs["dot_dimension_numbers"] else { panic!("{dot:?}") };
    assert_eq!(numbers["lhs_contracting_dimensions"], ModuleAttr::Ints(vec![1]));
    assert!(module.place(dot.place).contains(".py:"), "{:?}", module.place(dot.place));
}

#[test]
fn a_loop_has_one_value_for_each_part_of_its_state() {
    let module = read(LSTM, &Limits::default()).unwrap();
    check(&module);
    let h = histogram(&module);
    assert!(!h.contains_key("stablehlo.get_tuple_element") && !h.contains_key("stablehlo.tuple"), "{h:?}");
    let looping = module.functions.values().flat_map(|f| &f.body.ops).find(|o| o.name == "stablehlo.while").unwrap();
    assert!(looping.operands.len() > 3);
    assert_eq!(looping.operands.len(), looping.results.len());
    assert_eq!(looping.regions.len(), 2);
    for (region, returned) in looping.regions.iter().zip([1, looping.operands.len()]) {
        assert_eq!(region.params.len(), looping.operands.len());
        assert_eq!(region.ops.last().unwrap().operands.len(), returned);
    }
}

#[test]
fn reads_every_file_of_the_corpus() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let root = if root.is_dir() { root } else { PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus") };
    if !root.is_dir() {
        println!("skipped: no corpus at {}", root.display());
        return;
    }
    let mut files = 0;
    for group in ["jax", "graphs"] {
        for case in std::fs::read_dir(root.join(group)).unwrap() {
            for name in ["train_step.hlo.pb", "loss.hlo.pb"] {
                let path = case.as_ref().unwrap().path().join(name);
                let Ok(bytes) = std::fs::read(&path) else { continue };
                let module = read(&bytes, &Limits::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                check(&module);
                let h = histogram(&module);
                assert!(h.keys().all(|k| !k.contains('-')), "{h:?}");
                assert!(module.functions["main"].params.len() > 1);
                if name == "train_step.hlo.pb" {
                    let donated = module.functions["main"].params.iter().filter(|p| p.attrs.contains_key("tf.aliasing_output")).count();
                    assert!(donated > 0, "{}", path.display());
                }
                files += 1;
            }
        }
    }
    assert!(files >= 30, "{files}");
}

fn tensor(element_type: i32, dimensions: &[i64]) -> ShapeProto {
    ShapeProto { element_type, dimensions: dimensions.to_vec(), ..Default::default() }
}

fn tuple(parts: &[ShapeProto]) -> ShapeProto {
    ShapeProto { element_type: 13, tuple_shapes: parts.to_vec(), ..Default::default() }
}

fn instruction(id: i64, opcode: &str, shape: ShapeProto, operands: &[i64]) -> HloInstructionProto {
    let name = format!("{opcode}.{id}");
    HloInstructionProto { id, name, opcode: opcode.to_owned(), shape: Some(shape), operand_ids: operands.to_vec(), ..Default::default() }
}

fn parameter(id: i64, number: i64, shape: ShapeProto) -> HloInstructionProto {
    HloInstructionProto { parameter_number: number, ..instruction(id, "parameter", shape, &[]) }
}

fn computation(id: i64, instructions: Vec<HloInstructionProto>) -> HloComputationProto {
    let root_id = instructions.last().map_or(0, |i| i.id);
    HloComputationProto { id, name: format!("c.{id}"), instructions, root_id, ..Default::default() }
}

fn module(computations: Vec<HloComputationProto>) -> HloModuleProto {
    let entry_computation_id = computations.last().map_or(0, |c| c.id);
    HloModuleProto { name: "m".into(), computations, entry_computation_id, ..Default::default() }
}

#[test]
fn nested_tuples_vanish_and_donation_counts_their_leaves() {
    let f = || tensor(11, &[2]);
    let inner = || tuple(&[f(), f()]);
    let outer = || tuple(&[f(), inner()]);
    let mut take = instruction(3, "get-tuple-element", inner(), &[2]);
    take.tuple_index = 1;
    let mut main = module(vec![computation(
        9,
        vec![
            parameter(1, 0, inner()),
            parameter(7, 1, f()),
            instruction(2, "tuple", outer(), &[7, 1]),
            take,
            instruction(4, "tuple", outer(), &[7, 3]),
        ],
    )]);
    let entry = AliasEntry { output_shape_index: vec![1, 1], parameter_number: 0, parameter_shape_index: vec![1] };
    main.input_output_alias = Some(AliasConfig { entries: vec![entry] });
    let wrapped = HloProto { hlo_module: Some(main.clone()) };
    for bytes in [main.encode_to_vec(), wrapped.encode_to_vec()] {
        let module = read(&bytes, &Limits::default()).unwrap();
        check(&module);
        let main = &module.functions["main"];
        assert_eq!(main.params.len(), 3);
        let [only] = &main.body.ops[..] else { panic!("{main:?}") };
        assert_eq!(only.operands, [main.body.params[2], main.body.params[0], main.body.params[1]]);
        assert_eq!(main.params[1].attrs["tf.aliasing_output"], ModuleAttr::Int(2));
    }
}

#[test]
fn branches_use_the_values_around_them() {
    let f = || tensor(11, &[]);
    let branch = |id: i64, op: &str| computation(id, vec![parameter(id * 10, 0, f()), instruction(id * 10 + 1, op, f(), &[id * 10])]);
    let mut choose = instruction(3, "conditional", f(), &[1, 2, 2]);
    choose.called_computation_ids = vec![5, 6];
    let main = module(vec![
        branch(5, "negate"),
        branch(6, "abs"),
        computation(9, vec![parameter(1, 0, tensor(1, &[])), parameter(2, 1, f()), choose]),
    ]);
    let module = read(&main.encode_to_vec(), &Limits::default()).unwrap();
    check(&module);
    let op = &module.functions["main"].body.ops[0];
    assert_eq!((op.name.as_str(), op.operands.len(), op.regions.len()), ("stablehlo.if", 1, 2));
    assert!(op.regions.iter().all(|r| r.params.is_empty()));
    assert_eq!(op.regions[0].ops[0].name, "stablehlo.negate");
    assert_eq!(op.regions[1].ops[0].operands, [module.functions["main"].body.params[1]]);
}

#[test]
fn a_constant_in_another_layout_is_brought_into_row_major_order() {
    let mut shape = tensor(4, &[2, 3]);
    shape.layout = Some(Box::new(LayoutProto { minor_to_major: vec![0, 1] }));
    let mut constant = instruction(1, "constant", tensor(4, &[2, 3]), &[]);
    constant.literal = Some(Box::new(LiteralProto { shape: Some(shape), s32s: vec![1, 4, 2, 5, 3, 6], ..Default::default() }));
    let module = read(&module(vec![computation(9, vec![constant])]).encode_to_vec(), &Limits::default()).unwrap();
    let ModuleAttr::Dense(dense) = &module.functions["main"].body.ops[0].attrs["value"] else { panic!() };
    let values: Vec<i32> = dense.bytes.chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(values, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_total_order_is_kept_and_a_missing_kind_follows_from_the_type() {
    for (code, kind, order, want) in [
        (11, "", "", "FLOAT"),
        (4, "", "PARTIAL", "SIGNED"),
        (8, "", "", "UNSIGNED"),
        (11, "TOTALORDER", "", "TOTALORDER"),
        (11, "", "TOTAL", "TOTALORDER"),
    ] {
        let mut compare = instruction(2, "compare", tensor(1, &[]), &[1, 1]);
        compare.comparison_direction = "LT".into();
        compare.comparison_type = kind.into();
        compare.comparison_order = bytes::Bytes::from(order);
        let module =
            read(&module(vec![computation(9, vec![parameter(1, 0, tensor(code, &[])), compare])]).encode_to_vec(), &Limits::default());
        let op = module.unwrap().functions["main"].body.ops[0].clone();
        assert_eq!(op.attrs["compare_type"], ModuleAttr::Word(want.into()));
    }
}

#[test]
fn shardings_are_read_from_the_attributes_of_the_front_end() {
    use crate::import::stablehlo::convert::PinAt;
    let front = |key: &str, text: &str| FrontendAttributes { map: BTreeMap::from([(key.to_owned(), text.to_owned())]) };
    let shape = || tensor(11, &[8, 4]);
    let sharded = |dims: &str| front("xla.sdy.sharding", &format!("#sdy.sharding_per_value<[<@mesh, {dims}>]>"));
    let mut x = parameter(1, 0, shape());
    x.frontend_attributes = Some(Box::new(front("xla.sdy.sharding", "#sdy.sharding<@mesh, [{\"a\"}, {\"b\"}]>")));
    let tanh = instruction(2, "tanh", shape(), &[1]);
    let mut lies = instruction(3, "custom-call", shape(), &[2]);
    lies.custom_call_target = "Sharding".to_owned();
    lies.frontend_attributes = Some(Box::new(sharded("[{}, {\"a\"}]")));
    let mut odd = instruction(4, "custom-call", shape(), &[3]);
    odd.custom_call_target = "xla.sdy.FuncResultSharding".to_owned();
    odd.frontend_attributes = Some(Box::new(front("xla.sdy.sharding", "#sdy.sharding<")));
    let mut proto = module(vec![computation(9, vec![x, tanh, lies, odd])]);
    proto.frontend_attributes = Some(front("xla.sdy.meshes", "{mesh = #sdy.mesh<[\"a\"=2, \"b\"=3]>}"));
    let module = read(&proto.encode_to_vec(), &Limits::default()).unwrap();
    check(&module);
    assert_eq!(module.meshes["mesh"], [("a".to_owned(), 2), ("b".to_owned(), 3)]);
    let imported = crate::import::stablehlo::convert::convert(&module, "main", &Default::default()).unwrap();
    let [first, second] = imported.pins.as_slice() else { panic!("{:?}", imported.pins) };
    assert_eq!((first.at, first.dims.as_slice()), (PinAt::Input(0), [vec!["a".to_owned()], vec!["b".to_owned()]].as_slice()));
    assert!(matches!(second.at, PinAt::Value(_)) && second.dims == [vec![], vec!["a".to_owned()]], "{second:?}");
}

#[test]
fn refuses_compiled_modules_and_broken_ones() {
    let f = || tensor(11, &[]);
    let code = |m: HloModuleProto| read(&m.encode_to_vec(), &Limits::default()).map_err(|e| e.code);
    assert_eq!(code(module(vec![computation(9, vec![parameter(1, 0, f()), instruction(2, "fusion", f(), &[1])])])), Err("E0159"));
    // An operand that is not there, a parameter number that is missing, a computation that calls itself as a combiner.
    assert_eq!(code(module(vec![computation(9, vec![instruction(2, "abs", f(), &[1])])])), Err("E0158"));
    assert_eq!(code(module(vec![computation(9, vec![parameter(1, 1, f())])])), Err("E0158"));
    let mut reduce = instruction(3, "reduce", f(), &[1, 1]);
    reduce.called_computation_ids = vec![9];
    assert_eq!(code(module(vec![computation(9, vec![parameter(1, 0, f()), reduce])])), Err("E0158"));
    assert_eq!(code(module(vec![computation(9, vec![parameter(1, 0, tensor(11, &[-1]))])])), Err("E0158"));
    assert_eq!(code(module(vec![computation(9, vec![parameter(1, 0, tensor(11, &[1 << 40, 1 << 40]))])])), Err("E0158"));
    assert_eq!(read(b"", &Limits::default()).map_err(|e| e.code), Err("E0158"));
}

#[test]
fn a_small_file_cannot_ask_for_a_large_module() {
    // Twenty computations, each of which uses the one before twice as a combiner: a million copies.
    let f = || tensor(11, &[]);
    let mut list = vec![computation(1, vec![parameter(1, 0, f()), parameter(2, 1, f()), instruction(3, "add", f(), &[1, 2])])];
    for level in 2..30 {
        let uses = [10, 11].map(|id| {
            let mut reduce = instruction(id, "reduce", f(), &[1, 2]);
            reduce.called_computation_ids = vec![level - 1];
            reduce
        });
        list.push(computation(level, [vec![parameter(1, 0, f()), parameter(2, 1, f())], uses.to_vec()].concat()));
    }
    let limits = Limits { operations: 10_000, ..Limits::default() };
    assert_eq!(read(&module(list).encode_to_vec(), &limits).map_err(|e| e.code), Err("E0158"));
    // Empty instructions are two bytes each and hundreds decoded.
    let mut computation = vec![0x1a];
    prost::encoding::encode_varint(2_000_000, &mut computation);
    computation.extend([0x12, 0x00].repeat(1_000_000));
    assert_eq!(read(&computation, &Limits::default()).map_err(|e| e.code), Err("E0158"));
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
        for _ in 0..400 {
            let mut bytes = file.to_vec();
            match numbers.below(4) {
                0 => bytes.truncate(numbers.below(file.len())),
                1 => {
                    let at = numbers.below(file.len());
                    bytes.drain(at..(at + 1 + numbers.below(40)).min(file.len()));
                }
                _ => {
                    for _ in 0..=numbers.below(6) {
                        let at = numbers.below(bytes.len());
                        bytes[at] = [0, 1, 0x7f, 0x80, 0xff, numbers.below(256) as u8][numbers.below(6)];
                    }
                }
            }
            match read(&bytes, &limits) {
                Ok(module) => check(&module),
                Err(e) => {
                    assert!(matches!(e.code, "E0158" | "E0159"), "{e}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
