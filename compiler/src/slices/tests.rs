//! Sliced steps against whole ones, by the reference interpreter.

use super::{Refusal, batch, counts, grid, microbatched, replicated};
use girih_ir::graph::loops::LoopNest;
use girih_ir::interp::eval;
use girih_ir::ops::Op;
use girih_ir::step::{TrainStep, parse_step};
use girih_ir::tensor::Tensor;
use girih_ir::types::TensorType;

/// A token model: an embedding, the batch and time axes merged, a tied head, and the scattered gradient of the embedding.
const TOKENS: &str = "step {
  param \"w\" input 2 -> output 1
  loss output 0
  seed 0
}
graph @tokens(%0: i32[6,4] input \"tok\", %1: f64[6,4,3] input \"want\", %2: f64[5,3] param \"w\") {
  %3 = reshape %0 {shape = [6,4,1]}
  %4 = gather %2, %3 {offset_dims = [2], collapsed_slice_dims = [0], operand_batching_dims = [], start_indices_batching_dims = [], start_index_map = [0], index_vector_dim = 2, slice_sizes = [1,3]}
  %5 = tanh %4
  %6 = reshape %5 {shape = [24,3]}
  %7 = reshape %1 {shape = [24,3]}
  %8 = sub %6, %7
  %9 = constant {value = dense<f64[] 0.25>}
  %10 = broadcast %9 {shape = [24,3], dims = []}
  %11 = mul %8, %10
  %12 = mul %11, %8
  %13 = reduce %12 {monoid = sum, dims = [0,1]}
  %14 = reshape %11 {shape = [6,4,3]}
  %15 = constant {value = dense<f64[] 0.0>}
  %16 = broadcast %15 {shape = [5,3], dims = []}
  %17 = scatter %16, %3, %14 {update_window_dims = [2], inserted_window_dims = [0], input_batching_dims = [], scatter_indices_batching_dims = [], scatter_dims_to_operand_dims = [0], index_vector_dim = 2, combiner = sum}
  %18 = dot_general %11, %6 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
  %19 = dot_general %2, %18 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %20 = add %17, %17
  %21 = sub %2, %20
  %22 = sub %21, %19
  return %13 \"loss\", %22 \"w\", %8 \"rest\"
}";

/// A recurrence over time with the batch along the first dimension of the input, and an accumulator that starts at zero.
const RECURRENT: &str = "step {
  param \"w\" input 1 -> output 1
  loss output 0
  seed 0
}
graph @recurrent(%0: f64[4,3,2] input \"x\", %1: f64[2,2] param \"w\") {
  %2 = transpose %0 {permutation = [1,0,2]}
  %3 = constant {value = dense<f64[] 0.0>}
  %4 = broadcast %3 {shape = [4,2], dims = []}
  %5 = broadcast %3 {shape = [2,2], dims = []}
  %6 = carry %4 {loop_id = 0, slot = 0}
  %7 = carry %5 {loop_id = 0, slot = 1}
  %8 = loop_index {loop_id = 0}
  %9 = constant {value = dense<i64[] 0>}
  %10 = dynamic_slice %2, %8, %9, %9 {sizes = [1,4,2]}
  %11 = reshape %10 {shape = [4,2]}
  %12 = dot_general %6, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %13 = add %12, %11
  %14 = tanh %13
  %15 = dot_general %11, %14 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
  %16 = add %7, %15
  %17 = repeat %6, %7, %14, %16 {loop_id = 0, trips = 3}
  %18 = proj %17 {index = 0}
  %19 = proj %17 {index = 1}
  %20 = reduce %18 {monoid = sum, dims = [0,1]}
  %21 = sub %1, %19
  return %20 \"loss\", %21 \"w\"
}";

/// The second line of the body subtracts the mean over the batch.
const CENTERED: &str = "step {
  param \"w\" input 1 -> output 1
  loss output 0
  seed 0
}
graph @centered(%0: f64[6,2] input \"x\", %1: f64[2] param \"w\") {
  %2 = reduce %0 {monoid = sum, dims = [0]}
  %3 = broadcast %2 {shape = [6,2], dims = [1]}
  %4 = sub %0, %3
  %5 = mul %4, %4
  %6 = reduce %5 {monoid = sum, dims = [0,1]}
  %7 = reduce %5 {monoid = sum, dims = [0]}
  %8 = sub %1, %7
  return %6 \"loss\", %8 \"w\"
}";

/// The rows are a product, and their mean is taken away from them.
const NORMED: &str = "step {
  param \"w\" input 1 -> output 1
  loss output 0
  seed 0
}
graph @normed(%0: f64[6,2] input \"x\", %1: f64[2] param \"w\") {
  %2 = broadcast %1 {shape = [2,2], dims = [1]}
  %3 = dot_general %0, %2 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %4 = reduce %3 {monoid = sum, dims = [0]}
  %5 = broadcast %4 {shape = [6,2], dims = [1]}
  %6 = sub %3, %5
  %7 = mul %6, %6
  %8 = reduce %7 {monoid = sum, dims = [0,1]}
  %9 = reduce %7 {monoid = sum, dims = [0]}
  %10 = sub %1, %9
  return %8 \"loss\", %10 \"w\"
}";

/// The loss is divided by the number of labels that are not 2, and so are the gradients.
const COUNTED: &str = "step {
  param \"w\" input 2 -> output 1
  loss output 0
  seed 0
}
graph @counted(%0: f64[6,3] input \"x\", %1: i64[6] input \"labels\", %2: f64[3] param \"w\") {
  %3 = constant {value = dense<i64[] 2>}
  %4 = broadcast %3 {shape = [6], dims = []}
  %5 = ne %1, %4
  %6 = convert %5 {to = f64}
  %7 = reduce %6 {monoid = sum, dims = [0]}
  %8 = dot_general %0, %2 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %9 = mul %8, %6
  %10 = mul %9, %9
  %11 = reduce %10 {monoid = sum, dims = [0]}
  %12 = div %11, %7
  %13 = broadcast %7 {shape = [6], dims = []}
  %14 = div %9, %13
  %15 = dot_general %14, %0 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
  %16 = sub %2, %15
  return %12 \"loss\", %16 \"w\"
}";

/// Rows are weighted by their place in the batch.
const PLACED: &str = "step {
  seed 0
}
graph @placed(%0: f64[6,2] input \"x\") {
  %1 = iota {dtype = f64, shape = [6,2], dim = 0}
  %2 = mul %0, %1
  %3 = reduce %2 {monoid = max, dims = [0]}
  return %3 \"most\", %2 \"rows\"
}";

fn step(text: &str) -> TrainStep {
    let s = parse_step(text).unwrap_or_else(|e| panic!("{e}"));
    s.verify().unwrap_or_else(|e| panic!("{e}"));
    s
}

fn noise(ty: &TensorType, seed: usize) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f64 / 1009.0 - 0.5;
    match ty.dtype.is_float() {
        true => Tensor::new_float(ty.clone(), (0..ty.elements()).map(value).collect()),
        false => Tensor::new_int(ty.clone(), (0..ty.elements()).map(|i| ((i * 7 + seed) % 5) as i64).collect()),
    }
}

fn inputs(s: &TrainStep) -> Vec<Tensor> {
    s.graph.inputs.iter().enumerate().map(|(k, i)| noise(s.graph.tensor_ty(i.value), k + 1)).collect()
}

fn close(got: &[Tensor], want: &[Tensor], what: &str) {
    assert_eq!(got.len(), want.len());
    for (a, b) in got.iter().zip(want) {
        assert_eq!(a.ty(), b.ty(), "{what}");
        for (x, y) in a.floats().iter().zip(b.floats()) {
            assert!((x - y).abs() < 1e-12 * (1.0 + y.abs()), "{what}: {x} instead of {y}");
        }
    }
}

#[test]
fn microbatches_compute_the_whole_step() {
    for (text, parts) in [(TOKENS, &[2, 3, 6][..]), (RECURRENT, &[2, 4]), (PLACED, &[2, 3, 6]), (COUNTED, &[2, 3, 6]), (CENTERED, &[2, 3])]
    {
        let whole = step(text);
        let (given, name) = (inputs(&whole), whole.graph.name.clone());
        let want = eval(&whole.graph, &given).unwrap();
        for k in parts {
            let sliced = microbatched(&whole, *k).unwrap_or_else(|e| panic!("{name} in {k}: {e}"));
            assert_eq!(sliced.verify(), Ok(()));
            let nest = LoopNest::of(&sliced.graph).unwrap();
            assert!(nest.loops.iter().any(|l| l.trips == Some(*k) && l.parent.is_none()), "{name} in {k}");
            close(&eval(&sliced.graph, &given).unwrap(), &want, &format!("{name} in {k}"));
        }
    }
}

#[test]
fn only_sums_leave_the_loop() {
    // The gradient's two parts are added up in the loop, and leave it as one; the loss and the rows are the other two.
    let sliced = microbatched(&step(TOKENS), 2).unwrap();
    let nest = LoopNest::of(&sliced.graph).unwrap();
    let shapes: Vec<&[usize]> = nest.loops[0].carries.iter().map(|c| sliced.graph.shape(*c)).collect();
    assert_eq!(shapes.len(), 4, "{shapes:?}");
    assert!(shapes.contains(&&[24, 3][..]) && shapes.contains(&&[5, 3][..]) && shapes.contains(&&[][..]), "{shapes:?}");
}

#[test]
fn replicas_hold_the_parts_of_every_sum() {
    for (text, rows, cols) in [(TOKENS, 2, 3), (RECURRENT, 1, 2)] {
        let whole = step(text);
        let (given, parts) = (inputs(&whole), rows * cols);
        let want = eval(&whole.graph, &given).unwrap();
        let r = replicated(&whole, rows, cols).unwrap();
        assert_eq!(r.step.verify(), Ok(()));
        assert!(r.step.graph.nodes().iter().any(|n| matches!(&n.op, Op::AllReduce(a) if (a.rows, a.cols) == (rows, cols))));
        // Alone, a replica's loss and its change of the weights are its part of the whole ones.
        let mut sums: Vec<Vec<f64>> = vec![vec![0.0; want[0].floats().len()], vec![0.0; want[1].floats().len()]];
        let w = whole.state[0].input;
        for k in 0..parts {
            let own: Vec<Tensor> = (0u32..)
                .zip(&given)
                .map(|(i, t)| match r.inputs.iter().find(|(n, _)| *n == i) {
                    Some(_) => {
                        let ty = r.step.graph.tensor_ty(r.step.graph.inputs[i as usize].value).clone();
                        let first = k * ty.elements();
                        Tensor::pick(ty.clone(), t, (first..first + ty.elements()).map(Some), None)
                    }
                    None => t.clone(),
                })
                .collect();
            let got = eval(&r.step.graph, &own).unwrap();
            sums[0].iter_mut().zip(got[0].floats()).for_each(|(s, x)| *s += x);
            let change = got[1].floats().into_iter().zip(own[w].floats()).map(|(new, old)| new - old);
            sums[1].iter_mut().zip(change).for_each(|(s, x)| *s += x);
        }
        let change: Vec<f64> = want[1].floats().into_iter().zip(given[w].floats()).map(|(new, old)| new - old).collect();
        for (got, want) in sums.iter().zip([want[0].floats(), change]) {
            got.iter().zip(&want).for_each(|(x, y)| assert!((x - y).abs() < 1e-12 * (1.0 + y.abs()), "{x} instead of {y}"));
        }
    }
}

#[test]
fn refusals_say_why() {
    let code = |r: Result<TrainStep, Refusal>| r.unwrap_err().to_string()[..5].to_string();
    assert_eq!(code(microbatched(&step(TOKENS), 4)), "E0831");
    assert_eq!(code(microbatched(&step(NORMED), 2)), "E0834");
    let alone = TOKENS.replace("i32[6,4] input", "i32[6,4] state").replace("f64[6,4,3] input", "f64[6,4,3] state");
    let alone = alone.replace("  loss", "  state \"tok\" input 0 -> unchanged\n  state \"want\" input 1 -> unchanged\n  loss");
    assert_eq!(code(microbatched(&step(&alone), 2)), "E0830");
    let sorted = PLACED.replace("%2 = mul %0, %1", "%2 = cumulative %0 {monoid = sum, dim = 0, exclusive = false, reverse = false}");
    assert_eq!(code(microbatched(&step(&sorted), 3)), "E0832");
    let kept = CENTERED.replace("f64[2] param", "f64[6,2] param").replace("%8 = sub %1, %7", "%8 = sub %1, %4");
    assert_eq!(code(microbatched(&step(&kept), 2)), "E0833", "a parameter with a row for each of the batch is not shared");
    assert!(replicated(&step(PLACED), 1, 3).unwrap_err().to_string().starts_with("E0832"));
    assert!(replicated(&step(NORMED), 1, 2).is_ok(), "replicas combine wherever they have to");
}

#[test]
fn batches_and_grids() {
    assert_eq!((batch(&step(TOKENS)), counts(&step(TOKENS))), (Some(6), vec![2, 3, 6]));
    assert_eq!(grid((40, 3), 3000, None), Some((40, 3)));
    assert_eq!(grid((2, 3), 32, None), Some((2, 2)));
    assert_eq!(grid((2, 3), 32, Some(3)), None);
    assert_eq!(grid((2, 3), 6, Some(3)), Some((1, 3)));
    assert_eq!(grid((2, 3), 7, None), None);
}
