// Conversions, rounding to narrow types, bit patterns, comparisons and select.

func.func @floats_become_integers_toward_zero() {
  %x = stablehlo.constant dense<[-1.9, 1.9, 0.0, 3.0]> : tensor<4xf32>
  %i = stablehlo.convert %x : (tensor<4xf32>) -> tensor<4xi32>
  %back = stablehlo.convert %i : (tensor<4xi32>) -> tensor<4xf64>
  check.expect_eq_const %i, dense<[-1, 1, 0, 3]> : tensor<4xi32>
  check.expect_eq_const %back, dense<[-1.0, 1.0, 0.0, 3.0]> : tensor<4xf64>
  func.return
}

// -----

func.func @truth_values_are_not_truncated() {
  %x = stablehlo.constant dense<[0.0, 0.25, -3.0]> : tensor<3xf32>
  %b = stablehlo.convert %x : (tensor<3xf32>) -> tensor<3xi1>
  %n = stablehlo.convert %b : (tensor<3xi1>) -> tensor<3xui8>
  check.expect_eq_const %b, dense<[false, true, true]> : tensor<3xi1>
  check.expect_eq_const %n, dense<[0, 1, 1]> : tensor<3xui8>
  func.return
}

// -----

func.func @narrow_floats_round_to_nearest_even() {
  %x = stablehlo.constant dense<[1.00390625, 1.01171875, 70000.0]> : tensor<3xf32>
  %b = stablehlo.convert %x : (tensor<3xf32>) -> tensor<3xbf16>
  %h = stablehlo.convert %x : (tensor<3xf32>) -> tensor<3xf16>
  %b32 = stablehlo.convert %b : (tensor<3xbf16>) -> tensor<3xf32>
  check.expect_eq_const %b32, dense<[1.0, 1.015625, 70144.0]> : tensor<3xf32>
  check.expect_eq_const %h, dense<[1.00390625, 1.01171875, 0x7C00]> : tensor<3xf16>
  func.return
}

// -----

func.func @wrapping_between_integer_widths() {
  %x = stablehlo.constant dense<[300, -1, 128]> : tensor<3xi32>
  %u = stablehlo.convert %x : (tensor<3xi32>) -> tensor<3xui8>
  %s = stablehlo.convert %x : (tensor<3xi32>) -> tensor<3xi8>
  check.expect_eq_const %u, dense<[44, 255, 128]> : tensor<3xui8>
  check.expect_eq_const %s, dense<[44, -1, -128]> : tensor<3xi8>
  func.return
}

// -----

func.func @bit_patterns() {
  %x = stablehlo.constant dense<[1.0, -2.0]> : tensor<2xf32>
  %bits = stablehlo.bitcast_convert %x : (tensor<2xf32>) -> tensor<2xui32>
  %halves = stablehlo.bitcast_convert %bits : (tensor<2xui32>) -> tensor<2x2xui16>
  %whole = stablehlo.bitcast_convert %halves : (tensor<2x2xui16>) -> tensor<2xf32>
  check.expect_eq_const %bits, dense<[1065353216, 3221225472]> : tensor<2xui32>
  check.expect_eq_const %halves, dense<[[0, 16256], [0, 49152]]> : tensor<2x2xui16>
  check.expect_eq %whole, %x : tensor<2xf32>
  func.return
}

// -----

func.func @reduced_precision() {
  %x = stablehlo.constant dense<[1.0, 1.00390625, 1.01171875, 0x7F800000]> : tensor<4xf32>
  %r = stablehlo.reduce_precision %x, format = e8m7 : tensor<4xf32>
  check.expect_eq_const %r, dense<[1.0, 1.0, 1.015625, 0x7F800000]> : tensor<4xf32>
  func.return
}

// -----

func.func @comparisons_with_nan() {
  %a = stablehlo.constant dense<[1.0, 0x7FC00000, 2.0]> : tensor<3xf32>
  %b = stablehlo.constant dense<[1.0, 0x7FC00000, 3.0]> : tensor<3xf32>
  %eq = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
  %ne = stablehlo.compare NE, %a, %b, FLOAT : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
  %ge = stablehlo.compare GE, %a, %b, FLOAT : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
  %lt = stablehlo.compare LT, %a, %b, FLOAT : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
  check.expect_eq_const %eq, dense<[true, false, false]> : tensor<3xi1>
  check.expect_eq_const %ne, dense<[false, true, true]> : tensor<3xi1>
  check.expect_eq_const %ge, dense<[true, false, false]> : tensor<3xi1>
  check.expect_eq_const %lt, dense<[false, false, true]> : tensor<3xi1>
  func.return
}

// -----

func.func @the_total_order_tells_zeros_apart() {
  %a = stablehlo.constant dense<[-0.0, 0xFFC00000, 1.0]> : tensor<3xf32>
  %b = stablehlo.constant dense<[0.0, 0xFF800000, 0x7FC00000]> : tensor<3xf32>
  %lt = stablehlo.compare LT, %a, %b, TOTALORDER : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
  check.expect_eq_const %lt, dense<[true, true, true]> : tensor<3xi1>
  func.return
}

// -----

func.func @select_by_one_truth_value() {
  %p = stablehlo.constant dense<false> : tensor<i1>
  %each = stablehlo.constant dense<[true, false]> : tensor<2xi1>
  %a = stablehlo.constant dense<[1, 2]> : tensor<2xi64>
  %b = stablehlo.constant dense<[3, 4]> : tensor<2xi64>
  %all = stablehlo.select %p, %a, %b : tensor<i1>, tensor<2xi64>
  %some = stablehlo.select %each, %a, %b : tensor<2xi1>, tensor<2xi64>
  check.expect_eq_const %all, dense<[3, 4]> : tensor<2xi64>
  check.expect_eq_const %some, dense<[1, 4]> : tensor<2xi64>
  func.return
}
