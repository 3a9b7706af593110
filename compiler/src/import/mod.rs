//! Front ends: files that people have, turned into the tensor IR.
//!
//! Each front end is a folder; they share one error type, so that the command treats every damaged or unsupported file alike.

pub mod error;
pub mod onnx;
pub mod stablehlo;
