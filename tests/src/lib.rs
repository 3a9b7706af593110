//! Corpora, conformance suites and oracles of girih, for the tests and for anyone who points them at a folder of cases.

pub mod calibration;
pub mod conformance;
pub mod corpus;
pub mod damage;
pub mod onnx_cases;
pub mod onnx_mutants;
pub mod printed;
pub mod stablehlo_cases;
pub mod stablehlo_mutants;
pub mod stdout;

use std::path::{Path, PathBuf};

/// A folder of the shared corpora: below `GIRIH_SHARED`, or `shared` beside the repository. `None`, with a notice, when it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("GIRIH_SHARED") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
    };
    let dir = root.join(path);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: {} is not there", dir.display());
    None
}
