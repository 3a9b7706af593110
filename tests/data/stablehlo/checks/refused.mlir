// What must be refused, and what may be skipped.

// expected-error
func.func @types_that_do_not_agree(%a: tensor<2xf32>, %b: tensor<3xf32>) -> tensor<2xf32> {
  %0 = stablehlo.add %a, %b : tensor<2xf32>
  return %0 : tensor<2xf32>
}

// -----

// expected-error
func.func @a_value_that_nobody_made() -> tensor<2xf32> {
  return %nothing : tensor<2xf32>
}

// -----

// expected-error
func.func @an_op_that_is_unknown(%a: tensor<2xf32>) -> tensor<2xf32> {
  %0 = "stablehlo.frobnicate"(%a) : (tensor<2xf32>) -> tensor<2xf32>
  return %0 : tensor<2xf32>
}

// -----

func.func @dynamic(%a: tensor<?x2xf32>) -> tensor<?x2xf32> {
  check.expect_eq %a, %a : tensor<?x2xf32>
  return %a : tensor<?x2xf32>
}

// -----

func.func @quantized() {
  %0 = stablehlo.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %1 = stablehlo.uniform_quantize %0 : (tensor<2xf32>) -> tensor<2x!quant.uniform<i8:f32, 0.5:0>>
  %2 = stablehlo.uniform_dequantize %1 : (tensor<2x!quant.uniform<i8:f32, 0.5:0>>) -> tensor<2xf32>
  check.expect_eq %2, %0 : tensor<2xf32>
  func.return
}
