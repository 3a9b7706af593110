module @jit_f attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {
  func.func public @main(%arg0: tensor<5xi32>) -> (tensor<5xi32> {jax.result_info = "result[0]"}, tensor<4xui4> {jax.result_info = "result[1]"}, tensor<5xf4E2M1FN> {jax.result_info = "result[2]"}, tensor<5xi2> {jax.result_info = "result[3]"}, tensor<3xf8E8M0FNU> {jax.result_info = "result[4]"}, tensor<5xi4> {jax.result_info = "result[5]"}) {
    %c = stablehlo.constant dense<[1, 2, -3, 4, 7]> : tensor<5xi4>
    %c_0 = stablehlo.constant dense<[1, 2, 13, 4]> : tensor<4xui4>
    %cst = stablehlo.constant dense<[1.000000e+00, 2.000000e+00, -3.000000e+00, 5.000000e-01, 6.000000e+00]> : tensor<5xf4E2M1FN>
    %c_1 = stablehlo.constant dense<[1, -2, 0, 1, 1]> : tensor<5xi2>
    %cst_2 = stablehlo.constant dense<[1.000000e+00, 2.000000e+00, 4.000000e+00]> : tensor<3xf8E8M0FNU>
    %0 = stablehlo.convert %c : (tensor<5xi4>) -> tensor<5xi32>
    %1 = stablehlo.add %arg0, %0 : tensor<5xi32>
    %2 = stablehlo.convert %arg0 : (tensor<5xi32>) -> tensor<5xi4>
    %3 = stablehlo.multiply %2, %c : tensor<5xi4>
    return %1, %c_0, %cst, %c_1, %cst_2, %3 : tensor<5xi32>, tensor<4xui4>, tensor<5xf4E2M1FN>, tensor<5xi2>, tensor<3xf8E8M0FNU>, tensor<5xi4>
  }
}
