//! Compiling: from a step to a verified program with its weights, in memory or as a `.girih` file.

use crate::error::Error;
use crate::files;
use crate::model::Prepared;
use girih_compiler::pipeline::{CompileOptions, CompileReport, Level, Pipeline};
use girih_ir::check::{Verified, check};
use girih_ir::program::Program;
use girih_ir::program::codec;
use girih_ir::step::Weights;
use girih_ir::target::Target;
use girih_runtime::{RuntimeOptions, Session};
use std::path::Path;

/// A program that the checker accepted, with the values that its state begins with.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The program.
    pub program: Verified<Program>,
    /// Initial values of its state.
    pub weights: Weights,
    /// What compilation did; empty for a program from a file.
    pub report: CompileReport,
    /// Facts about where it came from, such as `model`.
    pub info: Vec<(String, String)>,
}

/// Compiles a step for a target and checks the result.
pub fn compile(prepared: Prepared, target: &Target, options: &CompileOptions) -> Result<Compiled, Error> {
    compile_in(prepared, target, Pipeline::new(target, options))
}

/// [`compile`], handing every level to `observe` with the name of the pass that made it.
pub fn compile_observed(
    prepared: Prepared,
    target: &Target,
    options: &CompileOptions,
    observe: impl FnMut(&'static str, Level<'_>),
) -> Result<Compiled, Error> {
    compile_in(prepared, target, Pipeline::new(target, options).observe(observe))
}

fn compile_in(prepared: Prepared, target: &Target, pipeline: Pipeline<'_>) -> Result<Compiled, Error> {
    let Prepared { step, weights } = prepared;
    step.verify()?;
    let (program, report) = pipeline.clock(&simulated).compile(step).map_err(|e| Error::from(e).on(target))?;
    let info = rules(&report);
    finish(program, weights, report, info)
}

/// How many picoseconds a step takes, as the simulator tells.
fn simulated(program: &Program) -> Option<u64> {
    Some((girih_runtime::simulate(program).ok()?.report.makespan * 1e12) as u64)
}

/// Checks a program that girih just made, for example with [`passes::resume`](crate::passes::resume), and joins it with its weights.
pub fn accept(program: Program, weights: Weights) -> Result<Compiled, Error> {
    finish(program, weights, CompileReport::default(), Vec::new())
}

fn finish(program: Program, mut weights: Weights, report: CompileReport, info: Vec<(String, String)>) -> Result<Compiled, Error> {
    let program = check(program).map_err(|report| Error::Check { report: Box::new(report), ours: true })?;
    weights.retain(|name, _| program.step.state.iter().any(|s| s.name == *name));
    Ok(Compiled { program, weights, report, info })
}

/// The rules behind each output, when explanations were asked for.
fn rules(report: &CompileReport) -> Vec<(String, String)> {
    let outputs = report.optimize.iter().flat_map(|o| &o.outputs);
    outputs
        .map(|o| {
            let rules: Vec<String> = o.rules.iter().map(|(rule, n)| format!("{rule} x{n}")).collect();
            (format!("rules/{}", o.name), rules.join(", "))
        })
        .collect()
}

impl Compiled {
    /// Reads a `.girih` file and checks the program: one from a stranger is as safe to run as one just compiled.
    pub fn open(path: impl AsRef<Path>) -> Result<Compiled, Error> {
        let path = path.as_ref();
        Compiled::from_bytes(&files::read(path)?, path)
    }

    /// Reads a program from the bytes of a `.girih` file; `path` is what errors call it.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Compiled, Error> {
        let file = codec::read(bytes).map_err(|error| Error::Codec { path: path.to_path_buf(), error })?;
        let program = check(file.program).map_err(|report| Error::Check { report: Box::new(report), ours: false })?;
        Ok(Compiled { program, weights: file.weights, report: CompileReport::default(), info: file.info })
    }

    /// The bytes of a `.girih` file: equal for equal programs.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        codec::write_parts(&self.program, &self.weights, &self.info, codec::DEFAULT_CODEC)
            .map_err(|error| Error::Codec { path: "program".into(), error })
    }

    /// Writes a `.girih` file and returns its size.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<u64, Error> {
        let bytes = self.to_bytes()?;
        files::write(path.as_ref(), &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// A session of the program whose state has its initial values. State without one must be set before the first step.
    pub fn session(&self, options: RuntimeOptions) -> Result<Session, Error> {
        let mut session = Session::new(self.program.clone(), options)?;
        for (name, value) in &self.weights {
            session.set_state(name, value)?;
        }
        Ok(session)
    }

    /// The rules behind each output, if the program was compiled with explanations.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.info.iter().filter_map(|(k, v)| Some((k.strip_prefix("rules/")?, v.as_str())))
    }
}
