// Types and literals that are wrong.

func.func @main(%x: tensor<2xf33>) -> tensor<2xf33> { return %x : tensor<2xf33> }
// -----
func.func @main(%x: tensor<2x-1xf32>) -> tensor<2xf32> { return %x : tensor<2xf32> }
// -----
func.func @main(%x: tensor<99999999999999999999xf32>) -> tensor<2xf32> { return %x : tensor<2xf32> }
// -----
func.func @main(%x: tensor<4294967296x4294967296xf32>) -> tensor<4294967296x4294967296xf32> { return %x : tensor<4294967296x4294967296xf32> }
// -----
func.func @main() -> tensor<3xf32> {
  %0 = stablehlo.constant dense<[1.0, 2.0]> : tensor<3xf32>
  return %0 : tensor<3xf32>
}
// -----
func.func @main() -> tensor<2x2xf32> {
  %0 = stablehlo.constant dense<[[1.0, 2.0], [3.0]]> : tensor<2x2xf32>
  return %0 : tensor<2x2xf32>
}
// -----
func.func @main() -> tensor<2xi8> {
  %0 = stablehlo.constant dense<[1, 400]> : tensor<2xi8>
  return %0 : tensor<2xi8>
}
// -----
func.func @main() -> tensor<2xf32> {
  %0 = stablehlo.constant dense<"0x0000803F00"> : tensor<2xf32>
  return %0 : tensor<2xf32>
}
// -----
func.func @main() -> tensor<2xf32> {
  %0 = stablehlo.constant dense<"0x0000803F000080ZZ"> : tensor<2xf32>
  return %0 : tensor<2xf32>
}
// -----
func.func @main() -> tensor<2xf32> {
  %0 = stablehlo.constant dense_resource<__elided__> : tensor<2xf32>
  return %0 : tensor<2xf32>
}
// -----
func.func @main() -> tensor<2xf32> {
  %0 = stablehlo.constant dense_resource<weights> : tensor<2xf32>
  return %0 : tensor<2xf32>
}
