// Integer rules: division toward zero, division by zero, overflow, shifts past the width.

func.func @signed_division() {
  %a = stablehlo.constant dense<[7, -7, 7, -7, 5]> : tensor<5xi32>
  %b = stablehlo.constant dense<[2, 2, -2, -2, 0]> : tensor<5xi32>
  %div = stablehlo.divide %a, %b : tensor<5xi32>
  %rem = stablehlo.remainder %a, %b : tensor<5xi32>
  check.expect_eq_const %div, dense<[3, -3, -3, 3, -1]> : tensor<5xi32>
  check.expect_eq_const %rem, dense<[1, -1, 1, -1, 5]> : tensor<5xi32>
  func.return
}

// -----

func.func @the_smallest_number_divided_by_minus_one() {
  %a = stablehlo.constant dense<-128> : tensor<i8>
  %b = stablehlo.constant dense<-1> : tensor<i8>
  %div = stablehlo.divide %a, %b : tensor<i8>
  %rem = stablehlo.remainder %a, %b : tensor<i8>
  check.expect_eq_const %div, dense<-128> : tensor<i8>
  check.expect_eq_const %rem, dense<0> : tensor<i8>
  func.return
}

// -----

func.func @unsigned_numbers() {
  %a = stablehlo.constant dense<[250, 7, 0]> : tensor<3xui8>
  %b = stablehlo.constant dense<[10, 2, 1]> : tensor<3xui8>
  %add = stablehlo.add %a, %b : tensor<3xui8>
  %sub = stablehlo.subtract %b, %a : tensor<3xui8>
  %div = stablehlo.divide %a, %b : tensor<3xui8>
  %max = stablehlo.maximum %a, %b : tensor<3xui8>
  check.expect_eq_const %add, dense<[4, 9, 1]> : tensor<3xui8>
  check.expect_eq_const %sub, dense<[16, 251, 1]> : tensor<3xui8>
  check.expect_eq_const %div, dense<[25, 3, 0]> : tensor<3xui8>
  check.expect_eq_const %max, dense<[250, 7, 1]> : tensor<3xui8>
  func.return
}

// -----

func.func @large_unsigned_numbers_are_ordered_as_unsigned() {
  %a = stablehlo.constant dense<[18446744073709551615, 1]> : tensor<2xui64>
  %b = stablehlo.constant dense<[1, 2]> : tensor<2xui64>
  %less = stablehlo.compare LT, %a, %b, UNSIGNED : (tensor<2xui64>, tensor<2xui64>) -> tensor<2xi1>
  %div = stablehlo.divide %a, %b : tensor<2xui64>
  check.expect_eq_const %less, dense<[false, true]> : tensor<2xi1>
  check.expect_eq_const %div, dense<[18446744073709551615, 0]> : tensor<2xui64>
  func.return
}

// -----

func.func @bits() {
  %a = stablehlo.constant dense<[12, -1, 0]> : tensor<3xi32>
  %b = stablehlo.constant dense<[10, 6, 5]> : tensor<3xi32>
  %and = stablehlo.and %a, %b : tensor<3xi32>
  %or = stablehlo.or %a, %b : tensor<3xi32>
  %xor = stablehlo.xor %a, %b : tensor<3xi32>
  %not = stablehlo.not %a : tensor<3xi32>
  %ones = stablehlo.popcnt %a : tensor<3xi32>
  %zeros = stablehlo.count_leading_zeros %b : tensor<3xi32>
  check.expect_eq_const %and, dense<[8, 6, 0]> : tensor<3xi32>
  check.expect_eq_const %or, dense<[14, -1, 5]> : tensor<3xi32>
  check.expect_eq_const %xor, dense<[6, -7, 5]> : tensor<3xi32>
  check.expect_eq_const %not, dense<[-13, 0, -1]> : tensor<3xi32>
  check.expect_eq_const %ones, dense<[2, 32, 0]> : tensor<3xi32>
  check.expect_eq_const %zeros, dense<[28, 29, 29]> : tensor<3xi32>
  func.return
}

// -----

func.func @shifts() {
  %a = stablehlo.constant dense<[-8, 8, -1, 1]> : tensor<4xi32>
  %by = stablehlo.constant dense<[1, 2, 32, 40]> : tensor<4xi32>
  %left = stablehlo.shift_left %a, %by : tensor<4xi32>
  %arithmetic = stablehlo.shift_right_arithmetic %a, %by : tensor<4xi32>
  %logical = stablehlo.shift_right_logical %a, %by : tensor<4xi32>
  check.expect_eq_const %left, dense<[-16, 32, 0, 0]> : tensor<4xi32>
  check.expect_eq_const %arithmetic, dense<[-4, 2, -1, 0]> : tensor<4xi32>
  check.expect_eq_const %logical, dense<[2147483644, 2, 0, 0]> : tensor<4xi32>
  func.return
}

// -----

func.func @truth_values() {
  %a = stablehlo.constant dense<[true, true, false, false]> : tensor<4xi1>
  %b = stablehlo.constant dense<[true, false, true, false]> : tensor<4xi1>
  %and = stablehlo.and %a, %b : tensor<4xi1>
  %add = stablehlo.add %a, %b : tensor<4xi1>
  %mul = stablehlo.multiply %a, %b : tensor<4xi1>
  %not = stablehlo.not %a : tensor<4xi1>
  check.expect_eq_const %and, dense<[true, false, false, false]> : tensor<4xi1>
  check.expect_eq_const %add, dense<[true, true, true, false]> : tensor<4xi1>
  check.expect_eq %mul, %and : tensor<4xi1>
  check.expect_eq_const %not, dense<[false, false, true, true]> : tensor<4xi1>
  func.return
}

// -----

func.func @integer_power() {
  %a = stablehlo.constant dense<[2, -3, 0, 1, -1, 2]> : tensor<6xi32>
  %b = stablehlo.constant dense<[10, 3, 0, -4, -3, -1]> : tensor<6xi32>
  %power = stablehlo.power %a, %b : tensor<6xi32>
  check.expect_eq_const %power, dense<[1024, -27, 1, 1, -1, 0]> : tensor<6xi32>
  func.return
}
