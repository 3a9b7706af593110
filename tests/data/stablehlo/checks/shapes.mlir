// Ops that move elements without changing them.

func.func @broadcast_reshape_transpose() {
  %x = stablehlo.constant dense<[[1, 2, 3]]> : tensor<1x3xi32>
  %b = stablehlo.broadcast_in_dim %x, dims = [2, 0] : (tensor<1x3xi32>) -> tensor<3x1x2xi32>
  %r = stablehlo.reshape %b : (tensor<3x1x2xi32>) -> tensor<2x3xi32>
  %t = stablehlo.transpose %r, dims = [1, 0] : (tensor<2x3xi32>) -> tensor<3x2xi32>
  check.expect_eq_const %b, dense<[[[1, 1]], [[2, 2]], [[3, 3]]]> : tensor<3x1x2xi32>
  check.expect_eq_const %r, dense<[[1, 1, 2], [2, 3, 3]]> : tensor<2x3xi32>
  check.expect_eq_const %t, dense<[[1, 2], [1, 3], [2, 3]]> : tensor<3x2xi32>
  func.return
}

// -----

func.func @slice_concatenate_reverse() {
  %x = stablehlo.constant dense<[[0, 1, 2, 3], [4, 5, 6, 7]]> : tensor<2x4xi32>
  %s = stablehlo.slice %x [0:2, 1:4:2] : (tensor<2x4xi32>) -> tensor<2x2xi32>
  %c = stablehlo.concatenate %s, %x, dim = 1 : (tensor<2x2xi32>, tensor<2x4xi32>) -> tensor<2x6xi32>
  %r = stablehlo.reverse %c, dims = [1] : tensor<2x6xi32>
  check.expect_eq_const %s, dense<[[1, 3], [5, 7]]> : tensor<2x2xi32>
  check.expect_eq_const %c, dense<[[1, 3, 0, 1, 2, 3], [5, 7, 4, 5, 6, 7]]> : tensor<2x6xi32>
  check.expect_eq_const %r, dense<[[3, 2, 1, 0, 3, 1], [7, 6, 5, 4, 7, 5]]> : tensor<2x6xi32>
  func.return
}

// -----

func.func @pad_inside_outside_and_away() {
  %x = stablehlo.constant dense<[1, 2, 3]> : tensor<3xi32>
  %v = stablehlo.constant dense<9> : tensor<i32>
  %outside = stablehlo.pad %x, %v, low = [1], high = [2], interior = [0] : (tensor<3xi32>, tensor<i32>) -> tensor<6xi32>
  %inside = stablehlo.pad %x, %v, low = [0], high = [0], interior = [2] : (tensor<3xi32>, tensor<i32>) -> tensor<7xi32>
  %away = stablehlo.pad %x, %v, low = [-1], high = [-1], interior = [0] : (tensor<3xi32>, tensor<i32>) -> tensor<1xi32>
  check.expect_eq_const %outside, dense<[9, 1, 2, 3, 9, 9]> : tensor<6xi32>
  check.expect_eq_const %inside, dense<[1, 9, 9, 2, 9, 9, 3]> : tensor<7xi32>
  check.expect_eq_const %away, dense<[2]> : tensor<1xi32>
  func.return
}

// -----

func.func @iota_in_either_dimension() {
  %rows = stablehlo.iota dim = 0 : tensor<2x3xi32>
  %columns = stablehlo.iota dim = 1 : tensor<2x3xf32>
  check.expect_eq_const %rows, dense<[[0, 0, 0], [1, 1, 1]]> : tensor<2x3xi32>
  check.expect_eq_const %columns, dense<[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]> : tensor<2x3xf32>
  func.return
}

// -----

func.func @dynamic_starts_are_clamped() {
  %x = stablehlo.constant dense<[[0, 1, 2], [3, 4, 5]]> : tensor<2x3xi32>
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %far = stablehlo.constant dense<7> : tensor<i64>
  %before = stablehlo.constant dense<-7> : tensor<i64>
  %s = stablehlo.dynamic_slice %x, %zero, %far, sizes = [2, 2] : (tensor<2x3xi32>, tensor<i64>, tensor<i64>) -> tensor<2x2xi32>
  %u = stablehlo.constant dense<[[8, 9]]> : tensor<1x2xi32>
  %w = stablehlo.dynamic_update_slice %x, %u, %far, %before : (tensor<2x3xi32>, tensor<1x2xi32>, tensor<i64>, tensor<i64>) -> tensor<2x3xi32>
  check.expect_eq_const %s, dense<[[1, 2], [4, 5]]> : tensor<2x2xi32>
  check.expect_eq_const %w, dense<[[0, 1, 2], [8, 9, 5]]> : tensor<2x3xi32>
  func.return
}

// -----

func.func @nothing_is_a_tensor_too() {
  %x = stablehlo.constant dense<> : tensor<0x3xf32>
  %y = stablehlo.constant dense<[[1.0, 2.0, 3.0]]> : tensor<1x3xf32>
  %c = stablehlo.concatenate %x, %y, dim = 0 : (tensor<0x3xf32>, tensor<1x3xf32>) -> tensor<1x3xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %r = stablehlo.reduce(%x init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<0x3xf32>, tensor<f32>) -> tensor<3xf32>
  %n = stablehlo.negate %x : tensor<0x3xf32>
  check.expect_eq %c, %y : tensor<1x3xf32>
  check.expect_eq_const %r, dense<0.0> : tensor<3xf32>
  check.expect_eq %n, %x : tensor<0x3xf32>
  func.return
}
