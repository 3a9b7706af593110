//! Loops in both modes.

use crate::error::RuntimeError;
use crate::loop_programs::{blended, collatz, counted, endless, nested, swap};
use crate::session::{CancelToken, Inputs, RuntimeOptions, Session};
use crate::testing::weights;
use girih_ir::program::{Channel, Instr, Program};

fn session(program: &Program, threads: usize) -> Session {
    let mut s = Session::of(program.clone(), RuntimeOptions { threads, isa: None }).unwrap();
    s.init(&weights(program)).unwrap();
    s
}

/// The state after a step with so many threads.
fn after(program: &Program, threads: usize, name: &str) -> Vec<f32> {
    let mut s = session(program, threads);
    s.step(&Inputs::new()).unwrap();
    s.state(name).unwrap().to_f32().unwrap()
}

fn initial(program: &Program, name: &str) -> Vec<f64> {
    weights(program)[name].to_f32().unwrap().iter().map(|v| f64::from(*v)).collect()
}

/// The program with a channel that nobody uses, which makes it run in mesh mode.
fn meshed(program: &Program) -> Program {
    let mut program = program.clone();
    let die = program.dies[0].die;
    program.channels.push(Channel { source: die, dest: die, route: Vec::new(), depth: 1 });
    program
}

/// Equal bits on any number of threads and in either mode, and the right numbers.
fn check(program: &Program, name: &str, want: &[f64]) {
    let first = after(program, 1, name);
    let largest = want.iter().fold(1.0f64, |m, w| m.max(w.abs()));
    for (i, (g, w)) in first.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 1e-5 * largest, "element {i}: {g} against {w}");
    }
    for threads in [2, 3, 5] {
        assert!(after(program, threads, name) == first, "{threads} threads");
    }
    assert!(after(&meshed(program), 2, name) == first, "mesh mode");
}

/// Small vectors belong to one thread, large ones are shared.
const SIZES: [usize; 2] = [5, 100_000];

#[test]
fn counted_loops_run_their_trips() {
    for n in SIZES {
        for trips in [0, 1, 2, 7] {
            let program = counted(n, trips);
            let (mut acc, x) = (initial(&program, "acc"), initial(&program, "x"));
            (0..trips).for_each(|i| blended(&mut acc, i, &x));
            check(&program, "acc", &acc);
        }
    }
}

#[test]
fn loops_nest() {
    for n in SIZES {
        for (outer, inner) in [(3, 2), (2, 0), (0, 2), (4, 1)] {
            let program = nested(n, outer, inner);
            let (mut acc, x) = (initial(&program, "acc"), initial(&program, "x"));
            for i in 0..outer {
                (0..inner).for_each(|j| blended(&mut acc, j, &x));
                blended(&mut acc, i, &x);
            }
            check(&program, "acc", &acc);
        }
    }
}

#[test]
fn a_while_runs_until_its_data_say_so() {
    for n in SIZES {
        for from in [1, 2, 3, 7] {
            let program = collatz(n, from);
            let (mut acc, x, mut v, mut steps) = (initial(&program, "acc"), initial(&program, "x"), from, 0.0);
            while v != 1 {
                blended(&mut acc, v, &x);
                v = if v % 2 == 0 { v / 2 } else { 3 * v + 1 };
                steps += 1.0;
            }
            check(&program, "acc", &acc);
            check(&program, "steps", &[initial(&program, "steps")[0] + steps]);
        }
    }
}

#[test]
fn messages_cross_in_every_iteration() {
    for (n, trips, extra) in [(1, 0, 0), (4, 1, 0), (33, 50, 0), (33, 7, 3)] {
        let program = swap(n, trips, extra);
        let mut u = initial(&program, "u");
        for _ in 0..trips {
            let other: Vec<f64> = u[n..].iter().chain(&u[..n]).copied().collect();
            u.iter_mut().zip(other).for_each(|(own, other)| *own += (*own * other).max(0.0));
            // What grows without bound says nothing.
            if u.iter().any(|v| v.abs() > 1e30) {
                break;
            }
        }
        let first = after(&program, 1, "u");
        if u.iter().all(|v| v.abs() < 1e30) {
            for (g, w) in first.iter().zip(&u) {
                assert!((f64::from(*g) - w).abs() <= 1e-4 * (1.0 + w.abs()), "{g} against {w}");
            }
        }
        for threads in [2, 3] {
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(after(&program, threads, "u")), bits(first.clone()), "{threads} threads");
        }
    }
}

#[test]
fn steps_with_loops_repeat() {
    let program = counted(100_000, 3);
    let mut s = session(&program, 3);
    let (mut acc, x) = (initial(&program, "acc"), initial(&program, "x"));
    for _ in 0..4 {
        s.step(&Inputs::new()).unwrap();
        (0..3).for_each(|i| blended(&mut acc, i, &x));
    }
    let got = s.state("acc").unwrap().to_f32().unwrap();
    assert!(got.iter().zip(&acc).all(|(g, w)| (f64::from(*g) - w).abs() < 1e-4 * (1.0 + w.abs())));
}

#[test]
fn an_endless_loop_can_be_cancelled() {
    for program in [endless(1), meshed(&endless(1)), endless(2)] {
        for threads in [1, 2] {
            let mut s = session(&program, threads);
            let cancel = CancelToken::new();
            let error = std::thread::scope(|scope| {
                scope.spawn(|| cancel.cancel());
                s.step_until(&Inputs::new(), &cancel).map(|_| ()).unwrap_err()
            });
            assert_eq!(error.code(), "E0712");
            assert!(error.to_string().contains("die (0,0) instruction 003 end_loop"), "{error}");
        }
    }
}

#[test]
fn an_endless_loop_shared_by_a_team_can_be_cancelled() {
    let mut program = collatz(100_000, 3);
    // The predicate is always true: 1 is followed by 4.
    if let Some(Instr::Map { program: f, .. }) = program.streams[0].get_mut(2) {
        *f = girih_ir::program::FusedId(program.fused.len() as u32);
    }
    program.fused.push(std::sync::Arc::new(girih_ir::fused::FusedProgram {
        inputs: vec![girih_ir::types::DType::I64],
        body: vec![girih_ir::fused::Expr::Const(girih_ir::types::DType::Bool, 1)],
        outputs: vec![0],
    }));
    for threads in [1, 2, 3] {
        let mut s = session(&program, threads);
        let cancel = CancelToken::new();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| cancel.cancel());
            s.step_until(&Inputs::new(), &cancel).map(|_| ()).unwrap_err()
        });
        assert_eq!(error.code(), "E0712");
        assert_eq!(s.state("acc").unwrap_err().code(), "E0705", "the state is that of half a step");
        s.init(&weights(&program)).unwrap();
    }
}

#[test]
fn a_failure_elsewhere_ends_an_endless_loop() {
    // Die 1 writes outside its memory, while die 0 loops for ever.
    let mut program = endless(2);
    program.streams[1].insert(0, Instr::Fill { out: crate::testing::at(1 << 20, &[4]), bits: 0 });
    program.dies[1].claims.push(girih_ir::program::ClaimId(0));
    // Die 1 comes first, so that one thread finds the failure too.
    program.dies.swap(0, 1);
    for threads in [1, 2] {
        let error = session(&program, threads).step(&Inputs::new()).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "E0706");
    }
}

#[test]
fn a_deadlock_in_a_loop_is_named() {
    let mut program = swap(4, 3, 0);
    if let Instr::Loop { trips, .. } = &mut program.streams[1][0] {
        *trips = Some(2);
    }
    for threads in [1, 2] {
        let error = session(&program, threads).step(&Inputs::new()).map(|_| ()).unwrap_err();
        assert!(matches!(error, RuntimeError::Deadlock(_)));
        insta::allow_duplicates! {
            insta::assert_snapshot!(error.to_string(), @r"
            E0708: deadlock: no die can go on
            these dies wait for what never comes:
              die (0,0) instruction 003 wait waits for queue `in E`, whose next is instruction 002 recv on ch1, which has no message
            ");
        }
    }
}

#[test]
fn broken_loops_are_refused() {
    let refuse = |change: &dyn Fn(&mut Vec<Instr>)| {
        for mesh in [false, true] {
            let mut program = counted(4, 2);
            if mesh {
                program = meshed(&program);
            }
            change(&mut program.streams[0]);
            let error = Session::of(program, RuntimeOptions { threads: 2, isa: None }).map(|_| ()).unwrap_err();
            assert_eq!(error.code(), "E0706");
        }
    };
    refuse(&|s| {
        s.remove(0);
    });
    refuse(&|s| {
        s.remove(3);
    });
    refuse(&|s| s.insert(1, Instr::ExitUnless { predicate: crate::loop_programs::scalar(8, girih_ir::types::DType::Bool) }));
}
