//! girih compiles training graphs onto meshes of SRAM dies, proves the programs safe, runs them, and predicts their time and energy.
//!
//! The path through the library is [`Model`] → [`Prepared`] → [`Compiled`] → [`Session`]:
//!
//! ```
//! use girih::{CompileOptions, Inputs, Literal, Model, ModelOptions, RuntimeOptions, Target, compile};
//! use std::path::Path;
//!
//! // Logistic regression, in the text form. `Model::open("model.onnx", …)` reads what PyTorch exports.
//! let model = Model::from_text(
//!     r#"graph @regression(%x: f32[4,2] input "x", %w: f32[2,3] param "w") {
//!       %y = dot_general %x, %w {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
//!       return %y "logits"
//!     }"#,
//!     Path::new("regression.gir"),
//! )?;
//! let mut training = model.training(&"softmax_cross_entropy".parse()?, &"sgd:lr=0.5".parse()?, &[])?;
//! training.weights.insert("w".into(), Literal::from_f32(&[2, 3], &[0.0; 6])?);
//!
//! // `host` is this CPU; `dojo-tile` would be 25 dies of a Dojo training tile, with the same results.
//! let compiled = compile(training, &Target::builtin("host")?, &CompileOptions::default())?;
//! let mut session = compiled.session(RuntimeOptions::default())?;
//! let batch = Inputs::from([
//!     ("x".to_string(), Literal::from_f32(&[4, 2], &[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0])?),
//!     ("labels".to_string(), Literal::from_i64(&[4], &[0, 1, 2, 0])?),
//! ]);
//! let first = session.step(&batch)?.loss().expect("a training step has a loss");
//! let mut last = first;
//! for _ in 0..20 {
//!     last = session.step(&batch)?.loss().expect("a training step has a loss");
//! }
//! assert!(last < first);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`passes`] runs any single pass from text to text. Nothing here prints or holds global state; every error has a stable code.
#![forbid(unsafe_code)]

pub mod case;
pub mod codes;
pub mod compiled;
pub mod error;
pub mod files;
pub mod model;
pub mod passes;
pub mod targets;
pub mod tensors;
pub mod training;

pub use compiled::{Compiled, accept, compile, compile_observed};
pub use error::{Diagnostic, Error, Snippet};
pub use girih_compiler::pipeline::{CompileOptions, CompileReport, Level, Stream};
pub use girih_compiler::train::{LossSpec, OptimizerSpec};
pub use girih_ir::literal::Literal;
pub use girih_ir::step::{TrainStep, Weights};
pub use girih_ir::target::Target;
pub use girih_runtime::{
    CancelToken, Inputs, Outputs, Profile, Progress, RuntimeOptions, Session, SimOptions, Span, simulate, simulate_with,
};
pub use model::{Model, ModelOptions, Prepared, flops};
pub use targets::TargetSpec;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
