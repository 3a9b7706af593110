// Random bits, linear algebra, transforms and complex numbers.

func.func @threefry() {
  %state = stablehlo.constant dense<0> : tensor<2xui64>
  %next, %bits = stablehlo.rng_bit_generator %state, algorithm = THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<2xui32>)
  check.expect_eq_const %bits, dense<[1797259609, 2579123966]> : tensor<2xui32>
  check.expect_eq_const %next, dense<[0, 1]> : tensor<2xui64>
  func.return
}

// -----

func.func @cholesky() {
  %a = stablehlo.constant dense<[[4.0, 2.0], [2.0, 10.0]]> : tensor<2x2xf32>
  %l = stablehlo.cholesky %a, lower = true : tensor<2x2xf32>
  %column = stablehlo.slice %l [0:2, 0:1] : (tensor<2x2xf32>) -> tensor<2x1xf32>
  %corner = stablehlo.slice %l [1:2, 1:2] : (tensor<2x2xf32>) -> tensor<1x1xf32>
  check.expect_almost_eq_const %column, dense<[[2.0], [1.0]]> : tensor<2x1xf32>
  check.expect_almost_eq_const %corner, dense<[[3.0]]> : tensor<1x1xf32>
  func.return
}

// -----

func.func @triangular_solve() {
  %l = stablehlo.constant dense<[[2.0, 0.0], [1.0, 3.0]]> : tensor<2x2xf32>
  %b = stablehlo.constant dense<[[4.0], [11.0]]> : tensor<2x1xf32>
  %x = "stablehlo.triangular_solve"(%l, %b) {
    left_side = true, lower = true, unit_diagonal = false, transpose_a = #stablehlo<transpose NO_TRANSPOSE>
  } : (tensor<2x2xf32>, tensor<2x1xf32>) -> tensor<2x1xf32>
  check.expect_almost_eq_const %x, dense<[[2.0], [3.0]]> : tensor<2x1xf32>
  func.return
}

// -----

func.func @fourier_transform() {
  %x = stablehlo.constant dense<[1.0, 0.0, -1.0, 0.0]> : tensor<4xf32>
  %f = stablehlo.fft %x, type = RFFT, length = [4] : (tensor<4xf32>) -> tensor<3xcomplex<f32>>
  %re = stablehlo.real %f : (tensor<3xcomplex<f32>>) -> tensor<3xf32>
  %im = stablehlo.imag %f : (tensor<3xcomplex<f32>>) -> tensor<3xf32>
  %back = stablehlo.fft %f, type = IRFFT, length = [4] : (tensor<3xcomplex<f32>>) -> tensor<4xf32>
  check.expect_almost_eq_const %re, dense<[0.0, 2.0, 0.0]> : tensor<3xf32>
  check.expect_almost_eq_const %im, dense<[0.0, 0.0, 0.0]> : tensor<3xf32>
  check.expect_almost_eq %back, %x : tensor<4xf32>
  func.return
}

// -----

func.func @complex_numbers() {
  %a = stablehlo.constant dense<[(1.0, 2.0), (0.0, 1.0)]> : tensor<2xcomplex<f32>>
  %b = stablehlo.constant dense<[(3.0, -1.0), (0.0, 1.0)]> : tensor<2xcomplex<f32>>
  %product = stablehlo.multiply %a, %b : tensor<2xcomplex<f32>>
  %abs = stablehlo.abs %b : (tensor<2xcomplex<f32>>) -> tensor<2xf32>
  check.expect_eq_const %product, dense<[(5.0, 5.0), (-1.0, 0.0)]> : tensor<2xcomplex<f32>>
  check.expect_almost_eq_const %abs, dense<[3.16227766, 1.0]> : tensor<2xf32>
  func.return
}
