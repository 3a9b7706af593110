//! The text form of the tensor graph: what `--emit graph` prints, what tests read, and what a person edits and feeds back.
//!
//! ```text
//! graph @mlp(%0: f32[64,32] input "x", %1: f32[32,128] param "w") {
//!   %2 = dot_general %0, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]} : f32[64,128]
//!   %3 = tanh %2                                                                                      : f32[64,128] @"layer1/Tanh"
//!   return %3 "out"
//! }
//! ; 2 ops, 532 KFLOP, 88.0 KB of values
//! ```
//! Attributes are printed through their generic form, so a new op needs no code here. `;` starts a comment. A value may have any name
//! after `%`; printing renumbers densely. The type after `:` may be left out when writing by hand.

mod error;
pub(crate) mod lex;
pub(crate) mod literal;
pub(crate) mod parse;
pub(crate) mod print;
pub(crate) mod program;

pub use error::{TextError, TextErrorKind};
pub use parse::parse_graph;

#[cfg(test)]
mod tests;
