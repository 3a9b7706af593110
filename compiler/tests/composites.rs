//! What JAX writes as parts is found and becomes composite: the patterns one by one, and whole training steps.
#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::canonicalize::canonicalize;
use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_compiler::optimize::{OptimizeOptions, OptimizeReport, optimize};
use girih_ir::graph::Graph;
use girih_ir::interp;
use girih_ir::tensor::Tensor;
use std::path::Path;

type Counts = Vec<(&'static str, usize)>;

fn imported(bytes: &[u8]) -> Graph {
    let graph = import_bytes(bytes, &StablehloOptions::default()).unwrap_or_else(|e| panic!("{e}")).graph;
    canonicalize(&graph).0
}

fn counts(report: &OptimizeReport) -> Counts {
    report.composites.iter().chain(&report.structures).copied().collect()
}

/// Optimizes a graph; the result computes the same numbers.
fn optimized(graph: &Graph) -> OptimizeReport {
    let done = optimize(graph, &OptimizeOptions::default()).unwrap();
    assert!(done.report.cost_after <= done.report.cost_before, "{}", done.report);
    let mut s = 0x2545_F491_4F6C_DD1Du64;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    };
    let ins: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|i| {
            let ty = graph.tensor_ty(i.value);
            let n = ty.elements();
            if ty.dtype.is_float() {
                Tensor::new_float(ty.clone(), (0..n).map(|_| next()).collect())
            } else {
                Tensor::new_int(ty.clone(), (0..n).map(|e| (e * 7 % 5) as i64).collect())
            }
        })
        .collect();
    let (a, b) = (interp::eval(graph, &ins).unwrap(), interp::eval(&done.graph, &ins).unwrap());
    for (a, b) in a.iter().zip(&b) {
        for (x, y) in a.floats().into_iter().zip(b.floats()) {
            assert!(x.is_nan() && y.is_nan() || (x - y).abs() <= 2e-4 * x.abs().max(1.0), "{x} became {y}\n{}", done.report);
        }
    }
    done.report
}

/// A function of the body's text over `x`, `dy` (4x8) and `gamma`, `beta` (8), as JAX prints it.
fn pattern(body: &str, want: &[(&'static str, usize)]) {
    let text = format!(
        "module {{\n  func.func public @main(%x: tensor<4x8xf32>, %dy: tensor<4x8xf32>, %gamma: tensor<8xf32>, %beta: tensor<8xf32>) -> tensor<4x8xf32> {{\n{body}  }}\n}}\n"
    );
    let report = optimized(&imported(text.as_bytes()));
    assert_eq!(counts(&report), want, "{report}");
}

/// Expands a line `NAME = OP ARGS` of our shorthand into StableHLO; shapes are f (4x8), r (4), k (4x1), g (8), h (1x8).
fn jax(lines: &str) -> String {
    let shape = |s: &str| match s {
        "f" => "tensor<4x8xf32>",
        "r" => "tensor<4xf32>",
        "k" => "tensor<4x1xf32>",
        "h" => "tensor<1x8xf32>",
        "g" => "tensor<8xf32>",
        "b" => "tensor<4xi1>",
        other => panic!("no shape {other}"),
    };
    let mut out = String::new();
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (name, rest) = line.split_once(" = ").unwrap_or(("", line));
        let w: Vec<&str> = rest.split_whitespace().collect();
        let text = match w.as_slice() {
            ["return", v] => format!("return {v} : tensor<4x8xf32>"),
            ["splat", number, s] => {
                let c = format!("{name}_c = stablehlo.constant dense<{number}> : tensor<f32>");
                format!("{c}\n    {name} = stablehlo.broadcast_in_dim {name}_c, dims = [] : (tensor<f32>) -> {}", shape(s))
            }
            ["spread", v, dims, from, to] => {
                format!("{name} = stablehlo.broadcast_in_dim {v}, dims = [{dims}] : ({}) -> {}", shape(from), shape(to))
            }
            ["reshape", v, from, to] => format!("{name} = stablehlo.reshape {v} : ({}) -> {}", shape(from), shape(to)),
            ["sum", v] => reduce(name, v, "add", "0.000000e+00", "1", shape("f")),
            ["sumk", v] => reduce(name, v, "add", "0.000000e+00", "1", shape("k")),
            ["max", v] => reduce(name, v, "maximum", "0xFF800000", "1", shape("f")),
            ["eq", a, b, s] => format!("{name} = stablehlo.compare EQ, {a}, {b}, FLOAT : ({0}, {0}) -> tensor<4xi1>", shape(s)),
            ["select", c, a, b, s] => format!("{name} = stablehlo.select {c}, {a}, {b} : {}, {}", shape("b"), shape(s)),
            [op @ ("erfc" | "square"), v, s] => format!("{name} = chlo.{op} {v} : {0} -> {0}", shape(s)),
            [op, v, s] => format!("{name} = stablehlo.{op} {v} : {}", shape(s)),
            [op, a, b, s] => format!("{name} = stablehlo.{op} {a}, {b} : {}", shape(s)),
            _ => panic!("cannot read `{line}`"),
        };
        out.push_str(&format!("    {text}\n"));
    }
    out
}

fn reduce(name: &str, v: &str, op: &str, init: &str, dim: &str, from: &str) -> String {
    format!(
        "{name}_i = stablehlo.constant dense<{init}> : tensor<f32>\n    {name} = stablehlo.reduce({v} init: {name}_i) applies stablehlo.{op} across dimensions = [{dim}] : ({from}, tensor<f32>) -> tensor<4xf32>"
    )
}

/// `jax.nn.softmax`: %e, %z (4x1) and %y.
const SOFTMAX: &str = "
    %m0 = max %x
    %inf = splat 0xFF800000 r
    %m1 = maximum %inf %m0 r
    %mk = spread %m1 0 r k
    %mf = spread %mk 0,1 k f
    %c = subtract %x %mf f
    %e = exponential %c f
    %s = sum %e
    %z = spread %s 0 r k
    %zf = spread %z 0,1 k f
    %y = divide %e %zf f
";

#[test]
fn softmax_and_its_gradient() {
    pattern(&jax(&format!("{SOFTMAX} return %y")), &[("softmax", 1)]);
    // The gradient alone: what it needs of the forward is a softmax as well.
    let grad = "
        %zz = multiply %z %z k
        %one = splat 1.0 k
        %q = divide %one %zz k
        %qf = spread %q 0,1 k f
        %g0 = multiply %dy %qf f
        %g1 = multiply %g0 %e f
        %g2 = sum %g1
        %g3 = reshape %g2 r k
        %g4 = negate %g3 k
        %zf2 = spread %z 0,1 k f
        %g5 = divide %dy %zf2 f
        %g6 = sumk %g4
        %g7 = spread %g6 0 r f
        %g8 = add %g5 %g7 f
        %g9 = multiply %g8 %e f
        return %g9
    ";
    pattern(&jax(&format!("{SOFTMAX}{grad}")), &[("softmax", 1), ("softmax_grad", 1)]);
}

#[test]
fn log_softmax_and_its_gradient() {
    let forward = SOFTMAX.split("%zf").next().unwrap();
    let value = "
        %l = log %z k
        %lf = spread %l 0,1 k f
        %y = subtract %c %lf f
        return %y
    ";
    pattern(&jax(&format!("{forward}{value}")), &[("log_softmax", 1)]);
    let grad = "
        %g0 = negate %dy f
        %g1 = sum %g0
        %g2 = reshape %g1 r k
        %g3 = divide %g2 %z k
        %g4 = sumk %g3
        %g5 = spread %g4 0 r f
        %g6 = multiply %g5 %e f
        %g7 = add %dy %g6 f
        return %g7
    ";
    pattern(&jax(&format!("{forward}{grad}")), &[("log_softmax", 1), ("log_softmax_grad", 1)]);
}

/// Layer normalization as `jax.numpy` users write it: %c (centered), %v (variance + eps), %r, %rf and %n.
const NORMALIZED: &str = "
    %s = sum %x
    %sk = spread %s 0 r k
    %count = splat 8.0 k
    %m = divide %sk %count k
    %mf = spread %m 0,1 k f
    %c = subtract %x %mf f
    %cc = square %c f
    %v0 = sum %cc
    %v1 = spread %v0 0 r k
    %v2 = divide %v1 %count k
    %eps = splat 9.99999974E-6 k
    %v = add %v2 %eps k
    %r = rsqrt %v k
    %rf = spread %r 0,1 k f
    %n = multiply %c %rf f
    %g0 = spread %gamma 1 g h
    %gf = spread %g0 0,1 h f
    %b0 = spread %beta 1 g h
    %bf = spread %b0 0,1 h f
";

#[test]
fn layer_norm_and_its_gradient() {
    pattern(&jax(&format!("{NORMALIZED} %y0 = multiply %n %gf f\n %y = add %y0 %bf f\n return %y")), &[("layer_norm", 1)]);
    // The two orders in which a residual connection's cotangent comes in, and none at all.
    for (first, second) in
        [("%p0 = add %p %w f", ""), ("%r0 = add %dy %p f", "%p0 = add %r0 %w f"), ("%r0 = add %dy %w f", "%p0 = add %r0 %p f")]
    {
        let grad = format!(
            "
            %rv = divide %r %v k
            %half = splat -5.0e-01 k
            %q = multiply %half %rv k
            %two = splat 2.0 f
            %c2 = multiply %two %c f
            %g = multiply %dy %gf f
            %t0 = multiply %c %g f
            %t1 = sum %t0
            %t2 = reshape %t1 r k
            %p = multiply %g %rf f
            %t3 = multiply %t2 %q k
            %t4 = divide %t3 %count k
            %t5 = sumk %t4
            %t6 = spread %t5 0 r f
            %w = multiply %t6 %c2 f
            %u0 = negate %p f
            %u1 = sum %u0
            %u2 = reshape %u1 r k
            %u3 = negate %w f
            %u4 = sum %u3
            %u5 = reshape %u4 r k
            %u6 = add %u2 %u5 k
            %u7 = divide %u6 %count k
            %u8 = sumk %u7
            %u9 = spread %u8 0 r f
            {first}
            {second}
            %y = add %p0 %u9 f
            return %y
            "
        );
        pattern(&jax(&format!("{NORMALIZED}{grad}")), &[("layer_norm_grad", 1)]);
    }
}

#[test]
fn layer_norm_by_squares_and_its_gradient() {
    let forward = "
        %xx = square %x f
        %two = splat 2.0 f
        %x2 = multiply %two %x f
        %s = sum %x
        %count = splat 8.0 r
        %m = divide %s %count r
        %ss = sum %xx
        %ms = divide %ss %count r
        %mm = square %m r
        %twor = splat 2.0 r
        %m2 = multiply %twor %m r
        %w = subtract %ms %mm r
        %zero = splat 0.0 r
        %u = maximum %zero %w r
        %mk = spread %m 0 r k
        %uk = spread %u 0 r k
        %mf = spread %mk 0,1 k f
        %c = subtract %x %mf f
        %eps = splat 9.99999997E-7 k
        %v = add %uk %eps k
        %r = rsqrt %v k
        %g0 = reshape %gamma g h
        %rf = spread %r 0,1 k f
        %gf = spread %g0 0,1 h f
        %rg = multiply %rf %gf f
    ";
    let value = "
        %n = multiply %c %rg f
        %b0 = reshape %beta g h
        %bf = spread %b0 0,1 h f
        %y = add %n %bf f
        return %y
    ";
    pattern(&jax(&format!("{forward}{value}")), &[("layer_norm", 1)]);
    let grad = "
        %oner = splat 1.0 r
        %e0 = eq %w %u r
        %e1 = select %e0 %oner %zero r
        %e2 = eq %zero %u r
        %e3 = select %e2 %twor %oner r
        %on = divide %e1 %e3 r
        %rv = divide %r %v k
        %half = splat -5.0e-01 k
        %q = multiply %half %rv k
        %d0 = multiply %c %dy f
        %p = multiply %dy %rg f
        %d1 = multiply %d0 %gf f
        %d2 = sum %d1
        %d3 = reshape %d2 r k
        %d4 = multiply %d3 %q k
        %u0 = negate %p f
        %u1 = sum %u0
        %res = add %dy %p f
        %d5 = sumk %d4
        %t = multiply %d5 %on r
        %t0 = negate %t r
        %t1 = multiply %t0 %m2 r
        %t2 = add %u1 %t1 r
        %t3 = divide %t %count r
        %t4 = spread %t3 0 r f
        %t5 = divide %t2 %count r
        %t6 = spread %t5 0 r f
        %y0 = add %res %t6 f
        %y1 = multiply %t4 %x2 f
        %y2 = add %y0 %y1 f
        return %y2
    ";
    pattern(&jax(&format!("{forward}{grad}")), &[("layer_norm_grad", 1)]);
}

#[test]
fn rms_norm_and_its_gradient() {
    let forward = "
        %xx = multiply %x %x f
        %s = sum %xx
        %sk = spread %s 0 r k
        %count = splat 8.0 k
        %m = divide %sk %count k
        %eps = splat 9.99999974E-6 k
        %v = add %m %eps k
        %r = rsqrt %v k
        %rf = spread %r 0,1 k f
        %n = multiply %x %rf f
        %g0 = spread %gamma 1 g h
        %gf = spread %g0 0,1 h f
    ";
    pattern(&jax(&format!("{forward} %y = multiply %n %gf f\n return %y")), &[("rms_norm", 1)]);
    let grad = "
        %rv = divide %r %v k
        %half = splat -5.0e-01 k
        %q = multiply %half %rv k
        %g = multiply %dy %gf f
        %t0 = multiply %x %g f
        %t1 = sum %t0
        %t2 = reshape %t1 r k
        %p = multiply %g %rf f
        %a0 = add %beta1 %p f
        %t3 = multiply %t2 %q k
        %t4 = divide %t3 %count k
        %t5 = sumk %t4
        %t6 = spread %t5 0 r f
        %w = multiply %x %t6 f
        %a1 = add %a0 %w f
        %w2 = multiply %t6 %x f
        %y = add %a1 %w2 f
        return %y
    ";
    let residual = grad.replace("%beta1", "%dy");
    let alone = grad.replace("%a0 = add %beta1 %p f", "").replace("%a0", "%p");
    for grad in [residual, alone] {
        pattern(&jax(&format!("{forward}{grad}")), &[("rms_norm_grad", 1)]);
    }
}

#[test]
fn gelu_by_erfc_and_its_gradient() {
    let forward = "
        %half = splat 5.0e-01 f
        %h = multiply %half %x f
        %nx = negate %x f
        %root = splat 0.707106769 f
        %u = multiply %nx %root f
        %q = erfc %u f
    ";
    pattern(&jax(&format!("{forward} %y = multiply %h %q f\n return %y")), &[("gelu", 1)]);
    let grad = "
        %uu = square %u f
        %nu = negate %uu f
        %bell = exponential %nu f
        %g0 = multiply %h %dy f
        %g1 = multiply %dy %q f
        %k = splat -1.12837923 f
        %g2 = multiply %k %g0 f
        %g3 = multiply %g2 %bell f
        %g4 = multiply %g3 %root f
        %g5 = negate %g4 f
        %g6 = multiply %half %g1 f
        %g7 = add %g5 %g6 f
        return %g7
    ";
    pattern(&jax(&format!("{forward}{grad}")), &[("gelu_grad", 1)]);
}

#[test]
fn gelu_by_tanh_and_its_gradient() {
    let forward = "
        %xx = multiply %x %x f
        %xxx = multiply %xx %x f
        %cubic = splat 4.471500e-02 f
        %t0 = multiply %cubic %xxx f
        %t1 = add %x %t0 f
        %slope = splat 0.797884583 f
        %t2 = multiply %slope %t1 f
        %t = tanh %t2 f
        %one = splat 1.0 f
        %t3 = add %one %t f
        %half = splat 5.0e-01 f
        %cdf = multiply %half %t3 f
    ";
    pattern(&jax(&format!("{forward} %y = multiply %x %cdf f\n return %y")), &[("gelu", 1)]);
    let grad = "
        %three = splat 3.0 f
        %x3 = multiply %three %xx f
        %rest = subtract %one %t f
        %g0 = multiply %x %dy f
        %g1 = multiply %dy %cdf f
        %g2 = multiply %half %g0 f
        %g3 = multiply %g2 %rest f
        %g4 = multiply %g3 %t f
        %g5 = add %g3 %g4 f
        %g6 = multiply %slope %g5 f
        %g7 = add %g1 %g6 f
        %g8 = multiply %cubic %g6 f
        %g9 = multiply %g8 %x3 f
        %y = add %g7 %g9 f
        return %y
    ";
    pattern(&jax(&format!("{forward}{grad}")), &[("gelu_grad", 1)]);
}

#[test]
fn silu_and_its_gradient() {
    let forward = "
        %nx = negate %x f
        %e = exponential %nx f
        %one = splat 1.0 f
        %d = add %one %e f
        %s = divide %one %d f
    ";
    pattern(&jax(&format!("{forward} %y = multiply %x %s f\n return %y")), &[("silu", 1)]);
    let grad = "
        %rest = subtract %one %s f
        %ds = multiply %s %rest f
        %g0 = multiply %x %dy f
        %g1 = multiply %dy %s f
        %g2 = multiply %g0 %ds f
        %y = add %g1 %g2 f
        return %y
    ";
    pattern(&jax(&format!("{forward}{grad}")), &[("silu_grad", 1)]);
}

/// An update of a parameter; `%step` is the last line but one.
const ADAM: &str = "module {
  func.func public @main(%p: tensor<8xf32>, %g: tensor<8xf32>, %m: tensor<8xf32>, %v: tensor<8xf32>) -> (tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) {
    %a_c = stablehlo.constant dense<0.1> : tensor<f32>
    %a = stablehlo.broadcast_in_dim %a_c, dims = [] : (tensor<f32>) -> tensor<8xf32>
    %b_c = stablehlo.constant dense<0.9> : tensor<f32>
    %b = stablehlo.broadcast_in_dim %b_c, dims = [] : (tensor<f32>) -> tensor<8xf32>
    %g1 = stablehlo.multiply %a, %g : tensor<8xf32>
    %m1 = stablehlo.multiply %b, %m : tensor<8xf32>
    %m2 = stablehlo.add %g1, %m1 : tensor<8xf32>
    %gg = stablehlo.multiply %g, %g : tensor<8xf32>
    %g2 = stablehlo.multiply %a, %gg : tensor<8xf32>
    %v1 = stablehlo.multiply %b, %v : tensor<8xf32>
    %v2 = stablehlo.add %g2, %v1 : tensor<8xf32>
    %root = stablehlo.sqrt %v2 : tensor<8xf32>
    %down = stablehlo.add %root, %a : tensor<8xf32>
    %step = stablehlo.divide %m2, %down : tensor<8xf32>
    %new = stablehlo.subtract %p, %step : tensor<8xf32>
    return %new, %m2, %v2 : tensor<8xf32>, tensor<8xf32>, tensor<8xf32>
  }
}
";

#[test]
fn adam_is_counted_and_a_rescaled_gradient_is_not() {
    assert_eq!(counts(&optimized(&imported(ADAM.as_bytes()))), [("adam", 1)]);
    let rescaled = ADAM.replace("divide %m2, %down", "divide %g, %down");
    assert_eq!(counts(&optimized(&imported(rescaled.as_bytes()))), []);
}

/// A training step of JAX and its loss find all that the model has. The cases are below `GIRIH_SHARED`, or `shared` beside the repository.
fn case(name: &str, step: &[(&'static str, usize)], loss: &[(&'static str, usize)]) {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let dir = std::env::var_os("GIRIH_SHARED").map_or_else(beside, Into::into).join("corpus").join(name);
    for (file, want) in [("train_step.mlir", step), ("loss.mlir", loss)].into_iter().filter(|(_, want)| !want.is_empty()) {
        let Ok(bytes) = std::fs::read(dir.join(file)) else {
            println!("skipped: {name}/{file} is not there");
            continue;
        };
        let graph = imported(&bytes);
        let report = optimize(&graph, &OptimizeOptions::default()).unwrap().report;
        assert_eq!(counts(&report), want, "{name}/{file}\n{report}");
    }
}

#[test]
fn gpt2_finds_all_its_own() {
    // Two blocks with two norms each and one at the end; 28 parameters.
    let step = [
        ("gelu", 2),
        ("gelu_grad", 2),
        ("layer_norm", 5),
        ("layer_norm_grad", 5),
        ("log_softmax", 1),
        ("log_softmax_grad", 1),
        ("softmax", 2),
        ("softmax_grad", 2),
        ("adam", 28),
        ("attention", 2),
    ];
    case("jax/gpt2_adamw", &step, &[("gelu", 2), ("layer_norm", 5), ("log_softmax", 1), ("softmax", 2), ("attention", 2)]);
}

#[test]
fn vit_finds_all_its_own() {
    let step = [
        ("gelu", 2),
        ("gelu_grad", 2),
        ("layer_norm", 5),
        ("layer_norm_grad", 5),
        ("log_softmax", 1),
        ("log_softmax_grad", 1),
        ("softmax", 2),
        ("softmax_grad", 2),
        ("adam", 32),
        ("attention", 2),
    ];
    case("jax/vit_tiny_adam", &step, &[("gelu", 2), ("layer_norm", 5), ("log_softmax", 1), ("softmax", 2), ("attention", 2)]);
}

#[test]
fn llama_finds_all_its_own() {
    // The loss is a logarithm of sums of its own, without a log-softmax.
    let step = [
        ("rms_norm", 5),
        ("rms_norm_grad", 5),
        ("silu", 2),
        ("silu_grad", 2),
        ("softmax", 2),
        ("softmax_grad", 2),
        ("adam", 21),
        ("attention", 2),
    ];
    case("jax/llama_adamw", &step, &[("rms_norm", 5), ("silu", 2), ("softmax", 2), ("attention", 2)]);
}

#[test]
fn the_encoder_with_dropout_finds_all_its_own() {
    let step = [
        ("gelu", 1),
        ("gelu_grad", 1),
        ("layer_norm", 2),
        ("layer_norm_grad", 2),
        ("log_softmax", 1),
        ("log_softmax_grad", 1),
        ("softmax", 1),
        ("softmax_grad", 1),
        ("attention", 1),
        ("dropout", 3),
    ];
    let loss = [("gelu", 1), ("layer_norm", 2), ("log_softmax", 1), ("softmax", 1), ("attention", 1), ("dropout", 3)];
    case("jax/encoder_dropout_typedkey", &step, &loss);
}

#[test]
fn the_whole_gpt2_finds_all_its_own() {
    // Its loss is a logarithm of sums of its own as well.
    let step = [
        ("gelu", 12),
        ("gelu_grad", 12),
        ("layer_norm", 25),
        ("layer_norm_grad", 25),
        ("softmax", 12),
        ("softmax_grad", 12),
        ("adam", 148),
        ("attention", 12),
    ];
    case("graphs/gpt2_small_b8_t1024", &step, &[]);
}
