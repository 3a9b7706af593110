// Float functions of one and two operands, on ordinary and on special values.

func.func @arithmetic() {
  %a = stablehlo.constant dense<[1.5, -2.0, 0.25, 8.0]> : tensor<4xf32>
  %b = stablehlo.constant dense<[0.5, 4.0, -0.5, 2.0]> : tensor<4xf32>
  %add = stablehlo.add %a, %b : tensor<4xf32>
  %sub = stablehlo.subtract %a, %b : tensor<4xf32>
  %mul = stablehlo.multiply %a, %b : tensor<4xf32>
  %div = stablehlo.divide %a, %b : tensor<4xf32>
  %max = stablehlo.maximum %a, %b : tensor<4xf32>
  %min = stablehlo.minimum %a, %b : tensor<4xf32>
  check.expect_eq_const %add, dense<[2.0, 2.0, -0.25, 10.0]> : tensor<4xf32>
  check.expect_eq_const %sub, dense<[1.0, -6.0, 0.75, 6.0]> : tensor<4xf32>
  check.expect_eq_const %mul, dense<[0.75, -8.0, -0.125, 16.0]> : tensor<4xf32>
  check.expect_eq_const %div, dense<[3.0, -0.5, -0.5, 4.0]> : tensor<4xf32>
  check.expect_eq_const %max, dense<[1.5, 4.0, 0.25, 8.0]> : tensor<4xf32>
  check.expect_eq_const %min, dense<[0.5, -2.0, -0.5, 2.0]> : tensor<4xf32>
  func.return
}

// -----

func.func @rounding() {
  %x = stablehlo.constant dense<[-2.5, -0.5, 0.5, 1.5, 2.4]> : tensor<5xf32>
  %ceil = stablehlo.ceil %x : tensor<5xf32>
  %floor = stablehlo.floor %x : tensor<5xf32>
  %away = stablehlo.round_nearest_afz %x : tensor<5xf32>
  %even = stablehlo.round_nearest_even %x : tensor<5xf32>
  %sign = stablehlo.sign %x : tensor<5xf32>
  check.expect_eq_const %ceil, dense<[-2.0, 0.0, 1.0, 2.0, 3.0]> : tensor<5xf32>
  check.expect_eq_const %floor, dense<[-3.0, -1.0, 0.0, 1.0, 2.0]> : tensor<5xf32>
  check.expect_eq_const %away, dense<[-3.0, -1.0, 1.0, 2.0, 2.0]> : tensor<5xf32>
  check.expect_eq_const %even, dense<[-2.0, 0.0, 0.0, 2.0, 2.0]> : tensor<5xf32>
  check.expect_eq_const %sign, dense<[-1.0, -1.0, 1.0, 1.0, 1.0]> : tensor<5xf32>
  func.return
}

// -----

func.func @functions_undo_each_other() {
  %x = stablehlo.constant dense<[0.25, 0.5, 1.0, 3.0]> : tensor<4xf64>
  %exp = stablehlo.exponential %x : tensor<4xf64>
  %log = stablehlo.log %exp : tensor<4xf64>
  %expm1 = stablehlo.exponential_minus_one %x : tensor<4xf64>
  %log1p = stablehlo.log_plus_one %expm1 : tensor<4xf64>
  %sqrt = stablehlo.sqrt %x : tensor<4xf64>
  %square = stablehlo.multiply %sqrt, %sqrt : tensor<4xf64>
  %cbrt = stablehlo.cbrt %x : tensor<4xf64>
  %three = stablehlo.constant dense<3.0> : tensor<4xf64>
  %cube = stablehlo.power %cbrt, %three : tensor<4xf64>
  %rsqrt = stablehlo.rsqrt %x : tensor<4xf64>
  %one = stablehlo.multiply %rsqrt, %sqrt : tensor<4xf64>
  check.expect_almost_eq %log, %x : tensor<4xf64>
  check.expect_almost_eq %log1p, %x : tensor<4xf64>
  check.expect_almost_eq %square, %x : tensor<4xf64>
  check.expect_almost_eq %cube, %x : tensor<4xf64>
  check.expect_almost_eq_const %one, dense<1.0> : tensor<4xf64>
  func.return
}

// -----

func.func @circle_functions() {
  %x = stablehlo.constant dense<[0.0, 0.5, -1.0, 2.0]> : tensor<4xf32>
  %sin = stablehlo.sine %x : tensor<4xf32>
  %cos = stablehlo.cosine %x : tensor<4xf32>
  %tan = stablehlo.tan %x : tensor<4xf32>
  %atan2 = stablehlo.atan2 %sin, %cos : tensor<4xf32>
  %quotient = stablehlo.divide %sin, %cos : tensor<4xf32>
  check.expect_almost_eq %atan2, %x : tensor<4xf32>
  check.expect_almost_eq %tan, %quotient, tolerance = 0.00001 : tensor<4xf32>
  check.expect_almost_eq_const %sin, dense<[0.0, 0.479425539, -0.841470985, 0.909297427]> : tensor<4xf32>
  func.return
}

// -----

func.func @saturating_functions() {
  %x = stablehlo.constant dense<[0.0, 1.0, -100.0, 100.0]> : tensor<4xf32>
  %tanh = stablehlo.tanh %x : tensor<4xf32>
  %logistic = stablehlo.logistic %x : tensor<4xf32>
  check.expect_almost_eq_const %tanh, dense<[0.0, 0.761594156, -1.0, 1.0]> : tensor<4xf32>
  check.expect_almost_eq_const %logistic, dense<[0.5, 0.731058579, 0.0, 1.0]> : tensor<4xf32>
  func.return
}

// -----

func.func @special_values() {
  %x = stablehlo.constant dense<[0x7F800000, 0xFF800000, 0x7FC00000, -0.0]> : tensor<4xf32>
  %y = stablehlo.constant dense<[1.0, 1.0, 1.0, 0.0]> : tensor<4xf32>
  %finite = stablehlo.is_finite %x : (tensor<4xf32>) -> tensor<4xi1>
  %max = stablehlo.maximum %x, %y : tensor<4xf32>
  %min = stablehlo.minimum %x, %y : tensor<4xf32>
  %abs = stablehlo.abs %x : tensor<4xf32>
  check.expect_eq_const %finite, dense<[false, false, false, true]> : tensor<4xi1>
  check.expect_eq_const %max, dense<[0x7F800000, 1.0, 0x7FC00000, 0.0]> : tensor<4xf32>
  check.expect_eq_const %min, dense<[1.0, 0xFF800000, 0x7FC00000, 0.0]> : tensor<4xf32>
  check.expect_eq_const %abs, dense<[0x7F800000, 0x7F800000, 0x7FC00000, 0.0]> : tensor<4xf32>
  func.return
}

// -----

func.func @clamp_with_scalar_bounds() {
  %low = stablehlo.constant dense<-1.0> : tensor<f32>
  %high = stablehlo.constant dense<2.0> : tensor<f32>
  %x = stablehlo.constant dense<[-3.0, 0.5, 7.0]> : tensor<3xf32>
  %clamped = stablehlo.clamp %low, %x, %high : (tensor<f32>, tensor<3xf32>, tensor<f32>) -> tensor<3xf32>
  check.expect_eq_const %clamped, dense<[-1.0, 0.5, 2.0]> : tensor<3xf32>
  func.return
}

// -----

func.func @higher_functions() {
  %x = stablehlo.constant dense<[0.0, 0.5, -1.0]> : tensor<3xf32>
  %erf = chlo.erf %x : tensor<3xf32> -> tensor<3xf32>
  %erfc = chlo.erfc %x : tensor<3xf32> -> tensor<3xf32>
  %sum = stablehlo.add %erf, %erfc : tensor<3xf32>
  check.expect_almost_eq_const %erf, dense<[0.0, 0.520499878, -0.842700793]> : tensor<3xf32>
  check.expect_almost_eq_const %sum, dense<1.0> : tensor<3xf32>
  func.return
}
