// gather, scatter, sort and top_k.

func.func @rows_by_index() {
  %table = stablehlo.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  %i = stablehlo.constant dense<[[2], [0], [9]]> : tensor<3x1xi32>
  %rows = "stablehlo.gather"(%table, %i) {
    dimension_numbers = #stablehlo.gather<
      offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>,
    slice_sizes = array<i64: 1, 2>,
    indices_are_sorted = false
  } : (tensor<3x2xf32>, tensor<3x1xi32>) -> tensor<3x2xf32>
  check.expect_eq_const %rows, dense<[[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]> : tensor<3x2xf32>
  func.return
}

// -----

func.func @batched_gather() {
  %x = stablehlo.constant dense<[[10, 11, 12], [20, 21, 22]]> : tensor<2x3xi32>
  %i = stablehlo.constant dense<[[[2], [0]], [[1], [1]]]> : tensor<2x2x1xi64>
  %y = "stablehlo.gather"(%x, %i) {
    dimension_numbers = #stablehlo.gather<
      collapsed_slice_dims = [1], operand_batching_dims = [0], start_indices_batching_dims = [0],
      start_index_map = [1], index_vector_dim = 2>,
    slice_sizes = array<i64: 1, 1>
  } : (tensor<2x3xi32>, tensor<2x2x1xi64>) -> tensor<2x2xi32>
  check.expect_eq_const %y, dense<[[12, 10], [21, 21]]> : tensor<2x2xi32>
  func.return
}

// -----

func.func @updates_outside_are_dropped_and_equal_indices_add() {
  %x = stablehlo.constant dense<[[1, 1], [1, 1], [1, 1]]> : tensor<3x2xi32>
  %i = stablehlo.constant dense<[[0], [2], [0], [3], [-1]]> : tensor<5x1xi32>
  %u = stablehlo.constant dense<[[1, 2], [3, 4], [5, 6], [100, 100], [100, 100]]> : tensor<5x2xi32>
  %y = "stablehlo.scatter"(%x, %i, %u) ({
    ^bb0(%a: tensor<i32>, %b: tensor<i32>):
      %0 = stablehlo.add %a, %b : tensor<i32>
      stablehlo.return %0 : tensor<i32>
  }) {
    scatter_dimension_numbers = #stablehlo.scatter<
      update_window_dims = [1], inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>,
    indices_are_sorted = false, unique_indices = false
  } : (tensor<3x2xi32>, tensor<5x1xi32>, tensor<5x2xi32>) -> tensor<3x2xi32>
  check.expect_eq_const %y, dense<[[7, 9], [1, 1], [4, 5]]> : tensor<3x2xi32>
  func.return
}

// -----

func.func @scatter_that_replaces() {
  %x = stablehlo.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %i = stablehlo.constant dense<[[3], [1]]> : tensor<2x1xi32>
  %u = stablehlo.constant dense<[30.0, 10.0]> : tensor<2xf32>
  %y = "stablehlo.scatter"(%x, %i, %u) ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      stablehlo.return %b : tensor<f32>
  }) {
    scatter_dimension_numbers = #stablehlo.scatter<
      inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>,
    unique_indices = true
  } : (tensor<4xf32>, tensor<2x1xi32>, tensor<2xf32>) -> tensor<4xf32>
  check.expect_eq_const %y, dense<[1.0, 10.0, 3.0, 30.0]> : tensor<4xf32>
  func.return
}

// -----

func.func @sort_of_two_operands() {
  %k = stablehlo.constant dense<[[3, 1, 2], [1, 3, 1]]> : tensor<2x3xi32>
  %v = stablehlo.constant dense<[[30.0, 10.0, 20.0], [11.0, 33.0, 12.0]]> : tensor<2x3xf32>
  %s:2 = "stablehlo.sort"(%k, %v) ({
    ^bb0(%a: tensor<i32>, %b: tensor<i32>, %c: tensor<f32>, %d: tensor<f32>):
      %0 = stablehlo.compare LT, %a, %b, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %0 : tensor<i1>
  }) {dimension = 1 : i64, is_stable = true} : (tensor<2x3xi32>, tensor<2x3xf32>) -> (tensor<2x3xi32>, tensor<2x3xf32>)
  check.expect_eq_const %s#0, dense<[[1, 2, 3], [1, 1, 3]]> : tensor<2x3xi32>
  check.expect_eq_const %s#1, dense<[[10.0, 20.0, 30.0], [11.0, 12.0, 33.0]]> : tensor<2x3xf32>
  func.return
}

// -----

func.func @largest_two() {
  %x = stablehlo.constant dense<[[1.0, 4.0, 2.0, 4.0]]> : tensor<1x4xf32>
  %values, %indices = chlo.top_k(%x, k = 2) : tensor<1x4xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  check.expect_eq_const %values, dense<[[4.0, 4.0]]> : tensor<1x2xf32>
  check.expect_eq_const %indices, dense<[[1, 3]]> : tensor<1x2xi32>
  func.return
}
