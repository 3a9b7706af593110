//! Both modes on hand-written programs.

use crate::error::RuntimeError;
use crate::session::{Inputs, RuntimeOptions, Session};
use crate::testing::{alone, deadlocked, halo, literal, partial_sums, weights};
use girih_ir::literal::Literal;
use girih_ir::program::Program;
use girih_kernels::Isa;
use std::collections::BTreeMap;

fn session(program: &Program, threads: usize, isa: Option<Isa>) -> Session {
    let mut s = Session::of(program.clone(), RuntimeOptions { threads, isa }).unwrap();
    s.init(&weights(program)).unwrap();
    s
}

/// Outputs of three steps and the state after them.
fn trajectory(program: &Program, threads: usize, isa: Option<Isa>) -> Vec<BTreeMap<String, Literal>> {
    let mut s = session(program, threads, isa);
    let inputs: Inputs = s.inputs().iter().map(|(n, ty)| (n.to_string(), literal(7, &ty.shape))).collect();
    let mut all: Vec<_> = (0..3).map(|_| s.run(&inputs).unwrap()).collect();
    all.push(s.all_state().unwrap());
    all
}

fn near(got: &Literal, want: &[f64]) {
    let got = got.to_f32().unwrap();
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 1e-4 * (1.0 + w.abs()), "element {i}: {g} against {w}");
    }
}

fn relu_mul_add(x: f64, y: f64) -> f64 {
    (x * y).max(0.0) + x
}

fn product(x: &Literal, w: &Literal) -> Vec<f64> {
    let (m, n, k) = (x.ty().shape[0], w.ty().shape[0], x.ty().shape[1]);
    let (x, w) = (x.to_f32().unwrap(), w.to_f32().unwrap());
    let at = |i: usize| (0..k).map(|c| f64::from(x[i / n * k + c]) * f64::from(w[i % n * k + c])).sum();
    (0..m * n).map(at).collect()
}

#[test]
fn one_die_computes_what_it_should() {
    for (m, n, k) in [(3, 5, 4), (200, 130, 70)] {
        let program = alone(m, n, k);
        let mut s = session(&program, 2, None);
        let x = literal(1, &[m, k]);
        let (w, bias) = (s.state("w").unwrap(), s.state("bias").unwrap().to_f32().unwrap());
        let out = s.run(&Inputs::from([("x".into(), x.clone())])).unwrap();
        let y: Vec<f64> = product(&x, &w).into_iter().enumerate().map(|(i, v)| relu_mul_add(v, f64::from(bias[i % n]))).collect();
        near(&out["y"], &y);
        near(&out["rows"], &y.chunks(n).map(|r| r.iter().sum()).collect::<Vec<f64>>());
        let after: Vec<f64> = w.to_f32().unwrap().iter().map(|v| relu_mul_add(f64::from(*v), f64::from(*v))).collect();
        near(&s.state("w").unwrap(), &after);
    }
}

#[test]
fn partial_sums_add_up() {
    let (m, n, k) = (16, 24, 40);
    let program = partial_sums(m, n, k);
    let mut s = session(&program, 2, None);
    let x = literal(1, &[m, 2 * k]);
    let w = s.state("w").unwrap();
    assert_eq!(w, weights(&program)["w"], "shards of a state come back together");
    let out = s.run(&Inputs::from([("x".into(), x.clone())])).unwrap();
    near(&out["y"], &product(&x, &w));
}

#[test]
fn halos_are_exchanged() {
    let program = halo();
    let mut s = session(&program, 3, None);
    let mut u: Vec<f64> = weights(&program)["u"].to_f32().unwrap().iter().map(|v| f64::from(*v)).collect();
    for _ in 0..5 {
        let out = s.run(&Inputs::new()).unwrap();
        let left = |i: usize| if i == 0 { 0.0 } else { u[i - 1] };
        u = (0..12).map(|i| relu_mul_add(left(i), u[i])).collect();
        near(&out["u out"], &u);
        near(&s.state("u").unwrap(), &u);
    }
}

#[test]
fn threads_and_instruction_sets_do_not_show() {
    for program in [alone(3, 5, 4), alone(200, 130, 70), alone(1, 300, 2000), partial_sums(16, 24, 40), halo()] {
        let want = trajectory(&program, 1, None);
        for threads in [1, 2, 3, 8] {
            for isa in Isa::available() {
                assert!(trajectory(&program, threads, Some(isa)) == want, "{threads} threads, {}", isa.name());
            }
        }
    }
}

#[test]
fn both_modes_give_the_same_bits() {
    let mut program = alone(200, 130, 70);
    let want = trajectory(&program, 2, None);
    // A channel that nobody uses puts the program into mesh mode.
    let die = program.dies[0].die;
    program.channels.push(girih_ir::program::Channel { source: die, dest: die, route: Vec::new(), depth: 1 });
    assert!(trajectory(&program, 2, None) == want);
}

#[test]
fn a_deadlock_is_named() {
    for threads in [1, 2] {
        let mut s = session(&deadlocked(), threads, None);
        let error = s.step(&Inputs::new()).unwrap_err();
        assert_eq!(error.code(), "E0708");
        insta::allow_duplicates! {
            insta::assert_snapshot!(error.to_string(), @r"
            E0708: deadlock: no die can go on
            these dies wait for each other in a cycle:
              die (0,0) instruction 001 wait waits for queue `in E`, whose next is instruction 000 recv on ch1, which has no message
              die (0,1) instruction 001 wait waits for queue `in W`, whose next is instruction 000 recv on ch0, which has no message
            ");
        }
    }
}

#[test]
fn regions_outside_the_sram_are_refused() {
    let mut program = alone(3, 5, 4);
    program.dies[0].sram_used = 64;
    let mut s = Session::of(program.clone(), RuntimeOptions::default()).unwrap();
    assert!(matches!(s.init(&weights(&program)), Err(RuntimeError::Program { .. })));
}
