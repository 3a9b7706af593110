//! Small texts of each kind of op, imported and run by the interpreter.

use super::super::module::Limits;
use super::super::{StablehloOptions, convert, default_entry, import_bytes, read};
use super::*;
use girih_ir::interp;

/// Converts a text with checks, runs it, and says which check failed.
fn check(text: &str) -> Result<usize, String> {
    let module = read(text.as_bytes(), &Default::default()).map_err(|p| p.to_string())?;
    let options = StablehloOptions { checks: true, ..StablehloOptions::default() };
    let entry = default_entry(&module).unwrap_or("main");
    let imported = convert::convert(&module, entry, &options).map_err(|e| format!("{}: {e}", e.code()))?;
    let inputs: Vec<Tensor> = Vec::new();
    let out = interp::eval(&imported.graph, &inputs).map_err(|e| e.to_string())?;
    for c in &imported.checks {
        let (got, want) = (out[c.got].floats(), out[c.want].floats());
        let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan()) || (c.kind != CheckKind::Exact && (a - b).abs() < 1e-3);
        if !got.iter().zip(&want).all(same) {
            return Err(format!("{}: {got:?} instead of {want:?}", c.place));
        }
    }
    Ok(imported.checks.len())
}

fn body(ops: &str) -> String {
    format!("func.func @main() {{ {ops}\n func.return }}")
}

/// Every check in the body of a function without parameters holds.
fn holds(ops: &str) {
    let made = check(&body(ops));
    assert!(made.as_ref().is_ok_and(|n| *n > 0), "{made:?}\n{ops}");
}

/// The graph of a text.
fn imported(text: &str) -> Imported {
    import_bytes(text.as_bytes(), &StablehloOptions::default()).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn ops_of(text: &str) -> Vec<&'static str> {
    imported(text).graph.nodes().iter().map(|n| n.op.name()).collect()
}

fn refused(text: &str) -> (String, &'static str) {
    let e = import_bytes(text.as_bytes(), &StablehloOptions::default()).expect_err("the module is refused");
    (e.to_string(), e.code())
}

#[test]
fn arithmetic_and_shapes() {
    holds(
        "%a = stablehlo.constant dense<[1.0, -2.0]> : tensor<2xf32>
         %b = stablehlo.add %a, %a : tensor<2xf32>
         check.expect_eq_const %b, dense<[2.0, -4.0]> : tensor<2xf32>
         %p = stablehlo.constant dense<true> : tensor<i1>
         %s = stablehlo.select %p, %a, %b : tensor<i1>, tensor<2xf32>
         check.expect_eq_const %s, dense<[1.0, -2.0]> : tensor<2xf32>
         %lo = stablehlo.constant dense<-3.0> : tensor<f32>
         %hi = stablehlo.constant dense<1.5> : tensor<f32>
         %c = stablehlo.clamp %lo, %b, %hi : (tensor<f32>, tensor<2xf32>, tensor<f32>) -> tensor<2xf32>
         check.expect_eq_const %c, dense<[1.5, -3.0]> : tensor<2xf32>",
    );
    holds(
        "%nan = stablehlo.constant dense<[0x7FC00000, -0.0, 1.0]> : tensor<3xf32>
         %z = stablehlo.constant dense<[0x7F800000, 0.0, 0xFFC00000]> : tensor<3xf32>
         %t = stablehlo.compare GT, %nan, %z, TOTALORDER : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
         check.expect_eq_const %t, dense<[true, false, true]> : tensor<3xi1>
         %o = stablehlo.compare LT, %nan, %z, FLOAT : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
         check.expect_eq_const %o, dense<false> : tensor<3xi1>",
    );
}

const ARGMAX: &str = "module {
  func.func @main(%x: tensor<2x3xf32>) -> (tensor<2xf32>, tensor<2xi32>) {
    %i = stablehlo.iota dim = 1 : tensor<2x3xi32>
    %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %zero = stablehlo.constant dense<0> : tensor<i32>
    %r:2 = stablehlo.reduce(%x init: %low), (%i init: %zero) across dimensions = [1] : (tensor<2x3xf32>, tensor<2x3xi32>, tensor<f32>, tensor<i32>) -> (tensor<2xf32>, tensor<2xi32>)
     reducer(%a: tensor<f32>, %b: tensor<f32>) (%j: tensor<i32>, %k: tensor<i32>) {
      %2 = stablehlo.compare BEATS, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %3 = stablehlo.compare NE, %a, %a, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %4 = stablehlo.or %2, %3 : tensor<i1>
      %5 = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %6 = stablehlo.compare LT, %j, %k, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      %7 = stablehlo.and %5, %6 : tensor<i1>
      %8 = stablehlo.or %4, %7 : tensor<i1>
      %9 = stablehlo.select %4, %a, %b : tensor<i1>, tensor<f32>
      %10 = stablehlo.select %8, %j, %k : tensor<i1>, tensor<i32>
      stablehlo.return %9, %10 : tensor<f32>, tensor<i32>
    }
    return %r#0, %r#1 : tensor<2xf32>, tensor<2xi32>
  }
}";

#[test]
fn argmax_is_found_and_other_variadic_bodies_are_expanded() {
    let text = ARGMAX.replace("BEATS", "GT");
    assert!(ops_of(&text).contains(&"arg_reduce"));
    // GE is not the form of JAX, so neighbors are combined.
    let general = ARGMAX.replace("BEATS", "GE");
    assert!(!ops_of(&general).contains(&"arg_reduce"));
    let x = Tensor::new_float(TensorType::new(DType::F32, [2, 3]), vec![1.0, 7.0, 7.0, f64::NAN, 2.0, f64::NAN]);
    for text in [text, general] {
        let out = interp::eval(&imported(&text).graph, std::slice::from_ref(&x)).unwrap();
        assert_eq!(out[1].ints(), [1, 0]);
        assert_eq!(out[0].floats()[0], 7.0);
    }
}

#[test]
fn reductions_with_any_body() {
    // Recognized, with an initial value that counts; then a body that is not associative-looking but sums squares of nothing.
    holds(
        "%x = stablehlo.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]> : tensor<2x3xf32>
         %i = stablehlo.constant dense<10.0> : tensor<f32>
         %s = stablehlo.reduce(%x init: %i) applies stablehlo.add across dimensions = [0] : (tensor<2x3xf32>, tensor<f32>) -> tensor<3xf32>
         check.expect_eq_const %s, dense<[15.0, 17.0, 19.0]> : tensor<3xf32>
         %m = \"stablehlo.reduce\"(%x, %i) ({
           ^bb0(%a: tensor<f32>, %b: tensor<f32>):
             %half = stablehlo.constant dense<1.0> : tensor<f32>
             %p = stablehlo.multiply %b, %half : tensor<f32>
             %q = stablehlo.add %a, %p : tensor<f32>
             stablehlo.return %q : tensor<f32>
         }) {dimensions = array<i64: 0, 1>} : (tensor<2x3xf32>, tensor<f32>) -> tensor<f32>
         check.expect_eq_const %m, dense<31.0> : tensor<f32>",
    );
}

const LOOP: &str = "func.func @main(%x: tensor<2xf32>, %n: tensor<i32>) -> (tensor<i32>, tensor<2xf32>) {
    %start = stablehlo.constant dense<2> : tensor<i32>
    %r:3 = stablehlo.while(%i = %start, %acc = %x, %step = %x) : tensor<i32>, tensor<2xf32>, tensor<2xf32>
    cond {
      %end = stablehlo.constant dense<11> : tensor<i32>
      %c = stablehlo.compare LT, %i, BOUND, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %c : tensor<i1>
    } do {
      %two = stablehlo.constant dense<2> : tensor<i32>
      %j = stablehlo.add %i, %two : tensor<i32>
      %f = stablehlo.convert %i : (tensor<i32>) -> tensor<f32>
      %g = stablehlo.broadcast_in_dim %f, dims = [] : (tensor<f32>) -> tensor<2xf32>
      %h = stablehlo.multiply %g, %step : tensor<2xf32>
      %k = stablehlo.add %acc, %h : tensor<2xf32>
      stablehlo.return %j, %k, %step : tensor<i32>, tensor<2xf32>, tensor<2xf32>
    }
    return %r#0, %r#1 : tensor<i32>, tensor<2xf32>
  }";

#[test]
fn loops_are_counted_when_their_bound_is_known() {
    let x = Tensor::new_float(TensorType::new(DType::F32, [2]), vec![1.0, 0.5]);
    let run = |text: &str, n: i64| interp::eval(&imported(text).graph, &[x.clone(), Tensor::scalar_int(DType::I32, n)]).unwrap();
    let counted = LOOP.replace("BOUND", "%end");
    let graph = imported(&counted).graph;
    let ends: Vec<String> = graph.nodes().iter().filter(|n| n.op.name() == "repeat").map(|n| format!("{:?}", n.op)).collect();
    assert_eq!(ends.len(), 1);
    assert!(ends[0].contains("trips: 5"), "{ends:?}");
    // The counter and the invariant step are no slots: the loop carries one value.
    assert_eq!(graph.nodes().iter().filter(|n| n.op.name() == "carry").count(), 1);
    let sum = 1.0 + f64::from(2 + 4 + 6 + 8 + 10);
    assert_eq!((run(&counted, 0)[0].ints()[0], run(&counted, 0)[1].floats()), (12, vec![sum, sum / 2.0]));
    let open = LOOP.replace("BOUND", "%n");
    assert!(ops_of(&open).contains(&"while"));
    assert_eq!(run(&open, 11)[1].floats(), [sum, sum / 2.0]);
    assert_eq!(run(&open, 0)[0].ints(), [2]);
}

#[test]
fn branches_that_are_not_taken_do_not_loop() {
    let text = "func.func @main(%p: tensor<i1>, %x: tensor<i32>) -> tensor<i32> {
        %r = \"stablehlo.if\"(%p) ({
          %zero = stablehlo.constant dense<0> : tensor<i32>
          %w = stablehlo.while(%i = %x) : tensor<i32>
          cond {
            %c = stablehlo.compare NE, %i, %zero, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %c : tensor<i1>
          } do {
            %one = stablehlo.constant dense<2> : tensor<i32>
            %j = stablehlo.subtract %i, %one : tensor<i32>
            stablehlo.return %j : tensor<i32>
          }
          stablehlo.return %w : tensor<i32>
        }, {
          stablehlo.return %x : tensor<i32>
        }) : (tensor<i1>) -> tensor<i32>
        return %r : tensor<i32>
      }";
    let g = imported(text).graph;
    // With an odd number the loop would run for a very long time.
    let run =
        |p: i64, x: i64| interp::eval(&g, &[Tensor::scalar_int(DType::Bool, p), Tensor::scalar_int(DType::I32, x)]).unwrap()[0].ints();
    assert_eq!((run(1, 8), run(0, 7)), (vec![0], vec![7]));
}

#[test]
fn scatters_with_any_body() {
    // max of the old value and twice the update, at places of which one is outside.
    holds(
        "%x = stablehlo.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
         %i = stablehlo.constant dense<[[2], [0], [3], [0]]> : tensor<4x1xi32>
         %u = stablehlo.constant dense<[[1.0, 9.0], [0.25, 8.0], [7.0, 7.0], [0.5, 1.0]]> : tensor<4x2xf32>
         %r = \"stablehlo.scatter\"(%x, %i, %u) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, indices_are_sorted = false, unique_indices = false}> ({
           ^bb0(%a: tensor<f32>, %b: tensor<f32>):
             %d = stablehlo.add %b, %b : tensor<f32>
             %m = stablehlo.maximum %a, %d : tensor<f32>
             stablehlo.return %m : tensor<f32>
         }) : (tensor<3x2xf32>, tensor<4x1xi32>, tensor<4x2xf32>) -> tensor<3x2xf32>
         check.expect_eq_const %r, dense<[[1.0, 16.0], [3.0, 4.0], [5.0, 18.0]]> : tensor<3x2xf32>",
    );
}

#[test]
fn sorts_with_any_comparator() {
    // By the remainder of 10, descending, ties in order; the second operand goes along.
    holds(
        "%x = stablehlo.constant dense<[13, 28, 5, 33, 8]> : tensor<5xi32>
         %y = stablehlo.constant dense<[0.0, 1.0, 2.0, 3.0, 4.0]> : tensor<5xf32>
         %r:2 = \"stablehlo.sort\"(%x, %y) <{dimension = 0 : i64, is_stable = true}> ({
           ^bb0(%a: tensor<i32>, %b: tensor<i32>, %c: tensor<f32>, %d: tensor<f32>):
             %ten = stablehlo.constant dense<10> : tensor<i32>
             %p = stablehlo.remainder %a, %ten : tensor<i32>
             %q = stablehlo.remainder %b, %ten : tensor<i32>
             %g = stablehlo.compare GT, %p, %q, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
             stablehlo.return %g : tensor<i1>
         }) : (tensor<5xi32>, tensor<5xf32>) -> (tensor<5xi32>, tensor<5xf32>)
         check.expect_eq_const %r#0, dense<[28, 8, 5, 13, 33]> : tensor<5xi32>
         check.expect_eq_const %r#1, dense<[1.0, 4.0, 2.0, 0.0, 3.0]> : tensor<5xf32>",
    );
}

#[test]
fn windows_with_any_body() {
    holds(
        "%x = stablehlo.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
         %i = stablehlo.constant dense<0.0> : tensor<f32>
         %s = \"stablehlo.reduce_window\"(%x, %i) <{window_dimensions = array<i64: 4>, padding = dense<[[3, 0]]> : tensor<1x2xi64>}> ({
           ^bb0(%a: tensor<f32>, %b: tensor<f32>):
             %p = stablehlo.add %a, %b : tensor<f32>
             stablehlo.return %p : tensor<f32>
         }) : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
         check.expect_eq_const %s, dense<[1.0, 3.0, 6.0, 10.0]> : tensor<4xf32>
         %t = \"stablehlo.reduce_window\"(%x, %i) <{window_dimensions = array<i64: 2>, window_strides = array<i64: 2>, base_dilations = array<i64: 2>}> ({
           ^bb0(%a: tensor<f32>, %b: tensor<f32>):
             %n = stablehlo.negate %b : tensor<f32>
             %p = stablehlo.subtract %a, %n : tensor<f32>
             stablehlo.return %p : tensor<f32>
         }) : (tensor<4xf32>, tensor<f32>) -> tensor<3xf32>
         check.expect_eq_const %t, dense<[1.0, 2.0, 3.0]> : tensor<3xf32>",
    );
}

const STEP: &str = "func.func public @main(%w: tensor<2xf32> {tf.aliasing_output = 1 : i32}, %x: tensor<2xf32>) -> (tensor<f32> {jax.result_info = \"result[1]\"}, tensor<2xf32> {jax.result_info = \"result[0]['w']\"}) {
    %0 = call @half(%x) : (tensor<2xf32>) -> tensor<2xf32>
    %1 = stablehlo.subtract %w, %0 : tensor<2xf32>
    %z = stablehlo.constant dense<0.0> : tensor<f32>
    %l = stablehlo.reduce(%1 init: %z) applies stablehlo.add across dimensions = [0] : (tensor<2xf32>, tensor<f32>) -> tensor<f32>
    return %l, %1 : tensor<f32>, tensor<2xf32>
  }
  func.func private @half(%a: tensor<2xf32>) -> tensor<2xf32> {
    %c = stablehlo.constant dense<0.5> : tensor<2xf32>
    %r = stablehlo.multiply %a, %c : tensor<2xf32>
    return %r : tensor<2xf32>
  }";

#[test]
fn donation_makes_state() {
    let given = imported(STEP);
    assert_eq!(given.donated, [(0, Some(1))]);
    let mul = given.graph.nodes().iter().position(|n| n.op.name() == "mul").unwrap();
    assert!(given.graph.origin(ValueId::new(mul)).starts_with("half; "), "{}", given.graph.origin(ValueId::new(mul)));
    let step = given.into_step(&[]).unwrap();
    assert_eq!(step.verify(), Ok(()));
    assert_eq!((step.loss, step.state.len(), step.state[0].output), (Some(0), 1, Some(1)));
    assert_eq!(step.graph.outputs[1].name, "0/w");
    let plain = STEP.replace("{tf.aliasing_output = 1 : i32}", "");
    let e = imported(&plain).into_step(&[]).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("donate_argnums") && e.to_string().contains("--state"), "{e}");
    let pair = |a: &str, b: &str| [(a.to_string(), b.to_string())];
    assert_eq!(imported(&plain).into_step(&pair("arg0", "0/w")).unwrap().state[0].output, Some(1));
    assert!(imported(&plain).into_step(&pair("arg9", "0/w")).unwrap_err().to_string().contains("arg9"));
    assert!(imported(&plain).into_step(&pair("arg0", "out0")).unwrap_err().to_string().contains("f32[2]"));
}

#[test]
fn what_is_wrong_is_said() {
    let all = "func.func @main(%x: tensor<2xf32>, %q: tensor<2xtf32>) -> tensor<2xf32> {
        %a = stablehlo.custom_call @lapack_sgeqrf_ffi(%x) : (tensor<2xf32>) -> tensor<2xf32>
        %b = stablehlo.negate %a : tensor<2xf32>
        %c = stablehlo.custom_call @other(%x) : (tensor<2xf32>) -> tensor<2xf32>
        return %b : tensor<2xf32>
      }";
    let (text, code) = refused(&all.replace(", %q: tensor<2xtf32>", ""));
    assert_eq!(code, "E0120");
    assert!(
        text.contains("lapack_sgeqrf_ffi") && text.contains("`other`") && text.contains("line 4") && !text.contains("negate"),
        "{text}"
    );
    assert!(refused(all).0.contains("tf32"));
    let recursive = "func.func @main(%x: tensor<f32>) -> tensor<f32> {
        %a = call @main(%x) : (tensor<f32>) -> tensor<f32>
        return %a : tensor<f32>
      }";
    assert_eq!(refused(recursive).1, "E0161");
    let typed = "func.func @main(%x: tensor<2x3xf32>) -> tensor<3x3xf32> {
        %a = stablehlo.transpose %x, dims = [1, 0] : (tensor<2x3xf32>) -> tensor<3x3xf32>
        return %a : tensor<3x3xf32>
      }";
    let (text, code) = refused(typed);
    assert_eq!(code, "E0163", "{text}");
    assert!(text.contains("line 2") && text.contains("f32[3,2]"), "{text}");
}

#[test]
fn complex_numbers_are_pairs() {
    holds(
        "%a = stablehlo.constant dense<(1.0, 2.0)> : tensor<2xcomplex<f32>>
         %b = stablehlo.multiply %a, %a : tensor<2xcomplex<f32>>
         %r = stablehlo.reshape %b : (tensor<2xcomplex<f32>>) -> tensor<2x1xcomplex<f32>>
         %re = stablehlo.real %r : (tensor<2x1xcomplex<f32>>) -> tensor<2x1xf32>
         %im = stablehlo.imag %r : (tensor<2x1xcomplex<f32>>) -> tensor<2x1xf32>
         check.expect_eq_const %re, dense<-3.0> : tensor<2x1xf32>
         check.expect_eq_const %im, dense<4.0> : tensor<2x1xf32>",
    );
}

#[test]
fn products_of_truth_values_are_counted() {
    let text = "func.func @main() {
         %a = stablehlo.constant dense<[[true, true, true], [false, true, false], [false, false, true]]> : tensor<3x3xi1>
         %b = stablehlo.constant dense<[[true, false], [true, false], [false, false]]> : tensor<3x2xi1>
         %c = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<3x3xi1>, tensor<3x2xi1>) -> tensor<3x2xi1>
         check.expect_eq_const %c, dense<[[true, false], [true, false], [false, false]]> : tensor<3x2xi1>
         func.return }";
    assert_eq!(check(text), Ok(1));
    let module = read(text.as_bytes(), &Default::default()).unwrap();
    let options = StablehloOptions { checks: true, ..StablehloOptions::default() };
    let graph = convert::convert(&module, "main", &options).unwrap().graph;
    let product = graph.values().find(|v| graph.node(*v).op.name() == "dot_general").unwrap();
    assert_eq!(graph.tensor_ty(product).dtype, DType::I32, "there are kernels for numbers only");
}

#[test]
fn three_forms_of_narrow_types_are_one() {
    let forms: [&[u8]; 3] = [
        include_bytes!("../../../../data/narrow.mlir"),
        include_bytes!("../../../../data/narrow.vhlo.mlirbc"),
        include_bytes!("../../../../data/narrow.hlo.pb"),
    ];
    let x = Tensor::new_int(TensorType::new(DType::I32, [5]), (0..5).collect());
    for form in forms {
        let imported = import_bytes(form, &StablehloOptions::default()).unwrap();
        let out: Vec<Vec<f64>> = interp::eval(&imported.graph, &[x.clone()]).unwrap().iter().map(Tensor::floats).collect();
        assert_eq!(out[0], [1.0, 3.0, -1.0, 7.0, 11.0]);
        assert_eq!(out[1], [1.0, 2.0, 13.0, 4.0]);
        assert_eq!(out[2], [1.0, 2.0, -3.0, 0.5, 6.0]);
        assert_eq!(out[3], [1.0, -2.0, 0.0, 1.0, 1.0]);
        assert_eq!(out[4], [1.0, 2.0, 4.0]);
        assert_eq!(out[5], [0.0, 2.0, 10.0 - 16.0, 12.0 - 16.0, 28.0 - 32.0]);
    }
}

#[test]
fn inputs_are_brought_into_their_narrow_types() {
    let text = "func.func @main(%x: tensor<4xi4>, %y: tensor<2xf8E4M3FNUZ>) -> (tensor<4xi4>, tensor<2xf8E4M3FNUZ>) {
        return %x, %y : tensor<4xi4>, tensor<2xf8E4M3FNUZ>
      }";
    let graph = imported(text).graph;
    let x = Tensor::new_int(TensorType::new(DType::I8, [4]), vec![7, 8, -9, 100]);
    let y = Tensor::new_float(TensorType::new(DType::F32, [2]), vec![1.0625, 300.0]);
    let out = interp::eval(&graph, &[x, y]).unwrap();
    assert_eq!(out[0].ints(), [7, -8, 7, 4]);
    assert!(out[1].floats()[0] == 1.0 && out[1].floats()[1].is_nan());
    let bits = "func.func @main(%x: tensor<f8E4M3FNUZ>) -> tensor<i8> {
        %a = stablehlo.bitcast_convert %x : (tensor<f8E4M3FNUZ>) -> tensor<i8>
        return %a : tensor<i8>
      }";
    assert!(refused(bits).0.contains("small floats"));
}

#[test]
fn host_io_is_refused_with_a_reason() {
    let text = "func.func @main(%x: tensor<f32>, %t: !stablehlo.token) -> !stablehlo.token {
        %a = \"stablehlo.outfeed\"(%x, %t) : (tensor<f32>, !stablehlo.token) -> !stablehlo.token
        return %a : !stablehlo.token
      }";
    let (text, code) = refused(text);
    assert!(code == "E0120" && text.contains("return the results"), "{text}");
    let probe = "func.func @main(%x: tensor<f32>) -> tensor<f32> {
        %a = interpreter.probe %x, probe_id = \"a\" : tensor<f32>
        interpreter.print %a : tensor<f32>
        return %a : tensor<f32>
      }";
    assert!(ops_of(probe).iter().all(|op| *op == "input"), "{:?}", ops_of(probe));
}

const IDENTITY: &str = "func.func @main(%x: tensor<f32>) -> tensor<f32> {
    %a = call @f(%x) : (tensor<f32>) -> tensor<f32>
    return %a : tensor<f32>
  }
  func.func @f(%x: tensor<f32>) -> tensor<f32> {
    %a = stablehlo.negate %x : tensor<f32>
    return %a : tensor<f32>
  }";

#[test]
fn entries_and_limits_are_told_with_their_codes() {
    let with = |options: StablehloOptions| import_bytes(IDENTITY.as_bytes(), &options).map(|_| ()).map_err(|e| (e.code(), e.to_string()));
    assert_eq!(with(StablehloOptions::default()), Ok(()));
    assert_eq!(with(StablehloOptions { entry: Some("f".into()), ..Default::default() }), Ok(()));
    let (code, text) = with(StablehloOptions { entry: Some("g".into()), ..Default::default() }).unwrap_err();
    assert!(code == "E0160" && text.contains("`g`") && text.contains("`main`, `f`"), "{text}");
    let limited = |limits: Limits| with(StablehloOptions { limits, ..Default::default() }).unwrap_err();
    let (code, text) = limited(Limits { depth: 1, ..Limits::default() });
    assert!(code == "E0164" && text.contains("more than 1 deep"), "{text}");
    let thrice = IDENTITY.replace(
        "return %a : tensor<f32>\n  }\n  func",
        "%b = call @f(%a) : (tensor<f32>) -> tensor<f32>\n    return %b : tensor<f32>\n  }\n  func",
    );
    let module = read(thrice.as_bytes(), &Limits::default()).unwrap();
    let options = StablehloOptions { limits: Limits { operations: 3, ..Limits::default() }, ..Default::default() };
    let e = convert::convert(&module, "main", &options).unwrap_err();
    assert!(e.code() == "E0164" && e.to_string().contains("more than 3 ops"), "{e}");
}

#[test]
fn files_and_state_are_told_with_their_codes() {
    let missing = super::super::import_file("no/such/file.mlir".as_ref(), &StablehloOptions::default()).unwrap_err();
    assert!(missing.code() == "E0167" && missing.exit_code() == 6, "{missing}");
    let limits = Limits { file_bytes: 10, ..Limits::default() };
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/narrow.mlir");
    let large = super::super::import_file(&own, &StablehloOptions { limits, ..Default::default() }).unwrap_err();
    assert!(large.code() == "E0164" && large.to_string().contains("limit of 10"), "{large}");
    let e = imported(IDENTITY).into_step(&[]).unwrap_err();
    assert_eq!((e.code(), e.exit_code()), ("E0165", 2));
}

/// A computation for one device of a 2x2 mesh on a matrix of 0 to 15, of which each device has a quarter.
fn on_devices(result: &str, split: &str, ops: &str, want: &str) {
    let text = format!(
        "module attributes {{mhlo.num_partitions = 4 : i32}} {{ sdy.mesh @m = <[\"y\"=2, \"x\"=2]>
         func.func @main() {{
         %i = stablehlo.iota dim = 0 : tensor<16xf32>
         %a = stablehlo.reshape %i : (tensor<16xf32>) -> tensor<4x4xf32>
         %r = sdy.manual_computation(%a) in_shardings=[<@m, [{{\"y\"}}, {{\"x\"}}]>] out_shardings=[<@m, [{split}]>] manual_axes={{\"y\", \"x\"}}
           (%v: tensor<2x2xf32>) {{ {ops} }} : (tensor<4x4xf32>) -> {result}
         check.expect_eq_const %r, {want} : {result}
         func.return }} }}"
    );
    let made = self::check(&text);
    assert!(made.as_ref().is_ok_and(|n| *n > 0), "{made:?}\n{text}");
}

const SUM: &str = "({ ^bb0(%p: tensor<f32>, %q: tensor<f32>): %s = stablehlo.add %p, %q : tensor<f32> stablehlo.return %s : tensor<f32> })";
const ROWS: &str =
    "channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<[[0, 1], [2, 3]]> : tensor<2x2xi64>";

#[test]
fn devices_of_a_mesh_combine_their_values() {
    let sum = format!(
        "%r = \"stablehlo.all_reduce\"(%v) <{{{ROWS}, use_global_device_ids}}> {SUM} : (tensor<2x2xf32>) -> tensor<2x2xf32>
         sdy.return %r : tensor<2x2xf32>"
    );
    on_devices("tensor<4x2xf32>", "{\"y\"}, {}", &sum, "dense<[[2.0, 4.0], [10.0, 12.0], [18.0, 20.0], [26.0, 28.0]]>");
    let scattered = format!(
        "%r = \"stablehlo.reduce_scatter\"(%v) <{{{ROWS}, scatter_dimension = 1 : i64, use_global_device_ids}}> {SUM}
           : (tensor<2x2xf32>) -> tensor<2x1xf32>
         sdy.return %r : tensor<2x1xf32>"
    );
    on_devices("tensor<4x2xf32>", "{\"y\"}, {\"x\"}", &scattered, "dense<[[2.0, 4.0], [10.0, 12.0], [18.0, 20.0], [26.0, 28.0]]>");
    let gathered = format!(
        "%r = \"stablehlo.all_gather\"(%v) <{{all_gather_dim = 1 : i64, {ROWS}, use_global_device_ids}}>
           : (tensor<2x2xf32>) -> tensor<2x4xf32>
         %h = stablehlo.slice %r [0:1, 0:4] : (tensor<2x4xf32>) -> tensor<1x4xf32>
         sdy.return %h : tensor<1x4xf32>"
    );
    on_devices("tensor<2x4xf32>", "{\"y\"}, {}", &gathered, "dense<[[0.0, 1.0, 2.0, 3.0], [8.0, 9.0, 10.0, 11.0]]>");
    let exchanged = format!(
        "%r = \"stablehlo.all_to_all\"(%v) <{{concat_dimension = 0 : i64, {ROWS}, split_count = 2 : i64, split_dimension = 1 : i64}}>
           : (tensor<2x2xf32>) -> tensor<4x1xf32>
         %h = stablehlo.slice %r [1:3, 0:1] : (tensor<4x1xf32>) -> tensor<2x1xf32>
         sdy.return %h : tensor<2x1xf32>"
    );
    on_devices("tensor<4x2xf32>", "{\"y\"}, {\"x\"}", &exchanged, "dense<[[4.0, 5.0], [2.0, 3.0], [12.0, 13.0], [10.0, 11.0]]>");
}

#[test]
fn devices_of_a_mesh_know_their_number_and_pass_values_on() {
    let passed = "%r = \"stablehlo.collective_permute\"(%v) <{channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, \
                    source_target_pairs = dense<[[0, 3], [3, 1]]> : tensor<2x2xi64>}> : (tensor<2x2xf32>) -> tensor<2x2xf32>
         %h = stablehlo.slice %r [0:1, 0:2] : (tensor<2x2xf32>) -> tensor<1x2xf32>
         sdy.return %h : tensor<1x2xf32>";
    on_devices("tensor<2x4xf32>", "{\"y\"}, {\"x\"}", passed, "dense<[[0.0, 0.0, 10.0, 11.0], [0.0, 0.0, 0.0, 1.0]]>");
    // A loop over what a device has, for a number of times that is its own.
    let counted = "%n = stablehlo.partition_id : tensor<ui32>
         %z = stablehlo.constant dense<0> : tensor<ui32>
         %s = stablehlo.slice %v [0:1, 0:1] : (tensor<2x2xf32>) -> tensor<1x1xf32>
         %w:2 = stablehlo.while(%k = %z, %t = %s) : tensor<ui32>, tensor<1x1xf32>
          cond { %c = stablehlo.compare LT, %k, %n : (tensor<ui32>, tensor<ui32>) -> tensor<i1> stablehlo.return %c : tensor<i1> }
          do { %o = stablehlo.constant dense<1> : tensor<ui32> %k2 = stablehlo.add %k, %o : tensor<ui32>
               %t2 = stablehlo.add %t, %t : tensor<1x1xf32> stablehlo.return %k2, %t2 : tensor<ui32>, tensor<1x1xf32> }
         sdy.return %w#1 : tensor<1x1xf32>";
    on_devices("tensor<2x2xf32>", "{\"y\"}, {\"x\"}", counted, "dense<[[0.0, 4.0], [32.0, 80.0]]>");
}

#[test]
fn a_factor_of_lapack_is_the_factor() {
    holds(
        "%a = stablehlo.constant dense<[[4.0, 2.0], [2.0, 5.0]]> : tensor<2x2xf32>
         %r:2 = stablehlo.custom_call @lapack_spotrf_ffi(%a) {backend_config = \"\", mhlo.backend_config = {uplo = 76 : ui8}} :
           (tensor<2x2xf32>) -> (tensor<2x2xf32>, tensor<i32>)
         %l = stablehlo.slice %r#0 [0:2, 0:1] : (tensor<2x2xf32>) -> tensor<2x1xf32>
         check.expect_almost_eq_const %l, dense<[[2.0], [1.0]]> : tensor<2x1xf32>
         check.expect_eq_const %r#1, dense<0> : tensor<i32>
         %y = stablehlo.constant dense<[[2.0], [5.0]]> : tensor<2x1xf32>
         %x = stablehlo.custom_call @lapack_strsm_ffi(%r#0, %y)
           {mhlo.backend_config = {diag = 78 : ui8, side = 76 : ui8, trans_x = 78 : ui8, uplo = 76 : ui8}} :
           (tensor<2x2xf32>, tensor<2x1xf32>) -> tensor<2x1xf32>
         check.expect_almost_eq_const %x, dense<[[1.0], [2.0]]> : tensor<2x1xf32>",
    );
}
