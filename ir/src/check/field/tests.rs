//! The field agrees with the ops on integers, accepts hand-written programs, and refuses what is damaged.

use super::*;
use crate::check::mutate::mutants;
use crate::check::tests::{self as programs, SAMPLES, sample};
use crate::ops::Op;
use crate::ops::samples::samples;

#[test]
fn hand_written_programs_pass() {
    for (name, _) in SAMPLES {
        let program = sample(name);
        for seed in 0..3 {
            let stats = check_alone(&program, FieldOptions { seed, ..FieldOptions::default() }).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(stats.instructions > 0 && stats.elements > 0, "{name}: {stats:?}");
        }
    }
}

/// Damage to what instructions compute or move, whatever they claim and wait for.
const WORK: [&str; 10] = [
    "drop an instruction",
    "drop a recv_add",
    "shift an offset",
    "shrink a region",
    "change a stride",
    "change a port",
    "change a combiner",
    "change a parameter",
    "swap two operands",
    "move a state shard",
];

#[test]
fn damaged_work_is_seen_in_the_results() {
    let (mut seen, mut all, mut sound) = (0, 0, 0);
    for (name, _) in SAMPLES {
        let program = sample(name);
        for m in mutants(&program, 23, 120).into_iter().filter(|m| m.program.validate().is_ok()) {
            let outcome = check_alone(&m.program, FieldOptions { limit: 1_000_000, ..FieldOptions::default() });
            match crate::check::check(m.program.clone()) {
                // What the other phases accept does the same.
                Ok(_) => {
                    assert!(outcome.is_ok(), "{name}: {}: {outcome:?}", m.what);
                    sound += 1;
                }
                // The regions of a `loop` say what it carries and move nothing.
                Err(report) if WORK.iter().any(|w| m.what.starts_with(w)) && !m.what.contains(" loop, region") => {
                    all += 1;
                    seen += usize::from(outcome.is_err());
                    let runs = report.findings.iter().all(|f| f.fault.code() > "E0606");
                    if outcome.is_ok() && runs {
                        assert!(programs::behaves(&m.program, &mut programs::Dice(5)), "{name}: a harmful mutant passed: {}", m.what);
                    }
                }
                Err(_) => {}
            }
        }
    }
    println!("{seen} of {all} mutants refused for their results alone; {sound} equivalent ones accepted");
    assert!(all >= 200 && seen * 100 >= all * 95, "{seen} of {all}");
}

/// Small integers, so that floats are exact and stand for themselves.
fn small(ty: &TensorType, dice: &mut Random) -> Tensor {
    let values: Vec<i64> = (0..ty.elements()).map(|_| (dice.bits() % if ty.dtype == DType::Bool { 2 } else { 9 }) as i64).collect();
    if ty.dtype.is_float() {
        return Tensor::new_float(ty.clone(), values.into_iter().map(|v| v as f64).collect());
    }
    Tensor::new_int(ty.clone(), values)
}

#[test]
fn ops_are_what_they_are_on_small_integers() {
    let (mut dice, mut compared) = (Random::new(3), std::collections::BTreeSet::new());
    for sample in (0..4).flat_map(samples) {
        let op = &sample.op;
        if op.is_elementwise() || op.is_composite() || matches!(op, Op::Fused(_)) {
            continue;
        }
        for as_ints in [false, true] {
            let change = |t: TensorType| if as_ints && t.dtype.is_float() { t.with_dtype(DType::I32) } else { t };
            let types: Vec<Type> = sample.types().into_iter().map(|t| Type::from(change(t))).collect();
            let Ok(out) = op.infer(&types.iter().collect::<Vec<_>>()) else { continue };
            let ins: Vec<Tensor> = types.iter().map(|t| small(&t.components()[0], &mut dice)).collect();
            let coded: Vec<Tensor> = ins.iter().map(|t| Tensor::coded(t.ty().clone(), scalar::coded(t))).collect();
            let want: Vec<Vec<i64>> = op.eval(&ins.iter().collect::<Vec<_>>(), &out).iter().map(scalar::coded).collect();
            let got = ops::eval(op, &coded.iter().collect::<Vec<_>>(), &out, false).unwrap_or_else(|e| panic!("{}: {e}", op.name()));
            let got: Vec<Vec<i64>> = got.iter().map(|t| ops::values(t).to_vec()).collect();
            assert_eq!(got, want, "{op:?}");
            compared.insert(op.name());
        }
    }
    assert!(compared.len() >= 20, "{compared:?}");
}
