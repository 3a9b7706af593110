// Products of tensors: matrix products with batches, and convolutions of every kind.

func.func @matrix_product() {
  %a = stablehlo.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  %b = stablehlo.constant dense<[[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]]> : tensor<2x3xf32>
  %c = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<3x2xf32>, tensor<2x3xf32>) -> tensor<3x3xf32>
  check.expect_eq_const %c, dense<[[5.0, 2.0, -1.0], [11.0, 4.0, -3.0], [17.0, 6.0, -5.0]]> : tensor<3x3xf32>
  func.return
}

// -----

func.func @batched_product_of_transposed_integers() {
  %a = stablehlo.constant dense<[[[1, 2]], [[3, 4]]]> : tensor<2x1x2xi64>
  %b = stablehlo.constant dense<[[[1, 1], [0, 2]], [[1, 0], [5, 1]]]> : tensor<2x2x2xi64>
  %c = "stablehlo.dot_general"(%a, %b) {
    dot_dimension_numbers = #stablehlo.dot<
      lhs_batching_dimensions = [0], rhs_batching_dimensions = [0],
      lhs_contracting_dimensions = [2], rhs_contracting_dimensions = [2]>
  } : (tensor<2x1x2xi64>, tensor<2x2x2xi64>) -> tensor<2x1x2xi64>
  check.expect_eq_const %c, dense<[[[3, 4]], [[3, 19]]]> : tensor<2x1x2xi64>
  func.return
}

// -----

func.func @half_precision_is_summed_in_single() {
  %a = stablehlo.constant dense<[[2048.0, 1.0, 1.0, 1.0]]> : tensor<1x4xf16>
  %b = stablehlo.constant dense<[[1.0], [1.0], [1.0], [1.0]]> : tensor<4x1xf16>
  %c = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<1x4xf16>, tensor<4x1xf16>) -> tensor<1x1xf32>
  check.expect_eq_const %c, dense<[[2051.0]]> : tensor<1x1xf32>
  func.return
}

// -----

func.func @convolution_with_stride_and_padding() {
  %x = stablehlo.constant dense<[[[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]], [[7.0], [8.0], [9.0]]]]> : tensor<1x3x3x1xf32>
  %w = stablehlo.constant dense<1.0> : tensor<2x2x1x1xf32>
  %y = stablehlo.convolution(%x, %w)
    dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
    window = {stride = [2, 2], pad = [[0, 1], [1, 0]]}
    {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<1x3x3x1xf32>, tensor<2x2x1x1xf32>) -> tensor<1x2x2x1xf32>
  check.expect_eq_const %y, dense<[[[[5.0], [16.0]], [[7.0], [17.0]]]]> : tensor<1x2x2x1xf32>
  func.return
}

// -----

func.func @convolution_in_groups() {
  %x = stablehlo.constant dense<[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]> : tensor<1x2x3xf32>
  %w = stablehlo.constant dense<[[[1.0, 1.0]], [[2.0, 0.0]]]> : tensor<2x1x2xf32>
  %y = stablehlo.convolution(%x, %w)
    dim_numbers = [b, f, 0]x[o, i, 0]->[b, f, 0], window = {}
    {batch_group_count = 1 : i64, feature_group_count = 2 : i64}
    : (tensor<1x2x3xf32>, tensor<2x1x2xf32>) -> tensor<1x2x2xf32>
  check.expect_eq_const %y, dense<[[[3.0, 5.0], [8.0, 10.0]]]> : tensor<1x2x2xf32>
  func.return
}

// -----

func.func @dilated_and_reversed_convolution() {
  %x = stablehlo.constant dense<[[[1.0, 2.0, 3.0]]]> : tensor<1x1x3xf32>
  %w = stablehlo.constant dense<[[[1.0, 10.0]]]> : tensor<1x1x2xf32>
  %lhs = stablehlo.convolution(%x, %w)
    dim_numbers = [b, f, 0]x[o, i, 0]->[b, f, 0], window = {lhs_dilate = [2]}
    {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<1x1x3xf32>, tensor<1x1x2xf32>) -> tensor<1x1x4xf32>
  %rhs = stablehlo.convolution(%x, %w)
    dim_numbers = [b, f, 0]x[o, i, 0]->[b, f, 0], window = {rhs_dilate = [2], reverse = [true]}
    {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
    : (tensor<1x1x3xf32>, tensor<1x1x2xf32>) -> tensor<1x1x1xf32>
  check.expect_eq_const %lhs, dense<[[[1.0, 20.0, 2.0, 30.0]]]> : tensor<1x1x4xf32>
  check.expect_eq_const %rhs, dense<[[[13.0]]]> : tensor<1x1x1xf32>
  func.return
}
