// Integers of two and four bits, and floats of eight bits and fewer.

func.func @integers_wrap_around() {
  %a = stablehlo.constant dense<[7, -8, -8, 3]> : tensor<4xi4>
  %b = stablehlo.constant dense<[1, -1, -8, 5]> : tensor<4xi4>
  %sum = stablehlo.add %a, %b : tensor<4xi4>
  check.expect_eq_const %sum, dense<[-8, 7, 0, -8]> : tensor<4xi4>
  %difference = stablehlo.subtract %a, %b : tensor<4xi4>
  check.expect_eq_const %difference, dense<[6, -7, 0, -2]> : tensor<4xi4>
  %product = stablehlo.multiply %a, %b : tensor<4xi4>
  check.expect_eq_const %product, dense<[7, -8, 0, -1]> : tensor<4xi4>
  %quotient = stablehlo.divide %a, %b : tensor<4xi4>
  check.expect_eq_const %quotient, dense<[7, -8, 1, 0]> : tensor<4xi4>
  %rest = stablehlo.remainder %a, %b : tensor<4xi4>
  check.expect_eq_const %rest, dense<[0, 0, 0, 3]> : tensor<4xi4>
  %abs = stablehlo.abs %a : tensor<4xi4>
  check.expect_eq_const %abs, dense<[7, -8, -8, 3]> : tensor<4xi4>
  %sign = stablehlo.sign %a : tensor<4xi4>
  check.expect_eq_const %sign, dense<[1, -1, -1, 1]> : tensor<4xi4>
  %u = stablehlo.constant dense<[3, 1, 0, 2]> : tensor<4xui2>
  %twice = stablehlo.add %u, %u : tensor<4xui2>
  check.expect_eq_const %twice, dense<[2, 2, 0, 0]> : tensor<4xui2>
  %not = stablehlo.not %u : tensor<4xui2>
  check.expect_eq_const %not, dense<[0, 2, 3, 1]> : tensor<4xui2>
  func.return
}

// -----

func.func @shifts_know_the_width() {
  %a = stablehlo.constant dense<[-8, -1, 5, 7]> : tensor<4xi4>
  %n = stablehlo.constant dense<[1, 3, 4, -1]> : tensor<4xi4>
  %left = stablehlo.shift_left %a, %n : tensor<4xi4>
  check.expect_eq_const %left, dense<[0, -8, 0, 0]> : tensor<4xi4>
  %logical = stablehlo.shift_right_logical %a, %n : tensor<4xi4>
  check.expect_eq_const %logical, dense<[4, 1, 0, 0]> : tensor<4xi4>
  %arithmetic = stablehlo.shift_right_arithmetic %a, %n : tensor<4xi4>
  check.expect_eq_const %arithmetic, dense<[-4, -1, 0, 0]> : tensor<4xi4>
  %u = stablehlo.constant dense<[8, 15, 5, 7]> : tensor<4xui4>
  %m = stablehlo.constant dense<[1, 2, 1, 9]> : tensor<4xui4>
  %u_logical = stablehlo.shift_right_logical %u, %m : tensor<4xui4>
  check.expect_eq_const %u_logical, dense<[4, 3, 2, 0]> : tensor<4xui4>
  %u_arithmetic = stablehlo.shift_right_arithmetic %u, %m : tensor<4xui4>
  check.expect_eq_const %u_arithmetic, dense<[12, 15, 2, 0]> : tensor<4xui4>
  %zeros = stablehlo.count_leading_zeros %a : tensor<4xi4>
  check.expect_eq_const %zeros, dense<[0, 0, 1, 1]> : tensor<4xi4>
  %ones = stablehlo.popcnt %a : tensor<4xi4>
  check.expect_eq_const %ones, dense<[1, 4, 2, 3]> : tensor<4xi4>
  %bits = stablehlo.bitcast_convert %a : (tensor<4xi4>) -> tensor<4xui4>
  check.expect_eq_const %bits, dense<[8, 15, 5, 7]> : tensor<4xui4>
  func.return
}

// -----

func.func @conversions_of_integers() {
  %a = stablehlo.constant dense<[300, -9, 7, 8]> : tensor<4xi32>
  %s = stablehlo.convert %a : (tensor<4xi32>) -> tensor<4xi4>
  check.expect_eq_const %s, dense<[-4, 7, 7, -8]> : tensor<4xi4>
  %u = stablehlo.convert %s : (tensor<4xi4>) -> tensor<4xui4>
  check.expect_eq_const %u, dense<[12, 7, 7, 8]> : tensor<4xui4>
  %back = stablehlo.convert %u : (tensor<4xui4>) -> tensor<4xi4>
  check.expect_eq_const %back, dense<[-4, 7, 7, -8]> : tensor<4xi4>
  %real = stablehlo.convert %s : (tensor<4xi4>) -> tensor<4xf32>
  check.expect_eq_const %real, dense<[-4.0, 7.0, 7.0, -8.0]> : tensor<4xf32>
  %x = stablehlo.constant dense<[1.9, -1.9, 0.5, 3.0]> : tensor<4xf32>
  %cut = stablehlo.convert %x : (tensor<4xf32>) -> tensor<4xi4>
  check.expect_eq_const %cut, dense<[1, -1, 0, 3]> : tensor<4xi4>
  %true = stablehlo.convert %cut : (tensor<4xi4>) -> tensor<4xi1>
  check.expect_eq_const %true, dense<[true, true, false, true]> : tensor<4xi1>
  %i = stablehlo.iota dim = 0 : tensor<5xi2>
  check.expect_eq_const %i, dense<[0, 1, -2, -1, 0]> : tensor<5xi2>
  func.return
}

// -----

func.func @sums_and_products_of_integers() {
  %a = stablehlo.constant dense<[[7, 7, 7], [-8, -8, 1]]> : tensor<2x3xi4>
  %zero = stablehlo.constant dense<0> : tensor<i4>
  %low = stablehlo.constant dense<-8> : tensor<i4>
  %sum = stablehlo.reduce(%a init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<2x3xi4>, tensor<i4>) -> tensor<2xi4>
  check.expect_eq_const %sum, dense<[5, 1]> : tensor<2xi4>
  %most = stablehlo.reduce(%a init: %low) applies stablehlo.maximum across dimensions = [1] : (tensor<2x3xi4>, tensor<i4>) -> tensor<2xi4>
  check.expect_eq_const %most, dense<[7, 1]> : tensor<2xi4>
  %b = stablehlo.constant dense<[[7], [7], [2]]> : tensor<3x1xi4>
  %wide = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<2x3xi4>, tensor<3x1xi4>) -> tensor<2x1xi32>
  check.expect_eq_const %wide, dense<[[112], [-110]]> : tensor<2x1xi32>
  %own = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<2x3xi4>, tensor<3x1xi4>) -> tensor<2x1xi4>
  check.expect_eq_const %own, dense<[[0], [2]]> : tensor<2x1xi4>
  %sorted = "stablehlo.sort"(%a) ({
  ^bb0(%x: tensor<i4>, %y: tensor<i4>):
    %less = stablehlo.compare LT, %x, %y, SIGNED : (tensor<i4>, tensor<i4>) -> tensor<i1>
    stablehlo.return %less : tensor<i1>
  }) {dimension = 1 : i64, is_stable = true} : (tensor<2x3xi4>) -> tensor<2x3xi4>
  check.expect_eq_const %sorted, dense<[[7, 7, 7], [-8, -8, 1]]> : tensor<2x3xi4>
  func.return
}

// -----

// A counter of four bits goes from 6 over 7 to -8, and then on to -6.
func.func @a_counter_that_wraps_around() {
  %start = stablehlo.constant dense<6> : tensor<i4>
  %none = stablehlo.constant dense<0> : tensor<i32>
  %end = stablehlo.constant dense<-6> : tensor<i4>
  %one = stablehlo.constant dense<1> : tensor<i4>
  %step = stablehlo.constant dense<1> : tensor<i32>
  %r:2 = stablehlo.while(%i = %start, %n = %none) : tensor<i4>, tensor<i32>
    cond {
      %go = stablehlo.compare NE, %i, %end : (tensor<i4>, tensor<i4>) -> tensor<i1>
      stablehlo.return %go : tensor<i1>
    } do {
      %next = stablehlo.add %i, %one : tensor<i4>
      %m = stablehlo.add %n, %step : tensor<i32>
      stablehlo.return %next, %m : tensor<i4>, tensor<i32>
    }
  check.expect_eq_const %r#0, dense<-6> : tensor<i4>
  check.expect_eq_const %r#1, dense<4> : tensor<i32>
  func.return
}

// -----

func.func @small_floats_round_to_even() {
  %x = stablehlo.constant dense<[-0.0, 0.3, -0.3, 1.0625, 1.1875, 2.9, 7.0, 464.0, 0x7F800000, 0xFFC00000]> : tensor<10xf32>
  %a = stablehlo.convert %x : (tensor<10xf32>) -> tensor<10xf4E2M1FN>
  %a32 = stablehlo.convert %a : (tensor<10xf4E2M1FN>) -> tensor<10xf32>
  check.expect_eq_const %a32, dense<[-0.0, 0.5, -0.5, 1.0, 1.0, 3.0, 6.0, 6.0, 6.0, -0.0]> : tensor<10xf32>
  %b = stablehlo.convert %x : (tensor<10xf32>) -> tensor<10xf6E2M3FN>
  %b32 = stablehlo.convert %b : (tensor<10xf6E2M3FN>) -> tensor<10xf32>
  check.expect_eq_const %b32, dense<[-0.0, 0.25, -0.25, 1.0, 1.25, 3.0, 7.0, 7.5, 7.5, -0.0]> : tensor<10xf32>
  %c = stablehlo.convert %x : (tensor<10xf32>) -> tensor<10xf6E3M2FN>
  %c32 = stablehlo.convert %c : (tensor<10xf6E3M2FN>) -> tensor<10xf32>
  check.expect_eq_const %c32, dense<[-0.0, 0.3125, -0.3125, 1.0, 1.25, 3.0, 7.0, 28.0, 28.0, -0.0]> : tensor<10xf32>
  %d = stablehlo.convert %x : (tensor<10xf32>) -> tensor<10xf8E3M4>
  %d32 = stablehlo.convert %d : (tensor<10xf8E3M4>) -> tensor<10xf32>
  check.expect_eq_const %d32, dense<[-0.0, 0.296875, -0.296875, 1.0625, 1.1875, 2.875, 7.0, 0x7F800000, 0x7F800000, 0x7FC00000]> : tensor<10xf32>
  %e = stablehlo.convert %x : (tensor<10xf32>) -> tensor<10xf8E4M3>
  %e32 = stablehlo.convert %e : (tensor<10xf8E4M3>) -> tensor<10xf32>
  check.expect_eq_const %e32, dense<[-0.0, 0.3125, -0.3125, 1.0, 1.25, 3.0, 7.0, 0x7F800000, 0x7F800000, 0x7FC00000]> : tensor<10xf32>
  func.return
}

// -----

func.func @formats_without_a_negative_zero() {
  %x = stablehlo.constant dense<[-0.0, 0.3, -0.3, 1.1875, -1.0e-09, 464.0, -1.0e+06, 0x7F800000]> : tensor<8xf32>
  %a = stablehlo.convert %x : (tensor<8xf32>) -> tensor<8xf8E4M3FNUZ>
  %a32 = stablehlo.convert %a : (tensor<8xf8E4M3FNUZ>) -> tensor<8xf32>
  check.expect_eq_const %a32, dense<[0.0, 0.3125, -0.3125, 1.25, 0.0, 0x7FC00000, 0x7FC00000, 0x7FC00000]> : tensor<8xf32>
  %b = stablehlo.convert %x : (tensor<8xf32>) -> tensor<8xf8E4M3B11FNUZ>
  %b32 = stablehlo.convert %b : (tensor<8xf8E4M3B11FNUZ>) -> tensor<8xf32>
  check.expect_eq_const %b32, dense<[0.0, 0.3125, -0.3125, 1.25, 0.0, 0x7FC00000, 0x7FC00000, 0x7FC00000]> : tensor<8xf32>
  %c = stablehlo.convert %x : (tensor<8xf32>) -> tensor<8xf8E5M2FNUZ>
  %c32 = stablehlo.convert %c : (tensor<8xf8E5M2FNUZ>) -> tensor<8xf32>
  check.expect_eq_const %c32, dense<[0.0, 0.3125, -0.3125, 1.25, 0.0, 448.0, 0x7FC00000, 0x7FC00000]> : tensor<8xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f8E4M3FNUZ>
  %minus = stablehlo.negate %zero : tensor<f8E4M3FNUZ>
  %wide = stablehlo.convert %minus : (tensor<f8E4M3FNUZ>) -> tensor<f32>
  %bits = stablehlo.bitcast_convert %wide : (tensor<f32>) -> tensor<i32>
  check.expect_eq_const %bits, dense<0> : tensor<i32>
  func.return
}

// -----

func.func @powers_of_two() {
  %x = stablehlo.constant dense<[1.0, 2.9, 3.0, 6.0, 0.75, 0.0, -1.0, 1.0e-45, 2.4e+38, 3.0e+38]> : tensor<10xf32>
  %a = stablehlo.convert %x : (tensor<10xf32>) -> tensor<10xf8E8M0FNU>
  %b = stablehlo.convert %a : (tensor<10xf8E8M0FNU>) -> tensor<10xf32>
  check.expect_eq_const %b, dense<[1.0, 2.0, 4.0, 8.0, 1.0, 0x7FC00000, 0x7FC00000, 0x00400000, 0x7F000000, 0x7FC00000]> : tensor<10xf32>
  %c = stablehlo.constant dense<[2.0, 4.0, 0.125, 1.0e+30]> : tensor<4xf8E8M0FNU>
  %product = stablehlo.multiply %c, %c : tensor<4xf8E8M0FNU>
  %wide = stablehlo.convert %product : (tensor<4xf8E8M0FNU>) -> tensor<4xf32>
  check.expect_eq_const %wide, dense<[4.0, 16.0, 0.015625, 0x7FC00000]> : tensor<4xf32>
  func.return
}

// -----

// Half-way between 1 and 1.125 but for a bit that f32 cannot hold.
func.func @wide_numbers_round_once() {
  %x = stablehlo.constant dense<[1.0625, 1.06250000000001, 1.06249999999999]> : tensor<3xf64>
  %a = stablehlo.convert %x : (tensor<3xf64>) -> tensor<3xf8E4M3>
  %b = stablehlo.convert %a : (tensor<3xf8E4M3>) -> tensor<3xf64>
  check.expect_eq_const %b, dense<[1.0, 1.125, 1.0]> : tensor<3xf64>
  func.return
}

// -----

func.func @arithmetic_of_small_floats() {
  %a = stablehlo.constant dense<[1.0, 1.125, 200.0, -3.5]> : tensor<4xf8E4M3>
  %b = stablehlo.constant dense<[0.0625, 1.125, 100.0, 0.75]> : tensor<4xf8E4M3>
  %sum = stablehlo.add %a, %b : tensor<4xf8E4M3>
  %s = stablehlo.convert %sum : (tensor<4xf8E4M3>) -> tensor<4xf32>
  check.expect_eq_const %s, dense<[1.0, 2.25, 0x7F800000, -2.75]> : tensor<4xf32>
  %product = stablehlo.multiply %a, %b : tensor<4xf8E4M3>
  %p = stablehlo.convert %product : (tensor<4xf8E4M3>) -> tensor<4xf32>
  check.expect_eq_const %p, dense<[0.0625, 1.25, 0x7F800000, -2.5]> : tensor<4xf32>
  %most = stablehlo.maximum %a, %b : tensor<4xf8E4M3>
  %m = stablehlo.convert %most : (tensor<4xf8E4M3>) -> tensor<4xf32>
  check.expect_eq_const %m, dense<[1.0, 1.125, 192.0, 0.75]> : tensor<4xf32>
  %dot = stablehlo.dot_general %a, %b, contracting_dims = [0] x [0] : (tensor<4xf8E4M3>, tensor<4xf8E4M3>) -> tensor<f32>
  check.expect_eq_const %dot, dense<18430.703125> : tensor<f32>
  %root = stablehlo.sqrt %b : tensor<4xf8E4M3>
  %r = stablehlo.convert %root : (tensor<4xf8E4M3>) -> tensor<4xf32>
  check.expect_eq_const %r, dense<[0.25, 1.0, 10.0, 0.875]> : tensor<4xf32>
  func.return
}

// -----

func.func @probes_hand_on_and_prints_do_nothing() {
  %a = stablehlo.constant dense<[1, 2]> : tensor<2xi32>
  %b = interpreter.probe %a, probe_id = "a" : tensor<2xi32>
  interpreter.print %b : tensor<2xi32>
  %c = stablehlo.add %b, %b : tensor<2xi32>
  %d = interpreter.probe %c, probe_id = "c" : tensor<2xi32>
  check.expect_eq_const %d, dense<[2, 4]> : tensor<2xi32>
  check.expect_serialized_eq %a, probe_id = "a" : tensor<2xi32>
  check.expect_serialized_eq %c, probe_id = "c" : tensor<2xi32>
  func.return
}

// -----

func.func @order_of_complex_numbers() {
  %a = stablehlo.constant dense<[(1.0, 2.0), (1.0, 0x7FC00000), (0.0, 1.0)]> : tensor<3xcomplex<f32>>
  %b = stablehlo.constant dense<[(1.0, 3.0), (2.0, 0.0), (-1.0, 5.0)]> : tensor<3xcomplex<f32>>
  %most = stablehlo.maximum %a, %b : tensor<3xcomplex<f32>>
  check.expect_eq_const %most, dense<[(1.0, 3.0), (1.0, 0x7FC00000), (0.0, 1.0)]> : tensor<3xcomplex<f32>>
  %least = stablehlo.minimum %a, %b : tensor<3xcomplex<f32>>
  check.expect_eq_const %least, dense<[(1.0, 2.0), (1.0, 0x7FC00000), (-1.0, 5.0)]> : tensor<3xcomplex<f32>>
  func.return
}
