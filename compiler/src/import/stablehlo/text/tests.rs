//! Whole texts: forms, twins, damaged files.

use super::{Problem, Reader, read};
use crate::import::stablehlo::module::{Block, Function, Limits, Module, ModuleAttr, ModuleType, Operation};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Applies a rule to the start of a text.
pub(super) fn reader<'a, T>(text: &'a str, rule: impl Fn(&mut Reader<'a>) -> Result<T, Problem>) -> Result<T, Problem> {
    rule(&mut Reader::new(text, &Limits::default()))
}

fn module(text: &str) -> Module {
    read(text.as_bytes(), &Limits::default()).unwrap_or_else(|p| panic!("{}: {p}\n{text}", p.code))
}

/// An attribute in few characters.
fn show(attr: &ModuleAttr) -> String {
    let list = |all: Vec<String>| format!("[{}]", all.join(" "));
    match attr {
        ModuleAttr::Unit => "unit".into(),
        ModuleAttr::Bool(b) => b.to_string(),
        ModuleAttr::Int(v) => v.to_string(),
        ModuleAttr::Float(v) => format!("{v:?}"),
        ModuleAttr::Text(t) => format!("{t:?}"),
        ModuleAttr::Symbol(t) => format!("@{t}"),
        ModuleAttr::Word(t) | ModuleAttr::Other(t) => t.clone(),
        ModuleAttr::Ints(all) => list(all.iter().map(ToString::to_string).collect()),
        ModuleAttr::List(all) => list(all.iter().map(show).collect()),
        ModuleAttr::Fields(all) => format!("{{{}}}", all.iter().map(|(k, v)| format!("{k}={}", show(v))).collect::<Vec<_>>().join(" ")),
        ModuleAttr::Dense(d) => {
            let mut shape: String = d.shape.iter().map(|n| format!("{n}x")).collect();
            shape.push_str(&d.element.to_string());
            format!("dense<{shape} {}{:02x?}>", if d.splat { "splat " } else { "" }, &d.bytes[..])
        }
        ModuleAttr::Type(t) => t.to_string(),
    }
}

fn show_op(f: &Function, op: &Operation, out: &mut Vec<String>, level: usize) {
    let types: Vec<String> = op.results.iter().map(|v| f.ty(*v).to_string()).collect();
    let operands: Vec<String> = op.operands.iter().map(ToString::to_string).collect();
    let mut attrs: Vec<String> = op.attrs.iter().map(|(k, v)| format!(" {k}={}", show(v))).collect();
    attrs.sort();
    out.push(format!("{}{}({}){} -> {}", "  ".repeat(level), op.name, operands.join(" "), attrs.concat(), types.join(" ")));
    for region in &op.regions {
        let params: Vec<String> = region.params.iter().map(|v| format!("{v}:{}", f.ty(*v))).collect();
        out.push(format!("{}^({})", "  ".repeat(level), params.join(" ")));
        region.ops.iter().for_each(|op| show_op(f, op, out, level + 1));
    }
}

/// What an operation in a function with a few parameters becomes: `%0` is `tensor<2x3xf32>`, `%1` the same, `%2` `tensor<f32>`,
/// `%3` `tensor<i32>`, `%4` `tensor<2x3xi1>`.
fn body(text: &str) -> Vec<String> {
    let head = "%a: tensor<2x3xf32>, %b: tensor<2x3xf32>, %s: tensor<f32>, %i: tensor<i32>, %p: tensor<2x3xi1>";
    let module = module(&format!("func.func @main({head}) {{\n{text}\nreturn\n}}"));
    let f = &module.functions["main"];
    let mut out = Vec::new();
    f.body.ops[..f.body.ops.len() - 1].iter().for_each(|op| show_op(f, op, &mut out, 0));
    out
}

fn one(text: &str, expect: &str) {
    assert_eq!(body(text).join("\n"), expect, "{text}");
}

const F: &str = "tensor<2x3xf32>";

#[test]
fn elementwise_forms() {
    one("%r = stablehlo.add %a, %b : tensor<2x3xf32>", "stablehlo.add(%0 %1) -> tensor<2x3xf32>");
    one(
        "%r = stablehlo.compare LT, %a, %b, FLOAT : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xi1>",
        "stablehlo.compare(%0 %1) compare_type=FLOAT comparison_direction=LT -> tensor<2x3xbool>",
    );
    one(
        "%r = stablehlo.compare LT, %a, %b : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xi1>",
        "stablehlo.compare(%0 %1) comparison_direction=LT -> tensor<2x3xbool>",
    );
    one("%r = stablehlo.select %p, %a, %b : tensor<2x3xi1>, tensor<2x3xf32>", "stablehlo.select(%4 %0 %1) -> tensor<2x3xf32>");
    one(
        "%r = stablehlo.clamp %s, %a, %s : (tensor<f32>, tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>",
        "stablehlo.clamp(%2 %0 %2) -> tensor<2x3xf32>",
    );
    one("%r = stablehlo.convert %a : tensor<2x3xf32>", "stablehlo.convert(%0) -> tensor<2x3xf32>");
    one("%r = stablehlo.convert %a : (tensor<2x3xf32>) -> tensor<2x3xbf16>", "stablehlo.convert(%0) -> tensor<2x3xbf16>");
    one("%r = chlo.square %a : tensor<2x3xf32> -> tensor<2x3xf32>", "chlo.square(%0) -> tensor<2x3xf32>");
    one("%r = chlo.next_after %a, %b : tensor<2x3xf32>, tensor<2x3xf32> -> tensor<2x3xf32>", "chlo.next_after(%0 %1) -> tensor<2x3xf32>");
    one(
        "%r = stablehlo.reduce_precision %a, format = e5m10 : tensor<2x3xf32>",
        "stablehlo.reduce_precision(%0) exponent_bits=5 mantissa_bits=10 -> tensor<2x3xf32>",
    );
    one(
        "%r = stablehlo.complex %a, %b : tensor<2x3xcomplex<f32>>\n%q = stablehlo.real %r : tensor<2x3xf32>",
        "stablehlo.complex(%0 %1) -> tensor<2x3xcomplex<f32>>\nstablehlo.real(%5) -> tensor<2x3xf32>",
    );
    one(
        "%r = stablehlo.exponential %a {result_accuracy = #stablehlo.result_accuracy<mode = #stablehlo.result_accuracy_mode<HIGHEST>>} : tensor<2x3xf32>",
        "stablehlo.exponential(%0) result_accuracy={mode=HIGHEST} -> tensor<2x3xf32>",
    );
    one(
        "%r:2 = stablehlo.optimization_barrier %a, %s : tensor<2x3xf32>, tensor<f32>",
        "stablehlo.optimization_barrier(%0 %2) -> tensor<2x3xf32> tensor<f32>",
    );
    one("%t = stablehlo.after_all : !stablehlo.token", "stablehlo.after_all() -> !stablehlo.token");
}

#[test]
fn movement_forms() {
    one("%r = stablehlo.constant dense<1> : tensor<i8>", "stablehlo.constant() value=dense<i8 [01]> -> tensor<i8>");
    one("%r = stablehlo.iota dim = 1 : tensor<2x3xf32>", "stablehlo.iota() iota_dimension=1 -> tensor<2x3xf32>");
    one(
        "%r = stablehlo.broadcast_in_dim %s, dims = [] : (tensor<f32>) -> tensor<2x3xf32>",
        "stablehlo.broadcast_in_dim(%2) broadcast_dimensions=[] -> tensor<2x3xf32>",
    );
    one("%r = stablehlo.reshape %a : (tensor<2x3xf32>) -> tensor<6xf32>", "stablehlo.reshape(%0) -> tensor<6xf32>");
    one(
        "%r = stablehlo.transpose %a, dims = [1, 0] : (tensor<2x3xf32>) -> tensor<3x2xf32>",
        "stablehlo.transpose(%0) permutation=[1 0] -> tensor<3x2xf32>",
    );
    one("%r = stablehlo.reverse %a, dims = [0] : tensor<2x3xf32>", "stablehlo.reverse(%0) dimensions=[0] -> tensor<2x3xf32>");
    one(
        "%r = stablehlo.concatenate %a, %b, dim = 0 : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<4x3xf32>",
        "stablehlo.concatenate(%0 %1) dimension=0 -> tensor<4x3xf32>",
    );
    one(
        "%r = stablehlo.slice %a [0:2, 0:3:2] : (tensor<2x3xf32>) -> tensor<2x2xf32>",
        "stablehlo.slice(%0) limit_indices=[2 3] start_indices=[0 0] strides=[1 2] -> tensor<2x2xf32>",
    );
    one(
        "%r = stablehlo.dynamic_slice %a, %i, %i, sizes = [1, 3] : (tensor<2x3xf32>, tensor<i32>, tensor<i32>) -> tensor<1x3xf32>",
        "stablehlo.dynamic_slice(%0 %3 %3) slice_sizes=[1 3] -> tensor<1x3xf32>",
    );
    one(
        "%r = stablehlo.pad %a, %s, low = [0, -1], high = [0, 0], interior = [1, 0] : (tensor<2x3xf32>, tensor<f32>) -> tensor<3x2xf32>",
        "stablehlo.pad(%0 %2) edge_padding_high=[0 0] edge_padding_low=[0 -1] interior_padding=[1 0] -> tensor<3x2xf32>",
    );
    one(
        "%r = stablehlo.get_dimension_size %a, dim = 1 : (tensor<2x3xf32>) -> tensor<i32>",
        "stablehlo.get_dimension_size(%0) dimension=1 -> tensor<i32>",
    );
    one(
        "%v, %n = chlo.top_k(%a, k = 2) : tensor<2x3xf32> -> (tensor<2x2xf32>, tensor<2x2xi32>)",
        "chlo.top_k(%0) k=2 -> tensor<2x2xf32> tensor<2x2xi32>",
    );
    one(
        "%t = stablehlo.tuple %a, %s : tuple<tensor<2x3xf32>, tensor<f32>>\n%r = stablehlo.get_tuple_element %t[1] : (tuple<tensor<2x3xf32>, tensor<f32>>) -> tensor<f32>",
        "stablehlo.tuple(%0 %2) -> tuple<tensor<2x3xf32>, tensor<f32>>\nstablehlo.get_tuple_element(%5) index=1 -> tensor<f32>",
    );
}

#[test]
fn products_and_transforms() {
    let dims = |l: &str| {
        format!("{{lhs_batching_dimensions=[] rhs_batching_dimensions=[] lhs_contracting_dimensions={l} rhs_contracting_dimensions={l}}}")
    };
    one(
        "%r = stablehlo.dot_general %a, %b, contracting_dims = [1] x [1], precision = [DEFAULT, HIGHEST] : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x2xf32>",
        &format!(
            "stablehlo.dot_general(%0 %1) dot_dimension_numbers={} precision_config=[DEFAULT HIGHEST] -> tensor<2x2xf32>",
            dims("[1]")
        ),
    );
    one(
        "%r = \"stablehlo.dot_general\"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1]>}> : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x2xf32>",
        "stablehlo.dot_general(%0 %1) dot_dimension_numbers={lhs_contracting_dimensions=[1] rhs_contracting_dimensions=[1] lhs_batching_dimensions=[] rhs_batching_dimensions=[]} -> tensor<2x2xf32>",
    );
    one(
        "%r = stablehlo.dot_general %a, %b, batching_dims = [] x [], contracting_dims = [] x [], algorithm = <lhs_precision_type = tf32, lhs_component_count = 1> : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3x2x3xf32>",
        &format!(
            "stablehlo.dot_general(%0 %1) algorithm={{lhs_precision_type=tf32 lhs_component_count=1}} dot_dimension_numbers={} -> tensor<2x3x2x3xf32>",
            dims("[]")
        ),
    );
    let numbers = "dimension_numbers={input_batch_dimension=0 input_feature_dimension=1 input_spatial_dimensions=[] kernel_input_feature_dimension=0 kernel_output_feature_dimension=1 kernel_spatial_dimensions=[] output_batch_dimension=0 output_feature_dimension=1 output_spatial_dimensions=[]}";
    one(
        "%r = stablehlo.convolution(%a, %b) dim_numbers = [b, f]x[i, o]->[b, f], window = {} {batch_group_count = 1 : i64, feature_group_count = 3 : i64} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>",
        &format!(
            "stablehlo.convolution(%0 %1) batch_group_count=1 {numbers} feature_group_count=3 lhs_dilation=[] padding=dense<0x2xi64 []> rhs_dilation=[] window_reversal=[] window_strides=[] -> tensor<2x3xf32>"
        ),
    );
    one(
        "%r = stablehlo.fft %a, type = RFFT, length = [3] : (tensor<2x3xf32>) -> tensor<2x2xcomplex<f32>>",
        "stablehlo.fft(%0) fft_length=[3] fft_type=RFFT -> tensor<2x2xcomplex<f32>>",
    );
    one(
        "%k = stablehlo.constant dense<0> : tensor<2xui64>\n%s0, %o = stablehlo.rng_bit_generator %k, algorithm =  THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<4xui32>)",
        "stablehlo.constant() value=dense<2xu64 splat [00, 00, 00, 00, 00, 00, 00, 00]> -> tensor<2xu64>\nstablehlo.rng_bit_generator(%5) rng_algorithm=THREE_FRY -> tensor<2xu64> tensor<4xu32>",
    );
    one(
        "%r = stablehlo.rng %s, %s, %k, distribution = UNIFORM : (tensor<f32>, tensor<f32>, tensor<2xi64>) -> tensor<2x3xf32>"
            .replace("%k", "%i")
            .replace("tensor<2xi64>", "tensor<i32>")
            .as_str(),
        "stablehlo.rng(%2 %2 %3) rng_distribution=UNIFORM -> tensor<2x3xf32>",
    );
    one("%r = stablehlo.cholesky %a, lower = true : tensor<2x3xf32>", "stablehlo.cholesky(%0) lower=true -> tensor<2x3xf32>");
}

#[test]
fn windows_of_convolutions_are_complete() {
    let window = "%x = stablehlo.constant dense<0.0> : tensor<1x8x8x2xf32>\n%k = stablehlo.constant dense<0.0> : tensor<3x3x2x4xf32>\n%r = stablehlo.convolution(%x, %k) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f], window = {stride = [2, 1], pad = [[1, -1], [0, 2]], rhs_dilate = [1, 2], reverse = [true, false]} : (tensor<1x8x8x2xf32>, tensor<3x3x2x4xf32>) -> tensor<1x3x6x4xf32>";
    let got = body(window).pop().unwrap();
    for part in [
        "window_strides=[2 1]",
        "lhs_dilation=[1 1]",
        "rhs_dilation=[1 2]",
        "window_reversal=[1 0]",
        "feature_group_count=1",
        "padding=dense<2x2xi64 [01, 00, 00, 00, 00, 00, 00, 00, ff, ff",
    ] {
        assert!(got.contains(part), "{part} in {got}");
    }
}

#[test]
fn regions_and_scopes() {
    one(
        "%r = stablehlo.reduce(%a init: %s) applies stablehlo.add across dimensions = [1] : (tensor<2x3xf32>, tensor<f32>) -> tensor<2xf32>",
        "stablehlo.reduce(%0 %2) dimensions=[1] -> tensor<2xf32>\n^(%5:tensor<f32> %6:tensor<f32>)\n  stablehlo.add(%5 %6) -> tensor<f32>\n  stablehlo.return(%7) -> ",
    );
    let argmax = "%n = stablehlo.iota dim = 1 : tensor<2x3xi32>\n%r:2 = stablehlo.reduce(%a init: %s), (%n init: %i) across dimensions = [1] : (tensor<2x3xf32>, tensor<2x3xi32>, tensor<f32>, tensor<i32>) -> (tensor<2xf32>, tensor<2xi32>)\n reducer(%x: tensor<f32>, %y: tensor<f32>) (%k: tensor<i32>, %l: tensor<i32>)  { stablehlo.return %y, %k : tensor<f32>, tensor<i32> }\n%u = stablehlo.negate %r#1 : tensor<2xi32>";
    let got = body(argmax);
    assert_eq!(
        &got[1..],
        [
            "stablehlo.reduce(%0 %5 %2 %3) dimensions=[1] -> tensor<2xf32> tensor<2xi32>",
            "^(%6:tensor<f32> %7:tensor<i32> %8:tensor<f32> %9:tensor<i32>)",
            "  stablehlo.return(%8 %7) -> ",
            "stablehlo.negate(%11) -> tensor<2xi32>",
        ]
    );
    one(
        "%r:2 = stablehlo.while(%x = %i, %y = %a) : tensor<i32>, tensor<2x3xf32> attributes {t}\n cond {\n %c = stablehlo.compare LT, %x, %i : (tensor<i32>, tensor<i32>) -> tensor<i1>\n stablehlo.return %c : tensor<i1>\n} do {\n %c = stablehlo.add %x, %i : tensor<i32>\n stablehlo.return %c, %y : tensor<i32>, tensor<2x3xf32>\n}",
        "stablehlo.while(%3 %0) t=unit -> tensor<i32> tensor<2x3xf32>\n^(%5:tensor<i32> %6:tensor<2x3xf32>)\n  stablehlo.compare(%5 %3) comparison_direction=LT -> tensor<bool>\n  stablehlo.return(%7) -> \n^(%8:tensor<i32> %9:tensor<2x3xf32>)\n  stablehlo.add(%8 %3) -> tensor<i32>\n  stablehlo.return(%10 %9) -> ",
    );
    one(
        "%r = \"stablehlo.case\"(%i) ({\n %c = stablehlo.negate %a : tensor<2x3xf32>\n stablehlo.return %c : tensor<2x3xf32>\n}, {\n^bb0:\n %c = stablehlo.abs %a : tensor<2x3xf32>\n stablehlo.return %c : tensor<2x3xf32>\n}) : (tensor<i32>) -> tensor<2x3xf32>",
        "stablehlo.case(%3) -> tensor<2x3xf32>\n^()\n  stablehlo.negate(%0) -> tensor<2x3xf32>\n  stablehlo.return(%5) -> \n^()\n  stablehlo.abs(%0) -> tensor<2x3xf32>\n  stablehlo.return(%6) -> ",
    );
    one(
        "%r:2 = chlo.scan(%a) inits(%s) dimension=0 attributes {is_reverse = true} {\n^bb0(%x: tensor<f32>, %y: tensor<f32>):\n stablehlo.return %x, %y : tensor<f32>, tensor<f32>\n} : (tensor<2x3xf32>, tensor<f32>) -> (tensor<2x3xf32>, tensor<f32>)",
        "chlo.scan(%0 %2) dimension=0 is_reverse=true operandSegmentSizes=[1 1] -> tensor<2x3xf32> tensor<f32>\n^(%5:tensor<f32> %6:tensor<f32>)\n  stablehlo.return(%5 %6) -> ",
    );
}

#[test]
fn calls_shardings_and_checks() {
    one(
        "%r:2 = call @f(%a, %s) {m} : (tensor<2x3xf32>, tensor<f32>) -> (tensor<2x3xf32>, tensor<f32>)",
        "func.call(%0 %2) callee=@f m=unit -> tensor<2x3xf32> tensor<f32>",
    );
    one(
        "stablehlo.custom_call @check.expect_eq(%a, %b) {has_side_effect = true} : (tensor<2x3xf32>, tensor<2x3xf32>) -> ()",
        "stablehlo.custom_call(%0 %1) call_target_name=\"check.expect_eq\" has_side_effect=true -> ",
    );
    one(
        "%r = stablehlo.composite \"a.b\" %a {composite_attributes = {n = 2 : i64}, decomposition = @f} : (tensor<2x3xf32>) -> tensor<2x3xf32>",
        "stablehlo.composite(%0) composite_attributes={n=2} decomposition=@f name=\"a.b\" -> tensor<2x3xf32>",
    );
    one(
        "%r = sdy.sharding_constraint %a <@mesh, [{\"dp\"}, {?}]> : tensor<2x3xf32>",
        "sdy.sharding_constraint(%0) sharding={mesh=@mesh dim_shardings=[[\"dp\"] [?]]} -> tensor<2x3xf32>",
    );
    one("sdy.sharding_group %a group_id=0 : tensor<2x3xf32>", "sdy.sharding_group(%0) group_id=0 -> ");
    one(
        "%r = sdy.manual_computation(%a) in_shardings=[<@mesh, [{\"a\"}, {}]>] out_shardings=[<@mesh, [{\"a\"}, {}]>] manual_axes={\"a\"} (%x: tensor<1x3xf32>) {\n sdy.return %x : tensor<1x3xf32>\n} : (tensor<2x3xf32>) -> tensor<2x3xf32>",
        "sdy.manual_computation(%0) in_shardings=[{mesh=@mesh dim_shardings=[[\"a\"] []]}] manual_axes=[\"a\"] out_shardings=[{mesh=@mesh dim_shardings=[[\"a\"] []]}] -> tensor<2x3xf32>\n^(%5:tensor<1x3xf32>)\n  stablehlo.return(%5) -> ",
    );
    one(
        "check.expect_almost_eq_const %s, dense<5.0> : tensor<f32> {tolerance = 0.1 : f64}",
        "check.expect_almost_eq_const(%2) tolerance=0.1 value=dense<f32 [00, 00, a0, 40]> -> ",
    );
    one(
        "check.expect_close %a, %b, max_ulp_difference = 3 : tensor<2x3xf32>, tensor<2x3xf32>",
        "check.expect_close(%0 %1) max_ulp_difference=3 -> ",
    );
    one("%r = interpreter.probe %a, probe_id = \"x\" : tensor<2x3xf32>", "interpreter.probe(%0) probe_id=\"x\" -> tensor<2x3xf32>");
    one(
        "%r:2 = \"interpreter.run_parallel\"(%a) {programs=[[@f, @g]]} : (tensor<2x3xf32>) -> (tensor<f32>, tensor<f32>)",
        "interpreter.run_parallel(%0) programs=[[@f @g]] -> tensor<f32> tensor<f32>",
    );
    one(
        "%r = \"stablehlo.slice\"(%a) {start_indices = dense<0> : tensor<2xi64>, limit_indices = dense<[2, 3]> : tensor<2xi64>, strides = array<i64: 1, 1>} : (tensor<2x3xf32>) -> tensor<2x3xf32>",
        "stablehlo.slice(%0) limit_indices=[2 3] start_indices=[0 0] strides=[1 1] -> tensor<2x3xf32>",
    );
}

#[test]
fn everything_around_functions() {
    let text = "#a = array<i64: 1>\n!t = tensor<2xf32>\nmodule @m attributes {mhlo.num_partitions = 4 : i32} {\n  sdy.mesh @mesh = <[\"dp\"=2, \"tp\"=2]> {x}\n  sdy.mesh @empty_mesh = <[]>\n  func.func public @main(%x: !t {tf.aliasing_output = 0 : i32}, %y: !t) -> (!t {jax.result_info = \"r\"}, tensor<2xf32>) attributes {b} {\n    func.return {c = #a} %x, %y : !t, !t\n  }\n  func.func private @declared(!t, tensor<f32> {a}) -> tensor<f32>\n}\n{-# external: {} #-}\n".replace("func.return {c = #a}", "%z = stablehlo.transpose %x {c = #a} : (!t) -> !t\nfunc.return");
    let m = module(&text);
    assert_eq!(m.name, "m");
    assert_eq!(m.attrs["mhlo.num_partitions"], ModuleAttr::Int(4));
    assert_eq!(m.meshes["mesh"], [("dp".to_string(), 2), ("tp".to_string(), 2)]);
    assert!(m.meshes["empty_mesh"].is_empty());
    let f = &m.functions["main"];
    assert_eq!(f.params[0].attrs["tf.aliasing_output"], ModuleAttr::Int(0));
    assert_eq!(f.results[0].attrs["jax.result_info"], ModuleAttr::Text("r".into()));
    assert_eq!((f.body.params.len(), f.results.len()), (2, 2));
    assert_eq!(f.body.ops[0].attrs["c"], ModuleAttr::Ints(vec![1]));
    assert_eq!(m.place(f.body.ops[0].place), "line 7");
    assert_eq!(m.functions["declared"].params.len(), 2);
    assert!(m.functions["declared"].body.ops.is_empty());
    assert_eq!(F, f.types.first().map(|t| t.to_string().replace("<2x", "<2x3x")).unwrap());
}

#[test]
fn generic_modules() {
    let text = "\"builtin.module\"() <{sym_name = \"m\"}> ({\n \"sdy.mesh\"() <{mesh = #sdy.mesh<[\"x\"=3]>, sym_name = \"mesh\"}> : () -> ()\n \"func.func\"() <{arg_attrs = [{a = 1 : i32}, {}], function_type = (tensor<f32>, tensor<f32>) -> tensor<f32>, res_attrs = [{b}], sym_name = \"main\", sym_visibility = \"public\"}> ({\n ^bb0(%x: tensor<f32>, %y: tensor<f32>):\n  %0 = \"stablehlo.add\"(%x, %y) : (tensor<f32>, tensor<f32>) -> tensor<f32>\n \"func.return\"(%0) : (tensor<f32>) -> ()\n }) : () -> ()\n}) {mhlo.num_partitions = 1 : i32} : () -> ()\n";
    let m = module(text);
    assert_eq!((m.name.as_str(), m.meshes["mesh"].len(), m.attrs.len()), ("m", 1, 1));
    let f = &m.functions["main"];
    assert_eq!((f.params[0].attrs.len(), f.params[1].attrs.len(), f.results[0].attrs.len()), (1, 0, 1));
    assert_eq!(f.body.ops.len(), 2);
}

/// What is wrong, with its code and place.
#[test]
fn problems_tell_what_and_where() {
    for (text, code, place, what) in [
        ("%r = stablehlo.add %a, %q : tensor<2x3xf32>", "E0146", "line 2, column 24", "`%q` is not defined above"),
        (
            "%r = stablehlo.add %a, %s : tensor<2x3xf32>",
            "E0147",
            "line 2, column 6",
            "an operand of `stablehlo.add` is tensor<f32>, and the text says tensor<2x3xf32>",
        ),
        ("%r = stablehlo.add %a, %b", "E0141", "line 3, column 1", "expected `:` and the types, found `return`"),
        ("%r = stablehlo.add %a %b : tensor<2x3xf32>", "E0141", "line 2, column 23", "expected `:` and the types, found `%`"),
        ("%r:2 = stablehlo.add %a, %b : tensor<2x3xf32>", "E0147", "line 2, column 8", "`stablehlo.add` has 1 results, and 2 are named"),
        ("%a = stablehlo.add %a, %b : tensor<2x3xf32>", "E0146", "line 2, column 6", "`%a` is defined twice"),
        ("%r = stablehlo.neg %a#1 : tensor<2x3xf32>", "E0146", "line 2, column 20", "`%a` stands for 1 values, and #1 is asked for"),
        ("%r = stablehlo.exp %a : tensor<2x3xf33>", "E0143", "line 2, column 36", "`f33` is no element type"),
        ("%r = arith.constant 1.0 : f32", "E0149", "line 2, column 6", "`arith.constant` is of another dialect"),
        ("%r = add %a, %b : tensor<2x3xf32>", "E0141", "line 2, column 6", "expected an operation such as `stablehlo.add`, found `add`"),
        (
            "%r = \"stablehlo.add\"(%a, %b) : (tensor<2x3xf32>) -> tensor<2x3xf32>",
            "E0147",
            "line 2, column 6",
            "`stablehlo.add` has 2 operands and types for 1",
        ),
        ("%r = \"a.b\"()[^bb1] : () -> ()", "E0149", "line 2, column 13", "branches between blocks"),
        (
            "%r = stablehlo.constant dense_resource<__elided__> : tensor<4xf32>",
            "E0145",
            "line 2, column 39",
            "the elements of a constant are not in the file",
        ),
        (
            "%r = stablehlo.reduce(%a init: %s), (%b init: %s) applies stablehlo.add across dimensions = [1] : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<f32>, tensor<f32>) -> (tensor<2xf32>, tensor<2xf32>)",
            "E0147",
            "line 2, column 6",
            "`applies` reduces one tensor",
        ),
    ] {
        let text = format!("func.func @main(%a: tensor<2x3xf32>, %b: tensor<2x3xf32>, %s: tensor<f32>) {{\n{text}\nreturn\n}}");
        let p = read(text.as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!((p.code, p.place.as_str(), p.what.as_str()), (code, place, what), "{text}");
        assert!(p.why.contains("\n  | ") || p.why.contains("\n    | "), "{}", p.why);
    }
    for (text, code) in [
        ("", "E0149"),
        ("module {}", "E0149"),
        ("module {", "E0141"),
        ("func.func @f() { return", "E0141"),
        ("func.func @f() { return }\nfunc.func @f() { return }", "E0146"),
        ("func.func @f() -> tensor<f32> { return }", "E0147"),
        ("func.func @f() { ^bb0: return ^bb1: return }", "E0149"),
        ("func.func @f() { %t = stablehlo.after_all : !stablehlo.token }", "E0149"),
        ("module { func.func @f() { return } } module { }", "E0149"),
        ("sdy.mesh @m = <[\"a\"=0]> func.func @f() { return }", "E0149"),
        ("#a = [1 #b", "E0141"),
    ] {
        assert_eq!(read(text.as_bytes(), &Limits::default()).unwrap_err().code, code, "{text}");
    }
    assert_eq!(read(b"func.func @f() { return }\n\xff", &Limits::default()).unwrap_err().place, "line 2, column 1");
}

#[test]
fn limits_hold() {
    let text = "func.func @f() { %0 = stablehlo.after_all : !stablehlo.token return }";
    let with = |change: &dyn Fn(&mut Limits), text: &str| {
        let mut limits = Limits::default();
        change(&mut limits);
        read(text.as_bytes(), &limits).map_err(|p| p.code).err()
    };
    assert_eq!(with(&|_| (), text), None);
    assert_eq!(with(&|l| l.file_bytes = 10, text), Some("E0148"));
    assert_eq!(with(&|l| l.operations = 1, text), Some("E0148"));
    assert_eq!(with(&|l| l.depth = 0, text), Some("E0148"));
    let deep = format!("func.func @f() {{ {}", "\"a.b\"() ({ ".repeat(100_000));
    assert_eq!(with(&|_| (), &deep), Some("E0148"));
    for nest in
        ["tensor<1xf32, ", "[", "{a=", "(", "<@m, [], ", "loc(fused[", "#stablehlo.dot<a = ", "array<tensor<f32, ", "1 : tensor<f32,"]
    {
        let deep = format!("func.func @f() attributes {{a = {}", nest.repeat(100_000));
        assert!(with(&|_| (), &deep).is_some(), "{nest}");
    }
    // Each alias stands for two of the one before.
    let mut laughs = String::from("#a0 = [1]\n");
    (1..64).for_each(|i| laughs.push_str(&format!("#a{i} = [#a{}, #a{}]\n", i - 1, i - 1)));
    assert_eq!(with(&|_| (), &laughs), Some("E0148"));
    let types: String = (1..64).map(|i| format!("!t{i} = tuple<!t{}, !t{}>\n", i - 1, i - 1)).collect();
    assert_eq!(with(&|_| (), &format!("!t0 = tuple<>\n{types}")), Some("E0148"));
}

fn files(root: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "mlir") {
            out.push(path);
        }
    }
    out.sort();
}

/// Texts of a folder beside the repository; nothing, with a notice, when it is not there.
fn shared(folder: &str) -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    for up in ["../shared", "../../shared"] {
        if all.is_empty() {
            files(&repository.join(up).join(folder), &mut all);
        }
    }
    if all.is_empty() {
        println!("skipped: no ../shared/{folder}");
    }
    all
}

#[test]
fn all_of_the_corpus_is_read() {
    let (mut bytes, mut count) = (0, 0);
    let mut bad = Vec::new();
    for path in ["corpus/jax", "corpus/graphs"].iter().flat_map(|f| shared(f)) {
        let data = std::fs::read(&path).unwrap();
        bytes += data.len();
        count += 1;
        if let Err(p) = read(&data, &Limits::default()) {
            bad.push(format!("{}: {} {p}", path.display(), p.code));
        }
    }
    println!("{count} files, {bytes} bytes");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn all_of_the_conformance_suite_is_read() {
    let mut counts = BTreeMap::new();
    let mut bad = Vec::new();
    for path in shared("conformance/stablehlo") {
        let data = std::fs::read_to_string(&path).unwrap();
        for (i, chunk) in data.split("\n// -----").enumerate().filter(|(_, c)| c.contains("func.func")) {
            *counts.entry(path.parent().map(Path::to_path_buf)).or_insert(0) += 1;
            if let Err(p) = read(chunk.as_bytes(), &Limits::default()) {
                bad.push(format!("{} #{i}: {} {p}", path.display(), p.code));
            }
        }
    }
    println!("{counts:?}");
    assert!(bad.is_empty(), "{} chunks:\n{}", bad.len(), bad.join("\n"));
}

fn flat<'m>(block: &'m Block, out: &mut Vec<&'m Operation>) {
    for op in &block.ops {
        out.push(op);
        op.regions.iter().for_each(|r| flat(r, out));
    }
}

/// All that both forms tell of a function: names, attributes, types of results, shapes of regions.
fn told(f: &Function) -> Vec<String> {
    let mut ops = Vec::new();
    flat(&f.body, &mut ops);
    let types = |values: &[_]| values.iter().map(|v| f.ty(*v).clone()).collect::<Vec<ModuleType>>();
    ops.iter()
        .map(|op| {
            let mut attrs: Vec<String> = op.attrs.iter().map(|(k, v)| format!("{k}={}", sorted(v))).collect();
            attrs.sort();
            let params: Vec<_> = op.regions.iter().map(|r| types(&r.params)).collect();
            format!("{} {:?} {attrs:?} {:?} {params:?}", op.name, types(&op.operands), types(&op.results))
        })
        .collect()
}

/// Fields in alphabetical order.
fn sorted(attr: &ModuleAttr) -> String {
    match attr {
        ModuleAttr::Fields(f) => {
            let mut all: Vec<String> = f.iter().map(|(k, v)| format!("{k}={}", sorted(v))).collect();
            all.sort();
            all.join(" ")
        }
        other => show(other),
    }
}

#[test]
fn twins_are_the_same_module() {
    let mut pairs = 0;
    for twin in shared("corpus/jax") {
        let name = twin.to_string_lossy().into_owned();
        let Some(base) = name.strip_suffix(".generic.mlir").or_else(|| name.strip_suffix(".debug.mlir")) else { continue };
        let limits = Limits::default();
        let pretty = read(&std::fs::read(format!("{base}.mlir")).unwrap(), &limits).unwrap();
        let other = read(&std::fs::read(&twin).unwrap(), &limits).unwrap();
        pairs += 1;
        assert_eq!(pretty.functions.keys().collect::<Vec<_>>(), other.functions.keys().collect::<Vec<_>>(), "{name}");
        for (f, g) in pretty.functions.values().zip(other.functions.values()) {
            for (one, two) in told(f).iter().zip(told(g).iter()) {
                assert_eq!(one, two, "{name} @{}", f.name);
            }
            assert_eq!(told(f).len(), told(g).len(), "{name}");
            assert_eq!(f.results, g.results, "{name}");
        }
        if name.contains(".debug.") {
            let main = &other.functions["main"];
            assert!(main.params.iter().all(|p| matches!(p.attrs.get("loc"), Some(ModuleAttr::Text(_)))), "{name}");
            let placed = main.body.ops.iter().filter(|op| other.place(op.place).contains(".py:")).count();
            assert!(placed * 2 > main.body.ops.len(), "{placed} places of {name}");
        }
    }
    println!("{pairs} pairs");
}

/// A generator with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Damages a text in one of the ways that files are damaged.
fn damage(text: &[u8], r: &mut Random) -> Vec<u8> {
    const PARTS: &[&str] = &[
        "%",
        "#",
        "!",
        "<",
        ">",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        "=",
        ",",
        "->",
        "^",
        "@",
        "0x",
        "-1",
        "99999999999",
        "x",
        "é",
        "\\",
        "dense<",
        "tensor<",
        "loc(",
        "//",
        "{-#",
    ];
    let mut out = text.to_vec();
    for _ in 0..=r.below(3) {
        let (a, b) = (r.below(out.len()), r.below(40));
        let end = (a + b).min(out.len());
        match r.below(7) {
            0 => out.truncate(a),
            1 => {
                out.drain(a..end);
            }
            2 => {
                let copy = out[a..end].to_vec();
                out.splice(a..a, copy);
            }
            3 => {
                let at = r.below(out.len());
                let copy = out[a..end].to_vec();
                out.splice(at..at, copy);
            }
            4 if !out.is_empty() => out[a] ^= 1 << r.below(8),
            5 if !out.is_empty() => out[a] = b"0129<>(){}[]%#\"x,: \n"[r.below(20)],
            _ => {
                let part = PARTS[r.below(PARTS.len())].bytes();
                out.splice(a..a, part);
            }
        }
    }
    out
}

const SEED: &str = r##"#loc1 = loc("a.py":1:2)
#x = array<i64: 1, 0>
module @m attributes {mhlo.num_partitions = 1 : i32} {
  sdy.mesh @mesh = <["dp"=2]>
  func.func public @main(%a: tensor<2x3xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"dp"}, {}]>}, %s: tensor<f32> loc(#loc1)) -> (tensor<2xf32>) {
    %t = "stablehlo.transpose"(%a) <{permutation = #x}> : (tensor<2x3xf32>) -> tensor<3x2xf32> loc(callsite(#loc1 at #loc2))
    %c:2 = stablehlo.while(%i = %s, %y = %a) : tensor<f32>, tensor<2x3xf32> cond { %p = stablehlo.compare LT, %i, %s, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1> stablehlo.return %p : tensor<i1> } do { stablehlo.return %i, %y : tensor<f32>, tensor<2x3xf32> }
    %d = stablehlo.constant dense<[[1.0, 0x7F800000, -3e-2], [1, 2, 3]]> : tensor<2x3xf32>
    %e = stablehlo.constant dense<"0x0000803F00000040"> : tensor<2xcomplex<f32>>
    %n = stablehlo.constant dense_resource<w> : tensor<2xi1>
    %g = stablehlo.dot_general %d, %c#1, batching_dims = [0] x [0], contracting_dims = [1] x [1], precision = [DEFAULT] : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2xf32>
    %k = stablehlo.convolution(%d, %c#1) dim_numbers = [b, f]x[i, o]->[b, f], window = {stride = [], pad = []} {g = {h = [1 : i8, "q"]}} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %r = stablehlo.reduce(%k init: %s) applies stablehlo.add across dimensions = [1] : (tensor<2x3xf32>, tensor<f32>) -> tensor<2xf32>
    %z = stablehlo.slice %r [0:2:1] : (tensor<2xf32>) -> tensor<2xf32>
    return %z : tensor<2xf32>
  }
}
#loc2 = loc("f"(#loc1))
{-# dialect_resources: { builtin: { w: "0x010000000100" } } #-}
"##;

/// Reading damaged texts ends, with a module or a problem that has a place.
#[test]
fn damaged_texts_are_survived() {
    module(SEED);
    let mut r = Random(7);
    let mut seeds = vec![(SEED.as_bytes().to_vec(), 8_000)];
    let small = |p: &PathBuf| std::fs::metadata(p).is_ok_and(|m| m.len() < 20_000);
    for path in shared("conformance/stablehlo/interpret").iter().chain(&shared("corpus/jax")).filter(|p| small(p)) {
        seeds.push((std::fs::read(path).unwrap(), 30));
    }
    let (mut read_well, mut told) = (0, BTreeMap::new());
    for (seed, rounds) in seeds {
        for _ in 0..rounds {
            match read(&damage(&seed, &mut r), &Limits { elements: 1 << 24, ..Limits::default() }) {
                Ok(_) => read_well += 1,
                Err(p) => {
                    assert!(p.place.starts_with("line ") && !p.what.is_empty(), "{p:?}");
                    *told.entry(p.code).or_insert(0) += 1;
                }
            }
        }
    }
    println!("{read_well} read, {told:?}");
    assert!(told.len() >= 8 && read_well > 100, "{told:?}");
}
