//! The clock against published measurements: each row of each table is written as a program, simulated on the target's figures, and compared.
//!
//! No figure is chosen for a row. The error of every row is printed (`--nocapture` shows it); the bounds are those that the timing model promises. Tables of
//! the same names under `../shared/calibration` are run as well, so that further rows can be tried without a change here.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::collectives::{self, line};
use girih_ir::program::Program;
use girih_ir::target::Target;
use girih_runtime::simulate::simulate;
use girih_tests::calibration::{self, convolution, grid_gemm, mesh_gemm, pooling};
use std::collections::BTreeMap;
use std::path::Path;

type Row = BTreeMap<String, f64>;

/// The rows of a table here and beside the repository, each once.
fn table(name: &str) -> Vec<Row> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/calibration").join(name);
    let mut rows = calibration::rows(&std::fs::read_to_string(&here).unwrap());
    assert!(!rows.is_empty(), "{name} has no rows");
    if let Some(more) = girih_tests::shared("calibration").and_then(|d| std::fs::read_to_string(d.join(name)).ok()) {
        rows.extend(calibration::rows(&more).into_iter().filter(|r| !rows.contains(r)).collect::<Vec<_>>());
    }
    rows
}

fn cycles(program: &Program) -> f64 {
    simulate(program).unwrap().report.makespan * program.target.clock_hz()
}

/// Prints a row and returns its relative error.
fn compare(what: &str, row: &Row, measured: f64, simulated: f64) -> f64 {
    let error = simulated / measured - 1.0;
    let inputs: Vec<String> = row.iter().map(|(k, v)| format!("{k}={v}")).collect();
    println!("{what:<12} measured {measured:>12.0}  simulated {simulated:>12.0}  {:>+6.1} %   {}", 100.0 * error, inputs.join(" "));
    error.abs()
}

/// Prints and returns the median and the largest error.
fn summary(what: &str, mut errors: Vec<f64>) -> (f64, f64) {
    errors.sort_by(f64::total_cmp);
    let (median, most) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!("{what}: {} rows, median {:.2} %, largest {:.2} %", errors.len(), 100.0 * median, 100.0 * most);
    (median, most)
}

#[test]
fn wse2_reductions_are_within_three_percent() {
    let wafer = Target::builtin("wse2").unwrap();
    let mut errors = Vec::new();
    for row in table("wse2_reduce_512pe_4096w.csv") {
        let (group, measured) = (row["step"] as usize, row["cycles"]);
        let words = row.get("words").map_or(4096, |w| *w as usize);
        let program = line::reduce(&wafer, 512, words, group).unwrap();
        assert_eq!(collectives::dependency_cycle(program.channels.iter().map(|c| c.route.as_slice())), None);
        let simulated = cycles(&program);
        errors.push(compare("wse2 reduce", &row, measured, simulated));
        // The closed form that the selector uses sees the same.
        let closed = line::seconds(&wafer, 512, words, group).unwrap() * wafer.clock_hz();
        assert!((closed / simulated - 1.0).abs() < 0.03, "step {group}: closed form {closed}, simulated {simulated}");
    }
    assert!(summary("wse2 reduce", errors).1 <= 0.03);
}

#[test]
fn wse3_mesh_gemm_is_within_ten_percent() {
    let wafer = Target::builtin("wse3").unwrap();
    let mut errors = Vec::new();
    for row in table("wse3_meshgemm_cycles.csv") {
        let get = |name: &str| row[name] as usize;
        let program = mesh_gemm(&wafer, get("P"), (get("M"), get("K"), get("N")), get("L_compute_loops"), get("C_comm_loops"));
        let simulation = simulate(&program).unwrap();
        // The table has the mean over the cores.
        let times = simulation.finish_times();
        let mean = times.iter().sum::<f64>() / times.len() as f64 * wafer.clock_hz();
        errors.push(compare("wse3 gemm", &row, row["mean_cycle"], mean));
    }
    assert!(summary("wse3 gemm", errors).1 <= 0.10);
}

#[test]
fn ipu_convolutions_and_pooling_are_within_ten_percent_at_the_median() {
    let ipu = Target::builtin("ipu-mk2").unwrap();
    let (mut convolutions, mut poolings) = (Vec::new(), Vec::new());
    for row in table("ipu_mk2_conv_cycles.csv") {
        let get = |name: &str| row[name] as usize;
        let simulated = cycles(&convolution(&ipu, get("B"), get("Cin"), get("Cout"), get("HW"), get("KhKw")));
        convolutions.push(compare("ipu conv", &row, row["cycles"], simulated));
    }
    for row in table("ipu_mk2_pool_cycles.csv") {
        let simulated = cycles(&pooling(&ipu, row["C"] as usize, row["HW"] as usize, row["KhKw"] as usize));
        poolings.push(compare("ipu pool", &row, row["cycles"], simulated));
    }
    assert!(summary("ipu conv", convolutions).0 <= 0.10);
    assert!(summary("ipu pool", poolings).0 <= 0.10);
}

#[test]
fn n150_products_are_within_fifteen_percent_at_the_median() {
    let n150 = Target::builtin("wormhole-n150").unwrap();
    let mut errors = Vec::new();
    for row in table("tenstorrent_gemm_n150_hifi4.csv") {
        let shape = (row["m"] as usize, row["k"] as usize, row["n"] as usize);
        // From the report: up to 3072 the left matrix and the result stay in the cores.
        let large = shape.0.max(shape.1).max(shape.2) > 3072;
        let simulated = cycles(&grid_gemm(&n150, shape, large)) / n150.clock_hz() * 1e9;
        errors.push(compare("n150 gemm", &row, row["ns"], simulated));
    }
    assert!(summary("n150 gemm", errors).0 <= 0.15);
}
