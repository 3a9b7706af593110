//! The text form round-trips, and says where it does not read.

use super::parse_graph;
use crate::graph::random::{Random, random_graph};
use crate::graph::{Graph, Role};
use crate::literal::Literal;
use crate::types::{DType, TensorType};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn graphs_survive_the_text_form(seed in any::<u64>(), size in 0usize..40) {
        let g = random_graph(seed, size);
        let text = g.to_string();
        let back = parse_graph(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&back, &g);
        prop_assert_eq!(back.to_string(), text);
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        let _ = parse_graph(&text);
    }

    #[test]
    fn damaged_text_is_answered(seed in any::<u64>(), at in any::<u64>(), put in "\\PC{0,3}") {
        let text = random_graph(seed, 8).to_string();
        let mut at = (at % text.len() as u64) as usize;
        while !text.is_char_boundary(at) { at -= 1; }
        let bad = format!("{}{put}{}", &text[..at], text[at..].chars().skip(1).collect::<String>());
        if let Ok(g) = parse_graph(&bad) {
            prop_assert!(parse_graph(&g.to_string()).is_ok());
        }
    }
}

#[test]
fn elements_keep_their_bits() {
    let mut r = Random::new(5);
    for dtype in DType::ALL {
        for shape in [&[][..], &[3], &[2, 0], &[80]] {
            let ty = TensorType::new(dtype, shape);
            let special = [0x7ff8_0000_0000_0001u64, 0x7fc0_0001, 0xffc0_0000, 0x7e01, 0x7f80_0000, 0xfc00, 0x8000_0000_0000_0000, 1];
            let mut bytes = Vec::new();
            for _ in 0..ty.elements() {
                let bits = if r.one_in(3) { *r.pick(&special) } else { r.bits() };
                bytes.extend(&bits.to_le_bytes()[..dtype.size()]);
            }
            if dtype == DType::Bool {
                bytes.iter_mut().for_each(|b| *b &= 1);
            }
            let mut g = Graph::new("c");
            let value = Literal::new(ty, bytes).unwrap();
            let c = g.emit(crate::ops::constant::Constant { value }, &[]);
            g.output("c", c);
            assert_eq!(parse_graph(&g.to_string()).unwrap(), g, "{g}");
        }
    }
}

#[test]
fn columns_origins_and_late_inputs() {
    let mut g = Graph::new("mlp");
    let x = g.input("x", TensorType::new(DType::F32, [2, 3]), Role::Data);
    let w = g.input("a \"w\"", TensorType::new(DType::F32, [3, 2]), Role::Param);
    g.set_origin("layer1/MatMul");
    let y = g.emit(crate::ops::dot_general::DotGeneral::matmul(2, 0, 0), &[x, w]);
    let y = g.unary(crate::scalar::UnaryFn::Tanh, y);
    let z = g.input("late", TensorType::new(DType::F32, [2, 2]), Role::State);
    let s = g.plus(y, z);
    g.output("out", s);
    insta::assert_snapshot!(g.to_string());
    assert_eq!(parse_graph(&g.to_string()).unwrap(), g);
}

#[test]
fn names_are_free_and_types_optional_when_written_by_hand() {
    let g = parse_graph("graph (%x: f32[2]) { ; a comment\n %y = neg %x return %y }").unwrap();
    insta::assert_snapshot!(g.to_string());
}

#[test]
fn errors_show_the_place() {
    let check = |text: &str| parse_graph(text).unwrap_err().to_string();
    let mut all = String::new();
    let mut snapshot = |s: String| all.push_str(&format!("{s}\n\n"));
    snapshot(check("graph @g(%0: f32[2] input \"x\") {\n  %1 = ad %0, %0 : f32[2]\n  return %1\n}"));
    snapshot(check("graph @g(%0: f32[2] input \"x\") {\n  %1 = add %0, %2\n"));
    snapshot(check("graph @g(%0: f32[2] input \"x\") {\n  %1 = add %0, %0 : f32[3]\n"));
    snapshot(check("graph @g(%0: f32[2]) {\n  %1 = constant {value = dense<i8[2] [1, 300]>}\n"));
    snapshot(check("graph @g(%0: f32[99999999,99999999])"));
    snapshot(check("graph @g(%0: f32[2]) {\n  %1 = transpose %0 {permutation = [1]}\n"));
    insta::assert_snapshot!(all);
}
