// Reductions with known and with general bodies, over windows, and what scatters back from windows.

func.func @monoids() {
  %x = stablehlo.constant dense<[[1, 2, 3], [4, -5, 6]]> : tensor<2x3xi32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %low = stablehlo.constant dense<-2147483648> : tensor<i32>
  %sum = stablehlo.reduce(%x init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<2x3xi32>, tensor<i32>) -> tensor<3xi32>
  %product = stablehlo.reduce(%x init: %one) applies stablehlo.multiply across dimensions = [1] : (tensor<2x3xi32>, tensor<i32>) -> tensor<2xi32>
  %max = stablehlo.reduce(%x init: %low) applies stablehlo.maximum across dimensions = [0, 1] : (tensor<2x3xi32>, tensor<i32>) -> tensor<i32>
  check.expect_eq_const %sum, dense<[5, -3, 9]> : tensor<3xi32>
  check.expect_eq_const %product, dense<[6, -120]> : tensor<2xi32>
  check.expect_eq_const %max, dense<6> : tensor<i32>
  func.return
}

// -----

func.func @an_initial_value_that_is_not_neutral_counts() {
  %x = stablehlo.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %ten = stablehlo.constant dense<10.0> : tensor<f32>
  %sum = stablehlo.reduce(%x init: %ten) applies stablehlo.add across dimensions = [1] : (tensor<2x2xf32>, tensor<f32>) -> tensor<2xf32>
  check.expect_eq_const %sum, dense<[13.0, 17.0]> : tensor<2xf32>
  func.return
}

// -----

func.func @argmax_is_a_reduction_of_two_operands() {
  %x = stablehlo.constant dense<[[3.0, 9.0, 4.0], [7.0, 1.0, 7.0]]> : tensor<2x3xf32>
  %i = stablehlo.iota dim = 1 : tensor<2x3xi32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %best:2 = stablehlo.reduce(%x init: %low), (%i init: %zero) across dimensions = [1] : (tensor<2x3xf32>, tensor<2x3xi32>, tensor<f32>, tensor<i32>) -> (tensor<2xf32>, tensor<2xi32>)
   reducer(%a: tensor<f32>, %c: tensor<f32>) (%ai: tensor<i32>, %ci: tensor<i32>) {
    %gt = stablehlo.compare GT, %a, %c, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %nan = stablehlo.compare NE, %a, %a, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %or = stablehlo.or %gt, %nan : tensor<i1>
    %eq = stablehlo.compare EQ, %a, %c, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %lt = stablehlo.compare LT, %ai, %ci, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %and = stablehlo.and %eq, %lt : tensor<i1>
    %pick = stablehlo.or %or, %and : tensor<i1>
    %v = stablehlo.select %or, %a, %c : tensor<i1>, tensor<f32>
    %w = stablehlo.select %pick, %ai, %ci : tensor<i1>, tensor<i32>
    stablehlo.return %v, %w : tensor<f32>, tensor<i32>
  }
  check.expect_eq_const %best#0, dense<[9.0, 7.0]> : tensor<2xf32>
  check.expect_eq_const %best#1, dense<[1, 0]> : tensor<2xi32>
  func.return
}

// -----

func.func @windows() {
  %x = stablehlo.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]> : tensor<3x3xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %sum = "stablehlo.reduce_window"(%x, %zero) ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %0 = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %0 : tensor<f32>
  }) {
    window_dimensions = array<i64: 2, 2>,
    window_strides = array<i64: 1, 2>,
    padding = dense<[[0, 0], [1, 0]]> : tensor<2x2xi64>
  } : (tensor<3x3xf32>, tensor<f32>) -> tensor<2x2xf32>
  %max = "stablehlo.reduce_window"(%x, %low) ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %0 = stablehlo.maximum %a, %b : tensor<f32>
      stablehlo.return %0 : tensor<f32>
  }) {
    window_dimensions = array<i64: 2, 1>,
    window_dilations = array<i64: 2, 1>
  } : (tensor<3x3xf32>, tensor<f32>) -> tensor<1x3xf32>
  check.expect_eq_const %sum, dense<[[5.0, 16.0], [11.0, 28.0]]> : tensor<2x2xf32>
  check.expect_eq_const %max, dense<[[7.0, 8.0, 9.0]]> : tensor<1x3xf32>
  func.return
}

// -----

func.func @running_sums_are_windows_too() {
  %x = stablehlo.constant dense<[1, 2, 3, 4]> : tensor<4xi32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %sums = "stablehlo.reduce_window"(%x, %zero) ({
    ^bb0(%a: tensor<i32>, %b: tensor<i32>):
      %0 = stablehlo.add %a, %b : tensor<i32>
      stablehlo.return %0 : tensor<i32>
  }) {
    window_dimensions = array<i64: 4>,
    padding = dense<[[3, 0]]> : tensor<1x2xi64>
  } : (tensor<4xi32>, tensor<i32>) -> tensor<4xi32>
  check.expect_eq_const %sums, dense<[1, 3, 6, 10]> : tensor<4xi32>
  func.return
}

// -----

func.func @gradient_of_a_max_pool() {
  %x = stablehlo.constant dense<[[1.0, 5.0, 2.0, 2.0]]> : tensor<1x4xf32>
  %g = stablehlo.constant dense<[[10.0, 20.0]]> : tensor<1x2xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %y = "stablehlo.select_and_scatter"(%x, %g, %zero) ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %0 = stablehlo.compare GE, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      stablehlo.return %0 : tensor<i1>
  }, {
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %0 = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %0 : tensor<f32>
  }) {
    window_dimensions = array<i64: 1, 2>,
    window_strides = array<i64: 1, 2>
  } : (tensor<1x4xf32>, tensor<1x2xf32>, tensor<f32>) -> tensor<1x4xf32>
  check.expect_eq_const %y, dense<[[0.0, 10.0, 20.0, 0.0]]> : tensor<1x4xf32>
  func.return
}
