// Calls, branches, loops, tuples, and the shape in which the module tests call their parts.

func.func @a_loop_with_a_known_number_of_trips() {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %five = stablehlo.constant dense<5> : tensor<i32>
  %x = stablehlo.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %r:2 = stablehlo.while(%i = %zero, %v = %x) : tensor<i32>, tensor<2xf32>
  cond {
    %go = stablehlo.compare LT, %i, %five, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %next = stablehlo.add %i, %one : tensor<i32>
    %twice = stablehlo.add %v, %v : tensor<2xf32>
    stablehlo.return %next, %twice : tensor<i32>, tensor<2xf32>
  }
  check.expect_eq_const %r#0, dense<5> : tensor<i32>
  check.expect_eq_const %r#1, dense<[32.0, 64.0]> : tensor<2xf32>
  func.return
}

// -----

func.func @a_loop_that_ends_when_its_data_say_so() {
  %x = stablehlo.constant dense<27> : tensor<i64>
  %zero = stablehlo.constant dense<0> : tensor<i64>
  %one = stablehlo.constant dense<1> : tensor<i64>
  %two = stablehlo.constant dense<2> : tensor<i64>
  %three = stablehlo.constant dense<3> : tensor<i64>
  %r:2 = stablehlo.while(%n = %x, %steps = %zero) : tensor<i64>, tensor<i64>
  cond {
    %go = stablehlo.compare NE, %n, %one, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %rem = stablehlo.remainder %n, %two : tensor<i64>
    %odd = stablehlo.compare EQ, %rem, %one, SIGNED : (tensor<i64>, tensor<i64>) -> tensor<i1>
    %half = stablehlo.divide %n, %two : tensor<i64>
    %tripled = stablehlo.multiply %n, %three : tensor<i64>
    %up = stablehlo.add %tripled, %one : tensor<i64>
    %next = stablehlo.select %odd, %up, %half : tensor<i1>, tensor<i64>
    %count = stablehlo.add %steps, %one : tensor<i64>
    stablehlo.return %next, %count : tensor<i64>, tensor<i64>
  }
  check.expect_eq_const %r#0, dense<1> : tensor<i64>
  check.expect_eq_const %r#1, dense<111> : tensor<i64>
  func.return
}

// -----

func.func @a_loop_that_never_runs() {
  %stop = stablehlo.constant dense<false> : tensor<i1>
  %x = stablehlo.constant dense<[4, 5]> : tensor<2xi32>
  %r:2 = stablehlo.while(%go = %stop, %v = %x) : tensor<i1>, tensor<2xi32>
  cond {
    stablehlo.return %go : tensor<i1>
  } do {
    %w = stablehlo.add %v, %v : tensor<2xi32>
    stablehlo.return %go, %w : tensor<i1>, tensor<2xi32>
  }
  check.expect_eq_const %r#1, dense<[4, 5]> : tensor<2xi32>
  func.return
}

// -----

func.func @a_loop_in_a_loop() {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %r:2 = stablehlo.while(%i = %zero, %sum = %zero) : tensor<i32>, tensor<i32>
  cond {
    %go = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %inner:2 = stablehlo.while(%j = %zero, %s = %sum) : tensor<i32>, tensor<i32>
    cond {
      %go = stablehlo.compare LE, %j, %i, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %go : tensor<i1>
    } do {
      %t = stablehlo.add %s, %j : tensor<i32>
      %k = stablehlo.add %j, %one : tensor<i32>
      stablehlo.return %k, %t : tensor<i32>, tensor<i32>
    }
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %inner#1 : tensor<i32>, tensor<i32>
  }
  check.expect_eq_const %r#1, dense<4> : tensor<i32>
  func.return
}

// -----

func.func @branches() {
  %x = stablehlo.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %which = stablehlo.constant dense<1> : tensor<i32>
  %far = stablehlo.constant dense<-4> : tensor<i32>
  %p = stablehlo.constant dense<false> : tensor<i1>
  %a = "stablehlo.case"(%which) ({
    stablehlo.return %x : tensor<2xf32>
  }, {
    %0 = stablehlo.negate %x : tensor<2xf32>
    stablehlo.return %0 : tensor<2xf32>
  }, {
    %0 = stablehlo.add %x, %x : tensor<2xf32>
    stablehlo.return %0 : tensor<2xf32>
  }) : (tensor<i32>) -> tensor<2xf32>
  %b = "stablehlo.case"(%far) ({
    stablehlo.return %x : tensor<2xf32>
  }, {
    %0 = stablehlo.add %x, %x : tensor<2xf32>
    stablehlo.return %0 : tensor<2xf32>
  }) : (tensor<i32>) -> tensor<2xf32>
  %c = "stablehlo.if"(%p) ({
    stablehlo.return %a : tensor<2xf32>
  }, {
    stablehlo.return %x : tensor<2xf32>
  }) : (tensor<i1>) -> tensor<2xf32>
  check.expect_eq_const %a, dense<[-1.0, -2.0]> : tensor<2xf32>
  check.expect_eq_const %b, dense<[2.0, 4.0]> : tensor<2xf32>
  check.expect_eq_const %c, dense<[1.0, 2.0]> : tensor<2xf32>
  func.return
}

// -----

func.func @tuples_and_barriers() {
  %x = stablehlo.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %n = stablehlo.constant dense<7> : tensor<i32>
  %t = stablehlo.tuple %x, %n : tuple<tensor<2xf32>, tensor<i32>>
  %first = stablehlo.get_tuple_element %t[0] : (tuple<tensor<2xf32>, tensor<i32>>) -> tensor<2xf32>
  %second = stablehlo.get_tuple_element %t[1] : (tuple<tensor<2xf32>, tensor<i32>>) -> tensor<i32>
  %b:2 = stablehlo.optimization_barrier %first, %second : tensor<2xf32>, tensor<i32>
  check.expect_eq_const %b#0, dense<[1.0, 2.0]> : tensor<2xf32>
  check.expect_eq_const %b#1, dense<7> : tensor<i32>
  func.return
}

// -----

module @jit_main attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {
  func.func public @main() -> (tensor<3xf32> {jax.result_info = ""}) {
    %0:2 = call @inputs() : () -> (tensor<3xf32>, tensor<3xf32>)
    %1 = call @expected() : () -> tensor<3xf32>
    %2 = stablehlo.multiply %0#0, %0#1 : tensor<3xf32>
    stablehlo.custom_call @check.expect_close(%2, %1) {has_side_effect = true} : (tensor<3xf32>, tensor<3xf32>) -> ()
    return %2 : tensor<3xf32>
  }
  func.func private @inputs() -> (tensor<3xf32>, tensor<3xf32>) {
    %cst = stablehlo.constant dense<"0x0000803F0000004000004040"> : tensor<3xf32>
    %cst_0 = stablehlo.constant dense<2.000000e+00> : tensor<3xf32>
    return %cst, %cst_0 : tensor<3xf32>, tensor<3xf32>
  }
  func.func private @expected() -> tensor<3xf32> {
    %cst = stablehlo.constant dense<[2.000000e+00, 4.000000e+00, 6.000000e+00]> : tensor<3xf32>
    return %cst : tensor<3xf32>
  }
}
